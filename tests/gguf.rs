//! GGUF files written with the gguf package of llama.cpp, and what llama.cpp makes of them: its rules in f64.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops where something is not as it has to be"
)]

use std::path::Path;

use serde_json::Value;
use wgpu_rope::config::gguf;
use wgpu_rope::{Frequencies, Pairing};

#[test]
fn files_are_read_as_llama_cpp_reads_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            count += 1;
            check(&path);
        }
    }
    assert_eq!(count, 6);
}

fn check(path: &Path) {
    let text = std::fs::read_to_string(path.with_extension("json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let file = gguf::File::open(path).unwrap();
    let model = gguf::read_metadata(&file).unwrap().unwrap();
    assert_eq!(model.family, expected["arch"].as_str());
    let mut layers = 0;
    for kind in expected["kinds"].as_array().unwrap() {
        // The factors of a longer context stand in a kind of their own.
        let tokens = if kind["name"] == "long" { 1 << 20 } else { 0 };
        for layer in kind["layers"].as_array().unwrap() {
            let layer = u32::try_from(layer.as_u64().unwrap()).unwrap();
            layers += usize::from(tokens == 0);
            let rope = model.layer(layer).unwrap().rope.as_ref().unwrap();
            let config = &rope.config;
            let name = format!("{} layer {layer}", path.display());
            assert_eq!(
                Some(u64::from(config.rotary_dim())),
                kind["rotary_dim"].as_u64(),
                "{name}"
            );
            assert_eq!(
                Some(u64::from(config.rotary_offset())),
                kind["offset"].as_u64(),
                "{name}"
            );
            assert_eq!(
                Some(u64::from(config.head_dim())),
                expected["head_dim"].as_u64(),
                "{name}"
            );
            assert_eq!(Some(config.theta()), kind["theta"].as_f64(), "{name}");
            let is_half = expected["pairing"] == "half";
            assert_eq!(config.pairing() == Pairing::HalfSplit, is_half, "{name}");
            let frequencies = Frequencies::for_length(config, tokens).unwrap();
            let factor = kind["attention_factor"].as_f64().unwrap();
            assert!(
                (frequencies.attention_factor() / factor - 1.0).abs() < 1e-12,
                "{name}"
            );
            let theirs = kind["inv_freq"].as_array().unwrap();
            assert_eq!(frequencies.len(), theirs.len(), "{name}");
            for (own, theirs) in frequencies.inv_freq().zip(theirs) {
                assert!(
                    (own / theirs.as_f64().unwrap() - 1.0).abs() < 1e-12,
                    "{name}"
                );
            }
            for (k, pair) in frequencies.pairs().iter().enumerate() {
                let axis = kind["axes"][k].as_str().unwrap_or("t");
                assert_eq!(["t", "h", "w"][pair.axis as usize], axis, "{name}");
            }
        }
    }
    for key in ["nope_layers", "recurrent_layers"] {
        for layer in expected[key].as_array().unwrap_or(&Vec::new()) {
            let layer = u32::try_from(layer.as_u64().unwrap()).unwrap();
            layers += 1;
            assert_eq!(model.layer(layer).unwrap().rope, None);
        }
    }
    assert_eq!(model.layers.len(), layers);
}
