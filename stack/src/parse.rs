//! One pass over a packet's headers: where each begins, the flow's key and hash, and whether it may go on.

use core::net::{IpAddr, Ipv4Addr};

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
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// The sender left the transport checksum to the device (only the pseudo-header's sum is in the field).
    pub partial_checksum: bool,
    /// The flow.
    pub flow: FlowKey,
    /// Hash of the flow, the same for a flow's every packet in one direction; 0 where there is no flow.
    pub hash: u32,
}
