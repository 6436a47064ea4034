//! Single situations in the simulator: a named loss, a dead peer, a closed window, a starved pool, thousands of short
//! connections; what each end sees, and that nothing is left afterwards.
#![cfg(feature = "sim")]

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::task::Poll;
use std::rc::Rc;

use bywash::config::{Cidr, StackConfig};
use bywash::packet::PoolLayout;
use bywash::sim::checker::unrest;
use bywash::sim::traffic::{Begin, Dial, Finish, Listen, Plan};
use bywash::sim::{App, Checker, Context, Faults, Host, HostConfig, LinkConfig, Next, PortId, World};
use bywash::tcp::{ConnId, Shutdown, SocketOptions, State, TcpError};
use bywash::time::{Duration, Instant};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;
const PORT: u16 = 80;

/// Two hosts, `10.0.0.1` and `10.0.0.2`, 10 ms apart.
struct Lab {
    world: World,
    hosts: [Rc<RefCell<Host>>; 2],
    ports: [PortId; 2],
    checker: Checker,
    stop: Rc<Cell<bool>>,
    /// Applications that run until they are stopped.
    listeners: usize,
}

fn host_config(last: u8) -> HostConfig {
    let addresses: Vec<Cidr> =
        vec![format!("10.0.0.{last}/24").parse().unwrap(), format!("fd00::{last}/64").parse().unwrap()];
    HostConfig::new(&format!("host{last}"), last, StackConfig::new(addresses, [last; 32]), last.into())
}

fn server() -> SocketAddr {
    SocketAddr::new([10, 0, 0, 2].into(), PORT)
}

impl Lab {
    fn new() -> Self {
        Self::with([host_config(1), host_config(2)])
    }

    fn with(configs: [HostConfig; 2]) -> Self {
        let mut world = World::new(1);
        let hosts = configs.map(|config| Rc::new(RefCell::new(Host::new(&config, Instant::ZERO).unwrap())));
        let cable = LinkConfig { delay: Duration::from_millis(5), ..LinkConfig::default() };
        let ports =
            [0, 1].map(|i: usize| world.attach(hosts[i].clone(), cable.clone(), LinkConfig::default()));
        Self {
            world,
            hosts,
            ports,
            checker: Checker::default(),
            stop: Rc::new(Cell::new(false)),
            listeners: 0,
        }
    }

    /// Plans for both ends of `connections` connections dialled by the first host.
    fn connect(&mut self, connections: usize, client: &Plan, server_plan: &Plan) {
        self.listen(0, server(), server_plan);
        for _ in 0..connections {
            self.dial(server(), client);
        }
    }

    fn listen(&mut self, shard: usize, addr: SocketAddr, plan: &Plan) {
        let listen = Listen::new(addr, 4096, plan.clone(), &self.checker, &self.stop);
        self.hosts[1].borrow_mut().start(shard, Box::new(listen));
        self.listeners += 1;
    }

    fn dial(&mut self, remote: SocketAddr, plan: &Plan) {
        let dial = Dial::new(remote, plan.clone(), &self.checker);
        self.hosts[0].borrow_mut().start(0, Box::new(dial));
    }

    /// Runs until only the listeners are left; the time it took.
    fn finish(&mut self, within: Duration) -> Duration {
        let start = self.world.now();
        let (hosts, listeners) = (self.hosts.clone(), self.listeners);
        let running = || hosts[0].borrow().running_apps() + hosts[1].borrow().running_apps();
        let done = self.world.run_until(start + within, |_| running() <= listeners);
        assert!(done, "{:?} {:?}", hosts[0].borrow().describe_apps(), hosts[1].borrow().describe_apps());
        self.world.now().saturating_since(start)
    }

    /// Stops the listeners, lets TIME-WAITs pass, and asserts that nothing is left.
    fn assert_clean(&mut self) {
        self.stop.set(true);
        self.hosts.iter().for_each(|host| host.borrow().wake_all());
        self.world.run_for(Duration::from_secs(600));
        assert_eq!(self.checker.verdict(), Vec::<String>::new());
        for host in &self.hosts {
            let host = host.borrow();
            for shard in 0..host.shards() {
                assert_eq!(unrest(host.shard_ref(shard), false), None, "{}/{shard}", host.name());
                let used = host.pool_use(shard);
                assert_eq!(used.free, used.total, "{}/{shard} leaked frames", host.name());
            }
        }
    }

    /// Loses the `nth` (from 0) segment from `host` for which `which` holds.
    fn lose(
        &mut self,
        host: usize,
        nth: usize,
        which: impl Fn(u8, usize) -> bool + 'static,
    ) -> Rc<Cell<usize>> {
        let seen = Rc::new(Cell::new(0));
        let count = seen.clone();
        self.world.up(self.ports[host]).set_filter(Some(Box::new(move |_, frame| {
            let Some((flags, payload)) = segment(frame) else { return true };
            if !which(flags, payload) {
                return true;
            }
            count.set(count.get() + 1);
            count.get() - 1 != nth
        })));
        seen
    }

    fn segments_sent(&self, host: usize) -> u64 {
        self.hosts[host].borrow().shard_ref(0).counters().tx_packets
    }
}

/// Flags and payload length of an IPv4 TCP frame.
fn segment(frame: &[u8]) -> Option<(u8, usize)> {
    if frame.get(12..14)? != [0x08, 0x00] || *frame.get(23)? != 6 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let header = usize::from(*frame.get(46)? >> 4) * 4;
    Some((frame[47], total.checked_sub(20 + header)?))
}

fn plan(send_bytes: u64) -> Plan {
    Plan {
        send_bytes,
        echo: false,
        expects_echo: false,
        write_bytes: 1000..=20_000,
        read_bytes: 1000..=20_000,
        chunks_held: 0,
        pause: 0.0,
        pause_for: Duration::ZERO,
        begin: Begin::AtOnce,
        finish: Finish::Shutdown,
        flush: false,
        may_fail: false,
        options: SocketOptions::default(),
    }
}

#[test]
fn a_request_takes_its_round_trips_and_no_timer() {
    let mut lab = Lab::new();
    let reply = Plan { begin: Begin::AfterFin, finish: Finish::AfterFin, ..plan(500) };
    lab.connect(1, &plan(500), &reply);
    // ARP, handshake, request, response, all 10 ms apart; no retransmission, no delayed ACK in the way.
    let took = lab.finish(Duration::from_secs(60));
    assert!(took < Duration::from_millis(60), "{took:?}");
    lab.assert_clean();
}

#[test]
fn each_lost_segment_of_the_handshake_is_repaired() {
    for (host, flags, mask) in [(0, SYN, SYN | ACK), (1, SYN | ACK, SYN | ACK), (0, ACK, SYN | ACK | FIN)] {
        let mut lab = Lab::new();
        let lost = lab.lose(host, 0, move |seen, payload| seen & mask == flags && payload == 0);
        lab.connect(1, &plan(10_000), &plan(10_000));
        let took = lab.finish(Duration::from_secs(60));
        assert!(took < Duration::from_secs(3), "losing {flags:#x} cost {took:?}");
        assert!(lost.get() >= 1, "nothing was lost");
        lab.assert_clean();
    }
}

#[test]
fn a_lost_fin_of_either_end_is_sent_again() {
    for host in [0, 1] {
        let mut lab = Lab::new();
        let fins = lab.lose(host, 0, |flags, _| flags & FIN != 0);
        lab.connect(1, &plan(3000), &plan(3000));
        lab.finish(Duration::from_secs(60));
        lab.assert_clean();
        assert!(fins.get() >= 2, "the FIN was sent {} times", fins.get());
    }
}

#[test]
fn a_closed_connection_repeats_its_fin_even_if_its_patience_is_shorter_than_a_timeout() {
    let mut configs = [host_config(1), host_config(2)];
    configs[0].stack.tcp.orphan_give_up_after = Duration::from_millis(500);
    let mut lab = Lab::with(configs);
    for port in lab.ports {
        lab.world.up(port).config.delay = Duration::from_millis(400);
    }
    let fins = lab.lose(0, 0, |flags, _| flags & FIN != 0);
    let leaves = Plan { finish: Finish::WhenRead(0), ..plan(1000) };
    lab.connect(1, &leaves, &Plan { finish: Finish::AfterFin, ..plan(0) });
    lab.world.run_for(Duration::from_secs(30));
    assert_eq!(fins.get(), 2);
    assert_eq!(lab.checker.bytes_received(), 1000);
    lab.assert_clean();
}

#[test]
fn one_lost_data_segment_is_repaired_without_a_timeout() {
    let mut lab = Lab::new();
    lab.lose(0, 5, |_, payload| payload > 0);
    lab.connect(1, &plan(100_000), &plan(0));
    let took = lab.finish(Duration::from_secs(60));
    assert!(took < Duration::from_millis(250), "fast retransmit takes no 200 ms timer: {took:?}");
    lab.assert_clean();
}

#[test]
fn both_ends_closing_at_once_both_end() {
    let mut lab = Lab::new();
    let closes = Plan { finish: Finish::WhenRead(5000), ..plan(5000) };
    lab.connect(4, &closes, &closes);
    lab.finish(Duration::from_secs(60));
    lab.assert_clean();
}

#[test]
fn ten_megabytes_flow_against_a_half_closed_direction() {
    let mut lab = Lab::new();
    let answer = Plan { begin: Begin::AfterFin, finish: Finish::AfterFin, ..plan(10_000_000) };
    lab.connect(1, &plan(1), &answer);
    lab.finish(Duration::from_secs(600));
    assert_eq!(lab.checker.bytes_received(), 10_000_001);
    lab.assert_clean();
}

#[test]
fn both_ends_dialling_each_other_open_one_connection() {
    let mut lab = Lab::new();
    let second = SocketAddr::new([10, 0, 0, 2].into(), 5000);
    let first = SocketAddr::new([10, 0, 0, 1].into(), 5000);
    for (host, local, remote) in [(0, first, second), (1, second, first)] {
        let mut dial = Dial::new(remote, plan(20_000), &lab.checker);
        (dial.local, dial.retries) = (Some(local), 0);
        lab.hosts[host].borrow_mut().start(0, Box::new(dial));
    }
    lab.finish(Duration::from_secs(60));
    assert_eq!((lab.checker.ends(), lab.checker.bytes_received()), (2, 40_000));
    lab.assert_clean();
}

#[test]
fn a_reader_that_stops_for_half_a_minute_loses_nothing() {
    let mut lab = Lab::new();
    let mut slow = Plan { pause: 0.2, pause_for: Duration::from_secs(30), ..plan(0) };
    slow.options.receive_buffer_bytes = 8192;
    lab.connect(1, &plan(100_000), &slow);
    lab.finish(Duration::from_secs(3600));
    lab.assert_clean();
}

#[test]
fn a_minute_without_network_is_survived() {
    let mut lab = Lab::new();
    let window = (Instant::from_millis(40), Instant::from_millis(60_000));
    for port in lab.ports {
        lab.world.up(port).config.faults = Faults { partitions: vec![window], ..Faults::default() };
    }
    lab.connect(2, &plan(500_000), &plan(500_000));
    let took = lab.finish(Duration::from_secs(600));
    assert!(took > Duration::from_secs(60), "the partition did not bite: {took:?}");
    lab.assert_clean();
}

#[test]
fn connecting_where_nobody_listens_is_refused_at_once() {
    let mut lab = Lab::new();
    let seen = Rc::new(RefCell::new(None));
    lab.hosts[0].borrow_mut().start(0, Box::new(Once::new(server(), seen.clone())));
    lab.finish(Duration::from_secs(60));
    assert_eq!(*seen.borrow(), Some(TcpError::ConnectionRefused));
    assert!(lab.world.now() < Instant::from_millis(100));
    lab.assert_clean();
}

#[test]
fn connecting_to_a_silent_host_times_out() {
    let mut lab = Lab::new();
    // Neighbour discovery works, TCP vanishes.
    lab.world.up(lab.ports[1]).set_filter(Some(Box::new(|_, frame| segment(frame).is_none())));
    let seen = Rc::new(RefCell::new(None));
    lab.hosts[0].borrow_mut().start(0, Box::new(Once::new(server(), seen.clone())));
    lab.finish(Duration::from_secs(600));
    assert_eq!(*seen.borrow(), Some(TcpError::TimedOut));
    let gave_up = lab.world.now();
    assert!(
        gave_up >= Instant::from_millis(180_000) && gave_up < Instant::from_millis(300_000),
        "{gave_up:?}"
    );
    lab.assert_clean();
}

#[test]
fn keepalive_finds_a_dead_peer_in_idle_and_count_intervals() {
    let mut lab = Lab::new();
    let mut idle = Plan { finish: Finish::WhenRead(u64::MAX), may_fail: true, ..plan(10) };
    idle.options.keepalive = true;
    idle.options.keepalive_idle = Duration::from_secs(10);
    idle.options.keepalive_interval = Duration::from_secs(3);
    idle.options.keepalive_count = 4;
    lab.connect(1, &idle, &idle);
    lab.world.run_for(Duration::from_secs(35));
    assert_eq!(lab.hosts[0].borrow().running_apps(), 1, "a live peer is not given up");
    let cut = lab.world.now();
    for port in lab.ports {
        lab.world.up(port).config.faults.loss = 1.0;
    }
    lab.finish(Duration::from_secs(600));
    let found = lab.world.now().saturating_since(cut);
    assert!(found > Duration::from_secs(12) && found < Duration::from_secs(23), "{found:?}");
    lab.assert_clean();
}

#[test]
fn an_abort_reaches_the_peer_as_a_reset() {
    let mut lab = Lab::new();
    let aborts = Plan { finish: Finish::Abort(5000), may_fail: true, ..plan(10_000) };
    let patient = Plan { may_fail: true, ..plan(0) };
    lab.connect(3, &aborts, &patient);
    let took = lab.finish(Duration::from_secs(60));
    assert!(took < Duration::from_secs(1), "{took:?}");
    lab.assert_clean();
}

#[test]
fn thousands_of_short_connections_leave_only_time_waits() {
    let mut configs = [host_config(1), host_config(2)];
    for config in &mut configs {
        config.pool = PoolLayout { frames: 8192, ..config.pool };
        (config.rx_ring_packets, config.tx_ring_packets) = (4096, 4096);
    }
    let mut lab = Lab::with(configs);
    let reply = Plan { finish: Finish::AfterFin, begin: Begin::AfterFin, ..plan(200) };
    lab.connect(2000, &plan(100), &reply);
    lab.finish(Duration::from_secs(600));
    lab.world.run_for(Duration::from_secs(5));
    for host in &lab.hosts {
        let census = host.borrow().shard_ref(0).tcp_ref().census();
        assert_eq!((census.connections, census.syn_received, census.buffered_bytes), (0, 0, 0), "{census:?}");
    }
    let time_waits = lab.hosts[0].borrow().shard_ref(0).tcp_ref().census().time_wait;
    assert_eq!(time_waits, 2000, "the end that closes first waits");
    lab.assert_clean();
}

#[test]
fn a_starved_pool_slows_and_breaks_nothing() {
    let mut configs = [host_config(1), host_config(2)];
    for config in &mut configs {
        config.pool = PoolLayout { frames: 24, frame_size: 2048, headroom: 128 };
        config.rx_ring_packets = 8;
        config.tx_ring_packets = 4;
    }
    let mut lab = Lab::with(configs);
    let slow = Plan { pause: 0.1, pause_for: Duration::from_millis(100), chunks_held: 2, ..plan(50_000) };
    lab.connect(8, &slow, &slow);
    lab.finish(Duration::from_secs(3600));
    lab.assert_clean();
}

#[test]
fn slow_readers_leave_the_card_frames_to_receive_into() {
    let mut lab = Lab::new();
    let asleep = Plan { pause: 1.0, pause_for: Duration::from_secs(20), read_bytes: 1..=2000, ..plan(0) };
    lab.connect(50, &plan(60_000), &asleep);
    lab.world.run_for(Duration::from_secs(10));
    let used = lab.hosts[1].borrow().pool_use(0);
    assert!(used.free >= used.total / 2, "unread data keeps {used:?}");
    let buffered = lab.hosts[1].borrow().shard_ref(0).tcp_ref().census().buffered_bytes;
    assert!(buffered > 500_000, "{buffered} bytes wait to be read");
}

#[test]
fn flows_that_change_queue_find_their_shard() {
    let mut configs = [host_config(1), host_config(2)];
    configs[1].shards = 4;
    configs[1].hop = 0.05;
    let mut lab = Lab::with(configs);
    for shard in 0..4 {
        lab.listen(shard, server(), &plan(50_000));
    }
    for _ in 0..10 {
        lab.dial(server(), &plan(50_000));
    }
    lab.finish(Duration::from_secs(600));
    let second = lab.hosts[1].clone();
    let host = second.borrow();
    let handed: u64 = (0..4).map(|shard| host.shard_ref(shard).counters().rx_handed_over).sum();
    assert!(host.hops() > 10 && handed > 10, "{} hops, {handed} packets handed over", host.hops());
    drop(host);
    lab.assert_clean();
}

#[test]
fn a_transfer_at_a_slow_bottleneck_uses_it() {
    let mut lab = Lab::new();
    let cable = LinkConfig {
        delay: Duration::from_millis(20),
        rate_bits_per_second: Some(10_000_000),
        queue_bytes: 64 << 10,
        ..LinkConfig::default()
    };
    lab.world.up(lab.ports[0]).config = cable;
    lab.connect(1, &plan(5_000_000), &plan(0));
    // 5 MB at 10 Mbit/s take 4 s; losses at the full queue may cost some of it, not most.
    let took = lab.finish(Duration::from_secs(600));
    assert!(took < Duration::from_secs(8), "{took:?}");
    let sent = lab.segments_sent(0);
    assert!(sent < 5_000_000 / 1460 * 12 / 10, "{sent} segments: more than a fifth sent in vain");
    lab.assert_clean();
}

#[test]
fn a_host_with_both_families_serves_both() {
    let mut lab = Lab::new();
    lab.connect(3, &plan(5000), &plan(5000));
    let v6: SocketAddr = "[fd00::2]:81".parse().unwrap();
    lab.listen(0, v6, &plan(5000));
    lab.dial(v6, &plan(5000));
    lab.finish(Duration::from_secs(60));
    assert_eq!(lab.checker.bytes_received(), 40_000);
    lab.assert_clean();
}

#[test]
fn a_forged_byte_with_a_right_checksum_is_found_by_the_checker() {
    let mut lab = Lab::new();
    lab.world.up(lab.ports[0]).set_filter(Some(Box::new(|_, frame| {
        if segment(frame).is_some_and(|(_, payload)| payload >= 1000) {
            // Two words exchanged leave the sum as it is.
            let end = frame.len() & !1;
            let (a, b) = (end - 4, end - 8);
            for i in 0..2 {
                frame.swap(a + i, b + i);
            }
        }
        true
    })));
    let careless = Plan { may_fail: true, ..plan(5000) };
    lab.connect(1, &careless, &careless);
    lab.world.run_for(Duration::from_secs(10));
    assert!(lab.checker.verdict().iter().any(|what| what.contains("wrong byte")));
}

/// Connects once and notes how it failed.
struct Once {
    remote: SocketAddr,
    id: Option<ConnId>,
    seen: Rc<RefCell<Option<TcpError>>>,
}

impl Once {
    fn new(remote: SocketAddr, seen: Rc<RefCell<Option<TcpError>>>) -> Self {
        Self { remote, id: None, seen }
    }
}

impl App for Once {
    fn run(&mut self, cx: &mut Context<'_>) -> Next {
        let id = *self.id.get_or_insert_with(|| {
            cx.shard.tcp_connect(cx.now, None, self.remote, SocketOptions::default()).unwrap()
        });
        match cx.shard.tcp().poll_connected(id, cx.waker) {
            Poll::Pending => {
                assert_eq!(cx.shard.tcp().state(id), Some(State::SynSent));
                Next::Wait
            }
            Poll::Ready(result) => {
                *self.seen.borrow_mut() = result.err();
                // What is shut down or closed twice is an error or nothing, never a panic.
                let _ = cx.shard.tcp().shutdown(cx.now, id, Shutdown::Both);
                cx.shard.tcp().close(cx.now, id);
                Next::Done
            }
        }
    }

    fn describe(&self) -> String {
        format!("connects to {}", self.remote)
    }
}
