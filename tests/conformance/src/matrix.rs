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
    /// Those of the named paths that did not come out well; with faults in the WGSL, those that did not find one in each
    /// group.
    pub fn missing<'a>(
        &self,
        required: impl IntoIterator<Item = &'a str>,
        fault: bool,
    ) -> Vec<&'a str> {
        let is_well = |path: &PathResult| match (&path.verdict, fault) {
            (Some(verdict), true) => {
                let mut groups = verdict.groups.values();
                groups.all(|group| group.failed == 0 && group.within + group.wrong > 0)
            }
            (None, true) => false,
            (_, false) => matches!(path.state, State::Equal | State::Checked),
        };
        let is_missing = |name: &&str| {
            let mut well = self.paths.iter().filter(|path| is_well(path));
            well.all(|path| path.name != *name)
        };
        required.into_iter().filter(is_missing).collect()
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
