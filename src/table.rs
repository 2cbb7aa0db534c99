//! `CosSinTable`: rows of (cos, sin) on the device, and the fills that make them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Result, RopeError};
use crate::frequencies::{Direction, Frequencies};
use crate::kernel::{RopeKernel, Step, scoped, storage};
use crate::plan::{Angles, PositionSource, Resource, TablePlan};

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
    /// Rows of the fill that was recorded last.
    filled: AtomicU32,
}

impl RopeKernel {
    /// Makes an empty table of `rows` rows on the device: `rows * width * 8` bytes, the width made even.
    ///
    /// Its rows are made by [`CosSinTable::bind_positions`] and a recorded fill.
    ///
    /// # Errors
    /// Those of [`TablePlan::new`]; [`RopeError::OutOfMemory`] and [`RopeError::Device`] where wgpu cannot make the buffers.
    pub fn table(
        &self,
        frequencies: &Frequencies,
        rows: u32,
        angles: Angles,
        direction: Direction,
    ) -> Result<CosSinTable> {
        let plan = TablePlan::new(frequencies, rows, angles, direction, self.limits())?;
        CosSinTable::new(self, plan)
    }
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
        let rows = scoped(device, "table", Some(plan.bytes()), || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-rope table"),
                size: plan.bytes(),
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
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

    /// How many rows, from the first on, the fill that was recorded last makes: what rotations recorded now may read. Rows past
    /// them hold the positions of an earlier fill, or zeros.
    ///
    /// It counts recordings. That the fill is submitted, and before the rotations, is up to the application; this crate cannot see it.
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
        let kernel = self.kernel();
        let steps = plan
            .fill(source, bytes)?
            .into_iter()
            .map(|planned| {
                let pipeline = kernel.table_pipeline(&planned)?;
                kernel.bind("positions", &Arc::new(planned), &pipeline, |resource| {
                    let buffer = match (resource, slice) {
                        (Resource::Pairs, _) => &self.shared.pairs,
                        (Resource::Positions, Some(slice)) => slice.buffer(),
                        _ => &self.shared.rows,
                    };
                    (buffer, 0)
                })
            })
            .collect::<Result<_>>()?;
        Ok(TableFill {
            table: self.clone(),
            rows,
            steps,
        })
    }
}

/// A recordable fill of a table from one source of positions.
#[derive(Debug, Clone)]
pub struct TableFill {
    table: CosSinTable,
    rows: u32,
    steps: Arc<[Step]>,
}

impl TableFill {
    /// Most rows that this source of positions can fill.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Records the making of the first `rows` rows: one dispatch for as many rows as a grid has workgroups along a dimension
    /// (65,535 usually). Sets pipeline and bind group 0 of the pass. Rows past them keep what they hold.
    ///
    /// A step has to fill all rows that its rotations read, which are more than its tokens where every sequence has rows of its
    /// own: [`RotateSpec::rows_needed`](crate::RotateSpec::rows_needed) tells how many.
    ///
    /// # Errors
    /// [`RopeError::Count`] for more rows than the table has or the positions serve; nothing is recorded then.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32) -> Result<()> {
        if rows > self.rows {
            return Err(RopeError::Count {
                operand: "rows",
                rule: format!(
                    "must not exceed the table's {} and the {} that its positions serve",
                    self.table.plan().rows(),
                    self.rows
                )
                .into(),
                got: rows.into(),
            });
        }
        for step in &*self.steps {
            step.record(pass, rows);
        }
        if rows > 0 {
            self.table.shared.filled.store(rows, Ordering::Relaxed);
        }
        Ok(())
    }
}
