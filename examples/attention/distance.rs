//! The score of a query at m and a key at n depends on m - n alone (RoFormer, section 3.2, equation 16), also far out.

use std::path::Path;

use plotters::prelude::*;
use wgpu_rope::{Angles, Frequencies, GpuContext, RopeConfig, TableSpec};

use crate::*;

const DISTANCES: [i32; 6] = [0, 1, 7, 64, 500, 1000];
/// Keys from each start on, at positions behind each other.
const KEYS: i32 = 64;
/// The last query's position less its start.
const REACH: i32 = 1000 + KEYS - 1;

pub(crate) fn show(gpu: &GpuContext, plots: Option<&Path>) -> Outcome<bool> {
    let (query, key) = (random(1, HEAD_DIM as usize), random(2, HEAD_DIM as usize));
    let both = [&query[..], &key[..]];
    let frequencies = Frequencies::new(&RopeConfig::new(HEAD_DIM))?;
    let exact = TableSpec::new(&frequencies);
    let float = exact.clone().with_angles(Angles::F32);
    println!("distance: largest error of scores at the distances {DISTANCES:?}");
    println!("  positions from  exact angles    f32 angles  bound of the f32");

    let rounding = rounding(both);
    let (mut holds, mut rows) = (true, Vec::new());
    let mut of_distance = vec![Vec::new(); DISTANCES.len()];
    let decades = (4..=8).map(|power| 10_i32.pow(power));
    for start in [i32::MIN, 0]
        .into_iter()
        .chain(decades)
        .chain([i32::MAX - REACH])
    {
        let keys = start..start + KEYS;
        let at = |distance| keys.clone().map(move |n| [n + distance, n]);
        let places: Vec<_> = DISTANCES.into_iter().flat_map(at).collect();
        let error = |scores: &[f64]| {
            let truths = places.iter().map(|[m, n]| truth(&frequencies, both, m - n));
            largest(
                scores
                    .iter()
                    .zip(truths)
                    .map(|(score, truth)| (score - truth).abs()),
            )
        };
        let made = scores(gpu, &exact, both, &places)?;
        for (all, made) in of_distance.iter_mut().zip(made.chunks_exact(KEYS as usize)) {
            all.extend_from_slice(made);
        }
        let (exact, float) = (error(&made), error(&scores(gpu, &float, both, &places)?));
        // Position, frequency and product are rounded, so the angle of position p is off by 3 UNIT p inv_freq, that of both by twice as
        // much; a pair's part of the score by no more than that in parts of its length, and by no more than 2 whatever the angle.
        let farthest = f64::from(start).abs().max(f64::from(start + REACH).abs());
        let angles = frequencies
            .inv_freq()
            .map(|rate| 6.0 * UNIT * SLACK * farthest * rate);
        let parts = angles
            .zip(lengths(both))
            .map(|(angle, length)| angle.min(2.0) * length);
        let bound = rounding + parts.sum::<f64>();
        println!("  {start:>14}  {exact:>12.1e}  {float:>12.1e}  {bound:>16.1e}");
        holds &= exact <= rounding && float <= bound;
        rows.push([farthest, exact, float, rounding]);
    }
    let apart = largest(of_distance.iter().map(|scores| spread(scores)));
    let error = largest(rows.iter().map(|row| row[1]));
    holds &= within("largest error with exact angles", error, rounding);
    holds &= within(
        "spread of a distance's scores, all of these positions",
        apart,
        2.0 * rounding,
    );

    // But for the first row, whose position is negative.
    let points = |column: usize| rows[1..].iter().map(|row| (row[0], row[column])).collect();
    plot::draw(
        plots,
        (
            "distance",
            "Scores depend on distance alone: error of the same distances at growing positions",
        ),
        ["position", "largest error of a score"],
        ((1000.0..4e9).log_scale(), (1e-7..1e4).log_scale()),
        vec![
            ("f32 angles", RED, points(2)),
            ("exact angles", BLUE, points(1)),
            ("derived bound of the exact", BLACK, points(3)),
        ],
    )?;
    Ok(holds)
}
