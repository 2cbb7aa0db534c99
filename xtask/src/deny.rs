//! `cargo xtask deny`: licences, sources, duplicates and advisories of dependencies, by cargo-deny and `deny.toml`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Failure, run, setup};

const CARGO_DENY: &str = "cargo-deny@0.20.2";

pub(crate) fn main() -> Result<(), Failure> {
    let program = program()?;
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

/// cargo-deny as it is installed, or built in `target/tools`.
fn program() -> Result<PathBuf, Failure> {
    if setup::is_on_path("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let folder = setup::tools().join("cargo-deny");
    let program = folder.join("bin/cargo-deny");
    if !program.is_file() {
        // Unoptimised: it is built longer than it runs.
        run(Command::new(env!("CARGO"))
            .args(["install", "--quiet", "--locked", "--debug"])
            .args(["--no-default-features", CARGO_DENY, "--root"])
            .arg(&folder))?;
    }
    Ok(program)
}
