//! Both ends of the dial between latency and CPU time, and its middle: requests and responses of 64 bytes between a client
//! on the kernel's TCP and an echo server on Bywash over a veth pair in namespaces of its own, with each setting of
//! `--spin`. As root: `cargo run --release -p bywash-benches --bin idle_dial [-- --rounds N] [--json DIRECTORY]`.
//!
//! Client and server have a CPU each, where there are two. A request's latency is taken at the client, the server's CPU
//! time is that of its thread.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bywash::config::StackConfig;
use bywash::runtime::net::TcpListener;
use bywash::runtime::{BoxError, Pinning, Runtime, Spin, spawn};
use bywash_afxdp::testing::{VethOptions, VethPair};
use bywash_afxdp::{AttachOptions, Nic, QueueOptions};
use bywash_benches::results::{Benchmark, Better};
use bywash_benches::table;

const USAGE: &str = "usage: idle_dial [--rounds N] [--json DIRECTORY]";
const SERVER: &str = "192.0.2.10";
const PORT: u16 = 7;
const REQUEST_BYTES: usize = 64;
/// How long each setting is measured in each case and round.
const SPAN: Duration = Duration::from_millis(1500);
/// Requests before that, for the adaptive setting to learn from.
const WARM_UP: usize = 200;
/// The adaptive setting's bound.
const MOST: Duration = Duration::from_micros(50);

const SETTINGS: [(&str, Spin); 3] =
    [("off", Spin::Off), ("50us", Spin::Adaptive(MOST)), ("always", Spin::Always)];
/// Pauses of the client between a response and the next request; `None`: no request at all.
const CASES: [(&str, Option<Duration>); 3] = [
    ("requests back to back", Some(Duration::ZERO)),
    ("a request each millisecond", Some(Duration::from_millis(1))),
    ("idle connection", None),
];

const MEDIAN: &str = "us, median";
const TAIL: &str = "us, 99th percentile";
const CPU: &str = "% of a CPU, server";
const UNITS: [&str; 3] = [MEDIAN, TAIL, CPU];

/// One figure of one round.
struct Sample {
    case: &'static str,
    setting: &'static str,
    unit: &'static str,
    value: f64,
}

fn main() -> Result<(), BoxError> {
    let (mut rounds, mut directory) = (5, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match argument.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--json" => directory = Some(PathBuf::from(value()?)),
            _ => return Err(USAGE.into()),
        }
    }
    if !bywash_afxdp::testing::is_root("the dial between latency and CPU time") {
        return Ok(());
    }
    let mut benchmark = Benchmark::new(
        "idle-dial",
        5,
        "Latency against CPU time",
        "Requests and responses of 64 bytes, one at a time, from the kernel's TCP to `bywash`'s echo over veth; the server's \
         thread sleeps at once when idle (`off`), spins for up to 50 microseconds while that pays (`50us`), or never sleeps \
         (`always`).",
        "cargo run --release -p bywash-benches --bin idle_dial",
    );
    let mut samples = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (setting, spin) in SETTINGS {
            measure(&mut samples, setting, spin)?;
        }
    }
    for (case, pause) in CASES {
        for unit in UNITS {
            for sample in samples.iter().filter(|sample| (sample.case, sample.unit) == (case, unit)) {
                benchmark.add(case, sample.setting, unit, Better::Less, sample.value);
            }
        }
        if pause.is_some() {
            benchmark.compare(case, MEDIAN, "50us", "off", None);
            benchmark.compare(case, MEDIAN, "always", "off", None);
        }
    }
    print!("{}", table::page(std::slice::from_ref(&benchmark)));
    if let Some(directory) = directory {
        benchmark.write(&directory)?;
    }
    Ok(())
}

/// A server of its own with this setting, through all cases.
fn measure(samples: &mut Vec<Sample>, setting: &'static str, spin: Spin) -> Result<(), BoxError> {
    let pair = VethPair::new(VethOptions { peer_offloads: false, ..VethOptions::default() });
    pair.peer_address("192.0.2.2/24");
    let runtime = pair.stack.run(|| serve(&pair.stack_interface, spin))?;
    let handle = runtime.handle();
    for (case, pause) in CASES {
        let (mut latencies, cpu, elapsed) = pair.peer.run(|| -> std::io::Result<_> {
            on_cpu(1);
            let mut stream = TcpStream::connect(SocketAddr::new(SERVER.parse().expect("an address"), PORT))?;
            stream.set_nodelay(true)?;
            let mut latencies = Vec::new();
            if let Some(pause) = pause {
                requests(&mut stream, pause, &mut latencies, |done, _| done < WARM_UP)?;
            } else {
                // What the handshake left to do is done.
                std::thread::sleep(Duration::from_millis(300));
            }
            latencies.clear();
            let (cpu, start) = (handle.metrics().cpu(), Instant::now());
            match pause {
                Some(pause) => requests(&mut stream, pause, &mut latencies, |_, elapsed| elapsed < SPAN)?,
                None => std::thread::sleep(SPAN),
            }
            Ok((latencies, handle.metrics().cpu() - cpu, start.elapsed()))
        })?;
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        let mut add = |unit, value| samples.push(Sample { case, setting, unit, value });
        if !latencies.is_empty() {
            add(MEDIAN, at(0.5));
            add(TAIL, at(0.99));
        }
        add(CPU, 100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64());
    }
    handle.shutdown();
    runtime.wait()?;
    Ok(())
}

/// Sends requests as long as `goes_on` says so, of how many were answered and how long it took.
fn requests(
    stream: &mut TcpStream,
    pause: Duration,
    latencies: &mut Vec<Duration>,
    goes_on: impl Fn(usize, Duration) -> bool,
) -> std::io::Result<()> {
    let (request, mut response) = ([0x5a; REQUEST_BYTES], [0; REQUEST_BYTES]);
    let start = Instant::now();
    while goes_on(latencies.len(), start.elapsed()) {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let sent = Instant::now();
        stream.write_all(&request)?;
        stream.read_exact(&mut response)?;
        latencies.push(sent.elapsed());
    }
    Ok(())
}

/// An echo server on queue 0 of `interface`, in the calling thread's namespace, on the first CPU.
fn serve(interface: &str, spin: Spin) -> Result<Runtime, BoxError> {
    let steer = Nic::open(interface)?.attach(&AttachOptions::default())?;
    let opener = steer.queue(0, &QueueOptions::default())?;
    let config = StackConfig::new(vec![format!("{SERVER}/24").parse()?], [7; 32]);
    let runtime =
        Runtime::builder(config).spin(spin).pin(Pinning::Cpus(vec![0])).queue(move || opener.open());
    let runtime = runtime.start(|context| async move {
        let listener = TcpListener::bind(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), PORT))?;
        let server = spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                spawn(async move {
                    while let Ok(Some(chunk)) = stream.read_chunk().await {
                        if stream.write_chunk(chunk).await.is_err() {
                            break;
                        }
                    }
                })
                .detach();
            }
        });
        context.shutdown().await;
        drop(server);
        Ok(())
    })?;
    Ok(runtime)
}

/// Binds the calling thread to a CPU, if there is one of this number.
fn on_cpu(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}
