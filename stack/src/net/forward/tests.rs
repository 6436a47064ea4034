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

/// IPv4 options as the router 192.0.2.254 passes them on, 0x12345 ms after its start.
fn noted(options: &[u8]) -> Vec<u8> {
    let [src, dst] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
    let mut ip = vec![0; 20];
    write_header(&mut ip, src, dst, protocol::UDP, options.len() + 8, 0, 9);
    ip[0] = 0x45 + (options.len() / 4) as u8;
    ip.extend_from_slice(options);
    fill_ipv4_checksum(&mut ip);
    let pool = PacketPool::heap(PoolLayout { frames: 4, frame_size: 2048, headroom: 0 });
    let mut packet = Packet::copy_from(&pool, &[&[0; 14][..], &ip, &[0; 8]].concat()).unwrap();
    let l4 = 34 + options.len() as u16;
    let flow = FlowKey { src, dst, protocol: protocol::UDP, ..FlowKey::default() };
    packet.parsed = Parsed { l3: 14, l4, payload: l4, end: u32::from(l4) + 8, flow, ..Parsed::default() };
    let own: IpAddr = "192.0.2.254".parse().unwrap();
    let policy = Policy {
        mac: EthernetAddress([2, 0, 0, 0, 0, 8]),
        addresses: vec!["192.0.2.254/24".parse().unwrap()],
        groups: Vec::new(),
        partial_checksums: false,
        forwarding: true,
        dhcp: false,
        hash_keys: (1, 2),
    };
    note_route(Instant::from_millis(0x12345), &mut packet, Some(own), &policy);
    let header = &packet.head()[14..usize::from(l4)];
    let mut sum = Sum::ZERO;
    sum.add(header);
    assert!(sum.is_valid());
    header[20..].to_vec()
}

#[test]
fn a_recorded_route_names_the_router_while_there_is_room() {
    assert_eq!(noted(&[1, 7, 7, 4, 0, 0, 0, 0]), [1, 7, 7, 8, 192, 0, 2, 254]);
    assert_eq!(noted(&[7, 7, 8, 10, 0, 0, 1, 0]), [7, 7, 8, 10, 0, 0, 1, 0], "full");
    assert_eq!(noted(&[0, 7, 7, 4, 0, 0, 0, 0]), [0, 7, 7, 4, 0, 0, 0, 0], "behind the end");
    assert_eq!(noted(&[0x94, 4, 0, 0]), [0x94, 4, 0, 0]);
}

#[test]
fn a_timestamp_is_left_with_those_who_ask_for_it() {
    assert_eq!(noted(&[68, 8, 5, 0, 0, 0, 0, 0]), [68, 8, 9, 0, 0x80, 1, 0x23, 0x45]);
    let with_address = noted(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(with_address, [68, 12, 13, 1, 192, 0, 2, 254, 0x80, 1, 0x23, 0x45]);
    let named = noted(&[68, 12, 5, 3, 192, 0, 2, 254, 0, 0, 0, 0]);
    assert_eq!(named, [68, 12, 13, 3, 192, 0, 2, 254, 0x80, 1, 0x23, 0x45]);
    let of_another = [68, 12, 5, 3, 192, 0, 2, 253, 0, 0, 0, 0];
    assert_eq!(noted(&of_another), of_another);
    assert_eq!(noted(&[68, 4, 5, 0x10]), [68, 4, 5, 0x20], "no room: counted");
    assert_eq!(noted(&[68, 4, 5, 0xf0]), [68, 4, 5, 0xf0], "never beyond what the field holds");
}

proptest! {
    /// Whatever the options: no panic, and nothing behind them is touched.
    #[test]
    fn any_options_are_survived(words in prop::collection::vec(any::<[u8; 4]>(), 1..10), first in prop::sample::select(vec![7u8, 68])) {
        let mut options = words.concat();
        options[0] = first;
        prop_assert_eq!(noted(&options).len(), options.len());
    }
}
