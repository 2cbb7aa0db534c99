//! On the CPU, in place: wgpu-rope's twin of its shaders, and the floor of what the CPU can do.

use rayon::prelude::*;
use wgpu_rope::{Frequencies, Pairing, RotateSpec, TableSpec, reference};

use crate::gpu::{config, spec};
use crate::workload::Workload;
use crate::{Candidate, Result};

pub(crate) struct Twin<'a> {
    workload: &'a Workload,
    spec: RotateSpec,
    table: TableSpec,
    rows: Vec<[f32; 2]>,
    tensors: [Vec<f32>; 2],
}

impl<'a> Twin<'a> {
    pub(crate) fn new(workload: &'a Workload, pairing: Pairing) -> Result<Self> {
        let config = config(pairing);
        Ok(Self {
            workload,
            spec: spec(&config, workload),
            table: TableSpec::new(&Frequencies::new(&config)?),
            rows: Vec::new(),
            tensors: [Vec::new(), Vec::new()],
        })
    }
}

impl Candidate for Twin<'_> {
    fn set_up(&mut self, positions: &[i32]) -> Result<()> {
        self.tensors = self.workload.tensors.clone();
        self.rows = reference::table(&self.table, positions.into())?;
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        let [q, k] = &mut self.tensors;
        Ok(reference::rotate(&self.spec, &self.rows, q, Some(k))?)
    }

    fn read(&self) -> Result<[Vec<f32>; 2]> {
        Ok(self.tensors.clone())
    }
}

/// `x = x * c` over both tensors, on all threads.
pub(crate) struct Pass {
    chunk: usize,
    tensors: [Vec<f32>; 2],
}

impl Pass {
    /// With these many values in a piece of a thread's work.
    pub(crate) fn new(workload: &Workload, chunk: usize) -> Self {
        Self {
            chunk,
            tensors: workload.tensors.clone(),
        }
    }
}

impl Candidate for Pass {
    fn rotate(&mut self) -> Result<()> {
        for tensor in &mut self.tensors {
            tensor.par_chunks_mut(self.chunk).for_each(|chunk| {
                chunk.iter_mut().for_each(|x| *x *= 0.999_999_94);
            });
        }
        Ok(())
    }
}
