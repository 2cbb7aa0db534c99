//! From a specification to dispatches: which path invocations take, which windows tensors are cut into, what is bound.

use std::ops::Range;

use super::operand::Operand;
use super::places::{Place, Places};
use super::spec::{MAX_HEADS_AT_ONCE, MAX_HEADS_PER_INVOCATION, RotateSpec, Side};
use super::view::TensorView;
use super::{Limits, Module, PlannedBinding, PlannedDispatch, Resource, check_dispatches};
use crate::config::Pairing;
use crate::error::{Result, RopeError};
use crate::layout::ElementType;

/// How an invocation takes hold of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    /// A workgroup takes the window of a head: pairs that move in odd ways, and 16-bit pairs that lie across words.
    Windows,
    /// Twice 16 bytes, which are written to other places when all lanes of the head have read theirs.
    Moves,
    /// Two u32 words.
    Words,
    /// Twice 16 bytes.
    Quads,
}

impl Path {
    /// Bytes of the unit that addresses count in; elements for whole windows.
    fn unit(self, element: ElementType) -> u64 {
        match self {
            Self::Quads | Self::Moves => 16,
            Self::Words => 4,
            Self::Windows => element.bytes(),
        }
    }

    /// Invocations that share a head of which this many pairs are rotated.
    fn lanes(self, element: ElementType, pairs: u32) -> u32 {
        match (self, element.bytes()) {
            (Self::Quads | Self::Moves, 4) => pairs / 4,
            (Self::Quads | Self::Moves, _) => pairs / 8,
            (Self::Words, 4) => pairs,
            (Self::Words, _) => pairs / 2,
            (Self::Windows, _) => 1,
        }
    }
}

/// Invocations that a CPU driver runs as one, with 256-bit vectors.
pub(super) const VECTOR: u32 = 8;

/// Invocations that a GPU should have to be busy.
pub(super) const BUSY: u64 = 32_768;

/// A part of one tensor: whole (token, head) slices.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    batch: Range<u32>,
    tokens: Range<u32>,
    heads: Range<u32>,
}

/// The largest divisor up to a target (0 has them all).
pub(super) fn divisor(of: u32, target: u32) -> u32 {
    (1..=target)
        .rev()
        .find(|divisor| of.is_multiple_of(*divisor))
        .unwrap_or(1)
}

pub(super) fn count(range: &Range<u32>) -> u32 {
    range.end - range.start
}

/// A validated rotation, ready for any placement of its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct RopePlan {
    pub(super) spec: RotateSpec,
    pub(super) limits: Limits,
}

impl RopePlan {
    /// Plans a rotation for a device.
    ///
    /// # Errors
    /// Those of [`RotateSpec::validate`]; [`RopeError::Limit`] where not even one head (of a layer one token, or a cache) fits a binding, the
    /// rows of the table do not, the asked-for workgroup is too large, or a layer finds fewer than 8 storage bindings; [`RopeError::Layout`]
    /// where tensors overlap, or are so irregular that it cannot be told; [`RopeError::Count`] where it would take thousands of dispatches.
    pub fn new(spec: &RotateSpec, limits: &Limits) -> Result<Self> {
        limits.validate()?;
        spec.validate()?;
        let most = limits.invocations();
        if let Some(workgroup) = spec.workgroup.filter(|workgroup| *workgroup > most) {
            return Err(RopeError::Limit {
                limit: "max_compute_invocations_per_workgroup",
                operand: "workgroup",
                needed: workgroup.into(),
                allowed: most.into(),
            });
        }
        let plan = Self {
            spec: spec.clone(),
            limits: *limits,
        };
        let (needed, allowed) = (
            plan.storage_buffers(),
            limits.max_storage_buffers_per_shader_stage,
        );
        if needed > allowed {
            return Err(RopeError::Limit {
                limit: "max_storage_buffers_per_shader_stage",
                operand: "layer",
                needed: needed.into(),
                allowed: allowed.into(),
            });
        }
        // Whatever can fail for the tensors themselves fails here and not at the first binding.
        plan.dispatches(plan.apart()?)?;
        if spec.is_plain() {
            limits.check_binding("table", plan.row_bytes())?;
        }
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

    /// Storage bindings of the dispatches.
    pub(crate) fn storage_buffers(&self) -> u32 {
        if self.spec.is_plain() { 3 } else { 8 }
    }

    /// Every operand at the start of a buffer of its own.
    fn apart(&self) -> Result<Places> {
        let operands = self.spec.operands()?;
        Ok((0..)
            .zip(operands)
            .map(|(buffer, (operand, _))| {
                // Weights are bound together.
                let buffer = if operand.is_weight() {
                    u32::MAX
                } else {
                    buffer
                };
                (operand, Place { buffer, offset: 0 })
            })
            .chain([Operand::Slots, Operand::RowFactors].map(|operand| (operand, Place::default())))
            .collect())
    }

    #[cfg(feature = "wgpu")]
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

    /// Pairs of the rotary window, and so entries of a row.
    fn pairs(&self) -> u32 {
        self.spec.config.rotary_dim() / 2
    }

    /// Invocations that share a head.
    fn lanes(&self, path: Path, element: ElementType) -> u32 {
        path.lanes(element, self.spec.rotated_pairs())
    }

    /// Bytes of the table's rows that all planned tokens read.
    pub(super) fn row_bytes(&self) -> u64 {
        self.spec.rows_needed(self.spec.tokens) * u64::from(self.pairs().next_multiple_of(2)) * 8
    }

    /// The dispatches for tensors at these places: usually one. Tensors past the largest binding or grid take several, and
    /// so do a query and a key of a plain rotation that differ in element type, and streams that together have more buffers than an entry
    /// point may bind.
    ///
    /// # Errors
    /// [`RopeError::Buffer`] for an offset that is not a multiple of 4; [`RopeError::Layout`] for an operand without a place, and where tensors
    /// share an element that one of them writes; [`RopeError::Limit`] where one head does not fit a binding, or a workgroup's memory (pairs that move,
    /// at an offset that is not a multiple of 16); [`RopeError::Count`] where it would take thousands; [`RopeError::Overflow`] for places so far
    /// into a buffer that no word of a binding tells them.
    pub fn dispatches(&self, placement: impl Into<Places>) -> Result<Vec<PlannedDispatch>> {
        let places = placement.into();
        for (operand, place) in places.iter() {
            if !place.offset.is_multiple_of(4) {
                return Err(RopeError::Buffer {
                    operand: operand.name(),
                    rule: "byte offset must be a multiple of 4".into(),
                    got: place.offset.to_string(),
                });
            }
        }
        if self.spec.is_plain() {
            self.plain(&places)
        } else {
            super::layer::dispatches(self, &places)
        }
    }

    /// The dispatches of a rotation in place.
    fn plain(&self, places: &Places) -> Result<Vec<PlannedDispatch>> {
        let spec = &self.spec;
        let (query, key) = spec.sides();
        let place = places.get(Operand::Query)?;
        let query = Placed::new(self, Operand::Query, query, place.offset)?;
        let Some(side) = key else {
            return query.alone(self);
        };
        let place_of_key = places.get(Operand::Key)?;
        let is_shared = place.buffer == place_of_key.buffer;
        // What shares a buffer is called by the first.
        let operand = if is_shared {
            Operand::Query
        } else {
            Operand::Key
        };
        let key = Placed::new(self, operand, side, place_of_key.offset)?;
        if is_shared && query.meets(&key, spec)? {
            return Err(RopeError::layout(
                "key",
                "must not share an element with the query in the same buffer",
                format!(
                    "views at elements {} and {} from bytes {} and {} on",
                    query.side.layout.offset, side.layout.offset, query.origin, key.origin
                ),
            ));
        }
        if let Some(joint) = self.joint(&query, &key, is_shared)? {
            return Ok(vec![joint]);
        }
        let mut all = query.alone(self)?;
        all.extend(key.alone(self)?);
        Ok(all)
    }

    /// Query and key in one dispatch, where they hold the same type and each fits a binding and a grid whole.
    fn joint(&self, query: &Placed, key: &Placed, shared: bool) -> Result<Option<PlannedDispatch>> {
        let path = query.path(self).min(key.path(self));
        if query.side.element != key.side.element {
            return Ok(None);
        }
        let whole = |placed: &Placed| {
            let window = placed.everything(&self.spec);
            let bound = self.limits.aligned(placed.touched(&self.spec, &window));
            (window, bound)
        };
        let ((q_window, mut q_bound), (k_window, mut k_bound)) = (whole(query), whole(key));
        if shared {
            q_bound = q_bound.start.min(k_bound.start)..q_bound.end.max(k_bound.end);
            k_bound = q_bound.clone();
        }
        let fits = |window: &Window, bound: &Range<u64>| {
            bound.end - bound.start <= self.limits.binding()
                && self.fits_grid(window, path, query.side.element)
        };
        // Each fits half a grid along x, so both fit one.
        let both = Window {
            heads: 0..q_window.heads.end.max(k_window.heads.end).saturating_mul(2),
            ..q_window.clone()
        };
        if !fits(&both, &q_bound) || !fits(&both, &k_bound) {
            return Ok(None);
        }
        let parts = [(query, q_window, q_bound), (key, k_window, k_bound)];
        self.dispatch(path, &parts, shared).map(Some)
    }

    /// Workgroups across a token for so many groups of heads, and the size of each: as few workgroups as possible, with little
    /// idle in the last; or one for each window. None past u32.
    fn across(&self, path: Path, element: ElementType, groups: u32) -> Option<(u32, u32)> {
        let (lanes, given) = (self.lanes(path, element), self.spec.workgroup);
        let items = match path {
            Path::Windows => self.window_words(element),
            _ => groups.checked_mul(lanes)?,
        };
        let most = given.unwrap_or_else(|| self.limits.invocations().min(256));
        let (step, most) = match path {
            // Whole heads, of which at least one fits.
            Path::Moves => (lanes, (most / lanes * lanes).max(lanes)),
            // Whole vectors of a CPU, whole subgroups of a GPU.
            _ if self.limits.cpu => (VECTOR, most),
            _ => (32, most),
        };
        let workgroup = match given {
            Some(_) => most,
            None => {
                let groups = items.div_ceil(most);
                items.div_ceil(groups).next_multiple_of(step).min(most)
            }
        };
        let across = match path {
            Path::Windows => groups,
            _ => items.div_ceil(workgroup),
        };
        Some((across, workgroup))
    }

    /// Words that may hold the rotary window of a head.
    fn window_words(&self, element: ElementType) -> u32 {
        match element.bytes() {
            4 => self.spec.config.rotary_dim(),
            _ => self.spec.config.rotary_dim() / 2 + 1,
        }
    }

    /// Whether a window fits a grid however few heads an invocation takes.
    fn fits_grid(&self, window: &Window, path: Path, element: ElementType) -> bool {
        let most = self.limits.workgroups();
        count(&window.tokens).max(count(&window.batch)) <= most
            && self
                .across(path, element, count(&window.heads))
                .is_some_and(|(across, _)| across <= most)
    }

    /// Of each tensor, heads per invocation and how many of them are loaded at once.
    fn heads_per_invocation(
        &self,
        path: Path,
        lanes: u32,
        tokens: u64,
        heads: [u32; 2],
    ) -> [[u32; 2]; 2] {
        let (cpu, given) = (self.limits.cpu, self.spec.heads_per_invocation);
        let most = match path {
            Path::Windows => 1,
            // They wait in registers while the others load.
            Path::Moves => MAX_HEADS_AT_ONCE,
            Path::Words | Path::Quads => MAX_HEADS_PER_INVOCATION,
        };
        let at_once = match path {
            Path::Moves => most,
            // A GPU waits for memory, a CPU for registers.
            Path::Quads => {
                (self.spec.heads_at_once).unwrap_or(if cpu { 1 } else { MAX_HEADS_AT_ONCE })
            }
            Path::Words | Path::Windows => 1,
        };
        // Heads that are loaded together divide the number of heads: a group is never cut short.
        let allowed = |h: u32, target: u32| match at_once {
            1 => target.min(most).min(h),
            _ => divisor(h, target.min(most)),
        };
        let invocations = |target: u32| {
            heads.iter().fold(0_u64, |sum, &h| {
                let groups = u64::from(h.div_ceil(allowed(h, target).max(1))) * u64::from(lanes);
                sum.saturating_add(groups.saturating_mul(tokens))
            })
        };
        // Steps of a CPU's vectors: loading cos and sin takes about as long as a head, and an idle lane as long as another.
        let steps = |h: u32, per: u32| {
            let invocations = u64::from(h.div_ceil(per)) * u64::from(lanes);
            invocations.div_ceil(VECTOR.into()) * u64::from(per + 1)
        };
        heads.map(|h| {
            // What a tensor that is not there does is the same for all plans, so that pipelines are shared.
            if h == 0 {
                return [1, 1];
            }
            let per = match given {
                Some(given) => allowed(h, given),
                None if cpu => (1..=most)
                    .rev()
                    .filter(|&per| allowed(h, per) == per)
                    .min_by_key(|&per| steps(h, per))
                    .unwrap_or(1),
                // A GPU needs its tens of thousands of invocations more than it needs shared loads.
                None => [4, 2]
                    .into_iter()
                    .find(|&target| invocations(target) >= BUSY)
                    .map_or(1, |target| allowed(h, target)),
            };
            [per, divisor(per, at_once)]
        })
    }

    /// One dispatch over a window of one tensor, or over all of two.
    fn dispatch(
        &self,
        path: Path,
        parts: &[(&Placed, Window, Range<u64>)],
        shared: bool,
    ) -> Result<PlannedDispatch> {
        let spec = &self.spec;
        let ([(query, window, _), ..], key) = (parts, parts.get(1)) else {
            return Err(RopeError::overflow("tensors", "must be at least one"));
        };
        let element = query.side.element;
        let (pairs, unit) = (self.pairs(), path.unit(element));
        let lanes = self.lanes(path, element);

        let heads = [
            count(&window.heads),
            key.map_or(0, |(_, window, _)| count(&window.heads)),
        ];
        let tokens = u64::from(count(&window.tokens)) * u64::from(count(&window.batch));
        let [[query_per, query_at_once], [key_per, key_at_once]] =
            self.heads_per_invocation(path, lanes, tokens, heads);
        let groups = [heads[0].div_ceil(query_per), heads[1].div_ceil(key_per)];
        let (across, workgroup) = groups[0]
            .checked_add(groups[1])
            .and_then(|groups| self.across(path, element, groups))
            .ok_or_else(|| RopeError::overflow("heads", "invocations of a token must fit u32"))?;

        let word = |wide: u64, operand| {
            u32::try_from(wide).map_err(|_| RopeError::overflow(operand, "must fit u32"))
        };
        let mut uniform = Vec::with_capacity(20);
        for part in 0..2 {
            let Some((placed, window, bound)) = parts.get(part) else {
                uniform.extend([0; 4]);
                continue;
            };
            let layout = placed.side.layout;
            // A stride that is never taken need not fit, nor be whole.
            let stride = |stride: u64, range: &Range<u32>| {
                let taken = if count(range) > 1 { stride } else { 0 };
                word(taken * element.bytes() / unit, "stride")
            };
            let first = placed.first(spec, window) - bound.start;
            uniform.extend([
                word(first / unit, "offset")?,
                stride(layout.batch_stride, &window.batch)?,
                stride(layout.token_stride, &window.tokens)?,
                stride(layout.head_stride, &window.heads)?,
            ]);
        }
        let pairing = spec.config.pairing();
        let block = pairs / pairing.blocks();
        let distance = word(u64::from(block) * element.bytes() / unit, "distance")?;
        let (row_batch, row_token) = spec.rows.strides(spec.tokens);
        uniform.extend([
            word(spec.row(window.batch.start, window.tokens.start), "rows")?,
            row_batch,
            row_token,
            // Entries of a row, padded to an even number; counted in units of two for 16-byte loads.
            match path {
                Path::Quads | Path::Moves => pairs.div_ceil(2),
                Path::Words | Path::Windows => pairs.next_multiple_of(2),
            },
        ]);
        uniform.extend([distance, groups[0], groups[1], 0]);
        uniform.extend([count(&window.tokens), count(&window.batch)]);
        uniform.extend(heads);

        // Constants that a path does not read are the same for all plans, so that pipelines are shared.
        let blocked = match pairing {
            Pairing::HalfSplitBlocks(2..) if path != Path::Windows => distance,
            _ => lanes,
        };
        let staged = if path == Path::Windows {
            self.window_words(element)
        } else {
            1
        };
        let flag = |value: bool| f64::from(u8::from(value));
        let two = key.is_some() && !shared;
        let mut bindings = vec![
            PlannedBinding::uniform(uniform.len()),
            PlannedBinding::read(1, Resource::Rows, 0..self.row_bytes()),
        ];
        let bound_parts = parts.iter().take(if two { 2 } else { 1 });
        bindings.extend((2..).zip(bound_parts).map(|(binding, (placed, _, bound))| {
            PlannedBinding::write(binding, Resource::Tensor(placed.operand), bound.clone())
        }));
        Ok(PlannedDispatch {
            module: Module::Rotate,
            entry_point: match (path, two) {
                (Path::Quads, false) => "quads_one",
                (Path::Quads, true) => "quads_two",
                (Path::Moves, false) => "moves_one",
                (Path::Moves, true) => "moves_two",
                (Path::Words, false) => "words_one",
                (Path::Words, true) => "words_two",
                (Path::Windows, false) => "windows_one",
                (Path::Windows, true) => "windows_two",
            },
            constants: vec![
                ("WORKGROUP", workgroup.into()),
                ("LANES", lanes.into()),
                ("PAIRS", spec.rotated_pairs().into()),
                ("KEEP", flag(spec.identity_keeps())),
                ("ELEMENT", element.constant()),
                ("INTERLEAVED", flag(pairing.reads_interleaved())),
                ("WRITES_INTERLEAVED", flag(pairing.writes_interleaved())),
                ("BLOCK", blocked.into()),
                (
                    "WINDOW",
                    if path == Path::Windows {
                        spec.config.rotary_dim()
                    } else {
                        1
                    }
                    .into(),
                ),
                ("STAGED", staged.into()),
                ("QUERY_HEADS", query_per.into()),
                ("KEY_HEADS", key_per.into()),
                ("QUERY_AT_ONCE", query_at_once.into()),
                ("KEY_AT_ONCE", key_at_once.into()),
            ],
            uniform,
            bindings,
            across,
            batch: count(&window.batch),
            range: window.tokens.clone(),
        })
    }
}

/// One tensor at its place in a buffer. That its last byte fits u64 has been checked.
struct Placed {
    /// Whose buffer it is in.
    operand: Operand,
    side: Side,
    /// Bytes before the view's origin.
    origin: u64,
}

impl Placed {
    fn new(plan: &RopePlan, operand: Operand, side: Side, origin: u64) -> Result<Self> {
        let end = side.layout.end(plan.spec.batch, plan.spec.tokens)?;
        end.checked_mul(side.element.bytes())
            .and_then(|bytes| bytes.checked_next_multiple_of(4))
            .and_then(|bytes| bytes.checked_add(origin))
            .ok_or_else(|| RopeError::overflow(side.operand, "byte offsets must fit u64"))?;
        let placed = Self {
            operand,
            side,
            origin,
        };
        placed.check_memory(plan)?;
        Ok(placed)
    }

    /// Checks that a workgroup's memory holds a window, where workgroups take windows. It depends on the place: pairs that move are taken 16
    /// bytes at a time only where they start on 16 bytes.
    fn check_memory(&self, plan: &RopePlan) -> Result<()> {
        let needed = u64::from(plan.window_words(self.side.element)) * 4;
        let allowed = plan.limits.max_compute_workgroup_storage_size;
        if self.path(plan) == Path::Windows && needed > allowed.into() {
            return Err(RopeError::Limit {
                limit: "max_compute_workgroup_storage_size",
                operand: self.side.operand,
                needed,
                allowed: allowed.into(),
            });
        }
        Ok(())
    }

    /// The byte where the rotary window of a head starts.
    fn slice(&self, spec: &RotateSpec, batch: u32, token: u32, head: u32) -> u64 {
        let at = self.side.layout.at(batch.into(), token.into(), head.into())
            + u64::from(spec.config.rotary_offset());
        self.origin + at * self.side.element.bytes()
    }

    /// The byte where the first slice of a window starts.
    fn first(&self, spec: &RotateSpec, window: &Window) -> u64 {
        let Window {
            batch,
            tokens,
            heads,
        } = window;
        self.slice(spec, batch.start, tokens.start, heads.start)
    }

    /// The bytes that the rotation of a window touches, whole words.
    fn touched(&self, spec: &RotateSpec, window: &Window) -> Range<u64> {
        let last = self.slice(
            spec,
            window.batch.end - 1,
            window.tokens.end - 1,
            window.heads.end - 1,
        );
        let end = last + u64::from(spec.config.rotary_dim()) * self.side.element.bytes();
        self.first(spec, window) / 4 * 4..end.next_multiple_of(4)
    }

    fn everything(&self, spec: &RotateSpec) -> Window {
        Window {
            batch: 0..spec.batch,
            tokens: 0..spec.tokens,
            heads: 0..self.side.layout.heads,
        }
    }

    fn meets(&self, other: &Self, spec: &RotateSpec) -> Result<bool> {
        let view = |placed: &Self| TensorView::new(placed.side.layout, placed.side.element);
        let origins = [self.origin, other.origin];
        view(self)
            .meets(&view(other), origins, spec.batch, spec.tokens)
            .ok_or_else(|| RopeError::overflow("layout", "byte offsets must fit u64"))
    }

    /// How invocations can take hold of this tensor. Bindings start at multiples of 16 bytes, so it shows in the offsets
    /// in the buffer; windows start whole strides further on.
    fn path(&self, plan: &RopePlan) -> Path {
        let spec = &plan.spec;
        let (layout, element) = (self.side.layout, self.side.element);
        let bytes = element.bytes();
        let pairing = spec.config.pairing();
        let block = plan.pairs() / pairing.blocks();
        let fits = |unit: u64| {
            let stride =
                |stride: u64, count: u32| count <= 1 || (stride * bytes).is_multiple_of(unit);
            self.slice(spec, 0, 0, 0).is_multiple_of(unit)
                && stride(layout.batch_stride, spec.batch)
                && stride(layout.token_stride, spec.tokens)
                && stride(layout.head_stride, layout.heads)
                && (u64::from(block) * bytes).is_multiple_of(unit)
                && (u64::from(spec.rotated_pairs()) * bytes).is_multiple_of(unit)
        };
        if pairing.moves() {
            // Pairs that are not rotated have to move too, and a workgroup holds all lanes of a head.
            let whole = spec.rotated_pairs() == plan.pairs()
                && plan.lanes(Path::Moves, element) <= plan.limits.invocations();
            if whole && fits(16) {
                Path::Moves
            } else {
                Path::Windows
            }
        } else if fits(16) {
            Path::Quads
        } else if fits(4) {
            Path::Words
        } else {
            Path::Windows
        }
    }

    /// This tensor by itself: one dispatch, or one for each window that fits a binding and a grid.
    fn alone(&self, plan: &RopePlan) -> Result<Vec<PlannedDispatch>> {
        let path = self.path(plan);
        let mut windows = Vec::new();
        self.split(plan, path, self.everything(&plan.spec), &mut windows)?;
        windows
            .into_iter()
            .map(|window| {
                let bound = plan.limits.aligned(self.touched(&plan.spec, &window));
                plan.dispatch(path, &[(self, window, bound)], true)
            })
            .collect()
    }

    /// Cuts a window until every part fits a grid and a binding.
    fn split(
        &self,
        plan: &RopePlan,
        path: Path,
        window: Window,
        out: &mut Vec<Window>,
    ) -> Result<()> {
        let (most, layout) = (plan.limits.workgroups(), self.side.layout);
        let element = self.side.element;
        let size = |window: &Window| {
            let bound = plan.limits.aligned(self.touched(&plan.spec, window));
            bound.end - bound.start
        };
        // Along which axis, and how far a part may reach.
        let (axis, steps) = if count(&window.tokens) > most {
            (Axis::Tokens, most)
        } else if count(&window.batch) > most {
            (Axis::Batch, most)
        } else if !plan.fits_grid(&window, path, element) {
            if count(&window.heads) == 1 {
                return Err(RopeError::Limit {
                    limit: "max_compute_workgroups_per_dimension",
                    operand: self.side.operand,
                    needed: plan
                        .across(path, element, 1)
                        .map_or(u64::MAX, |(x, _)| x.into()),
                    allowed: most.into(),
                });
            }
            (Axis::Heads, count(&window.heads).div_ceil(2))
        } else if size(&window) > plan.limits.binding() {
            // The largest stride first: as many of its steps as surely fit; at least one, which may then be cut further.
            let axes = [
                (layout.batch_stride, Axis::Batch),
                (layout.token_stride, Axis::Tokens),
                (layout.head_stride, Axis::Heads),
            ];
            let Some((stride, axis)) = axes
                .into_iter()
                .filter(|(_, axis)| count(axis.of(&window)) > 1)
                .max_by_key(|(stride, _)| *stride)
            else {
                return plan.limits.check_binding(self.side.operand, size(&window));
            };
            let start = axis.of(&window).start;
            let one = size(&axis.cut(&window, start..start + 1)) + plan.limits.alignment();
            let step = (stride * self.side.element.bytes()).max(1);
            let steps = 1 + plan.limits.binding().saturating_sub(one) / step;
            (axis, u32::try_from(steps).unwrap_or(u32::MAX))
        } else {
            out.push(window);
            return check_dispatches(self.side.operand, out.len());
        };
        let whole = axis.of(&window).clone();
        let mut start = whole.start;
        while start < whole.end {
            let end = start.saturating_add(steps).min(whole.end);
            self.split(plan, path, axis.cut(&window, start..end), out)?;
            start = end;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Axis {
    Batch,
    Tokens,
    Heads,
}

impl Axis {
    fn of(self, window: &Window) -> &Range<u32> {
        match self {
            Self::Batch => &window.batch,
            Self::Tokens => &window.tokens,
            Self::Heads => &window.heads,
        }
    }

    /// The part of a window along this axis.
    fn cut(self, window: &Window, range: Range<u32>) -> Window {
        let mut part = window.clone();
        *match self {
            Self::Batch => &mut part.batch,
            Self::Tokens => &mut part.tokens,
            Self::Heads => &mut part.heads,
        } = range;
        part
    }
}
