//! Layers planned without a GPU: what is refused, by name; which combinations take which entry point, how many dispatches and which
//! bindings.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

use wgpu_rope::{
    Direction, ElementType, Frequencies, HeadLayout, LAYER_WGSL, Limits, Norm, NormWeight, Operand,
    Place, Placement, Places, PlannedDispatch, QueryFactor, ROTATE_WGSL, Resource, RopeConfig,
    RopePlan, RotateSpec, Rows, Storage, TablePlan, TableSpec, TensorView,
};

const F32: ElementType = ElementType::F32;
const F16: ElementType = ElementType::F16;
const DIM: u32 = 128;
const TOKENS: u32 = 16;

fn layout(heads: u32) -> HeadLayout {
    HeadLayout::bshd(TOKENS, heads, DIM)
}

fn view(heads: u32, storage: impl Into<Storage>) -> TensorView {
    TensorView::new(layout(heads), storage)
}

fn pages(storage: impl Into<Storage>) -> TensorView {
    TensorView::cache(HeadLayout::bshd(16, 2, DIM), 64, 16, storage)
}

fn spec() -> RotateSpec {
    RotateSpec::new(&RopeConfig::new(DIM), 1, TOKENS, layout(8), F32)
}

fn with_key() -> RotateSpec {
    spec().with_key(layout(2), F32)
}

fn fault(spec: &RotateSpec) -> String {
    RopePlan::new(spec, &Limits::default())
        .unwrap_err()
        .to_string()
}

fn plan(spec: &RotateSpec) -> RopePlan {
    RopePlan::new(spec, &Limits::default()).unwrap()
}

fn places<const N: usize>(given: [(Operand, u32, u64); N]) -> Places {
    given
        .into_iter()
        .map(|(operand, buffer, offset)| (operand, Place { buffer, offset }))
        .chain([(Operand::Slots, Place::default())])
        .collect()
}

/// A message's parts have to be in it, and nothing may be planned.
fn refused(spec: &RotateSpec, places: Places, message: &str) {
    let error = plan(spec).dispatches(places).unwrap_err().to_string();
    assert_eq!(error, message);
}

#[test]
fn layers_are_refused_by_name() {
    let key_to = |view| fault(&with_key().with_key_to(view));
    assert_eq!(
        key_to(view(3, F32)),
        "key destination: must have the heads and head_dim of its source, [2, 128], got [3, 128]"
    );
    assert_eq!(
        key_to(TensorView::new(HeadLayout::bshd(TOKENS, 2, 64), F32)),
        "key destination: must have the heads and head_dim of its source, [2, 128], got [2, 64]"
    );
    assert_eq!(
        fault(&spec().with_key_to(view(2, F32))),
        "key: must be given where it has a destination or a norm, got none"
    );
    assert_eq!(
        fault(&spec().with_value_norm(Norm::rms(1e-6, NormWeight::None))),
        "value: must be given where it has a destination or a norm, got none"
    );
    assert_eq!(
        fault(&with_key().with_value(layout(2), F32)),
        "value: must have a destination or a norm: it is not rotated, got neither"
    );
    // Two heads of a destination in one place.
    let strides = layout(2).with_strides(0, 256, 64);
    assert_eq!(
        key_to(TensorView::new(strides, F32)),
        "key destination: two heads of the view must not share an element (was the layout made for as many tokens?), got [1, 16, 2, 128] with strides 0, 256, 64"
    );
    let transposed = |stride| {
        TensorView::new(layout(2).with_strides(0, 1, 128 * 16), F32).with_channel_stride(stride)
    };
    assert!(key_to(transposed(15)).starts_with("key destination: two heads of the view"));
    assert!(RopePlan::new(&with_key().with_key_to(transposed(16)), &Limits::default()).is_ok());
    assert_eq!(
        key_to(transposed(0)),
        "key destination: channel stride must be at least 1, and 1 where channels are quantised, got 0"
    );
    assert_eq!(
        key_to(view(2, Storage::Int8).with_channel_stride(2)),
        "key destination: channel stride must be at least 1, and 1 where channels are quantised, got 2"
    );
    assert_eq!(
        key_to(view(2, Storage::Q8_0).accumulated()),
        "key destination: must be of a floating-point type to be accumulated, got q8_0"
    );
    assert_eq!(
        key_to(view(2, F16).with_first_slot(5)),
        "key destination: a first slot is a cache's (TensorView::cache), got 5"
    );
    for (view, got) in [
        (view(8, F32).with_channel_stride(2), "2, false"),
        (view(8, F32).accumulated(), "1, true"),
    ] {
        let spec = RotateSpec::new(
            &RopeConfig::new(DIM),
            1,
            TOKENS,
            HeadLayout::bshd(TOKENS, 8, DIM).with_strides(0, 8 * 256, 256),
            F32,
        );
        let wide = TensorView::new(spec.query().layout(), F32);
        let from = if got.starts_with('2') {
            wide.with_channel_stride(2)
        } else {
            view
        };
        assert_eq!(
            fault(&spec.with_query_from(from)),
            format!("query: a channel stride and accumulation are a destination's, got {got}")
        );
    }
}

#[test]
fn quantised_layers_are_refused_by_name() {
    let small = |dim: u32, storage: Storage| {
        let layout = HeadLayout::bshd(TOKENS, 2, dim);
        let spec = RotateSpec::new(&RopeConfig::new(dim), 1, TOKENS, layout, F32);
        (spec, TensorView::new(layout, storage))
    };
    let (narrow, to) = small(48, Storage::Q8_0);
    assert_eq!(
        fault(&narrow.with_query_to(to)),
        "query destination: head_dim of q8_0 must be a multiple of 32, got 48"
    );
    let to =
        |layout, storage: Storage| fault(&with_key().with_key_to(TensorView::new(layout, storage)));
    for (layout, rule) in [
        (
            layout(2).with_offset(16),
            "offset of q8_0 must be a multiple of 32, got 16",
        ),
        (
            layout(2).with_strides(0, 272, 128),
            "token stride of q8_0 must be a multiple of 32, got 272",
        ),
        (
            layout(2).with_strides(0, 320, 144),
            "head stride of q8_0 must be a multiple of 32, got 144",
        ),
    ] {
        assert_eq!(
            to(layout, Storage::Q8_0),
            format!("key destination: {rule}")
        );
    }
    for (layout, rule) in [
        (
            layout(2).with_offset(64),
            "offset of int8 must be a multiple of 128, got 64",
        ),
        (
            layout(2).with_strides(0, 320, 128),
            "token stride of int8 must be a multiple of 128, got 320",
        ),
        (
            layout(2).with_strides(0, 512, 192),
            "head stride of int8 must be a multiple of 128, got 192",
        ),
    ] {
        assert_eq!(
            to(layout, Storage::Int8),
            format!("key destination: {rule}")
        );
    }
    let two = |view: TensorView| {
        let spec = RotateSpec::new(&RopeConfig::new(DIM), 2, TOKENS, layout(8), F32);
        fault(&spec.with_key(layout(2), F32).with_key_to(view))
    };
    assert_eq!(
        two(TensorView::new(
            layout(2).with_strides(5000, 256, 128),
            Storage::Q8_0
        )),
        "key destination: batch stride of q8_0 must be a multiple of 32, got 5000"
    );
    // A stride that is never taken need not be whole.
    let once = with_key().with_key_to(TensorView::new(
        layout(2).with_strides(5000, 256, 128),
        Storage::Q8_0,
    ));
    assert!(RopePlan::new(&once, &Limits::default()).is_ok());
    // Scales of int8 are operands of their own.
    let int8 = with_key().with_key_to(view(2, Storage::Int8));
    let operands = int8.operands().unwrap();
    assert_eq!(
        operands,
        [
            (Operand::Query, 16 * 8 * 128 * 4),
            (Operand::Key, 16 * 2 * 128 * 4),
            (Operand::KeyTo, 16 * 2 * 128),
            (Operand::KeyToScales, 16 * 2 * 4),
        ]
    );
    refused(
        &int8,
        places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::KeyTo, 2, 0),
        ]),
        "key destination scales: is planned and must have a place, got none",
    );
}

#[test]
fn norms_factors_and_caches_are_refused_by_name() {
    for (epsilon, got) in [
        (0.0, "0"),
        (-1e-6, "-0.000001"),
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (1e-31, "0.0000000000000000000000000000001"),
    ] {
        assert_eq!(
            fault(&spec().with_query_norm(Norm::rms(epsilon, NormWeight::None))),
            format!("query norm: epsilon must be from 2^-100 to 2^100, got {got}")
        );
    }
    for factor in [f32::NAN, f32::INFINITY] {
        assert_eq!(
            fault(&spec().with_query_factor(QueryFactor::Constant(factor))),
            format!("query factor: must be finite, got {factor}")
        );
    }
    for (count, size) in [(0, 16), (16, 0), (1 << 31, 1), (1 << 16, 1 << 16)] {
        let cache = TensorView::cache(HeadLayout::bshd(16, 2, DIM), count, size, F32);
        assert_eq!(
            fault(&with_key().with_key_to(cache)),
            format!(
                "key destination: pages times page_size must be from 1 to 2^31 - 1 slots, got {count} times {size}"
            )
        );
    }
    // Sizes that fit no integer.
    let far = HeadLayout::bshd(1, 1, 2).with_offset(1 << 63);
    let config = RopeConfig::new(2);
    let int8 = RotateSpec::new(&config, 1, 1, far, F32)
        .with_query_from(TensorView::new(far, Storage::Int8));
    assert_eq!(
        fault(&int8),
        "query scales: byte offsets must fit u64, got an overflow"
    );
    let wide = HeadLayout::bshd(1, u32::MAX, u32::MAX);
    let norm = Norm::rms(1e-6, NormWeight::Scale(F32)).over_all_heads();
    let int8 = RotateSpec::new(&config, 1, 1, HeadLayout::bshd(1, 1, 2), F32)
        .with_value_from(TensorView::new(wide, Storage::Int8))
        .with_value_norm(norm);
    assert_eq!(
        fault(&int8),
        "value weight: bytes must fit u64, got an overflow"
    );
    let slots = with_key().with_key_to(pages(F16));
    for (operand, message) in [
        (Operand::Slots, "slots: must fit u32, got an overflow"),
        (
            Operand::KeyTo,
            "key destination: byte offsets must fit u64, got an overflow",
        ),
    ] {
        let offset = |of| if of == operand { u64::MAX - 3 } else { 0 };
        let places: Places = (0..)
            .zip([Operand::Query, Operand::Key, Operand::KeyTo, Operand::Slots])
            .map(|(buffer, of)| {
                let offset = offset(of);
                (of, Place { buffer, offset })
            })
            .collect();
        assert_eq!(
            plan(&slots).dispatches(places).unwrap_err().to_string(),
            message
        );
    }
    // Also where a dispatch reads no slots: the query goes by itself, for the norm of the key is of another kind.
    let apart = with_key()
        .with_query_norm(Norm::rms(1e-6, NormWeight::None).over_all_heads())
        .with_key_norm(Norm::rms(1e-6, NormWeight::None))
        .with_key_to(pages(F16));
    let far = Place {
        buffer: 3,
        offset: u64::MAX - 3,
    };
    let places: Places = (0..)
        .zip([Operand::Query, Operand::Key, Operand::KeyTo])
        .map(|(buffer, of)| (of, Place { buffer, offset: 0 }))
        .chain([(Operand::Slots, far)])
        .collect();
    assert_eq!(
        plan(&apart).dispatches(places).unwrap_err().to_string(),
        "slots: must fit u32, got an overflow"
    );
    // What a device has not.
    let limits = Limits {
        max_storage_buffers_per_shader_stage: 4,
        ..Limits::default()
    };
    let layer = with_key().with_key_to(pages(F16));
    assert_eq!(
        RopePlan::new(&layer, &limits).unwrap_err().to_string(),
        "layer: needs max_storage_buffers_per_shader_stage of 8, the device has 4; request it in required_limits"
    );
    assert!(RopePlan::new(&with_key(), &limits).is_ok());
    // A cache is bound whole.
    let limits = Limits {
        max_storage_buffer_binding_size: 64 * 16 * 2 * 128 * 2 - 4,
        ..Limits::default()
    };
    assert_eq!(
        RopePlan::new(&layer, &limits).unwrap_err().to_string(),
        "key destination: needs max_storage_buffer_binding_size of 524288, the device has 524284; request it in required_limits"
    );
    // Sums of squares have to fit a workgroup's memory.
    let limits = Limits {
        max_compute_invocations_per_workgroup: 1024,
        ..Limits::default()
    };
    let narrow = RotateSpec::new(
        &RopeConfig::new(16),
        1,
        1,
        HeadLayout::bshd(1, 512, 16),
        F32,
    )
    .with_query_norm(Norm::rms(1e-6, NormWeight::None))
    .with_workgroup(1024);
    assert_eq!(
        RopePlan::new(&narrow, &limits).unwrap_err().to_string(),
        "workgroup: needs max_compute_workgroup_storage_size of 32768, the device has 16352; request it in required_limits"
    );
    // A head has to fit, channel by channel.
    let wide = 4096;
    let layout = HeadLayout::bshd(1, 1, wide);
    let spec = RotateSpec::new(&RopeConfig::new(wide), 1, 1, layout, F32)
        .with_query_to(TensorView::new(layout, Storage::Int8));
    assert_eq!(
        fault(&spec),
        "head_dim: needs max_compute_workgroup_storage_size of 34816, the device has 16352; request it in required_limits"
    );
}

#[test]
fn places_are_refused_by_name() {
    let elsewhere = with_key().with_key_to(view(2, F32));
    refused(
        &elsewhere,
        places([(Operand::Query, 0, 0), (Operand::Key, 1, 0)]),
        "key destination: is planned and must have a place, got none",
    );
    refused(
        &elsewhere,
        places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::KeyTo, 1, 16),
        ]),
        "key destination: must not share an element with the key in the same buffer, got views from bytes 16 and 0 on",
    );
    refused(
        &elsewhere,
        places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::KeyTo, 0, 4096),
        ]),
        "key destination: must not share an element with the query in the same buffer, got views from bytes 4096 and 0 on",
    );
    refused(
        &elsewhere,
        places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::KeyTo, 2, 2),
        ]),
        "key destination: byte offset must be a multiple of 4, got 2",
    );
    // A tensor may go to its own place, and beside others.
    for place in [(Operand::KeyTo, 1, 0), (Operand::KeyTo, 1, 16 * 256 * 4)] {
        let given = places([(Operand::Query, 0, 0), (Operand::Key, 1, 0), place]);
        assert_eq!(plan(&elsewhere).dispatches(given).unwrap().len(), 1);
    }
    // But not to another type there.
    refused(
        &with_key().with_key_to(view(2, F16)),
        places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::KeyTo, 1, 0),
        ]),
        "key destination: must not share an element with the key in the same buffer, got views from bytes 0 and 0 on",
    );
    // Nor to slots of its own buffer, where another token may be read, nor to other channels.
    let cache = TensorView::cache(layout(2), 1, TOKENS, F32);
    let spread = layout(2).with_strides(0, 512, 256);
    for spec in [
        with_key().with_key_to(cache),
        spec()
            .with_key(spread, F32)
            .with_key_to(TensorView::new(spread, F32).with_channel_stride(2)),
    ] {
        refused(
            &spec,
            places([
                (Operand::Query, 0, 0),
                (Operand::Key, 1, 0),
                (Operand::KeyTo, 1, 0),
            ]),
            "key destination: must not share an element with the key in the same buffer, got views from bytes 0 and 0 on",
        );
    }
    // Key and value to the same slots.
    refused(
        &with_key()
            .with_value(layout(2), F32)
            .with_key_to(pages(F16))
            .with_value_to(pages(F16)),
        places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::Value, 2, 0),
            (Operand::KeyTo, 3, 0),
            (Operand::ValueTo, 3, 0),
        ]),
        "value destination: must not share an element with the key destination in the same buffer, got views from bytes 0 and 0 on",
    );
    // Weights.
    let norm = Norm::rms(1e-6, NormWeight::Scale(F32));
    let normed = with_key().with_query_norm(norm).with_key_norm(norm);
    let at = |key: (u32, u64), query: (u32, u64)| {
        places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::QueryWeight, query.0, query.1),
            (Operand::KeyWeight, key.0, key.1),
        ])
    };
    refused(
        &normed,
        at((2, 0), (1, 2 << 20)),
        "query weight: must not be in the buffer of the key, got that buffer",
    );
    refused(
        &normed,
        at((1, 1 << 20), (2, 0)),
        "key weight: must not be in the buffer of the key, got that buffer",
    );
    // In two buffers, and the same weights for both.
    assert_eq!(
        plan(&normed).dispatches(at((3, 0), (2, 0))).unwrap().len(),
        2
    );
    assert_eq!(
        plan(&normed).dispatches(at((2, 0), (2, 0))).unwrap().len(),
        1
    );
}

/// What a dispatch binds from 3 on: operands, in order.
fn tensors(plan: &RopePlan, given: Places) -> Vec<(&'static str, Vec<Operand>)> {
    let dispatches = plan.dispatches(given).unwrap();
    dispatches
        .iter()
        .map(|planned| {
            assert_eq!(planned.wgsl(), LAYER_WGSL);
            let storage = planned
                .bindings
                .iter()
                .filter(|bound| bound.resource != Resource::Uniform);
            assert_eq!(storage.count(), 8);
            let mut operands = Vec::new();
            for (n, bound) in (0..).zip(&planned.bindings) {
                assert_eq!(bound.binding, n);
                match bound.resource {
                    Resource::Tensor(operand) if operand.is_weight() => assert_eq!(n, 2),
                    Resource::Tensor(operand) => {
                        assert!(n >= 3 && n - 3 == u32::try_from(operands.len()).unwrap());
                        operands.push(operand);
                    }
                    Resource::Unused => assert!(n >= 3),
                    Resource::Uniform => assert_eq!(n, 0),
                    Resource::Rows => assert!(n == 1 || n == 2),
                    other => panic!("{other:?}"),
                }
            }
            (planned.entry_point, operands)
        })
        .collect()
}

/// A line of the guide to paged caches: what a combination takes.
fn line(what: &str, dispatches: &[PlannedDispatch]) -> String {
    let cells = dispatches.iter().map(|planned| {
        let names = planned
            .bindings
            .iter()
            .filter_map(|bound| match bound.resource {
                Resource::Tensor(operand) if operand.is_weight() => Some((true, "weights")),
                Resource::Tensor(operand) => Some((false, operand.name())),
                _ => None,
            });
        // Weights stand last, though they are bound before the tensors.
        let mut names: Vec<_> = names.collect();
        names.sort_by_key(|(is_weights, _)| *is_weights);
        let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
        format!("`{}`: {}", planned.entry_point, names.join(", "))
    });
    let cells = cells.collect::<Vec<_>>().join("; ");
    format!("| {what} | {} | {cells} |", dispatches.len())
}

/// Which entry point a combination takes, in how many dispatches, with which tensors at bindings 3 and on; and that the guide says so.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn combinations_take_these_dispatches() {
    use Operand::{
        Key, KeyTo, KeyToScales, KeyWeight, Query, QueryTo, QueryWeight, Value, ValueTo,
    };
    let apart = |spec: &RotateSpec| -> Places {
        let operands = spec.operands().unwrap();
        let weight = |operand: Operand| matches!(operand, QueryWeight | KeyWeight);
        let places = (0..).zip(operands).map(|(n, (operand, _))| {
            let place = if weight(operand) {
                Place {
                    buffer: 99,
                    offset: if operand == KeyWeight { 512 } else { 0 },
                }
            } else {
                Place {
                    buffer: n,
                    offset: 0,
                }
            };
            (operand, place)
        });
        places.chain([(Operand::Slots, Place::default())]).collect()
    };
    let norm = Norm::rms(1e-6, NormWeight::Scale(F32));
    let normed = with_key().with_query_norm(norm).with_key_norm(norm);
    let valued = with_key().with_value(layout(2), F32);
    let contiguous =
        |storage: ElementType| TensorView::cache(HeadLayout::bhsd(512, 2, DIM), 4, 512, storage);
    let append = |to: TensorView| valued.clone().with_key_to(to).with_value_to(to);
    let packed = |first, heads| HeadLayout::packed(TOKENS, 12, first, heads, DIM);
    let of_packed = RotateSpec::new(&RopeConfig::new(DIM), 1, TOKENS, packed(0, 8), F16)
        .with_key(packed(8, 2), F16)
        .with_value(packed(10, 2), F16)
        .with_key_to(pages(F16))
        .with_value_to(pages(F16));
    // K and V take turns within a page: [pages, 16, K and V, 2, 128].
    let turns = |first: u64| {
        let layout = HeadLayout::bshd(16, 2, DIM)
            .with_strides(16 * 512, 512, 128)
            .with_offset(first * 256);
        TensorView::cache(layout, 64, 16, F16)
    };
    let row = |dim, offset| {
        let layout = HeadLayout::bshd(1, 1, dim)
            .with_strides(576, 576, 576)
            .with_offset(offset);
        TensorView::cache(layout, 1024, 1, F16)
    };
    let from_row = |dim, offset| {
        HeadLayout::bshd(TOKENS, 1, dim)
            .with_strides(0, 576, 576)
            .with_offset(offset)
    };
    let mla = RotateSpec::new(
        &RopeConfig::new(64),
        1,
        TOKENS,
        HeadLayout::bshd(TOKENS, 16, 64)
            .with_strides(0, 16 * 192, 192)
            .with_offset(128),
        F16,
    )
    .with_key(from_row(64, 512), F16)
    .with_value(from_row(512, 0), F16)
    .with_key_to(row(64, 512))
    .with_value_to(row(512, 0));
    let shift = spec().with_query_from(pages(F16)).with_rows(Rows::One);
    let backward = with_key()
        .with_query_to(view(8, F32).accumulated())
        .with_key_to(view(2, F32).accumulated());
    let mixed = with_key()
        .with_query_norm(norm)
        .with_key_norm(Norm::rms(1e-6, NormWeight::Scale(F16)));

    type Row = (
        &'static str,
        RotateSpec,
        Option<Places>,
        Vec<(&'static str, Vec<Operand>)>,
    );
    let table: Vec<Row> = vec![
        (
            "Q and K to other tensors",
            with_key()
                .with_query_to(view(8, F32))
                .with_key_to(view(2, F32)),
            None,
            vec![("octets", vec![Query, Key, QueryTo, KeyTo])],
        ),
        (
            "QK-norm",
            normed.clone(),
            None,
            vec![("octets", vec![Query, Key])],
        ),
        (
            "norm of Q over all heads",
            with_key().with_query_norm(norm.over_all_heads()),
            None,
            vec![("channels", vec![Query, Key])],
        ),
        (
            "factor of Q",
            spec().with_query_factor(QueryFactor::Constant(0.1)),
            None,
            vec![("octets", vec![Query])],
        ),
        (
            "K and V to a contiguous cache, f16",
            append(contiguous(F16)),
            None,
            vec![("octets", vec![Query, Key, Value, KeyTo, ValueTo])],
        ),
        (
            "K and V to pages, f16",
            append(pages(F16)),
            None,
            vec![("octets", vec![Query, Key, Value, KeyTo, ValueTo])],
        ),
        (
            "QK-norm, K and V to pages, f16",
            normed
                .with_value(layout(2), F32)
                .with_key_to(pages(F16))
                .with_value_to(pages(F16)),
            None,
            vec![("octets", vec![Query, Key, Value, KeyTo, ValueTo])],
        ),
        (
            "K and V to pages, `q8_0`",
            append(pages(Storage::Q8_0)),
            None,
            vec![("channels", vec![Query, Key, Value, KeyTo, ValueTo])],
        ),
        (
            "K and V to pages, `int8`",
            append(pages(Storage::Int8)),
            None,
            vec![
                ("octets", vec![Query]),
                (
                    "channels",
                    vec![
                        Key,
                        Value,
                        KeyTo,
                        ValueTo,
                        KeyToScales,
                        Operand::ValueToScales,
                    ],
                ),
            ],
        ),
        (
            "K and V to pages, `int8`; Q, K and V from one buffer",
            append(pages(Storage::Int8)).with_query_from(view(8, F32)),
            Some(places([
                (Query, 0, 0),
                (Key, 0, 65_536),
                (Value, 0, 81_920),
                (KeyTo, 1, 0),
                (ValueTo, 2, 0),
                (KeyToScales, 3, 0),
                (Operand::ValueToScales, 4, 0),
            ])),
            // Parts of a buffer are bound as one where they would be too many.
            vec![(
                "channels",
                vec![Query, KeyTo, ValueTo, KeyToScales, Operand::ValueToScales],
            )],
        ),
        (
            "K and V to pages in one buffer, f16",
            valued.clone().with_key_to(turns(0)).with_value_to(turns(1)),
            Some(places([
                (Query, 0, 0),
                (Key, 1, 0),
                (Value, 2, 0),
                (KeyTo, 3, 0),
                (ValueTo, 3, 0),
            ])),
            vec![("octets", vec![Query, Key, Value, KeyTo])],
        ),
        (
            "K and V to pages, f16; Q, K and V packed in one tensor",
            of_packed,
            Some(places([
                (Query, 0, 0),
                (Key, 0, 0),
                (Value, 0, 0),
                (KeyTo, 1, 0),
                (ValueTo, 2, 0),
            ])),
            vec![("octets", vec![Query, KeyTo, ValueTo])],
        ),
        (
            "MLA: latent and rotated key to one row of a cache",
            mla,
            Some(places([
                (Query, 0, 0),
                (Key, 1, 0),
                (Value, 1, 0),
                (KeyTo, 2, 0),
                (ValueTo, 2, 0),
            ])),
            vec![("octets", vec![Query, Key, KeyTo])],
        ),
        (
            "context shift within a cache",
            shift,
            None,
            vec![("octets", vec![Query])],
        ),
        (
            "context shift to other slots",
            spec()
                .with_query_from(pages(F16))
                .with_query_to(pages(F16).with_first_slot(TOKENS)),
            None,
            vec![("octets", vec![Query, QueryTo])],
        ),
        (
            "backward, Q and K added to gradients",
            backward,
            None,
            vec![("octets", vec![Query, Key, QueryTo, KeyTo])],
        ),
        (
            "QK-norm with weights of two types",
            mixed,
            None,
            vec![("octets", vec![Query]), ("octets", vec![Key])],
        ),
    ];
    let mut lines = Vec::new();
    for (what, spec, given, expected) in table {
        let given = given.unwrap_or_else(|| apart(&spec));
        let plan = plan(&spec);
        assert_eq!(tensors(&plan, given.clone()), expected, "{what}");
        lines.push(line(what, &plan.dispatches(given).unwrap()));
    }
    // The guide's table, header and rule apart.
    let guide = include_str!("../src/guides/paged.md");
    let told = guide
        .lines()
        .skip_while(|line| !line.starts_with("| combination |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    assert_eq!(
        told.collect::<Vec<_>>(),
        lines,
        "the table of src/guides/paged.md should be:\n{}",
        lines.join("\n")
    );
}

/// Weights are bound together, but only as far as a binding reaches.
#[test]
fn weights_that_are_far_apart_take_two_dispatches() {
    let norm = Norm::rms(1e-6, NormWeight::Scale(F32));
    let spec = with_key().with_query_norm(norm).with_key_norm(norm);
    let dispatches = |apart: u64| {
        let given = places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::QueryWeight, 2, 256),
            (Operand::KeyWeight, 2, 256 + apart),
        ]);
        plan(&spec).dispatches(given).unwrap()
    };
    let most = Limits::default().max_storage_buffer_binding_size;
    for (apart, expected) in [
        (512, &[[256, 256 + 1024]][..]),
        // 256 of them are before the first.
        (most - 512, &[[256, 256 + most]]),
        (most - 256, &[[256, 768], [most, most + 512]]),
        (2 * most, &[[256, 768], [256 + 2 * most, 768 + 2 * most]]),
    ] {
        let bound: Vec<_> = dispatches(apart)
            .iter()
            .map(|planned| &planned.bindings[2].bytes)
            .map(|bytes| [bytes.start, bytes.end])
            .collect();
        assert_eq!(bound, expected, "{apart}");
    }
}

/// A rotation in place is what it is without all of this.
#[test]
fn plain_rotations_have_no_part_in_it() {
    for spec in [spec(), with_key(), with_key().with_rows(Rows::PerToken)] {
        // All the same said in other words.
        let views = spec.clone().with_query_from(view(8, F32));
        let views = match spec.key() {
            Some(key) => views.with_key_from(*key),
            None => views,
        }
        .with_query_factor(QueryFactor::One);
        assert_eq!(views, spec);
        let dispatches = plan(&spec).dispatches(Placement::default()).unwrap();
        assert_eq!(dispatches.len(), 1);
        let planned = &dispatches[0];
        assert_eq!(planned.wgsl(), ROTATE_WGSL);
        assert_eq!(
            planned.entry_point,
            if spec.key().is_some() {
                "quads_two"
            } else {
                "quads_one"
            }
        );
        let storage = planned
            .bindings
            .iter()
            .filter(|bound| matches!(bound.resource, Resource::Rows | Resource::Tensor(_)));
        assert!(storage.count() <= 3);
        assert!(planned.bindings.len() <= 4);
        assert_eq!(spec.slots_needed(), 0);
    }
}

#[test]
fn slots_and_scales_have_places_in_the_table() {
    let frequencies = Frequencies::new(&RopeConfig::new(DIM)).unwrap();
    let scale = wgpu_rope::QueryScale::llama4(8192, 0.1, 65_535).unwrap();
    let table = TableSpec::new(&frequencies)
        .with_direction(Direction::Forward)
        .with_slots(TOKENS)
        .with_query_scale(scale);
    let table = TablePlan::new(&table, TOKENS, &Limits::default()).unwrap();
    let spec = with_key()
        .with_key_to(pages(F16))
        .with_query_factor(QueryFactor::PerRow);
    assert_eq!(spec.slots_needed(), TOKENS);
    refused(
        &spec,
        places([
            (Operand::Query, 0, 0),
            (Operand::Key, 1, 0),
            (Operand::KeyTo, 2, 0),
        ]),
        "query factors by row: is planned and must have a place, got none",
    );
    let given = places([
        (Operand::Query, 0, 0),
        (Operand::Key, 1, 0),
        (Operand::KeyTo, 2, 0),
    ])
    .with_table(&table);
    let planned = &plan(&spec).dispatches(given).unwrap()[0];
    let rows = &planned.bindings[1];
    assert_eq!(rows.resource, Resource::Rows);
    // All of the table: the scales are at its end.
    assert_eq!(rows.bytes, 0..table.bytes());
    let key_to = 24 + 8;
    assert_eq!(
        u64::from(planned.uniform[key_to + 4]) * 4,
        table.slots_start()
    );
    assert_eq!(
        u64::from(planned.uniform[72 + 7]) * 4,
        table.factors_start()
    );
}
