//! The list of vectors. What is not in it is not compared on backends that tests do not reach, so a new kernel, type, pairing or
//! path gets its lines here.

mod layers;

use wgpu_rope::config::AxisRun;
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::reference::SlotLists;
use wgpu_rope::{
    Angles, Axes, AxisOrder, CosSinLayout, Direction, Element, ElementType, Frequencies,
    HeadLayout, Limits, Pages, Pair, Pairing, Placement, QueryScale, RopeConfig, Rows, Scaling,
    SlotPositionSource, SlotRule, SlotSource, TableSpec,
};

use crate::maker::{Copied, Fill, Maker, Rotation, Shape, Slots, Source};
use crate::vectors::{Failure, Vectors};

const ELEMENTS: [(&str, ElementType); 3] = [
    ("f32", ElementType::F32),
    ("f16", ElementType::F16),
    ("bf16", ElementType::Bf16),
];

const PAIRINGS: [(&str, Pairing); 6] = [
    ("half-split", Pairing::HalfSplit),
    ("interleaved", Pairing::Interleaved),
    ("interleaved to half-split", Pairing::InterleavedToHalfSplit),
    ("half-split to interleaved", Pairing::HalfSplitToInterleaved),
    ("2 blocks", Pairing::HalfSplitBlocks(2)),
    ("3 blocks", Pairing::HalfSplitBlocks(3)),
];

const DIRECTIONS: [(&str, Direction); 3] = [
    ("forward", Direction::Forward),
    ("inverse", Direction::Inverse),
    ("adjoint", Direction::Adjoint),
];

/// Makes all vectors, always the same ones.
///
/// # Errors
/// Where a plan or the twin refuses one, which is a mistake in the maker.
pub fn vectors() -> Result<Vectors, Failure> {
    let mut maker = Maker::new();
    tables(&mut maker)?;
    angles(&mut maker)?;
    caches(&mut maker)?;
    for (group, element) in ELEMENTS {
        rotations(&mut maker, group, element)?;
    }
    pairings(&mut maker)?;
    axes(&mut maker)?;
    paths(&mut maker)?;
    one_buffer(&mut maker)?;
    slots(&mut maker)?;
    query_scales(&mut maker)?;
    layers::add(&mut maker)?;
    Ok(maker.finish())
}

/// Wrong digits, one for each kernel that computes something of its own: in a coefficient of the table's polynomial for cos, and in the step
/// to a norm's reciprocal root.
const FAULTS: [(&str, &str); 2] = [
    ("0x4ef4f326u", "0x4ef4f3a6u"),
    ("0xc0000000u", "0xc0000100u"),
];

/// Tables and norms whose WGSL has wrong digits: a path that reports all bits of either as equal is not really comparing.
///
/// # Errors
/// Where a plan or the twin refuses one, or a digit is not in the WGSL.
pub fn faulty() -> Result<Vectors, Failure> {
    let mut maker = Maker::new();
    tables(&mut maker)?;
    layers::norms(&mut maker)?;
    let mut vectors = maker.finish();
    for (right, wrong) in FAULTS {
        let before = vectors.modules.clone();
        for text in vectors.modules.values_mut() {
            *text = text.replace(right, wrong);
        }
        if vectors.modules == before {
            return Err(format!("{right} is nowhere in the WGSL").into());
        }
    }
    Ok(vectors)
}

/// Rates of both signs from 2^16 to 2^-64.
fn ladder(pairs: u32, factor: f64) -> Result<Frequencies, Failure> {
    let of = |k: u32| {
        let magnitude = (16.0 - f64::from(k) * 80.0 / f64::from(pairs.max(2) - 1)).exp2();
        Pair {
            inv_freq: if k % 3 == 2 { -magnitude } else { magnitude },
            axis: 0,
        }
    };
    Ok(Frequencies::from_pairs((0..pairs).map(of), factor)?)
}

const IDS: [i32; 17] = [
    0,
    1,
    -1,
    2,
    3,
    17,
    4095,
    -4096,
    131_071,
    1_048_576,
    16_777_217,
    -16_777_217,
    1_686_629_713,
    2_147_483_646,
    i32::MAX,
    i32::MIN,
    -2_147_483_647,
];

/// Exact tables: every source of positions, direction, kind of factor and odd width.
fn tables(maker: &mut Maker) -> Result<(), Failure> {
    let group = "tables";
    let listed = Source::Runs(&IDS, 1);
    let mut add = |name: &str, frequencies: &Frequencies, direction, source, rows, limits| {
        let spec = TableSpec::new(frequencies).with_direction(direction);
        let fill = Fill {
            spec: &spec,
            frequencies,
            source,
            rows,
            limits,
        };
        maker.fill(group, name, fill)
    };
    let limits = Limits::default();
    for (name, direction) in DIRECTIONS {
        for factor in [1.0, -1.0, 1.190_238_071_161_14, -0.37, 6.0e4] {
            let name = format!("{name}, factor {factor}");
            add(&name, &ladder(64, factor)?, direction, listed, 17, limits)?;
        }
    }
    for width in [1, 3, 31, 65, 130] {
        let name = format!("{width} pairs");
        add(
            &name,
            &ladder(width, 1.0)?,
            Direction::Forward,
            listed,
            20,
            limits,
        )?;
    }
    let llama = RopeConfig::new(128).with_theta(500_000.0);
    let llama = Frequencies::new(&llama)?;
    let forward = Direction::Forward;
    for start in [0, 131_000, i32::MAX - 5, i32::MIN] {
        let name = format!("from {start}");
        add(&name, &llama, forward, Source::From(start), 23, limits)?;
    }
    let runs = Source::Runs(&[7, -3, i32::MAX, 1_000_000], 5);
    add("runs of 5", &llama, forward, runs, 20, limits)?;
    add("a run that ends early", &llama, forward, runs, 18, limits)?;
    let narrow = Limits {
        max_compute_workgroups_per_dimension: 7,
        ..limits
    };
    add("several dispatches", &llama, forward, listed, 17, narrow)?;
    let few = Limits {
        max_compute_invocations_per_workgroup: 24,
        ..limits
    };
    add("small workgroups", &llama, forward, runs, 20, few)?;

    // Positions all over i32.
    let mut random = Maker::new();
    let ids: Vec<_> = (0..512).map(|_| random.random().cast_signed()).collect();
    let scattered = Source::Runs(&ids, 1);
    add("512 positions", &llama, forward, scattered, 512, limits)?;
    let ladder = ladder(64, 1.0)?;
    add(
        "512 positions, ladder",
        &ladder,
        forward,
        scattered,
        512,
        limits,
    )
}

/// f32 angles, of ids and of coordinates.
fn angles(maker: &mut Maker) -> Result<(), Failure> {
    let group = "f32 angles";
    let mut coordinates = vec![
        0.0,
        -0.0,
        1.0,
        -0.5,
        3.75,
        -1234.567,
        0.5 / 14.0,
        1e-5,
        1e9,
        f32::from_bits(1),
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let mut random = Maker::new();
    // From 2^-64 to 2^48.
    coordinates.extend((0..49).map(|_| {
        let word = random.random();
        f32::from_bits((word & 0x8000_0000) | (0x1f80_0000 + (word & 0x7fff_ffff) % 0x3800_0000))
    }));
    let rows = u32::try_from(coordinates.len())?;
    for (name, direction) in DIRECTIONS {
        for factor in [1.0, -1.4] {
            let frequencies = ladder(35, factor)?;
            let spec = TableSpec::new(&frequencies)
                .with_angles(Angles::F32)
                .with_direction(direction);
            let mut add = |name: &str, source, rows| {
                let fill = Fill {
                    spec: &spec,
                    frequencies: &frequencies,
                    source,
                    rows,
                    limits: Limits::default(),
                };
                maker.fill(group, name, fill)
            };
            let ids = Source::Runs(&IDS, 1);
            add(&format!("ids, {name}, factor {factor}"), ids, 17)?;
            let start = Source::From(16_777_210);
            add(&format!("counted, {name}, factor {factor}"), start, 12)?;
            let coordinates = Source::Coordinates(&coordinates, AxisOrder::Last);
            add(
                &format!("coordinates, {name}, factor {factor}"),
                coordinates,
                rows,
            )?;
        }
    }
    Ok(())
}

/// A caller's own cos and sin.
fn caches(maker: &mut Maker) -> Result<(), Failure> {
    fn add<T: Element>(maker: &mut Maker, element: &str) -> Result<(), Failure> {
        for (positions, columns, pairs) in [(13, 8, 8), (13, 9, 9), (7, 11, 3), (20, 130, 67)] {
            let layout = CosSinLayout {
                positions,
                columns,
                pairs,
                element: T::TYPE,
            };
            let count = (positions * columns) as usize;
            let mut made = |first: f32| -> Vec<T> {
                let value = |_| {
                    let unit = (maker.random() >> 8) as f32 / 16_777_216.0;
                    T::narrow(first + unit)
                };
                (0..count).map(value).collect()
            };
            let (mut cos, mut sin) = (made(0.25), made(-0.5));
            // One pair of row 2 has no inverse.
            let at = 2 * columns as usize + 1;
            (cos[at], sin[at]) = (T::narrow(0.0), T::narrow(0.0));
            let last = i32::try_from(positions)? - 1;
            let ids = [0, last, -1, 2, last + 1, i32::MIN, 2, i32::MAX, 1];
            // Other directions where rows are long.
            for &(name, direction) in &DIRECTIONS[..if pairs > 64 { 3 } else { 1 }] {
                let spec = TableSpec::from_cos_sin(layout).with_direction(direction);
                let divided = direction == Direction::Inverse;
                for (source, ids, times) in [("listed", Some(&ids[..]), 2), ("counted", None, 1)] {
                    let copied = Copied {
                        spec: &spec,
                        layout,
                        cos: &cos,
                        sin: &sin,
                        ids,
                        undivided: if divided { times } else { 0 },
                    };
                    let name =
                        format!("{element} [{positions}, {columns}] {pairs} {source} {name}");
                    maker.copy("given cos and sin", &name, copied)?;
                }
            }
        }
        Ok(())
    }
    add::<f32>(maker, "f32")?;
    add::<f16>(maker, "f16")?;
    add::<bf16>(maker, "bf16")
}

/// Slots of a cache: every source, and lists of which a part is garbage.
fn slots(maker: &mut Maker) -> Result<(), Failure> {
    let group = "slots";
    let limits = Limits::default();
    // Of eight values five below the limit, one a little past it, one of either sign and any size, and -1.
    let mut lists = |limit: u32, count: u32| -> Vec<i32> {
        (0..count)
            .map(|_| {
                let word = maker.random();
                match (word >> 8) & 7 {
                    0 => -1,
                    1 => word.cast_signed(),
                    2 => (limit + (word >> 16) % 3).cast_signed(),
                    _ => ((word >> 11) % limit).cast_signed(),
                }
            })
            .collect()
    };
    let mapping = lists(96, 150);
    let (positions, sequences) = (lists(60, 150), lists(3, 150));
    let block_table = lists(11, 12);
    let pages = Pages {
        page_size: 16,
        pages: 11,
        pages_per_sequence: 4,
    };
    let rules = [
        ("contiguous", SlotRule::contiguous(3, 50)?),
        ("ring", SlotRule::contiguous(3, 50)?.with_ring(13, 4)?),
        ("paged", SlotRule::paged(3, pages)?),
        ("paged ring", SlotRule::paged(3, pages)?.with_ring(37, 1)?),
        ("large", SlotRule::contiguous(1, i32::MAX.cast_unsigned())?),
    ];
    let given = SlotLists {
        positions: &positions,
        sequences: &sequences,
        block_table: &block_table,
    };
    let mut add = |name: &str, source, lists, limits| {
        let slots = Slots {
            source,
            lists,
            limits,
        };
        maker.slots(group, name, slots)
    };
    for (batch, tokens) in [(1, 150), (70, 2)] {
        let source = SlotSource::Listed {
            batch,
            tokens,
            capacity: 96,
        };
        let lists = SlotLists {
            positions: &mapping,
            ..SlotLists::default()
        };
        add(&format!("listed, batch of {batch}"), source, lists, limits)?;
    }
    let kinds = [
        ("from -5", SlotPositionSource::From(-5)),
        ("from the end", SlotPositionSource::From(i32::MAX - 7)),
        ("start", SlotPositionSource::Start),
        ("start per sequence", SlotPositionSource::StartPerSequence),
        ("shared ids", SlotPositionSource::SharedIds),
        ("ids", SlotPositionSource::Ids),
        ("ragged", SlotPositionSource::Ragged),
    ];
    for (rule_name, rule) in rules {
        for (name, positions) in kinds {
            let source = SlotSource::Placed {
                rule,
                tokens: 45,
                positions,
            };
            add(&format!("{rule_name}, {name}"), source, given, limits)?;
        }
    }
    let narrow = Limits {
        max_compute_workgroups_per_dimension: 7,
        ..limits
    };
    let source = SlotSource::Placed {
        rule: rules[2].1,
        tokens: 45,
        positions: SlotPositionSource::Ids,
    };
    add("several dispatches", source, given, narrow)
}

/// Query scales of rows, at both ends of the positions and at both ends of what is added to them.
fn query_scales(maker: &mut Maker) -> Result<(), Failure> {
    let group = "query scale";
    let values = (0..11_u8).map(|k| 1.5 - f32::from(k) * 0.3).collect();
    let scales = [
        ("Llama 4", QueryScale::llama4(8192, 0.1, 1 << 20)?),
        (
            "Ministral 3",
            QueryScale::ministral3(0.1, 16_384, 262_143)?.times(0.088_388_347_648_318_44)?,
        ),
        ("listed", QueryScale::from_values(values, 3, -2)?),
        (
            "largest",
            QueryScale::from_values(vec![2.0, 3.0, 4.0, 5.0], 1 << 30, i32::MAX)?,
        ),
        (
            "least",
            QueryScale::from_values(vec![2.0, 3.0, 4.0, 5.0], u32::MAX, i32::MIN)?,
        ),
    ];
    let frequencies = ladder(3, 1.0)?;
    let mut add = |name: &str, spec: &TableSpec, source, rows, limits| {
        let fill = Fill {
            spec,
            frequencies: &frequencies,
            source,
            rows,
            limits,
        };
        maker.fill(group, name, fill)
    };
    let limits = Limits::default();
    let narrow = Limits {
        max_compute_workgroups_per_dimension: 7,
        ..limits
    };
    for (name, scale) in scales {
        let spec = TableSpec::new(&frequencies)
            .with_query_scale(scale)
            .with_slots(5);
        let listed = Source::Runs(&IDS, 1);
        add(&format!("{name}, ids"), &spec, listed, 18, limits)?;
        let counted = Source::From(-6);
        add(&format!("{name}, counted"), &spec, counted, 33, narrow)?;
        let angles = spec.with_angles(Angles::F32);
        add(&format!("{name}, f32 angles"), &angles, listed, 17, limits)?;
    }
    Ok(())
}

/// A query of 8 heads and a key of 2 as models have them.
fn layer(
    config: &RopeConfig,
    tokens: u32,
    [heads, kv_heads]: [u32; 2],
    element: ElementType,
) -> Result<Rotation, Failure> {
    let layout = |heads| HeadLayout::bshd(tokens, heads, config.head_dim());
    let mut rotation = Rotation::new(config, tokens, layout(heads), element)?;
    rotation.key = Some((layout(kv_heads), element));
    Ok(rotation)
}

/// What models have, in one element type.
fn rotations(maker: &mut Maker, group: &str, element: ElementType) -> Result<(), Failure> {
    for (pairing_name, pairing) in &PAIRINGS[..2] {
        for head_dim in [2, 64, 80, 96, 128, 256] {
            let config = RopeConfig::new(head_dim).with_pairing(*pairing);
            let name = format!("{pairing_name}, head_dim {head_dim}");
            maker.rotate(group, &name, &layer(&config, 5, [8, 2], element)?)?;
        }
        let config = RopeConfig::new(128).with_pairing(*pairing);
        let part = config.clone().with_rotary_dim(32);
        let name = format!("{pairing_name}, window of 32");
        maker.rotate(group, &name, &layer(&part, 5, [4, 4], element)?)?;
        let part = config.clone().with_rotary_dim(64).with_rotary_offset(64);
        let name = format!("{pairing_name}, window of the last 64");
        maker.rotate(group, &name, &layer(&part, 5, [4, 1], element)?)?;

        // [B, H, S, D], rows of each token its own; one token of each of several sequences.
        let (batch, tokens) = (3, 4);
        let bhsd = |heads| HeadLayout::bhsd(tokens, heads, 128);
        let mut rotation = Rotation::new(&config, tokens, bhsd(6), element)?;
        rotation.key = Some((bhsd(3), element));
        rotation.batch = batch;
        rotation.rows = Rows::PerToken;
        maker.rotate(group, &format!("{pairing_name}, [B, H, S, D]"), &rotation)?;
        let mut rotation = layer(&config, 1, [71, 1], element)?;
        rotation.batch = 4;
        rotation.rows = Rows::PerSequence;
        maker.rotate(group, &format!("{pairing_name}, 71 + 1 heads"), &rotation)?;
        let mut rotation = layer(&config, 3, [2, 1], element)?;
        rotation.rows = Rows::One;
        maker.rotate(group, &format!("{pairing_name}, one row"), &rotation)?;
    }
    // Some pairs have no frequency and stay as they are.
    let config = RopeConfig::new(128).with_scaling(Scaling::Proportional {
        rotated_pairs: 16,
        factor: 1.0,
    });
    maker.rotate(group, "proportional", &layer(&config, 5, [4, 1], element)?)?;
    let mut rotation = layer(&RopeConfig::new(32), 5, [4, 1], element)?;
    let some = |k: u32| Pair {
        inv_freq: if k.is_multiple_of(3) { 0.0 } else { 0.3 },
        axis: 0,
    };
    rotation.frequencies = Frequencies::from_pairs((0..16).map(some), 1.0)?;
    maker.rotate(group, "idle pairs within", &rotation)?;
    // An attention factor.
    let config = RopeConfig::new(64).with_attention_factor(1.346_573_590_279_972_6);
    maker.rotate(
        group,
        "attention factor",
        &layer(&config, 9, [4, 1], element)?,
    )
}

/// Every pairing in every type, with windows that suit 16 bytes, words, and neither.
fn pairings(maker: &mut Maker) -> Result<(), Failure> {
    for (pairing_name, pairing) in PAIRINGS {
        for (type_name, element) in ELEMENTS {
            let rotary_dims: [(u32, u32, u32); 3] = match pairing {
                Pairing::HalfSplitBlocks(3) => [(96, 96, 0), (60, 36, 4), (20, 18, 1)],
                _ => [(128, 128, 0), (100, 44, 4), (24, 20, 3)],
            };
            for (head_dim, rotary_dim, offset) in rotary_dims {
                let config = RopeConfig::new(head_dim)
                    .with_pairing(pairing)
                    .with_rotary_dim(rotary_dim)
                    .with_rotary_offset(offset);
                let name =
                    format!("{pairing_name}, {type_name}, {offset} + {rotary_dim} of {head_dim}");
                maker.rotate("pairings", &name, &layer(&config, 4, [3, 2], element)?)?;
            }
        }
    }
    Ok(())
}

/// Positions of several axes, from ids to rotated channels.
fn axes(maker: &mut Maker) -> Result<(), Failure> {
    let run = |axis, pairs| AxisRun { axis, pairs };
    for (name, head_dim, axes) in [
        ("M-RoPE", 128, Axes::Sectioned(vec![16, 24, 24])),
        (
            "interleaved M-RoPE",
            128,
            Axes::Interleaved {
                height: 20,
                width: 20,
            },
        ),
        ("spatial first", 128, Axes::SpatialFirst { each: 22 }),
        ("axial", 64, Axes::axial(&[0, 1], 32)),
        (
            "axial of 3",
            44,
            Axes::Axial(vec![run(2, 7), run(0, 8), run(1, 7)]),
        ),
        ("strided", 64, Axes::AxialStrided(2)),
        ("alternating", 72, Axes::AxialAlternating),
    ] {
        for (order_name, last) in [("[axes, rows]", false), ("[rows, axes]", true)] {
            let config = RopeConfig::new(head_dim).with_axes(axes.clone());
            let frequencies = Frequencies::new(&config)?;
            let (batch, tokens, count) = (2, 5, axes.count());
            let rows = batch * tokens;
            let order = if last {
                AxisOrder::Last
            } else {
                AxisOrder::First { rows }
            };
            let ids: Vec<_> = (0..rows * count)
                .map(|_| (maker.random() >> 12).cast_signed() - 500_000)
                .collect();
            let spec = TableSpec::new(&frequencies);
            let fill = Fill {
                spec: &spec,
                frequencies: &frequencies,
                source: Source::PerAxis(&ids, order),
                rows,
                limits: Limits::default(),
            };
            let mut rotation = layer(&config, tokens, [4, 2], ElementType::F32)?;
            rotation.batch = batch;
            rotation.rows = Rows::PerToken;
            maker.rotate_with(
                "axes",
                &format!("{name}, {order_name}"),
                &rotation,
                Some(fill),
            )?;
        }
    }
    // Coordinates of two axes.
    let config = RopeConfig::new(64).with_axes(Axes::axial(&[0, 1], 32));
    let frequencies = Frequencies::new(&config)?;
    let spec = TableSpec::new(&frequencies).with_angles(Angles::F32);
    let centres: Vec<_> = (0..24_u16)
        .map(|k| f32::from(2 * (k / 2) + 1) / 24.0 * if k % 2 == 0 { 1.0 } else { -1.0 })
        .collect();
    let fill = Fill {
        spec: &spec,
        frequencies: &frequencies,
        source: Source::Coordinates(&centres, AxisOrder::Last),
        rows: 12,
        limits: Limits::default(),
    };
    maker.fill("axes", "centres of patches", fill)
}

/// Every entry point with every shape of invocations: heads of one, heads at once, workgroups, planned for a CPU and for a GPU, several
/// dispatches where bindings or grids are small.
fn paths(maker: &mut Maker) -> Result<(), Failure> {
    let moves = Pairing::InterleavedToHalfSplit;
    for (type_name, element) in ELEMENTS {
        for (path, config) in [
            ("quads", RopeConfig::new(64)),
            (
                "quads of pairs",
                RopeConfig::new(64).with_pairing(Pairing::Interleaved),
            ),
            ("moves", RopeConfig::new(64).with_pairing(moves)),
            ("words", RopeConfig::new(36).with_rotary_dim(28)),
            (
                "windows",
                RopeConfig::new(36).with_rotary_dim(20).with_pairing(moves),
            ),
        ] {
            for two in [false, true] {
                let shapes: &[(&str, bool, Shape)] = &[
                    ("CPU", true, |spec| spec),
                    ("3 heads", false, |spec| {
                        let spec = spec.with_heads_per_invocation(3);
                        spec.with_heads_at_once(3).with_workgroup(40)
                    }),
                    ("1 head", false, |spec| spec.with_heads_per_invocation(1)),
                    ("8 heads", false, |spec| {
                        spec.with_heads_per_invocation(8).with_heads_at_once(1)
                    }),
                ];
                // Half of them tell nothing new with one tensor.
                for &(shape, cpu, tune) in &shapes[..if two { 4 } else { 2 }] {
                    let mut rotation = layer(&config, 4, [12, 3], element)?;
                    if !two {
                        rotation.key = None;
                    }
                    rotation.limits.cpu = cpu;
                    rotation.shape = tune;
                    let count = if two { "two" } else { "one" };
                    let name = format!("{path}, {count}, {type_name}, {shape}");
                    maker.rotate("paths", &name, &rotation)?;
                }
            }
        }
        // Windows of a tensor: the largest binding and the largest grid are small.
        let mut rotation = layer(&RopeConfig::new(64), 9, [6, 2], element)?;
        rotation.batch = 2;
        rotation.rows = Rows::PerToken;
        rotation.limits.max_storage_buffer_binding_size = 6144;
        maker.rotate("paths", &format!("small bindings, {type_name}"), &rotation)?;
        rotation.limits = Limits {
            max_compute_workgroups_per_dimension: 4,
            ..Limits::default()
        };
        maker.rotate("paths", &format!("small grids, {type_name}"), &rotation)?;
    }
    Ok(())
}

/// Query and key in one buffer, and tensors that do not start on 16 bytes.
fn one_buffer(maker: &mut Maker) -> Result<(), Failure> {
    let group = "one buffer";
    for (type_name, element) in ELEMENTS {
        for (config_name, config) in [
            ("half-split", RopeConfig::new(64)),
            (
                "moved",
                RopeConfig::new(64).with_pairing(Pairing::HalfSplitToInterleaved),
            ),
            (
                "odd",
                RopeConfig::new(24)
                    .with_rotary_dim(20)
                    .with_rotary_offset(3),
            ),
        ] {
            // Packed QKV.
            let head_dim = config.head_dim();
            let packed = |first, heads| HeadLayout::packed(5, 8, first, heads, head_dim);
            let mut rotation = Rotation::new(&config, 5, packed(0, 4), element)?;
            rotation.key = Some((packed(4, 2), element));
            rotation.placement.shared = true;
            maker.rotate(
                group,
                &format!("packed, {type_name}, {config_name}"),
                &rotation,
            )?;

            // One behind the other, each at an odd word; and in buffers of their own.
            let mut rotation = layer(&config, 3, [4, 2], element)?;
            rotation.placement = Placement {
                query: 4,
                key: 4 * 4096,
                shared: true,
            };
            maker.rotate(
                group,
                &format!("behind, {type_name}, {config_name}"),
                &rotation,
            )?;
            rotation.placement = Placement {
                query: 268,
                key: 528,
                shared: false,
            };
            maker.rotate(
                group,
                &format!("apart, {type_name}, {config_name}"),
                &rotation,
            )?;
        }
        // A query of one type, a key of another.
        let other = match element {
            ElementType::F32 => ElementType::F16,
            ElementType::F16 => ElementType::Bf16,
            _ => ElementType::F32,
        };
        let mut rotation = layer(&RopeConfig::new(64), 5, [4, 2], element)?;
        rotation.key = rotation.key.map(|(layout, _)| (layout, other));
        maker.rotate(group, &format!("two types, {type_name}"), &rotation)?;
    }
    Ok(())
}
