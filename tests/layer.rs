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
    Direction, ElementType, Frequencies, GpuContext, HeadLayout, Norm, NormWeight, Operand,
    Pairing, Place, QueryFactor, QueryScale, RopeConfig, RotateSpec, Rows, Scaling, Storage,
    TensorView, reference, wgpu,
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

#[test]
fn gradients_are_added_to_what_is_there() {
    let config = RopeConfig::new(64)
        .with_rotary_dim(48)
        .with_rotary_offset(8);
    for (what, alignment) in [("octets", 16), ("channels, 4 bytes past 16", 4)] {
        let job = Job {
            direction: Direction::Adjoint,
            alignment,
            as_gpu: alignment == 4,
            ..Job::new(
                &config,
                2,
                3,
                &[
                    Flow::new(tensor(bshd(3, 2, 64), F32)).to(tensor(bshd(3, 2, 64), F32).added()),
                    Flow::new(tensor(bshd(3, 2, 64), F16)).to(tensor(bhsd(3, 2, 64), F16).added()),
                    Flow::new(tensor(bshd(3, 2, 64), BF16))
                        .to(tensor(bshd(3, 2, 64), BF16).added()),
                ],
            )
        };
        let case = job.case();
        let plan = case.plan(CONTEXTS[0].kernel().limits()).unwrap();
        let places: wgpu_rope::Places = case.places().into_iter().collect();
        let planned = &plan.dispatches(places).unwrap()[0];
        assert!(what.starts_with(planned.entry_point), "{what}");
        check(On::One, what, &job);
    }
}

#[test]
fn layers_without_rotation_have_the_rest() {
    let config = RopeConfig::new(64);
    let job = Job {
        rotates: false,
        factor: QueryFactor::PerRow,
        scale: Some(QueryScale::llama4(4, 0.1, 4096).unwrap()),
        rows: Rows::PerToken,
        slots: vec![-1; 6],
        ..Job::new(
            &config,
            2,
            3,
            &[
                Flow::new(tensor(bshd(3, 2, 64), F32)).normed(1e-6, NormWeight::None),
                // No slot: the cache is left as it is.
                Flow::new(tensor(bshd(3, 2, 64), F16))
                    .to(tensor(bshd(3, 2, 64), F16).in_slots(3, 3)),
            ],
        )
    };
    check(On::One, "without rotation", &job);
}

#[test]
fn pairs_without_frequency_keep_their_bits() {
    // Gemma 4's pairs at the end, and others between those that turn.
    let factors: Vec<f64> = (0..32)
        .map(|k| if k % 5 == 1 { f64::INFINITY } else { 1.0 })
        .collect();
    let proportional = Scaling::Proportional {
        rotated_pairs: 9,
        factor: 1.0,
    };
    for (what, scaling, alignment) in [
        ("some at the end", proportional.clone(), 16),
        (
            "some between",
            Scaling::FrequencyFactors(factors.clone()),
            16,
        ),
        (
            "some between, channels",
            Scaling::FrequencyFactors(factors),
            4,
        ),
    ] {
        let config = RopeConfig::new(64).with_scaling(scaling);
        let frequencies = Frequencies::new(&config).unwrap();
        let layout = bshd(3, 2, 64);
        let spec = RotateSpec::new(&config, 1, 3, layout, F32)
            .with_query_to(TensorView::new(layout, F32))
            .with_frequencies(&frequencies);
        let mut case = Case::new(&config, spec, &[]);
        // The first operand stands at 0: one word further is not on 16 bytes.
        case.places = [
            (Operand::Query, at(0, 16)),
            (Operand::QueryTo, at(1, alignment)),
        ]
        .into();
        let mut before = case.buffers();
        // Infinity and NaN would not stay as they are if they were multiplied by 1 and 0; quiet, since a load may make them so.
        for head in before[0][4..][..6 * 64].chunks_mut(64) {
            head[1] = f32::INFINITY.to_bits();
            head[31] = 0x7fc0_1234;
        }
        for context in CONTEXTS.iter().filter(|context| takes_all(context)) {
            // What turns a NaN is a NaN of any bits: the pair 31 turns in the second configuration.
            if what != "some at the end" {
                for head in before[0][4..][..6 * 64].chunks_mut(64) {
                    head[31] = 0x3f80_0000;
                }
            }
            case.check_from(context, what, &before);
        }
    }
}

#[test]
fn layers_that_do_not_fit_take_several_dispatches() {
    // Weights of two types cannot be in one dispatch; key and value still are.
    let config = RopeConfig::new(64);
    let job = Job {
        ..Job::new(
            &config,
            1,
            3,
            &[
                Flow::new(tensor(bshd(3, 2, 64), F32)).normed(1e-6, NormWeight::Scale(F16)),
                Flow::new(tensor(bshd(3, 2, 64), F32)).normed(1e-6, NormWeight::Scale(F32)),
                Flow::new(tensor(bshd(3, 2, 64), F32)).normed(1e-6, NormWeight::OnePlus(F32)),
            ],
        )
    };
    assert_eq!(check(On::One, "weights of two types", &job), 2);
    let mut job = job;
    job.flows[2].as_mut().unwrap().norm = Some((1e-6, NormWeight::OnePlus(BF16)));
    assert_eq!(check(On::One, "weights of three types", &job), 3);

    // Windows of tokens and of the batch. Slots and rows are those of the window.
    let flows = [
        Flow::new(tensor(bshd(7, 2, 64), F32)).to(tensor(bhsd(7, 2, 64), F16)),
        Flow::new(tensor(bshd(7, 1, 64), F32)).to(tensor(bshd(4, 1, 64), F32).in_slots(9, 4)),
        Flow::new(tensor(bshd(7, 1, 64), F16)).to(tensor(bhsd(4, 1, 64), F32).in_slots(9, 4)),
    ];
    let job = Job {
        rows: Rows::PerToken,
        factor: QueryFactor::PerRow,
        scale: Some(QueryScale::llama4(8, 0.1, 4096).unwrap()),
        slots: (0..21).map(|n| n * 5 % 36 - 2).collect(),
        grid: Some(3),
        ..Job::new(&config, 3, 7, &flows)
    };
    assert_eq!(check(On::One, "a small grid", &job), 3);
    let job = Job {
        grid: None,
        // All of a cache has to fit.
        binding: Some(36 * 64 * 4 + 256),
        ..job
    };
    // The query does not fit as a whole: each stream goes by itself, and it in two parts.
    assert_eq!(check(On::One, "a small binding", &job), 4);
    // Scales of int8, blocks, of a window.
    let job = Job {
        grid: Some(2),
        ..Job::new(
            &config,
            2,
            5,
            &[
                Flow::new(tensor(bshd(5, 2, 64), Storage::Int8))
                    .to(tensor(bhsd(5, 2, 64), Storage::Q8_0)),
                Flow::new(tensor(bhsd(5, 2, 64), Storage::Q8_0))
                    .to(tensor(bshd(5, 2, 64), Storage::Int8)),
            ],
        )
    };
    assert!(check(On::One, "quantised, a small grid", &job) >= 3);
}

#[test]
fn fewer_tokens_than_planned_may_be_recorded() {
    let config = RopeConfig::new(64);
    let cache = |storage: ElementType| tensor(bshd(4, 2, 64), storage).in_slots(5, 4);
    let job = Job {
        rows: Rows::PerToken,
        recorded: Some(3),
        slots: vec![3, 17, -1, 0, 9, 4, 1, 19, 2, 8],
        ..Job::new(
            &config,
            2,
            5,
            &[
                Flow::new(tensor(bshd(5, 2, 64), F32)).to(cache(F32)),
                Flow::new(tensor(bhsd(5, 2, 64), F16)).to(cache(F16)),
            ],
        )
    };
    check(On::One, "3 of 5 tokens", &job);
}

/// i32 of any size of which no two are the same slot.
fn garbage(random: &mut fastrand::Rng, count: usize, slots: i32) -> Vec<i32> {
    let mut left: Vec<i32> = (0..slots).collect();
    random.shuffle(&mut left);
    (0..count)
        .map(|_| match random.u8(..8) {
            0 => random.i32(i32::MIN..0),
            1 => i32::MIN,
            2 => i32::MAX - random.i32(0..2),
            3 => slots + random.i32(0..3),
            4 => random.i32(slots..),
            5 => -1,
            _ => left.pop().unwrap_or(-1),
        })
        .collect()
}

#[test]
fn no_slot_leads_outside_of_the_cache() {
    let mut random = fastrand::Rng::with_seed(5);
    let config = RopeConfig::new(64);
    for (n, storage) in [F16.into(), Storage::Int8].into_iter().enumerate() {
        for seed in 0..6 {
            let flows = [
                Flow::new(tensor(bshd(33, 1, 64), F32)),
                Flow::new(tensor(bshd(33, 2, 64), F32))
                    .to(tensor(bshd(3, 2, 64), storage).in_slots(5, 3)),
                Flow::new(tensor(bhsd(4, 2, 64), F16).in_slots(4, 4))
                    .to(tensor(bhsd(33, 2, 64), F32)),
            ];
            let job = Job {
                as_gpu: n == 0,
                seed,
                slots: garbage(&mut random, 33, 15),
                ..Job::new(&config, 1, 33, &flows)
            };
            check(On::One, "slots of any kind", &job);
        }
    }
}

#[test]
fn small_heads_of_any_pairing_have_the_bits_of_the_twin() {
    for (n, (dim, rotary, offset, pairing)) in [
        (2, 2, 0, Pairing::HalfSplit),
        (6, 4, 1, Pairing::HalfSplit),
        (6, 6, 0, Pairing::HalfSplitBlocks(3)),
        (20, 12, 8, Pairing::InterleavedToHalfSplit),
        (120, 64, 40, Pairing::HalfSplitToInterleaved),
    ]
    .into_iter()
    .enumerate()
    {
        let config = RopeConfig::new(dim)
            .with_rotary_dim(rotary)
            .with_rotary_offset(offset)
            .with_pairing(pairing);
        let job = Job {
            as_gpu: n % 2 == 1,
            pairs: (n == 3).then_some(4),
            alignment: 4,
            ..Job::new(
                &config,
                2,
                3,
                &[
                    Flow::new(tensor(bshd(3, 3, dim), [F32, F16, BF16][n % 3]))
                        .normed(1e-6, NormWeight::Scale(F16)),
                    Flow::new(tensor(bhsd(3, 2, dim), [F16, F32, BF16][n % 3]))
                        .to(tensor(bshd(3, 2, dim), [BF16, F16][n % 2])),
                ],
            )
        };
        check(On::One, &format!("{dim} {pairing:?}"), &job);
    }
}
