//! Generic receive offload: the TCP segments of one burst that follow each other in a flow become one packet, so that they
//! cross demultiplexing, the TCP engine and the application's wake-up once.
//!
//! Parsed TCP packets come from the shard in the order in which they arrived and leave in that order, each merged packet in the
//! place of its first segment: between the packets of one flow nothing changes places. Nothing is copied and nothing is
//! lost: a merged packet is a chain of the frames received, headers and all ([`Packet::merge`]), and can be taken apart
//! again ([`Packet::into_packets`]).
//!
//! What may be merged follows Linux's `tcp_gro_receive` and `inet_gro_receive`, with what RFC 9768 section 3.2 needs of the
//! flags. Acknowledgments by themselves, which Linux passes one by one, are chained too; whether the last one may stand for
//! all is the engine's decision, which knows the connection (`Tcp::receive`).

use std::collections::VecDeque;

use crate::counters::Counters;
use crate::limits;
use crate::packet::Packet;
use crate::parse::{Kind, Parsed};
use crate::tcp::header::HEADER_LEN;
use crate::tcp::options::Timestamps;

/// Merges the TCP segments of a burst. Keeps its buffers from burst to burst.
#[derive(Debug, Default)]
pub struct Gro {
    /// The burst so far, in order.
    packets: VecDeque<Packet>,
    /// Flows whose last packet may grow, the oldest first.
    flows: [Growing; limits::GRO_FLOWS],
    growing: usize,
    /// The flow that grew or began last, if it may grow still.
    last: usize,
}

/// A packet that may grow.
#[derive(Clone, Copy, Debug, Default)]
struct Growing {
    /// Of the flow.
    hash: u32,
    /// Its place in the burst.
    place: usize,
    /// Acknowledgments without payload.
    pure: bool,
    /// The sequence number that comes next; of acknowledgments the last number acknowledged.
    next: u32,
    /// Payload bytes of its first segment.
    segment_payload: u32,
    /// IPv4's identification stays as it is instead of counting up.
    fixed_id: bool,
}

/// Why a segment was not merged with the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    /// The Ethernet or IP header differs in what must be the same: addresses, TTL, TOS or flow label, ECN field,
    /// identification.
    Network,
    /// Flags, window, acknowledgment number, or a segment that is never merged (SYN, RST, URG, fragments).
    Header,
    /// The options differ, timestamps included.
    Options,
    /// It is not what follows in the stream.
    Order,
    /// It is longer than the segments before, or the packet would become too long.
    Size,
}

const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// SYN, RST and URG: never merged.
const NEVER: u8 = 0x02 | 0x04 | 0x20;
/// The only options that acknowledgments may have to be chained: timestamps, padded as everybody does (RFC 7323 appendix A).
const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];
const TIMESTAMPS_LEN: usize = 12;

impl Gro {
    /// Takes the burst's next packet, which [`crate::parse`] found to be TCP with a good checksum. `whole`: it is as it came,
    /// not put together from fragments, and need not be cut into some.
    pub fn push(&mut self, packet: Packet, whole: bool, counters: &mut Counters) {
        let parsed = packet.parsed;
        self.push_parsed(packet, &parsed, whole, counters);
    }

    /// As [`Gro::push`], for a packet of which `parsed` is known and not yet filled in: of what is merged it never is.
    // Inlined, so that the packet, which is large, is not moved once more.
    #[inline(always)]
    pub(crate) fn push_parsed(
        &mut self,
        mut packet: Packet,
        parsed: &Parsed,
        whole: bool,
        counters: &mut Counters,
    ) {
        let head = packet.head();
        let segment = if whole { Segment::of(head, parsed) } else { None };
        let hash = parsed.hash;
        let flows = &self.flows[..self.growing];
        // Mostly that of the packet before.
        let known = match flows.get(self.last) {
            Some(flow) if flow.hash == hash => Some(self.last),
            _ => flows.iter().position(|flow| flow.hash == hash),
        };
        if let Some(known) = known {
            let flow = &mut self.flows[known];
            let held = &mut self.packets[flow.place];
            match flow.follows(held, head, parsed, segment.as_ref()) {
                Ok(goes_on) => {
                    counters.gro_merged += 1;
                    counters.gro_packets += u64::from(!held.is_merged());
                    held.merge_until(packet, parsed.end);
                    self.last = known;
                    if !goes_on {
                        self.stop(known);
                    }
                    return;
                }
                Err(refusal) => {
                    count(refusal, counters);
                    self.stop(known);
                }
            }
        }
        let begins = segment.filter(|segment| segment.flags() & (PSH | FIN) == 0);
        if let Some(segment) = begins {
            if self.growing == self.flows.len() {
                counters.gro_flow_limit += 1;
                self.stop(0);
            }
            self.flows[self.growing] = segment.begin(hash, self.packets.len());
            self.last = self.growing;
            self.growing += 1;
        }
        packet.parsed = *parsed;
        self.packets.push_back(packet);
    }

    /// The flow hashes of the burst's packets, as they will be given out, and whether more comes with each than a TCP header with
    /// timestamps.
    pub fn hashes(&self) -> impl Iterator<Item = (u32, bool)> {
        self.packets.iter().map(|Packet { parsed, .. }| {
            let bytes = (parsed.end as usize).saturating_sub(usize::from(parsed.l4));
            (parsed.hash, bytes > HEADER_LEN + Timestamps::ALONE_LEN)
        })
    }

    /// The burst's packets in order. What they hold is theirs; the next burst begins anew.
    pub fn pop(&mut self) -> Option<Packet> {
        self.growing = 0;
        self.packets.pop_front()
    }

    /// The `known`th flow's packet grows no further.
    fn stop(&mut self, known: usize) {
        self.flows.copy_within(known + 1..self.growing, known);
        self.growing -= 1;
    }
}

fn count(refusal: Refusal, counters: &mut Counters) {
    match refusal {
        Refusal::Network => counters.gro_flush_network += 1,
        Refusal::Header => counters.gro_flush_header += 1,
        Refusal::Options => counters.gro_flush_options += 1,
        Refusal::Order => counters.gro_flush_order += 1,
        Refusal::Size => counters.gro_flush_size += 1,
    }
}

/// A segment that may be merged with what comes before or after it.
struct Segment<'a> {
    /// The TCP header without its options, and these.
    header: &'a [u8; TCP_HEADER],
    options: &'a [u8],
    payload_len: u32,
    partial_checksum: bool,
}

impl<'a> Segment<'a> {
    /// `None`: one that never is. IP options and extension headers exclude it, and every flag but ACK, PSH, FIN and those of
    /// ECN. Without payload it must be an acknowledgment and nothing else.
    fn of(head: &'a [u8], parsed: &Parsed) -> Option<Self> {
        let network = if parsed.flow.dst.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        if parsed.kind != Kind::Tcp || usize::from(parsed.l4) != usize::from(parsed.l3) + network {
            return None;
        }
        let (header, options) = tcp_header(head, parsed)?;
        let payload_len = parsed.end - u32::from(parsed.payload);
        let segment = Self { header, options, payload_len, partial_checksum: parsed.partial_checksum };
        let flags = segment.flags();
        let plain = flags & (NEVER | ACK) == ACK;
        let fits = payload_len > 0 || flags == ACK && header[12] & 1 == 0 && segment.has_plain_options();
        (plain && fits).then_some(segment)
    }

    /// The eight flags of byte 13.
    fn flags(&self) -> u8 {
        self.header[13]
    }

    fn word<const AT: usize>(&self) -> u32 {
        word::<AT, _>(self.header)
    }

    /// No options, or timestamps only.
    fn has_plain_options(&self) -> bool {
        self.options.is_empty()
            || self.options.len() == TIMESTAMPS_LEN && self.options.starts_with(&TIMESTAMPS)
    }

    fn begin(&self, hash: u32, place: usize) -> Growing {
        let pure = self.payload_len == 0;
        let next = if pure { self.word::<8>() } else { self.word::<4>().wrapping_add(self.payload_len) };
        Growing { hash, place, pure, next, segment_payload: self.payload_len, fixed_id: false }
    }
}

impl Growing {
    /// Whether the packet with `head` and `parsed` follows `held`, and whether something may follow it in turn.
    fn follows(
        &mut self,
        held: &Packet,
        head: &[u8],
        parsed: &Parsed,
        segment: Option<&Segment<'_>>,
    ) -> Result<bool, Refusal> {
        let Some(segment) = segment else { return Err(Refusal::Header) };
        let packets = held.packets();
        if packets >= limits::GRO_SEGMENTS {
            return Err(Refusal::Size);
        }
        let (ours, first) = (&held.parsed, held.head());
        if (ours.l3, ours.l4, ours.payload) != (parsed.l3, parsed.l4, parsed.payload) {
            return Err(if ours.payload == parsed.payload { Refusal::Network } else { Refusal::Options });
        }
        if !self.continues_network(ours, first, head, packets) {
            return Err(Refusal::Network);
        }
        let Some((first, options)) = tcp_header(first, ours) else { return Err(Refusal::Header) };
        let partial = held.parsed.partial_checksum;
        if word::<0, _>(first) != segment.word::<0>() || partial != segment.partial_checksum {
            return Err(Refusal::Header);
        }
        if self.pure {
            return self.acknowledges_more(held, first, segment);
        }
        // Data offset, reserved bits and all flags but PSH and FIN, then the window: Linux compares these as one word. The
        // three flags of ECN must be the same as well: of accurate ECN they are a counter, and of classic ECN's CWR, which
        // comes once, the cost is one packet more.
        const ENDS: u32 = (FIN as u32 | PSH as u32) << 16;
        if (segment.word::<12>() ^ word::<12, _>(first)) & !ENDS != 0
            || segment.word::<8>() != word::<8, _>(first)
        {
            return Err(Refusal::Header);
        }
        if !same_options(segment.options, options) {
            return Err(Refusal::Options);
        }
        if segment.payload_len == 0 || segment.word::<4>() != self.next {
            return Err(Refusal::Order);
        }
        let len = held.parsed.end - u32::from(held.parsed.l3) + segment.payload_len;
        if segment.payload_len > self.segment_payload || len > limits::GRO_BYTES {
            return Err(Refusal::Size);
        }
        self.next = self.next.wrapping_add(segment.payload_len);
        Ok(segment.flags() & (FIN | PSH) == 0 && segment.payload_len == self.segment_payload)
    }

    /// What must be the same, byte by byte: the Ethernet header with any tags, and of the IP header all but length, checksum
    /// and identification. IPv4's identification counts up, or stays the same where fragmentation is forbidden and it means
    /// nothing (RFC 6864 section 4.1); the second packet tells which.
    fn continues_network(&mut self, held: &Parsed, first: &[u8], next: &[u8], packets: u16) -> bool {
        let l3 = usize::from(held.l3);
        debug_assert!(l3 >= ETHERNET_HEADER);
        let (Some((ethernet, ip)), Some((next_ethernet, next_ip))) =
            (first.split_at_checked(l3), next.split_at_checked(l3))
        else {
            return false;
        };
        // Mostly there are no tags: what has a fixed length is compared in a few instructions.
        let plain = (ethernet.first_chunk::<ETHERNET_HEADER>(), next_ethernet.first_chunk());
        let (Some(plain), Some(next_plain)) = plain else { return false };
        if plain != next_plain || l3 > ETHERNET_HEADER && ethernet != next_ethernet {
            return false;
        }
        if held.flow.dst.is_ipv6() {
            let both = (ip.first_chunk::<IPV6_HEADER>(), next_ip.first_chunk::<IPV6_HEADER>());
            let (Some(ip), Some(next)) = both else { return false };
            return ip[..4] == next[..4] && ip[6..] == next[6..];
        }
        let both = (ip.first_chunk::<IPV4_HEADER>(), next_ip.first_chunk::<IPV4_HEADER>());
        let (Some(ip), Some(next)) = both else { return false };
        let same = ip[..2] == next[..2] && ip[6..10] == next[6..10] && ip[12..] == next[12..];
        let id = |ip: &[u8; IPV4_HEADER]| u16::from_be_bytes([ip[4], ip[5]]);
        let distance = id(next).wrapping_sub(id(ip));
        let may_be_fixed = ip[6] & 0x40 != 0;
        if packets == 1 {
            self.fixed_id = may_be_fixed && distance == 0;
        }
        same && distance == if self.fixed_id { 0 } else { packets }
    }

    /// Acknowledgments: each acknowledges more than the one before, in the same place of the peer's stream, with a window that
    /// is not closed. A duplicate one says something that the next does not, and is not chained.
    fn acknowledges_more(
        &mut self,
        held: &Packet,
        first: &[u8; TCP_HEADER],
        segment: &Segment<'_>,
    ) -> Result<bool, Refusal> {
        // Data offset and flags, without the window.
        if segment.payload_len > 0 || segment.word::<12>() >> 16 != word::<12, _>(first) >> 16 {
            return Err(Refusal::Header);
        }
        if !segment.has_plain_options() {
            return Err(Refusal::Options);
        }
        // The headers are of one length: both have timestamps, or none has.
        let timestamp = |options: &[u8]| Some(word::<4, _>(options.first_chunk::<8>()?));
        if let Some(val) = timestamp(segment.options) {
            let last = tcp_header(held.last_head(), &held.parsed).and_then(|(_, options)| timestamp(options));
            if last.is_some_and(|last| (val.wrapping_sub(last) as i32) < 0) {
                return Err(Refusal::Options);
            }
        }
        let acked = segment.word::<8>().wrapping_sub(self.next);
        if segment.word::<4>() != word::<4, _>(first) || acked == 0 || acked >= 1 << 31 {
            return Err(Refusal::Order);
        }
        if segment.word::<12>() & 0xffff == 0 {
            return Err(Refusal::Header);
        }
        self.next = segment.word::<8>();
        Ok(true)
    }
}

/// The TCP header without options, and these, in the `head` of a segment with `parsed`.
fn tcp_header<'a>(head: &'a [u8], parsed: &Parsed) -> Option<(&'a [u8; TCP_HEADER], &'a [u8])> {
    let header = head.get(usize::from(parsed.l4)..usize::from(parsed.payload))?;
    header.split_first_chunk()
}

/// Whether options of equal length are the same: mostly timestamps, for which a call would be too much.
fn same_options(one: &[u8], other: &[u8]) -> bool {
    match (<&[u8; TIMESTAMPS_LEN]>::try_from(one), <&[u8; TIMESTAMPS_LEN]>::try_from(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn word<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> u32 {
    u32::from_be_bytes([bytes[AT], bytes[AT + 1], bytes[AT + 2], bytes[AT + 3]])
}

#[cfg(test)]
mod tests;
