//! Cargo for a target that the active toolchain may not have.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Failure, setup};

/// A toolchain of Debian's that has the standard library's sources, to build it from for any target. Its linker is for wasm.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld"];

/// `cargo SUBCOMMAND --target TARGET`, ready for further arguments.
///
/// By the active toolchain where it has the target, or rustup can give it to it; else by Debian's, whose standard library is then
/// built along. Callers name a `--target-dir` of their own, so that neither build makes the other one start again.
pub(crate) fn cargo(subcommand: &str, target: &str) -> Result<Command, Failure> {
    // For who wants to see Debian's way where the other one would do.
    let only_debian = env::var_os("XTASK_DEBIAN_TOOLCHAIN").is_some();
    if !only_debian && (has_target(target) || add_target(target)) {
        let mut command = Command::new(env!("CARGO"));
        command.args([subcommand, "--target", target]);
        return Ok(command);
    }
    setup::packages(&PACKAGES).map_err(|failure| {
        format!("The Rust toolchain has no standard library for {target}. With rustup: rustup target add {target}. Else it {failure}")
    })?;
    let mut command = Command::new("/usr/bin/cargo");
    command
        .args([subcommand, "--target", target])
        .arg("-Zbuild-std=std,panic_abort")
        .env("PATH", "/usr/bin:/bin")
        .env("RUSTC", "/usr/bin/rustc")
        // Building the standard library is no stable option.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "lld");
    // Whatever the other toolchain's cargo has set for this program.
    for variable in [
        "LD_LIBRARY_PATH",
        "RUSTUP_TOOLCHAIN",
        "RUSTUP_HOME",
        "CARGO",
        "RUSTDOC",
    ] {
        command.env_remove(variable);
    }
    Ok(command)
}

/// Whether the active toolchain has the target's standard library.
fn has_target(target: &str) -> bool {
    Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| {
            let folder = String::from_utf8_lossy(&output.stdout);
            output.status.success() && Path::new(folder.trim()).is_dir()
        })
}

/// Lets rustup fetch it; in silence, since there is another way.
fn add_target(target: &str) -> bool {
    Command::new("rustup")
        .args(["target", "add", target])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
        && has_target(target)
}
