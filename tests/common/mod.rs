//! What the integration tests share: every adapter of the machine, seeded data, and an f64 oracle that shares no code with
//! the crate.
#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a helper module of tests, each of which uses a part of it"
)]

use std::sync::LazyLock;

use wgpu_rope::{GpuContext, HeadLayout, Pairing, RopeConfig};

/// Every adapter found. None is a failure: a green run must not mean that nothing ran.
static ADAPTERS: LazyLock<Vec<wgpu::Adapter>> = LazyLock::new(|| {
    let adapters = pollster::block_on(GpuContext::adapters());
    assert!(
        !adapters.is_empty(),
        "no adapter was found: these tests need a GPU or a software driver (cargo xtask test installs one)"
    );
    adapters
});

/// A context on every adapter.
pub static CONTEXTS: LazyLock<Vec<GpuContext>> = LazyLock::new(|| {
    let context = |adapter| pollster::block_on(GpuContext::from_adapter(adapter)).unwrap();
    let contexts: Vec<_> = ADAPTERS.iter().map(context).collect();
    for context in &contexts {
        eprintln!("tested on {}", name(context));
    }
    contexts
});

pub fn name(context: &GpuContext) -> String {
    let info = context.info();
    format!(
        "{} ({}, {} {})",
        info.name, info.backend, info.driver, info.driver_info
    )
}

/// Other contexts on the same adapters, with limits changed.
pub fn contexts_with(change: impl Fn(&mut wgpu::Limits)) -> Vec<GpuContext> {
    attempts_with(change)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

/// The same where some may not come to be.
pub fn attempts_with(change: impl Fn(&mut wgpu::Limits)) -> Vec<wgpu_rope::Result<GpuContext>> {
    ADAPTERS
        .iter()
        .map(|adapter| {
            let mut limits =
                wgpu::Limits::downlevel_defaults().or_worse_values_from(&adapter.limits());
            limits.min_storage_buffer_offset_alignment =
                adapter.limits().min_storage_buffer_offset_alignment;
            change(&mut limits);
            pollster::block_on(GpuContext::with_limits(adapter, limits))
        })
        .collect()
}

pub const NO_USAGE: wgpu::BufferUsages = wgpu::BufferUsages::empty();

/// Values from -4 to 4 that neither overflow nor become denormal, in any type.
pub fn values(random: &mut fastrand::Rng, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let magnitude = f32::from_bits(random.u32(0x3d00_0000..0x4080_0000));
            if random.bool() { magnitude } else { -magnitude }
        })
        .collect()
}

/// The angle of a position in f64, reduced exactly: the product's rounding error is carried along.
fn angle(position: i32, inv_freq: f64) -> (f64, f64) {
    let p = f64::from(position);
    let high = p * inv_freq;
    (high, p.mul_add(inv_freq, -high))
}

/// cos and sin of `position * inv_freq` in f64.
pub fn cos_sin(position: i32, inv_freq: f64) -> (f64, f64) {
    let (high, low) = angle(position, inv_freq);
    let (s, c) = high.sin_cos();
    (c - s * low, s + c * low)
}

/// theta^(-2k/r), written out another way than the crate's.
pub fn inv_freq(config: &RopeConfig) -> Vec<f64> {
    let r = f64::from(config.rotary_dim());
    (0..config.rotary_dim() / 2)
        .map(|k| (-(2.0 * f64::from(k) / r) * config.theta().ln()).exp())
        .collect()
}

/// Rotates one head of f64 channels.
pub fn rotate_head(config: &RopeConfig, head: &mut [f64], turns: &[(f64, f64)]) {
    let (offset, pairs) = (config.rotary_offset() as usize, turns.len());
    for (k, &(c, s)) in turns.iter().enumerate() {
        let (i, j) = match config.pairing() {
            Pairing::HalfSplit => (k, k + pairs),
            Pairing::Interleaved => (2 * k, 2 * k + 1),
            other => panic!("the oracle does not know {other:?}"),
        };
        let (x, y) = (head[offset + i], head[offset + j]);
        head[offset + i] = x * c - y * s;
        head[offset + j] = y * c + x * s;
    }
}

/// The elements that belong to some head of a view, in order of batch, token, head.
pub fn heads(
    layout: HeadLayout,
    batch: u32,
    tokens: u32,
) -> impl Iterator<Item = (u32, u32, usize)> {
    (0..batch).flat_map(move |b| {
        (0..tokens).flat_map(move |t| {
            (0..layout.heads).map(move |h| {
                let at = layout.offset
                    + u64::from(b) * layout.batch_stride
                    + u64::from(t) * layout.token_stride
                    + u64::from(h) * layout.head_stride;
                (b, t, usize::try_from(at).unwrap())
            })
        })
    })
}
