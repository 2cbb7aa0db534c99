//! Where the channels of a tensor lie: element types, shapes, strides, and whether two views share an element.

use std::fmt;

use crate::error::{Result, RopeError};

/// How a channel is stored. Arithmetic is f32 whatever the storage; 16-bit results are rounded to nearest even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ElementType {
    /// 32-bit float.
    #[default]
    F32,
    /// IEEE 754 half precision, two to a u32 word, the first in the low half.
    F16,
    /// bfloat16, two to a u32 word, the first in the low half.
    Bf16,
}

impl ElementType {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The value of the shaders' override constant.
    pub(crate) const fn constant(self) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::F16 => 1.0,
            Self::Bf16 => 2.0,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

mod sealed {
    use half::slice::HalfFloatSliceExt;

    use super::Element;

    pub trait Sealed: Send + Sync + Sized {
        /// Calls `work` with the values as f32: those themselves, or copies at the start of `scratch` that are narrowed afterwards.
        /// Loops that do one thing become vectors, and f16 asks what the processor can once instead of once a value.
        fn with_f32(values: &mut [Self], scratch: &mut [f32], work: impl FnOnce(&mut [f32]));
    }

    impl Sealed for f32 {
        fn with_f32(values: &mut [Self], _: &mut [Self], work: impl FnOnce(&mut [Self])) {
            work(values);
        }
    }

    impl Sealed for half::f16 {
        fn with_f32(values: &mut [Self], scratch: &mut [f32], work: impl FnOnce(&mut [f32])) {
            let wide = &mut scratch[..values.len()];
            values.convert_to_f32_slice(wide);
            work(wide);
            values.convert_from_f32_slice(wide);
        }
    }

    impl Sealed for half::bf16 {
        fn with_f32(values: &mut [Self], scratch: &mut [f32], work: impl FnOnce(&mut [f32])) {
            let wide = &mut scratch[..values.len()];
            for (wide, value) in wide.iter_mut().zip(&*values) {
                *wide = value.widen();
            }
            work(wide);
            for (value, wide) in values.iter_mut().zip(&*wide) {
                *value = Self::narrow(*wide);
            }
        }
    }
}

/// A Rust type of a channel: `f32`, [`half::f16`] or [`half::bf16`].
pub trait Element: bytemuck::Pod + sealed::Sealed {
    /// The type as plans name it.
    const TYPE: ElementType;

    /// To f32, exactly.
    fn widen(self) -> f32;

    /// From f32, to nearest even; overflow becomes infinity, NaN stays NaN.
    fn narrow(value: f32) -> Self;
}

impl Element for f32 {
    const TYPE: ElementType = ElementType::F32;

    #[inline]
    fn widen(self) -> f32 {
        self
    }

    #[inline]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Element for half::f16 {
    const TYPE: ElementType = ElementType::F16;

    #[inline]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for half::bf16 {
    const TYPE: ElementType = ElementType::Bf16;

    #[inline]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// `half`'s, without a branch: compilers then make vectors of a loop over it.
    #[inline]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let is_odd = (bits >> 16) & 1;
        let rounded = if value.is_nan() {
            // Quiet, lest only zeros be left of the payload.
            bits | 0x0040_0000
        } else {
            bits.wrapping_add(0x7fff + is_odd)
        };
        // An arithmetic shift, since x86 packs signed values in one instruction.
        let half = (rounded.cast_signed() >> 16) as i16;
        Self::from_bits(half.cast_unsigned())
    }
}

/// The layout of one tensor of heads: `element(b, t, h, c) = offset + b * batch_stride + t * token_stride + h * head_stride + c`.
///
/// Strides and offset are in **elements**. A head's channels are always contiguous. A 16-bit tensor that a plain rotation turns in place
/// needs an even offset and even strides, so that every head starts on a whole u32 word; sources and destinations of a layer need not.
///
/// ```
/// use wgpu_rope::HeadLayout;
/// // Q of a fused projection [batch, 512, (32 + 2 * 8) * 128]: a view, nothing is copied.
/// let query = HeadLayout::packed(512, 48, 0, 32, 128);
/// let key = HeadLayout::packed(512, 48, 32, 8, 128);
/// assert_eq!((query.token_stride, key.offset), (48 * 128, 32 * 128));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeadLayout {
    /// Heads of a token.
    pub heads: u32,
    /// Channels of a head.
    pub head_dim: u32,
    /// Elements from one batch entry to the next.
    pub batch_stride: u64,
    /// Elements from one token to the next.
    pub token_stride: u64,
    /// Elements from one head to the next.
    pub head_stride: u64,
    /// Elements before the first channel.
    pub offset: u64,
}

impl HeadLayout {
    /// `[batch, tokens, heads, head_dim]`, contiguous. With a batch of 1 it is also ragged `[tokens, heads, head_dim]`.
    #[must_use]
    pub fn bshd(tokens: u32, heads: u32, head_dim: u32) -> Self {
        Self::packed(tokens, heads, 0, heads, head_dim)
    }

    /// `[batch, heads, tokens, head_dim]`, contiguous.
    #[must_use]
    pub fn bhsd(tokens: u32, heads: u32, head_dim: u32) -> Self {
        let head_stride = u64::from(tokens) * u64::from(head_dim);
        Self {
            heads,
            head_dim,
            batch_stride: head_stride.saturating_mul(u64::from(heads)),
            token_stride: head_dim.into(),
            head_stride,
            offset: 0,
        }
    }

    /// `heads` heads from `first_head` on inside `[batch, tokens, all_heads, head_dim]`: Q, K or V of a packed projection. That they are among
    /// `all_heads` is the caller's to see to: a view knows no parent.
    #[must_use]
    pub fn packed(tokens: u32, all_heads: u32, first_head: u32, heads: u32, head_dim: u32) -> Self {
        let token_stride = u64::from(all_heads) * u64::from(head_dim);
        Self {
            heads,
            head_dim,
            batch_stride: token_stride.saturating_mul(u64::from(tokens)),
            token_stride,
            head_stride: head_dim.into(),
            offset: u64::from(first_head) * u64::from(head_dim),
        }
    }

    /// The same view without the first `tokens` tokens of each batch entry: class and register tokens that stay unrotated stand
    /// before it. (Those at the end are left out by planning fewer tokens.)
    #[must_use]
    pub fn skip_tokens(self, tokens: u32) -> Self {
        let skipped = self.token_stride.saturating_mul(tokens.into());
        self.with_offset(self.offset.saturating_add(skipped))
    }

    /// The same view moved to another offset (elements).
    #[must_use]
    pub fn with_offset(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The same shape with other strides (elements).
    #[must_use]
    pub fn with_strides(self, batch_stride: u64, token_stride: u64, head_stride: u64) -> Self {
        Self {
            batch_stride,
            token_stride,
            head_stride,
            ..self
        }
    }

    /// The element index of channel 0 of a head, without overflow checks: for indices inside a validated view.
    pub(crate) fn at(&self, batch: u64, token: u64, head: u64) -> u64 {
        self.offset
            + batch * self.batch_stride
            + token * self.token_stride
            + head * self.head_stride
    }

    /// One past the last element of the view.
    ///
    /// # Errors
    /// [`RopeError::Overflow`] where that does not fit `u64`.
    pub fn end(&self, batch: u32, tokens: u32) -> Result<u64> {
        let reach =
            |count: u32, stride: u64| u64::from(count.saturating_sub(1)).checked_mul(stride);
        (|| {
            self.offset
                .checked_add(reach(batch, self.batch_stride)?)?
                .checked_add(reach(tokens, self.token_stride)?)?
                .checked_add(reach(self.heads, self.head_stride)?)?
                .checked_add(u64::from(self.head_dim))
        })()
        .ok_or_else(|| RopeError::overflow("layout", "element indices must fit u64"))
    }

    /// Checks that heads start on whole words: a plain rotation owns those.
    pub(crate) fn check_words(
        &self,
        operand: &'static str,
        batch: u32,
        tokens: u32,
        element: ElementType,
    ) -> Result<()> {
        let steps = [
            ("offset", self.offset, 2),
            ("batch stride", self.batch_stride, batch),
            ("token stride", self.token_stride, tokens),
            ("head stride", self.head_stride, self.heads),
        ];
        for (name, stride, count) in steps {
            if element.bytes() == 2 && count > 1 && !stride.is_multiple_of(2) {
                return Err(RopeError::layout(
                    operand,
                    format!(
                        "{name} of a 16-bit tensor must be even, so that heads start on whole words"
                    ),
                    stride,
                ));
            }
        }
        Ok(())
    }

    /// Checks that no element of the view is in two places.
    pub(crate) fn check_disjoint(
        &self,
        operand: &'static str,
        batch: u32,
        tokens: u32,
        channel_stride: u32,
    ) -> Result<()> {
        let axes = [
            Term::difference(self.batch_stride, batch),
            Term::difference(self.token_stride, tokens),
            Term::difference(self.head_stride, self.heads),
        ];
        let mut terms = axes.to_vec();
        if channel_stride == 1 {
            terms.push(Term::difference(1, self.head_dim));
        } else {
            terms.push(Term::difference(channel_stride.into(), self.head_dim));
            terms.push(Term::difference(1, 1));
        }
        if solvable(&terms, 0, true) {
            return Err(RopeError::layout(
                operand,
                "two heads of the view must not share an element (was the layout made for as many tokens?)",
                format!(
                    "[{batch}, {tokens}, {}, {}] with strides {}, {}, {}",
                    self.heads,
                    self.head_dim,
                    self.batch_stride,
                    self.token_stride,
                    self.head_stride
                ),
            ));
        }
        Ok(())
    }
}

/// `stride * x` for a whole number x in `low..=high`.
#[derive(Clone, Copy)]
struct Term {
    stride: i128,
    low: i128,
    high: i128,
}

impl Term {
    fn difference(stride: u64, count: u32) -> Self {
        let most = i128::from(count) - 1;
        Self {
            stride: stride.into(),
            low: -most,
            high: most,
        }
    }

    fn forward(stride: u64, count: u32) -> Self {
        Self {
            low: 0,
            ..Self::difference(stride, count)
        }
    }

    fn backward(stride: u64, count: u32) -> Self {
        Self {
            high: 0,
            ..Self::difference(stride, count)
        }
    }
}

/// Whether two sets of places share one: each is made of steps (a stride and how often it is taken) and reaches so far from each
/// place. The second begins `apart` behind the first.
pub(crate) fn strided_meet(
    (mine, my_extent): (&[(u64, u32)], u64),
    (theirs, their_extent): (&[(u64, u32)], u64),
    apart: i128,
) -> bool {
    let mut terms = Vec::with_capacity(mine.len() + theirs.len() + 1);
    // Steps that both take alike are one, of their difference: fewer to search.
    for (&(stride, count), &(other, others)) in mine.iter().zip(theirs) {
        if (stride, count) == (other, others) {
            terms.push(Term::difference(stride, count));
        } else {
            terms.push(Term::forward(stride, count));
            terms.push(Term::backward(other, others));
        }
    }
    terms.push(Term {
        stride: 1,
        low: 1 - i128::from(their_extent),
        high: i128::from(my_extent) - 1,
    });
    solvable(&terms, -apart, false)
}

/// Whether `constant + sum of terms` can be 0. With `nontrivial`, a solution in which only the channel term is not 0 does not count; that
/// term has to come last then.
///
/// Largest strides first, the reach of the smaller ones bounds each x; in sane layouts two or three candidates are left
/// at each step. Layouts so irregular that the search does not end within its budget count as meeting.
fn solvable(terms: &[Term], constant: i128, nontrivial: bool) -> bool {
    let mut sorted: Vec<Term> = terms.to_vec();
    if nontrivial {
        // A second step at the same place, or the same stride twice, is found as an x that is not 0.
        sorted.pop();
        if sorted.iter().any(|term| term.stride == 0 && term.high > 0) {
            return true;
        }
    }
    sorted.retain(|term| term.stride != 0 && term.low < term.high);
    sorted.sort_by_key(|term| std::cmp::Reverse(term.stride));
    if nontrivial {
        sorted.extend(terms.last());
    }
    let mut budget = 1_u32 << 18;
    search(&sorted, constant, nontrivial, &mut budget)
}

fn search(terms: &[Term], value: i128, all_zero: bool, budget: &mut u32) -> bool {
    let Some((term, rest)) = terms.split_first() else {
        return value == 0 && !all_zero;
    };
    let (rest_low, rest_high) = rest.iter().fold((0, 0), |(low, high), term| {
        (low + term.stride * term.low, high + term.stride * term.high)
    });
    // value + stride * x + rest = 0 for a rest within its bounds.
    let first = (-value - rest_high).div_euclid(term.stride)
        + i128::from((-value - rest_high).rem_euclid(term.stride) != 0);
    let last = (-value - rest_low).div_euclid(term.stride);
    let (first, last) = (first.max(term.low), last.min(term.high));
    // The last term is the channels: its own x may be anything, and being 0 or not does not make a solution trivial.
    if rest.is_empty() {
        return first <= last && !all_zero;
    }
    let mut x = first;
    while x <= last {
        if *budget == 0 {
            return true;
        }
        *budget -= 1;
        if search(rest, value + term.stride * x, all_zero && x == 0, budget) {
            return true;
        }
        x += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Marks every element of every view: the truth that the search is held against.
    fn brute(views: &[HeadLayout], batch: u32, tokens: u32, apart: u64) -> bool {
        let mut seen = HashMap::new();
        for (index, view) in views.iter().enumerate() {
            for b in 0..batch.into() {
                for t in 0..tokens.into() {
                    for h in 0..view.heads.into() {
                        for c in 0..u64::from(view.head_dim) {
                            let at = view.at(b, t, h) + c + apart * index as u64;
                            if seen.insert(at, ()).is_some() {
                                return true;
                            }
                        }
                    }
                }
            }
        }
        false
    }

    /// Of two views of f32, their origins counted in elements.
    fn meets(a: HeadLayout, b: HeadLayout, origins: [u64; 2], batch: u32, tokens: u32) -> bool {
        let view = |layout| crate::plan::TensorView::new(layout, ElementType::F32);
        let origins = origins.map(|origin| 4 * origin);
        view(a).meets(&view(b), origins, batch, tokens).unwrap()
    }

    #[test]
    fn the_search_agrees_with_marking_every_element() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut alone, mut both) = ([0_u32; 2], [0_u32; 2]);
        for _ in 0..20_000 {
            let (batch, tokens) = (random.u32(1..4), random.u32(1..4));
            let mut view = || HeadLayout {
                heads: random.u32(1..4),
                head_dim: random.u32(1..5),
                batch_stride: random.u64(0..40),
                token_stride: random.u64(0..20),
                head_stride: random.u64(0..10),
                offset: random.u64(0..8),
            };
            let (a, b) = (view(), view());
            let own = brute(&[a], batch, tokens, 0);
            assert_eq!(
                a.check_disjoint("query", batch, tokens, 1).is_err(),
                own,
                "{a:?} {batch} {tokens}"
            );
            alone[usize::from(own)] += 1;
            if own || brute(&[b], batch, tokens, 0) {
                continue;
            }
            let apart = random.u64(0..60);
            let shared = brute(&[a, b], batch, tokens, apart);
            assert_eq!(
                meets(a, b, [0, apart], batch, tokens),
                shared,
                "{a:?} {b:?} {batch} {tokens} {apart}"
            );
            both[usize::from(shared)] += 1;
        }
        assert!(
            alone.iter().chain(&both).all(|&n| n > 100),
            "{alone:?} {both:?}"
        );
    }

    /// Slices and single values against conversions that compilers evaluate: all values of 16 bits, and f32 around each of them, around
    /// the middles between them, and anywhere.
    fn check_conversions<T: Element>(from: fn(u16) -> T, wide: fn(T) -> f32, narrow: fn(f32) -> T) {
        let bits = |value: f32| if value.is_nan() { 1 } else { value.to_bits() };
        let mut all: Vec<T> = (0..=u16::MAX).map(from).collect();
        let mut random = fastrand::Rng::with_seed(3);
        let floats: Vec<f32> = all
            .iter()
            .flat_map(|&value| {
                let near = wide(value).to_bits();
                let middle = if T::TYPE == ElementType::F16 {
                    1 << 12
                } else {
                    1 << 15
                };
                [-1, 0, 1, middle - 1, middle, middle + 1]
                    .map(|step| near.wrapping_add_signed(step))
            })
            .chain(std::iter::repeat_with(|| random.u32(..)).take(1 << 20))
            // What 16 bits of f16 round to in denormals, whose middles are elsewhere.
            .chain(0x3300_0000 - 2..0x3300_0000 + 2)
            .chain((0..1 << 14).map(|bits| 0x3380_0000 + (bits << 12)))
            .map(f32::from_bits)
            .collect();
        for value in &all {
            assert_eq!(bits(value.widen()), bits(wide(*value)));
        }
        let mut scratch = vec![0.0; floats.len() + 3];
        let given = all.clone();
        T::with_f32(&mut all, &mut scratch, |values| {
            for (value, given) in values.iter().zip(&given) {
                assert_eq!(bits(*value), bits(wide(*given)));
            }
        });
        let mut made = vec![T::zeroed(); floats.len()];
        T::with_f32(&mut made, &mut scratch, |values| {
            values.copy_from_slice(&floats);
        });
        for (made, value) in made.into_iter().zip(floats) {
            let wanted = bits(wide(narrow(value)));
            assert_eq!(bits(wide(made)), wanted, "{value:e}");
            assert_eq!(bits(wide(T::narrow(value))), wanted, "{value:e}");
        }
    }

    #[test]
    fn conversions_round_to_nearest_even() {
        use half::{bf16, f16};
        check_conversions(f16::from_bits, f16::to_f32_const, f16::from_f32_const);
        check_conversions(bf16::from_bits, bf16::to_f32_const, bf16::from_f32_const);
    }

    #[test]
    fn large_regular_views_are_decided_within_the_budget() {
        let q = HeadLayout::packed(131_072, 48, 0, 32, 128);
        let k = HeadLayout::packed(131_072, 48, 32, 8, 128);
        assert!(q.check_disjoint("query", 64, 131_072, 1).is_ok());
        assert!(!meets(q, k, [0, 0], 64, 131_072));
        assert!(meets(q, k.with_offset(31 * 128), [0, 0], 64, 131_072));
        let heads_first = HeadLayout::bhsd(4096, 32, 128);
        let end = 4 * 32 * 4096 * 128;
        let keys = HeadLayout::bhsd(4096, 8, 128);
        assert!(!meets(heads_first, keys, [0, end], 4, 4096));
        let keys = HeadLayout::bshd(4096, 8, 128);
        assert!(meets(heads_first, keys, [0, end - 1], 4, 4096));
    }
}
