//! Garbage in tensors, positions and caches: what is not a number, infinite or denormal changes its own pair and nothing else, in any
//! type, pairing and path of the shader.
//!
//! Infinities and what is not a number have the twin's results, but for which NaN a NaN is. Denormals of f16 are normal numbers of f32 and
//! have the twin's bits. Denormals of f32 and bf16 may be flushed to zero by a device, as WGSL allows, before or after any operation:
//! [`FLUSHED`] says how far that can take a result.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{CONTEXTS, NO_USAGE, channels, heads, name, table_words, values};
use fastrand::Rng;
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    Angles, AxisOrder, CosSinLayout, CosSinTable, Element, ElementType, Frequencies, GpuContext,
    HeadLayout, Operands, Pair, Pairing, Positions, RopeConfig, RopePlan, RotateSpec, TableSpec,
    reference,
};

const TOKENS: u32 = 5;
const BATCH: u32 = 2;

/// Both channels of a pair are denormal, or the other one is so large that a denormal beside it does not count (here 2^-5 and more, cos
/// and sin from 2^-20). With m = 2^-126, flushing x or its product changes that product by less than m, as |cos| is at most 1; so does y;
/// flushing the sum changes it by less than m again. Sums of denormals are exact, and rounding to bf16 adds half a unit of 2^-132 at most,
/// twice: less than 0.1 m.
const FLUSHED: f64 = 3.1 * (f32::MIN_POSITIVE as f64);

/// Values that a rotation is not meant for. The last ones are denormals.
fn garbage<T: Element>(random: &mut Rng) -> T {
    let f32_bits = match random.u32(0..8) {
        0 => f32::NAN.to_bits(),
        // NaNs with payloads, one of them signalling in all types.
        1 => 0xffc1_2345,
        2 => 0x7fa0_0000,
        3 => f32::INFINITY.to_bits(),
        4 => f32::NEG_INFINITY.to_bits(),
        5 => 1,
        6 => 0x8000_0000 | random.u32(1..0x0080_0000),
        _ => random.u32(1..0x0080_0000),
    };
    let narrow = |wide: u32, half: u16| match T::TYPE {
        ElementType::F32 => bytemuck::cast_slice::<u32, T>(&[wide])[0],
        _ => bytemuck::cast_slice::<u16, T>(&[half])[0],
    };
    let sign = u16::try_from(f32_bits >> 31 << 15).unwrap();
    let is_denormal = f32_bits & 0x7f80_0000 == 0;
    match T::TYPE {
        ElementType::F16 if is_denormal => narrow(0, sign | random.u16(1..0x400)),
        ElementType::F16 => {
            let mantissa = u16::try_from((f32_bits >> 13) & 0x3ff).unwrap();
            narrow(0, sign | 0x7c00 | mantissa)
        }
        ElementType::Bf16 if is_denormal => narrow(0, sign | random.u16(1..0x80)),
        _ => narrow(f32_bits, u16::try_from(f32_bits >> 16).unwrap()),
    }
}

fn bits<T: Element>(value: T) -> u32 {
    bytemuck::bytes_of(&value)
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u32::from(byte))
}

/// A table of a device, filled, and the same on the CPU.
struct Rows {
    table: CosSinTable,
    twin: Vec<[f32; 2]>,
}

/// Rotates on a device what lies at the start of a buffer.
fn rotated<T: Element>(
    context: &GpuContext,
    spec: &RotateSpec,
    table: &CosSinTable,
    tensor: &[T],
) -> Vec<T> {
    let plan = RopePlan::new(spec, context.kernel().limits()).unwrap();
    let buffer = context.upload(tensor, NO_USAGE).unwrap();
    let operands = Operands::new(buffer.slice(..));
    let prepared = context.kernel().prepare(&plan).unwrap();
    let dispatch = prepared.bind(&operands, table).unwrap();
    context.run(|pass| dispatch.record(pass, TOKENS)).unwrap();
    context.read_blocking(&buffer, tensor.len()).unwrap()
}

/// One tensor with a gap behind each head and each token.
fn layout(head_dim: u32) -> HeadLayout {
    let head = u64::from(head_dim.next_multiple_of(8)) + 8;
    let token = 3 * head + 8;
    HeadLayout::bshd(TOKENS, 3, head_dim)
        .with_strides(u64::from(TOKENS) * token, token, head)
        .with_offset(8)
}

/// Returns how many channels were compared with those of clean tensors, and how many were garbage.
fn confined<T: Element>(
    context: &GpuContext,
    config: &RopeConfig,
    rotated_pairs: Option<u32>,
    rows: &Rows,
    random: &mut Rng,
) -> [usize; 2] {
    let layout = layout(config.head_dim());
    let mut spec = RotateSpec::new(config, BATCH, TOKENS, layout, T::TYPE);
    let pairs = config.rotary_dim() as usize / 2;
    let turned = rotated_pairs.map_or(pairs, |pairs| pairs as usize);
    if let Some(pairs) = rotated_pairs {
        spec = spec.with_rotated_pairs(pairs);
    }
    let len = usize::try_from(layout.end(BATCH, TOKENS).unwrap()).unwrap() + 8;
    // Outside of the pairs that turn there is nothing but garbage.
    let mut clean: Vec<T> = (0..len).map(|_| garbage(random)).collect();
    let mut dirty = clean.clone();
    // Elements that a dirty pair writes, those that a clean one writes, and where those come from that do not turn but may move.
    let (mut soiled, mut turning, mut moved) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for (_, _, at) in heads(layout, BATCH, TOKENS) {
        let window = at + config.rotary_offset() as usize;
        for k in 0..pairs {
            let (read, write) = channels(config.pairing(), pairs, k);
            if k >= turned {
                moved.extend([0, 1].map(|i| (window + write[i], window + read[i])));
                continue;
            }
            turning.extend(write.map(|channel| window + channel));
            for channel in read {
                let value = T::narrow(values(random, 1)[0]);
                (clean[window + channel], dirty[window + channel]) = (value, value);
            }
            if random.u32(0..5) == 0 {
                // One channel, or both: a denormal goes with a value, or another one.
                for &channel in &read[random.usize(0..2)..] {
                    dirty[window + channel] = garbage(random);
                }
                soiled.extend(write.map(|channel| window + channel));
            }
        }
    }
    let made = rotated(context, &spec, &rows.table, &dirty);
    let beside = rotated(context, &spec, &rows.table, &clean);
    let mut twin = dirty.clone();
    reference::rotate(&spec, &rows.twin, &mut twin, None).unwrap();
    for i in 0..len {
        let told = || {
            format!(
                "{}: element {i} of {:?}, {config:?}: {:x} from {:x}, {:x} by the twin, {:x} of a clean tensor",
                name(context),
                T::TYPE,
                bits(made[i]),
                bits(dirty[i]),
                bits(twin[i]),
                bits(beside[i])
            )
        };
        if !soiled.contains(&i) {
            assert!(bits(made[i]) == bits(beside[i]), "{}", told());
            let from = moved.get(&i).copied().unwrap_or(i);
            assert!(
                turning.contains(&i) || bits(made[i]) == bits(dirty[from]),
                "{}",
                told()
            );
            continue;
        }
        let (made, twin) = (f64::from(made[i].widen()), f64::from(twin[i].widen()));
        let is_same = if twin.is_nan() {
            made.is_nan()
        } else if T::TYPE == ElementType::F16 || twin.is_infinite() || twin.abs() > FLUSHED {
            made.to_bits() == twin.to_bits()
        } else {
            (made - twin).abs() <= FLUSHED
        };
        assert!(is_same, "{}", told());
    }
    [len - soiled.len(), soiled.len()]
}

fn rows(context: &GpuContext, pairs: u32) -> Rows {
    let frequencies = Frequencies::new(&RopeConfig::new(2 * pairs)).unwrap();
    let spec = TableSpec::new(&frequencies);
    let positions = [1, 2, 3, 77, -4095];
    let table = context.kernel().table(&spec, TOKENS).unwrap();
    let ids = context.upload(&positions, NO_USAGE).unwrap();
    let fill = table.bind_positions(Positions::Ids(ids.slice(..))).unwrap();
    context.run(|pass| fill.record(pass, TOKENS)).unwrap();
    let twin = reference::table(&spec, (&positions).into()).unwrap();
    // What FLUSHED counts on.
    assert!(
        twin.iter()
            .flatten()
            .all(|entry| entry.abs() > 2_f32.powi(-20))
    );
    Rows { table, twin }
}

const PAIRINGS: [Pairing; 5] = [
    Pairing::HalfSplit,
    Pairing::Interleaved,
    Pairing::HalfSplitBlocks(2),
    Pairing::InterleavedToHalfSplit,
    Pairing::HalfSplitToInterleaved,
];

#[test]
fn garbage_in_a_tensor_stays_in_its_pair() {
    let mut random = Rng::with_seed(71);
    for context in &*CONTEXTS {
        let mut compared = [0; 2];
        let shapes = [(64, 64, 0), (80, 64, 2), (36, 36, 0), (47, 36, 7)];
        for (i, pairing) in PAIRINGS.into_iter().enumerate() {
            // Whole heads of 16 bytes, words, and windows that start inside a word; all pairs, half of them, or a few of them turn.
            for (j, (head_dim, dim, offset)) in shapes.into_iter().enumerate() {
                let config = RopeConfig::new(head_dim)
                    .with_rotary_dim(dim)
                    .with_rotary_offset(offset)
                    .with_pairing(pairing);
                let rows = rows(context, dim / 2);
                let turned = [None, Some(dim / 4), Some(5)][(i + j) % 3];
                for one in [
                    confined::<f32>(context, &config, turned, &rows, &mut random),
                    confined::<f16>(context, &config, turned, &rows, &mut random),
                    confined::<bf16>(context, &config, turned, &rows, &mut random),
                ] {
                    compared = [compared[0] + one[0], compared[1] + one[1]];
                }
            }
        }
        let [clean, dirty] = compared;
        eprintln!(
            "{}: {dirty} channels of garbage, {clean} beside them",
            name(context)
        );
    }
}

/// Rotates ones with a table, and gives each row of pairs as it came out.
fn turned(context: &GpuContext, config: &RopeConfig, table: &CosSinTable) -> Vec<f32> {
    let layout = HeadLayout::bshd(TOKENS, 1, config.head_dim());
    let spec = RotateSpec::new(config, 1, TOKENS, layout, ElementType::F32);
    let tensor = vec![1.5_f32; (TOKENS * config.head_dim()) as usize];
    rotated(context, &spec, table, &tensor)
}

#[test]
fn garbage_in_coordinates_stays_in_its_row_and_axis() {
    // Pair k reads axis k % 3.
    let config = RopeConfig::new(48).with_pairing(Pairing::Interleaved);
    let pairs = (0..24).map(|k| Pair {
        inv_freq: 1.0 / f64::from(k + 1),
        axis: k % 3,
    });
    let frequencies = Frequencies::from_pairs(pairs, 1.0).unwrap();
    let spec = TableSpec::new(&frequencies).with_angles(Angles::F32);
    let clean: Vec<f32> = (0..TOKENS * 3).map(|i| 1.25 + i as f32).collect();
    for context in &*CONTEXTS {
        let fill = |coordinates: &[f32]| {
            let table = context.kernel().table(&spec, TOKENS).unwrap();
            let values = context.upload(coordinates, NO_USAGE).unwrap();
            let source = Positions::Coordinates {
                values: values.slice(..),
                order: AxisOrder::Last,
            };
            let fill = table.bind_positions(source).unwrap();
            context.run(|pass| fill.record(pass, TOKENS)).unwrap();
            table
        };
        let beside = fill(&clean);
        let (expected, none) = table_words(context, &beside);
        assert_eq!(none, 0);
        let rotated = turned(context, &config, &beside);
        for garbage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, f32::MAX] {
            for (row, axis) in [(0, 0), (2, 1), (4, 2)] {
                let mut dirty = clean.clone();
                dirty[row * 3 + axis] = garbage;
                let table = fill(&dirty);
                let (words, faults) = table_words(context, &table);
                assert_eq!(faults, 8, "{}", name(context));
                let soiled = |entry: usize| entry / 24 == row && entry % 24 % 3 == axis;
                for (entry, (made, clean)) in words.iter().zip(&expected).enumerate() {
                    let identity = [1.0_f32.to_bits(), 0];
                    let expected = if soiled(entry) { &identity } else { clean };
                    assert_eq!(made, expected, "{}: {garbage} entry {entry}", name(context));
                }
                let made = turned(context, &config, &table);
                for (channel, (made, clean)) in made.iter().zip(&rotated).enumerate() {
                    let expected = if soiled(channel / 2) { 1.5 } else { *clean };
                    assert!(*made == expected, "{}: channel {channel}", name(context));
                }
            }
        }
    }
}

#[test]
fn garbage_in_ids_stays_in_its_row() {
    let config = RopeConfig::new(64);
    let spec = TableSpec::new(&Frequencies::new(&config).unwrap());
    let cache = CosSinLayout {
        positions: 9,
        columns: 32,
        pairs: 32,
        element: ElementType::F32,
    };
    let cached = TableSpec::from_cos_sin(cache);
    let mut random = Rng::with_seed(72);
    let sides = [0, 1].map(|_| values(&mut random, 9 * 32));
    let clean = [1, 8, 0, 3, 5];
    for context in &*CONTEXTS {
        let [cos, sin] = [0, 1].map(|side: usize| context.upload(&sides[side], NO_USAGE).unwrap());
        let fill = |ids: &[i32]| {
            let ids = context.upload(ids, NO_USAGE).unwrap();
            let ids = Positions::Ids(ids.slice(..));
            let tables = [&spec, &cached].map(|spec| context.kernel().table(spec, TOKENS).unwrap());
            let fills = [
                tables[0].bind_positions(ids).unwrap(),
                tables[1]
                    .bind_cos_sin(cos.slice(..), sin.slice(..), ids)
                    .unwrap(),
            ];
            context
                .run(|pass| fills.iter().try_for_each(|fill| fill.record(pass, TOKENS)))
                .unwrap();
            tables
        };
        let beside = fill(&clean).map(|table| table_words(context, &table));
        for garbage in [i32::MIN, i32::MAX, -1, 9, 0x7fc0_0000, -0x0040_0000] {
            let mut dirty = clean;
            dirty[2] = garbage;
            let tables = fill(&dirty);
            // Every i32 is a position; but a cache has nine, and what is outside of it does not turn.
            let own = reference::table(&spec, (&[garbage]).into()).unwrap();
            let own = [
                own.iter().map(|entry| entry.map(f32::to_bits)).collect(),
                vec![[1.0_f32.to_bits(), 0]; 32],
            ];
            for ((table, (expected, _)), (own, faults)) in
                tables.iter().zip(&beside).zip(own.into_iter().zip([0, 1]))
            {
                let (words, counted) = table_words(context, table);
                let mut expected: Vec<[u32; 2]> = expected.clone();
                expected[2 * 32..3 * 32].copy_from_slice(&own);
                assert!(words == expected, "{}: {garbage}", name(context));
                assert_eq!(counted, faults, "{}: {garbage}", name(context));
            }
        }
        // Garbage in the cache itself stays in its entry.
        for garbage in [f32::NAN, f32::INFINITY, f32::from_bits(1)] {
            let mut dirty = sides.clone();
            dirty[1][3 * 32 + 7] = garbage;
            let table = fill_of(context, &cached, &dirty, &clean);
            let (words, faults) = table_words(context, &table);
            let mut expected = beside[1].0.clone();
            // Id 3 is row 3. Entries pass with every bit.
            expected[3 * 32 + 7][1] = garbage.to_bits();
            assert!(words == expected, "{}: {garbage}", name(context));
            assert_eq!(faults, 0);
            // And so only that pair of the row is another one.
            let [made, clean] = [&table, &fill_of(context, &cached, &sides, &clean)]
                .map(|table| turned(context, &config, table));
            for (i, (made, clean)) in made.iter().zip(&clean).enumerate() {
                let is_own = i / 64 == 3 && i % 32 == 7;
                assert!(
                    is_own || made.to_bits() == clean.to_bits(),
                    "{}: {i}",
                    name(context)
                );
            }
        }
    }
}

fn fill_of(
    context: &GpuContext,
    spec: &TableSpec,
    sides: &[Vec<f32>; 2],
    ids: &[i32],
) -> CosSinTable {
    let [cos, sin] = sides
        .each_ref()
        .map(|side| context.upload(side, NO_USAGE).unwrap());
    let ids = context.upload(ids, NO_USAGE).unwrap();
    let table = context.kernel().table(spec, TOKENS).unwrap();
    let positions = Positions::Ids(ids.slice(..));
    let fill = table
        .bind_cos_sin(cos.slice(..), sin.slice(..), positions)
        .unwrap();
    context.run(|pass| fill.record(pass, TOKENS)).unwrap();
    table
}
