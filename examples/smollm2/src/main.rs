//! A language model on wgpu: `SmolLM2`, or another GGUF file of the Llama architecture.
//!
//! The kernels of this application are in `kernels`; everything that rotates, and everything that goes to the KV cache, goes through
//! wgpu-rope, recorded into the application's own pass. A token is one submission.
//!
//! `cargo xtask smollm2 "The capital of France is"` fetches the model once, builds and runs.

mod file;
mod gpu;
mod model;
mod text;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::file::{ModelFile, Result};
use crate::model::Model;
use crate::text::Text;

/// Goes on with a text
#[derive(Debug, Parser)]
#[command(
    name = "smollm2",
    after_help = "WGPU_BACKEND and WGPU_ADAPTER_NAME choose the GPU."
)]
struct Options {
    /// The text to go on with
    prompt: String,
    /// A GGUF file of the Llama architecture. `cargo xtask smollm2` knows one
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Tokens to generate at most
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// 0 takes the likeliest token, 1 samples as the model says
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Of the random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tokens that the cache holds. When it is full the oldest half is dropped and the keys of the others are shifted. [default: the
    /// model's own, at most 2048]
    #[arg(long)]
    context: Option<u32>,
    /// Puts the prompt into the model's chat template
    #[arg(long)]
    chat: bool,
    /// Goes on after the model's end of text
    #[arg(long)]
    ignore_eos: bool,
    /// Prints the 10 best of the logits after the prompt: a line [[id, logit], …]
    #[arg(long)]
    print_logits: bool,
    /// Prints the ids of the generated tokens: a line [id, …]
    #[arg(long)]
    print_tokens: bool,
}

fn main() -> ExitCode {
    // For `cargo xtask smollm2`, which installs a driver where there is none.
    if env::args().any(|argument| argument == "--probe") {
        println!("{}", gpu::kind());
        return ExitCode::SUCCESS;
    }
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if !(options.temperature >= 0.0 && options.temperature.is_finite()) {
        return Err("a temperature is 0 or more".into());
    }
    let mut file = ModelFile::open(&options.model)?;
    let text = Text::new(&mut file)?;
    let context = match options.context {
        Some(context) => context,
        None => file.shape()?.context.min(2048),
    };
    let prompt = if options.chat {
        text.chat(&options.prompt)?
    } else {
        options.prompt.clone()
    };
    let prompt = text.encode(&prompt)?;
    if prompt.is_empty() || prompt.len() > context as usize {
        let length = prompt.len();
        return Err(
            format!("the prompt has {length} tokens; 1 to {context} fit into the context").into(),
        );
    }

    let start = Instant::now();
    let progress = progress(file.f32_bytes());
    let mut model = Model::load(&mut file, context, &progress)?;
    progress.finish_and_clear();
    let info = model.adapter();
    eprintln!(
        "{} ({}), loaded in {:.1?}",
        info.name,
        info.backend,
        start.elapsed()
    );

    let start = Instant::now();
    let mut logits = model.read(&prompt)?;
    let prefill = start.elapsed();
    let best = best(&logits, 10);

    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut words = text.tokenizer.decode_stream(true);
    if !options.chat {
        // What is generated goes on with the prompt, its first space included.
        for &id in &prompt {
            words.step(id)?;
        }
    }
    let mut generated = Vec::new();
    let mut out = io::stdout().lock();
    if !options.chat {
        write!(out, "{}", options.prompt)?;
    }
    let start = Instant::now();
    let mut steps = 0;
    while generated.len() < options.max_tokens {
        let id = sample(&logits, options.temperature, &mut random);
        if text.is_end(id) && !options.ignore_eos {
            break;
        }
        generated.push(id);
        if let Some(word) = words.step(id)? {
            write!(out, "{word}")?;
            out.flush()?;
        }
        if generated.len() < options.max_tokens {
            logits = model.read(&[id])?;
            steps += 1;
        }
    }
    let decode = start.elapsed();
    writeln!(out)?;
    if options.print_logits {
        writeln!(out, "{}", serde_json::to_string(&best)?)?;
    }
    if options.print_tokens {
        writeln!(out, "{}", serde_json::to_string(&generated)?)?;
    }
    eprintln!(
        "prompt: {} tokens, {:.1} tokens/s; generated: {} tokens, {:.1} tokens/s; {} context shifts of {} tokens",
        prompt.len(),
        prompt.len() as f64 / prefill.as_secs_f64(),
        generated.len(),
        f64::from(steps) / decode.as_secs_f64(),
        model.shifts(),
        model.capacity() / 2,
    );
    Ok(())
}

/// A bar where somebody looks.
fn progress(bytes: u64) -> ProgressBar {
    let progress = ProgressBar::new(bytes);
    if !io::stderr().is_terminal() {
        progress.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("loading {wide_bar} {bytes}/{total_bytes}");
    progress.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The largest logits, largest first.
fn best(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    // Of equals the first is the best.
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    all.truncate(count);
    all
}

/// The next token: the likeliest, or a random one by softmax(logits / temperature).
fn sample(logits: &[f32], temperature: f32, random: &mut fastrand::Rng) -> u32 {
    // Of equals the first.
    let larger = |best: (u32, f32), next: (u32, f32)| if next.1 > best.1 { next } else { best };
    let all = (0..).zip(logits.iter().copied());
    let (id, largest) = all.reduce(larger).unwrap_or_default();
    if temperature == 0.0 {
        return id;
    }
    let weight = |logit: f32| f64::from((logit - largest) / temperature).exp();
    let total: f64 = logits.iter().copied().map(weight).sum();
    let mut left = random.f64() * total;
    let chosen = (0..).zip(logits).find(|&(_, &logit)| {
        left -= weight(logit);
        left < 0.0
    });
    chosen.map_or(id, |(id, _)| id)
}
