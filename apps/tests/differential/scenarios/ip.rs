//! IP itself: hop limits, options and extension headers, addresses that are no host's.

use super::super::link::Side;
use super::super::packets::{SYN, icmp, pattern, ping, raw, tcp, udp};
use super::super::router::Setup;
use super::super::script::Scenario;
use super::{L1, L6, MASQUERADE, NONE, TRACKED, W2, W6, scenario, scenario6, with};

const C: &str = "192.168.1.1:4000";
const S: &str = "192.0.2.2:53";
const C6: &str = "[2001:db8:1::1]:4000";
const S6: &str = "[2001:db8:2::2]:53";

/// A type 0 routing header's content behind its first two bytes, with one address left to visit.
const ROUTE: [u8; 22] = [0, 1, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];

pub const SCENARIOS: &[Scenario] = &[
    scenario("ttl", NONE, |run| {
        for ttl in [0, 1, 2, 3, 255] {
            run.lan(&udp(C, S, 20).ttl(ttl).tos(0x28));
        }
        run.wan(&udp(S, C, 20).ttl(1));
    }),
    scenario("ttl masqueraded", MASQUERADE, |run| {
        run.lan(&udp(C, S, 20).ttl(1).tos(0x28));
        run.lan(&tcp(C, "192.0.2.2:80", SYN, 1, 0).ttl(1));
        run.lan(&ping(L1, W2, 1, 1).ttl(1));
        run.flows();
        run.lan(&udp(C, S, 20).ttl(2));
        run.wan(&udp(S, "192.0.2.254:4000", 20).ttl(1));
        run.wan(&udp(S, "192.0.2.254:4000", 20).ttl(2));
    }),
    scenario("ttl of an error", NONE, |run| {
        run.lan(&icmp(L1, W2, 3, 3, 0, &udp(S, C, 20).bytes()).ttl(1));
        run.lan(&udp(C, S, 1400).ttl(1));
        run.lan(&raw(L1, W2, 253, pattern(20)).ttl(1));
    }),
    scenario("dscp, ecn, identification and df", NONE, |run| {
        for (at, tos) in [0x00, 0x01, 0x02, 0x03, 0xb8, 0xff].into_iter().enumerate() {
            run.lan(&udp(C, S, 20).tos(tos).id(0x6000 + at as u16));
            run.lan(&udp(C, S, 20).tos(tos).id(0).df());
        }
    }),
    scenario("record route", NONE, |run| {
        run.lan(&udp(C, S, 20).options(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        run.lan(&udp(C, S, 20).options(&[7, 7, 8, 1, 2, 3, 4, 0]));
        run.lan(&udp(C, S, 20).options(&[7, 7, 3, 0, 0, 0, 0, 0]));
    }),
    scenario("timestamp option", NONE, |run| {
        // Only the pointer is compared: times are each router's own.
        run.lan(&udp(C, S, 20).options(&[68, 4, 5, 0x10]));
        run.lan(&udp(C, S, 20).options(&[68, 4, 5, 0xf0]));
    }),
    scenario("other options", NONE, |run| {
        run.lan(&udp(C, S, 20).options(&[1, 1, 1, 1]));
        run.lan(&udp(C, S, 20).options(&[0x94, 4, 0, 0]));
        run.lan(&udp(C, S, 20).options(&[0x88, 4, 1, 2]));
        run.lan(&udp(C, S, 20).options(&[0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        run.lan(&udp(C, S, 20).options(&[0x9e, 4, 1, 2]));
        run.lan(&udp(C, S, 20).options(&[0, 0, 0, 0]));
    }),
    scenario("options that are broken", NONE, |run| {
        run.lan(&udp(C, S, 20).options(&[7, 12, 4, 0, 0, 0, 0, 0]));
        run.lan(&udp(C, S, 20).options(&[0x9e, 0, 1, 2]));
        run.lan(&udp(C, S, 20).options(&[1, 1, 1, 7]));
    }),
    scenario("source routes", NONE, |run| {
        run.lan(&udp(C, "192.168.1.254:53", 20).options(&[131, 7, 4, 192, 0, 2, 2, 0]));
        run.lan(&udp(C, S, 20).options(&[131, 7, 4, 192, 0, 2, 3, 0]));
        run.lan(&udp(C, S, 20).options(&[137, 7, 8, 192, 0, 2, 3, 0]));
    }),
    scenario("options masqueraded", MASQUERADE, |run| {
        run.lan(&udp(C, S, 20).options(&[1, 1, 1, 1]));
    }),
    scenario("header checksum", NONE, |run| {
        let mut bytes = udp(C, S, 20).bytes();
        bytes[10] ^= 1;
        run.send(Side::Lan, &bytes);
    }),
    scenario("lengths", NONE, |run| {
        // Padding behind the packet is not forwarded; a packet that is cut off is no packet.
        let mut bytes = udp(C, S, 4).bytes();
        bytes.extend([0; 14]);
        run.send(Side::Lan, &bytes);
        let bytes = udp(C, S, 100).bytes();
        run.send(Side::Lan, &bytes[..100]);
    }),
    scenario("sources that are no host's", NONE, |run| {
        for src in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.5",
            "240.0.0.1",
            "255.255.255.255",
            "192.168.1.255",
            "192.168.1.0",
            "192.0.2.255",
        ] {
            run.lan(&udp(&format!("{src}:4000"), S, 20));
        }
    }),
    scenario("sources from the wrong side", NONE, |run| {
        run.lan(&udp("192.0.2.3:4000", S, 20));
        run.lan(&udp("198.51.100.1:4000", S, 20));
        run.wan(&udp("192.168.1.2:4000", C, 20));
        run.wan(&udp("198.51.100.1:4000", C, 20));
        run.lan(&udp("192.168.1.254:4000", S, 20));
        run.wan(&udp("192.168.1.254:4000", C, 20));
    }),
    scenario("link-local addresses", NONE, |run| {
        run.lan(&udp("169.254.1.1:4000", S, 20));
        run.lan(&udp(C, "169.254.1.1:53", 20));
    }),
    scenario("destinations that are no host's", NONE, |run| {
        for dst in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.255",
            "192.0.2.0",
            "192.168.1.255",
            "224.0.0.5",
            "239.1.2.3",
            "198.51.100.7",
        ] {
            run.lan(&udp(C, &format!("{dst}:53"), 20));
        }
    }),
    scenario("to a host on the same link", NONE, |run| {
        run.lan(&udp(C, "192.168.1.2:53", 20));
    }),
    scenario("to the router itself", TRACKED, |run| {
        run.lan(&udp(C, "192.168.1.254:9", 20).tos(0x28));
        run.lan(&tcp(C, "192.168.1.254:9", SYN, 1, 0));
        run.wan(&tcp("192.0.2.2:4000", "192.0.2.254:9", super::super::packets::ACK, 1, 77).data(10));
        run.lan(&raw(L1, "192.168.1.254", 253, pattern(8)));
        run.flows();
    }),
    scenario6("ipv6 forwarding", TRACKED, |run| {
        run.lan(&udp(C6, S6, 20).tos(0xb9));
        run.wan(&udp(S6, C6, 20));
        run.lan(&tcp(C6, "[2001:db8:2::2]:80", SYN, 1, 0));
        run.flows();
    }),
    scenario6("ipv6 hop limit", NONE, |run| {
        for ttl in [0, 1, 2, 255] {
            run.lan(&udp(C6, S6, 20).ttl(ttl).tos(0x28));
        }
        run.lan(&udp(C6, S6, 1400).ttl(1));
        run.lan(&icmp(L6, W6, 1, 4, 0, &udp(S6, C6, 20).bytes()).ttl(1));
    }),
    with(
        scenario6("ipv6 packet too big", TRACKED, |run| {
            run.lan(&udp(C6, S6, 1400));
            run.lan(&udp(C6, S6, 1232));
            run.lan(&icmp(L6, W6, 128, 0, 0x0007_0001, &pattern(1400)));
            run.flows();
        }),
        Setup { mtus: [1500, 1280], ..Setup::new("") },
    ),
    scenario6("ipv6 extension headers", TRACKED, |run| {
        run.lan(&udp(C6, S6, 20).extension(60, &[1, 4, 0, 0, 0, 0]));
        run.lan(&udp(C6, S6, 20).extension(0, &[1, 4, 0, 0, 0, 0]));
        run.lan(&udp(C6, S6, 20).extension(0, &[5, 2, 0, 0, 1, 0]));
        run.lan(&udp(C6, S6, 20).extension(43, &ROUTE));
        run.flows();
    }),
    scenario6("ipv6 unknown options", NONE, |run| {
        // The two high bits: skip, drop, tell, tell unless multicast; for each router, and for the destination only.
        for kind in [0x1e, 0x5e, 0x9e, 0xde] {
            run.lan(&udp(C6, S6, 20).extension(0, &[kind, 4, 0, 0, 0, 0]));
            run.lan(&udp(C6, S6, 20).extension(60, &[kind, 4, 0, 0, 0, 0]));
        }
    }),
    scenario6("ipv6 fragments", TRACKED, |run| {
        let packet = udp(C6, S6, 2000);
        for (start, end) in [(800, 1600), (0, 800), (1600, 2008)] {
            run.send(Side::Lan, &packet.piece(start, end));
        }
        run.flows();
    }),
    scenario6("ipv6 fragments without rules", NONE, |run| {
        let packet = udp(C6, S6, 2000);
        for (start, end) in [(800, 1600), (0, 800), (1600, 2008)] {
            run.send(Side::Lan, &packet.piece(start, end));
        }
    }),
    scenario6("ipv6 fragments that overlap", TRACKED, |run| {
        let packet = udp(C6, S6, 2000);
        for (start, end) in [(0, 800), (792, 1600), (1600, 2008), (800, 1600)] {
            run.send(Side::Lan, &packet.piece(start, end));
        }
        run.flows();
    }),
    scenario6("ipv6 atomic fragment", TRACKED, |run| {
        run.send(Side::Lan, &udp(C6, S6, 100).piece(0, 108));
    }),
    scenario6("ipv6 addresses that are no host's", NONE, |run| {
        for src in ["::", "::1", "ff02::5", "fe80::1", "::ffff:192.0.2.1", "2001:db8:2::3", "fc00::1"] {
            run.lan(&udp(&format!("[{src}]:4000"), S6, 20));
        }
        for dst in ["::1", "fe80::1", "ff02::5", "ff0e::5", "::ffff:192.0.2.1", "fc00::1", "2001:db8:ffff::1"]
        {
            run.lan(&udp(C6, &format!("[{dst}]:53"), 20));
        }
    }),
    scenario6("ipv6 udp without a checksum", TRACKED, |run| {
        run.lan(&udp(C6, S6, 20).checksum(0));
        run.flows();
    }),
    scenario6("ipv6 to the router itself", TRACKED, |run| {
        run.lan(&udp(C6, "[2001:db8:1::fe]:9", 20));
        run.lan(&tcp(C6, "[2001:db8:1::fe]:9", SYN, 1, 0));
        run.lan(&ping(L6, "2001:db8:1::fe", 5, 1));
        run.lan(&raw(L6, "2001:db8:1::fe", 253, pattern(8)));
    }),
];
