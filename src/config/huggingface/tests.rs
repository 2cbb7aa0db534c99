use super::families::{List, Nope, Sets};
use super::vision::{Scheme, TOWERS};
use super::*;
use crate::config::{AxisRun, LayerRope, Yarn};
use crate::frequencies::Frequencies;
use crate::positions::GridAxis;

fn read(text: &str) -> ModelRope {
    read_config(text).unwrap().expect("has RoPE")
}

fn only(text: &str) -> LayerRope {
    read(text).only().unwrap().clone()
}

fn fault(text: &str) -> String {
    read_config(text).unwrap_err().to_string()
}

/// A family's line in the table of the documentation.
fn described(family: &Family) -> String {
    let pairing = match family.pairing {
        Pairing::HalfSplit => "half-split",
        Pairing::Interleaved => "interleaved",
        Pairing::InterleavedToHalfSplit => "interleaved in, half-split out",
        other => panic!("{other:?}"),
    };
    let reversed = if family.reversed { ", reversed" } else { "" };
    let head = match family.head {
        Head::Latent { rope, nope } => {
            format!("last `qk_rope_head_dim` ({rope}) behind `qk_nope_head_dim` ({nope})")
        }
        head => {
            let of = match head {
                Head::Default(head_dim) => format!("`head_dim` ({head_dim})"),
                Head::Quotient => "the quotient".to_owned(),
                Head::Zamba => "twice the quotient".to_owned(),
                _ => "`head_dim`".to_owned(),
            };
            let global = family.global_head.map_or_else(String::new, |head_dim| {
                format!("; `global_head_dim` ({head_dim}) of full layers")
            });
            let part = match family.habit {
                Some(Habit::GptJ) => "`rotary_dim` (64) of ".to_owned(),
                _ if family.tail => format!("last {} of ", family.partial),
                _ if family.partial < 1.0 => format!("{} of ", family.partial),
                _ => String::new(),
            };
            format!("{part}{of}{global}")
        }
    };
    let theta = match family.sets {
        Sets::GlobalLocal(rule) => format!("{:e} full, {:e} sliding", rule.global, rule.local),
        Sets::DeepSeekV4 => "1e4 main, 1.6e5 compress".to_owned(),
        _ => {
            let defaults = family.defaults.map_or_else(String::new, |set| {
                let set: Vec<_> = set.split_whitespace().collect();
                format!("; of a file without parameters `{}`", set.join(" "))
            });
            format!("{:e}{defaults}", family.theta)
        }
    };
    let axes = match family.axes {
        TextAxes::One => "",
        TextAxes::Sectioned(sections) => &format!("M-RoPE in sections {sections:?}"),
        TextAxes::Interleaved(sections) => &format!("M-RoPE by turns {sections:?}"),
        TextAxes::SpatialFirst(each) => &format!("M-RoPE, {each} of height and of width first"),
        TextAxes::Alternating => "row and column by turns",
        TextAxes::Blocks => "a block for each of two axes",
    };
    let nope = match family.layers.nope {
        Nope::None => "",
        Nope::Full => "full layers do not rotate",
        Nope::FullWhileSliding => "full layers do not rotate beside sliding ones",
        Nope::Listed { .. } => "`no_rope_layers`, else every fourth does not rotate",
        Nope::LayerTheta | Nope::LayerFlag => "`layer_rope_theta`",
        Nope::NullTheta => "none rotates where theta is null",
        Nope::Cross => "cross-attention does not rotate",
    };
    let list = family.layers.list.map_or_else(String::new, |list| {
        let (List::Flags { key, .. } | List::Indices(key) | List::Cycle(key)) = list;
        format!("layers by `{key}`")
    });
    let only_if = family.only_if.map_or_else(String::new, |(key, value)| {
        format!("only where `{key}` is {value}")
    });
    let query = match family.habit {
        Some(Habit::Llama4) => "queries that do not rotate are scaled by position",
        Some(Habit::Ministral) => "queries are scaled by position",
        Some(Habit::ChatGlm) => {
            "with `position_encoding_2d` half-split in two blocks of the whole head, one for each of two positions"
        }
        Some(Habit::FirstHead) => "only the first head rotates",
        _ => "",
    };
    let notes: Vec<_> = [axes, &list, nope, &only_if, query]
        .into_iter()
        .filter(|note| !note.is_empty())
        .collect();
    let names: Vec<_> = family
        .names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    format!(
        "| {} | {pairing}{reversed} | {head} | {theta} | {} |",
        names.join(" "),
        notes.join("; ")
    )
}

fn scheme(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Axial => "row, then column",
        Scheme::AxialFromOne => "column, then row, from 1",
        Scheme::WidthFirst => "column, then row, interleaved, of positions (row, column)",
        Scheme::WidthFirstFromOne => "the same, from 1",
        Scheme::Kimi => "column and row by turns, interleaved",
        Scheme::Pixtral => {
            "row, then column, of one list of frequencies (interleaved in Mistral Large 4)"
        }
        Scheme::Gemma4 => "a block for column, one for row",
        Scheme::MiniMax => "frame, row, column",
        Scheme::Llama4 => "column, then row, interleaved, from 1",
        Scheme::Dino => "row, then column, centres from -1 to 1",
        Scheme::SamMemory => "column, then row, interleaved, of features",
        Scheme::Sam3 => "column, then row, interleaved, in windows and over the image",
    }
}

/// The documentation's table says what the code does: run with `WGPU_ROPE_BLESS=1` to write it anew.
#[test]
fn the_table_of_families_is_that_of_the_code() {
    let quoted = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        names.join(" ")
    };
    let mut table = "Text, and other parts with one position for each token or with M-RoPE. In brackets is what counts where a file does not say.\n\n\
        | `model_type` | pairing | rotates | theta | notes |\n|---|---|---|---|---|\n"
        .to_owned();
    for family in TEXT {
        table += &described(family);
        table += "\n";
    }
    table += "\nVision towers, whose positions are places in a grid of patches.\n\n| `model_type` | in | scheme | theta |\n|---|---|---|---|\n";
    for tower in TOWERS {
        let only_if = tower
            .only_if
            .map_or_else(String::new, |key| format!(", only where `{key}` is true"));
        table += &format!(
            "| {} | {} | {}{only_if} | {:e} |\n",
            quoted(tower.names),
            quoted(tower.composites),
            scheme(tower.scheme),
            tower.theta
        );
    }
    table += &format!(
        "\nWithout RoPE: {}.\n\nRefused, since their rotation has no description here:\n",
        quoted(WITHOUT)
    );
    for (name, why) in REFUSED {
        table += &format!("- `{name}`: {why}\n");
    }
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/config/huggingface/families.md"
    );
    if std::env::var_os("WGPU_ROPE_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written == table,
        "families.md is stale: run this test with WGPU_ROPE_BLESS=1"
    );
}

#[test]
fn every_name_stands_once() {
    let mut names: Vec<_> = TEXT
        .iter()
        .flat_map(|family| family.names)
        .copied()
        .collect();
    names.extend(TOWERS.iter().flat_map(|tower| tower.names));
    names.extend(WITHOUT);
    names.extend(REFUSED.iter().map(|(name, _)| name));
    let count = names.len();
    assert!(count > 300, "{count}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    // What composites lead to is known.
    for (composite, text, _) in COMPOSITES {
        let known = TEXT.iter().any(|family| family.names.contains(text));
        assert!(
            known || REFUSED.iter().any(|(name, _)| name == text),
            "{composite} {text}"
        );
    }
}

/// The default of every family can be read: a file with nothing but its name and a size.
#[test]
fn every_family_reads() {
    for family in TEXT {
        for name in family.names {
            let text = format!(
                r#"{{"model_type": "{name}", "hidden_size": 1024, "num_attention_heads": 8, "num_hidden_layers": 12,
                    "n_embd": 1024, "n_head": 8, "position_embedding_type": "{}", "use_mem_rope": true, "partial_rotary_factor": {},
                    "max_position_embeddings": 4096}}"#,
                family
                    .only_if
                    .map_or("rope", |(_, value)| if value == "true" {
                        "rope"
                    } else {
                        value
                    }),
                // GLM's sections add up for half of the head only.
                if matches!(family.axes, TextAxes::Sectioned([8, ..])) {
                    0.5
                } else {
                    1.0
                },
            );
            let model = read_config(&text);
            assert!(matches!(model, Ok(Some(_))), "{name}: {model:?}");
            assert_eq!(model.unwrap().unwrap().family, Some(*name));
        }
    }
    for tower in TOWERS {
        for name in tower.names {
            let key = tower.only_if.unwrap_or("any");
            let text = format!(r#"{{"model_type": "{name}", "{key}": true}}"#);
            let model = read(&text);
            assert!(model.defaulted.contains(&"rope_theta"), "{name}");
            assert!(model.kinds[0].rope.as_ref().unwrap().grid.is_some());
        }
    }
}

#[test]
fn both_forms_say_the_same() {
    let old = r#"{"model_type": "llama", "hidden_size": 2048, "num_attention_heads": 32, "rope_theta": 500000.0,
        "rope_scaling": {"type": "linear", "factor": 4}}"#;
    let new = r#"{"model_type": "llama", "head_dim": 64, "rope_parameters": {"rope_theta": 500000.0,
        "rope_type": "linear", "factor": 4}, "rope_scaling": null}"#;
    let model = read(old);
    assert_eq!(model, read(new));
    assert_eq!(model.family, Some("llama"));
    assert!(model.defaulted.is_empty() && model.layers.is_empty());
    let expected = RopeConfig::new(64)
        .with_theta(5e5)
        .with_scaling(Scaling::Linear { factor: 4.0 });
    assert_eq!(model.only().unwrap().config, expected);
    // The older form counts where both are there; a set of its own counts for more than what stands beside it.
    let both = only(
        r#"{"head_dim": 64, "rope_theta": 3, "rope_scaling": {"type": "linear", "factor": 2, "rope_theta": 7},
            "rope_parameters": {"rope_theta": 5}}"#,
    );
    assert_eq!(both.config.theta(), 7.0);
    // Python's infinities are no JSON; a string may say the same.
    let python = read(
        r#"{"head_dim": 64, "rope_theta": 3, "limits": [0.0, Infinity, -Infinity, NaN], "name": "NaN \"Infinity"}"#,
    );
    assert_eq!(python.only().unwrap().config.theta(), 3.0);
    // Little more than nothing is a file too, of a family that nobody knows.
    let least = read(r#"{"head_dim": 64, "rope_parameters": {"rope_theta": 10000.0}}"#);
    assert_eq!((least.family, least.kinds.len()), (None, 1));
    assert_eq!(least.only().unwrap().config, RopeConfig::new(64));
}

#[test]
fn what_a_file_leaves_out_is_the_familys_and_the_result_says_so() {
    let mixtral = read(r#"{"model_type": "mixtral", "head_dim": 128}"#);
    assert_eq!(mixtral.only().unwrap().config.theta(), 1e6);
    assert_eq!(mixtral.defaulted, ["rope_theta"]);
    let qwen3 = read(
        r#"{"model_type": "qwen3", "rope_theta": 1e6, "hidden_size": 1024, "num_attention_heads": 16}"#,
    );
    assert_eq!(qwen3.only().unwrap().config.head_dim(), 128);
    assert_eq!(qwen3.defaulted, ["head_dim"]);
    // LLaVA 1.5 says of its text that it is a LLaMA, and nothing of its size.
    let llava = read(r#"{"model_type": "llava", "text_config": {"model_type": "llama"}}"#);
    assert_eq!(llava.only().unwrap().config, RopeConfig::new(128));
    assert_eq!(
        llava.defaulted,
        ["rope_theta", "hidden_size", "num_attention_heads"]
    );
    let neox = read(
        r#"{"model_type": "gpt_neox", "hidden_size": 6144, "num_attention_heads": 64,
        "rotary_pct": 0.5, "rotary_emb_base": 20000}"#,
    );
    let neox = &neox.only().unwrap().config;
    assert_eq!(
        (neox.head_dim(), neox.rotary_dim(), neox.theta()),
        (96, 48, 2e4)
    );
    let gptj = read(r#"{"model_type": "gptj", "n_embd": 4096, "n_head": 16, "rotary_dim": 64}"#);
    let gptj = &gptj.only().unwrap().config;
    assert_eq!(
        (gptj.head_dim(), gptj.rotary_dim(), gptj.pairing()),
        (256, 64, Pairing::Interleaved)
    );
    assert!(
        only(r#"{"model_type": "nanochat", "head_dim": 128}"#)
            .config
            .reversed()
    );
}

#[test]
fn rotary_dimensions_are_cut_off_not_rounded() {
    for (head_dim, part, rotary, frequency) in [
        (36, 0.9, 32, 32),
        (192, 0.334, 64, 64),
        (80, 0.25, 20, 20),
        (80, 0.4, 32, 32),
        // An odd number: one channel more rotates, and the exponents keep the number.
        (22, 0.5, 12, 11),
    ] {
        let config = only(&format!(
            r#"{{"head_dim": {head_dim}, "rope_theta": 1e4, "partial_rotary_factor": {part}}}"#
        ))
        .config;
        assert_eq!(
            (config.rotary_dim(), config.frequency_dim()),
            (rotary, frequency)
        );
    }
}

#[test]
fn scalings_are_read_with_their_rules() {
    let scaled = |more: &str, scaling: &str| {
        let text = format!(
            r#"{{"head_dim": 4, "rope_theta": 10000, "max_position_embeddings": 400, {more} "rope_scaling": {scaling}}}"#
        );
        only(&text).config
    };
    let config = |scaling| RopeConfig::new(4).with_scaling(scaling);
    assert_eq!(
        scaled(
            "",
            r#"{"type": "yarn", "factor": null, "original_max_position_embeddings": 100}"#
        ),
        config(Scaling::Yarn(Yarn::new(4.0, 100.0)))
    );
    let yarn = r#"{"type": "yarn", "factor": 8, "beta_fast": 20, "beta_slow": 0, "mscale": 1.0, "mscale_all_dim": 0.5,
        "truncate": false, "attention_factor": 2.0, "original_max_position_embeddings": 100}"#;
    let expected = Yarn::new(8.0, 50.0)
        .with_betas(20.0, 1.0)
        .with_mscale(Some(1.0), Some(0.5))
        .with_truncate(false);
    assert_eq!(
        // Beside the set it counts for more.
        scaled(r#""original_max_position_embeddings": 50,"#, yarn),
        config(Scaling::Yarn(expected)).with_attention_factor(2.0)
    );
    assert_eq!(
        scaled("", r#"{"rope_type": "dynamic", "factor": 2}"#),
        config(Scaling::Dynamic {
            factor: 2.0,
            max_position_embeddings: 400.0
        })
    );
    assert_eq!(
        scaled("", r#"{"type": "dynamic", "alpha": 1000.0, "factor": 1.0}"#),
        config(Scaling::NtkAlpha { alpha: 1000.0 })
    );
    assert_eq!(
        scaled("", r#"{"rope_type": "ntk", "factor": 2, "mixed_b": 0.5}"#),
        config(Scaling::Ntk {
            factor: 2.0,
            mixed_b: Some(0.5)
        })
    );
    let longrope = r#"{"type": "su", "short_factor": [1, 2], "long_factor": [3, 4.5]}"#;
    assert_eq!(
        scaled(r#""original_max_position_embeddings": 100,"#, longrope),
        config(Scaling::LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![3.0, 4.5],
            original_max_position_embeddings: 100.0,
            factor: 4.0
        })
    );
    let phi3 = only(
        r#"{"model_type": "phi3", "hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 400,
            "original_max_position_embeddings": 100, "rope_theta": 1e4,
            "rope_scaling": {"type": "yarn", "short_factor": [1, 2], "long_factor": [3, 4.5]}}"#,
    );
    assert!(matches!(phi3.config.scaling(), Scaling::LongRope { .. }));
}

#[test]
fn latent_attention_rotates_the_tail_and_scales_the_softmax() {
    let text = r#"{"model_type": "deepseek_v3", "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rope_theta": 1e4,
        "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                         "original_max_position_embeddings": 4096}}"#;
    let rope = only(text);
    let config = &rope.config;
    assert_eq!(
        (
            config.head_dim(),
            config.rotary_dim(),
            config.rotary_offset()
        ),
        (192, 64, 128)
    );
    assert_eq!(config.pairing(), Pairing::InterleavedToHalfSplit);
    // yarn's mscale 1/1 at factor 40 (DeepSeek V3): (0.1 ln 40 + 1)^2 = 1.873854; cos and sin stay unscaled.
    assert!(
        (rope.softmax_factor - 1.873_854).abs() < 1e-6,
        "{}",
        rope.softmax_factor
    );
    assert_eq!(config.attention_factor(), 1.0);
    let split = text.replace("{\"model", "{\"rope_interleave\": false, \"model");
    assert_eq!(only(&split).config.pairing(), Pairing::HalfSplit);
}

/// Kimi K2 is DeepSeek V3 under a name of its own, and K2.5 has it as its text.
#[test]
fn kimi_k2_is_deepseek_v3() {
    let kimi = r#"{"model_type": "kimi_k2", "hidden_size": 7168, "num_attention_heads": 64, "num_hidden_layers": 61,
        "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "max_position_embeddings": 262144, "rope_theta": 50000.0,
        "rope_scaling": {"type": "yarn", "factor": 64.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0,
                         "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}}"#;
    let model = read(kimi);
    assert_eq!((model.family, model.layers.len()), (Some("kimi_k2"), 61));
    let rope = model.only().unwrap();
    let expected = RopeConfig::new(192)
        .with_theta(5e4)
        .with_rotary_dim(64)
        .with_rotary_offset(128)
        .with_pairing(Pairing::InterleavedToHalfSplit)
        .with_scaling(Scaling::Yarn(
            Yarn::new(64.0, 4096.0).with_mscale(Some(1.0), Some(1.0)),
        ));
    assert_eq!(rope.config, expected);
    // (0.1 ln 64 + 1)^2
    assert!((rope.softmax_factor - 2.004_739_7).abs() < 1e-6);
    let text_of = format!(r#"{{"model_type": "kimi_k25", "text_config": {kimi}}}"#);
    assert_eq!(read(&text_of), model);
    // Others of that attention that nobody knows are read so too, and say what is taken for granted.
    let unknown = read(&kimi.replace("kimi_k2", "new_k9"));
    assert_eq!((unknown.family, unknown.only().unwrap()), (None, rope));
    assert_eq!(unknown.defaulted, ["rope_interleave"]);
    let said = read(&kimi.replace(r#""kimi_k2","#, r#""new_k9", "rope_interleave": false,"#));
    assert_eq!(said.only().unwrap().config.pairing(), Pairing::HalfSplit);
    assert!(said.defaulted.is_empty());
    let half_said = kimi
        .replace("kimi_k2", "new_k9")
        .replace(r#""qk_nope_head_dim": 128, "#, "");
    assert_eq!(
        fault(&half_said),
        "qk_nope_head_dim: must be given, got none"
    );
}

#[test]
fn kinds_of_layers_have_their_own() {
    let gemma3 = read(
        r#"{"model_type": "gemma3_text", "head_dim": 256, "num_hidden_layers": 7, "rope_theta": 1e6,
            "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}"#,
    );
    assert_eq!(gemma3.layers, [0, 0, 0, 0, 0, 1, 0]);
    let theta = |model: &ModelRope, name: &str| {
        model
            .kind(name)
            .unwrap()
            .rope
            .as_ref()
            .unwrap()
            .config
            .theta()
    };
    assert_eq!(
        (
            theta(&gemma3, "sliding_attention"),
            theta(&gemma3, "full_attention")
        ),
        (1e4, 1e6)
    );
    assert_eq!(
        gemma3.only().unwrap_err().to_string(),
        "layer type: must be chosen of sliding_attention, full_attention, got none"
    );
    assert_eq!(
        gemma3.layer(7).unwrap_err().to_string(),
        "layer: must be below 7, got 7"
    );

    let smollm3 = read(
        r#"{"model_type": "smollm3", "hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 8}"#,
    );
    let rotates: Vec<_> = (0..8)
        .map(|layer| smollm3.layer(layer).unwrap().rope.is_some())
        .collect();
    assert_eq!(rotates, [true, true, true, false, true, true, true, false]);
    assert_eq!(smollm3.only().unwrap().config.theta(), 2e6);
    let llama4 = read(
        r#"{"model_type": "llama4_text", "num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 1], "rope_theta": 5e5}"#,
    );
    assert!(llama4.kind("full_attention").unwrap().rope.is_none());
    assert!(llama4.kind("chunked_attention").unwrap().rope.is_some());
    assert_eq!(llama4.layers, [0, 1, 0, 0]);

    let v4 = read(
        r#"{"model_type": "deepseek_v4", "head_dim": 512, "qk_rope_head_dim": 64, "num_hidden_layers": 4, "rope_theta": 1e4,
            "compress_rope_theta": 1.6e5, "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536}}"#,
    );
    assert_eq!((theta(&v4, "main"), theta(&v4, "compress")), (1e4, 1.6e5));
    assert_eq!(theta(&v4, "heavily_compressed_attention"), 1.6e5);
    let compress = v4.kind("compress").unwrap().rope.as_ref().unwrap();
    assert_eq!(compress.config.attention_factor(), 1.0);
    assert_eq!(compress.config.rotary_offset(), 448);

    let gemma4 =
        read(r#"{"model_type": "gemma4_text", "num_hidden_layers": 6, "rope_theta": 3.0}"#);
    let full = &gemma4
        .kind("full_attention")
        .unwrap()
        .rope
        .as_ref()
        .unwrap()
        .config;
    assert_eq!(
        (
            full.head_dim(),
            full.rotary_dim(),
            full.scaling(),
            full.theta()
        ),
        (
            512,
            512,
            &Scaling::Proportional {
                rotated_pairs: 64,
                factor: 1.0
            },
            1e6
        )
    );
    // The class has a window; without one all layers rotate.
    let exaone = |window: &str| {
        let text = format!(
            r#"{{"model_type": "exaone4", "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 4 {window}}}"#
        );
        let model = read(&text);
        (0..4)
            .map(|layer| model.layer(layer).unwrap().rope.is_some())
            .collect::<Vec<_>>()
    };
    for window in ["", r#", "sliding_window": 4096"#] {
        assert_eq!(exaone(window), [true, true, true, false]);
    }
    assert_eq!(exaone(r#", "sliding_window": null"#), [true; 4]);
    // The text of EXAONE 4.5 by its first name.
    let first_name = read(
        r#"{"model_type": "exaone4_5", "text_config": {"model_type": "exaone4_5_text", "hidden_size": 5120, "num_attention_heads": 40,
            "head_dim": 128, "num_hidden_layers": 4, "sliding_window": 4096, "sliding_window_pattern": 4, "rope_theta": 1000000}}"#,
    );
    assert_eq!(turning(&first_name), [true, true, true, false]);
    // The kind that rotates has the name, whichever comes first.
    let first = read(
        r#"{"model_type": "granite_swa", "head_dim": 64, "num_hidden_layers": 2, "rope_theta": 1e4,
            "layer_types": ["full_attention", "full_attention"], "layer_rope_theta": [0, 10000.0]}"#,
    );
    assert!(first.kind("full_attention").unwrap().rope.is_some());
    assert!(first.kind("nope").unwrap().rope.is_none());
    let nested = read(
        r#"{"head_dim": 64, "rope_parameters": {"full_attention": {"rope_theta": 5e5}, "sliding_attention": null},
            "layer_types": ["sliding_attention", "full_attention"]}"#,
    );
    assert!(nested.kind("sliding_attention").unwrap().rope.is_none());
    assert_eq!(nested.layers, [0, 1]);
}

/// Which layers rotate.
fn turning(model: &ModelRope) -> Vec<bool> {
    let of = |kind: &usize| model.kinds[*kind].rope.is_some();
    model.layers.iter().map(of).collect()
}

/// MiniMax-Text-01 and M1; and M2, whose first files have the name of the older ones.
#[test]
fn minimax_rotates_as_many_channels_as_it_says_in_the_layers_that_it_says() {
    let text = |name: &str, types: &str| {
        format!(
            r#"{{"model_type": "{name}", "hidden_size": 6144, "num_attention_heads": 64, "head_dim": 128, "num_hidden_layers": 8,
                "rope_theta": 10000000, "rotary_dim": 64, "attn_type_list": {types}}}"#
        )
    };
    for name in ["minimax", "minimax_text_01", "minimax_m1"] {
        let model = read(&text(name, "[0, 0, 0, 0, 0, 0, 0, 1]"));
        assert_eq!(model.family, Some(name));
        assert_eq!(
            model.only().unwrap().config,
            RopeConfig::new(128).with_rotary_dim(64).with_theta(1e7)
        );
        let mut expected = [false; 8];
        expected[7] = true;
        assert_eq!(turning(&model), expected);
    }
    let m2 = read(&text("minimax", "[1, 1, 1, 1, 1, 1, 1, 1]"));
    assert_eq!((turning(&m2), m2.kinds.len()), (vec![true; 8], 1));
    // As transformers has it where nothing is listed.
    let bare = read(r#"{"model_type": "minimax", "num_hidden_layers": 3}"#);
    assert_eq!(turning(&bare), [true, false, true]);
    assert_eq!(
        fault(&text("minimax", "[0, 1]")),
        "attn_type_list: must have an entry for each of 8 layers, got 2"
    );
}

#[test]
fn mimo_v2_has_another_theta_in_sliding_layers() {
    let text = |name: &str| {
        format!(
            r#"{{"model_type": "{name}", "hidden_size": 4096, "num_attention_heads": 64, "head_dim": 192, "v_head_dim": 128,
                "swa_head_dim": 192, "num_hidden_layers": 4, "hybrid_layer_pattern": [0, 1, 1, 0], "rope_theta": 10000000,
                "swa_rope_theta": 20000, "partial_rotary_factor": 0.334, "sliding_window_size": 128}}"#
        )
    };
    let rope = |theta| RopeConfig::new(192).with_rotary_dim(64).with_theta(theta);
    for name in ["mimo_v2", "mimo_v2_flash"] {
        let model = read(&text(name));
        assert_eq!(model.layers, [0, 1, 1, 0]);
        for (kind, theta) in [("full_attention", 1e7), ("sliding_attention", 2e4)] {
            let kind = model.kind(kind).unwrap().rope.as_ref().unwrap();
            assert_eq!(kind.config, rope(theta));
        }
        assert!(model.defaulted.is_empty(), "{:?}", model.defaulted);
    }
    let other = read(&text("mimo_v2").replace(r#""swa_head_dim": 192"#, r#""swa_head_dim": 128"#));
    let sliding = &other.layer(1).unwrap().rope.as_ref().unwrap().config;
    assert_eq!((sliding.head_dim(), sliding.rotary_dim()), (128, 42));
}

/// A file that says one theta in one set, as transformers 5 writes it for classes that know of one, and the other beside it.
#[test]
fn one_set_of_mimo_v2_is_for_both_kinds_of_layers() {
    let text = r#"{"model_type": "mimo_v2_flash", "head_dim": 192, "num_hidden_layers": 2, "hybrid_layer_pattern": [0, 1],
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000000, "partial_rotary_factor": 0.334},
        "swa_rope_theta": 20000}"#;
    let model = read(text);
    for (layer, theta) in [(0, 1e7), (1, 2e4)] {
        let rope = model.layer(layer).unwrap().rope.as_ref().unwrap();
        let expected = RopeConfig::new(192)
            .with_rotary_dim(64)
            .with_theta(theta)
            .with_scaling(Scaling::Linear { factor: 2.0 });
        assert_eq!(rope.config, expected);
    }
    assert!(model.defaulted.is_empty(), "{:?}", model.defaulted);
    // The older form counts where both are there; the theta of full layers may stand beside it.
    let both = text
        .replace(r#""rope_type": "linear", "factor": 2.0, "#, "")
        .replace(
            "20000}",
            r#"20000, "rope_theta": 10000000, "partial_rotary_factor": 0.334,
                "rope_scaling": {"type": "linear", "factor": 2.0}}"#,
        );
    assert_eq!(read(&both), model);
}

/// The published forms of hybrids whose layers `layer_types` does not list.
#[test]
fn hybrids_list_their_attention_in_their_own_keys() {
    for (text, expected) in [
        (
            r#"{"model_type": "bamba", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 4, "rope_theta": 10000.0,
                "attn_layer_indices": [1, 3], "attn_rotary_emb": 64}"#,
            [false, true, false, true],
        ),
        (
            r#"{"model_type": "zamba2", "hidden_size": 2560, "num_attention_heads": 32, "num_hidden_layers": 4, "use_mem_rope": true,
                "rope_theta": 10000, "layers_block_type": ["mamba", "hybrid", "mamba", "mamba"], "hybrid_layer_ids": [1]}"#,
            [false, true, false, false],
        ),
        (
            r#"{"model_type": "recurrent_gemma", "hidden_size": 2560, "num_attention_heads": 10, "num_hidden_layers": 4,
                "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "block_types": ["recurrent", "recurrent", "attention"]}"#,
            [false, false, true, false],
        ),
        (
            r#"{"model_type": "lfm2", "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 4, "rope_theta": 1000000.0,
                "full_attn_idxs": [2], "block_dim": 1024}"#,
            [false, false, true, false],
        ),
        (
            r#"{"model_type": "granitemoehybrid", "hidden_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 4,
                "position_embedding_type": "rope", "layers_block_type": ["mamba", "mamba", "attention", "mamba"]}"#,
            [false, false, true, false],
        ),
    ] {
        assert_eq!(turning(&read(text)), expected, "{text}");
    }
}

#[test]
fn a_rule_without_a_key_reads_none() {
    let olmo3 = r#"{"model_type": "olmo3", "num_hidden_layers": 4, "": 2}"#;
    assert_eq!(read(olmo3).layers, [0, 0, 0, 1]);
}

#[test]
fn a_list_that_is_repeated_has_known_names() {
    let text = r#"{"model_type": "recurrent_gemma", "num_hidden_layers": 3, "block_types": ["recurrent", "other"]}"#;
    assert_eq!(
        fault(text),
        "block_types: must be attention or recurrent, got other"
    );
}

/// Step 3.5 lists those that predict further tokens behind its own.
#[test]
fn lists_are_of_the_layers_that_there_are() {
    let text = |types: &str, more: &str| {
        format!(
            r#"{{"model_type": "llama", "head_dim": 64, "rope_theta": 1e4, "num_hidden_layers": 2, "layer_types": {types}{more}}}"#
        )
    };
    let three = r#"["full_attention", "full_attention", "sliding_attention"]"#;
    let model = read(&text(three, ""));
    assert_eq!((model.layers, model.kinds.len()), (vec![0, 0], 1));
    assert_eq!(read(&text("[]", "")).layers, [0, 0]);
    assert_eq!(
        fault(&text(r#"["full_attention"]"#, "")),
        "layer_types: must have an entry for each of 2 layers, got 1"
    );
    let short = r#", "no_rope_layers": [1]"#;
    assert_eq!(
        fault(&text(three, short).replace("llama", "smollm3")),
        "no_rope_layers: must have an entry for each of 2 layers, got 1"
    );
    let short = r#", "layer_rope_theta": [1e4]"#;
    assert_eq!(
        fault(&text(three, short).replace("llama", "granite_swa")),
        "layer_rope_theta: must have an entry for each of 2 layers, got 1"
    );
    // An empty list says nothing.
    for name in ["granite_swa", "muse_glimmer_text"] {
        let text = |more: &str| {
            format!(
                r#"{{"model_type": "{name}", "head_dim": 64, "rope_theta": 1e4, "num_hidden_layers": 8{more}}}"#
            )
        };
        assert_eq!(read(&text(r#", "layer_rope_theta": []"#)), read(&text("")));
    }
}

/// An index past the last layer is that of a layer that is not there: the list is of another model, or counts from 1.
#[test]
fn indices_are_of_the_layers_that_there_are() {
    for (name, key) in [("bamba", "attn_layer_indices"), ("lfm2", "full_attn_idxs")] {
        let text = |indices: &str| {
            format!(
                r#"{{"model_type": "{name}", "head_dim": 64, "rope_theta": 1e4, "num_hidden_layers": 4, "{key}": {indices}}}"#
            )
        };
        assert_eq!(turning(&read(&text("[1, 3]"))), [false, true, false, true]);
        assert_eq!(
            fault(&text("[1, 4]")),
            format!("{key}: must be of layers below 4, got 4")
        );
    }
}

/// Other names of a class have its size and depth too.
#[test]
fn what_a_file_leaves_out_is_the_same_for_every_name_of_a_class() {
    for (twin, names) in [
        ("minimax", &["minimax_m1", "minimax_text_01"][..]),
        ("exaone4", &["exaone4_5_text"]),
        ("mimo_v2_flash", &["mimo_v2"]),
    ] {
        for count in ["", r#", "num_hidden_layers": 6"#] {
            let text = |name: &str| read(&format!(r#"{{"model_type": "{name}"{count}}}"#));
            let expected = text(twin);
            for name in names {
                let mut model = text(name);
                assert_eq!(model.family.replace(twin), Some(*name));
                assert_eq!(model, expected);
            }
        }
    }
}

#[test]
fn models_without_rope_give_none() {
    for text in [
        r#"{"model_type": "gpt2", "n_embd": 768, "n_head": 12}"#,
        r#"{"model_type": "falcon", "alibi": true, "hidden_size": 64, "num_attention_heads": 1}"#,
        r#"{"model_type": "granitemoehybrid", "position_embedding_type": "nope", "hidden_size": 64, "num_attention_heads": 1}"#,
        r#"{"model_type": "esm", "position_embedding_type": "absolute", "hidden_size": 64, "num_attention_heads": 1}"#,
        r#"{"position_embedding_type": "alibi", "head_dim": 64}"#,
    ] {
        assert_eq!(read_config(text), Ok(None), "{text}");
    }
}

#[test]
fn parts_are_known_by_their_keys() {
    let text = r#"{"model_type": "qwen2_vl", "hidden_size": 1536, "num_attention_heads": 12, "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {"model_type": "qwen2_vl", "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16,
                          "spatial_merge_size": 2, "patch_size": 14}}"#;
    let flat = only(text);
    assert_eq!(flat.config.axes(), &Axes::Sectioned(vec![16, 24, 24]));
    let vision = read_part(text, Part::Vision).unwrap().unwrap();
    assert_eq!(vision.family, Some("qwen2_vl_vision"));
    let rope = vision.only().unwrap();
    let runs = [
        AxisRun { axis: 0, pairs: 20 },
        AxisRun { axis: 1, pairs: 20 },
    ];
    assert_eq!(rope.config.axes(), &Axes::Axial(runs.to_vec()));
    assert_eq!(rope.grid.as_ref().unwrap().merge, 2);
    assert_eq!(
        read_part(text, Part::Key("audio")).unwrap_err().to_string(),
        "part: must be a part of the file, which has vision_config, got audio"
    );
    let nested = read_part(
        r#"{"model_type": "qwen3_vl", "text_config": {"head_dim": 128},
            "vision_config": {"hidden_size": 1152, "num_heads": 16}}"#,
        Part::Text,
    );
    let nested = nested.unwrap().unwrap();
    assert_eq!(nested.family, Some("qwen3_vl_text"));
    assert_eq!(
        nested.only().unwrap().config.axes(),
        &Axes::Interleaved {
            height: 20,
            width: 20
        }
    );
    assert_eq!(nested.defaulted, ["rope_theta", "mrope_section"]);
    let llama4 = read_part(
        r#"{"model_type": "llama4", "vision_config": {"hidden_size": 1408, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}}"#,
        Part::Vision,
    );
    let llama4 = llama4.unwrap().unwrap();
    let grid = llama4.only().unwrap().grid.clone().unwrap();
    assert_eq!(grid.axes, [GridAxis::Column, GridAxis::Row]);
    assert_eq!(
        (grid.first, grid.suffix_tokens, grid.image_size),
        (1, 1, Some([336, 336]))
    );
}

/// transformers permutes the rows of these when it loads them (`PermuteForRope` of its `conversion_mapping.py`).
#[test]
fn pairs_are_those_of_the_weights_in_the_file() {
    let vision = |model: &str, vision: &str| {
        let text = format!(r#"{{"model_type": "{model}", "vision_config": {{{vision}}}}}"#);
        let model = read_part(&text, Part::Vision).unwrap().unwrap();
        model.only().unwrap().config.clone()
    };
    let kimi = r#""vt_hidden_size": 1152, "vt_num_attention_heads": 16, "vt_num_hidden_layers": 27, "patch_size": 14"#;
    let kimi = vision("kimi_k25", kimi);
    assert_eq!(
        (kimi.head_dim(), kimi.axes()),
        (72, &Axes::AxialAlternating)
    );
    let step = vision("step3p7", r#""width": 1536, "heads": 16, "layers": 47"#);
    let pixtral =
        r#""model_type": "pixtral", "hidden_size": 1664, "head_dim": 104, "rope_theta": 10000.0"#;
    for config in [kimi, step, vision("mistral_large4", pixtral)] {
        assert_eq!(config.pairing(), Pairing::Interleaved, "{config:?}");
    }
    // Elsewhere it has the order that its class has.
    for model in ["mistral3", "lighton_ocr"] {
        assert_eq!(vision(model, pixtral).pairing(), Pairing::HalfSplit);
    }
    let tts = only(
        r#"{"model_type": "gradium_phonon_tts", "hidden_size": 1024, "num_attention_heads": 16}"#,
    );
    assert_eq!(tts.config.pairing(), Pairing::Interleaved);
}

/// Grok-2's file calls itself by a name that transformers has for another model.
#[test]
fn a_theta_of_a_family_without_rope_is_refused() {
    let grok = r#"{"architectures": ["Grok1ForCausalLM"], "model_type": "git", "hidden_size": 8192, "num_attention_heads": 64,
        "head_dim": 128, "num_hidden_layers": 64, "rope_theta": 208533496, "rope_type": "original",
        "original_max_position_embeddings": 8192, "scaling_factor": 16.0, "beta_fast": 8, "beta_slow": 1}"#;
    let expected = "rope_theta: must not be given for git, which has no RoPE: the model is another one, got 208533496";
    assert_eq!(fault(grok), expected);
    let tower = format!(r#"{{"model_type": "new", "vision_config": {grok}}}"#);
    let tower = read_part(&tower, Part::Vision);
    assert_eq!(tower.unwrap_err().to_string(), expected);
    assert_eq!(
        read_config(r#"{"model_type": "git", "hidden_size": 768}"#),
        Ok(None)
    );
    // As transformers 5 writes it: one set for all layers, or one for each kind.
    let set = r#"{"rope_theta": 208533496, "rope_type": "default"}"#;
    for sets in [set.to_owned(), format!(r#"{{"full_attention": {set}}}"#)] {
        let text = format!(r#"{{"model_type": "git", "rope_parameters": {sets}}}"#);
        assert_eq!(fault(&text), expected);
    }
    let without =
        r#"{"model_type": "git", "rope_parameters": {"rope_theta": null, "rope_type": "default"}}"#;
    assert_eq!(read_config(without), Ok(None));
    // These have one in all their files, and no class reads it.
    for name in ["kimi_linear", "nemotron_h"] {
        for theta in [
            r#""rope_theta": 10000, "rope_scaling": null"#,
            r#""rope_parameters": {"rope_theta": 10000, "rope_type": "default"}"#,
        ] {
            let text = format!(r#"{{"model_type": "{name}", {theta}}}"#);
            assert_eq!(read_config(&text), Ok(None));
        }
    }
}

/// ChatGLM-6B and ChatGLM2-6B, whose files have one name.
#[test]
fn the_first_chatglm_has_two_positions() {
    let first = only(
        r#"{"model_type": "chatglm", "hidden_size": 4096, "num_attention_heads": 32, "num_layers": 28, "position_encoding_2d": true,
            "inner_hidden_size": 16384, "max_sequence_length": 2048}"#,
    );
    let run = |axis| AxisRun { axis, pairs: 32 };
    let expected = RopeConfig::new(128)
        .with_pairing(Pairing::HalfSplitBlocks(2))
        .with_axes(Axes::Axial(vec![run(0), run(1)]));
    assert_eq!(first.config, expected);
    // theta^(-2k/64) in each half.
    let frequencies = Frequencies::new(&first.config).unwrap();
    let inv_freq: Vec<_> = frequencies.inv_freq().collect();
    assert_eq!((inv_freq[0], inv_freq[32]), (1.0, 1.0));
    assert_eq!(inv_freq[16], inv_freq[48]);
    assert!((inv_freq[16] - 0.01).abs() < 1e-12);
    let second = only(
        r#"{"model_type": "chatglm", "hidden_size": 4096, "num_attention_heads": 32, "num_layers": 28, "kv_channels": 128,
            "original_rope": true}"#,
    );
    assert_eq!(
        second.config,
        RopeConfig::new(128)
            .with_rotary_dim(64)
            .with_pairing(Pairing::Interleaved)
    );
}

/// What a key means that tells kinds of layers apart is a family's: the general rules would drop it.
#[test]
fn keys_that_only_a_family_explains_are_refused_without_one() {
    let text = |more: &str| {
        format!(
            r#"{{"model_type": "new", "head_dim": 64, "rope_theta": 1e4, "num_hidden_layers": 2, {more}}}"#
        )
    };
    for (key, value) in [
        ("rope_local_base_freq", "10000"),
        ("local_rope_theta", "10000.0"),
        ("swa_rope_theta", "10000"),
        ("no_rope_layers", "[1,0]"),
        ("layer_rope_theta", "[10000.0,0]"),
        ("hybrid_layer_pattern", "[0,1]"),
        ("attn_type_list", "[0,1]"),
    ] {
        let expected = format!(
            "{key}: must not be given for a family that is not known, which may mean anything by it, got {value}"
        );
        assert_eq!(fault(&text(&format!(r#""{key}": {value}"#))), expected);
        for nothing in ["null", "[]"] {
            let text = text(&format!(r#""{key}": {nothing}"#));
            assert_eq!(read(&text).layers, [0, 0]);
        }
    }
    // Those with one meaning are read: StableLM's first files, and others.
    for key in ["rope_pct", "rope_percent", "rotary_pct"] {
        let config = only(&text(&format!(r#""{key}": 0.25"#))).config;
        assert_eq!(config.rotary_dim(), 16, "{key}");
    }
}

#[test]
fn sections_of_qwen3_tts_are_by_turns() {
    let talker = only(
        r#"{"model_type": "qwen3_tts_talker", "hidden_size": 2048, "num_attention_heads": 16, "head_dim": 128, "rope_theta": 1000000,
            "rope_scaling": {"interleaved": true, "mrope_section": [24, 20, 20], "rope_type": "default", "type": "default"}}"#,
    );
    let expected = Axes::Interleaved {
        height: 20,
        width: 20,
    };
    assert_eq!(talker.config.axes(), &expected);
}

/// vLLM's `TeleChat3RoPEScaledRotaryEmbedding`: `0.07 ln(factor) + 1`.
#[test]
fn telechat3_has_its_own_attention_factor() {
    let text = |factor: &str| {
        only(&format!(
            r#"{{"model_type": "telechat3", "hidden_size": 64, "num_attention_heads": 1, "rope_theta": 1000000.0,
                "max_position_embeddings": 32768, "rope_scaling": {{"type": "telechat3-yarn", "factor": {factor},
                "original_max_position_embeddings": 8192}}}}"#
        ))
        .config
    };
    let config = text("4.0");
    assert!((config.attention_factor() - 1.097_040_6).abs() < 1e-6);
    assert_eq!(config.scaling(), &Scaling::Yarn(Yarn::new(4.0, 8192.0)));
    assert_eq!(text("1.0").attention_factor(), 1.0);
    assert_eq!(
        text(r#"4.0, "attention_factor": 2.0"#).attention_factor(),
        2.0
    );
}

#[test]
fn phi3_small_calls_theta_its_own_name() {
    let text = r#"{"model_type": "phi3small", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 2,
        "rope_embedding_base": 1000000, "rope_position_scale": 1.0}"#;
    assert_eq!(only(text).config, RopeConfig::new(128).with_theta(1e6));
}

#[test]
fn phi3_has_an_original_length_of_its_class() {
    let text = |inside: &str, beside: &str| {
        let model = read(&format!(
            r#"{{"model_type": "phi3", "hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 131072, "rope_theta": 1e4,
                {beside} "rope_scaling": {{"type": "su", "short_factor": [1, 2], "long_factor": [3, 4.5] {inside}}}}}"#
        ));
        let Scaling::LongRope {
            original_max_position_embeddings: original,
            factor,
            ..
        } = *model.only().unwrap().config.scaling()
        else {
            panic!("no LongRoPE")
        };
        (original, factor, model.defaulted)
    };
    let said = r#""original_max_position_embeddings": 8192"#;
    let inside = format!(", {said}");
    let beside = format!("{},", said.replace("8192", "16384"));
    let key = vec!["original_max_position_embeddings"];
    assert_eq!(text("", ""), (4096.0, 32.0, key));
    assert_eq!(text(&inside, ""), (8192.0, 16.0, vec![]));
    assert_eq!(text(&inside, &beside), (16384.0, 8.0, vec![]));
}

/// Towers of remote code, in their published form.
#[test]
fn towers_of_remote_code_are_read() {
    let vision = |text: &str| read_part(text, Part::Vision).unwrap();
    let kimi = vision(
        r#"{"model_type": "kimi_vl", "text_config": {"model_type": "deepseek_v3"},
            "vision_config": {"model_type": "moonvit", "hidden_size": 1152, "num_attention_heads": 16, "num_hidden_layers": 27,
                              "init_pos_emb_height": 64, "init_pos_emb_width": 64, "merge_kernel_size": [2, 2], "patch_size": 14}}"#,
    );
    let kimi = &kimi.as_ref().unwrap().only().unwrap().config;
    assert_eq!(
        (kimi.head_dim(), kimi.pairing(), kimi.axes()),
        (72, Pairing::Interleaved, &Axes::AxialAlternating)
    );
    let dots = r#"{"model_type": "dots_ocr", "hidden_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 28,
        "rope_theta": 1000000, "vision_config": {"embed_dim": 1536, "hidden_size": 1536, "num_attention_heads": 12,
        "num_hidden_layers": 42, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 1}}"#;
    let text = read(dots);
    assert_eq!(text.family, Some("qwen2"));
    assert_eq!(
        text.only().unwrap().config,
        RopeConfig::new(128).with_theta(1e6)
    );
    let run = |axis, pairs| AxisRun { axis, pairs };
    let axial = |pairs| Axes::Axial(vec![run(0, pairs), run(1, pairs)]);
    let tower = vision(dots).unwrap();
    let tower = tower.only().unwrap();
    assert_eq!(tower.config, RopeConfig::new(128).with_axes(axial(32)));
    assert_eq!(tower.grid.as_ref().unwrap().merge, 2);
    let ovis = r#"{"model_type": "ovis2_5", "llm_config": {"model_type": "qwen3", "head_dim": 128, "rope_theta": 1000000},
        "vit_config": {"model_type": "siglip2_navit", "hidden_size": 1152, "num_attention_heads": 16, "hidden_stride": 2,
                       "image_size": 512, "patch_size": 16, "preserve_original_pe": true, "use_rope": true, "window_size": 112}}"#;
    assert_eq!(read(ovis).family, Some("qwen3"));
    let tower = vision(ovis).unwrap();
    let tower = tower.only().unwrap();
    assert_eq!(tower.config, RopeConfig::new(72).with_axes(axial(18)));
    assert_eq!(tower.grid.as_ref().unwrap().merge, 2);
    let without = ovis.replace(r#""use_rope": true"#, r#""use_rope": false"#);
    assert_eq!(vision(&without), None);
}

/// The published file calls both otherwise than transformers' classes.
#[test]
fn ernie_4_5_vl_by_its_published_name() {
    let text = r#"{"model_type": "ernie4_5_moe_vl", "hidden_size": 2560, "num_attention_heads": 20, "num_hidden_layers": 28,
        "rope_theta": 500000, "rope_3d": true, "freq_allocation": 20,
        "vision_config": {"model_type": "DFNRope_vision_transformer", "depth": 32, "embed_dim": 1280, "hidden_size": 1280,
                          "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2}}"#;
    let model = read(text);
    assert_eq!(model.family, Some("ernie4_5_vl_moe_text"));
    let expected = RopeConfig::new(128)
        .with_theta(5e5)
        .with_pairing(Pairing::Interleaved)
        .with_axes(Axes::SpatialFirst { each: 22 });
    assert_eq!(model.only().unwrap().config, expected);
    let vision = read_part(text, Part::Vision).unwrap().unwrap();
    assert_eq!(vision.family, Some("ernie4_5_vl_moe_vision"));
    assert_eq!(vision.only().unwrap().config.head_dim(), 80);
}

#[test]
fn the_tower_of_minimax_m3_says_that_it_is_clips() {
    let text = r#"{"model_type": "minimax_m3_vl", "text_config": {"head_dim": 128, "rotary_dim": 64, "partial_rotary_factor": 0.5,
            "rope_theta": 5000000},
        "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1280, "num_attention_heads": 16, "patch_size": 14,
                          "image_size": 2016, "position_embedding_type": "rope", "rope_mode": "3d", "rope_theta": 10000.0}}"#;
    for part in [Part::Vision, Part::Key("vision_config")] {
        let model = read_part(text, part).unwrap().unwrap();
        assert_eq!(model.family, Some("minimax_m3_vl_vision"));
        let config = &model.only().unwrap().config;
        assert_eq!((config.head_dim(), config.rotary_dim()), (80, 78));
    }
    // CLIP's own has no RoPE, there or elsewhere.
    let own = text.split(r#""position_embedding_type""#).next().unwrap();
    let clip = format!("{own} \"layers\": 24}}}}").replace("minimax_m3_vl", "llava");
    assert_eq!(read_part(&clip, Part::Vision), Ok(None));
    // One that rotates all the same is another one.
    let other = text.replace("minimax_m3_vl", "llava");
    assert_eq!(
        read_part(&other, Part::Vision).unwrap_err().to_string(),
        "model_type: must be a vision family that is known, got clip_vision_model"
    );
}

/// DeepSeek-OCR says nothing of its text part's type; DeepSeek-VL2-tiny says `deepseek_v2`.
#[test]
fn small_models_of_deepseek_v2_have_no_latent_attention() {
    let text = |own: &str| {
        only(&format!(
            r#"{{"model_type": "deepseek_vl_v2", "language_config": {{{own} "architectures": ["DeepseekV2ForCausalLM"],
                "hidden_size": 1280, "num_attention_heads": 10, "num_hidden_layers": 12, "kv_lora_rank": null, "q_lora_rank": null,
                "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0, "use_mla": false}}}}"#
        ))
    };
    assert_eq!(text("").config, RopeConfig::new(128));
    assert_eq!(text(r#""model_type": "deepseek_v2","#), text(""));
    // The large ones do.
    let large = only(
        r#"{"model_type": "deepseek_vl_v2", "language_config": {"model_type": "deepseek_v2", "hidden_size": 2560,
            "num_attention_heads": 32, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}}"#,
    );
    assert_eq!(large.config.rotary_offset(), 128);
}

#[test]
fn the_vocoder_of_qwen2_5_omni_reads_interleaved_pairs() {
    let dit = only(
        r#"{"model_type": "qwen2_5_omni_dit", "hidden_size": 1024, "num_attention_heads": 16, "head_dim": 64}"#,
    );
    let expected = RopeConfig::new(64).with_pairing(Pairing::InterleavedToHalfSplit);
    assert_eq!(dit.config, expected);
}

#[test]
fn faults_name_the_key() {
    for (text, expected) in [
        ("[1]", "config.json: must be an object, got another value"),
        (
            r#"{"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0", "axes_dims_rope": [16, 56, 56]}"#,
            "config.json: must be one of transformers: this is one of diffusers, whose models are not known here, got FluxTransformer2DModel",
        ),
        (r#"{"head_dim": 64}"#, "rope_theta: must be given, got none"),
        (
            r#"{"model_type": "new", "head_dim": 64}"#,
            "rope_theta: must be given: new is no family that is known, got none",
        ),
        (
            r#"{"rope_theta": 1e4}"#,
            "head_dim: must be given, got none",
        ),
        (
            r#"{"rope_theta": 1e4, "hidden_size": 64}"#,
            "num_attention_heads: must be given, got none",
        ),
        (
            r#"{"head_dim": -1, "rope_theta": 1}"#,
            "head_dim: must be a whole number below 2^32, got -1",
        ),
        (
            r#"{"head_dim": 63, "rope_theta": 2}"#,
            "rotary_dim: must be even and at least 2, got 63",
        ),
        (
            r#"{"head_dim": 4000000000, "rope_theta": 2}"#,
            "head_dim: must be from 1 to 65536, got 4000000000",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": "x"}"#,
            "rope_theta: must be a number above 0, got \"x\"",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 0}"#,
            "rope_theta: must be a number above 0, got 0",
        ),
        (
            r#"{"hidden_size": 64, "num_attention_heads": 0, "rope_theta": 1}"#,
            "num_attention_heads: must be from 1 to the hidden size 64, got 0",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 1, "rope_scaling": {"rope_type": "new"}}"#,
            "rope_type: must be default, linear, dynamic, ntk, yarn, longrope, llama3, proportional or xdrope, got new",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 1, "rope_scaling": {"type": "llama3", "factor": 8}}"#,
            "low_freq_factor: must be given, got none",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 2, "rope_scaling": {"type": "linear", "factor": -8}}"#,
            "factor: must be a number above 0, got -8",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 2, "rope_scaling": {"type": "su", "short_factor": [1, "x"]}}"#,
            "short_factor: must be a list of numbers, got [1,\"x\"]",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 1, "rope_scaling": {"type": "default", "mrope_section": [1]}}"#,
            "mrope_section: must add up to 32 pairs, got [1]",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 1, "rope_parameters": 3}"#,
            "rope_parameters: must be an object, got 3",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 1, "partial_rotary_factor": 1.5}"#,
            "partial_rotary_factor: must be above 0 and at most 1, got 1.5",
        ),
        (
            r#"{"head_dim": 64, "rope_theta": 1, "num_hidden_layers": 1000000000}"#,
            "num_hidden_layers: must be at most 65,536, got 1000000000",
        ),
        (
            r#"{"model_type": "gemma3_text", "head_dim": 64, "rope_parameters": {"rope_theta": 3.0}}"#,
            "rope_parameters: must have a set for full_attention and one for sliding_attention, got one for both",
        ),
        (
            // Without `swa_rope_theta` the set might be of either kind.
            r#"{"model_type": "mimo_v2_flash", "rope_parameters": {"rope_theta": 3.0}, "swa_rope_theta": null}"#,
            "rope_parameters: must have a set for full_attention and one for sliding_attention, got one for both",
        ),
        (
            // Gemma 3 scales its full layers only: a set for both might say the wrong thing of the others.
            r#"{"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 3.0}, "rope_local_base_freq": 2.0}"#,
            "rope_parameters: must have a set for full_attention and one for sliding_attention, got one for both",
        ),
        (
            r#"{"head_dim": 64, "rope_embedding_base": 1000000, "rope_position_scale": 2.0}"#,
            "rope_position_scale: must be 1: how positions are scaled by it is not known, got 2",
        ),
        (
            r#"{"model_type": "vjepa2", "head_dim": 64}"#,
            "model_type: must be a family that is known: what it applies is no rotation, got vjepa2",
        ),
    ] {
        assert_eq!(fault(text), expected, "{text}");
    }
    assert!(fault("{").starts_with("config.json: must be JSON, got EOF"));
}

/// `ModernBERT` and mmBERT keep what their files said before their classes rotated; those classes never read it.
#[test]
fn families_that_always_rotate_do_not_ask_what_positions_are() {
    for left_over in ["absolute", "sans_pos"] {
        let model = read(&format!(
            r#"{{"model_type": "modernbert", "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 4,
                "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "position_embedding_type": "{left_over}"}}"#
        ));
        assert_eq!(model.layers, [0, 1, 1, 0]);
        let full = model.kind("full_attention").unwrap().rope.as_ref().unwrap();
        assert_eq!(full.config, RopeConfig::new(64).with_theta(1.6e5));
    }
}

#[test]
fn a_null_theta_of_sliding_layers_is_that_of_the_full_ones() {
    let model = read(
        r#"{"model_type": "modernbert", "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 3,
            "global_rope_theta": 80000.0, "local_rope_theta": null}"#,
    );
    assert_eq!(
        model.only().unwrap().config,
        RopeConfig::new(64).with_theta(8e4)
    );
    assert!(model.defaulted.is_empty());
    // That is ModernBERT's way: others have their default.
    let gemma3 = read(
        r#"{"model_type": "gemma3_text", "head_dim": 256, "num_hidden_layers": 6, "rope_theta": 1e6, "rope_local_base_freq": null}"#,
    );
    for (kind, theta) in [("full_attention", 1e6), ("sliding_attention", 1e4)] {
        let kind = gemma3.kind(kind).unwrap().rope.as_ref().unwrap();
        assert_eq!(kind.config.theta(), theta);
    }
    assert_eq!(gemma3.defaulted, ["rope_local_base_freq"]);
}

/// Molmo2-O-7B scales only some of its layers: the others keep theta alone. transformers has the factor 1 for every type but yarn and
/// longrope.
#[test]
fn an_attention_factor_is_that_of_yarn_and_longrope() {
    let molmo = read(
        r#"{"model_type": "molmo2", "text_config": {"model_type": "molmo2_text", "hidden_size": 4096, "num_attention_heads": 32,
            "head_dim": 128, "num_hidden_layers": 8, "max_position_embeddings": 65536, "rope_theta": 500000.0,
            "rope_scaling_layers": [3, 7],
            "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192, "beta_fast": 32,
                             "beta_slow": 1, "attention_factor": 1.2079441541679836}}}"#,
    );
    let plain = RopeConfig::new(128).with_theta(5e5);
    let scaled = plain
        .clone()
        .with_scaling(Scaling::Yarn(Yarn::new(8.0, 8192.0)))
        .with_attention_factor(1.207_944_154_167_983_6);
    for layer in 0..8 {
        let rope = molmo.layer(layer).unwrap().rope.as_ref().unwrap();
        let expected = if layer % 4 == 3 { &scaled } else { &plain };
        assert_eq!(&rope.config, expected, "{layer}");
    }
    for set in [
        r#"{"rope_type": "default""#,
        r#"{"rope_type": "linear", "factor": 2"#,
        r#"{"rope_type": "dynamic", "factor": 2"#,
        r#"{"rope_type": "proportional""#,
        r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8"#,
    ] {
        let config = only(&format!(
            r#"{{"head_dim": 64, "rope_theta": 1e4, "max_position_embeddings": 64, "rope_scaling": {set}, "attention_factor": 1.5}}}}"#
        ))
        .config;
        assert_eq!(config.attention_factor(), 1.0, "{set}");
    }
}

/// Published files of Qwen3-VL call their tower `qwen3_vl` too.
#[test]
fn parts_by_their_key_are_what_stands_there() {
    let text = r#"{"model_type": "qwen3_vl", "text_config": {"model_type": "qwen3_vl_text", "head_dim": 128, "rope_theta": 5e6},
        "vision_config": {"model_type": "qwen3_vl", "hidden_size": 1152, "num_heads": 16, "patch_size": 16}}"#;
    let vision = read_part(text, Part::Vision).unwrap().unwrap();
    assert_eq!(vision.family, Some("qwen3_vl_vision"));
    assert_eq!(vision.only().unwrap().config.head_dim(), 72);
    for key in ["vision_config", "vision"] {
        assert_eq!(
            read_part(text, Part::Key(key)).unwrap().as_ref(),
            Some(&vision)
        );
    }
    // Where parts do not say what they are, the composite does.
    let nameless = text
        .replace(r#""model_type": "qwen3_vl_text", "#, "")
        .replace(r#"{"model_type": "qwen3_vl", "hidden"#, r#"{"hidden"#);
    assert_eq!(
        read_part(&nameless, Part::Key("vision")).unwrap().as_ref(),
        Some(&vision)
    );
    let part = read_part(&nameless, Part::Text).unwrap();
    assert_eq!(part.as_ref().unwrap().family, Some("qwen3_vl_text"));
    assert_eq!(read_part(&nameless, Part::Key("text")).unwrap(), part);
}

/// The published jina-embeddings-v3 calls itself XLM-RoBERTa, which has no RoPE: its remote code has.
#[test]
fn a_model_without_rope_that_says_rotary_has_it() {
    let jina = r#"{"model_type": "xlm-roberta", "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24,
        "position_embedding_type": "rotary", "rotary_emb_base": 20000.0}"#;
    let model = read(jina);
    assert_eq!(model.family, Some("jina_embeddings_v3"));
    assert_eq!(
        model.only().unwrap().config,
        RopeConfig::new(64).with_theta(2e4)
    );
    // The real XLM-RoBERTa, and others whose class has no RoPE: by the general rules, where the file says rotary.
    let absolute = jina.replace(r#""rotary","#, r#""absolute","#);
    assert_eq!(read_config(&absolute), Ok(None));
    let bert = read(&jina.replace("xlm-roberta", "bert"));
    assert_eq!((bert.family, bert.layers.len()), (None, 24));
}

#[test]
fn a_softmax_factor_is_checked() {
    // cos and sin keep the quotient 1 of the two; the softmax has the square of one.
    let text = r#"{"model_type": "deepseek_v3", "rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 40,
        "mscale": 1e308, "mscale_all_dim": 1e308, "original_max_position_embeddings": 4096}}"#;
    assert_eq!(
        fault(text),
        "mscale_all_dim: must leave the scale of the softmax a finite number other than 0, got inf"
    );
}

#[test]
fn the_audio_of_a_refused_family_is_refused_with_the_reason() {
    let text = r#"{"model_type": "musicflamingo", "audio_config": {"model_type": "audioflamingo3_encoder"},
        "text_config": {"model_type": "qwen2", "head_dim": 64, "rope_theta": 1e6}}"#;
    for part in [Part::Audio, Part::Key("audio_config"), Part::Key("audio")] {
        assert_eq!(
            read_part(text, part).unwrap_err().to_string(),
            "model_type: must be a family that is known: its angles are no product of a position and a frequency, got musicflamingo"
        );
    }
    assert_eq!(read(text).family, Some("qwen2"));
    let without = r#"{"model_type": "musicflamingo"}"#;
    assert_eq!(
        read_part(without, Part::Audio).unwrap_err().to_string(),
        "part: must be a part of the file, which has none, got audio"
    );
}

/// `HunyuanOCR`, in its own form and as transformers 5 saves it.
#[test]
fn xdrope_has_a_section_for_each_of_four_axes() {
    let own = r#"{"model_type": "hunyuan_vl", "hidden_size": 1024, "num_attention_heads": 16, "attention_head_dim": 128, "head_dim": 128,
        "num_hidden_layers": 24, "max_position_embeddings": 32768, "rope_theta": 10000.0,
        "rope_scaling": {"type": "xdrope", "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                         "mscale_all_dim": 1.0, "xdrope_section": [16, 16, 16, 16]}}"#;
    let expected = RopeConfig::new(128)
        .with_axes(Axes::Sectioned(vec![16; 4]))
        .with_scaling(Scaling::NtkAlpha { alpha: 1000.0 });
    assert_eq!(only(own).config, expected);
    let saved = own
        .replace(r#""type": "xdrope""#, r#""rope_type": "dynamic""#)
        .replace("xdrope_section", "mrope_section");
    assert_eq!(read(&saved), read(own));
    assert_eq!(
        fault(&own.replace("16, 16]", "16, 15]")),
        "xdrope_section: must add up to 64 pairs, got [16, 16, 16, 15]"
    );
    assert_eq!(
        fault(&own.replace(r#""alpha": 1000.0, "#, "")),
        "alpha: must be given, got none"
    );
}

#[test]
fn sections_of_every_scheme_add_up() {
    let text = |family: &str, sections: &str| {
        format!(
            r#"{{"model_type": "{family}", "head_dim": 128, "hidden_size": 1024, "num_attention_heads": 8, "rope_theta": 1e6,
                "rope_scaling": {{"type": "default", "mrope_section": {sections}}}}}"#
        )
    };
    for family in ["qwen2_vl_text", "qwen3_vl_text", "ernie4_5_vl_moe_text"] {
        for sections in ["[22,22,21]", "[22,22,19]", "[0,4000000000,7]"] {
            assert_eq!(
                fault(&text(family, sections)),
                format!(
                    "mrope_section: must add up to 64 pairs, got {}",
                    sections.replace(',', ", ")
                )
            );
        }
        assert!(read_config(&text(family, "[22,22,20]")).is_ok());
    }
    // The general rules, too.
    let by_turns = r#"{"head_dim": 64, "rope_theta": 1e4,
        "rope_parameters": {"mrope_section": [11, 11, 9], "mrope_interleaved": true}}"#;
    assert_eq!(
        fault(by_turns),
        "mrope_section: must add up to 32 pairs, got [11, 11, 9]"
    );
    let three = text("qwen3_vl_text", "[32, 32]");
    assert_eq!(
        fault(&three),
        "mrope_section: must have three numbers, got [32, 32]"
    );
}

/// A kind that another one hides cannot be chosen.
#[test]
fn kinds_have_names_of_their_own() {
    let names = |text: &str| {
        let model = read(text);
        let names: Vec<_> = model.kinds.iter().map(|kind| kind.name.clone()).collect();
        for kind in &model.kinds {
            assert_eq!(model.kind(&kind.name).unwrap(), kind);
        }
        (names, model.layers)
    };
    let molmo = r#"{"model_type": "molmo2_text", "head_dim": 128, "num_hidden_layers": 3, "rope_theta": 500000.0,
        "rope_scaling_layers": [1],
        "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}}"#;
    let both = ["full_attention", "full_attention (yarn)"].map(str::to_owned);
    assert_eq!(names(molmo), (both.to_vec(), vec![0, 1, 0]));
    let first = molmo.replace("[1]", "[0, 2]");
    let both = ["full_attention", "full_attention (unscaled)"].map(str::to_owned);
    assert_eq!(names(&first), (both.to_vec(), vec![0, 1, 0]));
    let granite = |types: &str, thetas: &str| {
        names(&format!(
            r#"{{"model_type": "granite_swa", "head_dim": 64, "rope_theta": 1e4, "layer_types": {types}, "layer_rope_theta": {thetas}}}"#
        ))
    };
    let (full, sliding) = (r#""full_attention""#, r#""sliding_attention""#);
    let thetas = granite(&format!("[{full}, {full}, {full}]"), "[1e4, 2e4, 0]");
    let expected = ["full_attention", "full_attention (theta 20000)", "nope"].map(str::to_owned);
    assert_eq!(thetas, (expected.to_vec(), vec![0, 1, 2]));
    // Both types have layers that do not rotate, one of them first: they are one kind.
    let nope = granite(
        &format!("[{full}, {sliding}, {sliding}, {full}]"),
        "[0, 1e4, 0, 1e4]",
    );
    let expected = ["nope", "sliding_attention", "full_attention"].map(str::to_owned);
    assert_eq!(nope, (expected.to_vec(), vec![0, 1, 0, 2]));
    // A file's own labels may be what others come to be called.
    let label = molmo.replace(
        r#""rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}"#,
        r#""layer_types": ["a", "a", "a (linear)"], "rope_parameters": {"a": {"rope_type": "linear", "factor": 2},
            "a (linear)": {"rope_type": "linear", "factor": 3, "rope_theta": 5}}"#,
    );
    let (labelled, _) = names(&label);
    assert_eq!(labelled, ["a", "a (linear)", "a (linear) 2"]);
}

/// Phi-3.5-MoE was trained and is served with other divisors and another factor past the original length: vLLM's and `SGLang`'s
/// `Phi3LongRoPEScaledRotaryEmbedding`.
#[test]
fn phimoe_has_other_divisors_and_another_factor_past_the_original_length() {
    let text = r#"{"model_type": "phimoe", "hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 131072, "rope_theta": 1e4,
        "rope_scaling": {"type": "longrope", "short_factor": [1, 2], "long_factor": [4, 8], "short_mscale": 1.25,
                         "long_mscale": 1.5, "original_max_position_embeddings": 4096}}"#;
    let of = |text: &str, tokens| {
        let frequencies = Frequencies::for_length(&only(text).config, tokens).unwrap();
        let inv_freq: Vec<_> = frequencies.inv_freq().collect();
        (inv_freq, frequencies.attention_factor())
    };
    for text in [text, &text.replace("phimoe", "phi3small")] {
        assert_eq!(of(text, 4096), (vec![1.0, 0.01 / 2.0], 1.25));
        assert_eq!(of(text, 4097), (vec![1.0 / 4.0, 0.01 / 8.0], 1.5));
    }
    // Other families of transformers do not read them.
    let phi3 = text.replace("phimoe", "phi3");
    assert_eq!(of(&phi3, 4096).1, of(&phi3, 4097).1);
    let fault = |config: RopeConfig| config.validate().unwrap_err().to_string();
    assert_eq!(
        fault(only(text).config.with_scaling(Scaling::None)),
        "long_attention_factor: must be given with LongRoPE only, which alone has a length to be past, got 1.5"
    );
    assert_eq!(
        fault(only(text).config.with_long_attention_factor(0.0)),
        "long_attention_factor: must be a finite number other than 0, got 0"
    );
}

/// Values by the formulas of `Llama4TextAttention` and `get_llama_4_attn_scale` of transformers 5.23, worked out with Python's floats:
/// `1 + 0.1 * math.log1p(math.floor((p + 1) / 8192))` and `1 + 0.1 * math.log(1 + p // 16384)`.
#[test]
fn factors_of_the_query_are_read() {
    let llama4 = |more: &str| {
        read(&format!(
            r#"{{"model_type": "llama4_text", "num_hidden_layers": 4, "rope_theta": 5e5 {more}}}"#
        ))
    };
    let model = llama4("");
    let (still, rotating) = (model.layer(3).unwrap(), model.layer(0).unwrap());
    assert!(still.rope.is_none() && rotating.rope.is_some());
    assert_eq!(rotating.query_scale, None);
    let scale = still.query_scale.unwrap().up_to(1 << 20).unwrap();
    for (position, expected) in [
        (0, 1.0_f32),
        (8190, 1.0),
        (8191, 1.069_314_7),
        (100_000, 1.256_494_9),
        (1 << 20, 1.485_981_2),
    ] {
        assert_eq!(scale.at(position), expected, "{position}");
    }
    for key in ["attn_temperature_tuning", "floor_scale", "attn_scale"] {
        assert!(model.defaulted.contains(&key));
    }
    let own = llama4(r#", "attn_temperature_tuning": 4, "floor_scale": 4096, "attn_scale": 0.2"#);
    assert_eq!(
        own.layer(3).unwrap().query_scale,
        Some(QueryScaleRule::Llama4 {
            floor_scale: 4096,
            attn_scale: 0.2
        })
    );
    for off in ["false", "0"] {
        let off = llama4(&format!(r#", "attn_temperature_tuning": {off}"#));
        assert_eq!(off.layer(3).unwrap().query_scale, None);
    }

    let set = r#"{"rope_type": "yarn", "rope_theta": 1e6, "factor": 16, "original_max_position_embeddings": 16384,
        "llama_4_scaling_beta": 0.1}"#;
    let of = |family: &str| {
        let model = read(&format!(
            r#"{{"model_type": "{family}", "head_dim": 128, "rope_parameters": {set}}}"#
        ));
        model.kinds[0].query_scale
    };
    let rule = of("ministral3").unwrap();
    let scale = rule.up_to(262_143).unwrap();
    for (position, expected) in [
        (16_383, 1.0_f32),
        (16_384, 1.069_314_7),
        (100_000, 1.194_591),
        (262_143, 1.277_258_9),
    ] {
        assert_eq!(scale.at(position), expected, "{position}");
    }
    assert_eq!(of("mistral4"), Some(rule));
    assert_eq!(of("nobody_knows_it"), Some(rule));
    // Its class does not look at it.
    assert_eq!(of("mistral"), None);
    // A file without parameters has the class's.
    let defaults = read(r#"{"model_type": "ministral3", "head_dim": 128}"#);
    assert_eq!(defaults.kinds[0].query_scale, Some(rule));
    // The length is that of the scaling, wherever it stands.
    for (length, beside, expected) in [
        ("", r#""max_position_embeddings": 32768"#, 32_768),
        (
            r#", "original_max_position_embeddings": 16384"#,
            r#""original_max_position_embeddings": 8192"#,
            8192,
        ),
    ] {
        let text = format!(
            r#"{{"model_type": "ministral3", "head_dim": 128, {beside}, "rope_parameters": {{"rope_type": "yarn", "factor": 16,
                "rope_theta": 1e6, "llama_4_scaling_beta": 0.1 {length}}}}}"#
        );
        let kind = &read(&text).kinds[0];
        assert_eq!(
            kind.query_scale,
            Some(QueryScaleRule::Ministral3 {
                beta: 0.1,
                original_max_position_embeddings: expected
            })
        );
        let yarn = Scaling::Yarn(Yarn::new(16.0, f64::from(expected)));
        assert_eq!(kind.rope.as_ref().unwrap().config.scaling(), &yarn);
    }
    let half = r#"{"model_type": "ministral3", "head_dim": 128, "rope_parameters": {"rope_type": "yarn", "factor": 16,
        "rope_theta": 1e6, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 100.5}}"#;
    assert_eq!(
        fault(half),
        "original_max_position_embeddings: must be a whole number below 2^32 where queries are scaled by it, got 100.5"
    );
    let floorless = r#"{"model_type": "llama4_text", "num_hidden_layers": 4, "floor_scale": 0}"#;
    assert_eq!(fault(floorless), "floor_scale: must be at least 1, got 0");
    let text = format!(r#"{{"model_type": "ministral3", "rope_parameters": {set}}}"#);
    for (length, expected) in [
        (
            "0",
            "original_max_position_embeddings: must be a number above 0, got 0",
        ),
        ("null", "max_position_embeddings: must be given, got none"),
    ] {
        let text = text.replace("16384", length);
        assert_eq!(fault(&text), expected);
    }
}
