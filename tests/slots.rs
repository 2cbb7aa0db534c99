//! Slots and query scales behind a table's rows, on every adapter: the whole buffer against the CPU twin and against an oracle in i128
//! that shares no code with the crate, whatever positions, sequences and block tables hold; and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use common::{CONTEXTS, NO_USAGE, WholeTable, contexts_with, name, row_bits, whole_table};
use wgpu_rope::reference::SlotLists;
use wgpu_rope::{
    Angles, AxisOrder, CosSinLayout, CosSinTable, Direction, ElementType, Frequencies, GpuContext,
    Limits, Pages, Pair, Positions, QueryScale, RopeConfig, SlotFill, SlotPositionSource,
    SlotPositions, SlotRanges, SlotRule, SlotSource, Slots, TablePlan, TableSpec, reference,
};

/// What a rule was made from, for the oracle.
#[derive(Debug, Clone, Copy)]
struct Facts {
    sequences: i128,
    capacity: i128,
    pages: Option<Pages>,
    ring: Option<(i128, i128)>,
}

impl Facts {
    fn rule(self) -> SlotRule {
        let u = |value: i128| u32::try_from(value).unwrap();
        let rule = match self.pages {
            None => SlotRule::contiguous(u(self.sequences), u(self.capacity)),
            Some(pages) => SlotRule::paged(u(self.sequences), pages),
        };
        match self.ring {
            None => rule.unwrap(),
            Some((capacity, sinks)) => rule.unwrap().with_ring(u(capacity), u(sinks)).unwrap(),
        }
    }

    /// The slot of a position, and None for what is outside.
    fn slot(self, sequence: i128, position: i128, block_table: &[i32]) -> Option<i128> {
        if position < 0 || !(0..self.sequences).contains(&sequence) {
            return None;
        }
        let places = match self.pages {
            None => self.capacity,
            Some(pages) => i128::from(pages.pages_per_sequence) * i128::from(pages.page_size),
        };
        let place = match self.ring {
            // Each lap is one round of the places behind the sinks.
            Some((capacity, sinks)) if position >= capacity => {
                let laps = (position - sinks) / (capacity - sinks);
                position - laps * (capacity - sinks)
            }
            _ => position,
        };
        if place >= places {
            return None;
        }
        let Some(pages) = self.pages else {
            return Some(sequence * self.capacity + place);
        };
        let column = place / i128::from(pages.page_size);
        let row = sequence * i128::from(pages.pages_per_sequence);
        let page = i128::from(block_table[usize::try_from(row + column).unwrap()]);
        (0..i128::from(pages.pages))
            .contains(&page)
            .then(|| page * i128::from(pages.page_size) + place % i128::from(pages.page_size))
    }
}

/// i32 of any size: mostly such as may be valid below `limit`, the ends, and what lies about them.
fn garbage(random: &mut fastrand::Rng, count: usize, limit: i32) -> Vec<i32> {
    let about = |random: &mut fastrand::Rng, end: i32| end.wrapping_add(random.i32(-3..4));
    (0..count)
        .map(|_| match random.u8(..8) {
            0 => about(random, 0),
            1 => about(random, limit),
            2 => about(random, i32::MIN),
            3 => random.i32(..),
            4 => random.i32(0..=limit.saturating_mul(9)),
            _ => random.i32(0..limit.max(1)),
        })
        .collect()
}

fn rules() -> Vec<Facts> {
    let contiguous = |sequences, capacity, ring| Facts {
        sequences,
        capacity,
        pages: None,
        ring,
    };
    let paged = |sequences, (page_size, pages, pages_per_sequence), ring| Facts {
        sequences,
        capacity: 0,
        pages: Some(Pages {
            page_size,
            pages,
            pages_per_sequence,
        }),
        ring,
    };
    vec![
        contiguous(1, 1, None),
        contiguous(3, 41, None),
        contiguous(5, 64, Some((64, 4))),
        contiguous(7, 50, Some((13, 0))),
        contiguous(2, 9, Some((9, 8))),
        // As many slots as there are numbers for them.
        contiguous(1, i128::from(i32::MAX), None),
        contiguous(3, 715_827_882, Some((700_000_001, 77))),
        paged(1, (1, 1, 1), None),
        paged(4, (16, 11, 3), None),
        paged(3, (5, 300, 9), Some((44, 3))),
        paged(65, (7, 1000, 2), None),
        // A block table that says more places than there are positions.
        paged(2, (i32::MAX as u32, 1, 3), None),
        paged(2, (1 << 20, 2047, 4000), Some((1 << 31, 5))),
    ]
}

const KINDS: [SlotPositionSource; 6] = [
    SlotPositionSource::From(0),
    SlotPositionSource::Start,
    SlotPositionSource::StartPerSequence,
    SlotPositionSource::SharedIds,
    SlotPositionSource::Ids,
    SlotPositionSource::Ragged,
];

/// Lists for a rule, with what has to become of each token.
struct Case {
    facts: Facts,
    source: SlotSource,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    block_table: Vec<i32>,
}

impl Case {
    fn new(
        random: &mut fastrand::Rng,
        facts: Facts,
        kind: SlotPositionSource,
        tokens: u32,
    ) -> Self {
        let rule = facts.rule();
        let limit = i32::try_from(rule.capacity()).unwrap_or(i32::MAX);
        let kind = match kind {
            SlotPositionSource::From(_) => {
                SlotPositionSource::From(garbage(random, 1, limit.saturating_sub(5))[0])
            }
            other => other,
        };
        let source = SlotSource::Placed {
            rule,
            tokens,
            positions: kind,
        };
        let count = match kind {
            SlotPositionSource::Ids => source.batch() * tokens,
            SlotPositionSource::StartPerSequence => source.batch(),
            SlotPositionSource::From(_) => 0,
            SlotPositionSource::Start => 1,
            _ => tokens,
        };
        let pages = rule.pages().map_or(1, |pages| pages.pages);
        Self {
            facts,
            source,
            positions: garbage(random, count as usize, limit),
            sequences: garbage(random, tokens as usize, rule.sequences() as i32),
            block_table: garbage(random, rule.block_table_entries() as usize, pages as i32),
        }
    }

    fn lists(&self) -> SlotLists<'_> {
        SlotLists {
            positions: &self.positions,
            sequences: &self.sequences,
            block_table: &self.block_table,
        }
    }

    /// The slot of a token, None for what is outside.
    fn oracle(&self, entry: usize, token: usize) -> Option<i128> {
        let SlotSource::Placed {
            tokens, positions, ..
        } = self.source
        else {
            panic!("placed");
        };
        // Positions that count on wrap.
        let counted = |start: i32| (i128::from(start) + token as i128) as i32;
        let (sequence, position) = match positions {
            SlotPositionSource::From(start) => (entry as i128, counted(start)),
            SlotPositionSource::Start => (entry as i128, counted(self.positions[0])),
            SlotPositionSource::StartPerSequence => (entry as i128, counted(self.positions[entry])),
            SlotPositionSource::SharedIds => (entry as i128, self.positions[token]),
            SlotPositionSource::Ids => (
                entry as i128,
                self.positions[entry * tokens as usize + token],
            ),
            _ => (self.sequences[token].into(), self.positions[token]),
        };
        self.facts
            .slot(sequence, position.into(), &self.block_table)
    }

    /// Binds the lists, each behind other data at an offset of its own.
    fn bind(&self, context: &GpuContext, table: &CosSinTable) -> wgpu_rope::Result<SlotFill> {
        let behind = |lead: usize, list: &[i32]| {
            let words = [&vec![7; lead], list, &[11]].concat();
            (context.upload(&words, NO_USAGE).unwrap(), lead, list.len())
        };
        let uploads = [
            behind(3, &self.positions),
            behind(66, &self.sequences),
            behind(1, &self.block_table),
        ];
        let slice = |at: usize| {
            let (buffer, lead, count) = &uploads[at];
            buffer.slice(4 * *lead as u64..4 * (lead + count.max(&1)) as u64)
        };
        let SlotSource::Placed {
            rule,
            tokens,
            positions,
        } = self.source
        else {
            panic!("placed");
        };
        table.bind_slots(Slots::Placed {
            rule,
            tokens,
            positions: match positions {
                SlotPositionSource::From(start) => SlotPositions::From(start),
                SlotPositionSource::Start => SlotPositions::Start(slice(0)),
                SlotPositionSource::StartPerSequence => SlotPositions::StartPerSequence(slice(0)),
                SlotPositionSource::SharedIds => SlotPositions::SharedIds(slice(0)),
                SlotPositionSource::Ids => SlotPositions::Ids(slice(0)),
                _ => SlotPositions::Ragged {
                    ids: slice(0),
                    sequences: slice(1),
                },
            },
            block_table: rule.pages().map(|_| slice(2)),
        })
    }
}

fn frequencies() -> Frequencies {
    Frequencies::new(&RopeConfig::new(6)).unwrap()
}

/// A table that has everything, and nothing in it.
fn blank(context: &GpuContext, slots: u32) -> (CosSinTable, WholeTable) {
    let scale = QueryScale::from_values(vec![3.0], 1, 0).unwrap();
    let spec = TableSpec::new(&frequencies())
        .with_slots(slots)
        .with_query_scale(scale);
    let table = context.kernel().table(&spec, 3).unwrap();
    let whole = WholeTable {
        rows: vec![[0; 2]; 12],
        faults: 0,
        skipped: 0,
        slots: vec![0; slots.next_multiple_of(4) as usize],
        scales: vec![[0; 2]; 4],
    };
    assert_eq!(whole_table(context, &table), whole);
    (table, whole)
}

#[test]
fn any_lists_give_the_slots_of_the_twin_and_of_the_oracle() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut found = [0, 0];
    for facts in rules() {
        for kind in KINDS {
            let tokens = if facts.sequences > 60 { 5 } else { 67 };
            let case = Case::new(&mut random, facts, kind, tokens);
            let (twin, skipped) = reference::slots(&case.source, case.lists()).unwrap();
            let expected: Vec<_> = (0..case.source.batch() as usize)
                .flat_map(|entry| (0..tokens as usize).map(move |token| (entry, token)))
                .map(|(entry, token)| case.oracle(entry, token))
                .collect();
            assert_eq!(twin.len(), expected.len());
            for (slot, expected) in twin.iter().zip(&expected) {
                assert_eq!(i128::from(*slot), expected.unwrap_or(-1), "{kind:?}");
                found[usize::from(expected.is_some())] += 1;
            }
            let outside = expected.iter().filter(|slot| slot.is_none()).count();
            assert_eq!(outside, skipped as usize);
            for context in &*CONTEXTS {
                let room = twin.len() as u32 + 6;
                let (table, mut whole) = blank(context, room);
                let fill = case.bind(context, &table).unwrap();
                assert_eq!(fill.tokens(), tokens);
                assert_eq!(table.filled_slots(), 0);
                context.run(|pass| fill.record(pass, tokens)).unwrap();
                whole.slots[..twin.len()].copy_from_slice(&twin);
                whole.skipped = skipped;
                let made = whole_table(context, &table);
                assert_eq!(made, whole, "{} {facts:?} {kind:?}", name(context));
                assert_eq!(table.filled_slots(), tokens);
            }
        }
    }
    // It is no test where all tokens have slots, or none.
    assert!(found.iter().all(|count| *count > 2000), "{found:?}");
}

#[test]
fn every_sort_of_garbage_is_refused_alone() {
    let paged = SlotRule::paged(
        2,
        Pages {
            page_size: 4,
            pages: 3,
            pages_per_sequence: 2,
        },
    )
    .unwrap();
    let table = [0, 2, /**/ 3, -1];
    for (sequence, position, slot) in [
        (0, 0, Some(0)),
        (0, 7, Some(11)),
        (0, 8, None),
        (0, -1, None),
        (0, i32::MIN, None),
        (0, i32::MAX, None),
        (1, 0, None),
        (1, 4, None),
        (2, 0, None),
        (-1, 0, None),
        (i32::MIN, 0, None),
        (i32::MAX, 0, None),
    ] {
        assert_eq!(paged.slot(sequence, position, &table), slot);
    }
    assert_eq!(paged.slot(0, 5, &table[..1]), None);
}

#[test]
fn a_ring_keeps_its_sinks_and_goes_round() {
    // 4 sinks and 6 places: positions 4, 10, 16, ... share a place.
    let laps: Vec<i32> = (0..4).chain((4..10).cycle().take(60)).collect();
    let rule = SlotRule::contiguous(2, 12).unwrap();
    let rule = rule.with_ring(10, 4).unwrap();
    for context in &*CONTEXTS {
        let (table, mut whole) = blank(context, 128);
        let fill = table
            .bind_slots(Slots::Placed {
                rule,
                tokens: 64,
                positions: SlotPositions::From(0),
                block_table: None,
            })
            .unwrap();
        context.run(|pass| fill.record(pass, 64)).unwrap();
        whole.slots = laps.clone();
        whole.slots.extend(laps.iter().map(|place| 12 + place));
        assert_eq!(whole_table(context, &table), whole, "{}", name(context));
    }
}

fn listed(
    slot_mapping: wgpu::BufferSlice<'_>,
    batch: u32,
    tokens: u32,
    capacity: u32,
) -> Slots<'_> {
    Slots::Listed {
        slot_mapping,
        batch,
        tokens,
        capacity,
    }
}

#[test]
fn listed_slots_are_checked_and_minus_one_is_not_counted() {
    let mut random = fastrand::Rng::with_seed(3);
    for (batch, tokens, capacity) in [(1, 257, 96), (3, 21, 5), (70, 3, i32::MAX), (2, 1, 1)] {
        let count = (batch * tokens) as usize;
        let mut mapping = garbage(&mut random, count, capacity);
        mapping[count / 2] = -1;
        let is_slot = |slot: i32| (0..capacity).contains(&slot);
        let expected: Vec<_> = mapping
            .iter()
            .map(|&slot| if is_slot(slot) { slot } else { -1 })
            .collect();
        let wrong = mapping.iter().filter(|&&slot| slot != -1 && !is_slot(slot));
        let wrong = wrong.count() as u32;
        let source = SlotSource::Listed {
            batch,
            tokens,
            capacity: capacity as u32,
        };
        let lists = SlotLists {
            positions: &mapping,
            ..SlotLists::default()
        };
        let twin = reference::slots(&source, lists).unwrap();
        assert_eq!(twin, (expected.clone(), wrong));
        for context in &*CONTEXTS {
            let (table, mut whole) = blank(context, count as u32 + 1);
            let data = context
                .upload(&[&[99; 65], &mapping[..]].concat(), NO_USAGE)
                .unwrap();
            let slots = listed(data.slice(260..), batch, tokens, capacity as u32);
            let fill = table.bind_slots(slots).unwrap();
            assert_eq!(*fill.source(), source);
            context
                .run(|pass| {
                    fill.record(pass, tokens)?;
                    fill.record(pass, tokens)
                })
                .unwrap();
            whole.slots[..count].copy_from_slice(&expected);
            // Counts add up, and are cleared by whoever wants them from 0.
            whole.skipped = 2 * wrong;
            assert_eq!(whole_table(context, &table), whole, "{}", name(context));
            let count = table.skipped_slots();
            let device = context.device();
            let mut encoder =
                device.create_command_encoder(&wgpu::wgt::CommandEncoderDescriptor { label: None });
            encoder.clear_buffer(count.buffer(), count.offset(), Some(count.size()));
            context.queue().submit([encoder.finish()]);
            whole.skipped = 0;
            assert_eq!(whole_table(context, &table), whole, "{}", name(context));
        }
    }
}

#[test]
fn fewer_tokens_than_planned_leave_the_others_and_are_counted_alone() {
    let rule = SlotRule::contiguous(3, 1000).unwrap();
    for context in &*CONTEXTS {
        let (table, mut whole) = blank(context, 3 * 70);
        let bind = |positions: SlotPositions<'_>| {
            let slots = Slots::Placed {
                rule,
                tokens: 70,
                positions,
                block_table: None,
            };
            table.bind_slots(slots).unwrap()
        };
        let first = bind(SlotPositions::From(100));
        // Past token 40 there is only garbage.
        let ids: Vec<i32> = (0..3 * 70)
            .map(|i| match i % 70 {
                33 => -5,
                at if at > 40 => i32::MAX,
                at => at,
            })
            .collect();
        let ids = context.upload(&ids, NO_USAGE).unwrap();
        let second = bind(SlotPositions::Ids(ids.slice(..)));
        context
            .run(|pass| {
                first.record(pass, 70)?;
                second.record(pass, 41)?;
                second.record(pass, 0)
            })
            .unwrap();
        for entry in 0..3 {
            for token in 0..70 {
                whole.slots[entry * 70 + token] = match token {
                    33 => -1,
                    0..41 => (entry * 1000 + token) as i32,
                    _ => (entry * 1000 + 100 + token) as i32,
                };
            }
        }
        whole.skipped = 3;
        assert_eq!(whole_table(context, &table), whole, "{}", name(context));
        assert_eq!(table.filled_slots(), 41);
        assert!(table.has_slots(0, 3, 70, 41) && table.has_slots(0, 2, 70, 40));
        assert!(table.has_slots(0, 1, 99, 41) && table.has_slots(0, 0, 1, 1));
        assert!(!table.has_slots(0, 3, 70, 42) && !table.has_slots(0, 4, 70, 1));
        assert!(!table.has_slots(0, 2, 41, 41) && !table.has_slots(0, 1, 41, 42));
        // A list may begin anywhere, as long as no slot of it is in a gap.
        assert!(table.has_slots(5, 1, 70, 36) && !table.has_slots(5, 1, 70, 37));
        assert!(table.has_slots(75, 2, 70, 36) && !table.has_slots(75, 3, 70, 1));
        assert!(!table.has_slots(41, 1, 70, 1) && table.has_slots(41, 1, 70, 0));
        // Without a gap, entries are one list of tokens.
        context.run(|pass| first.record(pass, 70)).unwrap();
        assert!(table.has_slots(0, 210, 1, 1) && table.has_slots(0, 1, 5, 210));
        assert!(table.has_slots(0, 2, 105, 105) && !table.has_slots(0, 2, 105, 106));
    }
}

#[test]
fn small_grids_take_several_dispatches() {
    let mut random = fastrand::Rng::with_seed(19);
    for context in contexts_with(|limits| limits.max_compute_workgroups_per_dimension = 9) {
        for facts in rules().into_iter().filter(|facts| facts.sequences > 2) {
            for kind in KINDS {
                let tokens = 37;
                let case = Case::new(&mut random, facts, kind, tokens);
                let (twin, _) = reference::slots(&case.source, case.lists()).unwrap();
                let (table, mut whole) = blank(&context, twin.len() as u32);
                let fill = case.bind(&context, &table).unwrap();
                context.run(|pass| fill.record(pass, 35)).unwrap();
                let stride = tokens as usize;
                for (at, slot) in twin.into_iter().enumerate() {
                    if at % stride < 35 {
                        whole.slots[at] = slot;
                        let outside = case.oracle(at / stride, at % stride).is_none();
                        whole.skipped += u32::from(outside);
                    }
                }
                let made = whole_table(&context, &table);
                assert_eq!(made, whole, "{} {facts:?} {kind:?}", name(&context));
            }
        }
    }
}

#[test]
fn a_ragged_batch_of_more_tokens_than_a_grid_has_workgroups() {
    let tokens = 70_001;
    let rule = SlotRule::contiguous(5, 20_000).unwrap();
    let ids: Vec<i32> = (0..tokens).map(|token| token / 4).collect();
    let sequences: Vec<i32> = (0..tokens).map(|token| token % 5).collect();
    let expected: Vec<i32> = (0..tokens)
        .map(|token| token % 5 * 20_000 + token / 4)
        .collect();
    for context in &*CONTEXTS {
        let table = TableSpec::new(&frequencies()).with_slots(tokens as u32);
        let table = context.kernel().table(&table, 1).unwrap();
        let ids = context.upload(&ids, NO_USAGE).unwrap();
        let sequences = context.upload(&sequences, NO_USAGE).unwrap();
        let positions = SlotPositions::Ragged {
            ids: ids.slice(..),
            sequences: sequences.slice(..),
        };
        let fill = table
            .bind_slots(Slots::Placed {
                rule,
                tokens: tokens as u32,
                positions,
                block_table: None,
            })
            .unwrap();
        context
            .run(|pass| fill.record(pass, tokens as u32))
            .unwrap();
        let whole = whole_table(context, &table);
        assert!(
            whole.slots[..tokens as usize] == expected,
            "{}",
            name(context)
        );
        assert_eq!(whole.slots[tokens as usize..], [0, 0, 0]);
        assert_eq!((whole.skipped, whole.scales), (0, vec![]));
    }
}

/// One pass fills rows, slots and scales; what is counted for one is not counted for the other.
#[test]
fn rows_and_slots_leave_each_other_alone() {
    let layout = CosSinLayout {
        positions: 5,
        columns: 3,
        pairs: 3,
        element: ElementType::F32,
    };
    let values: Vec<f32> = (0..15_u8).map(f32::from).collect();
    let ids = [4, 5, -1, 0, i32::MAX, 2];
    let spec = TableSpec::from_cos_sin(layout).with_slots(6);
    let known = reference::table_from_cos_sin(&spec, &values, &values, &[4]).unwrap();
    for context in &*CONTEXTS {
        let table = context.kernel().table(&spec, 6).unwrap();
        let values = context.upload(&values, NO_USAGE).unwrap();
        let ids = context.upload(&ids, NO_USAGE).unwrap();
        let rows = table
            .bind_cos_sin(
                values.slice(..),
                values.slice(..),
                Positions::Ids(ids.slice(..)),
            )
            .unwrap();
        let slots = table
            .bind_slots(Slots::Placed {
                rule: SlotRule::contiguous(2, 3).unwrap(),
                tokens: 3,
                positions: SlotPositions::Ids(ids.slice(..)),
                block_table: None,
            })
            .unwrap();
        context
            .run(|pass| {
                slots.record(pass, 3)?;
                rows.record(pass, 6)
            })
            .unwrap();
        let whole = whole_table(context, &table);
        assert_eq!(whole.rows[..4], row_bits(&known, 3), "{}", name(context));
        assert_eq!((whole.faults, whole.skipped), (3, 4));
        assert_eq!(whole.slots, [-1, -1, -1, 3, -1, 5, 0, 0]);
        assert_eq!(whole.scales, [[0; 2]; 0]);
        // Slots of a table stay where its rows are filled anew.
        context.run(|pass| rows.record(pass, 6)).unwrap();
        let again = whole_table(context, &table);
        assert_eq!((again.slots, again.skipped), (whole.slots, 4));
    }
}

/// The value of a position, in i128.
fn scale_of(values: &[f64], step: u32, offset: i32, position: i32) -> f32 {
    let moved = i128::from(position) + i128::from(offset);
    let index = moved.div_euclid(step.into());
    values[usize::try_from(index).unwrap_or(0).min(values.len() - 1)] as f32
}

#[test]
fn query_scales_are_those_of_the_host_at_every_position() {
    let mut random = fastrand::Rng::with_seed(23);
    // Three axes, and the first pair reads the last of them.
    let pairs = [2, 0, 1].map(|axis| Pair {
        inv_freq: 0.3,
        axis,
    });
    let frequencies = Frequencies::from_pairs(pairs, 1.25).unwrap();
    let ends = [0, 1, -1, i32::MAX, i32::MIN, i32::MAX - 1, i32::MIN + 1];
    for (count, step, offset) in [
        (1, 1, 0),
        (5, 7, 1),
        (6, 1, -3),
        (7, 1 << 28, i32::MAX),
        (64, 3, i32::MIN),
        (3, u32::MAX, i32::MAX),
        (4, u32::MAX / 2, 12),
    ] {
        let values: Vec<f32> = (0..count).map(|k| 1.5 - k as f32 * 0.3).collect();
        let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
        let scale = QueryScale::from_values(values, step, offset).unwrap();
        let mut positions = ends.to_vec();
        positions.extend(garbage(&mut random, 30, 7 * count));
        positions.extend(ends.map(|end| end.wrapping_sub(offset)));
        for &position in &positions {
            let expected = scale_of(&wide, step, offset, position);
            assert_eq!(scale.at(position).to_bits(), expected.to_bits());
        }
        let rows = positions.len() as u32;
        for angles in [Angles::Exact, Angles::F32] {
            let spec = TableSpec::new(&frequencies)
                .with_angles(angles)
                .with_slots(9)
                .with_direction(Direction::Inverse);
            let scaled = spec.clone().with_query_scale(scale.clone());
            // Axis after axis, of which the first one counts.
            let order = AxisOrder::First { rows };
            let mut axes = positions.clone();
            axes.extend(garbage(&mut random, 2 * positions.len(), 1000));
            let of_rows = wgpu_rope::RowPositions::IdsPerAxis(&axes, order);
            let twin = reference::query_scales(&scaled, of_rows).unwrap();
            let entries: Vec<_> = twin.iter().map(|scale| [scale.to_bits(), 0]).collect();
            for context in &*CONTEXTS {
                let both = [&spec, &scaled].map(|spec| {
                    let table = context.kernel().table(spec, rows).unwrap();
                    let ids = context.upload(&axes, NO_USAGE).unwrap();
                    let ids = ids.slice(..);
                    let bound = table.bind_positions(Positions::IdsPerAxis { ids, order });
                    let fill = bound.unwrap();
                    context.run(|pass| fill.record(pass, rows - 2)).unwrap();
                    whole_table(context, &table)
                });
                let mut expected = both[0].clone();
                expected.scales = vec![[0; 2]; rows.next_multiple_of(2) as usize];
                let written = rows as usize - 2;
                expected.scales[..written].copy_from_slice(&entries[..written]);
                assert_eq!(both[1], expected, "{}", name(context));
            }
        }
    }
}

#[test]
fn query_scales_of_rows_that_count_on() {
    let scale = QueryScale::llama4(8, 0.1, 1000).unwrap();
    let spec = TableSpec::new(&frequencies()).with_query_scale(scale.clone());
    let small = contexts_with(|limits| limits.max_compute_workgroups_per_dimension = 9);
    for context in CONTEXTS.iter().chain(&small) {
        for start in [-20, 0, 990, i32::MAX - 20] {
            let table = context.kernel().table(&spec, 41).unwrap();
            let counted = table.bind_positions(Positions::From(start)).unwrap();
            context.run(|pass| counted.record(pass, 41)).unwrap();
            let expected: Vec<_> = (0..41)
                .map(|row| [scale.at(start.wrapping_add(row)).to_bits(), 0])
                .chain([[0, 0]])
                .collect();
            let from = whole_table(context, &table);
            assert_eq!(from.scales, expected, "{}", name(context));
            let table = context.kernel().table(&spec, 41).unwrap();
            let start = context.upload(&[start], NO_USAGE).unwrap();
            let listed = table.bind_positions(Positions::Start(start.slice(..)));
            context
                .run(|pass| listed.unwrap().record(pass, 41))
                .unwrap();
            assert_eq!(whole_table(context, &table), from, "{}", name(context));
        }
    }
}

#[test]
fn the_scales_of_models_are_their_formulas() {
    let llama = QueryScale::llama4(8192, 0.1, 1 << 20).unwrap();
    assert_eq!((llama.step(), llama.offset()), (8192, 1));
    assert_eq!(llama.values().len(), 129);
    let ministral = QueryScale::ministral3(0.1, 16_384, 262_143).unwrap();
    assert_eq!(ministral.values().len(), 16);
    let folded = ministral.times(128_f64.sqrt().recip()).unwrap();
    for position in [0, 1, 8190, 8191, 8192, 16_383, 16_384, 100_000, 262_143] {
        let p = f64::from(position);
        let close = |made: f32, formula: f64| {
            // The system's logarithm may differ in its last bit.
            assert!((f64::from(made) / formula - 1.0).abs() <= 2_f64.powi(-24) * 1.000_001);
        };
        let formula = 1.0 + 0.1 * (((p + 1.0) / 8192.0).floor() + 1.0).ln();
        close(llama.at(position), formula);
        let formula = 1.0 + 0.1 * (1.0 + (p / 16_384.0).floor()).ln();
        close(ministral.at(position), formula);
        close(folded.at(position), formula / 128_f64.sqrt());
    }
    // Before the first, and past the last.
    assert_eq!(llama.at(i32::MIN), 1.0);
    assert_eq!(ministral.at(i32::MAX), ministral.at(262_143));
    assert_eq!(llama.at(i32::MAX), llama.at(1 << 20));
    let steps = |scale: &QueryScale| (0..300_000).map(|p| scale.at(p)).collect::<Vec<_>>();
    assert!(steps(&llama).is_sorted() && steps(&ministral).is_sorted());
}

fn fault<T: std::fmt::Debug>(made: wgpu_rope::Result<T>) -> String {
    made.unwrap_err().to_string()
}

#[test]
fn scales_are_refused_by_name() {
    assert_eq!(
        fault(QueryScale::llama4(0, 0.1, 5)),
        "floor_scale: must be at least 1, got 0"
    );
    assert_eq!(
        fault(QueryScale::ministral3(0.1, 0, 5)),
        "original_max_position_embeddings: must be at least 1, got 0"
    );
    assert_eq!(
        fault(QueryScale::from_values(vec![1.0], 0, 0)),
        "step: must be at least 1, got 0"
    );
    assert_eq!(
        fault(QueryScale::from_values(vec![], 1, 0)),
        "query scale: must have from 1 to 16777216 values, got 0"
    );
    assert_eq!(
        fault(QueryScale::llama4(1, 0.1, u32::MAX)),
        "query scale: must have from 1 to 16777216 values, got 4294967297"
    );
    assert_eq!(
        fault(QueryScale::from_values(vec![1.0, f32::NAN], 1, 0)),
        "query scale: values must be finite in f32, got NaN"
    );
    assert_eq!(
        fault(QueryScale::llama4(4, f64::INFINITY, 9)),
        "query scale: values must be finite in f32, got NaN"
    );
    let scale = QueryScale::llama4(4, 0.1, 9).unwrap();
    assert_eq!(
        fault(scale.times(1e39)),
        "query scale: values must be finite in f32, got 1000000000000000000000000000000000000000"
    );
    let layout = CosSinLayout {
        positions: 5,
        columns: 3,
        pairs: 3,
        element: ElementType::F32,
    };
    let limits = Limits::default();
    let cached = TableSpec::from_cos_sin(layout).with_query_scale(scale.clone());
    assert_eq!(
        fault(TablePlan::new(&cached, 4, &limits)),
        "table: must be made from frequencies for a query scale, got given cos and sin"
    );
    let spec = TableSpec::new(&frequencies()).with_angles(Angles::F32);
    let scaled = spec.clone().with_query_scale(scale);
    let plan = TablePlan::new(&scaled, 4, &limits).unwrap();
    let coordinates = wgpu_rope::PositionSource::Coordinates(AxisOrder::Last);
    assert_eq!(
        fault(plan.fill(coordinates, 0..16, [0; 2])),
        "table: must be without a query scale for coordinates, got one with it"
    );
    let of_rows = wgpu_rope::RowPositions::Coordinates(&[1.0], AxisOrder::Last);
    assert_eq!(
        fault(reference::query_scales(&scaled, of_rows)),
        "table: must be without a query scale for coordinates, got one with it"
    );
    assert_eq!(
        fault(reference::query_scales(&spec, (&[1]).into())),
        "table: must have a query scale, got none"
    );
}

#[test]
fn rules_are_refused_by_name() {
    let pages = Pages {
        page_size: 16,
        pages: 10,
        pages_per_sequence: 4,
    };
    for (made, expected) in [
        (
            SlotRule::contiguous(0, 1),
            "sequences: must be at least 1, got 0",
        ),
        (
            SlotRule::contiguous(1, 0),
            "capacity: must be at least 1, got 0",
        ),
        (
            SlotRule::contiguous(1 << 16, 1 << 15),
            "slots: their number must fit i32, got an overflow",
        ),
        (
            SlotRule::paged(0, pages),
            "sequences: must be at least 1, got 0",
        ),
        (
            SlotRule::paged(
                1,
                Pages {
                    page_size: 0,
                    ..pages
                },
            ),
            "page_size: must be at least 1, got 0",
        ),
        (
            SlotRule::paged(1, Pages { pages: 0, ..pages }),
            "pages: must be at least 1, got 0",
        ),
        (
            SlotRule::paged(
                1,
                Pages {
                    pages_per_sequence: 0,
                    ..pages
                },
            ),
            "pages_per_sequence: must be at least 1, got 0",
        ),
        (
            SlotRule::paged(
                1,
                Pages {
                    pages: u32::MAX,
                    ..pages
                },
            ),
            "slots: their number must fit i32, got an overflow",
        ),
        (
            SlotRule::contiguous(2, 9).unwrap().with_ring(10, 0),
            "ring: must not exceed the 9 places of a sequence, got 10",
        ),
        (
            SlotRule::paged(2, pages).unwrap().with_ring(65, 0),
            "ring: must not exceed the 64 places of a sequence, got 65",
        ),
        (
            SlotRule::contiguous(2, 9).unwrap().with_ring(9, 9),
            "sinks: must be fewer than the 9 places of the ring, got 9",
        ),
        (
            SlotRule::contiguous(2, 9).unwrap().with_ring(0, 0),
            "sinks: must be fewer than the 0 places of the ring, got 0",
        ),
    ] {
        assert_eq!(fault(made), expected);
    }
    let rule = SlotRule::paged(3, pages).unwrap();
    assert_eq!((rule.slots(), rule.block_table_entries()), (160, 12));
    assert_eq!((rule.capacity(), rule.sequences()), (64, 3));
    assert_eq!(rule.pages(), Some(pages));
    let rule = SlotRule::contiguous(3, 50)
        .unwrap()
        .with_ring(20, 1)
        .unwrap();
    assert_eq!((rule.slots(), rule.block_table_entries()), (150, 0));
    assert_eq!((rule.capacity(), rule.pages()), (20, None));
}

#[test]
fn plans_of_slots_are_refused_by_name() {
    let spec = TableSpec::new(&frequencies());
    let plan = |spec: &TableSpec, limits: &Limits| TablePlan::new(spec, 4, limits).unwrap();
    let limits = Limits::default();
    let rule = SlotRule::contiguous(3, 50).unwrap();
    let pages = Pages {
        page_size: 16,
        pages: 10,
        pages_per_sequence: 4,
    };
    let paged = SlotRule::paged(3, pages).unwrap();
    let placed = |rule, tokens, positions| SlotSource::Placed {
        rule,
        tokens,
        positions,
    };
    let listed = |batch, tokens, capacity| SlotSource::Listed {
        batch,
        tokens,
        capacity,
    };
    let words = |positions: u64, sequences: u64, block_table: u64| SlotRanges {
        positions: 256..256 + 4 * positions,
        sequences: 0..4 * sequences,
        block_table: 4..4 + 4 * block_table,
    };
    let all = words(30, 10, 12);
    let with = plan(&spec.clone().with_slots(30), &limits);
    assert_eq!(
        fault(plan(&spec, &limits).fill_slots(&listed(1, 1, 5), &all)),
        "table: must be specified with slots for 1 x 1 tokens, got 0"
    );
    for (source, ranges, expected) in [
        (
            listed(4, 8, 9),
            all.clone(),
            "table: must be specified with slots for 4 x 8 tokens, got 30",
        ),
        (
            listed(u32::MAX, u32::MAX, 9),
            all.clone(),
            "table: must be specified with slots for 4294967295 x 4294967295 tokens, got 30",
        ),
        (
            listed(0, 8, 9),
            all.clone(),
            "slots: must be of at least one batch entry and token, got [0, 8]",
        ),
        (
            placed(rule, 0, SlotPositionSource::Ids),
            all.clone(),
            "slots: must be of at least one batch entry and token, got [3, 0]",
        ),
        (
            listed(1, 8, 0),
            all.clone(),
            "capacity: must be from 1 to 2^31 - 1, got 0",
        ),
        (
            listed(1, 8, 1 << 31),
            all.clone(),
            "capacity: must be from 1 to 2^31 - 1, got 2147483648",
        ),
        (
            listed(2, 8, 9),
            words(8, 0, 0),
            "slot_mapping: must hold a token of each of 2 batch entries of 8, got 8",
        ),
        (
            placed(rule, 8, SlotPositionSource::Ids),
            words(16, 0, 0),
            "positions: must hold a token of each of 3 batch entries of 8, got 16",
        ),
        (
            placed(rule, 8, SlotPositionSource::Start),
            words(0, 0, 0),
            "positions: must hold at least 1 starts, got 0",
        ),
        (
            placed(rule, 8, SlotPositionSource::StartPerSequence),
            words(2, 0, 0),
            "positions: must hold at least 3 starts, got 2",
        ),
        (
            placed(rule, 8, SlotPositionSource::Ragged),
            words(8, 0, 0),
            "sequences: must hold a token of each of 1 batch entries of 8, got 0",
        ),
        (
            placed(paged, 8, SlotPositionSource::From(0)),
            words(0, 0, 11),
            "block table: must hold at least 12 pages, got 11",
        ),
        (
            placed(paged, 8, SlotPositionSource::From(0)),
            SlotRanges {
                block_table: 6..99,
                ..SlotRanges::default()
            },
            "block table: byte offset must be a multiple of 4, got 6",
        ),
        (
            listed(2, 8, 9),
            SlotRanges {
                positions: 6..99,
                ..SlotRanges::default()
            },
            "slot_mapping: byte offset must be a multiple of 4, got 6",
        ),
    ] {
        assert_eq!(fault(with.fill_slots(&source, &ranges)), expected);
    }
    // Lists that serve some tokens.
    for (source, positions, sequences, served) in [
        (listed(2, 8, 9), 13, 0, 5),
        (listed(2, 8, 9), 99, 0, 8),
        (placed(rule, 8, SlotPositionSource::SharedIds), 5, 0, 5),
        (placed(rule, 8, SlotPositionSource::Ragged), 7, 6, 6),
        (placed(rule, 8, SlotPositionSource::From(1)), 0, 0, 8),
        (
            placed(rule, 8, SlotPositionSource::StartPerSequence),
            3,
            0,
            8,
        ),
    ] {
        assert_eq!(source.tokens_served(positions, sequences), served);
        let fills = with
            .fill_slots(&source, &words(positions, sequences, 0))
            .unwrap();
        assert_eq!(fills.last().unwrap().range().end, served);
    }
    // What is bound begins on the alignment, and ends where it is not read any more.
    let ranges = SlotRanges {
        positions: 516..4096,
        sequences: 1028..4096,
        block_table: 260..4096,
    };
    let ragged = placed(paged, 9, SlotPositionSource::Ragged);
    let fill = &with.fill_slots(&ragged, &ranges).unwrap()[0];
    let bytes: Vec<_> = fill.bindings.iter().map(|b| b.bytes.clone()).collect();
    assert_eq!(
        bytes,
        [0..80, 0..with.bytes(), 512..552, 256..308, 1024..1064]
    );
    assert_eq!(fill.workgroups(7), [1, 7, 1]);
    let narrow = Limits {
        max_compute_workgroups_per_dimension: 2,
        ..limits
    };
    let narrow = plan(&spec.clone().with_slots(300_000), &narrow);
    assert_eq!(
        fault(narrow.fill_slots(&listed(129, 2, 9), &words(999, 0, 0))),
        "slots: needs max_compute_workgroups_per_dimension of 3, the device has 2; request it in required_limits"
    );
    assert_eq!(
        fault(narrow.fill_slots(&listed(1, 20_000, 9), &words(20_000, 0, 0))),
        "slots: must take at most 4096 dispatches; the device's largest binding or grid is too small for it, got 10000"
    );
    let small = Limits {
        max_storage_buffer_binding_size: 1024,
        ..limits
    };
    assert_eq!(
        fault(TablePlan::new(&spec.clone().with_slots(250), 4, &small)),
        "table: needs max_storage_buffer_binding_size of 1152, the device has 1024; request it in required_limits"
    );
    let small = plan(&spec.clone().with_slots(200), &small);
    let large = SlotRule::contiguous(1, 5).unwrap();
    let ragged = placed(large, 200, SlotPositionSource::Ragged);
    let ranges = SlotRanges {
        positions: 0..800,
        sequences: 252..1052,
        block_table: 0..0,
    };
    assert_eq!(
        fault(small.fill_slots(&ragged, &ranges)),
        "sequences: needs max_storage_buffer_binding_size of 1052, the device has 1024; request it in required_limits"
    );
}

/// Whatever is planned, no index leaves its binding, and none wraps.
#[test]
fn indices_of_any_plan_stay_inside() {
    let mut random = fastrand::Rng::with_seed(31);
    // From 0 to the largest, as many small ones as large ones.
    let any = |random: &mut fastrand::Rng| -> u32 {
        let bits = random.u32(1..=32);
        random.u32(..) >> (32 - bits)
    };
    let mut planned = 0;
    for _ in 0..60_000 {
        let mut any = || any(&mut random);
        let sizes = [any(), any(), any(), any()];
        let rule = match any() % 2 {
            0 => SlotRule::contiguous(sizes[0] % 5000, sizes[1]),
            _ => {
                let pages = Pages {
                    page_size: sizes[1],
                    pages: sizes[2],
                    pages_per_sequence: sizes[3],
                };
                SlotRule::paged(sizes[0] % 5000, pages)
            }
        };
        let Ok(mut rule) = rule else {
            continue;
        };
        if any() % 2 == 0 {
            rule = rule.with_ring(any(), any()).unwrap_or(rule);
        }
        let tokens = any() >> 12;
        let source = match any() % 7 {
            0 => SlotSource::Listed {
                batch: any() >> 12,
                tokens,
                capacity: any(),
            },
            kind => SlotSource::Placed {
                rule,
                tokens,
                positions: KINDS[kind as usize - 1],
            },
        };
        let room = u64::from(source.batch()) * u64::from(tokens);
        let spec = TableSpec::new(&frequencies()).with_slots(room.min(1 << 32) as u32);
        let Ok(plan) = TablePlan::new(&spec, 1 + any() % 9, &Limits::default()) else {
            continue;
        };
        let mut range = || {
            let start = u64::from(any() & !3);
            start..start + u64::from(any())
        };
        let ranges = SlotRanges {
            positions: range(),
            sequences: range(),
            block_table: range(),
        };
        let Ok(fills) = plan.fill_slots(&source, &ranges) else {
            continue;
        };
        planned += 1;
        let given = [&ranges.positions, &ranges.block_table, &ranges.sequences];
        for fill in fills {
            let mut size = [0; 6];
            for bound in &fill.bindings {
                assert!(bound.bytes.start.is_multiple_of(256));
                size[bound.binding as usize] = bound.bytes.end - bound.bytes.start;
                if bound.binding > 2 {
                    let given = given[bound.binding as usize - 3];
                    assert!(bound.bytes.end <= given.end.next_multiple_of(4));
                    assert!(given.start - bound.bytes.start < 256);
                }
            }
            assert_eq!(size[0], 80);
            let u = |at: usize| u64::from(fill.uniform[at]);
            let (last_entry, last_token) = (u(0) - 1, u(2) - 1);
            assert!(u(2) <= u(1));
            let last_slot = u(4) + last_entry * u(1) + last_token;
            assert!(u(4) * 4 == plan.slots_start() && last_slot * 4 < plan.factors_start());
            assert_eq!(u(5) * 4, plan.row_bytes() + 4);
            if size[3] > 0 {
                let last = u(6) + last_entry * u(7) + last_token * u(8);
                assert!(last < size[3] / 4);
            }
            let [sequences, positions, sinks, period] = [u(13), u(14), u(15), u(16)];
            let (page_size, pages, columns) = (u(17), u(18), u(19));
            assert!(period > 0 && page_size > 0);
            // Places go up to here.
            let capacity = (sinks + period).min(positions.max(sinks));
            if size[4] > 0 {
                let last = u(12) + sequences * columns - 1;
                assert!(last < size[4] / 4);
                assert!(capacity <= columns * page_size && pages * page_size < 1 << 31);
            } else if sequences > 0 {
                assert!(capacity <= page_size && sequences * page_size < 1 << 31);
            } else {
                assert!((1..1 << 31).contains(&pages));
            }
            if size[5] > 0 {
                assert!(u(11) + last_token < size[5] / 4);
            }
        }
    }
    assert!(planned > 2000, "{planned}");
}

#[test]
fn twins_of_slots_refuse_by_name() {
    let pages = Pages {
        page_size: 16,
        pages: 10,
        pages_per_sequence: 4,
    };
    let source = SlotSource::Placed {
        rule: SlotRule::paged(2, pages).unwrap(),
        tokens: 3,
        positions: SlotPositionSource::Ids,
    };
    let lists = SlotLists {
        positions: &[0; 6],
        sequences: &[],
        block_table: &[0; 8],
    };
    assert!(reference::slots(&source, lists).is_ok());
    let short = SlotLists {
        positions: &[0; 5],
        ..lists
    };
    assert_eq!(
        fault(reference::slots(&source, short)),
        "lists: must serve 3 tokens of each of 2 batch entries, got 2"
    );
    let short = SlotLists {
        block_table: &[0; 7],
        ..lists
    };
    assert_eq!(
        fault(reference::slots(&source, short)),
        "block table: must hold at least 8 pages, got 7"
    );
}

#[test]
fn what_cannot_be_bound_is_refused_by_name() {
    let pages = Pages {
        page_size: 16,
        pages: 10,
        pages_per_sequence: 4,
    };
    let contiguous = SlotRule::contiguous(2, 9).unwrap();
    let paged = SlotRule::paged(2, pages).unwrap();
    for context in &*CONTEXTS {
        let (table, whole) = blank(context, 8);
        let good = context.upload(&[0; 16], NO_USAGE).unwrap();
        let copy = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 64,
            usage: wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let placed = |rule, positions, block_table| {
            let bound = table.bind_slots(Slots::Placed {
                rule,
                tokens: 4,
                positions,
                block_table,
            });
            fault(bound)
        };
        let ids = SlotPositions::Ids(good.slice(..));
        assert_eq!(
            placed(contiguous, ids, Some(good.slice(..))),
            "block table: goes with a rule with pages, got a contiguous cache"
        );
        assert_eq!(
            placed(paged, ids, None),
            "block table: must be given for a rule with pages, got none"
        );
        assert_eq!(
            placed(paged, ids, Some(good.slice(..28))),
            "block table: must hold at least 8 pages, got 7"
        );
        assert_eq!(
            placed(paged, ids, Some(copy.slice(..))),
            "block table: must have the usage STORAGE, got BufferUsages(COPY_DST)"
        );
        assert_eq!(
            placed(contiguous, SlotPositions::Ids(good.slice(2..)), None),
            "positions: byte offset must be a multiple of 4, got 2"
        );
        assert_eq!(
            placed(
                contiguous,
                SlotPositions::Ragged {
                    ids: good.slice(..),
                    sequences: table.buffer().slice(..)
                },
                None
            ),
            "sequences: must not be the buffer of the table, got that buffer"
        );
        assert_eq!(
            fault(table.bind_slots(listed(copy.slice(..), 2, 4, 9))),
            "slot_mapping: must have the usage STORAGE, got BufferUsages(COPY_DST)"
        );
        assert_eq!(
            fault(table.bind_slots(listed(good.slice(..), 3, 4, 9))),
            "table: must be specified with slots for 3 x 4 tokens, got 8"
        );
        // A list that serves 3 of 4 tokens.
        let fill = table.bind_slots(listed(good.slice(..28), 2, 4, 9)).unwrap();
        assert_eq!(
            fault(context.run(|pass| fill.record(pass, 4))),
            "tokens: must not exceed the 4 that are planned and the 3 that the lists serve, got 4"
        );
        assert_eq!(table.filled_slots(), 0);
        assert!(!table.has_slots(0, 1, 1, 1));
        assert_eq!(whole_table(context, &table), whole);
    }
}
