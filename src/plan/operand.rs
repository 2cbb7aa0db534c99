//! The tensors that a rotation is bound to.

/// A tensor that a rotation is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operand {
    /// The query, read, and written where it has no destination.
    Query,
    /// The key, likewise.
    Key,
    /// The value, likewise.
    Value,
    /// Where the query goes.
    QueryTo,
    /// Where the key goes.
    KeyTo,
    /// Where the value goes.
    ValueTo,
    /// Weights of the query's norm, read.
    QueryWeight,
    /// Weights of the key's norm, read.
    KeyWeight,
    /// Weights of the value's norm, read.
    ValueWeight,
    /// Scales of a query of int8, f32.
    QueryScales,
    /// Scales of a key of int8, f32.
    KeyScales,
    /// Scales of a value of int8, f32.
    ValueScales,
    /// Scales of a destination of int8, f32.
    QueryToScales,
    /// Scales of a destination of int8, f32.
    KeyToScales,
    /// Scales of a destination of int8, f32.
    ValueToScales,
    /// The slots in the table; no more than a place ([`Places::with_table`](crate::Places::with_table)).
    Slots,
    /// The factors of the query by row in the table ([`QueryFactor::PerRow`](crate::QueryFactor::PerRow)); no more than a place.
    RowFactors,
}

impl Operand {
    /// All that are bound, each at the place of its number.
    #[cfg(feature = "wgpu")]
    pub(crate) const BOUND: [Self; 15] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryTo,
        Self::KeyTo,
        Self::ValueTo,
        Self::QueryWeight,
        Self::KeyWeight,
        Self::ValueWeight,
        Self::QueryScales,
        Self::KeyScales,
        Self::ValueScales,
        Self::QueryToScales,
        Self::KeyToScales,
        Self::ValueToScales,
    ];

    /// What errors call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::QueryTo => "query destination",
            Self::KeyTo => "key destination",
            Self::ValueTo => "value destination",
            Self::QueryWeight => "query weight",
            Self::KeyWeight => "key weight",
            Self::ValueWeight => "value weight",
            Self::QueryScales => "query scales",
            Self::KeyScales => "key scales",
            Self::ValueScales => "value scales",
            Self::QueryToScales => "query destination scales",
            Self::KeyToScales => "key destination scales",
            Self::ValueToScales => "value destination scales",
            Self::Slots => "slots",
            Self::RowFactors => "query factors by row",
        }
    }

    /// Whether it is the weights of a norm, which are only read. Streams whose weights share a buffer share a dispatch.
    #[must_use]
    pub const fn is_weight(self) -> bool {
        matches!(
            self,
            Self::QueryWeight | Self::KeyWeight | Self::ValueWeight
        )
    }
}

/// The operands of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamOperands {
    pub(crate) source: Operand,
    pub(crate) destination: Operand,
    pub(crate) weight: Operand,
    pub(crate) source_scales: Operand,
    pub(crate) destination_scales: Operand,
}

pub(crate) const STREAMS: [StreamOperands; 3] = [
    StreamOperands {
        source: Operand::Query,
        destination: Operand::QueryTo,
        weight: Operand::QueryWeight,
        source_scales: Operand::QueryScales,
        destination_scales: Operand::QueryToScales,
    },
    StreamOperands {
        source: Operand::Key,
        destination: Operand::KeyTo,
        weight: Operand::KeyWeight,
        source_scales: Operand::KeyScales,
        destination_scales: Operand::KeyToScales,
    },
    StreamOperands {
        source: Operand::Value,
        destination: Operand::ValueTo,
        weight: Operand::ValueWeight,
        source_scales: Operand::ValueScales,
        destination_scales: Operand::ValueToScales,
    },
];

#[cfg(all(test, feature = "wgpu"))]
mod tests {
    use super::*;

    #[test]
    fn bound_operands_stand_at_the_places_of_their_numbers() {
        for (place, operand) in Operand::BOUND.into_iter().enumerate() {
            assert_eq!(operand as usize, place);
        }
        // Those of the table follow, and are not bound.
        assert_eq!(Operand::BOUND.len(), Operand::Slots as usize);
        for names in &STREAMS {
            for operand in [
                names.source,
                names.destination,
                names.weight,
                names.source_scales,
                names.destination_scales,
            ] {
                assert!(Operand::BOUND.contains(&operand), "{operand:?}");
            }
        }
    }
}
