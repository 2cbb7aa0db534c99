//! The shaders as text: valid with no capability beyond baseline WebGPU, and in step with the plans and with the CPU twin.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

use std::collections::{BTreeMap, BTreeSet};

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use wgpu_rope::{
    Access, Angles, AxisOrder, CosSinLayout, ElementType, Frequencies, HeadLayout, LAYER_WGSL,
    Limits, Norm, NormWeight, Operand, Pages, Pair, Pairing, Place, Placement, Places,
    PlannedDispatch, PositionSource, QueryFactor, QueryScale, ROTATE_WGSL, Resource, RopeConfig,
    RopePlan, RotateSpec, Rows, SlotPositionSource, SlotRanges, SlotRule, SlotSource, Storage,
    TABLE_WGSL, TablePlan, TableSpec, TensorView,
};

fn parse(text: &str) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string(text)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string(text)));
    (module, info)
}

/// The bindings that an entry point uses, each with its access.
fn bindings(module: &naga::Module, info: &ModuleInfo, entry_point: &str) -> BTreeMap<u32, Access> {
    let index = module
        .entry_points
        .iter()
        .position(|entry| entry.name == entry_point)
        .unwrap_or_else(|| panic!("no entry point {entry_point}"));
    let used = info.get_entry_point(index);
    let mut all = BTreeMap::new();
    for (handle, variable) in module.global_variables.iter() {
        if !used[handle].is_empty() && variable.space != naga::AddressSpace::WorkGroup {
            let binding = variable.binding.unwrap();
            assert_eq!(binding.group, 0);
            let access = match variable.space {
                naga::AddressSpace::Uniform => Access::Uniform,
                naga::AddressSpace::Storage { access }
                    if access.contains(naga::StorageAccess::STORE) =>
                {
                    Access::ReadWrite
                }
                naga::AddressSpace::Storage { .. } => Access::ReadOnly,
                other => panic!("{entry_point} binds {other:?}"),
            };
            let twice = all.insert(binding.binding, access);
            assert_eq!(twice, None, "{entry_point} uses a binding twice");
        }
    }
    all
}

/// The type of the uniform structure that an entry point uses.
fn uniform_type<'a>(
    module: &'a naga::Module,
    info: &ModuleInfo,
    entry_point: &str,
) -> &'a naga::Type {
    let index = module
        .entry_points
        .iter()
        .position(|entry| entry.name == entry_point)
        .unwrap();
    let used = info.get_entry_point(index);
    module
        .global_variables
        .iter()
        .find(|(handle, variable)| {
            variable.space == naga::AddressSpace::Uniform && !used[*handle].is_empty()
        })
        .map(|(_, variable)| &module.types[variable.ty])
        .unwrap()
}

/// The words of a uniform structure by the names of its members, those of inner structures as `outer.inner`.
fn uniform_words(
    module: &naga::Module,
    info: &ModuleInfo,
    entry_point: &str,
) -> BTreeMap<String, usize> {
    fn visit(
        module: &naga::Module,
        ty: &naga::Type,
        (prefix, at): (&str, u32),
        out: &mut BTreeMap<String, usize>,
    ) {
        let naga::TypeInner::Struct { members, .. } = &ty.inner else {
            out.insert(prefix.to_owned(), at as usize / 4);
            return;
        };
        for member in members {
            let name = member.name.as_deref().unwrap();
            let name = match prefix {
                "" => name.to_owned(),
                _ => format!("{prefix}.{name}"),
            };
            let place = (name.as_str(), at + member.offset);
            visit(module, &module.types[member.ty], place, out);
        }
    }
    let mut out = BTreeMap::new();
    let ty = uniform_type(module, info, entry_point);
    visit(module, ty, ("", 0), &mut out);
    out
}

/// The value of a `const` of the module.
fn constant(module: &naga::Module, name: &str) -> i64 {
    let (_, constant) = module
        .constants
        .iter()
        .find(|(_, constant)| constant.name.as_deref() == Some(name))
        .unwrap_or_else(|| panic!("no constant {name}"));
    match module.global_expressions[constant.init] {
        naga::Expression::Literal(naga::Literal::U32(value)) => value.into(),
        naga::Expression::Literal(naga::Literal::I32(value)) => value.into(),
        ref other => panic!("{name} is {other:?}"),
    }
}

fn dispatches() -> Vec<PlannedDispatch> {
    let limits = Limits::default();
    let mut all = Vec::new();
    for element in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
        for (head_dim, pairing) in [
            (128, Pairing::HalfSplit),
            (12, Pairing::Interleaved),
            (6, Pairing::HalfSplit),
            (48, Pairing::HalfSplitBlocks(3)),
            (16, Pairing::InterleavedToHalfSplit),
            (16, Pairing::HalfSplitToInterleaved),
        ] {
            let config = RopeConfig::new(head_dim).with_pairing(pairing);
            let layout = HeadLayout::bshd(4, 2, head_dim);
            let spec = RotateSpec::new(&config, 1, 4, layout, element);
            let two = RopePlan::new(&spec.clone().with_key(layout, element), &limits).unwrap();
            all.extend(
                RopePlan::new(&spec, &limits)
                    .unwrap()
                    .dispatches(Placement::default())
                    .unwrap(),
            );
            for (key, shared) in [(0, false), (1 << 20, true)] {
                all.extend(
                    two.dispatches(Placement {
                        query: 0,
                        key,
                        shared,
                    })
                    .unwrap(),
                );
            }
        }
    }
    all
}

fn check(
    text: &str,
    most_storage: usize,
    dispatches: &[PlannedDispatch],
) -> BTreeMap<&'static str, usize> {
    let (module, info) = parse(text);
    let overrides: BTreeSet<_> = module
        .overrides
        .iter()
        .map(|(_, constant)| constant.name.clone().unwrap())
        .collect();
    let mut seen = BTreeMap::new();
    for planned in dispatches {
        let used = bindings(&module, &info, planned.entry_point);
        let storage = used.values().filter(|access| **access != Access::Uniform);
        let storage = storage.count();
        let given = planned.bindings.iter();
        let given: BTreeMap<_, _> = given.map(|bound| (bound.binding, bound.access)).collect();
        assert_eq!(given, used, "{}", planned.entry_point);
        assert!(
            storage <= most_storage,
            "{} uses {storage} storage buffers",
            planned.entry_point
        );
        let uniform = uniform_type(&module, &info, planned.entry_point);
        let bytes = uniform.inner.size(module.to_ctx());
        assert_eq!(planned.uniform.len() * 4, bytes as usize);
        let given: BTreeSet<_> = planned
            .constants
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        // Fills of slots read one of the table's constants.
        let is_slots = ["slots_", "place_", "page_"]
            .iter()
            .any(|kind| planned.entry_point.starts_with(kind));
        let expected = match is_slots {
            true => BTreeSet::from(["WORKGROUP".to_owned()]),
            false => overrides.clone(),
        };
        assert_eq!(given, expected, "{}", planned.entry_point);
        *seen.entry(planned.entry_point).or_default() += 1;
    }
    let names: BTreeSet<_> = module
        .entry_points
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    assert_eq!(
        names,
        seen.keys().copied().collect(),
        "every entry point is planned by something here"
    );
    seen
}

#[test]
fn rotations_are_planned_as_the_shader_is_written() {
    let seen = check(ROTATE_WGSL, 3, &dispatches());
    eprintln!("{seen:?}");
    assert_eq!(seen.len(), 8);
}

fn words(given: &[(&str, u32)]) -> BTreeMap<String, u32> {
    given
        .iter()
        .map(|(name, word)| ((*name).to_owned(), *word))
        .collect()
}

/// The words of a plan's uniform buffer under the names that the shader reads them by.
fn named(text: &str, planned: &PlannedDispatch) -> BTreeMap<String, u32> {
    let (module, info) = parse(text);
    uniform_words(&module, &info, planned.entry_point)
        .into_iter()
        .map(|(name, at)| (name, planned.uniform[at]))
        .collect()
}

/// Every member of the uniform structures has its own value here, so that none can stand in another's place.
#[test]
fn uniform_words_stand_where_the_shader_reads_them() {
    let config = RopeConfig::new(24)
        .with_rotary_dim(16)
        .with_rotary_offset(4);
    let (query, key) = (
        HeadLayout::bshd(9, 6, 24).with_strides(1600, 160, 26),
        HeadLayout::bshd(9, 4, 24).with_strides(2000, 112, 28),
    );
    let spec = RotateSpec::new(&config, 3, 9, query.with_offset(34), ElementType::F32)
        .with_key(key.with_offset(6), ElementType::F32)
        .with_rows(Rows::PerToken)
        .with_heads_per_invocation(2);
    let plan = RopePlan::new(&spec, &Limits::default()).unwrap();
    let rotation = &plan.dispatches(Placement::default()).unwrap()[0];
    assert_eq!(rotation.entry_point, "words_two");
    assert_eq!(
        named(ROTATE_WGSL, rotation),
        words(&[
            ("query.first", 38),
            ("query.batch_stride", 1600),
            ("query.token_stride", 160),
            ("query.head_stride", 26),
            ("key.first", 10),
            ("key.batch_stride", 2000),
            ("key.token_stride", 112),
            ("key.head_stride", 28),
            ("first_row", 0),
            ("row_of_batch", 9),
            ("row_of_token", 1),
            ("row_stride", 8),
            ("distance", 8),
            ("query_groups", 3),
            ("key_groups", 2),
            ("zero", 0),
            ("tokens", 9),
            ("batch", 3),
            ("query_heads", 6),
            ("key_heads", 4),
        ])
    );

    let pairs = [0, 1, 2].map(|axis| Pair {
        inv_freq: 1.0,
        axis,
    });
    // -1.5 is 3 * 2^30 / 2^32 * 2^1.
    let frequencies = Frequencies::from_pairs(pairs, -1.5).unwrap();
    let limits = Limits {
        max_compute_workgroups_per_dimension: 6,
        ..Limits::default()
    };
    let plan = TablePlan::new(&TableSpec::new(&frequencies), 100, &limits).unwrap();
    let order = AxisOrder::First { rows: 70 };
    let listed = |order| {
        plan.fill(PositionSource::PerAxis(order), 268..268 + 4 * 160, [0; 2])
            .unwrap()
    };
    let common = [
        ("run", 1),
        ("start", 0),
        ("first", 3),
        ("faults", 800),
        ("zero", 0),
        ("unused", 0),
        ("given_rows", 0),
        ("given_columns", 0),
        ("cos_first", 0),
        ("sin_first", 0),
        ("factor.mantissa", 3 << 30),
        ("factor.exponent", 1),
        ("factor.sign", 1 << 31),
        ("factor.unused", 0),
        ("pairs", 3),
        ("row_stride", 4),
    ];
    for (order, rows, axis_stride, id_stride) in [(order, 20, 70, 1), (AxisOrder::Last, 53, 1, 3)] {
        let mut expected = words(&common);
        expected.extend(words(&[
            ("rows", rows),
            ("axis_stride", axis_stride),
            ("id_stride", id_stride),
            ("first_row", 12),
        ]));
        assert_eq!(named(TABLE_WGSL, &listed(order)[2]), expected);
    }

    let cache = CosSinLayout {
        positions: 40,
        columns: 7,
        pairs: 5,
        element: ElementType::Bf16,
    };
    let plan = TablePlan::new(&TableSpec::from_cos_sin(cache), 30, &Limits::default()).unwrap();
    let copied = plan
        .fill(PositionSource::From(25), 0..0, [260, 520])
        .unwrap();
    assert_eq!(
        named(TABLE_WGSL, &copied[0]),
        words(&[
            ("rows", 15),
            ("pairs", 5),
            ("row_stride", 6),
            ("run", 30),
            ("start", 25),
            ("first", 0),
            ("axis_stride", 0),
            ("id_stride", 0),
            ("first_row", 0),
            ("faults", 360),
            ("zero", 0),
            ("unused", 0),
            ("given_rows", 40),
            ("given_columns", 7),
            ("cos_first", 1),
            ("sin_first", 2),
            ("factor.mantissa", 1 << 31),
            ("factor.exponent", 1),
            ("factor.sign", 0),
            ("factor.unused", 0),
        ])
    );
}

/// The same for fills of slots.
#[test]
fn words_of_slots_stand_where_the_shader_reads_them() {
    let frequencies = Frequencies::new(&RopeConfig::new(6)).unwrap();
    let limits = Limits {
        max_compute_workgroups_per_dimension: 6,
        ..Limits::default()
    };
    let spec = TableSpec::new(&frequencies).with_slots(71);
    let plan = TablePlan::new(&spec, 100, &limits).unwrap();
    let pages = Pages {
        page_size: 16,
        pages: 30,
        pages_per_sequence: 5,
    };
    let rule = SlotRule::paged(4, pages).unwrap().with_ring(70, 7).unwrap();
    let ranges = SlotRanges {
        positions: 268..268 + 4 * 64,
        sequences: 1048..1048 + 4 * 15,
        block_table: 4..84,
    };
    let fill = |positions, tokens| {
        let source = SlotSource::Placed {
            rule,
            tokens,
            positions,
        };
        plan.fill_slots(&source, &ranges).unwrap()[1].clone()
    };
    let common = [
        ("first_token", 6),
        ("slots", 804),
        ("skipped", 801),
        ("first", 3),
        ("first_page", 1),
        ("sequences", 4),
        ("positions", 1 << 31),
        ("sinks", 7),
        ("period", 63),
        ("page_size", 16),
        ("pages", 30),
        ("pages_per_sequence", 5),
    ];
    let check = |planned: &PlannedDispatch, own: &[(&str, u32)]| {
        let mut expected = words(&common);
        expected.extend(words(own));
        assert_eq!(named(TABLE_WGSL, planned), expected);
    };
    check(
        &fill(SlotPositionSource::Ids, 17),
        &[
            ("batch", 4),
            ("tokens", 17),
            ("served", 13),
            ("entry_stride", 17),
            ("token_stride", 1),
            ("start", 0),
            ("counts_on", 0),
            ("first_sequence", 0),
        ],
    );
    check(
        &fill(SlotPositionSource::Ragged, 66),
        &[
            ("batch", 1),
            ("tokens", 66),
            ("served", 15),
            ("entry_stride", 0),
            ("token_stride", 1),
            ("start", 0),
            ("counts_on", 0),
            ("first_sequence", 6),
        ],
    );
    check(
        &fill(SlotPositionSource::StartPerSequence, 17),
        &[
            ("batch", 4),
            ("tokens", 17),
            ("served", 17),
            ("entry_stride", 1),
            ("token_stride", 0),
            ("start", 0),
            ("counts_on", 1),
            ("first_sequence", 0),
        ],
    );
    let contiguous = SlotSource::Placed {
        rule: SlotRule::contiguous(3, 90).unwrap(),
        tokens: 23,
        positions: SlotPositionSource::From(-5),
    };
    let listed = SlotSource::Listed {
        batch: 2,
        tokens: 33,
        capacity: 77,
    };
    let [contiguous, listed] = [contiguous, listed].map(|source| {
        let planned = plan.fill_slots(&source, &ranges).unwrap();
        named(TABLE_WGSL, &planned[0])
    });
    for (name, word) in [
        ("start", (-5_i32).cast_unsigned()),
        ("positions", 90),
        ("sinks", 0),
        ("period", 90),
        ("page_size", 90),
    ] {
        assert_eq!(contiguous[name], word, "{name}");
    }
    for (name, word) in [("pages", 77), ("first", 3), ("entry_stride", 33)] {
        assert_eq!(listed[name], word, "{name}");
    }
}

/// The words that the shader takes a query scale from stand behind the pairs, and behind the weights of f32 angles.
#[test]
fn a_query_scale_stands_behind_the_pairs() {
    let frequencies = Frequencies::new(&RopeConfig::new(6)).unwrap();
    let scale = QueryScale::from_values(vec![1.0, 2.0, -0.5, 4.0, 8.0], 7, -9).unwrap();
    let plain = TableSpec::new(&frequencies).with_slots(3);
    for spec in [plain.clone().with_angles(Angles::F32), plain] {
        let without = TablePlan::new(&spec, 11, &Limits::default()).unwrap();
        let with = spec.with_query_scale(scale.clone());
        let with = TablePlan::new(&with, 11, &Limits::default()).unwrap();
        assert_eq!(with.slots_start(), 11 * 32 + 16);
        assert_eq!(with.factors_start(), with.slots_start() + 16);
        assert_eq!(with.bytes(), with.factors_start() + 96);
        assert_eq!(without.bytes(), with.factors_start());
        let (pairs, scale) = with.pairs().split_at(without.pairs().len());
        assert_eq!(pairs, without.pairs());
        let bits = [1.0_f32, 2.0, -0.5, 4.0, 8.0].map(f32::to_bits);
        let place = u32::try_from(with.factors_start() / 8).unwrap();
        let head = [7, (-9_i32).cast_unsigned(), 4, place];
        assert_eq!(scale, [&head[..], &bits, &[0; 3]].concat());
        let fill =
            |plan: &TablePlan| plan.fill(PositionSource::From(0), 0..0, [0; 2]).unwrap()[0].clone();
        let (without, with) = (fill(&without), fill(&with));
        assert_eq!(without.uniform, with.uniform);
        assert_eq!(without.constant("QUERY_SCALE"), Some(0));
        assert_eq!(with.constant("QUERY_SCALE"), Some(1));
    }
}

#[test]
fn element_types_have_the_numbers_of_the_shaders() {
    for text in [ROTATE_WGSL, TABLE_WGSL, LAYER_WGSL] {
        let (module, _) = parse(text);
        assert_eq!(constant(&module, "F32"), 0);
        assert_eq!(constant(&module, "F16"), 1);
    }
    let element = |planned: &PlannedDispatch| {
        let found = planned
            .constants
            .iter()
            .find(|(name, _)| *name == "ELEMENT");
        found.unwrap().1
    };
    // bf16 is what is neither.
    for (ty, number) in [
        (ElementType::F32, 0.0),
        (ElementType::F16, 1.0),
        (ElementType::Bf16, 2.0),
    ] {
        let config = RopeConfig::new(8);
        let spec = RotateSpec::new(&config, 1, 1, HeadLayout::bshd(1, 1, 8), ty);
        let plan = RopePlan::new(&spec, &Limits::default()).unwrap();
        assert_eq!(
            element(&plan.dispatches(Placement::default()).unwrap()[0]),
            number
        );
        let cache = CosSinLayout {
            positions: 1,
            columns: 4,
            pairs: 4,
            element: ty,
        };
        let plan = TablePlan::new(&TableSpec::from_cos_sin(cache), 1, &Limits::default()).unwrap();
        let fill = plan.fill(PositionSource::From(0), 0..0, [0; 2]).unwrap();
        assert_eq!(element(&fill[0]), number);
    }
}

#[test]
fn tables_are_planned_as_the_shader_is_written() {
    let limits = Limits::default();
    let frequencies = Frequencies::new(&RopeConfig::new(128)).unwrap();
    let fill = |spec: &TableSpec, source, positions| {
        let plan = TablePlan::new(spec, 10, &limits).unwrap();
        let [planned] = &plan.fill(source, positions, [0; 2]).unwrap()[..] else {
            panic!("one dispatch");
        };
        planned.clone()
    };
    let exact = TableSpec::new(&frequencies);
    let cached = TableSpec::from_cos_sin(CosSinLayout {
        positions: 20,
        columns: 64,
        pairs: 64,
        element: ElementType::F16,
    });
    let coordinates = PositionSource::Coordinates(AxisOrder::Last);
    let fills = [
        fill(&exact, PositionSource::From(3), 0..0),
        fill(&exact, PositionSource::Runs(1), 0..40),
        fill(&exact.clone().with_angles(Angles::F32), coordinates, 0..40),
        fill(&cached, PositionSource::From(3), 0..0),
        fill(&cached, PositionSource::Runs(1), 0..40),
    ];
    assert_eq!(fills[1].bindings[3].resource, Resource::Positions);
    let resources: Vec<_> = fills[4].bindings.iter().map(|b| b.resource).collect();
    assert_eq!(
        resources,
        [
            Resource::Uniform,
            Resource::Rows,
            Resource::Positions,
            Resource::Cos,
            Resource::Sin
        ]
    );
    let slots = TableSpec::new(&frequencies).with_slots(40);
    let slots = TablePlan::new(&slots, 10, &limits).unwrap();
    let pages = Pages {
        page_size: 16,
        pages: 30,
        pages_per_sequence: 5,
    };
    let ranges = SlotRanges {
        positions: 256..416,
        sequences: 512..672,
        block_table: 4..84,
    };
    let listed = SlotSource::Listed {
        batch: 4,
        tokens: 10,
        capacity: 480,
    };
    let mut sources = vec![listed];
    for rule in [SlotRule::contiguous(4, 90), SlotRule::paged(4, pages)] {
        let rule = rule.unwrap();
        sources.extend(
            [
                SlotPositionSource::From(-3),
                SlotPositionSource::Start,
                SlotPositionSource::StartPerSequence,
                SlotPositionSource::SharedIds,
                SlotPositionSource::Ids,
                SlotPositionSource::Ragged,
            ]
            .map(|positions| SlotSource::Placed {
                rule,
                tokens: 10,
                positions,
            }),
        );
    }
    let of_slots: Vec<_> = sources
        .iter()
        .flat_map(|source| slots.fill_slots(source, &ranges).unwrap())
        .collect();
    let resources: Vec<_> = of_slots[12].bindings.iter().map(|b| b.resource).collect();
    assert_eq!(
        resources,
        [
            Resource::Uniform,
            Resource::Rows,
            Resource::Positions,
            Resource::BlockTable,
            Resource::Sequences
        ]
    );
    assert_eq!(of_slots[0].bindings[2].resource, Resource::SlotMapping);
    let seen = check(TABLE_WGSL, 4, &[&fills[..], &of_slots].concat());
    assert_eq!(seen.len(), 12);
    for (entry_point, plans) in [("page_listed", 4), ("place_ragged", 1), ("slots_listed", 1)] {
        assert_eq!(seen[entry_point], plans);
    }
}

/// The exponents of f32 angles that have a weight, in the shader, in the twin and in the words of a plan.
#[test]
fn weights_of_f32_angles_are_those_of_the_shader() {
    let (module, _) = parse(TABLE_WGSL);
    let (least, most) = (
        constant(&module, "MIN_F32_EXPONENT"),
        constant(&module, "MAX_F32_EXPONENT"),
    );
    let twin = include_str!("../src/turns.rs");
    for (name, value) in [("MIN", least), ("MAX", most)] {
        let line = format!("const {name}_F32_EXPONENT: i32 = {value};");
        assert!(twin.contains(&line), "{line}");
    }
    let frequencies = Frequencies::new(&RopeConfig::new(6)).unwrap();
    let spec = TableSpec::new(&frequencies).with_angles(Angles::F32);
    let plan = TablePlan::new(&spec, 1, &Limits::default()).unwrap();
    let weights = &plan.pairs()[3 * 8..];
    assert_eq!(weights.len() as i64, 4 * (most - least + 1));
    // 2^e radians in turns: each is twice the one before, but for the rounding and whole turns.
    let weight = |at: usize| {
        let words = weights[4 * at..][..4].iter().rev();
        words.fold(0_u128, |sum, &word| (sum << 32) | u128::from(word))
    };
    // 2^-123 / 2 pi * 2^128 is 5.09.
    assert_eq!(weight(0), 5);
    for at in 1..weights.len() / 4 {
        let apart = weight(at).wrapping_sub(weight(at - 1).wrapping_mul(2)) as i128;
        assert!((-1..=1).contains(&apart), "{at}: {apart}");
    }
    // 1 radian is 0.159154943 turns.
    let one = weight(usize::try_from(-least).unwrap()) as f64 / 2_f64.powi(128);
    assert!((one - std::f64::consts::TAU.recip()).abs() < 1e-16, "{one}");
}

/// The polynomials' constants stand in the shader just as in the twin. Both are transcriptions, so this compares the text.
#[test]
fn constants_are_those_of_the_twin() {
    let digits = |text: &str| -> Vec<u32> {
        let mut found = Vec::new();
        for (at, _) in text.match_indices("0x") {
            let word: String = text[at + 2..]
                .chars()
                .take_while(|c| c.is_ascii_hexdigit() || *c == '_')
                .filter(|c| *c != '_')
                .collect();
            // A 64-bit constant of Rust is two words of WGSL.
            for part in word.as_bytes().rchunks(8).rev() {
                found.push(u32::from_str_radix(std::str::from_utf8(part).unwrap(), 16).unwrap());
            }
        }
        found
    };
    let twin = include_str!("../src/turns.rs");
    let twin =
        &twin[twin.find("COS_LEAD: [u32; 2]").unwrap()..twin.find("/// A frequency as").unwrap()];
    let mut twin = digits(twin);
    let shader = TABLE_WGSL;
    let shader = &shader
        [shader.find("fn octant_cos").unwrap()..shader.find("/// The bits of (cos").unwrap()];
    let mut shader = digits(shader);
    // The shader's own: the cosine that is exactly 1.
    shader.retain(|word| *word != 0x8000_0000);
    twin.sort_unstable();
    shader.sort_unstable();
    assert_eq!(twin.len(), 26);
    assert_eq!(shader, twin);
}

/// Layers of both entry points, with every kind of tensor.
fn layers() -> Vec<PlannedDispatch> {
    let limits = Limits::default();
    let storages: [Storage; 5] = [
        ElementType::F32.into(),
        ElementType::F16.into(),
        ElementType::Bf16.into(),
        Storage::Q8_0,
        Storage::Int8,
    ];
    let mut all = Vec::new();
    for storage in storages {
        for (batch, streams) in [(1, 1), (2, 2), (2, 3)] {
            let layout = HeadLayout::bshd(4, 2, 64);
            let config = RopeConfig::new(64);
            let norm = Norm::rms(1e-6, NormWeight::Scale(ElementType::Bf16));
            let pages = TensorView::cache(layout, 3, 4, storage);
            let mut spec = RotateSpec::new(&config, batch, 4, layout, ElementType::F32)
                .with_query_to(TensorView::new(layout, storage))
                .with_query_factor(QueryFactor::Constant(0.5));
            if streams > 1 {
                spec = spec
                    .with_key(layout, ElementType::F16)
                    .with_key_norm(norm)
                    .with_key_to(pages);
            }
            if streams > 2 {
                spec = spec
                    .with_value(layout, ElementType::F16)
                    .with_value_to(pages);
            }
            let operands = spec.operands().unwrap();
            let places: Places = (0..)
                .zip(operands)
                .map(|(buffer, (operand, _))| (operand, Place { buffer, offset: 0 }))
                .chain([(Operand::Slots, Place::default())])
                .collect();
            let plan = RopePlan::new(&spec, &limits).unwrap();
            all.extend(plan.dispatches(places).unwrap());
        }
    }
    all
}

#[test]
fn layers_are_planned_as_the_shader_is_written() {
    let seen = check(LAYER_WGSL, 8, &layers());
    eprintln!("{seen:?}");
    assert_eq!(seen.len(), 2);
    let (module, info) = parse(LAYER_WGSL);
    let all: BTreeMap<_, _> = (0..)
        .zip([Access::Uniform, Access::ReadOnly, Access::ReadOnly])
        .chain((3..9).map(|binding| (binding, Access::ReadWrite)))
        .collect();
    for entry_point in ["octets", "channels"] {
        assert_eq!(bindings(&module, &info, entry_point), all);
        let words = uniform_type(&module, &info, entry_point)
            .inner
            .size(module.to_ctx())
            / 4;
        assert_eq!(words, 84);
    }
    // Every constant has a value in every plan, in one order: pipelines are told apart by them.
    let mut planned = layers().into_iter();
    let names = |planned: &PlannedDispatch| -> Vec<&str> {
        planned.constants.iter().map(|(name, _)| *name).collect()
    };
    let first = names(&planned.next().unwrap());
    assert!(planned.all(|planned| names(&planned) == first));
    // What stands in the shader and in the plans.
    for (name, value) in [
        ("QUERY", 0),
        ("KEY", 1),
        ("VALUE", 2),
        ("Q8_0", 3),
        ("INT8", 4),
    ] {
        assert_eq!(constant(&module, name), value, "{name}");
    }
    assert_eq!(constant(&module, "ONE"), i64::from(1.0_f32.to_bits()));
    for (storage, number) in [
        (Storage::from(ElementType::F32), 0),
        (ElementType::F16.into(), 1),
        (ElementType::Bf16.into(), 2),
        (Storage::Q8_0, 3),
        (Storage::Int8, 4),
    ] {
        let layout = HeadLayout::bshd(1, 1, 64);
        let spec = RotateSpec::new(&RopeConfig::new(64), 1, 1, layout, ElementType::F32)
            .with_query_to(TensorView::new(layout, storage));
        let places: Places = [Operand::Query, Operand::QueryTo, Operand::QueryToScales]
            .into_iter()
            .zip(0..)
            .map(|(operand, buffer)| (operand, Place { buffer, offset: 0 }))
            .collect();
        let plan = RopePlan::new(&spec, &Limits::default()).unwrap();
        let planned = &plan.dispatches(places).unwrap()[0];
        assert_eq!(planned.constant("QUERY_TO_TYPE"), Some(number));
        assert_eq!(planned.constant("QUERY_FROM_TYPE"), Some(0));
    }
}

/// A layer whose tensors have strides, offsets, slots and scales of their own: word by word.
#[test]
fn words_of_layers_stand_where_the_shader_reads_them() {
    let config = RopeConfig::new(64).with_rotary_dim(32);
    let f16 = ElementType::F16;
    let source = HeadLayout::bshd(9, 6, 64)
        .with_strides(5000, 500, 70)
        .with_offset(10);
    let key = HeadLayout::bshd(9, 4, 64)
        .with_strides(4000, 400, 68)
        .with_offset(12);
    let pages = TensorView::cache(
        HeadLayout::bshd(5, 4, 64)
            .with_strides(3001, 301, 73)
            .with_offset(14),
        7,
        5,
        f16,
    )
    .with_first_slot(18);
    let blocks = TensorView::cache(
        HeadLayout::bshd(3, 2, 96)
            .with_strides(960, 288, 96)
            .with_offset(32),
        11,
        3,
        Storage::Q8_0,
    );
    let int8 = HeadLayout::bshd(9, 2, 96)
        .with_strides(96 * 50, 96 * 5, 96 * 2)
        .with_offset(96);
    let spec = RotateSpec::new(&config, 2, 9, source, f16)
        .with_query_norm(Norm::rms(0.25, NormWeight::Scale(f16)))
        .with_query_factor(QueryFactor::Constant(3.5))
        .with_key(key, f16)
        .with_key_to(pages)
        .with_key_norm(Norm::rms(0.125, NormWeight::Scale(f16)))
        .with_value_from(TensorView::new(int8, Storage::Int8))
        .with_value_to(blocks)
        .with_rows(Rows::PerToken);
    let frequencies = Frequencies::new(&config).unwrap();
    let scale = QueryScale::llama4(8, 0.1, 100).unwrap();
    let table = TableSpec::new(&frequencies)
        .with_slots(36)
        .with_query_scale(scale);
    let table = TablePlan::new(&table, 18, &Limits::default()).unwrap();
    let places: Places = [
        (Operand::Query, 0, 260),
        (Operand::Key, 1, 520),
        (Operand::KeyTo, 2, 40),
        (Operand::Value, 3, 4),
        (Operand::ValueScales, 4, 8),
        (Operand::ValueTo, 5, 12),
        (Operand::QueryWeight, 6, 264),
        (Operand::KeyWeight, 6, 516),
    ]
    .into_iter()
    .map(|(operand, buffer, offset)| (operand, Place { buffer, offset }))
    .collect();
    let plan = RopePlan::new(&spec, &Limits::default()).unwrap();
    let planned = plan.dispatches(places.with_table(&table)).unwrap();
    assert_eq!(planned.len(), 1);
    let planned = &planned[0];
    assert_eq!(planned.entry_point, "channels");
    let slots = u32::try_from(table.slots_start() / 4).unwrap();
    let tensor = |first, strides: [u32; 3], slots: [u32; 3], base| {
        [&[first], &strides[..], &slots[..], &[base]].concat()
    };
    let stream = |heads: u32, weights: u32, epsilon: f32, dim: u32, is_normed: bool| {
        let mean = if is_normed { 1.0 / dim as f32 } else { 0.0 };
        // A workgroup takes a head; channels lie side by side; two words are unused.
        vec![
            heads,
            heads,
            weights,
            epsilon.to_bits(),
            mean.to_bits(),
            1,
            0,
            0,
        ]
    };
    // Places past the alignment of 256 are counted from it on.
    let none = [0, 0, 1];
    let query = tensor(4 / 2 + 10, [5000, 500, 70], none, 0);
    let expected = [
        query.clone(),
        query,
        stream(6, 2, 0.25, 64, true),
        tensor(8 / 2 + 12, [4000, 400, 68], none, 0),
        tensor(40 / 2 + 14, [3001, 301, 73], [slots + 18, 35, 5], 0),
        stream(4, 65, 0.125, 64, true),
        tensor(4 + 96, [4800, 480, 192], none, 2 + 1),
        // Halves from the binding on, offset and all: 6 and a block.
        tensor(0, [960, 288, 96], [slots, 33, 3], 6 + 17),
        stream(2, 0, 0.0, 96, false),
        // The row, the ways to others, the words of one.
        vec![0, 9, 1, 32],
        vec![9, 2, 9, u32::try_from(table.factors_start() / 4).unwrap()],
        vec![3.5_f32.to_bits(), 0, 0, 0],
    ]
    .concat();
    assert_eq!(planned.uniform, expected);
    // The order of the structure's members, which the list above follows.
    let (module, info) = parse(LAYER_WGSL);
    let found = uniform_words(&module, &info, "channels");
    for (name, at) in [
        ("streams", 0),
        ("first_row", 72),
        ("row_of_batch", 73),
        ("row_of_token", 74),
        ("row_stride", 75),
        ("tokens", 76),
        ("batch", 77),
        ("slots_of_batch", 78),
        ("scales", 79),
        ("factor", 80),
        ("zero", 81),
    ] {
        assert_eq!(found.get(name), Some(&at), "{name}");
    }
    for (structure, members) in [
        (
            "Tensor",
            &[
                "first",
                "outer_stride",
                "inner_stride",
                "head_stride",
                "slots",
                "slot_count",
                "page_size",
                "base",
            ][..],
        ),
        (
            "Stream",
            &[
                "source",
                "destination",
                "heads",
                "groups",
                "weights",
                "epsilon",
                "mean",
                "channel_stride",
                "unused_a",
                "unused_b",
            ],
        ),
    ] {
        let (_, ty) = module
            .types
            .iter()
            .find(|(_, ty)| ty.name.as_deref() == Some(structure))
            .unwrap();
        let naga::TypeInner::Struct { members: found, .. } = &ty.inner else {
            panic!("{structure} is {:?}", ty.inner);
        };
        let found: Vec<_> = found
            .iter()
            .map(|member| member.name.as_deref().unwrap())
            .collect();
        assert_eq!(found, members);
    }
}

/// The constants of quotients and roots stand in the shader just as in the twin.
#[test]
fn constants_of_roots_are_those_of_the_twin() {
    let words = |text: &str| -> Vec<u32> {
        let mut found: Vec<u32> = text
            .match_indices("0x")
            .map(|(at, _)| {
                let digits: String = text[at + 2..]
                    .chars()
                    .take_while(|c| c.is_ascii_hexdigit() || *c == '_')
                    .filter(|c| *c != '_')
                    .collect();
                u32::from_str_radix(&digits, 16).unwrap()
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let twin = include_str!("../src/integer.rs");
    let twin = &twin[..twin.find("/// The quotient of two").unwrap()];
    let shader = include_str!("../shaders/integer.wgsl");
    let shader = &shader[shader.find("/// y (3 - m y^2) / 2").unwrap()..];
    // The shader's own: the quiet NaN, and 2^80 as the top of three words.
    let mut shader = words(shader);
    shader.retain(|word| ![0x7fc0_0000, 0x0001_0000].contains(word));
    let twin = words(twin);
    assert!(twin.len() >= 8, "{twin:?}");
    assert_eq!(shader, twin);
}
