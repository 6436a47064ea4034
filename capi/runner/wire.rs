//! Segments of scripts to and from IP packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::script::TcpOption;

/// A TCP segment with the addresses of its packet.
#[derive(Clone, Debug)]
pub struct Packet {
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub seq: u32,
    pub ack: u32,
    pub flags: u16,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<TcpOption>,
    pub payload_len: usize,
    pub ecn: u8,
}

impl Packet {
    /// The packet's bytes, checksums filled in, with a payload of zeros.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut options = Vec::new();
        self.options.iter().for_each(|option| put_option(option, &mut options));
        // What a script leaves unpadded ends the list.
        options.resize(options.len().next_multiple_of(4), 0);
        let mut tcp = Vec::new();
        tcp.extend_from_slice(&self.src.1.to_be_bytes());
        tcp.extend_from_slice(&self.dst.1.to_be_bytes());
        tcp.extend_from_slice(&self.seq.to_be_bytes());
        tcp.extend_from_slice(&self.ack.to_be_bytes());
        let words = ((20 + options.len()) / 4) as u16;
        tcp.extend_from_slice(&(words << 12 | self.flags).to_be_bytes());
        tcp.extend_from_slice(&self.window.to_be_bytes());
        tcp.extend_from_slice(&[0, 0]);
        tcp.extend_from_slice(&self.urgent.to_be_bytes());
        tcp.extend_from_slice(&options);
        tcp.resize(tcp.len() + self.payload_len, 0);
        let sum = checksum(&[&pseudo_header(self.src.0, self.dst.0, 6, tcp.len()), &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        ip_packet(self.src.0, self.dst.0, 6, self.ecn, &tcp)
    }

    /// Reads a packet; `None` when it is not TCP.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let (src, dst, ecn, protocol, tcp): (IpAddr, IpAddr, u8, u8, &[u8]) = match bytes[0] >> 4 {
            4 => {
                let header = usize::from(bytes[0] & 15) * 4;
                if checksum(&[&bytes[..header]]) != 0 {
                    return Err("IP checksum is wrong".into());
                }
                let addr = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
                (addr(12), addr(16), bytes[1] & 3, bytes[9], &bytes[header..])
            }
            _ => {
                let addr = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
                (addr(8), addr(24), bytes[1] >> 4 & 3, bytes[6], &bytes[40..])
            }
        };
        if protocol != 6 {
            return Err(format!("protocol {protocol} is not TCP"));
        }
        if checksum(&[&pseudo_header(src, dst, 6, tcp.len()), tcp]) != 0 {
            return Err("TCP checksum is wrong".into());
        }
        let be16 = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let be32 = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let header = usize::from(tcp[12] >> 4) * 4;
        Ok(Self {
            src: (src, be16(0)),
            dst: (dst, be16(2)),
            seq: be32(4),
            ack: be32(8),
            flags: be16(12) & 0x1ff,
            window: be16(14),
            urgent: be16(18),
            options: read_options(&tcp[20..header])?,
            payload_len: tcp.len() - header,
            ecn,
        })
    }
}

/// An ICMP error about the first bytes of `quoted`.
pub fn icmp_error(from: IpAddr, code: &str, mtu: u32, quoted: &[u8]) -> Result<Vec<u8>, String> {
    let ipv6 = quoted[0] >> 4 == 6;
    let (kind, code) = match (ipv6, code) {
        (false, "net_unreachable" | "") => (3, 0),
        (false, "host_unreachable") => (3, 1),
        (false, "protocol_unreachable") => (3, 2),
        (false, "port_unreachable") => (3, 3),
        (false, "frag_needed") => (3, 4),
        (true, "net_unreachable" | "") => (1, 0),
        (true, "host_unreachable") => (1, 3),
        (true, "port_unreachable") => (1, 4),
        (true, "frag_needed") => (2, 0),
        _ => return Err(format!("cannot send ICMP code {code}")),
    };
    let header = if ipv6 { 40 } else { 20 };
    let mut message = vec![kind, code, 0, 0];
    // ICMPv6 has 32 bits for the MTU where ICMPv4 has the lower 16.
    message.extend_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(&quoted[..quoted.len().min(header + 8)]);
    let addr = |at: usize| -> IpAddr {
        if ipv6 {
            <[u8; 16]>::try_from(&quoted[at..at + 16]).unwrap().into()
        } else {
            <[u8; 4]>::try_from(&quoted[at..at + 4]).unwrap().into()
        }
    };
    let to = addr(if ipv6 { 8 } else { 12 });
    let protocol = if ipv6 { 58 } else { 1 };
    let pseudo = if ipv6 { pseudo_header(from, to, 58, message.len()) } else { Vec::new() };
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(ip_packet(from, to, protocol, 0, &message))
}

fn ip_packet(src: IpAddr, dst: IpAddr, protocol: u8, ecn: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet.extend_from_slice(&[0x45, ecn]);
            packet.extend_from_slice(&(20 + body.len() as u16).to_be_bytes());
            packet.extend_from_slice(&[0, 0, 0, 0, 255, protocol, 0, 0]);
            packet.extend_from_slice(&src.octets());
            packet.extend_from_slice(&dst.octets());
            let sum = checksum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (src, dst) => {
            packet.extend_from_slice(&[0x60, ecn << 4, 0, 0]);
            packet.extend_from_slice(&(body.len() as u16).to_be_bytes());
            packet.extend_from_slice(&[protocol, 255]);
            packet.extend_from_slice(&octets(src));
            packet.extend_from_slice(&octets(dst));
        }
    }
    packet.extend_from_slice(body);
    packet
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::octets(&ip).to_vec(),
        IpAddr::V6(ip) => Ipv6Addr::octets(&ip).to_vec(),
    }
}

fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    [octets(src), octets(dst), (len as u32).to_be_bytes().to_vec(), vec![0, 0, 0, protocol]].concat()
}

/// The Internet checksum (RFC 1071) of parts of even length, the last one excepted.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !(sum as u16)
}

fn put_option(option: &TcpOption, out: &mut Vec<u8>) {
    let mut put = |kind: u8, body: &[u8]| {
        out.extend_from_slice(&[kind, body.len() as u8 + 2]);
        out.extend_from_slice(body);
    };
    match option {
        TcpOption::Mss(mss) => put(2, &mss.to_be_bytes()),
        TcpOption::SackOk => put(4, &[]),
        TcpOption::Wscale(shift) => put(3, &[*shift]),
        TcpOption::Ts(val, ecr) => put(8, &[val.to_be_bytes(), ecr.to_be_bytes()].concat()),
        TcpOption::Sack(blocks) => {
            let edges = blocks.iter().flat_map(|(start, end)| [start.to_be_bytes(), end.to_be_bytes()]);
            put(5, &edges.flatten().collect::<Vec<u8>>());
        }
        TcpOption::FastOpen(cookie) => put(34, cookie),
        TcpOption::FastOpenExperimental(cookie) => put(254, &[&[0xf9, 0x89], &cookie[..]].concat()),
        TcpOption::Md5(digest) => put(19, digest),
        TcpOption::AccEcn(kind, counters) => {
            let bytes = counters.iter().flat_map(|counter| counter.to_be_bytes()[1..].to_vec());
            put(*kind, &bytes.collect::<Vec<u8>>());
        }
        TcpOption::Nop => out.push(1),
        TcpOption::Eol => out.push(0),
    }
}

fn read_options(mut bytes: &[u8]) -> Result<Vec<TcpOption>, String> {
    let mut options = Vec::new();
    while let [kind, rest @ ..] = bytes {
        if *kind < 2 {
            options.push(if *kind == 1 { TcpOption::Nop } else { TcpOption::Eol });
            bytes = rest;
            continue;
        }
        let len = usize::from(*rest.first().ok_or("cut option")?);
        let body = bytes.get(2..len).ok_or("cut option")?;
        let be32 = |at: usize| body[at..at + 4].try_into().map_or(0, u32::from_be_bytes);
        options.push(match (kind, body.len()) {
            (2, 2) => TcpOption::Mss(u16::from_be_bytes([body[0], body[1]])),
            (3, 1) => TcpOption::Wscale(body[0]),
            (4, 0) => TcpOption::SackOk,
            (5, _) => TcpOption::Sack(
                body.chunks(8).enumerate().map(|(i, _)| (be32(i * 8), be32(i * 8 + 4))).collect(),
            ),
            (8, 8) => TcpOption::Ts(be32(0), be32(4)),
            (19, _) => TcpOption::Md5(body.to_vec()),
            (34, _) => TcpOption::FastOpen(body.to_vec()),
            (254, 2..) => TcpOption::FastOpenExperimental(body[2..].to_vec()),
            (172 | 174, _) => TcpOption::AccEcn(
                *kind,
                body.chunks(3).map(|c| u32::from_be_bytes([0, c[0], c[1], c[2]])).collect(),
            ),
            _ => return Err(format!("unknown option {kind} of {len} bytes")),
        });
        bytes = &bytes[len..];
    }
    Ok(options)
}
