//! RFC 5382: who may open a connection through a NAT, and how, and what becomes of a SYN that nobody expects.

use super::rfc5382::{X, Y};
use super::*;
use crate::tcp::SocketOptions;

#[test]
fn both_ends_may_open_a_connection_at_once() {
    // RFC 5382 REQ-2a: the SYNs cross.
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        lab.syn("192.168.1.200:4000", Y);
        let outside = lab.syn(X, Y);
        let (out, inwards) = ([X, Y, &outside, Y], [Y, &outside, Y, X]);
        lab.segment(Wan, inwards, SYN, 499, 0, b"");
        lab.segment(Lan, out, SYN | ACK, 99, 500, b"");
        lab.segment(Wan, inwards, SYN | ACK, 499, 100, b"");
        lab.segment(Lan, out, ACK, 100, 500, b"hello");
        lab.segment(Wan, inwards, ACK, 500, 105, b"hello, too");
        lab.segment(Lan, out, ACK, 105, 510, b"");
        lab.after(3600);
        lab.segment(Wan, inwards, ACK, 510, 105, b"after an hour");
    }
}

#[test]
fn connections_begin_outside_where_they_are_let_in() {
    // RFC 5382 REQ-2: by a forwarded port, and by a mapping that anybody may use.
    let forwarded = HOME.replace(
        "*nat\n",
        "*nat\n-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.5:4000\n",
    );
    for shards in [1, 3] {
        for forward in [false, true] {
            let mut lab = Lab::new(shards, if forward { &forwarded } else { HOME }, |config| {
                config.filter.as_mut().unwrap().gate.filtering = Filtering::EndpointIndependent;
            });
            let outside = if forward { "192.0.2.254:8080".to_owned() } else { lab.syn(X, "192.0.2.99:1") };
            let (out, inwards) = ([X, Y, &outside, Y], [Y, &outside, Y, X]);
            lab.segment(Wan, inwards, SYN, 499, 0, b"");
            lab.segment(Lan, out, SYN | ACK, 99, 500, b"");
            lab.segment(Wan, inwards, ACK, 500, 100, b"ask");
            lab.segment(Lan, out, ACK, 100, 503, b"answer");
            lab.segment(Lan, out, FIN | ACK, 106, 503, b"");
            lab.segment(Wan, inwards, FIN | ACK, 503, 107, b"");
            lab.segment(Lan, out, ACK, 107, 504, b"");
        }
    }
}

#[test]
fn the_administrator_chooses_who_may_connect_to_a_mapping() {
    // RFC 5382 REQ-3, REQ-3a
    for (filtering, stranger, same_host) in [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, false, true),
        (Filtering::AddressAndPortDependent, false, false),
    ] {
        let mut lab = Lab::filtering(1, filtering);
        let outside = lab.syn(X, Y);
        for (from, expected) in [("203.0.113.5:1", stranger), ("198.51.100.1:81", same_host)] {
            let seen = lab.send(Wan, &tcp(from, &outside, SYN, 1, 0, b""));
            let inside = seen.iter().any(|(side, packet)| *side == Lan && destination(packet) == X);
            assert_eq!(inside, expected, "{filtering:?} {from}");
        }
    }
}

#[test]
fn a_syn_that_nobody_expects_is_answered_after_six_seconds_by_an_icmp_error() {
    // RFC 5382 REQ-4
    for shards in [1, 3] {
        for port in [9, 22, 4000, 60_001] {
            let mut lab = Lab::new(shards, HOME, |_| {});
            let unsolicited = tcp(Y, &format!("192.0.2.254:{port}"), SYN, 7, 0, b"");
            assert_eq!(lab.send(Wan, &unsolicited), []);
            assert_eq!(lab.after(1), []);
            assert_eq!(lab.send(Wan, &unsolicited), [], "again");
            assert_eq!(lab.after(4), [], "silent for at least 6 seconds");
            let seen = lab.after(3);
            let [(Wan, told)] = &seen[..] else { panic!("{seen:x?}") };
            assert_eq!(
                (kind(told), src(told), dst(told)),
                ((3, 3), "192.0.2.254".into(), "198.51.100.1".into())
            );
            assert_eq!(quote(told), &unsolicited[..]);
            assert_eq!((lab.after(60), lab.flows()), (vec![], 0), "once");
        }
    }
}

#[test]
fn a_syn_that_is_filtered_is_answered_after_six_seconds_by_an_icmp_error() {
    // RFC 5382 REQ-4: there is a mapping, but not for everybody.
    let mut lab = Lab::home();
    let outside = lab.syn(X, Y);
    let unsolicited = tcp("203.0.113.5:1", &outside, SYN, 7, 0, b"");
    assert_eq!(lab.send(Wan, &unsolicited), []);
    assert_eq!(lab.after(5), []);
    let seen = lab.after(3);
    let [(Wan, told)] = &seen[..] else { panic!("{seen:x?}") };
    assert_eq!((kind(told), quote(told)), ((3, 3), &unsolicited[..]));
}

#[test]
fn a_syn_that_comes_too_early_does_no_harm_to_a_simultaneous_open() {
    // RFC 5382 REQ-4, REQ-2a: the outside SYN is first, and again when X has sent its own.
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        // What the outside host has been told by other means: the endpoint that X shows.
        let outside = lab.syn(X, "192.0.2.99:1");
        let inwards = [Y, &outside, Y, X];
        for _ in 0..2 {
            assert_eq!(lab.send(Wan, &tcp(Y, &outside, SYN, 499, 0, b"")), []);
            assert_eq!(lab.after(1), []);
        }
        assert_eq!(lab.syn(X, Y), outside, "the early SYN has taken nothing away");
        assert_eq!(lab.after(1), []);
        lab.segment(Wan, inwards, SYN, 499, 0, b"");
        lab.segment(Lan, [X, Y, &outside, Y], SYN | ACK, 99, 500, b"");
        lab.segment(Wan, inwards, SYN | ACK, 499, 100, b"");
        assert_eq!(lab.after(20), [], "no error about the early SYN");
        lab.segment(Wan, inwards, ACK, 500, 100, b"hello");
    }
}

#[test]
fn a_syn_that_the_rules_drop_is_dropped_in_silence() {
    // RFC 5382 REQ-4a
    let dropping = HOME.replace(":FORWARD DROP\n", ":FORWARD DROP\n:INPUT DROP\n");
    let mut lab = Lab::new(1, &dropping, |_| {});
    assert_eq!(lab.send(Wan, &tcp(Y, "192.0.2.254:9", SYN, 7, 0, b"")), []);
    assert_eq!(lab.after(60), []);
    // And where the rules forbid the error itself.
    let mute = HOME.replace(":FORWARD DROP\n", ":FORWARD DROP\n-A OUTPUT -p icmp -j DROP\n");
    let mut lab = Lab::new(1, &mute, |_| {});
    assert_eq!(lab.send(Wan, &tcp(Y, "192.0.2.254:9", SYN, 7, 0, b"")), []);
    assert_eq!(lab.after(60), []);
}

#[test]
fn only_what_nobody_expects_has_to_wait() {
    // RFC 5382 REQ-4: who listens answers at once, and so does the router towards its own hosts.
    let mut lab = Lab::home();
    lab.shards[0].0.tcp_listen("0.0.0.0:80".parse().unwrap(), 8, SocketOptions::default()).unwrap();
    let answer = lab.one(Wan, Wan, &tcp(Y, "192.0.2.254:80", SYN, 7, 0, b""));
    assert_eq!(body(&answer)[13], SYN | ACK);
    let refused = lab.one(Lan, Lan, &tcp(X, "192.168.1.254:9", SYN, 7, 0, b""));
    assert_eq!(body(&refused)[13], RST | ACK);
    // An ACK of no connection is no SYN.
    let refused = lab.one(Wan, Wan, &tcp(Y, "192.0.2.254:9", ACK, 7, 7, b""));
    assert_eq!(body(&refused)[13], RST);
}

#[test]
fn a_flood_of_syns_is_remembered_within_bounds() {
    // RFC 5382 REQ-4: beyond the bound they are dropped in silence.
    let mut lab = Lab::home();
    for host in 0..=255u8 {
        for port in 0..40 {
            let from = format!("203.0.113.{host}:{}", 1000 + port);
            assert_eq!(lab.send(Wan, &tcp(&from, "192.0.2.254:9", SYN, 7, 0, b"")), []);
        }
    }
    assert_eq!(lab.shards[0].0.unsolicited_syns.len(), limits::NAT_UNSOLICITED_SYNS);
    assert!(!lab.after(10).is_empty());
    assert_eq!((lab.after(60), lab.flows()), (vec![], 0));
}
