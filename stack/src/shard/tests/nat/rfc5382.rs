//! RFC 5382: how a NAT treats TCP connections that are open or closing, and ports. Opening is in `rfc5382_open.rs`.

use std::collections::HashSet;

use super::*;

pub(super) const X: &str = "192.168.1.5:4000";
pub(super) const Y: &str = "198.51.100.1:80";
const Z: &str = "203.0.113.5:80";

impl Lab {
    /// A SYN from inside; the outside endpoint it shows.
    pub(super) fn syn(&mut self, inside: &str, to: &str) -> String {
        let out = self.cross(Lan, &tcp(inside, to, SYN, 99, 0, b""));
        assert_eq!((destination(&out).as_str(), body(&out)[13]), (to, SYN));
        source(&out)
    }

    /// A segment from inside or outside, which comes out between these.
    pub(super) fn segment(
        &mut self,
        from: Side,
        ends: [&str; 4],
        flags: u8,
        seq: u32,
        ack: u32,
        data: &[u8],
    ) {
        let out = self.cross(from, &tcp(ends[0], ends[1], flags, seq, ack, data));
        assert_eq!((source(&out).as_str(), destination(&out).as_str()), (ends[2], ends[3]));
        let header = body(&out);
        assert_eq!((header[13], payload(&out)), (flags, data));
        assert_eq!((&header[4..8], &header[8..12]), (&seq.to_be_bytes()[..], &ack.to_be_bytes()[..]));
    }

    /// X connects to Y: the outside endpoint. X has sent up to 100, Y up to 500.
    pub(super) fn connect(&mut self) -> String {
        let outside = self.syn(X, Y);
        self.segment(Wan, [Y, &outside, Y, X], SYN | ACK, 499, 100, b"");
        self.segment(Lan, [X, Y, &outside, Y], ACK, 100, 500, b"");
        outside
    }

    /// Whether X and Y can still talk through the connection, in both directions.
    pub(super) fn talks(&mut self, outside: &str) -> bool {
        let out = self.send(Lan, &tcp(X, Y, ACK, 100, 500, b""));
        let there = out.iter().any(|(side, packet)| *side == Wan && source(packet) == outside);
        let back = self.send(Wan, &tcp(Y, outside, ACK, 500, 100, b""));
        there && back.iter().any(|(side, packet)| *side == Lan && destination(packet) == X)
    }
}

#[test]
fn a_tcp_endpoint_has_the_same_mapping_towards_every_destination() {
    // RFC 5382 REQ-1
    for (shards, taken) in [(1, false), (1, true), (4, false), (4, true)] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        if taken {
            lab.syn("192.168.1.200:4000", Z);
        }
        let first = lab.syn(X, Y);
        for to in [Z, "198.51.100.1:81", "192.0.2.77:22", Y] {
            assert_eq!(lab.syn(X, to), first);
        }
        assert!(!taken || port_of(&first) != 4000);
    }
}

#[test]
fn data_and_either_order_of_closing_cross_the_nat() {
    // RFC 5382 REQ-2
    for first in [Lan, Wan] {
        for (shards, at_once) in [(1, false), (3, false), (1, true)] {
            let mut lab = Lab::new(shards, HOME, |_| {});
            lab.syn("192.168.1.200:4000", Y);
            let outside = lab.connect();
            let (out, inwards) = ([X, Y, &outside, Y], [Y, &outside, Y, X]);
            lab.segment(Lan, out, ACK, 100, 500, b"ask");
            lab.segment(Wan, inwards, ACK, 500, 103, b"answer");
            lab.segment(Lan, out, ACK, 103, 506, b"");
            let (a, b, to_b, to_a) = match first {
                Lan => ((103, 506), (506, 103), (Lan, out), (Wan, inwards)),
                Wan => ((506, 103), (103, 506), (Wan, inwards), (Lan, out)),
            };
            lab.segment(to_b.0, to_b.1, FIN | ACK, a.0, a.1, b"");
            if at_once {
                lab.segment(to_a.0, to_a.1, FIN | ACK, b.0, b.1, b"");
                lab.segment(to_b.0, to_b.1, ACK, a.0 + 1, a.1 + 1, b"");
                lab.segment(to_a.0, to_a.1, ACK, b.0 + 1, b.1 + 1, b"");
                continue;
            }
            lab.segment(to_a.0, to_a.1, ACK, b.0, b.1 + 1, b"");
            // Half closed, the other direction goes on.
            lab.segment(to_a.0, to_a.1, ACK, b.0, b.1 + 1, b"more");
            lab.segment(to_b.0, to_b.1, ACK, a.0 + 1, a.1 + 4, b"");
            lab.segment(to_a.0, to_a.1, FIN | ACK, b.0 + 4, b.1 + 1, b"");
            lab.segment(to_b.0, to_b.1, ACK, a.0 + 1, a.1 + 5, b"");
            // The last ACK was lost: the FIN again, and its ACK.
            lab.segment(to_a.0, to_a.1, FIN | ACK, b.0 + 4, b.1 + 1, b"");
            lab.segment(to_b.0, to_b.1, ACK, a.0 + 1, a.1 + 5, b"");
        }
    }
}

#[test]
fn an_open_connection_may_be_idle_for_two_hours_and_four_minutes() {
    // RFC 5382 REQ-5: by default, and with the standards' timeouts.
    for mut lab in [Lab::home(), Lab::patient()] {
        let outside = lab.connect();
        lab.segment(Lan, [X, Y, &outside, Y], ACK, 100, 500, b"keep");
        lab.segment(Wan, [Y, &outside, Y, X], ACK, 500, 104, b"");
        lab.after(2 * 3600 + 4 * 60 - 1);
        lab.segment(Wan, [Y, &outside, Y, X], ACK, 500, 104, b"late");
    }
}

#[test]
fn an_open_connection_may_be_idle_with_data_under_way() {
    // RFC 5382 REQ-5: what was sent is lost, the peer's next keepalive comes hours later.
    let mut lab = Lab::patient();
    let outside = lab.connect();
    for _ in 0..5 {
        lab.segment(Lan, [X, Y, &outside, Y], ACK, 100, 500, b"lost");
    }
    lab.after(2 * 3600 + 4 * 60 - 1);
    lab.segment(Wan, [Y, &outside, Y, X], ACK, 499, 100, b"");
}

#[test]
fn a_connection_that_opens_or_closes_may_be_idle_for_four_minutes() {
    // RFC 5382 REQ-5, RFC 7857 section 2.1
    let open = |lab: &mut Lab| lab.syn(X, Y);
    let half_open = |lab: &mut Lab| {
        let outside = lab.syn(X, Y);
        lab.segment(Wan, [Y, &outside, Y, X], SYN | ACK, 499, 100, b"");
        outside
    };
    let fin = |lab: &mut Lab| {
        let outside = lab.connect();
        lab.segment(Wan, [Y, &outside, Y, X], FIN | ACK, 500, 100, b"");
        outside
    };
    let acked_fin = |lab: &mut Lab| {
        let outside = fin(lab);
        lab.segment(Lan, [X, Y, &outside, Y], ACK, 100, 501, b"");
        outside
    };
    let both = |lab: &mut Lab| {
        let outside = acked_fin(lab);
        lab.segment(Lan, [X, Y, &outside, Y], FIN | ACK, 100, 501, b"");
        outside
    };
    let closed = |lab: &mut Lab| {
        let outside = both(lab);
        lab.segment(Wan, [Y, &outside, Y, X], ACK, 501, 101, b"");
        outside
    };
    type Reach<'a> = &'a dyn Fn(&mut Lab) -> String;
    let states: [(&str, Reach<'_>); 6] = [
        ("SYN", &open),
        ("SYN-ACK", &half_open),
        ("FIN", &fin),
        ("acknowledged FIN", &acked_fin),
        ("both FINs", &both),
        ("closed", &closed),
    ];
    for (name, reach) in states {
        let mut lab = Lab::patient();
        let outside = reach(&mut lab);
        lab.after(239);
        assert_eq!(lab.flows(), 1, "{name}");
        // What comes late in this state is still translated.
        let (flags, seq) = if name == "SYN" { (SYN | ACK, 499) } else { (ACK, 500) };
        let late = lab.send(Wan, &tcp(Y, &outside, flags, seq, 100, b""));
        assert!(late.iter().any(|(side, packet)| *side == Lan && destination(packet) == X), "{name}");
    }
}

#[test]
fn idle_timeouts_of_tcp_are_the_administrators() {
    // RFC 5382 REQ-5a, RFC 7857 section 2.1: opening and closing each have their own.
    let lab = |change: fn(&mut Timeouts)| {
        Lab::new(1, HOME, |config| change(&mut config.filter.as_mut().unwrap().gate.conntrack.timeouts))
    };
    let mut opening = lab(|timeouts| timeouts.tcp_syn_sent = Duration::from_secs(10));
    opening.syn(X, Y);
    opening.after(12);
    assert_eq!(opening.flows(), 0);
    let mut closing = lab(|timeouts| timeouts.tcp_fin_wait = Duration::from_secs(10));
    let outside = closing.connect();
    closing.segment(Lan, [X, Y, &outside, Y], FIN | ACK, 100, 500, b"");
    closing.after(9);
    assert_eq!(closing.flows(), 1);
    closing.after(3);
    assert_eq!(closing.flows(), 0);
    let mut idle = lab(|timeouts| timeouts.tcp_established = Duration::from_secs(10));
    idle.connect();
    idle.after(12);
    assert_eq!(idle.flows(), 0);
}

#[test]
fn two_tcp_endpoints_never_share_an_outside_port_towards_one_destination() {
    // RFC 5382 REQ-7
    let mut lab = Lab::home();
    let seen: HashSet<String> = (1..=50).map(|host| lab.syn(&format!("192.168.1.{host}:4000"), Y)).collect();
    assert_eq!(seen.len(), 50);
}

#[test]
fn hosts_inside_connect_through_their_outside_endpoints() {
    // RFC 5382 REQ-8, REQ-8a
    let [a, b] = ["192.168.1.5:4000", "192.168.1.6:5000"];
    for shards in [1, 3] {
        let mut lab = Lab::filtering(shards, Filtering::EndpointIndependent);
        lab.syn("192.168.1.200:4000", Y);
        let [a_out, b_out] = [a, b].map(|inside| lab.syn(inside, Y));
        for (from, to, ends, flags, seq, ack, data) in [
            (a, &b_out, (&a_out, b), SYN, 99, 0, &b""[..]),
            (b, &a_out, (&b_out, a), SYN | ACK, 499, 100, b""),
            (a, &b_out, (&a_out, b), ACK, 100, 500, b"hello"),
            (b, &a_out, (&b_out, a), ACK, 500, 105, b"hello, too"),
            (a, &b_out, (&a_out, b), FIN | ACK, 105, 510, b""),
            (b, &a_out, (&b_out, a), FIN | ACK, 510, 106, b""),
            (a, &b_out, (&a_out, b), ACK, 106, 511, b""),
        ] {
            let out = lab.one(Lan, Lan, &tcp(from, to, flags, seq, ack, data));
            assert_eq!((&source(&out), destination(&out).as_str()), ends, "{flags}");
            assert_eq!(payload(&out), data);
        }
    }
}

#[test]
fn unreachables_about_a_connection_reach_its_host_and_end_nothing() {
    // RFC 5382 REQ-9, REQ-10
    let mut lab = Lab::home();
    lab.syn("192.168.1.200:4000", Y);
    let outside = lab.connect();
    let sent = tcp(X, Y, ACK, 100, 500, b"sent");
    let out = lab.cross(Lan, &sent);
    for (number, code) in (0..=15).map(|code| (3, code)).chain([(11, 0), (11, 1), (12, 0), (4, 0), (5, 1)]) {
        let seen = lab.send(Wan, &error("192.0.2.1", number, code, &out));
        if number == 3 {
            let [(Lan, told)] = &seen[..] else { panic!("{code}: {seen:x?}") };
            assert_eq!((kind(told), dst(told)), ((3, code), "192.168.1.5".to_owned()));
            assert_eq!((source(quote(told)), body(quote(told))), (X.to_owned(), body(&sent)));
        }
        lab.segment(Wan, [Y, &outside, Y, X], ACK, 500, 104, b"");
    }
    lab.after(3600);
    assert!(lab.talks(&outside), "and their timers are as they were");
}
