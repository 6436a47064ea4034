//! An epoll echo server on the kernel's TCP, and `bywash echo`, with the same kernel client that asks and awaits.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::bed::{Bed, KERNEL, STACK, Side};
use super::kernel::{self, Background};
use super::{Plan, Result};
use bywash_benches::results::{Benchmark, Better, Target};

const PORT: u16 = 7;
const BYTES: usize = 64;
const TITLE: &str = "Echo: request-response against the kernel";
const ABOUT: &str = "\
A client on the kernel's sockets (epoll, one thread on one core) sends 64 bytes on each connection and the next 64 when they
have come back. The servers, on the other core: an epoll loop on the kernel's sockets, and `bywash echo`. The kernel's offloads
are at veth's default (on). On veth the core that sends also runs the receiver's part of the kernel: for `bywash echo` the
client's TCP, for the kernel's server as well.";

/// Runs it.
pub fn run(plan: &Plan) -> Result<Benchmark> {
    let mut benchmark = Benchmark::new("veth-echo", 3, TITLE, ABOUT, &plan.command());
    let bed = Arc::new(Bed::new(1500, true)?);
    let counts: &[usize] = if plan.quick { &[1, 64] } else { &[1, 64, 256, 1024] };
    for round in 0..plan.rounds {
        plan.tell(&benchmark, round, "64 bytes");
        let server = bed.bywash("echo", &["--tcp"], PORT)?;
        for &count in counts {
            measure(&mut benchmark, &bed, plan, "bywash", count)?;
        }
        drop(server);
        let server = Background::start(&bed, Side::Server, |meter| kernel::echo(PORT, meter));
        bed.await_port(KERNEL, PORT)?;
        for &count in counts {
            measure(&mut benchmark, &bed, plan, "epoll", count)?;
        }
        drop(server);
    }
    Ok(benchmark)
}

fn measure(benchmark: &mut Benchmark, bed: &Bed, plan: &Plan, who: &str, count: usize) -> Result<()> {
    let case = if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") };
    if !plan.wants(&case, who) {
        return Ok(());
    }
    let address = if who == "bywash" { STACK } else { KERNEL };
    let ask = || kernel::ask((address, PORT).into(), count, BYTES, plan.warm_up(), plan.seconds());
    let asked = bed.on(Side::Client, ask).map_err(|error| format!("{who}, {count} connections: {error}"))?;
    benchmark.add(&case, who, "answers/s", Better::More, asked.rate);
    benchmark.compare(&case, "answers/s", "bywash", "epoll", Some(Target::AtLeast(1.0)));
    for (unit, quantile) in [("p50, us", 0.5), ("p99, us", 0.99), ("p999, us", 0.999)] {
        let micros = asked.latency.value_at_quantile(quantile) as f64 / 1e3;
        benchmark.add(&case, who, unit, Better::Less, micros);
        benchmark.compare(&case, unit, "bywash", "epoll", None);
    }
    // What was under way comes to its end.
    thread::sleep(Duration::from_millis(50));
    Ok(())
}
