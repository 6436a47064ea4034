//! A received packet's way through the shard: parsed once, then by kind to ARP, reassembly, TCP, UDP or ICMP, or to the shard
//! that has its connection.

use core::net::IpAddr;

use smoltcp::wire::{EthernetAddress, EthernetFrame};

use super::Shard;
use super::links::{Message, Visit};
use crate::counters::DropReason;
use crate::net::egress::{ETHERNET_HEADER, IPV6_HEADER};
use crate::net::icmp::{self, Complaint};
use crate::net::neighbor::Claim;
use crate::net::path_mtu::{PathMtu, Witness};
use crate::net::reassembly::{Outcome, last_next_header};
use crate::net::udp::{UdpFault, UdpTrouble};
use crate::net::{Heard, arp, ndp};
use crate::packet::Packet;
use crate::parse::{Kind, Parsed, Refusal, parse, parse_after, protocol};
use crate::tcp::{IcmpError, IcmpVerdict, Received};
use crate::time::{Duration, Instant};

pub(super) const DHCP_CLIENT_PORT: u16 = 68;
const DHCP_SERVER_PORT: u16 = 67;
/// How long one sight of a neighbour's data counts.
const DATA_INTERVAL: Duration = Duration::from_secs(1);

/// How many neighbours are remembered for that: one for each value of the address's last bits.
pub(super) const LAST_DATA: usize = 32;

/// A neighbour whose data was told to the neighbour table of late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LastData {
    link: usize,
    addr: IpAddr,
    mac: EthernetAddress,
    at: Instant,
}

impl Shard {
    /// A packet from this shard's queue. `merging`: TCP waits in `gro` until the burst is complete.
    pub(super) fn receive(&mut self, now: Instant, mut packet: Packet, merging: bool) {
        let parsed = match parse_after(&packet, &self.policies[self.rx_link], &mut self.last_parsed) {
            Ok(parsed) => parsed,
            Err(refusal) => return self.refuse(now, refusal, &packet),
        };
        self.counters.rx_partial_checksums += u64::from(parsed.partial_checksum);
        if let Some(gro) = self.gro.as_mut().filter(|_| merging && parsed.kind == Kind::Tcp) {
            // What a router may have to cut for its next link stays single.
            let whole = self.config.forward.is_none() || !is_cuttable(&packet, parsed);
            return gro.push_parsed(packet, parsed, whole, &mut self.counters);
        }
        packet.parsed = *parsed;
        // Place for tunnel: decapsulate and parse the inner packet.
        if packet.parsed.kind == Kind::Fragment {
            if packet.parsed.transit && self.forwards_fragments() {
                return self.dispatch(now, packet, None);
            }
            let Some((whole, longest)) = self.reassemble(now, &packet) else { return };
            return match self.gro.as_mut().filter(|_| merging && whole.parsed.kind == Kind::Tcp) {
                // It waits, to stay in order, and is not merged.
                Some(gro) => gro.push(whole, false, &mut self.counters),
                None => self.dispatch(now, whole, Some(longest)),
            };
        }
        // Place for steering by `packet.parsed.hash`.
        self.dispatch(now, packet, None);
    }

    /// A router's packets meet the rules and are forwarded or come on to here; a host's meet theirs where they are delivered.
    ///
    /// `fragments`: it was put together from fragments, of which the longest was an IP packet of so many bytes.
    pub(super) fn dispatch(&mut self, now: Instant, packet: Packet, fragments: Option<usize>) {
        if self.config.forward.is_some() && packet.parsed.kind != Kind::Arp {
            self.route(now, packet, fragments);
        } else {
            self.deliver(now, packet, fragments.is_some());
        }
    }

    /// As `dispatch`, for what waited for GRO.
    // Inlined, as all on the way to TCP is, so that the packet, which is large, is not moved at every step.
    #[inline(always)]
    pub(super) fn dispatch_merged(&mut self, now: Instant, packet: Packet) {
        if self.config.forward.is_some() || packet.parsed.kind != Kind::Tcp {
            return self.dispatch(now, packet, None);
        }
        self.see_neighbor(now, &packet);
        self.tcp_segment(now, Visit::start(self.index), packet);
    }

    /// Local delivery.
    #[inline]
    pub(super) fn deliver(&mut self, now: Instant, packet: Packet, reassembled: bool) {
        let visit = Visit::start(self.index);
        match packet.parsed.kind {
            Kind::Arp => self.arp(now, &packet),
            Kind::Tcp => {
                self.see_neighbor(now, &packet);
                self.tcp_segment(now, visit, packet);
            }
            Kind::Udp => {
                self.see_neighbor(now, &packet);
                self.udp_datagram(now, visit, &packet);
            }
            Kind::Icmpv4 | Kind::Icmpv6 => self.icmp_message(now, visit, &packet, reassembled),
            Kind::Fragment => self.counters.drop(DropReason::BadFragment),
            Kind::Other | Kind::Broken | Kind::Unparsed => self.other_protocol(now, &packet),
        }
    }

    /// A packet that another shard had no use for.
    pub(super) fn take_over(&mut self, now: Instant, visit: Visit, bytes: &[u8], parsed: Parsed) {
        let Some(mut packet) = Packet::copy_from(&self.pool, bytes) else {
            return self.counters.drop(DropReason::NoFrame);
        };
        packet.parsed = parsed;
        self.counters.rx_taken_over += 1;
        match parsed.kind {
            Kind::Tcp => self.tcp_segment(now, visit, packet),
            Kind::Udp => self.udp_datagram(now, visit, &packet),
            _ => self.icmp_message(now, visit, &packet, false),
        }
    }

    fn refuse(&mut self, now: Instant, refusal: Refusal, packet: &Packet) {
        self.counters.drop(refusal.reason);
        if refusal.reason == DropReason::SpoofedSelf
            && let Some((addr, mac)) = claimed_by(packet)
        {
            self.output.address_conflict(now, addr, mac);
        }
        if let Some(problem) = refusal.answer.filter(|_| self.own) {
            let complaint = Complaint::Parameter(problem);
            icmp::complain_about(now, complaint, packet, &self.policies[self.rx_link], &mut self.output);
        }
    }

    fn arp(&mut self, now: Instant, packet: &Packet) {
        let bytes = &packet.head()[ETHERNET_HEADER..packet.parsed.end as usize];
        let heard =
            arp::receive(now, self.rx_link, bytes, &self.policies[self.rx_link], self.own, &mut self.output);
        self.tell_of_neighbor(heard);
    }

    /// A neighbour was heard: the shard whose packets wait for it may be another.
    fn tell_of_neighbor(&mut self, heard: Option<Heard>) {
        if let Some(heard) = heard {
            self.tell_others(&Message::Neighbor(heard));
        }
    }

    /// Tells all other shards; those that cannot take it are counted.
    pub(super) fn tell_others(&mut self, message: &Message) {
        for _ in 0..self.links.send_all(message) {
            self.counters.drop(DropReason::ShardChannelFull);
        }
    }

    /// A transport packet from a neighbour confirms its address. Where the kernel answers ARP for us, the neighbour may
    /// never have asked the stack, and its data is the first that is heard of it. Returns until when, while
    /// routes are as they are, nothing has to be said of this sender again; `None`: its next packet has to be looked at.
    pub(super) fn see_neighbor(&mut self, now: Instant, packet: &Packet) -> Option<Instant> {
        let link = self.rx_link;
        let addr = packet.parsed.flow.src;
        let mac = EthernetFrame::new_unchecked(packet.head()).src_addr();
        let last_byte = match addr {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(addr) => addr.octets()[15],
        };
        let place = usize::from(last_byte) % LAST_DATA;
        let told = self.last_data[place]
            .filter(|last| last.link == link && last.addr == addr && last.mac == mac)
            .map(|last| last.at + DATA_INTERVAL)
            .filter(|again| now < *again);
        if told.is_some() {
            return told;
        }
        let again = now + DATA_INTERVAL;
        if !self.output.routes.is_on(link, addr) {
            return Some(again);
        }
        if self.own && !self.output.links[link].neighbors.knows(addr) {
            return None;
        }
        self.last_data[place] = Some(LastData { link, addr, mac, at: now });
        self.output.heard(now, Heard { link, addr, mac, claim: Claim::Data });
        Some(again)
    }

    #[inline(always)]
    fn tcp_segment(&mut self, now: Instant, visit: Visit, packet: Packet) {
        if self.output.gate.is_some() && !self.gate_lets_in(now, &packet) {
            return;
        }
        match self.tcp.receive(now, packet, &mut self.counters) {
            Received::Done => {}
            left => self.tcp_left(now, visit, left),
        }
    }

    /// Whether the rules let in a packet for TCP, where it is for one of ours; others meet them later.
    fn gate_lets_in(&mut self, now: Instant, packet: &Packet) -> bool {
        !self.tcp.takes(packet) || !self.gate_asks_for(packet) || self.admits(now, packet)
    }

    /// What TCP gave back.
    fn tcp_left(&mut self, now: Instant, visit: Visit, left: Received) {
        match left {
            Received::Done => {}
            Received::Merged(packet) => {
                packet.into_packets().for_each(|packet| self.tcp_segment(now, visit, packet));
            }
            Received::NoConnection(packet) => {
                if !self.hand_over(visit, packet.parsed.flow.dst_port % self.count, &packet)
                    && (self.tcp.takes(&packet) || self.admits(now, &packet))
                {
                    self.reject_segment(now, &packet);
                }
            }
        }
    }

    fn udp_datagram(&mut self, now: Instant, visit: Visit, packet: &Packet) {
        let flow = packet.parsed.flow;
        if self.is_dhcp_answer(packet) {
            return self.dhcp_answer(now, visit, packet);
        }
        let unicast = self.policies[self.rx_link].is_ours(flow.dst);
        if self.iface.udp_takes(flow.dst, flow.dst_port, unicast) {
            if !self.admits(now, packet) {
                return;
            }
            let Self { iface, output, scratch, .. } = self;
            let bytes = contiguous(packet, scratch);
            iface.udp_receive(now, &packet.parsed, unicast, bytes, output);
        } else if !self.hand_over(visit, flow.dst_port % self.count, packet) {
            if !self.admits(now, packet) {
                return;
            }
            self.counters.drop(DropReason::UdpNoSocket);
            if self.own && unicast {
                let complaint = Complaint::PortUnreachable;
                icmp::complain_about(now, complaint, packet, &self.policies[self.rx_link], &mut self.output);
            }
        }
    }

    /// Whether a packet is for the DHCP client of the link that it came by.
    pub(super) fn is_dhcp_answer(&self, packet: &Packet) -> bool {
        let (kind, flow) = (packet.parsed.kind, packet.parsed.flow);
        self.policies[self.rx_link].dhcp
            && kind == Kind::Udp
            && flow.dst.is_ipv4()
            && (flow.src_port, flow.dst_port) == (DHCP_SERVER_PORT, DHCP_CLIENT_PORT)
    }

    /// DHCP's answers are the first shard's, whichever queue they come to.
    fn dhcp_answer(&mut self, now: Instant, visit: Visit, packet: &Packet) {
        let unspecified = packet.parsed.flow.src.is_unspecified();
        match &mut self.dhcp {
            Some(dhcp) if !unspecified => {
                self.counters.udp_rx += 1;
                packet.copy_to(&mut self.scratch);
                dhcp.receive(now, &self.scratch, &mut self.output);
            }
            None if visit.is_first() && self.index != 0 => {
                self.hand_over(visit, 0, packet);
            }
            _ => self.counters.drop(DropReason::UdpNoSocket),
        }
    }

    fn icmp_message(&mut self, now: Instant, visit: Visit, packet: &Packet, reassembled: bool) {
        let parsed = packet.parsed;
        let ipv6 = parsed.kind == Kind::Icmpv6;
        let kind = packet.head()[usize::from(parsed.l4)];
        self.counters.icmp_rx += u64::from(visit.is_first());
        let echo_request = kind == if ipv6 { 128 } else { 8 };
        let echo_reply = kind == if ipv6 { 129 } else { 0 };
        let membership = ipv6 && matches!(kind, 130..=132 | 143);
        // A reply may be for another shard, which then asks its own gate.
        let elsewhere = echo_reply && visit.is_first() && self.count > 1;
        if !elsewhere && !self.admits(now, packet) {
            return;
        }
        if ipv6 && ndp::is_ndp(kind) {
            self.neighbor_discovery(now, packet, reassembled);
        } else if icmp::is_error(ipv6, kind) {
            self.icmp_error_message(now, ipv6, packet);
        } else if echo_reply {
            self.echo_reply(visit, packet);
        } else if self.own && (echo_request && self.answers_echo(now, parsed.flow.dst) || membership) {
            let Self { iface, output, scratch, .. } = self;
            iface.receive(now, contiguous(packet, scratch), output);
        } else {
            self.counters.drop(DropReason::IcmpIgnored);
        }
    }

    /// RFC 5508 REQ-10a3: the router's own addresses answer.
    /// Echo requests to IPv4 groups are ignored, as RFC 1122 section 3.2.2.6 allows; the others cost a bit of the ICMP budget.
    fn answers_echo(&mut self, now: Instant, dst: IpAddr) -> bool {
        (dst.is_ipv6() || self.policies[self.rx_link].is_ours(dst)) && self.output.may_send_icmp(now)
    }

    fn neighbor_discovery(&mut self, now: Instant, packet: &Packet, reassembled: bool) {
        let parsed = &packet.parsed;
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (parsed.flow.src, parsed.flow.dst) else { return };
        // RFC 6980: neighbour discovery does not come in fragments.
        let bytes = packet.head().get(usize::from(parsed.l4)..parsed.end as usize);
        let Some(bytes) = bytes.filter(|_| !reassembled) else {
            return self.counters.drop(DropReason::BadNeighborDiscovery);
        };
        let from = EthernetFrame::new_unchecked(packet.head()).src_addr();
        let message = ndp::Message { link: self.rx_link, src, dst, hop_limit: parsed.hop_limit, from, bytes };
        let said = ndp::receive(now, message, &self.policies[self.rx_link], self.own, &mut self.output);
        self.tell_of_neighbor(said.heard);
        if let Some(asker) = said.asked {
            self.router_asked(now, self.rx_link, asker);
        }
    }

    fn icmp_error_message(&mut self, now: Instant, ipv6: bool, packet: &Packet) {
        let parsed = &packet.parsed;
        self.scratch.clear();
        let pieces = packet.pieces(usize::from(parsed.l4)..parsed.end as usize);
        pieces.for_each(|piece| self.scratch.extend_from_slice(piece));
        match icmp::read_error(ipv6, &self.scratch, &self.policies[self.rx_link]) {
            icmp::Received::Malformed => self.counters.drop(DropReason::BadIcmp),
            icmp::Received::Ignored => self.counters.drop(DropReason::IcmpIgnored),
            icmp::Received::Tcp(error) => self.icmp_error(now, Visit::start(self.index), &error),
            icmp::Received::Udp(fault) => self.udp_fault(Visit::start(self.index), &fault),
        }
    }

    /// An ICMP error about a connection of this or another shard.
    pub(super) fn icmp_error(&mut self, now: Instant, visit: Visit, error: &IcmpError) {
        match self.tcp.icmp_error(now, error, &mut self.counters) {
            IcmpVerdict::NotOurs => {}
            IcmpVerdict::Taken => return,
            IcmpVerdict::PathMtu(mtu) => {
                let dst = error.tuple.remote.ip();
                return self.learn_path_mtu(now, PathMtu { dst, mtu, witness: Witness::Connection });
            }
        }
        let owner = error.tuple.local.port() % self.count;
        match visit.next(self.index, owner, self.count) {
            Some((to, visit)) => {
                if !self.links.send(to, Message::IcmpError(visit, *error)) {
                    self.counters.drop(DropReason::ShardChannelFull);
                }
            }
            None => self.counters.drop(DropReason::BadIcmp),
        }
    }

    fn learn_path_mtu(&mut self, now: Instant, told: PathMtu) {
        if self.output.learn_path_mtu(now, told) {
            self.tell_others(&Message::PathMtu(told));
        }
    }

    /// An ICMP error about a datagram of this or another shard.
    pub(super) fn udp_fault(&mut self, visit: Visit, fault: &UdpFault) {
        if self.iface.udp_fault(fault) {
            self.counters.icmp_errors_rx += 1;
            if let UdpTrouble::TooBig { mtu } = fault.what {
                let dst = fault.remote.ip();
                self.learn_path_mtu(self.polled_at, PathMtu { dst, mtu, witness: Witness::Datagram });
            }
            return;
        }
        match visit.next(self.index, fault.local.port() % self.count, self.count) {
            Some((to, visit)) => {
                if !self.links.send(to, Message::UdpFault(visit, *fault)) {
                    self.counters.drop(DropReason::ShardChannelFull);
                }
            }
            None => self.counters.drop(DropReason::IcmpIgnored),
        }
    }

    fn echo_reply(&mut self, visit: Visit, packet: &Packet) {
        let parsed = &packet.parsed;
        let at = usize::from(parsed.l4);
        let ident = u16::from_be_bytes([packet.head()[at + 4], packet.head()[at + 5]]);
        let owner = ident % self.count;
        if owner != self.index {
            if visit.is_first() {
                self.hand_over(visit, owner, packet);
            } else {
                self.counters.drop(DropReason::IcmpIgnored);
            }
            return;
        }
        self.scratch.clear();
        packet.pieces(at..parsed.end as usize).for_each(|piece| self.scratch.extend_from_slice(piece));
        let (from, hop_limit) = (parsed.flow.src, parsed.hop_limit);
        if !self.pings.receive(from, hop_limit, &self.scratch, &mut self.counters) {
            self.counters.drop(DropReason::IcmpIgnored);
        }
    }

    fn other_protocol(&mut self, now: Instant, packet: &Packet) {
        if !self.admits(now, packet) {
            return;
        }
        let parsed = &packet.parsed;
        let ipv6 = parsed.flow.dst.is_ipv6();
        match parsed.flow.protocol {
            protocol::IGMP if self.own && !ipv6 => {
                let Self { iface, output, scratch, .. } = self;
                iface.receive(now, contiguous(packet, scratch), output);
            }
            protocol::NO_NEXT_HEADER if ipv6 => self.counters.drop(DropReason::UnknownProtocol),
            _ => {
                self.counters.drop(DropReason::UnknownProtocol);
                if self.own {
                    let headers = packet.head().get(usize::from(parsed.l3)..usize::from(parsed.l4));
                    let pointer = headers.map_or(0, last_next_header) as u32;
                    let complaint = Complaint::ProtocolUnreachable(pointer);
                    icmp::complain_about(
                        now,
                        complaint,
                        packet,
                        &self.policies[self.rx_link],
                        &mut self.output,
                    );
                }
            }
        }
    }

    /// Gives a packet to the next shard of its round; `false`: there is none left to ask.
    fn hand_over(&mut self, visit: Visit, owner: u16, packet: &Packet) -> bool {
        let Some((to, visit)) = visit.next(self.index, owner, self.count) else { return false };
        let mut bytes = self.links.buffer(packet.len());
        packet.segments().for_each(|segment| bytes.extend_from_slice(segment));
        let (link, parsed) = (self.rx_link, packet.parsed);
        if self.links.send(to, Message::Packet { visit, link, bytes, parsed }) {
            self.counters.rx_handed_over += 1;
        } else {
            self.counters.drop(DropReason::ShardChannelFull);
        }
        true
    }

    /// The packet, if it is whole now, and the length of its longest fragment.
    fn reassemble(&mut self, now: Instant, packet: &Packet) -> Option<(Packet, usize)> {
        self.counters.fragments_rx += 1;
        let counters = &mut self.counters;
        let (frame, longest) = match self.reassembly.receive(now, packet, &mut |reason| counters.drop(reason))
        {
            Outcome::Waiting => return None,
            Outcome::Refused(refusal) => {
                self.refuse(now, refusal, packet);
                return None;
            }
            Outcome::Whole { frame, longest } => (frame, longest),
        };
        let Some(mut whole) = Packet::copy_from(&self.pool, &frame) else {
            self.counters.drop(DropReason::NoFrame);
            return None;
        };
        self.counters.reassembled += 1;
        match parse(&whole, &self.policies[self.rx_link]) {
            Ok(parsed) => whole.parsed = parsed,
            Err(refusal) => {
                self.refuse(now, refusal, &whole);
                return None;
            }
        }
        Some((whole, longest))
    }

    /// Gives up packets whose fragments did not come in time; the sender is told when the first one had come (RFC 1122
    /// section 3.3.2, RFC 8200 section 4.5).
    pub(super) fn expire_fragments(&mut self, now: Instant) {
        while let Some(first) = self.reassembly.expire(now) {
            self.counters.drop(DropReason::FragmentTimeout);
            if let Some(first) = first.filter(|_| self.own) {
                icmp::complain(
                    now,
                    Complaint::ReassemblyTimeout,
                    &first,
                    &self.policies[self.rx_link],
                    &mut self.output,
                );
            }
        }
    }
}

/// Whether routers may fragment it: IPv4 without DF (RFC 791 section 3.1).
pub(super) fn may_be_cut(packet: &Packet) -> bool {
    is_cuttable(packet, &packet.parsed)
}

fn is_cuttable(packet: &Packet, parsed: &Parsed) -> bool {
    parsed.flow.dst.is_ipv4() && packet.head()[usize::from(parsed.l3) + 6] & 0x40 == 0
}

/// The IP packet as one run of bytes without IPv6 extension headers, as smoltcp wants it; copied only where it must be.
fn contiguous<'a>(packet: &'a Packet, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let parsed = &packet.parsed;
    let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), parsed.end as usize);
    let extended = parsed.flow.dst.is_ipv6() && l4 != l3 + IPV6_HEADER;
    if !extended && packet.frames() == 1 {
        return &packet.head()[l3..end];
    }
    scratch.clear();
    let header = if extended { l3..l3 + IPV6_HEADER } else { l3..l4 };
    scratch.extend_from_slice(&packet.head()[header]);
    packet.pieces(l4..end).for_each(|piece| scratch.extend_from_slice(piece));
    if extended {
        scratch[4..6].copy_from_slice(&((end - l4) as u16).to_be_bytes());
        scratch[6] = parsed.flow.protocol;
    }
    scratch
}

/// Who claims our address in a packet that [`parse`] refused as spoofed: neighbour discovery, which no router passes on (RFC 4861
/// section 3.1: hop limit 255). Any other packet from our address may be our own, brought back by a loop of routes.
fn claimed_by(packet: &Packet) -> Option<(IpAddr, EthernetAddress)> {
    let ip = packet.head().get(ETHERNET_HEADER..)?;
    if ip.first()? >> 4 != 6 || (*ip.get(6)?, *ip.get(7)?) != (protocol::ICMPV6, 255) {
        return None;
    }
    let addr = IpAddr::from(<[u8; 16]>::try_from(ip.get(8..24)?).ok()?);
    Some((addr, EthernetFrame::new_unchecked(packet.head()).src_addr()))
}
