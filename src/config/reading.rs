//! What both readers of models' files do alike.

use std::borrow::Cow;

use crate::error::{Result, RopeError};

/// The start of a text that an error shows, and what stands for the rest.
pub(super) fn cut(text: &str) -> (&str, &'static str) {
    match text.char_indices().nth(60) {
        Some((at, _)) => (&text[..at], "…"),
        None => (text, ""),
    }
}

/// Notes a key whose value is a default, once.
pub(super) fn note(defaulted: &mut Vec<&'static str>, key: &'static str) {
    if !defaulted.contains(&key) {
        defaulted.push(key);
    }
}

/// A value that is there as what it has to be; else an error with the key's name, the rule, and the value as the reader shows it.
pub(super) fn typed<V, T>(
    value: Option<V>,
    key: impl Into<Cow<'static, str>>,
    rule: &'static str,
    as_type: impl FnOnce(&V) -> Option<T>,
    shown: impl FnOnce(&V) -> String,
) -> Result<Option<T>> {
    value
        .map(|value| as_type(&value).ok_or_else(|| RopeError::config(key, rule, shown(&value))))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let sixty = "ä".repeat(60);
        assert_eq!(cut(&sixty), (&*sixty, ""));
        let more = format!("{sixty}b");
        assert_eq!(cut(&more), (&*sixty, "…"));
    }

    #[test]
    fn a_key_is_noted_once() {
        let mut defaulted = Vec::new();
        for key in ["a", "b", "a"] {
            note(&mut defaulted, key);
        }
        assert_eq!(defaulted, ["a", "b"]);
    }
}
