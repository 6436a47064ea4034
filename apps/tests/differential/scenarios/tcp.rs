//! TCP as conntrack follows it: states, windows, RSTs, what is taken up in its midst.

use super::super::packets::{ACK, FIN, PSH, Packet, RST, SYN, tcp};
use super::super::router::Setup;
use super::super::script::{Run, Scenario};
use super::{FIREWALL, TRACKED, scenario, with};

const C: &str = "192.168.1.1:4000";
const S: &str = "192.0.2.2:80";
/// Sequence numbers of client and server.
const ISN: u32 = 1000;
const PEER: u32 = 0xffff_fff0;

fn c(flags: u8, seq: u32, ack: u32) -> Packet {
    tcp(C, S, flags, ISN.wrapping_add(seq), if flags & ACK == 0 { 0 } else { PEER.wrapping_add(ack) })
}

fn s(flags: u8, seq: u32, ack: u32) -> Packet {
    tcp(S, C, flags, PEER.wrapping_add(seq), if flags & ACK == 0 { 0 } else { ISN.wrapping_add(ack) })
}

fn open(run: &mut Run<'_>) {
    run.lan(&c(SYN, 0, 0).tcp_options(&[2, 4, 5, 0xb4, 4, 2, 1, 1]));
    run.wan(&s(SYN | ACK, 0, 1).tcp_options(&[2, 4, 5, 0xb4, 4, 2, 1, 1]));
    run.lan(&c(ACK, 1, 1));
}

/// Both FINs, the client's first.
fn close(run: &mut Run<'_>) {
    run.lan(&c(FIN | ACK, 1, 1));
    run.flows();
    run.wan(&s(ACK, 1, 2));
    run.flows();
    run.wan(&s(FIN | ACK, 1, 2));
    run.flows();
    run.lan(&c(ACK, 2, 2));
    run.flows();
}

const TIGHT: Setup = Setup { loose: false, ..Setup::new("") };

pub const SCENARIOS: &[Scenario] = &[
    scenario("tcp open", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0));
        run.flows();
        run.wan(&s(SYN | ACK, 0, 1));
        run.flows();
        run.lan(&c(ACK, 1, 1));
        run.flows();
    }),
    scenario("tcp data both ways", TRACKED, |run| {
        open(run);
        run.lan(&c(ACK | PSH, 1, 1).data(100).tos(0x2e));
        run.flows();
        run.wan(&s(ACK, 1, 101));
        run.wan(&s(ACK | PSH, 1, 101).data(1000).tos(0x03));
        run.lan(&c(ACK, 101, 1001));
        run.flows();
    }),
    scenario("tcp close by the client", TRACKED, |run| {
        open(run);
        close(run);
    }),
    scenario("tcp close by the server", TRACKED, |run| {
        open(run);
        run.wan(&s(FIN | ACK, 1, 1));
        run.flows();
        run.lan(&c(FIN | ACK, 1, 2));
        run.flows();
        run.wan(&s(ACK, 2, 2));
        run.flows();
    }),
    scenario("tcp simultaneous close", TRACKED, |run| {
        open(run);
        run.lan(&c(FIN | ACK, 1, 1));
        run.wan(&s(FIN | ACK, 1, 1));
        run.flows();
        run.lan(&c(ACK, 2, 2));
        run.wan(&s(ACK, 2, 2));
        run.flows();
    }),
    scenario("tcp simultaneous open", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0));
        run.wan(&s(SYN, 0, 0));
        run.flows();
        run.lan(&c(SYN | ACK, 0, 1));
        run.flows();
        run.wan(&s(SYN | ACK, 0, 1));
        run.flows();
        run.lan(&c(ACK, 1, 1));
        run.flows();
    }),
    scenario("tcp syn repeated", TRACKED, |run| {
        for _ in 0..3 {
            run.lan(&c(SYN, 0, 0));
        }
        run.wan(&s(SYN | ACK, 0, 1));
        run.wan(&s(SYN | ACK, 0, 1));
        run.lan(&c(SYN, 0, 0));
        run.flows();
        run.lan(&c(ACK, 1, 1));
        run.flows();
    }),
    scenario("tcp refused", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0));
        run.wan(&s(RST | ACK, 0, 1));
        run.flows();
        run.lan(&c(SYN, 100, 0));
        run.flows();
    }),
    scenario("tcp rst in the window", TRACKED, |run| {
        open(run);
        run.lan(&c(ACK, 1, 1).data(10));
        run.wan(&s(ACK, 1, 11));
        run.wan(&s(RST, 1, 0));
        run.flows();
        run.lan(&c(ACK, 11, 1).data(10));
    }),
    scenario("tcp rst out of the window", TRACKED, |run| {
        open(run);
        run.wan(&s(RST, 50_000, 0));
        run.wan(&s(RST | ACK, 100_000, 1));
        run.lan(&c(RST, 0u32.wrapping_sub(70_000), 0));
        run.flows();
        run.lan(&c(ACK, 1, 1).data(10));
    }),
    scenario("tcp rst of the client before it is acknowledged", TRACKED, |run| {
        open(run);
        run.lan(&c(ACK, 1, 1).data(10));
        run.wan(&s(ACK, 1, 11));
        run.lan(&c(RST, 5, 0));
        run.flows();
        run.lan(&c(RST, 11, 0));
        run.flows();
    }),
    scenario("tcp syn-ack from nowhere", TRACKED, |run| {
        run.wan(&s(SYN | ACK, 0, 1));
        run.lan(&c(SYN | ACK, 0, 1));
        run.flows();
    }),
    scenario("tcp rst from nowhere", TRACKED, |run| {
        run.wan(&s(RST, 0, 0));
        run.lan(&c(RST | ACK, 0, 1));
        run.flows();
    }),
    scenario("tcp senseless flags", TRACKED, |run| {
        for flags in [
            0,
            SYN | FIN,
            SYN | RST,
            FIN,
            FIN | PSH | 0x20,
            SYN | FIN | RST | ACK | PSH | 0x20,
            RST | FIN,
            PSH,
        ] {
            run.lan(&c(flags, 0, 0));
        }
        run.flows();
    }),
    scenario("tcp senseless flags in a connection", TRACKED, |run| {
        open(run);
        for flags in [0, SYN | FIN, SYN | RST, FIN, PSH, FIN | RST, SYN | ACK] {
            run.lan(&c(flags, 1, 1));
        }
        run.flows();
    }),
    scenario("tcp syn with ecn and urgent", TRACKED, |run| {
        run.lan(&c(SYN | 0xc0, 0, 0));
        run.wan(&s(SYN | ACK | 0x40, 0, 1));
        run.lan(&c(ACK | 0x20, 1, 1).data(4));
        run.flows();
    }),
    scenario("tcp data ahead of the window", TRACKED, |run| {
        open(run);
        run.lan(&c(ACK, 1 + 1000, 1).data(1));
        run.lan(&c(ACK, 1 + 5000, 1).data(1));
        run.wan(&s(ACK, 1 + 9000, 1).data(100));
        run.flows();
        run.lan(&c(ACK, 1, 1).data(10));
    }),
    scenario("tcp data behind the window", TRACKED, |run| {
        open(run);
        for i in 0..4 {
            run.lan(&c(ACK, 1 + i * 1000, 1).data(1000));
            run.wan(&s(ACK, 1, 1 + (i + 1) * 1000));
        }
        run.lan(&c(ACK, 3001, 1).data(1000));
        run.lan(&c(ACK, 1, 1).data(500));
        run.flows();
    }),
    scenario("tcp acknowledgment of what was not sent", TRACKED, |run| {
        open(run);
        run.wan(&s(ACK, 1, 5000));
        run.lan(&c(ACK, 1, 100_000));
        run.wan(&s(ACK, 1, 0u32.wrapping_sub(80_000)));
        run.flows();
    }),
    scenario("tcp data beyond the offered window with scaling", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0).tcp_options(&[2, 4, 5, 0xb4, 1, 3, 3, 7]));
        run.wan(&s(SYN | ACK, 0, 1).tcp_options(&[2, 4, 5, 0xb4, 1, 3, 3, 2]));
        run.lan(&c(ACK, 1, 1));
        run.wan(&s(ACK, 1, 1));
        run.wan(&s(ACK, 1 + 100_000, 1).data(1000));
        run.wan(&s(ACK, 1 + 200_000, 1).data(1000));
        run.lan(&c(ACK, 1 + 3900, 1).data(10));
        run.lan(&c(ACK, 1 + 6000, 1).data(10));
        run.flows();
    }),
    scenario("tcp sack beyond what was sent", TRACKED, |run| {
        open(run);
        run.lan(&c(ACK, 1, 1).data(500));
        let sack = |left: u32, right: u32| {
            let mut options = vec![1, 1, 5, 10];
            options.extend_from_slice(&(ISN + left).to_be_bytes());
            options.extend_from_slice(&(ISN + right).to_be_bytes());
            options
        };
        run.wan(&s(ACK, 1, 1).tcp_options(&sack(201, 501)));
        run.wan(&s(ACK, 1, 1).tcp_options(&sack(201, 5001)));
    }),
    scenario("tcp keepalive", TRACKED, |run| {
        open(run);
        run.lan(&c(ACK, 0, 1));
        run.wan(&s(ACK, 1, 1));
        run.wan(&s(ACK, 0, 1).data(1));
        run.lan(&c(ACK, 1, 1));
        run.flows();
    }),
    scenario("tcp zero window and its probe", TRACKED, |run| {
        open(run);
        run.wan(&s(ACK, 1, 1).window(0));
        run.lan(&c(ACK, 1, 1).data(1));
        run.wan(&s(ACK, 1, 1).window(0));
        run.lan(&c(ACK, 1001, 1).data(1));
        run.flows();
    }),
    scenario("tcp retransmissions shorten the timeout", TRACKED, |run| {
        open(run);
        for _ in 0..5 {
            run.lan(&c(ACK, 1, 1).data(10));
        }
        run.flows();
        run.wan(&s(ACK, 1, 11));
        run.flows();
        run.lan(&c(ACK, 11, 1).data(10));
        run.flows();
    }),
    scenario("tcp taken up in its midst", TRACKED, |run| {
        run.lan(&c(ACK, 500, 700).data(100));
        run.flows();
        run.wan(&s(ACK, 700, 600).data(50));
        run.flows();
        run.lan(&c(ACK, 600, 750));
        run.flows();
    }),
    scenario("tcp taken up at its end", TRACKED, |run| {
        run.lan(&c(FIN | ACK, 500, 700));
        run.flows();
        run.wan(&s(FIN | ACK, 700, 501));
        run.flows();
        run.lan(&c(ACK, 501, 701));
        run.flows();
    }),
    with(
        scenario("tcp not taken up in its midst", TRACKED, |run| {
            run.lan(&c(ACK, 500, 700).data(100));
            run.lan(&c(FIN | ACK, 500, 700));
            run.flows();
            open(run);
            run.flows();
        }),
        TIGHT,
    ),
    with(
        scenario("tcp out of the window when liberal", TRACKED, |run| {
            open(run);
            run.lan(&c(ACK, 1 + 9000, 1).data(1));
            run.wan(&s(ACK, 1, 50_000));
            run.flows();
        }),
        Setup { liberal: true, ..Setup::new("") },
    ),
    scenario("tcp data behind a fin", TRACKED, |run| {
        open(run);
        run.lan(&c(FIN | ACK, 1, 1));
        run.lan(&c(ACK, 2, 1).data(10));
        run.wan(&s(ACK, 1, 2).data(100));
        run.flows();
        run.lan(&c(ACK, 2, 101));
        run.flows();
    }),
    scenario("tcp data after both fins", TRACKED, |run| {
        open(run);
        close(run);
        run.wan(&s(ACK, 2, 2).data(10));
        run.lan(&c(ACK, 2, 2));
        run.flows();
    }),
    scenario("tcp fin repeated", TRACKED, |run| {
        open(run);
        run.lan(&c(FIN | ACK, 1, 1));
        run.lan(&c(FIN | ACK, 1, 1));
        run.flows();
        run.wan(&s(ACK, 1, 2));
        run.lan(&c(FIN | ACK, 1, 1));
        run.flows();
        run.wan(&s(FIN | ACK, 1, 2));
        run.wan(&s(FIN | ACK, 1, 2));
        run.flows();
        run.lan(&c(ACK, 2, 2));
        run.flows();
    }),
    scenario("tcp reopened after close", TRACKED, |run| {
        open(run);
        close(run);
        run.lan(&c(SYN, 50_000, 0));
        run.flows();
        run.wan(&s(SYN | ACK, 9000, 50_001));
        run.flows();
    }),
    scenario("tcp reopened from the other side", TRACKED, |run| {
        open(run);
        close(run);
        run.wan(&s(SYN, 50_000, 0));
        run.flows();
    }),
    scenario("tcp reopened after a rst", TRACKED, |run| {
        open(run);
        run.lan(&c(RST | ACK, 1, 1));
        run.flows();
        run.lan(&c(SYN, 5000, 0));
        run.flows();
    }),
    scenario("tcp syn in an open connection", TRACKED, |run| {
        open(run);
        run.lan(&c(SYN, 70_000, 0));
        run.flows();
        run.wan(&s(ACK, 1, 1));
        run.lan(&c(RST, 1, 0));
        run.flows();
        run.lan(&c(SYN, 70_000, 0));
        run.flows();
    }),
    scenario("tcp syn against an open connection", TRACKED, |run| {
        open(run);
        run.wan(&s(SYN, 70_000, 0));
        run.lan(&c(ACK, 1, 1));
        run.flows();
    }),
    scenario("tcp ack to a syn", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0));
        run.wan(&s(ACK, 500, 700));
        run.flows();
        run.lan(&c(RST, 700, 0));
        run.flows();
        run.lan(&c(SYN, 0, 0));
        run.flows();
    }),
    scenario("tcp data in the syn", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0).tcp_options(&[34, 4, 1, 2]).data(100));
        run.wan(&s(SYN | ACK, 0, 101));
        run.lan(&c(ACK, 101, 1));
        run.flows();
    }),
    scenario("tcp ack before the syn-ack", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0));
        run.lan(&c(ACK, 1, 1));
        run.flows();
    }),
    scenario("tcp fin before the syn-ack", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0));
        run.lan(&c(FIN | ACK, 1, 1));
        run.wan(&s(FIN | ACK, 0, 1));
        run.flows();
    }),
    scenario("tcp fin in syn-received", TRACKED, |run| {
        run.lan(&c(SYN, 0, 0));
        run.wan(&s(SYN | ACK, 0, 1));
        run.lan(&c(FIN | ACK, 1, 1));
        run.flows();
        run.wan(&s(ACK, 1, 2));
        run.flows();
    }),
    scenario("tcp header too short", TRACKED, |run| {
        let mut bytes = c(ACK, 1, 1).bytes();
        bytes[32] = 0x40;
        run.send(super::super::link::Side::Lan, &bytes);
        bytes[32] = 0xf0;
        run.send(super::super::link::Side::Lan, &bytes);
        run.flows();
    }),
    scenario("tcp bad checksum", FIREWALL, |run| {
        run.lan(&c(SYN, 0, 0).checksum(0x1234));
        run.flows();
    }),
    scenario("tcp bad checksum without rules", super::NONE, |run| {
        run.lan(&c(SYN, 0, 0).checksum(0x1234));
        run.wan(&s(ACK, 0, 0).checksum(0x4321));
    }),
    scenario(
        "tcp bad checksum tracked",
        "*filter\n-A FORWARD -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n",
        |run| {
            run.lan(&c(SYN, 0, 0).checksum(0x1234));
            run.flows();
        },
    ),
    scenario("tcp port 0", TRACKED, |run| {
        run.lan(&tcp("192.168.1.1:0", S, SYN, 1, 0));
        run.lan(&tcp(C, "192.0.2.2:0", SYN, 1, 0));
        run.flows();
    }),
    scenario("firewall", FIREWALL, |run| {
        run.wan(&s(SYN, 0, 0));
        run.wan(&s(ACK, 0, 0));
        open(run);
        run.wan(&s(ACK, 1, 1).data(10));
        run.wan(&tcp("192.0.2.3:80", C, ACK, 1, 1));
        run.flows();
    }),
    with(
        scenario("tcp half open times out", FIREWALL, |run| {
            run.lan(&c(SYN, 0, 0));
            run.wait(2);
            run.flows();
            run.wan(&s(SYN | ACK, 0, 1));
        }),
        Setup { timeouts: &[("tcp_syn_sent", 1)], ..Setup::new("") },
    ),
];
