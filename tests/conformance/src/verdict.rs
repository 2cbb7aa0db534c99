//! Answers held against what was expected.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wgpu_rope::half::{bf16, f16};

use crate::vectors::{Answers, Failure, Values, Vectors};

/// What came of a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Device, driver, compiler.
    pub about: String,
    /// By group.
    pub groups: BTreeMap<String, Tally>,
    /// SHA-256 of all answers behind each other: the same wherever all bits are equal.
    pub sha256: String,
    /// Some of the vectors that did not run, or whose bits differ, and what became of them.
    pub examples: Vec<String>,
    /// How long making a pipeline took, in milliseconds, where it was measured: the median and the longest.
    pub pipeline_ms: Option<[f64; 2]>,
}

/// Counts of a group. Values are those of written buffers, whether a dispatch writes them or has to leave them alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub vectors: usize,
    /// Vectors that did not run.
    pub failed: usize,
    pub dispatches: usize,
    /// Values compared.
    pub values: usize,
    /// Values whose bits differ, though they are as near as rounding of another kind may bring them.
    pub within: usize,
    /// Values that differ more than that.
    pub wrong: usize,
}

impl Tally {
    /// Whether all vectors ran and all bits are equal.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.vectors > 0 && self.values > 0 && self.failed + self.within + self.wrong == 0
    }
}

impl Verdict {
    /// Whether all bits of all groups are equal.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        !self.groups.is_empty() && self.groups.values().all(Tally::is_equal)
    }

    /// The sum of all groups.
    #[must_use]
    pub fn total(&self) -> Tally {
        self.groups
            .values()
            .fold(Tally::default(), |sum, group| Tally {
                vectors: sum.vectors + group.vectors,
                failed: sum.failed + group.failed,
                dispatches: sum.dispatches + group.dispatches,
                values: sum.values + group.values,
                within: sum.within + group.within,
                wrong: sum.wrong + group.wrong,
            })
    }
}

/// Most examples of a verdict.
const EXAMPLES: usize = 12;

/// Compares all bits.
///
/// # Errors
/// Where the answers are not to these vectors.
pub fn judge(vectors: &Vectors, answers: &Answers) -> Result<Verdict, Failure> {
    let size: usize = vectors
        .vectors
        .iter()
        .map(|vector| vector.answer_size())
        .sum();
    if answers.bytes.len() != size {
        let got = answers.bytes.len();
        return Err(format!("the answers have {got} bytes in place of {size}").into());
    }
    let mut verdict = Verdict {
        about: answers.about.clone(),
        groups: BTreeMap::new(),
        sha256: sha256(&answers.bytes),
        examples: Vec::new(),
        pipeline_ms: median_and_most(&answers.pipeline_ms),
    };
    let mut rest = &answers.bytes[..];
    for vector in &vectors.vectors {
        let tally = verdict.groups.entry(vector.group.clone()).or_default();
        tally.vectors += 1;
        tally.dispatches += vector.dispatches.len();
        let mut example = |text: String| {
            if verdict.examples.len() < EXAMPLES {
                verdict.examples.push(text);
            }
        };
        let name = vector.full_name();
        if let Some(failure) = answers.failures.get(&name) {
            tally.failed += 1;
            example(format!("{name}: {failure}"));
            rest = &rest[vector.answer_size()..];
            continue;
        }
        for (at, buffer) in vector.written() {
            let made;
            (made, rest) = rest.split_at(buffer.size);
            let expected = vectors.slice(buffer.expected.unwrap_or_default(), buffer.size)?;
            let values = values(made, buffer.values).zip(values(expected, buffer.values));
            let (mut within, mut wrong, mut first) = (0, 0, None);
            for (index, ((bits, value), (expected_bits, expected))) in values.enumerate() {
                tally.values += 1;
                if bits == expected_bits {
                    continue;
                }
                // Where one is no number this is false.
                if (value - expected).abs() <= buffer.within {
                    within += 1;
                } else {
                    wrong += 1;
                }
                first.get_or_insert_with(|| {
                    format!("value {index}: {value:e} ({bits:#x}), not {expected:e} ({expected_bits:#x})")
                });
            }
            if let Some(first) = first {
                let count = within + wrong;
                example(format!(
                    "{name}, buffer {at}: {count} differ, first {first}"
                ));
            }
            tally.within += within;
            tally.wrong += wrong;
        }
    }
    Ok(verdict)
}

fn median_and_most(times: &[f64]) -> Option<[f64; 2]> {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    Some([*times.get(times.len() / 2)?, *times.last()?])
}

/// Bits and value of each.
pub(crate) fn values(bytes: &[u8], kind: Values) -> impl Iterator<Item = (u32, f64)> + '_ {
    let size = match kind {
        Values::U32 | Values::F32 => 4,
        Values::F16 | Values::Bf16 => 2,
    };
    bytes.chunks_exact(size).map(move |chunk| {
        let mut word = [0; 4];
        word[..size].copy_from_slice(chunk);
        let bits = u32::from_le_bytes(word);
        let half = [word[0], word[1]];
        let value = match kind {
            Values::U32 => bits.into(),
            Values::F32 => f32::from_bits(bits).into(),
            Values::F16 => f16::from_le_bytes(half).into(),
            Values::Bf16 => bf16::from_le_bytes(half).into(),
        };
        (bits, value)
    })
}

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    /// The answers that all vectors expect.
    fn expected(vectors: &Vectors) -> Answers {
        let mut answers = Answers::default();
        for vector in &vectors.vectors {
            for (_, buffer) in vector.written() {
                let start = buffer.expected.unwrap();
                answers
                    .bytes
                    .extend(vectors.slice(start, buffer.size).unwrap());
            }
        }
        answers
    }

    #[test]
    fn every_bit_counts() {
        let file = cases::vectors().unwrap().to_file().unwrap();
        let vectors = Vectors::from_file(&file).unwrap();
        let good = expected(&vectors);
        let good = Answers::from_file(&good.to_file().unwrap()).unwrap();
        let verdict = judge(&vectors, &good).unwrap();
        assert!(verdict.is_equal() && verdict.examples.is_empty());
        let all = verdict.total();

        // The last bit of a value of the first table, then its sign.
        for (bit, within, wrong) in [(0x01, 1, 0), (0x80, 0, 1)] {
            let mut answers = good.clone();
            answers.bytes[if wrong == 0 { 0 } else { 3 }] ^= bit;
            let total = judge(&vectors, &answers).unwrap().total();
            assert_eq!((total.within, total.wrong), (within, wrong));
            assert_eq!(total.values, all.values);
        }
        // A vector that did not run, and answers to something else.
        let mut answers = good.clone();
        let first = vectors.vectors[0].full_name();
        answers.failures.insert(first, "no reason".to_owned());
        let verdict = judge(&vectors, &answers).unwrap();
        assert!(!verdict.is_equal() && verdict.total().failed == 1);
        assert!(judge(&vectors, &Answers::default()).is_err());
        // Every vector expects something else than what is there before.
        for vector in &vectors.vectors {
            let changes = vector.written().any(|(_, buffer)| {
                vectors.slice(buffer.initial, buffer.size).unwrap()
                    != vectors
                        .slice(buffer.expected.unwrap(), buffer.size)
                        .unwrap()
            });
            assert!(changes, "{}", vector.full_name());
        }
    }
}
