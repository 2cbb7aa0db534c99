//! Linear attention with RoPE (RoFormer, section 3.3, equation 19): a rotation leaves lengths as they are, so it goes with feature maps,
//! and a sum over all keys is also a running state. Both in one pass of the example's own, with the crate's rotation between.

use std::path::Path;

use plotters::prelude::*;
use wgpu_rope::{
    ElementType, Frequencies, GpuContext, HeadLayout, Operands, Positions, RopeConfig, RopePlan,
    RotateSpec, TableSpec, wgpu,
};

use crate::*;

const TOKENS: u32 = 256;
/// Channels, as in the shader.
const DIM: u32 = 64;
/// Values of a tensor.
const SIZE: usize = (TOKENS * DIM) as usize;
/// The position of the first token: nothing depends on it.
const START: i32 = 1_000_000;

/// The shader's nine tensors behind each other, from the first three.
fn run(gpu: &GpuContext, config: &RopeConfig, inputs: &[f32]) -> Outcome<Vec<f32>> {
    let (device, kernel) = (gpu.device(), gpu.kernel());
    let mut tensors = inputs.to_vec();
    tensors.resize(9 * SIZE, 0.0);
    let tensors = gpu.upload(&tensors, wgpu::BufferUsages::empty())?;
    let tensor = |at: u64| tensors.slice(at * SIZE as u64 * 4..(at + 1) * SIZE as u64 * 4);

    let table = kernel.table(&TableSpec::new(&Frequencies::new(config)?), TOKENS)?;
    let fill = table.bind_positions(Positions::From(START))?;
    let layout = HeadLayout::bshd(TOKENS, 1, DIM);
    let spec = RotateSpec::new(config, 1, TOKENS, layout, ElementType::F32)
        .with_key(layout, ElementType::F32);
    let prepared = kernel.prepare(&RopePlan::new(&spec, kernel.limits())?)?;
    let rotation = prepared.bind(&Operands::new(tensor(5)).with_key(tensor(6)), &table)?;

    let module = device.create_shader_module(wgpu::include_wgsl!("linear.wgsl"));
    let own = |entry_point: &str| {
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry_point),
            layout: None,
            module: &module,
            entry_point: Some(entry_point),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[("TOKENS", TOKENS.into())],
                ..Default::default()
            },
            cache: None,
        });
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(entry_point),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: tensors.as_entire_binding(),
            }],
        });
        move |pass: &mut wgpu::ComputePass<'_>, workgroups: u32| {
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(workgroups, 1, 1);
        }
    };
    let (maps, sum, state) = (
        own("feature_maps"),
        own("sum_over_keys"),
        own("running_state"),
    );

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        maps(&mut pass, TOKENS);
        fill.record(&mut pass, TOKENS)?;
        rotation.record(&mut pass, TOKENS)?;
        sum(&mut pass, TOKENS);
        state(&mut pass, 1);
    }
    gpu.queue().submit([encoder.finish()]);
    Ok(gpu.read_blocking(&tensors, 9 * SIZE)?)
}

/// For each output what it is in f64, from the features that the GPU made, and how far it may be off.
///
/// A term of a numerator is rounded at most DIM + TOKENS + 2 times in either form: two products, a sum over channels, one over tokens; no
/// term of a denominator more often. A division adds 2.5 ulp, which are 5 `UNIT`. All are parts of the sum of |R q| |R k| |v| over the
/// denominator, |R q| |R k| in lengths of pairs; the rotation adds its own. Fused products and other orders of a sum round no more often.
fn oracle(config: &RopeConfig, tensors: &[f32]) -> Outcome<Vec<[f64; 2]>> {
    let frequencies = Frequencies::new(config)?;
    let rows = |tensor: usize| tensors[tensor * SIZE..][..SIZE].chunks_exact(DIM as usize);
    let times = 2.0 * f64::from(DIM + TOKENS + 2) + 5.0;
    let mut made = Vec::with_capacity(SIZE);
    for (m, query) in rows(3).enumerate() {
        let (mut sums, mut denominator) = ([[0.0; 2]; DIM as usize], 0.0);
        for (n, (key, value)) in rows(4).zip(rows(2)).enumerate().take(m + 1) {
            let both = [query, key];
            let score = truth(&frequencies, both, i32::try_from(m - n)?);
            let bound = rounding(both) + times * UNIT * SLACK * lengths(both).sum::<f64>();
            denominator += dot(query, key);
            for (sum, value) in sums.iter_mut().zip(value.iter().copied().map(f64::from)) {
                *sum = [sum[0] + score * value, sum[1] + bound * value.abs()];
            }
        }
        made.extend(sums.map(|both| both.map(|sum| sum / denominator)));
    }
    Ok(made)
}

pub(crate) fn show(gpu: &GpuContext, plots: Option<&Path>) -> Outcome<bool> {
    let config = RopeConfig::new(DIM);
    let inputs = random(6, 3 * SIZE);
    let tensors = run(gpu, &config, &inputs)?;
    println!("linear: causal linear attention with RoPE, {TOKENS} tokens from position {START} on");

    // WGSL allows exp 3 + 2 |x| ulp, and an ulp is at most 2 UNIT of the value; x + 1 is rounded once.
    let maps = inputs
        .iter()
        .zip(&tensors[3 * SIZE..5 * SIZE])
        .map(|(&x, &made)| {
            let (x, units) = (f64::from(x), 6.0 + 4.0 * f64::from(x).abs());
            let (phi, units) = if x > 0.0 {
                (x + 1.0, 1.0)
            } else {
                (x.exp(), units)
            };
            (f64::from(made) - phi).abs() / (units * UNIT * SLACK * phi)
        });
    let mut holds = within(
        "error of elu(x) + 1, in parts of its bound",
        largest(maps),
        1.0,
    );

    let expected = oracle(&config, &tensors)?;
    // The largest of each token; a logarithm takes no 0.
    let line = |values: &[f64]| {
        let tokens = values.chunks_exact(DIM as usize);
        let most = tokens.map(|token| largest(token.iter().copied()).max(1e-9));
        (0_u32..).map(f64::from).zip(most).collect::<Vec<_>>()
    };
    let bounds: Vec<_> = expected.iter().map(|[_, bound]| *bound).collect();
    let mut lines = vec![("derived bound", BLACK, line(&bounds))];
    let forms = [("sum over keys", RED), ("running state", BLUE)];
    for ((form, colour), outputs) in forms
        .into_iter()
        .zip(tensors[7 * SIZE..].chunks_exact(SIZE))
    {
        let both = outputs.iter().zip(&expected);
        let errors = both.map(|(&made, [truth, _])| (f64::from(made) - truth).abs());
        let errors: Vec<_> = errors.collect();
        println!(
            "  {form}: largest error {:.1e}",
            largest(errors.iter().copied())
        );
        let parts = errors
            .iter()
            .zip(&bounds)
            .map(|(error, bound)| error / bound);
        holds &= within("in parts of its bound", largest(parts), 1.0);
        lines.push((form, colour, line(&errors)));
    }

    plot::draw(
        plots,
        ("linear", "Linear attention with RoPE: error against f64"),
        ["token", "largest error of an output"],
        (0.0..f64::from(TOKENS), (1e-9..1e-3).log_scale()),
        lines,
    )?;
    Ok(holds)
}
