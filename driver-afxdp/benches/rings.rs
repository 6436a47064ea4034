//! What libxdp's out-of-line ring calls cost against rings accessed inline, on one and the same socket, as a share of what
//! sending a packet costs at the socket's raw rate: `cargo bench -p bywash-afxdp --bench rings`, as root.
//!
//! Nanoseconds are CPU time, medians of rounds in which the rivals take turns. Instructions, where valgrind is installed, are those
//! of this process under callgrind: of twice as many packets less those of once as many.

use bywash_afxdp::testing::{Load, QueueBed, RingBed, Rival, VethOptions, VethPair};

const ROUNDS: usize = 11;
const PACKETS: u64 = 2_000_000;
/// Packets really sent to learn the budget, in each round.
const SENT: u64 = 200_000;
/// Packets of a run whose instructions are counted.
const COUNTED: u64 = 64_000;
const BURSTS: [usize; 3] = [1, 8, 64];
const LOADS: [(&str, Load); 2] = [("receive", Load::Receive), ("send", Load::Send)];
const RIVALS: [(&str, Rival); 3] = [
    ("calls, one a packet", Rival::CallsPerPacket),
    ("calls, one a burst", Rival::CallsPerBurst),
    ("inline", Rival::Inline),
];

/// One row of the table: what goes through the rings, packets a burst, and the way.
#[derive(Clone, Copy)]
struct Case {
    load: usize,
    burst: usize,
    rival: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, interface, numbers @ ..] = &arguments[..]
        && word == "--count"
    {
        let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
        let [load, burst, rival, packets] = numbers[..] else { panic!("--count takes four numbers") };
        return Case { load, burst, rival }.run(&mut open(interface, 0), packets as u64);
    }
    if let [word, interface, burst, packets] = &arguments[..]
        && word == "--count-queue"
    {
        let mut bed = QueueBed::open(interface).unwrap_or_else(|error| panic!("{error}"));
        return bed.reflect(packets.parse().expect("a number"), burst.parse().expect("a number"));
    }
    if !bywash_afxdp::testing::is_root("the benchmark of ring accesses") {
        return;
    }
    let pair = VethPair::new(VethOptions { queues: 2, ..VethOptions::default() });
    let cases = || (0..LOADS.len()).flat_map(|load| BURSTS.map(|burst| (load, burst)));
    let cases: Vec<_> = cases()
        .flat_map(|(load, burst)| (0..RIVALS.len()).map(move |rival| Case { load, burst, rival }))
        .collect();
    let (budget, times) = pair.stack.run(|| time(&pair.stack_interface, &cases));
    println!("packet budget: {budget:.0} ns for a packet of 60 bytes sent at the socket's raw rate");
    println!(
        "{:<9}{:>5}  {:<21}{:>10}{:>14}{:>20}",
        "", "burst", "", "ns/packet", "instructions", "over inline"
    );
    for (case, &time) in cases.iter().zip(&times) {
        let inline = cases.iter().position(|other| {
            (other.load, other.burst, other.rival) == (case.load, case.burst, RIVALS.len() - 1)
        });
        let over = time - times[inline.expect("every load has the inline rival")];
        let over = format!("{over:.1} ns, {:.2} %", 100.0 * over / budget);
        let counted = case.instructions(&pair).map_or("-".to_owned(), |count| format!("{count:.1}"));
        let (load, rival) = (LOADS[case.load].0, RIVALS[case.rival].0);
        println!("{load:<9}{:>5}  {rival:<21}{time:>10.1}{counted:>14}{over:>20}", case.burst);
    }
    for burst in BURSTS {
        let time = pair.stack.run(|| time_queue(&pair.stack_interface, burst));
        let counted = instructions(&pair, "--count-queue", &[burst.to_string()]);
        let counted = counted.map_or("-".to_owned(), |count| format!("{count:.1}"));
        println!("{:<9}{burst:>5}  {:<21}{time:>10.1}{counted:>14}", "reflect", "whole driver");
    }
    println!(
        "(The figures hold both sides of the rings, as the benchmark plays the kernel's; differences are the calls'.)"
    );
}

fn open(interface: &str, queue: u32) -> RingBed {
    RingBed::open(interface, queue).unwrap_or_else(|error| panic!("{error}"))
}

/// The packet budget and every case's time for a packet, in nanoseconds.
fn time(interface: &str, cases: &[Case]) -> (f64, Vec<f64>) {
    let (mut bed, mut sender) = (open(interface, 0), open(interface, 1));
    let mut budget = Vec::new();
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        let start = cpu_nanos();
        sender.transmit(SENT, 64);
        budget.push((cpu_nanos() - start) / SENT as f64);
        for (case, times) in cases.iter().zip(&mut times) {
            let start = cpu_nanos();
            case.run(&mut bed, PACKETS);
            times.push((cpu_nanos() - start) / PACKETS as f64);
        }
    }
    (median(budget), times.into_iter().map(median).collect())
}

/// CPU time of this thread, system calls and all: on a machine that does other things too, time that passes says less.
fn cpu_nanos() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec for the kernel to write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Case {
    fn run(self, bed: &mut RingBed, packets: u64) {
        let (rival, load) = (RIVALS[self.rival].1, LOADS[self.load].1);
        bed.run(rival, load, packets, self.burst).expect("a kernel that maps rings of a bound socket");
    }

    /// Instructions for a packet; `None` without valgrind.
    fn instructions(self, pair: &VethPair) -> Option<f64> {
        let numbers = [self.load, self.burst, self.rival].map(|number| number.to_string());
        instructions(pair, "--count", &numbers)
    }
}

/// The driver's time for a packet received and sent again, in nanoseconds.
fn time_queue(interface: &str, burst: usize) -> f64 {
    let mut bed = QueueBed::open(interface).unwrap_or_else(|error| panic!("{error}"));
    let times = (0..ROUNDS).map(|_| {
        let start = cpu_nanos();
        bed.reflect(PACKETS / 4, burst);
        (cpu_nanos() - start) / (PACKETS / 4) as f64
    });
    median(times.collect())
}

/// Instructions for a packet of this program, called with these arguments and a number of packets; `None` without
/// valgrind.
fn instructions(pair: &VethPair, word: &str, arguments: &[String]) -> Option<f64> {
    let counted = |packets: u64| -> Option<u64> {
        let mut command = pair.stack.command("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        command.arg(std::env::current_exe().ok()?).args([word, &pair.stack_interface]);
        let output = command.args(arguments).arg(packets.to_string()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "under valgrind: {text}");
        let collected = text.lines().find_map(|line| line.split("Collected : ").nth(1));
        Some(collected?.trim().parse().expect("a number"))
    };
    let (once, twice) = (counted(COUNTED)?, counted(2 * COUNTED)?);
    Some((twice as f64 - once as f64) / COUNTED as f64)
}
