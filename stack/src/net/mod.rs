//! Everything below TCP: Ethernet and IP addresses, routes, neighbours, fragments, ICMP, and smoltcp's interface for UDP,
//! DHCP and DNS.
//!
//! Received packets come from the shard after [`crate::parse`]; what is sent leaves through [`egress`], which asks
//! [`route`] for the next hop and [`neighbor`] for its Ethernet address, and puts frames into the shard's backlog.

mod keyed;
pub(crate) mod neighbor;
pub(crate) mod route;
