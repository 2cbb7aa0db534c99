// element.wgsl: element types of 32 and 16 bits, as u32 words hold them.
//
// It has no bindings and no entry points: the other files are joined behind it.

// Element types: f32; two to a word: f16, and 2, bf16.
const F32: u32 = 0u;
const F16: u32 = 1u;

/// 16 bits of each component, in the low half, to f32. Exact.
fn widened_from(element: u32, half: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(widened_bits(element, half));
}

/// The same as bits: no bf16 passes through f32, which might flush it or change which NaN it is.
fn widened_bits(element: u32, half: vec4<u32>) -> vec4<u32> {
    if (element != F16) {
        return half << vec4(16u);
    }
    let magnitude = (half & vec4(0x7fffu)) << vec4(13u);
    // Exponent 31 is infinity or NaN; exponent 0 has no hidden bit, which the exact subtraction takes away.
    let top = magnitude >= vec4(0x0f800000u);
    let bits = magnitude + select(vec4(0x38000000u), vec4(0x70000000u), top);
    let small = bitcast<vec4<f32>>(bits + vec4(0x00800000u)) - vec4(bitcast<f32>(0x38800000u));
    let value = select(bits, bitcast<vec4<u32>>(small), magnitude < vec4(0x00800000u));
    return value | ((half & vec4(0x8000u)) << vec4(16u));
}

/// The bits of f32 values rounded to 16 bits, in the low half of each component: to nearest even, overflow to infinity, NaN kept NaN.
/// In integers, since drivers truncate the conversion or fuse it with what is before.
fn narrowed_to(element: u32, bits: vec4<u32>) -> vec4<u32> {
    let magnitude = bits & vec4(0x7fffffffu);
    let sign = (bits >> vec4(16u)) & vec4(0x8000u);
    let nan = magnitude > vec4(0x7f800000u);
    if (element != F16) {
        let rounded = (magnitude + vec4(0x7fffu) + ((magnitude >> vec4(16u)) & vec4(1u))) >> vec4(16u);
        return sign | select(rounded, vec4(0x7fc0u), nan);
    }
    let normal = (magnitude - vec4(0x38000000u) + vec4(0xfffu) + ((magnitude >> vec4(13u)) & vec4(1u))) >> vec4(13u);
    // Below 2^-14 the unit is 2^-24. 0.5 has just that unit, so the f32 sum rounds there.
    let small = bitcast<vec4<u32>>(bitcast<vec4<f32>>(magnitude) + vec4(0.5)) - vec4(0x3f000000u);
    let finite = select(normal, small, magnitude < vec4(0x38800000u));
    let bounded = select(finite, vec4(0x7c00u), magnitude >= vec4(0x477ff000u));
    return sign | select(bounded, vec4(0x7e00u), nan);
}

// Four words of two halves each.

fn low(words: vec4<u32>) -> vec4<u32> {
    return words & vec4(0xffffu);
}

fn high(words: vec4<u32>) -> vec4<u32> {
    return words >> vec4(16u);
}

fn joined(low: vec4<u32>, high: vec4<u32>) -> vec4<u32> {
    return low | (high << vec4(16u));
}
