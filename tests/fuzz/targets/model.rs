//! What has to hold of every model that a reader accepts.

use wgpu_rope::config::{LayerRope, ModelRope, Scaling};
use wgpu_rope::{
    Angles, Direction, ElementType, Frequencies, HeadLayout, Limits, Placement, RopePlan,
    RotateSpec, TablePlan, TableSpec,
};

use crate::memory::bounded;

/// Frequencies of a head of 65,536 channels are 32,768 pairs, each of which takes, all steps held at once, 16 bytes twice as a pair, 32 as
/// a rate in turns and 32 twice as words; vectors that grow hold up to three times what they end with. 17 MiB at most.
const FREQUENCIES: u64 = 20 << 20;

/// A plan of one dispatch is some kB, and keeps what was asked for: that, the plan's own and what is checked are copies of the scaling's
/// divisors, 8 bytes for each pair in two lists at most.
fn plan_bytes(pairs: u32) -> u64 {
    (1 << 16) + 4 * 2 * 8 * u64::from(pairs)
}

/// Checks that a model is whole, and that its frequencies, tables and plans are made or refused.
pub fn check(model: &ModelRope) {
    assert!(!model.kinds.is_empty());
    assert!(model.kinds.iter().any(|kind| kind.rope.is_some()));
    for kind in &model.kinds {
        // A name may stand twice only where a file says so; the first is found then.
        assert_eq!(model.kind(&kind.name).expect("it is there").name, kind.name);
    }
    assert!(model.kind("no such kind").is_err());
    for (index, kind) in (0..).zip(&model.layers) {
        assert_eq!(
            model.layer(index).expect("it is there"),
            &model.kinds[*kind]
        );
    }
    let behind = u32::try_from(model.layers.len()).expect("there are at most 2^32 layers");
    let is_any = model.layers.is_empty() && model.kinds.len() == 1;
    assert_eq!(model.layer(behind).is_ok(), is_any);
    let first = model.kinds.iter().find_map(|kind| kind.rope.as_ref());
    if let Ok(only) = model.only() {
        assert_eq!(first, Some(only));
    }
    for rope in model.kinds.iter().filter_map(|kind| kind.rope.as_ref()) {
        // A reader hands out nothing that is not valid.
        assert_eq!(rope.config.validate(), Ok(()));
        assert!(rope.softmax_factor.is_finite());
    }
    for rule in model.kinds.iter().filter_map(|kind| kind.query_scale) {
        // As many values as there are steps up to here, so few positions.
        let _ = rule.up_to(4096);
    }
    // All kinds take the same way, and there may be hundreds.
    let ropes = model.kinds.iter().filter_map(|kind| kind.rope.as_ref());
    for rope in ropes.take(2) {
        bounded("the frequencies", FREQUENCIES, || frequencies(rope));
        let most = plan_bytes(rope.config.rotary_dim() / 2);
        bounded("a plan", most, || plan(rope));
        grid(rope);
    }
}

/// Frequencies of the shortest context, and of longer ones where they differ.
fn frequencies(rope: &LayerRope) {
    let config = &rope.config;
    let pairs = config.rotary_dim() / 2;
    let own = config
        .axes()
        .inv_freq_order(pairs, pairs as usize)
        .expect("there is an order of all pairs");
    assert_eq!(own.len(), pairs as usize);
    assert!(own.iter().all(|&place| place < own.len()));
    let lengths: &[u64] = match config.scaling() {
        Scaling::Dynamic { .. } | Scaling::LongRope { .. } => &[0, 1 << 17, u64::MAX],
        _ => &[0],
    };
    for &length in lengths {
        assert!(Frequencies::same_for_lengths(config, length, length));
        let Ok(frequencies) = Frequencies::for_length(config, length) else {
            continue;
        };
        assert_eq!(frequencies.len(), pairs as usize);
        assert!((1..=16).contains(&frequencies.axes()));
        for pair in frequencies.pairs() {
            let magnitude = pair.inv_freq.abs();
            assert!(magnitude == 0.0 || (2_f64.powi(-64)..=65_536.0).contains(&magnitude));
            assert!(pair.axis < frequencies.axes());
        }
        let spec = TableSpec::new(&frequencies)
            .with_angles(Angles::F32)
            .with_direction(Direction::Inverse);
        let plan = TablePlan::new(&spec, 3, &Limits::default()).expect("three rows fit a binding");
        assert_eq!(plan.width(), pairs);
    }
}

/// A plan for a small tensor of both kinds of elements: refused only where a window does not fit a workgroup's memory.
fn plan(rope: &LayerRope) {
    let config = &rope.config;
    for element in [ElementType::F32, ElementType::Bf16] {
        // Heads of a tensor start on whole words.
        let layout = HeadLayout::bshd(2, 3, config.head_dim().next_multiple_of(2));
        let layout = HeadLayout {
            head_dim: config.head_dim(),
            ..layout
        };
        let spec = RotateSpec::new(config, 1, 2, layout, element);
        assert_eq!(spec.validate(), Ok(()));
        let limits = Limits {
            max_compute_workgroup_storage_size: 1 << 18,
            ..Limits::default()
        };
        let plan = RopePlan::new(&spec, &limits).expect("a small tensor is planned");
        let dispatches = plan.dispatches(Placement::default());
        assert_eq!(dispatches.expect("it is one dispatch").len(), 1);
    }
}

/// Positions of an image of a vision model.
fn grid(rope: &LayerRope) {
    let Some(positions) = &rope.grid else {
        return;
    };
    let Ok(grid) = positions.grid(336, 224) else {
        return;
    };
    let patches = u64::from(grid.patches().expect("the grid was checked"));
    let axes = positions.axes.len();
    // Three numbers of 4 bytes, then as many as there are axes, in vectors that grow.
    let most = patches * (12 + 12 * axes as u64) + 4096;
    let rows = bounded("a grid", most, || positions.rows(&grid)).expect("the grid was checked");
    let axes = u32::try_from(axes).expect("there are three axes at most");
    assert_eq!(rows.as_rows().rows(axes), patches);
}
