//! The head of a GGUF file.

use wgpu_rope::config::gguf::{File, read_metadata};

use crate::memory::bounded;
use crate::model;

/// What the file's own description takes for each of its bytes: a key has at least 14, and takes a place in a map whose nodes may be half empty
/// (24 bytes of its name and 40 of its value, twice), and 8 bytes on the heap for its name and value each: 144 / 14, 11 for each byte.
/// Whatever the file, there is a buffer of 8 kB.
const EACH: u64 = 12;
const FIXED: u64 = 1 << 14;

/// What a model takes. An array of at most 4,096 entries of 1 byte is handed out as values of 32 bytes; there are three kinds of layers, each
/// with two lists of 32,768 divisors of 8 bytes at most; these are copied while they are compared.
const MODEL: u64 = 4096 * 32 * 2 + 3 * 4 * 2 * 32_768 * 8;

pub fn check(data: &[u8]) {
    let length = data.len() as u64;
    let file = bounded("a file", EACH * length + FIXED, || File::from_bytes(data));
    let file = match file {
        Ok(file) => file,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let read = bounded("a model", EACH * length + MODEL, || read_metadata(&file));
    match read {
        Ok(Some(model)) => model::check(&model),
        Ok(None) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
