//! What is plain: in-place passes, and a table with the driver's own sin and cos.

use std::num::NonZero;

use wgpu_rope::{GpuContext, Result};

use super::clock::Candidate;

/// Dispatches of a pipeline that is not the crate's, on one set of buffers or several.
#[derive(Debug)]
pub struct Plain {
    pub name: String,
    pipeline: wgpu::ComputePipeline,
    groups: Vec<wgpu::BindGroup>,
    grid: [u32; 3],
}

/// Bytes of a buffer.
pub type Slice<'a> = wgpu::BufferSlice<'a>;

impl Plain {
    pub fn new(
        context: &GpuContext,
        name: impl Into<String>,
        text: &str,
        constants: &[(&str, f64)],
        sets: &[Vec<Slice<'_>>],
        grid: [u32; 3],
    ) -> Self {
        Self::of_entry(context, name, text, None, constants, sets, grid)
    }

    /// The same for one of several entry points.
    pub fn of_entry(
        context: &GpuContext,
        name: impl Into<String>,
        text: &str,
        entry_point: Option<&str>,
        constants: &[(&str, f64)],
        sets: &[Vec<Slice<'_>>],
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
            entry_point,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        let layout = pipeline.get_bind_group_layout(0);
        let group = |slices: &Vec<Slice<'_>>| {
            let entries: Vec<_> = (0..)
                .zip(slices)
                .map(|(binding, slice)| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: slice.buffer(),
                        offset: slice.offset(),
                        size: NonZero::new(slice.size()),
                    }),
                })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&name),
                layout: &layout,
                entries: &entries,
            })
        };
        let groups = sets.iter().map(group).collect();
        Self {
            name,
            pipeline,
            groups,
            grid,
        }
    }

    pub fn candidate(&self) -> Candidate<'_> {
        Candidate::new(&self.name, |pass, n| {
            self.record(pass, n);
            Ok(())
        })
    }

    /// Records one dispatch: that of the n-th set of buffers, from the first again behind the last.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, n: u32) {
        let [x, y, z] = self.grid;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.groups[n as usize % self.groups.len()], &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// In-place passes over pairs of tensors of the same sizes, in several shapes; the fastest of them is the floor. They change `window` bytes of
/// every `stride`; both, and the sizes, are multiples of 16.
pub fn floors(
    context: &GpuContext,
    sets: &[[Slice<'_>; 2]],
    window: u64,
    stride: u64,
) -> Vec<Plain> {
    let text = include_str!("floor.wgsl");
    let [first, second] = sets.first().map_or([0, 0], |set| {
        set.map(|slice| slice.size() / stride * window / 16)
    });
    let sets: Vec<_> = sets.iter().map(|set| set.to_vec()).collect();
    let whole = |wide: u64| u32::try_from(wide).unwrap_or(u32::MAX);
    [(64, 1), (256, 1), (64, 4), (256, 4), (64, 16)]
        .into_iter()
        .flat_map(|(workgroup, per)| [1, 4].map(|at_once| (workgroup, per, at_once)))
        .filter(|&(workgroup, per, at_once)| {
            // Several words an invocation only where that leaves none over: every shape passes over everything.
            let group = u64::from(workgroup * per);
            let is_whole = first.is_multiple_of(group) && second.is_multiple_of(group);
            at_once <= per && (per == 1 || is_whole)
        })
        .map(|(workgroup, per, at_once): (u32, u32, u32)| {
            let groups = (first + second).div_ceil(u64::from(workgroup * per));
            let x = groups.min(32_768);
            Plain::new(
                context,
                format!(
                    "in-place pass, {per} x 16 bytes, {at_once} at once, {workgroup} invocations"
                ),
                text,
                &[
                    ("WORKGROUP", workgroup.into()),
                    ("PER", per.into()),
                    ("AT_ONCE", at_once.into()),
                    ("WINDOW", whole(window / 16).into()),
                    ("STRIDE", whole(stride / 16).into()),
                ],
                &sets,
                [whole(x), whole(groups.div_ceil(x)), 1],
            )
        })
        .collect()
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
        &[vec![frequencies.slice(..), table.slice(..)]],
        [1, y, rows.div_ceil(y)],
    );
    Ok((plain, table))
}
