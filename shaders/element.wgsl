// element.wgsl: element types of 32 and 16 bits, as u32 words hold them.
//
// It has no bindings and no entry points: rotate.wgsl and table.wgsl are joined behind it.

/// 0 f32; two to a word: 1 f16, 2 bf16.
override ELEMENT: u32 = 0u;

const F32: u32 = 0u;
const F16: u32 = 1u;

/// 16 bits of each component, in the low half, to f32. Exact.
fn widened(half: vec4<u32>) -> vec4<f32> {
    if (ELEMENT != F16) {
        return bitcast<vec4<f32>>(half << vec4(16u));
    }
    let magnitude = (half & vec4(0x7fffu)) << vec4(13u);
    // Exponent 31 is infinity or NaN; exponent 0 has no hidden bit, which the exact subtraction takes away.
    let top = magnitude >= vec4(0x0f800000u);
    let bits = magnitude + select(vec4(0x38000000u), vec4(0x70000000u), top);
    let small = bitcast<vec4<f32>>(bits + vec4(0x00800000u)) - vec4(bitcast<f32>(0x38800000u));
    let value = select(bits, bitcast<vec4<u32>>(small), magnitude < vec4(0x00800000u));
    return bitcast<vec4<f32>>(value | ((half & vec4(0x8000u)) << vec4(16u)));
}
