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
    Angles, AxisOrder, CacheLayout, ElementType, Frequencies, HeadLayout, Limits, Pair, Pairing,
    Placement, PlannedDispatch, PositionSource, ROTATE_WGSL, Resource, RopeConfig, RopePlan,
    RotateSpec, Rows, TABLE_WGSL, TablePlan, TableSpec,
};

fn parse(text: &str) -> (naga::Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string(text)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string(text)));
    (module, info)
}

/// Binding numbers that an entry point uses, with the number of those that are storage.
fn bindings(module: &naga::Module, info: &ModuleInfo, entry_point: &str) -> (BTreeSet<u32>, usize) {
    let index = module
        .entry_points
        .iter()
        .position(|entry| entry.name == entry_point)
        .unwrap_or_else(|| panic!("no entry point {entry_point}"));
    let used = info.get_entry_point(index);
    let mut numbers = BTreeSet::new();
    let mut storage = 0;
    for (handle, variable) in module.global_variables.iter() {
        if !used[handle].is_empty() && variable.space != naga::AddressSpace::WorkGroup {
            let binding = variable.binding.unwrap();
            assert_eq!(binding.group, 0);
            assert!(
                numbers.insert(binding.binding),
                "{entry_point} uses a binding twice"
            );
            storage += usize::from(matches!(variable.space, naga::AddressSpace::Storage { .. }));
        }
    }
    (numbers, storage)
}

/// The type of the uniform structure.
fn uniform_type(module: &naga::Module) -> &naga::Type {
    module
        .global_variables
        .iter()
        .find(|(_, variable)| variable.space == naga::AddressSpace::Uniform)
        .map(|(_, variable)| &module.types[variable.ty])
        .unwrap()
}

/// The bytes of the uniform structure.
fn uniform_bytes(module: &naga::Module) -> u32 {
    uniform_type(module).inner.size(module.to_ctx())
}

/// The words of a uniform structure by the names of its members, those of inner structures as `outer.inner`.
fn uniform_words(module: &naga::Module) -> BTreeMap<String, usize> {
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
    visit(module, uniform_type(module), ("", 0), &mut out);
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
        let (numbers, storage) = bindings(&module, &info, planned.entry_point);
        let given: BTreeSet<_> = planned.bindings.iter().map(|bound| bound.binding).collect();
        assert_eq!(given, numbers, "{}", planned.entry_point);
        assert!(
            storage <= most_storage,
            "{} uses {storage} storage buffers",
            planned.entry_point
        );
        assert_eq!(planned.uniform.len() * 4, uniform_bytes(&module) as usize);
        let given: BTreeSet<_> = planned
            .constants
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        assert_eq!(given, overrides, "{}", planned.entry_point);
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
    let (module, _) = parse(text);
    uniform_words(&module)
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
        ("cache_rows", 0),
        ("cache_columns", 0),
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

    let cache = CacheLayout {
        positions: 40,
        columns: 7,
        pairs: 5,
        element: ElementType::Bf16,
    };
    let plan = TablePlan::new(&TableSpec::cached(cache), 30, &Limits::default()).unwrap();
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
            ("cache_rows", 40),
            ("cache_columns", 7),
            ("cos_first", 1),
            ("sin_first", 2),
            ("factor.mantissa", 1 << 31),
            ("factor.exponent", 1),
            ("factor.sign", 0),
            ("factor.unused", 0),
        ])
    );
}

#[test]
fn element_types_have_the_numbers_of_the_shaders() {
    for text in [ROTATE_WGSL, TABLE_WGSL] {
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
        let cache = CacheLayout {
            positions: 1,
            columns: 4,
            pairs: 4,
            element: ty,
        };
        let plan = TablePlan::new(&TableSpec::cached(cache), 1, &Limits::default()).unwrap();
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
    let cached = TableSpec::cached(CacheLayout {
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
    let seen = check(TABLE_WGSL, 4, &fills);
    assert_eq!(seen.len(), 5);
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
