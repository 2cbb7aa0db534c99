//! Every scaling rule against frequencies of other implementations (transformers 5.23 in f64) and against published values.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where something is not as it has to be"
)]

use std::collections::BTreeMap;

use wgpu_rope::{Frequencies, Pair, RopeConfig, Scaling, TableSpec, Yarn, reference};

/// Name to attention factor and frequencies.
fn golden() -> BTreeMap<String, (f64, Vec<f64>)> {
    include_str!("golden/frequencies.csv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut fields = line.split(',');
            let name = fields.next().unwrap().to_owned();
            let factor = fields.next().unwrap().parse().unwrap();
            let values = fields
                .map(|bits| f64::from_bits(u64::from_str_radix(bits, 16).unwrap()))
                .collect();
            (name, (factor, values))
        })
        .collect()
}

fn llama3() -> RopeConfig {
    RopeConfig::new(128)
        .with_theta(5e5)
        .with_scaling(Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        })
}

fn longrope() -> RopeConfig {
    let mut divisors = golden();
    let mut divisors = |name| divisors.remove(name).unwrap().1;
    RopeConfig::new(96).with_scaling(Scaling::LongRope {
        short_factor: divisors("phi3_short_factor"),
        long_factor: divisors("phi3_long_factor"),
        original_max_position_embeddings: 4096.0,
        factor: 131_072.0 / 4096.0,
    })
}

fn yarn(head_dim: u32, theta: f64, yarn: Yarn) -> RopeConfig {
    RopeConfig::new(head_dim)
        .with_theta(theta)
        .with_scaling(Scaling::Yarn(yarn))
}

#[test]
fn other_implementations_have_the_same_frequencies() {
    let proportional = Scaling::Proportional {
        rotated_pairs: 64,
        factor: 1.0,
    };
    let dynamic = Scaling::Dynamic {
        factor: 2.0,
        max_position_embeddings: 2048.0,
    };
    let cases = [
        ("llama2_7b_default", RopeConfig::new(128), 1),
        (
            "deepseek_coder_linear4",
            RopeConfig::new(128)
                .with_theta(1e5)
                .with_scaling(Scaling::Linear { factor: 4.0 }),
            1,
        ),
        (
            "llama_dynamic2_long8192",
            RopeConfig::new(128).with_scaling(dynamic),
            8192,
        ),
        (
            "gpt_oss_20b_yarn_notruncate",
            yarn(64, 150_000.0, Yarn::new(32.0, 4096.0).with_truncate(false)),
            1,
        ),
        (
            "qwen25_7b_yarn4",
            yarn(128, 1e6, Yarn::new(4.0, 32_768.0)),
            1,
        ),
        (
            "yarn_mscale_ratio",
            yarn(
                64,
                1e4,
                Yarn::new(40.0, 4096.0).with_mscale(Some(1.0), Some(0.707)),
            ),
            1,
        ),
        (
            "deepseek_v3_interleave_to_half",
            yarn(
                64,
                1e4,
                Yarn::new(40.0, 4096.0).with_mscale(Some(1.0), Some(1.0)),
            ),
            1,
        ),
        ("phi3_mini_128k_longrope_short", longrope(), 4096),
        ("phi3_mini_128k_longrope_long", longrope(), 4097),
        ("llama31_8b_llama3", llama3(), 1),
        (
            "gemma4_full_proportional25_hd512",
            RopeConfig::new(512)
                .with_theta(1e6)
                .with_scaling(proportional),
            1,
        ),
        (
            "phi2_partial40_hd80",
            RopeConfig::new(80).with_rotary_dim(32),
            1,
        ),
    ];
    let golden = golden();
    // All of the file but Phi-3's divisors.
    assert_eq!(golden.len(), cases.len() + 2);
    for (name, config, tokens) in cases {
        let own = Frequencies::for_length(&config, tokens).unwrap();
        let (factor, values) = &golden[name];
        assert!(
            (own.attention_factor() / factor - 1.0).abs() < 1e-12,
            "{name}"
        );
        assert_eq!(own.len(), values.len(), "{name}");
        for (k, (own, other)) in own.inv_freq().zip(values).enumerate() {
            let near = if *other == 0.0 {
                own == 0.0
            } else {
                (own / other - 1.0).abs() < 1e-12
            };
            assert!(near, "{name} pair {k}: {own:e}, theirs {other:e}");
        }
    }
}

/// Values worked out from the published formulas, to the digits given.
#[test]
fn rules_give_their_published_values() {
    let close = |own: f64, value: f64| assert!((own / value - 1.0).abs() < 5e-9, "{own} {value}");
    let values = |config: &RopeConfig| -> Vec<f64> {
        Frequencies::new(config).unwrap().inv_freq().collect()
    };
    let gpt_oss = yarn(64, 150_000.0, Yarn::new(32.0, 4096.0).with_truncate(false));
    let own = values(&gpt_oss);
    close(own[8], 0.050_813_274_8);
    close(own[16], 4.564_839_192e-4);
    close(own[31], 3.023_511_428e-7);
    close(gpt_oss.attention_factor(), 1.346_573_590);

    // DeepSeek V2 and V3: cos and sin unscaled, the softmax scaled apart from them.
    let deepseek = |mscale| Yarn::new(40.0, 4096.0).with_mscale(Some(mscale), Some(mscale));
    let own = values(&yarn(64, 1e4, deepseek(0.707)));
    close(own[0], 1.0);
    close(own[31], 3.333_803_580e-6);
    assert_eq!(yarn(64, 1e4, deepseek(0.707)).attention_factor(), 1.0);
    assert!((deepseek(0.707).softmax_factor() - 1.589_626).abs() < 1e-6);
    assert!((deepseek(1.0).softmax_factor() - 1.873_854).abs() < 1e-6);
    // mscale alone counts for nothing; a factor that is set counts for all.
    let alone = yarn(
        64,
        1e4,
        Yarn::new(40.0, 4096.0).with_mscale(Some(0.707), None),
    );
    close(alone.attention_factor(), 0.1 * 40.0_f64.ln() + 1.0);
    assert_eq!(alone.with_attention_factor(1.0).attention_factor(), 1.0);

    close(longrope().attention_factor(), 1.190_238_071);
    // theta' = 30527.73675 for twice the length, factor 2.
    let dynamic = RopeConfig::new(128).with_scaling(Scaling::Dynamic {
        factor: 2.0,
        max_position_embeddings: 4096.0,
    });
    let grown: Vec<_> = Frequencies::for_length(&dynamic, 8192)
        .unwrap()
        .inv_freq()
        .collect();
    close(grown[32], 30_527.736_75_f64.powf(-0.5));
    assert_eq!(values(&dynamic), values(&RopeConfig::new(128)));
    let alpha = RopeConfig::new(128).with_scaling(Scaling::NtkAlpha { alpha: 3.0 });
    assert_eq!(values(&alpha), grown);

    let ntk = |mixed_b| {
        let config = RopeConfig::new(128).with_scaling(Scaling::Ntk {
            factor: 4.0,
            mixed_b,
        });
        values(&config)
    };
    close(
        ntk(None)[10],
        4e4_f64.powf(-20.0 / 128.0) * 4_f64.powf(-2.0 / 128.0),
    );
    // The last pair is divided by the whole factor.
    close(ntk(Some(0.625))[63], 1e4_f64.powf(-126.0 / 128.0) / 4.0);

    let factors: Vec<f64> = (1..=64).map(f64::from).collect();
    let own = values(&RopeConfig::new(128).with_scaling(Scaling::FrequencyFactors(factors)));
    close(own[9], 1e4_f64.powf(-18.0 / 128.0) / 10.0);
}

#[test]
fn lengths_that_share_frequencies_are_known() {
    let same = Frequencies::same_for_lengths;
    assert!(same(&longrope(), 1, 4096));
    assert!(!same(&longrope(), 4096, 4097));
    assert!(same(&longrope(), 4097, 131_072));
    let dynamic = RopeConfig::new(128).with_scaling(Scaling::Dynamic {
        factor: 2.0,
        max_position_embeddings: 4096.0,
    });
    assert!(same(&dynamic, 1, 4096));
    assert!(!same(&dynamic, 4096, 4097));
    assert!(!same(&dynamic, 5000, 5001));
    assert!(same(&llama3(), 1, 1 << 40));
}

/// A row of one table times a row of another, as complex numbers in f64, against a row of a third one. Rows are f32, so three roundings
/// of 2^-24 of the factor are in between.
fn check_product(tables: [&Frequencies; 3], positions: [i32; 3]) {
    let rows: Vec<_> = tables
        .into_iter()
        .zip(positions)
        .map(|(frequencies, position)| {
            let spec = TableSpec::new(frequencies);
            reference::table(&spec, (&[position]).into()).unwrap()
        })
        .collect();
    let bound = 3.1 * 2_f64.powi(-24) * tables[2].attention_factor().abs();
    for (k, turns) in rows[0].iter().zip(&rows[1]).enumerate() {
        let ([a, b], [c, d]) = (turns.0.map(f64::from), turns.1.map(f64::from));
        let expected = rows[2][k].map(f64::from);
        for (made, expected) in [a * c - b * d, a * d + b * c].into_iter().zip(expected) {
            let error = (made - expected).abs();
            assert!(error <= bound, "{positions:?}, pair {k}: {error:e}");
        }
    }
}

#[test]
fn cached_keys_move_by_a_difference_of_positions() {
    let yarn = Scaling::Yarn(Yarn::new(4.0, 4096.0));
    for config in [
        longrope(),
        RopeConfig::new(64).with_scaling(yarn),
        RopeConfig::new(64).with_attention_factor(-0.75),
    ] {
        let frequencies = Frequencies::for_length(&config, 100_000).unwrap();
        let shift = frequencies.without_attention_factor();
        assert_eq!(shift.attention_factor(), 1.0);
        assert_eq!(shift.pairs(), frequencies.pairs());
        assert_eq!(shift.axes(), frequencies.axes());
        for (from, to) in [(0, 7), (5000, 4), (131_071, 65_536), (-3, i32::MAX)] {
            let by = i32::wrapping_sub(to, from);
            // What wraps is another position.
            if i64::from(by) == i64::from(to) - i64::from(from) {
                check_product([&frequencies, &shift, &frequencies], [from, by, to]);
            }
        }
    }
}

#[test]
fn cached_keys_change_from_one_list_of_frequencies_to_another() {
    let dynamic = RopeConfig::new(128).with_scaling(Scaling::Dynamic {
        factor: 2.0,
        max_position_embeddings: 4096.0,
    });
    for (config, lengths) in [
        (longrope(), [4096, 4097]),
        (longrope(), [4097, 4096]),
        (dynamic.clone(), [1, 100_000]),
        (dynamic, [50_000, 50_001]),
    ] {
        let [from, to] = lengths.map(|tokens| Frequencies::for_length(&config, tokens).unwrap());
        // A factor of one list only.
        let to = Frequencies::from_pairs(to.pairs().iter().copied(), 1.190_238).unwrap();
        let between = Frequencies::between(&from, &to).unwrap();
        assert_ne!(from.pairs(), to.pairs());
        let factor = to.attention_factor() / from.attention_factor();
        assert_eq!(between.attention_factor(), factor);
        for position in [0, 1, 4095, -4096, 131_071, i32::MAX, i32::MIN] {
            check_product([&from, &between, &to], [position; 3]);
        }
        let back = Frequencies::between(&to, &from).unwrap();
        for (there, back) in between.inv_freq().zip(back.inv_freq()) {
            assert_eq!(there, -back);
        }
    }
    let of = |inv_freq: [f64; 4], axes: [u32; 4], factor| {
        let pairs = inv_freq.into_iter().zip(axes);
        let pairs = pairs.map(|(inv_freq, axis)| Pair { inv_freq, axis });
        Frequencies::from_pairs(pairs, factor)
    };
    let text = [0; 4];
    // What no pair can have is 0; the least one is not.
    let least = 2_f64.powi(-64);
    let from = of([1.0, 2e-19, 3.0 * least, 0.0], text, 2.0).unwrap();
    let next = 2e-19_f64.next_up();
    let to = of([1.0, next, 2.0 * least, 0.5], text, 0.5).unwrap();
    let between = Frequencies::between(&from, &to).unwrap();
    let made: Vec<_> = between.inv_freq().collect();
    assert_eq!(made, [0.0, 0.0, -least, 0.5]);
    assert_eq!(between.attention_factor(), 0.25);

    let fault = |from: &Frequencies, to: &Frequencies| {
        Frequencies::between(from, to).unwrap_err().to_string()
    };
    let three = Frequencies::from_pairs(from.pairs()[1..].iter().copied(), 1.0).unwrap();
    assert_eq!(fault(&from, &three), "pairs: must be 4 as before, got 3");
    let axes = of([1.0; 4], [0, 1, 2, 0], 1.0).unwrap();
    assert_eq!(fault(&from, &axes), "axes: must be 1 as before, got 3");
    let others = of([1.0; 4], [0, 2, 1, 0], 1.0).unwrap();
    assert_eq!(
        fault(&axes, &others),
        "axis: of pair 1 must be 1 as before, got 2"
    );
    let large = of([-65_536.0, 1.0, 1.0, 1.0], text, 1.0).unwrap();
    let positive = of([65_536.0, 1.0, 1.0, 1.0], text, 1.0).unwrap();
    assert_eq!(
        fault(&large, &positive),
        "inv_freq: must be 0 or of a magnitude from 2^-64 to 2^16 radians per position, got 131072"
    );
    let strong = of([1.0; 4], text, 10_000.0).unwrap();
    let weak = of([1.0; 4], text, 1e-4).unwrap();
    assert!(fault(&weak, &strong).contains("2^24"));
}

#[test]
fn scalings_are_refused_by_name() {
    let fault = |scaling| {
        Frequencies::new(&RopeConfig::new(4).with_scaling(scaling))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        fault(Scaling::FrequencyFactors(vec![1.0; 3])),
        "freq_factors: must have 2 values, one for each pair, got 3"
    );
    assert_eq!(
        fault(Scaling::FrequencyFactors(vec![1.0, 0.0])),
        "freq_factors: must be a positive finite number, got 0"
    );
    assert_eq!(
        fault(Scaling::LongRope {
            short_factor: vec![1.0; 2],
            long_factor: vec![],
            original_max_position_embeddings: 10.0,
            factor: 2.0
        }),
        "long_factor: must have 2 values, one for each pair, got 0"
    );
    assert_eq!(
        fault(Scaling::Yarn(Yarn::new(4.0, 1.0))),
        "original_max_position_embeddings: must be above 1, got 1"
    );
    assert_eq!(
        fault(Scaling::Yarn(Yarn::new(4.0, 100.0).with_betas(0.0, 1.0))),
        "beta_fast: must be a positive finite number, got 0"
    );
    assert_eq!(
        fault(Scaling::Dynamic {
            factor: 0.0,
            max_position_embeddings: 10.0
        }),
        "factor: must be a positive finite number, got 0"
    );
    assert_eq!(
        fault(Scaling::Proportional {
            rotated_pairs: 3,
            factor: 1.0
        }),
        "rotated_pairs: must be from 1 to 2, got 3"
    );
    let two = RopeConfig::new(2).with_scaling(Scaling::NtkAlpha { alpha: 2.0 });
    assert_eq!(
        Frequencies::new(&two).unwrap_err().to_string(),
        "rotary_dim: must be at least 4 for a scaling that changes the base, got 2"
    );
    for scaling in [
        Scaling::NtkAlpha { alpha: 2.0 },
        Scaling::Dynamic {
            factor: 2.0,
            max_position_embeddings: 10.0,
        },
    ] {
        for dim in [1, 2] {
            let config = RopeConfig::new(8)
                .with_frequency_dim(dim)
                .with_scaling(scaling.clone());
            assert_eq!(
                Frequencies::new(&config).unwrap_err().to_string(),
                format!(
                    "frequency_dim: must be above 2 for a scaling that changes the base, got {dim}"
                )
            );
        }
    }
}

/// What is too large or too small for f64 is an error, not a pair that stands still.
#[test]
fn frequencies_do_not_vanish_by_accident() {
    let fault = |config: &RopeConfig, tokens| {
        Frequencies::for_length(config, tokens)
            .unwrap_err()
            .to_string()
    };
    let of = |scaling| RopeConfig::new(64).with_scaling(scaling);
    let dynamic = |factor| {
        of(Scaling::Dynamic {
            factor,
            max_position_embeddings: 10.0,
        })
    };
    for (config, tokens, got) in [
        (of(Scaling::NtkAlpha { alpha: 1e300 }), 0, "inf"),
        (of(Scaling::NtkAlpha { alpha: 1e-320 }), 0, "0"),
        (
            of(Scaling::Ntk {
                factor: 1e308,
                mixed_b: None,
            }),
            0,
            "inf",
        ),
        (dynamic(1e300), 20, "inf"),
        (dynamic(1e308), 1000, "inf"),
    ] {
        assert_eq!(
            fault(&config, tokens),
            format!(
                "theta: must stay a positive finite number where the scaling changes it, got {got}"
            )
        );
    }
    // Up to the length of the training nothing is changed.
    assert!(Frequencies::for_length(&dynamic(2.0), 10).is_ok());
    let vanished = |pair| {
        format!("inv_freq: of pair {pair} must be at least 2^-64 radians per position, got 0")
    };
    let far = RopeConfig::new(64).with_theta(1e300).with_frequency_dim(1);
    assert_eq!(fault(&far, 0), vanished(1));
    let factors = |last| {
        let mut factors = vec![1.0; 32];
        factors[31] = last;
        of(Scaling::FrequencyFactors(factors)).with_theta(1e30)
    };
    // 1e-29 / 1e300 is below the least f64, 5e-324.
    assert_eq!(fault(&factors(1e300), 0), vanished(31));
    let still = factors(f64::INFINITY).with_theta(1e4);
    let inv_freq: Vec<_> = Frequencies::new(&still).unwrap().inv_freq().collect();
    assert!(inv_freq[30] > 0.0 && inv_freq[31] == 0.0);
}
