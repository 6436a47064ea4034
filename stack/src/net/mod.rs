//! Everything below TCP: Ethernet and IP addresses, routes, neighbours, fragments, ICMP, and smoltcp's interface for UDP,
//! DHCP and DNS.
//!
//! Received packets come from the shard after [`crate::parse`]; what is sent leaves through [`egress`], which asks
//! [`route`] for the next hop and [`neighbor`] for its Ethernet address, and puts frames into the shard's backlog.

use core::net::IpAddr;

use smoltcp::wire::EthernetAddress;

pub(crate) mod announce;
pub(crate) mod arp;
pub(crate) mod dhcp;
pub(crate) mod dns;
pub(crate) mod egress;
pub(crate) mod forward;
pub(crate) mod fragment;
pub(crate) mod host_gate;
pub(crate) mod icmp;
pub(crate) mod iface;
pub(crate) mod keyed;
mod last_hop;
pub(crate) mod link;
pub(crate) mod mss;
pub(crate) mod ndp;
pub(crate) mod neighbor;
pub(crate) mod path_mtu;
pub(crate) mod ping;
pub(crate) mod reassembly;
pub(crate) mod route;
pub(crate) mod router_advert;
pub(crate) mod udp;
pub(crate) mod way;

/// What was heard of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    /// On which link.
    pub(crate) link: usize,
    pub(crate) addr: IpAddr,
    pub(crate) mac: EthernetAddress,
    pub(crate) claim: neighbor::Claim,
}
