//! What wgpu reports of the objects that are made: errors of the call that made them, instead of calls of the application's handler.

use crate::error::{Result, RopeError};

/// Calls `make` and waits for what wgpu reports of everything made in it: memory that is out, objects that are refused, a lost device.
///
/// Natively the functions of this crate return such errors by themselves. **In a browser** wgpu reports later than it returns an object, so
/// they cannot; there this awaits the reports, and returns them in place of what was made. Whatever else `make` does with the device,
/// such as making buffers, is watched as well. Error scopes are pushed and popped before the first await, so nothing else that
/// happens meanwhile is caught.
///
/// A lost device is seen natively; in a browser no error scope tells of it, and the application's own `device.lost` callback does.
///
/// ```no_run
/// use wgpu_rope::{CosSinTable, KernelOptions, RopeKernel, TableSpec, checked, wgpu};
/// # async fn set_up(device: &wgpu::Device, spec: &TableSpec) -> wgpu_rope::Result<(RopeKernel, CosSinTable)> {
/// let (kernel, table) = checked(device, || {
///     let kernel = RopeKernel::new(device, &KernelOptions::default())?;
///     let table = kernel.table(spec, 4096)?;
///     Ok((kernel, table))
/// })
/// .await?;
/// # Ok((kernel, table)) }
/// ```
///
/// # Errors
/// Those of `make`; [`RopeError::OutOfMemory`] and [`RopeError::Device`] for what wgpu reports.
pub async fn checked<T>(device: &wgpu::Device, make: impl FnOnce() -> Result<T>) -> Result<T> {
    checked_as(device, "objects", None, make).await
}

/// The same for objects that have a name, and a size.
pub(crate) async fn checked_as<T>(
    device: &wgpu::Device,
    operand: &'static str,
    bytes: Option<u64>,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match watched(device, operand, bytes, true, make).await {
        (made, None) => made,
        // What went wrong with one object knows more than what was heard of all; but that memory is out is why others failed.
        (Err(error), Some(report)) if !matches!(report, RopeError::OutOfMemory { .. }) => {
            Err(error)
        }
        (_, Some(report)) => Err(report),
    }
}

/// Makes an object (of so many bytes, if it has a size) and turns what wgpu reports into an error, instead of leaving it to the
/// application's handler.
///
/// In a browser the report would come later than the object; there it goes to whoever awaits [`checked`], or else to the application's
/// handler.
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    operand: &'static str,
    bytes: Option<u64>,
    make: impl FnOnce() -> T,
) -> Result<T> {
    scoped_if(device, operand, bytes, true, make)
}

/// The same but for a lost device, which is not looked for: that takes as long as making a bind group does, and bind groups are made in every
/// step. Whoever submits or reads back hears of it.
pub(crate) fn scoped_in_a_step<T>(
    device: &wgpu::Device,
    operand: &'static str,
    make: impl FnOnce() -> T,
) -> Result<T> {
    scoped_if(device, operand, None, false, make)
}

fn scoped_if<T>(
    device: &wgpu::Device,
    operand: &'static str,
    bytes: Option<u64>,
    looks: bool,
    make: impl FnOnce() -> T,
) -> Result<T> {
    #[cfg(target_arch = "wasm32")]
    {
        let _ = (device, operand, bytes, looks);
        Ok(make())
    }
    #[cfg(not(target_arch = "wasm32"))]
    // Ready at once on every native backend.
    match pollster::block_on(watched(device, operand, bytes, looks, make)) {
        (made, None) => Ok(made),
        (_, Some(report)) => Err(report),
    }
}

/// Makes something and waits for what wgpu has to say of it; `looks` for a lost device, of which it says nothing.
async fn watched<T>(
    device: &wgpu::Device,
    operand: &'static str,
    bytes: Option<u64>,
    looks: bool,
    make: impl FnOnce() -> T,
) -> (T, Option<RopeError>) {
    let (made, validation, memory, internal) = {
        // Dropped in reverse order where `make` panics, as scopes have to be.
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        (made, validation.pop(), memory.pop(), internal.pop())
    };
    let (validation, memory, internal) = (validation.await, memory.await, internal.await);
    // The use of an object that was not made is reported too: the reason comes first.
    let report = if memory.is_some() {
        Some(RopeError::OutOfMemory { operand, bytes })
    } else if looks && is_lost(device) {
        Some(lost(operand))
    } else {
        internal.or(validation).map(|error| RopeError::Device {
            operand,
            message: error.to_string(),
        })
    };
    (made, report)
}

/// The error of a device that [`is_lost`].
pub(crate) fn lost(operand: &'static str) -> RopeError {
    RopeError::Device {
        operand,
        message: "the device is lost".to_owned(),
    }
}

/// Whether a device is lost or destroyed. wgpu tells nobody but the device's callback, which is the application's, and goes on giving out
/// objects that are invalid; no error scope hears of it. In a browser it cannot be seen at all.
pub(crate) fn is_lost(device: &wgpu::Device) -> bool {
    #[cfg(target_arch = "wasm32")]
    {
        let _ = device;
        false
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let watch = |filter| device.push_error_scope(filter);
        let descriptor = wgpu::BufferDescriptor {
            label: Some("wgpu-rope is the device lost?"),
            size: 4,
            usage: wgpu::BufferUsages::empty(),
            mapped_at_creation: false,
        };
        // A buffer for nothing is refused by a device that works, before any memory is asked for; that costs a microsecond.
        let validation = watch(wgpu::ErrorFilter::Validation);
        drop(device.create_buffer(&descriptor));
        if pollster::block_on(validation.pop()).is_some() {
            return false;
        }
        // Nothing was said. A buffer that can be mapped settles it; that costs an allocation.
        let scopes = [
            watch(wgpu::ErrorFilter::Internal),
            watch(wgpu::ErrorFilter::OutOfMemory),
            watch(wgpu::ErrorFilter::Validation),
        ];
        let probe = device.create_buffer(&wgpu::BufferDescriptor {
            usage: wgpu::BufferUsages::MAP_WRITE,
            mapped_at_creation: true,
            ..descriptor
        });
        let is_lost = probe.get_mapped_range(..).is_err();
        for scope in scopes.into_iter().rev() {
            drop(scope.pop());
        }
        is_lost
    }
}
