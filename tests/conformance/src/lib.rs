//! One list of dispatches with the bits that they have to leave behind, run on every backend: see `README.md` and
//! `cargo xtask conformance`.

pub mod cases;
pub mod device;
mod maker;
#[cfg(feature = "native")]
pub mod matrix;
#[cfg(feature = "native")]
pub mod translate;
pub mod vectors;
pub mod verdict;
