//! A Llama on the GPU: what is bound once, and the step that is recorded for each token.

use std::sync::mpsc;

use candle_core::Tensor;
use indicatif::ProgressBar;
use wgpu_rope::{
    ElementType, Frequencies, HeadLayout, KernelOptions, Operand, Operands, Positions,
    RopeDispatch, RopeKernel, RopePlan, RotateSpec, Rows, SlotFill, SlotPositions, SlotRule, Slots,
    TableFill, TableSpec, TensorView, wgpu,
};

use crate::file::{ModelFile, Result, Shape};
use crate::gpu::{Binding, Dispatch, Gpu, Kernel, Resource, TILE, WIDTH};

/// Tokens of a prompt that are taken at once.
const CHUNK: u32 = 64;

/// One dispatch of a step.
#[derive(Debug)]
enum Operation {
    Own(Dispatch),
    /// Rotates Q and K, and appends K and V to the cache.
    Rope(RopeDispatch),
}

/// A model with its cache, and the text that it has read.
#[derive(Debug)]
pub(crate) struct Model {
    gpu: Gpu,
    shape: Shape,
    /// Slots of the cache: tokens that it looks back to.
    capacity: u32,
    chunk: u32,
    ids: wgpu::Buffer,
    logits: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// The keys of each layer: `[capacity, key heads, head_dim]`.
    #[cfg(test)]
    keys: Vec<wgpu::Buffer>,
    fill: TableFill,
    slots: SlotFill,
    layers: Vec<Operation>,
    head: [Dispatch; 2],
    shift: Shift,
    /// Tokens that were read.
    read: u32,
    /// The oldest of them that is in the cache.
    oldest: u32,
}

/// What moves the positions of kept keys down by half the cache.
#[derive(Debug)]
struct Shift {
    fill: TableFill,
    slots: SlotFill,
    keys: Vec<RopeDispatch>,
}

impl Model {
    /// Loads a model. Its cache holds `capacity` tokens.
    pub(crate) fn load(
        file: &mut ModelFile,
        capacity: u32,
        progress: &ProgressBar,
    ) -> Result<Self> {
        let shape = file.shape()?;
        let rope = file.rope().clone();
        if capacity < 2 * TILE {
            return Err(format!(
                "a context of {capacity} is too small: {} at least",
                2 * TILE
            )
            .into());
        }
        let chunk = CHUNK.min(capacity / 2);
        let frequencies = Frequencies::for_length(&rope.config, capacity.into())?;
        let table_spec = TableSpec::new(&frequencies).with_slots(chunk);
        let gpu = Gpu::new(&table_spec, chunk)?;
        let Shape {
            channels,
            heads,
            key_heads,
            head_dim,
            feed_forward,
            vocabulary,
            ..
        } = shape;

        // Rows of cos and sin, and slots, of the tokens of a step: both follow from words of the step's own buffer.
        let kernel = RopeKernel::new(&gpu.device, &KernelOptions::default())?;
        let table = kernel.table(&table_spec, chunk)?;
        let position = gpu.step.slice(12..16);
        let fill = table.bind_positions(Positions::Start(position))?;
        let rule = SlotRule::contiguous(1, capacity)?.with_ring(capacity, 0)?;
        let placed = |tokens, first| Slots::Placed {
            rule,
            tokens,
            positions: SlotPositions::Start(first),
            block_table: None,
        };
        let slots = table.bind_slots(placed(chunk, gpu.step.slice(4..8)))?;

        // Q, K and V of a token are one row. Q stays there; K and V go to the cache.
        let f32 = ElementType::F32;
        let row = shape.qkv();
        let row_stride = u64::from(row);
        let packed = |heads| {
            HeadLayout::bshd(chunk, heads, head_dim).with_strides(
                u64::from(chunk) * row_stride,
                row_stride,
                head_dim.into(),
            )
        };
        let cache = HeadLayout::bshd(capacity, key_heads, head_dim);
        let cache_view = TensorView::cache(cache, 1, capacity, f32);
        let spec = RotateSpec::new(&rope.config, 1, chunk, packed(heads), f32)
            .with_key(packed(key_heads), f32)
            .with_value(packed(key_heads), f32)
            .with_key_to(cache_view)
            .with_value_to(cache_view);
        let prepared = kernel.prepare(&RopePlan::new(&spec, kernel.limits())?)?;

        // Context shift: keys where they lie in the cache, by slot, all by one angle for each pair.
        let delta = -(capacity / 2).cast_signed();
        let shift_spec =
            TableSpec::new(&frequencies.without_attention_factor()).with_slots(capacity);
        let shift_table = kernel.table(&shift_spec, 1)?;
        let shift_fill = shift_table.bind_positions(Positions::From(delta))?;
        let shift_slots = shift_table.bind_slots(placed(capacity, gpu.step.slice(8..12)))?;
        let moved = RotateSpec::new(&rope.config, 1, capacity, cache, f32)
            .with_query_from(cache_view)
            .with_rows(Rows::One);
        let moved = kernel.prepare(&RopePlan::new(&moved, kernel.limits())?)?;

        // The application's own kernels.
        let kernels = Kernels::new(&gpu, &shape, capacity, rope.softmax_factor);
        let of_tokens = |label, values: u32| {
            gpu.buffer(
                label,
                u64::from(chunk.next_multiple_of(TILE)) * u64::from(values),
            )
        };
        let ids = of_tokens("ids", 1);
        let x = of_tokens("residual stream", channels);
        let normed = of_tokens("normed", channels);
        let qkv = of_tokens("q, k, v", row);
        let attended = of_tokens("attended", heads * head_dim);
        let gate_up = of_tokens("gate, up", 2 * feed_forward);
        let gated = of_tokens("gated", feed_forward);
        let logits = gpu.buffer("logits", vocabulary.next_multiple_of(4).into());

        // An invocation of matmul.wgsl makes eight rows, a workgroup has 32.
        let groups = |rows: u32| rows.div_ceil(8 * 32);
        let mut loader = Loader {
            gpu: &gpu,
            file,
            progress,
        };
        let embedding = loader.matrix(&[("token_embd.weight", vocabulary)], channels)?;
        let mut layers = vec![Operation::Own(kernels.embed.bind(
            &gpu,
            &[&ids, &embedding, &x],
            channels.div_ceil(64),
        ))];
        let cache_bytes = u64::from(capacity) * u64::from(key_heads * head_dim) * 4;
        let most = gpu.device.limits().max_storage_buffer_binding_size;
        if cache_bytes > most {
            return Err(format!(
                "the keys of a layer take {cache_bytes} bytes in a context of {capacity}, this device binds {most}"
            )
            .into());
        }
        let (mut keys, mut shifts) = (Vec::new(), Vec::new());
        for layer in 0..shape.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let cache = ["keys", "values"].map(|label| gpu.buffer(label, cache_bytes / 4));
            let attention_norm = loader.vector(&name("attn_norm"), channels)?;
            let to_qkv = loader.matrix(
                &[
                    (&name("attn_q"), heads * head_dim),
                    (&name("attn_k"), key_heads * head_dim),
                    (&name("attn_v"), key_heads * head_dim),
                ],
                channels,
            )?;
            let output = loader.matrix(&[(&name("attn_output"), channels)], heads * head_dim)?;
            let norm = loader.vector(&name("ffn_norm"), channels)?;
            let to_gate_up = loader.matrix(
                &[
                    (&name("ffn_gate"), feed_forward),
                    (&name("ffn_up"), feed_forward),
                ],
                channels,
            )?;
            let down = loader.matrix(&[(&name("ffn_down"), channels)], feed_forward)?;

            let part = |first_head: u32| qkv.slice(u64::from(first_head * head_dim) * 4..);
            let operands = Operands::new(part(0))
                .with_key(part(heads))
                .with(Operand::Value, part(heads + key_heads))
                .with(Operand::KeyTo, cache[0].slice(..))
                .with(Operand::ValueTo, cache[1].slice(..));
            let own = |kernel: &Kernel, resources: &[&dyn Resource], workgroups| {
                Operation::Own(kernel.bind(&gpu, resources, workgroups))
            };
            let k = &kernels;
            layers.extend([
                own(&k.norm, &[&x, &attention_norm, &normed], 1),
                own(&k.to_qkv, &[&normed, &to_qkv, &qkv], groups(row)),
                Operation::Rope(prepared.bind(&operands, &table)?),
                own(
                    &k.attention,
                    &[&qkv, &cache[0], &cache[1], &attended],
                    heads,
                ),
                own(&k.output, &[&attended, &output, &x], groups(channels)),
                own(&k.norm, &[&x, &norm, &normed], 1),
                own(
                    &k.to_gate_up,
                    &[&normed, &to_gate_up, &gate_up],
                    groups(2 * feed_forward),
                ),
                own(&k.swiglu, &[&gate_up, &gated], feed_forward.div_ceil(64)),
                own(&k.down, &[&gated, &down, &x], groups(channels)),
            ]);
            let [key, _] = cache;
            shifts.push(moved.bind(&Operands::new(key.slice(..)), &shift_table)?);
            keys.push(key);
        }
        let norm = loader.vector("output_norm.weight", channels)?;
        let output = if loader.file.has("output.weight") {
            loader.matrix(&[("output.weight", vocabulary)], channels)?
        } else {
            embedding
        };
        let head = [
            kernels.last_norm.bind(&gpu, &[&x, &norm, &normed], 1),
            kernels
                .head
                .bind(&gpu, &[&normed, &output, &logits], groups(vocabulary)),
        ];
        Ok(Self {
            staging: gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size: logits.size(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
            gpu,
            shape,
            capacity,
            chunk,
            ids,
            logits,
            #[cfg(test)]
            keys,
            fill,
            slots,
            layers,
            head,
            shift: Shift {
                fill: shift_fill,
                slots: shift_slots,
                keys: shifts,
            },
            read: 0,
            oldest: 0,
        })
    }

    pub(crate) fn adapter(&self) -> &wgpu::AdapterInfo {
        &self.gpu.info
    }

    /// Tokens that the cache holds.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How often the cache was full and its older half was dropped.
    pub(crate) fn shifts(&self) -> u32 {
        self.oldest / (self.capacity / 2)
    }

    /// Forgets what it has read. What is in the cache is overwritten before it is looked at.
    #[cfg(test)]
    pub(crate) fn reset(&mut self) {
        (self.read, self.oldest) = (0, 0);
    }

    /// Reads on, and returns the logits of what comes next.
    pub(crate) fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.shape.vocabulary) {
            return Err(format!("token {id} is not one of {}", self.shape.vocabulary).into());
        }
        let mut chunks = ids.chunks(self.chunk as usize).peekable();
        while let Some(chunk) = chunks.next() {
            self.submit(chunk, chunks.peek().is_none())?;
        }
        self.read_logits()
    }

    /// Records and submits one step.
    fn submit(&mut self, ids: &[u32], is_last: bool) -> Result<()> {
        let tokens = u32::try_from(ids.len())?;
        let read = self
            .read
            .checked_add(tokens)
            .filter(|&read| i32::try_from(read).is_ok());
        let read = read.ok_or("the text is longer than there are positions")?;
        let is_full = read - self.oldest > self.capacity;
        if is_full {
            self.oldest += self.capacity / 2;
        }
        // `Step` of step.wgsl.
        let kept = self.read - self.oldest;
        let step = [tokens, self.read, self.oldest, kept];
        self.gpu
            .queue
            .write_buffer(&self.gpu.step, 0, bytemuck::cast_slice(&step));
        self.gpu
            .queue
            .write_buffer(&self.ids, 0, bytemuck::cast_slice(ids));

        let label = Some("step");
        let mut encoder = self
            .gpu
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label,
            ..Default::default()
        });
        if is_full {
            self.shift.fill.record(&mut pass, 1)?;
            self.shift.slots.record(&mut pass, kept)?;
            for keys in &self.shift.keys {
                keys.record(&mut pass, kept)?;
            }
        }
        self.fill.record(&mut pass, tokens)?;
        self.slots.record(&mut pass, tokens)?;
        for operation in &self.layers {
            match operation {
                Operation::Own(dispatch) => dispatch.record(&mut pass, tokens),
                Operation::Rope(rope) => rope.record(&mut pass, tokens)?,
            }
        }
        if is_last {
            // Of the last token alone.
            self.head
                .iter()
                .for_each(|dispatch| dispatch.record(&mut pass, 1));
        }
        drop(pass);
        if is_last {
            encoder.copy_buffer_to_buffer(&self.logits, 0, &self.staging, 0, self.logits.size());
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.read = read;
        Ok(())
    }

    fn read_logits(&self) -> Result<Vec<f32>> {
        let mut logits = self.read_back(&self.staging)?;
        logits.truncate(self.shape.vocabulary as usize);
        Ok(logits)
    }

    /// The keys of a layer: `[capacity, key heads, head_dim]`.
    #[cfg(test)]
    pub(crate) fn keys(&self, layer: usize) -> Result<Vec<f32>> {
        let staging = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: self.keys[layer].size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.keys[layer], 0, &staging, 0, staging.size());
        self.gpu.queue.submit([encoder.finish()]);
        self.read_back(&staging)
    }

    #[cfg(test)]
    pub(crate) fn set_keys(&self, layer: usize, keys: &[f32]) {
        self.gpu
            .queue
            .write_buffer(&self.keys[layer], 0, bytemuck::cast_slice(keys));
    }

    /// The tokens that were read, and the oldest of them that is kept.
    #[cfg(test)]
    pub(crate) fn range(&mut self) -> [&mut u32; 2] {
        [&mut self.read, &mut self.oldest]
    }

    fn read_back(&self, staging: &wgpu::Buffer) -> Result<Vec<f32>> {
        let (sender, receiver) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // Nobody is there to hear of it only where this function has returned already.
            let _ = sender.send(result);
        });
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
        receiver.recv()??;
        let values = bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..)?);
        staging.unmap();
        Ok(values)
    }
}

/// The application's own kernels, each compiled once.
struct Kernels {
    embed: Kernel,
    norm: Kernel,
    to_qkv: Kernel,
    attention: Kernel,
    output: Kernel,
    to_gate_up: Kernel,
    swiglu: Kernel,
    down: Kernel,
    last_norm: Kernel,
    head: Kernel,
}

impl Kernels {
    fn new(gpu: &Gpu, shape: &Shape, capacity: u32, softmax_factor: f64) -> Self {
        use Binding::{Read, Weights, Write};
        let Shape {
            channels,
            heads,
            key_heads,
            head_dim,
            feed_forward,
            vocabulary,
            ..
        } = *shape;
        let row = shape.qkv();
        let norm = |is_last| {
            let constants = [
                ("COLUMNS", f64::from(channels / 4)),
                ("EPSILON", shape.epsilon.into()),
                ("LAST", f64::from(u8::from(is_last))),
            ];
            gpu.kernel(
                "norm",
                include_str!("../kernels/norm.wgsl"),
                &[Read, Read, Write],
                &constants,
            )
        };
        let matmul = |name, rows: u32, inputs: u32, adds| {
            let constants = [
                ("COLUMNS", f64::from(inputs / 4)),
                ("QUADS", f64::from(rows.div_ceil(4))),
                ("WIDTH", f64::from(WIDTH)),
                ("ADD", f64::from(u8::from(adds))),
            ];
            gpu.kernel(
                name,
                include_str!("../kernels/matmul.wgsl"),
                &[Read, Weights, Write],
                &constants,
            )
        };
        let embed = [
            ("CHANNELS", f64::from(channels)),
            ("QUADS", f64::from(vocabulary.div_ceil(4))),
            ("WIDTH", f64::from(WIDTH)),
        ];
        let attention = [
            ("HEAD_DIM", f64::from(head_dim)),
            ("GROUP", f64::from(heads / key_heads)),
            ("KEY_HEADS", f64::from(key_heads)),
            ("CAPACITY", f64::from(capacity)),
            ("QUERY_STRIDE", f64::from(row)),
            ("SCALE", softmax_factor / f64::from(head_dim).sqrt()),
        ];
        let swiglu = [("CHANNELS", f64::from(feed_forward))];
        Self {
            embed: gpu.kernel(
                "embed",
                include_str!("../kernels/embed.wgsl"),
                &[Read, Weights, Write],
                &embed,
            ),
            norm: norm(false),
            to_qkv: matmul("to q, k, v", row, channels, false),
            attention: gpu.kernel(
                "attention",
                include_str!("../kernels/attention.wgsl"),
                &[Read, Read, Read, Write],
                &attention,
            ),
            // This one and `down` add to the residual stream.
            output: matmul("output", channels, heads * head_dim, true),
            to_gate_up: matmul("to gate, up", 2 * feed_forward, channels, false),
            swiglu: gpu.kernel(
                "swiglu",
                include_str!("../kernels/swiglu.wgsl"),
                &[Read, Write],
                &swiglu,
            ),
            down: matmul("down", channels, feed_forward, true),
            last_norm: norm(true),
            head: matmul("head", vocabulary, channels, false),
        }
    }
}

/// Takes weights from the file to the device.
struct Loader<'a> {
    gpu: &'a Gpu,
    file: &'a mut ModelFile,
    progress: &'a ProgressBar,
}

impl Loader<'_> {
    fn vector(&mut self, name: &str, size: u32) -> Result<wgpu::Buffer> {
        let values: Vec<f32> = self.file.tensor(name, &[size])?.to_vec1()?;
        self.progress.inc(values.len() as u64 * 4);
        Ok(self.gpu.upload(name, &values))
    }

    /// Matrices `[rows, inputs]`, one below the other, transposed.
    fn matrix(&mut self, parts: &[(&str, u32)], inputs: u32) -> Result<wgpu::TextureView> {
        let matrices: Result<Vec<_>> = parts
            .iter()
            .map(|&(name, rows)| self.file.tensor(name, &[rows, inputs]))
            .collect();
        let all = Tensor::cat(&matrices?, 0)?;
        // Whole fours: a vocabulary may have any size.
        let missing = all.dim(0)?.next_multiple_of(4) - all.dim(0)?;
        let all = all.pad_with_zeros(0, 0, missing)?.t()?.contiguous()?;
        let values: Vec<f32> = all.flatten_all()?.to_vec1()?;
        self.progress.inc(values.len() as u64 * 4);
        let label = parts.first().map_or("", |&(name, _)| name);
        self.gpu.upload_weights(label, values)
    }
}
