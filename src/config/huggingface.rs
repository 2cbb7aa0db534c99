//! The RoPE of a model from its Hugging Face `config.json`.
//!
//! Both forms are read: `rope_theta` with `rope_scaling` (transformers 4), and `rope_parameters` (transformers 5), one set for
//! all layers or one for each kind. What a file leaves out is the default of its family's class in transformers 5.23, and the result
//! says so. A `model_type` that nobody knows is read by the general rules: half-split, theta and the rest from the file; with a
//! `qk_rope_head_dim` (multi-head latent attention) as DeepSeek V3, from interleaved to half-split pairs, and with its factor of the
//! softmax. Without a known family, keys by which families tell kinds of layers apart (`no_rope_layers`, `swa_rope_theta`, …) are refused.
//! So is a `rope_theta` beside the name of a family without RoPE: such a file is of another model (Grok-2 calls itself `git`).
//!
//! What a model multiplies its queries by, beside the rotation, is in
//! [`LayerKind::query_scale`](super::LayerKind::query_scale): Llama 4's `attn_temperature_tuning`, `floor_scale` and `attn_scale`, and
//! `llama_4_scaling_beta` of Ministral 3 and Mistral 4. What it multiplies the scale of the softmax by is in
//! [`LayerRope::softmax_factor`].
//!
//! # Where this is not transformers
//! - **`PhiMoE`** takes `long_factor` and `long_mscale` for contexts past `original_max_position_embeddings`, as it was trained and as vLLM
//!   and `SGLang` have it; the divisors are those of its GGUF files. transformers changes the magnitude there and keeps the short divisors.
//!   A `longrope` of a family that nobody knows has `short_mscale` and `long_mscale` too, where they are given.
//! - **`truncate`** counts in each set of parameters. transformers looks for it beside the sets, where there are several, and so rounds the
//!   ends of YaRN's ramp whatever these say.
//! - **Types of scaling** that transformers has not: `ntk`, `deepseek_yarn` and `telechat3-yarn` are vLLM's (the last with the attention factor
//!   `0.07 ln(factor) + 1`; mlx-lm has YaRN's own 0.1); `alpha` beside `dynamic`, which transformers knows for Hunyuan, is read for every
//!   family.
//! - **The original length of Phi-3** is 4096 where the file has none, as in its class; that of a set counts, where none stands beside it.
//! - **ChatGLM-6B** (`position_encoding_2d`) has two positions: a token's row 0 turns the first half of the head, its row 1, the place within
//!   the answer, the second.
//! - **XD-RoPE** (Hunyuan-VL's `xdrope_section`) has a section of pairs for each of four axes: position, column, row and image. Its own
//!   code repeats the list of sections, and vLLM and llama.cpp agree; transformers doubles each section, and so turns the two channels of
//!   a pair by different axes, in what it saves as `dynamic` with `mrope_section` too.
//! - **Pairs are those of the weights in the file.** transformers permutes the rows of Q and K of some models when it loads them, and back
//!   when it saves: their files have interleaved pairs, where its classes have half-split ones (the vision towers of Kimi K2.5 and Step 3.7,
//!   Pixtral in Mistral Large 4, Gradium's Phonon TTS).
//! - **`rope_interleave`** counts for every family whose pairs go from interleaved to half-split. The classes `axk1`,
//!   `deepseek_v3`, `glm4_moe_lite`, `mistral4` and `youtu` look at it; the others of that sort always take interleaved pairs.
//! - **MiniMax** (Text-01, M1, and files of M2 that have that name) rotates `rotary_dim` channels and has the kinds of layers of
//!   `attn_type_list`, as vLLM and llama.cpp have it. transformers' class rotates the whole head, and takes every second layer.
//! - **MiMo-V2** has the thetas `rope_theta` and `swa_rope_theta` and the kinds of layers of `hybrid_layer_pattern`, as its remote code,
//!   vLLM and `SGLang` have it. transformers' class takes those of MiMo-V2-Flash, whatever an older file says.
//! - **`mrope_section`** has to add up to the pairs in every scheme. transformers cuts off or leaves to time what does not, where axes go
//!   by turns.
//! - **The vocoder of Qwen2.5-Omni** (`qwen2_5_omni_dit`) rotates only the first head of its queries and keys. What is read says how that
//!   head rotates; the host has to see to it that the others do not.
//! - **A model without RoPE** whose `position_embedding_type` is `rope` or `rotary` rotates, as the remote code that its file is of
//!   (jina-embeddings-v3).
//!
//! Not read, by transformers neither: Nomic's `rotary_scaling_factor` (its remote code's dynamic scaling) and `rotary_emb_interleaved`, and
//! Qwen 1's `use_dynamic_ntk`. Where they are set, change the configuration with the methods of [`RopeConfig`].
//!
//! # Known families
#![doc = include_str!("huggingface/families.md")]

mod families;
mod layers;
mod scaling;
mod values;
mod vision;

use serde_json::Value;

use self::families::{
    CHATGLM_6B, COMPOSITES, Family, Habit, Head, IDLE_THETA, REFUSED, SIZES, TEXT, TextAxes,
    UNKNOWN, UNKNOWN_LATENT, WITHOUT,
};
use self::scaling::Habits;
use self::values::{
    Object, flag, missing, number, object, positive, present, shown, string, truncated, whole,
    wholes,
};
use super::reading::{cut, note};
use super::{Axes, LayerRope, ModelRope, Pairing, QueryScaleRule, RopeConfig, Scaling};
use crate::error::{Result, RopeError};

/// Which part of a model's file to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Part<'a> {
    /// The text part where there is one, else the file itself.
    #[default]
    Main,
    /// The text part (`text_config`, or the file itself where it holds the keys of the text).
    Text,
    /// The vision part (`vision_config`, or the file itself for a vision model).
    Vision,
    /// The audio part (`audio_config`).
    Audio,
    /// The part under this key, with or without its `_config`, or under keys joined with dots: `talker`,
    /// `thinker_config.text_config`.
    Key(&'a str),
}

/// Where the parts of composite models stand, the first that is there.
const TEXT_KEYS: [&str; 7] = [
    "text_config",
    "thinker_config.text_config",
    "vlm_config.text_config",
    "language_config",
    "llm_config",
    "thinker_config",
    "vlm_config",
];
const VISION_KEYS: [&str; 11] = [
    "vision_config.encoder_config",
    "vision_config.backbone_config",
    "vision_config",
    "thinker_config.vision_config",
    "vlm_config.vision_config",
    "detector_config.vision_config.backbone_config",
    "tracker_config",
    "visual",
    "vision_encoder_config",
    "vit_config",
    "backbone_config",
];
const AUDIO_KEYS: [&str; 5] = [
    "audio_config",
    "thinker_config.audio_config",
    "audio_video_config.audio_config",
    "audio_encoder_config",
    "encoder_config",
];

/// Reads the text of a `config.json`: the text part of a composite model, else the file itself. None: the model has no RoPE.
///
/// ```
/// let text = r#"{ "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 500000.0,
///     "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
///                       "original_max_position_embeddings": 8192 } }"#;
/// let model = wgpu_rope::config::huggingface::read_config(text)?.expect("LLaMA has RoPE");
/// let rope = model.only()?;
/// assert_eq!((rope.config.head_dim(), rope.config.theta()), (128, 500_000.0));
/// # Ok::<(), wgpu_rope::RopeError>(())
/// ```
///
/// # Errors
/// [`RopeError::Config`] naming the key: text that is no JSON object, an unknown rope type, a required key that is missing, a value of
/// the wrong type or out of range, a family whose rotation has no description here.
pub fn read_config(text: &str) -> Result<Option<ModelRope>> {
    read_part(text, Part::Main)
}

/// Reads one part of a model's file. None: that part has no RoPE.
///
/// # Errors
/// As for [`read_config`], and where the file has no such part.
pub fn read_part(text: &str, part: Part<'_>) -> Result<Option<ModelRope>> {
    let text = text.trim_start_matches('\u{feff}');
    // Python writes infinity and NaN as JSON does not have them, where they say nothing of RoPE.
    let value: Value = serde_json::from_str(text)
        .or_else(|error| serde_json::from_str(&without_infinities(text)).map_err(|_| error))
        .map_err(|error| RopeError::config("config.json", "must be JSON", error))?;
    let file = value
        .as_object()
        .ok_or_else(|| RopeError::config("config.json", "must be an object", "another value"))?;
    if let Some(class) = string(file, "_class_name")? {
        return Err(RopeError::config(
            "config.json",
            "must be one of transformers: this is one of diffusers, whose models are not known here",
            cut(class).0,
        ));
    }
    let own = string(file, "model_type")?;
    let text_part = || find(file, &TEXT_KEYS);
    let vision_part = || find(file, &VISION_KEYS);
    match part {
        Part::Main => match text_part() {
            Some(part) => read_text(part, own),
            None => read_any(file),
        },
        Part::Text => match text_part() {
            Some(part) => read_text(part, own),
            None if is_tower(own) => Err(no_part("text", file)),
            None => read_text(file, None),
        },
        Part::Vision => match vision_part() {
            Some(part) => read_vision(part, own),
            None if vision::find(own, None).is_some() => read_vision(file, None),
            None => Err(no_part("vision", file)),
        },
        Part::Audio => match (find(file, &AUDIO_KEYS), own.and_then(refused)) {
            (Some(_), Some(error)) => Err(error),
            (Some(part), None) => read_text(part, None),
            (None, _) => Err(no_part("audio", file)),
        },
        Part::Key(path) => {
            let longer = format!("{path}_config");
            let (path, part) = [path, &longer]
                .into_iter()
                .find_map(|path| Some((path, at(file, path)?)))
                .ok_or_else(|| no_part(path, file))?;
            read_at(path, part, own)
        }
    }
}

/// Reads the part at a path. Some say what they are by where they stand alone, or have the composite's own `model_type`.
fn read_at(path: &str, part: &Object, own: Option<&str>) -> Result<Option<ModelRope>> {
    if VISION_KEYS.contains(&path) {
        return read_vision(part, own);
    }
    if let (true, Some(error)) = (AUDIO_KEYS.contains(&path), own.and_then(refused)) {
        return Err(error);
    }
    match at(part, "text_config") {
        Some(text) => read_text(text, string(part, "model_type")?.or(own)),
        None if TEXT_KEYS.contains(&path) => read_text(part, own),
        None => read_any(part),
    }
}

/// The text with `Infinity`, `-Infinity` and `NaN` outside of strings as `null`.
fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|word| !in_string && rest.starts_with(word));
        if let Some(word) = word {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        let mut taken = next.len_utf8();
        if next == '"' {
            in_string = !in_string;
        } else if next == '\\' {
            // What is escaped ends no string.
            taken += rest[taken..].chars().next().map_or(0, char::len_utf8);
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

/// The part at a path of keys.
fn at<'a>(file: &'a Object, path: &str) -> Option<&'a Object> {
    path.split('.')
        .try_fold(file, |part, key| part.get(key)?.as_object())
}

fn find<'a>(file: &'a Object, paths: &[&str]) -> Option<&'a Object> {
    paths.iter().find_map(|path| at(file, path))
}

fn no_part(part: &str, file: &Object) -> RopeError {
    let parts: Vec<_> = file
        .iter()
        .filter(|(key, value)| value.is_object() && key.ends_with("_config"))
        .map(|(key, _)| key.as_str())
        .collect();
    let rule = match &parts[..] {
        [] => "must be a part of the file, which has none".to_owned(),
        parts => format!("must be a part of the file, which has {}", parts.join(", ")),
    };
    RopeError::config("part", rule, part)
}

/// Whether a file is a vision tower and nothing else.
fn is_tower(name: Option<&str>) -> bool {
    let named = |name| {
        vision::TOWERS
            .iter()
            .any(|tower| tower.names.contains(&name))
    };
    name.is_some_and(named)
}

/// A part that may be of any kind.
fn read_any(part: &Object) -> Result<Option<ModelRope>> {
    if is_tower(string(part, "model_type")?) {
        read_vision(part, None)
    } else {
        read_text(part, None)
    }
}

fn read_vision(part: &Object, composite: Option<&str>) -> Result<Option<ModelRope>> {
    let own = string(part, "model_type")?;
    if let Some(tower) = composite.and_then(vision::whatever_it_says) {
        return tower.read(part, composite);
    }
    if !says_rotary(part)? && is_without_rope(part)? {
        return Ok(None);
    }
    if own.is_some_and(|own| TEXT.iter().any(|family| family.names.contains(&own))) {
        return read_text(part, None);
    }
    match vision::find(own, composite) {
        Some(tower) => tower.read(part, composite),
        None => Err(RopeError::config(
            "model_type",
            "must be a vision family that is known",
            own.or(composite).unwrap_or("none"),
        )),
    }
}

/// Why a family is refused, if it is.
fn refused(name: &str) -> Option<RopeError> {
    let (name, why) = REFUSED.iter().find(|(known, _)| *known == name)?;
    let rule = format!("must be a family that is known: {why}");
    Some(RopeError::config("model_type", rule, name))
}

/// The family of a text part, by its own name or by that of the model it is a part of.
fn family<'a>(
    part: &'a Object,
    composite: Option<&'a str>,
) -> Result<(Option<&'static str>, &'static Family)> {
    let own = string(part, "model_type")?;
    let standing = composite
        .or(own)
        .and_then(|name| COMPOSITES.iter().find(|(composite, ..)| *composite == name));
    let name = match (own, standing) {
        // Of those, jina-embeddings-v3, which has its own class by now. (A file that does not rotate does not come here.)
        (Some("xlm-roberta"), _) => Some("jina_embeddings_v3"),
        (_, Some(&(_, text, true))) => Some(text),
        (Some(own), Some(&(composite, text, _))) if own == composite => Some(text),
        (Some(own), _) => Some(own),
        (None, Some(&(_, text, _))) => Some(text),
        (None, None) => None,
    };
    let name = match name {
        // The small ones of V2 (DeepSeek-VL2-tiny, DeepSeek-OCR) have no latent attention, but that of the first DeepSeek.
        Some("deepseek_v2" | "deepseek_v3") if flag(part, "use_mla")? == Some(false) => {
            Some("deepseek")
        }
        name => name,
    };
    if let Some(error) = name.and_then(refused) {
        return Err(error);
    }
    let known = name.and_then(|name| {
        TEXT.iter().find_map(|family| {
            let name = family.names.iter().find(|known| **known == name)?;
            Some((*name, family))
        })
    });
    Ok(match known {
        Some((name, family)) if family.habit == Some(Habit::ChatGlm) => {
            let is_first = flag(part, "position_encoding_2d")? == Some(true);
            (Some(name), if is_first { &CHATGLM_6B } else { family })
        }
        Some((name, family)) => (Some(name), family),
        None => (None, unknown(part)?),
    })
}

/// Keys by which families tell kinds of layers apart, each in its own way: without the family nobody knows what they mean.
const DIVIDING: [&str; 7] = [
    "rope_local_base_freq",
    "local_rope_theta",
    "swa_rope_theta",
    "no_rope_layers",
    "layer_rope_theta",
    "hybrid_layer_pattern",
    "attn_type_list",
];

/// The general rules for a part: latent attention, where the key of its rotary part says so.
fn unknown(part: &Object) -> Result<&'static Family> {
    for key in DIVIDING {
        let is_said = |value: &&Value| value.as_array().is_none_or(|list| !list.is_empty());
        if let Some(value) = present(part, key).filter(is_said) {
            return Err(RopeError::config(
                key,
                "must not be given for a family that is not known, which may mean anything by it",
                shown(value),
            ));
        }
    }
    let is_latent = whole(part, "qk_rope_head_dim")?.is_some_and(|rope| rope > 0);
    Ok(if is_latent { &UNKNOWN_LATENT } else { &UNKNOWN })
}

/// What a part says its positions are.
fn position_kind(part: &Object) -> Result<Option<&str>> {
    Ok(match string(part, "position_embedding_type")? {
        Some(kind) => Some(kind),
        None => string(part, "position_embeddings_type")?,
    })
}

/// Whether a part says that it rotates: remote code makes models rotate whose classes do not.
fn says_rotary(part: &Object) -> Result<bool> {
    Ok(position_kind(part)?.is_some_and(is_rotary))
}

fn is_rotary(kind: &str) -> bool {
    ["rope", "rotary"].contains(&kind)
}

/// Whether a part is of a family without RoPE by its name. With a theta the name is another family's: Grok-2 calls itself `git`.
fn is_without_rope(part: &Object) -> Result<bool> {
    let Some(name) = string(part, "model_type")?.filter(|name| WITHOUT.contains(name)) else {
        return Ok(false);
    };
    let newer = present(part, "rope_parameters").and_then(Value::as_object);
    // A set for all layers, or one for each kind.
    let within = newer.and_then(|set| {
        let kinds = set.values().filter_map(Value::as_object);
        std::iter::once(set)
            .chain(kinds)
            .find_map(|set| present(set, "rope_theta"))
    });
    match present(part, "rope_theta").or(within) {
        Some(theta) if !IDLE_THETA.contains(&name) => Err(RopeError::config(
            "rope_theta",
            format!("must not be given for {name}, which has no RoPE: the model is another one"),
            shown(theta),
        )),
        _ => Ok(true),
    }
}

/// Whether a part has RoPE at all, by the keys that say so.
fn has_rope(part: &Object, family: &Family) -> Result<bool> {
    if present(part, "alibi").is_some_and(|value| value == &Value::Bool(true)) {
        return Ok(false);
    }
    // Classes that always rotate never look at it, and files have it from the class they were made of (ModernBERT: "absolute").
    if !family.is_known() && position_kind(part)?.is_some_and(|kind| !is_rotary(kind)) {
        return Ok(false);
    }
    Ok(match family.only_if {
        None => true,
        Some((key, "true")) => flag(part, key)?.unwrap_or(false),
        Some((key, wanted)) => string(part, key)? == Some(wanted),
    })
}

/// A part that is no vision tower; `composite` is the name of the model it is a part of.
fn read_text(part: &Object, composite: Option<&str>) -> Result<Option<ModelRope>> {
    if !says_rotary(part)? && is_without_rope(part)? {
        return Ok(None);
    }
    let (name, family) = family(part, composite)?;
    if !has_rope(part, family)? {
        return Ok(None);
    }
    layers::read(part, name, family)
}

/// How many layers there are, if the file says so.
fn layer_count(file: &Object) -> Result<Option<u32>> {
    for key in ["num_hidden_layers", "n_layer", "num_layers"] {
        if let Some(count) = whole(file, key)? {
            if count > 65_536 {
                return Err(RopeError::config(key, "must be at most 65,536", count));
            }
            return Ok(Some(count));
        }
    }
    Ok(None)
}

fn quotient(key: &'static str, hidden: u32, heads: u32) -> Result<u32> {
    if heads == 0 || hidden < heads {
        return Err(RopeError::config(
            key,
            format!("must be from 1 to the hidden size {hidden}"),
            heads,
        ));
    }
    Ok(hidden / heads)
}

/// Whether the sections of a set are by turns, as Qwen3-VL and Qwen3-TTS say it.
fn by_turns(set: &Object) -> Result<bool> {
    for key in ["mrope_interleaved", "interleaved"] {
        if let Some(by_turns) = flag(set, key)? {
            return Ok(by_turns);
        }
    }
    Ok(false)
}

/// Channels of a head: all of them, those that rotate, and where these begin.
struct Channels {
    head_dim: u32,
    rotary_dim: u32,
    offset: u32,
    /// The r of the exponents.
    frequency_dim: u32,
    /// The part of the head, where one is said.
    partial: f64,
}

/// A set of parameters in its file.
struct Reader<'a> {
    file: &'a Object,
    name: Option<&'static str>,
    family: &'a Family,
    /// Several sets stand in the file.
    nested: bool,
}

impl Reader<'_> {
    /// The RoPE of a kind of layer.
    fn rope(
        &self,
        kind: &str,
        set: &Object,
        theta: Option<f64>,
        defaulted: &mut Vec<&'static str>,
    ) -> Result<LayerRope> {
        let family = self.family;
        // Phi-3-small's; none of its files has another one.
        const SCALE: &str = "rope_position_scale";
        if let Some(scale) = number(self.file, SCALE)?.filter(|scale| *scale != 1.0) {
            return Err(RopeError::config(
                SCALE,
                "must be 1: how positions are scaled by it is not known",
                scale,
            ));
        }
        let theta = match theta {
            Some(theta) => theta,
            None => self.theta(set, defaulted)?,
        };
        let channels = self.channels(kind, set, defaulted)?;
        let scaled = scaling::read(
            self.file,
            set,
            channels.head_dim,
            channels.partial,
            self.habits(),
            defaulted,
        )?;
        let mut config = RopeConfig::new(channels.head_dim)
            .with_theta(theta)
            .with_reversed(family.reversed)
            .with_pairing(self.pairing(defaulted)?);
        if !matches!(scaled.scaling, Scaling::Proportional { .. }) {
            config = config
                .with_rotary_dim(channels.rotary_dim)
                .with_rotary_offset(channels.offset);
            if channels.frequency_dim != channels.rotary_dim {
                config = config.with_frequency_dim(channels.frequency_dim);
            }
        }
        let axes = self.axes(set, config.rotary_dim() / 2, defaulted)?;
        config = config.with_axes(axes);
        config = config.with_scaling(scaled.scaling);
        if let Some(factor) = scaled.attention_factor {
            config = config.with_attention_factor(factor);
        }
        if let Some(factor) = scaled.long_attention_factor {
            config = config.with_long_attention_factor(factor);
        }
        config.validate()?;
        LayerRope::new(config).with_softmax_factor("mscale_all_dim", scaled.softmax_factor)
    }

    fn habits(&self) -> Habits {
        Habits {
            nested: self.nested,
            ..self.family.habits()
        }
    }

    /// What Llama 4's class multiplies the queries of layers that do not rotate by.
    fn llama4_scale(&self, defaulted: &mut Vec<&'static str>) -> Result<Option<QueryScaleRule>> {
        const TUNING: &str = "attn_temperature_tuning";
        if self.family.habit != Some(Habit::Llama4) {
            return Ok(None);
        }
        // Its first files have a number.
        match present(self.file, TUNING) {
            None => note(defaulted, TUNING),
            Some(Value::Bool(false)) => return Ok(None),
            Some(value) if value.as_f64() == Some(0.0) => return Ok(None),
            Some(_) => {}
        }
        let floor_scale = match whole(self.file, "floor_scale")? {
            Some(0) => {
                return Err(RopeError::config("floor_scale", "must be at least 1", 0));
            }
            Some(floor_scale) => floor_scale,
            None => {
                note(defaulted, "floor_scale");
                8192
            }
        };
        let attn_scale = match number(self.file, "attn_scale")? {
            Some(attn_scale) => attn_scale,
            None => {
                note(defaulted, "attn_scale");
                0.1
            }
        };
        Ok(Some(QueryScaleRule::Llama4 {
            floor_scale,
            attn_scale,
        }))
    }

    /// What a set says that Ministral 3's and Mistral 4's classes multiply queries by. The general rules know it by its key.
    fn ministral_scale(
        &self,
        set: &Object,
        defaulted: &mut Vec<&'static str>,
    ) -> Result<Option<QueryScaleRule>> {
        if self.family.is_known() && self.family.habit != Some(Habit::Ministral) {
            return Ok(None);
        }
        let Some(beta) = number(set, "llama_4_scaling_beta")?.filter(|beta| *beta != 0.0) else {
            return Ok(None);
        };
        let length = scaling::original_length(self.file, set, self.habits(), defaulted)?;
        if length.fract() != 0.0 || length >= 4_294_967_296.0 {
            return Err(RopeError::config(
                "original_max_position_embeddings",
                "must be a whole number below 2^32 where queries are scaled by it",
                length,
            ));
        }
        Ok(Some(QueryScaleRule::Ministral3 {
            beta,
            original_max_position_embeddings: truncated(length),
        }))
    }

    fn theta(&self, set: &Object, defaulted: &mut Vec<&'static str>) -> Result<f64> {
        let family = self.family;
        if family.habit == Some(Habit::GptJ) {
            return Ok(family.theta);
        }
        if let Some(theta) = positive(set, "rope_theta")? {
            return Ok(theta);
        }
        if family.sets != families::Sets::NestedOnly {
            for key in [
                "rope_theta",
                "rotary_emb_base",
                "rotary_embedding_base",
                "rope_embedding_base",
            ] {
                if let Some(theta) = positive(self.file, key)? {
                    return Ok(theta);
                }
            }
            if let Some(ratio) = positive(self.file, "rope_ratio")? {
                return Ok(1e4 * ratio);
            }
            if let Some(attention) = object(self.file, "attn_config")? {
                if let Some(theta) = positive(attention, "rope_theta")? {
                    return Ok(theta);
                }
            }
        }
        if family.is_known() {
            note(defaulted, "rope_theta");
            return Ok(family.theta);
        }
        Err(match string(self.file, "model_type")? {
            None => missing("rope_theta"),
            Some(name) => RopeError::config(
                "rope_theta",
                format!("must be given: {} is no family that is known", cut(name).0),
                "none",
            ),
        })
    }

    fn pairing(&self, defaulted: &mut Vec<&'static str>) -> Result<Pairing> {
        const KEY: &str = "rope_interleave";
        let pairing = self.family.pairing;
        if pairing != Pairing::InterleavedToHalfSplit {
            return Ok(pairing);
        }
        Ok(match flag(self.file, KEY)? {
            Some(false) => Pairing::HalfSplit,
            Some(true) => pairing,
            None => {
                if !self.family.is_known() {
                    note(defaulted, KEY);
                }
                pairing
            }
        })
    }

    fn channels(
        &self,
        kind: &str,
        set: &Object,
        defaulted: &mut Vec<&'static str>,
    ) -> Result<Channels> {
        let (file, family) = (self.file, self.family);
        if let Head::Latent { rope, nope } = family.head {
            let mut said = |key: &'static str, default: u32| -> Result<u32> {
                Ok(match whole(file, key)? {
                    Some(value) => value,
                    None if !family.is_known() => return Err(missing(key)),
                    None => {
                        note(defaulted, key);
                        default
                    }
                })
            };
            let (rope, nope) = (
                said("qk_rope_head_dim", rope)?,
                said("qk_nope_head_dim", nope)?,
            );
            let head_dim = nope
                .checked_add(rope)
                .ok_or_else(|| RopeError::config("qk_nope_head_dim", "must fit a head", nope))?;
            return Ok(Channels {
                head_dim,
                rotary_dim: rope,
                offset: nope,
                frequency_dim: rope,
                partial: 1.0,
            });
        }
        let head_dim = self.head_dim(kind, defaulted)?;
        let (partial, rotary_dim) = self.rotary(set, head_dim, defaulted)?;
        // An odd number of channels has one frequency more than pairs, and so one channel more rotates. A whole head has no channel more:
        // an odd one is left odd, so that `RopeConfig::validate` refuses it.
        let even = rotary_dim.checked_next_multiple_of(2).unwrap_or(rotary_dim);
        let even = if rotary_dim == head_dim {
            rotary_dim
        } else {
            even
        };
        Ok(Channels {
            head_dim,
            rotary_dim: even,
            offset: if family.tail {
                head_dim.saturating_sub(even)
            } else {
                0
            },
            frequency_dim: rotary_dim,
            partial,
        })
    }

    /// The part of the head that rotates, and how many channels that is.
    fn rotary(
        &self,
        set: &Object,
        head_dim: u32,
        defaulted: &mut Vec<&'static str>,
    ) -> Result<(f64, u32)> {
        let (file, family) = (self.file, self.family);
        let part = |map: &Object, key: &'static str| -> Result<Option<f64>> {
            match number(map, key)? {
                Some(part) if !(part > 0.0 && part <= 1.0) => Err(RopeError::config(
                    key,
                    "must be above 0 and at most 1",
                    part,
                )),
                part => Ok(part),
            }
        };
        let mut partial = part(set, "partial_rotary_factor")?;
        if family.sets != families::Sets::NestedOnly {
            for key in [
                "partial_rotary_factor",
                "rotary_pct",
                "rope_pct",
                "rope_percent",
                "rotary_emb_fraction",
            ] {
                if partial.is_none() {
                    partial = part(file, key)?;
                }
            }
        }
        let counted = match family.habit {
            Some(Habit::NoRotaryDim) => None,
            Some(Habit::GptJ) => Some(match whole(file, "rotary_dim")? {
                Some(rotary_dim) => rotary_dim,
                None => {
                    note(defaulted, "rotary_dim");
                    64
                }
            }),
            _ if family.sets == families::Sets::DeepSeekV4 => whole(file, "qk_rope_head_dim")?,
            _ => whole(file, "rotary_dim")?,
        };
        if let (Some(counted), None) = (counted, partial) {
            if counted == 0 || counted > head_dim {
                return Err(RopeError::config(
                    "rotary_dim",
                    format!("must be from 1 to head_dim {head_dim}"),
                    counted,
                ));
            }
            return Ok((f64::from(counted) / f64::from(head_dim), counted));
        }
        #[expect(clippy::float_cmp, reason = "a factor of exactly 1 is the whole head")]
        let partial = partial.unwrap_or_else(|| {
            if family.partial != 1.0 {
                note(defaulted, "partial_rotary_factor");
            }
            family.partial
        });
        let rotary_dim = truncated(f64::from(head_dim) * partial);
        if rotary_dim == 0 {
            return Err(RopeError::config(
                "partial_rotary_factor",
                format!("must leave a channel of {head_dim} to rotate"),
                partial,
            ));
        }
        Ok((partial, rotary_dim))
    }

    fn head_dim(&self, kind: &str, defaulted: &mut Vec<&'static str>) -> Result<u32> {
        let (file, family) = (self.file, self.family);
        if let Some(global) = family.global_head.filter(|_| kind == "full_attention") {
            // Transformers 5 writes it layer by layer.
            let each = object(file, "per_layer_config")?;
            let listed = each.and_then(|each| {
                each.values()
                    .find_map(|layer| layer.get("head_dim")?.as_u64())
            });
            let listed = listed.and_then(|head_dim| u32::try_from(head_dim).ok());
            return Ok(match whole(file, "global_head_dim")?.or(listed) {
                Some(head_dim) => head_dim,
                None => {
                    note(defaulted, "global_head_dim");
                    global
                }
            });
        }
        if matches!(family.head, Head::Said | Head::Default(_)) {
            // Sliding layers may have heads of their own (MiMo-V2).
            let own = (kind == "sliding_attention").then_some("swa_head_dim");
            let keys = ["head_dim", "kv_channels", "attention_head_dim"];
            for key in own.into_iter().chain(keys) {
                if let Some(head_dim) = whole(file, key)? {
                    return Ok(head_dim);
                }
            }
        }
        let hidden = ["hidden_size", "n_embd", "d_model", "dim", "embed_dim"];
        let heads = [
            "num_attention_heads",
            "n_head",
            "num_heads",
            "n_heads",
            "encoder_attention_heads",
            "decoder_num_attention_heads",
        ];
        let first = |keys: &[&'static str]| -> Result<Option<(&'static str, u32)>> {
            for &key in keys {
                if let Some(value) = whole(file, key)? {
                    return Ok(Some((key, value)));
                }
            }
            Ok(None)
        };
        let mut said = (first(&hidden)?, first(&heads)?);
        if let (Head::Default(head_dim), true) = (
            family.head,
            !file.contains_key("head_dim") || said.0.is_none(),
        ) {
            note(defaulted, "head_dim");
            return Ok(head_dim);
        }
        // What the class has where the file says nothing of its size.
        let class = SIZES
            .iter()
            .find(|(names, _)| self.name.is_some_and(|name| names.contains(&name)));
        if let Some((_, [hidden, heads])) = class {
            if !file.contains_key("head_dim") {
                for (said, key, default) in [
                    (&mut said.0, "hidden_size", *hidden),
                    (&mut said.1, "num_attention_heads", *heads),
                ] {
                    if said.is_none() {
                        note(defaulted, key);
                        *said = Some((key, default));
                    }
                }
            }
        }
        match said {
            (Some((_, hidden)), Some((key, heads))) => {
                let twice = if family.head == Head::Zamba { 2 } else { 1 };
                quotient(key, hidden.saturating_mul(twice), heads)
            }
            (Some(_), None) => Err(missing("num_attention_heads")),
            (None, Some(_)) => Err(missing("hidden_size")),
            (None, None) => match whole(file, "head_dim")? {
                // A file of little more than this.
                Some(head_dim) => Ok(head_dim),
                None => Err(missing("head_dim")),
            },
        }
    }

    fn axes(&self, set: &Object, pairs: u32, defaulted: &mut Vec<&'static str>) -> Result<Axes> {
        let family = self.family;
        // The second is what Hunyuan's vision models call the first.
        let key = ["mrope_section", "xdrope_section"]
            .into_iter()
            .find(|key| present(set, key).is_some())
            .unwrap_or("mrope_section");
        let given = wholes(set, key)?;
        let fault = |rule: String, sections: &[u32]| {
            let got = format!("{sections:?}");
            Err(RopeError::config(key, rule, got))
        };
        let scheme = match (family.axes, &given) {
            // The general rules know sections by their key.
            (TextAxes::One, Some(_)) if by_turns(set)? => TextAxes::Interleaved([0; 3]),
            (TextAxes::One, Some(_)) => TextAxes::Sectioned([0; 3]),
            (scheme, _) => scheme,
        };
        let adds_up = |sections: &[u32]| {
            let sum: u64 = sections.iter().map(|&section| u64::from(section)).sum();
            sum == u64::from(pairs)
        };
        if let (false, Some(given)) = (scheme == TextAxes::One, &given) {
            if !adds_up(given) {
                return fault(format!("must add up to {pairs} pairs"), given);
            }
        }
        let mut sections = |default: [u32; 3]| {
            given.clone().unwrap_or_else(|| {
                note(defaulted, key);
                default.to_vec()
            })
        };
        match scheme {
            TextAxes::One => Ok(Axes::One),
            TextAxes::Alternating => Ok(Axes::Alternating),
            TextAxes::Blocks => Ok(Axes::axial(&[0, 1], pairs)),
            TextAxes::Sectioned(default) => {
                let sections = sections(default);
                if !adds_up(&sections) {
                    return fault(format!("must add up to {pairs} pairs"), &sections);
                }
                Ok(Axes::Sectioned(sections))
            }
            TextAxes::Interleaved(default) => match sections(default)[..] {
                [_, height, width] => Ok(Axes::Interleaved { height, width }),
                ref sections => fault("must have three numbers".into(), sections),
            },
            TextAxes::SpatialFirst(each) => match sections([each, each, 0])[..] {
                [height, width, _] if height == width && height <= pairs / 2 => {
                    Ok(Axes::SpatialFirst { each: height })
                }
                ref sections => fault(
                    format!("must be height and width alike, within {pairs} pairs, and time"),
                    sections,
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests;
