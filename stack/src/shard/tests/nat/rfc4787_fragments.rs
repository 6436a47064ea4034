//! RFC 4787, sections 10 and 11: what is too long, and what comes in fragments.

use super::*;

const X: &str = "192.168.1.5:4000";
const Y: &str = "198.51.100.1:53";

fn whole(fragments: &[(Side, Vec<u8>)], to: Side) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, (side, fragment)) in fragments.iter().enumerate() {
        let field = u16::from_be_bytes([fragment[6], fragment[7]]);
        assert_eq!(*side, to);
        assert_eq!(usize::from(field & 0x1fff) * 8, bytes.len(), "in order");
        assert_eq!(field & 0x2000 != 0, at + 1 < fragments.len());
        assert_eq!(identification(fragment), identification(&fragments[0].1));
        bytes.extend_from_slice(body(fragment));
    }
    let mut packet = fragments[0].1[..20].to_vec();
    packet.extend_from_slice(&bytes);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[6..8].fill(0);
    close(&mut packet);
    check(&packet);
    packet
}

#[test]
fn what_is_too_long_and_must_not_be_cut_comes_back_with_the_mtu() {
    // RFC 4787 REQ-13; RFC 5508 REQ-10a1
    let mut lab = Lab::with_mtus(1, [1500, 1280], HOME, |_| {});
    let sent = udp(X, Y, &[7; 1400]);
    let told = lab.one(Lan, Lan, &sent);
    assert_eq!((kind(&told), dst(&told)), ((3, 4), "192.168.1.5".into()));
    assert_eq!(u16::from_be_bytes([body(&told)[6], body(&told)[7]]), 1280);
    assert_eq!(quote(&told), &sent[..quote(&told).len()], "as it was sent");
}

#[test]
fn what_is_too_long_and_may_be_cut_is_cut_in_order() {
    // RFC 4787 REQ-13a; RFC 5508 REQ-10a1
    let mut lab = Lab::with_mtus(1, [1500, 1280], HOME, |_| {});
    let data: Vec<u8> = (0..1400u32).map(|at| at as u8).collect();
    let seen = lab.send(Lan, &fragmentable(udp(X, Y, &data), 9));
    assert_eq!(seen.len(), 2);
    let packet = whole(&seen, Wan);
    assert_eq!((source(&packet), payload(&packet)), ("192.0.2.254:4000".to_owned(), &data[..]));
}

#[test]
fn fragments_are_translated_in_whatever_order_they_come() {
    // RFC 4787 REQ-14
    let data: Vec<u8> = (0..3000u32).map(|at| (at * 7) as u8).collect();
    for shards in [1, 3] {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut lab = Lab::new(shards, HOME, |_| {});
            // A port other than X's own.
            lab.mapping("192.168.1.200:4000", Y);
            let outside = lab.mapping(X, Y);
            for (from, packet, source_then, destination_then) in
                [(Lan, udp(X, Y, &data), outside.as_str(), Y), (Wan, udp(Y, &outside, &data), Y, X)]
            {
                let pieces = fragments(&fragmentable(packet, 77), 1200);
                let mut seen = Vec::new();
                for piece in order {
                    seen.extend(lab.send(from, &pieces[piece]));
                }
                let packet = whole(&seen, if from == Lan { Wan } else { Lan });
                assert_eq!(
                    (source(&packet).as_str(), destination(&packet).as_str()),
                    (source_then, destination_then)
                );
                assert_eq!(payload(&packet), data);
            }
        }
    }
}

#[test]
fn a_flood_of_fragments_stops_neither_packets_nor_ordered_fragments() {
    // RFC 4787 REQ-14a
    let mut lab = Lab::home();
    let outside = lab.mapping(X, Y);
    let data = vec![5; 3000];
    for id in 0..5000 {
        let of_stranger = udp("203.0.113.9:1", &outside, &data);
        let pieces = fragments(&fragmentable(of_stranger, id), 1200);
        assert_eq!(lab.send(Wan, &pieces[1 + usize::from(id) % 2]), []);
        if id % 500 == 0 {
            assert!(lab.reaches(Y, &outside, X));
            let mut seen = Vec::new();
            for piece in fragments(&fragmentable(udp(Y, &outside, &data), id), 1200) {
                seen.extend(lab.send(Wan, &piece));
            }
            assert_eq!(payload(&whole(&seen, Lan)), data);
        }
    }
}
