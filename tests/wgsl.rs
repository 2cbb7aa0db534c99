//! The shaders as text: valid with no capability beyond baseline WebGPU, and in step with the plans and with the CPU twin.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

use std::collections::{BTreeMap, BTreeSet};

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use wgpu_rope::{
    Angles, Direction, ElementType, Frequencies, HeadLayout, Limits, Pairing, Placement,
    PlannedDispatch, PositionSource, ROTATE_WGSL, Resource, RopeConfig, RopePlan, RotateSpec,
    TABLE_WGSL, TablePlan,
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
        if !used[handle].is_empty() {
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

/// The bytes of the uniform structure.
fn uniform_bytes(module: &naga::Module) -> u32 {
    module
        .global_variables
        .iter()
        .find(|(_, variable)| variable.space == naga::AddressSpace::Uniform)
        .map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx()))
        .unwrap()
}

fn dispatches() -> Vec<PlannedDispatch> {
    let limits = Limits::default();
    let mut all = Vec::new();
    for element in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
        for (head_dim, pairing) in [
            (128, Pairing::HalfSplit),
            (12, Pairing::Interleaved),
            (6, Pairing::HalfSplit),
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

fn check(text: &str, dispatches: &[PlannedDispatch]) -> BTreeMap<&'static str, usize> {
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
            storage <= 3,
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
    eprintln!("{:?}", check(ROTATE_WGSL, &dispatches()));
}

#[test]
fn tables_are_planned_as_the_shader_is_written() {
    let frequencies = Frequencies::new(&RopeConfig::new(128)).unwrap();
    let plan = TablePlan::new(
        &frequencies,
        10,
        Angles::Exact,
        Direction::Forward,
        &Limits::default(),
    )
    .unwrap();
    let mut fills = plan.fill(PositionSource::From(3), 0..0).unwrap();
    fills.extend(plan.fill(PositionSource::Runs(1), 0..40).unwrap());
    assert_eq!(fills[1].bindings[3].resource, Resource::Positions);
    check(TABLE_WGSL, &fills);
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
