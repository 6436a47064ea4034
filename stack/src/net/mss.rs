//! The MSS option of SYNs in transit (RFC 9293 section 3.7.1), as `TCPMSS` wants it: lowered where there is one, written where
//! there is none.

use crate::packet::Packet;
use crate::packet::checksum::update;
use crate::tcp::header::{Flags, HEADER_LEN};

/// What a host may send to one whose SYN had no MSS option (RFC 9293 section 3.7.1): bytes over IPv4, and over IPv6.
const DEFAULT_IPV4: u16 = 536;
const DEFAULT_IPV6: u16 = 1220;
/// Kind and length of the option, and how long a TCP header may be.
const MSS: u8 = 2;
const MSS_LEN: usize = 4;
const HEADER_MAX: usize = 60;

/// Lowers the MSS that a SYN offers to `most`. Where it offers none, it means RFC 9293's default, and offers that or `most` from now
/// on, whichever is less; a SYN with data, without room in its header, or that would be longer than `mtu` bytes then is left
/// alone, as by Linux. Nothing else is changed.
pub(crate) fn limit_mss(packet: &mut Packet, most: u16, mtu: usize) {
    let (l4, payload) = (usize::from(packet.parsed.l4), usize::from(packet.parsed.payload));
    let partial = packet.parsed.partial_checksum;
    let Some(tcp) = packet.head_mut().get_mut(l4..payload).filter(|tcp| tcp.len() >= HEADER_LEN) else {
        return;
    };
    if !Flags(u16::from(tcp[13])).contains(Flags::SYN) {
        return;
    }
    match option(tcp) {
        Some(at) => lower(tcp, at, most, partial),
        None => add(packet, most, mtu),
    }
}

/// Where the MSS option of a TCP header is.
fn option(tcp: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut at = HEADER_LEN;
    while let Some(&kind) = tcp.get(at) {
        let len = match kind {
            END => return None,
            NO_OPERATION => 1,
            _ => usize::from(*tcp.get(at + 1)?).max(1),
        };
        if kind == MSS && len == MSS_LEN && at + MSS_LEN <= tcp.len() {
            return Some(at);
        }
        at += len;
    }
    None
}

fn lower(tcp: &mut [u8], at: usize, most: u16, partial: bool) {
    let old = word(tcp, at + 2);
    if old <= most {
        return;
    }
    put(tcp, at + 2, most);
    if !partial {
        // At an odd offset the two octets are halves of two words of the sum.
        let swap = |word: u16| if at.is_multiple_of(2) { word } else { word.swap_bytes() };
        let checksum = update(word(tcp, 16), swap(old), swap(most));
        put(tcp, 16, checksum);
    }
}

/// Writes the option before the others.
fn add(packet: &mut Packet, most: u16, mtu: usize) {
    let parsed = packet.parsed;
    let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), parsed.end as usize);
    let has_data = usize::from(parsed.payload) != end;
    if has_data || end - l4 + MSS_LEN > HEADER_MAX || end - l3 + MSS_LEN > mtu {
        return;
    }
    // Whatever padding the frame had makes room.
    packet.truncate(end);
    if packet.append(MSS_LEN).is_none() {
        return;
    }
    let ipv4 = parsed.flow.dst.is_ipv4();
    let mss = most.min(if ipv4 { DEFAULT_IPV4 } else { DEFAULT_IPV6 });
    let bytes = packet.head_mut();
    lengthen_ip(&mut bytes[l3..], ipv4);
    let tcp = &mut bytes[l4..];
    let (options, old_len) = (HEADER_LEN, end - l4);
    tcp.copy_within(options..old_len, options + MSS_LEN);
    let before = word(tcp, 12);
    tcp[12] += 1 << 4;
    tcp[options..options + 2].copy_from_slice(&[MSS, MSS_LEN as u8]);
    put(tcp, options + 2, mss);
    if !parsed.partial_checksum {
        // What moved kept its place in the words of the sum. The pseudo header has the length.
        let changes = [
            (old_len as u16, (old_len + MSS_LEN) as u16),
            (before, word(tcp, 12)),
            (0, word(tcp, options)),
            (0, mss),
        ];
        let checksum = changes.iter().fold(word(tcp, 16), |sum, (old, new)| update(sum, *old, *new));
        put(tcp, 16, checksum);
    }
    packet.parsed.payload += MSS_LEN as u16;
    packet.parsed.end += MSS_LEN as u32;
}

/// The IP header of a packet that grew by the option.
fn lengthen_ip(ip: &mut [u8], ipv4: bool) {
    let at = if ipv4 { 2 } else { 4 };
    let old = word(ip, at);
    let new = old + MSS_LEN as u16;
    put(ip, at, new);
    if ipv4 {
        let checksum = update(word(ip, 10), old, new);
        put(ip, 10, checksum);
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::net::fragment::write_header;
    use crate::packet::checksum::Sum;
    use crate::packet::{PacketPool, PoolLayout};
    use crate::parse::{FlowKey, Parsed, protocol};

    const FRAME: usize = 2048;

    /// A segment, checksums right, in an Ethernet frame with `padding` behind it.
    fn segment(six: bool, options: &[u8], flags: u8, data: &[u8], padding: usize) -> Packet {
        let pool = PacketPool::heap(PoolLayout { frames: 4, frame_size: FRAME as u32, headroom: 0 });
        let addresses = if six { ["2001:db8::1", "2001:db8::2"] } else { ["192.0.2.1", "192.0.2.2"] };
        let [src, dst]: [IpAddr; 2] = addresses.map(|text| text.parse().unwrap());
        let (header, len) = (20 + options.len(), 20 + options.len() + data.len());
        let ip_len = if six { 40 } else { 20 };
        let mut ip = vec![0; ip_len];
        write_header(&mut ip, src, dst, protocol::TCP, len, 0, 64);
        let mut tcp = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0];
        tcp.extend([((header / 4) << 4) as u8, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        tcp.extend_from_slice(options);
        tcp.extend_from_slice(data);
        let mut sum = Sum::pseudo_header(src, dst, protocol::TCP, len as u32);
        sum.add(&tcp);
        tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
        let bytes = [&[0; 14][..], &ip, &tcp, &vec![0xee; padding]].concat();
        let mut packet = Packet::copy_from(&pool, &bytes).unwrap();
        let l4 = (14 + ip_len) as u16;
        packet.parsed = Parsed {
            l3: 14,
            l4,
            payload: l4 + header as u16,
            end: u32::from(l4) + len as u32,
            flow: FlowKey { src, dst, protocol: protocol::TCP, ..FlowKey::default() },
            ..Parsed::default()
        };
        packet
    }

    fn syn(options: &[u8], flags: u8) -> Packet {
        segment(false, options, flags, &[], 0)
    }

    /// Both checksums, the lengths, and that the header is as long as it says.
    fn is_right(packet: &Packet) -> bool {
        let parsed = packet.parsed;
        let (l3, l4, end) = (usize::from(parsed.l3), usize::from(parsed.l4), parsed.end as usize);
        let (ip, tcp) = (&packet.head()[l3..l4], &packet.head()[l4..end]);
        let mut sum = Sum::pseudo_header(parsed.flow.src, parsed.flow.dst, protocol::TCP, tcp.len() as u32);
        sum.add(tcp);
        let mut header = Sum::ZERO;
        header.add(ip);
        let lengths = if ip[0] >> 4 == 4 {
            header.is_valid() && usize::from(word(ip, 2)) == end - l3
        } else {
            usize::from(word(ip, 4)) == end - l4
        };
        sum.is_valid() && lengths && usize::from(tcp[12] >> 4) * 4 == usize::from(parsed.payload) - l4
    }

    #[test]
    fn only_a_larger_mss_of_a_syn_is_lowered() {
        for (options, flags, expected) in [
            (&[2, 4, 5, 0xb4, 1, 1, 4, 2][..], 2, &[2, 4, 4, 0xb0, 1, 1, 4, 2][..]),
            (&[1, 2, 4, 5, 0xb4, 1, 1, 1], 2, &[1, 2, 4, 4, 0xb0, 1, 1, 1]),
            (&[2, 4, 2, 0, 1, 1, 1, 0], 2, &[2, 4, 2, 0, 1, 1, 1, 0]),
            (&[2, 4, 5, 0xb4], 0x12, &[2, 4, 4, 0xb0]),
            (&[2, 4, 5, 0xb4], 0x10, &[2, 4, 5, 0xb4]),
        ] {
            let mut packet = syn(options, flags);
            assert!(is_right(&packet));
            limit_mss(&mut packet, 1200, 1500);
            assert_eq!(&packet.head()[54..], expected, "{options:?}");
            assert!(is_right(&packet), "{options:?}");
        }
    }

    #[test]
    fn a_syn_without_an_mss_offers_the_default_or_less() {
        for (six, options, most, expected) in [
            (false, &[][..], 1200, &[2, 4, 2, 24][..]),
            (false, &[], 500, &[2, 4, 1, 0xf4]),
            (true, &[], 1400, &[2, 4, 4, 0xc4]),
            (true, &[], 1000, &[2, 4, 3, 0xe8]),
            (false, &[1, 3, 3, 7], 1200, &[2, 4, 2, 24, 1, 3, 3, 7]),
            // What cannot be read behind the end, or at all, is no offer.
            (false, &[0, 2, 4, 5], 1200, &[2, 4, 2, 24, 0, 2, 4, 5]),
            (false, &[3, 0, 2, 4], 1200, &[2, 4, 2, 24, 3, 0, 2, 4]),
        ] {
            for padding in [0, 6] {
                let mut packet = segment(six, options, 2, &[], padding);
                limit_mss(&mut packet, most, 1500);
                let start = if six { 74 } else { 54 };
                assert_eq!(&packet.head()[start..], expected, "{options:?}");
                assert!(is_right(&packet), "{options:?}");
            }
        }
    }

    #[test]
    fn a_syn_with_data_or_a_full_header_or_for_a_full_link_is_left_alone() {
        let full = [1; 40];
        for (options, flags, data, mtu) in
            [(&[][..], 2, &[7][..], 1500), (&full, 2, &[], 1500), (&[], 2, &[], 43), (&[], 0x10, &[], 1500)]
        {
            let mut packet = segment(false, options, flags, data, 2);
            let before = packet.head().to_vec();
            limit_mss(&mut packet, 1200, mtu);
            assert_eq!(packet.head(), before, "{options:?} {data:?} {mtu}");
        }
        let mut packet = segment(false, &full[4..], 2, &[], 0);
        limit_mss(&mut packet, 1200, 100);
        assert!(is_right(&packet));
        assert_eq!(&packet.head()[54..58], [2, 4, 2, 24], "there is room for just one more");
    }

    #[test]
    fn a_frame_without_room_is_left_alone() {
        let mut packet = syn(&[], 2);
        let room = packet.tailroom();
        packet.append(room).unwrap().fill(0);
        // Padding is room; bytes before the packet are none.
        limit_mss(&mut packet, 1200, 1500);
        assert!(is_right(&packet));
        let pool =
            PacketPool::heap(PoolLayout { frames: 4, frame_size: FRAME as u32, headroom: FRAME as u32 - 54 });
        let mut tight = Packet::copy_from(&pool, &syn(&[], 2).head()[..54]).unwrap();
        tight.parsed = syn(&[], 2).parsed;
        let before = tight.head().to_vec();
        limit_mss(&mut tight, 1200, 1500);
        assert_eq!(tight.head(), before);
    }

    proptest! {
        /// As if the SYN had been built with the option: nothing but it, the lengths and the sums are new, and again nothing
        /// changes.
        #[test]
        fn an_added_option_is_all_that_is_new(
            six in any::<bool>(),
            options in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
            most in 88u16..=1460,
            syn_ack in any::<bool>(),
            padding in 0usize..8,
            partial in any::<bool>(),
        ) {
            let options = options.concat();
            let flags = if syn_ack { 0x12 } else { 2 };
            let mut packet = segment(six, &options, flags, &[], padding);
            let l4 = usize::from(packet.parsed.l4);
            let offered = option(&packet.head()[l4..usize::from(packet.parsed.payload)]);
            prop_assume!(offered.is_none());
            packet.parsed.partial_checksum = partial;
            let before = packet.head().to_vec();
            limit_mss(&mut packet, most, 1500);
            if options.len() == 40 {
                prop_assert_eq!(packet.head(), &before[..]);
                return Ok(());
            }
            let mss = most.min(if six { 1220 } else { 536 }).to_be_bytes();
            let built = segment(six, &[&[2, 4, mss[0], mss[1]][..], &options].concat(), flags, &[], 0);
            let (mut is, mut wanted) = (packet.head().to_vec(), built.head().to_vec());
            if partial {
                // Its device was to compute it: the way out does now.
                prop_assert_eq!(word(&is, l4 + 16), word(&before, l4 + 16));
                is[l4 + 16..l4 + 18].fill(0);
                wanted[l4 + 16..l4 + 18].fill(0);
            } else {
                prop_assert!(is_right(&packet));
            }
            // 0 and 0xffff are one value of a one's complement sum.
            for at in [24, l4 + 16] {
                if word(&is, at) == 0xffff && word(&wanted, at) == 0 {
                    put(&mut is, at, 0);
                }
            }
            prop_assert_eq!(&is, &wanted);
            let (once, parsed) = (packet.head().to_vec(), packet.parsed);
            prop_assert_eq!((parsed.payload, parsed.end), (built.parsed.payload, built.parsed.end));
            limit_mss(&mut packet, most, 1500);
            prop_assert_eq!(packet.head(), &once[..]);
        }

        /// Whatever the bytes, and wherever the headers are said to be: no panic.
        #[test]
        fn any_bytes_are_survived(options in prop::collection::vec(any::<u8>(), 0..40), data in prop::collection::vec(any::<u8>(), 0..4), most in any::<u16>()) {
            let mut packet = segment(false, &options, 2, &data, 0);
            limit_mss(&mut packet, most, 1500);
        }
    }
}
