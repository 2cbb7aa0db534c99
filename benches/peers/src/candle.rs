//! candle-nn's `rope` and `rope_i` on the CPU.

use std::iter::zip;

use candle_core::{Device, Tensor};
use candle_nn::rotary_emb::{rope, rope_i};
use wgpu_rope::Pairing;

use crate::workload::{PAIRS, Workload};
use crate::{Candidate, Result, f32_table};

pub(crate) fn name(pairing: Pairing) -> &'static str {
    match pairing {
        Pairing::Interleaved => "candle-nn `rope_i`",
        _ => "candle-nn `rope`",
    }
}

pub(crate) struct Candle {
    pairing: Pairing,
    /// Batch and tokens.
    rows: [usize; 2],
    inputs: [Tensor; 2],
    cos_sin: Option<[Tensor; 2]>,
    outputs: Option<[Tensor; 2]>,
}

impl Candle {
    pub(crate) fn new(workload: &Workload, pairing: Pairing) -> Result<Self> {
        let [q, k] = &workload.tensors;
        let [q_shape, k_shape] = workload.shapes();
        Ok(Self {
            pairing,
            rows: [workload.batch, workload.tokens].map(|n| n as usize),
            inputs: [
                Tensor::from_slice(q, &q_shape, &Device::Cpu)?,
                Tensor::from_slice(k, &k_shape, &Device::Cpu)?,
            ],
            cos_sin: None,
            outputs: None,
        })
    }
}

impl Candidate for Candle {
    fn set_up(&mut self, positions: &[i32]) -> Result<()> {
        let table = f32_table(positions);
        let [batch, tokens] = self.rows;
        let pairs = PAIRS as usize;
        let tensor = |part: usize| {
            let values: Vec<f32> = table.iter().map(|entry| entry[part]).collect();
            Tensor::from_vec(values, (batch, tokens, pairs), &Device::Cpu)
        };
        self.cos_sin = Some([tensor(0)?, tensor(1)?]);
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        let [cos, sin] = self.cos_sin.as_ref().ok_or("not set up")?;
        let rope = match self.pairing {
            Pairing::Interleaved => rope_i,
            _ => rope,
        };
        // The last result's memory is free for this one's.
        self.outputs = None;
        let [q, k] = &self.inputs;
        self.outputs = Some([rope(q, cos, sin)?, rope(k, cos, sin)?]);
        Ok(())
    }

    fn read(&self) -> Result<[Vec<f32>; 2]> {
        let outputs = self.outputs.as_ref().ok_or("not rotated")?;
        let mut read = [Vec::new(), Vec::new()];
        for (read, output) in zip(&mut read, outputs) {
            *read = output.flatten_all()?.to_vec1()?;
        }
        Ok(read)
    }
}
