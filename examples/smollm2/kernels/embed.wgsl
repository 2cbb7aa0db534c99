// x[t] = embedding[ids[t]].
//
// Bindings: 1 ids [tokens], 2 the embedding as matmul.wgsl has weights, 3 x [tokens, CHANNELS].
// Grid: x covers the channels, y is the token.

override CHANNELS: u32;
override QUADS: u32; // tokens of the vocabulary, in fours
override WIDTH: u32; // texels of a line

@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var weights: texture_2d<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn embed(@builtin(global_invocation_id) id: vec3u) {
    let channel = id.x;
    let token = id.y;
    if channel >= CHANNELS || token >= step.tokens {
        return;
    }
    // The host has checked that ids are in the vocabulary; a texel that is not there reads as zero or another one.
    let at = channel * QUADS + ids[token] / 4u;
    x[token * CHANNELS + channel] = textureLoad(weights, vec2u(at % WIDTH, at / WIDTH), 0)[ids[token] % 4u];
}
