//! ARP (RFC 826): answers for our addresses, learns neighbours, notices who else claims an address of ours (RFC 5227).
//!
//! Packets come from the shard; requests of our own are sent by [`super::egress`]. smoltcp's interface does this too, but
//! resolves at most one new neighbour a second for all sockets together and forgets the packet that asked.

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol};

use super::Heard;
use super::egress::Output;
use super::neighbor::Claim;
use crate::counters::DropReason;
use crate::parse::Policy;
use crate::time::Instant;

/// Takes in an ARP packet from `link`. `answer`: the addresses are ours alone, so requests for them are ours to answer. Returns what
/// was learned, for the other shards.
pub(crate) fn receive(
    now: Instant,
    link: usize,
    bytes: &[u8],
    policy: &Policy,
    answer: bool,
    output: &mut Output,
) -> Option<Heard> {
    output.counters.arp_rx += 1;
    let packet = ArpPacket::new_checked(bytes).ok();
    let Some(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: mac,
        source_protocol_addr: sender,
        target_protocol_addr: target,
        ..
    }) = packet.and_then(|packet| ArpRepr::parse(&packet).ok())
    else {
        output.counters.drop(DropReason::BadArp);
        return None;
    };
    if !mac.is_unicast() || sender.is_multicast() || sender.is_loopback() || policy.is_broadcast(sender) {
        output.counters.drop(DropReason::BadArp);
        return None;
    }
    let own = output.links[link].mac;
    if mac == own {
        return None;
    }
    if policy.is_ours(sender.into()) {
        output.address_conflict(now, sender.into(), mac);
        return None;
    }
    // An address of another link is not answered for here (Linux's arp_ignore 1): that would hide which link it is on.
    let for_us = policy.is_ours(target.into()) && output.routes.is_on(link, target.into());
    let claim = match operation {
        ArpOperation::Request if for_us => Claim::Asked,
        ArpOperation::Reply => Claim::Told { solicited: true, replace: true },
        ArpOperation::Request => Claim::Told { solicited: false, replace: true },
        ArpOperation::Unknown(_) => {
            output.counters.drop(DropReason::BadArp);
            return None;
        }
    };
    // A probe (RFC 5227 section 2.1.1) has no sender; a sender off the link is answered but not learned.
    let heard = (!sender.is_unspecified() && output.routes.is_on(link, sender.into())).then_some(Heard {
        link,
        addr: sender.into(),
        mac,
        claim,
    });
    if let Some(heard) = heard {
        output.heard(now, heard);
    }
    if operation == ArpOperation::Request && for_us && answer {
        send(output, link, mac, ArpOperation::Reply, target, (sender, mac));
    }
    heard
}

/// Asks for `target`: `to` if given, else everybody.
pub(crate) fn request(output: &mut Output, link: usize, target: Ipv4Addr, to: Option<EthernetAddress>) {
    let Some(IpAddr::V4(source)) = output.routes.source_for_neighbor(link, target.into()) else { return };
    output.counters.arp_requests_tx += 1;
    let asked = EthernetAddress::default();
    let to = to.unwrap_or(EthernetAddress::BROADCAST);
    send(output, link, to, ArpOperation::Request, source, (target, asked));
}

/// Asks whether somebody has `addr` (RFC 5227 section 2.1.1).
pub(crate) fn probe(output: &mut Output, link: usize, addr: Ipv4Addr) {
    let (nobody, unknown) = (Ipv4Addr::UNSPECIFIED, EthernetAddress::default());
    send(output, link, EthernetAddress::BROADCAST, ArpOperation::Request, nobody, (addr, unknown));
}

/// Tells everybody that `addr` is ours (RFC 5227 section 2.3).
pub(crate) fn announce(output: &mut Output, link: usize, addr: Ipv4Addr) {
    let unknown = EthernetAddress::default();
    send(output, link, EthernetAddress::BROADCAST, ArpOperation::Request, addr, (addr, unknown));
}

fn send(
    output: &mut Output,
    link: usize,
    to: EthernetAddress,
    operation: ArpOperation,
    source_protocol_addr: Ipv4Addr,
    (target_protocol_addr, target_hardware_addr): (Ipv4Addr, EthernetAddress),
) {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: output.links[link].mac,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    };
    let mut bytes = [0; 28];
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
    output.send_frame(link, to, EthernetProtocol::Arp, &[&bytes]);
}
