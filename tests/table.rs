//! Cos/sin tables on every adapter: bits against golden vectors and the CPU twin, sources of positions, directions, partial
//! fills and those of several dispatches, and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{CONTEXTS, NO_USAGE, contexts_with, name, row_bits, table_words};
use wgpu_rope::{
    CosSinLayout, CosSinTable, Direction, ElementType, Frequencies, GpuContext, Pair, Positions,
    QueryScale, RopeConfig, RopeError, RopeKernel, TableSpec, reference,
};

fn text(inv_freq: impl IntoIterator<Item = f64>, factor: f64) -> Frequencies {
    let pairs = inv_freq
        .into_iter()
        .map(|inv_freq| Pair { inv_freq, axis: 0 });
    Frequencies::from_pairs(pairs, factor).unwrap()
}

/// All words of a table's rows. Ids have no faults.
fn words(context: &GpuContext, table: &CosSinTable) -> Vec<[u32; 2]> {
    let (words, faults) = table_words(context, table);
    assert_eq!(faults, 0, "{}", name(context));
    words
}

/// The rows that the CPU twin makes, with the padding of a table.
fn expected(frequencies: &Frequencies, positions: &[i32], direction: Direction) -> Vec<[u32; 2]> {
    let spec = TableSpec::new(frequencies).with_direction(direction);
    let rows = reference::table(&spec, positions.into()).unwrap();
    row_bits(&rows, frequencies.len())
}

#[test]
fn golden_points_have_their_bits_on_every_adapter() {
    let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
    let mut by_factor: BTreeMap<u32, Vec<(i32, u64, [u32; 2])>> = BTreeMap::new();
    for line in include_str!("golden/turns.csv").lines().skip(1) {
        let fields: Vec<_> = line.split(',').collect();
        by_factor.entry(hex(fields[2])).or_default().push((
            fields[0].parse().unwrap(),
            u64::from_str_radix(fields[1], 16).unwrap(),
            [hex(fields[3]), hex(fields[4])],
        ));
    }
    for context in &*CONTEXTS {
        let mut compared = 0;
        for (&factor, points) in &by_factor {
            let rates: Vec<_> = points
                .iter()
                .map(|p| p.1)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            let positions: Vec<_> = points
                .iter()
                .map(|p| p.0)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            let frequencies = text(
                rates.iter().map(|&bits| f64::from_bits(bits)),
                f32::from_bits(factor).into(),
            );
            let ids = context.upload(&positions, NO_USAGE).unwrap();
            let rows = u32::try_from(positions.len()).unwrap();
            let table = context
                .kernel()
                .table(&TableSpec::new(&frequencies), rows)
                .unwrap();
            let fill = table.bind_positions(Positions::Ids(ids.slice(..))).unwrap();
            context.run(|pass| fill.record(pass, rows)).unwrap();
            let made = words(context, &table);
            for (position, rate, bits) in points {
                let row = positions.binary_search(position).unwrap();
                let column = rates.binary_search(rate).unwrap();
                let at = row * table.plan().row_stride() as usize + column;
                assert_eq!(made[at], *bits, "{} {position} {rate:x}", name(context));
                compared += 1;
            }
        }
        assert_eq!(compared, 4017, "{}", name(context));
    }
}

#[test]
fn a_table_of_131072_positions_equals_the_cpu_word_for_word() {
    let frequencies = Frequencies::new(&RopeConfig::new(128).with_theta(5e5)).unwrap();
    let positions: Vec<i32> = (0..131_072).collect();
    let expected = expected(&frequencies, &positions, Direction::Forward);
    for context in &*CONTEXTS {
        let table = context
            .kernel()
            .table(&TableSpec::new(&frequencies), 131_072)
            .unwrap();
        let fill = table.bind_positions(Positions::From(0)).unwrap();
        // More rows than a grid has workgroups in a dimension, in two recordings that end anywhere.
        context.run(|pass| fill.record(pass, 70_001)).unwrap();
        assert_eq!(table.filled_rows(), 70_001);
        let made = words(context, &table);
        let (done, rest) = made.split_at(70_001 * 64);
        assert!(*done == expected[..done.len()], "{}", name(context));
        assert!(
            rest.iter().all(|entry| *entry == [0, 0]),
            "{}",
            name(context)
        );
        context.run(|pass| fill.record(pass, 131_072)).unwrap();
        assert!(words(context, &table) == expected, "{}", name(context));
    }
}

const HARD: [i32; 11] = [
    i32::MIN,
    i32::MAX,
    0,
    -1,
    7,
    7,
    6,
    131_071,
    (1 << 24) + 1,
    -4095,
    i32::MIN + 1,
];

#[test]
fn ids_may_be_anything_and_rates_of_any_sign_and_size() {
    for (width, factor) in [(1, 1.0), (3, 1.25), (40, -0.75), (67, 1.0)] {
        let frequencies = text(
            (0..width).map(|k| {
                let magnitude = libm::exp2(16.0 - 80.0 * f64::from(k) / 66.0);
                if k % 2 == 1 { -magnitude } else { magnitude }
            }),
            factor,
        );
        for direction in [Direction::Forward, Direction::Inverse, Direction::Adjoint] {
            let expected = expected(&frequencies, &HARD, direction);
            for context in &*CONTEXTS {
                // Behind other data, at an offset that no binding can start at.
                let mut data = vec![12_345; 5];
                data.extend(HARD);
                let ids = context.upload(&data, NO_USAGE).unwrap();
                let table = context
                    .kernel()
                    .table(&TableSpec::new(&frequencies).with_direction(direction), 11)
                    .unwrap();
                let fill = table
                    .bind_positions(Positions::Ids(ids.slice(20..)))
                    .unwrap();
                assert_eq!(fill.rows(), 11);
                context.run(|pass| fill.record(pass, 11)).unwrap();
                assert_eq!(
                    words(context, &table),
                    expected,
                    "{} {direction:?}",
                    name(context)
                );
            }
        }
    }
}

#[test]
fn starts_count_on_and_wrap() {
    let frequencies = Frequencies::new(&RopeConfig::new(6)).unwrap();
    let run = |start: i32, rows: i32| (0..rows).map(move |row| start.wrapping_add(row));
    for context in &*CONTEXTS {
        let kernel = context.kernel();
        let table = |rows| kernel.table(&TableSpec::new(&frequencies), rows).unwrap();
        let check =
            |table: &CosSinTable, positions: Positions<'_>, expected_positions: Vec<i32>| {
                let fill = table.bind_positions(positions).unwrap();
                context.run(|pass| fill.record(pass, fill.rows())).unwrap();
                assert_eq!(
                    words(context, table),
                    expected(&frequencies, &expected_positions, Direction::Forward),
                    "{}",
                    name(context)
                );
            };
        check(&table(9), Positions::From(-4), run(-4, 9).collect());
        check(
            &table(9),
            Positions::From(i32::MAX - 3),
            run(i32::MAX - 3, 9).collect(),
        );
        let starts = context.upload(&[40, i32::MAX - 1, -2], NO_USAGE).unwrap();
        check(
            &table(9),
            Positions::Start(starts.slice(8..)),
            run(-2, 9).collect(),
        );
        let per_sequence = Positions::StartPerSequence {
            starts: starts.slice(..),
            rows: 3,
        };
        let three = [40, i32::MAX - 1, -2]
            .into_iter()
            .flat_map(|start| run(start, 3));
        check(&table(9), per_sequence, three.collect());
        // Fewer positions than rows: as many rows as they serve.
        let fill = table(10).bind_positions(per_sequence).unwrap();
        assert_eq!(fill.rows(), 9);
    }
}

#[test]
fn one_buffer_written_each_step_drives_one_recorded_fill() {
    let frequencies = Frequencies::new(&RopeConfig::new(64)).unwrap();
    for context in &*CONTEXTS {
        let table = context
            .kernel()
            .table(&TableSpec::new(&frequencies), 2)
            .unwrap();
        let start = context.upload(&[0], NO_USAGE).unwrap();
        let fill = table
            .bind_positions(Positions::Start(start.slice(..)))
            .unwrap();
        for step in [5, -9, 1 << 30] {
            context
                .queue()
                .write_buffer(&start, 0, bytemuck::bytes_of(&step));
            context.run(|pass| fill.record(pass, 2)).unwrap();
            assert_eq!(
                words(context, &table),
                expected(&frequencies, &[step, step + 1], Direction::Forward)
            );
        }
    }
}

#[test]
fn a_fill_of_fewer_rows_leaves_the_others() {
    let frequencies = Frequencies::new(&RopeConfig::new(10)).unwrap();
    for context in &*CONTEXTS {
        let table = context
            .kernel()
            .table(&TableSpec::new(&frequencies), 70)
            .unwrap();
        let far = table.bind_positions(Positions::From(1000)).unwrap();
        context.run(|pass| far.record(pass, 70)).unwrap();
        let near = table.bind_positions(Positions::From(-7)).unwrap();
        context
            .run(|pass| {
                near.record(pass, 33)?;
                near.record(pass, 0)
            })
            .unwrap();
        let positions: Vec<_> = (-7..26).chain(1033..1070).collect();
        assert_eq!(
            words(context, &table),
            expected(&frequencies, &positions, Direction::Forward),
            "{}",
            name(context)
        );
        // What counts is the last fill: the rows behind it hold other positions.
        assert_eq!(table.filled_rows(), 33);
    }
}

#[test]
fn small_grids_take_several_dispatches() {
    let frequencies = text((1..=130).map(|k| 1.0 / f64::from(k)), 1.0);
    let positions: Vec<_> = (-30..31).collect();
    for context in contexts_with(|limits| limits.max_compute_workgroups_per_dimension = 9) {
        let table = context
            .kernel()
            .table(&TableSpec::new(&frequencies), 61)
            .unwrap();
        let fill = table.bind_positions(Positions::From(-30)).unwrap();
        context.run(|pass| fill.record(pass, 61)).unwrap();
        assert_eq!(
            words(&context, &table),
            expected(&frequencies, &positions, Direction::Forward),
            "{}",
            name(&context)
        );
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let frequencies = Frequencies::new(&RopeConfig::new(128)).unwrap();
    for context in &*CONTEXTS {
        let kernel = context.kernel();
        let table = |rows| kernel.table(&TableSpec::new(&frequencies), rows);
        assert!(matches!(
            table(0),
            Err(RopeError::Layout {
                operand: "table rows",
                ..
            })
        ));
        let most = kernel.limits().max_storage_buffer_binding_size;
        let rows = u32::try_from(most / 512 + 1).unwrap();
        assert!(
            matches!(
                table(rows),
                Err(RopeError::Limit { limit: "max_storage_buffer_binding_size", needed, .. }) if needed > most
            ),
            "{}",
            name(context)
        );

        let table = table(4).unwrap();
        let plain = |usage| {
            context.device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 64,
                usage,
                mapped_at_creation: false,
            })
        };
        let fault =
            |positions: Positions<'_>| table.bind_positions(positions).unwrap_err().to_string();
        let copy = plain(wgpu::BufferUsages::COPY_DST);
        assert_eq!(
            fault(Positions::Ids(copy.slice(..))),
            "positions: must have the usage STORAGE, got BufferUsages(COPY_DST)"
        );
        let good = plain(wgpu::BufferUsages::STORAGE);
        assert_eq!(
            fault(Positions::Ids(good.slice(2..))),
            "positions: byte offset must be a multiple of 4, got 2"
        );
        assert_eq!(
            fault(Positions::Start(good.slice(0..3))),
            "positions: must hold the position of at least one row, got 0 of them, for 1 axes"
        );
        assert_eq!(
            fault(Positions::StartPerSequence {
                starts: good.slice(..),
                rows: 0
            }),
            "positions: rows of a sequence must be at least 1, got 0"
        );
        assert_eq!(
            fault(Positions::Ids(table.buffer().slice(..))),
            "positions: must not be the buffer of the table, got that buffer"
        );
        let fill = table
            .bind_positions(Positions::Ids(good.slice(..12)))
            .unwrap();
        assert_eq!(
            context
                .run(|pass| fill.record(pass, 4))
                .unwrap_err()
                .to_string(),
            "rows: must not exceed the table's 4 and the 3 that its positions serve, got 4"
        );
        assert_eq!(table.filled_rows(), 0);
    }
}

#[test]
fn buffers_of_another_device_are_an_error_and_not_a_panic() {
    let frequencies = Frequencies::new(&RopeConfig::new(128)).unwrap();
    for (context, other) in CONTEXTS.iter().zip(contexts_with(|_| {})) {
        let table = context
            .kernel()
            .table(&TableSpec::new(&frequencies), 4)
            .unwrap();
        let ids = other.upload(&[1, 2, 3, 4], NO_USAGE).unwrap();
        let error = table
            .bind_positions(Positions::Ids(ids.slice(..)))
            .unwrap_err();
        assert!(
            matches!(
                error,
                RopeError::Device {
                    operand: "positions",
                    ..
                }
            ),
            "{error}"
        );
        // The device works on.
        assert!(context.self_test_blocking().unwrap().passed());
    }
}

#[test]
fn limits_can_be_asked_for_before_there_is_a_device() {
    let frequencies = Frequencies::new(&RopeConfig::new(128)).unwrap();
    let table = TableSpec::new(&frequencies);
    // WebGPU's number of storage bindings, which a layer in one dispatch takes.
    let base = wgpu::Limits {
        max_storage_buffers_per_shader_stage: 8,
        ..wgpu::Limits::downlevel_defaults()
    };
    assert_eq!(RopeKernel::required_limits(&table, 4096), base);
    let large = |spec: &TableSpec, bytes: u64| {
        let large = RopeKernel::required_limits(spec, 1 << 20);
        assert_eq!(large.max_storage_buffer_binding_size, bytes);
        assert_eq!(large.max_buffer_size, bytes);
    };
    large(&table, (512 << 20) + 16);
    let scale = QueryScale::from_values(vec![1.0], 1, 0).unwrap();
    let with_both = table.clone().with_slots(5).with_query_scale(scale);
    large(&with_both, (520 << 20) + 16 + 32);
    let cache = CosSinLayout {
        positions: 1 << 20,
        columns: 200,
        pairs: 2,
        element: ElementType::F32,
    };
    large(&TableSpec::from_cos_sin(cache), 800 << 20);
    assert!(RopeKernel::required_features().is_empty());
    for context in contexts_with(|limits| {
        *limits = RopeKernel::required_limits(&table, 4096).or_worse_values_from(limits);
    }) {
        assert!(context.self_test_blocking().unwrap().passed());
    }
}
