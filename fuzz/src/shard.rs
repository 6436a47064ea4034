//! A live stack of one or two shards with listeners and open connections, fed with frames, segments that almost fit, time
//! jumps and user calls. It must not panic, must stay within its bounds, and at the end every connection is gone and
//! every frame back in its pool.

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};
use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use bywash::config::{Cidr, StackConfig};
use bywash::device::{Capabilities, Device};
use bywash::packet::{PacketPool, PoolLayout};
use bywash::shard::Shard;
use bywash::sim::host::SimDevice;
use bywash::tcp::{Census, Chunk, ConnId, ListenerId, Shutdown, SocketOptions};
use bywash::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use crate::frames::{self, Seen, SeenSegment, Segment};

/// Steps of one input that are run; more would only make it slow.
const STEPS_MAX: usize = 256;
/// Connections the harness holds handles of.
const CONNECTIONS_MAX: usize = 32;
/// Chunks the application holds on to.
const CHUNKS_MAX: usize = 16;
/// Frames of each shard's pool.
const POOL_FRAMES: u32 = 256;
/// Receive and send buffer of every connection, in bytes.
const BUFFER_BYTES: usize = 8192;
/// What a connection may hold beyond its two buffers: the overhead of pieces and rounding, in bytes.
const BUFFER_SLACK_BYTES: usize = 16 << 10;
/// Polls at one time after which a shard is never done.
const POLLS_MAX: usize = 20_000;
/// Virtual time in which everything must be gone after the end.
const TEARDOWN: Duration = Duration::from_secs(4 * 3600);
/// Listeners' ports.
const PORTS: [u16; 2] = [80, 443];

/// One step of an input.
#[derive(Arbitrary, Clone, Debug)]
pub enum Step {
    /// Any frame.
    Raw(Vec<u8>),
    /// Anything with an Ethernet header that is right.
    Ethernet {
        ether_type: u16,
        bytes: Vec<u8>,
    },
    /// Anything with an IP header (and a transport checksum) that is right.
    Ip {
        v6: bool,
        peer: u8,
        protocol: Transport,
        bytes: Vec<u8>,
    },
    /// A segment that (almost) fits a connection.
    Segment(SegmentSpec),
    /// Milliseconds pass.
    Wait(u16),
    /// Seconds pass.
    WaitLong(u16),
    /// Time passes to the stack's next deadline.
    WaitForDeadline,
    Listen {
        v6: bool,
        port: u8,
        backlog: u8,
    },
    CloseListener(u8),
    Accept(u8),
    Connect {
        v6: bool,
        port: u8,
    },
    Send {
        connection: u8,
        len: u16,
    },
    Receive {
        connection: u8,
        len: u16,
    },
    ReceiveChunk(u8),
    DropChunks,
    Shutdown {
        connection: u8,
        how: u8,
    },
    Close(u8),
    Abort(u8),
    SetOptions {
        connection: u8,
        bits: u8,
        seconds: u8,
    },
}

/// Protocols whose checksum the harness fills in.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Transport {
    Tcp,
    Udp,
    Icmp,
    Any(u8),
}

/// A TCP segment relative to what the stack expects.
#[derive(Arbitrary, Clone, Debug)]
pub struct SegmentSpec {
    /// Which known connection; beyond them a new one to a listener.
    pub flow: u8,
    pub v6: bool,
    pub flags: u8,
    pub seq: Offset,
    pub ack: Offset,
    pub window: u16,
    pub urgent: u16,
    pub options: Options,
    pub len: u16,
}

/// How far from the right value.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Offset {
    Exact,
    Near(i8),
    Far(i16),
    Anywhere(u32),
}

impl Offset {
    fn from(self, base: u32) -> u32 {
        match self {
            Self::Exact => base,
            Self::Near(offset) => base.wrapping_add_signed(offset.into()),
            Self::Far(offset) => base.wrapping_add_signed(offset.into()),
            Self::Anywhere(value) => value,
        }
    }
}

/// The segment's options.
#[derive(Arbitrary, Clone, Debug)]
pub enum Options {
    None,
    /// MSS, SACK permitted, timestamps, window scale as a SYN has them.
    Syn {
        mss: u16,
        scale: u8,
    },
    /// Timestamps this far from the clock.
    Timestamps(i16),
    Bytes(Vec<u8>),
}

/// Runs one input.
///
/// # Panics
/// When the stack breaks a promise.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(two_shards) = bool::arbitrary(&mut input) else { return };
    let mut bench = Bench::new(if two_shards { 2 } else { 1 });
    for _ in 0..STEPS_MAX {
        let (Ok(shard), Ok(step)) = (u8::arbitrary(&mut input), Step::arbitrary(&mut input)) else { break };
        bench.step(usize::from(shard) % bench.queues.len(), &step);
        bench.settle();
        bench.check_bounds();
        if input.is_empty() {
            break;
        }
    }
    bench.tear_down();
}

/// Runs the steps as they are: for the program that writes the seed corpus, and for tests.
pub fn run_steps(two_shards: bool, steps: &[(u8, Step)]) -> Census {
    let mut bench = Bench::new(if two_shards { 2 } else { 1 });
    for (shard, step) in steps {
        bench.step(usize::from(*shard) % bench.queues.len(), step);
        bench.settle();
        bench.check_bounds();
    }
    let census = bench.census();
    bench.tear_down();
    census
}

struct Queue {
    shard: Shard,
    device: SimDevice,
    listeners: Vec<ListenerId>,
    connections: Vec<ConnId>,
}

/// What the peer knows of a connection from the segments it saw.
#[derive(Clone, Copy, Debug)]
struct Flow {
    ours: SocketAddr,
    peer: SocketAddr,
    /// The next sequence number the stack sends.
    snd_nxt: u32,
    /// The next one it expects.
    rcv_nxt: u32,
}

struct Bench {
    now: Instant,
    queues: Vec<Queue>,
    flows: BTreeMap<(SocketAddr, SocketAddr), Flow>,
    chunks: Vec<Chunk>,
    sent: Vec<Vec<u8>>,
}

fn our_ip(v6: bool) -> IpAddr {
    if v6 { "fd00::1" } else { "10.0.0.1" }.parse().expect("an address")
}

fn peer_ip(v6: bool, last: u8) -> IpAddr {
    let last = 2 + last % 4;
    if v6 { format!("fd00::{last}") } else { format!("10.0.0.{last}") }.parse().expect("an address")
}

fn options() -> SocketOptions {
    SocketOptions {
        receive_buffer_bytes: BUFFER_BYTES,
        send_buffer_bytes: BUFFER_BYTES,
        ..SocketOptions::default()
    }
}

impl Bench {
    fn new(shards: u16) -> Self {
        let cidr = |text: &str| text.parse::<Cidr>().expect("an address");
        let config = StackConfig::new(vec![cidr("10.0.0.1/24"), cidr("fd00::1/64")], [7; 32]);
        let now = Instant::from_millis(1000);
        let build = |(index, links)| {
            let layout = PoolLayout { frames: POOL_FRAMES, frame_size: 2048, headroom: 128 };
            let capabilities = Capabilities {
                mac: EthernetAddress(frames::OUR_MAC),
                mtu: 1500,
                partial_checksums: false,
                tx_frames_max: 1,
            };
            let device = SimDevice::new(capabilities, PacketPool::heap(layout), 64, 64);
            let shard =
                Shard::new(&config, index as u16, shards, links, &device, now).expect("a good configuration");
            Queue { shard, device, listeners: Vec::new(), connections: Vec::new() }
        };
        let queues = Shard::links(shards).into_iter().enumerate().map(build).collect();
        let mut bench = Self { now, queues, flows: BTreeMap::new(), chunks: Vec::new(), sent: Vec::new() };
        for queue in 0..bench.queues.len() {
            for v6 in [false, true] {
                bench.listen(queue, v6, PORTS[0], 4);
            }
        }
        bench.settle();
        bench
    }

    fn step(&mut self, queue: usize, step: &Step) {
        match step {
            Step::Raw(bytes) => self.queues[queue].device.arrive(bytes),
            Step::Ethernet { ether_type, bytes } => {
                let header = [&frames::OUR_MAC[..], &frames::PEER_MAC, &ether_type.to_be_bytes()].concat();
                self.queues[queue].device.arrive(&[header, bytes.clone()].concat());
            }
            Step::Ip { v6, peer, protocol, bytes } => {
                let (protocol, at) = match (protocol, v6) {
                    (Transport::Tcp, _) => (6, 16),
                    (Transport::Udp, _) => (17, 6),
                    (Transport::Icmp, false) => (1, 2),
                    (Transport::Icmp, true) => (58, 2),
                    (Transport::Any(number), _) => (*number, usize::MAX - 2),
                };
                let (src, dst) = (peer_ip(*v6, *peer), our_ip(*v6));
                let mut bytes = bytes.clone();
                bytes.truncate(1480);
                self.queues[queue].device.arrive(&frames::transport(src, dst, protocol, bytes, at));
            }
            Step::Segment(spec) => self.segment(queue, spec),
            Step::Wait(millis) => self.now += Duration::from_millis((*millis).into()),
            Step::WaitLong(seconds) => self.now += Duration::from_secs((*seconds).into()),
            Step::WaitForDeadline => {
                self.now = self.next_deadline().unwrap_or(self.now).max(self.now);
            }
            call => self.user_call(queue, call),
        }
    }

    fn user_call(&mut self, queue: usize, step: &Step) {
        let now = self.now;
        match *step {
            Step::Listen { v6, port, backlog } => {
                self.listen(queue, v6, PORTS[usize::from(port) % PORTS.len()], backlog.into());
            }
            Step::CloseListener(which) => {
                if let Some(id) = pick(&mut self.queues[queue].listeners, which, true) {
                    self.queues[queue].shard.tcp_close_listener(now, id).expect("the listener is open");
                }
            }
            Step::Accept(which) => self.accept(queue, which),
            Step::Connect { v6, port } => {
                let queue = &mut self.queues[queue];
                let remote = SocketAddr::new(peer_ip(v6, port), 2000 + u16::from(port % 8));
                if queue.connections.len() < CONNECTIONS_MAX
                    && let Ok(id) = queue.shard.tcp_connect(now, None, remote, options())
                {
                    queue.connections.push(id);
                }
            }
            Step::DropChunks => self.chunks.clear(),
            Step::Close(which) | Step::Abort(which) => {
                let queue = &mut self.queues[queue];
                if let Some(id) = pick(&mut queue.connections, which, true) {
                    let tcp = queue.shard.tcp();
                    if matches!(step, Step::Close(_)) { tcp.close(now, id) } else { tcp.abort(now, id) }
                }
            }
            Step::Send { connection, .. }
            | Step::Receive { connection, .. }
            | Step::ReceiveChunk(connection)
            | Step::Shutdown { connection, .. }
            | Step::SetOptions { connection, .. } => {
                if let Some(id) = pick(&mut self.queues[queue].connections, connection, false) {
                    self.connection_call(queue, id, step);
                }
            }
            _ => {}
        }
    }

    fn connection_call(&mut self, queue: usize, id: ConnId, step: &Step) {
        let (now, waker) = (self.now, Waker::noop());
        let tcp = self.queues[queue].shard.tcp();
        match *step {
            Step::Send { len, .. } => {
                let bytes = vec![0x55; len.into()];
                if let Poll::Ready(Ok(taken)) = tcp.poll_send(now, id, &bytes, waker) {
                    assert!(taken <= bytes.len());
                }
            }
            Step::Receive { len, .. } => {
                let mut bytes = vec![0; len.into()];
                if let Poll::Ready(Ok(got)) = tcp.poll_recv(now, id, &mut bytes, waker) {
                    assert!(got <= bytes.len());
                }
            }
            Step::ReceiveChunk(_) => {
                if let Poll::Ready(Ok(Some(chunk))) = tcp.poll_recv_chunk(now, id, waker) {
                    assert!(!chunk.is_empty());
                    if self.chunks.len() < CHUNKS_MAX {
                        self.chunks.push(chunk);
                    }
                }
            }
            Step::Shutdown { how, .. } => {
                let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][usize::from(how) % 3];
                // Refused where the connection is not open any more.
                let _ = tcp.shutdown(now, id, how);
            }
            Step::SetOptions { bits, seconds, .. } => {
                let time = Duration::from_secs(seconds.into());
                let bit = |number: u8| bits & (1 << number) != 0;
                let new = SocketOptions {
                    nodelay: bit(0),
                    cork: bit(1),
                    quickack: bit(2),
                    keepalive: bit(3),
                    keepalive_idle: time,
                    keepalive_interval: time,
                    keepalive_count: bits >> 4,
                    user_timeout: bit(4).then_some(time),
                    linger: bit(5).then_some(time),
                    ..options()
                };
                // Refused where a value is out of its bounds.
                let _ = tcp.set_options(now, id, new);
            }
            _ => {}
        }
    }

    fn listen(&mut self, queue: usize, v6: bool, port: u16, backlog: usize) {
        let queue = &mut self.queues[queue];
        if let Ok(id) = queue.shard.tcp_listen(SocketAddr::new(our_ip(v6), port), backlog, options()) {
            queue.listeners.push(id);
        }
    }

    fn accept(&mut self, queue: usize, which: u8) {
        let queue = &mut self.queues[queue];
        let Some(listener) = pick(&mut queue.listeners, which, false) else { return };
        if queue.connections.len() < CONNECTIONS_MAX
            && let Poll::Ready(Ok((id, _))) = queue.shard.tcp().poll_accept(listener, Waker::noop())
        {
            queue.connections.push(id);
        }
    }

    fn segment(&mut self, queue: usize, spec: &SegmentSpec) {
        let known = self.flows.values().nth(usize::from(spec.flow)).copied();
        let flow = known.unwrap_or_else(|| Flow {
            ours: SocketAddr::new(our_ip(spec.v6), PORTS[0]),
            peer: SocketAddr::new(peer_ip(spec.v6, spec.flow), 1000 + u16::from(spec.flow % 8)),
            snd_nxt: 0,
            rcv_nxt: 0,
        });
        let clock = (self.now.as_millis() as u32).to_be_bytes();
        let options = match &spec.options {
            Options::None => Vec::new(),
            Options::Syn { mss, scale } => {
                let [high, low] = mss.to_be_bytes();
                let mut options = vec![2, 4, high, low, 4, 2, 8, 10];
                options.extend(clock);
                options.extend([0, 0, 0, 0, 1, 3, 3, *scale]);
                options
            }
            Options::Timestamps(offset) => {
                let value = (self.now.as_millis() as u32).wrapping_add_signed((*offset).into());
                [&[1, 1, 8, 10][..], &value.to_be_bytes(), &clock].concat()
            }
            Options::Bytes(bytes) => bytes.clone(),
        };
        let segment = Segment {
            ports: (flow.peer.port(), flow.ours.port()),
            seq: spec.seq.from(flow.rcv_nxt),
            ack: spec.ack.from(flow.snd_nxt),
            flags: spec.flags,
            window: spec.window,
            urgent: spec.urgent,
            options,
            payload: vec![0xaa; usize::from(spec.len).min(1400)],
        };
        self.queues[queue].device.arrive(&frames::tcp(flow.peer.ip(), flow.ours.ip(), &segment));
    }

    /// Polls every shard until nothing is left to do at this time, and answers as the neighbours would.
    fn settle(&mut self) {
        for _ in 0..POLLS_MAX {
            let mut busy = false;
            for index in 0..self.queues.len() {
                let Queue { shard, device, .. } = &mut self.queues[index];
                busy |= shard.poll(self.now, device);
                busy |= device.complete(&mut self.sent);
                shard.take_steering_changes();
                for frame in core::mem::take(&mut self.sent) {
                    busy |= self.look(index, &frame);
                }
            }
            busy |= self.next_deadline().is_some_and(|at| at <= self.now);
            if !busy {
                return;
            }
        }
        panic!("a shard is never done at {:?}", self.now);
    }

    /// Notes what the stack sent; true when an answer was put on the wire.
    fn look(&mut self, queue: usize, frame: &[u8]) -> bool {
        assert!(frame.len() <= 1514, "a frame of {} bytes for an MTU of 1500", frame.len());
        match frames::look(frame) {
            Seen::Segment(segment) => {
                self.note(&segment);
                false
            }
            Seen::WhoHas { target, asker } => {
                let answer = match (target, asker) {
                    (IpAddr::V4(target), IpAddr::V4(asker)) => {
                        frames::arp_reply(target.octets(), asker.octets())
                    }
                    _ => frames::neighbor_advertisement(target, asker),
                };
                self.queues[queue].device.arrive(&answer);
                true
            }
            Seen::Other => false,
        }
    }

    fn note(&mut self, segment: &SeenSegment) {
        let (fin, syn, rst, ack) = (0x01, 0x02, 0x04, 0x10);
        let ours = SocketAddr::new(segment.src, segment.src_port);
        let peer = SocketAddr::new(segment.dst, segment.dst_port);
        if segment.flags & rst != 0 {
            self.flows.remove(&(ours, peer));
            return;
        }
        let controls = u32::from(segment.flags & syn != 0) + u32::from(segment.flags & fin != 0);
        let end = segment.seq.wrapping_add(segment.payload_len).wrapping_add(controls);
        let first = Flow { ours, peer, snd_nxt: end, rcv_nxt: segment.ack };
        let flow = self.flows.entry((ours, peer)).or_insert(first);
        if segment.flags & syn != 0 || end.wrapping_sub(flow.snd_nxt) < 1 << 31 {
            flow.snd_nxt = end;
        }
        if segment.flags & ack != 0 {
            flow.rcv_nxt = segment.ack;
        }
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        let now = self.now;
        self.queues.iter_mut().filter_map(|queue| queue.shard.next_deadline(now)).min()
    }

    fn census(&self) -> Census {
        let mut sum = Census::default();
        for queue in &self.queues {
            let one = queue.shard.tcp_ref().census();
            sum.listeners += one.listeners;
            sum.syn_received += one.syn_received;
            sum.connections += one.connections;
            sum.time_wait += one.time_wait;
            sum.buffered_bytes += one.buffered_bytes;
        }
        sum
    }

    fn check_bounds(&self) {
        let census = self.census();
        let bound = census.connections * (2 * BUFFER_BYTES + BUFFER_SLACK_BYTES);
        assert!(census.buffered_bytes <= bound, "{census:?} holds more than {bound} bytes");
        for queue in &self.queues {
            let used = queue.device.pool().usage();
            let counted = used.free + used.fill + used.tx + used.held;
            assert_eq!(counted, used.total);
            assert_eq!(queue.device.pool().bogus_returns(), 0);
        }
    }

    /// Closes everything and lets time pass until nothing is left.
    fn tear_down(mut self) {
        self.chunks.clear();
        let now = self.now;
        for queue in &mut self.queues {
            for id in core::mem::take(&mut queue.listeners) {
                queue.shard.tcp_close_listener(now, id).expect("the listener is open");
            }
            for id in core::mem::take(&mut queue.connections) {
                queue.shard.tcp().close(now, id);
            }
        }
        self.settle();
        let deadline = self.now + TEARDOWN;
        while self.now < deadline && !self.is_at_rest() {
            let step = self.now + Duration::from_secs(60);
            self.now =
                self.next_deadline().map_or(step, |at| at.clamp(self.now + Duration::from_micros(1), step));
            self.settle();
        }
        assert_eq!(self.census(), Census::default(), "left over");
        for queue in &self.queues {
            let used = queue.device.pool().usage();
            assert_eq!(used.free, used.total, "frames leaked: {used:?}");
        }
    }

    fn is_at_rest(&self) -> bool {
        let frames_back = self.queues.iter().all(|queue| queue.device.pool().free_frames() == POOL_FRAMES);
        frames_back && self.census() == Census::default()
    }
}

/// The `which`-th of `list`, counted around; taken out when `remove`.
fn pick<T: Copy>(list: &mut Vec<T>, which: u8, remove: bool) -> Option<T> {
    if list.is_empty() {
        return None;
    }
    let index = usize::from(which) % list.len();
    Some(if remove { list.swap_remove(index) } else { list[index] })
}
