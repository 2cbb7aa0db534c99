//! From a plan to recorded dispatches: `PreparedRope`, `RopeDispatch`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::error::{Result, RopeError};
use crate::kernel::{Pipeline, RopeKernel, Step, lock, storage};
use crate::plan::{Operand, Place, Places, PlannedDispatch, QueryFactor, Resource, RopePlan};
use crate::table::CosSinTable;

/// Placements whose uniform buffers are kept. Past that many the cache starts anew; dispatches keep what they use.
const KEPT_PLACEMENTS: usize = 256;

/// The tensors of a rotation: parts of the caller's buffers, which need [`wgpu::BufferUsages::STORAGE`].
///
/// A slice starts where the tensor's layout starts counting (a layout's own offset comes on top), at a multiple of 4 bytes.
/// Tensors may lie in one buffer as long as what is written shares no element with another. Weights of norms lie in buffers of which nothing
/// is written; streams with weights in one buffer share a dispatch, others do not. Offsets that are multiples of the device's
/// `min_storage_buffer_offset_alignment` share pipelines and uniform buffers, and those that are multiples of 16 bytes take the fastest path.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// In the order of `Operand::BOUND`.
    slices: [Option<wgpu::BufferSlice<'a>>; Operand::BOUND.len()],
}

impl<'a> Operands<'a> {
    /// The query, or whichever one tensor the plan is for.
    #[must_use]
    pub fn new(query: wgpu::BufferSlice<'a>) -> Self {
        let slices = [None; Operand::BOUND.len()];
        Self { slices }.with(Operand::Query, query)
    }

    /// The key of a plan with two tensors. For packed QKV it is the same slice as the query.
    #[must_use]
    pub fn with_key(self, key: wgpu::BufferSlice<'a>) -> Self {
        self.with(Operand::Key, key)
    }

    /// Any operand of a plan ([`RotateSpec::operands`](crate::RotateSpec::operands) lists them, with the bytes that each needs). What is
    /// in the table is not one, and ignored.
    #[must_use]
    pub fn with(mut self, operand: Operand, slice: wgpu::BufferSlice<'a>) -> Self {
        if let Some(place) = self.slices.get_mut(operand as usize) {
            *place = Some(slice);
        }
        self
    }

    fn get(&self, operand: Operand) -> Option<wgpu::BufferSlice<'a>> {
        self.slices.get(operand as usize).copied().flatten()
    }

    fn given(&self) -> impl Iterator<Item = wgpu::BufferSlice<'a>> {
        self.slices.into_iter().flatten()
    }
}

/// A plan on a device: pipelines and uniform buffers, shared by all layers.
///
/// Cheap to clone, shared between threads.
#[derive(Debug, Clone)]
pub struct PreparedRope {
    shared: Arc<Shared>,
}

/// The dispatches of a placement.
type Pipelines = Arc<[(Arc<PlannedDispatch>, Pipeline)]>;

#[derive(Debug)]
struct Shared {
    kernel: RopeKernel,
    plan: RopePlan,
    /// What has to be bound, and how many bytes.
    operands: Vec<(Operand, u64)>,
    /// Where lists of slots that are read begin in those of the table: asked for in every recording.
    lists: Vec<u32>,
    /// What each placement takes, byte ranges relative to the aligned starts of the operands.
    placements: Mutex<HashMap<Places, Pipelines>>,
}

impl RopeKernel {
    /// Takes a plan for its tensors to be bound to. Pipelines and uniform buffers are made once for each way that tensors lie relative to
    /// the storage alignment (and to each other, where they share a buffer), when the first are bound so; [`RopeKernel::warm`] compiles the
    /// pipelines before.
    ///
    /// # Errors
    /// [`RopeError::Limit`] where the plan was made for limits that this device does not have; [`RopeError::Device`] where it is lost.
    pub fn prepare(&self, plan: &RopePlan) -> Result<PreparedRope> {
        self.check_plan(plan)?;
        Ok(PreparedRope {
            shared: Arc::new(Shared {
                kernel: self.clone(),
                plan: plan.clone(),
                operands: plan.spec().operands()?,
                lists: plan.spec().slot_lists(),
                placements: Mutex::default(),
            }),
        })
    }
}

impl PreparedRope {
    /// The kernel that prepared it.
    #[must_use]
    pub fn kernel(&self) -> &RopeKernel {
        &self.shared.kernel
    }

    /// What was planned.
    #[must_use]
    pub fn plan(&self) -> &RopePlan {
        &self.shared.plan
    }

    fn pipelines(&self, places: Places) -> Result<Pipelines> {
        if let Some(known) = lock(&self.shared.placements).get(&places) {
            return Ok(known.clone());
        }
        let made: Pipelines = self
            .plan()
            .dispatches(places.clone())?
            .into_iter()
            .map(|planned| {
                let pipeline = self.shared.kernel.pipeline(&planned)?;
                Ok((Arc::new(planned), pipeline))
            })
            .collect::<Result<_>>()?;
        let mut placements = lock(&self.shared.placements);
        if placements.len() >= KEPT_PLACEMENTS {
            placements.clear();
        }
        placements.insert(places, made.clone());
        Ok(made)
    }

    /// Binds tensors and a table: a bind group for each dispatch, and nothing else where operands lie as others before did. Of an operand with a
    /// buffer of its own that is the offset modulo the storage alignment; of operands that share a buffer also their distance. (In an arena
    /// where distances vary, each new one is planned anew; the last 256 are kept.)
    ///
    /// Frequencies, direction and attention factor are the table's alone; of the plan's configuration only pairing and
    /// window count here.
    ///
    /// # Errors
    /// Nothing is bound and
    /// - [`RopeError::Buffer`] says that a buffer has not the usage `STORAGE`, that a slice is too small or starts at a byte that is not
    ///   a multiple of 4, that it is in the buffer of the table, or weights in that of a tensor;
    /// - [`RopeError::Layout`] that an operand is missing or not planned, or that what is written shares an element with something else;
    /// - [`RopeError::Table`] that the table has another width, too few rows, too few slots, no scale of the query, or another device;
    /// - [`RopeError::Limit`], [`RopeError::Count`] and [`RopeError::Overflow`] that tensors which lie so do not fit the device, as
    ///   [`RopePlan::dispatches`] does;
    /// - [`RopeError::Device`] what wgpu reports, such as a buffer of another device. A lost device is seen where the tensors lie as none
    ///   before did; looking for it takes as long as the rest.
    pub fn bind(&self, operands: &Operands<'_>, table: &CosSinTable) -> Result<RopeDispatch> {
        let plan = self.plan();
        let spec = plan.spec();
        for &(operand, bytes) in &self.shared.operands {
            let Some(slice) = operands.get(operand) else {
                return Err(RopeError::layout(
                    operand.name(),
                    "is planned and must be given (Operands::with)",
                    "none",
                ));
            };
            view(operand.name(), slice, bytes)?;
            if slice.buffer() == table.buffer() {
                return Err(RopeError::buffer(
                    operand.name(),
                    "must not be the buffer of the table",
                    "that buffer",
                ));
            }
        }
        if operands.given().count() > self.shared.operands.len() {
            let is_planned = |operand: &Operand| {
                let mut planned = self.shared.operands.iter();
                planned.any(|(planned, _)| planned == operand)
            };
            let mut given = Operand::BOUND
                .into_iter()
                .filter(|operand| operands.get(*operand).is_some());
            let unplanned = given.find(|operand| !is_planned(operand));
            return Err(RopeError::layout(
                unplanned.map_or("operands", Operand::name),
                "is not planned (RotateSpec::operands) and must not be given",
                "one",
            ));
        }
        let pairs = spec.config().rotary_dim() / 2;
        if spec.is_rotated() && table.plan().width() != pairs {
            return Err(RopeError::table(
                format!("must have {pairs} pairs, rotary_dim / 2"),
                table.plan().width(),
            ));
        }
        let slots = spec.slots_needed();
        if table.plan().slots() < slots {
            return Err(RopeError::table(
                format!("must have room for {slots} slots (TableSpec::with_slots)"),
                table.plan().slots(),
            ));
        }
        if spec.query_factor() == QueryFactor::PerRow && table.plan().spec().query_scale().is_none()
        {
            return Err(RopeError::table(
                "must have a scale of the query for each row (TableSpec::with_query_scale)",
                "none",
            ));
        }
        let rows = spec.rows_needed(spec.tokens());
        if u64::from(table.plan().rows()) < rows {
            return Err(RopeError::table(
                format!("must have at least {rows} rows for the planned tokens"),
                table.plan().rows(),
            ));
        }
        let device = self.shared.kernel.device();
        if table.kernel().device() != device {
            return Err(RopeError::table(
                "must be of the plan's device",
                "another device",
            ));
        }

        // Only what is left of the offsets past an aligned start enters the uniforms, so that layers share them.
        let alignment = plan.limits().alignment();
        let needed = self.shared.operands.iter().map(|(operand, _)| *operand);
        let given = || {
            let needed = needed.clone();
            needed.filter_map(|operand| Some((operand, operands.get(operand)?)))
        };
        // The first operand of a buffer, and the aligned start of what is used of it.
        let buffer_of = |slice: wgpu::BufferSlice<'_>| {
            let mut all = given().filter(|(_, other)| other.buffer() == slice.buffer());
            let first = all.clone().next().map_or(0, |(operand, _)| operand as u32);
            let start = all.try_fold(slice.offset(), |least, (_, other)| {
                Some(least.min(other.offset()))
            });
            let start = start.unwrap_or(0) / alignment * alignment;
            (first, start)
        };
        let places: Places = given()
            .map(|(operand, slice)| {
                let (buffer, start) = buffer_of(slice);
                let offset = slice.offset() - start;
                (operand, Place { buffer, offset })
            })
            .collect();
        let places = if spec.is_plain() {
            places
        } else {
            places.with_table(table.plan())
        };
        let pipelines = self.pipelines(places)?;
        let kernel = &self.shared.kernel;
        let unused = (!spec.is_plain()).then(|| kernel.unused()).transpose()?;
        let steps = pipelines
            .iter()
            .map(|(planned, pipeline)| {
                kernel.bind("operands", planned, pipeline, |resource| {
                    let slice = match resource {
                        Resource::Tensor(operand) => operands.get(operand),
                        Resource::Unused => {
                            return (unused.as_ref().unwrap_or(table.buffer()), 0);
                        }
                        _ => None,
                    };
                    slice.map_or((table.buffer(), 0), |slice| {
                        (slice.buffer(), buffer_of(slice).1)
                    })
                })
            })
            .collect::<Result<_>>()?;
        Ok(RopeDispatch {
            shared: Arc::new(Bound {
                prepared: self.clone(),
                table: table.clone(),
                tensors: given().map(|(_, slice)| slice.buffer().clone()).collect(),
                steps,
            }),
        })
    }
}

/// A rotation of particular tensors with a particular table, ready to be recorded any number of times.
///
/// Cheap to clone, shared between threads.
#[derive(Debug, Clone)]
pub struct RopeDispatch {
    shared: Arc<Bound>,
}

#[derive(Debug)]
struct Bound {
    prepared: PreparedRope,
    table: CosSinTable,
    tensors: Vec<wgpu::Buffer>,
    steps: Vec<Step>,
}

impl RopeDispatch {
    /// The table whose rows it reads.
    #[must_use]
    pub fn table(&self) -> &CosSinTable {
        &self.shared.table
    }

    /// What was planned.
    #[must_use]
    pub fn plan(&self) -> &RopePlan {
        self.shared.prepared.plan()
    }

    /// The dispatches of a recording as planned for these very tensors: one, but for tensors past the largest binding and for query and
    /// key that cannot share one. They tell which entry point each takes, how many heads an invocation
    /// rotates, how large its workgroups are.
    pub fn planned(&self) -> impl ExactSizeIterator<Item = &PlannedDispatch> {
        self.shared.steps.iter().map(Step::planned)
    }

    /// The workgroups that rotate `tokens` tokens of each batch entry: the arguments of an indirect dispatch of these very tensors (they depend
    /// on where the tensors lie).
    ///
    /// # Errors
    /// [`RopeError::Count`] for more tokens than planned, or where the rotation takes several dispatches.
    pub fn workgroups(&self, tokens: u32) -> Result<[u32; 3]> {
        self.plan().check_tokens(tokens)?;
        Ok(self.only()?.planned().workgroups(tokens))
    }

    fn only(&self) -> Result<&Step> {
        match self.shared.steps.as_slice() {
            [only] => Ok(only),
            several => Err(RopeError::Count {
                operand: "dispatches",
                rule: "must be one for indirect arguments".into(),
                got: several.len() as u64,
            }),
        }
    }

    /// Records the plan's work for the first `tokens` tokens of each batch entry: tensors without a destination are written in place. Sets
    /// pipeline and bind group 0 of the pass; nothing is submitted, polled, written or allocated beyond what wgpu's own three calls do.
    ///
    /// # Errors
    /// Nothing is recorded and
    /// - [`RopeError::Count`] says that more tokens are asked for than planned;
    /// - [`RopeError::Table`] that the table's last recorded fills do not make all rows and slots these tokens read. A fill counts when it
    ///   is recorded; that it also runs, and first, is up to who submits.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) -> Result<()> {
        self.plan().check_tokens(tokens)?;
        self.check_filled(tokens)?;
        for step in &self.shared.steps {
            step.record(pass, tokens);
        }
        Ok(())
    }

    /// Records the rotation with its workgroup counts in a buffer: three u32 at byte `offset`, as
    /// [`RopeDispatch::workgroups`] gives them. Counts beyond the plan rotate what is planned and nothing else; where one is above the device's
    /// `max_compute_workgroups_per_dimension`, wgpu dispatches nothing.
    ///
    /// # Errors
    /// Nothing is recorded and
    /// - [`RopeError::Buffer`] says that the buffer has not the usage `INDIRECT`, that `offset` is not a multiple of 4, that the arguments
    ///   do not fit, or that they are in the buffer of a tensor;
    /// - [`RopeError::Count`] that the rotation takes several dispatches;
    /// - [`RopeError::Table`] that the table's last recorded fills do not make all planned rows and slots (how many are read is in the buffer).
    pub fn record_indirect(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        arguments: &wgpu::Buffer,
        offset: u64,
    ) -> Result<()> {
        let operand = "indirect arguments";
        if !arguments.usage().contains(wgpu::BufferUsages::INDIRECT) {
            return Err(RopeError::buffer(
                operand,
                "must have the usage INDIRECT",
                format!("{:?}", arguments.usage()),
            ));
        }
        if !offset.is_multiple_of(4) {
            return Err(RopeError::buffer(
                operand,
                "byte offset must be a multiple of 4",
                offset,
            ));
        }
        if offset
            .checked_add(12)
            .is_none_or(|end| end > arguments.size())
        {
            return Err(RopeError::buffer(
                operand,
                format!("must hold 12 bytes at byte {offset}"),
                format!("{} bytes", arguments.size()),
            ));
        }
        if self.shared.tensors.contains(arguments) {
            return Err(RopeError::buffer(
                operand,
                "must not be in the buffer of a tensor",
                "that buffer",
            ));
        }
        self.check_filled(self.plan().spec().tokens())?;
        self.only()?.record_indirect(pass, arguments, offset);
        Ok(())
    }

    fn check_filled(&self, tokens: u32) -> Result<()> {
        let (spec, table) = (self.plan().spec(), &self.shared.table);
        let is_filled = |first| table.has_slots(first, spec.batch(), spec.tokens(), tokens);
        let lists = &self.shared.prepared.shared.lists;
        if let Some(first) = lists.iter().find(|&&first| !is_filled(first)) {
            return Err(RopeError::table(
                format!(
                    "must have the slots of {tokens} tokens, from slot {first} on, filled by the last recorded SlotFill"
                ),
                table.filled_slots(),
            ));
        }
        let needed = spec.rows_needed(tokens);
        let filled = table.filled_rows();
        if u64::from(filled) < needed {
            return Err(RopeError::table(
                format!(
                    "must have the {needed} rows that {tokens} tokens read filled by the last recorded TableFill"
                ),
                filled,
            ));
        }
        Ok(())
    }
}

/// Checks that a slice can hold a view of `bytes` bytes.
fn view(operand: &'static str, slice: wgpu::BufferSlice<'_>, bytes: u64) -> Result<()> {
    storage(operand, slice)?;
    if slice.size() < bytes {
        return Err(RopeError::buffer(
            operand,
            format!("must hold {bytes} bytes from byte {} on", slice.offset()),
            format!("{} bytes", slice.size()),
        ));
    }
    Ok(())
}
