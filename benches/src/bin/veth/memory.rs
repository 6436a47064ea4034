//! Memory of idle connections: `bywash echo` with real connections of kernel clients over veth, and an epoll server.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::bed::{Bed, KERNEL, STACK, Side};
use super::kernel::{self, Background};
use super::{Plan, Result};
use bywash_benches::results::{Benchmark, Better, Target};

const PORT: u16 = 7;
const UNIT: &str = "bytes a connection";
const TITLE: &str = "Memory of idle connections over veth";
const ABOUT: &str = "\
Connections of a kernel client from several addresses to `bywash echo`, opened and then idle: what the process's resident memory
(VmRSS) grew by, divided by their number; the program's own task for each connection is in it. Kernel: what its slabs grew by
with an epoll echo server at the other end instead, less what they grew by for the client's end alone. `limit` is the bound that the stack sets itself.";

/// Runs it.
pub fn run(plan: &Plan) -> Result<Benchmark> {
    let mut benchmark = Benchmark::new("veth-memory", 4, TITLE, ABOUT, plan.command());
    let count = if plan.quick { 20_000 } else { 100_000 };
    let case = format!("{count} connections");
    // Memory does not depend on the machine's moods.
    for round in 0..plan.rounds.min(3) {
        plan.tell(&benchmark, round, &case);
        let bed = Arc::new(Bed::new(1500, true)?);
        let sources: Vec<Ipv4Addr> = (100..104).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
        for source in &sources {
            bed.pair.peer_address(&format!("{source}/24"));
        }
        let server =
            bed.bywash("echo", &["--tcp", "--max-connections", "1000000", "--backlog", "4096"], PORT)?;
        let (resident, slabs) = (resident(server.pid())?, slab()?);
        let held = bed.on(Side::Client, || kernel::hold((STACK, PORT).into(), count, &sources))?;
        thread::sleep(Duration::from_millis(500));
        let grown = self::resident(server.pid())?.saturating_sub(resident);
        let client_slabs = slab()?.saturating_sub(slabs);
        benchmark.add(&case, "bywash", UNIT, Better::Less, grown as f64 / count as f64);
        benchmark.add(&case, "limit", UNIT, Better::Less, 1024.0);
        benchmark.compare(&case, UNIT, "bywash", "limit", Some(Target::AtMost(1.0)));
        reset(held);
        drop(server);
        thread::sleep(Duration::from_millis(500));

        let server = Background::start(&bed, Side::Server, |meter| kernel::echo(PORT, meter));
        bed.await_port(KERNEL, PORT)?;
        let slabs = slab()?;
        let held = bed.on(Side::Client, || kernel::hold((KERNEL, PORT).into(), count, &sources))?;
        thread::sleep(Duration::from_millis(500));
        let grown = slab()?.saturating_sub(slabs).saturating_sub(client_slabs);
        benchmark.add(&case, "kernel", UNIT, Better::Less, grown as f64 / count as f64);
        benchmark.compare(&case, UNIT, "bywash", "kernel", None);
        reset(held);
        drop(server);
    }
    Ok(benchmark)
}

/// Ends connections without TIME-WAIT.
fn reset(held: Vec<std::net::TcpStream>) {
    for stream in held {
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    }
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> Result<u64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:")
}

/// The kernel's slabs, in bytes.
fn slab() -> Result<u64> {
    kib(&fs::read_to_string("/proc/meminfo")?, "Slab:")
}

fn kib(text: &str, field: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)).ok_or_else(|| format!("no {field}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        assert_eq!(kib("VmHWM:\t  9 kB\nVmRSS:\t    1234 kB\n", "VmRSS:").unwrap(), 1234 * 1024);
        assert!(kib("VmHWM:\t  9 kB\n", "VmRSS:").is_err());
    }
}
