//! The streams of a layer: what goes from where to where, and what is done to it on the way.

use std::fmt;

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
            Self::Float(element) => write!(f, "{element:?}"),
            other => write!(f, "{other:?}"),
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
    pub(crate) channel_stride: u32,
    pub(crate) accumulates: bool,
}

/// Tokens in slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SlotView {
    pub(crate) pages: u32,
    pub(crate) page_size: u32,
    /// Where the list of slots begins in those of the table.
    pub(crate) first_slot: u32,
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
            pages: Some(SlotView {
                pages,
                page_size,
                first_slot: 0,
            }),
            ..Self::new(layout, storage)
        }
    }

    /// Slots are those of the table from this one on: a second list, where tokens go from slots to other slots. No token may go to the slot of
    /// another that is read: the lists are on the device, where nobody compares them.
    #[must_use]
    pub fn with_first_slot(self, first_slot: u32) -> Self {
        let pages = self.pages.map(|pages| SlotView {
            first_slot,
            ..pages
        });
        Self { pages, ..self }
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
    fn scale_bytes(&self, scales: Operand, batch: u32, tokens: u32) -> Result<Option<u64>> {
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

    fn validate(self, operand: &'static str) -> Result<()> {
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

/// A tensor that a rotation is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operand {
    /// The query, read, and written where it has no destination.
    Query,
    /// The key, likewise.
    Key,
    /// The value, likewise.
    Value,
    /// Where the query goes.
    QueryTo,
    /// Where the key goes.
    KeyTo,
    /// Where the value goes.
    ValueTo,
    /// Weights of the query's norm, read.
    QueryWeight,
    /// Weights of the key's norm, read.
    KeyWeight,
    /// Weights of the value's norm, read.
    ValueWeight,
    /// Scales of a query of int8, f32.
    QueryScales,
    /// Scales of a key of int8, f32.
    KeyScales,
    /// Scales of a value of int8, f32.
    ValueScales,
    /// Scales of a destination of int8, f32.
    QueryToScales,
    /// Scales of a destination of int8, f32.
    KeyToScales,
    /// Scales of a destination of int8, f32.
    ValueToScales,
    /// The slots in the table; no more than a place ([`Places::with_table`](crate::Places::with_table)).
    Slots,
    /// The scales of the query by row in the table; no more than a place.
    Scales,
}

impl Operand {
    /// All that are bound.
    #[cfg(feature = "wgpu")]
    pub(crate) const ALL: [Self; 15] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryTo,
        Self::KeyTo,
        Self::ValueTo,
        Self::QueryWeight,
        Self::KeyWeight,
        Self::ValueWeight,
        Self::QueryScales,
        Self::KeyScales,
        Self::ValueScales,
        Self::QueryToScales,
        Self::KeyToScales,
        Self::ValueToScales,
    ];

    /// What errors call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::QueryTo => "query destination",
            Self::KeyTo => "key destination",
            Self::ValueTo => "value destination",
            Self::QueryWeight => "query weight",
            Self::KeyWeight => "key weight",
            Self::ValueWeight => "value weight",
            Self::QueryScales => "query scales",
            Self::KeyScales => "key scales",
            Self::ValueScales => "value scales",
            Self::QueryToScales => "query destination scales",
            Self::KeyToScales => "key destination scales",
            Self::ValueToScales => "value destination scales",
            Self::Slots => "slots",
            Self::Scales => "query scales by row",
        }
    }

    pub(crate) const fn is_weight(self) -> bool {
        matches!(
            self,
            Self::QueryWeight | Self::KeyWeight | Self::ValueWeight
        )
    }
}

/// The operands of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamOperands {
    pub(crate) source: Operand,
    pub(crate) destination: Operand,
    pub(crate) weight: Operand,
    pub(crate) source_scales: Operand,
    pub(crate) destination_scales: Operand,
}

pub(crate) const STREAMS: [StreamOperands; 3] = [
    StreamOperands {
        source: Operand::Query,
        destination: Operand::QueryTo,
        weight: Operand::QueryWeight,
        source_scales: Operand::QueryScales,
        destination_scales: Operand::QueryToScales,
    },
    StreamOperands {
        source: Operand::Key,
        destination: Operand::KeyTo,
        weight: Operand::KeyWeight,
        source_scales: Operand::KeyScales,
        destination_scales: Operand::KeyToScales,
    },
    StreamOperands {
        source: Operand::Value,
        destination: Operand::ValueTo,
        weight: Operand::ValueWeight,
        source_scales: Operand::ValueScales,
        destination_scales: Operand::ValueToScales,
    },
];

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
