//! A paged KV cache as a serving engine has it: 64 sequences of different lengths are prefilled together, then decoded a token at a time,
//! over 4 layers. QK-norm, rotation and the write of K and V to their pages are one dispatch a layer; the same in three passes is timed
//! beside it, and the first layer's cache is compared with the CPU's.
//!
//! A step is: the engine writes positions into its own buffer; one fill makes cos and sin of each token, another its slot from the block
//! table; then the layers, all bound before.
//!
//! `cargo run --release --example paged_decode`
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "sizes of this example are small"
)]

use std::error::Error;
use std::time::{Duration, Instant};

use wgpu_rope::reference::LayerTable;
use wgpu_rope::{
    ElementType, Frequencies, GpuContext, HeadLayout, Norm, NormWeight, Operand, Operands, Pages,
    Place, Places, Positions, RopeConfig, RopeDispatch, RopePlan, RotateSpec, SlotFill,
    SlotPositions, SlotRule, Slots, TableFill, TableSpec, TensorView, reference,
};

const LAYERS: usize = 4;
const SEQUENCES: u32 = 64;
const STEPS: u32 = 16;
const HEADS: u32 = 32;
const KV_HEADS: u32 = 8;
const HEAD_DIM: u32 = 128;
const PAGE_SIZE: u32 = 16;
/// Pages of a sequence: room for 64 tokens.
const PAGES: u32 = 4;

/// The tokens that a sequence begins with.
fn length(sequence: u32) -> u32 {
    1 + sequence * 29 % 47
}

/// One of the tensors of all layers.
type Tensors = Vec<wgpu::Buffer>;

/// The cache of a layer: K and V, `[pages, 16, 8, 128]` each, in f16.
struct Cache {
    key: wgpu::Buffer,
    value: wgpu::Buffer,
}

/// What does not change from step to step.
struct Model<'a> {
    context: &'a GpuContext,
    config: RopeConfig,
    frequencies: Frequencies,
    weights: wgpu::Buffer,
    caches: Vec<Cache>,
    block_table: wgpu::Buffer,
    rule: SlotRule,
}

/// What a number of tokens at a time takes.
struct Stage {
    tokens: u32,
    positions: wgpu::Buffer,
    fill: TableFill,
    slots: SlotFill,
    spec: RotateSpec,
    fused: Vec<RopeDispatch>,
    /// Norm, rotation, append: for each layer.
    passes: Vec<[RopeDispatch; 3]>,
}

/// A page of the cache is a batch entry, a place in it a token.
fn cache_view() -> TensorView {
    let page = HeadLayout::bshd(PAGE_SIZE, KV_HEADS, HEAD_DIM);
    TensorView::cache(page, SEQUENCES * PAGES, PAGE_SIZE, ElementType::F16)
}

/// Pages are handed out as sequences ask for them, so neighbours belong to anyone.
fn block_table() -> Vec<i32> {
    let pages = SEQUENCES * PAGES;
    (0..pages).map(|n| (n * 77 % pages).cast_signed()).collect()
}

impl Stage {
    fn new(model: &Model<'_>, tokens: u32, sequences: &[i32]) -> Result<Self, Box<dyn Error>> {
        let (context, kernel) = (model.context, model.context.kernel());
        let none = wgpu::BufferUsages::empty();
        let positions = context.upload(&vec![0_i32; tokens as usize], none)?;
        let sequences = context.upload(sequences, none)?;
        let table_spec = TableSpec::new(&model.frequencies).with_slots(tokens);
        let table = kernel.table(&table_spec, tokens)?;
        let fill = table.bind_positions(Positions::Ids(positions.slice(..)))?;
        let slots = table.bind_slots(Slots::Placed {
            rule: model.rule,
            tokens,
            positions: SlotPositions::Ragged {
                ids: positions.slice(..),
                sequences: sequences.slice(..),
            },
            block_table: Some(model.block_table.slice(..)),
        })?;

        let f32 = ElementType::F32;
        let layout = |heads| HeadLayout::bshd(tokens, heads, HEAD_DIM);
        let norm = Norm::rms(1e-6, NormWeight::Scale(f32));
        let plain = RotateSpec::new(&model.config, 1, tokens, layout(HEADS), f32)
            .with_key(layout(KV_HEADS), f32);
        let spec = plain
            .clone()
            .with_value(layout(KV_HEADS), f32)
            .with_query_norm(norm)
            .with_key_norm(norm)
            .with_key_to(cache_view())
            .with_value_to(cache_view());
        // The same in three passes: the norms alone, the rotation alone, and K and V to the cache.
        let norms = plain
            .clone()
            .with_query_norm(norm)
            .with_key_norm(norm)
            .without_rotation();
        let append = RotateSpec::new(&model.config, 1, tokens, layout(KV_HEADS), f32)
            .with_query_to(cache_view())
            .with_value(layout(KV_HEADS), f32)
            .with_value_to(cache_view())
            .without_rotation();
        let prepare = |spec: &RotateSpec| kernel.prepare(&RopePlan::new(spec, kernel.limits())?);
        let (fused, norms, rotation, append) = (
            prepare(&spec)?,
            prepare(&norms)?,
            prepare(&plain)?,
            prepare(&append)?,
        );

        let mut random = 1_u32;
        let mut tensors = |heads: u32| -> wgpu_rope::Result<Tensors> {
            (0..LAYERS)
                .map(|_| context.upload(&activations(&mut random, tokens * heads), none))
                .collect()
        };
        let tensors = [tensors(HEADS)?, tensors(KV_HEADS)?, tensors(KV_HEADS)?];
        let half = u64::from(HEAD_DIM) * 4;
        let (mut all, mut passes) = (Vec::new(), Vec::new());
        for (layer, cache) in model.caches.iter().enumerate() {
            let [query, key, value] = [0, 1, 2].map(|side: usize| tensors[side][layer].slice(..));
            let both = Operands::new(query).with_key(key);
            let of_norms = both
                .with(Operand::QueryWeight, model.weights.slice(..half))
                .with(Operand::KeyWeight, model.weights.slice(half..));
            let of_all = of_norms
                .with(Operand::Value, value)
                .with(Operand::KeyTo, cache.key.slice(..))
                .with(Operand::ValueTo, cache.value.slice(..));
            all.push(fused.bind(&of_all, &table)?);
            let of_append = Operands::new(key)
                .with(Operand::QueryTo, cache.key.slice(..))
                .with(Operand::Value, value)
                .with(Operand::ValueTo, cache.value.slice(..));
            passes.push([
                norms.bind(&of_norms, &table)?,
                rotation.bind(&both, &table)?,
                append.bind(&of_append, &table)?,
            ]);
        }
        Ok(Self {
            tokens,
            positions,
            fill,
            slots,
            spec,
            fused: all,
            passes,
        })
    }

    /// Writes a step's positions and records its fills and layers.
    fn step(
        &self,
        model: &Model<'_>,
        positions: &[i32],
        is_fused: bool,
    ) -> wgpu_rope::Result<Duration> {
        let context = model.context;
        let bytes = bytemuck::cast_slice(positions);
        context.queue().write_buffer(&self.positions, 0, bytes);
        context.wait()?;
        let start = Instant::now();
        context.run(|pass| {
            self.fill.record(pass, self.tokens)?;
            self.slots.record(pass, self.tokens)?;
            for (fused, passes) in self.fused.iter().zip(&self.passes) {
                if is_fused {
                    fused.record(pass, self.tokens)?;
                } else {
                    for dispatch in passes {
                        dispatch.record(pass, self.tokens)?;
                    }
                }
            }
            Ok(())
        })?;
        context.wait()?;
        Ok(start.elapsed())
    }

    /// Bytes that a layer reads and writes in one dispatch, and in three passes.
    fn bytes(&self) -> [u64; 2] {
        let channels = |heads: u32| u64::from(self.tokens * heads * HEAD_DIM);
        let append = 2 * channels(KV_HEADS) * 6;
        [
            channels(HEADS) * 8 + append,
            2 * channels(HEADS + KV_HEADS) * 8 + append,
        ]
    }
}

/// Values from 0.5 to 1.5.
fn activations(random: &mut u32, heads: u32) -> Vec<f32> {
    (0..heads * HEAD_DIM)
        .map(|_| {
            *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(0x3f80_0000 | (*random >> 9)) - 0.5
        })
        .collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let context = GpuContext::new_blocking()?;
    let info = context.info();
    println!(
        "{} ({}, {} {})",
        info.name, info.backend, info.driver, info.driver_info
    );
    let none = wgpu::BufferUsages::empty();
    let config = RopeConfig::new(HEAD_DIM).with_theta(1e6);
    let weights: Vec<f32> = (0..2 * HEAD_DIM).map(|n| 0.75 + n as f32 / 512.0).collect();
    let cache_bytes = (SEQUENCES * PAGES * PAGE_SIZE * KV_HEADS * HEAD_DIM) as usize * 2;
    let model = Model {
        context: &context,
        frequencies: Frequencies::new(&config)?,
        config,
        weights: context.upload(&weights, none)?,
        caches: (0..LAYERS)
            .map(|_| {
                Ok(Cache {
                    key: context.upload(&vec![0_u8; cache_bytes], none)?,
                    value: context.upload(&vec![0_u8; cache_bytes], none)?,
                })
            })
            .collect::<wgpu_rope::Result<_>>()?,
        block_table: context.upload(&block_table(), none)?,
        rule: SlotRule::paged(
            SEQUENCES,
            Pages {
                page_size: PAGE_SIZE,
                pages: SEQUENCES * PAGES,
                pages_per_sequence: PAGES,
            },
        )?,
    };

    // Ragged: the tokens of all sequences behind each other.
    let ragged: Vec<[i32; 2]> = (0..SEQUENCES)
        .flat_map(|sequence| {
            (0..length(sequence)).map(move |token| [sequence, token].map(u32::cast_signed))
        })
        .collect();
    let [sequences, positions] =
        [0, 1].map(|n| ragged.iter().map(|token| token[n]).collect::<Vec<_>>());
    let prefill = Stage::new(&model, u32::try_from(ragged.len())?, &sequences)?;
    let all: Vec<i32> = (0..SEQUENCES.cast_signed()).collect();
    let decode = Stage::new(&model, SEQUENCES, &all)?;

    let mut expected = Expected::new(&model, &weights)?;
    let prefilled = prefill.step(&model, &positions, true)?;
    expected.step(&model, &prefill, &sequences, &positions)?;
    let mut decoded = Vec::new();
    for step in 0..STEPS {
        let positions: Vec<i32> = (0..SEQUENCES)
            .map(|sequence| (length(sequence) + step).cast_signed())
            .collect();
        decoded.push(decode.step(&model, &positions, true)?);
        if step == 0 {
            expected.step(&model, &decode, &all, &positions)?;
            let is_same = expected.compare(&model)?;
            println!(
                "K and V in the pages of the first layer after prefill and a step: {} CPU's bits",
                if is_same { "the" } else { "NOT the" }
            );
            if !is_same {
                return Err("the cache differs from the CPU's".into());
            }
        }
    }

    // Queries are normed and rotated where they are, time and again; that changes no time.
    let mut times = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    let next: Vec<i32> = (0..SEQUENCES)
        .map(|sequence| (length(sequence) + STEPS).cast_signed())
        .collect();
    for _ in 0..9 {
        for (way, is_fused) in [true, false].into_iter().enumerate() {
            times[0][way].push(prefill.step(&model, &positions, is_fused)?);
            times[1][way].push(decode.step(&model, &next, is_fused)?);
        }
    }
    println!(
        "first prefill {prefilled:.1?}, first step {:.1?}",
        decoded[0]
    );
    println!(
        "\n| {LAYERS} layers | tokens | dispatches | MB of tensors | time, one dispatch a layer | three passes | ratio |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let stages = [("prefill", &prefill), ("decode", &decode)];
    for ((name, stage), [fused, passes]) in stages.into_iter().zip(&mut times) {
        let median = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let (fused, passes) = (median(fused), median(passes));
        let [bytes, more] = stage
            .bytes()
            .map(|bytes| bytes as f64 * LAYERS as f64 / 1e6);
        println!(
            "| {name} | {} | {} instead of {} | {bytes:.1} instead of {more:.1} | {fused:.2?} | {passes:.2?} | {:.2} |",
            stage.tokens,
            LAYERS + 2,
            3 * LAYERS + 2,
            fused.as_secs_f64() / passes.as_secs_f64()
        );
    }
    println!(
        "\nTimes are those of submissions, with the fill of cos and sin and of slots (2 of the dispatches)."
    );
    Ok(())
}

/// The first layer on the CPU: its cache, and the weights.
struct Expected {
    buffers: Vec<Vec<u32>>,
}

impl Expected {
    /// Buffers 0 to 2 are query, key and value, 3 and 4 the cache, 5 the weights.
    fn new(model: &Model<'_>, weights: &[f32]) -> Result<Self, Box<dyn Error>> {
        let words = |buffer: &wgpu::Buffer| vec![0; buffer.size() as usize / 4];
        let cache = &model.caches[0];
        Ok(Self {
            buffers: vec![
                Vec::new(),
                Vec::new(),
                Vec::new(),
                words(&cache.key),
                words(&cache.value),
                weights.iter().map(|weight| weight.to_bits()).collect(),
            ],
        })
    }

    /// What a stage does to its tensors, which it has just done on the device: they are as they were made here.
    fn step(
        &mut self,
        model: &Model<'_>,
        stage: &Stage,
        sequences: &[i32],
        positions: &[i32],
    ) -> Result<(), Box<dyn Error>> {
        let mut random = 1;
        let heads = [HEADS, KV_HEADS, KV_HEADS];
        for (side, heads) in heads.into_iter().enumerate() {
            // Those of the other layers come in between.
            let first = activations(&mut random, stage.tokens * heads);
            for _ in 1..LAYERS {
                activations(&mut random, stage.tokens * heads);
            }
            self.buffers[side] = first.into_iter().map(f32::to_bits).collect();
        }
        let table = TableSpec::new(&model.frequencies);
        let rows = reference::table(&table, positions.into())?;
        let block_table = block_table();
        let slots: Vec<i32> = sequences
            .iter()
            .zip(positions)
            .map(|(&sequence, &position)| {
                model
                    .rule
                    .slot(sequence, position, &block_table)
                    .unwrap_or(-1)
            })
            .collect();
        let weight = |offset| Place { buffer: 5, offset };
        let operands = [
            Operand::Query,
            Operand::Key,
            Operand::Value,
            Operand::KeyTo,
            Operand::ValueTo,
        ];
        let places: Places = (0..)
            .zip(operands)
            .map(|(buffer, operand)| (operand, Place { buffer, offset: 0 }))
            .chain([
                (Operand::QueryWeight, weight(0)),
                (Operand::KeyWeight, weight(u64::from(HEAD_DIM) * 4)),
            ])
            .collect();
        let table = LayerTable {
            rows: &rows,
            slots: &slots,
            scales: &[],
        };
        reference::layer(&stage.spec, table, places, &mut self.buffers)?;
        Ok(())
    }

    fn compare(&self, model: &Model<'_>) -> Result<bool, Box<dyn Error>> {
        let cache = &model.caches[0];
        for (buffer, expected) in [&cache.key, &cache.value]
            .into_iter()
            .zip(&self.buffers[3..5])
        {
            let got: Vec<u32> = model.context.read_blocking(buffer, expected.len())?;
            if &got != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
