//! The way out: an IP packet or TCP segment gets its next hop, its neighbour's Ethernet address and its frames, and waits in
//! the shard's backlog for the device.
//!
//! TCP's segments ([`tcp::Egress`]) come as super-segments, whose hop is looked up and whose headers are written once; they
//! are cut into frames by [`crate::offload::gso`]. One that is not to be cut is written straight into its frame. What smoltcp and ICMP send comes as whole IP packets and is cut into
//! fragments where it is too long (see [`super::fragment`]).

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use rand_core::RngCore;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet};

use super::announce::Step;
use super::fragment::{FragmentIds, Fragments, write_header, write_ipv4};
use super::host_gate::{HostGate, Sent};
use super::last_hop::LastHop;
use super::link::{LastNeighbor, Link};
use super::neighbor::Due;
use super::path_mtu::{PathMtu, PathMtus, Witness};
use super::route::{Hop, NextHop, Routes};
use super::{Heard, arp, ndp};
use crate::counters::{DropReason, Fresh};
use crate::device::Device;
use crate::flow::gate::Change;
use crate::flow::nat::rewrite::{Checksum, rewrite, rewrite_error};
use crate::limits;
use crate::offload::gso::{self, Template};
use crate::packet::checksum::Sum;
use crate::packet::{Packet, PacketBatch, PacketPool, PoolLayout, Writer};
use crate::parse::protocol;
use crate::tcp::header::Flags;
use crate::tcp::{self, EgressError, SegmentOut};
use crate::time::{Duration, Instant};

pub(crate) const ETHERNET_HEADER: usize = 14;
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
pub(super) const TCP_HEADER: usize = 20;
/// Ethernet, IPv6 and TCP with all its options: these are always in one frame.
const HEADERS_MAX: usize = ETHERNET_HEADER + IPV6_HEADER + 60;
/// What every IPv6 link carries (RFC 8200 section 5).
const IPV6_MTU_MIN: usize = 1280;

/// What all senders of a shard share: routes, neighbours, frames and the backlog.
#[derive(Debug)]
pub(crate) struct Output {
    /// At least one.
    pub(crate) links: Vec<Link>,
    pub(crate) routes: Routes,
    /// Raised whenever routes, addresses or rules change.
    pub(crate) stamp: u32,
    /// Neighbour advertisements say so.
    pub(crate) is_router: bool,
    /// Counts of everything below TCP; the shard adds them to its own.
    pub(crate) counters: Fresh,
    ids: FragmentIds,
    pool: PacketPool,
    /// TCP may send super-segments.
    gso: bool,
    /// Of paths, as connections learned.
    path_mtus: PathMtus,
    /// The same as UDP sockets were told.
    datagram_mtus: PathMtus,
    last_hops: [Option<LastHop>; LAST_HOPS],
    icmp_budget: IcmpBudget,
    conflict_logged: Option<Instant>,
    /// The rules for what this host receives and sends.
    pub(crate) gate: Option<Box<HostGate>>,
    /// TCP was told [`EgressError::Full`].
    refused: bool,
}

/// How many are remembered: one for each value of the destination's last bits.
const LAST_HOPS: usize = 16;

fn last_byte(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(addr) => addr.octets()[15],
    }
}

/// How long [`LastHop`] and [`LastNeighbor`] are believed: the neighbour table must hear of use to know when to ask again.
const LAST_HOP_LIFETIME: Duration = Duration::from_millis(100);

/// The largest IP packet that `frames_max` frames of a pool hold behind an Ethernet header; 0 when the first frame has no
/// room for the headers.
pub(crate) fn mtu_in_frames(layout: PoolLayout, frames_max: usize) -> usize {
    let frame = (layout.frame_size - layout.headroom) as usize;
    if frame < HEADERS_MAX {
        return 0;
    }
    frame.saturating_mul(frames_max.max(1)).saturating_sub(ETHERNET_HEADER)
}

impl Output {
    /// `links`: at least one; `gso`: TCP may send super-segments.
    pub(crate) fn new(links: Vec<Link>, gso: bool, pool: PacketPool, ids: FragmentIds, now: Instant) -> Self {
        let hasher = links[0].neighbors.hasher();
        let (path_mtus, datagram_mtus) = (PathMtus::new(hasher), PathMtus::new(hasher));
        Self {
            links,
            routes: Routes::default(),
            stamp: 0,
            is_router: false,
            counters: Fresh::default(),
            ids,
            pool,
            gso,
            path_mtus,
            datagram_mtus,
            last_hops: [None; LAST_HOPS],
            icmp_budget: IcmpBudget { tokens: limits::ICMP_REPLIES_PER_SECOND, filled: now },
            conflict_logged: None,
            gate: None,
            refused: false,
        }
    }

    /// Replaces the routes; all neighbours are forgotten, the links may be others.
    pub(crate) fn set_routes(&mut self, routes: Routes) {
        self.routes = routes;
        self.stamp = self.stamp.wrapping_add(1);
        self.last_hops = [None; LAST_HOPS];
        self.path_mtus.clear();
        self.datagram_mtus.clear();
        self.links.iter_mut().for_each(|link| link.neighbors.clear(&mut self.counters));
    }

    /// Takes in what a path carries; whether that is news.
    pub(crate) fn learn_path_mtu(&mut self, now: Instant, told: PathMtu) -> bool {
        let PathMtu { dst, mtu, witness } = told;
        // RFC 8200 section 5 and Linux's `min_pmtu`.
        let least = if dst.is_ipv6() { IPV6_MTU_MIN } else { limits::PATH_MTU_MIN_IPV4.into() };
        if usize::from(mtu) < least || usize::from(mtu) >= self.link_mtu_to(dst) {
            return false;
        }
        match witness {
            Witness::Connection => self.path_mtus.learn(now, dst, mtu),
            Witness::Datagram => self.datagram_mtus.learn(now, dst, mtu),
        }
    }

    /// Forgets what was learned too long ago.
    pub(crate) fn expire_path_mtus(&mut self, now: Instant) {
        self.path_mtus.expire(now);
        self.datagram_mtus.expire(now);
    }

    /// The longest IP packet that goes out whole: the path's MTU as far as it is known. Of IPv6 beyond a router, what no
    /// socket sends keeps to the minimum that every link carries (RFC 8200 section 5): nobody could tell a true Packet Too
    /// Big about it from a forged one.
    fn packet_mtu(&self, dst: IpAddr, hop: Hop, protocol: u8) -> usize {
        let known = [self.path_mtus.get(dst), self.datagram_mtus.get(dst)];
        let mtu = known.into_iter().flatten().map(usize::from).fold(self.links[hop.link].mtu, usize::min);
        let beyond_router = matches!(hop.next, NextHop::Neighbor(neighbor) if neighbor != dst);
        if dst.is_ipv6() && beyond_router && protocol != protocol::UDP { mtu.min(IPV6_MTU_MIN) } else { mtu }
    }

    /// The MTU of the link that leads to `dst`.
    fn link_mtu_to(&self, dst: IpAddr) -> usize {
        match &self.links[..] {
            [only] => only.mtu,
            links => links[self.routes.next_hop(dst).map_or(0, |hop| hop.link)].mtu,
        }
    }

    /// Whether some link takes a whole packet.
    pub(crate) fn has_room(&self) -> bool {
        self.links.iter().any(Link::has_room)
    }

    /// Whether packets wait for the device, or TCP found no room or no frame since the last call.
    pub(crate) fn is_blocked(&mut self) -> bool {
        core::mem::take(&mut self.refused) || self.is_waiting()
    }

    /// Sends a whole IP packet (header and transport checksum set, no IPv4 options), in fragments where it must be. What
    /// cannot be sent is dropped and counted.
    pub(crate) fn send_ip(&mut self, now: Instant, packet: &mut [u8]) {
        self.send_ip_on(now, None, packet);
    }

    /// As [`Output::send_ip`]; broadcasts and multicasts go by `link`, if given.
    pub(crate) fn send_ip_on(&mut self, now: Instant, link: Option<usize>, packet: &mut [u8]) {
        if let Some(gate) = &mut self.gate {
            match gate.send(now, packet, &self.routes, &mut self.counters) {
                Sent::AsItIs => {}
                Sent::Translated(change) => {
                    let changed = match change {
                        Change::Packet(to) => rewrite(packet, &to, Checksum::Whole),
                        Change::Error { addresses: (src, dst), quoted } => {
                            rewrite_error(packet, src, dst, &quoted)
                        }
                    };
                    if changed.is_err() {
                        return self.counters.drop(DropReason::BadIcmp);
                    }
                }
                Sent::Refused => return,
            }
        }
        self.send_unfiltered(now, link, packet);
    }

    /// As [`Output::send_ip`], for an ICMP error about a packet in transit: rules may keep it back, nothing translates it.
    pub(crate) fn send_untranslated(&mut self, now: Instant, packet: &mut [u8]) {
        if let Some(gate) = &mut self.gate
            && !gate.may_tell(now, packet, &self.routes, &mut self.counters)
        {
            return;
        }
        self.send_unfiltered(now, None, packet);
    }

    /// As [`Output::send_ip_on`], past the rules.
    fn send_unfiltered(&mut self, now: Instant, link: Option<usize>, packet: &mut [u8]) {
        let (src, dst, ethertype, number) = if packet[0] >> 4 == 4 {
            let header = Ipv4Packet::new_unchecked(&*packet);
            (header.src_addr().into(), header.dst_addr().into(), EthernetProtocol::Ipv4, packet[9])
        } else {
            let header = Ipv6Packet::new_unchecked(&*packet);
            (header.src_addr().into(), header.dst_addr().into(), EthernetProtocol::Ipv6, packet[6])
        };
        let Some(mut hop) = self.routes.next_hop_from(Some(src), dst) else {
            self.counters.drop(DropReason::NoRoute);
            return;
        };
        if let (Some(link), NextHop::Group(_)) = (link, hop.next) {
            hop.link = link;
        }
        if !self.links[hop.link].has_room() {
            self.counters.drop(DropReason::TxQueueFull);
            return;
        }
        let mtu = self.packet_mtu(dst, hop, number);
        let mut fragments = Fragments::new(packet, mtu, &mut self.ids);
        let cut = fragments.is_cut();
        while let Some((header, payload)) = fragments.next() {
            let mac = self.links[hop.link].mac;
            let Some(frame) = build(&self.pool, mac, ethertype, &[header, &packet[payload]]) else {
                self.counters.drop(DropReason::NoFrame);
                return;
            };
            self.counters.fragments_tx += u64::from(cut);
            self.deliver(now, hop, frame);
        }
    }

    /// Sends a frame to a known Ethernet address.
    pub(crate) fn send_frame(
        &mut self,
        link: usize,
        to: EthernetAddress,
        ethertype: EthernetProtocol,
        parts: &[&[u8]],
    ) {
        if !self.links[link].has_room() {
            self.counters.drop(DropReason::TxQueueFull);
            return;
        }
        match build(&self.pool, self.links[link].mac, ethertype, parts) {
            Some(packet) => self.enqueue(link, to, packet),
            None => self.counters.drop(DropReason::NoFrame),
        }
    }

    /// Takes in what was heard of a neighbour and sends what waited for it.
    pub(crate) fn heard(&mut self, now: Instant, heard: Heard) {
        let Heard { link, addr, mac, claim } = heard;
        for packet in self.links[link].neighbors.heard(now, addr, mac, claim, &mut self.counters) {
            if self.links[link].has_room() {
                self.enqueue(link, mac, packet);
            } else {
                self.counters.drop(DropReason::TxQueueFull);
            }
        }
    }

    /// Asks for neighbours whose time has come; packets whose neighbour did not answer go to `failed`, counted.
    pub(crate) fn poll_neighbors(&mut self, now: Instant, failed: &mut Vec<Packet>) {
        for link in 0..self.links.len() {
            while let Some(due) = self.links[link].neighbors.due(now) {
                match due {
                    Due::Solicit { addr: IpAddr::V4(addr), to } => arp::request(self, link, addr, to),
                    Due::Solicit { addr: IpAddr::V6(addr), to } => ndp::solicit(self, link, addr, to),
                    Due::Failed { addr, packets } => {
                        if !packets.is_empty() {
                            tracing::debug!(neighbor = %addr, packets = packets.len(), "neighbour does not answer");
                        }
                        packets.iter().for_each(|_| self.counters.drop(DropReason::NeighborUnreachable));
                        failed.extend(packets);
                    }
                }
            }
        }
    }

    /// Probes for and announces addresses of ours whose time has come.
    pub(crate) fn announce_addresses(&mut self, now: Instant) {
        for link in 0..self.links.len() {
            while let Some(step) = self.links[link].announcer.due(now) {
                match step {
                    Step::Probe(_) => self.counters.address_probes_tx += 1,
                    Step::Announce(_) => self.counters.address_announcements_tx += 1,
                }
                match step {
                    Step::Probe(IpAddr::V4(addr)) => arp::probe(self, link, addr),
                    Step::Probe(IpAddr::V6(addr)) => ndp::probe(self, link, addr),
                    Step::Announce(IpAddr::V4(addr)) => arp::announce(self, link, addr),
                    Step::Announce(IpAddr::V6(addr)) => ndp::announce(self, link, addr),
                }
            }
        }
    }

    /// Sends the router advertisements whose time has come.
    pub(crate) fn advertise(&mut self, now: Instant, rng: &mut impl RngCore) {
        for link in 0..self.links.len() {
            while let Some((asker, message)) =
                self.links[link].advertiser.as_mut().and_then(|advertiser| advertiser.due(now, rng))
            {
                let mut message = message.to_vec();
                ndp::advertise_router(self, link, asker, &mut message);
            }
        }
    }

    /// Another station uses an address of ours (RFC 5227 section 2.4: it is counted and, at most every ten seconds, logged).
    pub(crate) fn address_conflict(&mut self, now: Instant, addr: IpAddr, mac: EthernetAddress) {
        self.counters.address_conflicts += 1;
        self.links.iter_mut().for_each(|link| link.announcer.conflict(addr));
        let quiet = self
            .conflict_logged
            .is_some_and(|at| now.saturating_since(at) < limits::ADDRESS_CONFLICT_LOG_INTERVAL);
        if !quiet {
            self.conflict_logged = Some(now);
            tracing::warn!(%addr, %mac, "another station claims our address; give one of the two another");
        }
    }

    /// An identification for the fragments of a packet.
    pub(super) fn fragment_id(&mut self, src: IpAddr, dst: IpAddr, protocol: u8) -> u32 {
        self.ids.next(src, dst, protocol)
    }

    /// A frame of these parts, without its destination; `None`: no frame is free.
    pub(super) fn build_frame(
        &self,
        src: EthernetAddress,
        ethertype: EthernetProtocol,
        parts: &[&[u8]],
    ) -> Option<Packet> {
        build(&self.pool, src, ethertype, parts)
    }

    /// Takes one ICMP message from the budget; `false`, counted, when it is used up (RFC 4443 section 2.4 (f), RFC 5508 REQ-10f).
    pub(crate) fn may_send_icmp(&mut self, now: Instant) -> bool {
        let granted = self.icmp_budget.take(now);
        if !granted {
            self.counters.drop(DropReason::IcmpRateLimited);
        }
        granted
    }

    /// Whether packets wait for the device.
    pub(crate) fn is_waiting(&self) -> bool {
        self.links.iter().any(|link| !link.backlog.is_empty())
    }

    /// Gives the backlogs to the device; returns whether it took anything.
    pub(crate) fn flush(&mut self, device: &mut dyn Device) -> bool {
        let mut sent = false;
        for (link, Link { backlog, traffic, .. }) in self.links.iter_mut().enumerate() {
            if backlog.is_empty() {
                continue;
            }
            let before = bytes_in(backlog);
            let packets = device.transmit_on(link, backlog);
            let left = if backlog.is_empty() { 0 } else { bytes_in(backlog) };
            let sent_bytes = (before - left) as u64;
            traffic.tx_packets += packets as u64;
            traffic.tx_bytes += sent_bytes;
            self.counters.sent(packets as u64, sent_bytes);
            sent |= packets > 0;
        }
        sent
    }

    /// Gives a packet, complete but for its Ethernet destination, to its next hop.
    pub(super) fn deliver(&mut self, now: Instant, hop: Hop, packet: Packet) {
        let Hop { link, next } = hop;
        match next {
            NextHop::Group(mac) => self.enqueue(link, mac, packet),
            NextHop::Neighbor(addr) => match self.resolve(now, link, addr) {
                Some(mac) => self.enqueue(link, mac, packet),
                None => self.links[link].neighbors.hold(now, addr, packet, &mut self.counters),
            },
        }
    }

    /// The Ethernet address of a neighbour, if known. What a router forwards mostly goes to one for a while.
    fn resolve(&mut self, now: Instant, link: usize, addr: IpAddr) -> Option<EthernetAddress> {
        let Link { neighbors, last_neighbor, .. } = &mut self.links[link];
        let generation = neighbors.generation();
        if let Some(LastNeighbor { mac, .. }) = last_neighbor
            .filter(|last| last.addr == addr && last.generation == generation && now < last.until)
        {
            return Some(mac);
        }
        let mac = neighbors.resolve(now, addr)?;
        let until = now + LAST_HOP_LIFETIME;
        *last_neighbor = Some(LastNeighbor { addr, mac, generation, until });
        Some(mac)
    }

    pub(super) fn enqueue(&mut self, link: usize, to: EthernetAddress, mut packet: Packet) {
        EthernetFrame::new_unchecked(packet.head_mut()).set_dst_addr(to);
        self.links[link].backlog.push_back(packet);
    }

    /// Next hop of a TCP segment: its link, and the Ethernet address if known, else the neighbour.
    fn tcp_hop(
        &mut self,
        now: Instant,
        src: IpAddr,
        dst: IpAddr,
    ) -> Result<(usize, Result<EthernetAddress, IpAddr>), EgressError> {
        let place = usize::from(last_byte(dst)) % LAST_HOPS;
        if let Some(hop) = &self.last_hops[place]
            && hop.dst == dst
            && hop.src == src
            && hop.generation == self.links[hop.link].neighbors.generation()
            && now < hop.until
        {
            return Ok((hop.link, Ok(hop.mac)));
        }
        let hop = self.routes.next_hop_from(Some(src), dst);
        let Some(Hop { link, next: NextHop::Neighbor(addr) }) = hop else {
            self.counters.drop(DropReason::NoRoute);
            return Err(EgressError::NoRoute);
        };
        let neighbors = &mut self.links[link].neighbors;
        let Some(mac) = neighbors.resolve(now, addr) else { return Ok((link, Err(addr))) };
        let (generation, until) = (neighbors.generation(), now + LAST_HOP_LIFETIME);
        let ours = self.links[link].mac;
        self.last_hops[place] = Some(LastHop::new((src, dst), (link, ours), mac, (generation, until)));
        Ok((link, Ok(mac)))
    }

    /// The headers of a segment with all of its payload, for `to`.
    /// RFC 9293 section 3.1, MUST-2.
    fn template(&self, segment: &SegmentOut<'_>, macs: Macs) -> Option<Template> {
        let l4 = tcp_at(segment);
        let mut headers = [0; HEADERS_MAX];
        let headers = headers.get_mut(..l4 + TCP_HEADER + segment.options.len())?;
        write_headers(headers, segment, 0, macs);
        Template::new(headers, ETHERNET_HEADER, l4, Flags(segment.first_flags))
    }

    /// A segment that is not to be cut, with `payload_len` bytes of payload, written where it goes; `None` when no frame is
    /// free or it does not fit one.
    fn single(&self, segment: &SegmentOut<'_>, payload_len: usize, macs: Macs) -> Option<Packet> {
        let l4 = tcp_at(segment);
        let headers = l4 + TCP_HEADER + segment.options.len();
        let mut packet = Packet::alloc(&self.pool)?;
        let frame = packet.append(headers + payload_len)?;
        if let (IpAddr::V4(src), IpAddr::V4(dst)) = (segment.src.ip(), segment.dst.ip()) {
            write_ipv4_segment(frame, segment, (src, dst), macs)?;
            return Some(packet);
        }
        let (headers, mut room) = frame.split_at_mut(headers);
        write_headers(headers, segment, payload_len, macs);
        let tcp = &mut headers[l4..];
        let len = (tcp.len() + payload_len) as u32;
        let mut sum = Sum::pseudo_header(segment.src.ip(), segment.dst.ip(), protocol::TCP, len);
        sum.add(tcp);
        for piece in segment.payload {
            let (here, rest) = room.split_at_mut(piece.len());
            sum.copy_and_add(here, piece);
            room = rest;
        }
        tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
        Some(packet)
    }
}

/// Source and destination on the link.
type Macs = (EthernetAddress, EthernetAddress);

/// All headers for `payload_len` bytes of payload but for the TCP checksum, which is 0.
fn write_headers(headers: &mut [u8], segment: &SegmentOut<'_>, payload_len: usize, (from, to): Macs) {
    let (src, dst) = (segment.src.ip(), segment.dst.ip());
    let ethertype = if dst.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    let Some((link, rest)) = headers.split_first_chunk_mut::<ETHERNET_HEADER>() else { return };
    link[..6].copy_from_slice(&to.0);
    link[6..12].copy_from_slice(&from.0);
    link[12..].copy_from_slice(&u16::from(ethertype).to_be_bytes());
    let (ip, tcp) = rest.split_at_mut(tcp_at(segment) - ETHERNET_HEADER);
    let tos = segment.ip.traffic_class(segment.ecn);
    let len = tcp.len() + payload_len;
    write_header(ip, src, dst, protocol::TCP, len, tos, segment.ip.hop_limit);
    write_tcp(tcp, segment);
}

/// A whole TCP segment in an IPv4 packet in an Ethernet frame: as [`write_headers`] and a checksum afterwards do it, but what is
/// written is summed on the way. `None`: `frame` has not exactly its length.
pub(super) fn write_ipv4_segment(
    frame: &mut [u8],
    segment: &SegmentOut<'_>,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    (from, to): Macs,
) -> Option<()> {
    const HEADERS: usize = ETHERNET_HEADER + IPV4_HEADER + TCP_HEADER;
    let ip_len = frame.len() - ETHERNET_HEADER;
    let (headers, rest) = frame.split_first_chunk_mut::<HEADERS>()?;
    let (link, packet) = headers.split_first_chunk_mut::<ETHERNET_HEADER>()?;
    let (ip, tcp) = packet.split_first_chunk_mut::<IPV4_HEADER>()?;
    let tcp = tcp.first_chunk_mut::<TCP_HEADER>()?;
    link[..6].copy_from_slice(&to.0);
    link[6..12].copy_from_slice(&from.0);
    link[12..].copy_from_slice(&u16::from(EthernetProtocol::Ipv4).to_be_bytes());
    let tos = segment.ip.traffic_class(segment.ecn);
    write_ipv4(ip, src, dst, protocol::TCP, ip_len - IPV4_HEADER, tos, segment.ip.hop_limit);

    let (options, mut room) = rest.split_at_mut_checked(segment.options.len())?;
    options.copy_from_slice(segment.options);
    let offset = ((TCP_HEADER + segment.options.len()) / 4) as u32;
    let words = [
        u32::from(segment.src.port()) << 16 | u32::from(segment.dst.port()),
        segment.seq.0,
        segment.ack.0,
        offset << 28 | u32::from(segment.flags & 0x0fff) << 16 | u32::from(segment.window),
        u32::from(segment.urgent),
    ];
    let mut sum = Sum::pseudo_header(src.into(), dst.into(), protocol::TCP, (ip_len - IPV4_HEADER) as u32);
    for (place, word) in tcp.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_be_bytes();
        sum.add_long(word);
    }
    for word in segment.options.as_chunks::<4>().0 {
        sum.add_long(u32::from_be_bytes(*word));
    }
    for piece in segment.payload {
        let (here, rest) = room.split_at_mut_checked(piece.len())?;
        sum.copy_and_add(here, piece);
        room = rest;
    }
    tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
    room.is_empty().then_some(())
}

impl tcp::Egress for Output {
    fn path_mtu(&self, dst: IpAddr) -> usize {
        let link = self.link_mtu_to(dst);
        self.path_mtus.get(dst).map_or(link, |mtu| link.min(mtu.into()))
    }

    fn link_mtu(&self, dst: IpAddr) -> usize {
        self.link_mtu_to(dst)
    }

    /// As Linux's negative advice: the first hop is asked whether it is there, and the path's MTU is tried anew.
    /// RFC 9293 section 3.8.3, MUST-20.
    fn doubt(&mut self, now: Instant, dst: IpAddr) {
        self.last_hops = [None; LAST_HOPS];
        self.path_mtus.forget(dst);
        if let Some(Hop { link, next: NextHop::Neighbor(addr) }) = self.routes.next_hop(dst) {
            self.links[link].neighbors.doubt(now, addr);
        }
    }

    fn super_segment_max(&self) -> usize {
        if self.gso { limits::TCP_BYTES_PER_TURN } else { 0 }
    }

    fn send(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<usize, EgressError> {
        if let Some(sent) = self.send_short(now, segment) {
            return Ok(sent);
        }
        let (payload_len, mss) = (segment.len(), segment.mss);
        let (link, hop) = self.tcp_hop(now, segment.src.ip(), segment.dst.ip())?;
        let mtu = self.links[link].mtu;
        let ip_header = if segment.dst.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        if ip_header + TCP_HEADER + segment.options.len() + payload_len.min(mss) > mtu {
            return Err(EgressError::TooBig { mtu });
        }
        let spare_frames = self.spare_frames();
        if !self.links[link].has_room() || payload_len > 0 && spare_frames == 0 {
            self.refused = true;
            return Err(EgressError::Full);
        }
        if let Some(gate) = &mut self.gate {
            match gate.send_segment(now, segment, link, &self.routes, &mut self.counters) {
                Sent::AsItIs => {}
                Sent::Translated(Change::Packet(to)) => {
                    let translated = SegmentOut { src: to.source(), dst: to.destination(), ..*segment };
                    let (link, hop) = self.tcp_hop(now, to.src(), to.dst())?;
                    return self.emit(now, &translated, link, hop);
                }
                // As if the network had lost it.
                Sent::Translated(Change::Error { .. }) | Sent::Refused => return Ok(payload_len),
            }
        }
        self.emit(now, segment, link, hop)
    }
}

impl Output {
    /// The short way of a segment that is not to be cut, no rule looks at, and whose hop is remembered; `None`: it goes the
    /// general way, which comes to the same frame.
    #[inline]
    fn send_short(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Option<usize> {
        let (SocketAddr::V4(src), SocketAddr::V4(dst)) = (&segment.src, &segment.dst) else { return None };
        let payload = match segment.payload {
            [] => &[],
            [piece] => *piece,
            _ => return None,
        };
        let payload_len = payload.len();
        let hop = self.last_hops[usize::from(dst.ip().octets()[3]) % LAST_HOPS].as_ref()?;
        let link = self.links.get_mut(hop.link)?;
        let is_short = self.gate.is_none()
            && hop.is_between(*src.ip(), *dst.ip())
            && hop.generation == link.neighbors.generation()
            && now < hop.until
            && payload_len <= segment.mss
            && IPV4_HEADER + TCP_HEADER + segment.options.len() + payload_len <= link.mtu
            && link.has_room();
        if !is_short || spare_frames(&self.pool) == 0 {
            return None;
        }
        // Written where it waits.
        link.backlog.push_back(Packet::alloc(&self.pool)?);
        let packet = link.backlog.back_mut()?;
        if hop.write(packet, segment, (src.port(), dst.port()), payload).is_none() {
            link.backlog.pop_back();
            return None;
        }
        Some(payload_len)
    }

    /// Frames that TCP's payload may have.
    fn spare_frames(&self) -> usize {
        spare_frames(&self.pool)
    }

    /// Writes a segment into frames for its next hop; returns how much of the payload.
    fn emit(
        &mut self,
        now: Instant,
        segment: &SegmentOut<'_>,
        link: usize,
        hop: Result<EthernetAddress, IpAddr>,
    ) -> Result<usize, EgressError> {
        let (payload_len, mss) = (segment.len(), segment.mss);
        let Link { mac, mtu, .. } = self.links[link];
        // For a neighbour that is not known yet the address is filled in when it is.
        let macs = (mac, hop.unwrap_or(EthernetAddress([0; 6])));
        if payload_len <= mss
            && let Some(packet) = self.single(segment, payload_len, macs)
        {
            let Link { backlog, neighbors, .. } = &mut self.links[link];
            match hop {
                Ok(_) => backlog.push_back(packet),
                Err(neighbor) => neighbors.hold(now, neighbor, packet, &mut self.counters),
            }
            return Ok(payload_len);
        }
        let Some(template) = self.template(segment, macs) else {
            return Err(EgressError::TooBig { mtu });
        };
        let count = gso::segments(payload_len, mss);
        let frames = template.frames(&self.pool, payload_len.min(mss)).max(1);
        let spare_frames = self.spare_frames();
        let Link { backlog, neighbors, .. } = &mut self.links[link];
        let room = limits::TX_BACKLOG_PACKETS.saturating_sub(backlog.len()).max(1);
        let most = count.min(room).min((spare_frames / frames).max(1));
        let made = template.cut(&self.pool, segment.payload, mss, most, |packet| match hop {
            Ok(_) => backlog.push_back(packet),
            Err(neighbor) => neighbors.hold(now, neighbor, packet, &mut self.counters),
        });
        self.refused |= made < count;
        if made == 0 {
            return Err(EgressError::Full);
        }
        if count > 1 {
            self.counters.gso_super_segments += 1;
            self.counters.gso_segments += made as u64;
        }
        Ok(payload_len.min(made * mss))
    }
}

/// Bytes of all packets.
#[inline]
fn bytes_in(backlog: &PacketBatch) -> usize {
    let (front, back) = backlog.as_slices();
    let mut bytes = 0;
    front.iter().for_each(|packet| bytes += packet.len());
    back.iter().for_each(|packet| bytes += packet.len());
    bytes
}

/// See [`Output::spare_frames`].
fn spare_frames(pool: &PacketPool) -> usize {
    let reserve = limits::TX_RESERVE_FRAMES.min(pool.layout().frames / 8);
    pool.free_frames().saturating_sub(reserve) as usize
}

/// Where the TCP header of a segment begins.
fn tcp_at(segment: &SegmentOut<'_>) -> usize {
    ETHERNET_HEADER + if segment.dst.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER }
}

/// RFC 9293 section 3.1.
fn write_tcp(header: &mut [u8], segment: &SegmentOut<'_>) {
    let words = (header.len() / 4) as u16;
    let Some((fixed, options)) = header.split_first_chunk_mut::<TCP_HEADER>() else { return };
    fixed[0..2].copy_from_slice(&segment.src.port().to_be_bytes());
    fixed[2..4].copy_from_slice(&segment.dst.port().to_be_bytes());
    fixed[4..8].copy_from_slice(&segment.seq.0.to_be_bytes());
    fixed[8..12].copy_from_slice(&segment.ack.0.to_be_bytes());
    fixed[12..14].copy_from_slice(&(words << 12 | segment.flags & 0x0fff).to_be_bytes());
    fixed[14..16].copy_from_slice(&segment.window.to_be_bytes());
    fixed[16..18].fill(0);
    fixed[18..20].copy_from_slice(&segment.urgent.to_be_bytes());
    options.copy_from_slice(segment.options);
}

/// The Ethernet header, its destination still to be set.
fn write_ethernet(header: &mut [u8], src: EthernetAddress, ethertype: EthernetProtocol) {
    let mut frame = EthernetFrame::new_unchecked(header);
    frame.set_src_addr(src);
    frame.set_ethertype(ethertype);
}

fn build(
    pool: &PacketPool,
    src: EthernetAddress,
    ethertype: EthernetProtocol,
    parts: &[&[u8]],
) -> Option<Packet> {
    let mut packet = Packet::alloc(pool)?;
    write_ethernet(packet.append(ETHERNET_HEADER)?, src, ethertype);
    let mut writer = Writer::new(pool, packet);
    for part in parts {
        writer.write(part, &mut Sum::default())?;
    }
    writer.finish()
}

/// A token bucket: ICMP messages a second, with bursts of a second's worth.
#[derive(Debug)]
struct IcmpBudget {
    tokens: u32,
    filled: Instant,
}

impl IcmpBudget {
    fn take(&mut self, now: Instant) -> bool {
        let rate = limits::ICMP_REPLIES_PER_SECOND;
        let each = Duration::from_secs(1) / rate;
        let earned = now.saturating_since(self.filled).as_nanos() / each.as_nanos();
        if earned >= u128::from(rate) {
            (self.tokens, self.filled) = (rate, now);
        } else {
            let earned = earned as u32;
            self.tokens = rate.min(self.tokens + earned);
            self.filled += each * earned;
        }
        let granted = self.tokens > 0;
        self.tokens -= u32::from(granted);
        granted
    }
}

#[cfg(test)]
mod tests;
