//! What tracking, filters and translation must know of a packet, read once from its headers: the flow's tuple, TCP's fields,
//! what an ICMP error quotes.
//!
//! Received packets were checked by [`crate::parse`] before; what an ICMP error quotes is only the beginning of a packet, and
//! nothing in it is believed but the tuple.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::FlowTuple;
use crate::packet::Packet;
use crate::parse::{FlowKey, Kind, protocol};
use crate::tcp::header::{Flags, HEADER_LEN, TcpHeader};
use crate::tcp::options::TcpOptions;
use crate::tcp::seq::SeqNumber;

const ICMP_HEADER: usize = 8;

/// A packet as the flow's side of the stack sees it.
#[derive(Clone, Copy, Debug)]
pub struct PacketView {
    /// Whose packet it is; for an ICMP error its own addresses without ports.
    pub tuple: FlowTuple,
    /// Length of the IP packet, bytes.
    pub len: u32,
    /// How many packets came as this one: more than 1 where segments were merged ([`crate::offload::gro`]).
    pub packets: u32,
    /// The parser's hash of the flow ([`crate::parse::Parsed::hash`]), where that has the tuple's ports; 0: not known.
    pub hash: u32,
    /// What follows the IP header.
    pub transport: Transport,
}

/// The part of a packet behind its IP header.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    /// TCP.
    Tcp(TcpView),
    /// UDP, or another protocol with ports in its first four bytes.
    Ports,
    /// An ICMP query or the reply to one.
    Query {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
    /// An ICMP error, with the flow of the packet that it quotes; `None`: it quotes none that can be read.
    Error {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// As the quoted packet's sender sent it.
        quoted: Option<FlowTuple>,
    },
    /// Any other ICMP message (neighbour discovery, redirects, membership).
    Icmp {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
    /// A transport header that is cut off or wrong, or a wrong checksum: nothing of it is believed.
    Broken,
    /// Another protocol, without ports.
    Other,
}

/// The fields of a TCP segment that window tracking needs.
#[derive(Clone, Copy, Debug)]
pub struct TcpView {
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgment number; means something with [`Flags::ACK`].
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: Flags,
    /// Window as on the wire.
    pub window: u16,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Window scale offered (SYN only).
    pub window_scale: Option<u8>,
    /// SACK offered (SYN only).
    pub sack_permitted: bool,
    /// Right edge of the SACK block that reaches farthest.
    pub sack_edge: Option<SeqNumber>,
}

impl TcpView {
    /// Sequence number behind the segment: payload, SYN and FIN counted.
    #[must_use]
    pub fn end(&self) -> SeqNumber {
        let controls =
            u32::from(self.flags.contains(Flags::SYN)) + u32::from(self.flags.contains(Flags::FIN));
        self.seq + self.payload_len + controls
    }

    fn read(header: &[u8], payload_len: u32) -> Option<Self> {
        let fixed = TcpHeader::parse(header)?;
        let options = match header.get(HEADER_LEN..fixed.header_len)? {
            // Timestamps alone, aligned as everybody aligns them (RFC 7323 appendix A).
            [1, 1, 8, 10, ..] if fixed.header_len == HEADER_LEN + 12 => TcpOptions::default(),
            [] => TcpOptions::default(),
            options => TcpOptions::parse(options),
        };
        let edges = options.sack.iter().map(|(_, end)| *end);
        Some(Self {
            seq: fixed.seq,
            ack: fixed.ack,
            flags: fixed.flags,
            window: fixed.window,
            payload_len,
            window_scale: options.window_scale,
            sack_permitted: options.sack_permitted,
            sack_edge: edges.reduce(SeqNumber::max),
        })
    }
}

impl PacketView {
    /// Of a packet that [`crate::parse::parse`] accepted; `None` for ARP and fragments. What cannot be read is
    /// [`Transport::Broken`].
    #[must_use]
    #[inline]
    pub fn of(packet: &Packet) -> Option<Self> {
        let parsed = &packet.parsed;
        match parsed.kind {
            Kind::Arp | Kind::Fragment | Kind::Unparsed => return None,
            // Checked, and with its ports in the key: there is nothing to read.
            Kind::Udp => {
                let (tuple, len) = (FlowTuple::of(&parsed.flow), parsed.end - u32::from(parsed.l3));
                return Some(Self { tuple, len, packets: 1, hash: parsed.hash, transport: Transport::Ports });
            }
            _ => {}
        }
        Some(Self::read_packet(packet).unwrap_or_else(|| {
            let FlowKey { src, dst, protocol, .. } = parsed.flow;
            let len = parsed.end - u32::from(parsed.l3);
            let tuple = FlowTuple::portless(src, dst, protocol);
            let packets = u32::from(packet.packets());
            Self { tuple, len, packets, hash: 0, transport: Transport::Broken }
        }))
    }

    fn read_packet(packet: &Packet) -> Option<Self> {
        let parsed = &packet.parsed;
        if parsed.kind == Kind::Broken {
            return None;
        }
        let head = packet.head();
        let bytes = head.get(usize::from(parsed.l4)..head.len().min(parsed.end as usize))?;
        let len = parsed.end - u32::from(parsed.l3);
        let transport = match parsed.kind {
            // Checked, and with its ports in the key.
            Kind::Tcp => {
                Transport::Tcp(TcpView::read(bytes, parsed.end.checked_sub(parsed.payload.into())?)?)
            }
            _ => return Self::read(&parsed.flow, len, bytes, parsed.end - u32::from(parsed.l4)),
        };
        let tuple = FlowTuple::of(&parsed.flow);
        let mut view = Self { tuple, len, packets: 1, hash: parsed.hash, transport };
        if packet.is_merged()
            && let Transport::Tcp(tcp) = &mut view.transport
        {
            // The last one has the FIN, and of acknowledgments the farthest.
            let last = TcpHeader::parse(packet.last_head().get(usize::from(parsed.l4)..)?)?;
            tcp.flags |= last.flags & (Flags::FIN | Flags::PSH);
            (tcp.ack, tcp.window) = (last.ack, last.window);
            view.packets = u32::from(packet.packets());
        }
        Some(view)
    }

    /// Of an IP packet of ours, from its IP header on, of which `bytes` has at least all headers; `None` when it is none.
    #[must_use]
    pub fn of_ip(bytes: &[u8]) -> Option<Self> {
        let ip = IpHeader::read(bytes)?;
        let transport = bytes.get(ip.header_len..)?;
        Self::read(&ip.flow, ip.total_len, transport, ip.total_len.checked_sub(ip.header_len as u32)?)
    }

    /// `bytes`: from the transport header on, `transport_len`: how long that is on the wire.
    fn read(flow: &FlowKey, len: u32, bytes: &[u8], transport_len: u32) -> Option<Self> {
        let transport = match flow.protocol {
            protocol::TCP => {
                let header_len = u32::from(bytes.get(12)? >> 4) * 4;
                Transport::Tcp(TcpView::read(bytes, transport_len.checked_sub(header_len)?)?)
            }
            number if has_ports(number) => Transport::Ports,
            protocol::ICMPV4 | protocol::ICMPV6 => icmp(flow, bytes)?,
            _ => Transport::Other,
        };
        let tuple = match transport {
            Transport::Query { kind, .. } => {
                let identifier = u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]);
                FlowTuple::query(flow.src, flow.dst, flow.protocol, kind, identifier)?
            }
            _ => tuple(flow, bytes)?,
        };
        Some(Self { tuple, len, packets: 1, hash: 0, transport })
    }
}

/// UDP, DCCP, SCTP and UDP-Lite have their ports where TCP has them.
fn has_ports(number: u8) -> bool {
    matches!(number, protocol::UDP | 33 | 132 | 136)
}

fn tuple(flow: &FlowKey, transport: &[u8]) -> Option<FlowTuple> {
    let mut ports = [0; 4];
    if flow.protocol == protocol::TCP || has_ports(flow.protocol) {
        ports.copy_from_slice(transport.get(..4)?);
    }
    let [a, b, c, d] = ports;
    let src = SocketAddr::new(flow.src, u16::from_be_bytes([a, b]));
    let dst = SocketAddr::new(flow.dst, u16::from_be_bytes([c, d]));
    Some(FlowTuple::new(src, dst, flow.protocol))
}

fn icmp(flow: &FlowKey, bytes: &[u8]) -> Option<Transport> {
    let [kind, code, ..] = *bytes else { return None };
    let ipv6 = flow.protocol == protocol::ICMPV6;
    if FlowTuple::query(flow.src, flow.dst, flow.protocol, kind, 0).is_some() {
        return Some(Transport::Query { kind, code });
    }
    // A redirect (5) is an error by its form, but what it says is about the route.
    let error = if ipv6 { kind < 128 } else { matches!(kind, 3 | 4 | 11 | 12) };
    if !error {
        return Some(Transport::Icmp { kind, code });
    }
    Some(Transport::Error { kind, code, quoted: bytes.get(ICMP_HEADER..).and_then(quoted) })
}

/// The tuple of a quoted packet.
fn quoted(bytes: &[u8]) -> Option<FlowTuple> {
    let ip = IpHeader::read(bytes)?;
    let transport = bytes.get(ip.header_len..)?;
    match ip.flow.protocol {
        protocol::ICMPV4 | protocol::ICMPV6 => {
            let identifier = u16::from_be_bytes([*transport.get(4)?, *transport.get(5)?]);
            FlowTuple::query(ip.flow.src, ip.flow.dst, ip.flow.protocol, *transport.first()?, identifier)
        }
        _ => tuple(&ip.flow, transport),
    }
}

/// An IP header and, for IPv6, the extension headers behind it.
pub(super) struct IpHeader {
    pub(super) flow: FlowKey,
    /// Up to the transport header, bytes.
    pub(super) header_len: usize,
    /// What the header says.
    pub(super) total_len: u32,
}

impl IpHeader {
    /// Reads the front of an IP packet, options included (RFC 5508 REQ-3b); `None` for a later fragment, when a header is
    /// cut off, or where IPv6 has IPv4-mapped addresses, which no packet has (RFC 4291 section 2.5.5.2) and tuples keep IPv4's in.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::ipv4(bytes),
            6 => Self::ipv6(bytes),
            _ => None,
        }
    }

    fn ipv4(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = bytes.first_chunk()?;
        let header_len = usize::from(fixed[0] & 0xf) * 4;
        let later_fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0;
        if header_len < fixed.len() || later_fragment {
            return None;
        }
        let addr = |at: usize| IpAddr::from([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let flow = FlowKey { src: addr(12), dst: addr(16), protocol: fixed[9], ..FlowKey::default() };
        Some(Self { flow, header_len, total_len: u32::from(u16::from_be_bytes([fixed[2], fixed[3]])) })
    }

    fn ipv6(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; 40] = bytes.first_chunk()?;
        let addr = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&fixed[at..at + 16]).expect("16 bytes"));
        let (src, dst) = (addr(8), addr(24));
        if src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some() {
            return None;
        }
        let (mut next, mut at) = (fixed[6], fixed.len());
        for _ in 0..=crate::limits::IPV6_EXTENSION_HEADERS {
            let header = match next {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                    let header = bytes.get(at..at + 8)?;
                    (header[0], (usize::from(header[1]) + 1) * 8)
                }
                protocol::FRAGMENT => {
                    let header = bytes.get(at..at + 8)?;
                    if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                        return None;
                    }
                    (header[0], 8)
                }
                _ => {
                    let (src, dst) = (src.into(), dst.into());
                    let flow = FlowKey { src, dst, protocol: next, ..FlowKey::default() };
                    let payload_len = u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
                    return Some(Self { flow, header_len: at, total_len: 40 + payload_len });
                }
            };
            (next, at) = (header.0, at + header.1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp_v4() -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7];
        bytes.extend_from_slice(&[0x04, 0xd2, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
        bytes
    }

    /// It would be taken for IPv4's.
    #[test]
    fn ipv6_has_no_ipv4_mapped_addresses() {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(2));
        bytes.extend_from_slice(&udp_v4()[20..]);
        assert!(PacketView::of_ip(&bytes).is_some());
        for at in [8, 24] {
            let mut mapped = bytes.clone();
            mapped[at..at + 12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
            assert!(PacketView::of_ip(&mapped).is_none());
        }
    }

    #[test]
    fn a_datagram_shows_its_flow() {
        let view = PacketView::of_ip(&udp_v4()).unwrap();
        assert_eq!(view.tuple.source(), "192.0.2.1:1234".parse().unwrap());
        assert_eq!(view.tuple.destination(), "198.51.100.7:53".parse().unwrap());
        assert_eq!(view.len, 32);
        assert!(matches!(view.transport, Transport::Ports));
    }

    #[test]
    fn an_error_shows_the_flow_it_quotes() {
        let mut bytes = vec![0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1];
        bytes.extend_from_slice(&[3, 3, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&udp_v4()[..28]);
        let view = PacketView::of_ip(&bytes).unwrap();
        let Transport::Error { kind: 3, code: 3, quoted: Some(quoted) } = view.transport else {
            panic!("{view:?}")
        };
        assert_eq!(quoted, PacketView::of_ip(&udp_v4()).unwrap().tuple);
    }

    #[test]
    fn a_quote_without_ports_is_no_flow() {
        let mut bytes = vec![0x45, 0, 0, 50, 0, 0, 0, 0, 64, 1, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1];
        bytes.extend_from_slice(&[3, 3, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&udp_v4()[..22]);
        let view = PacketView::of_ip(&bytes).unwrap();
        assert!(matches!(view.transport, Transport::Error { quoted: None, .. }));
    }

    #[test]
    fn a_syn_shows_its_options() {
        let mut bytes = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7];
        bytes
            .extend_from_slice(&[0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0xa0, 2, 0xfa, 0xf0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
        let view = PacketView::of_ip(&bytes).unwrap();
        let Transport::Tcp(tcp) = view.transport else { panic!("{view:?}") };
        assert_eq!((tcp.window_scale, tcp.sack_permitted, tcp.window), (Some(7), true, 64_240));
        assert_eq!((tcp.seq, tcp.end()), (SeqNumber(9), SeqNumber(10)));
    }

    proptest! {
        /// Whatever the bytes: a view or none, no panic.
        #[test]
        fn any_bytes_are_survived(first in prop::sample::select(vec![0x45u8, 0x4f, 0x60, 0x46, 0]), rest in prop::collection::vec(any::<u8>(), 0..200), protocol in prop::sample::select(vec![1u8, 6, 17, 58, 0, 44, 60])) {
            let mut bytes = vec![first];
            bytes.extend(rest);
            if let Some(place) = bytes.get_mut(if first >> 4 == 4 { 9 } else { 6 }) {
                *place = protocol;
            }
            let _ = PacketView::of_ip(&bytes);
        }
    }
}
