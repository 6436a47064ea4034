//! Memory of idle connections: `bywash echo` with real connections of kernel clients over veth, and an epoll server.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::bed::{self, Bed, KERNEL, STACK, Server, Side};
use super::kernel::{self, Background};
use super::{Plan, Result};
use bywash_benches::results::{Benchmark, Better, Target};

const PORT: u16 = 7;
/// Until memory is as it stays.
const SETTLE: Duration = Duration::from_millis(500);
const UNIT: &str = "bytes a connection";
const TITLE: &str = "Memory of idle connections over veth";
const ABOUT: &str = "\
Connections of a kernel client from several addresses to `bywash echo`, opened and then idle: what the process's resident memory
(VmRSS) grew by, divided by their number; the program's own task for each connection is in it. *kernel*: what its slabs grew by
with an epoll echo server at the other end instead (10,000 connections), less what they grew by for the client's end alone. `limit` is the bound that the stack sets itself.";

/// The first argument of this program when it only holds connections.
pub const HOLD: &str = "--hold";
/// Connections of one client process, which has as many files open: below usual limits on those.
const EACH: usize = 10_000;

/// Runs it.
pub fn run(plan: &Plan) -> Result<Benchmark> {
    let mut benchmark = Benchmark::new("veth-memory", 4, TITLE, ABOUT, &plan.command());
    let count = if plan.quick { 2 * EACH } else { 10 * EACH };
    let case = format!("{count} connections");
    // Memory does not depend on the machine's moods.
    for round in 0..if plan.quick { 1 } else { plan.rounds } {
        plan.tell(&benchmark, round, &case);
        let bed = Arc::new(Bed::new(1500, true)?);
        let server =
            bed.bywash("echo", &["--tcp", "--max-connections", "1000000", "--backlog", "4096"], PORT)?;
        let (resident, slabs) = (resident(server.pid())?, slab()?);
        let held = Held::open(&bed, (STACK, PORT), count)?;
        thread::sleep(SETTLE);
        let grown = self::resident(server.pid())?.saturating_sub(resident);
        let client_slabs = slab()?.saturating_sub(slabs) as f64 / count as f64;
        benchmark.add(&case, "bywash", UNIT, Better::Less, grown as f64 / count as f64);
        benchmark.add(&case, "limit", UNIT, Better::Less, 1024.0);
        benchmark.compare(&case, UNIT, "bywash", "limit", Some(Target::AtMost(1.0)));
        drop(held);
        drop(server);
        thread::sleep(SETTLE);

        let server = Background::start(&bed, Side::Server, |meter| kernel::echo(PORT, meter));
        bed.await_port(KERNEL, PORT)?;
        let slabs = slab()?;
        let held = Held::open(&bed, (KERNEL, PORT), EACH)?;
        thread::sleep(SETTLE);
        let both_slabs = slab()?.saturating_sub(slabs) as f64 / EACH as f64;
        benchmark.add(&case, "kernel", UNIT, Better::Less, (both_slabs - client_slabs).max(0.0));
        benchmark.compare(&case, UNIT, "bywash", "kernel", None);
        drop(held);
        drop(server);
    }
    Ok(benchmark)
}

/// Client processes with open connections; they end with this.
struct Held {
    _processes: Vec<Server>,
}

impl Held {
    /// Opens `count` connections, `EACH` from each of as many client addresses as that takes.
    fn open(bed: &Bed, (address, port): (Ipv4Addr, u16), count: usize) -> Result<Self> {
        let mut processes = Vec::new();
        for i in 0..count.div_ceil(EACH) {
            let source = Ipv4Addr::new(192, 0, 2, 100 + i as u8);
            bed.pair.peer.ip(&format!("address replace {source}/24 dev {}", bed.pair.peer_interface));
            let mut command = bed.command(Side::Client, std::env::current_exe()?);
            command.args([HOLD, &source.to_string(), &format!("{address}:{port}")]);
            command.arg(EACH.min(count - i * EACH).to_string()).stdout(Stdio::piped());
            let mut process = bed::start(&mut command)?;
            let mut said = [0];
            let open = process.stdout().ok_or("no output")?.read_exact(&mut said);
            open.map_err(|_| "a client could not open its connections")?;
            processes.push(process);
        }
        Ok(Self { _processes: processes })
    }
}

/// What a client process does: opens its connections, says so by one byte, and waits for its end.
pub fn hold(arguments: &[String]) -> Result<()> {
    let [source, server, count] = arguments else { return Err("--hold SOURCE SERVER COUNT".into()) };
    let held = kernel::connect_from(source.parse()?, server.parse()?, count.parse()?)?;
    for stream in &held {
        // Reset at the end: no TIME-WAIT.
        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    }
    std::io::stdout().write_all(b".")?;
    std::io::stdout().flush()?;
    loop {
        thread::park();
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
