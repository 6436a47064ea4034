//! RFC 4787: how a NAT treats unicast UDP. Fragments are in `rfc4787_fragments.rs`.

use std::collections::HashSet;

use super::*;

const X: &str = "192.168.1.5:4000";
const Y1: &str = "198.51.100.1:53";
const Y2: &str = "203.0.113.5:99";

/// Takes the inside port for another host, so that X cannot keep it.
fn occupy(lab: &mut Lab, port: u16) {
    lab.mapping(&format!("192.168.1.200:{port}"), "192.0.2.200:1");
}

#[test]
fn an_endpoint_has_the_same_mapping_towards_every_destination() {
    // RFC 4787 REQ-1
    for (shards, taken) in [(1, false), (1, true), (4, false), (4, true)] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        if taken {
            occupy(&mut lab, port_of(X));
        }
        let first = lab.mapping(X, Y1);
        for to in [Y2, "198.51.100.1:54", "192.0.2.77:1", Y1] {
            assert_eq!(lab.mapping(X, to), first, "{shards} shards, {taken}");
        }
        assert!(!taken || first != format!("192.0.2.254:{}", port_of(X)));
    }
}

#[test]
fn a_mapping_lives_as_long_as_any_of_its_sessions() {
    // RFC 4787 REQ-1
    let mut lab = Lab::home();
    occupy(&mut lab, port_of(X));
    let first = lab.mapping(X, Y1);
    for _ in 0..5 {
        lab.after(20);
        assert_eq!(lab.mapping(X, Y2), first);
    }
    assert_eq!(lab.flows(), 1, "the session to Y1 is over, X keeps its port");
    assert_eq!(lab.mapping(X, Y1), first);
}

#[test]
fn all_sessions_of_a_host_have_one_of_the_addresses() {
    // RFC 4787 REQ-2: for every protocol (RFC 7857 section 4).
    let rules = "*nat\n-A POSTROUTING -o wan -j SNAT --to-source 192.0.2.10-192.0.2.40\nCOMMIT\n";
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, rules, |_| {});
        let mut addresses = HashSet::new();
        for host in 1..=20 {
            let mut of_host = HashSet::new();
            for port in [500, 4000, 4001, 50_000] {
                let inside = format!("192.168.1.{host}:{port}");
                of_host.insert(src(&lab.cross(Lan, &udp(&inside, Y1, b"x"))));
                of_host.insert(src(&lab.cross(Lan, &udp(&inside, Y2, b"x"))));
                of_host.insert(src(&lab.cross(Lan, &tcp(&inside, Y2, SYN, 1, 0, b""))));
                of_host.insert(src(&lab.cross(Lan, &ping(&inside, "203.0.113.9"))));
            }
            assert_eq!(of_host.len(), 1, "{of_host:?}");
            addresses.extend(of_host);
        }
        assert!(addresses.len() > 5, "the hosts share the addresses: {addresses:?}");
    }
}

#[test]
fn two_endpoints_never_share_an_outside_port_towards_one_destination() {
    // RFC 4787 REQ-3: each has its answers.
    for shards in [1, 3] {
        let mut lab = Lab::filtering(shards, Filtering::EndpointIndependent);
        let mut seen = HashSet::new();
        let hosts: Vec<String> = (1..=50).map(|host| format!("192.168.1.{host}:4000")).collect();
        let outside: Vec<String> = hosts.iter().map(|host| lab.mapping(host, Y1)).collect();
        for (host, outside) in hosts.iter().zip(&outside) {
            assert!(seen.insert(outside.clone()), "{outside} twice");
            assert!(lab.reaches(Y1, outside, host));
            assert!(lab.reaches(Y2, outside, host));
        }
    }
}

#[test]
fn a_changed_port_stays_in_its_range() {
    // RFC 4787 REQ-3a
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        for host in 1..=100 {
            for (port, low) in [(123, true), (1023, true), (1024, false), (4000, false), (65_535, false)] {
                let outside = port_of(&lab.mapping(&format!("192.168.1.{host}:{port}"), Y1));
                assert_eq!(outside < 1024, low, "{port} became {outside}");
            }
        }
    }
}

#[test]
fn an_even_port_stays_even_and_an_odd_one_odd() {
    // RFC 4787 REQ-4
    for shards in [1, 3, 5] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        for host in 1..=60 {
            for port in [122, 123, 4000, 4001, 65_534, 65_535] {
                let outside = port_of(&lab.mapping(&format!("192.168.1.{host}:{port}"), Y1));
                assert_eq!(outside % 2, port % 2, "{port} became {outside} with {shards} shards");
            }
        }
    }
}

#[test]
fn a_mapping_outlives_five_minutes_of_silence() {
    // RFC 4787 REQ-5, REQ-5c: with answers or without.
    for answered in [false, true] {
        let mut lab = Lab::patient();
        let outside = lab.mapping(X, Y1);
        if answered {
            assert!(lab.reaches(Y1, &outside, X));
            lab.after(3);
            assert_eq!(lab.mapping(X, Y1), outside);
        }
        lab.after(299);
        assert!(lab.reaches(Y2, &outside, X), "answered: {answered}");
    }
}

#[test]
fn a_mapping_ends_when_its_time_is_over() {
    // RFC 4787 REQ-5b: the time is the administrator's, also below what is asked for.
    let mut lab = Lab::new(1, HOME, |config| {
        let gate = &mut config.filter.as_mut().unwrap().gate;
        gate.conntrack.timeouts.udp = Duration::from_secs(50);
        gate.filtering = Filtering::EndpointIndependent;
    });
    let outside = lab.mapping(X, Y1);
    lab.after(49);
    assert_eq!(lab.flows(), 1);
    lab.after(3);
    assert_eq!(lab.flows(), 0);
    assert!(!lab.reaches(Y1, &outside, X));
}

#[test]
fn packets_from_inside_refresh_a_mapping_and_so_do_answers() {
    // RFC 4787 REQ-6, REQ-6a
    let mut lab = Lab::patient();
    let outside = lab.mapping(X, Y1);
    for _ in 0..5 {
        lab.after(200);
        assert_eq!(lab.mapping(X, Y1), outside);
    }
    lab.after(200);
    assert!(lab.reaches(Y2, &outside, X), "refreshed from inside");
    for _ in 0..5 {
        lab.after(200);
        assert!(lab.reaches(Y1, &outside, X), "refreshed from outside");
    }
}

#[test]
fn an_outer_network_with_the_numbers_of_the_inner_one_does_no_harm() {
    // RFC 4787 REQ-7: the provider's network is 192.168.1.0/24, too, and its router's number that of a host inside.
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, HOME, |config| {
            config.further_links[0].addresses = vec!["192.168.1.77/24".parse().unwrap()];
            config.routes[0].gateway = ip("192.168.1.1");
            config.routes[0].link = Some(1);
            config.filter.as_mut().unwrap().gate.filtering = Filtering::EndpointIndependent;
        });
        for host in ["192.168.1.1", "192.168.1.5", "192.168.1.240"] {
            let inside = format!("{host}:4000");
            let outside = lab.mapping(&inside, Y1);
            assert!(outside.starts_with("192.168.1.77:"), "{outside}");
            assert!(lab.reaches(Y1, &outside, &inside));
            assert!(lab.reaches(Y2, &outside, &inside));
        }
        // What the provider's hosts send comes from outside, whatever numbers they have.
        let outside = lab.mapping("192.168.1.5:4000", Y1);
        lab.send(Wan, &udp("192.168.1.5:9", &outside, b"no host inside"));
        assert_eq!(lab.mapping("192.168.1.5:4000", Y1), outside);
    }
}

#[test]
fn the_administrator_chooses_who_may_send_to_a_mapping() {
    // RFC 4787 REQ-8, REQ-8a
    for shards in [1, 3] {
        for (filtering, stranger, same_host) in [
            (Filtering::EndpointIndependent, true, true),
            (Filtering::AddressDependent, false, true),
            (Filtering::AddressAndPortDependent, false, false),
        ] {
            let mut lab = Lab::filtering(shards, filtering);
            let outside = lab.mapping(X, Y1);
            assert!(lab.reaches(Y1, &outside, X));
            assert_eq!(lab.reaches("198.51.100.1:1053", &outside, X), same_host, "{filtering:?}");
            assert_eq!(lab.reaches(Y2, &outside, X), stranger, "{filtering:?}");
            // No more than the endpoint itself is open.
            assert!(!lab.reaches(Y1, "192.0.2.254:4001", "192.168.1.5:4001"));
            // Whom X has sent to meanwhile may answer.
            assert_eq!(lab.mapping(X, Y2), outside);
            assert!(lab.reaches(Y2, &outside, X));
        }
    }
}

#[test]
fn hosts_inside_meet_at_their_outside_endpoints() {
    // RFC 4787 REQ-9, REQ-9a: each sees the other's outside endpoint, whoever begins, from the first packet on.
    let [a, b] = ["192.168.1.5:4000", "192.168.1.6:4000"];
    for shards in [1, 3] {
        let mut lab = Lab::filtering(shards, Filtering::EndpointIndependent);
        let [a_out, b_out] = [a, b].map(|inside| lab.mapping(inside, Y1));
        for _ in 0..3 {
            for (from, from_out, to, to_out) in [(a, &a_out, b, &b_out), (b, &b_out, a, &a_out)] {
                let out = lab.one(Lan, Lan, &udp(from, to_out, b"hairpin"));
                assert_eq!((source(&out), destination(&out)), (from_out.clone(), to.to_owned()));
                assert_eq!(payload(&out), b"hairpin");
            }
        }
        // One that has talked to nobody yet gets its mapping by this.
        let out = lab.one(Lan, Lan, &udp("192.168.1.7:4000", &b_out, b"first"));
        let c_out = source(&out);
        assert!(c_out.starts_with("192.0.2.254:"), "{c_out}");
        assert_eq!(destination(&out), b);
        assert_eq!(lab.mapping("192.168.1.7:4000", Y1), c_out);
        let back = lab.one(Lan, Lan, &udp(b, &c_out, b"back"));
        assert_eq!((source(&back), destination(&back)), (b_out.clone(), "192.168.1.7:4000".to_owned()));
    }
}

#[test]
fn a_host_inside_is_filtered_as_one_outside_when_it_uses_outside_endpoints() {
    // RFC 4787 REQ-9, REQ-11
    let [a, b] = ["192.168.1.5:4000", "192.168.1.6:4000"];
    for shards in [1, 3] {
        let mut lab = Lab::filtering(shards, Filtering::AddressAndPortDependent);
        let [a_out, b_out] = [a, b].map(|inside| lab.mapping(inside, Y1));
        let to_lan = |seen: &[(Side, Vec<u8>)]| seen.iter().any(|(_, packet)| dst(packet) == "192.168.1.6");
        assert!(!to_lan(&lab.send(Lan, &udp(a, &b_out, b"too early"))));
        // B's own packet opens its mapping for A, as A's first one has opened A's for B.
        let out = lab.one(Lan, Lan, &udp(b, &a_out, b"hello"));
        assert_eq!((source(&out), destination(&out)), (b_out.clone(), a.to_owned()));
        let out = lab.one(Lan, Lan, &udp(a, &b_out, b"now"));
        assert_eq!((source(&out), destination(&out)), (a_out.clone(), b.to_owned()));
    }
}

#[test]
fn a_conflict_of_ports_changes_nothing_but_the_port() {
    // RFC 4787 REQ-11
    for filtering in [Filtering::EndpointIndependent, Filtering::AddressDependent] {
        let mut lab = Lab::filtering(1, filtering);
        for host in 1..=5 {
            let inside = format!("192.168.1.{host}:4000");
            let outside = lab.mapping(&inside, Y1);
            assert_eq!(lab.mapping(&inside, "198.51.100.1:54"), outside);
            assert_eq!(lab.mapping(&inside, "198.51.100.2:53"), outside);
            assert!(lab.reaches("198.51.100.2:1", &outside, &inside));
            assert_eq!(lab.reaches(Y2, &outside, &inside), filtering == Filtering::EndpointIndependent);
        }
    }
}

#[test]
fn no_icmp_message_ends_a_mapping_and_unreachables_reach_the_host_from_anywhere() {
    // RFC 4787 REQ-12, REQ-12a, REQ-12b
    for shards in [1, 3] {
        let mut lab = Lab::filtering(shards, Filtering::EndpointIndependent);
        occupy(&mut lab, port_of(X));
        let sent = udp(X, Y1, b"sent");
        let out = lab.cross(Lan, &sent);
        let outside = source(&out);
        for (number, code) in
            (0..=15).map(|code| (3, code)).chain([(11, 0), (11, 1), (12, 0), (4, 0), (5, 1)])
        {
            for from in ["198.51.100.1", "192.0.2.1", "203.0.113.200"] {
                let seen = lab.send(Wan, &error(from, number, code, &out));
                if number == 3 {
                    let [(Lan, told)] = &seen[..] else { panic!("{number} {code}: {seen:x?}") };
                    assert_eq!(
                        (kind(told), src(told), dst(told)),
                        ((3, code), from.into(), "192.168.1.5".into())
                    );
                    assert_eq!(source(quote(told)), X);
                    assert_eq!(destination(quote(told)), Y1);
                    assert_eq!(body(quote(told)), body(&sent));
                }
            }
            assert!(lab.reaches(Y1, &outside, X));
            assert_eq!(lab.mapping(X, Y2), outside);
        }
    }
}
