// y[t] = silu(gate[t]) * up[t], with silu(z) = z / (1 + exp(-z)); gate and up are the halves of a row.
//
// Bindings: 1 gate and up [tokens, 2 * CHANNELS], 2 y [tokens, CHANNELS].
// Grid: x covers the channels, y is the token.

override CHANNELS: u32;

@group(0) @binding(1) var<storage, read> gate_up: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn swiglu(@builtin(global_invocation_id) id: vec3u) {
    let channel = id.x;
    let token = id.y;
    if channel >= CHANNELS || token >= step.tokens {
        return;
    }
    let gate = gate_up[2u * token * CHANNELS + channel];
    let up = gate_up[(2u * token + 1u) * CHANNELS + channel];
    y[token * CHANNELS + channel] = gate / (1.0 + exp(-gate)) * up;
}
