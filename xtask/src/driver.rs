//! A machine without a GPU and without a Vulkan driver gets Mesa's software driver from its own package manager.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::setup::{is_on_path, is_root};
use crate::{Failure, root, run, with_runtime};

/// What has to be run, as root, to install the driver: the first manager found counts.
const MANAGERS: [(&str, &[&[&str]]); 5] = [
    (
        "apt-get",
        &[
            &["apt-get", "update"],
            &[
                "apt-get",
                "install",
                "--yes",
                "--no-install-recommends",
                "libvulkan1",
                "mesa-vulkan-drivers",
            ],
        ],
    ),
    (
        "dnf",
        &[&[
            "dnf",
            "install",
            "--assumeyes",
            "vulkan-loader",
            "mesa-vulkan-drivers",
        ]],
    ),
    (
        "pacman",
        &[&[
            "pacman",
            "-Sy",
            "--noconfirm",
            "vulkan-icd-loader",
            "vulkan-swrast",
        ]],
    ),
    (
        "zypper",
        &[&[
            "zypper",
            "--non-interactive",
            "install",
            "libvulkan1",
            "libvulkan_lvp",
        ]],
    ),
    (
        "apk",
        &[&["apk", "add", "vulkan-loader", "mesa-vulkan-swrast"]],
    ),
];

/// Sees to it that there is an adapter. `program` is what is to be run with `--probe`; the caller has built it, in sight, since that takes
/// minutes.
pub(crate) fn ensure(program: &Path) -> Result<(), Failure> {
    match probe(program)?.as_str() {
        "gpu" | "software" => return Ok(()),
        "none" => {}
        other => return Err(format!("the probe of the adapters printed {other:?}")),
    }
    if !cfg!(target_os = "linux") {
        return Err(
            "No adapter was found. A GPU driver with Vulkan, Metal or DX12 is needed.".to_owned(),
        );
    }
    eprintln!(
        "There is neither a GPU nor a Vulkan driver here: Mesa's software driver will be installed."
    );
    install()?;
    match probe(program)?.as_str() {
        "none" => Err("The driver was installed, but there is still no Vulkan adapter.".to_owned()),
        _ => Ok(()),
    }
}

/// Asks the library itself, through a program that uses it, what it finds: `gpu`, `software` or `none`.
fn probe(program: &Path) -> Result<String, Failure> {
    eprintln!("Looking for adapters");
    let mut command = Command::new(program);
    command
        .arg("--probe")
        .current_dir(root())
        .stderr(Stdio::inherit());
    let program = program.display();
    let output = with_runtime(&mut command)?
        .output()
        .map_err(|error| format!("{program} --probe: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} --probe: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn install() -> Result<(), Failure> {
    let Some((_, commands)) = MANAGERS.iter().find(|(manager, _)| is_on_path(manager)) else {
        return Err("No known package manager was found. Install Mesa's software Vulkan driver (lavapipe) and its loader.".to_owned());
    };
    let all = commands
        .iter()
        .map(|command| command.join(" "))
        .collect::<Vec<_>>()
        .join(" && ");
    if !is_root() {
        return Err(format!(
            "Installing it takes root's rights. Run this, then the same command again:\n\n    sudo sh -c '{all}'\n"
        ));
    }
    for command in *commands {
        let Some((program, arguments)) = command.split_first() else {
            continue;
        };
        run(Command::new(program)
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    Ok(())
}
