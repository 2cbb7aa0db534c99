// table.wgsl: positions to rows of (cos, sin). Joined behind integer.wgsl, turns.wgsl and element.wgsl.
//
// Purpose: fills the rows of a cos/sin table, one entry per pair of channels. It alone knows angles: frequencies, axes,
// direction (the sign of a rate) and attention factor; or it copies rows of a caller's own cos and sin. Run once a step, or
// once for all where positions never change.
//
// Bindings (group 0)
//   0 params     uniform             Params
//   1 pairs      storage, read       for each pair its rate; for f32 angles, behind them, powers of two in turns; with a query scale,
//                                    behind these, its step, offset, last index and place, and its values. fill_* only
//   2 table      storage, read_write rows of row_stride entries (cos, sin): bits of f32 values; behind them a count of faults, one of
//                                    skipped slots and two words; slots (slots.wgsl); with a query scale an entry (scale, 0) a row
//   3 positions  storage, read       ids (i32) or coordinates (f32); *_listed and fill_coordinates only
//   4 given_cos  storage, read       a caller's rows of values; copy_* only
//   5 given_sin  storage, read
//
// Override constants
//   WORKGROUP    invocations along x, one per pair
//   SCALED       whether the factor is anything but 1 or -1 (turns.wgsl)
//   SIGNED       whether any rate is negative
//   F32_ANGLES   position times frequency in f32 (fill_counted and fill_listed; fill_coordinates always does so)
//   ELEMENT      type of the caller's values: 0 f32, 1 f16, 2 bf16
//   BACKWARD     the caller's sin is negated
//   DIVIDED      the caller's cos and sin are divided by cos^2 + sin^2
//   QUERY_SCALE  the query scale of each row is written too (fill_counted and fill_listed only)
//
// Entry points
//   fill_counted, fill_listed  positions that count on from a constant, or listed ids; no fault is possible
//   fill_coordinates           listed coordinates: one that is not finite or makes an angle of 2^48 or more leaves its pair alone
//   copy_counted, copy_listed  given rows at a constant or listed ids: an id outside of them leaves its row alone
// What is left alone has the entry (1, 0) and is counted, once for each pair (fill_coordinates) or row (copy_listed); so is,
// once for each pair, what cannot be divided (copy_counted and copy_listed).
//
// Grid: x = workgroups across the pairs, y = rows, exactly.
// Tail: invocations past the last pair or the last row write nothing.

override ELEMENT: u32 = 0u;
override WORKGROUP: u32 = 64u;
override F32_ANGLES: bool = false;
override SIGNED: bool = true;
override BACKWARD: bool = false;
override DIVIDED: bool = false;
override QUERY_SCALE: bool = false;

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
    /// Index of the first listed position in its binding, and the way to those of the next axis and the next run.
    first: u32,
    axis_stride: u32,
    id_stride: u32,
    /// Row of the first workgroups along y.
    first_row: u32,
    /// Index in the table, in words, of the count of faults.
    faults: u32,
    /// 0, which the compiler does not know.
    zero: u32,
    unused: u32,
    /// Rows and columns of given cos and sin, and the words before its first values in their bindings.
    given_rows: u32,
    given_columns: u32,
    cos_first: u32,
    sin_first: u32,
    factor: TableFactor,
}

@group(0) @binding(0) var<uniform> params: Params;
/// Two for each pair: its rate; and its sign, axis and f32 frequency.
@group(0) @binding(1) var<storage, read> pairs: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> table: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> counting_table: array<atomic<u32>>;
@group(0) @binding(3) var<storage, read> positions: array<i32>;
@group(0) @binding(4) var<storage, read> given_cos: array<u32>;
@group(0) @binding(5) var<storage, read> given_sin: array<u32>;

const ONE: u32 = 0x3f800000u;

/// (pair, row) of an invocation.
fn place(workgroup: vec3<u32>, local: u32) -> vec2<u32> {
    return vec2(workgroup.x * WORKGROUP + local, params.first_row + workgroup.y);
}

fn is_inside(at: vec2<u32>) -> bool {
    return at.x < params.pairs && at.y < params.rows;
}

/// Position start + row (wrapping).
fn counted(row: u32) -> i32 {
    return params.start + bitcast<i32>(row);
}

/// The listed position of a row on an axis, counted on inside its run (wrapping).
fn listed(row: u32, axis: u32) -> i32 {
    let id = positions[params.first + axis * params.axis_stride + row / params.run * params.id_stride];
    return id + bitcast<i32>(row % params.run);
}

fn axis_of(pair: u32) -> u32 {
    return pairs[2u * pair + 1u].y;
}

// Words that are not needed are not loaded: a driver that runs on a CPU loads word by word for each invocation, and takes longer
// for one than for a step of a polynomial.

/// The sign of the rate in the top bit.
fn sign_of_rate(pair: u32) -> u32 {
    if (SIGNED) {
        return pairs[2u * pair + 1u].x;
    }
    return 0u;
}

/// The bits of the frequency rounded to f32.
fn f32_frequency(pair: u32) -> u32 {
    return pairs[2u * pair + 1u].z;
}

// ---- from frequencies ----

/// The entry of a valid f32 angle. Its weight stands behind the pairs.
fn entry_of(angle: Angle) -> vec2<u32> {
    let weight = pairs[2u * params.pairs + u32(angle.exponent - MIN_F32_EXPONENT)];
    return cos_sin_f32(angle, weight, params.factor);
}

fn fill(at: vec2<u32>, position: i32) {
    let index = at.y * params.row_stride + at.x;
    if (F32_ANGLES) {
        // Integers stay far below 2^48.
        table[index] = entry_of(f32_angle(f32_bits(position), f32_frequency(at.x)));
    } else {
        table[index] = cos_sin(position, pairs[2u * at.x], sign_of_rate(at.x), params.factor);
    }
}

/// Writes the query scale of a row, by its position on axis 0. The whole entry is written: two invocations must not write parts
/// of one, and no entry needs a second word.
fn put_scale(row: u32, position: i32) {
    // Behind the pairs, and the weights of f32 angles: step, offset, last index, place.
    let weights = u32(MAX_F32_EXPONENT - MIN_F32_EXPONENT + 1);
    let at = 2u * params.pairs + select(0u, weights, F32_ANGLES);
    let scale = pairs[at];
    let offset = bitcast<i32>(scale.y);
    // As u32 it is right wherever it is not negative; two that are not negative never have a negative sum.
    let moved = bitcast<u32>(position) + scale.y;
    let either = position < 0 || offset < 0;
    let both = position < 0 && offset < 0;
    let is_negative = both || (either && bitcast<i32>(moved) < 0);
    let index = min(select(moved, 0u, is_negative) / scale.x, scale.z);
    let value = pairs[at + 1u + index / 4u][index % 4u];
    table[scale.w + row] = vec2(value, 0u);
}

@compute @workgroup_size(WORKGROUP)
fn fill_counted(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (is_inside(at)) {
        fill(at, counted(at.y));
        if (QUERY_SCALE && at.x == 0u) {
            put_scale(at.y, counted(at.y));
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn fill_listed(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (is_inside(at)) {
        fill(at, listed(at.y, axis_of(at.x)));
        if (QUERY_SCALE && at.x == 0u) {
            put_scale(at.y, listed(at.y, 0u));
        }
    }
}

/// Writes an entry where faults may have to be counted: the whole table is atomic there.
fn put(at: vec2<u32>, entry: vec2<u32>) {
    let index = 2u * (at.y * params.row_stride + at.x);
    atomicStore(&counting_table[index], entry.x);
    atomicStore(&counting_table[index + 1u], entry.y);
}

fn count_fault() {
    atomicAdd(&counting_table[params.faults], 1u);
}

@compute @workgroup_size(WORKGROUP)
fn fill_coordinates(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (!is_inside(at)) {
        return;
    }
    let angle = f32_angle(bitcast<u32>(listed(at.y, axis_of(at.x))), f32_frequency(at.x));
    if (angle.valid) {
        put(at, entry_of(angle));
    } else {
        put(at, vec2(ONE, 0u));
        count_fault();
    }
}

// ---- from a caller's cos and sin ----

/// The bits of the f32 value of an element, given the word that holds it.
fn element_bits(word: u32, index: u32) -> u32 {
    if (ELEMENT == F32) {
        return word;
    }
    return widened_bits(ELEMENT, vec4((word >> (16u * (index & 1u))) & 0xffffu)).x;
}

/// The word that holds an element.
fn word_of(index: u32) -> u32 {
    return select(index >> 1u, index, ELEMENT == F32);
}

/// f32 arithmetic of which nothing is contracted: see rotate.wgsl.
fn barrier(value: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(value) ^ params.zero);
}

/// A given entry turned the way that is asked for; valid unless it would have to be divided and cannot be.
fn copied(row: u32, pair: u32) -> Copied {
    let index = row * params.given_columns + pair;
    let cos = element_bits(given_cos[params.cos_first + word_of(index)], index);
    var sin = element_bits(given_sin[params.sin_first + word_of(index)], index);
    if (BACKWARD) {
        sin ^= 0x80000000u;
    }
    if (!DIVIDED) {
        return Copied(vec2(cos, sin), true);
    }
    let c = bitcast<f32>(cos);
    let s = bitcast<f32>(sin);
    let norm = bitcast<u32>(barrier(barrier(c * c) + barrier(s * s)));
    // From 2^-100 to below 2^100: no quotient overflows, and a square that is denormal does not count.
    let valid = norm >= 0x0d800000u && norm < 0x71800000u;
    return Copied(vec2(divided(cos, norm), divided(sin, norm)), valid);
}

struct Copied {
    entry: vec2<u32>,
    valid: bool,
}

/// Puts a given entry: a row outside of those that are given, and what cannot be divided, leaves its pair alone.
fn copy(at: vec2<u32>, row: i32) {
    // A negative row is a large one.
    let is_row = bitcast<u32>(row) < params.given_rows;
    if (is_row) {
        let found = copied(bitcast<u32>(row), at.x);
        if (found.valid) {
            put(at, found.entry);
            return;
        }
    }
    put(at, vec2(ONE, 0u));
    // A row that is missing counts once.
    if (is_row || at.x == 0u) {
        count_fault();
    }
}

@compute @workgroup_size(WORKGROUP)
fn copy_counted(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (is_inside(at)) {
        copy(at, counted(at.y));
    }
}

@compute @workgroup_size(WORKGROUP)
fn copy_listed(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (is_inside(at)) {
        copy(at, listed(at.y, 0u));
    }
}
