// RMS norm: y[t] = x[t] * weight / sqrt(mean(x[t]^2) + EPSILON), a token a workgroup.
//
// Bindings: 1 x [tokens, 4 * COLUMNS], 2 weight, 3 y [tokens, 4 * COLUMNS].
// Grid: y is the token. With LAST it is one workgroup, which makes row 0 of y from the last token.

override COLUMNS: u32; // groups of four channels
override EPSILON: f32;
override LAST: bool = false;

@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn norm(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let token = select(group.y, step.tokens - 1u, LAST);
    var sum = 0.0;
    for (var c = lane; c < COLUMNS; c += 64u) {
        let values = x[token * COLUMNS + c];
        sum += dot(values, values);
    }
    sums[lane] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            sums[lane] += sums[lane + half];
        }
    }
    workgroupBarrier();
    let scale = inverseSqrt(sums[0] / f32(4u * COLUMNS) + EPSILON);
    for (var c = lane; c < COLUMNS; c += 64u) {
        y[group.y * COLUMNS + c] = x[token * COLUMNS + c] * scale * weight[c];
    }
}
