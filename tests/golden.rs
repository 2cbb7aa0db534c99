//! A Llama-3.1 layer rotated by another implementation (transformers 5.23 with torch on the CPU): this crate's result on
//! every adapter and on the CPU against the f64 truth of the same inputs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::path::Path;

use common::{CONTEXTS, name};
use safetensors::{Dtype, SafeTensors};
use wgpu_rope::config::huggingface;
use wgpu_rope::{Direction, ElementType, Frequencies, HeadLayout, RotateSpec, Rows, reference};

fn bytes(file: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(file),
    )
    .unwrap()
}

fn f64s(tensors: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F64);
    tensor
        .data()
        .chunks_exact(8)
        .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn f32s(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32);
    tensor
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

#[test]
fn a_llama_layer_is_rotated_as_it_truly_is() {
    let case: serde_json::Value = serde_json::from_slice(&bytes("llama31_8b_llama3.json")).unwrap();
    let file = bytes("llama31_8b_llama3.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let config = huggingface::read_config(&case["config"].to_string())
        .unwrap()
        .config;
    let frequencies = Frequencies::new(&config).unwrap();
    for (own, theirs) in frequencies.inv_freq().zip(f64s(&tensors, "inv_freq_f64")) {
        assert!((own / theirs - 1.0).abs() < 1e-12, "{own} {theirs}");
    }
    let positions: Vec<i32> = tensors
        .tensor("position_ids")
        .unwrap()
        .data()
        .chunks_exact(8)
        .map(|b| i32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap())
        .collect();
    // [2, heads, 16, 128]; every batch entry has its own positions.
    let spec = RotateSpec::new(
        &config,
        2,
        16,
        HeadLayout::bhsd(16, 2, 128),
        ElementType::F32,
    )
    .with_key(HeadLayout::bhsd(16, 1, 128), ElementType::F32)
    .with_rows(Rows::PerToken);
    let (query, key) = (f32s(&tensors, "q"), f32s(&tensors, "k"));
    let (mut q, mut k) = (query.clone(), key.clone());
    let rows =
        reference::table(&frequencies, positions.iter().copied(), Direction::Forward).unwrap();
    reference::rotate(&spec, &rows, &mut q, Some(&mut k)).unwrap();

    let mut theirs = 0.0_f64;
    for (result, truth, other) in [(&q, "truth_q", "expected_q"), (&k, "truth_k", "expected_k")] {
        let (truth, other) = (f64s(&tensors, truth), f32s(&tensors, other));
        let largest = query
            .iter()
            .chain(&key)
            .fold(0.0_f64, |m, x| m.max(f64::from(x.abs())));
        // |x c| + |y s| is at most sqrt(2) times the larger; 3.01 * 2^-24 of that is the bound of tests/rotate.rs.
        let bound = 3.01 * 2_f64.powi(-24) * largest * std::f64::consts::SQRT_2;
        for (i, (result, truth)) in result.iter().zip(&truth).enumerate() {
            assert!(
                (f64::from(*result) - truth).abs() <= bound,
                "{i}: {result} {truth}"
            );
        }
        for (other, truth) in other.iter().zip(&truth) {
            theirs = theirs.max((f64::from(*other) - truth).abs());
        }
    }
    // Positions up to 1,000,000: the other implementation's f32 angles are off by this much, as its file says.
    assert!(
        (theirs - case["err_f32_vs_truth"].as_f64().unwrap()).abs() < 1e-9,
        "{theirs}"
    );

    for context in &*CONTEXTS {
        let (mut gpu_q, mut gpu_k) = (query.clone(), key.clone());
        context
            .rotate_blocking(
                &spec,
                &frequencies,
                &positions,
                Direction::Forward,
                &mut gpu_q,
                Some(&mut gpu_k),
            )
            .unwrap();
        assert!(gpu_q == q && gpu_k == k, "{}", name(context));
    }
}
