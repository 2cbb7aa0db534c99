// Causal linear attention with RoPE, one head: token m gets
//     sum over n <= m of (R_m phi(q_m)) . (R_n phi(k_n)) v_n  /  sum over n <= m of phi(q_m) . phi(k_n)
// with phi(x) = elu(x) + 1 and R_m the rotation of position m (Su et al., RoFormer, 2021, section 3.3, equation 19): the numerator is
// rotated, the denominator is not, so that it stays positive.
//
// Binding
//   0  tensors [9, TOKENS, DIM] f32: q, k, v; phi(q), phi(k); both again, rotated in place between `feature_maps` and the rest; outputs of
//      the sum over keys, and of the running state
// Constant
//   TOKENS  tokens of the sequence
// Grids, in workgroups of an invocation for each channel
//   feature_maps, sum_over_keys  a workgroup for each token
//   running_state                one workgroup

const DIM = 64u;
const Q = 0u; const K = 1u; const V = 2u;
const PHI_Q = 3u; const PHI_K = 4u;
const ROTATED_Q = 5u; const ROTATED_K = 6u;
const SUM = 7u; const STATE = 8u;
override TOKENS: u32;

@group(0) @binding(0) var<storage, read_write> tensors: array<f32>;

fn at(tensor: u32, token: u32, channel: u32) -> u32 {
    return (tensor * TOKENS + token) * DIM + channel;
}

fn phi(x: f32) -> f32 {
    return select(exp(min(x, 0.0)), x + 1.0, x > 0.0);
}

@compute @workgroup_size(DIM)
fn feature_maps(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) channel: u32) {
    let m = group.x;
    let query = phi(tensors[at(Q, m, channel)]);
    let key = phi(tensors[at(K, m, channel)]);
    tensors[at(PHI_Q, m, channel)] = query;
    tensors[at(PHI_K, m, channel)] = key;
    tensors[at(ROTATED_Q, m, channel)] = query;
    tensors[at(ROTATED_K, m, channel)] = key;
}

@compute @workgroup_size(DIM)
fn sum_over_keys(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) channel: u32) {
    let m = group.x;
    var numerator = 0.0;
    var denominator = 0.0;
    for (var n = 0u; n <= m; n++) {
        var score = 0.0;
        for (var j = 0u; j < DIM; j++) {
            score += tensors[at(ROTATED_Q, m, j)] * tensors[at(ROTATED_K, n, j)];
            denominator += tensors[at(PHI_Q, m, j)] * tensors[at(PHI_K, n, j)];
        }
        numerator += score * tensors[at(V, n, channel)];
    }
    tensors[at(SUM, m, channel)] = numerator / denominator;
}

@compute @workgroup_size(DIM)
fn running_state(@builtin(local_invocation_index) channel: u32) {
    // One column of the sum of (R_n phi(k_n)) v_n^T, and the sum of phi(k_n): all that is kept of the past.
    var state: array<f32, DIM>;
    var keys: array<f32, DIM>;
    for (var m = 0u; m < TOKENS; m++) {
        let value = tensors[at(V, m, channel)];
        var numerator = 0.0;
        var denominator = 0.0;
        for (var j = 0u; j < DIM; j++) {
            state[j] += tensors[at(ROTATED_K, m, j)] * value;
            keys[j] += tensors[at(PHI_K, m, j)];
            numerator += tensors[at(ROTATED_Q, m, j)] * state[j];
            denominator += tensors[at(PHI_Q, m, j)] * keys[j];
        }
        tensors[at(STATE, m, channel)] = numerator / denominator;
    }
}
