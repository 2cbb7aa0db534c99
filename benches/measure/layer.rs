//! A layer before attention, in one dispatch and in three passes: QK-norm, rotation, and K and V to their pages in f16.

use std::fmt;

use wgpu_rope::{
    CosSinTable, ElementType, Frequencies, GpuContext, HeadLayout, Norm, NormWeight, Operand,
    Operands, Place, Places, Positions, Result, RopeConfig, RopeDispatch, RopePlan, RotateSpec,
    SlotFill, Slots, TableFill, TableSpec, TensorView, reference,
};

use super::plain::{Plain, floors};

const HEADS: u32 = 32;
const KV_HEADS: u32 = 8;
const HEAD_DIM: u32 = 128;
const PAGE: u32 = 16;
/// Position of the first token.
const START: i32 = 1000;

/// Layers of Qwen3-8B (32 query heads, 8 of keys and values, 128 channels, f32) whose caches are pages of 16 tokens in f16.
pub struct Layers<'a> {
    context: &'a GpuContext,
    tokens: u32,
    table: CosSinTable,
    pub fill: TableFill,
    pub slots: SlotFill,
    buffers: Vec<Buffers>,
    weights: wgpu::Buffer,
    pub fused: Vec<RopeDispatch>,
    /// The rotation in place, and the copies to the caches.
    rotations: Vec<RopeDispatch>,
    appends: Vec<RopeDispatch>,
    /// Norms in ways that each are good for some device.
    norms: Vec<Plain>,
}

impl fmt::Debug for Layers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layers")
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// Tensors of a layer.
#[derive(Debug)]
struct Buffers {
    query: wgpu::Buffer,
    key: wgpu::Buffer,
    value: wgpu::Buffer,
    key_cache: wgpu::Buffer,
    value_cache: wgpu::Buffer,
    /// Three quarters of K and V.
    other: wgpu::Buffer,
}

impl<'a> Layers<'a> {
    pub fn new(context: &'a GpuContext, tokens: u32, layers: u32) -> Result<Self> {
        let kernel = context.kernel();
        let none = wgpu::BufferUsages::empty();
        let config = RopeConfig::new(HEAD_DIM).with_theta(1e6);
        let frequencies = Frequencies::new(&config)?;
        let table = kernel.table(&TableSpec::new(&frequencies).with_slots(tokens), tokens)?;
        let fill = table.bind_positions(Positions::From(START))?;
        // Pages in reverse order, as a busy cache has them.
        let pages = tokens.div_ceil(PAGE);
        let slots = slots_of(tokens);
        let slot_mapping = context.upload(&slots, none)?;
        let slots = table.bind_slots(Slots::Listed {
            slot_mapping: slot_mapping.slice(..),
            batch: 1,
            tokens,
            capacity: pages * PAGE,
        })?;

        let fused = spec(tokens);
        let layout = |heads| HeadLayout::bshd(tokens, heads, HEAD_DIM);
        let f32 = ElementType::F32;
        let plain =
            RotateSpec::new(&config, 1, tokens, layout(HEADS), f32).with_key(layout(KV_HEADS), f32);
        // A query that is a key: K and V alone, as they are.
        let append = RotateSpec::new(&config, 1, tokens, layout(KV_HEADS), f32)
            .with_query_to(cache(tokens))
            .with_value(layout(KV_HEADS), f32)
            .with_value_to(cache(tokens))
            .without_rotation();
        let prepared = |spec: &RotateSpec| kernel.prepare(&RopePlan::new(spec, kernel.limits())?);
        let (fused, plain, append) = (prepared(&fused)?, prepared(&plain)?, prepared(&append)?);

        let mut random = fastrand::Rng::with_seed(7);
        let mut values = |heads: u32| -> Vec<f32> {
            let count = tokens * heads * HEAD_DIM;
            (0..count).map(|_| random.f32() + 0.5).collect()
        };
        let (q, k, v) = (values(HEADS), values(KV_HEADS), values(KV_HEADS));
        let words = vec![0_u32; (pages * PAGE * KV_HEADS * HEAD_DIM / 2) as usize];
        let weights = context.upload(&weights(), none)?;
        let buffers = (0..layers)
            .map(|_| {
                Ok(Buffers {
                    query: context.upload(&q, none)?,
                    key: context.upload(&k, none)?,
                    value: context.upload(&v, none)?,
                    key_cache: context.upload(&words, none)?,
                    value_cache: context.upload(&words, none)?,
                    other: context.upload(&[&k[..], &v[..v.len() / 2]].concat(), none)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let each = |bind: &dyn Fn(&Buffers) -> Result<RopeDispatch>| {
            buffers.iter().map(bind).collect::<Result<Vec<_>>>()
        };
        let half = u64::from(HEAD_DIM) * 4;
        let fused = each(&|b| {
            let operands = Operands::new(b.query.slice(..))
                .with_key(b.key.slice(..))
                .with(Operand::Value, b.value.slice(..))
                .with(Operand::KeyTo, b.key_cache.slice(..))
                .with(Operand::ValueTo, b.value_cache.slice(..))
                .with(Operand::QueryWeight, weights.slice(..half))
                .with(Operand::KeyWeight, weights.slice(half..));
            fused.bind(&operands, &table)
        })?;
        let rotations = each(&|b| {
            let operands = Operands::new(b.query.slice(..)).with_key(b.key.slice(..));
            plain.bind(&operands, &table)
        })?;
        let appends = each(&|b| {
            let operands = Operands::new(b.key.slice(..))
                .with(Operand::Value, b.value.slice(..))
                .with(Operand::QueryTo, b.key_cache.slice(..))
                .with(Operand::ValueTo, b.value_cache.slice(..));
            append.bind(&operands, &table)
        })?;
        let sets: Vec<_> = buffers
            .iter()
            .map(|b| vec![b.query.slice(..), b.key.slice(..), weights.slice(..half)])
            .collect();
        let heads = tokens * (HEADS + KV_HEADS);
        let norms = [
            ("alone", 8, heads),
            ("alone", 64, heads),
            ("shared_by_32", 32, heads * 32),
            ("shared_by_32", 64, heads * 32),
            ("shared_by_32", 256, heads * 32),
        ]
        .into_iter()
        .map(|(entry_point, workgroup, invocations)| {
            let groups = invocations.div_ceil(workgroup);
            let x = groups.min(32_768);
            Plain::of_entry(
                context,
                format!("norm, {entry_point}, {workgroup} invocations"),
                include_str!("norm.wgsl"),
                Some(entry_point),
                &[("WORKGROUP", workgroup.into())],
                &sets,
                [x, groups.div_ceil(x), 1],
            )
        })
        .collect();
        Ok(Self {
            context,
            tokens,
            table,
            fill,
            slots,
            buffers,
            weights,
            fused,
            rotations,
            appends,
            norms,
        })
    }

    /// Fills what all layers read.
    pub fn refill(&self, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        self.fill.record(pass, self.tokens)?;
        self.slots.record(pass, self.tokens)
    }

    pub fn norms(&self) -> &[Plain] {
        &self.norms
    }

    /// The n-th layer in one dispatch.
    pub fn fused(&self, pass: &mut wgpu::ComputePass<'_>, n: u32) -> Result<()> {
        self.fused[n as usize % self.fused.len()].record(pass, self.tokens)
    }

    /// The n-th layer in three passes, of which the first is this norm.
    pub fn passes(&self, norm: &Plain, pass: &mut wgpu::ComputePass<'_>, n: u32) -> Result<()> {
        let at = n as usize % self.fused.len();
        norm.record(pass, n);
        self.rotations[at].record(pass, self.tokens)?;
        self.appends[at].record(pass, self.tokens)
    }

    /// Bytes that a layer has to read and write.
    pub fn bytes(&self) -> u64 {
        let channels = |heads: u32| u64::from(self.tokens * heads * HEAD_DIM);
        // Q is read and written, K and V are read and written in 16 bits.
        channels(HEADS) * 8 + 2 * channels(KV_HEADS) * 6
    }

    /// Bytes that three passes have to.
    pub fn bytes_of_passes(&self) -> u64 {
        let channels = |heads: u32| u64::from(self.tokens * heads * HEAD_DIM);
        2 * channels(HEADS + KV_HEADS) * 8 + 2 * channels(KV_HEADS) * 6
    }

    /// In-place passes over as many bytes: Q, and three quarters of those of K and V in f32.
    pub fn floors(&self) -> Vec<Plain> {
        let sets: Vec<_> = self
            .buffers
            .iter()
            .map(|b| [b.query.slice(..), b.other.slice(..)])
            .collect();
        floors(self.context, &sets, 16, 16)
    }

    /// Does the first layer once and compares all of it with the CPU's word.
    pub fn verify(&self) -> Result<bool> {
        let b = &self.buffers[0];
        let tensors = [&b.query, &b.key, &b.value, &b.key_cache, &b.value_cache];
        let read = || {
            tensors
                .iter()
                .map(|buffer| {
                    let words = usize::try_from(buffer.size() / 4).unwrap_or(usize::MAX);
                    self.context.read_blocking::<u32>(buffer, words)
                })
                .collect::<Result<Vec<_>>>()
        };
        let mut expected = read()?;
        self.context.run(|pass| {
            self.refill(pass)?;
            self.fused(pass, 0)
        })?;
        let got = read()?;
        expected.push(weights().into_iter().map(f32::to_bits).collect());
        let positions: Vec<i32> = (START..).take(self.tokens as usize).collect();
        let rows = reference::table(self.table.plan().spec(), (&positions[..]).into())?;
        let operands = [
            Operand::Query,
            Operand::Key,
            Operand::Value,
            Operand::KeyTo,
            Operand::ValueTo,
        ];
        let weight = |offset| Place { buffer: 5, offset };
        let places: Places = (0..)
            .zip(operands)
            .map(|(buffer, operand)| (operand, Place { buffer, offset: 0 }))
            .chain([
                (Operand::QueryWeight, weight(0)),
                (Operand::KeyWeight, weight(u64::from(HEAD_DIM) * 4)),
            ])
            .collect();
        let table = reference::LayerTable {
            rows: &rows,
            slots: &slots_of(self.tokens),
            scales: &[],
        };
        reference::layer(&spec(self.tokens), table, places, &mut expected)?;
        Ok(got[..] == expected[..5] && self.weights.size() == u64::from(HEAD_DIM) * 8)
    }
}

fn weights() -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(3);
    (0..2 * HEAD_DIM).map(|_| random.f32() + 0.5).collect()
}

/// Pages in reverse order.
fn slots_of(tokens: u32) -> Vec<i32> {
    let pages = tokens.div_ceil(PAGE);
    (0..tokens)
        .map(|token| ((pages - 1 - token / PAGE) * PAGE + token % PAGE).cast_signed())
        .collect()
}

fn cache(tokens: u32) -> TensorView {
    let pages = HeadLayout::bshd(PAGE, KV_HEADS, HEAD_DIM);
    TensorView::cache(pages, tokens.div_ceil(PAGE), PAGE, ElementType::F16)
}

fn spec(tokens: u32) -> RotateSpec {
    let f32 = ElementType::F32;
    let layout = |heads| HeadLayout::bshd(tokens, heads, HEAD_DIM);
    let norm = Norm::rms(1e-6, NormWeight::Scale(f32));
    RotateSpec::new(&RopeConfig::new(HEAD_DIM), 1, tokens, layout(HEADS), f32)
        .with_key(layout(KV_HEADS), f32)
        .with_value(layout(KV_HEADS), f32)
        .with_query_norm(norm)
        .with_key_norm(norm)
        .with_key_to(cache(tokens))
        .with_value_to(cache(tokens))
}
