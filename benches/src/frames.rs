//! Frames of peers that exist only as frames: what they send is built here, what the stack under test sends is read here.
//! Ethernet, IPv4 and TCP with valid checksums; one Ethernet address stands for all peers.

use core::net::Ipv4Addr;

use bywash::packet::checksum::Sum;

/// The stack's Ethernet address.
pub const STACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The peers' Ethernet address.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// The stack's address, in a /8 that the peers are in too.
pub const STACK_ADDR: [u8; 4] = [10, 0, 0, 1];
/// Prefix length of that network.
pub const PREFIX_LEN: u8 = 8;
/// The port that the stack listens on.
pub const STACK_PORT: u16 = 80;
/// Connections of one peer address.
pub const PORTS_PER_PEER: u32 = 50_000;
const FIRST_PORT: u16 = 1024;

/// Control bits.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// PSH.
    pub const PSH: u8 = 8;
    /// ACK.
    pub const ACK: u8 = 16;
}

/// A peer's segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// The connection, which determines the peer's address and port.
    pub number: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// See [`flags`]; a SYN gets the options that Linux sends.
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// Value and echo of the timestamps option.
    pub timestamps: Option<(u32, u32)>,
    /// Bytes of payload.
    pub len: usize,
}

/// What the peer must know of a segment of the stack.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The connection.
    pub number: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// See [`flags`].
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// Value of the timestamps option.
    pub timestamp: Option<u32>,
    /// Shift of the window scale option.
    pub window_scale: Option<u8>,
    /// Bytes of payload.
    pub len: u32,
}

/// Address of connection `number`'s peer.
#[must_use]
pub fn peer_addr(number: u32) -> [u8; 4] {
    [10, 1, 0, 1 + (number / PORTS_PER_PEER) as u8]
}

/// The connection that a peer's address and port belong to.
#[must_use]
pub fn number_of(addr: Ipv4Addr, port: u16) -> u32 {
    (u32::from(addr.octets()[3]) - 1) * PORTS_PER_PEER + u32::from(port - FIRST_PORT)
}

/// Writes `segment` as a frame into `frame`.
pub fn write(segment: &Segment, frame: &mut Vec<u8>) {
    let syn = segment.flags & flags::SYN != 0;
    let mut options = [1; 20];
    let mut options_len = 0;
    if syn {
        // MSS 1460, SACK permitted, timestamps, window scale.
        let (val, _) = segment.timestamps.unwrap_or_default();
        let [a, b, c, d] = val.to_be_bytes();
        options = [2, 4, 5, 180, 4, 2, 8, 10, a, b, c, d, 0, 0, 0, 0, 1, 3, 3, crate::peer::WINDOW_SCALE];
        options_len = 20;
    } else if let Some((val, ecr)) = segment.timestamps {
        options[2..4].copy_from_slice(&[8, 10]);
        options[4..8].copy_from_slice(&val.to_be_bytes());
        options[8..12].copy_from_slice(&ecr.to_be_bytes());
        options_len = 12;
    }
    let (src, dst) = (peer_addr(segment.number), STACK_ADDR);
    let tcp_len = 20 + options_len + segment.len;
    frame.clear();
    frame.extend_from_slice(&STACK_MAC);
    frame.extend_from_slice(&PEER_MAC);
    frame.extend_from_slice(&[8, 0]);

    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&((20 + tcp_len) as u16).to_be_bytes());
    ip[12..16].copy_from_slice(&src);
    ip[16..20].copy_from_slice(&dst);
    let mut sum = Sum::ZERO;
    sum.add(&ip);
    ip[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
    frame.extend_from_slice(&ip);

    let port = FIRST_PORT + (segment.number % PORTS_PER_PEER) as u16;
    let at = frame.len();
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&STACK_PORT.to_be_bytes());
    frame.extend_from_slice(&segment.seq.to_be_bytes());
    frame.extend_from_slice(&segment.ack.to_be_bytes());
    frame.extend_from_slice(&[((20 + options_len) as u8 / 4) << 4, segment.flags]);
    frame.extend_from_slice(&segment.window.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&options[..options_len]);
    frame.resize(frame.len() + segment.len, 7);
    let mut sum = Sum::pseudo_header(src.into(), dst.into(), 6, tcp_len as u32);
    sum.add(&frame[at..]);
    let checksum = sum.checksum().to_be_bytes();
    frame[at + 16..at + 18].copy_from_slice(&checksum);
    frame.resize(frame.len().max(60), 0);
}

/// Reads a frame of the stack; `None` when it is no TCP segment.
///
/// # Panics
/// When it is a TCP segment to no peer, or malformed.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Answer> {
    if frame[12..14] != [8, 0] || frame[23] != 6 {
        return None;
    }
    let be32 = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"));
    let be16 = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let header = usize::from(frame[46] >> 4) * 4;
    let (mut timestamp, mut window_scale) = (None, None);
    let mut options = &frame[54..34 + header];
    while let [kind, rest @ ..] = options {
        options = match kind {
            0 => break,
            1 => rest,
            _ => {
                match kind {
                    3 => window_scale = Some(options[2]),
                    8 => timestamp = Some(u32::from_be_bytes(options[2..6].try_into().expect("four bytes"))),
                    _ => {}
                }
                &options[usize::from(rest[0])..]
            }
        };
    }
    let addr = Ipv4Addr::from(be32(30));
    Some(Answer {
        number: number_of(addr, be16(36)),
        seq: be32(38),
        ack: be32(42),
        flags: frame[47],
        window: be16(48),
        timestamp,
        window_scale,
        len: u32::from(be16(16)) - 20 - header as u32,
    })
}

/// A frame in which the peer of connection `number` asks for the stack's address, and so tells where it is itself.
#[must_use]
pub fn arp_request(number: u32) -> Vec<u8> {
    let who = peer_addr(number);
    let head = [&STACK_MAC[..], &PEER_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &PEER_MAC, &who].concat();
    let mut frame = [&head[..], &[0; 6], &STACK_ADDR].concat();
    frame.resize(60, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_passes_the_checks_of_the_stack() {
        use bywash::packet::{Packet, PacketPool, PoolLayout};
        use bywash::parse::{Kind, Policy, parse};
        use smoltcp::wire::EthernetAddress;
        let pool = PacketPool::heap(PoolLayout { frames: 4, frame_size: 2048, headroom: 128 });
        let policy = Policy {
            mac: EthernetAddress(STACK_MAC),
            addresses: vec!["10.0.0.1/8".parse().unwrap()],
            groups: Vec::new(),
            partial_checksums: false,
            dhcp: false,
            forwarding: false,
            hash_keys: (1, 2),
        };
        for (flags, timestamps, len) in [
            (flags::SYN, Some((1, 0)), 0),
            (flags::ACK, None, 0),
            (flags::ACK, Some((2, 3)), 1448),
            (flags::ACK | flags::FIN, None, 7),
        ] {
            let segment = Segment { number: 60_001, seq: 5, ack: 6, flags, window: 512, timestamps, len };
            let mut frame = Vec::new();
            write(&segment, &mut frame);
            let packet = Packet::copy_from(&pool, &frame).unwrap();
            let parsed = parse(&packet, &policy).unwrap();
            assert_eq!(parsed.kind, Kind::Tcp);
            let std::net::IpAddr::V4(src) = parsed.flow.src else { panic!("an IPv4 address") };
            assert_eq!(number_of(src, parsed.flow.src_port), 60_001);
        }
    }
}
