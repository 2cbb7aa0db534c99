//! What the guides say of the project's own files: tests that they name are there, and versions are those of Cargo.toml.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it has to be"
)]

use std::path::Path;

/// A file of the project.
fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What is between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn tests_that_the_guide_to_numerics_names_are_there() {
    let guide = read("src/guides/numerics.md");
    let table = guide
        .lines()
        .skip_while(|line| !line.starts_with("| claim |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let (mut files, mut names) = (0, 0);
    for line in table {
        // A name belongs to the file before it.
        let mut file = String::new();
        for quoted in quoted(line) {
            if quoted.ends_with(".rs") {
                file = read(&format!("tests/{quoted}"));
                files += 1;
            } else if quoted.contains('_') {
                let test = format!("#[test]\nfn {quoted}()");
                assert!(file.contains(&test), "{quoted} is in no file of {line}");
                names += 1;
            }
        }
    }
    assert!(files > 10 && names > 10, "{files} files, {names} tests");
}

#[test]
fn versions_are_those_of_the_manifest() {
    let manifest = read("Cargo.toml");
    let value = |key: &str| {
        let line = manifest.lines().find(|line| line.starts_with(key)).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    let version = value("version = \"");
    let minor = version.rsplit_once('.').unwrap().0;
    let row = format!(
        "| {minor} | {} | {} | {} |",
        value("wgpu = { version"),
        value("rust-version"),
        value("edition")
    );
    let guide = read("src/guides/versions.md");
    assert!(guide.lines().any(|line| line == row), "{row}");
    // Without the edition, which its reader need not know.
    let short = row.rsplit_once(" | ").unwrap().0.to_owned() + " |";
    assert!(
        read("README.md").lines().any(|line| line == short),
        "{short}"
    );
    // What reports say of themselves.
    let wgpu = value("wgpu = { version");
    let constant = format!("const WGPU: &str = \"{wgpu}\";");
    assert!(
        read("examples/bench/report.rs").contains(&constant),
        "{constant}"
    );
    let of_web = format!("\"wgpu\": \"{wgpu}\"");
    assert!(read("web/src/lib.rs").contains(&of_web), "{of_web}");
}
