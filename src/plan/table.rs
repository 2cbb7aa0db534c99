//! Tables as data: rows, their width, what they are made from, and the dispatches that fill them.

use std::ops::Range;

use super::{Limits, Module, PlannedBinding, PlannedDispatch, Resource, in_parts};
use crate::config::MAX_HEAD_DIM;
use crate::error::{Result, RopeError};
use crate::frequencies::{Direction, Frequencies};
use crate::layout::ElementType;
use crate::positions::AxisOrder;
use crate::query_scale::QueryScale;
use crate::turns::{MAX_F32_EXPONENT, MIN_F32_EXPONENT, TableFactor, TurnRate, f32_weight};

/// How angles are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Angles {
    /// Position times frequency, exact: correctly rounded cos and sin at every position.
    #[default]
    Exact,
    /// Position and frequency rounded to f32, and their product too, as frameworks compute them; cos and sin are the correctly rounded
    /// ones of that angle. A model was trained with such angles: at position p they are off by up to p * 2^-24 radians for the fastest pair.
    /// For parity to the last bit pass the model's own f32 `inv_freq` to [`Frequencies::from_pairs`].
    F32,
}

/// Where the position of a table row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PositionSource {
    /// Row r is position `start + r` on all axes.
    From(i32),
    /// A buffer holds the first position of each run of this many rows: row r is position `ids[r / run] + r % run` on all axes. A run of 1
    /// is an id for every row; a run as long as the table is one start for all.
    Runs(u32),
    /// A buffer holds an id for every row and axis.
    PerAxis(AxisOrder),
    /// A buffer holds an f32 coordinate for every row and axis. It goes with [`Angles::F32`].
    Coordinates(AxisOrder),
}

/// A caller's own cos and sin: two tensors `[positions, columns]`, as the caches of ONNX's `RotaryEmbedding`, or
/// `[batch, tokens, columns]` where each token has its own (a position is then the row's own number).
///
/// Both may be in one tensor whose rows hold cos and behind it sin (vLLM's `cos_sin_cache`): its columns are those of the whole row then,
/// and sin starts `pairs` values behind cos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CosSinLayout {
    /// Rows of each tensor.
    pub positions: u32,
    /// Values from a row to the next, of which the first `pairs` are read.
    pub columns: u32,
    /// Pairs of the rotation.
    pub pairs: u32,
    /// The type of the values.
    pub element: ElementType,
}

impl CosSinLayout {
    /// The bytes that each of the two tensors has to hold from its first value to the last one that is read, whole words.
    ///
    /// # Errors
    /// [`RopeError::Layout`] for no positions, no pairs, or fewer columns than pairs; [`RopeError::Overflow`] past the indices of a
    /// binding.
    pub fn bytes(&self) -> Result<u64> {
        Ok((self.values()? * self.element.bytes()).next_multiple_of(4))
    }

    /// The bytes of a tensor with all its columns: what a buffer of it has, though less is read.
    #[cfg(feature = "wgpu")]
    pub(crate) fn tensor_bytes(&self) -> Result<u64> {
        // Fewer than 2^32 are read, and the last row has fewer columns than that behind them: u64 is wide enough.
        self.values()?;
        let values = u64::from(self.positions) * u64::from(self.columns);
        Ok((values * self.element.bytes()).next_multiple_of(4))
    }

    /// Values from the first to the last one that is read: what is behind the pairs of the last row is nobody's business.
    pub(crate) fn values(&self) -> Result<u64> {
        if self.positions == 0 || self.pairs == 0 {
            return Err(RopeError::layout(
                "cos and sin",
                "must have at least one position and one pair",
                format!("[{}, {}]", self.positions, self.pairs),
            ));
        }
        if self.columns < self.pairs {
            return Err(RopeError::layout(
                "cos and sin",
                format!("must have a column for each of {} pairs", self.pairs),
                self.columns,
            ));
        }
        // No product of two u32 and another one overflows u64.
        let values =
            u64::from(self.positions - 1) * u64::from(self.columns) + u64::from(self.pairs);
        if values < u64::from(u32::MAX) {
            Ok(values)
        } else {
            Err(RopeError::overflow(
                "cos and sin",
                "elements must be fewer than 2^32 - 1",
            ))
        }
    }
}

/// What the rows of a table are to hold.
///
/// ```
/// use wgpu_rope::{Angles, Direction, Frequencies, RopeConfig, TableSpec};
/// let frequencies = Frequencies::new(&RopeConfig::new(128))?;
/// let exact = TableSpec::new(&frequencies);
/// let back_as_trained = TableSpec::new(&frequencies).with_angles(Angles::F32).with_direction(Direction::Inverse);
/// # let _ = (exact, back_as_trained);
/// # Ok::<(), wgpu_rope::RopeError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TableSpec {
    pub(crate) content: Content,
    pub(crate) direction: Direction,
    slots: u32,
    query_scale: Option<QueryScale>,
}

/// Where entries come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Frequencies(Frequencies, Angles),
    CosSin(CosSinLayout),
}

impl TableSpec {
    /// Exact cos and sin of position times frequency, forward.
    #[must_use]
    pub fn new(frequencies: &Frequencies) -> Self {
        Self {
            content: Content::Frequencies(frequencies.clone(), Angles::Exact),
            direction: Direction::Forward,
            slots: 0,
            query_scale: None,
        }
    }

    /// The caller's own cos and sin. Backward, sin is negated; [`Direction::Inverse`] also divides both by `cos^2 + sin^2`.
    #[must_use]
    pub fn from_cos_sin(layout: CosSinLayout) -> Self {
        Self {
            content: Content::CosSin(layout),
            direction: Direction::Forward,
            slots: 0,
            query_scale: None,
        }
    }

    /// How angles are made. Without effect where cos and sin are given.
    #[must_use]
    pub fn with_angles(self, angles: Angles) -> Self {
        let content = match self.content {
            Content::Frequencies(frequencies, _) => Content::Frequencies(frequencies, angles),
            given @ Content::CosSin(_) => given,
        };
        Self { content, ..self }
    }

    /// Which way the table turns.
    #[must_use]
    pub fn with_direction(self, direction: Direction) -> Self {
        Self { direction, ..self }
    }

    /// The frequencies and how angles are made of them; none where cos and sin are given.
    #[must_use]
    pub fn frequencies(&self) -> Option<(&Frequencies, Angles)> {
        match &self.content {
            Content::Frequencies(frequencies, angles) => Some((frequencies, *angles)),
            Content::CosSin(_) => None,
        }
    }

    /// The layout of given cos and sin, if it is of those.
    #[must_use]
    pub fn cos_sin(&self) -> Option<CosSinLayout> {
        match self.content {
            Content::Frequencies(..) => None,
            Content::CosSin(layout) => Some(layout),
        }
    }

    /// Forward, inverse or adjoint.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// With room for the slots of so many tokens behind the rows (batch times tokens), for a rotation that writes K and V to a cache.
    #[must_use]
    pub fn with_slots(self, slots: u32) -> Self {
        Self { slots, ..self }
    }

    /// With a factor of the query for each row, by its position (on axis 0). A table of given cos and sin cannot have one.
    #[must_use]
    pub fn with_query_scale(self, scale: QueryScale) -> Self {
        Self {
            query_scale: Some(scale),
            ..self
        }
    }

    /// Tokens that there is room for slots of.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The factor of the query.
    #[must_use]
    pub fn query_scale(&self) -> Option<&QueryScale> {
        self.query_scale.as_ref()
    }

    /// Entries of a row: pairs of the model.
    #[must_use]
    pub fn pairs(&self) -> usize {
        match &self.content {
            Content::Frequencies(frequencies, _) => frequencies.len(),
            Content::CosSin(layout) => layout.pairs as usize,
        }
    }

    /// How many axes a position has.
    #[must_use]
    pub fn axes(&self) -> u32 {
        match &self.content {
            Content::Frequencies(frequencies, _) => frequencies.axes(),
            Content::CosSin(_) => 1,
        }
    }

    /// Where the parts of a table of so many rows start, in bytes.
    pub(crate) fn parts(&self, rows: u32) -> Parts {
        let row = (self.pairs() as u64).saturating_mul(8);
        let behind = u64::from(rows).saturating_mul(row.next_multiple_of(16));
        let slots = behind.saturating_add(16);
        let scales = slots.saturating_add((u64::from(self.slots) * 4).next_multiple_of(16));
        let scale = if self.query_scale.is_some() { 8 } else { 0 };
        Parts {
            behind,
            slots,
            scales,
            end: scales.saturating_add((u64::from(rows) * scale).next_multiple_of(16)),
        }
    }

    /// The factor of the entries; given ones are as they are.
    pub(crate) fn factor(&self) -> Result<TableFactor> {
        match &self.content {
            Content::Frequencies(frequencies, _) => frequencies.factor(self.direction),
            Content::CosSin(_) => TableFactor::new(1.0),
        }
    }
}

/// Where the parts of a table start, in bytes: multiples of 16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    /// The words behind the rows.
    pub(crate) behind: u64,
    pub(crate) slots: u64,
    pub(crate) scales: u64,
    pub(crate) end: u64,
}

/// A validated cos/sin table: rows, their width, and the constants of every pair.
#[derive(Debug, Clone, PartialEq)]
pub struct TablePlan {
    spec: TableSpec,
    rows: u32,
    width: u32,
    pairs: Vec<u32>,
    factor: TableFactor,
    limits: Limits,
}

impl TablePlan {
    /// Plans a table of `rows` rows, one entry of (cos, sin) for every pair.
    ///
    /// # Errors
    /// [`RopeError::Layout`] for no rows; those of [`CosSinLayout::bytes`]; [`RopeError::Table`] for a query scale with given cos and sin;
    /// [`RopeError::Limit`] where the table, or given cos or sin, is larger than a binding (make it smaller and fill it for each step).
    pub fn new(spec: &TableSpec, rows: u32, limits: &Limits) -> Result<Self> {
        limits.validate()?;
        if rows == 0 {
            return Err(RopeError::layout("table rows", "must be at least 1", 0));
        }
        let width = u32::try_from(spec.pairs())
            .ok()
            .filter(|width| *width <= MAX_HEAD_DIM)
            .ok_or_else(|| RopeError::overflow("pairs", "must be at most 65,536"))?;
        limits.check_binding("table", spec.parts(rows).end)?;
        let pairs = match &spec.content {
            Content::Frequencies(frequencies, angles) => {
                let mut words = pair_words(frequencies, *angles, spec.direction)?;
                if let Some(scale) = &spec.query_scale {
                    let place = u32::try_from(spec.parts(rows).scales / 8)
                        .map_err(|_| RopeError::overflow("table", "entries must fit u32"))?;
                    words.extend(scale.words(place));
                }
                words
            }
            Content::CosSin(_) if spec.query_scale.is_some() => {
                return Err(RopeError::table(
                    "must be made from frequencies for a query scale",
                    "given cos and sin",
                ));
            }
            Content::CosSin(layout) => {
                limits.check_binding("cos and sin", layout.bytes()?)?;
                Vec::new()
            }
        };
        let plan = Self {
            spec: spec.clone(),
            rows,
            width,
            pairs,
            factor: spec.factor()?,
            limits: *limits,
        };
        limits.check_binding("frequencies", plan.pairs.len() as u64 * 4)?;
        Ok(plan)
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &TableSpec {
        &self.spec
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

    /// Bytes of the rows: an entry is cos and sin, two u32 words with the bits of f32 values.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        self.spec.parts(self.rows).behind
    }

    /// Bytes of the table's buffer. Behind the rows stand 16, whose first word counts faults and whose second one counts tokens without a
    /// slot; then slots, and then query scales, where it has any.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.spec.parts(self.rows).end
    }

    /// Tokens that there is room for slots of.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.spec.slots
    }

    /// The byte at which slots start: an i32 for each token, -1 for none, padded to 16 bytes.
    #[must_use]
    pub fn slots_start(&self) -> u64 {
        self.spec.parts(self.rows).slots
    }

    /// The byte at which the factors of [`TableSpec::with_query_scale`] start: two words for each row, the bits of an f32 and 0, padded to 16
    /// bytes. The end of a table that has none.
    #[must_use]
    pub fn factors_start(&self) -> u64 {
        self.spec.parts(self.rows).scales
    }

    /// Which way the table turns.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.spec.direction
    }

    /// The words of the frequencies' buffer (binding 1). For each pair: four words of its rate in turns, least significant
    /// first; its sign in the top bit of the fifth; its axis; the bits of its f32 frequency; one word of padding. For f32 angles four
    /// words of each power of two from 2^-123 to 2^24 radians in turns follow. With a query scale there follow its step, its offset, the
    /// index of its last value, the index in the table (in entries) of the first row's scale, and the bits of its values, padded to whole
    /// fours. Empty where cos and sin are given.
    #[must_use]
    pub fn pairs(&self) -> &[u32] {
        &self.pairs
    }

    /// The device planned for.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many rows a buffer of this many positions can fill; for a constant start, how many rows of given cos and sin are left from there on.
    #[must_use]
    pub fn rows_served(&self, source: PositionSource, positions: u64) -> u32 {
        let served = match source {
            PositionSource::From(start) => match &self.spec.content {
                Content::Frequencies(..) => u64::MAX,
                Content::CosSin(layout) => u32::try_from(start)
                    .map_or(0, |start| layout.positions.saturating_sub(start).into()),
            },
            PositionSource::Runs(run) => positions.saturating_mul(run.into()),
            PositionSource::PerAxis(order) | PositionSource::Coordinates(order) => {
                order.rows(self.spec.axes(), positions)
            }
        };
        u32::try_from(served).unwrap_or(u32::MAX).min(self.rows)
    }

    /// The dispatches that fill rows from the start of the table on: one for as many rows as a grid has workgroups along a dimension
    /// (65,535 usually). `positions` is the byte range of the buffer of positions that may be read (i32 or f32 each, its start a
    /// multiple of 4), ignored for a constant start; `cos_sin` the bytes at which given cos and sin start, ignored for frequencies.
    ///
    /// # Errors
    /// [`RopeError::Buffer`] for an unaligned start, no position at all, or a run of 0 rows; [`RopeError::Table`] for coordinates without f32
    /// angles or with a query scale; [`RopeError::Limit`] where the positions are more than a binding, or a row's workgroups more than a grid;
    /// [`RopeError::Count`] where it would take thousands of dispatches; [`RopeError::Overflow`] where byte offsets do not fit.
    pub fn fill(
        &self,
        source: PositionSource,
        positions: Range<u64>,
        cos_sin: [u64; 2],
    ) -> Result<Vec<PlannedDispatch>> {
        let fault = |rule: &'static str, got: String| RopeError::Buffer {
            operand: "positions",
            rule: rule.into(),
            got,
        };
        let axes = self.spec.axes();
        // Constant start, rows of a run, and the strides of the list.
        let (start, run, axis_stride, id_stride) = match source {
            PositionSource::From(start) => (start, self.rows, 0, 0),
            PositionSource::Runs(0) => {
                return Err(fault("rows of a sequence must be at least 1", "0".into()));
            }
            PositionSource::Runs(run) => (0, run, 0, 1),
            PositionSource::PerAxis(order) | PositionSource::Coordinates(order) => {
                let (axis_stride, id_stride) = order.strides(axes);
                (0, 1, axis_stride, id_stride)
            }
        };
        let counted = matches!(source, PositionSource::From(_));
        let coordinates = matches!(source, PositionSource::Coordinates(_));
        let f32_angles = matches!(self.spec.content, Content::Frequencies(_, Angles::F32));
        if coordinates && !f32_angles {
            return Err(RopeError::table(
                "must have f32 angles for coordinates",
                "exact angles, or given cos and sin",
            ));
        }
        let scaled = self.spec.query_scale.is_some();
        if coordinates && scaled {
            return Err(RopeError::table(
                "must be without a query scale for coordinates",
                "one with it",
            ));
        }
        if !counted && !positions.start.is_multiple_of(4) {
            return Err(fault(
                "byte offset must be a multiple of 4",
                positions.start.to_string(),
            ));
        }
        let listed = positions.end.saturating_sub(positions.start) / 4;
        let rows = self.rows_served(source, listed);
        if rows == 0 {
            return Err(if counted {
                fault("must start within the given cos and sin", start.to_string())
            } else {
                let rule = "must hold the position of at least one row";
                fault(rule, format!("{listed} of them, for {axes} axes"))
            });
        }

        let mut bindings = vec![
            PlannedBinding::uniform(UNIFORM_WORDS),
            PlannedBinding::write(2, Resource::Rows, 0..self.bytes()),
        ];
        let mut first = 0;
        if !counted {
            // No more of the buffer is bound than is read.
            let last = u64::from(axes - 1) * u64::from(axis_stride)
                + u64::from((rows - 1) / run) * u64::from(id_stride);
            let read = positions.start..positions.start + (last + 1) * 4;
            let bound;
            (bound, first) = self.bound("positions", read)?;
            bindings.push(PlannedBinding::read(3, Resource::Positions, bound));
        }
        let mut given = [0; 4];
        let mut element = ElementType::F32;
        if let Content::CosSin(layout) = &self.spec.content {
            let bytes = layout.bytes()?;
            let mut firsts = [0; 2];
            let sides = [(4, Resource::Cos), (5, Resource::Sin)];
            for ((slot, (binding, resource)), start) in firsts.iter_mut().zip(sides).zip(cos_sin) {
                if !start.is_multiple_of(4) {
                    return Err(RopeError::Buffer {
                        operand: "cos and sin",
                        rule: "byte offset must be a multiple of 4".into(),
                        got: start.to_string(),
                    });
                }
                let end = start.checked_add(bytes).ok_or_else(|| {
                    RopeError::overflow("cos and sin", "byte offsets must fit u64")
                })?;
                let (bound, first) = self.bound("cos and sin", start..end)?;
                *slot = first;
                bindings.push(PlannedBinding::read(binding, resource, bound));
            }
            given = [layout.positions, layout.columns, firsts[0], firsts[1]];
            element = layout.element;
        } else {
            let bytes = self.pairs.len() as u64 * 4;
            bindings.insert(1, PlannedBinding::read(1, Resource::Pairs, 0..bytes));
        }

        // An f32 frequency has its sign in its own bits.
        let mut pairs = self.pairs.chunks_exact(8).take(self.width as usize);
        let signed = !f32_angles && pairs.any(|words| words[4] != 0);
        let workgroup = self
            .width
            .next_multiple_of(8)
            .min(64)
            .min(self.limits.invocations());
        let (across, parts) = in_parts("table", &self.limits, (self.width, workgroup), rows)?;
        let faults = u32::try_from(self.row_bytes() / 4)
            .map_err(|_| RopeError::overflow("table", "words must fit u32"))?;
        let flag = |value: bool| f64::from(u8::from(value));
        Ok(parts
            .map(|range| PlannedDispatch {
                module: Module::Table,
                entry_point: match (&self.spec.content, counted, coordinates) {
                    (Content::CosSin(_), true, _) => "copy_counted",
                    (Content::CosSin(_), false, _) => "copy_listed",
                    (_, true, _) => "fill_counted",
                    (_, false, false) => "fill_listed",
                    (_, false, true) => "fill_coordinates",
                },
                constants: vec![
                    ("WORKGROUP", workgroup.into()),
                    ("SCALED", flag(!self.factor.is_unit())),
                    ("F32_ANGLES", flag(f32_angles)),
                    ("SIGNED", flag(signed)),
                    ("ELEMENT", element.constant()),
                    ("BACKWARD", flag(self.direction() != Direction::Forward)),
                    ("DIVIDED", flag(self.direction() == Direction::Inverse)),
                    ("QUERY_SCALE", flag(scaled)),
                ],
                uniform: vec![
                    rows,
                    self.width,
                    self.row_stride(),
                    run,
                    u32::from_ne_bytes(start.to_ne_bytes()),
                    first,
                    axis_stride,
                    id_stride,
                    range.start,
                    faults,
                    0,
                    0,
                    given[0],
                    given[1],
                    given[2],
                    given[3],
                    self.factor.mantissa,
                    u32::from_ne_bytes(self.factor.exponent.to_ne_bytes()),
                    u32::from(self.factor.negative) << 31,
                    0,
                ],
                bindings: bindings.clone(),
                across,
                batch: 1,
                range,
            })
            .collect())
    }

    /// What is bound for some bytes of a buffer, which begins on the alignment, and the rest of the offset in words.
    pub(super) fn bound(
        &self,
        operand: &'static str,
        bytes: Range<u64>,
    ) -> Result<(Range<u64>, u32)> {
        let bound = self.limits.aligned(bytes.clone());
        self.limits
            .check_binding(operand, bound.end - bound.start)?;
        let first = u32::try_from((bytes.start - bound.start) / 4)
            .map_err(|_| RopeError::overflow(operand, "offset must fit u32"))?;
        Ok((bound, first))
    }
}

/// Words of the uniform buffers of `shaders/table.wgsl` and `shaders/slots.wgsl`.
pub(super) const UNIFORM_WORDS: usize = 20;

/// The words of [`TablePlan::pairs`].
fn pair_words(frequencies: &Frequencies, angles: Angles, direction: Direction) -> Result<Vec<u32>> {
    let rates = frequencies.turn_rates(direction)?;
    let pairs = frequencies.pairs().iter().zip(rates);
    let mut words: Vec<u32> = pairs
        .zip(frequencies.f32_rates(direction))
        .flat_map(|((pair, rate), nearest)| {
            let [a, b, c, d] = rate.words();
            let sign = u32::from(rate.negative) << 31;
            [a, b, c, d, sign, pair.axis, nearest.to_bits(), 0]
        })
        .collect();
    if angles == Angles::F32 {
        words.extend((MIN_F32_EXPONENT..=MAX_F32_EXPONENT).flat_map(|exponent| {
            TurnRate {
                magnitude: f32_weight(exponent),
                negative: false,
            }
            .words()
        }));
    }
    Ok(words)
}
