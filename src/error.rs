//! What can be wrong, and with what: every message names the operand, the rule and the value.

use std::borrow::Cow;
use std::fmt;

/// The result of this crate's operations.
pub type Result<T, E = RopeError> = std::result::Result<T, E>;

/// Why nothing was made or recorded.
///
/// Nothing is ever half done: where an error is returned, no dispatch was recorded and no tensor is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RopeError {
    /// A value of a model's description (theta, a dimension, a frequency, a scaling, a key of a config file).
    Config {
        /// The parameter or key.
        operand: Cow<'static, str>,
        /// What it has to be.
        rule: Cow<'static, str>,
        /// What it was.
        got: String,
    },
    /// A shape, stride, window or element offset of a tensor.
    Layout {
        /// The tensor ([`Operand::name`](crate::Operand::name)), or a name of the shape such as `batch`.
        operand: &'static str,
        /// What has to hold.
        rule: Cow<'static, str>,
        /// What was given.
        got: String,
    },
    /// A buffer, or the part of it that was given: size, usage, alignment, device.
    Buffer {
        /// What the buffer was given for.
        operand: &'static str,
        /// What has to hold.
        rule: Cow<'static, str>,
        /// What was given.
        got: String,
    },
    /// A cos/sin table that does not serve: another width, too few rows, never filled.
    Table {
        /// What has to hold.
        rule: Cow<'static, str>,
        /// What the table is.
        got: String,
    },
    /// A count of a recording call, or of dispatches that a plan would take.
    Count {
        /// What is counted, such as `tokens` or `rows`.
        operand: &'static str,
        /// What has to hold.
        rule: Cow<'static, str>,
        /// What was asked for.
        got: u64,
    },
    /// A limit of the device is too small. Request `needed` of it in `wgpu::DeviceDescriptor::required_limits`.
    Limit {
        /// The name of the field of `wgpu::Limits`.
        limit: &'static str,
        /// What needs it.
        operand: &'static str,
        /// The least value that serves.
        needed: u64,
        /// The device's value, or that which a plan was made for.
        allowed: u64,
    },
    /// A size that does not fit the integer type it is needed in.
    Overflow {
        /// The size.
        operand: &'static str,
        /// The type it has to fit.
        rule: Cow<'static, str>,
    },
    /// No adapter serves; the text says what was looked for and what can be installed.
    NoAdapter(String),
    /// wgpu reported an error while an object was made, or the device is lost.
    Device {
        /// The object or operation.
        operand: &'static str,
        /// wgpu's own text.
        message: String,
    },
    /// The device has no memory left for an object.
    OutOfMemory {
        /// The object.
        operand: &'static str,
        /// Its size in bytes, where it has one.
        bytes: Option<u64>,
    },
}

impl RopeError {
    pub(crate) fn config(
        operand: impl Into<Cow<'static, str>>,
        rule: impl Into<Cow<'static, str>>,
        got: impl fmt::Display,
    ) -> Self {
        Self::Config {
            operand: operand.into(),
            rule: rule.into(),
            got: got.to_string(),
        }
    }

    pub(crate) fn layout(
        operand: &'static str,
        rule: impl Into<Cow<'static, str>>,
        got: impl fmt::Display,
    ) -> Self {
        Self::Layout {
            operand,
            rule: rule.into(),
            got: got.to_string(),
        }
    }

    #[cfg(feature = "wgpu")]
    pub(crate) fn buffer(
        operand: &'static str,
        rule: impl Into<Cow<'static, str>>,
        got: impl fmt::Display,
    ) -> Self {
        Self::Buffer {
            operand,
            rule: rule.into(),
            got: got.to_string(),
        }
    }

    pub(crate) fn table(rule: impl Into<Cow<'static, str>>, got: impl fmt::Display) -> Self {
        Self::Table {
            rule: rule.into(),
            got: got.to_string(),
        }
    }

    pub(crate) fn overflow(operand: &'static str, rule: impl Into<Cow<'static, str>>) -> Self {
        Self::Overflow {
            operand,
            rule: rule.into(),
        }
    }
}

impl fmt::Display for RopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { operand, rule, got } => write!(f, "{operand}: {rule}, got {got}"),
            Self::Layout { operand, rule, got } | Self::Buffer { operand, rule, got } => {
                write!(f, "{operand}: {rule}, got {got}")
            }
            Self::Table { rule, got } => write!(f, "table: {rule}, got {got}"),
            Self::Count { operand, rule, got } => write!(f, "{operand}: {rule}, got {got}"),
            Self::Limit {
                limit,
                operand,
                needed,
                allowed,
            } => write!(
                f,
                "{operand}: needs {limit} of {needed}, the device has {allowed}; request it in required_limits"
            ),
            Self::Overflow { operand, rule } => write!(f, "{operand}: {rule}, got an overflow"),
            Self::NoAdapter(text) => f.write_str(text),
            Self::Device { operand, message } => write!(f, "{operand}: wgpu reports: {message}"),
            Self::OutOfMemory {
                operand,
                bytes: Some(bytes),
            } => write!(f, "{operand}: the device has no memory for {bytes} bytes"),
            Self::OutOfMemory {
                operand,
                bytes: None,
            } => write!(f, "{operand}: the device has no memory for it"),
        }
    }
}

impl std::error::Error for RopeError {}
