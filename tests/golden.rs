//! Rotations by other implementations (transformers 5.23 with torch, ONNX, ggml): every one's file is read as a user would, and
//! rotated on every adapter and on the CPU. `tests/golden/README.md` says where they come from.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::path::Path;

use common::{CONTEXTS, name};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use wgpu_rope::config::{LayerRope, huggingface};
use wgpu_rope::positions::GridRows;
use wgpu_rope::{
    Angles, AxisOrder, CosSinLayout, Direction, Element, Frequencies, GpuContext, HeadLayout, Pair,
    Pairing, RopeConfig, RotateSpec, RowPositions, Scaling, TableSpec, half, reference,
};

fn golden(file: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(file),
    )
    .unwrap()
}

/// The tensors of all cases.
struct Tensors<'a>(SafeTensors<'a>);

impl Tensors<'_> {
    fn get<T: bytemuck::Pod>(&self, name: &str, dtype: Dtype) -> Option<Vec<T>> {
        let tensor = self.0.tensor(name).ok()?;
        assert_eq!(tensor.dtype(), dtype, "{name}");
        Some(bytemuck::pod_collect_to_vec(tensor.data()))
    }

    fn f64s(&self, name: &str) -> Option<Vec<f64>> {
        self.get(name, Dtype::F64)
    }

    fn ids(&self, name: &str) -> Option<Vec<i32>> {
        let ids: Vec<i64> = self.get(name, Dtype::I64)?;
        Some(wgpu_rope::positions::ids_from_i64(&ids).unwrap())
    }
}

/// What a case rotates with.
struct Job {
    spec: RotateSpec,
    table: TableSpec,
    rows: Rows,
    factor: f64,
}

enum Rows {
    Ids(Vec<i32>, u32),
    Grid(GridRows),
    Cached([Vec<f32>; 2], Vec<i32>),
}

impl Rows {
    fn as_rows(&self) -> RowPositions<'_> {
        match self {
            Self::Ids(ids, rows) => RowPositions::IdsPerAxis(ids, AxisOrder::First { rows: *rows }),
            Self::Grid(rows) => rows.as_rows(),
            Self::Cached(_, ids) => RowPositions::Ids(ids),
        }
    }

    fn is_fractional(&self) -> bool {
        matches!(self, Self::Grid(GridRows::Coordinates(_)))
    }
}

/// The layer that a case is of, from its config.json.
fn layer(case: &Value) -> LayerRope {
    let text = case["config"].to_string();
    let part = if case["vision"] == true {
        huggingface::Part::Vision
    } else {
        huggingface::Part::Main
    };
    let model = huggingface::read_part(&text, part).unwrap().unwrap();
    match case["layer_type"].as_str() {
        Some(name) => model.kind(name).unwrap().rope.clone().unwrap(),
        None => model.only().unwrap().clone(),
    }
}

fn job(case: &Value, tensors: &Tensors<'_>, tokens: u32, element: wgpu_rope::ElementType) -> Job {
    let name = case["name"].as_str().unwrap();
    let (kind, head_dim) = (
        case["kind"].as_str().unwrap(),
        case["head_dim"].as_u64().unwrap() as u32,
    );
    let ids = tensors.ids(&format!("{name}/positions"));
    let direction = if case["direction"] == -1 {
        Direction::Adjoint
    } else {
        Direction::Forward
    };
    let layout = |tokens| HeadLayout::bshd(tokens, 1, head_dim);
    let pairing = match case["pairing"].as_str().unwrap() {
        "interleaved" => Pairing::Interleaved,
        _ => Pairing::HalfSplit,
    };
    let own = RopeConfig::new(head_dim)
        .with_pairing(pairing)
        .with_rotary_dim(case["rotary_dim"].as_u64().unwrap() as u32);
    if kind == "onnx" {
        let cache = ["cos", "sin"].map(|side| {
            tensors
                .get::<f32>(&format!("{name}/{side}"), Dtype::F32)
                .unwrap()
        });
        let layout_of = CosSinLayout {
            positions: 50,
            columns: cache[0].len() as u32 / 50,
            pairs: own.rotary_dim() / 2,
            element: wgpu_rope::ElementType::F32,
        };
        return Job {
            spec: RotateSpec::new(&own, 1, tokens, layout(tokens), element),
            table: TableSpec::from_cos_sin(layout_of),
            rows: Rows::Cached(cache, ids.unwrap()),
            factor: 1.0,
        };
    }
    let factor = case["attention_scaling"].as_f64().unwrap();
    let listed = tensors.f64s(&format!("{name}/inv_freq"));
    let (config, frequencies, grid) = if kind == "ggml" {
        // ggml's op has no file: its frequencies are the case's, and where it takes factors, the rule's.
        let factors: Option<Vec<f32>> = tensors.get(&format!("{name}/freq_factors"), Dtype::F32);
        let frequencies = match factors {
            Some(factors) => {
                let factors = factors.into_iter().map(f64::from).collect();
                let config = own.clone().with_theta(5e5);
                Frequencies::new(&config.with_scaling(Scaling::FrequencyFactors(factors))).unwrap()
            }
            None => {
                let pairs = listed
                    .clone()
                    .unwrap()
                    .into_iter()
                    .map(|inv_freq| Pair { inv_freq, axis: 0 });
                Frequencies::from_pairs(pairs, factor).unwrap()
            }
        };
        (own, frequencies, None)
    } else {
        let layer = layer(case);
        let length = case["length"].as_u64().unwrap();
        let frequencies = Frequencies::for_length(&layer.config, length).unwrap();
        // The tensors of latent attention are rope slices.
        let config = if layer.config.head_dim() == head_dim {
            layer.config
        } else {
            assert_eq!(layer.config.rotary_dim(), head_dim, "{name}");
            layer.config.with_head_dim(head_dim).with_rotary_offset(0)
        };
        (config, frequencies, layer.grid)
    };
    assert!(
        (frequencies.attention_factor() / factor - 1.0).abs() < 1e-12,
        "{name}"
    );
    if let Some(listed) = listed {
        let order = config
            .axes()
            .inv_freq_order(config.rotary_dim() / 2, listed.len())
            .unwrap();
        for (own, at) in frequencies.inv_freq().zip(order) {
            let error = (own - listed[at]).abs();
            assert!(
                error <= 1e-12 * listed[at].abs(),
                "{name}: {own} {}",
                listed[at]
            );
        }
    }
    let table = TableSpec::new(&frequencies).with_direction(direction);
    if let Some(size) = case["extra"]["image_hw"].as_array() {
        let grid = grid.unwrap();
        let [height, width] = [&size[0], &size[1]].map(|side| side.as_u64().unwrap() as u32);
        let rows = grid.rows(&grid.grid(height, width).unwrap()).unwrap();
        let prefix = case["extra"]["prefix_tokens"].as_u64().unwrap() as u32;
        let count = tokens - prefix;
        return Job {
            spec: RotateSpec::new(
                &config,
                1,
                count,
                layout(tokens).skip_tokens(prefix),
                element,
            )
            .with_frequencies(&frequencies),
            table: table.with_angles(Angles::F32),
            rows: Rows::Grid(rows),
            factor,
        };
    }
    Job {
        spec: RotateSpec::new(&config, 1, tokens, layout(tokens), element)
            .with_frequencies(&frequencies),
        table,
        rows: Rows::Ids(ids.unwrap(), tokens),
        factor,
    }
}

/// Rotates a case on the CPU and on every adapter, and compares with the truth. Returns the largest error in units of the scale.
fn check<T: Element>(case: &Value, tensors: &Tensors<'_>, dtype: Dtype) -> f64 {
    let label = case["name"].as_str().unwrap();
    let input: Vec<T> = tensors.get(&format!("{label}/q"), dtype).unwrap();
    let truth = tensors.f64s(&format!("{label}/truth")).unwrap();
    let tokens = (input.len() / case["head_dim"].as_u64().unwrap() as usize) as u32;
    let job = job(case, tensors, tokens, T::TYPE);
    let mut cpu = input.clone();
    let rows = match &job.rows {
        Rows::Cached([cos, sin], ids) => reference::table_from_cos_sin(&job.table, cos, sin, ids),
        rows => reference::table(&job.table, rows.as_rows()),
    };
    reference::rotate(&job.spec, &rows.unwrap(), &mut cpu, None).unwrap();

    let largest = input
        .iter()
        .fold(0.0_f64, |most, x| most.max(x.widen().abs().into()));
    let scale = largest * job.factor.abs() * std::f64::consts::SQRT_2;
    // Whole positions: cos, sin, a product and a sum are rounded to nearest, each within 2^-24, as in tests/rotate.rs; the factor is
    // rounded too. Coordinates: an angle of up to 2 pi is rounded three times before that (coordinate, frequency, product).
    let bound = if job.rows.is_fractional() {
        (4.01 + 3.0 * std::f64::consts::TAU) * 2_f64.powi(-24) * scale
    } else {
        4.01 * 2_f64.powi(-24) * scale
    };
    // And one rounding to the element type: half a unit in the last place, whose least is that of the smallest normal number.
    let (bits, least) = match dtype {
        Dtype::F16 => (11, 2_f64.powi(-25)),
        Dtype::BF16 => (8, 0.0),
        _ => (53, 0.0),
    };
    let mut worst = 0.0_f64;
    for (i, (result, truth)) in cpu.iter().zip(&truth).enumerate() {
        let error = (f64::from(result.widen()) - truth).abs();
        let rounding = ((truth.abs() + bound) * 2_f64.powi(-bits)).max(least);
        assert!(
            error <= bound + rounding,
            "{label} {i}: {} {truth}",
            result.widen()
        );
        worst = worst.max(error / scale);
    }
    for context in &*CONTEXTS {
        let mut gpu = input.clone();
        on_gpu(context, &job, &mut gpu);
        let differing = gpu
            .iter()
            .zip(&cpu)
            .filter(|(a, b)| a.widen().to_bits() != b.widen().to_bits());
        assert_eq!(differing.count(), 0, "{label} on {}", name(context));
    }
    worst
}

fn on_gpu<T: Element>(context: &GpuContext, job: &Job, data: &mut [T]) {
    match &job.rows {
        Rows::Cached([cos, sin], ids) => {
            let done =
                context.rotate_with_cos_sin(&job.spec, &job.table, cos, sin, ids, data, None);
            pollster::block_on(done).unwrap();
        }
        rows => context
            .rotate_blocking(&job.spec, &job.table, rows.as_rows(), data, None)
            .unwrap(),
    }
}

#[test]
fn every_case_is_rotated_as_it_truly_is() {
    let file = golden("cases.safetensors");
    let tensors = Tensors(SafeTensors::deserialize(&file).unwrap());
    let cases: Value = serde_json::from_slice(&golden("cases.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 36);
    for case in cases {
        let tensor = format!("{}/q", case["name"].as_str().unwrap());
        let worst = match tensors.0.tensor(&tensor).unwrap().dtype() {
            Dtype::F16 => check::<f16>(case, &tensors, Dtype::F16),
            Dtype::BF16 => check::<bf16>(case, &tensors, Dtype::BF16),
            dtype => check::<f32>(case, &tensors, dtype),
        };
        eprintln!(
            "{}: {worst:.1e} of the scale",
            case["name"].as_str().unwrap()
        );
    }
}

/// The distance of two f32 in units in the last place.
fn ulps(a: f32, b: f32) -> u32 {
    let ordered = |x: f32| {
        let bits = x.to_bits().cast_signed();
        if bits < 0 { i32::MIN - bits } else { bits }
    };
    ordered(a).abs_diff(ordered(b))
}

/// f32 angles with a model's own f32 frequencies: torch's cos and sin, within their own rounding of one unit in the last place.
#[test]
fn f32_angles_are_torchs() {
    let file = golden("cases.safetensors");
    let tensors = Tensors(SafeTensors::deserialize(&file).unwrap());
    for model in [
        "llama2_7b_default",
        "llama31_8b_llama3",
        "phi2_partial40_hd80",
    ] {
        let of = |name: &str| -> Vec<f32> {
            tensors
                .get(&format!("torch/{model}/{name}"), Dtype::F32)
                .unwrap()
        };
        let (inv_freq, cos, sin) = (of("inv_freq"), of("cos"), of("sin"));
        let ids = tensors.ids(&format!("torch/{model}/positions")).unwrap();
        let pairs = inv_freq.iter().map(|&w| Pair {
            inv_freq: w.into(),
            axis: 0,
        });
        let frequencies = Frequencies::from_pairs(pairs, 1.0).unwrap();
        let spec = TableSpec::new(&frequencies).with_angles(Angles::F32);
        let rows = reference::table(&spec, (&ids).into()).unwrap();
        let mut equal = 0;
        for (i, [c, s]) in rows.iter().enumerate() {
            let apart = [ulps(*c, cos[i]), ulps(*s, sin[i])];
            assert!(
                apart.iter().all(|&ulps| ulps <= 1),
                "{model} {i}: {c} {} {s} {}",
                cos[i],
                sin[i]
            );
            equal += apart.iter().filter(|&&ulps| ulps == 0).count();
        }
        // Torch's library is not correctly rounded, but mostly right.
        assert!(
            equal * 10 > rows.len() * 2 * 8,
            "{model}: {equal} of {}",
            rows.len() * 2
        );
        // Exact angles are not what the model was trained with: at position 2^24 + 1 they are far off.
        let exact = reference::table(&TableSpec::new(&frequencies), (&ids).into()).unwrap();
        assert!(
            exact
                .iter()
                .zip(&cos)
                .any(|(row, cos)| (row[0] - cos).abs() > 0.1)
        );
    }
}
