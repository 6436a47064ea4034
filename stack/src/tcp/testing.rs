//! A scripted peer for tests: send this, expect that, at this time. Segments are built into packets of a real pool, time is
//! virtual, and sequence numbers are relative: 0 is a SYN's, 1 the first byte's, in both directions.

// Scripts read better with segments built in place.
#![allow(clippy::needless_pass_by_value)]

use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::header::Flags;
use super::options::{OPTIONS_LEN_MAX, TcpOptions, Timestamps};
use super::seq::SeqNumber;
use super::*;
use crate::counters::{Counters, DropReason};
use crate::packet::{PacketPool, PoolLayout};
use crate::parse::{FlowKey, Kind, Parsed};
use crate::time::Duration;

/// Where the headers of a test packet begin.
const L3: usize = 14;
const L4: usize = 34;
/// The sequence number of the peer's SYNs. Near the end, so that every test wraps.
pub(crate) const PEER_ISN: u32 = 0xffff_ff00;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A segment, to inject or to expect. Numbers are relative.
#[derive(Clone, Debug)]
pub(crate) struct Seg {
    pub(crate) flags: Flags,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// Expected only if set; injected as 65,535 otherwise.
    pub(crate) window: Option<u16>,
    pub(crate) urgent: Option<u16>,
    pub(crate) options: TcpOptions,
    pub(crate) payload: Vec<u8>,
    /// The IP header's ECN field.
    pub(crate) ecn: u8,
    /// The Diffserv field beside it.
    pub(crate) dscp: u8,
    /// The peer's port; the harness's usual one otherwise.
    pub(crate) port: Option<u16>,
}

/// An ACK with sequence number 1 and acknowledgment 1.
pub(crate) fn seg() -> Seg {
    Seg {
        flags: Flags::ACK,
        seq: 1,
        ack: 1,
        window: None,
        urgent: None,
        options: TcpOptions::default(),
        payload: Vec::new(),
        ecn: 0,
        dscp: 0,
        port: None,
    }
}

/// A SYN without ACK.
pub(crate) fn syn() -> Seg {
    Seg { flags: Flags::SYN, seq: 0, ack: 0, ..seg() }
}

/// A SYN,ACK.
pub(crate) fn syn_ack() -> Seg {
    Seg { flags: Flags::SYN | Flags::ACK, seq: 0, ack: 1, ..seg() }
}

/// A FIN,ACK.
pub(crate) fn fin() -> Seg {
    Seg { flags: Flags::FIN | Flags::ACK, ..seg() }
}

/// A RST without ACK.
pub(crate) fn rst() -> Seg {
    Seg { flags: Flags::RST, ack: 0, ..seg() }
}

impl Seg {
    pub(crate) fn seq(self, seq: u32) -> Self {
        Self { seq, ..self }
    }
    pub(crate) fn ack(self, ack: u32) -> Self {
        Self { ack, ..self }
    }
    pub(crate) fn window(self, window: u16) -> Self {
        Self { window: Some(window), ..self }
    }
    pub(crate) fn port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }
    pub(crate) fn ecn(self, ecn: u8) -> Self {
        Self { ecn, ..self }
    }
    pub(crate) fn dscp(self, dscp: u8) -> Self {
        Self { dscp, ..self }
    }
    pub(crate) fn flags(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }
    pub(crate) fn with(self, flags: Flags) -> Self {
        Self { flags: self.flags | flags, ..self }
    }
    pub(crate) fn data(self, bytes: impl AsRef<[u8]>) -> Self {
        Self { payload: bytes.as_ref().to_vec(), ..self }
    }
    /// `len` bytes of the pattern that a stream from relative sequence number 1 on has.
    pub(crate) fn stream(self, len: usize) -> Self {
        let payload = pattern(self.seq, len);
        Self { payload, ..self }
    }
    pub(crate) fn mss(mut self, mss: u16) -> Self {
        self.options.mss = Some(mss);
        self
    }
    pub(crate) fn sack_ok(mut self) -> Self {
        self.options.sack_permitted = true;
        self
    }
    /// Blocks of relative sequence numbers.
    pub(crate) fn sack(mut self, blocks: &[(u32, u32)]) -> Self {
        self.options.sack = blocks.iter().map(|(from, to)| (SeqNumber(*from), SeqNumber(*to))).collect();
        self
    }
    pub(crate) fn wscale(mut self, shift: u8) -> Self {
        self.options.window_scale = Some(shift);
        self
    }
    pub(crate) fn ts(mut self, val: u32, ecr: u32) -> Self {
        self.options.timestamps = Some(Timestamps { val, ecr });
        self
    }
}

/// Bytes of the test stream: `seq` is relative.
pub(crate) fn pattern(seq: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (seq + i).wrapping_mul(7).wrapping_add((seq + i) >> 8) as u8).collect()
}

/// A segment that the engine sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) dst: SocketAddr,
    pub(crate) raw_seq: SeqNumber,
    /// Relative; 0 without ACK.
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    /// Urgent pointer, where URG says that it counts.
    pub(crate) urgent: Option<u16>,
    pub(crate) options: TcpOptions,
    pub(crate) payload: Vec<u8>,
    /// The IP header's ECN field.
    pub(crate) ecn: u8,
    pub(crate) ip: IpFields,
}

impl Sent {
    /// The SACK blocks, relative.
    pub(crate) fn blocks(&self) -> Vec<(u32, u32)> {
        let relative = |seq: SeqNumber| seq.0.wrapping_sub(PEER_ISN);
        self.options.sack.iter().map(|(from, to)| (relative(*from), relative(*to))).collect()
    }
}

/// The egress: takes `room` more segments, keeps them.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) sent: VecDeque<Sent>,
    pub(crate) room: usize,
    pub(crate) mtu: usize,
    /// MTU of the path, where it is less than the link's.
    pub(crate) path_mtu: Option<usize>,
    /// When it was told that the way to the peer may be wrong.
    pub(crate) doubted_at: Vec<Instant>,
    /// MTU by which segments are refused, as the interface's would.
    pub(crate) too_big: Option<usize>,
    pub(crate) no_route: bool,
    /// What [`Egress::super_segment_max`] says; each segment is kept by itself in any case.
    pub(crate) super_segment_max: usize,
    /// Our initial sequence number, by the peer's port.
    isns: HashMap<u16, SeqNumber>,
}

impl Egress for Wire {
    fn path_mtu(&self, _dst: IpAddr) -> usize {
        self.path_mtu.unwrap_or(self.mtu)
    }

    fn link_mtu(&self, _dst: IpAddr) -> usize {
        self.mtu
    }

    fn doubt(&mut self, now: Instant, _dst: IpAddr) {
        self.doubted_at.push(now);
    }

    fn super_segment_max(&self) -> usize {
        self.super_segment_max
    }

    fn send(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<usize, EgressError> {
        segment.each(|segment| self.send_one(now, segment))
    }
}

impl Wire {
    fn send_one(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<(), EgressError> {
        let payload = segment.payload.concat();
        if self.no_route {
            return Err(EgressError::NoRoute);
        }
        if let Some(mtu) = self.too_big.filter(|mtu| 40 + segment.options.len() + payload.len() > *mtu) {
            return Err(EgressError::TooBig { mtu });
        }
        self.room = self.room.checked_sub(1).ok_or(EgressError::Full)?;
        assert!(segment.options.len() <= OPTIONS_LEN_MAX && segment.options.len().is_multiple_of(4));
        let flags = Flags(segment.flags);
        let isn = self.isns.entry(segment.dst.port()).or_default();
        if flags.contains(Flags::SYN) {
            *isn = segment.seq;
        }
        let ack = if flags.contains(Flags::ACK) { segment.ack.0.wrapping_sub(PEER_ISN) } else { 0 };
        self.sent.push_back(Sent {
            at: now,
            dst: segment.dst,
            raw_seq: segment.seq,
            seq: segment.seq.since(*isn),
            ack,
            flags,
            window: segment.window,
            urgent: flags.contains(Flags::URG).then_some(segment.urgent),
            options: TcpOptions::parse(segment.options),
            payload,
            ecn: segment.ecn,
            ip: segment.ip,
        });
        Ok(())
    }
}

/// An engine, a pool and the wire between it and the script.
pub(crate) struct Harness {
    pub(crate) tcp: Tcp,
    pub(crate) pool: PacketPool,
    pub(crate) wire: Wire,
    pub(crate) counters: Counters,
    pub(crate) now: Instant,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// A segment of the script was not taken (`Received::NoConnection`) and is kept instead of being rejected.
    pub(crate) keep_untaken: bool,
    pub(crate) untaken: usize,
}

impl Harness {
    /// An engine with default settings, in the first of one shards.
    pub(crate) fn new() -> Self {
        Self::with(TcpConfig::default())
    }

    pub(crate) fn with(config: TcpConfig) -> Self {
        config.validate().unwrap();
        let mut harness = Self {
            tcp: Tcp::new(config, [7; 32], 0, 1),
            pool: PacketPool::heap(PoolLayout { frames: 1024, frame_size: 2048, headroom: 128 }),
            wire: Wire {
                sent: VecDeque::new(),
                room: usize::MAX,
                mtu: 1500,
                path_mtu: None,
                doubted_at: Vec::new(),
                too_big: None,
                no_route: false,
                super_segment_max: limits::TCP_BYTES_PER_TURN,
                isns: HashMap::new(),
            },
            counters: Counters::default(),
            now: Instant::from_millis(5_000_000),
            local: "192.0.2.1:80".parse().unwrap(),
            remote: "198.51.100.7:50000".parse().unwrap(),
            keep_untaken: false,
            untaken: 0,
        };
        harness.tcp.poll_timers(harness.now, &mut harness.counters);
        harness
    }

    // ---- the script

    /// Hands a segment of the peer to the engine and sends what that brings about.
    pub(crate) fn inject(&mut self, segment: Seg) {
        self.receive(&segment);
        self.transmit();
    }

    /// Hands over several segments as one burst: nothing is sent between them.
    pub(crate) fn inject_burst(&mut self, segments: impl IntoIterator<Item = Seg>) {
        segments.into_iter().for_each(|segment| self.receive(&segment));
        self.transmit();
    }

    /// Takes a segment in and sends nothing yet.
    pub(crate) fn receive(&mut self, segment: &Seg) {
        let packet = self.packet(segment);
        match self.tcp.receive(self.now, packet, &mut self.counters) {
            Received::Done => {}
            Received::Merged(_) => panic!("the script merges no segments"),
            Received::NoConnection(packet) if !self.keep_untaken => {
                self.tcp.reject(self.now, &packet, &mut self.counters);
            }
            Received::NoConnection(_) => self.untaken += 1,
        }
    }

    /// Sends what the engine has to send.
    pub(crate) fn transmit(&mut self) {
        self.tcp.transmit(self.now, &mut self.wire, &mut self.counters);
    }

    /// Lets time pass, stopping at each of the engine's deadlines.
    pub(crate) fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.tcp.next_deadline().filter(|next| *next <= end);
            self.now = next.map_or(end, |next| next.max(self.now));
            self.tcp.poll_timers(self.now, &mut self.counters);
            self.transmit();
            if next.is_none() || self.wire.room == 0 {
                self.now = end;
                return;
            }
        }
    }

    /// The next segment sent must be this one: flags, sequence number, acknowledgment, payload, the window if it is set.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: Seg) -> Sent {
        let Some(sent) = self.wire.sent.pop_front() else {
            panic!("nothing was sent, expected {expected:?}")
        };
        let port = expected.port.unwrap_or(self.remote.port());
        assert_eq!(sent.dst.port(), port, "{sent:?}");
        // PSH is asserted where it matters.
        let flags = |flags: Flags| Flags(flags.0 & !Flags::PSH.0);
        assert_eq!(
            (flags(sent.flags), sent.seq, sent.ack, sent.payload.len()),
            (flags(expected.flags), expected.seq, expected.ack, expected.payload.len()),
            "flags, seq, ack, length: got {sent:?}, expected {expected:?}"
        );
        assert!(sent.payload == expected.payload, "payload differs: got {sent:?}, expected {expected:?}");
        if let Some(window) = expected.window {
            assert_eq!(sent.window, window, "{sent:?}");
        }
        sent
    }

    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) {
        assert!(self.wire.sent.is_empty(), "{:?}", self.wire.sent);
    }

    /// Nothing is sent for `duration`.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, duration: Duration) {
        self.advance(duration);
        self.expect_nothing();
    }

    /// The next segment is `expected`, and it is sent after `duration` (to the 2 ms of the wheel) and not before.
    #[track_caller]
    pub(crate) fn expect_after(&mut self, duration: Duration, expected: Seg) -> Sent {
        let start = self.now;
        self.expect_silence(duration - MS);
        self.advance(3 * MS);
        let sent = self.expect(expected);
        assert!(sent.at >= start + duration, "sent {:?} early", (start + duration) - sent.at);
        self.now = sent.at;
        sent
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped(reason)
    }

    // ---- beginnings

    /// A connection that the peer opened to a new listener, accepted. `syn` is the peer's SYN.
    #[track_caller]
    pub(crate) fn accept_with(&mut self, options: SocketOptions, syn: Seg) -> ConnId {
        let listener = self.tcp.listen(self.local, 16, options).unwrap();
        let ts = syn.options.timestamps;
        self.inject(syn);
        let answer = self.expect(syn_ack());
        let mut ack = seg();
        ack.options.timestamps =
            ts.map(|ts| Timestamps { val: ts.val, ecr: answer.options.timestamps.unwrap().val });
        self.inject(ack);
        self.expect_nothing();
        let (id, from) = self.accept(listener).unwrap();
        assert_eq!(from, self.remote);
        id
    }

    /// An established connection, opened by the peer without any option but an MSS of 1000.
    #[track_caller]
    pub(crate) fn established(&mut self) -> ConnId {
        self.accept_with(SocketOptions::default(), syn().mss(1000))
    }

    pub(crate) fn accept(&mut self, listener: ListenerId) -> Option<(ConnId, SocketAddr)> {
        match self.tcp.poll_accept(listener, Waker::noop()) {
            Poll::Ready(result) => Some(result.unwrap()),
            Poll::Pending => None,
        }
    }

    /// Starts an active open; its SYN is in the wire.
    pub(crate) fn connect_with(&mut self, options: SocketOptions) -> ConnId {
        let id = self.tcp.connect(self.now, self.local, self.remote, options).unwrap();
        self.transmit();
        id
    }

    // ---- calls

    /// Writes all of `bytes`, which must fit, and sends.
    #[track_caller]
    pub(crate) fn send(&mut self, id: ConnId, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let result = self.tcp.poll_send(self.now, id, bytes, Waker::noop());
        assert_eq!(result, Poll::Ready(Ok(bytes.len())));
        self.transmit();
    }

    /// Everything that can be read now.
    pub(crate) fn recv(&mut self, id: ConnId) -> Vec<u8> {
        self.recv_up_to(id, usize::MAX)
    }

    pub(crate) fn recv_up_to(&mut self, id: ConnId, limit: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; limit.min(65_536)];
        while all.len() < limit {
            let room = buffer.len().min(limit - all.len());
            match self.tcp.poll_recv(self.now, id, &mut buffer[..room], Waker::noop()) {
                Poll::Ready(Ok(len @ 1..)) => all.extend_from_slice(&buffer[..len]),
                _ => break,
            }
        }
        self.transmit();
        all
    }

    /// What a reader gets when there is no data: `None` to wait, `Some(Ok(0))` the end.
    pub(crate) fn end(&mut self, id: ConnId) -> Option<Result<usize, TcpError>> {
        match self.tcp.poll_recv(self.now, id, &mut [0], Waker::noop()) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    pub(crate) fn shutdown(&mut self, id: ConnId, how: Shutdown) {
        self.tcp.shutdown(self.now, id, how).unwrap();
        self.transmit();
    }

    pub(crate) fn close(&mut self, id: ConnId) {
        self.tcp.close(self.now, id);
        self.transmit();
    }

    pub(crate) fn state(&self, id: ConnId) -> State {
        self.tcp.state(id).unwrap()
    }

    /// Changes options in place.
    pub(crate) fn set(&mut self, id: ConnId, change: impl FnOnce(&mut SocketOptions)) {
        let mut options = self.tcp.options(id).unwrap();
        change(&mut options);
        self.tcp.set_options(self.now, id, options).unwrap();
        self.transmit();
    }

    // ---- packets

    /// Our initial sequence number towards the peer's `port`.
    pub(crate) fn isn(&self, port: u16) -> SeqNumber {
        self.wire.isns.get(&port).copied().unwrap_or_default()
    }

    fn packet(&self, segment: &Seg) -> Packet {
        let mut options = [0; OPTIONS_LEN_MAX];
        let isn = self.isn(segment.port.unwrap_or(self.remote.port())).0;
        let sack = segment.options.sack.iter().map(|(from, to)| (*from + isn, *to + isn)).collect();
        let absolute = TcpOptions { sack, ..segment.options };
        let options_len = absolute.emit(segment.flags.contains(Flags::SYN), &mut options);
        let header_len = 20 + options_len;
        let remote = SocketAddr::new(self.remote.ip(), segment.port.unwrap_or(self.remote.port()));
        let ack = if segment.flags.contains(Flags::ACK) { self.isn(remote.port()).0 } else { 0 };
        let mut bytes = vec![0; L4];
        bytes.extend(remote.port().to_be_bytes());
        bytes.extend(self.local.port().to_be_bytes());
        bytes.extend(segment.seq.wrapping_add(PEER_ISN).to_be_bytes());
        bytes.extend(segment.ack.wrapping_add(ack).to_be_bytes());
        bytes.extend(((header_len as u16 / 4) << 12 | segment.flags.0).to_be_bytes());
        bytes.extend(segment.window.unwrap_or(65_535).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(segment.urgent.unwrap_or(0).to_be_bytes());
        bytes.extend(&options[..options_len]);
        bytes.extend(&segment.payload);
        let mut packet = Packet::copy_from(&self.pool, &bytes).expect("the pool has frames for the script");
        packet.parsed = Parsed {
            kind: Kind::Tcp,
            l3: L3 as u16,
            l4: L4 as u16,
            payload: (L4 + header_len) as u16,
            end: bytes.len() as u32,
            hop_limit: 64,
            ecn: segment.ecn,
            dscp: segment.dscp,
            flow: FlowKey {
                src: remote.ip(),
                dst: self.local.ip(),
                src_port: remote.port(),
                dst_port: self.local.port(),
                protocol: 6,
            },
            ..Parsed::default()
        };
        packet
    }

    /// Nothing is left: no connection but TIME-WAITs, no buffered byte, every frame in the pool.
    #[track_caller]
    pub(crate) fn expect_clean(&self) {
        let census = self.tcp.census();
        assert_eq!((census.connections, census.syn_received, census.buffered_bytes), (0, 0, 0), "{census:?}");
        assert_eq!(self.pool.free_frames(), self.pool.layout().frames);
    }
}

/// A waker that counts.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn new() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self::default());
        (wakes.clone(), Waker::from(wakes))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
