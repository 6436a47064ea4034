//! TCP segments by hand, over Ethernet and IPv4 without options: written for the scripted peer, and read.

use std::net::{IpAddr, Ipv4Addr};

use bywash::packet::checksum::Sum;
use bywash::packet::{Packet, PacketPool};

/// Flags of RFC 9293 section 3.1.
pub const SYN: u8 = 0x02;
/// Data is to be delivered at once.
pub const PSH: u8 = 0x08;
/// The acknowledgment number counts.
pub const ACK: u8 = 0x10;

/// Ethernet, IPv4 and TCP headers without options.
pub const HEADERS: usize = 14 + 20 + 20;
const PROTOCOL_TCP: u8 = 6;
const HEADERS_MAX: usize = HEADERS + 8;

/// What a segment is to say; payloads are zeros.
pub struct Header {
    /// Destination's and source's.
    pub macs: [[u8; 6]; 2],
    /// Source and destination.
    pub addresses: [Ipv4Addr; 2],
    /// Source and destination.
    pub ports: [u16; 2],
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// [`SYN`], [`ACK`], [`PSH`].
    pub flags: u8,
    /// As on the wire.
    pub window: u16,
}

/// The bytes of a header with its options.
pub struct HeaderBytes([u8; HEADERS_MAX], usize);

impl core::ops::Deref for HeaderBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

impl Header {
    /// The headers of a segment with `options` (0 or 8 bytes) and `len` bytes of zeros.
    pub fn bytes(&self, options: &[u8], len: usize) -> HeaderBytes {
        let [src, dst] = self.addresses;
        let tcp_len = 20 + options.len() + len;
        let mut bytes = [0; HEADERS_MAX];
        bytes[..6].copy_from_slice(&self.macs[0]);
        bytes[6..12].copy_from_slice(&self.macs[1]);
        bytes[12] = 8;
        let ip = &mut bytes[14..34];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(20 + tcp_len as u16).to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = PROTOCOL_TCP;
        ip[12..16].copy_from_slice(&src.octets());
        ip[16..20].copy_from_slice(&dst.octets());
        let mut sum = Sum::ZERO;
        sum.add(ip);
        ip[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
        let tcp = &mut bytes[34..];
        tcp[..2].copy_from_slice(&self.ports[0].to_be_bytes());
        tcp[2..4].copy_from_slice(&self.ports[1].to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12] = ((20 + options.len()) << 2) as u8;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[20..20 + options.len()].copy_from_slice(options);
        let (src, dst) = (IpAddr::V4(src), IpAddr::V4(dst));
        let mut sum = Sum::pseudo_header(src, dst, PROTOCOL_TCP, tcp_len as u32);
        sum.add(tcp);
        tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
        HeaderBytes(bytes, HEADERS + options.len())
    }

    /// The segment as a packet; `None` when the pool has too few frames. Short ones are padded to Ethernet's 60 bytes.
    pub fn packet(&self, pool: &PacketPool, options: &[u8], len: usize) -> Option<Packet> {
        let bytes = self.bytes(options, len);
        let mut packet = Packet::alloc(pool)?;
        packet.append(bytes.len())?.copy_from_slice(&bytes);
        let mut left = len.max(60usize.saturating_sub(bytes.len()));
        let room = packet.tailroom().min(left);
        packet.append(room)?.fill(0);
        left -= room;
        while left > 0 {
            let mut frame = pool.alloc()?;
            let start = frame.layout().headroom as usize;
            let room = &mut frame.bytes_mut()[start..];
            let count = room.len().min(left);
            room[..count].fill(0);
            packet.push_frame(frame, start, count)?;
            left -= count;
        }
        Some(packet)
    }
}

/// A packet of `len` bytes of whatever the frames held before; `None` when the pool has too few.
pub fn stale(pool: &PacketPool, len: usize) -> Option<Packet> {
    let mut packet = Packet::alloc(pool)?;
    let room = packet.tailroom().min(len);
    packet.append(room)?;
    let mut left = len - room;
    while left > 0 {
        let frame = pool.alloc()?;
        let start = frame.layout().headroom as usize;
        let count = (frame.bytes().len() - start).min(left);
        packet.push_frame(frame, start, count)?;
        left -= count;
    }
    Some(packet)
}

/// What a received segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// As in [`Header`].
    pub flags: u8,
    /// As on the wire.
    pub window: u16,
    /// The window scale option's shift; 0 without it.
    pub window_shift: u8,
    /// Bytes of payload.
    pub len: usize,
}

/// Reads a TCP segment from the first frame of a packet; `None` for anything else.
pub fn parse(frame: &[u8]) -> Option<Segment> {
    let ip = frame.get(14..)?;
    if frame[12..14] != [8, 0] || *ip.first()? != 0x45 || ip.len() < 40 || ip[9] != PROTOCOL_TCP {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let tcp = &ip[20..];
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let header = usize::from(tcp[12] >> 4) * 4;
    Some(Segment {
        dst_port: u16::from_be_bytes([tcp[2], tcp[3]]),
        seq: word(4),
        ack: word(8),
        flags: tcp[13],
        window: u16::from_be_bytes([tcp[14], tcp[15]]),
        window_shift: window_shift(tcp.get(20..header)?),
        len: total.checked_sub(20 + header)?,
    })
}

fn window_shift(mut options: &[u8]) -> u8 {
    loop {
        match options {
            [3, 3, shift, ..] => return *shift,
            [0, ..] | [] => return 0,
            [1, rest @ ..] => options = rest,
            [_, len, ..] => match options.get(usize::from(*len).max(2)..) {
                Some(rest) => options = rest,
                None => return 0,
            },
            [_] => return 0,
        }
    }
}

/// The reply to an ARP request for `address` (RFC 826); `None` for anything else.
pub fn arp_reply(frame: &[u8], address: Ipv4Addr, mac: [u8; 6]) -> Option<Vec<u8>> {
    let request = frame.get(..42)?;
    if request[12..22] != [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] || request[38..42] != address.octets() {
        return None;
    }
    let (asker, asker_address) = (&request[22..28], &request[28..32]);
    let mut reply = [asker, &mac, &request[12..21], &[2]].concat();
    reply.extend([&mac[..], &address.octets(), asker, asker_address].concat());
    reply.resize(60, 0);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use bywash::packet::PoolLayout;

    use super::*;

    fn header() -> Header {
        Header {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            addresses: [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 10)],
            ports: [10_000, 9],
            seq: 0x0102_0304,
            ack: 0x0506_0708,
            flags: SYN | ACK,
            window: 0x1234,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let pool = PacketPool::heap(PoolLayout { frames: 8, frame_size: 2048, headroom: 128 });
        let options = [2, 4, 5, 0xb4, 1, 3, 3, 7];
        let packet = header().packet(&pool, &options, 3000).unwrap();
        assert_eq!((packet.len(), packet.frames()), (HEADERS + 8 + 3000, 2));
        let segment = parse(packet.head()).unwrap();
        let expected = Segment {
            dst_port: 9,
            seq: 0x0102_0304,
            ack: 0x0506_0708,
            flags: SYN | ACK,
            window: 0x1234,
            window_shift: 7,
            len: 3000,
        };
        assert_eq!(segment, expected);
    }

    #[test]
    fn checksums_are_right() {
        let bytes = header().bytes(&[], 0);
        let mut ip = Sum::ZERO;
        ip.add(&bytes[14..34]);
        assert!(ip.is_valid());
        let [src, dst] = header().addresses;
        let mut tcp = Sum::pseudo_header(src.into(), dst.into(), PROTOCOL_TCP, 20);
        tcp.add(&bytes[34..54]);
        assert!(tcp.is_valid());
    }

    #[test]
    fn a_question_for_the_address_is_answered_and_no_other() {
        let (asker, me) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let mut request = [&[0xff; 6][..], &asker, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &asker].concat();
        request.extend([&[192, 0, 2, 10][..], &[0; 6], &address.octets()].concat());
        let reply = arp_reply(&request, address, me).unwrap();
        assert_eq!(reply[..6], asker);
        assert_eq!(reply[20..22], [0, 2]);
        assert_eq!(reply[22..28], me);
        assert_eq!(arp_reply(&request, Ipv4Addr::new(192, 0, 2, 3), me), None);
    }
}
