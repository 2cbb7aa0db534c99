//! Prefill and decode against the in-place floor, in amounts that suit the device.

use std::time::Duration;

use conformance::vectors::Failure;
use serde_json::{Value, json};
use wgpu_rope::{GpuContext, Result};

use crate::Progress;
use crate::measure::{Candidate, Case, Clock, Plain, Sample, Workload, median};

/// What a submission should take: long beside what submitting it costs, and beside a clock that browsers make coarse on purpose
/// (0.1 ms); short enough not to be noticed on a screen that the same GPU draws.
const ENOUGH: Duration = Duration::from_millis(8);
/// Bytes of the tensors of all layers: past the caches of most GPUs.
const BYTES: u64 = 96 << 20;
const MOST_DISPATCHES: u32 = 4096;
const LAYERS: u32 = 64;
const ROUNDS: usize = 15;

/// As many tokens as make one rotation last.
pub(crate) async fn prefill(
    context: &GpuContext,
    progress: &Progress,
) -> std::result::Result<Value, Failure> {
    let mut tokens = 128;
    while tokens < 4096 {
        let case = Case::new(context, &workload("prefill", tokens), 1, BYTES)?;
        let rotation = Candidate::new("rotation", |pass, n| case.rotate(pass, n));
        if time(context, &rotation, 1).await? * 2 > ENOUGH {
            break;
        }
        tokens *= 2;
    }
    measured(context, &workload("prefill", tokens), progress).await
}

/// One token.
pub(crate) async fn decode(
    context: &GpuContext,
    progress: &Progress,
) -> std::result::Result<Value, Failure> {
    measured(context, &workload("decode", 1), progress).await
}

fn workload(stage: &str, tokens: u32) -> Workload {
    Workload::new(format!("{stage} {tokens}"), tokens)
}

/// What a submission takes, when everything has been compiled.
async fn time(context: &GpuContext, candidate: &Candidate<'_>, count: u32) -> Result<Duration> {
    let mut clock = Clock::new(context);
    clock.sample_async(candidate, count).await?;
    let sample = clock.sample_async(candidate, count).await?;
    Ok(sample.wall * count)
}

/// How many dispatches last.
async fn enough(context: &GpuContext, candidate: &Candidate<'_>) -> Result<u32> {
    let mut count = 1;
    while count < MOST_DISPATCHES && time(context, candidate, count).await? < ENOUGH {
        count *= 2;
    }
    Ok(count)
}

async fn measured(
    context: &GpuContext,
    workload: &Workload,
    progress: &Progress,
) -> std::result::Result<Value, Failure> {
    let case = Case::new(context, workload, LAYERS, BYTES)?;
    // Before anything is timed.
    let bits_equal = case.verify_async().await?;
    let rotation = Candidate::new("rotation", |pass, n| case.rotate(pass, n));
    let fill = Candidate::new("fill", |pass, _| case.refill(pass));
    let nothing = Candidate::copies("nothing", |_, _| ());
    let floors = case.floors();
    let dispatches = enough(context, &rotation).await?;
    let fills = enough(context, &fill).await?;

    let mut candidates = vec![rotation];
    candidates.extend(floors.iter().map(Plain::candidate));
    // One clock for what is compared, since one timestamp that cannot be believed rejects them all; others for what is short.
    let mut clock = Clock::new(context);
    let (mut fill_clock, mut other_clock) = (Clock::new(context), Clock::new(context));
    let mut samples = vec![Vec::new(); candidates.len()];
    let (mut fill_samples, mut empty_samples) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=ROUNDS {
        for (candidate, samples) in candidates.iter().zip(&mut samples) {
            samples.push(clock.sample_async(candidate, dispatches).await?);
        }
        fill_samples.push(fill_clock.sample_async(&fill, fills).await?);
        empty_samples.push(other_clock.sample_async(&nothing, 1).await?);
        progress.tell(round + 1, ROUNDS + 1);
    }
    let of = |clock: &Clock<'_>, samples: &[Sample]| {
        let by_gpu = clock.rejected().is_none();
        median(samples.iter().skip(1).map(|sample| match sample.gpu {
            Some(gpu) if by_gpu => gpu,
            _ => sample.wall,
        }))
    };
    let rotation = of(&clock, &samples[0])?;
    let mut floor = (Duration::MAX, "");
    for (made, samples) in floors.iter().zip(&samples[1..]) {
        floor = floor.min((of(&clock, samples)?, &made.name));
    }
    let fill = of(&fill_clock, &fill_samples)?;
    let bytes: u64 = workload.rotated_bytes().iter().sum();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    Ok(json!({
        "workload": workload.name,
        "tokens": workload.tokens,
        "heads": workload.heads,
        "kv_heads": workload.kv_heads,
        "head_dim": workload.head_dim,
        "type": "f32",
        "pairing": "half-split",
        "ratio_to_floor": us(rotation) / us(floor.0),
        "fill_to_32_rotations": us(fill) / (32.0 * us(rotation)),
        "bits_equal": bits_equal,
        "rotation_us": us(rotation),
        "floor_us": us(floor.0),
        "floor": floor.1,
        "fill_us": us(fill),
        "gigabytes_per_second": 2.0 * bytes as f64 / (us(rotation) * 1e3),
        "clock": if clock.rejected().is_none() { "timestamps of the GPU" } else { "from submission to completion" },
        "no_timestamps_because": clock.rejected(),
        "dispatches_of_a_submission": dispatches,
        "layers": case.rotations.len(),
        "rounds": ROUNDS,
        "empty_submission_us": us(of(&other_clock, &empty_samples)?),
    }))
}
