//! Runs packetdrill scripts against the shared object, each in a process of its own, with a reader and player that keep to
//! packetdrill's language and to its use of the interface; where `packetdrill` itself is installed, with that, too.
//!
//! `cargo run -p bywash-capi -- [--ip-version=VERSION] FILE_OR_DIRECTORY...` runs any scripts and counts what passed; without
//! a path it runs those of `tests/packetdrill`. VERSION is `ipv4` (the default), `ipv6`, `ipv4-mapped-ipv6`, or `all` for
//! the three one after the other; a script may name its own. Scripts that run commands get a network namespace of their own
//! with a device `tun0` when the user is root, so that they can set sysctls. It also speaks the test harness's language
//! (`--list`, `--exact`, a filter), as the test `packetdrill` hands its arguments over.

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

/// IP versions of scripts that name none of their own, by `--ip-version`.
const VERSIONS: [&str; 3] = ["ipv4", "ipv6", "ipv4-mapped-ipv6"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [one, version, path] = &args[..]
        && one == "--one"
    {
        return match run_one(Path::new(path), version) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let is_path = |arg: &String| arg.contains('/') || arg.ends_with(".pkt") || Path::new(arg).is_dir();
    let wanted = args.iter().find_map(|arg| arg.strip_prefix("--ip-version=")).unwrap_or("ipv4");
    let versions: Vec<&str> =
        VERSIONS.into_iter().filter(|version| [version, "all"].contains(&wanted)).collect();
    if versions.is_empty() {
        eprintln!("unknown IP version {wanted}: choose one of {}, all", VERSIONS.join(", "));
        return ExitCode::FAILURE;
    }
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
    let filter = args.iter().find(|arg| !arg.starts_with('-') && !is_path(arg) && *arg != "terse");
    if let Some(filter) = filter {
        let wanted =
            |name: &str| if has("--exact") { name == filter } else { name.contains(filter.as_str()) };
        scripts.retain(|script| wanted(&name(script)));
    }
    println!("\nrunning {} tests", scripts.len());
    let mut failed = 0;
    for script in &scripts {
        failed += usize::from(!report(script, "", &own_runner(script, &versions)));
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

/// Runs a script over each of the versions, or over its own; the first failure.
fn own_runner(script: &Path, versions: &[&str]) -> Result<(), String> {
    let text = std::fs::read_to_string(script).unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("--ip_version=")).map(str::trim);
    for version in own.as_slice().iter().chain(if own.is_none() { versions } else { &[] }) {
        let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
        command.arg("--one").arg(version).arg(script);
        outcome(command).map_err(|error| format!("{version}: {error}"))?;
    }
    Ok(())
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

/// The shared object: built along with this program, beside it or where cargo puts what others depend on.
fn object() -> PathBuf {
    if let Some(path) = std::env::var_os("BYWASH_PACKETDRILL_SO") {
        return path.into();
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let directory = exe.parent().unwrap_or(Path::new("."));
    let places =
        [directory.join("deps"), directory.to_owned()].map(|place| place.join("libbywash_packetdrill.so"));
    // The one built last.
    let built = |path: &&PathBuf| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    places.iter().max_by_key(built).cloned().unwrap_or_default()
}

/// Names that Linux's runner of its own scripts gives them for each IP version: a cookie for its usual key and one for a key
/// of zeros, and where queued errors come from.
fn usual_names(version: &str) -> HashMap<String, String> {
    let (cookie, zero_key_cookie, family) = match version {
        "ipv6" => ("c1d1e9742a47a9bc", "82af1a8f9a205c34", "IPV6"),
        "ipv4" => ("3021b9d889017eeb", "b7c12350a90dc8f5", "IP"),
        _ => ("3021b9d889017eeb", "b7c12350a90dc8f5", "IPV6"),
    };
    let level = format!("SOL_{family}");
    let recverr = format!("{family}_RECVERR");
    [
        ("TFO_COOKIE", cookie),
        ("TFO_COOKIE_ZERO", zero_key_cookie),
        ("CMSG_LEVEL_IP", &level),
        ("CMSG_TYPE_RECVERR", &recverr),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Makes the device that scripts know, and puts private copies of the namespace's sysctls in their place: what this kernel does
/// not know, or keeps from namespaces, can be set all the same, and the shared object reads it there.
const SCENERY: &str = "
ip link set lo up
ip tuntap add mode tun dev tun0 && ip link set tun0 up
mount --make-rprivate / || exit
copies=$(mktemp -d) && mount -t tmpfs none $copies || exit
for place in ipv4 core; do
    mkdir $copies/$place
    (cd /proc/sys/net/$place && for file in *; do [ -f $file ] && cat $file > $copies/$place/$file; done)
done
for file in tcp_ecn_option=2 tcp_ecn_option_beacon=3 tcp_fack=0 tcp_min_tso_segs=2 tcp_rto_max_ms=120000 tcp_shrink_window=0; do
    [ -e $copies/ipv4/${file%=*} ] || echo ${file#*=} > $copies/ipv4/${file%=*}
done
mount --bind $copies/ipv4 /proc/sys/net/ipv4
mount --bind $copies/core /proc/sys/net/core
umount -l $copies && rmdir $copies
";

/// Puts this process into namespaces of its own with that scenery, if it may.
fn enter_namespace() {
    // SAFETY: no other thread runs yet, and no memory is touched.
    if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
        return;
    }
    if let Err(error) = run::shell(SCENERY, Path::new("/")) {
        eprintln!("  some commands of the script may fail: {error}");
    }
}

fn run_one(path: &Path, version: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut defines = usual_names(version);
    for (name, value) in std::env::vars() {
        if let Some(name) = name.strip_prefix("DEFINE_") {
            defines.insert(name.to_owned(), value);
        }
    }
    let script = script::parse(&text, &defines)?;
    let option = |name: &str| script.options.get(name).map(String::as_str);
    let (local, remote, domain) = match version {
        "ipv4" => ("192.168.0.1", "192.0.2.1", libc::AF_INET),
        "ipv6" => ("fd3d:0a0b:17d6::1", "fd3d:fa7b:d17d::1", libc::AF_INET6),
        "ipv4-mapped-ipv6" => ("192.168.0.1", "192.0.2.1", libc::AF_INET6),
        other => return Err(format!("unknown IP version {other}")),
    };
    let address = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    let micros = |name: &str| option(name).and_then(|value| value.parse().ok());
    let network = Network {
        local: address(local)?,
        remote: address(remote)?,
        domain,
        tolerance: micros("tolerance_usecs").unwrap_or(4000),
        timestamp_tick: micros("tcp_ts_tick_usecs").filter(|tick| *tick > 0),
    };
    if script.events.iter().any(|event| matches!(event.action, script::Action::Shell(_))) {
        enter_namespace();
    }
    let interface = interface::Interface::load(&object(), option("so_flags").unwrap_or(""))?;
    run::run(&script, interface, network, path.parent().unwrap_or(Path::new(".")))
}
