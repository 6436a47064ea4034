//! Packets to send, built to the byte: checksums are right unless a script spoils them, and every field can be chosen. The
//! arithmetic is the test's own, so that it does not agree with the stack by being the stack's.

use std::net::{IpAddr, SocketAddr};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// An IP packet to be.
#[derive(Clone, Debug)]
pub struct Packet {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    hop_limit: u8,
    tos: u8,
    id: u16,
    /// Flags and offset of the IPv4 header.
    fragment: u16,
    /// IPv4 options, padded to words.
    options: Vec<u8>,
    /// IPv6 extension headers, whole, each naming the next but for the last one's, and the first one's number.
    extensions: Option<(u8, Vec<u8>)>,
    transport: Vec<u8>,
    /// Where the transport checksum is, while it is to be filled in.
    checksum: Option<usize>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address with a port"))
}

/// Bytes that tell their place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

/// Any protocol.
pub fn raw(src: &str, dst: &str, protocol: u8, transport: Vec<u8>) -> Packet {
    Packet {
        src: ip(src),
        dst: ip(dst),
        protocol,
        hop_limit: 64,
        tos: 0,
        id: 0x1234,
        fragment: 0,
        options: Vec::new(),
        extensions: None,
        transport,
        checksum: None,
    }
}

fn with_ports(src: &str, dst: &str, protocol: u8, transport: Vec<u8>, checksum: usize) -> Packet {
    let (src, dst) = (socket(src), socket(dst));
    let mut packet = raw(&src.ip().to_string(), &dst.ip().to_string(), protocol, transport);
    packet.transport[..2].copy_from_slice(&src.port().to_be_bytes());
    packet.transport[2..4].copy_from_slice(&dst.port().to_be_bytes());
    packet.checksum = Some(checksum);
    packet
}

/// A datagram with `len` bytes of payload.
pub fn udp(src: &str, dst: &str, len: usize) -> Packet {
    let mut transport = vec![0; 8];
    transport[4..6].copy_from_slice(&(8 + len as u16).to_be_bytes());
    transport.extend(pattern(len));
    with_ports(src, dst, UDP, transport, 6)
}

/// A segment; window 1000, no options, no payload.
pub fn tcp(src: &str, dst: &str, flags: u8, seq: u32, ack: u32) -> Packet {
    let mut transport = vec![0; 20];
    transport[4..8].copy_from_slice(&seq.to_be_bytes());
    transport[8..12].copy_from_slice(&ack.to_be_bytes());
    (transport[12], transport[13]) = (0x50, flags);
    transport[14..16].copy_from_slice(&1000u16.to_be_bytes());
    with_ports(src, dst, TCP, transport, 16)
}

/// An ICMP message: type, code, the word behind the checksum, and what follows.
pub fn icmp(src: &str, dst: &str, kind: u8, code: u8, word: u32, body: &[u8]) -> Packet {
    let mut transport = vec![kind, code, 0, 0];
    transport.extend_from_slice(&word.to_be_bytes());
    transport.extend_from_slice(body);
    let protocol = if ip(src).is_ipv4() { ICMP } else { ICMPV6 };
    let mut packet = raw(src, dst, protocol, transport);
    packet.checksum = Some(2);
    packet
}

/// An echo request of either IP version.
pub fn ping(src: &str, dst: &str, id: u16, seq: u16) -> Packet {
    let kind = if ip(src).is_ipv4() { 8 } else { 128 };
    icmp(src, dst, kind, 0, u32::from(id) << 16 | u32::from(seq), &pattern(24))
}

/// The reply to it.
pub fn pong(src: &str, dst: &str, id: u16, seq: u16) -> Packet {
    let kind = if ip(src).is_ipv4() { 0 } else { 129 };
    icmp(src, dst, kind, 0, u32::from(id) << 16 | u32::from(seq), &pattern(24))
}

impl Packet {
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.hop_limit = ttl;
        self
    }

    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub fn df(mut self) -> Self {
        self.fragment |= 0x4000;
        self
    }

    pub fn window(mut self, window: u16) -> Self {
        self.transport[14..16].copy_from_slice(&window.to_be_bytes());
        self
    }

    /// Payload of a segment.
    pub fn data(mut self, len: usize) -> Self {
        self.transport.extend(pattern(len));
        self
    }

    /// TCP options, a multiple of 4 bytes; before [`Packet::data`].
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        self.transport.extend_from_slice(options);
        self.transport[12] = ((20 + options.len()) as u8 / 4) << 4;
        self
    }

    /// IPv4 options, a multiple of 4 bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// One IPv6 extension header in front of the transport header: its number, and its bytes from the third on.
    pub fn extension(mut self, number: u8, content: &[u8]) -> Self {
        let mut header = vec![self.protocol, ((2 + content.len()) / 8 - 1) as u8];
        header.extend_from_slice(content);
        self.extensions = Some((number, header));
        self
    }

    /// Leaves this in the checksum's place.
    pub fn checksum(mut self, value: u16) -> Self {
        let at = self.checksum.take().expect("a protocol with a checksum");
        self.transport[at..at + 2].copy_from_slice(&value.to_be_bytes());
        self
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.with_transport(&self.summed(), self.fragment)
    }

    /// In IPv4 fragments, cut behind these multiples of 8 bytes of payload.
    pub fn fragments(&self, cuts: &[usize]) -> Vec<Vec<u8>> {
        let transport = self.summed();
        let ends = cuts.iter().copied().chain([transport.len()]);
        let mut start = 0;
        ends.map(|end| {
            let piece = self.piece(start, end);
            start = end;
            piece
        })
        .collect()
    }

    /// The fragment of the bytes from `start` to `end`, both IP versions (IPv6: identification 0xabcd1234).
    pub fn piece(&self, start: usize, end: usize) -> Vec<u8> {
        let transport = self.summed();
        let more = end < transport.len();
        if self.src.is_ipv4() {
            let field = (start / 8) as u16 | if more { 0x2000 } else { 0 };
            return self.with_transport(&transport[start..end], field);
        }
        let mut fragment = self.clone();
        let mut header = vec![0, 0];
        header[..2].copy_from_slice(&((start as u16) | u16::from(more)).to_be_bytes());
        header.extend_from_slice(&[0xab, 0xcd, 0x12, 0x34]);
        fragment = fragment.extension(44, &header);
        if let Some((_, header)) = &mut fragment.extensions {
            header[1] = 0;
        }
        fragment.with_transport(&transport[start..end], 0)
    }

    /// The transport part, checksum filled in.
    fn summed(&self) -> Vec<u8> {
        let mut transport = self.transport.clone();
        if let Some(at) = self.checksum {
            transport[at..at + 2].fill(0);
            let mut sum = !checksum(&self.pseudo_header(&transport));
            sum = if self.protocol == ICMP { 0 } else { sum };
            let value = fold(u32::from(sum) + u32::from(!checksum(&transport)));
            let value = if !value == 0 && self.protocol == UDP { 0xffff } else { !value };
            transport[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        transport
    }

    fn pseudo_header(&self, transport: &[u8]) -> Vec<u8> {
        pseudo_header(self.src, self.dst, self.protocol, transport.len())
    }

    fn with_transport(&self, transport: &[u8], fragment: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header_len = 20 + self.options.len();
                let total = (header_len + transport.len()) as u16;
                packet.extend_from_slice(&[0x40 | (header_len / 4) as u8, self.tos]);
                for word in [total, self.id, fragment] {
                    packet.extend_from_slice(&word.to_be_bytes());
                }
                packet.extend_from_slice(&[self.hop_limit, self.protocol, 0, 0]);
                packet.extend_from_slice(&src.octets());
                packet.extend_from_slice(&dst.octets());
                packet.extend_from_slice(&self.options);
                let sum = checksum(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (first, extensions) = self.extensions.clone().unwrap_or((self.protocol, Vec::new()));
                packet.extend_from_slice(&[0x60 | self.tos >> 4, self.tos << 4, 0x1a, 0x2b]);
                packet.extend_from_slice(&((extensions.len() + transport.len()) as u16).to_be_bytes());
                packet.extend_from_slice(&[first, self.hop_limit]);
                packet.extend_from_slice(&src.octets());
                packet.extend_from_slice(&dst.octets());
                packet.extend_from_slice(&extensions);
            }
            _ => panic!("source and destination are of two IP versions"),
        }
        packet.extend_from_slice(transport);
        packet
    }
}

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    !fold(bytes.chunks(2).map(word).sum())
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for addr in [src, dst] {
        match addr {
            IpAddr::V4(addr) => bytes.extend_from_slice(&addr.octets()),
            IpAddr::V6(addr) => bytes.extend_from_slice(&addr.octets()),
        }
    }
    bytes.extend_from_slice(&(len as u32).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    bytes
}
