//! A layer that is described so that both the crate and an oracle in f64 can be told of it. The oracle shares no code with the crate.

use std::collections::BTreeMap;

use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    Direction, ElementType, HeadLayout, Norm, NormWeight, Operand, Place, QueryFactor, QueryScale,
    RopeConfig, RotateSpec, Rows, Storage, TensorView,
};

use super::layer::Case;
use super::{cos_sin, inv_freq, rotate_head};

/// Where a tensor's heads stand and what they are made of.
#[derive(Debug, Clone, Copy)]
pub struct Tensor {
    pub layout: HeadLayout,
    pub storage: Storage,
    /// Pages, and places of a page.
    pub pages: Option<[u32; 2]>,
    pub first_slot: u32,
    pub channel_stride: u32,
    pub adds: bool,
}

impl Tensor {
    pub fn new(layout: HeadLayout, storage: impl Into<Storage>) -> Self {
        Self {
            layout,
            storage: storage.into(),
            pages: None,
            first_slot: 0,
            channel_stride: 1,
            adds: false,
        }
    }

    pub fn in_slots(self, pages: u32, page_size: u32) -> Self {
        Self {
            pages: Some([pages, page_size]),
            ..self
        }
    }

    pub fn added(self) -> Self {
        Self { adds: true, ..self }
    }

    pub fn view(&self) -> TensorView {
        let view = match self.pages {
            None => TensorView::new(self.layout, self.storage),
            Some([pages, page_size]) => {
                TensorView::cache(self.layout, pages, page_size, self.storage)
                    .with_first_slot(self.first_slot)
            }
        };
        let view = view.with_channel_stride(self.channel_stride);
        if self.adds { view.accumulated() } else { view }
    }

    /// The element of a channel; none where the token has no slot.
    fn at(&self, job: &Job, [b, t, h, c]: [u32; 4]) -> Option<u64> {
        let [outer, inner] = match self.pages {
            None => [b, t],
            Some([pages, page_size]) => {
                let n = self.first_slot + b * job.tokens + t;
                let slot = u32::try_from(job.slots[n as usize]).ok()?;
                (u64::from(slot) < u64::from(pages) * u64::from(page_size))
                    .then_some([slot / page_size, slot % page_size])?
            }
        };
        let layout = self.layout;
        Some(
            layout.offset
                + u64::from(outer) * layout.batch_stride
                + u64::from(inner) * layout.token_stride
                + u64::from(h) * layout.head_stride
                + u64::from(c) * u64::from(self.channel_stride),
        )
    }
}

/// One of query, key and value.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    pub from: Tensor,
    pub to: Option<Tensor>,
    /// Epsilon and weights.
    pub norm: Option<(f32, NormWeight)>,
}

impl Flow {
    pub fn new(from: Tensor) -> Self {
        Self {
            from,
            to: None,
            norm: None,
        }
    }

    pub fn to(self, to: Tensor) -> Self {
        Self {
            to: Some(to),
            ..self
        }
    }

    pub fn normed(self, epsilon: f32, weight: NormWeight) -> Self {
        Self {
            norm: Some((epsilon, weight)),
            ..self
        }
    }
}

#[derive(Debug, Clone)]
pub struct Job {
    pub config: RopeConfig,
    pub batch: u32,
    pub tokens: u32,
    pub flows: [Option<Flow>; 3],
    /// Norms are over all heads.
    pub whole: bool,
    pub factor: QueryFactor,
    pub scale: Option<QueryScale>,
    pub rotates: bool,
    pub pairs: Option<u32>,
    pub rows: Rows,
    pub direction: Direction,
    pub slots: Vec<i32>,
    pub positions: Option<Vec<i32>>,
    pub recorded: Option<u32>,
    pub heads_per_invocation: Option<u32>,
    pub places: BTreeMap<Operand, Place>,
    pub alignment: u64,
    pub as_gpu: bool,
    pub binding: Option<u64>,
    pub grid: Option<u32>,
    pub seed: u64,
}

const OPERANDS: [[Operand; 5]; 3] = [
    [
        Operand::Query,
        Operand::QueryTo,
        Operand::QueryWeight,
        Operand::QueryScales,
        Operand::QueryToScales,
    ],
    [
        Operand::Key,
        Operand::KeyTo,
        Operand::KeyWeight,
        Operand::KeyScales,
        Operand::KeyToScales,
    ],
    [
        Operand::Value,
        Operand::ValueTo,
        Operand::ValueWeight,
        Operand::ValueScales,
        Operand::ValueToScales,
    ],
];

impl Job {
    pub fn new(config: &RopeConfig, batch: u32, tokens: u32, flows: &[Flow]) -> Self {
        Self {
            config: config.clone(),
            batch,
            tokens,
            flows: [0, 1, 2].map(|n| flows.get(n).copied()),
            whole: false,
            factor: QueryFactor::One,
            scale: None,
            rotates: true,
            pairs: None,
            rows: Rows::Shared,
            direction: Direction::Forward,
            slots: Vec::new(),
            positions: None,
            recorded: None,
            heads_per_invocation: None,
            places: BTreeMap::new(),
            alignment: 16,
            as_gpu: false,
            binding: None,
            grid: None,
            seed: 1,
        }
    }

    pub fn spec(&self) -> RotateSpec {
        let views = self.flows.map(|flow| flow.map(|flow| flow.from.view()));
        let first = views[0].unwrap();
        let mut spec = RotateSpec::new(
            &self.config,
            self.batch,
            self.tokens,
            first.layout(),
            ElementType::F32,
        )
        .with_query_from(first)
        .with_query_factor(self.factor)
        .with_rows(self.rows);
        if let Some(view) = views[1] {
            spec = spec.with_key_from(view);
        }
        if let Some(view) = views[2] {
            spec = spec.with_value_from(view);
        }
        for (n, flow) in self.flows.iter().enumerate() {
            let Some(flow) = flow else { continue };
            if let Some(to) = flow.to {
                spec = [
                    RotateSpec::with_query_to,
                    RotateSpec::with_key_to,
                    RotateSpec::with_value_to,
                ][n](spec, to.view());
            }
            if let Some((epsilon, weight)) = flow.norm {
                let mut norm = Norm::rms(epsilon, weight);
                if self.whole {
                    norm = norm.over_all_heads();
                }
                spec = [
                    RotateSpec::with_query_norm,
                    RotateSpec::with_key_norm,
                    RotateSpec::with_value_norm,
                ][n](spec, norm);
            }
        }
        if !self.rotates {
            spec = spec.without_rotation();
        }
        if let Some(heads) = self.heads_per_invocation {
            spec = spec.with_heads_per_invocation(heads);
        }
        match self.pairs {
            Some(pairs) => spec.with_rotated_pairs(pairs),
            None => spec,
        }
    }

    pub fn case(&self) -> Case {
        Case {
            scale: self.scale.clone(),
            direction: self.direction,
            positions: self.positions.clone(),
            recorded: self.recorded,
            places: self.places.clone(),
            alignment: self.alignment,
            as_gpu: self.as_gpu,
            binding: self.binding,
            grid: self.grid,
            seed: self.seed,
            ..Case::new(&self.config, self.spec(), &self.slots)
        }
    }

    /// Checks what has become of buffers. Returns the worst error in units of its bound.
    ///
    /// The bound, in u = 2^-24: a rounding is one u, relative. A quantised channel is one product. A norm over n channels adds squares (one
    /// product each) in a tree: 3 sums within an octet, one in a pair, one of the halves of a head, as many as a chain has links (a quarter of
    /// half the pairs), 2 for the chains, one for each head where it is over all. All are positive, so the relative error of the sum is at most that of its
    /// deepest term. The mean has a rounded factor and a product, epsilon a sum; the root halves all of that and is rounded itself. The channel's
    /// product with it and with the weight are one u each, 1 + weight another. Then the rotation as in `common::bound`: cos and sin, a product,
    /// a sum, of the sum of the magnitudes. Then one u for a factor, and one for a sum with what was there. For n up to 100,
    /// (1 + u)^n - 1 < 1.001 n u.
    pub fn check(&self, before: &[Vec<u32>], after: &[Vec<u32>]) -> f64 {
        let case = self.case();
        let places = case.places();
        let inv_freq = inv_freq(&self.config);
        let positions = case.positions();
        let mut may_change: Vec<Vec<u32>> =
            before.iter().map(|words| vec![0; words.len()]).collect();
        let mut worst = 0.0_f64;
        for (n, flow) in self.flows.iter().enumerate() {
            let Some(flow) = flow else { continue };
            let names = OPERANDS[n];
            let to = flow.to.unwrap_or(flow.from);
            let (from_place, to_place) = match flow.to {
                None => (
                    (places[&names[0]], places.get(&names[3])),
                    (places[&names[0]], places.get(&names[3])),
                ),
                Some(_) => (
                    (places[&names[0]], places.get(&names[3])),
                    (places[&names[1]], places.get(&names[4])),
                ),
            };
            let read = Ends {
                tensor: flow.from,
                place: from_place.0,
                scales: from_place.1.copied(),
            };
            let written = Ends {
                tensor: to,
                place: to_place.0,
                scales: to_place.1.copied(),
            };
            let dim = flow.from.layout.head_dim;
            let heads = flow.from.layout.heads;
            for (b, t) in (0..self.batch).flat_map(|b| (0..self.tokens).map(move |t| (b, t))) {
                let is_there = flow.from.at(self, [b, t, 0, 0]).is_some()
                    && to.at(self, [b, t, 0, 0]).is_some()
                    && self.recorded.is_none_or(|recorded| t < recorded);
                if !is_there {
                    continue;
                }
                let all: Vec<Vec<f64>> = (0..heads)
                    .map(|h| {
                        (0..dim)
                            .map(|c| read.value(self, before, [b, t, h, c]))
                            .collect()
                    })
                    .collect();
                let squares = |head: &Vec<f64>| head.iter().map(|x| x * x).sum::<f64>();
                for h in 0..heads {
                    let mut values = all[h as usize].clone();
                    let source =
                        f64::from(u8::from(!matches!(flow.from.storage, Storage::Float(_))));
                    let mut error = source;
                    if let Some((epsilon, weight)) = flow.norm {
                        let over = if self.whole { heads } else { 1 };
                        let sum = if self.whole {
                            all.iter().map(squares).sum::<f64>()
                        } else {
                            squares(&values)
                        };
                        let root = (sum / f64::from(over * dim) + f64::from(epsilon))
                            .sqrt()
                            .recip();
                        let links = f64::from(dim.div_ceil(128));
                        let depth = 7.0 + links + if self.whole { f64::from(heads) } else { 0.0 };
                        error += (depth + 1.0 + 2.0 * source + 3.0) / 2.0 + 2.0;
                        let first = if self.whole { h * dim } else { 0 };
                        let weight_of = |c: u32, element: ElementType| {
                            let place = places[&names[2]];
                            element_of(
                                &before[place.buffer as usize],
                                element,
                                place.offset,
                                u64::from(first + c),
                            )
                        };
                        for (c, value) in (0..).zip(&mut values) {
                            *value *= root
                                * match weight {
                                    NormWeight::Scale(element) => weight_of(c, element),
                                    NormWeight::OnePlus(element) => 1.0 + weight_of(c, element),
                                    _ => 1.0,
                                };
                        }
                        error += match weight {
                            NormWeight::Scale(_) => 1.0,
                            NormWeight::OnePlus(_) => 2.0,
                            _ => 0.0,
                        };
                    }
                    // The magnitudes that errors are relative to.
                    let mut truth: Vec<(f64, f64)> = values.iter().map(|&x| (x, x.abs())).collect();
                    let row = match self.rows {
                        Rows::Shared => t,
                        Rows::PerToken => b * self.tokens + t,
                        Rows::PerSequence => b,
                        _ => 0,
                    };
                    if n < 2 && self.rotates {
                        let sign = match self.direction {
                            Direction::Forward => 1.0,
                            _ => -1.0,
                        };
                        let pairs = self.pairs.map_or(inv_freq.len(), |pairs| pairs as usize);
                        // Pairs that stay may move all the same.
                        let turns: Vec<_> = inv_freq
                            .iter()
                            .enumerate()
                            .map(|(k, &rate)| {
                                let (c, s) = cos_sin(positions[row as usize], rate);
                                if k < pairs { (c, s * sign) } else { (1.0, 0.0) }
                            })
                            .collect();
                        let turned = rotate_head(&self.config, &values, &turns);
                        for (truth, turned) in truth.iter_mut().zip(turned) {
                            *truth = turned.unwrap_or(*truth);
                        }
                        error += 3.01;
                    }
                    if n == 0 {
                        let factor = match self.factor {
                            QueryFactor::Constant(factor) => f64::from(factor),
                            QueryFactor::PerRow => {
                                let scale = self.scale.as_ref().unwrap();
                                f64::from(scale.at(positions[row as usize]))
                            }
                            _ => 1.0,
                        };
                        truth
                            .iter_mut()
                            .for_each(|(x, m)| (*x, *m) = (*x * factor, *m * factor.abs()));
                        error += f64::from(u8::from(self.factor != QueryFactor::One));
                    }
                    let u = 2_f64.powi(-24);
                    let mut bounds: Vec<f64> =
                        truth.iter().map(|(_, m)| 1.001 * error * u * m).collect();
                    if to.adds {
                        for (c, (truth, bound)) in (0..).zip(truth.iter_mut().zip(&mut bounds)) {
                            truth.0 += written.value(self, before, [b, t, h, c]);
                            *bound += 1.001 * u * (truth.0.abs() + *bound);
                        }
                    }
                    let block = match to.storage {
                        Storage::Q8_0 => 32,
                        _ => dim,
                    };
                    for c in 0..dim {
                        let here = [b, t, h, c];
                        let got = written.value(self, after, here);
                        let (truth_c, mut allowed) = (truth[c as usize].0, bounds[c as usize]);
                        // What is not arithmetic: half a unit of the destination.
                        allowed += match to.storage {
                            Storage::Float(ElementType::F16) => {
                                ((truth_c.abs() + allowed) * 2_f64.powi(-11)).max(2_f64.powi(-25))
                            }
                            Storage::Float(ElementType::Bf16) => {
                                (truth_c.abs() + allowed) * 2_f64.powi(-8)
                            }
                            Storage::Float(_) => 0.0,
                            _ => {
                                let first = (c / block * block) as usize;
                                let most = (first..first + block as usize)
                                    .map(|c| truth[c].0.abs() + bounds[c])
                                    .fold(0.0, f64::max);
                                // The quotient by 127, its inverse and the product are rounded.
                                let scale = most / 127.0 * (1.0 + u);
                                let half_scale = (0.5 + 127.0 * 3.01 * u) * scale;
                                let of_f16 = (scale * 2_f64.powi(-11)).max(2_f64.powi(-25));
                                if to.storage == Storage::Q8_0 {
                                    half_scale + 127.0 * of_f16
                                } else {
                                    half_scale
                                }
                            }
                        };
                        let error = (got - truth_c).abs();
                        assert!(
                            error <= allowed,
                            "stream {n}, batch entry, token, head, channel {here:?}: {got:e} in place of {truth_c:e}, {error:e} > {allowed:e}: {self:?}"
                        );
                        worst = worst.max(if allowed > 0.0 { error / allowed } else { 0.0 });
                        written.mark(self, &mut may_change, here);
                    }
                }
            }
        }
        for ((before, after), mask) in before.iter().zip(after).zip(&may_change) {
            for (at, ((before, after), mask)) in before.iter().zip(after).zip(mask).enumerate() {
                assert_eq!((before ^ after) & !mask, 0, "word {at} of {self:?}");
            }
        }
        worst
    }
}

/// A tensor in its buffers.
struct Ends {
    tensor: Tensor,
    place: Place,
    scales: Option<Place>,
}

/// The n-th element behind a byte offset.
fn element_of(words: &[u32], element: ElementType, offset: u64, n: u64) -> f64 {
    let bytes: &[u8] = bytemuck::cast_slice(words);
    let at = usize::try_from(offset + n * element.bytes()).unwrap();
    let half = || u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    match element {
        ElementType::F16 => f16::from_bits(half()).into(),
        ElementType::Bf16 => bf16::from_bits(half()).into(),
        _ => f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).into(),
    }
}

impl Ends {
    /// The bytes of a channel, and of what scales it.
    fn bytes(&self, job: &Job, here: [u32; 4]) -> ([u64; 2], Option<(u32, [u64; 2])>) {
        let at = self.tensor.at(job, here).unwrap();
        let Place { buffer, offset } = self.place;
        match self.tensor.storage {
            Storage::Q8_0 => {
                let block = offset + at / 32 * 34;
                ([block + 2 + at % 32, 1], Some((buffer, [block, 2])))
            }
            Storage::Int8 => {
                let scales = self.scales.unwrap();
                let scale = scales.offset + at / u64::from(self.tensor.layout.head_dim) * 4;
                ([offset + at, 1], Some((scales.buffer, [scale, 4])))
            }
            Storage::Float(element) => ([offset + at * element.bytes(), element.bytes()], None),
            other => panic!("the oracle does not know {other:?}"),
        }
    }

    fn value(&self, job: &Job, buffers: &[Vec<u32>], here: [u32; 4]) -> f64 {
        let words = &buffers[self.place.buffer as usize];
        let ([at, _], scale) = self.bytes(job, here);
        let Storage::Float(element) = self.tensor.storage else {
            let (buffer, [scale_at, bytes]) = scale.unwrap();
            let element = if bytes == 2 {
                ElementType::F16
            } else {
                ElementType::F32
            };
            let scale = element_of(&buffers[buffer as usize], element, scale_at, 0);
            let bytes: &[u8] = bytemuck::cast_slice(words);
            let byte = bytes[usize::try_from(at).unwrap()].cast_signed();
            return f64::from(byte) * scale;
        };
        element_of(words, element, at, 0)
    }

    /// Notes the bits that a channel may change.
    fn mark(&self, job: &Job, masks: &mut [Vec<u32>], here: [u32; 4]) {
        let (own, scale) = self.bytes(job, here);
        for (buffer, [at, count]) in [Some((self.place.buffer, own)), scale]
            .into_iter()
            .flatten()
        {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut masks[buffer as usize]);
            let range = usize::try_from(at).unwrap()..usize::try_from(at + count).unwrap();
            bytes[range].fill(0xff);
        }
    }
}
