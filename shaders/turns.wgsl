// turns.wgsl: position and frequency to correctly rounded cos and sin, in u32 arithmetic only.
//
// The same steps as src/turns.rs, which is its twin on the CPU and says why each is as it is. No float operation touches
// a value on its way: the results are the bits of f32 numbers, kept in u32. u32 arithmetic wraps; no subtraction of the
// polynomials goes below zero. A 64-bit value is a vec2<u32> (high, low); a 128-bit value is a vec4<u32>, least
// significant word first.
//
// It has no bindings and no entry points. It is joined behind integer.wgsl, and table.wgsl behind it.

// Exact angles are computed without branches: a driver that runs on a CPU executes both sides of each under a mask, through memory.

/// Whether entries are multiplied by a factor; false where its magnitude is 1.
override SCALED: bool = true;

/// The factor of all entries of a table: mantissa / 2^32 * 2^exponent, and a sign in the top bit.
struct TableFactor {
    mantissa: u32,
    exponent: i32,
    sign: u32,
    unused: u32,
}

/// A positive number mantissa / 2^64 * 2^exponent with the top bit set, or zero.
struct Scaled {
    mantissa: vec2<u32>,
    exponent: i32,
}

/// The product with a second factor below 2^16.
fn mul_wide_short(a: u32, b: u32) -> vec2<u32> {
    let p = (a & 0xffffu) * b;
    let m = (a >> 16u) * b + (p >> 16u);
    return vec2(m >> 16u, (m << 16u) | (p & 0xffffu));
}

fn add_low(a: vec2<u32>, b: u32) -> vec2<u32> {
    let low = a.y + b;
    return vec2(a.x + select(0u, 1u, low < b), low);
}

fn subtract(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2(a.x - b.x - select(0u, 1u, a.y < b.y), a.y - b.y);
}

/// The high 64 bits of a product, as src/turns.rs defines them: the lowest partial product and the carries of the dropped
/// parts are left out.
fn mul_top(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return add_low(add_low(mul_wide(a.x, b.x), mul_high(a.y, b.x)), mul_high(a.x, b.y));
}

/// mul_top for a second factor below 2^48: the same bits with fewer partial products.
fn mul_top_short(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return add_low(add_low(mul_wide_short(a.x, b.x), mul_wide_short(a.y, b.x).x), mul_high(a.x, b.y));
}

/// mul_top of a number with itself, whose two middle products are one.
fn square_top(a: vec2<u32>) -> vec2<u32> {
    let a0 = a.x & 0xffffu;
    let a1 = a.x >> 16u;
    let p = a0 * a0;
    let q = a0 * a1;
    let m = q + (p >> 16u);
    let n = q + (m & 0xffffu);
    let middle = mul_high(a.x, a.y);
    let high = vec2(a1 * a1 + (m >> 16u) + (n >> 16u), (n << 16u) | (p & 0xffffu));
    return add_low(add_low(high, middle), middle);
}

fn normalised(value: Scaled) -> Scaled {
    let m = value.mantissa;
    let shift = 1u - (m.x >> 31u);
    // m.y >> 31 is the bit that moves up, if one does.
    return Scaled(vec2((m.x << shift) | ((m.y >> 31u) & shift), m.y << shift), value.exponent - i32(shift));
}

fn times(value: Scaled, factor: TableFactor) -> Scaled {
    if (!SCALED) {
        return value;
    }
    // mul_top with a second operand whose low word is 0.
    let m = add_low(mul_wide(value.mantissa.x, factor.mantissa), mul_high(value.mantissa.y, factor.mantissa));
    let scaled = normalised(Scaled(m, value.exponent));
    return Scaled(scaled.mantissa, scaled.exponent + factor.exponent);
}

/// Rounds to the nearest f32; a carry out of the mantissa moves into the exponent field by itself.
fn pack(value: Scaled, sign: u32) -> u32 {
    let top = value.mantissa.x;
    let rounded = (top >> 8u) + ((top >> 7u) & 1u);
    let bits = (u32(value.exponent + 125) << 23u) + rounded;
    return select(bits | sign, 0u, (value.mantissa.x | value.mantissa.y) == 0u);
}

fn octant_cos(u: vec2<u32>) -> Scaled {
    let lead = 0x7e738925u - mul_high(u.x, 0x006cbcffu);
    var h = subtract(vec2(0x00000069u, 0xb47bbd2eu), vec2(0u, mul_high(u.x, lead)));
    h = subtract(vec2(0x00003c3eu, 0xa0d0d123u), mul_top_short(u, h));
    h = subtract(vec2(0x00155d3cu, 0x7e3cb243u), mul_top_short(u, h));
    h = subtract(vec2(0x040f07c2u, 0x06d6b011u), mul_top(u, h));
    h = subtract(vec2(0x4ef4f326u, 0xf9177967u), mul_top(u, h));
    let drop = mul_top(u, h);
    let is_one = (drop.x | drop.y) == 0u;
    let below = subtract(vec2(0u, 0u), drop);
    return Scaled(select(below, vec2(0x80000000u, 0u), is_one), select(0, 1, is_one));
}

/// The top 64 bits of t shifted left until its highest set bit stands on top, and minus by how much; 0 for 0.
fn leading(t: vec4<u32>) -> Scaled {
    let by_64 = (t.w | t.z) == 0u;
    let a = select(t, vec4(0u, 0u, t.x, t.y), by_64);
    let by_32 = a.w == 0u;
    let words = select(a.yzw, a.xyz, by_32);
    let shift = countLeadingZeros(words.z | 1u);
    // Two shifts in place of one by 32, which WGSL does not define.
    let high = (words.z << shift) | ((words.y >> 1u) >> (31u - shift));
    let low = (words.y << shift) | ((words.x >> 1u) >> (31u - shift));
    let zeros = shift + select(0u, 64u, by_64) + select(0u, 32u, by_32);
    return Scaled(vec2(high, low), -i32(zeros));
}

fn octant_sin(t: vec4<u32>, u: vec2<u32>) -> Scaled {
    let lead = 0x07a3bb45u - mul_high(u.x, 0x0005b16eu);
    var g = subtract(vec2(0x00000007u, 0x8c1d2d41u), vec2(0u, mul_high(u.x, lead)));
    g = subtract(vec2(0x00000541u, 0xe0d21730u), mul_top_short(u, g));
    g = subtract(vec2(0x000265a5u, 0x99cc5585u), mul_top_short(u, g));
    g = subtract(vec2(0x00a335e3u, 0x3bad56c9u), mul_top(u, g));
    g = subtract(vec2(0x14abbce6u, 0x25be52bbu), mul_top(u, g));
    g = subtract(vec2(0xc90fdaa2u, 0x2168c235u), mul_top(u, g));
    let m = leading(t);
    return normalised(Scaled(mul_top(m.mantissa, g), m.exponent));
}

/// The product of a count and a number of turns, modulo one turn.
fn turns_of(count: u32, rate: vec4<u32>) -> vec4<u32> {
    let p0 = mul_wide(count, rate.x);
    let p1 = add_low(mul_wide(count, rate.y), p0.x);
    let p2 = add_low(mul_wide(count, rate.z), p1.x);
    return vec4(p0.y, p1.y, p2.y, count * rate.w + p2.x);
}

/// The bits of (cos, sin) of a fraction of a turn, both times the factor; `sign` turns it the other way.
fn entry(turn: vec4<u32>, sign: u32, factor: TableFactor) -> vec2<u32> {
    let octant = turn.w >> 29u;
    let folded = vec4(
        turn.x << 3u,
        (turn.y << 3u) | (turn.x >> 29u),
        (turn.z << 3u) | (turn.y >> 29u),
        (turn.w << 3u) | (turn.z >> 29u),
    );
    let t = folded ^ vec4(0u - (octant & 1u));
    let t64 = vec2(t.w, t.z);
    let u = square_top(t64);
    let near = times(octant_cos(u), factor);
    let far = times(octant_sin(t, u), factor);

    let cos_sign = (((octant + 2u) >> 2u) << 31u) ^ factor.sign;
    let sin_sign = ((octant >> 2u) << 31u) ^ sign ^ factor.sign;
    let swap = ((octant + 1u) & 2u) != 0u;
    let cos = Scaled(select(near.mantissa, far.mantissa, swap), select(near.exponent, far.exponent, swap));
    let sin = Scaled(select(far.mantissa, near.mantissa, swap), select(far.exponent, near.exponent, swap));
    return vec2(pack(cos, cos_sign), pack(sin, sin_sign));
}

fn sign_of(position: i32) -> u32 {
    return bitcast<u32>(position) & 0x80000000u;
}

/// -i32::MIN wraps to itself, whose bits are the magnitude.
fn magnitude_of(position: i32) -> u32 {
    return bitcast<u32>(select(position, -position, position < 0));
}

/// The bits of (cos, sin) of position * rate, both times the factor. `rate` is the magnitude of the frequency in turns,
/// `rate_sign` its sign in the top bit.
fn cos_sin(position: i32, rate: vec4<u32>, rate_sign: u32, factor: TableFactor) -> vec2<u32> {
    return entry(turns_of(magnitude_of(position), rate), sign_of(position) ^ rate_sign, factor);
}

// ---- f32 angles ----

const MIN_F32_EXPONENT: i32 = -123;
const MAX_F32_EXPONENT: i32 = 24;

/// The bits of the f32 nearest to an integer, ties to even.
fn f32_bits(position: i32) -> u32 {
    let magnitude = magnitude_of(position);
    let zeros = countLeadingZeros(magnitude | 1u);
    let top = magnitude << zeros;
    let kept = top >> 8u;
    let rest = top & 0xffu;
    let up = select(0u, 1u, rest > 0x80u || (rest == 0x80u && (kept & 1u) == 1u));
    // The hidden bit, or a carry, adds to the exponent field.
    let bits = ((157u - zeros) << 23u) + kept + up;
    return select(bits | sign_of(position), 0u, magnitude == 0u);
}

/// An f32 angle: mantissa * 2^exponent, the mantissa of 24 bits or 0; a sign in the top bit.
struct Angle {
    mantissa: u32,
    exponent: i32,
    sign: u32,
    /// Whether it is finite and below 2^48.
    valid: bool,
}

/// The significand of the bits of a finite f32 that is not 0, bit 23 set, and the exponent of its last bit.
fn significand(bits: u32) -> vec2<u32> {
    let field = (bits >> 23u) & 0xffu;
    let fraction = bits & 0x007fffffu;
    let shift = countLeadingZeros(fraction | 1u) - 8u;
    let exponent = select(i32(field) - 150, -149 - i32(shift), field == 0u);
    return vec2(select(fraction | 0x00800000u, fraction << shift, field == 0u), bitcast<u32>(exponent));
}

/// The product of the bits of two f32, rounded to nearest even; below 2^-100 it is 0.
fn f32_angle(position: u32, inv_freq: u32) -> Angle {
    let sign = (position ^ inv_freq) & 0x80000000u;
    if ((position & 0x7f800000u) == 0x7f800000u || (inv_freq & 0x7f800000u) == 0x7f800000u) {
        return Angle(0u, 0, sign, false);
    }
    if ((position & 0x7fffffffu) == 0u || (inv_freq & 0x7fffffffu) == 0u) {
        return Angle(0u, 0, 0u, true);
    }
    let a = significand(position);
    let b = significand(inv_freq);
    // 47 or 48 bits; 24 of them are kept.
    let product = mul_wide(a.x, b.x);
    let shift = 23u + (product.x >> 15u);
    let kept = (product.x << (32u - shift)) | (product.y >> shift);
    let rest = product.y & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    let rounded = kept + select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u));
    let carry = rounded >> 24u;
    let exponent = bitcast<i32>(a.y) + bitcast<i32>(b.y) + i32(shift + carry);
    if (exponent < MIN_F32_EXPONENT) {
        return Angle(0u, 0, 0u, true);
    }
    return Angle(rounded >> carry, exponent, sign, exponent <= MAX_F32_EXPONENT);
}

/// The bits of (cos, sin) of a valid angle. `weight` is 2^exponent radians as a fraction of a turn.
fn cos_sin_f32(angle: Angle, weight: vec4<u32>, factor: TableFactor) -> vec2<u32> {
    return entry(turns_of(angle.mantissa, weight), angle.sign, factor);
}
