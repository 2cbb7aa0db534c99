//! Criterion benches of the CPU twin: a prefill on the CPU against a pass in place over the same bytes, and against a copy of them.
//!
//! No GPU is needed. With the feature `rayon` all three take all cores, without it all take one: read the ratios inside a group.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a bench stops where something is not as it has to be"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgpu_rope::{
    Element, Frequencies, HeadLayout, Pairing, RopeConfig, RotateSpec, TableSpec,
    half::{bf16, f16, slice::HalfFloatSliceExt},
    reference,
};

const TOKENS: u32 = 4096;
const HEADS: u32 = 32;
const KV_HEADS: u32 = 8;
const HEAD_DIM: u32 = 128;

/// Elements that a core takes at a time in the passes which the twin is held against.
const CHUNK: usize = 1 << 15;

type Layout = fn(u32, u32, u32) -> HeadLayout;

/// An element type, and the fastest way found to multiply values of it.
trait Scaled: Element {
    fn scale(values: &mut [Self], by: f32);
}

impl Scaled for f32 {
    fn scale(values: &mut [Self], by: f32) {
        for value in values {
            *value *= by;
        }
    }
}

impl Scaled for bf16 {
    fn scale(values: &mut [Self], by: f32) {
        for value in values {
            *value = Self::from_f32(value.to_f32() * by);
        }
    }
}

impl Scaled for f16 {
    fn scale(values: &mut [Self], by: f32) {
        let mut wide = [0.0; 1024];
        for values in values.chunks_mut(wide.len()) {
            let wide = &mut wide[..values.len()];
            values.convert_to_f32_slice(wide);
            f32::scale(wide, by);
            values.convert_from_f32_slice(wide);
        }
    }
}

#[cfg(feature = "rayon")]
fn each_chunk<T: Element>(values: &mut [T], work: impl Fn(usize, &mut [T]) + Sync) {
    use rayon::prelude::*;
    values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(at, chunk)| work(at * CHUNK, chunk));
}

#[cfg(not(feature = "rayon"))]
fn each_chunk<T: Element>(values: &mut [T], work: impl Fn(usize, &mut [T])) {
    for (at, chunk) in values.chunks_mut(CHUNK).enumerate() {
        work(at * CHUNK, chunk);
    }
}

fn noise<T: Element>(seed: u64, heads: u32) -> Vec<T> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..TOKENS * heads * HEAD_DIM)
        .map(|_| T::narrow(random.f32() + 0.5))
        .collect()
}

/// The rotation written out channel by channel, for what comes out of the timed code.
fn plain<T: Element>(pairing: Pairing, layout: HeadLayout, rows: &[[f32; 2]], values: &mut [T]) {
    let pairs = HEAD_DIM as usize / 2;
    for token in 0..TOKENS as usize {
        for head in 0..layout.heads as usize {
            let at = token * usize::try_from(layout.token_stride).unwrap()
                + head * usize::try_from(layout.head_stride).unwrap();
            for k in 0..pairs {
                let (i, j) = match pairing {
                    Pairing::Interleaved => (at + 2 * k, at + 2 * k + 1),
                    _ => (at + k, at + k + pairs),
                };
                let ([c, s], x, y) = (
                    rows[token * pairs + k],
                    values[i].widen(),
                    values[j].widen(),
                );
                values[i] = T::narrow(x * c - y * s);
                values[j] = T::narrow(x * s + y * c);
            }
        }
    }
}

fn assert_same<T: Element>(made: &[T], wanted: &[T]) {
    assert!(bytemuck::cast_slice::<T, u8>(made) == bytemuck::cast_slice::<T, u8>(wanted));
}

/// Q and K of a Llama layer.
fn prefill<T: Scaled>(criterion: &mut Criterion) {
    let (query, key) = (noise::<T>(1, HEADS), noise::<T>(2, KV_HEADS));
    let bytes = T::TYPE.bytes() * (query.len() + key.len()) as u64;
    let layouts: [(&str, Layout); 2] = [
        ("token-major", HeadLayout::bshd),
        ("head-major", HeadLayout::bhsd),
    ];
    let threads = if cfg!(feature = "rayon") {
        "all cores"
    } else {
        "one core"
    };
    let mut group =
        criterion.benchmark_group(format!("twin, prefill 4096 {:?}, {threads}", T::TYPE));
    group.throughput(Throughput::Bytes(2 * bytes));
    let (mut q, mut k) = (query.clone(), key.clone());

    // Odd times -1 is other values, even times the same: nothing grows or vanishes, however often it is done.
    let pass = |values: &mut [T]| each_chunk(values, |_, chunk| T::scale(chunk, black_box(-1.0)));
    pass(&mut q);
    assert!(
        q.iter()
            .zip(&query)
            .all(|(a, b)| a.widen().to_bits() == (-b.widen()).to_bits())
    );
    group.bench_function("a pass in place", |b| {
        b.iter(|| {
            pass(black_box(&mut q));
            pass(black_box(&mut k));
        });
    });
    let copy = |from: &[T], to: &mut [T]| {
        each_chunk(to, |at, chunk| {
            chunk.copy_from_slice(&from[at..][..chunk.len()]);
        });
    };
    group.bench_function("a copy", |b| {
        b.iter(|| {
            copy(black_box(&query), black_box(&mut q));
            copy(black_box(&key), black_box(&mut k));
        });
    });
    assert_same(&q, &query);

    for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
        let config = RopeConfig::new(HEAD_DIM).with_pairing(pairing);
        let frequencies = Frequencies::new(&config).unwrap();
        let positions: Vec<_> = (0..i32::try_from(TOKENS).unwrap()).collect();
        let rows = reference::table(&TableSpec::new(&frequencies), (&positions).into()).unwrap();
        for (name, layout) in layouts {
            let layout = |heads| layout(TOKENS, heads, HEAD_DIM);
            let spec = RotateSpec::new(&config, 1, TOKENS, layout(HEADS), T::TYPE)
                .with_key(layout(KV_HEADS), T::TYPE);
            let rotate =
                |q: &mut [T], k: &mut [T]| reference::rotate(&spec, &rows, q, Some(k)).unwrap();
            for (mine, given) in [(&mut q, &query), (&mut k, &key)] {
                mine.copy_from_slice(given);
            }
            rotate(&mut q, &mut k);
            for (made, given, heads) in [(&q, &query, HEADS), (&k, &key, KV_HEADS)] {
                let mut wanted = given.clone();
                plain(pairing, layout(heads), &rows, &mut wanted);
                assert_same(made, &wanted);
            }
            group.bench_function(format!("{pairing:?}, {name}"), |b| {
                b.iter(|| rotate(black_box(&mut q), black_box(&mut k)));
            });
        }
    }
    group.finish();
}

/// The table of a long context.
fn table(criterion: &mut Criterion) {
    let frequencies = Frequencies::new(&RopeConfig::new(HEAD_DIM)).unwrap();
    let spec = TableSpec::new(&frequencies);
    let positions: Vec<_> = (0..32_768).collect();
    let made = reference::table(&spec, (&positions).into()).unwrap();
    let last = reference::table(&spec, (&positions[positions.len() - 1..]).into()).unwrap();
    assert_eq!(made[made.len() - last.len()..], last);
    let mut values = made.into_flattened();
    let mut other = vec![0.0; values.len()];

    let mut group = criterion.benchmark_group("twin, table 32768 x 64");
    // It is only written.
    group.throughput(Throughput::Bytes(32_768 * 64 * 8));
    group.bench_function("exact", |b| {
        b.iter(|| reference::table(&spec, black_box(&positions).into()).unwrap());
    });
    group.bench_function("a pass in place", |b| {
        b.iter(|| each_chunk(black_box(&mut values), |_, chunk| f32::scale(chunk, -1.0)));
    });
    group.bench_function("a copy", |b| {
        b.iter(|| black_box(&mut other).copy_from_slice(black_box(&values)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = prefill::<f32>, prefill::<bf16>, prefill::<f16>, table
}
criterion_main!(benches);
