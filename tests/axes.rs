//! Positions of several axes on every adapter: lists in both orders, larger and smaller than the table, at any offset, bit for bit
//! against the CPU twin, and the twin against an f64 oracle that looks positions up by itself.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use common::{CONTEXTS, NO_USAGE, check_head, name, row_bits, table_words, values};
use wgpu_rope::half::bf16;
use wgpu_rope::{
    Angles, AxisOrder, Direction, Element, Frequencies, HeadLayout, Limits, Pair, Pairing,
    PositionSource, Positions, Resource, RopeConfig, RotateSpec, RowPositions, TablePlan,
    TableSpec, reference,
};

/// Seven pairs, an odd number, of which every axis turns some, in no order.
fn frequencies(axes: u32) -> Frequencies {
    let pairs = (0..7).map(|k| Pair {
        inv_freq: [0.9, -0.31, 0.1, 0.037, 1.7, 0.0041, 0.00053][k as usize],
        axis: (k * 5 + axes - 1) % axes,
    });
    Frequencies::from_pairs(pairs, 1.0).unwrap()
}

/// A list of positions: its order, how many values it has, and how many rows of the table those serve.
fn lists(axes: usize, rows: usize) -> Vec<(AxisOrder, usize, usize)> {
    let first = |rows: usize| AxisOrder::First { rows: rows as u32 };
    vec![
        (first(rows), axes * rows, rows),
        (AxisOrder::Last, axes * rows, rows),
        // More rows than the table has, and some values behind them.
        (first(rows + 3), axes * (rows + 3) + 2, rows),
        (AxisOrder::Last, axes * (rows + 3) + 1, rows),
        // Fewer; an axis that ends early, a row that is not whole.
        (first(rows - 2), axes * (rows - 2), rows - 2),
        (first(rows + 1), (axes - 1) * (rows + 1) + 4, 4),
        (AxisOrder::Last, axes * 5 + axes - 1, 5),
    ]
}

/// Where the position of a row on an axis stands in a list.
fn index(order: AxisOrder, axes: usize, row: usize, axis: usize) -> usize {
    match order {
        AxisOrder::First { rows } => axis * rows as usize + row,
        AxisOrder::Last => row * axes + axis,
    }
}

/// Rows of the twin against f64: each value is within rounding of the truth.
fn check_rows(
    frequencies: &Frequencies,
    rows: &[[f32; 2]],
    position: impl Fn(usize, usize) -> i32,
) {
    let pairs = frequencies.pairs();
    for (at, [cos, sin]) in rows.iter().enumerate() {
        let pair = pairs[at % pairs.len()];
        let id = position(at / pairs.len(), pair.axis as usize);
        let (c, s) = common::cos_sin(id, pair.inv_freq);
        for (made, truth) in [(cos, c), (sin, s)] {
            let apart = (f64::from(*made) - truth).abs();
            assert!(
                apart <= truth.abs() * 2_f64.powi(-24) + 1e-15,
                "{at} {id}: {made} {truth}"
            );
        }
    }
}

const ROWS: usize = 9;

#[test]
fn ids_of_several_axes_in_both_orders() {
    let mut random = fastrand::Rng::with_seed(51);
    for axes in 1..=4 {
        let frequencies = frequencies(axes as u32);
        assert_eq!(frequencies.axes(), axes as u32);
        for (i, (order, count, served)) in lists(axes, ROWS).into_iter().enumerate() {
            let ids: Vec<i32> = (0..count)
                .map(|_| random.i32(..) >> random.u8(0..28))
                .collect();
            let listed = RowPositions::IdsPerAxis(&ids, order);
            for angles in [Angles::Exact, Angles::F32] {
                let spec = TableSpec::new(&frequencies).with_angles(angles);
                let rows = reference::table(&spec, listed).unwrap();
                // The twin knows no table: it makes all rows of the list.
                let rows = &rows[..served * 7];
                if angles == Angles::Exact {
                    check_rows(&frequencies, rows, |row, axis| {
                        ids[index(order, axes, row, axis)]
                    });
                }
                let mut expected = row_bits(rows, 7);
                expected.resize(ROWS * 8, [0, 0]);
                for context in &*CONTEXTS {
                    // Inside other words, which are no positions.
                    let mut words = vec![i32::MIN; 5 + i];
                    words.extend(&ids);
                    words.extend([i32::MIN; 9]);
                    let from = 4 * (5 + i as u64);
                    let buffer = context.upload(&words, NO_USAGE).unwrap();
                    let table = context.kernel().table(&spec, ROWS as u32).unwrap();
                    let ids = buffer.slice(from..from + 4 * count as u64);
                    let fill = table
                        .bind_positions(Positions::IdsPerAxis { ids, order })
                        .unwrap();
                    assert_eq!(fill.rows() as usize, served, "{axes} {order:?} {count}");
                    context.run(|pass| fill.record(pass, fill.rows())).unwrap();
                    let (words, faults) = table_words(context, &table);
                    assert!(
                        words == expected && faults == 0,
                        "{} {axes} {order:?} {count}",
                        name(context)
                    );
                }
            }
        }
    }
}

#[test]
fn one_position_stands_for_all_axes() {
    // A text token of a multimodal model.
    for axes in [2, 3] {
        let frequencies = frequencies(axes);
        let text: Vec<_> = frequencies
            .pairs()
            .iter()
            .map(|pair| Pair { axis: 0, ..*pair })
            .collect();
        let text = Frequencies::from_pairs(text, 1.0).unwrap();
        let ids: Vec<i32> = vec![40, 41, 42, -2, -1, 0, 7, 8, 9];
        let (spec, text) = (TableSpec::new(&frequencies), TableSpec::new(&text));
        let rows = reference::table(&text, (&ids).into()).unwrap();
        assert_eq!(reference::table(&spec, (&ids).into()).unwrap(), rows);
        let repeated: Vec<i32> = (0..axes).flat_map(|_| ids.clone()).collect();
        let order = AxisOrder::First { rows: 9 };
        let listed = RowPositions::IdsPerAxis(&repeated, order);
        assert_eq!(reference::table(&spec, listed).unwrap(), rows);
        let counted: Vec<i32> = (-4..5).collect();
        let from = reference::table(&text, (&counted).into()).unwrap();
        for context in &*CONTEXTS {
            let made = |positions: Positions<'_>| {
                let table = context.kernel().table(&spec, 9).unwrap();
                let fill = table.bind_positions(positions).unwrap();
                context.run(|pass| fill.record(pass, 9)).unwrap();
                table_words(context, &table).0
            };
            let expected = row_bits(&rows, 7);
            let buffer = context.upload(&ids, NO_USAGE).unwrap();
            assert_eq!(made(Positions::Ids(buffer.slice(..))), expected);
            let buffer = context.upload(&[40, -2, 7], NO_USAGE).unwrap();
            let starts = buffer.slice(..);
            assert_eq!(
                made(Positions::StartPerSequence { starts, rows: 3 }),
                expected
            );
            assert_eq!(made(Positions::From(-4)), row_bits(&from, 7));
            let buffer = context.upload(&[-4], NO_USAGE).unwrap();
            assert_eq!(made(Positions::Start(buffer.slice(..))), row_bits(&from, 7));
        }
    }
}

#[test]
fn coordinates_of_several_axes_in_both_orders() {
    let mut random = fastrand::Rng::with_seed(52);
    for axes in 1..=4 {
        let frequencies = frequencies(axes as u32);
        let spec = TableSpec::new(&frequencies).with_angles(Angles::F32);
        for (i, (order, count, served)) in lists(axes, ROWS).into_iter().enumerate() {
            // Coordinates of images, some of them none.
            let values: Vec<f32> = (0..count)
                .map(|at| {
                    if at % 11 == 10 {
                        f32::NAN
                    } else {
                        random.f32() * 200.0 - 100.0
                    }
                })
                .collect();
            let listed = RowPositions::Coordinates(&values, order);
            let rows = reference::table(&spec, listed).unwrap();
            let rows = &rows[..served * 7];
            let mut without = 0;
            for (at, [cos, sin]) in rows.iter().enumerate() {
                let pair = frequencies.pairs()[at % 7];
                let value = values[index(order, axes, at / 7, pair.axis as usize)];
                if value.is_nan() {
                    assert_eq!([cos.to_bits(), sin.to_bits()], [0x3f80_0000, 0]);
                    without += 1;
                    continue;
                }
                let (s, c) = f64::from(value * pair.inv_freq as f32).sin_cos();
                for (made, truth) in [(cos, c), (sin, s)] {
                    let apart = (f64::from(*made) - truth).abs();
                    assert!(
                        apart <= truth.abs() * 2_f64.powi(-24) + 1e-15,
                        "{made} {truth}"
                    );
                }
            }
            let mut expected = row_bits(rows, 7);
            expected.resize(ROWS * 8, [0, 0]);
            for context in &*CONTEXTS {
                let mut words = vec![f32::INFINITY; 2 + i];
                words.extend(&values);
                words.push(f32::INFINITY);
                let from = 4 * (2 + i as u64);
                let buffer = context.upload(&words, NO_USAGE).unwrap();
                let table = context.kernel().table(&spec, ROWS as u32).unwrap();
                let values = buffer.slice(from..from + 4 * count as u64);
                let fill = table
                    .bind_positions(Positions::Coordinates { values, order })
                    .unwrap();
                assert_eq!(fill.rows() as usize, served, "{axes} {order:?} {count}");
                context.run(|pass| fill.record(pass, fill.rows())).unwrap();
                let (words, faults) = table_words(context, &table);
                assert!(
                    words == expected && faults == without,
                    "{} {axes} {order:?} {count}: {faults} {without}",
                    name(context)
                );
            }
        }
    }
}

/// A layer of a multimodal model as a whole: 3 axes, two batch entries with positions of their own, against f64.
#[test]
fn a_rotation_of_three_axes_is_within_rounding_of_the_truth() {
    fn check<T: Element>(pairing: Pairing, angles: Angles) {
        let (batch, tokens, head_dim) = (2, 6, 30);
        let config = RopeConfig::new(head_dim)
            .with_rotary_dim(24)
            .with_rotary_offset(3)
            .with_pairing(pairing);
        // Sections of 4, 5 and 3 pairs.
        let axis = |k: u32| u32::from(k >= 4) + u32::from(k >= 9);
        let pairs = (0..12_u32).map(|k| Pair {
            inv_freq: 2_f64.powi(-k.cast_signed()),
            axis: axis(k),
        });
        let frequencies = Frequencies::from_pairs(pairs, 1.0).unwrap();
        let mut random = fastrand::Rng::with_seed(53);
        // [axes, batch, tokens]
        let ids: Vec<i32> = (0..3 * batch * tokens)
            .map(|_| random.i32(-50_000..50_000))
            .collect();
        let rows = batch * tokens;
        let order = AxisOrder::First { rows };
        let layout = HeadLayout::bshd(tokens, 3, head_dim);
        let spec = RotateSpec::new(&config, batch, tokens, layout, T::TYPE)
            .with_rows(wgpu_rope::Rows::PerToken);
        let table = TableSpec::new(&frequencies).with_angles(angles);
        let positions = RowPositions::IdsPerAxis(&ids, order);
        let count = (batch * tokens * 3 * head_dim) as usize;
        let before: Vec<T> = values(&mut random, count)
            .into_iter()
            .map(T::narrow)
            .collect();
        let mut twin = before.clone();
        let entries = reference::table(&table, positions).unwrap();
        reference::rotate(&spec, &entries, &mut twin, None).unwrap();
        for (b, t, at) in common::heads(layout, batch, tokens) {
            let turns: Vec<_> = frequencies
                .inv_freq()
                .zip(0..)
                .map(|(w, k)| {
                    let id = ids[(axis(k) * rows + b * tokens + t) as usize];
                    // Products of such ids with powers of two are exact in f32.
                    common::cos_sin(id, w)
                })
                .collect();
            let head = at..at + head_dim as usize;
            check_head(&config, &turns, 1.0, (&before[head.clone()], &twin[head]));
        }
        // The crate's own oracle too.
        let oracle = reference::rotate_f64(&spec, &table, positions, &before).unwrap();
        // A pair is at most sqrt(2) times as long as the largest channel, and |x c| + |y s| no more than that.
        let largest = before.iter().map(|x| f64::from(x.widen()).abs());
        let length = 2_f64.sqrt() * largest.fold(0.0, f64::max);
        for (oracle, twin) in oracle.iter().zip(&twin) {
            let bound = common::bound::<T>((*oracle, length), 1.0);
            assert!((oracle - f64::from(twin.widen())).abs() <= bound);
        }
        for context in &*CONTEXTS {
            let mut made = before.clone();
            context
                .rotate_blocking(&spec, &table, positions, &mut made, None)
                .unwrap();
            assert_eq!(
                bytemuck::cast_slice::<_, u8>(&made),
                bytemuck::cast_slice::<_, u8>(&twin),
                "{}",
                name(context)
            );
        }
    }
    for pairing in [
        Pairing::HalfSplit,
        Pairing::Interleaved,
        Pairing::HalfSplitBlocks(3),
    ] {
        for angles in [Angles::Exact, Angles::F32] {
            check::<f32>(pairing, angles);
            check::<bf16>(pairing, angles);
        }
    }
}

#[test]
fn a_list_is_bound_no_further_than_it_is_read() {
    let frequencies = frequencies(3);
    let plan = TablePlan::new(&TableSpec::new(&frequencies), 10, &Limits::default()).unwrap();
    let bound = |source, values: u64| {
        let [planned] = &plan.fill(source, 260..260 + 4 * values, [0; 2]).unwrap()[..] else {
            panic!("one dispatch");
        };
        let found = planned
            .bindings
            .iter()
            .find(|bound| bound.resource == Resource::Positions);
        (found.unwrap().bytes.clone(), planned.range().end)
    };
    let first = |rows| PositionSource::PerAxis(AxisOrder::First { rows });
    let last = PositionSource::PerAxis(AxisOrder::Last);
    // The last value read is that of the last row on the last axis.
    assert_eq!(bound(first(10), 1000), (256..260 + 4 * 30, 10));
    assert_eq!(bound(first(100), 1000), (256..260 + 4 * 210, 10));
    assert_eq!(bound(first(100), 203), (256..260 + 4 * 203, 3));
    assert_eq!(bound(first(4), 1000), (256..260 + 4 * 12, 4));
    assert_eq!(bound(last, 1000), (256..260 + 4 * 30, 10));
    assert_eq!(bound(last, 14), (256..260 + 4 * 12, 4));
    let fault = |source, values: u64| {
        let fault = plan
            .fill(source, 256..256 + 4 * values, [0; 2])
            .unwrap_err();
        fault.to_string()
    };
    let rule = "positions: must hold the position of at least one row, got";
    assert_eq!(
        fault(first(10), 20),
        format!("{rule} 20 of them, for 3 axes")
    );
    assert_eq!(
        fault(first(0), 20),
        format!("{rule} 20 of them, for 3 axes")
    );
    assert_eq!(fault(last, 2), format!("{rule} 2 of them, for 3 axes"));
    assert_eq!(
        fault(first(u32::MAX), 1 << 20),
        format!("{rule} 1048576 of them, for 3 axes")
    );
    // Rows that the twin has, for as many values.
    let ids = vec![0; 203];
    let rows = |order| RowPositions::IdsPerAxis(&ids, order).rows(3);
    assert_eq!(rows(AxisOrder::First { rows: 100 }), 3);
    assert_eq!(rows(AxisOrder::First { rows: 60 }), 60);
    assert_eq!(rows(AxisOrder::First { rows: 102 }), 0);
    assert_eq!(rows(AxisOrder::Last), 67);
    assert_eq!(RowPositions::Ids(&ids).rows(3), 203);
}

#[test]
fn directions_turn_all_axes_round() {
    let frequencies = frequencies(3);
    let ids: Vec<i32> = (0..12).map(|at| at * at - 20).collect();
    let listed = RowPositions::IdsPerAxis(&ids, AxisOrder::Last);
    let rows = |spec: TableSpec| reference::table(&spec, listed).unwrap();
    for angles in [Angles::Exact, Angles::F32] {
        let spec = TableSpec::new(&frequencies).with_angles(angles);
        let forward = rows(spec.clone());
        for direction in [Direction::Inverse, Direction::Adjoint] {
            let back = rows(spec.clone().with_direction(direction));
            for ([c, s], [a, b]) in forward.iter().zip(back) {
                assert_eq!((*c, -s), (a, b));
            }
        }
    }
}
