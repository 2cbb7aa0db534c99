//! What speed is measured with and against: workloads, a plain in-place pass over the same bytes, a table made with the driver's
//! own sin and cos, and a clock. Shared by the benches, the examples and the web page.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "a helper module, of which each user takes a part"
)]

mod accuracy;
mod clock;
#[cfg(not(target_arch = "wasm32"))]
mod layer;
mod plain;
mod workload;

pub use accuracy::{Errors, POSITIONS, errors};
pub use clock::{Candidate, Clock, Sample, believed, median};
#[cfg(not(target_arch = "wasm32"))]
pub use layer::Layers;
pub use plain::{Plain, float_table, floors};
pub use workload::{Case, Layout, Workload};
