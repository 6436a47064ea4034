//! Forwarding between two NICs, without a stack: a loop over [`Links`] against the same loop over xsk-rs' rings, and against
//! the kernel's own forwarding: `cargo bench -p bywash-afxdp --bench forward`, as root.
//!
//! Frames go through two veth pairs in copy mode. One core sends and takes them (and runs the driver of what the forwarder
//! receives from), another forwards. Figures are medians of rounds in which the rivals take turns: frames that arrived in a
//! second, and CPU time of the forwarding thread for each, system calls and all; the kernel has no such thread.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bywash::device::{Device, WaitDevice};
use bywash::packet::PacketBatch;
use bywash::packet::checksum::Sum;
use bywash_afxdp::testing::{PlainForwarder, VethOptions, VethPair, stream};
use bywash_afxdp::{AttachOptions, LinkOptions, LinksOpener, Nic, QueueOptions, Steer};

const ROUNDS: usize = 7;
const SIZES: [usize; 3] = [60, 1514, 9014];
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_millis(1000);
/// Frames taken at a time.
const BURST: usize = 64;

const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rival {
    Plain,
    Links,
    Kernel,
}

const RIVALS: [(&str, Rival); 3] =
    [("xsk-rs", Rival::Plain), ("links", Rival::Links), ("kernel", Rival::Kernel)];

fn main() {
    if !bywash_afxdp::testing::is_root("the benchmark of forwarding") {
        return;
    }
    let cores = cores();
    println!("{:>6}  {:<8}{:>12}{:>12}{:>16}", "bytes", "", "frames/s", "of xsk-rs", "CPU ns/frame");
    for size in SIZES {
        let bed = Bed::new(size - 14, cores);
        let mut readings = [const { Vec::new() }; RIVALS.len()];
        for _ in 0..ROUNDS {
            for ((_, rival), readings) in RIVALS.iter().zip(&mut readings) {
                readings.push(bed.measure(*rival, size));
            }
        }
        let base = readings[0].clone();
        for ((name, rival), readings) in RIVALS.iter().zip(readings) {
            let rate = median(readings.iter().map(|reading| reading.rate));
            let ratio = median(readings.iter().zip(&base).map(|(this, base)| this.rate / base.rate));
            let cpu = median(readings.iter().map(|reading| reading.cpu_nanos));
            let cpu = if *rival == Rival::Kernel { "-".to_owned() } else { format!("{cpu:.0}") };
            println!("{size:>6}  {name:<8}{rate:>12.0}{ratio:>12.2}{cpu:>16}");
        }
    }
}

/// Two hosts, and between them a namespace with an end of each one's link.
struct Bed {
    pairs: [VethPair; 2],
    cores: [usize; 2],
    /// Ethernet addresses, destination and source, of what leaves by each link.
    addresses: [[u8; 12]; 2],
}

#[derive(Clone, Copy)]
struct Reading {
    rate: f64,
    cpu_nanos: f64,
}

impl Bed {
    fn new(mtu: usize, cores: [usize; 2]) -> Self {
        let options = VethOptions { mtu: mtu.max(1500), peer_offloads: false, queues: 1 };
        let near = VethPair::new(options);
        let far = near.beside(options);
        for (pair, net) in [(&near, "192.0.2"), (&far, "198.51.100")] {
            pair.stack_address(&format!("{net}.1/24"));
            pair.peer_address(&format!("{net}.2/24"));
        }
        let addresses = [&near, &far].map(|pair| {
            let peer = pair.peer.run(|| Nic::open(&pair.peer_interface)).expect("the peer's interface").mac.0;
            let mut addresses = [0; 12];
            addresses[..6].copy_from_slice(&peer);
            addresses[6..].copy_from_slice(&pair.nic().expect("an interface").mac.0);
            addresses
        });
        near.stack.sysctl("net/ipv4/ip_forward", "1");
        let colons = addresses[1][..6].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        far.stack.ip(&format!("neighbor add {FAR} lladdr {colons} dev {}", far.stack_interface));
        Self { pairs: [near, far], cores, addresses }
    }

    /// A frame of `size` bytes from the near host, as it leaves there.
    fn frame(&self, size: usize) -> Vec<u8> {
        let [to_near, _] = self.addresses;
        let mut frame = [&to_near[6..], &to_near[..6], &[8, 0, 0x45, 0]].concat();
        frame.extend(((size - 14) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend(NEAR.octets());
        frame.extend(FAR.octets());
        let mut sum = Sum::ZERO;
        sum.add(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
        for word in [5000, 7, (size - 34) as u16, 0] {
            frame.extend(word.to_be_bytes());
        }
        frame.resize(size, 0);
        frame
    }

    fn measure(&self, rival: Rival, size: usize) -> Reading {
        let (over, arrived) = (&AtomicBool::new(false), &AtomicU64::new(0));
        thread::scope(|scope| {
            let (ready, is_ready) = mpsc::channel();
            let forwarder = scope.spawn(move || {
                self.pairs[0].stack.enter();
                pin(self.cores[0]);
                match rival {
                    Rival::Plain => self.forward_plain(over, &ready),
                    Rival::Links => self.forward_links(over, &ready),
                    Rival::Kernel => ready.send(()).map_or(0.0, |()| 0.0),
                }
            });
            is_ready.recv().expect("a forwarder");
            let traffic = scope.spawn(move || {
                pin(self.cores[1]);
                let [near, far] = &self.pairs;
                let count = |frames| {
                    arrived.fetch_add(frames, Ordering::Relaxed);
                    !over.load(Ordering::Relaxed)
                };
                stream(near, far, &self.frame(size), FAR.into(), count).expect("sockets of the hosts");
            });
            thread::sleep(WARM_UP);
            let begin = (Instant::now(), arrived.load(Ordering::Relaxed));
            thread::sleep(MEASURED);
            let (time, count) = (begin.0.elapsed(), arrived.load(Ordering::Relaxed) - begin.1);
            over.store(true, Ordering::Relaxed);
            traffic.join().expect("traffic");
            let cpu = forwarder.join().expect("a forwarder");
            assert!(count > 0, "nothing arrived");
            Reading {
                rate: count as f64 / time.as_secs_f64(),
                cpu_nanos: cpu / arrived.load(Ordering::Relaxed) as f64,
            }
        })
    }

    /// The steering programs; to be called where the NICs are.
    fn attach(&self) -> [Steer; 2] {
        self.pairs.each_ref().map(|pair| {
            let nic = Nic::open(&pair.stack_interface).expect("an interface");
            nic.attach(&AttachOptions::default()).expect("the steering program")
        })
    }

    /// Returns the CPU time that it took.
    fn forward_plain(&self, over: &AtomicBool, ready: &mpsc::Sender<()>) -> f64 {
        let steers = self.attach();
        let mut forwarder =
            PlainForwarder::open(steers.each_ref(), &QueueOptions::default()).expect("sockets");
        ready.send(()).expect("somebody waits");
        let begin = cpu_nanos();
        forwarder.forward(self.addresses, |_| !over.load(Ordering::Relaxed)).expect("poll");
        cpu_nanos() - begin
    }

    /// As above, over our own device.
    fn forward_links(&self, over: &AtomicBool, ready: &mpsc::Sender<()>) -> f64 {
        let steers = self.attach();
        let chosen = [0, 1].map(|link| (&steers[link], LinkOptions::default()));
        let opener = LinksOpener::new(&chosen, &QueueOptions::default()).expect("good options");
        let mut links = opener.open().expect("sockets");
        // SAFETY: no pointers; the new descriptor is nobody else's.
        let wake = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
        ready.send(()).expect("somebody waits");
        let begin = cpu_nanos();
        let mut batch = PacketBatch::new();
        while !over.load(Ordering::Relaxed) {
            let mut received = 0;
            for from in [0, 1] {
                received += links.receive_on(from, &mut batch, BURST);
                for packet in &mut batch {
                    packet.head_mut()[..12].copy_from_slice(&self.addresses[1 - from]);
                }
                if !batch.is_empty() {
                    links.transmit_on(1 - from, &mut batch);
                    batch.clear();
                }
            }
            if received == 0 {
                links.wait(wake.as_raw_fd(), Some(Duration::from_millis(10))).expect("poll");
            }
        }
        cpu_nanos() - begin
    }
}

/// The first and the last core that this process may run on.
fn cores() -> [usize; 2] {
    // SAFETY: all-zero is a value of this structure of integers, which the kernel fills in.
    let allowed = unsafe {
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        set
    };
    // SAFETY: the set is valid and has room for these numbers.
    let mut cores =
        (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &allowed) });
    let first = cores.next().expect("a core to run on");
    [first, cores.next_back().unwrap_or(first)]
}

/// Keeps the calling thread on a core.
fn pin(core: usize) {
    // SAFETY: all-zero is a value of this structure of integers; the set has room for the number.
    let result = unsafe {
        let mut set: libc::cpu_set_t = core::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(result, 0, "a core that may be used");
}

/// CPU time of this thread, in nanoseconds.
fn cpu_nanos() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec for the kernel to write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
