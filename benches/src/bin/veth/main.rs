//! Benchmarks over a veth pair in network namespaces of their own, as root: the stack against raw AF_XDP (`frames`) and, as a
//! router, Linux (`forward`), and
//! against the kernel's TCP (`bulk`, `echo`, `http`), and the memory of idle connections (`memory`). Rivals take turns in
//! every round. Writes a JSON file each (`bywash_benches::results`), which the bin `report` shows.
//!
//! usage: veth [--quick] [--rounds N] [--only TEXT] [--results DIRECTORY] [NAME...]
//!
//! `--only` is for a profiler: it leaves out what does not have TEXT in its `CASE: RIVAL`, such as `64 B: bywash`.

mod bed;
mod bulk;
mod echo;
mod forward;
mod frames;
mod http;
mod kernel;
mod memory;
mod meter;
mod ours;
mod peer;
mod segment;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bywash_benches::results::Benchmark;

/// The error of anything here: its text is all that is done with it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// Of anything here.
pub type Result<T> = core::result::Result<T, Error>;

const USAGE: &str = "usage: veth [--quick] [--rounds N] [--only TEXT] [--results DIRECTORY] [NAME...]";

/// Rounds unless others are asked for.
const ROUNDS: usize = 5;
/// The same with `--quick`.
const ROUNDS_QUICK: usize = 3;

/// How long and how often is measured.
pub struct Plan {
    /// Fewer cases and rounds, shorter ones.
    pub quick: bool,
    /// Rounds of each benchmark.
    pub rounds: usize,
    only: Option<String>,
    started: Instant,
}

impl Plan {
    /// What is measured of a case at a time.
    pub fn seconds(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 1000 })
    }

    /// What is not measured before it.
    pub fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.quick { 150 } else { 300 })
    }

    /// Whether this is to be measured.
    pub fn wants(&self, case: &str, who: &str) -> bool {
        self.only.as_ref().is_none_or(|only| format!("{case}: {who}").contains(only))
    }

    /// What a reader is to type: the rounds too, where they were chosen.
    pub fn command(&self) -> String {
        let quick = if self.quick { " --quick" } else { "" };
        match (self.quick, self.rounds) {
            (true, ROUNDS_QUICK) => "make bench-quick".to_owned(),
            (false, ROUNDS) => "make bench".to_owned(),
            (_, rounds) => format!("target/release/veth{quick} --rounds {rounds}"),
        }
    }

    /// Says what comes.
    pub fn tell(&self, benchmark: &Benchmark, round: usize, what: &str) {
        let seconds = self.started.elapsed().as_secs();
        eprintln!("{seconds:>4} s  {}: round {} of {}, {what}", benchmark.name, round + 1, self.rounds);
    }
}

type Run = fn(&Plan) -> Result<Benchmark>;
const BENCHMARKS: [(&str, Run); 6] = [
    ("frames", frames::run),
    ("forward", forward::run),
    ("http", http::run),
    ("echo", echo::run),
    ("bulk", bulk::run),
    ("memory", memory::run),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("veth: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // As many files as are allowed without a privilege for more.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: files.maximum, ..files };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most)?;
    if std::env::args().nth(1).as_deref() == Some(memory::HOLD) {
        return memory::hold(&std::env::args().skip(2).collect::<Vec<_>>());
    }
    let mut plan = Plan { quick: false, rounds: 0, only: None, started: Instant::now() };
    let mut directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => plan.quick = true,
            "--rounds" => plan.rounds = arguments.next().ok_or(USAGE)?.parse()?,
            "--only" => plan.only = Some(arguments.next().ok_or(USAGE)?),
            "--results" => directory = PathBuf::from(arguments.next().ok_or(USAGE)?),
            name if BENCHMARKS.iter().any(|(known, _)| *known == name) => names.push(argument),
            _ => return Err(USAGE.into()),
        }
    }
    if plan.rounds == 0 {
        plan.rounds = if plan.quick { ROUNDS_QUICK } else { ROUNDS };
    }
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces and AF_XDP need root".into());
    }
    for (name, run) in
        BENCHMARKS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name))
    {
        let benchmark = run(&plan).map_err(|error| format!("{name}: {error}"))?;
        benchmark.write(&directory)?;
    }
    Ok(())
}
