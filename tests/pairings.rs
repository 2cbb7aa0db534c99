//! Which channels form a pair, which of them stay: every pairing on every adapter, in every arrangement of tensors, bit for bit
//! against the CPU twin, and the twin against an f64 oracle that shares no code with it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::collections::BTreeSet;

use common::case::{Case, POSITIONS, check_all};
use common::{CONTEXTS, channels, check_head, name, values};
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    Direction, Element, ElementType, Frequencies, GpuContext, HeadLayout, Limits, Pair, Pairing,
    Placement, RopeConfig, RopePlan, RotateSpec, TableSpec, reference,
};

const PAIRINGS: [Pairing; 7] = [
    Pairing::HalfSplit,
    Pairing::Interleaved,
    Pairing::HalfSplitBlocks(2),
    Pairing::HalfSplitBlocks(3),
    Pairing::HalfSplitBlocks(4),
    Pairing::InterleavedToHalfSplit,
    Pairing::HalfSplitToInterleaved,
];

/// Head dimension, rotary dimension and offset: whole heads, windows at the head, in the middle and at the tail of them, odd offsets, odd
/// half dimensions.
const WINDOWS: [(u32, u32, u32); 7] = [
    (96, 96, 0),
    (128, 96, 16),
    (40, 24, 0),
    (45, 24, 21),
    (35, 30, 2),
    (31, 18, 13),
    (8, 2, 4),
];

/// The configurations of a pairing; blocks have to divide the pairs.
fn configs(pairing: Pairing) -> impl Iterator<Item = RopeConfig> {
    WINDOWS
        .into_iter()
        .map(move |(head_dim, rotary_dim, offset)| {
            RopeConfig::new(head_dim)
                .with_rotary_dim(rotary_dim)
                .with_rotary_offset(offset)
                .with_pairing(pairing)
        })
        .filter(|config| config.validate().is_ok())
}

#[derive(Debug, Clone, Copy)]
enum Arrangement {
    Alone,
    TwoBuffers,
    OneBuffer,
    /// Q, K and V in one tensor.
    Packed,
}

const TOKENS: u32 = 5;

/// Two batch entries of 3 query and 2 key heads. 16-bit heads start on whole words, so those of odd dimensions are padded.
fn case(config: &RopeConfig, arrangement: Arrangement, token_major: bool) -> Case {
    let head = u64::from(config.head_dim().next_multiple_of(2));
    let view = |all: u64, first: u64, heads: u32| {
        let (token, next) = if token_major {
            (all * head, head)
        } else {
            (head, u64::from(TOKENS) * head)
        };
        HeadLayout::bshd(TOKENS, heads, config.head_dim())
            .with_strides(all * u64::from(TOKENS) * head, token, next)
            .with_offset(first * next)
    };
    let case = match arrangement {
        Arrangement::Packed => Case::new(config, 2, TOKENS, view(7, 0, 3)).with_key(view(7, 3, 2)),
        Arrangement::Alone => return Case::new(config, 2, TOKENS, view(3, 0, 3)),
        _ => Case::new(config, 2, TOKENS, view(3, 0, 3)).with_key(view(2, 0, 2)),
    };
    Case {
        query_offset: match arrangement {
            Arrangement::OneBuffer => 2 * u64::from(TOKENS) * 2 * head * 4 + 20,
            _ => 0,
        },
        shared: matches!(arrangement, Arrangement::OneBuffer | Arrangement::Packed),
        ..case
    }
}

#[test]
fn every_pairing_in_every_arrangement_has_the_bits_of_the_twin() {
    let (mut channels, mut cases) = (0, 0);
    for pairing in PAIRINGS {
        for (at, config) in configs(pairing).enumerate() {
            for (i, arrangement) in [
                Arrangement::Alone,
                Arrangement::TwoBuffers,
                Arrangement::OneBuffer,
                Arrangement::Packed,
            ]
            .into_iter()
            .enumerate()
            {
                // Over the windows, each arrangement comes in both orders.
                let token_major = (at + i) % 2 == 0;
                channels += check_all(&case(&config, arrangement, token_major), at as u64);
                cases += 1;
            }
        }
    }
    eprintln!("{channels} channels of {cases} cases compared");
    assert!(cases > 140);
}

/// The twin against f64: values, and that all other channels stay, padding between heads too.
fn twin_against_truth<T: Element>(config: &RopeConfig, token_major: bool) -> f64 {
    let case = case(config, Arrangement::Packed, token_major);
    let spec = RotateSpec::new(config, 2, TOKENS, case.query, T::TYPE);
    let frequencies = Frequencies::new(config).unwrap();
    let positions = &POSITIONS[..TOKENS as usize];
    let rows = reference::table(&TableSpec::new(&frequencies), positions.into()).unwrap();
    let count = usize::try_from(2 * case.query.batch_stride).unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    let before: Vec<T> = values(&mut random, count)
        .into_iter()
        .map(T::narrow)
        .collect();
    let mut after = before.clone();
    reference::rotate(&spec, &rows, &mut after, None).unwrap();
    let mut others: BTreeSet<usize> = (0..count).collect();
    let mut worst = 0.0_f64;
    for (_, t, at) in common::heads(case.query, 2, TOKENS) {
        let turns: Vec<_> = common::inv_freq(config)
            .into_iter()
            .map(|w| common::cos_sin(positions[t as usize], w))
            .collect();
        // The two formulas of the frequencies differ by 1e-14, which huge positions make visible.
        let turns = if positions[t as usize].unsigned_abs() > 1 << 20 {
            let exact = frequencies.inv_freq();
            exact
                .map(|w| common::cos_sin(positions[t as usize], w))
                .collect()
        } else {
            turns
        };
        let head = at..at + config.head_dim() as usize;
        let both = (&before[head.clone()], &after[head.clone()]);
        worst = worst.max(check_head(config, &turns, 1.01, both));
        head.for_each(|at| assert!(others.remove(&at)));
    }
    for at in others {
        assert_eq!(
            bytemuck::bytes_of(&after[at]),
            bytemuck::bytes_of(&before[at]),
            "{at} is in no head"
        );
    }
    worst
}

#[test]
fn the_twin_is_within_rounding_of_the_truth() {
    for pairing in PAIRINGS {
        for config in configs(pairing) {
            for token_major in [true, false] {
                let worst = [
                    twin_against_truth::<f32>(&config, token_major),
                    twin_against_truth::<f16>(&config, token_major),
                    twin_against_truth::<bf16>(&config, token_major),
                ];
                // A bound that nothing comes near would test nothing.
                let floor = if config.rotary_dim() > 2 { 0.3 } else { 0.01 };
                assert!(worst.iter().all(|&part| part > floor), "{worst:?}");
            }
        }
    }
}

/// Rotates two heads of one token on a device.
fn rotated<T: Element>(
    context: &GpuContext,
    config: &RopeConfig,
    heads: &[T],
    position: i32,
    direction: Direction,
) -> Vec<T> {
    let layout = HeadLayout::bshd(1, 2, config.head_dim());
    let spec = RotateSpec::new(config, 1, 1, layout, T::TYPE);
    let table = TableSpec::new(&Frequencies::new(config).unwrap()).with_direction(direction);
    let mut out = heads.to_vec();
    context
        .rotate_blocking(&spec, &table, (&[position]).into(), &mut out, None)
        .unwrap();
    out
}

#[test]
fn the_reversed_pairing_undoes_it() {
    let mut random = fastrand::Rng::with_seed(6);
    for pairing in PAIRINGS {
        let config = RopeConfig::new(52)
            .with_rotary_dim(48)
            .with_rotary_offset(2)
            .with_pairing(pairing)
            .with_attention_factor(1.25);
        let back = config.clone().with_pairing(pairing.reversed());
        let before = values(&mut random, 2 * 52);
        let other = values(&mut random, 2 * 52);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        for context in &*CONTEXTS {
            for position in [1, -77, 131_071, i32::MIN] {
                let turned = rotated(context, &config, &before, position, Direction::Forward);
                assert_ne!(turned, before);
                let undone = rotated(context, &back, &turned, position, Direction::Inverse);
                for (at, (a, b)) in undone.iter().zip(&before).enumerate() {
                    if (2..50).contains(&(at % 52)) {
                        // Twice 4.01 u (|x c| + |y s|), which is at most sqrt 2 times the length of a pair of values up to 4.
                        let bound = 2.0 * 4.01 * 2_f32.powi(-24) * 8.0;
                        assert!(
                            (a - b).abs() <= bound,
                            "{} {pairing:?} {a} {b}",
                            name(context)
                        );
                    } else {
                        assert_eq!(a.to_bits(), b.to_bits());
                    }
                }
                // <R q, k> = <q, R^T k>, each sum of 104 products off by its rotation's rounding.
                let transposed = rotated(context, &back, &other, position, Direction::Adjoint);
                let apart = dot(&turned, &other) - dot(&before, &transposed);
                let size = (dot(&before, &before) * dot(&other, &other)).sqrt();
                assert!(
                    apart.abs() <= 4.0 * 4.01 * 2_f64.powi(-24) * size,
                    "{apart:e}"
                );
            }
        }
    }
}

#[test]
fn pairs_that_move_are_rotated_as_those_that_stay_and_then_moved() {
    fn check<T: Element>(context: &GpuContext, pairs: usize) {
        let config = RopeConfig::new(2 * u32::try_from(pairs).unwrap());
        let mut random = fastrand::Rng::with_seed(7);
        let heads: Vec<T> = values(&mut random, 4 * pairs)
            .into_iter()
            .map(T::narrow)
            .collect();
        let turn = |pairing| {
            let config = config.clone().with_pairing(pairing);
            rotated(context, &config, &heads, 4095, Direction::Forward)
        };
        let bits = |x: &T| x.widen().to_bits();
        for (moving, staying) in [
            (Pairing::InterleavedToHalfSplit, Pairing::Interleaved),
            (Pairing::HalfSplitToInterleaved, Pairing::HalfSplit),
        ] {
            let (moved, stayed) = (turn(moving), turn(staying));
            for k in 0..pairs {
                let (from, to) = channels(moving, pairs, k);
                for (from, to) in from.into_iter().zip(to) {
                    for head in [0, 2 * pairs] {
                        assert_eq!(
                            bits(&moved[head + to]),
                            bits(&stayed[head + from]),
                            "{} {moving:?} {pairs} {k}",
                            name(context)
                        );
                    }
                }
            }
        }
    }
    for context in &*CONTEXTS {
        for pairs in [1, 7, 32, 64, 200] {
            check::<f32>(context, pairs);
            check::<f16>(context, pairs);
            check::<bf16>(context, pairs);
        }
        // As large as the memory of every device's workgroup.
        check::<f32>(context, 2044);
        check::<f16>(context, 4087);
    }
}

/// Bits that no arithmetic leaves as they are: infinities, NaNs with a payload, minus zero, the smallest denormals.
fn poison<T: Element>(i: usize) -> T {
    let bits: [u32; 7] = match T::TYPE {
        ElementType::F32 => [
            0x7f80_0000,
            0xff80_0000,
            0x7fc1_2345,
            0xffd5_4321,
            0x8000_0000,
            1,
            0x8000_0001,
        ],
        ElementType::F16 => [0x7c00, 0xfc00, 0x7e55, 0xfe77, 0x8000, 1, 0x8001],
        _ => [0x7f80, 0xff80, 0x7fc5, 0xffd7, 0x8000, 1, 0x8001],
    };
    let bytes = bits[i % 7].to_le_bytes();
    bytemuck::pod_read_unaligned(&bytes[..size_of::<T>()])
}

/// Rotates Q and K (or Q alone) with frequencies of which some are zero, everything in their channels poisoned. Returns the entry point.
fn leaves_alone<T: Element>(
    context: &GpuContext,
    config: &RopeConfig,
    frequencies: &Frequencies,
    with_key: bool,
) -> &'static str {
    // Where a pair before others is idle, so are all pairs at a position that does not turn.
    let positions = [7, 0, -131_071];
    let n = frequencies.len();
    let idle: Vec<bool> = frequencies.inv_freq().map(|w| w == 0.0).collect();
    let rotated = idle.iter().rposition(|idle| !idle).map_or(0, |k| k + 1);
    let within = rotated == 0 || idle[..rotated].contains(&true);
    let stays = |token: u32, k: usize| idle[k] || (within && positions[token as usize] == 0);

    let layout = |heads| HeadLayout::bshd(3, heads, config.head_dim());
    let mut spec = RotateSpec::new(config, 1, 3, layout(2), T::TYPE).with_frequencies(frequencies);
    if with_key {
        spec = spec.with_key(layout(1), T::TYPE);
    }
    let mut random = fastrand::Rng::with_seed(n as u64);
    let mut tensor = |heads: u32| {
        let count = (3 * heads * config.head_dim()) as usize;
        let mut data: Vec<T> = values(&mut random, count)
            .into_iter()
            .map(T::narrow)
            .collect();
        for (_, t, at) in common::heads(layout(heads), 1, 3) {
            for k in (0..n).filter(|&k| stays(t, k)) {
                for channel in channels(config.pairing(), n, k).0 {
                    data[at + config.rotary_offset() as usize + channel] =
                        poison(t as usize + 2 * k + channel);
                }
            }
        }
        data
    };
    let before = [tensor(2), tensor(1)];
    let mut after = before.clone();
    let [query, key] = &mut after;
    let key = with_key.then_some(&mut key[..]);
    let table = TableSpec::new(frequencies);
    context
        .rotate_blocking(&spec, &table, (&positions).into(), query, key)
        .unwrap();

    let rows = reference::table(&table, (&positions).into()).unwrap();
    for (heads, before, after) in [(2, &before[0], &after[0]), (1, &before[1], &after[1])] {
        if heads == 1 && !with_key {
            continue;
        }
        let spec =
            RotateSpec::new(config, 1, 3, layout(heads), T::TYPE).with_frequencies(frequencies);
        let mut twin = before.clone();
        reference::rotate(&spec, &rows, &mut twin, None).unwrap();
        assert_eq!(
            bytemuck::cast_slice::<_, u8>(after),
            bytemuck::cast_slice::<_, u8>(&twin),
            "{} {config:?} {idle:?}",
            name(context)
        );
        // The twin by this test's own word.
        for (_, t, at) in common::heads(layout(heads), 1, 3) {
            let window = at + config.rotary_offset() as usize;
            for k in 0..n {
                let (read, written) = channels(config.pairing(), n, k);
                let bytes =
                    |data: &[T], channel| bytemuck::bytes_of(&data[window + channel]).to_vec();
                let equal = [0, 1].map(|i| bytes(before, read[i]) == bytes(after, written[i]));
                if stays(t, k) {
                    assert_eq!(equal, [true; 2], "{config:?} token {t} pair {k}: {idle:?}");
                } else if positions[t as usize] != 0 {
                    assert_ne!(equal, [true; 2], "{config:?} token {t} pair {k}: {idle:?}");
                }
            }
        }
    }
    let plan = RopePlan::new(&spec, &Limits::default()).unwrap();
    plan.dispatches(Placement::default()).unwrap()[0].entry_point
}

/// Frequencies of which those of some pairs are zero.
fn with_zeros(n: usize, factor: f64, is_zero: impl Fn(usize) -> bool) -> Frequencies {
    let pairs = (0..n).map(|k| Pair {
        inv_freq: if is_zero(k) {
            0.0
        } else {
            1.0 / (k as f64 + 1.5)
        },
        axis: 0,
    });
    Frequencies::from_pairs(pairs, factor).unwrap()
}

/// Where zeros may be among n pairs.
fn zeros(n: usize) -> [Vec<bool>; 5] {
    [
        (0..n).map(|k| k >= n - n / 4).collect(),
        (0..n).map(|k| k >= n - 1).collect(),
        (0..n).map(|k| (n / 3..n / 2 + 1).contains(&k)).collect(),
        (0..n).map(|k| k % 3 == 0 || k == n - 2).collect(),
        vec![true; n],
    ]
}

#[test]
fn pairs_without_a_frequency_keep_every_bit_on_every_path() {
    let mut entry_points = BTreeSet::new();
    for (j, (n, pairing)) in [
        (32, Pairing::HalfSplit),
        (32, Pairing::Interleaved),
        (48, Pairing::HalfSplitBlocks(3)),
        (10, Pairing::HalfSplit),
        (10, Pairing::Interleaved),
        (9, Pairing::HalfSplit),
        (9, Pairing::Interleaved),
        (9, Pairing::HalfSplitBlocks(3)),
        (16, Pairing::InterleavedToHalfSplit),
        (9, Pairing::HalfSplitToInterleaved),
    ]
    .into_iter()
    .enumerate()
    {
        // Behind 16 bytes of other channels, in front of a few.
        let dim = 2 * u32::try_from(n).unwrap();
        let config = RopeConfig::new(dim + 16)
            .with_rotary_dim(dim)
            .with_rotary_offset(8)
            .with_pairing(pairing);
        // Three places of zeros for each, all over all of them.
        for (i, zero) in zeros(n).into_iter().cycle().skip(j).take(3).enumerate() {
            let frequencies = with_zeros(n, 1.0, |k| zero[k]);
            for context in &*CONTEXTS {
                let key = i % 2 == 0;
                entry_points.insert(leaves_alone::<f32>(context, &config, &frequencies, key));
                entry_points.insert(leaves_alone::<f16>(context, &config, &frequencies, !key));
                entry_points.insert(leaves_alone::<bf16>(context, &config, &frequencies, key));
            }
        }
    }
    assert_eq!(entry_points.len(), 6, "{entry_points:?}");
}

#[test]
fn a_factor_reaches_pairs_without_a_frequency() {
    fn check<T: Element>(context: &GpuContext, pairing: Pairing, n: usize) {
        let config = RopeConfig::new(2 * u32::try_from(n).unwrap()).with_pairing(pairing);
        let mut random = fastrand::Rng::with_seed(9);
        let before: Vec<T> = values(&mut random, 2 * n)
            .into_iter()
            .map(T::narrow)
            .collect();
        for zero in zeros(n) {
            let frequencies = with_zeros(n, 1.5, |k| zero[k]);
            let layout = HeadLayout::bshd(1, 1, config.head_dim());
            let spec =
                RotateSpec::new(&config, 1, 1, layout, T::TYPE).with_frequencies(&frequencies);
            for (direction, factor) in [
                (Direction::Forward, 1.5),
                (Direction::Adjoint, 1.5),
                (Direction::Inverse, 1.0 / 1.5_f32),
            ] {
                let table = TableSpec::new(&frequencies).with_direction(direction);
                let mut after = before.clone();
                context
                    .rotate_blocking(&spec, &table, (&[9]).into(), &mut after, None)
                    .unwrap();
                for (k, &zero) in zero.iter().enumerate() {
                    let (read, written) = channels(pairing, n, k);
                    let scaled = read.map(|at| T::narrow(before[at].widen() * factor).widen());
                    let made = written.map(|at| after[at].widen());
                    assert_eq!(made == scaled, zero, "{} {pairing:?} {k}", name(context));
                }
            }
        }
    }
    for context in &*CONTEXTS {
        for (pairing, n) in [
            (Pairing::HalfSplit, 32),
            (Pairing::Interleaved, 10),
            (Pairing::HalfSplit, 9),
            (Pairing::InterleavedToHalfSplit, 8),
        ] {
            check::<f32>(context, pairing, n);
            check::<bf16>(context, pairing, n);
        }
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let blocks = |blocks, dim| {
        RopeConfig::new(dim)
            .with_pairing(Pairing::HalfSplitBlocks(blocks))
            .validate()
    };
    assert!(blocks(1, 30).is_ok() && blocks(15, 30).is_ok());
    for wrong in [0, 2, 4, 16, u32::MAX] {
        assert_eq!(
            blocks(wrong, 30).unwrap_err().to_string(),
            format!("pairing: blocks must divide the 15 pairs of the rotary window, got {wrong}")
        );
    }
    let spec = RotateSpec::new(
        &RopeConfig::new(8),
        1,
        1,
        HeadLayout::bshd(1, 1, 8),
        ElementType::F32,
    );
    let frequencies = with_zeros(5, 1.0, |_| false);
    assert_eq!(
        spec.with_frequencies(&frequencies)
            .validate()
            .unwrap_err()
            .to_string(),
        "frequencies: must be at most 4 pairs, got 5"
    );
}
