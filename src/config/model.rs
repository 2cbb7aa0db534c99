//! What a model's file says of its RoPE, layer by layer.

#[cfg(any(feature = "huggingface", feature = "gguf"))]
use std::borrow::Cow;

use super::RopeConfig;
use crate::error::{Result, RopeError};
use crate::positions::GridPositions;
use crate::query_scale::QueryScale;

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
    /// Keys the file lacks, whose values are the family's defaults: of a `config.json` or of GGUF metadata.
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
    /// The name that the model's family has for them: `full_attention`, `sliding_attention`, … No two kinds of a model have the same: of
    /// those for which the family has one name, the first that rotates keeps it, others say how they differ
    /// (`full_attention (theta 10000)`, `full_attention (yarn)`), or are called `nope` where they do not rotate.
    pub name: String,
    /// Their RoPE. None: these layers do not rotate (NoPE).
    pub rope: Option<LayerRope>,
    /// What their queries are multiplied by, whether they rotate or not. It is the host's to apply, or a table's with
    /// [`TableSpec::with_query_scale`](crate::TableSpec::with_query_scale). None for most.
    pub query_scale: Option<QueryScaleRule>,
}

/// A factor of the query that grows with its position, as a model's file says it.
///
/// ```
/// let text = r#"{ "model_type": "ministral3", "head_dim": 128, "rope_parameters": { "rope_type": "yarn", "rope_theta": 1000000.0,
///     "factor": 16.0, "original_max_position_embeddings": 16384, "llama_4_scaling_beta": 0.1 } }"#;
/// # #[cfg(feature = "huggingface")] {
/// let model = wgpu_rope::config::huggingface::read_config(text)?.expect("Ministral has RoPE");
/// let rule = model.kind("full_attention")?.query_scale.expect("and scales its queries");
/// let scale = rule.up_to(262_143)?;
/// assert_eq!((scale.at(16_383), scale.at(16_384)), (1.0, (1.0 + 0.1 * 2_f64.ln()) as f32));
/// # }
/// # Ok::<(), wgpu_rope::RopeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum QueryScaleRule {
    /// That of [`QueryScale::llama4`], in layers that do not rotate (`attn_temperature_tuning`).
    Llama4 {
        /// Positions that share a value.
        floor_scale: u32,
        /// The factor of the logarithm.
        attn_scale: f64,
    },
    /// That of [`QueryScale::ministral3`], behind the rotation (`llama_4_scaling_beta` of Ministral 3 and Mistral 4).
    Ministral3 {
        /// The factor of the logarithm.
        beta: f64,
        /// Positions that share a value.
        original_max_position_embeddings: u32,
    },
}

impl QueryScaleRule {
    /// The values for positions up to `max_position`; those past it have the same value as it has.
    ///
    /// # Errors
    /// Those of [`QueryScale::llama4`].
    pub fn up_to(&self, max_position: u32) -> Result<QueryScale> {
        match *self {
            Self::Llama4 {
                floor_scale,
                attn_scale,
            } => QueryScale::llama4(floor_scale, attn_scale, max_position),
            Self::Ministral3 {
                beta,
                original_max_position_embeddings,
            } => QueryScale::ministral3(beta, original_max_position_embeddings, max_position),
        }
    }
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

/// The kinds that a reader has found so far, with the family's names for them.
#[cfg(any(feature = "huggingface", feature = "gguf"))]
#[derive(Default)]
pub(crate) struct Kinds(Vec<LayerKind>);

#[cfg(any(feature = "huggingface", feature = "gguf"))]
impl Kinds {
    /// The index of a kind, which [`Kinds::finish`] keeps true.
    pub(crate) fn add(&mut self, kind: LayerKind) -> Result<usize> {
        if let Some(found) = self.0.iter().position(|known| *known == kind) {
            return Ok(found);
        }
        if self.0.len() == MAX_KINDS {
            return Err(RopeError::config(
                "layers",
                format!("must be of at most {MAX_KINDS} kinds"),
                "more",
            ));
        }
        self.0.push(kind);
        Ok(self.0.len() - 1)
    }

    /// All of them with names of their own, and the layers that were of them; None where none rotates.
    ///
    /// Of the kinds of one name, the first that rotates keeps it. One that does not is called `nope`; another says its theta where that
    /// differs, else its scaling where that does. What is not yet told apart by that has a number.
    pub(crate) fn finish(self, layers: &mut [usize]) -> Option<Vec<LayerKind>> {
        let found = self.0;
        if found.iter().all(|kind| kind.rope.is_none()) {
            return None;
        }
        let mut kinds: Vec<LayerKind> = Vec::with_capacity(found.len());
        let mut places = Vec::with_capacity(found.len());
        for kind in &found {
            let rotating = |other: &&LayerKind| other.name == kind.name && other.rope.is_some();
            let first = found.iter().find(rotating);
            let name = match (first.and_then(|first| first.rope.as_ref()), &kind.rope) {
                (None, _) => kind.name.clone(),
                (Some(_), None) => NOPE.to_owned(),
                (Some(first), Some(own)) => own.told_from(first, &kind.name),
            };
            let named = |name: String| LayerKind {
                name,
                ..kind.clone()
            };
            // Layers that do not rotate are one kind, whatever their siblings are called.
            let same = named(name.clone());
            let is_same = |known: &LayerKind| known.rope.is_none() && *known == same;
            if let Some(place) = kinds.iter().position(is_same) {
                places.push(place);
                continue;
            }
            let mut own = name.clone();
            let mut number = 2;
            while kinds.iter().any(|known| known.name == own) {
                own = format!("{name} {number}");
                number += 1;
            }
            places.push(kinds.len());
            kinds.push(named(own));
        }
        for layer in layers {
            *layer = places[*layer];
        }
        Some(kinds)
    }
}

#[cfg(any(feature = "huggingface", feature = "gguf"))]
impl LayerRope {
    /// The name of a kind beside another one of that name.
    fn told_from(&self, first: &Self, name: &str) -> String {
        let (own, first) = (&self.config, &first.config);
        #[expect(clippy::float_cmp, reason = "another theta is another one")]
        let is_of_other_theta = own.theta() != first.theta();
        let scaling = own.scaling().name();
        if is_of_other_theta {
            format!("{name} (theta {})", own.theta())
        } else if scaling != first.scaling().name() {
            format!("{name} ({scaling})")
        } else {
            name.to_owned()
        }
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
    /// The RoPE of all layers that rotate, where they have the same. What else their kinds say is not in it: see
    /// [`LayerKind::query_scale`].
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
