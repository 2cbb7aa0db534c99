// Causal attention over the cache: y[t, h] = sum over tokens j of softmax(SCALE * q[t, h] . k[j, h / GROUP]) * v[j, h / GROUP],
// with j from the oldest token in the cache to t itself. A workgroup makes a head of a token, 64 tokens j at a time; what it has summed is
// scaled down when a larger score turns up (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018).
//
// Bindings: 1 q, rows of QUERY_STRIDE with the heads in front; 2 k and 3 v of the cache, [capacity, heads / GROUP, HEAD_DIM];
// 4 y [tokens, heads, HEAD_DIM].
// Grid: x is the head, y the token.

override HEAD_DIM: u32; // at most 256, a multiple of 4
override GROUP: u32;    // query heads that share a key head
override KEY_HEADS: u32;
override CAPACITY: u32; // slots of the cache
override SCALE: f32;    // 1 / sqrt(HEAD_DIM), and what the model's RoPE puts beside it
override QUERY_STRIDE: u32;
override PARTS: u32 = (HEAD_DIM + 63u) / 64u; // channels of a head that an invocation has

@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> k: array<vec4f>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

var<workgroup> scores: array<f32, 64>;
var<workgroup> largest: f32;

@compute @workgroup_size(64)
fn attention(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
    let head = group.x;
    let token = group.y;
    let key_head = head / GROUP;
    let query = (token * QUERY_STRIDE + head * HEAD_DIM) / 4u;
    let end = step.first + token + 1u;

    var before = -3.4e38; // the largest score of earlier tokens
    var total = 0.0;
    // Channels lane, lane + 64, … of the head.
    var sums: array<f32, 4>;
    for (var start = step.oldest; start < end; start += 64u) {
        let count = min(64u, end - start);
        if lane < count {
            let key = ((start + lane) % CAPACITY * KEY_HEADS + key_head) * HEAD_DIM / 4u;
            var score = 0.0;
            for (var c = 0u; c < HEAD_DIM / 4u; c++) {
                score += dot(q[query + c], k[key + c]);
            }
            scores[lane] = score * SCALE;
        }
        workgroupBarrier();
        if lane == 0u {
            largest = before;
            for (var j = 0u; j < count; j++) {
                largest = max(largest, scores[j]);
            }
        }
        workgroupBarrier();
        let scale = exp(before - largest);
        before = largest;
        if lane < count {
            scores[lane] = exp(scores[lane] - before);
        }
        workgroupBarrier();

        total *= scale;
        for (var c = 0u; c < PARTS; c++) {
            sums[c] *= scale;
        }
        for (var j = 0u; j < count; j++) {
            let share = scores[j];
            total += share;
            let value = ((start + j) % CAPACITY * KEY_HEADS + key_head) * HEAD_DIM;
            for (var c = 0u; c < PARTS; c++) {
                // A channel past the head is another's, and is not stored.
                sums[c] += share * v[value + lane + 64u * c];
            }
        }
        // Scores are overwritten next.
        workgroupBarrier();
    }
    for (var c = 0u; c < PARTS; c++) {
        if lane + 64u * c < HEAD_DIM {
            y[(token * groups.x + head) * HEAD_DIM + lane + 64u * c] = sums[c] / total;
        }
    }
}
