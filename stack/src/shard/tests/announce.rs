//! Addresses are probed for and announced when they come into use.

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetProtocol};

use super::*;

/// What a host says of addresses in `span`: time in ms, what, address.
fn said(host: &mut Host, span: Duration) -> Vec<(u64, &'static str, IpAddr)> {
    let (start, mut now, mut said) = (Instant::ZERO, Instant::ZERO, Vec::new());
    loop {
        while host.poll(now) {}
        for frame in host.device.sent.drain(..) {
            if let Some((what, addr)) = about_address(&frame) {
                said.push(((now - start).as_millis() as u64, what, addr));
            }
        }
        match host.shard.next_deadline(now) {
            Some(at) if at <= start + span => now = now.max(at),
            _ => return said,
        }
    }
}

fn about_address(frame: &[u8]) -> Option<(&'static str, IpAddr)> {
    let ethertype = EthernetProtocol::from(u16::from_be_bytes([frame[12], frame[13]]));
    match ethertype {
        EthernetProtocol::Arp => {
            let repr = ArpRepr::parse(&ArpPacket::new_checked(&frame[14..]).unwrap()).unwrap();
            let ArpRepr::EthernetIpv4 {
                operation,
                source_protocol_addr: sender,
                target_protocol_addr: target,
                ..
            } = repr
            else {
                return None;
            };
            assert_eq!((operation, &frame[..6]), (ArpOperation::Request, &[0xff; 6][..]));
            let what = if sender.is_unspecified() { "probe" } else { "announcement" };
            assert!(sender.is_unspecified() || sender == target);
            Some((what, target.into()))
        }
        EthernetProtocol::Ipv6 if frame[20] == 58 => {
            let target = IpAddr::from(<[u8; 16]>::try_from(frame.get(62..78)?).unwrap());
            let from_nobody = frame[22..38] == [0; 16];
            match frame[54] {
                135 => Some(("probe", target)).filter(|_| from_nobody),
                // Override, not solicited (RFC 4861 section 7.2.6), to all nodes.
                136 => {
                    assert_eq!((frame[58], &frame[..6]), (0x20, &[0x33, 0x33, 0, 0, 0, 1][..]));
                    Some(("announcement", target))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

#[test]
fn each_own_address_is_probed_for_and_then_announced_twice() {
    let mut host = Host::new(1, &config(1));
    let all = said(&mut host, Duration::from_secs(60));
    for (addr, probes) in [("192.0.2.1", 3), ("2001:db8::1", 1), ("fe80::ff:fe00:1", 1)] {
        let of: Vec<_> = all.iter().filter(|(.., about)| *about == ip(addr)).collect();
        let first = of.first().expect("something is said").0;
        assert!(first < 1000, "{addr}: {first} ms");
        let expected: Vec<(u64, &str)> = (0..probes)
            .map(|probe| (probe * 1000, "probe"))
            .chain([(probes * 1000, "announcement"), (probes * 1000 + 2000, "announcement")])
            .collect();
        let told: Vec<_> = of.iter().map(|(at, what, _)| (at - first, *what)).collect();
        assert_eq!(told, expected, "{addr}");
    }
    let counters = host.shard.counters();
    assert_eq!((counters.address_probes_tx, counters.address_announcements_tx), (5, 6));
    assert_eq!(host.device.pool().free_frames(), 1024);
}

#[test]
fn shared_addresses_and_further_shards_are_silent() {
    let mut shared = config(1);
    shared.address_use = AddressUse::Shared;
    let mut host = Host::new(1, &shared);
    assert_eq!(said(&mut host, Duration::from_secs(60)), []);
    let second = Shard::links(2).pop().unwrap();
    let mut host = Host::with(1, &config(1), 1, second, MTU);
    assert_eq!(said(&mut host, Duration::from_secs(60)), []);
}

#[test]
fn two_hosts_with_one_address_both_hear_of_it_and_announce_nothing() {
    let twin = |number: u8, address: &str| {
        let addresses = vec![address.parse().unwrap()];
        Host::new(number, &StackConfig::new(addresses, [number; 32]))
    };
    for (address, addr) in [("192.0.2.9/24", "192.0.2.9"), ("2001:db8::9/64", "2001:db8::9")] {
        let mut pair = Pair::of(twin(1, address), twin(2, address));
        pair.run(Duration::from_secs(30));
        for host in [&pair.a, &pair.b] {
            assert!(host.shard.counters().address_conflicts > 0, "{address}");
            let announced = host.device.sent.iter().filter_map(|frame| match frame[12..14] {
                // Answers to the other's probe are no announcements.
                [8, 6] if frame[21] == 2 => None,
                _ => about_address(frame),
            });
            let arp = |(what, about): &(&str, IpAddr)| *what == "announcement" && *about == ip(addr);
            let announced = announced.filter(arp).count();
            // A defence against a probe for an IPv6 address looks like an announcement, and is sent once.
            assert!(announced <= usize::from(addr.contains(':')), "{address}: {announced}");
        }
    }
}
