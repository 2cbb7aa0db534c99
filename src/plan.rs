//! Plans: what to dispatch, as data. No GPU is touched here, so any WebGPU host can carry a plan out: it names the entry
//! point, the override constants, the bytes of the uniform buffer, the byte range of every binding and the grid.

mod layer;
mod norm;
mod operand;
mod places;
mod rotate;
mod slots;
mod spec;
mod stream;
mod table;
mod view;

use std::ops::Range;

pub use norm::{Norm, NormWeight, QueryFactor};
pub use operand::Operand;
pub(crate) use operand::STREAMS;
pub use places::{Place, Placement, Places};
pub use rotate::RopePlan;
pub use slots::{SlotPositionSource, SlotRanges, SlotSource};
pub use spec::{MAX_HEADS_AT_ONCE, MAX_HEADS_PER_INVOCATION, RotateSpec, Rows};
pub(crate) use stream::Stream;
pub(crate) use table::Content;
pub use table::{Angles, CosSinLayout, PositionSource, TablePlan, TableSpec};
pub use view::{Storage, TensorView};

use crate::error::{Result, RopeError};

/// WGSL text of the table kernel: `shaders/integer.wgsl`, `shaders/turns.wgsl`, `shaders/element.wgsl`, `shaders/table.wgsl` and
/// `shaders/slots.wgsl`.
pub const TABLE_WGSL: &str = concat!(
    include_str!("../shaders/integer.wgsl"),
    "\n",
    include_str!("../shaders/turns.wgsl"),
    "\n",
    include_str!("../shaders/element.wgsl"),
    "\n",
    include_str!("../shaders/table.wgsl"),
    "\n",
    include_str!("../shaders/slots.wgsl")
);

/// WGSL text of the rotation: `shaders/element.wgsl` and `shaders/rotate.wgsl`.
pub const ROTATE_WGSL: &str = concat!(
    include_str!("../shaders/element.wgsl"),
    "\n",
    include_str!("../shaders/rotate.wgsl")
);

/// WGSL text of a whole layer's dispatch: `shaders/integer.wgsl`, `shaders/element.wgsl` and `shaders/layer.wgsl`.
pub const LAYER_WGSL: &str = concat!(
    include_str!("../shaders/integer.wgsl"),
    "\n",
    include_str!("../shaders/element.wgsl"),
    "\n",
    include_str!("../shaders/layer.wgsl")
);

/// The coarsest alignment of storage bindings that a WebGPU device may have.
const COARSEST_ALIGNMENT: u32 = 256;

/// Bytes of a buffer that [`Resource::Unused`] is bound from, whatever the plan.
pub const UNUSED_BYTES: u64 = 6 * COARSEST_ALIGNMENT as u64;

/// What a plan has to know of a device: some fields of WebGPU's `GPUSupportedLimits`, and whether it is a CPU.
///
/// The default is what every WebGPU device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Largest storage binding in bytes. Larger tensors are rotated in windows.
    pub max_storage_buffer_binding_size: u64,
    /// Alignment of storage bindings in bytes, a power of two up to 256.
    pub min_storage_buffer_offset_alignment: u32,
    /// Workgroups in each dimension of a dispatch. Larger grids take several dispatches.
    pub max_compute_workgroups_per_dimension: u32,
    /// Invocations of a workgroup, along x.
    pub max_compute_invocations_per_workgroup: u32,
    /// Bytes of a workgroup's shared memory. The window of a head has to fit where its pairs move to other channels, and where 16-bit
    /// pairs share words.
    pub max_compute_workgroup_storage_size: u32,
    /// Storage bindings of an entry point: 3 serve for rotations in place, 4 for tables, 8 for all else.
    pub max_storage_buffers_per_shader_stage: u32,
    /// A software driver: shapes are chosen for a CPU's vector units.
    pub cpu: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_storage_buffer_binding_size: 128 << 20,
            min_storage_buffer_offset_alignment: 256,
            max_compute_workgroups_per_dimension: 65_535,
            max_compute_invocations_per_workgroup: 256,
            // WebGPU's is 16,384; that of wgpu's downlevel defaults is this.
            max_compute_workgroup_storage_size: 16_352,
            max_storage_buffers_per_shader_stage: 8,
            cpu: false,
        }
    }
}

impl Limits {
    /// Bindings start at multiples of this: of 16 at least, so that 16-byte loads stay possible.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        u64::from(self.min_storage_buffer_offset_alignment.max(16))
    }

    /// Bytes of a buffer as a binding has them: from the alignment below on.
    fn aligned(&self, bytes: Range<u64>) -> Range<u64> {
        let alignment = self.alignment();
        bytes.start / alignment * alignment..bytes.end
    }

    /// The largest binding that is planned: the device's, and never so large that an index inside it does not fit u32.
    fn binding(&self) -> u64 {
        self.max_storage_buffer_binding_size
            .min(u64::from(u32::MAX) - 3)
    }

    /// What stands along one dimension of a grid at most.
    fn workgroups(&self) -> u32 {
        self.max_compute_workgroups_per_dimension.max(1)
    }

    fn invocations(&self) -> u32 {
        self.max_compute_invocations_per_workgroup.max(1)
    }

    fn validate(&self) -> Result<()> {
        let alignment = self.min_storage_buffer_offset_alignment;
        if alignment.is_power_of_two() && alignment <= COARSEST_ALIGNMENT {
            Ok(())
        } else {
            Err(RopeError::layout(
                "limits",
                format!(
                    "min_storage_buffer_offset_alignment must be a power of two up to {COARSEST_ALIGNMENT}"
                ),
                alignment,
            ))
        }
    }

    fn check_binding(&self, operand: &'static str, bytes: u64) -> Result<()> {
        if bytes > self.binding() {
            return Err(RopeError::Limit {
                limit: "max_storage_buffer_binding_size",
                operand,
                needed: bytes,
                allowed: self.binding(),
            });
        }
        Ok(())
    }
}

/// Workgroups side by side for so many items, and the ranges of rows or tokens that dispatches take: as many as a grid has along a
/// dimension.
fn in_parts(
    operand: &'static str,
    limits: &Limits,
    (items, workgroup): (u32, u32),
    count: u32,
) -> Result<(u32, impl Iterator<Item = Range<u32>>)> {
    let (most, across) = (limits.workgroups(), items.div_ceil(workgroup));
    if across > most {
        return Err(RopeError::Limit {
            limit: "max_compute_workgroups_per_dimension",
            operand,
            needed: across.into(),
            allowed: most.into(),
        });
    }
    check_dispatches(operand, count.div_ceil(most) as usize)?;
    let starts = (0..count).step_by(most as usize);
    let parts = starts.map(move |first| first..first.saturating_add(most).min(count));
    Ok((across, parts))
}

/// Most dispatches of one plan. What needs more is far beyond any device's memory.
const MAX_DISPATCHES: usize = 4096;

fn check_dispatches(operand: &'static str, count: usize) -> Result<()> {
    if count > MAX_DISPATCHES {
        return Err(RopeError::Count {
            operand,
            rule: format!(
                "must take at most {MAX_DISPATCHES} dispatches; the device's largest binding or grid is too small for it"
            )
            .into(),
            got: count as u64,
        });
    }
    Ok(())
}

/// What a binding of a planned dispatch is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// A uniform buffer with the bytes of [`PlannedDispatch::uniform`].
    Uniform,
    /// The rows of the cos/sin table, which rotations read and fills write.
    Rows,
    /// The frequencies of [`TablePlan::pairs`].
    Pairs,
    /// The caller's positions.
    Positions,
    /// The caller's slots.
    SlotMapping,
    /// The caller's block table.
    BlockTable,
    /// The sequence of each of the caller's tokens.
    Sequences,
    /// The caller's own cos.
    Cos,
    /// The caller's own sin.
    Sin,
    /// The buffer of this operand, and of others that share it.
    Tensor(Operand),
    /// A buffer of which nothing is used: entry points of a layer have more bindings than it may have tensors. Those of a dispatch are
    /// ranges of one buffer of [`UNUSED_BYTES`] that do not overlap.
    Unused,
}

/// How a shader takes hold of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// A uniform buffer.
    Uniform,
    /// Read-only storage.
    ReadOnly,
    /// Read-write storage.
    ReadWrite,
}

/// One binding of group 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBinding {
    /// The number of the binding.
    pub binding: u32,
    /// What is bound.
    pub resource: Resource,
    /// As what.
    pub access: Access,
    /// The bytes of the buffer that are bound, the start aligned.
    pub bytes: Range<u64>,
}

impl PlannedBinding {
    fn uniform(words: usize) -> Self {
        Self {
            binding: 0,
            resource: Resource::Uniform,
            access: Access::Uniform,
            bytes: 0..words as u64 * 4,
        }
    }

    fn read(binding: u32, resource: Resource, bytes: Range<u64>) -> Self {
        Self {
            binding,
            resource,
            access: Access::ReadOnly,
            bytes,
        }
    }

    fn write(binding: u32, resource: Resource, bytes: Range<u64>) -> Self {
        Self {
            access: Access::ReadWrite,
            ..Self::read(binding, resource, bytes)
        }
    }
}

/// The WGSL modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Module {
    Table,
    Rotate,
    Layer,
}

impl Module {
    pub(crate) fn wgsl(self) -> &'static str {
        match self {
            Self::Table => TABLE_WGSL,
            Self::Rotate => ROTATE_WGSL,
            Self::Layer => LAYER_WGSL,
        }
    }

    /// What wgpu's objects are called.
    #[cfg(feature = "wgpu")]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Table => "wgpu-rope table",
            Self::Rotate => "wgpu-rope rotate",
            Self::Layer => "wgpu-rope layer",
        }
    }
}

/// One dispatch as data: it works on a range of the tokens of each batch entry (of the rows, for the rows of a table).
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedDispatch {
    pub(crate) module: Module,
    /// The entry point of [`PlannedDispatch::wgsl`].
    pub entry_point: &'static str,
    /// Values of the module's override constants.
    pub constants: Vec<(&'static str, f64)>,
    /// The words of the uniform buffer at binding 0.
    pub uniform: Vec<u32>,
    /// All bindings of group 0.
    pub bindings: Vec<PlannedBinding>,
    /// Workgroups side by side for each token or row.
    across: u32,
    /// Batch entries.
    batch: u32,
    /// The tokens or rows.
    range: Range<u32>,
}

impl PlannedDispatch {
    /// The WGSL text that has the entry point: [`TABLE_WGSL`], [`ROTATE_WGSL`] or [`LAYER_WGSL`].
    #[must_use]
    pub fn wgsl(&self) -> &'static str {
        self.module.wgsl()
    }

    /// The tokens (of each batch entry) or rows that this dispatch works on.
    #[must_use]
    pub fn range(&self) -> Range<u32> {
        self.range.clone()
    }

    /// The value of an override constant that is a whole number; none for other names.
    #[must_use]
    pub fn constant(&self, name: &str) -> Option<u32> {
        let (_, value) = self
            .constants
            .iter()
            .find(|(constant, _)| *constant == name)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "constants are u32 and bool"
        )]
        let whole = *value as u32;
        Some(whole)
    }

    /// The workgroups for the first `count` tokens of each batch entry (rows, for a table), as far as they are this
    /// dispatch's own: all three are 0 where none is. The grid is exact in tokens, so any count needs nothing else.
    #[must_use]
    pub fn workgroups(&self, count: u32) -> [u32; 3] {
        let own = count.min(self.range.end).saturating_sub(self.range.start);
        if own == 0 {
            [0; 3]
        } else {
            [self.across, own, self.batch]
        }
    }

    /// The bytes of a uniform buffer in little-endian order, as the shader reads them.
    #[must_use]
    pub fn uniform_bytes(&self) -> Vec<u8> {
        self.uniform
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }
}
