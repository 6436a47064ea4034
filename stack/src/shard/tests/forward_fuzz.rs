//! Arbitrary frames into a router with translation, from both sides: no panic, no lost frame, and the same inputs give the
//! same outputs.

use proptest::prelude::*;

use super::forward::{Net, echo};
use super::*;
use crate::flow::nat::rewrite::transport_sum;
use crate::packet::checksum::Sum;

const RULES: &str = "*nat\n-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\n\
    -A PREROUTING -i lan -p udp --dport 53 -j REDIRECT --to-ports 5353\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n\
    *filter\n:FORWARD DROP\n-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\n\
    -A FORWARD -m conntrack --ctstate INVALID -j DROP\n-A FORWARD -p udp --dport 9 -j REJECT\n\
    -A FORWARD -p tcp --dport 9 -j REJECT --reject-with tcp-reset\n-A FORWARD -j ACCEPT\nCOMMIT\n";

/// Frames that the hosts sent in earnest: the link and the frame.
fn real_frames() -> Vec<(usize, Vec<u8>)> {
    let mut net = Net::new(Some(RULES));
    echo(&mut net, true, "0.0.0.0:80", "192.0.2.2:80", 20_000);
    echo(&mut net, true, "[::]:80", "[2001:db8:2::2]:80", 3_000);
    echo(&mut net, false, "0.0.0.0:80", "192.0.2.254:8080", 3_000);
    let id = net.lan.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
    for to in ["192.0.2.2:1", "192.0.2.2:53", "192.0.2.2:9", "203.0.113.1:1"] {
        for len in [0, 100, 4000] {
            ready(net.lan.shard.udp_poll_send_to(id, &pattern(len), to.parse().unwrap(), no_waker()))
                .unwrap();
            net.run(Duration::from_millis(5));
        }
    }
    for to in ["192.0.2.2", "192.0.2.254", "2001:db8:2::2"] {
        let ping = net.lan.shard.ping_open(ip(to)).unwrap();
        net.lan.shard.ping_send(ping, 1, &pattern(3000), None).unwrap();
        net.run(Duration::from_millis(5));
    }
    let of = |link: usize, host: &Host| {
        host.device.sent.iter().map(|frame| (link, frame.clone())).collect::<Vec<_>>()
    };
    [of(0, &net.lan), of(1, &net.wan)].concat()
}

/// Makes the checksums right again, as far as the headers make sense.
fn repair(frame: &mut [u8]) {
    let Some(ip) = frame.get_mut(14..) else { return };
    let (header_len, protocol) = match ip.first().map(|first| first >> 4) {
        Some(4) if ip.len() >= 20 => (usize::from(ip[0] & 15) * 4, ip[9]),
        Some(6) if ip.len() >= 40 => (40, ip[6]),
        _ => return,
    };
    if ip[0] >> 4 == 4 && (20..=ip.len()).contains(&header_len) {
        ip[10..12].fill(0);
        let mut sum = Sum::ZERO;
        sum.add(&ip[..header_len]);
        let checksum = sum.checksum().to_be_bytes();
        ip[10..12].copy_from_slice(&checksum);
    }
    let offset = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return,
    };
    let at = header_len + offset;
    if at + 2 <= ip.len() {
        ip[at..at + 2].fill(0);
        if let Some(sum) = transport_sum(ip) {
            ip[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
        }
    }
}

/// What a fresh router of so many shards sends by each queue and link when it gets `steps`: link, frame, milliseconds to wait.
/// The NICs deal frames out to the queues in turn.
fn routed(shards: usize, steps: &[(usize, Vec<u8>, u64)]) -> Vec<Vec<Vec<u8>>> {
    let links = (0..shards).map(|_| TestLinks::new(8, &[1500, 1500])).collect();
    let mut net = Net::of_shards(links, Some(RULES), |_| {});
    let mut all = vec![(net.router, net.links)];
    all.append(&mut net.more);
    for (shard, _) in &mut all {
        shard.tcp_listen("0.0.0.0:8080".parse().unwrap(), 4, SocketOptions::default()).unwrap();
    }
    let poll = |all: &mut Vec<(Shard, TestLinks)>, now: Instant| {
        // What is handed over may be handed on.
        for _ in 0..3 {
            for (shard, links) in &mut *all {
                shard.poll(now, links);
                links.0.iter_mut().for_each(|device| device.tx.clear());
            }
        }
    };
    for (at, (link, frame, wait)) in steps.iter().enumerate() {
        all[at % shards].1.0[*link].rx.push_back(frame.clone());
        net.now += Duration::from_millis(*wait);
        poll(&mut all, net.now);
    }
    // Long enough for neighbours, fragments, handshakes and retries to be given up.
    for _ in 0..200 {
        net.now += Duration::from_secs(1);
        poll(&mut all, net.now);
    }
    for (_, links) in &all {
        let pool = links.pool();
        assert_eq!(pool.free_frames(), pool.layout().frames, "a frame is lost");
    }
    let sent = |device: &mut TestDevice| core::mem::take(&mut device.sent);
    all.iter_mut().flat_map(|(_, links)| links.0.iter_mut().map(sent)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn damaged_traffic_harms_no_router_and_repeats_exactly(
        shards in 1usize..4,
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0u8..4, 0u64..500), 1..80),
    ) {
        let frames = real_frames();
        let damaged = picks.into_iter().map(|(which, at, byte, damage, wait)| {
            let (link, mut frame) = frames[which.index(frames.len())].clone();
            if damage > 0 {
                // Mostly headers.
                let at = at.index(frame.len().min(74));
                frame[at] = byte;
                if damage == 1 {
                    frame.truncate(at.max(20) + usize::from(byte) * 8);
                }
                repair(&mut frame);
            }
            (if damage == 3 { 1 - link } else { link }, frame, wait)
        });
        let steps: Vec<_> = damaged.collect();
        prop_assert!(routed(shards, &steps) == routed(shards, &steps));
    }
}
