//! Random valid rotations, as many as the environment asks for, on every adapter: every bit of every buffer against the CPU twin.
//!
//! `WGPU_ROPE_RANDOM_DISPATCHES` is the number of recorded rotations for each adapter (one that takes several dispatches counts once),
//! `WGPU_ROPE_RANDOM_SEED` one case to run alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Instant;

use common::case::Case;
use common::{CONTEXTS, NO_USAGE, contexts_with, name, row_bits, table_words};
use fastrand::Rng;
use wgpu_rope::config::AxisRun;
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    Angles, Axes, AxisOrder, CosSinTable, Direction, Element, ElementType, Frequencies, GpuContext,
    HeadLayout, Pair, Pairing, Positions, RopeConfig, RopeError, RowPositions, Rows, TableSpec,
    reference,
};

/// Of each adapter, where the environment does not say.
const DISPATCHES: usize = 500;

/// Where the positions of a table come from, and what they are.
#[derive(Debug, Clone)]
enum Source {
    From(i32),
    Start(i32),
    PerSequence(Vec<i32>, u32),
    Ids(Vec<i32>),
    PerAxis(Vec<i32>, AxisOrder),
    Coordinates(Vec<f32>, AxisOrder),
}

/// A case as it was drawn.
#[derive(Debug, Clone)]
struct Draw {
    case: Case,
    is_packed: bool,
    elements: [ElementType; 2],
    table: TableSpec,
    rows: u32,
    source: Source,
}

fn pick<T: Clone>(random: &mut Rng, of: &[T]) -> T {
    of[random.usize(0..of.len())].clone()
}

fn sometimes<T>(random: &mut Rng, one_in: u32, make: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    (random.u32(0..one_in) == 0).then(|| make(random))
}

fn draw(random: &mut Rng) -> Draw {
    let pairs = match random.u32(0..8) {
        0..4 => pick(random, &[4, 8, 16, 20, 32, 40, 48, 64]),
        4 => pick(random, &[1, 2, 3, 96, 128, 256]),
        _ => random.u32(1..70),
    };
    let spare = match random.u32(0..3) {
        0 => 0,
        1 => pick(random, &[8, 16, 64]),
        _ => random.u32(0..30),
    };
    let divisors: Vec<u32> = (1..=pairs).filter(|by| pairs.is_multiple_of(*by)).collect();
    let pairing = match random.u32(0..6) {
        0 | 1 => Pairing::HalfSplit,
        2 => Pairing::Interleaved,
        3 => Pairing::HalfSplitBlocks(pick(random, &divisors)),
        4 => Pairing::InterleavedToHalfSplit,
        _ => Pairing::HalfSplitToInterleaved,
    };
    let config = RopeConfig::new(2 * pairs + spare)
        .with_rotary_dim(2 * pairs)
        .with_rotary_offset(match random.u32(0..3) {
            0 => 0,
            1 => spare / 8 * 8,
            _ => random.u32(0..=spare),
        })
        .with_pairing(pairing)
        .with_theta(pick(random, &[100.0, 10_000.0, 500_000.0, 1e6]))
        .with_attention_factor(if random.bool() {
            1.0
        } else {
            0.5 + 1.5 * random.f64()
        });

    let all = [ElementType::F32, ElementType::F16, ElementType::Bf16];
    let first = pick(random, &all);
    let elements = [
        first,
        sometimes(random, 4, |random| pick(random, &all)).unwrap_or(first),
    ];
    let (case, is_packed) = tensors(random, &config, elements);
    let (table, angles) = spec_of_table(random, &config);
    let needed = case.spec::<f32>(case.query).rows_needed(case.tokens);
    let rows = u32::try_from(needed).unwrap() + random.u32(0..3);
    let source = source(random, (&table, angles), rows);
    Draw {
        case,
        is_packed,
        elements,
        table,
        rows,
        source,
    }
}

/// Shapes, layouts, and how the tensors lie in buffers.
fn tensors(random: &mut Rng, config: &RopeConfig, elements: [ElementType; 2]) -> (Case, bool) {
    let head_dim = config.head_dim();
    let (batch, tokens) = (random.u32(1..4), random.u32(1..10));
    let key_heads = random.u32(1..5);
    let query_heads = if random.bool() {
        // Grouped queries.
        key_heads * random.u32(1..5)
    } else {
        random.u32(1..10)
    };
    let is_narrow = |element: ElementType| element.bytes() == 2;
    let mut case = Case::new(config, batch, tokens, HeadLayout::bshd(tokens, 1, head_dim));
    let one_size = elements[0].bytes() == elements[1].bytes();
    let is_whole = head_dim.is_multiple_of(2) || !is_narrow(elements[0]);
    let is_packed = one_size && is_whole && random.u8(0..5) == 0;
    if is_packed {
        // Packed [Q, K, V], or K in front.
        let spare = random.u32(0..3);
        let heads = query_heads + key_heads + spare;
        let (query_at, key_at) = if random.bool() {
            (0, query_heads + spare)
        } else {
            (key_heads, 0)
        };
        let packed = |first, count| HeadLayout::packed(tokens, heads, first, count, head_dim);
        case.query = packed(query_at, query_heads);
        case.key = Some(packed(key_at, key_heads));
        case.shared = true;
    } else {
        let [query, key] =
            [(query_heads, elements[0]), (key_heads, elements[1])].map(|(heads, element)| {
                view(random, [batch, tokens, heads], head_dim, is_narrow(element))
            });
        case.query = query;
        case.key = (random.u8(0..4) > 0).then_some(key);
        case.shared = case.key.is_some() && random.u8(0..3) == 0;
    }
    case.rows = pick(
        random,
        &[Rows::Shared, Rows::PerToken, Rows::PerSequence, Rows::One],
    );
    case.heads_per_invocation = sometimes(random, 3, |random| random.u32(1..9));
    case.heads_at_once = sometimes(random, 3, |random| random.u32(1..5));
    case.workgroup = sometimes(random, 4, |random| pick(random, &[1, 7, 8, 32, 33, 64]));
    case.rotated_pairs = sometimes(random, 5, |random| random.u32(1..=config.rotary_dim() / 2));
    case.as_gpu = random.bool();
    // Small enough that some tensors are cut into windows.
    case.binding = sometimes(random, 8, |random| 1 << random.u32(12..16));
    case.grid = sometimes(random, 8, |random| random.u32(5..20));
    (case, is_packed)
}

/// Axes in any order, from the innermost on, each with a gap behind it.
fn view(
    random: &mut Rng,
    [batch, tokens, heads]: [u32; 3],
    head_dim: u32,
    is_narrow: bool,
) -> HeadLayout {
    let unit = pick(random, &[1 + u64::from(is_narrow), 2, 4, 8, 8, 16]);
    let mut order = [(0, batch), (1, tokens), (2, heads)];
    if random.bool() {
        random.shuffle(&mut order);
    } else {
        order.reverse();
    }
    let mut strides = [0; 3];
    let mut extent = u64::from(head_dim);
    for (axis, count) in order {
        let gap = sometimes(random, 3, |random| random.u64(0..20));
        let stride = (extent + gap.unwrap_or(0)).next_multiple_of(unit);
        strides[axis] = stride;
        extent = stride * u64::from(count);
    }
    let [batch_stride, token_stride, head_stride] = strides;
    HeadLayout::bshd(tokens, heads, head_dim)
        .with_strides(batch_stride, token_stride, head_stride)
        .with_offset(unit * sometimes(random, 3, |random| random.u64(0..9)).unwrap_or(0))
}

/// Where the buffers' slices start: new for each round of a case.
fn place(random: &mut Rng, case: &mut Case, is_packed: bool, elements: [ElementType; 2]) {
    let some = |random: &mut Rng| match random.u32(0..4) {
        0 => 0,
        1 | 2 => 16 * random.u64(0..20),
        _ => 4 * random.u64(0..80),
    };
    (case.query_offset, case.key_offset) = (some(random), some(random));
    let Some(key) = case.key.filter(|_| case.shared) else {
        return;
    };
    let end = |layout: HeadLayout, element: ElementType| {
        (layout.end(case.batch, case.tokens).unwrap() * element.bytes()).next_multiple_of(4)
    };
    if is_packed {
        case.key_offset = case.query_offset;
    } else if random.bool() {
        case.key_offset += case.query_offset + end(case.query, elements[0]);
    } else {
        case.query_offset += case.key_offset + end(key, elements[1]);
    }
}

/// A table for the pairs of a configuration: frequencies, direction, angles.
fn spec_of_table(random: &mut Rng, config: &RopeConfig) -> (TableSpec, Angles) {
    let pairs = config.rotary_dim() / 2;
    let frequencies = if random.bool() {
        let axes = match random.u32(0..8) {
            0 => {
                let first = random.u32(0..=pairs);
                let second = random.u32(0..=pairs - first);
                Axes::Sectioned(vec![first, second, pairs - first - second])
            }
            1 => Axes::Interleaved {
                height: random.u32(0..=pairs / 3),
                width: random.u32(0..=pairs / 3),
            },
            2 => Axes::SpatialFirst {
                each: random.u32(0..=pairs / 2),
            },
            3 => Axes::Alternating,
            4 => {
                let first = random.u32(1..=pairs);
                let runs = [(1, first), (0, pairs - first)];
                let runs = runs.into_iter().filter(|(_, pairs)| *pairs > 0);
                Axes::Axial(runs.map(|(axis, pairs)| AxisRun { axis, pairs }).collect())
            }
            5 if pairs.is_multiple_of(2) => Axes::AxialStrided(2),
            6 if pairs.is_multiple_of(2) => Axes::AxialAlternating,
            _ => Axes::One,
        };
        Frequencies::new(&config.clone().with_axes(axes)).unwrap()
    } else {
        let axes = pick(random, &[1, 1, 2, 3, 5]);
        let pairs: Vec<_> = (0..pairs)
            .map(|_| Pair {
                // 2^-40 to 2^4, either sign, some none.
                inv_freq: match random.u32(0..20) {
                    0 => 0.0,
                    sign => {
                        (random.f64() * 44.0 - 40.0).exp2() * [1.0, -1.0][usize::from(sign > 15)]
                    }
                },
                axis: random.u32(0..axes),
            })
            .collect();
        Frequencies::from_pairs(pairs, config.attention_factor()).unwrap()
    };
    let angles = pick(random, &[Angles::Exact, Angles::Exact, Angles::F32]);
    let spec = TableSpec::new(&frequencies)
        .with_direction(pick(
            random,
            &[Direction::Forward, Direction::Inverse, Direction::Adjoint],
        ))
        .with_angles(angles);
    (spec, angles)
}

fn source(random: &mut Rng, (table, angles): (&TableSpec, Angles), rows: u32) -> Source {
    let id = |random: &mut Rng| match random.u32(0..4) {
        0 => pick(random, &[0, 1, -1, i32::MAX, i32::MIN, (1 << 24) + 1]),
        1 => random.i32(..),
        _ => random.i32(-200_000..200_000),
    };
    let ids = |random: &mut Rng, count: u32| (0..count).map(|_| id(random)).collect();
    let axes = table.axes();
    let order = if random.bool() {
        AxisOrder::Last
    } else {
        AxisOrder::First {
            rows: rows + random.u32(0..3),
        }
    };
    let values = axes
        * match order {
            AxisOrder::First { rows } => rows,
            AxisOrder::Last => rows,
        };
    match random.u32(0..6) {
        0 => Source::From(id(random)),
        1 => Source::Start(id(random)),
        2 => {
            let run = random.u32(1..=rows);
            Source::PerSequence(ids(random, rows.div_ceil(run)), run)
        }
        3 => Source::Ids(ids(random, rows)),
        4 if angles == Angles::F32 => {
            let coordinate = |random: &mut Rng| (random.f32() - 0.5) * 2_000.0;
            Source::Coordinates((0..values).map(|_| coordinate(random)).collect(), order)
        }
        _ => Source::PerAxis(ids(random, values), order),
    }
}

impl Source {
    /// The same positions on the host.
    fn on_host(&self, rows: u32) -> (Vec<i32>, Vec<f32>, Option<AxisOrder>) {
        let at = |start: i32, row: u32| start.wrapping_add(row.cast_signed());
        match self {
            Self::From(start) | Self::Start(start) => {
                let ids = (0..rows).map(|row| at(*start, row)).collect();
                (ids, Vec::new(), None)
            }
            Self::PerSequence(starts, run) => {
                let ids = (0..rows).map(|row| at(starts[(row / run) as usize], row % run));
                (ids.collect(), Vec::new(), None)
            }
            Self::Ids(ids) => (ids.clone(), Vec::new(), None),
            Self::PerAxis(ids, order) => (ids.clone(), Vec::new(), Some(*order)),
            Self::Coordinates(values, order) => (Vec::new(), values.clone(), Some(*order)),
        }
    }

    /// A table of them on a device and, equal to it bit for bit, on the CPU.
    fn tables(
        &self,
        context: &GpuContext,
        spec: &TableSpec,
        rows: u32,
    ) -> wgpu_rope::Result<(CosSinTable, Vec<[f32; 2]>, usize)> {
        let table = context.kernel().table(spec, rows)?;
        let (ids, values, order) = self.on_host(rows);
        let buffer = match self {
            Self::From(_) => None,
            Self::Start(start) => Some(context.upload(&[*start], NO_USAGE)?),
            Self::PerSequence(starts, _) => Some(context.upload(starts, NO_USAGE)?),
            Self::Coordinates(values, _) => Some(context.upload(values, NO_USAGE)?),
            Self::Ids(ids) | Self::PerAxis(ids, _) => Some(context.upload(ids, NO_USAGE)?),
        };
        let slice = || buffer.as_ref().unwrap().slice(..);
        let positions = match self {
            Self::From(start) => Positions::From(*start),
            Self::Start(_) => Positions::Start(slice()),
            Self::PerSequence(_, rows) => Positions::StartPerSequence {
                starts: slice(),
                rows: *rows,
            },
            Self::Ids(_) => Positions::Ids(slice()),
            Self::PerAxis(_, order) => Positions::IdsPerAxis {
                ids: slice(),
                order: *order,
            },
            Self::Coordinates(_, order) => Positions::Coordinates {
                values: slice(),
                order: *order,
            },
        };
        let fill = table.bind_positions(positions)?;
        assert_eq!(fill.rows(), rows);
        context.run(|pass| fill.record(pass, rows))?;
        let twin = reference::table(
            spec,
            match (self, order) {
                (Self::Coordinates(..), Some(order)) => RowPositions::Coordinates(&values, order),
                (_, Some(order)) => RowPositions::IdsPerAxis(&ids, order),
                (_, None) => RowPositions::Ids(&ids),
            },
        )?;
        let entries = rows as usize * spec.pairs();
        let twin = twin[..entries].to_vec();
        let (words, faults) = table_words(context, &table);
        assert_eq!(faults, 0);
        assert!(
            words == row_bits(&twin, spec.pairs()),
            "{}: rows of {self:?}",
            name(context)
        );
        let grid = context
            .kernel()
            .limits()
            .max_compute_workgroups_per_dimension;
        Ok((table, twin, rows.div_ceil(grid) as usize))
    }
}

/// What was done on an adapter.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    /// Rotations that were recorded, of one token at least.
    rotations: usize,
    /// What they took, with those of tensors that were cut into windows.
    dispatches: usize,
    fills: usize,
    channels: usize,
    /// Cases whose own limits were too small for a head or the table, and were left out.
    without_limits: usize,
    /// Placements for which the small limits were too small.
    refused: usize,
    /// Placements that took several dispatches.
    several: usize,
    entry_points: BTreeSet<&'static str>,
}

/// Prints how to run a case alone where a test stops in it.
struct Rerun<'a>(u64, &'a Draw);

impl Drop for Rerun<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in {:?}", self.1);
            eprintln!("run it alone with WGPU_ROPE_RANDOM_SEED={}", self.0);
        }
    }
}

/// One case: a table, a plan, and rotations with them of different tensors, of different numbers of tokens, at different places.
fn run<Q: Element, K: Element>(
    contexts: &[&GpuContext; 2],
    random: &mut Rng,
    draw: &mut Draw,
    tally: &mut Tally,
) {
    let case = &mut draw.case;
    let is_small = |error: RopeError| {
        assert!(
            matches!(error, RopeError::Limit { .. } | RopeError::Count { .. }),
            "{error}"
        );
    };
    // Now and then on a device of small limits, where the table too takes several dispatches.
    let small = sometimes(random, 5, |_| contexts[1]).and_then(|context| {
        let made = draw.source.tables(context, &draw.table, draw.rows);
        let made = made.map_err(is_small).ok()?;
        let plan = case.plan::<Q, K>(context.kernel().limits());
        Some((context, made, plan.map_err(is_small).ok()?))
    });
    let (context, (table, rows, fills), plan) = small.unwrap_or_else(|| {
        let context = contexts[0];
        let limits = context.kernel().limits();
        let made = draw.source.tables(context, &draw.table, draw.rows).unwrap();
        let plan = case.plan::<Q, K>(limits).unwrap_or_else(|error| {
            is_small(error);
            tally.without_limits += 1;
            (case.binding, case.grid) = (None, None);
            case.plan::<Q, K>(limits).unwrap()
        });
        (context, made, plan)
    });
    let prepared = context.kernel().prepare(&plan).unwrap();
    tally.fills += fills;
    // A driver takes a tenth of a second and more for a pipeline, and a few milliseconds for a rotation.
    for round in 0..12 {
        place(random, case, draw.is_packed, draw.elements);
        let placement = wgpu_rope::Placement {
            query: case.query_offset,
            key: case.key_offset,
            shared: case.shared,
        };
        // Off 16 bytes a head takes more invocations, and a grid of a handful of workgroups may be too small for them.
        let planned = match plan.dispatches(placement) {
            Ok(planned) => planned,
            Err(error) => {
                is_small(error);
                tally.refused += 1;
                continue;
            }
        };
        tally.several += usize::from(planned.len() > 1);
        tally
            .entry_points
            .extend(planned.iter().map(|step| step.entry_point));
        let tokens: Vec<_> = match round {
            0 => vec![case.tokens],
            _ => (0..random.u32(1..4))
                .map(|_| random.u32(0..=case.tokens))
                .collect(),
        };
        let seed = random.u64(..);
        let compared =
            case.check_prepared::<Q, K>(context, &prepared, (&table, &rows), &tokens, seed);
        tally.channels += compared.channels;
        tally.rotations += compared.rotations;
        tally.dispatches += compared.dispatches;
    }
    tally.cases += 1;
}

fn run_seed(contexts: &[&GpuContext; 2], seed: u64, tally: &mut Tally) {
    let mut random = Rng::with_seed(seed);
    let mut draw = draw(&mut random);
    let drawn = draw.clone();
    let _rerun = Rerun(seed, &drawn);
    let by_types = match draw.elements {
        [ElementType::F32, ElementType::F32] => run::<f32, f32>,
        [ElementType::F32, ElementType::F16] => run::<f32, f16>,
        [ElementType::F32, ElementType::Bf16] => run::<f32, bf16>,
        [ElementType::F16, ElementType::F32] => run::<f16, f32>,
        [ElementType::F16, ElementType::F16] => run::<f16, f16>,
        [ElementType::F16, ElementType::Bf16] => run::<f16, bf16>,
        [ElementType::Bf16, ElementType::F32] => run::<bf16, f32>,
        [ElementType::Bf16, ElementType::F16] => run::<bf16, f16>,
        [ElementType::Bf16, ElementType::Bf16] => run::<bf16, bf16>,
        other => panic!("{other:?}"),
    };
    by_types(contexts, &mut random, &mut draw, tally);
}

#[test]
fn random_rotations_have_the_bits_of_the_twin() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let wanted = number("WGPU_ROPE_RANDOM_DISPATCHES")
        .map_or(DISPATCHES, |wanted: u64| usize::try_from(wanted).unwrap());
    let small = contexts_with(|limits| {
        limits.max_storage_buffer_binding_size = 1 << 14;
        limits.max_compute_workgroups_per_dimension = 7;
    });
    for contexts in CONTEXTS.iter().zip(&small) {
        let contexts = [contexts.0, contexts.1];
        let (mut tally, start) = (Tally::default(), Instant::now());
        if let Some(seed) = number("WGPU_ROPE_RANDOM_SEED") {
            run_seed(&contexts, seed, &mut tally);
        } else {
            for seed in 0.. {
                if tally.rotations >= wanted {
                    break;
                }
                run_seed(&contexts, seed, &mut tally);
            }
            // So many draws reach every path of the shader.
            assert!(
                wanted < DISPATCHES || tally.entry_points.len() == 8,
                "{tally:?}"
            );
        }
        eprintln!(
            "{} in {:.1?}: {tally:?}",
            name(contexts[0]),
            start.elapsed()
        );
    }
}
