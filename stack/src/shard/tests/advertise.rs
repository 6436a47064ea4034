//! Router advertisements as hosts of a link get them: what is in them, when they come, and who is answered.

use core::net::Ipv6Addr;

use super::forward::Net;
use super::*;
use crate::config::{Advertise, AdvertisedPrefix};
use crate::counters::DropReason;
use crate::packet::checksum::Sum;

const ALL_NODES: &str = "ff02::1";
const LAN: usize = 0;
/// Between two looks at what was sent.
const STEP: Duration = Duration::from_millis(20);

/// An advertisement as received.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Heard {
    at: Instant,
    to: [u8; 6],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hop_limit: u8,
    flags: u8,
    lifetime: u16,
    options: Vec<(u8, Vec<u8>)>,
}

fn addr(bytes: &[u8]) -> Ipv6Addr {
    Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap())
}

fn read(at: Instant, frame: &[u8]) -> Option<Heard> {
    if frame[12..14] != [0x86, 0xdd] || frame[20] != 58 || frame[54] != 134 {
        return None;
    }
    let (src, dst, message) = (addr(&frame[22..38]), addr(&frame[38..54]), &frame[54..]);
    assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), message.len());
    let mut sum = Sum::pseudo_header(src.into(), dst.into(), 58, message.len() as u32);
    sum.add(message);
    assert!(sum.is_valid(), "{frame:x?}");
    assert_eq!((frame[21], message[1]), (255, 0), "RFC 4861 section 6.1.2");
    let (mut options, mut left) = (Vec::new(), &message[16..]);
    while let [kind, len, ..] = *left {
        let (option, rest) = left.split_at(usize::from(len) * 8);
        options.push((kind, option[2..].to_vec()));
        left = rest;
    }
    assert!(left.is_empty());
    Some(Heard {
        at,
        to: frame[..6].try_into().unwrap(),
        src,
        dst,
        hop_limit: message[4],
        flags: message[5],
        lifetime: u16::from_be_bytes([message[6], message[7]]),
        options,
    })
}

fn net(advertise: Advertise) -> Net {
    of_shards(1, advertise)
}

fn of_shards(count: u8, advertise: Advertise) -> Net {
    let links = (0..count).map(|_| TestLinks::new(8, &[1500, 1500])).collect();
    Net::of_shards(links, None, |config| {
        config.forward.as_mut().unwrap().advertise.insert(LAN, advertise);
    })
}

/// What is heard on a link for a while, of any of the router's queues.
fn listen(net: &mut Net, link: usize, span: Duration) -> Vec<Heard> {
    let mut heard = Vec::new();
    let end = net.now + span;
    loop {
        let queues = core::iter::once(&mut net.links).chain(net.more.iter_mut().map(|(_, links)| links));
        for links in queues {
            for frame in core::mem::take(&mut links.0[link].sent) {
                heard.extend(read(net.now, &frame));
            }
        }
        if net.now >= end {
            return heard;
        }
        net.run(STEP);
    }
}

/// A host of the LAN asks for routers; `option`: its Ethernet address.
fn solicitation(src: &str, hop_limit: u8, code: u8, option: Option<[u8; 6]>) -> Vec<u8> {
    let (src, dst) = (src.parse::<Ipv6Addr>().unwrap(), "ff02::2".parse::<Ipv6Addr>().unwrap());
    let mut message = vec![133, code, 0, 0, 0, 0, 0, 0];
    if let Some(mac) = option {
        message.extend([1, 1]);
        message.extend(mac);
    }
    let mut sum = Sum::pseudo_header(src.into(), dst.into(), 58, message.len() as u32);
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0x77, 0x86, 0xdd, 0x60, 0, 0, 0, 0];
    frame.extend([message.len() as u8, 58, hop_limit]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(message);
    frame
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn hosts_are_told_of_router_prefix_mtu_and_name_servers() {
    let mut net = net(Advertise {
        other_config: true,
        dns_servers: vec!["2001:db8:1::53".parse().unwrap(), "2001:db8:9::53".parse().unwrap()],
        ..Advertise::default()
    });
    let heard = listen(&mut net, LAN, seconds(1));
    let [first] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(first.to, [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(
        (first.src.to_string().as_str(), first.dst.to_string().as_str()),
        ("fe80::ff:fd00:8", ALL_NODES)
    );
    assert_eq!((first.hop_limit, first.flags, first.lifetime), (64, 0x40, 1800));
    let mut prefix = vec![64, 0xc0];
    prefix.extend(2_592_000u32.to_be_bytes());
    prefix.extend(604_800u32.to_be_bytes());
    prefix.extend([0; 4]);
    prefix.extend("2001:db8:1::".parse::<Ipv6Addr>().unwrap().octets());
    let mut servers = vec![0, 0];
    servers.extend(1800u32.to_be_bytes());
    for server in ["2001:db8:1::53", "2001:db8:9::53"] {
        servers.extend(server.parse::<Ipv6Addr>().unwrap().octets());
    }
    let mac = vec![2, 0, 0, 0, 0, 8];
    assert_eq!(first.options, [(1, mac), (5, vec![0, 0, 0, 0, 5, 0xdc]), (3, prefix), (25, servers)]);
    assert!(listen(&mut net, 1, seconds(1)).is_empty(), "nobody said so of the other link");
    assert_eq!(net.router.counters().router_advertisements_tx, 1);
}

#[test]
fn prefixes_are_those_that_are_named() {
    let prefix = |text: &str| AdvertisedPrefix::of(text.parse().unwrap());
    let mut net = net(Advertise {
        managed: true,
        lifetime: Duration::ZERO,
        prefixes: Some(vec![
            AdvertisedPrefix { valid: Duration::MAX, preferred: seconds(60), ..prefix("2001:db8:77::5/64") },
            AdvertisedPrefix { on_link: false, ..prefix("2001:db8:ff00::/40") },
        ]),
        ..Advertise::default()
    });
    let heard = listen(&mut net, LAN, seconds(1));
    assert_eq!((heard[0].flags, heard[0].lifetime), (0x80, 0));
    let prefixes: Vec<_> =
        heard[0].options.iter().filter(|(kind, _)| *kind == 3).map(|(_, bytes)| bytes).collect();
    let summary =
        |bytes: &[u8]| (bytes[0], bytes[1], bytes[2..6].to_vec(), bytes[6..10].to_vec(), addr(&bytes[14..]));
    assert_eq!(
        summary(prefixes[0]),
        (
            64,
            0xc0,
            vec![0xff; 4],
            vec![0, 0, 0, 60],
            addr(&[0x20, 1, 0xd, 0xb8, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        )
    );
    assert_eq!((summary(prefixes[1]).0, summary(prefixes[1]).1), (40, 0), "no addresses are made of 40 bits");
    assert_eq!(summary(prefixes[1]).4.to_string(), "2001:db8:ff00::");
    assert_eq!(prefixes.len(), 2);
}

/// RFC 4861 section 6.2.4.
#[test]
fn the_first_three_come_soon_and_the_others_from_time_to_time() {
    let mut net = net(Advertise { interval: seconds(60), ..Advertise::default() });
    let heard = listen(&mut net, LAN, seconds(1800));
    let pauses: Vec<u64> =
        heard.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis() as u64).collect();
    assert!(pauses[..2].iter().all(|pause| pause.abs_diff(16_000) <= 20), "{pauses:?}");
    let later = &pauses[2..];
    assert!((30..=90).contains(&later.len()), "{pauses:?}");
    assert!(later.iter().all(|pause| (20_000 - 20..=60_000 + 20).contains(pause)), "{pauses:?}");
    let (least, most) = (later.iter().min().unwrap(), later.iter().max().unwrap());
    assert!(*least < 30_000 && *most > 50_000, "spread over the interval: {pauses:?}");
}

/// RFC 4861 section 6.2.6.
#[test]
fn a_host_that_asks_is_answered_within_half_a_second() {
    let mut net = net(Advertise::default());
    listen(&mut net, LAN, seconds(100));
    let mut delays = Vec::new();
    for _ in 0..30 {
        let asked = net.now;
        net.links.0[LAN].rx.push_back(solicitation("fe80::77", 255, 0, Some([2, 0, 0, 0, 0, 0x78])));
        let heard = listen(&mut net, LAN, seconds(1));
        let [answer] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!((answer.to, answer.dst.to_string().as_str()), ([2, 0, 0, 0, 0, 0x78], "fe80::77"));
        assert_eq!(answer.lifetime, 1800);
        delays.push((answer.at - asked).as_millis() as u64);
    }
    assert!(delays.iter().all(|delay| *delay <= 520), "{delays:?}");
    assert!(delays.iter().min() < delays.iter().max(), "at random: {delays:?}");
    // Without its Ethernet address in the message it is where the frame came from; twice asked is answered once.
    for _ in 0..2 {
        net.links.0[LAN].rx.push_back(solicitation("fe80::77", 255, 0, None));
    }
    let heard = listen(&mut net, LAN, seconds(1));
    assert_eq!(heard.iter().map(|heard| heard.to).collect::<Vec<_>>(), [[2, 0, 0, 0, 0, 0x77]]);
    assert_eq!(net.router.counters().router_solicitations_rx, 32);
}

#[test]
fn hosts_without_an_address_are_answered_all_at_once_and_not_too_often() {
    for shards in [1, 3] {
        let mut net = of_shards(shards, Advertise::default());
        let unasked = listen(&mut net, LAN, seconds(200)).len();
        let mut heard = Vec::new();
        for _ in 0..100 {
            // To any of the queues.
            net.lan.device.tx.push_back(solicitation("::", 255, 0, None));
            heard.extend(listen(&mut net, LAN, Duration::from_millis(100)));
        }
        heard.extend(listen(&mut net, LAN, seconds(4)));
        assert!(heard.iter().all(|heard| heard.dst.to_string() == ALL_NODES));
        assert!((3..=5).contains(&heard.len()), "{shards}: {} after {unasked}", heard.len());
        assert!(heard.windows(2).all(|pair| pair[1].at - pair[0].at >= seconds(3)), "{heard:?}");
    }
}

/// Each shard answers what comes to it; none but the first speaks unasked.
#[test]
fn one_of_several_shards_speaks_and_all_answer() {
    let mut net = of_shards(3, Advertise::default());
    let times: Vec<_> = listen(&mut net, LAN, seconds(40)).iter().map(|heard| heard.at.as_secs()).collect();
    assert_eq!(times, [0, 16, 32]);
    for (_, links) in &mut net.more {
        links.0[LAN].rx.push_back(solicitation("fe80::77", 255, 0, None));
    }
    let heard = listen(&mut net, LAN, seconds(1));
    assert_eq!(heard.len(), 2);
}

#[test]
fn when_very_many_ask_all_are_answered_together() {
    let mut net = net(Advertise::default());
    listen(&mut net, LAN, seconds(100));
    for host in 1..=400 {
        net.links.0[LAN].rx.push_back(solicitation(&format!("fe80::7:{host:x}"), 255, 0, None));
    }
    let heard = listen(&mut net, LAN, seconds(4));
    let to_all = heard.iter().filter(|heard| heard.dst.to_string() == ALL_NODES).count();
    assert_eq!((to_all, heard.len()), (1, 1 + limits::ADVERTISE_ASKERS));
}

/// RFC 4861 section 6.1.1.
#[test]
fn wrong_questions_are_not_answered() {
    let mac = Some([2, 0, 0, 0, 0, 0x77]);
    let mut damaged = solicitation("fe80::77", 255, 0, mac);
    damaged[56] ^= 1;
    let wrong = [
        (solicitation("fe80::77", 64, 0, mac), DropReason::BadNeighborDiscovery),
        (solicitation("fe80::77", 255, 1, mac), DropReason::BadNeighborDiscovery),
        (solicitation("::", 255, 0, mac), DropReason::BadNeighborDiscovery),
        (damaged, DropReason::BadIcmp),
    ];
    for (frame, reason) in wrong {
        let mut net = net(Advertise::default());
        listen(&mut net, LAN, seconds(100));
        net.links.0[LAN].rx.push_back(frame);
        assert!(listen(&mut net, LAN, seconds(4)).is_empty());
        let counted: Vec<_> = net.router.counters().drops().filter(|(_, count)| *count > 0).collect();
        assert!(counted.contains(&(reason, 1)), "{reason:?}: {counted:?}");
    }
    // Nobody said that this link has a router.
    let mut net = net(Advertise::default());
    net.links.0[1].rx.push_back(solicitation("fe80::77", 255, 0, mac));
    assert!(listen(&mut net, 1, seconds(4)).is_empty());
}

/// RFC 4861 section 7.2.5: who hears otherwise of a router strikes it out.
#[test]
fn neighbor_advertisements_say_who_is_a_router() {
    let mut net = net(Advertise::default());
    let says = |frames: &[Vec<u8>]| -> Vec<bool> {
        let is = |frame: &&Vec<u8>| frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 136;
        frames.iter().filter(is).map(|frame| frame[58] & 0x80 != 0).collect()
    };
    // Both announce their addresses, and ask for each other's.
    net.run(seconds(10));
    let to = "[2001:db8:1::fe]:9".parse().unwrap();
    net.lan.shard.tcp_connect(net.now, None, to, SocketOptions::default()).unwrap();
    net.run(seconds(1));
    let (router, host) = (says(&net.links.0[LAN].sent), says(&net.lan.device.sent));
    assert!(router.len() > 4 && router.iter().all(|router| *router), "{router:?}");
    assert!(host.len() >= 4 && host.iter().all(|router| !*router), "{host:?}");
}

/// RFC 4861 section 6.2.5.
#[test]
fn a_router_that_goes_says_so_once() {
    for shards in [1, 2] {
        let mut net = of_shards(shards, Advertise::default());
        listen(&mut net, LAN, seconds(2));
        net.router.stop_advertising();
        net.more.iter_mut().for_each(|(shard, _)| shard.stop_advertising());
        let heard = listen(&mut net, LAN, seconds(2000));
        assert_eq!(heard.iter().map(|heard| heard.lifetime).collect::<Vec<_>>(), [0]);
        assert_eq!(heard[0].options.len(), 3, "the prefix stays");
        net.links.0[LAN].rx.push_back(solicitation("fe80::77", 255, 0, None));
        assert!(listen(&mut net, LAN, seconds(2)).is_empty());
    }
}
