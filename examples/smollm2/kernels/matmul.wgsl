// y[t, n] = sum over k of x[t, k] * weights[n, k], added to y where ADD is set. An invocation makes eight rows n for TILE tokens, so that
// what is loaded serves several products.
//
// Bindings: 1 x [tokens, 4 * COLUMNS], 2 weights, 3 y [tokens, 4 * QUADS].
// Weights are a texture of WIDTH texels a line, to be read by number: texel k * QUADS + q holds weights[4q .. 4q + 4, k], so that
// neighbours load from neighbours. A texture may be larger than a storage buffer may be, and software drivers load texels far faster.
// Grid: x covers the rows in eights (quads q and q + ceil(QUADS / 2)), y the tiles. x has room for whole tiles; rows beyond `tokens` are
// loaded and not stored.

override COLUMNS: u32; // groups of four input channels
override QUADS: u32;   // groups of four output channels
override WIDTH: u32;   // texels of a line
override TILE: u32;    // tokens an invocation, at most 8
override ADD: bool = false;

@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var weights: texture_2d<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

fn texel(number: u32) -> vec4f {
    return textureLoad(weights, vec2u(number % WIDTH, number / WIDTH), 0);
}

/// Of both quads. Where QUADS is odd the last invocation's second quad is another's, and is not stored.
fn eight_rows(quad: u32, k: u32) -> mat2x4f {
    return mat2x4f(texel(k * QUADS + quad), texel(k * QUADS + quad + (QUADS + 1u) / 2u));
}

@compute @workgroup_size(32)
fn matmul(@builtin(global_invocation_id) id: vec3u) {
    let half = (QUADS + 1u) / 2u;
    let quad = id.x;
    let first = id.y * TILE;
    if quad >= half {
        return;
    }
    var sums: array<mat2x4f, 8>;
    for (var c = 0u; c < COLUMNS; c++) {
        let w0 = eight_rows(quad, 4u * c);
        let w1 = eight_rows(quad, 4u * c + 1u);
        let w2 = eight_rows(quad, 4u * c + 2u);
        let w3 = eight_rows(quad, 4u * c + 3u);
        for (var t = 0u; t < TILE; t++) {
            let values = x[(first + t) * COLUMNS + c];
            sums[t] += values.x * w0 + values.y * w1 + values.z * w2 + values.w * w3;
        }
    }
    for (var t = 0u; t < TILE; t++) {
        for (var part = 0u; part < 2u; part++) {
            let own = quad + part * half;
            if first + t < step.tokens && own < QUADS {
                let at = (first + t) * QUADS + own;
                y[at] = select(vec4f(0.0), y[at], ADD) + sums[t][part];
            }
        }
    }
}
