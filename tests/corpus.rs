//! The corpus of the fuzzer, once through its own targets: what was found stays found, without libFuzzer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "a test stops where something is not as it has to be; and it takes parts of what the fuzzer has"
)]

#[cfg(feature = "huggingface")]
#[path = "fuzz/targets/config_json.rs"]
mod config_json;
#[cfg(feature = "gguf")]
#[path = "fuzz/targets/gguf.rs"]
mod gguf;
#[path = "fuzz/targets/layouts.rs"]
mod layouts;
#[path = "fuzz/targets/memory.rs"]
mod memory;
#[cfg(any(feature = "huggingface", feature = "gguf"))]
#[path = "fuzz/targets/model.rs"]
mod model;
#[path = "fuzz/targets/rotation.rs"]
mod rotation;
#[path = "fuzz/targets/table.rs"]
mod table;

use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(folder.join(target)).unwrap() {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        let done = std::panic::catch_unwind(|| check(&data));
        assert!(done.is_ok(), "{} fails", path.display());
        count += 1;
    }
    assert!(count > 100, "{count} files for {target}");
}

#[cfg(feature = "huggingface")]
#[test]
fn configs() {
    replay("config_json", config_json::check);
}

#[cfg(feature = "gguf")]
#[test]
fn heads_of_gguf_files() {
    replay("gguf", gguf::check);
}

#[test]
fn layouts_and_plans() {
    replay("layouts", layouts::check);
}
