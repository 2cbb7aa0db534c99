// naive_table.wgsl: naive.wgsl as better projects have it: cos and sin come from a table that the host made in f32.
//
// Bindings (group 0): 0 tensor [batch, heads, tokens, 2 * pairs], storage, read_write, rotated in place; 1 table, storage, read, rows of
// (cos, sin), one for each batch entry and token.
// Override constants: HEADS heads of the tensor; PAIRS pairs of a head, at most 64; INTERLEAVED 1 where a pair is two neighbours, 0 where
// it is the same channel of both halves.
// Grid: x = 1, an invocation for each pair; y = tokens; z = batch entries and their heads.

override HEADS: u32 = 1u;
override PAIRS: u32 = 64u;
override INTERLEAVED: u32 = 0u;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> table: array<vec2<f32>>;

@compute @workgroup_size(64)
fn rope(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) pair: u32,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    if (pair >= PAIRS) {
        return;
    }
    let row = (workgroup.z / HEADS) * grid.y + workgroup.y;
    let turn = table[row * PAIRS + pair];

    let head = (workgroup.z * grid.y + workgroup.y) * 2u * PAIRS;
    var first = head + pair;
    var second = head + pair + PAIRS;
    if (INTERLEAVED == 1u) {
        first = head + 2u * pair;
        second = head + 2u * pair + 1u;
    }
    let a = x[first];
    let b = x[second];
    x[first] = a * turn.x - b * turn.y;
    x[second] = a * turn.y + b * turn.x;
}
