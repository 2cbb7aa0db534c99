//! burn's `RotaryEncoding` on its wgpu backend, on the device that it makes for itself and shares with all others.

use std::iter::zip;

use ::burn::nn::{RotaryEncoding, RotaryEncodingConfig};
use ::burn::tensor::{Device, Tensor, TensorData};

use crate::workload::{HEAD_DIM, THETA, Workload};
use crate::{Candidate, Result};

pub(crate) const NAME: &str = if cfg!(feature = "burn-defaults") {
    "burn `RotaryEncoding`, fusion and autotune"
} else {
    "burn `RotaryEncoding`, no fusion, no autotune"
};

pub(crate) struct Burn {
    device: Device,
    tokens: u32,
    inputs: [Tensor<4>; 2],
    encoding: Option<RotaryEncoding>,
    outputs: Option<[Tensor<4>; 2]>,
}

impl Burn {
    pub(crate) fn new(device: &Device, workload: &Workload) -> Self {
        let [q, k] = &workload.tensors;
        let [q_shape, k_shape] = workload.shapes();
        let upload = |tensor: &Vec<f32>, shape: [usize; 4]| {
            Tensor::from_data(TensorData::new(tensor.clone(), shape), device)
        };
        Self {
            device: device.clone(),
            tokens: workload.tokens,
            inputs: [upload(q, q_shape), upload(k, k_shape)],
            encoding: None,
            outputs: None,
        }
    }
}

impl Candidate for Burn {
    /// Takes the first position: a call has one start for all of a batch.
    fn set_up(&mut self, positions: &[i32]) -> Result<()> {
        let start = usize::try_from(*positions.first().ok_or("no position")?)?;
        let mut encoding = RotaryEncodingConfig::new(self.tokens as usize, HEAD_DIM as usize)
            .with_theta(THETA)
            .init(&self.device);
        // Its table is a window of positions, which cannot be moved to where it is.
        if start > 0 {
            encoding.shift(start);
        }
        self.encoding = Some(encoding);
        Ok(self.device.sync()?)
    }

    fn rotate(&mut self) -> Result<()> {
        let encoding = self.encoding.as_ref().ok_or("not set up")?;
        // The last result's memory is free for this one's.
        self.outputs = None;
        self.outputs = Some(self.inputs.clone().map(|input| encoding.forward(input)));
        Ok(self.device.sync()?)
    }

    fn read(&self) -> Result<[Vec<f32>; 2]> {
        let outputs = self.outputs.as_ref().ok_or("not rotated")?;
        let mut read = [Vec::new(), Vec::new()];
        for (read, output) in zip(&mut read, outputs) {
            *read = output.clone().try_into_data()?.try_into_vec()?;
        }
        Ok(read)
    }
}
