//! Runs the scripts of `tests/packetdrill` against the shared object, each in a process of its own, with a runner that keeps
//! to packetdrill's language and to its use of the interface; where `packetdrill` itself is installed, with that, too.
//!
//! `cargo test -p bywash-capi --test packetdrill -- FILE_OR_DIRECTORY...` runs other scripts; `IP_VERSION` chooses `ipv4` (the
//! default), `ipv6` or `ipv4-mapped-ipv6`.

mod assertions;
mod call;
mod interface;
mod run;
mod script;
mod wire;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use run::Network;

/// A script that takes longer in real time hangs.
const TIME_MAX: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [one, path] = &args[..]
        && one == "--one"
    {
        return match run_one(Path::new(path)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let is_path = |arg: &String| arg.contains('/') || arg.ends_with(".pkt");
    let mut paths: Vec<PathBuf> = args.iter().filter(|arg| is_path(arg)).map(PathBuf::from).collect();
    if paths.is_empty() {
        paths.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packetdrill"));
    }
    let mut scripts: Vec<PathBuf> = paths.iter().flat_map(|path| scripts_in(path)).collect();
    // None is ignored; `terse` belongs to `--format`.
    if has("--ignored") {
        scripts.clear();
    }
    if has("--list") {
        scripts.iter().for_each(|script| println!("{}: test", name(script)));
        return ExitCode::SUCCESS;
    }
    if let Some(filter) = args.iter().find(|arg| !arg.starts_with('-') && !is_path(arg)) {
        let wanted =
            |name: &str| if has("--exact") { name == filter } else { name.contains(filter.as_str()) };
        scripts.retain(|script| wanted(&name(script)));
    }
    println!("\nrunning {} tests", scripts.len());
    let mut failed = 0;
    for script in &scripts {
        failed += usize::from(!report(script, "", &own_runner(script)));
    }
    let outer = packetdrill(&scripts);
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
        if failed + outer == 0 { "ok" } else { "FAILED" },
        scripts.len() - failed,
        failed + outer
    );
    if failed + outer == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the scripts through packetdrill itself; how many failed.
fn packetdrill(scripts: &[PathBuf]) -> usize {
    let help = Command::new("packetdrill").arg("--help").output();
    let text = help.map(|help| [help.stdout, help.stderr].concat()).unwrap_or_default();
    if !String::from_utf8_lossy(&text).contains("so_filename") {
        println!(
            "SKIPPED packetdrill: needs the program packetdrill with --so_filename; the built-in runner ran"
        );
        return 0;
    }
    let object = object();
    let failures = scripts.iter().filter(|script| {
        let mut command = Command::new("packetdrill");
        command.arg(format!("--so_filename={}", object.display())).arg(script).env("LD_PRELOAD", &object);
        !report(script, " (packetdrill)", &outcome(command))
    });
    failures.count()
}

fn report(script: &Path, by: &str, outcome: &Result<(), String>) -> bool {
    let name = name(script);
    match outcome {
        Ok(()) => println!("test {name}{by} ... ok"),
        Err(error) => println!("test {name}{by} ... FAILED\n      {error}"),
    }
    outcome.is_ok()
}

fn name(script: &Path) -> String {
    script.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn scripts_in(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return vec![path.to_owned()] };
    let mut scripts: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "pkt"));
    scripts.sort();
    scripts
}

fn own_runner(script: &Path) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.arg("--one").arg(script);
    outcome(command)
}

/// Runs a command with a limit on its time; what it said when it failed.
fn outcome(mut command: Command) -> Result<(), String> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run: {error}"))?;
    let begun = Instant::now();
    while begun.elapsed() < TIME_MAX {
        if child.try_wait().map_err(|error| error.to_string())?.is_some() {
            let output = child.wait_with_output().map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return if output.status.success() { Ok(()) } else { Err(format!("{said} ({})", output.status)) };
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // Already dead, or about to be.
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("hangs for {TIME_MAX:?}"))
}

/// The shared object: built along with this test, beside it.
fn object() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe.parent().unwrap_or(Path::new(".")).join("libbywash_packetdrill.so");
    std::env::var_os("BYWASH_PACKETDRILL_SO").map_or(beside, PathBuf::from)
}

fn run_one(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let version = std::env::var("IP_VERSION").unwrap_or_else(|_| "ipv4".into());
    let mut defines = HashMap::new();
    for (name, value) in std::env::vars() {
        if let Some(name) = name.strip_prefix("DEFINE_") {
            defines.insert(name.to_owned(), value);
        }
    }
    let script = script::parse(&text, &defines)?;
    let option = |name: &str| script.options.get(name).map(String::as_str);
    let version = option("ip_version").unwrap_or(&version);
    let (local, remote, domain) = match version {
        "ipv4" => ("192.168.0.1", "192.0.2.1", libc::AF_INET),
        "ipv6" => ("fd3d:0a0b:17d6::1", "fd3d:fa7b:d17d::1", libc::AF_INET6),
        "ipv4-mapped-ipv6" => ("192.168.0.1", "192.0.2.1", libc::AF_INET6),
        other => return Err(format!("unknown IP version {other}")),
    };
    let address = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    let network = Network {
        local: address(local)?,
        remote: address(remote)?,
        domain,
        tolerance: option("tolerance_usecs").and_then(|value| value.parse().ok()).unwrap_or(4000),
    };
    let interface = interface::Interface::load(&object(), option("so_flags").unwrap_or(""))?;
    run::run(&script, interface, network, path.parent().unwrap_or(Path::new(".")))
}
