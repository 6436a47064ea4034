//! The stacks side by side in memory: every load on every stack, in rounds in which they take turns. Writes
//! `bench-stack.json` into the directory of results, which `--bin report` shows.
//!
//! usage: stack [--quick] [--results DIRECTORY]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bywash_benches::loads::{Load, Running};
use bywash_benches::ours::Bywash;
use bywash_benches::results::{Benchmark, Better, Target};
use bywash_benches::smoltcp_tcp::Smoltcp;
use bywash_benches::stack::Stack;
use bywash_benches::timers::{Operation, Timers};

const USAGE: &str = "usage: stack [--quick] [--results DIRECTORY]";
const TITLE: &str = "The stack alone, in memory";
const ABOUT: &str = "One stack at a time, driven by the same scripted peers through frames in memory on one core, without a \
    driver and without system calls. Only the work of the stack and of a small server in it is timed: not the peers, and \
    not the copies that stand for a NIC's DMA in both directions. All three verify every checksum of what they receive and \
    compute every checksum of what they send. MTU 1500; the peers offer what Linux offers (MSS 1460, SACK, timestamps, \
    window scale 7), keep at most 64 KiB in flight towards them, send full segments in bursts of 32 and acknowledge every \
    second segment. Nagle is off everywhere.\n\n\
    - **bywash**: a whole shard as the runtime polls it (a burst in, the server, a burst out), default options (256 KiB buffers that may grow, delayed ACKs as \
    Linux's, timestamps and SACK, CUBIC).\n\
    - **smoltcp** 0.14: its TCP socket with buffers of 65,535 bytes (256 for each of many connections), delayed ACKs of \
    10 ms as it comes, no congestion control as it comes, no timestamps; its device lends the buffers that frames are \
    built in, so that none is allocated or copied; the server runs between its ingress and its egress, too. One listening socket for each connection to come.\n\
    - **lwIP** 2.1.3, as Debian builds it: raw callback interface, single thread (`lwip_init`, no `tcpip_thread`; its light \
    locks are an uncontended mutex), window and send buffer of 65,535 bytes, MSS 1460, delayed ACKs by its 250 ms timer, no \
    timestamps, no SACK, checksums while copying; received frames lie in RAM pbufs, sent ones are taken by reference.\n\n\
    *Requests* are 64 bytes and so are their answers. A *connection* is opened, accepted, closed by the peer, then by the \
    server, in bursts of 32. *Demux* is a segment without payload or news, each for another of so many connections, in bursts \
    of 32. *Requests at N connections* are such bursts of requests. smoltcp and lwIP look at their connections one after the \
    other, so that they are not asked for more than 1,000. Timers: 100,000 are set while one more is armed and so on; the \
    others have nothing to compare.";

/// Seconds' worth of operations that one sample takes.
struct Settings {
    sample: Duration,
    rounds: usize,
    large: &'static [u32],
}

const FULL: Settings =
    Settings { sample: Duration::from_millis(250), rounds: 7, large: &[100_000, 1_000_000] };
const QUICK: Settings = Settings { sample: Duration::from_millis(30), rounds: 5, large: &[100_000] };

fn main() -> Result<(), Box<dyn Error>> {
    let mut settings = FULL;
    let mut directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let mut command = "cargo run --release -p bywash-benches --features lwip --bin stack".to_owned();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => {
                settings = QUICK;
                command += " -- --quick";
            }
            "--results" => directory = PathBuf::from(arguments.next().ok_or(USAGE)?),
            _ => return Err(USAGE.into()),
        }
    }
    let mut benchmark = Benchmark::new("stack", 1, TITLE, ABOUT, &command);
    for round in 1..=settings.rounds {
        eprintln!("stack: round {round} of {}", settings.rounds);
        run_round(&mut benchmark, &settings);
    }
    compare(&mut benchmark, &settings);
    benchmark.write(&directory)?;
    Ok(())
}

fn run_round(benchmark: &mut Benchmark, settings: &Settings) {
    for load in Load::COMPARED {
        sample::<Bywash>(benchmark, settings, load);
        sample::<Smoltcp>(benchmark, settings, load);
        #[cfg(feature = "lwip")]
        sample::<bywash_benches::lwip::Lwip>(benchmark, settings, load);
    }
    for &connections in settings.large {
        sample::<Bywash>(benchmark, settings, Load::Demux(connections));
        sample::<Bywash>(benchmark, settings, Load::Requests(connections));
    }
    for operation in Operation::ALL {
        let mut timers = Timers::new();
        let took = nanos(settings.sample, |count| {
            let start = std::time::Instant::now();
            timers.run(operation, count);
            (count, start.elapsed())
        });
        benchmark.add(operation.name(), "bywash", "ns", Better::Less, took);
    }
}

/// One sample of a load on a stack that is built for it.
fn sample<S: Stack>(benchmark: &mut Benchmark, settings: &Settings, load: Load) {
    let mut running = Running::<S>::new(load);
    let nanos =
        nanos(settings.sample, |operations| running.run(operations.min(load.operations_max() / SAMPLES)));
    let rate = 1e9 / nanos;
    match load {
        Load::BulkReceive | Load::BulkSend => {
            let gigabits = rate * f64::from(running.segment_bytes()) * 8.0 / 1e9;
            benchmark.add(&load.name(), S::NAME, "Gbit/s", Better::More, gigabits);
        }
        Load::RequestResponse => benchmark.add(&load.name(), S::NAME, "requests/s", Better::More, rate),
        Load::ConnectAcceptClose => benchmark.add(&load.name(), S::NAME, "connections/s", Better::More, rate),
        Load::Demux(connections) => {
            benchmark.add("demux", &at(S::NAME, connections), "ns/segment", Better::Less, nanos);
        }
        Load::Requests(connections) => {
            benchmark.add("requests", &at(S::NAME, connections), "ns/request", Better::Less, nanos);
        }
    }
}

/// The name of a row of a stack with so many connections.
fn at(stack: &str, connections: u32) -> String {
    match connections {
        1 => format!("{stack}, 1 connection"),
        1_000_000 => format!("{stack}, 1 million"),
        _ => format!("{stack}, {},000", connections / 1000),
    }
}

/// Of a load, for one figure.
const RUNS: u32 = 5;
/// With the first one, which says how long the others are to be.
const SAMPLES: u64 = RUNS as u64 + 1;

/// Nanoseconds per operation: the least of some runs that together take about `sample`, as whatever else the machine does only
/// slows them.
fn nanos(sample: Duration, mut run: impl FnMut(u64) -> (u64, Duration)) -> f64 {
    let each = |(done, took): (u64, Duration)| took.as_nanos() as f64 / done as f64;
    let first = each(run(200));
    let operations = ((sample / RUNS).as_nanos() as f64 / first.max(1.0)) as u64 + 1;
    (0..RUNS).map(|_| each(run(operations))).fold(f64::INFINITY, f64::min)
}

fn compare(benchmark: &mut Benchmark, settings: &Settings) {
    let five = Some(Target::AtLeast(5.0));
    let rates = [
        (Load::BulkReceive, "Gbit/s", five),
        (Load::BulkSend, "Gbit/s", five),
        (Load::RequestResponse, "requests/s", Some(Target::AtLeast(3.0))),
        (Load::ConnectAcceptClose, "connections/s", None),
    ];
    for (load, unit, target) in rates {
        benchmark.compare(&load.name(), unit, "bywash", "smoltcp", target);
        benchmark.compare(&load.name(), unit, "bywash", "lwip", None);
    }
    for (case, unit) in [("demux", "ns/segment"), ("requests", "ns/request")] {
        for rival in ["smoltcp", "lwip"] {
            benchmark.compare(case, unit, &at("bywash", 1000), &at(rival, 1000), None);
        }
        for &connections in settings.large {
            let twice = Some(Target::AtMost(2.0));
            benchmark.compare(case, unit, &at("bywash", connections), &at("bywash", 1000), twice);
        }
    }
}
