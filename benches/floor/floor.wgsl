// floor.wgsl: the cheapest thing that can be done to tensors in place, x = x * c, to measure other kernels against.
//
// Bindings (group 0): 0 first and 1 second tensor, storage, read_write, as 16-byte words of f32.
// Override constants: WORKGROUP invocations along x; PER words an invocation takes, WORKGROUP words apart.
// Grid: x = workgroups over the first tensor and, behind them, over the second; y folds.

override WORKGROUP: u32 = 64u;
override PER: u32 = 4u;

@group(0) @binding(0) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> second: array<vec4<f32>>;

const C: f32 = 0.99999994;

fn pass_first(base: u32) {
    let a = first[base];
    var b = a;
    var c = a;
    var d = a;
    var e = a;
    var f = a;
    var g = a;
    var h = a;
    if (PER > 1u) { b = first[base + WORKGROUP]; }
    if (PER > 2u) { c = first[base + 2u * WORKGROUP]; d = first[base + 3u * WORKGROUP]; }
    if (PER > 4u) {
        e = first[base + 4u * WORKGROUP];
        f = first[base + 5u * WORKGROUP];
        g = first[base + 6u * WORKGROUP];
        h = first[base + 7u * WORKGROUP];
    }
    first[base] = a * C;
    if (PER > 1u) { first[base + WORKGROUP] = b * C; }
    if (PER > 2u) { first[base + 2u * WORKGROUP] = c * C; first[base + 3u * WORKGROUP] = d * C; }
    if (PER > 4u) {
        first[base + 4u * WORKGROUP] = e * C;
        first[base + 5u * WORKGROUP] = f * C;
        first[base + 6u * WORKGROUP] = g * C;
        first[base + 7u * WORKGROUP] = h * C;
    }
}

fn pass_second(base: u32) {
    let a = second[base];
    var b = a;
    var c = a;
    var d = a;
    var e = a;
    var f = a;
    var g = a;
    var h = a;
    if (PER > 1u) { b = second[base + WORKGROUP]; }
    if (PER > 2u) { c = second[base + 2u * WORKGROUP]; d = second[base + 3u * WORKGROUP]; }
    if (PER > 4u) {
        e = second[base + 4u * WORKGROUP];
        f = second[base + 5u * WORKGROUP];
        g = second[base + 6u * WORKGROUP];
        h = second[base + 7u * WORKGROUP];
    }
    second[base] = a * C;
    if (PER > 1u) { second[base + WORKGROUP] = b * C; }
    if (PER > 2u) { second[base + 2u * WORKGROUP] = c * C; second[base + 3u * WORKGROUP] = d * C; }
    if (PER > 4u) {
        second[base + 4u * WORKGROUP] = e * C;
        second[base + 5u * WORKGROUP] = f * C;
        second[base + 6u * WORKGROUP] = g * C;
        second[base + 7u * WORKGROUP] = h * C;
    }
}

@compute @workgroup_size(WORKGROUP)
fn pass_over(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let base = (workgroup.y * grid.x + workgroup.x) * WORKGROUP * PER + local;
    let of_first = arrayLength(&first);
    let last = (PER - 1u) * WORKGROUP;
    for (var mine = base + last < of_first; mine; mine = false) {
        pass_first(base);
    }
    for (var mine = base >= of_first && base - of_first + last < arrayLength(&second); mine; mine = false) {
        pass_second(base - of_first);
    }
}
