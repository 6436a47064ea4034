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
use crate::parse::Kind;

/// Merges the TCP segments of a burst. Keeps its buffers from burst to burst.
#[derive(Debug, Default)]
pub struct Gro {
    /// The burst so far, in order.
    packets: VecDeque<Packet>,
    /// Flows whose last packet may grow, the oldest first.
    flows: [Growing; limits::GRO_FLOWS],
    growing: usize,
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

const ETHERNET_TYPE_END: u16 = 14;
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
        let segment = if whole { Segment::of(&packet) } else { None };
        let hash = packet.parsed.hash;
        let known = self.flows[..self.growing].iter().position(|flow| flow.hash == hash);
        if let Some(known) = known {
            let flow = self.flows[known];
            let held = &mut self.packets[flow.place];
            match flow.follows(held, &packet, segment.as_ref()) {
                Ok(goes_on) => {
                    counters.gro_merged += 1;
                    counters.gro_packets += u64::from(!held.is_merged());
                    held.merge(packet);
                    match goes_on {
                        Some(flow) => self.flows[known] = flow,
                        None => self.stop(known),
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
            self.growing += 1;
        }
        self.packets.push_back(packet);
    }

    /// The flow hashes of the burst's packets, as they will be given out.
    pub fn hashes(&self) -> impl Iterator<Item = u32> {
        self.packets.iter().map(|packet| packet.parsed.hash)
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
    /// The TCP header with its options.
    header: &'a [u8],
    payload_len: u32,
    partial_checksum: bool,
}

impl<'a> Segment<'a> {
    /// `None`: one that never is. IP options and extension headers exclude it, and every flag but ACK, PSH, FIN and those of
    /// ECN. Without payload it must be an acknowledgment and nothing else.
    fn of(packet: &'a Packet) -> Option<Self> {
        let parsed = &packet.parsed;
        let (l3, l4, payload) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.payload));
        let network = if parsed.flow.dst.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        let header = packet.head().get(l4..payload)?;
        if parsed.kind != Kind::Tcp || l4 != l3 + network || header.len() < TCP_HEADER {
            return None;
        }
        let payload_len = parsed.end - u32::from(parsed.payload);
        let segment = Self { header, payload_len, partial_checksum: parsed.partial_checksum };
        let flags = segment.flags();
        let plain = flags & (NEVER | ACK) == ACK;
        let fits = payload_len > 0 || flags == ACK && header[12] & 1 == 0 && segment.has_plain_options();
        (plain && fits).then_some(segment)
    }

    /// The eight flags of byte 13.
    fn flags(&self) -> u8 {
        self.header[13]
    }

    fn word(&self, at: usize) -> u32 {
        word(self.header, at)
    }

    /// No options, or timestamps only.
    fn has_plain_options(&self) -> bool {
        let options = &self.header[TCP_HEADER..];
        options.is_empty() || options.len() == TIMESTAMPS_LEN && options.starts_with(&TIMESTAMPS)
    }

    fn begin(&self, hash: u32, place: usize) -> Growing {
        let pure = self.payload_len == 0;
        let next = if pure { self.word(8) } else { self.word(4).wrapping_add(self.payload_len) };
        Growing { hash, place, pure, next, segment_payload: self.payload_len, fixed_id: false }
    }
}

impl Growing {
    /// Whether `packet` follows `held`, and how that goes on then; `None`: it ends with `packet`.
    fn follows(
        mut self,
        held: &Packet,
        packet: &Packet,
        segment: Option<&Segment<'_>>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(segment) = segment else { return Err(Refusal::Header) };
        if held.packets() >= limits::GRO_SEGMENTS {
            return Err(Refusal::Size);
        }
        self.compare_network(held, packet)?;
        let first = &held.head()[usize::from(held.parsed.l4)..usize::from(held.parsed.payload)];
        let partial = held.parsed.partial_checksum;
        if first[..4] != segment.header[..4] || partial != segment.partial_checksum {
            return Err(Refusal::Header);
        }
        if self.pure {
            return self.acknowledges_more(held, first, segment);
        }
        // Data offset, reserved bits and all flags but PSH and FIN, then the window: Linux compares these as one word. The
        // three flags of ECN must be the same as well: of accurate ECN they are a counter, and of classic ECN's CWR, which
        // comes once, the cost is one packet more.
        const ENDS: u32 = (FIN as u32 | PSH as u32) << 16;
        if (segment.word(12) ^ word(first, 12)) & !ENDS != 0 || segment.word(8) != word(first, 8) {
            return Err(Refusal::Header);
        }
        if segment.header[TCP_HEADER..] != first[TCP_HEADER..] {
            return Err(Refusal::Options);
        }
        if segment.payload_len == 0 || segment.word(4) != self.next {
            return Err(Refusal::Order);
        }
        let len = held.parsed.end - u32::from(held.parsed.l3) + segment.payload_len;
        if segment.payload_len > self.segment_payload || len > limits::GRO_BYTES {
            return Err(Refusal::Size);
        }
        self.next = self.next.wrapping_add(segment.payload_len);
        let goes_on = segment.flags() & (FIN | PSH) == 0 && segment.payload_len == self.segment_payload;
        Ok(goes_on.then_some(self))
    }

    /// What must be the same, byte by byte: the Ethernet header with any tags, and of the IP header all but length, checksum
    /// and identification. IPv4's identification counts up, or stays the same where fragmentation is forbidden and it means
    /// nothing (RFC 6864 section 4.1); the second packet tells which.
    fn compare_network(&mut self, held: &Packet, packet: &Packet) -> Result<(), Refusal> {
        let (ours, theirs) = (&held.parsed, &packet.parsed);
        if (ours.l3, ours.l4, ours.payload) != (theirs.l3, theirs.l4, theirs.payload) {
            return Err(if ours.payload == theirs.payload { Refusal::Network } else { Refusal::Options });
        }
        debug_assert!(ours.l3 >= ETHERNET_TYPE_END);
        let (l3, l4) = (usize::from(ours.l3), usize::from(ours.l4));
        let (first, next) = (&held.head()[..l4], &packet.head()[..l4]);
        let (ethernet, ip) = first.split_at(l3);
        let (next_ethernet, next_ip) = next.split_at(l3);
        if ethernet != next_ethernet {
            return Err(Refusal::Network);
        }
        if ip.len() == IPV6_HEADER {
            let same = ip[..4] == next_ip[..4] && ip[6..] == next_ip[6..];
            return if same { Ok(()) } else { Err(Refusal::Network) };
        }
        let same = ip[..2] == next_ip[..2] && ip[6..10] == next_ip[6..10] && ip[12..] == next_ip[12..];
        let id = |ip: &[u8]| u16::from_be_bytes([ip[4], ip[5]]);
        let distance = id(next_ip).wrapping_sub(id(ip));
        let may_be_fixed = ip[6] & 0x40 != 0;
        if !held.is_merged() {
            self.fixed_id = may_be_fixed && distance == 0;
        }
        let expected = if self.fixed_id { 0 } else { held.packets() };
        if same && distance == expected { Ok(()) } else { Err(Refusal::Network) }
    }

    /// Acknowledgments: each acknowledges more than the one before, in the same place of the peer's stream, with a window that
    /// is not closed. A duplicate one says something that the next does not, and is not chained.
    fn acknowledges_more(
        mut self,
        held: &Packet,
        first: &[u8],
        segment: &Segment<'_>,
    ) -> Result<Option<Self>, Refusal> {
        // Data offset and flags, without the window.
        if segment.payload_len > 0 || segment.word(12) >> 16 != word(first, 12) >> 16 {
            return Err(Refusal::Header);
        }
        if !segment.has_plain_options() {
            return Err(Refusal::Options);
        }
        let last = &held.last_head()[usize::from(held.parsed.l4)..];
        let is_late = |at| (segment.word(at).wrapping_sub(word(last, at)) as i32) < 0;
        if segment.header.len() > TCP_HEADER && is_late(TCP_HEADER + TIMESTAMPS.len()) {
            return Err(Refusal::Options);
        }
        let acked = segment.word(8).wrapping_sub(self.next);
        if segment.word(4) != word(first, 4) || acked == 0 || acked >= 1 << 31 {
            return Err(Refusal::Order);
        }
        if segment.word(12) & 0xffff == 0 {
            return Err(Refusal::Header);
        }
        self.next = segment.word(8);
        Ok(Some(self))
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
