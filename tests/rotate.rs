//! The rotation on every adapter: every bit of every buffer against the CPU twin, the twin against an f64 oracle that shares
//! no code with it, and the properties that make it a rotary embedding.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use common::case::{Case, POSITIONS, check_all, check_on, positions, tables};
use common::{CONTEXTS, NO_USAGE, check_head, contexts_with, name, values};
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    Direction, Element, ElementType, Frequencies, GpuContext, HeadLayout, Operands, Pair, Pairing,
    RopeConfig, RopePlan, RotateSpec, Rows, Scaling, TableSpec, reference,
};

#[test]
fn head_dims_of_2_to_1024_in_both_pairings() {
    let mut channels = 0;
    for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
        for head_dim in [
            2, 4, 6, 8, 10, 16, 34, 64, 72, 80, 88, 96, 128, 192, 256, 512, 1024,
        ] {
            let config = RopeConfig::new(head_dim).with_pairing(pairing);
            let case = Case::new(&config, 1, 9, HeadLayout::bshd(9, 3, head_dim))
                .with_key(HeadLayout::bshd(9, 1, head_dim));
            channels += check_all(&case, head_dim.into());
        }
    }
    eprintln!("{channels} channels compared");
}

#[test]
fn windows_anywhere_in_the_head() {
    for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
        for (head_dim, dim, offset) in [
            (80, 32, 0),
            (64, 16, 48),
            (512, 64, 448),
            (96, 40, 8),
            (30, 10, 3),
            (31, 18, 13),
            (7, 2, 5),
            (256, 64, 2),
        ] {
            let config = RopeConfig::new(head_dim)
                .with_pairing(pairing)
                .with_rotary_dim(dim)
                .with_rotary_offset(offset);
            // Odd head_dims have one element of padding behind each head.
            let stride = u64::from(head_dim.next_multiple_of(2));
            let layout = |heads: u32| {
                HeadLayout::bshd(5, heads, head_dim).with_strides(
                    5 * u64::from(heads) * stride,
                    u64::from(heads) * stride,
                    stride,
                )
            };
            check_all(&Case::new(&config, 2, 5, layout(4)).with_key(layout(2)), 3);
        }
    }
}

#[test]
fn pairs_that_do_not_turn_are_left_alone() {
    for (head_dim, rotated_pairs) in [(512, 64), (64, 5), (64, 6), (10, 1)] {
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let scaling = Scaling::Proportional {
                rotated_pairs,
                factor: 2.0,
            };
            let config = RopeConfig::new(head_dim)
                .with_pairing(pairing)
                .with_scaling(scaling);
            let layout = |heads| HeadLayout::bshd(7, heads, head_dim);
            check_all(&Case::new(&config, 1, 7, layout(4)).with_key(layout(2)), 6);
            // A factor has to reach all of them.
            let scaled = config.clone().with_attention_factor(1.5);
            check_all(&Case::new(&scaled, 1, 7, layout(2)), 7);
            // Nor does the truth turn them where the specification and not the frequencies say so.
            let all = Frequencies::new(&RopeConfig::new(head_dim)).unwrap();
            let spec = RotateSpec::new(&config, 1, 7, layout(1), ElementType::F32)
                .with_rotated_pairs(rotated_pairs);
            let before = values(&mut fastrand::Rng::with_seed(8), 7 * head_dim as usize);
            let positions = (&[1, 2, 3, 4, 5, 6, 7]).into();
            let table = TableSpec::new(&all);
            let truth = reference::rotate_f64(&spec, &table, positions, &before).unwrap();
            for (at, truth) in truth.iter().enumerate() {
                let channel = at % head_dim as usize;
                let pair = match pairing {
                    Pairing::HalfSplit => channel % (head_dim as usize / 2),
                    _ => channel / 2,
                };
                let stays = truth.to_bits() == f64::from(before[at]).to_bits();
                assert_eq!(
                    stays,
                    pair >= rotated_pairs as usize,
                    "{channel} {config:?}"
                );
            }
            // 1 x - 0 inf would not be x: what does not turn is not even read.
            let spec = RotateSpec::new(
                &config,
                1,
                1,
                HeadLayout::bshd(1, 1, head_dim),
                ElementType::F32,
            );
            let frequencies = Frequencies::new(&config).unwrap();
            let mut head = vec![f32::INFINITY; head_dim as usize];
            for pair in 0..rotated_pairs as usize {
                for channel in match pairing {
                    Pairing::HalfSplit => [pair, pair + head_dim as usize / 2],
                    _ => [2 * pair, 2 * pair + 1],
                } {
                    head[channel] = 0.0;
                }
            }
            for context in &*CONTEXTS {
                let mut made = head.clone();
                context
                    .rotate_blocking(
                        &spec,
                        &TableSpec::new(&frequencies),
                        (&[9]).into(),
                        &mut made,
                        None,
                    )
                    .unwrap();
                assert_eq!(made, head, "{} {config:?}", name(context));
            }
        }
    }
}

/// ggml's frequency factors may be infinite, at the end and before it: those pairs keep every bit, whatever stands beside them.
#[test]
fn pairs_of_infinite_factors_are_left_alone() {
    let inf = f64::INFINITY;
    for factors in [[1.0, 2.0, inf, inf], [inf, 2.0, inf, 3.0], [inf; 4]] {
        let config = RopeConfig::new(8).with_scaling(Scaling::FrequencyFactors(factors.to_vec()));
        let layout = HeadLayout::bshd(2, 1, 8);
        let spec = RotateSpec::new(&config, 1, 2, layout, ElementType::F32);
        let table = TableSpec::new(&Frequencies::new(&config).unwrap());
        let mut head = [
            -0.0_f32,
            f32::INFINITY,
            -0.0,
            f32::INFINITY,
            f32::INFINITY,
            -0.0,
            7.0,
            -0.0,
        ];
        for (pair, factor) in factors.into_iter().enumerate() {
            if factor != inf {
                // Turned by up to 1 rad it stays.
                (head[pair], head[pair + 4]) = (0.0, 0.0);
            }
        }
        let heads = head.repeat(2);
        let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|x| x.to_bits()).collect() };
        let mut twin = heads.clone();
        let rows = reference::table(&table, (&[0, 1]).into()).unwrap();
        reference::rotate(&spec, &rows, &mut twin, None).unwrap();
        assert_eq!(bits(&twin), bits(&heads), "{factors:?}");
        for context in &*CONTEXTS {
            let mut made = heads.clone();
            context
                .rotate_blocking(&spec, &table, (&[0, 1]).into(), &mut made, None)
                .unwrap();
            assert_eq!(bits(&made), bits(&heads), "{} {factors:?}", name(context));
        }
    }
}

#[test]
fn layouts_batches_and_head_counts() {
    let config = RopeConfig::new(64);
    for (batch, tokens, heads, key_heads) in [
        (1, 1, 1, 1),
        (1, 2, 8, 2),
        (3, 1, 32, 8),
        (64, 1, 7, 1),
        (2, 63, 14, 2),
        (1, 64, 12, 12),
        (1, 65, 5, 5),
        (1, 257, 3, 1),
    ] {
        let token_major = Case::new(&config, batch, tokens, HeadLayout::bshd(tokens, heads, 64))
            .with_key(HeadLayout::bshd(tokens, key_heads, 64));
        let head_major = Case::new(&config, batch, tokens, HeadLayout::bhsd(tokens, heads, 64))
            .with_key(HeadLayout::bhsd(tokens, key_heads, 64));
        check_all(&token_major, 1);
        check_all(&head_major, 2);
        // One layout for the query, another for the key.
        check_all(
            &Case {
                key: head_major.key,
                ..token_major.clone()
            },
            3,
        );
        for rows in [Rows::PerToken, Rows::PerSequence, Rows::One] {
            check_all(
                &Case {
                    rows,
                    ..token_major.clone()
                },
                4,
            );
        }
    }
}

#[test]
fn strides_and_offsets_that_rule_out_wide_loads() {
    for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
        let config = RopeConfig::new(16).with_pairing(pairing);
        let plain = Case::new(&config, 2, 6, HeadLayout::bshd(6, 4, 16))
            .with_key(HeadLayout::bshd(6, 2, 16));
        for padding in [0, 2, 4, 6, 8] {
            let padded = |heads: u64| {
                let head = 16 + padding;
                HeadLayout::bshd(6, u32::try_from(heads).unwrap(), 16).with_strides(
                    6 * (heads * head + padding),
                    heads * head + padding,
                    head,
                )
            };
            for (offset, key_offset) in [(0, 0), (4, 0), (16, 20), (256, 508)] {
                let case = Case {
                    query: padded(4).with_offset(padding),
                    key: Some(padded(2)),
                    query_offset: offset,
                    key_offset,
                    ..plain.clone()
                };
                check_all(&case, padding);
            }
        }
    }
}

#[test]
fn one_buffer_for_query_and_key() {
    let config = RopeConfig::new(32).with_rotary_dim(16);
    let packed = Case {
        shared: true,
        ..Case::new(&config, 2, 10, HeadLayout::packed(10, 12, 0, 8, 32))
            .with_key(HeadLayout::packed(10, 12, 8, 2, 32))
    };
    check_all(&packed, 1);
    // Behind each other, key first, at offsets that no binding can start at; and interleaved token by token.
    let apart = Case {
        query: HeadLayout::bshd(10, 8, 32),
        key: Some(HeadLayout::bshd(10, 2, 32)),
        query_offset: 10_244,
        key_offset: 1_012,
        ..packed.clone()
    };
    check_all(&apart, 2);
    let between = Case {
        query_offset: 64,
        key_offset: 64,
        ..packed
    };
    check_all(&between, 3);
}

#[test]
fn element_types_may_differ_between_query_and_key() {
    let config = RopeConfig::new(64);
    let frequencies = Frequencies::new(&config).unwrap();
    let layout = HeadLayout::bshd(9, 2, 64);
    let spec =
        RotateSpec::new(&config, 1, 9, layout, ElementType::F32).with_key(layout, ElementType::F16);
    let mut random = fastrand::Rng::with_seed(5);
    for context in &*CONTEXTS {
        let (table, rows) = tables(context, &frequencies, &POSITIONS);
        let mut query = values(&mut random, 9 * 2 * 64);
        let mut key: Vec<_> = values(&mut random, 9 * 2 * 64)
            .into_iter()
            .map(f16::from_f32)
            .collect();
        let (q, k) = (
            context.upload(&query, NO_USAGE).unwrap(),
            context.upload(&key, NO_USAGE).unwrap(),
        );
        let plan = RopePlan::new(&spec, context.kernel().limits()).unwrap();
        let dispatch = context
            .kernel()
            .prepare(&plan)
            .unwrap()
            .bind(&Operands::new(q.slice(..)).with_key(k.slice(..)), &table)
            .unwrap();
        assert_eq!(dispatch.planned().len(), 2);
        context.run(|pass| dispatch.record(pass, 9)).unwrap();
        let query_spec = RotateSpec::new(&config, 1, 9, layout, ElementType::F32);
        let key_spec = RotateSpec::new(&config, 1, 9, layout, ElementType::F16);
        reference::rotate(&query_spec, &rows, &mut query, None).unwrap();
        reference::rotate(&key_spec, &rows, &mut key, None).unwrap();
        assert_eq!(
            context.read_blocking::<f32>(&q, query.len()).unwrap(),
            query
        );
        assert_eq!(context.read_blocking::<f16>(&k, key.len()).unwrap(), key);
    }
}

#[test]
fn fewer_tokens_than_planned_leave_the_others() {
    let config = RopeConfig::new(64);
    let frequencies = Frequencies::new(&config).unwrap();
    let case = Case::new(&config, 3, 20, HeadLayout::bshd(20, 4, 64))
        .with_key(HeadLayout::bhsd(20, 2, 64));
    for context in &*CONTEXTS {
        let (table, rows) = tables(context, &frequencies, &positions(20));
        for tokens in [0, 1, 7, 20] {
            case.check::<f32>(context, &table, &rows, tokens, tokens.into());
            case.check::<bf16>(context, &table, &rows, tokens, tokens.into());
        }
    }
}

#[test]
fn tensors_past_the_largest_binding_are_rotated_in_windows() {
    let contexts = contexts_with(|limits| limits.max_storage_buffer_binding_size = 8192);
    let mut entry_points = std::collections::BTreeMap::new();
    // Windows of whole 16 bytes, of words, and of 16-bit channels that share words.
    for (rotary_dim, rotary_offset, query_offset) in [(32, 16, 0), (32, 16, 20), (22, 3, 4)] {
        let config = RopeConfig::new(64)
            .with_rotary_dim(rotary_dim)
            .with_rotary_offset(rotary_offset);
        let frequencies = Frequencies::new(&config).unwrap();
        // 3 * 11 * 6 heads of 256 bytes in f32, several bindings each way they are cut.
        for layout in [HeadLayout::bshd, HeadLayout::bhsd] {
            for shared in [false, true] {
                let query = layout(11, 6, 64);
                let case = Case {
                    shared,
                    key_offset: if shared { 3 * 11 * 6 * 256 + 36 } else { 0 },
                    query_offset,
                    ..Case::new(&config, 3, 11, query).with_key(layout(11, 2, 64))
                };
                check_on(&contexts, &case, 9);
                for rows in [Rows::PerToken, Rows::PerSequence] {
                    check_on(
                        &contexts,
                        &Case {
                            rows,
                            ..case.clone()
                        },
                        10,
                    );
                }
                for element in [ElementType::F32, ElementType::F16] {
                    let spec = RotateSpec::new(&config, 3, 11, query, element);
                    let plan = RopePlan::new(&spec, contexts[0].kernel().limits()).unwrap();
                    let placement = wgpu_rope::Placement {
                        query: query_offset,
                        ..Default::default()
                    };
                    for planned in plan.dispatches(placement).unwrap() {
                        *entry_points.entry(planned.entry_point).or_insert(0) += 1;
                    }
                }
                for context in &contexts {
                    let (table, rows) = tables(context, &frequencies, &positions(11));
                    for tokens in [1, 4, 10] {
                        case.check::<f32>(context, &table, &rows, tokens, 8);
                        case.check::<f16>(context, &table, &rows, tokens, 8);
                    }
                }
            }
        }
    }
    eprintln!("{entry_points:?}");
    assert_eq!(entry_points.len(), 3, "{entry_points:?}");
    assert!(
        entry_points.values().all(|&windows| windows > 20),
        "{entry_points:?}"
    );
}

#[test]
fn grids_past_the_limit_take_several_dispatches() {
    let config = RopeConfig::new(16);
    // The real limit: more tokens than a dimension of a grid has workgroups, and more batch entries.
    for (batch, tokens) in [(1, 65_536), (65_537, 1)] {
        let case = Case {
            rows: Rows::One,
            ..Case::new(&config, batch, tokens, HeadLayout::bshd(tokens, 1, 16))
        };
        check_all(&case, 1);
    }
    // A small one: every dimension past it.
    let contexts = contexts_with(|limits| {
        limits.max_compute_workgroups_per_dimension = 11;
        limits.max_compute_invocations_per_workgroup = 64;
    });
    let case = Case {
        heads_per_invocation: Some(1),
        ..Case::new(&config, 5, 13, HeadLayout::bshd(13, 37, 16))
            .with_key(HeadLayout::bhsd(13, 3, 16))
    };
    check_on(&contexts, &case, 2);
    // Any number of tokens, on either side of the cuts.
    let frequencies = Frequencies::new(&config).unwrap();
    for context in &contexts {
        let (table, rows) = tables(context, &frequencies, &positions(13));
        for tokens in [1, 10, 11, 12] {
            case.check::<f32>(context, &table, &rows, tokens, 5);
        }
    }
}

#[test]
fn every_number_of_heads_per_invocation() {
    let config = RopeConfig::new(64);
    for heads in 1..=8 {
        // A CPU's driver takes one head at a time, a GPU several.
        for as_gpu in [false, true] {
            let case = Case {
                heads_per_invocation: Some(heads),
                as_gpu,
                ..Case::new(&config, 1, 5, HeadLayout::bshd(5, 2 * heads, 64))
                    .with_key(HeadLayout::bshd(5, heads, 64))
            };
            check_all(&case, heads.into());
            let shared = Case {
                shared: true,
                key_offset: 5 * 2 * u64::from(heads) * 64 * 4,
                ..case
            };
            check_all(&shared, heads.into());
        }
    }
}

fn against_truth<T: Element>(context: &GpuContext, config: &RopeConfig) -> f64 {
    let count = u32::try_from(POSITIONS.len()).unwrap();
    let layout = HeadLayout::bshd(count, 3, config.head_dim());
    let spec = RotateSpec::new(config, 1, count, layout, T::TYPE);
    let frequencies = Frequencies::new(config).unwrap();
    let table = TableSpec::new(&frequencies);
    let mut random = fastrand::Rng::with_seed(77);
    let before: Vec<T> = values(&mut random, (count * 3 * config.head_dim()) as usize)
        .into_iter()
        .map(T::narrow)
        .collect();
    let mut after = before.clone();
    context
        .rotate_blocking(&spec, &table, (&POSITIONS).into(), &mut after, None)
        .unwrap();
    // The crate's own f64 oracle has to agree with the one of these tests.
    let oracle = reference::rotate_f64(&spec, &table, (&POSITIONS).into(), &before).unwrap();
    let mut worst = 0.0_f64;
    for (_, t, at) in common::heads(layout, 1, count) {
        let head = at..at + config.head_dim() as usize;
        let turns: Vec<_> = frequencies
            .inv_freq()
            .map(|w| common::cos_sin(POSITIONS[t as usize], w))
            .collect();
        let both = (&before[head.clone()], &after[head.clone()]);
        worst = worst.max(check_head(config, &turns, 1.0, both));
        let x: Vec<f64> = both.0.iter().map(|x| x.widen().into()).collect();
        let truth = common::rotate_head(config, &x, &turns);
        for ((own, truth), x) in oracle[head].iter().zip(truth).zip(x) {
            let truth = truth.map_or(x, |(truth, _)| truth);
            assert!((own - truth).abs() <= 1e-13, "{own} {truth}");
        }
    }
    worst
}

#[test]
fn results_are_within_rounding_of_the_truth() {
    for context in &*CONTEXTS {
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let config = RopeConfig::new(128).with_theta(5e5).with_pairing(pairing);
            let partial = config.clone().with_rotary_dim(48).with_rotary_offset(40);
            for config in [config, partial] {
                let worst = [
                    against_truth::<f32>(context, &config),
                    against_truth::<f16>(context, &config),
                    against_truth::<bf16>(context, &config),
                ];
                // A bound that nothing comes near would test nothing.
                assert!(worst.iter().all(|&part| part > 0.3), "{worst:?}");
            }
        }
    }
}

#[test]
fn frequencies_agree_with_another_formula() {
    for theta in [1e4, 5e5, 1e7] {
        let config = RopeConfig::new(128).with_theta(theta).with_rotary_dim(96);
        let own = Frequencies::new(&config).unwrap();
        for (a, b) in own.inv_freq().zip(common::inv_freq(&config)) {
            assert!((a / b - 1.0).abs() < 1e-14, "{a} {b}");
        }
    }
}

/// Rotates one head of 128 channels, f32, at a position.
fn rotated(
    context: &GpuContext,
    config: &RopeConfig,
    head: &[f32],
    position: i32,
    direction: Direction,
) -> Vec<f32> {
    let spec = RotateSpec::new(config, 1, 1, HeadLayout::bshd(1, 1, 128), ElementType::F32);
    let frequencies = Frequencies::new(config).unwrap();
    let mut out = head.to_vec();
    context
        .rotate_blocking(
            &spec,
            &TableSpec::new(&frequencies).with_direction(direction),
            (&[position]).into(),
            &mut out,
            None,
        )
        .unwrap();
    out
}

/// The length of a channel's pair in a head of 128 channels, half-split.
fn pair_length(head: &[f32], channel: usize) -> f64 {
    f64::from(head[channel % 64]).hypot(head[channel % 64 + 64].into())
}

#[test]
fn it_is_a_rotary_embedding() {
    let config = RopeConfig::new(128);
    let mut random = fastrand::Rng::with_seed(4);
    let (q, k) = (values(&mut random, 128), values(&mut random, 128));
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    // With r the length of a pair, |x c| + |y s| is at most r, so each channel is within 3.01 u r of its truth (`common::bound`) and a vector
    // within sqrt(2) times 3.01 u of its length: 4.26 u. A product of two vectors that both are turned is off by twice that.
    let slack = |a: &[f32], b: &[f32]| 8.53 * 2_f64.powi(-24) * (dot(a, a) * dot(b, b)).sqrt();
    for context in &*CONTEXTS {
        let turn =
            |head: &[f32], position| rotated(context, &config, head, position, Direction::Forward);
        // Position 0 is the identity, bit for bit.
        assert_eq!(turn(&q, 0), q);
        for position in [1, 4095, -131_071, i32::MIN] {
            let turned = turn(&q, position);
            assert!((dot(&turned, &turned) - dot(&q, &q)).abs() <= slack(&q, &q));
            assert_ne!(turned, q);
            // The inverse undoes it: the second rotation keeps the 4.26 u that a pair is off after the first and adds its own 3.01.
            let back = rotated(context, &config, &turned, position, Direction::Inverse);
            for (i, (a, b)) in back.iter().zip(&q).enumerate() {
                let bound = (4.26 + 3.01) * 2_f64.powi(-24) * pair_length(&q, i);
                assert!((f64::from(*a) - f64::from(*b)).abs() <= bound, "{a} {b}");
            }
        }
        // Scores depend on the difference of positions only.
        let scores: Vec<_> = [
            (1000, 990),
            (20, 10),
            (0, -10),
            ((1 << 24) + 11, (1 << 24) + 1),
        ]
        .into_iter()
        .map(|(m, n)| dot(&turn(&q, m), &turn(&k, n)))
        .collect();
        for score in &scores {
            assert!(
                (score - scores[0]).abs() <= 2.0 * slack(&q, &k),
                "{scores:?}"
            );
        }
        assert!((scores[0] - dot(&turn(&q, 5), &turn(&k, 0))).abs() > 100.0 * slack(&q, &k));
        // Half-split is interleaved with the channels permuted, bit for bit.
        let interleaved = config.clone().with_pairing(Pairing::Interleaved);
        let permuted: Vec<f32> = (0..128).map(|i| q[i / 2 + 64 * (i % 2)]).collect();
        let a = turn(&q, 77);
        let b = rotated(context, &interleaved, &permuted, 77, Direction::Forward);
        for i in 0..128 {
            assert_eq!(b[i].to_bits(), a[i / 2 + 64 * (i % 2)].to_bits());
        }
        // The adjoint is the transpose: <R q, k> = <q, R^T k>. One vector of each product is turned.
        let adjoint = rotated(context, &config, &k, 77, Direction::Adjoint);
        assert!((dot(&turn(&q, 77), &k) - dot(&q, &adjoint)).abs() <= slack(&q, &k));
    }
}

#[test]
fn attention_factors_scale_forward_and_are_divided_out_by_the_inverse() {
    let config = RopeConfig::new(128).with_attention_factor(1.25);
    let plain = RopeConfig::new(128);
    let mut random = fastrand::Rng::with_seed(12);
    let head = values(&mut random, 128);
    for context in &*CONTEXTS {
        let scaled = rotated(context, &config, &head, 99, Direction::Forward);
        let unscaled = rotated(context, &plain, &head, 99, Direction::Forward);
        let back = rotated(context, &config, &scaled, 99, Direction::Inverse);
        for i in 0..128 {
            let [scaled, unscaled, back, own] =
                [scaled[i], unscaled[i], back[i], head[i]].map(f64::from);
            let unit = 2_f64.powi(-24) * pair_length(&head, i);
            // Each is off by 3.01 u of a length that is 1.25 times that of the pair.
            assert!((scaled - 1.25 * unscaled).abs() <= 2.0 * 3.01 * 1.25 * unit);
            // As above, and one unit more: 1 / 1.25 is rounded before the entries are.
            assert!((back - own).abs() <= (4.26 + 4.01) * unit);
        }
    }
}

#[test]
fn not_a_number_and_infinity_stay_in_their_pair() {
    let config = RopeConfig::new(64);
    for context in &*CONTEXTS {
        fn poisoned<T: Element>(context: &GpuContext, config: &RopeConfig) {
            let frequencies = Frequencies::new(config).unwrap();
            let spec = RotateSpec::new(config, 1, 1, HeadLayout::bshd(1, 1, 64), T::TYPE);
            let mut random = fastrand::Rng::with_seed(3);
            let mut head: Vec<T> = values(&mut random, 64).into_iter().map(T::narrow).collect();
            head[5] = T::narrow(f32::NAN);
            head[40] = T::narrow(f32::INFINITY);
            head[9] = T::narrow(f32::NEG_INFINITY);
            let mut expected = head.clone();
            let rows = reference::table(&TableSpec::new(&frequencies), (&[3]).into()).unwrap();
            reference::rotate(&spec, &rows, &mut expected, None).unwrap();
            context
                .rotate_blocking(
                    &spec,
                    &TableSpec::new(&frequencies),
                    (&[3]).into(),
                    &mut head,
                    None,
                )
                .unwrap();
            for (i, (made, expected)) in head.iter().zip(&expected).enumerate() {
                let (made, expected) = (made.widen(), expected.widen());
                assert_eq!(made.is_nan(), [5, 37].contains(&i), "{i} {made}");
                assert!(
                    made == expected || (made.is_nan() && expected.is_nan()),
                    "{i} {made} {expected}"
                );
                assert_eq!(
                    made.is_infinite(),
                    [8, 9, 40, 41].contains(&i),
                    "{i} {made}"
                );
            }
        }
        poisoned::<f32>(context, &config);
        poisoned::<f16>(context, &config);
        poisoned::<bf16>(context, &config);
    }
}

/// All 65,536 values of a 16-bit type as x, beside y = 0, turned by nothing but a factor: conversion, overflow and the rounding
/// of every result are those of the CPU's library. One factor gives results of all kinds, the other exact ties.
#[test]
fn every_16_bit_value_is_widened_and_rounded_as_on_the_cpu() {
    fn all<T: Element>(context: &GpuContext, factor: f64, bits: impl Fn(u16) -> T) {
        // cos = factor, sin = 0: products that need rounding, up to overflow.
        let frequencies = Frequencies::from_pairs(
            [Pair {
                inv_freq: 0.0,
                axis: 0,
            }; 8],
            factor,
        )
        .unwrap();
        let config = RopeConfig::new(16);
        let heads = 65_536 / 8;
        let layout = HeadLayout::bshd(1, heads, 16);
        let spec = RotateSpec::new(&config, 1, 1, layout, T::TYPE);
        let mut tensor: Vec<T> = (0..heads * 16)
            .map(|i| {
                let (head, channel) = (i / 16, i % 16);
                if channel < 8 {
                    bits(u16::try_from(head * 8 + channel).unwrap())
                } else {
                    T::narrow(0.0)
                }
            })
            .collect();
        let mut expected = tensor.clone();
        let rows = reference::table(&TableSpec::new(&frequencies), (&[0]).into()).unwrap();
        reference::rotate(&spec, &rows, &mut expected, None).unwrap();
        context
            .rotate_blocking(
                &spec,
                &TableSpec::new(&frequencies),
                (&[0]).into(),
                &mut tensor,
                None,
            )
            .unwrap();
        let (mut finite, mut flushed) = (0, 0);
        for (made, expected) in tensor.iter().zip(&expected) {
            if expected.widen().is_nan() {
                assert!(made.widen().is_nan());
                continue;
            }
            // A device may flush denormals of f32, which are denormals in bfloat16 as well, before or after the product.
            let tiny =
                expected.widen().abs() < 1.6 * f32::MIN_POSITIVE && T::TYPE == ElementType::Bf16;
            if tiny && made.widen() == 0.0 && expected.widen() != 0.0 {
                flushed += 1;
                continue;
            }
            assert_eq!(
                bytemuck::bytes_of(made),
                bytemuck::bytes_of(expected),
                "{}: {} {}",
                name(context),
                made.widen(),
                expected.widen()
            );
            finite += 1;
        }
        eprintln!(
            "{:?} on {}: {finite} equal, {flushed} denormals flushed",
            T::TYPE,
            name(context)
        );
        assert!(finite > 120_000);
    }
    for context in &*CONTEXTS {
        for factor in [1.333_333_4, 1.5] {
            all(context, factor, f16::from_bits);
            all(context, factor, bf16::from_bits);
        }
    }
}
