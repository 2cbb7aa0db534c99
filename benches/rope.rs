//! Criterion benches: a table against a float one, a prefill against its floor, and what the host's calls cost.
//!
//! Times of a software driver are its own: read the ratios inside a group. `cargo bench -- --test` runs each once.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench without an adapter has nothing to say"
)]

mod floor;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpu_rope::{
    CosSinTable, Element, ElementType, Frequencies, GpuContext, HeadLayout, Operands, Pairing,
    Positions, RopeConfig, RopeDispatch, RopePlan, RotateSpec, TableSpec,
    half::{bf16, f16},
    reference,
};

const HEADS: u32 = 32;
const KV_HEADS: u32 = 8;

fn name(context: &GpuContext) -> String {
    format!("{} {}", context.info().backend, context.info().driver)
}

fn table(context: &GpuContext, config: &RopeConfig, rows: u32) -> CosSinTable {
    let frequencies = Frequencies::new(config).unwrap();
    let table = context
        .kernel()
        .table(&TableSpec::new(&frequencies), rows)
        .unwrap();
    let fill = table.bind_positions(Positions::From(0)).unwrap();
    context.run(|pass| fill.record(pass, rows)).unwrap();
    table
}

/// Q and K of a Llama layer on the device, and their rotation, checked against the CPU before anything is timed.
fn layer<T: Element>(
    context: &GpuContext,
    config: &RopeConfig,
    tokens: u32,
) -> (RopeDispatch, [wgpu::Buffer; 2]) {
    let layout = |heads| HeadLayout::bshd(tokens, heads, config.head_dim());
    let mut random = fastrand::Rng::with_seed(1);
    let mut noise = |heads: u32| -> Vec<T> {
        (0..tokens * heads * config.head_dim())
            .map(|_| T::narrow(random.f32() + 0.5))
            .collect()
    };
    let (mut query, mut key) = (noise(HEADS), noise(KV_HEADS));
    let usage = wgpu::BufferUsages::empty();
    let (q, k) = (
        context.upload(&query, usage).unwrap(),
        context.upload(&key, usage).unwrap(),
    );
    let spec = RotateSpec::new(config, 1, tokens, layout(HEADS), T::TYPE)
        .with_key(layout(KV_HEADS), T::TYPE);
    let kernel = context.kernel();
    let dispatch = kernel
        .prepare(&RopePlan::new(&spec, kernel.limits()).unwrap())
        .unwrap()
        .bind(
            &Operands::new(q.slice(..)).with_key(k.slice(..)),
            &table(context, config, tokens),
        )
        .unwrap();
    context.run(|pass| dispatch.record(pass, tokens)).unwrap();
    let frequencies = Frequencies::new(config).unwrap();
    let positions: Vec<_> = (0..i32::try_from(tokens).unwrap()).collect();
    let rows = reference::table(&TableSpec::new(&frequencies), (&positions).into()).unwrap();
    reference::rotate(&spec, &rows, &mut query, Some(&mut key)).unwrap();
    assert_eq!(
        bytemuck::cast_slice::<_, u8>(&context.read_blocking::<T>(&q, query.len()).unwrap()),
        bytemuck::cast_slice::<_, u8>(&query)
    );
    (dispatch, [q, k])
}

fn tables(criterion: &mut Criterion) {
    let context = GpuContext::new_blocking().unwrap();
    let rows = 131_072;
    let frequencies = Frequencies::new(&RopeConfig::new(128)).unwrap();
    let mut group = criterion.benchmark_group(format!("table 131072 x 64, {}", name(&context)));
    group.throughput(Throughput::Bytes(u64::from(rows) * 64 * 8));
    let exact = context
        .kernel()
        .table(&TableSpec::new(&frequencies), rows)
        .unwrap();
    let fill = exact.bind_positions(Positions::From(0)).unwrap();
    let (plain, _) = floor::float_table(&context, frequencies.inv_freq(), 0, rows).unwrap();
    group.bench_function("exact", |b| {
        b.iter(|| floor::timed(&context, 1, &|pass| fill.record(pass, rows)).unwrap());
    });
    group.bench_function("float angle, driver's sin and cos", |b| {
        b.iter(|| {
            floor::timed(&context, 1, &|pass| {
                plain.record(pass);
                Ok(())
            })
            .unwrap()
        });
    });
    group.finish();
}

fn prefill(criterion: &mut Criterion) {
    let context = GpuContext::new_blocking().unwrap();
    let tokens = 4096;
    for element in [ElementType::F32, ElementType::Bf16, ElementType::F16] {
        let mut group =
            criterion.benchmark_group(format!("prefill 4096 {element:?}, {}", name(&context)));
        let bytes = u64::from(tokens * (HEADS + KV_HEADS) * 128) * element.bytes();
        group.throughput(Throughput::Bytes(2 * bytes));
        let config = RopeConfig::new(128);
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let config = config.clone().with_pairing(pairing);
            let (dispatch, [q, k]) = match element {
                ElementType::F16 => layer::<f16>(&context, &config, tokens),
                ElementType::Bf16 => layer::<bf16>(&context, &config, tokens),
                _ => layer::<f32>(&context, &config, tokens),
            };
            group.bench_function(format!("{pairing:?}"), |b| {
                b.iter(|| {
                    floor::timed(&context, 1, &|pass| dispatch.record(pass, tokens)).unwrap()
                });
            });
            if pairing == Pairing::HalfSplit {
                for plain in floor::floors(&context, &q, &k) {
                    group.bench_function(&plain.name, |b| {
                        b.iter(|| {
                            floor::timed(&context, 1, &|pass| {
                                plain.record(pass);
                                Ok(())
                            })
                            .unwrap()
                        });
                    });
                }
            }
        }
        group.finish();
    }
}

/// What the host pays: once for a shape, once for a tensor, once for each layer of each step.
fn host(criterion: &mut Criterion) {
    let context = GpuContext::new_blocking().unwrap();
    let kernel = context.kernel();
    let config = RopeConfig::new(128);
    let layout = |heads| HeadLayout::bshd(1, heads, 128);
    let spec = RotateSpec::new(&config, 1, 1, layout(HEADS), ElementType::F32)
        .with_key(layout(KV_HEADS), ElementType::F32);
    let plan = RopePlan::new(&spec, kernel.limits()).unwrap();
    let prepared = kernel.prepare(&plan).unwrap();
    let table = table(&context, &config, 1);
    let (_, [q, k]) = layer::<f32>(&context, &config, 1);
    let operands = || Operands::new(q.slice(..)).with_key(k.slice(..));
    let dispatch = prepared.bind(&operands(), &table).unwrap();

    let mut group = criterion.benchmark_group(format!("host calls, {}", name(&context)));
    group.bench_function("RopePlan::new", |b| {
        b.iter(|| RopePlan::new(&spec, kernel.limits()).unwrap());
    });
    group.bench_function("RopeKernel::prepare, pipeline compiled before", |b| {
        b.iter(|| kernel.prepare(&plan).unwrap());
    });
    group.bench_function("PreparedRope::bind", |b| {
        b.iter(|| prepared.bind(&operands(), &table).unwrap());
    });
    group.bench_function("RopeDispatch::record, one of 64 in a pass", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                let mut encoder = context
                    .device()
                    .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                let start = std::time::Instant::now();
                for _ in 0..64 {
                    dispatch.record(&mut pass, 1).unwrap();
                }
                spent += start.elapsed();
            }
            spent / 64
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = tables, prefill, host
}
criterion_main!(benches);
