//! What RoPE is known for, shown on the GPU and checked: scores depend on distance alone, their bound decays with it, contexts can be
//! interpolated, linear attention can use it, and embeddings that are added to the input do not have the first of these properties.
//!
//! `cargo run --release --example attention -- [PROPERTY…] [--plots FOLDER]`
//!
//! Every check has a bound that is derived beside it; the exit code is not 0 where one fails.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod decay;
mod distance;
mod interpolation;
mod linear;
mod plot;
mod sinusoidal;

use std::error::Error;
use std::f64::consts::SQRT_2;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use wgpu_rope::{
    ElementType, Frequencies, GpuContext, HeadLayout, Positions, RopeConfig, RotateSpec, TableSpec,
    wgpu,
};

/// Channels of a head, and pairs that they make: pair k is channels k and k + 64 (half-split, the default of `RopeConfig`).
const HEAD_DIM: u32 = 128;
const PAIRS: usize = 64;

/// The unit roundoff of f32: rounding to nearest is off by at most this part of the result.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;

/// On bounds to first order in `UNIT`: covers the higher orders (terms of `UNIT` squared, less than 1e-4 of a bound), the table's
/// 2^-31 ulp beyond a rounding, and the f64 that scores and truth are computed in (angles of up to 32,768 radians, so up to 1e-11).
const SLACK: f64 = 1.001;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Property {
    /// Scores depend on the distance of query and key alone.
    Distance,
    /// RoFormer's bound of a score decays with distance.
    Decay,
    /// A score stays near what it was on trained distances where they are interpolated, and explodes beyond them.
    Interpolation,
    /// Linear attention with RoPE, as a sum over keys and as a running state.
    Linear,
    /// Sinusoidal embeddings added to the input, instead of a rotation.
    Sinusoidal,
}

/// Shows what RoPE is known for on the GPU, and checks it.
#[derive(Debug, Parser)]
#[command(name = "attention", version)]
struct Args {
    /// What to show [all].
    #[arg(value_enum)]
    property: Vec<Property>,
    /// Draw each as an SVG file into this folder.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
}

fn main() -> Outcome<()> {
    let args = Args::parse();
    let gpu = GpuContext::new_blocking()?;
    println!("on {} ({})", gpu.info().name, gpu.info().backend);
    if let Some(folder) = &args.plots {
        std::fs::create_dir_all(folder)?;
    }
    let properties = match &args.property[..] {
        [] => Property::value_variants(),
        some => some,
    };
    let mut failed = Vec::new();
    for property in properties {
        println!();
        let plots = args.plots.as_deref();
        let holds = match property {
            Property::Distance => distance::show(&gpu, plots),
            Property::Decay => decay::show(&gpu, plots),
            Property::Interpolation => interpolation::show(&gpu, plots),
            Property::Linear => linear::show(&gpu, plots),
            Property::Sinusoidal => sinusoidal::show(&gpu, plots),
        }?;
        if !holds {
            failed.push(format!("{property:?}").to_lowercase());
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("a bound was exceeded: {}", failed.join(", ")).into())
    }
}

/// The scores of one query and one key of `HEAD_DIM` channels at many pairs of positions `[m, n]`: rotated on the GPU by `table`, then
/// multiplied in f64.
fn scores(
    gpu: &GpuContext,
    table: &TableSpec,
    both: [&[f32]; 2],
    places: &[[i32; 2]],
) -> Outcome<Vec<f64>> {
    let mut vectors = both.concat().repeat(places.len());
    let tokens = u32::try_from(2 * places.len())?;
    let layout = HeadLayout::bshd(tokens, 1, HEAD_DIM);
    // Of the configuration a rotation takes dimensions and pairing; theta and scaling are the table's.
    let config = RopeConfig::new(HEAD_DIM);
    let spec = RotateSpec::new(&config, 1, tokens, layout, ElementType::F32);
    let positions = places.as_flattened();
    gpu.rotate_blocking(&spec, table, positions.into(), &mut vectors, None)?;
    let rotated = vectors.chunks_exact(both[0].len() + both[1].len());
    let halves = rotated.map(|both| both.split_at(both.len() / 2));
    Ok(halves.map(|(query, key)| dot(query, key)).collect())
}

/// A product in f64.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let product = |(&a, &b): (&f32, &f32)| f64::from(a) * f64::from(b);
    a.iter().zip(b).map(product).sum()
}

/// Rows of (cos, sin), one for each position, made on the GPU.
fn rows(gpu: &GpuContext, table: &TableSpec, positions: &[i32]) -> Outcome<Vec<[f32; 2]>> {
    let count = u32::try_from(positions.len())?;
    let table = gpu.kernel().table(table, count)?;
    let ids = gpu.upload(positions, wgpu::BufferUsages::empty())?;
    let fill = table.bind_positions(Positions::Ids(ids.slice(..)))?;
    gpu.run(|pass| fill.record(pass, count))?;
    Ok(gpu.read_blocking(table.buffer(), positions.len() * PAIRS)?)
}

/// The pairs of a vector.
fn pairs(vector: &[f32]) -> impl Iterator<Item = [f64; 2]> + '_ {
    let (x, y) = vector.split_at(vector.len() / 2);
    x.iter().zip(y).map(|(&x, &y)| [x.into(), y.into()])
}

/// What a score is at a distance m - n, without rounding: the real part of the sum over pairs of `q k* e^(i (m - n) inv_freq)`, pairs
/// as complex numbers (RoFormer, section 3.4.3). No position is in it.
fn truth(frequencies: &Frequencies, [query, key]: [&[f32]; 2], distance: i32) -> f64 {
    let both = pairs(query).zip(pairs(key)).zip(frequencies.inv_freq());
    both.map(|(([a, b], [c, d]), inv_freq)| {
        let (sin, cos) = (f64::from(distance) * inv_freq).sin_cos();
        (a * c + b * d) * cos - (b * c - a * d) * sin
    })
    .sum()
}

/// The lengths of a query's pairs times those of a key's.
fn lengths<'a>([query, key]: [&'a [f32]; 2]) -> impl Iterator<Item = f64> + 'a {
    let both = pairs(query).zip(pairs(key));
    both.map(|([a, b], [c, d])| a.hypot(b) * c.hypot(d))
}

/// How far f32 rounding may put a score off.
///
/// Each channel of a rotated pair (x, y) is `x c - y s` or `x s + y c`: c and s are rounded, so are the products and the sum; it is off
/// by at most 3 `UNIT` (|x c| + |y s|). Over both channels that is a vector no longer than 3 sqrt(2) `UNIT` r, with r the length of the
/// pair: (|xc| + |ys|)^2 + (|xs| + |yc|)^2 = r^2 + 4 |xy| |cs|, at most 2 r^2. A score has it twice, from the query and from the key.
fn rounding(both: [&[f32]; 2]) -> f64 {
    6.0 * SQRT_2 * UNIT * SLACK * lengths(both).sum::<f64>()
}

/// Random values from -1 to 1, the same on every system.
fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// The largest value, from 0 up; NaN where there is one, which is within no bound.
fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    let larger = |most: f64, value: f64| {
        if value > most || value.is_nan() {
            value
        } else {
            most
        }
    };
    values.into_iter().fold(0.0, larger)
}

/// How far values lie apart.
fn spread(values: &[f64]) -> f64 {
    let from = |sign: f64| largest(values.iter().map(|value| sign * (value - values[0])));
    from(1.0) + from(-1.0)
}

/// Prints a value beside its bound, and whether it is within.
fn within(what: &str, value: f64, bound: f64) -> bool {
    let holds = value <= bound;
    let word = if holds { "holds" } else { "FAILS" };
    println!("  {what}: {value:.1e}, bound {bound:.1e}: {word}");
    holds
}
