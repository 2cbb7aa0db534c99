//! The streams of a layer: what goes from where to where, and what is done to it on the way.

use super::norm::Norm;
use super::operand::{Operand, StreamOperands};
use super::view::{Storage, TensorView};
use crate::error::{Result, RopeError};

/// One of query, key and value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stream {
    pub(crate) source: TensorView,
    pub(crate) destination: Option<TensorView>,
    pub(crate) norm: Option<Norm>,
}

impl Stream {
    /// Whether it is nothing but a tensor of a floating-point type that stays in place.
    pub(super) fn is_plain(&self) -> bool {
        self.destination.is_none()
            && self.norm.is_none()
            && self.source.pages.is_none()
            && self.source.channel_stride == 1
            && matches!(self.source.storage, Storage::Float(_))
    }

    /// The operands that it takes, with the bytes of each.
    pub(crate) fn operands(
        &self,
        names: &StreamOperands,
        batch: u32,
        tokens: u32,
    ) -> Result<Vec<(Operand, u64)>> {
        let name = names.source;
        let mut all = vec![(name, self.source.bytes(name.name(), batch, tokens)?)];
        if let Some(destination) = self.destination {
            let name = names.destination;
            all.push((name, destination.bytes(name.name(), batch, tokens)?));
            let scales = names.destination_scales;
            let bytes = destination.scale_bytes(scales, batch, tokens)?;
            all.extend(bytes.map(|bytes| (scales, bytes)));
        }
        let scales = names.source_scales;
        let bytes = self.source.scale_bytes(scales, batch, tokens)?;
        all.extend(bytes.map(|bytes| (scales, bytes)));
        if let Some((norm, element)) = self.norm.and_then(|norm| Some((norm, norm.weight_type()?)))
        {
            let bytes = norm
                .channels(self.source.layout)
                .checked_mul(element.bytes())
                .and_then(|bytes| bytes.checked_next_multiple_of(4))
                .ok_or_else(|| RopeError::overflow(names.weight.name(), "bytes must fit u64"))?;
            all.push((names.weight, bytes));
        }
        Ok(all)
    }

    pub(super) fn validate(
        &self,
        names: &StreamOperands,
        batch: u32,
        tokens: u32,
        head_dim: Option<u32>,
    ) -> Result<()> {
        let (source, name) = (&self.source, names.source.name());
        if let Some(head_dim) = head_dim.filter(|head_dim| *head_dim != source.layout.head_dim) {
            return Err(RopeError::layout(
                name,
                format!("head_dim must be the configuration's {head_dim}"),
                source.layout.head_dim,
            ));
        }
        source.validate(name, batch, tokens)?;
        if source.channel_stride != 1 || source.accumulates {
            return Err(RopeError::layout(
                name,
                "a channel stride and accumulation are a destination's",
                format!("{}, {}", source.channel_stride, source.accumulates),
            ));
        }
        if let Some(norm) = self.norm {
            norm.validate(name)?;
        }
        if let Some(destination) = &self.destination {
            let (from, to) = (source.layout, destination.layout);
            let name = names.destination.name();
            if [from.heads, from.head_dim] != [to.heads, to.head_dim] {
                return Err(RopeError::layout(
                    name,
                    format!(
                        "must have the heads and head_dim of its source, [{}, {}]",
                        from.heads, from.head_dim
                    ),
                    format!("[{}, {}]", to.heads, to.head_dim),
                ));
            }
            destination.validate(name, batch, tokens)?;
        }
        Ok(())
    }
}
