//! What a model's file says of its RoPE, layer by layer.

#[cfg(any(feature = "huggingface", feature = "gguf"))]
use std::borrow::Cow;

use super::RopeConfig;
use crate::error::{Result, RopeError};
use crate::positions::GridPositions;

/// What transformers 5 calls layers that have attention.
const ATTENTION: [&str; 9] = [
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "indexed_attention",
    "reference_sliding_attention",
    "window_attention",
    "hybrid",
    "hybrid_sliding",
    "attention",
];

/// The RoPE of one part of a model (its text, or its vision tower), as its file says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelRope {
    /// The family whose rules were taken: its `model_type` or architecture. None: nobody knows it, and the general rules were.
    pub family: Option<&'static str>,
    /// What the file does not say, and the family's defaults do: keys of a `config.json` or of GGUF metadata.
    pub defaulted: Vec<&'static str>,
    /// The kinds of layers, in the order of their first layer. There is at least one.
    pub kinds: Vec<LayerKind>,
    /// For each layer, which of the kinds it is. Empty where the file does not say how many layers there are.
    pub layers: Vec<usize>,
}

/// Layers with one RoPE.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerKind {
    /// The name that the model's family has for them: `full_attention`, `sliding_attention`, …
    pub name: String,
    /// Their RoPE. None: these layers do not rotate (NoPE).
    pub rope: Option<LayerRope>,
}

/// The RoPE of one kind of layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerRope {
    /// Dimensions, pairing, axes, frequencies, direction.
    pub config: RopeConfig,
    /// What the family multiplies the scale of the softmax by beside `1 / sqrt(head_dim)`, because of its scaling (DeepSeek V2 and V3: see
    /// [`Yarn::softmax_factor`](super::Yarn::softmax_factor)). It is the host's to apply. 1 for most.
    pub softmax_factor: f64,
    /// How patches are numbered, for the vision part of a model.
    pub grid: Option<GridPositions>,
}

/// Most kinds of layers in one file.
#[cfg(any(feature = "huggingface", feature = "gguf"))]
const MAX_KINDS: usize = 256;

/// The kinds that a reader has found so far.
#[cfg(any(feature = "huggingface", feature = "gguf"))]
#[derive(Default)]
pub(crate) struct Kinds(Vec<LayerKind>);

#[cfg(any(feature = "huggingface", feature = "gguf"))]
impl Kinds {
    /// The index of the kind of this name and RoPE. Of two kinds of one name, that which does not rotate is called `nope`, and one of another
    /// theta says so.
    pub(crate) fn add(&mut self, name: &str, rope: Option<LayerRope>) -> Result<usize> {
        let same = |kind: &LayerKind| {
            let rest = kind.name.strip_prefix(name);
            let is_named = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("));
            kind.rope == rope && (is_named || (rope.is_none() && kind.name == NOPE))
        };
        if let Some(found) = self.0.iter().position(same) {
            return Ok(found);
        }
        if self.0.len() == MAX_KINDS {
            return Err(RopeError::config(
                "layers",
                format!("must be of at most {MAX_KINDS} kinds"),
                "more",
            ));
        }
        let taken = self.0.iter_mut().find(|kind| kind.name == name);
        let mut own = name.to_owned();
        match (taken, &rope) {
            (None, _) => {}
            (Some(_), None) => own = NOPE.to_owned(),
            (Some(other), Some(_)) if other.rope.is_none() => other.name = NOPE.to_owned(),
            (Some(_), Some(rope)) => own = format!("{name} (theta {})", rope.config.theta()),
        }
        self.0.push(LayerKind { name: own, rope });
        Ok(self.0.len() - 1)
    }

    /// All of them; None where none rotates.
    pub(crate) fn finish(self) -> Option<Vec<LayerKind>> {
        let rotates = self.0.iter().any(|kind| kind.rope.is_some());
        rotates.then_some(self.0)
    }
}

/// What layers that do not rotate are called where others of their name do.
#[cfg(any(feature = "huggingface", feature = "gguf"))]
const NOPE: &str = "nope";

impl LayerRope {
    #[cfg_attr(
        not(any(feature = "gguf", feature = "huggingface")),
        expect(dead_code, reason = "readers are features")
    )]
    pub(crate) fn new(config: RopeConfig) -> Self {
        Self {
            config,
            softmax_factor: 1.0,
            grid: None,
        }
    }

    /// With a factor that comes of a file's value for the key `operand`.
    #[cfg(any(feature = "huggingface", feature = "gguf"))]
    pub(crate) fn with_softmax_factor(
        mut self,
        operand: impl Into<Cow<'static, str>>,
        factor: f64,
    ) -> Result<Self> {
        if !factor.is_finite() || factor == 0.0 {
            return Err(RopeError::config(
                operand,
                "must leave the scale of the softmax a finite number other than 0",
                factor,
            ));
        }
        self.softmax_factor = factor;
        Ok(self)
    }
}

impl ModelRope {
    /// The RoPE of all layers that rotate, where they have the same.
    ///
    /// # Errors
    /// [`RopeError::Config`] listing the kinds where they differ, or none rotates.
    pub fn only(&self) -> Result<&LayerRope> {
        let mut rotating = self.kinds.iter().filter_map(|kind| kind.rope.as_ref());
        match rotating.next() {
            Some(rope) if rotating.all(|other| other == rope) => Ok(rope),
            _ => Err(RopeError::config(
                "layer type",
                format!("must be chosen of {}", self.names()),
                "none",
            )),
        }
    }

    /// The kind of this name. Where a file has only one kind, it goes by any name that layers with attention have.
    ///
    /// # Errors
    /// [`RopeError::Config`] listing the kinds where there is none of this name.
    pub fn kind(&self, name: &str) -> Result<&LayerKind> {
        let only = match &self.kinds[..] {
            [only] if ATTENTION.contains(&name) => Some(only),
            _ => None,
        };
        self.kinds
            .iter()
            .find(|kind| kind.name == name)
            .or(only)
            .ok_or_else(|| {
                RopeError::config(
                    "layer type",
                    format!("must be one of {}", self.names()),
                    name,
                )
            })
    }

    /// The kind of a layer, counted from 0.
    ///
    /// # Errors
    /// [`RopeError::Config`] for a layer that is not there; where the file does not say how many there are, any layer is there if all are of
    /// one kind.
    pub fn layer(&self, index: u32) -> Result<&LayerKind> {
        let found = match (&self.layers[..], &self.kinds[..]) {
            ([], [only]) => Some(only),
            (layers, kinds) => layers.get(index as usize).and_then(|&kind| kinds.get(kind)),
        };
        found.ok_or_else(|| {
            RopeError::config(
                "layer",
                if self.layers.is_empty() {
                    "must be chosen by its type: the file does not say how many layers there are"
                        .into()
                } else {
                    format!("must be below {}", self.layers.len())
                },
                index,
            )
        })
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.kinds.iter().map(|kind| kind.name.as_str()).collect();
        names.join(", ")
    }
}
