//! The twin of `shaders/layer.wgsl`: a layer's streams from source to destination.

use crate::config::PairChannels;
use crate::error::{Result, RopeError};
use crate::integer::{divided, inverse_root};
use crate::layout::{Element, ElementType};
use crate::plan::{
    Norm, NormWeight, Place, Places, QueryFactor, RotateSpec, STREAMS, Storage, Stream, TensorView,
};

/// What a layer reads of a table.
#[derive(Debug, Clone, Copy, Default)]
pub struct LayerTable<'a> {
    /// The rows, `rotary_dim / 2` entries of (cos, sin) each ([`reference::table`](super::table)).
    pub rows: &'a [[f32; 2]],
    /// The slots ([`reference::slots`](super::slots)), where a tensor is a cache.
    pub slots: &'a [i32],
    /// The scale of the query for each row ([`reference::query_scales`](super::query_scales)), where there is one.
    pub scales: &'a [f32],
}

/// The twin of `shaders/layer.wgsl`, and of `shaders/rotate.wgsl` where that serves: does all that a specification asks for, with the bits of
/// the GPU. (Which NaN a NaN is, and whether f32 denormals are flushed, WGSL leaves open.)
///
/// Tensors lie in `buffers` as on a device, as words; `places` tells where. It is a check, not a fast path.
///
/// # Errors
/// Those of [`RotateSpec::validate`]; [`RopeError::Buffer`] for an operand without a place or in a buffer that is too short;
/// [`RopeError::Table`] for too few rows, slots or scales.
pub fn layer(
    spec: &RotateSpec,
    table: LayerTable<'_>,
    places: impl Into<Places>,
    buffers: &mut [Vec<u32>],
) -> Result<()> {
    spec.validate()?;
    let places = places.into();
    check(spec, table, &places, buffers)?;
    for (index, (stream, names)) in spec.streams().into_iter().zip(&STREAMS).enumerate() {
        let Some(stream) = stream else { continue };
        let place = |operand| places.get(operand).unwrap_or_default();
        let end = |view, operand, scales| End {
            view,
            place: place(operand),
            scales: place(scales),
        };
        let source = end(stream.source, names.source, names.source_scales);
        let target = match stream.destination {
            Some(view) => end(view, names.destination, names.destination_scales),
            None => end(stream.source, names.source, names.source_scales),
        };
        let work = Work {
            spec,
            table,
            index,
            stream,
            source,
            target,
            weight: place(names.weight),
        };
        for batch in 0..spec.batch() {
            for token in 0..spec.tokens() {
                work.token(buffers, batch, token);
            }
        }
    }
    Ok(())
}

fn check(
    spec: &RotateSpec,
    table: LayerTable<'_>,
    places: &Places,
    buffers: &[Vec<u32>],
) -> Result<()> {
    for (operand, bytes) in spec.operands()? {
        let place = places.get(operand)?;
        let held = buffers
            .get(place.buffer as usize)
            .map_or(0, |words| words.len() as u64 * 4);
        if place.offset.checked_add(bytes).is_none_or(|end| end > held) {
            return Err(RopeError::Buffer {
                operand: operand.name(),
                rule: format!("must hold {bytes} bytes from byte {} on", place.offset).into(),
                got: format!("{held} bytes"),
            });
        }
    }
    let rows = spec.rows_needed(spec.tokens());
    let pairs = u64::from(spec.config().rotary_dim() / 2);
    let scales = match spec.query_factor() {
        QueryFactor::PerRow => rows,
        _ => 0,
    };
    let entries = if spec.is_rotated() { rows * pairs } else { 0 };
    for (name, needed, held) in [
        ("entries", entries, table.rows.len()),
        ("slots", spec.slots_needed().into(), table.slots.len()),
        ("scales", scales, table.scales.len()),
    ] {
        if (held as u64) < needed {
            return Err(RopeError::table(
                format!("must have at least {needed} {name}"),
                held,
            ));
        }
    }
    Ok(())
}

/// Source or destination.
#[derive(Debug, Clone, Copy)]
struct End {
    view: TensorView,
    place: Place,
    scales: Place,
}

/// A head of a tensor.
#[derive(Debug, Clone, Copy)]
struct Slice {
    end: End,
    /// Channels before it.
    at: u64,
}

#[derive(Debug)]
struct Work<'a> {
    spec: &'a RotateSpec,
    table: LayerTable<'a>,
    index: usize,
    stream: Stream,
    source: End,
    target: End,
    weight: Place,
}

impl Work<'_> {
    /// The first head of a token in a tensor; none where it has no slot there.
    fn spot(&self, end: End, batch: u32, token: u32) -> Option<u64> {
        let Some(pages) = end.view.pages else {
            return Some(end.view.layout.at(batch.into(), token.into(), 0));
        };
        let list = u64::from(batch) * u64::from(self.spec.tokens()) + u64::from(token);
        let slot = self.table.slots[index(u64::from(end.view.first_slot) + list)];
        let slot = u32::try_from(slot)
            .ok()
            .filter(|slot| *slot < pages.slots())?;
        let (page, place) = (slot / pages.page_size, slot % pages.page_size);
        Some(end.view.layout.at(page.into(), place.into(), 0))
    }

    fn token(&self, buffers: &mut [Vec<u32>], batch: u32, token: u32) {
        let (Some(from), Some(to)) = (
            self.spot(self.source, batch, token),
            self.spot(self.target, batch, token),
        ) else {
            return;
        };
        let row = index(self.spec.row(batch, token));
        let slice = |end: End, first: u64, head: u32| Slice {
            end,
            at: first + u64::from(head) * end.view.layout.head_stride,
        };
        let heads = self.stream.source.layout.heads;
        let staged: Vec<Vec<f32>> = (0..heads)
            .map(|head| slice(self.source, from, head).read(buffers))
            .collect();
        // The mean over all heads adds their sums one after the other.
        let sums: Vec<f32> = staged
            .iter()
            .map(|head| self.sum_of_squares(head))
            .collect();
        let all = sums.iter().fold(0.0, |all, sum| all + sum);
        for (head, (mut channels, sum)) in (0..heads).zip(staged.into_iter().zip(sums)) {
            if let Some(norm) = self.stream.norm {
                let sum = if norm.over_all_heads { all } else { sum };
                self.normalise(buffers, norm, head, sum, &mut channels);
            }
            if self.index < 2 && self.spec.is_rotated() {
                self.rotate(row, &mut channels);
            }
            if self.index == 0 {
                let factor = match self.spec.query_factor() {
                    QueryFactor::One => None,
                    QueryFactor::Constant(factor) => Some(factor),
                    QueryFactor::PerRow => Some(self.table.scales[row]),
                };
                if let Some(factor) = factor {
                    channels.iter_mut().for_each(|value| *value *= factor);
                }
            }
            let slice = slice(self.target, to, head);
            if self.target.view.accumulates {
                for (value, old) in channels.iter_mut().zip(slice.read(buffers)) {
                    *value += old;
                }
            }
            slice.write(buffers, &channels);
        }
    }

    /// The sum of a head's squares: octets each by themselves, those of pairs added, pairs of the second half to those of the first, these in four
    /// chains, and the chains.
    fn sum_of_squares(&self, head: &[f32]) -> f32 {
        let square = |channel: u32| {
            let value = head.get(channel as usize).copied().unwrap_or(0.0);
            value * value
        };
        let octet = |first: u32| {
            let four = [0, 1, 2, 3].map(|n| square(first + n) + square(first + n + 4));
            (four[0] + four[2]) + (four[1] + four[3])
        };
        let dim = self.stream.source.layout.head_dim;
        let pairs = self.spec.octet_pairs(self.index, dim);
        let pairs: Vec<_> = pairs
            .into_iter()
            .map(|[a, b]| octet(a) + octet(b))
            .collect();
        let (first, second) = pairs.split_at(pairs.len().div_ceil(2));
        let mut chains = [0.0; 4];
        for (n, near) in first.iter().enumerate() {
            chains[n % 4] += near + second.get(n).copied().unwrap_or(0.0);
        }
        (chains[0] + chains[2]) + (chains[1] + chains[3])
    }

    fn normalise(
        &self,
        buffers: &[Vec<u32>],
        norm: Norm,
        head: u32,
        sum: f32,
        channels: &mut [f32],
    ) {
        let factor = inverse_root(sum * norm.mean(self.stream.source.layout) + norm.epsilon);
        let first = if norm.over_all_heads {
            channels.len() * head as usize
        } else {
            0
        };
        for (n, value) in (first..).zip(channels) {
            *value *= factor;
            let weight = |element: ElementType| {
                let unit = self.weight.offset / element.bytes() + n as u64;
                read_float(&buffers[self.weight.buffer as usize], element, unit)
            };
            match norm.weight {
                NormWeight::None => {}
                NormWeight::Scale(element) => *value *= weight(element),
                NormWeight::OnePlus(element) => *value *= weight(element) + 1.0,
            }
        }
    }

    fn rotate(&self, row: usize, channels: &mut [f32]) {
        let config = self.spec.config();
        let pairs = config.rotary_dim() / 2;
        let offset = config.rotary_offset() as usize;
        let row = &self.table.rows[row * pairs as usize..][..pairs as usize];
        let read = channels.to_vec();
        for (k, &[cos, sin]) in (0..pairs).zip(row) {
            let PairChannels {
                read: from,
                written,
            } = config.pairing().channels(pairs, k);
            let [x, y] = from.map(|channel| read[offset + channel as usize]);
            let is_identity = cos.to_bits() == 1.0_f32.to_bits() && sin.to_bits() == 0;
            let is_kept =
                k >= self.spec.rotated_pairs() || (self.spec.identity_keeps() && is_identity);
            let turned = if is_kept {
                [x, y]
            } else {
                [x * cos - y * sin, x * sin + y * cos]
            };
            for (channel, value) in written.into_iter().zip(turned) {
                channels[offset + channel as usize] = value;
            }
        }
    }
}

/// Channels of a block.
const BLOCK: usize = 32;

impl Slice {
    fn words<'a>(&self, buffers: &'a [Vec<u32>]) -> &'a [u32] {
        &buffers[self.end.place.buffer as usize]
    }

    /// Where its scale of int8 stands: buffer and word.
    fn scale_at(&self) -> (usize, usize) {
        let view = self.end.view;
        let n = self.at / u64::from(view.layout.head_dim);
        let word = index(self.end.scales.offset / 4 + n);
        (self.end.scales.buffer as usize, word)
    }

    /// The first half of a block.
    fn block(&self, channel: usize) -> u64 {
        self.end.place.offset / 2 + (self.at / 32 + (channel / BLOCK) as u64) * 17
    }

    fn unit(&self, channel: usize, bytes: u64) -> u64 {
        let stride = u64::from(self.end.view.channel_stride);
        self.end.place.offset / bytes + self.at + channel as u64 * stride
    }

    fn read(&self, buffers: &[Vec<u32>]) -> Vec<f32> {
        let words = self.words(buffers);
        let channels = 0..self.end.view.layout.head_dim as usize;
        match self.end.view.storage {
            Storage::Float(element) => channels
                .map(|c| read_float(words, element, self.unit(c, element.bytes())))
                .collect(),
            Storage::Q8_0 => channels
                .map(|c| {
                    let block = self.block(c);
                    let scale = read_float(words, ElementType::F16, block);
                    let byte = read_unit(words, 1, block * 2 + 2 + (c % BLOCK) as u64);
                    signed(byte) * scale
                })
                .collect(),
            Storage::Int8 => {
                let (buffer, word) = self.scale_at();
                let scale = f32::from_bits(buffers[buffer][word]);
                channels
                    .map(|c| signed(read_unit(words, 1, self.unit(c, 1))) * scale)
                    .collect()
            }
        }
    }

    fn write(&self, buffers: &mut [Vec<u32>], channels: &[f32]) {
        let words = &mut buffers[self.end.place.buffer as usize];
        match self.end.view.storage {
            Storage::Float(element) => {
                for (c, &value) in channels.iter().enumerate() {
                    let unit = self.unit(c, element.bytes());
                    let bits = match element {
                        ElementType::F32 => value.to_bits(),
                        ElementType::F16 => half::f16::narrow(value).to_bits().into(),
                        ElementType::Bf16 => half::bf16::narrow(value).to_bits().into(),
                    };
                    write_unit(words, element.bytes(), unit, bits);
                }
            }
            Storage::Q8_0 => {
                for (n, block) in channels.chunks_exact(BLOCK).enumerate() {
                    let (scale, inverse) = scales(block);
                    let first = self.block(n * BLOCK);
                    let bits = half::f16::narrow(scale).to_bits();
                    write_unit(words, 2, first, bits.into());
                    for (byte, &value) in (first * 2 + 2..).zip(block) {
                        write_unit(words, 1, byte, quantised(value, inverse));
                    }
                }
            }
            Storage::Int8 => {
                let (scale, inverse) = scales(channels);
                for (c, &value) in channels.iter().enumerate() {
                    write_unit(words, 1, self.unit(c, 1), quantised(value, inverse));
                }
                let (buffer, word) = self.scale_at();
                buffers[buffer][word] = scale.to_bits();
            }
        }
    }
}

/// The scale of values that share one, and its inverse: 0 where there is none.
fn scales(values: &[f32]) -> (f32, f32) {
    // The bits of magnitudes are ordered as they are, and NaN is the largest.
    let most = values.iter().map(|value| value.abs().to_bits()).max();
    let most = f32::from_bits(most.unwrap_or(0));
    if !most.is_finite() {
        return (most, 0.0);
    }
    let scale = divided(most, 127.0);
    (
        scale,
        if scale > 0.0 {
            divided(1.0, scale)
        } else {
            0.0
        },
    )
}

/// The nearest whole number to the quotient, halves away from 0, as a byte.
fn quantised(value: f32, inverse: f32) -> u32 {
    if inverse == 0.0 {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it saturates, and is clamped before"
    )]
    let whole = (value * inverse).round().clamp(-127.0, 127.0) as i8;
    u32::from(whole.cast_unsigned())
}

#[expect(clippy::cast_possible_truncation, reason = "one byte is what is meant")]
fn signed(byte: u32) -> f32 {
    f32::from((byte as u8).cast_signed())
}

/// The n-th unit of so many bytes.
fn read_unit(words: &[u32], bytes: u64, n: u64) -> u32 {
    let per = 4 / bytes;
    let bits = 32 / per;
    let shift = n % per * bits;
    (words[index(n / per)] >> shift) & (u32::MAX >> (32 - bits))
}

fn write_unit(words: &mut [u32], bytes: u64, n: u64, value: u32) {
    let per = 4 / bytes;
    let bits = 32 / per;
    let shift = n % per * bits;
    let word = &mut words[index(n / per)];
    let mask = (u32::MAX >> (32 - bits)) << shift;
    *word = (*word & !mask) | (value << shift);
}

fn read_float(words: &[u32], element: ElementType, n: u64) -> f32 {
    let bits = read_unit(words, element.bytes(), n);
    #[expect(clippy::cast_possible_truncation, reason = "16 bits were read")]
    let half = bits as u16;
    match element {
        ElementType::F32 => f32::from_bits(bits),
        ElementType::F16 => half::f16::from_bits(half).widen(),
        ElementType::Bf16 => half::bf16::from_bits(half).widen(),
    }
}

/// An index within a buffer.
fn index(wide: u64) -> usize {
    usize::try_from(wide).unwrap_or(usize::MAX)
}
