//! What a caller wants rotated.

use crate::config::{MAX_HEAD_DIM, RopeConfig};
use crate::error::{Result, RopeError};
use crate::frequencies::Frequencies;
use crate::layout::{ElementType, HeadLayout};
use crate::plan::norm::{Norm, QueryFactor};
use crate::plan::operand::{Operand, STREAMS};
use crate::plan::stream::Stream;
use crate::plan::view::TensorView;

/// Most heads that one invocation rotates with the same cos and sin.
pub const MAX_HEADS_PER_INVOCATION: u32 = 8;

/// Most heads that one invocation loads before it stores the first of them.
pub const MAX_HEADS_AT_ONCE: u32 = 4;

/// Which row of the table a token reads: `batch * batch stride + token * token stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Rows {
    /// Row t for token t of every batch entry: positions shared by the batch.
    #[default]
    Shared,
    /// Row `batch * planned tokens + token`: every token of every entry has its own. The rows of an entry stay where they are when fewer
    /// tokens are recorded; for decoding, plan 1 token, with `rows: 1` in
    /// `Positions::StartPerSequence`.
    PerToken,
    /// Row b for all tokens of batch entry b.
    PerSequence,
    /// Row 0 for all.
    One,
}

impl Rows {
    pub(super) fn strides(self, tokens: u32) -> (u32, u32) {
        match self {
            Self::Shared => (0, 1),
            Self::PerToken => (tokens, 1),
            Self::PerSequence => (1, 0),
            Self::One => (0, 0),
        }
    }
}

/// What a caller wants done: shapes, layouts, element types, pairing and window. No buffers yet.
///
/// A query, or a query and a key, rotated in place; that is all where nothing else is asked for. The other parts are optional, each of them for
/// itself, and all that are asked for happen in one dispatch: norms before the rotation, a factor of the query behind it,
/// destinations of other layouts and types, among them slots of a cache, and a value that goes to its cache beside the key.
///
/// ```
/// use wgpu_rope::{ElementType, HeadLayout, Norm, NormWeight, RopeConfig, RotateSpec, TensorView};
/// // A layer of Qwen3: QK-norm, rotation, K and V to pages of 16 tokens in f16. Q stays where it is.
/// let config = RopeConfig::new(128).with_theta(1e6);
/// let (tokens, f32, f16) = (512, ElementType::F32, ElementType::F16);
/// let norm = Norm::rms(1e-6, NormWeight::Scale(ElementType::F32));
/// let pages = TensorView::cache(HeadLayout::bshd(16, 8, 128), 1024, 16, f16);
/// let spec = RotateSpec::new(&config, 1, tokens, HeadLayout::bshd(tokens, 32, 128), f32)
///     .with_key(HeadLayout::bshd(tokens, 8, 128), f32)
///     .with_value(HeadLayout::bshd(tokens, 8, 128), f32)
///     .with_query_norm(norm)
///     .with_key_norm(norm)
///     .with_key_to(pages)
///     .with_value_to(pages);
/// # let _ = spec;
/// ```
///
/// ```
/// use wgpu_rope::{ElementType, HeadLayout, RopeConfig, RotateSpec};
/// let config = RopeConfig::new(128);
/// let spec = RotateSpec::new(&config, 1, 4096, HeadLayout::bshd(4096, 32, 128), ElementType::F32)
///     .with_key(HeadLayout::bshd(4096, 8, 128), ElementType::F32);
/// # let _ = spec;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RotateSpec {
    pub(super) config: RopeConfig,
    pub(super) batch: u32,
    pub(super) tokens: u32,
    /// Of query, key and value: where they come from, where they go, what is done first.
    pub(super) query: TensorView,
    pub(super) others: [Option<TensorView>; 2],
    pub(super) destinations: [Option<TensorView>; 3],
    pub(super) norms: [Option<Norm>; 3],
    pub(super) factor: QueryFactor,
    pub(super) is_rotated: bool,
    pub(super) rows: Rows,
    idle: Idle,
    /// Of the window, where the caller said so.
    rotated_pairs: Option<u32>,
    pub(super) heads_per_invocation: Option<u32>,
    pub(super) heads_at_once: Option<u32>,
    pub(super) workgroup: Option<u32>,
}

/// Pairs without a frequency and a factor. They are not turned: `1 x - 0 y` would not be x where y is infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Idle {
    /// Pairs before the first of those at the end of the window; one at least, so that there is something to dispatch.
    rotated: u32,
    /// Whether there are others before that: then any entry (1, 0) leaves its pair as it is.
    within: bool,
}

impl Idle {
    /// Of a configuration, which need not be valid yet.
    #[expect(clippy::float_cmp, reason = "a factor of exactly 1 changes no bit")]
    fn of(config: &RopeConfig) -> Self {
        let is_unscaled = config.attention_factor() == 1.0;
        let pairs = 0..config.rotary_dim().min(MAX_HEAD_DIM) as usize / 2;
        Self::new(pairs.map(|k| is_unscaled && config.scaling().leaves(k)))
    }

    /// From whether each pair of the window is one.
    fn new(pairs: impl DoubleEndedIterator<Item = bool> + ExactSizeIterator + Clone) -> Self {
        let rotated = pairs.clone().rposition(|idle| !idle).map_or(0, |k| k + 1);
        Self {
            rotated: u32::try_from(rotated.max(1)).unwrap_or(u32::MAX),
            within: rotated == 0 || pairs.take(rotated).any(|idle| idle),
        }
    }
}

/// One tensor of a rotation in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Side {
    pub(super) operand: &'static str,
    pub(super) layout: HeadLayout,
    pub(super) element: ElementType,
}

impl RotateSpec {
    /// One tensor of `batch` entries of at most `tokens` tokens (ragged sequences: a batch of 1).
    ///
    /// Of the configuration the rotation takes the head dimension, the rotary window and the pairing, and of the scaling no more than which
    /// pairs it leaves without a frequency ([`Scaling::Proportional`](crate::Scaling::Proportional), infinite
    /// [`Scaling::FrequencyFactors`](crate::Scaling::FrequencyFactors)): where nothing scales them either, they are not turned. Theta, the
    /// rest of the scaling and the axes are the table's business, by [`Frequencies`], though they have to be valid: one rotation serves
    /// tables of any frequencies of its width.
    #[must_use]
    pub fn new(
        config: &RopeConfig,
        batch: u32,
        tokens: u32,
        query: HeadLayout,
        element: ElementType,
    ) -> Self {
        Self {
            config: config.clone(),
            batch,
            tokens,
            query: TensorView::new(query, element),
            others: [None; 2],
            destinations: [None; 3],
            norms: [None; 3],
            factor: QueryFactor::One,
            is_rotated: true,
            rows: Rows::Shared,
            idle: Idle::of(config),
            rotated_pairs: None,
            heads_per_invocation: None,
            heads_at_once: None,
            workgroup: None,
        }
    }

    /// A second tensor of the same tokens and positions, rotated in the same dispatch.
    #[must_use]
    pub fn with_key(self, key: HeadLayout, element: ElementType) -> Self {
        self.with_key_from(TensorView::new(key, element))
    }

    /// A value of the same tokens, which is not rotated: it goes to its destination beside the key. Its head dimension is its own.
    #[must_use]
    pub fn with_value(self, value: HeadLayout, element: ElementType) -> Self {
        self.with_value_from(TensorView::new(value, element))
    }

    /// The query from any view in place of that of [`RotateSpec::new`]. "Query" is the first tensor, whatever it holds: for example the keys of a
    /// cache, which a context shift rotates where they lie.
    #[must_use]
    pub fn with_query_from(self, source: TensorView) -> Self {
        Self {
            query: source,
            ..self
        }
    }

    /// The key from any view.
    #[must_use]
    pub fn with_key_from(self, source: TensorView) -> Self {
        self.with_other(0, source)
    }

    /// The value from any view.
    #[must_use]
    pub fn with_value_from(self, source: TensorView) -> Self {
        self.with_other(1, source)
    }

    fn with_other(mut self, other: usize, source: TensorView) -> Self {
        self.others[other] = Some(source);
        self
    }

    /// Where the query is written; without it, in place. A destination is either exactly the source (same place, layout and type) or shares no
    /// element with it.
    #[must_use]
    pub fn with_query_to(self, destination: TensorView) -> Self {
        self.with_destination(0, destination)
    }

    /// Where the key is written; without it, in place.
    #[must_use]
    pub fn with_key_to(self, destination: TensorView) -> Self {
        self.with_destination(1, destination)
    }

    /// Where the value is written; without it, in place (which takes a norm to do anything).
    #[must_use]
    pub fn with_value_to(self, destination: TensorView) -> Self {
        self.with_destination(2, destination)
    }

    fn with_destination(mut self, stream: usize, destination: TensorView) -> Self {
        self.destinations[stream] = Some(destination);
        self
    }

    /// A norm of the query, before its rotation.
    #[must_use]
    pub fn with_query_norm(self, norm: Norm) -> Self {
        self.with_norm(0, norm)
    }

    /// A norm of the key, before its rotation.
    #[must_use]
    pub fn with_key_norm(self, norm: Norm) -> Self {
        self.with_norm(1, norm)
    }

    /// A norm of the value.
    #[must_use]
    pub fn with_value_norm(self, norm: Norm) -> Self {
        self.with_norm(2, norm)
    }

    fn with_norm(mut self, stream: usize, norm: Norm) -> Self {
        self.norms[stream] = Some(norm);
        self
    }

    /// A factor of the query behind its rotation: the softmax scale, or one by position.
    #[must_use]
    pub fn with_query_factor(self, factor: QueryFactor) -> Self {
        Self { factor, ..self }
    }

    /// Rotates nothing: layers without RoPE still have norms, factors and caches. The table's rows are not read then.
    #[must_use]
    pub fn without_rotation(self) -> Self {
        Self {
            is_rotated: false,
            ..self
        }
    }

    /// Which row of the table a token reads.
    #[must_use]
    pub fn with_rows(self, rows: Rows) -> Self {
        Self { rows, ..self }
    }

    /// Does not turn the pairs that have no frequency and no factor in these frequencies: in a rotation in place they keep every bit. A
    /// configuration tells by itself ([`RotateSpec::new`]); frequencies that are given ([`Frequencies::from_pairs`]) have to say so. Where
    /// such a pair stands before one that turns, every entry (1, 0) leaves its pair as it is, also those of position 0.
    #[must_use]
    pub fn with_frequencies(self, frequencies: &Frequencies) -> Self {
        Self {
            idle: Idle::new((0..frequencies.len()).map(|k| frequencies.is_idle(k))),
            ..self
        }
    }

    /// Turns the first so many pairs of the window only (1 up to all of them), whatever the entries of the others: in a rotation in place
    /// these keep every bit. (A pairing that moves pairs still moves them; norms and factors are of the whole head.)
    #[must_use]
    pub fn with_rotated_pairs(self, pairs: u32) -> Self {
        Self {
            rotated_pairs: Some(pairs),
            ..self
        }
    }

    /// So many heads (1 to 8) for one load of cos and sin; fewer where the tensor has no more, and where several are loaded at once the
    /// largest divisor of the head count. Chosen from the shape and the kind of device where it is not given.
    #[must_use]
    pub fn with_heads_per_invocation(self, heads: u32) -> Self {
        Self {
            heads_per_invocation: Some(heads),
            ..self
        }
    }

    /// At most so many (1 to 4) of an invocation's heads are loaded before the first of them is stored; the largest divisor up to it
    /// is taken. Where it is not given, 4 on a GPU, which then waits for memory once, and 1 on a CPU, which has few registers. It counts
    /// where an invocation takes 16 bytes at a time; where pairs move, all are loaded first.
    #[must_use]
    pub fn with_heads_at_once(self, heads: u32) -> Self {
        Self {
            heads_at_once: Some(heads),
            ..self
        }
    }

    /// Invocations of a workgroup (1 up to the device's limit). Chosen from the shape where it is not given. Where pairs move it is rounded
    /// to whole heads.
    #[must_use]
    pub fn with_workgroup(self, invocations: u32) -> Self {
        Self {
            workgroup: Some(invocations),
            ..self
        }
    }

    /// Entries of the batch.
    #[must_use]
    pub fn batch(&self) -> u32 {
        self.batch
    }

    /// Most tokens of a batch entry.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Pairing and window.
    #[must_use]
    pub fn config(&self) -> &RopeConfig {
        &self.config
    }

    /// The query's source.
    #[must_use]
    pub fn query(&self) -> &TensorView {
        &self.query
    }

    /// The key's source, if there is one.
    #[must_use]
    pub fn key(&self) -> Option<&TensorView> {
        self.others[0].as_ref()
    }

    /// The value's source, if there is one.
    #[must_use]
    pub fn value(&self) -> Option<&TensorView> {
        self.others[1].as_ref()
    }

    /// Where the query goes, if it does.
    #[must_use]
    pub fn query_to(&self) -> Option<&TensorView> {
        self.destinations[0].as_ref()
    }

    /// Where the key goes, if it does.
    #[must_use]
    pub fn key_to(&self) -> Option<&TensorView> {
        self.destinations[1].as_ref()
    }

    /// Where the value goes, if it does.
    #[must_use]
    pub fn value_to(&self) -> Option<&TensorView> {
        self.destinations[2].as_ref()
    }

    /// The query's norm, if it has one.
    #[must_use]
    pub fn query_norm(&self) -> Option<Norm> {
        self.norms[0]
    }

    /// The key's norm, if it has one.
    #[must_use]
    pub fn key_norm(&self) -> Option<Norm> {
        self.norms[1]
    }

    /// The value's norm, if it has one.
    #[must_use]
    pub fn value_norm(&self) -> Option<Norm> {
        self.norms[2]
    }

    /// Query, key and value, those that are there.
    pub(crate) fn streams(&self) -> [Option<Stream>; 3] {
        let [key, value] = self.others;
        let sources = [Some(self.query), key, value];
        [0, 1, 2].map(|n| {
            Some(Stream {
                source: sources[n]?,
                destination: self.destinations[n],
                norm: self.norms[n],
            })
        })
    }

    /// The factor of the rotated query.
    #[must_use]
    pub fn query_factor(&self) -> QueryFactor {
        self.factor
    }

    /// Whether anything is rotated ([`RotateSpec::without_rotation`]).
    #[must_use]
    pub fn is_rotated(&self) -> bool {
        self.is_rotated
    }

    /// Which row of the table a token reads.
    #[must_use]
    pub fn rows(&self) -> Rows {
        self.rows
    }

    /// Heads for one load of cos and sin, where the caller chose.
    #[must_use]
    pub fn heads_per_invocation(&self) -> Option<u32> {
        self.heads_per_invocation
    }

    /// Heads that are loaded before the first is stored, where the caller chose.
    #[must_use]
    pub fn heads_at_once(&self) -> Option<u32> {
        self.heads_at_once
    }

    /// Invocations of a workgroup, where the caller chose.
    #[must_use]
    pub fn workgroup(&self) -> Option<u32> {
        self.workgroup
    }

    /// Whether it is no more than a rotation in place.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_rotated
            && self.factor == QueryFactor::One
            && self.value().is_none()
            && self.streams().iter().flatten().all(Stream::is_plain)
    }

    /// Where the lists of slots that are read begin in those of the table, in order and each once.
    pub(crate) fn slot_lists(&self) -> Vec<u32> {
        let streams = self.streams().into_iter().flatten();
        let mut lists: Vec<_> = streams
            .flat_map(|stream| [Some(stream.source), stream.destination])
            .filter_map(|view| view.filter(|view| view.pages.is_some()))
            .map(|view| view.first_slot)
            .collect();
        lists.sort_unstable();
        lists.dedup();
        lists
    }

    /// Slots of the table that are read when all tokens are taken: one past the last.
    #[must_use]
    pub fn slots_needed(&self) -> u32 {
        self.slot_lists().last().map_or(0, |first| {
            first.saturating_add(self.batch.saturating_mul(self.tokens))
        })
    }

    /// Factors of the query by row that are read when all tokens are taken.
    pub(crate) fn factors_needed(&self) -> u64 {
        match self.factor {
            QueryFactor::PerRow => self.rows_needed(self.tokens),
            _ => 0,
        }
    }

    /// What has to be bound, in this order, and how many bytes of each from its origin on.
    ///
    /// # Errors
    /// Those of [`RotateSpec::validate`].
    pub fn operands(&self) -> Result<Vec<(Operand, u64)>> {
        let mut all = Vec::new();
        for (stream, names) in self.streams().iter().zip(&STREAMS) {
            if let Some(stream) = stream {
                all.extend(stream.operands(names, self.batch, self.tokens)?);
            }
        }
        Ok(all)
    }

    /// Pairs of the window that are turned, the first ones: all, but where [`RotateSpec::with_rotated_pairs`] or frequencies say otherwise.
    #[must_use]
    pub fn rotated_pairs(&self) -> u32 {
        self.rotated_pairs
            .map_or(self.idle.rotated, |pairs| pairs.min(self.idle.rotated))
    }

    /// Whether an entry (1, 0) leaves its pair as it is, wherever it stands.
    pub(crate) fn identity_keeps(&self) -> bool {
        self.idle.within
    }

    /// The table row that a token reads.
    #[must_use]
    pub fn row(&self, batch: u32, token: u32) -> u64 {
        let (per_batch, per_token) = self.rows.strides(self.tokens);
        u64::from(batch) * u64::from(per_batch) + u64::from(token) * u64::from(per_token)
    }

    /// How many rows of the table are read when `tokens` tokens are rotated.
    #[must_use]
    pub fn rows_needed(&self, tokens: u32) -> u64 {
        if tokens == 0 || !(self.is_rotated || self.factor == QueryFactor::PerRow) {
            return 0;
        }
        self.row(self.batch.saturating_sub(1), tokens - 1) + 1
    }

    /// Checks everything that does not depend on a device.
    ///
    /// # Errors
    /// [`RopeError::Config`], [`RopeError::Layout`] or [`RopeError::Overflow`], naming the operand.
    pub fn validate(&self) -> Result<()> {
        self.config.validate()?;
        for (name, count) in [("batch", self.batch), ("tokens", self.tokens)] {
            if count == 0 {
                return Err(RopeError::layout(name, "must be at least 1", 0));
            }
        }
        if u32::try_from(self.rows_needed(self.tokens)).is_err() {
            return Err(RopeError::overflow(
                "rows",
                "batch times tokens must fit u32",
            ));
        }
        for (name, heads, most) in [
            (
                "heads per invocation",
                self.heads_per_invocation,
                MAX_HEADS_PER_INVOCATION,
            ),
            ("heads at once", self.heads_at_once, MAX_HEADS_AT_ONCE),
        ] {
            if let Some(heads) = heads.filter(|heads| !(1..=most).contains(heads)) {
                return Err(RopeError::layout(
                    name,
                    format!("must be from 1 to {most}"),
                    heads,
                ));
            }
        }
        let pairs = self.config.rotary_dim() / 2;
        if self.idle.rotated > pairs {
            return Err(RopeError::config(
                "frequencies",
                format!("must be at most {pairs} pairs"),
                self.idle.rotated,
            ));
        }
        if let Some(rotated) = self.rotated_pairs.filter(|n| !(1..=pairs).contains(n)) {
            return Err(RopeError::layout(
                "rotated pairs",
                format!("must be from 1 to {pairs}"),
                rotated,
            ));
        }
        if self.workgroup == Some(0) {
            return Err(RopeError::layout("workgroup", "must be at least 1", 0));
        }
        for (n, (stream, names)) in self.streams().iter().zip(&STREAMS).enumerate() {
            let Some(stream) = stream else {
                if self.destinations[n].is_some() || self.norms[n].is_some() {
                    return Err(RopeError::layout(
                        names.source.name(),
                        "must be given where it has a destination or a norm",
                        "none",
                    ));
                }
                continue;
            };
            // The value's is its own.
            let head_dim = (n < 2).then(|| self.config.head_dim());
            stream.validate(names, self.batch, self.tokens, head_dim)?;
            if n == 2 && stream.destination.is_none() && stream.norm.is_none() {
                return Err(RopeError::layout(
                    "value",
                    "must have a destination or a norm: it is not rotated",
                    "neither",
                ));
            }
        }
        if self.is_plain() {
            let (query, key) = self.sides();
            for side in [Some(query), key].into_iter().flatten() {
                side.layout
                    .check_words(side.operand, self.batch, self.tokens, side.element)?;
            }
        }
        if let QueryFactor::Constant(factor) = self.factor {
            if !factor.is_finite() {
                return Err(RopeError::config("query factor", "must be finite", factor));
            }
        }
        Ok(())
    }

    /// Query and key of a plain rotation.
    pub(super) fn sides(&self) -> (Side, Option<Side>) {
        let side = |view: &TensorView, operand: Operand| Side {
            operand: operand.name(),
            layout: view.layout,
            // A plain rotation has no other storage.
            element: view.storage.element().unwrap_or_default(),
        };
        let key = self.key().map(|key| side(key, Operand::Key));
        (side(&self.query, Operand::Query), key)
    }
}
