use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;

use super::architectures::{ARCHITECTURES, Architecture, Habit, Order};
use super::{File, Metadata, Value, read_metadata};
use crate::config::{
    Axes, LayerRope, ModelRope, Pairing, QueryScaleRule, RopeConfig, Scaling, Yarn,
};
use crate::error::RopeError;
use crate::frequencies::Frequencies;

/// A value with its type in the format.
#[derive(Clone)]
enum V {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Ints(Vec<i32>),
    Bools(Vec<bool>),
    /// Type and bytes.
    Raw(u32, Vec<u8>),
}

use V::{Bool, Bools, F32, I32, Ints, Raw, Text, U32};

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

impl V {
    fn write(&self) -> Vec<u8> {
        let array = |of: u32, count: usize, entries: Vec<u8>| {
            let head = [9_u32.to_le_bytes(), of.to_le_bytes()].concat();
            [head, (count as u64).to_le_bytes().to_vec(), entries].concat()
        };
        let scalar = |of: u32, bytes: &[u8]| [&of.to_le_bytes(), bytes].concat();
        match self {
            U32(value) => scalar(4, &value.to_le_bytes()),
            I32(value) => scalar(5, &value.to_le_bytes()),
            F32(value) => scalar(6, &value.to_le_bytes()),
            Bool(value) => scalar(7, &[u8::from(*value)]),
            Text(value) => scalar(8, &text(value.as_bytes())),
            Ints(values) => {
                let entries = values.iter().flat_map(|value| value.to_le_bytes());
                array(5, values.len(), entries.collect())
            }
            Bools(values) => {
                let entries = values.iter().map(|&value| u8::from(value));
                array(7, values.len(), entries.collect())
            }
            Raw(of, bytes) => scalar(*of, bytes),
        }
    }
}

/// A file to be written.
#[derive(Clone)]
struct Writer {
    magic: [u8; 4],
    version: u32,
    keys: Vec<(String, V)>,
    /// Name, type, values.
    tensors: Vec<(String, u32, Vec<f32>)>,
    alignment: usize,
}

impl Writer {
    /// A model of four layers with four heads of 16 channels.
    fn new(architecture: &'static str) -> Self {
        let mut writer = Self {
            magic: *b"GGUF",
            version: 3,
            keys: vec![("general.architecture".into(), Text(architecture))],
            tensors: Vec::new(),
            alignment: 32,
        };
        for (key, value) in [
            ("context_length", 4096),
            ("embedding_length", 64),
            ("block_count", 4),
            ("attention.head_count", 4),
        ] {
            writer = writer.with(key, U32(value));
        }
        writer
    }

    fn architecture(&self) -> &'static str {
        match self.keys[0].1 {
            Text(name) => name,
            _ => "",
        }
    }

    /// Sets a key of the architecture.
    fn with(self, key: &str, value: V) -> Self {
        let key = format!("{}.{key}", self.architecture());
        self.with_full(&key, value)
    }

    fn with_full(mut self, key: &str, value: V) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    fn without(mut self, key: &str) -> Self {
        let key = format!("{}.{key}", self.architecture());
        self.keys.retain(|(known, _)| *known != key);
        self
    }

    fn with_tensor(mut self, name: &str, values: &[f32]) -> Self {
        self.tensors.push((name.to_owned(), 0, values.to_vec()));
        self
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = [&self.magic[..], &self.version.to_le_bytes()].concat();
        for count in [self.tensors.len(), self.keys.len()] {
            bytes.extend((count as u64).to_le_bytes());
        }
        for (key, value) in &self.keys {
            bytes.extend(text(key.as_bytes()));
            bytes.extend(value.write());
        }
        let mut offset = 0;
        for (name, of, values) in &self.tensors {
            bytes.extend(text(name.as_bytes()));
            bytes.extend(1_u32.to_le_bytes());
            bytes.extend((values.len() as u64).to_le_bytes());
            bytes.extend(of.to_le_bytes());
            bytes.extend((offset as u64).to_le_bytes());
            offset = (offset + 4 * values.len()).next_multiple_of(self.alignment);
        }
        for (_, _, values) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    fn read(&self) -> Result<Option<ModelRope>, RopeError> {
        read_metadata(&File::from_bytes(&self.write())?)
    }

    fn model(&self) -> ModelRope {
        self.read().unwrap().unwrap()
    }

    fn only(&self) -> LayerRope {
        self.model().only().unwrap().clone()
    }

    fn config(&self) -> RopeConfig {
        self.only().config
    }

    fn error(&self) -> String {
        self.read().unwrap_err().to_string()
    }

    /// The name of each layer's kind, with a `!` where it does not rotate.
    fn names(&self) -> String {
        let model = self.model();
        let name = |&kind: &usize| {
            let kind = &model.kinds[kind];
            let name = kind.name.replace("_attention", "");
            if kind.rope.is_some() {
                name
            } else {
                format!("{name}!")
            }
        };
        let names: Vec<_> = model.layers.iter().map(name).collect();
        names.join(" ")
    }
}

#[test]
fn what_a_small_file_says() {
    let writer = Writer::new("llama").with("rope.freq_base", F32(500_000.0));
    let model = writer.model();
    assert_eq!(model.family, Some("llama"));
    assert_eq!(model.defaulted, [""; 0]);
    assert_eq!(model.layers, [0; 4]);
    let expected = RopeConfig::new(16)
        .with_theta(500_000.0)
        .with_pairing(Pairing::Interleaved);
    assert_eq!(writer.config(), expected);
    assert_eq!(writer.only().softmax_factor, 1.0);

    let plain = Writer::new("qwen2");
    assert_eq!(plain.config(), RopeConfig::new(16));
    assert_eq!(plain.model().defaulted, ["rope.freq_base"]);
    let version2 = Writer {
        version: 2,
        ..plain.clone()
    };
    assert_eq!(version2.config(), plain.config());
}

#[test]
fn all_types_of_values_are_read() {
    let array = |of: u32, entries: &[u8], count: u64| {
        Raw(
            9,
            [&of.to_le_bytes(), &count.to_le_bytes()[..], entries].concat(),
        )
    };
    let values: [(&str, V, Value); 16] = [
        ("a", Raw(0, vec![200]), Value::Unsigned(200)),
        ("b", Raw(1, vec![200]), Value::Signed(-56)),
        ("c", Raw(2, vec![1, 200]), Value::Unsigned(51_201)),
        ("d", Raw(3, vec![0, 0x80]), Value::Signed(-32_768)),
        ("e", U32(u32::MAX), Value::Unsigned(4_294_967_295)),
        ("f", I32(-2), Value::Signed(-2)),
        ("g", F32(0.5), Value::Float(0.5)),
        ("h", Bool(true), Value::Bool(true)),
        ("i", Text("ü"), Value::String("ü".into())),
        ("j", Raw(10, vec![255; 8]), Value::Unsigned(u64::MAX)),
        ("k", Raw(11, vec![255; 8]), Value::Signed(-1)),
        (
            "l",
            Raw(12, 0.1_f64.to_le_bytes().to_vec()),
            Value::Float(0.1),
        ),
        (
            "m",
            Ints(vec![1, -1]),
            Value::Array(vec![Value::Signed(1), Value::Signed(-1)]),
        ),
        (
            "n",
            array(8, &[text(b"x"), text(b"")].concat(), 2),
            Value::Other,
        ),
        ("o", array(0, &[7; 5000], 5000), Value::Other),
        ("p", Raw(8, text(&[0xff])), Value::Other),
    ];
    let writer = values
        .iter()
        .fold(Writer::new("llama"), |writer, (key, value, _)| {
            writer.with(key, value.clone())
        });
    let file = File::from_bytes(&writer.write()).unwrap();
    for (key, _, expected) in values {
        assert_eq!(file.value(&format!("llama.{key}")), Some(expected), "{key}");
    }
    assert_eq!(file.value("llama.z"), None);
    // What is of no use for RoPE is skipped to the byte.
    assert!(read_metadata(&file).is_ok());
}

#[test]
fn tensors_of_factors() {
    let factors: Vec<f32> = (1..=8_u8).map(f32::from).collect();
    let as_f64: Vec<f64> = factors.iter().copied().map(f64::from).collect();
    let other = [3.0; 13];
    let writer = Writer::new("llama")
        .with_tensor("token_embd.weight", &other)
        .with_tensor("rope_freqs.weight", &factors)
        .with_tensor("output.weight", &other);
    assert_eq!(
        writer.config().scaling(),
        &Scaling::FrequencyFactors(as_f64.clone())
    );
    let mut wide = writer.clone().with_full("general.alignment", U32(256));
    wide.alignment = 256;
    assert_eq!(wide.config(), writer.config());

    // Divided by a factor beside.
    let linear = writer.clone().with("rope.scaling.factor", F32(2.0));
    let doubled = as_f64.iter().map(|factor| 2.0 * factor).collect();
    assert_eq!(
        linear.config().scaling(),
        &Scaling::FrequencyFactors(doubled)
    );
    assert_eq!(
        linear.model().defaulted,
        ["rope.scaling.type", "rope.freq_base"]
    );

    // YaRN and factors: as both by themselves.
    let yarn = |writer: Writer| {
        writer
            .with("rope.scaling.type", Text("yarn"))
            .with("rope.scaling.factor", F32(4.0))
            .with("rope.scaling.original_context_length", U32(64))
    };
    let both = Frequencies::new(&yarn(writer.clone()).config()).unwrap();
    let alone = Frequencies::new(&yarn(Writer::new("llama")).config()).unwrap();
    for ((both, alone), factor) in both.inv_freq().zip(alone.inv_freq()).zip(&as_f64) {
        assert!((both * factor / alone - 1.0).abs() < 1e-14);
    }
    assert_eq!(both.attention_factor(), alone.attention_factor());
    assert_eq!(both.attention_factor(), 0.1 * libm::log(4.0) + 1.0);

    let short = Writer::new("llama").with_tensor("rope_freqs.weight", &factors[1..]);
    assert_eq!(
        short.error(),
        "rope_freqs.weight: must have 8 values, one for each pair, got 7"
    );
    let zero = Writer::new("llama").with_tensor("rope_freqs.weight", &[0.0; 8]);
    assert_eq!(
        zero.error(),
        "rope_freqs.weight: must be positive finite numbers, got 0"
    );
    let strange = Writer::new("qwen2").with_tensor("rope_freqs.weight", &factors);
    assert_eq!(
        strange.error(),
        "rope_freqs.weight: must not be there: llama.cpp does not load it for qwen2 with this rope.scaling.type, got 8 values"
    );
    // These it loads and leaves aside.
    let aside = Writer::new("llada").with_tensor("rope_freqs.weight", &factors);
    assert_eq!(aside.config().scaling(), &Scaling::None);
}

#[test]
fn long_and_short_factors() {
    let (long, short) = ([8.0; 8], [2.0; 8]);
    let writer = Writer::new("phi3")
        .with_tensor("rope_factors_long.weight", &long)
        .with_tensor("rope_factors_short.weight", &short)
        .with("rope.scaling.original_context_length", U32(100))
        .with("rope.scaling.attn_factor", F32(1.25));
    let config = writer.config();
    let at = |tokens| Frequencies::for_length(&config, tokens).unwrap();
    assert_eq!(at(100).inv_freq().next(), Some(0.5));
    assert_eq!(at(101).inv_freq().next(), Some(0.125));
    assert_eq!(at(0).attention_factor(), 1.25);
    // The type longrope divides by the factor, too.
    let scaled = writer
        .clone()
        .with("rope.scaling.type", Text("longrope"))
        .with("rope.scaling.factor", F32(2.0));
    let scaled = Frequencies::new(&scaled.config()).unwrap();
    assert_eq!(scaled.inv_freq().next(), Some(0.25));

    // LLaMA takes these for longrope and the others for the rest.
    let llama = Writer {
        tensors: writer.tensors.clone(),
        ..Writer::new("llama")
    };
    assert!(
        llama
            .error()
            .starts_with("rope_factors_long.weight: must not be there")
    );
    let llama = llama.with("rope.scaling.type", Text("longrope"));
    assert!(matches!(llama.config().scaling(), Scaling::LongRope { .. }));

    // One alone: the other is none. An original length of 0: every context is longer.
    let mut alone = writer.clone();
    alone.tensors.truncate(1);
    let config = alone.config();
    assert_eq!(
        Frequencies::new(&config).unwrap().inv_freq().next(),
        Some(1.0)
    );
    let always = writer.with("rope.scaling.original_context_length", U32(0));
    assert_eq!(
        always.config().scaling(),
        &Scaling::FrequencyFactors(vec![8.0; 8])
    );
}

#[test]
fn pairs_whose_factors_leave_nothing_do_not_turn() {
    let gemma4 = |factors: &[f32]| {
        Writer::new("gemma4")
            .with("attention.key_length", U32(16))
            .with("attention.key_length_swa", U32(8))
            .with("rope.dimension_count", U32(16))
            .with("rope.dimension_count_swa", U32(8))
            .with("attention.sliding_window", U32(64))
            .with(
                "attention.sliding_window_pattern",
                Bools(vec![true, true, true, false]),
            )
            .with_tensor("rope_freqs.weight", factors)
    };
    let writer = gemma4(&[1.0, 1.0, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30]);
    assert_eq!(writer.names(), "sliding sliding sliding full");
    let model = writer.model();
    let full = &model
        .kind("full_attention")
        .unwrap()
        .rope
        .as_ref()
        .unwrap()
        .config;
    assert_eq!(
        (full.head_dim(), full.scaling()),
        (
            16,
            &Scaling::Proportional {
                rotated_pairs: 2,
                factor: 1.0
            }
        )
    );
    let sliding = model.layer(0).unwrap().rope.as_ref().unwrap();
    assert_eq!(sliding.config, RopeConfig::new(8));
    assert_eq!(model.defaulted, ["rope.freq_base_swa", "rope.freq_base"]);

    let uneven = gemma4(&[1.0, 2.0, 1e30, 1e30, 1e30, 1e30, 1e30, 4.0]).model();
    let full = uneven
        .kind("full_attention")
        .unwrap()
        .rope
        .as_ref()
        .unwrap();
    let frequencies = Frequencies::new(&full.config).unwrap();
    let turning: Vec<_> = frequencies
        .inv_freq()
        .map(|inv_freq| inv_freq != 0.0)
        .collect();
    assert_eq!(
        turning,
        [true, true, false, false, false, false, false, true]
    );

    let mut without = gemma4(&[1.0; 8]);
    without.tensors.clear();
    assert_eq!(
        without.error(),
        "rope_freqs.weight: must be there, got none"
    );
}

#[test]
fn scalings() {
    let with = |kind: &'static str, factor: f32| {
        Writer::new("qwen2")
            .with("rope.scaling.type", Text(kind))
            .with("rope.scaling.factor", F32(factor))
            .with("rope.scaling.original_context_length", U32(64))
    };
    assert_eq!(with("none", 4.0).config().scaling(), &Scaling::None);
    assert_eq!(
        with("linear", 4.0).config().scaling(),
        &Scaling::Linear { factor: 4.0 }
    );
    assert_eq!(with("linear", 0.0).config().scaling(), &Scaling::None);
    let yarn = with("yarn", 4.0).config();
    assert_eq!(yarn.scaling(), &Scaling::Yarn(Yarn::new(4.0, 64.0)));
    // Betas and the rest are written by converters, and read for two architectures.
    let betas = |writer: Writer| {
        writer
            .with("rope.scaling.yarn_beta_fast", F32(16.0))
            .with("rope.scaling.yarn_beta_slow", F32(2.0))
            .with("rope.scaling.yarn_log_multiplier", F32(1.0))
    };
    assert_eq!(betas(with("yarn", 4.0)).config(), yarn);
    let to = |name| {
        let mut writer = with("yarn", 4.0);
        for (key, value) in &mut writer.keys {
            *key = key.replace("qwen2.", &format!("{name}."));
            if key == "general.architecture" {
                *value = Text(name);
            }
        }
        writer
    };
    let mistral = betas(to("mistral3")).config();
    assert_eq!(
        mistral.scaling(),
        &Scaling::Yarn(Yarn::new(4.0, 64.0).with_betas(16.0, 2.0))
    );
    assert_eq!(mistral.attention_factor(), 1.0);
    let grok = to("grok").config();
    assert_eq!(
        grok.scaling(),
        &Scaling::Yarn(Yarn::new(4.0, 64.0).with_betas(8.0, 1.0))
    );
    // Half of YaRN's ramp: between YaRN and linear scaling.
    let half = to("grok")
        .with("rope.scaling.yarn_ext_factor", F32(0.5))
        .config();
    let (half, all) = (
        Frequencies::new(&half).unwrap(),
        Frequencies::new(&grok).unwrap(),
    );
    let plain = Frequencies::new(&RopeConfig::new(16)).unwrap();
    for ((half, all), plain) in half.inv_freq().zip(all.inv_freq()).zip(plain.inv_freq()) {
        assert!((half - 0.5 * (all + plain / 4.0)).abs() < 1e-15);
    }
    let none = to("grok")
        .with("rope.scaling.yarn_ext_factor", F32(0.0))
        .with("rope.scaling.yarn_attn_factor", F32(1.5))
        .config();
    assert_eq!(none.scaling(), &Scaling::Linear { factor: 4.0 });
    assert_eq!(none.attention_factor(), 1.5);

    let more = with("yarn", 4.0).with("rope.scaling.attn_factor", F32(2.0));
    assert_eq!(
        more.config().attention_factor(),
        2.0 * yarn.attention_factor()
    );
    let old = Writer::new("qwen2").with("rope.scale_linear", F32(2.0));
    assert_eq!(old.config().scaling(), &Scaling::Linear { factor: 2.0 });
    // The context is the original one where the file does not say.
    let unsaid = with("yarn", 4.0).without("rope.scaling.original_context_length");
    assert_eq!(
        unsaid.config().scaling(),
        &Scaling::Yarn(Yarn::new(4.0, 4096.0))
    );
    assert!(
        unsaid
            .model()
            .defaulted
            .contains(&"rope.scaling.original_context_length")
    );
    assert_eq!(
        with("dynamic", 4.0).error(),
        "qwen2.rope.scaling.type: must be one of none, linear, yarn, longrope, got \"dynamic\""
    );
    assert_eq!(
        with("linear", -4.0).error(),
        "qwen2.rope.scaling.factor: must be 0 or more, got -4"
    );

    let alpha = Writer::new("hunyuan-dense").with("rope.scaling.alpha", F32(1000.0));
    assert_eq!(
        alpha.config().theta(),
        10_000.0 * libm::pow(1000.0, 16.0 / 14.0)
    );
    let fixed = Writer::new("cogvlm")
        .with("rope.freq_base", F32(5.0))
        .with("rope.scaling.factor", F32(5.0));
    assert_eq!(fixed.config(), RopeConfig::new(16));
}

#[test]
fn a_ramp_that_ends_before_it_begins() {
    // ggml has all pairs but the first divided then; transformers none.
    let writer = Writer::new("qwen2")
        .with("rope.scaling.type", Text("yarn"))
        .with("rope.scaling.factor", F32(4.0))
        .with("rope.scaling.original_context_length", U32(2));
    let frequencies = Frequencies::new(&writer.config()).unwrap();
    let plain = Frequencies::new(&RopeConfig::new(16)).unwrap();
    let quotients: Vec<_> = plain
        .inv_freq()
        .zip(frequencies.inv_freq())
        .map(|(plain, own)| plain / own)
        .collect();
    assert_eq!(quotients, [1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]);
}

#[test]
fn latent_attention() {
    let writer = |name| {
        Writer::new(name)
            .with("attention.key_length", U32(40))
            .with("attention.key_length_mla", U32(24))
            .with("attention.value_length_mla", U32(16))
            .with("rope.dimension_count", U32(8))
            .with("rope.scaling.type", Text("yarn"))
            .with("rope.scaling.factor", F32(40.0))
            .with("rope.scaling.yarn_log_multiplier", F32(0.1))
    };
    let rope = writer("deepseek2").only();
    let config = &rope.config;
    assert_eq!(
        (
            config.head_dim(),
            config.rotary_dim(),
            config.rotary_offset()
        ),
        (24, 8, 16)
    );
    let yarn = Yarn::new(40.0, 4096.0);
    assert_eq!(config.scaling(), &Scaling::Yarn(yarn));
    assert_eq!(config.attention_factor(), 1.0);
    let expected = yarn.with_mscale(Some(1.0), Some(1.0)).softmax_factor();
    assert!((rope.softmax_factor / expected - 1.0).abs() < 1e-15);
    // The same for mistral4, where an mscale of 1 is assumed.
    assert_eq!(writer("mistral4").only(), rope);
    let other = writer("deepseek2").with("rope.scaling.yarn_log_multiplier", F32(0.07));
    assert_eq!(other.config().attention_factor(), 1.0);
    let other = writer("deepseek32").with("rope.scaling.yarn_log_multiplier", F32(0.07));
    assert!(other.config().attention_factor() > 1.0);

    // Without latent attention the head is that of the cache.
    let lite = writer("deepseek2").without("attention.value_length_mla");
    assert_eq!(lite.config().rotary_offset(), 32);
    assert_eq!(
        writer("deepseek2").without("rope.dimension_count").error(),
        "deepseek2.rope.dimension_count: must be given, got none"
    );
    let ocr = Writer::new("deepseek2-ocr").with("rope.dimension_count", U32(8));
    assert_eq!(ocr.config(), RopeConfig::new(16));
}

#[test]
fn several_axes() {
    let with = |name, sections| Writer::new(name).with("rope.dimension_sections", Ints(sections));
    let axes = |name, sections| with(name, sections).config().axes().clone();
    assert_eq!(
        axes("qwen2vl", vec![2, 3, 3, 0]),
        Axes::Sectioned(vec![2, 3, 3])
    );
    assert_eq!(
        axes("qwen2vl", vec![2, 2, 2, 2]),
        Axes::Sectioned(vec![2; 4])
    );
    // ggml takes of a list that is too long what it needs.
    assert_eq!(
        axes("qwen2vl", vec![2, 3, 30, 1]),
        Axes::Sectioned(vec![2, 3, 3])
    );
    assert_eq!(
        axes("qwen3vl", vec![4, 2, 2, 0]),
        Axes::Interleaved {
            height: 2,
            width: 2
        }
    );
    assert_eq!(
        with("qwen3vl", vec![4, 2, 2, 0]).config().pairing(),
        Pairing::HalfSplit
    );
    let either = with("glm4", vec![2, 3, 3, 0]).config();
    assert_eq!(either.pairing(), Pairing::HalfSplit);
    for either in [Writer::new("glm4"), with("glm4", vec![8, 0, 0, 0])] {
        let config = either.config();
        assert_eq!(
            (config.pairing(), config.axes()),
            (Pairing::Interleaved, &Axes::One)
        );
    }
    // Read and not used.
    assert_eq!(axes("ernie4_5", vec![2, 3, 3, 0]), Axes::One);
    // The draft of an M-RoPE model follows time alone.
    assert_eq!(axes("dflash", vec![8, 0, 0, 0]), Axes::One);
    let one = Writer::new("qwen2vl").with("rope.dimension_sections", U32(2));
    assert_eq!(one.config().axes(), &Axes::Sectioned(vec![2; 4]));

    assert_eq!(
        with("qwen2vl", vec![2, 2, 2, 0]).error(),
        "qwen2vl.rope.dimension_sections: must add up to the 8 pairs of the rotary window, got [2, 2, 2, 0]"
    );
    assert_eq!(
        with("qwen2vl", vec![2, 3, 3]).error(),
        "qwen2vl.rope.dimension_sections: must be four numbers, got 3"
    );
    assert_eq!(
        with("qwen3vl", vec![3, 2, 2, 1]).error(),
        "qwen3vl.rope.dimension_sections: must have a 0 for the fourth axis where pairs go by turns, got 1"
    );
    assert_eq!(
        Writer::new("qwen3vl").error(),
        "qwen3vl.rope.dimension_sections: must be given, got none"
    );
}

#[test]
fn layers_that_slide_and_layers_that_do_not_rotate() {
    let slides = |name| Writer::new(name).with("attention.sliding_window", U32(64));
    let cases: [(Writer, &str); 24] = [
        (slides("gpt-oss"), "sliding full sliding full"),
        (slides("gemma3"), "sliding sliding sliding sliding"),
        (Writer::new("gemma3"), "full full full full"),
        (
            slides("gemma3").with("attention.sliding_window_pattern", U32(2)),
            "sliding full sliding full",
        ),
        (
            slides("gemma3").with("attention.sliding_window_pattern", U32(0)),
            "sliding sliding sliding sliding",
        ),
        (
            slides("gemma3").with(
                "attention.sliding_window_pattern",
                Bools(vec![false, true, true, false]),
            ),
            "full sliding sliding full",
        ),
        (slides("modern-bert"), "full sliding sliding full"),
        (slides("cohere2"), "sliding sliding sliding full!"),
        (
            slides("cohere2moe")
                .with("leading_dense_block_count", U32(1))
                .with("block_count", U32(5)),
            "full sliding sliding sliding nope!",
        ),
        (
            slides("cohere2moe").with("leading_dense_block_count", U32(0)),
            "full! sliding sliding sliding",
        ),
        (Writer::new("smollm3"), "full full full nope!"),
        (Writer::new("llama4"), "chunked chunked chunked full!"),
        (
            Writer::new("llama4")
                .with("attention.sliding_window", U32(0))
                .with("block_count", U32(5)),
            "full full full full nope!",
        ),
        (Writer::new("afmoe"), "full full full nope!"),
        (slides("afmoe"), "sliding sliding sliding full!"),
        (Writer::new("smallthinker"), "full full full full"),
        (slides("smallthinker"), "full! sliding sliding sliding"),
        (Writer::new("exaone4"), "full full full full"),
        (slides("phi3"), "full full full full"),
        (
            Writer::new("qwen35moe").with("rope.dimension_sections", Ints(vec![4, 2, 2, 0])),
            "linear! linear! linear! full",
        ),
        (
            Writer::new("qwen3next").with("full_attention_interval", U32(2)),
            "linear! full linear! full",
        ),
        (
            Writer::new("qwen3next").with("attention.recurrent_layers", Ints(vec![0, 1, 1, 0])),
            "full linear! linear! full",
        ),
        (
            slides("lfm2").with("attention.head_count_kv", Ints(vec![0, 2, 0, 2])),
            "conv! sliding conv! sliding",
        ),
        (
            Writer::new("qwen3next")
                .with("block_count", U32(6))
                .with("nextn_predict_layers", U32(1)),
            "linear! linear! linear! full linear!",
        ),
    ];
    for (writer, expected) in cases {
        assert_eq!(writer.names(), expected, "{}", writer.architecture());
    }
    let listed = slides("granite_swa")
        .with("attention.sliding_window_pattern", Ints(vec![1, 1, 0, 0]))
        .with(
            "attention.rope_pattern",
            Bools(vec![true, false, true, false]),
        );
    assert_eq!(listed.names(), "sliding nope! full nope!");
    let all = slides("exaone4").with("block_count", U32(64));
    assert_eq!(
        all.model().layers.iter().filter(|&&kind| kind == 1).count(),
        16
    );
    assert_eq!(
        Writer::new("cohere2").error(),
        "cohere2.attention.sliding_window: must be given, got none"
    );
    assert_eq!(
        slides("mimo2").error(),
        "mimo2.attention.sliding_window_pattern: must be given, got none"
    );
    assert_eq!(
        slides("mimo2")
            .with("attention.sliding_window_pattern", Ints(vec![1; 3]))
            .error(),
        "mimo2.attention.sliding_window_pattern: must have an entry for each of 4 layers, got 3"
    );
}

#[test]
fn what_sliding_layers_have_of_their_own() {
    let yarn = |name| {
        Writer::new(name)
            .with("attention.sliding_window", U32(64))
            .with(
                "attention.sliding_window_pattern",
                Bools(vec![true, false, true, false]),
            )
            .with("rope.freq_base", F32(1e6))
            .with("rope.scaling.type", Text("yarn"))
            .with("rope.scaling.factor", F32(4.0))
    };
    let sliding = |writer: &Writer| writer.model().layers[0];
    let config = |writer: &Writer, layer: u32| {
        let model = writer.model();
        model.layer(layer).unwrap().rope.clone().unwrap().config
    };
    let scaled = Scaling::Yarn(Yarn::new(4.0, 4096.0));
    // Base, scaling.
    let same = yarn("gpt-oss");
    assert_eq!(config(&same, 0), config(&same, 1));
    assert_eq!(config(&same, 0).scaling(), &scaled);
    let own = same.with("rope.freq_base_swa", F32(5e3));
    assert_eq!(
        (config(&own, 0).theta(), config(&own, 1).theta()),
        (5e3, 1e6)
    );
    let other = yarn("gemma3");
    assert_eq!(
        (config(&other, 0).theta(), config(&other, 0).scaling()),
        (1e4, &Scaling::None)
    );
    assert_eq!(config(&other, 0).attention_factor(), 1.0);
    assert_eq!(config(&other, 1).scaling(), &scaled);
    // The attention factor of the file is for both, unless the sliding ones are plain.
    let other = other.with("rope.scaling.attn_factor", F32(2.0));
    assert_eq!(config(&other, 0).attention_factor(), 2.0);
    let plain = yarn("olmo2")
        .with("rope.scaling.attn_factor", F32(2.0))
        .with("rope.freq_base_swa", F32(5e3));
    assert_eq!(config(&plain, 0), RopeConfig::new(16).with_theta(1e6));
    let required = yarn("dots3note")
        .with("rope.dimension_count", U32(8))
        .with("attention.key_length_mla", U32(24))
        .with("attention.value_length_mla", U32(16))
        .with("attention.key_length_mla_swa", U32(32));
    assert_eq!(
        required.error(),
        "dots3note.rope.freq_base_swa: must be given, got none"
    );
    let required = required.with("rope.freq_base_swa", F32(5e3));
    assert_eq!(config(&required, 0).rotary_offset(), 24);
    assert_eq!(config(&required, 1).rotary_offset(), 16);
    assert_eq!(config(&required, 0).scaling(), &scaled);
    // The type none is for full layers only.
    let none = yarn("gpt-oss").with("rope.scaling.type", Text("none"));
    assert_eq!(config(&none, 0).scaling(), &Scaling::Linear { factor: 4.0 });
    assert_eq!(config(&none, 1).scaling(), &Scaling::None);
    assert_eq!(sliding(&none), 0);

    // Dimensions: of each kind, or those of the first layer for all.
    let dims = |name| yarn(name).with("rope.dimension_count_swa", U32(8));
    let rotary = |writer: &Writer| {
        [
            config(writer, 0).rotary_dim(),
            config(writer, 1).rotary_dim(),
        ]
    };
    assert_eq!(rotary(&dims("laguna")), [8, 16]);
    assert_eq!(rotary(&dims("gpt-oss")), [8, 8]);
    assert_eq!(rotary(&yarn("step35")), [16, 8]);
}

#[test]
fn deepseek_4() {
    let writer = Writer::new("deepseek4")
        .with("attention.key_length", U32(32))
        .with("rope.dimension_count", U32(8))
        .with("attention.sliding_window", U32(64))
        .with("attention.compress_rope_freq_base", F32(160_000.0))
        .with("attention.compress_ratios", Ints(vec![0, 4, 128, 4]))
        .with("rope.scaling.type", Text("yarn"))
        .with("rope.scaling.factor", F32(16.0));
    assert_eq!(
        writer.names(),
        "sliding compressed_sparse heavily_compressed compressed_sparse"
    );
    let model = writer.model();
    let config = |layer| model.layer(layer).unwrap().rope.clone().unwrap().config;
    let plain = RopeConfig::new(32)
        .with_rotary_dim(8)
        .with_rotary_offset(24)
        .with_pairing(Pairing::Interleaved);
    assert_eq!(config(0), plain);
    let compressed = plain
        .with_theta(160_000.0)
        .with_scaling(Scaling::Yarn(Yarn::new(16.0, 4096.0)))
        .with_attention_factor(1.0);
    assert_eq!((config(1), config(2)), (compressed.clone(), compressed));
    let draft = Writer::new("dflash")
        .with("attention.key_length", U32(32))
        .with("rope.dimension_count", U32(8))
        .with("hyper_connection.count", U32(4));
    let rope = draft.config();
    assert_eq!(
        (rope.rotary_offset(), rope.pairing()),
        (24, Pairing::Interleaved)
    );
    assert_eq!(Writer::new("dflash").config(), RopeConfig::new(16));
    assert_eq!(
        writer.without("attention.compress_ratios").error(),
        "deepseek4.attention.compress_ratios: must be given, got none"
    );
}

#[test]
fn models_that_do_not_rotate() {
    let none = [
        Writer::new("gpt2"),
        Writer::new("mamba2"),
        Writer::new("bert"),
        Writer::new("starcoder"),
        Writer::new("baichuan").with("block_count", U32(40)),
        Writer::new("granite").with("rope.scaling.finetuned", Bool(false)),
        Writer::new("granitemoe").with("rope.scaling.finetuned", Bool(false)),
        Writer::new("llama").with("attention.head_count", U32(0)),
    ];
    for writer in none {
        assert_eq!(writer.read(), Ok(None), "{}", writer.architecture());
    }
    assert!(Writer::new("granite").read().unwrap().is_some());
    let small = Writer::new("baichuan").with("block_count", U32(32));
    assert_eq!(small.model().layers.len(), 32);
    // Heads of the first layer that has any.
    let hybrid = Writer::new("plamo2")
        .with("attention.head_count", Ints(vec![0, 4, 0, 4]))
        .with("attention.head_count_kv", Ints(vec![0, 2, 0, 2]));
    assert_eq!(hybrid.names(), "mamba! full mamba! full");
}

#[test]
fn errors_name_the_key() {
    let cases: [(Writer, &str); 22] = [
        (
            Writer::new("llama5"),
            "general.architecture: must be one that llama.cpp knows, got \"llama5\"",
        ),
        (
            Writer::new("gptj"),
            "general.architecture: must be one that llama.cpp rotates: llama.cpp has no code for it, got gptj",
        ),
        (
            Writer::new("clip"),
            "general.architecture: must be one that llama.cpp rotates: the rotation of a vision tower is in llama.cpp's code for its projector, not in the file; a config.json says it, got clip",
        ),
        (
            Writer::new("llama").with_full("general.architecture", U32(1)),
            "general.architecture: must be a string, got another value",
        ),
        (
            Writer::new("llama").without("block_count"),
            "llama.block_count: must be given, got none",
        ),
        (
            Writer::new("llama").with("block_count", U32(0)),
            "llama.block_count: must be from 1 to 512, got 0",
        ),
        (
            Writer::new("llama").with("block_count", U32(513)),
            "llama.block_count: must be from 1 to 512, got 513",
        ),
        (
            Writer::new("llama").with("block_count", F32(4.0)),
            "llama.block_count: must be a whole number below 2^32, got 4.0",
        ),
        (
            Writer::new("llama").with("nextn_predict_layers", U32(4)),
            "llama.nextn_predict_layers: must be below the 4 of block_count, got 4",
        ),
        (
            Writer::new("llama").without("attention.head_count"),
            "llama.attention.head_count: must be given, got none",
        ),
        (
            Writer::new("llama").without("embedding_length"),
            "llama.embedding_length: must be given, got none",
        ),
        (
            Writer::new("llama").with("attention.head_count", Ints(vec![4; 3])),
            "llama.attention.head_count: must have an entry for each of 4 layers, got 3",
        ),
        (
            Writer::new("llama").with("attention.head_count", I32(-4)),
            "llama.attention.head_count: must be a whole number below 2^32, or an array of these, got -4",
        ),
        (
            Writer::new("llama").with("rope.freq_base", Text("x")),
            "llama.rope.freq_base: must be a number above 0, got \"x\"",
        ),
        (
            Writer::new("llama").with("rope.freq_base", F32(0.0)),
            "llama.rope.freq_base: must be a number above 0, got 0.0",
        ),
        (
            Writer::new("llama").with("rope.freq_base", F32(f32::NAN)),
            "llama.rope.freq_base: must be a number above 0, got NaN",
        ),
        (
            Writer::new("llama").with("rope.dimension_count", U32(8)),
            "llama.rope.dimension_count: must be the 16 channels of a head, as llama.cpp has it for this architecture, got 8",
        ),
        (
            Writer::new("phi2").with("rope.dimension_count", U32(7)),
            "phi2.rope.dimension_count: must give an even number of channels from 2 to the 16 of a head, got 7",
        ),
        (
            Writer::new("phi2").with("rope.dimension_count", U32(18)),
            "phi2.rope.dimension_count: must give an even number of channels from 2 to the 16 of a head, got 18",
        ),
        (
            Writer::new("llama").with("attention.key_length", U32(u32::MAX)),
            "llama.attention.key_length: must give heads of 2 to 65,536 channels, got 4294967295",
        ),
        (
            Writer::new("qwen3next").with("full_attention_interval", U32(0)),
            "qwen3next.full_attention_interval: must be at least 1, got 0",
        ),
        (
            Writer::new("baichuan"),
            "baichuan.block_count: must be 32 (7B, RoPE) or 40 (13B, ALiBi), by which llama.cpp tells one from the other, got 4",
        ),
    ];
    for (writer, expected) in cases {
        assert_eq!(writer.error(), expected);
    }
}

#[test]
fn malformed_files() {
    let error = |bytes: &[u8]| File::from_bytes(bytes).unwrap_err().to_string();
    let small = Writer::new("llama");
    assert_eq!(
        error(b""),
        "GGUF: must have 4 bytes for the magic at byte 0, got 0 that are left"
    );
    let with = |change: &dyn Fn(&mut Writer)| {
        let mut writer = small.clone();
        change(&mut writer);
        error(&writer.write())
    };
    assert_eq!(
        with(&|w| w.magic = *b"GGML"),
        "GGUF: must begin with GGUF, got other bytes"
    );
    assert_eq!(
        with(&|w| w.version = 1),
        "GGUF version: must be 2 or 3, got 1"
    );
    assert_eq!(
        with(&|w| w.version = 4),
        "GGUF version: must be 2 or 3, got 4"
    );
    assert_eq!(
        with(&|w| w.version = 0),
        "GGUF version: must be 2 or 3, got 0"
    );
    assert_eq!(
        with(&|w| w.version = 3_u32.swap_bytes()),
        "GGUF version: must be little endian, got 3, big endian"
    );
    let twice = with(&|w| w.keys.push(("llama.block_count".into(), U32(4))));
    assert_eq!(twice, "llama.block_count: must be there once, got twice");
    let nested = [9_u32.to_le_bytes(), 1_u32.to_le_bytes(), [0; 4]].concat();
    let nested = with(&|w| w.keys.push(("a".into(), Raw(9, nested.clone()))));
    assert_eq!(
        nested,
        "a: must be a number, a truth value, a string, or an array of these, got an array of arrays"
    );
    let unknown = with(&|w| w.keys.push(("a".into(), Raw(13, vec![0; 8]))));
    assert!(unknown.ends_with("got type 13"), "{unknown}");
    let mut name = small.write();
    // The length of the first key, and its first byte.
    name[32] = 0xff;
    assert!(error(&name).starts_with("GGUF key: must be UTF-8, got"));
    name[24..32].fill(0);
    assert_eq!(
        error(&name),
        "GGUF key: must have from 1 to 65535 bytes, got 0"
    );

    for (at, what) in [(8, "count of tensors"), (16, "count of keys")] {
        for count in [u64::MAX, 1 << 40, 1000] {
            let mut bytes = small.write();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let message = error(&bytes);
            assert!(
                message.starts_with(&format!("GGUF {what}: must be at most")),
                "{message}"
            );
        }
    }
    // Lengths past the end, whose products overflow.
    for of in [0_u32, 5, 8, 12] {
        for count in [u64::MAX, 1 << 61, 1 << 33] {
            let raw = [&of.to_le_bytes()[..], &count.to_le_bytes()].concat();
            let message = with(&|w| w.keys.push(("a".into(), Raw(9, raw.clone()))));
            assert!(message.contains("must"), "{message}");
        }
    }
    let long = with(&|w| {
        let length = u64::MAX.to_le_bytes().to_vec();
        w.keys.push(("a".into(), Raw(8, length)));
    });
    assert!(
        long.starts_with("GGUF: must have 18446744073709551615 bytes for a at byte"),
        "{long}"
    );

    let factors = small.clone().with_tensor("rope_freqs.weight", &[1.0; 8]);
    let change = |change: &dyn Fn(&mut Writer)| {
        let mut writer = factors.clone();
        change(&mut writer);
        error(&writer.write())
    };
    assert_eq!(
        change(&|w| w.tensors[0].1 = 1),
        "rope_freqs.weight: must be of type F32 (0), got type 1"
    );
    assert_eq!(
        change(&|w| w.tensors.push(w.tensors[0].clone())),
        "rope_freqs.weight: must be there once, got twice"
    );
    for alignment in [U32(0), U32(24), Text("x")] {
        let message = change(&|w| w.keys.push(("general.alignment".into(), alignment.clone())));
        assert!(
            message.starts_with("general.alignment: must be a power of two"),
            "{message}"
        );
    }
    // The description of the only tensor lies before the padding of the data.
    let bytes = factors.write();
    let at = bytes
        .windows(11)
        .position(|bytes| bytes == b"freqs.weigh")
        .unwrap()
        + 12;
    for (place, value) in [(4, u64::MAX), (4, 40_000), (16, u64::MAX), (16, 1 << 20)] {
        let mut bytes = bytes.clone();
        bytes[at + place..at + place + 8].copy_from_slice(&value.to_le_bytes());
        let message = error(&bytes);
        assert!(message.starts_with("rope_freqs.weight: must"), "{message}");
    }
    let mut dimensions = bytes;
    dimensions[at] = 5;
    assert_eq!(
        error(&dimensions),
        "\"rope_freqs.weight\": must have at most 4 dimensions, got 5"
    );
}

/// A file with a bit of everything.
fn sample() -> Vec<u8> {
    Writer::new("llama")
        .with("rope.freq_base", F32(5e5))
        .with("attention.head_count_kv", Ints(vec![2; 4]))
        .with("rope.scaling.type", Text("yarn"))
        .with("rope.scaling.factor", F32(4.0))
        .with_full(
            "tokenizer.ggml.tokens",
            Raw(
                9,
                [
                    8_u32.to_le_bytes().to_vec(),
                    2_u64.to_le_bytes().to_vec(),
                    text(b"a"),
                    text(b"bc"),
                ]
                .concat(),
            ),
        )
        .with_tensor(
            "rope_freqs.weight",
            &[1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0],
        )
        .write()
}

#[test]
fn files_that_are_cut_off() {
    let bytes = sample();
    assert!(
        read_metadata(&File::from_bytes(&bytes).unwrap())
            .unwrap()
            .is_some()
    );
    for end in 0..bytes.len() {
        assert!(File::from_bytes(&bytes[..end]).is_err(), "{end} bytes");
    }
}

#[test]
fn no_bit_makes_it_panic() {
    let bytes = sample();
    let mut read = 0;
    let mut turned = bytes.clone();
    for bit in 0..8 * bytes.len() {
        turned[bit / 8] ^= 1 << (bit % 8);
        if let Ok(file) = File::from_bytes(&turned) {
            if let Ok(Some(model)) = read_metadata(&file) {
                read += 1;
                for kind in model.kinds {
                    // Frequencies out of range are errors, too.
                    drop(kind.rope.map(|rope| Frequencies::new(&rope.config)));
                }
            }
        }
        turned[bit / 8] = bytes[bit / 8];
    }
    assert!(read > 100, "{read}");
    // Whole bytes and words of ones and zeros.
    for width in [1, 4, 8] {
        for at in 0..bytes.len() - width {
            for fill in [0, 0x7f, 0xff] {
                let mut turned = bytes.clone();
                turned[at..at + width].fill(fill);
                if let Ok(file) = File::from_bytes(&turned) {
                    drop(read_metadata(&file));
                }
            }
        }
    }
}

#[test]
fn arrays_of_the_wrong_type_for_every_key() {
    // Every key that is read, with every kind of value: an answer or an error, for all architectures.
    let values = [
        U32(0),
        U32(u32::MAX),
        I32(-1),
        F32(f32::INFINITY),
        F32(f32::MIN_POSITIVE),
        Bool(false),
        Text(""),
        Ints(vec![]),
        Ints(vec![i32::MIN; 4]),
        Bools(vec![true; 4]),
    ];
    let keys = [
        "block_count",
        "nextn_predict_layers",
        "embedding_length",
        "context_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.key_length_swa",
        "attention.key_length_mla",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "attention.compress_ratios",
        "attention.recurrent_layers",
        "full_attention_interval",
        "rope.dimension_count",
        "rope.dimension_count_swa",
        "rope.dimension_sections",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.alpha",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_log_multiplier",
    ];
    for architecture in ARCHITECTURES {
        let base = full(architecture);
        for key in keys {
            for value in &values {
                if let Err(error) = base.clone().with(key, value.clone()).read() {
                    assert!(matches!(error, RopeError::Config { .. }), "{error}");
                }
            }
        }
    }
}

/// A file that has what any architecture requires, and a scaling.
fn full(architecture: &'static Architecture) -> Writer {
    let mut writer = Writer::new(architecture.name)
        .with("attention.sliding_window", U32(64))
        .with(
            "attention.sliding_window_pattern",
            Bools(vec![true, false, true, false]),
        )
        .with("attention.compress_ratios", Ints(vec![0, 4, 128, 4]))
        .with("attention.compress_rope_freq_base", F32(160_000.0))
        .with("attention.key_length_swa", U32(16))
        .with("attention.key_length_mla_swa", U32(24))
        .with("leading_dense_block_count", U32(1))
        .with("full_attention_interval", U32(4))
        .with("rope.freq_base_swa", F32(5e3))
        .with("rope.dimension_count", U32(16))
        .with("rope.dimension_sections", Ints(vec![4, 2, 2, 0]))
        .with("rope.scaling.type", Text("yarn"))
        .with("rope.scaling.factor", F32(4.0));
    if architecture.factors.required {
        writer = writer.with_tensor("rope_freqs.weight", &[1.0; 8]);
    }
    if architecture.habit == Some(Habit::Baichuan) {
        writer = writer.with("block_count", U32(32));
    }
    writer
}

#[test]
fn every_architecture_is_read() {
    for architecture in ARCHITECTURES {
        let result = full(architecture).read();
        match (architecture.habit, architecture.order) {
            (Some(Habit::Refused(_)), _) => assert!(result.is_err()),
            (Some(Habit::NeverRotates), _) | (_, Order::None) => assert_eq!(result, Ok(None)),
            _ => {
                let model = result.unwrap().unwrap();
                assert_eq!(model.family, Some(architecture.name));
                for kind in model.kinds {
                    if let Some(rope) = kind.rope {
                        Frequencies::new(&rope.config).unwrap();
                    }
                }
            }
        }
        let same = ARCHITECTURES
            .iter()
            .filter(|other| other.name == architecture.name);
        assert_eq!(same.count(), 1, "{}", architecture.name);
    }
}

#[test]
fn parts_of_a_model() {
    let folder = std::env::temp_dir().join(format!("wgpu-rope-gguf-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |index: u32| folder.join(format!("model-{index:05}-of-00003.gguf"));
    let part = |writer: Writer, index: u16| {
        writer
            .with_full("split.count", Raw(2, 3_u16.to_le_bytes().to_vec()))
            .with_full("split.no", Raw(2, index.to_le_bytes().to_vec()))
    };
    let rest = |index| {
        let mut writer = part(Writer::new("llama"), index);
        writer.keys.retain(|(key, _)| key.starts_with("split"));
        writer
    };
    let first = part(Writer::new("llama"), 0);
    let last = rest(2).with_tensor("rope_freqs.weight", &[2.0; 8]);
    std::fs::write(path(1), first.write()).unwrap();
    std::fs::write(path(2), rest(1).write()).unwrap();
    let message = |path: &PathBuf| File::open(path).unwrap_err().to_string();
    assert!(
        message(&path(1))
            .contains("model-00003-of-00003.gguf: must be a file that can be read, got")
    );
    std::fs::write(path(3), rest(1).write()).unwrap();
    assert!(message(&path(1)).starts_with("split.no: must be 2 in "));
    std::fs::write(path(3), last.write()).unwrap();
    let model = read_metadata(&File::open(path(1)).unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(
        model.only().unwrap().config.scaling(),
        &Scaling::FrequencyFactors(vec![2.0; 8])
    );
    assert!(message(&path(2)).starts_with("split.no: must be 0: "));
    let renamed = folder.join("model.gguf");
    std::fs::write(&renamed, first.write()).unwrap();
    assert!(message(&renamed).contains("must end in -00001-of-00003.gguf"));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(
        File::from_bytes(&first.write())
            .unwrap_err()
            .to_string()
            .starts_with("split.count: must be 1")
    );
}

#[test]
fn another_reader() {
    struct Own(BTreeMap<&'static str, Value>);
    impl Metadata for Own {
        fn value(&self, key: &str) -> Option<Value> {
            self.0.get(key).cloned()
        }
        fn tensor(&self, _: &str) -> Option<Vec<f32>> {
            None
        }
    }
    let own = Own(BTreeMap::from([
        ("general.architecture", Value::String("qwen3".into())),
        ("qwen3.block_count", Value::Signed(2)),
        (
            "qwen3.attention.head_count",
            Value::Array(vec![Value::Unsigned(8); 2]),
        ),
        ("qwen3.attention.key_length", Value::Unsigned(128)),
        ("qwen3.rope.freq_base", Value::Unsigned(1_000_000)),
    ]));
    let model = read_metadata(&own).unwrap().unwrap();
    assert_eq!(
        model.only().unwrap().config,
        RopeConfig::new(128).with_theta(1e6)
    );
}

#[test]
fn nothing_is_read_that_is_not_needed() {
    // A long tensor lies between: only its place is looked at.
    struct Counted<'a>(Cursor<&'a [u8]>, &'a std::cell::Cell<usize>);
    impl std::io::Read for Counted<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.read(into)?;
            self.1.set(self.1.get() + count);
            Ok(count)
        }
    }
    impl std::io::Seek for Counted<'_> {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let bytes = Writer::new("llama")
        .with_tensor("token_embd.weight", &vec![0.0; 1 << 20])
        .with_tensor("rope_freqs.weight", &[2.0; 8])
        .write();
    let count = std::cell::Cell::new(0);
    let file = File::read(Counted(Cursor::new(&bytes), &count)).unwrap();
    assert_eq!(file.tensor("rope_freqs.weight"), Some(vec![2.0; 8]));
    assert!(count.get() < 32_768, "{}", count.get());
}

/// `architectures.md`, which is part of the documentation.
fn table() -> String {
    let list = |matches: &dyn Fn(&Architecture) -> bool| {
        let names: Vec<_> = ARCHITECTURES
            .iter()
            .filter(|architecture| matches(architecture))
            .map(|architecture| format!("`{}`", architecture.name))
            .collect();
        names.join(", ")
    };
    let is_refused = |one: &Architecture| matches!(one.habit, Some(Habit::Refused(_)));
    let is_still = |one: &Architecture| {
        !is_refused(one) && (one.order == Order::None || one.habit == Some(Habit::NeverRotates))
    };
    let of = |order: Order| list(&|one| one.order == order && !is_still(one) && !is_refused(one));
    let rows = [
        ("interleaved (NORM)", of(Order::Norm)),
        ("half-split (NEOX)", of(Order::Neox)),
        ("half-split, axes by sections (MROPE)", of(Order::Mrope)),
        ("half-split, axes by turns (IMROPE)", of(Order::Imrope)),
        (
            "as MROPE where the file has sections, else NORM",
            of(Order::MropeOrNorm),
        ),
        (
            "as MROPE where the file has sections, else NEOX",
            of(Order::MropeOrNeox),
        ),
        (
            "as MROPE where the file has sections, else NORM with hyper-connections, else NEOX",
            of(Order::Draft),
        ),
        ("no RoPE", list(&is_still)),
        ("refused", list(&is_refused)),
    ];
    let rows = rows.map(|(what, names)| format!("| {what} | {names} |\n"));
    format!("| pairs | architectures |\n|---|---|\n{}", rows.concat())
}

#[test]
fn the_documentation_lists_them() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/config/gguf/architectures.md");
    if std::env::var_os("WGPU_ROPE_BLESS").is_some() {
        std::fs::write(&path, table()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text == table(),
        "stale: run the tests with WGPU_ROPE_BLESS=1"
    );
}

#[test]
fn factors_of_the_query_are_read() {
    let scales = |writer: Writer| -> Vec<Option<QueryScaleRule>> {
        let model = writer.model();
        let layers = model.layers.iter();
        layers.map(|&kind| model.kinds[kind].query_scale).collect()
    };
    let llama4 = QueryScaleRule::Llama4 {
        floor_scale: 8192,
        attn_scale: 0.1,
    };
    assert_eq!(
        scales(Writer::new("llama4")),
        [None, None, None, Some(llama4)]
    );
    let unslid = Writer::new("llama4").with("attention.sliding_window", U32(0));
    assert_eq!(scales(unslid), [None; 4]);
    let ministral = |original_max_position_embeddings| {
        Some(QueryScaleRule::Ministral3 {
            beta: 0.5,
            original_max_position_embeddings,
        })
    };
    let mistral3 = || Writer::new("mistral3").with("attention.temperature_scale", F32(0.5));
    let with_length = mistral3().with("rope.scaling.original_context_length", U32(16_384));
    assert_eq!(scales(with_length), [ministral(16_384); 4]);
    let whole = mistral3().with("context_length", U32(4096));
    assert_eq!(scales(whole), [ministral(4096); 4]);
    assert_eq!(scales(Writer::new("mistral3")), [None; 4]);
    // Keys of others.
    let llama = Writer::new("llama").with("attention.temperature_scale", F32(0.5));
    assert_eq!(scales(llama), [None; 4]);
}
