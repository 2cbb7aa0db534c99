//! Slots behind a table's rows, and the fills that make them.

use std::sync::Arc;

use super::CosSinTable;
use crate::error::{Result, RopeError};
use crate::kernel::{Step, lock};
use crate::plan::{Resource, SlotPositionSource, SlotRanges, SlotSource};
use crate::slots::SlotRule;

/// Where the slots of tokens come from, for a rotation that writes K and V to a cache. Buffers are the caller's, hold i32, and need
/// [`wgpu::BufferUsages::STORAGE`]; they are read when a recorded fill runs. Whatever they hold, nothing outside of the cache gets a
/// slot: such a token gets -1 and is counted, see [`CosSinTable::skipped_slots`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Slots<'a> {
    /// The caller's own slots (`slot_mapping`): `[batch, tokens]`, or those of a ragged batch as one entry. -1 is no slot. No two
    /// tokens may have the same slot: what a layer leaves there is a mixture of both.
    Listed {
        /// One i32 for each token.
        slot_mapping: wgpu::BufferSlice<'a>,
        /// Batch entries.
        batch: u32,
        /// Tokens of each, as planned: what a recording fills may be fewer.
        tokens: u32,
        /// Slots of the cache: `pages * page_size`, or `sequences * capacity` of a contiguous one.
        capacity: u32,
    },
    /// Slots that follow from positions by a rule. Batch entry b is sequence b of the cache, and there are as many entries as
    /// sequences, except for [`SlotPositions::Ragged`].
    Placed {
        /// The rule.
        rule: SlotRule,
        /// Tokens of each sequence, as planned: what a recording fills may be fewer. All tokens, for [`SlotPositions::Ragged`].
        tokens: u32,
        /// The positions.
        positions: SlotPositions<'a>,
        /// The block table `[sequences, pages_per_sequence]` of a rule with pages, one i32 for each page; none for a contiguous cache.
        block_table: Option<wgpu::BufferSlice<'a>>,
    },
}

/// Positions that slots follow from. They should be those of the rows: the same buffers can be bound. Positions that count on wrap, as
/// those of rows do; a negative one has no slot.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum SlotPositions<'a> {
    /// Token t of every sequence has position `start + t`.
    From(i32),
    /// The same with a start in a buffer (one i32).
    Start(wgpu::BufferSlice<'a>),
    /// The same with a start for each sequence (one i32 each).
    StartPerSequence(wgpu::BufferSlice<'a>),
    /// A position for each token (one i32 each), the same for every sequence.
    SharedIds(wgpu::BufferSlice<'a>),
    /// A position for each sequence and token: `[sequences, tokens]`.
    Ids(wgpu::BufferSlice<'a>),
    /// Tokens of any sequence in any order, as one batch entry.
    Ragged {
        /// The position of each token.
        ids: wgpu::BufferSlice<'a>,
        /// The sequence of each token.
        sequences: wgpu::BufferSlice<'a>,
    },
}

/// What the fill of slots that was recorded last makes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FilledSlots {
    batch: u32,
    /// From an entry to the next.
    stride: u32,
    tokens: u32,
}

impl CosSinTable {
    /// Makes the fill of a table's slots. It can be recorded any number of times, before or after the fill of its rows.
    ///
    /// # Errors
    /// [`RopeError::Table`] for a table that was specified with fewer slots than there are tokens
    /// ([`TableSpec::with_slots`](crate::TableSpec::with_slots)); [`RopeError::Buffer`] where a buffer has not the usage `STORAGE`,
    /// starts at a byte that is not a multiple of 4 or is too small, or where a block table is given
    /// without pages or pages without it; [`RopeError::Layout`] for no tokens; [`RopeError::Limit`] and [`RopeError::Count`] where it fits
    /// no binding or takes thousands of dispatches; [`RopeError::Device`] where wgpu refuses an object (a buffer of another device,
    /// say), or the device is lost.
    pub fn bind_slots(&self, slots: Slots<'_>) -> Result<SlotFill> {
        let (source, given) = Given::new(slots)?;
        for (operand, slice) in given.each() {
            self.check_source(operand, slice)?;
        }
        let ranges = SlotRanges {
            positions: bytes(given.positions),
            sequences: bytes(given.sequences),
            block_table: bytes(given.block_table),
        };
        let words = |slice: Option<wgpu::BufferSlice<'_>>| slice.map_or(0, |s| s.size() / 4);
        let served = source.tokens_served(words(given.positions), words(given.sequences));
        let kernel = self.kernel();
        let steps = self
            .plan()
            .fill_slots(&source, &ranges)?
            .into_iter()
            .map(|planned| {
                let pipeline = kernel.pipeline(&planned)?;
                kernel.bind("slots", &Arc::new(planned), &pipeline, |resource| {
                    let slice = match resource {
                        Resource::SlotMapping | Resource::Positions => given.positions,
                        Resource::Sequences => given.sequences,
                        Resource::BlockTable => given.block_table,
                        _ => None,
                    };
                    (slice.map_or(self.buffer(), |slice| slice.buffer()), 0)
                })
            })
            .collect::<Result<_>>()?;
        Ok(SlotFill {
            table: self.clone(),
            source,
            served,
            steps,
        })
    }

    /// A u32 in the table's buffer that counts tokens that got no slot, without having been given -1: those whose listed slot, page,
    /// sequence or position is outside of the cache.
    ///
    /// Fills add to it and nothing here clears it. An engine copies it into a buffer of its own to read it, as
    /// [`GpuContext::read_skipped`](crate::GpuContext::read_skipped) does, and clears it in the same encoder:
    ///
    /// ```no_run
    /// # use wgpu_rope::{CosSinTable, wgpu};
    /// # fn read(encoder: &mut wgpu::CommandEncoder, table: &CosSinTable, readback: &wgpu::Buffer) {
    /// // `readback` holds 4 bytes and has the usages COPY_DST and MAP_READ: map it when this has run.
    /// let skipped = table.skipped_slots();
    /// encoder.copy_buffer_to_buffer(skipped.buffer(), skipped.offset(), readback, 0, Some(4));
    /// encoder.clear_buffer(skipped.buffer(), skipped.offset(), Some(4));
    /// # }
    /// ```
    #[must_use]
    pub fn skipped_slots(&self) -> wgpu::BufferSlice<'_> {
        let at = self.plan().row_bytes() + 4;
        self.buffer().slice(at..at + 4)
    }

    /// How many tokens of each batch entry, from the first on, have slots by the fill that was recorded last. It counts recordings, as
    /// [`CosSinTable::filled_rows`] does.
    #[must_use]
    pub fn filled_slots(&self) -> u32 {
        lock(&self.shared.filled_slots).tokens
    }

    /// Whether the fill of slots that was recorded last made all of a list: slots `first_slot + b * stride + t` of the first `tokens` tokens of
    /// `batch` entries.
    #[must_use]
    pub fn has_slots(&self, first_slot: u32, batch: u32, stride: u32, tokens: u32) -> bool {
        let filled = *lock(&self.shared.filled_slots);
        let [first_slot, stride, tokens] = [first_slot, stride, tokens].map(u64::from);
        // Entries that stand in one place are one.
        let last = if stride == 0 {
            0
        } else {
            u64::from(batch.saturating_sub(1))
        };
        let has = |entry: u64| filled.has(first_slot + entry * stride, tokens);
        batch == 0 || tokens == 0 || (has(last) && (filled.is_whole() || (0..last).all(has)))
    }
}

impl FilledSlots {
    /// Whether there is no gap between entries.
    fn is_whole(self) -> bool {
        self.batch <= 1 || self.tokens == self.stride
    }

    /// Whether it made `count` slots from this one on.
    fn has(self, first: u64, count: u64) -> bool {
        let [batch, stride, tokens] = [self.batch, self.stride, self.tokens].map(u64::from);
        if self.is_whole() {
            return first + count <= batch.saturating_sub(1) * stride + tokens;
        }
        first / stride < batch && first % stride + count <= tokens
    }
}

/// The buffers of a source.
#[derive(Debug, Clone, Copy)]
struct Given<'a> {
    /// What the first one holds.
    name: &'static str,
    positions: Option<wgpu::BufferSlice<'a>>,
    sequences: Option<wgpu::BufferSlice<'a>>,
    block_table: Option<wgpu::BufferSlice<'a>>,
}

impl<'a> Given<'a> {
    fn new(slots: Slots<'a>) -> Result<(SlotSource, Self)> {
        let (rule, tokens, positions, block_table) = match slots {
            Slots::Listed {
                slot_mapping,
                batch,
                tokens,
                capacity,
            } => {
                let source = SlotSource::Listed {
                    batch,
                    tokens,
                    capacity,
                };
                let given = Self {
                    name: "slot_mapping",
                    positions: Some(slot_mapping),
                    sequences: None,
                    block_table: None,
                };
                return Ok((source, given));
            }
            Slots::Placed {
                rule,
                tokens,
                positions,
                block_table,
            } => (rule, tokens, positions, block_table),
        };
        let fault = |rule, got| Err(RopeError::buffer("block table", rule, got));
        match (rule.pages(), block_table) {
            (Some(_), None) => return fault("must be given for a rule with pages", "none"),
            (None, Some(_)) => return fault("goes with a rule with pages", "a contiguous cache"),
            _ => {}
        }
        let (by, positions, sequences) = match positions {
            SlotPositions::From(start) => (SlotPositionSource::From(start), None, None),
            SlotPositions::Start(start) => (SlotPositionSource::Start, Some(start), None),
            SlotPositions::StartPerSequence(starts) => {
                (SlotPositionSource::StartPerSequence, Some(starts), None)
            }
            SlotPositions::SharedIds(ids) => (SlotPositionSource::SharedIds, Some(ids), None),
            SlotPositions::Ids(ids) => (SlotPositionSource::Ids, Some(ids), None),
            SlotPositions::Ragged { ids, sequences } => {
                (SlotPositionSource::Ragged, Some(ids), Some(sequences))
            }
        };
        let source = SlotSource::Placed {
            rule,
            tokens,
            positions: by,
        };
        let given = Self {
            name: "positions",
            positions,
            sequences,
            block_table,
        };
        Ok((source, given))
    }

    fn each(&self) -> impl Iterator<Item = (&'static str, wgpu::BufferSlice<'a>)> {
        [
            (self.name, self.positions),
            ("sequences", self.sequences),
            ("block table", self.block_table),
        ]
        .into_iter()
        .filter_map(|(name, slice)| Some((name, slice?)))
    }
}

fn bytes(slice: Option<wgpu::BufferSlice<'_>>) -> std::ops::Range<u64> {
    slice.map_or(0..0, |slice| slice.offset()..slice.offset() + slice.size())
}

/// A recordable fill of a table's slots from one source.
#[derive(Debug, Clone)]
pub struct SlotFill {
    table: CosSinTable,
    source: SlotSource,
    served: u32,
    steps: Arc<[Step]>,
}

impl SlotFill {
    /// The table that it fills.
    #[must_use]
    pub fn table(&self) -> &CosSinTable {
        &self.table
    }

    /// Where the slots come from.
    #[must_use]
    pub fn source(&self) -> &SlotSource {
        &self.source
    }

    /// Most tokens of each batch entry that this source can fill.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.served
    }

    /// Records the making of the slots of the first `tokens` tokens of every batch entry: one dispatch for as many tokens as a grid has
    /// workgroups along a dimension (65,535 usually). Sets pipeline and bind group 0 of the pass. The slot of token t of entry b stands
    /// at index `b * planned tokens + t` whatever is recorded; others keep what they hold.
    ///
    /// # Errors
    /// [`RopeError::Count`] for more tokens than are planned or the lists serve; nothing is recorded then.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) -> Result<()> {
        if tokens > self.served {
            return Err(RopeError::Count {
                operand: "tokens",
                rule: format!(
                    "must not exceed the {} that are planned and the {} that the lists serve",
                    self.source.tokens(),
                    self.served
                )
                .into(),
                got: tokens.into(),
            });
        }
        for step in &*self.steps {
            step.record(pass, tokens);
        }
        if tokens > 0 {
            *lock(&self.table.shared.filled_slots) = FilledSlots {
                batch: self.source.batch(),
                stride: self.source.tokens(),
                tokens,
            };
        }
        Ok(())
    }
}
