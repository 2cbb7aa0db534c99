//! The parts of `cargo xtask conformance` that need the crate: it makes the vectors, runs them on wgpu's native backends, holds
//! answers against what was expected and writes the matrix.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::thread;
use std::time::SystemTime;

use clap::{Parser, Subcommand};
use conformance::vectors::{Answers, Failure, Vectors};
use conformance::{cases, device, matrix, translate, verdict};
use wgpu_rope::GpuContext;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the file of vectors.
    Make {
        vectors: PathBuf,
        /// With wrong digits in the WGSL, and fewer of them.
        #[arg(long)]
        fault: bool,
    },
    /// Runs vectors on the adapter whose name contains a text, and writes the answers.
    Run {
        vectors: PathBuf,
        answers: PathBuf,
        /// Part of its name; without one, the first GPU.
        #[arg(long)]
        adapter: Option<String>,
        #[arg(long)]
        backend: Option<String>,
    },
    /// Succeeds where there is a GPU.
    HasGpu,
    /// Writes all pipelines in Metal's language, as C++ files and a list.
    Msl {
        vectors: PathBuf,
        folder: PathBuf,
        /// C++ files, to be compiled side by side; one for each core unless it is given.
        #[arg(long)]
        units: Option<usize>,
    },
    /// Writes all pipelines in HLSL, as files and a list.
    Hlsl { vectors: PathBuf, folder: PathBuf },
    /// Rewrites what DXC made of these, disassembled, for LLVM on the CPU.
    Dxil { folder: PathBuf },
    /// Compares answers with what was expected, and writes the verdict as JSON.
    Judge {
        vectors: PathBuf,
        answers: PathBuf,
        verdict: PathBuf,
    },
    /// Writes the matrix of a list of what became of each path, as OUT.md and OUT.json.
    Matrix {
        vectors: PathBuf,
        paths: PathBuf,
        out: PathBuf,
        /// Paths that may not have been skipped, with commas between.
        #[arg(long, value_delimiter = ',')]
        require: Vec<String>,
        /// Bits have to differ, in each group.
        #[arg(long)]
        fault: bool,
    },
}

fn main() -> Result<(), Failure> {
    match Arguments::parse().command {
        Command::Make { vectors, fault } => {
            let made = if fault {
                cases::faulty()?
            } else {
                cases::vectors()?
            };
            fs::write(vectors, made.to_file()?)?;
        }
        Command::Run {
            vectors,
            answers,
            adapter,
            backend,
        } => {
            let vectors = Vectors::from_file(&fs::read(vectors)?)?;
            let made = pollster::block_on(run(&vectors, adapter, backend))?;
            fs::write(answers, made.to_file()?)?;
        }
        Command::Msl {
            vectors,
            folder,
            units,
        } => {
            let vectors = Vectors::from_file(&fs::read(vectors)?)?;
            let cores = || thread::available_parallelism().map_or(1, usize::from);
            translate::to_msl(&vectors, &folder, units.unwrap_or_else(cores))?;
        }
        Command::Hlsl { vectors, folder } => {
            let vectors = Vectors::from_file(&fs::read(vectors)?)?;
            translate::to_hlsl(&vectors, &folder)?;
        }
        Command::Dxil { folder } => translate::dxil_for_cpu(&folder)?,
        Command::Judge {
            vectors,
            answers,
            verdict,
        } => {
            let vectors = Vectors::from_file(&fs::read(vectors)?)?;
            let answers = Answers::from_file(&fs::read(answers)?)?;
            let judged = verdict::judge(&vectors, &answers)?;
            fs::write(verdict, serde_json::to_vec_pretty(&judged)?)?;
        }
        Command::HasGpu => {
            let adapters = pollster::block_on(GpuContext::adapters());
            if !adapters.iter().any(is_gpu) {
                return Err("there is no GPU".into());
            }
        }
        Command::Matrix {
            vectors,
            paths,
            out,
            require,
            fault,
        } => {
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            let date = now.split('T').next().unwrap_or_default().to_owned();
            let paths = fs::read_to_string(paths)?;
            let matrix = matrix::read(&fs::read(vectors)?, &paths, date)?;
            let text = matrix.markdown();
            fs::write(out.with_extension("md"), &text)?;
            fs::write(
                out.with_extension("json"),
                serde_json::to_vec_pretty(&matrix)?,
            )?;
            writeln!(std::io::stdout(), "{text}")?;
            let names: Vec<_> = require.iter().filter(|name| !name.is_empty()).collect();
            let failing = matrix.failing(&names, fault);
            if !failing.is_empty() {
                return Err(failing.join(", ").into());
            }
        }
    }
    Ok(())
}

fn is_gpu(adapter: &wgpu::Adapter) -> bool {
    adapter.get_info().device_type != wgpu::DeviceType::Cpu
}

async fn run(
    vectors: &Vectors,
    adapter: Option<String>,
    backend: Option<String>,
) -> Result<Answers, Failure> {
    let adapters = GpuContext::adapters().await;
    let is_wanted = |found: &&wgpu::Adapter| {
        let info = found.get_info();
        let name = info.name.to_lowercase();
        let named = adapter.as_ref().map_or(is_gpu(found), |adapter| {
            name.contains(&adapter.to_lowercase())
        });
        named
            && backend
                .as_ref()
                .is_none_or(|backend| info.backend.to_str() == backend)
    };
    let found = adapters.iter().find(is_wanted);
    let found = found.ok_or_else(|| {
        let all: Vec<_> = adapters
            .iter()
            .map(|adapter| device::describe(&adapter.get_info()))
            .collect();
        format!("no {adapter:?} on {backend:?}; found: {}", all.join(" | "))
    })?;
    let context = GpuContext::from_adapter(found).await?;
    let test = context.self_test().await?;
    if !test.passed() {
        return Err(format!("the self-test of the crate fails: {test:?}").into());
    }
    device::answer(&context, vectors, || ()).await
}
