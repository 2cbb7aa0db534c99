//! A rotation on a device and by the CPU twin, whole buffers compared bit for bit.

use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    CosSinTable, Element, Frequencies, GpuContext, HeadLayout, Limits, Operands, Positions,
    RopeConfig, RopePlan, RotateSpec, Rows, TableSpec, reference,
};

use super::{CONTEXTS, NO_USAGE, name, values};

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
    pub query_offset: u64,
    pub key_offset: u64,
    pub shared: bool,
    /// Planned as for a GPU, whatever the device.
    pub as_gpu: bool,
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
            query_offset: 0,
            key_offset: 0,
            shared: false,
            as_gpu: false,
        }
    }

    pub fn with_key(self, key: HeadLayout) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    pub fn spec<T: Element>(&self, layout: HeadLayout) -> RotateSpec {
        let spec = RotateSpec::new(&self.config, self.batch, self.tokens, layout, T::TYPE);
        match self.heads_per_invocation {
            Some(heads) => spec.with_heads_per_invocation(heads),
            None => spec,
        }
        .with_rows(self.rows)
    }

    /// Elements of a buffer that holds a view at a byte offset, and some behind it.
    fn elements<T: Element>(&self, layout: HeadLayout, offset: u64) -> usize {
        let end = offset / T::TYPE.bytes() + layout.end(self.batch, self.tokens).unwrap();
        usize::try_from(end.next_multiple_of(2) + 6).unwrap()
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
        let mut random = fastrand::Rng::with_seed(seed);
        let mut data = |count| -> Vec<T> {
            values(&mut random, count)
                .into_iter()
                .map(T::narrow)
                .collect()
        };
        let mut buffers = match self.key {
            Some(key) if !self.shared => vec![
                data(self.elements::<T>(self.query, self.query_offset)),
                data(self.elements::<T>(key, self.key_offset)),
            ],
            Some(key) => {
                let q = self.elements::<T>(self.query, self.query_offset);
                vec![data(q.max(self.elements::<T>(key, self.key_offset)))]
            }
            None => vec![data(self.elements::<T>(self.query, self.query_offset))],
        };

        let mut spec = self.spec::<T>(self.query);
        if let Some(key) = self.key {
            spec = spec.with_key(key, T::TYPE);
        }
        let own = *context.kernel().limits();
        let limits = Limits {
            cpu: own.cpu && !self.as_gpu,
            ..own
        };
        let plan = RopePlan::new(&spec, &limits).unwrap();
        let prepared = context.kernel().prepare(&plan).unwrap();
        let uploaded: Vec<_> = buffers
            .iter()
            .map(|data| context.upload(data, NO_USAGE).unwrap())
            .collect();
        let mut operands = Operands::new(uploaded[0].slice(self.query_offset..));
        if self.key.is_some() {
            operands = operands.with_key(uploaded.last().unwrap().slice(self.key_offset..));
        }
        let dispatch = prepared.bind(&operands, table).unwrap();
        context.run(|pass| dispatch.record(pass, tokens)).unwrap();

        // The twin takes one tensor at a time, counted from the start of its buffer.
        let mut turn = |buffer: usize, layout: HeadLayout, offset: u64| {
            let moved = layout.with_offset(layout.offset + offset / T::TYPE.bytes());
            // Fewer tokens of the same layout, the rows still those of the plan.
            let spec = RotateSpec::new(&self.config, 1, 1, moved, T::TYPE);
            for b in 0..self.batch {
                for t in 0..tokens {
                    let at = moved.offset
                        + u64::from(b) * layout.batch_stride
                        + u64::from(t) * layout.token_stride;
                    let one = self.spec::<T>(layout).row(b, t);
                    let width = self.config.rotary_dim() as usize / 2;
                    let row = &rows[usize::try_from(one).unwrap() * width..][..width];
                    let spec = RotateSpec::new(spec.config(), 1, 1, moved.with_offset(at), T::TYPE);
                    reference::rotate(&spec, row, &mut buffers[buffer], None).unwrap();
                }
            }
        };
        turn(0, self.query, self.query_offset);
        if let Some(key) = self.key {
            turn(usize::from(!self.shared), key, self.key_offset);
        }
        for (expected, buffer) in buffers.iter().zip(&uploaded) {
            let made: Vec<T> = context.read_blocking(buffer, expected.len()).unwrap();
            for (at, (made, expected)) in made.iter().zip(expected).enumerate() {
                assert_eq!(
                    bytemuck::bytes_of(made),
                    bytemuck::bytes_of(expected),
                    "{}: element {at}, {tokens} tokens of {self:?}",
                    name(context)
                );
            }
        }
        let heads = self.query.heads + self.key.map_or(0, |key| key.heads);
        (self.batch * tokens * heads * self.config.rotary_dim()) as usize
    }
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
