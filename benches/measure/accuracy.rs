//! How far cos and sin are from the truth at growing positions: those of this crate's table, and those of the usual f32 angle with the
//! driver's own sin and cos, both made on the device.

use wgpu_rope::{Frequencies, GpuContext, Positions, Result, TableSpec};

use super::plain::float_table;

/// Positions looked at below each of these.
const WINDOW: u32 = 1024;
pub const POSITIONS: [u32; 7] = [4096, 16_384, 65_536, 131_072, 1 << 20, 1 << 22, 1 << 24];

/// The largest errors of cos and sin at the last positions below one.
#[derive(Debug, Clone, Copy)]
pub struct Errors {
    pub position: u32,
    /// Of the crate's table.
    pub exact: f64,
    /// Of f32 angles with the driver's sin and cos.
    pub float: f64,
}

pub async fn errors(
    context: &GpuContext,
    frequencies: &Frequencies,
    position: u32,
) -> Result<Errors> {
    let start = position - WINDOW;
    let table = context
        .kernel()
        .table(&TableSpec::new(frequencies), WINDOW)?;
    let fill = table.bind_positions(Positions::From(start.cast_signed()))?;
    let (plain, plain_table) = float_table(context, frequencies.inv_freq(), start, WINDOW)?;
    context.run(|pass| {
        plain.record(pass, 0);
        fill.record(pass, WINDOW)
    })?;
    let count = WINDOW as usize * frequencies.len();
    let error = |made: &[[f32; 2]]| -> f64 {
        let entries =
            (start..position).flat_map(|p| frequencies.inv_freq().map(move |w| truth(p, w)));
        made.iter()
            .zip(entries)
            .fold(0.0, |worst, ([c, s], (cos, sin))| {
                worst
                    .max((f64::from(*c) - cos).abs())
                    .max((f64::from(*s) - sin).abs())
            })
    };
    Ok(Errors {
        position,
        exact: error(&context.read(table.buffer(), count).await?),
        float: error(&context.read(&plain_table, count).await?),
    })
}

/// cos and sin in f64, the rounding error of the product carried along.
fn truth(position: u32, inv_freq: f64) -> (f64, f64) {
    let position = f64::from(position);
    let angle = position * inv_freq;
    let rest = position.mul_add(inv_freq, -angle);
    let (sin, cos) = angle.sin_cos();
    (cos - sin * rest, sin + cos * rest)
}
