//! wgpu-rope and its peers on the same tensors, interleaved in one run, as one Markdown table.
//!
//! `cargo run --release -p peers -- [--rounds N] [--tokens N]`
//!
//! burn makes the device that all share, since only then it has all that it asks for. `CUBECL_WGPU_DEFAULT_DEVICE` (such as
//! `DiscreteGpu(0)`) chooses the adapter, among several drivers of Vulkan its loader's `VK_DRIVER_FILES`.
//! `--features burn-defaults` gives burn the fusion and autotune that it has by default.

mod burn;
mod candle;
mod gpu;
mod host;
#[path = "../../measure/mod.rs"]
mod measure;
mod naive;
mod workload;

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use wgpu_rope::{GpuContext, Pairing};

use workload::{HEAD_DIM, HEADS, KV_HEADS, PAIRS, THETA, Workload};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where positions start. Times are taken at the first.
const STARTS: [i32; 2] = [0, 131_072];
/// A candidate that is further off than this from position 0 on is not one of inexact angles but wired up wrongly.
const WRONG: f64 = 0.1;
/// Sequences that decode one token each.
const SEQUENCES: u32 = 64;

/// Compares wgpu-rope with its peers on Q and K of a Llama-3-8B layer.
#[derive(Parser)]
struct Args {
    /// Rounds of which medians are taken
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Tokens of the prefill
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    tokens: u32,
}

/// What is measured. A floor rotates nothing, and is not checked.
trait Candidate {
    /// Everything that is made before a step: inputs, and tables where they are not part of what is timed.
    fn set_up(&mut self, _positions: &[i32]) -> Result<()> {
        Ok(())
    }

    /// What is timed, until the device is done.
    fn rotate(&mut self) -> Result<()>;

    /// Q and K after one rotation.
    fn read(&self) -> Result<[Vec<f32>; 2]> {
        Err("has no result".into())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Gpu,
    Threads,
    Thread,
}

struct Entry<'a> {
    name: String,
    place: Place,
    /// None for a floor.
    pairing: Option<Pairing>,
    in_place: bool,
    /// Whether all tokens of all sequences of a decoding step are at one position.
    lockstep: bool,
    candidate: Box<dyn Candidate + 'a>,
    errors: Vec<f64>,
    times: Vec<Duration>,
}

impl<'a> Entry<'a> {
    fn new(
        name: impl Into<String>,
        place: Place,
        pairing: Option<Pairing>,
        candidate: impl Candidate + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            place,
            pairing,
            in_place: true,
            lockstep: false,
            candidate: Box::new(candidate),
            errors: Vec::new(),
            times: Vec::new(),
        }
    }

    fn out_of_place(self) -> Self {
        Self {
            in_place: false,
            ..self
        }
    }

    /// Rotates once from each start on, and is then set up for being timed.
    fn check(&mut self, workload: &Workload) -> Result<()> {
        let Some(pairing) = self.pairing else {
            return Ok(());
        };
        let rows = i32::try_from(workload.rows())?;
        let positions = |start: i32| -> Vec<i32> {
            (start..start + rows)
                .map(|position| {
                    if self.lockstep {
                        start + rows - 1
                    } else {
                        position
                    }
                })
                .collect()
        };
        for start in STARTS {
            let positions = positions(start);
            self.candidate.set_up(&positions)?;
            self.candidate.rotate()?;
            let made = self.candidate.read()?;
            self.errors
                .push(workload.max_error(pairing, &positions, &made));
        }
        if self.errors[0] > WRONG {
            return Err(format!(
                "{} ({}): error {:.1e} from position 0 on: it is wired up wrongly",
                self.name, workload.name, self.errors[0]
            )
            .into());
        }
        self.candidate.set_up(&positions(STARTS[0]))
    }

    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (burn_device, setup) = ::burn::tensor::Device::wgpu_options().init_with_setup()?;
    let context = GpuContext::from_device(&setup.device, &setup.queue)?;
    header(&context, args.rounds)?;
    println!(
        "| implementation | where | pairing | in place | workload | median ms | to the floor | max error @{} | @{} |",
        STARTS[0], STARTS[1]
    );
    println!("|---|---|---|---|---|---:|---:|---:|---:|");
    let prefill = format!("prefill, {} tokens", args.tokens);
    let decode = format!("decode, {SEQUENCES} sequences");
    for (name, batch, tokens) in [(prefill, 1, args.tokens), (decode, SEQUENCES, 1)] {
        let workload = Workload::new(name, batch, tokens);
        measure(&context, &burn_device, &workload, args.rounds)?;
    }
    Ok(())
}

/// What the reader has to know to read the table.
fn header(context: &GpuContext, rounds: u16) -> Result<()> {
    let info = context.info();
    println!("- adapter: {} ({})", info.name, info.backend);
    println!("- driver: {} {}", info.driver, info.driver_info);
    if info.device_type == wgpu::DeviceType::Cpu {
        println!(
            "- a software driver on the CPU: its times in ms mean nothing, ratios to its floor something"
        );
    }
    println!("- CPU: {} threads", rayon::current_num_threads());
    println!(
        "- versions: wgpu-rope {}, burn {}, cubecl-wgpu {}, candle-nn {}, wgpu {}",
        version("wgpu-rope")?,
        version("burn")?,
        version("cubecl-wgpu")?,
        version("candle-nn")?,
        version("wgpu")?
    );
    println!(
        "- Q [batch, {HEADS}, tokens, {HEAD_DIM}] and K [batch, {KV_HEADS}, tokens, {HEAD_DIM}], f32, theta {THETA}, the same bytes for all"
    );
    println!(
        "- medians of {rounds} interleaved rounds, wall time from the host's call until the device is done; positions from {} on",
        STARTS[0]
    );
    println!(
        "- what works out of place allocates its result and frees the last one in that time; tables are made before, unless said otherwise"
    );
    println!("- max error: largest difference from a rotation in f64, inputs from -1 to 1");
    println!();
    Ok(())
}

/// The version of a package in the workspace's lock file.
fn version(package: &str) -> Result<&'static str> {
    let (_, after) = include_str!("../../../Cargo.lock")
        .split_once(&format!("name = \"{package}\"\nversion = \""))
        .ok_or_else(|| format!("Cargo.lock has no {package}"))?;
    Ok(after.split('"').next().unwrap_or_default())
}

fn measure(
    context: &GpuContext,
    burn_device: &::burn::tensor::Device,
    workload: &Workload,
    rounds: u16,
) -> Result<()> {
    let on = gpu::Tensors::new(context, workload)?;
    let mut entries = entries(&on, burn_device)?;
    for entry in &mut entries {
        eprintln!("{}: checking {}", workload.name, entry.name);
        entry.check(workload)?;
    }
    for round in 0..=rounds {
        eprintln!("{}: round {round} of {rounds}", workload.name);
        for entry in &mut entries {
            let start = Instant::now();
            entry.candidate.rotate()?;
            let time = start.elapsed();
            // The first round warms up.
            if round > 0 {
                entry.times.push(time);
            }
        }
    }
    print(&entries, workload);
    Ok(())
}

fn entries<'a>(
    on: &'a gpu::Tensors<'a>,
    burn_device: &::burn::tensor::Device,
) -> Result<Vec<Entry<'a>>> {
    let workload = on.workload;
    let pairings = [Pairing::HalfSplit, Pairing::Interleaved];
    let mut entries = Vec::new();
    for pairing in pairings {
        for (name, fills) in [
            ("wgpu-rope, rotation", false),
            ("wgpu-rope, table and rotation", true),
        ] {
            let rope = gpu::Rope::new(on, pairing, fills)?;
            entries.push(Entry::new(name, Place::Gpu, Some(pairing), rope));
        }
    }
    for pairing in pairings {
        for (name, angles) in [
            ("float WGSL, f32 table", naive::Angles::Table),
            ("float WGSL, angles in the kernel", naive::Angles::InKernel),
        ] {
            let naive = naive::Naive::new(on, pairing, angles);
            entries.push(Entry::new(name, Place::Gpu, Some(pairing), naive));
        }
    }
    let burn = burn::Burn::new(burn_device, workload);
    let interleaved = Some(Pairing::Interleaved);
    // It takes one start for all of a batch.
    let lockstep = workload.batch > 1;
    let name = if lockstep {
        format!("{}, all at one position", burn::NAME)
    } else {
        burn::NAME.to_owned()
    };
    entries.push(Entry {
        lockstep,
        ..Entry::new(name, Place::Gpu, interleaved, burn).out_of_place()
    });
    for (name, floor) in on.floors() {
        entries.push(Entry::new(name, Place::Gpu, None, floor));
    }
    for pairing in pairings {
        let (name, candle) = (
            candle::name(pairing),
            candle::Candle::new(workload, pairing)?,
        );
        // candle shares out the heads of a prefill, and no decoding step.
        let place = if workload.tokens > 1 {
            Place::Threads
        } else {
            Place::Thread
        };
        entries.push(Entry::new(name, place, Some(pairing), candle).out_of_place());
    }
    for pairing in pairings {
        let twin = host::Twin::new(workload, pairing)?;
        let name = "wgpu-rope, CPU twin";
        entries.push(Entry::new(name, Place::Threads, Some(pairing), twin));
    }
    for chunk in [1 << 12, 1 << 16, 1 << 20] {
        let name = format!("in-place pass, {chunk} values a piece");
        let pass = host::Pass::new(workload, chunk);
        entries.push(Entry::new(name, Place::Threads, None, pass));
    }
    Ok(entries)
}

/// The rows of a workload; of the floors only the best.
fn print(entries: &[Entry<'_>], workload: &Workload) {
    for on_gpu in [true, false] {
        let here = || {
            entries
                .iter()
                .filter(move |entry| (entry.place == Place::Gpu) == on_gpu)
        };
        let floor = here()
            .filter(|entry| entry.pairing.is_none())
            .min_by_key(|entry| entry.median());
        let best = floor.map(Entry::median).unwrap_or_default();
        for entry in here().filter(|entry| entry.pairing.is_some()).chain(floor) {
            let place = match entry.place {
                Place::Gpu => "GPU",
                Place::Threads => "CPU",
                Place::Thread => "CPU, 1 thread",
            };
            let pairing = match entry.pairing {
                None => "none: the floor",
                Some(Pairing::Interleaved) => "interleaved",
                Some(_) => "half-split",
            };
            let errors: Vec<String> = (0..STARTS.len())
                .map(|at| (entry.errors.get(at)).map_or("-".into(), |error| format!("{error:.1e}")))
                .collect();
            println!(
                "| {} | {place} | {pairing} | {} | {} | {:.3} | {:.2} | {} |",
                entry.name,
                if entry.in_place { "yes" } else { "no" },
                workload.name,
                entry.median().as_secs_f64() * 1e3,
                entry.median().as_secs_f64() / best.as_secs_f64(),
                errors.join(" | ")
            );
        }
    }
}

/// Rows of (cos, sin) as those make them who compute in f32: frequency, angle, cos and sin each rounded to f32.
#[expect(
    clippy::cast_precision_loss,
    reason = "what f32 angles lose is to be seen"
)]
fn f32_table(positions: &[i32]) -> Vec<[f32; 2]> {
    let inv_freq: Vec<f32> = (0..PAIRS)
        .map(|pair| THETA.powf(-((2 * pair) as f32) / HEAD_DIM as f32))
        .collect();
    positions
        .iter()
        .flat_map(|&position| {
            inv_freq.iter().map(move |w| {
                let (sin, cos) = (position as f32 * w).sin_cos();
                [cos, sin]
            })
        })
        .collect()
}
