//! What other kernels are measured against: a plain in-place pass over the same tensors, and a table made with the driver's
//! own sin and cos. Shared by the benches and the quickstart.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a helper module, of which each user takes a part"
)]

use std::time::{Duration, Instant};

use wgpu_rope::{GpuContext, Result, RopeError};

/// A dispatch of a pipeline that is not the crate's.
#[derive(Debug)]
pub struct Plain {
    pub name: String,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [u32; 3],
}

impl Plain {
    pub fn new(
        context: &GpuContext,
        name: impl Into<String>,
        text: &str,
        constants: &[(&str, f64)],
        buffers: &[&wgpu::Buffer],
        grid: [u32; 3],
    ) -> Self {
        let (name, device) = (name.into(), context.device());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&name),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self {
            name,
            pipeline,
            group,
            grid,
        }
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.grid;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// In-place passes over two tensors in several shapes; the fastest of them is the floor.
pub fn floors(context: &GpuContext, first: &wgpu::Buffer, second: &wgpu::Buffer) -> Vec<Plain> {
    let text = include_str!("floor.wgsl");
    let words = (first.size() + second.size()) / 16;
    [(256, 1), (64, 4), (256, 4), (64, 8)]
        .map(|(workgroup, per): (u32, u32)| {
            let groups = words.div_ceil(u64::from(workgroup * per));
            let x = groups.min(32_768);
            let grid = [x, groups.div_ceil(x)].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            Plain::new(
                context,
                format!("in-place pass, {per} x 16 bytes, {workgroup} invocations"),
                text,
                &[("WORKGROUP", workgroup.into()), ("PER", per.into())],
                &[first, second],
                [grid[0], grid[1], 1],
            )
        })
        .into()
}

/// A table of positions from `start` on (at most 64 pairs a row) with f32 angles and the driver's sin and cos.
pub fn float_table(
    context: &GpuContext,
    inv_freq: impl IntoIterator<Item = f64>,
    start: u32,
    rows: u32,
) -> Result<(Plain, wgpu::Buffer)> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "f32 angles are what is measured"
    )]
    let inv_freq: Vec<f32> = inv_freq.into_iter().map(|w| w as f32).collect();
    let entries = inv_freq.len() as u64 * u64::from(rows);
    let frequencies = context.upload(&inv_freq, wgpu::BufferUsages::empty())?;
    let table = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("float table"),
        size: entries * 8,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let y = rows.min(32_768);
    let plain = Plain::new(
        context,
        "table with the driver's sin and cos",
        include_str!("float_table.wgsl"),
        &[("START", start.into())],
        &[&frequencies, &table],
        [1, y, rows.div_ceil(y)],
    );
    Ok((plain, table))
}

/// Something that can be recorded.
pub type Record<'a> = &'a dyn Fn(&mut wgpu::ComputePass<'_>) -> Result<()>;

/// Wall time of `repeats` recordings in one submission, divided by them.
pub fn timed(context: &GpuContext, repeats: u32, record: Record<'_>) -> Result<Duration> {
    context.wait()?;
    let start = Instant::now();
    context.run(|pass| (0..repeats).try_for_each(|_| record(pass)))?;
    context.wait()?;
    Ok(start.elapsed() / repeats)
}

/// Medians of several candidates, measured in turn so that a change of the machine's pace meets all alike.
pub fn medians(
    context: &GpuContext,
    rounds: usize,
    candidates: &[Record<'_>],
) -> Result<Vec<Duration>> {
    let mut times = vec![Vec::new(); candidates.len()];
    for round in 0..=rounds {
        for (record, times) in candidates.iter().zip(&mut times) {
            let time = timed(context, 1, record)?;
            // The first round warms up.
            if round > 0 {
                times.push(time);
            }
        }
    }
    times
        .into_iter()
        .map(|mut times| {
            times.sort_unstable();
            times.get(times.len() / 2).copied().ok_or(RopeError::Count {
                operand: "rounds",
                rule: "must be at least 1".into(),
                got: 0,
            })
        })
        .collect()
}
