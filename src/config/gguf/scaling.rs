//! How an architecture's files scale frequencies, and the factors of cos, sin and the softmax that follow.

use super::architectures::{Habit, YarnKeys};
use super::keys::Keys;
use crate::config::{RopeConfig, Scaling, Yarn};
use crate::error::{Result, RopeError};
use crate::turns::TurnRate;

const FREQS: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";
const FACTOR: &str = "rope.scaling.factor";
const ORIGINAL: &str = "rope.scaling.original_context_length";

/// What a file says of its scaling, for all kinds of layers.
#[derive(Debug)]
pub(super) struct FileScaling {
    /// `longrope`: which of the tensors are meant.
    is_longrope: bool,
    /// The factor as it stands.
    pub(super) factor: f64,
    /// The factor of layers that do not slide: 1 for the type `none`.
    pub(super) main: f64,
    /// How much of YaRN there is, 0 to 1: ggml's `ext_factor`.
    ramp: f64,
    betas: (f64, f64),
    /// ggml's `attn_factor` times what ggml itself multiplies it by on main layers.
    magnitude: f64,
    /// `yarn_log_multiplier`.
    log_multiplier: f64,
    /// Positions of the first training, where anything asks for them.
    original: Option<f64>,
}

/// The scaling of one kind of layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerScaling {
    pub(super) factor: f64,
    pub(super) is_plain: bool,
    /// cos and sin keep a factor of 1 whatever the scaling.
    pub(super) is_unit: bool,
    /// The tensors of factors are for it.
    pub(super) has_factors: bool,
}

impl FileScaling {
    pub(super) fn read(keys: &mut Keys<'_>) -> Result<Self> {
        let kind = keys.string("rope.scaling.type")?;
        let (is_none, is_yarn, is_longrope) = match kind.as_deref() {
            Some("none") => (true, false, false),
            None | Some("linear") => (false, false, false),
            Some("yarn") => (false, true, false),
            Some("longrope") => (false, false, true),
            Some(other) => {
                return Err(keys.fault(
                    "rope.scaling.type",
                    "must be one of none, linear, yarn, longrope",
                    super::keys::cut(other),
                ));
            }
        };
        let (key, given) = match keys.number(FACTOR)? {
            Some(factor) => (FACTOR, factor),
            None => (
                "rope.scale_linear",
                keys.number("rope.scale_linear")?.unwrap_or(0.0),
            ),
        };
        if given < 0.0 {
            return Err(keys.fault(key, "must be 0 or more", given));
        }
        let factor = if given == 0.0 { 1.0 } else { given };
        if kind.is_none() && given != 0.0 {
            keys.note("rope.scaling.type");
        }
        let main = if is_none { 1.0 } else { factor };

        let yarn = keys.architecture.yarn;
        let mut ramp = if is_yarn { 1.0 } else { 0.0 };
        let mut unramped = 1.0;
        let mut betas = (32.0, 1.0);
        if yarn == YarnKeys::Grok {
            betas.0 = 8.0;
            if let Some(given) = keys.number("rope.scaling.yarn_ext_factor")? {
                if given >= 0.0 {
                    ramp = given;
                }
            }
            if let Some(given) = keys.number("rope.scaling.yarn_attn_factor")? {
                unramped = given;
            }
        }
        if matches!(yarn, YarnKeys::Grok | YarnKeys::Mistral) {
            for (key, beta) in [
                ("rope.scaling.yarn_beta_fast", &mut betas.0),
                ("rope.scaling.yarn_beta_slow", &mut betas.1),
            ] {
                if let Some(given) = keys.positive(key)? {
                    *beta = given;
                }
            }
        }
        let log_multiplier = match yarn {
            YarnKeys::Mistral | YarnKeys::Tenth => keys
                .number("rope.scaling.yarn_log_multiplier")?
                .unwrap_or(0.0),
            YarnKeys::None | YarnKeys::Grok => 0.0,
        };
        let log_multiplier = if yarn == YarnKeys::Tenth {
            times_ten(log_multiplier)
        } else {
            log_multiplier
        };
        let attention = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let magnitude = if ramp == 0.0 {
            unramped
        } else {
            let own = |scale: f64| Yarn::new(main, 1.0).magnitude(scale);
            let is_own = keys.architecture.habit == Some(Habit::DeepSeek2);
            if log_multiplier == 0.0 {
                own(1.0)
            } else if is_own {
                // Its scale of the numerator is that of the denominator, or both are 1.
                1.0
            } else {
                own(1.0) / own(log_multiplier)
            }
        };
        Ok(Self {
            is_longrope,
            factor,
            main,
            ramp,
            betas,
            magnitude: magnitude * attention,
            log_multiplier,
            original: None,
        })
    }

    /// Positions of the first training; 0 where the file says 0. `context_length` where the key is missing.
    fn original(&mut self, keys: &mut Keys<'_>) -> Result<f64> {
        if let Some(original) = self.original {
            return Ok(original);
        }
        let original = match keys.whole(ORIGINAL)? {
            Some(original) => original,
            None => {
                keys.note(ORIGINAL);
                keys.required("context_length")?
            }
        };
        let original = f64::from(original);
        self.original = Some(original);
        Ok(original)
    }

    /// What multiplies cos and sin in layers of this scaling.
    fn attention_factor(&self, layer: LayerScaling) -> f64 {
        if layer.is_plain || layer.is_unit {
            1.0
        } else if self.ramp == 0.0 || same(layer.factor, self.main) {
            self.magnitude
        } else {
            // ggml multiplies by the layer's own share, and llama.cpp has divided by that of the main layers.
            let share = |factor: f64| 1.0 + 0.1 * libm::log(factor);
            self.magnitude * share(layer.factor) / share(self.main)
        }
    }

    /// What multiplies the scale of the softmax.
    pub(super) fn softmax_factor(&self) -> f64 {
        // Where there is no ramp, ggml multiplies cos and sin by nothing and llama.cpp the softmax all the same.
        let share = if self.ramp == 0.0 {
            1.0 + 0.1 * libm::log(self.main)
        } else {
            1.0
        };
        let own = 1.0 + 0.1 * self.log_multiplier * libm::log(self.main);
        let scale = self.magnitude * share * own;
        scale * scale
    }

    /// The scaling of layers whose dimensions and base are those of `config`.
    pub(super) fn apply(
        &mut self,
        keys: &mut Keys<'_>,
        config: RopeConfig,
        layer: LayerScaling,
    ) -> Result<RopeConfig> {
        let tensors = if layer.has_factors {
            self.tensors(keys, &config)?
        } else {
            Tensors::None
        };
        let divided = self.divided(keys, &config, layer)?;
        let scaling = match tensors {
            Tensors::None => match divided {
                Divided::None => Scaling::None,
                Divided::By(factor) => Scaling::Linear { factor },
                Divided::Yarn(yarn) => Scaling::Yarn(yarn),
                Divided::Each(divisors) => Scaling::FrequencyFactors(divisors),
            },
            Tensors::One(factors) => factors_of(&config, divided.times(self, &config, &factors)),
            Tensors::Two { long, short } => {
                let original = self.original(keys)?;
                let long = divided.times(self, &config, &long);
                if original == 0.0 {
                    // Every context is longer than that.
                    factors_of(&config, long)
                } else {
                    let short = divided.times(self, &config, &short);
                    Scaling::LongRope {
                        short_factor: short,
                        long_factor: long,
                        original_max_position_embeddings: original,
                        factor: 1.0,
                    }
                }
            }
        };
        let attention_factor = self.attention_factor(layer);
        let own = scaling.attention_factor();
        let config = config.with_scaling(scaling);
        Ok(if same(own, attention_factor) {
            config
        } else {
            config.with_attention_factor(attention_factor)
        })
    }

    fn tensors(&self, keys: &Keys<'_>, config: &RopeConfig) -> Result<Tensors> {
        let rule = keys.architecture.factors;
        let loaded = |name: &str| {
            rule.ignored
                || if rule.freqs && rule.long {
                    self.is_longrope != (name == FREQS)
                } else if name == FREQS {
                    rule.freqs
                } else {
                    rule.long
                }
        };
        let mut found = [None, None, None];
        for (name, found) in [FREQS, LONG, SHORT].into_iter().zip(&mut found) {
            let Some(values) = keys.metadata.tensor(name) else {
                continue;
            };
            if !loaded(name) {
                return Err(RopeError::config(
                    name,
                    format!(
                        "must not be there: llama.cpp does not load it for {} with this rope.scaling.type",
                        keys.architecture.name
                    ),
                    format!("{} values", values.len()),
                ));
            }
            if !rule.ignored {
                *found = Some(checked(name, values, config, rule.full_only)?);
            }
        }
        let ones = || vec![1.0; (config.rotary_dim() / 2) as usize];
        Ok(match found {
            [Some(factors), _, _] => Tensors::One(factors),
            [None, None, None] if rule.required => {
                return Err(RopeError::config(FREQS, "must be there", "none"));
            }
            [None, None, None] => Tensors::None,
            // The one that is missing is no factors.
            [None, long, short] => Tensors::Two {
                long: long.unwrap_or_else(ones),
                short: short.unwrap_or_else(ones),
            },
        })
    }

    /// How the layer's frequencies are divided beside factors of tensors.
    fn divided(
        &mut self,
        keys: &mut Keys<'_>,
        config: &RopeConfig,
        layer: LayerScaling,
    ) -> Result<Divided> {
        if layer.is_plain || same(layer.factor, 1.0) {
            return Ok(Divided::None);
        }
        if self.ramp == 0.0 {
            return Ok(Divided::By(layer.factor));
        }
        let mut original = self.original(keys)?;
        if original == 0.0 {
            original = f64::from(keys.required("context_length")?);
        }
        if original <= 1.0 {
            return Err(keys.fault(ORIGINAL, "must be above 1 for yarn", original));
        }
        let yarn = Yarn::new(layer.factor, original).with_betas(self.betas.0, self.betas.1);
        let (low, high) = yarn.ramp(config.theta(), config.rotary_dim().into());
        if same(self.ramp, 1.0) && low <= high {
            return Ok(Divided::Yarn(yarn));
        }
        Ok(Divided::Each(self.ramped(&yarn, config)))
    }

    /// YaRN as ggml has it, as a divisor for each pair.
    fn ramped(&self, yarn: &Yarn, config: &RopeConfig) -> Vec<f64> {
        let (low, high) = yarn.ramp(config.theta(), config.rotary_dim().into());
        let divisor = |k: u32| {
            let along = (f64::from(k) - low) / (high - low).max(0.001);
            let kept = (1.0 - along.clamp(0.0, 1.0)) * self.ramp;
            1.0 / ((1.0 - kept) / yarn.factor + kept)
        };
        (0..config.rotary_dim() / 2).map(divisor).collect()
    }
}

enum Tensors {
    None,
    One(Vec<f64>),
    Two { long: Vec<f64>, short: Vec<f64> },
}

enum Divided {
    None,
    By(f64),
    Yarn(Yarn),
    Each(Vec<f64>),
}

impl Divided {
    /// Factors of a tensor with these divisors in them.
    fn times(&self, scaling: &FileScaling, config: &RopeConfig, factors: &[f64]) -> Vec<f64> {
        let by = |divisors: &[f64]| {
            let each = factors.iter().zip(divisors);
            each.map(|(factor, divisor)| factor * divisor).collect()
        };
        match self {
            Self::None => factors.to_vec(),
            Self::By(divisor) => factors.iter().map(|factor| factor * divisor).collect(),
            Self::Yarn(yarn) => by(&scaling.ramped(yarn, config)),
            Self::Each(divisors) => by(divisors),
        }
    }
}

/// The factors of a tensor, one for each pair.
fn checked(
    name: &'static str,
    values: Vec<f32>,
    config: &RopeConfig,
    may_be_longer: bool,
) -> Result<Vec<f64>> {
    let pairs = (config.rotary_dim() / 2) as usize;
    // Phi MoE has them for the whole head.
    let is_fitting = values.len() == pairs
        || values.len() == (config.head_dim() / 2) as usize
        || may_be_longer && values.len() > pairs;
    if !is_fitting || values.len() < pairs {
        return Err(RopeError::config(
            name,
            format!("must have {pairs} values, one for each pair"),
            values.len(),
        ));
    }
    let each = values.into_iter().take(pairs).map(|value| {
        if value.is_finite() && value > 0.0 {
            Ok(f64::from(value))
        } else {
            Err(RopeError::config(
                name,
                "must be positive finite numbers",
                value,
            ))
        }
    });
    each.collect()
}

/// Divisors of all pairs. Where they leave nothing of a frequency, which is how Gemma 4's files say that a pair does not turn, it is none.
fn factors_of(config: &RopeConfig, factors: Vec<f64>) -> Scaling {
    let dim = f64::from(config.rotary_dim());
    let rate = |k: u32| libm::pow(config.theta(), -2.0 * f64::from(k) / dim);
    let turns = |rate: f64| rate != 0.0 && TurnRate::new(rate).is_ok();
    let is_idle = |(k, factor): (u32, &f64)| *factor > 1.0 && !turns(rate(k) / factor);
    let idle: Vec<bool> = (0..).zip(&factors).map(is_idle).collect();
    let rotated = idle.iter().position(|idle| *idle).unwrap_or(idle.len());
    if rotated == idle.len() {
        return Scaling::FrequencyFactors(factors);
    }
    let is_tail = idle[rotated..].iter().all(|idle| *idle);
    let is_even = factors[..rotated]
        .iter()
        .all(|factor| same(*factor, factors[0]));
    match u32::try_from(rotated) {
        Ok(rotated_pairs @ 1..) if is_tail && is_even => Scaling::Proportional {
            rotated_pairs,
            factor: factors[0],
        },
        _ => {
            let each = factors.into_iter().zip(idle);
            let each = each.map(|(factor, idle)| if idle { f64::INFINITY } else { factor });
            Scaling::FrequencyFactors(each.collect())
        }
    }
}

#[expect(
    clippy::float_cmp,
    reason = "what differs at all is another value of the file"
)]
fn same(one: f64, other: f64) -> bool {
    one == other
}

/// The converter has divided by 10, and llama.cpp divides by 0.1, both in f32: only so is 1 what it was.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the file has it as an f32, and llama.cpp divides as f32"
)]
fn times_ten(value: f64) -> f64 {
    f64::from(value as f32 / 0.1)
}
