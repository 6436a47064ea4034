//! The TCP engine with a wire in memory: packets of the runner come in by [`Stack::inject`], what the engine sends waits in
//! a queue with the time it was sent. Every address that a packet comes to is taken as ours.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bywash::config::Cidr;
use bywash::counters::Counters;
use bywash::limits;
use bywash::packet::checksum::Sum;
use bywash::packet::{Packet, PacketPool, PoolLayout};
use bywash::parse::{Kind, Policy, parse, protocol};
use bywash::tcp::seq::SeqNumber;
use bywash::tcp::{
    ConnId, Egress, EgressError, IcmpError, IcmpErrorKind, IcmpVerdict, Received, SegmentOut, Tcp, TcpConfig,
    Tuple,
};
use bywash::time::Instant;
use smoltcp::wire::EthernetAddress;

use crate::bursts::Bursts;
use crate::flags::Flags;

/// Packets sent and not yet received by the runner; beyond it the engine finds its egress full and waits.
const WIRE_PACKETS_MAX: usize = 65_536;
/// Frames for received packets: a receive queue of some megabytes, after which packets are dropped as on a busy host.
const POOL_FRAMES: u32 = 8192;
/// Payload of joined segments: what an IPv4 packet holds besides its headers with all options.
const JOINED_BYTES_MAX: usize = 65_535 - 60 - 60;
const ETHERNET_HEADER: usize = 14;
const TCP_HEADER: usize = 20;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;
/// SYN, RST and URG: such segments stand alone.
const ALONE: u8 = 0x26;
const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const PEER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

/// The engine, its clock and its wire.
pub(crate) struct Stack {
    pub(crate) tcp: Tcp,
    pub(crate) now: Instant,
    wire: Wire,
    config: TcpConfig,
    pub(crate) counters: Counters,
    pool: PacketPool,
    policy: Policy,
}

/// What was sent. Segments of one connection that follow each other at one instant are Linux's bursts (see [`crate::bursts`]): the
/// last of each is pushed, and on request a burst leaves as one packet, as through a device that cuts large packets by itself.
pub(crate) struct Wire {
    /// MTU for each IP version.
    mtu_ipv4: usize,
    mtu_ipv6: usize,
    /// The largest packet that a path carries where that is less, bytes, and when it was learned: as a shard remembers it.
    learned: HashMap<IpAddr, (u16, Instant)>,
    /// Whether segments are joined.
    join: bool,
    sent: VecDeque<Sent>,
    /// Where what was sent to an address and port ends: what lies before it is sent again.
    ends: HashMap<(SocketAddr, SocketAddr), SeqNumber>,
    ident: u16,
}

/// A packet to be.
struct Sent {
    at: Instant,
    src: SocketAddr,
    dst: SocketAddr,
    /// Diffserv field and ECN bits.
    tos: u8,
    hop_limit: u8,
    /// The TCP header with its options; the checksum is still 0.
    header: Vec<u8>,
    payload: Vec<u8>,
    /// Its payload was never sent before.
    new: bool,
}

impl Stack {
    pub(crate) fn new(config: TcpConfig, now: Instant, flags: &Flags) -> Self {
        // Virtual time is meant to repeat: so are sequence numbers and ports.
        let tcp = Tcp::new(config.clone(), [0x42; 32], 0, 1);
        let policy = Policy {
            mac: MAC,
            addresses: Vec::new(),
            groups: Vec::new(),
            partial_checksums: false,
            dhcp: false,
            forwarding: false,
            hash_keys: tcp.hash_keys(),
        };
        let mut stack = Self {
            tcp,
            now,
            wire: Wire::new(flags),
            config,
            counters: Counters::default(),
            pool: PacketPool::heap(PoolLayout { frames: POOL_FRAMES, frame_size: 2048, headroom: 0 }),
            policy,
        };
        stack.tcp.poll_timers(now, &mut stack.counters);
        stack
    }

    /// Uses another configuration from now on: wholly, or for what begins from now on if something is open that has the old.
    /// Whether it is another.
    pub(crate) fn configure(&mut self, config: TcpConfig, flags: &Flags) -> bool {
        if config == self.config {
            return false;
        }
        let census = self.tcp.census();
        let idle = census.connections + census.listeners + census.time_wait + census.syn_received == 0;
        if idle {
            let fresh = Self::new(config, self.now, flags);
            let old = std::mem::replace(self, fresh);
            (self.wire, self.counters) = (old.wire, old.counters);
        } else if self.tcp.set_config(config.clone()).is_ok() {
            self.config = config;
        }
        true
    }

    /// Takes one IP packet from the wire; what is malformed is counted and dropped.
    pub(crate) fn inject(&mut self, ip: &[u8]) {
        let Some((destination, ethertype)) = destination(ip) else { return };
        let mut frame = Vec::with_capacity(ETHERNET_HEADER + ip.len());
        frame.extend_from_slice(&MAC.0);
        frame.extend_from_slice(&PEER_MAC.0);
        frame.extend_from_slice(&ethertype);
        frame.extend_from_slice(ip);
        let prefix_len = if destination.is_ipv4() { 32 } else { 128 };
        self.policy.addresses = vec![Cidr { addr: destination, prefix_len }];
        let Some(mut packet) = Packet::copy_from(&self.pool, &frame) else { return };
        match parse(&packet, &self.policy) {
            Ok(parsed) => packet.parsed = parsed,
            Err(refusal) => return self.counters.drop(refusal.reason),
        }
        match packet.parsed.kind {
            Kind::Tcp => {
                if let Received::NoConnection(packet) = self.tcp.receive(self.now, packet, &mut self.counters)
                {
                    self.tcp.reject(self.now, &packet, &mut self.counters);
                }
            }
            kind @ (Kind::Icmpv4 | Kind::Icmpv6) => {
                let message = &frame[usize::from(packet.parsed.l4)..packet.parsed.end as usize];
                if let Some(error) = icmp_error(kind == Kind::Icmpv6, message) {
                    let verdict = self.tcp.icmp_error(self.now, &error, &mut self.counters);
                    if let IcmpVerdict::PathMtu(mtu) = verdict {
                        self.wire.learn(self.now, error.tuple.remote.ip(), mtu);
                    }
                }
            }
            _ => {}
        }
    }

    /// Fires what is due and sends what there is to send, in bursts of at most so many segments.
    pub(crate) fn pump(&mut self, bursts: &Bursts) {
        self.wire.forget_old(self.now);
        self.tcp.poll_timers(self.now, &mut self.counters);
        let before = self.wire.sent.len();
        self.tcp.transmit(self.now, &mut self.wire, &mut self.counters);
        self.wire.form_bursts(before, bursts);
    }

    /// Accurate ECN's option as the configuration has it, on a connection that is open.
    pub(crate) fn renew_accurate_ecn(&mut self, id: ConnId) {
        // Stale only if the connection is over.
        let _ = self.tcp.set_accurate_ecn_option(self.now, id, self.config.accurate_ecn.option);
    }

    /// The wire carries packets of `mtu` bytes from now on.
    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        (self.wire.mtu_ipv4, self.wire.mtu_ipv6) = (mtu, mtu);
    }

    /// When something happens by itself; never before now.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.tcp.next_deadline().map(|at| at.max(self.now))
    }

    /// The oldest packet that the runner has not yet got, and when it was sent.
    pub(crate) fn take_sent(&mut self) -> Option<(Instant, Vec<u8>)> {
        self.wire.take()
    }
}

impl Egress for Wire {
    fn path_mtu(&self, dst: IpAddr) -> usize {
        let link = self.link_mtu(dst);
        self.learned.get(&dst).map_or(link, |(mtu, _)| link.min(usize::from(*mtu)))
    }

    fn link_mtu(&self, dst: IpAddr) -> usize {
        if dst.is_ipv4() { self.mtu_ipv4 } else { self.mtu_ipv6 }
    }

    fn doubt(&mut self, _now: Instant, dst: IpAddr) {
        self.learned.remove(&dst);
    }

    fn super_segment_max(&self) -> usize {
        limits::TCP_BYTES_PER_TURN
    }

    fn send(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<usize, EgressError> {
        segment.each(|segment| self.send_one(now, segment))
    }
}

impl Wire {
    fn send_one(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<(), EgressError> {
        if self.sent.len() >= WIRE_PACKETS_MAX {
            return Err(EgressError::Full);
        }
        let payload = segment.payload.concat();
        let ip_header_len = if segment.dst.is_ipv4() { 20 } else { 40 };
        let mtu = self.path_mtu(segment.dst.ip());
        if ip_header_len + TCP_HEADER + segment.options.len() + payload.len() > mtu {
            return Err(EgressError::TooBig { mtu });
        }
        let end = segment.seq + payload.len() as u32;
        let flow = (segment.src, segment.dst);
        let new = self.ends.get(&flow).is_none_or(|known| segment.flags & 2 != 0 || known.le(segment.seq));
        if new {
            self.ends.insert(flow, end);
        }
        self.sent.push_back(Sent {
            at: now,
            src: segment.src,
            dst: segment.dst,
            tos: segment.ip.tos & 0xfc | segment.ecn,
            hop_limit: segment.ip.hop_limit,
            header: tcp_header(segment),
            payload,
            new,
        });
        Ok(())
    }

    /// What was sent last, from `first` on, becomes bursts.
    fn form_bursts(&mut self, first: usize, bursts: &Bursts) {
        let fresh: Vec<Sent> = self.sent.drain(first..).collect();
        let mut fresh = fresh.into_iter().peekable();
        while let Some(mut head) = fresh.next() {
            let segment_len = head.payload.len();
            let most = bursts.get(&(head.src, head.dst)).copied().unwrap_or(1);
            let (mut count, mut flags) = (1, head.flags());
            let mut rest = Vec::new();
            while count < most && (head.new || self.join) {
                let last = rest.last().unwrap_or(&head);
                let Some(next) = fresh.next_if(|next| last.is_followed_by(next, segment_len, count)) else {
                    break;
                };
                count += 1;
                flags |= next.flags();
                rest.push(next);
            }
            if self.join && count > 1 {
                rest.iter().for_each(|next| head.payload.extend_from_slice(&next.payload));
                head.header[13] = flags | PSH;
                rest.clear();
            } else if let Some(last) = rest.last_mut() {
                last.header[13] |= PSH;
            }
            self.sent.push_back(head);
            self.sent.extend(rest);
        }
    }
}

impl Wire {
    fn new(flags: &Flags) -> Self {
        let Flags { mtu_ipv4, mtu_ipv6, join, .. } = *flags;
        Self {
            mtu_ipv4,
            mtu_ipv6,
            learned: HashMap::new(),
            join,
            sent: VecDeque::new(),
            ends: HashMap::new(),
            ident: 0,
        }
    }

    /// Takes in that the path to `dst` carries no more than `mtu`; only time raises it. What was learned longest ago makes room.
    fn learn(&mut self, now: Instant, dst: IpAddr, mtu: u16) {
        if self.learned.get(&dst).is_some_and(|(known, _)| *known < mtu) {
            return;
        }
        if self.learned.len() >= limits::PATH_MTU_ENTRIES && !self.learned.contains_key(&dst) {
            let oldest = self.learned.iter().min_by_key(|(_, (_, at))| *at).map(|(dst, _)| *dst);
            oldest.and_then(|dst| self.learned.remove(&dst));
        }
        self.learned.insert(dst, (mtu, now));
    }

    fn forget_old(&mut self, now: Instant) {
        self.learned.retain(|_, (_, at)| now.saturating_since(*at) < limits::PATH_MTU_LIFETIME);
    }

    fn take(&mut self) -> Option<(Instant, Vec<u8>)> {
        let sent = self.sent.pop_front()?;
        self.ident = self.ident.wrapping_add(1);
        Some((sent.at, sent.into_packet(self.ident)))
    }
}

impl Sent {
    fn seq(&self) -> u32 {
        self.header[4..8].try_into().map_or(0, u32::from_be_bytes)
    }

    fn flags(&self) -> u8 {
        self.header[13]
    }

    /// Whether `next` could have been cut off behind this, the `count`th segment of a burst with `segment_len` bytes in each: equal
    /// headers, in sequence, and this one full and not pushed.
    fn is_followed_by(&self, next: &Self, segment_len: usize, count: usize) -> bool {
        let same = (self.at, self.src, self.dst, self.tos) == (next.at, next.src, next.dst, next.tos)
            && (self.hop_limit, self.new) == (next.hop_limit, next.new)
            // Acknowledgment; window; options.
            && self.header[8..13] == next.header[8..13]
            && self.header[14..16] == next.header[14..16]
            && self.header[TCP_HEADER..] == next.header[TCP_HEADER..];
        // CWR, where it is a signal, is on the first alone.
        let lasting = |flags: u8| flags & !(FIN | PSH | CWR);
        same && lasting(self.flags()) == lasting(next.flags())
            && self.flags() & (FIN | PSH) == 0
            && self.flags() & (ALONE | ACK) == ACK
            && next.flags() & CWR & !self.flags() == 0
            && self.seq().wrapping_add(self.payload.len() as u32) == next.seq()
            && self.payload.len() == segment_len
            && (1..=segment_len).contains(&next.payload.len())
            && count * segment_len + next.payload.len() <= JOINED_BYTES_MAX
    }

    /// The whole IP packet, checksums filled in.
    fn into_packet(mut self, ident: u16) -> Vec<u8> {
        let tcp_len = self.header.len() + self.payload.len();
        let mut sum = Sum::pseudo_header(self.src.ip(), self.dst.ip(), protocol::TCP, tcp_len as u32);
        sum.add(&self.header);
        sum.add(&self.payload);
        self.header[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
        let mut packet = Vec::with_capacity(40 + tcp_len);
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                packet.extend_from_slice(&[0x45, self.tos]);
                packet.extend_from_slice(&(20 + tcp_len as u16).to_be_bytes());
                packet.extend_from_slice(&ident.to_be_bytes());
                packet.extend_from_slice(&[0x40, 0, self.hop_limit, protocol::TCP, 0, 0]);
                packet.extend_from_slice(&src.octets());
                packet.extend_from_slice(&dst.octets());
                let mut sum = Sum::ZERO;
                sum.add(&packet);
                packet[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
            }
            (src, dst) => {
                packet.extend_from_slice(&[0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
                packet.extend_from_slice(&(tcp_len as u16).to_be_bytes());
                packet.extend_from_slice(&[protocol::TCP, self.hop_limit]);
                for addr in [src, dst] {
                    let octets = match addr {
                        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
                        IpAddr::V6(addr) => addr.octets(),
                    };
                    packet.extend_from_slice(&octets);
                }
            }
        }
        packet.extend_from_slice(&self.header);
        packet.extend_from_slice(&self.payload);
        packet
    }
}

/// The header and options of a segment, with a checksum of 0.
fn tcp_header(segment: &SegmentOut<'_>) -> Vec<u8> {
    let mut header = Vec::with_capacity(TCP_HEADER + segment.options.len());
    header.extend_from_slice(&segment.src.port().to_be_bytes());
    header.extend_from_slice(&segment.dst.port().to_be_bytes());
    header.extend_from_slice(&segment.seq.0.to_be_bytes());
    header.extend_from_slice(&segment.ack.0.to_be_bytes());
    let words = ((TCP_HEADER + segment.options.len()) / 4) as u16;
    header.extend_from_slice(&(words << 12 | segment.flags).to_be_bytes());
    header.extend_from_slice(&segment.window.to_be_bytes());
    header.extend_from_slice(&[0, 0]);
    header.extend_from_slice(&segment.urgent.to_be_bytes());
    header.extend_from_slice(segment.options);
    header
}

/// Destination and Ethernet type of an IP packet.
fn destination(ip: &[u8]) -> Option<(IpAddr, [u8; 2])> {
    match ip.first()? >> 4 {
        4 => Some((<[u8; 4]>::try_from(ip.get(16..20)?).ok()?.into(), [0x08, 0x00])),
        6 => Some((<[u8; 16]>::try_from(ip.get(24..40)?).ok()?.into(), [0x86, 0xdd])),
        _ => None,
    }
}

/// Reads an ICMP error about a TCP segment (RFC 792, RFC 4443), sorted as RFC 9293 section 3.9.2.2 does.
fn icmp_error(ipv6: bool, message: &[u8]) -> Option<IcmpError> {
    let (kind, code) = (*message.first()?, *message.get(1)?);
    let be16 = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let kind = match (ipv6, kind, code) {
        (false, 3, 4) => IcmpErrorKind::PacketTooBig { mtu: u32::from(be16(6)?) },
        (true, 2, _) => IcmpErrorKind::PacketTooBig { mtu: u32::from(be16(4)?) << 16 | u32::from(be16(6)?) },
        (false, 3, 2 | 3) | (true, 1, 4) => IcmpErrorKind::Refused,
        (false, 3 | 11, _) | (true, 1 | 3, _) => IcmpErrorKind::Unreachable,
        _ => return None,
    };
    let quote = message.get(8..)?;
    let (src, dst, next, tcp): (IpAddr, IpAddr, u8, &[u8]) = if ipv6 {
        let addr = |at: usize| <[u8; 16]>::try_from(quote.get(at..at + 16)?).ok();
        (addr(8)?.into(), addr(24)?.into(), *quote.get(6)?, quote.get(40..)?)
    } else {
        let addr = |at: usize| <[u8; 4]>::try_from(quote.get(at..at + 4)?).ok();
        let header_len = usize::from(quote.first()? & 15) * 4;
        (addr(12)?.into(), addr(16)?.into(), *quote.get(9)?, quote.get(header_len..)?)
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let seq = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let tuple = Tuple { local: (src, port(0)?).into(), remote: (dst, port(2)?).into() };
    (next == protocol::TCP).then_some(IcmpError { tuple, seq: SeqNumber(seq), kind })
}
