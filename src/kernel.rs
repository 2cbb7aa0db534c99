//! `RopeKernel`: the pipelines of one device. Tables and prepared rotations are made from it.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Result, RopeError};
use crate::plan::{
    Access, Content, Limits, Module, Places, PlannedBinding, PlannedDispatch, Resource, RopePlan,
    TableSpec, UNUSED_BYTES,
};
use crate::scope::{is_lost, lost, scoped, scoped_in_a_step};

/// What a kernel may be given beside its device.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct KernelOptions {
    /// A pipeline cache of the device, for drivers that keep none of their own (Vulkan on Android, mostly).
    pipeline_cache: Option<wgpu::PipelineCache>,
}

/// The shaders of this crate on one device, and the pipelines made of them so far.
///
/// Cheap to clone, shared between threads. It keeps its own clone of the device, and never submits, polls, writes through the
/// queue or sets a callback.
#[derive(Debug, Clone)]
pub struct RopeKernel {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    device: wgpu::Device,
    limits: Limits,
    rotate: wgpu::ShaderModule,
    table: wgpu::ShaderModule,
    /// Made when it is first needed: a kernel that rotates in place does without, and so does a device of few bindings.
    layer: Mutex<Option<Layer>>,
    pipelines: Mutex<HashMap<PipelineKey, Compiled>>,
    cache: Option<wgpu::PipelineCache>,
}

/// The shader of whole layers, and what is bound where it has more bindings than tensors.
#[derive(Debug, Clone)]
struct Layer {
    module: wgpu::ShaderModule,
    unused: wgpu::Buffer,
}

/// A pipeline with the layout of its bindings.
#[derive(Debug, Clone)]
struct Compiled {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PipelineKey {
    module: Module,
    entry_point: &'static str,
    constants: Vec<u64>,
}

/// A pipeline with what its bind groups are made from.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    label: &'static str,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    uniform: wgpu::Buffer,
}

/// A dispatch with everything that recording it takes.
#[derive(Debug)]
pub(crate) struct Step {
    planned: Arc<PlannedDispatch>,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
}

impl Step {
    /// Records what of the first `count` tokens or rows is this dispatch's own.
    pub(crate) fn record(&self, pass: &mut wgpu::ComputePass<'_>, count: u32) {
        let [x, y, z] = self.planned.workgroups(count);
        if y > 0 {
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.bind_group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// Records it with its workgroup counts in a buffer.
    pub(crate) fn record_indirect(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        arguments: &wgpu::Buffer,
        offset: u64,
    ) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups_indirect(arguments, offset);
    }

    pub(crate) fn planned(&self) -> &PlannedDispatch {
        &self.planned
    }
}

impl KernelOptions {
    /// With a pipeline cache of the device.
    #[must_use]
    pub fn with_pipeline_cache(self, cache: wgpu::PipelineCache) -> Self {
        Self {
            pipeline_cache: Some(cache),
        }
    }
}

impl RopeKernel {
    /// The features to request of an adapter for this crate: none.
    #[must_use]
    pub fn required_features() -> wgpu::Features {
        wgpu::Features::empty()
    }

    /// The limits to request of an adapter: wgpu's downlevel defaults, in which three are raised. The storage binding and the buffer size
    /// hold a table of `rows` rows, and the caller's own cos and sin where it is made from these; larger tensors are rotated in windows, but
    /// a layer's cache has to fit a binding too. `max_storage_buffers_per_shader_stage` is WebGPU's 8, which a layer in one dispatch takes.
    /// Rotations in place do with the defaults' 4, so cap what is requested by what the adapter has:
    ///
    /// ```no_run
    /// # use wgpu_rope::{Frequencies, RopeConfig, RopeKernel, TableSpec, wgpu};
    /// # async fn device(adapter: wgpu::Adapter, own: wgpu::Limits) -> Result<(), Box<dyn std::error::Error>> {
    /// let table = TableSpec::new(&Frequencies::new(&RopeConfig::new(128))?);
    /// let (device, queue) = adapter
    ///     .request_device(&wgpu::DeviceDescriptor {
    ///         required_features: RopeKernel::required_features(),
    ///         // What either needs, and no more than there is.
    ///         required_limits: RopeKernel::required_limits(&table, 4096)
    ///             .or_better_values_from(&own)
    ///             .or_worse_values_from(&adapter.limits()),
    ///         ..Default::default()
    ///     })
    ///     .await?;
    /// # let _ = (device, queue);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn required_limits(table: &TableSpec, rows: u32) -> wgpu::Limits {
        let given = match &table.content {
            Content::Frequencies(..) => 0,
            // One that cannot be is refused when the table is planned.
            Content::CosSin(layout) => layout.tensor_bytes().unwrap_or(0),
        };
        let bytes = table.parts(rows).end.max(given);
        let base = wgpu::Limits::downlevel_defaults();
        wgpu::Limits {
            max_storage_buffer_binding_size: base.max_storage_buffer_binding_size.max(bytes),
            max_buffer_size: base.max_buffer_size.max(bytes),
            max_storage_buffers_per_shader_stage: 8,
            ..base
        }
    }

    /// Compiles the shader modules for a device. Pipelines are made when a plan first needs them; see [`RopeKernel::warm`].
    ///
    /// # Errors
    /// [`RopeError::Limit`] where the device has less than the baseline; [`RopeError::Device`] where wgpu refuses a module, or the
    /// device is lost.
    pub fn new(device: &wgpu::Device, options: &KernelOptions) -> Result<Self> {
        let device = device.clone();
        let limits = device.limits();
        for (limit, needed, allowed) in [
            (
                "max_storage_buffers_per_shader_stage",
                4,
                limits.max_storage_buffers_per_shader_stage,
            ),
            (
                "max_uniform_buffers_per_shader_stage",
                1,
                limits.max_uniform_buffers_per_shader_stage,
            ),
            (
                "max_compute_invocations_per_workgroup",
                64,
                limits.max_compute_invocations_per_workgroup,
            ),
            (
                "max_compute_workgroup_size_x",
                64,
                limits.max_compute_workgroup_size_x,
            ),
            (
                "max_compute_workgroups_per_dimension",
                1,
                limits.max_compute_workgroups_per_dimension,
            ),
        ] {
            if allowed < needed {
                return Err(RopeError::Limit {
                    limit,
                    operand: "kernel",
                    needed: needed.into(),
                    allowed: allowed.into(),
                });
            }
        }
        let limits = Limits {
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            min_storage_buffer_offset_alignment: limits.min_storage_buffer_offset_alignment,
            max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            max_compute_invocations_per_workgroup: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
            max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
            cpu: device.adapter_info().device_type == wgpu::DeviceType::Cpu,
        };
        let (rotate, table) = scoped(&device, "kernel", None, || {
            (
                shader_module(&device, Module::Rotate),
                shader_module(&device, Module::Table),
            )
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                device,
                limits,
                rotate,
                table,
                layer: Mutex::default(),
                pipelines: Mutex::default(),
                cache: options.pipeline_cache.clone(),
            }),
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.shared.device
    }

    /// The device's limits as plans want them.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Compiles the pipelines of plans now, so that no binding waits for the driver's compiler. Which pipeline it is depends on
    /// where tensors lie: which of them share a buffer, and whether they start on 16 bytes. (A table's pipeline is
    /// compiled by [`CosSinTable::bind_positions`](crate::CosSinTable::bind_positions).)
    ///
    /// For a rotation in place a [`Placement`](crate::Placement) says that; a layer needs the place of each of its operands, and where the table
    /// has its slots:
    ///
    /// ```no_run
    /// # use wgpu_rope::{Place, Placement, Places, RopeKernel, RopePlan, TablePlan};
    /// # fn warm(kernel: &RopeKernel, rotation: &RopePlan, layer: &RopePlan, table: &TablePlan) -> wgpu_rope::Result<()> {
    /// kernel.warm([(rotation, Placement::default())])?;
    /// // Each operand at the start of a buffer of its own, weights in one.
    /// let operands = layer.spec().operands()?.into_iter();
    /// let places: Places = (0..)
    ///     .zip(operands)
    ///     .map(|(buffer, (operand, _))| {
    ///         let buffer = if operand.is_weight() { u32::MAX } else { buffer };
    ///         (operand, Place { buffer, offset: 0 })
    ///     })
    ///     .collect();
    /// kernel.warm([(layer, places.with_table(table))])
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`RopeKernel::prepare`] and [`RopePlan::dispatches`]; [`RopeError::Device`] where wgpu refuses a pipeline.
    pub fn warm<'a, P: Into<Places>>(
        &self,
        plans: impl IntoIterator<Item = (&'a RopePlan, P)>,
    ) -> Result<()> {
        for (plan, placement) in plans {
            self.check_plan(plan)?;
            for dispatch in plan.dispatches(placement)? {
                self.compile(&dispatch)?;
            }
        }
        Ok(())
    }

    /// Checks that a plan is one for this device, and that there still is a device.
    pub(crate) fn check_plan(&self, plan: &RopePlan) -> Result<()> {
        let (planned, own) = (plan.limits(), self.limits());
        let needs = |limit, needed, allowed| {
            Err(RopeError::Limit {
                limit,
                operand: "plan",
                needed,
                allowed,
            })
        };
        let at_most = [
            (
                "max_storage_buffer_binding_size",
                planned.max_storage_buffer_binding_size,
                own.max_storage_buffer_binding_size,
            ),
            (
                "max_compute_workgroups_per_dimension",
                planned.max_compute_workgroups_per_dimension.into(),
                own.max_compute_workgroups_per_dimension.into(),
            ),
            (
                "max_compute_invocations_per_workgroup",
                planned.max_compute_invocations_per_workgroup.into(),
                own.max_compute_invocations_per_workgroup.into(),
            ),
            (
                "max_compute_workgroup_storage_size",
                planned.max_compute_workgroup_storage_size.into(),
                own.max_compute_workgroup_storage_size.into(),
            ),
            (
                "max_storage_buffers_per_shader_stage",
                plan.storage_buffers().into(),
                own.max_storage_buffers_per_shader_stage.into(),
            ),
        ];
        for (limit, needed, allowed) in at_most {
            if needed > allowed {
                return needs(limit, needed, allowed);
            }
        }
        // The smaller the better: a plan's bindings have to start on the device's alignment.
        if own.alignment() > planned.alignment() {
            return needs(
                "min_storage_buffer_offset_alignment",
                planned.alignment(),
                own.alignment(),
            );
        }
        if is_lost(self.device()) {
            return Err(lost("plan"));
        }
        Ok(())
    }

    /// Binds buffers to a planned dispatch. `buffer` gives the buffer of a resource and the byte in it that planned ranges count
    /// from; uniforms are the pipeline's own.
    pub(crate) fn bind<'a>(
        &self,
        operand: &'static str,
        planned: &Arc<PlannedDispatch>,
        pipeline: &'a Pipeline,
        buffer: impl Fn(Resource) -> (&'a wgpu::Buffer, u64),
    ) -> Result<Step> {
        let entries: Vec<_> = planned
            .bindings
            .iter()
            .map(|bound| {
                let (buffer, base) = match bound.resource {
                    Resource::Uniform => (&pipeline.uniform, 0),
                    other => buffer(other),
                };
                wgpu::BindGroupEntry {
                    binding: bound.binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: base + bound.bytes.start,
                        size: NonZero::new(bound.bytes.end - bound.bytes.start),
                    }),
                }
            })
            .collect();
        let bind_group = scoped_in_a_step(self.device(), operand, || {
            self.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(pipeline.label),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        Ok(Step {
            planned: planned.clone(),
            pipeline: pipeline.pipeline.clone(),
            bind_group,
        })
    }

    fn module(&self, module: Module) -> Result<wgpu::ShaderModule> {
        match module {
            Module::Table => Ok(self.shared.table.clone()),
            Module::Rotate => Ok(self.shared.rotate.clone()),
            Module::Layer => Ok(self.layer()?.module),
        }
    }

    /// What nothing is read from nor written to, for layers.
    pub(crate) fn unused(&self) -> Result<wgpu::Buffer> {
        Ok(self.layer()?.unused)
    }

    fn layer(&self) -> Result<Layer> {
        if let Some(layer) = &*lock(&self.shared.layer) {
            return Ok(layer.clone());
        }
        let device = self.device();
        let layer = scoped(device, "layer kernel", Some(UNUSED_BYTES), || Layer {
            module: shader_module(device, Module::Layer),
            unused: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-rope unused bindings"),
                size: UNUSED_BYTES,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }),
        })?;
        // Two threads may make it twice; both are alike.
        *lock(&self.shared.layer) = Some(layer.clone());
        Ok(layer)
    }

    /// Pipeline and uniform buffer of a dispatch.
    pub(crate) fn pipeline(&self, dispatch: &PlannedDispatch) -> Result<Pipeline> {
        let label = dispatch.module.label();
        let Compiled { pipeline, layout } = self.compile(dispatch)?;
        Ok(Pipeline {
            label,
            pipeline,
            layout,
            uniform: self.buffer_of(label, wgpu::BufferUsages::UNIFORM, &dispatch.uniform)?,
        })
    }

    fn compile(&self, dispatch: &PlannedDispatch) -> Result<Compiled> {
        let key = PipelineKey {
            module: dispatch.module,
            entry_point: dispatch.entry_point,
            constants: dispatch
                .constants
                .iter()
                .map(|(_, value)| value.to_bits())
                .collect(),
        };
        if let Some(known) = lock(&self.shared.pipelines).get(&key) {
            return Ok(known.clone());
        }
        // Compiled without holding the lock: two threads may do it twice, none waits for another's compiler.
        let (device, module) = (self.device(), self.module(dispatch.module)?);
        let entries: Vec<_> = dispatch.bindings.iter().map(layout_entry).collect();
        let label = format!("wgpu-rope {}", dispatch.entry_point);
        let label = Some(&*label);
        let compiled = scoped(device, "pipeline", None, || {
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label,
                entries: &entries,
            });
            let of_pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&of_pipeline),
                module: &module,
                entry_point: Some(dispatch.entry_point),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &dispatch.constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: self.shared.cache.as_ref(),
            });
            Compiled { pipeline, layout }
        })?;
        lock(&self.shared.pipelines).insert(key, compiled.clone());
        Ok(compiled)
    }

    /// A small buffer with its contents, without a write through the queue.
    pub(crate) fn buffer_of(
        &self,
        label: &'static str,
        usage: wgpu::BufferUsages,
        words: &[u32],
    ) -> Result<wgpu::Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let size = bytes.len() as u64;
        let (buffer, written) = scoped(self.device(), label, Some(size), || {
            let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: true,
            });
            let written = buffer
                .get_mapped_range_mut(..)
                .map(|mut mapped| mapped.copy_from_slice(bytes));
            if written.is_ok() {
                buffer.unmap();
            }
            (buffer, written)
        })?;
        written.map_err(|error| RopeError::Device {
            operand: label,
            message: error.to_string(),
        })?;
        Ok(buffer)
    }
}

fn shader_module(device: &wgpu::Device, module: Module) -> wgpu::ShaderModule {
    device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(module.label()),
        source: wgpu::ShaderSource::Wgsl(module.wgsl().into()),
    })
}

fn layout_entry(bound: &PlannedBinding) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding: bound.binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match bound.access {
                Access::Uniform => wgpu::BufferBindingType::Uniform,
                Access::ReadOnly => wgpu::BufferBindingType::Storage { read_only: true },
                Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

/// A lock whose holder cannot leave it half changed: a panic elsewhere does not make it unusable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that a slice can be a storage binding.
pub(crate) fn storage(operand: &'static str, slice: wgpu::BufferSlice<'_>) -> Result<()> {
    let usage = slice.buffer().usage();
    if !usage.contains(wgpu::BufferUsages::STORAGE) {
        return Err(RopeError::buffer(
            operand,
            "must have the usage STORAGE",
            format!("{usage:?}"),
        ));
    }
    if !slice.offset().is_multiple_of(4) {
        return Err(RopeError::buffer(
            operand,
            "byte offset must be a multiple of 4",
            slice.offset(),
        ));
    }
    Ok(())
}
