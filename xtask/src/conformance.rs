//! `cargo xtask conformance`: sets up every path that this machine can have, runs the vectors of `tests/conformance` on it, and writes
//! the matrix.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{Failure, cross, root, run, setup};

/// npm's packages: Dawn, and what drives a browser.
const DAWN: &str = "webgpu@0.6.2";

const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// A way that WGSL takes to a processor.
struct Route {
    name: &'static str,
    title: &'static str,
    go: fn(&Bench) -> Result<Done, Stop>,
}

const ROUTES: &[Route] = &[
    Route {
        name: "lavapipe",
        title: "wgpu Vulkan, Mesa's lavapipe",
        go: lavapipe,
    },
    Route {
        name: "swiftshader",
        title: "wgpu Vulkan, SwiftShader",
        go: swiftshader,
    },
    Route {
        name: "gl",
        title: "wgpu GL, Mesa's llvmpipe",
        go: gl,
    },
    Route {
        name: "dawn",
        title: "Dawn (Tint), SwiftShader",
        go: dawn,
    },
    Route {
        name: "dx12",
        title: "wgpu DX12 under Wine (FXC, vkd3d, Mesa)",
        go: dx12,
    },
    Route {
        name: "macos",
        title: "type check, aarch64-apple-darwin",
        go: |_| type_check("aarch64-apple-darwin"),
    },
    Route {
        name: "windows",
        title: "type check, x86_64-pc-windows-gnu",
        go: |_| type_check(WINDOWS),
    },
    Route {
        name: "own",
        title: "wgpu, this machine's GPU",
        go: own,
    },
];

/// What a route has to show.
#[allow(dead_code)]
enum Done {
    /// A file of answers.
    Answers(PathBuf),
    /// A file of a verdict.
    Verdict(PathBuf),
    /// Something that has no values.
    Checked(String),
}

/// Why a route has nothing to show.
enum Stop {
    /// What it needs is not there.
    Absent(Failure),
    /// It was there and failed.
    Failed(Failure),
}

fn absent(failure: Failure) -> Stop {
    Stop::Absent(failure)
}

/// What all routes share.
struct Bench {
    folder: PathBuf,
    vectors: PathBuf,
    program: PathBuf,
}

pub(crate) fn main(arguments: &[String]) -> Result<(), Failure> {
    let Arguments {
        only,
        required,
        fault,
    } = parse(arguments)?;
    let mut folder = root().join("target/conformance");
    if fault {
        folder.push("fault");
    }
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    run(Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "conformance"]))?;
    let bench = Bench {
        vectors: folder.join("vectors"),
        program: crate::built("conformance"),
        folder,
    };
    let fault = fault.then_some("--fault");
    run(Command::new(&bench.program)
        .arg("make")
        .arg(&bench.vectors)
        .args(fault))?;

    let mut lines = String::new();
    for route in ROUTES.iter().filter(|route| only.contains(route.name)) {
        let Route { name, title, go } = route;
        eprintln!("\n== {name}: {title}");
        let start = Instant::now();
        let done = go(&bench).and_then(|done| bench.verdict(route, done));
        let seconds = start.elapsed().as_secs();
        let (state, text) = match done {
            Ok(done) => done,
            Err(Stop::Absent(why)) => ("skipped", why),
            Err(Stop::Failed(why)) => ("failed", why),
        };
        eprintln!("{name}: {state} {text}");
        let text = text.replace(['\t', '\n'], " ");
        lines += &format!("{name}\t{title}\t{state}\t{seconds}\t{text}\n");
    }
    let list = bench.folder.join("paths.tsv");
    fs::write(&list, lines).map_err(|error| error.to_string())?;
    let required: Vec<_> = required.into_iter().collect();
    eprintln!();
    run(Command::new(&bench.program)
        .arg("matrix")
        .args([&bench.vectors, &list])
        .arg(bench.folder.join("matrix"))
        .args(["--require", &required.join(",")])
        .args(fault))
}

type Names = BTreeSet<&'static str>;

#[derive(Default)]
struct Arguments {
    /// The routes to take.
    only: Names,
    /// Those that have to come out well.
    required: Names,
    /// Whether the WGSL is to have a fault, which all required routes have to find.
    fault: bool,
}

const USAGE: &str =
    "cargo xtask conformance [--only NAME,…] [--require NAME,…] [--fault], where a NAME is one of";

fn parse(arguments: &[String]) -> Result<Arguments, Failure> {
    let all: Names = ROUTES.iter().map(|route| route.name).collect();
    let usage = || {
        let known: Vec<_> = ROUTES.iter().map(|route| route.name).collect();
        format!("{USAGE} {}", known.join(", "))
    };
    let names = |list: Option<&String>| -> Result<Names, Failure> {
        let names = list.ok_or_else(usage)?.split(',');
        let known = names.map(|name| all.get(name).copied());
        known.collect::<Option<_>>().ok_or_else(usage)
    };
    let mut parsed = Arguments::default();
    let mut only = None;
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        match option.as_str() {
            "--only" => only = Some(names(rest.next())?),
            "--require" => parsed.required = names(rest.next())?,
            "--fault" => parsed.fault = true,
            _ => return Err(usage()),
        }
    }
    parsed.only = only.unwrap_or(all);
    if let Some(name) = parsed.required.difference(&parsed.only).next() {
        return Err(format!("{name} is required and not among those of --only"));
    }
    Ok(parsed)
}

impl Bench {
    fn file(&self, name: &str, end: &str) -> PathBuf {
        self.folder.join(format!("{name}.{end}"))
    }

    /// The state of a path, and a file or a text that tells more.
    fn verdict(&self, route: &Route, done: Done) -> Result<(&'static str, String), Stop> {
        let verdict = match done {
            Done::Checked(text) => return Ok(("checked", text)),
            Done::Verdict(file) => file,
            Done::Answers(answers) => {
                let verdict = self.file(route.name, "json");
                run(Command::new(&self.program).arg("judge").args([
                    &self.vectors,
                    &answers,
                    &verdict,
                ]))
                .map_err(Stop::Failed)?;
                verdict
            }
        };
        Ok(("judged", verdict.display().to_string()))
    }

    /// Runs on an adapter of wgpu's native backends.
    fn native(
        &self,
        name: &str,
        wanted: &[&str],
        environment: &[(&str, &Path)],
    ) -> Result<Done, Stop> {
        let answers = self.file(name, "answers");
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .args([&self.vectors, &answers])
            .args(wanted);
        command.env("XDG_RUNTIME_DIR", runtime().map_err(absent)?);
        command.envs(environment.iter().copied());
        run(&mut command).map_err(Stop::Failed)?;
        Ok(Done::Answers(answers))
    }
}

/// A private folder: Mesa's drivers complain where there is none.
fn runtime() -> Result<PathBuf, Failure> {
    let folder = setup::tools().join("runtime");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let own = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&folder, own).map_err(|error| error.to_string())?;
    }
    Ok(folder)
}

fn lavapipe(bench: &Bench) -> Result<Done, Stop> {
    setup::packages(&["libvulkan1", "mesa-vulkan-drivers"]).map_err(absent)?;
    let driver =
        setup::file_starting(Path::new("/usr/share/vulkan/icd.d"), "lvp_icd").map_err(absent)?;
    let wanted = ["--backend", "vulkan", "--adapter", "llvmpipe"];
    bench.native("lavapipe", &wanted, &[("VK_DRIVER_FILES", &driver)])
}

fn swiftshader_driver() -> Result<PathBuf, Failure> {
    let chromium = setup::unpacked("chromium-common")?;
    Ok(chromium.join("usr/lib/chromium/vk_swiftshader_icd.json"))
}

fn swiftshader(bench: &Bench) -> Result<Done, Stop> {
    setup::packages(&["libvulkan1"]).map_err(absent)?;
    let driver = swiftshader_driver().map_err(absent)?;
    let wanted = ["--backend", "vulkan", "--adapter", "swiftshader"];
    bench.native("swiftshader", &wanted, &[("VK_DRIVER_FILES", &driver)])
}

fn gl(bench: &Bench) -> Result<Done, Stop> {
    setup::packages(&["libegl1", "libgl1-mesa-dri"]).map_err(absent)?;
    let wanted = ["--backend", "gl", "--adapter", "llvmpipe"];
    bench.native("gl", &wanted, &[("LIBGL_ALWAYS_SOFTWARE", Path::new("1"))])
}

fn own(bench: &Bench) -> Result<Done, Stop> {
    let found = Command::new(&bench.program).arg("has-gpu").status();
    if !found.is_ok_and(|status| status.success()) {
        return Err(Stop::Absent("this machine has no GPU".to_owned()));
    }
    bench.native("own", &[], &[])
}

fn dawn(bench: &Bench) -> Result<Done, Stop> {
    setup::packages(&["libvulkan1"]).map_err(absent)?;
    let packages = setup::npm(&[DAWN]).map_err(absent)?;
    let driver = swiftshader_driver().map_err(absent)?;
    let answers = bench.file("dawn", "answers");
    run(Command::new("node")
        .arg(root().join("tests/conformance/run.mjs"))
        .args([&bench.vectors, &answers, &packages])
        .env("XDG_RUNTIME_DIR", runtime().map_err(absent)?)
        .env("VK_DRIVER_FILES", driver))
    .map_err(Stop::Failed)?;
    Ok(Done::Answers(answers))
}

/// Where cargo builds for other targets.
fn cross_folder() -> PathBuf {
    root().join("target/cross")
}

fn type_check(target: &str) -> Result<Done, Stop> {
    let mut check = cross::cargo("check", target).map_err(absent)?;
    check.args(["--package", "wgpu-rope", "--package", "conformance"]);
    check.args(["--lib", "--bins", "--all-features", "--target-dir"]);
    run(check.arg(cross_folder())).map_err(Stop::Failed)?;
    Ok(Done::Checked(format!("1 target ({target}), all features")))
}

/// wgpu's DX12 backend with Microsoft's shader compiler, on vkd3d and a Vulkan driver that is new enough for it: older ones of Mesa leave
/// buffers as they are and report nothing.
fn dx12(bench: &Bench) -> Result<Done, Stop> {
    setup::packages(&[
        "gcc-mingw-w64-x86-64-posix",
        "wine",
        "wine64",
        "xvfb",
        "xauth",
    ])
    .map_err(absent)?;
    let mesa = setup::unpacked_from(&setup::backports().map_err(absent)?, "mesa-vulkan-drivers")
        .map_err(absent)?;
    let folder = setup::tools().join("dx12");
    fs::create_dir_all(&folder).map_err(|error| absent(error.to_string()))?;
    let driver = folder.join("lvp_icd.json");
    let library = mesa.join("usr/lib/x86_64-linux-gnu/libvulkan_lvp.so");
    let text = format!(
        "{{\"file_format_version\": \"1.0.0\", \"ICD\": {{\"library_path\": {library:?}, \"api_version\": \"1.4.0\"}}}}"
    );
    fs::write(&driver, text).map_err(|error| absent(error.to_string()))?;

    let mut build = cross::cargo("build", WINDOWS).map_err(absent)?;
    build.args(["--package", "conformance", "--release", "--target-dir"]);
    run(build.arg(cross_folder())).map_err(Stop::Failed)?;
    let program = folder.join("conformance.exe");
    let built = cross_folder().join(WINDOWS).join("release/conformance.exe");
    fs::copy(&built, &program).map_err(|error| Stop::Failed(error.to_string()))?;
    run(Command::new("x86_64-w64-mingw32-gcc")
        .args(["-shared", "-o"])
        .arg(folder.join("bcryptprimitives.dll"))
        .arg(root().join("tests/conformance/wine/prng.c"))
        .arg("-ladvapi32"))
    .map_err(Stop::Failed)?;
    // Microsoft's compiler comes with Dawn's package for Windows.
    let dawn = setup::npm(&[DAWN]).map_err(absent)?;
    let compiler = dawn.join("node_modules/webgpu/dist/win32-x64/d3dcompiler_47.dll");
    fs::copy(&compiler, folder.join("d3dcompiler_47.dll"))
        .map_err(|error| absent(format!("{}: {error}", compiler.display())))?;

    let answers = bench.file("dx12", "answers");
    run(Command::new("xvfb-run")
        .args(["--auto-servernum", "wine"])
        .arg(&program)
        .args(["run", "--backend", "dx12", "--adapter", ""])
        .args([&bench.vectors, &answers])
        .env("VK_DRIVER_FILES", &driver)
        .env("WINEPREFIX", setup::tools().join("wine"))
        .env("WINEDEBUG", "-all")
        .env("WINEDLLOVERRIDES", "mscoree,mshtml=;d3dcompiler_47=n")
        .env("XDG_RUNTIME_DIR", runtime().map_err(absent)?))
    .map_err(Stop::Failed)?;
    Ok(Done::Answers(answers))
}
