//! `cargo xtask deny`: licences, sources, duplicates and advisories of dependencies, by cargo-deny and `deny.toml`.

use std::process::{Command, Stdio};

use crate::{Failure, run, setup};

pub(crate) fn main() -> Result<(), Failure> {
    let program = setup::cargo_tool("cargo-deny", "0.20.2", &["--no-default-features"])?;
    run(Command::new(&program).args(["--workspace", "check", "licenses", "bans", "sources"]))?;
    // The database is a git repository elsewhere, which not every machine reaches.
    let fetched = Command::new(&program)
        .args(["fetch", "db"])
        .stderr(Stdio::null())
        .status();
    if !fetched.is_ok_and(|status| status.success()) {
        eprintln!("\nSkipped: advisories, whose database cannot be fetched here.");
        return Ok(());
    }
    run(Command::new(&program).args(["--workspace", "check", "advisories"]))
}
