//! The CPU twin against a loop that knows nothing of its parts and vectors: every bit of whole buffers, in tensors large enough
//! to be cut, with the feature `rayon` and without.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    Element, Frequencies, HeadLayout, Pair, Pairing, RopeConfig, RotateSpec, Rows, TableSpec,
    reference,
};

/// An element whose conversions do not take the crate's way.
trait Plain: Element + std::fmt::Debug {
    fn random(random: &mut fastrand::Rng) -> Self;
    fn bits(self) -> u32;
    fn to(self) -> f32;
    fn from(value: f32) -> Self;
}

impl Plain for f32 {
    fn random(random: &mut fastrand::Rng) -> Self {
        Self::from_bits(random.u32(..))
    }
    fn bits(self) -> u32 {
        self.to_bits()
    }
    fn to(self) -> f32 {
        self
    }
    fn from(value: f32) -> Self {
        value
    }
}

macro_rules! plain_half {
    ($type:ty) => {
        impl Plain for $type {
            fn random(random: &mut fastrand::Rng) -> Self {
                Self::from_bits(random.u16(..))
            }
            fn bits(self) -> u32 {
                self.to_bits().into()
            }
            fn to(self) -> f32 {
                self.to_f32_const()
            }
            fn from(value: f32) -> Self {
                Self::from_f32_const(value)
            }
        }
    };
}
plain_half!(f16);
plain_half!(bf16);

/// One rotation, as the test knows it.
#[derive(Debug)]
struct Case {
    batch: u32,
    tokens: u32,
    layout: HeadLayout,
    pairing: Pairing,
    /// Pairs and first channel of the window.
    pairs: u32,
    offset: u32,
    rows: Rows,
    /// Pairs from here on are left alone.
    rotated: u32,
    /// Whether an entry (1, 0) leaves its pair alone: frequencies have an idle pair before others.
    identity_keeps: bool,
}

impl Case {
    fn random(random: &mut fastrand::Rng, is_half: bool) -> Self {
        let pairs = [1, 2, 5, 8, 12, 32, 64, 90][random.usize(..8)];
        let divisors: Vec<_> = (1..=pairs).filter(|n| pairs % n == 0).collect();
        let pairing = [
            Pairing::HalfSplit,
            Pairing::Interleaved,
            Pairing::HalfSplitBlocks(divisors[random.usize(..divisors.len())]),
            Pairing::InterleavedToHalfSplit,
            Pairing::HalfSplitToInterleaved,
        ][random.usize(..5)];
        let offset = random.u32(0..4) * random.u32(0..7);
        let head_dim = 2 * pairs + offset + random.u32(0..4) * random.u32(0..7);
        let rows = [Rows::Shared, Rows::PerToken, Rows::PerSequence, Rows::One][random.usize(..4)];
        let identity_keeps = pairs > 1 && random.u8(..3) == 0;
        let rotated = if random.bool() {
            pairs
        } else {
            random.u32(1..=pairs)
        };
        // Most are large enough to be cut a few times.
        let heads_in_all = random.u32(1..400_000) / head_dim + 1;
        let (batch, heads) = (random.u32(1..5), random.u32(1..12));
        let tokens = heads_in_all / batch / heads + 1;
        Self {
            batch,
            tokens,
            layout: layout(random, [batch, tokens, heads], head_dim, is_half),
            pairing,
            pairs,
            offset,
            rows,
            rotated,
            identity_keeps,
        }
    }

    /// The rotation, channel by channel, and whether each was computed.
    fn rotate<T: Plain>(&self, rows: &[[f32; 2]], values: &[T]) -> Vec<(T, bool)> {
        let mut out: Vec<_> = values.iter().map(|value| (*value, false)).collect();
        let (layout, n) = (&self.layout, self.pairs as usize);
        for b in 0..self.batch {
            for t in 0..self.tokens {
                let row = match self.rows {
                    Rows::Shared => t,
                    Rows::PerToken => b * self.tokens + t,
                    Rows::PerSequence => b,
                    _ => 0,
                } as usize;
                for h in 0..layout.heads {
                    let first = layout.offset
                        + u64::from(b) * layout.batch_stride
                        + u64::from(t) * layout.token_stride
                        + u64::from(h) * layout.head_stride
                        + u64::from(self.offset);
                    let at = |channel: usize| first as usize + channel;
                    for k in 0..n {
                        let apart = [k, k + n];
                        let neighbours = [2 * k, 2 * k + 1];
                        let (from, to) = match self.pairing {
                            Pairing::HalfSplit => (apart, apart),
                            Pairing::Interleaved => (neighbours, neighbours),
                            Pairing::InterleavedToHalfSplit => (neighbours, apart),
                            Pairing::HalfSplitToInterleaved => (apart, neighbours),
                            Pairing::HalfSplitBlocks(blocks) => {
                                let m = n / blocks as usize;
                                let x = k / m * 2 * m + k % m;
                                ([x, x + m], [x, x + m])
                            }
                            _ => unreachable!(),
                        };
                        let [x, y] = from.map(|channel| values[at(channel)]);
                        let [c, s] = rows[row * n + k];
                        let is_identity = c.to_bits() == 0x3f80_0000 && s.to_bits() == 0;
                        let is_left =
                            k >= self.rotated as usize || (self.identity_keeps && is_identity);
                        let [i, j] = to.map(at);
                        (out[i], out[j]) = if is_left {
                            ((x, false), (y, false))
                        } else {
                            let (x, y) = (x.to(), y.to());
                            let turned = [x * c - y * s, x * s + y * c].map(T::from);
                            ((turned[0], true), (turned[1], true))
                        };
                    }
                }
            }
        }
        out
    }

    fn check<T: Plain>(&self, random: &mut fastrand::Rng) {
        let config = RopeConfig::new(self.layout.head_dim)
            .with_pairing(self.pairing)
            .with_rotary_dim(2 * self.pairs)
            .with_rotary_offset(self.offset);
        let frequency = |inv_freq| Pair { inv_freq, axis: 0 };
        let mut frequencies = vec![frequency(0.5); self.pairs as usize];
        if self.identity_keeps {
            frequencies[0] = frequency(0.0);
        }
        let frequencies = Frequencies::from_pairs(frequencies, 1.0).unwrap();
        let spec = RotateSpec::new(&config, self.batch, self.tokens, self.layout, T::TYPE)
            .with_rows(self.rows)
            .with_frequencies(&frequencies)
            .with_rotated_pairs(self.rotated);
        let needed = spec.rows_needed(self.tokens) as usize * self.pairs as usize;
        let rows: Vec<_> = (0..needed)
            .map(|_| match random.u8(..10) {
                0 | 1 => [1.0, 0.0],
                2 => [1.0, -0.0],
                3 => [f32::from_bits(random.u32(..)), random.f32()],
                _ => [random.f32() - 0.5, random.f32() - 0.5],
            })
            .collect();
        // Room behind the view, which has to stay as it is, like all between its heads.
        let end = self.layout.end(self.batch, self.tokens).unwrap() as usize;
        let values: Vec<T> = (0..end + random.usize(..50))
            .map(|_| match random.u8(..4) {
                0 => T::random(random),
                _ => T::from(random.f32() - 0.5),
            })
            .collect();
        let mut made = values.clone();
        reference::rotate(&spec, &rows, &mut made, None).unwrap();
        let wanted = self.rotate(&rows, &values);
        for (at, (made, (wanted, is_computed))) in made.iter().zip(wanted).enumerate() {
            // NaNs that are computed may have any payload; what is not computed keeps its own.
            let is_same = made.bits() == wanted.bits()
                || (is_computed && made.to().is_nan() && wanted.to().is_nan());
            assert!(is_same, "{self:?} {at}: {made:?}, not {wanted:?}");
        }
    }
}

/// Axes in any order, packed or with room between, from an offset on.
fn layout(
    random: &mut fastrand::Rng,
    counts: [u32; 3],
    head_dim: u32,
    is_half: bool,
) -> HeadLayout {
    let even = |wide: u64| {
        if is_half {
            wide.next_multiple_of(2)
        } else {
            wide
        }
    };
    let mut order = [0, 1, 2];
    match random.u8(..4) {
        0 => order = [1, 2, 0],
        1 => order = [2, 1, 0],
        _ => random.shuffle(&mut order),
    }
    let is_packed = random.bool();
    let mut strides = [0; 3];
    let mut next = even(head_dim.into());
    for axis in order {
        strides[axis] = next;
        next *= u64::from(counts[axis]);
        if !is_packed {
            next = even(next + random.u64(0..40));
        }
    }
    HeadLayout::bshd(1, counts[2], head_dim)
        .with_strides(strides[0], strides[1], strides[2])
        .with_offset(even(random.u64(0..100)))
}

#[test]
fn the_twin_is_a_plain_loop_bit_for_bit() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut cut = 0;
    for _ in 0..150 {
        let case = Case::random(&mut random, false);
        cut += u32::from(case.layout.end(case.batch, case.tokens).unwrap() > 1 << 17);
        case.check::<f32>(&mut random);
        let case = Case::random(&mut random, true);
        case.check::<f16>(&mut random);
        case.check::<bf16>(&mut random);
    }
    eprintln!("{cut} of 150 above 2^17 elements");
    assert!(cut > 50);
}

/// Batch and heads reach past each other, so that no cut across one of them has all of one half in front of the other.
#[test]
fn boxes_that_cannot_be_cut_are_rotated_whole() {
    let mut random = fastrand::Rng::with_seed(12);
    // Large enough to be cut if they could be.
    let unit = 100 * 64;
    for (batch_stride, head_stride) in [(5 * unit, 3 * unit), (3 * unit, 5 * unit)] {
        let case = Case {
            batch: 3,
            tokens: 100,
            layout: HeadLayout::bshd(100, 3, 64).with_strides(batch_stride, 64, head_stride),
            pairing: Pairing::HalfSplit,
            pairs: 32,
            offset: 0,
            rows: Rows::PerToken,
            rotated: 32,
            identity_keeps: false,
        };
        case.check::<f32>(&mut random);
        case.check::<bf16>(&mut random);
    }
}

#[test]
fn query_and_key_are_rotated_as_each_by_itself() {
    let (tokens, config) = (300, RopeConfig::new(64));
    let [q, k] = [8, 2].map(|heads| HeadLayout::bhsd(tokens, heads, 64));
    let frequencies = Frequencies::new(&config).unwrap();
    let positions: Vec<_> = (0..300).collect();
    let rows = reference::table(&TableSpec::new(&frequencies), (&positions).into()).unwrap();
    let alone = |layout| RotateSpec::new(&config, 1, tokens, layout, f32::TYPE);
    let mut random = fastrand::Rng::with_seed(13);
    let [mut query, mut key] =
        [8, 2].map(|heads| -> Vec<_> { (0..300 * heads * 64).map(|_| random.f32()).collect() });
    let (mut query_alone, mut key_alone) = (query.clone(), key.clone());
    let both = alone(q).with_key(k, f32::TYPE);
    reference::rotate(&both, &rows, &mut query, Some(&mut key)).unwrap();
    reference::rotate(&alone(q), &rows, &mut query_alone, None).unwrap();
    reference::rotate(&alone(k), &rows, &mut key_alone, None).unwrap();
    assert_eq!((query, key), (query_alone, key_alone));
}

#[test]
fn a_table_is_its_rows() {
    for pairs in [1, 6, 64, 700] {
        let frequencies = Frequencies::new(&RopeConfig::new(2 * pairs)).unwrap();
        let spec = TableSpec::new(&frequencies);
        let ids: Vec<_> = (0..1500 / pairs.cast_signed() + 20)
            .map(|k| k * 7919 - 50)
            .collect();
        let all = reference::table(&spec, (&ids).into()).unwrap();
        let rows = ids
            .iter()
            .flat_map(|&id| reference::table(&spec, (&[id]).into()).unwrap());
        assert!(all.into_iter().eq(rows));
        assert_eq!(reference::table(&spec, (&[]).into()).unwrap().len(), 0);
    }
}
