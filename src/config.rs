//! What a model says about its RoPE: dimensions, theta, pairing, window, scaling.

mod axes;
#[cfg(feature = "gguf")]
#[cfg_attr(docsrs, doc(cfg(feature = "gguf")))]
pub mod gguf;
#[cfg(feature = "huggingface")]
#[cfg_attr(docsrs, doc(cfg(feature = "huggingface")))]
pub mod huggingface;
mod model;
mod pairing;
#[cfg(any(feature = "huggingface", feature = "gguf"))]
mod reading;

pub use axes::{Axes, AxisRun, MAX_AXES};

pub use model::{LayerKind, LayerRope, ModelRope, QueryScaleRule};
pub use pairing::{PairChannels, Pairing};

use std::f64::consts::TAU;

use crate::error::{Result, RopeError};

/// The largest head this crate plans for.
pub(crate) const MAX_HEAD_DIM: u32 = 65_536;

/// How the inverse frequencies depart from `theta^(-2k/r)`, r being the rotary dimension and k the pair.
///
/// Only two scalings depend on the length of the context: [`Scaling::Dynamic`] and [`Scaling::LongRope`]. They give other frequencies past
/// a length, see [`Frequencies::for_length`](crate::Frequencies::for_length).
#[derive(Debug, Clone, PartialEq, Default)]
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
    /// A fixed change of base by `factor` (vLLM's `ntk`, after bloc97's NTK-aware interpolation):
    /// `(theta * factor)^(-2k/r) * factor^(-2/r)`, or, with `mixed_b`, `theta^(-2k/r) * exp(-a (k + 1)^b)` with
    /// `a = ln(factor) / (r/2)^b`.
    Ntk {
        /// How many times longer the context becomes.
        factor: f64,
        /// The exponent b, if there is one.
        mixed_b: Option<f64>,
    },
    /// theta times `alpha^(r / (r - 2))` (Hunyuan's `alpha`, which its files call `dynamic`).
    NtkAlpha {
        /// The change of base.
        alpha: f64,
    },
    /// theta times `(factor * L / M - (factor - 1))^(r / (r - 2))` for a context of L positions past the M of the training
    /// (emozilla's dynamic NTK scaling, as transformers has it); unscaled up to M.
    ///
    /// The frequencies of a longer context turn keys otherwise than those of a shorter one: keys that were cached before the context grew past
    /// M do not fit those after it, unless they are cached unrotated or rotated anew.
    Dynamic {
        /// How fast the base grows.
        factor: f64,
        /// M, in positions.
        max_position_embeddings: f64,
    },
    /// Short wavelengths kept, long ones divided, a ramp between: YaRN (Peng et al., arXiv:2309.00071, section 3).
    Yarn(Yarn),
    /// A divisor for each pair, of one set up to the original context length and of another past it: LongRoPE (Ding et al.,
    /// arXiv:2402.13753; Phi-3's `longrope` and `su`).
    ///
    /// The set is one for a whole sequence: choose it by the longest context that the sequence may reach, and keep it, since keys turned by the short set do
    /// not fit those turned by the long one. Chunks of a prefill all take the same.
    LongRope {
        /// Divisors up to `original_max_position_embeddings`, one for each pair.
        short_factor: Vec<f64>,
        /// Divisors past it.
        long_factor: Vec<f64>,
        /// The context length of the first training, in positions.
        original_max_position_embeddings: f64,
        /// How many times longer the context becomes: `max_position_embeddings / original_max_position_embeddings` where a file does not
        /// say. It makes the attention factor, `sqrt(1 + ln(factor) / ln(original))` above 1.
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
    /// The first `rotated_pairs` pairs of the window have `theta^(-2k/r) / factor`, the others do not turn (Gemma 4's `proportional`, where
    /// the window is the whole head and a quarter of its pairs turn).
    Proportional {
        /// Pairs that turn: `floor(partial_rotary_factor * head_dim / 2)`.
        rotated_pairs: u32,
        /// The division of their frequencies.
        factor: f64,
    },
    /// Each frequency divided by its factor: `rope_freqs.weight` of GGUF, `freq_factors` of ggml. An infinite factor leaves none: its pair does
    /// not turn.
    FrequencyFactors(Vec<f64>),
}

/// The parameters of YaRN. Made with [`Yarn::new`] and changed with the `with_` methods.
///
/// ```
/// use wgpu_rope::Yarn;
/// let yarn = Yarn::new(4.0, 32_768.0).with_betas(16.0, 2.0).with_mscale(Some(1.0), None).with_truncate(false);
/// assert_eq!((yarn.factor(), yarn.original_max_position_embeddings()), (4.0, 32_768.0));
/// assert_eq!((yarn.beta_fast(), yarn.beta_slow()), (16.0, 2.0));
/// assert_eq!((yarn.mscale(), yarn.mscale_all_dim(), yarn.truncate()), (Some(1.0), None, false));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    pub(crate) factor: f64,
    pub(crate) original_max_position_embeddings: f64,
    pub(crate) beta_fast: f64,
    pub(crate) beta_slow: f64,
    pub(crate) mscale: Option<f64>,
    pub(crate) mscale_all_dim: Option<f64>,
    pub(crate) truncate: bool,
}

impl Yarn {
    /// A context `factor` times as long as the `original_max_position_embeddings` positions of the first training: betas 32
    /// and 1, ends of the ramp on whole pairs, attention factor `0.1 ln(factor) + 1`.
    #[must_use]
    pub fn new(factor: f64, original_max_position_embeddings: f64) -> Self {
        Self {
            factor,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        }
    }

    /// Pairs that make more than `fast` turns within the original context are kept, those that make fewer than `slow` divided.
    #[must_use]
    pub fn with_betas(self, fast: f64, slow: f64) -> Self {
        Self {
            beta_fast: fast,
            beta_slow: slow,
            ..self
        }
    }

    /// The attention factor as the quotient of `0.1 mscale ln(factor) + 1` and `0.1 mscale_all_dim ln(factor) + 1`, if both are given and
    /// neither is 0 (DeepSeek V2 and V3).
    #[must_use]
    pub fn with_mscale(self, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> Self {
        Self {
            mscale,
            mscale_all_dim,
            ..self
        }
    }

    /// Whether the ramp ends on whole pairs (gpt-oss: not).
    #[must_use]
    pub fn with_truncate(self, truncate: bool) -> Self {
        Self { truncate, ..self }
    }

    /// How many times longer the context becomes.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The context length of the first training, in positions.
    #[must_use]
    pub fn original_max_position_embeddings(&self) -> f64 {
        self.original_max_position_embeddings
    }

    /// Pairs that make more turns than this within the original context are kept.
    #[must_use]
    pub fn beta_fast(&self) -> f64 {
        self.beta_fast
    }

    /// Pairs that make fewer turns than this within the original context are divided.
    #[must_use]
    pub fn beta_slow(&self) -> f64 {
        self.beta_slow
    }

    /// The numerator's factor, see [`Yarn::with_mscale`].
    #[must_use]
    pub fn mscale(&self) -> Option<f64> {
        self.mscale
    }

    /// The denominator's factor, see [`Yarn::with_mscale`].
    #[must_use]
    pub fn mscale_all_dim(&self) -> Option<f64> {
        self.mscale_all_dim
    }

    /// Whether the ramp ends on whole pairs.
    #[must_use]
    pub fn truncate(&self) -> bool {
        self.truncate
    }

    /// What DeepSeek V2 and V3 multiply the scale of the softmax by, beside all that cos and sin carry:
    /// `(0.1 mscale_all_dim ln(factor) + 1)^2`. It concerns the whole logit and is the host's to apply.
    #[must_use]
    pub fn softmax_factor(&self) -> f64 {
        let scale = self.magnitude(self.mscale_all_dim.unwrap_or(0.0));
        scale * scale
    }

    /// The ends of the ramp, in pairs of a rotary dimension: where `beta_fast` and where `beta_slow` turns are made.
    pub(crate) fn ramp(&self, theta: f64, rotary_dim: f64) -> (f64, f64) {
        // The pair, as a real number, that makes so many turns.
        let pair = |turns: f64| {
            rotary_dim * libm::log(self.original_max_position_embeddings / (turns * TAU))
                / (2.0 * libm::log(theta))
        };
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low.max(0.0), high.min(rotary_dim - 1.0))
    }

    /// `0.1 mscale ln(factor) + 1`, and 1 up to a factor of 1.
    pub(crate) fn magnitude(&self, mscale: f64) -> f64 {
        if self.factor <= 1.0 {
            1.0
        } else {
            0.1 * mscale * libm::log(self.factor) + 1.0
        }
    }

    fn attention_factor(&self) -> f64 {
        match (self.mscale, self.mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                self.magnitude(mscale) / self.magnitude(all)
            }
            _ => self.magnitude(1.0),
        }
    }
}

impl Scaling {
    /// Whether pair `k` has no frequency.
    pub(crate) fn leaves(&self, k: usize) -> bool {
        match self {
            Self::Proportional { rotated_pairs, .. } => k >= *rotated_pairs as usize,
            Self::FrequencyFactors(factors) => factors.get(k) == Some(&f64::INFINITY),
            _ => false,
        }
    }

    /// The factor of cos and sin that the scaling's own rule gives.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Yarn(yarn) => yarn.attention_factor(),
            Self::LongRope {
                original_max_position_embeddings: original,
                factor,
                ..
            } if *factor > 1.0 => (1.0 + libm::log(*factor) / libm::log(*original)).sqrt(),
            _ => 1.0,
        }
    }

    /// Whether a context of so many positions takes LongRoPE's other divisors. Past 2^53, which no context reaches, the count is rounded.
    #[expect(clippy::cast_precision_loss, reason = "contexts are shorter than 2^53")]
    pub(crate) fn is_long(&self, tokens: u64) -> bool {
        match self {
            Self::LongRope {
                original_max_position_embeddings: original,
                ..
            } => tokens as f64 > *original,
            _ => false,
        }
    }

    /// What kinds of layers that differ in it are told apart by.
    #[cfg(any(feature = "huggingface", feature = "gguf"))]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::None => "unscaled",
            Self::Linear { .. } => "linear",
            Self::Ntk { .. } | Self::NtkAlpha { .. } => "ntk",
            Self::Dynamic { .. } => "dynamic",
            Self::Yarn(_) => "yarn",
            Self::LongRope { .. } => "longrope",
            Self::Llama3 { .. } => "llama3",
            Self::Proportional { .. } => "proportional",
            Self::FrequencyFactors(_) => "frequency factors",
        }
    }

    fn validate(&self, pairs: u32, frequency_dim: u32) -> Result<()> {
        let divisors = |operand, values: &[f64]| {
            if values.len() as u64 != u64::from(pairs) {
                return Err(RopeError::config(
                    operand,
                    format!("must have {pairs} values, one for each pair"),
                    values.len(),
                ));
            }
            values
                .iter()
                .try_for_each(|&value| positive(operand, value))
        };
        let original = |value| {
            // Its logarithm is divided by.
            positive("original_max_position_embeddings", value)?;
            if value <= 1.0 {
                return Err(RopeError::config(
                    "original_max_position_embeddings",
                    "must be above 1",
                    value,
                ));
            }
            Ok(())
        };
        let base_changes = || {
            if pairs < 2 {
                return Err(RopeError::config(
                    "rotary_dim",
                    "must be at least 4 for a scaling that changes the base",
                    2 * pairs,
                ));
            }
            if frequency_dim <= 2 {
                // The exponent of the change divides by r - 2.
                return Err(RopeError::config(
                    "frequency_dim",
                    "must be above 2 for a scaling that changes the base",
                    frequency_dim,
                ));
            }
            Ok(())
        };
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => positive("factor", *factor),
            Self::Ntk { factor, mixed_b } => {
                positive("factor", *factor)?;
                mixed_b.map_or(Ok(()), |b| positive("mixed_b", b))
            }
            Self::NtkAlpha { alpha } => {
                base_changes()?;
                positive("alpha", *alpha)
            }
            Self::Dynamic {
                factor,
                max_position_embeddings,
            } => {
                base_changes()?;
                positive("factor", *factor)?;
                positive("max_position_embeddings", *max_position_embeddings)
            }
            Self::Yarn(yarn) => {
                positive("factor", yarn.factor)?;
                original(yarn.original_max_position_embeddings)?;
                positive("beta_fast", yarn.beta_fast)?;
                positive("beta_slow", yarn.beta_slow)?;
                for (operand, value) in [
                    ("mscale", yarn.mscale),
                    ("mscale_all_dim", yarn.mscale_all_dim),
                ] {
                    if value.is_some_and(|value| !value.is_finite()) {
                        return Err(RopeError::config(
                            operand,
                            "must be a finite number",
                            value.unwrap_or_default(),
                        ));
                    }
                }
                Ok(())
            }
            Self::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings,
                factor,
            } => {
                divisors("short_factor", short_factor)?;
                divisors("long_factor", long_factor)?;
                original(*original_max_position_embeddings)?;
                positive("factor", *factor)
            }
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                positive(
                    "original_max_position_embeddings",
                    *original_max_position_embeddings,
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
            Self::Proportional {
                rotated_pairs,
                factor,
            } => {
                if !(1..=pairs).contains(rotated_pairs) {
                    return Err(RopeError::config(
                        "rotated_pairs",
                        format!("must be from 1 to {pairs}"),
                        rotated_pairs,
                    ));
                }
                positive("factor", *factor)
            }
            Self::FrequencyFactors(factors) => {
                let finite: Vec<_> = factors
                    .iter()
                    .map(|&factor| if factor == f64::INFINITY { 1.0 } else { factor })
                    .collect();
                divisors("freq_factors", &finite)
            }
        }
    }
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
    frequency_dim: Option<u32>,
    theta: f64,
    pairing: Pairing,
    axes: Axes,
    scaling: Scaling,
    attention_factor: Option<f64>,
    long_attention_factor: Option<f64>,
    reversed: bool,
}

impl RopeConfig {
    /// The whole of a head of `head_dim` channels rotates: theta 10,000, half-split, unscaled, attention factor 1.
    #[must_use]
    pub fn new(head_dim: u32) -> Self {
        Self {
            head_dim,
            rotary_dim: head_dim,
            rotary_offset: 0,
            frequency_dim: None,
            theta: 10_000.0,
            pairing: Pairing::HalfSplit,
            axes: Axes::One,
            scaling: Scaling::None,
            attention_factor: None,
            long_attention_factor: None,
            reversed: false,
        }
    }

    /// The same RoPE in heads of so many channels: a rotary slice that stands alone, say, with an offset of 0.
    #[must_use]
    pub fn with_head_dim(self, head_dim: u32) -> Self {
        Self { head_dim, ..self }
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

    /// How many channels rotate: the length r of the rotary window, even. The others are not turned; in a rotation in place they keep every bit.
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

    /// The r of the exponents `-2k/r`, where it is not the length of the rotary window: a window of 12 channels that a file calls 11
    /// has 6 frequencies `theta^(-2k/11)`.
    #[must_use]
    pub fn with_frequency_dim(self, frequency_dim: u32) -> Self {
        Self {
            frequency_dim: Some(frequency_dim),
            ..self
        }
    }

    /// Which axis of a position each pair reads.
    #[must_use]
    pub fn with_axes(self, axes: Axes) -> Self {
        Self { axes, ..self }
    }

    /// How the frequencies are scaled.
    #[must_use]
    pub fn with_scaling(self, scaling: Scaling) -> Self {
        Self { scaling, ..self }
    }

    /// The factor that multiplies both cos and sin (so scores gain its square on the rotated channels), in place of the one that the
    /// scaling's rule gives.
    #[must_use]
    pub fn with_attention_factor(self, attention_factor: f64) -> Self {
        Self {
            attention_factor: Some(attention_factor),
            ..self
        }
    }

    /// The attention factor past the original length of [`Scaling::LongRope`], where it is another one than up to it (`long_mscale` beside
    /// `short_mscale` in files of Phi-3.5-MoE).
    #[must_use]
    pub fn with_long_attention_factor(self, long_attention_factor: f64) -> Self {
        Self {
            long_attention_factor: Some(long_attention_factor),
            ..self
        }
    }

    /// Whether the model turns the other way: by `-position * inv_freq` where it applies RoPE (`NanoChat`). All
    /// [`Direction`](crate::Direction)s are then turned round.
    #[must_use]
    pub fn with_reversed(self, reversed: bool) -> Self {
        Self { reversed, ..self }
    }

    /// Whether the model turns the other way.
    #[must_use]
    pub fn reversed(&self) -> bool {
        self.reversed
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

    /// The r of the exponents `-2k/r`.
    #[must_use]
    pub fn frequency_dim(&self) -> u32 {
        self.frequency_dim.unwrap_or(self.rotary_dim)
    }

    /// Which axis of a position each pair reads.
    #[must_use]
    pub fn axes(&self) -> &Axes {
        &self.axes
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
    pub fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// The factor of cos and sin: the one that was set, or the scaling's.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        self.attention_factor
            .unwrap_or_else(|| self.scaling.attention_factor())
    }

    /// The factor of cos and sin for a context of `tokens` positions: that of [`RopeConfig::attention_factor`], but where one was set for
    /// contexts past the original length of [`Scaling::LongRope`], and this is one.
    #[must_use]
    pub fn attention_factor_at(&self, tokens: u64) -> f64 {
        match self.long_attention_factor {
            Some(factor) if self.scaling.is_long(tokens) => factor,
            _ => self.attention_factor(),
        }
    }

    /// Checks every value, and that they go together. What [`Frequencies`](crate::Frequencies) make of them is checked there.
    ///
    /// # Errors
    /// [`RopeError::Config`] naming the value:
    /// - a head of no channel or of more than 65,536, an odd or empty rotary dimension, a window outside the head, a `frequency_dim`
    ///   of 0 or above 65,536, or of 2 and less with a scaling that changes the base;
    /// - a theta or a scaling's parameter that is not a positive finite number (of [`Yarn`], `mscale` and `mscale_all_dim` may be any
    ///   finite ones, and the original length has to be above 1, as that of LongRoPE);
    /// - divisors or factors that are not one for each pair, a `high_freq_factor` below `low_freq_factor`, more `rotated_pairs` than pairs;
    /// - blocks of a pairing that do not divide the pairs;
    /// - axes that are more than [`MAX_AXES`] or do not come to the pairs, and axes whose exponents start anew with a scaling other than
    ///   [`Scaling::None`] and [`Scaling::Linear`];
    /// - an attention factor that is 0 or not finite, and a long one without LongRoPE.
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
        let pairs = self.rotary_dim / 2;
        let frequency_dim = self.frequency_dim();
        if !(1..=MAX_HEAD_DIM).contains(&frequency_dim) {
            return Err(RopeError::config(
                "frequency_dim",
                format!("must be from 1 to {MAX_HEAD_DIM}"),
                frequency_dim,
            ));
        }
        positive("theta", self.theta)?;
        self.pairing.validate(pairs)?;
        self.axes.validate(pairs)?;
        self.scaling.validate(pairs, frequency_dim)?;
        if !self.axes.runs_on() && !matches!(self.scaling, Scaling::None | Scaling::Linear { .. }) {
            return Err(RopeError::config(
                "scaling",
                "must be none or linear where exponents start anew for each axis",
                format!("{:?}", self.scaling),
            ));
        }
        for (operand, factor) in [
            ("attention_factor", Some(self.attention_factor())),
            ("long_attention_factor", self.long_attention_factor),
        ] {
            let factor = factor.unwrap_or(1.0);
            if !factor.is_finite() || factor == 0.0 {
                return Err(RopeError::config(
                    operand,
                    "must be a finite number other than 0",
                    factor,
                ));
            }
        }
        if self.long_attention_factor.is_some() && !matches!(self.scaling, Scaling::LongRope { .. })
        {
            return Err(RopeError::config(
                "long_attention_factor",
                "must be given with LongRoPE only, which alone has a length to be past",
                self.long_attention_factor.unwrap_or_default(),
            ));
        }
        Ok(())
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
