//! A rotation on a device and by the CPU twin, whole buffers compared bit for bit.

use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    CosSinTable, Element, Frequencies, GpuContext, HeadLayout, Limits, Operands, PlannedDispatch,
    Positions, PreparedRope, Result, RopeConfig, RopePlan, RotateSpec, Rows, TableSpec, reference,
};

use super::{CONTEXTS, NO_USAGE, heads, name, values};

/// A rotation with where its tensors lie: byte offsets in one buffer or two.
#[derive(Debug, Clone)]
pub struct Case {
    pub config: RopeConfig,
    pub batch: u32,
    pub tokens: u32,
    pub query: HeadLayout,
    pub key: Option<HeadLayout>,
    pub rows: Rows,
    pub heads_per_invocation: Option<u32>,
    pub heads_at_once: Option<u32>,
    pub workgroup: Option<u32>,
    /// Pairs of the window that are rotated, if not all.
    pub rotated_pairs: Option<u32>,
    pub query_offset: u64,
    pub key_offset: u64,
    pub shared: bool,
    /// Planned as for a GPU, whatever the device.
    pub as_gpu: bool,
    /// Largest binding and grid planned for, where they are smaller than the device's.
    pub binding: Option<u64>,
    pub grid: Option<u32>,
}

/// What was compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Compared {
    pub channels: usize,
    /// Rotations that were recorded, of one token at least.
    pub rotations: usize,
    /// Dispatches that they took.
    pub dispatches: usize,
}

impl Case {
    pub fn new(config: &RopeConfig, batch: u32, tokens: u32, query: HeadLayout) -> Self {
        Self {
            config: config.clone(),
            batch,
            tokens,
            query,
            key: None,
            rows: Rows::Shared,
            heads_per_invocation: None,
            heads_at_once: None,
            workgroup: None,
            rotated_pairs: None,
            query_offset: 0,
            key_offset: 0,
            shared: false,
            as_gpu: false,
            binding: None,
            grid: None,
        }
    }

    pub fn with_key(self, key: HeadLayout) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    pub fn spec<T: Element>(&self, layout: HeadLayout) -> RotateSpec {
        let mut spec = RotateSpec::new(&self.config, self.batch, self.tokens, layout, T::TYPE)
            .with_rows(self.rows);
        if let Some(heads) = self.heads_per_invocation {
            spec = spec.with_heads_per_invocation(heads);
        }
        if let Some(heads) = self.heads_at_once {
            spec = spec.with_heads_at_once(heads);
        }
        if let Some(invocations) = self.workgroup {
            spec = spec.with_workgroup(invocations);
        }
        if let Some(pairs) = self.rotated_pairs {
            spec = spec.with_rotated_pairs(pairs);
        }
        spec
    }

    /// The plan for a device, of query and key of these types.
    pub fn plan<Q: Element, K: Element>(&self, own: &Limits) -> Result<RopePlan> {
        let mut spec = self.spec::<Q>(self.query);
        if let Some(key) = self.key {
            spec = spec.with_key(key, K::TYPE);
        }
        let limits = Limits {
            cpu: own.cpu && !self.as_gpu,
            max_storage_buffer_binding_size: (self.binding)
                .map_or(own.max_storage_buffer_binding_size, |most| {
                    most.min(own.max_storage_buffer_binding_size)
                }),
            max_compute_workgroups_per_dimension: (self.grid)
                .map_or(own.max_compute_workgroups_per_dimension, |most| {
                    most.min(own.max_compute_workgroups_per_dimension)
                }),
            ..*own
        };
        RopePlan::new(&spec, &limits)
    }

    /// Words of a buffer that holds a view at a byte offset, and some behind it.
    fn words<T: Element>(&self, layout: HeadLayout, offset: u64) -> usize {
        let end = offset + layout.end(self.batch, self.tokens).unwrap() * T::TYPE.bytes();
        usize::try_from(end.div_ceil(4) + 3).unwrap()
    }

    /// Rotates the first `tokens` tokens on a device and on the CPU, and compares whole buffers: what is no channel of a window is
    /// the canary. Returns the number of channels compared.
    pub fn check<T: Element>(
        &self,
        context: &GpuContext,
        table: &CosSinTable,
        rows: &[[f32; 2]],
        tokens: u32,
        seed: u64,
    ) -> usize {
        let plan = self.plan::<T, T>(context.kernel().limits()).unwrap();
        let prepared = context.kernel().prepare(&plan).unwrap();
        self.check_prepared::<T, T>(context, &prepared, (table, rows), &[tokens], seed)
            .channels
    }

    /// The same for query and key of their own types, prepared before; one rotation after another, of so many tokens each.
    pub fn check_prepared<Q: Element, K: Element>(
        &self,
        context: &GpuContext,
        prepared: &PreparedRope,
        (table, rows): (&CosSinTable, &[[f32; 2]]),
        tokens: &[u32],
        seed: u64,
    ) -> Compared {
        let mut random = fastrand::Rng::with_seed(seed);
        let query_words = self.words::<Q>(self.query, self.query_offset);
        let key_words = self
            .key
            .map(|key| self.words::<K>(key, self.key_offset))
            .unwrap_or_default();
        let mut buffers = match self.key {
            None => vec![noise::<Q>(&mut random, query_words)],
            Some(_) if !self.shared => vec![
                noise::<Q>(&mut random, query_words),
                noise::<K>(&mut random, key_words),
            ],
            Some(key) => {
                let mut words = noise::<Q>(&mut random, query_words.max(key_words));
                if Q::TYPE != K::TYPE {
                    let of_keys = noise::<K>(&mut random, words.len());
                    self.lay::<K>(key, self.key_offset, &of_keys, &mut words);
                }
                vec![words]
            }
        };

        let uploaded: Vec<_> = buffers
            .iter()
            .map(|data| context.upload(data, NO_USAGE).unwrap())
            .collect();
        let mut operands = Operands::new(uploaded[0].slice(self.query_offset..));
        if self.key.is_some() {
            operands = operands.with_key(uploaded.last().unwrap().slice(self.key_offset..));
        }
        let dispatch = prepared.bind(&operands, table).unwrap();
        context
            .run(|pass| {
                tokens
                    .iter()
                    .try_for_each(|&tokens| dispatch.record(pass, tokens))
            })
            .unwrap();

        // The twin takes one tensor at a time.
        for &tokens in tokens {
            self.turn::<Q>(self.query, self.query_offset, rows, tokens, &mut buffers[0]);
            if let Some(key) = self.key {
                let buffer = buffers.last_mut().unwrap();
                self.turn::<K>(key, self.key_offset, rows, tokens, buffer);
            }
        }
        for (expected, buffer) in buffers.iter().zip(&uploaded) {
            let made: Vec<u32> = context.read_blocking(buffer, expected.len()).unwrap();
            for (at, (made, expected)) in made.iter().zip(expected).enumerate() {
                assert!(
                    made == expected,
                    "{}: word {at} is {made:08x} and not {expected:08x}, {tokens:?} tokens of {self:?}",
                    name(context)
                );
            }
        }
        let heads = self.query.heads + self.key.map_or(0, |key| key.heads);
        let once = (self.batch * heads * self.config.rotary_dim()) as usize;
        Compared {
            channels: tokens.iter().map(|&tokens| tokens as usize * once).sum(),
            rotations: tokens.iter().filter(|&&tokens| tokens > 0).count(),
            dispatches: tokens
                .iter()
                .map(|&tokens| {
                    let recorded = |step: &&PlannedDispatch| step.workgroups(tokens)[1] > 0;
                    dispatch.planned().filter(recorded).count()
                })
                .sum(),
        }
    }

    /// Every head of a view: batch entry, token, and the element in the buffer where it starts.
    fn places<T: Element>(
        &self,
        layout: HeadLayout,
        offset: u64,
        tokens: u32,
    ) -> impl Iterator<Item = (u32, u32, usize)> {
        let moved = layout.with_offset(layout.offset + offset / T::TYPE.bytes());
        heads(moved, self.batch, tokens)
    }

    /// Copies the heads of a view from other words.
    fn lay<T: Element>(&self, layout: HeadLayout, offset: u64, from: &[u32], to: &mut [u32]) {
        let (from, to): (&[T], &mut [T]) =
            (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
        for (_, _, at) in self.places::<T>(layout, offset, self.tokens) {
            let head = at..at + layout.head_dim as usize;
            to[head.clone()].copy_from_slice(&from[head]);
        }
    }

    /// Rotates a view by the twin, a head at a time.
    fn turn<T: Element>(
        &self,
        layout: HeadLayout,
        offset: u64,
        rows: &[[f32; 2]],
        tokens: u32,
        words: &mut [u32],
    ) {
        let spec = self.spec::<T>(layout);
        let one = Self {
            batch: 1,
            tokens: 1,
            ..self.clone()
        }
        .spec::<T>(HeadLayout::bshd(1, 1, layout.head_dim));
        let width = self.config.rotary_dim() as usize / 2;
        let elements: &mut [T] = bytemuck::cast_slice_mut(words);
        for (b, t, at) in self.places::<T>(layout, offset, tokens) {
            // Fewer tokens of the same layout, the rows still those of the plan.
            let row = usize::try_from(spec.row(b, t)).unwrap();
            let head = &mut elements[at..at + layout.head_dim as usize];
            reference::rotate(&one, &rows[row * width..][..width], head, None).unwrap();
        }
    }
}

/// Values that neither overflow nor become denormal, in words.
fn noise<T: Element>(random: &mut fastrand::Rng, words: usize) -> Vec<u32> {
    let count = words * 4 / size_of::<T>();
    let values: Vec<T> = values(random, count).into_iter().map(T::narrow).collect();
    bytemuck::pod_collect_to_vec(&values)
}

/// A table of these positions on a device and, equal to it bit for bit, on the CPU.
pub fn tables(
    context: &GpuContext,
    frequencies: &Frequencies,
    positions: &[i32],
) -> (CosSinTable, Vec<[f32; 2]>) {
    let rows = u32::try_from(positions.len()).unwrap();
    let table = context
        .kernel()
        .table(&TableSpec::new(frequencies), rows)
        .unwrap();
    let ids = context.upload(positions, NO_USAGE).unwrap();
    let fill = table.bind_positions(Positions::Ids(ids.slice(..))).unwrap();
    context.run(|pass| fill.record(pass, rows)).unwrap();
    let twin = reference::table(&TableSpec::new(frequencies), positions.into()).unwrap();
    (table, twin)
}

pub const POSITIONS: [i32; 9] = [
    0,
    4095,
    131_071,
    (1 << 24) + 1,
    i32::MIN,
    i32::MAX,
    -1,
    77,
    3,
];

/// The positions above over and over.
pub fn positions(count: u64) -> Vec<i32> {
    POSITIONS
        .into_iter()
        .cycle()
        .take(usize::try_from(count).unwrap())
        .collect()
}

pub fn check_all(case: &Case, seed: u64) -> usize {
    check_on(&CONTEXTS, case, seed)
}

pub fn check_on(contexts: &[GpuContext], case: &Case, seed: u64) -> usize {
    let frequencies = Frequencies::new(&case.config).unwrap();
    let needed = case.spec::<f32>(case.query).rows_needed(case.tokens);
    contexts
        .iter()
        .map(|context| {
            let (table, rows) = tables(context, &frequencies, &positions(needed));
            case.check::<f32>(context, &table, &rows, case.tokens, seed)
                + case.check::<f16>(context, &table, &rows, case.tokens, seed)
                + case.check::<bf16>(context, &table, &rows, case.tokens, seed)
        })
        .sum()
}
