//! A whole experiment drawn from a seed: hosts, cables with their faults, and groups of connections with the plans of
//! both ends; its run in virtual time; and the verdict.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::io::{self, Write};
use std::rc::Rc;

use super::checker::{Checker, unrest};
use super::dice::Dice;
use super::fault::Faults;
use super::host::{Host, HostConfig};
use super::link::LinkConfig;
use super::traffic::{Begin, Dial, Finish, Listen, Plan};
use super::world::{PortId, World};
use crate::config::{Cidr, StackConfig};
use crate::counters::Counters;
use crate::packet::PoolLayout;
use crate::tcp::SocketOptions;
use crate::time::{Duration, Instant};

/// Virtual time without any progress of any application after which a run is stuck. Longer than the longest silence TCP
/// may keep: a few retransmission or window-probe intervals of 120 s in a row lost.
const STUCK_AFTER: Duration = Duration::from_secs(1800);
/// Virtual time in which everything must be at rest once the applications are finished: FINs given up, TIME-WAIT over.
const REST_WITHIN: Duration = Duration::from_secs(1800);
/// How long a closed connection tries to deliver what was written: the default of 102 s is five retransmissions where the
/// timeout is 2 s, and one in a thousand connections loses them all when a fifth of the frames is lost each way.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(1200);
/// Virtual time that no run may exceed.
const RUN_LIMIT: Duration = Duration::from_secs(48 * 3600);
/// First port of the groups' listeners.
const FIRST_PORT: u16 = 7000;

/// Several connections between the two hosts with the same plans.
#[derive(Clone, Debug)]
pub struct Group {
    /// Number of connections.
    pub connections: u32,
    /// Over IPv6 (else IPv4).
    pub ipv6: bool,
    /// Dialled by the second host instead of the first.
    pub reversed: bool,
    /// Both ends dial each other: one connection, no listener.
    pub simultaneous_open: bool,
    /// The connections are dialled within this time.
    pub dialled_within: Duration,
    /// Plan of the end that dials.
    pub client: Plan,
    /// Plan of the end that accepts.
    pub server: Plan,
    /// Accept queue of the listener.
    pub backlog: usize,
}

/// An experiment: change any field before the run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Seed of the links and hosts.
    pub seed: u64,
    /// The two hosts.
    pub hosts: [HostConfig; 2],
    /// What each host sends goes through this; the other direction of its cable is ideal.
    pub links: [LinkConfig; 2],
    /// The connections.
    pub groups: Vec<Group>,
}

/// What a run that passed came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes read by applications.
    pub bytes_received: u64,
    /// Ends of connections opened.
    pub ends: usize,
    /// Clients whose connection the server never accepted.
    pub unaccepted: u64,
    /// Virtual time until the last application was finished.
    pub finished_at: Instant,
    /// Frames carried by the links.
    pub frames: u64,
    /// Frames lost to faults, full queues and corruption's checksums excluded.
    pub lost: u64,
    /// Changes of a flow's queue.
    pub hops: u64,
    /// Connections that a SYN's data opened (RFC 7413).
    pub fast_opened: u64,
    /// Digest of all frames sent.
    pub digest: u64,
}

/// Why a run failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was violated, stuck or leaked.
    pub reasons: Vec<String>,
    /// When it was found.
    pub at: Instant,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} failed at {:?}:", self.seed, self.at)?;
        self.reasons.iter().try_for_each(|reason| writeln!(f, "  {reason}"))?;
        write!(
            f,
            "replay: BYWASH_SEED={} cargo test -p bywash --features sim --test sim_faults replay -- --nocapture \
             (BYWASH_PCAP=x writes x.first.pcap and x.second.pcap)",
            self.seed
        )
    }
}

impl std::error::Error for Failure {}

/// A scenario under way.
struct Run {
    seed: u64,
    world: World,
    hosts: [Rc<RefCell<Host>>; 2],
    ports: [PortId; 2],
    checker: Checker,
    stop: Rc<Cell<bool>>,
    listeners: usize,
}

impl Scenario {
    /// Draws an experiment: round-trip times up to 500 ms, loss up to 20 %, duplication, reordering, corruption,
    /// partitions, slow links, windows from a few hundred bytes on, MTUs from 1280 to 9000, one to four shards a host with
    /// flows that may change queue, and every way to open and end a connection.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 0x5ce0);
        let one_way = draw_delay(&mut dice);
        let links = [0, 1].map(|_| draw_link(&mut dice, one_way));
        let hosts = [1, 2].map(|number| draw_host(&mut dice, number, seed));
        let groups = (0..dice.range(1..=3)).map(|_| draw_group(&mut dice)).collect();
        Self { seed, hosts, links, groups }
    }

    /// Runs the experiment to its verdict.
    ///
    /// # Errors
    /// What was violated, stuck or leaked, and how to replay it.
    pub fn run(&self) -> Result<Outcome, Failure> {
        self.start(None)?.finish()
    }

    /// As [`Scenario::run`], and writes what each of the two hosts sees to its own capture file.
    ///
    /// # Errors
    /// Those of [`Scenario::run`], and those of the files as a reason of failure.
    pub fn run_captured(&self, files: [Box<dyn Write>; 2]) -> Result<Outcome, Failure> {
        self.start(Some(files))?.finish()
    }

    fn start(&self, captures: Option<[Box<dyn Write>; 2]>) -> Result<Run, Failure> {
        let failure = |reason: String| Failure { seed: self.seed, reasons: vec![reason], at: Instant::ZERO };
        let mut world = World::new(self.seed);
        let mut build = |which: usize| -> Result<(Rc<RefCell<Host>>, PortId), Failure> {
            let host =
                Host::new(&self.hosts[which], Instant::ZERO).map_err(|error| failure(error.to_string()))?;
            let host = Rc::new(RefCell::new(host));
            let port = world.attach(host.clone(), self.links[which].clone(), LinkConfig::default());
            Ok((host, port))
        };
        let (first, second) = (build(0)?, build(1)?);
        for (port, file) in [first.1, second.1].into_iter().zip(captures.into_iter().flatten()) {
            world.capture(port, file).map_err(|error: io::Error| failure(error.to_string()))?;
        }
        let mut run = Run {
            seed: self.seed,
            world,
            hosts: [first.0, second.0],
            ports: [first.1, second.1],
            checker: Checker::default(),
            stop: Rc::new(Cell::new(false)),
            listeners: 0,
        };
        let mut dice = Dice::new(self.seed, 0xd1a1);
        for (port, group) in (FIRST_PORT..).zip(&self.groups) {
            self.start_group(&mut run, group, port, &mut dice);
        }
        Ok(run)
    }

    fn start_group(&self, run: &mut Run, group: &Group, port: u16, dice: &mut Dice) {
        let (client, server) = if group.reversed { (1, 0) } else { (0, 1) };
        let server_addr = SocketAddr::new(self.address(server, group.ipv6), port);
        if group.simultaneous_open {
            // Fixed ports on both sides; each on a shard whose own ports include its.
            let client_addr = SocketAddr::new(self.address(client, group.ipv6), port);
            for (host, local, remote, plan) in [
                (client, client_addr, server_addr, &group.client),
                (server, server_addr, client_addr, &group.server),
            ] {
                let mut dial = Dial::new(remote, plan.clone(), &run.checker);
                dial.local = Some(local);
                // Where one end gives up its SYN-ACKs while the other's SYNs go on, they miss each other from then on.
                dial.may_miss = true;
                let shard = usize::from(port % self.hosts[host].shards);
                run.hosts[host].borrow_mut().start(shard, Box::new(dial));
            }
            return;
        }
        for shard in 0..usize::from(self.hosts[server].shards) {
            let any: IpAddr =
                if group.ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let addr = SocketAddr::new(any, port);
            let listen = Listen::new(addr, group.backlog, group.server.clone(), &run.checker, &run.stop);
            run.hosts[server].borrow_mut().start(shard, Box::new(listen));
            run.listeners += 1;
        }
        for _ in 0..group.connections {
            let mut dial = Dial::new(server_addr, group.client.clone(), &run.checker);
            dial.at = Instant::ZERO + dice.duration(group.dialled_within);
            let shard = dice.range(0..=u64::from(self.hosts[client].shards) - 1) as usize;
            run.hosts[client].borrow_mut().start(shard, Box::new(dial));
        }
    }

    fn address(&self, host: usize, ipv6: bool) -> IpAddr {
        let addresses = self.hosts[host].stack.addresses.iter();
        let mut family = addresses.map(|cidr| cidr.addr).filter(|addr| addr.is_ipv6() == ipv6);
        family.next().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }
}

impl Run {
    fn finish(mut self) -> Result<Outcome, Failure> {
        let verdict = self.run_to_verdict();
        // Also of a run that failed: that is what captures are for.
        let captured = self.world.finish_captures();
        match (verdict, captured) {
            (Ok(_), Err(error)) => {
                Err(self.failure(vec![format!("the capture could not be written: {error}")]))
            }
            (verdict, _) => verdict,
        }
    }

    fn run_to_verdict(&mut self) -> Result<Outcome, Failure> {
        self.run_applications()?;
        let finished_at = self.world.now();
        self.stop.set(true);
        self.hosts.iter().for_each(|host| host.borrow().wake_all());
        self.come_to_rest()?;
        let mut reasons = self.checker.verdict();
        reasons.extend(self.leaks());
        if !reasons.is_empty() {
            return Err(self.failure(reasons));
        }
        let stats = self.ports.map(|port| self.world.up(port).stats);
        Ok(Outcome {
            bytes_received: self.checker.bytes_received(),
            ends: self.checker.ends(),
            unaccepted: self.checker.unaccepted(),
            finished_at,
            frames: stats.iter().map(|stats| stats.offered).sum(),
            lost: stats.iter().map(|stats| stats.lost).sum(),
            hops: self.hosts.iter().map(|host| host.borrow().hops()).sum(),
            fast_opened: self.hosts.iter().map(|host| fast_opened(&host.borrow())).sum(),
            digest: self.world.digest(),
        })
    }

    /// Runs until only the listeners are left. A connection that its client has closed already may still be on its way
    /// into an accept queue, so nothing but TIME-WAITs may be left of those either.
    fn run_applications(&mut self) -> Result<(), Failure> {
        let mut progress = (self.checker.progress(), Instant::ZERO);
        let limit = Instant::ZERO + RUN_LIMIT;
        while self.running_apps() > self.listeners || self.connections() > 0 {
            self.world.step(limit.min(progress.1 + STUCK_AFTER));
            let now = self.world.now();
            if self.checker.progress() != progress.0 {
                progress = (self.checker.progress(), now);
            }
            if !self.checker.is_clean() {
                return Err(self.failure(self.checker.violations()));
            }
            if now >= limit || now >= progress.1 + STUCK_AFTER {
                return Err(self.stuck(progress));
            }
        }
        Ok(())
    }

    /// Everything in flight arrives, everything left over times out.
    fn come_to_rest(&mut self) -> Result<(), Failure> {
        let deadline = self.world.now() + REST_WITHIN;
        let hosts = self.hosts.clone();
        let at_rest = |_: &World| hosts.iter().all(|host| unrested(host, false).is_empty());
        if self.world.run_until(deadline, at_rest) {
            // Fragments under reassembly, packets waiting for a neighbour and delayed duplicates go too.
            self.world.run_for(Duration::from_secs(60));
            return Ok(());
        }
        let reasons = self.hosts.iter().flat_map(|host| unrested(host, false)).collect();
        Err(self.failure(reasons))
    }

    /// Frames that did not return to their pools, and books that do not add up.
    fn leaks(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for host in &self.hosts {
            let host = host.borrow();
            for index in 0..host.shards() {
                let used = host.pool_use(index);
                let name = format!("{}/{index}", host.name());
                if used.free != used.total {
                    reasons.push(format!(
                        "{name}: frames leaked: {used:?}, rings {:?}",
                        host.device(index).in_rings()
                    ));
                }
                let (received, transmitted) = (host.device(index).received, host.device(index).transmitted);
                let counters = host.shard_ref(index).counters();
                if (counters.rx_packets, counters.tx_packets) != (received, transmitted) {
                    reasons.push(format!(
                        "{name}: counted {} received and {} sent, the card {received} and {transmitted}",
                        counters.rx_packets, counters.tx_packets
                    ));
                }
                reasons.extend(unrest(host.shard_ref(index), false).map(|what| format!("{name}: {what}")));
            }
            reasons.extend(unaccounted(&host).map(|what| format!("{}: {what}", host.name())));
        }
        reasons
    }

    fn connections(&self) -> usize {
        let connections = |host: &RefCell<Host>| {
            let host = host.borrow();
            let census = (0..host.shards()).map(|index| host.shard_ref(index).tcp_ref().census());
            census.map(|census| census.connections + census.syn_received).sum::<usize>()
        };
        self.hosts.iter().map(|host| connections(host)).sum()
    }

    fn running_apps(&self) -> usize {
        self.hosts.iter().map(|host| host.borrow().running_apps()).sum()
    }

    /// Tells a forgotten wake-up from a connection that does not go on.
    fn stuck(&mut self, (progress, since): (u64, Instant)) -> Failure {
        let mut reasons = vec![format!("no progress since {since:?}")];
        reasons.extend(self.hosts.iter().flat_map(|host| host.borrow().describe_apps()));
        for host in &self.hosts {
            let host = host.borrow();
            for index in 0..host.shards() {
                let line = format!("{}/{index}: {:?}", host.name(), host.shard_ref(index).tcp_ref().census());
                reasons.push(line);
            }
        }
        self.hosts.iter().for_each(|host| host.borrow().wake_all());
        self.world.run_for(Duration::from_millis(1));
        if self.checker.progress() != progress {
            reasons.push("woken without reason the applications went on: a wake-up was forgotten".to_owned());
        }
        reasons.extend(self.checker.verdict());
        self.failure(reasons)
    }

    fn failure(&self, reasons: Vec<String>) -> Failure {
        Failure { seed: self.seed, reasons, at: self.world.now() }
    }
}

fn fast_opened(host: &Host) -> u64 {
    (0..host.shards()).map(|index| host.shard_ref(index).counters().tcp_fastopen_passive).sum()
}

/// Packets that were received and neither taken by a protocol nor dropped for a reason, all shards together: one that
/// takes over a packet may count it instead of the one that received it.
fn unaccounted(host: &Host) -> Option<String> {
    let mut sum = Counters::default();
    (0..host.shards()).for_each(|index| sum.add(host.shard_ref(index).counters()));
    let taken = sum.tcp_segments_rx + sum.udp_rx + sum.icmp_rx + sum.arp_rx + sum.fragments_rx;
    let dropped: u64 = sum.drops().map(|(_, count)| count).sum();
    let received = sum.rx_packets;
    (taken > received || taken + dropped < received).then(|| {
        format!(
            "{received} packets received, {taken} taken and {dropped} dropped: some are not accounted for"
        )
    })
}

fn unrested(host: &RefCell<Host>, time_wait: bool) -> Vec<String> {
    let host = host.borrow();
    (0..host.shards())
        .filter_map(|index| {
            let what = unrest(host.shard_ref(index), time_wait)?;
            Some(format!("{}/{index} does not come to rest: {what}", host.name()))
        })
        .collect()
}

fn draw_delay(dice: &mut Dice) -> Duration {
    Duration::from_micros(*dice.pick(&[10, 100, 1_000, 5_000, 20_000, 50_000, 100_000, 250_000]))
}

fn draw_link(dice: &mut Dice, one_way: Duration) -> LinkConfig {
    let mut faults = Faults::default();
    if dice.chance(0.6) {
        faults.loss = dice.range(0..=2000) as f64 / 10_000.0;
        faults.loss_burst_packets = if dice.chance(0.2) { dice.range(1..=6) } else { 1 };
        // Bursts multiply the loss: keep it within a fifth of the frames.
        faults.loss /= faults.loss_burst_packets as f64;
    }
    if dice.chance(0.3) {
        faults.duplicate = dice.range(0..=1000) as f64 / 10_000.0;
    }
    if dice.chance(0.4) {
        faults.reorder = dice.range(0..=2000) as f64 / 10_000.0;
        faults.reorder_delay = Duration::from_micros(dice.scale(10..=300_000));
    }
    if dice.chance(0.3) {
        faults.corrupt = dice.range(0..=500) as f64 / 10_000.0;
    }
    if dice.chance(0.1) {
        let from = Instant::from_millis(dice.scale(1..=20_000));
        faults.partitions.push((from, from + dice.duration(Duration::from_secs(15))));
    }
    LinkConfig {
        delay: one_way,
        jitter: if dice.chance(0.3) { dice.duration(one_way) } else { Duration::ZERO },
        rate_bits_per_second: dice.chance(0.4).then(|| dice.scale(100_000..=1_000_000_000)),
        // Connections that began together retransmit together: with room for a frame or two the same one gets through
        // each time, and the others give up after a quarter of an hour. TCP has no cure for that.
        queue_bytes: dice.scale(40_000..=400_000) as usize,
        mark_above_bytes: None,
        mtu: 65_535,
        faults,
    }
}

fn draw_host(dice: &mut Dice, number: u8, seed: u64) -> HostConfig {
    let cidr = |addr: IpAddr, prefix_len| Cidr { addr, prefix_len };
    let addresses = vec![
        cidr(Ipv4Addr::new(10, 0, 0, number).into(), 24),
        cidr(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(), 64),
    ];
    let name = if number == 1 { "first" } else { "second" };
    let mut stack = StackConfig::new(addresses, dice.secret());
    stack.tcp.orphan_give_up_after = ORPHAN_PATIENCE;
    (stack.gro, stack.tcp.copy_received) = draw_receiving(seed, number);
    // From numbers of its own, so that what else a seed gives does not depend on it.
    stack.gso = Dice::new(seed, 0x6500 + u64::from(number)).chance(0.7);
    let mut host = HostConfig::new(name, number, stack, seed ^ u64::from(number));
    host.mtu = *dice.pick(&[1280, 1400, 1500, 1500, 1500, 4000, 9000]);
    let frame_size = if host.mtu <= 1500 { 2048 } else { 9216 };
    let frames = if dice.chance(0.2) { dice.range(48..=200) } else { 512 };
    host.pool = PoolLayout { frames: frames as u32, frame_size, headroom: 128 };
    host.shards = *dice.pick(&[1, 1, 1, 2, 3, 4]);
    host.hop = if dice.chance(0.4) { 0.02 } else { 0.0 };
    host.rx_ring_packets = *dice.pick(&[16, 64, 256]);
    host.tx_ring_packets = *dice.pick(&[4, 64, 256]);
    host
}

/// Whether segments are merged, and whether payload is copied out of its frames at once. From numbers of their own, so that what
/// else a seed gives does not depend on it.
fn draw_receiving(seed: u64, number: u8) -> (bool, bool) {
    let mut dice = Dice::new(seed, 0x6e0 + u64::from(number));
    (dice.chance(0.7), dice.chance(0.3))
}

fn draw_group(dice: &mut Dice) -> Group {
    let mut client = draw_plan(dice);
    let mut server = draw_plan(dice);
    let simultaneous_open = dice.chance(0.1);
    match dice.range(0..=9) {
        // Upload, download, nothing at all: the accepting end closes last.
        0 | 1 => server.send_bytes = 0,
        2 => client.send_bytes = 0,
        3 => (client.send_bytes, server.send_bytes) = (0, 0),
        4 => {
            (server.echo, client.expects_echo) = (true, true);
            server.finish = Finish::AfterFin;
        }
        // The other direction flows when the first is closed.
        5 => {
            server.begin = Begin::AfterFin;
            server.finish = Finish::AfterFin;
        }
        6 => server.finish = Finish::AfterFin,
        // Both close as soon as all is sent and read.
        7 => {
            client.finish = Finish::WhenRead(server.send_bytes);
            server.finish = Finish::WhenRead(client.send_bytes);
        }
        8 => {
            let aborts = if dice.chance(0.5) { &mut client } else { &mut server };
            aborts.finish = Finish::Abort(dice.scale(0..=aborts.send_bytes));
            for plan in [&mut client, &mut server] {
                plan.may_fail = true;
                keepalive(&mut plan.options, 20);
            }
        }
        _ => {}
    }
    Group {
        connections: if simultaneous_open { 1 } else { dice.scale(1..=12) as u32 },
        ipv6: dice.chance(0.5),
        reversed: dice.chance(0.3),
        simultaneous_open,
        dialled_within: if dice.chance(0.5) { Duration::ZERO } else { Duration::from_secs(3) },
        client,
        server,
        backlog: dice.scale(1..=64) as usize,
    }
}

fn draw_plan(dice: &mut Dice) -> Plan {
    let mut options = SocketOptions::default();
    if dice.chance(0.4) {
        options.receive_buffer_bytes = dice.scale(256..=65_536) as usize;
    }
    if dice.chance(0.3) {
        options.send_buffer_bytes = dice.scale(256..=65_536) as usize;
    }
    options.nodelay = dice.chance(0.3);
    keepalive(&mut options, 300);
    // A tiny window takes a round trip for each few hundred bytes: fewer bytes then.
    let window = options.receive_buffer_start().min(options.send_buffer_for(0)) as u64;
    let most = (window * 64).min(200_000);
    Plan {
        send_bytes: dice.scale(0..=most),
        echo: false,
        expects_echo: false,
        write_bytes: 1..=dice.scale(1000..=65_536),
        read_bytes: 1..=dice.scale(1000..=65_536),
        chunks_held: if dice.chance(0.3) { dice.scale(1..=16) as usize } else { 0 },
        pause: if dice.chance(0.3) { 0.05 } else { 0.0 },
        pause_for: Duration::from_millis(dice.scale(1..=2_000)),
        begin: Begin::AtOnce,
        finish: Finish::Shutdown,
        flush: dice.chance(0.2),
        may_fail: false,
        options,
    }
}

/// A peer that aborted, or that gave up a half-open connection, may be gone without our hearing of it.
fn keepalive(options: &mut SocketOptions, idle_seconds: u64) {
    options.keepalive = true;
    options.keepalive_idle = Duration::from_secs(idle_seconds);
    options.keepalive_interval = Duration::from_secs(idle_seconds / 4);
    options.keepalive_count = 9;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_scenario() {
        let text = |seed| format!("{:?}", Scenario::from_seed(seed));
        assert_eq!(text(3), text(3));
        assert_ne!(text(3), text(4));
    }

    #[test]
    fn equal_runs_are_equal_to_the_byte() {
        let run = || Scenario::from_seed(11).run().unwrap();
        assert_eq!(run(), run());
    }
}
