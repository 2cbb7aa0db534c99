//! Positions of more than one axis: which one turns a pair, and how fast.

use crate::error::{Result, RopeError};

/// The most axes a position may have.
pub const MAX_AXES: u32 = 16;

/// Which axis of a position each pair reads, and the exponent of its frequency.
///
/// A token of a text has one position; a token of an image or a video has one on each axis. With n pairs, pair k has the frequency
/// `theta^-e`, where e is k/n where exponents run on over all axes, and starts anew for each axis where they do not.
///
/// In the multimodal text models (M-RoPE, Wang et al., Qwen2-VL, arXiv:2409.12191, section 2.1) axis 0 is time, 1 height, 2 width; a
/// text token has the same position on all three.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Axes {
    /// One position for each token.
    #[default]
    One,
    /// So many pairs for each axis, one axis behind the other; exponents run on. M-RoPE's `mrope_section` (Qwen2-VL,
    /// Qwen2.5-VL, GLM-4.xV); XD-RoPE's `xdrope_section`, of four axes (Hunyuan-VL).
    Sectioned(Vec<u32>),
    /// Pairs by turns, time, height, width, time, …, as long as height and width have some of their pairs left; time has all others.
    /// An axis has no more pairs than it has turns within the window.
    /// Exponents run on. M-RoPE as Qwen3-VL has it (`mrope_interleaved`), whose `mrope_section` is `[time, height, width]`.
    Interleaved {
        /// Pairs of axis 1.
        height: u32,
        /// Pairs of axis 2.
        width: u32,
    },
    /// Pairs by turns of height and width first, the rest is time; exponents run on. Ernie 4.5 VL, whose `mrope_section` is
    /// `[height, width, time]`.
    SpatialFirst {
        /// Pairs of axis 1, and as many of axis 2.
        each: u32,
    },
    /// Pairs by turns of two axes, the first of axis 0; exponents run on (`NeoMME`).
    Alternating,
    /// Runs of pairs, each for one axis; exponents start anew: pair j of a run of m pairs has j/m. 2-D
    /// and 3-D vision (Qwen's vision towers, Llama 4's, Gemma 4's, DINOv3, SAM 2, MiniMax, Flux).
    Axial(Vec<AxisRun>),
    /// Axial, but axis a of m takes frequencies a, a + m, a + 2m, … of one list over all pairs (Pixtral, of 2 axes).
    AxialStrided(u32),
    /// Two axes with the same frequencies by turns: pairs 2j and 2j + 1 both have the exponent 2j/n, the first turned by axis 1, the
    /// second by axis 0 (Kimi's vision tower, whose axes are height and width).
    AxialAlternating,
}

/// Pairs behind each other that read one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AxisRun {
    /// The axis.
    pub axis: u32,
    /// How many pairs.
    pub pairs: u32,
}

impl Axes {
    /// [`Axes::Axial`] with the pairs in equal runs, one for each of these axes.
    #[must_use]
    pub fn axial(axes: &[u32], pairs: u32) -> Self {
        let pairs = pairs / u32::try_from(axes.len()).unwrap_or(u32::MAX).max(1);
        Self::Axial(axes.iter().map(|&axis| AxisRun { axis, pairs }).collect())
    }

    /// How many axes a position has.
    #[must_use]
    pub fn count(&self) -> u32 {
        match self {
            Self::One => 1,
            Self::Sectioned(pairs) => u32::try_from(pairs.len()).unwrap_or(u32::MAX),
            Self::Axial(runs) => {
                let last = runs.iter().map(|run| run.axis).max().unwrap_or(0);
                last.saturating_add(1)
            }
            Self::Interleaved { .. } | Self::SpatialFirst { .. } => 3,
            Self::AxialStrided(axes) => *axes,
            Self::Alternating | Self::AxialAlternating => 2,
        }
    }

    /// The axis of pair `k` of `pairs`, and its exponent as numerator and denominator, in pairs.
    pub(crate) fn pair(&self, k: u32, pairs: u32) -> (u32, u32, u32) {
        match self {
            Self::One => (0, k, pairs),
            Self::Sectioned(sections) => (run(sections.iter().copied(), k).0, k, pairs),
            Self::Interleaved { height, width } => {
                // Whole rounds that an axis takes part in.
                let round = k / 3;
                let axis = match k % 3 {
                    1 if round < *height => 1,
                    2 if round < *width => 2,
                    _ => 0,
                };
                (axis, k, pairs)
            }
            Self::SpatialFirst { each } => {
                let axis = if k / 2 < *each { 1 + k % 2 } else { 0 };
                (axis, k, pairs)
            }
            Self::Alternating => (k % 2, k, pairs),
            Self::Axial(runs) => {
                let (at, within, of) = run(runs.iter().map(|run| run.pairs), k);
                let axis = runs.get(at as usize).map_or(0, |run| run.axis);
                (axis, within, of)
            }
            Self::AxialStrided(axes) => {
                let each = (pairs / axes).max(1);
                (k / each, k % each * axes + k / each, pairs)
            }
            Self::AxialAlternating => (1 - k % 2, k / 2 * 2, pairs),
        }
    }

    pub(crate) fn validate(&self, pairs: u32) -> Result<()> {
        let fault = |rule: String, got: String| Err(RopeError::config("axes", rule, got));
        match self {
            Self::One => Ok(()),
            Self::Sectioned(_) | Self::Axial(_) if self.count() > MAX_AXES => fault(
                format!("must be at most {MAX_AXES}"),
                self.count().to_string(),
            ),
            Self::Sectioned(sections) => add_up(sections, pairs),
            Self::Axial(runs) => {
                let sections: Vec<_> = runs.iter().map(|run| run.pairs).collect();
                add_up(&sections, pairs)
            }
            Self::Alternating => Ok(()),
            Self::Interleaved { height, width } => {
                if u64::from(*height) + u64::from(*width) > u64::from(pairs) {
                    return fault(
                        format!("height and width must be within the {pairs} pairs"),
                        format!("{height} and {width}"),
                    );
                }
                Ok(())
            }
            Self::SpatialFirst { each } => {
                if *each > pairs / 2 {
                    return fault(
                        format!("height and width must be within the {pairs} pairs"),
                        format!("{each} each"),
                    );
                }
                Ok(())
            }
            Self::AxialStrided(axes) => {
                if *axes == 0 || *axes > MAX_AXES || !pairs.is_multiple_of(*axes) {
                    return fault(
                        format!("must divide the {pairs} pairs, and be at most {MAX_AXES}"),
                        axes.to_string(),
                    );
                }
                Ok(())
            }
            Self::AxialAlternating if !pairs.is_multiple_of(2) => fault(
                "must have an even number of pairs".into(),
                pairs.to_string(),
            ),
            Self::AxialAlternating => Ok(()),
        }
    }

    /// Maps pairs to a model's own `inv_freq` list of `count` values: entry k is the index of pair k's frequency in it. The list has one
    /// value for each of `pairs` pairs; or, where exponents start anew, one for each pair of an axis. None for any other count, and for
    /// axes that are not those of so many pairs.
    #[must_use]
    pub fn inv_freq_order(&self, pairs: u32, count: usize) -> Option<Vec<usize>> {
        self.validate(pairs).ok()?;
        let within = |k: u32| match self {
            // Ernie keeps those of height, of width and of time behind each other.
            Self::SpatialFirst { each } if k / 2 < *each => k / 2 + k % 2 * each,
            _ => k,
        };
        let repeated = |k: u32| match self {
            Self::AxialAlternating => k / 2,
            Self::Axial(runs) => run(runs.iter().map(|run| run.pairs), k).1,
            _ => k,
        };
        let is_equal = match self {
            Self::Axial(runs) => runs.iter().all(|run| run.pairs as usize == count),
            Self::AxialAlternating => count == pairs as usize / 2,
            _ => false,
        };
        if count == pairs as usize {
            Some((0..pairs).map(|k| within(k) as usize).collect())
        } else if is_equal {
            Some((0..pairs).map(|k| repeated(k) as usize).collect())
        } else {
            None
        }
    }

    /// Whether exponents run on over all axes, so that the frequencies are those of one axis.
    #[must_use]
    pub fn runs_on(&self) -> bool {
        matches!(
            self,
            Self::One
                | Self::Sectioned(_)
                | Self::Interleaved { .. }
                | Self::SpatialFirst { .. }
                | Self::Alternating
        )
    }
}

/// Checks that sections are all pairs.
fn add_up(sections: &[u32], pairs: u32) -> Result<()> {
    let sum: u64 = sections.iter().map(|&section| u64::from(section)).sum();
    if sum != u64::from(pairs) {
        return Err(RopeError::config(
            "axes",
            format!("sections must add up to the {pairs} pairs of the rotary window"),
            format!("{sections:?}"),
        ));
    }
    Ok(())
}

/// The section that holds pair `k`, its place in it, and how long that section is.
fn run(sections: impl Iterator<Item = u32>, k: u32) -> (u32, u32, u32) {
    let mut within = k;
    for (at, section) in (0..).zip(sections) {
        if within < section {
            return (at, within, section);
        }
        within -= section;
    }
    (0, within, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_other_pairs_have_no_order() {
        let spatial = |each| Axes::SpatialFirst { each };
        assert_eq!(spatial(2).inv_freq_order(5, 5), Some(vec![0, 2, 1, 3, 4]));
        assert_eq!(spatial(u32::MAX).inv_freq_order(5, 5), None);
        assert_eq!(Axes::Sectioned(vec![1, 2]).inv_freq_order(5, 5), None);
    }

    #[test]
    fn height_and_width_are_within_the_pairs() {
        let by_turns = |height, width| Axes::Interleaved { height, width }.validate(64);
        assert_eq!(by_turns(20, 20), Ok(()));
        assert_eq!(by_turns(64, 0), Ok(()));
        assert_eq!(
            by_turns(u32::MAX, 1).unwrap_err().to_string(),
            "axes: height and width must be within the 64 pairs, got 4294967295 and 1"
        );
    }
}
