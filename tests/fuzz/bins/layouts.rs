//! See `targets/layouts.rs`.
#![no_main]

#[path = "../targets/layouts.rs"]
mod layouts;
#[path = "../targets/memory.rs"]
mod memory;
#[path = "../targets/rotation.rs"]
mod rotation;
#[path = "../targets/table.rs"]
mod table;

libfuzzer_sys::fuzz_target!(|data: &[u8]| layouts::check(data));
