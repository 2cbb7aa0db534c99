//! How an application embeds the crate: its own device, one buffer that all its tensors are sub-allocated from, its own encoder, and a
//! pass that holds its own dispatches before and after the rotation. The crate submits nothing.
//!
//! `cargo run --release --example embed`
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;

use wgpu_rope::wgpu;
use wgpu_rope::{
    ElementType, Frequencies, HeadLayout, KernelOptions, Operands, Positions, RopeConfig,
    RopeKernel, RopePlan, RotateSpec, TableSpec, reference,
};

const TOKENS: u32 = 256;
const HEADS: u32 = 8;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 64;

/// The application's own kernel, here one that scales a tensor.
const SCALE: &str = "
    override FACTOR: f32;
    @group(0) @binding(0) var<storage, read_write> x: array<f32>;
    @compute @workgroup_size(64) fn scale(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x < arrayLength(&x)) { x[id.x] = x[id.x] * FACTOR; }
    }";

fn main() -> Result<(), Box<dyn Error>> {
    pollster::block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let config = RopeConfig::new(HEAD_DIM).with_theta(500_000.0);
    let table_spec = TableSpec::new(&Frequencies::new(&config)?);

    // The application asks for a device. What this crate needs can be had before there is one.
    let instance =
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = instance
        .request_adapter(&wgpu::RequestAdapterOptions::default())
        .await?;
    println!(
        "on {} ({})",
        adapter.get_info().name,
        adapter.get_info().backend
    );
    let own_needs = wgpu::Limits::downlevel_defaults();
    let (device, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            label: Some("application"),
            required_features: RopeKernel::required_features(),
            required_limits: RopeKernel::required_limits(&table_spec, TOKENS)
                .or_better_values_from(&own_needs)
                .or_worse_values_from(&adapter.limits()),
            ..Default::default()
        })
        .await?;

    // One buffer for everything, as a pooled allocator has it: [.. Q .. K ..]. Q and K start wherever there is room.
    let query_bytes = u64::from(TOKENS * HEADS * HEAD_DIM) * 4;
    let key_bytes = u64::from(TOKENS * KV_HEADS * HEAD_DIM) * 4;
    let (query_at, key_at) = (1024, 1024 + query_bytes + 512);
    let pool = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("pool"),
        size: key_at + key_bytes + 256,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let query: Vec<f32> = (0..query_bytes / 4)
        .map(|i| (i % 97) as f32 / 97.0 - 0.5)
        .collect();
    let key: Vec<f32> = (0..key_bytes / 4)
        .map(|i| (i % 89) as f32 / 89.0 - 0.5)
        .collect();
    queue.write_buffer(&pool, query_at, bytemuck::cast_slice(&query));
    queue.write_buffer(&pool, key_at, bytemuck::cast_slice(&key));

    // Once for the device; once for the model; once for the shape.
    let kernel = RopeKernel::new(&device, &KernelOptions::default())?;
    let table = kernel.table(&table_spec, TOKENS)?;
    let fill = table.bind_positions(Positions::From(0))?;
    let spec = RotateSpec::new(
        &config,
        1,
        TOKENS,
        HeadLayout::bshd(TOKENS, HEADS, HEAD_DIM),
        ElementType::F32,
    )
    .with_key(
        HeadLayout::bshd(TOKENS, KV_HEADS, HEAD_DIM),
        ElementType::F32,
    );
    let prepared = kernel.prepare(&RopePlan::new(&spec, kernel.limits())?)?;
    // Once for each place of the tensors.
    let rotation = prepared.bind(
        &Operands::new(pool.slice(query_at..)).with_key(pool.slice(key_at..)),
        &table,
    )?;

    // The application's own dispatches on the query.
    let scale = |factor: f64| {
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("scale"),
            layout: None,
            module: &device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some("scale"),
                source: wgpu::ShaderSource::Wgsl(SCALE.into()),
            }),
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[("FACTOR", factor)],
                ..Default::default()
            },
            cache: None,
        });
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("scale"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &pool,
                    offset: query_at,
                    size: std::num::NonZero::new(query_bytes),
                }),
            }],
        });
        (pipeline, group)
    };
    let (before, after) = (scale(2.0), scale(0.125));
    let groups = (TOKENS * HEADS * HEAD_DIM).div_ceil(64);

    // The application's encoder, one pass, one submission: its own.
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor {
        label: Some("layer"),
    });
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let own = |pass: &mut wgpu::ComputePass<'_>,
                   (pipeline, group): &(wgpu::ComputePipeline, wgpu::BindGroup)| {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(groups, 1, 1);
        };
        own(&mut pass, &before);
        fill.record(&mut pass, TOKENS)?;
        rotation.record(&mut pass, TOKENS)?;
        own(&mut pass, &after);
    }
    let staging = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("read-back"),
        size: pool.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    encoder.copy_buffer_to_buffer(&pool, 0, &staging, 0, pool.size());
    queue.submit([encoder.finish()]);

    // The same on the CPU: multiplications by powers of two are exact, so all bits have to be equal.
    let mut expected_query: Vec<f32> = query.iter().map(|x| x * 2.0).collect();
    let mut expected_key = key;
    let positions: Vec<_> = (0..TOKENS.try_into()?).collect();
    let rows = reference::table(&table_spec, (&positions).into())?;
    reference::rotate(&spec, &rows, &mut expected_query, Some(&mut expected_key))?;
    expected_query.iter_mut().for_each(|x| *x *= 0.125);

    staging.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let mapped = staging.get_mapped_range(..)?;
    let part = |at: u64, bytes: u64| -> Result<Vec<f32>, Box<dyn Error>> {
        Ok(bytemuck::pod_collect_to_vec(
            &mapped[usize::try_from(at)?..usize::try_from(at + bytes)?],
        ))
    };
    let equal =
        part(query_at, query_bytes)? == expected_query && part(key_at, key_bytes)? == expected_key;
    println!(
        "4 dispatches in one pass of the application, Q and K in one buffer: bits equal to the CPU: {equal}"
    );
    if equal {
        Ok(())
    } else {
        Err("bits differ from the CPU's".into())
    }
}
