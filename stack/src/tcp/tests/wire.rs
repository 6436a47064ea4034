//! Two engines on a wire in virtual time (`Pair`), and one with a scripted peer (`Script`): for `behaviour.rs`.

use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::collections::VecDeque;

use crate::counters::Counters;
use crate::packet::{Packet, PacketPool, PoolLayout};
use crate::parse::{FlowKey, Kind, Parsed};
use crate::tcp::header::Flags;
use crate::tcp::options::{OPTIONS_LEN_MAX, TcpOptions};
use crate::tcp::seq::SeqNumber;
use crate::tcp::{
    ConnId, Egress, EgressError, ListenerId, Received, SegmentOut, SocketOptions, State, Tcp, TcpConfig,
};
use crate::time::{Duration, Instant};

/// Bytes before the TCP header in the packets made here: where Ethernet and IPv4 would be.
const L4: usize = 34;

/// A segment as the tests see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seg {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: Flags,
    pub window: u16,
    pub options: TcpOptions,
    pub payload: Vec<u8>,
}

impl Seg {
    pub fn is(&self, flags: Flags) -> bool {
        self.flags & !Flags::PSH == flags
    }

    /// Its sequence length.
    pub fn len(&self) -> u32 {
        let one = |flag| u32::from(self.flags.contains(flag));
        self.payload.len() as u32 + one(Flags::SYN) + one(Flags::FIN)
    }

    /// The packet in which it arrives.
    pub fn packet(&self, pool: &PacketPool) -> Packet {
        let mut options = [0; OPTIONS_LEN_MAX];
        let len = self.options.emit(self.flags.contains(Flags::SYN), &mut options);
        let mut bytes = vec![0; L4 + 20 + len];
        let header = &mut bytes[L4..];
        header[..2].copy_from_slice(&self.src.port().to_be_bytes());
        header[2..4].copy_from_slice(&self.dst.port().to_be_bytes());
        header[4..8].copy_from_slice(&self.seq.to_be_bytes());
        header[8..12].copy_from_slice(&self.ack.to_be_bytes());
        let offset = ((20 + len) as u16 / 4) << 12;
        header[12..14].copy_from_slice(&(offset | self.flags.0).to_be_bytes());
        header[14..16].copy_from_slice(&self.window.to_be_bytes());
        header[20..].copy_from_slice(&options[..len]);
        bytes.extend_from_slice(&self.payload);
        let mut packet = Packet::copy_from(pool, &bytes).expect("a frame");
        packet.parsed = Parsed {
            kind: Kind::Tcp,
            l4: L4 as u16,
            payload: (L4 + 20 + len) as u16,
            end: bytes.len() as u32,
            flow: FlowKey {
                src: self.src.ip(),
                dst: self.dst.ip(),
                src_port: self.src.port(),
                dst_port: self.dst.port(),
                protocol: 6,
            },
            ..Parsed::default()
        };
        packet
    }
}

/// An egress that keeps what it is given.
#[derive(Debug)]
pub struct Wire {
    pub out: VecDeque<Seg>,
    pub room: usize,
    pub mtu: usize,
}

impl Egress for Wire {
    fn path_mtu(&self, _: core::net::IpAddr) -> usize {
        self.mtu
    }

    fn super_segment_max(&self) -> usize {
        crate::limits::TCP_BYTES_PER_TURN
    }

    fn send(&mut self, _: Instant, segment: &SegmentOut<'_>) -> Result<usize, EgressError> {
        segment.each(|segment| self.send_one(segment))
    }
}

impl Wire {
    fn send_one(&mut self, segment: &SegmentOut<'_>) -> Result<(), EgressError> {
        if self.room == 0 {
            return Err(EgressError::Full);
        }
        self.room -= 1;
        let payload = segment.payload.concat();
        assert!(payload.len() + segment.options.len() + 40 <= self.mtu, "fits the MTU");
        self.out.push_back(Seg {
            src: segment.src,
            dst: segment.dst,
            seq: segment.seq.0,
            ack: segment.ack.0,
            flags: Flags(segment.flags),
            window: segment.window,
            options: TcpOptions::parse(segment.options),
            payload,
        });
        Ok(())
    }
}

/// One engine with its clock, its pool and what it sent.
pub struct Host {
    pub tcp: Tcp,
    pub now: Instant,
    pub counters: Counters,
    pub wire: Wire,
    pub pool: PacketPool,
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Host {
    pub fn new(config: TcpConfig, seed: u8) -> Self {
        Self {
            tcp: Tcp::new(config, [seed; 32], 0, 1),
            now: Instant::from_millis(1_000_000),
            counters: Counters::default(),
            wire: Wire { out: VecDeque::new(), room: usize::MAX, mtu: 1500 },
            pool: PacketPool::heap(PoolLayout { frames: 512, frame_size: 4096, headroom: 256 }),
        }
    }

    pub fn listen(&mut self, addr: SocketAddr) -> ListenerId {
        self.tcp.listen(addr, 16, SocketOptions::default()).expect("a listener")
    }

    pub fn receive(&mut self, seg: &Seg) {
        let packet = seg.packet(&self.pool);
        if let Received::NoConnection(packet) = self.tcp.receive(self.now, packet, &mut self.counters) {
            self.tcp.reject(self.now, &packet, &mut self.counters);
        }
        self.send();
    }

    /// Lets timers act and sends what there is.
    pub fn send(&mut self) {
        self.tcp.poll_timers(self.now, &mut self.counters);
        self.tcp.transmit(self.now, &mut self.wire, &mut self.counters);
    }

    pub fn accept(&mut self, id: ListenerId) -> Option<ConnId> {
        match self.tcp.poll_accept(id, Waker::noop()) {
            Poll::Ready(Ok((id, _))) => Some(id),
            _ => None,
        }
    }

    /// What can be read now; `None` at the end of the stream.
    pub fn read(&mut self, id: ConnId) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            match self.tcp.poll_recv(self.now, id, &mut bytes, Waker::noop()) {
                Poll::Ready(Ok(0)) if all.is_empty() => return None,
                Poll::Ready(Ok(0)) | Poll::Pending => return Some(all),
                Poll::Ready(Ok(len)) => all.extend_from_slice(&bytes[..len]),
                Poll::Ready(Err(error)) => panic!("read: {error}"),
            }
        }
    }

    pub fn write(&mut self, id: ConnId, bytes: &[u8]) -> usize {
        match self.tcp.poll_send(self.now, id, bytes, Waker::noop()) {
            Poll::Ready(Ok(len)) => len,
            Poll::Pending => 0,
            Poll::Ready(Err(error)) => panic!("write: {error}"),
        }
    }

    pub fn state(&self, id: ConnId) -> Option<State> {
        self.tcp.state(id)
    }
}

/// Whether a segment, by its running number, is lost.
type Lose = Box<dyn FnMut(usize, &Seg) -> bool>;

/// Two hosts on a wire with a delay; `lose` decides which segments (by their running number) are lost.
pub struct Pair {
    pub a: Host,
    pub b: Host,
    pub delay: Duration,
    pub lose: Lose,
    flying: VecDeque<(Instant, bool, Seg)>,
    count: usize,
    pub log: Vec<(Instant, bool, Seg)>,
}

pub const A: &str = "192.0.2.1:40000";
pub const B: &str = "192.0.2.2:80";

impl Pair {
    pub fn new() -> Self {
        Self::with(TcpConfig::default())
    }

    pub fn with(config: TcpConfig) -> Self {
        Self {
            a: Host::new(config.clone(), 1),
            b: Host::new(config, 2),
            delay: Duration::from_millis(5),
            lose: Box::new(|_, _| false),
            flying: VecDeque::new(),
            count: 0,
            log: Vec::new(),
        }
    }

    /// Both ends of a connection that A opened to B.
    pub fn open() -> (Self, ConnId, ConnId) {
        let mut pair = Self::new();
        let listener = pair.b.listen(addr(B));
        let a = pair.connect(SocketOptions::default());
        pair.run(Duration::from_millis(50));
        let b = pair.b.accept(listener).expect("accepted");
        (pair, a, b)
    }

    pub fn connect(&mut self, options: SocketOptions) -> ConnId {
        self.a.tcp.connect(self.a.now, addr(A), addr(B), options).expect("connects")
    }

    pub fn now(&self) -> Instant {
        self.a.now
    }

    /// Lets `span` of virtual time pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now() + span;
        loop {
            self.launch();
            let next = [
                self.flying.front().map(|flying| flying.0),
                self.a.tcp.next_deadline(),
                self.b.tcp.next_deadline(),
            ];
            let next = next.into_iter().flatten().min().unwrap_or(end).max(self.now());
            if next >= end && self.flying.front().is_none_or(|flying| flying.0 > end) {
                break;
            }
            self.set_now(next.min(end));
            while self.flying.front().is_some_and(|flying| flying.0 <= self.now()) {
                let (_, to_b, seg) = self.flying.pop_front().expect("there is one");
                if to_b { self.b.receive(&seg) } else { self.a.receive(&seg) }
            }
        }
        self.set_now(end);
        self.launch();
    }

    fn set_now(&mut self, now: Instant) {
        self.a.now = now;
        self.b.now = now;
    }

    fn launch(&mut self) {
        self.a.send();
        self.b.send();
        for to_b in [true, false] {
            let out = core::mem::take(if to_b { &mut self.a.wire.out } else { &mut self.b.wire.out });
            for seg in out {
                self.count += 1;
                self.log.push((self.a.now, to_b, seg.clone()));
                if !(self.lose)(self.count, &seg) {
                    self.flying.push_back((self.a.now + self.delay, to_b, seg));
                }
            }
        }
    }

    /// Sends `len` patterned bytes from A to B and checks that they arrive in order; returns when the last did.
    pub fn transfer(&mut self, a: ConnId, b: ConnId, len: usize, limit: Duration) -> Instant {
        let (mut written, mut read) = (0, 0);
        let end = self.now() + limit;
        let byte = |at: usize| (at % 251) as u8;
        while read < len {
            assert!(self.now() < end, "stuck at {read} of {len}");
            if written < len {
                let chunk: Vec<u8> = (written..len.min(written + 8192)).map(byte).collect();
                written += self.a.write(a, &chunk);
            }
            let bytes = self.b.read(b).expect("open");
            assert!(bytes.iter().enumerate().all(|(i, &it)| it == byte(read + i)), "in order");
            read += bytes.len();
            self.run(Duration::from_millis(1));
        }
        self.now()
    }
}

/// One engine at B with a scripted peer at A.
pub struct Script {
    pub host: Host,
    pub listener: ListenerId,
    /// The peer's next sequence number.
    pub seq: u32,
    /// What the peer acknowledges.
    pub ack: u32,
    pub options: TcpOptions,
}

impl Script {
    /// A listener at B.
    pub fn listening(config: TcpConfig) -> Self {
        let mut host = Host::new(config, 2);
        let listener = host.listen(addr(B));
        Self { host, listener, seq: 1000, ack: 0, options: TcpOptions::default() }
    }

    /// A connection accepted at B, without timestamps; the peer's window is 65,535.
    pub fn established() -> (Self, ConnId) {
        let mut script = Self::listening(TcpConfig::default());
        script.handshake();
        let id = script.host.accept(script.listener).expect("accepted");
        (script, id)
    }

    pub fn handshake(&mut self) {
        let mss = TcpOptions { mss: Some(1000), ..TcpOptions::default() };
        let syn = Seg { options: mss, ..self.seg(Flags::SYN, b"") };
        self.host.receive(&syn);
        let syn_ack = self.expect();
        assert!(syn_ack.is(Flags::SYN | Flags::ACK) && syn_ack.ack == self.seq + 1);
        self.seq += 1;
        self.ack = syn_ack.seq.wrapping_add(1);
        self.inject(Flags::ACK, b"");
    }

    /// A segment of the peer's at its present numbers.
    pub fn seg(&self, flags: Flags, payload: &[u8]) -> Seg {
        Seg {
            src: addr(A),
            dst: addr(B),
            seq: self.seq,
            ack: if flags.contains(Flags::ACK) { self.ack } else { 0 },
            flags,
            window: 65_535,
            options: self.options,
            payload: payload.to_vec(),
        }
    }

    /// The peer sends the segment that follows.
    pub fn inject(&mut self, flags: Flags, payload: &[u8]) {
        let seg = self.seg(flags, payload);
        self.seq = self.seq.wrapping_add(seg.len());
        self.host.receive(&seg);
    }

    /// The next segment sent; the peer's ACK moves on behind it.
    pub fn expect(&mut self) -> Seg {
        self.host.send();
        let seg = self.host.wire.out.pop_front().expect("a segment");
        if seg.flags.contains(Flags::RST) {
            return seg;
        }
        let end = SeqNumber(seg.seq) + seg.len();
        if end.gt(SeqNumber(self.ack)) {
            self.ack = end.0;
        }
        seg
    }

    pub fn expect_nothing(&mut self) {
        self.host.send();
        assert_eq!(self.host.wire.out, []);
    }

    /// Time passes, deadline by deadline.
    pub fn advance(&mut self, span: Duration) {
        let end = self.host.now + span;
        loop {
            self.host.send();
            match self.host.tcp.next_deadline() {
                Some(at) if at <= end => self.host.now = at.max(self.host.now),
                _ => break,
            }
        }
        self.host.now = end;
        self.host.send();
    }
}
