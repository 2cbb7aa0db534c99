//! The examples that tests run as programs.

use std::path::{Path, PathBuf};

/// An example that `cargo build --all-features --examples` has built beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().and_then(Path::parent).unwrap();
    let program = folder
        .join("examples")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.exists(),
        "{} is not built: cargo build --all-features --examples",
        program.display()
    );
    program
}
