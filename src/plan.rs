//! Plans: what to dispatch, as data. No GPU is touched here, so any WebGPU host can carry a plan out: it names the entry
//! point, the override constants, the bytes of the uniform buffer, the byte range of every binding and the grid.

use std::ops::Range;

use crate::config::{Pairing, RopeConfig};
use crate::error::{Result, RopeError};
use crate::frequencies::{Direction, Frequencies};
use crate::layout::{ElementType, HeadLayout};

/// WGSL text of the table kernel: `shaders/turns.wgsl` and `shaders/table.wgsl`.
pub const TABLE_WGSL: &str = concat!(
    include_str!("../shaders/turns.wgsl"),
    "\n",
    include_str!("../shaders/table.wgsl")
);

/// WGSL text of the rotation: `shaders/rotate.wgsl`.
pub const ROTATE_WGSL: &str = include_str!("../shaders/rotate.wgsl");

/// Most heads that one invocation rotates with the same cos and sin.
pub const MAX_HEADS_PER_INVOCATION: u32 = 8;

/// What a plan has to know of a device: some fields of WebGPU's `GPUSupportedLimits`, and whether it is a CPU.
///
/// The default is what every WebGPU device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Largest storage binding in bytes. Larger tensors are rotated in windows.
    pub max_storage_buffer_binding_size: u64,
    /// Alignment of storage bindings in bytes, a power of two.
    pub min_storage_buffer_offset_alignment: u32,
    /// Workgroups in each dimension of a dispatch. Larger grids are folded.
    pub max_compute_workgroups_per_dimension: u32,
    /// Invocations of a workgroup, along x.
    pub max_compute_invocations_per_workgroup: u32,
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
}

/// Which row of the table a token reads: `batch * batch stride + token * token stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Rows {
    /// Row t for token t of every batch entry: positions shared by the batch.
    #[default]
    Shared,
    /// Row `batch * planned tokens + token`: every token of every entry has its own.
    PerToken,
    /// Row b for all tokens of batch entry b.
    PerSequence,
    /// Row 0 for all.
    One,
}

impl Rows {
    fn strides(self, tokens: u32) -> (u32, u32) {
        match self {
            Self::Shared => (0, 1),
            Self::PerToken => (tokens, 1),
            Self::PerSequence => (1, 0),
            Self::One => (0, 0),
        }
    }
}

/// What a caller wants rotated, in place: shapes, layouts, element types, pairing and window. No buffers yet.
///
/// ```
/// use wgpu_rope::{ElementType, HeadLayout, RopeConfig, RotateSpec};
/// let config = RopeConfig::new(128);
/// let spec = RotateSpec::new(&config, 1, 4096, HeadLayout::bshd(4096, 32, 128), ElementType::F32)
///     .with_key(HeadLayout::bshd(4096, 8, 128), ElementType::F32);
/// # let _ = spec;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RotateSpec {
    config: RopeConfig,
    batch: u32,
    tokens: u32,
    query: Side,
    key: Option<Side>,
    rows: Rows,
    heads_per_invocation: Option<u32>,
    workgroup: Option<u32>,
}

/// One tensor of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Side {
    layout: HeadLayout,
    element: ElementType,
}

impl RotateSpec {
    /// One tensor of `batch` entries of at most `tokens` tokens (ragged sequences: a batch of 1). The configuration gives
    /// head dimension, pairing and window; its frequencies are the table's business.
    #[must_use]
    pub fn new(
        config: &RopeConfig,
        batch: u32,
        tokens: u32,
        query: HeadLayout,
        element: ElementType,
    ) -> Self {
        Self {
            config: config.clone(),
            batch,
            tokens,
            query: Side {
                layout: query,
                element,
            },
            key: None,
            rows: Rows::Shared,
            heads_per_invocation: None,
            workgroup: None,
        }
    }

    /// A second tensor of the same tokens and positions, rotated in the same dispatch.
    #[must_use]
    pub fn with_key(self, key: HeadLayout, element: ElementType) -> Self {
        Self {
            key: Some(Side {
                layout: key,
                element,
            }),
            ..self
        }
    }

    /// Which row of the table a token reads.
    #[must_use]
    pub fn with_rows(self, rows: Rows) -> Self {
        Self { rows, ..self }
    }

    /// At most this many heads (1 to 8) for one load of cos and sin; the largest divisor of the head count up to it is
    /// taken. Chosen from the shape and the kind of device where it is not given.
    #[must_use]
    pub fn with_heads_per_invocation(self, heads: u32) -> Self {
        Self {
            heads_per_invocation: Some(heads),
            ..self
        }
    }

    /// Invocations of a workgroup (1 up to the device's limit). Chosen from the shape where it is not given.
    #[must_use]
    pub fn with_workgroup(self, invocations: u32) -> Self {
        Self {
            workgroup: Some(invocations),
            ..self
        }
    }

    /// Entries of the batch.
    #[must_use]
    pub fn batch(&self) -> u32 {
        self.batch
    }

    /// Most tokens of a batch entry.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Pairing and window.
    #[must_use]
    pub fn config(&self) -> &RopeConfig {
        &self.config
    }

    /// Layout and element type of the query.
    #[must_use]
    pub fn query(&self) -> (HeadLayout, ElementType) {
        (self.query.layout, self.query.element)
    }

    /// Layout and element type of the key, if there is one.
    #[must_use]
    pub fn key(&self) -> Option<(HeadLayout, ElementType)> {
        self.key.map(|key| (key.layout, key.element))
    }

    /// The table row that a token reads.
    #[must_use]
    pub fn row(&self, batch: u32, token: u32) -> u64 {
        let (per_batch, per_token) = self.rows.strides(self.tokens);
        u64::from(batch) * u64::from(per_batch) + u64::from(token) * u64::from(per_token)
    }

    /// How many rows of the table are read when `tokens` tokens are rotated.
    #[must_use]
    pub fn rows_needed(&self, tokens: u32) -> u64 {
        if tokens == 0 {
            return 0;
        }
        self.row(self.batch.saturating_sub(1), tokens - 1) + 1
    }

    /// Checks everything that does not depend on a device.
    ///
    /// # Errors
    /// [`RopeError::Config`], [`RopeError::Layout`] or [`RopeError::Overflow`], naming the operand.
    pub fn validate(&self) -> Result<()> {
        self.config.validate()?;
        for (name, count) in [("batch", self.batch), ("tokens", self.tokens)] {
            if count == 0 {
                return Err(RopeError::layout(name, "must be at least 1", 0));
            }
        }
        if u32::try_from(self.rows_needed(self.tokens)).is_err() {
            return Err(RopeError::overflow(
                "rows",
                "batch times tokens must fit u32",
            ));
        }
        if let Some(heads) = self.heads_per_invocation
            && !(1..=MAX_HEADS_PER_INVOCATION).contains(&heads)
        {
            return Err(RopeError::layout(
                "heads per invocation",
                format!("must be from 1 to {MAX_HEADS_PER_INVOCATION}"),
                heads,
            ));
        }
        for (operand, side) in self.sides() {
            if side.layout.head_dim != self.config.head_dim() {
                return Err(RopeError::layout(
                    operand,
                    format!(
                        "head_dim must be the configuration's {}",
                        self.config.head_dim()
                    ),
                    side.layout.head_dim,
                ));
            }
            side.layout
                .validate(operand, self.batch, self.tokens, side.element)?;
        }
        Ok(())
    }

    fn sides(&self) -> impl Iterator<Item = (&'static str, Side)> {
        [("query", Some(self.query)), ("key", self.key)]
            .into_iter()
            .filter_map(|(name, side)| Some((name, side?)))
    }
}

/// Where the tensors of a rotation are: byte offsets of their origins in their buffers (a layout's own offset comes on top).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Placement {
    /// Byte offset of the query, a multiple of 4.
    pub query: u64,
    /// Byte offset of the key, a multiple of 4; ignored where there is no key.
    pub key: u64,
    /// Whether both are in one buffer. WebGPU does not allow two writable bindings of the same bytes, so they then
    /// share one binding over their union.
    pub shared: bool,
}

/// What a binding of a planned dispatch is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// A uniform buffer with the bytes of [`PlannedDispatch::uniform`].
    Uniform,
    /// The rows of the cos/sin table: read-only storage for the rotation, read-write storage for the fill.
    Rows,
    /// The frequencies of [`TablePlan::pairs`], read-only storage.
    Pairs,
    /// The caller's positions, read-only storage.
    Positions,
    /// The buffer of the query (and of a key that shares it), read-write storage.
    Query,
    /// The buffer of the key, read-write storage.
    Key,
}

/// One binding of group 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBinding {
    /// The number of the binding.
    pub binding: u32,
    /// What is bound.
    pub resource: Resource,
    /// The bytes of the buffer that are bound, the start aligned.
    pub bytes: Range<u64>,
}

/// One dispatch as data.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedDispatch {
    /// The entry point of [`ROTATE_WGSL`] or [`TABLE_WGSL`].
    pub entry_point: &'static str,
    /// Values of the module's override constants.
    pub constants: Vec<(&'static str, f64)>,
    /// The words of the uniform buffer at binding 0.
    pub uniform: Vec<u32>,
    /// All bindings of group 0.
    pub bindings: Vec<PlannedBinding>,
    grid: Grid,
}

impl PlannedDispatch {
    /// The workgroups for `count` tokens of each batch entry (rows, for a table), those that are not this dispatch's own
    /// cut off: all three are 0 where none is left.
    ///
    /// # Errors
    /// [`RopeError::Count`] for another count than the planned one where the grid had to be folded.
    pub fn workgroups(&self, count: u32) -> Result<[u32; 3]> {
        self.grid.workgroups(count)
    }

    /// The bytes of a uniform buffer in little-endian order, as the shader reads them.
    #[must_use]
    pub fn uniform_bytes(&self) -> Vec<u8> {
        self.uniform
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// The first token (of each batch entry) that this dispatch rotates; 0 for a table.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.grid.first
    }

    /// Whether the grid is folded, so that only the planned count can be recorded.
    #[must_use]
    pub fn is_folded(&self) -> bool {
        self.grid.fold.is_some()
    }
}

/// `across` workgroups side by side for each of `count` tokens of each of `batch` entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grid {
    operand: &'static str,
    across: u32,
    batch: u32,
    /// The tokens `first..first + planned` of a batch entry.
    first: u32,
    planned: u32,
    /// The whole grid where a dimension of it is past the limit.
    fold: Option<[u32; 3]>,
}

impl Grid {
    fn new(
        operand: &'static str,
        across: u32,
        tokens: Range<u32>,
        batch: u32,
        limits: &Limits,
    ) -> Result<Self> {
        let most = limits.max_compute_workgroups_per_dimension.max(1);
        let planned = tokens.end - tokens.start;
        let fold = if across.max(planned).max(batch) <= most {
            None
        } else {
            let total = u64::from(across)
                .checked_mul(u64::from(planned))
                .and_then(|n| n.checked_mul(u64::from(batch)))
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| RopeError::overflow(operand, "workgroups must fit u32"))?;
            let x = total.min(most);
            let y = total.div_ceil(x).min(most);
            let z = u64::from(total).div_ceil(u64::from(x) * u64::from(y));
            let z = u32::try_from(z).unwrap_or(u32::MAX);
            if z > most {
                return Err(RopeError::Limit {
                    limit: "max_compute_workgroups_per_dimension",
                    operand,
                    needed: z.into(),
                    allowed: most.into(),
                });
            }
            Some([x, y, z])
        };
        Ok(Self {
            operand,
            across,
            batch,
            first: tokens.start,
            planned,
            fold,
        })
    }

    /// The grid of a table: rows past the limit go on along z, which costs the shader no division.
    fn of_rows(across: u32, rows: u32, limits: &Limits) -> Result<Self> {
        let most = limits.max_compute_workgroups_per_dimension.max(1);
        let layers = rows.div_ceil(most);
        if across.max(layers) > most {
            return Err(RopeError::Limit {
                limit: "max_compute_workgroups_per_dimension",
                operand: "table",
                needed: across.max(layers).into(),
                allowed: most.into(),
            });
        }
        Ok(Self {
            operand: "rows",
            across,
            batch: 1,
            first: 0,
            planned: rows,
            fold: (layers > 1).then(|| [across, rows.div_ceil(layers), layers]),
        })
    }

    fn workgroups(&self, count: u32) -> Result<[u32; 3]> {
        let count = count.saturating_sub(self.first).min(self.planned);
        if count == 0 {
            return Ok([0; 3]);
        }
        match self.fold {
            None => Ok([self.across, count, self.batch]),
            Some(grid) if count == self.planned => Ok(grid),
            Some(_) => Err(RopeError::Count {
                operand: self.operand,
                rule: format!(
                    "must be the planned {}, since the grid is past the device's limit and folded",
                    self.first + self.planned
                )
                .into(),
                got: (self.first + count).into(),
            }),
        }
    }

    /// The folded grid's x and y for the shader, 0 where it is not folded.
    fn fold_words(&self) -> [u32; 2] {
        self.fold.map_or([0; 2], |[x, y, _]| [x, y])
    }
}

/// How an invocation takes hold of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    /// One invocation takes a whole head: 16-bit pairs that lie across words in odd ways.
    Heads,
    /// Two u32 words.
    Words,
    /// Twice 16 bytes.
    Quads,
}

impl Path {
    /// Bytes of the unit that addresses count in; elements for whole heads.
    fn unit(self, element: ElementType) -> u64 {
        match self {
            Self::Quads => 16,
            Self::Words => 4,
            Self::Heads => element.bytes(),
        }
    }

    /// Pairs that one invocation takes of a head.
    fn pairs(self, element: ElementType, all: u32) -> u32 {
        match (self, element.bytes()) {
            (Self::Quads, 4) => 4,
            (Self::Quads, _) => 8,
            (Self::Words, 4) => 1,
            (Self::Words, _) => 2,
            (Self::Heads, _) => all,
        }
    }
}

/// A part of one tensor that fits a binding: whole (token, head) slices.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    batch: Range<u32>,
    tokens: Range<u32>,
    heads: Range<u32>,
}

/// A validated rotation, ready for any placement of its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct RopePlan {
    spec: RotateSpec,
    limits: Limits,
}

impl RopePlan {
    /// Plans a rotation for a device.
    ///
    /// # Errors
    /// Those of [`RotateSpec::validate`]; [`RopeError::Limit`] where not even one head fits a binding, or the asked-for
    /// workgroup is too large.
    pub fn new(spec: &RotateSpec, limits: &Limits) -> Result<Self> {
        spec.validate()?;
        let most = limits.max_compute_invocations_per_workgroup;
        if let Some(workgroup) = spec.workgroup {
            if workgroup == 0 {
                return Err(RopeError::layout("workgroup", "must be at least 1", 0));
            }
            if workgroup > most {
                return Err(RopeError::Limit {
                    limit: "max_compute_invocations_per_workgroup",
                    operand: "workgroup",
                    needed: workgroup.into(),
                    allowed: most.into(),
                });
            }
        }
        let plan = Self {
            spec: spec.clone(),
            limits: *limits,
        };
        // Whatever else can fail for the tensors themselves fails here and not at the first binding.
        plan.dispatches(Placement::default())?;
        Ok(plan)
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &RotateSpec {
        &self.spec
    }

    /// The device planned for.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The workgroups that rotate `tokens` tokens of each batch entry, for tensors at the start of separate buffers: the
    /// arguments of an indirect dispatch.
    ///
    /// # Errors
    /// [`RopeError::Count`] for more tokens than planned, or where the plan takes several dispatches.
    pub fn workgroups(&self, tokens: u32) -> Result<[u32; 3]> {
        self.check_tokens(tokens)?;
        match self.dispatches(Placement::default())?.as_slice() {
            [only] => only.workgroups(tokens),
            several => Err(RopeError::Count {
                operand: "dispatches",
                rule: "must be one for indirect arguments".into(),
                got: several.len() as u64,
            }),
        }
    }

    pub(crate) fn check_tokens(&self, tokens: u32) -> Result<()> {
        if tokens > self.spec.tokens {
            return Err(RopeError::Count {
                operand: "tokens",
                rule: format!("must not exceed the planned {}", self.spec.tokens).into(),
                got: tokens.into(),
            });
        }
        Ok(())
    }

    /// The bytes of a buffer that the view of an operand reaches: its size must be at least the operand's byte offset plus
    /// this. Whole words.
    ///
    /// # Errors
    /// None for a plan that was made.
    pub fn bytes(&self) -> Result<(u64, Option<u64>)> {
        let bytes = |side: Side| -> Result<u64> {
            let end = side.layout.end(self.spec.batch, self.spec.tokens)?;
            end.checked_mul(side.element.bytes())
                .and_then(|bytes| bytes.checked_next_multiple_of(4))
                .ok_or_else(|| RopeError::overflow("layout", "byte offsets must fit u64"))
        };
        Ok((
            bytes(self.spec.query)?,
            self.spec.key.map(bytes).transpose()?,
        ))
    }

    /// The dispatches for tensors at these places, usually one: tensors past the largest binding take several, and so do
    /// a query and a key that differ in element type or alignment.
    ///
    /// # Errors
    /// [`RopeError::Buffer`] for an offset that is not a multiple of 4; [`RopeError::Layout`] where query and key share an
    /// element; [`RopeError::Limit`] where one head does not fit a binding.
    pub fn dispatches(&self, placement: Placement) -> Result<Vec<PlannedDispatch>> {
        let spec = &self.spec;
        for (operand, offset) in [("query", placement.query), ("key", placement.key)] {
            if !offset.is_multiple_of(4) {
                return Err(RopeError::Buffer {
                    operand,
                    rule: "byte offset must be a multiple of 4".into(),
                    got: offset.to_string(),
                });
            }
        }
        let query = Placed::new(self, "query", Resource::Query, spec.query, placement.query)?;
        let Some(side) = spec.key else {
            return query.alone(self);
        };
        let key_resource = if placement.shared {
            Resource::Query
        } else {
            Resource::Key
        };
        let key = Placed::new(self, "key", key_resource, side, placement.key)?;
        if placement.shared && query.meets(&key, spec)? {
            return Err(RopeError::layout(
                "key",
                "must not share an element with the query in the same buffer",
                format!("byte offsets {} and {}", placement.query, placement.key),
            ));
        }
        if let Some(joint) = self.joint(&query, &key, placement.shared)? {
            return Ok(vec![joint]);
        }
        let mut all = query.alone(self)?;
        all.extend(key.alone(self)?);
        Ok(all)
    }

    /// Query and key in one dispatch, where they take the same path and fit their bindings whole.
    fn joint(&self, query: &Placed, key: &Placed, shared: bool) -> Result<Option<PlannedDispatch>> {
        let alignment = self.limits.alignment();
        let most = self.limits.max_storage_buffer_binding_size;
        let (q, k) = (query.whole(&self.spec), key.whole(&self.spec));
        if query.side.element != key.side.element {
            return Ok(None);
        }
        let align = |bytes: &Range<u64>| bytes.start / alignment * alignment..bytes.end;
        let (q_bound, k_bound) = if shared {
            let union = align(&(q.start.min(k.start)..q.end.max(k.end)));
            (union.clone(), union)
        } else {
            (align(&q), align(&k))
        };
        if [&q_bound, &k_bound]
            .iter()
            .any(|bytes| bytes.end - bytes.start > most)
        {
            return Ok(None);
        }
        let path = query.path(&self.spec);
        if path == Path::Heads || path != key.path(&self.spec) {
            return Ok(None);
        }
        let window = Window {
            batch: 0..self.spec.batch,
            tokens: 0..self.spec.tokens,
            heads: 0..query.side.layout.heads,
        };
        let key_window = Window {
            heads: 0..key.side.layout.heads,
            ..window.clone()
        };
        self.dispatch(
            path,
            (query, &window, q_bound),
            Some((key, &key_window, k_bound)),
            shared,
        )
        .map(Some)
    }

    /// Heads per invocation for each side: the largest divisor of its head count up to the target.
    fn heads_per_invocation(&self, lanes: u32, tokens: u64, heads: &[u32]) -> Vec<u32> {
        let divisor = |heads: u32, target: u32| {
            (1..=target)
                .rev()
                .find(|h| heads.is_multiple_of(*h))
                .unwrap_or(1)
        };
        let invocations = |target: u32| -> u64 {
            heads
                .iter()
                .map(|&h| u64::from(h / divisor(h, target)) * u64::from(lanes) * tokens)
                .sum()
        };
        let target = match self.spec.heads_per_invocation {
            Some(given) => given,
            None if self.limits.cpu => MAX_HEADS_PER_INVOCATION,
            // A GPU needs its tens of thousands of invocations more than it needs shared loads.
            None => [4, 2]
                .into_iter()
                .find(|&target| invocations(target) >= 32_768)
                .unwrap_or(1),
        };
        heads.iter().map(|&h| divisor(h, target)).collect()
    }

    /// A workgroup for `items` invocations side by side, all of one token: as few workgroups as possible, with little idle.
    fn workgroup(&self, items: u32) -> u32 {
        if let Some(given) = self.spec.workgroup {
            return given;
        }
        let most = self
            .limits
            .max_compute_invocations_per_workgroup
            .clamp(1, 256);
        // Whole vectors of a CPU, whole subgroups of a GPU.
        let step = if self.limits.cpu { 8 } else { 32 };
        let groups = items.div_ceil(most);
        items.div_ceil(groups).next_multiple_of(step).min(most)
    }

    /// One dispatch over one window, or over all of two tensors.
    fn dispatch(
        &self,
        path: Path,
        query: (&Placed, &Window, Range<u64>),
        key: Option<(&Placed, &Window, Range<u64>)>,
        shared: bool,
    ) -> Result<PlannedDispatch> {
        let spec = &self.spec;
        let (q, window, q_bound) = query;
        let element = q.side.element;
        let all_pairs = spec.config.rotary_dim() / 2;
        let pairs = path.pairs(element, all_pairs);
        let lanes = all_pairs / pairs;
        let count = |range: &Range<u32>| range.end - range.start;
        let tokens = u64::from(count(&window.tokens)) * u64::from(count(&window.batch));

        let mut heads = vec![count(&window.heads)];
        heads.extend(key.as_ref().map(|(_, window, _)| count(&window.heads)));
        let per_invocation = if path == Path::Heads {
            vec![1; heads.len()]
        } else {
            self.heads_per_invocation(lanes, tokens, &heads)
        };
        let mut groups = [0, 0];
        let mut per = [1, 1];
        for (at, (&heads, &h)) in heads.iter().zip(&per_invocation).enumerate() {
            groups[at] = heads / h;
            per[at] = h;
        }
        let items = u64::from(groups[0] + groups[1]) * u64::from(lanes);
        let items = u32::try_from(items)
            .map_err(|_| RopeError::overflow("heads", "invocations of a token must fit u32"))?;
        let workgroup = self.workgroup(items);
        let grid = Grid::new(
            "tokens",
            items.div_ceil(workgroup),
            window.tokens.clone(),
            count(&window.batch),
            &self.limits,
        )?;

        let unit = path.unit(element);
        let side = |placed: &Placed, window: &Window, bound: &Range<u64>| -> Result<[u32; 4]> {
            let layout = placed.side.layout;
            let bytes = element.bytes();
            let first = placed.slice(
                spec,
                window.batch.start,
                window.tokens.start,
                window.heads.start,
            ) - bound.start;
            let scale = |stride: u64, count: u32| {
                // A stride that is never taken need not fit, nor be whole.
                let stride = if count > 1 { stride * bytes / unit } else { 0 };
                u32::try_from(stride).map_err(|_| RopeError::overflow("stride", "must fit u32"))
            };
            Ok([
                u32::try_from(first / unit)
                    .map_err(|_| RopeError::overflow("offset", "must fit u32"))?,
                scale(layout.batch_stride, count(&window.batch))?,
                scale(layout.token_stride, count(&window.tokens))?,
                scale(layout.head_stride, count(&window.heads))?,
            ])
        };
        let query_words = side(q, window, &q_bound)?;
        let key_words = match &key {
            Some((placed, window, bound)) => side(placed, window, bound)?,
            None => [0; 4],
        };
        let interleaved = spec.config.pairing() == Pairing::Interleaved;
        let distance = match (interleaved, path) {
            (false, _) => u64::from(all_pairs) * element.bytes() / unit,
            (true, _) => 1,
        };
        let (row_batch, row_token) = spec.rows.strides(spec.tokens);
        let first_row = spec.row(window.batch.start, window.tokens.start);
        let [fold_x, fold_y] = grid.fold_words();
        let mut uniform = Vec::with_capacity(24);
        uniform.extend(query_words);
        uniform.extend(key_words);
        uniform.extend([
            u32::try_from(first_row).map_err(|_| RopeError::overflow("rows", "must fit u32"))?,
            row_batch,
            row_token,
            // Entries of a row, padded to an even number; counted in units of two for 16-byte loads.
            match path {
                Path::Quads => all_pairs.div_ceil(2),
                Path::Words | Path::Heads => all_pairs.next_multiple_of(2),
            },
        ]);
        uniform.extend([
            u32::try_from(distance).map_err(|_| RopeError::overflow("distance", "must fit u32"))?,
            groups[0],
            groups[1],
            0,
        ]);
        uniform.extend([grid.planned, grid.batch, grid.across, 0]);
        uniform.extend([fold_x, fold_y, 0, 0]);

        let two = key.is_some() && !shared;
        let entry_point = match (path, two) {
            (Path::Quads, false) => "quads_one",
            (Path::Quads, true) => "quads_two",
            (Path::Words, false) => "words_one",
            (Path::Words, true) => "words_two",
            (Path::Heads, _) => "heads_one",
        };
        let rows = spec.rows_needed(spec.tokens) * u64::from(all_pairs.next_multiple_of(2)) * 8;
        let mut bindings = vec![
            PlannedBinding {
                binding: 0,
                resource: Resource::Uniform,
                bytes: 0..uniform.len() as u64 * 4,
            },
            PlannedBinding {
                binding: 1,
                resource: Resource::Rows,
                bytes: 0..rows,
            },
            PlannedBinding {
                binding: 2,
                resource: q.resource,
                bytes: q_bound,
            },
        ];
        if let (Some((placed, _, bound)), true) = (key, two) {
            bindings.push(PlannedBinding {
                binding: 3,
                resource: placed.resource,
                bytes: bound,
            });
        }
        let flag = |on: bool| f64::from(u8::from(on));
        Ok(PlannedDispatch {
            entry_point,
            constants: vec![
                ("WORKGROUP", workgroup.into()),
                ("LANES", lanes.into()),
                ("PAIRS", all_pairs.into()),
                (
                    "ELEMENT",
                    match element {
                        ElementType::F32 => 0.0,
                        ElementType::F16 => 1.0,
                        ElementType::Bf16 => 2.0,
                    },
                ),
                ("INTERLEAVED", flag(interleaved)),
                ("QUERY_HEADS", per[0].into()),
                ("KEY_HEADS", per[1].into()),
                ("FOLD", flag(grid.fold.is_some())),
            ],
            uniform,
            bindings,
            grid,
        })
    }
}

/// One tensor at its place in a buffer.
struct Placed {
    operand: &'static str,
    resource: Resource,
    side: Side,
    /// Bytes before the view's origin.
    origin: u64,
}

impl Placed {
    fn new(
        plan: &RopePlan,
        operand: &'static str,
        resource: Resource,
        side: Side,
        origin: u64,
    ) -> Result<Self> {
        let end = side.layout.end(plan.spec.batch, plan.spec.tokens)?;
        end.checked_mul(side.element.bytes())
            .and_then(|bytes| bytes.checked_next_multiple_of(4))
            .and_then(|bytes| bytes.checked_add(origin))
            .ok_or_else(|| RopeError::overflow(operand, "byte offsets must fit u64"))?;
        Ok(Self {
            operand,
            resource,
            side,
            origin,
        })
    }

    /// The byte where the rotary window of a head starts. Checked to fit when the view was.
    fn slice(&self, spec: &RotateSpec, batch: u32, token: u32, head: u32) -> u64 {
        let at = self.side.layout.at(batch.into(), token.into(), head.into())
            + u64::from(spec.config.rotary_offset());
        self.origin + at * self.side.element.bytes()
    }

    /// The bytes that the rotation of a window touches, whole words.
    fn touched(&self, spec: &RotateSpec, window: &Window) -> Range<u64> {
        let first = self.slice(
            spec,
            window.batch.start,
            window.tokens.start,
            window.heads.start,
        );
        let last = self.slice(
            spec,
            window.batch.end - 1,
            window.tokens.end - 1,
            window.heads.end - 1,
        );
        let end = last + u64::from(spec.config.rotary_dim()) * self.side.element.bytes();
        first / 4 * 4..end.next_multiple_of(4)
    }

    fn everything(&self, spec: &RotateSpec) -> Window {
        Window {
            batch: 0..spec.batch,
            tokens: 0..spec.tokens,
            heads: 0..self.side.layout.heads,
        }
    }

    fn whole(&self, spec: &RotateSpec) -> Range<u64> {
        self.touched(spec, &self.everything(spec))
    }

    fn meets(&self, other: &Self, spec: &RotateSpec) -> Result<bool> {
        if self.side.element.bytes() == other.side.element.bytes() {
            let bytes = i128::from(self.side.element.bytes());
            let apart = i128::from(other.origin) - i128::from(self.origin);
            // Origins are whole words, so this division leaves no remainder.
            return Ok(self.side.layout.meets(
                &other.side.layout,
                spec.batch,
                spec.tokens,
                apart / bytes,
            ));
        }
        // Different element sizes: compare in 16-bit units.
        let halves = |placed: &Self| {
            let scale = placed.side.element.bytes() / 2;
            let layout = placed.side.layout;
            Some(HeadLayout {
                heads: layout.heads,
                head_dim: layout.head_dim.checked_mul(u32::try_from(scale).ok()?)?,
                batch_stride: layout.batch_stride.checked_mul(scale)?,
                token_stride: layout.token_stride.checked_mul(scale)?,
                head_stride: layout.head_stride.checked_mul(scale)?,
                offset: layout.offset.checked_mul(scale)?,
            })
        };
        let (Some(a), Some(b)) = (halves(self), halves(other)) else {
            return Err(RopeError::overflow("layout", "byte offsets must fit u64"));
        };
        let apart = (i128::from(other.origin) - i128::from(self.origin)) / 2;
        Ok(a.meets(&b, spec.batch, spec.tokens, apart))
    }

    /// How invocations can take hold of this tensor. Bindings start at multiples of 16 bytes, so it shows in the offsets
    /// in the buffer; windows start whole strides further on.
    fn path(&self, spec: &RotateSpec) -> Path {
        let (layout, bytes) = (self.side.layout, self.side.element.bytes());
        let pairs = spec.config.rotary_dim() / 2;
        let fits = |unit: u64| {
            let stride =
                |stride: u64, count: u32| count <= 1 || (stride * bytes).is_multiple_of(unit);
            self.slice(spec, 0, 0, 0).is_multiple_of(unit)
                && stride(layout.batch_stride, spec.batch)
                && stride(layout.token_stride, spec.tokens)
                && stride(layout.head_stride, layout.heads)
                && (u64::from(pairs) * bytes).is_multiple_of(unit)
        };
        if fits(16) {
            Path::Quads
        } else if fits(4) {
            Path::Words
        } else {
            Path::Heads
        }
    }

    /// This tensor by itself: one dispatch, or one for each window that fits a binding.
    fn alone(&self, plan: &RopePlan) -> Result<Vec<PlannedDispatch>> {
        let mut windows = Vec::new();
        self.split(plan, self.everything(&plan.spec), &mut windows)?;
        let alignment = plan.limits.alignment();
        windows
            .iter()
            .map(|window| {
                let touched = self.touched(&plan.spec, window);
                let bound = touched.start / alignment * alignment..touched.end;
                plan.dispatch(self.path(&plan.spec), (self, window, bound), None, true)
            })
            .collect()
    }

    /// Cuts a window along its largest stride until every part fits a binding.
    fn split(&self, plan: &RopePlan, window: Window, out: &mut Vec<Window>) -> Result<()> {
        let most = plan.limits.max_storage_buffer_binding_size;
        let alignment = plan.limits.alignment();
        let size = |window: &Window| {
            let touched = self.touched(&plan.spec, window);
            touched.end - touched.start / alignment * alignment
        };
        if size(&window) <= most {
            out.push(window);
            return Ok(());
        }
        let layout = self.side.layout;
        let axes = [
            (layout.batch_stride, window.batch.clone(), 0),
            (layout.token_stride, window.tokens.clone(), 1),
            (layout.head_stride, window.heads.clone(), 2),
        ];
        let largest = axes
            .into_iter()
            .filter(|(_, range, _)| range.end - range.start > 1)
            .max_by_key(|(stride, ..)| *stride);
        let Some((stride, range, axis)) = largest else {
            return Err(RopeError::Limit {
                limit: "max_storage_buffer_binding_size",
                operand: self.operand,
                needed: size(&window),
                allowed: most,
            });
        };
        let part = |range: Range<u32>| {
            let mut part = window.clone();
            match axis {
                0 => part.batch = range,
                1 => part.tokens = range,
                _ => part.heads = range,
            }
            part
        };
        // As many steps of the largest stride as surely fit; at least one, which may then be cut along another axis.
        let one = size(&part(range.start..range.start + 1)) + alignment;
        let step = (stride * self.side.element.bytes()).max(1);
        let steps = 1 + most.saturating_sub(one) / step;
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        let mut start = range.start;
        while start < range.end {
            let end = start.saturating_add(steps).min(range.end);
            self.split(plan, part(start..end), out)?;
            start = end;
        }
        Ok(())
    }
}

/// How angles are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Angles {
    /// Position times frequency, exact: correctly rounded cos and sin at every position.
    #[default]
    Exact,
}

/// Where the position of a table row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PositionSource {
    /// Row r is position `start + r`.
    From(i32),
    /// A buffer holds the first position of each run of this many rows: row r is position `ids[r / run] + r % run`. A run of 1
    /// is an id for every row; a run as long as the table is one start for all.
    Runs(u32),
}

/// A validated cos/sin table: rows, their width, and the constants of every pair.
#[derive(Debug, Clone, PartialEq)]
pub struct TablePlan {
    rows: u32,
    pairs: Vec<u32>,
    width: u32,
    factor: crate::turns::TableFactor,
    direction: Direction,
    limits: Limits,
}

impl TablePlan {
    /// Plans a table of `rows` rows, one entry of (cos, sin) for every pair of the frequencies.
    ///
    /// # Errors
    /// [`RopeError::Layout`] for no rows; [`RopeError::Limit`] where the table is larger than a binding (make it smaller
    /// and fill it for each step).
    pub fn new(
        frequencies: &Frequencies,
        rows: u32,
        angles: Angles,
        direction: Direction,
        limits: &Limits,
    ) -> Result<Self> {
        let Angles::Exact = angles;
        if rows == 0 {
            return Err(RopeError::layout("table rows", "must be at least 1", 0));
        }
        let width = u32::try_from(frequencies.len())
            .ok()
            .filter(|width| *width <= crate::config::MAX_HEAD_DIM)
            .ok_or_else(|| RopeError::overflow("pairs", "must be at most 65,536"))?;
        let pairs = frequencies
            .turn_rates(direction)?
            .into_iter()
            .flat_map(|rate| {
                let [a, b, c, d] = rate.words();
                [a, b, c, d, u32::from(rate.negative) << 31, 0, 0, 0]
            })
            .collect();
        let plan = Self {
            rows,
            pairs,
            width,
            factor: frequencies.factor(direction)?,
            direction,
            limits: *limits,
        };
        if plan.bytes() > limits.max_storage_buffer_binding_size {
            return Err(RopeError::Limit {
                limit: "max_storage_buffer_binding_size",
                operand: "table",
                needed: plan.bytes(),
                allowed: limits.max_storage_buffer_binding_size,
            });
        }
        Ok(plan)
    }

    /// Rows of the table.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Entries of a row: pairs of the model.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Entries from one row to the next: the width, made even so that rows start on 16 bytes.
    #[must_use]
    pub fn row_stride(&self) -> u32 {
        self.width.next_multiple_of(2)
    }

    /// Bytes of the table: an entry is cos and sin, two u32 words with the bits of f32 values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.row_stride()) * 8
    }

    /// Which way the table turns.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The words of the frequencies' buffer (binding 1): for each pair four words of its rate in turns, least significant
    /// first, its sign in the top bit of the fifth, and three words of padding.
    #[must_use]
    pub fn pairs(&self) -> &[u32] {
        &self.pairs
    }

    /// The device planned for.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many rows a buffer of this many positions can fill.
    #[must_use]
    pub fn rows_served(&self, source: PositionSource, positions: u64) -> u32 {
        let served = match source {
            PositionSource::From(_) => u64::MAX,
            PositionSource::Runs(run) => positions.saturating_mul(run.into()),
        };
        u32::try_from(served).unwrap_or(u32::MAX).min(self.rows)
    }

    /// The dispatch that fills rows from the start of the table on. `positions` is the byte range of the buffer of
    /// positions that may be read (i32 each, its start a multiple of 4); ignored for a constant start.
    ///
    /// # Errors
    /// [`RopeError::Buffer`] for an unaligned start, no position at all or a run of 0 rows.
    pub fn fill(&self, source: PositionSource, positions: Range<u64>) -> Result<PlannedDispatch> {
        let fault = |rule: &'static str, got: String| RopeError::Buffer {
            operand: "positions",
            rule: rule.into(),
            got,
        };
        let alignment = self.limits.alignment();
        let bound = positions.start / alignment * alignment;
        let (start, run, first) = match source {
            PositionSource::From(start) => (start, self.rows, 0),
            PositionSource::Runs(run) => {
                if run == 0 {
                    return Err(fault(
                        "rows of a sequence must be at least 1",
                        run.to_string(),
                    ));
                }
                if !positions.start.is_multiple_of(4) {
                    return Err(fault(
                        "byte offset must be a multiple of 4",
                        positions.start.to_string(),
                    ));
                }
                let first = u32::try_from((positions.start - bound) / 4)
                    .map_err(|_| RopeError::overflow("positions", "offset must fit u32"))?;
                (0, run, first)
            }
        };
        let count = positions.end.saturating_sub(positions.start) / 4;
        let rows = self.rows_served(source, count);
        if rows == 0 {
            return Err(fault(
                "must hold at least one i32",
                format!("{count} of them"),
            ));
        }
        // No more of the buffer is bound than is read.
        let read = u64::from(rows).div_ceil(run.into()) * 4;
        let workgroup = self.width.next_multiple_of(8).min(64);
        let grid = Grid::of_rows(self.width.div_ceil(workgroup), rows, &self.limits)?;
        let uniform = vec![
            rows,
            self.width,
            self.row_stride(),
            run,
            u32::from_ne_bytes(start.to_ne_bytes()),
            first,
            grid.fold_words()[1],
            0,
            self.factor.mantissa,
            u32::from_ne_bytes(self.factor.exponent.to_ne_bytes()),
            u32::from(self.factor.negative) << 31,
            0,
        ];
        let mut bindings = vec![
            PlannedBinding {
                binding: 0,
                resource: Resource::Uniform,
                bytes: 0..uniform.len() as u64 * 4,
            },
            PlannedBinding {
                binding: 1,
                resource: Resource::Pairs,
                bytes: 0..self.pairs.len() as u64 * 4,
            },
            PlannedBinding {
                binding: 2,
                resource: Resource::Rows,
                bytes: 0..self.bytes(),
            },
        ];
        let counted = matches!(source, PositionSource::From(_));
        if !counted {
            bindings.push(PlannedBinding {
                binding: 3,
                resource: Resource::Positions,
                bytes: bound..positions.start + read,
            });
        }
        Ok(PlannedDispatch {
            entry_point: if counted {
                "fill_counted"
            } else {
                "fill_listed"
            },
            constants: vec![
                ("WORKGROUP", workgroup.into()),
                ("SCALED", f64::from(u8::from(!self.factor.is_unit()))),
            ],
            uniform,
            bindings,
            grid,
        })
    }
}
