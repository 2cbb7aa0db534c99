//! From a position and a frequency to cos and sin that are rounded once, in integers only.
//!
//! The CPU twin of `shaders/turns.wgsl`: the same steps on the same bits. WGSL promises `sin` and `cos` only to an
//! absolute 2^-11 and only inside [-pi, pi]; integers are exact everywhere, so a table made this way has the same bits
//! on every backend, driver and CPU.
//!
//! A frequency is kept as a fraction of a turn with 128 bits behind the point. Position times frequency modulo one turn
//! is then exact up to the rounding of the frequency (2^-129 turns, times the position: less than 2^-95 rad), whatever the position. The
//! top three bits name the octant; inside it, polynomials in the square of the angle give cos and sin with an error below
//! 7.1 * 2^-64 before the one rounding to f32. Values of 2^-34 and more are therefore within 0.5 + 2^-37 ulp, and those of
//! 2^-41 and more within 0.5 + 2^-31: correctly rounded, but for one in billions. Smaller ones take a frequency that was made for a position to hit
//! a multiple of a quarter turn; those of models do not, at any i32 position.

use crate::error::{Result, RopeError};

/// floor(2^256 / 2 pi), least significant word first.
const TURNS_PER_RADIAN: [u64; 4] = [
    0x7f94_58ea_f7ae_f158,
    0x36d8_a566_4f10_e410,
    0x7f09_d5f4_7d4d_3770,
    0x28be_60db_9391_054a,
];

/// Coefficients of (1 - cos(pi t / 4)) / u in u = t^2, highest power first, scaled by 2^64, signs folded into the
/// subtractions of the Horner steps. Minimax of degree 6, error 2^-62.8. The first two fit 32 bits after their scaling.
pub(crate) const COS_LEAD: [u32; 2] = [0x006c_bcff, 0x7e73_8925];
pub(crate) const COS: [u64; 5] = [
    0x0000_0069_b47b_bd2e,
    0x0000_3c3e_a0d0_d123,
    0x0015_5d3c_7e3c_b243,
    0x040f_07c2_06d6_b011,
    0x4ef4_f326_f917_7967,
];
/// Coefficients of sin(pi t / 4) / t in u = t^2, likewise. Minimax of degree 7, error 2^-69.
pub(crate) const SIN_LEAD: [u32; 2] = [0x0005_b16e, 0x07a3_bb45];
pub(crate) const SIN: [u64; 6] = [
    0x0000_0007_8c1d_2d41,
    0x0000_0541_e0d2_1730,
    0x0002_65a5_99cc_5585,
    0x00a3_35e3_3bad_56c9,
    0x14ab_bce6_25be_52bb,
    0xc90f_daa2_2168_c235,
];

/// The least magnitude of a frequency that is not 0: 2^-64 radians per position.
pub(crate) const LEAST_RATE: f64 = 5.421_010_862_427_522e-20;

/// A frequency as a fraction of a turn per position: magnitude modulo one turn, and sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnRate {
    /// `round(abs(inv_freq) / 2 pi * 2^128)` modulo 2^128.
    pub magnitude: u128,
    /// Whether the frequency is negative.
    pub negative: bool,
}

impl TurnRate {
    /// The rate of an inverse frequency given in radians per position, exact from the bits of the `f64`.
    ///
    /// # Errors
    /// [`RopeError::Config`] unless `inv_freq` is 0 or has a magnitude from 2^-64 to 2^16.
    pub fn new(inv_freq: f64) -> Result<Self> {
        let negative = inv_freq.is_sign_negative() && inv_freq != 0.0;
        let magnitude = inv_freq.abs();
        if magnitude == 0.0 {
            return Ok(Self {
                magnitude: 0,
                negative: false,
            });
        }
        // Both are exact in f64; NaN fails the comparison.
        if !(LEAST_RATE..=65_536.0).contains(&magnitude) {
            return Err(RopeError::config(
                "inv_freq",
                "must be 0 or of a magnitude from 2^-64 to 2^16 radians per position",
                inv_freq,
            ));
        }
        let bits = magnitude.to_bits();
        let mantissa = (bits & ((1 << 52) - 1)) | (1 << 52);
        // magnitude = mantissa * 2^(exponent field - 1075)
        let exponent = i32::try_from(bits >> 52).unwrap_or(0) - 1075;
        Ok(Self {
            magnitude: turns(mantissa, exponent),
            negative,
        })
    }

    /// The same rate in the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            negative: !self.negative && self.magnitude != 0,
            ..self
        }
    }

    /// Four words of the magnitude, least significant first, as the shader reads them.
    #[must_use]
    pub fn words(self) -> [u32; 4] {
        [0, 32, 64, 96].map(|shift| low32(self.magnitude >> shift))
    }
}

/// `round(mantissa * 2^exponent / 2 pi * 2^128)` modulo 2^128: so many radians as a fraction of a turn. The mantissa has at most 53 bits,
/// the exponent is from -123 to 24 (so that at least one word is shifted out, the rounding bit below it).
fn turns(mantissa: u64, exponent: i32) -> u128 {
    // Turns per radian are given times 2^256, so the product is shifted right.
    let shift = u64::try_from(128 - exponent).unwrap_or(0);
    let mut product = [0_u64; 5];
    let mut carry = 0_u128;
    for (word, &factor) in product.iter_mut().zip(&TURNS_PER_RADIAN) {
        carry += u128::from(factor) * u128::from(mantissa);
        *word = low64(carry);
        carry >>= 64;
    }
    product[4] = low64(carry);
    let bit = |at: u64| -> u128 {
        let (word, within) = (at / 64, at % 64);
        product
            .get(usize::try_from(word).unwrap_or(usize::MAX))
            .map_or(0, |word| u128::from(word >> within & 1))
    };
    let mut rounded = 0_u128;
    for at in 0..128 {
        rounded |= bit(shift + at) << at;
    }
    rounded.wrapping_add(bit(shift - 1))
}

/// The factor that multiplies both cos and sin: an f32 value, split so that integers can apply it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFactor {
    /// The 24 bits of the significand in the top bits: the magnitude is `mantissa / 2^32 * 2^exponent`, in [2^31, 2^32).
    pub mantissa: u32,
    /// The exponent.
    pub exponent: i32,
    /// Whether the factor is negative.
    pub negative: bool,
}

impl TableFactor {
    /// Splits a factor.
    ///
    /// # Errors
    /// [`RopeError::Config`] unless its magnitude is from 2^-24 to 2^24.
    pub fn new(factor: f32) -> Result<Self> {
        let range = 5.960_464_5e-8..=16_777_216.0_f32;
        if !range.contains(&factor.abs()) {
            return Err(RopeError::config(
                "attention_factor",
                "must be of a magnitude from 2^-24 to 2^24 (its reciprocal too, for the inverse)",
                factor,
            ));
        }
        let bits = factor.abs().to_bits();
        Ok(Self {
            mantissa: (bits << 8) | 0x8000_0000,
            exponent: i32::try_from(bits >> 23).unwrap_or(0) - 126,
            negative: factor < 0.0,
        })
    }

    /// Whether the factor is 1 or -1, whose product needs no arithmetic.
    #[must_use]
    pub fn is_unit(self) -> bool {
        self.mantissa == 0x8000_0000 && self.exponent == 1
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low word is what is asked for"
)]
fn low64(wide: u128) -> u64 {
    wide as u64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low word is what is asked for"
)]
fn low32(wide: u128) -> u32 {
    wide as u32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low word is what is asked for"
)]
fn low(wide: u64) -> u32 {
    wide as u32
}

fn high(wide: u64) -> u32 {
    low(wide >> 32)
}

/// The high word of the product of two u32.
fn mul_high(a: u32, b: u32) -> u32 {
    high(u64::from(a) * u64::from(b))
}

/// The high 64 bits of a 64 x 64 bit product without its lowest partial product and without the carries of the dropped
/// parts. Those omissions are part of the definition: they fix the bits.
fn mul_top(a: u64, b: u64) -> u64 {
    (u64::from(high(a)) * u64::from(high(b)))
        .wrapping_add(u64::from(mul_high(low(a), high(b))))
        .wrapping_add(u64::from(mul_high(high(a), low(b))))
}

/// A positive number `mantissa / 2^64 * 2^exponent`, its top bit set (or zero).
#[derive(Clone, Copy)]
struct Scaled {
    mantissa: u64,
    exponent: i32,
}

impl Scaled {
    fn normalised(self) -> Self {
        if self.mantissa >> 63 == 0 {
            Self {
                mantissa: self.mantissa << 1,
                exponent: self.exponent - 1,
            }
        } else {
            self
        }
    }

    fn times(self, factor: TableFactor) -> Self {
        if factor.is_unit() {
            return self;
        }
        let scaled = Self {
            mantissa: mul_top(self.mantissa, u64::from(factor.mantissa) << 32),
            exponent: self.exponent,
        }
        .normalised();
        Self {
            exponent: scaled.exponent + factor.exponent,
            ..scaled
        }
    }

    /// Rounds to the nearest f32 and gives its bits. Ties cannot occur; a carry out of the mantissa moves into the exponent
    /// field by itself.
    #[expect(
        clippy::cast_sign_loss,
        reason = "the exponent of a table entry stays above -125: its smallest sine is 2^-100 and the factor 2^-24"
    )]
    fn bits(self, negative: bool) -> u32 {
        if self.mantissa == 0 {
            return 0;
        }
        let top = high(self.mantissa);
        let rounded = (top >> 8) + ((top >> 7) & 1);
        (((self.exponent + 125) as u32) << 23).wrapping_add(rounded) | (u32::from(negative) << 31)
    }
}

/// cos of the octant's angle pi t / 4, t in [0, 1), from the square of t.
fn octant_cos(u: u64) -> Scaled {
    let top = high(u);
    let lead = COS_LEAD[1] - mul_high(top, COS_LEAD[0]);
    let mut h = COS[0] - u64::from(mul_high(top, lead));
    for coefficient in &COS[1..] {
        h = coefficient - mul_top(u, h);
    }
    match mul_top(u, h) {
        0 => Scaled {
            mantissa: 1 << 63,
            exponent: 1,
        },
        drop => Scaled {
            mantissa: drop.wrapping_neg(),
            exponent: 0,
        },
    }
}

/// sin of the octant's angle, to full relative precision: t keeps 64 significant bits however small it is.
fn octant_sin(t: u128, u: u64) -> Scaled {
    if t == 0 {
        return Scaled {
            mantissa: 0,
            exponent: 0,
        };
    }
    let top = high(u);
    let lead = SIN_LEAD[1] - mul_high(top, SIN_LEAD[0]);
    let mut g = SIN[0] - u64::from(mul_high(top, lead));
    for coefficient in &SIN[1..] {
        g = coefficient - mul_top(u, g);
    }
    let zeros = t.leading_zeros();
    Scaled {
        mantissa: mul_top(low64(t << zeros >> 64), g),
        exponent: -i32::try_from(zeros).unwrap_or(0),
    }
    .normalised()
}

/// The bits of (cos, sin) of `position * rate`, both times `factor`, each within 0.5 + 2^-31 ulp. (Where cos or sin is below 2^-41, which takes
/// a frequency made for the position, add 2^-95.)
#[must_use]
pub fn cos_sin(position: i32, rate: TurnRate, factor: TableFactor) -> [u32; 2] {
    let turn = rate
        .magnitude
        .wrapping_mul(u128::from(position.unsigned_abs()));
    entry(turn, (position < 0) ^ rate.negative, factor)
}

/// The smallest exponent of [`f32_weight`]: that of an angle of 2^-100, below which an f32 angle counts as 0.
pub(crate) const MIN_F32_EXPONENT: i32 = -123;
/// The largest: f32 angles are below 2^48.
pub(crate) const MAX_F32_EXPONENT: i32 = 24;

/// `2^exponent` radians as a fraction of a turn: what the shader multiplies the mantissa of an f32 angle with.
pub(crate) fn f32_weight(exponent: i32) -> u128 {
    turns(1, exponent)
}

/// The 24 bits of the significand of a finite f32 that is not 0, its top bit set, and the exponent of its last bit.
fn significand(value: f32) -> (u32, i32) {
    let bits = value.to_bits() & 0x7fff_ffff;
    let field = i32::try_from(bits >> 23).unwrap_or(0);
    if field > 0 {
        ((bits & 0x007f_ffff) | 0x0080_0000, field - 150)
    } else {
        let shift = bits.leading_zeros() - 8;
        (bits << shift, -149 - i32::try_from(shift).unwrap_or(0))
    }
}

/// The bits of (cos, sin) of an f32 angle as frameworks make it, `position * inv_freq` rounded to the nearest f32, both times
/// `factor`; None for a position that is not finite and for an angle of 2^48 or more. An integer position is rounded to f32 first,
/// as `as f32` does.
///
/// cos and sin are those of that angle, correctly rounded, down to an angle of 2^-40, and without a factor down to 2^-70 (the sine of a small
/// angle lies beside the f32 value that the angle is); below, the sine is off by less than 2^-100.
#[must_use]
pub fn cos_sin_f32(position: f32, inv_freq: f32, factor: TableFactor) -> Option<[u32; 2]> {
    if !position.is_finite() || !inv_freq.is_finite() {
        return None;
    }
    let negative = position.is_sign_negative() ^ inv_freq.is_sign_negative();
    if position == 0.0 || inv_freq == 0.0 {
        return Some(entry(0, false, factor));
    }
    let ((a, a_exponent), (b, b_exponent)) = (significand(position), significand(inv_freq));
    // 47 or 48 bits, rounded to 24, ties to even. The shader does these steps with pairs of u32.
    let product = u64::from(a) * u64::from(b);
    let shift = 23 + low(product >> 47);
    let (kept, rest) = (product >> shift, product & ((1 << shift) - 1));
    let half = 1 << (shift - 1);
    let up = rest > half || (rest == half && kept & 1 == 1);
    let rounded = low(kept) + u32::from(up);
    // A carry out of the 24 bits leaves a power of two, whose weight is the same with one bit less.
    let carry = rounded >> 24;
    let mantissa = rounded >> carry;
    let exponent = a_exponent + b_exponent + i32::try_from(shift + carry).unwrap_or(0);
    match exponent {
        _ if exponent < MIN_F32_EXPONENT => Some(entry(0, false, factor)),
        _ if exponent > MAX_F32_EXPONENT => None,
        _ => {
            let turn = f32_weight(exponent).wrapping_mul(u128::from(mantissa));
            Some(entry(turn, negative, factor))
        }
    }
}

/// A table entry from a fraction of a turn.
fn entry(turn: u128, negative: bool, factor: TableFactor) -> [u32; 2] {
    let octant = low32(turn >> 125);
    let t = if octant & 1 == 0 {
        turn << 3
    } else {
        !(turn << 3)
    };
    let t64 = low64(t >> 64);
    let u = mul_top(t64, t64);
    let near = octant_cos(u).times(factor);
    let far = octant_sin(t, u).times(factor);
    let (cos, sin) = if (octant + 1) & 2 == 0 {
        (near, far)
    } else {
        (far, near)
    };
    let cos_negative = ((octant + 2) >> 2) & 1 == 1;
    let sin_negative = (octant >> 2 == 1) ^ negative;
    [
        cos.bits(cos_negative ^ factor.negative),
        sin.bits(sin_negative ^ factor.negative),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_outside_the_range_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, 65_537.0, 5e-20, -1e300] {
            assert!(TurnRate::new(bad).is_err(), "{bad}");
        }
        for good in [0.0, -0.0, 65_536.0, -65_536.0, 5.421_010_862_427_522e-20] {
            assert!(TurnRate::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn zero_is_one_and_nothing() -> Result<()> {
        let one = TableFactor::new(1.0)?;
        for position in [0, 1, -1, i32::MIN, i32::MAX] {
            assert_eq!(
                cos_sin(position, TurnRate::new(0.0)?, one),
                [0x3f80_0000, 0]
            );
        }
        assert_eq!(
            cos_sin(0, TurnRate::new(-1.0)?, TableFactor::new(-2.0)?),
            [0xc000_0000, 0]
        );
        Ok(())
    }
}
