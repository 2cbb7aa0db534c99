//! What a caller wants rotated.

use crate::config::RopeConfig;
use crate::error::{Result, RopeError};
use crate::frequencies::Frequencies;
use crate::layout::{ElementType, HeadLayout};

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

/// What a caller wants rotated, in place: shapes, layouts, element types, pairing and window. No buffers yet.
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
    pub(super) query: Side,
    pub(super) key: Option<Side>,
    pub(super) rows: Rows,
    pub(super) idle: Idle,
    pub(super) heads_per_invocation: Option<u32>,
    pub(super) heads_at_once: Option<u32>,
    pub(super) workgroup: Option<u32>,
}

/// Pairs that are left alone, bit for bit: `1 x - 0 y` would not be x where y is infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Idle {
    /// Pairs before the first of those at the end of the window.
    pub(super) rotated: u32,
    /// Whether there are others before that: then any entry (1, 0) leaves its pair alone.
    pub(super) within: bool,
}

/// One tensor of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Side {
    pub(super) layout: HeadLayout,
    pub(super) element: ElementType,
}

impl RotateSpec {
    /// One tensor of `batch` entries of at most `tokens` tokens (ragged sequences: a batch of 1). The configuration gives
    /// head dimension, pairing and window; its frequencies are the table's business.
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
            query: Side {
                layout: query,
                element,
            },
            key: None,
            rows: Rows::Shared,
            idle: Idle {
                rotated: config.rotated_pairs(),
                within: false,
            },
            heads_per_invocation: None,
            heads_at_once: None,
            workgroup: None,
        }
    }

    /// A second tensor of the same tokens and positions, rotated in the same dispatch.
    #[must_use]
    pub fn with_key(self, key: HeadLayout, element: ElementType) -> Self {
        Self {
            key: Some(Side {
                layout: key,
                element,
            }),
            ..self
        }
    }

    /// Which row of the table a token reads.
    #[must_use]
    pub fn with_rows(self, rows: Rows) -> Self {
        Self { rows, ..self }
    }

    /// Leaves alone, bit for bit, the pairs that have no frequency and no factor in these frequencies. A configuration tells by itself
    /// ([`Scaling::Proportional`](crate::Scaling::Proportional)); frequencies that are given ([`Frequencies::from_pairs`]) have to say so. Where
    /// such pairs stand before others, a position that does not turn (0, and what a table leaves alone) leaves its pairs alone
    /// too.
    #[must_use]
    pub fn with_frequencies(self, frequencies: &Frequencies) -> Self {
        let idle = (0..frequencies.len()).map(|k| frequencies.is_idle(k));
        let rotated = idle.clone().rposition(|idle| !idle).map_or(0, |k| k + 1);
        Self {
            idle: Idle {
                // One pair at least, so that there is something to dispatch: its entries are (1, 0).
                rotated: u32::try_from(rotated.max(1)).unwrap_or(u32::MAX),
                within: rotated == 0 || idle.take(rotated).any(|idle| idle),
            },
            ..self
        }
    }

    /// Rotates the first so many pairs of the window only: the others are left alone, bit for bit, whatever their entries.
    #[must_use]
    pub fn with_rotated_pairs(self, pairs: u32) -> Self {
        Self {
            idle: Idle {
                rotated: pairs.min(self.idle.rotated).max(1),
                ..self.idle
            },
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

    /// Layout and element type of the query.
    #[must_use]
    pub fn query(&self) -> (HeadLayout, ElementType) {
        (self.query.layout, self.query.element)
    }

    /// Layout and element type of the key, if there is one.
    #[must_use]
    pub fn key(&self) -> Option<(HeadLayout, ElementType)> {
        self.key.map(|key| (key.layout, key.element))
    }

    /// Pairs before the first of those at the end of the window that stay as they are, though they may move.
    pub(crate) fn rotated_pairs(&self) -> usize {
        self.idle.rotated as usize
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
        if tokens == 0 {
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
        if self.idle.rotated > self.config.rotary_dim() / 2 {
            return Err(RopeError::config(
                "frequencies",
                format!("must be at most {} pairs", self.config.rotary_dim() / 2),
                self.idle.rotated,
            ));
        }
        if self.workgroup == Some(0) {
            return Err(RopeError::layout("workgroup", "must be at least 1", 0));
        }
        for (operand, side) in self.sides() {
            if side.layout.head_dim != self.config.head_dim() {
                return Err(RopeError::layout(
                    operand,
                    format!(
                        "head_dim must be the configuration's {}",
                        self.config.head_dim()
                    ),
                    side.layout.head_dim,
                ));
            }
            side.layout
                .validate(operand, self.batch, self.tokens, side.element)?;
        }
        Ok(())
    }

    pub(super) fn sides(&self) -> impl Iterator<Item = (&'static str, Side)> {
        [("query", Some(self.query)), ("key", self.key)]
            .into_iter()
            .filter_map(|(name, side)| Some((name, side?)))
    }
}
