//! RFC 5508: ICMP errors that cross a NAT.

use super::*;

const X: &str = "192.168.1.5:4000";
const Y: &str = "198.51.100.1:53";
const SERVER: &str = "192.168.1.9:8080";

/// Rules that forward port 80 to a server inside.
fn forwarded() -> String {
    HOME.replace(
        "*nat\n",
        "*nat\n-A PREROUTING -i wan -p udp --dport 80 -j DNAT --to-destination 192.168.1.9:8080\n",
    )
}

/// X has sent a datagram to Y, from an outside port other than its own: the router, the packet inside and outside.
fn translated(shards: u16) -> (Lab, Vec<u8>, Vec<u8>) {
    let mut lab = Lab::filtering(shards, Filtering::EndpointIndependent);
    lab.mapping("192.168.1.200:4000", Y);
    let inside = udp(X, Y, b"what is quoted");
    let outside = lab.cross(Lan, &inside);
    (lab, inside, outside)
}

#[test]
fn an_error_with_a_wrong_checksum_is_dropped() {
    // RFC 5508 REQ-3: from either side.
    let (mut lab, _, outside) = translated(1);
    let mut wrong = error("192.0.2.1", 3, 3, &outside);
    wrong[22] ^= 1;
    assert_eq!(lab.send(Wan, &wrong), []);
    let answer = lab.cross(Wan, &udp(Y, &source(&outside), b"answer"));
    let mut wrong = error("192.168.1.5", 3, 3, &answer);
    wrong[22] ^= 1;
    assert_eq!(lab.send(Lan, &wrong), []);
}

#[test]
fn an_error_whose_quoted_header_has_a_wrong_checksum_is_dropped() {
    // RFC 5508 REQ-3a
    let (mut lab, _, outside) = translated(1);
    let mut damaged = outside.clone();
    damaged[10] ^= 0x55;
    assert_eq!(lab.send(Wan, &error("192.0.2.1", 3, 3, &damaged)), []);
    assert_eq!(kind(&lab.cross(Wan, &error("192.0.2.1", 3, 3, &outside))), (3, 3));
}

#[test]
fn ports_are_found_behind_quoted_ip_options() {
    // RFC 5508 REQ-3b
    let (mut lab, inside, outside) = translated(1);
    let with_options = |packet: &[u8]| {
        let mut longer = packet[..20].to_vec();
        longer.extend_from_slice(&[1, 1, 1, 1, 1, 1, 1, 0]);
        longer.extend_from_slice(&packet[20..]);
        longer[0] = 0x47;
        longer[3] += 8;
        close(&mut longer);
        longer
    };
    let told = lab.cross(Wan, &error("192.0.2.1", 3, 3, &with_options(&outside)));
    // It has come a hop further.
    let mut expected = with_options(&inside);
    expected[8] = quote(&told)[8];
    close(&mut expected);
    assert_eq!(quote(&told), &expected[..]);
}

#[test]
fn the_quoted_transport_checksum_is_nobodys_business() {
    // RFC 5508 REQ-3c
    let (mut lab, _, outside) = translated(1);
    let mut damaged = outside.clone();
    damaged[26] ^= 0x55;
    let told = lab.cross(Wan, &error("192.0.2.1", 3, 3, &damaged));
    assert_eq!((kind(&told), source(quote(&told)).as_str()), ((3, 3), X));
}

#[test]
fn extensions_of_an_error_stay_as_they_are() {
    // RFC 5508 REQ-3d: RFC 4884's, behind a quote padded to 128 bytes.
    let (mut lab, inside, outside) = translated(1);
    let padded = |packet: &[u8]| {
        let mut quoted = packet.to_vec();
        quoted.resize(128, 0);
        // Version 2, a checksum, and an object of MPLS labels.
        quoted.extend_from_slice(&[0x20, 0, 0xbe, 0x3f, 0, 8, 1, 1, 0, 1, 0x41, 1]);
        quoted
    };
    let to = src(&outside);
    let told = lab.cross(Wan, &icmp("192.0.2.1", &to, 11, 0, 32 << 16, &padded(&outside)));
    assert_eq!(body(&told)[4..8], [0, 32, 0, 0]);
    let mut expected = inside;
    expected[8] = quote(&told)[8];
    close(&mut expected);
    assert_eq!(quote(&told), padded(&expected));
}

#[test]
fn an_error_from_outside_about_nothing_is_dropped() {
    // RFC 5508 REQ-4
    let (mut lab, inside, _) = translated(1);
    for about in [
        udp("192.0.2.254:7777", Y, b"x"),
        tcp("192.0.2.254:4000", Y, SYN, 1, 0, b""),
        ping("192.0.2.254:4000", "198.51.100.1"),
    ] {
        assert_eq!(lab.send(Wan, &error("192.0.2.1", 3, 3, &about)), []);
    }
    // An inside address quoted by one who cannot know of it.
    let mut forged = error("192.0.2.1", 3, 3, &inside);
    forged[16..20].copy_from_slice(&[192, 0, 2, 254]);
    close(&mut forged);
    assert_eq!(lab.send(Wan, &forged), []);
}

#[test]
fn an_error_from_outside_reaches_the_host_in_its_own_terms() {
    // RFC 5508 REQ-4a, REQ-4b, REQ-4c: about UDP, TCP and queries.
    for shards in [1, 3] {
        for inside in [udp(X, Y, b"quoted"), tcp(X, Y, SYN, 1, 0, b""), ping(X, "198.51.100.1")] {
            let mut lab = Lab::new(shards, HOME, |_| {});
            let mut taken = inside.clone();
            taken[15] = 200;
            close(&mut taken);
            refresh(&mut taken);
            lab.cross(Lan, &taken);
            let outside = lab.cross(Lan, &inside);
            assert!(shards > 1 || port_of(&source(&outside)) != 4000);
            for (number, code) in [(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)] {
                let told = lab.cross(Wan, &error("192.0.2.1", number, code, &outside));
                assert_eq!(
                    (kind(&told), src(&told), dst(&told)),
                    ((number, code), "192.0.2.1".into(), "192.168.1.5".into())
                );
                let mut expected = inside.clone();
                expected[8] = quote(&told)[8];
                close(&mut expected);
                assert_eq!(quote(&told), &expected[..]);
            }
        }
    }
}

#[test]
fn an_error_from_inside_about_nothing_is_dropped() {
    // RFC 5508 REQ-5
    let mut lab = Lab::home();
    let about = udp("198.51.100.1:53", "192.168.1.5:4000", b"never came");
    assert_eq!(lab.send(Lan, &error("192.168.1.5", 3, 3, &about)), []);
}

#[test]
fn an_error_from_inside_says_nothing_of_the_inside() {
    // RFC 5508 REQ-5a, REQ-5b, REQ-5c: about what came to a mapping, and to a forwarded port; from the host, or a router there.
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, &forwarded(), |config| {
            config.filter.as_mut().unwrap().gate.filtering = Filtering::EndpointIndependent;
        });
        lab.mapping("192.168.1.200:4000", Y);
        let outside = lab.mapping(X, Y);
        for (from, to, inside) in [
            (Y, outside.as_str(), X),
            ("203.0.113.5:9", outside.as_str(), X),
            ("203.0.113.5:10", "192.0.2.254:80", SERVER),
        ] {
            let sent = udp(from, to, b"what is quoted");
            let came = lab.cross(Wan, &sent);
            assert_eq!(destination(&came), inside);
            for sender in [&inside[..11], "192.168.1.77"] {
                for (number, code) in [(3, 3), (3, 1), (3, 4), (11, 0), (11, 1), (12, 0)] {
                    let told = lab.cross(Lan, &error(sender, number, code, &came));
                    assert_eq!((kind(&told), src(&told)), ((number, code), "192.0.2.254".to_owned()));
                    assert_eq!(dst(&told), from.split(':').next().unwrap());
                    let mut expected = sent.clone();
                    expected[8] = quote(&told)[8];
                    close(&mut expected);
                    assert_eq!(quote(&told), &expected[..]);
                }
            }
        }
    }
}

#[test]
fn an_error_from_a_host_with_an_address_of_its_own_outside_comes_from_that() {
    // RFC 5508 REQ-5c, REQ-7; RFC 7857 section 12: Basic NAT, whose addresses have one host each.
    let rules = "*nat\n-A PREROUTING -d 192.0.2.128/28 -j NETMAP --to 192.168.1.128/28\n\
        -A POSTROUTING -s 192.168.1.128/28 -j NETMAP --to 192.0.2.128/28\nCOMMIT\n";
    for shards in [1, 3] {
        let mut lab = Lab::new(shards, rules, |_| {});
        let sent = udp("203.0.113.5:9", "192.0.2.133:7", b"to the fifth");
        let came = lab.cross(Wan, &sent);
        assert_eq!(destination(&came), "192.168.1.133:7");
        let told = lab.cross(Lan, &error("192.168.1.133", 3, 3, &came));
        assert_eq!((src(&told), dst(&told)), ("192.0.2.133".to_owned(), "203.0.113.5".to_owned()));
        // A query between two of them, by their outside addresses, and its answer.
        let asked = lab.one(Lan, Lan, &ping("192.168.1.133:7", "192.0.2.134"));
        assert_eq!((src(&asked), dst(&asked)), ("192.0.2.133".to_owned(), "192.168.1.134".to_owned()));
        let answered = lab.one(Lan, Lan, &pong("192.168.1.134", &source(&asked)));
        assert_eq!((src(&answered), dst(&answered)), ("192.0.2.134".to_owned(), "192.168.1.133".to_owned()));
    }
}

#[test]
fn an_error_about_a_query_neither_prolongs_nor_ends_its_session() {
    // RFC 5508 REQ-6
    let mut lab = Lab::new(1, HOME, |config| {
        config.filter.as_mut().unwrap().gate.conntrack.timeouts.icmp = Duration::from_secs(60);
    });
    let asked = lab.cross(Lan, &ping(X, "198.51.100.1"));
    for _ in 0..5 {
        lab.after(11);
        lab.cross(Wan, &error("192.0.2.1", 11, 0, &asked));
    }
    assert_eq!(lab.flows(), 1);
    assert_eq!(destination(&lab.cross(Wan, &pong("198.51.100.1", &source(&asked)))), X, "not ended");
    let mut lab = Lab::new(1, HOME, |config| {
        config.filter.as_mut().unwrap().gate.conntrack.timeouts.icmp = Duration::from_secs(60);
    });
    let asked = lab.cross(Lan, &ping(X, "198.51.100.1"));
    for _ in 0..5 {
        lab.after(11);
        lab.cross(Wan, &error("192.0.2.1", 11, 0, &asked));
    }
    lab.after(7);
    assert_eq!(lab.flows(), 0, "not prolonged");
}

#[test]
fn an_error_about_a_hairpinned_packet_reaches_its_sender() {
    // RFC 5508 REQ-7, REQ-7a; RFC 7857 section 12
    let [a, b] = ["192.168.1.5:4000", "192.168.1.6:4000"];
    for shards in [1, 3] {
        let mut lab = Lab::filtering(shards, Filtering::EndpointIndependent);
        let [a_out, b_out] = [a, b].map(|inside| lab.mapping(inside, Y));
        let sent = udp(a, &b_out, b"hairpin");
        let came = lab.one(Lan, Lan, &sent);
        assert_eq!((source(&came), destination(&came)), (a_out, b.to_owned()));
        let told = lab.one(Lan, Lan, &error("192.168.1.6", 3, 3, &came));
        assert_eq!(
            (kind(&told), src(&told), dst(&told)),
            ((3, 3), "192.0.2.254".into(), "192.168.1.5".into())
        );
        let mut expected = sent;
        expected[8] = quote(&told)[8];
        close(&mut expected);
        assert_eq!(quote(&told), &expected[..]);
    }
}

#[test]
fn too_long_packets_beyond_the_nat_are_told_of_with_the_mtu() {
    // RFC 5508 REQ-10a1: section 7.1.2
    for shards in [1, 3] {
        let (mut lab, inside, outside) = translated(shards);
        let told = lab.cross(Wan, &icmp("192.0.2.1", "192.0.2.254", 3, 4, 1400, &outside));
        assert_eq!((kind(&told), body(&told)[4..8].to_vec()), ((3, 4), 1400u32.to_be_bytes().to_vec()));
        assert_eq!(source(quote(&told)), source(&inside));
    }
}

#[test]
fn source_routes_do_not_leave() {
    // RFC 5508 REQ-10b3
    let mut lab = Lab::home();
    let mut routed = ping(X, "198.51.100.1");
    routed.splice(20..20, [131, 7, 4, 192, 168, 1, 9, 0]);
    routed[0] = 0x47;
    routed[3] += 8;
    close(&mut routed);
    assert!(lab.send(Lan, &routed).iter().all(|(side, _)| *side == Lan));
}
