//! Tensors of a safetensors file as Rust slices.

use bytemuck::pod_collect_to_vec;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{ElementType, HeadLayout, positions};

use crate::Failure;
use crate::args::Layout;

/// A tensor that is there.
pub fn find<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, Failure> {
    file.tensor(name)
        .map_err(|_| format!("{name}: no such tensor in the input").into())
}

/// The values of a tensor of floats, in f64.
pub fn floats(name: &str, tensor: &TensorView<'_>) -> Result<Vec<f64>, Failure> {
    let data = tensor.data();
    Ok(match tensor.dtype() {
        Dtype::F64 => pod_collect_to_vec(data),
        Dtype::F32 => pod_collect_to_vec::<_, f32>(data)
            .into_iter()
            .map(f64::from)
            .collect(),
        Dtype::F16 => pod_collect_to_vec::<_, f16>(data)
            .into_iter()
            .map(f64::from)
            .collect(),
        Dtype::BF16 => pod_collect_to_vec::<_, bf16>(data)
            .into_iter()
            .map(f64::from)
            .collect(),
        other => return Err(format!("{name}: must be floats, got {other:?}").into()),
    })
}

/// The values of a tensor of whole numbers, if it is one.
pub fn integers(tensor: &TensorView<'_>) -> Option<Vec<i64>> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::I64 => Some(pod_collect_to_vec(data)),
        Dtype::I32 => Some(
            pod_collect_to_vec::<_, i32>(data)
                .into_iter()
                .map(i64::from)
                .collect(),
        ),
        _ => None,
    }
}

/// Values of positions: ids where they are whole numbers within i32, else f32 coordinates.
#[derive(Debug, Clone)]
pub enum Values {
    Ids(Vec<i32>),
    Coordinates(Vec<f32>),
}

impl Values {
    pub fn of(name: &str, tensor: &TensorView<'_>) -> Result<Self, Failure> {
        if let Some(ids) = integers(tensor) {
            return Ok(Self::Ids(positions::ids_from_i64(&ids).map_err(
                |error| Failure::from(error.to_string().replace("position_ids", name)),
            )?));
        }
        if !matches!(
            tensor.dtype(),
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16
        ) {
            let got = tensor.dtype();
            return Err(
                format!("{name}: must be I64 or I32 ids, or F32 coordinates, got {got:?}").into(),
            );
        }
        Self::of_floats(name, floats(name, tensor)?)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole numbers within i32; coordinates are rounded to f32"
    )]
    pub fn of_floats(name: &str, values: Vec<f64>) -> Result<Self, Failure> {
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(format!("{name}: must be finite, got {value}").into());
        }
        let whole = |value: &f64| {
            value.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(value)
        };
        Ok(if values.iter().all(whole) {
            Self::Ids(values.into_iter().map(|value| value as i32).collect())
        } else {
            Self::Coordinates(values.into_iter().map(|value| value as f32).collect())
        })
    }

    /// The values at these indices.
    pub fn gather(&self, indices: &[usize]) -> Self {
        match self {
            Self::Ids(ids) => Self::Ids(indices.iter().map(|&i| ids[i]).collect()),
            Self::Coordinates(values) => {
                Self::Coordinates(indices.iter().map(|&i| values[i]).collect())
            }
        }
    }

    /// The largest position plus 1, at least 0.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a length from a coordinate is cut off below"
    )]
    pub fn length(&self) -> u64 {
        match self {
            Self::Ids(ids) => {
                let most = ids.iter().copied().max().unwrap_or(-1);
                u64::try_from(i64::from(most) + 1).unwrap_or(0)
            }
            Self::Coordinates(values) => {
                values.iter().fold(0.0_f32, |most, &value| most.max(value)) as u64 + 1
            }
        }
    }
}

/// A tensor of heads to rotate.
#[derive(Debug, Clone)]
pub struct Heads {
    pub name: String,
    pub shape: Vec<usize>,
    pub element: ElementType,
    pub dtype: Dtype,
    pub batch: u32,
    pub tokens: u32,
    pub heads: u32,
    /// Channels of a head.
    pub width: u32,
    layout: Layout,
}

impl Heads {
    /// Reads the dimensions of a tensor. `width` is that of a packed head.
    pub fn of(
        name: &str,
        tensor: &TensorView<'_>,
        layout: Layout,
        width: impl Fn(usize) -> Result<u32, Failure>,
    ) -> Result<Self, Failure> {
        let shape = tensor.shape();
        let element = match tensor.dtype() {
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::Bf16,
            other => return Err(format!("{name}: must be F32, F16 or BF16, got {other:?}").into()),
        };
        let (batch, heads, tokens, last) = match (layout, shape) {
            (Layout::Bhsd, &[b, h, s, d]) | (Layout::Bshd, &[b, s, h, d]) => (b, h, s, d),
            (Layout::Shd, &[s, h, d]) => (1, h, s, d),
            (Layout::Bsd, &[b, s, packed]) => {
                let width = width(packed)? as usize;
                if width == 0 || packed % width != 0 {
                    return Err(format!(
                        "{name}: the last dimension {packed} must be whole heads of {width}"
                    )
                    .into());
                }
                (b, packed / width, s, width)
            }
            _ => {
                return Err(format!(
                    "{name}: must have the dimensions of {layout:?}, got {shape:?}"
                )
                .to_lowercase()
                .into());
            }
        };
        let small = |value: usize| {
            u32::try_from(value).map_err(|_| format!("{name}: {shape:?} is too large"))
        };
        Ok(Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            element,
            dtype: tensor.dtype(),
            batch: small(batch)?,
            tokens: small(tokens)?,
            heads: small(heads)?,
            width: small(last)?,
            layout,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The view of all tokens.
    pub fn layout(&self) -> HeadLayout {
        match self.layout {
            Layout::Bhsd => HeadLayout::bhsd(self.tokens, self.heads, self.width),
            Layout::Bshd | Layout::Shd | Layout::Bsd => {
                HeadLayout::bshd(self.tokens, self.heads, self.width)
            }
        }
    }
}
