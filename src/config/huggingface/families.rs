//! The families of models that are known, as facts of transformers 5.23: its configuration classes instantiated, its functions probed.

use super::scaling::Habits;
use crate::config::Pairing::{self, HalfSplit, Interleaved, InterleavedToHalfSplit};

/// How a text model, or another part with one position for each token or with M-RoPE, has its RoPE.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) names: &'static [&'static str],
    pub(super) pairing: Pairing,
    /// Theta where the file has none.
    pub(super) theta: f64,
    /// The part of a head that rotates where the file does not say.
    pub(super) partial: f64,
    /// Where the channels of a head are said.
    pub(super) head: Head,
    /// Channels of a head of `full_attention` layers where `global_head_dim` is missing and they have their own.
    pub(super) global_head: Option<u32>,
    /// The rotary window lies at the end of the head.
    pub(super) tail: bool,
    pub(super) axes: TextAxes,
    pub(super) layers: Layers,
    pub(super) sets: Sets,
    /// The parameters, as JSON, of a file that has none.
    pub(super) defaults: Option<&'static str>,
    /// It rotates only where this key has this value.
    pub(super) only_if: Option<(&'static str, &'static str)>,
    pub(super) habit: Option<Habit>,
    pub(super) reversed: bool,
}

/// How many channels a head has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Head {
    /// `head_dim`, else the quotient of the hidden size and the heads.
    Said,
    /// `head_dim`, else this.
    Default(u32),
    /// The quotient, whatever else the file says.
    Quotient,
    /// Twice the quotient.
    Zamba,
    /// Multi-head latent attention: `qk_nope_head_dim` channels that do not rotate (else this many), and then `qk_rope_head_dim` that do.
    Latent { rope: u32, nope: u32 },
}

/// Which axis a pair reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum TextAxes {
    One,
    /// `mrope_section`, else these, one behind the other.
    Sectioned([u32; 3]),
    /// `mrope_section`, else these, by turns.
    Interleaved([u32; 3]),
    /// `mrope_section` `[height, width, time]`, else so many of each of the first two, by turns.
    SpatialFirst(u32),
    /// Two axes by turns.
    Alternating,
    /// Two axes, one behind the other, exponents anew for each.
    Blocks,
}

const MROPE_16_24_24: TextAxes = TextAxes::Sectioned([16, 24, 24]);
const MROPE_8_12_12: TextAxes = TextAxes::Sectioned([8, 12, 12]);
const MROPE_24_20_20: TextAxes = TextAxes::Interleaved([24, 20, 20]);
const MROPE_11_11_10: TextAxes = TextAxes::Interleaved([11, 11, 10]);

/// Kinds of layers where the file does not list them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Layers {
    /// What layers are called that are not `full_attention`.
    pub(super) other: &'static str,
    /// Where older files say it.
    pub(super) list: Option<List>,
    pub(super) every: Option<Every>,
    pub(super) nope: Nope,
}

/// Which layers are `full_attention`, in files without `layer_types`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum List {
    /// Those for which this list has this number.
    Flags { key: &'static str, full: u32 },
    /// Those in this list.
    Indices(&'static str),
    /// A list of names, over and over: `attention` and the other one.
    Cycle(&'static str),
}

impl List {
    /// The key, where its list has an entry for each layer.
    pub(super) fn of_each(self) -> Option<&'static str> {
        match self {
            Self::Flags { key, .. } => Some(key),
            Self::Indices(_) | Self::Cycle(_) => None,
        }
    }
}

/// Which layers are `full_attention`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Every {
    /// The key of the period, if there is one.
    pub(super) key: Option<&'static str>,
    pub(super) period: u32,
    phase: Phase,
    starts_full: bool,
    /// The last layer is full whatever the file lists.
    pub(super) ends_full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    First,
    Second,
    Last,
    FromEnd,
}

/// Which layers do not rotate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Nope {
    /// None of those with attention.
    None,
    /// `full_attention`.
    Full,
    /// `full_attention` while there is a `sliding_window`.
    FullWhileSliding,
    /// Those whose `no_rope_layers` is 0, else every `no_rope_layer_interval`-th.
    Listed { rotating: &'static str },
    /// Those whose `layer_rope_theta` is 0; other values are their theta.
    LayerTheta,
    /// Those whose `layer_rope_theta` is 0, else every full one; other values mean nothing.
    LayerFlag,
    /// All, where the theta of their set is there and null.
    NullTheta,
    /// Those among `cross_attention_layers`.
    Cross,
}

/// Where the parameters of a kind of layer stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sets {
    /// One set for all; or, in the newer form, one for each kind.
    Flat,
    /// As in the newer form only.
    NestedOnly,
    /// One for `full_attention` and one for `sliding_attention`.
    GlobalLocal(GlobalLocal),
    /// `main` and `compress`.
    DeepSeekV4,
    /// Lists with an entry for each layer.
    PerLayer,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GlobalLocal {
    pub(super) global_key: &'static str,
    pub(super) global: f64,
    /// None: sliding layers have the default unless their own set says otherwise.
    pub(super) local_key: Option<&'static str>,
    pub(super) local: f64,
    /// The scaling of the older form is for both.
    pub(super) scales_both: bool,
    /// A null under the local key asks for the theta of the full layers.
    pub(super) null_is_global: bool,
    /// One set of the newer form is for both, where the local key stands beside it.
    pub(super) shares_set: bool,
}

const GEMMA3: GlobalLocal = GlobalLocal {
    global_key: "rope_theta",
    global: 1e6,
    local_key: Some("rope_local_base_freq"),
    local: 1e4,
    scales_both: false,
    null_is_global: false,
    shares_set: false,
};
const MODERNBERT: GlobalLocal = GlobalLocal {
    global_key: "global_rope_theta",
    global: 160_000.0,
    local_key: Some("local_rope_theta"),
    local: 1e4,
    scales_both: true,
    null_is_global: true,
    shares_set: false,
};
const MIMO: GlobalLocal = GlobalLocal {
    global_key: "rope_theta",
    global: 5e6,
    local_key: Some("swa_rope_theta"),
    local: 1e4,
    scales_both: true,
    null_is_global: false,
    shares_set: true,
};
const OLMO3: GlobalLocal = GlobalLocal {
    global_key: "rope_theta",
    global: 500_000.0,
    local_key: None,
    local: 500_000.0,
    scales_both: false,
    null_is_global: false,
    shares_set: false,
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Habit {
    Phi3,
    PhiMoe,
    /// `rotary_dim` stands in files, beside the factor that is what counts.
    NoRotaryDim,
    /// `rotary_dim`, else 64; theta is always 10,000.
    GptJ,
    /// Queries of layers that do not rotate are scaled by their position.
    Llama4,
    /// Queries are scaled by their position, where the set says so.
    Ministral,
    /// With `position_encoding_2d` it is another one: [`CHATGLM_6B`].
    ChatGlm,
    /// Only the first head rotates, which is the host's to see to.
    FirstHead,
}

const GEMMA4: &str = r#"{"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}}"#;
const GPT_OSS: &str = r#"{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
    "original_max_position_embeddings": 4096, "rope_theta": 150000.0}"#;

/// As LLaMA: half-split over the whole head, theta 10,000.
const fn text(names: &'static [&'static str]) -> Family {
    Family {
        names,
        pairing: HalfSplit,
        theta: 1e4,
        partial: 1.0,
        head: Head::Said,
        global_head: None,
        tail: false,
        axes: TextAxes::One,
        layers: Layers::LISTED,
        sets: Sets::Flat,
        defaults: None,
        only_if: None,
        habit: None,
        reversed: false,
    }
}

/// The general rules, for a model that nobody knows.
pub(super) static UNKNOWN: Family = text(&[]);

/// The general rules for latent attention, known by its `qk_rope_head_dim`: as DeepSeek V3, whose weights most of such models have the
/// order of.
pub(super) static UNKNOWN_LATENT: Family = text(&[]).pairing(InterleavedToHalfSplit).mla(64, 128);

/// The first `ChatGLM`, whose later ones have its name: half of the head turns by the position, half by that within the answer.
pub(super) static CHATGLM_6B: Family = text(&["chatglm"])
    .pairing(Pairing::HalfSplitBlocks(2))
    .axes(TextAxes::Blocks);

macro_rules! with {
    ($($field:ident: $type:ty),+ $(,)?) => {
        impl Family {
            $(const fn $field(self, $field: $type) -> Self {
                Self { $field, ..self }
            })+
        }
    };
}

with! {
    pairing: Pairing,
    theta: f64,
    partial: f64,
    head: Head,
    axes: TextAxes,
    layers: Layers,
    sets: Sets,
}

impl Family {
    const fn defaults(self, json: &'static str) -> Self {
        Self {
            defaults: Some(json),
            ..self
        }
    }

    const fn global_head(self, head_dim: u32) -> Self {
        Self {
            global_head: Some(head_dim),
            ..self
        }
    }

    const fn tail(self) -> Self {
        Self { tail: true, ..self }
    }

    const fn mla(self, rope: u32, nope: u32) -> Self {
        Self {
            head: Head::Latent { rope, nope },
            tail: true,
            ..self
        }
    }

    const fn only_if(self, key: &'static str, value: &'static str) -> Self {
        Self {
            only_if: Some((key, value)),
            ..self
        }
    }

    const fn habit(self, habit: Habit) -> Self {
        Self {
            habit: Some(habit),
            ..self
        }
    }

    const fn reversed(self) -> Self {
        Self {
            reversed: true,
            ..self
        }
    }

    /// Whether these are a family's rules, and not the general ones.
    pub(super) fn is_known(&self) -> bool {
        !self.names.is_empty()
    }

    pub(super) fn habits(&self) -> Habits {
        Habits {
            phi3: self.habit == Some(Habit::Phi3),
            phimoe: self.habit == Some(Habit::PhiMoe),
            unknown: !self.is_known(),
            nested: false,
            unscaled_yarn: self.sets == Sets::DeepSeekV4,
            softmax: matches!(self.head, Head::Latent { .. }),
        }
    }
}

impl Layers {
    pub(super) const LISTED: Self = Self {
        other: "sliding_attention",
        list: None,
        every: None,
        nope: Nope::None,
    };

    const fn sliding(every: Every) -> Self {
        Self::mixed("sliding_attention", every)
    }

    const fn mixed(other: &'static str, every: Every) -> Self {
        Self {
            every: Some(every),
            ..Self::beside(other)
        }
    }

    /// Full layers beside these.
    const fn beside(other: &'static str) -> Self {
        Self {
            other,
            ..Self::LISTED
        }
    }

    /// Layers by a list, where older files have one.
    const fn list(self, list: List) -> Self {
        Self {
            list: Some(list),
            ..self
        }
    }

    const fn nope(self, nope: Nope) -> Self {
        Self { nope, ..self }
    }
}

impl Every {
    const fn new(period: u32, phase: Phase) -> Self {
        Self {
            key: None,
            period,
            phase,
            starts_full: false,
            ends_full: false,
        }
    }

    /// A file may say the period under this key.
    pub(super) const fn by(self, key: &'static str) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// Whether a layer of so many is full.
    pub(super) fn is_full(self, layer: u32, count: u32, period: u32) -> bool {
        let by_phase = match self.phase {
            Phase::First => layer.is_multiple_of(period),
            Phase::Second => layer % period == 1,
            Phase::Last => (layer + 1).is_multiple_of(period),
            Phase::FromEnd => (count - 1 - layer).is_multiple_of(period),
        };
        by_phase || (self.starts_full && layer == 0) || (self.ends_full && layer + 1 == count)
    }

    /// The last of every so many.
    pub(super) const fn last(period: u32) -> Self {
        Self::new(period, Phase::Last)
    }

    /// The first of every so many.
    const fn first(period: u32) -> Self {
        Self::new(period, Phase::First)
    }

    /// The second of every so many.
    const fn second(period: u32) -> Self {
        Self::new(period, Phase::Second)
    }

    /// The last of every so many, counted from the last layer.
    const fn from_end(period: u32) -> Self {
        Self::new(period, Phase::FromEnd)
    }

    const fn starts_full(self) -> Self {
        Self {
            starts_full: true,
            ..self
        }
    }

    const fn ends_full(self) -> Self {
        Self {
            ends_full: true,
            ..self
        }
    }
}

/// Text models and others with one position for each token, or with M-RoPE.
#[rustfmt::skip]
pub(super) static TEXT: &[Family] = &[
    text(&["arcee", "aria_text", "chameleon", "dbrx", "deepseek_ocr2_encoder", "diffllama", "doge", "dots1", "esmc", "eurobert", "falcon", "falcon_h1", "gpt_neox_japanese", "granite", "granite4_vision_text", "granite_docling_text", "granitemoe", "granitemoeshared", "hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl_text", "hyperclovax", "idefics", "jais2", "kyutai_speech_to_text", "lasr_encoder", "llama", "mimi", "mimi_encoder", "mimi_decoder", "ministral", "mistral", "moshi", "nemotron3_diarization_audio", "olmo", "olmo2", "olmoe", "pocket_tts", "pocket_tts_audio_tokenizer", "pocket_tts_audio_tokenizer_encoder", "pocket_tts_audio_tokenizer_decoder", "qwen2", "qwen2_moe", "qwen3_moe", "starcoder2", "voxtral_realtime_text"]),
    text(&["afmoe"]).head(Head::Default(128)).layers(Layers::sliding(Every::last(4).by("global_attn_every_n_layers")).nope(Nope::Full)),
    text(&["apertus"]).theta(12_000_000.0).defaults(r#"{"rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}"#),
    text(&["axk1", "deepseek_v3", "deepseek_v32", "joyai_llm_flash", "kimi_k2", "youtu"]).pairing(InterleavedToHalfSplit).mla(64, 128),
    text(&["axk2"]).pairing(InterleavedToHalfSplit).mla(32, 64),
    text(&["bailing_hybrid"]).pairing(InterleavedToHalfSplit).theta(6_000_000.0).mla(64, 128).layers(Layers::mixed("linear_attention", Every::last(5).by("layer_group_size"))),
    text(&["bamba"]).partial(0.5).layers(Layers::beside("linear_attention").list(List::Indices("attn_layer_indices"))),
    text(&["glm4_moe", "glmasr_encoder", "nemotron", "nemotron3_5_transcribe_asr_audio", "nemotron3_5_transcribe_word_timestamp", "persimmon", "phi"]).partial(0.5),
    text(&["beam"]).sets(Sets::NestedOnly).defaults(r#"{"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": null}"#).head(Head::Default(128)).layers(Layers::sliding(Every::last(6).ends_full())),
    text(&["bitnet", "csm_depth_decoder_model", "csm", "evolla", "flex_olmo"]).theta(500_000.0),
    text(&["blt_local_encoder", "blt_local_decoder", "blt_global_transformer", "cohere", "ernie4_5_moe"]).pairing(Interleaved).theta(500_000.0),
    text(&["blt_patcher", "gradium_phonon_tts"]).pairing(Interleaved),
    text(&["cohere2"]).pairing(Interleaved).layers(Layers::sliding(Every::last(4).by("sliding_window_pattern")).nope(Nope::Full)),
    text(&["cohere2_moe"]).pairing(Interleaved).head(Head::Default(128)).layers(Layers::sliding(Every::last(4).by("sliding_window_pattern")).nope(Nope::Full)),
    text(&["cohere_compass_text", "qwen3_omni_moe_talker_text"]).axes(MROPE_24_20_20),
    text(&["cosmos3_edge_text"]).theta(100_000_000.0).head(Head::Default(128)).axes(MROPE_24_20_20),
    text(&["cwm"]).theta(1_000_000.0).defaults(r#"{"rope_theta": 1000000.0, "factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}"#).head(Head::Default(128)),
    text(&["deepseek", "deepseek_ocr2_text", "unlimited_ocr_text"]).head(Head::Quotient),
    text(&["deepseek_v2"]).pairing(Interleaved).mla(64, 128),
    text(&["deepseek_v4"]).pairing(Interleaved).sets(Sets::DeepSeekV4).partial(0.125).tail().head(Head::Default(512)),
    text(&["dia_encoder", "dia_decoder", "hrm_text", "internlm3", "iquestcoder", "jetmoe", "molmo2_text", "qwen3", "qwen3_omni_moe_talker_code_predictor", "seed_oss"]).head(Head::Default(128)),
    text(&["diffusion_gemma_text", "gemma4_unified_text"]).sets(Sets::NestedOnly).defaults(GEMMA4).layers(Layers::sliding(Every::last(6).ends_full())).head(Head::Default(256)).global_head(512),
    text(&["dots3_note_audio_encoder"]).partial(0.5).head(Head::Default(64)),
    text(&["embedding_gemma2_text"]).sets(Sets::NestedOnly).defaults(r#"{"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}"#).layers(Layers::sliding(Every::last(6).by("sliding_window_pattern").ends_full())).head(Head::Default(256)).global_head(512),
    text(&["emu3_text_model", "mixtral"]).theta(1_000_000.0),
    text(&["ernie4_5"]).pairing(Interleaved).theta(500_000.0).head(Head::Default(128)),
    text(&["ernie4_5_vl_moe_text"]).pairing(Interleaved).theta(500_000.0).axes(TextAxes::SpatialFirst(22)),
    text(&["exaone4", "exaone4_5_text", "exaone_moe"]).layers(Layers::sliding(Every::last(4).by("sliding_window_pattern")).nope(Nope::FullWhileSliding)),
    text(&["flint"]).head(Head::Default(128)).layers(Layers::sliding(Every::second(4).starts_full().ends_full()).nope(Nope::Full)),
    text(&["gemma", "gemma2", "t5_gemma_module", "vaultgemma"]).head(Head::Default(256)),
    text(&["gemma3_text", "t5gemma2_text", "t5gemma2_decoder"]).sets(Sets::GlobalLocal(GEMMA3)).head(Head::Default(256)).layers(Layers::sliding(Every::last(6).by("sliding_window_pattern"))),
    text(&["gemma3n_text"]).sets(Sets::GlobalLocal(GEMMA3)).head(Head::Default(256)).layers(Layers::sliding(Every::last(5))),
    text(&["gemma4_text"]).sets(Sets::NestedOnly).defaults(GEMMA4).head(Head::Default(256)).layers(Layers::sliding(Every::last(6).ends_full())).global_head(512),
    text(&["glm", "glm4"]).pairing(Interleaved).partial(0.5).head(Head::Default(128)),
    text(&["glm4_moe_lite", "glm_moe_dsa"]).pairing(InterleavedToHalfSplit).mla(64, 192),
    text(&["glm4v_moe_text"]).partial(0.5).axes(MROPE_8_12_12),
    text(&["glm4v_text", "glm_ocr_text"]).pairing(Interleaved).axes(MROPE_8_12_12),
    text(&["glm_image_text"]).axes(MROPE_8_12_12),
    text(&["gpt_neox"]).partial(0.25).head(Head::Quotient),
    text(&["gpt_oss"]).theta(150_000.0).defaults(GPT_OSS).head(Head::Default(64)),
    text(&["granite_swa", "granitemoe_swa"]).layers(Layers::sliding(Every::first(4)).nope(Nope::LayerTheta)),
    text(&["granitemoehybrid"]).only_if("position_embedding_type", "rope"),
    text(&["gte"]).theta(160_000.0),
    text(&["helium"]).pairing(Interleaved).theta(100_000.0).head(Head::Default(128)),
    text(&["higgs_audio_v2"]).defaults(r#"{"factor": 32.0, "rope_theta": 500000.0, "high_freq_factor": 0.5, "low_freq_factor": 0.125, "original_max_position_embeddings": 1024, "rope_type": "llama3"}"#).head(Head::Default(128)),
    text(&["hy_v3"]).theta(11_158_840.0).head(Head::Default(128)),
    text(&["hy_v4"]).mla(64, 192),
    text(&["jina_embeddings_v3"]).theta(20_000.0),
    text(&["kolibri1"]).head(Head::Default(128)).layers(Layers::sliding(Every::last(5)).nope(Nope::FullWhileSliding)),
    text(&["laguna"]).sets(Sets::NestedOnly).defaults(r#"{"full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5}, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}}"#).head(Head::Default(128)),
    text(&["lfm2", "lfm2_moe"]).theta(1_000_000.0).layers(Layers::beside("conv").list(List::Indices("full_attn_idxs"))),
    text(&["lfm3"]).theta(1_000_000.0).defaults(r#"{"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.5}}"#).head(Head::Default(128)),
    text(&["llama4_text"]).pairing(Interleaved).theta(500_000.0).head(Head::Default(128)).layers(Layers::LISTED.nope(Nope::Listed { rotating: "chunked_attention" })).habit(Habit::Llama4),
    text(&["longcat_flash", "longcat_flash_ngram"]).pairing(InterleavedToHalfSplit).theta(10_000_000.0).mla(64, 128),
    text(&["mellum"]).sets(Sets::NestedOnly).defaults(r#"{"full_attention": {"rope_type": "default", "rope_theta": 500000.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}"#).head(Head::Default(128)),
    text(&["mimo_v2", "mimo_v2_flash"]).sets(Sets::GlobalLocal(MIMO)).partial(0.334).head(Head::Default(192)).layers(Layers::sliding(Every::last(6).starts_full()).list(List::Flags { key: "hybrid_layer_pattern", full: 0 })),
    text(&["minicpm3"]).mla(32, 64),
    text(&["minimax", "minimax_m1", "minimax_text_01"]).theta(1_000_000.0).layers(Layers::mixed("linear_attention", Every::first(2)).list(List::Flags { key: "attn_type_list", full: 1 })),
    text(&["minimax_m2"]).theta(5_000_000.0).head(Head::Default(128)),
    text(&["minimax_m3_vl_text"]).theta(5_000_000.0).head(Head::Default(128)).habit(Habit::NoRotaryDim),
    text(&["ministral3"]).defaults(r#"{"rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1, "rope_type": "yarn"}"#).head(Head::Default(128)).habit(Habit::Ministral),
    text(&["mistral4"]).pairing(InterleavedToHalfSplit).defaults(r#"{"rope_theta": 10000.0, "factor": 128.0, "original_max_position_embeddings": 8192, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1, "partial_rotary_factor": 0.5, "rope_type": "yarn"}"#).mla(64, 64).habit(Habit::Ministral),
    text(&["mistral_large4_text"]).pairing(InterleavedToHalfSplit).defaults(r#"{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2048.0, "original_max_position_embeddings": 512, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0}"#).mla(64, 64).layers(Layers::LISTED.nope(Nope::Listed { rotating: "full_attention" })),
    text(&["mllama_text_model"]).theta(500_000.0).layers(Layers::LISTED.nope(Nope::Cross)),
    text(&["modernbert", "modernbert-decoder"]).sets(Sets::GlobalLocal(MODERNBERT)).layers(Layers::sliding(Every::first(3).by("global_attn_every_n_layers"))),
    text(&["moonshine"]).pairing(Interleaved).partial(0.9),
    text(&["moonshine_streaming"]).pairing(Interleaved).partial(0.8),
    text(&["muse_glimmer_assistant"]).theta(500_000.0).head(Head::Default(128)),
    text(&["muse_glimmer_text"]).head(Head::Default(128)).layers(Layers::sliding(Every::from_end(4)).nope(Nope::LayerFlag)),
    text(&["muse_spark_text"]).theta(500_000.0).head(Head::Default(64)).layers(Layers::sliding(Every::from_end(4)).nope(Nope::LayerFlag)),
    text(&["nanochat"]).reversed(),
    text(&["neomme"]).defaults(r#"{"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}, "full_attention": {"rope_type": "default", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}}"#).head(Head::Default(64)).axes(TextAxes::Alternating).layers(Layers::sliding(Every::last(6).ends_full())),
    text(&["nomic_bert"]).theta(1_000.0),
    text(&["olmo3"]).sets(Sets::GlobalLocal(OLMO3)).theta(500_000.0).layers(Layers::sliding(Every::last(4))),
    text(&["olmo_hybrid"]).layers(Layers::mixed("linear_attention", Every::last(4)).nope(Nope::NullTheta)),
    text(&["openai_privacy_filter"]).pairing(Interleaved).theta(150_000.0).defaults(GPT_OSS).head(Head::Default(64)),
    text(&["paddleocr_vl_text"]).theta(500_000.0).head(Head::Default(128)).axes(MROPE_16_24_24),
    text(&["pe_audio_encoder", "pe_audio_video_encoder", "pe_video_encoder"]).pairing(Interleaved).theta(20_000.0).head(Head::Default(128)),
    text(&["phi3", "phi4_multimodal"]).head(Head::Quotient).habit(Habit::Phi3),
    text(&["phimoe"]).theta(1_000_000.0).habit(Habit::PhiMoe),
    text(&["qwen2_5_omni_dit"]).pairing(InterleavedToHalfSplit).head(Head::Default(64)).habit(Habit::FirstHead),
    text(&["voxtral_realtime_encoder"]).head(Head::Default(64)),
    text(&["qwen2_5_omni_talker"]).theta(1_000_000.0).head(Head::Default(128)).axes(MROPE_16_24_24),
    text(&["qwen2_5_omni_text", "qwen2_5_vl_text", "qwen2_vl_text"]).theta(1_000_000.0).axes(MROPE_16_24_24),
    text(&["qwen3_5_text", "qwen3_5_moe_text"]).partial(0.25).head(Head::Default(256)).axes(MROPE_11_11_10).layers(Layers::mixed("linear_attention", Every::last(4).by("full_attention_interval"))),
    text(&["qwen3_next"]).partial(0.25).head(Head::Default(256)).layers(Layers::mixed("linear_attention", Every::last(4).by("full_attention_interval"))),
    text(&["qwen3_omni_moe_text"]).theta(1_000_000.0).axes(MROPE_24_20_20),
    text(&["qwen3_vl_moe_text"]).theta(500_000.0).axes(MROPE_24_20_20),
    text(&["qwen3_vl_text"]).theta(500_000.0).head(Head::Default(128)).axes(MROPE_24_20_20),
    text(&["qwen4_exp_text"]).head(Head::Default(256)).axes(MROPE_11_11_10),
    text(&["recurrent_gemma"]).partial(0.5).layers(Layers::mixed("recurrent", Every::last(3)).list(List::Cycle("block_types"))),
    text(&["smollm3"]).theta(2_000_000.0).layers(Layers::LISTED.nope(Nope::Listed { rotating: "full_attention" })),
    text(&["solar_open"]).theta(1_000_000.0).head(Head::Default(128)),
    text(&["stablelm"]).partial(0.25),
    text(&["step3p5"]).sets(Sets::PerLayer).head(Head::Default(128)),
    text(&["timesfm2_5"]).head(Head::Default(80)),
    text(&["ultrabert"]).sets(Sets::PerLayer).defaults(r#"{"sliding_attention": {"rope_theta": 10000.0}, "full_attention": {"rope_theta": 2560000.0}}"#).layers(Layers::sliding(Every::last(3))),
    text(&["zamba2"]).only_if("use_mem_rope", "true").head(Head::Zamba),
    text(&["zaya"]).sets(Sets::NestedOnly).defaults(r#"{"hybrid": {"rope_type": "default", "rope_theta": 5000000.0, "partial_rotary_factor": 0.5}, "hybrid_sliding": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}"#).head(Head::Default(128)),
    // Models whose older classes have no rope parameters, and models of remote code.
    text(&["gptj", "codegen"]).pairing(Interleaved).habit(Habit::GptJ),
    text(&["roformer"]).pairing(Interleaved).head(Head::Quotient),
    text(&["esm"]).only_if("position_embedding_type", "rotary"),
    text(&["chatglm"]).pairing(Interleaved).partial(0.5).habit(Habit::ChatGlm),
];

/// Composite models: what their text part is where it does not say; and whether it is that whatever it says.
#[rustfmt::skip]
pub(super) static COMPOSITES: &[(&str, &str, bool)] = &[
    ("aria", "aria_text", true),
    ("audioflamingo3", "qwen2", false),
    ("aya_vision", "cohere2", false),
    ("clvp", "clvp_encoder", true),
    ("cohere2_vision", "cohere2", false),
    ("cohere_compass", "cohere_compass_text", true),
    ("cosmos3_edge", "cosmos3_edge_text", true),
    ("cosmos3_omni", "qwen3_vl_text", false),
    ("deepseek_ocr2", "deepseek_ocr2_text", true),
    ("deepseek_vl", "llama", false),
    ("deepseek_vl_hybrid", "llama", false),
    ("deepseek_vl_v2", "deepseek_v2", false),
    ("diffusion_gemma", "diffusion_gemma_text", true),
    ("dots3_note", "dots3_note_text", true),
    ("dots_ocr", "qwen2", false),
    ("embedding_gemma2", "embedding_gemma2_text", true),
    ("emu3", "emu3_text_model", true),
    ("ernie4_5_moe_vl", "ernie4_5_vl_moe_text", true),
    ("ernie4_5_vl_moe", "ernie4_5_vl_moe_text", true),
    ("exaone4_5", "exaone4", false),
    ("fast_vlm", "qwen2", false),
    ("fun_asr_nano", "qwen3", false),
    ("fuyu", "persimmon", false),
    ("gemma3", "gemma3_text", true),
    ("gemma3n", "gemma3n_text", true),
    ("gemma4", "gemma4_text", true),
    ("gemma4_unified", "gemma4_unified_text", true),
    ("gemma4_unified_assistant", "gemma4_unified_text", false),
    ("glm46v", "glm4v_text", false),
    ("glm4v", "glm4v_text", true),
    ("glm4v_moe", "glm4v_moe_text", true),
    ("glm_image", "glm_image_text", true),
    ("glm_ocr", "glm_ocr_text", true),
    ("glmasr", "llama", false),
    ("glmga", "glm4v_text", false),
    ("got_ocr2", "qwen2", false),
    ("granite4_vision", "granite4_vision_text", true),
    ("granite_docling", "granite_docling_text", true),
    ("granite_speech", "granite", false),
    ("granite_speech_plus", "granite", false),
    ("hunyuan_vl", "hunyuan_vl_text", true),
    ("hyperclovax_vision_v2", "hyperclovax", false),
    ("idefics2", "mistral", false),
    ("idefics3", "llama", false),
    ("internvl", "qwen2", false),
    ("janus", "llama", false),
    ("jev", "qwen3_5_text", false),
    ("kimi_k25", "deepseek_v3", false),
    ("kimi_vl", "deepseek_v3", false),
    ("lfm2_vl", "lfm2", false),
    ("lfm3_vl", "lfm3", false),
    ("lighton_ocr", "qwen3", false),
    ("llama4", "llama4_text", true),
    ("llava", "llama", false),
    ("llava_next", "llama", false),
    ("llava_next_video", "llama", false),
    ("llava_onevision", "qwen2", false),
    ("minicpm_ocr", "qwen3_5_text", false),
    ("minicpmv4_6", "qwen3_5_text", false),
    ("minicpmv4_7", "qwen3_5_text", false),
    ("minimax_m3_vl", "minimax_m3_vl_text", true),
    ("mistral3", "mistral", false),
    ("mistral_large4", "mistral_large4_text", true),
    ("mllama", "mllama_text_model", true),
    ("modernvbert", "modernbert", false),
    ("molmo2", "molmo2_text", true),
    ("moss_transcribe_diarize", "qwen3", false),
    ("muse_glimmer", "muse_glimmer_text", true),
    ("muse_spark", "muse_spark_text", true),
    ("musicflamingo", "qwen2", false),
    ("ovis2", "qwen2", false),
    ("ovis2_5", "qwen3", false),
    ("paddleocr_vl", "paddleocr_vl_text", true),
    ("paligemma", "gemma", false),
    ("pe_audio", "modernbert", false),
    ("pe_audio_video", "modernbert", false),
    ("pe_video", "modernbert", false),
    ("perception_lm", "llama", false),
    ("pp_chart2table", "qwen2", false),
    ("qianfan_ocr", "qwen3", false),
    ("qwen2_5_omni_thinker", "qwen2_5_omni_text", true),
    ("qwen2_5_vl", "qwen2_5_vl_text", true),
    ("qwen2_audio", "qwen2", false),
    ("qwen2_vl", "qwen2_vl_text", true),
    ("qwen3_5", "qwen3_5_text", true),
    ("qwen3_5_moe", "qwen3_5_moe_text", true),
    ("qwen3_asr", "qwen3", false),
    ("qwen3_omni_moe_thinker", "qwen3_omni_moe_text", true),
    ("qwen3_omni_moe_talker", "qwen3_omni_moe_talker_text", true),
    ("qwen3_vl", "qwen3_vl_text", true),
    ("qwen3_vl_moe", "qwen3_vl_moe_text", true),
    ("qwen4_exp", "qwen4_exp_text", true),
    ("shieldgemma2", "gemma3_text", false),
    ("smolvlm", "llama", false),
    ("step3p7", "step3p5", true),
    ("t5gemma2_encoder", "t5gemma2_text", true),
    ("ultravbert", "ultrabert", false),
    ("unlimited-ocr", "unlimited_ocr_text", true),
    ("unlimited_ocr", "unlimited_ocr_text", true),
    ("vibevoice", "qwen2", false),
    ("vibevoice_asr", "qwen2", false),
    ("video_llama_3", "qwen2", false),
    ("video_llava", "llama", false),
    ("vipllava", "llama", false),
    ("voxtral", "llama", false),
    ("voxtral_realtime", "voxtral_realtime_text", false),
    ("qwen2_5_omni", "qwen2_5_omni_text", true),
    ("qwen3_omni_moe", "qwen3_omni_moe_text", true),
    ("colqwen2", "qwen2_vl_text", true),
];

/// Families whose positions are not RoPE.
#[rustfmt::skip]
pub(super) static WITHOUT: &[&str] = &[
   "albert", "bark", "bart", "bert", "big_bird", "bigbird_pegasus", "biogpt", "blenderbot", "blenderbot-small",
   "blip_2_qformer", "blip_text_model", "bloom", "bros", "camembert", "canary", "canine", "chinese_clip_text_model",
   "clip_text_model", "clvp_decoder", "cohere_asr", "convbert", "cpmant", "ctrl", "data2vec-text", "deberta",
   "deberta-v2", "decision_transformer", "distilbert", "electra", "ernie", "falcon_mamba", "flaubert", "fnet",
   "fsmt", "funnel", "git", "glm5_next_text", "gpt2", "gpt_bigcode", "gpt_neo", "ibert", "imagegpt", "inkling2",
   "inkling2_text", "inkling_mm_model", "inkling_text", "jamba", "kimi_linear", "kosmos-2", "layoutlm", "layoutlmv2",
   "layoutlmv3", "led", "lilt", "longformer", "longt5", "luke", "lxmert", "m2m_100", "mamba", "mamba2", "marian",
   "markuplm", "mbart", "megatron-bert", "mobilebert", "moshi_depth", "mpnet", "mpt", "mra", "mt5",
   "musicgen_decoder", "mvp", "nemotron_h", "nllb-moe", "nystromformer", "openai-gpt", "opt", "pegasus", "pegasus_x",
   "perceiver", "plbart", "pop2piano", "prophetnet", "reformer", "rembert", "roberta", "roberta-prelayernorm",
   "roc_bert", "rwkv", "siglip2_text_model", "siglip_text_model", "speech_to_text", "speecht5", "splinter",
   "squeezebert", "switch_transformers", "t5", "tapas", "trocr", "udop", "umt5", "vilt", "visual_bert", "whisper",
   "xglm", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xlstm", "xmod", "yoso", "zamba", "aimv2_vision_model",
   "siglip_vision_model", "siglip2_vision_model", "clip_vision_model", "idefics3_vision", "smolvlm_vision",
   "internvl_vision", "mllama_vision_model", "aya_vision", "cohere2_vision", "radio", "perception_lm", "vit", "beit",
   "dinov2", "dinov2_with_registers", "blip_vision_model", "glm_image_vision", "ovis2_vision", "florence_vision",
    "audioflamingo3_encoder", "qwen2_audio_encoder", "voxtral_encoder", "qwen2_5_omni_audio_encoder",
   "qwen3_omni_moe_audio_encoder", "parakeet_encoder", "gemma3n_vision", "gemma3n_audio", "gemma4_audio",
];

/// Families without RoPE whose files have a `rope_theta` all the same.
pub(super) const IDLE_THETA: [&str; 2] = ["kimi_linear", "nemotron_h"];

/// Families whose rotation this crate has no description for, and why.
pub(super) static REFUSED: &[(&str, &str)] = &[
    (
        "dots3_note_text",
        "its kinds of layers have heads of different sizes",
    ),
    (
        "efficientloftr",
        "it rotates the hidden vector before it is cut into heads",
    ),
    (
        "musicflamingo",
        "its angles are no product of a position and a frequency",
    ),
    ("neucodec", "its position is the index of the head"),
    ("vjepa2", "what it applies is no rotation"),
    ("xcodec2", "its position is the index of the head"),
    (
        "clvp_encoder",
        "its rotary dimension comes from a projection",
    ),
];

/// Hidden size and attention heads of the classes whose head is their quotient, for files that have neither.
#[rustfmt::skip]
pub(super) static SIZES: &[(&[&str], [u32; 2])] = &[
    (&["moonshine_streaming"], [320, 8]),
    (&["lasr_encoder", "mimi", "mimi_decoder", "mimi_encoder", "nemotron3_diarization_audio", "pocket_tts_audio_tokenizer", "pocket_tts_audio_tokenizer_decoder", "pocket_tts_audio_tokenizer_encoder"], [512, 8]),
    (&["nanochat"], [768, 6]),
    (&["blt_patcher", "esm", "eurobert", "gradium_phonon_tts", "gte", "modernbert", "modernbert-decoder", "nomic_bert", "roformer"], [768, 12]),
    (&["csm_depth_decoder_model", "doge"], [1024, 8]),
    (&["blt_local_decoder", "blt_local_encoder", "glm_ocr_text", "granite_docling_text", "jina_embeddings_v3", "pocket_tts", "qwen3_omni_moe_talker_text"], [1024, 16]),
    (&["nemotron3_5_transcribe_asr_audio", "unlimited_ocr_text"], [1280, 10]),
    (&["nemotron3_5_transcribe_word_timestamp"], [1280, 16]),
    (&["glmasr_encoder"], [1280, 20]),
    (&["blt_global_transformer", "olmoe", "qwen2_moe", "qwen3_vl_moe_text", "smollm3"], [2048, 16]),
    (&["qwen3_omni_moe_text"], [2048, 28]),
    (&["csm", "diffllama", "kyutai_speech_to_text", "lfm2_moe", "phi", "qwen3_moe"], [2048, 32]),
    (&["recurrent_gemma"], [2560, 10]),
    (&["bitnet", "ernie4_5_moe", "ernie4_5_vl_moe_text", "granite_swa"], [2560, 20]),
    (&["arcee", "gpt_neox_japanese", "lfm2", "stablelm", "zamba2"], [2560, 32]),
    (&["esmc"], [2560, 40]),
    (&["starcoder2"], [3072, 24]),
    (&["phi3", "phi4_multimodal"], [3072, 32]),
    (&["jais2"], [3328, 26]),
    (&["qwen2_5_omni_text"], [3584, 28]),
    (&["olmo_hybrid"], [3840, 30]),
    (&["apertus", "aria_text", "bamba", "chameleon", "deepseek_ocr2_encoder", "deepseek_ocr2_text", "emu3_text_model", "evolla", "exaone4", "exaone4_5_text", "exaone_moe", "falcon_h1", "flex_olmo", "glm4v_text", "glm_image_text", "granite", "granite4_vision_text", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl_text", "hyperclovax", "idefics", "llama", "minimax", "minimax_m1", "minimax_text_01", "ministral", "mistral", "mixtral", "mllama_text_model", "moshi", "olmo", "olmo2", "olmo3", "phimoe", "qwen2", "ultrabert", "voxtral_realtime_text"], [4096, 32]),
    (&["persimmon"], [4096, 64]),
    (&["glm4_moe", "glm4v_moe_text"], [4096, 96]),
    (&["falcon"], [4544, 71]),
    (&["dots1"], [4608, 32]),
    (&["nemotron"], [6144, 48]),
    (&["gpt_neox"], [6144, 64]),
    (&["cohere", "cohere2", "cohere_compass_text", "qwen2_5_vl_text", "qwen2_vl_text"], [8192, 64]),
];

/// Layers of the classes whose layers differ, for files that do not say.
#[rustfmt::skip]
pub(super) static DEPTHS: &[(&[&str], u32)] = &[
    (&["neomme"], 17),
    (&["modernbert", "modernbert-decoder"], 22),
    (&["embedding_gemma2_text", "granite_swa"], 24),
    (&["gemma3_text", "t5gemma2_text", "t5gemma2_decoder"], 26),
    (&["diffusion_gemma_text", "gemma4_unified_text", "gemma4_text"], 30),
    (&["afmoe", "exaone4", "exaone4_5_text", "exaone_moe", "granitemoe_swa", "minimax", "minimax_m1", "minimax_text_01", "olmo3", "olmo_hybrid", "qwen3_5_text", "ultrabert"], 32),
    (&["gemma3n_text"], 35),
    (&["smollm3"], 36),
    (&["cohere2", "cohere2_moe", "mllama_text_model", "qwen3_5_moe_text"], 40),
    (&["bailing_hybrid"], 42),
    (&["deepseek_v4"], 43),
    (&["step3p5"], 45),
    (&["llama4_text", "mimo_v2", "mimo_v2_flash", "qwen3_next"], 48),
    (&["flint"], 49),
    (&["kolibri1"], 50),
    (&["beam", "muse_glimmer_text"], 52),
    (&["muse_spark_text"], 62),
    (&["mistral_large4_text"], 72),
];
