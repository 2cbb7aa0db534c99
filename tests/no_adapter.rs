//! Without an adapter the error says what to install, and with a wrong name which there are. The choice is made by environment
//! variables, so each case is a run of this test in a process of its own.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::process::Command;

use wgpu_rope::{GpuContext, RopeError};

/// The error's text under these variables.
fn under(variables: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("WGPU_ROPE_TEST_CHILD", "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .find_map(|line| line.split_once("ERROR ").map(|(_, error)| error.to_owned()))
        .unwrap_or(text)
}

#[test]
fn child() {
    if std::env::var_os("WGPU_ROPE_TEST_CHILD").is_some() {
        match GpuContext::new_blocking() {
            Err(RopeError::NoAdapter(text)) => println!("ERROR {text}"),
            other => println!("ERROR not the error expected: {other:?}"),
        }
    }
}

#[test]
fn no_adapter_says_what_to_install() {
    // No adapter is of the backend that does nothing.
    let text = under(&[("WGPU_BACKEND", "noop")]);
    assert!(text.starts_with("no adapter was found"), "{text}");
    assert!(
        text.contains("apt-get install mesa-vulkan-drivers"),
        "{text}"
    );
}

#[test]
fn a_wrong_name_lists_the_right_ones() {
    let text = under(&[("WGPU_ADAPTER_NAME", "Voodoo 2")]);
    let known = pollster::block_on(GpuContext::adapters());
    assert!(
        text.starts_with("no adapter is named \"Voodoo 2\"; there are: "),
        "{text}"
    );
    for adapter in known {
        assert!(text.contains(&adapter.get_info().name), "{text}");
    }
}
