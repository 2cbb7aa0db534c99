//! The `bench` example as its users run it, and what it believes of timestamps.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where something is not as it has to be"
)]

#[path = "../benches/measure/mod.rs"]
mod measure;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

/// The program, which `cargo build --all-features --examples` makes.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().and_then(Path::parent).unwrap();
    let program = folder
        .join("examples")
        .join(format!("bench{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.exists(),
        "{} is not built: cargo build --all-features --examples",
        program.display()
    );
    program
}

fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

/// What it prints where it ends well.
fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    // The bar is for terminals. Drivers may have a word to say there.
    assert!(
        !errors.contains(['\r', '\u{1b}']),
        "{arguments:?}: {errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn rows(arguments: &[&str]) -> Vec<Value> {
    serde_json::from_str(&printed(arguments)).unwrap()
}

fn adapters() -> usize {
    printed(&["--list-devices"]).lines().count()
}

#[test]
fn every_combination_of_the_lists_is_one_object_with_all_keys() {
    let rows = rows(&[
        "--tokens",
        "3,17",
        "--heads",
        "6",
        "--kv-heads",
        "0,2",
        "--head-dim",
        "24",
        "--type",
        "f32,f16,bf16",
        "--pairing",
        "half-split,interleaved,interleaved-to-half-split",
        "--layout",
        "bshd,bhsd",
        "--rounds",
        "2",
        "--dispatches",
        "2",
        "--output",
        "json",
    ]);
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
    let rows = rows(&[
        "--tokens",
        "5",
        "--heads",
        "8",
        "--kv-heads",
        "4",
        "--type",
        "f32,bf16",
        "--pairing",
        "half-split,interleaved,interleaved-to-half-split",
        "--heads-per-thread",
        "1,2,4,8",
        "--heads-at-once",
        "2",
        "--workgroup",
        "32,64",
        "--rounds",
        "1",
        "--dispatches",
        "1",
        "--output",
        "json",
    ]);
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
    let rows = rows(&[
        "--tokens",
        "3",
        "--heads",
        "7,11",
        "--kv-heads",
        "5",
        "--head-dim",
        "40,36",
        "--type",
        "f32,f16",
        "--pairing",
        "half-split,interleaved-to-half-split",
        "--heads-per-thread",
        "2,3,8",
        "--heads-at-once",
        "1,3",
        "--rounds",
        "1",
        "--dispatches",
        "1",
        "--output",
        "json",
    ]);
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
    let arguments = [
        "--tokens",
        "7",
        "--rounds",
        "1",
        "--dispatches",
        "1",
        "--type",
        "f32,f16",
    ];
    let with = |more: &[&'static str]| printed(&[&arguments, more].concat());
    let count = adapters() * 2;
    let table = with(&["--output", "md"]);
    let lines = table.lines().filter(|line| line.starts_with('|')).count();
    assert_eq!(lines, count + 2, "{table}");
    let text = with(&["--output", "csv"]);
    assert_eq!(text.lines().count(), count + 1, "{text}");
    assert!(text.starts_with("adapter,backend,driver,"), "{text}");
    let output = run(&[&arguments, &["--plot", plot.to_str().unwrap()][..]].concat());
    assert!(output.status.success());
    let picture = std::fs::read_to_string(&plot).unwrap();
    assert!(picture.contains("<svg") && picture.matches("1x7 32+8 x 128").count() == count);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn adapters_and_backends_are_chosen_by_number_name_and_kind() {
    let small = [
        "--tokens",
        "1",
        "--rounds",
        "1",
        "--dispatches",
        "1",
        "--output",
        "json",
    ];
    let listed = printed(&["--list-devices"]);
    let last = adapters() - 1;
    let number = last.to_string();
    let rows = rows(&[&small, &["--adapter", &number][..]].concat());
    assert_eq!(rows.len(), 1);
    let line = listed.lines().nth(last).unwrap();
    assert!(
        line.contains(rows[0]["adapter"].as_str().unwrap()),
        "{line}"
    );
    for wrong in [
        &["--adapter", "no such adapter"][..],
        &["--adapter", "99"],
        &["--backend", "metal,dx12"],
        &["--tokens", "0"],
        &["--heads-per-thread", "9"],
        &["--type", "f64"],
        &["--head-dim", "7"],
    ] {
        let output = run(&[&small[2..], wrong].concat());
        assert!(!output.status.success(), "{wrong:?}");
        assert!(!output.stderr.is_empty(), "{wrong:?}");
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
