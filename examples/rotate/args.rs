//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Rotates the tensors of a safetensors file as a model's config says.
///
/// What rotates comes from --config or --gguf; or, without a model, from --theta (and --freq-factors), --inv-freq, --pairs or --cos-sin.
#[derive(Debug, Parser)]
#[command(name = "rotate", version, allow_negative_numbers = true)]
pub struct Args {
    /// A model's config.json.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["gguf", "pairs"])]
    pub config: Option<PathBuf>,
    /// A model's GGUF file; one without tensors is fine.
    #[arg(long, value_name = "FILE", conflicts_with = "pairs")]
    pub gguf: Option<PathBuf>,
    /// The file to read.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The file to write: the rotated tensors, with their names, element types and shapes.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,

    /// The kind of layer, by the name that transformers 5 has for it.
    #[arg(long, value_name = "NAME", conflicts_with = "layer")]
    pub layer_type: Option<String>,
    /// The kind of layer, by its index from 0.
    #[arg(long, value_name = "N")]
    pub layer: Option<u32>,
    /// The part of a multimodal model: text, vision, audio, or the key it stands under. Text where there is one, else the
    /// file itself.
    #[arg(long, value_name = "text|vision|KEY", conflicts_with = "gguf")]
    pub part: Option<String>,
    /// How the tensors' dimensions stand: batch, heads, sequence, head dimension; bsd has all heads packed in the last one.
    #[arg(long, default_value = "bhsd")]
    pub layout: Layout,
    /// Channels of a head, for bsd.
    #[arg(long, value_name = "N")]
    pub head_dim: Option<u32>,
    /// The tensors to rotate. Those of q, k and x that are there, where it is not given.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tensors: Vec<String>,

    /// The tensor of positions: ids (i64, i32) or coordinates (f32).
    #[arg(long, value_name = "NAME", default_value = "position_ids")]
    pub positions: String,
    /// Where the axes of positions stand, where both fit.
    #[arg(long)]
    pub axes: Option<AxesAt>,
    /// Height and width in pixels of each image, for the positions of a vision part.
    #[arg(long, value_name = "H,W", num_args = 1.., conflicts_with = "grid")]
    pub image: Vec<Numbers>,
    /// Frames, height and width in patches of each image or video.
    #[arg(long, value_name = "[T,]H,W", num_args = 1..)]
    pub grid: Vec<Numbers>,
    /// Class and register tokens before the patches, which stay unrotated, in place of the config's.
    #[arg(long, value_name = "N")]
    pub prefix_tokens: Option<u32>,
    /// The running length for dynamic NTK and LongRoPE. The largest position plus 1, where it is not given.
    #[arg(long, value_name = "N")]
    pub length: Option<u64>,

    /// Undo the rotation.
    #[arg(long, conflicts_with = "adjoint")]
    pub inverse: bool,
    /// The transpose of the rotation: its gradient.
    #[arg(long)]
    pub adjoint: bool,
    /// How angles are made: exact, or in f32 as frameworks make them.
    #[arg(long, default_value = "exact")]
    pub angles: AnglesMode,

    /// A tensor of inverse frequencies, in place of the config's.
    #[arg(long, value_name = "NAME", conflicts_with = "theta")]
    pub inv_freq: Option<String>,
    /// A tensor of divisors of the frequencies.
    #[arg(long, value_name = "NAME")]
    pub freq_factors: Option<String>,
    /// The base of the frequencies.
    #[arg(long, value_name = "F")]
    pub theta: Option<f64>,
    /// Which channels form a pair.
    #[arg(long)]
    pub pairing: Option<PairingName>,
    /// Channels that rotate.
    #[arg(long, value_name = "N")]
    pub rotary_dim: Option<u32>,
    /// The first of them.
    #[arg(long, value_name = "N")]
    pub rotary_offset: Option<u32>,
    /// The factor of cos and sin.
    #[arg(long, value_name = "F")]
    pub attention_factor: Option<f64>,
    /// Take `pair_in`, `pair_out`, `pair_axis`, `pair_inv_freq_f64` and `pos_axes_f64` from the input.
    #[arg(long, conflicts_with_all = [
        "inv_freq", "freq_factors", "theta", "pairing", "rotary_dim", "rotary_offset", "length", "image", "grid", "prefix_tokens",
    ])]
    pub pairs: bool,
    /// Take `cos_cache` and `sin_cache` from the input.
    #[arg(long, conflicts_with_all = ["pairs", "inv_freq", "freq_factors", "attention_factor", "theta", "length"])]
    pub cos_sin: bool,

    /// The adapter, by a part of its name.
    #[arg(long, value_name = "NAME", conflicts_with = "cpu")]
    pub adapter: Option<String>,
    /// On the CPU, with the twin of the shaders.
    #[arg(long)]
    pub cpu: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    Bhsd,
    Bshd,
    Shd,
    Bsd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AxesAt {
    First,
    Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AnglesMode {
    Exact,
    F32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PairingName {
    Half,
    Interleaved,
}

/// Two or three whole numbers.
#[derive(Debug, Clone)]
pub struct Numbers(pub Vec<u32>);

impl std::str::FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split(',').map(|part| part.trim().parse());
        let numbers: Vec<u32> = numbers
            .collect::<Result<_, _>>()
            .map_err(|_| "must be whole numbers between commas".to_owned())?;
        if (2..=3).contains(&numbers.len()) {
            Ok(Self(numbers))
        } else {
            Err("must be two numbers (three with frames)".to_owned())
        }
    }
}
