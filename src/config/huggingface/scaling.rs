//! One set of rope parameters: its scaling, attention factor and softmax factor.

use super::values::{Object, flag, missing, number, numbers, positive, present, string};
use crate::config::reading::note;
use crate::config::{Scaling, Yarn};
use crate::error::{Result, RopeError};

/// What a set of parameters says beside theta and dimensions.
#[derive(Debug)]
pub(super) struct Scaled {
    pub(super) scaling: Scaling,
    pub(super) attention_factor: Option<f64>,
    /// Past `LongRoPE`'s original length.
    pub(super) long_attention_factor: Option<f64>,
    pub(super) softmax_factor: f64,
}

/// What differs between families in the reading of a set.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Habits {
    /// `su` and `yarn` mean LongRoPE, and the original length is 4096 where none is given (Phi-3).
    pub(super) phi3: bool,
    /// `short_mscale` and `long_mscale` are the attention factors up to the original length and past it (`PhiMoE`).
    pub(super) phimoe: bool,
    /// Nobody knows the family: they are that where they are there (Phi-3-small).
    pub(super) unknown: bool,
    /// The set is one of several: a length beside it does not count.
    pub(super) nested: bool,
    /// YaRN has the attention factor 1 where none is given (DeepSeek V4).
    pub(super) unscaled_yarn: bool,
    /// The softmax is scaled by the square of YaRN's magnitude (multi-head latent attention).
    pub(super) softmax: bool,
}

/// The context length of the first training: beside the set, where it is the only one, else inside it, else the class's, else
/// `max_position_embeddings`.
pub(super) fn original_length(
    file: &Object,
    set: &Object,
    habits: Habits,
    defaulted: &mut Vec<&'static str>,
) -> Result<f64> {
    const KEY: &str = "original_max_position_embeddings";
    let beside = if habits.nested {
        None
    } else {
        positive(file, KEY)?
    };
    if let Some(length) = beside.or(positive(set, KEY)?) {
        return Ok(length);
    }
    if habits.phi3 {
        note(defaulted, KEY);
        return Ok(4096.0);
    }
    longest(file)
}

fn longest(file: &Object) -> Result<f64> {
    const KEY: &str = "max_position_embeddings";
    positive(file, KEY)?.ok_or_else(|| missing(KEY))
}

/// Reads the scaling of a set. `file` is what the set stands in; `head_dim` and `rotary_dim` of the head are known.
pub(super) fn read(
    file: &Object,
    set: &Object,
    head_dim: u32,
    partial: f64,
    habits: Habits,
    defaulted: &mut Vec<&'static str>,
) -> Result<Scaled> {
    let name = match string(set, "rope_type")? {
        Some(name) => name,
        None => string(set, "type")?.unwrap_or("default"),
    };
    let required = |key: &'static str| positive(set, key)?.ok_or_else(|| missing(key));
    let mut original = || original_length(file, set, habits, defaulted);
    // Other types have none, whatever the set says.
    let own_factor = || number(set, "attention_factor");
    let mut attention_factor = None;
    let mut long_attention_factor = None;
    let mut softmax_factor = 1.0;
    let name = match name {
        "su" | "yarn" if habits.phi3 => "longrope",
        other => other,
    };
    let scaling = match name {
        // M-RoPE is default with sections, which are read elsewhere; so are the axes of a vision tower.
        "default" | "mrope" | "axial" | "none" => Scaling::None,
        "linear" => Scaling::Linear {
            factor: required("factor")?,
        },
        // Hunyuan's: its text models call it dynamic, its vision models by the sections that go with it.
        "dynamic" | "xdrope" if name == "xdrope" || present(set, "alpha").is_some() => {
            Scaling::NtkAlpha {
                alpha: required("alpha")?,
            }
        }
        "dynamic" => Scaling::Dynamic {
            factor: required("factor")?,
            max_position_embeddings: longest(file)?,
        },
        "ntk" => Scaling::Ntk {
            factor: required("factor")?,
            mixed_b: positive(set, "mixed_b")?,
        },
        "yarn" | "deepseek_yarn" | "telechat3-yarn" => {
            // `null` asks for the quotient of the lengths.
            let factor = match positive(set, "factor")? {
                Some(factor) => factor,
                None if set.contains_key("factor") => longest(file)? / original()?,
                None => return Err(missing("factor")),
            };
            let beta = |key, default| {
                Ok::<_, RopeError>(match number(set, key)? {
                    None | Some(0.0) => default,
                    Some(value) => value,
                })
            };
            let yarn = Yarn::new(factor, original()?)
                .with_betas(beta("beta_fast", 32.0)?, beta("beta_slow", 1.0)?)
                .with_mscale(number(set, "mscale")?, number(set, "mscale_all_dim")?)
                .with_truncate(flag(set, "truncate")?.unwrap_or(true));
            attention_factor = own_factor()?;
            if habits.softmax {
                softmax_factor = yarn.softmax_factor();
            }
            if name == "deepseek_yarn" {
                // Its own rule: one of the two counts without the other.
                let of = |key, default| Ok::<_, RopeError>(number(set, key)?.unwrap_or(default));
                let (own, all) = (of("mscale", 1.0)?, of("mscale_all_dim", 0.0)?);
                let factor = yarn.magnitude(own) / yarn.magnitude(all);
                attention_factor = attention_factor.or(Some(factor));
            }
            if name == "telechat3-yarn" && yarn.factor() > 1.0 {
                // Its own coefficient.
                let factor = 0.07 * libm::log(yarn.factor()) + 1.0;
                attention_factor = attention_factor.or(Some(factor));
            }
            if habits.unscaled_yarn {
                attention_factor = attention_factor.or(Some(1.0));
            }
            Scaling::Yarn(yarn)
        }
        "longrope" | "su" => {
            let list = |key| numbers(set, key)?.ok_or_else(|| missing(key));
            let short_factor = list("short_factor")?;
            let long_factor = list("long_factor")?;
            attention_factor = own_factor()?;
            let is_said = present(set, "short_mscale").or(present(set, "long_mscale"));
            if habits.phimoe || habits.unknown && is_said.is_some() {
                let said = |key| number(set, key)?.ok_or_else(|| missing(key));
                let (short, long) = (said("short_mscale")?, said("long_mscale")?);
                attention_factor = Some(short);
                #[expect(clippy::float_cmp, reason = "another factor is another one")]
                if long != short {
                    long_attention_factor = Some(long);
                }
            }
            Scaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original()?,
                factor: match positive(set, "factor")? {
                    Some(factor) => factor,
                    None => longest(file)? / original()?,
                },
            }
        }
        "llama3" => Scaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_max_position_embeddings: original()?,
        },
        "proportional" => Scaling::Proportional {
            rotated_pairs: super::values::truncated((partial * f64::from(head_dim) / 2.0).floor()),
            factor: positive(set, "factor")?.unwrap_or(1.0),
        },
        other => {
            return Err(RopeError::config(
                "rope_type",
                "must be default, linear, dynamic, ntk, yarn, longrope, llama3, proportional or xdrope",
                other,
            ));
        }
    };
    Ok(Scaled {
        scaling,
        attention_factor,
        long_attention_factor,
        softmax_factor,
    })
}
