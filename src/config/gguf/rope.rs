//! The RoPE of one kind of layer.

use super::architectures::{Base, Habit, Head, Order, Scale};
use super::keys::Keys;
use super::scaling::{FileScaling, LayerScaling};
use crate::config::{Axes, LayerRope, Pairing, RopeConfig};
use crate::error::Result;

const DIMENSIONS: &str = "rope.dimension_count";
const BASE: &str = "rope.freq_base";
const KEY_LENGTH: &str = "attention.key_length";
const SECTIONS: &str = "rope.dimension_sections";

/// Kinds of layers that differ in what turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Full,
    Sliding,
    /// DeepSeek V4's layers of compressed attention.
    Compressed,
}

/// The keys that all kinds of layers share.
pub(super) struct Shared<'a, 'k> {
    pub(super) keys: &'a mut Keys<'k>,
    pub(super) scaling: FileScaling,
    /// Heads of the first layer that has any.
    heads: u32,
    /// llama.cpp takes the head size and rotary dimension of all layers from layer 0, unless the architecture has its own for sliding
    /// layers; so it matters whether layer 0 slides.
    first_slides: bool,
    /// The file has hyper-connections.
    is_hyper: bool,
}

impl<'a, 'k> Shared<'a, 'k> {
    pub(super) fn new(
        keys: &'a mut Keys<'k>,
        heads: u32,
        first_slides: bool,
        is_hyper: bool,
    ) -> Result<Self> {
        let scaling = FileScaling::read(keys)?;
        Ok(Self {
            keys,
            scaling,
            heads,
            first_slides,
            is_hyper,
        })
    }

    pub(super) fn rope(&mut self, kind: Kind) -> Result<LayerRope> {
        let architecture = self.keys.architecture;
        let head_dim = self.head_dim(kind)?;
        let rotary_dim = self.rotary_dim(kind, head_dim)?;
        let theta = if architecture.habit == Some(Habit::Fixed) {
            10_000.0
        } else {
            self.theta(kind, head_dim)?
        };
        let sections = self.keys.sections()?.unwrap_or([0; 4]);
        let is_mrope = sections[0] > 0 && sections[1] > 0;
        let order = match architecture.order {
            Order::MropeOrNorm | Order::MropeOrNeox if is_mrope => Order::Mrope,
            Order::MropeOrNorm => Order::Norm,
            Order::MropeOrNeox => Order::Neox,
            Order::Draft if sections != [0; 4] => Order::Mrope,
            Order::Draft if self.is_hyper => Order::Norm,
            Order::Draft => Order::Neox,
            order => order,
        };
        let (pairing, axes) = match order {
            Order::Norm => (Pairing::Interleaved, Axes::One),
            Order::Mrope | Order::Imrope => (
                Pairing::HalfSplit,
                self.axes(order, sections, rotary_dim / 2)?,
            ),
            _ => (Pairing::HalfSplit, Axes::One),
        };
        let is_last = match architecture.head {
            Head::First | Head::FirstOwn | Head::Quotient => {
                architecture.habit == Some(Habit::Draft) && self.is_hyper
            }
            Head::Last | Head::Latent | Head::LatentOwn => true,
        };
        let config = RopeConfig::new(head_dim)
            .with_rotary_dim(rotary_dim)
            .with_rotary_offset(if is_last { head_dim - rotary_dim } else { 0 })
            .with_theta(theta)
            .with_pairing(pairing)
            .with_axes(axes);
        let layer = self.layer_scaling(kind, order);
        let config = self.scaling.apply(self.keys, config, layer)?;
        config.validate()?;
        let rope = LayerRope::new(config);
        if matches!(architecture.habit, Some(Habit::Softmax | Habit::DeepSeek2)) {
            let key = self.keys.name("rope.scaling.yarn_log_multiplier");
            return rope.with_softmax_factor(key, self.scaling.softmax_factor());
        }
        Ok(rope)
    }

    fn quotient(&self) -> Result<u32> {
        Ok(self.keys.required("embedding_length")? / self.heads.max(1))
    }

    /// Channels of a head of the cache, in layers that do not slide.
    fn key_length(&self) -> Result<u32> {
        match self.keys.whole(KEY_LENGTH)? {
            Some(length) => Ok(length),
            None => self.quotient(),
        }
    }

    fn head_dim(&self, kind: Kind) -> Result<u32> {
        const SLIDING: &str = "attention.key_length_swa";
        const LATENT: &str = "attention.key_length_mla";
        const LATENT_SLIDING: &str = "attention.key_length_mla_swa";
        let head = self.keys.architecture.head;
        let first = || -> Result<(&'static str, u32)> {
            if self.first_slides {
                if let Some(length) = self.keys.whole(SLIDING)? {
                    return Ok((SLIDING, length));
                }
            }
            Ok((KEY_LENGTH, self.key_length()?))
        };
        let (key, head_dim) = match (head, kind) {
            (Head::Quotient, _) => ("embedding_length", self.quotient()?),
            (Head::FirstOwn, Kind::Sliding) => (SLIDING, self.keys.required(SLIDING)?),
            (Head::FirstOwn, _) => (KEY_LENGTH, self.key_length()?),
            (Head::LatentOwn, Kind::Sliding) => {
                (LATENT_SLIDING, self.keys.required(LATENT_SLIDING)?)
            }
            (Head::Latent | Head::LatentOwn, _) => {
                let keys = self.keys.whole(LATENT)?.unwrap_or(0);
                let values = self.keys.whole("attention.value_length_mla")?.unwrap_or(0);
                if keys > 0 && values > 0 {
                    (LATENT, keys)
                } else {
                    first()?
                }
            }
            (Head::First | Head::Last, _) => first()?,
        };
        if !(2..=65_536).contains(&head_dim) {
            return Err(self
                .keys
                .fault(key, "must give heads of 2 to 65,536 channels", head_dim));
        }
        Ok(head_dim)
    }

    fn rotary_dim(&self, kind: Kind, head_dim: u32) -> Result<u32> {
        let architecture = self.keys.architecture;
        if architecture.head == Head::Quotient {
            return Ok(head_dim);
        }
        let own = architecture.own_dimensions;
        let slides = if own {
            kind == Kind::Sliding
        } else {
            self.first_slides
        };
        let mut key = DIMENSIONS;
        let mut rotary_dim = match self.keys.whole(DIMENSIONS)? {
            Some(dimensions) => dimensions,
            // The head of the cache holds what is latent too.
            None if matches!(architecture.head, Head::Latent | Head::LatentOwn) => {
                return Err(self.keys.missing(DIMENSIONS));
            }
            None => self.key_length()?,
        };
        if slides {
            if let Some(sliding) = self.keys.whole("rope.dimension_count_swa")? {
                (key, rotary_dim) = ("rope.dimension_count_swa", sliding);
            }
        } else if architecture.habit == Some(Habit::HalfOfFull) {
            rotary_dim /= 2;
        }
        if architecture.whole && rotary_dim != head_dim {
            return Err(self.keys.fault(
                key,
                format!("must be the {head_dim} channels of a head, as llama.cpp has it for this architecture"),
                rotary_dim,
            ));
        }
        if rotary_dim < 2 || rotary_dim % 2 != 0 || rotary_dim > head_dim {
            return Err(self.keys.fault(
                key,
                format!("must give an even number of channels from 2 to the {head_dim} of a head"),
                rotary_dim,
            ));
        }
        Ok(rotary_dim)
    }

    fn theta(&mut self, kind: Kind, head_dim: u32) -> Result<f64> {
        const OWN: &str = "rope.freq_base_swa";
        let keys = &mut *self.keys;
        if kind == Kind::Compressed {
            let key = "attention.compress_rope_freq_base";
            return keys.positive(key)?.ok_or_else(|| keys.missing(key));
        }
        let sliding = keys.architecture.sliding.filter(|_| kind == Kind::Sliding);
        let base = sliding.map_or(Base::Main, |sliding| sliding.base);
        if base != Base::Main {
            if let Some(theta) = keys.positive(OWN)? {
                return Ok(theta);
            }
            if base == Base::Own {
                return Err(keys.missing(OWN));
            }
            if base == Base::OwnOrDefault {
                keys.note(OWN);
                return Ok(10_000.0);
            }
        }
        let theta = match keys.positive(BASE)? {
            Some(theta) => theta,
            None => {
                keys.note(BASE);
                10_000.0
            }
        };
        if keys.architecture.habit == Some(Habit::Alpha) {
            let key = "rope.scaling.alpha";
            let alpha = keys.number(key)?.unwrap_or(0.0);
            if alpha > 0.0 {
                if head_dim <= 2 {
                    return Err(keys.fault(key, "must be 0 for heads of 2 channels", alpha));
                }
                let dim = f64::from(head_dim);
                return Ok(theta * libm::pow(alpha, dim / (dim - 2.0)));
            }
        }
        Ok(theta)
    }

    fn axes(&self, order: Order, sections: [u32; 4], pairs: u32) -> Result<Axes> {
        let [time, height, width, extra] = sections;
        if self.keys.value(SECTIONS).is_none() {
            return Err(self.keys.missing(SECTIONS));
        }
        let sum: u64 = sections.iter().map(|&section| u64::from(section)).sum();
        if sum < u64::from(pairs) || sections[..3] == [0; 3] {
            // A shorter list would begin anew for the pairs behind it.
            return Err(self.keys.fault(
                SECTIONS,
                format!("must add up to the {pairs} pairs of the rotary window"),
                format!("{sections:?}"),
            ));
        }
        if order == Order::Imrope {
            if extra != 0 {
                return Err(self.keys.fault(
                    SECTIONS,
                    "must have a 0 for the fourth axis where pairs go by turns",
                    extra,
                ));
            }
            return Ok(Axes::Interleaved { height, width });
        }
        let mut left = pairs;
        let mut runs = Vec::new();
        for section in [time, height, width, extra] {
            let taken = section.min(left);
            runs.push(taken);
            left -= taken;
        }
        while runs.last() == Some(&0) {
            runs.pop();
        }
        Ok(if runs.len() == 1 {
            Axes::One
        } else {
            Axes::Sectioned(runs)
        })
    }

    fn layer_scaling(&self, kind: Kind, order: Order) -> LayerScaling {
        let architecture = self.keys.architecture;
        let scale = match (architecture.habit, architecture.sliding) {
            (Some(Habit::Fixed), _) => Scale::Plain,
            (Some(Habit::DeepSeek4), _) if kind != Kind::Compressed => Scale::Plain,
            (Some(Habit::Draft), _) if self.is_hyper => Scale::Plain,
            (_, Some(sliding)) if kind == Kind::Sliding => sliding.scale,
            _ => Scale::Main,
        };
        let full_only = architecture.factors.full_only && kind == Kind::Sliding;
        LayerScaling {
            factor: match scale {
                Scale::Main => self.scaling.main,
                Scale::Factor => self.scaling.factor,
                Scale::One | Scale::Plain => 1.0,
            },
            is_plain: scale == Scale::Plain,
            is_unit: architecture.habit == Some(Habit::DeepSeek4),
            // The draft of an M-RoPE model has no use for them.
            has_factors: !(full_only
                || architecture.habit == Some(Habit::Draft) && order != Order::Neox),
        }
    }
}
