//! IPv4 packets of the NAT's tests: made from text, and read back as text. Endpoints are written `192.0.2.1:53`; an ICMP query's
//! port is its identifier.

use core::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use crate::packet::checksum::Sum;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

fn endpoint(text: &str) -> SocketAddrV4 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no endpoint"))
}

/// A packet that must not be fragmented, TTL 64.
pub(super) fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&src.octets());
    packet.extend_from_slice(&dst.octets());
    packet.extend_from_slice(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    close(&mut packet);
    packet
}

/// Makes the IP header's checksum right.
pub(super) fn close(packet: &mut [u8]) {
    let len = header_len(packet);
    packet[10..12].fill(0);
    let sum = checksum(&packet[..len], None);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub(super) fn header_len(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// The checksum of a transport packet, with the pseudo header of such a packet.
fn checksum(bytes: &[u8], of: Option<&[u8]>) -> u16 {
    let mut sum = match of {
        None => Sum::ZERO,
        Some(packet) => {
            let addr = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
            Sum::pseudo_header(addr(12), addr(16), packet[9], bytes.len() as u32)
        }
    };
    sum.add(bytes);
    sum.checksum()
}

fn transport(src: &str, dst: &str, protocol: u8, rest: &[u8], sum_at: usize) -> Vec<u8> {
    let (src, dst) = (endpoint(src), endpoint(dst));
    let mut payload = src.port().to_be_bytes().to_vec();
    payload.extend_from_slice(&dst.port().to_be_bytes());
    payload.extend_from_slice(rest);
    let mut packet = ipv4(*src.ip(), *dst.ip(), protocol, &payload);
    let sum = checksum(&payload, Some(&packet));
    packet[20 + sum_at..22 + sum_at].copy_from_slice(&sum.to_be_bytes());
    packet
}

pub(super) fn udp(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let mut rest = ((8 + payload.len()) as u16).to_be_bytes().to_vec();
    rest.extend_from_slice(&[0, 0]);
    rest.extend_from_slice(payload);
    transport(src, dst, UDP, &rest, 6)
}

pub(super) fn tcp(src: &str, dst: &str, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let mut rest = seq.to_be_bytes().to_vec();
    rest.extend_from_slice(&ack.to_be_bytes());
    rest.extend_from_slice(&[0x50, flags, 0x40, 0, 0, 0, 0, 0]);
    rest.extend_from_slice(payload);
    transport(src, dst, TCP, &rest, 16)
}

/// An ICMP message; `word` is the second one of its header.
pub(super) fn icmp(src: &str, dst: &str, kind: u8, code: u8, word: u32, rest: &[u8]) -> Vec<u8> {
    let mut payload = vec![kind, code, 0, 0];
    payload.extend_from_slice(&word.to_be_bytes());
    payload.extend_from_slice(rest);
    let sum = checksum(&payload, None);
    payload[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(src.parse().unwrap(), dst.parse().unwrap(), ICMP, &payload)
}

/// An echo request from an endpoint whose port is the identifier.
pub(super) fn ping(src: &str, dst: &str) -> Vec<u8> {
    let src = endpoint(src);
    icmp(&src.ip().to_string(), dst, 8, 0, u32::from(src.port()) << 16 | 1, b"echo me")
}

/// The reply to an endpoint.
pub(super) fn pong(src: &str, dst: &str) -> Vec<u8> {
    let dst = endpoint(dst);
    icmp(src, &dst.ip().to_string(), 0, 0, u32::from(dst.port()) << 16 | 1, b"echo me")
}

/// An ICMP error about a packet, of which it quotes all, to the packet's source.
pub(super) fn error(src: &str, kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
    let to = Ipv4Addr::from(<[u8; 4]>::try_from(&about[12..16]).unwrap());
    icmp(src, &to.to_string(), kind, code, 0, about)
}

/// Cuts a packet into fragments of at most so many bytes of payload.
pub(super) fn fragments(packet: &[u8], len: usize) -> Vec<Vec<u8>> {
    let payload = &packet[20..];
    let piece = |(index, bytes): (usize, &[u8])| {
        let mut piece = packet[..20].to_vec();
        piece.extend_from_slice(bytes);
        let total = piece.len() as u16;
        piece[2..4].copy_from_slice(&total.to_be_bytes());
        let at = index * len;
        let more = if at + bytes.len() < payload.len() { 0x2000 } else { 0 };
        piece[6..8].copy_from_slice(&(more | (at / 8) as u16).to_be_bytes());
        close(&mut piece);
        piece
    };
    payload.chunks(len).enumerate().map(piece).collect()
}

/// Without the DF bit, and with this identification.
pub(super) fn fragmentable(mut packet: Vec<u8>, id: u16) -> Vec<u8> {
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6] = 0;
    close(&mut packet);
    packet
}

pub(super) fn identification(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[4], packet[5]])
}

/// The packet behind the IP header.
pub(super) fn body(packet: &[u8]) -> &[u8] {
    &packet[header_len(packet)..]
}

/// What of the payload is behind the transport header.
pub(super) fn payload(packet: &[u8]) -> &[u8] {
    &body(packet)[if packet[9] == TCP { 20 } else { 8 }..]
}

/// Type and code of an ICMP message.
pub(super) fn kind(packet: &[u8]) -> (u8, u8) {
    assert_eq!(packet[9], ICMP, "{packet:x?}");
    (body(packet)[0], body(packet)[1])
}

/// What an ICMP error quotes.
pub(super) fn quote(packet: &[u8]) -> &[u8] {
    assert!([3, 4, 5, 11, 12].contains(&kind(packet).0));
    &body(packet)[8..]
}

pub(super) fn src(packet: &[u8]) -> String {
    Ipv4Addr::from(<[u8; 4]>::try_from(&packet[12..16]).unwrap()).to_string()
}

pub(super) fn dst(packet: &[u8]) -> String {
    Ipv4Addr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap()).to_string()
}

fn port(packet: &[u8], at: usize) -> u16 {
    let at = if packet[9] == ICMP { 4 } else { at };
    u16::from_be_bytes([body(packet)[at], body(packet)[at + 1]])
}

/// Where a packet comes from, with its port or query identifier.
pub(super) fn source(packet: &[u8]) -> String {
    format!("{}:{}", src(packet), port(packet, 0))
}

pub(super) fn destination(packet: &[u8]) -> String {
    format!("{}:{}", dst(packet), port(packet, 2))
}

/// An endpoint's port.
pub(super) fn port_of(endpoint: &str) -> u16 {
    self::endpoint(endpoint).port()
}

/// Every packet that leaves a router has right checksums, and so has what is not cut.
pub(super) fn check(packet: &[u8]) {
    assert_eq!(checksum(&packet[..header_len(packet)], None), 0, "header checksum of {packet:x?}");
    if u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0 {
        return;
    }
    let sum = match packet[9] {
        ICMP => checksum(body(packet), None),
        UDP if body(packet)[6..8] == [0, 0] => 0,
        UDP | TCP => checksum(body(packet), Some(packet)),
        _ => 0,
    };
    assert_eq!(sum, 0, "checksum of {packet:x?}");
}

/// Makes the checksum of a whole packet's transport header right.
pub(super) fn refresh(packet: &mut [u8]) {
    let at =
        header_len(packet) + [2, 16, 6][[ICMP, TCP, UDP].iter().position(|of| *of == packet[9]).unwrap()];
    packet[at..at + 2].fill(0);
    let of = (packet[9] != ICMP).then_some(&*packet);
    let sum = checksum(body(packet), of);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
