//! Neighbour discovery (RFC 4861): answers solicitations for our addresses, learns neighbours, notices who else claims an
//! address of ours (RFC 4862 section 5.4), and sends what this router tells hosts ([`super::router_advert`]). Other routers'
//! messages are not used: routes come from the configuration.
//!
//! Packets come from the shard; solicitations of our own are sent by [`super::egress`]. smoltcp's interface does this too,
//! with the limits that [`super::arp`] names, and without answering hosts that are still checking their address.

use core::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::{ChecksumCapabilities, Medium};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr,
    RawHardwareAddress,
};

use super::Heard;
use super::egress::{IPV6_HEADER, Output};
use super::fragment::write_header;
use super::neighbor::Claim;
use super::route::{ipv6_group, is_link_local};
use super::router_advert::Asker;
use crate::counters::DropReason;
use crate::parse::{ALL_NODES, Policy, SOLICITED_NODE_PREFIX, protocol};
use crate::time::Instant;

/// RFC 4861 sections 7.1.1 and 7.1.2: only neighbours can send with it.
const NDP_HOP_LIMIT: u8 = 255;

/// A neighbour discovery message as received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// From which link.
    pub(crate) link: usize,
    pub(crate) src: Ipv6Addr,
    pub(crate) dst: Ipv6Addr,
    pub(crate) hop_limit: u8,
    /// Source of the frame.
    pub(crate) from: EthernetAddress,
    /// The ICMPv6 message.
    pub(crate) bytes: &'a [u8],
}

/// Whether an ICMPv6 message of this type is neighbour discovery's (RFC 4861 section 4).
pub(crate) fn is_ndp(kind: u8) -> bool {
    (133..=137).contains(&kind)
}

/// What a message says.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Said {
    /// Where a neighbour is.
    pub(crate) heard: Option<Heard>,
    /// A host wants to know of this router.
    pub(crate) asked: Option<Asker>,
}

/// Takes in a neighbour discovery message. `answer`: the addresses are ours alone, so solicitations are ours to answer.
/// Returns what was learned, for the other shards.
pub(crate) fn receive(
    now: Instant,
    message: Message<'_>,
    policy: &Policy,
    answer: bool,
    output: &mut Output,
) -> Said {
    output.counters.ndp_rx += 1;
    let Some(repr) = checked(&message) else {
        output.counters.drop(DropReason::BadNeighborDiscovery);
        return Said::default();
    };
    let mut asked = None;
    let heard = match repr {
        NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
            solicited(now, &message, target_addr, mac_of(lladdr), policy, answer, output)
        }
        NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
            advertised(now, &message, target_addr, mac_of(lladdr), flags, policy, output)
        }
        NdiscRepr::RouterSolicit { lladdr } if output.links[message.link].advertiser.is_some() => {
            output.counters.router_solicitations_rx += 1;
            let mac = mac_of(lladdr).filter(EthernetAddress::is_unicast);
            asked = Some(if message.src.is_unspecified() {
                Asker::All
            } else {
                Asker::Host(message.src, mac.unwrap_or(message.from))
            });
            mac.and_then(|mac| asking(&message, mac, output))
        }
        _ => {
            output.counters.drop(DropReason::IcmpIgnored);
            None
        }
    };
    if let Some(heard) = heard {
        output.heard(now, heard);
    }
    Said { heard, asked }
}

/// A neighbour that asks says where it is.
fn asking(message: &Message<'_>, mac: EthernetAddress, output: &Output) -> Option<Heard> {
    let Message { link, src, .. } = *message;
    let known = mac.is_unicast() && mac != output.links[link].mac && output.routes.is_on(link, src.into());
    known.then_some(Heard { link, addr: src.into(), mac, claim: Claim::Asked })
}

/// RFC 4861 sections 7.1.1 and 7.1.2.
fn checked<'a>(message: &Message<'a>) -> Option<NdiscRepr<'a>> {
    let packet = Icmpv6Packet::new_checked(message.bytes).ok()?;
    if message.hop_limit != NDP_HOP_LIMIT || packet.msg_code() != 0 {
        return None;
    }
    let ignored = ChecksumCapabilities::ignored();
    let Ok(Icmpv6Repr::Ndisc(repr)) = Icmpv6Repr::parse(&message.src, &message.dst, &packet, &ignored) else {
        return None;
    };
    let fine = match repr {
        NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
            let solicited_node = message.dst.octets()[..13] == SOLICITED_NODE_PREFIX;
            let allowed = !message.src.is_unspecified() || lladdr.is_none() && solicited_node;
            allowed && !target_addr.is_multicast()
        }
        NdiscRepr::NeighborAdvert { flags, target_addr, .. } => {
            let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
            let to_all = solicited && message.dst.is_multicast();
            let impossible = to_all || target_addr.is_multicast() || message.src.is_unspecified();
            !impossible
        }
        // RFC 4861 section 6.1.1.
        NdiscRepr::RouterSolicit { lladdr } => !message.src.is_unspecified() || lladdr.is_none(),
        _ => true,
    };
    fine.then_some(repr)
}

/// RFC 4861 section 7.2.3 and 7.2.4.
fn solicited(
    now: Instant,
    message: &Message<'_>,
    target: Ipv6Addr,
    mac: Option<EthernetAddress>,
    policy: &Policy,
    answer: bool,
    output: &mut Output,
) -> Option<Heard> {
    let link = message.link;
    if !(policy.is_ours(target.into()) && output.routes.is_on(link, target.into())) {
        return None;
    }
    if message.src.is_unspecified() {
        // Somebody checks whether an address of ours is free (RFC 4862 section 5.4.3): it is not.
        output.address_conflict(now, target.into(), message.from);
    }
    if answer {
        advertise(output, link, target, message.src, mac.unwrap_or(message.from));
    }
    asking(message, mac?, output)
}

/// RFC 4861 section 7.2.5.
fn advertised(
    now: Instant,
    message: &Message<'_>,
    target: Ipv6Addr,
    mac: Option<EthernetAddress>,
    flags: NdiscNeighborFlags,
    policy: &Policy,
    output: &mut Output,
) -> Option<Heard> {
    if policy.is_ours(target.into()) {
        output.address_conflict(now, target.into(), mac.unwrap_or(message.from));
        return None;
    }
    let (link, addr) = (message.link, IpAddr::V6(target));
    let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
    match mac {
        Some(mac) if mac.is_unicast() && mac != output.links[link].mac => {
            let replace = flags.contains(NdiscNeighborFlags::OVERRIDE);
            Some(Heard { link, addr, mac, claim: Claim::Told { solicited, replace } })
        }
        Some(_) => {
            output.counters.drop(DropReason::BadNeighborDiscovery);
            None
        }
        // The answer to a unicast solicitation may leave the address out: it confirms the one we used.
        None => (solicited && output.links[link].neighbors.knows(addr)).then_some(Heard {
            link,
            addr,
            mac: message.from,
            claim: Claim::Data,
        }),
    }
}

fn mac_of(option: Option<RawHardwareAddress>) -> Option<EthernetAddress> {
    match option?.parse(Medium::Ethernet) {
        Ok(HardwareAddress::Ethernet(mac)) => Some(mac),
        _ => None,
    }
}

/// Answers a solicitation, or, when the asker has no address yet, tells everybody (RFC 4861 section 7.2.4).
fn advertise(output: &mut Output, link: usize, target: Ipv6Addr, asker: Ipv6Addr, mac: EthernetAddress) {
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    if output.is_router {
        flags |= NdiscNeighborFlags::ROUTER;
    }
    let (dst, to) = if asker.is_unspecified() {
        (ALL_NODES, ipv6_group(ALL_NODES))
    } else {
        flags |= NdiscNeighborFlags::SOLICITED;
        (asker, mac)
    };
    let lladdr = Some(output.links[link].mac.into());
    send(output, link, to, target, dst, NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr });
}

/// Asks for `target`: `to` if given, else its solicited-node group.
pub(crate) fn solicit(output: &mut Output, link: usize, target: Ipv6Addr, to: Option<EthernetAddress>) {
    let Some(IpAddr::V6(source)) = output.routes.source_for_neighbor(link, target.into()) else { return };
    output.counters.ndp_solicitations_tx += 1;
    let (dst, to) = match to {
        Some(mac) => (target, mac),
        None => {
            let group = solicited_node(target);
            (group, ipv6_group(group))
        }
    };
    let lladdr = Some(output.links[link].mac.into());
    send(output, link, to, source, dst, NdiscRepr::NeighborSolicit { target_addr: target, lladdr });
}

/// Asks whether somebody has `addr` (RFC 4862 section 5.4.2).
pub(crate) fn probe(output: &mut Output, link: usize, addr: Ipv6Addr) {
    let group = solicited_node(addr);
    let repr = NdiscRepr::NeighborSolicit { target_addr: addr, lladdr: None };
    send(output, link, ipv6_group(group), Ipv6Addr::UNSPECIFIED, group, repr);
}

/// Tells everybody that `addr` is ours (RFC 4861 section 7.2.6).
pub(crate) fn announce(output: &mut Output, link: usize, addr: Ipv6Addr) {
    advertise(output, link, addr, Ipv6Addr::UNSPECIFIED, EthernetAddress::BROADCAST);
}

/// Sends a router advertisement, whose checksum is to be filled in, by `link` to whom it is for.
pub(crate) fn advertise_router(output: &mut Output, link: usize, asker: Asker, message: &mut [u8]) {
    // Hosts believe routers' link-local addresses only (RFC 4861 section 6.1.2).
    let source = output.routes.source_for_neighbor(link, ALL_NODES.into());
    let Some(IpAddr::V6(source)) = source.filter(|addr| is_link_local(*addr)) else { return };
    let (dst, to) = match asker {
        Asker::All => (ALL_NODES, ipv6_group(ALL_NODES)),
        Asker::Host(addr, mac) => (addr, mac),
    };
    let mut header = [0; IPV6_HEADER];
    write_header(&mut header, source.into(), dst.into(), protocol::ICMPV6, message.len(), 0, NDP_HOP_LIMIT);
    Icmpv6Packet::new_unchecked(&mut *message).fill_checksum(&source, &dst);
    output.counters.icmp_tx += 1;
    output.counters.router_advertisements_tx += 1;
    output.send_frame(link, to, smoltcp::wire::EthernetProtocol::Ipv6, &[&header, message]);
}

/// RFC 4291 section 2.7.1.
pub(crate) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let mut group = [0; 16];
    group[..13].copy_from_slice(&SOLICITED_NODE_PREFIX);
    group[13..].copy_from_slice(&addr.octets()[13..]);
    group.into()
}

fn send(
    output: &mut Output,
    link: usize,
    to: EthernetAddress,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    repr: NdiscRepr<'_>,
) {
    let repr = Icmpv6Repr::Ndisc(repr);
    let mut bytes = [0; IPV6_HEADER + 32];
    let len = repr.buffer_len();
    write_header(&mut bytes, src.into(), dst.into(), protocol::ICMPV6, len, 0, NDP_HOP_LIMIT);
    let mut packet = Icmpv6Packet::new_unchecked(&mut bytes[IPV6_HEADER..][..len]);
    repr.emit(&src, &dst, &mut packet, &ChecksumCapabilities::default());
    output.counters.icmp_tx += 1;
    output.send_frame(link, to, smoltcp::wire::EthernetProtocol::Ipv6, &[&bytes[..IPV6_HEADER + len]]);
}
