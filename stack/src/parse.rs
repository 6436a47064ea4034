//! One pass over a packet's headers: where each begins, the flow's key and hash, and whether it may go on.
//!
//! Packets come from the driver (or from reassembly, whole) and go on to the shard's next step by their [`Kind`]. Checked
//! here, once: Ethernet and IP destination, lengths, checksums, martian and spoofed sources (RFC 1122 section 3.2.1.3),
//! IPv6 extension headers (RFC 8200 section 4). Whoever comes later may trust the offsets.

mod last;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip::SipHasher13;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet};

use crate::config::Cidr;
use crate::counters::DropReason;
use crate::limits;
use crate::packet::Packet;
use crate::packet::checksum::Sum;
pub(crate) use last::{Last, parse_after};

/// What kind of packet it is, for the shard's next step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// Not parsed yet.
    #[default]
    Unparsed,
    /// ARP.
    Arp,
    /// A whole TCP segment with a good header and checksum.
    Tcp,
    /// A whole UDP datagram with a good header and checksum.
    Udp,
    /// ICMP for IPv4.
    Icmpv4,
    /// ICMP for IPv6, neighbour discovery included.
    Icmpv6,
    /// A fragment of an IPv4 or IPv6 packet.
    Fragment,
    /// Another IP protocol, or none.
    Other,
    /// A packet in transit whose transport header or checksum is wrong: its destination is to judge (RFC 1812 section 2.2.1:
    /// routers forward by the IP header).
    Broken,
}

/// The five-tuple of a packet; ports are 0 where the protocol has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol number of the transport header.
    pub protocol: u8,
}

impl Default for FlowKey {
    fn default() -> Self {
        let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self { src: none, dst: none, src_port: 0, dst_port: 0, protocol: 0 }
    }
}

/// Offsets and key found by [`parse`], all offsets from the packet's first byte (the Ethernet header's).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    /// Kind of packet.
    pub kind: Kind,
    /// Start of the IP (or ARP) header.
    pub l3: u16,
    /// Start of the transport header.
    pub l4: u16,
    /// Start of the transport payload (TCP and UDP), else equal to `l4`.
    pub payload: u16,
    /// End of the IP packet: what is behind it is Ethernet padding.
    pub end: u32,
    /// The two ECN bits of the IP header (RFC 3168 section 5).
    pub ecn: u8,
    /// The six bits of the Diffserv field beside them (RFC 2474 section 3).
    pub dscp: u8,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// It is for another host, and the policy says to forward: [`crate::net`] decides where to.
    pub transit: bool,
    /// The sender left the transport checksum to the device (only the pseudo-header's sum is in the field).
    pub partial_checksum: bool,
    /// The flow.
    pub flow: FlowKey,
    /// Hash of the flow, the same for a flow's every packet in one direction; 0 where there is no flow.
    pub hash: u32,
}

impl Parsed {
    /// The whole octet that IPv4 called type of service and IPv6 calls traffic class.
    #[must_use]
    pub fn tos(&self) -> u8 {
        self.dscp << 2 | self.ecn
    }

    /// The flow became another by translation: its key and hash.
    pub(crate) fn set_flow(&mut self, flow: FlowKey, hash_keys: (u64, u64)) {
        self.flow = flow;
        self.hash = flow_hash(&flow, hash_keys);
    }
}

/// What a parser must know of the interface to tell which packets are for it. Addresses and groups are few (bounded by
/// [`crate::limits::INTERFACE_ADDRESSES`]) and looked through in order.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Our Ethernet address.
    pub mac: EthernetAddress,
    /// Our addresses with their links' prefixes.
    pub addresses: Vec<Cidr>,
    /// Multicast groups we are in, besides all-nodes, all-systems and the solicited-node groups of our addresses.
    pub groups: Vec<IpAddr>,
    /// Accept transport checksums that are only the pseudo-header's sum.
    pub partial_checksums: bool,
    /// Accept unicast packets to other hosts, as [`Parsed::transit`].
    pub forwarding: bool,
    /// Accept DHCP's answers (UDP from port 67 to port 68) whatever IPv4 address they were sent to.
    pub dhcp: bool,
    /// Secret of the flow hash: that of the connection table ([`crate::tcp::Tcp::hash_keys`]) where packets go to one.
    pub hash_keys: (u64, u64),
}

impl Policy {
    /// Whether `addr` is one of our addresses.
    #[must_use]
    pub fn is_ours(&self, addr: IpAddr) -> bool {
        self.addresses.iter().any(|cidr| cidr.addr == addr)
    }

    /// Whether `addr` is the limited broadcast address or that of one of our links (RFC 1122 section 3.2.1.3).
    #[must_use]
    pub fn is_broadcast(&self, addr: Ipv4Addr) -> bool {
        addr.is_broadcast()
            || self.addresses.iter().any(|cidr| match cidr.addr {
                IpAddr::V4(own) if cidr.prefix_len < 31 => {
                    u32::from(own) | (u32::MAX >> cidr.prefix_len) == u32::from(addr)
                }
                _ => false,
            })
    }

    /// Whether we listen to the multicast group `addr`.
    #[must_use]
    pub fn in_group(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(group) if group == ALL_SYSTEMS => return true,
            IpAddr::V6(group) if group == ALL_NODES => return true,
            IpAddr::V6(group) if group.octets()[..13] == SOLICITED_NODE_PREFIX => {
                let ours = |cidr: &Cidr| match cidr.addr {
                    IpAddr::V6(own) => own.octets()[13..] == group.octets()[13..],
                    IpAddr::V4(_) => false,
                };
                return self.addresses.iter().any(ours);
            }
            _ => {}
        }
        self.groups.contains(&addr)
    }
}

/// Why a packet goes no further, and the answer its sender should get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The counter to raise.
    pub reason: DropReason,
    /// ICMPv6 Parameter Problem to send, if any.
    pub answer: Option<ParameterProblem>,
}

/// An ICMPv6 Parameter Problem (RFC 4443 section 3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParameterProblem {
    /// 0: erroneous field, 1: unrecognised next header, 2: unrecognised option.
    pub code: u8,
    /// Offset of the offending octet from the IPv6 header's first.
    pub pointer: u32,
    /// Whether it is sent even when the packet's destination was a multicast group.
    pub to_multicast_too: bool,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, answer: None }
    }
}

const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ARP_PACKET: usize = 28;
/// IPv4 options that routers write to (RFC 791 section 3.1).
pub(crate) const RECORD_ROUTE: u8 = 7;
pub(crate) const TIMESTAMP: u8 = 68;
/// The timestamp option's flag: only the routers that it names write to it.
pub(crate) const TIMESTAMP_PRESPECIFIED: u8 = 3;
const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const SOLICITED_NODE_PREFIX: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
/// IEEE 802.1Q, 802.1ad and the older stacked tag.
const VLAN_TYPES: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const DHCP_SERVER_PORT: u16 = 67;
const DHCP_CLIENT_PORT: u16 = 68;

/// IP protocol numbers that the stack knows by name (IANA's registry).
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200 section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMPV4: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200 section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200 section 4.5).
    pub const FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows (RFC 8200 section 4.7).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options (RFC 8200 section 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Looks at a packet's headers once, from Ethernet to the transport header, and says what it is. The packet is not changed;
/// the caller stores the result in [`Packet::parsed`].
///
/// # Errors
/// The reason to drop the packet: it is malformed, not for us, or must not be on the wire.
pub fn parse(packet: &Packet, policy: &Policy) -> Result<Parsed, Refusal> {
    parse_after(packet, policy, &mut Last::default()).copied()
}

/// All but the hash. What was found is written in place: handing it up from function to function copies it each time.
fn headers(packet: &Packet, policy: &Policy, parsed: &mut Parsed) -> Result<(), Refusal> {
    let head = packet.head();
    let ethernet = head.get(..ETHERNET_HEADER).ok_or(DropReason::Truncated)?;
    let ethernet = EthernetFrame::new_unchecked(ethernet);
    let cast = match ethernet.dst_addr() {
        dst if dst == policy.mac => Cast::Unicast,
        dst if !dst.is_unicast() => Cast::Group,
        _ => return Err(DropReason::NotForUs.into()),
    };
    if !ethernet.src_addr().is_unicast() {
        return Err(DropReason::Martian.into());
    }
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => ipv4(packet, policy, cast, parsed),
        EthernetProtocol::Ipv6 => ipv6(packet, policy, cast, parsed),
        EthernetProtocol::Arp => {
            let end = ETHERNET_HEADER + ARP_PACKET;
            if head.len() < end {
                return Err(DropReason::Truncated.into());
            }
            let l3 = ETHERNET_HEADER as u16;
            *parsed =
                Parsed { kind: Kind::Arp, l3, l4: l3, payload: l3, end: end as u32, ..Parsed::default() };
            Ok(())
        }
        EthernetProtocol::Unknown(tag) if VLAN_TYPES.contains(&tag) => Err(DropReason::VlanTagged.into()),
        EthernetProtocol::Unknown(_) => Err(DropReason::UnknownEtherType.into()),
    }
}

/// How the link layer addressed the frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cast {
    Unicast,
    /// Broadcast or multicast.
    Group,
}

fn ipv4(packet: &Packet, policy: &Policy, cast: Cast, parsed: &mut Parsed) -> Result<(), Refusal> {
    let l3 = ETHERNET_HEADER;
    let bytes = &packet.head()[l3..];
    if bytes.len() < IPV4_HEADER {
        return Err(DropReason::Truncated.into());
    }
    let header = Ipv4Packet::new_unchecked(bytes);
    let header_len = usize::from(header.header_len());
    if header.version() != 4 || header_len < IPV4_HEADER {
        return Err(DropReason::BadIpVersion.into());
    }
    let end = l3 + usize::from(header.total_len());
    if header_len > bytes.len() || l3 + header_len > end || end > packet.len() {
        return Err(DropReason::Truncated.into());
    }
    let mut sum = Sum::ZERO;
    sum.add(&bytes[..header_len]);
    if !sum.is_valid() {
        return Err(DropReason::BadIpChecksum.into());
    }

    let (src, dst) = (header.src_addr(), header.dst_addr());
    let number = bytes[9];
    let fragment = header.more_frags() || header.frag_offset() != 0;
    let group = dst.is_multicast() || policy.is_broadcast(dst);
    ipv4_source(src, dst, number, policy)?;
    if dst.is_loopback() || dst.octets()[0] == 0 {
        return Err(DropReason::Martian.into());
    }
    let dhcp = policy.dhcp && number == protocol::UDP && !fragment && is_dhcp(&bytes[header_len..]);
    let ours =
        if dst.is_multicast() { policy.in_group(dst.into()) } else { group || policy.is_ours(dst.into()) };
    // RFC 1122 section 3.3.6: a link-layer broadcast must be an IP broadcast or multicast.
    // RFC 1812 section 5.3.4: what came as a link-layer broadcast is not forwarded; RFC 3927 section 2.7: nor is link-local.
    let transit = policy.forwarding
        && !(ours || dhcp)
        && cast == Cast::Unicast
        && !(dst.is_multicast() || dst.octets()[0] >= 240)
        && !(dst.is_link_local() || src.is_link_local() || src.is_unspecified());
    if !(ours && (cast == Cast::Unicast || group) || dhcp || transit) {
        return Err(DropReason::NotForUs.into());
    }
    ipv4_options(&bytes[IPV4_HEADER..header_len]).map_err(|refusal| match cast {
        Cast::Unicast if !group => refusal,
        _ => refusal.reason.into(),
    })?;
    *parsed = Parsed {
        transit,
        l3: l3 as u16,
        l4: (l3 + header_len) as u16,
        payload: (l3 + header_len) as u16,
        end: end as u32,
        ecn: header.ecn(),
        dscp: header.dscp(),
        hop_limit: header.hop_limit(),
        flow: FlowKey { src: src.into(), dst: dst.into(), protocol: number, ..FlowKey::default() },
        ..Parsed::default()
    };
    if fragment {
        parsed.kind = Kind::Fragment;
        return Ok(());
    }
    transport(packet, policy, parsed, group)
}

/// RFC 1122 section 3.2.1.3: sources that must not be on the wire.
fn ipv4_source(src: Ipv4Addr, dst: Ipv4Addr, number: u8, policy: &Policy) -> Result<(), DropReason> {
    if policy.is_ours(src.into()) {
        return Err(DropReason::SpoofedSelf);
    }
    // 0.0.0.0 is for hosts that do not know their address yet: DHCP clients, and IGMP queriers without one.
    let unconfigured =
        src.is_unspecified() && (number == protocol::IGMP || number == protocol::UDP && dst.is_broadcast());
    let reserved = src.octets()[0] == 0 || src.octets()[0] >= 224 || src.is_loopback();
    if policy.is_broadcast(src) || reserved && !unconfigured { Err(DropReason::Martian) } else { Ok(()) }
}

/// RFC 791 section 3.1: every option lies within the header; what is wrong is answered (RFC 1122 section 3.2.2.5, RFC 1812
/// section 4.3.3.5). Source routes are refused, as RFC 7126 section 4.3 advises. RFC 9293 section 3.9.2.1, MUST-50.
fn ipv4_options(options: &[u8]) -> Result<(), Refusal> {
    let mut at = 0;
    while let [kind, rest @ ..] = &options[at..] {
        let problem = |behind: usize| {
            let pointer = (IPV4_HEADER + at + behind) as u32;
            let answer = ParameterProblem { code: 0, pointer, to_multicast_too: false };
            Refusal { reason: DropReason::BadIpOption, answer: Some(answer) }
        };
        let len = match (kind, rest.first()) {
            (0, _) => return Ok(()),
            (1, _) => 1,
            (131 | 137, _) => return Err(DropReason::SourceRoute.into()),
            (_, Some(&len)) if len >= 2 && usize::from(len) <= rest.len() + 1 => usize::from(len),
            _ => return Err(problem(0)),
        };
        match (kind, &options[at..at + len]) {
            // Too short for a pointer; or the pointer is into the option's own head, or leaves no room for an address.
            (&RECORD_ROUTE, [_, _]) | (&TIMESTAMP, [_, _] | [_, _, _]) => return Err(problem(1)),
            (&RECORD_ROUTE, [_, _, pointer, ..]) => {
                let room = (len + 1).checked_sub(usize::from(*pointer));
                if *pointer < 4 || room.is_some_and(|room| (1..4).contains(&room)) {
                    return Err(problem(2));
                }
            }
            (&TIMESTAMP, [_, _, pointer, flags, ..]) => {
                if *pointer < 5 {
                    return Err(problem(2));
                }
                // RFC 791: the count of routers that found no room must not overflow.
                let full = usize::from(*pointer) > len;
                if full && flags & 0xf != TIMESTAMP_PRESPECIFIED && flags >> 4 == 15 {
                    return Err(problem(3));
                }
            }
            _ => {}
        }
        at += len;
    }
    Ok(())
}

fn is_dhcp(udp: &[u8]) -> bool {
    udp.len() >= 4 && udp[..4] == [0, DHCP_SERVER_PORT as u8, 0, DHCP_CLIENT_PORT as u8]
}

fn ipv6(packet: &Packet, policy: &Policy, cast: Cast, parsed: &mut Parsed) -> Result<(), Refusal> {
    let l3 = ETHERNET_HEADER;
    let bytes = &packet.head()[l3..];
    if bytes.len() < IPV6_HEADER {
        return Err(DropReason::Truncated.into());
    }
    let header = Ipv6Packet::new_unchecked(bytes);
    if header.version() != 6 {
        return Err(DropReason::BadIpVersion.into());
    }
    let end = l3 + IPV6_HEADER + usize::from(header.payload_len());
    if end > packet.len() {
        return Err(DropReason::Truncated.into());
    }
    let (src, dst) = (header.src_addr(), header.dst_addr());
    let first = bytes[6];
    if policy.is_ours(src.into()) {
        return Err(DropReason::SpoofedSelf.into());
    }
    let no_host = |addr: Ipv6Addr| addr.is_loopback() || addr.to_ipv4_mapped().is_some();
    // RFC 4291 section 2.5.2: the unspecified address is the source of a host that is still checking its own (ICMPv6).
    let unconfigured = src.is_unspecified() && matches!(first, protocol::ICMPV6 | protocol::HOP_BY_HOP);
    if src.is_multicast()
        || no_host(src)
        || src.is_unspecified() && !unconfigured
        || no_host(dst)
        || dst.is_unspecified()
    {
        return Err(DropReason::Martian.into());
    }
    let group = dst.is_multicast();
    let ours = if group { policy.in_group(dst.into()) } else { policy.is_ours(dst.into()) };
    // RFC 4291 section 2.5.6: link-local packets are not forwarded.
    let transit = policy.forwarding
        && !(ours || group)
        && cast == Cast::Unicast
        && !(dst.is_unicast_link_local() || src.is_unicast_link_local() || src.is_unspecified());
    if !(ours || transit) || cast == Cast::Group && !group {
        return Err(DropReason::NotForUs.into());
    }
    *parsed = Parsed {
        transit,
        l3: l3 as u16,
        end: end as u32,
        ecn: header.traffic_class() & 3,
        dscp: header.traffic_class() >> 2,
        hop_limit: header.hop_limit(),
        flow: FlowKey { src: src.into(), dst: dst.into(), protocol: first, ..FlowKey::default() },
        ..Parsed::default()
    };
    // What is behind the first frame cannot be a header: RFC 7112 wants the chain in the first fragment, we in one frame.
    let chain = &packet.head()[..packet.head().len().min(end)];
    *parsed = extension_headers(chain, *parsed)?;
    if parsed.kind == Kind::Fragment {
        return Ok(());
    }
    if src.is_unspecified() && parsed.flow.protocol != protocol::ICMPV6 {
        return Err(DropReason::Martian.into());
    }
    transport(packet, policy, parsed, group)
}

/// Walks IPv6's extension headers (RFC 8200 section 4) up to the transport header or a real fragment's header; `l4` and the
/// flow's protocol are set to what was found.
fn extension_headers(chain: &[u8], parsed: Parsed) -> Result<Parsed, Refusal> {
    let l3 = usize::from(parsed.l3);
    let (mut at, mut next, mut next_field) = (l3 + IPV6_HEADER, parsed.flow.protocol, l3 + 6);
    for count in 0.. {
        let problem = |code, at: usize| Refusal {
            reason: DropReason::BadExtensionHeader,
            answer: Some(ParameterProblem { code, pointer: (at - l3) as u32, to_multicast_too: false }),
        };
        if !matches!(
            next,
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
        ) {
            break;
        }
        if count == limits::IPV6_EXTENSION_HEADERS {
            return Err(DropReason::BadExtensionHeader.into());
        }
        // RFC 8200 section 4.1: hop-by-hop options come first or not at all.
        if next == protocol::HOP_BY_HOP && count > 0 {
            return Err(problem(1, next_field));
        }
        let fixed = chain.get(at..at + 8).ok_or(DropReason::Truncated)?;
        let len = if next == protocol::FRAGMENT { 8 } else { (usize::from(fixed[1]) + 1) * 8 };
        let header = chain.get(at..at + len).ok_or(DropReason::Truncated)?;
        match next {
            protocol::FRAGMENT => {
                // RFC 6946: a fragment that is the whole packet is taken as such.
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0 {
                    return Ok(Parsed {
                        kind: Kind::Fragment,
                        l4: at as u16,
                        payload: at as u16,
                        flow: FlowKey { protocol: protocol::FRAGMENT, ..parsed.flow },
                        ..parsed
                    });
                }
            }
            // RFC 8200 section 4.4; type 0 is deprecated (RFC 5095) and gets the same answer.
            // RFC 8200 section 4: only the destination looks into these.
            protocol::ROUTING | protocol::DESTINATION_OPTIONS if parsed.transit => {}
            protocol::ROUTING if header[3] != 0 || header[2] == 0 => {
                return Err(Refusal { reason: DropReason::SourceRoute, ..problem(0, at + 2) });
            }
            protocol::ROUTING => {}
            _ => options(header, at - l3)?,
        }
        (next_field, next) = (at, header[0]);
        at += len;
    }
    let flow = FlowKey { protocol: next, ..parsed.flow };
    Ok(Parsed { l4: at as u16, payload: at as u16, flow, ..parsed })
}

/// RFC 8200 section 4.2: the options of a hop-by-hop or destination header at `offset` from the IPv6 header; the two high
/// bits of an unknown option's type say what to do about it.
fn options(header: &[u8], offset: usize) -> Result<(), Refusal> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    let (mut at, mut count) = (2, 0);
    while let Some(&kind) = header.get(at) {
        if kind == PAD1 {
            at += 1;
            continue;
        }
        let Some(&len) = header.get(at + 1) else { return Err(DropReason::BadExtensionHeader.into()) };
        let next = at + 2 + usize::from(len);
        count += usize::from(kind != PADN);
        if next > header.len() || count > limits::IPV6_OPTIONS {
            return Err(DropReason::BadExtensionHeader.into());
        }
        if !matches!(kind, PADN | ROUTER_ALERT) && kind >> 6 != 0 {
            let problem =
                ParameterProblem { code: 2, pointer: (offset + at) as u32, to_multicast_too: kind >> 6 == 2 };
            let answer = (kind >> 6 >= 2).then_some(problem);
            return Err(Refusal { reason: DropReason::BadExtensionHeader, answer });
        }
        at = next;
    }
    Ok(())
}

/// The transport header at `l4`: lengths, ports, checksum.
fn transport(packet: &Packet, policy: &Policy, parsed: &mut Parsed, group: bool) -> Result<(), Refusal> {
    let head = packet.head();
    let head = &head[..head.len().min(parsed.end as usize)];
    let bytes = head.get(usize::from(parsed.l4)..).ok_or(DropReason::Truncated)?;
    let read = match (parsed.flow.protocol, parsed.flow.dst) {
        // RFC 9293 section 3.9.2.3 (MUST-57): TCP is between two hosts.
        (protocol::TCP, _) if group => Err(DropReason::NotForUs),
        (protocol::TCP, _) => tcp(packet, policy, parsed, bytes),
        (protocol::UDP, _) => udp(packet, policy, parsed, bytes),
        (protocol::ICMPV4, IpAddr::V4(_)) => icmp(packet, parsed, bytes, Kind::Icmpv4),
        (protocol::ICMPV6, IpAddr::V6(_)) => icmp(packet, parsed, bytes, Kind::Icmpv6),
        _ => {
            parsed.kind = Kind::Other;
            Ok(())
        }
    };
    match read {
        // A checksum that was left to a device stays one to complain of here.
        Err(reason) if parsed.transit && reason != DropReason::PartialChecksum => {
            (parsed.flow.src_port, parsed.flow.dst_port) = (0, 0);
            (parsed.kind, parsed.payload, parsed.partial_checksum) = (Kind::Broken, parsed.l4, false);
            Ok(())
        }
        read => Ok(read?),
    }
}

/// RFC 9293 section 3.1, MUST-3.
fn tcp(packet: &Packet, policy: &Policy, parsed: &mut Parsed, bytes: &[u8]) -> Result<(), DropReason> {
    if bytes.len() < TCP_HEADER {
        return Err(DropReason::Truncated);
    }
    let header_len = usize::from(bytes[12] >> 4) * 4;
    if header_len < TCP_HEADER || header_len > bytes.len() {
        return Err(DropReason::BadTcpHeader);
    }
    set_ports(&mut parsed.flow, bytes);
    if parsed.flow.src_port == 0 || parsed.flow.dst_port == 0 {
        return Err(DropReason::BadTcpHeader);
    }
    let field = u16::from_be_bytes([bytes[16], bytes[17]]);
    parsed.partial_checksum = checksum(packet, policy, parsed, field, DropReason::BadTcpChecksum)?;
    parsed.payload = parsed.l4 + header_len as u16;
    parsed.kind = Kind::Tcp;
    Ok(())
}

fn udp(packet: &Packet, policy: &Policy, parsed: &mut Parsed, bytes: &[u8]) -> Result<(), DropReason> {
    if bytes.len() < UDP_HEADER {
        return Err(DropReason::Truncated);
    }
    let len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    set_ports(&mut parsed.flow, bytes);
    if len < UDP_HEADER || usize::from(parsed.l4) + len > parsed.end as usize || parsed.flow.dst_port == 0 {
        return Err(DropReason::BadUdpHeader);
    }
    // Bytes between the datagram's end and the packet's are nobody's and not in the checksum.
    let datagram = Parsed { end: u32::from(parsed.l4) + len as u32, ..*parsed };
    let field = u16::from_be_bytes([bytes[6], bytes[7]]);
    // RFC 768: zero means no checksum; RFC 8200 section 8.1: not over IPv6, but for tunnels, which are their ends' to judge.
    parsed.partial_checksum = match field {
        0 if parsed.flow.dst.is_ipv4() || parsed.transit => false,
        _ => checksum(packet, policy, &datagram, field, DropReason::BadUdpChecksum)?,
    };
    parsed.payload = parsed.l4 + UDP_HEADER as u16;
    parsed.kind = Kind::Udp;
    Ok(())
}

fn icmp(packet: &Packet, parsed: &mut Parsed, bytes: &[u8], kind: Kind) -> Result<(), DropReason> {
    if bytes.len() < 8 {
        return Err(DropReason::Truncated);
    }
    let mut sum = if kind == Kind::Icmpv6 { pseudo_header(parsed) } else { Sum::ZERO };
    add_transport(&mut sum, packet, parsed);
    parsed.kind = kind;
    if sum.is_valid() { Ok(()) } else { Err(DropReason::BadIcmp) }
}

fn set_ports(flow: &mut FlowKey, bytes: &[u8]) {
    flow.src_port = u16::from_be_bytes([bytes[0], bytes[1]]);
    flow.dst_port = u16::from_be_bytes([bytes[2], bytes[3]]);
}

fn pseudo_header(parsed: &Parsed) -> Sum {
    let len = parsed.end - u32::from(parsed.l4);
    Sum::pseudo_header(parsed.flow.src, parsed.flow.dst, parsed.flow.protocol, len)
}

/// Verifies the transport checksum over all frames of the packet; `true`: it is only the pseudo-header's sum, left to a device
/// that was never reached, and the policy accepts that. `wrong` is the reason to drop a packet with any other.
fn checksum(
    packet: &Packet,
    policy: &Policy,
    parsed: &Parsed,
    field: u16,
    wrong: DropReason,
) -> Result<bool, DropReason> {
    let mut sum = pseudo_header(parsed);
    let is_partial = field == sum.folded();
    if is_partial && policy.partial_checksums {
        return Ok(true);
    }
    add_transport(&mut sum, packet, parsed);
    match sum.is_valid() {
        true => Ok(false),
        false if is_partial => Err(DropReason::PartialChecksum),
        false => Err(wrong),
    }
}

/// Adds the transport header and what follows it, over all frames.
fn add_transport(sum: &mut Sum, packet: &Packet, parsed: &Parsed) {
    let (start, end) = (usize::from(parsed.l4), parsed.end as usize);
    match packet.head().get(start..end) {
        Some(bytes) => sum.add(bytes),
        None => packet.pieces(start..end).for_each(|piece| sum.add(piece)),
    }
}

/// SipHash of the five-tuple, so that nobody outside can aim flows at one bucket or shard. Of TCP it is what the connection
/// table goes by (`TupleKey::hash`), so that a packet is hashed once.
pub(crate) fn flow_hash(flow: &FlowKey, keys: (u64, u64)) -> u32 {
    let hasher = SipHasher13::new_with_keys(keys.0, keys.1);
    let ports = |bytes: &mut [u8]| {
        bytes[..2].copy_from_slice(&flow.src_port.to_be_bytes());
        bytes[2..4].copy_from_slice(&flow.dst_port.to_be_bytes());
        bytes[4] = flow.protocol;
    };
    if let (IpAddr::V4(src), IpAddr::V4(dst)) = (flow.src, flow.dst) {
        let mut bytes = [0; 13];
        bytes[..4].copy_from_slice(&src.octets());
        bytes[4..8].copy_from_slice(&dst.octets());
        ports(&mut bytes[8..]);
        return hasher.hash(&bytes) as u32;
    }
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    };
    let mut bytes = [0; 37];
    bytes[..16].copy_from_slice(&octets(flow.src));
    bytes[16..32].copy_from_slice(&octets(flow.dst));
    ports(&mut bytes[32..]);
    hasher.hash(&bytes) as u32
}

#[cfg(test)]
mod tests;
