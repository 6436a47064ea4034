//! The stack against the frames' own limit: bulk send, bulk receive and request-response as a fraction of raw AF_XDP
//! transmit, drop and reflect of frames of the same size, with the same kind of peer.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bywash_afxdp::testing::PlainSocket;
use bywash_afxdp::{AttachOptions, Nic, QueueOptions};

use super::bed::{Bed, PEER, STACK, Side};
use super::meter::{self, Credit, Meter, Reading};
use super::ours::{self, Use};
use super::peer::{self, Peer};
use super::segment::HEADERS;
use super::{Plan, Result};
use bywash_benches::results::{Benchmark, Better, Target};

/// Payload of the smallest full segments that the stack sends: it takes a smaller MSS for this one.
const LEAST_MSS: usize = 48;

const TITLE: &str = "Against the frames' own limit";
const ABOUT: &str = "\
Frames per second over a veth pair, one core a side: AF_XDP in copy mode, where the kernel spends most of a frame's cost (a
system call a burst, an skb a frame), and where the sender's core also runs the receiver's driver. `xsk-rs` is a loop over
xsk-rs' rings as in its examples, `driver` a loop over our driver, `bywash` the whole stack and an application. The peer is
the same each time and has no TCP stack: it acknowledges all it gets, once a burst of at most 64; or sends segments in order as far as
the window goes; or sends a request on each connection and the next when the answer is whole. Frames count where they arrive, and
at most 192 are under way, raw ones too: fewer than veth's own ring of 256 takes.

- *send*: raw transmission of frames written once, received and dropped by the peer; against full segments that an application
  writes, copied, checksummed and acknowledged. The smallest has 102 bytes, as the stack cuts nothing below an MSS of 48.
- *receive*: raw reception, dropped; against segments delivered to an application that reads and drops them.
- *requests*: raw reflection with swapped Ethernet addresses; against an echo server's answers, one segment each, with 1
  frame (connection) or 64 under way.
- CPU is the time of the thread at the server's side for each frame, with what the kernel does in it.
- *both ends bywash*: the same with our own stack as the peer, in frames' worth of payload.";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Send,
    Receive,
    Requests(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rival {
    Plain,
    Driver,
    Bywash,
    Both,
}

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "raw, xsk-rs",
            Self::Driver => "raw, driver",
            Self::Bywash => "bywash",
            Self::Both => "both ends bywash",
        }
    }
}

/// A kind of work with frames of a size.
#[derive(Clone, Copy)]
struct Case {
    work: Work,
    frame: usize,
}

impl Case {
    fn name(self) -> String {
        match self.work {
            Work::Send => format!("send, {} B", self.frame),
            Work::Receive => format!("receive, {} B", self.frame),
            Work::Requests(1) => format!("requests, 1 under way, {} B", self.frame),
            Work::Requests(count) => format!("requests, {count} under way, {} B", self.frame),
        }
    }

    /// Whether it is among the few that a quick run has.
    fn is_quick(self) -> bool {
        match self.work {
            Work::Send => self.frame >= 1514,
            Work::Receive => true,
            Work::Requests(in_flight) => in_flight > 1 && self.frame < 9000,
        }
    }

    fn payload(self) -> usize {
        self.frame - HEADERS
    }
}

/// Runs it.
pub fn run(plan: &Plan) -> Result<Benchmark> {
    let mut benchmark = Benchmark::new("veth-frames", 2, TITLE, ABOUT, &plan.command());
    let small = LEAST_MSS + HEADERS;
    let all = |frame: usize| {
        let send = Case { work: Work::Send, frame: frame.max(small) };
        let rest = [Work::Receive, Work::Requests(1), Work::Requests(64)];
        core::iter::once(send).chain(rest.map(|work| Case { work, frame }))
    };
    let beds = [
        (1500, [60, 1514].into_iter().flat_map(all).collect::<Vec<_>>()),
        (9000, all(9014).collect::<Vec<_>>()),
    ];
    for (mtu, cases) in beds {
        let bed = Bed::new(mtu, false)?;
        for round in 0..plan.rounds {
            plan.tell(&benchmark, round, &format!("MTU {mtu}"));
            for &case in cases.iter().filter(|case| !plan.quick || case.is_quick()) {
                let mut rivals = vec![Rival::Driver, Rival::Bywash];
                if !plan.quick {
                    rivals.insert(0, Rival::Plain);
                }
                // Our own stack states an MSS that fills the MTU.
                if !plan.quick && (case.frame >= 1514 || matches!(case.work, Work::Requests(_))) {
                    rivals.push(Rival::Both);
                }
                for rival in rivals {
                    if !plan.wants(&case.name(), rival.name()) {
                        continue;
                    }
                    let reading = measure(&bed, plan, case, rival)
                        .map_err(|error| format!("{}, {}: {error}", case.name(), rival.name()))?;
                    record(&mut benchmark, case, rival, reading);
                }
            }
        }
    }
    Ok(benchmark)
}

fn record(benchmark: &mut Benchmark, case: Case, rival: Rival, reading: Reading) {
    let (name, who) = (case.name(), rival.name());
    benchmark.add(&name, who, "frames/s", Better::More, reading.rate);
    let (bywash, driver, plain) = (Rival::Bywash.name(), Rival::Driver.name(), Rival::Plain.name());
    match rival {
        Rival::Plain => {}
        Rival::Driver => benchmark.compare(&name, "frames/s", driver, plain, None),
        Rival::Bywash => {
            benchmark.compare(&name, "frames/s", bywash, driver, Some(Target::AtLeast(0.9)));
        }
        // Its time is that of both ends' kernels.
        Rival::Both => return,
    }
    benchmark.add(&name, who, "CPU ns a frame", Better::Less, reading.cpu_nanos);
}

fn measure(bed: &Bed, plan: &Plan, case: Case, rival: Rival) -> Result<Reading> {
    match rival {
        Rival::Plain | Rival::Driver => raw(bed, plan, case, rival),
        Rival::Bywash => stack(bed, plan, case),
        Rival::Both => both(bed, plan, case),
    }
}

/// Runs two threads, a worker at the server's side and a peer at the client's, each with its own meter and the other's, and
/// reads one of the two.
fn at_both_sides(
    bed: &Bed,
    plan: &Plan,
    counts_worker: bool,
    worker: impl FnOnce(&Meter, &Meter) -> Result<()> + Send,
    peer: impl FnOnce(&Meter, &Meter) -> Result<()> + Send,
) -> Result<Reading> {
    let (here, there) = (Meter::default(), Meter::default());
    let (here, there) = (&here, &there);
    thread::scope(|scope| {
        let peer = scope.spawn(move || bed.on(Side::Client, || peer(there, here)));
        let worker = scope.spawn(move || {
            bed.on(Side::Server, || {
                here.this_thread();
                worker(here, there)
            })
        });
        let reading =
            meter::read(if counts_worker { here } else { there }, here, plan.warm_up(), plan.seconds());
        here.stop();
        there.stop();
        let joined =
            [worker, peer].map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())));
        joined.into_iter().collect::<Result<Vec<()>>>()?;
        reading
    })
}

fn raw(bed: &Bed, plan: &Plan, case: Case, rival: Rival) -> Result<Reading> {
    let interface = &bed.pair.stack_interface;
    let frame = bed.on(Side::Client, || Ok(Peer::open(bed)?.frame(case.frame)))?;
    // Towards the peer.
    let mut back = frame;
    let (dst, src) = back[..12].split_at_mut(6);
    dst.swap_with_slice(src);
    let worker = |meter: &Meter, arrivals: &Meter| {
        let mut credit = Credit::new(arrivals);
        if rival == Rival::Driver {
            let mut queue = peer::open(interface)?;
            return match case.work {
                Work::Send => peer::transmit(&mut queue, &back, |count| credit.take(count)),
                Work::Receive => peer::drop_all(&mut queue, meter),
                Work::Requests(_) => peer::reflect(&mut queue, meter),
            };
        }
        let steer = Nic::open(interface)?.attach(&AttachOptions::default())?;
        let mut socket = PlainSocket::open(&steer, 0, &QueueOptions::default())?;
        for address in [STACK, PEER] {
            socket.own_address(IpAddr::V4(address))?;
        }
        let go_on = |count| meter.add(count);
        match case.work {
            Work::Send => socket.transmit(&back, |count| credit.take(count)),
            Work::Receive => socket.drop_all(go_on)?,
            Work::Requests(_) => socket.reflect(go_on)?,
        }
        Ok(())
    };
    let peer = |meter: &Meter, arrivals: &Meter| {
        let mut credit = Credit::new(arrivals);
        let mut peer = Peer::open(bed)?;
        match case.work {
            Work::Send => peer.drop_all(meter),
            Work::Receive => peer.generate(case.frame, |count| credit.take(count)),
            Work::Requests(in_flight) => peer.bounce(case.frame, in_flight, meter),
        }
    };
    // Frames count where they arrive.
    at_both_sides(bed, plan, case.work == Work::Receive, worker, peer)
}

fn stack(bed: &Bed, plan: &Plan, case: Case) -> Result<Reading> {
    let meter = Arc::new(Meter::default());
    let server = ours::serve(bed, &meter)?;
    let counted = Meter::default();
    let (len, counted) = (case.payload(), &counted);
    let reading = thread::scope(|scope| {
        let peer = scope.spawn(move || {
            bed.on(Side::Client, || {
                let mut peer = Peer::open(bed)?;
                match case.work {
                    Work::Send => {
                        peer.connect(ours::CHARGEN, 1, len)?;
                        peer.take(ours::CHARGEN, len, counted)
                    }
                    Work::Receive => {
                        peer.connect(ours::DISCARD, 1, len)?;
                        peer.give(ours::DISCARD, len, counted)
                    }
                    Work::Requests(connections) => {
                        peer.connect(ours::ECHO, connections, len)?;
                        peer.ask(ours::ECHO, len, counted)
                    }
                }
            })
        });
        let reading = meter::read(counted, &meter, plan.warm_up(), plan.seconds());
        counted.stop();
        peer.join().unwrap_or_else(|_| Err("the peer panicked".into()))?;
        reading
    });
    drop(server);
    reading
}

/// Our stack at both ends. Bytes are counted as full segments; timestamps make their payload 12 bytes shorter.
fn both(bed: &Bed, plan: &Plan, case: Case) -> Result<Reading> {
    let (served, counted) = (Arc::new(Meter::default()), Arc::new(Meter::default()));
    let server = ours::serve(bed, &served)?;
    let (what, unit) = match case.work {
        Work::Send => (Use::Read, case.payload()),
        Work::Receive => (Use::Write, case.payload()),
        Work::Requests(connections) => (Use::Ask { bytes: case.payload(), connections }, 1),
    };
    let client = ours::client(bed, what, &counted)?;
    let reading = meter::read(&counted, &served, plan.warm_up() + Duration::from_millis(300), plan.seconds());
    drop(client);
    drop(server);
    reading.map(|reading| Reading { rate: reading.rate / unit as f64, ..reading })
}
