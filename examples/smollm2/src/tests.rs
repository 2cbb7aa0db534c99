//! The model against candle's f32 operations on the CPU. `cargo xtask smollm2 --test` fetches the model and runs these.
#![expect(clippy::cast_possible_truncation, reason = "f64 to f32")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use clap::Parser;
use indicatif::ProgressBar;
use wgpu_rope::{Frequencies, TableSpec};

use crate::file::{ModelFile, Result};
use crate::gpu::{Gpu, watched};
use crate::model::Model;
use crate::reference::Reference;
use crate::text::Text;
use crate::{Options, best, run, sample};

/// Of 20 to 200 tokens.
const PROMPTS: [&str; 3] = [
    "Once upon a time, in a small village at the foot of the mountains, there lived an old clockmaker who",
    "The water cycle describes how water moves on, above and below the surface of the Earth. The sun warms the oceans, and water \
     evaporates into the air. The vapour rises, cools, and condenses into clouds. When the drops are heavy enough they fall as \
     rain or snow. Some of it runs into rivers and back to the sea; some of it sinks into the ground, where it",
    "# A list of the first prime numbers and some facts about them\n\n2 is the only even prime number. 3 is the first odd one. 5 and 7 are \
     twins, and so are 11 and 13, 17 and 19, 29 and 31. Nobody knows whether there are infinitely many of such pairs. Euclid showed \
     more than 2,000 years ago that there is no largest prime: multiply all those that you know, add 1, and whatever divides the \
     result is a prime that you did not know. The sieve of Eratosthenes finds all primes up to a number by striking out the \
     multiples of each prime in turn. What is left when the square of the next prime is larger than that number is prime. For \
     example, the primes below 30 are",
];

/// The file that `cargo xtask smollm2 --test` has fetched.
fn open() -> ModelFile {
    ModelFile::open(&path()).unwrap()
}

fn path() -> PathBuf {
    let path = env::var_os("SMOLLM2_GGUF").map(PathBuf::from);
    path.expect("SMOLLM2_GGUF names the model's file")
}

fn load(capacity: u32) -> Model {
    Model::load(&open(), capacity, &ProgressBar::hidden()).unwrap()
}

/// What logits may differ by, as a part of the distance of the smallest and the largest. Thirty layers have seven sums one behind the other, of at
/// most 1,536 products. A rounding is 2^-24, and as errors go either way those of n add up to sqrt(n): sqrt(30 * 7 * 1536) * 2^-24 = 3.4e-5.
/// A tenth of that is seen.
const PART: f32 = 5e-5;

fn allowed(logits: &[f32]) -> f32 {
    let smallest = logits.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert!(smallest.is_finite() && largest.is_finite() && smallest < largest);
    PART * (largest - smallest)
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
#[ignore = "needs the model"]
fn the_words_are_those_of_f32_on_the_cpu() {
    let mut file = open();
    let text = Text::new(&mut file).unwrap();
    let mut reference = Reference::load(&file).unwrap();
    let mut model = load(512);
    let (mut decoded, mut decode) = (0, Duration::ZERO);
    for prompt in PROMPTS {
        let prompt = text.encode(prompt).unwrap();
        assert!(
            (20..=200).contains(&prompt.len()),
            "{} tokens",
            prompt.len()
        );
        model.reset();
        reference.reset();
        let mut expected = reference.read(&prompt).unwrap();
        let mut logits = model.read(&prompt).unwrap();
        let after_prompt = difference(&logits, &expected) / allowed(&expected);
        assert!(after_prompt <= 1.0, "{after_prompt}");

        let (mut tokens, mut worst) = (Vec::new(), after_prompt);
        let mut is_same = true;
        while tokens.len() < 64 {
            let (own, two) = (best(&logits, 1)[0].0, best(&expected, 2));
            if own != two[0].0 {
                // Only where the reference itself can hardly tell them apart; from there on texts differ.
                let is_near = two[0].1 - two[1].1 < allowed(&expected);
                assert!(is_near && own == two[1].0, "{own} is not {two:?}");
                is_same = false;
                break;
            }
            tokens.push(own);
            expected = reference.read(&[own]).unwrap();
            let start = Instant::now();
            logits = model.read(&[own]).unwrap();
            decode += start.elapsed();
            decoded += 1;
            worst = worst.max(difference(&logits, &expected) / allowed(&expected));
        }
        assert!(worst <= 1.0, "{worst}");
        eprintln!(
            "{} tokens, then {} equal ones (all: {is_same}); logits differ by {:.1e} of their range after the prompt, {:.1e} at most\n{tokens:?}\n{}",
            prompt.len(),
            tokens.len(),
            after_prompt * PART,
            worst * PART,
            text.tokenizer.decode(&tokens, true).unwrap(),
        );
    }
    // Two a second is what is asked of software drivers on two cores.
    let rate = f64::from(decoded) / decode.as_secs_f64();
    eprintln!("{decoded} tokens generated, {rate:.1} a second");
    assert!(rate >= 2.0, "{rate}");
}

#[test]
#[ignore = "needs the model"]
fn the_program_prints_text_logits_and_tokens() {
    let end = Text::new(&mut open()).unwrap();
    let said = |arguments: &[&str]| {
        let path = path();
        let own = ["smollm2", "--print-logits", "--print-tokens", "--model"].map(Into::into);
        let all = own.into_iter().chain([path.into_os_string()]);
        let options = Options::parse_from(all.chain(arguments.iter().map(Into::into)));
        let mut out = Vec::new();
        run(&options, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let (text, tokens) = out.trim_end().rsplit_once('\n').unwrap();
        let (text, logits) = text.rsplit_once('\n').unwrap();
        let logits: Vec<(u32, f32)> = serde_json::from_str(logits).unwrap();
        let tokens: Vec<u32> = serde_json::from_str(tokens).unwrap();
        assert_eq!(logits.len(), 10);
        assert!(logits.is_sorted_by(|a, b| a.1 >= b.1), "{logits:?}");
        assert_eq!(tokens.first(), Some(&logits[0].0));
        (text.to_owned(), tokens)
    };
    let prompt = "The capital of France is";
    let (text, tokens) = said(&[prompt, "--max-tokens", "3"]);
    assert_eq!(tokens.len(), 3);
    let words = end.tokenizer.decode(&tokens, true).unwrap();
    assert_eq!(text, format!("{prompt}{words}"));

    // An answer ends by itself, and goes on where that is not looked at.
    let chat = ["Say hello.", "--chat", "--max-tokens", "64"];
    let (answer, tokens) = said(&chat);
    assert!((1..64).contains(&tokens.len()), "{answer}");
    let (longer, more) = said(&[&chat[..], &["--ignore-eos"]].concat());
    assert_eq!(more.len(), 64);
    assert!(more.starts_with(&tokens) && longer.starts_with(&answer));
    assert!(end.is_end(more[tokens.len()]));
    assert!(!tokens.iter().any(|&id| end.is_end(id)));
}

#[test]
fn tokens_are_drawn_by_softmax() {
    const DRAWS: u32 = 100_000;
    let logits = [0.5, -0.25, 1.0];
    for temperature in [0.5, 1.0, 2.0] {
        let mut random = fastrand::Rng::with_seed(5);
        let mut counts = [0; 3];
        for _ in 0..DRAWS {
            counts[sample(&logits, temperature, &mut random).unwrap() as usize] += 1;
        }
        let weights = logits.map(|logit| f64::from(logit / temperature).exp());
        for (count, weight) in counts.into_iter().zip(weights) {
            let share = weight / weights.iter().sum::<f64>();
            // Five standard deviations of a binomial count, which one of two million goes past.
            let bound = 5.0 * (f64::from(DRAWS) * share * (1.0 - share)).sqrt();
            let off = f64::from(count) - f64::from(DRAWS) * share;
            assert!(off.abs() <= bound, "{temperature}: {counts:?}");
        }
    }
}

#[test]
fn without_temperature_the_first_of_the_best_is_taken() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut take = |logits: &[f32], temperature| sample(logits, temperature, &mut random);
    assert_eq!(take(&[-1.0, 2.0, 0.0, 2.0], 0.0).unwrap(), 1);
    // So small a temperature is as good as none.
    assert_eq!(take(&[-1.0, 2.0, 3.0], f32::MIN_POSITIVE).unwrap(), 2);
    for logits in [&[0.0, f32::NAN, 1.0][..], &[f32::INFINITY, 0.0], &[]] {
        assert!(take(logits, 0.0).is_err() && take(logits, 1.0).is_err());
    }
}

#[test]
#[ignore = "needs the model"]
fn a_prompt_at_once_or_token_by_token_is_the_same() {
    let text = Text::new(&mut open()).unwrap();
    let prompt = text.encode(PROMPTS[1]).unwrap();
    // More than one chunk, and one that is not full.
    assert!(prompt.len() > 64 && !prompt.len().is_multiple_of(64));
    let mut model = load(256);
    let mut generate = |at_once: bool| {
        model.reset();
        let mut logits = Vec::new();
        for ids in prompt.chunks(if at_once { prompt.len() } else { 1 }) {
            logits = model.read(ids).unwrap();
        }
        let after_prompt = logits.clone();
        let tokens: Vec<u32> = (0..24)
            .map(|_| {
                let id = best(&logits, 1)[0].0;
                logits = model.read(&[id]).unwrap();
                id
            })
            .collect();
        (after_prompt, tokens)
    };
    let (at_once, by_token) = (generate(true), generate(false));
    assert_eq!(at_once.1, by_token.1);
    let differ = difference(&at_once.0, &by_token.0) / allowed(&by_token.0);
    eprintln!("logits differ by {:.1e} of their range", differ * PART);
    assert!(differ <= 1.0, "{differ}");
}

#[test]
#[ignore = "needs the model"]
fn shifted_keys_are_those_of_f64() {
    const CAPACITY: u32 = 256;
    let mut file = open();
    let shape = file.shape().unwrap();
    let text = Text::new(&mut file).unwrap();
    let mut model = load(CAPACITY);
    // As long as the cache.
    let all: Vec<u32> = text.encode(&PROMPTS.concat().repeat(2)).unwrap();
    let mut logits = model.read(&all[..CAPACITY as usize]).unwrap();
    // Two shifts, with tokens of the model's own in between.
    for shift in 1..=2 {
        assert_eq!(model.shifts(), shift - 1);
        let id = best(&logits, 1)[0].0;
        let layers = 0..shape.layers as usize;
        let before: Vec<_> = layers
            .clone()
            .map(|layer| model.keys(layer).unwrap())
            .collect();
        let shifted = model.read(&[id]).unwrap();
        assert_eq!(model.shifts(), shift);
        let after: Vec<_> = layers
            .clone()
            .map(|layer| model.keys(layer).unwrap())
            .collect();

        // The same by hand: keys of the kept tokens turned back by 128 positions in f64. The new token's slot is overwritten again.
        let kept = model.kept();
        let kept: Vec<u32> = (kept.start..kept.end - 1)
            .map(|token| token % CAPACITY)
            .collect();
        assert_eq!(kept.len(), 128);
        let mut worst = 0.0_f64;
        for layer in layers.clone() {
            let mut keys = before[layer].clone();
            let token = (shape.key_heads * shape.head_dim) as usize;
            for &slot in &kept {
                let own = slot as usize * token..(slot as usize + 1) * token;
                for (head, got) in keys[own.clone()]
                    .chunks_mut(shape.head_dim as usize)
                    .zip(after[layer][own].chunks(shape.head_dim as usize))
                {
                    turn_back(head, 100_000.0, f64::from(CAPACITY / 2));
                    for (expected, got) in head.chunks(2).zip(got.chunks(2)) {
                        let length = f64::from(expected[0]).hypot(f64::from(expected[1]));
                        for (expected, got) in expected.iter().zip(got) {
                            let error = f64::from(expected - got).abs();
                            worst = worst.max(error / (length * 2_f64.powi(-24)));
                        }
                    }
                }
            }
            model.set_keys(layer, &keys);
        }
        // In units u = 2^-24 of a pair's length: a rotation in f32 is off by 3.01 u (entries, products and sum are rounded), the one in
        // f64 by 1 u where it is rounded to f32.
        assert!(worst <= 4.01, "{worst}");
        model.take_back();
        let by_hand = model.read(&[id]).unwrap();
        let differ = difference(&shifted, &by_hand) / allowed(&by_hand);
        assert!(differ <= 1.0, "{differ}");

        // Not shifted at all they would be others.
        for (layer, keys) in layers.zip(&before) {
            model.set_keys(layer, keys);
        }
        model.take_back();
        let unshifted = model.read(&[id]).unwrap();
        let would = difference(&unshifted, &by_hand) / allowed(&by_hand);
        assert!(would > 10.0, "{would}");
        eprintln!(
            "shift {shift}: keys differ by {worst:.2} u of 4.01, logits by {:.1e} of their range; without a shift by {:.1e}",
            differ * PART,
            would * PART
        );
        // On with the shifted keys, until the cache is full again.
        for (layer, keys) in after.iter().enumerate() {
            model.set_keys(layer, keys);
        }
        model.take_back();
        logits = model.read(&[id]).unwrap();
        assert_eq!(difference(&logits, &shifted), 0.0);
        if shift == 2 {
            break;
        }
        for _ in 1..CAPACITY / 2 {
            let id = best(&logits, 1)[0].0;
            logits = model.read(&[id]).unwrap();
        }
    }
}

/// Turns neighbouring channels back by so many positions.
fn turn_back(head: &mut [f32], base: f64, positions: f64) {
    let dim = head.len() as f64;
    for (pair, channels) in head.chunks_mut(2).enumerate() {
        let (sin, cos) = (-positions * base.powf(-2.0 * pair as f64 / dim)).sin_cos();
        let [x, y] = [0, 1].map(|c| f64::from(channels[c]));
        channels[0] = (x * cos - y * sin) as f32;
        channels[1] = (x * sin + y * cos) as f32;
    }
}

#[test]
#[ignore = "needs the model"]
fn tokens_are_the_model_s() {
    let text = Text::new(&mut open()).unwrap();
    // Each digit is a token, and a space goes with its word.
    let ids = text.encode("In 2024, it's 31 km").unwrap();
    let tokens: Vec<_> = ids
        .iter()
        .map(|&id| text.tokenizer.id_to_token(id).unwrap())
        .collect();
    let expected = [
        "In", "Ġ", "2", "0", "2", "4", ",", "Ġit", "'s", "Ġ", "3", "1", "Ġkm",
    ];
    assert_eq!(tokens, expected);
    for prompt in PROMPTS {
        let ids = text.encode(prompt).unwrap();
        assert_eq!(text.tokenizer.decode(&ids, true).unwrap(), prompt);
    }
    let chat = text.chat("Hello").unwrap();
    assert!(chat.starts_with("<|im_start|>system\n"), "{chat}");
    assert!(
        chat.ends_with("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
        "{chat}"
    );
    assert_eq!(text.encode(&chat).unwrap()[0], 1);
    // <|im_end|> is named by the file, <|endoftext|> is not.
    assert!(text.is_end(2) && text.is_end(0) && !text.is_end(1));
}

/// A file with these entries and tensors.
fn file_of(
    name: &str,
    entries: &[(&str, Value)],
    tensors: &[(String, QTensor)],
) -> (PathBuf, Result<ModelFile>) {
    let path = env::temp_dir().join(format!("wgpu-rope-{name}-{}.gguf", std::process::id()));
    let entries: Vec<_> = entries.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut out = fs::File::create(&path).unwrap();
    gguf_file::write(&mut out, &entries, &tensors).unwrap();
    let file = ModelFile::open(&path);
    (path, file)
}

/// A file of the Llama architecture, without layers, that has these entries too, or in place of its own.
fn file(name: &str, others: &[(&'static str, Value)]) -> (PathBuf, Result<ModelFile>) {
    let sizes = Sizes {
        heads: 1,
        key_heads: 1,
        head_dim: 64,
        channels: 64,
        feed_forward: 64,
        vocabulary: 8,
        has_output: false,
    };
    let mut entries = sizes.entries();
    entries.retain(|(key, _)| others.iter().all(|(other, _)| other != key));
    entries.extend_from_slice(others);
    let embedding = Tensor::zeros((8, 64), DType::F32, &Device::Cpu).unwrap();
    let embedding = QTensor::quantize(&embedding, GgmlDType::F32).unwrap();
    file_of(
        name,
        &entries,
        &[("token_embd.weight".to_owned(), embedding)],
    )
}

/// The sizes of a model.
struct Sizes {
    heads: u32,
    key_heads: u32,
    head_dim: u32,
    channels: u32,
    feed_forward: u32,
    vocabulary: u32,
    has_output: bool,
}

impl Sizes {
    /// What a file says of them.
    fn entries(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("general.architecture", Value::String("llama".to_owned())),
            ("llama.block_count", Value::U32(2)),
            ("llama.embedding_length", Value::U32(self.channels)),
            ("llama.feed_forward_length", Value::U32(self.feed_forward)),
            ("llama.attention.head_count", Value::U32(self.heads)),
            ("llama.attention.head_count_kv", Value::U32(self.key_heads)),
            ("llama.attention.key_length", Value::U32(self.head_dim)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.context_length", Value::U32(64)),
            ("llama.rope.dimension_count", Value::U32(self.head_dim)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
        ]
    }
}

/// A model of two layers with random weights, and what candle makes of the same file.
fn random_model(name: &str, sizes: &Sizes) -> (Model, Reference) {
    let mut random = fastrand::Rng::with_seed(7);
    let mut tensors = Vec::new();
    let mut tensor = |name: String, shape: &[u32]| {
        let shape: Vec<_> = shape.iter().map(|&size| size as usize).collect();
        let values: Vec<f32> = if let [inputs] = shape[..] {
            (0..inputs).map(|_| 0.5 + random.f32()).collect()
        } else {
            // Sums that are about as large as what goes into them.
            let scale = (3.0 / shape[1] as f32).sqrt();
            let count = shape.iter().product();
            (0..count)
                .map(|_| scale * (2.0 * random.f32() - 1.0))
                .collect()
        };
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    };
    let &Sizes {
        heads,
        key_heads,
        head_dim,
        channels,
        feed_forward,
        vocabulary,
        has_output,
    } = sizes;
    tensor("token_embd.weight".to_owned(), &[vocabulary, channels]);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensor(name("attn_norm"), &[channels]);
        tensor(name("attn_q"), &[heads * head_dim, channels]);
        tensor(name("attn_k"), &[key_heads * head_dim, channels]);
        tensor(name("attn_v"), &[key_heads * head_dim, channels]);
        tensor(name("attn_output"), &[channels, heads * head_dim]);
        tensor(name("ffn_norm"), &[channels]);
        tensor(name("ffn_gate"), &[feed_forward, channels]);
        tensor(name("ffn_up"), &[feed_forward, channels]);
        tensor(name("ffn_down"), &[channels, feed_forward]);
    }
    tensor("output_norm.weight".to_owned(), &[channels]);
    if has_output {
        tensor("output.weight".to_owned(), &[vocabulary, channels]);
    }
    let (path, file) = file_of(name, &sizes.entries(), &tensors);
    let file = file.unwrap();
    let reference = Reference::load(&file).unwrap();
    let model = Model::load(&file, 27, &ProgressBar::hidden()).unwrap();
    fs::remove_file(path).unwrap();
    (model, reference)
}

#[test]
fn other_shapes_have_the_logits_of_f32_on_the_cpu() {
    let shapes = [
        // Heads wider than a workgroup, all with keys of their own; wider than the channels; a vocabulary that is not in fours.
        Sizes {
            heads: 3,
            key_heads: 3,
            head_dim: 80,
            channels: 100,
            feed_forward: 36,
            vocabulary: 1027,
            has_output: true,
        },
        // An odd number of quads, small heads that share keys, one matrix for embedding and output.
        Sizes {
            heads: 4,
            key_heads: 2,
            head_dim: 20,
            channels: 60,
            feed_forward: 100,
            vocabulary: 50,
            has_output: false,
        },
        Sizes {
            heads: 2,
            key_heads: 1,
            head_dim: 256,
            channels: 12,
            feed_forward: 4,
            vocabulary: 9,
            has_output: true,
        },
    ];
    for (number, sizes) in shapes.iter().enumerate() {
        let (mut model, mut reference) = random_model(&format!("random-{number}"), sizes);
        let mut random = fastrand::Rng::with_seed(11);
        // One token, a chunk of 13 that is full and one that is not, one more; then past the 27 slots of the cache.
        for tokens in [1, 17, 8, 1] {
            let ids: Vec<_> = (0..tokens)
                .map(|_| random.u32(..sizes.vocabulary))
                .collect();
            let expected = reference.read(&ids).unwrap();
            let logits = model.read(&ids).unwrap();
            // There are fewer and shorter sums here than in the model.
            let differ = difference(&logits, &expected) / allowed(&expected);
            assert!(differ <= 1.0, "shape {number}, {tokens} tokens: {differ}");
            eprintln!(
                "shape {number}, {tokens} tokens: logits differ by {:.1e} of their range",
                differ * PART
            );
        }
        assert_eq!(model.shifts(), 0);
        let logits = model.read(&[0]).unwrap();
        assert!(logits.iter().all(|logit| logit.is_finite()));
        assert_eq!(
            (model.shifts(), logits.len()),
            (1, sizes.vocabulary as usize)
        );
    }
}

fn strings(values: &[&str]) -> Value {
    Value::Array(
        values
            .iter()
            .map(|&value| Value::String(value.to_owned()))
            .collect(),
    )
}

#[test]
fn sentence_piece_merges_by_score() {
    let name = |name: &str| Value::String(name.to_owned());
    let tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0xC3>",
        "<0xA9>",
        "\u{2581}",
        "a",
        "b",
        "ab",
        "\u{2581}a",
        "ba",
        "bab",
    ];
    let scores = [
        0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -3.0, -4.0, -2.0, -1.0,
    ];
    let types = [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1];
    let entries = [
        ("tokenizer.ggml.model", name("llama")),
        ("tokenizer.ggml.tokens", strings(&tokens)),
        (
            "tokenizer.ggml.scores",
            Value::Array(scores.map(Value::F32).to_vec()),
        ),
        (
            "tokenizer.ggml.token_type",
            Value::Array(types.map(Value::I32).to_vec()),
        ),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
    ];
    let (path, file) = file("sentence-piece", &entries);
    let text = Text::new(&mut file.unwrap()).unwrap();
    let tokens = |given: &str| -> Vec<String> {
        let ids = text.encode(given).unwrap();
        ids.into_iter()
            .map(|id| text.tokenizer.id_to_token(id).unwrap())
            .collect()
    };
    // "ba" before "ab" before "▁a"; then "bab" of "ba" and "b".
    assert_eq!(tokens("abab"), ["<s>", "\u{2581}a", "bab"]);
    // What is no token is bytes.
    assert_eq!(tokens("a\u{e9}"), ["<s>", "\u{2581}a", "<0xC3>", "<0xA9>"]);
    let ids = text.encode("ab a\u{e9}b").unwrap();
    assert_eq!(text.tokenizer.decode(&ids, true).unwrap(), "ab a\u{e9}b");
    assert!(text.is_end(2) && !text.is_end(1));
    // Of "é" there is only the first byte.
    assert_eq!(text.rest(&ids[..5], 4).unwrap(), "\u{fffd}");
    assert_eq!(text.rest(&ids, 7).unwrap(), "");
    fs::remove_file(path).unwrap();
}

#[test]
fn llama_3_begins_texts_and_knows_whole_words() {
    let name = |name: &str| Value::String(name.to_owned());
    let tokens = [
        "a",
        "b",
        "c",
        "ab",
        "abc",
        "<|begin|>",
        "<|stop|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "</s>",
    ];
    let types = [1, 1, 1, 1, 1, 3, 3, 3, 3, 1];
    let template = "{{ bos_token }}{% for m in messages %}{{ m['content'].strip() }}{% break %}{% endfor %}\
                    {% if strftime_now is defined or tools is defined %}{{ tools | tojson }}{% endif %}";
    let entries = |split: &str| {
        [
            ("tokenizer.ggml.model", name("gpt2")),
            ("tokenizer.ggml.pre", name(split)),
            ("tokenizer.ggml.tokens", strings(&tokens)),
            ("tokenizer.ggml.merges", strings(&["a b"])),
            (
                "tokenizer.ggml.token_type",
                Value::Array(types.map(Value::I32).to_vec()),
            ),
            ("tokenizer.ggml.bos_token_id", Value::U32(5)),
            ("tokenizer.ggml.eos_token_id", Value::U32(6)),
            ("tokenizer.chat_template", name(template)),
        ]
    };
    // No merge leads to "abc", and the file says nothing of what texts begin with.
    for (split, expected) in [("llama-bpe", &[5, 4][..]), ("gpt-2", &[3, 2])] {
        let (path, file) = file(split, &entries(split));
        let text = Text::new(&mut file.unwrap()).unwrap();
        assert_eq!(text.encode("abc").unwrap(), expected, "{split}");
        // The template names it, whether or not texts begin with it by themselves.
        let chat = text.chat(" abc ").unwrap();
        assert_eq!(chat, "<|begin|>abc");
        let words = expected.strip_prefix(&[5]).unwrap_or(expected);
        assert_eq!(text.encode(&chat).unwrap(), [&[5], words].concat());
        // One that the file names, and those of control that are called so.
        let ends: Vec<u32> = (0..10).filter(|&id| text.is_end(id)).collect();
        assert_eq!(ends, [6, 7, 8], "{split}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn other_files_are_refused() {
    let text = |text: &str| Value::String(text.to_owned());
    let says = |path: &Path, result: Result<()>, parts: &[&str]| {
        let error = result.unwrap_err().to_string();
        let file = path.display().to_string();
        for part in parts.iter().copied().chain([file.as_str()]) {
            assert!(error.contains(part), "{part}: {error}");
        }
    };
    let open = |path: &Path| ModelFile::open(path).map(|_| ());
    let none = Path::new("/no/such/file");
    says(none, open(none), &[]);

    // What the whole file is of.
    let size = Value::U32;
    let heads = "llama.attention.head_count";
    for (entries, part) in [
        (vec![("general.architecture", text("gemma3"))], "gemma3"),
        (vec![("general.architecture", size(1))], "architecture"),
        (vec![("split.count", size(2))], "part"),
        (vec![(heads, text("one"))], heads),
        (vec![(heads, size(0))], "heads"),
        (
            vec![(heads, size(3)), ("llama.attention.head_count_kv", size(2))],
            "heads",
        ),
        (
            vec![("llama.feed_forward_length", size(1 << 31))],
            "feed_forward",
        ),
        (
            vec![
                (heads, size(1 << 30)),
                ("llama.attention.head_count_kv", size(1 << 30)),
            ],
            "heads",
        ),
        (
            vec![("llama.embedding_length", size(u32::MAX - 3))],
            "channels",
        ),
        (
            vec![("llama.rope.scaling.type", text("twisted"))],
            "rope.scaling.type",
        ),
    ] {
        let (path, file) = file("other", &entries);
        says(&path, file.map(|_| ()), &[part]);
        fs::remove_file(path).unwrap();
    }

    // Tokenizers.
    let model = "tokenizer.ggml.model";
    let split = "tokenizer.ggml.pre";
    for (entries, parts) in [
        (vec![], [model, ""]),
        (vec![(model, text("bert"))], [model, "bert"]),
        (vec![(model, text("gpt2"))], [split, ""]),
        (
            vec![
                (model, text("gpt2")),
                (split, text("default")),
                ("tokenizer.ggml.tokens", strings(&["a"])),
                ("tokenizer.ggml.merges", strings(&[])),
            ],
            [split, "default"],
        ),
    ] {
        let (path, file) = file("tokenizer", &entries);
        says(&path, Text::new(&mut file.unwrap()).map(|_| ()), &parts);
        fs::remove_file(path).unwrap();
    }

    // A tensor that is cut off, is of another shape or missing, or of a type that nobody knows.
    let (path, file) = file("tensors", &[]);
    let file = file.unwrap();
    let name = "token_embd.weight";
    says(
        &path,
        file.tensor(name, &[8, 32]).map(|_| ()),
        &[name, "[8, 32]"],
    );
    says(
        &path,
        file.tensor("output.weight", &[8]).map(|_| ()),
        &["output.weight"],
    );
    let mut bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    says(&path, file.tensor(name, &[8, 64]).map(|_| ()), &[name]);
    // Behind the name are the number of dimensions, two of these, and the type.
    let at = bytes
        .windows(name.len())
        .position(|window| window == name.as_bytes());
    bytes[at.unwrap() + name.len() + 20] = 23;
    fs::write(&path, &bytes).unwrap();
    says(&path, open(&path), &["type 23;", "Q4_0"]);
    fs::write(&path, b"GGML is something else").unwrap();
    says(&path, open(&path), &[]);
    fs::remove_file(path).unwrap();
}

#[test]
fn a_context_or_a_buffer_that_does_not_fit_is_an_error() {
    let (path, file) = file("context", &[]);
    let file = file.unwrap();
    for (context, part) in [(15, "16 is the least"), (1 << 31, "at most")] {
        let error = Model::load(&file, context, &ProgressBar::hidden()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    // This one fits, but there are no layers in the file.
    let error = Model::load(&file, 16, &ProgressBar::hidden()).unwrap_err();
    assert!(
        error.to_string().contains("blk.0.attn_norm.weight"),
        "{error}"
    );
    fs::remove_file(path).unwrap();

    let frequencies = Frequencies::for_length(&file.rope().unwrap().config, 16).unwrap();
    let gpu = Gpu::new(&TableSpec::new(&frequencies), 1).unwrap();
    let large = watched(&gpu.device, || Ok(gpu.buffer("large", 1 << 60)));
    assert!(large.unwrap_err().to_string().contains("large"));
}

#[test]
fn other_tensors_are_refused() {
    for name in ["blk.0.attn_q.bias", "blk.0.ffn_gate_exps.weight"] {
        let values = Tensor::zeros(32, DType::F32, &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&values, GgmlDType::F32).unwrap();
        let entries = [("general.architecture", Value::String("llama".to_owned()))];
        let (path, file) = file_of("tensors-of-others", &entries, &[(name.to_owned(), tensor)]);
        let error = file.unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        fs::remove_file(path).unwrap();
    }
}
