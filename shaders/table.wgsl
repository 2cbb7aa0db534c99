// table.wgsl: positions to rows of (cos, sin). Joined behind turns.wgsl.
//
// Purpose: fills the rows of a cos/sin table, one entry per pair of channels. It alone knows angles: frequencies,
// direction (the sign of a rate) and attention factor. Run once a step, or once for all where positions never change.
//
// Bindings (group 0)
//   0 params     uniform             Params
//   1 pairs      storage, read       for each pair its rate
//   2 table      storage, read_write rows of row_stride entries (cos, sin): bits of f32 values
//   3 positions  storage, read       first position of each run of rows, i32; fill_listed only
//
// Override constants
//   WORKGROUP    invocations along x, one per pair
//   SCALED       whether the factor is anything but 1 or -1 (turns.wgsl)
//
// Grid: x = workgroups across the pairs, y = rows, exactly.
// Tail: invocations past the last pair or the last row write nothing.

override WORKGROUP: u32 = 64u;

struct Params {
    /// Rows that may be written.
    rows: u32,
    /// Entries of a row that are written.
    pairs: u32,
    /// Entries from a row to the next, even.
    row_stride: u32,
    /// Rows that count on from one listed position.
    run: u32,
    /// Position of row 0 where none is listed.
    start: i32,
    /// Index of the first listed position in its binding.
    first: u32,
    /// Row of the first workgroups along y.
    first_row: u32,
    unused: u32,
    factor: TableFactor,
}

struct Pair {
    rate: vec4<u32>,
    sign: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> pairs: array<Pair>;
@group(0) @binding(2) var<storage, read_write> table: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> positions: array<i32>;

/// (pair, row) of an invocation.
fn place(workgroup: vec3<u32>, local: u32) -> vec2<u32> {
    return vec2(workgroup.x * WORKGROUP + local, params.first_row + workgroup.y);
}

fn fill(at: vec2<u32>, position: i32) {
    let pair = pairs[at.x];
    table[at.y * params.row_stride + at.x] = cos_sin(position, pair.rate, pair.sign, params.factor);
}

/// Row r has position start + r (wrapping).
@compute @workgroup_size(WORKGROUP)
fn fill_counted(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (at.x < params.pairs && at.y < params.rows) {
        fill(at, params.start + bitcast<i32>(at.y));
    }
}

/// Row r has position positions[r / run] + r % run (wrapping): ids, a start for each sequence, or one for all.
@compute @workgroup_size(WORKGROUP)
fn fill_listed(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (at.x < params.pairs && at.y < params.rows) {
        let listed = positions[params.first + at.y / params.run];
        fill(at, listed + bitcast<i32>(at.y % params.run));
    }
}
