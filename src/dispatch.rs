//! From a plan to recorded dispatches: `PreparedRope`, `RopeDispatch`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::error::{Result, RopeError};
use crate::kernel::{Pipeline, RopeKernel, Step, lock, storage};
use crate::plan::{Placement, PlannedDispatch, Resource, RopePlan};
use crate::table::CosSinTable;

/// Placements whose uniform buffers are kept. Past that many the cache starts anew; dispatches keep what they use.
const KEPT_PLACEMENTS: usize = 256;

/// The tensors of a rotation: parts of the caller's buffers, which need [`wgpu::BufferUsages::STORAGE`].
///
/// A slice starts where the tensor's layout starts counting (a layout's own offset comes on top), at a multiple of 4 bytes.
/// Query and key may lie in one buffer as long as they share no element. Multiples of the device's
/// `min_storage_buffer_offset_alignment` bind fastest, and multiples of 16 bytes rotate fastest.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    query: wgpu::BufferSlice<'a>,
    key: Option<wgpu::BufferSlice<'a>>,
}

impl<'a> Operands<'a> {
    /// The query, or whichever one tensor the plan is for.
    #[must_use]
    pub fn new(query: wgpu::BufferSlice<'a>) -> Self {
        Self { query, key: None }
    }

    /// The key of a plan with two tensors. For packed QKV it is the same slice as the query.
    #[must_use]
    pub fn with_key(self, key: wgpu::BufferSlice<'a>) -> Self {
        Self {
            key: Some(key),
            ..self
        }
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
    /// What each placement takes, byte ranges relative to the aligned starts of the operands.
    placements: Mutex<HashMap<Placement, Pipelines>>,
}

impl RopeKernel {
    /// Takes a plan for its tensors to be bound to. Pipelines and uniform buffers are made once for each way that tensors lie relative to
    /// the storage alignment, when the first are bound so; [`RopeKernel::warm`] compiles the pipelines before.
    ///
    /// # Errors
    /// [`RopeError::Limit`] where the plan was made for limits that this device does not have; [`RopeError::Device`] where it is lost.
    pub fn prepare(&self, plan: &RopePlan) -> Result<PreparedRope> {
        self.check_plan(plan)?;
        Ok(PreparedRope::new(self, plan))
    }
}

impl PreparedRope {
    pub(crate) fn new(kernel: &RopeKernel, plan: &RopePlan) -> Self {
        Self {
            shared: Arc::new(Shared {
                kernel: kernel.clone(),
                plan: plan.clone(),
                placements: Mutex::default(),
            }),
        }
    }

    /// What was planned.
    #[must_use]
    pub fn plan(&self) -> &RopePlan {
        &self.shared.plan
    }

    fn pipelines(&self, placement: Placement) -> Result<Pipelines> {
        if let Some(known) = lock(&self.shared.placements).get(&placement) {
            return Ok(known.clone());
        }
        let made: Pipelines = self
            .plan()
            .dispatches(placement)?
            .into_iter()
            .map(|planned| {
                let pipeline = self.shared.kernel.rotate_pipeline(&planned)?;
                Ok((Arc::new(planned), pipeline))
            })
            .collect::<Result<_>>()?;
        let mut placements = lock(&self.shared.placements);
        if placements.len() >= KEPT_PLACEMENTS {
            placements.clear();
        }
        placements.insert(placement, made.clone());
        Ok(made)
    }

    /// Binds tensors and a table: a bind group for each dispatch, and nothing else where operands lie as others before did
    /// relative to the storage alignment.
    ///
    /// Frequencies, direction and attention factor are the table's alone; of the plan's configuration only pairing and
    /// window count here.
    ///
    /// # Errors
    /// Nothing is bound and
    /// - [`RopeError::Buffer`] says that a buffer has not the usage `STORAGE`, that a slice is too small or starts at a byte that is not
    ///   a multiple of 4;
    /// - [`RopeError::Layout`] that a key is missing or not planned, or that query and key share an element;
    /// - [`RopeError::Table`] that the table has another width, too few rows, or another device;
    /// - [`RopeError::Device`] what wgpu reports, such as a buffer of another device. A lost device is seen where the tensors lie as none
    ///   before did; looking for it takes as long as the rest.
    pub fn bind(&self, operands: &Operands<'_>, table: &CosSinTable) -> Result<RopeDispatch> {
        let plan = self.plan();
        let spec = plan.spec();
        let (query_bytes, key_bytes) = plan.bytes()?;
        view("query", operands.query, query_bytes)?;
        match (operands.key, key_bytes) {
            (Some(key), Some(bytes)) => view("key", key, bytes)?,
            (None, None) => {}
            (None, Some(_)) => {
                return Err(RopeError::layout(
                    "key",
                    "is planned and must be given (Operands::with_key)",
                    "none",
                ));
            }
            (Some(_), None) => {
                return Err(RopeError::layout(
                    "key",
                    "is not planned (RotateSpec::with_key) and must not be given",
                    "one",
                ));
            }
        }
        let pairs = spec.config().rotary_dim() / 2;
        if table.plan().width() != pairs {
            return Err(RopeError::table(
                format!("must have {pairs} pairs, rotary_dim / 2"),
                table.plan().width(),
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

        for (operand, slice) in [("query", Some(operands.query)), ("key", operands.key)] {
            if slice.is_some_and(|slice| slice.buffer() == table.buffer()) {
                return Err(RopeError::buffer(
                    operand,
                    "must not be the buffer of the table",
                    "that buffer",
                ));
            }
        }

        // Only what is left of the offsets past an aligned start enters the uniforms, so that layers share them.
        let alignment = plan.limits().alignment();
        let aligned = |offset: u64| offset / alignment * alignment;
        let query = operands.query;
        let key = operands.key.unwrap_or(query);
        let shared = operands.key.is_some() && query.buffer() == key.buffer();
        let (query_base, key_base) = if shared {
            let base = aligned(query.offset().min(key.offset()));
            (base, base)
        } else {
            (aligned(query.offset()), aligned(key.offset()))
        };
        let pipelines = self.pipelines(Placement {
            query: query.offset() - query_base,
            key: operands.key.map_or(0, |key| key.offset() - key_base),
            shared,
        })?;
        let steps = pipelines
            .iter()
            .map(|(planned, pipeline)| {
                let kernel = &self.shared.kernel;
                kernel.bind("operands", planned, pipeline, |resource| match resource {
                    Resource::Query => (query.buffer(), query_base),
                    Resource::Key => (key.buffer(), key_base),
                    _ => (table.buffer(), 0),
                })
            })
            .collect::<Result<_>>()?;
        Ok(RopeDispatch {
            shared: Arc::new(Bound {
                prepared: self.clone(),
                table: table.clone(),
                tensors: [query.buffer().clone(), key.buffer().clone()],
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
    tensors: [wgpu::Buffer; 2],
    steps: Vec<Step>,
}

impl RopeDispatch {
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

    /// Records the rotation, in place, of the first `tokens` tokens of each batch entry. Sets pipeline and bind group 0 of
    /// the pass; nothing is submitted, polled, written or allocated beyond what wgpu's own three calls do.
    ///
    /// # Errors
    /// Nothing is recorded and
    /// - [`RopeError::Count`] says that more tokens are asked for than planned;
    /// - [`RopeError::Table`] that the table's last recorded fill does not make all rows these tokens read. A fill counts when it
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
    /// [`RopeDispatch::workgroups`] gives them. Counts beyond the plan rotate what is planned and nothing else.
    ///
    /// # Errors
    /// Nothing is recorded and
    /// - [`RopeError::Buffer`] says that the buffer has not the usage `INDIRECT`, that `offset` is not a multiple of 4, that the arguments
    ///   do not fit, or that they are in the buffer of a tensor;
    /// - [`RopeError::Count`] that the rotation takes several dispatches;
    /// - [`RopeError::Table`] that the table's last recorded fill does not make all planned rows (how many are read is in the buffer).
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
        let needed = self.plan().spec().rows_needed(tokens);
        let filled = self.shared.table.filled_rows();
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
