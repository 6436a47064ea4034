use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, EthernetRepr};

use super::*;
use crate::counters::DropReason;

const STRANGER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 99]);

fn arp(operation: ArpOperation, sender: &str, mac: EthernetAddress, target: &str) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: mac,
        source_protocol_addr: sender.parse().unwrap(),
        target_hardware_addr: EthernetAddress::default(),
        target_protocol_addr: target.parse().unwrap(),
    };
    let ethernet = EthernetRepr {
        src_addr: mac,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let mut frame = vec![0; 60];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

fn feed(pair: &mut Pair, frame: Vec<u8>) {
    pair.a.device.rx.push_back(frame);
    pair.settle();
}

fn arp_sent(host: &Host) -> Vec<ArpRepr> {
    let frames = host.device.sent.iter().filter(|frame| frame[12..14] == [8, 6]);
    frames.map(|frame| ArpRepr::parse(&ArpPacket::new_checked(&frame[14..]).unwrap()).unwrap()).collect()
}

#[test]
fn requests_for_our_address_are_answered_and_teach_who_asked() {
    let mut pair = Pair::new();
    feed(&mut pair, arp(ArpOperation::Request, "192.0.2.77", STRANGER, "192.0.2.1"));
    let expected = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
        source_protocol_addr: "192.0.2.1".parse().unwrap(),
        target_hardware_addr: STRANGER,
        target_protocol_addr: "192.0.2.77".parse().unwrap(),
    };
    assert_eq!(arp_sent(&pair.a), [expected]);
    assert_eq!(pair.a.device.sent[0][..6], STRANGER.0);
    assert_eq!(pair.a.shard.output.links[0].neighbors.resolve(pair.now, ip("192.0.2.77")), Some(STRANGER));
}

#[test]
fn a_probe_is_answered_but_teaches_nothing() {
    let mut pair = Pair::new();
    feed(&mut pair, arp(ArpOperation::Request, "0.0.0.0", STRANGER, "192.0.2.1"));
    assert_eq!(arp_sent(&pair.a).len(), 1);
    assert_eq!(pair.a.shard.counters().neighbor_learned, 0);
}

#[test]
fn requests_for_others_and_unasked_replies_teach_nothing() {
    let mut pair = Pair::new();
    feed(&mut pair, arp(ArpOperation::Request, "192.0.2.77", STRANGER, "192.0.2.3"));
    feed(&mut pair, arp(ArpOperation::Reply, "192.0.2.78", STRANGER, "192.0.2.1"));
    feed(&mut pair, arp(ArpOperation::Request, "203.0.113.1", STRANGER, "192.0.2.1"));
    assert_eq!(pair.a.shard.counters().neighbor_learned, 0);
}

#[test]
fn an_announcement_moves_a_known_neighbor() {
    let mut pair = Pair::new();
    feed(&mut pair, arp(ArpOperation::Request, "192.0.2.77", STRANGER, "192.0.2.1"));
    let moved = EthernetAddress([2, 0, 0, 0, 0, 98]);
    feed(&mut pair, arp(ArpOperation::Request, "192.0.2.77", moved, "192.0.2.77"));
    assert_eq!(pair.a.shard.output.links[0].neighbors.resolve(pair.now, ip("192.0.2.77")), Some(moved));
}

#[test]
fn a_claim_to_our_address_is_counted_and_not_believed() {
    let mut pair = Pair::new();
    feed(&mut pair, arp(ArpOperation::Request, "192.0.2.1", STRANGER, "192.0.2.1"));
    feed(&mut pair, arp(ArpOperation::Reply, "192.0.2.1", STRANGER, "192.0.2.2"));
    assert_eq!(pair.a.shard.counters().address_conflicts, 2);
    assert_eq!(arp_sent(&pair.a).len(), 0);
}

#[test]
fn malformed_arp_is_counted() {
    let mut pair = Pair::new();
    let mut bad = arp(ArpOperation::Request, "192.0.2.77", STRANGER, "192.0.2.1");
    bad[14] = 9;
    feed(&mut pair, bad);
    feed(&mut pair, arp(ArpOperation::Request, "192.0.2.77", STRANGER, "192.0.2.1")[..40].to_vec());
    feed(&mut pair, arp(ArpOperation::Request, "224.0.0.1", STRANGER, "192.0.2.1"));
    let counters = pair.a.shard.counters();
    assert_eq!((counters.dropped(DropReason::BadArp), counters.dropped(DropReason::Truncated)), (2, 1));
}

#[test]
fn a_host_checking_an_ipv6_address_of_ours_is_told_it_is_taken() {
    // Two hosts with the same address: the second's solicitation as RFC 4862 section 5.4.2 has it.
    let mut pair = Pair::new();
    let id = pair.b.shard.ping_open(ip("2001:db8::1")).unwrap();
    pair.b.shard.ping_send(id, 1, b"", None).unwrap();
    pair.b.poll(pair.now);
    let mut frame = pair.b.device.tx.pop_back().expect("a solicitation");
    frame[22..38].fill(0);
    frame.truncate(14 + 40 + 24);
    frame[19] = 24;
    frame[56..58].fill(0);
    let mut sum = crate::packet::checksum::Sum::pseudo_header(
        ip("::"),
        IpAddr::from(<[u8; 16]>::try_from(&frame[38..54]).unwrap()),
        58,
        24,
    );
    sum.add(&frame[54..]);
    let checksum = sum.checksum().to_be_bytes();
    frame[56..58].copy_from_slice(&checksum);
    feed(&mut pair, frame);
    let advertisement = pair.a.device.sent.iter().find(|frame| frame[54] == 136).expect("an answer");
    assert_eq!(advertisement[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(advertisement[58], 0x20, "override, not solicited");
    assert_eq!(pair.a.shard.counters().address_conflicts, 1);
}

#[test]
fn packets_for_a_dead_neighbor_are_counted_and_freed() {
    let mut pair = Pair::new();
    let id = pair.a.shard.ping_open(ip("192.0.2.200")).unwrap();
    pair.a.shard.ping_send(id, 1, b"x", None).unwrap();
    pair.run(Duration::from_secs(10));
    let counters = pair.a.shard.counters();
    assert_eq!(counters.arp_requests_tx, u64::from(limits::NEIGHBOR_REQUESTS));
    assert_eq!(counters.dropped(DropReason::NeighborUnreachable), 1);
    assert_eq!(pair.a.device.pool().free_frames(), 1024);
}

#[test]
fn a_packet_beyond_the_link_goes_to_the_gateway() {
    let mut with_route = config(1);
    with_route.routes =
        vec![Route { destination: "0.0.0.0/0".parse().unwrap(), gateway: ip("192.0.2.2"), link: None }];
    let mut pair = Pair::of(Host::new(1, &with_route), Host::new(2, &config(2)));
    pair.settle();
    let before = pair.b.shard.counters().dropped(DropReason::NotForUs);
    let id = pair.a.shard.ping_open(ip("198.51.100.1")).unwrap();
    pair.a.shard.ping_send(id, 1, b"x", None).unwrap();
    pair.settle();
    let last = pair.a.device.sent.last().unwrap();
    assert_eq!((&last[..6], &last[30..34]), (&[2, 0, 0, 0, 0, 2][..], &[198, 51, 100, 1][..]));
    assert_eq!(pair.b.shard.counters().dropped(DropReason::NotForUs), before + 1);
}
