//! The application's own device and kernels.

use std::iter;

use wgpu_rope::{GpuContext, RopeKernel, TableSpec, checked, wgpu};

use crate::file::Result;

/// Tokens that an invocation of `matmul.wgsl` makes at once where there are several.
pub(crate) const TILE: u32 = 8;

/// Texels of a line of weights: the width that every WebGPU device has.
pub(crate) const WIDTH: u32 = 8192;

/// What this machine has: `gpu`, `software` (but for OpenGL's) or `none`. The example `adapters` says the same by `--probe`.
pub(crate) fn kind() -> &'static str {
    let adapters = pollster::block_on(GpuContext::adapters());
    let is_gpu = |adapter: &wgpu::Adapter| adapter.get_info().device_type != wgpu::DeviceType::Cpu;
    let is_gl = |adapter: &wgpu::Adapter| adapter.get_info().backend == wgpu::Backend::Gl;
    if adapters.iter().any(is_gpu) {
        "gpu"
    } else if adapters.iter().any(|adapter| !is_gl(adapter)) {
        "software"
    } else {
        "none"
    }
}

/// Does something with a device. What wgpu reports meanwhile, such as being out of memory, is an error, before any of `make`'s own, which
/// may follow from it: by default wgpu would end the program.
pub(crate) fn watched<T>(device: &wgpu::Device, make: impl FnOnce() -> Result<T>) -> Result<T> {
    pollster::block_on(checked(device, || Ok(make())))?
}

/// A device, and what all dispatches share.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) info: wgpu::AdapterInfo,
    /// What a step is about: see `step.wgsl`. The crate reads positions and slots from the same words.
    pub(crate) step: wgpu::Buffer,
}

impl Gpu {
    /// A device with what the crate needs, and buffers and textures as large as the adapter has them.
    pub(crate) fn new(table: &TableSpec, rows: u32) -> Result<Self> {
        let mut instance = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        // Drivers that promise more memory than there is would have the system end this program, which says nothing.
        instance.memory_budget_thresholds.for_resource_creation = Some(95);
        let instance = wgpu::Instance::new(instance);
        let adapter = pollster::block_on(wgpu::util::initialize_adapter_from_env_or_default(
            &instance, None,
        ))?;
        let most = adapter.limits();
        let own = wgpu::Limits {
            max_buffer_size: most.max_buffer_size,
            max_storage_buffer_binding_size: most.max_storage_buffer_binding_size,
            max_texture_dimension_2d: most.max_texture_dimension_2d,
            ..wgpu::Limits::downlevel_defaults()
        };
        let (device, queue) = pollster::block_on(
            adapter.request_device(&wgpu::DeviceDescriptor {
                label: Some("smollm2"),
                required_features: RopeKernel::required_features(),
                required_limits: RopeKernel::required_limits(table, rows)
                    .or_better_values_from(&own)
                    .or_worse_values_from(&most),
                ..Default::default()
            }),
        )?;
        let step = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("step"),
            size: 16,
            usage: wgpu::BufferUsages::UNIFORM
                | wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Ok(Self {
            info: adapter.get_info(),
            device,
            queue,
            step,
        })
    }

    /// A buffer of values of 4 bytes, zeroes to begin with.
    pub(crate) fn buffer(&self, label: &str, values: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: values * 4,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// A buffer in which the host reads what was copied from this one.
    pub(crate) fn staging(&self, of: &wgpu::Buffer) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: of.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Waits for a submission, or for the last one.
    pub(crate) fn wait(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        self.device.poll(wgpu::PollType::Wait {
            submission_index,
            timeout: None,
        })?;
        Ok(())
    }

    pub(crate) fn upload(&self, label: &str, values: &[f32]) -> wgpu::Buffer {
        let buffer = self.buffer(label, values.len() as u64);
        self.queue
            .write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        buffer
    }

    /// Weights `[inputs, rows]`, as `matmul.wgsl` has them.
    pub(crate) fn upload_weights(
        &self,
        label: &str,
        mut values: Vec<f32>,
    ) -> Result<wgpu::TextureView> {
        let height = values.len().div_ceil(4 * WIDTH as usize);
        // The last line is written in full.
        values.resize(height * 4 * WIDTH as usize, 0.0);
        let height = u32::try_from(height)?;
        let most = self.device.limits().max_texture_dimension_2d;
        if WIDTH > most || height > most {
            return Err(format!(
                "{label} needs a texture of {WIDTH} x {height}; this device allows {most} each way"
            )
            .into());
        }
        let size = wgpu::Extent3d {
            width: WIDTH,
            height,
            depth_or_array_layers: 1,
        };
        let texture = self.device.create_texture(&wgpu::TextureDescriptor {
            label: Some(label),
            size,
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba32Float,
            usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        });
        let layout = wgpu::TexelCopyBufferLayout {
            offset: 0,
            bytes_per_row: Some(WIDTH * 16),
            rows_per_image: None,
        };
        let bytes = bytemuck::cast_slice(&values);
        self.queue
            .write_texture(texture.as_image_copy(), bytes, layout, size);
        // wgpu holds a copy until there is a submission: no more than one tensor at a time.
        self.queue.submit([]);
        Ok(texture.create_view(&wgpu::TextureViewDescriptor::default()))
    }

    /// A kernel, for one token at a time and, where it is tiled, for [`TILE`] as well. Its bindings stand behind the step.
    pub(crate) fn kernel(
        &self,
        name: &str,
        wgsl: &str,
        bindings: &[Binding],
        constants: &[(&str, f64)],
        is_tiled: bool,
    ) -> Kernel {
        let device = &self.device;
        let step = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let types = iter::once(step).chain(bindings.iter().map(Binding::ty));
        let entries: Vec<_> = (0..)
            .zip(types)
            .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty,
                count: None,
            })
            .collect();
        let group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(name),
            entries: &entries,
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&group)],
            ..Default::default()
        });
        let text = [include_str!("../kernels/step.wgsl"), wgsl].concat();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let pipeline = |tile: u32| {
            let mut constants = constants.to_vec();
            if is_tiled {
                constants.push(("TILE", tile.into()));
            }
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&layout),
                module: &module,
                entry_point: None,
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    ..Default::default()
                },
                cache: None,
            })
        };
        Kernel {
            name: name.to_owned(),
            group,
            one: pipeline(1),
            tile: is_tiled.then(|| pipeline(TILE)),
        }
    }
}

/// What a kernel binds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Binding {
    /// A storage buffer that is read.
    Read,
    /// A storage buffer that is written.
    Write,
    /// A texture of weights.
    Weights,
}

impl Binding {
    fn ty(&self) -> wgpu::BindingType {
        let storage = |read_only| wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        match self {
            Self::Read => storage(true),
            Self::Write => storage(false),
            Self::Weights => wgpu::BindingType::Texture {
                sample_type: wgpu::TextureSampleType::Float { filterable: false },
                view_dimension: wgpu::TextureViewDimension::D2,
                multisampled: false,
            },
        }
    }
}

/// A kernel without its buffers.
#[derive(Debug)]
pub(crate) struct Kernel {
    name: String,
    group: wgpu::BindGroupLayout,
    one: wgpu::ComputePipeline,
    tile: Option<wgpu::ComputePipeline>,
}

impl Kernel {
    /// With its buffers, and the workgroups that a token takes.
    pub(crate) fn bind(
        &self,
        gpu: &Gpu,
        resources: &[wgpu::BindingResource<'_>],
        workgroups: u32,
    ) -> Dispatch {
        let all = iter::once(gpu.step.as_entire_binding()).chain(resources.iter().cloned());
        let entries: Vec<_> = (0..)
            .zip(all)
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource })
            .collect();
        Dispatch {
            group: gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&self.name),
                layout: &self.group,
                entries: &entries,
            }),
            one: self.one.clone(),
            tile: self.tile.clone(),
            workgroups,
        }
    }
}

/// A kernel with its buffers.
#[derive(Debug)]
pub(crate) struct Dispatch {
    group: wgpu::BindGroup,
    one: wgpu::ComputePipeline,
    tile: Option<wgpu::ComputePipeline>,
    workgroups: u32,
}

impl Dispatch {
    /// Records it for so many tokens.
    pub(crate) fn record(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        let (pipeline, rows) = match &self.tile {
            Some(tile) if tokens > 1 => (tile, tokens.div_ceil(TILE)),
            _ => (&self.one, tokens),
        };
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.workgroups, rows, 1);
    }
}
