//! cos and sin by an arbitrary-precision library.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a helper module of tests, each of which uses a part of it"
)]

use astro_float::{BigFloat, Consts, RoundingMode};

/// Enough for an angle up to 2^48 that comes within 2^-90 of a quarter turn.
const PRECISION: usize = 320;

/// The exact product of two f64.
pub fn product(a: f64, b: f64) -> BigFloat {
    BigFloat::from_f64(a, PRECISION).mul_full_prec(&BigFloat::from_f64(b, PRECISION))
}

/// The bits of the nearest f32 of cos and sin of an angle, both times a factor.
pub fn cos_sin(angle: &BigFloat, factor: f32, constants: &mut Consts) -> [u32; 2] {
    let round = RoundingMode::None;
    let factor = BigFloat::from_f64(factor.into(), PRECISION);
    let cos = angle.cos(PRECISION, round, constants);
    let sin = angle.sin(PRECISION, round, constants);
    [cos, sin].map(|value| nearest(&value.mul(&factor, PRECISION, round)))
}

/// The nearest f32 of an arbitrary-precision number in the normal range, rounded by this test itself.
pub fn nearest(value: &BigFloat) -> u32 {
    let (words, _, sign, exponent, _) = value.as_raw_parts().unwrap();
    let Some((&top, rest)) = words.split_last() else {
        return 0;
    };
    if top == 0 {
        return 0;
    }
    // value = 0.mantissa * 2^exponent, the top bit of the mantissa set.
    let kept = u32::try_from(top >> 40).unwrap();
    let dropped = top << 24;
    let half = 1 << 63;
    let up = dropped > half
        || (dropped == half && (rest.iter().any(|&word| word != 0) || kept & 1 == 1));
    let exponent = u32::try_from(exponent + 125).unwrap();
    let bits = (exponent << 23) + kept + u32::from(up);
    bits | if sign == astro_float::Sign::Neg {
        1 << 31
    } else {
        0
    }
}
