//! Rotates the tensors of a safetensors file as a model's config.json or GGUF file says.
//!
//! ```text
//! cargo run --release --all-features --example rotate -- --config config.json --input in.safetensors --output out.safetensors
//! ```
//!
//! `--help` lists the options. On a fault it says in one line what is wrong, exits with 2 and writes no file.
#![allow(
    unreachable_pub,
    reason = "the modules of a program: nothing is public"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool talks to its user"
)]

mod args;
mod rows;
mod source;
mod tensors;

use std::borrow::Cow;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use safetensors::{Dtype, SafeTensors, View};
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    Angles, Direction, Element, Frequencies, GpuContext, RopeConfig, RotateSpec, Rows as RowsOf,
    TableSpec, reference,
};

use args::{AnglesMode, Args};
use rows::Rows;
use source::{Cache, Source, WithValues};
use tensors::{Heads, Values, find};

/// Why nothing was written.
#[derive(Debug)]
pub struct Failure(String);

impl<T: ToString> From<T> for Failure {
    fn from(reason: T) -> Self {
        Self(reason.to_string())
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            // What stands before the first empty line says what is wrong; the rest is usage.
            let text = error.to_string();
            let lines: Vec<_> = text
                .lines()
                .take_while(|line| !line.is_empty())
                .map(str::trim)
                .collect();
            eprintln!("{}", lines.join(" ").trim_start_matches("error: "));
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(report) => {
            for line in report {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(Failure(reason)) => {
            let line: Vec<_> = reason.lines().map(str::trim).collect();
            eprintln!("{}", line.join("; "));
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<Vec<String>, Failure> {
    let bytes = read(&args.input)?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| format!("{}: {error}", args.input.display()))?;
    let mut report = Vec::new();
    let source = Source::of(args, &file, &mut report)?;
    // All tensors are looked at before the first is rotated: frequencies that depend on a length have the same for all.
    let mut tensors = Vec::new();
    let mut length = 0;
    for name in names(args, &file)? {
        let tensor = find(&file, &name)?;
        let heads = Heads::of(&name, &tensor, args.layout, |packed| {
            packed_width(args, &source, packed)
        })?;
        let rows = match &source {
            Source::Nothing(_) => None,
            _ if heads.is_empty() => None,
            source => Some(rows_of(args, &file, source, &heads)?),
        };
        length = length.max(rows.as_ref().map_or(0, |rows| rows.values.length()));
        tensors.push((heads, rows, tensor.data().to_vec()));
    }
    let length = args.length.unwrap_or(length);
    let mut device = Device::new(args);
    let mut out = Vec::new();
    for (heads, rows, mut data) in tensors {
        let name = heads.name.clone();
        let line = match (&source, rows) {
            (Source::Nothing(reason), _) => format!("{name}: copied, {reason}"),
            (_, None) => format!("{name}: copied, it is empty"),
            (source, Some(rows)) => {
                let job = Job::of(args, &file, source, &heads, rows, length)?;
                match heads.dtype {
                    Dtype::F16 => job.run::<f16>(&mut device, &mut data)?,
                    Dtype::BF16 => job.run::<bf16>(&mut device, &mut data)?,
                    _ => job.run::<f32>(&mut device, &mut data)?,
                }
                format!("{name}: {}", job.described(&heads))
            }
        };
        report.push(line);
        out.push((name, Rotated { heads, data }));
    }
    report.extend(device.name());
    write(&args.output, out)?;
    Ok(report)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The tensors to rotate.
fn names(args: &Args, file: &SafeTensors<'_>) -> Result<Vec<String>, Failure> {
    if !args.tensors.is_empty() {
        let mut names = args.tensors.clone();
        names.sort();
        names.dedup();
        return Ok(names);
    }
    let there = ["q", "k", "x"]
        .into_iter()
        .filter(|name| file.tensor(name).is_ok());
    let names: Vec<_> = there.map(str::to_owned).collect();
    if names.is_empty() {
        return Err("the input has none of q, k and x; name tensors with --tensors".into());
    }
    Ok(names)
}

/// Channels of a head of a tensor that holds all heads in its last dimension.
fn packed_width(args: &Args, source: &Source, packed: usize) -> Result<u32, Failure> {
    if let Some(width) = args.head_dim {
        return Ok(width);
    }
    match source {
        Source::Rope {
            config: Some(config),
            ..
        }
        | Source::Cached {
            config: Some(config),
            ..
        } => Ok(config.head_dim()),
        Source::Nothing(_) => u32::try_from(packed).map_err(Failure::from),
        _ => Err("--layout bsd: give the channels of a head with --head-dim".into()),
    }
}

/// One tensor's rotation, with everything known.
struct Job<'a> {
    config: RopeConfig,
    spec: RotateSpec,
    table: TableSpec,
    rows: Rows,
    cache: Option<&'a Cache>,
}

/// The rows of a tensor's tokens.
fn rows_of(
    args: &Args,
    file: &SafeTensors<'_>,
    source: &Source,
    heads: &Heads,
) -> Result<Rows, Failure> {
    match source {
        Source::Nothing(reason) => Err(reason.into()),
        Source::Rope { config, grid } => {
            let config = source::fitted(args, config.as_ref(), heads)?;
            rows::of_tensor(args, file, heads, config.axes().count(), grid.as_ref())
        }
        Source::Pairs(list) => {
            if list.tokens != heads.tokens as usize
                || (list.entries != 1 && list.entries != heads.batch as usize)
            {
                return Err(format!(
                    "pos_axes_f64: must be [axes, {} or 1, {}] for {}, got {} and {}",
                    heads.batch, heads.tokens, heads.name, list.entries, list.tokens
                )
                .into());
            }
            Ok(Rows {
                values: list.positions.clone(),
                single: false,
                batched: list.entries > 1,
                prefix: 0,
                suffix: 0,
            })
        }
        Source::Cached { cache, .. } => cached_rows(args, file, cache, heads),
    }
}

impl<'a> Job<'a> {
    fn of(
        args: &Args,
        file: &SafeTensors<'_>,
        source: &'a Source,
        heads: &Heads,
        rows: Rows,
        length: u64,
    ) -> Result<Self, Failure> {
        match source {
            Source::Nothing(reason) => Err(reason.into()),
            Source::Rope { config, .. } => {
                let config = source::fitted(args, config.as_ref(), heads)?;
                let frequencies = source::frequencies(args, file, &config, length)?;
                Self::turning(args, config, &frequencies, rows, heads)
            }
            Source::Pairs(list) => {
                let config = RopeConfig::new(heads.width)
                    .with_pairing(list.pairing)
                    .with_rotary_dim(list.rotary_dim)
                    .with_rotary_offset(list.rotary_offset);
                let factor = args.attention_factor.unwrap_or(1.0);
                let frequencies = Frequencies::from_pairs(list.pairs.iter().copied(), factor)?;
                let job = Self::turning(args, config, &frequencies, rows, heads)?;
                // What is not listed passes through, whatever the factor.
                if list.has_gaps && factor != 1.0 {
                    return Err("pair_in: with an attention factor the pairs must leave out none before the last".into());
                }
                let spec = job.spec.with_rotated_pairs(list.listed_to);
                Ok(Self { spec, ..job })
            }
            Source::Cached { config, cache } => {
                let config = source::fitted(args, config.as_ref(), heads)?;
                if config.reversed() {
                    return Err("--cos-sin: a config that turns the other way has no say in given cos and sin".into());
                }
                let table = TableSpec::from_cos_sin(cache.layout(config.rotary_dim() / 2)?);
                Self::new(args, config, table, rows, heads, Some(cache), None)
            }
        }
    }

    fn turning(
        args: &Args,
        config: RopeConfig,
        frequencies: &Frequencies,
        rows: Rows,
        heads: &Heads,
    ) -> Result<Self, Failure> {
        // Coordinates have f32 angles, whatever was asked for: they are f32 themselves.
        let is_f32 =
            args.angles == AnglesMode::F32 || matches!(rows.values, Values::Coordinates(_));
        let angles = if is_f32 { Angles::F32 } else { Angles::Exact };
        let table = TableSpec::new(frequencies).with_angles(angles);
        Self::new(args, config, table, rows, heads, None, Some(frequencies))
    }

    fn new(
        args: &Args,
        config: RopeConfig,
        table: TableSpec,
        rows: Rows,
        heads: &Heads,
        cache: Option<&'a Cache>,
        frequencies: Option<&Frequencies>,
    ) -> Result<Self, Failure> {
        let direction = match (args.inverse, args.adjoint) {
            (true, _) => Direction::Inverse,
            (_, true) => Direction::Adjoint,
            _ => Direction::Forward,
        };
        let config = if direction == Direction::Forward {
            config
        } else {
            let pairing = config.pairing().reversed();
            config.with_pairing(pairing)
        };
        let tokens = heads
            .tokens
            .checked_sub(rows.prefix + rows.suffix)
            .filter(|tokens| *tokens > 0)
            .ok_or_else(|| format!("{}: no token is left to rotate", heads.name))?;
        let layout = heads.layout().skip_tokens(rows.prefix);
        let mut spec = RotateSpec::new(&config, heads.batch, tokens, layout, heads.element);
        if rows.batched {
            spec = spec.with_rows(RowsOf::PerToken);
        }
        if let Some(frequencies) = frequencies {
            spec = spec.with_frequencies(frequencies);
        }
        Ok(Self {
            config,
            spec,
            table: table.with_direction(direction),
            rows,
            cache,
        })
    }

    fn run<T: Element>(&self, device: &mut Device, data: &mut [u8]) -> Result<(), Failure> {
        let mut elements: Vec<T> = bytemuck::pod_collect_to_vec(data);
        match (device.context()?, self.cache) {
            (Some(context), None) => context.rotate_blocking(
                &self.spec,
                &self.table,
                self.rows.as_positions(),
                &mut elements,
                None,
            )?,
            (None, None) => {
                let rows = reference::table(&self.table, self.rows.as_positions())?;
                reference::rotate(&self.spec, &rows, &mut elements, None)?;
            }
            (context, Some(cache)) => {
                let Values::Ids(ids) = &self.rows.values else {
                    return Err("rows of cos_cache are chosen by whole numbers".into());
                };
                cache.with_values(Cached {
                    job: self,
                    context,
                    ids,
                    elements: &mut elements,
                })??;
            }
        }
        data.copy_from_slice(bytemuck::cast_slice(&elements));
        Ok(())
    }

    fn described(&self, heads: &Heads) -> String {
        let config = &self.config;
        let unrotated = self.rows.prefix + self.rows.suffix;
        let mut text = format!(
            "{:?} {:?}, {:?}, channels {}..{} of {}",
            heads.shape,
            heads.dtype,
            config.pairing(),
            config.rotary_offset(),
            config.rotary_offset() + config.rotary_dim(),
            config.head_dim(),
        );
        if unrotated > 0 {
            text.push_str(&format!(", {unrotated} tokens left unrotated"));
        }
        text
    }
}

/// Which rows of a cache the tokens of a tensor take.
fn cached_rows(
    args: &Args,
    file: &SafeTensors<'_>,
    cache: &Cache,
    heads: &Heads,
) -> Result<Rows, Failure> {
    if file.tensor(&args.positions).is_ok() && cache.per_token.is_none() {
        return rows::of_tensor(args, file, heads, 1, None);
    }
    let wanted = match cache.per_token {
        Some([entries, tokens]) => {
            let is_batch = entries == heads.batch as usize || entries == 1;
            if !is_batch || tokens != heads.tokens as usize {
                return Err(format!(
                    "cos_cache: must be [{} or 1, {}, columns] for {}, got [{entries}, {tokens}, {}]",
                    heads.batch, heads.tokens, heads.name, cache.columns
                )
                .into());
            }
            cache.rows
        }
        None => heads.tokens as usize,
    };
    let wanted = u32::try_from(wanted).map_err(|_| "cos_cache: is too large")?;
    Ok(Rows {
        values: rows::count_on("cos_cache", 0, wanted)?,
        single: true,
        batched: cache.per_token.is_some_and(|[entries, _]| entries > 1),
        prefix: 0,
        suffix: 0,
    })
}

/// The rotation by a cache, whatever its type.
struct Cached<'a, 'b, T> {
    job: &'a Job<'b>,
    context: Option<&'a GpuContext>,
    ids: &'a [i32],
    elements: &'a mut [T],
}

impl<T: Element> WithValues for Cached<'_, '_, T> {
    type Output = Result<(), Failure>;

    fn run<C: Element>(self, cos: &[C], sin: &[C]) -> Self::Output {
        let Job { spec, table, .. } = self.job;
        match self.context {
            Some(context) => pollster::block_on(context.rotate_with_cos_sin(
                spec,
                table,
                cos,
                sin,
                self.ids,
                self.elements,
                None,
            ))?,
            None => {
                let rows = reference::table_from_cos_sin(table, cos, sin, self.ids)?;
                reference::rotate(spec, &rows, self.elements, None)?;
            }
        }
        Ok(())
    }
}

/// Where it runs: a device is made when the first tensor needs one.
struct Device {
    cpu: bool,
    adapter: Option<String>,
    context: Option<GpuContext>,
}

impl Device {
    fn new(args: &Args) -> Self {
        Self {
            cpu: args.cpu,
            adapter: args.adapter.clone(),
            context: None,
        }
    }

    /// None: on the CPU.
    fn context(&mut self) -> Result<Option<&GpuContext>, Failure> {
        if self.cpu {
            return Ok(None);
        }
        if self.context.is_none() {
            let context = match &self.adapter {
                None => GpuContext::new_blocking()
                    .map_err(|error| format!("{error}; or rotate on the CPU with --cpu"))?,
                Some(name) => pollster::block_on(Self::named(name))?,
            };
            self.context = Some(context);
        }
        Ok(self.context.as_ref())
    }

    async fn named(name: &str) -> Result<GpuContext, Failure> {
        let adapters = GpuContext::adapters().await;
        let is_named = |adapter: &&wgpu::Adapter| {
            adapter
                .get_info()
                .name
                .to_lowercase()
                .contains(&name.to_lowercase())
        };
        match adapters.iter().find(is_named) {
            Some(adapter) => Ok(GpuContext::from_adapter(adapter).await?),
            None => {
                let names: Vec<_> = adapters
                    .iter()
                    .map(|adapter| adapter.get_info().name)
                    .collect();
                Err(format!(
                    "--adapter: none is named {name:?}; there are: {}",
                    names.join(", ")
                )
                .into())
            }
        }
    }

    fn name(&self) -> Option<String> {
        let info = self.context.as_ref()?.info();
        Some(format!("on {} ({})", info.name, info.backend))
    }
}

/// A tensor to write.
struct Rotated {
    heads: Heads,
    data: Vec<u8>,
}

impl View for &Rotated {
    fn dtype(&self) -> Dtype {
        self.heads.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.heads.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (&self.data[..]).into()
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// Writes all of the file or nothing: a file that is half written has another name.
fn write(path: &Path, tensors: Vec<(String, Rotated)>) -> Result<(), Failure> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let views = tensors
        .iter()
        .map(|(name, rotated)| (name.as_str(), rotated));
    let bytes = safetensors::serialize(views, None)?;
    let done = std::fs::write(partial, bytes).and_then(|()| std::fs::rename(partial, path));
    done.map_err(|error| {
        // What cannot be removed was not written.
        let _ = std::fs::remove_file(partial);
        format!("{}: {error}", path.display()).into()
    })
}
