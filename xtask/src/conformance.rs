//! `cargo xtask conformance`: sets up every path that this machine can have, runs the vectors of `tests/conformance` on it, and writes
//! the matrix.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::{Failure, Output, cargo, cross, members, root, setup, web};

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
    /// Sees to it that what it needs is there; where that cannot be had, the route is skipped.
    set_up: fn() -> Result<Run, Failure>,
    /// Seconds that it once took on two cores: long ones start first.
    seconds: u64,
    lane: Lane,
}

/// What a route does once it is set up.
type Run = Box<dyn FnOnce(&Bench) -> Result<Done, Failure> + Send>;

/// Beside which others a route may run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Any.
    Own,
    /// Any but each other: cargo locks the folder that they build in.
    Cross,
    /// None, for its memory.
    Alone,
}

/// Most take one core, and machines that check have two.
const WORKERS: usize = 2;

const ROUTES: &[Route] = &[
    Route {
        name: "lavapipe",
        title: "wgpu Vulkan, Mesa's lavapipe",
        set_up: lavapipe,
        seconds: 12,
        lane: Lane::Own,
    },
    Route {
        name: "swiftshader",
        title: "wgpu Vulkan, SwiftShader",
        set_up: swiftshader,
        seconds: 124,
        lane: Lane::Own,
    },
    Route {
        name: "gl",
        title: "wgpu GL, Mesa's llvmpipe",
        set_up: gl,
        seconds: 2,
        lane: Lane::Own,
    },
    Route {
        name: "dawn",
        title: "Dawn (Tint), SwiftShader",
        set_up: dawn,
        seconds: 104,
        lane: Lane::Own,
    },
    Route {
        name: "browser",
        title: "wgpu WebGPU, wasm in Chromium, SwiftShader",
        set_up: browser,
        seconds: 247,
        lane: Lane::Own,
    },
    Route {
        name: "msl",
        title: "naga's MSL as C++ on the CPU",
        set_up: || msl("msl", &["-O1", "-ffp-contract=off"]),
        seconds: 69,
        lane: Lane::Own,
    },
    Route {
        name: "msl-fast",
        title: "naga's MSL with fast math, contracted",
        // From -O2 on GCC contracts.
        set_up: || msl("msl-fast", &["-O2", "-ffast-math", FUSED]),
        seconds: 99,
        lane: Lane::Own,
    },
    Route {
        name: "hlsl",
        title: "naga's HLSL, DXC, DXIL on the CPU",
        set_up: hlsl,
        seconds: 109,
        lane: Lane::Own,
    },
    Route {
        name: "dx12",
        title: "wgpu DX12 under Wine (FXC, vkd3d, Mesa)",
        set_up: dx12,
        seconds: 600,
        lane: Lane::Alone,
    },
    Route {
        name: "macos",
        title: "type check, aarch64-apple-darwin",
        set_up: || type_check("aarch64-apple-darwin"),
        seconds: 96,
        lane: Lane::Cross,
    },
    Route {
        name: "windows",
        title: "type check, x86_64-pc-windows-gnu",
        set_up: || type_check(WINDOWS),
        seconds: 84,
        lane: Lane::Cross,
    },
    Route {
        name: "own",
        title: "wgpu, this machine's GPU",
        set_up: || Ok(Box::new(own)),
        seconds: 60,
        lane: Lane::Own,
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
    /// Why it could not run here, where that shows only now.
    Absent(Failure),
}

/// What routes share, and where the output of one of them goes.
struct Bench {
    folder: PathBuf,
    vectors: PathBuf,
    program: PathBuf,
    /// Whether the WGSL has a fault.
    fault: bool,
    output: Output,
}

/// A route that is set up.
struct Job {
    route: &'static Route,
    /// Its place in the list.
    at: usize,
    run: Run,
}

/// What became of a route.
struct Ended {
    route: &'static Route,
    state: &'static str,
    seconds: u64,
    /// Why, or a file that tells more.
    text: String,
    /// What it said, where that was not passed on.
    log: Option<PathBuf>,
}

pub(crate) fn main(arguments: &[String]) -> Result<(), Failure> {
    let Arguments {
        only,
        required,
        fault,
        set_up,
    } = parse(arguments)?;
    let mut board = Board::default();
    let mut jobs = Vec::new();
    for route in ROUTES.iter().filter(|route| only.contains(route.name)) {
        let at = board.ended.len();
        board.ended.push(None);
        match (route.set_up)() {
            Ok(run) => jobs.push(Job { route, at, run }),
            // In minutes it would be as absent as it is now.
            Err(why) if required.contains(route.name) => {
                return Err(format!(
                    "{} is required and cannot be had: {why}",
                    route.name
                ));
            }
            Err(why) => board.ended[at] = Some(Ended::new(route, "skipped", why)),
        }
    }
    if set_up {
        board.ended.iter().flatten().for_each(Ended::print);
        return Ok(());
    }

    let mut folder = root().join("target/conformance");
    if fault {
        folder.push("fault");
    }
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let bench = Bench {
        vectors: folder.join("vectors"),
        program: program()?,
        folder,
        fault,
        output: Output::Terminal,
    };
    let fault = fault.then_some("--fault");
    bench.run(
        Command::new(&bench.program)
            .arg("make")
            .arg(&bench.vectors)
            .args(fault),
    )?;

    board.print();
    let board = Mutex::new(board);
    run_jobs(&bench, jobs, &board);
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    let lines: String = board.ended.iter().flatten().map(Ended::line).collect();
    let list = bench.folder.join("paths.tsv");
    fs::write(&list, lines).map_err(|error| error.to_string())?;
    let required: Vec<_> = required.into_iter().collect();
    eprintln!();
    bench.run(
        Command::new(&bench.program)
            .arg("matrix")
            .args([&bench.vectors, &list])
            .arg(bench.folder.join("matrix"))
            .args(["--require", &required.join(",")])
            .args(fault),
    )
}

/// Builds the program of tests/conformance.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    // An example brings the features of what tests depend on; without it cargo would build wgpu once more beside that of the tests.
    let targets = [
        "--all-features",
        "--bin",
        "conformance",
        "--example",
        "adapters",
    ];
    cargo(&[&["build"], members(), &targets].concat())?;
    Ok(crate::built("conformance"))
}

/// Runs all jobs, several at a time, the longest first.
fn run_jobs(bench: &Bench, jobs: Vec<Job>, board: &Mutex<Board>) {
    let is_only_one = jobs.len() == 1;
    let (alone, others): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .partition(|job| job.route.lane == Lane::Alone);
    let (cross, own): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|job| job.route.lane == Lane::Cross);
    // What one worker does in a row.
    let mut rows: Vec<Vec<_>> = own.into_iter().map(|job| vec![job]).collect();
    rows.push(cross);
    rows.sort_by_key(|row| row.iter().map(|job| job.route.seconds).sum::<u64>());
    for rows in [rows, vec![alone]] {
        let rows = Mutex::new(rows);
        let next = || {
            let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
            rows.pop()
        };
        let work = || {
            while let Some(row) = next() {
                for job in row {
                    let at = job.at;
                    let ended = bench.run_job(job, is_only_one);
                    let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
                    board.ended[at] = Some(ended);
                    board.print();
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(work);
            }
        });
    }
}

/// What has ended, in the order of the list, in which it is printed too.
#[derive(Default)]
struct Board {
    ended: Vec<Option<Ended>>,
    printed: usize,
}

impl Board {
    /// Prints what nothing before it is missing of.
    fn print(&mut self) {
        while let Some(Some(ended)) = self.ended.get(self.printed) {
            ended.print();
            self.printed += 1;
        }
    }
}

impl Ended {
    fn new(route: &'static Route, state: &'static str, text: String) -> Self {
        Self {
            route,
            state,
            seconds: 0,
            text,
            log: None,
        }
    }

    fn print(&self) {
        let Route { name, title, .. } = self.route;
        eprintln!("\n== {name}: {title}");
        if let Some(log) = &self.log {
            let bytes = fs::read(log).unwrap_or_default();
            eprint!("{}", String::from_utf8_lossy(&bytes));
        }
        eprintln!("{name}: {} {}", self.state, self.text);
    }

    /// For the matrix.
    fn line(&self) -> String {
        let Route { name, title, .. } = self.route;
        let text = self.text.replace(['\t', '\n'], " ");
        format!(
            "{name}\t{title}\t{}\t{}\t{text}\n",
            self.state, self.seconds
        )
    }
}

type Names = BTreeSet<&'static str>;

#[derive(Default)]
struct Arguments {
    /// The routes to take.
    only: Names,
    /// Those that may not be skipped.
    required: Names,
    /// Whether the WGSL is to have a fault, which all routes have to find.
    fault: bool,
    /// Whether to run nothing.
    set_up: bool,
}

const USAGE: &str = "cargo xtask conformance [--only NAME,…] [--require NAME,…] [--fault] [--set-up], where a NAME is one of";

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
            "--set-up" => parsed.set_up = true,
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
    fn run(&self, command: &mut Command) -> Result<(), Failure> {
        self.output.run(command)
    }

    fn file(&self, name: &str, end: &str) -> PathBuf {
        self.folder.join(format!("{name}.{end}"))
    }

    /// With the output in a file, unless there is no other job to mix it up with.
    fn run_job(&self, job: Job, is_only_one: bool) -> Ended {
        let Job { route, run, .. } = job;
        let name = route.name;
        let mut bench = Self {
            folder: self.folder.clone(),
            vectors: self.vectors.clone(),
            program: self.program.clone(),
            output: Output::Terminal,
            ..*self
        };
        let mut log = None;
        if !is_only_one {
            eprintln!("{name} starts");
            let file = self.file(name, "log");
            match File::create(&file) {
                Ok(opened) => bench.output = Output::File(opened),
                Err(error) => {
                    let why = format!("{}: {error}", file.display());
                    return Ended::new(route, "failed", why);
                }
            }
            log = Some(file);
        }
        let start = Instant::now();
        let done = run(&bench).and_then(|done| bench.verdict(route, done));
        let (state, text) = done.unwrap_or_else(|why| ("failed", why));
        Ended {
            route,
            state,
            seconds: start.elapsed().as_secs(),
            text,
            log,
        }
    }

    /// The state of a path, and a file or a text that tells more.
    fn verdict(&self, route: &Route, done: Done) -> Result<(&'static str, String), Failure> {
        let verdict = match done {
            Done::Checked(text) => return Ok(("checked", text)),
            Done::Absent(why) => return Ok(("skipped", why)),
            Done::Verdict(file) => file,
            Done::Answers(answers) => {
                let verdict = self.file(route.name, "json");
                self.run(Command::new(&self.program).arg("judge").args([
                    &self.vectors,
                    &answers,
                    &verdict,
                ]))?;
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
    ) -> Result<Done, Failure> {
        let answers = self.file(name, "answers");
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .args([&self.vectors, &answers])
            .args(wanted);
        command.envs(environment.iter().copied());
        if !wanted.is_empty() {
            // What the caller chose for other programs may hide the adapter that is wanted.
            command.env_remove("WGPU_BACKEND");
        }
        self.run(&mut command)?;
        Ok(Done::Answers(answers))
    }
}

fn lavapipe() -> Result<Run, Failure> {
    setup::packages(&["libvulkan1", "mesa-vulkan-drivers"])?;
    let driver = setup::file_starting(Path::new("/usr/share/vulkan/icd.d"), "lvp_icd")?;
    Ok(Box::new(move |bench| {
        let wanted = ["--backend", "vulkan", "--adapter", "llvmpipe"];
        bench.native("lavapipe", &wanted, &[("VK_DRIVER_FILES", &driver)])
    }))
}

fn swiftshader_driver() -> Result<PathBuf, Failure> {
    let chromium = setup::unpacked("chromium-common")?;
    Ok(chromium.join("usr/lib/chromium/vk_swiftshader_icd.json"))
}

fn swiftshader() -> Result<Run, Failure> {
    setup::packages(&["libvulkan1"])?;
    let driver = swiftshader_driver()?;
    Ok(Box::new(move |bench| {
        let wanted = ["--backend", "vulkan", "--adapter", "swiftshader"];
        bench.native("swiftshader", &wanted, &[("VK_DRIVER_FILES", &driver)])
    }))
}

fn gl() -> Result<Run, Failure> {
    setup::packages(&["libegl1", "libgl1-mesa-dri"])?;
    Ok(Box::new(|bench| {
        let wanted = ["--backend", "gl", "--adapter", "llvmpipe"];
        bench.native("gl", &wanted, &[("LIBGL_ALWAYS_SOFTWARE", Path::new("1"))])
    }))
}

fn own(bench: &Bench) -> Result<Done, Failure> {
    let found = Command::new(&bench.program).arg("has-gpu").status();
    if !found.is_ok_and(|status| status.success()) {
        return Ok(Done::Absent("this machine has no GPU".to_owned()));
    }
    bench.native("own", &[], &[])
}

fn dawn() -> Result<Run, Failure> {
    setup::packages(&["libvulkan1"])?;
    let packages = setup::npm(&[DAWN])?;
    let driver = swiftshader_driver()?;
    Ok(Box::new(move |bench| {
        let answers = bench.file("dawn", "answers");
        bench.run(
            Command::new("node")
                .arg(root().join("tests/conformance/run.mjs"))
                .args([&bench.vectors, &answers, &packages])
                .env("VK_DRIVER_FILES", &driver),
        )?;
        Ok(Done::Answers(answers))
    }))
}

/// Where cargo builds for other targets.
fn cross_folder() -> PathBuf {
    root().join("target/cross")
}

fn type_check(target: &'static str) -> Result<Run, Failure> {
    let mut check = cross::cargo("check", target)?;
    check.args(["--package", "wgpu-rope", "--package", "conformance"]);
    check.args(["--lib", "--bins", "--all-features", "--target-dir"]);
    check.arg(cross_folder());
    Ok(Box::new(move |bench| {
        bench.run(&mut check)?;
        Ok(Done::Checked(format!("1 target ({target}), all features")))
    }))
}

/// wgpu's DX12 backend with Microsoft's shader compiler, on vkd3d and a Vulkan driver that is new enough for it: older ones of Mesa leave
/// buffers as they are and report nothing.
fn dx12() -> Result<Run, Failure> {
    // vkd3d asks Mesa for descriptors by the million, which take 17 GB, and layers take more than 22 with them.
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| {
        let kilobytes = line
            .strip_prefix("MemAvailable:")?
            .trim()
            .strip_suffix(" kB")?;
        kilobytes.parse::<u64>().ok()
    });
    if available.is_none_or(|kilobytes| kilobytes < 28 << 20) {
        return Err("needs 28 GiB of free memory".to_owned());
    }
    setup::packages(&[
        "gcc-mingw-w64-x86-64-posix",
        "wine",
        "wine64",
        "xvfb",
        "xauth",
    ])?;
    let mesa = setup::unpacked_from(&setup::backports()?, "mesa-vulkan-drivers")?;
    let folder = setup::tools().join("dx12");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let driver = folder.join("lvp_icd.json");
    let library = mesa.join("usr/lib/x86_64-linux-gnu/libvulkan_lvp.so");
    let text = format!(
        "{{\"file_format_version\": \"1.0.0\", \"ICD\": {{\"library_path\": {library:?}, \"api_version\": \"1.4.0\"}}}}"
    );
    fs::write(&driver, text).map_err(|error| error.to_string())?;
    // Microsoft's compiler comes with Dawn's package for Windows.
    let dawn = setup::npm(&[DAWN])?;
    let compiler = dawn.join("node_modules/webgpu/dist/win32-x64/d3dcompiler_47.dll");
    fs::copy(&compiler, folder.join("d3dcompiler_47.dll"))
        .map_err(|error| format!("{}: {error}", compiler.display()))?;
    let mut build = cross::cargo("build", WINDOWS)?;
    build.args(["--package", "conformance", "--release", "--target-dir"]);
    build.arg(cross_folder());

    Ok(Box::new(move |bench| {
        bench.run(&mut build)?;
        let program = folder.join("conformance.exe");
        let built = cross_folder().join(WINDOWS).join("release/conformance.exe");
        fs::copy(&built, &program).map_err(|error| error.to_string())?;
        bench.run(
            Command::new("x86_64-w64-mingw32-gcc")
                .args(["-shared", "-o"])
                .arg(folder.join("bcryptprimitives.dll"))
                .arg(root().join("tests/conformance/wine/prng.c"))
                .arg("-ladvapi32"),
        )?;
        let answers = bench.file("dx12", "answers");
        bench.run(
            Command::new("xvfb-run")
                .args(["--auto-servernum", "wine"])
                .arg(&program)
                .args(["run", "--backend", "dx12", "--adapter", ""])
                .args([&bench.vectors, &answers])
                .env("VK_DRIVER_FILES", &driver)
                .env("WINEPREFIX", setup::tools().join("wine"))
                .env("WINEDEBUG", "-all")
                .env("WINEDLLOVERRIDES", "mscoree,mshtml=;d3dcompiler_47=n"),
        )?;
        Ok(Done::Answers(answers))
    }))
}

/// The web page in Chromium, which makes the vectors itself: its test sees to it that they are those of this machine, bit for bit.
fn browser() -> Result<Run, Failure> {
    let needs = web::set_up()?;
    Ok(Box::new(move |bench| {
        let result = bench.file("browser", "json");
        web::test(needs, &bench.vectors, &result, bench.fault, &bench.output)?;
        Ok(Done::Verdict(result))
    }))
}

/// A folder of a route, empty.
fn emptied(bench: &Bench, name: &str) -> Result<PathBuf, Failure> {
    let folder = bench.folder.join(name);
    let io = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(io)?;
    }
    fs::create_dir_all(&folder).map_err(io)?;
    Ok(folder)
}

/// Runs several commands side by side.
fn run_all(bench: &Bench, commands: Vec<Command>) -> Result<(), Failure> {
    thread::scope(|scope| {
        let spawn = |mut command: Command| scope.spawn(move || bench.run(&mut command));
        let running: Vec<_> = commands.into_iter().map(spawn).collect();
        running.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        })
    })
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
fn on_cpu(bench: &Bench, name: &str, program: &Path, about: &str) -> Result<Done, Failure> {
    let answers = bench.file(name, "answers");
    bench.run(
        Command::new(program)
            .arg(&bench.vectors)
            .arg(bench.folder.join(name).join("list.json"))
            .arg(&answers)
            .arg(about),
    )?;
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
fn msl(name: &'static str, flags: &'static [&str]) -> Result<Run, Failure> {
    setup::packages(&["g++", "nlohmann-json3-dev"])?;
    Ok(Box::new(move |bench| run_msl(bench, name, flags)))
}

fn run_msl(bench: &Bench, name: &str, flags: &[&str]) -> Result<Done, Failure> {
    let folder = emptied(bench, name)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    bench.run(
        Command::new(&bench.program)
            .arg("msl")
            .args([&bench.vectors, &folder])
            .args(["--units", &cores.to_string()]),
    )?;
    let sources = root().join("tests/conformance");
    let (runner, compile) = cpu_runner(&folder);
    let mut objects = vec![runner];
    let mut commands = vec![compile];
    for unit in setup::files_ending(&folder, ".cpp")? {
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
    run_all(bench, commands)?;
    let program = folder.join("run");
    bench.run(
        Command::new("g++")
            .args(flags)
            .args(&objects)
            .arg("-pthread")
            .arg("-o")
            .arg(&program),
    )?;
    let about = format!("{} {}", version("g++"), flags.join(" "));
    on_cpu(bench, name, &program, &about)
}

/// What Microsoft's compiler makes of the HLSL is LLVM's bitcode with functions of its own, which LLVM compiles for the CPU.
fn hlsl() -> Result<Run, Failure> {
    setup::packages(&["g++", "nlohmann-json3-dev", "llvm"])?;
    let compushady = setup::pypi_source(DXC.0, DXC.1)?;
    let dxc = compushady.join("compushady/backends");
    Ok(Box::new(move |bench| run_hlsl(bench, &dxc)))
}

fn run_hlsl(bench: &Bench, dxc: &Path) -> Result<Done, Failure> {
    let folder = emptied(bench, "hlsl")?;
    let sources = root().join("tests/conformance");
    bench.run(
        Command::new(&bench.program)
            .arg("hlsl")
            .args([&bench.vectors, &folder]),
    )?;
    let (runner, compile) = cpu_runner(&folder);
    let compiler = folder.join("compile");
    let mut second = Command::new("g++");
    second.args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-isystem"]);
    second.arg(dxc).arg(sources.join("hlsl/compile.cpp"));
    second.args(["-ldl", "-o"]).arg(&compiler);
    run_all(bench, vec![compile, second])?;
    let library = format!("libdxcompiler_{}.so.3.7", std::env::consts::ARCH);
    bench.run(Command::new(&compiler).arg(dxc.join(library)).arg(&folder))?;
    let version_file = folder.join("version");
    let dxc_version = fs::read_to_string(&version_file)
        .map_err(|error| format!("{}: {error}", version_file.display()))?;

    let bitcode = setup::files_ending(&folder, ".bc")?;
    for file in &bitcode {
        let done = Command::new("llvm-dis").arg(file).status();
        if !done.is_ok_and(|status| status.success()) {
            return Err(format!("llvm-dis {}", file.display()));
        }
    }
    let texts: Vec<_> = bitcode
        .iter()
        .map(|file| file.with_extension("ll"))
        .collect();
    bench.run(Command::new(&bench.program).arg("dxil").arg(&folder))?;
    let [all, optimised, object] =
        ["all.bc", "optimised.bc", "all.o"].map(|name| folder.join(name));
    let link = Command::new("llvm-link")
        .args(&texts)
        .arg(sources.join("hlsl/dxil.ll"))
        .arg("-o")
        .arg(&all)
        .status();
    if !link.is_ok_and(|status| status.success()) {
        return Err("llvm-link".to_owned());
    }
    bench.run(
        Command::new("opt")
            .arg("-O2")
            .arg(&all)
            .arg("-o")
            .arg(&optimised),
    )?;
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
    bench.run(compile.arg(&optimised).arg("-o").arg(&object))?;
    let program = folder.join("run");
    bench.run(
        Command::new("g++")
            .args(["-std=c++20", "-O1", "-Wall", "-Wextra", "-I"])
            .arg(sources.join("cpu"))
            .arg("-I")
            .arg(sources.join("hlsl"))
            .arg(folder.join("kernels.cpp"))
            .arg(sources.join("hlsl/dxil.cpp"))
            .args([&runner, &object])
            .args(["-pthread", "-o"])
            .arg(&program),
    )?;
    let about = format!(
        "{} pipelines compiled and validated by {dxc_version} ({} {}); {}",
        bitcode.len(),
        DXC.0,
        DXC.1,
        version("llc")
    );
    on_cpu(bench, "hlsl", &program, &about)
}
