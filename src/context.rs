//! `GpuContext`: a device of one's own, with upload and read-back, for tools, examples and tests. An application that has a
//! device uses [`RopeKernel`] alone.

use std::sync::{Arc, Mutex};

use crate::dispatch::Operands;
use crate::error::{Result, RopeError};
use crate::kernel::{KernelOptions, RopeKernel, lock};
use crate::layout::Element;
use crate::plan::{Content, CosSinLayout, RopePlan, RotateSpec, Storage, TableSpec, TensorView};
use crate::positions::RowPositions;
use crate::scope::{checked, checked_as, is_lost, lost, scoped};
use crate::table::{CosSinTable, Positions, TableFill};

const INSTALL: &str = "a GPU driver with Vulkan, Metal or DX12 is needed; without a GPU, Mesa's software driver serves \
    (Debian and Ubuntu: apt-get install mesa-vulkan-drivers, Fedora: dnf install mesa-vulkan-drivers, Arch: pacman -S vulkan-swrast)";

const NO_BACKEND: &str = "no backend of wgpu was compiled in: enable the feature vulkan, metal, dx12 or gles of wgpu-rope, \
    or the default features of your own dependency on wgpu";

/// A device with its queue and kernel.
///
/// Cheap to clone. This is the only type of the crate that submits and waits.
#[derive(Debug, Clone)]
pub struct GpuContext {
    info: wgpu::AdapterInfo,
    kernel: RopeKernel,
    queue: wgpu::Queue,
    /// Filled only for devices that are made here: an application's own device reports to the application's callbacks.
    reported: Arc<Mutex<Reported>>,
}

/// What wgpu has reported outside of the calls that return errors.
#[derive(Debug, Default)]
struct Reported {
    /// The first error since it was asked last.
    error: Option<String>,
    /// Why the device is lost, for good.
    lost: Option<String>,
}

impl GpuContext {
    /// Every adapter of every backend that was compiled in and is among those of `WGPU_BACKEND`, GPUs first.
    pub async fn adapters() -> Vec<wgpu::Adapter> {
        if wgpu::Instance::enabled_backend_features().is_empty() {
            return Vec::new();
        }
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        // Validation layers are the business of who debugs a backend, not of a tool's users; of what wgpu checks by
        // itself nothing is left out.
        descriptor.flags = wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL;
        descriptor.backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all());
        let backends = descriptor.backends;
        let instance = wgpu::Instance::new(descriptor);
        let mut adapters = instance.enumerate_adapters(backends).await;
        if adapters.is_empty() {
            // Browsers do not enumerate: they hand out one.
            adapters.extend(
                instance
                    .request_adapter(&wgpu::RequestAdapterOptions::default())
                    .await,
            );
        }
        adapters.retain(|adapter| {
            adapter
                .get_downlevel_capabilities()
                .flags
                .contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        });
        adapters.sort_by_key(|adapter| {
            let info = adapter.get_info();
            let kind = match info.device_type {
                wgpu::DeviceType::DiscreteGpu => 0,
                wgpu::DeviceType::IntegratedGpu => 1,
                wgpu::DeviceType::VirtualGpu => 2,
                wgpu::DeviceType::Other => 3,
                wgpu::DeviceType::Cpu => 4,
            };
            (kind, info.backend == wgpu::Backend::Gl)
        });
        adapters
    }

    /// A device on the best adapter, or on the first one whose name contains `WGPU_ADAPTER_NAME` (in any case).
    ///
    /// # Errors
    /// [`RopeError::NoAdapter`] where there is none, saying what to install; those of [`GpuContext::from_adapter`].
    pub async fn new() -> Result<Self> {
        let adapters = Self::adapters().await;
        let wanted = std::env::var("WGPU_ADAPTER_NAME").ok();
        let chosen = match &wanted {
            None => adapters.first(),
            Some(name) => adapters.iter().find(|adapter| {
                let found = adapter.get_info().name.to_lowercase();
                found.contains(&name.to_lowercase())
            }),
        };
        let Some(adapter) = chosen else {
            let names: Vec<_> = adapters
                .iter()
                .map(|adapter| adapter.get_info().name)
                .collect();
            if wgpu::Instance::enabled_backend_features().is_empty() {
                return Err(RopeError::NoAdapter(NO_BACKEND.to_owned()));
            }
            let backends = std::env::var("WGPU_BACKEND")
                .map(|names| format!(" (WGPU_BACKEND is {names:?})"))
                .unwrap_or_default();
            return Err(RopeError::NoAdapter(match wanted {
                Some(name) if !names.is_empty() => {
                    format!(
                        "no adapter is named {name:?}; there are: {}",
                        names.join(", ")
                    )
                }
                _ => format!("no adapter was found{backends}: {INSTALL}"),
            }));
        };
        Self::from_adapter(adapter).await
    }

    /// [`GpuContext::new`] for programs that are not async.
    ///
    /// # Errors
    /// As for [`GpuContext::new`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn new_blocking() -> Result<Self> {
        pollster::block_on(Self::new())
    }

    /// A device on this adapter: wgpu's downlevel defaults as far as the adapter has them, with WebGPU's 8 storage bindings, its own sizes of buffers,
    /// bindings and workgroups, and timestamps where it has them.
    ///
    /// # Errors
    /// [`RopeError::Device`] where the adapter gives no device; those of [`RopeKernel::new`].
    pub async fn from_adapter(adapter: &wgpu::Adapter) -> Result<Self> {
        let available = adapter.limits();
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: available.max_storage_buffer_binding_size,
            max_buffer_size: available.max_buffer_size,
            max_compute_workgroup_size_x: available.max_compute_workgroup_size_x,
            max_compute_invocations_per_workgroup: available.max_compute_invocations_per_workgroup,
            max_compute_workgroups_per_dimension: available.max_compute_workgroups_per_dimension,
            min_storage_buffer_offset_alignment: available.min_storage_buffer_offset_alignment,
            min_uniform_buffer_offset_alignment: available.min_uniform_buffer_offset_alignment,
            max_storage_buffers_per_shader_stage: available
                .max_storage_buffers_per_shader_stage
                .min(8),
            ..wgpu::Limits::downlevel_defaults().or_worse_values_from(&available)
        };
        Self::with_limits(adapter, limits).await
    }

    /// A device on this adapter with these limits.
    ///
    /// # Errors
    /// As for [`GpuContext::from_adapter`].
    pub async fn with_limits(adapter: &wgpu::Adapter, limits: wgpu::Limits) -> Result<Self> {
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("wgpu-rope"),
                required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
                required_limits: limits,
                ..Default::default()
            })
            .await
            .map_err(|error| RopeError::Device {
                operand: "device",
                message: error.to_string(),
            })?;
        let reported = Arc::new(Mutex::new(Reported::default()));
        let errors = reported.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            lock(&errors).error.get_or_insert_with(|| error.to_string());
        }));
        let loss = reported.clone();
        device.set_device_lost_callback(move |reason, message| {
            lock(&loss).lost = Some(format!("the device is lost: {reason:?} {message}"));
        });
        let context = checked(&device, || Self::from_device(&device, &queue)).await?;
        Ok(Self {
            info: adapter.get_info(),
            reported,
            ..context
        })
    }

    /// A context on the application's own device, with a kernel of its own.
    ///
    /// # Errors
    /// Those of [`RopeKernel::new`].
    pub fn from_device(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Self> {
        let kernel = RopeKernel::new(device, &KernelOptions::default())?;
        Ok(Self::from_kernel(&kernel, queue))
    }

    /// A context on the application's own kernel, to run its self-test with.
    #[must_use]
    pub fn from_kernel(kernel: &RopeKernel, queue: &wgpu::Queue) -> Self {
        Self {
            info: kernel.device().adapter_info(),
            kernel: kernel.clone(),
            queue: queue.clone(),
            reported: Arc::default(),
        }
    }

    /// The adapter: name, backend, driver.
    #[must_use]
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        self.kernel.device()
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> &RopeKernel {
        &self.kernel
    }

    /// A buffer with these contents: usages `STORAGE`, `COPY_SRC`, `COPY_DST` and those given, its size made a multiple of 4.
    ///
    /// # Errors
    /// [`RopeError::OutOfMemory`], [`RopeError::Limit`] or [`RopeError::Device`] where wgpu cannot make it.
    pub fn upload<T: bytemuck::NoUninit>(
        &self,
        data: &[T],
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let size = (bytes.len() as u64).next_multiple_of(4).max(4);
        let label = "wgpu-rope upload";
        self.check_size(label, size)?;
        scoped(self.device(), label, Some(size), || {
            let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST
                    | usage,
                mapped_at_creation: false,
            });
            let whole = bytes.len() / 4 * 4;
            self.queue.write_buffer(&buffer, 0, &bytes[..whole]);
            if whole < bytes.len() {
                let mut last = [0; 4];
                last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
                self.queue.write_buffer(&buffer, whole as u64, &last);
            }
            buffer
        })
    }

    fn check_size(&self, label: &'static str, size: u64) -> Result<()> {
        let allowed = self.device().limits().max_buffer_size;
        if size > allowed {
            return Err(RopeError::Limit {
                limit: "max_buffer_size",
                operand: label,
                needed: size,
                allowed,
            });
        }
        Ok(())
    }

    /// Records into one compute pass of one encoder, and submits it.
    ///
    /// # Errors
    /// Whatever the closure returns, and then nothing is submitted; [`RopeError::Device`] where wgpu reports an error.
    pub fn run(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>) -> Result<()>) -> Result<()> {
        let commands = scoped(self.device(), "pass", None, || {
            let mut encoder =
                self.device()
                    .create_command_encoder(&wgpu::CommandEncoderDescriptor {
                        label: Some("wgpu-rope"),
                    });
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: Some("wgpu-rope"),
                    timestamp_writes: None,
                });
                record(&mut pass)?;
            }
            Ok(encoder.finish())
        })??;
        scoped(self.device(), "submission", None, || {
            self.queue.submit([commands])
        })?;
        self.check()
    }

    /// Waits until everything submitted is done. In a browser it returns at once.
    ///
    /// # Errors
    /// [`RopeError::Device`] where the device is lost or has reported an error.
    pub fn wait(&self) -> Result<()> {
        self.device()
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|error| RopeError::Device {
                operand: "device",
                message: error.to_string(),
            })?;
        self.check()?;
        if is_lost(self.device()) {
            return Err(lost("device"));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let mut reported = lock(&self.reported);
        match reported.lost.clone().or_else(|| reported.error.take()) {
            None => Ok(()),
            Some(message) => Err(RopeError::Device {
                operand: "device",
                message,
            }),
        }
    }

    /// Reads `count` values from the start of a buffer that has the usage `COPY_SRC`, after everything submitted before. Natively it blocks
    /// the thread until the device is done, and is ready when it returns; in a browser it is to be awaited.
    ///
    /// # Errors
    /// [`RopeError::Buffer`] where the buffer is too small or has not the usage; [`RopeError::OutOfMemory`] or
    /// [`RopeError::Device`] where the copy cannot be made.
    pub async fn read<T: bytemuck::Pod>(
        &self,
        buffer: &wgpu::Buffer,
        count: usize,
    ) -> Result<Vec<T>> {
        let operand = "read-back";
        let bytes = count
            .checked_mul(size_of::<T>())
            .ok_or_else(|| RopeError::overflow(operand, "bytes must fit usize"))?;
        if bytes == 0 {
            return Ok(vec![T::zeroed(); count]);
        }
        let size = (bytes as u64)
            .checked_next_multiple_of(4)
            .ok_or_else(|| RopeError::overflow(operand, "bytes must fit u64"))?;
        if buffer.size() < size || !buffer.usage().contains(wgpu::BufferUsages::COPY_SRC) {
            return Err(RopeError::buffer(
                operand,
                format!("must hold {size} bytes and have the usage COPY_SRC"),
                format!("{} bytes, {:?}", buffer.size(), buffer.usage()),
            ));
        }
        self.read_slice(buffer.slice(..size), bytes).await
    }

    /// The first so many bytes of a slice of whole words, of which there is at least one.
    async fn read_slice<T: bytemuck::Pod>(
        &self,
        slice: wgpu::BufferSlice<'_>,
        bytes: usize,
    ) -> Result<Vec<T>> {
        let (operand, size) = ("read-back", slice.size());
        self.check_size(operand, size)?;
        let (sender, receiver) = futures_intrusive::channel::shared::oneshot_channel();
        let staging = checked_as(self.device(), operand, Some(size), || {
            let label = Some("wgpu-rope read-back");
            let staging = self.device().create_buffer(&wgpu::BufferDescriptor {
                label,
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = self
                .device()
                .create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
            encoder.copy_buffer_to_buffer(slice.buffer(), slice.offset(), &staging, 0, size);
            self.queue.submit([encoder.finish()]);
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                // The receiver is gone only where nobody waits for the answer.
                let _ = sender.send(result);
            });
            Ok(staging)
        })
        .await?;
        self.wait()?;
        let unmapped = |message: String| RopeError::Device { operand, message };
        match receiver.receive().await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(unmapped(error.to_string())),
            None => return Err(unmapped("the mapping was dropped".into())),
        }
        let mapped = staging
            .get_mapped_range(..)
            .map_err(|error| unmapped(error.to_string()))?;
        Ok(bytemuck::pod_collect_to_vec(&mapped[..bytes]))
    }

    /// [`GpuContext::read`] for programs that are not async.
    ///
    /// # Errors
    /// As for [`GpuContext::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking<T: bytemuck::Pod>(
        &self,
        buffer: &wgpu::Buffer,
        count: usize,
    ) -> Result<Vec<T>> {
        pollster::block_on(self.read(buffer, count))
    }

    /// The count of a table's faults ([`CosSinTable::faults`]), after everything submitted before.
    ///
    /// # Errors
    /// As for [`GpuContext::read`].
    pub async fn read_faults(&self, table: &CosSinTable) -> Result<u32> {
        self.read_word(table.faults()).await
    }

    /// The count of tokens that a table has no slot for ([`CosSinTable::skipped_slots`]), after everything submitted before.
    ///
    /// # Errors
    /// As for [`GpuContext::read`].
    pub async fn read_skipped(&self, table: &CosSinTable) -> Result<u32> {
        self.read_word(table.skipped_slots()).await
    }

    /// [`GpuContext::read_faults`] for programs that are not async.
    ///
    /// # Errors
    /// As for [`GpuContext::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_faults_blocking(&self, table: &CosSinTable) -> Result<u32> {
        pollster::block_on(self.read_faults(table))
    }

    /// [`GpuContext::read_skipped`] for programs that are not async.
    ///
    /// # Errors
    /// As for [`GpuContext::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_skipped_blocking(&self, table: &CosSinTable) -> Result<u32> {
        pollster::block_on(self.read_skipped(table))
    }

    async fn read_word(&self, slice: wgpu::BufferSlice<'_>) -> Result<u32> {
        let words = self.read_slice(slice, 4).await?;
        Ok(words.first().copied().unwrap_or_default())
    }

    /// Uploads tensors, fills a table for `positions` (one for each row that the specification reads), rotates, and
    /// reads the tensors back into their slices.
    ///
    /// Query and key have the same tokens, and so the same positions. A query at position m and a key at position n are two rows of one
    /// tensor: a query of 2 tokens, `positions` `[m, n]`, and no key.
    ///
    /// # Errors
    /// Whatever the steps return; the slices are then as they were.
    pub async fn rotate<T: Element>(
        &self,
        spec: &RotateSpec,
        table: &TableSpec,
        positions: RowPositions<'_>,
        query: &mut [T],
        key: Option<&mut [T]>,
    ) -> Result<()> {
        let buffers = checked(self.device(), || {
            let rows = u32::try_from(positions.rows(table.axes()))
                .map_err(|_| RopeError::overflow("positions", "their number must fit u32"))?;
            let table = self.kernel.table(table, rows)?;
            let none = wgpu::BufferUsages::empty();
            let fill = match positions {
                RowPositions::Ids(ids) => {
                    let ids = self.upload(ids, none)?;
                    table.bind_positions(Positions::Ids(ids.slice(..)))
                }
                RowPositions::IdsPerAxis(ids, order) => {
                    let ids = self.upload(ids, none)?;
                    let ids = ids.slice(..);
                    table.bind_positions(Positions::IdsPerAxis { ids, order })
                }
                RowPositions::Coordinates(values, order) => {
                    let values = self.upload(values, none)?;
                    let values = values.slice(..);
                    table.bind_positions(Positions::Coordinates { values, order })
                }
            }?;
            self.run_rotation(spec, &table, &fill, query, key.as_deref())
        })
        .await?;
        self.read_rotated(buffers, query, key).await
    }

    /// The same with a caller's own cos and sin: row `ids[r]` of both is row r of the table.
    ///
    /// # Errors
    /// Whatever the steps return, and [`RopeError::Table`] for an id outside of cos and sin; the slices are then as they were.
    #[expect(
        clippy::too_many_arguments,
        reason = "a table of one's own is three of them"
    )]
    pub async fn rotate_with_cos_sin<T: Element, C: Element>(
        &self,
        spec: &RotateSpec,
        table: &TableSpec,
        cos: &[C],
        sin: &[C],
        ids: &[i32],
        query: &mut [T],
        key: Option<&mut [T]>,
    ) -> Result<()> {
        let Content::CosSin(CosSinLayout {
            positions, element, ..
        }) = table.content
        else {
            return Err(RopeError::table(
                "must be of given cos and sin",
                "frequencies",
            ));
        };
        if element != C::TYPE {
            return Err(RopeError::table(
                format!("is planned of {element}"),
                C::TYPE,
            ));
        }
        let outside = |id: &&i32| u32::try_from(**id).map_or(true, |id| id >= positions);
        if let Some(id) = ids.iter().find(outside) {
            return Err(RopeError::table(
                format!("positions must be within the {positions} of cos and sin"),
                id,
            ));
        }
        let buffers = checked(self.device(), || {
            let rows = u32::try_from(ids.len())
                .map_err(|_| RopeError::overflow("positions", "their number must fit u32"))?;
            let table = self.kernel.table(table, rows)?;
            let none = wgpu::BufferUsages::empty();
            let (cos, sin) = (self.upload(cos, none)?, self.upload(sin, none)?);
            let ids = self.upload(ids, none)?;
            let ids = Positions::Ids(ids.slice(..));
            let fill = table.bind_cos_sin(cos.slice(..), sin.slice(..), ids)?;
            self.run_rotation(spec, &table, &fill, query, key.as_deref())
        })
        .await?;
        self.read_rotated(buffers, query, key).await
    }

    /// Uploads tensors, and submits fill and rotation.
    fn run_rotation<T: Element>(
        &self,
        spec: &RotateSpec,
        table: &CosSinTable,
        fill: &TableFill,
        query: &[T],
        key: Option<&[T]>,
    ) -> Result<(wgpu::Buffer, Option<wgpu::Buffer>)> {
        let element = |operand, planned: Option<&TensorView>| match planned {
            Some(view) if view.storage() != Storage::Float(T::TYPE) => Err(RopeError::layout(
                operand,
                format!("elements are planned as {}", view.storage()),
                T::TYPE,
            )),
            _ => Ok(()),
        };
        element("query", Some(spec.query()))?;
        element("key", spec.key())?;
        let plan = RopePlan::new(spec, self.kernel.limits())?;
        let query_buffer = self.upload(query, wgpu::BufferUsages::empty())?;
        let key_buffer = key
            .map(|key| self.upload(key, wgpu::BufferUsages::empty()))
            .transpose()?;
        let mut operands = Operands::new(query_buffer.slice(..));
        if let Some(key) = &key_buffer {
            operands = operands.with_key(key.slice(..));
        }
        let dispatch = self.kernel.prepare(&plan)?.bind(&operands, table)?;
        self.run(|pass| {
            fill.record(pass, fill.rows())?;
            dispatch.record(pass, spec.tokens())
        })?;
        Ok((query_buffer, key_buffer))
    }

    /// Reads tensors back into their slices: both or none.
    async fn read_rotated<T: Element>(
        &self,
        (query_buffer, key_buffer): (wgpu::Buffer, Option<wgpu::Buffer>),
        query: &mut [T],
        key: Option<&mut [T]>,
    ) -> Result<()> {
        let rotated_query = self.read(&query_buffer, query.len()).await?;
        if let (Some(key), Some(buffer)) = (key, key_buffer) {
            let rotated_key = self.read(&buffer, key.len()).await?;
            key.copy_from_slice(&rotated_key);
        }
        query.copy_from_slice(&rotated_query);
        Ok(())
    }

    /// [`GpuContext::rotate`] for programs that are not async.
    ///
    /// # Errors
    /// As for [`GpuContext::rotate`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn rotate_blocking<T: Element>(
        &self,
        spec: &RotateSpec,
        table: &TableSpec,
        positions: RowPositions<'_>,
        query: &mut [T],
        key: Option<&mut [T]>,
    ) -> Result<()> {
        pollster::block_on(self.rotate(spec, table, positions, query, key))
    }
}
