//! A router's way for a packet: to the shard of its flow (`homes`), reverse path, rules and translation, then to a socket of its
//! own or on to another link (RFC 1812 section 5.2).
//!
//! ```text
//! the flow's shard? ─ reverse path ─ gate: raw, track, nat PREROUTING ─ for us?
//!   ├─ filter INPUT ─ translate ─▶ deliver
//!   └─ hop limit, route, MTU ─ filter FORWARD, nat POSTROUTING ─ translate, hop limit, MSS ─▶ net::forward: the frames go out
//! ```
//!
//! What is said of a packet (ICMP errors) is said before it is changed, so that its sender knows it again.

use core::net::IpAddr;

use smoltcp::wire::{EthernetAddress, EthernetFrame};

use super::Shard;
use super::receive::may_be_cut;
use crate::config::ReversePath;
use crate::counters::DropReason;
use crate::flow::FlowTuple;
use crate::flow::conntrack::Hit;
use crate::flow::filter::TcpMss;
use crate::flow::gate::{Change, Passage};
use crate::flow::nat::rewrite::{Checksum, Translation, rewrite, rewrite_error};
use crate::net::egress::Output;
use crate::net::forward::{decrement_hop_limit, note_route};
use crate::net::host_gate::Onward;
use crate::net::icmp::{self, Complaint};
use crate::net::mss::limit_mss;
use crate::net::route::{Hop, NextHop};
use crate::net::way::{RecentWay, Tracked, Way, takes_way};
use crate::offload::gso::cut_merged;
use crate::packet::Packet;
use crate::parse::{FlowKey, Kind};
use crate::time::Instant;

/// IP and TCP headers without options, by IP version: what the MSS leaves out (RFC 6691 section 2).
const HEADERS_IPV4: usize = 40;
const HEADERS_IPV6: usize = 60;

impl Shard {
    /// A parsed IP packet that came by [`Shard::rx_link`]. `fragments`: the length of the longest fragment that it was put
    /// together from.
    pub(super) fn route(&mut self, now: Instant, packet: Packet, fragments: Option<usize>) {
        // Before there is a lease no route leads to the server; and rules are not asked about a lease, as with Linux' clients.
        if self.is_dhcp_answer(&packet) {
            return self.deliver(now, packet, fragments.is_some());
        }
        if self.count == 1 {
            return self.route_here(now, packet, fragments);
        }
        if let Some(packet) = self.claim(packet, fragments) {
            self.route_here(now, packet, fragments);
        }
    }

    /// As [`Shard::route`], in the shard that has the packet's flow.
    pub(super) fn route_here(&mut self, now: Instant, mut packet: Packet, fragments: Option<usize>) {
        let link = self.rx_link;
        if fragments.is_none()
            && let Some((to, mac)) = self.recent_way(now, &mut packet)
        {
            return self.output.forward_known(to, mac, packet);
        }
        let sender_told = self.see_neighbor(now, &packet);
        let Output { gate, links, stamp, .. } = &mut self.output;
        let onward = match gate {
            Some(gate) if fragments.is_none() => {
                gate.follow(now, &packet, link, ip_len(&packet), links, *stamp)
            }
            _ => Onward::Unknown(None),
        };
        let (arrived, read) = match onward {
            Onward::Known(way, tracked) => {
                return self.forward_known(packet, &way, tracked, sender_told);
            }
            Onward::Arrived(passage) => (Some(passage), None),
            Onward::Unknown(read) => (None, read),
        };
        if !packet.parsed.transit
            && arrived.is_none()
            && let Some((tuple, outside)) = self.turning_point(&packet)
        {
            return self.turn_back(now, packet, tuple, outside, fragments);
        }
        if arrived.is_none() && !self.is_believed(packet.parsed.flow.src) {
            return self.drop_whole(DropReason::ReversePath, &packet);
        }
        let passage = match &mut self.output.gate {
            Some(gate) if arrived.is_none() => {
                match gate.arrive(now, &packet, read, link, &self.output.routes) {
                    Ok(passage) => passage,
                    Err(refused) => return self.refused_by_rule(now, refused, &packet),
                }
            }
            _ => arrived,
        };
        self.go_on(now, packet, passage, fragments, sender_told);
    }

    /// A packet that has arrived: for us, or for another link.
    // Inlined, so that the packet, which is large, is not moved.
    #[inline(always)]
    pub(super) fn go_on(
        &mut self,
        now: Instant,
        packet: Packet,
        passage: Option<Passage>,
        fragments: Option<usize>,
        sender_told: Option<Instant>,
    ) {
        let link = self.rx_link;
        let change = match (&self.output.gate, &passage) {
            (Some(gate), Some(passage)) => gate.change(passage),
            _ => None,
        };
        match change.map(|change| destination(&change)) {
            Some(dst) if self.policies[link].is_ours(dst) => {
                self.deliver_routed(now, packet, passage, fragments);
            }
            Some(dst) => self.forward(now, packet, passage, dst, fragments, sender_told),
            None if packet.parsed.transit => {
                let dst = packet.parsed.flow.dst;
                self.forward(now, packet, passage, dst, fragments, sender_told);
            }
            None => self.deliver_routed(now, packet, passage, fragments),
        }
    }

    /// Whether fragments in transit go on as they are: no rule has to see the packet whole. Else they are put together first, in whatever
    /// order they come (RFC 4787 REQ-14).
    pub(super) fn forwards_fragments(&self) -> bool {
        self.output.gate.as_ref().is_none_or(|gate| gate.is_open())
    }

    /// RFC 3704.
    pub(super) fn is_believed(&self, src: IpAddr) -> bool {
        let way = || self.output.routes.next_hop(src);
        let is_link_local = match src {
            IpAddr::V4(src) => src.is_unspecified(),
            IpAddr::V6(src) => src.is_unspecified() || src.is_unicast_link_local(),
        };
        match self.config.forward.as_ref().map(|forward| forward.reverse_path) {
            None | Some(ReversePath::Off) => true,
            _ if is_link_local => true,
            Some(ReversePath::Loose) => way().is_some(),
            Some(ReversePath::Strict) => way().is_some_and(|hop| hop.link == self.rx_link),
        }
    }

    /// For this host, once more rules agree.
    fn deliver_routed(
        &mut self,
        now: Instant,
        mut packet: Packet,
        mut passage: Option<Passage>,
        fragments: Option<usize>,
    ) {
        let mut change = None;
        if let (Some(gate), Some(passage)) = (&mut self.output.gate, &mut passage) {
            match gate.deliver(now, passage, self.rx_link, &self.output.routes) {
                Ok(changed) => change = changed,
                Err(refused) => return self.refused_by_rule(now, refused, &packet),
            }
        }
        let Some(change) = change else { return self.deliver(now, packet, fragments.is_some()) };
        if !apply(&mut packet, &change) {
            return self.drop_whole(DropReason::BadIcmp, &packet);
        }
        let flow = packet.parsed.flow;
        packet.parsed.set_flow(flow, self.policies[self.rx_link].hash_keys);
        if !packet.is_merged() {
            return self.deliver(now, packet, fragments.is_some());
        }
        // The headers of what was merged are each one's own: they are changed as they would be on the way out.
        let parsed = packet.parsed;
        let mut single = Vec::new();
        cut_merged(packet, |packet| single.push(packet));
        for mut packet in single {
            packet.parsed.set_flow(parsed.flow, self.policies[self.rx_link].hash_keys);
            packet.parsed.partial_checksum = false;
            self.deliver(now, packet, fragments.is_some());
        }
    }

    /// On the way of the packets before it in its flow, of which it is one.
    fn forward_known(
        &mut self,
        mut packet: Packet,
        way: &Way,
        tracked: Tracked,
        sender_told: Option<Instant>,
    ) {
        if let (Kind::Udp, Some(until)) = (packet.parsed.kind, sender_told) {
            let sender = EthernetFrame::new_unchecked(packet.head()).src_addr();
            let way = Way { until: way.until.min(until), ..*way };
            self.recent_ways.offer(&packet.parsed, sender, way, tracked);
        }
        if let Some(to) = tracked.to {
            match way.translation {
                Some(translation) if is_made_ready(&packet) => make(&mut packet, translation, &to),
                _ => return self.forward_translated(packet, way, to),
            }
        }
        self.output.forward_known(way.to.into(), way.mac, packet);
    }

    /// As [`Shard::forward_known`], for what takes more than the change of a few sums: several packets in one, a checksum left to the
    /// device, an identification that means something.
    #[inline(never)]
    fn forward_translated(&mut self, mut packet: Packet, way: &Way, to: FlowTuple) {
        let src = packet.parsed.flow.src;
        if !apply(&mut packet, &Change::Packet(to)) {
            return self.drop_whole(DropReason::BadIcmp, &packet);
        }
        if to.src() != src {
            self.output.renumber(&mut packet);
        }
        self.output.forward_known(way.to.into(), way.mac, packet);
    }

    pub(super) fn forward(
        &mut self,
        now: Instant,
        mut packet: Packet,
        mut passage: Option<Passage>,
        dst: IpAddr,
        fragments: Option<usize>,
        sender_told: Option<Instant>,
    ) {
        let from = self.rx_link;
        let parsed = packet.parsed;
        let sender = EthernetFrame::new_unchecked(packet.head()).src_addr();
        if parsed.hop_limit <= 1 {
            return self.cannot_forward(now, DropReason::HopLimitExceeded, Complaint::TimeExceeded, &packet);
        }
        let hop = match self.output.routes.next_hop(dst) {
            Some(hop @ Hop { next: NextHop::Neighbor(_), .. }) => hop,
            // Broadcasts of another link are not for others to send (RFC 2644).
            Some(_) => return self.drop_whole(DropReason::NotForUs, &packet),
            None => return self.cannot_forward(now, DropReason::NoRoute, Complaint::NetUnreachable, &packet),
        };
        let mtu = self.output.links[hop.link].mtu;
        let cut_to = match fit(&packet, mtu, fragments) {
            Fit::Whole => None,
            Fit::Cut(len) => Some(len),
            Fit::TooLong => {
                let mtu = mtu.min(usize::from(u16::MAX)) as u16;
                return self.cannot_forward(
                    now,
                    DropReason::PacketTooBig,
                    Complaint::TooBig { mtu },
                    &packet,
                );
            }
        };
        // A flow's second packet finds the way for those that follow.
        let is_plain = cut_to.is_none() && fragments.is_none() && takes_way(&parsed);
        let known = passage.as_ref().and_then(Passage::hit).filter(|_| is_plain);
        let mut change = None;
        if let (Some(gate), Some(passage)) = (&mut self.output.gate, &mut passage) {
            match gate.forward(now, passage, from, hop.link, &self.output.routes) {
                Ok(changed) => change = changed,
                Err(refused) => return self.refused_by_rule(now, refused, &packet),
            }
            if parsed.kind == Kind::Tcp
                && let Some(mss) = gate.mss(passage)
            {
                let headers = if dst.is_ipv4() { HEADERS_IPV4 } else { HEADERS_IPV6 };
                let most = match mss {
                    TcpMss::Set(mss) => mss,
                    TcpMss::ClampToPmtu => (mtu.min(self.output.links[from].mtu) - headers) as u16,
                };
                limit_mss(&mut packet, most, if cut_to.is_some() { 0 } else { mtu });
            }
        }
        if let Some(change) = change
            && !apply(&mut packet, &change)
        {
            return self.drop_whole(DropReason::BadIcmp, &packet);
        }
        if packet.parsed.flow.src != parsed.flow.src {
            self.output.renumber(&mut packet);
        }
        decrement_hop_limit(&mut packet);
        note_route(now, &mut packet, self.output.routes.address_of(hop.link, false), &self.policies[from]);
        self.output.forward(now, hop, packet, cut_to);
        if let Some(hit) = known {
            self.remember_way(hit, from, hop);
        } else if let (true, None, Some(until)) = (is_plain, &self.output.gate, sender_told)
            && let Some(way) = self.way_by(from, hop)
        {
            let way = Way { until: way.until.min(until), ..way };
            self.recent_ways.set(&parsed, sender, way, None);
        }
    }

    /// A packet of a known flow, without a part of its own in what became of it, went by `hop`.
    fn remember_way(&mut self, hit: Hit, from: usize, hop: Hop) {
        let way = self.way_by(from, hop);
        if let (Some(gate), Some(way)) = (&mut self.output.gate, way) {
            gate.remember(hit, way);
        }
    }

    /// The way that a packet went just now, without a translation.
    fn way_by(&self, from: usize, hop: Hop) -> Option<Way> {
        let NextHop::Neighbor(addr) = hop.next else { return None };
        let last = self.output.links[hop.link].last_neighbor.filter(|last| last.addr == addr)?;
        Some(Way {
            from: from as u16,
            to: hop.link as u16,
            mac: last.mac,
            translation: None,
            neighbors: last.generation,
            until: last.until,
            stamp: self.output.stamp,
        })
    }

    /// Link and Ethernet address that the packets before it of its flow went to, as what they became, where no rule has to see
    /// it. `None`: it is as it was.
    #[inline]
    fn recent_way(&mut self, now: Instant, packet: &mut Packet) -> Option<(usize, EthernetAddress)> {
        let parsed = &packet.parsed;
        if !takes_way(parsed) {
            return None;
        }
        let sender = EthernetFrame::new_unchecked(packet.head()).src_addr();
        let Output { gate, links, stamp, .. } = &mut self.output;
        let RecentWay { way, tracked, .. } = self.recent_ways.get(parsed, sender)?;
        let len = ip_len(packet);
        if !way.holds(now, self.rx_link, len, links, *stamp) {
            return None;
        }
        match (gate, tracked) {
            (None, None) if parsed.transit => {}
            (Some(gate), Some(tracked)) if tracked.to.is_none() || is_made_ready(packet) => {
                if !gate.follow_datagram(now, tracked, len) {
                    return None;
                }
                if let (Some(translation), Some(to)) = (way.translation, &tracked.to) {
                    make(packet, translation, to);
                }
            }
            _ => return None,
        }
        let found = (usize::from(way.to), way.mac);
        #[cfg(test)]
        {
            self.recent_ways.taken += 1;
        }
        Some(found)
    }

    pub(super) fn drop_whole(&mut self, reason: DropReason, packet: &Packet) {
        (0..packet.packets()).for_each(|_| self.counters.drop(reason));
    }

    pub(super) fn cannot_forward(
        &mut self,
        now: Instant,
        reason: DropReason,
        complaint: Complaint,
        packet: &Packet,
    ) {
        self.drop_whole(reason, packet);
        let policy = &self.policies[self.rx_link];
        icmp::complain_about(now, complaint, packet, policy, &mut self.output);
    }

    /// A packet's neighbour does not answer, and no socket here sent it: its sender is told.
    pub(super) fn tell_of_unreachable(&mut self, now: Instant, packet: &Packet) {
        if self.config.forward.is_some() {
            icmp::complain_about(
                now,
                Complaint::HostUnreachable,
                packet,
                &self.policies[0],
                &mut self.output,
            );
        }
    }
}

/// Whether its flow's translation, as it was computed before, is all that a packet needs: it is one, its sums are whole, and its
/// identification means nothing.
fn is_made_ready(packet: &Packet) -> bool {
    !packet.is_merged() && !packet.parsed.partial_checksum && !may_be_cut(packet)
}

/// As [`apply`] for a packet that needs no more ([`is_made_ready`]), of a flow whose `translation` to `to` this is.
#[inline]
fn make(packet: &mut Packet, translation: Translation, to: &FlowTuple) {
    let l3 = usize::from(packet.parsed.l3);
    translation.make(&mut packet.head_mut()[l3..], to);
}

/// Gives the packet's headers the addresses and ports of `change`; `false`: they are not whole. Of a merged one, those of
/// the first. The flow's hash is not that of the new one.
pub(super) fn apply(packet: &mut Packet, change: &Change) -> bool {
    let parsed = packet.parsed;
    let checksum = if parsed.partial_checksum { Checksum::Partial } else { Checksum::Whole };
    let bytes = &mut packet.head_mut()[usize::from(parsed.l3)..];
    let flow = match change {
        Change::Packet(to) => {
            if rewrite(bytes, to, checksum).is_err() {
                return false;
            }
            let ports = matches!(parsed.kind, Kind::Tcp | Kind::Udp);
            let (src_port, dst_port) = if ports { (to.src_port, to.dst_port) } else { (0, 0) };
            FlowKey { src: to.src(), dst: to.dst(), src_port, dst_port, ..parsed.flow }
        }
        Change::Error { addresses: (src, dst), quoted } => {
            if rewrite_error(bytes, *src, *dst, quoted).is_err() {
                return false;
            }
            FlowKey { src: *src, dst: *dst, ..parsed.flow }
        }
    };
    packet.parsed.flow = flow;
    true
}

pub(super) fn destination(change: &Change) -> IpAddr {
    match change {
        Change::Packet(tuple) => tuple.dst(),
        Change::Error { addresses: (_, dst), .. } => *dst,
    }
}

/// How a packet goes out on a link.
enum Fit {
    Whole,
    /// In fragments that are IP packets of at most so many bytes.
    Cut(usize),
    TooLong,
}

/// The length of the IP packet; of a merged one, of the longest of those that it consists of.
fn ip_len(packet: &Packet) -> usize {
    let parsed = &packet.parsed;
    if packet.is_merged() {
        usize::from(parsed.payload - parsed.l3) + packet.segment_payload() as usize
    } else {
        parsed.end as usize - usize::from(parsed.l3)
    }
}

/// RFC 791 section 3.2, RFC 8200 section 5, RFC 4787 REQ-13, REQ-13a: IPv4 without DF may be cut; what came in fragments goes on in fragments no longer
/// than those.
fn fit(packet: &Packet, mtu: usize, fragments: Option<usize>) -> Fit {
    let len = ip_len(packet);
    match fragments {
        Some(longest) if longest <= mtu => Fit::Cut(longest),
        None if len <= mtu => Fit::Whole,
        _ if may_be_cut(packet) => Fit::Cut(mtu),
        _ => Fit::TooLong,
    }
}
