//! Puts fragments together: IPv4 (RFC 791 section 3.2, RFC 815) and IPv6 (RFC 8200 section 4.5). The result is a whole
//! frame as the sender would have sent it, to be parsed like any other.
//!
//! Exact duplicates are ignored; any other overlap spoils the packet for good (RFC 5722 section 4, applied to IPv4 too), and
//! its later fragments with it. Packets, bytes and time are bounded, so that floods of fragments stop no other
//! packets (RFC 4787 REQ-14a); what is given up is counted.

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};

use smoltcp::wire::Ipv4Packet;

use super::egress::{ETHERNET_HEADER, IPV6_HEADER};
use super::fragment::fill_ipv4_checksum;
use crate::counters::DropReason;
use crate::limits;
use crate::packet::Packet;
use crate::parse::{ParameterProblem, Refusal};
use crate::time::Instant;

const FRAGMENT_HEADER: usize = 8;
/// What a piece costs besides its bytes: its place in the tree and its allocation.
const PIECE_OVERHEAD: usize = 64;
const IP_PACKET_MAX: usize = 65_535;
/// The ECN field of a packet that met congestion (RFC 3168 section 5).
const ECN_CE: u8 = 3;

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Kept (or a duplicate of one that was).
    Waiting,
    /// It was the last one missing: the whole frame, Ethernet header included.
    Whole {
        frame: Vec<u8>,
        /// The longest fragment's IP packet, in bytes.
        longest: usize,
    },
    /// Dropped.
    Refused(Refusal),
}

/// Packets under reassembly, oldest first; they are few and looked through in order.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    partials: VecDeque<Partial>,
    bytes: usize,
}

/// Fragments with the same key belong together (RFC 791: source, destination, protocol, identification; RFC 8200: the
/// protocol is not part of it).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    started: Instant,
    /// All bytes of the first fragment's frame before its payload (IPv6: the fragment header excluded).
    header: Option<Vec<u8>>,
    /// The protocol that the first fragment's fragment header names (IPv6).
    next_header: u8,
    pieces: BTreeMap<usize, Vec<u8>>,
    /// Bytes in `pieces`.
    received: usize,
    /// Length of the longest fragment's IP packet.
    longest: usize,
    /// Length of the whole payload, known from the last fragment.
    total: Option<usize>,
    /// A set of the ECN fields seen, bit n for value n.
    ecn_seen: u8,
    spoilt: bool,
}

/// One fragment's facts.
struct Fragment {
    key: Key,
    offset: usize,
    more: bool,
    /// Where its payload begins in the frame.
    start: usize,
    next_header: u8,
}

/// The first fragment of a packet that was given up for time, for the ICMP message that reports it.
pub(crate) type FirstFragment = Vec<u8>;

impl Reassembly {
    /// Takes in a packet that [`crate::parse`] called a fragment. `drops` is told about packets given up to make room.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        packet: &Packet,
        drops: &mut impl FnMut(DropReason),
    ) -> Outcome {
        let Some(fragment) = Fragment::read(packet) else {
            return Outcome::Refused(DropReason::BadFragment.into());
        };
        if let Err(refusal) = fragment.check(packet) {
            return Outcome::Refused(refusal);
        }
        let at = match self.partials.iter().position(|partial| partial.key == fragment.key) {
            Some(at) => at,
            None => {
                if self.partials.len() == limits::REASSEMBLY_PACKETS {
                    self.give_up_oldest();
                    drops(DropReason::FragmentOverflow);
                }
                self.partials.push_back(Partial::new(fragment.key, now));
                self.partials.len() - 1
            }
        };
        let partial = &mut self.partials[at];
        let before = partial.cost();
        let added = partial.add(&fragment, packet);
        self.bytes = self.bytes + partial.cost() - before;
        if let Err(reason) = added {
            return Outcome::Refused(reason.into());
        }
        if let Some(frame) = partial.assemble() {
            let longest = partial.longest;
            self.remove(at);
            let whole = |frame| Outcome::Whole { frame, longest };
            return frame.map_or_else(|reason| Outcome::Refused(reason.into()), whole);
        }
        while self.bytes > limits::REASSEMBLY_BYTES {
            self.give_up_oldest();
            drops(DropReason::FragmentOverflow);
        }
        Outcome::Waiting
    }

    /// Gives up the next packet whose time is over; `None`: there is none. The inner value is its first fragment, if that
    /// had arrived.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Option<FirstFragment>> {
        let oldest = self.partials.front()?;
        if now.saturating_since(oldest.started) < limits::REASSEMBLY_TIMEOUT {
            return None;
        }
        let first = match (&oldest.header, oldest.pieces.get(&0)) {
            (Some(header), Some(piece)) => Some([&header[..], &piece[..]].concat()),
            _ => None,
        };
        self.remove(0);
        Some(first)
    }

    /// When [`Reassembly::expire`] next has something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.partials.front().map(|oldest| oldest.started + limits::REASSEMBLY_TIMEOUT)
    }

    fn give_up_oldest(&mut self) {
        self.remove(0);
    }

    fn remove(&mut self, at: usize) {
        if let Some(partial) = self.partials.remove(at) {
            self.bytes -= partial.cost();
        }
    }
}

impl Fragment {
    fn read(packet: &Packet) -> Option<Self> {
        let (head, parsed) = (packet.head(), &packet.parsed);
        let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
        let flow = &parsed.flow;
        let key = |protocol, id| Key { src: flow.src, dst: flow.dst, protocol, id };
        Some(if flow.dst.is_ipv4() {
            let header = Ipv4Packet::new_unchecked(head.get(l3..l4)?);
            Self {
                key: key(flow.protocol, u32::from(header.ident())),
                offset: usize::from(header.frag_offset()),
                more: header.more_frags(),
                start: l4,
                next_header: flow.protocol,
            }
        } else {
            let header = head.get(l4..l4 + FRAGMENT_HEADER)?;
            let field = u16::from_be_bytes([header[2], header[3]]);
            Self {
                key: key(0, u32::from_be_bytes([header[4], header[5], header[6], header[7]])),
                offset: usize::from(field & !7),
                more: field & 1 == 1,
                start: l4 + FRAGMENT_HEADER,
                next_header: header[0],
            }
        })
    }

    /// Lengths and offsets that no sender produces. RFC 8200 section 4.5 wants two of them answered.
    fn check(&self, packet: &Packet) -> Result<(), Refusal> {
        let parsed = &packet.parsed;
        let l3 = usize::from(parsed.l3);
        let len = (parsed.end as usize).saturating_sub(self.start);
        let problem = |pointer: usize| {
            let answer = ParameterProblem { code: 0, pointer: pointer as u32, to_multicast_too: false };
            let answer = parsed.flow.dst.is_ipv6().then_some(answer);
            Refusal { reason: DropReason::BadFragment, answer }
        };
        if self.more && !len.is_multiple_of(8) {
            return Err(problem(4));
        }
        let headers = if parsed.flow.dst.is_ipv4() {
            self.start - l3
        } else {
            self.start - l3 - FRAGMENT_HEADER - IPV6_HEADER
        };
        if headers + self.offset + len > IP_PACKET_MAX {
            return Err(problem(self.start - l3 - FRAGMENT_HEADER.min(self.start - l3) + 2));
        }
        if len == 0 { Err(DropReason::BadFragment.into()) } else { Ok(()) }
    }
}

impl Partial {
    fn new(key: Key, started: Instant) -> Self {
        Self {
            key,
            started,
            header: None,
            next_header: 0,
            pieces: BTreeMap::new(),
            received: 0,
            longest: 0,
            total: None,
            ecn_seen: 0,
            spoilt: false,
        }
    }

    fn cost(&self) -> usize {
        self.received + self.pieces.len() * PIECE_OVERHEAD + self.header.as_ref().map_or(0, Vec::len)
    }

    fn add(&mut self, fragment: &Fragment, packet: &Packet) -> Result<(), DropReason> {
        if self.spoilt {
            return Err(DropReason::BadFragment);
        }
        let mut payload = Vec::with_capacity(packet.parsed.end as usize - fragment.start);
        packet
            .pieces(fragment.start..packet.parsed.end as usize)
            .for_each(|piece| payload.extend_from_slice(piece));
        let range = fragment.offset..fragment.offset + payload.len();
        if self.pieces.get(&range.start).is_some_and(|piece| *piece == payload) {
            return Ok(());
        }
        let last = self.pieces.last_key_value().map_or(0, |(offset, piece)| offset + piece.len());
        let before = self.pieces.range(..range.end).next_back();
        let overlaps = before.is_some_and(|(offset, piece)| offset + piece.len() > range.start);
        let end_differs = match self.total {
            Some(total) => range.end > total || !fragment.more && range.end != total,
            None => !fragment.more && last > range.end,
        };
        if overlaps || end_differs {
            self.spoilt = true;
            self.pieces.clear();
            self.received = 0;
            self.header = None;
            return Err(DropReason::BadFragment);
        }
        if !fragment.more {
            self.total = Some(range.end);
        }
        if range.start == 0 {
            self.header = packet.head().get(..usize::from(packet.parsed.l4)).map(<[u8]>::to_vec);
            self.next_header = fragment.next_header;
        }
        self.ecn_seen |= 1 << packet.parsed.ecn;
        self.received += payload.len();
        self.longest = self.longest.max((packet.parsed.end - u32::from(packet.parsed.l3)) as usize);
        self.pieces.insert(range.start, payload);
        Ok(())
    }

    /// The whole frame, once nothing is missing.
    fn assemble(&mut self) -> Option<Result<Vec<u8>, DropReason>> {
        if self.total != Some(self.received) {
            return None;
        }
        let mut frame = self.header.clone()?;
        let l4 = frame.len();
        // RFC 3168 section 5.3: congestion met by one fragment was met by the packet; not every mixture can be right.
        let congested = self.ecn_seen & 1 << ECN_CE != 0;
        if congested && self.ecn_seen & 1 != 0 {
            return Some(Err(DropReason::BadFragment));
        }
        self.pieces.values().for_each(|piece| frame.extend_from_slice(piece));
        let whole = frame.len() - ETHERNET_HEADER;
        let ip = &mut frame[ETHERNET_HEADER..];
        if self.key.dst.is_ipv4() {
            let mut header = Ipv4Packet::new_unchecked(&mut ip[..]);
            header.set_total_len(whole as u16);
            header.set_more_frags(false);
            header.set_frag_offset(0);
            if congested {
                header.set_ecn(ECN_CE);
            }
            fill_ipv4_checksum(&mut ip[..l4 - ETHERNET_HEADER]);
        } else {
            ip[4..6].copy_from_slice(&((whole - IPV6_HEADER) as u16).to_be_bytes());
            if congested {
                ip[1] |= ECN_CE << 4;
            }
            let at = last_next_header(&ip[..l4 - ETHERNET_HEADER]);
            ip[at] = self.next_header;
        }
        Some(Ok(frame))
    }
}

/// Where (from the IP header's first byte) the last of these IPv6 headers names what follows it.
pub(crate) fn last_next_header(headers: &[u8]) -> usize {
    let (mut field, mut at) = (6, IPV6_HEADER);
    while at + 1 < headers.len() {
        field = at;
        at += (usize::from(headers[at + 1]) + 1) * 8;
    }
    field
}

#[cfg(test)]
mod tests;
