//! The CPU's word on everything the GPU does: a bit-exact twin of the shaders, and an f64 oracle.
//!
//! The twin takes the same steps as the shaders and gives the same bits; compare with it to see that a driver is right. The
//! oracle rounds nothing before its end; compare with it to see that the method is right.

mod layer;
mod parts;

use std::ops::Range;

pub use layer::{LayerTable, layer};
use parts::{Heads, TableRows, each_part};

use crate::config::{PairChannels, Pairing};
use crate::error::{Result, RopeError};
use crate::frequencies::Direction;
use crate::integer::divided;
use crate::layout::{Element, HeadLayout};
use crate::plan::{
    Angles, Content, RotateSpec, SlotPositionSource, SlotSource, Storage, TableSpec, TensorView,
};
use crate::positions::{Position, RowPositions};
use crate::slots::NO_SLOT;
use crate::turns;

/// What leaves a pair of channels alone.
const IDENTITY: [f32; 2] = [1.0, 0.0];

/// The twin of `shaders/table.wgsl` for frequencies: rows of (cos, sin), one entry for each pair and position in turn, without
/// the padding that a [`CosSinTable`](crate::CosSinTable) has where that number is odd. A coordinate that is not finite, or makes an
/// angle of 2^48 or more, gives the entry (1, 0). With the feature `rayon` rows are made in parallel.
///
/// # Errors
/// [`RopeError::Table`] for a specification of given cos and sin (see [`table_from_cos_sin`]), or coordinates without f32 angles.
pub fn table(spec: &TableSpec, positions: RowPositions<'_>) -> Result<Vec<[f32; 2]>> {
    let Content::Frequencies(frequencies, angles) = &spec.content else {
        return Err(RopeError::table(
            "must be made from frequencies",
            "given cos and sin",
        ));
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
    let overflow = || RopeError::overflow("rows", "must fit usize");
    let rows = usize::try_from(positions.rows(axes)).map_err(|_| overflow())?;
    let width = frequencies.len();
    let entry = |row: usize, (k, pair): (usize, &crate::Pair)| {
        let position = positions.at(axes, row, pair.axis);
        let bits = match position {
            Position::Id(id) if !is_f32 => Some(turns::cos_sin(id, rates[k], factor)),
            Position::Id(id) => turns::cos_sin_f32(nearest_f32(id), nearest[k], factor),
            Position::Coordinate(value) => turns::cos_sin_f32(value, nearest[k], factor),
        };
        bits.map_or(IDENTITY, |bits| bits.map(f32::from_bits))
    };
    let mut out = vec![IDENTITY; rows.checked_mul(width).ok_or_else(overflow)?];
    let all = TableRows {
        first: 0,
        width,
        entries: &mut out,
    };
    each_part(all, &|part: TableRows<'_>| {
        let rows = part.entries.chunks_exact_mut(width.max(1));
        for (row, entries) in (part.first..).zip(rows) {
            let pairs = frequencies.pairs().iter().enumerate();
            for (made, pair) in entries.iter_mut().zip(pairs) {
                *made = entry(row, pair);
            }
        }
    });
    Ok(out)
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
/// them.
pub fn table_from_cos_sin<T: Element>(
    spec: &TableSpec,
    cos: &[T],
    sin: &[T],
    ids: &[i32],
) -> Result<Vec<[f32; 2]>> {
    let Content::CosSin(layout) = &spec.content else {
        return Err(RopeError::table(
            "must be of given cos and sin",
            "frequencies",
        ));
    };
    let needed = layout.values()?;
    if layout.element != T::TYPE {
        return Err(RopeError::table(
            format!("is planned of {}", layout.element),
            T::TYPE,
        ));
    }
    let columns = layout.columns as usize;
    if (cos.len().min(sin.len()) as u64) < needed {
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
                    format!(
                        "positions must be within the {} of cos and sin",
                        layout.positions
                    ),
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

/// The twin of `shaders/table.wgsl` for the query scale: the factor of each row's queries, by its position on axis 0.
///
/// # Errors
/// [`RopeError::Table`] for a specification that has none, or coordinates.
pub fn query_scales(spec: &TableSpec, positions: RowPositions<'_>) -> Result<Vec<f32>> {
    let Some(scale) = spec.query_scale() else {
        return Err(RopeError::table("must have a query scale", "none"));
    };
    let axes = spec.axes();
    let rows = usize::try_from(positions.rows(axes))
        .map_err(|_| RopeError::overflow("rows", "must fit usize"))?;
    (0..rows)
        .map(|row| match positions.at(axes, row, 0) {
            Position::Id(id) => Ok(scale.at(id)),
            Position::Coordinate(_) => Err(RopeError::table(
                "must be without a query scale for coordinates",
                "one with it",
            )),
        })
        .collect()
}

/// The lists that slots are made from, on the host. What the source does not read is ignored.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlotLists<'a> {
    /// Positions, or the slots of [`SlotSource::Listed`].
    pub positions: &'a [i32],
    /// The sequence of each token.
    pub sequences: &'a [i32],
    /// The block table `[sequences, pages_per_sequence]`.
    pub block_table: &'a [i32],
}

/// The twin of `shaders/slots.wgsl`: the slots of all tokens, `[batch, tokens]`, -1 where a token has none; and how many of these were
/// not asked for.
///
/// # Errors
/// [`RopeError::Layout`] for lists that do not serve all tokens, or a block table that is too short.
pub fn slots(source: &SlotSource, lists: SlotLists<'_>) -> Result<(Vec<i32>, u32)> {
    let (batch, tokens) = (source.batch(), source.tokens());
    let SlotLists {
        positions,
        sequences,
        block_table,
    } = lists;
    let served = source.tokens_served(positions.len() as u64, sequences.len() as u64);
    if served < tokens {
        let rule = format!("must serve {tokens} tokens of each of {batch} batch entries");
        return Err(RopeError::layout("lists", rule, served));
    }
    let entries = source.rule().map_or(0, |rule| rule.block_table_entries());
    if (block_table.len() as u64) < entries {
        let rule = format!("must hold at least {entries} pages");
        return Err(RopeError::layout("block table", rule, block_table.len()));
    }
    // Both have been served.
    let at = |list: &[i32], index: usize| list.get(index).copied().unwrap_or(NO_SLOT);
    let mut slots = Vec::new();
    let mut skipped = 0;
    for entry in 0..batch {
        for token in 0..tokens {
            let of_entry = (entry as usize)
                .saturating_mul(tokens as usize)
                .saturating_add(token as usize);
            let slot = match *source {
                SlotSource::Listed { capacity, .. } => {
                    let slot = at(positions, of_entry);
                    let is_slot = u32::try_from(slot).is_ok_and(|slot| slot < capacity);
                    // -1 is what was asked for.
                    (is_slot || slot == NO_SLOT).then_some(slot)
                }
                SlotSource::Placed {
                    rule,
                    positions: by,
                    ..
                } => {
                    let counted = |start: i32| start.wrapping_add_unsigned(token);
                    let sequence = entry.cast_signed();
                    let (sequence, position) = match by {
                        SlotPositionSource::From(start) => (sequence, counted(start)),
                        SlotPositionSource::Start => (sequence, counted(at(positions, 0))),
                        SlotPositionSource::StartPerSequence => {
                            (sequence, counted(at(positions, entry as usize)))
                        }
                        SlotPositionSource::SharedIds => (sequence, at(positions, token as usize)),
                        SlotPositionSource::Ids => (sequence, at(positions, of_entry)),
                        SlotPositionSource::Ragged => {
                            let token = token as usize;
                            (at(sequences, token), at(positions, token))
                        }
                    };
                    rule.slot(sequence, position, block_table)
                }
            };
            skipped += u32::from(slot.is_none());
            slots.push(slot.unwrap_or(NO_SLOT));
        }
    }
    Ok((slots, skipped))
}

/// The twin of `shaders/rotate.wgsl`: rotates `query` and `key` in place.
///
/// `rows` is the table, `rotary_dim / 2` entries a row; each slice is a whole buffer, indexed as its layout says. Equal to the
/// GPU's result bit for bit, except that NaNs may have other payloads and a device may flush denormals.
///
/// It is a fallback too: compilers make vectors of its loops, and with the feature `rayon` it takes all threads of the pool that it is called
/// in. Its bits depend on neither. Views whose batch, tokens and heads reach past each other are left to one thread.
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
    let turn = Turn::new(spec);
    for (layout, slice) in operands(spec, query, key)? {
        let heads = Heads::all(layout, spec.batch(), spec.tokens(), slice);
        each_part(heads, &|part: Heads<'_, T>| {
            let mut scratch = Scratch::new(2 * pairs);
            part.each(|batch, token, head| {
                let row = &rows[row(spec, batch, token) * pairs..][..pairs];
                turn.head(head, row, &mut scratch);
            });
        });
    }
    Ok(())
}

/// What is done to every head.
struct Turn {
    pairing: Pairing,
    /// The rotary window in a head.
    window: Range<usize>,
    /// Channels that are half-split by themselves.
    block: usize,
    /// Pairs before those at the end of the window that are left alone.
    rotated: usize,
    /// Whether an entry (1, 0) leaves its pair alone.
    identity_keeps: bool,
}

/// What a head needs for a while.
struct Scratch<T> {
    /// Values of 16 bits as f32.
    wide: Vec<f32>,
    /// A window whose pairs move.
    moved: Vec<T>,
    /// Channels that are left alone, and their values.
    kept: Vec<(usize, T)>,
}

impl<T: Element> Scratch<T> {
    fn new(channels: usize) -> Self {
        Self {
            wide: vec![0.0; channels],
            moved: vec![T::zeroed(); channels],
            kept: Vec::new(),
        }
    }
}

impl Turn {
    fn new(spec: &RotateSpec) -> Self {
        let config = spec.config();
        let (start, dim) = (config.rotary_offset(), config.rotary_dim());
        Self {
            pairing: config.pairing(),
            window: start as usize..start as usize + dim as usize,
            block: (dim / config.pairing().blocks()) as usize,
            rotated: spec.rotated_pairs() as usize,
            identity_keeps: spec.identity_keeps(),
        }
    }

    /// Rotates one head. Its pairs move first, if they do, so that all else is done where they are written.
    fn head<T: Element>(&self, head: &mut [T], row: &[[f32; 2]], scratch: &mut Scratch<T>) {
        let window = &mut head[self.window.clone()];
        if self.pairing.moves() {
            self.move_pairs(window, &mut scratch.moved);
        }
        let row = &row[..self.rotated];
        scratch.kept.clear();
        if self.identity_keeps {
            self.keep(window, row, &mut scratch.kept);
        }
        if self.pairing.writes_interleaved() {
            T::with_f32(&mut window[..2 * row.len()], &mut scratch.wide, |window| {
                turn_neighbours(window, row);
            });
        } else {
            let pairs = self.block / 2;
            let (wide_x, wide_y) = scratch.wide.split_at_mut(pairs);
            // Blocks behind the rotated pairs have no entries, and the last that has some may have too few.
            for (block, row) in window.chunks_exact_mut(self.block).zip(row.chunks(pairs)) {
                let (xs, ys) = block.split_at_mut(pairs);
                T::with_f32(&mut xs[..row.len()], wide_x, |xs| {
                    T::with_f32(&mut ys[..row.len()], wide_y, |ys| turn_apart(xs, ys, row));
                });
            }
        }
        for &(channel, value) in &scratch.kept {
            window[channel] = value;
        }
    }

    /// Moves pairs from where they are read to where they are written.
    fn move_pairs<T: Element>(&self, window: &mut [T], moved: &mut [T]) {
        moved.copy_from_slice(window);
        let half = window.len() / 2;
        if self.pairing.writes_interleaved() {
            let (xs, ys) = moved.split_at(half);
            for (pair, (x, y)) in window.chunks_exact_mut(2).zip(xs.iter().zip(ys)) {
                pair.copy_from_slice(&[*x, *y]);
            }
        } else {
            let (xs, ys) = window.split_at_mut(half);
            for ((x, y), pair) in xs.iter_mut().zip(ys).zip(moved.chunks_exact(2)) {
                (*x, *y) = (pair[0], pair[1]);
            }
        }
    }

    /// Notes the values of pairs whose entries are (1, 0).
    fn keep<T: Element>(&self, window: &[T], row: &[[f32; 2]], kept: &mut Vec<(usize, T)>) {
        let pairs = u32::try_from(window.len() / 2).unwrap_or(u32::MAX);
        for (k, entry) in (0..pairs).zip(row) {
            if entry.map(f32::to_bits) == IDENTITY.map(f32::to_bits) {
                let channels = self.pairing.channels(pairs, k).written;
                let channels = channels.map(|channel| channel as usize);
                kept.extend(channels.map(|channel| (channel, window[channel])));
            }
        }
    }
}

/// Rotates pairs of neighbours.
fn turn_neighbours(window: &mut [f32], row: &[[f32; 2]]) {
    for (pair, turn) in window.chunks_exact_mut(2).zip(row) {
        let [x, y] = turned([pair[0], pair[1]], *turn);
        (pair[0], pair[1]) = (x, y);
    }
}

/// Rotates pairs of one value of each slice.
fn turn_apart(xs: &mut [f32], ys: &mut [f32], row: &[[f32; 2]]) {
    for ((x, y), turn) in xs.iter_mut().zip(ys).zip(row) {
        [*x, *y] = turned([*x, *y], *turn);
    }
}

/// The rotation itself. As in the shader every product is rounded, and then their sum: Rust contracts nothing.
fn turned([x, y]: [f32; 2], [cos, sin]: [f32; 2]) -> [f32; 2] {
    [x * cos - y * sin, x * sin + y * cos]
}

/// The oracle: what the rotation of the query would be without any rounding but f64's. Returns the whole slice, its
/// channels outside the rotary window converted as they are.
///
/// `table` gives frequencies and direction; its angles count as exact, whatever they are. The attention factor is the f64 one;
/// angles are exact to f64 at every position (the product of position and frequency is kept in two parts).
///
/// # Errors
/// As for [`rotate`]; [`RopeError::Table`] for given cos and sin, too few positions, or frequencies of another number of pairs.
pub fn rotate_f64<T: Element>(
    spec: &RotateSpec,
    table: &TableSpec,
    positions: RowPositions<'_>,
    query: &[T],
) -> Result<Vec<f64>> {
    spec.validate()?;
    let (layout, _) = check("query", spec, spec.query(), query)?;
    let Content::Frequencies(frequencies, _) = &table.content else {
        return Err(RopeError::table(
            "must be made from frequencies",
            "given cos and sin",
        ));
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
    let heads = Heads::all(layout, spec.batch(), spec.tokens(), &mut out);
    heads.each(|batch, token, head| {
        let row = row(spec, batch, token);
        // All of a head is read before any of it is written: its pairs may move.
        for (pair, channels) in read.iter_mut().zip(&channels) {
            *pair = channels.read.map(|channel| head[channel as usize]);
        }
        for (k, (&[x, y], channels)) in read.iter().zip(&channels).enumerate() {
            let [i, j] = channels.written.map(|channel| channel as usize);
            let is_rotated = k < spec.rotated_pairs() as usize && !frequencies.is_idle(k);
            (head[i], head[j]) = if !is_rotated {
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

/// The row that a token reads, which has been checked to be there.
fn row(spec: &RotateSpec, batch: u32, token: u32) -> usize {
    usize::try_from(spec.row(batch, token)).unwrap_or(usize::MAX)
}

/// Checks that a slice is what was planned, and hands both back.
fn check<T: Element, S: AsRef<[T]>>(
    operand: &'static str,
    spec: &RotateSpec,
    view: &TensorView,
    slice: S,
) -> Result<(HeadLayout, S)> {
    if !spec.is_plain() {
        return Err(RopeError::layout(
            operand,
            "must be of a rotation in place and nothing else (reference::layer does all)",
            "more than that",
        ));
    }
    let layout = view.layout();
    if view.storage() != Storage::Float(T::TYPE) {
        return Err(RopeError::layout(
            operand,
            format!("elements are planned as {}", view.storage()),
            T::TYPE,
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
