//! What holds of anything: valid rotations touch every channel once, invalid ones and damaged files are errors, positions are what their
//! definitions say. The seed is fixed, so that a run is every run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    dead_code,
    unreachable_pub,
    reason = "a test stops where something is not as it has to be; and it takes parts of what the fuzzer has"
)]

#[path = "fuzz/targets/rotation.rs"]
mod rotation;
#[path = "fuzz/targets/table.rs"]
mod table;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use wgpu_rope::positions::{PatchGrid, ids_from_i64, padded, ragged};
use wgpu_rope::{
    AxisOrder, Direction, ElementType, Frequencies, HeadLayout, Limits, Pair, Pairing, Placement,
    PositionSource, RopeConfig, RopePlan, RotateSpec, RowPositions, Rows, Storage, TablePlan,
    TableSpec, reference,
};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

// ---- rotations ----

/// A rotation that has to be accepted, and where its tensors lie.
#[derive(Debug, Clone)]
struct Valid {
    spec: RotateSpec,
    placement: Placement,
    limits: Limits,
}

/// A view of [batch, tokens, heads], the three axes within each other in any order, with room behind each of them.
fn layout(
    [batch, tokens, heads]: [u32; 3],
    head_dim: u32,
    element: ElementType,
) -> impl Strategy<Value = HeadLayout> {
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let room = prop_oneof![Just(0_u64), 0..9_u64];
    (
        select(orders.to_vec()),
        [room.clone(), room.clone(), room.clone(), room],
    )
        .prop_map(move |(order, room)| {
            // Heads of 16 bits start on whole words.
            let step = if element == ElementType::F32 { 1 } else { 2 };
            let mut strides = [0; 3];
            let mut next = u64::from(head_dim).next_multiple_of(step);
            for (axis, room) in order.into_iter().rev().zip(room) {
                strides[axis] = next + room * step;
                next = strides[axis] * u64::from([batch, tokens, heads][axis]);
            }
            HeadLayout {
                heads,
                head_dim,
                batch_stride: strides[0],
                token_stride: strides[1],
                head_stride: strides[2],
                offset: room[3] * step,
            }
        })
}

fn pairings(pairs: u32) -> impl Strategy<Value = Pairing> {
    let divisors: Vec<u32> = (1..=pairs).filter(|n| pairs.is_multiple_of(*n)).collect();
    prop_oneof![
        Just(Pairing::HalfSplit),
        Just(Pairing::Interleaved),
        Just(Pairing::InterleavedToHalfSplit),
        Just(Pairing::HalfSplitToInterleaved),
        select(divisors).prop_map(Pairing::HalfSplitBlocks),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let base = Limits::default();
    (
        any::<bool>(),
        // All of a tensor, or a few heads: a head of 64 channels has 256 bytes, and the table here at most 6,400.
        select(vec![base.max_storage_buffer_binding_size, 6400, 8191]),
        select(vec![1_u32, 16, 32, 256]),
        select(vec![65_535_u32, 7, 1]),
        select(vec![256_u32, 64, 1024]),
    )
        .prop_map(
            move |(cpu, binding, alignment, workgroups, invocations)| Limits {
                max_storage_buffer_binding_size: binding,
                min_storage_buffer_offset_alignment: alignment,
                max_compute_workgroups_per_dimension: workgroups,
                max_compute_invocations_per_workgroup: invocations,
                cpu,
                ..base
            },
        )
}

fn config_of_head() -> impl Strategy<Value = RopeConfig> {
    // Pairs of four and eight take other paths than odd ones.
    let pairs = prop_oneof![1..=16_u32, (1..=4_u32).prop_map(|n| 8 * n)];
    pairs.prop_flat_map(|pairs| {
        (
            pairings(pairs),
            prop_oneof![Just((0, 0)), (0..5_u32, 0..5_u32)],
        )
            .prop_map(move |(pairing, (before, behind))| {
                RopeConfig::new((before + 2 * pairs + behind).min(74))
                    .with_rotary_dim(2 * pairs)
                    .with_rotary_offset(before)
                    .with_pairing(pairing)
            })
    })
}

fn elements() -> impl Strategy<Value = ElementType> {
    select(vec![ElementType::F32, ElementType::F16, ElementType::Bf16])
}

fn valid() -> impl Strategy<Value = Valid> {
    (config_of_head(), 1..=3_u32, 1..=6_u32, elements())
        .prop_flat_map(|(config, batch, tokens, element)| {
            let dim = config.head_dim();
            let view = move |element| {
                (1..=7_u32).prop_flat_map(move |heads| layout([batch, tokens, heads], dim, element))
            };
            let key = proptest::option::of((view(element), Just(element)));
            let other = elements().prop_flat_map(move |element| (view(element), Just(element)));
            let key = prop_oneof![3 => key, 1 => other.prop_map(Some)];
            let rows = select(vec![
                Rows::Shared,
                Rows::PerToken,
                Rows::PerSequence,
                Rows::One,
            ]);
            (
                Just((config, batch, tokens, element)),
                view(element),
                key,
                rows,
            )
        })
        .prop_flat_map(|((config, batch, tokens, element), query, key, rows)| {
            let mut spec = RotateSpec::new(&config, batch, tokens, query, element).with_rows(rows);
            if let Some((key, element)) = key {
                spec = spec.with_key(key, element);
            }
            let pairs = config.rotary_dim() / 2;
            (
                Just(spec),
                limits(),
                // Counted in words.
                [0..20_u64, 0..20_u64],
                any::<bool>(),
                (
                    proptest::option::of(1..=pairs),
                    proptest::option::of(1..=8_u32),
                    proptest::option::of(1..=4_u32),
                    proptest::option::of(1..=64_u32),
                ),
            )
        })
        .prop_map(
            |(mut spec, limits, words, shared, (pairs, heads, at_once, workgroup))| {
                if let Some(pairs) = pairs {
                    spec = spec.with_rotated_pairs(pairs);
                }
                if let Some(heads) = heads {
                    spec = spec.with_heads_per_invocation(heads);
                }
                if let Some(heads) = at_once {
                    spec = spec.with_heads_at_once(heads);
                }
                // Small workgroups are many.
                if let Some(workgroup) =
                    workgroup.filter(|_| limits.max_compute_workgroups_per_dimension > 64)
                {
                    spec = spec.with_workgroup(workgroup);
                }
                let mut placement = Placement {
                    query: 4 * words[0],
                    key: 4 * words[1],
                    shared,
                };
                if shared {
                    // Behind the query.
                    placement.key += placement.query + spec.operands().unwrap()[0].1;
                }
                if spec.key().is_none() {
                    placement.key = 0;
                }
                Valid {
                    spec,
                    placement,
                    limits,
                }
            },
        )
}

/// What may be wrong with a rotation.
#[derive(Debug, Clone, Copy)]
enum Fault {
    NoBatch,
    NoTokens,
    NoHeads,
    OtherHead,
    Meets,
    Overflows,
    OffWords,
    OddWindow,
    WindowOutside,
    Blocks,
    HeadsPerInvocation(u32),
    HeadsAtOnce(u32),
    Workgroup(u32),
    Alignment,
}

fn faults() -> impl Strategy<Value = Fault> {
    use Fault::*;
    select(vec![
        NoBatch,
        NoTokens,
        NoHeads,
        OtherHead,
        Meets,
        Overflows,
        OffWords,
        OddWindow,
        WindowOutside,
        Blocks,
        HeadsPerInvocation(0),
        HeadsPerInvocation(9),
        HeadsAtOnce(0),
        HeadsAtOnce(5),
        Workgroup(0),
        Workgroup(1025),
        Alignment,
    ])
}

/// The rotation with a fault, and the device's limits.
fn with_fault(valid: &Valid, fault: Fault) -> (RotateSpec, Limits) {
    let (spec, mut limits) = (&valid.spec, valid.limits);
    let (mut config, mut batch, mut tokens) = (spec.config().clone(), spec.batch(), spec.tokens());
    let mut query = spec.query().layout();
    let Storage::Float(mut element) = spec.query().storage() else {
        unreachable!("a plain rotation")
    };
    let mut change = None;
    match fault {
        Fault::NoBatch => batch = 0,
        Fault::NoTokens => tokens = 0,
        Fault::NoHeads => query.heads = 0,
        Fault::OtherHead => query.head_dim += 1,
        Fault::Meets => {
            query.heads = 2;
            query.head_stride = u64::from(query.head_dim) - 1;
        }
        Fault::Overflows => query.offset = u64::MAX - 3,
        Fault::OffWords => {
            element = ElementType::Bf16;
            query.offset |= 1;
        }
        Fault::OddWindow => config = config.clone().with_rotary_dim(config.rotary_dim() - 1),
        Fault::WindowOutside => config = config.clone().with_rotary_offset(config.head_dim()),
        Fault::Blocks => config = config.with_pairing(Pairing::HalfSplitBlocks(0)),
        Fault::Alignment => limits.min_storage_buffer_offset_alignment = 24,
        option => change = Some(option),
    }
    let spec = RotateSpec::new(&config, batch, tokens, query, element);
    let spec = match change {
        Some(Fault::HeadsPerInvocation(heads)) => spec.with_heads_per_invocation(heads),
        Some(Fault::HeadsAtOnce(heads)) => spec.with_heads_at_once(heads),
        Some(Fault::Workgroup(invocations)) => spec.with_workgroup(invocations),
        _ => spec,
    };
    (spec, limits)
}

/// Numbers of any size, small ones as often as large ones.
fn any_size() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(bits, shift)| bits >> shift)
}

fn any_count() -> impl Strategy<Value = u32> {
    (any::<u32>(), 0..32_u32).prop_map(|(bits, shift)| bits >> shift)
}

fn any_layout() -> impl Strategy<Value = HeadLayout> {
    let head_dim = prop_oneof![3 => Just(8_u32), 1 => any_count()];
    (
        any_count(),
        head_dim,
        [any_size(), any_size(), any_size(), any_size()],
    )
        .prop_map(|(heads, head_dim, sizes)| HeadLayout {
            heads,
            head_dim,
            batch_stride: sizes[0],
            token_stride: sizes[1],
            head_stride: sizes[2],
            offset: sizes[3],
        })
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        any_size(),
        [any_count(), any_count(), any_count()],
        0..32_u32,
        any::<bool>(),
    )
        .prop_map(|(binding, counts, shift, cpu)| Limits {
            max_storage_buffer_binding_size: binding,
            min_storage_buffer_offset_alignment: 1 << shift,
            max_compute_workgroups_per_dimension: counts[0],
            max_compute_invocations_per_workgroup: counts[1],
            max_compute_workgroup_storage_size: counts[2],
            max_storage_buffers_per_shader_stage: 8,
            cpu,
        })
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn valid_rotations_touch_every_channel_once(valid in valid()) {
        let Valid { spec, placement, limits } = valid;
        let plan = RopePlan::new(&spec, &limits).unwrap();
        let dispatches = plan.dispatches(placement).unwrap();
        rotation::check(&plan, placement, &dispatches);
        let expected = rotation::expected(&spec, spec.rotated_pairs(), placement);
        prop_assert_eq!(rotation::written(&dispatches), expected);
    }

    #[test]
    fn a_fault_is_an_error(valid in valid(), fault in faults()) {
        let (spec, limits) = with_fault(&valid, fault);
        let error = RopePlan::new(&spec, &limits).unwrap_err();
        prop_assert!(!error.to_string().is_empty());
    }

    #[test]
    fn any_numbers_are_an_error_or_a_plan_that_holds(
        (query, key) in (any_layout(), proptest::option::of(any_layout())),
        (batch, tokens) in (any_count(), any_count()),
        limits in any_limits(),
        element in elements(),
        placement in (any_size(), any_size(), any::<bool>()),
    ) {
        let config = RopeConfig::new(8);
        let mut spec = RotateSpec::new(&config, batch, tokens, query, element).with_rows(Rows::One);
        if let Some(key) = key {
            spec = spec.with_key(key, element);
        }
        let placement = Placement { query: placement.0, key: placement.1, shared: placement.2 };
        if let Ok(plan) = RopePlan::new(&spec, &limits) {
            if let Ok(dispatches) = plan.dispatches(placement) {
                rotation::check(&plan, placement, &dispatches);
            }
        }
    }
}

// ---- tables and positions ----

fn frequencies() -> impl Strategy<Value = Frequencies> {
    let pair = (-1e4..1e4_f64, 0..3_u32);
    proptest::collection::vec(pair, 1..9).prop_map(|pairs| {
        let pair = |(inv_freq, axis)| Pair { inv_freq, axis };
        Frequencies::from_pairs(pairs.into_iter().map(pair), 1.25).unwrap()
    })
}

fn sources() -> impl Strategy<Value = PositionSource> {
    let order = prop_oneof![
        Just(AxisOrder::Last),
        any_count().prop_map(|rows| AxisOrder::First { rows }),
    ];
    prop_oneof![
        any::<i32>().prop_map(PositionSource::From),
        any_count().prop_map(PositionSource::Runs),
        order.prop_map(PositionSource::PerAxis),
    ]
}

fn bits(rows: &[[f32; 2]]) -> Vec<[u32; 2]> {
    rows.iter().map(|entry| entry.map(f32::to_bits)).collect()
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn fills_stay_within_their_bindings(
        frequencies in frequencies(),
        rows in any_count(),
        limits in any_limits(),
        source in sources(),
        (start, length) in (any_size(), any_size()),
    ) {
        let positions = start..start.saturating_add(length);
        if let Ok(plan) = TablePlan::new(&TableSpec::new(&frequencies), rows, &limits) {
            if let Ok(dispatches) = plan.fill(source, positions.clone(), [0; 2]) {
                table::check(&plan, &dispatches, &positions, None);
            }
        }
    }

    #[test]
    fn the_transpose_is_the_other_way(frequencies in frequencies(), ids in proptest::collection::vec(any::<i32>(), 0..6)) {
        let spec = TableSpec::new(&frequencies);
        let forward = reference::table(&spec, (&ids).into()).unwrap();
        let back = reference::table(&spec.with_direction(Direction::Adjoint), (&ids).into()).unwrap();
        let turned: Vec<_> = forward.iter().map(|[c, s]| [*c, -s]).collect();
        // A sine of 0 has no sign.
        let plain = |rows: &[[f32; 2]]| bits(&rows.iter().map(|[c, s]| [*c, s + 0.0]).collect::<Vec<_>>());
        prop_assert_eq!(plain(&back), plain(&turned));
    }

    #[test]
    fn the_order_of_axes_changes_nothing(
        frequencies in frequencies(),
        ids in proptest::collection::vec([any::<i32>(), any::<i32>(), any::<i32>()], 1..6),
    ) {
        let axes = frequencies.axes() as usize;
        let last: Vec<i32> = ids.iter().flat_map(|row| row[..axes].to_vec()).collect();
        let first: Vec<i32> = (0..axes).flat_map(|axis| ids.iter().map(move |row| row[axis])).collect();
        let spec = TableSpec::new(&frequencies);
        let rows = ids.len() as u32;
        let last = RowPositions::IdsPerAxis(&last, AxisOrder::Last);
        let first = RowPositions::IdsPerAxis(&first, AxisOrder::First { rows });
        let made = [last, first].map(|positions| bits(&reference::table(&spec, positions).unwrap()));
        prop_assert_eq!(&made[0], &made[1]);
        prop_assert_eq!(made[0].len(), ids.len() * frequencies.len());
    }

    #[test]
    fn ragged_positions_count_on(sequences in proptest::collection::vec((0..6_u32, -9..9_i32), 0..6)) {
        let mut ends = vec![0];
        let mut expected = Vec::new();
        for (length, offset) in &sequences {
            ends.push(ends[ends.len() - 1] + length);
            expected.extend((0..*length as i32).map(|step| offset + step));
        }
        let offsets: Vec<i32> = sequences.iter().map(|(_, offset)| *offset).collect();
        prop_assert_eq!(ragged(&ends, &offsets).unwrap(), expected);
    }

    #[test]
    fn any_lists_are_positions_or_an_error(
        // Sequences of at most 300 tokens, of any offsets, sometimes out of order.
        ends in proptest::collection::vec(0..300_u32, 0..5),
        offsets in proptest::collection::vec(any::<i32>(), 0..5),
        (mask, tokens) in (proptest::collection::vec(0..2_u8, 0..24), any_count()),
        ids in proptest::collection::vec(any::<i64>(), 0..4),
    ) {
        let made = ragged(&ends, &offsets);
        prop_assert!(made.is_err() || made.unwrap().len() as u32 == ends[ends.len() - 1]);
        let made = padded(&mask, tokens);
        prop_assert!(made.is_err() || made.unwrap().len() == mask.len());
        let fit = ids.iter().all(|&id| i32::try_from(id).is_ok());
        prop_assert_eq!(ids_from_i64(&ids).is_ok(), fit);
    }

    #[test]
    fn a_grid_has_every_place_once(frames in 1..4_u32, height in 1..5_u32, width in 1..5_u32, merge in 1..4_u32) {
        let grid = PatchGrid::new(height * merge, width * merge).with_frames(frames).with_merge(merge);
        let mut places = grid.places().unwrap();
        // A square is whole before the next one begins.
        let square = |[frame, row, column]: [i32; 3]| [frame, row / merge as i32, column / merge as i32];
        for of_square in places.chunks((merge * merge) as usize) {
            prop_assert!(of_square.iter().all(|&place| square(place) == square(of_square[0])));
        }
        places.sort_unstable();
        let all = (0..frames).flat_map(|f| (0..height * merge).flat_map(move |r| (0..width * merge).map(move |c| [f, r, c].map(|n| n as i32))));
        prop_assert_eq!(places, all.collect::<Vec<_>>());
    }

    #[test]
    fn any_grid_is_counted_or_an_error(frames in any_count(), height in any_count(), width in any_count(), merge in any_count()) {
        let grid = PatchGrid::new(height, width).with_frames(frames).with_merge(merge);
        if let Ok(patches) = grid.patches() {
            prop_assert_eq!(u128::from(patches), u128::from(frames) * u128::from(height) * u128::from(width));
        }
    }
}

// ---- files ----

#[cfg(feature = "huggingface")]
mod files {
    use proptest::sample::Index;
    use serde_json::{Map, Value, json};
    use wgpu_rope::config::huggingface::{Part, read_config, read_part};

    use super::*;

    fn samples() -> Vec<Value> {
        let llama = include_str!("../examples/data/llama-3.1-8b.json");
        let mut all = vec![serde_json::from_str(llama).unwrap()];
        all.extend([
            json!({"model_type": "phi3", "hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 4,
                "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_theta": 1e4,
                "rope_scaling": {"type": "longrope", "short_factor": [1, 1.1, 1.2, 1.3], "long_factor": [4, 5, 6, 7]}}),
            json!({"model_type": "deepseek_v3", "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "rope_theta": 1e4,
                "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32,
                    "beta_slow": 1, "original_max_position_embeddings": 4096}}),
            json!({"model_type": "gemma3_text", "head_dim": 256, "num_hidden_layers": 12, "rope_theta": 1e6,
                "rope_local_base_freq": 1e4, "sliding_window_pattern": 6, "rope_scaling": {"rope_type": "linear", "factor": 8}}),
            json!({"model_type": "qwen2_vl", "hidden_size": 1024, "num_attention_heads": 8, "rope_theta": 1e6,
                "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
                "vision_config": {"embed_dim": 1280, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2}}),
            json!({"model_type": "llama4", "text_config": {"model_type": "llama4_text", "head_dim": 128,
                "num_hidden_layers": 8, "no_rope_layers": [1, 1, 1, 0, 1, 1, 1, 0], "rope_theta": 5e5}}),
        ]);
        all
    }

    /// Values that a key does not have, or that are at the edge of their type.
    fn values() -> impl Strategy<Value = Value> {
        let number = prop_oneof![
            select(vec![
                0.0,
                -1.0,
                0.5,
                1.0,
                1e308,
                1e-308,
                4_294_967_296.0,
                65_537.0
            ]),
            any::<f64>(),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (0..300_u64).prop_map(Value::from),
            number.prop_map(Value::from),
            select(vec![
                "",
                "llama",
                "yarn",
                "longrope",
                "default",
                "full_attention"
            ])
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 24, 8, |inner| {
            let key = select(vec![
                "rope_theta",
                "factor",
                "type",
                "full_attention",
                "sliding_attention",
                "head_dim",
            ]);
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::vec((key, inner), 0..4).prop_map(|entries| {
                    let entries = entries
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value));
                    Value::Object(entries.collect::<Map<_, _>>())
                }),
            ]
        })
    }

    /// All objects of a file, by what leads to them.
    fn objects<'a>(
        value: &'a mut Value,
        found: &mut Vec<&'a mut Map<String, Value>>,
        at: usize,
    ) -> usize {
        // The one that is counted down to.
        let Value::Object(map) = value else {
            return at;
        };
        if at == 0 {
            found.push(map);
            return usize::MAX;
        }
        let mut at = at - 1;
        for value in map.values_mut() {
            if at == usize::MAX {
                break;
            }
            at = objects(value, found, at);
        }
        at
    }

    fn check(text: &str) {
        for part in [
            Part::Main,
            Part::Text,
            Part::Vision,
            Part::Audio,
            Part::Key("text"),
        ] {
            let Ok(Some(model)) = read_part(text, part) else {
                continue;
            };
            for rope in model.kinds.iter().filter_map(|kind| kind.rope.as_ref()) {
                assert_eq!(rope.config.validate(), Ok(()));
                let _ = Frequencies::new(&rope.config);
            }
        }
    }

    proptest! {
        #![proptest_config(config(2000))]

        #[test]
        fn a_changed_key_is_an_error_or_valid(
            sample in any::<Index>(),
            changes in proptest::collection::vec((0..3_usize, any::<Index>(), proptest::option::of(values())), 1..4),
        ) {
            let samples = samples();
            let mut file = sample.get(&samples).clone();
            for (object, key, value) in changes {
                let mut found = Vec::new();
                objects(&mut file, &mut found, object);
                let Some(map) = found.pop().filter(|map| !map.is_empty()) else {
                    continue;
                };
                let key = map.keys().nth(key.index(map.len())).unwrap().clone();
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
            check(&file.to_string());
        }

        #[test]
        fn a_damaged_text_is_an_error_or_valid(
            sample in any::<Index>(),
            damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6),
        ) {
            let samples = samples();
            let mut bytes = sample.get(&samples).to_string().into_bytes();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            check(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn keys_that_nobody_knows_change_nothing(sample in any::<Index>(), value in values()) {
            let samples = samples();
            let file = sample.get(&samples);
            let mut other = file.clone();
            other.as_object_mut().unwrap().insert("zz_unknown".into(), value);
            prop_assert_eq!(read_config(&file.to_string()), read_config(&other.to_string()));
        }
    }
}
