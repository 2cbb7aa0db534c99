//! Sinusoidal embeddings added to the input (Vaswani et al., Attention Is All You Need, 2017, section 3.5) in place of the rotation. With x
//! and y the inputs and p and q the embeddings of their positions, `(x + p) . (y + q) = x . y + p . q + (x . q + p . y)`. The product of
//! embeddings depends on the distance alone; what is in brackets, on where both stand. Projections, left out here, only add to that.

use std::path::Path;

use plotters::prelude::*;
use wgpu_rope::{Frequencies, GpuContext, RopeConfig, TableSpec};

use crate::*;

const DISTANCES: [i32; 3] = [1, 16, 256];
/// Keys, and how far apart they stand.
const KEYS: usize = 512;
const STRIDE: usize = 8;

/// A product of inputs, each with its embedding added.
fn product([x, y]: [&[f32]; 2], embeddings: &[f32]) -> f64 {
    let (p, q) = embeddings.split_at(x.len());
    let added = |x: f32, p: f32| f64::from(x) + f64::from(p);
    let both = x.iter().zip(p).zip(y.iter().zip(q));
    both.map(|((&x, &p), (&y, &q))| added(x, p) * added(y, q))
        .sum()
}

pub(crate) fn show(gpu: &GpuContext, plots: Option<&Path>) -> Outcome<bool> {
    // The query and key of `distance`.
    let (query, key) = (random(1, HEAD_DIM as usize), random(2, HEAD_DIM as usize));
    let (both, nothing) = ([&query[..], &key[..]], [&[0.0; HEAD_DIM as usize][..]; 2]);
    // theta 10,000 as in that paper, so a table's row is its embedding. Which channel has which cos or sin makes no difference here.
    let table = TableSpec::new(&Frequencies::new(&RopeConfig::new(HEAD_DIM))?);
    println!("sinusoidal: spread of scores, keys at {KEYS} positions from 0 on, {STRIDE} apart");
    println!("  distance      RoPE  added embeddings  the embeddings' product alone");

    let (mut of_rope, mut of_product, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for distance in DISTANCES {
        let keys = (0..).step_by(STRIDE).take(KEYS);
        let places: Vec<_> = keys.map(|n| [n + distance, n]).collect();
        let rope = scores(gpu, &table, both, &places)?;
        let rows = rows(gpu, &table, places.as_flattened())?;
        let of = |inputs| -> Vec<_> {
            let embeddings = rows.as_flattened().chunks_exact(2 * HEAD_DIM as usize);
            embeddings
                .map(|embeddings| product(inputs, embeddings))
                .collect()
        };
        let (added, alone) = (of(both), of(nothing));
        let spreads = [&rope, &added, &alone].map(|scores| spread(scores));
        println!(
            "  {distance:>8}  {:>8.1e}  {:>16.1e}  {:>29.1e}",
            spreads[0], spreads[1], spreads[2]
        );
        of_rope.push(spreads[0]);
        of_product.push(spreads[2]);
        if distance == 16 {
            let line =
                |scores: Vec<f64>| places.iter().map(|at| at[1].into()).zip(scores).collect();
            lines = vec![
                ("embeddings added to the input", RED, line(added)),
                ("RoPE", BLUE, line(rope)),
            ];
        }
    }
    let mut holds = within("RoPE's spread", largest(of_rope), 2.0 * rounding(both));
    // Each of cos cos + sin sin is off by 2 UNIT of |cos cos| + |sin sin|, which is at most 1.
    let bound = 2.0 * UNIT * SLACK * PAIRS as f64;
    holds &= within(
        "spread of the embeddings' product",
        largest(of_product),
        2.0 * bound,
    );

    plot::draw(
        plots,
        (
            "sinusoidal",
            "One query and key at distance 16: RoPE's score is the same everywhere",
        ),
        ["position of the key", "score"],
        (0.0..(STRIDE * KEYS) as f64, -10.0..50.0),
        lines,
    )?;
    Ok(holds)
}
