//! The text of a `config.json`, whole and by its parts.

use wgpu_rope::config::huggingface::{Part, read_config, read_part};

use crate::memory::bounded;
use crate::model;

/// What reading may take for each byte of a file.
///
/// - The JSON itself: an object of one entry, `{"":0},`, has 7 bytes and takes a node of serde_json's map of 11 keys of 24 bytes and values
///   of 32, and a place in a vector that grows: (632 + 3 * 32) / 7, 104 for each byte.
/// - A set of parameters may be copied, and a copy of it changed: twice 104.
/// - Each of at most 256 kinds of layers keeps its divisors: a number and its comma have 2 bytes and are 8, in two lists of which a file has
///   to have both: 4 for each byte and kind.
const EACH: u64 = 3 * 104 + 256 * 4;

/// And whatever the file: 65,536 layers, each with its name (24 bytes and up to 27 on the heap), whether it turns (16) and its kind (8),
/// in vectors that grow to three times that; and an error's text.
const FIXED: u64 = 16 << 20;

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let most = EACH * data.len() as u64 + FIXED;
    let main = bounded("a config.json", most, || read_config(text));
    if let Ok(Some(model)) = &main {
        model::check(model);
    }
    for part in [
        Part::Main,
        Part::Text,
        Part::Vision,
        Part::Audio,
        Part::Key("thinker"),
        Part::Key("thinker_config.text_config"),
    ] {
        let read = bounded("a part", most, || read_part(text, part));
        match read {
            Ok(Some(model)) if main.as_ref() != Ok(&Some(model.clone())) => model::check(&model),
            Err(error) => assert!(!error.to_string().is_empty()),
            _ => {}
        }
    }
}
