//! ICMP: queries, and errors about flows and about none.

use super::super::link::Side;
use super::super::packets::{ACK, SYN, icmp, ping, pong, tcp, udp};
use super::super::script::Scenario;
use super::{FIREWALL, L1, L6, MASQUERADE, R_WAN, TRACKED, W2, W6, scenario, scenario6};

const C: &str = "192.168.1.1:4000";
const S: &str = "192.0.2.2:53";
const OUTSIDE: &str = "192.0.2.254:4000";
const BEYOND: &str = "192.0.2.3";

pub const SCENARIOS: &[Scenario] = &[
    scenario("ping", FIREWALL, |run| {
        run.wan(&ping(W2, L1, 7, 1));
        run.lan(&ping(L1, W2, 7, 1).tos(0x48));
        run.flows();
        run.wan(&pong(W2, L1, 7, 1));
        run.flows();
        run.wan(&pong(W2, L1, 8, 1));
        run.lan(&ping(L1, W2, 7, 2));
        run.flows();
    }),
    scenario("ping masqueraded", MASQUERADE, |run| {
        run.lan(&ping(L1, W2, 700, 1));
        run.wan(&pong(W2, R_WAN, 700, 1));
        run.wan(&pong(W2, R_WAN, 701, 1));
        run.flows();
    }),
    scenario("ping of the router", MASQUERADE, |run| {
        run.lan(&ping(L1, "192.168.1.254", 5, 1).tos(0x48));
        run.lan(&ping(L1, R_WAN, 5, 2));
        run.wan(&ping(W2, R_WAN, 6, 1));
        run.flows();
    }),
    scenario("echo reply from nowhere", TRACKED, |run| {
        run.lan(&pong(L1, W2, 7, 1));
        run.flows();
    }),
    scenario("timestamp and information queries", TRACKED, |run| {
        for kind in [13, 15, 17, 10, 9, 30] {
            run.lan(&icmp(L1, W2, kind, 0, 0x0007_0001, &[0; 12]));
        }
        run.wan(&icmp(W2, L1, 14, 0, 0x0007_0001, &[0; 12]));
        run.flows();
    }),
    scenario("icmp with a code that it has not", TRACKED, |run| {
        run.lan(&icmp(L1, W2, 8, 3, 0x0007_0001, &[0; 12]));
        run.lan(&icmp(L1, W2, 19, 0, 0x0007_0001, &[0; 12]));
        run.flows();
    }),
    scenario("icmp bad checksum", TRACKED, |run| {
        run.lan(&ping(L1, W2, 7, 1).checksum(0x1111));
        run.flows();
    }),
    scenario("icmp cut off", TRACKED, |run| {
        run.lan(&super::super::packets::raw(L1, W2, 1, vec![8, 0, 0xf7, 0xff]));
        run.flows();
    }),
    scenario("icmp errors about a flow", FIREWALL, |run| {
        let asked = udp(C, S, 40);
        run.lan(&asked);
        for (kind, code) in [
            (3, 0),
            (3, 1),
            (3, 2),
            (3, 3),
            (3, 4),
            (3, 5),
            (3, 9),
            (3, 10),
            (3, 13),
            (4, 0),
            (11, 0),
            (11, 1),
            (12, 0),
            (5, 1),
        ] {
            run.wan(&icmp(
                BEYOND,
                L1,
                kind,
                code,
                if (kind, code) == (3, 4) { 1400 } else { 0 },
                &asked.bytes(),
            ));
        }
        run.flows();
    }),
    scenario("icmp errors about no flow", TRACKED, |run| {
        let never = udp(C, "192.0.2.2:99", 40);
        for (kind, code) in [(3, 3), (3, 4), (11, 0), (12, 0)] {
            run.wan(&icmp(BEYOND, L1, kind, code, 0, &never.bytes()));
        }
        run.flows();
    }),
    scenario("icmp error to another than the sender", TRACKED, |run| {
        let asked = udp(C, S, 40);
        run.lan(&asked);
        run.wan(&icmp(BEYOND, "192.168.1.2", 3, 3, 0, &asked.bytes()));
    }),
    scenario("icmp error with too short a quote", TRACKED, |run| {
        let asked = udp(C, S, 40);
        run.lan(&asked);
        for len in [0, 8, 19, 20, 23, 24, 27, 28] {
            run.wan(&icmp(BEYOND, L1, 3, 3, 0, &asked.bytes()[..len]));
        }
    }),
    scenario("icmp error with too short a quote masqueraded", MASQUERADE, |run| {
        run.lan(&udp(C, S, 40));
        let asked = udp(OUTSIDE, S, 40);
        for len in [20, 24, 27, 28, 29, 68] {
            run.wan(&icmp(BEYOND, R_WAN, 3, 3, 0, &asked.bytes()[..len]));
        }
    }),
    scenario("icmp error with a bad checksum", TRACKED, |run| {
        let asked = udp(C, S, 40);
        run.lan(&asked);
        run.wan(&icmp(BEYOND, L1, 3, 3, 0, &asked.bytes()).checksum(0x1111));
    }),
    scenario("icmp errors masqueraded", MASQUERADE, |run| {
        run.lan(&udp(C, S, 40).ttl(20).tos(0x10).id(0x5151));
        let asked = udp(OUTSIDE, S, 40).ttl(12).tos(0x10).id(0x5151);
        for (kind, code, word) in
            [(3, 3, 0), (3, 1, 0), (3, 4, 1300), (11, 0, 0), (12, 0, 0x0500_0000), (3, 13, 0)]
        {
            run.wan(&icmp(BEYOND, R_WAN, kind, code, word, &asked.bytes()));
            run.wan(&icmp(W2, R_WAN, kind, code, word, &asked.bytes()[..28]));
        }
    }),
    scenario("icmp error about tcp masqueraded", MASQUERADE, |run| {
        run.lan(&tcp(C, "192.0.2.2:80", SYN, 1, 0));
        let asked = tcp(OUTSIDE, "192.0.2.2:80", SYN, 1, 0);
        run.wan(&icmp(BEYOND, R_WAN, 11, 0, 0, &asked.bytes()[..28]));
        run.wan(&icmp(BEYOND, R_WAN, 3, 4, 1000, &asked.bytes()));
        run.flows();
        run.wan(&tcp("192.0.2.2:80", OUTSIDE, SYN | ACK, 1, 2));
    }),
    scenario("icmp error about ping masqueraded", MASQUERADE, |run| {
        run.lan(&ping(L1, W2, 700, 1));
        run.wan(&icmp(BEYOND, R_WAN, 11, 0, 0, &ping(R_WAN, W2, 700, 1).bytes()));
        run.wan(&icmp(BEYOND, R_WAN, 3, 1, 0, &ping(R_WAN, W2, 701, 1).bytes()));
    }),
    scenario("icmp error from inside about an answer", MASQUERADE, |run| {
        run.lan(&udp(C, S, 40));
        let answer = udp(S, C, 30);
        run.wan(&udp(S, OUTSIDE, 30));
        // The host itself, and a router on the way to it.
        run.lan(&icmp(L1, W2, 3, 3, 0, &answer.bytes()));
        run.lan(&icmp("192.168.1.77", W2, 11, 0, 0, &answer.bytes()));
    }),
    scenario("icmp error about an error", TRACKED, |run| {
        let asked = udp(C, S, 40);
        run.lan(&asked);
        let error = icmp(L1, W2, 3, 3, 0, &asked.bytes());
        run.wan(&icmp(BEYOND, L1, 3, 3, 0, &error.bytes()));
    }),
    scenario("icmp error about a fragment", MASQUERADE, |run| {
        run.lan(&udp(C, S, 40));
        let pieces = udp(OUTSIDE, S, 800).fragments(&[400]);
        run.wan(&icmp(BEYOND, R_WAN, 11, 1, 0, &pieces[0]));
        run.wan(&icmp(BEYOND, R_WAN, 11, 1, 0, &pieces[1]));
    }),
    scenario("icmp error that quotes options", MASQUERADE, |run| {
        run.lan(&udp(C, S, 40));
        let asked = udp(OUTSIDE, S, 40).options(&[1, 1, 1, 1]);
        run.wan(&icmp(BEYOND, R_WAN, 3, 3, 0, &asked.bytes()));
    }),
    scenario6("ipv6 ping", FIREWALL, |run| {
        run.wan(&ping(W6, L6, 7, 1));
        run.lan(&ping(L6, W6, 7, 1).tos(0x48));
        run.wan(&pong(W6, L6, 7, 1));
        run.wan(&pong(W6, L6, 8, 1));
        run.flows();
    }),
    scenario6("ipv6 errors about a flow", FIREWALL, |run| {
        let asked = udp("[2001:db8:1::1]:4000", "[2001:db8:2::2]:53", 40);
        run.lan(&asked);
        for (kind, code, word) in [
            (1, 0, 0),
            (1, 1, 0),
            (1, 3, 0),
            (1, 4, 0),
            (2, 0, 1280),
            (3, 0, 0),
            (3, 1, 0),
            (4, 0, 6),
            (4, 1, 40),
            (100, 0, 0),
        ] {
            run.wan(&icmp("2001:db8:2::3", L6, kind, code, word, &asked.bytes()));
        }
        run.wan(&icmp("2001:db8:2::3", L6, 1, 4, 0, &asked.bytes()[..47]));
        run.flows();
    }),
    scenario6("ipv6 errors about no flow", TRACKED, |run| {
        let never = udp("[2001:db8:1::1]:4000", "[2001:db8:2::2]:99", 40);
        for (kind, code, word) in [(1, 4, 0), (2, 0, 1280), (3, 0, 0), (4, 0, 6)] {
            run.wan(&icmp("2001:db8:2::3", L6, kind, code, word, &never.bytes()));
        }
        run.send(Side::Lan, &icmp(L6, W6, 1, 4, 0, &never.bytes()).bytes());
    }),
];
