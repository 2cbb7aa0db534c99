//! wgpu-rope itself, and the tensors on the device that it shares with everything else that works in place.

use wgpu_rope::{
    CosSinTable, ElementType, Frequencies, GpuContext, HeadLayout, Operands, Pairing, Positions,
    RopeConfig, RopeDispatch, RopePlan, RotateSpec, Rows, TableFill, TableSpec,
};

use crate::measure::{Plain, floors};
use crate::workload::{HEAD_DIM, HEADS, KV_HEADS, THETA, Workload};
use crate::{Candidate, Result};

pub(crate) fn config(pairing: Pairing) -> RopeConfig {
    RopeConfig::new(HEAD_DIM)
        .with_theta(THETA.into())
        .with_pairing(pairing)
}

pub(crate) fn spec(config: &RopeConfig, workload: &Workload) -> RotateSpec {
    let layout = |heads| HeadLayout::bhsd(workload.tokens, heads, HEAD_DIM);
    let (batch, tokens) = (workload.batch, workload.tokens);
    RotateSpec::new(config, batch, tokens, layout(HEADS), ElementType::F32)
        .with_key(layout(KV_HEADS), ElementType::F32)
        .with_rows(Rows::PerToken)
}

/// Q and K of a workload on the device.
pub(crate) struct Tensors<'a> {
    pub(crate) context: &'a GpuContext,
    pub(crate) workload: &'a Workload,
    /// Q and K.
    pub(crate) buffers: [wgpu::Buffer; 2],
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(context: &'a GpuContext, workload: &'a Workload) -> Result<Self> {
        let [q, k] = &workload.tensors;
        let usage = wgpu::BufferUsages::empty();
        Ok(Self {
            context,
            workload,
            buffers: [context.upload(q, usage)?, context.upload(k, usage)?],
        })
    }

    /// Makes them what they were before any rotation.
    pub(crate) fn reload(&self) {
        for (buffer, tensor) in self.buffers.iter().zip(&self.workload.tensors) {
            let bytes = bytemuck::cast_slice(tensor);
            self.context.queue().write_buffer(buffer, 0, bytes);
        }
    }

    pub(crate) fn read(&self) -> Result<[Vec<f32>; 2]> {
        let [q, k] = &self.buffers;
        let [query, key] = &self.workload.tensors;
        Ok([
            self.context.read_blocking(q, query.len())?,
            self.context.read_blocking(k, key.len())?,
        ])
    }

    /// One submission, until the device is done.
    pub(crate) fn run(
        &self,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>) -> wgpu_rope::Result<()>,
    ) -> Result<()> {
        self.context.run(record)?;
        Ok(self.context.wait()?)
    }

    /// In-place passes of several shapes over both tensors.
    pub(crate) fn floors(&self) -> impl Iterator<Item = (String, Floor<'_>)> {
        let [q, k] = &self.buffers;
        floors(self.context, &[[q.slice(..), k.slice(..)]], 16, 16)
            .into_iter()
            .map(|plain| (plain.name.clone(), Floor { on: self, plain }))
    }
}

/// wgpu-rope: a table and a rotation.
pub(crate) struct Rope<'a> {
    on: &'a Tensors<'a>,
    table: CosSinTable,
    fill: Option<TableFill>,
    rotation: RopeDispatch,
    /// Whether the table is filled in every call, or before.
    fills: bool,
}

impl<'a> Rope<'a> {
    pub(crate) fn new(on: &'a Tensors<'a>, pairing: Pairing, fills: bool) -> Result<Self> {
        let config = config(pairing);
        let kernel = on.context.kernel();
        let frequencies = Frequencies::new(&config)?;
        let table = kernel.table(&TableSpec::new(&frequencies), on.workload.rows())?;
        let plan = RopePlan::new(&spec(&config, on.workload), kernel.limits())?;
        let [q, k] = &on.buffers;
        let operands = Operands::new(q.slice(..)).with_key(k.slice(..));
        let rotation = kernel.prepare(&plan)?.bind(&operands, &table)?;
        Ok(Self {
            on,
            table,
            fill: None,
            rotation,
            fills,
        })
    }
}

impl Candidate for Rope<'_> {
    fn set_up(&mut self, positions: &[i32]) -> Result<()> {
        self.on.reload();
        let ids = (self.on.context).upload(positions, wgpu::BufferUsages::empty())?;
        let fill = self.table.bind_positions(Positions::Ids(ids.slice(..)))?;
        self.on.run(|pass| fill.record(pass, fill.rows()))?;
        self.fill = Some(fill);
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        self.on.run(|pass| {
            if let Some(fill) = self.fill.as_ref().filter(|_| self.fills) {
                fill.record(pass, fill.rows())?;
            }
            self.rotation.record(pass, self.on.workload.tokens)
        })
    }

    fn read(&self) -> Result<[Vec<f32>; 2]> {
        self.on.read()
    }
}

/// The cheapest thing that can be done to both tensors in place.
pub(crate) struct Floor<'a> {
    on: &'a Tensors<'a>,
    plain: Plain,
}

impl Candidate for Floor<'_> {
    fn rotate(&mut self) -> Result<()> {
        self.on.run(|pass| {
            self.plain.record(pass, 0);
            Ok(())
        })
    }
}
