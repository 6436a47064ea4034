//! RFC 5508: how a NAT treats ICMP queries, and what ICMP it says itself (RFC 5508 REQ-10). Errors in transit are in `rfc5508_errors.rs`.

use std::collections::HashSet;

use super::*;

const X: &str = "192.168.1.5:4000";
const Y: &str = "198.51.100.1";

#[test]
fn queries_from_inside_and_their_answers_pass() {
    // RFC 5508 REQ-1, REQ-10a3
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        let mut identifiers = HashSet::new();
        for host in 1..=20 {
            let inside = format!("192.168.1.{host}:4000");
            let asked = lab.cross(Lan, &ping(&inside, Y));
            assert_eq!((kind(&asked), dst(&asked)), ((8, 0), Y.to_owned()));
            let outside = source(&asked);
            assert!(outside.starts_with("192.0.2.254:"));
            assert!(identifiers.insert(outside.clone()));
            let answered = lab.cross(Wan, &pong(Y, &outside));
            assert_eq!((kind(&answered), src(&answered), destination(&answered)), ((0, 0), Y.into(), inside));
            assert_eq!(payload(&answered), b"echo me");
        }
    }
}

#[test]
fn a_querys_identifier_is_the_same_for_every_host_asked() {
    // RFC 5508 REQ-1a
    for shards in [1, 4] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        lab.cross(Lan, &ping("192.168.1.200:4000", Y));
        let first = source(&lab.cross(Lan, &ping(X, Y)));
        for to in ["198.51.100.2", "203.0.113.9", "192.0.2.77"] {
            assert_eq!(source(&lab.cross(Lan, &ping(X, to))), first);
        }
        assert_ne!(port_of(&first), 4000);
    }
}

#[test]
fn a_query_waits_a_minute_for_its_answer() {
    // RFC 5508 REQ-2
    let mut lab = Lab::patient();
    let outside = source(&lab.cross(Lan, &ping(X, Y)));
    lab.after(59);
    assert_eq!(destination(&lab.cross(Wan, &pong(Y, &outside))), X);
}

#[test]
fn how_long_a_query_waits_is_the_administrators() {
    // RFC 5508 REQ-2a; RFC 7857 section 11: the mapping ends with its last session.
    let mut lab = Lab::new(1, HOME, |config| {
        config.filter.as_mut().unwrap().gate.conntrack.timeouts.icmp = Duration::from_secs(100);
    });
    let outside = source(&lab.cross(Lan, &ping(X, Y)));
    lab.after(99);
    assert_eq!(destination(&lab.cross(Wan, &pong(Y, &outside))), X);
    lab.after(102);
    assert_eq!(lab.flows(), 0);
    let other = source(&lab.cross(Lan, &ping("192.168.1.6:4000", Y)));
    assert_eq!(other, outside, "the identifier is free again");
}

#[test]
fn who_gets_no_session_is_told_that_it_is_prohibited() {
    // RFC 5508 REQ-8: no free port, and no room for a flow.
    let narrow = "*nat\n-A POSTROUTING -p udp -o wan -j SNAT --to-source 192.0.2.254:2000-2001\n\
        -A POSTROUTING -p tcp -o wan -j SNAT --to-source 192.0.2.254:2000-2001\nCOMMIT\n";
    let mut lab = Lab::new(1, narrow, |_| {});
    type Begin = fn(&str) -> Vec<u8>;
    let begin: [Begin; 2] =
        [|from| udp(from, "198.51.100.1:53", b"x"), |from| tcp(from, "198.51.100.1:53", SYN, 1, 0, b"")];
    for begin in begin {
        for host in 1..=2 {
            lab.cross(Lan, &begin(&format!("192.168.1.{host}:4000")));
        }
        let refused = begin("192.168.1.9:4000");
        let told = lab.one(Lan, Lan, &refused);
        assert_eq!(
            (kind(&told), src(&told), dst(&told)),
            ((3, 13), "192.168.1.254".into(), "192.168.1.9".into())
        );
        assert_eq!(quote(&told), &refused[..]);
    }
    let mut lab = Lab::new(1, HOME, |config| {
        config.filter.as_mut().unwrap().gate.conntrack.entries_max = 2;
    });
    for host in 1..=2 {
        // Flows with answers do not make room.
        let inside = format!("192.168.1.{host}:4000");
        for _ in 0..3 {
            let outside = lab.mapping(&inside, "198.51.100.1:53");
            assert!(lab.reaches("198.51.100.1:53", &outside, &inside));
            lab.after(2);
        }
    }
    let refused = udp("192.168.1.9:4000", "198.51.100.1:53", b"x");
    let told = lab.one(Lan, Lan, &refused);
    assert_eq!((kind(&told), quote(&told)), ((3, 13), &refused[..]));
}

#[test]
fn no_icmp_error_is_made_about_a_later_fragment() {
    // RFC 5508 REQ-10e: of the pieces, which go on as they come, none of which has a hop left, the first is told of.
    let mut lab = Lab::new(1, "", |_| {});
    let sent = fragmentable(udp("192.168.1.9:4000", "198.51.100.1:53", &[1; 100]), 1);
    let mut told = Vec::new();
    for mut piece in fragments(&sent, 40) {
        piece[8] = 1;
        close(&mut piece);
        told.extend(lab.send(Lan, &piece));
    }
    let [(Lan, told)] = &told[..] else { panic!("{told:x?}") };
    assert_eq!((kind(told), quote(told)[7]), ((11, 0), 0));
}

#[test]
fn rules_keep_icmp_from_an_interface() {
    // RFC 5508 REQ-9
    let mute = HOME.replace(":FORWARD DROP\n", ":FORWARD DROP\n-A OUTPUT -o lan -p icmp -j DROP\n");
    let mut hopless = udp(X, "198.51.100.1:53", b"x");
    hopless[8] = 1;
    close(&mut hopless);
    assert_eq!(Lab::new(1, &mute, |_| {}).send(Lan, &hopless), []);
    assert_eq!(kind(&Lab::home().one(Lan, Lan, &hopless)), (11, 0));
}

#[test]
fn a_packet_without_hops_left_comes_back() {
    // RFC 5508 REQ-10a2
    for (from, packet) in [(Lan, udp(X, "198.51.100.1:53", b"x")), (Lan, ping(X, Y))] {
        let mut packet = packet;
        packet[8] = 1;
        close(&mut packet);
        let told = Lab::home().one(from, from, &packet);
        assert_eq!((kind(&told), src(&told), quote(&told)), ((11, 0), "192.168.1.254".into(), &packet[..]));
    }
    // An answer that ends here quotes what came, not what is inside.
    let mut lab = Lab::home();
    let outside = lab.mapping(X, "198.51.100.1:53");
    let mut answer = udp("198.51.100.1:53", &outside, b"x");
    answer[8] = 1;
    close(&mut answer);
    let told = lab.one(Wan, Wan, &answer);
    assert_eq!((kind(&told), quote(&told)), ((11, 0), &answer[..]));
}

#[test]
fn the_router_itself_answers_pings_on_both_sides() {
    // RFC 5508 REQ-10a3
    let mut lab = Lab::home();
    for (side, from, to) in [(Lan, X, "192.168.1.254"), (Wan, "198.51.100.1:7", "192.0.2.254")] {
        let answer = lab.one(side, side, &ping(from, to));
        assert_eq!(
            (kind(&answer), src(&answer), destination(&answer)),
            ((0, 0), to.to_owned(), from.to_owned())
        );
    }
}

#[test]
fn obsolete_messages_are_not_answered_or_made() {
    // RFC 5508 REQ-10c1, REQ-10c2
    let mut lab = Lab::home();
    for to in ["192.168.1.254", "192.0.2.254"] {
        assert_eq!(lab.send(Lan, &icmp("192.168.1.5", to, 15, 0, 1 << 16, b"")), []);
    }
    let mut kinds = HashSet::new();
    for port in 1..2000u16 {
        for (_, packet) in lab.send(Lan, &udp(&format!("192.168.1.5:{port}"), "192.168.1.254:9", b"x")) {
            kinds.insert(kind(&packet));
        }
    }
    assert_eq!(kinds, HashSet::from([(3, 3)]), "no source quench");
}

#[test]
fn no_icmp_error_is_made_about_an_error_or_for_many() {
    // RFC 5508 REQ-10e
    let mut lab = Lab::home();
    let sent = udp("198.51.100.1:53", "192.168.1.5:4000", b"x");
    let mut about_error = error("192.168.1.5", 3, 3, &sent);
    let mut from_nobody = udp("0.0.0.0:1", "198.51.100.1:53", b"x");
    let mut from_many = udp("224.0.0.5:1", "198.51.100.1:53", b"x");
    for packet in [&mut about_error, &mut from_nobody, &mut from_many] {
        packet[8] = 1;
        close(packet);
        assert_eq!(lab.send(Lan, packet), []);
    }
}

#[test]
fn icmp_errors_are_limited_in_number() {
    // RFC 5508 REQ-10f
    let mut lab = Lab::home();
    let mut told = 0;
    for port in 1..=60_000u16 {
        let mut hopless = udp(&format!("192.168.1.5:{port}"), "198.51.100.1:53", b"x");
        hopless[8] = 1;
        close(&mut hopless);
        told += lab.send(Lan, &hopless).len();
    }
    assert!((1..20_000).contains(&told), "{told}");
}

#[test]
fn other_icmp_messages_of_hosts_do_not_leave_with_an_inside_address() {
    // RFC 5508 REQ-11: a router solicitation, an advertisement, and kinds that nobody knows.
    let mut lab = Lab::home();
    for number in [9, 10, 30, 41, 200] {
        for (side, packet) in lab.send(Lan, &icmp("192.168.1.5", Y, number, 0, 0, b"12345678")) {
            assert!(side == Lan || src(&packet) == "192.0.2.254", "{number}: {packet:x?}");
        }
    }
}
