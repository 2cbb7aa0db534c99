//! Frequencies: for every pair of channels its inverse frequency and axis, and one attention factor. All in f64.

use std::f64::consts::TAU;

use crate::config::{MAX_AXES, RopeConfig, Scaling, Yarn};
use crate::error::{Result, RopeError};
use crate::turns::{LEAST_RATE, TableFactor, TurnRate};

/// One pair of channels as the table sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Radians per position: 0, or of a magnitude from 2^-64 to 2^16, of either sign.
    pub inv_freq: f64,
    /// Which axis of a position it reads: 0 for text, less than [`MAX_AXES`].
    pub axis: u32,
}

/// Which way a table turns. It is a property of the table: the rotation reads rows and knows no direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// The rotation of the model: angle `position * inv_freq`, times the attention factor.
    #[default]
    Forward,
    /// Undoes `Forward`: the angle negated, divided by the attention factor.
    Inverse,
    /// The transpose of `Forward`, which is its gradient: the angle negated, times the attention factor.
    Adjoint,
}

/// The resolved frequencies of a model: everything its scalings, axes and theta come down to.
///
/// ```
/// use wgpu_rope::{Frequencies, RopeConfig};
/// # fn main() -> wgpu_rope::Result<()> {
/// let frequencies = Frequencies::new(&RopeConfig::new(4))?;
/// assert_eq!(frequencies.inv_freq().collect::<Vec<_>>(), [1.0, 0.01]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Frequencies {
    pairs: Vec<Pair>,
    axes: u32,
    attention_factor: f64,
}

impl Frequencies {
    /// The frequencies of a configuration for a context that does not exceed the length of the training: `rotary_dim / 2`
    /// pairs.
    ///
    /// Powers are taken with a pure-Rust `pow`, so the same bits come out on every system.
    ///
    /// # Errors
    /// Those of [`RopeConfig::validate`], and [`RopeError::Config`] where a changed theta or a frequency leaves the range of f64 or of
    /// [`Pair`]: only [`Scaling::Proportional`] and an infinite one of [`Scaling::FrequencyFactors`] make a frequency 0.
    pub fn new(config: &RopeConfig) -> Result<Self> {
        Self::for_length(config, 0)
    }

    /// The frequencies of a configuration for a context of `tokens` positions (the largest position plus 1). They depend on
    /// it for [`Scaling::Dynamic`] and [`Scaling::LongRope`] only, as [`Frequencies::same_for_lengths`] tells.
    ///
    /// A sequence has to keep the frequencies it began with, or have its cached keys rotated anew: choose `tokens` by how long the
    /// sequence may become.
    ///
    /// # Errors
    /// As for [`Frequencies::new`].
    pub fn for_length(config: &RopeConfig, tokens: u64) -> Result<Self> {
        config.validate()?;
        let rotary_dim = f64::from(config.frequency_dim());
        let theta = config.theta() * base_change(config.scaling(), rotary_dim, tokens);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(RopeError::config(
                "theta",
                "must stay a positive finite number where the scaling changes it",
                theta,
            ));
        }
        let rule = Rule {
            scaling: config.scaling(),
            theta: config.theta(),
            rotary_dim,
            tokens,
        };
        let (axes, pairs) = (config.axes(), config.rotary_dim() / 2);
        let pair = |k: u32| {
            let (axis, numerator, denominator) = axes.pair(k, pairs);
            let exponent = if axes.runs_on() {
                f64::from(2 * numerator) / rotary_dim
            } else {
                f64::from(numerator) / f64::from(denominator)
            };
            let inv_freq = rule.scaled(k as usize, libm::pow(theta, -exponent));
            if inv_freq == 0.0 && !rule.scaling.leaves(k as usize) {
                // It is too small for f64, which is no reason for a pair to stand still.
                return Err(RopeError::config(
                    "inv_freq",
                    format!("of pair {k} must be at least 2^-64 radians per position"),
                    inv_freq,
                ));
            }
            Ok(Pair {
                inv_freq: if config.reversed() {
                    -inv_freq
                } else {
                    inv_freq
                },
                axis,
            })
        };
        let all = (0..pairs).map(pair).collect::<Result<Vec<_>>>()?;
        let frequencies = Self::from_pairs(all, config.attention_factor_at(tokens))?;
        Ok(Self {
            // An axis that no pair reads is one all the same.
            axes: axes.count().max(frequencies.axes),
            ..frequencies
        })
    }

    /// Whether two context lengths take the same frequencies, so that keys cached at one fit the other.
    #[must_use]
    pub fn same_for_lengths(config: &RopeConfig, tokens: u64, other: u64) -> bool {
        let class = |tokens: u64| match config.scaling() {
            Scaling::Dynamic {
                max_position_embeddings,
                ..
            } => (positions(tokens) - max_position_embeddings).max(0.0),
            scaling @ Scaling::LongRope { .. } => f64::from(u8::from(scaling.is_long(tokens))),
            _ => 0.0,
        };
        class(tokens) == class(other)
    }

    /// Frequencies that are given: learned, or of a rule this crate has no name for.
    ///
    /// # Errors
    /// [`RopeError::Config`] where there is no pair, a frequency or axis is outside the range of [`Pair`], or the attention factor
    /// or its reciprocal, rounded to f32, is not of a magnitude from 2^-24 to 2^24.
    pub fn from_pairs(
        pairs: impl IntoIterator<Item = Pair>,
        attention_factor: f64,
    ) -> Result<Self> {
        let pairs: Vec<_> = pairs.into_iter().collect();
        if pairs.is_empty() {
            return Err(RopeError::config("pairs", "must be at least one", 0));
        }
        for pair in &pairs {
            TurnRate::new(pair.inv_freq)?;
            if pair.axis >= MAX_AXES {
                return Err(RopeError::config(
                    "axis",
                    format!("must be less than {MAX_AXES}"),
                    pair.axis,
                ));
            }
        }
        let frequencies = Self {
            axes: 1 + pairs.iter().map(|pair| pair.axis).max().unwrap_or(0),
            pairs,
            attention_factor,
        };
        frequencies.factor(Direction::Forward)?;
        frequencies.factor(Direction::Inverse)?;
        Ok(frequencies)
    }

    /// The same pairs with frequencies that are given, such as a model's own f32 `inv_freq`: what axis a pair reads, how many axes a
    /// position has and the attention factor stay.
    ///
    /// # Errors
    /// [`RopeError::Config`] where there is not one for each pair, or one is outside the range of [`Pair`].
    pub fn with_inv_freq(mut self, inv_freq: &[f64]) -> Result<Self> {
        if inv_freq.len() != self.pairs.len() {
            return Err(RopeError::config(
                "inv_freq",
                format!("must have {} values, one for each pair", self.pairs.len()),
                inv_freq.len(),
            ));
        }
        for (pair, &inv_freq) in self.pairs.iter_mut().zip(inv_freq) {
            TurnRate::new(inv_freq)?;
            pair.inv_freq = inv_freq;
        }
        Ok(self)
    }

    /// The same frequencies without their attention factor: they move keys that are in a cache, and have had the factor already, by a
    /// difference of positions (a context shift).
    #[must_use]
    pub fn without_attention_factor(&self) -> Self {
        Self {
            attention_factor: 1.0,
            ..self.clone()
        }
    }

    /// What turns a key that was cached at position p by `from` into what it is at position p by `to`, in a table whose row has
    /// position p: for a context that outgrows the frequencies it began with (LongRoPE's two lists, dynamic NTK). Each frequency is
    /// that of `to` less that of `from`, and the factor is their quotient.
    ///
    /// The difference is rounded to f64. That is exact where the two are within a factor of 2 of each other, and puts the angle off by at
    /// most `p * 2^-53` times the difference elsewhere. A difference below 2^-64, the least that a [`Pair`] can have, counts as 0: at the
    /// largest position an angle of 2^-33.
    ///
    /// ```
    /// use wgpu_rope::{Frequencies, RopeConfig};
    /// let short = Frequencies::new(&RopeConfig::new(4))?;
    /// let long = short.clone().with_inv_freq(&[1.0, 0.0025])?;
    /// let between = Frequencies::between(&short, &long)?;
    /// assert_eq!(between.inv_freq().collect::<Vec<_>>(), [0.0, 0.0025 - 0.01]);
    /// # Ok::<(), wgpu_rope::RopeError>(())
    /// ```
    ///
    /// # Errors
    /// [`RopeError::Config`] where the two have not as many pairs, or not the same axes, or where a difference is outside the range of
    /// [`Pair`] or the quotient of the factors outside that of [`Frequencies::from_pairs`].
    pub fn between(from: &Self, to: &Self) -> Result<Self> {
        if from.len() != to.len() {
            let rule = format!("must be {} as before", from.len());
            return Err(RopeError::config("pairs", rule, to.len()));
        }
        if from.axes != to.axes {
            let rule = format!("must be {} as before", from.axes);
            return Err(RopeError::config("axes", rule, to.axes));
        }
        let mut pairs = Vec::with_capacity(from.len());
        for (k, (before, after)) in from.pairs.iter().zip(&to.pairs).enumerate() {
            if before.axis != after.axis {
                let rule = format!("of pair {k} must be {} as before", before.axis);
                return Err(RopeError::config("axis", rule, after.axis));
            }
            let difference = after.inv_freq - before.inv_freq;
            pairs.push(Pair {
                inv_freq: if difference.abs() < LEAST_RATE {
                    0.0
                } else {
                    difference
                },
                axis: before.axis,
            });
        }
        let factor = to.attention_factor / from.attention_factor;
        let between = Self::from_pairs(pairs, factor)?;
        Ok(Self {
            axes: from.axes,
            ..between
        })
    }

    /// How many pairs there are: the width of a table row.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "there is always at least one pair"
    )]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// The pairs in their order.
    #[must_use]
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The inverse frequencies in radians per position.
    pub fn inv_freq(&self) -> impl ExactSizeIterator<Item = f64> + Clone + '_ {
        self.pairs.iter().map(|pair| pair.inv_freq)
    }

    /// How many axes a position has: those of the configuration, or one more than the largest that a pair reads.
    #[must_use]
    pub fn axes(&self) -> u32 {
        self.axes
    }

    /// Whether pair `k` is left alone at every position: no frequency, and no factor.
    #[expect(clippy::float_cmp, reason = "a factor of exactly 1 changes no bit")]
    pub(crate) fn is_idle(&self, k: usize) -> bool {
        self.attention_factor == 1.0 && self.pairs[k].inv_freq == 0.0
    }

    /// The factor of cos and sin.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        self.attention_factor
    }

    /// The rate of every pair, its sign turned where the direction asks for it.
    ///
    /// # Errors
    /// None for frequencies that passed a constructor.
    pub fn turn_rates(&self, direction: Direction) -> Result<Vec<TurnRate>> {
        self.inv_freq()
            .map(|inv_freq| {
                let rate = TurnRate::new(inv_freq)?;
                Ok(match direction {
                    Direction::Forward => rate,
                    Direction::Inverse | Direction::Adjoint => rate.reversed(),
                })
            })
            .collect()
    }

    /// The nearest f32 of every inverse frequency, its sign turned where the direction asks for it: what [`Angles::F32`](crate::Angles::F32)
    /// multiplies positions with.
    pub fn f32_rates(
        &self,
        direction: Direction,
    ) -> impl ExactSizeIterator<Item = f32> + Clone + '_ {
        self.inv_freq().map(move |inv_freq| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the nearest f32 is what is asked for"
            )]
            let nearest = inv_freq as f32;
            match direction {
                Direction::Forward => nearest,
                Direction::Inverse | Direction::Adjoint => -nearest,
            }
        })
    }

    /// The factor of a table's entries, an f32 value: the attention factor, or its reciprocal for the inverse.
    ///
    /// # Errors
    /// None for frequencies that passed a constructor.
    pub fn factor(&self, direction: Direction) -> Result<TableFactor> {
        let factor = match direction {
            Direction::Forward | Direction::Adjoint => self.attention_factor,
            Direction::Inverse => 1.0 / self.attention_factor,
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the factor is defined as the nearest f32"
        )]
        TableFactor::new(factor as f32)
    }
}

/// A count of positions as a number. Past 2^53 it is rounded, which no context reaches.
#[expect(clippy::cast_precision_loss, reason = "contexts are shorter than 2^53")]
fn positions(tokens: u64) -> f64 {
    tokens as f64
}

/// What a scaling multiplies theta by.
fn base_change(scaling: &Scaling, rotary_dim: f64, tokens: u64) -> f64 {
    let exponent = rotary_dim / (rotary_dim - 2.0);
    match scaling {
        Scaling::Ntk {
            factor,
            mixed_b: None,
        } => *factor,
        Scaling::NtkAlpha { alpha } => libm::pow(*alpha, exponent),
        Scaling::Dynamic {
            factor,
            max_position_embeddings: most,
        } => {
            let length = positions(tokens).max(*most);
            libm::pow(factor * length / most - (factor - 1.0), exponent)
        }
        _ => 1.0,
    }
}

/// A scaling with what its rule for a pair refers to.
struct Rule<'a> {
    scaling: &'a Scaling,
    theta: f64,
    rotary_dim: f64,
    tokens: u64,
}

impl Rule<'_> {
    /// The frequency of pair k from the unscaled one (of the changed base, where the scaling changes it). The divisors have
    /// been checked to be as many as the pairs.
    fn scaled(&self, k: usize, inv_freq: f64) -> f64 {
        match self.scaling {
            Scaling::None | Scaling::NtkAlpha { .. } | Scaling::Dynamic { .. } => inv_freq,
            Scaling::Linear { factor } => inv_freq / factor,
            Scaling::Ntk {
                factor,
                mixed_b: None,
            } => inv_freq * libm::pow(*factor, -2.0 / self.rotary_dim),
            Scaling::Ntk {
                factor,
                mixed_b: Some(b),
            } => {
                let a = libm::log(*factor) / libm::pow(self.rotary_dim / 2.0, *b);
                inv_freq * libm::exp(-a * libm::pow(index(k) + 1.0, *b))
            }
            Scaling::Yarn(yarn) => {
                let divided = self.yarn_ramp(yarn, index(k));
                inv_freq / yarn.factor * divided + inv_freq * (1.0 - divided)
            }
            Scaling::LongRope {
                short_factor,
                long_factor,
                ..
            } => {
                let long = self.scaling.is_long(self.tokens);
                inv_freq / if long { long_factor } else { short_factor }[k]
            }
            Scaling::FrequencyFactors(factors) => inv_freq / factors[k],
            Scaling::Proportional {
                rotated_pairs,
                factor,
            } => {
                if k < *rotated_pairs as usize {
                    inv_freq / factor
                } else {
                    0.0
                }
            }
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => {
                // original / wavelength: how many turns the pair makes within the first training's context.
                let turns = original * inv_freq / TAU;
                if turns > *high_freq_factor {
                    inv_freq
                } else if turns < *low_freq_factor || low_freq_factor == high_freq_factor {
                    inv_freq / factor
                } else {
                    let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    inv_freq * ((1.0 - kept) / factor + kept)
                }
            }
        }
    }

    /// How much of pair k is divided: 0 for pairs of more than `beta_fast` turns within the original context, 1 for those of fewer
    /// than `beta_slow`, a line between.
    fn yarn_ramp(&self, yarn: &Yarn, k: f64) -> f64 {
        let (low, mut high) = yarn.ramp(self.theta, self.rotary_dim);
        if low == high {
            high += 0.001;
        }
        ((k - low) / (high - low)).clamp(0.0, 1.0)
    }
}

/// The index of a pair as a number; there are at most 32,768.
#[expect(clippy::cast_precision_loss, reason = "it is below 2^53")]
fn index(k: usize) -> f64 {
    k as f64
}
