//! `cargo xtask conformance`: sets up every path that this machine can have, runs the vectors of `tests/conformance` on it, and writes
//! the matrix.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{Failure, root, run, setup};

/// npm's packages: Dawn, and what drives a browser.
const DAWN: &str = "webgpu@0.6.2";

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
    let (only, required) = parse(arguments)?;
    let folder = root().join("target/conformance");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    run(Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "conformance"]))?;
    let bench = Bench {
        vectors: folder.join("vectors"),
        program: crate::built("conformance"),
        folder,
    };
    run(Command::new(&bench.program).arg("make").arg(&bench.vectors))?;

    let mut lines = String::new();
    for route in ROUTES {
        let (state, text, seconds) = if only.contains(route.name) {
            eprintln!("\n== {}: {}", route.name, route.title);
            let start = Instant::now();
            let (state, text) = match (route.go)(&bench).and_then(|done| bench.verdict(route, done))
            {
                Ok((state, text)) => (state, text),
                Err(Stop::Absent(why)) => ("skipped", why),
                Err(Stop::Failed(why)) => ("failed", why),
            };
            eprintln!("{}: {state} {text}", route.name);
            (state, text, start.elapsed().as_secs())
        } else {
            ("skipped", "not asked for".to_owned(), 0)
        };
        let text = text.replace(['\t', '\n'], " ");
        lines += &format!(
            "{}\t{}\t{state}\t{seconds}\t{text}\n",
            route.name, route.title
        );
    }
    let list = bench.folder.join("paths.tsv");
    fs::write(&list, lines).map_err(|error| error.to_string())?;
    let required: Vec<_> = required.into_iter().collect();
    eprintln!();
    run(Command::new(&bench.program)
        .arg("matrix")
        .args([&bench.vectors, &list])
        .arg(bench.folder.join("matrix"))
        .args(["--require", &required.join(",")]))
}

type Names = BTreeSet<&'static str>;

/// The routes to take, and those that have to come out well.
fn parse(arguments: &[String]) -> Result<(Names, Names), Failure> {
    let all: Names = ROUTES.iter().map(|route| route.name).collect();
    let names = |list: &String| -> Result<Names, Failure> {
        list.split(',')
            .map(|name| {
                all.get(name).copied().ok_or_else(|| {
                    let known: Vec<_> = ROUTES.iter().map(|route| route.name).collect();
                    format!("there is no path {name:?}; there are {}", known.join(", "))
                })
            })
            .collect()
    };
    let (mut only, mut required) = (None, Names::new());
    let mut rest = arguments;
    while let [option, value, behind @ ..] = rest {
        match option.as_str() {
            "--only" => only = Some(names(value)?),
            "--require" => required = names(value)?,
            _ => break,
        }
        rest = behind;
    }
    if let [other, ..] = rest {
        return Err(format!(
            "{other:?} is not understood: cargo xtask conformance [--only NAME,…] [--require NAME,…]"
        ));
    }
    let only = only.unwrap_or(all);
    if let Some(name) = required.difference(&only).next() {
        return Err(format!("{name} is required and not among those of --only"));
    }
    Ok((only, required))
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
