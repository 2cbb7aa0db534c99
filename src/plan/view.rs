//! Tensors as sources and destinations: how channels are stored, and where heads stand.

use std::fmt;

use super::operand::Operand;
use crate::error::{Result, RopeError};
use crate::layout::{ElementType, HeadLayout};

/// How a tensor's channels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Storage {
    /// As they are, in a floating-point type.
    Float(ElementType),
    /// Blocks of 32 channels of a head: an f16 scale and 32 signed bytes, 34 bytes (ggml's `Q8_0`). A channel is the product of both. The scale is
    /// the largest magnitude of the block over 127, a byte the nearest whole number to the quotient by it, halves away from 0, so a
    /// channel is off by at most half a scale, and what rounding the scale to f16 adds: 127 halves of its unit.
    Q8_0,
    /// Signed bytes, with one f32 scale for each head of each token in a tensor of their own: the same rule, without rounding the scale.
    /// The scale of the head whose first channel is element e stands at index `e / head_dim`, so in a contiguous tensor scales
    /// are `[.., heads]` as its heads are.
    Int8,
}

impl From<ElementType> for Storage {
    fn from(element: ElementType) -> Self {
        Self::Float(element)
    }
}

/// Channels of a block of [`Storage::Q8_0`], and its bytes.
const BLOCK: u64 = 32;
const BLOCK_BYTES: u64 = 34;

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(element) => element.fmt(f),
            Self::Q8_0 => f.write_str("q8_0"),
            Self::Int8 => f.write_str("int8"),
        }
    }
}

impl Storage {
    pub(crate) fn element(self) -> Option<ElementType> {
        match self {
            Self::Float(element) => Some(element),
            _ => None,
        }
    }

    /// The value of the shader's override constants.
    pub(super) fn constant(self) -> f64 {
        match self {
            Self::Float(element) => element.constant(),
            Self::Q8_0 => 3.0,
            Self::Int8 => 4.0,
        }
    }

    /// The bytes of so many channels that begin a tensor: whole blocks.
    pub(crate) fn bytes(self, channels: u64) -> Option<u64> {
        match self {
            Self::Float(element) => channels.checked_mul(element.bytes()),
            Self::Q8_0 => channels.div_ceil(BLOCK).checked_mul(BLOCK_BYTES),
            Self::Int8 => Some(channels),
        }
    }

    /// Channels that a head, a stride and an offset have to be a multiple of.
    fn granule(self, head_dim: u32) -> u64 {
        match self {
            Self::Float(_) => 1,
            Self::Q8_0 => BLOCK,
            Self::Int8 => head_dim.into(),
        }
    }
}

/// A tensor of heads: source or destination of a stream.
///
/// ```
/// use wgpu_rope::{ElementType, HeadLayout, Storage, TensorView};
/// // K of one layer of a paged cache, NHD: [pages, 16, 8, 128], f16.
/// let pages = TensorView::cache(HeadLayout::bshd(16, 8, 128), 1024, 16, ElementType::F16);
/// // HND: [pages, 8, 16, 128], in blocks of 32 with a scale.
/// let pages = TensorView::cache(HeadLayout::bhsd(16, 8, 128), 1024, 16, Storage::Q8_0);
/// // A contiguous cache [batch, 8, 4096, 128]: a page for each sequence.
/// let cache = TensorView::cache(HeadLayout::bhsd(4096, 8, 128), 4, 4096, ElementType::Bf16);
/// // K transposed to [batch, 8, 128, tokens].
/// let tokens = 512;
/// let transposed = TensorView::new(
///     HeadLayout::bshd(tokens, 8, 128).with_strides(8 * 128 * 512, 1, 128 * 512),
///     ElementType::F32,
/// )
/// .with_channel_stride(tokens);
/// # let _ = (pages, cache, transposed);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorView {
    pub(crate) layout: HeadLayout,
    pub(crate) storage: Storage,
    pub(crate) pages: Option<SlotView>,
    /// Where the list of a cache's slots begins in those of the table.
    pub(crate) first_slot: u32,
    pub(crate) channel_stride: u32,
    pub(crate) accumulates: bool,
}

/// Tokens in slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SlotView {
    pub(crate) pages: u32,
    pub(crate) page_size: u32,
}

impl SlotView {
    /// Slots of the cache, which has been validated.
    pub(crate) fn slots(self) -> u32 {
        self.pages.saturating_mul(self.page_size)
    }
}

impl TensorView {
    /// A tensor whose tokens stand by batch entry and token, as the layout says.
    #[must_use]
    pub fn new(layout: HeadLayout, storage: impl Into<Storage>) -> Self {
        Self {
            layout,
            storage: storage.into(),
            pages: None,
            first_slot: 0,
            channel_stride: 1,
            accumulates: false,
        }
    }

    /// A cache whose tokens stand in **slots**: slot s is place `s % page_size` of page `s / page_size`. In the layout a page is a batch entry
    /// and a place a token. Which slot a token has is in the table ([`TableSpec::with_slots`](crate::TableSpec::with_slots)), batch
    /// entry b's token t at `b * planned tokens + t`. A token whose slot is not in the cache (-1, by custom) is skipped. No two tokens of a
    /// recording may have the same slot: what is left there is a mixture of both, and sums lose terms.
    ///
    /// A dispatch binds the whole cache, which therefore has to fit the device's `max_storage_buffer_binding_size` (128 MiB by default).
    #[must_use]
    pub fn cache(
        layout: HeadLayout,
        pages: u32,
        page_size: u32,
        storage: impl Into<Storage>,
    ) -> Self {
        Self {
            pages: Some(SlotView { pages, page_size }),
            ..Self::new(layout, storage)
        }
    }

    /// A cache's slots are those of the table from this one on: a second list, where tokens go from slots to other slots. No token may go to the slot of
    /// another that is read: the lists are on the device, where nobody compares them.
    #[must_use]
    pub fn with_first_slot(self, first_slot: u32) -> Self {
        Self { first_slot, ..self }
    }

    /// Elements from a channel to the next, for destinations of floating-point types. Strides of the layout are as they are.
    #[must_use]
    pub fn with_channel_stride(self, channel_stride: u32) -> Self {
        Self {
            channel_stride,
            ..self
        }
    }

    /// What is written is added to what is there: gradients. For destinations of floating-point types.
    #[must_use]
    pub fn accumulated(self) -> Self {
        Self {
            accumulates: true,
            ..self
        }
    }

    /// Shape, strides and offset.
    #[must_use]
    pub fn layout(&self) -> HeadLayout {
        self.layout
    }

    /// How channels are stored.
    #[must_use]
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Of a cache, its pages and the places of each.
    #[must_use]
    pub fn pages(&self) -> Option<[u32; 2]> {
        self.pages.map(|pages| [pages.pages, pages.page_size])
    }

    /// Of a cache, where its list of slots begins in those of the table.
    #[must_use]
    pub fn first_slot(&self) -> u32 {
        self.first_slot
    }

    /// Elements from a channel to the next.
    #[must_use]
    pub fn channel_stride(&self) -> u32 {
        self.channel_stride
    }

    /// Whether what is written is added.
    #[must_use]
    pub fn is_accumulated(&self) -> bool {
        self.accumulates
    }

    /// How often the two outer axes go: batch entries and tokens, or pages and places of one.
    pub(crate) fn counts(&self, batch: u32, tokens: u32) -> [u32; 2] {
        match self.pages {
            Some(pages) => [pages.pages, pages.page_size],
            None => [batch, tokens],
        }
    }

    /// One past the last channel's index.
    fn end(&self, batch: u32, tokens: u32) -> Option<u64> {
        let [outer, inner] = self.counts(batch, tokens);
        let last = u64::from(self.layout.head_dim.checked_sub(1)?);
        let end = self.layout.end(outer, inner).ok()? - last - 1;
        end.checked_add(last.checked_mul(self.channel_stride.into())?)?
            .checked_add(1)
    }

    /// Bytes from the origin to the end, whole words.
    pub(crate) fn bytes(&self, operand: &'static str, batch: u32, tokens: u32) -> Result<u64> {
        self.end(batch, tokens)
            .and_then(|end| self.storage.bytes(end))
            .and_then(|bytes| bytes.checked_next_multiple_of(4))
            .ok_or_else(|| RopeError::overflow(operand, "byte offsets must fit u64"))
    }

    /// Bytes of the scales, where there are some.
    pub(super) fn scale_bytes(
        &self,
        scales: Operand,
        batch: u32,
        tokens: u32,
    ) -> Result<Option<u64>> {
        if self.storage != Storage::Int8 {
            return Ok(None);
        }
        self.end(batch, tokens)
            .and_then(|end| end.checked_div(self.layout.head_dim.into())?.checked_mul(4))
            .ok_or_else(|| RopeError::overflow(scales.name(), "byte offsets must fit u64"))
            .map(Some)
    }

    pub(super) fn validate(&self, operand: &'static str, batch: u32, tokens: u32) -> Result<()> {
        let layout = &self.layout;
        for (count, rule) in [
            (layout.heads, "heads must be at least 1"),
            (layout.head_dim, "head_dim must be at least 1"),
        ] {
            if count == 0 {
                return Err(RopeError::layout(operand, rule, 0));
            }
        }
        if let Some(pages) = self.pages {
            let slots = u64::from(pages.pages) * u64::from(pages.page_size);
            if slots == 0 || i32::try_from(slots).is_err() {
                return Err(RopeError::layout(
                    operand,
                    "pages times page_size must be from 1 to 2^31 - 1 slots",
                    format!("{} times {}", pages.pages, pages.page_size),
                ));
            }
        }
        if self.pages.is_none() && self.first_slot != 0 {
            return Err(RopeError::layout(
                operand,
                "a first slot is a cache's (TensorView::cache)",
                self.first_slot,
            ));
        }
        let is_float = matches!(self.storage, Storage::Float(_));
        if self.channel_stride == 0 || (self.channel_stride != 1 && !is_float) {
            return Err(RopeError::layout(
                operand,
                "channel stride must be at least 1, and 1 where channels are quantised",
                self.channel_stride,
            ));
        }
        if self.accumulates && !is_float {
            return Err(RopeError::layout(
                operand,
                "must be of a floating-point type to be accumulated",
                self.storage,
            ));
        }
        let [outer, inner] = self.counts(batch, tokens);
        let granule = self.storage.granule(layout.head_dim);
        for (name, length, count) in [
            ("head_dim", layout.head_dim.into(), 2),
            ("offset", layout.offset, 2),
            ("batch stride", layout.batch_stride, outer),
            ("token stride", layout.token_stride, inner),
            ("head stride", layout.head_stride, layout.heads),
        ] {
            if count > 1 && !length.is_multiple_of(granule) {
                return Err(RopeError::layout(
                    operand,
                    format!("{name} of {} must be a multiple of {granule}", self.storage),
                    length,
                ));
            }
        }
        self.bytes(operand, batch, tokens)?;
        layout.check_disjoint(operand, outer, inner, self.channel_stride)
    }

    /// Whether two views of one buffer share a byte, given the bytes before their origins; itself excluded by the caller.
    pub(crate) fn meets(
        &self,
        other: &Self,
        origins: [u64; 2],
        batch: u32,
        tokens: u32,
    ) -> Option<bool> {
        let terms = |view: &Self| {
            let unit = |channels: u64| view.storage.bytes(channels);
            let [outer, inner] = view.counts(batch, tokens);
            // A stride that is never taken need not fit.
            let taken = |stride: u64, count: u32| if count > 1 { unit(stride) } else { Some(0) };
            let layout = view.layout;
            let (channels, extent) = if view.channel_stride == 1 {
                (1, unit(layout.head_dim.into())?)
            } else {
                (layout.head_dim, unit(1)?)
            };
            Some((
                [
                    (taken(layout.batch_stride, outer)?, outer),
                    (taken(layout.token_stride, inner)?, inner),
                    (taken(layout.head_stride, layout.heads)?, layout.heads),
                    (taken(view.channel_stride.into(), channels)?, channels),
                ],
                extent,
                unit(layout.offset)?,
            ))
        };
        let (a, a_extent, a_offset) = terms(self)?;
        let (b, b_extent, b_offset) = terms(other)?;
        let apart = i128::from(origins[1]) + i128::from(b_offset)
            - i128::from(origins[0])
            - i128::from(a_offset);
        Some(crate::layout::strided_meet(
            (&a, a_extent),
            (&b, b_extent),
            apart,
        ))
    }
}
