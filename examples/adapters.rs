//! Every adapter of this machine: what it is, what this crate can do on it, and whether it computes the same bits as the CPU.
//!
//! `cargo run --release --example adapters`
//!
//! `--probe` only looks: it prints `gpu`, `software` or `none`, counting OpenGL only where it is a GPU's.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::process::ExitCode;
use std::time::Instant;

use wgpu_rope::{GpuContext, LayerTest};

fn main() -> ExitCode {
    let adapters = pollster::block_on(GpuContext::adapters());
    if std::env::args().any(|argument| argument == "--probe") {
        let is_gpu =
            |adapter: &wgpu::Adapter| adapter.get_info().device_type != wgpu::DeviceType::Cpu;
        let is_gl = |adapter: &wgpu::Adapter| adapter.get_info().backend == wgpu::Backend::Gl;
        println!(
            "{}",
            if adapters.iter().any(is_gpu) {
                "gpu"
            } else if adapters.iter().any(|adapter| !is_gl(adapter)) {
                "software"
            } else {
                "none"
            }
        );
        return ExitCode::SUCCESS;
    }
    let mut passed = !adapters.is_empty();
    if adapters.is_empty() {
        println!("No adapter was found.");
    }
    for adapter in &adapters {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        println!("{} ({})", info.name, info.backend);
        println!("  kind                   {:?}", info.device_type);
        println!(
            "  driver                 {} {}",
            info.driver, info.driver_info
        );
        let mib = |bytes: u64| bytes >> 20;
        let binding = limits.max_storage_buffer_binding_size;
        println!(
            "  largest binding        {} MiB: larger tensors are rotated in windows",
            mib(binding)
        );
        println!(
            "  largest buffer         {} MiB",
            mib(limits.max_buffer_size)
        );
        println!(
            "  table of 64 pairs      up to {} rows",
            (binding / 512).min(u32::MAX.into())
        );
        println!(
            "  storage alignment      {} bytes",
            limits.min_storage_buffer_offset_alignment
        );
        println!(
            "  workgroup, grid        {} invocations, {} groups a dimension",
            limits.max_compute_invocations_per_workgroup,
            limits.max_compute_workgroups_per_dimension
        );
        println!(
            "  storage buffers        {} (4 are needed, 8 for a layer in one dispatch)",
            limits.max_storage_buffers_per_shader_stage
        );
        println!(
            "  timestamps             {}",
            adapter.features().contains(wgpu::Features::TIMESTAMP_QUERY)
        );
        let start = Instant::now();
        let found = pollster::block_on(async {
            GpuContext::from_adapter(adapter).await?.self_test().await
        });
        match found {
            Ok(found) => {
                passed &= found.passed();
                println!(
                    "  self-test              {}: {} of {} table entries and {} of {} channels differ from the CPU ({:.1} s, most of it compiling)",
                    if found.passed() { "passed" } else { "FAILED" },
                    found.table_differences,
                    found.table_entries,
                    found.channel_differences,
                    found.channels,
                    start.elapsed().as_secs_f64(),
                );
                println!(
                    "  layer in one dispatch  {}",
                    match found.layer {
                        LayerTest::Compared {
                            channels,
                            differences,
                        } => format!("{differences} of {channels} channels differ from the CPU"),
                        LayerTest::LeftOut {
                            limit,
                            needed,
                            allowed,
                        } => format!("left out: {limit} is {allowed}, and {needed} are needed"),
                    }
                );
            }
            Err(error) => {
                passed = false;
                println!("  self-test              FAILED: {error}");
            }
        }
    }
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
