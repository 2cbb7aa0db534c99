// floor.wgsl: the cheapest thing that can be done to tensors in place, x = x * c, to measure other kernels against.
//
// Bindings (group 0): 0 first and 1 second tensor, storage, read_write, as 16-byte words of f32.
// Override constants: WORKGROUP invocations along x; PER words an invocation takes, WORKGROUP words apart; WINDOW words of every
// STRIDE that are passed over.
// Grid: x = workgroups over the first tensor and, behind them, over the second; y folds.

override WORKGROUP: u32 = 64u;
override PER: u32 = 4u;
override WINDOW: u32 = 1u;
override STRIDE: u32 = 1u;

@group(0) @binding(0) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> second: array<vec4<f32>>;

const C: f32 = 0.99999994;

/// Where the n-th word of the windows stands.
fn at(n: u32) -> u32 {
    if (WINDOW == STRIDE) {
        return n;
    }
    return n / WINDOW * STRIDE + n % WINDOW;
}

/// How many words of windows a tensor has whose last window may be without what stands between two.
fn words(length: u32) -> u32 {
    return length / STRIDE * WINDOW + min(length % STRIDE, WINDOW);
}

fn pass_first(base: u32) {
    let i0 = at(base);
    let i1 = at(base + WORKGROUP);
    let i2 = at(base + 2u * WORKGROUP);
    let i3 = at(base + 3u * WORKGROUP);
    let i4 = at(base + 4u * WORKGROUP);
    let i5 = at(base + 5u * WORKGROUP);
    let i6 = at(base + 6u * WORKGROUP);
    let i7 = at(base + 7u * WORKGROUP);
    let a = first[i0];
    var b = a;
    var c = a;
    var d = a;
    var e = a;
    var f = a;
    var g = a;
    var h = a;
    if (PER > 1u) { b = first[i1]; }
    if (PER > 2u) { c = first[i2]; d = first[i3]; }
    if (PER > 4u) { e = first[i4]; f = first[i5]; g = first[i6]; h = first[i7]; }
    first[i0] = a * C;
    if (PER > 1u) { first[i1] = b * C; }
    if (PER > 2u) { first[i2] = c * C; first[i3] = d * C; }
    if (PER > 4u) { first[i4] = e * C; first[i5] = f * C; first[i6] = g * C; first[i7] = h * C; }
}

fn pass_second(base: u32) {
    let i0 = at(base);
    let i1 = at(base + WORKGROUP);
    let i2 = at(base + 2u * WORKGROUP);
    let i3 = at(base + 3u * WORKGROUP);
    let i4 = at(base + 4u * WORKGROUP);
    let i5 = at(base + 5u * WORKGROUP);
    let i6 = at(base + 6u * WORKGROUP);
    let i7 = at(base + 7u * WORKGROUP);
    let a = second[i0];
    var b = a;
    var c = a;
    var d = a;
    var e = a;
    var f = a;
    var g = a;
    var h = a;
    if (PER > 1u) { b = second[i1]; }
    if (PER > 2u) { c = second[i2]; d = second[i3]; }
    if (PER > 4u) { e = second[i4]; f = second[i5]; g = second[i6]; h = second[i7]; }
    second[i0] = a * C;
    if (PER > 1u) { second[i1] = b * C; }
    if (PER > 2u) { second[i2] = c * C; second[i3] = d * C; }
    if (PER > 4u) { second[i4] = e * C; second[i5] = f * C; second[i6] = g * C; second[i7] = h * C; }
}

@compute @workgroup_size(WORKGROUP)
fn pass_over(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let base = (workgroup.y * grid.x + workgroup.x) * WORKGROUP * PER + local;
    let of_first = words(arrayLength(&first));
    let last = (PER - 1u) * WORKGROUP;
    for (var mine = base + last < of_first; mine; mine = false) {
        pass_first(base);
    }
    for (var mine = base >= of_first && base - of_first + last < words(arrayLength(&second)); mine; mine = false) {
        pass_second(base - of_first);
    }
}
