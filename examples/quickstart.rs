//! Rotates Q and K of a Llama-3.1-8B layer in place on a GPU, and checks every bit.
//!
//! `cargo run --release --features huggingface --example quickstart`
//!
//! `WGPU_BACKEND` (vulkan, metal, dx12, gl) and `WGPU_ADAPTER_NAME` choose the adapter. Ends with a non-zero code where a bit
//! differs from the CPU's.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

#[path = "../benches/measure/mod.rs"]
mod measure;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use measure::{Candidate, Clock, median};
use safetensors::SafeTensors;
use wgpu_rope::config::huggingface;
use wgpu_rope::{
    ElementType, Frequencies, GpuContext, HeadLayout, Operands, Positions, RopeConfig, RopePlan,
    RotateSpec, Rows, TableSpec, reference,
};

const TOKENS: u32 = 4096;
const HEADS: u32 = 32;
const KV_HEADS: u32 = 8;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(here.join("examples/data/llama-3.1-8b.json"))?;
    let model = huggingface::read_config(&text)?.ok_or("the model has no RoPE")?;
    let config = model.only()?.config.clone();
    let frequencies = Frequencies::new(&config)?;

    let context = GpuContext::new_blocking()?;
    let info = context.info();
    println!("adapter   {}", info.name);
    println!("driver    {} {}", info.driver, info.driver_info);
    println!("backend   {} ({:?})", info.backend, info.device_type);
    println!();

    let layer = layer(&context, &config, &frequencies)?;
    let golden = golden(&context, here)?;
    if layer && golden {
        Ok(ExitCode::SUCCESS)
    } else {
        println!("\nBits differ from the CPU's: this driver does not compute as it has to.");
        Ok(ExitCode::FAILURE)
    }
}

/// Prefill of one layer. True where all bits equal the CPU's.
fn layer(
    context: &GpuContext,
    config: &RopeConfig,
    frequencies: &Frequencies,
) -> Result<bool, Box<dyn Error>> {
    let head_dim = config.head_dim();
    println!(
        "Llama-3.1-8B layer: Q [1, {TOKENS}, {HEADS}, {head_dim}], K [1, {TOKENS}, {KV_HEADS}, {head_dim}], f32, in place"
    );
    let query = noise(TOKENS * HEADS * head_dim);
    let key = noise(TOKENS * KV_HEADS * head_dim);
    let usage = wgpu::BufferUsages::empty();
    let (q, k) = (context.upload(&query, usage)?, context.upload(&key, usage)?);

    // The whole use of the crate: a table, its fill, a plan, a binding.
    let kernel = context.kernel();
    let table = kernel.table(&TableSpec::new(frequencies), TOKENS)?;
    let fill = table.bind_positions(Positions::From(0))?;
    let layout = |heads| HeadLayout::bshd(TOKENS, heads, head_dim);
    let spec = RotateSpec::new(config, 1, TOKENS, layout(HEADS), ElementType::F32)
        .with_key(layout(KV_HEADS), ElementType::F32);
    let prepared = kernel.prepare(&RopePlan::new(&spec, kernel.limits())?)?;
    let rotation = prepared.bind(&Operands::new(q.slice(..)).with_key(k.slice(..)), &table)?;
    context.run(|pass| {
        fill.record(pass, TOKENS)?;
        rotation.record(pass, TOKENS)
    })?;

    // Checked before anything is timed.
    let start = Instant::now();
    let positions: Vec<i32> = (0..TOKENS.try_into()?).collect();
    let rows = reference::table(&TableSpec::new(frequencies), (&positions).into())?;
    let (mut cpu_query, mut cpu_key) = (query.clone(), key.clone());
    reference::rotate(&spec, &rows, &mut cpu_query, Some(&mut cpu_key))?;
    let cpu = start.elapsed();
    let gpu_query: Vec<f32> = context.read_blocking(&q, query.len())?;
    let gpu_key: Vec<f32> = context.read_blocking(&k, key.len())?;
    let differ = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count()
    };
    let differing = differ(&gpu_query, &cpu_query) + differ(&gpu_key, &cpu_key);
    let mut error = 0.0_f64;
    for (made, before, heads) in [(&gpu_query, &query, HEADS), (&gpu_key, &key, KV_HEADS)] {
        let alone = RotateSpec::new(config, 1, TOKENS, layout(heads), ElementType::F32);
        let truth = reference::rotate_f64(
            &alone,
            &TableSpec::new(frequencies),
            (&positions).into(),
            before,
        )?;
        error = made
            .iter()
            .zip(&truth)
            .fold(error, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
    }

    // Times: medians of interleaved rounds, and the best in-place pass over the same bytes in the same run.
    let floors = measure::floors(context, &[[q.slice(..), k.slice(..)]], 16, 16);
    let mut candidates = vec![
        Candidate::new("table", |pass, _| fill.record(pass, TOKENS)),
        Candidate::new("rotation", |pass, _| rotation.record(pass, TOKENS)),
    ];
    candidates.extend(floors.iter().map(measure::Plain::candidate));
    let times: Vec<_> = Clock::new(context)
        .rounds(7, &candidates, 1, || ())?
        .iter()
        .map(|samples| median(samples.iter().map(|sample| sample.wall)))
        .collect::<Result<_, _>>()?;
    let best = times[2..].iter().min().copied().unwrap_or(Duration::ZERO);
    let bytes = 2.0 * 4.0 * (query.len() + key.len()) as f64;
    println!(
        "  table     {:>9.3} ms   {} rows of {} pairs",
        ms(times[0]),
        TOKENS,
        frequencies.len()
    );
    println!(
        "  rotation  {:>9.3} ms   {:.2} GB/s read and written",
        ms(times[1]),
        bytes / times[1].as_secs_f64() / 1e9
    );
    println!(
        "  floor     {:>9.3} ms   best plain in-place pass over the same bytes",
        ms(best)
    );
    println!(
        "  ratio     {:>9.2}      rotation to floor",
        times[1].as_secs_f64() / best.as_secs_f64()
    );
    println!("  CPU twin  {:>9.3} ms   table and rotation", ms(cpu));
    println!(
        "  bits      {differing} of {} differ from the CPU twin",
        query.len() + key.len()
    );
    println!("  accuracy  max error {error:.2e} against f64");
    if context.info().device_type == wgpu::DeviceType::Cpu {
        println!("  (a software driver on the CPU: only the ratio means anything)");
    }
    println!();
    Ok(differing == 0)
}

/// A case made by another implementation. True where all bits equal the CPU's.
fn golden(context: &GpuContext, here: &Path) -> Result<bool, Box<dyn Error>> {
    let folder = here.join("tests/golden");
    if !folder.exists() {
        println!(
            "The case of another implementation is in the repository only: not compared here."
        );
        return Ok(true);
    }
    let case: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("llama31_8b_llama3.json"))?)?;
    println!(
        "The same model in {}: positions up to {}",
        case["source"].as_str().unwrap_or("?"),
        case["max_position"]
    );
    let file = std::fs::read(folder.join("llama31_8b_llama3.safetensors"))?;
    let tensors = SafeTensors::deserialize(&file)?;
    let model = huggingface::read_config(&case["config"].to_string())?;
    let config = model.ok_or("the model has no RoPE")?.only()?.config.clone();
    let frequencies = Frequencies::new(&config)?;
    let positions = tensors
        .tensor("position_ids")?
        .data()
        .chunks_exact(8)
        .map(|bytes| Ok(i32::try_from(i64::from_le_bytes(bytes.try_into()?))?))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let (mut differing, mut count) = (0, 0);
    for (input, truth, theirs) in [
        ("q", "truth_q", "expected_q"),
        ("k", "truth_k", "expected_k"),
    ] {
        let shape = tensors.tensor(input)?.shape().to_vec();
        let [batch, heads, tokens] = [shape[0], shape[1], shape[2]].map(u32::try_from);
        let (batch, tokens) = (batch?, tokens?);
        let layout = HeadLayout::bhsd(tokens, heads?, config.head_dim());
        let spec = RotateSpec::new(&config, batch, tokens, layout, ElementType::F32)
            .with_rows(Rows::PerToken);
        let mut gpu: Vec<f32> = bytemuck::pod_collect_to_vec(tensors.tensor(input)?.data());
        let mut cpu = gpu.clone();
        context.rotate_blocking(
            &spec,
            &TableSpec::new(&frequencies),
            (&positions).into(),
            &mut gpu,
            None,
        )?;
        let rows = reference::table(&TableSpec::new(&frequencies), (&positions).into())?;
        reference::rotate(&spec, &rows, &mut cpu, None)?;
        differing += gpu
            .iter()
            .zip(&cpu)
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count();
        count += gpu.len();
        let truth: Vec<f64> = bytemuck::pod_collect_to_vec(tensors.tensor(truth)?.data());
        let theirs: Vec<f32> = bytemuck::pod_collect_to_vec(tensors.tensor(theirs)?.data());
        let worst = |made: &[f32]| {
            made.iter()
                .zip(&truth)
                .fold(0.0_f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()))
        };
        println!(
            "  {input}: max error against its f64 truth {:.2e}, its own f32 result {:.2e}",
            worst(&gpu),
            worst(&theirs)
        );
    }
    println!("  bits      {differing} of {count} differ from the CPU twin");
    Ok(differing == 0)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Values from -1 to 1.
fn noise(count: u32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}
