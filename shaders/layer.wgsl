// layer.wgsl: what stands between a layer's projections and its attention kernel, in one dispatch: query and key normalised,
// rotated, scaled and written where they are wanted, in another type if need be, and the value beside them. Joined behind
// integer.wgsl and element.wgsl.
//
// Purpose: all that rotate.wgsl does not: tensors that do not stay in place, caches whose slots are listed, norms, scales, sums.
// Three streams go from a source to a destination, each with a layout and a type of its own:
//   query  norm, rotation, scale
//   key    norm, rotation
//   value  norm
// Each part is optional. Source and destination may be the same. Like rotate.wgsl it knows memory, and no positions nor angles.
//
// Bindings (group 0)
//   0 params     uniform              Params
//   1 rows       storage, read        the table: rows of cos and sin, slots, scales of the query; bits of f32 and i32
//   2 weights    storage, read        weights of the norms
//   3 to 8       storage, read_write  the buffers of all tensors and of their scales, as vec4<u32> (octets) or atomic<u32>
//                                     (channels). Which of them holds which tensor is in override constants, since tensors may share a buffer and a buffer has to be bound once. What
//                                     is not needed is bound to something that nobody else uses.
//
// Override constants; those with a name of a stream exist for each
//   WORKGROUP    invocations along x
//   QUERY_DIM    channels of a head; 0 where there is no such stream
//   QUERY_FROM, QUERY_TO            binding - 3 of source and destination
//   QUERY_FROM_TYPE, QUERY_TO_TYPE  element type: 0 f32, 1 f16, 2 bf16; channels only: 3 blocks of 32 with an f16 scale, 4 int8
//   QUERY_FROM_SCALES, QUERY_TO_SCALES  binding - 3 of the scales of int8 (channels only)
//   QUERY_FROM_SLOTS, QUERY_TO_SLOTS    tokens stand in slots that are listed, else by batch entry and token
//   QUERY_LANES  invocations that share a head (octets): one for each pair of octets, or one for two pairs
//   QUERY_ROUNDS heads that an invocation takes one after the other (octets)
//   QUERY_NORM   0 none, 1 no weights, 2 weights, 3 weights that 1 is added to
//   QUERY_ADDS   what is in the destination is added to
//   QUERY_SCALE  0 none, 1 one factor, 2 one for each row
//   WEIGHTS      element type of the weights
//   WHOLE        norms are over all heads of a token (channels only); streams without a norm are taken head by head all the same
//   OFFSET       channels before the rotary window
//   WINDOW       channels of the rotary window; 0: nothing is rotated
//   BLOCK        pairs of a block of the rotary window that is half-split by itself
//   PAIRS        pairs that are rotated, the first of the window
//   KEEP         pairs with the entry (1, 0) are not rotated either
//   INTERLEAVED, WRITES_INTERLEAVED  as in rotate.wgsl
//   PAIRED       a head is whole pairs of octets, and so is the window in it
//   SUMS         sums of pairs of octets that a workgroup keeps
//   STAGED, BLOCKS  channels of a head that are kept, and scales (channels only)
//
// Entry points
//   octets    an invocation takes twice eight channels of a head, which are 16 or 32 bytes: two octets whose channels are rotated
//             with each other; or two such pairs, half a head apart. Everything starts on 16 bytes, a head is a multiple of 16
//             channels and a window of 16.
//   channels  a workgroup takes a head, channel by channel: any type, layout and pairing
//
// Grid: x = workgroups across the query's heads, then the key's, then the value's; y = tokens, exactly; z = batch. A workgroup of octets has
// WORKGROUP / LANES heads side by side, and ROUNDS such rows of heads one after the other; one of channels has one head, or with WHOLE all
// heads of a stream that has a norm.
// Every word is written by one invocation, but for halves and bytes of a word, which are written by atomic operations. No two tokens may have
// the same slot: what is left of both is a mixture.
// Tail: invocations past the last head, token or batch entry store nothing, nor do tokens whose slot is not in the cache.

const QUERY: u32 = 0u;
const KEY: u32 = 1u;
const VALUE: u32 = 2u;

override WORKGROUP: u32 = 64u;
override QUERY_DIM: u32 = 128u;
override KEY_DIM: u32 = 128u;
override VALUE_DIM: u32 = 128u;
override QUERY_FROM: u32 = 0u;
override KEY_FROM: u32 = 0u;
override VALUE_FROM: u32 = 0u;
override QUERY_TO: u32 = 0u;
override KEY_TO: u32 = 0u;
override VALUE_TO: u32 = 0u;
override QUERY_FROM_TYPE: u32 = 0u;
override KEY_FROM_TYPE: u32 = 0u;
override VALUE_FROM_TYPE: u32 = 0u;
override QUERY_TO_TYPE: u32 = 0u;
override KEY_TO_TYPE: u32 = 0u;
override VALUE_TO_TYPE: u32 = 0u;
override QUERY_FROM_SCALES: u32 = 0u;
override KEY_FROM_SCALES: u32 = 0u;
override VALUE_FROM_SCALES: u32 = 0u;
override QUERY_TO_SCALES: u32 = 0u;
override KEY_TO_SCALES: u32 = 0u;
override VALUE_TO_SCALES: u32 = 0u;
override QUERY_FROM_SLOTS: bool = false;
override KEY_FROM_SLOTS: bool = false;
override VALUE_FROM_SLOTS: bool = false;
override QUERY_TO_SLOTS: bool = false;
override KEY_TO_SLOTS: bool = false;
override VALUE_TO_SLOTS: bool = false;
override QUERY_LANES: u32 = 8u;
override KEY_LANES: u32 = 8u;
override VALUE_LANES: u32 = 8u;
override QUERY_ROUNDS: u32 = 1u;
override KEY_ROUNDS: u32 = 1u;
override VALUE_ROUNDS: u32 = 1u;
override QUERY_NORM: u32 = 0u;
override KEY_NORM: u32 = 0u;
override VALUE_NORM: u32 = 0u;
override QUERY_ADDS: bool = false;
override KEY_ADDS: bool = false;
override VALUE_ADDS: bool = false;
override QUERY_SCALE: u32 = 0u;
override WEIGHTS: u32 = 0u;
override WHOLE: bool = false;
override OFFSET: u32 = 0u;
override WINDOW: u32 = 128u;
override BLOCK: u32 = 64u;
override PAIRS: u32 = 64u;
override KEEP: bool = false;
override INTERLEAVED: bool = false;
override WRITES_INTERLEAVED: bool = false;
override SUMS: u32 = 1u;
override PAIRED: bool = false;
override BLOCKS: u32 = 1u;
override STAGED: u32 = 1u;

const Q8_0: u32 = 3u;
const INT8: u32 = 4u;

/// The bits of 1.
const ONE: u32 = 0x3f800000u;

/// Where the heads of a tensor stand, in units of 16 bytes (octets) or in channels: in two steps to a token, which are batch entry and
/// token, or page of a cache and place in it.
struct Tensor {
    first: u32,
    outer_stride: u32,
    inner_stride: u32,
    head_stride: u32,
    /// Word of the table where the slots begin, how many slots the cache has, and how many of them a page.
    slots: u32,
    slot_count: u32,
    page_size: u32,
    /// Of int8 where the scales begin, in scales; of blocks where the tensor begins, in halves of a word: `first` does not count it then.
    base: u32,
}

struct Stream {
    source: Tensor,
    destination: Tensor,
    heads: u32,
    /// Workgroups across.
    groups: u32,
    /// Word of the first weight.
    weights: u32,
    /// Of the norm: what is added to the mean, and what makes a mean of a sum; bits of f32.
    epsilon: u32,
    mean: u32,
    /// From channel to channel of the destination.
    channel_stride: u32,
    unused_a: u32,
    unused_b: u32,
}

struct Params {
    streams: array<Stream, 3>,
    /// Row of the first token of the first batch entry, and the way to the others.
    first_row: u32,
    row_of_batch: u32,
    row_of_token: u32,
    /// From row to row, in words.
    row_stride: u32,
    tokens: u32,
    batch: u32,
    /// From the slots of a batch entry to those of the next.
    slots_of_batch: u32,
    /// Word of the table where the scales of the query begin.
    scales: u32,
    /// The factor of the query, bits of f32.
    factor: u32,
    /// 0. The compiler does not know it: see rotate.wgsl.
    zero: u32,
    unused_a: u32,
    unused_b: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read_write> quads_0: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> quads_1: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> quads_2: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> quads_3: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read_write> quads_4: array<vec4<u32>>;
@group(0) @binding(8) var<storage, read_write> quads_5: array<vec4<u32>>;

@group(0) @binding(3) var<storage, read_write> words_0: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> words_1: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> words_2: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read_write> words_3: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> words_4: array<atomic<u32>>;
@group(0) @binding(8) var<storage, read_write> words_5: array<atomic<u32>>;

// ---- a stream's constants: `stream` is a constant at every call, so all of this is gone in the compiled kernel ----

fn dim_of(stream: u32) -> u32 {
    return vec3(QUERY_DIM, KEY_DIM, VALUE_DIM)[stream];
}

fn norm_of(stream: u32) -> u32 {
    return vec3(QUERY_NORM, KEY_NORM, VALUE_NORM)[stream];
}

fn from_type(stream: u32) -> u32 {
    return vec3(QUERY_FROM_TYPE, KEY_FROM_TYPE, VALUE_FROM_TYPE)[stream];
}

fn to_type(stream: u32) -> u32 {
    return vec3(QUERY_TO_TYPE, KEY_TO_TYPE, VALUE_TO_TYPE)[stream];
}

fn from_slots(stream: u32) -> bool {
    return vec3(QUERY_FROM_SLOTS, KEY_FROM_SLOTS, VALUE_FROM_SLOTS)[stream];
}

fn to_slots(stream: u32) -> bool {
    return vec3(QUERY_TO_SLOTS, KEY_TO_SLOTS, VALUE_TO_SLOTS)[stream];
}

fn lanes_of(stream: u32) -> u32 {
    return vec3(QUERY_LANES, KEY_LANES, VALUE_LANES)[stream];
}

fn rounds_of(stream: u32) -> u32 {
    return vec3(QUERY_ROUNDS, KEY_ROUNDS, VALUE_ROUNDS)[stream];
}

fn adds(stream: u32) -> bool {
    return vec3(QUERY_ADDS, KEY_ADDS, VALUE_ADDS)[stream];
}

fn rotates(stream: u32) -> bool {
    return WINDOW > 0u && stream != VALUE;
}

fn is_scaled(stream: u32) -> bool {
    return QUERY_SCALE > 0u && stream == QUERY;
}

// ---- where a token stands ----

fn table_word(at: u32) -> u32 {
    return rows[at >> 2u][at & 3u];
}

/// Where the first head of a token stands in a tensor, if it is there at all.
struct Spot {
    at: u32,
    inside: bool,
}

/// `token` and `batch` are inside of the grid's.
fn spot(tensor: Tensor, in_slots: bool, token: u32, batch: u32) -> Spot {
    if (!in_slots) {
        return Spot(tensor.first + batch * tensor.outer_stride + token * tensor.inner_stride, true);
    }
    // A negative slot is a large one.
    let slot = table_word(tensor.slots + batch * params.slots_of_batch + token);
    let at = tensor.first + slot / tensor.page_size * tensor.outer_stride + slot % tensor.page_size * tensor.inner_stride;
    return Spot(at, slot < tensor.slot_count);
}

// ---- arithmetic: f32, each product and sum rounded by itself ----

fn barrier(value: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) ^ vec4(params.zero));
}

fn barrier_of_one(value: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(value) ^ params.zero);
}

/// Eight channels.
struct Octet {
    a: vec4<f32>,
    b: vec4<f32>,
}

/// The sum of the squares of an octet, in this order: those four apart, those two apart, those side by side.
fn sum_of_squares(octet: Octet) -> f32 {
    let four = barrier(barrier(octet.a * octet.a) + barrier(octet.b * octet.b));
    let two = barrier(vec4(four.xy + four.zw, 0.0, 0.0));
    return barrier_of_one(two.x + two.y);
}

/// What channels are multiplied by, given the sum of their squares.
fn norm_factor(stream: u32, sum: f32) -> f32 {
    let mean = barrier_of_one(sum * bitcast<f32>(params.streams[stream].mean));
    let biased = barrier_of_one(mean + bitcast<f32>(params.streams[stream].epsilon));
    return bitcast<f32>(inverse_root(bitcast<u32>(biased)));
}

// ---- octets ----

// Each of these picks its binding by comparing override constants and never a parameter, so that a compiler removes the other branches inside
// of the function, before it is inlined.

fn load_query(at: u32) -> vec4<u32> {
    if (QUERY_FROM == 0u) { return quads_0[at]; }
    if (QUERY_FROM == 1u) { return quads_1[at]; }
    if (QUERY_FROM == 2u) { return quads_2[at]; }
    if (QUERY_FROM == 3u) { return quads_3[at]; }
    if (QUERY_FROM == 4u) { return quads_4[at]; }
    return quads_5[at];
}

fn load_key(at: u32) -> vec4<u32> {
    if (KEY_FROM == 0u) { return quads_0[at]; }
    if (KEY_FROM == 1u) { return quads_1[at]; }
    if (KEY_FROM == 2u) { return quads_2[at]; }
    if (KEY_FROM == 3u) { return quads_3[at]; }
    if (KEY_FROM == 4u) { return quads_4[at]; }
    return quads_5[at];
}

fn load_value(at: u32) -> vec4<u32> {
    if (VALUE_FROM == 0u) { return quads_0[at]; }
    if (VALUE_FROM == 1u) { return quads_1[at]; }
    if (VALUE_FROM == 2u) { return quads_2[at]; }
    if (VALUE_FROM == 3u) { return quads_3[at]; }
    if (VALUE_FROM == 4u) { return quads_4[at]; }
    return quads_5[at];
}

fn reload_query(at: u32) -> vec4<u32> {
    if (QUERY_TO == 0u) { return quads_0[at]; }
    if (QUERY_TO == 1u) { return quads_1[at]; }
    if (QUERY_TO == 2u) { return quads_2[at]; }
    if (QUERY_TO == 3u) { return quads_3[at]; }
    if (QUERY_TO == 4u) { return quads_4[at]; }
    return quads_5[at];
}

fn reload_key(at: u32) -> vec4<u32> {
    if (KEY_TO == 0u) { return quads_0[at]; }
    if (KEY_TO == 1u) { return quads_1[at]; }
    if (KEY_TO == 2u) { return quads_2[at]; }
    if (KEY_TO == 3u) { return quads_3[at]; }
    if (KEY_TO == 4u) { return quads_4[at]; }
    return quads_5[at];
}

fn reload_value(at: u32) -> vec4<u32> {
    if (VALUE_TO == 0u) { return quads_0[at]; }
    if (VALUE_TO == 1u) { return quads_1[at]; }
    if (VALUE_TO == 2u) { return quads_2[at]; }
    if (VALUE_TO == 3u) { return quads_3[at]; }
    if (VALUE_TO == 4u) { return quads_4[at]; }
    return quads_5[at];
}

fn store_query(at: u32, words: vec4<u32>) {
    if (QUERY_TO == 0u) { quads_0[at] = words; }
    if (QUERY_TO == 1u) { quads_1[at] = words; }
    if (QUERY_TO == 2u) { quads_2[at] = words; }
    if (QUERY_TO == 3u) { quads_3[at] = words; }
    if (QUERY_TO == 4u) { quads_4[at] = words; }
    if (QUERY_TO == 5u) { quads_5[at] = words; }
}

fn store_key(at: u32, words: vec4<u32>) {
    if (KEY_TO == 0u) { quads_0[at] = words; }
    if (KEY_TO == 1u) { quads_1[at] = words; }
    if (KEY_TO == 2u) { quads_2[at] = words; }
    if (KEY_TO == 3u) { quads_3[at] = words; }
    if (KEY_TO == 4u) { quads_4[at] = words; }
    if (KEY_TO == 5u) { quads_5[at] = words; }
}

fn store_value(at: u32, words: vec4<u32>) {
    if (VALUE_TO == 0u) { quads_0[at] = words; }
    if (VALUE_TO == 1u) { quads_1[at] = words; }
    if (VALUE_TO == 2u) { quads_2[at] = words; }
    if (VALUE_TO == 3u) { quads_3[at] = words; }
    if (VALUE_TO == 4u) { quads_4[at] = words; }
    if (VALUE_TO == 5u) { quads_5[at] = words; }
}

fn load(stream: u32, at: u32) -> vec4<u32> {
    if (stream == QUERY) { return load_query(at); }
    if (stream == KEY) { return load_key(at); }
    return load_value(at);
}

/// What is in the destination.
fn reload(stream: u32, at: u32) -> vec4<u32> {
    if (stream == QUERY) { return reload_query(at); }
    if (stream == KEY) { return reload_key(at); }
    return reload_value(at);
}

fn store(stream: u32, at: u32, words: vec4<u32>) {
    if (stream == QUERY) { store_query(at, words); }
    if (stream == KEY) { store_key(at, words); }
    if (stream == VALUE) { store_value(at, words); }
}

/// Eight channels of 16 or 32 bits; those of 16 are in the first four words.
fn octet_of(element: u32, first: vec4<u32>, second: vec4<u32>) -> Octet {
    if (element == F32) {
        return Octet(bitcast<vec4<f32>>(first), bitcast<vec4<f32>>(second));
    }
    let even = widened_from(element, low(first));
    let odd = widened_from(element, high(first));
    return Octet(vec4(even.x, odd.x, even.y, odd.y), vec4(even.z, odd.z, even.w, odd.w));
}

/// From an octet to the next.
fn quads_of(element: u32) -> u32 {
    return select(1u, 2u, element == F32);
}

/// The n-th octet of a head.
fn load_octet(stream: u32, head: u32, n: u32) -> Octet {
    let element = from_type(stream);
    let at = head + n * quads_of(element);
    let first = load(stream, at);
    var second = first;
    if (element == F32) {
        second = load(stream, at + 1u);
    }
    return octet_of(element, first, second);
}

fn reload_octet(stream: u32, head: u32, n: u32) -> Octet {
    let element = to_type(stream);
    let at = head + n * quads_of(element);
    let first = reload(stream, at);
    var second = first;
    if (element == F32) {
        second = reload(stream, at + 1u);
    }
    return octet_of(element, first, second);
}

fn store_octet(stream: u32, head: u32, n: u32, octet: Octet) {
    let element = to_type(stream);
    let at = head + n * quads_of(element);
    let a = bitcast<vec4<u32>>(octet.a);
    let b = bitcast<vec4<u32>>(octet.b);
    if (element == F32) {
        store(stream, at, a);
        store(stream, at + 1u, b);
    } else {
        let even = narrowed_to(element, vec4(a.xz, b.xz));
        let odd = narrowed_to(element, vec4(a.yw, b.yw));
        store(stream, at, joined(even, odd));
    }
}

/// The weights of an octet.
fn weights_of(stream: u32, n: u32) -> Octet {
    if (norm_of(stream) < 2u) {
        return Octet(vec4(1.0), vec4(1.0));
    }
    let first = params.streams[stream].weights;
    var a: vec4<f32>;
    var b: vec4<f32>;
    if (WEIGHTS == F32) {
        let at = first + 8u * n;
        a = bitcast<vec4<f32>>(vec4(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]));
        b = bitcast<vec4<f32>>(vec4(weights[at + 4u], weights[at + 5u], weights[at + 6u], weights[at + 7u]));
    } else {
        let at = first + 4u * n;
        let words = vec4(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]);
        let even = widened_from(WEIGHTS, low(words));
        let odd = widened_from(WEIGHTS, high(words));
        a = vec4(even.x, odd.x, even.y, odd.y);
        b = vec4(even.z, odd.z, even.w, odd.w);
    }
    if (norm_of(stream) == 3u) {
        return Octet(barrier(a + vec4(1.0)), barrier(b + vec4(1.0)));
    }
    return Octet(a, b);
}

fn normalised(stream: u32, octet: Octet, factor: f32, weight: Octet) -> Octet {
    let a = barrier(octet.a * vec4(factor));
    let b = barrier(octet.b * vec4(factor));
    if (norm_of(stream) == 1u) {
        return Octet(a, b);
    }
    return Octet(barrier(a * weight.a), barrier(b * weight.b));
}

/// cos and sin of eight pairs, and which of them are rotated.
struct Turn {
    cos: Octet,
    sin: Octet,
    a: vec4<bool>,
    b: vec4<bool>,
}

/// Four pairs from `pair` on, a multiple of 4, of the row that starts at a word: cos, sin.
fn entries(row: u32, pair: u32) -> Octet {
    let at = (row >> 2u) + (pair >> 1u);
    let r0 = bitcast<vec4<f32>>(rows[at]);
    let r1 = bitcast<vec4<f32>>(rows[at + 1u]);
    return Octet(vec4(r0.xz, r1.xz), vec4(r0.yw, r1.yw));
}

/// Which of four pairs from `pair` on are rotated.
fn turns(pair: u32, cos: vec4<f32>, sin: vec4<f32>) -> vec4<bool> {
    let is_there = vec4(pair) + vec4(0u, 1u, 2u, 3u) < vec4(PAIRS);
    if (KEEP) {
        let differs = ((bitcast<vec4<u32>>(cos) ^ vec4(ONE)) | bitcast<vec4<u32>>(sin)) != vec4(0u);
        return is_there & differs;
    }
    return is_there;
}

/// The turn of a lane's octets.
fn turn_of(row: u32, lane: u32) -> Turn {
    let pair = select(8u * lane, 4u * lane, INTERLEAVED);
    let other = select(pair + 4u, pair + WINDOW / 4u, INTERLEAVED);
    let first = entries(row, pair);
    let second = entries(row, other);
    return Turn(
        Octet(first.a, second.a),
        Octet(first.b, second.b),
        turns(pair, first.a, first.b),
        turns(other, second.a, second.b),
    );
}

struct Octets {
    first: Octet,
    second: Octet,
}

fn rotated(octets: Octets, turn: Turn) -> Octets {
    var x = octets.first;
    var y = octets.second;
    if (INTERLEAVED) {
        x = Octet(vec4(octets.first.a.xz, octets.first.b.xz), vec4(octets.second.a.xz, octets.second.b.xz));
        y = Octet(vec4(octets.first.a.yw, octets.first.b.yw), vec4(octets.second.a.yw, octets.second.b.yw));
    }
    let c = turn.cos;
    let s = turn.sin;
    var xa = barrier(barrier(x.a * c.a) - barrier(y.a * s.a));
    var xb = barrier(barrier(x.b * c.b) - barrier(y.b * s.b));
    var ya = barrier(barrier(x.a * s.a) + barrier(y.a * c.a));
    var yb = barrier(barrier(x.b * s.b) + barrier(y.b * c.b));
    if (KEEP || 2u * PAIRS < WINDOW) {
        xa = select(x.a, xa, turn.a);
        xb = select(x.b, xb, turn.b);
        ya = select(y.a, ya, turn.a);
        yb = select(y.b, yb, turn.b);
    }
    if (INTERLEAVED) {
        return Octets(
            Octet(vec4(xa.x, ya.x, xa.y, ya.y), vec4(xa.z, ya.z, xa.w, ya.w)),
            Octet(vec4(xb.x, yb.x, xb.y, yb.y), vec4(xb.z, yb.z, xb.w, yb.w)),
        );
    }
    return Octets(Octet(xa, xb), Octet(ya, yb));
}

/// The n-th pair of octets of a head. The first WINDOW / 16 hold channels that are rotated with each other, the others are those before and
/// behind the window, in order.
fn octets_of(stream: u32, n: u32) -> vec2<u32> {
    if (!rotates(stream)) {
        // Of a sum, neighbours; without one, those by which neighbouring lanes load and store bytes without gaps.
        return select(vec2(n, n + dim_of(stream) / 16u), vec2(2u * n, 2u * n + 1u), norm_of(stream) > 0u);
    }
    let turning = WINDOW / 16u;
    let before = OFFSET / 8u;
    // At least 1, though nothing comes here where it is less: a constant must not divide by 0.
    let block = max(select(BLOCK / 8u, turning, INTERLEAVED), 1u);
    let first = before + n + n / block * block;
    if (dim_of(stream) == WINDOW) {
        return vec2(first, first + block);
    }
    let rest = 2u * (n - turning);
    let others = vec2(rest, rest + 1u);
    let skipped = select(vec2(0u), vec2(2u * turning), others >= vec2(before));
    return select(others + skipped, vec2(first, first + block), n < turning);
}

/// What a pair of octets takes besides itself.
struct Part {
    octets: vec2<u32>,
    turns: bool,
    turn: Turn,
    weight: Octets,
}

fn part_of(stream: u32, n: u32, row: u32) -> Part {
    var out: Part;
    out.octets = octets_of(stream, n);
    out.weight = Octets(weights_of(stream, out.octets.x), weights_of(stream, out.octets.y));
    if (rotates(stream)) {
        out.turns = dim_of(stream) == WINDOW || n < WINDOW / 16u;
        out.turn = turn_of(row, min(n, max(WINDOW / 16u, 1u) - 1u));
    }
    return out;
}

/// Whether an invocation takes two pairs of octets, of which the far one is half a head behind the near one.
fn takes_two(stream: u32) -> bool {
    return dim_of(stream) == 32u * lanes_of(stream);
}

/// Where an invocation works, in all its rounds.
struct Place {
    lane: u32,
    source: u32,
    destination: u32,
    /// Heads that are there; 0 where the token is nowhere.
    heads: u32,
    near: Part,
    far: Part,
    factor: f32,
}

/// Heads of a stream that a workgroup takes side by side.
fn step_of(stream: u32) -> u32 {
    return WORKGROUP / lanes_of(stream);
}

/// Which of them is an invocation's.
fn slot_of(stream: u32, local: u32) -> u32 {
    if (step_of(stream) == 1u) {
        return 0u;
    }
    return local / lanes_of(stream);
}

fn place_of(stream: u32, grid_token: u32, grid_batch: u32, local: u32) -> Place {
    // What is read for a token that is not there is read for the first.
    let is_there = grid_token < params.tokens && grid_batch < params.batch;
    let token = select(0u, grid_token, is_there);
    let batch = select(0u, grid_batch, is_there);
    let source = spot(params.streams[stream].source, from_slots(stream), token, batch);
    let destination = spot(params.streams[stream].destination, to_slots(stream), token, batch);
    let whole = is_there && local < step_of(stream) * lanes_of(stream);
    let row = params.first_row + batch * params.row_of_batch + token * params.row_of_token;
    var out: Place;
    out.lane = local % lanes_of(stream);
    out.source = source.at;
    out.destination = destination.at;
    out.heads = select(0u, params.streams[stream].heads, whole && source.inside && destination.inside);
    out.near = part_of(stream, out.lane, row * params.row_stride);
    if (takes_two(stream)) {
        out.far = part_of(stream, out.lane + lanes_of(stream), row * params.row_stride);
    }
    if (is_scaled(stream)) {
        out.factor = bitcast<f32>(params.factor);
        if (QUERY_SCALE == 2u) {
            out.factor = bitcast<f32>(table_word(params.scales + 2u * row));
        }
    }
    return out;
}

/// The head of an invocation in a round.
fn head_of(stream: u32, group: u32, round: u32, local: u32) -> u32 {
    return (group * rounds_of(stream) + round) * step_of(stream) + slot_of(stream, local);
}

/// An invocation's part of a head.
struct Share {
    near: Octets,
    far: Octets,
}

fn load_pair(stream: u32, head: u32, octets: vec2<u32>) -> Octets {
    return Octets(load_octet(stream, head, octets.x), load_octet(stream, head, octets.y));
}

fn load_head(stream: u32, place: Place, head: u32) -> Share {
    var out: Share;
    if (head < place.heads) {
        let at = place.source + head * params.streams[stream].source.head_stride;
        out.near = load_pair(stream, at, place.near.octets);
        if (takes_two(stream)) {
            out.far = load_pair(stream, at, place.far.octets);
        }
    }
    return out;
}

/// Pairs of octets of a head, the last of which may be without some channels.
fn pairs_of_octets(stream: u32) -> u32 {
    return (dim_of(stream) + 15u) / 16u;
}

/// Those of the first half, which has the one in the middle.
fn half_of_pairs(stream: u32) -> u32 {
    return (pairs_of_octets(stream) + 1u) / 2u;
}

/// Sums of the squares of pairs of octets, for all heads that a workgroup takes side by side; of two rounds, since those of one are read while
/// those of the next are written.
var<workgroup> sums: array<f32, SUMS>;

/// Where those of an invocation's head begin. They are read by fours, those of each half.
fn sums_of(stream: u32, round: u32, local: u32) -> u32 {
    let is_one = takes_two(stream) || pairs_of_octets(stream) == 1u;
    let fours = (half_of_pairs(stream) + 3u) / 4u * select(2u, 1u, is_one);
    return ((round & 1u) * step_of(stream) + slot_of(stream, local)) * 4u * fours;
}

fn sum_of_pair(octets: Octets) -> f32 {
    return barrier_of_one(sum_of_squares(octets.first) + sum_of_squares(octets.second));
}

/// Tells the other lanes of a head what this one's octets sum up to.
fn share_sum(stream: u32, place: Place, round: u32, local: u32, share: Share) {
    if (local < step_of(stream) * lanes_of(stream)) {
        var sum = sum_of_pair(share.near);
        if (takes_two(stream)) {
            sum = barrier_of_one(sum + sum_of_pair(share.far));
        }
        sums[sums_of(stream, round, local) + place.lane] = sum;
    }
}

fn four_sums(at: u32) -> vec4<f32> {
    return vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
}

/// The sum of a head's pairs of octets, whose sums begin at `first`: those of the second half are added to those of the first, which are
/// added in four chains one after the other, and the chains at last. If `is_folded`, the halves have been added.
fn total(stream: u32, first: u32, is_folded: bool) -> f32 {
    let half = half_of_pairs(stream);
    var chains = vec4(0.0);
    for (var n = 0u; n < half; n += 4u) {
        let pair = vec4(n) + vec4(0u, 1u, 2u, 3u);
        var sum = select(vec4(0.0), four_sums(first + n), pair < vec4(half));
        if (!is_folded && pairs_of_octets(stream) > 1u) {
            let is_there = pair + vec4(half) < vec4(pairs_of_octets(stream));
            sum = barrier(sum + select(vec4(0.0), four_sums(first + half + n), is_there));
        }
        chains = barrier(chains + sum);
    }
    let two = barrier(vec4(chains.xy + chains.zw, 0.0, 0.0));
    return barrier_of_one(two.x + two.y);
}

fn times(octet: Octet, factor: f32) -> Octet {
    return Octet(barrier(octet.a * vec4(factor)), barrier(octet.b * vec4(factor)));
}

fn plus(octet: Octet, other: Octet) -> Octet {
    return Octet(barrier(octet.a + other.a), barrier(octet.b + other.b));
}

/// Normalises, rotates, scales and stores a pair of octets.
fn store_pair(stream: u32, part: Part, head: u32, of_norm: f32, of_query: f32, loaded: Octets) {
    var out = loaded;
    if (norm_of(stream) > 0u) {
        out.first = normalised(stream, out.first, of_norm, part.weight.first);
        out.second = normalised(stream, out.second, of_norm, part.weight.second);
    }
    if (rotates(stream)) {
        let turned = rotated(out, part.turn);
        if (dim_of(stream) == WINDOW) {
            out = turned;
        } else if (part.turns) {
            out = turned;
        }
    }
    if (is_scaled(stream)) {
        out = Octets(times(out.first, of_query), times(out.second, of_query));
    }
    if (adds(stream)) {
        out.first = plus(reload_octet(stream, head, part.octets.x), out.first);
        out.second = plus(reload_octet(stream, head, part.octets.y), out.second);
    }
    store_octet(stream, head, part.octets.x, out.first);
    store_octet(stream, head, part.octets.y, out.second);
}

fn store_head(stream: u32, place: Place, head: u32, round: u32, local: u32, share: Share) {
    if (head >= place.heads) {
        return;
    }
    var of_norm = 1.0;
    if (norm_of(stream) > 0u) {
        of_norm = norm_factor(stream, total(stream, sums_of(stream, round, local), takes_two(stream)));
    }
    let at = place.destination + head * params.streams[stream].destination.head_stride;
    store_pair(stream, place.near, at, of_norm, place.factor, share.near);
    if (takes_two(stream)) {
        store_pair(stream, place.far, at, of_norm, place.factor, share.far);
    }
}

// A workgroup belongs to one stream. The choice is written as loops of which two have no round: drivers that run on a CPU execute
// both sides of an `if` under a mask, but leave a loop that no invocation enters.

@compute @workgroup_size(WORKGROUP)
fn octets(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let keys = params.streams[QUERY].groups;
    let values = keys + params.streams[KEY].groups;
    if (QUERY_DIM > 0u) {
        for (var mine = workgroup.x < keys; mine; mine = false) {
            let place = place_of(QUERY, workgroup.y, workgroup.z, local);
            for (var round = 0u; round < QUERY_ROUNDS; round += 1u) {
                let head = head_of(QUERY, workgroup.x, round, local);
                let loaded = load_head(QUERY, place, head);
                if (QUERY_NORM > 0u) {
                    share_sum(QUERY, place, round, local, loaded);
                    workgroupBarrier();
                }
                store_head(QUERY, place, head, round, local, loaded);
            }
        }
    }
    if (KEY_DIM > 0u) {
        for (var mine = workgroup.x >= keys && workgroup.x < values; mine; mine = false) {
            let place = place_of(KEY, workgroup.y, workgroup.z, local);
            for (var round = 0u; round < KEY_ROUNDS; round += 1u) {
                let head = head_of(KEY, workgroup.x - keys, round, local);
                let loaded = load_head(KEY, place, head);
                if (KEY_NORM > 0u) {
                    share_sum(KEY, place, round, local, loaded);
                    workgroupBarrier();
                }
                store_head(KEY, place, head, round, local, loaded);
            }
        }
    }
    if (VALUE_DIM > 0u) {
        for (var mine = workgroup.x >= values; mine; mine = false) {
            let place = place_of(VALUE, workgroup.y, workgroup.z, local);
            for (var round = 0u; round < VALUE_ROUNDS; round += 1u) {
                let head = head_of(VALUE, workgroup.x - values, round, local);
                let loaded = load_head(VALUE, place, head);
                if (VALUE_NORM > 0u) {
                    share_sum(VALUE, place, round, local, loaded);
                    workgroupBarrier();
                }
                store_head(VALUE, place, head, round, local, loaded);
            }
        }
    }
}

// ---- channels ----

/// The channels of a head as they are read, and as they are written.
var<workgroup> staged: array<f32, STAGED>;
var<workgroup> results: array<f32, STAGED>;
/// The inverse scales of the blocks of a head, bits of f32; and the scales, as they are stored.
var<workgroup> inverses: array<u32, BLOCKS>;
var<workgroup> block_scales: array<u32, BLOCKS>;

fn source_word_of_query(at: u32) -> u32 {
    if (QUERY_FROM == 0u) { return atomicLoad(&words_0[at]); }
    if (QUERY_FROM == 1u) { return atomicLoad(&words_1[at]); }
    if (QUERY_FROM == 2u) { return atomicLoad(&words_2[at]); }
    if (QUERY_FROM == 3u) { return atomicLoad(&words_3[at]); }
    if (QUERY_FROM == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn source_word_of_key(at: u32) -> u32 {
    if (KEY_FROM == 0u) { return atomicLoad(&words_0[at]); }
    if (KEY_FROM == 1u) { return atomicLoad(&words_1[at]); }
    if (KEY_FROM == 2u) { return atomicLoad(&words_2[at]); }
    if (KEY_FROM == 3u) { return atomicLoad(&words_3[at]); }
    if (KEY_FROM == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn source_word_of_value(at: u32) -> u32 {
    if (VALUE_FROM == 0u) { return atomicLoad(&words_0[at]); }
    if (VALUE_FROM == 1u) { return atomicLoad(&words_1[at]); }
    if (VALUE_FROM == 2u) { return atomicLoad(&words_2[at]); }
    if (VALUE_FROM == 3u) { return atomicLoad(&words_3[at]); }
    if (VALUE_FROM == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn source_word(stream: u32, at: u32) -> u32 {
    if (stream == QUERY) { return source_word_of_query(at); }
    if (stream == KEY) { return source_word_of_key(at); }
    return source_word_of_value(at);
}

fn destination_word_of_query(at: u32) -> u32 {
    if (QUERY_TO == 0u) { return atomicLoad(&words_0[at]); }
    if (QUERY_TO == 1u) { return atomicLoad(&words_1[at]); }
    if (QUERY_TO == 2u) { return atomicLoad(&words_2[at]); }
    if (QUERY_TO == 3u) { return atomicLoad(&words_3[at]); }
    if (QUERY_TO == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn destination_word_of_key(at: u32) -> u32 {
    if (KEY_TO == 0u) { return atomicLoad(&words_0[at]); }
    if (KEY_TO == 1u) { return atomicLoad(&words_1[at]); }
    if (KEY_TO == 2u) { return atomicLoad(&words_2[at]); }
    if (KEY_TO == 3u) { return atomicLoad(&words_3[at]); }
    if (KEY_TO == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn destination_word_of_value(at: u32) -> u32 {
    if (VALUE_TO == 0u) { return atomicLoad(&words_0[at]); }
    if (VALUE_TO == 1u) { return atomicLoad(&words_1[at]); }
    if (VALUE_TO == 2u) { return atomicLoad(&words_2[at]); }
    if (VALUE_TO == 3u) { return atomicLoad(&words_3[at]); }
    if (VALUE_TO == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn destination_word(stream: u32, at: u32) -> u32 {
    if (stream == QUERY) { return destination_word_of_query(at); }
    if (stream == KEY) { return destination_word_of_key(at); }
    return destination_word_of_value(at);
}

fn put_destination_of_query(at: u32, word: u32) {
    if (QUERY_TO == 0u) { atomicStore(&words_0[at], word); }
    if (QUERY_TO == 1u) { atomicStore(&words_1[at], word); }
    if (QUERY_TO == 2u) { atomicStore(&words_2[at], word); }
    if (QUERY_TO == 3u) { atomicStore(&words_3[at], word); }
    if (QUERY_TO == 4u) { atomicStore(&words_4[at], word); }
    if (QUERY_TO == 5u) { atomicStore(&words_5[at], word); }
}

fn put_destination_of_key(at: u32, word: u32) {
    if (KEY_TO == 0u) { atomicStore(&words_0[at], word); }
    if (KEY_TO == 1u) { atomicStore(&words_1[at], word); }
    if (KEY_TO == 2u) { atomicStore(&words_2[at], word); }
    if (KEY_TO == 3u) { atomicStore(&words_3[at], word); }
    if (KEY_TO == 4u) { atomicStore(&words_4[at], word); }
    if (KEY_TO == 5u) { atomicStore(&words_5[at], word); }
}

fn put_destination_of_value(at: u32, word: u32) {
    if (VALUE_TO == 0u) { atomicStore(&words_0[at], word); }
    if (VALUE_TO == 1u) { atomicStore(&words_1[at], word); }
    if (VALUE_TO == 2u) { atomicStore(&words_2[at], word); }
    if (VALUE_TO == 3u) { atomicStore(&words_3[at], word); }
    if (VALUE_TO == 4u) { atomicStore(&words_4[at], word); }
    if (VALUE_TO == 5u) { atomicStore(&words_5[at], word); }
}

fn put_destination(stream: u32, at: u32, word: u32) {
    if (stream == QUERY) { put_destination_of_query(at, word); }
    if (stream == KEY) { put_destination_of_key(at, word); }
    if (stream == VALUE) { put_destination_of_value(at, word); }
}

fn keep_destination_of_query(at: u32, word: u32) {
    if (QUERY_TO == 0u) { atomicAnd(&words_0[at], word); }
    if (QUERY_TO == 1u) { atomicAnd(&words_1[at], word); }
    if (QUERY_TO == 2u) { atomicAnd(&words_2[at], word); }
    if (QUERY_TO == 3u) { atomicAnd(&words_3[at], word); }
    if (QUERY_TO == 4u) { atomicAnd(&words_4[at], word); }
    if (QUERY_TO == 5u) { atomicAnd(&words_5[at], word); }
}

fn keep_destination_of_key(at: u32, word: u32) {
    if (KEY_TO == 0u) { atomicAnd(&words_0[at], word); }
    if (KEY_TO == 1u) { atomicAnd(&words_1[at], word); }
    if (KEY_TO == 2u) { atomicAnd(&words_2[at], word); }
    if (KEY_TO == 3u) { atomicAnd(&words_3[at], word); }
    if (KEY_TO == 4u) { atomicAnd(&words_4[at], word); }
    if (KEY_TO == 5u) { atomicAnd(&words_5[at], word); }
}

fn keep_destination_of_value(at: u32, word: u32) {
    if (VALUE_TO == 0u) { atomicAnd(&words_0[at], word); }
    if (VALUE_TO == 1u) { atomicAnd(&words_1[at], word); }
    if (VALUE_TO == 2u) { atomicAnd(&words_2[at], word); }
    if (VALUE_TO == 3u) { atomicAnd(&words_3[at], word); }
    if (VALUE_TO == 4u) { atomicAnd(&words_4[at], word); }
    if (VALUE_TO == 5u) { atomicAnd(&words_5[at], word); }
}

/// Keeps the bits of a mask.
fn keep_destination(stream: u32, at: u32, word: u32) {
    if (stream == QUERY) { keep_destination_of_query(at, word); }
    if (stream == KEY) { keep_destination_of_key(at, word); }
    if (stream == VALUE) { keep_destination_of_value(at, word); }
}

fn set_destination_of_query(at: u32, word: u32) {
    if (QUERY_TO == 0u) { atomicOr(&words_0[at], word); }
    if (QUERY_TO == 1u) { atomicOr(&words_1[at], word); }
    if (QUERY_TO == 2u) { atomicOr(&words_2[at], word); }
    if (QUERY_TO == 3u) { atomicOr(&words_3[at], word); }
    if (QUERY_TO == 4u) { atomicOr(&words_4[at], word); }
    if (QUERY_TO == 5u) { atomicOr(&words_5[at], word); }
}

fn set_destination_of_key(at: u32, word: u32) {
    if (KEY_TO == 0u) { atomicOr(&words_0[at], word); }
    if (KEY_TO == 1u) { atomicOr(&words_1[at], word); }
    if (KEY_TO == 2u) { atomicOr(&words_2[at], word); }
    if (KEY_TO == 3u) { atomicOr(&words_3[at], word); }
    if (KEY_TO == 4u) { atomicOr(&words_4[at], word); }
    if (KEY_TO == 5u) { atomicOr(&words_5[at], word); }
}

fn set_destination_of_value(at: u32, word: u32) {
    if (VALUE_TO == 0u) { atomicOr(&words_0[at], word); }
    if (VALUE_TO == 1u) { atomicOr(&words_1[at], word); }
    if (VALUE_TO == 2u) { atomicOr(&words_2[at], word); }
    if (VALUE_TO == 3u) { atomicOr(&words_3[at], word); }
    if (VALUE_TO == 4u) { atomicOr(&words_4[at], word); }
    if (VALUE_TO == 5u) { atomicOr(&words_5[at], word); }
}

/// Sets bits.
fn set_destination(stream: u32, at: u32, word: u32) {
    if (stream == QUERY) { set_destination_of_query(at, word); }
    if (stream == KEY) { set_destination_of_key(at, word); }
    if (stream == VALUE) { set_destination_of_value(at, word); }
}

fn source_scale_word_of_query(at: u32) -> u32 {
    if (QUERY_FROM_SCALES == 0u) { return atomicLoad(&words_0[at]); }
    if (QUERY_FROM_SCALES == 1u) { return atomicLoad(&words_1[at]); }
    if (QUERY_FROM_SCALES == 2u) { return atomicLoad(&words_2[at]); }
    if (QUERY_FROM_SCALES == 3u) { return atomicLoad(&words_3[at]); }
    if (QUERY_FROM_SCALES == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn source_scale_word_of_key(at: u32) -> u32 {
    if (KEY_FROM_SCALES == 0u) { return atomicLoad(&words_0[at]); }
    if (KEY_FROM_SCALES == 1u) { return atomicLoad(&words_1[at]); }
    if (KEY_FROM_SCALES == 2u) { return atomicLoad(&words_2[at]); }
    if (KEY_FROM_SCALES == 3u) { return atomicLoad(&words_3[at]); }
    if (KEY_FROM_SCALES == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn source_scale_word_of_value(at: u32) -> u32 {
    if (VALUE_FROM_SCALES == 0u) { return atomicLoad(&words_0[at]); }
    if (VALUE_FROM_SCALES == 1u) { return atomicLoad(&words_1[at]); }
    if (VALUE_FROM_SCALES == 2u) { return atomicLoad(&words_2[at]); }
    if (VALUE_FROM_SCALES == 3u) { return atomicLoad(&words_3[at]); }
    if (VALUE_FROM_SCALES == 4u) { return atomicLoad(&words_4[at]); }
    return atomicLoad(&words_5[at]);
}

fn source_scale_word(stream: u32, at: u32) -> u32 {
    if (stream == QUERY) { return source_scale_word_of_query(at); }
    if (stream == KEY) { return source_scale_word_of_key(at); }
    return source_scale_word_of_value(at);
}

fn put_destination_scale_of_query(at: u32, word: u32) {
    if (QUERY_TO_SCALES == 0u) { atomicStore(&words_0[at], word); }
    if (QUERY_TO_SCALES == 1u) { atomicStore(&words_1[at], word); }
    if (QUERY_TO_SCALES == 2u) { atomicStore(&words_2[at], word); }
    if (QUERY_TO_SCALES == 3u) { atomicStore(&words_3[at], word); }
    if (QUERY_TO_SCALES == 4u) { atomicStore(&words_4[at], word); }
    if (QUERY_TO_SCALES == 5u) { atomicStore(&words_5[at], word); }
}

fn put_destination_scale_of_key(at: u32, word: u32) {
    if (KEY_TO_SCALES == 0u) { atomicStore(&words_0[at], word); }
    if (KEY_TO_SCALES == 1u) { atomicStore(&words_1[at], word); }
    if (KEY_TO_SCALES == 2u) { atomicStore(&words_2[at], word); }
    if (KEY_TO_SCALES == 3u) { atomicStore(&words_3[at], word); }
    if (KEY_TO_SCALES == 4u) { atomicStore(&words_4[at], word); }
    if (KEY_TO_SCALES == 5u) { atomicStore(&words_5[at], word); }
}

fn put_destination_scale_of_value(at: u32, word: u32) {
    if (VALUE_TO_SCALES == 0u) { atomicStore(&words_0[at], word); }
    if (VALUE_TO_SCALES == 1u) { atomicStore(&words_1[at], word); }
    if (VALUE_TO_SCALES == 2u) { atomicStore(&words_2[at], word); }
    if (VALUE_TO_SCALES == 3u) { atomicStore(&words_3[at], word); }
    if (VALUE_TO_SCALES == 4u) { atomicStore(&words_4[at], word); }
    if (VALUE_TO_SCALES == 5u) { atomicStore(&words_5[at], word); }
}

fn put_destination_scale(stream: u32, at: u32, word: u32) {
    if (stream == QUERY) { put_destination_scale_of_query(at, word); }
    if (stream == KEY) { put_destination_scale_of_key(at, word); }
    if (stream == VALUE) { put_destination_scale_of_value(at, word); }
}

/// Units of a type are what nobody else writes a part of: words, halves or bytes. Their number is a power of two of those in a word.
fn units_of_word(element: u32) -> u32 {
    return select(select(2u, 4u, element == INT8), 1u, element == F32);
}

/// The bits of a unit of the source, or of the destination, in the low end.
fn load_unit(stream: u32, is_source: bool, element: u32, at: u32) -> u32 {
    let per = units_of_word(element);
    let bits = 32u / per;
    var word: u32;
    if (is_source) {
        word = source_word(stream, at / per);
    } else {
        word = destination_word(stream, at / per);
    }
    return (word >> (at % per * bits)) & (0xffffffffu >> (32u - bits));
}

/// Writes units of a word: those of a mask, which has a bit for each of the word's bits.
fn store_units(stream: u32, at: u32, word: u32, mask: u32) {
    if (mask == 0xffffffffu) {
        put_destination(stream, at, word);
    } else if (mask != 0u) {
        keep_destination(stream, at, ~mask);
        set_destination(stream, at, word & mask);
    }
}

/// The first unit of a tensor's channel. Blocks of 32 channels are 17 halves: a scale and 32 bytes.
fn unit_of(element: u32, channel: u32) -> u32 {
    if (element == Q8_0) {
        return channel / 32u * 17u;
    }
    return channel;
}

fn one_widened(element: u32, bits: u32) -> f32 {
    return widened_from(element, vec4(bits)).x;
}

/// A byte of the low end, with its sign.
fn signed_byte(bits: u32) -> i32 {
    return bitcast<i32>(bits << 24u) >> 24u;
}

/// Where a head stands, counted in channels, behind which base; and in a tensor of int8 which scale is its own.
struct Slice {
    at: u32,
    base: u32,
    scale: u32,
}

/// A channel of the source, which counts in channels; `scale` is that of int8.
fn load_channel(stream: u32, slice: Slice, channel: u32, scale: f32) -> f32 {
    let element = from_type(stream);
    let at = slice.at + channel;
    // One unit whatever the type, so that there is one load.
    var unit = at;
    if (element == Q8_0) {
        unit = slice.base + unit_of(Q8_0, at) + 1u + at % 32u / 2u;
    }
    let bits = load_unit(stream, true, element, unit);
    if (element == F32) {
        return bitcast<f32>(bits);
    }
    if (element == INT8) {
        return barrier_of_one(f32(signed_byte(bits)) * scale);
    }
    if (element == Q8_0) {
        let delta = one_widened(F16, load_unit(stream, true, Q8_0, slice.base + unit_of(Q8_0, at)));
        return barrier_of_one(f32(signed_byte(bits >> (8u * (at & 1u)))) * delta);
    }
    return one_widened(element, bits);
}

/// A channel of the destination, of a floating-point type.
fn reload_channel(stream: u32, at: u32) -> f32 {
    let bits = load_unit(stream, false, to_type(stream), at);
    if (to_type(stream) == F32) {
        return bitcast<f32>(bits);
    }
    return one_widened(to_type(stream), bits);
}

fn weight_of(stream: u32, head: u32, channel: u32) -> f32 {
    let n = select(channel, head * dim_of(stream) + channel, WHOLE);
    let first = params.streams[stream].weights;
    var weight: f32;
    if (WEIGHTS == F32) {
        weight = bitcast<f32>(weights[first + n]);
    } else {
        weight = one_widened(WEIGHTS, (weights[first + n / 2u] >> (16u * (n & 1u))) & 0xffffu);
    }
    if (norm_of(stream) == 3u) {
        return barrier_of_one(weight + 1.0);
    }
    return weight;
}

/// A staged channel after the norm.
fn normal_channel(stream: u32, head: u32, channel: u32, factor: f32) -> f32 {
    let value = staged[channel];
    if (norm_of(stream) == 0u) {
        return value;
    }
    let normal = barrier_of_one(value * factor);
    if (norm_of(stream) == 1u) {
        return normal;
    }
    return barrier_of_one(normal * weight_of(stream, head, channel));
}

/// A channel of a head after norm and rotation.
fn turned_channel(stream: u32, head: u32, channel: u32, factor: f32, row: u32) -> f32 {
    if (!rotates(stream) || channel < OFFSET || channel >= OFFSET + WINDOW) {
        return normal_channel(stream, head, channel, factor);
    }
    let at = channel - OFFSET;
    let within = at % (2u * BLOCK);
    var pair = at / (2u * BLOCK) * BLOCK + within % BLOCK;
    var is_y = within >= BLOCK;
    if (WRITES_INTERLEAVED) {
        pair = at >> 1u;
        is_y = (at & 1u) == 1u;
    }
    var x_at = pair + pair / BLOCK * BLOCK;
    var y_at = x_at + BLOCK;
    if (INTERLEAVED) {
        x_at = 2u * pair;
        y_at = x_at + 1u;
    }
    let x = normal_channel(stream, head, OFFSET + x_at, factor);
    let y = normal_channel(stream, head, OFFSET + y_at, factor);
    let entry = row + 2u * min(pair, PAIRS - 1u);
    let c = table_word(entry);
    let s = table_word(entry + 1u);
    if (pair >= PAIRS || (KEEP && c == ONE && s == 0u)) {
        return select(x, y, is_y);
    }
    // x cos - y sin, or x sin + y cos. Changing the sign of a factor changes the sign of the product and no other bit.
    let of_x = bitcast<f32>(select(c, s, is_y));
    let of_y = bitcast<f32>(select(s ^ 0x80000000u, c, is_y));
    return barrier_of_one(barrier_of_one(x * of_x) + barrier_of_one(y * of_y));
}

/// The square of a staged channel; 0 behind the head.
fn square_of(stream: u32, channel: u32) -> f32 {
    if (channel >= dim_of(stream)) {
        return 0.0;
    }
    return staged[channel] * staged[channel];
}

/// As sum_of_squares.
fn sum_of_octet(stream: u32, n: u32) -> f32 {
    let c = 8u * n;
    let a = vec4(square_of(stream, c), square_of(stream, c + 1u), square_of(stream, c + 2u), square_of(stream, c + 3u));
    let b = vec4(square_of(stream, c + 4u), square_of(stream, c + 5u), square_of(stream, c + 6u), square_of(stream, c + 7u));
    let four = barrier(barrier(a) + barrier(b));
    let two = barrier(vec4(four.xy + four.zw, 0.0, 0.0));
    return barrier_of_one(two.x + two.y);
}

/// Shares sums of the squares of pairs of octets: those that entry point octets adds, where there are such.
fn share_channel_sums(stream: u32, local: u32) {
    for (var n = local; n < pairs_of_octets(stream); n += WORKGROUP) {
        var pair = vec2(2u * n, 2u * n + 1u);
        if (PAIRED) {
            pair = octets_of(stream, n);
        }
        sums[n] = barrier_of_one(sum_of_octet(stream, pair.x) + sum_of_octet(stream, pair.y));
    }
}

fn slice_of(stream: u32, tensor: Tensor, spot: Spot, head: u32) -> Slice {
    let at = spot.at + head * tensor.head_stride;
    return Slice(at, tensor.base, tensor.base + (at - tensor.first) / dim_of(stream));
}

fn stage(stream: u32, slice: Slice, inside: bool, local: u32) {
    var scale = 0.0;
    if (inside && from_type(stream) == INT8) {
        scale = bitcast<f32>(source_scale_word(stream, slice.scale));
    }
    for (var c = local; c < dim_of(stream); c += WORKGROUP) {
        var value = 0.0;
        if (inside) {
            value = load_channel(stream, slice, c, scale);
        }
        staged[c] = value;
    }
}

/// A quantised value: the nearest whole number to the quotient, halves away from 0.
fn quantised(value: f32, inverse: u32) -> u32 {
    if (inverse == 0u) {
        return 0u;
    }
    let quotient = barrier_of_one(value * bitcast<f32>(inverse));
    let whole = i32(clamp(quotient, -127.0, 127.0));
    let rest = abs(quotient - f32(whole));
    let away = select(1, -1, quotient < 0.0);
    return bitcast<u32>(clamp(select(whole, whole + away, rest >= 0.5), -127, 127)) & 0xffu;
}

/// Channels that share a scale.
fn block_of(stream: u32) -> u32 {
    return select(dim_of(stream), 32u, to_type(stream) == Q8_0);
}

/// The scale of each block of results, as it is stored, and its inverse. A block with a value that is not finite has that for a scale, and
/// zeros.
fn share_scales(stream: u32, local: u32) {
    let block = block_of(stream);
    for (var n = local; n < dim_of(stream) / block; n += WORKGROUP) {
        var most = 0u;
        for (var c = n * block; c < (n + 1u) * block; c += 1u) {
            most = max(most, bitcast<u32>(results[c]) & 0x7fffffffu);
        }
        // most / 127
        var scale = divided(most, 0x42fe0000u);
        var inverse = 0u;
        if (scale > 0u) {
            inverse = divided(ONE, scale);
        }
        if (most >= 0x7f800000u) {
            scale = most;
            inverse = 0u;
        }
        if (to_type(stream) == Q8_0) {
            scale = narrowed_to(F16, vec4(scale)).x;
        }
        block_scales[n] = scale;
        inverses[n] = inverse;
    }
}

/// The n-th unit of a head as it is stored.
fn unit_bits(stream: u32, n: u32) -> u32 {
    let element = to_type(stream);
    if (element == F32) {
        return bitcast<u32>(results[n]);
    }
    if (element == INT8) {
        return quantised(results[n], inverses[0]);
    }
    if (element == Q8_0) {
        let block = n / 17u;
        let within = n % 17u;
        if (within == 0u) {
            return block_scales[block];
        }
        let c = 32u * block + 2u * (within - 1u);
        return quantised(results[c], inverses[block]) | (quantised(results[c + 1u], inverses[block]) << 8u);
    }
    return narrowed_to(element, vec4(bitcast<u32>(results[n]))).x;
}

fn store_results(stream: u32, slice: Slice, local: u32) {
    let element = to_type(stream);
    let per = units_of_word(element);
    let bits = 32u / per;
    let unit = 0xffffffffu >> (32u - bits);
    let stride = params.streams[stream].channel_stride;
    if (stride != 1u) {
        for (var c = local; c < dim_of(stream); c += WORKGROUP) {
            let at = slice.at + c * stride;
            let shift = at % per * bits;
            store_units(stream, at / per, unit_bits(stream, c) << shift, unit << shift);
        }
    } else {
        let first = unit_of(element, slice.at) + select(0u, slice.base, element == Q8_0);
        let count = unit_of(element, dim_of(stream));
        // Words, counted, since their units might not fit u32.
        let first_word = first / per;
        let words = (first % per + count + per - 1u) / per;
        for (var i_word = local; i_word < words; i_word += WORKGROUP) {
            let w = first_word + i_word;
            var word = 0u;
            var mask = 0u;
            for (var i = 0u; i < per; i += 1u) {
                // One before the first is a large one.
                let n = w * per + i - first;
                if (n < count) {
                    word |= unit_bits(stream, n) << (i * bits);
                    mask |= unit << (i * bits);
                }
            }
            store_units(stream, w, word, mask);
        }
    }
    if (element == INT8 && local == 0u) {
        put_destination_scale(stream, slice.scale, block_scales[0]);
    }
}

/// A head, or all of a token's where its norm is over all of them. No invocation leaves before the others: all meet at the barriers.
fn take_heads(stream: u32, group: u32, grid_token: u32, grid_batch: u32, local: u32) {
    let source = params.streams[stream].source;
    let destination = params.streams[stream].destination;
    let is_there = grid_token < params.tokens && grid_batch < params.batch;
    let token = select(0u, grid_token, is_there);
    let batch = select(0u, grid_batch, is_there);
    let read = spot(source, from_slots(stream), token, batch);
    let written = spot(destination, to_slots(stream), token, batch);
    // One workgroup takes all heads where the norm is over all.
    let inside = is_there && read.inside && written.inside && group < params.streams[stream].groups;
    let row = params.first_row + batch * params.row_of_batch + token * params.row_of_token;
    let row_word = row * params.row_stride;
    let whole = WHOLE && norm_of(stream) > 0u;
    let first = select(group, 0u, whole);
    let end = select(group + 1u, params.streams[stream].heads, whole);
    var factor = 1.0;
    if (whole) {
        var sum = 0.0;
        for (var head = first; head < end; head += 1u) {
            stage(stream, slice_of(stream, source, read, head), inside, local);
            workgroupBarrier();
            share_channel_sums(stream, local);
            workgroupBarrier();
            sum = barrier_of_one(sum + total(stream, 0u, false));
        }
        factor = norm_factor(stream, sum);
    }
    for (var head = first; head < end; head += 1u) {
        stage(stream, slice_of(stream, source, read, head), inside, local);
        workgroupBarrier();
        if (!WHOLE && norm_of(stream) > 0u) {
            share_channel_sums(stream, local);
            workgroupBarrier();
            factor = norm_factor(stream, total(stream, 0u, false));
        }
        let slice = slice_of(stream, destination, written, head);
        for (var c = local; c < dim_of(stream); c += WORKGROUP) {
            var value = turned_channel(stream, head, c, factor, row_word);
            if (is_scaled(stream)) {
                var scale = params.factor;
                if (QUERY_SCALE == 2u) {
                    scale = table_word(params.scales + 2u * row);
                }
                value = barrier_of_one(value * bitcast<f32>(scale));
            }
            if (adds(stream) && inside) {
                let at = slice.at + c * params.streams[stream].channel_stride;
                value = barrier_of_one(reload_channel(stream, at) + value);
            }
            results[c] = value;
        }
        workgroupBarrier();
        if (to_type(stream) >= Q8_0) {
            share_scales(stream, local);
            workgroupBarrier();
        }
        if (inside) {
            store_results(stream, slice, local);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn channels(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let keys = params.streams[QUERY].groups;
    let values = keys + params.streams[KEY].groups;
    if (QUERY_DIM > 0u) {
        for (var mine = workgroup.x < keys; mine; mine = false) {
            take_heads(QUERY, workgroup.x, workgroup.y, workgroup.z, local);
        }
    }
    if (KEY_DIM > 0u) {
        for (var mine = workgroup.x >= keys && workgroup.x < values; mine; mine = false) {
            take_heads(KEY, workgroup.x - keys, workgroup.y, workgroup.z, local);
        }
    }
    if (VALUE_DIM > 0u) {
        for (var mine = workgroup.x >= values; mine; mine = false) {
            take_heads(VALUE, workgroup.x - values, workgroup.y, workgroup.z, local);
        }
    }
}
