// integer.wgsl: products of 64 bits, and quotients and roots of f32 numbers that are rounded correctly, in u32 arithmetic only.
//
// WGSL promises no correctly rounded division, and inverseSqrt to 2 ulp only. src/integer.rs is the twin on the CPU: the root has the
// same steps there, a quotient is the processor's own, which IEEE 754 rounds. It has no bindings and no entry points: the other files are
// joined behind it.

/// The product of two u32, from their halves: high word, low word.
fn mul_wide(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let p = a0 * b0;
    let m = a1 * b0 + (p >> 16u);
    let n = a0 * b1 + (m & 0xffffu);
    return vec2(a1 * b1 + (m >> 16u) + (n >> 16u), (n << 16u) | (p & 0xffffu));
}

/// Its high word.
fn mul_high(a: u32, b: u32) -> u32 {
    return mul_wide(a, b).x;
}

/// The product divided by 2^(32 - bits), for products that fit then; bits from 1 to 31.
fn mul_shifted(a: u32, b: u32, bits: u32) -> u32 {
    let p = mul_wide(a, b);
    return (p.x << bits) | (p.y >> (32u - bits));
}

/// The quotient of two f32 whose second is normal and positive, rounded to nearest even.
/// Denormals are 0.
fn divided(value: u32, by: u32) -> u32 {
    let sign = value & 0x80000000u;
    let divisor = (by & 0x007fffffu) | 0x00800000u;
    var rest = (value & 0x007fffffu) | 0x00800000u;
    var field = i32((value >> 23u) & 0xffu) - i32(by >> 23u) + 127;
    if (rest < divisor) {
        rest = rest << 1u;
        field -= 1;
    }
    var quotient = 0u;
    for (var i = 0u; i < 24u; i += 1u) {
        let bit = select(0u, 1u, rest >= divisor);
        quotient = (quotient << 1u) | bit;
        rest = (rest - bit * divisor) << 1u;
    }
    // The quotient of two numbers of 24 bits is never a tie.
    let up = select(0u, 1u, rest > divisor);
    let bits = (u32(field - 1) << 23u) + quotient + up;
    return select(sign | bits, sign, field < 1 || (value & 0x7f800000u) == 0u);
}

/// y (3 - m y^2) / 2, y in 1/2^31 and m in 1/2^30.
fn newton(y: u32, m: u32) -> u32 {
    return mul_shifted(y, 0xc0000000u - mul_shifted(m, mul_high(y, y), 2u), 1u);
}

/// 1 / sqrt of a positive normal f32, both as bits, rounded to nearest; 0 for infinity, NaN for NaN.
fn inverse_root(bits: u32) -> u32 {
    // value = m * 2^(exponent - odd), m from 1 to 4, so the root is 1 / sqrt(m) * 2^(-(exponent - odd) / 2) and 1 / sqrt(m) is above 1/2.
    let exponent = i32(bits >> 23u) - 127;
    let odd = u32(exponent & 1);
    let mantissa = (bits & 0x007fffffu) | 0x00800000u;
    // A polynomial of m from 1 to 2, to 0.0036, in 1/2^31; then two of Newton's steps, to 2^-29.
    let short = mantissa << 8u;
    var y = 0xc96e5ee5u - mul_shifted(short, 0x5c723f70u - mul_shifted(short, 0x128e3473u, 1u), 1u);
    y = select(y, mul_high(y, 0xb504f334u), odd == 1u);
    let m = mantissa << (7u + odd);
    y = newton(newton(y, m), m);
    // Of the two neighbours of 24 bits the upper one where the middle is below the root: (2 below + 1)^2 m < 2^50. It is never equal.
    let below = y >> 7u;
    let middle = 2u * below + 1u;
    let square = mul_wide(middle, middle);
    let high = mul_wide(square.x, m);
    let low = mul_wide(square.y, m).x;
    let top = high.x + select(0u, 1u, high.y + low < low);
    let nearest = below + select(0u, 1u, top < 0x10000u);
    let field = u32(126 - (exponent - i32(odd)) / 2);
    let root = (field << 23u) + nearest - 0x00800000u;
    let infinite = select(0u, 0x7fc00000u, bits > 0x7f800000u);
    return select(root, infinite, bits >= 0x7f800000u);
}
