//! `CosSinTable`: rows of (cos, sin) on the device, and the fills that make them.

mod slots;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use slots::FilledSlots;
pub use slots::{SlotFill, SlotPositions, Slots};

use crate::error::{Result, RopeError};
use crate::kernel::{RopeKernel, Step, storage};
use crate::plan::{Content, PositionSource, Resource, TablePlan, TableSpec};
use crate::positions::AxisOrder;
use crate::scope::scoped;

/// Where the positions of a table's rows come from. Buffers are the caller's, hold i32 (f32 for coordinates), and need
/// [`wgpu::BufferUsages::STORAGE`]; they are read when a recorded fill runs, so one small write to them a step is all that
/// changes. Positions may be negative, repeated, descending; arithmetic on them wraps.
///
/// With several axes, all but `IdsPerAxis` and `Coordinates` give every axis the same position.
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
    /// Row r has a position of its own on each axis: `[axes, rows]`, `[axes, batch, tokens]` or `[rows, axes]`.
    IdsPerAxis {
        /// The ids, i32.
        ids: wgpu::BufferSlice<'a>,
        /// Their order.
        order: AxisOrder,
    },
    /// The same with coordinates that are no whole numbers. They go with [`Angles::F32`](crate::Angles::F32). A coordinate that is not
    /// finite, or makes an angle of 2^48 or more, leaves its pair alone and is counted: see [`CosSinTable::faults`].
    Coordinates {
        /// The coordinates, f32.
        values: wgpu::BufferSlice<'a>,
        /// Their order.
        order: AxisOrder,
    },
}

/// A table of cos and sin on the device, one row for each position and one entry for each pair.
///
/// Cheap to clone; clones share the rows. A table is made for one [`TableSpec`]; a longer one is a new one.
#[derive(Debug, Clone)]
pub struct CosSinTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kernel: RopeKernel,
    plan: TablePlan,
    rows: wgpu::Buffer,
    /// The frequencies; none where cos and sin are given.
    pairs: Option<wgpu::Buffer>,
    /// Rows of the fill that was recorded last.
    filled: AtomicU32,
    filled_slots: Mutex<FilledSlots>,
}

impl RopeKernel {
    /// Makes an empty table of `rows` rows on the device: `rows * width * 8` bytes, the width made even, and 16 more; with slots
    /// and a query scale another 4 for each slot and 8 for each row, each padded to 16.
    ///
    /// Its rows are made by [`CosSinTable::bind_positions`] (or [`CosSinTable::bind_cos_sin`]) and a recorded fill, its slots by
    /// [`CosSinTable::bind_slots`] and another one.
    ///
    /// # Errors
    /// Those of [`TablePlan::new`]; [`RopeError::OutOfMemory`] and [`RopeError::Device`] where wgpu cannot make the buffers, or
    /// the device is lost.
    pub fn table(&self, spec: &TableSpec, rows: u32) -> Result<CosSinTable> {
        CosSinTable::new(self, TablePlan::new(spec, rows, self.limits())?)
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
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let words = Some(plan.pairs()).filter(|words| !words.is_empty());
        let storage = wgpu::BufferUsages::STORAGE;
        let pairs = words
            .map(|words| kernel.buffer_of("wgpu-rope table pairs", storage, words))
            .transpose()?;
        Ok(Self {
            shared: Arc::new(Shared {
                kernel: kernel.clone(),
                plan,
                rows,
                pairs,
                filled: AtomicU32::new(0),
                filled_slots: Mutex::default(),
            }),
        })
    }

    /// What the table was made from: rows, width, stride, direction.
    #[must_use]
    pub fn plan(&self) -> &TablePlan {
        &self.shared.plan
    }

    /// The buffer of the rows ([`wgpu::BufferUsages::STORAGE`], `COPY_SRC` and `COPY_DST`): entry k of row r is the two u32 words at
    /// `2 * (r * row_stride + k)`, the bits of cos and sin. The words behind the rows are those of [`CosSinTable::faults`] and [`CosSinTable::skipped_slots`]; slots
    /// stand at [`TablePlan::slots_start`], factors of the query at [`TablePlan::factors_start`].
    #[must_use]
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.shared.rows
    }

    /// A u32 in the table's buffer that counts what was left alone because it has no angle: pairs of coordinates that are not finite or too
    /// large, positions outside of given cos and sin (one for each row), and given entries that cannot be divided.
    ///
    /// Fills add to it and nothing here clears it: `encoder.clear_buffer(slice.buffer(), slice.offset(), Some(slice.size()))` does.
    #[must_use]
    pub fn faults(&self) -> wgpu::BufferSlice<'_> {
        let at = self.plan().row_bytes();
        self.buffer().slice(at..at + 4)
    }

    /// How many rows, from the first on, the fill that was recorded last makes: what rotations recorded now may read. Rows past
    /// them hold the positions of an earlier fill, or zeros.
    ///
    /// It counts recordings. That the fill is submitted, and before the rotations, is up to the application; this crate cannot see it.
    #[must_use]
    pub fn filled_rows(&self) -> u32 {
        self.shared.filled.load(Ordering::Relaxed)
    }

    /// The kernel that it was made by.
    #[must_use]
    pub fn kernel(&self) -> &RopeKernel {
        &self.shared.kernel
    }

    /// Makes the fill for a source of positions. It can be recorded any number of times.
    ///
    /// # Errors
    /// [`RopeError::Buffer`] where the buffer has not the usage `STORAGE`, starts at a byte that is not a multiple of 4 or
    /// holds no i32; [`RopeError::Table`] for a table of given cos and sin, and for coordinates without f32 angles or with a query scale;
    /// [`RopeError::Limit`] and [`RopeError::Count`] where it fits no binding or takes thousands of dispatches; [`RopeError::Device`]
    /// where wgpu refuses an object (a buffer of another device, say), or the device is lost.
    pub fn bind_positions(&self, positions: Positions<'_>) -> Result<TableFill> {
        if matches!(self.plan().spec().content, Content::CosSin(_)) {
            return Err(RopeError::table(
                "is of given cos and sin: bind it with bind_cos_sin",
                "bind_positions",
            ));
        }
        self.fill(positions, None)
    }

    /// Makes the fill of a table that was specified as a caller's own cos and sin ([`TableSpec::from_cos_sin`]): row r of the table is row
    /// `position` of both. Their buffers need the usage `STORAGE`, and whole words: 2 bytes of padding behind an odd number of 16-bit
    /// values. Nothing behind the pairs of the last row is read or asked for ([`CosSinLayout::bytes`](crate::CosSinLayout::bytes)), so both may
    /// be slices of one tensor whose rows hold cos and behind it sin.
    ///
    /// A constant position outside of them is an error; one in a buffer leaves the row alone and is counted: see
    /// [`CosSinTable::faults`].
    ///
    /// # Errors
    /// As for [`CosSinTable::bind_positions`], and [`RopeError::Buffer`] for a buffer of values that is too small.
    pub fn bind_cos_sin(
        &self,
        cos: wgpu::BufferSlice<'_>,
        sin: wgpu::BufferSlice<'_>,
        positions: Positions<'_>,
    ) -> Result<TableFill> {
        let Content::CosSin(layout) = &self.plan().spec().content else {
            return Err(RopeError::table(
                "is made from frequencies: bind it with bind_positions",
                "bind_cos_sin",
            ));
        };
        let needed = layout.bytes()?;
        for (operand, slice) in [("cos", cos), ("sin", sin)] {
            self.check_source(operand, slice)?;
            if slice.size() < needed {
                return Err(RopeError::buffer(
                    operand,
                    format!("must have at least {needed} bytes"),
                    slice.size(),
                ));
            }
        }
        self.fill(positions, Some([cos, sin]))
    }

    /// Checks what a fill reads.
    fn check_source(&self, operand: &'static str, slice: wgpu::BufferSlice<'_>) -> Result<()> {
        storage(operand, slice)?;
        if slice.buffer() == self.buffer() {
            return Err(RopeError::buffer(
                operand,
                "must not be the buffer of the table",
                "that buffer",
            ));
        }
        Ok(())
    }

    fn fill(
        &self,
        positions: Positions<'_>,
        cos_sin: Option<[wgpu::BufferSlice<'_>; 2]>,
    ) -> Result<TableFill> {
        let plan = self.plan();
        let (source, slice) = match positions {
            Positions::From(start) => (PositionSource::From(start), None),
            Positions::Start(slice) => (PositionSource::Runs(plan.rows()), Some(slice)),
            Positions::StartPerSequence { starts, rows } => {
                (PositionSource::Runs(rows), Some(starts))
            }
            Positions::Ids(slice) => (PositionSource::Runs(1), Some(slice)),
            Positions::IdsPerAxis { ids, order } => (PositionSource::PerAxis(order), Some(ids)),
            Positions::Coordinates { values, order } => {
                (PositionSource::Coordinates(order), Some(values))
            }
        };
        if let Some(slice) = slice {
            self.check_source("positions", slice)?;
        }
        let bytes = slice.map_or(0..0, |slice| slice.offset()..slice.offset() + slice.size());
        let rows = plan.rows_served(source, (bytes.end - bytes.start) / 4);
        let kernel = self.kernel();
        let starts = cos_sin.map_or([0; 2], |sides| sides.map(|side| side.offset()));
        let steps = plan
            .fill(source, bytes, starts)?
            .into_iter()
            .map(|planned| {
                let pipeline = kernel.pipeline(&planned)?;
                kernel.bind("positions", &Arc::new(planned), &pipeline, |resource| {
                    let given = match resource {
                        Resource::Pairs => self.shared.pairs.as_ref(),
                        Resource::Positions => slice.map(|slice| slice.buffer()),
                        Resource::Cos => cos_sin.map(|[cos, _]| cos.buffer()),
                        Resource::Sin => cos_sin.map(|[_, sin]| sin.buffer()),
                        _ => None,
                    };
                    (given.unwrap_or(&self.shared.rows), 0)
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
    /// The table that it fills.
    #[must_use]
    pub fn table(&self) -> &CosSinTable {
        &self.table
    }

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
