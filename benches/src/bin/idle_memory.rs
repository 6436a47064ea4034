//! Memory of idle connections: opens a million connections to one shard, from peers that exist only as frames, and
//! divides by their number what the process's resident memory grew. Once as they were opened, once after each has carried a
//! request and its answer, so that everything that traffic allocates and keeps is in it.
//!
//! usage: idle_memory [--quick] [--connections N] [--results DIRECTORY]
//!
//! Without `--results` the exit code says whether a connection keeps within its bound.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use bywash_benches::idle::Crowd;
use bywash_benches::results::{Benchmark, Better, Target};

const TITLE: &str = "Memory of idle connections, in memory";
const ABOUT: &str = "\
What resident memory grew by, for each connection from peers that exist only as frames to one shard without tasks: as
opened, and after each has carried a request and its answer. One sample: it does not depend on the machine's moods.
`limit` is the bound that the stack sets itself.";

/// What the resident memory is counted in.
const PAGE_BYTES: u64 = 4096;
/// The bound that ARCHITECTURE.md names.
const BOUND_BYTES: f64 = 1024.0;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("idle_memory: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether an idle connection stays within its bound.
fn run() -> io::Result<bool> {
    let (mut connections, mut directory) = (1_000_000u32, None);
    let mut command = "make bench";
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--quick" {
            (connections, command) = (100_000, "make bench-quick");
            continue;
        }
        let value = args.next().ok_or_else(|| io::Error::other(format!("{arg} wants a value")))?;
        match arg.as_str() {
            "--connections" => connections = value.parse().map_err(io::Error::other)?,
            "--results" => directory = Some(PathBuf::from(value)),
            _ => {
                let text = format!("{arg}: --quick, --connections N and --results DIRECTORY are known");
                return Err(io::Error::other(text));
            }
        }
    }
    // What does not depend on the number of connections is there before the first look.
    let mut crowd = Crowd::new(connections);
    (0..1000.min(connections)).for_each(|number| crowd.open(number));
    let (counted, before) = (f64::from(connections - 1000.min(connections)), resident_bytes()?);
    (1000..connections).for_each(|number| crowd.open(number));
    let opened = resident_bytes()?;
    (0..connections).for_each(|number| crowd.exchange(number));
    let used = resident_bytes()?;
    crowd.check();
    let each = |now: u64| (now as f64 - before as f64) / counted;
    let (opened, used) = (each(opened), each(used));
    println!(
        "{connections} connections: {opened:.0} resident bytes each as opened, {used:.0} after a request and its answer"
    );
    let Some(directory) = directory else { return Ok(opened <= BOUND_BYTES && used <= BOUND_BYTES) };
    let mut benchmark = Benchmark::new("idle-memory", 4, TITLE, ABOUT, command);
    let unit = "bytes a connection";
    for (when, bytes) in [("as opened", opened), ("after a request", used)] {
        let case = format!("{connections} connections, {when}");
        benchmark.add(&case, "bywash", unit, Better::Less, bytes);
        benchmark.add(&case, "limit", unit, Better::Less, BOUND_BYTES);
        benchmark.compare(&case, unit, "bywash", "limit", Some(Target::AtMost(1.0)));
    }
    benchmark.write(&directory)?;
    Ok(true)
}

/// Resident memory of this process (proc(5), `statm`'s second field).
fn resident_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
    Ok(pages.ok_or_else(|| io::Error::other("/proc/self/statm has no second field"))? * PAGE_BYTES)
}
