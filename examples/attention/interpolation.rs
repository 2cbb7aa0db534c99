//! Positional interpolation (Chen et al., Extending Context Window of Large Language Models via Positional Interpolation, 2023, figure 2
//! and theorem 2.1). A score as a function of distance, a(s), is fitted to random targets on the trained distances. Beyond them it
//! explodes; asked at s / 16 instead, it stays near what it was between trained distances.

use std::path::Path;

use plotters::prelude::*;
use wgpu_rope::{Frequencies, GpuContext, RopeConfig, Scaling, TableSpec};

use crate::*;

const TRAINED: usize = 2048;
const FACTOR: usize = 16;
/// Added to the diagonal of the normal equations: the slowest pairs are so alike on the trained distances that f64 could not tell them
/// apart without.
const RIDGE: f64 = 1e-9;

/// The query whose scores with the key (1, 0), (1, 0), .. are nearest to the targets at distances 0, 1, ... A score is the real part of the
/// sum of `q e^(i s inv_freq)`, linear in both parts of q, so this is least squares: normal equations, solved by elimination, which needs
/// no pivots where a matrix is positive definite.
fn fit(frequencies: &Frequencies, targets: &[f32]) -> Vec<f32> {
    const SIZE: usize = 2 * PAIRS;
    // The matrix, and in its last column the right side.
    let mut rows = vec![[0.0; SIZE + 1]; SIZE];
    for (distance, &target) in (0_u32..).zip(targets) {
        let angles = frequencies
            .inv_freq()
            .map(|rate| f64::from(distance) * rate);
        let (cos, sin): (Vec<_>, Vec<_>) = angles.map(|a| (a.cos(), -a.sin())).unzip();
        let values = [cos, sin, vec![target.into()]].concat();
        for (row, factor) in rows.iter_mut().zip(&values) {
            row.iter_mut()
                .zip(&values)
                .for_each(|(sum, value)| *sum += factor * value);
        }
    }
    for i in 0..SIZE {
        rows[i][i] += RIDGE;
        let pivot = rows[i];
        for row in &mut rows[i + 1..] {
            let factor = row[i] / pivot[i];
            row.iter_mut()
                .zip(&pivot)
                .for_each(|(x, value)| *x -= factor * value);
        }
    }
    let mut query = [0.0; SIZE];
    for i in (0..SIZE).rev() {
        let known: f64 = (i + 1..SIZE).map(|j| rows[i][j] * query[j]).sum();
        query[i] = (rows[i][SIZE] - known) / rows[i][i];
    }
    #[expect(clippy::cast_possible_truncation, reason = "queries are f32")]
    query.map(|value| value as f32).to_vec()
}

pub(crate) fn show(gpu: &GpuContext, plots: Option<&Path>) -> Outcome<bool> {
    let config = RopeConfig::new(HEAD_DIM);
    let frequencies = Frequencies::new(&config)?;
    let query = fit(&frequencies, &random(5, TRAINED + 1));
    let key = [[1.0; PAIRS], [0.0; PAIRS]].concat();
    let both = [&query[..], &key[..]];
    let places: Vec<_> = (0..)
        .take(TRAINED * FACTOR + 1)
        .map(|distance| [distance, 0])
        .collect();

    println!("interpolation: scores of a query fitted to random targets up to distance {TRAINED}");
    println!("  largest, distances up to        2048       32768");
    let factor = FACTOR as f64;
    let (mut curves, mut error) = (Vec::new(), 0.0);
    for (name, scaling) in [
        ("extrapolated", Scaling::None),
        ("interpolated (linear, 16)", Scaling::Linear { factor }),
    ] {
        let frequencies = Frequencies::new(&config.clone().with_scaling(scaling))?;
        let made = scores(gpu, &TableSpec::new(&frequencies), both, &places)?;
        let truths = places.iter().map(|at| truth(&frequencies, both, at[0]));
        let errors = made
            .iter()
            .zip(truths)
            .map(|(made, truth)| (made - truth).abs());
        error = largest(errors.chain([error]));
        let most = |scores: &[f64]| largest(scores.iter().map(|score| score.abs()));
        println!(
            "  {name:>25}  {:>10.2}  {:>10.2}",
            most(&made[..=TRAINED]),
            most(&made)
        );
        // The largest of every 64 distances, so that no peak is left out.
        let peaks = made.chunks(64).map(most).enumerate();
        let line: Vec<_> = peaks.map(|(at, peak)| ((64 * at) as f64, peak)).collect();
        curves.push((name, made, line));
    }

    // Between trained distances s and s + 1, at s + l, a is off the line by at most l (1 - l) / 2 times its largest second derivative. The
    // first is at most 1/8, and the derivative the sum of |q| inv_freq^2 over the pairs. (Theorem 2.1 says so by the largest |q| and
    // theta.) What is compared is rounded: the score, and the line by no more than its ends.
    let squares = frequencies.inv_freq().map(|rate| rate * rate);
    let second = lengths(both)
        .zip(squares)
        .map(|(length, square)| length * square);
    let bound = second.sum::<f64>() / 8.0 + 2.0 * rounding(both);
    let (trained, interpolated) = (&curves[0].1[..=TRAINED], &curves[1].1);
    let off = interpolated.iter().enumerate().map(|(at, score)| {
        let (s, part) = (at / FACTOR, (at % FACTOR) as f64 / factor);
        let line = trained[s] * (1.0 - part) + trained[(s + 1).min(TRAINED)] * part;
        (score - line).abs()
    });
    let mut holds = within("largest error against f64", error, rounding(both));
    holds &= within(
        "interpolated, off the line between trained",
        largest(off),
        bound,
    );

    let lines = curves
        .into_iter()
        .zip([RED, BLUE])
        .map(|((name, _, line), colour)| (name, colour, line));
    plot::draw(
        plots,
        (
            "interpolation",
            "Scores fitted to distances up to 2,048: extrapolated they explode, interpolated they stay",
        ),
        ["distance", "|score|, largest of 64 distances"],
        (0.0..(TRAINED * FACTOR) as f64, (0.01..1e6).log_scale()),
        lines.collect(),
    )?;
    Ok(holds)
}
