//! A layer in one dispatch on every adapter: norms, rotation, factors, conversion and caches, whole buffers bit for bit against the CPU
//! twin.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use common::layer::Case;
use common::{contexts_with, name};
use wgpu_rope::{
    ElementType, GpuContext, HeadLayout, Norm, NormWeight, Operand, Pairing, QueryFactor,
    RopeConfig, RotateSpec, Rows, Storage, TensorView,
};

const F32: ElementType = ElementType::F32;
const F16: ElementType = ElementType::F16;
const BF16: ElementType = ElementType::Bf16;

/// Contexts that may bind what a layer binds.
fn contexts() -> Vec<GpuContext> {
    let contexts = contexts_with(|limits| limits.max_storage_buffers_per_shader_stage = 8);
    for context in &contexts {
        eprintln!("tested on {}", name(context));
    }
    contexts
}

fn bshd(tokens: u32, heads: u32, dim: u32) -> HeadLayout {
    HeadLayout::bshd(tokens, heads, dim)
}

fn spec(
    config: &RopeConfig,
    batch: u32,
    tokens: u32,
    [heads, kv]: [u32; 2],
    element: ElementType,
) -> RotateSpec {
    let dim = config.head_dim();
    RotateSpec::new(config, batch, tokens, bshd(tokens, heads, dim), element)
        .with_key(bshd(tokens, kv, dim), element)
        .with_value(bshd(tokens, kv, dim), element)
}

fn norm(element: ElementType) -> Norm {
    Norm::rms(1e-6, NormWeight::Scale(element))
}

fn check(contexts: &[GpuContext], what: &str, case: &Case) {
    for context in contexts {
        let start = std::time::Instant::now();
        case.check(context, what);
        eprintln!("{what} {:?} {:?}", context.info().driver, start.elapsed());
    }
}

#[test]
fn a_layer_of_every_kind_has_the_bits_of_the_twin() {
    let contexts = contexts();
    let storages: [Storage; 5] = [
        F32.into(),
        F16.into(),
        BF16.into(),
        Storage::Q8_0,
        Storage::Int8,
    ];
    for dim in [64, 128, 96, 256] {
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let config = RopeConfig::new(dim).with_pairing(pairing);
            for (n, &storage) in storages.iter().enumerate() {
                let element = [F32, F16, BF16][n % 3];
                let tokens = 5;
                let pages = TensorView::cache(bshd(4, 2, dim), 6, 4, storage);
                let spec = spec(&config, 1, tokens, [5, 2], element)
                    .with_query_norm(norm(F32))
                    .with_key_norm(Norm::rms(1e-5, NormWeight::OnePlus(F32)))
                    .with_key_to(pages)
                    .with_value_to(pages);
                let case = Case::new(&config, spec, &[3, -1, 17, 0, 9]);
                check(&contexts, &format!("{dim} {pairing:?} {storage}"), &case);
            }
        }
    }
}
