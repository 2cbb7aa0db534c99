//! Plans without a GPU: what is refused, by name; and what a host of its own would carry out.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

use wgpu_rope::{
    Angles, AxisOrder, ElementType, Frequencies, HeadLayout, Limits, Operand, Pair, Pairing,
    Placement, PlannedDispatch, PositionSource, Resource, RopeConfig, RopeError, RopePlan,
    RotateSpec, Rows, Scaling, TablePlan, TableSpec,
};

fn config_fault(config: RopeConfig) -> String {
    let error = Frequencies::new(&config).unwrap_err();
    assert_eq!(Err(error.clone()), config.validate());
    error.to_string()
}

#[test]
fn configurations_are_refused_by_name() {
    let base = RopeConfig::new(128);
    let faults = [
        (
            RopeConfig::new(0),
            "head_dim: must be from 1 to 65536, got 0",
        ),
        (
            RopeConfig::new(7),
            "rotary_dim: must be even and at least 2, got 7",
        ),
        (
            base.clone().with_rotary_dim(0),
            "rotary_dim: must be even and at least 2, got 0",
        ),
        (
            base.clone().with_rotary_dim(128).with_rotary_offset(64),
            "rotary window: must lie within head_dim 128, got 64..192",
        ),
        (
            base.clone().with_rotary_offset(u32::MAX),
            "rotary window: must lie within head_dim 128, got 4294967295..4294967423",
        ),
        (
            base.clone().with_theta(0.0),
            "theta: must be a positive finite number, got 0",
        ),
        (
            base.clone().with_theta(-1.0),
            "theta: must be a positive finite number, got -1",
        ),
        (
            base.clone().with_theta(f64::NAN),
            "theta: must be a positive finite number, got NaN",
        ),
        (
            base.clone().with_theta(f64::INFINITY),
            "theta: must be a positive finite number, got inf",
        ),
        (
            base.clone().with_scaling(Scaling::Linear { factor: -2.0 }),
            "factor: must be a positive finite number, got -2",
        ),
        (
            base.clone().with_scaling(Scaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 4.0,
                high_freq_factor: 1.0,
                original_max_position_embeddings: 8192.0,
            }),
            "high_freq_factor: must not be below low_freq_factor 4, got 1",
        ),
    ];
    for (config, expected) in faults {
        assert_eq!(config_fault(config), expected);
    }
    // Legal as a configuration, but with frequencies outside what a table can hold.
    for theta in [1e300, 1e-300] {
        let error = Frequencies::new(&base.clone().with_theta(theta))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("inv_freq: must be 0 or of a magnitude from 2^-64 to 2^16"),
            "{error}"
        );
    }
    for factor in [0.0, f64::NAN, f64::INFINITY] {
        assert!(
            config_fault(base.clone().with_attention_factor(factor))
                .starts_with("attention_factor: must be a finite number other than 0")
        );
    }
    for factor in [1e-9, 1e9] {
        let error = Frequencies::new(&base.clone().with_attention_factor(factor))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("attention_factor: must be of a magnitude from 2^-24 to 2^24"),
            "{error}"
        );
    }
    assert_eq!(
        Frequencies::from_pairs([], 1.0).unwrap_err().to_string(),
        "pairs: must be at least one, got 0"
    );
    let axis = Frequencies::from_pairs(
        [Pair {
            inv_freq: 1.0,
            axis: 16,
        }],
        1.0,
    );
    assert_eq!(
        axis.unwrap_err().to_string(),
        "axis: must be less than 16, got 16"
    );
    for inv_freq in [f64::NAN, f64::INFINITY, 65_537.0, 1e-30] {
        let given = Frequencies::from_pairs([Pair { inv_freq, axis: 0 }], 1.0);
        let own = Frequencies::from_pairs(
            [Pair {
                inv_freq: 1.0,
                axis: 0,
            }],
            1.0,
        )
        .unwrap();
        let error = given.unwrap_err().to_string();
        assert_eq!(
            own.with_inv_freq(&[inv_freq]).unwrap_err().to_string(),
            error
        );
    }
    let own = Frequencies::from_pairs(
        [Pair {
            inv_freq: 1.0,
            axis: 0,
        }],
        1.0,
    )
    .unwrap();
    assert_eq!(
        own.with_inv_freq(&[1.0, 0.5]).unwrap_err().to_string(),
        "inv_freq: must have 1 values, one for each pair, got 2"
    );
}

fn fault(spec: RotateSpec) -> RopeError {
    RopePlan::new(&spec, &Limits::default()).unwrap_err()
}

#[test]
fn rotations_are_refused_by_name() {
    let config = RopeConfig::new(64);
    let layout = HeadLayout::bshd(8, 4, 64);
    let spec = |layout| RotateSpec::new(&config, 2, 8, layout, ElementType::F32);
    let text = |spec| fault(spec).to_string();
    assert_eq!(
        text(spec(HeadLayout { heads: 0, ..layout })),
        "query: heads must be at least 1, got 0"
    );
    assert_eq!(
        text(spec(HeadLayout {
            head_dim: 32,
            ..layout
        })),
        "query: head_dim must be the configuration's 64, got 32"
    );
    assert_eq!(
        text(spec(layout).with_key(HeadLayout { heads: 0, ..layout }, ElementType::F32)),
        "key: heads must be at least 1, got 0"
    );
    assert_eq!(
        text(RotateSpec::new(&config, 0, 8, layout, ElementType::F32)),
        "batch: must be at least 1, got 0"
    );
    assert_eq!(
        text(RotateSpec::new(&config, 1, 0, layout, ElementType::F32)),
        "tokens: must be at least 1, got 0"
    );
    // A view that meets itself.
    for strides in [
        (0, 256, 64),
        (2048, 0, 64),
        (2048, 256, 0),
        (2048, 256, 63),
        (1000, 256, 64),
    ] {
        let own = layout.with_strides(strides.0, strides.1, strides.2);
        assert!(
            text(spec(own)).starts_with(
                "query: two heads of the view must not share an element (was the layout made for as many tokens?), got [2, 8, 4, 64]"
            ),
            "{strides:?}"
        );
    }
    // 16-bit views start on whole words.
    let half = |layout| RotateSpec::new(&config, 2, 8, layout, ElementType::Bf16);
    assert_eq!(
        text(half(layout.with_strides(2049, 256, 64))),
        "query: batch stride of a 16-bit tensor must be even, so that heads start on whole words, got 2049"
    );
    assert_eq!(
        text(half(layout.with_offset(3))),
        "query: offset of a 16-bit tensor must be even, so that heads start on whole words, got 3"
    );
    assert!(RopePlan::new(&spec(layout.with_offset(3)), &Limits::default()).is_ok());
    // Sizes that overflow.
    for own in [
        layout.with_strides(u64::MAX, 256, 64),
        layout.with_offset(u64::MAX - 5),
        layout.with_strides(u64::MAX / 2, 256, 64),
    ] {
        assert!(
            matches!(fault(spec(own)), RopeError::Overflow { .. }),
            "{own:?}"
        );
    }
    let many = RotateSpec::new(
        &config,
        u32::MAX,
        8,
        HeadLayout::bshd(8, 1, 64),
        ElementType::F32,
    );
    assert!(matches!(
        fault(many.clone().with_rows(Rows::PerToken)),
        RopeError::Overflow {
            operand: "rows",
            ..
        }
    ));
    // Shapes that were asked for.
    assert_eq!(
        text(spec(layout).with_heads_per_invocation(9)),
        "heads per invocation: must be from 1 to 8, got 9"
    );
    assert_eq!(
        text(spec(layout).with_heads_at_once(5)),
        "heads at once: must be from 1 to 4, got 5"
    );
    assert_eq!(
        text(spec(layout).with_workgroup(0)),
        "workgroup: must be at least 1, got 0"
    );
    assert_eq!(
        text(spec(layout).with_workgroup(512)),
        "workgroup: needs max_compute_invocations_per_workgroup of 512, the device has 256; request it in required_limits"
    );
    // Not even a head fits a binding.
    let small = Limits {
        max_storage_buffer_binding_size: 255,
        ..Limits::default()
    };
    assert_eq!(
        RopePlan::new(&spec(layout), &small)
            .unwrap_err()
            .to_string(),
        "query: needs max_storage_buffer_binding_size of 256, the device has 255; request it in required_limits"
    );
}

#[test]
fn views_of_one_buffer_may_interleave_but_not_meet() {
    let config = RopeConfig::new(64);
    let (q, k) = (
        HeadLayout::packed(8, 6, 0, 4, 64),
        HeadLayout::packed(8, 6, 4, 1, 64),
    );
    let plan = |k| {
        let spec =
            RotateSpec::new(&config, 2, 8, q, ElementType::F16).with_key(k, ElementType::F16);
        RopePlan::new(&spec, &Limits::default()).unwrap()
    };
    let packed = Placement {
        shared: true,
        ..Placement::default()
    };
    assert_eq!(plan(k).dispatches(packed).unwrap().len(), 1);
    let meeting = plan(k.with_offset(3 * 64)).dispatches(packed).unwrap_err();
    assert_eq!(
        meeting.to_string(),
        "key: must not share an element with the query in the same buffer, got views at elements 0 and 192 from bytes 0 and 0 on"
    );
    let apart = Placement {
        key: 3 * 128,
        ..packed
    };
    assert!(plan(k.with_offset(0)).dispatches(apart).is_err());
    assert!(plan(k.with_offset(64)).dispatches(apart).is_ok());
    assert!(
        plan(k)
            .dispatches(Placement { query: 2, ..packed })
            .unwrap_err()
            .to_string()
            .starts_with("query: byte offset must be a multiple of 4")
    );
    // A stride that is never taken is none.
    let one = HeadLayout::bshd(8, 1, 64).with_strides(u64::MAX, 64, u64::MAX);
    let spec = RotateSpec::new(&config, 1, 8, one, ElementType::F32)
        .with_key(one.with_offset(8 * 64), ElementType::F32);
    let plan_of_one = RopePlan::new(&spec, &Limits::default()).unwrap();
    assert_eq!(plan_of_one.dispatches(packed).unwrap().len(), 1);
    // Element types of different sizes are compared by their bytes.
    let mixed = RotateSpec::new(&config, 1, 8, HeadLayout::bshd(8, 1, 64), ElementType::F32)
        .with_key(HeadLayout::bshd(8, 1, 64), ElementType::F16);
    let mixed = RopePlan::new(&mixed, &Limits::default()).unwrap();
    let behind = |key| mixed.dispatches(Placement { key, ..packed });
    assert!(behind(8 * 64 * 4 - 4).is_err());
    assert_eq!(behind(8 * 64 * 4).unwrap().len(), 2);
}

#[test]
fn a_llama_layer_is_one_dispatch_over_all_of_it() {
    let config = RopeConfig::new(128);
    let (q, k) = (
        HeadLayout::bshd(4096, 32, 128),
        HeadLayout::bshd(4096, 8, 128),
    );
    let spec = RotateSpec::new(&config, 1, 4096, q, ElementType::F32).with_key(k, ElementType::F32);
    let gpu = RopePlan::new(&spec, &Limits::default()).unwrap();
    let [planned] = &gpu.dispatches(Placement::default()).unwrap()[..] else {
        panic!("one dispatch");
    };
    assert_eq!(planned.entry_point, "quads_two");
    // 4 heads to an invocation, 16 lanes to a head: 10 groups of 16 invocations for each token, whole subgroups.
    assert_eq!(planned.workgroups(4096), [1, 4096, 1]);
    assert!(planned.constants.contains(&("WORKGROUP", 160.0)));
    assert!(planned.constants.contains(&("QUERY_HEADS", 4.0)));
    let bound: Vec<_> = planned
        .bindings
        .iter()
        .map(|b| (b.binding, b.resource, b.bytes.clone()))
        .collect();
    assert_eq!(
        bound,
        [
            (0, Resource::Uniform, 0..80),
            (1, Resource::Rows, 0..4096 * 64 * 8),
            (2, Resource::Tensor(Operand::Query), 0..4096 * 32 * 128 * 4),
            (3, Resource::Tensor(Operand::Key), 0..4096 * 8 * 128 * 4),
        ]
    );
    assert_eq!(planned.uniform_bytes().len(), 80);
    assert_eq!(planned.workgroups(7), [1, 7, 1]);
    assert_eq!(planned.workgroups(0), [0, 0, 0]);
    assert_eq!(planned.workgroups(u32::MAX), [1, 4096, 1]);
    // In decoding a GPU wants invocations more than shared loads; a CPU's driver wants 8 heads always.
    let decode = RotateSpec::new(
        &config,
        1,
        1,
        HeadLayout::bshd(1, 32, 128),
        ElementType::F32,
    );
    let constants = |limits: &Limits| {
        let plan = RopePlan::new(&decode, limits).unwrap();
        plan.dispatches(Placement::default()).unwrap()[0]
            .constants
            .clone()
    };
    assert!(constants(&Limits::default()).contains(&("QUERY_HEADS", 1.0)));
    let cpu = Limits {
        cpu: true,
        ..Limits::default()
    };
    assert!(constants(&cpu).contains(&("QUERY_HEADS", 8.0)));
}

#[test]
fn paths_are_chosen_by_what_the_words_allow() {
    let path = |head_dim: u32, dim: u32, offset: u32, pairing, element, stride: u64| {
        let config = RopeConfig::new(head_dim)
            .with_rotary_dim(dim)
            .with_rotary_offset(offset)
            .with_pairing(pairing);
        let layout = HeadLayout::bshd(4, 2, head_dim).with_strides(8 * stride, 2 * stride, stride);
        let spec = RotateSpec::new(&config, 1, 4, layout, element);
        RopePlan::new(&spec, &Limits::default())
            .unwrap()
            .dispatches(Placement::default())
            .unwrap()[0]
            .entry_point
    };
    use ElementType::{Bf16, F32};
    use Pairing::{HalfSplit, Interleaved};
    assert_eq!(path(128, 128, 0, HalfSplit, F32, 128), "quads_one");
    assert_eq!(path(80, 32, 0, HalfSplit, F32, 80), "quads_one");
    assert_eq!(path(512, 64, 448, Interleaved, Bf16, 512), "quads_one");
    assert_eq!(path(128, 128, 0, HalfSplit, F32, 130), "words_one");
    assert_eq!(path(128, 128, 0, HalfSplit, Bf16, 130), "words_one");
    assert_eq!(path(24, 24, 0, HalfSplit, Bf16, 24), "words_one");
    assert_eq!(path(24, 22, 0, HalfSplit, F32, 24), "words_one");
    assert_eq!(path(24, 22, 0, HalfSplit, Bf16, 24), "windows_one");
    assert_eq!(path(24, 20, 1, Interleaved, Bf16, 24), "windows_one");
    assert_eq!(path(24, 20, 1, Interleaved, F32, 24), "words_one");
}

/// The first dispatch of a rotation of Q and, where there is one, of K.
fn first(plan: &RopePlan) -> PlannedDispatch {
    plan.dispatches(Placement::default()).unwrap()[0].clone()
}

fn constant(planned: &PlannedDispatch, name: &str) -> u32 {
    let found = planned.constants.iter().find(|(given, _)| *given == name);
    found.unwrap().1 as u32
}

#[test]
fn pairings_take_the_path_that_their_blocks_allow() {
    use ElementType::{Bf16, F16, F32};
    use Pairing::{HalfSplitBlocks, HalfSplitToInterleaved, InterleavedToHalfSplit};
    let plan = |dim: u32, pairing, element| {
        let config = RopeConfig::new(dim).with_pairing(pairing);
        let layout = HeadLayout::bshd(4, 3, dim);
        let spec = RotateSpec::new(&config, 1, 4, layout, element);
        first(&RopePlan::new(&spec, &Limits::default()).unwrap())
    };
    // Pairs of a block: 16 and 12, 9, 1.
    for (dim, pairing, element, path) in [
        (96, HalfSplitBlocks(3), F32, "quads_one"),
        (96, HalfSplitBlocks(3), Bf16, "quads_one"),
        (96, HalfSplitBlocks(4), F32, "quads_one"),
        (96, HalfSplitBlocks(4), F16, "words_one"),
        (36, HalfSplitBlocks(2), F32, "words_one"),
        (36, HalfSplitBlocks(2), F16, "windows_one"),
        (96, HalfSplitBlocks(48), F32, "words_one"),
        (96, HalfSplitBlocks(48), Bf16, "windows_one"),
        (96, HalfSplitBlocks(1), Bf16, "quads_one"),
        (96, InterleavedToHalfSplit, F32, "moves_one"),
        (96, InterleavedToHalfSplit, F16, "moves_one"),
        (96, HalfSplitToInterleaved, F32, "moves_one"),
        (96, HalfSplitToInterleaved, Bf16, "moves_one"),
        // 9 and 20 pairs; and more lanes than a workgroup holds.
        (18, InterleavedToHalfSplit, F32, "windows_one"),
        (40, InterleavedToHalfSplit, F32, "moves_one"),
        (40, InterleavedToHalfSplit, F16, "windows_one"),
        (2048, HalfSplitToInterleaved, F32, "moves_one"),
        (2056, HalfSplitToInterleaved, F32, "windows_one"),
    ] {
        let planned = plan(dim, pairing, element);
        assert_eq!(planned.entry_point, path, "{dim} {pairing:?} {element:?}");
    }
    // 12 lanes of 4 pairs, 4 to a block, whose y stand 4 lanes behind its x.
    let blocks = plan(96, HalfSplitBlocks(3), F32);
    assert_eq!(
        (constant(&blocks, "LANES"), constant(&blocks, "BLOCK")),
        (12, 4)
    );
    assert_eq!(blocks.uniform[12], 4);
    // One block is no other plan than half-split.
    assert_eq!(
        plan(96, HalfSplitBlocks(1), F16),
        plan(96, Pairing::HalfSplit, F16)
    );
    // Which way pairs move is in two flags.
    for (pairing, flags) in [
        (InterleavedToHalfSplit, (1, 0)),
        (HalfSplitToInterleaved, (0, 1)),
    ] {
        let planned = plan(96, pairing, F32);
        let made = (
            constant(&planned, "INTERLEAVED"),
            constant(&planned, "WRITES_INTERLEAVED"),
        );
        assert_eq!(made, flags);
        // 48 pairs of 4 bytes in words of 16.
        assert_eq!(planned.uniform[12], 12);
    }
}

#[test]
fn workgroups_of_pairs_that_move_hold_whole_heads() {
    let moving = RopeConfig::new(96).with_pairing(Pairing::InterleavedToHalfSplit);
    let plan = |config: &RopeConfig, heads, workgroup: Option<u32>, cpu| {
        let layout = HeadLayout::bshd(4, heads, 96);
        let mut spec = RotateSpec::new(config, 1, 4, layout, ElementType::F32);
        if let Some(workgroup) = workgroup {
            spec = spec.with_workgroup(workgroup);
        }
        let limits = Limits {
            cpu,
            ..Limits::default()
        };
        first(&RopePlan::new(&spec, &limits).unwrap())
    };
    for cpu in [false, true] {
        for heads in [1, 2, 3, 5, 32, 63] {
            for given in [
                None,
                Some(1),
                Some(11),
                Some(12),
                Some(13),
                Some(100),
                Some(256),
            ] {
                let planned = plan(&moving, heads, given, cpu);
                let (workgroup, lanes) =
                    (constant(&planned, "WORKGROUP"), constant(&planned, "LANES"));
                assert_eq!((planned.entry_point, lanes), ("moves_one", 12));
                assert!(workgroup.is_multiple_of(12) && (12..=256).contains(&workgroup));
                if let Some(given) = given {
                    assert!(workgroup <= given.max(12));
                }
                // All heads are covered: groups of heads are 12 lanes wide.
                let per = constant(&planned, "QUERY_HEADS");
                let [across, ..] = planned.workgroups(4);
                assert_eq!(heads % per, 0);
                assert!(across * workgroup >= heads / per * 12);
                assert!((across - 1) * workgroup < heads / per * 12);
            }
        }
    }
    // Pairs that are not rotated have to move too: a workgroup takes the window.
    let layout = HeadLayout::bshd(4, 3, 96);
    let spec = RotateSpec::new(&moving, 1, 4, layout, ElementType::F32).with_rotated_pairs(24);
    let planned = first(&RopePlan::new(&spec, &Limits::default()).unwrap());
    assert_eq!(planned.entry_point, "windows_one");
}

#[test]
fn heads_of_an_invocation_follow_the_shape_and_the_kind_of_device() {
    let plan = |tokens, heads, kv_heads, dim, cpu| {
        let config = RopeConfig::new(dim);
        let layout = |heads| HeadLayout::bshd(tokens, heads, dim);
        let spec = RotateSpec::new(&config, 1, tokens, layout(heads), ElementType::F32)
            .with_key(layout(kv_heads), ElementType::F32);
        let limits = Limits {
            cpu,
            ..Limits::default()
        };
        let planned = first(&RopePlan::new(&spec, &limits).unwrap());
        ["QUERY_HEADS", "KEY_HEADS", "QUERY_AT_ONCE", "KEY_AT_ONCE"]
            .map(|name| constant(&planned, name))
    };
    for (cpu, shape, expected) in [
        // A CPU takes 8 heads, one at a time; fewer where those would leave lanes of its vectors idle (8 pairs are 2 lanes).
        (true, (1, 32, 8, 128), [8, 8, 1, 1]),
        (true, (4096, 32, 8, 128), [8, 8, 1, 1]),
        (true, (4096, 32, 8, 32), [8, 4, 1, 1]),
        (true, (4096, 32, 8, 16), [8, 2, 1, 1]),
        (true, (4096, 28, 4, 128), [7, 4, 1, 1]),
        (true, (4096, 71, 1, 64), [8, 1, 1, 1]),
        (true, (4096, 6, 3, 8), [1, 1, 1, 1]),
        (true, (4096, 32, 8, 80), [8, 4, 1, 1]),
        (true, (4096, 32, 8, 66), [8, 8, 1, 1]),
        // A GPU takes several where 32,768 invocations are left, and loads them all before it stores.
        (false, (1, 32, 8, 128), [1, 1, 1, 1]),
        (false, (64, 32, 8, 128), [1, 1, 1, 1]),
        (false, (102, 32, 8, 128), [1, 1, 1, 1]),
        (false, (103, 32, 8, 128), [2, 2, 2, 2]),
        (false, (204, 32, 8, 128), [2, 2, 2, 2]),
        (false, (205, 32, 8, 128), [4, 4, 4, 4]),
        (false, (4096, 32, 8, 128), [4, 4, 4, 4]),
        (false, (4096, 28, 1, 128), [4, 1, 4, 1]),
        (false, (4096, 71, 1, 64), [1, 1, 1, 1]),
    ] {
        let (tokens, heads, kv_heads, dim) = shape;
        let made = plan(tokens, heads, kv_heads, dim, cpu);
        assert_eq!(made, expected, "{shape:?}");
    }
}

/// So whatever fits a grid with an invocation for each head fits with one for several.
#[test]
fn workgroups_are_as_few_as_can_be() {
    // 100 lanes a head: two heads fit a workgroup of 256.
    let config = RopeConfig::new(800).with_pairing(Pairing::InterleavedToHalfSplit);
    for heads in 1..=40 {
        for per in 1..=4 {
            let layout = HeadLayout::bshd(4, heads, 800);
            let spec = RotateSpec::new(&config, 1, 4, layout, ElementType::F32)
                .with_heads_per_invocation(per);
            let planned = first(&RopePlan::new(&spec, &Limits::default()).unwrap());
            assert_eq!(planned.entry_point, "moves_one");
            let groups = heads / constant(&planned, "QUERY_HEADS");
            assert_eq!(planned.workgroups(4)[0], groups.div_ceil(2), "{groups}");
        }
    }
}

#[test]
fn a_window_is_a_workgroup_of_its_own() {
    let config = RopeConfig::new(80)
        .with_rotary_dim(70)
        .with_rotary_offset(5)
        .with_pairing(Pairing::InterleavedToHalfSplit);
    let (q, k) = (HeadLayout::bshd(9, 6, 80), HeadLayout::bshd(9, 2, 80));
    let spec = |element| RotateSpec::new(&config, 2, 9, q, element).with_key(k, element);
    for (element, staged, workgroup) in [(ElementType::F32, 70, 96), (ElementType::F16, 36, 64)] {
        let plan = RopePlan::new(&spec(element), &Limits::default()).unwrap();
        let planned = first(&plan);
        assert_eq!(plan.dispatches(Placement::default()).unwrap().len(), 1);
        assert_eq!(planned.entry_point, "windows_two");
        // 6 heads of the query, then 2 of the key.
        assert_eq!(planned.workgroups(9), [8, 9, 2]);
        assert_eq!(planned.uniform[13..15], [6, 2]);
        assert_eq!(constant(&planned, "WINDOW"), 70);
        assert_eq!(constant(&planned, "STAGED"), staged);
        assert_eq!(constant(&planned, "WORKGROUP"), workgroup);
        let bound: Vec<_> = planned.bindings.iter().map(|b| b.resource).collect();
        assert_eq!(
            bound,
            [
                Resource::Uniform,
                Resource::Rows,
                Resource::Tensor(Operand::Query),
                Resource::Tensor(Operand::Key)
            ]
        );
        // First element and strides in elements, from the binding on.
        assert_eq!(planned.uniform[..4], [5, 9 * 480, 480, 80]);
        let shared = Placement {
            key: 1 << 16,
            shared: true,
            ..Placement::default()
        };
        let [planned] = &plan.dispatches(shared).unwrap()[..] else {
            panic!("one dispatch");
        };
        assert_eq!(planned.entry_point, "windows_one");
        assert_eq!(planned.workgroups(1), [8, 1, 2]);
        assert_eq!(
            u64::from(planned.uniform[4]),
            5 + (1 << 16) / element.bytes()
        );
    }
    let given = RopePlan::new(
        &spec(ElementType::F32).with_workgroup(17),
        &Limits::default(),
    );
    assert_eq!(constant(&first(&given.unwrap()), "WORKGROUP"), 17);
    // 16-bit pairs of a window that starts off the words share them with their neighbours, in every view: strides and offsets are even.
    let odd = RopeConfig::new(32)
        .with_rotary_dim(16)
        .with_rotary_offset(3);
    let layout = HeadLayout::bshd(4, 1, 32);
    let path = |key: HeadLayout, element| {
        let spec = RotateSpec::new(&odd, 1, 4, layout, element).with_key(key, element);
        let plan = RopePlan::new(&spec, &Limits::default()).unwrap();
        assert_eq!(plan.dispatches(Placement::default()).unwrap().len(), 1);
        first(&plan).entry_point
    };
    let off = layout.with_strides(0, 34, 34).with_offset(2);
    assert_eq!(path(layout, ElementType::Bf16), "windows_two");
    assert_eq!(path(off, ElementType::Bf16), "windows_two");
    assert_eq!(path(off, ElementType::F32), "words_two");
}

#[test]
fn windows_have_to_fit_a_workgroups_memory() {
    let moving = Pairing::InterleavedToHalfSplit;
    let plan = |dim: u32, pairing, element, limits: &Limits| {
        let config = RopeConfig::new(dim).with_pairing(pairing);
        let layout = HeadLayout::bshd(1, 1, dim);
        RopePlan::new(&RotateSpec::new(&config, 1, 1, layout, element), limits)
            .map(|plan| first(&plan).entry_point)
            .map_err(|error| error.to_string())
    };
    let fault = |needed: u32| {
        format!(
            "query: needs max_compute_workgroup_storage_size of {needed}, the device has 16352; request it in required_limits"
        )
    };
    let base = Limits::default();
    assert_eq!(
        plan(4088, moving, ElementType::F32, &base),
        Ok("windows_one")
    );
    assert_eq!(
        plan(4090, moving, ElementType::F32, &base),
        Err(fault(16_360))
    );
    // Two to a word, and a word more for windows that start within one.
    assert_eq!(
        plan(8174, moving, ElementType::F16, &base),
        Ok("windows_one")
    );
    assert_eq!(
        plan(8176, moving, ElementType::F16, &base),
        Err(fault(16_356))
    );
    // Pairs that stay take no such memory.
    assert_eq!(
        plan(8192, Pairing::HalfSplit, ElementType::F32, &base),
        Ok("quads_one")
    );
    let large = Limits {
        max_compute_workgroup_storage_size: 1 << 16,
        ..base
    };
    assert_eq!(
        plan(8192, moving, ElementType::F32, &large),
        Ok("windows_one")
    );
    // Pairs that move take such memory only where they do not start on 16 bytes, which their place decides.
    let config = RopeConfig::new(4096).with_pairing(moving);
    let layout = HeadLayout::bshd(1, 1, 4096);
    let spec = RotateSpec::new(&config, 1, 1, layout, ElementType::F16);
    let small = Limits {
        max_compute_workgroup_storage_size: 8192,
        ..base
    };
    let moved = RopePlan::new(&spec, &small).unwrap();
    let at = |query| {
        let placement = Placement {
            query,
            ..Placement::default()
        };
        moved.dispatches(placement).map(|all| all[0].entry_point)
    };
    assert_eq!(at(0), Ok("moves_one"));
    assert_eq!(at(16), Ok("moves_one"));
    assert_eq!(
        at(4).unwrap_err().to_string(),
        "query: needs max_compute_workgroup_storage_size of 8196, the device has 8192; request it in required_limits"
    );
    // The key by its own name.
    let config = RopeConfig::new(8200)
        .with_rotary_dim(8190)
        .with_rotary_offset(1);
    let layout = HeadLayout::bshd(1, 1, 8200);
    let spec = RotateSpec::new(&config, 1, 1, layout, ElementType::F32)
        .with_key(layout, ElementType::Bf16);
    assert!(
        RopePlan::new(&spec, &base)
            .unwrap_err()
            .to_string()
            .starts_with("key: needs max_compute_workgroup_storage_size of 16384")
    );
}

#[test]
fn lists_of_positions_have_to_fit_a_binding() {
    let pairs = [0, 1, 2].map(|axis| Pair {
        inv_freq: 1.0,
        axis,
    });
    let frequencies = Frequencies::from_pairs(pairs, 1.0).unwrap();
    let plan = TablePlan::new(&TableSpec::new(&frequencies), 10, &Limits::default()).unwrap();
    let order = AxisOrder::First { rows: 20 << 20 };
    let fault = plan.fill(PositionSource::PerAxis(order), 0..256 << 20, [0; 2]);
    // 40 Mi values and 10 more, of 4 bytes.
    assert_eq!(
        fault.unwrap_err().to_string(),
        "positions: needs max_storage_buffer_binding_size of 167772200, the device has 134217728; request it in required_limits"
    );
    let words = |angles| {
        let spec = TableSpec::new(&frequencies).with_angles(angles);
        TablePlan::new(&spec, 1, &Limits::default())
            .unwrap()
            .pairs()
            .len()
    };
    // 8 words for each pair, 4 for each of 148 powers of two.
    assert_eq!(
        (words(Angles::Exact), words(Angles::F32)),
        (24, 24 + 4 * 148)
    );
}

#[test]
fn windows_cover_every_head_once() {
    let config = RopeConfig::new(32);
    let limits = Limits {
        max_storage_buffer_binding_size: 1024,
        ..Limits::default()
    };
    for layout in [HeadLayout::bshd(13, 5, 32), HeadLayout::bhsd(13, 5, 32)] {
        let spec = RotateSpec::new(&config, 3, 13, layout, ElementType::F32).with_rows(Rows::One);
        let plan = RopePlan::new(&spec, &limits).unwrap();
        let dispatches = plan
            .dispatches(Placement {
                query: 36,
                ..Placement::default()
            })
            .unwrap();
        let mut heads = 0;
        for planned in &dispatches {
            let bound = &planned.bindings[2].bytes;
            assert!(bound.start.is_multiple_of(256) && bound.end - bound.start <= 1024);
            let constant = |name| {
                planned
                    .constants
                    .iter()
                    .find(|(n, _)| *n == name)
                    .unwrap()
                    .1
            };
            let [_, tokens, batch] = planned.workgroups(13);
            heads += planned.uniform[13] * tokens * batch * constant("QUERY_HEADS") as u32;
        }
        assert_eq!(heads, 3 * 13 * 5);
        // Tokens of later windows are left out when fewer are recorded.
        let tokens: u32 = dispatches
            .iter()
            .map(|planned| {
                let [x, y, z] = planned.workgroups(4);
                if x == 0 {
                    0
                } else {
                    y * z * planned.uniform[13]
                }
            })
            .sum();
        assert!(tokens > 0);
    }
}

#[test]
fn tables_are_planned_and_refused_by_name() {
    let frequencies = Frequencies::new(&RopeConfig::new(6)).unwrap();
    let plan = |rows| TablePlan::new(&TableSpec::new(&frequencies), rows, &Limits::default());
    assert_eq!(
        plan(0).unwrap_err().to_string(),
        "table rows: must be at least 1, got 0"
    );
    let table = plan(100).unwrap();
    assert_eq!(
        (table.width(), table.row_stride(), table.bytes()),
        (3, 4, 3216)
    );
    assert_eq!(
        plan(u32::MAX).unwrap_err().to_string(),
        "table: needs max_storage_buffer_binding_size of 137438953456, the device has 134217728; request it in required_limits"
    );
    let [ids] = &table
        .fill(PositionSource::Runs(1), 516..516 + 80, [0, 0])
        .unwrap()[..]
    else {
        panic!("one dispatch");
    };
    // Bound from an aligned start, and no further than it is read.
    assert_eq!(ids.bindings[3].bytes, 512..596);
    assert_eq!(ids.uniform[..6], [20, 3, 4, 1, 0, 1]);
    assert_eq!(ids.workgroups(7), [1, 7, 1]);
    assert_eq!(table.rows_served(PositionSource::Runs(30), 3), 90);
    assert_eq!(table.rows_served(PositionSource::Runs(30), u64::MAX), 100);
}

#[test]
fn scalings_give_the_published_values() {
    // Llama 3.1: r 128, theta 5e5, factor 8, 1 and 4, 8192; values of transformers' own function in f64.
    let llama = RopeConfig::new(128)
        .with_theta(5e5)
        .with_scaling(Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        });
    let own: Vec<_> = Frequencies::new(&llama).unwrap().inv_freq().collect();
    for (k, value) in [
        (28, 3.211_445_995e-3),
        (32, 5.248_461_610e-4),
        (34, 1.785_078_128e-4),
        (40, 3.428_102_196e-5),
        (63, 3.068_925_988e-7),
    ] {
        assert!((own[k] / value - 1.0).abs() < 5e-10, "{k}: {}", own[k]);
    }
    // Equal factors (Llama 4 Scout): a threshold and no division by zero.
    let scout = llama.with_scaling(Scaling::Llama3 {
        factor: 16.0,
        low_freq_factor: 1.0,
        high_freq_factor: 1.0,
        original_max_position_embeddings: 8192.0,
    });
    let plain: Vec<_> = Frequencies::new(&RopeConfig::new(128).with_theta(5e5))
        .unwrap()
        .inv_freq()
        .collect();
    for (scaled, plain) in Frequencies::new(&scout).unwrap().inv_freq().zip(plain) {
        let kept = 8192.0 * plain / std::f64::consts::TAU > 1.0;
        assert_eq!(scaled, if kept { plain } else { plain / 16.0 });
    }
    let linear = RopeConfig::new(4).with_scaling(Scaling::Linear { factor: 4.0 });
    assert_eq!(
        Frequencies::new(&linear)
            .unwrap()
            .inv_freq()
            .collect::<Vec<_>>(),
        [0.25, 0.0025]
    );
}

/// Shapes and limits far beyond any device: errors in no time, and no plan whose indices wrap.
#[test]
fn absurd_sizes_are_errors_or_plans_that_hold() {
    let config = RopeConfig::new(128);
    let unlimited = Limits {
        max_storage_buffer_binding_size: u64::MAX,
        ..Limits::default()
    };
    // Millions of windows.
    for tokens in [1 << 14, 1 << 18, u32::MAX] {
        let layout = HeadLayout::bshd(tokens, 1 << 20, 128);
        let spec =
            RotateSpec::new(&config, 1, tokens, layout, ElementType::F32).with_rows(Rows::One);
        let error = RopePlan::new(&spec, &Limits::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "query: must take at most 4096 dispatches; the device's largest binding or grid is too small for it, got 4097"
        );
    }
    // As many heads as u32 counts, twice: no sum of them fits u32.
    let two = RopeConfig::new(2);
    let layout = HeadLayout::bshd(1, u32::MAX, 2);
    let spec = RotateSpec::new(&two, 1, 1, layout, ElementType::F32)
        .with_key(layout, ElementType::F32)
        .with_heads_per_invocation(1);
    let dispatches = RopePlan::new(&spec, &unlimited)
        .unwrap()
        .dispatches(Placement::default())
        .unwrap();
    let heads = |resource| -> u64 {
        let of = dispatches
            .iter()
            .filter(|planned| planned.bindings[2].resource == resource);
        of.map(|planned| u64::from(planned.uniform[13])).sum()
    };
    assert_eq!(
        (
            heads(Resource::Tensor(Operand::Query)),
            heads(Resource::Tensor(Operand::Key))
        ),
        (u32::MAX.into(), u32::MAX.into())
    );
    // A token stride of 2^31 elements: no index of a dispatch may wrap, so each token has its own.
    let wide = HeadLayout::bshd(3, 1, 2).with_strides(0, 1 << 31, 2);
    let spec = RotateSpec::new(&two, 1, 3, wide, ElementType::F32);
    assert_eq!(
        RopePlan::new(&spec, &unlimited)
            .unwrap()
            .dispatches(Placement::default())
            .unwrap()
            .len(),
        3
    );
    // Rows of a table that no binding holds.
    let per_token = RotateSpec::new(
        &config,
        64,
        131_072,
        HeadLayout::bshd(131_072, 1, 128),
        ElementType::F16,
    )
    .with_rows(Rows::PerToken);
    assert!(matches!(
        RopePlan::new(&per_token, &Limits::default()),
        Err(RopeError::Limit {
            limit: "max_storage_buffer_binding_size",
            operand: "table",
            ..
        })
    ));
    // Limits that no device has.
    let spec = RotateSpec::new(&two, 1, 1, HeadLayout::bshd(1, 1, 2), ElementType::F32);
    for alignment in [0, 24, 512] {
        let odd = Limits {
            min_storage_buffer_offset_alignment: alignment,
            ..Limits::default()
        };
        assert_eq!(
            RopePlan::new(&spec, &odd).unwrap_err().to_string(),
            format!(
                "limits: min_storage_buffer_offset_alignment must be a power of two up to 256, got {alignment}"
            )
        );
    }
    // Pairs that are turned: some, and no more than there are; the fewest that were said, in whichever order.
    for pairs in [0, 2] {
        assert_eq!(
            spec.clone()
                .with_rotated_pairs(pairs)
                .validate()
                .unwrap_err()
                .to_string(),
            format!("rotated pairs: must be from 1 to 1, got {pairs}")
        );
    }
    let eight = RopeConfig::new(16);
    let spec = RotateSpec::new(&eight, 1, 1, HeadLayout::bshd(1, 1, 16), ElementType::F32);
    let pair = |k| Pair {
        inv_freq: if k < 5 { 1.0 } else { 0.0 },
        axis: 0,
    };
    let frequencies = Frequencies::from_pairs((0..8).map(pair), 1.0).unwrap();
    for (said, turned) in [(3, 3), (7, 5)] {
        let one = spec
            .clone()
            .with_rotated_pairs(said)
            .with_frequencies(&frequencies);
        let other = spec
            .clone()
            .with_frequencies(&frequencies)
            .with_rotated_pairs(said);
        assert_eq!(one, other);
        assert_eq!(one.rotated_pairs(), turned);
    }
    let nothing = Limits {
        max_storage_buffer_binding_size: 0,
        min_storage_buffer_offset_alignment: 1,
        max_compute_workgroups_per_dimension: 0,
        max_compute_invocations_per_workgroup: 0,
        max_compute_workgroup_storage_size: 0,
        max_storage_buffers_per_shader_stage: 0,
        cpu: true,
    };
    assert!(RopePlan::new(&spec, &nothing).is_err());
    let frequencies = Frequencies::new(&config).unwrap();
    let table = |rows, limits: &Limits| TablePlan::new(&TableSpec::new(&frequencies), rows, limits);
    assert!(table(1, &nothing).is_err());
    // The frequencies are bound as well: 64 of 32 bytes.
    let small = Limits {
        max_storage_buffer_binding_size: 1024,
        ..Limits::default()
    };
    assert_eq!(
        table(1, &small).unwrap_err().to_string(),
        "frequencies: needs max_storage_buffer_binding_size of 2048, the device has 1024; request it in required_limits"
    );
}

/// The CPU twin checks everything before it changes anything.
#[test]
fn the_twin_changes_nothing_where_something_is_wrong() {
    let config = RopeConfig::new(4);
    let layout = HeadLayout::bshd(1, 1, 4);
    let spec =
        RotateSpec::new(&config, 1, 1, layout, ElementType::F32).with_key(layout, ElementType::F32);
    let rows = [[0.0, 1.0]; 2];
    let mut query = [1.0_f32, 2.0, 3.0, 4.0];
    for key in [Some(&mut [1.0_f32, 2.0][..]), None] {
        assert!(wgpu_rope::reference::rotate(&spec, &rows, &mut query, key).is_err());
        assert_eq!(query, [1.0, 2.0, 3.0, 4.0]);
    }
    let meeting = RotateSpec::new(
        &config,
        1,
        1,
        HeadLayout::bshd(1, 3, 4).with_strides(0, 0, 0),
        ElementType::F32,
    );
    let frequencies = Frequencies::new(&config).unwrap();
    let oracle = wgpu_rope::reference::rotate_f64(
        &meeting,
        &TableSpec::new(&frequencies),
        (&[1]).into(),
        &query,
    );
    assert!(oracle.is_err());
}
