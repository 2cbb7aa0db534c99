//! The override constants of `shaders/layer.wgsl` that each stream has under a name of its own.

/// Values of a stream's override constants, source before destination.
#[derive(Debug, Default)]
pub(super) struct StreamConstants {
    pub(super) dim: u32,
    pub(super) binding: [u32; 2],
    pub(super) storage: [f64; 2],
    pub(super) scales: [u32; 2],
    pub(super) slots: [bool; 2],
    pub(super) lanes: u32,
    pub(super) rounds: u32,
    pub(super) norm: f64,
    pub(super) adds: bool,
}

/// Names of a stream's override constants.
pub(super) struct Names {
    dim: &'static str,
    binding: [&'static str; 2],
    storage: [&'static str; 2],
    scales: [&'static str; 2],
    slots: [&'static str; 2],
    lanes: &'static str,
    rounds: &'static str,
    norm: &'static str,
    adds: &'static str,
}

macro_rules! names {
    ($stream:literal) => {
        Names {
            dim: concat!($stream, "_DIM"),
            binding: [concat!($stream, "_FROM"), concat!($stream, "_TO")],
            storage: [concat!($stream, "_FROM_TYPE"), concat!($stream, "_TO_TYPE")],
            scales: [
                concat!($stream, "_FROM_SCALES"),
                concat!($stream, "_TO_SCALES"),
            ],
            slots: [
                concat!($stream, "_FROM_SLOTS"),
                concat!($stream, "_TO_SLOTS"),
            ],
            lanes: concat!($stream, "_LANES"),
            rounds: concat!($stream, "_ROUNDS"),
            norm: concat!($stream, "_NORM"),
            adds: concat!($stream, "_ADDS"),
        }
    };
}

pub(super) const CONSTANTS: [Names; 3] = [names!("QUERY"), names!("KEY"), names!("VALUE")];

impl Names {
    pub(super) fn of(&self, values: &StreamConstants) -> Vec<(&'static str, f64)> {
        // What a stream that is not there does not do is the same for all plans, so that pipelines are shared.
        let least = |value: u32| f64::from(value.max(1));
        let mut all = vec![
            (self.dim, values.dim.into()),
            (self.lanes, least(values.lanes)),
            (self.rounds, least(values.rounds)),
            (self.norm, values.norm),
            (self.adds, f64::from(u8::from(values.adds))),
        ];
        for n in [0, 1] {
            all.extend([
                (self.binding[n], values.binding[n].into()),
                (self.storage[n], values.storage[n]),
                (self.scales[n], values.scales[n].into()),
                (self.slots[n], f64::from(u8::from(values.slots[n]))),
            ]);
        }
        all
    }
}
