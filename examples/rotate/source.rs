//! What rotates: a model's file, or frequencies, pairs or cos and sin of the input.

use std::collections::HashMap;

use safetensors::SafeTensors;
use wgpu_rope::config::{LayerRope, ModelRope, gguf, huggingface};
use wgpu_rope::positions::GridPositions;
use wgpu_rope::{
    CosSinLayout, Element, ElementType, Frequencies, Pair, Pairing, RopeConfig, Scaling,
};

use crate::Failure;
use crate::args::{Args, PairingName};
use crate::tensors::{Heads, Values, find, floats, integers};

/// What rotates, before a tensor is known.
#[derive(Debug, Clone)]
pub enum Source {
    /// A layer that does not rotate; the text says which.
    Nothing(String),
    /// A RoPE with its frequencies from a rule, and how patches are numbered. None: the whole head of a tensor.
    Rope {
        config: Option<RopeConfig>,
        grid: Option<GridPositions>,
    },
    /// A list of pairs, with positions of its own.
    Pairs(PairList),
    /// cos and sin of the input.
    Cached {
        config: Option<RopeConfig>,
        cache: Cache,
    },
}

#[derive(Debug, Clone)]
pub struct PairList {
    pub pairing: Pairing,
    pub rotary_dim: u32,
    pub rotary_offset: u32,
    pub pairs: Vec<Pair>,
    /// Pairs up to the last that is listed, and whether any before it is not.
    pub listed_to: u32,
    pub has_gaps: bool,
    /// `[entries, tokens, axes]`
    pub positions: Values,
    pub entries: usize,
    pub tokens: usize,
}

/// cos and sin, `rows` of `columns`.
#[derive(Debug, Clone)]
pub struct Cache {
    pub cos: CacheValues,
    pub sin: CacheValues,
    pub rows: usize,
    pub columns: usize,
    /// `[batch, tokens, columns]`: each token has its own row.
    pub per_token: Option<[usize; 2]>,
}

#[derive(Debug, Clone)]
pub enum CacheValues {
    F32(Vec<f32>),
    F16(Vec<wgpu_rope::half::f16>),
    Bf16(Vec<wgpu_rope::half::bf16>),
}

impl Cache {
    pub fn layout(&self, pairs: u32) -> Result<CosSinLayout, Failure> {
        let small = |value: usize| {
            u32::try_from(value).map_err(|_| Failure::from("cos_cache: is too large"))
        };
        Ok(CosSinLayout {
            positions: small(self.rows)?,
            columns: small(self.columns)?,
            pairs,
            element: match self.cos {
                CacheValues::F32(_) => ElementType::F32,
                CacheValues::F16(_) => ElementType::F16,
                CacheValues::Bf16(_) => ElementType::Bf16,
            },
        })
    }
}

impl Source {
    pub fn of(
        args: &Args,
        file: &SafeTensors<'_>,
        notes: &mut Vec<String>,
    ) -> Result<Self, Failure> {
        if args.pairs {
            return Ok(Self::Pairs(PairList::of(file)?));
        }
        let model = match (&args.config, &args.gguf) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                let part = match args.part.as_deref() {
                    None => huggingface::Part::Main,
                    Some("text") => huggingface::Part::Text,
                    Some("vision") => huggingface::Part::Vision,
                    Some("audio") => huggingface::Part::Audio,
                    Some(key) => huggingface::Part::Key(key),
                };
                Some(huggingface::read_part(&text, part)?)
            }
            (None, Some(path)) => {
                let file = gguf::File::open(path)?;
                Some(gguf::read_metadata(&file)?)
            }
            (None, None) => None,
        };
        let layer = match model {
            None => None,
            Some(None) => return Ok(Self::Nothing("the model has no RoPE".into())),
            Some(Some(model)) => {
                notes.extend(described(&model));
                match chosen(args, &model)? {
                    Ok(layer) => Some(layer),
                    Err(name) => {
                        return Ok(Self::Nothing(format!("{name} does not rotate (NoPE)")));
                    }
                }
            }
        };
        let (config, grid) = match layer {
            None => (None, None),
            Some(layer) => (Some(layer.config), layer.grid),
        };
        if args.cos_sin {
            return Ok(Self::Cached {
                config,
                cache: Cache::of(file)?,
            });
        }
        if config.is_none() && args.theta.is_none() && args.inv_freq.is_none() {
            return Err(
                "what rotates is not said: give --config, --gguf, --theta, --inv-freq, --pairs or --cos-sin"
                    .into(),
            );
        }
        Ok(Self::Rope { config, grid })
    }
}

/// What a user may want to know of how a model was read.
fn described(model: &ModelRope) -> Vec<String> {
    let family = model.family.map_or_else(
        || "an unknown family, read by the general rules as half-split".to_owned(),
        |family| format!("family {family}"),
    );
    let mut notes = vec![family];
    if !model.defaulted.is_empty() {
        notes.push(format!(
            "not in the file, the family's default: {}",
            model.defaulted.join(", ")
        ));
    }
    let idle = model.kinds.iter().filter(|kind| kind.rope.is_none());
    let idle: Vec<_> = idle.map(|kind| kind.name.as_str()).collect();
    if !idle.is_empty() {
        notes.push(format!("layers that do not rotate: {}", idle.join(", ")));
    }
    // What is the attention's to do, and no rotation.
    for kind in &model.kinds {
        if let Some(rope) = kind.rope.as_ref().filter(|rope| rope.softmax_factor != 1.0) {
            notes.push(format!(
                "{}: the scale of the softmax is to be multiplied by {}",
                kind.name, rope.softmax_factor
            ));
        }
        if let Some(rule) = kind.query_scale {
            notes.push(format!(
                "{}: queries are to be multiplied by a factor of their position, {rule:?}",
                kind.name
            ));
        }
    }
    notes
}

/// The layer that was asked for, or the name of one that does not rotate.
fn chosen(args: &Args, model: &ModelRope) -> Result<Result<LayerRope, String>, Failure> {
    let kind = match (&args.layer_type, args.layer) {
        (Some(name), _) => model.kind(name)?,
        (None, Some(index)) => model.layer(index)?,
        (None, None) => {
            let only = model.only();
            let only = only.map_err(|error| format!("{error} (--layer-type NAME or --layer N)"))?;
            return Ok(Ok(only.clone()));
        }
    };
    Ok(kind.rope.clone().ok_or_else(|| kind.name.clone()))
}

/// The RoPE for a tensor's heads: the whole head, or exactly the rotary slice.
pub fn fitted(
    args: &Args,
    config: Option<&RopeConfig>,
    heads: &Heads,
) -> Result<RopeConfig, Failure> {
    let width = heads.width;
    let mut config = match config {
        None => RopeConfig::new(width),
        Some(config) => config.clone(),
    };
    if let Some(theta) = args.theta {
        config = config.with_theta(theta);
    }
    if let Some(rotary_dim) = args.rotary_dim {
        // A window at the end of the head stays there.
        let end = config.rotary_offset() + config.rotary_dim();
        if config.rotary_offset() > 0 && end == config.head_dim() {
            config = config.with_rotary_offset(end.saturating_sub(rotary_dim));
        }
        config = config
            .with_rotary_dim(rotary_dim)
            .with_frequency_dim(rotary_dim);
    }
    if let Some(offset) = args.rotary_offset {
        config = config.with_rotary_offset(offset);
    }
    match args.pairing {
        None => {}
        Some(PairingName::Half) => config = config.with_pairing(Pairing::HalfSplit),
        Some(PairingName::Interleaved) => config = config.with_pairing(Pairing::Interleaved),
    }
    if let Some(factor) = args.attention_factor {
        config = config.with_attention_factor(factor);
    }
    if width == config.head_dim() {
        Ok(config)
    } else if width == config.rotary_dim() {
        Ok(config.with_head_dim(width).with_rotary_offset(0))
    } else {
        Err(format!(
            "{}: the head must have head_dim {} or the rotary dimension {}, got {width}",
            heads.name,
            config.head_dim(),
            config.rotary_dim()
        )
        .into())
    }
}

/// The frequencies for a context of so many positions.
pub fn frequencies(
    args: &Args,
    file: &SafeTensors<'_>,
    config: &RopeConfig,
    length: u64,
) -> Result<Frequencies, Failure> {
    let mut config = config.clone();
    let mut divisors = None;
    if let Some(name) = &args.freq_factors {
        let factors = floats(name, &find(file, name)?)?;
        divisors = args.inv_freq.is_some().then(|| factors.clone());
        config = config.with_scaling(Scaling::FrequencyFactors(factors));
    }
    let own = Frequencies::for_length(&config, length)?;
    let Some(name) = &args.inv_freq else {
        return Ok(own);
    };
    let given = floats(name, &find(file, name)?)?;
    let order = config
        .axes()
        .inv_freq_order(config.rotary_dim() / 2, given.len());
    let Some(order) = order else {
        return Err(format!(
            "{name}: must have {} values, one for each pair, got {}",
            own.len(),
            given.len()
        )
        .into());
    };
    let mut unit = if config.reversed() { -1.0 } else { 1.0 };
    // What a vision model multiplies coordinates by (2 pi of DINOv3) is not in its inv_freq.
    if let (Scaling::Linear { factor }, false) = (config.scaling(), config.axes().runs_on()) {
        unit /= factor;
    }
    let inv_freq = order.into_iter().enumerate().map(|(k, index)| {
        unit * given[index] / divisors.as_ref().map_or(1.0, |divisors| divisors[k])
    });
    Ok(own.with_inv_freq(&inv_freq.collect::<Vec<_>>())?)
}

impl PairList {
    fn of(file: &SafeTensors<'_>) -> Result<Self, Failure> {
        let whole = |name: &str| -> Result<Vec<u32>, Failure> {
            let tensor = find(file, name)?;
            let values = integers(&tensor).ok_or_else(|| {
                format!("{name}: must be whole numbers, got {:?}", tensor.dtype())
            })?;
            let small = values.iter().map(|&value| u32::try_from(value));
            small
                .collect::<Result<_, _>>()
                .map_err(|_| format!("{name}: must be numbers from 0 to 2^32 - 1").into())
        };
        let (read, written, axes) = (whole("pair_in")?, whole("pair_out")?, whole("pair_axis")?);
        let inv_freq = floats("pair_inv_freq_f64", &find(file, "pair_inv_freq_f64")?)?;
        let count = inv_freq.len();
        if read.len() != 2 * count || written.len() != 2 * count || axes.len() != count {
            return Err(format!(
                "pair_in: must have two channels for each of {count} pairs, as pair_out, and pair_axis one axis; got {}, {} and {}",
                read.len(), written.len(), axes.len()
            )
            .into());
        }
        let mut pairs: Vec<Listed> = (0..count)
            .map(|k| Listed {
                read: [read[2 * k], read[2 * k + 1]],
                written: [written[2 * k], written[2 * k + 1]],
                pair: Pair {
                    inv_freq: inv_freq[k],
                    axis: axes[k],
                },
            })
            .collect();
        for listed in &mut pairs {
            // (y, x) turned one way is (x, y) turned the other.
            if listed.read[0] > listed.read[1] && listed.written[0] > listed.written[1] {
                listed.read.reverse();
                listed.written.reverse();
                listed.pair.inv_freq = -listed.pair.inv_freq;
            }
        }
        // Larger heads are not rotated, and a window is as long as its channels are apart.
        let far = pairs
            .iter()
            .flat_map(|listed| listed.read.into_iter().chain(listed.written));
        if let Some(channel) = far.max().filter(|channel| *channel >= 1 << 16) {
            return Err(format!("pair_in: channels must be below 65536, got {channel}").into());
        }
        let (pairing, rotary_dim, rotary_offset, found) = recognised(pairs)?;
        let last = found.iter().rposition(Option::is_some).map_or(0, |k| k + 1);
        let has_gaps = found.iter().take(last).any(Option::is_none);
        let idle = Pair {
            inv_freq: 0.0,
            axis: 0,
        };
        let pairs: Vec<_> = found.into_iter().map(|pair| pair.unwrap_or(idle)).collect();

        let tensor = find(file, "pos_axes_f64")?;
        let &[axes_given, entries, tokens] = tensor.shape() else {
            return Err(format!(
                "pos_axes_f64: must be [axes, batch, tokens], got {:?}",
                tensor.shape()
            )
            .into());
        };
        let axes = 1 + pairs.iter().map(|pair| pair.axis).max().unwrap_or(0) as usize;
        if axes > axes_given {
            return Err(format!("pos_axes_f64: must have {axes} axes, got {axes_given}").into());
        }
        let values = Values::of_floats("pos_axes_f64", floats("pos_axes_f64", &tensor)?)?;
        let rows = entries * tokens;
        let indices: Vec<usize> = (0..rows)
            .flat_map(|row| (0..axes).map(move |axis| axis * rows + row))
            .collect();
        Ok(Self {
            pairing,
            rotary_dim,
            rotary_offset,
            pairs,
            listed_to: u32::try_from(last).map_err(|_| "pair_in: is too long")?,
            has_gaps,
            positions: values.gather(&indices),
            entries,
            tokens,
        })
    }
}

#[derive(Debug, Clone)]
struct Listed {
    read: [u32; 2],
    written: [u32; 2],
    pair: Pair,
}

/// A pairing, its window, and for every pair of it the one that is listed.
type Recognised = (Pairing, u32, u32, Vec<Option<Pair>>);

/// What a list of pairs comes down to.
fn recognised(pairs: Vec<Listed>) -> Result<Recognised, Failure> {
    let all = || {
        let each = |listed: &Listed| listed.read.into_iter().chain(listed.written);
        pairs.iter().flat_map(each)
    };
    let (Some(first), Some(last)) = (all().min(), all().max()) else {
        return Err("pair_in: must have at least one pair".into());
    };
    let apart = |[x, y]: [u32; 2]| y.abs_diff(x);
    let distance = pairs
        .iter()
        .map(|listed| apart(listed.read).max(apart(listed.written)))
        .max();
    let distance = distance.unwrap_or(1).max(1);
    let even = (last - first + 1).next_multiple_of(2);
    // A half-split window is twice the distance long, and may begin before the first channel that is listed; blocks repeat it.
    let start = (last + 1).saturating_sub(2 * distance).min(first);
    let windows = [
        (first, even),
        (start, 2 * distance),
        (first, 2 * distance),
        (first, even.next_multiple_of(2 * distance)),
        (0, (last + 1).next_multiple_of(2 * distance)),
    ];
    for (offset, window) in windows {
        let count = window / 2;
        let candidates = [
            Pairing::HalfSplit,
            Pairing::Interleaved,
            Pairing::InterleavedToHalfSplit,
            Pairing::HalfSplitToInterleaved,
            Pairing::HalfSplitBlocks((count / distance).max(1)),
        ];
        for pairing in candidates {
            let blocks = match pairing {
                Pairing::HalfSplitBlocks(blocks) => blocks,
                _ => 1,
            };
            let moves = pairing.reversed() != pairing;
            // Channels that pass through cannot move.
            if !count.is_multiple_of(blocks) || (moves && count as usize != pairs.len()) {
                continue;
            }
            let channels: HashMap<_, _> = (0..count)
                .map(|k| (k, pairing.channels(count, k)))
                .map(|(k, channels)| (channels.read, (k, channels.written)))
                .collect();
            let mut found = vec![None; count as usize];
            let fits = pairs.iter().all(|listed| {
                let within =
                    |channels: [u32; 2]| channels.map(|channel| channel.wrapping_sub(offset));
                match channels.get(&within(listed.read)) {
                    Some(&(k, written)) if written == within(listed.written) => {
                        found[k as usize].replace(listed.pair).is_none()
                    }
                    _ => false,
                }
            });
            if fits {
                return Ok((pairing, window, offset, found));
            }
        }
    }
    Err("pair_in: the channels must be those of half-split or interleaved pairs, of blocks of half-split ones, or of pairs that move between these".into())
}

impl Cache {
    fn of(file: &SafeTensors<'_>) -> Result<Self, Failure> {
        let (cos, sin) = (find(file, "cos_cache")?, find(file, "sin_cache")?);
        if cos.shape() != sin.shape() || cos.dtype() != sin.dtype() {
            return Err(format!(
                "sin_cache: must be as cos_cache, {:?} {:?}, got {:?} {:?}",
                cos.dtype(),
                cos.shape(),
                sin.dtype(),
                sin.shape()
            )
            .into());
        }
        let (rows, columns, per_token) = match *cos.shape() {
            [rows, columns] => (rows, columns, None),
            [batch, tokens, columns] => (batch * tokens, columns, Some([batch, tokens])),
            _ => {
                return Err(format!(
                    "cos_cache: must be [positions, columns] or [batch, tokens, columns], got {:?}",
                    cos.shape()
                )
                .into());
            }
        };
        Ok(Self {
            cos: CacheValues::of("cos_cache", &cos)?,
            sin: CacheValues::of("sin_cache", &sin)?,
            rows,
            columns,
            per_token,
        })
    }
}

impl CacheValues {
    fn of(name: &str, tensor: &safetensors::tensor::TensorView<'_>) -> Result<Self, Failure> {
        use safetensors::Dtype;
        let data = tensor.data();
        Ok(match tensor.dtype() {
            Dtype::F32 => Self::F32(bytemuck::pod_collect_to_vec(data)),
            Dtype::F16 => Self::F16(bytemuck::pod_collect_to_vec(data)),
            Dtype::BF16 => Self::Bf16(bytemuck::pod_collect_to_vec(data)),
            other => return Err(format!("{name}: must be F32, F16 or BF16, got {other:?}").into()),
        })
    }
}

/// Runs something on the two slices of a cache, whatever their type.
pub trait WithValues {
    type Output;
    fn run<C: Element>(self, cos: &[C], sin: &[C]) -> Self::Output;
}

impl Cache {
    pub fn with_values<W: WithValues>(&self, work: W) -> Result<W::Output, Failure> {
        match (&self.cos, &self.sin) {
            (CacheValues::F32(cos), CacheValues::F32(sin)) => Ok(work.run(cos, sin)),
            (CacheValues::F16(cos), CacheValues::F16(sin)) => Ok(work.run(cos, sin)),
            (CacheValues::Bf16(cos), CacheValues::Bf16(sin)) => Ok(work.run(cos, sin)),
            _ => Err("sin_cache: must be of the type of cos_cache".into()),
        }
    }
}
