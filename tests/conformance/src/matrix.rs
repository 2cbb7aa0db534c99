//! The matrix: path by group, as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::vectors::{Failure, Vectors};
use crate::verdict::{self, Tally, Verdict};

/// All that a run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// The crate and its version.
    pub made_by: String,
    /// The day, UTC.
    pub date: String,
    pub vectors: usize,
    pub dispatches: usize,
    /// SHA-256 of the file of vectors.
    pub sha256: String,
    pub paths: Vec<PathResult>,
}

/// What a run found of one path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathResult {
    pub name: String,
    pub title: String,
    pub state: State,
    /// How long it took, what it needs fetched and built included.
    pub seconds: u64,
    /// Why it was skipped or failed; what was checked.
    pub text: String,
    pub verdict: Option<Verdict>,
}

/// What came of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All bits of all groups are equal.
    Equal,
    /// It has no values, and went through.
    Checked,
    Failed,
    Skipped,
}

/// Reads what became of each path: lines of name, title, state, seconds and text with tabs between, where the text of a path that was
/// judged is the file of its verdict.
///
/// # Errors
/// Where a file is not as it has to be.
pub fn read(vectors: &[u8], paths: &str, date: String) -> Result<Matrix, Failure> {
    let sha256 = verdict::sha256(vectors);
    let vectors = Vectors::from_file(vectors)?;
    let paths = paths.lines().map(|line| -> Result<_, Failure> {
        let fields: Vec<_> = line.split('\t').collect();
        let [name, title, state, seconds, text] = fields[..] else {
            return Err(format!("{line:?} has not five fields").into());
        };
        let mut result = PathResult {
            name: name.to_owned(),
            title: title.to_owned(),
            state: State::Failed,
            seconds: seconds.parse()?,
            text: text.to_owned(),
            verdict: None,
        };
        match state {
            "checked" => result.state = State::Checked,
            "skipped" => result.state = State::Skipped,
            "judged" => {
                // The web page has its verdict among other things.
                let mut found: Value = serde_json::from_slice(&fs::read(text)?)?;
                if let Some(part) = found.pointer_mut("/conformance/verdict") {
                    found = part.take();
                }
                let verdict: Verdict = serde_json::from_value(found)?;
                if verdict.is_equal() {
                    result.state = State::Equal;
                }
                result.text = verdict.about.clone();
                result.verdict = Some(verdict);
            }
            _ => {}
        }
        Ok(result)
    });
    Ok(Matrix {
        made_by: vectors.made_by.clone(),
        date,
        vectors: vectors.vectors.len(),
        dispatches: vectors.vectors.iter().map(|v| v.dispatches.len()).sum(),
        sha256,
        paths: paths.collect::<Result<_, _>>()?,
    })
}

impl Matrix {
    /// Paths that are not as they have to be, with what is wrong: those that failed or whose bits differ, and those that are
    /// required and were skipped. With faults in the WGSL, those that did not find one in each group.
    pub fn failing(&self, required: &[impl AsRef<str>], fault: bool) -> Vec<String> {
        let is_required = |name: &str| required.iter().any(|required| required.as_ref() == name);
        let wrong = |path: &PathResult| match (path.state, &path.verdict) {
            (State::Failed, None) => Some("failed"),
            (State::Skipped, _) => is_required(&path.name).then_some("required, and skipped"),
            (_, Some(verdict)) if fault => {
                let mut groups = verdict.groups.values();
                let found = groups.all(|group| group.failed == 0 && group.within + group.wrong > 0);
                (verdict.groups.is_empty() || !found).then_some("did not find the fault")
            }
            // What has no values finds none, and need not.
            (State::Failed, _) => Some("differs"),
            (State::Equal | State::Checked, _) => None,
        };
        let failing = self.paths.iter().filter_map(|path| {
            let wrong = wrong(path)?;
            Some(format!("{} ({wrong})", path.name))
        });
        let is_there = |name: &str| self.paths.iter().any(|path| path.name == name);
        let names = required.iter().map(AsRef::as_ref);
        let missing = names
            .filter(|name| !is_there(name))
            .map(|name| format!("{name} (required, and not run)"));
        failing.chain(missing).collect()
    }

    /// The matrix and what stands behind each row.
    #[must_use]
    pub fn markdown(&self) -> String {
        // Where all vectors ran, a group has as many values on every path.
        let mut groups = BTreeMap::<&str, usize>::new();
        for verdict in self.paths.iter().filter_map(|path| path.verdict.as_ref()) {
            for (group, tally) in &verdict.groups {
                let values = groups.entry(group).or_default();
                *values = tally.values.max(*values);
            }
        }
        let mut text = format!(
            "{}, {}: {} vectors, {} dispatches; values compared bit for bit with the CPU's, canaries included.\n\n| path |",
            self.made_by, self.date, self.vectors, self.dispatches
        );
        for group in groups.keys() {
            text += &format!(" {group} |");
        }
        text += " result |\n|---|";
        text += &":---:|".repeat(groups.len());
        text += "---|\n";
        text += "| *values* |";
        for values in groups.values() {
            text += &format!(" *{}* |", thousands(*values));
        }
        text += &format!(" *{}* |\n", thousands(groups.values().sum()));
        for path in &self.paths {
            text += &format!("| {} |", path.title);
            for group in groups.keys() {
                let tally = path.verdict.as_ref().and_then(|v| v.groups.get(*group));
                text += &format!(" {} |", tally.map_or("–".to_owned(), cell));
            }
            text += &format!(" {} |\n", path.result());
        }
        text += "\n";
        for path in &self.paths {
            let _ = write!(text, "- {}: {}", path.title, path.text);
            if let Some(verdict) = &path.verdict {
                if let Some([median, most]) = verdict.pipeline_ms {
                    let _ = write!(text, "; a pipeline {median:.0} ms (median) to {most:.0} ms");
                }
                for example in verdict.examples.iter().take(3) {
                    let _ = write!(text, "\n  - {example}");
                }
            }
            let _ = writeln!(text, " ({} s)", path.seconds);
        }
        text
    }
}

impl PathResult {
    fn result(&self) -> String {
        match (self.state, &self.verdict) {
            (State::Equal, Some(verdict)) => {
                format!("**equal**, {} values", thousands(verdict.total().values))
            }
            (_, Some(_)) => "**differs**".to_owned(),
            (State::Checked, None) => format!("**passed**, {}", self.text),
            (State::Skipped, None) => "skipped".to_owned(),
            _ => "**failed**".to_owned(),
        }
    }
}

fn cell(tally: &Tally) -> String {
    if tally.is_equal() {
        return "equal".to_owned();
    }
    let all = thousands(tally.values);
    let mut parts = Vec::new();
    for (count, what) in [(tally.wrong, "wrong"), (tally.within, "within rounding")] {
        if count > 0 {
            parts.push(format!("{} of {all} {what}", thousands(count)));
        }
    }
    if tally.failed > 0 {
        parts.push(format!("{} of {} failed", tally.failed, tally.vectors));
    }
    parts.join(", ")
}

/// 1234567 as 1,234,567.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;
    use crate::vectors::Answers;

    /// A path that was judged, with what came of each of its groups.
    fn judged(name: &str, groups: &[(&str, Tally)]) -> PathResult {
        let groups = groups
            .iter()
            .map(|(name, tally)| ((*name).to_owned(), *tally));
        let verdict = Verdict {
            about: String::new(),
            groups: groups.collect(),
            sha256: String::new(),
            examples: Vec::new(),
            pipeline_ms: None,
        };
        let is_equal = verdict.is_equal();
        PathResult {
            verdict: Some(verdict),
            ..path(
                name,
                if is_equal {
                    State::Equal
                } else {
                    State::Failed
                },
            )
        }
    }

    fn path(name: &str, state: State) -> PathResult {
        PathResult {
            name: name.to_owned(),
            title: name.to_owned(),
            state,
            seconds: 0,
            text: String::new(),
            verdict: None,
        }
    }

    fn matrix(paths: Vec<PathResult>) -> Matrix {
        Matrix {
            made_by: String::new(),
            date: String::new(),
            vectors: 0,
            dispatches: 0,
            sha256: String::new(),
            paths,
        }
    }

    #[test]
    fn what_is_not_equal_fails() {
        let equal = Tally {
            vectors: 1,
            dispatches: 1,
            values: 9,
            ..Tally::default()
        };
        let wrong = Tally { wrong: 1, ..equal };
        let within = Tally { within: 1, ..equal };
        let failed = Tally { failed: 1, ..equal };
        let none: [&str; 0] = [];
        let found = matrix(vec![
            judged("equal", &[("tables", equal), ("layers", equal)]),
            judged("wrong", &[("tables", equal), ("layers", wrong)]),
            judged("within", &[("tables", within), ("layers", equal)]),
            judged("both", &[("tables", within), ("layers", wrong)]),
            judged("broken", &[("tables", failed), ("layers", wrong)]),
            judged("nothing", &[]),
            path("failed", State::Failed),
            path("skipped", State::Skipped),
            path("checked", State::Checked),
        ]);
        let differing = [
            "wrong (differs)",
            "within (differs)",
            "both (differs)",
            "broken (differs)",
            "nothing (differs)",
            "failed (failed)",
        ];
        assert_eq!(found.failing(&none, false), differing);
        // Requiring something adds what was skipped, and what is not there at all.
        let mut more = differing.to_vec();
        assert_eq!(found.failing(&["equal", "checked", "wrong"], false), more);
        more.push("skipped (required, and skipped)");
        more.push("own (required, and not run)");
        assert_eq!(found.failing(&["skipped", "own"], false), more);
        // A fault has to be found in each group, by vectors that run.
        let blind = ["equal", "wrong", "within", "broken", "nothing"]
            .map(|name| format!("{name} (did not find the fault)"));
        let mut blind = blind.to_vec();
        blind.push("failed (failed)".to_owned());
        assert_eq!(found.failing(&none, true), blind);
    }

    /// The README and the change log give these counts, and nothing else would notice that they are old.
    #[test]
    fn counts_that_are_written_down() {
        let vectors = cases::vectors().unwrap();
        let mut answers = Answers::default();
        for vector in &vectors.vectors {
            for (_, buffer) in vector.written() {
                let start = buffer.expected.unwrap();
                let expected = vectors.slice(start, buffer.size).unwrap();
                answers.bytes.extend(expected);
            }
        }
        let dispatches = vectors.vectors.iter().map(|v| v.dispatches.len()).sum();
        let made = Matrix {
            vectors: vectors.vectors.len(),
            dispatches,
            paths: vec![PathResult {
                verdict: Some(verdict::judge(&vectors, &answers).unwrap()),
                ..path("all", State::Equal)
            }],
            ..matrix(Vec::new())
        };
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
        let [readme, changes] = ["README.md", "CHANGELOG.md"]
            .map(|name| fs::read_to_string(format!("{root}{name}")).unwrap());
        let text = made.markdown();
        for start in ["| path |", "| *values* |"] {
            let row = text.lines().find(|line| line.starts_with(start)).unwrap();
            assert!(
                readme.lines().any(|line| line == row),
                "README.md has not: {row}"
            );
        }
        let counts = format!("{} dispatches ({} vectors", made.dispatches, made.vectors);
        assert!(readme.contains(&counts), "README.md has not: {counts}");
        let counts = format!("{} dispatches with their expected bits", made.dispatches);
        assert!(changes.contains(&counts), "CHANGELOG.md has not: {counts}");
    }
}
