//! Errors of cos and sin by position, on the visitor's device.

use conformance::vectors::Failure;
use serde_json::{Value, json};
use wgpu_rope::{Frequencies, GpuContext, RopeConfig};

use crate::measure;

/// Entries of the crate's table are at most 1, so half a unit of the last place is at most 2^-25. The crate promises 2^-31 of a
/// unit more; the rest of 2^-20 is for the rounding errors of the truth, which is computed in f64.
const BOUND: f64 = (1.0 + 1.0 / (1 << 20) as f64) / (1 << 25) as f64;

pub(crate) async fn table(context: &GpuContext) -> Result<Value, Failure> {
    let frequencies = Frequencies::new(&RopeConfig::new(128))?;
    let mut rows = Vec::new();
    for position in measure::POSITIONS {
        let found = measure::errors(context, &frequencies, position).await?;
        rows.push(json!({
            "positions_up_to": found.position,
            "this_crate": found.exact,
            "f32_angles": found.float,
        }));
    }
    Ok(json!({ "theta": 10_000, "head_dim": 128, "bound": BOUND, "largest_errors": rows }))
}
