//! The web page: `cargo xtask web` builds it, `--serve` serves it, `--test` opens it in Chromium.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::{Failure, Output, conformance, cross, root, run, setup};

const TARGET: &str = "wasm32-unknown-unknown";
const PORT: u16 = 8080;
/// What is not made, from `web/`.
const FILES: [&str; 4] = ["index.html", "style.css", "main.js", "chart.js"];
/// Drives the browser.
const PLAYWRIGHT: &str = "playwright-core@1.65.1";

/// `cargo xtask web [--serve [PORT] | --test]`
pub(crate) fn web(arguments: &[String]) -> Result<(), Failure> {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let port = |text: &str| {
        let port = text.parse::<u16>();
        port.map_err(|_| format!("{text} is no port"))
    };
    match *arguments {
        [] => {
            let folder = build(cargo()?, &Output::Terminal)?;
            eprintln!(
                "\nThe page is in {}; cargo xtask web --serve serves it",
                folder.display()
            );
            Ok(())
        }
        ["--serve"] => serve(&build(cargo()?, &Output::Terminal)?, PORT),
        ["--serve", text] => {
            let port = port(text)?;
            serve(&build(cargo()?, &Output::Terminal)?, port)
        }
        ["--test"] => test_alone(),
        _ => Err("cargo xtask web [--serve [PORT] | --test]".to_owned()),
    }
}

/// Cargo for the page.
fn cargo() -> Result<Command, Failure> {
    cross::cargo("build", TARGET)
}

/// Builds the page, and returns its folder.
fn build(mut cargo: Command, output: &Output) -> Result<PathBuf, Failure> {
    let folder = root().join("target/web");
    let wasm = root().join("target/wasm");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    cargo.args(["--package", "wgpu-rope-web", "--profile", "web"]);
    output.run(cargo.arg("--target-dir").arg(&wasm))?;
    let module = wasm.join(TARGET).join("web/wgpu_rope_web.wasm");
    output.run(
        Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--package", "web-bindgen"])
            .arg("--")
            .args([&module, &folder]),
    )?;
    for file in FILES {
        let from = root().join("web").join(file);
        fs::copy(&from, folder.join(file))
            .map_err(|error| format!("{}: {error}", from.display()))?;
    }
    Ok(folder)
}

/// What opening the page in Chromium needs.
pub(crate) struct Needs {
    cargo: Command,
    playwright: PathBuf,
    chromium: PathBuf,
}

/// Sees to it that all of it is there.
pub(crate) fn set_up() -> Result<Needs, Failure> {
    let modules = setup::npm(&[PLAYWRIGHT])?;
    Ok(Needs {
        cargo: cargo()?,
        playwright: modules.join("node_modules/playwright-core/index.mjs"),
        chromium: chromium()?,
    })
}

/// Opens the page in Chromium: see `web/test.mjs`. `vectors` is the native file, `result` what the page's JSON is written to.
pub(crate) fn test(
    needs: Needs,
    vectors: &Path,
    result: &Path,
    fault: bool,
    output: &Output,
) -> Result<(), Failure> {
    let folder = build(needs.cargo, output)?;
    let (listener, port) = listen(0)?;
    let served = folder.clone();
    // It ends with this program.
    thread::spawn(move || answer_all(&listener, &served));
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    output.run(
        Command::new("node")
            .arg("web/test.mjs")
            .arg(format!("--url=http://127.0.0.1:{port}/"))
            .arg(option("playwright", &needs.playwright))
            .arg(option("chromium", &needs.chromium))
            .arg(option("vectors", vectors))
            .arg(option("result", result))
            .arg(option("screenshots", &folder))
            .args(fault.then_some("--fault")),
    )
}

fn test_alone() -> Result<(), Failure> {
    let needs = set_up()?;
    let folder = root().join("target/web");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let vectors = folder.join("vectors");
    run(Command::new(conformance::program()?)
        .arg("make")
        .arg(&vectors))?;
    let result = folder.join("result.json");
    test(needs, &vectors, &result, false, &Output::Terminal)
}

/// The system's own browser.
fn chromium() -> Result<PathBuf, Failure> {
    let names = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ];
    let find = || {
        let folders: Vec<_> = env::split_paths(&env::var_os("PATH")?).collect();
        let places = names
            .iter()
            .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        places.into_iter().find(|place| place.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    setup::packages(&["chromium"])?;
    find().ok_or_else(|| "Chromium was installed, but is not on the path".to_owned())
}

fn serve(folder: &Path, port: u16) -> Result<(), Failure> {
    let (listener, port) = listen(port)?;
    eprintln!("\nhttp://127.0.0.1:{port}/ until Ctrl+C");
    answer_all(&listener, folder);
    Ok(())
}

/// On this machine alone: browsers take that for as safe as https, which WebGPU asks for.
fn listen(port: u16) -> Result<(TcpListener, u16), Failure> {
    let explain = |error| {
        format!("127.0.0.1:{port}: {error}; cargo xtask web --serve PORT takes another one")
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(explain)?;
    let port = listener.local_addr().map_err(explain)?.port();
    Ok((listener, port))
}

fn answer_all(listener: &TcpListener, folder: &Path) {
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            // Browsers that leave are no concern of the others.
            scope.spawn(move || answer(stream, folder));
        }
    });
}

/// One request for a file of the folder, which has no folders in it: names with anything else than letters, digits and `.-_` lead nowhere.
fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(16 << 10)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // A connection that is closed with something unread is reset.
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let mut words = request.split_whitespace();
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let name = path
        .split('?')
        .next()
        .unwrap_or_default()
        .trim_start_matches('/');
    let name = if name.is_empty() { "index.html" } else { name };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let found = match name.chars().all(is_plain) && !name.starts_with('.') {
        true => fs::read(folder.join(name)).ok(),
        false => None,
    };
    let (status, body) = match (method, found) {
        ("GET" | "HEAD", Some(body)) => ("200 OK", body),
        ("GET" | "HEAD", None) => ("404 Not Found", b"not found".to_vec()),
        _ => ("405 Method Not Allowed", Vec::new()),
    };
    let kind = match name.rsplit('.').next() {
        Some("html") if status == "200 OK" => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("wasm") => "application/wasm",
        _ => "text/plain; charset=utf-8",
    };
    // The two policies let the page have a finer clock.
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Embedder-Policy: require-corp\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}
