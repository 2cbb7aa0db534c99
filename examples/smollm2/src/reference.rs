//! The same model by candle's f32 operations on the CPU, from the same dequantised weights: what tests compare with. Its angles are f64.

#![expect(clippy::cast_possible_truncation, reason = "f64 to f32")]

use std::collections::HashMap;

use candle_core::{D, Device, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb::rope_i;

use crate::file::{ModelFile, Result, Shape};

/// A model, its cache, and the tokens that it has read.
pub(crate) struct Reference {
    shape: Shape,
    weights: HashMap<String, Tensor>,
    /// Of each pair, from the file's own base.
    frequencies: Vec<f64>,
    /// Keys and values of each layer: `[1, key heads, tokens, head_dim]`.
    cache: Vec<Option<[Tensor; 2]>>,
    read: usize,
}

impl Reference {
    pub(crate) fn load(file: &ModelFile) -> Result<Self> {
        let shape = file.shape()?;
        let base = file.content.metadata["llama.rope.freq_base"].to_f32()?;
        let dim = f64::from(shape.head_dim);
        let pairs = 0..shape.head_dim / 2;
        let names: Vec<_> = file
            .content
            .tensor_infos
            .iter()
            .map(|(name, info)| (name.clone(), info.shape.dims().to_vec()))
            .collect();
        let mut weights = HashMap::new();
        for (name, dims) in names {
            let dims = dims.into_iter().map(u32::try_from);
            let dims: Vec<u32> = dims.collect::<std::result::Result<_, _>>()?;
            weights.insert(name.clone(), file.tensor(&name, &dims)?);
        }
        Ok(Self {
            frequencies: pairs
                .map(|pair| f64::from(base).powf(-2.0 * f64::from(pair) / dim))
                .collect(),
            cache: (0..shape.layers).map(|_| None).collect(),
            shape,
            weights,
            read: 0,
        })
    }

    /// Forgets what it has read.
    pub(crate) fn reset(&mut self) {
        self.cache.fill(None);
        self.read = 0;
    }

    /// Reads on, and returns the logits of what comes next.
    pub(crate) fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let (shape, tokens) = (self.shape, ids.len());
        let [heads, key_heads, head_dim] =
            [shape.heads, shape.key_heads, shape.head_dim].map(|size| size as usize);
        let group = heads / key_heads;
        let total = self.read + tokens;
        let [cos, sin] = [f64::cos, f64::sin].map(|function: fn(f64) -> f64| {
            let rows = (self.read..total).flat_map(|position| {
                let angle = move |frequency: &f64| function(position as f64 * frequency) as f32;
                self.frequencies.iter().map(angle)
            });
            Tensor::from_iter(rows, &Device::Cpu)?.reshape((tokens, head_dim / 2))
        });
        let (cos, sin) = (cos?, sin?);
        // Token t sees those up to itself.
        let mask = (self.read..total).flat_map(|own| {
            (0..total).map(move |j| if j <= own { 0.0 } else { f32::NEG_INFINITY })
        });
        let mask = Tensor::from_iter(mask, &Device::Cpu)?.reshape((1, 1, tokens, total))?;

        let weight = |name: &str| &self.weights[name];
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let mut x = weight("token_embd.weight").index_select(&ids, 0)?;
        for (layer, cache) in self.cache.iter_mut().enumerate() {
            let weight = |part: &str| &self.weights[&format!("blk.{layer}.{part}.weight")];
            let linear = |x: &Tensor, part: &str| x.matmul(&weight(part).t()?);
            let normed = rms_norm(&x, weight("attn_norm"), shape.epsilon)?;
            let split = |part: &str, heads: usize| {
                let rows = linear(&normed, part)?.reshape((1, tokens, heads, head_dim))?;
                rows.transpose(1, 2)?.contiguous()
            };
            // llama.cpp's converter has put the rows of Q and K so that pairs are neighbours.
            let q = rope_i(&split("attn_q", heads)?, &cos, &sin)?;
            let mut k = rope_i(&split("attn_k", key_heads)?, &cos, &sin)?;
            let mut v = split("attn_v", key_heads)?;
            if let Some([keys, values]) = cache {
                k = Tensor::cat(&[&*keys, &k], 2)?;
                v = Tensor::cat(&[&*values, &v], 2)?;
            }
            *cache = Some([k.clone(), v.clone()]);
            let spread = |x: Tensor| {
                let shared = x.unsqueeze(2)?;
                let all = shared.expand((1, key_heads, group, total, head_dim))?;
                all.contiguous()?.reshape((1, heads, total, head_dim))
            };
            let scores =
                (q.matmul(&spread(k)?.transpose(2, 3)?)? / f64::from(shape.head_dim).sqrt())?;
            let shares = softmax_last_dim(&scores.broadcast_add(&mask)?)?;
            let attended = shares.matmul(&spread(v)?)?.transpose(1, 2)?;
            let attended = attended.reshape((tokens, heads * head_dim))?;
            x = (x + linear(&attended, "attn_output")?)?;
            let normed = rms_norm(&x, weight("ffn_norm"), shape.epsilon)?;
            let gated = (silu(&linear(&normed, "ffn_gate")?)? * linear(&normed, "ffn_up")?)?;
            x = (x + linear(&gated, "ffn_down")?)?;
        }
        let last = x.narrow(0, tokens - 1, 1)?;
        let last = rms_norm(&last, weight("output_norm.weight"), shape.epsilon)?;
        let head = self
            .weights
            .get("output.weight")
            .unwrap_or(weight("token_embd.weight"));
        self.read = total;
        debug_assert_eq!(last.dim(D::Minus1)?, shape.channels as usize);
        Ok(last.matmul(&head.t()?)?.flatten_all()?.to_vec1()?)
    }
}
