//! What llama.cpp does with each architecture, as facts of its commit 0c1e57098.

/// An architecture, by the `general.architecture` of its files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Architecture {
    pub(super) name: &'static str,
    pub(super) order: Order,
    /// The rotary dimension has to be that of the head: llama.cpp refuses others.
    pub(super) whole: bool,
    pub(super) head: Head,
    /// Sliding layers have a rotary dimension of their own; elsewhere all have that of the first layer.
    pub(super) own_dimensions: bool,
    pub(super) factors: Factors,
    pub(super) sliding: Option<Sliding>,
    /// What sliding layers are called.
    pub(super) sliding_name: &'static str,
    pub(super) nope: Nope,
    /// What layers are called that hold no attention, and every how many layers one does, where a rule says so.
    pub(super) other: (&'static str, Option<u32>),
    pub(super) yarn: YarnKeys,
    pub(super) temperature: Temperature,
    pub(super) habit: Option<Habit>,
}

/// What queries are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temperature {
    None,
    /// Those of layers that do not rotate, while others slide: 0.1, by 8192 positions.
    Llama4,
    /// `attention.temperature_scale`, by the length of the first training.
    Original,
    /// `attention.temperature_scale`, by `attention.temperature_length`.
    Said,
}

/// ggml's rope type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    None,
    Norm,
    Neox,
    Mrope,
    Imrope,
    /// Mrope where the first two of the sections are not 0, else the other.
    MropeOrNorm,
    MropeOrNeox,
    /// Mrope where there are sections, else Norm with hyper-connections, else Neox.
    Draft,
}

/// How many channels a head has, and where the rotary window lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// `attention.key_length`, the window first.
    First,
    /// As `First`, with `attention.key_length_swa` for sliding layers.
    FirstOwn,
    /// `attention.key_length`, the window last.
    Last,
    /// `attention.key_length_mla` where `attention.value_length_mla` is there too, the window last.
    Latent,
    /// As `Latent`, with `attention.key_length_mla_swa` for sliding layers.
    LatentOwn,
    /// The quotient of embedding and heads, whatever else the file says.
    Quotient,
}

/// Which tensors of frequency factors are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Factors {
    /// `rope_freqs.weight`.
    pub(super) freqs: bool,
    /// `rope_factors_long.weight` and `rope_factors_short.weight`. With `freqs`, which of both it is depends on the scaling's type.
    pub(super) long: bool,
    /// They are loaded and mean nothing.
    pub(super) ignored: bool,
    /// Only layers that do not slide take them, and the tensor may have more values than one for each of their pairs.
    pub(super) full_only: bool,
    pub(super) required: bool,
}

/// Sliding layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sliding {
    pub(super) when: When,
    pub(super) pattern: Pattern,
    pub(super) base: Base,
    pub(super) scale: Scale,
}

/// Whether there are sliding layers at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// `attention.sliding_window` has to be there.
    Required,
    /// It is there and not 0.
    Said,
    Always,
    /// Unless it is 0.
    UnlessZero,
    /// There are so many layers.
    Layers(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    /// The last of so many layers is full.
    Last(u32),
    /// The first of so many layers is full.
    First(u32),
    /// The file has to list them.
    Listed,
    All,
}

/// The base of sliding layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    /// `rope.freq_base_swa`, else that of the others.
    OwnOrMain,
    /// `rope.freq_base_swa`, else 10,000.
    OwnOrDefault,
    /// `rope.freq_base_swa`.
    Own,
    /// That of the others.
    Main,
}

/// The scaling of sliding layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// That of the others.
    Main,
    /// The factor of the file, even where the type is `none`.
    Factor,
    /// A factor of 1; the attention factor stays.
    One,
    /// None at all.
    Plain,
}

/// Which layers with attention do not rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nope {
    None,
    /// Full ones, while there are sliding ones.
    Full,
    /// Full ones from `leading_dense_block_count` on.
    FullBehindDense,
    /// The last of four.
    Fourth,
    /// The last of four; of all, where no layer slides.
    FourthOrLast,
    /// The first of four, while there are sliding ones.
    FirstOfFour,
    /// Those whose `attention.rope_pattern` is 0.
    Listed,
    /// All, where `rope.scaling.finetuned` is false.
    Untuned,
}

/// Which keys of YaRN are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum YarnKeys {
    None,
    /// `yarn_ext_factor`, `yarn_attn_factor` and betas, the fast one 8 by default.
    Grok,
    /// Betas and `yarn_log_multiplier`.
    Mistral,
    /// `yarn_log_multiplier`, a tenth of what is meant.
    Tenth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// llama.cpp has its name and no code for it; or its rotation is no text model's.
    Refused(&'static str),
    /// It has a type, and positions of another sort.
    NeverRotates,
    /// With 32 layers RoPE, with 40 `ALiBi`.
    Baichuan,
    /// Base 10,000 and no scaling, whatever the file says.
    Fixed,
    /// The base grows by `rope.scaling.alpha`.
    Alpha,
    /// `rope.dimension_count` is twice that of full layers.
    HalfOfFull,
    /// The scale of the softmax carries the attention factor.
    Softmax,
    /// As `Softmax`; and the attention factor is that of the softmax alone.
    DeepSeek2,
    /// Compressed layers have a base of their own; nothing else is scaled.
    DeepSeek4,
    /// With hyper-connections as `DeepSeek4`, of uncompressed layers.
    Draft,
}

const fn base(name: &'static str, order: Order) -> Architecture {
    Architecture {
        name,
        order,
        whole: false,
        head: Head::First,
        own_dimensions: false,
        factors: NO_FACTORS,
        sliding: None,
        sliding_name: "sliding_attention",
        nope: Nope::None,
        other: ("linear_attention", None),
        yarn: YarnKeys::None,
        temperature: Temperature::None,
        habit: None,
    }
}

const fn none(name: &'static str) -> Architecture {
    base(name, Order::None)
}
const fn norm(name: &'static str) -> Architecture {
    base(name, Order::Norm)
}
const fn neox(name: &'static str) -> Architecture {
    base(name, Order::Neox)
}
const fn mrope(name: &'static str) -> Architecture {
    base(name, Order::Mrope)
}
const fn imrope(name: &'static str) -> Architecture {
    base(name, Order::Imrope)
}

const NO_FACTORS: Factors = Factors {
    freqs: false,
    long: false,
    ignored: false,
    full_only: false,
    required: false,
};
const FREQS: Factors = Factors {
    freqs: true,
    ..NO_FACTORS
};
const LONG: Factors = Factors {
    long: true,
    ..NO_FACTORS
};
const EITHER: Factors = Factors {
    freqs: true,
    long: true,
    ..NO_FACTORS
};
const IGNORED: Factors = Factors {
    ignored: true,
    ..EITHER
};

macro_rules! with {
    ($($field:ident: $type:ty),+ $(,)?) => {
        impl Architecture {
            $(const fn $field(self, $field: $type) -> Self {
                Self { $field, ..self }
            })+
        }
    };
}

with! {
    head: Head,
    factors: Factors,
    sliding_name: &'static str,
    nope: Nope,
    other: (&'static str, Option<u32>),
    yarn: YarnKeys,
    temperature: Temperature,
    habit: Option<Habit>,
}

impl Architecture {
    const fn whole(self) -> Self {
        Self {
            whole: true,
            ..self
        }
    }

    const fn own_dimensions(self) -> Self {
        Self {
            own_dimensions: true,
            ..self
        }
    }

    const fn slides(self, when: When, pattern: Pattern, base: Base, scale: Scale) -> Self {
        Self {
            sliding: Some(Sliding {
                when,
                pattern,
                base,
                scale,
            }),
            ..self
        }
    }

    const fn refused(name: &'static str, why: &'static str) -> Self {
        none(name).habit(Some(Habit::Refused(why)))
    }
}

const GEMMA4: Factors = Factors {
    full_only: true,
    required: true,
    ..FREQS
};
const STEP35: Factors = Factors {
    full_only: true,
    ..EITHER
};

/// The architecture of this name.
pub(super) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|known| known.name == name)
}

pub(super) static ARCHITECTURES: &[Architecture] = &[
    Architecture::refused(
        "clip",
        "the rotation of a vision tower is in llama.cpp's code for its projector, not in the file; a config.json says it",
    ),
    norm("llama").whole().factors(EITHER),
    norm("llama4")
        .whole()
        .factors(FREQS)
        .slides(
            When::UnlessZero,
            Pattern::Last(4),
            Base::OwnOrMain,
            Scale::Factor,
        )
        .sliding_name("chunked_attention")
        .nope(Nope::FourthOrLast)
        .temperature(Temperature::Llama4),
    norm("deci").whole().factors(EITHER),
    neox("falcon").whole(),
    neox("grok").whole().yarn(YarnKeys::Grok),
    none("gpt2"),
    Architecture::refused("gptj", "llama.cpp has no code for it"),
    neox("gptneox"),
    none("mpt"),
    norm("baichuan").whole().habit(Some(Habit::Baichuan)),
    norm("starcoder").habit(Some(Habit::NeverRotates)),
    none("refact").factors(IGNORED),
    neox("bert").habit(Some(Habit::NeverRotates)),
    neox("modern-bert").slides(
        When::Said,
        Pattern::First(3),
        Base::OwnOrDefault,
        Scale::One,
    ),
    neox("nomic-bert"),
    neox("nomic-bert-moe"),
    norm("neo-bert"),
    none("jina-bert-v2"),
    neox("jina-bert-v3"),
    neox("eurobert"),
    none("bloom"),
    neox("stablelm"),
    neox("qwen"),
    neox("qwen2").whole(),
    neox("qwen2moe").whole(),
    mrope("qwen2vl").whole(),
    neox("qwen3").whole(),
    neox("qwen3moe").whole(),
    neox("qwen3next").other(("linear_attention", Some(4))),
    imrope("qwen3vl").whole(),
    imrope("qwen3vlmoe").whole(),
    imrope("qwen35").other(("linear_attention", Some(4))),
    imrope("qwen35moe").other(("linear_attention", Some(4))),
    imrope("qwen4exp").other(("linear_attention", Some(4))),
    neox("phi2"),
    neox("phi3").factors(LONG),
    neox("phimoe").factors(LONG),
    neox("plamo").whole(),
    neox("plamo2").other(("mamba", None)),
    neox("plamo3").slides(When::Said, Pattern::Last(8), Base::OwnOrDefault, Scale::One),
    neox("codeshell").whole(),
    neox("orion").whole(),
    norm("internlm2").whole(),
    norm("minicpm").whole().factors(EITHER),
    neox("minicpm3").head(Head::Last).factors(LONG),
    neox("gemma"),
    neox("gemma2").slides(
        When::Always,
        Pattern::Last(2),
        Base::OwnOrMain,
        Scale::Factor,
    ),
    neox("gemma3").slides(When::Said, Pattern::Last(6), Base::OwnOrDefault, Scale::One),
    neox("gemma3n").slides(
        When::Required,
        Pattern::Last(5),
        Base::OwnOrDefault,
        Scale::One,
    ),
    neox("gemma4")
        .head(Head::FirstOwn)
        .own_dimensions()
        .factors(GEMMA4)
        .slides(
            When::Required,
            Pattern::Listed,
            Base::OwnOrDefault,
            Scale::One,
        ),
    neox("gemma4-assistant")
        .head(Head::FirstOwn)
        .own_dimensions()
        .factors(GEMMA4)
        .slides(
            When::Required,
            Pattern::Listed,
            Base::OwnOrDefault,
            Scale::One,
        ),
    neox("gemma-embedding").slides(
        When::Required,
        Pattern::Last(6),
        Base::OwnOrDefault,
        Scale::One,
    ),
    neox("starcoder2").whole(),
    none("mamba"),
    none("mamba2"),
    neox("maple")
        .own_dimensions()
        .slides(
            When::Required,
            Pattern::Listed,
            Base::OwnOrMain,
            Scale::Factor,
        )
        .nope(Nope::Full),
    none("jamba"),
    neox("falcon-h1").factors(IGNORED),
    norm("xverse").whole(),
    norm("command-r"),
    norm("cohere2")
        .slides(When::Required, Pattern::Last(4), Base::Main, Scale::Main)
        .nope(Nope::Full),
    norm("cohere2moe")
        .whole()
        .slides(When::Required, Pattern::First(4), Base::Main, Scale::Main)
        .nope(Nope::FullBehindDense),
    neox("dbrx").whole(),
    norm("olmo").whole(),
    neox("olmo2")
        .whole()
        .slides(When::Said, Pattern::Last(4), Base::Main, Scale::Plain),
    neox("olmoe").whole(),
    norm("muse-glimmer")
        .slides(
            When::Required,
            Pattern::Last(4),
            Base::OwnOrMain,
            Scale::One,
        )
        .nope(Nope::Full),
    neox("openelm"),
    norm("arctic").whole(),
    norm("deepseek").whole(),
    norm("deepseek2")
        .head(Head::Latent)
        .yarn(YarnKeys::Tenth)
        .temperature(Temperature::Said)
        .habit(Some(Habit::DeepSeek2)),
    neox("deepseek2-ocr")
        .head(Head::Quotient)
        .habit(Some(Habit::Fixed)),
    norm("deepseek32")
        .head(Head::Latent)
        .yarn(YarnKeys::Tenth)
        .habit(Some(Habit::Softmax)),
    norm("deepseek4")
        .head(Head::Last)
        .slides(When::Required, Pattern::All, Base::Main, Scale::Main)
        .habit(Some(Habit::DeepSeek4)),
    norm("chatglm"),
    base("glm4", Order::MropeOrNorm),
    base("glm4moe", Order::MropeOrNeox),
    norm("glm-dsa")
        .head(Head::Latent)
        .habit(Some(Habit::Softmax)),
    neox("bitnet"),
    none("t5"),
    none("t5encoder"),
    none("jais"),
    neox("jais2").whole(),
    neox("nemotron"),
    none("nemotron_h"),
    none("nemotron_h_moe"),
    neox("exaone").whole().factors(FREQS),
    neox("exaone4")
        .whole()
        .factors(FREQS)
        .slides(When::Layers(64), Pattern::Last(4), Base::Main, Scale::Main)
        .nope(Nope::Full),
    neox("exaone-moe")
        .whole()
        .factors(FREQS)
        .slides(When::Required, Pattern::Last(4), Base::Main, Scale::Main)
        .nope(Nope::Full),
    none("rwkv6"),
    none("rwkv6qwen2"),
    none("rwkv7"),
    none("arwkv7"),
    norm("granite").whole().factors(EITHER).nope(Nope::Untuned),
    norm("granitemoe")
        .whole()
        .factors(EITHER)
        .nope(Nope::Untuned),
    norm("granitehybrid")
        .factors(FREQS)
        .nope(Nope::Untuned)
        .other(("mamba", None)),
    norm("graniteswitch").whole().nope(Nope::Untuned),
    norm("granite_swa")
        .whole()
        .factors(EITHER)
        .slides(When::Required, Pattern::Listed, Base::Main, Scale::Main)
        .nope(Nope::Listed),
    norm("chameleon").whole(),
    none("wavtokenizer-dec"),
    norm("plm").head(Head::Last),
    norm("bailingmoe"),
    neox("bailingmoe2"),
    base("bailingmoe3", Order::MropeOrNorm).head(Head::Latent),
    neox("dots1").whole(),
    norm("dots3note").head(Head::LatentOwn).slides(
        When::Required,
        Pattern::Listed,
        Base::Own,
        Scale::Main,
    ),
    norm("arcee").whole().factors(FREQS),
    neox("afmoe")
        .slides(When::Said, Pattern::Last(4), Base::OwnOrMain, Scale::Factor)
        .nope(Nope::Fourth),
    neox("laguna").own_dimensions().slides(
        When::Said,
        Pattern::First(4),
        Base::OwnOrMain,
        Scale::Plain,
    ),
    norm("ernie4_5").whole(),
    norm("ernie4_5-moe").whole(),
    neox("hunyuan-moe").whole(),
    neox("hunyuan-dense").whole().habit(Some(Habit::Alpha)),
    base("hunyuan_vl", Order::MropeOrNeox)
        .whole()
        .habit(Some(Habit::Alpha)),
    neox("hy_v3").whole(),
    norm("hy_v4").head(Head::Latent),
    norm("smollm3").whole().nope(Nope::Fourth),
    neox("gpt-oss").slides(
        When::Required,
        Pattern::Last(2),
        Base::OwnOrMain,
        Scale::Factor,
    ),
    neox("lfm2")
        .slides(When::Said, Pattern::All, Base::Main, Scale::Main)
        .other(("conv", None)),
    neox("lfm2moe").other(("conv", None)),
    neox("dream").whole(),
    neox("smallthinker")
        .whole()
        .slides(
            When::Said,
            Pattern::First(4),
            Base::OwnOrMain,
            Scale::Factor,
        )
        .nope(Nope::FirstOfFour),
    norm("llada").whole().factors(IGNORED),
    neox("llada-moe").whole(),
    neox("seed_oss").whole(),
    neox("grovemoe").whole(),
    neox("apertus").whole().factors(EITHER),
    neox("minimax-01").other(("linear_attention", Some(8))),
    neox("hrm_text"),
    neox("minimax-m2"),
    neox("minimax-m3"),
    neox("cogvlm")
        .whole()
        .factors(IGNORED)
        .habit(Some(Habit::Fixed)),
    neox("rnd1").whole(),
    neox("pangu-embedded").whole().factors(IGNORED),
    norm("mistral3")
        .whole()
        .factors(EITHER)
        .yarn(YarnKeys::Mistral)
        .temperature(Temperature::Original),
    norm("eagle3").factors(FREQS),
    base("dflash", Order::Draft)
        .factors(FREQS)
        .slides(When::Said, Pattern::Listed, Base::Main, Scale::Main)
        .habit(Some(Habit::Draft)),
    norm("mistral4")
        .head(Head::Latent)
        .yarn(YarnKeys::Tenth)
        .temperature(Temperature::Said)
        .habit(Some(Habit::Softmax)),
    mrope("paddleocr").whole(),
    neox("mimo2").slides(
        When::Required,
        Pattern::Listed,
        Base::OwnOrDefault,
        Scale::One,
    ),
    neox("step35")
        .own_dimensions()
        .factors(STEP35)
        .slides(
            When::Required,
            Pattern::Listed,
            Base::OwnOrDefault,
            Scale::One,
        )
        .habit(Some(Habit::HalfOfFull)),
    neox("spark2_5").own_dimensions().slides(
        When::Required,
        Pattern::Listed,
        Base::OwnOrMain,
        Scale::Factor,
    ),
    norm("llama-embed").whole().factors(EITHER),
    norm("maincoder").whole(),
    none("kimi-linear"),
    none("kimi-k3"),
    none("glm5-next"),
    neox("talkie").whole(),
    neox("mellum")
        .whole()
        .slides(When::Said, Pattern::Last(4), Base::Main, Scale::Plain),
    norm("nanbeige").factors(FREQS),
    imrope("qwen3tts").whole(),
    norm("pockettts").whole(),
];
