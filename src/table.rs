//! `CosSinTable`: rows of (cos, sin) on the device, and the fills that make them.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::dispatch::storage;
use crate::error::{Result, RopeError};
use crate::kernel::{RopeKernel, scoped};
use crate::plan::{PlannedDispatch, PositionSource, Resource, TablePlan};

/// Where the positions of a table's rows come from. Buffers are the caller's, hold i32, and need
/// [`wgpu::BufferUsages::STORAGE`]; they are read when a recorded fill runs, so one small write to them a step is all that
/// changes. Positions may be negative, repeated, descending; arithmetic on them wraps.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Positions<'a> {
    /// Row r has position `start + r`.
    From(i32),
    /// The same with a start in a buffer (one i32).
    Start(wgpu::BufferSlice<'a>),
    /// Row r has position `starts[r / rows] + r % rows`: a start for each sequence, whose rows stand behind each other.
    /// With [`Rows::PerToken`](crate::Rows::PerToken), `rows` is the planned number of tokens.
    StartPerSequence {
        /// One i32 for each sequence.
        starts: wgpu::BufferSlice<'a>,
        /// Rows of a sequence.
        rows: u32,
    },
    /// Row r has position `ids[r]`.
    Ids(wgpu::BufferSlice<'a>),
}

/// A table of cos and sin on the device, one row for each position and one entry for each pair.
///
/// Cheap to clone; clones share the rows. A table turns one way ([`Direction`](crate::Direction)) with one attention
/// factor; a longer one is a new one.
#[derive(Debug, Clone)]
pub struct CosSinTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kernel: RopeKernel,
    plan: TablePlan,
    rows: wgpu::Buffer,
    pairs: wgpu::Buffer,
    /// Rows that some recorded fill has made.
    filled: AtomicU32,
}

impl CosSinTable {
    pub(crate) fn new(kernel: &RopeKernel, plan: TablePlan) -> Result<Self> {
        let device = kernel.device();
        let allowed = device.limits().max_buffer_size;
        if plan.bytes() > allowed {
            return Err(RopeError::Limit {
                limit: "max_buffer_size",
                operand: "table",
                needed: plan.bytes(),
                allowed,
            });
        }
        let rows = scoped(device, "table", || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-rope table"),
                size: plan.bytes(),
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        })
        .map_err(|error| match error {
            RopeError::OutOfMemory { operand, .. } => RopeError::OutOfMemory {
                operand,
                bytes: plan.bytes(),
            },
            other => other,
        })?;
        let pairs = kernel.buffer_of(
            "wgpu-rope table pairs",
            wgpu::BufferUsages::STORAGE,
            plan.pairs(),
        )?;
        Ok(Self {
            shared: Arc::new(Shared {
                kernel: kernel.clone(),
                plan,
                rows,
                pairs,
                filled: AtomicU32::new(0),
            }),
        })
    }

    /// What the table was made from: rows, width, stride, direction.
    #[must_use]
    pub fn plan(&self) -> &TablePlan {
        &self.shared.plan
    }

    /// The buffer of the rows ([`wgpu::BufferUsages::STORAGE`] and `COPY_SRC`): entry k of row r is the two u32 words at
    /// `2 * (r * row_stride + k)`, the bits of cos and sin.
    #[must_use]
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.shared.rows
    }

    /// How many rows, from the first on, the recorded fills have made (whether or not they were submitted yet).
    #[must_use]
    pub fn filled_rows(&self) -> u32 {
        self.shared.filled.load(Ordering::Relaxed)
    }

    pub(crate) fn kernel(&self) -> &RopeKernel {
        &self.shared.kernel
    }

    /// Makes the fill for a source of positions. It can be recorded any number of times.
    ///
    /// # Errors
    /// [`RopeError::Buffer`] where the buffer has not the usage `STORAGE`, starts at a byte that is not a multiple of 4,
    /// holds no i32 or belongs to another device; [`RopeError::Device`] where wgpu refuses an object.
    pub fn bind_positions(&self, positions: Positions<'_>) -> Result<TableFill> {
        let plan = self.plan();
        let (source, slice) = match positions {
            Positions::From(start) => (PositionSource::From(start), None),
            Positions::Start(slice) => (PositionSource::Runs(plan.rows()), Some(slice)),
            Positions::StartPerSequence { starts, rows } => {
                (PositionSource::Runs(rows), Some(starts))
            }
            Positions::Ids(slice) => (PositionSource::Runs(1), Some(slice)),
        };
        if let Some(slice) = slice {
            storage("positions", slice)?;
            if slice.buffer() == self.buffer() {
                return Err(RopeError::buffer(
                    "positions",
                    "must not be the buffer of the table",
                    "that buffer",
                ));
            }
        }
        let bytes = slice.map_or(0..0, |slice| slice.offset()..slice.offset() + slice.size());
        let rows = plan.rows_served(source, (bytes.end - bytes.start) / 4);
        let planned = plan.fill(source, bytes)?;
        let kernel = self.kernel();
        let pipeline = kernel.table_pipeline(&planned)?;
        let entries: Vec<_> = planned
            .bindings
            .iter()
            .map(|bound| wgpu::BindGroupEntry {
                binding: bound.binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: match (bound.resource, slice) {
                        (Resource::Uniform, _) => &pipeline.uniform,
                        (Resource::Pairs, _) => &self.shared.pairs,
                        (Resource::Positions, Some(slice)) => slice.buffer(),
                        _ => &self.shared.rows,
                    },
                    offset: bound.bytes.start,
                    size: NonZero::new(bound.bytes.end - bound.bytes.start),
                }),
            })
            .collect();
        let bind_group = scoped(kernel.device(), "positions", || {
            kernel
                .device()
                .create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some("wgpu-rope table"),
                    layout: &pipeline.layout,
                    entries: &entries,
                })
        })?;
        Ok(TableFill {
            table: self.clone(),
            pipeline: pipeline.pipeline,
            bind_group,
            planned: Arc::new(planned),
            rows,
        })
    }
}

/// A recordable fill of a table from one source of positions.
#[derive(Debug, Clone)]
pub struct TableFill {
    table: CosSinTable,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    planned: Arc<PlannedDispatch>,
    rows: u32,
}

impl TableFill {
    /// Most rows that this source of positions can fill.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Records the making of the first `rows` rows: one dispatch. Sets pipeline and bind group 0 of the pass. Rows past them
    /// keep what they hold.
    ///
    /// # Errors
    /// [`RopeError::Count`] for more rows than the table has or the positions serve; or, where the table has more rows than
    /// a grid has workgroups in a dimension (65,535 usually) and that many are asked for, for another number than all.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<()> {
        if rows > self.rows {
            return Err(RopeError::Count {
                operand: "rows",
                rule: format!(
                    "must not exceed the {} of the table and its positions",
                    self.rows
                )
                .into(),
                got: rows.into(),
            });
        }
        let [x, y, z] = self.planned.workgroups(rows)?;
        if rows == 0 {
            return Ok(());
        }
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
        self.table.shared.filled.fetch_max(rows, Ordering::Relaxed);
        Ok(())
    }
}
