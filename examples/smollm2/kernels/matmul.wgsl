// y[t, n] = sum over k of x[t, k] * weights[n, k], added to y where ADD is set. An invocation makes four rows n for TILE tokens, so that
// what is loaded serves several products.
//
// Bindings: 1 x [tokens, 4 * COLUMNS], 2 weights, 3 y [tokens, 4 * QUADS].
// Weights are a texture of WIDTH texels a line, to be read by number: texel k * QUADS + q holds weights[4q .. 4q + 4, k], so that
// neighbours load from neighbours. A texture may be larger than a storage buffer may be, and software drivers load texels far faster.
// Grid: x covers the rows in fours, y the tiles. x has room for whole tiles; rows beyond `tokens` are loaded and not stored.

override COLUMNS: u32; // groups of four input channels
override QUADS: u32;   // groups of four output channels
override WIDTH: u32;   // texels of a line
override TILE: u32;    // tokens an invocation, at most 8
override ADD: bool = false;

@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var weights: texture_2d<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

fn four_rows(quad: u32, k: u32) -> vec4f {
    let at = k * QUADS + quad;
    return textureLoad(weights, vec2u(at % WIDTH, at / WIDTH), 0);
}

@compute @workgroup_size(32)
fn matmul(@builtin(global_invocation_id) id: vec3u) {
    let quad = id.x;
    let first = id.y * TILE;
    if quad >= QUADS {
        return;
    }
    var sums: array<vec4f, 8>;
    for (var c = 0u; c < COLUMNS; c++) {
        let w0 = four_rows(quad, 4u * c);
        let w1 = four_rows(quad, 4u * c + 1u);
        let w2 = four_rows(quad, 4u * c + 2u);
        let w3 = four_rows(quad, 4u * c + 3u);
        for (var t = 0u; t < TILE; t++) {
            let values = x[(first + t) * COLUMNS + c];
            sums[t] += values.x * w0 + values.y * w1 + values.z * w2 + values.w * w3;
        }
    }
    for (var t = 0u; t < TILE; t++) {
        if first + t < step.tokens {
            let at = (first + t) * QUADS + quad;
            y[at] = select(vec4f(0.0), y[at], ADD) + sums[t];
        }
    }
}
