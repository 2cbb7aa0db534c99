//! `cargo xtask conformance`: sets up every path that this machine can have, runs the vectors of `tests/conformance` on it, and writes
//! the matrix.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{Failure, cross, root, run, setup, web};

/// npm's packages: Dawn, and what drives a browser.
const DAWN: &str = "webgpu@0.6.2";

const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// What lets GCC fuse products and sums.
const FUSED: &str = if cfg!(target_arch = "x86_64") {
    "-mfma"
} else {
    "-ffp-contract=fast"
};

/// A PyPI package that holds Microsoft's HLSL compiler for Linux.
const DXC: (&str, &str) = ("compushady", "0.17.5");

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
        name: "browser",
        title: "wgpu WebGPU, wasm in Chromium, SwiftShader",
        go: browser,
    },
    Route {
        name: "msl",
        title: "naga's MSL as C++ on the CPU",
        go: |bench| msl(bench, "msl", &["-O1", "-ffp-contract=off"]),
    },
    Route {
        name: "msl-fast",
        title: "naga's MSL with fast math, contracted",
        // From -O2 on GCC contracts.
        go: |bench| msl(bench, "msl-fast", &["-O2", "-ffast-math", FUSED]),
    },
    Route {
        name: "hlsl",
        title: "naga's HLSL, DXC, DXIL on the CPU",
        go: hlsl,
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
    /// Whether the WGSL has a fault.
    fault: bool,
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
        fault,
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
        command.envs(environment.iter().copied());
        run(&mut command).map_err(Stop::Failed)?;
        Ok(Done::Answers(answers))
    }
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
    // vkd3d asks Mesa for descriptors by the million, which take 17 GB until the device is gone.
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| {
        let kilobytes = line
            .strip_prefix("MemAvailable:")?
            .trim()
            .strip_suffix(" kB")?;
        kilobytes.parse::<u64>().ok()
    });
    if available.is_none_or(|kilobytes| kilobytes < 18 << 20) {
        return Err(Stop::Absent("needs 18 GiB of free memory".to_owned()));
    }
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
        .env("WINEDLLOVERRIDES", "mscoree,mshtml=;d3dcompiler_47=n"))
    .map_err(Stop::Failed)?;
    Ok(Done::Answers(answers))
}

/// The web page in Chromium, which makes the vectors itself: its test sees to it that they are those of this machine, bit for bit.
fn browser(bench: &Bench) -> Result<Done, Stop> {
    let result = bench.file("browser", "json");
    web::test(&bench.vectors, &result, bench.fault).map_err(Stop::Failed)?;
    Ok(Done::Verdict(result))
}

/// A folder of a route, empty.
fn emptied(bench: &Bench, name: &str) -> Result<PathBuf, Stop> {
    let folder = bench.folder.join(name);
    let io = |error: std::io::Error| Stop::Failed(format!("{}: {error}", folder.display()));
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(io)?;
    }
    fs::create_dir_all(&folder).map_err(io)?;
    Ok(folder)
}

/// Runs several commands side by side.
fn run_all(commands: Vec<Command>) -> Result<(), Stop> {
    std::thread::scope(|scope| {
        let spawn = |mut command: Command| scope.spawn(move || run(&mut command));
        let running: Vec<_> = commands.into_iter().map(spawn).collect();
        running.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        })
    })
    .map_err(Stop::Failed)
}

/// What runs kernels on the CPU, compiled.
fn cpu_runner(folder: &Path) -> (PathBuf, Command) {
    let sources = root().join("tests/conformance/cpu");
    let object = folder.join("run.o");
    let mut compile = Command::new("g++");
    compile.args(["-std=c++20", "-O1", "-Wall", "-Wextra", "-I"]);
    compile.arg(&sources).arg("-c").arg(sources.join("run.cpp"));
    compile.arg("-o").arg(&object);
    (object, compile)
}

/// Runs kernels on the CPU.
fn on_cpu(bench: &Bench, name: &str, program: &Path, about: &str) -> Result<Done, Stop> {
    let answers = bench.file(name, "answers");
    run(Command::new(program)
        .arg(&bench.vectors)
        .arg(bench.folder.join(name).join("list.json"))
        .arg(&answers)
        .arg(about))
    .map_err(Stop::Failed)?;
    Ok(Done::Answers(answers))
}

/// What a program says of its version, in its first line.
fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim);
    lines
        .find(|line| line.contains(|c: char| c.is_ascii_digit()))
        .unwrap_or(program)
        .to_owned()
}

/// The text that Metal's compiler would get, compiled as C++.
fn msl(bench: &Bench, name: &str, flags: &[&str]) -> Result<Done, Stop> {
    setup::packages(&["g++", "nlohmann-json3-dev"]).map_err(absent)?;
    let folder = emptied(bench, name)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    run(Command::new(&bench.program)
        .arg("msl")
        .args([&bench.vectors, &folder])
        .args(["--units", &cores.to_string()]))
    .map_err(Stop::Failed)?;
    let sources = root().join("tests/conformance");
    let (runner, compile) = cpu_runner(&folder);
    let mut objects = vec![runner];
    let mut commands = vec![compile];
    for unit in setup::files_ending(&folder, ".cpp").map_err(Stop::Failed)? {
        let object = unit.with_extension("o");
        let mut compile = Command::new("g++");
        // GCC knows nothing of Metal's attributes, and says so.
        compile.args(["-std=c++17", "-w"]).args(flags);
        compile
            .arg("-I")
            .arg(sources.join("cpu"))
            .arg("-I")
            .arg(sources.join("msl"));
        compile.arg("-c").arg(&unit).arg("-o").arg(&object);
        commands.push(compile);
        objects.push(object);
    }
    run_all(commands)?;
    let program = folder.join("run");
    run(Command::new("g++")
        .args(flags)
        .args(&objects)
        .arg("-pthread")
        .arg("-o")
        .arg(&program))
    .map_err(Stop::Failed)?;
    on_cpu(
        bench,
        name,
        &program,
        &format!("{} {}", version("g++"), flags.join(" ")),
    )
}

/// What Microsoft's compiler makes of the HLSL is LLVM's bitcode with functions of its own, which LLVM compiles for the CPU.
fn hlsl(bench: &Bench) -> Result<Done, Stop> {
    setup::packages(&["g++", "nlohmann-json3-dev", "llvm"]).map_err(absent)?;
    let compushady = setup::pypi_source(DXC.0, DXC.1).map_err(absent)?;
    let dxc = compushady.join("compushady/backends");
    let folder = emptied(bench, "hlsl")?;
    let sources = root().join("tests/conformance");
    run(Command::new(&bench.program)
        .arg("hlsl")
        .args([&bench.vectors, &folder]))
    .map_err(Stop::Failed)?;
    let (runner, compile) = cpu_runner(&folder);
    let compiler = folder.join("compile");
    let mut second = Command::new("g++");
    second.args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-isystem"]);
    second.arg(&dxc).arg(sources.join("hlsl/compile.cpp"));
    second.args(["-ldl", "-o"]).arg(&compiler);
    run_all(vec![compile, second])?;
    let library = format!("libdxcompiler_{}.so.3.7", std::env::consts::ARCH);
    run(Command::new(&compiler).arg(dxc.join(library)).arg(&folder)).map_err(Stop::Failed)?;

    let bitcode = setup::files_ending(&folder, ".bc").map_err(Stop::Failed)?;
    for file in &bitcode {
        let done = Command::new("llvm-dis").arg(file).status();
        if !done.is_ok_and(|status| status.success()) {
            return Err(Stop::Failed(format!("llvm-dis {}", file.display())));
        }
    }
    let texts: Vec<_> = bitcode
        .iter()
        .map(|file| file.with_extension("ll"))
        .collect();
    run(Command::new(&bench.program).arg("dxil").arg(&folder)).map_err(Stop::Failed)?;
    let [all, optimised, object] =
        ["all.bc", "optimised.bc", "all.o"].map(|name| folder.join(name));
    let link = Command::new("llvm-link")
        .args(&texts)
        .arg(sources.join("hlsl/dxil.ll"))
        .arg("-o")
        .arg(&all)
        .status();
    if !link.is_ok_and(|status| status.success()) {
        return Err(Stop::Failed("llvm-link".to_owned()));
    }
    run(Command::new("opt")
        .arg("-O2")
        .arg(&all)
        .arg("-o")
        .arg(&optimised))
    .map_err(Stop::Failed)?;
    let mut compile = Command::new("llc");
    compile.args([
        "-O2",
        "-fp-contract=fast",
        "-relocation-model=pic",
        "-filetype=obj",
    ]);
    if cfg!(target_arch = "x86_64") {
        compile.arg("-mattr=+fma");
    }
    run(compile.arg(&optimised).arg("-o").arg(&object)).map_err(Stop::Failed)?;
    let program = folder.join("run");
    run(Command::new("g++")
        .args(["-std=c++20", "-O1", "-Wall", "-Wextra", "-I"])
        .arg(sources.join("cpu"))
        .arg("-I")
        .arg(sources.join("hlsl"))
        .arg(folder.join("kernels.cpp"))
        .arg(sources.join("hlsl/dxil.cpp"))
        .args([&runner, &object])
        .args(["-pthread", "-o"])
        .arg(&program))
    .map_err(Stop::Failed)?;
    let about = format!(
        "{} pipelines compiled and validated by DXC 1.7 ({} {}); {}",
        bitcode.len(),
        DXC.0,
        DXC.1,
        version("llc")
    );
    on_cpu(bench, "hlsl", &program, &about)
}
