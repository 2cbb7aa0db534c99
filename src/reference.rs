//! The CPU's word on everything the GPU does: a bit-exact twin of the shaders, and an f64 oracle.
//!
//! The twin takes the same steps as the shaders and gives the same bits; compare with it to see that a driver is right. The
//! oracle rounds nothing before its end; compare with it to see that the method is right.

use crate::config::PairChannels;
use crate::error::{Result, RopeError};
use crate::frequencies::Direction;
use crate::layout::{Element, ElementType, HeadLayout};
use crate::plan::{Angles, Content, RotateSpec, TableSpec};
use crate::positions::{Position, RowPositions};
use crate::turns;

/// What leaves a pair of channels alone.
const IDENTITY: [f32; 2] = [1.0, 0.0];

/// The twin of `shaders/table.wgsl` for frequencies: rows of (cos, sin), one entry for each pair and position in turn, without
/// the padding that a [`CosSinTable`](crate::CosSinTable) has where that number is odd. A coordinate that is not finite, or makes an
/// angle of 2^48 or more, gives the entry (1, 0).
///
/// # Errors
/// [`RopeError::Table`] for a specification of a cache (see [`cached_table`]), or coordinates without f32 angles.
pub fn table(spec: &TableSpec, positions: RowPositions<'_>) -> Result<Vec<[f32; 2]>> {
    let Content::Frequencies(frequencies, angles) = &spec.content else {
        return Err(RopeError::table("must be made from frequencies", "a cache"));
    };
    let is_f32 = *angles == Angles::F32;
    if matches!(positions, RowPositions::Coordinates(..)) && !is_f32 {
        return Err(RopeError::table(
            "must have f32 angles for coordinates",
            format!("{angles:?}"),
        ));
    }
    let factor = spec.factor()?;
    let rates = frequencies.turn_rates(spec.direction)?;
    let nearest: Vec<f32> = frequencies.f32_rates(spec.direction).collect();
    let axes = frequencies.axes();
    let rows = usize::try_from(positions.rows(axes))
        .map_err(|_| RopeError::overflow("rows", "must fit usize"))?;
    let entry = |row: usize, (k, pair): (usize, &crate::Pair)| {
        let position = positions.at(axes, row, pair.axis);
        let bits = match position {
            Position::Id(id) if !is_f32 => Some(turns::cos_sin(id, rates[k], factor)),
            Position::Id(id) => turns::cos_sin_f32(nearest_f32(id), nearest[k], factor),
            Position::Coordinate(value) => turns::cos_sin_f32(value, nearest[k], factor),
        };
        bits.map_or(IDENTITY, |bits| bits.map(f32::from_bits))
    };
    Ok((0..rows)
        .flat_map(|row| {
            let pairs = frequencies.pairs().iter().enumerate();
            pairs.map(move |pair| entry(row, pair))
        })
        .collect())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "rounding to the nearest f32 is what is asked for"
)]
fn nearest_f32(id: i32) -> f32 {
    id as f32
}

/// The twin of `shaders/table.wgsl` for a caller's own cos and sin: row `ids[r]` of both for every r. What
/// [`Direction::Inverse`] cannot divide, because `cos^2 + sin^2` is not from 2^-100 to 2^100, is (1, 0).
///
/// # Errors
/// [`RopeError::Table`] for a specification of frequencies, slices that are too short, or of another element type, and an id outside of
/// the cache.
pub fn cached_table<T: Element>(
    spec: &TableSpec,
    cos: &[T],
    sin: &[T],
    ids: &[i32],
) -> Result<Vec<[f32; 2]>> {
    let Content::Cache(layout) = &spec.content else {
        return Err(RopeError::table("must be of a cache", "frequencies"));
    };
    layout.bytes()?;
    if layout.element != T::TYPE {
        return Err(RopeError::table(
            format!("is planned of {:?}", layout.element),
            format!("{:?}", T::TYPE),
        ));
    }
    let columns = layout.columns as usize;
    let needed = (layout.positions as usize).saturating_mul(columns);
    if cos.len() < needed || sin.len() < needed {
        return Err(RopeError::table(
            format!("must have {needed} values of cos and of sin"),
            format!("{} and {}", cos.len(), sin.len()),
        ));
    }
    let mut rows = Vec::with_capacity(ids.len().saturating_mul(layout.pairs as usize));
    for &id in ids {
        let row = u32::try_from(id)
            .ok()
            .filter(|row| *row < layout.positions)
            .ok_or_else(|| {
                RopeError::table(
                    format!("positions must be within the cache's {}", layout.positions),
                    id,
                )
            })? as usize;
        rows.extend((0..layout.pairs as usize).map(|pair| {
            let at = row * columns + pair;
            let (c, s) = (cos[at].widen(), sin[at].widen());
            match spec.direction {
                Direction::Forward => [c, s],
                Direction::Adjoint => [c, -s],
                Direction::Inverse => {
                    let norm = c * c + s * s;
                    // 2^-100 and 2^100
                    if (f32::from_bits(0x0d80_0000)..f32::from_bits(0x7180_0000)).contains(&norm) {
                        [divided(c, norm), divided(-s, norm)]
                    } else {
                        IDENTITY
                    }
                }
            }
        }));
    }
    Ok(rows)
}

/// The quotient of two f32 whose second is normal and positive; denormals are 0, before and after.
fn divided(value: f32, by: f32) -> f32 {
    let exact = f64::from(value) / f64::from(by);
    let least = f64::from(f32::MIN_POSITIVE);
    if f64::from(value.abs()) < least || exact.abs() < least {
        0.0_f32.copysign(value)
    } else {
        value / by
    }
}

/// The twin of `shaders/rotate.wgsl`: rotates `query` and `key` in place.
///
/// `rows` is the table, `rotary_dim / 2` entries a row; each slice is a whole buffer, indexed as its layout says. Equal to the
/// GPU's result bit for bit, except that NaNs may have other payloads and a device may flush denormals.
///
/// Query and key in one slice, as in packed QKV, are rotated one after the other, with a specification of one tensor each.
///
/// # Errors
/// Those of [`RotateSpec::validate`]; [`RopeError::Layout`] for an element type other than planned, a slice that is too
/// short, or a key where none is planned; [`RopeError::Table`] for too few rows.
pub fn rotate<T: Element>(
    spec: &RotateSpec,
    rows: &[[f32; 2]],
    query: &mut [T],
    key: Option<&mut [T]>,
) -> Result<()> {
    spec.validate()?;
    let pairs = pairs(spec);
    let needed = spec.rows_needed(spec.tokens()).saturating_mul(pairs as u64);
    if (rows.len() as u64) < needed {
        return Err(RopeError::table(
            format!("must have at least {needed} entries, {pairs} for each row"),
            rows.len(),
        ));
    }
    let channels = channels(spec);
    let mut read = vec![[T::zeroed(); 2]; pairs];
    for (layout, slice) in operands(spec, query, key)? {
        each_head(spec, layout, |row, at| {
            // All of a head is read before any of it is written: its pairs may move.
            for (pair, channels) in read.iter_mut().zip(&channels) {
                *pair = channels.read.map(|channel| slice[at + channel as usize]);
            }
            let turns = &rows[row * pairs..][..pairs];
            for (k, (&[x, y], channels)) in read.iter().zip(&channels).enumerate() {
                let [c, s] = turns[k];
                let turned = if spec.leaves_alone(k, [c, s]) {
                    [x, y]
                } else {
                    let (x, y) = (x.widen(), y.widen());
                    [T::narrow(x * c - y * s), T::narrow(x * s + y * c)]
                };
                for (channel, value) in channels.written.into_iter().zip(turned) {
                    slice[at + channel as usize] = value;
                }
            }
        });
    }
    Ok(())
}

/// The oracle: what the rotation of the query would be without any rounding but f64's. Returns the whole slice, its
/// channels outside the rotary window converted as they are.
///
/// `table` gives frequencies and direction; its angles count as exact, whatever they are. The attention factor is the f64 one;
/// angles are exact to f64 at every position (the product of position and frequency is kept in two parts).
///
/// # Errors
/// As for [`rotate`]; [`RopeError::Table`] for a cache, too few positions, or frequencies of another number of pairs.
pub fn rotate_f64<T: Element>(
    spec: &RotateSpec,
    table: &TableSpec,
    positions: RowPositions<'_>,
    query: &[T],
) -> Result<Vec<f64>> {
    spec.validate()?;
    let (layout, _) = check("query", spec, spec.query(), query)?;
    let Content::Frequencies(frequencies, _) = &table.content else {
        return Err(RopeError::table("must be made from frequencies", "a cache"));
    };
    if frequencies.len() != pairs(spec) {
        return Err(RopeError::table(
            format!("must have {} pairs", pairs(spec)),
            frequencies.len(),
        ));
    }
    let (needed, axes) = (spec.rows_needed(spec.tokens()), frequencies.axes());
    if positions.rows(axes) < needed {
        return Err(RopeError::table(
            format!("must have at least {needed} positions"),
            positions.rows(axes),
        ));
    }
    let mut out: Vec<f64> = query.iter().map(|value| value.widen().into()).collect();
    let channels = channels(spec);
    let mut read = vec![[0.0; 2]; pairs(spec)];
    each_head(spec, layout, |row, at| {
        for (pair, channels) in read.iter_mut().zip(&channels) {
            *pair = channels.read.map(|channel| out[at + channel as usize]);
        }
        for (k, (&[x, y], channels)) in read.iter().zip(&channels).enumerate() {
            let [i, j] = channels.written.map(|channel| at + channel as usize);
            (out[i], out[j]) = if frequencies.is_idle(k) {
                (x, y)
            } else {
                let pair = frequencies.pairs()[k];
                let (c, s) = exact(
                    positions.at(axes, row, pair.axis),
                    pair.inv_freq,
                    frequencies.attention_factor(),
                    table.direction,
                );
                (x * c - y * s, x * s + y * c)
            };
        }
    });
    Ok(out)
}

/// cos and sin of a position's angle in f64, times the factor of the direction.
fn exact(position: Position, inv_freq: f64, factor: f64, direction: Direction) -> (f64, f64) {
    let position = match position {
        Position::Id(id) => f64::from(id),
        Position::Coordinate(value) => f64::from(value),
    };
    let angle = position * inv_freq;
    // angle + rest is the exact product; the rest is far below 1, so its cos is 1 and its sine itself.
    let rest = position.mul_add(inv_freq, -angle);
    let (sin, cos) = (libm::sin(angle), libm::cos(angle));
    let (cos, sin) = (cos - sin * rest, sin + cos * rest);
    match direction {
        Direction::Forward => (factor * cos, factor * sin),
        Direction::Inverse => (cos / factor, -sin / factor),
        Direction::Adjoint => (factor * cos, -factor * sin),
    }
}

fn pairs(spec: &RotateSpec) -> usize {
    spec.config().rotary_dim() as usize / 2
}

/// The channels of every pair inside a head.
fn channels(spec: &RotateSpec) -> Vec<PairChannels> {
    let (config, count) = (spec.config(), spec.config().rotary_dim() / 2);
    let within = |channels: [u32; 2]| channels.map(|channel| config.rotary_offset() + channel);
    (0..count)
        .map(|k| {
            let PairChannels { read, written } = config.pairing().channels(count, k);
            PairChannels {
                read: within(read),
                written: within(written),
            }
        })
        .collect()
}

/// Calls `visit` with the row and the index of channel 0 of every head. The view has been checked to lie within memory.
fn each_head(spec: &RotateSpec, layout: HeadLayout, mut visit: impl FnMut(usize, usize)) {
    let index = |wide: u64| usize::try_from(wide).unwrap_or(usize::MAX);
    for batch in 0..spec.batch() {
        for token in 0..spec.tokens() {
            let row = index(spec.row(batch, token));
            for head in 0..layout.heads {
                visit(
                    row,
                    index(layout.at(batch.into(), token.into(), head.into())),
                );
            }
        }
    }
}

/// Checks that a slice is what was planned, and hands both back.
fn check<T: Element, S: AsRef<[T]>>(
    operand: &'static str,
    spec: &RotateSpec,
    (layout, element): (HeadLayout, ElementType),
    slice: S,
) -> Result<(HeadLayout, S)> {
    if element != T::TYPE {
        return Err(RopeError::layout(
            operand,
            format!("elements are planned as {element:?}"),
            format!("{:?}", T::TYPE),
        ));
    }
    let end = layout.end(spec.batch(), spec.tokens())?;
    let elements = slice.as_ref().len();
    if (elements as u64) < end {
        return Err(RopeError::layout(
            operand,
            format!("must have at least {end} elements"),
            elements,
        ));
    }
    Ok((layout, slice))
}

/// The operands that are there, all checked, each with its layout.
fn operands<'a, T: Element>(
    spec: &RotateSpec,
    query: &'a mut [T],
    key: Option<&'a mut [T]>,
) -> Result<Vec<(HeadLayout, &'a mut [T])>> {
    let mut all = vec![check("query", spec, spec.query(), query)?];
    match (spec.key(), key) {
        (Some(planned), Some(slice)) => all.push(check("key", spec, planned, slice)?),
        (None, None) => {}
        (_, given) => {
            return Err(RopeError::layout(
                "key",
                "must be given exactly where the plan has one",
                if given.is_some() { "one" } else { "none" },
            ));
        }
    }
    Ok(all)
}
