//! Cuts IP packets that are too long for a link into fragments: RFC 791 section 3.2 with RFC 6864's rules for the
//! identification, and RFC 8200 section 4.5. Whole packets come from [`super::egress`], and fragments go back to it.

use core::hash::Hasher;
use core::net::{IpAddr, Ipv4Addr};
use core::ops::Range;

use rand_chacha::ChaCha12Rng;
use rand_core::RngCore;
use siphasher::sip::SipHasher13;
use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

use super::egress::{IPV4_HEADER, IPV6_HEADER};
use crate::packet::checksum::Sum;
use crate::parse::protocol;
use crate::tcp::IpFields;

const FRAGMENT_HEADER: usize = 8;
/// Packets up to this size pass every path that matters whole: they are sent with "don't fragment" and need no
/// identification (RFC 6864 section 4.1). Longer ones of ours (never TCP's) may be fragmented on their way.
const ATOMIC_BYTES: usize = 1280;

/// Identifications: unique for a source, destination and protocol as long as the counter does not wrap, and not to be
/// guessed by others (RFC 6864 section 4.3, RFC 7739 section 5.3).
#[derive(Debug)]
pub(crate) struct FragmentIds {
    keys: (u64, u64),
    counter: u32,
    /// Shards count in steps of their number, so that two of them do not meet.
    step: u32,
}

impl FragmentIds {
    /// `rng`: the same on all shards, and unpredictable.
    pub(crate) fn new(rng: &mut ChaCha12Rng, shard: u16, shards: u16) -> Self {
        let keys = (rng.next_u64(), rng.next_u64());
        let start = rng.next_u32() & 0xffff;
        let step = u32::from(shards.max(1));
        Self { keys, counter: start - start % step + u32::from(shard), step }
    }

    pub(super) fn next(&mut self, src: IpAddr, dst: IpAddr, protocol: u8) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        for addr in [src, dst] {
            match addr {
                IpAddr::V4(addr) => hasher.write(&addr.octets()),
                IpAddr::V6(addr) => hasher.write(&addr.octets()),
            }
        }
        hasher.write_u8(protocol);
        self.counter = self.counter.wrapping_add(self.step);
        (hasher.finish() as u32).wrapping_add(self.counter)
    }
}

/// The pieces of one packet, the packet itself when it fits.
#[derive(Debug)]
pub(crate) struct Fragments {
    header: [u8; IPV6_HEADER + FRAGMENT_HEADER],
    header_len: usize,
    /// What is left to send, as a range of the whole packet.
    rest: Range<usize>,
    /// Payload bytes of a fragment; all of them when the packet is not cut.
    step: usize,
    cut: bool,
    done: bool,
}

impl Fragments {
    /// Plans the sending of `packet` (a whole IP packet without options or extension headers that routers look at) over a
    /// link with packets of `mtu` bytes.
    pub(crate) fn new(packet: &mut [u8], mtu: usize, ids: &mut FragmentIds) -> Self {
        if packet[0] >> 4 == 4 { Self::ipv4(packet, mtu, ids) } else { Self::ipv6(packet, mtu, ids) }
    }

    fn ipv4(packet: &mut [u8], mtu: usize, ids: &mut FragmentIds) -> Self {
        let len = packet.len();
        let mut header = Ipv4Packet::new_unchecked(&mut packet[..]);
        if len > ATOMIC_BYTES {
            let (src, dst) = (header.src_addr(), header.dst_addr());
            let id = ids.next(src.into(), dst.into(), header.next_header().into());
            header.set_dont_frag(false);
            header.set_ident(id as u16);
            fill_ipv4_checksum(packet);
        }
        Self::of(packet, IPV4_HEADER, IPV4_HEADER, mtu)
    }

    fn ipv6(packet: &[u8], mtu: usize, ids: &mut FragmentIds) -> Self {
        if packet.len() <= mtu {
            return Self::of(packet, IPV6_HEADER, IPV6_HEADER, mtu);
        }
        let mut this = Self::of(packet, IPV6_HEADER, IPV6_HEADER + FRAGMENT_HEADER, mtu);
        let header = Ipv6Packet::new_unchecked(packet);
        let id = ids.next(header.src_addr().into(), header.dst_addr().into(), packet[6]);
        this.header[6] = protocol::FRAGMENT;
        this.header[IPV6_HEADER] = packet[6];
        this.header[IPV6_HEADER + 4..].copy_from_slice(&id.to_be_bytes());
        this
    }

    fn of(packet: &[u8], payload_start: usize, header_len: usize, mtu: usize) -> Self {
        let mut header = [0; IPV6_HEADER + FRAGMENT_HEADER];
        header[..payload_start].copy_from_slice(&packet[..payload_start]);
        let cut = packet.len() > mtu;
        let step = if cut { (mtu - header_len) & !7 } else { packet.len() };
        Self { header, header_len, rest: payload_start..packet.len(), step, cut, done: false }
    }

    /// Whether the packet goes in more than one piece.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    /// The next piece: its IP header and which bytes of the whole packet follow it.
    pub(crate) fn next(&mut self) -> Option<(&[u8], Range<usize>)> {
        if self.done {
            return None;
        }
        let start = self.rest.start;
        let end = (start + self.step).min(self.rest.end);
        self.rest.start = end;
        self.done = self.rest.is_empty();
        if self.cut {
            self.number(start - self.offset_base(), end - start, !self.done);
        }
        Some((&self.header[..self.header_len], start..end))
    }

    fn offset_base(&self) -> usize {
        if self.header[0] >> 4 == 4 { IPV4_HEADER } else { IPV6_HEADER }
    }

    /// Writes a fragment's offset and length into the header.
    fn number(&mut self, offset: usize, len: usize, more: bool) {
        if self.header[0] >> 4 == 4 {
            let mut header = Ipv4Packet::new_unchecked(&mut self.header[..IPV4_HEADER]);
            header.set_total_len((IPV4_HEADER + len) as u16);
            header.set_frag_offset(offset as u16);
            header.set_more_frags(more);
            fill_ipv4_checksum(&mut self.header);
        } else {
            let mut header = Ipv6Packet::new_unchecked(&mut self.header[..]);
            header.set_payload_len((FRAGMENT_HEADER + len) as u16);
            let field = offset as u16 | u16::from(more);
            self.header[IPV6_HEADER + 2..][..2].copy_from_slice(&field.to_be_bytes());
        }
    }
}

/// Sets the checksum of the IPv4 header that `packet` begins with.
pub(crate) fn fill_ipv4_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let len = usize::from(packet[0] & 0xf) * 4;
    let mut sum = Sum::ZERO;
    sum.add(&packet[..len]);
    packet[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
}

/// Writes an IP header for `len` bytes of payload; the packet's DF bit is set where there is one. `tos`: Diffserv field and
/// ECN bits.
///
/// # Panics
/// When the addresses are of different families or `packet` is shorter than the header.
pub(crate) fn write_header(
    packet: &mut [u8],
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    len: usize,
    tos: u8,
    hop_limit: u8,
) -> usize {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            write_ipv4(packet, src, dst, protocol, len, tos, hop_limit);
            IPV4_HEADER
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = Ipv6Packet::new_unchecked(packet);
            header.set_version(6);
            header.set_traffic_class(tos);
            header.set_flow_label(0);
            header.set_payload_len(len as u16);
            header.set_next_header(protocol.into());
            header.set_hop_limit(hop_limit);
            header.set_src_addr(src);
            header.set_dst_addr(dst);
            IPV6_HEADER
        }
        _ => unreachable!("source and destination of one packet are of one family"),
    }
}

/// Sets what a socket chooses in a header that is already there, without options.
pub(super) fn set_fields(packet: &mut [u8], ip: IpFields) {
    if packet[0] >> 4 == 4 {
        (packet[1], packet[8]) = (ip.tos, ip.hop_limit);
        fill_ipv4_checksum(packet);
    } else {
        let mut header = Ipv6Packet::new_unchecked(packet);
        header.set_traffic_class(ip.tos);
        header.set_hop_limit(ip.hop_limit);
    }
}

/// An IPv4 header without options.
#[inline]
pub(super) fn write_ipv4(
    packet: &mut [u8],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    len: usize,
    tos: u8,
    hop_limit: u8,
) {
    const DONT_FRAGMENT: u16 = 0x4000;
    let first = 0x4500 | u16::from(tos);
    let total = (IPV4_HEADER + len) as u16;
    let third = u16::from_be_bytes([hop_limit, protocol]);
    let addrs = [src.to_bits(), dst.to_bits()];
    // RFC 791's checksum from what is written, without reading it again. Five words and two of 32 bits: 18 bits and carries.
    let sum = u32::from(first) + u32::from(total) + u32::from(DONT_FRAGMENT) + u32::from(third);
    let sum = addrs.iter().fold(sum, |sum, addr| sum + (addr >> 16) + (addr & 0xffff));
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    let Some(header) = packet.first_chunk_mut::<IPV4_HEADER>() else { return };
    header[0..2].copy_from_slice(&first.to_be_bytes());
    header[2..4].copy_from_slice(&total.to_be_bytes());
    // RFC 6864 section 4.1: with DF set the identification means nothing.
    header[4..6].fill(0);
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8..10].copy_from_slice(&third.to_be_bytes());
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header[12..16].copy_from_slice(&addrs[0].to_be_bytes());
    header[16..20].copy_from_slice(&addrs[1].to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_core::SeedableRng;

    fn ids() -> FragmentIds {
        FragmentIds::new(&mut ChaCha12Rng::from_seed([1; 32]), 0, 1)
    }

    fn packet(src: &str, dst: &str, len: usize) -> Vec<u8> {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let mut packet = vec![0; 40 + len];
        let start = write_header(&mut packet, src, dst, protocol::UDP, len, 0, HOP);
        packet.truncate(start + len);
        (0..len).for_each(|at| packet[start + at] = at as u8);
        packet
    }
    const HOP: u8 = 64;

    fn v4(len: usize) -> Vec<u8> {
        packet("192.0.2.1", "192.0.2.2", len)
    }

    fn v6(len: usize) -> Vec<u8> {
        packet("2001:db8::1", "2001:db8::2", len)
    }

    #[test]
    fn a_packet_that_fits_goes_as_it_is() {
        for mut packet in [v4(0), v4(1200), v6(0), v6(1460)] {
            let original = packet.clone();
            let mut fragments = Fragments::new(&mut packet, 1500, &mut ids());
            let (header, payload) =
                fragments.next().map(|(header, payload)| (header.to_vec(), payload)).unwrap();
            assert!(fragments.next().is_none());
            assert_eq!([&header[..], &packet[payload]].concat(), original);
        }
    }

    #[test]
    fn only_long_ipv4_packets_may_be_fragmented_by_others() {
        let flags = |len| {
            let mut packet = v4(len);
            Fragments::new(&mut packet, 1500, &mut ids());
            let header = Ipv4Packet::new_checked(&packet[..]).unwrap();
            assert!(header.verify_checksum());
            (header.dont_frag(), header.ident() != 0)
        };
        assert_eq!(flags(1260), (true, false));
        assert_eq!(flags(1261), (false, true));
    }

    #[test]
    fn identifications_of_one_destination_differ() {
        let mut ids = ids();
        let [src, dst] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let mut seen: Vec<u16> = (0..1000).map(|_| ids.next(src, dst, 17) as u16).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
    }

    proptest! {
        #[test]
        fn fragments_cover_the_packet_in_order_and_fit(len in 1usize..65_000, mtu in 1280usize..9000, six in any::<bool>()) {
            let mut packet = if six { v6(len) } else { v4(len) };
            let (header_len, start) = if six { (48, 40) } else { (20, 20) };
            let whole = packet.len();
            let mut fragments = Fragments::new(&mut packet, mtu, &mut ids());
            let cut = fragments.is_cut();
            prop_assert_eq!(cut, whole > mtu);
            let mut expected = start;
            let mut id = None;
            while let Some((header, payload)) = fragments.next() {
                prop_assert_eq!(payload.start, expected);
                expected = payload.end;
                prop_assert!(header.len() + payload.len() <= mtu);
                let more = payload.end < whole;
                if !cut { continue; }
                prop_assert_eq!(header.len(), header_len);
                let (offset, flag, this) = if six {
                    let field = u16::from_be_bytes([header[42], header[43]]);
                    prop_assert_eq!(usize::from(u16::from_be_bytes([header[4], header[5]])), payload.len() + 8);
                    prop_assert_eq!((header[6], header[40]), (protocol::FRAGMENT, protocol::UDP));
                    (usize::from(field & !7), field & 1 == 1, u32::from_be_bytes([header[44], header[45], header[46], header[47]]))
                } else {
                    let view = Ipv4Packet::new_unchecked(header);
                    prop_assert!(view.verify_checksum());
                    prop_assert!(!view.dont_frag());
                    prop_assert_eq!(usize::from(view.total_len()), payload.len() + 20);
                    (usize::from(view.frag_offset()), view.more_frags(), u32::from(view.ident()))
                };
                prop_assert_eq!((offset, flag), (payload.start - start, more));
                prop_assert!(!more || payload.len() % 8 == 0);
                prop_assert_eq!(*id.get_or_insert(this), this);
            }
            prop_assert_eq!(expected, whole);
        }
    }
}
