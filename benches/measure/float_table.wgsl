// float_table.wgsl: a cos/sin table as most projects make it: f32 angle, the driver's cos and sin.
//
// Bindings (group 0): 0 inverse frequencies, storage, read; 1 table, storage, read_write, rows of (cos, sin).
// Override constants: START position of row 0.
// Grid: x = pairs, y and z = rows.

override START: u32 = 0u;

@group(0) @binding(0) var<storage, read> inv_freq: array<f32>;
@group(0) @binding(1) var<storage, read_write> table: array<vec2<f32>>;

@compute @workgroup_size(64)
fn fill(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) pair: u32,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let row = workgroup.z * grid.y + workgroup.y;
    let at = row * arrayLength(&inv_freq) + pair;
    if (pair < arrayLength(&inv_freq) && at < arrayLength(&table)) {
        let angle = f32(START + row) * inv_freq[pair];
        table[at] = vec2(cos(angle), sin(angle));
    }
}
