//! What a model says about its RoPE: dimensions, theta, pairing, window, scaling.

#[cfg(feature = "huggingface")]
#[cfg_attr(docsrs, doc(cfg(feature = "huggingface")))]
pub mod huggingface;

use crate::error::{Result, RopeError};

/// The largest head this crate plans for.
pub(crate) const MAX_HEAD_DIM: u32 = 65_536;

/// Which two channels of the rotary window form pair k. With r channels in the window, k runs from 0 to r/2 - 1.
///
/// | here | half-split | interleaved |
/// |---|---|---|
/// | channels of pair k | (k, k + r/2) | (2k, 2k + 1) |
/// | transformers | `rotate_half` | `rotate_every_two`, complex |
/// | ggml | NEOX | NORM |
/// | ONNX | `interleaved = 0` | `interleaved = 1` |
/// | MLX | `traditional = False` | `traditional = True` |
/// | vLLM | `is_neox_style = True` | `is_neox_style = False` |
///
/// The same weights permuted give the same model in either pairing; a checkpoint fixes which one its tensors are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Pairing {
    /// Pair k is channels (k, k + r/2): LLaMA and most others in the Hugging Face layout, GPT-NeoX.
    #[default]
    HalfSplit,
    /// Pair k is channels (2k, 2k + 1): GPT-J, RoFormer, Cohere, LLaMA in its original layout and in GGUF.
    Interleaved,
}

/// How the inverse frequencies depart from `theta^(-2k/r)`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Scaling {
    /// `theta^(-2k/r)` as it is (Su et al., RoFormer, arXiv:2104.09864, section 3.2.2).
    #[default]
    None,
    /// All frequencies divided by `factor`: position interpolation (Chen et al., arXiv:2306.15595).
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a linear blend between
    /// (rope type `llama3` of Hugging Face transformers, `modeling_rope_utils.py`).
    Llama3 {
        /// The division of the long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` positions are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` positions are kept. Where it equals
        /// `low_freq_factor` (Llama 4 Scout) nothing is blended.
        high_freq_factor: f64,
        /// The context length of the first training, in positions.
        original_max_position_embeddings: f64,
    },
}

/// The RoPE of one kind of layer.
///
/// Made with [`RopeConfig::new`] and changed with the `with_` methods; nothing is checked until
/// [`RopeConfig::validate`], which [`Frequencies::new`](crate::Frequencies::new) and
/// [`RopePlan::new`](crate::RopePlan::new) call.
///
/// ```
/// use wgpu_rope::{Frequencies, Pairing, RopeConfig, Scaling};
/// # fn main() -> wgpu_rope::Result<()> {
/// let llama31 = RopeConfig::new(128)
///     .with_theta(500_000.0)
///     .with_pairing(Pairing::HalfSplit)
///     .with_scaling(Scaling::Llama3 {
///         factor: 8.0,
///         low_freq_factor: 1.0,
///         high_freq_factor: 4.0,
///         original_max_position_embeddings: 8192.0,
///     });
/// assert_eq!(Frequencies::new(&llama31)?.len(), 64);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    head_dim: u32,
    rotary_dim: u32,
    rotary_offset: u32,
    theta: f64,
    pairing: Pairing,
    scaling: Scaling,
    attention_factor: f64,
}

impl RopeConfig {
    /// The whole of a head of `head_dim` channels rotates: theta 10,000, half-split, unscaled, attention factor 1.
    #[must_use]
    pub fn new(head_dim: u32) -> Self {
        Self {
            head_dim,
            rotary_dim: head_dim,
            rotary_offset: 0,
            theta: 10_000.0,
            pairing: Pairing::HalfSplit,
            scaling: Scaling::None,
            attention_factor: 1.0,
        }
    }

    /// The base of the frequencies (`rope_theta`, `rotary_emb_base`, `freq_base`).
    #[must_use]
    pub fn with_theta(self, theta: f64) -> Self {
        Self { theta, ..self }
    }

    /// Which channels form a pair.
    #[must_use]
    pub fn with_pairing(self, pairing: Pairing) -> Self {
        Self { pairing, ..self }
    }

    /// How many channels rotate: the length r of the rotary window, even. The others are left alone, bit for bit.
    #[must_use]
    pub fn with_rotary_dim(self, rotary_dim: u32) -> Self {
        Self { rotary_dim, ..self }
    }

    /// The first channel of the rotary window inside the head (0 for nearly all models; 448 of 512 for DeepSeek V4).
    #[must_use]
    pub fn with_rotary_offset(self, rotary_offset: u32) -> Self {
        Self {
            rotary_offset,
            ..self
        }
    }

    /// How the frequencies are scaled.
    #[must_use]
    pub fn with_scaling(self, scaling: Scaling) -> Self {
        Self { scaling, ..self }
    }

    /// The factor that multiplies both cos and sin (so scores gain its square on the rotated channels).
    #[must_use]
    pub fn with_attention_factor(self, attention_factor: f64) -> Self {
        Self {
            attention_factor,
            ..self
        }
    }

    /// Channels of a head.
    #[must_use]
    pub fn head_dim(&self) -> u32 {
        self.head_dim
    }

    /// Channels that rotate.
    #[must_use]
    pub fn rotary_dim(&self) -> u32 {
        self.rotary_dim
    }

    /// First channel of the rotary window.
    #[must_use]
    pub fn rotary_offset(&self) -> u32 {
        self.rotary_offset
    }

    /// Base of the frequencies.
    #[must_use]
    pub fn theta(&self) -> f64 {
        self.theta
    }

    /// Which channels form a pair.
    #[must_use]
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// How the frequencies are scaled.
    #[must_use]
    pub fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// The factor of cos and sin.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        self.attention_factor
    }

    /// Checks every value by itself.
    ///
    /// # Errors
    /// [`RopeError::Config`] naming the value: an odd or empty rotary dimension, a window outside the head, a theta or
    /// scaling parameter that is not a positive finite number, an attention factor that is 0 or not finite.
    pub fn validate(&self) -> Result<()> {
        if self.head_dim == 0 || self.head_dim > MAX_HEAD_DIM {
            return Err(RopeError::config(
                "head_dim",
                format!("must be from 1 to {MAX_HEAD_DIM}"),
                self.head_dim,
            ));
        }
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) {
            return Err(RopeError::config(
                "rotary_dim",
                "must be even and at least 2",
                self.rotary_dim,
            ));
        }
        let end = u64::from(self.rotary_offset) + u64::from(self.rotary_dim);
        if end > u64::from(self.head_dim) {
            return Err(RopeError::config(
                "rotary window",
                format!("must lie within head_dim {}", self.head_dim),
                format!("{}..{end}", self.rotary_offset),
            ));
        }
        positive("theta", self.theta)?;
        if !self.attention_factor.is_finite() || self.attention_factor == 0.0 {
            return Err(RopeError::config(
                "attention_factor",
                "must be a finite number other than 0",
                self.attention_factor,
            ));
        }
        match self.scaling {
            Scaling::None => Ok(()),
            Scaling::Linear { factor } => positive("scaling factor", factor),
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive("scaling factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive("high_freq_factor", high_freq_factor)?;
                positive(
                    "original_max_position_embeddings",
                    original_max_position_embeddings,
                )?;
                if high_freq_factor < low_freq_factor {
                    return Err(RopeError::config(
                        "high_freq_factor",
                        format!("must not be below low_freq_factor {low_freq_factor}"),
                        high_freq_factor,
                    ));
                }
                Ok(())
            }
        }
    }
}

fn positive(operand: &'static str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(RopeError::config(
            operand,
            "must be a positive finite number",
            value,
        ))
    }
}
