//! Rotary position embedding on wgpu.
pub mod config;
#[cfg(feature = "wgpu")]
mod context;
#[cfg(feature = "wgpu")]
mod dispatch;
mod error;
mod frequencies;
#[cfg(feature = "wgpu")]
mod kernel;
mod layout;
mod plan;
pub mod reference;
#[cfg(feature = "wgpu")]
mod table;
pub mod turns;

pub use config::{Pairing, RopeConfig, Scaling};
pub use error::{Result, RopeError};
pub use frequencies::{Direction, Frequencies, Pair};
#[cfg(feature = "wgpu")]
pub use half;
pub use layout::{Element, ElementType, HeadLayout};
pub use plan::{
    Angles, Limits, MAX_HEADS_PER_INVOCATION, Placement, PlannedBinding, PlannedDispatch,
    PositionSource, ROTATE_WGSL, Resource, RopePlan, RotateSpec, Rows, TABLE_WGSL, TablePlan,
};
#[cfg(feature = "wgpu")]
pub use {
    context::{GpuContext, SelfTest},
    dispatch::{Operands, PreparedRope, RopeDispatch},
    kernel::{KernelOptions, RopeKernel},
    table::{CosSinTable, Positions, TableFill},
    wgpu,
};
