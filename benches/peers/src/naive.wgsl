// naive.wgsl: the rotation as most WGSL projects write it, to measure against: f32, scalar loads, a thread for each pair, which
// computes its own angle with pow, cos and sin, once for each head.
//
// Bindings (group 0): 0 tensor [batch, heads, tokens, 2 * pairs], storage, read_write, rotated in place; 1 positions, storage, read,
// one for each batch entry and token.
// Override constants: HEADS heads of the tensor; PAIRS pairs of a head, at most 64; THETA base of the frequencies; INTERLEAVED 1 where a
// pair is two neighbours, 0 where it is the same channel of both halves.
// Grid: x = 1, an invocation for each pair; y = tokens; z = batch entries and their heads.

override HEADS: u32 = 1u;
override PAIRS: u32 = 64u;
override THETA: f32 = 10000.0;
override INTERLEAVED: u32 = 0u;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> positions: array<i32>;

@compute @workgroup_size(64)
fn rope(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) pair: u32,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    if (pair >= PAIRS) {
        return;
    }
    let position = positions[(workgroup.z / HEADS) * grid.y + workgroup.y];
    let angle = f32(position) * pow(THETA, -f32(pair) / f32(PAIRS));
    let c = cos(angle);
    let s = sin(angle);

    let head = (workgroup.z * grid.y + workgroup.y) * 2u * PAIRS;
    var first = head + pair;
    var second = head + pair + PAIRS;
    if (INTERLEAVED == 1u) {
        first = head + 2u * pair;
        second = head + 2u * pair + 1u;
    }
    let a = x[first];
    let b = x[second];
    x[first] = a * c - b * s;
    x[second] = a * s + b * c;
}
