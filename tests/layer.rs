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
use common::{ADAPTERS, contexts_with, name};
use wgpu_rope::{
    Axes, Direction, ElementType, Frequencies, GpuContext, HeadLayout, Norm, NormWeight, Operand,
    Pairing, Place, Places, QueryFactor, QueryScale, RopeConfig, RotateSpec, Rows, Scaling,
    Storage, TensorView, reference, wgpu,
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

/// Whether all cases run on it: slower CPU drivers take a part, unless there is nothing else.
fn takes_all(context: &GpuContext) -> bool {
    let is_fast = |info: &wgpu::AdapterInfo| {
        let is_lavapipe = info.backend == wgpu::Backend::Vulkan && info.name.contains("llvmpipe");
        info.device_type != wgpu::DeviceType::Cpu || is_lavapipe
    };
    is_fast(context.info()) || !ADAPTERS.iter().any(|adapter| is_fast(&adapter.get_info()))
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
    assert!(dispatches > 0, "{what}: it ran nowhere");
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
    check(On::One, "a window in the middle, one token", &job);

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
        let places: Places = case.places().into_iter().collect();
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

    // One binding is for weights: each buffer of them is a dispatch, and what has none goes with the key.
    let normed =
        |heads| Flow::new(tensor(bshd(3, heads, 64), F32)).normed(1e-6, NormWeight::Scale(F32));
    let value = Flow::new(tensor(bshd(3, 2, 64), F32)).to(tensor(bhsd(3, 2, 64), F16));
    let job = Job::new(&config, 1, 3, &[normed(2), normed(2), value]);
    for (buffers, dispatches) in [([0, 0], 1), ([0, 1], 2)] {
        let weights = [Operand::QueryWeight, Operand::KeyWeight]
            .into_iter()
            .zip(buffers);
        let place = |buffer| Place {
            buffer,
            offset: 256 * u64::from(1 - buffer),
        };
        let case = Case {
            places: weights
                .map(|(weight, buffer)| (weight, place(buffer)))
                .collect(),
            ..job.case()
        };
        assert_eq!(
            bits(On::One, "weights in buffers of their own", &case),
            dispatches
        );
    }

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
    // Scales of int8, and blocks, of a window.
    let job = Job {
        grid: Some(4),
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
    assert_eq!(check(On::One, "quantised, a small grid", &job), 2);
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
                // [2, 2, 10, 64], contiguous: each sequence has a page.
                Flow::new(tensor(bhsd(5, 2, 64), F16))
                    .to(tensor(bhsd(10, 2, 64), F16).in_slots(2, 10)),
            ],
        )
    };
    check(On::One, "3 of 5 tokens", &job);
}

#[test]
fn workgroup_counts_may_come_from_a_buffer() {
    // No token has slot 0: the list of slots ends with zeros, which are read where entries or tokens are not cut off. The heads of the
    // key stand token behind token, so that what is behind its last token is another head's first.
    for (what, dim) in [("indirect octets", 64), ("indirect channels", 20)] {
        let config = RopeConfig::new(dim);
        let cache = |storage: ElementType| tensor(bshd(4, 2, dim), storage).in_slots(5, 4);
        let job = Job {
            rows: Rows::PerToken,
            slots: vec![3, 17, -1, 12, 9, 4, 1, 19, 2, 8],
            ..Job::new(
                &config,
                2,
                5,
                &[
                    Flow::new(tensor(bshd(5, 2, dim), F32))
                        .to(cache(F32))
                        .normed(1e-6, NormWeight::Scale(F32)),
                    Flow::new(tensor(bhsd(5, 2, dim), F32))
                        .to(cache(F16))
                        .normed(1e-6, NormWeight::Scale(F32)),
                    Flow::new(tensor(bshd(5, 2, dim), F32)).to(cache(F16)),
                ],
            )
        };
        for (recorded, more) in [(3, [0; 3]), (3, [1, 0, 1]), (5, [2, 4, 1])] {
            let case = Case {
                recorded: Some(recorded),
                indirect: Some(more),
                ..job.case()
            };
            assert_eq!(bits(On::One, what, &case), 1);
        }
        // Norms over all heads are one workgroup's, which is to be the first: a second would normalise in place what is normal already.
        let whole = Job {
            whole: true,
            ..Job::new(
                &config,
                2,
                5,
                &[0, 1, 2].map(|_| {
                    Flow::new(tensor(bshd(5, 2, dim), F32)).normed(1e-6, NormWeight::Scale(F32))
                }),
            )
        };
        let case = Case {
            recorded: Some(5),
            indirect: Some([3, 1, 1]),
            ..whole.case()
        };
        assert_eq!(bits(On::One, what, &case), 1);
        // None at all.
        let case = Case {
            recorded: Some(0),
            indirect: Some([0; 3]),
            ..job.case()
        };
        let before = case.buffers();
        for context in CONTEXTS.iter().filter(|context| takes_all(context)) {
            let (after, _) = case.run(context, &before);
            assert!(after == before, "{what} on {}", name(context));
        }
    }
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

/// Pages of 8 tokens with two heads of 64 in f32, which are rotated where they are, all by the one row of the table.
fn shifted(frequencies: &Frequencies, position: i32, slots: &[i32]) -> Case {
    let pages = TensorView::cache(bshd(8, 2, 64), 3, 8, F32);
    let spec = RotateSpec::new(
        &RopeConfig::new(64),
        1,
        u32::try_from(slots.len()).unwrap(),
        bshd(8, 2, 64),
        F32,
    )
    .with_query_from(pages)
    .with_rows(Rows::One);
    Case {
        frequencies: Some(frequencies.clone()),
        positions: Some(vec![position]),
        ..Case::new(&RopeConfig::new(64), spec, slots)
    }
}

/// What devices and the twin make of a case, from these buffers on.
fn made(what: &str, case: &Case, before: &[Vec<u32>]) -> Vec<Vec<u32>> {
    for context in CONTEXTS.iter().filter(|context| takes_all(context)) {
        case.check_from(context, what, before);
    }
    let mut after = before.to_vec();
    case.twin(&mut after);
    after
}

/// Compares keys channel by channel, in units of u = 2^-24 of the length of each pair.
///
/// With r the length of a pair, |x c| + |y s| is at most r, so a rotation puts a channel off by at most 3.01 u r (`common::bound`) and the
/// pair by sqrt(2) times that, which later rotations keep. After two rotations a channel is off by at most 3.01 (1 + sqrt(2)) u r, after one
/// by 3.01 u r: 10.3 u r are between them. A factor in the entries is rounded too, one u for each table: 3 more.
fn check_pairs(what: &str, got: &[u32], expected: &[u32], allowed: f64) {
    assert_eq!(got.len(), expected.len());
    let mut worst = 0.0_f64;
    for (got, expected) in got.chunks(64).zip(expected.chunks(64)) {
        let value = |words: &[u32], c: usize| f64::from(f32::from_bits(words[c]));
        for k in 0..32 {
            let length = value(expected, k).hypot(value(expected, k + 32));
            for c in [k, k + 32] {
                let error = (value(got, c) - value(expected, c)).abs();
                worst = worst.max(error / (length * 2_f64.powi(-24)));
            }
        }
    }
    eprintln!("{what}: {worst:.2} u of {allowed}");
    assert!(worst <= allowed, "{what}: {worst} u > {allowed} u");
    assert!(worst > 0.0, "{what}: nothing was rounded");
}

#[test]
fn keys_in_a_cache_are_rotated_on() {
    let config = RopeConfig::new(64).with_attention_factor(1.25);
    let frequencies = Frequencies::new(&config).unwrap();
    let plain = frequencies.without_attention_factor();
    // All but three slots; the last is none.
    let slots: Vec<i32> = (0..24).filter(|slot| slot % 7 != 2).chain([-1]).collect();
    let case = |frequencies: &Frequencies, position| shifted(frequencies, position, &slots);
    let before = case(&plain, 1).buffers();
    let head = usize::try_from(case(&plain, 1).places()[&Operand::Query].offset / 4).unwrap();
    let kept = |buffers: &[Vec<u32>]| -> Vec<u32> {
        let keys = &buffers[0][head..][..24 * 128];
        let own = keys.chunks(128).zip(0..);
        own.filter(|(_, slot)| slots.contains(slot))
            .flat_map(|(key, _)| key.to_vec())
            .collect()
    };
    let rotated = |what, frequencies: &Frequencies, position, from: &[Vec<u32>]| {
        made(what, &case(frequencies, position), from)
    };
    // A shift by a and then by b is one by a + b.
    let a = rotated("a", &plain, -777, &before);
    let a_b = rotated("a, b", &plain, 1234, &a);
    let both = rotated("a + b", &plain, 1234 - 777, &before);
    check_pairs("two shifts", &kept(&a_b), &kept(&both), 10.3);
    // The factor is in the keys once they are cached: shifts leave it out.
    let cached = rotated("cached", &frequencies, 4000, &before);
    let moved = rotated("moved", &plain, -96, &cached);
    let at_once = rotated("at once", &frequencies, 3904, &before);
    check_pairs("factor once", &kept(&moved), &kept(&at_once), 13.3);
    // From one set of frequencies to another, at the same position.
    let longer = RopeConfig::new(64)
        .with_theta(1e6)
        .with_attention_factor(1.5);
    let longer = Frequencies::new(&longer).unwrap();
    let between = Frequencies::between(&frequencies, &longer).unwrap();
    let turned = rotated("between", &between, 4000, &cached);
    let at_once = rotated("longer", &longer, 4000, &before);
    check_pairs("other frequencies", &kept(&turned), &kept(&at_once), 13.3);
}

#[test]
fn each_sequence_may_be_shifted_by_its_own_delta_on_each_axis() {
    // M-RoPE, and a contiguous cache of two sequences with 8 places each.
    let config = RopeConfig::new(64).with_axes(Axes::Sectioned(vec![8, 12, 12]));
    let cache = TensorView::cache(bshd(8, 2, 64), 2, 8, F32);
    let spec = RotateSpec::new(&config, 2, 8, bshd(8, 2, 64), F32)
        .with_query_from(cache)
        .with_rows(Rows::PerSequence);
    let slots: Vec<i32> = (0..16).collect();
    let case = |deltas: [[i32; 3]; 2]| Case {
        positions: Some(deltas.concat()),
        ..Case::new(&config, spec.clone(), &slots)
    };
    let (a, b) = ([[-5, 3, -2], [700, -1, 0]], [[2, -9, 4], [-650, 0, 7]]);
    let both = [[-3, -6, 2], [50, -1, 7]];
    let before = case(a).buffers();
    let head = usize::try_from(case(a).places()[&Operand::Query].offset / 4).unwrap();
    let keys = |buffers: &[Vec<u32>]| buffers[0][head..][..16 * 128].to_vec();
    let shifted = made("b", &case(b), &made("a", &case(a), &before));
    let at_once = made("a + b", &case(both), &before);
    check_pairs("of two sequences", &keys(&shifted), &keys(&at_once), 10.3);
    // Deltas of the other sequence, and of other axes, make other keys.
    for other in [[both[1], both[0]], both.map(|[t, h, w]| [t, w, h])] {
        assert_ne!(keys(&made("other", &case(other), &before)), keys(&at_once));
    }
}

#[test]
fn keys_go_from_pages_to_other_pages_and_are_rotated_on() {
    let config = RopeConfig::new(64);
    // Two lists in one: where tokens are, where they go.
    let slots = vec![0, 5, 23, -1, 9, 11, 1, 0, 40, 2];
    for (what, storage) in [("pages, f16", F16.into()), ("pages, blocks", Storage::Q8_0)] {
        let to = Tensor {
            first_slot: 5,
            ..tensor(bhsd(4, 2, 64), storage).in_slots(3, 4)
        };
        let job = Job {
            rows: Rows::One,
            positions: Some(vec![-250]),
            slots: slots.clone(),
            ..Job::new(
                &config,
                1,
                5,
                &[Flow::new(tensor(bshd(8, 2, 64), storage).in_slots(3, 8)).to(to)],
            )
        };
        check(On::One, what, &job);
    }
}

#[test]
fn what_is_appended_is_what_a_rotation_in_place_gives() {
    let config = RopeConfig::new(64).with_pairing(Pairing::Interleaved);
    let slots = [7, -1, 0, 19, 4];
    let layout = bshd(5, 3, 64);
    let pages = TensorView::cache(bhsd(4, 3, 64), 5, 4, F16);
    let spec = RotateSpec::new(&config, 1, 5, layout, F32).with_query_to(pages);
    let case = Case::new(&config, spec, &slots);
    let before = case.buffers();
    let after = made("append", &case, &before);
    let places = case.places();
    let words = |operand: Operand, buffers: &[Vec<u32>]| {
        let place = places[&operand];
        let at = usize::try_from(place.offset / 4).unwrap();
        buffers[place.buffer as usize][at..].to_vec()
    };
    let mut plain: Vec<f32> = words(Operand::Query, &before)[..5 * 3 * 64]
        .iter()
        .map(|word| f32::from_bits(*word))
        .collect();
    let frequencies = Frequencies::new(&config).unwrap();
    let positions = case.positions();
    let rows = reference::table(
        &wgpu_rope::TableSpec::new(&frequencies),
        (&positions[..]).into(),
    )
    .unwrap();
    let in_place = RotateSpec::new(&config, 1, 5, layout, F32);
    reference::rotate(&in_place, &rows, &mut plain, None).unwrap();
    let cache = words(Operand::QueryTo, &after);
    let cache: &[u16] = bytemuck::cast_slice(&cache);
    for (t, slot) in slots.into_iter().enumerate().filter(|(_, slot)| *slot >= 0) {
        let (page, place) = (slot as usize / 4, slot as usize % 4);
        for (h, c) in (0..3).flat_map(|h| (0..64).map(move |c| (h, c))) {
            let got = cache[((page * 3 + h) * 4 + place) * 64 + c];
            let expected = wgpu_rope::half::f16::from_f32(plain[(t * 3 + h) * 64 + c]);
            assert_eq!(got, expected.to_bits(), "token {t}, head {h}, channel {c}");
        }
    }
}

#[test]
fn a_norm_and_a_rotation_at_once_are_those_two() {
    for (dim, rotary, offset) in [(64, 32, 16), (66, 24, 5)] {
        let config = RopeConfig::new(dim)
            .with_rotary_dim(rotary)
            .with_rotary_offset(offset);
        let layout = bshd(3, 5, dim);
        let norm = Norm::rms(1e-5, NormWeight::Scale(F32));
        let spec = RotateSpec::new(&config, 2, 3, layout, F32)
            .with_query_norm(norm)
            .with_rows(Rows::PerToken);
        let case = Case::new(&config, spec.clone(), &[]);
        let before = case.buffers();
        let joint = made("norm and rotation", &case, &before);
        let first = Case::new(&config, spec.without_rotation(), &[]);
        assert_eq!(first.places(), case.places());
        // The sum of the squares is taken in the order of the window's pairs: it depends on whether there is a window.
        let normed = match dim {
            64 => {
                let mut after = before.clone();
                let unturned = Case {
                    positions: Some(vec![0; 6]),
                    ..case.clone()
                };
                unturned.twin(&mut after);
                after
            }
            _ => made("norm", &first, &before),
        };
        let spec = RotateSpec::new(&config, 2, 3, layout, F32).with_rows(Rows::PerToken);
        let mut second = Case::new(&config, spec, &[]);
        second.places = case.places();
        second
            .places
            .retain(|operand, _| *operand == Operand::Query);
        let mut one_by_one = normed.clone();
        second.twin(&mut one_by_one[..1]);
        assert_eq!(one_by_one, joint, "{dim}");
    }
}

/// <R x, y> and <x, R^T y>: each channel of a rotation is off by at most 3.01 u of |x c| + |y s|, and factors in the entries by one more.
#[test]
fn gradients_are_adjoint() {
    let config = RopeConfig::new(64)
        .with_rotary_dim(48)
        .with_attention_factor(1.25);
    let layout = bshd(3, 2, 64);
    let spec = RotateSpec::new(&config, 1, 3, layout, F32)
        .with_query_to(TensorView::new(layout, F32).accumulated());
    let case = |direction, seed| Case {
        direction,
        seed,
        // As a host plans that does not know its device.
        coarser: Some(256),
        ..Case::new(&config, spec.clone(), &[])
    };
    let turned = |direction, seed| {
        let case = case(direction, seed);
        let mut before = case.buffers();
        let at = usize::try_from(case.places()[&Operand::QueryTo].offset / 4).unwrap();
        before[1][at..][..6 * 64].fill(0);
        let after = made("gradient", &case, &before);
        let values = |words: &[u32]| -> Vec<f64> {
            let values = words.iter().map(|word| f64::from(f32::from_bits(*word)));
            values.collect()
        };
        let from = usize::try_from(case.places()[&Operand::Query].offset / 4).unwrap();
        (
            values(&before[0][from..][..6 * 64]),
            values(&after[1][at..][..6 * 64]),
        )
    };
    let (x, turned_x) = turned(Direction::Forward, 1);
    let (y, turned_y) = turned(Direction::Adjoint, 2);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // By Cauchy and Schwarz, |x c| + |y s| is at most the length of the pair.
    let length = |a: &[f64]| dot(a, a).sqrt();
    let allowed = 2.0 * 4.01 * 2_f64.powi(-24) * 2_f64.sqrt() * 1.25 * length(&x) * length(&y);
    let error = (dot(&turned_x, &y) - dot(&x, &turned_y)).abs();
    assert!(error <= allowed, "{error:e} > {allowed:e}");
}

/// A layer of any kind. `fast`: such as entry point octets takes.
fn any_job(random: &mut fastrand::Rng, fast: bool) -> Job {
    let dim = random
        .choice(if fast {
            [64, 80, 96, 128, 16, 256, 192, 32]
        } else {
            [2, 6, 20, 64, 66, 96, 120, 32]
        })
        .unwrap();
    let granule = if fast { 16 } else { 2 };
    let rotary = granule * random.u32(1..=dim / granule);
    let rotary = if random.bool() { dim } else { rotary };
    let offset = random.u32(0..=dim - rotary);
    let offset = if fast { offset / 8 * 8 } else { offset };
    let blocks = random.u32(1..4);
    let pairing = match random.u8(..if fast { 3 } else { 5 }) {
        0 => Pairing::Interleaved,
        1 if (rotary / 2).is_multiple_of(blocks * if fast { 8 } else { 1 }) => {
            Pairing::HalfSplitBlocks(blocks)
        }
        3 => Pairing::InterleavedToHalfSplit,
        4 => Pairing::HalfSplitToInterleaved,
        _ => Pairing::HalfSplit,
    };
    let config = RopeConfig::new(dim)
        .with_rotary_dim(rotary)
        .with_rotary_offset(offset)
        .with_pairing(pairing);
    let (batch, tokens) = (random.u32(1..4), random.u32(1..8));
    let slots = batch * tokens;
    let pages = [slots.div_ceil(3) + 1, 3];
    let float = |random: &mut fastrand::Rng| random.choice([F32, F16, BF16]).unwrap();
    let storage = |random: &mut fastrand::Rng, dim: u32| match random.u8(..4) {
        0 if !fast => Storage::Int8,
        1 if !fast && dim.is_multiple_of(32) => Storage::Q8_0,
        _ => float(random).into(),
    };
    let place = |random: &mut fastrand::Rng, heads: u32, dim: u32, storage: Storage| {
        let unit = match storage {
            Storage::Q8_0 => 32,
            Storage::Int8 => u64::from(dim),
            _ if fast => 8,
            _ => 1,
        };
        let in_slots = random.bool();
        let [outer, inner] = if in_slots { pages } else { [batch, tokens] }.map(u64::from);
        let mut gap = || unit * random.u64(0..3);
        let (wide, heads_of) = (u64::from(dim), u64::from(heads));
        let (a, b, c, first) = (gap(), gap(), gap(), gap());
        // Token by token, head by head, or channel by channel.
        let way = random.u8(..3);
        let is_float = matches!(storage, Storage::Float(_));
        let (strides, channel) = match way {
            0 if !fast && is_float => {
                let channel = inner + a;
                let head = wide * channel + b;
                ([heads_of * head + c, 1, head], channel)
            }
            1 => {
                let token = wide + a;
                let head = inner * token + b;
                ([heads_of * head + c, token, head], 1)
            }
            _ => {
                let head = wide + a;
                let token = heads_of * head + b;
                ([inner * token + c, token, head], 1)
            }
        };
        let layout = bshd(tokens, heads, dim)
            .with_strides(strides[0], strides[1], strides[2])
            .with_offset(first);
        assert!(layout.end(u32::try_from(outer).unwrap(), 1).is_ok());
        let tensor = Tensor {
            channel_stride: u32::try_from(channel).unwrap(),
            ..tensor(layout, storage)
        };
        if in_slots {
            tensor.in_slots(pages[0], pages[1])
        } else {
            tensor
        }
    };
    let weight = float(random);
    let whole = !fast && random.u8(..4) == 0;
    let mut flows = Vec::new();
    for n in 0..random.usize(1..4) {
        let dim = match n {
            2 if fast => 16 * random.u32(1..9),
            2 => random.u32(1..70),
            _ => dim,
        };
        let heads = random.u32(1..6);
        let from = storage(random, dim);
        let from = Tensor {
            channel_stride: 1,
            ..loop {
                let from = place(random, heads, dim, from);
                if from.channel_stride == 1 {
                    break from;
                }
            }
        };
        let mut flow = Flow::new(from);
        if random.bool() {
            flow = flow.normed(
                [1e-6, 1e-5, 0.1][random.usize(..3)],
                [
                    NormWeight::None,
                    NormWeight::Scale(weight),
                    NormWeight::OnePlus(weight),
                ][random.usize(..3)],
            );
        }
        if random.u8(..3) > 0 || (n == 2 && flow.norm.is_none()) {
            let storage = storage(random, dim);
            let to = place(random, heads, dim, storage);
            let adds = matches!(storage, Storage::Float(_)) && random.u8(..4) == 0;
            flow = flow.to(Tensor { adds, ..to });
        }
        flows.push(flow);
    }
    let (factor, scale) = match random.u8(..3) {
        0 => (QueryFactor::Constant(-0.37), None),
        1 => (
            QueryFactor::PerRow,
            Some(QueryScale::llama4(8, 0.1, 4096).unwrap()),
        ),
        _ => (QueryFactor::One, None),
    };
    let mut listed: Vec<i32> = (0..pages.iter().product::<u32>() as i32).collect();
    random.shuffle(&mut listed);
    listed.truncate(slots as usize);
    for slot in &mut listed {
        if random.u8(..6) == 0 {
            *slot = random.choice([-1, i32::MIN, i32::MAX, 100_000]).unwrap();
        }
    }
    Job {
        whole,
        factor,
        scale,
        rotates: random.u8(..6) > 0,
        pairs: (random.u8(..4) == 0).then(|| random.u32(1..=rotary / 2)),
        rows: random
            .choice([Rows::Shared, Rows::PerToken, Rows::PerSequence, Rows::One])
            .unwrap(),
        direction: random
            .choice([Direction::Forward, Direction::Adjoint])
            .unwrap(),
        slots: listed,
        alignment: if fast { 16 } else { 4 },
        as_gpu: random.bool(),
        grid: (random.u8(..6) == 0).then_some(30),
        heads_per_invocation: (random.u8(..3) == 0).then(|| random.u32(1..9)),
        seed: random.u64(..),
        ..Job::new(&config, batch, tokens, &flows)
    }
}

#[test]
fn the_twin_keeps_its_bounds() {
    let mut random = fastrand::Rng::with_seed(21);
    let (mut worst, mut done, mut kinds) = (0.0_f64, 0, [0; 2]);
    let mut ways = std::collections::BTreeSet::new();
    for n in 0..600 {
        let job = any_job(&mut random, n % 2 == 0);
        let case = job.case();
        let before = case.buffers();
        let mut after = before.clone();
        case.twin(&mut after);
        worst = worst.max(job.check(&before, &after));
        done += 1;
        for flow in job.flows.iter().flatten() {
            let to = flow.to.unwrap_or(flow.from);
            ways.insert(format!("{} to {}", flow.from.storage, to.storage));
        }
        let plan = case.plan(&wgpu_rope::Limits::default()).unwrap();
        let of_table = [Operand::Slots, Operand::RowFactors].map(|part| (part, Place::default()));
        let places: Places = case.places().into_iter().chain(of_table).collect();
        for planned in plan.dispatches(places).unwrap() {
            kinds[usize::from(planned.entry_point == "channels")] += 1;
        }
    }
    eprintln!("{done} layers, {kinds:?} dispatches, at most {worst:.3} of the bound");
    assert!(kinds.iter().all(|&count| count > 100), "{kinds:?}");
    assert_eq!(ways.len(), 25, "{ways:?}");
}

#[test]
fn layers_of_any_kind_have_the_bits_of_the_twin() {
    let mut random = fastrand::Rng::with_seed(8);
    for n in 0..16 {
        let job = any_job(&mut random, n % 2 == 0);
        let case = job.case();
        let before = case.buffers();
        let mut after = before.clone();
        case.twin(&mut after);
        // All slots may be none.
        if after != before {
            check(On::One, &format!("layer {n}"), &job);
        }
    }
}

#[test]
fn layers_are_bound_and_recorded_or_refused_by_name() {
    use wgpu_rope::{CosSinTable, Operands, Positions, RopeDispatch, RopePlan, Slots, TableSpec};
    let context = &CONTEXTS[0];
    let kernel = context.kernel();
    let config = RopeConfig::new(64);
    let frequencies = Frequencies::new(&config).unwrap();
    let layout = bshd(5, 2, 64);
    let pages = TensorView::cache(layout, 4, 5, Storage::Int8);
    let spec = RotateSpec::new(&config, 1, 5, layout, F32)
        .with_query_to(pages)
        .with_query_factor(QueryFactor::PerRow);
    let table = |spec: &TableSpec| kernel.table(spec, 5).unwrap();
    let plain = TableSpec::new(&frequencies);
    let scale = QueryScale::llama4(8, 0.1, 100).unwrap();
    let scaled = plain.clone().with_query_scale(scale.clone());
    let full = table(&scaled.clone().with_slots(5));
    let buffer = context
        .upload(&vec![0_u32; 20 * 128], wgpu::BufferUsages::empty())
        .unwrap();
    let others = [0; 3].map(|_: i32| {
        context
            .upload(&vec![0_u32; 20 * 128], wgpu::BufferUsages::empty())
            .unwrap()
    });
    let operands = Operands::new(buffer.slice(..))
        .with(Operand::QueryTo, others[0].slice(..))
        .with(Operand::QueryToScales, others[1].slice(..));
    let plan = RopePlan::new(&spec, kernel.limits()).unwrap();
    let prepared = kernel.prepare(&plan).unwrap();
    let refused = |operands: &Operands<'_>, table: &CosSinTable, message: &str| {
        let error = prepared.bind(operands, table).unwrap_err().to_string();
        assert_eq!(error, message);
    };
    refused(
        &Operands::new(buffer.slice(..)),
        &full,
        "query destination: is planned and must be given (Operands::with), got none",
    );
    refused(
        &Operands::new(buffer.slice(..)).with(Operand::QueryTo, others[0].slice(..)),
        &full,
        "query destination scales: is planned and must be given (Operands::with), got none",
    );
    refused(
        &operands.with(Operand::KeyWeight, others[2].slice(..)),
        &full,
        "key weight: is not planned (RotateSpec::operands) and must not be given, got one",
    );
    refused(
        &operands.with(Operand::QueryToScales, others[1].slice(..16)),
        &full,
        "query destination scales: must hold 160 bytes from byte 0 on, got 16 bytes",
    );
    refused(
        &operands.with(Operand::QueryTo, full.buffer().slice(..)),
        &full,
        // The first fault counts: a table is smaller than the tensor.
        &format!(
            "query destination: must hold 2560 bytes from byte 0 on, got {} bytes",
            full.buffer().size()
        ),
    );
    refused(
        &operands.with(Operand::QueryToScales, full.buffer().slice(..)),
        &full,
        "query destination scales: must not be the buffer of the table, got that buffer",
    );
    refused(
        &operands,
        &table(&scaled),
        "table: must have room for 5 slots (TableSpec::with_slots), got 0",
    );
    refused(
        &operands,
        &table(&plain.with_slots(5)),
        "table: must have a scale of the query for each row (TableSpec::with_query_scale), got none",
    );
    // Slots count as filled once their fill is recorded, and only as many as it makes.
    let dispatch: RopeDispatch = prepared.bind(&operands, &full).unwrap();
    let ids = context
        .upload(&[0_i32, 1, 2, 3, 4], wgpu::BufferUsages::empty())
        .unwrap();
    let rows = full.bind_positions(Positions::Ids(ids.slice(..))).unwrap();
    let slots = full
        .bind_slots(Slots::Listed {
            slot_mapping: ids.slice(..),
            batch: 1,
            tokens: 5,
            capacity: 20,
        })
        .unwrap();
    let unfilled = "table: must have the slots of 5 tokens, from slot 0 on, filled by the last recorded SlotFill, got";
    let record = |filled: u32| {
        context.run(|pass| {
            rows.record(pass, 5)?;
            slots.record(pass, filled)?;
            dispatch.record(pass, 5)
        })
    };
    assert_eq!(record(0).unwrap_err().to_string(), format!("{unfilled} 0"));
    assert_eq!(record(3).unwrap_err().to_string(), format!("{unfilled} 3"));
    record(5).unwrap();

    // A second list may begin anywhere: what counts is that those slots of it are filled which the tokens read.
    let (cache, f32) = (bshd(4, 2, 64), F32);
    let from = TensorView::cache(cache, 5, 4, f32);
    let moved = RotateSpec::new(&config, 1, 4, bshd(4, 2, 64), f32)
        .with_query_from(from)
        .with_query_to(from.with_first_slot(3));
    let lists = table(&TableSpec::new(&frequencies).with_slots(7));
    let plan = RopePlan::new(&moved, kernel.limits()).unwrap();
    let [from, to] = [(); 2].map(|()| {
        context
            .upload(&[1.0_f32; 20 * 2 * 64], wgpu::BufferUsages::empty())
            .unwrap()
    });
    let dispatch = kernel
        .prepare(&plan)
        .unwrap()
        .bind(
            &Operands::new(from.slice(..)).with(Operand::QueryTo, to.slice(..)),
            &lists,
        )
        .unwrap();
    let rows = lists.bind_positions(Positions::From(0)).unwrap();
    let slots = lists
        .bind_slots(Slots::Listed {
            slot_mapping: ids.slice(..),
            batch: 1,
            tokens: 7,
            capacity: 20,
        })
        .unwrap();
    let record = |filled: u32, tokens: u32| {
        context.run(|pass| {
            rows.record(pass, 4)?;
            slots.record(pass, filled)?;
            dispatch.record(pass, tokens)
        })
    };
    for tokens in 0..=2 {
        record(5, tokens).unwrap();
    }
    assert_eq!(
        record(5, 3).unwrap_err().to_string(),
        "table: must have the slots of 3 tokens, from slot 3 on, filled by the last recorded SlotFill, got 5"
    );

    // A layer that rotates nothing reads no rows: a table of any width has its scales.
    let spec = RotateSpec::new(&config, 1, 5, layout, F32)
        .without_rotation()
        .with_query_factor(QueryFactor::PerRow);
    let narrow = Frequencies::new(&RopeConfig::new(2)).unwrap();
    let narrow = table(&TableSpec::new(&narrow).with_query_scale(scale.clone()));
    let plan = RopePlan::new(&spec, kernel.limits()).unwrap();
    let ones = context
        .upload(&[1.0_f32; 5 * 128], wgpu::BufferUsages::empty())
        .unwrap();
    let dispatch = kernel
        .prepare(&plan)
        .unwrap()
        .bind(&Operands::new(ones.slice(..)), &narrow)
        .unwrap();
    let rows = narrow
        .bind_positions(Positions::Ids(ids.slice(..)))
        .unwrap();
    context
        .run(|pass| {
            rows.record(pass, 5)?;
            dispatch.record(pass, 5)
        })
        .unwrap();
    let got: Vec<f32> = context.read_blocking(&ones, 5 * 128).unwrap();
    for (token, heads) in (0..).zip(got.chunks(128)) {
        assert!(
            heads.iter().all(|value| *value == scale.at(token)),
            "{token}"
        );
    }
}

/// The nearest whole number, halves away from 0; nothing of nothing; and what is not finite spoils its own block and no other.
#[test]
fn quantised_values_round_as_they_say() {
    let config = RopeConfig::new(32);
    let layout = bshd(1, 5, 32);
    let spec = RotateSpec::new(&config, 1, 1, layout, F32)
        .without_rotation()
        .with_key(layout, F32)
        .with_query_to(TensorView::new(layout, Storage::Q8_0))
        .with_key_to(TensorView::new(layout, Storage::Int8));
    let case = Case::new(&config, spec, &[]);
    let places = case.places();
    let mut before = case.buffers();
    let mut blocks = [[0.0_f32; 32]; 5];
    let halves = [
        127.0,
        0.5,
        -0.5,
        1.5,
        -1.5,
        2.5,
        -126.5,
        0.499_999_97,
        126.5,
        -127.0,
    ];
    blocks[0][..10].copy_from_slice(&halves);
    blocks[2] = [3.0; 32];
    blocks[2][7] = f32::NEG_INFINITY;
    blocks[3] = [1e-39; 32];
    blocks[4] = [-1e-6; 32];
    for operand in [Operand::Query, Operand::Key] {
        let place = places[&operand];
        let at = usize::try_from(place.offset / 4).unwrap();
        for (word, value) in before[place.buffer as usize][at..]
            .iter_mut()
            .zip(blocks.as_flattened())
        {
            *word = value.to_bits();
        }
    }
    let after = made("quantised", &case, &before);
    let bytes = |operand: Operand| -> Vec<i8> {
        let place = places[&operand];
        let bytes: &[i8] = bytemuck::cast_slice(&after[place.buffer as usize]);
        bytes[usize::try_from(place.offset).unwrap()..].to_vec()
    };
    let of_blocks = bytes(Operand::QueryTo);
    let of_heads = bytes(Operand::KeyTo);
    let scales = bytes(Operand::KeyToScales);
    let mut expected = [[0_i8; 32]; 5];
    expected[0][..10].copy_from_slice(&[127, 1, -1, 2, -2, 3, -127, 0, 127, -127]);
    expected[4] = [-127; 32];
    let infinity = f32::INFINITY;
    let tiny = 1e-6_f32 / 127.0;
    for (n, scale) in [1.0, 0.0, infinity, 0.0, tiny].into_iter().enumerate() {
        let block = &of_blocks[34 * n..][..34];
        let bits = u16::from_le_bytes([block[0], block[1]].map(i8::cast_unsigned));
        assert_eq!(bits, wgpu_rope::half::f16::from_f32(scale).to_bits(), "{n}");
        assert_eq!(block[2..], expected[n], "{n}");
        assert_eq!(of_heads[32 * n..][..32], expected[n], "{n}");
        let bits: Vec<u8> = scales[4 * n..][..4]
            .iter()
            .map(|byte| byte.cast_unsigned())
            .collect();
        assert_eq!(bits, scale.to_le_bytes(), "{n}");
    }
}
