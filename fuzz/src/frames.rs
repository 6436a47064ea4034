//! Frames for the fuzz targets: headers and checksums that are right unless asked otherwise, around any content.

use core::net::IpAddr;

use bywash::packet::checksum::Sum;

/// The Ethernet address of the stack under test.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The Ethernet address of all its neighbours.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Ethernet and IP headers around `payload`.
#[must_use]
pub fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&OUR_MAC[..], &PEER_MAC[..]].concat();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([0x08, 0x00]);
            let mut header = [0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
            header[6] = 0x40;
            (header[8], header[9]) = (64, protocol);
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let checksum = checksum(Sum::ZERO, &header);
            header[10..12].copy_from_slice(&checksum);
            frame.extend(header);
        }
        (src, dst) => {
            frame.extend([0x86, 0xdd]);
            let mut header = [0; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            (header[6], header[7]) = (protocol, 255);
            header[8..24].copy_from_slice(&octets(src));
            header[24..40].copy_from_slice(&octets(dst));
            frame.extend(header);
        }
    }
    frame.extend_from_slice(payload);
    frame
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

fn checksum(mut sum: Sum, bytes: &[u8]) -> [u8; 2] {
    sum.add(bytes);
    sum.checksum().to_be_bytes()
}

/// A transport packet whose checksum at `at` is filled in.
#[must_use]
pub fn transport(src: IpAddr, dst: IpAddr, protocol: u8, mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    if bytes.len() >= at + 2 {
        bytes[at..at + 2].fill(0);
        let plain = protocol == 1;
        let sum = if plain { Sum::ZERO } else { Sum::pseudo_header(src, dst, protocol, bytes.len() as u32) };
        let checksum = checksum(sum, &bytes);
        bytes[at..at + 2].copy_from_slice(&checksum);
    }
    ip(src, dst, protocol, &bytes)
}

/// Puts the IPv4 header's and the transport's checksum right where the headers are whole and have no extensions; leaves
/// the frame as it is where they are not.
pub fn repair_checksums(frame: &mut [u8]) {
    let Some((l4, end)) = (match frame.get(12..14) {
        Some([0x08, 0x00]) => repair_ipv4(frame),
        Some([0x86, 0xdd]) => ipv6_payload(frame),
        _ => None,
    }) else {
        return;
    };
    let v6 = l4 == 54;
    let addr = |at: usize| -> Option<IpAddr> {
        if v6 {
            Some(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?.into())
        } else {
            Some(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?.into())
        }
    };
    let (Some(src), Some(dst)) = (addr(if v6 { 22 } else { 26 }), addr(if v6 { 38 } else { 30 })) else {
        return;
    };
    let protocol = frame[if v6 { 20 } else { 23 }];
    let at = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return,
    };
    let segment = &mut frame[l4..end];
    if segment.len() >= at + 2 {
        segment[at..at + 2].fill(0);
        let pseudo = Sum::pseudo_header(src, dst, protocol, segment.len() as u32);
        let sum = checksum(if protocol == 1 { Sum::ZERO } else { pseudo }, segment);
        segment[at..at + 2].copy_from_slice(&sum);
    }
}

/// Start and end of an IPv4 packet's payload, after its header checksum was put right.
fn repair_ipv4(frame: &mut [u8]) -> Option<(usize, usize)> {
    let header = usize::from(frame.get(14)? & 15) * 4;
    let total = usize::from(u16::from_be_bytes([*frame.get(16)?, *frame.get(17)?]));
    if header < 20 || total < header || frame.len() < 14 + total {
        return None;
    }
    frame[24..26].fill(0);
    let sum = checksum(Sum::ZERO, &frame[14..14 + header]);
    frame[24..26].copy_from_slice(&sum);
    Some((14 + header, 14 + total))
}

/// Start and end of an IPv6 packet's payload.
fn ipv6_payload(frame: &[u8]) -> Option<(usize, usize)> {
    let end = 54 + usize::from(u16::from_be_bytes([*frame.get(18)?, *frame.get(19)?]));
    (frame.len() >= end).then_some((54, end))
}

/// The fields of a TCP segment.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// Source and destination port.
    pub ports: (u16, u16),
    pub seq: u32,
    pub ack: u32,
    /// The eight classic flag bits.
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    /// Padded to a multiple of 4 and cut to 40 when emitted.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// The frame of a TCP segment from `src` to `dst`.
#[must_use]
pub fn tcp(src: IpAddr, dst: IpAddr, segment: &Segment) -> Vec<u8> {
    let mut options = segment.options.clone();
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    let mut bytes = Vec::with_capacity(20 + options.len() + segment.payload.len());
    bytes.extend(segment.ports.0.to_be_bytes());
    bytes.extend(segment.ports.1.to_be_bytes());
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    bytes.extend([((20 + options.len()) as u8 / 4) << 4, segment.flags]);
    bytes.extend(segment.window.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(segment.urgent.to_be_bytes());
    bytes.extend(options);
    bytes.extend(&segment.payload);
    transport(src, dst, 6, bytes, 16)
}

/// An ARP reply that `who` is at the peers' address.
#[must_use]
pub fn arp_reply(who: [u8; 4], asker: [u8; 4]) -> Vec<u8> {
    let mut frame =
        [&OUR_MAC[..], &PEER_MAC[..], &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2], &PEER_MAC[..]].concat();
    frame.extend(who);
    frame.extend(OUR_MAC);
    frame.extend(asker);
    frame.resize(60, 0);
    frame
}

/// A neighbour advertisement that `who` is at the peers' address.
#[must_use]
pub fn neighbor_advertisement(who: IpAddr, asker: IpAddr) -> Vec<u8> {
    let mut bytes = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    bytes.extend(octets(who));
    bytes.extend([2, 1]);
    bytes.extend(PEER_MAC);
    transport(who, asker, 58, bytes, 2)
}

/// A TCP segment seen in a frame of the stack's.
#[derive(Clone, Copy, Debug)]
pub struct SeenSegment {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub payload_len: u32,
}

/// What the stack sent: a segment, a question for a neighbour's address, or something else.
#[derive(Clone, Copy, Debug)]
pub enum Seen {
    Segment(SeenSegment),
    WhoHas { target: IpAddr, asker: IpAddr },
    Other,
}

/// Looks at a frame the stack sent; its headers have no options or extension headers but TCP's own.
#[must_use]
pub fn look(frame: &[u8]) -> Seen {
    look_inside(frame).unwrap_or(Seen::Other)
}

fn look_inside(frame: &[u8]) -> Option<Seen> {
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
    match frame.get(12..14)? {
        [0x08, 0x06] if frame.get(21) == Some(&1) => Some(Seen::WhoHas { target: v4(38)?, asker: v4(28)? }),
        [0x08, 0x00] if frame.get(23) == Some(&6) => {
            let total = usize::from(u16::from_be_bytes([*frame.get(16)?, *frame.get(17)?]));
            segment(v4(26)?, v4(30)?, frame.get(34..14 + total)?)
        }
        [0x86, 0xdd] if frame.get(20) == Some(&6) => segment(v6(22)?, v6(38)?, frame.get(54..)?),
        [0x86, 0xdd] if frame.get(20) == Some(&58) && frame.get(54) == Some(&135) => {
            Some(Seen::WhoHas { target: v6(62)?, asker: v6(22)? })
        }
        _ => None,
    }
}

fn segment(src: IpAddr, dst: IpAddr, bytes: &[u8]) -> Option<Seen> {
    let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let header = usize::from(*bytes.get(12)? >> 4) * 4;
    Some(Seen::Segment(SeenSegment {
        src,
        dst,
        src_port: half(0)?,
        dst_port: half(2)?,
        seq: word(4)?,
        ack: word(8)?,
        flags: *bytes.get(13)?,
        payload_len: bytes.len().checked_sub(header)? as u32,
    }))
}
