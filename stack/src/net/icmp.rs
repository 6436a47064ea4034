//! ICMP's errors, both versions: reads those about TCP segments and UDP datagrams of ours (RFC 1122 section 3.2.2,
//! RFC 4443 section 3, RFC 1191, RFC 8201) and builds those that this host must send. Echo is answered by smoltcp ([`super::iface`]).

use core::net::{IpAddr, SocketAddr};

use super::egress::{IPV4_HEADER, IPV6_HEADER, Output};
use super::fragment::write_header;
use super::udp::{UdpFault, UdpTrouble};
use crate::limits;
use crate::packet::Packet;
use crate::packet::checksum::Sum;
use crate::parse::{ParameterProblem, Policy, protocol};
use crate::shard::NetError;
use crate::tcp::seq::SeqNumber;
use crate::tcp::{IcmpError, IcmpErrorKind, Tuple};
use crate::time::Instant;

const ICMP_HEADER: usize = 8;
/// RFC 1812 section 4.3.2.3: as much of the offending packet as fits 576 bytes.
const IPV4_ERROR_MAX: usize = 576;
/// RFC 4443 section 2.4 (c): as much as fits the minimum MTU.
const IPV6_ERROR_MAX: usize = 1280;
/// Precedence 6 and the four bits behind it, ECN's left out, of an IPv4 header's second octet (RFC 791 section 3.1).
const INTERNETWORK_CONTROL: u8 = 0xc0;
const TOS_BITS: u8 = 0x1c;
/// RFC 1191 section 7: what to assume when a router does not say its MTU.
const PLATEAUS: [u32; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68];

/// An error to send about a received packet. RFC 5508 REQ-10: these a NAT has to tell, but source quench (RFC 5508 REQ-10c1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Complaint {
    /// No UDP socket has the port.
    PortUnreachable,
    /// Nobody here handles the protocol; for IPv6 with the offset of the field that names it.
    ProtocolUnreachable(u32),
    /// A rule rejects it: destination unreachable, with the code for each IP version.
    Prohibited {
        /// RFC 792, RFC 1812 section 5.2.7.1.
        ipv4: u8,
        /// RFC 4443 section 3.1.
        ipv6: u8,
    },
    /// A packet's fragments did not all arrive in time.
    ReassemblyTimeout,
    /// Forwarding would bring the time to live, or hop limit, to 0 (RFC 5508 REQ-10a2).
    TimeExceeded,
    /// It does not fit the next link, whose MTU this is, and must not be cut (RFC 5508 REQ-10a1).
    TooBig {
        /// In bytes.
        mtu: u16,
    },
    /// There is no route to its destination.
    NetUnreachable,
    /// The neighbour that it goes to, by now translated, does not answer.
    HostUnreachable,
    /// A field of its headers is wrong (RFC 5508 REQ-10b5).
    Parameter(ParameterProblem),
}

/// An ICMP error as it concerns us.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Received {
    /// About a TCP segment of ours.
    Tcp(IcmpError),
    /// About a UDP datagram of ours.
    Udp(UdpFault),
    /// About something else of ours, or of a kind that calls for nothing.
    Ignored,
    /// It quotes nothing of ours.
    Malformed,
}

/// Whether an ICMP message of this type reports an error (RFC 1122 section 3.2.2, RFC 4443 section 2.1).
pub(crate) fn is_error(ipv6: bool, kind: u8) -> bool {
    if ipv6 { kind < 128 } else { matches!(kind, 3 | 4 | 5 | 11 | 12) }
}

/// Reads an ICMP error (the message from its type on, checksum verified).
pub(crate) fn read_error(ipv6: bool, message: &[u8], policy: &Policy) -> Received {
    let Some((header, quote)) = message.split_at_checked(ICMP_HEADER) else { return Received::Malformed };
    let Some(quoted) = Quote::read(ipv6, quote) else { return Received::Malformed };
    if !policy.is_ours(quoted.src) {
        return Received::Malformed;
    }
    let word = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let kind = if ipv6 {
        ipv6_kind(header[0], header[1], word)
    } else {
        ipv4_kind(header[0], header[1], word, quoted.total_len)
    };
    match (kind, quoted.sender()) {
        (Some(kind), Some(Sender::Tcp(tuple, seq))) => Received::Tcp(IcmpError { tuple, seq, kind }),
        // Of the others Linux tells a socket only when it asks for them (IP_RECVERR): they may pass.
        (Some(IcmpErrorKind::Refused), Some(Sender::Udp(Tuple { local, remote }))) => {
            let what = UdpTrouble::Error(NetError::ConnectionRefused);
            Received::Udp(UdpFault { local, remote, what })
        }
        // Over IPv4 routers cut our datagrams to size.
        (Some(IcmpErrorKind::PacketTooBig { mtu }), Some(Sender::Udp(Tuple { local, remote }))) if ipv6 => {
            let mtu = mtu.min(u16::MAX.into()) as u16;
            Received::Udp(UdpFault { local, remote, what: UdpTrouble::TooBig { mtu } })
        }
        (_, None) if quoted.protocol == protocol::TCP => Received::Malformed,
        _ => Received::Ignored,
    }
}

/// What sent a packet of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sender {
    /// A connection, with the segment's sequence number.
    Tcp(Tuple, SeqNumber),
    /// A UDP socket.
    Udp(Tuple),
}

/// Who sent a packet of ours, given as an IP packet (or its beginning).
pub(crate) fn sender_of(packet: &[u8]) -> Option<Sender> {
    let ipv6 = packet.first()? >> 4 == 6;
    Quote::read(ipv6, packet)?.sender()
}

/// Sends `complaint` about `packet` (from its Ethernet header on, parsed or at least the whole IP header checked), unless it
/// must not be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)) or the rate limit forbids.
pub(crate) fn complain(
    now: Instant,
    complaint: Complaint,
    about: &[u8],
    policy: &Policy,
    output: &mut Output,
) {
    let Some(offender) = about.get(super::egress::ETHERNET_HEADER..) else { return };
    let ipv6 = offender.first().is_some_and(|first| first >> 4 == 6);
    let Some((from, to)) = parties(ipv6, complaint, offender, policy, output) else { return };
    let Some((kind, code, word)) = complaint.fields(ipv6) else { return };
    if !output.may_send_icmp(now) {
        return;
    }
    output.counters.icmp_tx += 1;
    let (ip_header, max, number) = if ipv6 {
        (IPV6_HEADER, IPV6_ERROR_MAX, protocol::ICMPV6)
    } else {
        (IPV4_HEADER, IPV4_ERROR_MAX, protocol::ICMPV4)
    };
    let quote = &offender[..offender.len().min(max - ip_header - ICMP_HEADER)];
    let len = ICMP_HEADER + quote.len();
    let mut packet = vec![0; ip_header + len];
    // RFC 1812 section 4.3.2.5: of the precedence of internetwork control, else as what it is about.
    let tos = if ipv6 { 0 } else { INTERNETWORK_CONTROL | offender[1] & TOS_BITS };
    write_header(&mut packet, from, to, number, len, tos, limits::HOP_LIMIT);
    let message = &mut packet[ip_header..];
    (message[0], message[1]) = (kind, code);
    message[4..8].copy_from_slice(&word.to_be_bytes());
    message[ICMP_HEADER..].copy_from_slice(quote);
    let mut sum = if ipv6 { Sum::pseudo_header(from, to, number, len as u32) } else { Sum::ZERO };
    sum.add(message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    // What is said of a packet in transit tells of it as it was before translation: nothing is to be translated back.
    if policy.is_ours(about_dst(ipv6, offender)) || complaint == Complaint::HostUnreachable {
        output.send_ip(now, &mut packet);
    } else {
        output.send_untranslated(now, &mut packet);
    }
}

/// The destination of a packet whose IP header is whole.
fn about_dst(ipv6: bool, packet: &[u8]) -> IpAddr {
    if ipv6 {
        smoltcp::wire::Ipv6Packet::new_unchecked(packet).dst_addr().into()
    } else {
        smoltcp::wire::Ipv4Packet::new_unchecked(packet).dst_addr().into()
    }
}

/// [`complain`] about a received packet as a whole.
pub(crate) fn complain_about(
    now: Instant,
    complaint: Complaint,
    packet: &Packet,
    policy: &Policy,
    output: &mut Output,
) {
    let mut about = Vec::new();
    let end = super::egress::ETHERNET_HEADER + IPV6_ERROR_MAX;
    packet.pieces(0..end).for_each(|piece| about.extend_from_slice(piece));
    complain(now, complaint, &about, policy, output);
}

impl Complaint {
    /// Type, code and the word behind the checksum.
    fn fields(self, ipv6: bool) -> Option<(u8, u8, u32)> {
        match (self, ipv6) {
            (Self::PortUnreachable, false) => Some((3, 3, 0)),
            (Self::PortUnreachable, true) => Some((1, 4, 0)),
            (Self::ProtocolUnreachable(_), false) => Some((3, 2, 0)),
            (Self::ProtocolUnreachable(pointer), true) => Some((4, 1, pointer)),
            (Self::Prohibited { ipv4, .. }, false) => Some((3, ipv4, 0)),
            (Self::Prohibited { ipv6, .. }, true) => Some((1, ipv6, 0)),
            (Self::ReassemblyTimeout, false) => Some((11, 1, 0)),
            (Self::ReassemblyTimeout, true) | (Self::HostUnreachable, false) => Some((3, 1, 0)),
            (Self::TimeExceeded, false) => Some((11, 0, 0)),
            (Self::TimeExceeded, true) | (Self::NetUnreachable, false) => Some((3, 0, 0)),
            (Self::TooBig { mtu }, false) => Some((3, 4, mtu.into())),
            (Self::TooBig { mtu }, true) => Some((2, 0, mtu.into())),
            (Self::NetUnreachable, true) => Some((1, 0, 0)),
            (Self::HostUnreachable, true) => Some((1, 3, 0)),
            (Self::Parameter(problem), true) => Some((4, problem.code, problem.pointer)),
            (Self::Parameter(problem), false) => Some((12, problem.code, problem.pointer << 24)),
        }
    }
}

/// From whom to whom an error about `offender` goes; `None`: it must not be sent (RFC 5508 REQ-10e).
fn parties(
    ipv6: bool,
    complaint: Complaint,
    offender: &[u8],
    policy: &Policy,
    output: &Output,
) -> Option<(IpAddr, IpAddr)> {
    let quoted = Quote::read(ipv6, offender)?;
    let about_error = match quoted.protocol {
        protocol::ICMPV4 | protocol::ICMPV6 => is_error(ipv6, *quoted.transport.first()?),
        _ => false,
    };
    let host = match quoted.src {
        IpAddr::V4(src) => !(src.is_unspecified() || src.is_multicast() || policy.is_broadcast(src)),
        IpAddr::V6(src) => !(src.is_unspecified() || src.is_multicast()),
    };
    if about_error || !host {
        return None;
    }
    if policy.is_ours(quoted.dst) {
        return Some((quoted.dst, quoted.src));
    }
    if policy.forwarding && !quoted.dst.is_multicast() {
        // RFC 1812 section 4.3.2.7: not about a fragment but the first. Section 4.3.2.4: from an address of the link by which
        // it goes; where the sender was translated to an address of ours, of the other.
        let source = || output.routes.source(quoted.src).or_else(|| output.routes.source(quoted.dst));
        return if quoted.later { None } else { Some((source()?, quoted.src)) };
    }
    let exempt = matches!(complaint, Complaint::Parameter(problem) if problem.to_multicast_too);
    let from = if exempt && quoted.dst.is_multicast() { output.routes.source(quoted.src) } else { None };
    from.map(|from| (from, quoted.src))
}

/// RFC 9293 section 3.9.2.2, MUST-55.
fn ipv4_kind(kind: u8, code: u8, word: u32, quoted_len: u32) -> Option<IcmpErrorKind> {
    match (kind, code) {
        // RFC 1122 section 4.2.3.9: protocol and port unreachable are hard errors; RFC 1191 section 4 for code 4.
        (3, 2 | 3) => Some(IcmpErrorKind::Refused),
        (3, 4) => {
            let plateau = || PLATEAUS.into_iter().find(|plateau| *plateau < quoted_len).unwrap_or(68);
            let mtu = match word & 0xffff {
                0 => plateau(),
                mtu => mtu,
            };
            Some(IcmpErrorKind::PacketTooBig { mtu })
        }
        (3, _) | (11, 0) => Some(IcmpErrorKind::Unreachable),
        _ => None,
    }
}

fn ipv6_kind(kind: u8, code: u8, word: u32) -> Option<IcmpErrorKind> {
    match (kind, code) {
        // RFC 4443 section 3.1: 4 is port unreachable, 1 and 5 to 6 are administrative.
        (1, 4) | (4, 1) => Some(IcmpErrorKind::Refused),
        (1, _) | (3, 0) => Some(IcmpErrorKind::Unreachable),
        // RFC 8201 section 4: nothing below the minimum is believed.
        (2, _) if word >= IPV6_ERROR_MAX as u32 => Some(IcmpErrorKind::PacketTooBig { mtu: word }),
        _ => None,
    }
}

/// The beginning of an IP packet.
struct Quote<'a> {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    total_len: u32,
    /// An IPv4 fragment other than the first.
    later: bool,
    /// Empty for such a fragment.
    transport: &'a [u8],
}

impl<'a> Quote<'a> {
    fn read(ipv6: bool, bytes: &'a [u8]) -> Option<Self> {
        let octets = |range: core::ops::Range<usize>| bytes.get(range);
        if ipv6 {
            let src: [u8; 16] = octets(8..24)?.try_into().ok()?;
            let dst: [u8; 16] = octets(24..40)?.try_into().ok()?;
            let total_len = 40 + u32::from(u16::from_be_bytes([bytes[4], bytes[5]]));
            // We send TCP without extension headers, so a quote with some is not about it.
            let (protocol, transport) = (bytes[6], &bytes[IPV6_HEADER..]);
            let (src, dst) = (IpAddr::from(src), IpAddr::from(dst));
            return (bytes[0] >> 4 == 6).then_some(Self {
                src,
                dst,
                protocol,
                total_len,
                later: false,
                transport,
            });
        }
        let src: [u8; 4] = octets(12..16)?.try_into().ok()?;
        let dst: [u8; 4] = octets(16..20)?.try_into().ok()?;
        let header_len = usize::from(bytes[0] & 0xf) * 4;
        if bytes[0] >> 4 != 4 || header_len < IPV4_HEADER {
            return None;
        }
        let later = u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff != 0;
        Some(Self {
            src: src.into(),
            dst: dst.into(),
            protocol: bytes[9],
            total_len: u32::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            later,
            transport: if later { &[] } else { bytes.get(header_len..)? },
        })
    }

    fn sender(&self) -> Option<Sender> {
        let bytes = self.transport.get(..8)?;
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let tuple =
            Tuple { local: SocketAddr::new(self.src, port(0)), remote: SocketAddr::new(self.dst, port(2)) };
        let seq = SeqNumber(u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]));
        match self.protocol {
            protocol::TCP => Some(Sender::Tcp(tuple, seq)),
            protocol::UDP => Some(Sender::Udp(tuple)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
