//! See `targets/config_json.rs`.
#![no_main]

#[path = "../targets/config_json.rs"]
mod config_json;
#[path = "../targets/memory.rs"]
mod memory;
#[path = "../targets/model.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| config_json::check(data));
