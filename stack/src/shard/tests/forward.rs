//! A router between two hosts, whole shards: forwarding, translation, and what ICMP tells whom.
//!
//! ```text
//! host 1: 192.168.1.1, 2001:db8:1::1 ── link 0: .254  router  link 1: .254 ── host 2: 192.0.2.2, 2001:db8:2::2
//! ```

use core::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::config::{FilterConfig, ForwardConfig, LinkConfig, ReversePath};
use crate::counters::DropReason;
use crate::flow::FlowFilter;
use crate::flow::filter::RuleSet;
use crate::flow::flow_filter::Translation;
use crate::packet::checksum::Sum;

const MASQUERADE: &str = "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n";

pub(super) struct Net {
    pub(super) lan: Host,
    pub(super) wan: Host,
    pub(super) router: Shard,
    pub(super) links: TestLinks,
    /// The router's further shards, each with its queue of each link.
    pub(super) more: Vec<(Shard, TestLinks)>,
    /// Chooses the shard that a frame comes to.
    queues: ChaCha12Rng,
    pub(super) now: Instant,
}

fn host(number: u8, addresses: &[&str], gateways: &[&str]) -> Host {
    let mut config = StackConfig::new(addresses.iter().map(|text| text.parse().unwrap()).collect(), SEED);
    config.routes = gateways
        .iter()
        .map(|gateway| {
            let gateway = ip(gateway);
            let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            Route { destination: everywhere.parse().unwrap(), gateway, link: None }
        })
        .collect();
    Host::new(number, &config)
}

impl Net {
    pub(super) fn new(rules: Option<&str>) -> Self {
        Self::with(rules, [1500, 1500], |_| {})
    }

    fn with(rules: Option<&str>, mtus: [usize; 2], change: impl FnOnce(&mut StackConfig)) -> Self {
        Self::on(TestLinks::new(8, &mtus), rules, change)
    }

    pub(super) fn on(links: TestLinks, rules: Option<&str>, change: impl FnOnce(&mut StackConfig)) -> Self {
        Self::of_shards(vec![links], rules, change)
    }

    /// A router of several shards, whose NICs spread frames over the queues at random.
    pub(super) fn of_shards(
        links: Vec<TestLinks>,
        rules: Option<&str>,
        change: impl FnOnce(&mut StackConfig),
    ) -> Self {
        let addresses = ["192.168.1.254/24", "2001:db8:1::fe/64"].map(|text| text.parse().unwrap());
        let mut config = StackConfig::new(addresses.to_vec(), SEED);
        config.further_links = vec![LinkConfig {
            name: "wan".into(),
            addresses: ["192.0.2.254/24", "2001:db8:2::fe/64"].map(|text| text.parse().unwrap()).to_vec(),
            ..LinkConfig::default()
        }];
        config.forward = Some(ForwardConfig::default());
        config.filter = rules.map(|text| {
            let rules = RuleSet::parse(text, "rules").unwrap_or_else(|error| panic!("{error}"));
            FilterConfig::new(Arc::new(rules), "lan".into())
        });
        change(&mut config);
        let count = links.len() as u16;
        let shard = |(index, (ends, links)): (u16, (ShardLinks, TestLinks))| {
            (Shard::new(&config, index, count, ends, &links, Instant::ZERO).unwrap(), links)
        };
        let mut shards = (0..count).zip(Shard::links(count).into_iter().zip(links)).map(shard);
        let (router, links) = shards.next().unwrap();
        let more = shards.collect();
        let lan = host(1, &["192.168.1.1/24", "2001:db8:1::1/64"], &["192.168.1.254", "2001:db8:1::fe"]);
        let wan = host(2, &["192.0.2.2/24", "2001:db8:2::2/64"], &["192.0.2.254", "2001:db8:2::fe"]);
        Self { lan, wan, router, links, more, queues: rng(SEED, 7), now: Instant::from_millis(1) }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = self.lan.poll(self.now) | self.wan.poll(self.now);
            busy |= self.router.poll(self.now, &mut self.links);
            for (shard, links) in &mut self.more {
                busy |= shard.poll(self.now, links);
            }
            for (link, host) in [&mut self.lan.device, &mut self.wan.device].into_iter().enumerate() {
                let mut queues: Vec<&mut TestDevice> = core::iter::once(&mut self.links)
                    .chain(self.more.iter_mut().map(|(_, links)| links))
                    .map(|links| &mut links.0[link])
                    .collect();
                for queue in &mut queues {
                    busy |= !queue.tx.is_empty();
                    host.rx.append(&mut queue.tx);
                }
                for frame in host.tx.drain(..) {
                    busy = true;
                    let queue = self.queues.next_u32() as usize % queues.len();
                    queues[queue].rx.push_back(frame);
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the hosts do not come to rest");
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle();
        for _ in 0..100_000 {
            let more = self.more.iter_mut().map(|(shard, _)| shard);
            let shards = [&mut self.lan.shard, &mut self.wan.shard, &mut self.router].into_iter().chain(more);
            let next = shards.filter_map(|shard| shard.next_deadline(self.now)).min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    return self.settle();
                }
            }
            self.settle();
        }
        panic!("the hosts never sleep");
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        let multicast =
            |reason: &DropReason| matches!(reason, DropReason::NotForUs | DropReason::IcmpIgnored);
        self.router.counters().drops().filter(|(reason, count)| *count > 0 && !multicast(reason)).collect()
    }
}

/// Connects `from` to `to`, sends `bytes` from the client to the server and back, and returns the client's address as the
/// server sees it.
pub(super) fn echo(net: &mut Net, from_lan: bool, listen: &str, to: &str, len: usize) -> SocketAddr {
    let payload = pattern(len);
    let (now, options) = (net.now, SocketOptions::default());
    let (client, listener) = {
        let (client, server) =
            if from_lan { (&mut net.lan, &mut net.wan) } else { (&mut net.wan, &mut net.lan) };
        let listener = server.shard.tcp_listen(listen.parse().unwrap(), 16, options.clone()).unwrap();
        (client.shard.tcp_connect(now, None, to.parse().unwrap(), options).unwrap(), listener)
    };
    net.run(Duration::from_millis(100));
    let (accepted, peer) = {
        let server = if from_lan { &mut net.wan } else { &mut net.lan };
        ready(server.shard.tcp().poll_accept(listener, no_waker())).unwrap()
    };
    let (mut sent, mut there, mut back) = (0, Vec::new(), Vec::new());
    let mut returned = 0;
    for _ in 0..10_000 {
        let now = net.now;
        let (client_host, server) =
            if from_lan { (&mut net.lan, &mut net.wan) } else { (&mut net.wan, &mut net.lan) };
        let mut buffer = vec![0; 65_536];
        if sent < len
            && let Poll::Ready(count) =
                client_host.shard.tcp().poll_send(now, client, &payload[sent..], no_waker())
        {
            sent += count.unwrap();
        }
        if let Poll::Ready(count) = server.shard.tcp().poll_recv(now, accepted, &mut buffer, no_waker()) {
            there.extend_from_slice(&buffer[..count.unwrap()]);
        }
        if returned < there.len()
            && let Poll::Ready(count) =
                server.shard.tcp().poll_send(now, accepted, &there[returned..], no_waker())
        {
            returned += count.unwrap();
        }
        if let Poll::Ready(count) = client_host.shard.tcp().poll_recv(now, client, &mut buffer, no_waker()) {
            back.extend_from_slice(&buffer[..count.unwrap()]);
        }
        if back.len() == len {
            break;
        }
        net.run(Duration::from_millis(1));
    }
    assert!(there == payload && back == payload, "{} there, {} back of {len}", there.len(), back.len());
    peer
}

#[test]
fn streams_go_through_both_ways_without_rules() {
    for (listen, to) in [("0.0.0.0:80", "192.0.2.2:80"), ("[::]:80", "[2001:db8:2::2]:80")] {
        let mut net = Net::new(None);
        let peer = echo(&mut net, true, listen, to, 200_000);
        assert!([ip("192.168.1.1"), ip("2001:db8:1::1")].contains(&peer.ip()));
        assert_eq!(net.drops(), []);
        let counters = net.router.counters();
        assert!(counters.forwarded_packets > 250, "{}", counters.forwarded_packets);
        assert!(counters.gro_merged > 0, "segments cross the router merged");
    }
    let mut net = Net::new(None);
    echo(&mut net, false, "0.0.0.0:80", "192.168.1.1:80", 100_000);
}

#[test]
fn a_masqueraded_client_has_the_routers_address() {
    let mut net = Net::new(Some(MASQUERADE));
    let peer = echo(&mut net, true, "0.0.0.0:80", "192.0.2.2:80", 200_000);
    assert_eq!(peer.ip(), ip("192.0.2.254"));
    assert_eq!(net.drops(), []);
    assert_eq!(net.router.flows().unwrap().len(), 1);
}

#[test]
fn a_forwarded_port_leads_to_the_server_inside() {
    let rules =
        "*nat\n-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\nCOMMIT\n";
    let mut net = Net::new(Some(rules));
    let peer = echo(&mut net, false, "0.0.0.0:80", "192.0.2.254:8080", 50_000);
    assert_eq!(peer.ip(), ip("192.0.2.2"));
}

#[test]
fn a_redirected_connection_is_the_routers_own() {
    // What is for port 80 anywhere ends at the router's port 8080, and its answers come from where the client sent to.
    let rules = "*nat\n-A PREROUTING -i lan -p tcp --dport 80 -j REDIRECT --to-ports 8080\nCOMMIT\n";
    let mut net = Net::new(Some(rules));
    let listener =
        net.router.tcp_listen("0.0.0.0:8080".parse().unwrap(), 8, SocketOptions::default()).unwrap();
    let to = "203.0.113.9:80".parse().unwrap();
    let id = net.lan.shard.tcp_connect(net.now, None, to, SocketOptions::default()).unwrap();
    net.run(Duration::from_millis(100));
    assert_eq!(ready(net.lan.shard.tcp().poll_connected(id, no_waker())), Ok(()));
    let (accepted, _) = ready(net.router.tcp().poll_accept(listener, no_waker())).unwrap();
    let tuple = net.router.tcp_ref().tuple(accepted).unwrap();
    assert_eq!(tuple.local, "192.168.1.254:8080".parse().unwrap());
    let now = net.now;
    ready(net.lan.shard.tcp().poll_send(now, id, &pattern(30_000), no_waker())).unwrap();
    net.run(Duration::from_millis(10));
    let mut buffer = vec![0; 65_536];
    let mut got = Vec::new();
    while let Poll::Ready(Ok(count @ 1..)) =
        net.router.tcp().poll_recv(net.now, accepted, &mut buffer, no_waker())
    {
        got.extend_from_slice(&buffer[..count]);
        net.run(Duration::from_millis(1));
    }
    assert!(!got.is_empty() && got == pattern(30_000)[..got.len()]);
}

/// An IPv4 UDP packet from the host in the LAN, as a frame to the router.
fn udp_frame(src: [u8; 4], dst: [u8; 4], ttl: u8, df: bool, payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 1, 8, 0];
    let total = (28 + payload) as u16;
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&total.to_be_bytes());
    frame.extend_from_slice(&[0x12, 0x34, if df { 0x40 } else { 0 }, 0, ttl, 17, 0, 0]);
    frame.extend_from_slice(&src);
    frame.extend_from_slice(&dst);
    let mut sum = Sum::ZERO;
    sum.add(&frame[14..34]);
    let checksum = sum.checksum().to_be_bytes();
    frame[24..26].copy_from_slice(&checksum);
    frame.extend_from_slice(&[0x0f, 0xa0, 0x0f, 0xa1]);
    frame.extend_from_slice(&((8 + payload) as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend(pattern(payload));
    let mut sum = Sum::pseudo_header(IpAddr::from(src), IpAddr::from(dst), 17, (8 + payload) as u32);
    sum.add(&frame[34..]);
    let checksum = sum.checksum().to_be_bytes();
    frame[40..42].copy_from_slice(&checksum);
    frame
}

#[test]
fn a_redirected_datagram_is_whole_though_its_checksum_was_left_to_the_device() {
    let rules = "*nat\n-A PREROUTING -i lan -p udp --dport 4001 -j REDIRECT --to-ports 8080\nCOMMIT\n";
    let mut links = TestLinks::new(8, &[1500, 1500]);
    links.0[0].capabilities.partial_checksums = true;
    let mut net = Net::on(links, Some(rules), |_| {});
    let socket = net.router.udp_bind("0.0.0.0:8080".parse().unwrap()).unwrap();
    let (src, dst) = ([192, 168, 1, 1], [203, 0, 113, 9]);
    let mut frame = udp_frame(src, dst, 64, true, 20);
    let pseudo = Sum::pseudo_header(IpAddr::from(src), IpAddr::from(dst), 17, 28);
    frame[40..42].copy_from_slice(&pseudo.folded().to_be_bytes());
    net.links.0[0].rx.push_back(frame);
    net.settle();
    let mut buffer = [0; 100];
    let (len, ..) = ready(net.router.udp_poll_recv_from(socket, &mut buffer, no_waker())).unwrap();
    assert_eq!(buffer[..len], pattern(20));
    assert_eq!(net.router.counters().rx_partial_checksums, 1);
}

/// Both neighbours know the router, and it them.
fn acquaint(net: &mut Net) {
    for (host, port) in [("192.0.2.2:9", true), ("192.168.1.1:9", false)] {
        let client = if port { &mut net.lan } else { &mut net.wan };
        client.shard.tcp_connect(net.now, None, host.parse().unwrap(), SocketOptions::default()).unwrap();
    }
    net.run(Duration::from_millis(50));
    for device in &mut net.links.0 {
        device.sent.clear();
    }
}

/// The ICMP errors (type, code, third word, quoted packet) that the router sent on a link.
fn errors(net: &Net, link: usize) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let is_icmp = |frame: &&Vec<u8>| frame[12..14] == [8, 0] && frame[23] == 1;
    let read = |frame: &Vec<u8>| {
        let mut sum = Sum::ZERO;
        sum.add(&frame[34..]);
        assert!(sum.is_valid());
        let word = u32::from_be_bytes(frame[38..42].try_into().unwrap());
        (frame[34], frame[35], word, frame[42..].to_vec())
    };
    net.links.0[link].sent.iter().filter(is_icmp).map(read).collect()
}

#[test]
fn a_packet_without_hops_left_comes_back_as_time_exceeded() {
    for rules in [None, Some(MASQUERADE)] {
        let mut net = Net::new(rules);
        acquaint(&mut net);
        let frame = udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 1, true, 20);
        net.links.0[0].rx.push_back(frame.clone());
        net.settle();
        assert_eq!(errors(&net, 0), [(11, 0, 0, frame[14..].to_vec())]);
        assert_eq!(net.drops(), [(DropReason::HopLimitExceeded, 1)]);
    }
}

#[test]
fn a_packet_of_its_own_that_a_loop_brings_back_is_no_claim_to_its_address() {
    let mut net = Net::new(None);
    net.links.0[0].rx.push_back(udp_frame([192, 168, 1, 254], [198, 51, 100, 1], 60, true, 20));
    net.settle();
    assert_eq!(net.drops(), [(DropReason::SpoofedSelf, 1)]);
    assert_eq!(net.router.counters().address_conflicts, 0);
}

#[test]
fn a_packet_too_long_for_the_next_link_is_cut_or_comes_back() {
    for rules in [None, Some(MASQUERADE)] {
        let mut net = Net::with(rules, [1500, 1280], |_| {});
        acquaint(&mut net);
        let whole = udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 64, true, 1400);
        net.links.0[0].rx.push_back(whole.clone());
        net.settle();
        let [(3, 4, 1280, quote)] = &errors(&net, 0)[..] else { panic!("{:?}", errors(&net, 0)) };
        assert_eq!(quote[..], whole[14..][..quote.len()]);
        // Without DF it arrives in pieces, at a socket.
        let id = net.wan.shard.udp_bind("0.0.0.0:4001".parse().unwrap()).unwrap();
        net.links.0[0].rx.push_back(udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 64, false, 1400));
        net.settle();
        let mut buffer = vec![0; 2000];
        let (len, from, _) = ready(net.wan.shard.udp_poll_recv_from(id, &mut buffer, no_waker())).unwrap();
        assert_eq!(buffer[..len], pattern(1400));
        let source = if rules.is_some() { "192.0.2.254" } else { "192.168.1.1" };
        assert_eq!(from, SocketAddr::new(ip(source), 4000));
        assert_eq!(net.wan.shard.counters().fragments_rx, 2);
    }
}

#[test]
fn segments_that_may_be_fragmented_are_though_they_came_in_one_burst() {
    for partial in [false, true] {
        let mut links = TestLinks::new(8, &[1500, 1280]);
        links.0[0].capabilities.partial_checksums = partial;
        let mut net = Net::on(links, Some(MASQUERADE), |_| {});
        acquaint(&mut net);
        for index in 0..4u32 {
            // The UDP frame's IP header and ports, with TCP behind.
            let mut frame = udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 64, false, 1412);
            let mut tcp = frame[34..38].to_vec();
            tcp.extend_from_slice(&(1000 + index * 1400).to_be_bytes());
            tcp.extend_from_slice(&[0, 0, 0, 1, 0x50, 0x10, 0x40, 0, 0, 0, 0, 0]);
            tcp.extend(pattern(1400));
            let mut sum = Sum::pseudo_header(ip("192.168.1.1"), ip("192.0.2.2"), 6, tcp.len() as u32);
            if partial {
                tcp[16..18].copy_from_slice(&sum.folded().to_be_bytes());
            } else {
                sum.add(&tcp);
                tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
            }
            frame.splice(34.., tcp);
            frame[23] = 6;
            crate::net::fragment::fill_ipv4_checksum(&mut frame[14..]);
            net.links.0[0].rx.push_back(frame);
        }
        net.settle();
        assert_eq!((errors(&net, 0), net.router.counters().dropped(DropReason::PacketTooBig)), (vec![], 0));
        let is_tcp = |frame: &&Vec<u8>| frame[12..14] == [8, 0] && frame[23] == 6;
        let fragments: Vec<&Vec<u8>> = net.links.0[1].sent.iter().filter(is_tcp).collect();
        assert_eq!(fragments.len(), 8);
        for pair in fragments.chunks(2) {
            let mut sum = Sum::pseudo_header(ip("192.0.2.254"), ip("192.0.2.2"), 6, 1420);
            pair.iter().for_each(|fragment| sum.add(&fragment[34..]));
            assert!(sum.is_valid(), "partial: {partial}");
        }
    }
}

#[test]
fn fragments_cross_translation_as_fragments() {
    // A datagram of 5000 bytes each way, masqueraded.
    let mut net = Net::new(Some(MASQUERADE));
    let inside = net.lan.shard.udp_bind("0.0.0.0:5000".parse().unwrap()).unwrap();
    let outside = net.wan.shard.udp_bind("0.0.0.0:5001".parse().unwrap()).unwrap();
    let payload = pattern(5000);
    let to = "192.0.2.2:5001".parse().unwrap();
    ready(net.lan.shard.udp_poll_send_to(inside, &payload, to, no_waker())).unwrap();
    net.run(Duration::from_millis(10));
    let mut buffer = vec![0; 65_536];
    let (len, from, _) = ready(net.wan.shard.udp_poll_recv_from(outside, &mut buffer, no_waker())).unwrap();
    assert_eq!((&buffer[..len], from), (&payload[..], "192.0.2.254:5000".parse().unwrap()));
    ready(net.wan.shard.udp_poll_send_to(outside, &payload, from, no_waker())).unwrap();
    net.run(Duration::from_millis(10));
    let (len, from, _) = ready(net.lan.shard.udp_poll_recv_from(inside, &mut buffer, no_waker())).unwrap();
    assert_eq!((&buffer[..len], from), (&payload[..], to));
}

#[test]
fn an_error_from_outside_finds_the_host_that_it_concerns() {
    let mut net = Net::new(Some(MASQUERADE));
    let inside = net.lan.shard.udp_bind("0.0.0.0:5000".parse().unwrap()).unwrap();
    let to = "192.0.2.2:9999".parse().unwrap();
    net.lan.shard.udp_connect(inside, to).unwrap();
    ready(net.lan.shard.udp_poll_send_to(inside, b"x", to, no_waker())).unwrap();
    net.run(Duration::from_millis(10));
    let errors = errors(&net, 0);
    let [(3, 3, 0, quote)] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(quote[12..20], [192, 168, 1, 1, 192, 0, 2, 2], "as the host sent it");
    let mut buffer = [0; 10];
    let told = ready(net.lan.shard.udp_poll_recv_from(inside, &mut buffer, no_waker()));
    assert!(matches!(told, Err(NetError::ConnectionRefused)), "{told:?}");
}

#[test]
fn a_silent_neighbor_is_told_of_in_the_senders_own_terms() {
    let mut net = Net::new(Some(MASQUERADE));
    acquaint(&mut net);
    let frame = udp_frame([192, 168, 1, 1], [192, 0, 2, 77], 64, true, 20);
    net.links.0[0].rx.push_back(frame.clone());
    net.run(Duration::from_secs(4));
    let errors = errors(&net, 0);
    let [(3, 1, 0, quote)] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(quote[12..24], frame[26..38], "addresses and ports");
}

#[test]
fn a_source_from_the_wrong_side_is_not_believed() {
    for (reverse_path, passes) in
        [(ReversePath::Strict, false), (ReversePath::Loose, true), (ReversePath::Off, true)]
    {
        let mut net = Net::with(None, [1500, 1500], |config| {
            let forward = ForwardConfig { reverse_path, ..ForwardConfig::default() };
            config.forward = Some(forward);
        });
        acquaint(&mut net);
        net.links.0[0].rx.push_back(udp_frame([192, 0, 2, 9], [192, 0, 2, 2], 64, true, 20));
        net.settle();
        let dropped = net.drops().contains(&(DropReason::ReversePath, 1));
        assert_eq!(
            (dropped, net.router.counters().forwarded_packets > 4),
            (!passes, passes),
            "{reverse_path:?}"
        );
    }
}

#[test]
fn the_mss_is_clamped_both_ways() {
    let rules = "*filter\n-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n";
    let mut net = Net::with(Some(rules), [1500, 1280], |_| {});
    echo(&mut net, true, "0.0.0.0:80", "192.0.2.2:80", 20_000);
    let mss = |frame: &Vec<u8>| {
        let syn = frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & 2 != 0;
        syn.then(|| u16::from_be_bytes([frame[56], frame[57]]))
    };
    let offers: Vec<Vec<u16>> =
        net.links.0.iter().map(|device| device.sent.iter().filter_map(mss).collect()).collect();
    assert_eq!(offers, [[1240], [1240]]);
    assert!(errors(&net, 0).is_empty(), "so that nothing is too long");
}

#[test]
fn forward_rules_reject_with_an_error_to_the_sender() {
    let mut net = Net::new(Some("*filter\n-A FORWARD -p udp --dport 4001 -j REJECT\nCOMMIT\n"));
    acquaint(&mut net);
    let frame = udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 64, true, 20);
    net.links.0[0].rx.push_back(frame.clone());
    net.settle();
    assert_eq!(errors(&net, 0), [(3, 3, 0, frame[14..].to_vec())]);
}

#[test]
fn what_only_its_destination_can_judge_is_forwarded() {
    let mut net = Net::new(Some("*filter\n-A FORWARD -m conntrack --ctstate NEW -j DROP\nCOMMIT\n"));
    acquaint(&mut net);
    let mut frame = udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 64, true, 20);
    frame[40] ^= 1;
    net.links.0[0].rx.push_back(frame.clone());
    net.settle();
    let sent = &net.links.0[1].sent;
    assert!(
        sent.iter().any(|sent| sent[34..] == frame[34..]),
        "with its wrong checksum, and INVALID, not NEW"
    );
}

#[test]
fn what_cannot_be_read_does_not_pass_by_the_rules() {
    let mut net = Net::new(Some("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"));
    acquaint(&mut net);
    let filtered = |net: &Net| {
        net.drops()
            .iter()
            .filter(|(reason, _)| *reason == DropReason::Filtered)
            .map(|(_, count)| *count)
            .sum()
    };
    let before: u64 = filtered(&net);
    for (number, len) in [(132, 2), (33, 0), (17, 4)] {
        // Less than a header of a protocol with ports.
        let mut frame = udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 64, true, 20);
        frame.truncate(34 + len);
        frame[17] = (20 + len) as u8;
        frame[23] = number;
        crate::net::fragment::fill_ipv4_checksum(&mut frame[14..]);
        net.links.0[0].rx.push_back(frame);
    }
    net.settle();
    assert!(net.links.0[1].sent.is_empty());
    assert_eq!(filtered(&net) - before, 3);
}

#[test]
fn output_rules_are_for_what_the_router_says_of_others_packets_too() {
    let rules = "*filter\n-A OUTPUT -p icmp --icmp-type time-exceeded -j DROP\nCOMMIT\n";
    let mut net = Net::new(Some(rules));
    acquaint(&mut net);
    net.links.0[0].rx.push_back(udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 1, true, 20));
    net.settle();
    assert_eq!(errors(&net, 0), []);
}

#[test]
fn without_rules_fragments_go_on_as_they_come() {
    let mut net = Net::new(Some(""));
    acquaint(&mut net);
    let mut frame = udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 64, false, 24);
    // The second piece of a datagram whose first is never seen.
    (frame[20], frame[21]) = (0, 4);
    crate::net::fragment::fill_ipv4_checksum(&mut frame[14..]);
    net.links.0[0].rx.push_back(frame.clone());
    net.settle();
    assert!(net.links.0[1].sent.iter().any(|sent| sent[34..] == frame[34..]));
}

#[test]
fn each_link_has_its_own_mtu() {
    let net = Net::with(None, [1500, 1280], |config| config.mtu = Some(1500));
    assert_eq!(net.router.links_state().iter().map(|link| link.mtu).collect::<Vec<_>>(), [1500, 1280]);
}

#[test]
fn a_host_inside_reaches_its_own_server_by_the_outer_address() {
    // Hairpin: from inside to the router's outer address and back inside, to another address of the same host.
    let rules = "*nat\n-A PREROUTING -d 192.0.2.254 -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\n-A POSTROUTING -s 192.168.1.0/24 -d 192.168.1.0/24 -j MASQUERADE\nCOMMIT\n";
    let mut net = Net::new(Some(rules));
    let options = SocketOptions::default();
    let listener = net.lan.shard.tcp_listen("0.0.0.0:80".parse().unwrap(), 8, options.clone()).unwrap();
    let id = net.lan.shard.tcp_connect(net.now, None, "192.0.2.254:8080".parse().unwrap(), options).unwrap();
    net.run(Duration::from_millis(100));
    assert_eq!(ready(net.lan.shard.tcp().poll_connected(id, no_waker())), Ok(()));
    let (_, peer) = ready(net.lan.shard.tcp().poll_accept(listener, no_waker())).unwrap();
    assert_eq!(peer.ip(), ip("192.168.1.254"));
}

#[test]
fn many_packets_return_every_frame() {
    let mut net = Net::new(Some(MASQUERADE));
    acquaint(&mut net);
    for len in (0..1400).step_by(7) {
        net.links.0[0].rx.push_back(udp_frame([192, 168, 1, 1], [192, 0, 2, 2], 64, false, len));
    }
    net.run(Duration::from_secs(1));
    let usage = net.links.pool().usage();
    assert_eq!((usage.free, usage.held), (usage.total, 0));
}

#[test]
fn a_flow_that_is_deleted_by_its_translation_gives_its_port_back() {
    let mut net = Net::new(Some(MASQUERADE));
    acquaint(&mut net);
    net.router.delete_flows(net.now, &FlowFilter::default(), 0, 100).unwrap();
    let outside = FlowFilter { src_nat: Some(Translation::To(ip("192.0.2.254"))), ..FlowFilter::default() };
    // Two hosts inside use the same port: the second one gets it outside, too, once the first one's flow has ended.
    for host in [1, 7] {
        net.links.0[0].rx.push_back(udp_frame([192, 168, 1, host], [192, 0, 2, 2], 64, false, 20));
        net.settle();
        let (deleted, _) = net.router.delete_flows(net.now, &outside, 0, 100).unwrap();
        let flow = &deleted[0];
        assert_eq!((deleted.len(), flow.original.src), (1, IpAddr::from([192, 168, 1, host])));
        assert_eq!((flow.original.sport, flow.reply.dport), (Some(4000), Some(4000)));
        assert_eq!((flow.reply.dst, flow.src_nat, flow.dst_nat), (ip("192.0.2.254"), true, false));
    }
}
