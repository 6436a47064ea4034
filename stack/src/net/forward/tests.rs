use proptest::prelude::*;

use super::*;
use crate::net::fragment::write_header;
use crate::packet::{PacketPool, PoolLayout};
use crate::parse::{FlowKey, Parsed};

/// An IP packet with `options` bytes of IPv4 options or IPv6 destination options.
fn packet(six: bool, options: usize, payload: usize) -> (Vec<u8>, usize) {
    let mut packet = vec![0; 40];
    let header_len = if six {
        let [src, dst] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap());
        write_header(&mut packet, src, dst, protocol::UDP, payload + options, 0, 9);
        if options > 0 {
            packet[6] = protocol::ROUTING;
            packet.extend_from_slice(&[protocol::UDP, (options / 8 - 1) as u8]);
            packet.resize(40 + options, 0);
        }
        40 + options
    } else {
        let [src, dst] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        write_header(&mut packet, src, dst, protocol::UDP, payload + options, 0, 9);
        packet.truncate(20);
        // Timestamp (not copied), then a made-up copied option.
        packet.extend([68, 4, 5, 0, 0x94, 4, 0, 0].iter().copied().cycle().take(options));
        packet[0] = 0x45 + (options / 4) as u8;
        (packet[4], packet[5], packet[6]) = (0xab, 0xcd, 0);
        fill_ipv4_checksum(&mut packet);
        20 + options
    };
    packet.extend((0..payload).map(|at| at as u8));
    (packet, header_len)
}

proptest! {
    #[test]
    fn pieces_fit_and_put_together_are_the_packet(six in any::<bool>(), options in 0usize..3, payload in 1usize..9000, len in 576usize..1500) {
        let (whole, header_len) = packet(six, options * 8, payload);
        let mut put_together = vec![0; payload];
        let (mut covered, mut last) = (0, false);
        cut(&whole, header_len, len, 7, |header, piece| {
            assert!(header.len() + piece.len() <= len);
            let (offset, more) = if whole.len() <= len {
                (0, false)
            } else if six {
                let at = header.len() - 8;
                let field = u16::from_be_bytes([header[at + 2], header[at + 3]]);
                assert_eq!((header[at], &header[at + 4..]), (protocol::UDP, &[0, 0, 0, 7][..]));
                assert_eq!(usize::from(u16::from_be_bytes([header[4], header[5]])), header.len() - 40 + piece.len());
                assert_eq!(header[last_next_header(&header[..at])], protocol::FRAGMENT);
                (usize::from(field & !7), field & 1 == 1)
            } else {
                let mut sum = Sum::ZERO;
                sum.add(header);
                assert!(sum.is_valid());
                assert_eq!(header[4..6], [0xab, 0xcd]);
                assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), header.len() + piece.len());
                let field = u16::from_be_bytes([header[6], header[7]]);
                (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0)
            };
            put_together[offset..offset + piece.len()].copy_from_slice(piece);
            covered += piece.len();
            last |= !more;
        });
        prop_assert!(last);
        prop_assert_eq!(covered, payload);
        prop_assert_eq!(&put_together[..], &whole[header_len..]);
    }
}

#[test]
fn options_without_the_copied_flag_are_in_the_first_piece_only() {
    let (whole, header_len) = packet(false, 8, 1200);
    let mut options = Vec::new();
    cut(&whole, header_len, 600, 0, |header, _| options.push(header[20..].to_vec()));
    assert_eq!(options[0], [68, 4, 5, 0, 0x94, 4, 0, 0]);
    assert_eq!(options[1], [1, 1, 1, 1, 0x94, 4, 0, 0]);
}

/// A SYN over IPv4 with these TCP options, checksums right.
fn syn(options: &[u8], flags: u8) -> Packet {
    let pool = PacketPool::heap(PoolLayout { frames: 4, frame_size: 2048, headroom: 0 });
    let [src, dst] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
    let len = 20 + options.len();
    let mut ip = vec![0; 20];
    write_header(&mut ip, src, dst, protocol::TCP, len, 0, 64);
    let mut tcp = vec![
        0x9c,
        0x40,
        0,
        80,
        0,
        0,
        0,
        9,
        0,
        0,
        0,
        0,
        ((len / 4) << 4) as u8,
        flags,
        0xfa,
        0xf0,
        0,
        0,
        0,
        0,
    ];
    tcp.extend_from_slice(options);
    let mut sum = Sum::pseudo_header(src, dst, protocol::TCP, len as u32);
    sum.add(&tcp);
    tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut packet = Packet::copy_from(&pool, &[&[0; 14][..], &ip, &tcp].concat()).unwrap();
    let flow = FlowKey { src, dst, protocol: protocol::TCP, ..FlowKey::default() };
    packet.parsed = Parsed {
        l3: 14,
        l4: 34,
        payload: (34 + len) as u16,
        end: (34 + len) as u32,
        flow,
        ..Parsed::default()
    };
    packet
}

fn is_right(packet: &Packet) -> bool {
    let parsed = packet.parsed;
    let tcp = &packet.head()[34..parsed.end as usize];
    let mut sum = Sum::pseudo_header(parsed.flow.src, parsed.flow.dst, protocol::TCP, tcp.len() as u32);
    sum.add(tcp);
    sum.is_valid()
}

#[test]
fn only_a_larger_mss_of_a_syn_is_lowered() {
    for (options, flags, expected) in [
        (&[2, 4, 5, 0xb4, 1, 1, 4, 2][..], 2, &[2, 4, 4, 0xb0, 1, 1, 4, 2][..]),
        (&[1, 2, 4, 5, 0xb4, 1, 1, 1], 2, &[1, 2, 4, 4, 0xb0, 1, 1, 1]),
        (&[2, 4, 2, 0, 1, 1, 1, 0], 2, &[2, 4, 2, 0, 1, 1, 1, 0]),
        (&[2, 4, 5, 0xb4], 0x12, &[2, 4, 4, 0xb0]),
        (&[2, 4, 5, 0xb4], 0x10, &[2, 4, 5, 0xb4]),
        (&[0, 2, 4, 5], 2, &[0, 2, 4, 5]),
        (&[3, 0, 2, 4], 2, &[3, 0, 2, 4]),
        (&[2, 4, 5], 2, &[2, 4, 5]),
    ] {
        let mut packet = syn(options, flags);
        if options.len().is_multiple_of(4) {
            assert!(is_right(&packet));
        }
        clamp_mss(&mut packet, 1200);
        assert_eq!(&packet.head()[54..], expected, "{options:?}");
        if options.len().is_multiple_of(4) {
            assert!(is_right(&packet), "{options:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_hop_less_leaves_the_header_right(six in any::<bool>(), hop_limit in 1u8..=255, tos in any::<u8>()) {
        let pool = PacketPool::heap(PoolLayout { frames: 4, frame_size: 2048, headroom: 0 });
        let mut frame = vec![0; 54];
        let [src, dst] = if six { ["2001:db8::1", "2001:db8::2"] } else { ["192.0.2.1", "192.0.2.2"] }.map(|text| text.parse().unwrap());
        write_header(&mut frame[14..], src, dst, protocol::UDP, 0, tos, hop_limit);
        let mut packet = Packet::copy_from(&pool, &frame).unwrap();
        packet.parsed = Parsed { l3: 14, ..Parsed::default() };
        decrement_hop_limit(&mut packet);
        write_header(&mut frame[14..], src, dst, protocol::UDP, 0, tos, hop_limit - 1);
        let len = if six { 54 } else { 34 };
        // 0 and 0xffff are one value of a one's complement sum.
        prop_assert_eq!(&packet.head()[14..24], &frame[14..24]);
        let mut sum = Sum::ZERO;
        sum.add(&packet.head()[14..34]);
        prop_assert!(six || sum.is_valid());
        prop_assert_eq!(&packet.head()[26..len], &frame[26..len]);
    }
}
