//! The CPU's word on everything the GPU does: a bit-exact twin of the shaders, and an f64 oracle.
//!
//! The twin takes the same steps as the shaders and gives the same bits; compare with it to see that a driver is right. The
//! oracle rounds nothing before its end; compare with it to see that the method is right.

use crate::config::Pairing;
use crate::error::{Result, RopeError};
use crate::frequencies::{Direction, Frequencies};
use crate::layout::{Element, ElementType, HeadLayout};
use crate::plan::RotateSpec;
use crate::turns;

/// The twin of `shaders/table.wgsl`: rows of (cos, sin), `frequencies.len()` entries for each position in turn, without
/// the padding that a [`CosSinTable`](crate::CosSinTable) has where that number is odd.
///
/// # Errors
/// None for frequencies that passed a constructor.
pub fn table(
    frequencies: &Frequencies,
    positions: impl IntoIterator<Item = i32>,
    direction: Direction,
) -> Result<Vec<[f32; 2]>> {
    let rates = frequencies.turn_rates(direction)?;
    let factor = frequencies.factor(direction)?;
    Ok(positions
        .into_iter()
        .flat_map(|position| {
            rates
                .iter()
                .map(move |&rate| turns::cos_sin(position, rate, factor).map(f32::from_bits))
        })
        .collect())
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
    for (layout, slice) in operands(spec, query, key)? {
        each_head(spec, layout, |row, at| {
            let turns = &rows[row * pairs..][..pairs];
            for (k, &[c, s]) in turns.iter().enumerate().take(rotated(spec)) {
                let (i, j) = channels(spec, k);
                let (x, y) = (slice[at + i].widen(), slice[at + j].widen());
                slice[at + i] = T::narrow(x * c - y * s);
                slice[at + j] = T::narrow(x * s + y * c);
            }
        });
    }
    Ok(())
}

/// The oracle: what the rotation of the query would be without any rounding but f64's. Returns the whole slice, its
/// channels outside the rotary window converted as they are.
///
/// The attention factor is the f64 one; angles are exact to f64 at every position (the product of position and
/// frequency is kept in two parts).
///
/// # Errors
/// As for [`rotate`]; [`RopeError::Table`] for too few positions (one for each row) or frequencies of another number of pairs.
pub fn rotate_f64<T: Element>(
    spec: &RotateSpec,
    frequencies: &Frequencies,
    positions: &[i32],
    direction: Direction,
    query: &[T],
) -> Result<Vec<f64>> {
    spec.validate()?;
    let (layout, _) = check("query", spec, spec.query(), query)?;
    if frequencies.len() != pairs(spec) {
        return Err(RopeError::table(
            format!("must have {} pairs", pairs(spec)),
            frequencies.len(),
        ));
    }
    let needed = spec.rows_needed(spec.tokens());
    if (positions.len() as u64) < needed {
        return Err(RopeError::table(
            format!("must have at least {needed} positions"),
            positions.len(),
        ));
    }
    let mut out: Vec<f64> = query.iter().map(|value| value.widen().into()).collect();
    each_head(spec, layout, |row, at| {
        for (k, inv_freq) in frequencies.inv_freq().enumerate().take(rotated(spec)) {
            let (c, s) = exact(
                positions[row],
                inv_freq,
                frequencies.attention_factor(),
                direction,
            );
            let (i, j) = channels(spec, k);
            let (x, y) = (out[at + i], out[at + j]);
            out[at + i] = x * c - y * s;
            out[at + j] = x * s + y * c;
        }
    });
    Ok(out)
}

/// cos and sin of a position's angle in f64, times the factor of the direction.
fn exact(position: i32, inv_freq: f64, factor: f64, direction: Direction) -> (f64, f64) {
    let position = f64::from(position);
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

fn rotated(spec: &RotateSpec) -> usize {
    spec.config().rotated_pairs() as usize
}

/// The two channels of pair k inside a head.
fn channels(spec: &RotateSpec, k: usize) -> (usize, usize) {
    let offset = spec.config().rotary_offset() as usize;
    match spec.config().pairing() {
        Pairing::HalfSplit => (offset + k, offset + k + pairs(spec)),
        Pairing::Interleaved => (offset + 2 * k, offset + 2 * k + 1),
    }
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
