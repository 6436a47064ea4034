//! The way out: an IP packet or TCP segment gets its next hop, its neighbour's Ethernet address and its frames, and waits
//! in the shard's backlog for the device.
//!
//! TCP's segments ([`tcp::Egress`]) are built in place, payload copied and summed in one pass; what smoltcp and ICMP send
//! comes as whole IP packets and is cut into fragments where it is too long (see [`super::fragment`]).

use core::net::IpAddr;

use smoltcp::wire::{EthernetAddress, EthernetProtocol};

use super::fragment::{self, FragmentIds};
use super::neighbor::Neighbors;
use super::route::{NextHop, Routes};
use super::{ETHERNET_HEADER, HOP_LIMIT, IPV4_HEADER, IPV6_HEADER};
use crate::counters::{Counters, DropReason};
use crate::device::Device;
use crate::limits;
use crate::packet::checksum::Sum;
use crate::packet::{Frame, Packet, PacketBatch, PacketPool, PoolLayout};
use crate::parse::protocol;
use crate::tcp::{self, EgressError, SegmentOut};
use crate::time::Instant;

const TCP_HEADER: usize = 20;
const TCP_CHECKSUM: usize = 16;
/// What every IPv6 link carries (RFC 8200 section 5).
const IPV6_MTU_MIN: usize = 1280;

/// What all senders of a shard share: routes, neighbours, frames and the backlog.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) mac: EthernetAddress,
    pub(crate) neighbors: Neighbors,
    /// Counts of everything below TCP; the shard adds them to its own.
    pub(crate) counters: Counters,
    routes: Routes,
    pool: PacketPool,
    mtu: usize,
    ids: FragmentIds,
    backlog: PacketBatch,
    /// Bytes of all packets in `backlog`.
    backlog_bytes: usize,
    last_hop: Option<LastHop>,
}

/// The answer for the destination asked for last: a burst of segments mostly has one.
#[derive(Clone, Copy, Debug)]
struct LastHop {
    dst: IpAddr,
    mac: EthernetAddress,
    generation: u64,
    until: Instant,
}

/// Largest IP packet that `frames` frames of a pool hold behind their Ethernet header.
pub(crate) fn mtu_in_frames(layout: PoolLayout, frames: usize) -> usize {
    let first = (layout.frame_size - layout.headroom) as usize;
    first + frames.saturating_sub(1) * layout.frame_size as usize - ETHERNET_HEADER
}

impl Output {
    /// `mtu`: the largest IP packet in bytes, at most [`mtu_in_frames`].
    pub(crate) fn new(
        mac: EthernetAddress,
        mtu: usize,
        pool: PacketPool,
        neighbors: Neighbors,
        ids: FragmentIds,
    ) -> Self {
        Self {
            mac,
            neighbors,
            counters: Counters::default(),
            routes: Routes::default(),
            pool,
            mtu,
            ids,
            backlog: PacketBatch::new(),
            backlog_bytes: 0,
            last_hop: None,
        }
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Replaces the routes; neighbours are asked for anew.
    pub(crate) fn set_routes(&mut self, routes: Routes) {
        self.routes = routes;
        self.last_hop = None;
        self.neighbors.clear(&mut self.counters);
    }

    /// Largest IP packet, in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    pub(crate) fn pool(&self) -> &PacketPool {
        &self.pool
    }

    /// Whether the backlog takes another packet.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog.len() < limits::TX_BACKLOG_PACKETS && self.pool.free_frames() > 0
    }

    /// Whether packets wait for the device.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Gives the backlog to the device; returns how many packets it took.
    pub(crate) fn flush(&mut self, device: &mut dyn Device) -> usize {
        if self.backlog.is_empty() {
            return 0;
        }
        let sent = device.transmit(&mut self.backlog);
        let left = self.backlog.iter().map(Packet::len).sum();
        self.counters.tx_packets += sent as u64;
        self.counters.tx_bytes += (self.backlog_bytes - left) as u64;
        self.backlog_bytes = left;
        sent
    }

    /// Sends a whole IP packet, its header and transport checksums set, in fragments where it must be. Drops are counted.
    pub(crate) fn send_ip(&mut self, now: Instant, ip: &[u8]) {
        let Some((src, dst)) = addresses(ip) else { return self.counters.drop(DropReason::Truncated) };
        let Some(hop) = self.routes.next_hop(dst) else { return self.counters.drop(DropReason::NoRoute) };
        // RFC 8200 section 5: without path MTU discovery only the minimum is safe beyond a router.
        let routed = dst.is_ipv6() && matches!(hop, NextHop::Neighbor(hop) if hop != dst);
        let mtu = if routed { self.mtu.min(IPV6_MTU_MIN) } else { self.mtu };
        if ip.len() <= mtu {
            return self.send_parts(now, hop, dst, &[ip]);
        }
        let mut ids = core::mem::take(&mut self.ids);
        let count = fragment::for_each(ip, (src, dst), mtu, &mut ids, |headers, piece| {
            self.send_parts(now, hop, dst, &[headers, piece]);
        });
        self.ids = ids;
        self.counters.fragments_tx += count as u64;
        if count == 0 {
            self.counters.drop(DropReason::PacketTooBig);
        }
    }

    /// Sends a frame to the station at `dst`, whatever the routes say.
    pub(crate) fn send_ethernet(
        &mut self,
        dst: EthernetAddress,
        ethertype: EthernetProtocol,
        parts: &[&[u8]],
    ) {
        if let Some(mut packet) = self.build(ethertype, parts) {
            set_destination(&mut packet, dst);
            self.push(packet);
        }
    }

    /// Sends packets that waited for the neighbour at `mac`.
    pub(crate) fn release(&mut self, mac: EthernetAddress, packets: impl IntoIterator<Item = Packet>) {
        for mut packet in packets {
            set_destination(&mut packet, mac);
            self.push(packet);
        }
    }

    fn send_parts(&mut self, now: Instant, hop: NextHop, dst: IpAddr, parts: &[&[u8]]) {
        let ethertype = if dst.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        if let Some(packet) = self.build(ethertype, parts) {
            self.dispatch(now, hop, packet);
        }
    }

    /// A frame of `parts`, without its Ethernet destination. `None`: dropped and counted.
    fn build(&mut self, ethertype: EthernetProtocol, parts: &[&[u8]]) -> Option<Packet> {
        if !self.has_backlog_room() {
            return None;
        }
        let packet = Packet::alloc(&self.pool).and_then(|mut packet| {
            ethernet_header(packet.append(ETHERNET_HEADER)?, self.mac, ethertype);
            append(&self.pool, &mut packet, parts, &mut Sum::default())?;
            Some(packet)
        });
        if packet.is_none() {
            self.counters.drop(DropReason::NoFrame);
        }
        packet
    }

    fn has_backlog_room(&mut self) -> bool {
        let room = self.backlog.len() < limits::TX_BACKLOG_PACKETS;
        if !room {
            self.counters.drop(DropReason::TxQueueFull);
        }
        room
    }

    /// To the backlog, or to where packets wait for their neighbour.
    fn dispatch(&mut self, now: Instant, hop: NextHop, mut packet: Packet) {
        let addr = match hop {
            NextHop::Group(mac) => {
                set_destination(&mut packet, mac);
                return self.push(packet);
            }
            NextHop::Neighbor(addr) => addr,
        };
        if let Some(mac) = self.neighbors.resolve(now, addr) {
            set_destination(&mut packet, mac);
            self.push(packet);
        } else {
            self.neighbors.hold(now, addr, packet, &mut self.counters);
        }
    }

    fn push(&mut self, packet: Packet) {
        if self.has_backlog_room() {
            self.backlog_bytes += packet.len();
            self.backlog.push_back(packet);
        }
    }

    /// The Ethernet address for `dst` from the memory of the last one, else `None`.
    fn remembered(&self, now: Instant, dst: IpAddr) -> Option<EthernetAddress> {
        let last = self.last_hop?;
        let holds = last.dst == dst && last.generation == self.neighbors.generation() && now < last.until;
        holds.then_some(last.mac)
    }

    /// Frames that segments of TCP must leave free.
    fn reserve_frames(&self) -> u32 {
        limits::TX_RESERVE_FRAMES.min(self.pool.layout().frames / 8)
    }

    /// The whole frame of a segment, without its Ethernet destination; `None` when the pool ran out.
    fn build_segment(&self, segment: &SegmentOut<'_>, tcp_len: usize) -> Option<Packet> {
        let (src, dst) = (segment.src.ip(), segment.dst.ip());
        let mut packet = Packet::alloc(&self.pool)?;
        let ethertype = if dst.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        ethernet_header(packet.append(ETHERNET_HEADER)?, self.mac, ethertype);
        let ip_len = if dst.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        ip_header(packet.append(ip_len)?, src, dst, protocol::TCP, segment.ecn, tcp_len);

        let l4 = packet.len();
        let header_len = TCP_HEADER + segment.options.len();
        tcp_header(packet.append(header_len)?, segment);
        let mut sum = Sum::pseudo_header(src, dst, protocol::TCP, tcp_len as u32);
        sum.add(&packet.head()[l4..]);
        append(&self.pool, &mut packet, segment.payload, &mut sum)?;
        let field = l4 + TCP_CHECKSUM;
        packet.head_mut()[field..field + 2].copy_from_slice(&sum.checksum().to_be_bytes());
        Some(packet)
    }
}

impl tcp::Egress for Output {
    fn path_mtu(&self, _dst: IpAddr) -> usize {
        self.mtu
    }

    fn send(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<(), EgressError> {
        debug_assert!(
            segment.options.len() % 4 == 0 && segment.options.len() <= 40,
            "options fit the data offset"
        );
        let payload_len: usize = segment.payload.iter().map(|piece| piece.len()).sum();
        let dst = segment.dst.ip();
        let tcp_len = TCP_HEADER + segment.options.len() + payload_len;
        let ip_len = tcp_len + if dst.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        if ip_len > self.mtu {
            return Err(EgressError::TooBig { mtu: self.mtu });
        }
        if self.backlog.len() >= limits::TX_BACKLOG_PACKETS {
            return Err(EgressError::Full);
        }
        let frames = 1 + (ip_len / self.pool.layout().frame_size as usize) as u32;
        if payload_len > 0 && self.pool.free_frames() < self.reserve_frames() + frames {
            return Err(EgressError::Full);
        }
        let known = self.remembered(now, dst);
        // TCP is between two hosts (RFC 9293 section 3.9.2.3): no route to a group.
        let hop = match (known, self.routes.next_hop(dst)) {
            (Some(_), _) => dst,
            (None, Some(NextHop::Neighbor(hop))) => hop,
            (None, _) => return Err(EgressError::NoRoute),
        };
        let Some(mut packet) = self.build_segment(segment, tcp_len) else { return Err(EgressError::Full) };
        let Some(mac) = known.or_else(|| self.neighbors.resolve(now, hop)) else {
            self.neighbors.hold(now, hop, packet, &mut self.counters);
            return Ok(());
        };
        if known.is_none() {
            // Asked again before long, so that the table sees the neighbour used and notices when it becomes stale.
            let until = now + limits::NEIGHBOR_REQUEST_INTERVAL;
            self.last_hop = Some(LastHop { dst, mac, generation: self.neighbors.generation(), until });
        }
        set_destination(&mut packet, mac);
        self.push(packet);
        Ok(())
    }
}

/// Source and destination of an IP packet.
pub(super) fn addresses(ip: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match ip.first()? >> 4 {
        4 => {
            let [src, dst] =
                [12, 16].map(|at| ip.get(at..at + 4)?.try_into().ok().map(|octets: [u8; 4]| octets));
            Some((IpAddr::from(src?), IpAddr::from(dst?)))
        }
        6 => {
            let [src, dst] =
                [8, 24].map(|at| ip.get(at..at + 16)?.try_into().ok().map(|octets: [u8; 16]| octets));
            Some((IpAddr::from(src?), IpAddr::from(dst?)))
        }
        _ => None,
    }
}

/// Writes an IPv4 or IPv6 header without options into all of `header`. IPv4 packets are never fragmented on their way, so
/// their identification may be anything (RFC 6864 section 4.1).
pub(super) fn ip_header(
    header: &mut [u8],
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ecn: u8,
    payload_len: usize,
) {
    header.fill(0);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            (header[0], header[1]) = (0x45, ecn & 3);
            header[2..4].copy_from_slice(&((IPV4_HEADER + payload_len) as u16).to_be_bytes());
            header[6] = 0x40;
            (header[8], header[9]) = (HOP_LIMIT, protocol);
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let mut sum = Sum::ZERO;
            sum.add(header);
            header[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            (header[0], header[1]) = (0x60, (ecn & 3) << 4);
            header[4..6].copy_from_slice(&(payload_len as u16).to_be_bytes());
            (header[6], header[7]) = (protocol, HOP_LIMIT);
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
        }
        _ => debug_assert!(false, "source and destination are of one family"),
    }
}

/// RFC 9293 section 3.1, the checksum left zero.
fn tcp_header(header: &mut [u8], segment: &SegmentOut<'_>) {
    let offset = ((TCP_HEADER + segment.options.len()) / 4) as u16;
    header[0..2].copy_from_slice(&segment.src.port().to_be_bytes());
    header[2..4].copy_from_slice(&segment.dst.port().to_be_bytes());
    header[4..8].copy_from_slice(&segment.seq.0.to_be_bytes());
    header[8..12].copy_from_slice(&segment.ack.0.to_be_bytes());
    header[12..14].copy_from_slice(&(offset << 12 | segment.flags & 0x1ff).to_be_bytes());
    header[14..16].copy_from_slice(&segment.window.to_be_bytes());
    header[16..18].fill(0);
    header[18..20].copy_from_slice(&segment.urgent.to_be_bytes());
    header[20..].copy_from_slice(segment.options);
}

fn ethernet_header(header: &mut [u8], src: EthernetAddress, ethertype: EthernetProtocol) {
    header[..6].fill(0);
    header[6..12].copy_from_slice(src.as_bytes());
    header[12..14].copy_from_slice(&u16::from(ethertype).to_be_bytes());
}

fn set_destination(packet: &mut Packet, dst: EthernetAddress) {
    packet.head_mut()[..6].copy_from_slice(dst.as_bytes());
}

/// Copies `parts` to the packet's end, as the first to be put there after its headers, and adds them to `sum`. What does not
/// fit the first frame goes into further ones. `None` when the pool ran out.
fn append(pool: &PacketPool, packet: &mut Packet, parts: &[&[u8]], sum: &mut Sum) -> Option<()> {
    let mut further: Option<(Frame, usize)> = None;
    for part in parts {
        let mut rest = *part;
        if further.is_none() {
            let (here, later) = rest.split_at(packet.tailroom().min(rest.len()));
            sum.copy_and_add(packet.append(here.len())?, here);
            rest = later;
        }
        while !rest.is_empty() {
            let (mut frame, used) = match further.take() {
                Some(further) => further,
                None => (pool.alloc()?, 0),
            };
            let room = &mut frame.bytes_mut()[used..];
            let (here, later) = rest.split_at(rest.len().min(room.len()));
            let full = here.len() == room.len();
            sum.copy_and_add(&mut room[..here.len()], here);
            if full {
                packet.push_frame(frame, 0, used + here.len())?;
            } else {
                further = Some((frame, used + here.len()));
            }
            rest = later;
        }
    }
    further.map_or(Some(()), |(frame, used)| packet.push_frame(frame, 0, used))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Kind, Policy, parse};
    use crate::tcp::Egress;
    use crate::tcp::seq::SeqNumber;
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{EthernetFrame, Ipv4Packet, Ipv4Repr, Ipv6Packet, TcpPacket};

    const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
    const PEER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

    fn output(mtu: usize) -> Output {
        let pool = PacketPool::heap(PoolLayout { frames: 1024, frame_size: 2048, headroom: 128 });
        let ids = FragmentIds::new((3, 4), 0, 1);
        let mut output = Output::new(MAC, mtu, pool, Neighbors::new((1, 2)), ids);
        let links = ["192.0.2.1/24", "2001:db8::1/64"].map(|text| text.parse().unwrap());
        output.set_routes(Routes::new(links.to_vec(), Vec::new()));
        for addr in ["192.0.2.2", "2001:db8::2"] {
            let claim = super::super::neighbor::Claim::Asked;
            let addr = addr.parse().unwrap();
            output.neighbors.heard(Instant::ZERO, addr, PEER, claim, &mut Counters::default());
        }
        output
    }

    fn segment<'a>(v6: bool, options: &'a [u8], payload: &'a [&'a [u8]]) -> SegmentOut<'a> {
        let (src, dst) =
            if v6 { ("[2001:db8::1]:80", "[2001:db8::2]:4000") } else { ("192.0.2.1:80", "192.0.2.2:4000") };
        SegmentOut {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            seq: SeqNumber(0x0102_0304),
            ack: SeqNumber(0xf1f2_f3f4),
            flags: 0x118,
            window: 0xabcd,
            urgent: 7,
            options,
            payload,
            ecn: 2,
        }
    }

    fn sent(output: &mut Output) -> Vec<u8> {
        let mut bytes = Vec::new();
        output.backlog.pop_front().expect("a packet was sent").copy_to(&mut bytes);
        bytes
    }

    #[test]
    fn every_header_field_of_a_segment_is_where_it_belongs() {
        for v6 in [false, true] {
            let mut output = output(1500);
            output.send(Instant::ZERO, &segment(v6, &[1, 1, 1, 0], &[b"hello"])).unwrap();
            let bytes = sent(&mut output);
            let ethernet = EthernetFrame::new_checked(&bytes[..]).unwrap();
            assert_eq!((ethernet.src_addr(), ethernet.dst_addr()), (MAC, PEER));
            let tcp = if v6 {
                let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
                assert_eq!((ip.hop_limit(), ip.traffic_class()), (64, 2));
                TcpPacket::new_checked(&ethernet.payload()[40..40 + ip.payload().len()]).unwrap()
            } else {
                let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
                Ipv4Repr::parse(&ip, &ChecksumCapabilities::default()).unwrap();
                assert_eq!((ip.hop_limit(), ip.ecn(), ip.dont_frag()), (64, 2, true));
                TcpPacket::new_checked(&ethernet.payload()[20..20 + ip.payload().len()]).unwrap()
            };
            assert_eq!((tcp.src_port(), tcp.dst_port(), tcp.header_len()), (80, 4000, 24));
            assert_eq!((tcp.seq_number().0, tcp.ack_number().0), (0x0102_0304, 0xf1f2_f3f4_u32 as i32));
            assert_eq!((tcp.window_len(), tcp.urgent_at(), tcp.ns()), (0xabcd, 7, true));
            assert!(tcp.psh() && tcp.ack() && !tcp.syn() && !tcp.fin());
            assert_eq!((tcp.options(), tcp.payload()), (&[1, 1, 1, 0][..], &b"hello"[..]));
        }
    }

    proptest! {
        /// Whatever the pieces and the MTU, what is sent is a valid segment with the payload.
        #[test]
        fn a_segment_in_any_pieces_passes_our_own_parser(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2500), 0..4),
            options in 0usize..=10, v6: bool,
        ) {
            let mut output = output(9000);
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let options = vec![1; options * 4];
            let sent_len: usize = pieces.iter().map(|piece| piece.len()).sum();
            prop_assume!(sent_len + 100 <= 9000);
            output.send(Instant::ZERO, &segment(v6, &options, &pieces)).unwrap();
            let packet = output.backlog.pop_front().unwrap();
            let policy = Policy {
                mac: PEER,
                addresses: ["192.0.2.2/24", "2001:db8::2/64"].map(|text| text.parse().unwrap()).to_vec(),
                groups: Vec::new(),
                partial_checksums: false,
                dhcp: false,
                hash_keys: (0, 0),
            };
            let parsed = parse(&packet, &policy).map_err(|refusal| refusal.reason);
            prop_assert!(matches!(parsed, Ok(ok) if ok.kind == Kind::Tcp), "{:?}", parsed);
            let parsed = parsed.unwrap();
            let payload = packet.pieces(usize::from(parsed.payload)..parsed.end as usize).collect::<Vec<_>>().concat();
            prop_assert_eq!(payload, pieces.concat());
            // The frames are filled: no more of them than the MTU was computed with.
            prop_assert!(packet.frames() <= (packet.len() + 128).div_ceil(2048));
        }
    }

    #[test]
    fn a_segment_longer_than_the_mtu_is_refused_with_the_mtu() {
        let mut output = output(1500);
        let payload = [0; 1461];
        let error = output.send(Instant::ZERO, &segment(false, &[], &[&payload]));
        assert_eq!(error, Err(EgressError::TooBig { mtu: 1500 }));
        assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[&payload[1..]])), Ok(()));
    }

    #[test]
    fn a_full_backlog_or_a_low_pool_stops_payload() {
        let mut output = output(1500);
        let frames: Vec<_> =
            (0..1024 - limits::TX_RESERVE_FRAMES).map(|_| output.pool.alloc().unwrap()).collect();
        assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[b"x"])), Err(EgressError::Full));
        assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[])), Ok(()), "an ACK still goes");
        drop(frames);
        for _ in 1..limits::TX_BACKLOG_PACKETS {
            output.send(Instant::ZERO, &segment(false, &[], &[])).unwrap();
        }
        assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[])), Err(EgressError::Full));
    }

    #[test]
    fn there_is_no_route_to_groups_and_strangers() {
        let mut output = output(1500);
        for dst in ["198.51.100.1:1", "192.0.2.255:1", "224.0.0.1:1"] {
            let mut segment = segment(false, &[], &[]);
            segment.dst = dst.parse().unwrap();
            assert_eq!(output.send(Instant::ZERO, &segment), Err(EgressError::NoRoute), "{dst}");
        }
    }

    #[test]
    fn a_changed_neighbor_is_noticed_by_the_next_segment() {
        let mut output = output(1500);
        output.send(Instant::ZERO, &segment(false, &[], &[])).unwrap();
        let other = EthernetAddress([2, 0, 0, 0, 0, 9]);
        let claim = super::super::neighbor::Claim::Told { solicited: true, replace: true };
        let addr = "192.0.2.2".parse().unwrap();
        output.neighbors.heard(Instant::ZERO, addr, other, claim, &mut Counters::default());
        output.send(Instant::ZERO, &segment(false, &[], &[])).unwrap();
        assert_eq!(&sent(&mut output)[..6], PEER.as_bytes());
        assert_eq!(&sent(&mut output)[..6], other.as_bytes());
    }

    #[test]
    fn packets_for_an_unknown_neighbor_wait_for_it() {
        let mut output = output(1500);
        let mut unknown = segment(false, &[], &[]);
        unknown.dst = "192.0.2.3:1".parse().unwrap();
        output.send(Instant::ZERO, &unknown).unwrap();
        assert!(!output.is_waiting());
        let claim = super::super::neighbor::Claim::Asked;
        let addr = unknown.dst.ip();
        let waited = output.neighbors.heard(Instant::ZERO, addr, PEER, claim, &mut Counters::default());
        output.release(PEER, waited);
        assert_eq!(&sent(&mut output)[..6], PEER.as_bytes());
    }

    #[test]
    fn a_long_packet_is_cut_and_one_beyond_a_router_to_1280_bytes() {
        let mut output = output(1500);
        let mut ip = vec![0; 40 + 1400];
        let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        ip_header(&mut ip[..40], src, dst, protocol::UDP, 0, 1400);
        output.send_ip(Instant::ZERO, &ip);
        assert_eq!((output.backlog.len(), output.counters.fragments_tx), (1, 0));
        let gateway = crate::config::Route { destination: "::/0".parse().unwrap(), gateway: dst };
        output.routes = Routes::new(vec!["2001:db8::1/64".parse().unwrap()], vec![gateway]);
        ip_header(&mut ip[..40], src, "2001:db8:1::9".parse().unwrap(), protocol::UDP, 0, 1400);
        output.send_ip(Instant::ZERO, &ip);
        assert_eq!((output.backlog.len(), output.counters.fragments_tx), (3, 2));
        assert!(output.backlog.iter().skip(1).all(|packet| packet.len() <= ETHERNET_HEADER + IPV6_MTU_MIN));
    }
}
