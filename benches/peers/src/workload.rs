//! What is rotated, and how far a result is from the truth.

use wgpu_rope::Pairing;

pub(crate) const HEADS: u32 = 32;
pub(crate) const KV_HEADS: u32 = 8;
pub(crate) const HEAD_DIM: u32 = 128;
pub(crate) const PAIRS: u32 = HEAD_DIM / 2;
/// Llama 3's, and exact in f32.
pub(crate) const THETA: f32 = 500_000.0;

/// Q and K of a Llama-3-8B layer, `[batch, heads, tokens, 128]`: the layout that candle and burn take.
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) batch: u32,
    pub(crate) tokens: u32,
    /// Q and K.
    pub(crate) tensors: [Vec<f32>; 2],
}

impl Workload {
    pub(crate) fn new(name: String, batch: u32, tokens: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let tensors = [HEADS, KV_HEADS].map(|heads| {
            (0..batch * heads * tokens * HEAD_DIM)
                .map(|_| random.f32() * 2.0 - 1.0)
                .collect()
        });
        Self {
            name,
            batch,
            tokens,
            tensors,
        }
    }

    /// Batch entries and tokens: each has a position.
    pub(crate) fn rows(&self) -> u32 {
        self.batch * self.tokens
    }

    /// Shapes of Q and K.
    pub(crate) fn shapes(&self) -> [[usize; 4]; 2] {
        [HEADS, KV_HEADS]
            .map(|heads| [self.batch, heads, self.tokens, HEAD_DIM].map(|n| n as usize))
    }

    /// The largest difference from the rotation in f64. Independent of the crate on purpose: its own oracle shares its ideas.
    pub(crate) fn max_error(
        &self,
        pairing: Pairing,
        positions: &[i32],
        made: &[Vec<f32>; 2],
    ) -> f64 {
        let inv_freq: Vec<f64> = (0..PAIRS)
            .map(|pair| f64::from(THETA).powf(-f64::from(2 * pair) / f64::from(HEAD_DIM)))
            .collect();
        let (tokens, pairs, head_dim) = (self.tokens as usize, PAIRS as usize, HEAD_DIM as usize);
        let mut worst = 0.0_f64;
        for (row, &position) in positions.iter().enumerate() {
            let (entry, token) = (row / tokens, row % tokens);
            let turns: Vec<(f64, f64)> = inv_freq
                .iter()
                .map(|w| (f64::from(position) * w).sin_cos())
                .collect();
            for ((before, after), [_, heads, ..]) in
                self.tensors.iter().zip(made).zip(self.shapes())
            {
                for head in 0..heads {
                    let at = ((entry * heads + head) * tokens + token) * head_dim;
                    for (pair, (sin, cos)) in turns.iter().enumerate() {
                        let (i, j) = match pairing {
                            Pairing::Interleaved => (at + 2 * pair, at + 2 * pair + 1),
                            _ => (at + pair, at + pair + pairs),
                        };
                        let (x, y) = (f64::from(before[i]), f64::from(before[j]));
                        for (made, truth) in
                            [(after[i], x * cos - y * sin), (after[j], x * sin + y * cos)]
                        {
                            let error = (f64::from(made) - truth).abs();
                            // f64::max would lose a NaN.
                            worst = if error.is_nan() {
                                f64::INFINITY
                            } else {
                                worst.max(error)
                            };
                        }
                    }
                }
            }
        }
        worst
    }
}
