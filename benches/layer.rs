//! A layer before attention in one dispatch, against three passes and against an in-place pass over the same bytes, interleaved.
//!
//! `cargo bench --bench layer`. Times of a software driver are its own: read the ratios. The output is compared with the CPU's bits before
//! anything is timed. With `--test`, and wherever `cargo bench` does not run it, everything runs once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a bench without an adapter has nothing to say, and says the rest on the terminal"
)]

mod measure;

use measure::{Candidate, Clock, Layers, Plain, median};
use wgpu_rope::GpuContext;

fn main() {
    // As criterion tells them apart: only `cargo bench` passes `--bench`.
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    let is_test = has("--test") || !has("--bench");
    let context = GpuContext::new_blocking().unwrap();
    let info = context.info();
    println!(
        "{} ({}, {} {})\n\n| workload | one dispatch to three passes | one dispatch to an in-place pass | bytes to those of three passes |\n|---|---:|---:|---:|",
        info.name, info.backend, info.driver, info.driver_info
    );
    for (name, tokens, layers, count, rounds) in [
        ("prefill 512", 512, 1, 2, 25),
        ("decode, 64 layers", 1, 64, 64, 41),
    ] {
        let rounds = if is_test { 1 } else { rounds };
        measured(&context, name, tokens, layers, count, rounds);
    }
}

fn measured(context: &GpuContext, name: &str, tokens: u32, layers: u32, count: u32, rounds: u32) {
    let case = Layers::new(context, tokens, layers).unwrap();
    assert!(case.verify().unwrap(), "{name}: bits differ from the CPU's");
    let mut clock = Clock::new(context);
    let fused = Candidate::new("one dispatch", |pass, n| case.fused(pass, n));
    let passes = case.norms().iter().map(|norm| {
        Candidate::new(format!("three passes, {}", norm.name), |pass, n| {
            case.passes(norm, pass, n)
        })
    });
    let floors = case.floors();
    let candidates: Vec<_> = [fused]
        .into_iter()
        .chain(passes)
        .chain(floors.iter().map(Plain::candidate))
        .collect();
    let samples = clock.rounds(rounds, &candidates, count, || ()).unwrap();
    let times: Vec<_> = samples
        .iter()
        .map(|samples| median(samples.iter().map(|sample| sample.wall)).unwrap())
        .collect();
    let last = 1 + case.norms().len();
    let best = |times: &[std::time::Duration]| times.iter().min().unwrap().as_secs_f64();
    let (own, passes, floor) = (
        times[0].as_secs_f64(),
        best(&times[1..last]),
        best(&times[last..]),
    );
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let bytes = case.bytes() as f64 / case.bytes_of_passes() as f64;
    println!(
        "| {name} | {:.2} | {:.2} | {bytes:.2} |",
        own / passes,
        own / floor
    );
    for (candidate, time) in candidates.iter().zip(&times) {
        println!(
            "<!-- {}: {:.3} of one dispatch -->",
            candidate.name,
            time.as_secs_f64() / own
        );
    }
}
