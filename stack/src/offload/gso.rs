//! Software segmentation (GSO): a super-segment, which crossed planning, routing and queueing as one, is cut into frames.
//!
//! Those of ours ([`Template`]): the headers come from one template: from frame to frame only the sequence number, the flags, the lengths, the IPv4
//! identification and the checksums change, and the checksums are put together from sums made once (RFC 1071 section 2)
//! and that of the payload, which is copied into the frame in the same pass.
//!
//! Those that are sent on ([`cut_merged`]) were merged by [`super::gro`] and leave in the frames they came in.

use crate::packet::checksum::{Sum, update};
use crate::packet::{Packet, PacketPool, Writer};
use crate::parse::protocol;
use crate::tcp::header::{Flags, HEADER_LEN};
use crate::tcp::seq::SeqNumber;

/// Longest headers in front of a payload: Ethernet with two VLAN tags, IPv6 (or IPv4 with all options), TCP with all options.
pub const HEADERS_MAX: usize = 22 + 60 + 60;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// The headers of a super-segment, ready to be put before each of its segments.
#[derive(Clone, Debug)]
pub struct Template {
    /// All fields that differ from segment to segment are 0 here.
    bytes: [u8; HEADERS_MAX],
    len: usize,
    /// Where the IP header begins.
    l3: usize,
    /// Where the TCP header begins.
    l4: usize,
    is_ipv4: bool,
    /// IPv4 identification of the first segment, and how far it is to the next one's.
    ident: u16,
    ident_step: u16,
    seq: SeqNumber,
    flags: Flags,
    first_only: Flags,
    /// Of the IPv4 header.
    ip_sum: Sum,
    /// Of the pseudo-header without the length and the TCP header.
    tcp_sum: Sum,
}

/// Segments that `len` bytes of payload are cut into: one for none.
#[must_use]
pub const fn segments(len: usize, mss: usize) -> usize {
    if len <= mss || mss == 0 { 1 } else { len.div_ceil(mss) }
}

impl Template {
    /// Takes the headers that a segment with the whole payload would have: Ethernet up to `l3`, IP up to `l4`, TCP with its
    /// options. Whatever stands for lengths and checksums is ignored. Of its control bits, those in `first_only` are for the
    /// first segment, FIN and PSH for the last.
    ///
    /// All segments have the same identification if DF is set, as it means nothing then (RFC 6864 section 4.1), else one
    /// after the other.
    ///
    /// `None` when the headers do not fit each other or [`HEADERS_MAX`].
    #[must_use]
    pub fn new(headers: &[u8], l3: usize, l4: usize, first_only: Flags) -> Option<Self> {
        let mut bytes = [0; HEADERS_MAX];
        bytes.get_mut(..headers.len())?.copy_from_slice(headers);
        let is_ipv4 = headers.get(l3)? >> 4 == 4;
        let fixed = if is_ipv4 { IPV4_HEADER } else { IPV6_HEADER };
        let (ip_len, tcp_len) = (l4.checked_sub(l3)?, headers.len().checked_sub(l4)?);
        let is_tcp = (HEADER_LEN..=60).contains(&tcp_len) && tcp_len.is_multiple_of(4);
        if ip_len < fixed || !ip_len.is_multiple_of(4) || !is_tcp {
            return None;
        }
        let (link_and_ip, tcp) = bytes.split_at_mut(l4);
        let ip = &mut link_and_ip[l3..];
        let tcp = &mut tcp[..headers.len() - l4];
        let (mut ip_sum, mut tcp_sum) = (Sum::ZERO, Sum::ZERO);
        let (mut ident, mut ident_step) = (0, 0);
        if is_ipv4 {
            ident = word(ip, 4);
            ident_step = u16::from(ip[6] & 0x40 == 0);
            ip[2..6].fill(0);
            ip[10..12].fill(0);
            ip_sum.add(ip);
            tcp_sum.add(&ip[12..20]);
        } else {
            ip[4..6].fill(0);
            tcp_sum.add(&ip[8..40]);
        }
        tcp_sum.add_word(u16::from(protocol::TCP));
        let seq = SeqNumber(u32::from(word(tcp, 4)) << 16 | u32::from(word(tcp, 6)));
        let flags = Flags(word(tcp, 12) & 0x0fff);
        tcp[4..8].fill(0);
        tcp[12..14].fill(0);
        tcp[16..18].fill(0);
        tcp_sum.add(tcp);
        Some(Self {
            bytes,
            len: headers.len(),
            l3,
            l4,
            is_ipv4,
            ident,
            ident_step,
            seq,
            flags,
            first_only,
            ip_sum,
            tcp_sum,
        })
    }

    /// Frames of `pool` that a segment with `len` bytes of payload takes.
    #[must_use]
    pub fn frames(&self, pool: &PacketPool, len: usize) -> usize {
        let layout = pool.layout();
        (self.len + len).div_ceil((layout.frame_size - layout.headroom) as usize)
    }

    /// Cuts `payload` into segments of `mss` bytes, which must not be 0, the last with the rest; gives each to `sink`, in
    /// order. Ends after `segments_max` of them, or when the pool is empty. Returns how many were made: the payload up to
    /// there, that is `mss` bytes for each, is in them.
    pub fn cut(
        &self,
        pool: &PacketPool,
        payload: &[&[u8]],
        mss: usize,
        segments_max: usize,
        mut sink: impl FnMut(Packet),
    ) -> usize {
        let mut left: usize = payload.iter().map(|piece| piece.len()).sum();
        let count = segments(left, mss);
        let mut pieces = Pieces { current: &[], rest: payload.iter() };
        for index in 0..count.min(segments_max) {
            let len = left.min(mss);
            left -= len;
            let headers = Headers { index, mss, len, is_last: index + 1 == count };
            let Some(packet) = self.build(pool, &headers, &mut pieces) else { return index };
            sink(packet);
        }
        count.min(segments_max)
    }

    fn build(&self, pool: &PacketPool, which: &Headers, pieces: &mut Pieces<'_>) -> Option<Packet> {
        let mut packet = Packet::alloc(pool)?;
        let in_one_frame = self.len + which.len <= packet.tailroom();
        let frame = packet.append(if in_one_frame { self.len + which.len } else { self.len })?;
        let (header, room) = frame.split_at_mut(self.len);
        header.copy_from_slice(&self.bytes[..self.len]);
        let mut sum = self.fill(header, which);
        if in_one_frame {
            let mut at = 0;
            while let Some(piece) = pieces.next(which.len - at) {
                sum.copy_and_add(&mut room[at..at + piece.len()], piece);
                at += piece.len();
            }
        } else {
            let (mut writer, mut left) = (Writer::new(pool, packet), which.len);
            while let Some(piece) = pieces.next(left) {
                writer.write(piece, &mut sum)?;
                left -= piece.len();
            }
            packet = writer.finish()?;
        }
        put(packet.head_mut(), self.l4 + 16, sum.checksum());
        Some(packet)
    }

    /// Writes the fields that differ, but for the TCP checksum, into a copy of the template; returns the sum that the
    /// payload is to be added to.
    fn fill(&self, header: &mut [u8], which: &Headers) -> Sum {
        let tcp_len = self.len - self.l4 + which.len;
        if self.is_ipv4 {
            let mut sum = self.ip_sum;
            let total_len = (self.l4 - self.l3 + tcp_len) as u16;
            let ident = self.ident.wrapping_add(self.ident_step.wrapping_mul(which.index as u16));
            put(header, self.l3 + 2, total_len);
            put(header, self.l3 + 4, ident);
            sum.add_word(total_len);
            sum.add_word(ident);
            put(header, self.l3 + 10, sum.checksum());
        } else {
            put(header, self.l3 + 4, (self.l4 - self.l3 - IPV6_HEADER + tcp_len) as u16);
        }
        let seq = (self.seq + (which.index * which.mss) as u32).0;
        let flags = self.flags.of_part(self.first_only, which.index == 0, which.is_last);
        let offset_and_flags = ((self.len - self.l4) as u16 / 4) << 12 | flags.0;
        let mut sum = self.tcp_sum;
        for (at, word) in [(4, (seq >> 16) as u16), (6, seq as u16), (12, offset_and_flags)] {
            put(header, self.l4 + at, word);
            sum.add_word(word);
        }
        sum.add_word(tcp_len as u16);
        sum
    }
}

/// Takes apart a merged packet that is sent on, or takes one that is not merged: gives `sink` its segments in the frames they
/// came in, untouched but for their headers. What was changed in the first one's, as the whole went through forwarding, is
/// changed in the others' as well: Ethernet addresses and tags, addresses, hop limit, DSCP and ECN, ports. Sequence numbers,
/// flags, lengths and identifications are each one's own. A TCP checksum that its sender left to the device is computed, any
/// other is updated by what has changed (RFC 1624 section 3); the first one's is up to date already.
///
/// The headers are as long as [`crate::parse`] found them. Ethernet padding is cut off.
pub fn cut_merged(packet: Packet, mut sink: impl FnMut(Packet)) {
    let parsed = packet.parsed;
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let mut first = [0; HEADERS_MAX];
    // Up to the ports.
    let known = match packet.head().get(..l4 + 4).and_then(|head| Some((head, first.get_mut(..l4 + 4)?))) {
        Some((head, first)) => {
            first.copy_from_slice(head);
            &*first
        }
        None => return packet.into_packets().for_each(sink),
    };
    for (index, mut packet) in packet.into_packets().enumerate() {
        packet.truncate(packet.parsed.end as usize);
        if index > 0 {
            follow(packet.head_mut(), known, l3, l4);
        }
        if parsed.partial_checksum {
            complete(&mut packet, known, l3, l4);
        }
        sink(packet);
    }
}

/// Changes in `headers` what has changed in those of the `first` segment of the packet.
fn follow(headers: &mut [u8], first: &[u8], l3: usize, l4: usize) {
    headers[..l3].copy_from_slice(&first[..l3]);
    let is_ipv4 = first[l3] >> 4 == 4;
    let mut checksum = word(headers, l4 + 16);
    for at in addresses(l3, is_ipv4).chain([l4, l4 + 2]) {
        let (old, new) = (word(headers, at), word(first, at));
        if old != new {
            checksum = update(checksum, old, new);
            put(headers, at, new);
        }
    }
    put(headers, l4 + 16, checksum);
    if is_ipv4 {
        headers[l3 + 1] = first[l3 + 1];
        headers[l3 + 6..l3 + 10].copy_from_slice(&first[l3 + 6..l3 + 10]);
        put(headers, l3 + 10, 0);
        let mut sum = Sum::ZERO;
        sum.add(&headers[l3..l4]);
        put(headers, l3 + 10, sum.checksum());
    } else {
        headers[l3..l3 + 4].copy_from_slice(&first[l3..l3 + 4]);
        headers[l3 + 6..l3 + 8].copy_from_slice(&first[l3 + 6..l3 + 8]);
    }
}

/// Computes the TCP checksum of a packet whose headers up to the ports are `headers`.
fn complete(packet: &mut Packet, headers: &[u8], l3: usize, l4: usize) {
    put(packet.head_mut(), l4 + 16, 0);
    let len = packet.len();
    let mut sum = Sum::ZERO;
    addresses(l3, headers[l3] >> 4 == 4).for_each(|at| sum.add_word(word(headers, at)));
    sum.add_word(u16::from(protocol::TCP));
    sum.add_word((len - l4) as u16);
    packet.pieces(l4..len).for_each(|piece| sum.add(piece));
    put(packet.head_mut(), l4 + 16, sum.checksum());
    packet.parsed.partial_checksum = false;
}

/// Where the words of both IP addresses are.
fn addresses(l3: usize, is_ipv4: bool) -> impl Iterator<Item = usize> {
    let range = if is_ipv4 { l3 + 12..l3 + 20 } else { l3 + 8..l3 + 40 };
    range.step_by(2)
}

/// One of the segments.
struct Headers {
    index: usize,
    mss: usize,
    /// Payload bytes in it.
    len: usize,
    is_last: bool,
}

/// What is left of the payload.
struct Pieces<'a> {
    current: &'a [u8],
    rest: core::slice::Iter<'a, &'a [u8]>,
}

impl<'a> Pieces<'a> {
    /// The next run of at most `len` bytes; `None` when `len` is 0 or nothing is left.
    fn next(&mut self, len: usize) -> Option<&'a [u8]> {
        if len == 0 {
            return None;
        }
        while self.current.is_empty() {
            self.current = self.rest.next()?;
        }
        let (now, later) = self.current.split_at(len.min(self.current.len()));
        self.current = later;
        Some(now)
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

#[cfg(test)]
mod tests;
