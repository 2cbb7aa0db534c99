//! What is rotated: shapes with names, and their tensors on a device.

use bytemuck::NoUninit;
use wgpu_rope::{
    CosSinTable, Element, ElementType, Frequencies, GpuContext, HeadLayout, Operands, Pairing,
    Positions, Result, RopeConfig, RopeDispatch, RopePlan, RotateSpec, TableFill, TableSpec,
    half::{bf16, f16},
    reference,
};

use super::clock::Candidate;
use super::plain::{Plain, floors};

/// The order of a tensor's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[batch, tokens, heads, head_dim]`
    Bshd,
    /// `[batch, heads, tokens, head_dim]`
    Bhsd,
}

/// The rotation of Q and K of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub name: String,
    pub batch: u32,
    pub tokens: u32,
    pub heads: u32,
    /// 0 for a query alone.
    pub kv_heads: u32,
    pub head_dim: u32,
    /// The window, the first channels of a head.
    pub rotary_dim: u32,
    pub layout: Layout,
    pub element: ElementType,
    pub pairing: Pairing,
    /// Chosen by the crate where it is none, and so are the next.
    pub heads_per_thread: Option<u32>,
    pub heads_at_once: Option<u32>,
    pub workgroup: Option<u32>,
}

impl Workload {
    /// A layer of Llama-3-8B: f32, half-split.
    pub fn new(name: impl Into<String>, tokens: u32) -> Self {
        Self {
            name: name.into(),
            batch: 1,
            tokens,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            rotary_dim: 128,
            layout: Layout::Bshd,
            element: ElementType::F32,
            pairing: Pairing::HalfSplit,
            heads_per_thread: None,
            heads_at_once: None,
            workgroup: None,
        }
    }

    fn head_layout(&self, heads: u32) -> HeadLayout {
        match self.layout {
            Layout::Bshd => HeadLayout::bshd(self.tokens, heads, self.head_dim),
            Layout::Bhsd => HeadLayout::bhsd(self.tokens, heads, self.head_dim),
        }
    }

    pub fn config(&self) -> RopeConfig {
        RopeConfig::new(self.head_dim)
            .with_rotary_dim(self.rotary_dim)
            .with_pairing(self.pairing)
    }

    pub fn spec(&self) -> RotateSpec {
        let layout = |heads| self.head_layout(heads);
        let mut spec = RotateSpec::new(
            &self.config(),
            self.batch,
            self.tokens,
            layout(self.heads),
            self.element,
        );
        if self.kv_heads > 0 {
            spec = spec.with_key(layout(self.kv_heads), self.element);
        }
        if let Some(heads) = self.heads_per_thread {
            spec = spec.with_heads_per_invocation(heads);
        }
        if let Some(heads) = self.heads_at_once {
            spec = spec.with_heads_at_once(heads);
        }
        if let Some(workgroup) = self.workgroup {
            spec = spec.with_workgroup(workgroup);
        }
        spec
    }

    /// Channels of so many heads of all tokens, each of this width.
    fn channels(&self, heads: u32, width: u32) -> u64 {
        [self.batch, self.tokens, heads, width]
            .iter()
            .fold(1, |product, &n| product * u64::from(n))
    }

    /// Bytes of Q and of K.
    pub fn tensor_bytes(&self) -> [u64; 2] {
        [self.heads, self.kv_heads]
            .map(|heads| self.channels(heads, self.head_dim) * self.element.bytes())
    }

    /// Bytes of both that a rotation has to read, and to write.
    pub fn rotated_bytes(&self) -> [u64; 2] {
        [self.heads, self.kv_heads]
            .map(|heads| self.channels(heads, self.rotary_dim) * self.element.bytes())
    }
}

/// Position of the first token.
const START: i32 = 1000;

/// The tensors of several layers on a device, with their rotations.
#[derive(Debug)]
pub struct Case<'a> {
    pub context: &'a GpuContext,
    pub workload: Workload,
    pub fill: TableFill,
    pub rotations: Vec<RopeDispatch>,
    table: CosSinTable,
    buffers: [wgpu::Buffer; 2],
    strides: [u64; 2],
}

impl<'a> Case<'a> {
    /// At most so many layers, as they fit `bytes`; one at least.
    pub fn new(
        context: &'a GpuContext,
        workload: &Workload,
        layers: u32,
        bytes: u64,
    ) -> Result<Self> {
        // Layers start where bindings may.
        let strides = workload
            .tensor_bytes()
            .map(|bytes| bytes.next_multiple_of(256).max(256));
        let bytes = bytes.min(context.device().limits().max_buffer_size);
        let fitting = bytes / strides[0].max(strides[1]);
        let layers = u64::from(layers).min(fitting).max(1);
        let buffers = match workload.element {
            ElementType::F16 => upload::<f16>(context, strides, layers),
            ElementType::Bf16 => upload::<bf16>(context, strides, layers),
            _ => upload::<f32>(context, strides, layers),
        }?;
        let spec = workload.spec();
        let kernel = context.kernel();
        let frequencies = Frequencies::new(&workload.config())?;
        let rows = workload.tokens;
        let table = kernel.table(&TableSpec::new(&frequencies), rows)?;
        let fill = table.bind_positions(Positions::From(START))?;
        let prepared = kernel.prepare(&RopePlan::new(&spec, kernel.limits())?)?;
        let [q, k] = &buffers;
        let rotations = (0..layers)
            .map(|n| {
                let mut operands = Operands::new(q.slice(n * strides[0]..(n + 1) * strides[0]));
                if workload.kv_heads > 0 {
                    operands = operands.with_key(k.slice(n * strides[1]..(n + 1) * strides[1]));
                }
                prepared.bind(&operands, &table)
            })
            .collect::<Result<_>>()?;
        context.run(|pass| fill.record(pass, rows))?;
        Ok(Self {
            context,
            workload: workload.clone(),
            fill,
            rotations,
            table,
            buffers,
            strides,
        })
    }

    /// Records the rotation of the n-th layer, from the first again behind the last.
    pub fn rotate(&self, pass: &mut wgpu::ComputePass<'_>, n: u32) -> Result<()> {
        self.rotations[n as usize % self.rotations.len()].record(pass, self.workload.tokens)
    }

    pub fn refill(&self, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        self.fill.record(pass, self.workload.tokens)
    }

    /// Plain passes over the bytes of each layer that its rotation changes; over as many at its start where heads or windows are not
    /// whole 16-byte words.
    pub fn floors(&self) -> Vec<Plain> {
        let workload = &self.workload;
        let bytes = |channels: u32| u64::from(channels) * workload.element.bytes();
        let (mut window, mut stride) = (bytes(workload.rotary_dim), bytes(workload.head_dim));
        let mut sizes = workload.tensor_bytes();
        if !window.is_multiple_of(16) || !stride.is_multiple_of(16) {
            (window, stride) = (16, 16);
            sizes = workload.rotated_bytes().map(|bytes| bytes / 16 * 16);
        }
        let sets: Vec<_> = (0..self.rotations.len() as u64)
            .map(|n| {
                [0, 1].map(|side| {
                    let first = n * self.strides[side];
                    // A tensor that is not there is one word, which is never passed over twice.
                    self.buffers[side].slice(first..first + sizes[side].max(16))
                })
            })
            .collect();
        floors(self.context, &sets, window, stride)
    }

    /// Q and K of all layers.
    pub fn buffers(&self) -> &[wgpu::Buffer; 2] {
        &self.buffers
    }

    pub fn table(&self) -> &CosSinTable {
        &self.table
    }

    /// Copies of as many bytes of each layer as its rotation changes, to buffers that are as large.
    pub fn copy(&self) -> Candidate<'static> {
        let bytes = self.workload.rotated_bytes().map(|bytes| bytes / 4 * 4);
        let pairs = [0, 1].map(|side| {
            let from = self.buffers[side].clone();
            let to = self
                .context
                .device()
                .create_buffer(&wgpu::BufferDescriptor {
                    label: Some("measure copy"),
                    size: from.size(),
                    usage: wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
            (from, to)
        });
        let (strides, layers) = (self.strides, self.rotations.len() as u64);
        Candidate::copies("copy", move |encoder, n| {
            for side in [0, 1] {
                let (from, to) = &pairs[side];
                let at = u64::from(n) % layers * strides[side];
                encoder.copy_buffer_to_buffer(from, at, to, at, bytes[side]);
            }
        })
    }

    /// [`Case::verify_async`] for programs that are not async.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn verify(&self) -> Result<bool> {
        pollster::block_on(self.verify_async())
    }

    /// Rotates the first layer once. True where all bits are the CPU's, those between and behind the heads too.
    pub async fn verify_async(&self) -> Result<bool> {
        match self.workload.element {
            ElementType::F16 => self.verify_as::<f16>().await,
            ElementType::Bf16 => self.verify_as::<bf16>().await,
            _ => self.verify_as::<f32>().await,
        }
    }

    async fn verify_as<T: Element>(&self) -> Result<bool> {
        let read = async |side: usize| {
            let count = self.strides[side] / size_of::<T>() as u64;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            self.context.read::<T>(&self.buffers[side], count).await
        };
        let (mut query, mut key) = (read(0).await?, read(1).await?);
        self.context.run(|pass| {
            self.refill(pass)?;
            self.rotate(pass, 0)
        })?;
        let positions: Vec<i32> = (START..).take(self.workload.tokens as usize).collect();
        let frequencies = Frequencies::new(&self.workload.config())?;
        let rows = reference::table(&TableSpec::new(&frequencies), (&positions).into())?;
        let with_key = self.workload.kv_heads > 0;
        let spec = self.workload.spec();
        reference::rotate(&spec, &rows, &mut query, with_key.then_some(&mut key[..]))?;
        let (rotated_query, rotated_key) = (read(0).await?, read(1).await?);
        let same =
            |a: &[T], b: &[T]| bytemuck::cast_slice::<T, u8>(a) == bytemuck::cast_slice::<T, u8>(b);
        Ok(same(&query, &rotated_query) && same(&key, &rotated_key))
    }
}

/// Q and K of so many layers, with values from 0.5 to 1.5.
fn upload<T: Element + NoUninit>(
    context: &GpuContext,
    strides: [u64; 2],
    layers: u64,
) -> Result<[wgpu::Buffer; 2]> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut side = |stride: u64| {
        let layer: Vec<T> = (0..stride / size_of::<T>() as u64)
            .map(|_| T::narrow(random.f32() + 0.5))
            .collect();
        let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("measure tensor"),
            size: stride * layers,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        for n in 0..layers {
            let bytes = bytemuck::cast_slice(&layer);
            context.queue().write_buffer(&buffer, n * stride, bytes);
        }
        // Staging memory is freed before the next layers ask for theirs.
        context.wait()?;
        Ok(buffer)
    };
    Ok([side(strides[0])?, side(strides[1])?])
}
