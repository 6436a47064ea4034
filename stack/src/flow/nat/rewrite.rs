//! Changes addresses and ports of a packet in place, and its checksums by what changed (RFC 1624 section 3, equation 3;
//! RFC 3022 section 4.2), also in the packet that an ICMP error quotes (RFC 5508 section 4.2).

use core::net::IpAddr;

use crate::flow::FlowTuple;
use crate::flow::view::IpHeader;
use crate::packet::checksum::Sum;
use crate::parse::protocol;

/// Why a packet could not be changed: a header is cut off, or it is not of the flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the packet's headers are not whole")]
pub struct Unreadable;

/// What a checksum field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// The checksum.
    Whole,
    /// The folded sum of the pseudo-header alone, for a device to complete (`CHECKSUM_PARTIAL`).
    Partial,
}

/// The change of a one's complement sum, word by word.
#[derive(Clone, Copy, Default)]
struct Delta {
    sum: u32,
}

impl Delta {
    /// `old` becomes `new`, both of the same even length.
    fn change(&mut self, old: &[u8], new: &[u8]) {
        for (old, new) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
            let (old, new) = (u16::from_be_bytes([old[0], old[1]]), u16::from_be_bytes([new[0], new[1]]));
            self.sum += u32::from(!old) + u32::from(new);
        }
    }

    fn fold(mut sum: u32) -> u16 {
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum after the change.
    fn apply(self, field: u16, checksum: Checksum) -> u16 {
        match checksum {
            Checksum::Whole => !Self::fold(u32::from(!field) + u32::from(Self::fold(self.sum))),
            Checksum::Partial => Self::fold(u32::from(field) + u32::from(Self::fold(self.sum))),
        }
    }
}

/// Gives an IP packet the addresses and ports of `to`. `packet`: from the IP header on, at least to the end of the transport
/// header's checksum.
///
/// # Errors
/// [`Unreadable`]; the packet is not changed then.
pub fn rewrite(packet: &mut [u8], to: &FlowTuple, checksum: Checksum) -> Result<(), Unreadable> {
    let ip = IpHeader::read(packet).ok_or(Unreadable)?;
    let (header, transport) = packet.split_at_mut_checked(ip.header_len).ok_or(Unreadable)?;
    let field = checksum_offset(ip.flow.protocol);
    if field.is_some_and(|at| at + 2 > transport.len()) {
        return Err(Unreadable);
    }
    let addresses = rewrite_addresses(header, to);
    let Some(at) = field else { return Ok(()) };
    let ports = rewrite_ports(transport, ip.flow.protocol, to);
    update_transport(transport, at, ip.flow.protocol, addresses, ports, checksum);
    Ok(())
}

/// What a flow's translation does to the sums of its packets, of TCP or UDP, so that it is computed once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    /// By how much the sum of the addresses changes.
    addresses: u16,
    /// The same of the ports.
    ports: u16,
}

impl Translation {
    /// From a flow's tuple to what it becomes.
    pub(crate) fn new(from: &FlowTuple, to: &FlowTuple) -> Self {
        let (mut addresses, mut ports) = (Delta::default(), Delta::default());
        let (before, after) = (from.octets(), to.octets());
        addresses.change(before.0, after.0);
        addresses.change(before.1, after.1);
        ports.change(&from.port_octets(), &to.port_octets());
        Self { addresses: Delta::fold(addresses.sum), ports: Delta::fold(ports.sum) }
    }

    /// As [`rewrite`] with a whole checksum. `to`: that of [`Translation::new`]; the packet, from its IP header without options
    /// on, has the other tuple.
    #[inline]
    pub(crate) fn make(self, packet: &mut [u8], to: &FlowTuple) {
        let addresses = Delta { sum: self.addresses.into() };
        let transport = if packet[0] >> 4 == 4 {
            let Some((header, transport)) = packet.split_first_chunk_mut::<20>() else { return };
            let field = u16::from_be_bytes([header[10], header[11]]);
            header[10..12].copy_from_slice(&addresses.apply(field, Checksum::Whole).to_be_bytes());
            header[12..20].copy_from_slice(&to.ipv4_octets());
            transport
        } else {
            let Some((header, transport)) = packet.split_first_chunk_mut::<40>() else { return };
            header[8..40].copy_from_slice(&to.ipv6_octets());
            transport
        };
        let at = if to.protocol == protocol::TCP { 16 } else { 6 };
        let Some(transport) = transport.get_mut(..at + 2) else { return };
        transport[..4].copy_from_slice(&to.port_octets());
        let ports = Delta { sum: self.ports.into() };
        update_transport(transport, at, to.protocol, addresses, ports, Checksum::Whole);
    }
}

/// Gives an ICMP error the addresses `from` and `to`, and the packet that it quotes the addresses and ports of `quoted`.
/// `packet`: from the IP header on, the whole error, with a checksum that is right.
///
/// # Errors
/// [`Unreadable`]; the packet is not changed then. So it is where the quoted IPv4 header's checksum is wrong (RFC 5508 REQ-3a).
pub fn rewrite_error(
    packet: &mut [u8],
    from: IpAddr,
    to: IpAddr,
    quoted: &FlowTuple,
) -> Result<(), Unreadable> {
    const ICMP_HEADER: usize = 8;
    let outer = IpHeader::read(packet).ok_or(Unreadable)?;
    // What follows the packet in its frame is not quoted, and in no sum.
    let end = packet.len().min(outer.total_len as usize);
    let packet = &mut packet[..end];
    let (header, message) = packet.split_at_mut_checked(outer.header_len).ok_or(Unreadable)?;
    let (icmp, quote) = message.split_at_mut_checked(ICMP_HEADER).ok_or(Unreadable)?;
    let inner = IpHeader::read(quote).ok_or(Unreadable)?;
    let header_is_intact = || {
        let mut sum = Sum::ZERO;
        sum.add(&quote[..inner.header_len]);
        quote[0] >> 4 == 6 || sum.is_valid()
    };
    if quote.len() < inner.header_len + 4 || !header_is_intact() {
        return Err(Unreadable);
    }
    // RFC 5508 REQ-3c, REQ-3d: what is behind the quoted headers, extensions included, is neither looked at nor changed.
    // The quoted bytes are data of the ICMP message: each change of them, checksums included, is one of its sum.
    let mut delta = Delta::default();
    // A quote of odd length has its last byte in a word of its own; nothing is changed there.
    let even = quote.len() & !1;
    let before: [u8; QUOTE_MAX] = snapshot(&quote[..even]);
    let (inner_header, inner_transport) = quote.split_at_mut(inner.header_len);
    let addresses = rewrite_addresses(inner_header, quoted);
    let ports = rewrite_ports(inner_transport, inner.flow.protocol, quoted);
    if let Some(at) = checksum_offset(inner.flow.protocol).filter(|at| at + 2 <= inner_transport.len()) {
        update_transport(inner_transport, at, inner.flow.protocol, addresses, ports, Checksum::Whole);
    }
    let len = even.min(QUOTE_MAX);
    delta.change(&before[..len], &quote[..len]);
    let outer_tuple = FlowTuple::portless(from, to, outer.flow.protocol);
    let outer_addresses = rewrite_addresses(header, &outer_tuple);
    if outer.flow.protocol == protocol::ICMPV6 {
        delta.sum += u32::from(Delta::fold(outer_addresses.sum));
    }
    let field = u16::from_be_bytes([icmp[2], icmp[3]]);
    icmp[2..4].copy_from_slice(&delta.apply(field, Checksum::Whole).to_be_bytes());
    Ok(())
}

/// Bytes of a quote in which something may be changed: an IPv6 header with eight extension headers is more than any quote
/// worth translating; IPv4's longest header and TCP's checksum field end before.
const QUOTE_MAX: usize = 512;

fn snapshot(bytes: &[u8]) -> [u8; QUOTE_MAX] {
    let mut copy = [0; QUOTE_MAX];
    let len = bytes.len().min(QUOTE_MAX);
    copy[..len].copy_from_slice(&bytes[..len]);
    copy
}

/// Where in the transport header its checksum is; `None`: it has none that covers addresses or ports.
fn checksum_offset(number: u8) -> Option<usize> {
    match number {
        protocol::TCP => Some(16),
        protocol::UDP | 136 => Some(6),
        protocol::ICMPV4 | protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

/// What of the checksum is over addresses, and whether a zero field means that there is none.
#[inline]
fn update_transport(
    transport: &mut [u8],
    at: usize,
    number: u8,
    addresses: Delta,
    ports: Delta,
    checksum: Checksum,
) {
    let field = u16::from_be_bytes([transport[at], transport[at + 1]]);
    if number == protocol::UDP && field == 0 {
        return; // RFC 768: no checksum.
    }
    let mut delta = if checksum == Checksum::Whole { ports } else { Delta::default() };
    if number != protocol::ICMPV4 {
        delta.sum += u32::from(Delta::fold(addresses.sum));
    }
    let mut new = delta.apply(field, checksum);
    if number == protocol::UDP && new == 0 {
        new = 0xffff;
    }
    transport[at..at + 2].copy_from_slice(&new.to_be_bytes());
}

/// Writes the addresses and, for IPv4, the header's checksum.
fn rewrite_addresses(header: &mut [u8], to: &FlowTuple) -> Delta {
    let mut delta = Delta::default();
    match (to.src(), to.dst()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if header[0] >> 4 == 4 => {
            let mut new = [0; 8];
            new[..4].copy_from_slice(&src.octets());
            new[4..].copy_from_slice(&dst.octets());
            delta.change(&header[12..20], &new);
            header[12..20].copy_from_slice(&new);
            let field = u16::from_be_bytes([header[10], header[11]]);
            header[10..12].copy_from_slice(&delta.apply(field, Checksum::Whole).to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) if header[0] >> 4 == 6 => {
            let mut new = [0; 32];
            new[..16].copy_from_slice(&src.octets());
            new[16..].copy_from_slice(&dst.octets());
            delta.change(&header[8..40], &new);
            header[8..40].copy_from_slice(&new);
        }
        _ => debug_assert!(false, "a flow's addresses are of one IP version"),
    }
    delta
}

/// Writes the ports, or an ICMP query's identifier.
fn rewrite_ports(transport: &mut [u8], number: u8, to: &FlowTuple) -> Delta {
    let mut delta = Delta::default();
    let ports = (u32::from(to.src_port) << 16 | u32::from(to.dst_port)).to_be_bytes();
    let identifier = to.icmp_query().map(|(_, identifier)| identifier.to_be_bytes());
    let (at, new) = match (number, &identifier) {
        (protocol::ICMPV4 | protocol::ICMPV6, Some(identifier)) => (4, identifier.as_slice()),
        (protocol::TCP | protocol::UDP | 136, _) => (0, ports.as_slice()),
        _ => return delta,
    };
    let Some(place) = transport.get_mut(at..at + new.len()) else { return delta };
    delta.change(place, new);
    place.copy_from_slice(new);
    delta
}

/// The sum of a whole packet's transport part with its pseudo-header, for tests and for who completes a checksum.
#[must_use]
pub fn transport_sum(packet: &[u8]) -> Option<u16> {
    let ip = IpHeader::read(packet)?;
    let transport = packet.get(ip.header_len..ip.total_len as usize)?;
    let mut sum = match ip.flow.protocol {
        protocol::ICMPV4 => Sum::ZERO,
        number => Sum::pseudo_header(ip.flow.src, ip.flow.dst, number, transport.len() as u32),
    };
    sum.add(transport);
    Some(sum.folded())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::view::{PacketView, Transport};
    use core::net::SocketAddr;
    use proptest::prelude::*;

    /// An IP packet with good checksums.
    fn packet(tuple: &FlowTuple, number: u8, payload: &[u8]) -> Vec<u8> {
        let mut transport = match number {
            protocol::TCP => [&[0; 12][..], &[0x50, 0x10, 1, 0, 0, 0, 0, 0], payload].concat(),
            protocol::UDP => {
                [&[0; 4][..], &(8 + payload.len() as u16).to_be_bytes(), &[0, 0], payload].concat()
            }
            _ => [&[tuple.icmp_query().unwrap().0, 0, 0, 0, 0, 0, 0, 1][..], payload].concat(),
        };
        match tuple.icmp_query() {
            Some((_, identifier)) => transport[4..6].copy_from_slice(&identifier.to_be_bytes()),
            None => {
                transport[..2].copy_from_slice(&tuple.src_port.to_be_bytes());
                transport[2..4].copy_from_slice(&tuple.dst_port.to_be_bytes());
            }
        }
        let mut packet = ip_header(tuple.src(), tuple.dst(), number, transport.len());
        packet.extend(transport);
        let sum = transport_sum(&packet).unwrap();
        let at = IpHeader::read(&packet).unwrap().header_len + checksum_offset(number).unwrap();
        packet[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
        packet
    }

    fn ip_header(src: IpAddr, dst: IpAddr, number: u8, len: usize) -> Vec<u8> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, number, 0, 0];
                header[2..4].copy_from_slice(&(20 + len as u16).to_be_bytes());
                header.extend(src.octets());
                header.extend(dst.octets());
                let mut sum = Sum::ZERO;
                sum.add(&header);
                header[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
                header
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, number, 64];
                header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
                header.extend(src.octets());
                header.extend(dst.octets());
                header
            }
            _ => unreachable!(),
        }
    }

    fn intact(packet: &[u8]) -> bool {
        let ip = IpHeader::read(packet).unwrap();
        let mut header = Sum::ZERO;
        header.add(&packet[..ip.header_len]);
        let ipv4 = packet[0] >> 4 == 4;
        (!ipv4 || header.is_valid()) && transport_sum(packet) == Some(0xffff)
    }

    fn flow(ipv4: bool, number: u8) -> impl Strategy<Value = FlowTuple> {
        any::<(u32, u32, u16, u16)>().prop_map(move |(src, dst, src_port, dst_port)| {
            let addr = |low: u32| match ipv4 {
                true => IpAddr::from(low.to_be_bytes()),
                false => IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(low)).to_be_bytes()),
            };
            match number {
                protocol::ICMPV4 => FlowTuple::query(addr(src), addr(dst), number, 8, src_port).unwrap(),
                protocol::ICMPV6 => FlowTuple::query(addr(src), addr(dst), number, 128, src_port).unwrap(),
                _ => FlowTuple::new(
                    SocketAddr::new(addr(src), src_port),
                    SocketAddr::new(addr(dst), dst_port),
                    number,
                ),
            }
        })
    }

    fn flows() -> impl Strategy<Value = (u8, FlowTuple, FlowTuple)> {
        let kinds = [
            (true, protocol::TCP),
            (true, protocol::UDP),
            (true, protocol::ICMPV4),
            (false, protocol::TCP),
            (false, protocol::UDP),
            (false, protocol::ICMPV6),
        ];
        prop::sample::select(kinds.to_vec())
            .prop_flat_map(|(ipv4, number)| (Just(number), flow(ipv4, number), flow(ipv4, number)))
    }

    proptest! {
        /// The packet is as if it had been built with the other addresses and ports; back again it is what it was.
        #[test]
        fn there_and_back_is_the_identity((number, from, to) in flows(), payload in prop::collection::vec(any::<u8>(), 0..60)) {
            let original = packet(&from, number, &payload);
            let mut changed = original.clone();
            rewrite(&mut changed, &to, Checksum::Whole).unwrap();
            prop_assert!(intact(&changed));
            prop_assert_eq!(PacketView::of_ip(&changed).unwrap().tuple, to);
            rewrite(&mut changed, &from, Checksum::Whole).unwrap();
            prop_assert!(intact(&changed));
            let ip_len = IpHeader::read(&original).unwrap().header_len;
            let at = ip_len + checksum_offset(number).unwrap();
            // A sum of zero has two forms; all else is the same to the byte.
            prop_assert_eq!(&changed[ip_len..at], &original[ip_len..at]);
            prop_assert_eq!(&changed[at + 2..], &original[at + 2..]);
        }

        /// What was computed once does the same as what is computed for each packet, to the byte.
        #[test]
        fn a_translation_made_ready_is_the_same((number, from, to) in flows(), payload in prop::collection::vec(any::<u8>(), 0..60), none in any::<bool>()) {
            prop_assume!(matches!(number, protocol::TCP | protocol::UDP));
            let mut changed = packet(&from, number, &payload);
            let transport = IpHeader::read(&changed).unwrap().header_len;
            if none && number == protocol::UDP {
                changed[transport + 6..transport + 8].fill(0);
            }
            let mut quick = changed.clone();
            rewrite(&mut changed, &to, Checksum::Whole).unwrap();
            Translation::new(&from, &to).make(&mut quick, &to);
            prop_assert_eq!(quick, changed);
        }

        /// What a device is to complete is still the pseudo-header's sum.
        #[test]
        fn a_partial_checksum_stays_partial((number, from, to) in flows()) {
            prop_assume!(matches!(number, protocol::TCP | protocol::UDP));
            let mut changed = packet(&from, number, b"some payload");
            let ip = IpHeader::read(&changed).unwrap();
            let at = ip.header_len + checksum_offset(number).unwrap();
            let len = (changed.len() - ip.header_len) as u32;
            let partial = Sum::pseudo_header(from.src(), from.dst(), number, len).folded();
            changed[at..at + 2].copy_from_slice(&partial.to_be_bytes());
            rewrite(&mut changed, &to, Checksum::Partial).unwrap();
            let field = u16::from_be_bytes([changed[at], changed[at + 1]]);
            let wanted = Sum::pseudo_header(to.src(), to.dst(), number, len).folded();
            prop_assert_eq!(field % 0xffff, wanted % 0xffff);
        }

        /// An ICMP error arrives with the addresses its receiver knows, outside and in its quote, and good checksums.
        #[test]
        fn errors_are_changed_with_what_they_quote((number, sent, wire) in flows(), payload in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..60, trailer in prop::collection::vec(any::<u8>(), 0..30)) {
            let ipv4 = sent.is_ipv4();
            let icmp = if ipv4 { protocol::ICMPV4 } else { protocol::ICMPV6 };
            let mut quoted = packet(&wire, number, &payload);
            let least = IpHeader::read(&quoted).unwrap().header_len + 8;
            quoted.truncate(quoted.len().saturating_sub(cut).max(least));
            let router = if ipv4 { IpAddr::from([203, 0, 113, 1]) } else { IpAddr::from((0x2001_0db9_u128 << 96).to_be_bytes()) };
            let message = [&[if ipv4 { 3 } else { 1 }, 1, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
            let mut error = ip_header(router, wire.src(), icmp, message.len());
            error.extend(message);
            let sum = transport_sum(&error).unwrap();
            let at = IpHeader::read(&error).unwrap().header_len + 2;
            error[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());

            let len = error.len();
            error.extend_from_slice(&trailer);
            rewrite_error(&mut error, router, sent.src(), &sent).unwrap();
            prop_assert!(intact(&error));
            prop_assert_eq!(&error[len..], &trailer[..], "behind the packet nothing is changed");
            error.truncate(len);
            let view = PacketView::of_ip(&error).unwrap();
            prop_assert_eq!((view.tuple.src(), view.tuple.dst()), (router, sent.src()));
            let Transport::Error { quoted, .. } = view.transport else { panic!("{view:?}") };
            prop_assert_eq!(quoted, Some(sent));
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..120), first in prop::sample::select(vec![0x45u8, 0x4f, 0x60]), number in prop::sample::select(vec![1u8, 6, 17, 58, 44]), (_, to, _) in flows()) {
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            if let Some(byte) = bytes.get_mut(if first == 0x60 { 6 } else { 9 }) {
                *byte = number;
            }
            let to = if (first == 0x60) == to.is_ipv4() { return Ok(()) } else { to };
            let _ = rewrite(&mut bytes, &to, Checksum::Whole);
            let _ = rewrite_error(&mut bytes, to.src(), to.dst(), &to);
        }
    }

    #[test]
    fn a_datagram_without_a_checksum_stays_without() {
        let from =
            FlowTuple::new("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), protocol::UDP);
        let to = from.with_source("192.0.2.1".parse().unwrap(), 9);
        let mut changed = packet(&from, protocol::UDP, b"x");
        changed[26..28].fill(0);
        rewrite(&mut changed, &to, Checksum::Whole).unwrap();
        assert_eq!(&changed[26..28], &[0, 0]);
    }
}
