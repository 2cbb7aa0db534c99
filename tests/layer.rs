//! A layer in one dispatch on every adapter: norms, rotation, factors, conversion and caches, whole buffers bit for bit against the CPU
//! twin, and the twin against an oracle in f64 that shares no code with the crate.
//!
//! Drivers compile a pipeline of a layer in seconds, and nearly every case here is a pipeline of its own. So all cases run on hardware and
//! on lavapipe, and those that are named `everywhere` on the other software drivers too.
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

use std::sync::LazyLock;

use common::job::{Flow, Job, Tensor};
use common::layer::Case;
use common::{contexts_with, name};
use wgpu_rope::{
    ElementType, GpuContext, HeadLayout, NormWeight, Operand, Pairing, Place, QueryFactor,
    QueryScale, RopeConfig, Rows, Storage, wgpu,
};

const F32: ElementType = ElementType::F32;
const F16: ElementType = ElementType::F16;
const BF16: ElementType = ElementType::Bf16;

/// Contexts that may bind what a layer binds.
static CONTEXTS: LazyLock<Vec<GpuContext>> = LazyLock::new(|| {
    let contexts = contexts_with(|limits| limits.max_storage_buffers_per_shader_stage = 8);
    for context in &contexts {
        let part = if takes_all(context) { "all" } else { "a part" };
        eprintln!("tested on {}: {part}", name(context));
    }
    contexts
});

/// Whether all cases run on it.
fn takes_all(context: &GpuContext) -> bool {
    let info = context.info();
    let is_lavapipe = info.backend == wgpu::Backend::Vulkan && info.name.contains("llvmpipe");
    info.device_type != wgpu::DeviceType::Cpu || is_lavapipe
}

fn bshd(tokens: u32, heads: u32, dim: u32) -> HeadLayout {
    HeadLayout::bshd(tokens, heads, dim)
}

fn bhsd(tokens: u32, heads: u32, dim: u32) -> HeadLayout {
    HeadLayout::bhsd(tokens, heads, dim)
}

fn tensor(layout: HeadLayout, storage: impl Into<Storage>) -> Tensor {
    Tensor::new(layout, storage)
}

fn at(buffer: u32, offset: u64) -> Place {
    Place { buffer, offset }
}

/// Where cases run.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Everywhere,
    One,
}

fn bits(on: On, what: &str, case: &Case) -> usize {
    let mut dispatches = 0;
    for context in &*CONTEXTS {
        if on == On::Everywhere || takes_all(context) {
            let start = std::time::Instant::now();
            dispatches = case.check(context, what);
            eprintln!(
                "{what}: {dispatches} dispatches, {} {:.1} s",
                context.info().name,
                start.elapsed().as_secs_f64()
            );
        }
    }
    dispatches
}

/// Bits on devices, and the values of the twin. Returns the dispatches.
fn check(on: On, what: &str, job: &Job) -> usize {
    let case = job.case();
    let before = case.buffers();
    let mut after = before.clone();
    case.twin(&mut after);
    let worst = job.check(&before, &after);
    eprintln!("{what}: at most {worst:.3} of the bound");
    bits(on, what, &case)
}

#[test]
fn octets_have_the_bits_of_the_twin() {
    let config = RopeConfig::new(64);
    let job = Job {
        seed: 11,
        ..Job::new(
            &config,
            1,
            65,
            &[
                Flow::new(tensor(bshd(65, 5, 64), F32))
                    .to(tensor(bshd(65, 5, 64), F16))
                    .normed(1e-6, NormWeight::Scale(F32)),
                Flow::new(tensor(bshd(65, 2, 64), F16))
                    .to(tensor(bhsd(65, 2, 64), BF16))
                    .normed(1e-5, NormWeight::OnePlus(F32)),
                Flow::new(tensor(bshd(65, 2, 80), BF16))
                    .to(tensor(bhsd(65, 2, 80), F32))
                    .normed(1e-6, NormWeight::None),
            ],
        )
    };
    check(On::Everywhere, "all elsewhere", &job);

    let config = RopeConfig::new(80).with_pairing(Pairing::Interleaved);
    let job = Job {
        rows: Rows::PerToken,
        as_gpu: true,
        ..Job::new(
            &config,
            2,
            63,
            &[
                Flow::new(tensor(bshd(63, 3, 80), F16)).normed(1e-6, NormWeight::Scale(F16)),
                Flow::new(tensor(bhsd(63, 2, 80), BF16)).to(tensor(bshd(63, 2, 80), F32)),
            ],
        )
    };
    check(On::One, "query in place, key elsewhere", &job);

    let config = RopeConfig::new(96).with_pairing(Pairing::HalfSplitBlocks(3));
    let job = Job {
        rows: Rows::PerSequence,
        factor: QueryFactor::Constant(0.102_062),
        ..Job::new(
            &config,
            3,
            2,
            &[
                Flow::new(tensor(bshd(2, 7, 96), BF16)).to(tensor(bshd(2, 7, 96), BF16)),
                Flow::new(tensor(bshd(2, 1, 96), F32)).normed(1e-6, NormWeight::None),
            ],
        )
    };
    check(On::One, "blocks", &job);

    let config = RopeConfig::new(128)
        .with_rotary_dim(64)
        .with_rotary_offset(32);
    let job = Job {
        rows: Rows::PerSequence,
        factor: QueryFactor::PerRow,
        scale: Some(QueryScale::llama4(8, 0.1, 4096).unwrap()),
        as_gpu: true,
        heads_per_invocation: Some(2),
        ..Job::new(
            &config,
            4,
            1,
            &[
                Flow::new(tensor(bshd(1, 32, 128), F32)).normed(1e-6, NormWeight::OnePlus(BF16)),
                Flow::new(tensor(bshd(1, 16, 128), F16)).normed(1e-5, NormWeight::Scale(BF16)),
            ],
        )
    };
    check(On::Everywhere, "a window in the middle, one token", &job);

    let config = RopeConfig::new(256).with_pairing(Pairing::Interleaved);
    let job = Job {
        pairs: Some(37),
        slots: vec![11, -1, 24, 0, i32::MAX, 5, i32::MIN],
        ..Job::new(
            &config,
            1,
            7,
            &[
                Flow::new(tensor(bshd(7, 2, 256), BF16)).normed(1e-6, NormWeight::Scale(F32)),
                Flow::new(tensor(bshd(7, 2, 256), F32))
                    .to(tensor(bshd(4, 2, 256), F16).in_slots(6, 4)),
                Flow::new(tensor(bshd(7, 2, 256), F32))
                    .to(tensor(bhsd(4, 2, 256), BF16).in_slots(6, 4)),
            ],
        )
    };
    check(On::One, "pages of both orders, some pairs", &job);
}

#[test]
fn octets_serve_packed_projections_and_latent_caches() {
    // Q in place, K and V to one buffer of pages in which they take turns: [pages, 4, K and V, 2, 128].
    let config = RopeConfig::new(128);
    let (tokens, both) = (9, 2 * 2 * 128);
    let page = |first: u64| {
        tensor(
            bshd(4, 2, 128)
                .with_strides(4 * both, both, 128)
                .with_offset(first * 256),
            F16,
        )
        .in_slots(5, 4)
    };
    let packed = |first, heads| tensor(HeadLayout::packed(tokens, 8, first, heads, 128), F16);
    let job = Job {
        slots: vec![19, 3, -1, 0, 20, 7, i32::MAX, 12, 2],
        places: [
            (Operand::Query, at(0, 16)),
            (Operand::Key, at(0, 16)),
            (Operand::Value, at(0, 16)),
            (Operand::KeyTo, at(1, 32)),
            (Operand::ValueTo, at(1, 32)),
        ]
        .into(),
        ..Job::new(
            &config,
            1,
            tokens,
            &[
                Flow::new(packed(0, 4)).normed(1e-6, NormWeight::Scale(F32)),
                Flow::new(packed(4, 2))
                    .to(page(0))
                    .normed(1e-6, NormWeight::Scale(F32)),
                Flow::new(packed(6, 2)).to(page(1)),
            ],
        )
    };
    let dispatches = check(On::One, "packed, K and V in one buffer", &job);
    assert_eq!(dispatches, 1);

    // MLA: the query's rope part in place at the end of each head of 192, latent and key to one row of 576.
    let config = RopeConfig::new(64).with_pairing(Pairing::Interleaved);
    let row = |offset, dim| {
        tensor(
            bshd(1, 1, dim)
                .with_strides(576, 576, 576)
                .with_offset(offset),
            BF16,
        )
        .in_slots(23, 1)
    };
    let job = Job {
        slots: vec![7, 22, 0, -5, 11],
        places: [
            (Operand::Query, at(0, 0)),
            (Operand::Key, at(1, 0)),
            (Operand::Value, at(1, 0)),
            (Operand::KeyTo, at(2, 0)),
            (Operand::ValueTo, at(2, 0)),
        ]
        .into(),
        as_gpu: true,
        ..Job::new(
            &config,
            1,
            5,
            &[
                Flow::new(tensor(
                    bshd(5, 3, 64)
                        .with_strides(0, 3 * 192, 192)
                        .with_offset(128),
                    F32,
                )),
                Flow::new(tensor(
                    bshd(5, 1, 64).with_strides(0, 576, 576).with_offset(512),
                    F32,
                ))
                .to(row(512, 64)),
                Flow::new(tensor(bshd(5, 1, 512).with_strides(0, 576, 576), F32))
                    .to(row(0, 512))
                    .normed(1e-6, NormWeight::Scale(F32)),
            ],
        )
    };
    let dispatches = check(On::Everywhere, "MLA", &job);
    assert_eq!(dispatches, 1);
}

#[test]
fn channels_have_the_bits_of_the_twin() {
    // Odd offsets and strides of 16-bit types: words are shared by heads.
    let config = RopeConfig::new(66)
        .with_pairing(Pairing::Interleaved)
        .with_rotary_dim(20)
        .with_rotary_offset(7);
    let odd = |heads: u32, dim: u32| {
        let (head, token) = (
            u64::from(dim) + 1,
            u64::from(heads) * (u64::from(dim) + 1) + 2,
        );
        bshd(3, heads, dim)
            .with_strides(3 * token + 1, token, head)
            .with_offset(5)
    };
    let job = Job {
        alignment: 4,
        rows: Rows::PerToken,
        factor: QueryFactor::Constant(0.123),
        ..Job::new(
            &config,
            2,
            3,
            &[
                Flow::new(tensor(odd(3, 66), F16)).normed(1e-6, NormWeight::Scale(BF16)),
                Flow::new(tensor(odd(2, 66), BF16))
                    .to(tensor(odd(2, 66), F16))
                    .normed(1e-6, NormWeight::OnePlus(BF16)),
                Flow::new(tensor(odd(2, 19), F32)).to(tensor(odd(2, 19), BF16)),
            ],
        )
    };
    check(On::Everywhere, "odd strides", &job);

    // K and V transposed to [B, H, D, S]: neighbours in memory are other tokens.
    let tokens = 63;
    let config = RopeConfig::new(20).with_pairing(Pairing::HalfSplitToInterleaved);
    let transposed = |heads: u32, dim: u32, storage: ElementType| Tensor {
        channel_stride: tokens,
        ..tensor(
            bshd(tokens, heads, dim)
                .with_strides(u64::from(heads * dim * tokens), 1, u64::from(dim * tokens))
                .with_offset(1),
            storage,
        )
    };
    let job = Job {
        as_gpu: true,
        ..Job::new(
            &config,
            2,
            tokens,
            &[
                Flow::new(tensor(bshd(tokens, 3, 20), F32)),
                Flow::new(tensor(bshd(tokens, 2, 20), F32)).to(transposed(2, 20, F16)),
                Flow::new(tensor(bshd(tokens, 2, 6), BF16)).to(transposed(2, 6, F32)),
            ],
        )
    };
    check(On::One, "transposed", &job);

    // All that is quantised: from and to.
    let config = RopeConfig::new(96);
    let slots = vec![3, 17, -1, 0, 9];
    let job = Job {
        slots: slots.clone(),
        ..Job::new(
            &config,
            1,
            5,
            &[
                Flow::new(tensor(bshd(5, 3, 96), F32)).to(tensor(bhsd(5, 3, 96), Storage::Q8_0)),
                Flow::new(tensor(bshd(5, 2, 96), F16))
                    .to(tensor(bshd(4, 2, 96), Storage::Q8_0).in_slots(6, 4))
                    .normed(1e-6, NormWeight::Scale(F32)),
                Flow::new(tensor(bshd(5, 2, 64), BF16))
                    .to(tensor(bhsd(4, 2, 64), Storage::Q8_0).in_slots(6, 4)),
            ],
        )
    };
    check(On::One, "to blocks", &job);
    let scales_apart = [
        (Operand::Query, at(0, 0)),
        (Operand::Key, at(1, 0)),
        (Operand::Value, at(2, 0)),
        (Operand::QueryTo, at(3, 4)),
        (Operand::QueryToScales, at(4, 0)),
        (Operand::KeyTo, at(5, 0)),
        (Operand::KeyToScales, at(4, 64)),
        (Operand::ValueTo, at(6, 0)),
        (Operand::ValueToScales, at(4, 1024)),
    ];
    let job = Job {
        slots,
        as_gpu: true,
        places: scales_apart.into(),
        ..Job::new(
            &config,
            1,
            5,
            &[
                Flow::new(tensor(bshd(5, 3, 96), F32)).to(tensor(bshd(5, 3, 96), Storage::Int8)),
                Flow::new(tensor(bshd(5, 2, 96), F16))
                    .to(tensor(bshd(4, 2, 96), Storage::Int8).in_slots(6, 4))
                    .normed(1e-6, NormWeight::Scale(F32)),
                Flow::new(tensor(bshd(5, 2, 66), BF16))
                    .to(tensor(bhsd(4, 2, 66), Storage::Int8).in_slots(6, 4)),
            ],
        )
    };
    let dispatches = check(On::Everywhere, "to int8", &job);
    assert_eq!(dispatches, 2, "seven buffers are more than six");
    let job = Job {
        slots: vec![3, 17, -1, 0, 9],
        ..Job::new(
            &config,
            1,
            5,
            &[
                Flow::new(tensor(bshd(5, 3, 96), Storage::Q8_0)).to(tensor(bshd(5, 3, 96), BF16)),
                // In place, slot by slot: a shift of the context.
                Flow::new(tensor(bshd(4, 2, 96), Storage::Q8_0).in_slots(6, 4)),
                Flow::new(tensor(bhsd(4, 2, 32), Storage::Int8).in_slots(6, 4))
                    .to(tensor(bshd(5, 2, 32), F32)),
            ],
        )
    };
    check(On::One, "from blocks and int8", &job);
}

#[test]
fn norms_over_all_heads_have_the_bits_of_the_twin() {
    let config = RopeConfig::new(64);
    let job = Job {
        whole: true,
        ..Job::new(
            &config,
            1,
            2,
            &[
                Flow::new(tensor(bshd(2, 5, 64), F32)).normed(1e-6, NormWeight::Scale(F32)),
                Flow::new(tensor(bshd(2, 3, 64), F16))
                    .to(tensor(bshd(2, 3, 64), F32))
                    .normed(1e-6, NormWeight::OnePlus(F32)),
                Flow::new(tensor(bshd(2, 3, 64), F16)).to(tensor(bshd(2, 3, 64), F32).added()),
            ],
        )
    };
    check(On::One, "norms over all heads", &job);
    // The key has no norm, and is rotated once.
    let job = Job {
        whole: true,
        as_gpu: true,
        ..Job::new(
            &config,
            1,
            2,
            &[
                Flow::new(tensor(bshd(2, 5, 64), F32)).normed(1e-6, NormWeight::None),
                Flow::new(tensor(bshd(2, 3, 64), F32)),
            ],
        )
    };
    check(On::One, "a norm over all heads of one of two", &job);
}
