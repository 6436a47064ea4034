//! Parsing a burst: of a packet whose Ethernet and IP headers are those of the one before, only the length, the IP checksum
//! and what follows are looked at. A property test (`tests.rs`) shows that a burst parses as its packets do one by one.

use core::net::IpAddr;

use super::{
    ETHERNET_HEADER, FlowKey, IPV4_HEADER, IPV6_HEADER, Kind, Parsed, Policy, Refusal, TCP_HEADER,
    UDP_HEADER, flow_hash, headers, protocol, transport,
};
use crate::packet::Packet;
use crate::packet::checksum::Sum;

/// As [`parse`], after other packets of a burst, with the same policy: what they have in common is not looked at again. What is
/// found is left where the next packet looks for it.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_after<'a>(
    packet: &Packet,
    policy: &Policy,
    last: &'a mut Last,
) -> Result<&'a Parsed, Refusal> {
    if let Some(end) = last.network_end(packet.head()) {
        let is_next = match last.parsed.flow.protocol {
            protocol::TCP => last.is_next_segment(packet.head(), end, policy),
            _ => last.is_next_datagram(packet.head(), end, policy),
        };
        if is_next {
            return Ok(&last.parsed);
        }
        if end <= packet.len() {
            let l4 = last.parsed.l4;
            let mut parsed = Parsed { payload: l4, end: end as u32, partial_checksum: false, ..last.parsed };
            transport(packet, policy, &mut parsed, false)?;
            let ports = |flow: &FlowKey| (flow.src_port, flow.dst_port);
            if ports(&parsed.flow) != ports(&last.parsed.flow) {
                parsed.hash = flow_hash(&parsed.flow, policy.hash_keys);
            }
            last.parsed = parsed;
            return Ok(&last.parsed);
        }
    }
    let mut parsed = Parsed::default();
    headers(packet, policy, &mut parsed)?;
    if !matches!(parsed.kind, Kind::Arp | Kind::Fragment) {
        let known = last.parsed.hash != 0 && last.parsed.flow == parsed.flow;
        parsed.hash = if known { last.parsed.hash } else { flow_hash(&parsed.flow, policy.hash_keys) };
    }
    last.note(packet, policy, parsed);
    Ok(&last.parsed)
}

/// The packet parsed last, for [`parse_after`]: in most bursts the next one comes from the same neighbour and host, and what
/// holds of its Ethernet and IP headers holds again.
#[derive(Clone, Debug)]
pub(crate) struct Last {
    parsed: Parsed,
    /// Ethernet and IP header, of IPv4 without options and of IPv6 without extension headers; if neither, nothing.
    network: [u8; NETWORK_MAX],
    kind: Network,
    /// The pseudo-header's sum without the length.
    pseudo_header: Sum,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Network {
    Unknown,
    Ipv4,
    Ipv6,
}

const NETWORK_V4: usize = ETHERNET_HEADER + IPV4_HEADER;
const NETWORK_MAX: usize = ETHERNET_HEADER + IPV6_HEADER;

impl Default for Last {
    fn default() -> Self {
        let (network, kind) = ([0; NETWORK_MAX], Network::Unknown);
        Self { parsed: Parsed::default(), network, kind, pseudo_header: Sum::ZERO }
    }
}

impl Last {
    /// Another policy holds from now on.
    pub(crate) fn forget(&mut self) {
        self.kind = Network::Unknown;
    }

    /// Remembers a packet. Only of unicast TCP and UDP nothing but the transport header is left to look at in the next; where
    /// DHCP's answers are accepted whatever their address, of TCP only.
    fn note(&mut self, packet: &Packet, policy: &Policy, parsed: Parsed) {
        self.parsed = parsed;
        let head = packet.head();
        let is_unicast = head[..6] == policy.mac.0;
        let is_plain = match parsed.kind {
            Kind::Tcp => true,
            Kind::Udp => !policy.dhcp && (parsed.transit || policy.is_ours(parsed.flow.dst)),
            _ => false,
        };
        self.kind = match (parsed.flow.dst, usize::from(parsed.l4)) {
            _ if !is_unicast || !is_plain => Network::Unknown,
            (IpAddr::V4(_), NETWORK_V4) => Network::Ipv4,
            (IpAddr::V6(_), NETWORK_MAX) => Network::Ipv6,
            _ => Network::Unknown,
        };
        if self.kind != Network::Unknown {
            let (flow, l4) = (&parsed.flow, usize::from(parsed.l4));
            self.network[..l4].copy_from_slice(&head[..l4]);
            self.pseudo_header = Sum::pseudo_header(flow.src, flow.dst, flow.protocol, 0);
        }
    }

    /// Where the IP packet ends that begins with `head`, if its headers before the transport header are the last packet's but
    /// for length, IPv4 identification and checksum, which are checked: then all that [`headers`] finds out before it comes
    /// to the transport header is as it was.
    fn network_end(&self, head: &[u8]) -> Option<usize> {
        match self.kind {
            Network::Unknown => None,
            Network::Ipv4 => {
                let (next, last) =
                    (head.first_chunk::<NETWORK_V4>()?, self.network.first_chunk::<NETWORK_V4>()?);
                let same =
                    next[..16] == last[..16] && next[20..24] == last[20..24] && next[26..] == last[26..];
                let word = |at: usize| {
                    u64::from(u32::from_ne_bytes([next[at], next[at + 1], next[at + 2], next[at + 3]]))
                };
                let sum = word(14) + word(18) + word(22) + word(26) + word(30);
                let end = ETHERNET_HEADER + usize::from(u16::from_be_bytes([next[16], next[17]]));
                (same && Sum::of_words(sum).is_valid() && end >= NETWORK_V4).then_some(end)
            }
            Network::Ipv6 => {
                let next = head.first_chunk::<NETWORK_MAX>()?;
                let same = next[..18] == self.network[..18] && next[20..] == self.network[20..];
                same.then(|| NETWORK_MAX + usize::from(u16::from_be_bytes([next[18], next[19]])))
            }
        }
    }

    /// Whether the packet in `head`, which ends at `end` and whose network headers are as the last one's, is a TCP segment in one
    /// frame with a good header and checksum; if so, it is remembered. If not, [`transport`] says what it is.
    fn is_next_segment(&mut self, head: &[u8], end: usize, policy: &Policy) -> bool {
        let l4 = usize::from(self.parsed.l4);
        let Some(bytes) = head.get(l4..end) else { return false };
        let Some(tcp) = bytes.first_chunk::<TCP_HEADER>() else { return false };
        let header_len = usize::from(tcp[12] >> 4) * 4;
        let ports = (u16::from_be_bytes([tcp[0], tcp[1]]), u16::from_be_bytes([tcp[2], tcp[3]]));
        if header_len < TCP_HEADER || header_len > bytes.len() || ports.0 == 0 || ports.1 == 0 {
            return false;
        }
        let mut sum = self.pseudo_header;
        sum.add_word(bytes.len() as u16);
        if u16::from_be_bytes([tcp[16], tcp[17]]) == sum.folded() {
            return false;
        }
        sum.add(bytes);
        if !sum.is_valid() {
            return false;
        }
        self.set_transport(Kind::Tcp, l4 + header_len, end, ports, policy);
        true
    }

    /// As [`Last::is_next_segment`], of a UDP datagram that fills its packet.
    fn is_next_datagram(&mut self, head: &[u8], end: usize, policy: &Policy) -> bool {
        let l4 = usize::from(self.parsed.l4);
        let Some(bytes) = head.get(l4..end) else { return false };
        let Some(udp) = bytes.first_chunk::<UDP_HEADER>() else { return false };
        let [src_port, dst_port, len, field] =
            [0, 2, 4, 6].map(|at| u16::from_be_bytes([udp[at], udp[at + 1]]));
        if usize::from(len) != bytes.len() || dst_port == 0 {
            return false;
        }
        // RFC 768: zero means no checksum.
        if field != 0 || self.kind != Network::Ipv4 {
            let mut sum = self.pseudo_header;
            sum.add_word(len);
            if field == sum.folded() {
                return false;
            }
            sum.add(bytes);
            if !sum.is_valid() {
                return false;
            }
        }
        self.set_transport(Kind::Udp, l4 + UDP_HEADER, end, (src_port, dst_port), policy);
        true
    }

    #[inline]
    fn set_transport(&mut self, kind: Kind, payload: usize, end: usize, ports: (u16, u16), policy: &Policy) {
        let parsed = &mut self.parsed;
        parsed.kind = kind;
        parsed.payload = payload as u16;
        parsed.end = end as u32;
        parsed.partial_checksum = false;
        if ports != (parsed.flow.src_port, parsed.flow.dst_port) {
            (parsed.flow.src_port, parsed.flow.dst_port) = ports;
            parsed.hash = flow_hash(&parsed.flow, policy.hash_keys);
        }
    }
}
