//! What forwarding changes in a packet, and its way out: hop limit, Ethernet addresses, checksums left to a device, and
//! fragments where it does not fit the link (RFC 1812 section 5.2, RFC 791 section 3.2, RFC 8200 section 4.5).

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{EthernetAddress, EthernetFrame};

use super::egress::{IPV6_HEADER, Output};
use super::fragment::fill_ipv4_checksum;
use super::reassembly::last_next_header;
use super::route::Hop;
use crate::counters::DropReason;
use crate::offload::gso::cut_merged;
use crate::packet::Packet;
use crate::packet::checksum::{Sum, update};
use crate::parse::{Kind, Policy, RECORD_ROUTE, TIMESTAMP, TIMESTAMP_PRESPECIFIED, protocol};
use crate::time::Instant;

const FRAGMENT_HEADER: usize = 8;
/// An IPv4 option that goes into every fragment has this bit in its type (RFC 791 section 3.1).
const COPIED: u8 = 0x80;

impl Output {
    /// Sends a packet in transit, its IP header as it is to be, to its next hop; `cut_to`: in fragments of at most so many
    /// bytes. What cannot be sent is dropped and counted.
    pub(crate) fn forward(&mut self, now: Instant, hop: Hop, mut packet: Packet, cut_to: Option<usize>) {
        if !self.depart(hop.link, &mut packet, cut_to.is_some()) {
            return;
        }
        if let Some(len) = cut_to {
            let mac = self.links[hop.link].mac;
            return self.forward_cut(now, hop, mac, &packet, len);
        }
        if is_several(&packet) {
            return cut_merged(packet, |packet| self.deliver(now, hop, packet));
        }
        packet.truncate(packet.parsed.end as usize);
        self.deliver(now, hop, packet);
    }

    /// As [`Output::forward`], whole, to an Ethernet address on a link, and with one hop less, which the packet must have.
    #[inline]
    pub(crate) fn forward_known(&mut self, link: usize, to: EthernetAddress, mut packet: Packet) {
        decrement_hop_limit(&mut packet);
        if !self.depart(link, &mut packet, false) {
            return;
        }
        if is_several(&packet) {
            return cut_merged(packet, |packet| self.enqueue(link, to, packet));
        }
        packet.truncate(packet.parsed.end as usize);
        self.enqueue(link, to, packet);
    }

    /// Gives an IPv4 packet that got another source an identification of that source's, unless it means nothing as the packet is not
    /// to be cut (RFC 6864 sections 4.1 and 5.3.1, RFC 7857 section 10): those of two hosts that have one address now might be the same. A router does not
    /// merge what may be cut.
    pub(crate) fn renumber(&mut self, packet: &mut Packet) {
        let at = usize::from(packet.parsed.l3);
        let flow = packet.parsed.flow;
        if !flow.dst.is_ipv4() || packet.is_merged() || packet.head()[at + 6] & 0x40 != 0 {
            return;
        }
        let id = (self.fragment_id(flow.src, flow.dst, flow.protocol) as u16).to_be_bytes();
        let header = &mut packet.head_mut()[at..];
        let old = [header[4], header[5]];
        header[4..6].copy_from_slice(&id);
        let sum = u16::from_be_bytes([header[10], header[11]]);
        let sum = update(sum, u16::from_be_bytes(old), u16::from_be_bytes(id));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    /// What is the same for all that leaves by a link; `false`: there is no room.
    fn depart(&mut self, link: usize, packet: &mut Packet, is_cut: bool) -> bool {
        if !self.links[link].has_room() {
            (0..packet.packets()).for_each(|_| self.counters.drop(DropReason::TxQueueFull));
            return false;
        }
        let (l3, end) = (packet.parsed.l3, packet.parsed.end);
        self.counters.forwarded_packets += u64::from(packet.packets());
        self.counters.forwarded_bytes += u64::from(end - u32::from(l3));
        EthernetFrame::new_unchecked(packet.head_mut()).set_src_addr(self.links[link].mac);
        if packet.parsed.partial_checksum && (packet.parsed.kind == Kind::Udp || is_cut) {
            complete_checksum(packet);
        }
        true
    }

    fn forward_cut(&mut self, now: Instant, hop: Hop, mac: EthernetAddress, packet: &Packet, len: usize) {
        let mut whole = Vec::with_capacity(packet.len());
        packet
            .pieces(usize::from(packet.parsed.l3)..packet.parsed.end as usize)
            .for_each(|piece| whole.extend_from_slice(piece));
        let ethertype = EthernetFrame::new_unchecked(packet.head()).ethertype();
        let flow = packet.parsed.flow;
        let id = self.fragment_id(flow.src, flow.dst, flow.protocol);
        let mut fragments = Vec::new();
        cut(&whole, usize::from(packet.parsed.l4 - packet.parsed.l3), len, id, |header, payload| {
            fragments.push((header.to_vec(), payload.to_vec()));
        });
        for (header, payload) in fragments {
            let Some(frame) = self.build_frame(mac, ethertype, &[&header, &payload]) else {
                return self.counters.drop(DropReason::NoFrame);
            };
            self.counters.fragments_tx += 1;
            self.deliver(now, hop, frame);
        }
    }
}

/// Whether it must be taken apart: it was merged, or its sender left its checksum to the device.
fn is_several(packet: &Packet) -> bool {
    packet.is_merged() || packet.parsed.partial_checksum && packet.parsed.kind == Kind::Tcp
}

/// Cuts an IP packet, whose headers are `header_len` bytes, into fragments of at most `len` bytes, multiples of 8 of payload
/// each but for the last; `sink` gets header and payload of each. One that fits is given as it is. An IPv4 packet keeps its
/// identification; `id` is an IPv6 packet's.
fn cut(packet: &[u8], header_len: usize, len: usize, id: u32, mut sink: impl FnMut(&[u8], &[u8])) {
    let (header, payload) = packet.split_at(header_len);
    if packet.len() <= len {
        return sink(header, payload);
    }
    let ipv4 = packet[0] >> 4 == 4;
    let fragment_header = if ipv4 { 0 } else { FRAGMENT_HEADER };
    // At least one unit of 8 octets, whatever the headers: links carry 576 and 1280 bytes, and headers are shorter.
    let step = (len.saturating_sub(header_len + fragment_header) & !7).max(8);
    let next_header = if ipv4 { 0 } else { last_next_header(header) };
    for (index, piece) in payload.chunks(step).enumerate() {
        let offset = index * step;
        let more = offset + piece.len() < payload.len();
        let mut header = header.to_vec();
        if ipv4 {
            if index > 0 {
                drop_first_only_options(&mut header[20..]);
            }
            header[2..4].copy_from_slice(&((header_len + piece.len()) as u16).to_be_bytes());
            // A packet that came whole begins at 0; a fragment that is cut again goes on from its own offset.
            let field = u16::from_be_bytes([header[6], header[7]]);
            let (flags, base) = (field & 0xe000, field & 0x1fff);
            let more = if more { 0x2000 } else { 0 };
            let field = flags | more | (base + (offset / 8) as u16);
            header[6..8].copy_from_slice(&field.to_be_bytes());
            fill_ipv4_checksum(&mut header);
        } else {
            let kind = core::mem::replace(&mut header[next_header], protocol::FRAGMENT);
            let field = offset as u16 | u16::from(more);
            header.extend_from_slice(&[kind, 0]);
            header.extend_from_slice(&field.to_be_bytes());
            header.extend_from_slice(&id.to_be_bytes());
            let rest = header.len() - IPV6_HEADER + piece.len();
            header[4..6].copy_from_slice(&(rest as u16).to_be_bytes());
        }
        sink(&header, piece);
    }
}

/// RFC 791 section 3.1: options without the copied flag are in the first fragment only.
fn drop_first_only_options(mut options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    while let Some(&kind) = options.first() {
        let len = match kind {
            END => return,
            NO_OPERATION => 1,
            _ => options.get(1).map_or(1, |len| usize::from(*len).max(2)),
        };
        let (option, rest) = options.split_at_mut(len.min(options.len()));
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = rest;
    }
}

/// One hop less (RFC 1812 section 5.3.1; the IPv4 checksum by what changed, RFC 1624 section 3). Of a merged packet the first
/// header's, which the others follow as they are cut.
pub(crate) fn decrement_hop_limit(packet: &mut Packet) {
    let l3 = usize::from(packet.parsed.l3);
    let Some(ip) = packet.head_mut().get_mut(l3..).and_then(|ip| ip.first_chunk_mut::<12>()) else { return };
    if ip[0] >> 4 == 4 {
        let word = |ip: &[u8; 12], at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let old = word(ip, 8);
        ip[8] -= 1;
        let checksum = update(word(ip, 10), old, word(ip, 8));
        ip[10..].copy_from_slice(&checksum.to_be_bytes());
    } else {
        ip[7] -= 1;
    }
}

/// Writes this router into IPv4's record route and timestamp options (RFC 1812 sections 5.3.13.5 and 5.3.13.6; RFC 791
/// section 3.1). `own`: the address of the link that the packet leaves by. The time is no day's, and marked as such.
pub(crate) fn note_route(now: Instant, packet: &mut Packet, own: Option<IpAddr>, policy: &Policy) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    /// The most significant bit of a timestamp that does not count from midnight UT.
    const NOT_STANDARD: u32 = 1 << 31;
    let (l3, l4) = (usize::from(packet.parsed.l3), usize::from(packet.parsed.l4));
    let Some(IpAddr::V4(own)) = own.filter(|_| packet.parsed.flow.dst.is_ipv4() && l4 > l3 + 20) else {
        return;
    };
    let time = (now.as_millis() as u32 | NOT_STANDARD).to_be_bytes();
    let header = &mut packet.head_mut()[l3..l4];
    let mut at = 20;
    while let Some(&kind) = header.get(at) {
        let len = match kind {
            END => break,
            NO_OPERATION => 1,
            _ => header.get(at + 1).map_or(1, |len| usize::from(*len).max(2)),
        };
        let Some(option) = header.get_mut(at..at + len) else { break };
        match option {
            [RECORD_ROUTE, _, pointer, ..] => {
                let start = usize::from(*pointer).saturating_sub(1);
                if let Some(place) = option.get_mut(start..start + 4) {
                    place.copy_from_slice(&own.octets());
                    option[2] += 4;
                }
            }
            [TIMESTAMP, _, _, _, ..] => stamp(option, own, time, policy),
            _ => {}
        }
        at += len;
    }
    fill_ipv4_checksum(header);
}

/// A timestamp option, checked by [`crate::parse`].
fn stamp(option: &mut [u8], own: Ipv4Addr, time: [u8; 4], policy: &Policy) {
    const TIME_ONLY: u8 = 0;
    const WITH_ADDRESS: u8 = 1;
    let (start, flag) = (usize::from(option[2]).saturating_sub(1), option[3] & 0xf);
    let overflow = option[3] >> 4;
    let Some(room) = option.get_mut(start..).filter(|room| !room.is_empty()) else {
        if flag != TIMESTAMP_PRESPECIFIED && overflow < 15 {
            option[3] = (overflow + 1) << 4 | flag;
        }
        return;
    };
    let written = match (flag, room) {
        (TIME_ONLY, place) if place.len() >= 4 => {
            place[..4].copy_from_slice(&time);
            4
        }
        (WITH_ADDRESS, place) if place.len() >= 8 => {
            place[..4].copy_from_slice(&own.octets());
            place[4..8].copy_from_slice(&time);
            8
        }
        (TIMESTAMP_PRESPECIFIED, place) if place.len() >= 8 => {
            let named = Ipv4Addr::new(place[0], place[1], place[2], place[3]);
            if !policy.is_ours(named.into()) {
                return;
            }
            place[4..8].copy_from_slice(&time);
            8
        }
        _ => return,
    };
    option[2] += written;
}

/// Computes the checksum of a datagram or single segment whose sender left it to the device.
fn complete_checksum(packet: &mut Packet) {
    let parsed = packet.parsed;
    let (l4, udp) = (usize::from(parsed.l4), parsed.kind == Kind::Udp);
    let (field, len) = if udp {
        let head = packet.head();
        (l4 + 6, usize::from(u16::from_be_bytes([head[l4 + 4], head[l4 + 5]])))
    } else {
        (l4 + 16, parsed.end as usize - l4)
    };
    packet.head_mut()[field..field + 2].fill(0);
    let mut sum = Sum::pseudo_header(parsed.flow.src, parsed.flow.dst, parsed.flow.protocol, len as u32);
    packet.pieces(l4..l4 + len).for_each(|piece| sum.add(piece));
    let checksum = match sum.checksum() {
        0 if udp => 0xffff,
        checksum => checksum,
    };
    packet.head_mut()[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests;
