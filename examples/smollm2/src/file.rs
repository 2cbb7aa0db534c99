//! A model's file: GGUF, of the Llama architecture.

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use wgpu_rope::config::LayerRope;
use wgpu_rope::config::gguf;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

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
    /// Channels of Q, K and V of a token.
    pub(crate) fn qkv(&self) -> u32 {
        (self.heads + 2 * self.key_heads) * self.head_dim
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) content: Content,
    reader: BufReader<File>,
    rope: LayerRope,
}

impl ModelFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let named = |error: Box<dyn Error + Send + Sync>| format!("{}: {error}", path.display());
        let mut reader = BufReader::new(File::open(path).map_err(|error| named(error.into()))?);
        let content = Content::read(&mut reader).map_err(|error| named(error.into()))?;
        // The crate reads the RoPE of a file by itself: dimensions, pairing, frequencies, scaling, frequency factors.
        let rope = gguf::read_metadata(&gguf::File::open(path)?)?
            .ok_or("this model has no rotary position embedding")?;
        let rope = rope.only()?.clone();
        Ok(Self {
            content,
            reader,
            rope,
        })
    }

    /// The RoPE of all layers.
    pub(crate) fn rope(&self) -> &LayerRope {
        &self.rope
    }

    /// Bytes of all tensors as f32.
    pub(crate) fn f32_bytes(&self) -> u64 {
        let tensors = self.content.tensor_infos.values();
        tensors.map(|info| info.shape.elem_count() as u64 * 4).sum()
    }

    pub(crate) fn shape(&self) -> Result<Shape> {
        let architecture = self.text("general.architecture")?;
        if architecture != "llama" {
            return Err(
                format!("this example runs the architecture llama, not {architecture}").into(),
            );
        }
        // Mixtral is called llama too, and so may be models with biases.
        let other = |name: &&String| name.ends_with(".bias") || name.contains("_exp");
        if let Some(name) = self.content.tensor_infos.keys().find(other) {
            return Err(format!("this example has no kernels for {name}").into());
        }
        let count = |key: &str| self.count(&format!("llama.{key}"));
        let heads = count("attention.head_count")?;
        let channels = count("embedding_length")?;
        let embedding = self.dims("token_embd.weight")?;
        let shape = Shape {
            layers: count("block_count")?,
            channels,
            heads,
            key_heads: count("attention.head_count_kv").unwrap_or(heads),
            head_dim: count("attention.key_length").unwrap_or(channels / heads.max(1)),
            feed_forward: count("feed_forward_length")?,
            vocabulary: u32::try_from(embedding.first().copied().unwrap_or(0))?,
            epsilon: self
                .value("llama.attention.layer_norm_rms_epsilon")?
                .to_f32()?,
            context: count("context_length")?,
        };
        // What the kernels load is four channels wide.
        let fours = [channels, shape.head_dim, shape.feed_forward];
        let is_whole = shape.key_heads > 0 && heads.is_multiple_of(shape.key_heads);
        if fours.iter().any(|&size| size == 0 || size % 4 != 0) || shape.head_dim > 256 || !is_whole
        {
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
    pub(crate) fn tensor(&mut self, name: &str, shape: &[u32]) -> Result<Tensor> {
        let found = self.dims(name)?;
        if !found
            .iter()
            .copied()
            .eq(shape.iter().map(|&size| size as usize))
        {
            return Err(format!("{name} has the shape {found:?}, not {shape:?}").into());
        }
        let tensor = self.content.tensor(&mut self.reader, name, &Device::Cpu)?;
        Ok(tensor.dequantize(&Device::Cpu)?)
    }

    fn value(&self, key: &str) -> Result<&Value> {
        let value = self.content.metadata.get(key);
        value.ok_or_else(|| format!("the file has no {key}").into())
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        Ok(self.value(key)?.to_string()?)
    }

    /// A number that is not negative, of whichever type.
    pub(crate) fn count(&self, key: &str) -> Result<u32> {
        let number = match self.value(key)? {
            Value::U8(number) => u64::from(*number),
            Value::U16(number) => u64::from(*number),
            Value::U32(number) => u64::from(*number),
            Value::U64(number) => *number,
            Value::I32(number) => u64::try_from(*number)?,
            Value::I64(number) => u64::try_from(*number)?,
            other => return Err(format!("{key} is {other:?}, not a number").into()),
        };
        Ok(u32::try_from(number)?)
    }

    /// An array of the file's metadata, empty where there is none.
    pub(crate) fn array(&self, key: &str) -> &[Value] {
        match self.content.metadata.get(key) {
            Some(Value::Array(values)) => values,
            _ => &[],
        }
    }
}
