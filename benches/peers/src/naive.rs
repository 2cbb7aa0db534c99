//! Float kernels as other WGSL projects have them: see `naive.wgsl` and `naive_table.wgsl`.

use wgpu_rope::Pairing;

use crate::gpu::Tensors;
use crate::measure::Plain;
use crate::workload::{HEADS, KV_HEADS, PAIRS, THETA};
use crate::{Candidate, Result, f32_table};

/// Where a kernel has its cos and sin from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Angles {
    /// Each thread computes them.
    InKernel,
    /// A table made by the host before.
    Table,
}

pub(crate) struct Naive<'a> {
    on: &'a Tensors<'a>,
    pairing: Pairing,
    angles: Angles,
    /// One for Q and one for K: such kernels take one tensor.
    dispatches: Vec<Plain>,
}

impl<'a> Naive<'a> {
    pub(crate) fn new(on: &'a Tensors<'a>, pairing: Pairing, angles: Angles) -> Self {
        Self {
            on,
            pairing,
            angles,
            dispatches: Vec::new(),
        }
    }
}

impl Candidate for Naive<'_> {
    fn set_up(&mut self, positions: &[i32]) -> Result<()> {
        self.on.reload();
        let (context, workload) = (self.on.context, self.on.workload);
        let usage = wgpu::BufferUsages::empty();
        let interleaved = f64::from(u8::from(self.pairing == Pairing::Interleaved));
        let mut constants = vec![("PAIRS", PAIRS.into()), ("INTERLEAVED", interleaved)];
        let (text, angles) = match self.angles {
            Angles::InKernel => {
                constants.push(("THETA", THETA.into()));
                let positions = context.upload(positions, usage)?;
                (include_str!("naive.wgsl"), positions)
            }
            Angles::Table => {
                let table = context.upload(&f32_table(positions), usage)?;
                (include_str!("naive_table.wgsl"), table)
            }
        };
        self.dispatches = (self.on.buffers.iter().zip([HEADS, KV_HEADS]))
            .map(|(tensor, heads)| {
                let constants = [&constants[..], &[("HEADS", heads.into())]].concat();
                let grid = [1, workload.tokens, workload.batch * heads];
                let buffers = vec![tensor.slice(..), angles.slice(..)];
                Plain::new(context, "naive", text, &constants, &[buffers], grid)
            })
            .collect();
        self.on.run(|_| Ok(()))
    }

    fn rotate(&mut self) -> Result<()> {
        self.on.run(|pass| {
            self.dispatches
                .iter()
                .for_each(|plain| plain.record(pass, 0));
            Ok(())
        })
    }

    fn read(&self) -> Result<[Vec<f32>; 2]> {
        self.on.read()
    }
}
