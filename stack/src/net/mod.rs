//! Everything below TCP: Ethernet and IP addresses, routes, neighbours, fragments, ICMP, and smoltcp's interface for UDP,
//! DHCP and DNS.
//!
//! Received packets come from the shard after [`crate::parse`]; what is sent leaves through [`egress`], which asks
//! [`route`] for the next hop and [`neighbor`] for its Ethernet address, and puts frames into the shard's backlog.

pub(crate) mod egress;
pub(crate) mod fragment;
mod keyed;
pub(crate) mod neighbor;
pub(crate) mod route;

const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Hop limit of what we send (RFC 1122 section 3.2.1.7; the number is RFC 1700's).
const HOP_LIMIT: u8 = 64;
