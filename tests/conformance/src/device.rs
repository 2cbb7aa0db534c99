//! Runs vectors on a wgpu device: natively, and in a browser.

use std::collections::{BTreeMap, HashMap};

use wgpu_rope::GpuContext;

use crate::vectors::{Access, Answers, Binding, Dispatch, Failure, Vector, Vectors};

/// A name for a device and its driver.
#[must_use]
pub fn describe(info: &wgpu::AdapterInfo) -> String {
    let parts = [&info.name, &info.driver, &info.driver_info];
    let known: Vec<_> = parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(String::as_str)
        .collect();
    match known.is_empty() {
        // Browsers tell their pages more than wgpu.
        true => format!("wgpu {}", info.backend),
        false => format!("{}; wgpu {}", known.join(", "), info.backend),
    }
}

/// Runs all vectors, each by itself: one that fails leaves the others alone. `done` is called after each.
///
/// # Errors
/// Where the file of the vectors is not whole.
pub async fn answer(
    context: &GpuContext,
    vectors: &Vectors,
    mut done: impl FnMut(),
) -> Result<Answers, Failure> {
    let mut runner = Runner {
        context,
        modules: vectors
            .modules
            .iter()
            .map(|(name, text)| {
                let module = wgpu::ShaderModuleDescriptor {
                    label: Some(name),
                    source: wgpu::ShaderSource::Wgsl(text.into()),
                };
                (&**name, context.device().create_shader_module(module))
            })
            .collect(),
        pipelines: HashMap::new(),
        pipeline_ms: Vec::new(),
    };
    let mut answers = Answers {
        about: describe(context.info()),
        ..Answers::default()
    };
    for vector in &vectors.vectors {
        match runner.run(vectors, vector).await {
            Ok(bytes) => answers.bytes.extend(bytes),
            Err(failure) => {
                let zeros = std::iter::repeat_n(0, vector.answer_size());
                answers.bytes.extend(zeros);
                answers
                    .failures
                    .insert(vector.full_name(), failure.to_string());
            }
        }
        done();
    }
    answers.pipeline_ms = runner.pipeline_ms;
    Ok(answers)
}

struct Runner<'a> {
    context: &'a GpuContext,
    modules: BTreeMap<&'a str, wgpu::ShaderModule>,
    pipelines: HashMap<String, wgpu::ComputePipeline>,
    pipeline_ms: Vec<f64>,
}

impl Runner<'_> {
    /// The contents of the buffers that are written.
    async fn run(&mut self, vectors: &Vectors, vector: &Vector) -> Result<Vec<u8>, Failure> {
        let mut buffers = Vec::new();
        for buffer in &vector.buffers {
            let contents = vectors.slice(buffer.initial, buffer.size)?;
            let usage = wgpu::BufferUsages::UNIFORM;
            buffers.push(self.context.upload(contents, usage)?);
        }
        let mut bound = Vec::new();
        for dispatch in &vector.dispatches {
            let pipeline = self.pipeline(dispatch)?;
            let entries: Vec<_> = dispatch
                .bindings
                .iter()
                .map(|binding| wgpu::BindGroupEntry {
                    binding: binding.binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &buffers[binding.buffer],
                        offset: binding.offset as u64,
                        size: std::num::NonZero::new(binding.size as u64),
                    }),
                })
                .collect();
            let device = self.context.device();
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&vector.name),
                layout: &pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            bound.push((pipeline, group, dispatch.workgroups));
        }
        self.context.run(|pass| {
            for (pipeline, group, [x, y, z]) in &bound {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(*x, *y, *z);
            }
            Ok(())
        })?;
        let mut bytes = Vec::new();
        for (at, buffer) in vector.written() {
            bytes.extend(self.context.read::<u8>(&buffers[at], buffer.size).await?);
        }
        Ok(bytes)
    }

    fn pipeline(&mut self, dispatch: &Dispatch) -> Result<wgpu::ComputePipeline, Failure> {
        let key = format!(
            "{} {} {:?}",
            dispatch.module, dispatch.entry_point, dispatch.constants
        );
        if let Some(known) = self.pipelines.get(&key) {
            return Ok(known.clone());
        }
        let device = self.context.device();
        let module = self
            .modules
            .get(&*dispatch.module)
            .ok_or("no such module")?;
        let entries: Vec<_> = dispatch.bindings.iter().map(layout_entry).collect();
        let group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&dispatch.entry_point),
            entries: &entries,
        });
        let constants: Vec<_> = dispatch
            .constants
            .iter()
            .map(|(name, value)| (&**name, *value))
            .collect();
        // A browser answers at once and compiles later.
        #[cfg(not(target_arch = "wasm32"))]
        let start = std::time::Instant::now();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&dispatch.entry_point),
            layout: Some(
                &device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                    label: Some(&dispatch.entry_point),
                    bind_group_layouts: &[Some(&group)],
                    immediate_size: 0,
                }),
            ),
            module,
            entry_point: Some(&dispatch.entry_point),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // As the crate does: no kernel reads what it has not written.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        #[cfg(not(target_arch = "wasm32"))]
        self.pipeline_ms.push(start.elapsed().as_secs_f64() * 1e3);
        self.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

fn layout_entry(binding: &Binding) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding: binding.binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding.access {
                Access::Uniform => wgpu::BufferBindingType::Uniform,
                Access::ReadOnlyStorage => wgpu::BufferBindingType::Storage { read_only: true },
                Access::Storage => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}
