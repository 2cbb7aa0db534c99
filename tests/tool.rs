//! The `rotate` example as its users run it: a program, files, an exit code and a line on stderr.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a test stops where something is not as it has to be"
)]

#[path = "common/program.rs"]
mod program;

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::Command;

use safetensors::{Dtype, SafeTensors, View};

/// A tensor to write.
#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn f32(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        Self::of(
            Dtype::F32,
            shape,
            values.into_iter().flat_map(f32::to_le_bytes),
        )
    }

    fn f64(shape: &[usize], values: impl IntoIterator<Item = f64>) -> Self {
        Self::of(
            Dtype::F64,
            shape,
            values.into_iter().flat_map(f64::to_le_bytes),
        )
    }

    fn i64(shape: &[usize], values: impl IntoIterator<Item = i64>) -> Self {
        Self::of(
            Dtype::I64,
            shape,
            values.into_iter().flat_map(i64::to_le_bytes),
        )
    }

    fn of(dtype: Dtype, shape: &[usize], bytes: impl Iterator<Item = u8>) -> Self {
        Self {
            dtype,
            shape: shape.to_vec(),
            bytes: bytes.collect(),
        }
    }

    /// Values that are all different and of both signs.
    fn heads(shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        Self::f32(
            shape,
            (0..count).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.01),
        )
    }

    fn values(&self) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.bytes)
    }
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (&self.bytes[..]).into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A folder of one test, removed behind it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("wgpu-rope-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Runs the program on these tensors with `--cpu`: its output, or the line it says.
    fn run(
        &self,
        tensors: &[(&str, &Tensor)],
        config: Option<&str>,
        flags: &[&str],
    ) -> Result<Out, String> {
        let [input, output, file] =
            ["in.safetensors", "out.safetensors", "config.json"].map(|name| self.0.join(name));
        let _ = std::fs::remove_file(&output);
        safetensors::serialize_to_file(tensors.iter().copied(), None, &input).unwrap();
        let mut command = Command::new(program::example("rotate"));
        command
            .arg("--input")
            .arg(&input)
            .arg("--output")
            .arg(&output)
            .args(flags);
        command.arg("--cpu");
        if let Some(text) = config {
            std::fs::write(&file, text).unwrap();
            command.arg("--config").arg(&file);
        }
        let done = command.output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        if done.status.success() {
            assert_eq!(said, "");
            return Ok(Out {
                bytes: std::fs::read(&output).unwrap(),
                report: String::from_utf8(done.stdout).unwrap(),
            });
        }
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(!output.exists() && !self.0.join("out.safetensors.partial").exists());
        assert_eq!(said.lines().count(), 1, "{said}");
        Err(said.trim_end().to_owned())
    }

    fn fault(&self, tensors: &[(&str, &Tensor)], config: Option<&str>, flags: &[&str]) -> String {
        match self.run(tensors, config, flags) {
            Err(said) => said,
            Ok(out) => panic!("{flags:?} went well: {}", out.report),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Out {
    bytes: Vec<u8>,
    report: String,
}

impl Out {
    fn get(&self, name: &str) -> Tensor {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        Tensor {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            bytes: tensor.data().to_vec(),
        }
    }
}

const LLAMA: &str = r#"{"model_type": "llama", "head_dim": 8, "rope_theta": 100.0}"#;

/// Half-split rotation of one head of 8 channels at a position, theta 100, in f64.
fn rotated(head: &[f32], position: f64) -> Vec<f64> {
    let mut out: Vec<f64> = head.iter().map(|&x| x.into()).collect();
    for k in 0..4 {
        let (s, c) = (position * 100_f64.powf(-(k as f64) / 4.0)).sin_cos();
        let (x, y) = (f64::from(head[k]), f64::from(head[k + 4]));
        (out[k], out[k + 4]) = (x * c - y * s, x * s + y * c);
    }
    out
}

fn assert_close(made: &[f32], truth: &[f64]) {
    assert_eq!(made.len(), truth.len());
    for (made, truth) in made.iter().zip(truth) {
        // Values up to 1.01: 3.01 * 2^-24 * sqrt(2) of that, as in tests/rotate.rs.
        assert!((f64::from(*made) - truth).abs() < 2.6e-7, "{made} {truth}");
    }
}

#[test]
fn layouts_and_positions() {
    let folder = Folder::new("layouts");
    let (b, s, h, d) = (2, 3, 2, 8);
    let positions = [[5, 9, 2], [7, 0, 1_000_000]];
    let ids = Tensor::i64(&[b, s], positions.iter().flatten().copied());
    // The same heads in every layout.
    let bshd = Tensor::heads(&[b, s, h, d]);
    let values = bshd.values();
    let at = |ib: usize, is: usize, ih: usize| &values[((ib * s + is) * h + ih) * d..][..d];
    let mut truth = Vec::new();
    for (ib, row) in positions.iter().enumerate() {
        for (is, &position) in row.iter().enumerate() {
            for ih in 0..h {
                truth.extend(rotated(at(ib, is, ih), position as f64));
            }
        }
    }
    let out = folder
        .run(
            &[("q", &bshd), ("position_ids", &ids)],
            Some(LLAMA),
            &["--layout", "bshd"],
        )
        .unwrap();
    assert_eq!(out.get("q").shape, [b, s, h, d]);
    assert_close(&out.get("q").values(), &truth);
    assert!(out.report.contains("family llama"), "{}", out.report);

    let packed = Tensor {
        shape: vec![b, s, h * d],
        ..bshd.clone()
    };
    let out = folder
        .run(
            &[("k", &packed), ("position_ids", &ids)],
            Some(LLAMA),
            &["--layout", "bsd"],
        )
        .unwrap();
    assert_eq!(out.get("k").shape, [b, s, h * d]);
    assert_close(&out.get("k").values(), &truth);

    let heads_first =
        (0..b).flat_map(|ib| (0..h).flat_map(move |ih| (0..s).map(move |is| (ib, is, ih))));
    let heads_first: Vec<_> = heads_first.collect();
    let bhsd = Tensor::f32(
        &[b, h, s, d],
        heads_first
            .iter()
            .flat_map(|&(ib, is, ih)| at(ib, is, ih).to_vec()),
    );
    let out = folder
        .run(&[("x", &bhsd), ("position_ids", &ids)], Some(LLAMA), &[])
        .unwrap();
    let expected = heads_first
        .iter()
        .flat_map(|&(ib, is, ih)| rotated(at(ib, is, ih), positions[ib][is] as f64));
    assert_close(&out.get("x").values(), &expected.collect::<Vec<_>>());

    // One start, counted on, for [s, h, d].
    let shd = Tensor::heads(&[s, h, d]);
    let start = Tensor::i64(&[], [40]);
    let out = folder
        .run(
            &[("x", &shd), ("p", &start)],
            Some(LLAMA),
            &["--layout", "shd", "--positions", "p"],
        )
        .unwrap();
    let chunks = shd.values();
    let expected = chunks
        .chunks_exact(d)
        .enumerate()
        .flat_map(|(i, head)| rotated(head, (40 + i / h) as f64));
    assert_close(&out.get("x").values(), &expected.collect::<Vec<_>>());
    // Only what was asked for is in the output, and the inverse undoes it.
    let made = out.get("x");
    let back = folder.run(
        &[("x", &made), ("y", &shd), ("p", &start)],
        Some(LLAMA),
        &[
            "--layout",
            "shd",
            "--positions",
            "p",
            "--inverse",
            "--tensors",
            "x",
        ],
    );
    let back = back.unwrap();
    let truth: Vec<f64> = chunks.iter().map(|&x| x.into()).collect();
    for (made, truth) in back.get("x").values().iter().zip(&truth) {
        assert!((f64::from(*made) - truth).abs() < 5.2e-7);
    }
    assert!(
        SafeTensors::deserialize(&back.bytes)
            .unwrap()
            .tensor("y")
            .is_err()
    );
}

#[test]
fn axes_stand_first_or_last() {
    let folder = Folder::new("axes");
    let config = r#"{"head_dim": 8, "rope_theta": 100.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}"#;
    // Three tokens of one head: [3, 3] fits both ways.
    let x = Tensor::heads(&[1, 1, 3, 8]);
    const TABLE: [[i64; 3]; 3] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]];
    let ids = Tensor::i64(&[3, 3], TABLE.iter().flatten().copied());
    let axis_of = [0, 0, 1, 2];
    let expected = |position: &dyn Fn(usize, usize) -> i64| -> Vec<f64> {
        let heads = x.values();
        let heads = heads.chunks_exact(8).enumerate();
        heads
            .flat_map(|(token, head)| {
                let mut out = vec![0.0; 8];
                for k in 0..4 {
                    let turned = rotated(head, position(axis_of[k], token) as f64);
                    (out[k], out[k + 4]) = (turned[k], turned[k + 4]);
                }
                out
            })
            .collect()
    };
    let run = |flags: &[&str]| {
        folder
            .run(&[("x", &x), ("position_ids", &ids)], Some(config), flags)
            .unwrap()
    };
    let first = expected(&|axis, token| TABLE[axis][token]);
    assert_close(&run(&[]).get("x").values(), &first);
    assert_close(&run(&["--axes", "first"]).get("x").values(), &first);
    let last = expected(&|axis, token| TABLE[token][axis]);
    assert_close(&run(&["--axes", "last"]).get("x").values(), &last);
    // One id for all axes.
    let single = Tensor::i64(&[3], [4, 0, 11]);
    let out = folder
        .run(&[("x", &x), ("position_ids", &single)], Some(config), &[])
        .unwrap();
    assert_close(
        &out.get("x").values(),
        &expected(&|_, token| [4, 0, 11][token]),
    );
    // An axis that no pair reads has its ids all the same, where inv_freq is given too.
    let config = config.replace("[2, 1, 1]", "[2, 2, 0]");
    let inv_freq = Tensor::f32(&[4], [1.0, 0.5, 0.25, 0.125]);
    let given = [("x", &x), ("position_ids", &ids), ("inv_freq", &inv_freq)];
    for (order, position_of) in [
        (
            "first",
            (|axis, token| TABLE[axis][token]) as fn(usize, usize) -> i64,
        ),
        ("last", |axis, token| TABLE[token][axis]),
    ] {
        let flags = ["--inv-freq", "inv_freq", "--axes", order];
        let out = folder.run(&given, Some(&config), &flags).unwrap();
        let heads = x.values();
        let truth = heads.chunks_exact(8).enumerate().flat_map(|(token, head)| {
            let mut out = [0.0; 8];
            for (k, inv_freq) in [1.0, 0.5, 0.25, 0.125].into_iter().enumerate() {
                let (sin, cos) = (position_of(k / 2, token) as f64 * inv_freq).sin_cos();
                let (a, b) = (f64::from(head[k]), f64::from(head[k + 4]));
                (out[k], out[k + 4]) = (a * cos - b * sin, b * cos + a * sin);
            }
            out
        });
        assert_close(&out.get("x").values(), &truth.collect::<Vec<_>>());
    }
}

#[test]
fn pairs_and_caches_come_from_the_input() {
    let folder = Folder::new("pairs");
    let x = Tensor::heads(&[1, 1, 2, 8]);
    // The pairs of the half-split head in another order, one of them backwards, one left out.
    let channels = Tensor::i64(&[3, 2], [6, 2, 0, 4, 1, 5]);
    let pairs = [
        ("x", &x),
        ("pair_in", &channels),
        ("pair_out", &channels),
        ("pair_axis", &Tensor::i64(&[3], [0, 0, 0])),
        (
            "pair_inv_freq_f64",
            &Tensor::f64(&[3], [-0.1, 1.0, 100_f64.powf(-0.25)]),
        ),
        ("pos_axes_f64", &Tensor::f64(&[1, 1, 2], [3.0, 70.0])),
    ];
    let out = folder.run(&pairs, None, &["--pairs"]).unwrap();
    let values = x.values();
    let mut truth: Vec<f64> = [(0, 3.0), (1, 70.0)]
        .iter()
        .flat_map(|&(i, p)| rotated(&values[8 * i..][..8], p))
        .collect();
    for untouched in [3, 7, 11, 15] {
        truth[untouched] = values[untouched].into();
        assert_eq!(
            out.get("x").values()[untouched].to_bits(),
            values[untouched].to_bits()
        );
    }
    assert_close(&out.get("x").values(), &truth);

    // The same as caches, of which more columns than pairs are there.
    let angle = |position: usize, k: usize| position as f64 * 100_f64.powf(-(k as f64) / 4.0);
    let cache = |of: &dyn Fn(f64) -> f64| {
        Tensor::f32(
            &[80, 5],
            (0..80)
                .flat_map(|p| (0..5).map(move |k| angle(p, k)))
                .map(|a| of(a) as f32),
        )
    };
    let ids = Tensor::i64(&[1, 2], [3, 70]);
    let cached = [
        ("x", &x),
        ("cos_cache", &cache(&f64::cos)),
        ("sin_cache", &cache(&f64::sin)),
        ("position_ids", &ids),
    ];
    let out = folder
        .run(&cached, None, &["--cos-sin", "--pairing", "half"])
        .unwrap();
    let truth: Vec<f64> = [(0, 3.0), (1, 70.0)]
        .iter()
        .flat_map(|&(i, p)| rotated(&values[8 * i..][..8], p))
        .collect();
    assert_close(&out.get("x").values(), &truth);
    let outside = Tensor::i64(&[1, 2], [3, 80]);
    let cached = [cached[0], cached[1], cached[2], ("position_ids", &outside)];
    assert_eq!(
        folder.fault(&cached, None, &["--cos-sin"]),
        "table: positions must be within the 80 of cos and sin, got 80"
    );
}

/// Pairs in the middle of a head, and what no pair lists, which passes through whatever the factor.
#[test]
fn pairs_may_be_a_part_of_the_head() {
    let folder = Folder::new("part");
    let x = Tensor::heads(&[1, 1, 1, 8]);
    let values = x.values();
    let run = |pairs: &[i64], flags: &[&str]| {
        let count = pairs.len() / 2;
        let channels = Tensor::i64(&[count, 2], pairs.iter().copied());
        let all = [
            ("x", &x),
            ("pair_in", &channels),
            ("pair_out", &channels),
            ("pair_axis", &Tensor::i64(&[count], vec![0; count])),
            (
                "pair_inv_freq_f64",
                &Tensor::f64(&[count], vec![1.0; count]),
            ),
            ("pos_axes_f64", &Tensor::f64(&[1, 1, 1], [2.0])),
        ];
        folder.run(&all, None, &[&["--pairs"], flags].concat())
    };
    for (pairs, factor) in [
        (&[1, 5, 2, 6][..], None),
        (&[4, 5], None),
        (&[0, 4, 1, 5], Some("1.25")),
    ] {
        let flags = factor.map_or(vec![], |factor| vec!["--attention-factor", factor]);
        let out = run(pairs, &flags).unwrap().get("x").values();
        let factor: f64 = factor.map_or(1.0, |factor| factor.parse().unwrap());
        let (s, c) = 2_f64.sin_cos();
        let mut truth: Vec<f64> = values.iter().map(|&x| x.into()).collect();
        for pair in pairs.chunks_exact(2) {
            let [i, j] = [0, 1].map(|side| usize::try_from(pair[side]).unwrap());
            let (x, y) = (f64::from(values[i]), f64::from(values[j]));
            (truth[i], truth[j]) = (factor * (x * c - y * s), factor * (x * s + y * c));
        }
        for (made, truth) in out.iter().zip(&truth) {
            assert!(
                (f64::from(*made) - truth).abs() < 3.3e-7,
                "{pairs:?}: {made} {truth}"
            );
        }
    }
    for (pairs, said) in [
        (
            &[0, 3, 1, 2][..],
            "pair_in: the channels must be those of half-split or interleaved pairs",
        ),
        (
            &[0, 1 << 31],
            "pair_in: channels must be below 65536, got 2147483648",
        ),
        (
            &[0, 7],
            "rotary window: must lie within head_dim 8, got 0..14",
        ),
    ] {
        match run(pairs, &[]) {
            Err(fault) => assert!(fault.starts_with(said), "{fault}"),
            Ok(_) => panic!("{pairs:?}"),
        }
    }
}

/// The frequencies of a length are those of the longest tensor for all.
#[test]
fn tensors_share_a_length() {
    let folder = Folder::new("length");
    let config = r#"{"head_dim": 8, "rope_theta": 100.0, "max_position_embeddings": 4,
        "rope_scaling": {"type": "dynamic", "factor": 2.0}}"#;
    let (q, k) = (Tensor::heads(&[1, 1, 1, 8]), Tensor::heads(&[1, 1, 5, 8]));
    let start = Tensor::i64(&[], [3]);
    let together = folder
        .run(
            &[("q", &q), ("k", &k), ("position_ids", &start)],
            Some(config),
            &[],
        )
        .unwrap();
    let alone = folder
        .run(
            &[("q", &q), ("position_ids", &start)],
            Some(config),
            &["--length", "8"],
        )
        .unwrap();
    let short = folder
        .run(&[("q", &q), ("position_ids", &start)], Some(config), &[])
        .unwrap();
    assert_eq!(together.get("q").bytes, alone.get("q").bytes);
    assert_ne!(together.get("q").bytes, short.get("q").bytes);
}

/// What a rotation cannot do is said: the softmax of DeepSeek V3, `(0.1 ln 40 + 1)^2`, and the queries of Ministral 3.
#[test]
fn what_is_the_attentions_to_do_is_reported() {
    let folder = Folder::new("attention");
    let x = Tensor::heads(&[1, 1, 2, 8]);
    let tensors = [("q", &x), ("position_ids", &Tensor::i64(&[2], [1, 2]))];
    let deepseek = r#"{"model_type": "deepseek_v3", "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "rope_theta": 1e4,
        "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                         "original_max_position_embeddings": 4096}}"#;
    let out = folder.run(&tensors, Some(deepseek), &[]).unwrap();
    let said = "full_attention: the scale of the softmax is to be multiplied by 1.87385";
    assert!(out.report.contains(said), "{}", out.report);
    let ministral = r#"{"model_type": "ministral3", "head_dim": 8}"#;
    let out = folder.run(&tensors, Some(ministral), &[]).unwrap();
    let said = "full_attention: queries are to be multiplied by a factor of their position";
    assert!(out.report.contains(said), "{}", out.report);
    assert!(!out.report.contains("softmax"), "{}", out.report);
}

#[test]
fn layers_that_do_not_rotate_are_copied() {
    let folder = Folder::new("nope");
    let config = r#"{"model_type": "smollm3", "head_dim": 8, "num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2,
        "rope_theta": 100.0}"#;
    let x = Tensor::heads(&[1, 1, 2, 8]);
    let tensors = [("q", &x), ("position_ids", &Tensor::i64(&[2], [1, 2]))];
    let out = folder
        .run(&tensors, Some(config), &["--layer", "3"])
        .unwrap();
    assert!(out.report.contains("does not rotate"), "{}", out.report);
    assert_eq!(out.get("q").bytes, x.bytes);
    let out = folder
        .run(&tensors, Some(config), &["--layer", "2"])
        .unwrap();
    assert_ne!(out.get("q").bytes, x.bytes);
}

#[test]
fn a_gpu_gives_the_bits_of_the_cpu() {
    let folder = Folder::new("gpu");
    let x = Tensor::heads(&[2, 3, 5, 8]);
    let tensors = [
        ("q", &x),
        (
            "position_ids",
            &Tensor::i64(&[5], [0, 1, 131_071, -7, 16_777_217]),
        ),
    ];
    for config in [
        LLAMA,
        r#"{"model_type": "deepseek_v3", "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "rope_theta": 100.0}"#,
    ] {
        let cpu = folder.run(&tensors, Some(config), &[]).unwrap();
        // `--adapter` with a name that every adapter has.
        let output = Command::new(program::example("rotate"))
            .arg("--input")
            .arg(folder.0.join("in.safetensors"))
            .arg("--output")
            .arg(folder.0.join("gpu.safetensors"))
            .arg("--config")
            .arg(folder.0.join("config.json"))
            .args(["--adapter", ""])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(
            std::fs::read(folder.0.join("gpu.safetensors")).unwrap(),
            cpu.bytes
        );
    }
}

#[test]
fn faults_are_one_line() {
    let folder = Folder::new("faults");
    let x = Tensor::heads(&[1, 1, 2, 8]);
    let ids = Tensor::i64(&[2], [1, 2]);
    let good = [("q", &x), ("position_ids", &ids)];
    let odd = Tensor::heads(&[1, 1, 2, 6]);
    let three = Tensor::i64(&[3], [1, 2, 3]);
    let nan = Tensor::f32(&[2], [1.0, f32::NAN]);
    let huge = Tensor::i64(&[2], [1, 1 << 40]);
    let gemma3 = r#"{"model_type": "gemma3_text", "head_dim": 8, "num_hidden_layers": 6}"#;
    let mla = r#"{"model_type": "deepseek_v3", "qk_rope_head_dim": 4, "qk_nope_head_dim": 16}"#;
    for (tensors, config, flags, expected) in [
        (
            &good[..],
            None,
            &[][..],
            "what rotates is not said: give --config, --gguf, --theta, --inv-freq, --pairs or --cos-sin",
        ),
        (
            &good,
            Some("{"),
            &[],
            "config.json: must be JSON, got EOF while parsing an object at line 1 column 1",
        ),
        (
            &good,
            Some(gemma3),
            &[],
            "layer type: must be chosen of sliding_attention, full_attention, got none (--layer-type NAME or --layer N)",
        ),
        (
            &good,
            Some(gemma3),
            &["--layer-type", "x"],
            "layer type: must be one of sliding_attention, full_attention, got x",
        ),
        (
            &good,
            Some(LLAMA),
            &["--tensors", "z"],
            "z: no such tensor in the input",
        ),
        (
            &good,
            Some(LLAMA),
            &["--positions", "z"],
            "z: no such tensor in the input; name one with --positions",
        ),
        (
            &good,
            Some(LLAMA),
            &["--prefix-tokens", "100"],
            "q: has 2 tokens, fewer than the 100 that stay unrotated",
        ),
        (
            &good,
            Some(LLAMA),
            &["--prefix-tokens", "4294967295"],
            "q: has 2 tokens, fewer than the 4294967295 that stay unrotated",
        ),
        (
            &good,
            Some(LLAMA),
            &["--layout", "shd"],
            "q: must have the dimensions of shd, got [1, 1, 2, 8]",
        ),
        (
            &good,
            Some(LLAMA),
            &["--image", "4,4", "--positions", "z"],
            "--image and --grid make positions for a vision part; this one has none",
        ),
        (
            &good,
            Some(mla),
            &[],
            "q: the head must have head_dim 20 or the rotary dimension 4, got 8",
        ),
        (
            &[("q", &odd), good[1]],
            Some(LLAMA),
            &[],
            "q: the head must have head_dim 8 or the rotary dimension 8, got 6",
        ),
        (
            &[good[0], ("position_ids", &three)],
            Some(LLAMA),
            &[],
            "position_ids: must be [2], [1, 2] or one start for q, got [3]",
        ),
        (
            &[good[0], ("position_ids", &huge)],
            Some(LLAMA),
            &[],
            "position_ids: must fit i32, got 1099511627776",
        ),
        (
            &[("q", &ids), good[1]],
            Some(LLAMA),
            &[],
            "q: must be F32, F16 or BF16, got I64",
        ),
        (
            &good,
            Some(LLAMA),
            &["--part", "vision"],
            "part: must be a part of the file, which has none, got vision",
        ),
        (
            &good,
            None,
            &["--part", "text", "--gguf", "x"],
            "the argument '--part <text|vision|KEY>' cannot be used with '--gguf <FILE>'",
        ),
        (
            &[good[0], ("position_ids", &nan)],
            Some(LLAMA),
            &[],
            "position_ids: must be finite, got NaN",
        ),
        (
            &good,
            Some(r#"{"model_type": "pixtral"}"#),
            &["--part", "text"],
            "part: must be a part of the file, which has none, got text",
        ),
        (
            &good,
            Some(LLAMA),
            &["--no-such-flag"],
            "unexpected argument '--no-such-flag' found",
        ),
        (
            &good,
            Some(LLAMA),
            &["--inverse", "--adjoint"],
            "the argument '--inverse' cannot be used with '--adjoint'",
        ),
    ] {
        assert_eq!(folder.fault(tensors, config, flags), expected, "{flags:?}");
    }
}
