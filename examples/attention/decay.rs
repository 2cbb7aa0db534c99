//! The long-term decay (RoFormer, section 3.4.3): with `h_i` the products of the pairs of query and key as complex numbers, and `S_j` the
//! sum of `e^(i (m - n) inv_freq)` over the first j pairs, a score is at most `max |h_(i+1) - h_i|` times the sum of all `|S_j|`. That sum
//! falls with distance.

use std::path::Path;

use plotters::prelude::*;
use wgpu_rope::{Frequencies, GpuContext, RopeConfig, TableSpec};

use crate::*;

const FARTHEST: i32 = 4096;
const SHOWN: [usize; 8] = [0, 1, 4, 16, 64, 256, 1024, 4096];

/// The mean of `|S_j|` for a row of cos and sin.
fn mean(row: impl Iterator<Item = [f64; 2]>) -> f64 {
    let sums = row.scan([0.0, 0.0], |sum, [cos, sin]| {
        *sum = [sum[0] + cos, sum[1] + sin];
        Some(sum[0].hypot(sum[1]))
    });
    sums.sum::<f64>() / PAIRS as f64
}

pub(crate) fn show(gpu: &GpuContext, plots: Option<&Path>) -> Outcome<bool> {
    let (query, key) = (random(3, HEAD_DIM as usize), random(4, HEAD_DIM as usize));
    let both = [&query[..], &key[..]];
    let product = |([a, b], [c, d]): ([f64; 2], [f64; 2])| [a * c + b * d, b * c - a * d];
    // A 0 stands behind the last of them.
    let h = pairs(&query).zip(pairs(&key)).map(product);
    let h: Vec<_> = h.chain([[0.0; 2]]).collect();
    let step = largest(
        h.windows(2)
            .map(|h| (h[1][0] - h[0][0]).hypot(h[1][1] - h[0][1])),
    );

    println!("decay: the mean of |S_j| by distance, from the GPU's table");
    println!(
        "   distance {}",
        SHOWN.map(|at| format!("{at:6}")).join(" ")
    );
    let distances: Vec<_> = (0..=FARTHEST).collect();
    let places: Vec<_> = distances.iter().map(|&distance| [distance, 0]).collect();
    let (mut holds, mut curves) = (true, Vec::new());
    for theta in [10_000.0, 500_000.0] {
        let frequencies = Frequencies::new(&RopeConfig::new(HEAD_DIM).with_theta(theta))?;
        let table = TableSpec::new(&frequencies);
        let made = rows(gpu, &table, &distances)?;
        let made = made
            .chunks_exact(PAIRS)
            .map(|row| mean(row.iter().map(|e| e.map(f64::from))));
        let made: Vec<_> = made.collect();
        println!(
            "  theta {theta:.0e} {}",
            SHOWN.map(|at| format!("{:6.2}", made[at])).join(" ")
        );

        // An entry of the table is a complex number of length 1, off by UNIT; S_j by j UNIT; the mean by (PAIRS + 1) / 2 of them.
        let truths = distances.iter().map(|&distance| {
            let angles = frequencies
                .inv_freq()
                .map(|rate| f64::from(distance) * rate);
            mean(angles.map(|angle| [angle.cos(), angle.sin()]))
        });
        let errors = made
            .iter()
            .zip(truths)
            .map(|(made, truth)| (made - truth).abs());
        let bound = (PAIRS as f64 + 1.0) / 2.0 * UNIT * SLACK;
        holds &= within("largest error against f64", largest(errors), bound);

        let scores = scores(gpu, &table, both, &places)?;
        let parts = scores.iter().zip(&made).map(|(score, mean)| {
            let bound = step * mean * PAIRS as f64;
            (score.abs() - rounding(both)) / bound
        });
        holds &= within(
            "scores of random q and k, in parts of the bound",
            largest(parts),
            1.0,
        );

        // Single distances go up and down; what falls is the trend.
        let octaves = (0..12).map(|power| &made[1 << power..2 << power]);
        let octaves = octaves.map(|part| part.iter().sum::<f64>() / part.len() as f64);
        let falls = octaves
            .collect::<Vec<_>>()
            .windows(2)
            .all(|pair| pair[1] < pair[0]);
        println!("  the mean over each octave of distances is below that before: {falls}");
        holds &= falls;
        curves.push(made);
    }

    // Where distances are large every 50th part is as dense as a line can show.
    let points = |curve: &[f64]| {
        let shown = std::iter::successors(Some(1), |at| Some(at + 1 + at / 50));
        let shown = shown.take_while(|&at| at < curve.len());
        shown.map(|at| (at as f64, curve[at])).collect()
    };
    plot::draw(
        plots,
        (
            "decay",
            "The bound of attention scores decays with distance (head_dim 128)",
        ),
        ["relative distance", "bound (mean of |S_j|)"],
        ((1.0..f64::from(FARTHEST)).log_scale(), 0.0..35.0),
        vec![
            ("theta 10,000", BLUE, points(&curves[0])),
            ("theta 500,000", RED, points(&curves[1])),
        ],
    )?;
    Ok(holds)
}
