//! A model's file: GGUF, of the Llama architecture.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use wgpu_rope::config::LayerRope;
use wgpu_rope::config::gguf;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Above the rows of any matrix, and the channels of any token: no product of sizes and no dispatch is too large below it.
const MOST_ROWS: u64 = 1 << 22;

/// And above the heads.
const MOST_HEADS: u32 = 1 << 16;

/// The tensors that the crate may ask for.
const FACTORS: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// The sizes of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) layers: u32,
    pub(crate) channels: u32,
    pub(crate) heads: u32,
    pub(crate) key_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) feed_forward: u32,
    pub(crate) vocabulary: u32,
    pub(crate) epsilon: f32,
    /// Tokens that it was trained for.
    pub(crate) context: u32,
}

impl Shape {
    /// Channels of the keys of a token, and of its values.
    pub(crate) fn key_row(&self) -> u32 {
        self.key_heads * self.head_dim
    }

    /// Channels of Q, K and V of a token.
    pub(crate) fn qkv(&self) -> u32 {
        (self.heads + 2 * self.key_heads) * self.head_dim
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
    file: File,
}

impl ModelFile {
    /// Opens a file of a model that this example runs.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Self> {
            let file = File::open(path)?;
            let content = Content::read(&mut BufReader::new(&file)).map_err(|error| {
                let error = error.to_string();
                // candle does not say which tensor. A backtrace may follow.
                let first = error.lines().next().unwrap_or_default();
                match first.strip_prefix("unknown dtype for tensor ") {
                    Some(number) => format!(
                        "a tensor is of GGML's type {number}; those that work are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and \
                         Q2_K to Q6_K"
                    ),
                    None => format!("cannot be read as GGUF: {error}"),
                }
            })?;
            Ok(Self {
                path: path.to_owned(),
                content,
                file,
            })
        };
        let file = named(path, open())?;
        named(path, file.shape())?;
        named(path, file.rope())?;
        Ok(file)
    }

    /// The RoPE of all layers: the crate reads dimensions, pairing, frequencies, scaling and frequency factors by itself.
    pub(crate) fn rope(&self) -> Result<LayerRope> {
        let there = FACTORS.iter().filter(|name| self.has(name));
        let factors = there.map(|&name| -> Result<_> {
            let values = self.dequantized(name)?.flatten_all()?.to_vec1()?;
            Ok((name, values))
        });
        let head = Head {
            content: &self.content,
            factors: factors.collect::<Result<_>>()?,
        };
        let rope = gguf::read_metadata(&head)?;
        let rope = rope.ok_or("this model has no rotary position embedding")?;
        Ok(rope.only()?.clone())
    }

    /// Bytes of all tensors as f32.
    pub(crate) fn f32_bytes(&self) -> u64 {
        let tensors = self.content.tensor_infos.values();
        let bytes = tensors.map(|info| {
            let dims = info.shape.dims().iter();
            dims.fold(4_u64, |bytes, &dim| bytes.saturating_mul(dim as u64))
        });
        bytes.fold(0, u64::saturating_add)
    }

    pub(crate) fn shape(&self) -> Result<Shape> {
        let architecture = self.text("general.architecture")?;
        if architecture != "llama" {
            return Err(format!(
                "this example runs models of the llama architecture; this one is {architecture}"
            )
            .into());
        }
        if self.count_or("split.count", 1)? > 1 {
            return Err(
                "this example reads models in one file; this is a part of one: llama-gguf-split --merge joins them"
                    .into(),
            );
        }
        // Mixtral is called llama too, and so may be models with biases.
        let other = |name: &&String| name.ends_with(".bias") || name.contains("_exp");
        if let Some(name) = self.content.tensor_infos.keys().filter(other).min() {
            return Err(format!(
                "this example runs dense models without biases; this one has the tensor {name}"
            )
            .into());
        }
        let key = |key: &str| format!("llama.{key}");
        let count = |name: &str| self.count(&key(name));
        let heads = count("attention.head_count")?;
        let channels = count("embedding_length")?;
        let embedding = self.dims("token_embd.weight")?;
        let epsilon = key("attention.layer_norm_rms_epsilon");
        let shape = Shape {
            layers: count("block_count")?,
            channels,
            heads,
            key_heads: self.count_or(&key("attention.head_count_kv"), heads)?,
            head_dim: self.count_or(&key("attention.key_length"), channels / heads.max(1))?,
            feed_forward: count("feed_forward_length")?,
            vocabulary: u32::try_from(embedding.first().copied().unwrap_or(0))?,
            epsilon: self
                .value(&epsilon)?
                .to_f32()
                .map_err(|error| format!("{epsilon}: {error}"))?,
            context: count("context_length")?,
        };
        // What the kernels load is four channels wide.
        let fours = [channels, shape.head_dim, shape.feed_forward];
        let is_whole = heads > 0 && shape.key_heads > 0 && heads.is_multiple_of(shape.key_heads);
        if fours.iter().any(|&size| size == 0 || size % 4 != 0) || shape.head_dim > 256 || !is_whole
        {
            return Err(format!(
                "this example's kernels take channels in fours, heads of at most 256 of them, and the same number of query heads for \
                 each key head; this model has {shape:?}"
            )
            .into());
        }
        let sizes = [heads, shape.key_heads, shape.key_heads].map(u64::from);
        let qkv = sizes.iter().sum::<u64>() * u64::from(shape.head_dim);
        let feed_forward = 2 * u64::from(shape.feed_forward);
        let rows = [qkv, channels.into(), feed_forward, shape.vocabulary.into()];
        if rows.iter().any(|&rows| rows >= MOST_ROWS) || heads >= MOST_HEADS {
            return Err(format!("this example has no kernels for {shape:?}").into());
        }
        Ok(shape)
    }

    fn dims(&self, name: &str) -> Result<&[usize]> {
        let info = self.content.tensor_infos.get(name);
        let info = info.ok_or_else(|| format!("the file has no tensor {name}"))?;
        Ok(info.shape.dims())
    }

    /// Whether there is such a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// A tensor dequantised to f32. Its shape has to be this.
    pub(crate) fn tensor(&self, name: &str, shape: &[u32]) -> Result<Tensor> {
        let read = || {
            let found = self.dims(name)?;
            let expected = shape.iter().map(|&size| size as usize);
            if !found.iter().copied().eq(expected) {
                return Err(format!("{name} has the shape {found:?}, not {shape:?}").into());
            }
            self.dequantized(name)
        };
        named(&self.path, read())
    }

    fn dequantized(&self, name: &str) -> Result<Tensor> {
        let mut reader = &self.file;
        let tensor = self.content.tensor(&mut reader, name, &Device::Cpu);
        let tensor = tensor.and_then(|tensor| tensor.dequantize(&Device::Cpu));
        tensor.map_err(|error| format!("{name}: {error}").into())
    }

    fn value(&self, key: &str) -> Result<&Value> {
        let value = self.content.metadata.get(key);
        value.ok_or_else(|| format!("the file has no {key}").into())
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        match self.value(key)? {
            Value::String(text) => Ok(text),
            _ => Err(format!("{key} is not a text").into()),
        }
    }

    /// A number that is not negative, of whichever type.
    pub(crate) fn count(&self, key: &str) -> Result<u32> {
        let number = number(self.value(key)?).and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| format!("{key} is not a number of 32 bits").into())
    }

    /// The same where the file need not have it.
    fn count_or(&self, key: &str, otherwise: u32) -> Result<u32> {
        if self.content.metadata.contains_key(key) {
            self.count(key)
        } else {
            Ok(otherwise)
        }
    }

    /// An array of the file's metadata, empty where there is none.
    pub(crate) fn array(&self, key: &str) -> &[Value] {
        match self.content.metadata.get(key) {
            Some(Value::Array(values)) => values,
            _ => &[],
        }
    }
}

/// Puts a file's name before an error.
pub(crate) fn named<T>(path: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|error| format!("{}: {error}", path.display()).into())
}

/// A whole number that is not negative.
pub(crate) fn number(given: &Value) -> Option<u64> {
    match value(given) {
        gguf::Value::Unsigned(number) => Some(number),
        gguf::Value::Signed(number) => number.try_into().ok(),
        _ => None,
    }
}

/// What candle has read of a file, as the crate asks for it: it needs no reader of its own.
struct Head<'a> {
    content: &'a Content,
    factors: HashMap<&'static str, Vec<f32>>,
}

impl gguf::Metadata for Head<'_> {
    fn value(&self, key: &str) -> Option<gguf::Value> {
        self.content.metadata.get(key).map(value)
    }

    fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        self.factors.get(name).cloned()
    }
}

fn value(value: &Value) -> gguf::Value {
    use gguf::Value::{Array, Bool, Float, Signed, String, Unsigned};
    match value {
        Value::U8(number) => Unsigned((*number).into()),
        Value::U16(number) => Unsigned((*number).into()),
        Value::U32(number) => Unsigned((*number).into()),
        Value::U64(number) => Unsigned(*number),
        Value::I8(number) => Signed((*number).into()),
        Value::I16(number) => Signed((*number).into()),
        Value::I32(number) => Signed((*number).into()),
        Value::I64(number) => Signed(*number),
        Value::F32(number) => Float((*number).into()),
        Value::F64(number) => Float(*number),
        Value::Bool(is_set) => Bool(*is_set),
        Value::String(text) => String(text.clone()),
        Value::Array(values) => Array(values.iter().map(self::value).collect()),
    }
}
