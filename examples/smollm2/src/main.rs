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
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::file::{ModelFile, Result};
use crate::model::{CHUNK, Model, check_context};
use crate::text::Text;

/// Continues a text
#[derive(Debug, Parser)]
#[command(
    name = "smollm2",
    after_help = "Control tokens written out in the prompt, such as <|im_end|>, are read as such.\n\
                  WGPU_BACKEND and WGPU_ADAPTER_NAME choose the GPU."
)]
struct Options {
    /// The text to continue, or with --chat the message to answer
    prompt: String,
    /// A GGUF file of the Llama architecture (`cargo xtask smollm2` supplies one by default)
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// 0 is greedy; 1 samples the model's own distribution
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Seed for sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many tokens the model looks back on. When the cache is full, the older half is dropped [default: what the model was trained
    /// for, at most 2048]
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// Put the prompt into the model's chat template
    #[arg(long)]
    chat: bool,
    /// Keep generating after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Print the 10 best logits after the prompt, as a line [[id, logit], …]
    #[arg(long)]
    print_logits: bool,
    /// Print the ids of the generated tokens, as a line [id, …]
    #[arg(long)]
    print_tokens: bool,
}

fn main() -> ExitCode {
    // For `cargo xtask smollm2`, which installs a driver where there is none.
    if env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == "--probe")
    {
        println!("{}", gpu::kind());
        return ExitCode::SUCCESS;
    }
    match run(&Options::parse(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the text to `out`, and all else to the standard error.
fn run(options: &Options, out: &mut impl Write) -> Result<()> {
    let (file, text, prompt, context) = open(options)?;
    let start = Instant::now();
    let loading = progress(file.f32_bytes(), "loading {wide_bar} {bytes}/{total_bytes}");
    let mut model = Model::load(&file, context, &loading)?;
    loading.finish_and_clear();
    let info = model.adapter();
    eprintln!(
        "{} ({}), loaded in {:.1?}",
        info.name,
        info.backend,
        start.elapsed()
    );

    let reading = if prompt.len() > CHUNK as usize {
        let template = "reading the prompt {wide_bar} {pos}/{len} tokens";
        progress(prompt.len() as u64, template)
    } else {
        ProgressBar::hidden()
    };
    let echo = if options.chat { "" } else { &options.prompt };
    // Print the prompt before reading it, unless a progress bar would overwrite it.
    if reading.is_hidden() {
        write!(out, "{echo}")?;
        out.flush()?;
    }
    let start = Instant::now();
    let mut logits = model.read_prompt(&prompt, &reading)?;
    let prefill = start.elapsed();
    if !reading.is_hidden() {
        reading.finish_and_clear();
        write!(out, "{echo}")?;
        out.flush()?;
    }
    let best = best(&logits, 10);

    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut words = text.tokenizer.decode_stream(true);
    // The ids decoded so far, and how many bytes the stream has given.
    let (mut ids, mut given) = (Vec::new(), 0);
    if !options.chat {
        // What is generated continues the prompt, its first space included.
        for &id in &prompt {
            given += words.step(id)?.map_or(0, |word| word.len());
        }
        ids.clone_from(&prompt);
    }
    let mut generated = Vec::new();
    let start = Instant::now();
    let mut steps = 0;
    while generated.len() < options.max_tokens {
        let id = sample(&logits, options.temperature, &mut random)?;
        if text.is_end(id) && !options.ignore_eos {
            break;
        }
        generated.push(id);
        if let Some(word) = words.step(id)? {
            given += word.len();
            write!(out, "{word}")?;
            out.flush()?;
        }
        if generated.len() < options.max_tokens {
            logits = model.read(&[id])?;
            steps += 1;
        }
    }
    let decode = start.elapsed();
    ids.extend(&generated);
    writeln!(out, "{}", text.rest(&ids, given)?)?;
    if options.print_logits {
        writeln!(out, "{}", serde_json::to_string(&best)?)?;
    }
    if options.print_tokens {
        writeln!(out, "{}", serde_json::to_string(&generated)?)?;
    }
    let rate = |tokens: usize, time: Duration| match tokens {
        0 => String::new(),
        _ => format!(" ({:.1} per second)", tokens as f64 / time.as_secs_f64()),
    };
    let shifts = match model.shifts() {
        0 => String::new(),
        shifts => format!("; context shifts: {shifts}"),
    };
    eprintln!(
        "prompt tokens: {}{}; generated tokens: {}{}{shifts}",
        prompt.len(),
        rate(prompt.len(), prefill),
        generated.len(),
        rate(steps, decode),
    );
    Ok(())
}

/// The model's file with its tokenizer, the tokens of the prompt, and how many the cache is to hold.
fn open(options: &Options) -> Result<(ModelFile, Text, Vec<u32>, u32)> {
    if !(options.temperature >= 0.0 && options.temperature.is_finite()) {
        return Err("--temperature must be a number, 0 or more".into());
    }
    let mut file = ModelFile::open(&options.model)?;
    let trained = file.shape()?.context;
    let context = options.context.unwrap_or(trained.min(2048));
    check_context(context)?;
    let text = Text::new(&mut file)?;
    let prompt = if options.chat {
        text.encode(&text.chat(&options.prompt)?)?
    } else {
        text.encode(&options.prompt)?
    };
    let length = prompt.len();
    if length == 0 {
        return Err("the prompt is empty".into());
    }
    if length > context as usize {
        return Err(format!(
            "the prompt's {length} tokens do not fit into a context of {context}: choose a larger --context"
        )
        .into());
    }
    if context > trained {
        eprintln!(
            "warning: the model was trained for a context of {trained} tokens, not {context}"
        );
    }
    Ok((file, text, prompt, context))
}

/// A bar where somebody looks.
fn progress(length: u64, template: &str) -> ProgressBar {
    let progress = ProgressBar::new(length);
    if !io::stderr().is_terminal() {
        progress.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template(template);
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    progress.tick();
    progress
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
fn sample(logits: &[f32], temperature: f32, random: &mut fastrand::Rng) -> Result<u32> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err("the model's logits are not all numbers".into());
    }
    // Of equals the first.
    let larger = |best: (u32, f32), next: (u32, f32)| if next.1 > best.1 { next } else { best };
    let all = (0..).zip(logits.iter().copied());
    let (id, largest) = all.reduce(larger).ok_or("the model has no tokens")?;
    if temperature == 0.0 {
        return Ok(id);
    }
    let weight = |logit: f32| (f64::from(logit - largest) / f64::from(temperature)).exp();
    let total: f64 = logits.iter().copied().map(weight).sum();
    let mut left = random.f64() * total;
    let chosen = (0..).zip(logits).find(|&(_, &logit)| {
        left -= weight(logit);
        left < 0.0
    });
    Ok(chosen.map_or(id, |(id, _)| id))
}
