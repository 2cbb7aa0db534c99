//! What is done to heads before and after their rotation: norms, and a factor of the query.

use crate::error::{Result, RopeError};
use crate::layout::{ElementType, HeadLayout};
use crate::plan::RotateSpec;

/// Channels that a sum of squares takes at once, and of the two of them that are added first.
const OCTET: u32 = 8;
pub(super) const PAIR: u32 = 16;

/// The norm of a stream before its rotation, `x / sqrt(mean(x^2) + epsilon) * weight`: every channel of a head is divided by the root of the
/// mean of the squares of all, epsilon added to the mean, and multiplied by its weight.
///
/// All is f32 arithmetic in a fixed order, the reciprocal root correctly rounded ([`reference`](crate::reference) is the same), so the bits are
/// the same on every backend. What a model computes in 16 bits between norm and rotation is not rounded here.
///
/// The order of the sum follows the rotary window: eight channels of its first half go with eight of its second. A norm alone
/// ([`RotateSpec::without_rotation`](crate::RotateSpec::without_rotation)) has no window and adds neighbours, so a norm and then a rotation
/// may differ in the last bits from both at once.
///
/// Qwen3, Gemma 3, OLMo 2, Llama 4: "QK-norm" (Henry et al., [Query-Key Normalization](https://arxiv.org/abs/2010.04245), 2020; RMS norm:
/// Zhang and Sennrich, [Root Mean Square Layer Normalization](https://arxiv.org/abs/1910.07467), 2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    pub(crate) epsilon: f32,
    pub(crate) weight: NormWeight,
    pub(crate) over_all_heads: bool,
}

/// What channels are multiplied by after a norm. Weights are `[head_dim]`, or `[heads, head_dim]` where the norm is over all heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum NormWeight {
    /// Nothing (Llama 4's "L2 norm", Gemma 4's values).
    #[default]
    None,
    /// A weight (Qwen3, OLMo 2).
    Scale(ElementType),
    /// 1 and a weight (Gemma).
    OnePlus(ElementType),
}

impl Norm {
    /// An RMS norm of each head by itself. Epsilon has to be from 2^-100 to 2^100 (not 0), or the specification is refused.
    #[must_use]
    pub fn rms(epsilon: f32, weight: NormWeight) -> Self {
        Self {
            epsilon,
            weight,
            over_all_heads: false,
        }
    }

    /// Mean and weights are over all heads of a token (OLMo 2).
    #[must_use]
    pub fn over_all_heads(self) -> Self {
        Self {
            over_all_heads: true,
            ..self
        }
    }

    /// What is added to the mean.
    #[must_use]
    pub fn epsilon(self) -> f32 {
        self.epsilon
    }

    /// What channels are multiplied by.
    #[must_use]
    pub fn weight(self) -> NormWeight {
        self.weight
    }

    /// Whether mean and weights are over all heads of a token.
    #[must_use]
    pub fn is_over_all_heads(self) -> bool {
        self.over_all_heads
    }

    /// The value of the shader's override constant.
    pub(super) fn constant(norm: Option<Self>) -> f64 {
        match norm.map(|norm| norm.weight) {
            None => 0.0,
            Some(NormWeight::None) => 1.0,
            Some(NormWeight::Scale(_)) => 2.0,
            Some(NormWeight::OnePlus(_)) => 3.0,
        }
    }

    /// The element type of its weights, if it has some.
    #[must_use]
    pub fn weight_type(self) -> Option<ElementType> {
        match self.weight {
            NormWeight::None => None,
            NormWeight::Scale(element) | NormWeight::OnePlus(element) => Some(element),
        }
    }

    /// Channels that a mean is over.
    pub(crate) fn channels(self, layout: HeadLayout) -> u64 {
        let heads = if self.over_all_heads { layout.heads } else { 1 };
        u64::from(heads) * u64::from(layout.head_dim)
    }

    /// What a sum is multiplied by to be a mean.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "to the nearest f32 is what is meant"
    )]
    pub(crate) fn mean(self, layout: HeadLayout) -> f32 {
        (1.0 / self.channels(layout) as f64) as f32
    }

    pub(super) fn validate(self, operand: &'static str) -> Result<()> {
        // 2^-100 and 2^100: what denormals are flushed to does not matter then.
        let range = f32::from_bits(0x0d80_0000)..=f32::from_bits(0x7180_0000);
        if range.contains(&self.epsilon) {
            return Ok(());
        }
        Err(RopeError::config(
            format!("{operand} norm"),
            "epsilon must be from 2^-100 to 2^100",
            self.epsilon,
        ))
    }
}

/// A factor of the rotated query: of all channels of its heads, also those outside of the rotary window, with a rounding of its own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum QueryFactor {
    /// None.
    #[default]
    One,
    /// The same for all: the softmax scale `1 / sqrt(head_dim)`, say.
    Constant(f32),
    /// That of the row which a token reads ([`TableSpec::with_query_scale`](crate::TableSpec::with_query_scale)): by position.
    PerRow,
}

impl RotateSpec {
    /// Whether heads are whole pairs of octets, and so is the rotary window in them: sums of squares are then made of octets whose channels are
    /// rotated with each other.
    pub(crate) fn is_paired(&self) -> bool {
        let config = &self.config;
        let block = config.rotary_dim() / 2 / config.pairing().blocks();
        config.head_dim().is_multiple_of(PAIR)
            && (!self.is_rotated
                || (config.rotary_dim().is_multiple_of(PAIR)
                    && config.rotary_offset().is_multiple_of(OCTET)
                    && block.is_multiple_of(OCTET)))
    }

    /// The channels of the two octets of each pair of a head, whose sums are added first. Octets behind the head are all 0.
    pub(crate) fn octet_pairs(&self, stream: usize, head_dim: u32) -> Vec<[u32; 2]> {
        let count = head_dim.div_ceil(PAIR);
        if stream == 2 || !self.is_rotated || !self.is_paired() {
            return (0..count)
                .map(|n| [2 * n * OCTET, (2 * n + 1) * OCTET])
                .collect();
        }
        let config = &self.config;
        let turning = config.rotary_dim() / PAIR;
        let before = config.rotary_offset() / OCTET;
        let block = if config.pairing().reads_interleaved() {
            turning
        } else {
            config.rotary_dim() / 2 / config.pairing().blocks() / OCTET
        };
        let window = before..before + 2 * turning;
        let mut rest = (0..head_dim / OCTET).filter(|octet| !window.contains(octet));
        (0..count)
            .map(|n| {
                if n < turning {
                    let first = before + n + n / block * block;
                    [first * OCTET, (first + block) * OCTET]
                } else {
                    let behind = head_dim;
                    [(); 2].map(|()| rest.next().map_or(behind, |octet| octet * OCTET))
                }
            })
            .collect()
    }
}
