//! Criterion benches of what runs on a device, and of what the host's calls cost.
//!
//! Every group has its floor, the best plain in-place pass over the same bytes, and a copy of them. Throughput counts the bytes that
//! are read and written. Outputs are compared with the CPU's bits before anything is timed. Times of a software driver are its own: read
//! the ratios inside a group. `cargo bench -- --test` runs each once.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench without an adapter has nothing to say"
)]

mod measure;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use measure::{Candidate, Case, Clock, Plain, Workload};
use wgpu_rope::{
    ElementType, Frequencies, GpuContext, Operands, Pairing, Positions, RopeConfig, RopePlan,
    TableSpec,
};

/// Bytes of all layers of a case: past the caches of most devices.
const BYTES: u64 = 256 << 20;
/// Layers of a large model.
const LAYERS: u32 = 64;
/// Layers of a common one.
const SOME_LAYERS: u32 = 32;

fn group<'a>(
    criterion: &'a mut Criterion,
    context: &GpuContext,
    name: &str,
    bytes: u64,
) -> BenchmarkGroup<'a, WallTime> {
    let info = context.info();
    let name = format!("{name}, {} {}", info.backend, info.driver);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes));
    group
}

/// Times a candidate `count` times in a submission.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    clock: &mut Clock<'_>,
    candidate: &Candidate<'_>,
    count: u32,
) {
    group.bench_function(&candidate.name, |b| {
        b.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| clock.sample(candidate, count).unwrap().wall)
                .sum()
        });
    });
}

/// The fastest of the plain passes in a few rounds.
fn floor<'a>(clock: &mut Clock<'_>, floors: &'a [Plain], count: u32) -> &'a Plain {
    let candidates: Vec<_> = floors.iter().map(Plain::candidate).collect();
    let samples = clock.rounds(2, &candidates, count, || ()).unwrap();
    let times = samples
        .iter()
        .map(|samples| samples.iter().map(|sample| sample.wall).min());
    times.zip(floors).min_by_key(|(time, _)| *time).unwrap().1
}

/// The rotation, its floor and a copy, `count` times in a submission; times are of one.
fn rotation(criterion: &mut Criterion, name: &str, workload: &Workload, count: u32) {
    let context = GpuContext::new_blocking().unwrap();
    let case = Case::new(&context, workload, count, BYTES).unwrap();
    assert!(case.verify().unwrap(), "{name}: bits differ from the CPU's");
    let bytes: u64 = workload.rotated_bytes().iter().sum();
    let mut group = group(criterion, &context, name, 2 * bytes);
    let clock = &mut Clock::new(&context);
    let rotate = Candidate::new("rotation", |pass, n| case.rotate(pass, n));
    bench(&mut group, clock, &rotate, count);
    let floors = case.floors();
    let floor = floor(clock, &floors, count);
    bench(&mut group, clock, &floor.candidate(), count);
    bench(&mut group, clock, &case.copy(), count);
    group.finish();
}

/// A fill and so many layers, and the layers alone; times are of all.
fn filled(criterion: &mut Criterion, name: &str, workload: &Workload, layers: u32) {
    let context = GpuContext::new_blocking().unwrap();
    let case = Case::new(&context, workload, layers, BYTES).unwrap();
    assert!(case.verify().unwrap(), "{name}: bits differ from the CPU's");
    let bytes: u64 = workload.rotated_bytes().iter().sum();
    let mut group = group(criterion, &context, name, 2 * bytes * u64::from(layers));
    let clock = &mut Clock::new(&context);
    let floors = case.floors();
    let floor = floor(clock, &floors, layers).candidate();
    let rotate = |pass: &mut wgpu::ComputePass<'_>, n| case.rotate(pass, n);
    for candidate in [
        Candidate::new("layers alone", rotate).repeated(layers),
        Candidate::new("fill and layers", |pass, _| {
            case.refill(pass)?;
            (0..layers).try_for_each(|n| case.rotate(pass, n))
        }),
        floor.repeated(layers),
        case.copy().repeated(layers),
    ] {
        bench(&mut group, clock, &candidate, 1);
    }
    group.finish();
}

fn table(criterion: &mut Criterion) {
    let context = GpuContext::new_blocking().unwrap();
    let rows = 131_072;
    let frequencies = Frequencies::new(&RopeConfig::new(128)).unwrap();
    let spec = TableSpec::new(&frequencies);
    let exact = context.kernel().table(&spec, rows).unwrap();
    let fill = exact.bind_positions(Positions::From(0)).unwrap();
    let f32_angles = spec.clone().with_angles(wgpu_rope::Angles::F32);
    let rounded = context.kernel().table(&f32_angles, rows).unwrap();
    let rounded = rounded.bind_positions(Positions::From(0)).unwrap();
    let (plain, scratch) = measure::float_table(&context, frequencies.inv_freq(), 0, rows).unwrap();
    // What is compared with the CPU is compared by the tests; here the last row, which the first does not tell.
    context.run(|pass| fill.record(pass, rows)).unwrap();
    let made: Vec<[f32; 2]> = context
        .read_blocking(exact.buffer(), rows as usize * 64)
        .unwrap();
    let last =
        wgpu_rope::reference::table(&spec, (&[i32::try_from(rows).unwrap() - 1]).into()).unwrap();
    assert_eq!(made[made.len() - 64..], last);

    let bytes = u64::from(rows) * 64 * 8;
    let mut group = group(criterion, &context, "table 131072 x 64", bytes);
    let clock = &mut Clock::new(&context);
    for candidate in [
        Candidate::new("exact", |pass, _| fill.record(pass, rows)),
        Candidate::new("f32 angles, exact cos and sin", |pass, _| {
            rounded.record(pass, rows)
        }),
        plain.candidate(),
    ] {
        bench(&mut group, clock, &candidate, 1);
    }
    // A table is only written: a pass and a copy of half as many bytes move as many.
    let half = scratch.slice(..bytes / 2);
    let quarters = [
        scratch.slice(..bytes / 4),
        scratch.slice(bytes / 4..bytes / 2),
    ];
    let floors = measure::floors(&context, &[quarters], 16, 16);
    let best = floor(clock, &floors, 1);
    bench(&mut group, clock, &best.candidate(), 1);
    let copy = Candidate::copies("copy", |encoder, _| {
        let to = exact.buffer();
        encoder.copy_buffer_to_buffer(half.buffer(), 0, to, 0, half.size());
    });
    bench(&mut group, clock, &copy, 1);
    group.finish();
}

fn prefill(criterion: &mut Criterion) {
    for tokens in [512, 4096] {
        let workload = Workload::new("", tokens);
        rotation(criterion, &format!("prefill {tokens}"), &workload, 1);
    }
    let workload = Workload::new("", 512);
    filled(criterion, "prefill 512, 32 layers", &workload, SOME_LAYERS);
}

fn decode(criterion: &mut Criterion) {
    for tokens in [1, 64] {
        let workload = Workload::new("", tokens);
        rotation(
            criterion,
            &format!("decode {tokens}, one of 64 layers"),
            &workload,
            LAYERS,
        );
        two_dispatches(
            criterion,
            &format!("decode {tokens}, one of 64 layers"),
            &workload,
        );
        filled(
            criterion,
            &format!("decode {tokens}, 32 layers"),
            &workload,
            SOME_LAYERS,
        );
    }
}

/// Q and K in dispatches of their own.
fn two_dispatches(criterion: &mut Criterion, name: &str, workload: &Workload) {
    let context = GpuContext::new_blocking().unwrap();
    let sides = [workload.heads, workload.kv_heads].map(|heads| {
        let alone = Workload {
            heads,
            kv_heads: 0,
            ..workload.clone()
        };
        Case::new(&context, &alone, LAYERS, BYTES).unwrap()
    });
    let bytes: u64 = workload.rotated_bytes().iter().sum();
    let mut group = group(criterion, &context, name, 2 * bytes);
    let both = Candidate::new("Q and K in two dispatches", |pass, n| {
        sides.iter().try_for_each(|side| side.rotate(pass, n))
    });
    bench(&mut group, &mut Clock::new(&context), &both, LAYERS);
    group.finish();
}

fn element_types(criterion: &mut Criterion) {
    for element in [ElementType::F32, ElementType::Bf16, ElementType::F16] {
        let workload = Workload {
            element,
            ..Workload::new("", 1024)
        };
        rotation(
            criterion,
            &format!("element type {element:?}"),
            &workload,
            1,
        );
    }
}

fn pairings(criterion: &mut Criterion) {
    for pairing in [
        Pairing::HalfSplit,
        Pairing::Interleaved,
        Pairing::HalfSplitBlocks(2),
        Pairing::InterleavedToHalfSplit,
        Pairing::HalfSplitToInterleaved,
    ] {
        let workload = Workload {
            pairing,
            ..Workload::new("", 1024)
        };
        rotation(criterion, &format!("pairing {pairing:?}"), &workload, 1);
    }
}

/// What the host pays: once for a shape, once for a tensor, once for each layer of each step.
fn record(criterion: &mut Criterion) {
    let context = GpuContext::new_blocking().unwrap();
    let workload = Workload::new("", 1);
    let case = Case::new(&context, &workload, 1, BYTES).unwrap();
    assert!(case.verify().unwrap(), "bits differ from the CPU's");
    let (kernel, spec) = (context.kernel(), workload.spec());
    let plan = RopePlan::new(&spec, kernel.limits()).unwrap();
    let prepared = kernel.prepare(&plan).unwrap();
    let [q, k] = case.buffers();
    let operands = || Operands::new(q.slice(..)).with_key(k.slice(..));
    let floors = case.floors();

    let info = context.info();
    let mut group =
        criterion.benchmark_group(format!("host calls, {} {}", info.backend, info.driver));
    group.bench_function("RopePlan::new", |b| {
        b.iter(|| RopePlan::new(&spec, kernel.limits()).unwrap());
    });
    group.bench_function("RopeKernel::prepare, pipeline compiled before", |b| {
        b.iter(|| kernel.prepare(&plan).unwrap());
    });
    group.bench_function("PreparedRope::bind, one layer", |b| {
        b.iter(|| prepared.bind(&operands(), case.table()).unwrap());
    });
    let layers = Candidate::new("RopeDispatch::record", |pass, n| case.rotate(pass, n));
    for candidate in [layers, floors[0].candidate()] {
        for (part, name) in [
            (true, "one of 64 layers"),
            (false, "end of pass and finish, for each of 64 layers"),
        ] {
            group.bench_function(format!("{}: {name}", candidate.name), |b| {
                b.iter_custom(|iterations| {
                    let clock = &mut Clock::new(&context);
                    let spent: Duration = (0..iterations)
                        .map(|_| {
                            let sample = clock.sample(&candidate, LAYERS).unwrap();
                            if part { sample.record } else { sample.finish }
                        })
                        .sum();
                    spent
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = table, prefill, decode, element_types, pairings, record
}
criterion_main!(benches);
