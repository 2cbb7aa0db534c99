//! Tables as data: rows, their width, the constants of every pair, and the dispatches that fill them.

use std::ops::Range;

use super::{Limits, PlannedBinding, PlannedDispatch, Resource, check_dispatches};
use crate::error::{Result, RopeError};
use crate::frequencies::{Direction, Frequencies};

/// How angles are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Angles {
    /// Position times frequency, exact: correctly rounded cos and sin at every position.
    #[default]
    Exact,
}

/// Where the position of a table row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PositionSource {
    /// Row r is position `start + r`.
    From(i32),
    /// A buffer holds the first position of each run of this many rows: row r is position `ids[r / run] + r % run`. A run of 1
    /// is an id for every row; a run as long as the table is one start for all.
    Runs(u32),
}

/// A validated cos/sin table: rows, their width, and the constants of every pair.
#[derive(Debug, Clone, PartialEq)]
pub struct TablePlan {
    rows: u32,
    pairs: Vec<u32>,
    width: u32,
    factor: crate::turns::TableFactor,
    direction: Direction,
    limits: Limits,
}

impl TablePlan {
    /// Plans a table of `rows` rows, one entry of (cos, sin) for every pair of the frequencies.
    ///
    /// # Errors
    /// [`RopeError::Layout`] for no rows; [`RopeError::Limit`] where the table is larger than a binding (make it smaller
    /// and fill it for each step).
    pub fn new(
        frequencies: &Frequencies,
        rows: u32,
        angles: Angles,
        direction: Direction,
        limits: &Limits,
    ) -> Result<Self> {
        let Angles::Exact = angles;
        limits.validate()?;
        if rows == 0 {
            return Err(RopeError::layout("table rows", "must be at least 1", 0));
        }
        let width = u32::try_from(frequencies.len())
            .ok()
            .filter(|width| *width <= crate::config::MAX_HEAD_DIM)
            .ok_or_else(|| RopeError::overflow("pairs", "must be at most 65,536"))?;
        let pairs = frequencies
            .turn_rates(direction)?
            .into_iter()
            .flat_map(|rate| {
                let [a, b, c, d] = rate.words();
                [a, b, c, d, u32::from(rate.negative) << 31, 0, 0, 0]
            })
            .collect();
        let plan = Self {
            rows,
            pairs,
            width,
            factor: frequencies.factor(direction)?,
            direction,
            limits: *limits,
        };
        limits.check_binding("table", plan.bytes())?;
        limits.check_binding("frequencies", plan.pairs.len() as u64 * 4)?;
        Ok(plan)
    }

    /// Rows of the table.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Entries of a row: pairs of the model.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Entries from one row to the next: the width, made even so that rows start on 16 bytes.
    #[must_use]
    pub fn row_stride(&self) -> u32 {
        self.width.next_multiple_of(2)
    }

    /// Bytes of the table: an entry is cos and sin, two u32 words with the bits of f32 values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.row_stride()) * 8
    }

    /// Which way the table turns.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The words of the frequencies' buffer (binding 1): for each pair four words of its rate in turns, least significant
    /// first, its sign in the top bit of the fifth, and three words of padding.
    #[must_use]
    pub fn pairs(&self) -> &[u32] {
        &self.pairs
    }

    /// The device planned for.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many rows a buffer of this many positions can fill.
    #[must_use]
    pub fn rows_served(&self, source: PositionSource, positions: u64) -> u32 {
        let served = match source {
            PositionSource::From(_) => u64::MAX,
            PositionSource::Runs(run) => positions.saturating_mul(run.into()),
        };
        u32::try_from(served).unwrap_or(u32::MAX).min(self.rows)
    }

    /// The dispatches that fill rows from the start of the table on: one for as many rows as a grid has workgroups along a dimension
    /// (65,535 usually). `positions` is the byte range of the buffer of positions that may be read (i32 each, its start a
    /// multiple of 4); ignored for a constant start.
    ///
    /// # Errors
    /// [`RopeError::Buffer`] for an unaligned start, no position at all or a run of 0 rows; [`RopeError::Limit`] where the
    /// positions are more than a binding; [`RopeError::Count`] where it would take thousands of dispatches.
    pub fn fill(
        &self,
        source: PositionSource,
        positions: Range<u64>,
    ) -> Result<Vec<PlannedDispatch>> {
        let fault = |rule: &'static str, got: String| RopeError::Buffer {
            operand: "positions",
            rule: rule.into(),
            got,
        };
        let alignment = self.limits.alignment();
        let bound = positions.start / alignment * alignment;
        let (start, run, first) = match source {
            PositionSource::From(start) => (start, self.rows, 0),
            PositionSource::Runs(0) => {
                return Err(fault("rows of a sequence must be at least 1", "0".into()));
            }
            PositionSource::Runs(run) => {
                if !positions.start.is_multiple_of(4) {
                    return Err(fault(
                        "byte offset must be a multiple of 4",
                        positions.start.to_string(),
                    ));
                }
                let first = u32::try_from((positions.start - bound) / 4)
                    .map_err(|_| RopeError::overflow("positions", "offset must fit u32"))?;
                (0, run, first)
            }
        };
        let listed = positions.end.saturating_sub(positions.start) / 4;
        let rows = self.rows_served(source, listed);
        if rows == 0 {
            return Err(fault(
                "must hold at least one i32",
                format!("{listed} of them"),
            ));
        }
        let counted = matches!(source, PositionSource::From(_));
        let mut bindings = vec![
            PlannedBinding::new(0, Resource::Uniform, 0..UNIFORM_WORDS * 4),
            PlannedBinding::new(1, Resource::Pairs, 0..self.pairs.len() as u64 * 4),
            PlannedBinding::new(2, Resource::Rows, 0..self.bytes()),
        ];
        if !counted {
            // No more of the buffer is bound than is read.
            let read = u64::from(rows).div_ceil(run.into()) * 4;
            let bytes = bound..positions.start + read;
            self.limits
                .check_binding("positions", bytes.end - bytes.start)?;
            bindings.push(PlannedBinding::new(3, Resource::Positions, bytes));
        }
        let workgroup = self
            .width
            .next_multiple_of(8)
            .min(64)
            .min(self.limits.invocations());
        let across = self.width.div_ceil(workgroup);
        let most = self.limits.workgroups();
        if across > most {
            return Err(RopeError::Limit {
                limit: "max_compute_workgroups_per_dimension",
                operand: "table",
                needed: across.into(),
                allowed: most.into(),
            });
        }
        check_dispatches("table", rows.div_ceil(most) as usize)?;
        let parts = (0..rows).step_by(most as usize);
        Ok(parts
            .map(|first_row| PlannedDispatch {
                entry_point: if counted {
                    "fill_counted"
                } else {
                    "fill_listed"
                },
                constants: vec![
                    ("WORKGROUP", workgroup.into()),
                    ("SCALED", f64::from(u8::from(!self.factor.is_unit()))),
                ],
                uniform: vec![
                    rows,
                    self.width,
                    self.row_stride(),
                    run,
                    u32::from_ne_bytes(start.to_ne_bytes()),
                    first,
                    first_row,
                    0,
                    self.factor.mantissa,
                    u32::from_ne_bytes(self.factor.exponent.to_ne_bytes()),
                    u32::from(self.factor.negative) << 31,
                    0,
                ],
                bindings: bindings.clone(),
                across,
                batch: 1,
                range: first_row..first_row.saturating_add(most).min(rows),
            })
            .collect())
    }
}

const UNIFORM_WORDS: u64 = 12;
