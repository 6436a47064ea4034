//! Our TCP against smoltcp's, in the simulator: the same patterns and the same checks at both ends, each side as client
//! and as server, over links that lose, double, reorder and damage. Two engines written apart agree on the bytes, or one
//! of them is wrong.
#![cfg(feature = "sim")]

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;
use std::rc::Rc;

use bywash::config::{Cidr, StackConfig};
use bywash::sim::checker::{Pattern, unrest};
use bywash::sim::traffic::{Begin, Dial, Finish, Listen, Plan};
use bywash::sim::{Checker, Dice, Faults, Host, HostConfig, LinkConfig, Node, World};
use bywash::tcp::{SocketOptions, Tuple};
use bywash::time::{Duration, Instant};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint};

/// Seeds a run covers unless `BYWASH_SEEDS` says otherwise.
const SEEDS: u64 = 300;
const PORT: u16 = 7777;

/// What one end of smoltcp's does: sends this many bytes, reads to the end, closes.
struct SmoltcpEnd {
    socket: SocketHandle,
    send_bytes: u64,
    sent: u64,
    tuple: Option<Tuple>,
    checker: Checker,
    closed: bool,
    ended: bool,
}

/// A host on smoltcp's own stack.
struct SmoltcpHost {
    mac: EthernetAddress,
    iface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    ends: Vec<SmoltcpEnd>,
    dirty: bool,
    ran_at: Instant,
}

#[derive(Default)]
struct Queues {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
    mtu: usize,
}

struct RxToken(Vec<u8>);
struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}
impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}
impl phy::Device for Queues {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;
    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(RxToken, TxToken<'_>)> {
        self.rx.pop_front().map(|frame| (RxToken(frame), TxToken(&mut self.tx)))
    }
    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.tx))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

impl SmoltcpHost {
    fn new(addresses: &[Cidr], mac_last: u8, mtu: usize, seed: u64) -> Self {
        let mac = EthernetAddress([2, 0, 0, 0, 0, mac_last]);
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = seed;
        let mut queues = Queues { mtu, ..Queues::default() };
        let mut iface = Interface::new(config, &mut queues, Instant::ZERO.into());
        iface.update_ip_addrs(|list| {
            for cidr in addresses {
                list.push(IpCidr::new(cidr.addr.into(), cidr.prefix_len)).unwrap();
            }
        });
        let sockets = SocketSet::new(Vec::new());
        Self { mac, iface, queues, sockets, ends: Vec::new(), dirty: true, ran_at: Instant::ZERO }
    }

    fn add(&mut self, buffer_bytes: usize, send_bytes: u64, checker: &Checker) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; buffer_bytes]);
        let socket = self.sockets.add(Socket::new(buffer(), buffer()));
        self.ends.push(SmoltcpEnd {
            socket,
            send_bytes,
            sent: 0,
            tuple: None,
            checker: checker.clone(),
            closed: false,
            ended: false,
        });
        socket
    }

    fn finished(&self) -> bool {
        self.ends.iter().all(|end| end.ended)
    }

    fn describe(&self) -> String {
        let end = |end: &SmoltcpEnd| {
            let socket = self.sockets.get::<Socket<'_>>(end.socket);
            let queues = (socket.send_queue(), socket.recv_queue());
            format!("{}: wrote {} of {}, queues {queues:?}", socket.state(), end.sent, end.send_bytes)
        };
        self.ends.iter().map(end).collect::<Vec<_>>().join("; ")
    }

    /// Faults of smoltcp 0.14: in some orders of losses its retransmission timer stops although data is not acknowledged, or
    /// a FIN whose payload is; from then on it sends nothing by itself.
    fn stopped_retransmitting(&mut self, now: Instant) -> bool {
        let owes = |end: &SmoltcpEnd| {
            let socket = self.sockets.get::<Socket<'_>>(end.socket);
            let fin_unacknowledged =
                [State::FinWait1, State::Closing, State::LastAck].contains(&socket.state());
            fin_unacknowledged || socket.send_queue() > 0
        };
        self.ends.iter().any(owes) && self.iface.poll_at(now.into(), &self.sockets).is_none()
    }
}

fn std_addr(endpoint: IpEndpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port)
}

impl SmoltcpEnd {
    /// Goes as far as it can; true when something was done.
    fn run(&mut self, sockets: &mut SocketSet<'static>) -> bool {
        let socket = sockets.get_mut::<Socket<'_>>(self.socket);
        if self.ended {
            return false;
        }
        let Some(tuple) = self.tuple else { return self.open(socket) };
        let busy = self.transfer(socket, tuple);
        if self.sent == self.send_bytes && !self.closed {
            self.closed = true;
            self.checker.closed(tuple);
            socket.close();
            return true;
        }
        let over =
            matches!(socket.state(), State::TimeWait | State::Closed | State::LastAck | State::Closing);
        if self.closed && over {
            self.ended = true;
            self.checker.fin(tuple);
            self.checker.ended(tuple, Ok(()));
            return true;
        }
        busy
    }

    fn open(&mut self, socket: &Socket<'_>) -> bool {
        let opening = [State::Listen, State::SynSent, State::SynReceived, State::Closed];
        let ends = (socket.local_endpoint(), socket.remote_endpoint());
        let ((Some(local), Some(remote)), false) = (ends, opening.contains(&socket.state())) else {
            return false;
        };
        let tuple = Tuple { local: std_addr(local), remote: std_addr(remote) };
        self.checker.opened(tuple, false);
        self.tuple = Some(tuple);
        true
    }

    fn transfer(&mut self, socket: &mut Socket<'_>, tuple: Tuple) -> bool {
        let mut busy = false;
        while socket.can_recv() {
            let rx = Pattern::new(tuple.remote, tuple.local);
            let read = |bytes: &mut [u8]| {
                self.checker.received(tuple, rx, bytes);
                (bytes.len(), ())
            };
            socket.recv(read).unwrap();
            busy = true;
        }
        while self.sent < self.send_bytes && socket.can_send() {
            let (sent, left) = (self.sent, self.send_bytes - self.sent);
            let write = |room: &mut [u8]| {
                let len = room.len().min(left as usize);
                Pattern::new(tuple.local, tuple.remote).fill(sent, &mut room[..len]);
                (len, len)
            };
            let taken = socket.send(write).unwrap();
            self.sent += taken as u64;
            self.checker.sent(tuple, taken as u64);
            busy = true;
        }
        busy
    }
}

impl Node for SmoltcpHost {
    fn mac(&self) -> EthernetAddress {
        self.mac
    }
    fn receive(&mut self, _now: Instant, frame: &[u8]) {
        self.queues.rx.push_back(frame.to_vec());
        self.dirty = true;
    }
    fn run(&mut self, now: Instant, sent: &mut Vec<Vec<u8>>) {
        self.dirty = false;
        self.ran_at = now;
        loop {
            self.iface.poll(now.into(), &mut self.queues, &mut self.sockets);
            let mut busy = false;
            for end in &mut self.ends {
                busy |= end.run(&mut self.sockets);
            }
            sent.append(&mut self.queues.tx);
            if !busy && self.queues.rx.is_empty() {
                break;
            }
        }
    }
    fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.dirty {
            return Some(now);
        }
        // smoltcp may ask for "now" over and over while it waits for a neighbour.
        let at: Instant = self.iface.poll_at(now.into(), &self.sockets)?.into();
        Some(if at <= now && self.ran_at == now { now + Duration::from_millis(1) } else { at })
    }
}

fn draw_plan(dice: &mut Dice, send_bytes: u64) -> Plan {
    let mut options = SocketOptions::default();
    if dice.chance(0.5) {
        options.receive_buffer_bytes = dice.scale(1024..=65_536) as usize;
    }
    Plan {
        send_bytes,
        echo: false,
        expects_echo: false,
        write_bytes: 1..=dice.scale(1000..=65_536),
        read_bytes: 1..=dice.scale(1000..=65_536),
        chunks_held: dice.range(0..=2) as usize,
        pause: 0.0,
        pause_for: Duration::ZERO,
        begin: Begin::AtOnce,
        finish: Finish::Shutdown,
        flush: false,
        may_fail: false,
        options,
    }
}

fn draw_link(dice: &mut Dice) -> LinkConfig {
    let faulty = dice.chance(0.7);
    let fault = |dice: &mut Dice, most: u64| if faulty { dice.range(0..=most) as f64 / 1000.0 } else { 0.0 };
    let faults = Faults {
        loss: fault(dice, 150),
        duplicate: fault(dice, 50),
        reorder: fault(dice, 100),
        reorder_delay: Duration::from_millis(dice.scale(1..=100)),
        corrupt: fault(dice, 20),
        ..Faults::default()
    };
    LinkConfig { delay: Duration::from_micros(dice.scale(10..=100_000)), faults, ..LinkConfig::default() }
}

fn addresses(last: u8) -> Vec<Cidr> {
    vec![format!("10.0.0.{last}/24").parse().unwrap(), format!("fd00::{last}/64").parse().unwrap()]
}

struct Pair {
    world: World,
    ours: Rc<RefCell<Host>>,
    theirs: Rc<RefCell<SmoltcpHost>>,
    checker: Checker,
    stop: Rc<Cell<bool>>,
}

/// The two hosts with one connection between them, drawn from the seed.
fn pair(seed: u64, we_dial: bool) -> Pair {
    let mut dice = Dice::new(seed, u64::from(we_dial));
    let mtu = *dice.pick(&[1280, 1500, 1500]);
    let mut stack = StackConfig::new(addresses(1), dice.secret());
    // The default gives up a closed connection after a few lost retransmissions; every byte is wanted here.
    stack.tcp.orphan_give_up_after = Duration::from_secs(1200);
    let mut config = HostConfig::new("bywash", 1, stack, seed);
    config.mtu = mtu;
    let ours = Rc::new(RefCell::new(Host::new(&config, Instant::ZERO).unwrap()));
    let theirs = Rc::new(RefCell::new(SmoltcpHost::new(&addresses(2), 2, mtu, seed)));
    let mut world = World::new(seed);
    let port = world.attach(ours.clone(), draw_link(&mut dice), LinkConfig::default());
    world.attach(theirs.clone(), draw_link(&mut dice), LinkConfig::default());
    if let Ok(path) = std::env::var("BYWASH_PCAP") {
        let file = std::fs::File::create(format!("{path}.{we_dial}")).unwrap();
        world.capture(port, Box::new(std::io::BufWriter::new(file))).unwrap();
    }

    let checker = Checker::default();
    let stop = Rc::new(Cell::new(false));
    let (we_send, they_send) = (dice.scale(0..=200_000), dice.scale(0..=200_000));
    let plan = draw_plan(&mut dice, we_send);
    let buffer_bytes = dice.scale(2048..=65_535) as usize;
    let family = usize::from(dice.chance(0.5));
    let (our_ip, their_ip): (IpAddr, IpAddr) = (addresses(1)[family].addr, addresses(2)[family].addr);
    let socket = theirs.borrow_mut().add(buffer_bytes, they_send, &checker);
    if we_dial {
        let mut host = theirs.borrow_mut();
        host.sockets.get_mut::<Socket<'_>>(socket).listen(IpListenEndpoint::from(PORT)).unwrap();
        let dial = Dial::new(SocketAddr::new(their_ip, PORT), plan, &checker);
        ours.borrow_mut().start(0, Box::new(dial));
    } else {
        let addr = SocketAddr::new(our_ip, PORT);
        ours.borrow_mut().start(0, Box::new(Listen::new(addr, 8, plan, &checker, &stop)));
        world.run_for(Duration::from_millis(1));
        let host = &mut *theirs.borrow_mut();
        let socket = host.sockets.get_mut::<Socket<'_>>(socket);
        let own_port = 49_152 + (seed % 1000) as u16;
        socket.connect(host.iface.context(), IpEndpoint::from(addr), own_port).unwrap();
        host.dirty = true;
    }
    Pair { world, ours, theirs, checker, stop }
}

/// Runs the connection of a seed to its end and checks what is left. False when smoltcp's own fault kept it from ending.
fn run(seed: u64, we_dial: bool) -> bool {
    let Pair { mut world, ours, theirs, checker, stop } = pair(seed, we_dial);
    let context = format!(
        "seed {seed}, we dial: {we_dial}; replay: BYWASH_SEED={seed} cargo test -p bywash --features sim --test \
         differential_smoltcp replay (BYWASH_PCAP=file writes file.true and file.false)"
    );
    let listeners = usize::from(!we_dial);
    let done = |_: &World| {
        (ours.borrow().running_apps() == listeners && theirs.borrow().finished()) || !checker.is_clean()
    };
    let finished = world.run_until(Instant::ZERO + Duration::from_secs(4 * 3600), done);
    if !finished {
        world.finish_captures().unwrap();
        if theirs.borrow_mut().stopped_retransmitting(world.now()) {
            return false;
        }
        let their_ends = theirs.borrow().describe();
        panic!("stuck: {:?}, smoltcp {their_ends}; {context}", ours.borrow().describe_apps());
    }
    stop.set(true);
    ours.borrow().wake_all();
    world.run_for(Duration::from_secs(900));
    world.finish_captures().unwrap();
    assert_eq!(checker.verdict(), Vec::<String>::new(), "{context}");
    let mut ours = ours.borrow_mut();
    assert_eq!(unrest(ours.shard(0), false), None, "{context}");
    let used = ours.pool_use(0);
    assert_eq!(used.free, used.total, "frames leaked; {context}");
    true
}

/// Smoltcp's faults need losses in a certain order: more than a few in a hundred seeds are something else.
fn assert_few_stopped(stopped: usize) {
    let seeds = seeds().count();
    assert!(stopped <= 1 + seeds / 50, "smoltcp stopped retransmitting in {stopped} of {seeds} seeds");
}

fn seeds() -> core::ops::Range<u64> {
    let count = std::env::var("BYWASH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    0..count
}

#[test]
fn as_client_we_exchange_every_byte_with_smoltcp() {
    assert_few_stopped(seeds().filter(|&seed| !run(seed, true)).count());
}

#[test]
fn as_server_we_exchange_every_byte_with_smoltcp() {
    assert_few_stopped(seeds().filter(|&seed| !run(seed, false)).count());
}

/// The control: smoltcp on both sides passes the same checks on the same links, so that a failure above is ours.
#[test]
fn smoltcp_exchanges_every_byte_with_itself() {
    let mut stopped = 0;
    for seed in seeds() {
        let mut dice = Dice::new(seed, 2);
        let mut world = World::new(seed);
        let checker = Checker::default();
        let hosts = [1, 2].map(|last| {
            let mut host = SmoltcpHost::new(&addresses(last), last, 1500, seed + u64::from(last));
            let (buffer_bytes, send_bytes) = (dice.scale(2048..=65_535) as usize, dice.scale(0..=200_000));
            host.add(buffer_bytes, send_bytes, &checker);
            let host = Rc::new(RefCell::new(host));
            world.attach(host.clone(), draw_link(&mut dice), LinkConfig::default());
            host
        });
        {
            let SmoltcpHost { sockets, ends, .. } = &mut *hosts[1].borrow_mut();
            sockets.get_mut::<Socket<'_>>(ends[0].socket).listen(IpListenEndpoint::from(PORT)).unwrap();
            let SmoltcpHost { iface, sockets, ends, .. } = &mut *hosts[0].borrow_mut();
            let remote = IpEndpoint::new(addresses(2)[seed as usize % 2].addr.into(), PORT);
            let socket = sockets.get_mut::<Socket<'_>>(ends[0].socket);
            socket.connect(iface.context(), remote, 50_000).unwrap();
        }
        let done = |_: &World| hosts.iter().all(|host| host.borrow().finished()) || !checker.is_clean();
        let finished = world.run_until(Instant::ZERO + Duration::from_secs(4 * 3600), done);
        if !finished && hosts.iter().any(|host| host.borrow_mut().stopped_retransmitting(world.now())) {
            stopped += 1;
            continue;
        }
        assert!(finished, "seed {seed} is stuck");
        assert_eq!(checker.verdict(), Vec::<String>::new(), "seed {seed}");
    }
    assert_few_stopped(stopped);
}

/// Runs the seed in `BYWASH_SEED` (0 without it) both ways round.
#[test]
fn replay() {
    let seed = std::env::var("BYWASH_SEED").map_or(0, |text| text.parse().expect("BYWASH_SEED is a number"));
    assert!(run(seed, true) && run(seed, false), "smoltcp stopped retransmitting");
}
