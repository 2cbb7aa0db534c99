//! A decoding loop as an inference engine runs it: a prefill of 512 tokens, then 32 steps of one token, each over 4 layers.
//!
//! A step is one small write by the application into its own position buffer, one recorded fill of one row, and the same four
//! dispatches as in every step before. Nothing is bound or made anew.
//!
//! `cargo run --release --example decode_loop`
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::time::Instant;

use wgpu_rope::half::f16;
use wgpu_rope::{
    CosSinTable, ElementType, Frequencies, GpuContext, HeadLayout, Operands, Positions, RopeConfig,
    RopeDispatch, RopePlan, RotateSpec, TableFill, TableSpec, reference,
};

const LAYERS: usize = 4;
const PREFILL: u32 = 512;
const STEPS: i32 = 32;
const HEADS: u32 = 32;
const KV_HEADS: u32 = 8;
const HEAD_DIM: u32 = 128;

/// What a number of tokens at a time takes: a table, its fill, and a rotation for each layer.
struct Stage {
    spec: RotateSpec,
    fill: TableFill,
    rotations: Vec<RopeDispatch>,
    query: Vec<wgpu::Buffer>,
    key: Vec<wgpu::Buffer>,
}

impl Stage {
    fn new(
        context: &GpuContext,
        config: &RopeConfig,
        frequencies: &Frequencies,
        start: &wgpu::Buffer,
        tokens: u32,
    ) -> Result<Self, Box<dyn Error>> {
        let kernel = context.kernel();
        let table: CosSinTable = kernel.table(&TableSpec::new(frequencies), tokens)?;
        let fill = table.bind_positions(Positions::Start(start.slice(..)))?;
        let layout = |heads| HeadLayout::bshd(tokens, heads, HEAD_DIM);
        let spec = RotateSpec::new(config, 1, tokens, layout(HEADS), ElementType::F16)
            .with_key(layout(KV_HEADS), ElementType::F16);
        // One preparation for all layers.
        let prepared = kernel.prepare(&RopePlan::new(&spec, kernel.limits())?)?;
        let tensor = |heads: u32| {
            (0..LAYERS)
                .map(|_| {
                    context.upload(
                        &vec![f16::ZERO; (tokens * heads * HEAD_DIM) as usize],
                        wgpu::BufferUsages::empty(),
                    )
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let (query, key) = (tensor(HEADS)?, tensor(KV_HEADS)?);
        let rotations = query
            .iter()
            .zip(&key)
            .map(|(q, k)| prepared.bind(&Operands::new(q.slice(..)).with_key(k.slice(..)), &table))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            spec,
            fill,
            rotations,
            query,
            key,
        })
    }

    /// One step of the model at a position: what its projections would have put into the tensors, rotated. Returns the channels
    /// whose bits differ from the CPU's.
    fn step(
        &self,
        context: &GpuContext,
        frequencies: &Frequencies,
        start: &wgpu::Buffer,
        position: i32,
        random: &mut fastrand::Rng,
    ) -> Result<usize, Box<dyn Error>> {
        let tokens = self.spec.tokens();
        let mut noise = |heads: u32| -> Vec<f16> {
            (0..tokens * heads * HEAD_DIM)
                .map(|_| f16::from_f32(random.f32() * 2.0 - 1.0))
                .collect()
        };
        let layers: Vec<_> = (0..LAYERS)
            .map(|_| (noise(HEADS), noise(KV_HEADS)))
            .collect();
        for (layer, (query, key)) in layers.iter().enumerate() {
            context
                .queue()
                .write_buffer(&self.query[layer], 0, bytemuck::cast_slice(query));
            context
                .queue()
                .write_buffer(&self.key[layer], 0, bytemuck::cast_slice(key));
        }
        // The whole of a step: four bytes, one fill, one dispatch for each layer.
        context
            .queue()
            .write_buffer(start, 0, bytemuck::bytes_of(&position));
        context.run(|pass| {
            self.fill.record(pass, tokens)?;
            self.rotations
                .iter()
                .try_for_each(|rotation| rotation.record(pass, tokens))
        })?;

        let positions: Vec<_> = (position..position + i32::try_from(tokens)?).collect();
        let rows = reference::table(&TableSpec::new(frequencies), (&positions).into())?;
        let mut differing = 0;
        for (layer, (mut query, mut key)) in layers.into_iter().enumerate() {
            reference::rotate(&self.spec, &rows, &mut query, Some(&mut key))?;
            for (buffer, expected) in [(&self.query[layer], query), (&self.key[layer], key)] {
                let made: Vec<f16> = context.read_blocking(buffer, expected.len())?;
                differing += made
                    .iter()
                    .zip(&expected)
                    .filter(|(a, b)| a.to_bits() != b.to_bits())
                    .count();
            }
        }
        Ok(differing)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let context = GpuContext::new_blocking()?;
    println!("on {} ({})", context.info().name, context.info().backend);
    let config = RopeConfig::new(HEAD_DIM).with_theta(500_000.0);
    let frequencies = Frequencies::new(&config)?;
    // The application's own buffer of one position.
    let start = context.upload(&[0_i32], wgpu::BufferUsages::empty())?;
    let prefill = Stage::new(&context, &config, &frequencies, &start, PREFILL)?;
    let decode = Stage::new(&context, &config, &frequencies, &start, 1)?;

    let mut random = fastrand::Rng::with_seed(3);
    let clock = Instant::now();
    let mut differing = prefill.step(&context, &frequencies, &start, 0, &mut random)?;
    let first = i32::try_from(PREFILL)?;
    for position in first..first + STEPS {
        differing += decode.step(&context, &frequencies, &start, position, &mut random)?;
    }
    let tokens = u64::from(PREFILL) + u64::try_from(STEPS)?;
    println!(
        "prefill of {PREFILL} tokens and {STEPS} steps over {LAYERS} layers, f16: {differing} of {} channels differ from the CPU ({:.1} s with the checks)",
        tokens * LAYERS as u64 * u64::from((HEADS + KV_HEADS) * HEAD_DIM),
        clock.elapsed().as_secs_f64(),
    );

    // What a step costs the host and the device, unchecked: 256 of them.
    let clock = Instant::now();
    for position in 0..256_i32 {
        context
            .queue()
            .write_buffer(&start, 0, bytemuck::bytes_of(&position));
        context.run(|pass| {
            decode.fill.record(pass, 1)?;
            decode
                .rotations
                .iter()
                .try_for_each(|rotation| rotation.record(pass, 1))
        })?;
    }
    context.wait()?;
    println!(
        "a step of one write, one fill and {LAYERS} rotations, submitted by itself: {:.1} us",
        clock.elapsed().as_secs_f64() * 1e6 / 256.0
    );
    if differing == 0 {
        Ok(())
    } else {
        Err("bits differ from the CPU's".into())
    }
}
