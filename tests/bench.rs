//! The `bench` example as its users run it, and what it believes of timestamps.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be"
)]

mod common;
#[path = "../benches/measure/mod.rs"]
mod measure;
#[path = "common/program.rs"]
mod program;

use std::process::{Command, Output};
use std::time::Duration;

use measure::{Case, Workload};
use serde_json::Value;

/// Runs it with arguments that have no spaces in them.
fn run(arguments: &str) -> Output {
    Command::new(program::example("bench"))
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

/// What it prints where it ends well.
fn printed(arguments: &str) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments}: {errors}");
    // The bar is for terminals. Drivers may have a word to say there.
    assert!(!errors.contains(['\r', '\u{1b}']), "{arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn rows(arguments: &str) -> Vec<Value> {
    serde_json::from_str(&printed(&format!("{arguments} --output json"))).unwrap()
}

fn adapters() -> usize {
    printed("--list-devices").lines().count()
}

/// One dispatch, once.
const ONCE: &str = "--rounds 1 --dispatches 1";

#[test]
fn every_combination_of_the_lists_is_one_object_with_all_keys() {
    let rows = rows(
        "--tokens 3,17 --heads 6 --kv-heads 0,2 --head-dim 24 --type f32,f16,bf16 \
         --pairing half-split,interleaved,interleaved-to-half-split --layout bshd,bhsd \
         --rounds 2 --dispatches 2",
    );
    assert_eq!(rows.len(), adapters() * 2 * 2 * 3 * 3 * 2);
    for row in &rows {
        let keys = [
            "adapter",
            "backend",
            "driver",
            "workload",
            "tokens",
            "heads",
            "kv_heads",
            "head_dim",
            "type",
            "pairing",
            "gpu_us",
            "wall_us",
            "record_us",
            "gbps",
            "floor_ratio",
            "bit_equal",
            "samples",
        ];
        for key in keys {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
        assert_eq!(row["bit_equal"], true, "{row}");
        assert_eq!((&row["heads"], &row["head_dim"]), (&6.into(), &24.into()));
        assert_eq!(row["samples"].as_array().unwrap().len(), 2);
        for key in ["wall_us", "record_us", "gbps", "floor_ratio"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key} of {row}");
        }
        // A time of the GPU or a reason why there is none.
        assert_eq!(
            row["gpu_us"].is_null(),
            row["timestamps_rejected"].is_string(),
            "{row}"
        );
    }
    let shapes = |key: &str| {
        let mut all: Vec<_> = rows.iter().map(|row| row[key].to_string()).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    assert_eq!(shapes("tokens"), ["17", "3"]);
    assert_eq!(shapes("kv_heads"), ["0", "2"]);
    assert_eq!(shapes("type"), ["\"bf16\"", "\"f16\"", "\"f32\""]);
    assert_eq!(shapes("pairing").len(), 3);
}

#[test]
fn what_is_set_is_what_runs() {
    let rows = rows(&format!(
        "{ONCE} --tokens 5 --heads 8 --kv-heads 4 --type f32,bf16 \
         --pairing half-split,interleaved,interleaved-to-half-split \
         --heads-per-thread 1,2,4,8 --heads-at-once 2 --workgroup 32,64"
    ));
    assert_eq!(rows.len(), adapters() * 2 * 3 * 4 * 2);
    for (n, row) in rows.iter().enumerate() {
        let moves = row["pairing"] == "interleaved-to-half-split";
        // Pairs that move are rotated at most 4 heads at once.
        let heads = [1, 2, 4, if moves { 4 } else { 8 }][n % 8 / 2];
        let kernel = &row["kernel"][0];
        assert_eq!(
            kernel["heads_per_thread"],
            serde_json::json!([heads, heads.min(4)])
        );
        let at_once = if moves { heads } else { heads.min(2) };
        assert_eq!(kernel["heads_at_once"][0], at_once);
        assert_eq!(kernel["workgroup"], [32, 64][n % 2]);
        let path = if moves { "moves_two" } else { "quads_two" };
        assert_eq!(kernel["entry_point"], path);
        assert_eq!(row["bit_equal"], true, "{row}");
    }
}

#[test]
fn heads_that_are_left_over_are_rotated_too() {
    let rows = rows(&format!(
        "{ONCE} --tokens 3 --heads 7,11 --kv-heads 5 --head-dim 40,36 --type f32,f16 \
         --pairing half-split,interleaved-to-half-split --heads-per-thread 2,3,8 \
         --heads-at-once 1,3"
    ));
    assert_eq!(rows.len(), adapters() * 2 * 2 * 2 * 2 * 3 * 2);
    let mut uneven = 0;
    for row in &rows {
        assert_eq!(row["bit_equal"], true, "{row}");
        let heads = row["heads"].as_u64().unwrap();
        let per = row["kernel"][0]["heads_per_thread"][0].as_u64().unwrap();
        uneven += usize::from(!heads.is_multiple_of(per));
    }
    assert!(uneven > 0);
}

#[test]
fn tables_and_plots_have_a_line_for_each_row() {
    let folder = std::env::temp_dir().join(format!("wgpu-rope-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let plot = folder.join("plot.svg");
    let with = |more: &str| printed(&format!("{ONCE} --tokens 7 --type f32,f16 {more}"));
    let count = adapters() * 2;
    let table = with("--output md");
    let lines = table.lines().filter(|line| line.starts_with('|')).count();
    assert_eq!(lines, count + 2, "{table}");
    let text = with("--output csv");
    assert_eq!(text.lines().count(), count + 1, "{text}");
    assert!(text.starts_with("adapter,backend,driver,"), "{text}");
    with(&format!("--plot {}", plot.display()));
    let picture = std::fs::read_to_string(&plot).unwrap();
    assert!(picture.contains("<svg") && picture.matches("1x7 32+8 x 128").count() == count);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn adapters_and_backends_are_chosen_by_number_name_and_kind() {
    let listed = printed("--list-devices");
    let last = adapters() - 1;
    let rows = rows(&format!("{ONCE} --tokens 1 --adapter {last}"));
    assert_eq!(rows.len(), 1);
    let line = listed.lines().nth(last).unwrap();
    assert!(
        line.contains(rows[0]["adapter"].as_str().unwrap()),
        "{line}"
    );
    for wrong in [
        "--adapter nothing-of-that-name",
        "--adapter 99",
        "--backend metal,dx12",
        "--tokens 0",
        "--heads-per-thread 9",
        "--type f64",
        "--head-dim 7",
    ] {
        let output = run(&format!("{ONCE} {wrong}"));
        assert!(!output.status.success(), "{wrong}");
        assert!(!output.stderr.is_empty(), "{wrong}");
    }
}

/// A pass that left something out would make a floor too low, and one that did something twice too high.
#[test]
fn floors_pass_over_what_is_rotated_once_and_over_nothing_else() {
    let shapes = [
        // Tokens, heads of Q and K, channels, and those that are rotated.
        (8, 32, 8, 128, 128),
        (64, 32, 8, 64, 32),
        (3, 5, 2, 24, 8),
        (7, 3, 0, 20, 20),
    ];
    for context in &*common::CONTEXTS {
        let mut passes = 0;
        for (tokens, heads, kv_heads, head_dim, rotary_dim) in shapes {
            let workload = Workload {
                heads,
                kv_heads,
                head_dim,
                rotary_dim,
                ..Workload::new("", tokens)
            };
            let case = Case::new(context, &workload, 2, u64::MAX).unwrap();
            let read = || {
                case.buffers().each_ref().map(|buffer| {
                    let count = usize::try_from(buffer.size() / 4).unwrap();
                    context.read_blocking::<f32>(buffer, count).unwrap()
                })
            };
            for floor in case.floors() {
                let mut expected = read();
                context
                    .run(|pass| {
                        floor.record(pass, 1);
                        Ok(())
                    })
                    .unwrap();
                // The second of two layers.
                let sizes = workload.tensor_bytes();
                for (values, bytes) in expected.iter_mut().zip(sizes) {
                    let (layer, count) = (values.len() / 2, usize::try_from(bytes / 4).unwrap());
                    let heads = values[layer..][..count].chunks_mut(head_dim as usize);
                    for value in heads.flat_map(|head| &mut head[..rotary_dim as usize]) {
                        *value *= 0.999_999_94;
                    }
                }
                let made = read();
                for (side, (made, expected)) in made.iter().zip(&expected).enumerate() {
                    // Where there is no key its buffer is not looked at.
                    if sizes[side] > 0 {
                        assert_eq!(made, expected, "{}, {}", common::name(context), floor.name);
                    }
                }
                passes += 1;
            }
        }
        // All eight for two of the shapes, and at least two for the others.
        assert!(passes >= 8 + 8 + 2 + 2, "{passes}");
    }
}

#[test]
fn timestamps_that_cannot_be_true_are_rejected() {
    let ms = Duration::from_millis;
    let believed = |begin, end, wall| measure::believed([begin, end], 2.0, wall);
    // Ticks of 2 ns.
    assert_eq!(believed(5, 5 + 1_000_000, ms(3)), Ok(ms(2)));
    assert_eq!(believed(5, 6, ms(1)), Ok(Duration::from_nanos(2)));
    for (begin, end, wall) in [
        (0, 1_000_000, ms(3)),
        (1_000_000, 0, ms(3)),
        (7, 7, ms(3)),
        (8, 7, ms(3)),
        (u64::MAX, 1, ms(3)),
        // Longer than the submission, and a small part of one that holds nothing else.
        (5, 5 + 1_000_000, ms(1)),
        (1, u64::MAX, ms(3)),
        (5, 5 + 1_000_000, ms(100)),
    ] {
        assert!(
            believed(begin, end, wall).is_err(),
            "{begin} {end} {wall:?}"
        );
    }
}
