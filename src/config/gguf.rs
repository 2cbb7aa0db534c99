//! The RoPE of a model from the metadata of its GGUF file, as llama.cpp reads it (commit 0c1e57098).
//!
//! [`File`] reads the metadata and the tensors of frequency factors, and nothing else of the file; [`read_metadata`] says what they mean. An
//! application with a reader of its own implements [`Metadata`] for it.
//!
//! Read are the values with llama.cpp's own parameters of a context: what a command line changes there (`--rope-scaling`,
//! `--yarn-ext-factor`, …) is the application's to change with the methods of [`RopeConfig`](super::RopeConfig).
//!
//! # Where this is not llama.cpp
//! - **M-RoPE by turns** (IMROPE: Qwen3-VL, Qwen3.5 and others). ggml gives the pairs that none of the three sections reaches to a fourth
//!   row of positions, which is 0 for text; the models were trained with these pairs turned by time, as [`Axes::Interleaved`](super::Axes::Interleaved) has it
//!   and as they are read here. With sections `[24, 20, 20, 0]` these are pairs 61 and 62.
//! - **Factors of scaling** are taken as the file has them: ggml takes their reciprocals, rounded to f32.
//! - **Heads** are counted on the first layer that has any (`PLaMo` 2): llama.cpp looks at the first layer only, and turns nothing there.
//! - **Kinds of layers** that scale their queries by position (`attention.temperature_scale`; Llama 4, whose file does not say) have a
//!   [`query_scale`](super::LayerKind::query_scale), whose values are f64 until they are planned; llama.cpp's are f32.
//! - **Types** of integers and floats are taken as they come: llama.cpp refuses an i32 where it looks for a u32.
//!
//! A model in several parts (`…-00001-of-00005.gguf`) is read from the first; any of them may hold its tensors, so [`File::open`] looks into all.
//!
//! Layers of multi-token prediction (`nextn_predict_layers`) are not among [`ModelRope::layers`]; they rotate as full ones. Nor are the
//! heads of an indexer, which have a window of their own (DeepSeek V3.2, GLM-DSA).
//!
//! # Architectures
#![doc = include_str!("gguf/architectures.md")]

mod architectures;
mod file;
mod keys;
mod layers;
mod rope;
mod scaling;
#[cfg(test)]
mod tests;

pub use file::File;

use self::architectures::{Habit, Order};
use self::keys::Keys;
use super::ModelRope;
use crate::error::{Result, RopeError};

/// A value of metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// An `f32` or `f64`.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of numbers, truth values or strings.
    Array(Vec<Self>),
    /// Something else, or something too long to be of use here: no key of RoPE has it.
    Other,
}

/// What is known of a file: implement it for a reader of your own to have [`read_metadata`] work on that.
pub trait Metadata {
    /// The value of a key in full (`llama.rope.freq_base`). None: the file has no such key.
    fn value(&self, key: &str) -> Option<Value>;

    /// The values of a tensor of type F32. None: the file has no such tensor. Asked for are `rope_freqs.weight`,
    /// `rope_factors_long.weight` and `rope_factors_short.weight`; a file in several parts has them in any of these.
    fn tensor(&self, name: &str) -> Option<Vec<f32>>;
}

/// Reads what a file's metadata say. None: the architecture has no RoPE.
///
/// ```no_run
/// use wgpu_rope::config::gguf;
/// # fn main() -> wgpu_rope::Result<()> {
/// let file = gguf::File::open("model.gguf")?;
/// if let Some(model) = gguf::read_metadata(&file)? {
///     let first = model.layer(0)?;
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`RopeError::Config`] naming the key: an architecture that llama.cpp does not know, a required key that is missing, a value of the wrong
/// type or out of range, tensors that the architecture does not have, sections that are not those of the pairs.
pub fn read_metadata(metadata: &impl Metadata) -> Result<Option<ModelRope>> {
    const ARCHITECTURE: &str = "general.architecture";
    let name = match metadata.value(ARCHITECTURE) {
        Some(Value::String(name)) => name,
        Some(_) => {
            return Err(RopeError::config(
                ARCHITECTURE,
                "must be a string",
                "another value",
            ));
        }
        None => return Err(RopeError::config(ARCHITECTURE, "must be given", "none")),
    };
    let Some(architecture) = architectures::find(&name) else {
        return Err(RopeError::config(
            ARCHITECTURE,
            "must be one that llama.cpp knows",
            keys::cut(&name),
        ));
    };
    if let Some(Habit::Refused(why)) = architecture.habit {
        return Err(RopeError::config(
            ARCHITECTURE,
            format!("must be one that llama.cpp rotates: {why}"),
            name,
        ));
    }
    if architecture.order == Order::None || architecture.habit == Some(Habit::NeverRotates) {
        return Ok(None);
    }
    layers::read(&mut Keys::new(metadata, architecture))
}
