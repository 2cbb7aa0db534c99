//! What tests look at in a model, and what they change.

use std::ops::Range;

use super::{Model, Result, wgpu};

impl Model {
    /// Forgets what it has read. What is in the cache is overwritten before it is looked at.
    pub(crate) fn reset(&mut self) {
        (self.read, self.oldest) = (0, 0);
    }

    /// Forgets the last token.
    pub(crate) fn take_back(&mut self) {
        self.read -= 1;
    }

    /// The tokens that are in the cache.
    pub(crate) fn kept(&self) -> Range<u32> {
        self.oldest..self.read
    }

    /// The keys of a layer: `[capacity, key heads, head_dim]`.
    pub(crate) fn keys(&self, layer: usize) -> Result<Vec<f32>> {
        let keys = &self.layers[layer].keys;
        let staging = self.gpu.staging(keys);
        let label = Some("keys");
        let mut encoder = self
            .gpu
            .device
            .create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        encoder.copy_buffer_to_buffer(keys, 0, &staging, 0, keys.size());
        self.gpu.queue.submit([encoder.finish()]);
        self.read_back(&staging)
    }

    pub(crate) fn set_keys(&self, layer: usize, keys: &[f32]) {
        let buffer = &self.layers[layer].keys;
        self.gpu
            .queue
            .write_buffer(buffer, 0, bytemuck::cast_slice(keys));
    }
}
