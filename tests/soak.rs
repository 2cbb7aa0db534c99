//! Many dispatches on one device: memory does not grow, and the bits stay right.
//!
//! `WGPU_ROPE_SOAK_DISPATCHES` is the number of dispatches for each adapter.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::time::Instant;

use common::{CONTEXTS, NO_USAGE, name, values};
use wgpu_rope::{
    CosSinTable, Direction, ElementType, Frequencies, GpuContext, HeadLayout, Limits, Operands,
    Positions, PreparedRope, RopeConfig, RopeDispatch, RopePlan, RotateSpec, TableFill, TableSpec,
    reference,
};

/// On each adapter, where the environment does not say.
const DISPATCHES: usize = 100_000;

/// Rotations of a submission: the layers of a large model, forward and back.
const LAYERS: usize = 64;

const TOKENS: u32 = 4;

/// Memory that may be taken on after the first quarter: pages that allocators of drivers and of the C library keep in hand. A binding is a
/// bind group and, at a new place, a uniform buffer, which are more than a KiB of wgpu's objects; the other three quarters make 14,000
/// bindings, so losing one in seven would be seen.
const GROWTH: u64 = 2 << 20;

/// Bytes of this process that are resident; None where there is no way to ask.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// A table with its fill, there or back, and what rotates with it.
struct Way {
    table: CosSinTable,
    fill: TableFill,
    layers: Vec<RopeDispatch>,
}

struct Soak<'a> {
    context: &'a GpuContext,
    frequencies: Frequencies,
    prepared: PreparedRope,
    tensors: [wgpu::Buffer; 2],
    start: wgpu::Buffer,
}

impl Soak<'_> {
    fn way(&self, direction: Direction, rows: u32) -> Way {
        let spec = TableSpec::new(&self.frequencies).with_direction(direction);
        let table = self.context.kernel().table(&spec, rows).unwrap();
        let fill = self.fill(&table);
        let layers = self.layers(&table, 0);
        Way {
            table,
            fill,
            layers,
        }
    }

    fn fill(&self, table: &CosSinTable) -> TableFill {
        table
            .bind_positions(Positions::Start(self.start.slice(..)))
            .unwrap()
    }

    /// Bound to starts that are new again and again: 4,096 ways to lie relative to the planned alignment of 256 bytes, which is far more than
    /// are remembered.
    fn layers(&self, table: &CosSinTable, round: usize) -> Vec<RopeDispatch> {
        let [query, key] = &self.tensors;
        (0..LAYERS / 2)
            .map(|layer| {
                let place = (round * LAYERS / 2 + layer) as u64;
                let (query_from, key_from) = (4 * (place % 64), 4 * (place / 64 % 64));
                let operands =
                    Operands::new(query.slice(query_from..)).with_key(key.slice(key_from..));
                self.prepared.bind(&operands, table).unwrap()
            })
            .collect()
    }
}

fn soak(context: &GpuContext, dispatches: usize) {
    let config = RopeConfig::new(64);
    let layout = |heads| HeadLayout::bshd(TOKENS, heads, 64);
    let limits = Limits {
        min_storage_buffer_offset_alignment: 256,
        ..*context.kernel().limits()
    };
    let prepare = || {
        let spec = RotateSpec::new(&config, 1, TOKENS, layout(2), ElementType::F32)
            .with_key(layout(1), ElementType::F32);
        let plan = RopePlan::new(&spec, &limits).unwrap();
        context.kernel().prepare(&plan).unwrap()
    };
    let before = values(&mut fastrand::Rng::with_seed(81), 1024);
    let upload = || context.upload(&before, NO_USAGE).unwrap();
    let mut soak = Soak {
        context,
        frequencies: Frequencies::new(&config).unwrap(),
        prepared: prepare(),
        tensors: [upload(), upload()],
        start: context.upload(&[0_i32], NO_USAGE).unwrap(),
    };
    let mut ways = [Direction::Forward, Direction::Adjoint].map(|way| soak.way(way, TOKENS));
    let (mut recorded, mut submissions, mut warm) = (0, 0_usize, None);
    let begin = Instant::now();
    while recorded < dispatches {
        submissions += 1;
        let position = i32::try_from(submissions % 100_000).unwrap();
        context
            .queue()
            .write_buffer(&soak.start, 0, &position.to_le_bytes());
        // Other places now and then, and other tables.
        if submissions.is_multiple_of(5) {
            for way in &mut ways {
                way.layers = soak.layers(&way.table, submissions);
            }
        }
        if submissions.is_multiple_of(50) {
            // Planned anew, for pipelines that are there already.
            soak.prepared = prepare();
            let rows = TOKENS + u32::try_from(submissions / 50 % 7).unwrap();
            ways = [Direction::Forward, Direction::Adjoint].map(|way| soak.way(way, rows));
        }
        context
            .run(|pass| {
                for way in &ways {
                    way.fill.record(pass, TOKENS)?;
                    for layer in &way.layers {
                        layer.record(pass, TOKENS)?;
                    }
                }
                Ok(())
            })
            .unwrap();
        recorded += LAYERS + 2;
        if submissions.is_multiple_of(20) {
            check(&soak, &mut ways, &before, position);
        } else {
            context.wait().unwrap();
        }
        // A quarter: the cache of placements has been full and emptied, tables have been made anew.
        if warm.is_none() && recorded >= dispatches / 4 {
            warm = Some(resident());
        }
    }
    let (warm, end) = (warm.flatten(), resident());
    let rate = recorded as f64 / begin.elapsed().as_secs_f64();
    eprintln!(
        "{}: {recorded} dispatches in {submissions} submissions, {rate:.0} a second",
        name(context)
    );
    match (warm, end) {
        (Some(warm), Some(end)) => {
            eprintln!("resident: {} KiB, then {} KiB", warm >> 10, end >> 10);
            assert!(end < warm + GROWTH, "{}: {warm} to {end}", name(context));
        }
        _ => eprintln!("NOT MEASURED: there is no /proc/self/statm that tells of memory"),
    }
}

/// Rotates fresh tensors at the step's position, and compares.
fn check(soak: &Soak<'_>, ways: &mut [Way; 2], before: &[f32], position: i32) {
    let context = soak.context;
    for tensor in &soak.tensors {
        context
            .queue()
            .write_buffer(tensor, 0, bytemuck::cast_slice(before));
    }
    ways[0].layers = soak.layers(&ways[0].table, 0);
    context
        .run(|pass| {
            ways[0].fill.record(pass, TOKENS)?;
            ways[0].layers[0].record(pass, TOKENS)
        })
        .unwrap();
    let positions: Vec<i32> = (0..4).map(|token| position + token).collect();
    let rows = reference::table(&TableSpec::new(&soak.frequencies), (&positions).into()).unwrap();
    let (mut query, mut key) = (before.to_vec(), before.to_vec());
    let spec = soak.prepared.plan().spec();
    reference::rotate(spec, &rows, &mut query, Some(&mut key)).unwrap();
    for (tensor, expected) in soak.tensors.iter().zip([query, key]) {
        let made: Vec<f32> = context.read_blocking(tensor, expected.len()).unwrap();
        assert!(made == expected, "{} at {position}", name(context));
    }
}

#[test]
fn memory_does_not_grow() {
    let dispatches =
        std::env::var("WGPU_ROPE_SOAK_DISPATCHES").map_or(DISPATCHES, |text| text.parse().unwrap());
    for context in &*CONTEXTS {
        soak(context, dispatches);
    }
}
