//! RFC 7857: what was made clear or changed of the three standards.

use std::collections::HashSet;

use super::rfc5382::{X, Y};
use super::*;

#[test]
fn a_reset_is_translated_and_the_session_outlives_it() {
    // RFC 7857 section 2.2: it may be lost behind the NAT, and comes again.
    for from in [Lan, Wan] {
        let mut lab = Lab::patient();
        lab.syn("192.168.1.200:4000", Y);
        let outside = lab.connect();
        let (out, inwards) = ([X, Y, &outside, Y], [Y, &outside, Y, X]);
        let (ends, seq) = if from == Lan { (out, 100) } else { (inwards, 500) };
        lab.segment(from, ends, RST, seq, 0, b"");
        lab.after(239);
        lab.segment(from, ends, RST, seq, 0, b"");
        lab.after(239);
        assert_eq!(lab.flows(), 1);
        // The other side, which has not heard of it, learns by asking.
        let (from, ends, seq, ack) =
            if from == Lan { (Wan, inwards, 500, 100) } else { (Lan, out, 100, 500) };
        lab.segment(from, ends, ACK, seq, ack, b"still there?");
        lab.after(300);
        assert_eq!(lab.flows(), 0, "then it is over");
    }
}

#[test]
fn a_reset_that_cannot_be_of_the_connection_changes_nothing() {
    // RFC 7857 section 2.2: or anybody could end it.
    let mut lab = Lab::patient();
    // So that X would get another port if it had to begin anew.
    lab.syn("192.168.1.200:4000", Y);
    let outside = lab.connect();
    for seq in [0, 0x4000_0000, 0x8000_0000, 200_000] {
        lab.send(Wan, &tcp(Y, &outside, RST, seq, 0, b""));
    }
    lab.after(3600);
    assert!(lab.talks(&outside));
}

#[test]
fn a_session_is_followed_from_syn_to_the_last_fin() {
    // RFC 7857 section 2: each state has its timer.
    let mut lab = Lab::new(1, HOME, |config| {
        let timeouts = &mut config.filter.as_mut().unwrap().gate.conntrack.timeouts;
        *timeouts = Timeouts::rfc();
    });
    let lives = |lab: &mut Lab, seconds: u64| {
        lab.after(seconds - 1);
        lab.flows() == 1
    };
    // INIT: not yet open.
    lab.syn(X, Y);
    assert!(lives(&mut lab, 240));
    lab.after(3);
    assert_eq!(lab.flows(), 0);
    // ESTABLISHED, then one FIN, then both.
    let outside = lab.connect();
    let (out, inwards) = ([X, Y, &outside, Y], [Y, &outside, Y, X]);
    assert!(lives(&mut lab, 2 * 3600));
    lab.segment(Wan, inwards, FIN | ACK, 500, 100, b"");
    lab.segment(Lan, out, ACK, 100, 501, b"half closed");
    assert!(lives(&mut lab, 240));
    lab.segment(Lan, out, FIN | ACK, 111, 501, b"");
    lab.segment(Wan, inwards, ACK, 501, 112, b"");
    assert!(lives(&mut lab, 240));
    lab.after(3);
    assert_eq!(lab.flows(), 0);
}

#[test]
fn hosts_share_an_outside_port_only_towards_different_destinations() {
    // RFC 7857 section 3: with two ports for six hosts.
    let rules = "*nat\n-A POSTROUTING -p udp -o wan -j SNAT --to-source 192.0.2.254:2000-2001\nCOMMIT\n";
    let mut lab = Lab::new(1, rules, |_| {});
    let mut seen = HashSet::new();
    for host in 1..=6u8 {
        let (inside, to) = (format!("192.168.1.{host}:4000"), format!("198.51.100.{}:53", host.div_ceil(2)));
        let outside = lab.mapping(&inside, &to);
        assert!(seen.insert((outside.clone(), to.clone())), "{outside} towards {to} twice");
    }
    // Each answer finds its host.
    for host in 1..=6u8 {
        let (inside, to) = (format!("192.168.1.{host}:4000"), format!("198.51.100.{}:53", host.div_ceil(2)));
        let outside = lab.mapping(&inside, &to);
        assert!(lab.reaches(&to, &outside, &inside));
    }
}

#[test]
fn a_host_stays_with_its_address_when_that_has_no_port_left() {
    // RFC 7857 section 4: UDP and TCP alike.
    let rules = "*nat\n-A POSTROUTING -p udp -o wan -j SNAT --to-source 192.0.2.10-192.0.2.12:2000-2003\n\
        -A POSTROUTING -p tcp -o wan -j SNAT --to-source 192.0.2.10-192.0.2.12:2000-2003\nCOMMIT\n";
    let mut lab = Lab::new(1, rules, |_| {});
    for protocol in [UDP, TCP] {
        let begin = |port: u16| {
            let inside = format!("192.168.1.5:{port}");
            if protocol == UDP { udp(&inside, Y, b"x") } else { tcp(&inside, Y, SYN, 1, 0, b"") }
        };
        let addresses: HashSet<String> = (1..=4).map(|port| src(&lab.cross(Lan, &begin(port)))).collect();
        assert_eq!(addresses.len(), 1);
        assert!(lab.send(Lan, &begin(5)).iter().all(|(side, _)| *side == Lan), "dropped");
    }
}

#[test]
fn mappings_and_filters_are_of_one_protocol() {
    // RFC 7857 sections 5 and 6
    let mut lab = Lab::filtering(1, Filtering::EndpointIndependent);
    lab.syn("192.168.1.200:4000", Y);
    let tcp_out = lab.syn(X, Y);
    assert_ne!(port_of(&tcp_out), 4000);
    // TCP's port 4000 is taken outside, UDP's is not.
    let udp_out = lab.mapping(X, Y);
    assert_eq!(port_of(&udp_out), 4000);
    assert!(!lab.reaches("203.0.113.5:9", &tcp_out, X), "no datagram by TCP's mapping");
    let seen = lab.send(Wan, &tcp("203.0.113.5:9", "192.0.2.254:5000", SYN, 1, 0, b""));
    assert!(seen.iter().all(|(side, _)| *side == Wan));
    lab.mapping("192.168.1.5:5000", Y);
    let seen = lab.send(Wan, &tcp("203.0.113.5:9", "192.0.2.254:5000", SYN, 1, 0, b""));
    assert!(seen.iter().all(|(side, _)| *side == Wan), "no SYN by UDP's mapping");
}

#[test]
fn packets_that_the_rules_stop_do_not_refresh_a_mapping() {
    // RFC 7857 section 7: anybody may send to it, but the rules say otherwise.
    let closed = HOME.replace(
        "-A FORWARD -m conntrack --ctstate ESTABLISHED",
        ":INPUT DROP\n-A FORWARD -i wan -s 203.0.113.0/24 -j DROP\n-A FORWARD -m conntrack --ctstate ESTABLISHED",
    );
    for protocol in [UDP, TCP] {
        let mut lab = Lab::new(1, &closed, |config| {
            config.filter.as_mut().unwrap().gate.filtering = Filtering::EndpointIndependent;
        });
        let outside = if protocol == UDP { lab.mapping(X, Y) } else { lab.syn(X, Y) };
        for _ in 0..13 {
            lab.after(10);
            let stopped = if protocol == UDP {
                udp("203.0.113.5:9", &outside, b"x")
            } else {
                tcp("203.0.113.5:9", &outside, SYN, 1, 0, b"")
            };
            assert!(lab.send(Wan, &stopped).iter().all(|(side, _)| *side == Wan));
        }
        assert_eq!(lab.flows(), 0, "after 130 seconds without a packet from inside");
    }
}

#[test]
fn errors_and_resets_from_inside_do_not_refresh_a_mapping() {
    // RFC 7857 section 7.1
    let mut lab = Lab::patient();
    let outside = lab.mapping(X, Y);
    lab.after(10);
    let came = lab.cross(Wan, &udp(Y, &outside, b"unwanted"));
    lab.after(290);
    lab.cross(Lan, &error("192.168.1.5", 3, 3, &came));
    lab.after(15);
    assert_eq!(lab.flows(), 0, "300 seconds after the datagram");
    let outside = lab.connect();
    lab.segment(Wan, [Y, &outside, Y, X], ACK, 500, 100, b"unwanted");
    lab.segment(Lan, [X, Y, &outside, Y], RST, 100, 0, b"");
    lab.after(300);
    assert_eq!(lab.flows(), 0, "minutes after the RST, not hours");
}

#[test]
fn a_changed_port_cannot_be_guessed() {
    // RFC 7857 section 9
    let mut lab = Lab::home();
    let ports: Vec<u16> =
        (1..=100).map(|host| port_of(&lab.mapping(&format!("192.168.1.{host}:4000"), Y))).collect();
    assert_eq!(ports[0], 4000, "preserved where it is free");
    let steps: HashSet<u16> = ports[1..].windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.len() > 90, "{ports:?}");
    let spread: HashSet<u16> = ports[1..].iter().map(|port| port / 8192).collect();
    assert!(spread.len() > 5, "{ports:?}");
    assert!(ports[1..].iter().all(|port| *port >= 1024));
}

#[test]
fn datagrams_of_different_hosts_never_share_an_identification() {
    // RFC 7857 section 10: all of them come from the router's address now, to one host, and may be fragmented on their way.
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, HOME, |_| {});
        let mut seen = HashSet::new();
        for round in 0..40 {
            for host in 1..=50 {
                let sent = udp(&format!("192.168.1.{host}:4000"), Y, b"x");
                let out = lab.cross(Lan, &fragmentable(sent, round));
                assert_eq!(out[6] & 0x40, 0);
                assert!(
                    seen.insert(identification(&out)),
                    "{} of {host} in round {round}",
                    identification(&out)
                );
            }
        }
    }
}

#[test]
fn an_identification_that_means_nothing_stays() {
    // RFC 7857 section 10: RFC 6864 section 4.1, of what is not to be fragmented.
    let mut lab = Lab::home();
    let sent = udp(X, Y, b"x");
    assert_eq!(identification(&lab.cross(Lan, &sent)), identification(&sent));
}
