//! See `targets/gguf.rs`.
#![no_main]

#[path = "../targets/gguf.rs"]
mod gguf;
#[path = "../targets/memory.rs"]
mod memory;
#[path = "../targets/model.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| gguf::check(data));
