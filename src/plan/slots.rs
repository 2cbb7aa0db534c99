//! Slots as data: where they come from, and the dispatches that fill them.

use std::ops::Range;

use super::table::{TablePlan, UNIFORM_WORDS};
use super::{Module, PlannedBinding, PlannedDispatch, Resource, in_parts};
use crate::error::{Result, RopeError};
use crate::slots::SlotRule;

/// Where the slot of a token comes from. The slot of token t of batch entry b stands at index `b * tokens + t`, however many tokens are
/// filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlotSource {
    /// A buffer holds the slot of every token (`slot_mapping`): `[batch, tokens]`, or one entry of the tokens of a ragged batch. -1 is
    /// no slot.
    Listed {
        /// Batch entries.
        batch: u32,
        /// Tokens of each, at most.
        tokens: u32,
        /// Slots of the cache: `pages * page_size`. A slot that is none of them becomes -1 and is counted.
        capacity: u32,
    },
    /// Slots follow from positions by a rule. What has none by it becomes -1 and is counted.
    Placed {
        /// The rule.
        rule: SlotRule,
        /// Tokens of each sequence, at most; all of them, for [`SlotPositionSource::Ragged`].
        tokens: u32,
        /// Where positions come from.
        positions: SlotPositionSource,
    },
}

/// Where the positions of tokens come from that are given slots by a rule. Batch entry b is sequence b of the cache, and there are as many
/// entries as sequences, except for [`SlotPositionSource::Ragged`]. Positions that count on wrap, as those of rows do; a negative one has
/// no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlotPositionSource {
    /// Token t of every sequence has position `start + t`.
    From(i32),
    /// The same with a start in a buffer.
    Start,
    /// The same with a start for each sequence in a buffer.
    StartPerSequence,
    /// A buffer holds a position for each token, the same for every sequence.
    SharedIds,
    /// A buffer holds a position for each sequence and token: `[sequences, tokens]`.
    Ids,
    /// A buffer holds a position for each token, and another one its sequence: one batch entry of tokens of any sequence in any
    /// order.
    Ragged,
}

/// The bytes of buffers that a fill of slots may read, i32 each, starts at multiples of 4. What the source does not read is
/// ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotRanges {
    /// Positions, or the slots of [`SlotSource::Listed`].
    pub positions: Range<u64>,
    /// The sequence of each token.
    pub sequences: Range<u64>,
    /// The block table `[sequences, pages_per_sequence]`.
    pub block_table: Range<u64>,
}

/// How the list of positions is read.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    listed: bool,
    start: i32,
    counts_on: bool,
    entry_stride: u32,
    token_stride: u32,
}

impl SlotSource {
    /// Batch entries.
    #[must_use]
    pub fn batch(&self) -> u32 {
        match *self {
            Self::Listed { batch, .. } => batch,
            Self::Placed {
                positions: SlotPositionSource::Ragged,
                ..
            } => 1,
            Self::Placed { rule, .. } => rule.sequences(),
        }
    }

    /// Tokens of a batch entry at most: the way from a slot to that of the next entry.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        match *self {
            Self::Listed { tokens, .. } | Self::Placed { tokens, .. } => tokens,
        }
    }

    /// The rule, where slots are not listed.
    #[must_use]
    pub fn rule(&self) -> Option<SlotRule> {
        match *self {
            Self::Listed { .. } => None,
            Self::Placed { rule, .. } => Some(rule),
        }
    }

    /// How many tokens of each batch entry so many listed positions (or slots) and sequences serve.
    #[must_use]
    pub fn tokens_served(&self, positions: u64, sequences: u64) -> u32 {
        let (batch, tokens) = (self.batch(), self.tokens());
        let shape = self.shape();
        // Entries stand `entry_stride` apart, and the last one may be cut short.
        let others = u64::from(batch.saturating_sub(1)) * u64::from(shape.entry_stride);
        let of_last = positions.saturating_sub(others);
        let served = match (shape.listed, shape.token_stride) {
            (false, _) => u64::MAX,
            (true, 0) if of_last == 0 => 0,
            (true, 0) => u64::MAX,
            (true, _) => of_last,
        };
        let served = if self.is_ragged() {
            served.min(sequences)
        } else {
            served
        };
        u32::try_from(served).unwrap_or(u32::MAX).min(tokens)
    }

    fn is_ragged(&self) -> bool {
        matches!(
            self,
            Self::Placed {
                positions: SlotPositionSource::Ragged,
                ..
            }
        )
    }

    fn is_paged(&self) -> bool {
        self.rule().is_some_and(|rule| rule.pages().is_some())
    }

    fn shape(&self) -> Shape {
        let listed = |entry_stride, token_stride, counts_on| Shape {
            listed: true,
            start: 0,
            counts_on,
            entry_stride,
            token_stride,
        };
        match *self {
            Self::Listed { tokens, .. } => listed(tokens, 1, false),
            Self::Placed {
                tokens, positions, ..
            } => match positions {
                SlotPositionSource::From(start) => Shape {
                    start,
                    ..Shape::default()
                },
                SlotPositionSource::Start => listed(0, 0, true),
                SlotPositionSource::StartPerSequence => listed(1, 0, true),
                SlotPositionSource::SharedIds | SlotPositionSource::Ragged => listed(0, 1, false),
                SlotPositionSource::Ids => listed(tokens, 1, false),
            },
        }
    }

    fn entry_point(&self) -> &'static str {
        let Self::Placed { positions, .. } = self else {
            return "slots_listed";
        };
        match (self.is_paged(), positions) {
            (false, SlotPositionSource::From(_)) => "place_counted",
            (false, SlotPositionSource::Ragged) => "place_ragged",
            (false, _) => "place_listed",
            (true, SlotPositionSource::From(_)) => "page_counted",
            (true, SlotPositionSource::Ragged) => "page_ragged",
            (true, _) => "page_listed",
        }
    }

    /// Checks sizes, and that their product is at most so many.
    fn check(&self, slots: u32) -> Result<()> {
        let (batch, tokens) = (self.batch(), self.tokens());
        if batch == 0 || tokens == 0 {
            let rule = "must be of at least one batch entry and token";
            let got = format!("[{batch}, {tokens}]");
            return Err(RopeError::layout("slots", rule, got));
        }
        if let Self::Listed { capacity, .. } = *self {
            if i32::try_from(capacity).map_or(true, |capacity| capacity == 0) {
                let rule = "must be from 1 to 2^31 - 1";
                return Err(RopeError::layout("capacity", rule, capacity));
            }
        }
        if u64::from(batch) * u64::from(tokens) > u64::from(slots) {
            let rule = format!("must be specified with slots for {batch} x {tokens} tokens");
            return Err(RopeError::table(rule, slots));
        }
        Ok(())
    }
}

impl TablePlan {
    /// The dispatches that fill the slots of tokens 0, 1, ... of every batch entry: one for as many tokens as a grid has workgroups
    /// along a dimension (65,535 usually). Their ranges and [`PlannedDispatch::workgroups`] count tokens of a batch entry.
    ///
    /// # Errors
    /// [`RopeError::Table`] where the table has fewer slots than the source has tokens; [`RopeError::Layout`] for none of them, or
    /// a capacity that does not fit i32; [`RopeError::Buffer`] for an unaligned start, a list without a token, or a block table that is
    /// too short; [`RopeError::Limit`] where a list is more than a binding; [`RopeError::Count`] where it would take thousands of
    /// dispatches.
    pub fn fill_slots(
        &self,
        source: &SlotSource,
        given: &SlotRanges,
    ) -> Result<Vec<PlannedDispatch>> {
        source.check(self.slots())?;
        let (batch, tokens, shape) = (source.batch(), source.tokens(), source.shape());
        let words = |range: &Range<u64>| range.end.saturating_sub(range.start) / 4;
        let (positions, sequences) = (words(&given.positions), words(&given.sequences));
        let served = source.tokens_served(positions, sequences);
        if served == 0 {
            let operand = match source {
                SlotSource::Listed { .. } => "slot_mapping",
                SlotSource::Placed { .. } if source.is_ragged() && positions > 0 => "sequences",
                SlotSource::Placed { .. } => "positions",
            };
            let rule = match shape.token_stride {
                0 => format!("must hold at least {} starts", needed_starts(batch, shape)),
                _ => format!("must hold a token of each of {batch} batch entries of {tokens}"),
            };
            let got = match operand {
                "sequences" => sequences,
                _ => positions,
            };
            return Err(fault(operand, rule, got));
        }

        let mut bindings = vec![
            PlannedBinding::uniform(UNIFORM_WORDS),
            PlannedBinding::write(2, Resource::Rows, 0..self.bytes()),
        ];
        let mut bind = |binding, resource, operand, range: &Range<u64>, count: u64| {
            if !range.start.is_multiple_of(4) {
                let rule = "byte offset must be a multiple of 4".to_owned();
                return Err(fault(operand, rule, range.start));
            }
            // No more of the buffer is bound than is read.
            let read = range.start..range.start.saturating_add(count.saturating_mul(4));
            let (bound, first) = self.bound(operand, read)?;
            bindings.push(PlannedBinding::read(binding, resource, bound));
            Ok(first)
        };
        let mut first = 0;
        if shape.listed {
            let last = u64::from(batch - 1) * u64::from(shape.entry_stride)
                + u64::from(served - 1) * u64::from(shape.token_stride);
            let (resource, operand) = match source {
                SlotSource::Listed { .. } => (Resource::SlotMapping, "slot_mapping"),
                SlotSource::Placed { .. } => (Resource::Positions, "positions"),
            };
            first = bind(3, resource, operand, &given.positions, last + 1)?;
        }
        let entries = source.rule().map_or(0, |rule| rule.block_table_entries());
        let mut first_page = 0;
        if source.is_paged() {
            let found = words(&given.block_table);
            if found < entries {
                let rule = format!("must hold at least {entries} pages");
                return Err(fault("block table", rule, found));
            }
            let range = &given.block_table;
            first_page = bind(4, Resource::BlockTable, "block table", range, entries)?;
        }
        let mut first_sequence = 0;
        if source.is_ragged() {
            let (range, count) = (&given.sequences, u64::from(served));
            first_sequence = bind(5, Resource::Sequences, "sequences", range, count)?;
        }

        let workgroup = batch
            .min(64)
            .next_power_of_two()
            .min(self.limits().invocations());
        let (across, parts) = in_parts("slots", self.limits(), (batch, workgroup), served)?;
        let word = |bytes: u64| {
            u32::try_from(bytes / 4).map_err(|_| RopeError::overflow("table", "words must fit u32"))
        };
        let (slots, skipped) = (word(self.slots_start())?, word(self.row_bytes() + 4)?);
        let rule = source.rule();
        let [positions, sinks, period] = rule.map_or([0, 0, 1], |rule| rule.places());
        let pages = rule.and_then(|rule| rule.pages());
        let limit = match *source {
            SlotSource::Listed { capacity, .. } => capacity,
            SlotSource::Placed { .. } => pages.map_or(0, |pages| pages.pages),
        };
        Ok(parts
            .map(|range| PlannedDispatch {
                module: Module::Table,
                entry_point: source.entry_point(),
                constants: vec![("WORKGROUP", workgroup.into())],
                uniform: vec![
                    batch,
                    tokens,
                    served,
                    range.start,
                    slots,
                    skipped,
                    first,
                    shape.entry_stride,
                    shape.token_stride,
                    shape.start.cast_unsigned(),
                    shape.counts_on.into(),
                    first_sequence,
                    first_page,
                    rule.map_or(0, |rule| rule.sequences()),
                    positions,
                    sinks,
                    period,
                    rule.map_or(1, |rule| rule.page_size()),
                    limit,
                    pages.map_or(0, |pages| pages.pages_per_sequence),
                ],
                bindings: bindings.clone(),
                across,
                batch: 1,
                range,
            })
            .collect())
    }
}

/// Starts that a source needs: one, or one for each batch entry.
fn needed_starts(batch: u32, shape: Shape) -> u32 {
    if shape.entry_stride == 0 { 1 } else { batch }
}

fn fault(operand: &'static str, rule: String, got: u64) -> RopeError {
    RopeError::Buffer {
        operand,
        rule: rule.into(),
        got: got.to_string(),
    }
}
