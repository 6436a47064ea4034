//! Bulk data between a client on the kernel's sockets and a server: iperf3 and a plain loop on the kernel's TCP, and
//! Bywash. With the kernel's offloads off at both ends, and on.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::bed::{self, Bed, KERNEL, STACK, Side};
use super::kernel::{self, Background, Bulk};
use super::meter::{self, Meter};
use super::{Plan, Result, ours, peer};
use bywash_afxdp::Nic;
use bywash_benches::results::{Benchmark, Better, Target};

const UNIT: &str = "Mbit/s";
const IPERF3_PORT: u16 = 5201;
const RIVALS: [&str; 4] = ["bywash", "kernel", "iperf3", "raw"];
/// An EtherType that IEEE 802 keeps for private use.
const LOCAL_EXPERIMENT: [u8; 2] = [0x88, 0xb5];
/// Of IPv4 and TCP.
const HEADERS_AND_TIMESTAMPS: usize = 20 + 20 + 12;
const TITLE: &str = "Bulk data against the kernel";
const ABOUT: &str = "\
One connection between a client on the kernel's sockets and a server on the other core, MTU 1500 and 9000. The servers: `iperf3`
(with its own client), a loop of reads or writes of 128 KiB on the kernel's sockets (`kernel`), and `bywash` (discard and
character generator), both with the same client. *Sends* and *receives* are the server's part. `raw` is what our driver sends
without a stack, in frames that the client's kernel drops as they come: no sender over AF_XDP can be faster here, and none that is
received by the kernel's TCP comes near, as that runs on the sender's core too.

With offloads off (`ethtool -K ... tx off tso off gso off gro off` at both ends) the kernel moves frames of the MTU, as over a wire.
With offloads on, veth hands the kernel's segments of up to 64 KiB and unsummed checksums from end to end: nothing is ever cut,
merged or summed, which no network does. There the kernel wins against any stack that moves frames, and no target is set.";

/// Runs it.
pub fn run(plan: &Plan) -> Result<Benchmark> {
    let mut benchmark = Benchmark::new("veth-bulk", 3, TITLE, ABOUT, &plan.command());
    let iperf3 = bed::tool("iperf3");
    if iperf3.is_none() {
        eprintln!("iperf3 is not installed: without it");
    }
    let kinds: &[(usize, bool)] = if plan.quick {
        &[(1500, false), (9000, false)]
    } else {
        &[(1500, false), (9000, false), (1500, true), (9000, true)]
    };
    for &(mtu, offloads) in kinds {
        let bed = Arc::new(Bed::new(mtu, offloads)?);
        for round in 0..plan.rounds {
            let state = if offloads { "on" } else { "off" };
            plan.tell(&benchmark, round, &format!("MTU {mtu}, offloads {state}"));
            for (what, verb) in [(Bulk::Read, "sends"), (Bulk::Write, "receives")] {
                let case = format!("{verb}, MTU {mtu}, offloads {state}");
                for who in RIVALS.into_iter().filter(|who| plan.wants(&case, who)) {
                    let bits = match who {
                        "bywash" => bywash(&bed, plan, what)?,
                        "kernel" => by_kernel(&bed, plan, what)?,
                        "raw" if what == Bulk::Read => raw(&bed, plan, mtu)?,
                        "raw" => continue,
                        _ => match &iperf3 {
                            Some(iperf3) => by_iperf3(&bed, plan, what, iperf3)?,
                            None => continue,
                        },
                    };
                    benchmark.add(&case, who, UNIT, Better::More, bits / 1e6);
                }
                let target = (!offloads).then_some(Target::AtLeast(1.5));
                benchmark.compare(&case, UNIT, "bywash", "kernel", target);
                if iperf3.is_some() {
                    benchmark.compare(&case, UNIT, "bywash", "iperf3", target);
                }
                if what == Bulk::Read {
                    benchmark.compare(&case, UNIT, "bywash", "raw", None);
                    benchmark.compare(&case, UNIT, "raw", "kernel", None);
                }
            }
        }
    }
    Ok(benchmark)
}

fn bywash(bed: &Bed, plan: &Plan, what: Bulk) -> Result<f64> {
    let server = ours::serve(bed, &Arc::new(Meter::default()))?;
    let port = if what == Bulk::Read { ours::CHARGEN } else { ours::DISCARD };
    let rate =
        bed.on(Side::Client, || kernel::bulk((STACK, port).into(), what, plan.warm_up(), plan.seconds()));
    drop(server);
    rate
}

/// Frames of the MTU as fast as the driver takes them, in the payload that TCP would have in them. Their protocol is none
/// of the peer's kernel, which drops them.
fn raw(bed: &Bed, plan: &Plan, mtu: usize) -> Result<f64> {
    let meter = Meter::default();
    let reading = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            bed.on(Side::Server, || {
                meter.this_thread();
                let mut frame = vec![0; 14 + mtu];
                frame[..6].copy_from_slice(&bed.pair.peer.run(|| Nic::open(&bed.pair.peer_interface))?.mac.0);
                frame[12..14].copy_from_slice(&LOCAL_EXPERIMENT);
                peer::transmit(&mut peer::open(&bed.pair.stack_interface)?, &frame, |count| {
                    meter.add(count).then_some(usize::MAX)
                })
            })
        });
        let reading = meter::read(&meter, &meter, plan.warm_up(), plan.seconds());
        meter.stop();
        sender.join().unwrap_or_else(|_| Err("the sender panicked".into()))?;
        reading
    })?;
    Ok(reading.rate * (mtu - HEADERS_AND_TIMESTAMPS) as f64 * 8.0)
}

fn by_kernel(bed: &Arc<Bed>, plan: &Plan, what: Bulk) -> Result<f64> {
    let serve = move |meter: &Meter| match what {
        Bulk::Read => kernel::chargen(ours::CHARGEN, meter),
        Bulk::Write => kernel::discard(ours::DISCARD, meter),
    };
    let port = if what == Bulk::Read { ours::CHARGEN } else { ours::DISCARD };
    let server = Background::start(bed, Side::Server, serve);
    thread::sleep(Duration::from_millis(20));
    let rate =
        bed.on(Side::Client, || kernel::bulk((KERNEL, port).into(), what, plan.warm_up(), plan.seconds()));
    drop(server);
    rate
}

fn by_iperf3(bed: &Bed, plan: &Plan, what: Bulk, iperf3: &Path) -> Result<f64> {
    let mut server = bed.command(Side::Server, iperf3);
    server.args(["--server", "--one-off", "--bind", &KERNEL.to_string()]);
    server.stdout(Stdio::null()).stderr(Stdio::null());
    let server = bed::start(&mut server)?;
    thread::sleep(Duration::from_millis(100));
    let mut client = bed.command(Side::Client, iperf3);
    client.args(["--client", &KERNEL.to_string(), "--port", &IPERF3_PORT.to_string(), "--json"]);
    // It counts whole seconds only.
    client.args(["--time", &plan.seconds().as_secs().max(1).to_string()]);
    if what == Bulk::Read {
        client.arg("--reverse");
    }
    let text = bed.run(&mut client)?;
    drop(server);
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.ok_or_else(|| format!("iperf3 says: {}", report["error"]).into())
}
