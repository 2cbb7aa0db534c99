//! The CPU twin of `shaders/integer.wgsl`: quotients and reciprocal roots of f32 numbers, correctly rounded. WGSL promises neither.

/// `a * b / 2^(32 - bits)`, its low word.
fn mul_shifted(a: u32, b: u32, bits: u32) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low word is what is meant"
    )]
    let word = ((u64::from(a) * u64::from(b)) >> (32 - bits)) as u32;
    word
}

/// `1 / sqrt(value)` of a positive normal number, rounded to nearest; 0 for infinity, NaN for NaN.
pub(crate) fn inverse_root(value: f32) -> f32 {
    let bits = value.to_bits();
    if bits >= 0x7f80_0000 {
        return if value.is_nan() { f32::NAN } else { 0.0 };
    }
    // value = m * 2^(exponent - odd), m from 1 to 4, so the root is 1 / sqrt(m) * 2^(-(exponent - odd) / 2) and 1 / sqrt(m) is above 1/2.
    let exponent = (bits >> 23).cast_signed() - 127;
    let odd = exponent & 1;
    let mantissa = (bits & 0x007f_ffff) | 0x0080_0000;
    // A polynomial of m from 1 to 2, to 0.0036, in 1/2^31; then two of Newton's steps, to 2^-29.
    let short = mantissa << 8;
    let inner = 0x5c72_3f70 - mul_shifted(short, 0x128e_3473, 1);
    let mut y = 0xc96e_5ee5 - mul_shifted(short, inner, 1);
    if odd == 1 {
        y = mul_high(y, 0xb504_f334);
    }
    let m = mantissa << (7 + odd);
    for _ in 0..2 {
        // y (3 - m y^2) / 2
        y = mul_shifted(y, 0xc000_0000 - mul_shifted(m, mul_high(y, y), 2), 1);
    }
    // Of the two neighbours of 24 bits the upper one where the middle is below the root: (2 below + 1)^2 m < 2^50. It is never equal.
    let below = y >> 7;
    let middle = u128::from(2 * below + 1);
    let is_above = middle * middle * u128::from(m) < 1 << 80;
    let field = (126 - (exponent - odd) / 2).cast_unsigned();
    f32::from_bits((field << 23) + below + u32::from(is_above) - 0x0080_0000)
}

fn mul_high(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

/// The quotient of two f32 whose second is normal and positive; denormals are 0, before and after.
pub(crate) fn divided(value: f32, by: f32) -> f32 {
    let exact = f64::from(value) / f64::from(by);
    let least = f64::from(f32::MIN_POSITIVE);
    if f64::from(value.abs()) < least || exact.abs() < least {
        0.0_f32.copysign(value)
    } else {
        value / by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root of a quotient of integers: what the nearest f32 is, with no rounding before.
    fn nearest(bits: u32) -> u32 {
        let mantissa = u128::from((bits & 0x007f_ffff) | 0x0080_0000);
        let exponent = (bits >> 23).cast_signed() - 127;
        let odd = exponent & 1;
        // 2^40 / sqrt(m), m = mantissa * 2^odd / 2^23 from 1 to 4
        let root = ((1_u128 << 103) / (mantissa << odd)).isqrt();
        let rounded = u32::try_from((root + (1 << 15)) >> 16).unwrap_or(0);
        ((126 - (exponent - odd) / 2).cast_unsigned() << 23) + rounded - 0x0080_0000
    }

    #[test]
    fn roots_are_correctly_rounded() {
        // All mantissas of two neighbouring exponents: what is left depends on whether the exponent is odd, and no more.
        for bits in (127 << 23)..(129 << 23) {
            assert_eq!(
                inverse_root(f32::from_bits(bits)).to_bits(),
                nearest(bits),
                "{bits:#x}"
            );
        }
        for exponent in 1..255 {
            for mantissa in [0, 1, 0x2a_aaaa, 0x3f_ffff, 0x40_0000, 0x7f_ffff] {
                let bits = (exponent << 23) | mantissa;
                let root = inverse_root(f32::from_bits(bits));
                assert_eq!(root.to_bits(), nearest(bits), "{bits:#x}");
            }
        }
        assert_eq!(inverse_root(f32::INFINITY).to_bits(), 0);
        assert!(inverse_root(f32::NAN).is_nan());
    }
}
