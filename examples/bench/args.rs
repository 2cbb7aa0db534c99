//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};
use wgpu_rope::{ElementType, Pairing};

use crate::measure::{Layout, Workload};

/// Measures the rotation of Q and K in place against the best plain in-place pass over the same bytes, on every adapter.
///
/// Without arguments: prefill 512, prefill 4096, decode 1 and decode 64 of a Llama-3-8B layer (32 and 8 heads of 128 channels, f32, half-split).
/// Lists are separated by commas; every combination is measured. A list of shapes replaces the four workloads.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Args {
    /// Print adapters and end.
    #[arg(long)]
    pub(crate) list_devices: bool,
    /// Adapters, by their number in --list-devices or a part of their name.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) adapter: Vec<String>,
    /// Backends: vulkan, metal, dx12, gl, webgpu.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) backend: Vec<BackendName>,

    /// Tokens of each batch entry [512].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive())]
    pub(crate) tokens: Vec<u32>,
    /// Batch entries [1].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive())]
    pub(crate) batch: Vec<u32>,
    /// Heads of Q [32].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive())]
    pub(crate) heads: Vec<u32>,
    /// Heads of K [8]; 0 for Q alone.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) kv_heads: Vec<u32>,
    /// Channels of a head [128].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive())]
    pub(crate) head_dim: Vec<u32>,
    /// Channels that are rotated, the first of each head [all].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive())]
    pub(crate) rotary_dim: Vec<u32>,
    /// Order of the dimensions: batch, sequence, heads, channels.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "bshd"
    )]
    pub(crate) layout: Vec<LayoutName>,
    /// Element types.
    #[arg(
        long = "type",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "f32"
    )]
    pub(crate) element: Vec<TypeName>,
    /// Which channels form a pair.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "half-split"
    )]
    pub(crate) pairing: Vec<PairingName>,
    /// Heads that a thread rotates with one load of cos and sin, 1 to 8 [chosen by shape and kind of device].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = RangedU64ValueParser::<u32>::new().range(1..=8))]
    pub(crate) heads_per_thread: Vec<u32>,
    /// Heads that it loads before it stores the first of them, 1 to 4 [1 on a CPU, 4 on a GPU].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = RangedU64ValueParser::<u32>::new().range(1..=4))]
    pub(crate) heads_at_once: Vec<u32>,
    /// Threads of a workgroup [chosen by shape and kind of device].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = positive())]
    pub(crate) workgroup: Vec<u32>,

    /// Rounds; in each, every candidate is measured once [10, 50 of short submissions]. One more before them is thrown away.
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(crate) rounds: Option<u32>,
    /// Dispatches of a submission [64 on a GPU, fewer of long ones on a CPU].
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(crate) dispatches: Option<u32>,
    /// What is printed.
    #[arg(long, default_value = "md")]
    pub(crate) output: Output,
    /// Draws the ratios to the floor.
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

fn positive() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    Vulkan,
    Metal,
    Dx12,
    #[value(alias = "gles", alias = "opengl")]
    Gl,
    Webgpu,
}

impl BackendName {
    pub(crate) fn is(self, backend: wgpu::Backend) -> bool {
        backend
            == match self {
                Self::Vulkan => wgpu::Backend::Vulkan,
                Self::Metal => wgpu::Backend::Metal,
                Self::Dx12 => wgpu::Backend::Dx12,
                Self::Gl => wgpu::Backend::Gl,
                Self::Webgpu => wgpu::Backend::BrowserWebGpu,
            }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutName {
    Bshd,
    Bhsd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TypeName {
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PairingName {
    #[value(alias = "half")]
    HalfSplit,
    Interleaved,
    InterleavedToHalfSplit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Md,
    Csv,
    Json,
}

/// What a list was given, or its only default.
fn or<T: Clone>(list: &[T], default: T) -> Vec<T> {
    if list.is_empty() {
        vec![default]
    } else {
        list.to_vec()
    }
}

/// A list of settings that may be left to the crate.
fn chosen(list: &[u32]) -> Vec<Option<u32>> {
    or(&list.iter().copied().map(Some).collect::<Vec<_>>(), None)
}

impl Args {
    /// Everything to measure on each adapter.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let mut all = self.shapes();
        all = each(all, &self.layout, |workload, layout| {
            workload.layout = match layout {
                LayoutName::Bshd => Layout::Bshd,
                LayoutName::Bhsd => Layout::Bhsd,
            };
        });
        all = each(all, &self.element, |workload, element| {
            workload.element = match element {
                TypeName::F32 => ElementType::F32,
                TypeName::F16 => ElementType::F16,
                TypeName::Bf16 => ElementType::Bf16,
            };
        });
        all = each(all, &self.pairing, |workload, pairing| {
            workload.pairing = match pairing {
                PairingName::HalfSplit => Pairing::HalfSplit,
                PairingName::Interleaved => Pairing::Interleaved,
                PairingName::InterleavedToHalfSplit => Pairing::InterleavedToHalfSplit,
            };
        });
        all = each(all, &chosen(&self.heads_per_thread), |workload, heads| {
            workload.heads_per_thread = heads;
        });
        all = each(all, &chosen(&self.heads_at_once), |workload, heads| {
            workload.heads_at_once = heads;
        });
        each(all, &chosen(&self.workgroup), |workload, invocations| {
            workload.workgroup = invocations;
        })
    }

    fn shapes(&self) -> Vec<Workload> {
        let lists = [
            &self.tokens,
            &self.batch,
            &self.heads,
            &self.kv_heads,
            &self.head_dim,
            &self.rotary_dim,
        ];
        if lists.iter().all(|list| list.is_empty()) {
            return [
                ("prefill 512", 512),
                ("prefill 4096", 4096),
                ("decode 1", 1),
                ("decode 64", 64),
            ]
            .map(|(name, tokens)| Workload::new(name, tokens))
            .into();
        }
        let mut all: Vec<_> = or(&self.tokens, 512)
            .into_iter()
            .map(|tokens| Workload::new("", tokens))
            .collect();
        all = each(all, &or(&self.batch, 1), |workload, n| workload.batch = n);
        all = each(all, &or(&self.heads, 32), |workload, n| workload.heads = n);
        all = each(all, &or(&self.kv_heads, 8), |workload, n| {
            workload.kv_heads = n;
        });
        all = each(all, &or(&self.head_dim, 128), |workload, n| {
            workload.head_dim = n;
            workload.rotary_dim = n;
        });
        all = each(all, &chosen(&self.rotary_dim), |workload, n| {
            workload.rotary_dim = n.unwrap_or(workload.head_dim);
        });
        for workload in &mut all {
            let Workload {
                batch,
                tokens,
                heads,
                kv_heads,
                head_dim,
                rotary_dim,
                ..
            } = workload;
            let window = if rotary_dim == head_dim {
                String::new()
            } else {
                format!(" of {rotary_dim}")
            };
            workload.name = format!("{batch}x{tokens} {heads}+{kv_heads} x {head_dim}{window}");
        }
        all
    }
}

/// Every workload with every value of a list.
fn each<T: Clone>(
    workloads: Vec<Workload>,
    values: &[T],
    set: impl Fn(&mut Workload, T),
) -> Vec<Workload> {
    workloads
        .into_iter()
        .flat_map(|workload| {
            values
                .iter()
                .map(|value| {
                    let mut changed = workload.clone();
                    set(&mut changed, value.clone());
                    changed
                })
                .collect::<Vec<_>>()
        })
        .collect()
}
