//! Tables from a caller's own cos and sin on every adapter: every type and width, any offset, rows out of range counted and left
//! alone, directions bit for bit against the CPU twin and the twin against f64.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use common::{CONTEXTS, NO_USAGE, channels, contexts_with, name, row_bits, table_words};
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    CosSinLayout, CosSinTable, Direction, Element, ElementType, Frequencies, GpuContext,
    HeadLayout, Limits, Pairing, PositionSource, Positions, RopeConfig, RotateSpec, TablePlan,
    TableSpec, reference,
};

const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::Inverse, Direction::Adjoint];
const IDENTITY: [u32; 2] = [0x3f80_0000, 0];

fn layout<T: Element>(positions: u32, columns: u32, pairs: u32) -> CosSinLayout {
    CosSinLayout {
        positions,
        columns,
        pairs,
        element: T::TYPE,
    }
}

fn spec(layout: CosSinLayout, direction: Direction) -> TableSpec {
    TableSpec::from_cos_sin(layout).with_direction(direction)
}

/// cos and sin as a model may have cached them, times a factor that is not 1 and rounded to its type.
fn cache<T: Element>(layout: CosSinLayout) -> [Vec<T>; 2] {
    let mut random = fastrand::Rng::with_seed(layout.columns.into());
    let angles: Vec<f32> = (0..layout.positions * layout.columns)
        .map(|_| random.f32() * 6.3)
        .collect();
    let of = |f: fn(f32) -> f32| angles.iter().map(|a| T::narrow(1.3 * f(*a))).collect();
    [of(f32::cos), of(f32::sin)]
}

/// The cache on a device: cos behind `from` words of something else, sin behind one more.
fn uploaded<T: Element>(
    context: &GpuContext,
    values: &[Vec<T>; 2],
    from: usize,
) -> [wgpu::Buffer; 2] {
    [0, 1].map(|side| {
        let mut data = vec![T::narrow(7.5); (from + side) * 4 / size_of::<T>()];
        data.extend(&values[side]);
        context.upload(&data, NO_USAGE).unwrap()
    })
}

/// The words and faults of a table that was filled from a cache.
fn filled<T: Element>(
    context: &GpuContext,
    (spec, rows): (&TableSpec, u32),
    values: &[Vec<T>; 2],
    positions: Positions<'_>,
    from: usize,
) -> (Vec<[u32; 2]>, u32) {
    let table = context.kernel().table(spec, rows).unwrap();
    let [cos, sin] = uploaded(context, values, from);
    let fill = table
        .bind_cos_sin(
            cos.slice(4 * from as u64..),
            sin.slice(4 * from as u64 + 4..),
            positions,
        )
        .unwrap();
    context.run(|pass| fill.record(pass, fill.rows())).unwrap();
    table_words(context, &table)
}

/// The entry of a direction in f64.
fn truth([cos, sin]: [f32; 2], direction: Direction) -> [f64; 2] {
    let (c, s) = (f64::from(cos), f64::from(sin));
    match direction {
        Direction::Forward => [c, s],
        Direction::Adjoint => [c, -s],
        Direction::Inverse => [c / (c * c + s * s), -s / (c * c + s * s)],
    }
}

fn rows_of_every_kind<T: Element>() {
    for (positions, columns, pairs) in
        [(13, 8, 8), (13, 9, 8), (7, 11, 3), (1, 1, 1), (20, 130, 67)]
    {
        let layout = layout::<T>(positions, columns, pairs);
        let values = cache::<T>(layout);
        let last = i32::try_from(positions).unwrap() - 1;
        // Rows of the cache, and before and behind it.
        let ids = [
            0,
            last,
            -1,
            last / 2,
            last + 1,
            i32::MIN,
            i32::MAX,
            0,
            last,
            last + 100,
            last,
        ];
        let is_row = |id: &i32| (0..=last).contains(id);
        let outside = ids.iter().filter(|id| !is_row(id)).count();
        for direction in DIRECTIONS {
            let spec = spec(layout, direction);
            let inside: Vec<i32> = ids.iter().copied().filter(is_row).collect();
            let [cos, sin] = &values;
            let twin = reference::table_from_cos_sin(&spec, cos, sin, &inside).unwrap();
            for (at, made) in twin.iter().enumerate() {
                let (row, pair) = (inside[at / pairs as usize] as u32, at as u32 % pairs);
                let value = |side: &[T]| side[(row * columns + pair) as usize].widen();
                for (made, truth) in made.iter().zip(truth([value(cos), value(sin)], direction)) {
                    // The sum of squares is off by at most 2 u (a product, a sum), and the quotient's own rounding adds one.
                    let bound = match direction {
                        Direction::Inverse => 3.01 * 2_f64.powi(-24) * truth.abs(),
                        _ => 0.0,
                    };
                    assert!((f64::from(*made) - truth).abs() <= bound, "{made} {truth}");
                }
            }
            let mut twin = twin.chunks(pairs as usize);
            let mut expected = Vec::new();
            for id in &ids {
                let row = match is_row(id) {
                    true => twin.next().unwrap().to_vec(),
                    false => vec![[1.0, 0.0]; pairs as usize],
                };
                expected.extend(row_bits(&row, pairs as usize));
            }
            for context in &*CONTEXTS {
                let mut words = vec![0; 3];
                words.extend(ids);
                let buffer = context.upload(&words, NO_USAGE).unwrap();
                let positions = Positions::Ids(buffer.slice(12..));
                let rows = (&spec, u32::try_from(ids.len()).unwrap());
                let made = filled(context, rows, &values, positions, 3);
                assert_eq!(
                    made,
                    (expected.clone(), outside as u32),
                    "{} {layout:?} {direction:?}",
                    name(context)
                );
            }
        }
    }
}

#[test]
fn rows_of_every_type_and_width() {
    rows_of_every_kind::<f32>();
    rows_of_every_kind::<f16>();
    rows_of_every_kind::<bf16>();
}

#[test]
fn every_16_bit_value_is_widened_as_on_the_cpu() {
    fn check<T: Element>(bits: impl Fn(u16) -> T) {
        // 255 columns, of which the rows' first 254 are read: rows start on either half of a word.
        let layout = layout::<T>(258, 255, 254);
        let value = |at: u32| bits((at % 65_536) as u16);
        let side = |shift: u32| (0..258 * 255).map(|at| value(at + shift)).collect();
        let values: [Vec<T>; 2] = [side(0), side(1)];
        let ids: Vec<i32> = (0..258).collect();
        let spec = spec(layout, Direction::Forward);
        let [cos, sin] = &values;
        let twin = reference::table_from_cos_sin(&spec, cos, sin, &ids).unwrap();
        for context in &*CONTEXTS {
            let rows = (&spec, 258);
            let (words, faults) = filled(context, rows, &values, Positions::From(0), 0);
            assert_eq!((words.len(), faults), (258 * 254, 0));
            for (made, twin) in words.iter().flatten().zip(twin.iter().flatten()) {
                // Which NaN a NaN is, is not said.
                let made = f32::from_bits(*made);
                assert!(
                    made.to_bits() == twin.to_bits() || (made.is_nan() && twin.is_nan()),
                    "{}: {made:e} {twin:e}",
                    name(context)
                );
            }
        }
    }
    check(f16::from_bits);
    check(bf16::from_bits);
}

/// Values that no rotation has: what can be divided is, what cannot be leaves its pair alone and is counted. f32 values pass with every
/// bit where nothing is divided.
#[test]
fn values_that_are_no_rotation() {
    let two_to = |exponent: i32| 2_f32.powi(exponent);
    let denormal = f32::from_bits(0x0012_3456);
    let cases: Vec<([f32; 2], bool)> = vec![
        ([0.0, 0.0], false),
        ([-0.0, 0.0], false),
        ([denormal, denormal], false),
        ([f32::INFINITY, 0.0], false),
        ([1.0, f32::NEG_INFINITY], false),
        ([f32::NAN, 1.0], false),
        ([1.0, -f32::NAN], false),
        // cos^2 + sin^2 from 2^-100 to below 2^100.
        ([two_to(-50), 0.0], true),
        ([two_to(-50) * 0.999_999, 0.0], false),
        ([0.0, -two_to(-50)], true),
        ([two_to(50), 0.0], false),
        ([two_to(50) * 0.999_999_9, 0.0], true),
        ([two_to(49), two_to(49)], true),
        ([two_to(64), 1.0], false),
        ([two_to(127), 1.0], false),
        ([f32::MAX, f32::MAX], false),
        // The other one is denormal, or its quotient is.
        ([denormal, 1.0], true),
        ([-denormal, 1.0], true),
        ([1e-30, -1e10], true),
        ([1e-15, 1e14], true),
        ([-1e-15, 1e14], true),
        ([1.3e-24, 1.1e7], true),
        // Its square is, and counts for nothing.
        ([two_to(-49), two_to(-70)], true),
        ([-0.0, 1.0], true),
        ([0.0, -1.0], true),
        ([1.0, 0.0], true),
        ([0.6, 0.8], true),
        ([-3.0, 4.0], true),
    ];
    let mut random = fastrand::Rng::with_seed(61);
    let mut all = cases.clone();
    for _ in 0..500 {
        let mut value = || {
            // 2^-40 to 2^40
            let magnitude = f32::from_bits(random.u32(0x2b80_0000..0x5380_0000));
            if random.bool() { magnitude } else { -magnitude }
        };
        all.push(([value(), value()], true));
    }
    // Quotients next to ties: 24-bit numbers over 24-bit numbers of every kind of remainder.
    for _ in 0..200 {
        let value = f32::from_bits(random.u32(0x3f80_0000..0x4000_0000));
        all.push(([value, 0.0], true));
    }
    let pairs = u32::try_from(all.len()).unwrap();
    let layout = layout::<f32>(1, pairs, pairs);
    let values: [Vec<f32>; 2] =
        [0, 1].map(|side| all.iter().map(|(entry, _)| entry[side]).collect());
    let [cos, sin] = &values;
    let faults = all.iter().filter(|(_, valid)| !valid).count();
    for direction in DIRECTIONS {
        let spec = spec(layout, direction);
        let twin = reference::table_from_cos_sin(&spec, cos, sin, &[0]).unwrap();
        for ((entry, valid), made) in all.iter().zip(&twin) {
            let bits = made.map(f32::to_bits);
            match direction {
                Direction::Forward => assert_eq!(bits, entry.map(f32::to_bits)),
                Direction::Adjoint => assert_eq!(bits, [entry[0], -entry[1]].map(f32::to_bits)),
                Direction::Inverse if !valid => assert_eq!(bits, IDENTITY, "{entry:?}"),
                Direction::Inverse => {
                    for (made, truth) in made.iter().zip(truth(*entry, direction)) {
                        let apart = (f64::from(*made) - truth).abs();
                        // What is denormal becomes 0.
                        let tiny = f64::from(f32::MIN_POSITIVE) * 1.000_001;
                        assert!(
                            apart <= 3.01 * 2_f64.powi(-24) * truth.abs()
                                || (*made == 0.0 && truth.abs() < tiny),
                            "{entry:?} {made:e} {truth:e}"
                        );
                        assert!(made.is_normal() || *made == 0.0);
                        assert_eq!(made.is_sign_negative(), truth.is_sign_negative());
                    }
                }
            }
        }
        let expected = row_bits(&twin, pairs as usize);
        let faults = if direction == Direction::Inverse {
            faults
        } else {
            0
        };
        for context in &*CONTEXTS {
            let (words, counted) = filled(context, (&spec, 1), &values, Positions::From(0), 1);
            for ((made, expected), (entry, _)) in words.iter().zip(&expected).zip(&all) {
                assert_eq!(made, expected, "{} {direction:?} {entry:?}", name(context));
            }
            assert_eq!(counted as usize, faults, "{} {direction:?}", name(context));
        }
    }
}

#[test]
fn counted_rows_begin_and_end_within_the_cache() {
    let layout = layout::<bf16>(13, 5, 5);
    let values = cache::<bf16>(layout);
    let spec = spec(layout, Direction::Forward);
    let [cos, sin] = &values;
    let plan = TablePlan::new(&spec, 6, &Limits::default()).unwrap();
    for (start, served) in [
        (0, 6),
        (7, 6),
        (8, 5),
        (12, 1),
        (13, 0),
        (-1, 0),
        (i32::MIN, 0),
        (i32::MAX, 0),
    ] {
        let source = PositionSource::From(start);
        assert_eq!(plan.rows_served(source, 0), served, "{start}");
        if served == 0 {
            assert_eq!(
                plan.fill(source, 0..0, [0; 2]).unwrap_err().to_string(),
                format!("positions: must start within the given cos and sin, got {start}")
            );
            continue;
        }
        let ids: Vec<i32> = (start..start + i32::try_from(served).unwrap()).collect();
        let twin = reference::table_from_cos_sin(&spec, cos, sin, &ids).unwrap();
        let mut expected = row_bits(&twin, 5);
        expected.resize(6 * 6, [0, 0]);
        for context in &*CONTEXTS {
            let made = filled(context, (&spec, 6), &values, Positions::From(start), 2);
            assert_eq!(made, (expected.clone(), 0), "{} {start}", name(context));
        }
    }
    // From a buffer they may count out of it: rows 11, 12, then two that are not there, twice.
    let twin = reference::table_from_cos_sin(&spec, cos, sin, &[11, 12]).unwrap();
    let mut sequence = row_bits(&twin, 5);
    let mut missing = vec![IDENTITY; 5];
    missing.push([0, 0]);
    sequence.extend(missing.repeat(2));
    for context in &*CONTEXTS {
        let buffer = context.upload(&[11, 11], NO_USAGE).unwrap();
        let starts = Positions::StartPerSequence {
            starts: buffer.slice(..),
            rows: 4,
        };
        let made = filled(context, (&spec, 8), &values, starts, 0);
        assert_eq!(made, (sequence.repeat(2), 4), "{}", name(context));
        let start = Positions::Start(buffer.slice(..));
        let made = filled(context, (&spec, 4), &values, start, 0);
        assert_eq!(made, (sequence.clone(), 2), "{}", name(context));
    }
}

#[test]
fn small_grids_take_several_dispatches() {
    let layout = layout::<f16>(40, 33, 33);
    let values = cache::<f16>(layout);
    let spec = spec(layout, Direction::Adjoint);
    let ids: Vec<i32> = (0..30).map(|row| (row * 7) % 44).collect();
    let outside = ids.iter().filter(|id| **id >= 40).count();
    let mut expected = Vec::new();
    for id in &ids {
        let row = reference::table_from_cos_sin(&spec, &values[0], &values[1], &[*id])
            .unwrap_or_else(|_| vec![[1.0, 0.0]; 33]);
        expected.extend(row_bits(&row, 33));
    }
    for context in contexts_with(|limits| limits.max_compute_workgroups_per_dimension = 7) {
        let buffer = context.upload(&ids, NO_USAGE).unwrap();
        let made = filled(
            &context,
            (&spec, 30),
            &values,
            Positions::Ids(buffer.slice(..)),
            5,
        );
        assert_eq!(
            made,
            (expected.clone(), outside as u32),
            "{}",
            name(&context)
        );
    }
}

#[test]
fn a_rotation_with_a_cache_is_that_of_its_rows() {
    fn check<T: Element, C: Element>(pairing: Pairing) {
        let layout = layout::<C>(50, 17, 16);
        let values = cache::<C>(layout);
        let [cos, sin] = &values;
        let config = RopeConfig::new(36)
            .with_rotary_dim(32)
            .with_rotary_offset(2)
            .with_pairing(pairing);
        let ids = [0, 49, 7, 7, 31];
        let heads = |heads| HeadLayout::bshd(5, heads, 36);
        let rotate = RotateSpec::new(&config, 1, 5, heads(3), T::TYPE).with_key(heads(1), T::TYPE);
        let mut random = fastrand::Rng::with_seed(62);
        let mut data = |heads: usize| -> Vec<T> {
            let values = common::values(&mut random, 5 * heads * 36);
            values.into_iter().map(T::narrow).collect()
        };
        let before = [data(3), data(1)];
        for direction in DIRECTIONS {
            let spec = spec(layout, direction);
            let mut twin = before.clone();
            let rows = reference::table_from_cos_sin(&spec, cos, sin, &ids).unwrap();
            let [query, key] = &mut twin;
            reference::rotate(&rotate, &rows, query, Some(key)).unwrap();
            // By this test's own word, in f32 steps.
            for (_, t, at) in common::heads(heads(3), 1, 5) {
                for k in 0..16 {
                    let (read, written) = channels(pairing, 16, k);
                    let [x, y] = read.map(|channel| before[0][at + 2 + channel].widen());
                    let [c, s] = rows[t as usize * 16 + k];
                    let turned = [x * c - y * s, x * s + y * c].map(T::narrow);
                    let made = written.map(|channel| twin[0][at + 2 + channel]);
                    assert_eq!(bytemuck::bytes_of(&made[0]), bytemuck::bytes_of(&turned[0]));
                    assert_eq!(bytemuck::bytes_of(&made[1]), bytemuck::bytes_of(&turned[1]));
                }
            }
            for context in &*CONTEXTS {
                let mut made = before.clone();
                let [query, key] = &mut made;
                let rotated =
                    context.rotate_with_cos_sin(&rotate, &spec, cos, sin, &ids, query, Some(key));
                pollster::block_on(rotated).unwrap();
                for (made, twin) in made.iter().zip(&twin) {
                    assert_eq!(
                        bytemuck::cast_slice::<_, u8>(made),
                        bytemuck::cast_slice::<_, u8>(twin),
                        "{} {pairing:?} {direction:?}",
                        name(context)
                    );
                }
            }
        }
    }
    check::<f32, f32>(Pairing::HalfSplit);
    check::<f16, f32>(Pairing::Interleaved);
    check::<f32, bf16>(Pairing::InterleavedToHalfSplit);
    check::<bf16, f16>(Pairing::HalfSplit);
}

#[test]
fn cos_sin_and_ids_may_share_a_buffer() {
    // [ids | cos | sin], one behind the other.
    let layout = layout::<f32>(6, 4, 4);
    let values = cache::<f32>(layout);
    let spec = spec(layout, Direction::Forward);
    let ids = [5, 0, 3];
    let rows = reference::table_from_cos_sin(&spec, &values[0], &values[1], &ids).unwrap();
    let mut words: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    for side in &values {
        words.extend(side.iter().map(|value| value.to_bits()));
    }
    for context in &*CONTEXTS {
        let buffer = context.upload(&words, NO_USAGE).unwrap();
        let table = context.kernel().table(&spec, 3).unwrap();
        let fill = table
            .bind_cos_sin(
                buffer.slice(12..108),
                buffer.slice(108..),
                Positions::Ids(buffer.slice(..12)),
            )
            .unwrap();
        context.run(|pass| fill.record(pass, 3)).unwrap();
        assert_eq!(table_words(context, &table), (row_bits(&rows, 4), 0));
    }
}

/// vLLM's `cos_sin_cache`: rows of cos and behind it sin, so that sin starts half a row in and ends with the tensor. It needs every value of
/// it and none behind.
#[test]
fn cos_and_sin_may_share_their_rows() {
    fn check<T: Element>(positions: u32, pairs: u32) {
        let columns = 2 * pairs;
        let layout = layout::<T>(positions, columns, pairs);
        let [joint, _] = cache::<T>(layout);
        let last = positions.cast_signed() - 1;
        let ids = [last, 0, last / 2, positions.cast_signed(), last];
        let expected: Vec<[u32; 2]> = ids
            .iter()
            .flat_map(|&id| (0..pairs).map(move |pair| (id, pair)))
            .map(|(id, pair)| {
                let at = id as u32 * columns + pair;
                match id > last {
                    true => IDENTITY,
                    false => [at, at + pairs].map(|at| joint[at as usize].widen().to_bits()),
                }
            })
            .collect();
        let size = size_of::<T>() as u64;
        let [end, half] = [joint.len() as u64 * size, u64::from(pairs) * size];
        assert_eq!(layout.bytes().unwrap(), end - half);
        let spec = spec(layout, Direction::Forward);
        // The twin takes the same slices, and no shorter ones.
        let inside: Vec<i32> = ids.iter().copied().filter(|id| *id <= last).collect();
        let sin = &joint[pairs as usize..];
        let twin = reference::table_from_cos_sin(&spec, &joint, sin, &inside).unwrap();
        let outside = 3 * pairs as usize..4 * pairs as usize;
        let known = expected[..outside.start]
            .iter()
            .chain(&expected[outside.end..]);
        let twin: Vec<_> = twin.iter().map(|entry| entry.map(f32::to_bits)).collect();
        assert!(twin.iter().eq(known));
        let shorter = reference::table_from_cos_sin(&spec, &joint, &sin[1..], &[0]);
        assert_eq!(
            shorter.unwrap_err().to_string(),
            format!(
                "table: must have {} values of cos and of sin, got {} and {}",
                sin.len(),
                joint.len(),
                sin.len() - 1
            )
        );
        for context in &*CONTEXTS {
            let buffer = context.upload(&joint, NO_USAGE).unwrap();
            assert_eq!(buffer.size(), end);
            let listed = context.upload(&ids, NO_USAGE).unwrap();
            let table = context.kernel().table(&spec, 5).unwrap();
            let positions = Positions::Ids(listed.slice(..));
            for cos in [buffer.slice(..), buffer.slice(..end - half)] {
                let fill = table
                    .bind_cos_sin(cos, buffer.slice(half..), positions)
                    .unwrap();
                context.run(|pass| fill.record(pass, 5)).unwrap();
            }
            let (words, faults) = table_words(context, &table);
            assert_eq!(words, expected, "{} {layout:?}", name(context));
            assert_eq!(faults, 2);
            let refused = |operand: &str| {
                let (needed, got) = (end - half, end - half - size);
                format!("{operand}: must have at least {needed} bytes, got {got}")
            };
            let (cos, sin) = (buffer.slice(..end - half - size), buffer.slice(half..));
            assert_eq!(bound(&table, cos, sin), refused("cos"));
            let (cos, sin) = (buffer.slice(..), buffer.slice(half..end - size));
            assert_eq!(bound(&table, cos, sin), refused("sin"));
        }
    }
    check::<f32>(13, 8);
    check::<f32>(1, 2);
    check::<f16>(13, 34);
    check::<bf16>(300, 32);
}

fn bound(table: &CosSinTable, cos: wgpu::BufferSlice<'_>, sin: wgpu::BufferSlice<'_>) -> String {
    match table.bind_cos_sin(cos, sin, Positions::From(0)) {
        Ok(_) => "bound".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    // 11 rows of 9 halves and 8 more are 214 bytes, whole words of which are 216; one row more makes 232.
    assert_eq!(layout::<f16>(12, 9, 8).bytes().unwrap(), 216);
    let half = layout::<f16>(13, 9, 8);
    assert_eq!(half.bytes().unwrap(), 232);
    let frequencies = Frequencies::new(&RopeConfig::new(16)).unwrap();
    for context in &*CONTEXTS {
        let kernel = context.kernel();
        let table = kernel.table(&TableSpec::from_cos_sin(half), 4).unwrap();
        let buffer = |words: usize| context.upload(&vec![0_u32; words], NO_USAGE).unwrap();
        let (good, short) = (buffer(58), buffer(57));
        assert_eq!(bound(&table, good.slice(..), good.slice(..)), "bound");
        assert_eq!(
            bound(&table, short.slice(..), good.slice(..)),
            "cos: must have at least 232 bytes, got 228"
        );
        assert_eq!(
            bound(&table, good.slice(..), good.slice(4..)),
            "sin: must have at least 232 bytes, got 228"
        );
        assert_eq!(
            bound(&table, good.slice(..), good.slice(2..)),
            "sin: byte offset must be a multiple of 4, got 2"
        );
        let copy = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 256,
            usage: wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        assert_eq!(
            bound(&table, copy.slice(..), good.slice(..)),
            "cos: must have the usage STORAGE, got BufferUsages(COPY_DST)"
        );
        assert_eq!(
            bound(&table, table.buffer().slice(..), good.slice(..)),
            "cos: must not be the buffer of the table, got that buffer"
        );
        let fault = |positions| {
            let bound = table.bind_cos_sin(good.slice(..), good.slice(..), positions);
            bound.unwrap_err().to_string()
        };
        assert_eq!(
            fault(Positions::From(-1)),
            "positions: must start within the given cos and sin, got -1"
        );
        let values = good.slice(..);
        let order = wgpu_rope::AxisOrder::Last;
        assert_eq!(
            fault(Positions::Coordinates { values, order }),
            "table: must have f32 angles for coordinates, got exact angles, or given cos and sin"
        );
        // The call for the other kind of table.
        assert_eq!(
            table
                .bind_positions(Positions::From(0))
                .unwrap_err()
                .to_string(),
            "table: is of given cos and sin: bind it with bind_cos_sin, got bind_positions"
        );
        let exact = kernel.table(&TableSpec::new(&frequencies), 4).unwrap();
        assert_eq!(
            bound(&exact, good.slice(..), good.slice(..)),
            "table: is made from frequencies: bind it with bind_positions, got bind_cos_sin"
        );
        // The convenience looks at the ids before anything is done.
        let values = cache::<f16>(half);
        let config = RopeConfig::new(16);
        let rotate = RotateSpec::new(&config, 1, 2, HeadLayout::bshd(2, 1, 16), ElementType::F32);
        let mut query = vec![1.0_f32; 32];
        let mut fault = |spec: &TableSpec, ids: &[i32]| {
            let rotated = context
                .rotate_with_cos_sin(&rotate, spec, &values[0], &values[1], ids, &mut query, None);
            pollster::block_on(rotated).unwrap_err().to_string()
        };
        let spec = TableSpec::from_cos_sin(half);
        for id in [-1, 13] {
            assert_eq!(
                fault(&spec, &[0, id]),
                format!("table: positions must be within the 13 of cos and sin, got {id}")
            );
        }
        assert_eq!(
            fault(&TableSpec::from_cos_sin(layout::<bf16>(13, 9, 8)), &[0, 1]),
            "table: is planned of bf16, got f16"
        );
        assert_eq!(
            fault(&TableSpec::new(&frequencies), &[0, 1]),
            "table: must be of given cos and sin, got frequencies"
        );
        assert_eq!(query, [1.0; 32]);
    }
}

#[test]
fn plans_and_twins_of_caches_refuse_by_name() {
    let plan = |layout: CosSinLayout| {
        let plan = TablePlan::new(&TableSpec::from_cos_sin(layout), 4, &Limits::default());
        plan.unwrap_err().to_string()
    };
    assert_eq!(
        plan(layout::<f32>(0, 8, 8)),
        "cos and sin: must have at least one position and one pair, got [0, 8]"
    );
    assert_eq!(
        plan(layout::<f32>(8, 8, 0)),
        "cos and sin: must have at least one position and one pair, got [8, 0]"
    );
    assert_eq!(
        plan(layout::<f32>(8, 7, 8)),
        "cos and sin: must have a column for each of 8 pairs, got 7"
    );
    assert_eq!(
        plan(layout::<f16>((1 << 16) + 1, 1 << 16, 8)),
        "cos and sin: elements must be fewer than 2^32 - 1, got an overflow"
    );
    assert_eq!(
        plan(layout::<f32>(1 << 20, 64, 64)),
        "cos and sin: needs max_storage_buffer_binding_size of 268435456, the device has 134217728; request it in required_limits"
    );
    assert_eq!(
        plan(layout::<f32>(1, 70_000, 65_537)),
        "pairs: must be at most 65,536, got an overflow"
    );
    let spec = TableSpec::from_cos_sin(layout::<f32>(3, 2, 2));
    let table = TablePlan::new(&spec, 4, &Limits::default()).unwrap();
    for cache in [[2, 0], [0, 6]] {
        let fault = table
            .fill(PositionSource::From(0), 0..0, cache)
            .unwrap_err();
        let got = cache[0].max(cache[1]);
        assert_eq!(
            fault.to_string(),
            format!("cos and sin: byte offset must be a multiple of 4, got {got}")
        );
    }
    let fault = |spec: &TableSpec, cos: &[f32], ids: &[i32]| {
        let made = reference::table_from_cos_sin(spec, cos, &[0.0; 6], ids);
        made.unwrap_err().to_string()
    };
    let six = [1.0; 6];
    assert_eq!(
        fault(&spec, &six[1..], &[0]),
        "table: must have 6 values of cos and of sin, got 5 and 6"
    );
    assert_eq!(
        fault(&spec, &six, &[0, 3]),
        "table: positions must be within the 3 of cos and sin, got 3"
    );
    assert_eq!(
        fault(&TableSpec::from_cos_sin(layout::<f16>(3, 2, 2)), &six, &[0]),
        "table: is planned of f16, got f32"
    );
    let frequencies = Frequencies::new(&RopeConfig::new(4)).unwrap();
    assert_eq!(
        fault(&TableSpec::new(&frequencies), &six, &[0]),
        "table: must be of given cos and sin, got frequencies"
    );
    assert_eq!(
        reference::table(&spec, (&[0]).into())
            .unwrap_err()
            .to_string(),
        "table: must be made from frequencies, got given cos and sin"
    );
    let rotate = RotateSpec::new(
        &RopeConfig::new(4),
        1,
        1,
        HeadLayout::bshd(1, 1, 4),
        ElementType::F32,
    );
    let oracle = reference::rotate_f64(&rotate, &spec, (&[0]).into(), &[1.0_f32; 4]);
    assert_eq!(
        oracle.unwrap_err().to_string(),
        "table: must be made from frequencies, got given cos and sin"
    );
}
