//! Work cut into parts that share no element, so that parts can be done at once.

use crate::layout::HeadLayout;

/// Elements of a tensor that are not worth cutting: some microseconds of work.
const ELEMENTS: u64 = 1 << 15;

/// The same for entries of a table, each of which takes as long as a hundred elements.
const ENTRIES: usize = 1 << 9;

/// Something to do in parts.
pub(super) trait Part: Send + Sized {
    /// Two halves, or the whole where it is small or cannot be cut.
    fn halves(self) -> Result<[Self; 2], Self>;
}

/// Does the work on every part: in parallel with the feature `rayon`, one after the other without.
pub(super) fn each_part<P: Part>(part: P, work: &(impl Fn(P) + Sync)) {
    match part.halves() {
        Ok([first, second]) => join(|| each_part(first, work), || each_part(second, work)),
        Err(whole) => work(whole),
    }
}

#[cfg(feature = "rayon")]
fn join(first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    rayon::join(first, second);
}

#[cfg(not(feature = "rayon"))]
fn join(first: impl FnOnce(), second: impl FnOnce()) {
    first();
    second();
}

/// A box of heads within a tensor. Its axes are batch, tokens and heads.
#[derive(Debug)]
pub(super) struct Heads<'a, T> {
    /// The first entry, token and head in the tensor.
    first: [u32; 3],
    counts: [u32; 3],
    strides: [u64; 3],
    head_dim: u32,
    /// Elements before the first head.
    offset: u64,
    values: &'a mut [T],
}

impl<'a, T> Heads<'a, T> {
    /// All of a view that has been checked to lie within the values.
    pub(super) fn all(layout: HeadLayout, batch: u32, tokens: u32, values: &'a mut [T]) -> Self {
        Self {
            first: [0; 3],
            counts: [batch, tokens, layout.heads],
            strides: [layout.batch_stride, layout.token_stride, layout.head_stride],
            head_dim: layout.head_dim,
            offset: layout.offset,
            values,
        }
    }

    /// Calls `visit` with batch entry, token and channels of every head.
    pub(super) fn each(self, mut visit: impl FnMut(u32, u32, &mut [T])) {
        let [batch, tokens, heads] = self.counts;
        for b in 0..batch {
            for t in 0..tokens {
                for h in 0..heads {
                    let at = index(self.at([b, t, h]));
                    let channels = &mut self.values[at..][..self.head_dim as usize];
                    visit(self.first[0] + b, self.first[1] + t, channels);
                }
            }
        }
    }

    /// Where a head of the box starts in its values.
    fn at(&self, steps: [u32; 3]) -> u64 {
        let steps = steps.into_iter().zip(self.strides);
        self.offset + steps.map(|(n, stride)| u64::from(n) * stride).sum::<u64>()
    }
}

impl<T: Send> Part for Heads<'_, T> {
    /// Cuts across the largest stride: where axes lie within each other, all of the first half is in front of the second. Where
    /// it is not, the box stays whole.
    fn halves(self) -> Result<[Self; 2], Self> {
        let heads: u64 = self.counts.into_iter().map(u64::from).product();
        let is_large = heads.saturating_mul(self.head_dim.into()) > ELEMENTS;
        let Some(axis) = (0..3)
            .filter(|&axis| is_large && self.counts[axis] > 1)
            .max_by_key(|&axis| self.strides[axis])
        else {
            return Err(self);
        };
        let half = self.counts[axis] / 2;
        let (mut counts, mut later_counts, mut later) = (self.counts, self.counts, self.first);
        counts[axis] = half;
        later_counts[axis] -= half;
        later[axis] += half;
        let cut = self.offset + u64::from(half) * self.strides[axis];
        if self.at(counts.map(|count| count - 1)) + u64::from(self.head_dim) > cut {
            return Err(self);
        }
        let (values, later_values) = self.values.split_at_mut(index(cut));
        Ok([
            Self {
                counts,
                values,
                ..self
            },
            Self {
                first: later,
                counts: later_counts,
                offset: 0,
                values: later_values,
                ..self
            },
        ])
    }
}

/// Rows of a table, `width` entries each.
#[derive(Debug)]
pub(super) struct TableRows<'a> {
    pub(super) first: usize,
    pub(super) width: usize,
    pub(super) entries: &'a mut [[f32; 2]],
}

impl Part for TableRows<'_> {
    fn halves(self) -> Result<[Self; 2], Self> {
        let half = self.entries.len() / self.width.max(1) / 2;
        if half == 0 || self.entries.len() <= ENTRIES {
            return Err(self);
        }
        let (entries, later) = self.entries.split_at_mut(half * self.width);
        Ok([
            Self { entries, ..self },
            Self {
                first: self.first + half,
                entries: later,
                ..self
            },
        ])
    }
}

/// An index within a slice.
fn index(wide: u64) -> usize {
    usize::try_from(wide).unwrap_or(usize::MAX)
}
