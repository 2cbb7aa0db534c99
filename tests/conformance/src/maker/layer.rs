//! Layers as vectors: norms, rotation, factor, conversion and caches.

use std::collections::BTreeMap;

use wgpu_rope::half::f16;
use wgpu_rope::reference::{LayerTable, SlotLists};
use wgpu_rope::{
    Direction, ElementType, Frequencies, Limits, Norm, Operand, Place, Places, PositionSource,
    QueryScale, Resource, RopeConfig, RopePlan, RotateSpec, SlotRanges, SlotSource, Storage,
    TablePlan, TableSpec, reference,
};

use super::{CANARY, Filled, Maker, POSITIONS, of_i32, table_within, values_of};
use crate::vectors::{Failure, Values, Vector};
use crate::verdict::values;

/// A layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) frequencies: Frequencies,
    pub(crate) spec: RotateSpec,
    pub(crate) direction: Direction,
    pub(crate) slots: Vec<i32>,
    pub(crate) scale: Option<QueryScale>,
    /// Whether the rows and slots of the table are filled by dispatches before; by the CPU otherwise.
    pub(crate) is_filled: bool,
    /// Where operands are; those that are not named have buffers of their own, weights one for all.
    pub(crate) places: Vec<(Operand, Place)>,
    /// What offsets of the others are multiples of.
    pub(crate) alignment: u64,
    /// Operands whose first half is 0.
    pub(crate) zeros: Vec<Operand>,
    pub(crate) limits: Limits,
}

/// Which buffer an operand is in.
type ByOperand = BTreeMap<Operand, Place>;

impl Layer {
    /// Planned for a GPU.
    pub(crate) fn new(config: &RopeConfig, spec: RotateSpec) -> Result<Self, Failure> {
        Ok(Self {
            frequencies: Frequencies::new(config)?,
            spec,
            direction: Direction::Forward,
            slots: Vec::new(),
            scale: None,
            is_filled: false,
            places: Vec::new(),
            alignment: 16,
            zeros: Vec::new(),
            limits: Limits::default(),
        })
    }

    fn table(&self) -> TableSpec {
        let spec = TableSpec::new(&self.frequencies)
            .with_direction(self.direction)
            .with_slots(self.spec.slots_needed());
        match &self.scale {
            Some(scale) => spec.with_query_scale(scale.clone()),
            None => spec,
        }
    }

    fn places(&self) -> Result<ByOperand, Failure> {
        let mut all: ByOperand = self.places.iter().copied().collect();
        let mut next = all
            .values()
            .map(|place| place.buffer + 1)
            .max()
            .unwrap_or(0);
        let mut weights: Option<Place> = None;
        for (operand, bytes) in self.spec.operands()? {
            if all.contains_key(&operand) {
                continue;
            }
            let own = Place {
                buffer: next,
                offset: self.alignment * u64::from(next % 3),
            };
            let place = if is_weight(operand) {
                let place = weights.unwrap_or(own);
                weights = Some(Place {
                    offset: place.offset + bytes,
                    ..place
                });
                place
            } else {
                own
            };
            next = next.max(place.buffer + 1);
            all.insert(operand, place);
        }
        Ok(all)
    }

    fn storage(&self, operand: Operand) -> Storage {
        let spec = &self.spec;
        let view = match operand {
            Operand::Query => Some(spec.query()),
            Operand::Key => spec.key(),
            Operand::Value => spec.value(),
            Operand::QueryTo => spec.query_to(),
            Operand::KeyTo => spec.key_to(),
            Operand::ValueTo => spec.value_to(),
            Operand::QueryWeight | Operand::KeyWeight | Operand::ValueWeight => {
                let norm = match operand {
                    Operand::QueryWeight => spec.query_norm(),
                    Operand::KeyWeight => spec.key_norm(),
                    _ => spec.value_norm(),
                };
                return norm.and_then(Norm::weight_type).unwrap_or_default().into();
            }
            _ => None,
        };
        view.map_or(ElementType::F32.into(), |view| view.storage())
    }

    /// What a buffer holds, if all of it is of one type.
    fn values(&self, places: &ByOperand, buffer: u32) -> Result<Values, Failure> {
        let mut kinds = places
            .iter()
            .filter(|(_, place)| place.buffer == buffer)
            .map(|(&operand, _)| self.storage(operand));
        let first = kinds.next();
        match first.filter(|first| kinds.all(|other| other == *first)) {
            Some(Storage::Float(element)) => values_of(element),
            _ => Ok(Values::U32),
        }
    }
}

impl Maker {
    pub(crate) fn layer(&mut self, group: &str, name: &str, layer: &Layer) -> Result<(), Failure> {
        let mut vector = Self::vector(group, name);
        let spec = &layer.spec;
        let table = layer.table();
        let rows = u32::try_from(spec.rows_needed(spec.tokens()))?.max(1);
        let ids: Vec<_> = POSITIONS.into_iter().cycle().take(rows as usize).collect();
        let plan = TablePlan::new(&table, rows, &layer.limits)?;
        let entries = reference::table(&table, (&ids).into())?;
        let scales = match layer.scale {
            Some(_) => reference::query_scales(&table, (&ids).into())?,
            None => Vec::new(),
        };
        let (slots, skipped) = layer.slots()?;
        let bits: Vec<_> = entries
            .iter()
            .map(|entry| entry.map(f32::to_bits))
            .collect();
        let filled = Filled {
            entries: &bits,
            faults: 0,
            skipped,
            slots: &slots,
            scales: &scales,
        };
        let table = if layer.is_filled {
            let within = (
                Values::F32,
                table_within(layer.frequencies.attention_factor()),
            );
            let table = self.add_rows(&mut vector, &plan, within, filled);
            self.add_fills(&mut vector, &plan, layer, &ids, table)?;
            table
        } else {
            let (_, words) = Self::rows_of(&plan, filled);
            self.input(&mut vector, &words)
        };

        let places = layer.places()?;
        let before = self.tensors(layer, &places)?;
        let mut after = before.clone();
        let read = LayerTable {
            rows: &entries,
            slots: &slots,
            scales: &scales,
        };
        let all: Places = places
            .iter()
            .map(|(&operand, &place)| (operand, place))
            .collect();
        reference::layer(spec, read, all.clone(), &mut after)?;
        let mut buffers = Vec::new();
        for (number, (initial, expected)) in (0..).zip(before.iter().zip(&after)) {
            let is_read = places
                .iter()
                .any(|(&operand, place)| place.buffer == number && is_weight(operand));
            buffers.push(if is_read {
                self.input(&mut vector, initial)
            } else {
                let values = layer.values(&places, number)?;
                let within = (values, layer_within(values, expected));
                let [initial, expected] =
                    [initial, expected].map(|words| bytemuck::cast_slice(words));
                self.output(&mut vector, within, initial, expected)
            });
        }
        let dispatches = RopePlan::new(spec, &layer.limits)?.dispatches(all.with_table(&plan))?;
        // What takes the place of tensors that a dispatch does not have; nobody writes it either.
        let ends = dispatches.iter().flat_map(|planned| &planned.bindings);
        let ends = ends.filter(|bound| bound.resource == Resource::Unused);
        let unused = ends
            .map(|bound| bound.bytes.end)
            .max()
            .map(|end| -> Result<_, Failure> {
                let canaries = vec![CANARY; usize::try_from(end / 4)?];
                let bytes: &[u8] = bytemuck::cast_slice(&canaries);
                Ok(self.output(&mut vector, (Values::U32, 0.0), bytes, bytes))
            });
        let unused = unused.transpose()?.unwrap_or(table);
        for planned in dispatches {
            let buffer = |resource| match resource {
                Resource::Tensor(operand) => buffers[places[&operand].buffer as usize],
                Resource::Unused => unused,
                _ => table,
            };
            self.dispatch(&mut vector, "layer", &planned, spec.tokens(), buffer)?;
        }
        self.vectors.vectors.push(vector);
        Ok(())
    }

    /// The fills of rows and slots.
    fn add_fills(
        &mut self,
        vector: &mut Vector,
        plan: &TablePlan,
        layer: &Layer,
        ids: &[i32],
        table: usize,
    ) -> Result<(), Failure> {
        let bytes = |list: &[i32]| 0..list.len() as u64 * 4;
        let pairs = self.input(vector, plan.pairs());
        let positions = self.input(vector, &of_i32(ids));
        for planned in plan.fill(PositionSource::Runs(1), bytes(ids), [0; 2])? {
            let buffer = |resource| match resource {
                Resource::Pairs => pairs,
                Resource::Positions => positions,
                _ => table,
            };
            self.dispatch(vector, "table", &planned, plan.rows(), buffer)?;
        }
        if let Some(source) = layer.slot_source() {
            let mapping = self.input(vector, &of_i32(&layer.slots));
            let ranges = SlotRanges {
                positions: bytes(&layer.slots),
                ..SlotRanges::default()
            };
            for planned in plan.fill_slots(&source, &ranges)? {
                let buffer = |resource| match resource {
                    Resource::SlotMapping => mapping,
                    _ => table,
                };
                self.dispatch(vector, "table", &planned, source.tokens(), buffer)?;
            }
        }
        Ok(())
    }

    /// All buffers, with values that are fit for whose they are, and some words behind the last.
    fn tensors(&mut self, layer: &Layer, places: &ByOperand) -> Result<Vec<Vec<u32>>, Failure> {
        let needed = layer.spec.operands()?;
        let range = |operand: Operand, bytes: u64| -> Result<_, Failure> {
            let start = usize::try_from(places[&operand].offset / 4)?;
            Ok(start..start + usize::try_from(bytes / 4)?)
        };
        let mut buffers = Vec::<Vec<u32>>::new();
        for &(operand, bytes) in &needed {
            let buffer = places[&operand].buffer as usize;
            let length = range(operand, bytes)?.end + 5;
            if buffers.len() <= buffer {
                buffers.resize(buffer + 1, Vec::new());
            }
            let had = buffers[buffer].len();
            buffers[buffer].resize(length.max(had), CANARY);
        }
        for &(operand, bytes) in &needed {
            let range = range(operand, bytes)?;
            let mut words = match layer.storage(operand) {
                Storage::Float(element) => {
                    let bytes = self.noise(range.len() * 4, element);
                    bytemuck::pod_collect_to_vec(&bytes)
                }
                // A scale in front of 16 pairs of bytes.
                Storage::Q8_0 => {
                    let half = |n: usize| match n % 17 {
                        0 => u32::from(f16::from_f32(0.5 + (n % 7) as f32 * 0.37).to_bits()),
                        _ => self.random() >> 16,
                    };
                    let halves: Vec<_> = (0..range.len() * 2).map(half).collect();
                    let words = halves.chunks(2).map(|pair| pair[0] | (pair[1] << 16));
                    words.collect()
                }
                _ => range.clone().map(|_| self.random()).collect::<Vec<_>>(),
            };
            if layer.zeros.contains(&operand) {
                let half = words.len() / 2;
                words[..half].fill(0);
            }
            buffers[places[&operand].buffer as usize][range].copy_from_slice(&words);
        }
        Ok(buffers)
    }
}

impl Layer {
    fn slot_source(&self) -> Option<SlotSource> {
        let (needed, tokens) = (self.spec.slots_needed(), self.spec.tokens());
        (needed > 0).then(|| SlotSource::Listed {
            batch: needed / tokens,
            tokens,
            capacity: i32::MAX.cast_unsigned(),
        })
    }

    /// The slots in the table, and how many of them are none.
    fn slots(&self) -> Result<(Vec<i32>, u32), Failure> {
        match self.slot_source().filter(|_| self.is_filled) {
            Some(source) => {
                let lists = SlotLists {
                    positions: &self.slots,
                    ..SlotLists::default()
                };
                Ok(reference::slots(&source, lists)?)
            }
            None => Ok((self.slots.clone(), 0)),
        }
    }
}

fn is_weight(operand: Operand) -> bool {
    matches!(
        operand,
        Operand::QueryWeight | Operand::KeyWeight | Operand::ValueWeight
    )
}

/// How far two layers may be apart that round as they like: some 64 roundings, one after the other, of what is at most as large as the
/// largest value, and one where it is stored. What is quantised has to be equal.
fn layer_within(kind: Values, words: &[u32]) -> f64 {
    let stored = match kind {
        Values::U32 => return 0.0,
        Values::F32 => 0.0,
        Values::F16 => 2_f64.powi(-11),
        Values::Bf16 => 2_f64.powi(-8),
    };
    let tensors: Vec<_> = words
        .iter()
        .filter(|word| **word != CANARY)
        .copied()
        .collect();
    let all = values(bytemuck::cast_slice(&tensors), kind);
    let most = all.fold(0.0, |most: f64, (_, value)| most.max(value.abs()));
    most * (2_f64.powi(-18) + stored)
}
