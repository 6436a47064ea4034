//! Memory of idle connections: opens a million connections to one shard, from peers that exist only as frames, and
//! divides by their number what the process's resident memory grew. Once as they were opened, once after each has carried a
//! request and its answer, so that everything that traffic allocates and keeps is in it.
//!
//! `cargo run --release -p bywash-benches --bin idle_memory -- [--connections N] [--json FILE]`

use std::io;
use std::process::ExitCode;

use bywash_benches::idle::Crowd;

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
    let (mut connections, mut json) = (1_000_000u32, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| io::Error::other(format!("{arg} wants a value")))?;
        match arg.as_str() {
            "--connections" => connections = value.parse().map_err(io::Error::other)?,
            "--json" => json = Some(value),
            _ => return Err(io::Error::other(format!("{arg}: --connections N and --json FILE are known"))),
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
    if let Some(path) = json {
        let figures = serde_json::json!({
            "benchmark": "idle-memory",
            "connections": connections,
            "bytes_per_connection": { "opened": opened, "after_request": used },
            "bound_bytes": BOUND_BYTES,
        });
        std::fs::write(path, format!("{figures:#}\n"))?;
    }
    Ok(opened <= BOUND_BYTES && used <= BOUND_BYTES)
}

/// Resident memory of this process (proc(5), `statm`'s second field).
fn resident_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
    Ok(pages.ok_or_else(|| io::Error::other("/proc/self/statm has no second field"))? * PAGE_BYTES)
}
