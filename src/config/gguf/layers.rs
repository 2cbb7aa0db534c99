//! Which layers there are, which of them slide, and which rotate.

use super::architectures::{Habit, Nope, Pattern, Temperature, When};
use super::keys::{Keys, PerLayer};
use super::rope::{Kind, Shared};
use crate::config::model::Kinds;
use crate::config::{LayerKind, LayerRope, ModelRope, QueryScaleRule};
use crate::error::Result;

/// The most layers that llama.cpp takes.
const MAX_LAYERS: u32 = 512;
const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";

pub(super) fn read(keys: &mut Keys<'_>) -> Result<Option<ModelRope>> {
    let architecture = keys.architecture;
    let all = keys.required("block_count")?;
    if !(1..=MAX_LAYERS).contains(&all) {
        return Err(keys.fault(
            "block_count",
            format!("must be from 1 to {MAX_LAYERS}"),
            all,
        ));
    }
    let predicting = keys.whole("nextn_predict_layers")?.unwrap_or(0);
    if predicting >= all {
        return Err(keys.fault(
            "nextn_predict_layers",
            format!("must be below the {all} of block_count"),
            predicting,
        ));
    }
    let count = (all - predicting) as usize;
    match (architecture.habit, count) {
        (Some(Habit::Baichuan), 40) => return Ok(None),
        (Some(Habit::Baichuan), 32) | (None, _) => {}
        (Some(Habit::Baichuan), other) => {
            return Err(keys.fault(
                "block_count",
                "must be 32 (7B, RoPE) or 40 (13B, ALiBi), by which llama.cpp tells one from the other",
                other,
            ));
        }
        (Some(_), _) => {}
    }
    if architecture.nope == Nope::Untuned && keys.flag("rope.scaling.finetuned")? == Some(false) {
        return Ok(None);
    }

    let heads = keys
        .per_layer("attention.head_count", count)?
        .ok_or_else(|| keys.missing("attention.head_count"))?;
    let key_heads = keys.per_layer("attention.head_count_kv", count)?;
    let recurrent = recurrent(keys, count, all as usize)?;
    let has_attention = |layer: usize| {
        heads.at(layer) > 0
            && key_heads.as_ref().is_none_or(|heads| heads.at(layer) > 0)
            && !recurrent.get(layer).is_some_and(|&is_so| is_so)
    };
    let is_hyper = architecture.habit == Some(Habit::Draft)
        && keys.whole("hyper_connection.count")?.unwrap_or(0) > 0;
    let sliding = sliding(keys, count, is_hyper)?;
    let slides = |layer: usize| {
        sliding
            .as_ref()
            .is_some_and(|sliding| sliding.get(layer).is_some_and(|&is_so| is_so))
    };
    let rotating = rotating(keys, count, sliding.as_deref())?;
    let compressed = compressed(keys, count)?;
    let Some(first) = (0..count)
        .map(|layer| heads.at(layer))
        .find(|&heads| heads > 0)
    else {
        return Ok(None);
    };

    let temperature = temperature(keys, sliding.is_some())?;
    let kind_of = |name: &str, rope: Option<LayerRope>| LayerKind {
        name: name.to_owned(),
        query_scale: temperature.filter(|rule| match rule {
            QueryScaleRule::Llama4 { .. } => rope.is_none(),
            QueryScaleRule::Ministral3 { .. } => true,
        }),
        rope,
    };
    let mut kinds = Kinds::default();
    let mut shared = Shared::new(keys, first, slides(0), is_hyper)?;
    // Each at most once: layers are many, kinds few.
    let mut known: Vec<(Kind, LayerRope)> = Vec::new();
    let mut layers = Vec::with_capacity(count);
    for layer in 0..count {
        if !has_attention(layer) {
            layers.push(kinds.add(kind_of(architecture.other.0, None))?);
            continue;
        }
        let (name, kind) = match compressed.as_ref().and_then(|ratios| ratios.get(layer)) {
            None | Some(0) if !slides(layer) => ("full_attention", Kind::Full),
            None | Some(0) => (architecture.sliding_name, Kind::Sliding),
            Some(128) => ("heavily_compressed_attention", Kind::Compressed),
            Some(_) => ("compressed_sparse_attention", Kind::Compressed),
        };
        if !rotating.get(layer).is_none_or(|&is_so| is_so) {
            layers.push(kinds.add(kind_of(name, None))?);
            continue;
        }
        let rope = match known.iter().find(|(other, _)| *other == kind) {
            Some((_, rope)) => rope.clone(),
            None => {
                let rope = shared.rope(kind)?;
                known.push((kind, rope.clone()));
                rope
            }
        };
        layers.push(kinds.add(kind_of(name, Some(rope)))?);
    }
    Ok(kinds.finish(&mut layers).map(|kinds| ModelRope {
        family: Some(architecture.name),
        defaulted: std::mem::take(&mut keys.defaulted),
        kinds,
        layers,
    }))
}

/// What queries are multiplied by, as llama.cpp's files say it or its code.
fn temperature(keys: &Keys<'_>, slides: bool) -> Result<Option<QueryScaleRule>> {
    const SCALE: &str = "attention.temperature_scale";
    const LENGTH: &str = "attention.temperature_length";
    const ORIGINAL: &str = "rope.scaling.original_context_length";
    let temperature = keys.architecture.temperature;
    if temperature == Temperature::Llama4 && slides {
        return Ok(Some(QueryScaleRule::Llama4 {
            floor_scale: 8192,
            attn_scale: 0.1,
        }));
    }
    if !matches!(temperature, Temperature::Original | Temperature::Said) {
        return Ok(None);
    }
    let Some(beta) = keys.number(SCALE)?.filter(|beta| *beta != 0.0) else {
        return Ok(None);
    };
    let (key, length) = match temperature {
        Temperature::Said => (LENGTH, keys.required(LENGTH)?),
        _ => match keys.whole(ORIGINAL)? {
            Some(length) => (ORIGINAL, length),
            None => ("context_length", keys.required("context_length")?),
        },
    };
    if length == 0 {
        return Err(keys.fault(key, "must be at least 1 for attention.temperature_scale", 0));
    }
    Ok(Some(QueryScaleRule::Ministral3 {
        beta,
        original_max_position_embeddings: length,
    }))
}

/// Layers of another kind than attention, by a rule or a list; none where neither is.
fn recurrent(keys: &mut Keys<'_>, count: usize, all: usize) -> Result<Vec<bool>> {
    const INTERVAL: &str = "full_attention_interval";
    let Some(default) = keys.architecture.other.1 else {
        return Ok(Vec::new());
    };
    if let Some(listed) = keys.per_layer("attention.recurrent_layers", all)? {
        return Ok((0..count).map(|layer| listed.at(layer) != 0).collect());
    }
    let interval = match keys.whole(INTERVAL)? {
        Some(interval) => interval,
        None => {
            keys.note(INTERVAL);
            default
        }
    };
    if interval == 0 {
        return Err(keys.fault(INTERVAL, "must be at least 1", interval));
    }
    let layers = (1..=interval).cycle().take(count);
    Ok(layers.map(|layer| layer != interval).collect())
}

/// The layers that slide. None: the model has no sliding ones.
fn sliding(keys: &mut Keys<'_>, count: usize, is_hyper: bool) -> Result<Option<Vec<bool>>> {
    let Some(rule) = keys.architecture.sliding else {
        return Ok(None);
    };
    let window = keys.whole(WINDOW)?;
    let is_on = match rule.when {
        When::Required => {
            if window.is_none() {
                return Err(keys.missing(WINDOW));
            }
            true
        }
        When::Said if is_hyper => true,
        When::Said => window.is_some_and(|window| window > 0),
        When::Always => true,
        When::UnlessZero => window != Some(0),
        When::Layers(layers) => count == layers as usize,
    };
    if !is_on {
        return Ok(None);
    }
    if rule.pattern == Pattern::All || is_hyper {
        return Ok(Some(vec![true; count]));
    }
    let (period, is_first) = match rule.pattern {
        Pattern::Last(period) => (period, false),
        Pattern::First(period) => (period, true),
        Pattern::Listed | Pattern::All => {
            let listed = keys.list(PATTERN, count)?;
            let listed = listed.ok_or_else(|| keys.missing(PATTERN))?;
            return Ok(Some(listed.iter().map(|&slides| slides != 0).collect()));
        }
    };
    let period = match keys.per_layer(PATTERN, count)? {
        Some(PerLayer::Each(listed)) => {
            return Ok(Some(listed.iter().map(|&slides| slides != 0).collect()));
        }
        Some(PerLayer::All(period)) => period,
        None => {
            keys.note(PATTERN);
            period
        }
    };
    if period == 0 {
        return Ok(Some(vec![true; count]));
    }
    let full = if is_first { 1 } else { period };
    let layers = (1..=period).cycle().take(count);
    Ok(Some(layers.map(|layer| layer != full).collect()))
}

/// Which layers with attention rotate; empty where all do.
fn rotating(keys: &Keys<'_>, count: usize, sliding: Option<&[bool]>) -> Result<Vec<bool>> {
    let by = |rotates: &dyn Fn(usize) -> bool| (0..count).map(rotates).collect();
    let slides = |layer: usize| sliding.is_some_and(|sliding| sliding[layer]);
    Ok(match keys.architecture.nope {
        Nope::None | Nope::Untuned => Vec::new(),
        Nope::Full if sliding.is_none() => Vec::new(),
        Nope::Full => by(&slides),
        Nope::FullBehindDense => {
            let dense = keys.required("leading_dense_block_count")? as usize;
            by(&|layer| slides(layer) || layer < dense)
        }
        // As llama.cpp has it, where its comment says that all rotate.
        Nope::FourthOrLast if sliding.is_none() => by(&|layer| layer + 1 != count),
        Nope::Fourth | Nope::FourthOrLast => by(&|layer| (layer + 1) % 4 != 0),
        Nope::FirstOfFour if sliding.is_none() => Vec::new(),
        Nope::FirstOfFour => by(&|layer| layer % 4 != 0),
        Nope::Listed => {
            let listed = keys.list("attention.rope_pattern", count)?;
            let listed = listed.unwrap_or_default();
            listed.iter().map(|&rotates| rotates != 0).collect()
        }
    })
}

/// How much each layer of DeepSeek V4 compresses.
fn compressed(keys: &Keys<'_>, count: usize) -> Result<Option<Vec<u32>>> {
    const RATIOS: &str = "attention.compress_ratios";
    if keys.architecture.habit != Some(Habit::DeepSeek4) {
        return Ok(None);
    }
    let ratios = keys.list(RATIOS, count)?;
    ratios.map(Some).ok_or_else(|| keys.missing(RATIOS))
}
