//! Recording allocates nothing beyond what the same wgpu calls, made by hand in this test, allocate.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use common::{CONTEXTS, NO_USAGE, name};
use wgpu_rope::{
    ElementType, Frequencies, HeadLayout, Operands, Positions, RopeConfig, RopePlan, RotateSpec,
    TableSpec,
};

const LAYERS: usize = 64;

/// A pipeline of the application that has the bindings of a rotation.
fn by_hand(
    device: &wgpu::Device,
    buffers: &[wgpu::Buffer; 4],
) -> (wgpu::ComputePipeline, wgpu::BindGroup) {
    let text = "@group(0) @binding(0) var<uniform> p: vec4<u32>;
        @group(0) @binding(1) var<storage, read> rows: array<u32>;
        @group(0) @binding(2) var<storage, read_write> q: array<u32>;
        @group(0) @binding(3) var<storage, read_write> k: array<u32>;
        @compute @workgroup_size(1) fn main() { q[0] = p.x; k[0] = rows[0]; }";
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        }),
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let entries: Vec<_> = (0..4)
        .map(|binding| wgpu::BindGroupEntry {
            binding,
            resource: buffers[binding as usize].as_entire_binding(),
        })
        .collect();
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    (pipeline, group)
}

/// Allocations and bytes of a recording, the pass not ended.
fn counted(
    context: &wgpu_rope::GpuContext,
    record: impl Fn(&mut wgpu::ComputePass<'_>),
) -> (u64, u64) {
    let mut encoder = context.device().create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    let info = allocation_counter::measure(|| record(&mut pass));
    (info.count_total, info.bytes_total)
}

#[test]
fn recording_allocates_what_wgpu_does_and_no_more() {
    let config = RopeConfig::new(128);
    let (query, key) = (HeadLayout::bshd(1, 32, 128), HeadLayout::bshd(1, 8, 128));
    let spec =
        RotateSpec::new(&config, 1, 1, query, ElementType::F32).with_key(key, ElementType::F32);
    for context in &*CONTEXTS {
        let kernel = context.kernel();
        let table = kernel
            .table(&TableSpec::new(&Frequencies::new(&config).unwrap()), 1)
            .unwrap();
        let start = context.upload(&[7], NO_USAGE).unwrap();
        let fill = table
            .bind_positions(Positions::Start(start.slice(..)))
            .unwrap();
        let q = context
            .upload(&vec![1.0_f32; 32 * 128], wgpu::BufferUsages::UNIFORM)
            .unwrap();
        let k = context.upload(&vec![1.0_f32; 8 * 128], NO_USAGE).unwrap();
        let other = context
            .upload(&[0_u32; 64], wgpu::BufferUsages::UNIFORM)
            .unwrap();
        let dispatch = kernel
            .prepare(&RopePlan::new(&spec, kernel.limits()).unwrap())
            .unwrap()
            .bind(&Operands::new(q.slice(..)).with_key(k.slice(..)), &table)
            .unwrap();
        let (pipeline, group) = by_hand(context.device(), &[other, table.buffer().clone(), q, k]);
        // A fill and 64 layers. Twice, so that what wgpu keeps from one recording to the next is there.
        for _ in 0..2 {
            let own = counted(context, |pass| {
                fill.record(pass, 1).unwrap();
                for _ in 0..LAYERS {
                    dispatch.record(pass, 1).unwrap();
                }
            });
            let bare = counted(context, |pass| {
                for _ in 0..=LAYERS {
                    pass.set_pipeline(&pipeline);
                    pass.set_bind_group(0, &group, &[]);
                    pass.dispatch_workgroups(1, 1, 1);
                }
            });
            eprintln!(
                "{}: {own:?} allocations and bytes, by hand {bare:?}",
                name(context)
            );
            assert_eq!(own, bare, "{}", name(context));
            assert!(bare.0 > 0, "nothing was counted");
        }
    }
}
