//! A layer on a device and by the CPU twin, whole buffers compared bit for bit.

use std::collections::BTreeMap;

use wgpu_rope::half::{bf16, f16};
use wgpu_rope::{
    AxisOrder, Direction, ElementType, Frequencies, GpuContext, Limits, Norm, Operand, Operands,
    Place, Places, Positions, QueryScale, RopeConfig, RopePlan, RotateSpec, RowPositions, Slots,
    Storage, TableSpec, reference,
};

use super::{NO_USAGE, name, values};

/// A layer, with the slots of its tokens and where its operands are.
#[derive(Debug, Clone)]
pub struct Case {
    pub config: RopeConfig,
    pub spec: RotateSpec,
    pub slots: Vec<i32>,
    pub scale: Option<QueryScale>,
    pub direction: Direction,
    /// In place of those of the configuration.
    pub frequencies: Option<Frequencies>,
    /// The positions of the rows, in place of others: `[rows, axes]`.
    pub positions: Option<Vec<i32>>,
    /// Tokens that are recorded, where they are not all. The twin takes those whose slots are left: all streams go to caches then.
    pub recorded: Option<u32>,
    /// Recorded with its workgroup counts in a buffer, so many more of them in each dimension than there have to be.
    pub indirect: Option<[u32; 3]>,
    /// Buffers of operands, and where they begin: a buffer of its own, a few words behind its start, for those that are not named.
    pub places: BTreeMap<Operand, Place>,
    /// Bytes that offsets of the others are multiples of.
    pub alignment: u64,
    /// Planned as for a GPU, whatever the device.
    pub as_gpu: bool,
    pub binding: Option<u64>,
    pub grid: Option<u32>,
    /// Planned for this alignment of bindings, the device's or coarser.
    pub coarser: Option<u32>,
    pub seed: u64,
}

impl Case {
    pub fn new(config: &RopeConfig, spec: RotateSpec, slots: &[i32]) -> Self {
        Self {
            config: config.clone(),
            spec,
            slots: slots.to_vec(),
            scale: None,
            direction: Direction::Forward,
            frequencies: None,
            positions: None,
            recorded: None,
            indirect: None,
            places: BTreeMap::new(),
            alignment: 16,
            as_gpu: false,
            binding: None,
            grid: None,
            coarser: None,
            seed: 1,
        }
    }

    /// Where every operand is.
    pub fn places(&self) -> BTreeMap<Operand, Place> {
        let mut out = self.places.clone();
        let mut next = out
            .values()
            .map(|place| place.buffer + 1)
            .max()
            .unwrap_or(0);
        let mut weights = None;
        for (operand, bytes) in self.spec.operands().unwrap() {
            if out.contains_key(&operand) {
                continue;
            }
            let is_weight = operand.name().ends_with("weight");
            let place = if let (true, Some(at)) = (is_weight, &mut weights) {
                let place: &mut Place = at;
                let here = *place;
                place.offset += bytes;
                here
            } else {
                let offset = self.alignment * u64::from(next % 3);
                let place = Place {
                    buffer: next,
                    offset,
                };
                next += 1;
                if is_weight {
                    weights = Some(Place {
                        offset: offset + bytes,
                        ..place
                    });
                }
                place
            };
            out.insert(operand, place);
        }
        out
    }

    fn storage(&self, operand: Operand) -> Storage {
        let view = match operand {
            Operand::Query => Some(*self.spec.query()),
            Operand::Key => self.spec.key().copied(),
            Operand::Value => self.spec.value().copied(),
            Operand::QueryTo => self.spec.query_to().copied(),
            Operand::KeyTo => self.spec.key_to().copied(),
            Operand::ValueTo => self.spec.value_to().copied(),
            Operand::QueryWeight | Operand::KeyWeight | Operand::ValueWeight => {
                let norm = match operand {
                    Operand::QueryWeight => self.spec.query_norm(),
                    Operand::KeyWeight => self.spec.key_norm(),
                    _ => self.spec.value_norm(),
                };
                return norm.and_then(Norm::weight_type).unwrap().into();
            }
            _ => None,
        };
        view.map_or(ElementType::F32.into(), |view| view.storage())
    }

    /// Buffers with values that are fit for whose they are.
    pub fn buffers(&self) -> Vec<Vec<u32>> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let needed = self.spec.operands().unwrap();
        let places = self.places();
        let count = places.values().map(|place| place.buffer + 1).max().unwrap();
        let mut buffers = vec![Vec::new(); count as usize];
        for &(operand, bytes) in &needed {
            let place = places[&operand];
            let words = usize::try_from((place.offset + bytes) / 4 + 5).unwrap();
            let buffer: &mut Vec<u32> = &mut buffers[place.buffer as usize];
            if buffer.len() < words {
                let more = words - buffer.len();
                buffer.extend(values(&mut random, more).into_iter().map(f32::to_bits));
            }
        }
        for &(operand, bytes) in &needed {
            let place = places[&operand];
            let range = usize::try_from(place.offset / 4).unwrap()..;
            let words =
                &mut buffers[place.buffer as usize][range][..usize::try_from(bytes / 4).unwrap()];
            match self.storage(operand) {
                Storage::Float(ElementType::F16) => words.iter_mut().for_each(|word| {
                    let two = values(&mut random, 2);
                    let [a, b] = [0, 1].map(|n| u32::from(f16::from_f32(two[n]).to_bits()));
                    *word = a | (b << 16);
                }),
                Storage::Float(ElementType::Bf16) => words.iter_mut().for_each(|word| {
                    let two = values(&mut random, 2);
                    let [a, b] = [0, 1].map(|n| u32::from(bf16::from_f32(two[n]).to_bits()));
                    *word = a | (b << 16);
                }),
                // A scale in front of 16 pairs of bytes.
                Storage::Q8_0 => {
                    for n in 0..words.len() * 2 {
                        let half = if n % 17 == 0 {
                            f16::from_f32(random.f32() + 0.01).to_bits()
                        } else {
                            random.u16(..)
                        };
                        let shift = n % 2 * 16;
                        words[n / 2] = words[n / 2] & !(0xffff << shift) | u32::from(half) << shift;
                    }
                }
                Storage::Int8 => words.iter_mut().for_each(|word| *word = random.u32(..)),
                _ => {}
            }
        }
        buffers
    }

    fn frequencies(&self) -> Frequencies {
        let own = || Frequencies::new(&self.config).unwrap();
        self.frequencies.clone().unwrap_or_else(own)
    }

    fn table_spec(&self, frequencies: &Frequencies) -> TableSpec {
        let spec = TableSpec::new(frequencies)
            .with_direction(self.direction)
            .with_slots(self.spec.slots_needed());
        match &self.scale {
            Some(scale) => spec.with_query_scale(scale.clone()),
            None => spec,
        }
    }

    /// Positions of the rows.
    pub fn positions(&self) -> Vec<i32> {
        if let Some(positions) = &self.positions {
            return positions.clone();
        }
        let rows = self.spec.rows_needed(self.spec.tokens()).max(1);
        (0..rows)
            .map(|row| 3 + 7 * i32::try_from(row).unwrap())
            .collect()
    }

    pub fn plan(&self, own: &Limits) -> wgpu_rope::Result<RopePlan> {
        let limits = Limits {
            cpu: own.cpu && !self.as_gpu,
            max_storage_buffer_binding_size: self
                .binding
                .unwrap_or(own.max_storage_buffer_binding_size),
            max_compute_workgroups_per_dimension: self
                .grid
                .unwrap_or(own.max_compute_workgroups_per_dimension),
            min_storage_buffer_offset_alignment: self
                .coarser
                .unwrap_or(own.min_storage_buffer_offset_alignment),
            ..*own
        };
        RopePlan::new(&self.spec, &limits)
    }

    /// What the twin makes of the buffers.
    pub fn twin(&self, buffers: &mut [Vec<u32>]) {
        let frequencies = self.frequencies();
        let spec = self.table_spec(&frequencies);
        let positions = self.positions();
        let positions = RowPositions::IdsPerAxis(&positions, AxisOrder::Last);
        let rows = reference::table(&spec, positions).unwrap();
        let scales = match self.scale {
            Some(_) => reference::query_scales(&spec, positions).unwrap(),
            None => Vec::new(),
        };
        let mut slots = self.slots.clone();
        if let Some(recorded) = self.recorded {
            let planned = self.spec.tokens() as usize;
            for entry in slots.chunks_mut(planned) {
                entry[recorded as usize..].fill(-1);
            }
        }
        let table = reference::LayerTable {
            rows: &rows,
            slots: &slots,
            scales: &scales,
        };
        let places: Places = self.places().into_iter().collect();
        reference::layer(&self.spec, table, places, buffers).unwrap();
    }

    /// Does it on a device; returns the buffers and the dispatches that it took.
    pub fn run(&self, context: &GpuContext, buffers: &[Vec<u32>]) -> (Vec<Vec<u32>>, usize) {
        let kernel = context.kernel();
        let frequencies = self.frequencies();
        let positions = self.positions();
        let ids = context.upload(&positions, NO_USAGE).unwrap();
        let rows = u32::try_from(positions.len()).unwrap() / frequencies.axes();
        let table = kernel.table(&self.table_spec(&frequencies), rows).unwrap();
        let fill = table
            .bind_positions(Positions::IdsPerAxis {
                ids: ids.slice(..),
                order: AxisOrder::Last,
            })
            .unwrap();
        let (tokens, needed) = (self.spec.tokens(), self.spec.slots_needed());
        let slots = (needed > 0).then(|| {
            let slots = context.upload(&self.slots, NO_USAGE).unwrap();
            table
                .bind_slots(Slots::Listed {
                    slot_mapping: slots.slice(..),
                    batch: needed / tokens,
                    tokens,
                    capacity: i32::MAX.unsigned_abs(),
                })
                .unwrap()
        });
        let prepared = kernel
            .prepare(&self.plan(kernel.limits()).unwrap())
            .unwrap();
        let uploaded: Vec<_> = buffers
            .iter()
            .map(|words| context.upload(words, NO_USAGE).unwrap())
            .collect();
        let places = self.places();
        let slice = |place: Place| uploaded[place.buffer as usize].slice(place.offset..);
        let mut operands = Operands::new(slice(places[&Operand::Query]));
        for (&operand, &place) in &places {
            operands = operands.with(operand, slice(place));
        }
        let dispatch = prepared.bind(&operands, &table).unwrap();
        let recorded = self.recorded.unwrap_or(tokens);
        let arguments = self.indirect.map(|more| {
            let [x, y, z] = dispatch.workgroups(recorded).unwrap();
            // Behind a word of something else.
            let words = [9, x + more[0], y + more[1], z + more[2]];
            context
                .upload(&words, wgpu::BufferUsages::INDIRECT)
                .unwrap()
        });
        context
            .run(|pass| {
                fill.record(pass, fill.rows())?;
                if let Some(slots) = &slots {
                    slots.record(pass, tokens)?;
                }
                match &arguments {
                    Some(arguments) => dispatch.record_indirect(pass, arguments, 4),
                    None => dispatch.record(pass, recorded),
                }
            })
            .unwrap();
        let read = uploaded
            .iter()
            .zip(buffers)
            .map(|(buffer, words)| context.read_blocking(buffer, words.len()).unwrap());
        (read.collect(), dispatch.planned().len())
    }

    /// Compares all words of all buffers. Returns the dispatches that it took.
    pub fn check(&self, context: &GpuContext, what: &str) -> usize {
        self.check_from(context, what, &self.buffers())
    }

    /// The same from these buffers on.
    pub fn check_from(&self, context: &GpuContext, what: &str, before: &[Vec<u32>]) -> usize {
        let mut expected = before.to_vec();
        self.twin(&mut expected);
        assert_ne!(before, expected, "{what}: nothing was done");
        let (got, dispatches) = self.run(context, before);
        for (n, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let differs = got.iter().zip(expected).position(|(a, b)| a != b);
            if let Some(at) = differs {
                let count = got.iter().zip(expected).filter(|(a, b)| a != b).count();
                let whose: Vec<_> = self
                    .places()
                    .into_iter()
                    .filter(|(_, place)| place.buffer as usize == n)
                    .collect();
                panic!(
                    "{what} on {}: {count} of {} words of buffer {n} ({whose:?}) differ, the first is {at}: {:#x} in place of {:#x}, {:#x} before",
                    name(context),
                    got.len(),
                    got[at],
                    expected[at],
                    before[n][at]
                );
            }
        }
        dispatches
    }
}
