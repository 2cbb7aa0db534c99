//! Values of an architecture's keys, with errors that name the key in full.

use std::fmt;

use super::architectures::Architecture;
use super::{Metadata, Value};
use crate::config::reading;
use crate::error::{Result, RopeError};

/// The keys of a file. Their names are given without the architecture, which stands before each.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a dyn Metadata,
    pub(super) architecture: &'static Architecture,
    /// Keys whose values are llama.cpp's defaults. Those whose default is another key's value, such as the whole head, are not among them.
    pub(super) defaulted: Vec<&'static str>,
}

/// One value for all layers, or one for each.
#[derive(Debug)]
pub(super) enum PerLayer {
    All(u32),
    Each(Vec<u32>),
}

impl PerLayer {
    pub(super) fn at(&self, layer: usize) -> u32 {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values.get(layer).copied().unwrap_or(0),
        }
    }
}

/// A text as an error shows it: long ones are cut.
pub(super) fn cut(text: &str) -> String {
    let (start, rest) = reading::cut(text);
    format!("{start:?}{rest}")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Unsigned(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Bool(value) => value.to_string(),
        Value::String(text) => cut(text),
        Value::Array(values) => format!("an array of {}", values.len()),
        Value::Other => "another value".into(),
    }
}

fn whole(value: &Value) -> Option<u32> {
    match value {
        Value::Unsigned(value) => u32::try_from(*value).ok(),
        Value::Signed(value) => u32::try_from(*value).ok(),
        _ => None,
    }
}

/// A whole number of an array, where a truth value is one too.
fn entry(value: &Value) -> Option<u32> {
    match value {
        Value::Bool(value) => Some(u32::from(*value)),
        value => whole(value),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an integer for a float is small"
)]
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(value) => Some(*value),
        Value::Unsigned(value) => Some(*value as f64),
        Value::Signed(value) => Some(*value as f64),
        _ => None,
    }
}

impl<'a> Keys<'a> {
    pub(super) fn new(metadata: &'a dyn Metadata, architecture: &'static Architecture) -> Self {
        Self {
            metadata,
            architecture,
            defaulted: Vec::new(),
        }
    }

    /// A key in full.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name)
    }

    pub(super) fn value(&self, key: &str) -> Option<Value> {
        self.metadata.value(&self.name(key))
    }

    pub(super) fn fault(
        &self,
        key: &str,
        rule: impl Into<String>,
        got: impl fmt::Display,
    ) -> RopeError {
        RopeError::config(self.name(key), rule.into(), got)
    }

    pub(super) fn missing(&self, key: &str) -> RopeError {
        self.fault(key, "must be given", "none")
    }

    /// Notes a key whose value is a default, once.
    pub(super) fn note(&mut self, key: &'static str) {
        reading::note(&mut self.defaulted, key);
    }

    fn typed<T>(
        &self,
        key: &str,
        what: &'static str,
        as_type: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        reading::typed(self.value(key), self.name(key), what, as_type, shown)
    }

    pub(super) fn whole(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "must be a whole number below 2^32", whole)
    }

    pub(super) fn required(&self, key: &str) -> Result<u32> {
        self.whole(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        let finite = |value: &Value| number(value).filter(|value| value.is_finite());
        self.typed(key, "must be a finite number", finite)
    }

    /// A number above 0.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        let positive =
            |value: &Value| number(value).filter(|value| value.is_finite() && *value > 0.0);
        self.typed(key, "must be a number above 0", positive)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        let flag = |value: &Value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        };
        self.typed(key, "must be true or false", flag)
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<String>> {
        let string = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        self.typed(key, "must be a string", string)
    }

    /// An array of whole numbers or truth values, with at least so many of them.
    pub(super) fn list(&self, key: &str, least: usize) -> Result<Option<Vec<u32>>> {
        let all = |value: &Value| match value {
            Value::Array(values) => values.iter().map(entry).collect(),
            _ => None,
        };
        let list: Option<Vec<u32>> = self.typed(key, "must be an array of whole numbers", all)?;
        if let Some(list) = list.as_ref().filter(|list| list.len() < least) {
            return Err(self.fault(
                key,
                format!("must have an entry for each of {least} layers"),
                list.len(),
            ));
        }
        Ok(list)
    }

    pub(super) fn per_layer(&self, key: &str, layers: usize) -> Result<Option<PerLayer>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(_)) => Ok(self.list(key, layers)?.map(PerLayer::Each)),
            Some(value) => match entry(&value) {
                Some(value) => Ok(Some(PerLayer::All(value))),
                None => Err(self.fault(
                    key,
                    "must be a whole number below 2^32, or an array of these",
                    shown(&value),
                )),
            },
        }
    }

    /// The four sections of M-RoPE, of which one number stands for all.
    pub(super) fn sections(&self) -> Result<Option<[u32; 4]>> {
        const KEY: &str = "rope.dimension_sections";
        match self.per_layer(KEY, 0)? {
            None => Ok(None),
            Some(PerLayer::All(section)) => Ok(Some([section; 4])),
            Some(PerLayer::Each(sections)) => match sections[..] {
                [time, height, width, extra] => Ok(Some([time, height, width, extra])),
                _ => Err(self.fault(KEY, "must be four numbers", sections.len())),
            },
        }
    }
}
