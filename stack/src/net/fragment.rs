//! Output fragmentation: cuts an IP packet that is longer than the MTU into fragments (RFC 791 section 3.2, RFC 8200
//! section 4.5). TCP never needs it; what smoltcp's sockets and ICMP send may.

use core::hash::Hasher;
use core::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::{IPV4_HEADER, IPV6_HEADER};
use crate::packet::checksum::Sum;
use crate::parse::protocol;

const FRAGMENT_HEADER: usize = 8;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Identifications of fragmented packets: by RFC 7739 section 5.3 a secret offset and a counter for each pair of addresses
/// (pairs share `COUNTERS` counters), so that a stranger cannot guess other hosts' identifications.
#[derive(Clone, Debug, Default)]
pub(crate) struct FragmentIds {
    keys: (u64, u64),
    counters: Vec<u32>,
    step: u32,
}

const COUNTERS: usize = 256;

impl FragmentIds {
    /// `keys` are the same on all shards; shard `index` of `count` takes each `count`-th identification.
    pub(crate) fn new(keys: (u64, u64), index: u16, count: u16) -> Self {
        Self { keys, counters: vec![u32::from(index); COUNTERS], step: u32::from(count.max(1)) }
    }

    fn next(&mut self, src: IpAddr, dst: IpAddr) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        for addr in [src, dst] {
            match addr {
                IpAddr::V4(addr) => hasher.write(&addr.octets()),
                IpAddr::V6(addr) => hasher.write(&addr.octets()),
            }
        }
        let hash = hasher.finish();
        let counter = &mut self.counters[hash as usize % COUNTERS];
        *counter = counter.wrapping_add(self.step);
        ((hash >> 32) as u32).wrapping_add(*counter)
    }
}

/// Calls `emit` with the headers and the payload of each fragment of `packet`, a whole IP packet to `dst` from `src` longer
/// than `mtu`. Returns how many there were; 0 when the packet cannot be cut.
pub(crate) fn for_each(
    packet: &[u8],
    (src, dst): (IpAddr, IpAddr),
    mtu: usize,
    ids: &mut FragmentIds,
    mut emit: impl FnMut(&[u8], &[u8]),
) -> usize {
    let ipv4 = dst.is_ipv4();
    let header_len = if ipv4 { IPV4_HEADER } else { IPV6_HEADER };
    let overhead = if ipv4 { IPV4_HEADER } else { IPV6_HEADER + FRAGMENT_HEADER };
    // Headers with options or extensions never come with long packets from our own senders.
    let plain =
        if ipv4 { packet.first() == Some(&0x45) } else { packet.get(6) != Some(&protocol::HOP_BY_HOP) };
    let Some((header, payload)) = packet.split_at_checked(header_len).filter(|_| plain) else { return 0 };
    let room = mtu.saturating_sub(overhead) / 8 * 8;
    if room == 0 || payload.len() > usize::from(u16::MAX) - header_len {
        return 0;
    }
    let id = ids.next(src, dst);
    let pieces = payload.chunks(room);
    let last = pieces.len() - 1;
    for (number, piece) in payload.chunks(room).enumerate() {
        let offset = (number * room) as u16;
        let mut headers = [0; IPV6_HEADER + FRAGMENT_HEADER];
        headers[..header_len].copy_from_slice(header);
        if ipv4 {
            headers[2..4].copy_from_slice(&((IPV4_HEADER + piece.len()) as u16).to_be_bytes());
            headers[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            let more = if number < last { MORE_FRAGMENTS } else { 0 };
            headers[6..8].copy_from_slice(&(offset / 8 | more).to_be_bytes());
            headers[10..12].fill(0);
            let mut sum = Sum::ZERO;
            sum.add(&headers[..IPV4_HEADER]);
            headers[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
        } else {
            headers[4..6].copy_from_slice(&((FRAGMENT_HEADER + piece.len()) as u16).to_be_bytes());
            headers[6] = protocol::FRAGMENT;
            headers[40] = header[6];
            headers[42..44].copy_from_slice(&(offset | u16::from(number < last)).to_be_bytes());
            headers[44..48].copy_from_slice(&id.to_be_bytes());
        }
        emit(&headers[..overhead], piece);
    }
    last + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{Ipv4Packet, Ipv6FragmentHeader, Ipv6Packet};

    const V4: (IpAddr, IpAddr) = (
        IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 2)),
    );

    fn v6() -> (IpAddr, IpAddr) {
        ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
    }

    fn ids() -> FragmentIds {
        FragmentIds::new((1, 2), 0, 1)
    }

    #[test]
    fn identifications_of_a_pair_differ_between_shards_until_they_wrap() {
        let mut shards: Vec<_> = (0..3).map(|index| FragmentIds::new((1, 2), index, 3)).collect();
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..300 {
            assert!(seen.insert(shards[round % 3].next(V4.0, V4.1) as u16));
        }
    }

    #[test]
    fn a_packet_with_options_is_not_cut() {
        let mut packet = vec![0; 4000];
        packet[0] = 0x46;
        assert_eq!(for_each(&packet, V4, 1500, &mut ids(), |_, _| panic!()), 0);
    }

    proptest! {
        #[test]
        fn the_fragments_hold_the_payload_and_fit_the_mtu(
            payload in prop::collection::vec(any::<u8>(), 1500..9000), mtu in 68usize..1500,
        ) {
            let mut packet = vec![0; IPV4_HEADER];
            (packet[0], packet[9]) = (0x45, protocol::UDP);
            packet.extend_from_slice(&payload);
            let (mut joined, mut idents) = (Vec::new(), std::collections::BTreeSet::new());
            let mut more = true;
            for_each(&packet, V4, mtu, &mut ids(), |headers, piece| {
                let header = Ipv4Packet::new_unchecked(headers);
                assert!(header.verify_checksum() && headers.len() + piece.len() <= mtu);
                assert_eq!(usize::from(header.total_len()), headers.len() + piece.len());
                assert_eq!(usize::from(header.frag_offset()), joined.len());
                assert!(more && !header.dont_frag());
                more = header.more_frags();
                idents.insert(header.ident());
                joined.extend_from_slice(piece);
            });
            prop_assert!(!more && idents.len() == 1);
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn ipv6_fragments_have_a_fragment_header(payload in prop::collection::vec(any::<u8>(), 1500..9000)) {
            let mut packet = vec![0; IPV6_HEADER];
            (packet[0], packet[6]) = (0x60, protocol::UDP);
            packet.extend_from_slice(&payload);
            let (mut joined, mut more) = (Vec::new(), true);
            for_each(&packet, v6(), 1280, &mut ids(), |headers, piece| {
                let header = Ipv6Packet::new_unchecked(&headers[..IPV6_HEADER]);
                assert_eq!(usize::from(header.payload_len()), FRAGMENT_HEADER + piece.len());
                assert_eq!(headers[6], protocol::FRAGMENT);
                assert_eq!(headers[40], protocol::UDP);
                let fragment = Ipv6FragmentHeader::new_unchecked(&headers[42..]);
                assert_eq!(usize::from(fragment.frag_offset()) * 8, joined.len());
                assert!(more && headers.len() + piece.len() <= 1280);
                more = fragment.more_frags();
                joined.extend_from_slice(piece);
            });
            prop_assert!(!more);
            prop_assert_eq!(joined, payload);
        }
    }
}
