//! Pipelines of the vectors translated by naga to the languages of Metal and Direct3D 12, with the options that wgpu's backends for
//! these pass to it: for machines that have neither. Metal's is compiled as C++ (`msl/`). HLSL is compiled by DXC, and what that made,
//! which is LLVM's bitcode, by LLVM (`hlsl/`). `cpu/` runs both.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use naga::back::{hlsl, msl, pipeline_constants};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ResourceBinding, ShaderStage};
use serde::{Deserialize, Serialize};

use crate::vectors::{Access, Dispatch, Failure, Vectors};

/// The distinct pipelines of vectors.
#[derive(Debug)]
pub struct Pipelines<'a> {
    /// A dispatch of each.
    pub distinct: Vec<&'a Dispatch>,
    /// For each vector, the pipelines of its dispatches.
    pub of_vectors: Vec<Vec<usize>>,
}

/// What a program needs to know of a folder of translated pipelines: `list.json` in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    pub pipelines: Vec<Translated>,
    /// For each vector, the pipelines of its dispatches.
    pub of_vectors: Vec<Vec<usize>>,
}

/// A pipeline in another language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translated {
    /// Module, entry point and constants.
    pub name: String,
    /// The entry point's name in that language.
    pub entry_point: String,
    /// Invocations of a workgroup.
    pub workgroup: [u32; 3],
    /// Whether its invocations wait for each other.
    pub waits: bool,
    /// Bindings of buffers whose size in bytes the kernel is told, in that order.
    pub sized: Vec<u32>,
}

impl<'a> Pipelines<'a> {
    /// Of all dispatches.
    #[must_use]
    pub fn of(vectors: &'a Vectors) -> Self {
        let mut known = HashMap::new();
        let mut distinct = Vec::new();
        let mut number = |dispatch: &'a Dispatch| {
            *known.entry(name(dispatch)).or_insert_with(|| {
                distinct.push(dispatch);
                distinct.len() - 1
            })
        };
        let of_vectors = vectors
            .vectors
            .iter()
            .map(|vector| vector.dispatches.iter().map(&mut number).collect())
            .collect();
        Self {
            distinct,
            of_vectors,
        }
    }
}

fn name(dispatch: &Dispatch) -> String {
    let Dispatch {
        module,
        entry_point,
        constants,
        ..
    } = dispatch;
    format!("{module} {entry_point} {constants:?}")
}

/// Writes all pipelines as Metal's language in C++ files `unit-*.cpp`, each in a namespace of its own, with what calls them: see
/// `cpu/kernel.hpp`.
///
/// # Errors
/// Where naga or the file system reports one.
pub fn to_msl(vectors: &Vectors, folder: &Path, units: usize) -> Result<(), Failure> {
    let units = units.max(1);
    let modules = parsed(vectors)?;
    let pipelines = Pipelines::of(vectors);
    let mut texts = vec!["#include \"kernel.hpp\"\n#include <metal_stdlib>\n".to_owned(); units];
    let mut list = List::of(&pipelines);
    let mut declared = String::new();
    let mut table = String::new();
    for (number, dispatch) in pipelines.distinct.iter().enumerate() {
        let one = one(&modules, dispatch)?;
        let (text, entry_point) = msl_text(&one, dispatch)?;
        let arguments = msl_arguments(&text)?.join(", ");
        let unit = &mut texts[number % units];
        write!(
            unit,
            "\n// {}\nnamespace k{number} {{\n{text}}}\nvoid call_{number}(Invocation const& at) {{\n    \
             k{number}::{entry_point}({arguments});\n}}\n",
            name(dispatch),
        )?;
        writeln!(declared, "void call_{number}(Invocation const&);")?;
        writeln!(table, "    call_{number},")?;
        list.pipelines
            .push(one.translated(dispatch, &text, entry_point));
    }
    write!(
        texts[0],
        "\n{declared}\nvoid (*const kernels[])(Invocation const&) = {{\n{table}}};\n"
    )?;
    fs::create_dir_all(folder)?;
    for (number, text) in texts.iter().enumerate() {
        fs::write(folder.join(format!("unit-{number}.cpp")), text)?;
    }
    list.write(folder)
}

/// Writes all pipelines as HLSL in files named after their number.
///
/// # Errors
/// Where naga or the file system reports one.
pub fn to_hlsl(vectors: &Vectors, folder: &Path) -> Result<(), Failure> {
    let modules = parsed(vectors)?;
    let pipelines = Pipelines::of(vectors);
    let mut list = List::of(&pipelines);
    fs::create_dir_all(folder)?;
    for (number, dispatch) in pipelines.distinct.iter().enumerate() {
        let one = one(&modules, dispatch)?;
        let (text, entry_point) = hlsl_text(&one, dispatch)?;
        fs::write(folder.join(format!("{number}.hlsl")), &text)?;
        list.pipelines
            .push(one.translated(dispatch, &text, entry_point));
    }
    list.write(folder)
}

/// Rewrites the DXIL of a folder, disassembled to `*.ll` files, for LLVM on a CPU: each entry point gets a name of its own, and so does
/// memory of its workgroups, which is never cleared; handles are whole numbers (`hlsl/dxil.ll`), and what is said of the machine goes. Writes
/// `kernels.cpp`, which calls them.
///
/// # Errors
/// Where a file is not as DXC makes it.
pub fn dxil_for_cpu(folder: &Path) -> Result<(), Failure> {
    let list: List = serde_json::from_slice(&fs::read(folder.join("list.json"))?)?;
    let mut declared = String::new();
    let mut table = String::new();
    for (number, pipeline) in list.pipelines.iter().enumerate() {
        let path = folder.join(format!("{number}.ll"));
        let text = fs::read_to_string(&path)?;
        fs::write(path, for_cpu(&text, &pipeline.entry_point, number)?)?;
        writeln!(declared, "extern \"C\" void kernel_{number}();")?;
        let call = format!("run_dxil(kernel_{number}, at);");
        writeln!(table, "    [](Invocation const& at) {{ {call} }},")?;
    }
    let text = format!(
        "#include \"dxil.hpp\"\n\n{declared}\nvoid (*const kernels[])(Invocation const&) = {{\n{table}}};\n"
    );
    Ok(fs::write(folder.join("kernels.cpp"), text)?)
}

fn for_cpu(text: &str, entry_point: &str, number: usize) -> Result<String, Failure> {
    let defined = format!("define void @{entry_point}()");
    if !text.contains(&defined) {
        return Err(format!("pipeline {number}: no {defined}").into());
    }
    let mut result = String::new();
    let mut shared = Vec::new();
    for line in text.lines() {
        if line.starts_with("target ") {
            continue;
        }
        if line.starts_with("%dx.types.Handle = type ") {
            result.push_str("%dx.types.Handle = type { i64 }\n");
            continue;
        }
        if let Some((name, rest)) = line.split_once(" = external addrspace(3) global ") {
            // What DXC only declares is defined here, with nothing in it.
            let (kind, alignment) = rest
                .split_once(", align")
                .ok_or_else(|| format!("pipeline {number}: {line}"))?;
            writeln!(
                result,
                "{name} = addrspace(3) global {kind} undef, align{alignment}"
            )?;
            shared.push(name);
            continue;
        }
        writeln!(result, "{line}")?;
    }
    for (variable, name) in shared.into_iter().enumerate() {
        result = result.replace(name, &format!("@workgroup_{number}_{variable}"));
    }
    // Where it is defined, and where it is described.
    for next in ["()", ","] {
        let name = format!("@{entry_point}{next}");
        result = result.replace(&name, &format!("@kernel_{number}{next}"));
    }
    Ok(result)
}

impl List {
    fn of(pipelines: &Pipelines<'_>) -> Self {
        Self {
            pipelines: Vec::new(),
            of_vectors: pipelines.of_vectors.clone(),
        }
    }

    fn write(&self, folder: &Path) -> Result<(), Failure> {
        Ok(fs::write(
            folder.join("list.json"),
            serde_json::to_vec_pretty(self)?,
        )?)
    }
}

type Parsed = (Module, ModuleInfo);

fn parsed(vectors: &Vectors) -> Result<BTreeMap<&str, Parsed>, Failure> {
    let parse = |(name, text): (&'_ String, &String)| -> Result<Parsed, Failure> {
        let module = naga::front::wgsl::parse_str(text)
            .map_err(|error| format!("{name}: {}", error.emit_to_string(text)))?;
        let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
            .validate(&module)
            .map_err(|error| format!("{name}: {}", error.emit_to_string(text)))?;
        Ok((module, info))
    };
    let modules = vectors.modules.iter();
    modules
        .map(|entry| Ok((&**entry.0, parse(entry)?)))
        .collect()
}

/// A module with one entry point and no override constants.
#[derive(Debug)]
struct One {
    module: Module,
    info: ModuleInfo,
}

fn one(modules: &BTreeMap<&str, Parsed>, dispatch: &Dispatch) -> Result<One, Failure> {
    let (module, info) = modules.get(&*dispatch.module).ok_or("no such module")?;
    let constants = dispatch.constants.clone().into_iter().collect();
    let entry_point = Some((ShaderStage::Compute, &*dispatch.entry_point));
    let (module, info) =
        pipeline_constants::process_overrides(module, info, entry_point, &constants)?;
    Ok(One {
        module: module.into_owned(),
        info: info.into_owned(),
    })
}

impl One {
    fn translated(&self, dispatch: &Dispatch, text: &str, entry_point: String) -> Translated {
        let globals = self.module.global_variables.iter();
        // As wgpu's Metal backend counts them: arrays without a length, in the order of declaration.
        let sized = globals
            .filter(|(_, global)| matches!(global.space, AddressSpace::Storage { .. }))
            .filter_map(|(_, global)| {
                let is_sized = self.module.types[global.ty]
                    .inner
                    .needs_host_buffer_byte_size(&self.module.types);
                global.binding.filter(|_| is_sized)
            })
            .map(|binding| binding.binding)
            .collect();
        Translated {
            name: name(dispatch),
            entry_point,
            workgroup: self
                .module
                .entry_points
                .first()
                .map_or([0; 3], |entry| entry.workgroup_size),
            waits: ["threadgroup_barrier(", "WithGroupSync("]
                .iter()
                .any(|barrier| text.contains(barrier)),
            sized,
        }
    }
}

/// Bindings of a dispatch in the order in which wgpu's backends give them slots.
fn bound(dispatch: &Dispatch) -> Vec<(ResourceBinding, Access)> {
    let mut bound: Vec<_> = dispatch
        .bindings
        .iter()
        .map(|bound| {
            let binding = ResourceBinding {
                group: 0,
                binding: bound.binding,
            };
            (binding, bound.access)
        })
        .collect();
    bound.sort_by_key(|(binding, _)| binding.binding);
    bound
}

fn msl_text(one: &One, dispatch: &Dispatch) -> Result<(String, String), Failure> {
    let mut resources = msl::EntryPointResources::default();
    let bound = bound(dispatch);
    for (slot, (binding, access)) in (0..).zip(&bound) {
        let target = msl::BindTarget {
            buffer: Some(slot),
            mutable: *access == Access::Storage,
            ..Default::default()
        };
        resources.resources.insert(*binding, target);
    }
    resources.sizes_buffer = Some(u8::try_from(bound.len())?);
    let restricted = BoundsCheckPolicy::Restrict;
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [(dispatch.entry_point.clone(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: BoundsCheckPolicies {
            index: restricted,
            buffer: restricted,
            image_load: restricted,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        // As the crate makes its pipelines; all other values are wgpu's for a shader that is not trusted.
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, dispatch.entry_point.clone())),
        allow_and_force_point_size: false,
        vertex_pulling_transform: true,
        ..Default::default()
    };
    let (text, info) = msl::write_string(&one.module, &one.info, &options, &pipeline)?;
    let names = info.entry_point_names.into_iter().next();
    Ok((text, names.ok_or("no entry point")??))
}

/// What the entry point of a text in Metal's language is called with, made of an `Invocation`. naga writes each parameter on a line.
fn msl_arguments(text: &str) -> Result<Vec<String>, Failure> {
    let (_, signature) = text.split_once("kernel void ").ok_or("no kernel")?;
    let (signature, _) = signature.split_once("\n) {").ok_or("no end")?;
    let mut shared = 0_u32..;
    let mut argument = |line: &str| {
        let attribute = line.split_once("[[").map_or("", |(_, rest)| rest);
        let attribute = attribute.trim_end_matches(']');
        if let Some(slot) = attribute.strip_prefix("buffer(") {
            return Ok(format!("at.buffer({slot}"));
        }
        match attribute {
            "threadgroup_position_in_grid" => Ok("at.group()".to_owned()),
            "thread_index_in_threadgroup" => Ok("at.local".to_owned()),
            "" if line.contains("threadgroup ") => {
                Ok(format!("at.shared({})", shared.next().unwrap_or(0)))
            }
            _ => Err(format!("an unknown parameter: {line}").into()),
        }
    };
    signature.lines().skip(1).map(&mut argument).collect()
}

fn hlsl_text(one: &One, dispatch: &Dispatch) -> Result<(String, String), Failure> {
    let mut options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        fake_missing_bindings: false,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    // Registers of a kind are counted by themselves.
    let mut next = [0; 3];
    for (binding, access) in bound(dispatch) {
        let register = match access {
            Access::Uniform => &mut next[0],
            Access::ReadOnlyStorage => &mut next[1],
            Access::Storage => &mut next[2],
        };
        let target = hlsl::BindTarget {
            register: *register,
            ..Default::default()
        };
        options.binding_map.insert(binding, target);
        *register += 1;
    }
    let pipeline = hlsl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, dispatch.entry_point.clone())),
    };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
    let names = writer
        .write(&one.module, &one.info, None)?
        .entry_point_names;
    let name = names.into_iter().next().ok_or("no entry point")??;
    Ok((text, name))
}
