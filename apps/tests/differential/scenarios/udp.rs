//! UDP and protocols without ports: streams, fragments, checksums.

use super::super::link::Side;
use super::super::packets::{raw, udp};
use super::super::router::Setup;
use super::super::script::Scenario;
use super::{FIREWALL, L1, MASQUERADE, NONE, R_WAN, TRACKED, W2, scenario, with};

const C: &str = "192.168.1.1:4000";
const S: &str = "192.0.2.2:53";
const OUTSIDE: &str = "192.0.2.254:4000";

pub const SCENARIOS: &[Scenario] = &[
    scenario("udp question and answer", FIREWALL, |run| {
        run.wan(&udp(S, C, 10));
        run.lan(&udp(C, S, 20).tos(0xb9).id(0x7777).df());
        run.flows();
        run.wan(&udp(S, C, 30).tos(1));
        run.flows();
        run.wan(&udp("192.0.2.2:54", C, 30));
        run.wan(&udp("192.0.2.3:53", C, 30));
        run.flows();
    }),
    scenario("udp stream", FIREWALL, |run| {
        run.lan(&udp(C, S, 20));
        run.wan(&udp(S, C, 30));
        run.lan(&udp(C, S, 20));
        run.flows();
        run.wait(3);
        run.lan(&udp(C, S, 20));
        run.flows();
        run.wan(&udp(S, C, 20));
        run.flows();
    }),
    with(
        scenario("udp times out", FIREWALL, |run| {
            run.lan(&udp(C, S, 20));
            run.wait(2);
            run.flows();
            run.wan(&udp(S, C, 30));
        }),
        Setup { timeouts: &[("udp", 1)], ..Setup::new("") },
    ),
    scenario("udp without a checksum", MASQUERADE, |run| {
        run.lan(&udp(C, S, 21).checksum(0));
        run.wan(&udp(S, OUTSIDE, 22).checksum(0));
    }),
    scenario("udp checksum that becomes zero", MASQUERADE, |run| {
        // Translation shifts the sum; whatever it becomes, zero is never sent.
        for len in [0, 1, 2, 3] {
            run.lan(&udp(C, S, len));
        }
    }),
    scenario("udp bad checksum", FIREWALL, |run| {
        run.lan(&udp(C, S, 20).checksum(0x1111));
        run.flows();
    }),
    scenario("udp bad checksum without rules", NONE, |run| {
        run.lan(&udp(C, S, 20).checksum(0x1111));
    }),
    scenario("udp bad checksum masqueraded", MASQUERADE, |run| {
        run.lan(&udp(C, S, 20));
        run.lan(&udp(C, S, 20).checksum(0x1111));
        run.wan(&udp(S, OUTSIDE, 20).checksum(0x1111));
    }),
    scenario("udp port 0", TRACKED, |run| {
        run.lan(&udp("192.168.1.1:0", S, 5));
        run.lan(&udp(C, "192.0.2.2:0", 5));
        run.flows();
    }),
    scenario("udp length too long", TRACKED, |run| {
        let mut bytes = udp(C, S, 5).checksum(0).bytes();
        bytes[25] = 40;
        run.send(Side::Lan, &bytes);
        bytes[25] = 7;
        run.send(Side::Lan, &bytes);
        run.flows();
    }),
    scenario("udp length shorter than the packet", TRACKED, |run| {
        let mut bytes = udp(C, S, 25).checksum(0).bytes();
        bytes[25] = 20;
        run.send(Side::Lan, &bytes);
        run.flows();
    }),
    scenario("udp cut off", TRACKED, |run| {
        run.lan(&raw(L1, W2, 17, vec![0x0f, 0xa0, 0, 53]));
        run.flows();
    }),
    scenario("another protocol", FIREWALL, |run| {
        run.wan(&raw(W2, L1, 253, vec![1; 20]));
        run.lan(&raw(L1, W2, 253, vec![1; 20]));
        run.flows();
        run.wan(&raw(W2, L1, 253, vec![2; 20]));
        run.flows();
    }),
    scenario("another protocol masqueraded", MASQUERADE, |run| {
        run.lan(&raw(L1, W2, 253, vec![1; 20]));
        run.flows();
        run.wan(&raw(W2, R_WAN, 253, vec![2; 20]));
        run.lan(&raw("192.168.1.2", W2, 253, vec![3; 20]));
        run.flows();
    }),
    scenario("fragments without rules", NONE, |run| {
        let pieces = udp(C, S, 2000).id(0x4242).fragments(&[800, 1600]);
        for at in [0, 2, 1] {
            run.send(Side::Lan, &pieces[at]);
        }
        run.send(Side::Lan, &pieces[1]);
    }),
    scenario("fragments in order", TRACKED, |run| {
        for piece in udp(C, S, 2000).id(0x4242).fragments(&[800, 1600]) {
            run.send(Side::Lan, &piece);
        }
        run.flows();
    }),
    scenario("fragments out of order", MASQUERADE, |run| {
        let pieces = udp(C, S, 2500).id(0x4243).fragments(&[1000, 2000]);
        for at in [2, 0, 1] {
            run.send(Side::Lan, &pieces[at]);
        }
        run.flows();
        let pieces = udp(S, OUTSIDE, 2500).id(0x4244).fragments(&[1000, 2000]);
        for at in [1, 2, 0] {
            run.send(Side::Wan, &pieces[at]);
        }
    }),
    scenario("fragments that overlap", TRACKED, |run| {
        let packet = udp(C, S, 2000).id(0x4245);
        for (start, end) in [(0, 800), (792, 1600), (1600, 2008), (800, 1600)] {
            run.send(Side::Lan, &packet.piece(start, end));
        }
        run.flows();
    }),
    scenario("fragments doubled", TRACKED, |run| {
        let packet = udp(C, S, 2000).id(0x4246);
        for (start, end) in [(0, 800), (0, 800), (800, 1600), (800, 1600), (1600, 2008)] {
            run.send(Side::Lan, &packet.piece(start, end));
        }
        run.flows();
    }),
    scenario("fragments without the first", TRACKED, |run| {
        let packet = udp(C, S, 2000).id(0x4247);
        run.send(Side::Lan, &packet.piece(800, 1600));
        run.send(Side::Lan, &packet.piece(1600, 2008));
        run.flows();
    }),
    scenario("fragments of odd length", TRACKED, |run| {
        let packet = udp(C, S, 2000).id(0x4248);
        run.send(Side::Lan, &packet.piece(0, 801));
        run.send(Side::Lan, &packet.piece(800, 2008));
        run.flows();
    }),
    scenario("fragments with small pieces", TRACKED, |run| {
        for piece in udp(C, S, 60).id(0x4249).fragments(&[8, 16, 24]) {
            run.send(Side::Lan, &piece);
        }
        run.flows();
    }),
    scenario("fragments with ttl 1", TRACKED, |run| {
        for piece in udp(C, S, 2000).id(0x424a).ttl(1).fragments(&[800, 1600]) {
            run.send(Side::Lan, &piece);
        }
    }),
    scenario("a fragment that says do not fragment", TRACKED, |run| {
        let pieces = udp(C, S, 1000).id(0x424b).fragments(&[480]);
        for mut piece in pieces {
            piece[6] |= 0x40;
            piece[10..12].fill(0);
            let sum = super::super::packets::checksum(&piece[..20]);
            piece[10..12].copy_from_slice(&sum.to_be_bytes());
            run.send(Side::Lan, &piece);
        }
    }),
    with(
        scenario("cut for a smaller link", TRACKED, |run| {
            run.lan(&udp(C, S, 1400).id(0x424c));
            run.lan(&udp(C, S, 1400).id(0x424d).df());
            for piece in udp(C, S, 2600).id(0x424e).fragments(&[1400]) {
                run.send(Side::Lan, &piece);
            }
        }),
        Setup { mtus: [1500, 1280], ..Setup::new("") },
    ),
    with(
        scenario("cut for a smaller link without rules", NONE, |run| {
            run.lan(&udp(C, S, 1400).id(0x424c));
            run.lan(&udp(C, S, 1400).id(0x424d).df());
            for piece in udp(C, S, 2600).id(0x424e).fragments(&[1400]) {
                run.send(Side::Lan, &piece);
            }
            run.lan(&udp(C, S, 1400).id(0x424f).options(&[7, 7, 4, 0, 0, 0, 0, 0x88, 4, 1, 2, 0]));
        }),
        Setup { mtus: [1500, 1280], ..Setup::new("") },
    ),
];
