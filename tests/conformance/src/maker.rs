//! Plans and the CPU twin put together to vectors: what dispatches bind, and what has to be in their buffers afterwards.

mod layer;

use std::collections::BTreeMap;

use wgpu_rope::half::{bf16, f16};
use wgpu_rope::reference::SlotLists;
use wgpu_rope::{
    AxisOrder, CosSinLayout, Element, ElementType, Frequencies, HeadLayout, LAYER_WGSL, Limits,
    Placement, PlannedDispatch, PositionSource, QueryScale, ROTATE_WGSL, Resource, RopeConfig,
    RopePlan, RotateSpec, RowPositions, Rows, SlotRanges, SlotSource, Storage, TABLE_WGSL,
    TablePlan, TableSpec, reference, turns,
};

pub(crate) use layer::Layer;

use crate::vectors::{Access, Binding, Buffer, Dispatch, Failure, Values, Vector, Vectors};

/// Vectors being made.
#[derive(Debug)]
pub(crate) struct Maker {
    vectors: Vectors,
    random: u32,
}

/// What nobody writes is this before and has to be this after.
const CANARY: u32 = 0xa5c3_5a3c;
const IDENTITY: [u32; 2] = [0x3f80_0000, 0];

/// Where the positions of a table come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    From(i32),
    Runs(&'a [i32], u32),
    PerAxis(&'a [i32], AxisOrder),
    Coordinates(&'a [f32], AxisOrder),
}

/// A fill of a table from frequencies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fill<'a> {
    pub(crate) spec: &'a TableSpec,
    pub(crate) frequencies: &'a Frequencies,
    pub(crate) source: Source<'a>,
    pub(crate) rows: u32,
    pub(crate) limits: Limits,
}

/// A copy of a caller's own cos and sin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copied<'a, T> {
    pub(crate) spec: &'a TableSpec,
    pub(crate) layout: CosSinLayout,
    pub(crate) cos: &'a [T],
    pub(crate) sin: &'a [T],
    /// Ids, or none for all rows of the cache in turn.
    pub(crate) ids: Option<&'a [i32]>,
    /// Entries that cannot be divided, of the rows that are copied.
    pub(crate) undivided: u32,
}

/// What fills make of a table's buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Filled<'a> {
    entries: &'a [[u32; 2]],
    faults: u32,
    skipped: u32,
    slots: &'a [i32],
    scales: &'a [f32],
}

/// A fill of slots, behind rows that nobody fills.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots<'a> {
    pub(crate) source: SlotSource,
    pub(crate) lists: SlotLists<'a>,
    pub(crate) limits: Limits,
}

/// What chooses heads of an invocation, its workgroup, and the like.
pub(crate) type Shape = fn(RotateSpec) -> RotateSpec;

/// A rotation of tensors.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    pub(crate) config: RopeConfig,
    pub(crate) frequencies: Frequencies,
    pub(crate) batch: u32,
    pub(crate) tokens: u32,
    pub(crate) query: (HeadLayout, ElementType),
    pub(crate) key: Option<(HeadLayout, ElementType)>,
    pub(crate) rows: Rows,
    pub(crate) placement: Placement,
    pub(crate) limits: Limits,
    pub(crate) shape: Shape,
}

impl Rotation {
    /// Of a tensor at the start of its buffer, planned for a GPU.
    pub(crate) fn new(
        config: &RopeConfig,
        tokens: u32,
        query: HeadLayout,
        element: ElementType,
    ) -> Result<Self, Failure> {
        Ok(Self {
            config: config.clone(),
            frequencies: Frequencies::new(config)?,
            batch: 1,
            tokens,
            query: (query, element),
            key: None,
            rows: Rows::Shared,
            placement: Placement::default(),
            limits: Limits::default(),
            shape: |spec| spec,
        })
    }

    fn alone(&self, (layout, element): (HeadLayout, ElementType)) -> RotateSpec {
        RotateSpec::new(&self.config, self.batch, self.tokens, layout, element)
            .with_rows(self.rows)
            .with_frequencies(&self.frequencies)
    }

    fn spec(&self) -> RotateSpec {
        let spec = (self.shape)(self.alone(self.query));
        match self.key {
            Some((layout, element)) => spec.with_key(layout, element),
            None => spec,
        }
    }
}

impl Maker {
    pub(crate) fn new() -> Self {
        let modules = [
            ("table", TABLE_WGSL),
            ("rotate", ROTATE_WGSL),
            ("layer", LAYER_WGSL),
        ];
        Self {
            vectors: Vectors {
                made_by: concat!("wgpu-rope ", env!("CARGO_PKG_VERSION")).to_owned(),
                modules: modules
                    .map(|(name, text)| (name.to_owned(), text.to_owned()))
                    .into(),
                vectors: Vec::new(),
                bytes: Vec::new(),
            },
            random: 1,
        }
    }

    pub(crate) fn finish(self) -> Vectors {
        self.vectors
    }

    /// A number of 32 bits; the generator is Knuth's, of which the upper bits count.
    pub(crate) fn random(&mut self) -> u32 {
        let mut half = || {
            self.random = self
                .random
                .wrapping_mul(1_664_525)
                .wrapping_add(1_013_904_223);
            self.random >> 16
        };
        (half() << 16) | half()
    }

    fn push(&mut self, bytes: &[u8]) -> usize {
        let start = self.vectors.bytes.len();
        self.vectors.bytes.extend(bytes);
        start
    }

    fn input(&mut self, vector: &mut Vector, words: &[u32]) -> usize {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        vector.buffers.push(Buffer {
            size: bytes.len(),
            initial: self.push(bytes),
            expected: None,
            values: Values::U32,
            within: 0.0,
        });
        vector.buffers.len() - 1
    }

    fn output(
        &mut self,
        vector: &mut Vector,
        (values, within): (Values, f64),
        initial: &[u8],
        expected: &[u8],
    ) -> usize {
        vector.buffers.push(Buffer {
            size: initial.len(),
            initial: self.push(initial),
            expected: Some(self.push(expected)),
            values,
            within,
        });
        vector.buffers.len() - 1
    }

    /// A planned dispatch, whose uniform gets a buffer of its own.
    fn dispatch(
        &mut self,
        vector: &mut Vector,
        module: &str,
        planned: &PlannedDispatch,
        count: u32,
        buffer: impl Fn(Resource) -> usize,
    ) -> Result<(), Failure> {
        let mut bindings = Vec::new();
        for bound in &planned.bindings {
            let buffer = match bound.resource {
                Resource::Uniform => self.input(vector, &planned.uniform),
                other => buffer(other),
            };
            bindings.push(Binding {
                binding: bound.binding,
                access: match bound.access {
                    wgpu_rope::Access::Uniform => Access::Uniform,
                    wgpu_rope::Access::ReadOnly => Access::ReadOnlyStorage,
                    wgpu_rope::Access::ReadWrite => Access::Storage,
                    other => return Err(format!("an unknown access {other:?}").into()),
                },
                buffer,
                offset: usize::try_from(bound.bytes.start)?,
                size: usize::try_from(bound.bytes.end - bound.bytes.start)?,
            });
        }
        let constants = planned.constants.iter();
        vector.dispatches.push(Dispatch {
            module: module.to_owned(),
            entry_point: planned.entry_point.to_owned(),
            constants: constants
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect::<BTreeMap<_, _>>(),
            workgroups: planned.workgroups(count),
            bindings,
        });
        Ok(())
    }

    fn vector(group: &str, name: &str) -> Vector {
        Vector {
            group: group.to_owned(),
            name: name.to_owned(),
            buffers: Vec::new(),
            dispatches: Vec::new(),
        }
    }

    /// The rows of a table from frequencies, and what is behind them.
    pub(crate) fn fill(&mut self, group: &str, name: &str, fill: Fill<'_>) -> Result<(), Failure> {
        let mut vector = Self::vector(group, name);
        self.add_fill(&mut vector, fill)?;
        self.vectors.vectors.push(vector);
        Ok(())
    }

    /// Returns the buffer of the rows.
    fn add_fill(&mut self, vector: &mut Vector, fill: Fill<'_>) -> Result<usize, Failure> {
        let Fill {
            spec,
            frequencies,
            source,
            rows,
            ref limits,
        } = fill;
        let plan = TablePlan::new(spec, rows, limits)?;
        let axes = frequencies.axes();
        let (kind, words) = match source {
            Source::From(start) => (PositionSource::From(start), None),
            Source::Runs(ids, run) => (PositionSource::Runs(run), Some(of_i32(ids))),
            Source::PerAxis(ids, order) => (PositionSource::PerAxis(order), Some(of_i32(ids))),
            Source::Coordinates(values, order) => (
                PositionSource::Coordinates(order),
                Some(values.iter().map(|value| value.to_bits()).collect()),
            ),
        };
        let listed = words.as_ref().map_or(0, Vec::len);
        let served = plan.rows_served(kind, listed as u64);
        let count =
            |start: i32, run: u32| (0..run.cast_signed()).map(move |row| start.wrapping_add(row));
        let ids: Vec<_> = match source {
            Source::From(start) => count(start, rows).collect(),
            Source::Runs(ids, run) => ids.iter().flat_map(|&start| count(start, run)).collect(),
            _ => Vec::new(),
        };
        let positions = match source {
            Source::PerAxis(ids, order) => RowPositions::IdsPerAxis(ids, order),
            Source::Coordinates(values, order) => RowPositions::Coordinates(values, order),
            _ => RowPositions::Ids(&ids),
        };
        let mut expected = reference::table(spec, positions)?;
        expected.truncate(served as usize * frequencies.len());
        let mut scales = match spec.query_scale() {
            Some(_) => reference::query_scales(spec, positions)?,
            None => Vec::new(),
        };
        scales.truncate(served as usize);
        // One for each pair that has no angle.
        let mut faults = 0;
        if let Source::Coordinates(values, order) = source {
            let rates: Vec<_> = frequencies.f32_rates(plan.direction()).collect();
            let factor = frequencies.factor(plan.direction())?;
            for row in 0..served as usize {
                for (pair, &rate) in frequencies.pairs().iter().zip(&rates) {
                    let axis = pair.axis as usize;
                    let at = match order {
                        AxisOrder::First { rows } => axis * rows as usize + row,
                        AxisOrder::Last => row * axes as usize + axis,
                    };
                    faults += u32::from(turns::cos_sin_f32(values[at], rate, factor).is_none());
                }
            }
        }
        let within = (Values::F32, table_within(frequencies.attention_factor()));
        // Ids begin past the first alignment, and not on the next one.
        let lead = words.as_ref().map_or(0, |_| 67);
        let positions =
            words.map(|words| self.input(vector, &[vec![CANARY; lead], words].concat()));
        let range = lead as u64 * 4..(lead + listed) as u64 * 4;
        let pairs = self.input(vector, plan.pairs());
        let bits: Vec<_> = expected
            .iter()
            .map(|entry| entry.map(f32::to_bits))
            .collect();
        let filled = Filled {
            entries: &bits,
            faults,
            scales: &scales,
            ..Filled::default()
        };
        let table = self.add_rows(vector, &plan, within, filled);
        for planned in plan.fill(kind, range, [0; 2])? {
            self.dispatch(
                vector,
                "table",
                &planned,
                served,
                |resource| match resource {
                    Resource::Pairs => pairs,
                    Resource::Positions => positions.unwrap_or(pairs),
                    _ => table,
                },
            )?;
        }
        Ok(table)
    }

    /// The buffer of a table: canaries where nothing is written.
    fn add_rows(
        &mut self,
        vector: &mut Vector,
        plan: &TablePlan,
        within: (Values, f64),
        filled: Filled<'_>,
    ) -> usize {
        let (initial, expected) = Self::rows_of(plan, filled);
        self.output(
            vector,
            within,
            bytemuck::cast_slice(&initial),
            bytemuck::cast_slice(&expected),
        )
    }

    /// What it holds before and after.
    fn rows_of(plan: &TablePlan, filled: Filled<'_>) -> (Vec<u32>, Vec<u32>) {
        let (width, stride) = (plan.width() as usize, plan.row_stride() as usize);
        let word = |bytes: u64| usize::try_from(bytes / 4).unwrap_or(usize::MAX);
        let mut initial = vec![CANARY; word(plan.bytes())];
        // Faults are added to what is there, and so are skipped tokens.
        let counts = word(plan.row_bytes());
        initial[counts] = 5;
        let mut expected = initial.clone();
        for (row, entries) in filled.entries.chunks(width).enumerate() {
            let row = &mut expected[row * stride * 2..][..width * 2];
            row.copy_from_slice(entries.as_flattened());
        }
        expected[counts] += filled.faults;
        expected[counts + 1] = CANARY.wrapping_add(filled.skipped);
        for (at, slot) in filled.slots.iter().enumerate() {
            expected[word(plan.slots_start()) + at] = slot.cast_unsigned();
        }
        for (row, scale) in filled.scales.iter().enumerate() {
            let entry = &mut expected[word(plan.factors_start()) + 2 * row..][..2];
            entry.copy_from_slice(&[scale.to_bits(), 0]);
        }
        (initial, expected)
    }

    /// The slots of a table, and what is around them.
    pub(crate) fn slots(
        &mut self,
        group: &str,
        name: &str,
        slots: Slots<'_>,
    ) -> Result<(), Failure> {
        let Slots {
            source,
            lists,
            limits,
        } = slots;
        let mut vector = Self::vector(group, name);
        let (made, skipped) = reference::slots(&source, lists)?;
        // Room for some more, and rows and scales that are left alone.
        let frequencies = Frequencies::new(&RopeConfig::new(6))?;
        let spec = TableSpec::new(&frequencies)
            .with_slots(u32::try_from(made.len())? + 3)
            .with_query_scale(QueryScale::from_values(vec![1.0], 1, 0)?);
        let plan = TablePlan::new(&spec, 3, &limits)?;
        // Each list in a buffer of its own, past the first alignment and not on the next one.
        let mut list = |lead: usize, list: &[i32]| {
            let buffer = self.input(
                &mut vector,
                &[vec![CANARY; lead], of_i32(list), vec![CANARY]].concat(),
            );
            (buffer, lead as u64 * 4..(lead + list.len()) as u64 * 4)
        };
        let (positions, position_bytes) = list(67, lists.positions);
        let (sequences, sequence_bytes) = list(2, lists.sequences);
        let (block_table, page_bytes) = list(129, lists.block_table);
        let filled = Filled {
            skipped,
            slots: &made,
            ..Filled::default()
        };
        let table = self.add_rows(&mut vector, &plan, (Values::U32, 0.0), filled);
        let ranges = SlotRanges {
            positions: position_bytes,
            sequences: sequence_bytes,
            block_table: page_bytes,
        };
        for planned in plan.fill_slots(&source, &ranges)? {
            let buffer = |resource| match resource {
                Resource::SlotMapping | Resource::Positions => positions,
                Resource::Sequences => sequences,
                Resource::BlockTable => block_table,
                _ => table,
            };
            self.dispatch(&mut vector, "table", &planned, source.tokens(), buffer)?;
        }
        self.vectors.vectors.push(vector);
        Ok(())
    }

    /// The rows of a table from a caller's own cos and sin.
    pub(crate) fn copy<T: Element>(
        &mut self,
        group: &str,
        name: &str,
        copied: Copied<'_, T>,
    ) -> Result<(), Failure> {
        let Copied {
            spec,
            layout,
            cos,
            sin,
            ids,
            undivided,
        } = copied;
        let mut vector = Self::vector(group, name);
        let cached = i32::try_from(layout.positions)?;
        let all: Vec<_> = (0..cached).collect();
        let rows = ids.unwrap_or(&all);
        let plan = TablePlan::new(spec, u32::try_from(rows.len())?, &Limits::default())?;
        let inside = |id: &i32| (0..cached).contains(id);
        let known: Vec<_> = rows.iter().copied().filter(inside).collect();
        let mut made = reference::table_from_cos_sin(spec, cos, sin, &known)?
            .into_iter()
            .map(|entry| entry.map(f32::to_bits));
        let width = plan.width() as usize;
        let expected: Vec<_> = rows
            .iter()
            .flat_map(|id| -> Vec<[u32; 2]> {
                match inside(id) {
                    true => made.by_ref().take(width).collect(),
                    false => vec![IDENTITY; width],
                }
            })
            .collect();
        let faults = u32::try_from(rows.len() - known.len())? + undivided;
        // Values start at words of their own past the alignment.
        let leads = [65_usize, 2];
        let mut side = |lead: usize, values: &[T]| {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            let mut words = vec![CANARY; lead];
            words.extend(bytes.chunks(4).map(|chunk| {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                u32::from_le_bytes(word)
            }));
            self.input(&mut vector, &words)
        };
        let (cos, sin) = (side(leads[0], cos), side(leads[1], sin));
        let positions = ids.map(|ids| self.input(&mut vector, &of_i32(ids)));
        let within = (Values::F32, table_within(2.0));
        let filled = Filled {
            entries: &expected,
            faults,
            ..Filled::default()
        };
        let table = self.add_rows(&mut vector, &plan, within, filled);
        let source = ids.map_or(PositionSource::From(0), |_| PositionSource::Runs(1));
        let starts = leads.map(|lead| lead as u64 * 4);
        for planned in plan.fill(source, 0..rows.len() as u64 * 4, starts)? {
            let buffer = |resource| match resource {
                Resource::Cos => cos,
                Resource::Sin => sin,
                Resource::Positions => positions.unwrap_or(table),
                _ => table,
            };
            self.dispatch(&mut vector, "table", &planned, plan.rows(), buffer)?;
        }
        self.vectors.vectors.push(vector);
        Ok(())
    }

    /// A rotation with rows that the CPU made.
    pub(crate) fn rotate(
        &mut self,
        group: &str,
        name: &str,
        rotation: &Rotation,
    ) -> Result<(), Failure> {
        self.rotate_with(group, name, rotation, None)
    }

    /// A rotation with the table that a fill makes before it, or with rows that the CPU made.
    pub(crate) fn rotate_with(
        &mut self,
        group: &str,
        name: &str,
        rotation: &Rotation,
        fill: Option<Fill<'_>>,
    ) -> Result<(), Failure> {
        let Rotation {
            frequencies,
            placement,
            limits,
            ..
        } = rotation;
        let spec = rotation.spec();
        let mut vector = Self::vector(group, name);
        let needed = usize::try_from(spec.rows_needed(spec.tokens()))?;
        let table = TableSpec::new(frequencies);
        let (rows, at) = match fill {
            None => {
                let ids: Vec<_> = POSITIONS.into_iter().cycle().take(needed).collect();
                let rows = reference::table(&table, (&ids).into())?;
                let plan = TablePlan::new(&table, u32::try_from(needed)?, limits)?;
                let (width, stride) = (plan.width() as usize, plan.row_stride() as usize);
                let mut words = vec![CANARY; needed * stride * 2];
                for (row, entries) in rows.chunks(width).enumerate() {
                    let bits: Vec<_> = entries
                        .iter()
                        .map(|entry| entry.map(f32::to_bits))
                        .collect();
                    words[row * stride * 2..][..width * 2].copy_from_slice(bits.as_flattened());
                }
                (rows, self.input(&mut vector, &words))
            }
            Some(fill) => {
                let Source::PerAxis(ids, order) = fill.source else {
                    return Err("a fill before a rotation lists ids for each axis".into());
                };
                let rows = reference::table(fill.spec, RowPositions::IdsPerAxis(ids, order))?;
                (rows, self.add_fill(&mut vector, fill)?)
            }
        };

        let plan = RopePlan::new(&spec, limits)?;
        let operands = spec.operands()?;
        let query_bytes = operands[0].1;
        let key_bytes = operands.get(1).map(|(_, bytes)| *bytes);
        // Each buffer with some words behind the view.
        let mut sizes = vec![placement.query + query_bytes + 24];
        if let Some(bytes) = key_bytes {
            let size = placement.key + bytes + 24;
            match placement.shared {
                true => sizes[0] = sizes[0].max(size),
                false => sizes.push(size),
            }
        }
        let mut types = vec![rotation.query.1];
        types.extend(rotation.key.map(|(_, element)| element));
        let mut contents = Vec::new();
        for (size, &element) in sizes.iter().zip(&types) {
            contents.push(self.noise(usize::try_from(*size)?, element));
        }
        let mut expected = contents.clone();
        let mut turn =
            |(layout, element): (HeadLayout, ElementType), offset: u64, buffer: usize| {
                let moved = layout.with_offset(layout.offset + offset / element.bytes());
                twin(
                    &rotation.alone((moved, element)),
                    &rows,
                    &mut expected[buffer],
                )
            };
        turn(rotation.query, placement.query, 0)?;
        if let Some(key) = rotation.key {
            turn(key, placement.key, usize::from(!placement.shared))?;
        }
        let first = vector.buffers.len();
        for ((initial, expected), &element) in contents.iter().zip(&expected).zip(&types) {
            let within = (
                values_of(element)?,
                rotation_within(frequencies.attention_factor(), element),
            );
            self.output(&mut vector, within, initial, expected);
        }
        for planned in plan.dispatches(*placement)? {
            let buffer = |resource| match resource {
                Resource::Rows => at,
                Resource::Tensor(wgpu_rope::Operand::Key) => first + 1,
                _ => first,
            };
            self.dispatch(&mut vector, "rotate", &planned, spec.tokens(), buffer)?;
        }
        self.vectors.vectors.push(vector);
        Ok(())
    }

    /// Values from 2^-5 to 4 of both signs.
    fn noise(&mut self, size: usize, element: ElementType) -> Vec<u8> {
        let mut value = || {
            let word = self.random();
            let magnitude = 0x3d00_0000 + (word & 0x7fff_ffff) % 0x0380_0000;
            f32::from_bits((word & 0x8000_0000) | magnitude)
        };
        let count = size / if element.bytes() == 4 { 4 } else { 2 };
        (0..count)
            .flat_map(|_| match element {
                ElementType::F16 => f16::from_f32(value()).to_le_bytes().to_vec(),
                ElementType::Bf16 => bf16::from_f32(value()).to_le_bytes().to_vec(),
                _ => value().to_le_bytes().to_vec(),
            })
            .collect()
    }
}

/// Positions of rotations: both ends of i32, and what lies between.
pub(crate) const POSITIONS: [i32; 9] = [
    4095,
    131_071,
    0,
    (1 << 24) + 1,
    i32::MIN,
    i32::MAX,
    -1,
    77,
    3,
];

fn of_i32(ids: &[i32]) -> Vec<u32> {
    ids.iter().map(|id| id.cast_unsigned()).collect()
}

fn values_of(element: ElementType) -> Result<Values, Failure> {
    match element {
        ElementType::F32 => Ok(Values::F32),
        ElementType::F16 => Ok(Values::F16),
        ElementType::Bf16 => Ok(Values::Bf16),
        other => Err(format!("{other:?} is new here").into()),
    }
}

/// Rotates with the twin what a buffer holds.
fn twin(spec: &RotateSpec, rows: &[[f32; 2]], bytes: &mut [u8]) -> Result<(), Failure> {
    fn of<T: Element>(
        spec: &RotateSpec,
        rows: &[[f32; 2]],
        bytes: &mut [u8],
    ) -> Result<(), Failure> {
        let mut tensor: Vec<T> = bytemuck::pod_collect_to_vec(bytes);
        reference::rotate(spec, rows, &mut tensor, None)?;
        bytes.copy_from_slice(bytemuck::cast_slice(&tensor));
        Ok(())
    }
    match spec.query().storage() {
        Storage::Float(ElementType::F16) => of::<f16>(spec, rows, bytes),
        Storage::Float(ElementType::Bf16) => of::<bf16>(spec, rows, bytes),
        _ => of::<f32>(spec, rows, bytes),
    }
}

/// Entries are at most the factor, or one over it for the inverse: an f32 value of that size that is off by two units in its last place.
fn table_within(factor: f64) -> f64 {
    factor.abs().max(factor.abs().recip()) * 2_f64.powi(-22)
}

/// How far two rotations may be apart that round products and sums as they like. Channels are at most 4 and so each result is at most
/// M = 4 sqrt(2) |factor|. With u = 2^-24, either is within 3.01 u M of the truth (cos and sin, a product, the sum), and storing
/// it in 16 bits adds half a unit of the last place: 2^-11 M or 2^-8 M.
fn rotation_within(factor: f64, element: ElementType) -> f64 {
    let most = 4.0 * std::f64::consts::SQRT_2 * factor.abs();
    let stored = match element {
        ElementType::F16 => 2_f64.powi(-11),
        ElementType::Bf16 => 2_f64.powi(-8),
        _ => 0.0,
    };
    2.0 * most * (3.01 * 2_f64.powi(-24) + stored)
}
