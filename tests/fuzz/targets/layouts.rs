//! Rotations and tables of any shape for any device. What is accepted has to hold; small ones are also done on the CPU.

use arbitrary::{Arbitrary, Result, Unstructured};
use wgpu_rope::config::AxisRun;
use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    Angles, Axes, AxisOrder, CosSinLayout, Direction, Element, ElementType, Frequencies,
    HeadLayout, Limits, Pair, Pairing, Placement, PositionSource, RopeConfig, RopePlan, RotateSpec,
    RowPositions, Rows, Scaling, Storage, TablePlan, TableSpec, Yarn, reference,
};

use crate::memory::bounded;
use crate::{rotation, table};

/// A plan has at most 4,096 dispatches of each tensor (and one more before it is refused), each of which takes less than 1 kB: 14 constants
/// of 24 bytes, 20 words, 4 bindings of 32 bytes, itself, and the window it is made from, in vectors that grow to three times that.
const DISPATCHES: u64 = 2 * 4097 * 3 * 1024;

/// Frequencies of at most 32,768 pairs, and the scaling's divisors beside them (see `model.rs`).
const FREQUENCIES: u64 = 20 << 20;

/// Elements that a rotation on the CPU may touch here, and a buffer may have.
const SMALL: u64 = 1 << 9;
const SMALL_BUFFER: u64 = 1 << 12;

pub fn check(data: &[u8]) {
    let mut u = Unstructured::new(data);
    // Where the bytes come to an end there is no case.
    let _ = one(&mut u);
}

fn one(u: &mut Unstructured<'_>) -> Result<()> {
    let limits = limits(u)?;
    let config = config(u)?;
    if u.arbitrary()? {
        rotate(u, &config, &limits)
    } else {
        fill(u, &config, &limits)
    }
}

// ---- what is asked for ----

/// Mostly small, sometimes beside a power of two, and sometimes anything.
fn count(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match u.int_in_range(0..=15)? {
        0..=11 => u.int_in_range(1..=6)?,
        12..=13 => {
            let power = 1_u32 << u.int_in_range(0..=31)?;
            power.wrapping_add_signed(u.int_in_range(-1..=1)?)
        }
        14 => u.int_in_range(0..=300)?,
        _ => u.arbitrary()?,
    })
}

fn stride(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=7)? {
        0..=3 => u.int_in_range(0..=200)?,
        4 => u64::from(count(u)?) * 4,
        5 => {
            let power = 1_u64 << u.int_in_range(0..=63)?;
            power.wrapping_add_signed(u.int_in_range(-2..=2)?)
        }
        _ => u64::arbitrary(u)? >> u.int_in_range(0..=63)?,
    })
}

fn number(u: &mut Unstructured<'_>) -> Result<f64> {
    Ok(match u.int_in_range(0..=5)? {
        0 => 1.0,
        1 => f64::from(u.int_in_range(1..=64)?),
        2 => 10_000.0,
        3 => f64::from(u.int_in_range(1..=1_000_000)?) / 1000.0,
        4 => *u.choose(&[0.0, -1.0, f64::NAN, f64::INFINITY, 1e308, 1e-308, 65_536.0])?,
        _ => u.arbitrary()?,
    })
}

fn limits(u: &mut Unstructured<'_>) -> Result<Limits> {
    let base = Limits {
        cpu: u.arbitrary()?,
        ..Limits::default()
    };
    Ok(match u.int_in_range(0..=3)? {
        0 => base,
        1 => Limits {
            max_storage_buffer_binding_size: u.int_in_range(0..=4096)?,
            min_storage_buffer_offset_alignment: 1 << u.int_in_range(0..=8)?,
            max_compute_workgroups_per_dimension: u.int_in_range(1..=20)?,
            max_compute_invocations_per_workgroup: u.int_in_range(1..=300)?,
            ..base
        },
        2 => Limits {
            max_storage_buffer_binding_size: u64::MAX >> u.int_in_range(0..=63)?,
            min_storage_buffer_offset_alignment: 1 << u.int_in_range(0..=31)?,
            ..base
        },
        _ => Limits {
            max_storage_buffer_binding_size: u.arbitrary()?,
            min_storage_buffer_offset_alignment: count(u)?,
            max_compute_workgroups_per_dimension: count(u)?,
            max_compute_invocations_per_workgroup: count(u)?,
            max_compute_workgroup_storage_size: count(u)?,
            ..base
        },
    })
}

fn pairing(u: &mut Unstructured<'_>) -> Result<Pairing> {
    Ok(match u.int_in_range(0..=5)? {
        0 => Pairing::HalfSplit,
        1 => Pairing::Interleaved,
        2 => Pairing::InterleavedToHalfSplit,
        3 => Pairing::HalfSplitToInterleaved,
        4 => Pairing::HalfSplitBlocks(2),
        _ => Pairing::HalfSplitBlocks(count(u)?),
    })
}

fn axes(u: &mut Unstructured<'_>, pairs: u32) -> Result<Axes> {
    Ok(match u.int_in_range(0..=15)? {
        0 => Axes::Sectioned(vec![pairs / 4, pairs / 4, pairs - pairs / 4 * 2]),
        1 => Axes::Sectioned(u.arbitrary()?),
        2 => Axes::Interleaved {
            height: count(u)?,
            width: count(u)?,
        },
        3 => Axes::SpatialFirst { each: count(u)? },
        4 => Axes::Alternating,
        5 => Axes::axial(&[0, 1], pairs),
        6 => {
            let runs = u.arbitrary::<Vec<(u32, u32)>>()?.into_iter();
            Axes::Axial(runs.map(|(axis, pairs)| AxisRun { axis, pairs }).collect())
        }
        7 => Axes::AxialStrided(count(u)?),
        8 => Axes::AxialAlternating,
        _ => Axes::One,
    })
}

fn scaling(u: &mut Unstructured<'_>, pairs: u32) -> Result<Scaling> {
    // Divisors for each pair, or some.
    let divisors = |u: &mut Unstructured<'_>| -> Result<Vec<f64>> {
        if u.ratio(3, 4)? {
            return Ok(vec![number(u)?; pairs.min(65_536) as usize]);
        }
        (0..u.int_in_range(0..=9)?).map(|_| number(u)).collect()
    };
    Ok(match u.int_in_range(0..=19)? {
        0 => Scaling::Linear { factor: number(u)? },
        1 => Scaling::Ntk {
            factor: number(u)?,
            mixed_b: if u.arbitrary()? {
                Some(number(u)?)
            } else {
                None
            },
        },
        2 => Scaling::NtkAlpha { alpha: number(u)? },
        3 => Scaling::Dynamic {
            factor: number(u)?,
            max_position_embeddings: number(u)?,
        },
        4 => Scaling::Yarn(
            Yarn::new(number(u)?, number(u)?)
                .with_betas(number(u)?, number(u)?)
                .with_mscale(Some(number(u)?), Some(number(u)?))
                .with_truncate(u.arbitrary()?),
        ),
        5 => Scaling::LongRope {
            short_factor: divisors(u)?,
            long_factor: divisors(u)?,
            original_max_position_embeddings: number(u)?,
            factor: number(u)?,
        },
        6 => Scaling::Llama3 {
            factor: number(u)?,
            low_freq_factor: number(u)?,
            high_freq_factor: number(u)?,
            original_max_position_embeddings: number(u)?,
        },
        7 => Scaling::Proportional {
            rotated_pairs: if u.arbitrary()? { pairs / 4 } else { count(u)? },
            factor: number(u)?,
        },
        8 => Scaling::FrequencyFactors(divisors(u)?),
        _ => Scaling::None,
    })
}

fn config(u: &mut Unstructured<'_>) -> Result<RopeConfig> {
    let head_dim = match u.int_in_range(0..=31)? {
        0..=15 => 8 * u.int_in_range(1..=16)?,
        16..=29 => u.int_in_range(1..=70)?,
        30 => 2048,
        _ => count(u)?,
    };
    let (rotary_dim, offset) = match u.int_in_range(0..=3)? {
        0 | 1 => (head_dim, 0),
        2 => {
            let dim = u.int_in_range(0..=head_dim.min(200))? / 2 * 2;
            (
                dim,
                u.int_in_range(0..=head_dim.saturating_sub(dim).min(40))?,
            )
        }
        _ => (count(u)?, count(u)?),
    };
    let pairs = rotary_dim / 2;
    let mut config = RopeConfig::new(head_dim)
        .with_rotary_dim(rotary_dim)
        .with_rotary_offset(offset)
        .with_pairing(pairing(u)?)
        .with_reversed(u.arbitrary()?);
    if u.ratio(1, 4)? {
        config = config.with_theta(number(u)?);
    }
    if u.ratio(1, 4)? {
        let axes = axes(u, pairs)?;
        // Of any axes, valid or not.
        if pairs <= 32_768 {
            let order = axes.inv_freq_order(pairs, pairs as usize);
            assert!(order.is_none_or(|order| order.len() == pairs as usize));
        }
        config = config.with_axes(axes).with_scaling(scaling(u, pairs)?);
    }
    if u.ratio(1, 8)? {
        config = config.with_attention_factor(number(u)?);
    }
    if u.ratio(1, 8)? {
        config = config.with_frequency_dim(count(u)?);
    }
    Ok(config)
}

fn element(u: &mut Unstructured<'_>) -> Result<ElementType> {
    Ok(*u.choose(&[ElementType::F32, ElementType::F16, ElementType::Bf16])?)
}

fn layout(u: &mut Unstructured<'_>, tokens: u32, head_dim: u32) -> Result<HeadLayout> {
    let heads = count(u)?;
    let layout = match u.int_in_range(0..=5)? {
        0 | 1 => HeadLayout::bshd(tokens, heads, head_dim),
        2 => HeadLayout::bhsd(tokens, heads, head_dim),
        3 => HeadLayout::packed(tokens, count(u)?, count(u)?, heads, head_dim),
        4 => {
            // Some room behind every head, token and entry.
            let (head, token, entry) = (stride(u)? % 32 * 2, stride(u)? % 32 * 2, stride(u)? % 64);
            let head_stride = u64::from(head_dim) + head;
            let token_stride = head_stride
                .saturating_mul(heads.into())
                .saturating_add(token);
            HeadLayout::bshd(tokens, heads, head_dim).with_strides(
                token_stride
                    .saturating_mul(tokens.into())
                    .saturating_add(entry),
                token_stride,
                head_stride,
            )
        }
        _ => HeadLayout {
            heads,
            head_dim: if u.ratio(1, 8)? { count(u)? } else { head_dim },
            batch_stride: stride(u)?,
            token_stride: stride(u)?,
            head_stride: stride(u)?,
            offset: 0,
        },
    };
    let layout = if u.ratio(1, 4)? {
        layout.skip_tokens(count(u)?)
    } else {
        layout
    };
    Ok(if u.ratio(1, 3)? {
        layout.with_offset(layout.offset.saturating_add(stride(u)?))
    } else {
        layout
    })
}

// ---- rotations ----

fn rotate(u: &mut Unstructured<'_>, config: &RopeConfig, limits: &Limits) -> Result<()> {
    let (batch, tokens) = (count(u)?, count(u)?);
    let query = layout(u, tokens, config.head_dim())?;
    let own = element(u)?;
    let mut spec = RotateSpec::new(config, batch, tokens, query, own);
    if u.arbitrary()? {
        let element = if u.ratio(3, 4)? { own } else { element(u)? };
        spec = spec.with_key(layout(u, tokens, config.head_dim())?, element);
    }
    spec =
        spec.with_rows(*u.choose(&[Rows::Shared, Rows::PerToken, Rows::PerSequence, Rows::One])?);
    let mut rotated = spec.rotated_pairs();
    if u.ratio(1, 8)? {
        // Some pairs that do not turn.
        let idle: u64 = u.arbitrary()?;
        let turns = |k: u32| k > 63 || (idle >> k) & 1 == 0;
        let pairs = config.rotary_dim() / 2;
        let pair = |k| Pair {
            inv_freq: if turns(k) { 1.0 } else { 0.0 },
            axis: 0,
        };
        if let Ok(frequencies) = Frequencies::from_pairs((0..pairs.min(300)).map(pair), 1.0) {
            rotated = (0..pairs.min(300))
                .rfind(|&k| turns(k))
                .map_or(1, |k| k + 1);
            spec = spec.with_frequencies(&frequencies);
        }
    }
    if u.ratio(1, 8)? {
        let all = config.rotary_dim() / 2;
        let pairs = if u.ratio(7, 8)? {
            u.int_in_range(1..=all.max(1))?
        } else {
            count(u)?
        };
        rotated = rotated.min(pairs);
        spec = spec.with_rotated_pairs(pairs);
    }
    if u.ratio(1, 4)? {
        spec = spec.with_heads_per_invocation(u.int_in_range(0..=9)?);
    }
    if u.ratio(1, 4)? {
        spec = spec.with_heads_at_once(u.int_in_range(0..=5)?);
    }
    if u.ratio(1, 4)? {
        spec = spec.with_workgroup(count(u)?);
    }
    let placement = Placement {
        query: if u.ratio(1, 2)? { 0 } else { stride(u)? & !3 },
        key: if u.ratio(1, 2)? { 0 } else { stride(u)? },
        shared: u.arbitrary()?,
    };

    let made = bounded("a plan", DISPATCHES + FREQUENCIES, || {
        RopePlan::new(&spec, limits)
    });
    let plan = match made {
        Ok(plan) => plan,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return Ok(());
        }
    };
    assert_eq!(spec.validate(), Ok(()));
    let made = bounded("dispatches", DISPATCHES, || plan.dispatches(placement));
    match made {
        Ok(dispatches) => {
            rotation::check(&plan, placement, &dispatches);
            if touched(&spec) <= SMALL {
                let written = rotation::written(&dispatches);
                assert_eq!(written, rotation::expected(&spec, rotated, placement));
            }
        }
        // A plan can be carried out somewhere.
        Err(error) => assert!(placement != Placement::default(), "{error}"),
    }
    on_cpu(u, &spec, rotated)
}

/// Elements of all windows.
fn touched(spec: &RotateSpec) -> u64 {
    let heads = u64::from(spec.query().layout().heads)
        + spec.key().map_or(0, |key| key.layout().heads.into());
    [spec.batch(), spec.tokens(), spec.config().rotary_dim()]
        .into_iter()
        .fold(heads, |product, count| product.saturating_mul(count.into()))
}

/// The rotation of one tensor, and of both where they have one type.
fn on_cpu(u: &mut Unstructured<'_>, spec: &RotateSpec, rotated: u32) -> Result<()> {
    let end = |layout: HeadLayout| layout.end(spec.batch(), spec.tokens()).unwrap_or(u64::MAX);
    let ends = end(spec.query().layout()).max(spec.key().map_or(0, |key| end(key.layout())));
    let pairs = u64::from(spec.config().rotary_dim() / 2);
    let entries = spec.rows_needed(spec.tokens()).saturating_mul(pairs);
    if touched(spec) > SMALL || ends > SMALL_BUFFER || entries > SMALL_BUFFER {
        return Ok(());
    }
    if spec
        .key()
        .is_some_and(|key| key.storage() != spec.query().storage())
    {
        return Ok(());
    }
    let seed: u32 = u.arbitrary()?;
    match spec.query().storage() {
        Storage::Float(ElementType::F32) => compare::<f32>(spec, rotated, entries, seed),
        Storage::Float(ElementType::F16) => compare::<f16>(spec, rotated, entries, seed),
        _ => compare::<bf16>(spec, rotated, entries, seed),
    }
    Ok(())
}

/// Compares the CPU's rotation with one of this test, and sees that nothing else is changed.
fn compare<T: Element>(spec: &RotateSpec, rotated: u32, entries: u64, seed: u32) {
    // Numbers from 1 to 2, none of which is an entry (1, 0) or overflows.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(0x3f80_0000 | (state >> 9))
    };
    let rows: Vec<[f32; 2]> = (0..entries).map(|_| [next(), next()]).collect();
    let mut buffer = |layout: HeadLayout| -> Vec<T> {
        let end = layout
            .end(spec.batch(), spec.tokens())
            .expect("the view is valid");
        (0..end + 3).map(|_| T::narrow(next())).collect()
    };
    let before = [
        buffer(spec.query().layout()),
        spec.key().map_or_else(Vec::new, |key| buffer(key.layout())),
    ];
    let mut after = before.clone();
    let [query, key] = &mut after;
    let key = spec.key().is_some().then_some(&mut key[..]);
    // Too few rows, and too short a slice, are errors.
    let short = query.len() - 4;
    assert!(reference::rotate(spec, &rows[1..], query, None).is_err());
    assert!(reference::rotate(spec, &rows, &mut query[..short], None).is_err());
    assert_eq!(reference::rotate(spec, &rows, query, key), Ok(()));

    let pairs = u64::from(spec.config().rotary_dim() / 2);
    let mut expected = before.clone();
    for ((buffer, byte), source) in rotation::expected(spec, rotated, Placement::default()) {
        let index = |byte: u64| usize::try_from(byte / T::TYPE.bytes()).expect("it is small");
        let of = |(buffer, byte): (u8, u64)| before[usize::from(buffer)][index(byte)];
        let [x, y] = source.pair.map(of);
        let made = match source.entry {
            None => [x, y][usize::from(source.is_y)],
            Some((row, k)) => {
                let [c, s] =
                    rows[usize::try_from(row * pairs + u64::from(k)).expect("it is small")];
                let (x, y) = (x.widen(), y.widen());
                T::narrow(if source.is_y {
                    x * s + y * c
                } else {
                    x * c - y * s
                })
            }
        };
        expected[usize::from(buffer)][index(byte)] = made;
    }
    for (made, wanted) in after.iter().zip(&expected) {
        for (at, (made, wanted)) in made.iter().zip(wanted).enumerate() {
            assert_eq!(
                made.widen().to_bits(),
                wanted.widen().to_bits(),
                "element {at} of {spec:?}"
            );
        }
    }
}

// ---- tables ----

fn fill(u: &mut Unstructured<'_>, config: &RopeConfig, limits: &Limits) -> Result<()> {
    let direction = *u.choose(&[Direction::Forward, Direction::Inverse, Direction::Adjoint])?;
    let mut cache = None;
    let spec = if u.ratio(1, 3)? {
        let layout = CosSinLayout {
            positions: count(u)?,
            columns: count(u)?,
            pairs: count(u)?,
            element: element(u)?,
        };
        cache = Some(layout);
        TableSpec::from_cos_sin(layout)
    } else {
        let length = if u.arbitrary()? { 0 } else { u.arbitrary()? };
        let made = bounded("frequencies", FREQUENCIES, || {
            Frequencies::for_length(config, length)
        });
        let Ok(frequencies) = made else {
            return Ok(());
        };
        assert_eq!(frequencies.len() as u64, u64::from(config.rotary_dim() / 2));
        TableSpec::new(&frequencies)
    };
    let angles = if u.arbitrary()? {
        Angles::F32
    } else {
        Angles::Exact
    };
    let spec = spec.with_angles(angles).with_direction(direction);
    let order = if u.arbitrary()? {
        AxisOrder::Last
    } else {
        AxisOrder::First { rows: count(u)? }
    };
    let source = match u.int_in_range(0..=3)? {
        0 => PositionSource::From(u.arbitrary()?),
        1 => PositionSource::Runs(count(u)?),
        2 => PositionSource::PerAxis(order),
        _ => PositionSource::Coordinates(order),
    };
    let start = stride(u)?;
    let start = if u.ratio(7, 8)? { start & !3 } else { start };
    let positions = start..start.saturating_add(stride(u)?);
    let starts = [stride(u)?, stride(u)? & !3];
    let rows = count(u)?;
    let made = bounded("a table", FREQUENCIES, || {
        TablePlan::new(&spec, rows, limits)
    });
    if let Ok(plan) = made {
        let made = bounded("fills", DISPATCHES, || {
            plan.fill(source, positions.clone(), starts)
        });
        if let Ok(dispatches) = made {
            let length = |cache: CosSinLayout| {
                let before = u64::from(cache.positions - 1) * u64::from(cache.columns);
                table::bytes(cache.element, before + u64::from(cache.pairs))
            };
            let cache = cache.map(|cache| (starts, length(cache)));
            table::check(&plan, &dispatches, &positions, cache);
        }
    }
    table_on_cpu(u, &spec, cache, order)
}

/// Rows of a few positions, and of a small cache.
fn table_on_cpu(
    u: &mut Unstructured<'_>,
    spec: &TableSpec,
    cache: Option<CosSinLayout>,
    order: AxisOrder,
) -> Result<()> {
    let ids: Vec<i32> = (0..u.int_in_range(0..=6)?)
        .map(|_| u.arbitrary())
        .collect::<Result<_>>()?;
    let Some(cache) = cache else {
        if spec.pairs() > 256 {
            return Ok(());
        }
        let coordinates: Vec<f32> = ids
            .iter()
            .map(|&id| f32::from_bits(id.cast_unsigned()))
            .collect();
        for positions in [
            RowPositions::Ids(&ids),
            RowPositions::IdsPerAxis(&ids, order),
            RowPositions::Coordinates(&coordinates, order),
        ] {
            if let Ok(rows) = reference::table(spec, positions) {
                let count = positions.rows(spec.axes());
                assert_eq!(rows.len() as u64, count * spec.pairs() as u64);
                assert!(rows.iter().flatten().all(|value| value.is_finite()));
            }
        }
        return Ok(());
    };
    let values = u64::from(cache.positions) * u64::from(cache.columns);
    if values <= SMALL_BUFFER && cache.element == ElementType::F16 {
        let values = vec![f16::from_f32(0.5); usize::try_from(values).expect("it is small")];
        if let Ok(rows) = reference::table_from_cos_sin(spec, &values, &values, &ids) {
            assert_eq!(rows.len(), ids.len() * cache.pairs as usize);
        }
    }
    Ok(())
}
