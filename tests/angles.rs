//! Angles in f32, of ids and of coordinates: the CPU twin against an arbitrary-precision library, every adapter against the
//! twin bit for bit, and what has no angle left alone and counted.
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

use astro_float::Consts;
use common::exact;
use common::{CONTEXTS, NO_USAGE, name, row_bits, table_words};
use wgpu_rope::{
    Angles, AxisOrder, Direction, Frequencies, GpuContext, Limits, Pair, PositionSource, Positions,
    RopeConfig, RopeError, RowPositions, TablePlan, TableSpec, reference,
};

const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::Inverse, Direction::Adjoint];

fn frequencies(inv_freq: impl IntoIterator<Item = f64>, factor: f64) -> Frequencies {
    let pairs = inv_freq
        .into_iter()
        .map(|inv_freq| Pair { inv_freq, axis: 0 });
    Frequencies::from_pairs(pairs, factor).unwrap()
}

fn spec(frequencies: &Frequencies, direction: Direction) -> TableSpec {
    TableSpec::new(frequencies)
        .with_angles(Angles::F32)
        .with_direction(direction)
}

fn two_to(exponent: i32) -> f32 {
    2_f32.powi(exponent)
}

/// The angle as a framework makes it, by the CPU's own f32 arithmetic; None where there is none.
fn f32_angle(position: f32, inv_freq: f64) -> Option<f32> {
    let angle = position * inv_freq as f32;
    (position.is_finite() && angle.abs() < two_to(48)).then_some(angle)
}

/// Checks one entry against the truth of its angle. Returns whether there was an angle.
fn check_entry(
    [cos, sin]: [f32; 2],
    position: f32,
    inv_freq: f64,
    (factor, direction): (f64, Direction),
    constants: &mut Consts,
) -> bool {
    let text = || format!("{position:e} * {inv_freq:e}, {factor} {direction:?}: {cos:e} {sin:e}");
    let Some(angle) = f32_angle(position, inv_freq) else {
        assert_eq!(
            [cos.to_bits(), sin.to_bits()],
            [0x3f80_0000, 0],
            "{}",
            text()
        );
        return false;
    };
    let (angle, factor) = match direction {
        Direction::Forward => (angle, factor as f32),
        Direction::Adjoint => (-angle, factor as f32),
        Direction::Inverse => (-angle, (1.0 / factor) as f32),
    };
    if angle.abs() < two_to(-70) {
        assert_eq!(cos, factor, "{}", text());
        // So small an angle is its own sine, here off by 2^-100, and rounded once.
        let truth = f64::from(angle) * f64::from(factor);
        let apart = f64::from(sin) - truth;
        let allowed = 2_f64.powi(-100) * f64::from(factor.abs()) + truth.abs() * 2_f64.powi(-24);
        assert!(apart.abs() < allowed, "{}", text());
        return true;
    }
    let truth = exact::cos_sin(&exact::product(angle.into(), 1.0), factor, constants);
    assert_eq!(cos.to_bits(), truth[0], "{}", text());
    if angle.abs() >= two_to(-40) || factor == 1.0 {
        assert_eq!(sin.to_bits(), truth[1], "{}", text());
    } else {
        // Its weight is off by up to 2^-33 there, relative: a sine next to an f32 value stays next to it, but a factor may bring it next to
        // a tie.
        assert!(sin.to_bits().abs_diff(truth[1]) <= 1, "{}", text());
    }
    true
}

/// A table of ids or coordinates on the CPU against the truth. Returns how many pairs have no angle, and the rows.
fn against_truth(
    frequencies: &Frequencies,
    direction: Direction,
    positions: RowPositions<'_>,
) -> (u32, Vec<[f32; 2]>) {
    let rows = reference::table(&spec(frequencies, direction), positions).unwrap();
    let positions: Vec<f32> = match positions {
        RowPositions::Ids(ids) => ids.iter().map(|&id| id as f32).collect(),
        RowPositions::Coordinates(values, AxisOrder::Last) => values.to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(rows.len(), positions.len() * frequencies.len());
    let entries: Vec<_> = positions
        .iter()
        .flat_map(|&position| frequencies.inv_freq().map(move |w| (position, w)))
        .zip(&rows)
        .collect();
    let how = (frequencies.attention_factor(), direction);
    let faults = std::thread::scope(|scope| {
        let handles: Vec<_> = entries
            .chunks(entries.len().div_ceil(2))
            .map(|entries| {
                scope.spawn(move || {
                    let mut constants = Consts::new().unwrap();
                    let mut check = |&((position, w), entry): &((f32, f64), &[f32; 2])| {
                        !check_entry(*entry, position, w, how, &mut constants)
                    };
                    entries.iter().filter(|entry| check(entry)).count()
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .sum::<usize>()
    });
    (faults as u32, rows)
}

/// The same table on a device, which has to have the bits of the rows and so many faults.
fn on_device(
    context: &GpuContext,
    spec: &TableSpec,
    (faults, rows): &(u32, Vec<[f32; 2]>),
    positions: Positions<'_>,
) {
    let count = (rows.len() / spec.pairs()) as u32;
    let table = context.kernel().table(spec, count).unwrap();
    let fill = table.bind_positions(positions).unwrap();
    assert_eq!(fill.rows(), count);
    context.run(|pass| fill.record(pass, count)).unwrap();
    let (words, counted) = table_words(context, &table);
    let expected = row_bits(rows, spec.pairs());
    for (at, (made, expected)) in words.iter().zip(&expected).enumerate() {
        assert_eq!(made, expected, "{} entry {at} {positions:?}", name(context));
    }
    assert_eq!(
        (words.len(), counted),
        (expected.len(), *faults),
        "{}",
        name(context)
    );
}

/// Ids from all over i32, among them those that f32 has to round, to either side and from ties.
fn ids(random: &mut fastrand::Rng) -> Vec<i32> {
    let mut ids = vec![
        0,
        1,
        -1,
        4095,
        131_071,
        (1 << 23) + 1,
        (1 << 24) + 1,
        (1 << 24) + 3,
        -((1 << 24) + 1),
        (1 << 25) + 2,
        (1 << 25) + 3,
        (1 << 25) + 6,
        (1 << 30) + 64,
        (1 << 30) + 65,
        (1 << 30) - 63,
        i32::MAX,
        i32::MAX - 64,
        i32::MIN,
        i32::MIN + 1,
        -77_777_777,
    ];
    ids.extend((0..20).map(|_| random.i32(..)));
    ids.extend((0..20).map(|_| random.i32(..) >> random.u8(1..31)));
    ids
}

#[test]
fn angles_of_ids_are_those_of_f32_arithmetic() {
    let mut random = fastrand::Rng::with_seed(41);
    let ids = ids(&mut random);
    let theta =
        |theta: f64, n: i32| (0..n).map(move |k| libm::pow(theta, -f64::from(k) / f64::from(n)));
    let anything = (0..33).map(|k| {
        let magnitude = libm::exp2(random.f64() * 80.0 - 64.0);
        if k % 3 == 0 { -magnitude } else { magnitude }
    });
    let anything: Vec<_> = anything
        .chain([
            0.0,
            f64::from(f32::from_bits(0x3fff_fffe)),
            65_536.0,
            -1.0,
            f64::from(f32::MIN_POSITIVE).sqrt(),
        ])
        .collect();
    for (i, frequencies) in [
        frequencies(theta(1e4, 32), 1.0),
        frequencies(theta(5e5, 21), 1.25),
        frequencies(anything, -0.7),
    ]
    .iter()
    .enumerate()
    {
        for direction in DIRECTIONS {
            let made = against_truth(frequencies, direction, (&ids).into());
            assert_eq!(made.0, 0);
            for context in &*CONTEXTS {
                let spec = spec(frequencies, direction);
                // Behind other words, where no binding can start.
                let mut words = vec![3; 3 + i];
                words.extend(&ids);
                let buffer = context.upload(&words, NO_USAGE).unwrap();
                let slice = buffer.slice(4 * (3 + i as u64)..);
                on_device(context, &spec, &made, Positions::Ids(slice));
            }
        }
    }
}

#[test]
fn products_that_are_ties_are_rounded_to_even() {
    // An odd id of few bits times a significand of 24: products of 25 to 27 bits.
    let mut random = fastrand::Rng::with_seed(42);
    let significand = |random: &mut fastrand::Rng| f64::from(random.u32(1 << 23..1 << 24));
    let inv_freq: Vec<f64> = (0..64)
        .map(|_| significand(&mut random) * libm::exp2(-f64::from(random.u8(23..60))))
        .collect();
    let ids: Vec<i32> = (1..16)
        .flat_map(|p| [2 * p + 1, -2 * p - 1, (2 * p + 1) << 10])
        .collect();
    let (mut down, mut up) = (0, 0);
    for id in &ids {
        for w in &inv_freq {
            // Exact in f64, and the rounding to f32 as well.
            let product = f64::from(*id) * w;
            let rounded = f64::from(product as f32);
            let ulp =
                f64::from(f32::from_bits((rounded as f32).abs().to_bits() + 1)) - rounded.abs();
            if (product - rounded).abs() == ulp / 2.0 {
                if rounded.abs() > product.abs() {
                    up += 1;
                } else {
                    down += 1;
                }
            }
        }
    }
    assert!(up > 100 && down > 100, "{up} {down} ties");
    let frequencies = frequencies(inv_freq, 1.0);
    let made = against_truth(&frequencies, Direction::Forward, (&ids).into());
    for context in &*CONTEXTS {
        let buffer = context.upload(&ids, NO_USAGE).unwrap();
        let spec = spec(&frequencies, Direction::Forward);
        on_device(context, &spec, &made, Positions::Ids(buffer.slice(..)));
    }
}

#[test]
fn counted_positions_have_the_angles_of_listed_ones() {
    let frequencies = frequencies((0..5).map(|k| 1.0 / f64::from(1 + k)), 1.0);
    let spec = spec(&frequencies, Direction::Forward);
    for start in [-3, (1 << 24) - 2, i32::MAX - 2] {
        let ids: Vec<i32> = (0..9).map(|row| i32::wrapping_add(start, row)).collect();
        let made = against_truth(&frequencies, Direction::Forward, (&ids).into());
        for context in &*CONTEXTS {
            on_device(context, &spec, &made, Positions::From(start));
            let starts = context
                .upload(
                    &[start, start.wrapping_add(3), start.wrapping_add(6)],
                    NO_USAGE,
                )
                .unwrap();
            on_device(context, &spec, &made, Positions::Start(starts.slice(..4)));
            let starts = starts.slice(..);
            on_device(
                context,
                &spec,
                &made,
                Positions::StartPerSequence { starts, rows: 3 },
            );
        }
    }
}

/// Coordinates of every size and kind.
fn coordinates(random: &mut fastrand::Rng) -> Vec<f32> {
    let below = |x: f32| f32::from_bits(x.to_bits() - 1);
    let mut values = vec![
        0.0,
        -0.0,
        // Denormals, the least and the largest; the least that is none.
        f32::from_bits(1),
        -f32::from_bits(0x007f_ffff),
        f32::from_bits(0x0012_3456),
        f32::MIN_POSITIVE,
        // Around where angles end, for a frequency of 1.
        two_to(-100),
        -below(two_to(-100)),
        two_to(-99) * 1.3,
        two_to(-75) * 1.7,
        two_to(-70),
        two_to(-41) * 1.1,
        1e-5,
        0.5 / 14.0,
        -1.0 + 1.0 / 14.0,
        3.75,
        -1234.567,
        1e9,
        two_to(32) * 1.234_567,
        below(two_to(48)),
        -two_to(48),
        two_to(48) * 1.5,
        f32::from_bits(0x3f80_0001),
        f32::from_bits(0x3f80_0001) * two_to(47),
        f32::from_bits(0x3f80_0001) * two_to(-101),
        1e30,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
        f32::from_bits(0x7f80_0001),
    ];
    values.extend((0..40).map(|_| f32::from_bits(random.u32(..))));
    values.extend((0..20).map(|_| random.f32() * 2.0 - 1.0));
    values
}

#[test]
fn angles_of_coordinates_are_those_of_f32_arithmetic() {
    let mut random = fastrand::Rng::with_seed(43);
    let values = coordinates(&mut random);
    let inv_freq = [
        1.0,
        -1.0,
        // The largest coordinate below 2^48 times this is 2^48 and more.
        f64::from(f32::from_bits(0x3f80_0001)),
        // 1 + 2^-23 times this is 2 - 2^-45, which rounds up to 2.
        f64::from(f32::from_bits(0x3fff_fffe)),
        std::f64::consts::PI,
        100.0 * std::f64::consts::TAU,
        1e-4,
        65_536.0,
        5.421_010_862_427_522e-20,
        -3.3e-9,
        0.0,
    ];
    let positions = RowPositions::Coordinates(&values, AxisOrder::Last);
    for factor in [1.0, -1.4] {
        let frequencies = frequencies(inv_freq, factor);
        for direction in DIRECTIONS {
            let made = against_truth(&frequencies, direction, positions);
            assert!(made.0 > 100, "{}", made.0);
            let spec = spec(&frequencies, direction);
            for context in &*CONTEXTS {
                let mut words = vec![f32::NAN; 7];
                words.extend(&values);
                let buffer = context.upload(&words, NO_USAGE).unwrap();
                let values = buffer.slice(28..);
                on_device(
                    context,
                    &spec,
                    &made,
                    Positions::Coordinates {
                        values,
                        order: AxisOrder::Last,
                    },
                );
                // With one axis a list is the same in both orders.
                let order = AxisOrder::First { rows: 1000 };
                on_device(
                    context,
                    &spec,
                    &made,
                    Positions::Coordinates { values, order },
                );
            }
        }
    }
    // A product that rounds up to 2^48 has no angle; one that rounds up to 2^-100 has.
    let rounds_up = f64::from(f32::from_bits(0x3fff_fffe));
    let factor = f32::from_bits(0x3f80_0001);
    assert_eq!(f32_angle(factor * two_to(46), rounds_up), Some(two_to(47)));
    assert_eq!(f32_angle(factor * two_to(47), rounds_up), None);
    let values = [
        factor * two_to(46),
        factor * two_to(47),
        factor * two_to(-101),
    ];
    let positions = RowPositions::Coordinates(&values, AxisOrder::Last);
    let (faults, rows) = against_truth(
        &frequencies([rounds_up], 1.0),
        Direction::Forward,
        positions,
    );
    assert!(faults == 1 && rows[2][1] > 0.0, "{rows:?}");
}

#[test]
fn faults_add_up_until_the_application_clears_them() {
    let frequencies = frequencies([1.0, 0.5, 1e4], 2.0);
    let spec = spec(&frequencies, Direction::Forward);
    // By row: none, two of three pairs too large (2^40 * 1e4 alone is), all of three, none.
    let values = [1.0, two_to(40), f32::NAN, two_to(48), -2.0];
    for context in &*CONTEXTS {
        let buffer = context.upload(&values, NO_USAGE).unwrap();
        let table = context.kernel().table(&spec, 5).unwrap();
        let values = buffer.slice(..);
        let fill = table
            .bind_positions(Positions::Coordinates {
                values,
                order: AxisOrder::Last,
            })
            .unwrap();
        let faults = || context.read_faults_blocking(&table).unwrap();
        assert_eq!(faults(), 0);
        for (rows, sum) in [(1, 0), (2, 1), (3, 5), (5, 5 + 6), (0, 11)] {
            context.run(|pass| fill.record(pass, rows)).unwrap();
            assert_eq!(faults(), sum, "{} {rows}", name(context));
        }
        let mut encoder = context
            .device()
            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let count = table.faults();
        encoder.clear_buffer(count.buffer(), count.offset(), Some(count.size()));
        context.queue().submit([encoder.finish()]);
        assert_eq!(faults(), 0);
        // Ids count nothing, and clear nothing.
        let ids = table.bind_positions(Positions::From(i32::MAX)).unwrap();
        context
            .run(|pass| {
                fill.record(pass, 3)?;
                ids.record(pass, 5)
            })
            .unwrap();
        assert_eq!(faults(), 4);
    }
}

#[test]
fn exact_angles_of_a_table_are_not_those_of_f32() {
    // At position 2^20 the two differ by up to 2^-5 radians, and f32 angles at a power of two differ by nothing but the frequency's rounding.
    let frequencies = Frequencies::new(&RopeConfig::new(64)).unwrap();
    let exact = TableSpec::new(&frequencies);
    let rounded = exact.clone().with_angles(Angles::F32);
    let largest = |position: i32| {
        let rows = |spec| reference::table(spec, (&[position]).into()).unwrap();
        let (a, b) = (rows(&exact), rows(&rounded));
        let apart = a.iter().flatten().zip(b.iter().flatten());
        apart.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()))
    };
    assert_eq!(largest(0), 0.0);
    assert!(largest(1) <= two_to(-23));
    assert!(
        (two_to(-10)..two_to(-4)).contains(&largest(1_000_003)),
        "{}",
        largest(1_000_003)
    );
}

#[test]
fn coordinates_without_f32_angles_are_refused() {
    let frequencies = Frequencies::new(&RopeConfig::new(8)).unwrap();
    let exact = TableSpec::new(&frequencies);
    let plan = TablePlan::new(&exact, 4, &Limits::default()).unwrap();
    let source = PositionSource::Coordinates(AxisOrder::Last);
    assert_eq!(
        plan.fill(source, 0..16, [0; 2]).unwrap_err().to_string(),
        "table: must have f32 angles for coordinates, got exact angles, or given cos and sin"
    );
    let positions = RowPositions::Coordinates(&[1.0; 4], AxisOrder::Last);
    assert_eq!(
        reference::table(&exact, positions).unwrap_err().to_string(),
        "table: must have f32 angles for coordinates, got Exact"
    );
    for context in &*CONTEXTS {
        let table = context.kernel().table(&exact, 4).unwrap();
        let buffer = context.upload(&[1.0_f32; 4], NO_USAGE).unwrap();
        let values = buffer.slice(..);
        let order = AxisOrder::Last;
        assert!(matches!(
            table.bind_positions(Positions::Coordinates { values, order }),
            Err(RopeError::Table { .. })
        ));
    }
}
