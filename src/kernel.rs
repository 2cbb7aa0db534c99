//! `RopeKernel`: the pipelines of one device. Tables and prepared rotations are made from it.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Result, RopeError};
use crate::plan::{
    Content, LAYER_WGSL, Limits, Places, PlannedDispatch, ROTATE_WGSL, Resource, RopePlan,
    TABLE_WGSL, TableSpec,
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
    rotate: Stage,
    table: Stage,
    /// Made when it is first needed: a kernel that rotates in place does without, and so does a device of few bindings.
    layer: Mutex<Option<Arc<Layer>>>,
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
    cache: Option<wgpu::PipelineCache>,
}

/// A shader module, and its layouts: one for each set of bindings that its entry points have.
#[derive(Debug)]
struct Stage {
    label: &'static str,
    module: wgpu::ShaderModule,
    layouts: Vec<(
        &'static [u32],
        (wgpu::BindGroupLayout, wgpu::PipelineLayout),
    )>,
}

/// The shader of whole layers, and what is bound where it has more bindings than tensors.
#[derive(Debug)]
pub(crate) struct Layer {
    stage: Stage,
    unused: wgpu::Buffer,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PipelineKey {
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

    /// The limits to request of an adapter: wgpu's downlevel defaults serve every rotation in place, since larger tensors are
    /// rotated in windows; only the storage binding and the buffer size are raised, to hold a table of `rows` rows, and
    /// the caller's own cos and sin where it is made from these. A layer takes `max_storage_buffers_per_shader_stage` of 8 besides, and a binding
    /// that holds its cache.
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
        let cache = match &table.content {
            Content::Frequencies(..) => 0,
            // One that cannot be is refused when the table is planned.
            Content::Cache(layout) => layout.tensor_bytes().unwrap_or(0),
        };
        let bytes = table.parts(rows).end.max(cache);
        let base = wgpu::Limits::downlevel_defaults();
        wgpu::Limits {
            max_storage_buffer_binding_size: base.max_storage_buffer_binding_size.max(bytes),
            max_buffer_size: base.max_buffer_size.max(bytes),
            // WebGPU's, and what a layer in one dispatch takes; 4 serve for rotations in place.
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
            use wgpu::BufferBindingType::{Storage, Uniform};
            let (read, write) = (Storage { read_only: true }, Storage { read_only: false });
            // In the order of the shaders' bindings, and which of them entry points have.
            let rotate = [Uniform, read, write, write];
            let rotate_sets: [&[u32]; 2] = [&[0, 1, 2], &[0, 1, 2, 3]];
            let table = [Uniform, read, write, read, read, read];
            let table_sets: [&[u32]; 9] = [
                &[0, 1, 2],
                &[0, 1, 2, 3],
                &[0, 2, 4, 5],
                &[0, 2, 3, 4, 5],
                // Slots; pages that are listed with their sequences have the bindings of a cache's listed rows.
                &[0, 2],
                &[0, 2, 3],
                &[0, 2, 3, 5],
                &[0, 2, 4],
                &[0, 2, 3, 4],
            ];
            (
                Stage::new(
                    &device,
                    "wgpu-rope rotate",
                    ROTATE_WGSL,
                    &rotate,
                    &rotate_sets,
                ),
                Stage::new(&device, "wgpu-rope table", TABLE_WGSL, &table, &table_sets),
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
    /// where tensors lie: whether query and key share a buffer, and whether they start on 16 bytes. (A table's pipeline is
    /// compiled by [`CosSinTable::bind_positions`](crate::CosSinTable::bind_positions).)
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
                self.rotation_stage(&dispatch, |stage| self.compile(stage, &dispatch))?;
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

    pub(crate) fn rotate_pipeline(&self, dispatch: &PlannedDispatch) -> Result<Pipeline> {
        self.rotation_stage(dispatch, |stage| self.pipeline(stage, dispatch))
    }

    /// Works with the stage that has a dispatch's entry point.
    fn rotation_stage<T>(
        &self,
        dispatch: &PlannedDispatch,
        work: impl FnOnce(&Stage) -> Result<T>,
    ) -> Result<T> {
        if dispatch.is_of_layer() {
            work(&self.layer()?.stage)
        } else {
            work(&self.shared.rotate)
        }
    }

    /// The shader of whole layers, made now if it was not before.
    pub(crate) fn layer(&self) -> Result<Arc<Layer>> {
        if let Some(layer) = &*lock(&self.shared.layer) {
            return Ok(layer.clone());
        }
        let device = self.device();
        // A plan may be for a coarser alignment than the device's: 256 is the coarsest that WebGPU has.
        let unused = self.limits().alignment().max(256) * 6;
        let layer = scoped(device, "layer kernel", Some(unused), || {
            use wgpu::BufferBindingType::{Storage, Uniform};
            let (read, write) = (Storage { read_only: true }, Storage { read_only: false });
            let types = [
                Uniform, read, read, write, write, write, write, write, write,
            ];
            let sets: [&[u32]; 1] = [&[0, 1, 2, 3, 4, 5, 6, 7, 8]];
            Arc::new(Layer {
                stage: Stage::new(device, "wgpu-rope layer", LAYER_WGSL, &types, &sets),
                unused: device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("wgpu-rope unused bindings"),
                    size: unused,
                    usage: wgpu::BufferUsages::STORAGE,
                    mapped_at_creation: false,
                }),
            })
        })?;
        // Two threads may make it twice; both are alike.
        *lock(&self.shared.layer) = Some(layer.clone());
        Ok(layer)
    }

    pub(crate) fn table_pipeline(&self, dispatch: &PlannedDispatch) -> Result<Pipeline> {
        self.pipeline(&self.shared.table, dispatch)
    }

    fn pipeline(&self, stage: &Stage, dispatch: &PlannedDispatch) -> Result<Pipeline> {
        Ok(Pipeline {
            label: stage.label,
            pipeline: self.compile(stage, dispatch)?,
            layout: stage.layouts(dispatch)?.0.clone(),
            uniform: self.buffer_of(stage.label, wgpu::BufferUsages::UNIFORM, &dispatch.uniform)?,
        })
    }

    fn compile(&self, stage: &Stage, dispatch: &PlannedDispatch) -> Result<wgpu::ComputePipeline> {
        let key = PipelineKey {
            entry_point: dispatch.entry_point,
            constants: dispatch
                .constants
                .iter()
                .map(|(_, value)| value.to_bits())
                .collect(),
        };
        if let Some(pipeline) = lock(&self.shared.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        // Compiled without holding the lock: two threads may do it twice, none waits for another's compiler.
        let label = format!("wgpu-rope {}", dispatch.entry_point);
        let layout = &stage.layouts(dispatch)?.1;
        let pipeline = scoped(self.device(), "pipeline", None, || {
            self.device()
                .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(&label),
                    layout: Some(layout),
                    module: &stage.module,
                    entry_point: Some(dispatch.entry_point),
                    compilation_options: wgpu::PipelineCompilationOptions {
                        constants: &dispatch.constants,
                        zero_initialize_workgroup_memory: false,
                    },
                    cache: self.shared.cache.as_ref(),
                })
        })?;
        lock(&self.shared.pipelines).insert(key, pipeline.clone());
        Ok(pipeline)
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

impl Layer {
    /// What nothing is read from nor written to.
    pub(crate) fn unused(&self) -> &wgpu::Buffer {
        &self.unused
    }
}

impl Stage {
    fn new(
        device: &wgpu::Device,
        label: &'static str,
        text: &'static str,
        types: &[wgpu::BufferBindingType],
        sets: &[&'static [u32]],
    ) -> Self {
        let entries: Vec<_> = (0..)
            .zip(types)
            .map(|(binding, &ty)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layouts = sets.iter().map(|&set| {
            let entries: Vec<_> = entries
                .iter()
                .filter(|entry| set.contains(&entry.binding))
                .copied()
                .collect();
            let group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(label),
                entries: &entries,
            });
            let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(label),
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            });
            (set, (group, pipeline))
        });
        Self {
            label,
            layouts: layouts.collect(),
            module: device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(label),
                source: wgpu::ShaderSource::Wgsl(text.into()),
            }),
        }
    }

    fn layouts(
        &self,
        dispatch: &PlannedDispatch,
    ) -> Result<&(wgpu::BindGroupLayout, wgpu::PipelineLayout)> {
        let bindings = dispatch.bindings.iter().map(|bound| bound.binding);
        self.layouts
            .iter()
            .find(|(set, _)| set.iter().copied().eq(bindings.clone()))
            .map(|(_, layouts)| layouts)
            .ok_or_else(|| RopeError::Device {
                operand: "pipeline",
                message: format!("no layout for {}", dispatch.entry_point),
            })
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
