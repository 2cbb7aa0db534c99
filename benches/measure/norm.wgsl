// norm.wgsl: an RMS norm of each head in place, as one writes it for a pass of its own, to measure fused kernels against.
//
// Bindings (group 0): 0 first and 1 second tensor, storage, read_write, heads of 128 f32 channels; 2 weights, 32 words of 16 bytes.
// Entry points: of a head, one invocation (alone), or 32 with a word each and a tree in workgroup memory (shared_by_32).
// Grid: x = workgroups over the heads of the first tensor and, behind them, of the second; y folds.

override WORKGROUP: u32 = 64u;

@group(0) @binding(0) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> second: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<f32>>;

const EPSILON: f32 = 1e-6;

@compute @workgroup_size(WORKGROUP)
fn alone(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let head = (workgroup.y * grid.x + workgroup.x) * WORKGROUP + local;
    let of_first = arrayLength(&first) / 32u;
    for (var mine = head < of_first; mine; mine = false) {
        var sum = vec4(0.0);
        for (var i = 0u; i < 32u; i += 1u) {
            let value = first[head * 32u + i];
            sum += value * value;
        }
        let factor = inverseSqrt((sum.x + sum.y + sum.z + sum.w) / 128.0 + EPSILON);
        for (var i = 0u; i < 32u; i += 1u) {
            first[head * 32u + i] = first[head * 32u + i] * factor * weights[i];
        }
    }
    let other = head - of_first;
    for (var mine = head >= of_first && other < arrayLength(&second) / 32u; mine; mine = false) {
        var sum = vec4(0.0);
        for (var i = 0u; i < 32u; i += 1u) {
            let value = second[other * 32u + i];
            sum += value * value;
        }
        let factor = inverseSqrt((sum.x + sum.y + sum.z + sum.w) / 128.0 + EPSILON);
        for (var i = 0u; i < 32u; i += 1u) {
            second[other * 32u + i] = second[other * 32u + i] * factor * weights[i];
        }
    }
}

var<workgroup> sums: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn shared_by_32(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let word = (workgroup.y * grid.x + workgroup.x) * WORKGROUP + local;
    let of_first = arrayLength(&first);
    let is_first = word < of_first;
    var value: vec4<f32>;
    if (is_first) {
        value = first[word];
    } else {
        value = second[word - of_first];
    }
    sums[local] = dot(value, value);
    for (var step = 16u; step > 0u; step = step / 2u) {
        workgroupBarrier();
        if (local % 32u < step) {
            sums[local] += sums[local + step];
        }
    }
    workgroupBarrier();
    let out = value * inverseSqrt(sums[local / 32u * 32u] / 128.0 + EPSILON) * weights[local % 32u];
    if (is_first) {
        first[word] = out;
    } else if (word - of_first < arrayLength(&second)) {
        second[word - of_first] = out;
    }
}
