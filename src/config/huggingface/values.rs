//! Values of a JSON object, with errors that name the key.

use serde_json::{Map, Value};

use crate::config::reading::{self, cut};
use crate::error::{Result, RopeError};

pub(super) type Object = Map<String, Value>;

pub(super) fn missing(key: &'static str) -> RopeError {
    RopeError::config(key, "must be given", "none")
}

/// A value as an error shows it: long ones are cut.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    let (start, rest) = cut(&text);
    format!("{start}{rest}")
}

/// What is there; `null` counts as absent.
pub(super) fn present<'a>(map: &'a Object, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn typed<'a, T>(
    map: &'a Object,
    key: &'static str,
    what: &'static str,
    as_type: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>> {
    reading::typed(
        present(map, key),
        key,
        what,
        |value| as_type(value),
        |value| shown(value),
    )
}

pub(super) fn object<'a>(map: &'a Object, key: &'static str) -> Result<Option<&'a Object>> {
    typed(map, key, "must be an object", Value::as_object)
}

pub(super) fn string<'a>(map: &'a Object, key: &'static str) -> Result<Option<&'a str>> {
    typed(map, key, "must be a string", Value::as_str)
}

pub(super) fn flag(map: &Object, key: &'static str) -> Result<Option<bool>> {
    typed(map, key, "must be true or false", Value::as_bool)
}

pub(super) fn number(map: &Object, key: &'static str) -> Result<Option<f64>> {
    typed(map, key, "must be a number", Value::as_f64)
}

/// A number above 0.
pub(super) fn positive(map: &Object, key: &'static str) -> Result<Option<f64>> {
    let is_positive = |value: &Value| value.as_f64().filter(|value| *value > 0.0);
    typed(map, key, "must be a number above 0", is_positive)
}

pub(super) fn whole(map: &Object, key: &'static str) -> Result<Option<u32>> {
    let small = |value: &Value| {
        let number = value.as_u64().or_else(|| {
            // 64.0 is a whole number too.
            let number = value.as_f64()?;
            (number.fract() == 0.0 && (0.0..4_294_967_296.0).contains(&number))
                .then(|| truncated(number).into())
        });
        number.and_then(|number| u32::try_from(number).ok())
    };
    typed(map, key, "must be a whole number below 2^32", small)
}

pub(super) fn numbers(map: &Object, key: &'static str) -> Result<Option<Vec<f64>>> {
    let all = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect();
    typed(map, key, "must be a list of numbers", all)
}

/// A list of numbers, in which `null` counts as 0.
pub(super) fn numbers_or_null(map: &Object, key: &'static str) -> Result<Option<Vec<f64>>> {
    let each = |value: &Value| match value {
        Value::Null => Some(0.0),
        value => value.as_f64(),
    };
    let all = |value: &Value| value.as_array()?.iter().map(each).collect();
    typed(map, key, "must be a list of numbers", all)
}

pub(super) fn wholes(map: &Object, key: &'static str) -> Result<Option<Vec<u32>>> {
    let small = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
    let all = |value: &Value| value.as_array()?.iter().map(small).collect();
    typed(map, key, "must be a list of whole numbers", all)
}

pub(super) fn strings(map: &Object, key: &'static str) -> Result<Option<Vec<String>>> {
    let all = |value: &Value| {
        let each = value.as_array()?.iter();
        each.map(|value| value.as_str().map(str::to_owned))
            .collect()
    };
    typed(map, key, "must be a list of strings", all)
}

/// One number for both sides, or `[height, width]`.
pub(super) fn sides(map: &Object, key: &'static str) -> Result<Option<[u32; 2]>> {
    if present(map, key).is_some_and(Value::is_array) {
        let both = wholes(map, key)?.unwrap_or_default();
        return match both[..] {
            [height, width] => Ok(Some([height, width])),
            [side] => Ok(Some([side; 2])),
            _ => Err(RopeError::config(
                key,
                "must be one or two numbers",
                both.len(),
            )),
        };
    }
    Ok(whole(map, key)?.map(|side| [side; 2]))
}

/// The whole part of a number from 0 to `u32::MAX`, as Python's `int` takes it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is within u32, and its fraction is to be cut off"
)]
pub(super) fn truncated(value: f64) -> u32 {
    value as u32
}
