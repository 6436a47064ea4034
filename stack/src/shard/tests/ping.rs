use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, Ipv4Packet,
    Ipv4Repr, Ipv6Packet, Ipv6Repr,
};

use super::*;
use crate::counters::DropReason;

fn ping(pair: &mut Pair, to: &str, payload: &[u8]) -> EchoReply {
    let id = pair.a.shard.ping_open(ip(to)).unwrap();
    pair.a.shard.ping_send(id, 9, payload, None).unwrap();
    pair.settle();
    ready(pair.a.shard.ping_poll_recv(id, no_waker())).unwrap()
}

#[test]
fn both_families_are_answered_from_the_first_packet_on() {
    let mut pair = Pair::new();
    for to in ["192.0.2.2", "2001:db8::2"] {
        let reply = ping(&mut pair, to, b"hello");
        assert_eq!((reply.from, reply.seq, &reply.payload[..]), (ip(to), 9, &b"hello"[..]));
        assert_eq!(reply.hop_limit, Some(64));
    }
    let arp = pair.a.shard.counters();
    assert_eq!((arp.arp_requests_tx, arp.ndp_solicitations_tx), (1, 1));
}

#[test]
fn the_link_local_address_is_answered_too() {
    let mut pair = Pair::new();
    let to = pair.b.shard.addresses().into_iter().find(|(addr, _)| addr.to_string().starts_with("fe80"));
    let to = to.unwrap().0.to_string();
    assert_eq!(ping(&mut pair, &to, b"x").from, ip(&to));
}

#[test]
fn a_ping_of_sixty_thousand_bytes_goes_in_fragments_both_ways() {
    let payload = pattern(60_000);
    for to in ["192.0.2.2", "2001:db8::2"] {
        let mut pair = Pair::new();
        assert!(ping(&mut pair, to, &payload).payload == payload, "{to}");
        for host in [&pair.a, &pair.b] {
            let counters = host.shard.counters();
            assert!(counters.fragments_tx > 40, "{to}");
            assert_eq!(counters.reassembled, 1);
            assert_eq!(drops(host), []);
            assert_eq!(host.device.pool().free_frames(), 1024);
        }
    }
}

#[test]
fn a_jumbo_frame_ping_spans_frames_of_the_pool() {
    let host = |number| Host::with(number, &config(number), 0, Shard::links(1).remove(0), 9000);
    let mut pair = Pair::of(host(1), host(2));
    let payload = pattern(8900);
    for to in ["192.0.2.2", "2001:db8::2"] {
        assert!(ping(&mut pair, to, &payload).payload == payload, "{to}");
    }
    assert_eq!(pair.a.shard.counters().fragments_tx, 0);
}

#[test]
fn emitted_headers_are_right_to_the_byte() {
    let mut pair = Pair::new();
    ping(&mut pair, "192.0.2.2", b"v4");
    ping(&mut pair, "2001:db8::2", b"v6");
    let checksums = ChecksumCapabilities::default();
    let (mut v4, mut v6) = (0, 0);
    for frame in &pair.b.device.sent {
        let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
        assert_eq!(ethernet.src_addr(), EthernetAddress([2, 0, 0, 0, 0, 2]));
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
                let ip = Ipv4Repr::parse(&packet, &checksums).unwrap();
                let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
                let repr = Icmpv4Repr::parse(&icmp, &checksums).unwrap();
                assert!(matches!(repr, Icmpv4Repr::EchoReply { seq_no: 9, data: b"v4", .. }));
                assert_eq!((ip.src_addr.to_string(), ip.hop_limit), ("192.0.2.2".into(), 64));
                assert_eq!(ethernet.dst_addr(), EthernetAddress([2, 0, 0, 0, 0, 1]));
                v4 += 1;
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
                let ip = Ipv6Repr::parse(&packet).unwrap();
                if packet.payload()[0] != 129 {
                    continue;
                }
                let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
                let repr = Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &icmp, &checksums).unwrap();
                assert!(matches!(repr, Icmpv6Repr::EchoReply { seq_no: 9, data: b"v6", .. }));
                v6 += 1;
            }
            _ => {}
        }
    }
    assert_eq!((v4, v6), (1, 1));
}

#[test]
fn replies_to_nobody_and_to_others_are_ignored() {
    let mut pair = Pair::new();
    let id = pair.a.shard.ping_open(ip("192.0.2.2")).unwrap();
    pair.a.shard.ping_send(id, 1, b"x", None).unwrap();
    pair.a.shard.ping_close(id);
    pair.settle();
    assert_eq!(pair.a.shard.counters().dropped(DropReason::IcmpIgnored), 1);
    assert_eq!(ready(pair.a.shard.ping_poll_recv(id, no_waker())), Err(NetError::NotFound));
}

#[test]
fn the_kernels_addresses_are_the_kernels_to_answer_for() {
    let mut shared = config(2);
    shared.address_use = AddressUse::Shared;
    let mut pair = Pair::of(Host::new(1, &config(1)), Host::new(2, &shared));
    for to in ["192.0.2.2", "2001:db8::2"] {
        let id = pair.a.shard.ping_open(ip(to)).unwrap();
        pair.a.shard.ping_send(id, 1, b"x", None).unwrap();
        pair.run(Duration::from_secs(5));
        assert!(pair.a.shard.ping_poll_recv(id, no_waker()).is_pending());
    }
    assert_eq!(pair.b.device.sent.len(), 0, "{:x?}", pair.b.device.sent);
}

#[test]
fn echo_replies_have_a_budget() {
    let mut pair = Pair::new();
    let reply = ping(&mut pair, "192.0.2.2", b"x");
    let request = pair.a.device.sent.last().unwrap().clone();
    let before = pair.b.device.sent.len();
    for _ in 0..limits::ICMP_REPLIES_PER_SECOND + 50 {
        pair.b.device.rx.push_back(request.clone());
    }
    pair.settle();
    assert_eq!(reply.from, ip("192.0.2.2"));
    let sent = pair.b.device.sent.len() - before;
    assert_eq!(sent as u32, limits::ICMP_REPLIES_PER_SECOND - 1, "the first ping had one");
    assert_eq!(pair.b.shard.counters().dropped(DropReason::IcmpRateLimited), 51);
    pair.run(Duration::from_secs(1));
    let before = pair.b.device.sent.len();
    pair.b.device.rx.push_back(request);
    pair.settle();
    assert_eq!(pair.b.device.sent.len() - before, 1);
}

#[test]
fn a_missing_fragment_is_reported_after_the_timeout() {
    let mut pair = Pair::new();
    for (to, kind) in [("192.0.2.2", 11), ("2001:db8::2", 3)] {
        ping(&mut pair, to, b"warm");
        let id = pair.a.shard.ping_open(ip(to)).unwrap();
        pair.a.shard.ping_send(id, 1, &pattern(4000), None).unwrap();
        pair.a.poll(pair.now);
        pair.a.device.tx.pop_back();
        pair.settle();
        pair.b.device.sent.clear();
        pair.run(limits::REASSEMBLY_TIMEOUT + Duration::from_secs(1));
        let is_report = |frame: &Vec<u8>| match ip(to) {
            IpAddr::V4(_) => frame[12..14] == [8, 0] && frame[34..36] == [kind, 1],
            IpAddr::V6(_) => frame[12..14] == [0x86, 0xdd] && frame[54..56] == [kind, 1],
        };
        assert_eq!(pair.b.device.sent.iter().filter(|frame| is_report(frame)).count(), 1, "{to}");
    }
    assert_eq!(pair.b.shard.counters().dropped(DropReason::FragmentTimeout), 2);
}

#[test]
fn replies_are_steered_while_the_socket_is_open() {
    let mut pair = Pair::new();
    pair.a.shard.take_steering_changes();
    let id = pair.a.shard.ping_open(ip("192.0.2.2")).unwrap();
    let opened = pair.a.shard.take_steering_changes();
    let [SteeringChange::OpenPort(Protocol::Echo, ident)] = opened[..] else { panic!("{opened:?}") };
    pair.a.shard.ping_close(id);
    assert_eq!(pair.a.shard.take_steering_changes(), [SteeringChange::ClosePort(Protocol::Echo, ident)]);
}
