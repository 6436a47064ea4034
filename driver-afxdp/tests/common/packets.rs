//! Packets of every kind the steering program must decide about, byte by byte.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const IGMP: u8 = 2;
pub const ICMPV6: u8 = 58;
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;
pub const ESP: u8 = 50;
pub const GRE: u8 = 47;

pub const UNICAST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const BROADCAST_MAC: [u8; 6] = [0xff; 6];
pub const MULTICAST_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

pub fn ethernet(dst: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = dst.to_vec();
    frame.extend([2, 0, 0, 0, 0, 2]);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Puts a VLAN tag of type `tag_type` into a frame.
pub fn tagged(tag_type: u16, frame: &[u8]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend(tag_type.to_be_bytes());
    out.extend([0, 5]);
    out.extend(&frame[12..]);
    out
}

pub struct Ipv4<'a> {
    pub dst_mac: [u8; 6],
    pub dst: Ipv4Addr,
    pub protocol: u8,
    pub options: &'a [u8],
    /// Flags and offset as they are in the header.
    pub fragment: u16,
}

impl Ipv4<'static> {
    pub fn to(dst: Ipv4Addr, protocol: u8) -> Self {
        Self { dst_mac: UNICAST_MAC, dst, protocol, options: &[], fragment: 0x4000 }
    }
}

impl Ipv4<'_> {
    pub fn header(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
        bytes.extend(((header_len + payload.len()) as u16).to_be_bytes());
        bytes.extend([0, 9]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0, 192, 0, 2, 2]);
        bytes.extend(self.dst.octets());
        bytes.extend(self.options);
        bytes.extend(payload);
        bytes
    }

    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ethernet(self.dst_mac, 0x0800, &self.header(payload))
    }
}

pub fn ipv6_header(next: u8, dst: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, 255]);
    bytes.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).octets());
    bytes.extend(dst.octets());
    bytes.extend(payload);
    bytes
}

pub fn ipv6(next: u8, dst: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mac = if dst.is_multicast() { MULTICAST_MAC } else { UNICAST_MAC };
    ethernet(mac, 0x86dd, &ipv6_header(next, dst, payload))
}

/// A TCP header of 20 bytes.
pub fn tcp(src: u16, dst: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(src.to_be_bytes());
    bytes.extend(dst.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

/// A UDP header and 4 bytes.
pub fn udp(src: u16, dst: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [src, dst, 12, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend([1, 2, 3, 4]);
    bytes
}

/// An ICMP or ICMPv6 message with an empty rest of header.
pub fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(body);
    bytes
}

pub fn arp(operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend([2, 0, 0, 0, 0, 2]);
    bytes.extend(sender.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    ethernet(if operation == 1 { BROADCAST_MAC } else { UNICAST_MAC }, 0x0806, &bytes)
}

/// An extension header of `units` * 8 bytes in front of `payload`, which is of type `next`.
pub fn extension(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(units) * 8];
    bytes[0] = next;
    bytes[1] = units - 1;
    bytes.extend(payload);
    bytes
}

/// A fragment header: `offset` in units of 8 bytes.
pub fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend([0, 0, 0, 9]);
    bytes.extend(payload);
    bytes
}
