//! Which channels form a pair.

use crate::error::{Result, RopeError};

/// Which two channels of the rotary window form pair k. With r channels in the window, k runs from 0 to r/2 - 1.
///
/// | here | half-split | interleaved |
/// |---|---|---|
/// | channels of pair k | (k, k + r/2) | (2k, 2k + 1) |
/// | transformers | `rotate_half` | `rotate_every_two`, complex |
/// | ggml | NEOX | NORM |
/// | ONNX | `interleaved = 0` | `interleaved = 1` |
/// | MLX | `traditional = False` | `traditional = True` |
/// | vLLM | `is_neox_style = True` | `is_neox_style = False` |
///
/// The same weights permuted give the same model in either pairing; a checkpoint fixes which one its tensors are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Pairing {
    /// Pair k is channels (k, k + r/2): LLaMA and most others in the Hugging Face layout, GPT-NeoX.
    #[default]
    HalfSplit,
    /// Pair k is channels (2k, 2k + 1): GPT-J, RoFormer, Cohere, LLaMA in its original layout and in GGUF.
    Interleaved,
    /// The window is cut into this many equal blocks, each half-split by itself: the vision part of Gemma 4 (a block for each
    /// axis), ChatGLM-6B.
    HalfSplitBlocks(u32),
    /// Pair k is read from (2k, 2k + 1) and written to (k, k + r/2): DeepSeek V3 and others of its attention. Q and K are permuted alike,
    /// so scores are those of [`Pairing::Interleaved`].
    InterleavedToHalfSplit,
    /// Pair k is read from (k, k + r/2) and written to (2k, 2k + 1): what undoes `InterleavedToHalfSplit`.
    HalfSplitToInterleaved,
}

/// The channels of one pair, counted from the start of the rotary window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PairChannels {
    /// Where x and y are read.
    pub read: [u32; 2],
    /// Where `x cos - y sin` and `x sin + y cos` are written.
    pub written: [u32; 2],
}

impl Pairing {
    /// The channels of pair `k`, less than `pairs`, of a window of `pairs` pairs. Where they do not fit u32 they are its largest value.
    #[must_use]
    pub fn channels(self, pairs: u32, k: u32) -> PairChannels {
        let even = k.saturating_mul(2);
        let interleaved = [even, even.saturating_add(1)];
        let block = (pairs / self.blocks()).max(1);
        let first = k.saturating_add(k / block * block);
        let split = [first, first.saturating_add(block)];
        let of = |is_interleaved| if is_interleaved { interleaved } else { split };
        PairChannels {
            read: of(self.reads_interleaved()),
            written: of(self.writes_interleaved()),
        }
    }

    /// The pairing that leads back: channels written become channels read. The rotation that undoes another one (or is its transpose) has this
    /// pairing and a table of the other [`Direction`](crate::Direction).
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::InterleavedToHalfSplit => Self::HalfSplitToInterleaved,
            Self::HalfSplitToInterleaved => Self::InterleavedToHalfSplit,
            same => same,
        }
    }

    pub(crate) fn reads_interleaved(self) -> bool {
        matches!(self, Self::Interleaved | Self::InterleavedToHalfSplit)
    }

    pub(crate) fn writes_interleaved(self) -> bool {
        matches!(self, Self::Interleaved | Self::HalfSplitToInterleaved)
    }

    /// Whether pairs are written to other channels than they are read from.
    pub(crate) fn moves(self) -> bool {
        self.reads_interleaved() != self.writes_interleaved()
    }

    /// Parts of the window that are half-split by themselves.
    pub(crate) fn blocks(self) -> u32 {
        match self {
            Self::HalfSplitBlocks(blocks) => blocks.max(1),
            _ => 1,
        }
    }

    pub(crate) fn validate(self, pairs: u32) -> Result<()> {
        match self {
            Self::HalfSplitBlocks(blocks) if blocks == 0 || !pairs.is_multiple_of(blocks) => {
                Err(RopeError::config(
                    "pairing",
                    format!("blocks must divide the {pairs} pairs of the rotary window"),
                    blocks,
                ))
            }
            _ => Ok(()),
        }
    }
}
