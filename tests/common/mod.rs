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

pub mod case;
pub mod exact;
pub mod job;
pub mod layer;

use std::sync::LazyLock;

use wgpu_rope::{CosSinTable, Element, ElementType, GpuContext, HeadLayout, Pairing, RopeConfig};

/// Every adapter found. None is a failure: a green run must not mean that nothing ran.
pub static ADAPTERS: LazyLock<Vec<wgpu::Adapter>> = LazyLock::new(|| {
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

/// All words of a table's rows, padding and unfilled rows included, and its count of faults. It has nothing else.
pub fn table_words(context: &GpuContext, table: &CosSinTable) -> (Vec<[u32; 2]>, u32) {
    let whole = whole_table(context, table);
    assert_eq!(whole.skipped, 0, "{}", name(context));
    assert_eq!((whole.slots, whole.scales), (vec![], vec![]));
    (whole.rows, whole.faults)
}

/// All that is in a table's buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeTable {
    /// Padding and unfilled rows included.
    pub rows: Vec<[u32; 2]>,
    pub faults: u32,
    pub skipped: u32,
    /// With their padding.
    pub slots: Vec<i32>,
    pub scales: Vec<[u32; 2]>,
}

pub fn whole_table(context: &GpuContext, table: &CosSinTable) -> WholeTable {
    let plan = table.plan();
    let at = |bytes: u64| usize::try_from(bytes / 8).unwrap();
    assert!(plan.bytes().is_multiple_of(16));
    let mut rows: Vec<[u32; 2]> = context
        .read_blocking(table.buffer(), at(plan.bytes()))
        .unwrap();
    assert_eq!(table.buffer().size(), plan.bytes());
    let scales = rows.split_off(at(plan.factors_start()));
    let slots = rows.split_off(at(plan.slots_start()));
    let counts = rows.split_off(at(plan.row_bytes()));
    let [[faults, skipped], [0, 0]] = counts[..] else {
        panic!("{counts:?} on {}", name(context));
    };
    assert_eq!(context.read_faults_blocking(table).unwrap(), faults);
    assert_eq!(context.read_skipped_blocking(table).unwrap(), skipped);
    WholeTable {
        rows,
        faults,
        skipped,
        slots: bytemuck::cast_slice(slots.as_flattened()).to_vec(),
        scales,
    }
}

/// The bits of rows of `width` entries, with the padding of a table.
pub fn row_bits(rows: &[[f32; 2]], width: usize) -> Vec<[u32; 2]> {
    let mut out = Vec::new();
    for row in rows.chunks(width) {
        out.extend(row.iter().map(|entry| entry.map(f32::to_bits)));
        if width % 2 == 1 {
            out.push([0, 0]);
        }
    }
    out
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

/// The channels of pair k of n, counted from the start of the window: where it is read, and where it is written.
pub fn channels(pairing: Pairing, n: usize, k: usize) -> ([usize; 2], [usize; 2]) {
    let half_split = [k, n + k];
    let interleaved = [2 * k, 2 * k + 1];
    match pairing {
        Pairing::HalfSplit => (half_split, half_split),
        Pairing::Interleaved => (interleaved, interleaved),
        Pairing::InterleavedToHalfSplit => (interleaved, half_split),
        Pairing::HalfSplitToInterleaved => (half_split, interleaved),
        Pairing::HalfSplitBlocks(blocks) => {
            // The window is blocks of 2 m channels, each with its x in front of its y.
            let m = n / blocks as usize;
            let x = (0..2 * n)
                .filter(|channel| (channel / m).is_multiple_of(2))
                .nth(k)
                .unwrap();
            ([x, x + m], [x, x + m])
        }
        other => panic!("the oracle does not know {other:?}"),
    }
}

/// A channel of a head as it has to become: its value, and the sum of the magnitudes of the two products that it is made of; None where it
/// has to stay as it is.
pub type Truth = Option<(f64, f64)>;

/// Rotates one head of f64 channels.
pub fn rotate_head(config: &RopeConfig, head: &[f64], turns: &[(f64, f64)]) -> Vec<Truth> {
    let offset = config.rotary_offset() as usize;
    let mut truth = vec![None; head.len()];
    for (k, &(c, s)) in turns.iter().enumerate() {
        let (read, written) = channels(config.pairing(), turns.len(), k);
        let [x, y] = read.map(|channel| head[offset + channel]);
        let [i, j] = written.map(|channel| offset + channel);
        truth[i] = Some((x * c - y * s, (x * c).abs() + (y * s).abs()));
        truth[j] = Some((x * s + y * c, (x * s).abs() + (y * c).abs()));
    }
    truth
}

/// What a rotation may differ from the truth by. With u = 2^-24, cos and sin are within u (1 + 2^-36) of theirs, relative (`entry` tells
/// how many u, where there is a factor that was rounded itself); a product adds u, the sum adds u of the result, which is at most the sum
/// of the magnitudes: (1 + u)^3 - 1 < 3.01 u of |x c| + |y s|. Storing in 16 bits adds half a unit of the result: 2^-11 or 2^-8 of its
/// magnitude, 2^-25 at least in f16.
pub fn bound<T: Element>((truth, magnitudes): (f64, f64), entry: f64) -> f64 {
    let arithmetic = (2.01 + entry) * 2_f64.powi(-24) * magnitudes;
    arithmetic
        + match T::TYPE {
            ElementType::F16 => ((truth.abs() + arithmetic) * 2_f64.powi(-11)).max(2_f64.powi(-25)),
            ElementType::Bf16 => (truth.abs() + arithmetic) * 2_f64.powi(-8),
            _ => 0.0,
        }
}

/// Checks one head against the truth, and that what has to stay has not changed. Returns the worst error in units of its bound.
pub fn check_head<T: Element>(
    config: &RopeConfig,
    turns: &[(f64, f64)],
    entry: f64,
    (before, after): (&[T], &[T]),
) -> f64 {
    let head: Vec<f64> = before.iter().map(|x| x.widen().into()).collect();
    let mut worst = 0.0_f64;
    for (i, truth) in rotate_head(config, &head, turns).into_iter().enumerate() {
        let Some(truth) = truth else {
            assert_eq!(
                bytemuck::bytes_of(&after[i]),
                bytemuck::bytes_of(&before[i]),
                "channel {i} of {config:?} has to stay"
            );
            continue;
        };
        let error = (f64::from(after[i].widen()) - truth.0).abs();
        let allowed = bound::<T>(truth, entry);
        assert!(
            error <= allowed,
            "channel {i} of {config:?}: {:e} in place of {:e}, {error:e} > {allowed:e}",
            after[i].widen(),
            truth.0
        );
        worst = worst.max(error / allowed);
    }
    worst
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
