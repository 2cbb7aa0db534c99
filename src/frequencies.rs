//! Frequencies: for every pair of channels its inverse frequency and axis, and one attention factor. All in f64.

use std::f64::consts::TAU;

use crate::config::{RopeConfig, Scaling};
use crate::error::{Result, RopeError};
use crate::turns::{TableFactor, TurnRate};

/// One pair of channels as the table sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Radians per position: 0, or of a magnitude from 2^-64 to 2^16, of either sign.
    pub inv_freq: f64,
    /// Which row of positions it reads. Tables have one row of positions so far, so it has to be 0.
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
    attention_factor: f64,
}

impl Frequencies {
    /// The frequencies of a configuration: `rotary_dim / 2` pairs on axis 0.
    ///
    /// Powers are taken with a pure-Rust `pow`, so the same bits come out on every system.
    ///
    /// # Errors
    /// Those of [`RopeConfig::validate`], and [`RopeError::Config`] where a frequency leaves the range of [`Pair`].
    pub fn new(config: &RopeConfig) -> Result<Self> {
        config.validate()?;
        let rotary_dim = f64::from(config.rotary_dim());
        let base = (0..config.rotary_dim() / 2)
            .map(|k| libm::pow(config.theta(), -f64::from(2 * k) / rotary_dim));
        let scaled = base.map(|inv_freq| scaled(config.scaling(), inv_freq));
        Self::from_pairs(
            scaled.map(|inv_freq| Pair { inv_freq, axis: 0 }),
            config.attention_factor(),
        )
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
            if pair.axis != 0 {
                return Err(RopeError::config("axis", "must be 0", pair.axis));
            }
        }
        let frequencies = Self {
            pairs,
            attention_factor,
        };
        frequencies.factor(Direction::Forward)?;
        frequencies.factor(Direction::Inverse)?;
        Ok(frequencies)
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
    pub fn inv_freq(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.pairs.iter().map(|pair| pair.inv_freq)
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

/// One unscaled frequency under a scaling rule.
fn scaled(scaling: Scaling, inv_freq: f64) -> f64 {
    match scaling {
        Scaling::None => inv_freq,
        Scaling::Linear { factor } => inv_freq / factor,
        Scaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => {
            // original / wavelength: how many turns the pair makes within the first training's context.
            let turns = original * inv_freq / TAU;
            if turns > high_freq_factor {
                inv_freq
            } else if turns < low_freq_factor || low_freq_factor == high_freq_factor {
                inv_freq / factor
            } else {
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                inv_freq * ((1.0 - kept) / factor + kept)
            }
        }
    }
}
