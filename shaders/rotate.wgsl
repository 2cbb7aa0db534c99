// rotate.wgsl: rows of (cos, sin) and tensors to rotated tensors, in place. Joined behind element.wgsl.
//
// Purpose: for every head of every token, each pair (x, y) of channels of the rotary window becomes
// (x cos - y sin, x sin + y cos). It alone knows memory: layouts, strides, pairings, element types. It knows no
// positions and no angles; which way it turns is in the rows.
//
// Bindings (group 0)
//   0 params     uniform              Params
//   1 rows       storage, read        the cos/sin table: bits of f32 values
//   2 query      storage, read_write  the first tensor, and the second where both are in one buffer
//   3 key        storage, read_write  the second tensor, *_two only
// All are bound as u32 words or several of them at once; f32 values are bitcast.
//
// Override constants
//   WORKGROUP    invocations along x
//   LANES        invocations that share a head of a token
//   PAIRS        pairs that are rotated, the first of the rotary window (windows_* only: LANES tells it elsewhere)
//   KEEP         pairs with the entry (1, 0) are left alone, bit for bit
//   ELEMENT      element type: 0 f32, 1 f16, 2 bf16
//   INTERLEAVED  pair k is read from channels (2k, 2k + 1), else from (k, k + half of its block of the rotary window)
//   WRITES_INTERLEAVED  the same of where it is written; the same as INTERLEAVED but for moves_* and windows_*
//   BLOCK        lanes of a block of the rotary window; LANES where it is one block (not windows_*)
//   WINDOW, STAGED  channels of the rotary window, and words that may hold them (windows_* only)
//   QUERY_HEADS, KEY_HEADS  heads that an invocation rotates with one load of cos and sin, 1 to 8 (moves_*: 4)
//   QUERY_AT_ONCE, KEY_AT_ONCE  heads that it loads before it stores the first of them, 1 to 4, divisors of those (quads_* only)
//                If one of these is above 1, and always for moves_*, QUERY_HEADS (KEY_HEADS) divides the tensor's heads: no group is partial.
//
// Entry points: what an invocation owns of each of its heads, and from how many bindings
//   quads_one, quads_two      twice 16 bytes: 4 pairs of f32, 8 of 16-bit types
//   moves_one, moves_two      the same, of pairs that move; a workgroup owns whole heads
//   words_one, words_two      two words: 1 pair of f32, 2 of 16-bit types
//   windows_one, windows_two  a workgroup owns the rotary window of one head: the remaining pairs that move, and 16-bit pairs that
//                             share words
//
// Grid: x = workgroups across (group of heads, lane), or heads for windows_*; y = tokens, exactly; z = batch.
// Every word is owned by one invocation (one workgroup), so nothing is read after another one wrote it.
// Tail: invocations past the last group, token or batch entry load and store nothing.

override WORKGROUP: u32 = 64u;
override LANES: u32 = 16u;
override PAIRS: u32 = 64u;
override KEEP: bool = false;
override ELEMENT: u32 = 0u;
override INTERLEAVED: bool = false;
override WRITES_INTERLEAVED: bool = false;
override BLOCK: u32 = 16u;
override WINDOW: u32 = 128u;
override STAGED: u32 = 128u;
override QUERY_HEADS: u32 = 1u;
override KEY_HEADS: u32 = 1u;
override QUERY_AT_ONCE: u32 = 1u;
override KEY_AT_ONCE: u32 = 1u;

/// The bits of 1.
const ONE: u32 = 0x3f800000u;

/// First slice and strides in units of the binding (elements for windows_*).
struct Side {
    first: u32,
    batch_stride: u32,
    token_stride: u32,
    head_stride: u32,
}

struct Params {
    query: Side,
    key: Side,
    /// Row of the first token of the first batch entry, and the way to the others.
    first_row: u32,
    row_of_batch: u32,
    row_of_token: u32,
    /// From row to row in units of the binding.
    row_stride: u32,
    /// From x to y of a half-split pair, in units of the binding.
    distance: u32,
    /// Groups of heads of each tensor: those of the query come first along x.
    query_groups: u32,
    key_groups: u32,
    /// 0. The compiler does not know it, so a product whose bits were xor'ed with it cannot be contracted into the sum
    /// behind it, and all backends round alike.
    zero: u32,
    tokens: u32,
    batch: u32,
    /// Heads of each tensor.
    query_heads: u32,
    key_heads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> row_quads: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> row_pairs: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> query_quads: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> key_quads: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> query_words: array<u32>;
@group(0) @binding(3) var<storage, read_write> key_words: array<u32>;

// ---- where an invocation works ----

struct Place {
    lane: u32,
    group: u32,
    token: u32,
    batch: u32,
}

fn place(workgroup: vec3<u32>, local: u32) -> Place {
    let item = workgroup.x * WORKGROUP + local;
    return Place(item % LANES, item / LANES, workgroup.y, workgroup.z);
}

fn is_inside(at: Place) -> bool {
    return at.group < params.query_groups + params.key_groups && at.token < params.tokens && at.batch < params.batch;
}

fn row_of(at: Place) -> u32 {
    let row = params.first_row + at.batch * params.row_of_batch + at.token * params.row_of_token;
    return row * params.row_stride;
}

fn slice_of(side: Side, at: Place, head: u32) -> u32 {
    return side.first + at.batch * side.batch_stride + at.token * side.token_stride + head * side.head_stride;
}

/// Whether a part holds whole pairs (but a word of f32, which word_pair takes) and is written where it was read. Neighbouring lanes then take neighbouring parts, each one of the
/// first half and one of the second, so that a load of many lanes is of bytes without gaps.
fn are_pairs_whole() -> bool {
    return INTERLEAVED && WRITES_INTERLEAVED;
}

/// Where in a head the first part of a lane stands, read or written.
fn part_of(lane: u32, interleaved: bool) -> u32 {
    if (are_pairs_whole()) {
        return lane;
    }
    return select(lane + lane / BLOCK * BLOCK, 2u * lane, interleaved);
}

/// From there to its second part.
fn apart(interleaved: bool) -> u32 {
    if (are_pairs_whole()) {
        return LANES;
    }
    return select(params.distance, 1u, interleaved);
}

// ---- arithmetic: f32, each product and sum rounded by itself ----

/// cos and sin of a lane's pairs: the first four and, for 16-bit types, the second four.
struct Turn {
    cos_a: vec4<f32>,
    sin_a: vec4<f32>,
    cos_b: vec4<f32>,
    sin_b: vec4<f32>,
}

/// The two parts that a lane owns of a head.
struct Parts {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn barrier(value: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) ^ vec4(params.zero));
}

fn turned_x(x: vec4<f32>, y: vec4<f32>, c: vec4<f32>, s: vec4<f32>) -> vec4<f32> {
    return barrier(x * c) - barrier(y * s);
}

fn turned_y(x: vec4<f32>, y: vec4<f32>, c: vec4<f32>, s: vec4<f32>) -> vec4<f32> {
    return barrier(x * s) + barrier(y * c);
}

fn widened(half: vec4<u32>) -> vec4<f32> {
    return widened_from(ELEMENT, half);
}

fn narrowed(value: vec4<f32>) -> vec4<u32> {
    return narrowed_to(ELEMENT, bitcast<vec4<u32>>(barrier(value)));
}

// Eight values, a before b, and those that stand in even and odd places of them; and back.

fn evens(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    return vec4(a.xz, b.xz);
}

fn odds(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    return vec4(a.yw, b.yw);
}

fn front(evens: vec4<u32>, odds: vec4<u32>) -> vec4<u32> {
    return vec4(evens.x, odds.x, evens.y, odds.y);
}

fn back(evens: vec4<u32>, odds: vec4<u32>) -> vec4<u32> {
    return vec4(evens.z, odds.z, evens.w, odds.w);
}

/// Which components have the entry (1, 0).
fn is_kept(c: vec4<f32>, s: vec4<f32>) -> vec4<bool> {
    let differs = (bitcast<vec4<u32>>(c) ^ vec4(ONE)) | bitcast<vec4<u32>>(s);
    return differs == vec4(0u);
}

fn kept(rotated: vec4<u32>, old: vec4<u32>, c: vec4<f32>, s: vec4<f32>) -> vec4<u32> {
    if (KEEP) {
        return select(rotated, old, is_kept(c, s));
    }
    return rotated;
}

/// Both parts rotated. f32: part a holds the x, part b the y. 16-bit types, two to a word: read half-split, the x are in part a
/// and the y in part b, low halves being even pairs; read interleaved, each word holds a whole pair. Written likewise.
fn turned(parts: Parts, turn: Turn) -> Parts {
    let c_a = turn.cos_a;
    let s_a = turn.sin_a;
    if (ELEMENT == F32) {
        let x = bitcast<vec4<f32>>(parts.a);
        let y = bitcast<vec4<f32>>(parts.b);
        return Parts(
            kept(bitcast<vec4<u32>>(turned_x(x, y, c_a, s_a)), parts.a, c_a, s_a),
            kept(bitcast<vec4<u32>>(turned_y(x, y, c_a, s_a)), parts.b, c_a, s_a),
        );
    }
    let c_b = turn.cos_b;
    let s_b = turn.sin_b;
    let old_xa = low(parts.a);
    let old_yb = high(parts.b);
    var old_ya = low(parts.b);
    var old_xb = high(parts.a);
    if (INTERLEAVED) {
        old_ya = high(parts.a);
        old_xb = low(parts.b);
    }
    let x_a = widened(old_xa);
    let y_a = widened(old_ya);
    let x_b = widened(old_xb);
    let y_b = widened(old_yb);
    let xa = kept(narrowed(turned_x(x_a, y_a, c_a, s_a)), old_xa, c_a, s_a);
    let ya = kept(narrowed(turned_y(x_a, y_a, c_a, s_a)), old_ya, c_a, s_a);
    let xb = kept(narrowed(turned_x(x_b, y_b, c_b, s_b)), old_xb, c_b, s_b);
    let yb = kept(narrowed(turned_y(x_b, y_b, c_b, s_b)), old_yb, c_b, s_b);
    if (INTERLEAVED && !WRITES_INTERLEAVED) {
        return Parts(joined(evens(xa, xb), odds(xa, xb)), joined(evens(ya, yb), odds(ya, yb)));
    }
    if (!INTERLEAVED && WRITES_INTERLEAVED) {
        return Parts(joined(front(xa, xb), front(ya, yb)), joined(back(xa, xb), back(ya, yb)));
    }
    if (INTERLEAVED) {
        return Parts(joined(xa, ya), joined(xb, yb));
    }
    return Parts(joined(xa, xb), joined(ya, yb));
}

// ---- 16 bytes at a time ----

fn turn_of_quads(row: u32, lane: u32) -> Turn {
    // An element of row_quads is (cos, sin) of an even pair and of the odd one behind it. Entries go with the parts that hold their pairs,
    // or one behind the other where both parts hold each pair.
    let first = select(2u * lane, lane, are_pairs_whole());
    let behind = select(1u, LANES, are_pairs_whole());
    if (ELEMENT == F32) {
        let r0 = bitcast<vec4<f32>>(row_quads[row + first]);
        let r1 = bitcast<vec4<f32>>(row_quads[row + first + behind]);
        let c = vec4(r0.xz, r1.xz);
        let s = vec4(r0.yw, r1.yw);
        return Turn(c, s, c, s);
    }
    let r0 = bitcast<vec4<f32>>(row_quads[row + 2u * first]);
    let r1 = bitcast<vec4<f32>>(row_quads[row + 2u * first + 1u]);
    let r2 = bitcast<vec4<f32>>(row_quads[row + 2u * (first + behind)]);
    let r3 = bitcast<vec4<f32>>(row_quads[row + 2u * (first + behind) + 1u]);
    if (INTERLEAVED) {
        return Turn(vec4(r0.xz, r1.xz), vec4(r0.yw, r1.yw), vec4(r2.xz, r3.xz), vec4(r2.yw, r3.yw));
    }
    return Turn(
        vec4(r0.x, r1.x, r2.x, r3.x),
        vec4(r0.y, r1.y, r2.y, r3.y),
        vec4(r0.z, r1.z, r2.z, r3.z),
        vec4(r0.w, r1.w, r2.w, r3.w),
    );
}

/// f32 pairs as the arithmetic wants them, x in part a, y in part b; and back.
fn sorted(parts: Parts) -> Parts {
    if (ELEMENT == F32 && INTERLEAVED) {
        return Parts(evens(parts.a, parts.b), odds(parts.a, parts.b));
    }
    return parts;
}

fn unsorted(parts: Parts) -> Parts {
    if (ELEMENT == F32 && WRITES_INTERLEAVED) {
        return Parts(front(parts.a, parts.b), back(parts.a, parts.b));
    }
    return parts;
}

fn load_query(slice: u32, lane: u32) -> Parts {
    let at = slice + part_of(lane, INTERLEAVED);
    return sorted(Parts(query_quads[at], query_quads[at + apart(INTERLEAVED)]));
}

fn store_query(slice: u32, lane: u32, parts: Parts) {
    let at = slice + part_of(lane, WRITES_INTERLEAVED);
    let out = unsorted(parts);
    query_quads[at] = out.a;
    query_quads[at + apart(WRITES_INTERLEAVED)] = out.b;
}

fn load_key(slice: u32, lane: u32) -> Parts {
    let at = slice + part_of(lane, INTERLEAVED);
    return sorted(Parts(key_quads[at], key_quads[at + apart(INTERLEAVED)]));
}

fn store_key(slice: u32, lane: u32, parts: Parts) {
    let at = slice + part_of(lane, WRITES_INTERLEAVED);
    let out = unsorted(parts);
    key_quads[at] = out.a;
    key_quads[at + apart(WRITES_INTERLEAVED)] = out.b;
}

// Loads of several heads come before the first store, so that a GPU waits for memory once, each in a variable with a name:
// naga bounds every loop, which keeps drivers from unrolling it, and an indexed array may go to slow memory. A driver that
// runs on a CPU takes one head at a time: it has few registers and does not wait. `count` is an override constant at every
// call, so the conditions are gone in the compiled kernel.

/// The parts of a lane in several heads.
struct Heads {
    h0: Parts,
    h1: Parts,
    h2: Parts,
    h3: Parts,
}

fn turned_heads(heads: Heads, count: u32, turn: Turn) -> Heads {
    var out = heads;
    out.h0 = turned(heads.h0, turn);
    if (count > 1u) { out.h1 = turned(heads.h1, turn); }
    if (count > 2u) { out.h2 = turned(heads.h2, turn); }
    if (count > 3u) { out.h3 = turned(heads.h3, turn); }
    return out;
}

// `stride` leads from head to head: that of the query or, where both are in one buffer, of the key.

fn load_query_heads(first: u32, stride: u32, lane: u32, count: u32) -> Heads {
    let h0 = load_query(first, lane);
    var heads = Heads(h0, h0, h0, h0);
    if (count > 1u) { heads.h1 = load_query(first + stride, lane); }
    if (count > 2u) { heads.h2 = load_query(first + 2u * stride, lane); }
    if (count > 3u) { heads.h3 = load_query(first + 3u * stride, lane); }
    return heads;
}

fn store_query_heads(first: u32, stride: u32, lane: u32, count: u32, heads: Heads) {
    store_query(first, lane, heads.h0);
    if (count > 1u) { store_query(first + stride, lane, heads.h1); }
    if (count > 2u) { store_query(first + 2u * stride, lane, heads.h2); }
    if (count > 3u) { store_query(first + 3u * stride, lane, heads.h3); }
}

fn load_key_heads(first: u32, stride: u32, lane: u32, count: u32) -> Heads {
    let h0 = load_key(first, lane);
    var heads = Heads(h0, h0, h0, h0);
    if (count > 1u) { heads.h1 = load_key(first + stride, lane); }
    if (count > 2u) { heads.h2 = load_key(first + 2u * stride, lane); }
    if (count > 3u) { heads.h3 = load_key(first + 3u * stride, lane); }
    return heads;
}

fn store_key_heads(first: u32, stride: u32, lane: u32, count: u32, heads: Heads) {
    store_key(first, lane, heads.h0);
    if (count > 1u) { store_key(first + stride, lane, heads.h1); }
    if (count > 2u) { store_key(first + 2u * stride, lane, heads.h2); }
    if (count > 3u) { store_key(first + 3u * stride, lane, heads.h3); }
}

/// One past the last head of a group: the last group may have fewer.
fn end_of_query(at: Place) -> u32 {
    return min(QUERY_HEADS, params.query_heads - at.group * QUERY_HEADS);
}

fn end_of_key(at: Place) -> u32 {
    return min(KEY_HEADS, params.key_heads - (at.group - params.query_groups) * KEY_HEADS);
}

/// The window of the n-th head of an invocation's group, of the query and of the key.
fn query_slice(at: Place, n: u32) -> u32 {
    return slice_of(params.query, at, at.group * QUERY_HEADS + n);
}

fn key_slice(at: Place, n: u32) -> u32 {
    return slice_of(params.key, at, (at.group - params.query_groups) * KEY_HEADS + n);
}

// An invocation belongs to the query or to the key. The choice is written as two loops of which one has no round: drivers that
// run on a CPU execute both sides of an `if` under a mask, but leave a loop that no invocation enters.

@compute @workgroup_size(WORKGROUP)
fn quads_two(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (!is_inside(at)) {
        return;
    }
    let turn = turn_of_quads(row_of(at), at.lane);
    let is_query = at.group < params.query_groups;
    for (var h = select(QUERY_HEADS, 0u, is_query); h < end_of_query(at); h += QUERY_AT_ONCE) {
        let slice = query_slice(at, h);
        let stride = params.query.head_stride;
        let heads = load_query_heads(slice, stride, at.lane, QUERY_AT_ONCE);
        store_query_heads(slice, stride, at.lane, QUERY_AT_ONCE, turned_heads(heads, QUERY_AT_ONCE, turn));
    }
    for (var h = select(0u, KEY_HEADS, is_query); h < end_of_key(at); h += KEY_AT_ONCE) {
        let slice = key_slice(at, h);
        let stride = params.key.head_stride;
        let heads = load_key_heads(slice, stride, at.lane, KEY_AT_ONCE);
        store_key_heads(slice, stride, at.lane, KEY_AT_ONCE, turned_heads(heads, KEY_AT_ONCE, turn));
    }
}

@compute @workgroup_size(WORKGROUP)
fn quads_one(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (!is_inside(at)) {
        return;
    }
    let turn = turn_of_quads(row_of(at), at.lane);
    let is_query = at.group < params.query_groups;
    for (var h = select(QUERY_HEADS, 0u, is_query); h < end_of_query(at); h += QUERY_AT_ONCE) {
        let slice = query_slice(at, h);
        let stride = params.query.head_stride;
        let heads = load_query_heads(slice, stride, at.lane, QUERY_AT_ONCE);
        store_query_heads(slice, stride, at.lane, QUERY_AT_ONCE, turned_heads(heads, QUERY_AT_ONCE, turn));
    }
    for (var h = select(0u, KEY_HEADS, is_query); h < end_of_key(at); h += KEY_AT_ONCE) {
        let slice = key_slice(at, h);
        let stride = params.key.head_stride;
        let heads = load_query_heads(slice, stride, at.lane, KEY_AT_ONCE);
        store_query_heads(slice, stride, at.lane, KEY_AT_ONCE, turned_heads(heads, KEY_AT_ONCE, turn));
    }
}

// ---- 16 bytes at a time, to other places ----

// All lanes of a head are in one workgroup, which reads whole heads before it writes any of them: the parts wait in registers.

@compute @workgroup_size(WORKGROUP)
fn moves_two(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    let is_query = is_inside(at) && at.group < params.query_groups;
    let is_key = is_inside(at) && !is_query;
    let query = query_slice(at, 0u);
    let key = key_slice(at, 0u);
    var heads: Heads;
    if (is_query) {
        heads = load_query_heads(query, params.query.head_stride, at.lane, QUERY_HEADS);
        heads = turned_heads(heads, QUERY_HEADS, turn_of_quads(row_of(at), at.lane));
    }
    if (is_key) {
        heads = load_key_heads(key, params.key.head_stride, at.lane, KEY_HEADS);
        heads = turned_heads(heads, KEY_HEADS, turn_of_quads(row_of(at), at.lane));
    }
    storageBarrier();
    if (is_query) {
        store_query_heads(query, params.query.head_stride, at.lane, QUERY_HEADS, heads);
    }
    if (is_key) {
        store_key_heads(key, params.key.head_stride, at.lane, KEY_HEADS, heads);
    }
}

@compute @workgroup_size(WORKGROUP)
fn moves_one(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    let is_query = is_inside(at) && at.group < params.query_groups;
    let is_key = is_inside(at) && !is_query;
    let query = query_slice(at, 0u);
    let key = key_slice(at, 0u);
    var heads: Heads;
    if (is_query) {
        heads = load_query_heads(query, params.query.head_stride, at.lane, QUERY_HEADS);
        heads = turned_heads(heads, QUERY_HEADS, turn_of_quads(row_of(at), at.lane));
    }
    if (is_key) {
        heads = load_query_heads(key, params.key.head_stride, at.lane, KEY_HEADS);
        heads = turned_heads(heads, KEY_HEADS, turn_of_quads(row_of(at), at.lane));
    }
    storageBarrier();
    if (is_query) {
        store_query_heads(query, params.query.head_stride, at.lane, QUERY_HEADS, heads);
    }
    if (is_key) {
        store_query_heads(key, params.key.head_stride, at.lane, KEY_HEADS, heads);
    }
}

// ---- a word at a time ----

/// cos and sin in the first components; the others are computed and thrown away by the compiler.
fn turn_of_words(row: u32, lane: u32) -> Turn {
    if (ELEMENT == F32) {
        let r = bitcast<vec2<f32>>(row_pairs[row + lane]);
        return Turn(vec4(r.x), vec4(r.y), vec4(r.x), vec4(r.y));
    }
    let first = select(2u * lane, lane, are_pairs_whole());
    let behind = select(1u, LANES, are_pairs_whole());
    let a = bitcast<vec2<f32>>(row_pairs[row + first]);
    let b = bitcast<vec2<f32>>(row_pairs[row + first + behind]);
    return Turn(vec4(a.x), vec4(a.y), vec4(b.x), vec4(b.y));
}

/// The two words of a lane. Of f32 they are one pair.
fn word_pair(slice: u32, lane: u32) -> vec2<u32> {
    if (ELEMENT == F32 && INTERLEAVED) {
        return slice + vec2(2u * lane, 2u * lane + 1u);
    }
    let a = slice + part_of(lane, INTERLEAVED);
    return vec2(a, a + apart(INTERLEAVED));
}

fn rotate_query_word(slice: u32, lane: u32, turn: Turn) {
    let at = word_pair(slice, lane);
    let parts = turned(Parts(vec4(query_words[at.x]), vec4(query_words[at.y])), turn);
    query_words[at.x] = parts.a.x;
    query_words[at.y] = parts.b.x;
}

fn rotate_key_word(slice: u32, lane: u32, turn: Turn) {
    let at = word_pair(slice, lane);
    let parts = turned(Parts(vec4(key_words[at.x]), vec4(key_words[at.y])), turn);
    key_words[at.x] = parts.a.x;
    key_words[at.y] = parts.b.x;
}

@compute @workgroup_size(WORKGROUP)
fn words_two(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (!is_inside(at)) {
        return;
    }
    let turn = turn_of_words(row_of(at), at.lane);
    let is_query = at.group < params.query_groups;
    for (var h = select(QUERY_HEADS, 0u, is_query); h < end_of_query(at); h += 1u) {
        rotate_query_word(query_slice(at, h), at.lane, turn);
    }
    for (var h = select(0u, KEY_HEADS, is_query); h < end_of_key(at); h += 1u) {
        rotate_key_word(key_slice(at, h), at.lane, turn);
    }
}

@compute @workgroup_size(WORKGROUP)
fn words_one(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place(workgroup, local);
    if (!is_inside(at)) {
        return;
    }
    let turn = turn_of_words(row_of(at), at.lane);
    let is_query = at.group < params.query_groups;
    for (var h = select(QUERY_HEADS, 0u, is_query); h < end_of_query(at); h += 1u) {
        rotate_query_word(query_slice(at, h), at.lane, turn);
    }
    for (var h = select(0u, KEY_HEADS, is_query); h < end_of_key(at); h += 1u) {
        rotate_query_word(key_slice(at, h), at.lane, turn);
    }
}

// ---- a window at a time, by a workgroup: pairs that move, or share words with their neighbours ----

/// The words of one window, as they were.
var<workgroup> staged: array<u32, STAGED>;

/// The bits of an element of the staged words, the low half of the result for 16-bit types.
fn staged_bits(element: u32) -> u32 {
    if (ELEMENT == F32) {
        return staged[element];
    }
    return (staged[element >> 1u] >> (16u * (element & 1u))) & 0xffffu;
}

fn value_of(bits: u32) -> f32 {
    if (ELEMENT == F32) {
        return bitcast<f32>(bits);
    }
    return widened(vec4(bits)).x;
}

fn bits_of(value: f32) -> u32 {
    if (ELEMENT == F32) {
        return bitcast<u32>(value);
    }
    return narrowed(vec4(value)).x;
}

/// What is written to a channel of the window, whose first element is staged behind `lead` others.
fn rotated_channel(channel: u32, lead: u32, row: u32) -> u32 {
    let distance = params.distance;
    let within = channel % (2u * distance);
    var pair = channel / (2u * distance) * distance + within % distance;
    var is_y = within >= distance;
    if (WRITES_INTERLEAVED) {
        pair = channel >> 1u;
        is_y = (channel & 1u) == 1u;
    }
    var x_at = pair + pair / distance * distance;
    var y_at = x_at + distance;
    if (INTERLEAVED) {
        x_at = 2u * pair;
        y_at = x_at + 1u;
    }
    let x = staged_bits(lead + x_at);
    let y = staged_bits(lead + y_at);
    let r = row_pairs[row + min(pair, PAIRS - 1u)];
    if (pair >= PAIRS || (KEEP && r.x == ONE && r.y == 0u)) {
        return select(x, y, is_y);
    }
    // x cos - y sin, or x sin + y cos. Changing the sign of a factor changes the sign of the product and no other bit.
    let cos_sin = bitcast<vec2<f32>>(r);
    let of_x = select(cos_sin.x, cos_sin.y, is_y);
    let of_y = select(-cos_sin.y, cos_sin.x, is_y);
    let products = barrier(vec4(value_of(x) * of_x, value_of(y) * of_y, 0.0, 0.0));
    return bits_of(products.x + products.y);
}

/// A word of the window with its channels rotated; elements before and behind the window stay.
fn rotated_word(word: u32, lead: u32, row: u32) -> u32 {
    if (ELEMENT == F32) {
        return rotated_channel(word, 0u, row);
    }
    var halves = vec2(staged[word] & 0xffffu, staged[word] >> 16u);
    let first = 2u * word;
    if (first >= lead && first - lead < WINDOW) {
        halves.x = rotated_channel(first - lead, lead, row);
    }
    if (first + 1u - lead < WINDOW) {
        halves.y = rotated_channel(first + 1u - lead, lead, row);
    }
    return halves.x | (halves.y << 16u);
}

/// The window of a workgroup's head: its first word, and how many elements stand before it in that word.
fn window_of(at: Place) -> vec2<u32> {
    var slice = slice_of(params.query, at, at.group);
    if (at.group >= params.query_groups) {
        slice = slice_of(params.key, at, at.group - params.query_groups);
    }
    if (ELEMENT == F32) {
        return vec2(slice, 0u);
    }
    return vec2(slice >> 1u, slice & 1u);
}

/// Words that hold a window.
fn words_of(lead: u32) -> u32 {
    if (ELEMENT == F32) {
        return WINDOW;
    }
    return (lead + WINDOW + 1u) >> 1u;
}

/// The head of a workgroup: it has one lane.
fn place_of_window(workgroup: vec3<u32>) -> Place {
    return Place(0u, workgroup.x, workgroup.y, workgroup.z);
}

// All words are staged before any is written, since a pair may move to where another one is read.

@compute @workgroup_size(WORKGROUP)
fn windows_one(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place_of_window(workgroup);
    if (!is_inside(at)) {
        return;
    }
    let row = row_of(at);
    let window = window_of(at);
    let words = words_of(window.y);
    for (var word = local; word < words; word += WORKGROUP) {
        staged[word] = query_words[window.x + word];
    }
    workgroupBarrier();
    for (var word = local; word < words; word += WORKGROUP) {
        query_words[window.x + word] = rotated_word(word, window.y, row);
    }
}

@compute @workgroup_size(WORKGROUP)
fn windows_two(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = place_of_window(workgroup);
    if (!is_inside(at)) {
        return;
    }
    let row = row_of(at);
    let is_query = at.group < params.query_groups;
    let window = window_of(at);
    let words = words_of(window.y);
    for (var word = local; word < words; word += WORKGROUP) {
        if (is_query) {
            staged[word] = query_words[window.x + word];
        } else {
            staged[word] = key_words[window.x + word];
        }
    }
    workgroupBarrier();
    for (var word = local; word < words; word += WORKGROUP) {
        let rotated = rotated_word(word, window.y, row);
        if (is_query) {
            query_words[window.x + word] = rotated;
        } else {
            key_words[window.x + word] = rotated;
        }
    }
}
