//! A Llama on the GPU: what is bound once, and the step that is recorded for each token.

use std::sync::mpsc;

use candle_core::Tensor;
use indicatif::ProgressBar;
use wgpu_rope::config::LayerRope;
use wgpu_rope::{
    CosSinTable, ElementType, Frequencies, HeadLayout, KernelOptions, Operand, Operands, Positions,
    PreparedRope, RopeDispatch, RopeError, RopeKernel, RopePlan, RotateSpec, Rows, SlotFill,
    SlotPositions, SlotRule, Slots, TableFill, TableSpec, TensorView, wgpu,
};

use crate::file::{ModelFile, Result, Shape};
use crate::gpu::{Binding, Dispatch, Gpu, Kernel, TILE, WIDTH, watched};

#[cfg(test)]
mod hooks;

/// Tokens of a prompt that are taken at once.
pub(crate) const CHUNK: u32 = 64;

/// Half of the smallest cache is a chunk that fills a tile.
const LEAST_CONTEXT: u32 = 2 * TILE;

/// Whether a cache of so many tokens is large enough.
pub(crate) fn check_context(context: u32) -> Result<()> {
    if context < LEAST_CONTEXT {
        return Err(
            format!("a context of {context} is too small: {LEAST_CONTEXT} is the least").into(),
        );
    }
    Ok(())
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
    rope: Rope,
    embed: Dispatch,
    layers: Vec<Layer>,
    head: [Dispatch; 2],
    /// Tokens that were read.
    read: u32,
    /// The oldest of them that is in the cache.
    oldest: u32,
}

impl Model {
    /// Loads a model. Its cache holds `capacity` tokens.
    pub(crate) fn load(file: &ModelFile, capacity: u32, progress: &ProgressBar) -> Result<Self> {
        check_context(capacity)?;
        let rope = file.rope()?;
        let setup = Setup {
            shape: file.shape()?,
            frequencies: Frequencies::for_length(&rope.config, capacity.into())?,
            rope,
            capacity,
            chunk: CHUNK.min(capacity / 2),
        };
        let gpu = Gpu::new(&setup.table(), setup.chunk)?;
        let token_bytes = u64::from(setup.shape.key_row()) * 4;
        let most = gpu.device.limits().max_storage_buffer_binding_size / token_bytes;
        if u64::from(capacity) > most {
            return Err(format!(
                "a context of {capacity} is too large: this device binds the keys of {most} tokens at most"
            )
            .into());
        }
        let device = gpu.device.clone();
        watched(&device, || Self::new(gpu, file, &setup, progress)).map_err(|error| {
            if !matches!(error.downcast_ref(), Some(RopeError::OutOfMemory { .. })) {
                return error;
            }
            let of_layer = 2 * u64::from(capacity) * token_bytes;
            let cache = of_layer.saturating_mul(setup.shape.layers.into());
            let [weights, cache] = [file.f32_bytes(), cache].map(|bytes| bytes / 1_000_000);
            format!(
                "the device does not have the memory for {weights} MB of weights and {cache} MB of keys and values: a context smaller than \
                 {capacity} takes less"
            )
            .into()
        })
    }

    fn new(gpu: Gpu, file: &ModelFile, setup: &Setup, progress: &ProgressBar) -> Result<Self> {
        let loader = Loader {
            kernels: Kernels::new(&gpu, setup),
            buffers: Buffers::new(&gpu, setup),
            rope: Rope::new(&gpu, setup)?,
            gpu: &gpu,
            file,
            setup,
            progress,
        };
        let shape = setup.shape;
        let embedding =
            loader.matrix(&[("token_embd.weight", shape.vocabulary)], shape.channels)?;
        let embed = loader.embed(&embedding);
        let layers = (0..shape.layers).map(|number| loader.layer(number));
        let layers = layers.collect::<Result<_>>()?;
        let head = loader.head(embedding)?;
        let Loader { rope, buffers, .. } = loader;
        Ok(Self {
            staging: gpu.staging(&buffers.logits),
            gpu,
            shape,
            capacity: setup.capacity,
            chunk: setup.chunk,
            ids: buffers.ids,
            logits: buffers.logits,
            rope,
            embed,
            layers,
            head,
            read: 0,
            oldest: 0,
        })
    }

    pub(crate) fn adapter(&self) -> &wgpu::AdapterInfo {
        &self.gpu.info
    }

    /// How often the cache was full and its older half was dropped.
    pub(crate) fn shifts(&self) -> u32 {
        self.oldest / (self.capacity / 2)
    }

    /// Reads on, and returns the logits of what comes next.
    pub(crate) fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.read_prompt(ids, &ProgressBar::hidden())
    }

    /// The same with a bar that counts the tokens.
    pub(crate) fn read_prompt(&mut self, ids: &[u32], progress: &ProgressBar) -> Result<Vec<f32>> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.shape.vocabulary) {
            return Err(format!("token {id} is not one of {}", self.shape.vocabulary).into());
        }
        let device = self.gpu.device.clone();
        watched(&device, || {
            let mut before = None;
            let mut chunks = ids.chunks(self.chunk as usize).peekable();
            while let Some(chunk) = chunks.next() {
                let step = self.submit(chunk, chunks.peek().is_none())?;
                // While the device does one step the next is recorded, and no more than that: the bar shows what is done.
                if let Some((step, tokens)) = before.replace((step, chunk.len() as u64)) {
                    self.gpu.wait(Some(step))?;
                    progress.inc(tokens);
                }
            }
            self.read_logits()
        })
    }

    /// Records and submits one step.
    fn submit(&mut self, ids: &[u32], is_last: bool) -> Result<wgpu::SubmissionIndex> {
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
            self.rope.shift.fill(&mut pass, 1, kept)?;
            for layer in &self.layers {
                layer.shift.record(&mut pass, kept)?;
            }
        }
        self.rope.step.fill(&mut pass, tokens, tokens)?;
        self.embed.record(&mut pass, tokens);
        for operation in self.layers.iter().flat_map(|layer| &layer.operations) {
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
        self.read = read;
        Ok(self.gpu.queue.submit([encoder.finish()]))
    }

    fn read_logits(&self) -> Result<Vec<f32>> {
        let mut logits = self.read_back(&self.staging)?;
        logits.truncate(self.shape.vocabulary as usize);
        Ok(logits)
    }

    fn read_back(&self, staging: &wgpu::Buffer) -> Result<Vec<f32>> {
        let (sender, receiver) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // Nobody is there to hear of it only where this function has returned already.
            let _ = sender.send(result);
        });
        self.gpu.wait(None)?;
        receiver.recv()??;
        let values = bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..)?);
        staging.unmap();
        Ok(values)
    }
}

/// What a model is loaded for.
struct Setup {
    shape: Shape,
    rope: LayerRope,
    frequencies: Frequencies,
    capacity: u32,
    /// Tokens of a step at most.
    chunk: u32,
}

impl Setup {
    /// Rows of cos and sin, and slots, of the tokens of a step.
    fn table(&self) -> TableSpec {
        TableSpec::new(&self.frequencies).with_slots(self.chunk)
    }
}

/// What rotates, which is the crate's: in every step, and where keys are moved.
#[derive(Debug)]
struct Rope {
    /// Q where it is, K on its way to the cache, and V with it.
    step: Rotation,
    /// Keys in the cache, down by half of it.
    shift: Rotation,
}

impl Rope {
    fn new(gpu: &Gpu, setup: &Setup) -> Result<Self> {
        let (config, capacity, chunk) = (&setup.rope.config, setup.capacity, setup.chunk);
        let kernel = RopeKernel::new(&gpu.device, &KernelOptions::default())?;
        let rule = SlotRule::contiguous(1, capacity)?.with_ring(capacity, 0)?;
        let placed = |tokens, first| Slots::Placed {
            rule,
            tokens,
            positions: SlotPositions::Start(first),
            block_table: None,
        };
        let Shape {
            heads,
            key_heads,
            head_dim,
            ..
        } = setup.shape;
        let f32 = ElementType::F32;
        let cache = HeadLayout::bshd(capacity, key_heads, head_dim);
        let cache_view = TensorView::cache(cache, 1, capacity, f32);

        // Positions and slots follow from words of the step's own buffer. Q, K and V of a token are one row. Q stays there; K and V go to
        // the cache.
        let row = u64::from(setup.shape.qkv());
        let packed = |heads| {
            let layout = HeadLayout::bshd(chunk, heads, head_dim);
            layout.with_strides(u64::from(chunk) * row, row, head_dim.into())
        };
        let step = Rotation::new(
            &kernel,
            (&setup.table(), chunk),
            Positions::Start(gpu.step.slice(12..16)),
            placed(chunk, gpu.step.slice(4..8)),
            &RotateSpec::new(config, 1, chunk, packed(heads), f32)
                .with_key(packed(key_heads), f32)
                .with_value(packed(key_heads), f32)
                .with_key_to(cache_view)
                .with_value_to(cache_view),
        )?;

        // Keys where they lie in the cache, by slot, all by one angle for each pair. They have had the attention factor once.
        let frequencies = setup.frequencies.without_attention_factor();
        let shift = Rotation::new(
            &kernel,
            (&TableSpec::new(&frequencies).with_slots(capacity), 1),
            Positions::From(-(capacity / 2).cast_signed()),
            placed(capacity, gpu.step.slice(8..12)),
            &RotateSpec::new(config, 1, capacity, cache, f32)
                .with_query_from(cache_view)
                .with_rows(Rows::One),
        )?;
        Ok(Self { step, shift })
    }
}

/// A rotation with its table, and with what fills that.
#[derive(Debug)]
struct Rotation {
    table: CosSinTable,
    rows: TableFill,
    slots: SlotFill,
    prepared: PreparedRope,
}

impl Rotation {
    /// By a table of so many rows.
    fn new(
        kernel: &RopeKernel,
        (table, rows): (&TableSpec, u32),
        positions: Positions<'_>,
        slots: Slots<'_>,
        spec: &RotateSpec,
    ) -> Result<Self> {
        let table = kernel.table(table, rows)?;
        Ok(Self {
            rows: table.bind_positions(positions)?,
            slots: table.bind_slots(slots)?,
            prepared: kernel.prepare(&RopePlan::new(spec, kernel.limits())?)?,
            table,
        })
    }

    fn bind(&self, operands: &Operands<'_>) -> Result<RopeDispatch> {
        Ok(self.prepared.bind(operands, &self.table)?)
    }

    /// Fills the table for a step.
    fn fill(&self, pass: &mut wgpu::ComputePass<'_>, rows: u32, slots: u32) -> Result<()> {
        self.rows.record(pass, rows)?;
        Ok(self.slots.record(pass, slots)?)
    }
}

/// What a step works on.
struct Buffers {
    ids: wgpu::Buffer,
    /// The residual stream.
    x: wgpu::Buffer,
    normed: wgpu::Buffer,
    qkv: wgpu::Buffer,
    attended: wgpu::Buffer,
    gate_up: wgpu::Buffer,
    gated: wgpu::Buffer,
    logits: wgpu::Buffer,
}

impl Buffers {
    fn new(gpu: &Gpu, setup: &Setup) -> Self {
        let shape = &setup.shape;
        let of_tokens = |label, values: u32| {
            let tokens = u64::from(setup.chunk.next_multiple_of(TILE));
            gpu.buffer(label, tokens * u64::from(values))
        };
        Self {
            ids: of_tokens("ids", 1),
            x: of_tokens("residual stream", shape.channels),
            normed: of_tokens("normed", shape.channels),
            qkv: of_tokens("q, k, v", shape.qkv()),
            attended: of_tokens("attended", shape.heads * shape.head_dim),
            gate_up: of_tokens("gate, up", 2 * shape.feed_forward),
            gated: of_tokens("gated", shape.feed_forward),
            logits: gpu.buffer("logits", shape.vocabulary.next_multiple_of(4).into()),
        }
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
    fn new(gpu: &Gpu, setup: &Setup) -> Self {
        use Binding::{Read, Weights, Write};
        let Shape {
            channels,
            heads,
            key_heads,
            head_dim,
            feed_forward,
            vocabulary,
            ..
        } = setup.shape;
        let row = setup.shape.qkv();
        let norm = |is_last| {
            let constants = [
                ("COLUMNS", f64::from(channels / 4)),
                ("EPSILON", setup.shape.epsilon.into()),
                ("LAST", f64::from(u8::from(is_last))),
            ];
            gpu.kernel(
                "norm",
                include_str!("../kernels/norm.wgsl"),
                &[Read, Read, Write],
                &constants,
                false,
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
                true,
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
            ("CAPACITY", f64::from(setup.capacity)),
            ("QUERY_STRIDE", f64::from(row)),
            (
                "SCALE",
                setup.rope.softmax_factor / f64::from(head_dim).sqrt(),
            ),
        ];
        let swiglu = [("CHANNELS", f64::from(feed_forward))];
        Self {
            embed: gpu.kernel(
                "embed",
                include_str!("../kernels/embed.wgsl"),
                &[Read, Weights, Write],
                &embed,
                false,
            ),
            norm: norm(false),
            to_qkv: matmul("to q, k, v", row, channels, false),
            attention: gpu.kernel(
                "attention",
                include_str!("../kernels/attention.wgsl"),
                &[Read, Read, Read, Write],
                &attention,
                false,
            ),
            // This one and `down` add to the residual stream.
            output: matmul("output", channels, heads * head_dim, true),
            to_gate_up: matmul("to gate, up", 2 * feed_forward, channels, false),
            swiglu: gpu.kernel(
                "swiglu",
                include_str!("../kernels/swiglu.wgsl"),
                &[Read, Write],
                &swiglu,
                false,
            ),
            down: matmul("down", channels, feed_forward, true),
            last_norm: norm(true),
            head: matmul("head", vocabulary, channels, false),
        }
    }
}

/// One dispatch of a layer.
#[derive(Debug)]
enum Operation {
    Own(Dispatch),
    /// Rotates Q and K, and appends K and V to the cache.
    Rope(RopeDispatch),
}

#[derive(Debug)]
struct Layer {
    operations: [Operation; 9],
    /// Rotates its keys in the cache.
    shift: RopeDispatch,
    /// `[capacity, key heads, head_dim]`.
    #[cfg(test)]
    keys: wgpu::Buffer,
}

/// Takes weights from the file to the device, and binds them.
struct Loader<'a> {
    gpu: &'a Gpu,
    file: &'a ModelFile,
    setup: &'a Setup,
    progress: &'a ProgressBar,
    kernels: Kernels,
    buffers: Buffers,
    rope: Rope,
}

impl Loader<'_> {
    fn embed(&self, embedding: &wgpu::TextureView) -> Dispatch {
        let Buffers { ids, x, .. } = &self.buffers;
        let resources = [whole(ids), weights(embedding), whole(x)];
        let groups = self.setup.shape.channels.div_ceil(64);
        self.kernels.embed.bind(self.gpu, &resources, groups)
    }

    fn layer(&self, number: u32) -> Result<Layer> {
        let Shape {
            channels,
            heads,
            key_heads,
            head_dim,
            feed_forward,
            ..
        } = self.setup.shape;
        let Buffers {
            x,
            normed,
            qkv,
            attended,
            gate_up,
            gated,
            ..
        } = &self.buffers;
        let name = |part: &str| format!("blk.{number}.{part}.weight");
        let attention_norm = self.vector(&name("attn_norm"), channels)?;
        let to_qkv = self.matrix(
            &[
                (&name("attn_q"), heads * head_dim),
                (&name("attn_k"), key_heads * head_dim),
                (&name("attn_v"), key_heads * head_dim),
            ],
            channels,
        )?;
        let output = self.matrix(&[(&name("attn_output"), channels)], heads * head_dim)?;
        let norm = self.vector(&name("ffn_norm"), channels)?;
        let to_gate_up = self.matrix(
            &[
                (&name("ffn_gate"), feed_forward),
                (&name("ffn_up"), feed_forward),
            ],
            channels,
        )?;
        let down = self.matrix(&[(&name("ffn_down"), channels)], feed_forward)?;

        let cache_values = u64::from(self.setup.capacity) * u64::from(self.setup.shape.key_row());
        let [keys, values] = ["keys", "values"].map(|label| self.gpu.buffer(label, cache_values));
        let part = |first_head: u32| qkv.slice(u64::from(first_head * head_dim) * 4..);
        let rotated = Operands::new(part(0))
            .with_key(part(heads))
            .with(Operand::Value, part(heads + key_heads))
            .with(Operand::KeyTo, keys.slice(..))
            .with(Operand::ValueTo, values.slice(..));

        let own = |kernel: &Kernel, resources: &[wgpu::BindingResource<'_>], groups| {
            Operation::Own(kernel.bind(self.gpu, resources, groups))
        };
        let norm_of = |norm| {
            own(
                &self.kernels.norm,
                &[whole(x), whole(norm), whole(normed)],
                1,
            )
        };
        let product = |kernel, from, matrix, to, rows| {
            let resources = [whole(from), weights(matrix), whole(to)];
            own(kernel, &resources, matmul_groups(rows))
        };
        let k = &self.kernels;
        Ok(Layer {
            operations: [
                norm_of(&attention_norm),
                product(&k.to_qkv, normed, &to_qkv, qkv, self.setup.shape.qkv()),
                Operation::Rope(self.rope.step.bind(&rotated)?),
                own(
                    &k.attention,
                    &[qkv, &keys, &values, attended].map(whole),
                    heads,
                ),
                product(&k.output, attended, &output, x, channels),
                norm_of(&norm),
                product(
                    &k.to_gate_up,
                    normed,
                    &to_gate_up,
                    gate_up,
                    2 * feed_forward,
                ),
                own(
                    &k.swiglu,
                    &[gate_up, gated].map(whole),
                    feed_forward.div_ceil(64),
                ),
                product(&k.down, gated, &down, x, channels),
            ],
            shift: self.rope.shift.bind(&Operands::new(keys.slice(..)))?,
            #[cfg(test)]
            keys,
        })
    }

    /// From the last token to its logits. A model without a matrix for that takes the embedding's.
    fn head(&self, embedding: wgpu::TextureView) -> Result<[Dispatch; 2]> {
        let Shape {
            channels,
            vocabulary,
            ..
        } = self.setup.shape;
        let Buffers {
            x, normed, logits, ..
        } = &self.buffers;
        let norm = self.vector("output_norm.weight", channels)?;
        let output = if self.file.has("output.weight") {
            self.matrix(&[("output.weight", vocabulary)], channels)?
        } else {
            embedding
        };
        let product = [whole(normed), weights(&output), whole(logits)];
        Ok([
            self.kernels
                .last_norm
                .bind(self.gpu, &[x, &norm, normed].map(whole), 1),
            self.kernels
                .head
                .bind(self.gpu, &product, matmul_groups(vocabulary)),
        ])
    }

    fn vector(&self, name: &str, size: u32) -> Result<wgpu::Buffer> {
        let values: Vec<f32> = self.file.tensor(name, &[size])?.to_vec1()?;
        self.progress.inc(values.len() as u64 * 4);
        Ok(self.gpu.upload(name, &values))
    }

    /// Matrices `[rows, inputs]`, one below the other, transposed.
    fn matrix(&self, parts: &[(&str, u32)], inputs: u32) -> Result<wgpu::TextureView> {
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

/// Workgroups for a product of so many rows: an invocation of `matmul.wgsl` makes eight, a workgroup has 32 of these.
fn matmul_groups(rows: u32) -> u32 {
    rows.div_ceil(8 * 32)
}

fn whole(buffer: &wgpu::Buffer) -> wgpu::BindingResource<'_> {
    buffer.as_entire_binding()
}

fn weights(view: &wgpu::TextureView) -> wgpu::BindingResource<'_> {
    wgpu::BindingResource::TextureView(view)
}
