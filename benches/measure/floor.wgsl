// floor.wgsl: the cheapest thing that can be done to tensors in place, x = x * c, to measure other kernels against.
//
// Bindings (group 0): 0 first and 1 second tensor, storage, read_write, as 16-byte words of f32.
// Override constants: WORKGROUP invocations along x; PER words an invocation takes, WORKGROUP words apart, and AT_ONCE how many
// of them it loads before it stores them, 1 or 4; WINDOW words of every STRIDE that are passed over.
// Grid: x = workgroups over the first tensor and, behind them, over the second; y folds.

override WORKGROUP: u32 = 64u;
override PER: u32 = 4u;
override AT_ONCE: u32 = 4u;
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
    for (var i = 0u; i < PER; i += AT_ONCE) {
        let start = base + i * WORKGROUP;
        let i0 = at(start);
        let a = first[i0];
        if (AT_ONCE == 1u) {
            first[i0] = a * C;
        }
        if (AT_ONCE == 4u) {
            let i1 = at(start + WORKGROUP);
            let i2 = at(start + 2u * WORKGROUP);
            let i3 = at(start + 3u * WORKGROUP);
            let b = first[i1];
            let c = first[i2];
            let d = first[i3];
            first[i0] = a * C;
            first[i1] = b * C;
            first[i2] = c * C;
            first[i3] = d * C;
        }
    }
}

fn pass_second(base: u32) {
    for (var i = 0u; i < PER; i += AT_ONCE) {
        let start = base + i * WORKGROUP;
        let i0 = at(start);
        let a = second[i0];
        if (AT_ONCE == 1u) {
            second[i0] = a * C;
        }
        if (AT_ONCE == 4u) {
            let i1 = at(start + WORKGROUP);
            let i2 = at(start + 2u * WORKGROUP);
            let i3 = at(start + 3u * WORKGROUP);
            let b = second[i1];
            let c = second[i2];
            let d = second[i3];
            second[i0] = a * C;
            second[i1] = b * C;
            second[i2] = c * C;
            second[i3] = d * C;
        }
    }
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
