//! A layer's dispatch: streams from sources to destinations, their buffers shared out among the bindings of `shaders/layer.wgsl`.

mod constants;

use std::ops::Range;

use constants::{CONSTANTS, StreamConstants};

use super::norm::{Norm, PAIR, QueryFactor};
use super::operand::{Operand, STREAMS, StreamOperands};
use super::places::{Place, Places};
use super::rotate::{BUSY, RopePlan, VECTOR, count, divisor};
use super::stream::Stream;
use super::view::{Storage, TensorView};
use super::{Module, PlannedBinding, PlannedDispatch, Resource, check_dispatches};
use crate::error::{Result, RopeError};
use crate::layout::{ElementType, HeadLayout};

/// Bindings of tensors, and the number of the first.
const TENSORS: usize = 6;
const FIRST_TENSOR: u32 = 3;

/// How invocations take hold of heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Twice eight channels.
    Octets,
    /// A workgroup takes a head, channel by channel.
    Channels,
}

/// Tokens of batch entries.
#[derive(Debug, Clone)]
struct Window {
    batch: Range<u32>,
    tokens: Range<u32>,
}

/// A stream with its place in the buffers.
#[derive(Debug, Clone)]
struct Placed {
    /// Which of query, key and value.
    index: usize,
    names: &'static StreamOperands,
    stream: Stream,
    source: End,
    target: End,
    weight: Option<(Place, u64)>,
}

/// Source or destination of a stream.
#[derive(Debug, Clone)]
struct End {
    operand: Operand,
    view: TensorView,
    place: Place,
    scales: Option<(Operand, Place)>,
}

/// Bytes of a buffer that are bound, and whose they are.
#[derive(Debug, Clone)]
struct Bound {
    operand: Operand,
    buffer: u32,
    bytes: Range<u64>,
}

/// Where a tensor of a dispatch lies: which binding, and the byte of the buffer at which that begins.
#[derive(Debug, Clone, Copy, Default)]
struct Binding {
    index: u32,
    start: u64,
}

/// The dispatches of a plan that is more than a rotation in place.
pub(super) fn dispatches(plan: &RopePlan, places: &Places) -> Result<Vec<PlannedDispatch>> {
    let layer = Layer::new(plan, places)?;
    let whole = Window {
        batch: 0..plan.spec.batch,
        tokens: 0..plan.spec.tokens,
    };
    let mut all = Vec::new();
    for group in layer.groups(&whole) {
        layer.split(&group, &whole, &mut all)?;
    }
    Ok(all)
}

impl End {
    /// The scales of int8 as a tensor of one channel a head.
    fn scales(&self) -> Option<Self> {
        let (operand, place) = self.scales?;
        let layout = self.view.layout;
        let head_dim = u64::from(layout.head_dim);
        let view = TensorView {
            layout: HeadLayout {
                heads: layout.heads,
                head_dim: 1,
                batch_stride: layout.batch_stride / head_dim,
                token_stride: layout.token_stride / head_dim,
                head_stride: layout.head_stride / head_dim,
                offset: layout.offset / head_dim,
            },
            storage: ElementType::F32.into(),
            ..self.view
        };
        Some(Self {
            operand,
            view,
            place,
            scales: None,
        })
    }
}

struct Layer<'a> {
    plan: &'a RopePlan,
    places: &'a Places,
    streams: Vec<Placed>,
}

impl<'a> Layer<'a> {
    fn new(plan: &'a RopePlan, places: &'a Places) -> Result<Self> {
        let (batch, tokens) = (plan.spec.batch, plan.spec.tokens);
        let mut streams = Vec::new();
        for (index, (stream, names)) in plan.spec.streams().into_iter().zip(&STREAMS).enumerate() {
            let Some(stream) = stream else { continue };
            let end = |operand, scales, view: TensorView| -> Result<End> {
                let is_int8 = view.storage == Storage::Int8;
                Ok(End {
                    operand,
                    view,
                    place: places.get(operand)?,
                    scales: is_int8
                        .then(|| Ok::<_, RopeError>((scales, places.get(scales)?)))
                        .transpose()?,
                })
            };
            let source = end(names.source, names.source_scales, stream.source)?;
            let target = match stream.destination {
                Some(view) => end(names.destination, names.destination_scales, view)?,
                None => source.clone(),
            };
            let needed = stream.operands(names, batch, tokens)?;
            let weight = needed
                .iter()
                .find(|(operand, _)| *operand == names.weight)
                .map(|(operand, bytes)| Ok::<_, RopeError>((places.get(*operand)?, *bytes)))
                .transpose()?;
            for (operand, bytes) in needed {
                places
                    .get(operand)?
                    .offset
                    .checked_add(bytes)
                    .ok_or_else(|| {
                        RopeError::overflow(operand.name(), "byte offsets must fit u64")
                    })?;
            }
            streams.push(Placed {
                index,
                names,
                stream,
                source,
                target,
                weight,
            });
        }
        let of_table = [
            (Operand::Slots, u64::from(plan.spec.slots_needed()) * 4),
            (Operand::RowFactors, plan.spec.factors_needed() * 8),
        ];
        for (operand, bytes) in of_table.into_iter().filter(|(_, bytes)| *bytes > 0) {
            let end = places.get(operand)?.offset.checked_add(bytes);
            // As far as words of a binding are counted.
            end.filter(|end| u32::try_from(end / 4).is_ok())
                .ok_or_else(|| RopeError::overflow(operand.name(), "must fit u32"))?;
        }
        let layer = Self {
            plan,
            places,
            streams,
        };
        layer.check_overlaps()?;
        Ok(layer)
    }

    /// What is written shares no element with anything else, but for a tensor that goes to its own place.
    fn check_overlaps(&self) -> Result<()> {
        let (batch, tokens) = (self.plan.spec.batch, self.plan.spec.tokens);
        let mut ends = Vec::new();
        for placed in &self.streams {
            for (end, writes) in [(&placed.source, false), (&placed.target, true)] {
                ends.extend(end.scales().map(|scales| (placed, scales, writes)));
                ends.push((placed, end.clone(), writes));
            }
        }
        for (n, (one, a, a_writes)) in ends.iter().enumerate() {
            for (other, b, b_writes) in &ends[n + 1..] {
                let is_own = one.index == other.index
                    && a.place == b.place
                    && a.view.layout == b.view.layout
                    && a.view.storage == b.view.storage
                    && a.view.channel_stride == b.view.channel_stride
                    && a.view.pages.is_some() == b.view.pages.is_some()
                    && a.view.counts(batch, tokens) == b.view.counts(batch, tokens);
                if !(a_writes | b_writes) || is_own || a.place.buffer != b.place.buffer {
                    continue;
                }
                let origins = [a.place.offset, b.place.offset];
                let meets = a
                    .view
                    .meets(&b.view, origins, batch, tokens)
                    .ok_or_else(|| RopeError::overflow("layout", "byte offsets must fit u64"))?;
                if meets {
                    return Err(RopeError::layout(
                        b.operand.name(),
                        format!(
                            "must not share an element with the {} in the same buffer",
                            a.operand.name()
                        ),
                        format!("views from bytes {} and {} on", origins[1], origins[0]),
                    ));
                }
            }
        }
        // Weights are bound to be read only, and a buffer is bound in one way.
        for placed in &self.streams {
            let Some((place, _)) = placed.weight else {
                continue;
            };
            let mut ends = ends.iter().map(|(_, end, _)| end);
            if let Some(tensor) = ends.find(|end| end.place.buffer == place.buffer) {
                return Err(RopeError::Buffer {
                    operand: placed.names.weight.name(),
                    rule: format!("must not be in the buffer of the {}", tensor.operand.name())
                        .into(),
                    got: "that buffer".into(),
                });
            }
        }
        Ok(())
    }

    /// Which streams share a dispatch: all, if they can; else key and value, which share a cache; else each goes by itself.
    fn groups(&self, whole: &Window) -> Vec<Vec<&Placed>> {
        let all: Vec<_> = self.streams.iter().collect();
        let (query, others): (Vec<_>, Vec<_>) = all.iter().partition(|placed| placed.index == 0);
        let ways = [vec![all.clone()], vec![query, others]];
        ways.into_iter()
            .map(|groups| {
                let groups = groups.into_iter().filter(|group| !group.is_empty());
                groups.collect::<Vec<_>>()
            })
            .find(|groups| groups.iter().all(|group| self.fits(group, whole)))
            .unwrap_or_else(|| all.into_iter().map(|placed| vec![placed]).collect())
    }

    /// Whether streams have few enough buffers, norms of one kind, and their weights in one buffer and near enough for a binding.
    fn fits(&self, group: &[&Placed], whole: &Window) -> bool {
        let norms = || group.iter().filter_map(|placed| placed.stream.norm);
        let same = |a: Norm, b: Norm| a.over_all_heads == b.over_all_heads;
        let weights: Vec<_> = group
            .iter()
            .filter_map(|placed| {
                let (place, _) = placed.weight?;
                Some((place.buffer, placed.stream.norm?.weight_type()))
            })
            .collect();
        norms().zip(norms().skip(1)).all(|(a, b)| same(a, b))
            && weights.windows(2).all(|pair| pair[0] == pair[1])
            && self.weight_bytes(group).is_ok()
            && self.bindings(group, whole).is_some()
    }

    /// Bytes that an end touches of its buffers in a window: those of its channels and of its scales.
    fn touched(&self, end: &End, window: &Window) -> Vec<Bound> {
        let layout = end.view.layout;
        let [outer, inner] = match end.view.pages {
            Some(pages) => [0..pages.pages, 0..pages.page_size],
            None => [window.batch.clone(), window.tokens.clone()],
        };
        let first = layout.at(outer.start.into(), inner.start.into(), 0);
        let reach = u64::from(layout.head_dim - 1) * u64::from(end.view.channel_stride) + 1;
        let last = layout.at(
            u64::from(outer.end - 1),
            u64::from(inner.end - 1),
            u64::from(layout.heads - 1),
        ) + reach;
        // That these fit has been checked with the operands.
        let bytes = |channels| end.view.storage.bytes(channels).unwrap_or(u64::MAX);
        let bound = |operand, place: Place, bytes: Range<u64>| Bound {
            operand,
            buffer: place.buffer,
            bytes: self.plan.limits.aligned(
                place.offset + bytes.start..(place.offset + bytes.end).next_multiple_of(4),
            ),
        };
        let mut all = vec![bound(end.operand, end.place, bytes(first)..bytes(last))];
        if let Some((operand, place)) = end.scales {
            let head_dim = u64::from(layout.head_dim);
            all.push(bound(
                operand,
                place,
                first / head_dim * 4..last / head_dim * 4,
            ));
        }
        all
    }

    /// What is bound, each buffer's overlapping parts as one: in order of the operands that come first. None where it is too much.
    fn bindings(&self, group: &[&Placed], window: &Window) -> Option<Vec<Bound>> {
        let touched: Vec<_> = group
            .iter()
            .flat_map(|placed| [&placed.source, &placed.target])
            .flat_map(|end| self.touched(end, window))
            .collect();
        let most = self.plan.limits.binding();
        // As little of each buffer as possible; all of it at once where that would be too many.
        [false, true].into_iter().find_map(|is_whole| {
            let mut all: Vec<Bound> = Vec::new();
            for bound in &touched {
                let mut merged = bound.clone();
                // What it overlaps may overlap others in turn.
                while let Some(n) = all.iter().position(|other| {
                    other.buffer == merged.buffer
                        && (is_whole
                            || (other.bytes.start < merged.bytes.end
                                && merged.bytes.start < other.bytes.end))
                }) {
                    let other = all.remove(n);
                    merged.operand = merged.operand.min(other.operand);
                    merged.bytes = merged.bytes.start.min(other.bytes.start)
                        ..merged.bytes.end.max(other.bytes.end);
                }
                all.push(merged);
            }
            all.sort_by_key(|bound| bound.operand);
            let fits = |bound: &Bound| bound.bytes.end - bound.bytes.start <= most;
            (all.len() <= TENSORS && all.iter().all(fits)).then_some(all)
        })
    }

    /// The dispatches of streams in a window: one, or two halves of it where it fits no grid or no binding.
    fn split(
        &self,
        group: &[&Placed],
        window: &Window,
        out: &mut Vec<PlannedDispatch>,
    ) -> Result<()> {
        let limits = &self.plan.limits;
        let most = limits.workgroups();
        let fits_grid = count(&window.batch) <= most && count(&window.tokens) <= most;
        if fits_grid {
            if let Some(bindings) = self.bindings(group, window) {
                out.push(self.dispatch(group, window, &bindings)?);
                return check_dispatches("layer", out.len());
            }
        }
        let halves = |range: &Range<u32>| {
            let middle = range.start + count(range) / 2;
            [range.start..middle, middle..range.end]
        };
        let parts = if count(&window.tokens) > 1 {
            halves(&window.tokens).map(|tokens| Window {
                tokens,
                ..window.clone()
            })
        } else if count(&window.batch) > 1 {
            halves(&window.batch).map(|batch| Window {
                batch,
                ..window.clone()
            })
        } else {
            // One token, or a cache, is too large.
            let largest = group
                .iter()
                .flat_map(|placed| [&placed.source, &placed.target])
                .flat_map(|end| self.touched(end, window))
                .max_by_key(|bound| bound.bytes.end - bound.bytes.start);
            if let Some(bound) = largest {
                let bytes = bound.bytes.end - bound.bytes.start;
                limits.check_binding(bound.operand.name(), bytes)?;
            }
            return Err(RopeError::Buffer {
                operand: "operands",
                rule: format!("must take at most {TENSORS} bindings, those of a buffer within one")
                    .into(),
                got: "more".into(),
            });
        };
        for part in parts {
            self.split(group, &part, out)?;
        }
        Ok(())
    }

    /// Channels before the rotary window, channels of it, pairs of a block.
    fn rotary(&self) -> [u32; 3] {
        let spec = &self.plan.spec;
        let config = &spec.config;
        if spec.is_rotated {
            let block = config.rotary_dim() / 2 / config.pairing().blocks();
            [config.rotary_offset(), config.rotary_dim(), block]
        } else {
            [0, 0, 1]
        }
    }

    fn path(&self, group: &[&Placed]) -> Path {
        let pairing = self.plan.spec.config.pairing();
        let is_whole = |placed: &&Placed| {
            let rotates = placed.index < 2 && self.plan.spec.is_rotated;
            let dim = placed.stream.source.layout.head_dim;
            let is_head = dim.is_multiple_of(PAIR)
                && dim / PAIR <= self.plan.limits.invocations()
                && (!rotates || (self.plan.spec.is_paired() && !pairing.moves()))
                && !placed.stream.norm.is_some_and(|norm| norm.over_all_heads);
            is_head && self.is_aligned(&placed.source) && self.is_aligned(&placed.target)
        };
        if group.iter().all(is_whole) {
            Path::Octets
        } else {
            Path::Channels
        }
    }

    /// Whether all heads of a tensor start on 16 bytes.
    fn is_aligned(&self, end: &End) -> bool {
        let Storage::Float(element) = end.view.storage else {
            return false;
        };
        let layout = end.view.layout;
        let [outer, inner] = end.view.counts(self.plan.spec.batch, self.plan.spec.tokens);
        let fits = |stride: u64, count: u32| {
            count <= 1
                || stride
                    .checked_mul(element.bytes())
                    .is_some_and(|bytes| bytes.is_multiple_of(16))
        };
        end.view.channel_stride == 1
            && (end.place.offset + layout.offset * element.bytes()).is_multiple_of(16)
            && fits(layout.batch_stride, outer)
            && fits(layout.token_stride, inner)
            && fits(layout.head_stride, layout.heads)
    }

    /// Invocations of a workgroup, and what each stream does with them.
    fn shape(&self, group: &[&Placed], path: Path, window: &Window) -> (u32, [Shape; 3]) {
        let (spec, limits) = (&self.plan.spec, &self.plan.limits);
        let mut shapes = [Shape::default(); 3];
        if path == Path::Channels {
            for placed in group {
                let is_whole = placed.stream.norm.is_some_and(|norm| norm.over_all_heads);
                let heads = placed.stream.source.layout.heads;
                shapes[placed.index].groups = if is_whole { 1 } else { heads };
            }
            let workgroup = if limits.cpu { VECTOR } else { 64 };
            return (
                spec.workgroup
                    .unwrap_or(workgroup)
                    .min(limits.invocations()),
                shapes,
            );
        }
        // Sums of squares are shared by way of memory, and a CPU driver takes each lane's accesses by themselves: half the lanes are less.
        let lanes = |placed: &Placed| {
            let dim = placed.stream.source.layout.head_dim;
            let takes_two =
                limits.cpu && placed.stream.norm.is_some() && dim.is_multiple_of(2 * PAIR);
            dim / if takes_two { 2 * PAIR } else { PAIR }
        };
        let most = group.iter().map(|placed| lanes(placed)).max().unwrap_or(1);
        let workgroup = spec
            .workgroup
            .unwrap_or(if limits.cpu {
                most.next_multiple_of(VECTOR)
            } else {
                most.max(64)
            })
            .clamp(most, limits.invocations());
        let tokens = u64::from(count(&window.tokens)) * u64::from(count(&window.batch));
        for placed in group {
            let (lanes, heads) = (lanes(placed), placed.stream.source.layout.heads);
            let step = workgroup / lanes;
            // Heads one after the other.
            let turns = heads.div_ceil(step);
            let rounds = match (spec.heads_per_invocation, limits.cpu) {
                (Some(given), _) => given,
                // What is loaded for a token serves all its heads, and starting a workgroup takes as long as some of them; but a few
                // workgroups there have to be.
                (None, true) => u32::try_from(tokens.saturating_mul(turns.into()) / 32)
                    .unwrap_or(u32::MAX)
                    .max(16),
                (None, false) => [4, 2]
                    .into_iter()
                    .find(|n| {
                        let groups = tokens.saturating_mul((turns / n).into());
                        groups.saturating_mul(workgroup.into()) >= BUSY
                    })
                    .unwrap_or(1),
            };
            let rounds = divisor(turns, rounds.clamp(1, 64));
            shapes[placed.index] = Shape {
                lanes,
                rounds,
                groups: turns / rounds,
            };
        }
        (workgroup, shapes)
    }

    fn dispatch(
        &self,
        group: &[&Placed],
        window: &Window,
        bound: &[Bound],
    ) -> Result<PlannedDispatch> {
        let (spec, limits) = (&self.plan.spec, &self.plan.limits);
        let path = self.path(group);
        let (workgroup, shapes) = self.shape(group, path, window);
        let across = shapes
            .iter()
            .try_fold(0_u32, |sum, shape| sum.checked_add(shape.groups))
            .filter(|across| *across <= limits.workgroups())
            .ok_or(RopeError::Limit {
                limit: "max_compute_workgroups_per_dimension",
                operand: "heads",
                needed: shapes.iter().map(|shape| u64::from(shape.groups)).sum(),
                allowed: limits.workgroups().into(),
            })?;
        let mut words = Vec::with_capacity(84);
        let mut constants = vec![("WORKGROUP", f64::from(workgroup))];
        let weights = self.weight_bytes(group)?;
        let find = |operand: Operand, place: Place, at: u64| -> Binding {
            let found = bound
                .iter()
                .position(|bound| bound.buffer == place.buffer && bound.bytes.contains(&at));
            debug_assert!(found.is_some(), "{operand:?}");
            let index = found.unwrap_or(0);
            Binding {
                index: u32::try_from(index).unwrap_or(0),
                start: bound[index].bytes.start,
            }
        };
        for (index, names) in CONSTANTS.iter().enumerate() {
            let Some(placed) = group.iter().find(|placed| placed.index == index) else {
                words.extend([0; STREAM_WORDS]);
                constants.extend(names.of(&StreamConstants::default()));
                continue;
            };
            let (shape, stream) = (shapes[index], &placed.stream);
            let mut values = StreamConstants {
                dim: stream.source.layout.head_dim,
                lanes: shape.lanes,
                rounds: shape.rounds,
                norm: Norm::constant(stream.norm),
                adds: placed.target.view.accumulates,
                ..StreamConstants::default()
            };
            for (n, end) in [&placed.source, &placed.target].into_iter().enumerate() {
                values.storage[n] = end.view.storage.constant();
                values.slots[n] = end.view.pages.is_some();
                let (tensor, bindings) = self.tensor(end, path, window, &find)?;
                words.extend(tensor);
                values.binding[n] = bindings[0];
                values.scales[n] = bindings[1];
            }
            let norm = stream.norm;
            let weight = placed
                .weight
                .map_or(0, |(place, _)| place.offset - weights.start);
            words.extend([
                stream.source.layout.heads,
                shape.groups,
                word(weight / 4, placed.names.weight)?,
                norm.map_or(0, |norm| norm.epsilon.to_bits()),
                norm.map_or(0, |norm| norm.mean(stream.source.layout).to_bits()),
                placed.target.view.channel_stride,
                0,
                0,
            ]);
            constants.extend(names.of(&values));
        }
        let (row_batch, row_token) = spec.rows.strides(spec.tokens);
        let first_row = spec.row(window.batch.start, window.tokens.start);
        let row_words = (spec.config.rotary_dim() / 2).next_multiple_of(2) * 2;
        let scales = self
            .places
            .get(Operand::RowFactors)
            .unwrap_or_default()
            .offset;
        let factor = match spec.factor {
            QueryFactor::Constant(factor) => factor,
            _ => 1.0,
        };
        words.extend([
            word(first_row, Operand::Query)?,
            row_batch,
            row_token,
            row_words,
            count(&window.tokens),
            count(&window.batch),
            spec.tokens,
            word(scales / 4, Operand::RowFactors)?,
            factor.to_bits(),
            0,
            0,
            0,
        ]);
        constants.extend(self.constants(group, path, workgroup, &shapes));
        self.check_memory(path, &constants)?;
        let mut bindings = vec![
            PlannedBinding::uniform(words.len()),
            PlannedBinding::read(1, Resource::Rows, 0..self.table_bytes()?),
            match group.iter().find(|placed| placed.weight.is_some()) {
                Some(placed) => {
                    PlannedBinding::read(2, Resource::Tensor(placed.names.weight), weights)
                }
                // Any buffer that is only read.
                None => PlannedBinding::read(2, Resource::Rows, 0..16),
            },
        ];
        for (n, binding) in (0..TENSORS).zip(FIRST_TENSOR..) {
            bindings.push(match bound.get(n) {
                Some(bound) => PlannedBinding::write(
                    binding,
                    Resource::Tensor(bound.operand),
                    bound.bytes.clone(),
                ),
                None => {
                    let at = n as u64 * limits.alignment();
                    PlannedBinding::write(binding, Resource::Unused, at..at + 16)
                }
            });
        }
        Ok(PlannedDispatch {
            module: Module::Layer,
            entry_point: match path {
                Path::Octets => "octets",
                Path::Channels => "channels",
            },
            constants,
            uniform: words,
            bindings,
            across,
            batch: count(&window.batch),
            range: window.tokens.clone(),
        })
    }

    /// Bytes of the weights' buffer that are bound; none for none.
    fn weight_bytes(&self, group: &[&Placed]) -> Result<Range<u64>> {
        let all = group.iter().filter_map(|placed| placed.weight);
        let ends = all.map(|(place, bytes)| place.offset..place.offset + bytes);
        let Some(bytes) = ends.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) else {
            return Ok(0..0);
        };
        let bytes = self.plan.limits.aligned(bytes);
        let operand = "weights of norms";
        self.plan
            .limits
            .check_binding(operand, bytes.end - bytes.start)?;
        Ok(bytes)
    }

    /// The bytes of the table that are read: rows, slots and scales, whose places in words fit u32 (they are in the uniform buffer).
    fn table_bytes(&self) -> Result<u64> {
        let spec = &self.plan.spec;
        // A table need not have rows of this width where none is read.
        let rows = if spec.is_rotated {
            self.plan.row_bytes()
        } else {
            0
        };
        let mut end = rows.max(16);
        if spec.slots_needed() > 0 {
            let start = self.places.get(Operand::Slots).unwrap_or_default().offset;
            end = end.max(start + u64::from(spec.slots_needed()) * 4);
        }
        if spec.factors_needed() > 0 {
            let start = self
                .places
                .get(Operand::RowFactors)
                .unwrap_or_default()
                .offset;
            end = end.max(start + spec.factors_needed() * 8);
        }
        let end = end.next_multiple_of(16);
        self.plan.limits.check_binding("table", end)?;
        Ok(end)
    }

    /// The words of a tensor in the uniform buffer, and the bindings of it and of its scales.
    fn tensor(
        &self,
        end: &End,
        path: Path,
        window: &Window,
        find: &impl Fn(Operand, Place, u64) -> Binding,
    ) -> Result<([u32; 8], [u32; 2])> {
        let (operand, layout) = (end.operand, end.view.layout);
        let [outer, inner] = match end.view.pages {
            Some(_) => [0, 0],
            None => [window.batch.start, window.tokens.start],
        };
        let storage = end.view.storage;
        let first = layout.at(outer.into(), inner.into(), 0);
        let at = end.place.offset + storage.bytes(first).unwrap_or(0);
        let binding = find(operand, end.place, at);
        let from = at - binding.start;
        let mut scales = Binding::default();
        // In units of 16 bytes, or in channels.
        let (first, base, unit) = match storage {
            Storage::Float(element) if path == Path::Octets => (from / 16, 0, 16 / element.bytes()),
            Storage::Float(element) => (from / element.bytes(), 0, 1),
            Storage::Q8_0 => (0, from / 2, 1),
            Storage::Int8 => {
                let mut base = 0;
                if let Some((operand, place)) = end.scales {
                    let at = place.offset + first / u64::from(layout.head_dim) * 4;
                    scales = find(operand, place, at);
                    base = (at - scales.start) / 4;
                }
                (from, base, 1)
            }
        };
        let [outers, inners] = match end.view.pages {
            Some(pages) => [pages.pages, pages.page_size],
            None => [count(&window.batch), count(&window.tokens)],
        };
        // A stride that is never taken need not fit, nor be whole.
        let stride = |stride: u64, count: u32| {
            let taken = if count > 1 { stride / unit } else { 0 };
            word(taken, operand)
        };
        let (mut slots, mut slot_count, mut page_size) = (0, 0, 1);
        if let Some(pages) = end.view.pages {
            let spec = &self.plan.spec;
            let start = self.places.get(Operand::Slots).unwrap_or_default().offset / 4;
            let skipped = u64::from(window.batch.start) * u64::from(spec.tokens)
                + u64::from(window.tokens.start);
            slots = word(
                start + u64::from(end.view.first_slot) + skipped,
                Operand::Slots,
            )?;
            (slot_count, page_size) = (pages.slots(), pages.page_size);
        }
        Ok((
            [
                word(first, operand)?,
                stride(layout.batch_stride, outers)?,
                stride(layout.token_stride, inners)?,
                stride(layout.head_stride, layout.heads)?,
                slots,
                slot_count,
                page_size,
                word(base, operand)?,
            ],
            [binding.index, scales.index],
        ))
    }

    /// The constants of all streams together.
    fn constants(
        &self,
        group: &[&Placed],
        path: Path,
        workgroup: u32,
        shapes: &[Shape; 3],
    ) -> Vec<(&'static str, f64)> {
        let spec = &self.plan.spec;
        let pairing = spec.config.pairing();
        let [offset, window, block] = self.rotary();
        let flag = |value: bool| f64::from(u8::from(value));
        let norms = || group.iter().filter_map(|placed| placed.stream.norm);
        let normed = || {
            group
                .iter()
                .filter(|placed| placed.stream.norm.is_some())
                .map(|placed| {
                    let dim = placed.stream.source.layout.head_dim;
                    (dim, shapes[placed.index])
                })
        };
        let weights = norms().find_map(Norm::weight_type).unwrap_or_default();
        let factor = match spec.factor {
            QueryFactor::One => 0,
            QueryFactor::Constant(_) => 1,
            QueryFactor::PerRow => 2,
        };
        let has_query = group.iter().any(|placed| placed.index == 0);
        let dims = || {
            group
                .iter()
                .map(|placed| placed.stream.source.layout.head_dim)
        };
        let (sums, staged, blocks) = match path {
            Path::Octets => {
                // Two rounds' of as many heads as go side by side.
                let sums = |(dim, shape): (u32, Shape)| {
                    let is_folded = shape.lanes * PAIR < dim;
                    2 * (workgroup / shape.lanes) * sums_of_head(dim, is_folded)
                };
                let sums = normed().map(sums).max().unwrap_or(1);
                (sums, 1, 1)
            }
            Path::Channels => {
                let staged = dims().max().unwrap_or(1);
                let sums = sums_of_head(staged, false);
                (sums, staged, staged.div_ceil(32))
            }
        };
        vec![
            ("QUERY_SCALE", f64::from(if has_query { factor } else { 0 })),
            ("WEIGHTS", weights.constant()),
            ("WHOLE", flag(norms().any(|norm| norm.over_all_heads))),
            ("OFFSET", offset.into()),
            ("WINDOW", window.into()),
            ("BLOCK", block.into()),
            (
                "PAIRS",
                if spec.is_rotated {
                    spec.rotated_pairs()
                } else {
                    1
                }
                .into(),
            ),
            ("KEEP", flag(spec.is_rotated && spec.identity_keeps())),
            ("INTERLEAVED", flag(pairing.reads_interleaved())),
            ("WRITES_INTERLEAVED", flag(pairing.writes_interleaved())),
            ("PAIRED", flag(spec.is_paired())),
            ("SUMS", sums.into()),
            ("STAGED", staged.into()),
            ("BLOCKS", blocks.into()),
        ]
    }

    /// Checks that a workgroup's memory holds a head, or the sums of as many as it takes.
    fn check_memory(&self, path: Path, constants: &[(&'static str, f64)]) -> Result<()> {
        let value = |name: &str| {
            let found = constants.iter().find(|(constant, _)| *constant == name);
            found.map_or(0.0, |(_, value)| *value)
        };
        let (operand, arrays) = match path {
            Path::Octets => ("workgroup", &["SUMS"][..]),
            Path::Channels => (
                "head_dim",
                &["SUMS", "STAGED", "STAGED", "BLOCKS", "BLOCKS"][..],
            ),
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "constants are u32"
        )]
        // WebGPU counts each variable as whole 16 bytes.
        let needed: u64 = arrays
            .iter()
            .map(|name| (value(name) as u64 * 4).next_multiple_of(16))
            .sum();
        let allowed = self.plan.limits.max_compute_workgroup_storage_size;
        if needed > allowed.into() {
            return Err(RopeError::Limit {
                limit: "max_compute_workgroup_storage_size",
                operand,
                needed,
                allowed: allowed.into(),
            });
        }
        Ok(())
    }
}

fn word(wide: u64, operand: Operand) -> Result<u32> {
    u32::try_from(wide).map_err(|_| RopeError::overflow(operand.name(), "must fit u32"))
}

/// Words for the sums of a head's pairs of octets: they are read by fours, those of each half, unless there is one or the halves have been
/// added.
fn sums_of_head(head_dim: u32, is_folded: bool) -> u32 {
    let pairs = head_dim.div_ceil(PAIR);
    let halves = if is_folded || pairs == 1 { 1 } else { 2 };
    pairs.div_ceil(2).next_multiple_of(4) * halves
}

/// What a stream does with a workgroup.
#[derive(Debug, Clone, Copy)]
struct Shape {
    lanes: u32,
    rounds: u32,
    groups: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            lanes: 1,
            rounds: 1,
            groups: 0,
        }
    }
}

/// Words of a stream in the uniform buffer.
const STREAM_WORDS: usize = 24;
