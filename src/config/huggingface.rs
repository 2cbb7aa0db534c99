//! The RoPE of a model from its Hugging Face `config.json`.
//!
//! Both forms are read: `rope_theta` with `rope_scaling` (transformers 4), and `rope_parameters` (transformers 5, one set for
//! all layers). Families whose rotation is LLaMA's are known so far; any other `model_type` is an error, not a guess.

use serde_json::{Map, Value};

use crate::config::{RopeConfig, Scaling, Yarn};
use crate::error::{Result, RopeError};

/// A family that rotates as LLaMA does, half-split over the whole head, with what its class of transformers 5.23 takes
/// where a file says nothing.
struct Family {
    name: &'static str,
    theta: f64,
    head_dim: Option<u32>,
}

const fn family(name: &'static str, theta: f64, head_dim: Option<u32>) -> Family {
    Family {
        name,
        theta,
        head_dim,
    }
}

const FAMILIES: [Family; 5] = [
    family("llama", 1e4, None),
    family("mistral", 1e4, None),
    family("mixtral", 1e6, None),
    family("qwen2", 1e4, None),
    family("qwen3", 1e4, Some(128)),
];

/// What a model's file says of its RoPE.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelRope {
    /// The rotation of all its layers.
    pub config: RopeConfig,
    /// The `model_type` of the file, if it has one.
    pub family: Option<&'static str>,
    /// Keys that the file does not have, whose values are the family's defaults.
    pub defaulted: Vec<&'static str>,
}

/// Reads the text of a `config.json`.
///
/// ```
/// let text = r#"{ "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 500000.0,
///     "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
///                       "original_max_position_embeddings": 8192 } }"#;
/// let rope = wgpu_rope::config::huggingface::read_config(text)?.config;
/// assert_eq!((rope.head_dim(), rope.theta()), (128, 500_000.0));
/// # Ok::<(), wgpu_rope::RopeError>(())
/// ```
///
/// # Errors
/// [`RopeError::Config`] naming the key: text that is no JSON object, an unknown `model_type` or rope type, a required key that is missing, a value of the wrong type or
/// out of range.
pub fn read_config(text: &str) -> Result<ModelRope> {
    let file: Value = serde_json::from_str(text)
        .map_err(|error| RopeError::config("config.json", "must be JSON", error))?;
    let file = object("config.json", &file)?;
    let family = match file.get("model_type") {
        None => None,
        Some(value) => {
            let name = string("model_type", value)?;
            let known = FAMILIES.iter().find(|family| family.name == name);
            Some(known.ok_or_else(|| {
                let names = FAMILIES.map(|family| family.name).join(", ");
                RopeError::config("model_type", format!("must be one of {names}"), name)
            })?)
        }
    };
    // The newer form holds everything; the older one theta beside the scaling.
    let nested = match (file.get("rope_parameters"), file.get("rope_scaling")) {
        (Some(Value::Null) | None, Some(Value::Null) | None) => None,
        (Some(value @ Value::Object(_)), _) => Some(object("rope_parameters", value)?),
        (Some(Value::Null) | None, Some(value)) => Some(object("rope_scaling", value)?),
        (Some(value), _) => Some(object("rope_parameters", value)?),
    };
    let either = |key: &'static str| -> Result<Option<f64>> {
        Ok(
            match nested.map(|nested| number(nested, key)).transpose()? {
                Some(Some(value)) => Some(value),
                _ => number(file, key)?,
            },
        )
    };
    let mut defaulted = Vec::new();
    let theta = match (either("rope_theta")?, family) {
        (Some(theta), _) => theta,
        (None, Some(family)) => {
            defaulted.push("rope_theta");
            family.theta
        }
        (None, None) => return Err(missing("rope_theta")),
    };
    let head_dim = head_dim(file, family, &mut defaulted)?;
    let rotary_dim = match either("partial_rotary_factor")? {
        None => head_dim,
        Some(part) if part > 0.0 && part <= 1.0 => truncated(f64::from(head_dim) * part),
        Some(part) => {
            return Err(RopeError::config(
                "partial_rotary_factor",
                "must be above 0 and at most 1",
                part,
            ));
        }
    };
    let mut config = RopeConfig::new(head_dim)
        .with_theta(theta)
        .with_rotary_dim(rotary_dim);
    if let Some(nested) = nested {
        config = config.with_scaling(scaling(file, nested)?);
        if let Some(factor) = number(nested, "attention_factor")? {
            config = config.with_attention_factor(factor);
        }
    }
    config.validate()?;
    Ok(ModelRope {
        config,
        family: family.map(|family| family.name),
        defaulted,
    })
}

fn scaling(file: &Map<String, Value>, nested: &Map<String, Value>) -> Result<Scaling> {
    let name = match (nested.get("rope_type"), nested.get("type")) {
        (Some(value), _) => string("rope_type", value)?,
        (None, Some(value)) => string("type", value)?,
        (None, None) => return Err(missing("rope_type")),
    };
    // Several positions for a token: not read as if it were one.
    for key in ["mrope_section", "xdrope_section"] {
        if let Some(value) = nested.get(key) {
            return Err(RopeError::config(key, "is not known yet", value));
        }
    }
    let required = |key: &'static str| number(nested, key)?.ok_or_else(|| missing(key));
    let longest = || {
        number(file, "max_position_embeddings")?.ok_or_else(|| missing("max_position_embeddings"))
    };
    // Beside the dictionary it counts for more than inside, and the model's whole length stands in for it.
    let original = || {
        let key = "original_max_position_embeddings";
        match (number(file, key)?, number(nested, key)?) {
            (Some(value), _) | (None, Some(value)) => Ok(value),
            (None, None) => longest(),
        }
    };
    match name {
        "default" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear {
            factor: required("factor")?,
        }),
        "dynamic" => Ok(Scaling::Dynamic {
            factor: required("factor")?,
            max_position_embeddings: longest()?,
        }),
        "yarn" => {
            // `null` asks for the quotient of the lengths.
            let factor = match nested.get("factor") {
                Some(Value::Null) => longest()? / original()?,
                _ => required("factor")?,
            };
            let beta = |key, default| {
                Ok(match number(nested, key)? {
                    None | Some(0.0) => default,
                    Some(value) => value,
                })
            };
            let truncate = match nested.get("truncate") {
                None | Some(Value::Null) => true,
                Some(value) => value
                    .as_bool()
                    .ok_or_else(|| RopeError::config("truncate", "must be true or false", value))?,
            };
            Ok(Scaling::Yarn(
                Yarn::new(factor, original()?)
                    .with_betas(beta("beta_fast", 32.0)?, beta("beta_slow", 1.0)?)
                    .with_mscale(number(nested, "mscale")?, number(nested, "mscale_all_dim")?)
                    .with_truncate(truncate),
            ))
        }
        "longrope" | "su" => Ok(Scaling::LongRope {
            short_factor: numbers(nested, "short_factor")?,
            long_factor: numbers(nested, "long_factor")?,
            original_max_position_embeddings: original()?,
            factor: match number(nested, "factor")? {
                Some(factor) => factor,
                None => longest()? / original()?,
            },
        }),
        "llama3" => Ok(Scaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_max_position_embeddings: original()?,
        }),
        other => Err(RopeError::config(
            "rope_type",
            "must be default, linear, dynamic, yarn, longrope or llama3",
            other,
        )),
    }
}

fn head_dim(
    file: &Map<String, Value>,
    family: Option<&Family>,
    defaulted: &mut Vec<&'static str>,
) -> Result<u32> {
    if let Some(head_dim) = whole(file, "head_dim")? {
        return Ok(head_dim);
    }
    if let Some(head_dim) = family.and_then(|family| family.head_dim) {
        defaulted.push("head_dim");
        return Ok(head_dim);
    }
    let hidden = whole(file, "hidden_size")?.ok_or_else(|| missing("head_dim"))?;
    let heads =
        whole(file, "num_attention_heads")?.ok_or_else(|| missing("num_attention_heads"))?;
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(RopeError::config(
            "num_attention_heads",
            format!("must divide hidden_size {hidden}"),
            heads,
        ));
    }
    Ok(hidden / heads)
}

fn missing(key: &'static str) -> RopeError {
    RopeError::config(key, "must be given", "none")
}

fn object<'a>(key: &'static str, value: &'a Value) -> Result<&'a Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| RopeError::config(key, "must be an object", value))
}

fn string<'a>(key: &'static str, value: &'a Value) -> Result<&'a str> {
    value
        .as_str()
        .ok_or_else(|| RopeError::config(key, "must be a string", value))
}

/// A number; `null` counts as absent.
fn number(map: &Map<String, Value>, key: &'static str) -> Result<Option<f64>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| RopeError::config(key, "must be a number", value)),
    }
}

fn numbers(map: &Map<String, Value>, key: &'static str) -> Result<Vec<f64>> {
    let value = map.get(key).ok_or_else(|| missing(key))?;
    value
        .as_array()
        .and_then(|values| values.iter().map(Value::as_f64).collect())
        .ok_or_else(|| RopeError::config(key, "must be a list of numbers", "something else"))
}

fn whole(map: &Map<String, Value>, key: &'static str) -> Result<Option<u32>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .and_then(|value| u32::try_from(value).ok())
            .map(Some)
            .ok_or_else(|| RopeError::config(key, "must be a whole number below 2^32", value)),
    }
}

/// The whole part of a number from 0 to `u32::MAX`, as Python's `int` takes it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is a part of a u32, and its fraction is to be cut off"
)]
fn truncated(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        read_config(text).unwrap_err().to_string()
    }

    #[test]
    fn both_forms_say_the_same() -> Result<()> {
        let old = r#"{"model_type": "llama", "hidden_size": 2048, "num_attention_heads": 32, "rope_theta": 500000.0,
            "rope_scaling": {"type": "linear", "factor": 4}}"#;
        let new = r#"{"model_type": "llama", "head_dim": 64, "rope_parameters": {"rope_theta": 500000.0,
            "rope_type": "linear", "factor": 4}, "rope_scaling": null}"#;
        let rope = read_config(old)?;
        assert_eq!(rope, read_config(new)?);
        assert_eq!(rope.family, Some("llama"));
        assert!(rope.defaulted.is_empty());
        assert_eq!(
            rope.config,
            RopeConfig::new(64)
                .with_theta(5e5)
                .with_scaling(Scaling::Linear { factor: 4.0 })
        );
        // 36 * 0.9 is 32.4: cut off, not rounded.
        let partial =
            read_config(r#"{"head_dim": 36, "rope_theta": 1e4, "partial_rotary_factor": 0.9}"#)?;
        assert_eq!(partial.config.rotary_dim(), 32);
        // What a family's class would take, and that it was taken.
        let mixtral = read_config(r#"{"model_type": "mixtral", "head_dim": 128}"#)?;
        assert_eq!(mixtral.config.theta(), 1e6);
        assert_eq!(mixtral.defaulted, ["rope_theta"]);
        let qwen3 = read_config(
            r#"{"model_type": "qwen3", "rope_theta": 1e6, "hidden_size": 1024, "num_attention_heads": 16}"#,
        )?;
        assert_eq!(qwen3.config.head_dim(), 128);
        assert_eq!(qwen3.defaulted, ["head_dim"]);
        Ok(())
    }

    #[test]
    fn scalings_are_read_with_their_rules() -> Result<()> {
        let scaled = |more: &str, scaling: &str| {
            let text = format!(
                r#"{{"head_dim": 4, "rope_theta": 10000, "max_position_embeddings": 400, {more} "rope_scaling": {scaling}}}"#
            );
            Ok::<_, RopeError>(read_config(&text)?.config)
        };
        let config = |scaling| RopeConfig::new(4).with_scaling(scaling);
        assert_eq!(
            scaled(
                "",
                r#"{"type": "yarn", "factor": null, "original_max_position_embeddings": 100}"#
            )?,
            config(Scaling::Yarn(Yarn::new(4.0, 100.0)))
        );
        let yarn = r#"{"type": "yarn", "factor": 8, "beta_fast": 20, "beta_slow": 0, "mscale": 1.0, "mscale_all_dim": 0.5,
            "truncate": false, "attention_factor": 2.0, "original_max_position_embeddings": 100}"#;
        assert_eq!(
            // Beside the dictionary it counts for more.
            scaled(r#""original_max_position_embeddings": 50,"#, yarn)?,
            config(Scaling::Yarn(
                Yarn::new(8.0, 50.0)
                    .with_betas(20.0, 1.0)
                    .with_mscale(Some(1.0), Some(0.5))
                    .with_truncate(false)
            ))
            .with_attention_factor(2.0)
        );
        assert_eq!(
            scaled("", r#"{"rope_type": "dynamic", "factor": 2}"#)?,
            config(Scaling::Dynamic {
                factor: 2.0,
                max_position_embeddings: 400.0
            })
        );
        let longrope = r#"{"type": "su", "short_factor": [1, 2], "long_factor": [3, 4.5]}"#;
        assert_eq!(
            scaled(r#""original_max_position_embeddings": 100,"#, longrope)?,
            config(Scaling::LongRope {
                short_factor: vec![1.0, 2.0],
                long_factor: vec![3.0, 4.5],
                original_max_position_embeddings: 100.0,
                factor: 4.0
            })
        );
        let fault = scaled(
            "",
            r#"{"type": "su", "short_factor": [1, "x"], "long_factor": [3, 4.5]}"#,
        );
        assert_eq!(
            fault.map_err(|error| error.to_string()),
            Err("short_factor: must be a list of numbers, got something else".to_owned())
        );
        Ok(())
    }

    #[test]
    fn faults_name_the_key() {
        for (text, expected) in [
            ("[1]", "config.json: must be an object, got [1]"),
            (r#"{"head_dim": 64}"#, "rope_theta: must be given, got none"),
            (
                r#"{"model_type": "llama"}"#,
                "head_dim: must be given, got none",
            ),
            (
                r#"{"model_type": "bert"}"#,
                "model_type: must be one of llama, mistral, mixtral, qwen2, qwen3, got bert",
            ),
            (
                r#"{"head_dim": -1, "rope_theta": 1}"#,
                "head_dim: must be a whole number below 2^32, got -1",
            ),
            (
                r#"{"head_dim": 64, "rope_theta": "x"}"#,
                "rope_theta: must be a number, got \"x\"",
            ),
            (
                r#"{"head_dim": 64, "rope_theta": 0}"#,
                "theta: must be a positive finite number, got 0",
            ),
            (
                r#"{"hidden_size": 65, "num_attention_heads": 2, "rope_theta": 1}"#,
                "num_attention_heads: must divide hidden_size 65, got 2",
            ),
            (
                r#"{"head_dim": 64, "rope_theta": 1, "rope_scaling": {"rope_type": "new"}}"#,
                "rope_type: must be default, linear, dynamic, yarn, longrope or llama3, got new",
            ),
            (
                r#"{"head_dim": 64, "rope_theta": 1, "rope_scaling": {"type": "llama3", "factor": 8}}"#,
                "low_freq_factor: must be given, got none",
            ),
            (
                r#"{"head_dim": 64, "rope_theta": 1, "rope_scaling": {"type": "default", "mrope_section": [1]}}"#,
                "mrope_section: is not known yet, got [1]",
            ),
            (
                r#"{"head_dim": 64, "rope_theta": 1, "rope_parameters": 3}"#,
                "rope_parameters: must be an object, got 3",
            ),
            (
                r#"{"head_dim": 64, "rope_theta": 1, "partial_rotary_factor": 1.5}"#,
                "partial_rotary_factor: must be above 0 and at most 1, got 1.5",
            ),
        ] {
            assert_eq!(fault(text), expected);
        }
        assert!(fault("{").starts_with("config.json: must be JSON, got EOF"));
    }
}
