//! Where the operands of a plan are: which buffers they share, and at which bytes they begin.

use super::TablePlan;
use super::operand::Operand;
use crate::error::{Result, RopeError};

/// Where query and key of a rotation in place are: byte offsets of their origins in their buffers (a layout's own offset comes on top). It is
/// a short way to write [`Places`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Placement {
    /// Byte offset of the query, a multiple of 4.
    pub query: u64,
    /// Byte offset of the key, a multiple of 4; 0 where there is no key.
    pub key: u64,
    /// Whether both are in one buffer. WebGPU does not allow two writable bindings of the same bytes, so they then
    /// share one binding over their union.
    pub shared: bool,
}

/// Where an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Place {
    /// Which buffer: operands of one buffer have the same number.
    pub buffer: u32,
    /// Byte offset of its origin in the buffer, a multiple of 4.
    pub offset: u64,
}

/// Where all operands of a plan are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Places(Vec<(Operand, Place)>);

impl Places {
    /// All that there are, in order of operands.
    pub fn iter(&self) -> impl Iterator<Item = (Operand, Place)> {
        self.0.iter().copied()
    }

    /// With the places of the slots and of the query's factors in a table. Layers that read them need it.
    #[must_use]
    pub fn with_table(self, table: &TablePlan) -> Self {
        let place = |offset| Place {
            buffer: u32::MAX,
            offset,
        };
        let of_table = [
            (Operand::Slots, place(table.slots_start())),
            (Operand::RowFactors, place(table.factors_start())),
        ];
        let others = self.0.into_iter();
        others
            .filter(|(operand, _)| !matches!(operand, Operand::Slots | Operand::RowFactors))
            .chain(of_table)
            .collect()
    }

    pub(crate) fn get(&self, operand: Operand) -> Result<Place> {
        self.0
            .iter()
            .find(|(known, _)| *known == operand)
            .map(|(_, place)| *place)
            .ok_or_else(|| {
                RopeError::layout(operand.name(), "is planned and must have a place", "none")
            })
    }
}

impl FromIterator<(Operand, Place)> for Places {
    fn from_iter<I: IntoIterator<Item = (Operand, Place)>>(places: I) -> Self {
        let mut all: Vec<_> = places.into_iter().collect();
        all.sort_by_key(|(operand, _)| *operand);
        Self(all)
    }
}

impl From<Placement> for Places {
    fn from(placement: Placement) -> Self {
        let query = Place {
            buffer: 0,
            offset: placement.query,
        };
        let key = Place {
            buffer: u32::from(!placement.shared),
            offset: placement.key,
        };
        [(Operand::Query, query), (Operand::Key, key)]
            .into_iter()
            .collect()
    }
}
