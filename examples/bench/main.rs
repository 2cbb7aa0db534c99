//! Measures the rotation on every adapter, each against the best plain in-place pass over the same bytes in the same run.
//!
//! `cargo run --release --example bench`
//!
//! `--help` lists the options. Ends with a non-zero code where a bit differs from the CPU's or an adapter fails.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks to its reader"
)]

mod args;
#[path = "../../benches/measure/mod.rs"]
mod measure;
mod plot;
mod report;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use wgpu_rope::GpuContext;

use args::Args;
use measure::{Candidate, Case, Clock, Plain, Workload};
use report::Row;

/// Bytes of the tensors of all layers on a GPU: past the caches of most.
const GPU_BYTES: u64 = 256 << 20;
/// Bytes that are rotated in one submission on a CPU: a tenth of a second or so.
const CPU_BYTES: u64 = 96 << 20;
/// Bytes that are rotated in a submission so short that its times scatter.
const SHORT: u64 = 16 << 20;
/// Dispatches of a submission on a GPU: the layers of a large model.
const DISPATCHES: u32 = 64;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True where everything could be measured and had the CPU's bits.
fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let adapters = pollster::block_on(GpuContext::adapters());
    if args.list_devices {
        for (n, adapter) in adapters.iter().enumerate() {
            let info = adapter.get_info();
            println!(
                "{n}: {} ({}, {:?}, {} {})",
                info.name, info.backend, info.device_type, info.driver, info.driver_info
            );
        }
        return Ok(!adapters.is_empty());
    }
    let chosen = chosen(args, &adapters)?;
    let workloads = args.workloads();
    let bar = ProgressBar::new((chosen.len() * workloads.len()) as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?,
    );
    let (mut rows, mut passed) = (Vec::new(), true);
    for adapter in chosen {
        let info = adapter.get_info();
        let context = pollster::block_on(GpuContext::from_adapter(adapter));
        for workload in &workloads {
            bar.set_message(format!(
                "{}, {}: {}",
                info.name, info.backend, workload.name
            ));
            let row = match &context {
                Ok(context) => measured(args, context, workload, &bar),
                Err(error) => Err(error.clone()),
            };
            match row {
                Ok(row) => {
                    passed &= row.bit_equal;
                    rows.push(row);
                }
                Err(error) => {
                    passed = false;
                    bar.suspend(|| {
                        eprintln!(
                            "{}, {}, {}: {error}",
                            info.name, info.backend, workload.name
                        );
                    });
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    print!("{}", report::written(args.output, &rows)?);
    if let Some(file) = &args.plot {
        plot::draw(file, &rows)?;
    }
    Ok(passed)
}

/// The adapters that were asked for.
fn chosen<'a>(
    args: &Args,
    adapters: &'a [wgpu::Adapter],
) -> Result<Vec<&'a wgpu::Adapter>, String> {
    let is_named = |n: usize, name: &str| {
        args.adapter.is_empty()
            || args
                .adapter
                .iter()
                .any(|wanted| match wanted.parse::<usize>() {
                    Ok(number) => number == n,
                    Err(_) => name.to_lowercase().contains(&wanted.to_lowercase()),
                })
    };
    let is_of =
        |backend| args.backend.is_empty() || args.backend.iter().any(|wanted| wanted.is(backend));
    let chosen: Vec<_> = adapters
        .iter()
        .enumerate()
        .filter(|(n, adapter)| {
            let info = adapter.get_info();
            is_named(*n, &info.name) && is_of(info.backend)
        })
        .map(|(_, adapter)| adapter)
        .collect();
    if chosen.is_empty() {
        return Err(format!(
            "none of {} adapters is one of those asked for: see --list-devices",
            adapters.len()
        ));
    }
    Ok(chosen)
}

fn measured(
    args: &Args,
    context: &GpuContext,
    workload: &Workload,
    bar: &ProgressBar,
) -> wgpu_rope::Result<Row> {
    let is_cpu = context.info().device_type == wgpu::DeviceType::Cpu;
    let bytes: u64 = workload.rotated_bytes().iter().sum();
    let dispatches = args.dispatches.unwrap_or(if is_cpu {
        u32::try_from(CPU_BYTES / bytes.max(1))
            .unwrap_or(DISPATCHES)
            .clamp(1, DISPATCHES)
    } else {
        DISPATCHES
    });
    let case = Case::new(context, workload, dispatches, GPU_BYTES)?;
    // Before anything is timed.
    let bit_equal = case.verify()?;
    let floors = case.floors();
    let mut candidates = vec![Candidate::new("rotation", |pass, n| case.rotate(pass, n))];
    candidates.push(Candidate::new("fill", |pass, _| case.refill(pass)));
    candidates.extend(floors.iter().map(Plain::candidate));
    let mut clock = Clock::new(context);
    let is_short = bytes * u64::from(dispatches) < SHORT;
    let rounds = args.rounds.unwrap_or(if is_short { 50 } else { 10 });
    let mut samples = clock.rounds(rounds, &candidates, dispatches, || bar.tick())?;
    let (rotation, fill) = (samples.remove(0), samples.remove(0));
    let floors = floors
        .iter()
        .map(|floor| floor.name.clone())
        .zip(samples)
        .collect();
    Row::new(
        &case,
        dispatches,
        bit_equal,
        rotation,
        fill,
        floors,
        clock.rejected(),
    )
}
