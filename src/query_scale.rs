//! `QueryScale`: a factor of the query that depends on its position, as a short list of values.

use std::sync::Arc;

use crate::error::{Result, RopeError};

/// Most values of a scale: 64 MiB of f32.
const MAX_VALUES: u32 = 1 << 24;

/// A factor of the query by position (Llama 4's and Ministral 3's attention temperature): position p has value
/// `floor((p + offset) / step)`, the first one where that is negative, and the last one past the end of the list. Nothing wraps,
/// at any i32 position.
///
/// Values are f64 until a table is planned, and rounded to f32 once.
///
/// ```
/// use wgpu_rope::QueryScale;
/// // With the softmax scale of 128 channels folded in.
/// let scale = QueryScale::llama4(8192, 0.1, 131_071)?.times(1.0 / 128_f64.sqrt())?;
/// assert_eq!(scale.at(0), (1.0 / 128_f64.sqrt()) as f32);
/// assert_eq!(scale.at(8191), ((1.0 + 0.1 * 2_f64.ln()) / 128_f64.sqrt()) as f32);
/// # Ok::<(), wgpu_rope::RopeError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct QueryScale {
    values: Arc<[f64]>,
    step: u32,
    offset: i32,
}

impl QueryScale {
    /// Llama 4's: `1 + attn_scale * ln(floor((p + 1) / floor_scale) + 1)`, for positions up to `max_position`; those past it have the
    /// same value as it has. (`attn_temperature_tuning` of transformers' `Llama4TextAttention`, which applies it in layers without
    /// `RoPE`.) Logarithms are taken with a pure-Rust `log`, so the same bits come out on every system.
    ///
    /// # Errors
    /// [`RopeError::Config`] for a `floor_scale` of 0, more than 2^24 values, or one that is not finite in f32.
    pub fn llama4(floor_scale: u32, attn_scale: f64, max_position: u32) -> Result<Self> {
        let step = at_least_one("floor_scale", floor_scale)?;
        let last = (u64::from(max_position) + 1) / u64::from(step);
        Self::logarithmic(last, attn_scale, step, 1)
    }

    /// Ministral 3's: `1 + beta * ln(1 + floor(p / original_max_position_embeddings))`, for positions up to `max_position`; those past
    /// it have the same value as it has. (`llama_4_scaling_beta` in the `rope_parameters` of transformers' `Ministral3Config`.)
    ///
    /// # Errors
    /// As for [`QueryScale::llama4`].
    pub fn ministral3(
        beta: f64,
        original_max_position_embeddings: u32,
        max_position: u32,
    ) -> Result<Self> {
        let name = "original_max_position_embeddings";
        let step = at_least_one(name, original_max_position_embeddings)?;
        Self::logarithmic(u64::from(max_position / step), beta, step, 0)
    }

    /// Values that are given: position p has `values[floor((p + offset) / step)]`.
    ///
    /// # Errors
    /// [`RopeError::Config`] for no value or more than 2^24, one that is not finite, or a step of 0.
    pub fn from_values(values: Vec<f32>, step: u32, offset: i32) -> Result<Self> {
        let step = at_least_one("step", step)?;
        check_count(values.len() as u64)?;
        Self::new(values.into_iter().map(f64::from).collect(), step, offset)
    }

    /// The same with all values multiplied by a constant, in f64: the softmax scale, where the attention takes none itself.
    ///
    /// # Errors
    /// [`RopeError::Config`] where a value is no longer finite in f32.
    pub fn times(&self, factor: f64) -> Result<Self> {
        let values = self.values.iter().map(|value| value * factor).collect();
        Self::new(values, self.step, self.offset)
    }

    /// The factor at a position: what a table holds for it, bit for bit.
    #[must_use]
    pub fn at(&self, position: i32) -> f32 {
        let moved = i64::from(position) + i64::from(self.offset);
        let index = moved.max(0) / i64::from(self.step);
        let last = self.values.len().saturating_sub(1);
        nearest(self.values[usize::try_from(index).map_or(last, |index| index.min(last))])
    }

    /// Positions that share a value.
    #[must_use]
    pub fn step(&self) -> u32 {
        self.step
    }

    /// What is added to a position before it is divided.
    #[must_use]
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// The values, not yet rounded.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The words that a table's shader reads: step, offset, the index of the last value and a word of the table's own; then the bits of
    /// all values, padded to whole vectors of four.
    pub(crate) fn words(&self, own: u32) -> impl Iterator<Item = u32> + '_ {
        // At most 2^24 values.
        let last = u32::try_from(self.values.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let head = [self.step, self.offset.cast_unsigned(), last, own];
        let bits = self.values.iter().map(|&value| nearest(value).to_bits());
        let padding = self.values.len().next_multiple_of(4) - self.values.len();
        head.into_iter()
            .chain(bits)
            .chain(std::iter::repeat_n(0, padding))
    }

    /// Value n is `1 + factor * ln(n + 1)`, for n up to `last`.
    fn logarithmic(last: u64, factor: f64, step: u32, offset: i32) -> Result<Self> {
        let count = check_count(last.saturating_add(1))?;
        let value = |n: u32| 1.0 + factor * libm::log(f64::from(n) + 1.0);
        Self::new((0..count).map(value).collect(), step, offset)
    }

    fn new(values: Vec<f64>, step: u32, offset: i32) -> Result<Self> {
        if let Some(value) = values.iter().find(|value| !nearest(**value).is_finite()) {
            let rule = "values must be finite in f32";
            return Err(RopeError::config("query scale", rule, value));
        }
        Ok(Self {
            values: values.into(),
            step,
            offset,
        })
    }
}

fn at_least_one(operand: &'static str, value: u32) -> Result<u32> {
    if value == 0 {
        return Err(RopeError::config(operand, "must be at least 1", 0));
    }
    Ok(value)
}

fn check_count(count: u64) -> Result<u32> {
    match u32::try_from(count) {
        Ok(count) if (1..=MAX_VALUES).contains(&count) => Ok(count),
        _ => Err(RopeError::config(
            "query scale",
            format!("must have from 1 to {MAX_VALUES} values"),
            count,
        )),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest f32 is what is asked for"
)]
fn nearest(value: f64) -> f32 {
    value as f32
}
