//! Translation: sources, destinations, networks, clashes.

use std::net::Ipv4Addr;

use super::super::link::Side;
use super::super::packets::{ACK, FIN, RST, SYN, icmp, ping, pong, tcp, udp};
use super::super::script::Scenario;
use super::{L1, MASQUERADE, R_WAN, W2, scenario, scenario6};

const C: &str = "192.168.1.1:4000";
const S: &str = "192.0.2.2:80";
const OUTSIDE: &str = "192.0.2.254:4000";
/// Where Linux looks for a port when an ordinary one is taken (RFC 4787 asks for the same kind).
const ORDINARY: std::ops::RangeInclusive<u16> = 1024..=65_535;

const FORWARD_PORT: &str = "*nat\n-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\n-A PREROUTING -i wan -p udp --dport 8053 -j DNAT --to-destination 192.168.1.1:53\nCOMMIT\n";

pub const SCENARIOS: &[Scenario] = &[
    scenario("masquerade tcp", MASQUERADE, |run| {
        run.lan(&tcp(C, S, SYN, 1000, 0).tos(0x2e).id(0x2222).tcp_options(&[2, 4, 5, 0xb4, 3, 3, 7, 1]));
        run.flows();
        run.wan(&tcp(S, OUTSIDE, SYN | ACK, 5000, 1001).tos(3));
        run.lan(&tcp(C, S, ACK, 1001, 5001));
        run.lan(&tcp(C, S, ACK, 1001, 5001).data(333));
        run.wan(&tcp(S, OUTSIDE, ACK, 5001, 1334).data(77));
        run.lan(&tcp(C, S, FIN | ACK, 1334, 5078));
        run.wan(&tcp(S, OUTSIDE, FIN | ACK, 5078, 1335));
        run.lan(&tcp(C, S, ACK, 1335, 5079));
        run.flows();
    }),
    scenario("masquerade udp", MASQUERADE, |run| {
        run.lan(&udp(C, S, 20));
        run.wan(&udp(S, OUTSIDE, 30));
        run.wan(&udp("192.0.2.3:80", OUTSIDE, 30));
        run.wan(&udp("192.0.2.2:81", OUTSIDE, 30));
        run.flows();
    }),
    scenario(
        "masquerade leaves what fits no flow",
        "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.lan(&tcp(C, S, RST, 1000, 0));
            run.lan(&tcp(C, S, SYN | ACK, 1000, 1));
            run.lan(&pong(L1, W2, 3, 3));
            run.flows();
        },
    ),
    scenario("masquerade with a clash of source ports", MASQUERADE, |run| {
        run.lan(&udp(C, S, 20));
        let out = run.lan(&udp("192.168.1.2:4000", S, 20));
        let port = run.chosen(&out, Side::Wan, "another", ORDINARY);
        run.lan(&udp("192.168.1.2:4000", S, 25));
        run.wan(&udp(S, &format!("192.0.2.254:{port}"), 30));
        run.wan(&udp(S, OUTSIDE, 30));
        run.flows();
    }),
    scenario("masquerade with a clash of identifiers", MASQUERADE, |run| {
        run.lan(&ping(L1, W2, 700, 1));
        let out = run.lan(&ping("192.168.1.2", W2, 700, 1));
        let id = run.chosen(&out, Side::Wan, "another", 0..=65_535);
        run.wan(&pong(W2, R_WAN, id, 1));
        run.wan(&pong(W2, R_WAN, 700, 1));
        run.flows();
    }),
    scenario("masquerade one port to two destinations", MASQUERADE, |run| {
        run.lan(&udp(C, S, 20));
        run.lan(&udp(C, "192.0.2.3:80", 20));
        run.wan(&udp("192.0.2.3:80", OUTSIDE, 20));
        run.flows();
    }),
    scenario(
        "masquerade to a range of ports",
        "*nat\n-A POSTROUTING -o wan -p udp -j MASQUERADE --to-ports 5000-5009\nCOMMIT\n",
        |run| {
            let out = run.lan(&udp(C, S, 20));
            let port = run.chosen(&out, Side::Wan, "chosen", 5000..=5009);
            run.lan(&udp(C, S, 20));
            run.wan(&udp(S, &format!("192.0.2.254:{port}"), 30));
            // One of the range that is free is kept.
            let free = if port == 5003 { 5004 } else { 5003 };
            run.name_port(free, "free");
            run.lan(&udp(&format!("192.168.1.2:{free}"), "192.0.2.3:80", 5));
            run.flows();
        },
    ),
    scenario("masquerade a low port", MASQUERADE, |run| {
        run.lan(&udp("192.168.1.1:123", "192.0.2.2:123", 48));
        let out = run.lan(&udp("192.168.1.2:123", "192.0.2.2:123", 48));
        run.chosen(&out, Side::Wan, "another", 1..=1023);
    }),
    scenario(
        "snat to an address",
        "*nat\n-A POSTROUTING -s 192.168.1.0/24 -o wan -j SNAT --to-source 192.0.2.100\nCOMMIT\n",
        |run| {
            run.lan(&tcp(C, S, SYN, 1, 0));
            run.wan(&tcp(S, "192.0.2.100:4000", SYN | ACK, 1, 2));
            run.lan(&ping(L1, W2, 9, 1));
            run.wan(&pong(W2, "192.0.2.100", 9, 1));
            run.flows();
        },
    ),
    scenario(
        "snat to a port",
        "*nat\n-A POSTROUTING -o wan -p udp -j SNAT --to-source 192.0.2.100:6000\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, S, 20));
            run.wan(&udp(S, "192.0.2.100:6000", 20));
            run.lan(&udp("192.168.1.2:4000", "192.0.2.3:80", 20));
            // No port is left towards the first one.
            run.lan(&udp("192.168.1.2:4000", S, 20));
            run.flows();
        },
    ),
    scenario(
        "snat to a range of one",
        "*nat\n-A POSTROUTING -o wan -j SNAT --to-source 192.0.2.100-192.0.2.100\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, S, 20));
            run.flows();
        },
    ),
    scenario(
        "snat to a range",
        "*nat\n-A POSTROUTING -o wan -j SNAT --to-source 192.0.2.100-192.0.2.103\nCOMMIT\n",
        |run| {
            let out = run.lan(&udp(C, S, 20));
            let range = Ipv4Addr::new(192, 0, 2, 100)..=Ipv4Addr::new(192, 0, 2, 103);
            let addr = run.chosen_address(&out, Side::Wan, "one of them", range);
            run.lan(&udp(C, S, 20));
            run.wan(&udp(S, &format!("{addr}:4000"), 20));
            run.wan(&icmp(W2, &addr.to_string(), 3, 3, 0, &udp(&format!("{addr}:4000"), S, 20).bytes()));
            run.flows();
        },
    ),
    scenario6("ipv6 masquerade", "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n", |run| {
        let (inside, outside, server) =
            ("[2001:db8:1::1]:4000", "[2001:db8:2::fe]:4000", "[2001:db8:2::2]:80");
        run.lan(&tcp(inside, server, SYN, 1, 0).tcp_options(&[2, 4, 5, 0xa0]));
        run.wan(&tcp(server, outside, SYN | ACK, 1, 2));
        run.lan(&udp(inside, server, 21).extension(60, &[1, 4, 0, 0, 0, 0]));
        run.wan(&icmp("2001:db8:2::3", "2001:db8:2::fe", 1, 4, 0, &udp(outside, server, 21).bytes()));
        run.wan(&icmp(
            "2001:db8:2::3",
            "2001:db8:2::fe",
            2,
            0,
            1280,
            &tcp(outside, server, ACK, 2, 2).data(33).bytes(),
        ));
        run.lan(&ping("2001:db8:1::1", "2001:db8:2::2", 7, 1));
        run.wan(&pong("2001:db8:2::2", "2001:db8:2::fe", 7, 1));
        run.flows();
    }),
    scenario6(
        "ipv6 forwarded port",
        "*nat\n-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination [2001:db8:1::1]:80\nCOMMIT\n",
        |run| {
            run.wan(&tcp("[2001:db8:2::2]:3000", "[2001:db8:2::fe]:8080", SYN, 1, 0));
            run.lan(&tcp("[2001:db8:1::1]:80", "[2001:db8:2::2]:3000", SYN | ACK, 1, 2));
            let inside = tcp("[2001:db8:2::2]:3000", "[2001:db8:1::1]:80", SYN, 1, 0);
            run.lan(&icmp("2001:db8:1::77", "2001:db8:2::2", 1, 3, 0, &inside.bytes()));
            run.flows();
        },
    ),
    scenario("forwarded ports", FORWARD_PORT, |run| {
        run.wan(&tcp("192.0.2.2:3000", "192.0.2.254:8080", SYN, 1, 0));
        run.flows();
        run.lan(&tcp("192.168.1.1:80", "192.0.2.2:3000", SYN | ACK, 1, 2));
        run.wan(&tcp("192.0.2.2:3000", "192.0.2.254:8080", ACK, 2, 2));
        run.wan(&udp("192.0.2.2:3000", "192.0.2.254:8053", 20));
        run.lan(&udp("192.168.1.1:53", "192.0.2.2:3000", 20));
        run.flows();
    }),
    scenario("a forwarded port and a ttl of 1", FORWARD_PORT, |run| {
        run.wan(&udp("192.0.2.2:3000", "192.0.2.254:8053", 20).ttl(1));
        run.wan(&udp("192.0.2.2:3000", "192.0.2.254:8053", 20).ttl(2));
        run.lan(&udp("192.168.1.1:53", "192.0.2.2:3000", 20).ttl(1));
        run.flows();
    }),
    scenario("icmp errors about a forwarded port", FORWARD_PORT, |run| {
        run.wan(&udp("192.0.2.2:3000", "192.0.2.254:8053", 20));
        let inside = udp("192.0.2.2:3000", "192.168.1.1:53", 20).ttl(63);
        run.lan(&icmp(L1, W2, 3, 3, 0, &inside.bytes()));
        run.lan(&icmp("192.168.1.77", W2, 11, 0, 0, &inside.bytes()));
        run.lan(&udp("192.168.1.1:53", "192.0.2.2:3000", 20));
        let answer = udp("192.0.2.254:8053", "192.0.2.2:3000", 20);
        run.wan(&icmp(W2, R_WAN, 3, 3, 0, &answer.bytes()));
        run.wan(&icmp("192.0.2.3", R_WAN, 3, 4, 1200, &answer.bytes()));
    }),
    scenario(
        "dnat and masquerade",
        "*nat\n-A PREROUTING -d 192.0.2.254 -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\n-A POSTROUTING -o lan -p tcp -d 192.168.1.1 --dport 80 -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.wan(&tcp("192.0.2.2:3000", "192.0.2.254:8080", SYN, 1, 0));
            run.flows();
            run.lan(&tcp("192.168.1.1:80", "192.168.1.254:3000", SYN | ACK, 1, 2));
            run.wan(&tcp("192.0.2.2:3000", "192.0.2.254:8080", ACK, 2, 2));
            let inside = tcp("192.168.1.254:3000", "192.168.1.1:80", ACK, 2, 2);
            run.lan(&icmp(L1, "192.168.1.254", 3, 3, 0, &inside.bytes()));
            run.lan(&icmp("192.168.1.77", "192.168.1.254", 11, 0, 0, &inside.bytes()));
            run.flows();
        },
    ),
    scenario(
        "hairpin",
        "*nat\n-A PREROUTING -d 192.0.2.254 -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\n-A POSTROUTING -s 192.168.1.0/24 -d 192.168.1.0/24 -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.lan(&tcp("192.168.1.2:3000", "192.0.2.254:8080", SYN, 1, 0));
            run.lan(&tcp("192.168.1.1:80", "192.168.1.254:3000", SYN | ACK, 1, 2));
            run.lan(&tcp("192.168.1.2:3000", "192.0.2.254:8080", ACK, 2, 2));
            run.flows();
            // The server's own request to itself.
            run.lan(&tcp("192.168.1.1:3001", "192.0.2.254:8080", SYN, 1, 0));
            run.flows();
        },
    ),
    scenario(
        "hairpin without masquerade",
        "*nat\n-A PREROUTING -d 192.0.2.254 -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\nCOMMIT\n",
        |run| {
            run.lan(&tcp("192.168.1.2:3000", "192.0.2.254:8080", SYN, 1, 0));
            run.flows();
        },
    ),
    scenario(
        "dnat of what is in transit",
        "*nat\n-A PREROUTING -p udp --dport 53 -j DNAT --to-destination 192.0.2.3:5353\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, "198.51.100.1:53", 20));
            run.wan(&udp("192.0.2.3:5353", OUTSIDE, 20));
            run.wan(&udp("198.51.100.1:53", OUTSIDE, 20));
            run.flows();
        },
    ),
    scenario(
        "dnat to an address only",
        "*nat\n-A PREROUTING -i wan -d 192.0.2.254 -j DNAT --to-destination 192.168.1.1\nCOMMIT\n",
        |run| {
            run.wan(&tcp("192.0.2.2:3000", "192.0.2.254:22", SYN, 1, 0));
            run.wan(&ping(W2, R_WAN, 4, 1));
            run.lan(&pong(L1, W2, 4, 1));
            run.flows();
        },
    ),
    scenario(
        "two forwarded ports to one server",
        "*nat\n-A PREROUTING -i wan -p udp --dport 81 -j DNAT --to-destination 192.168.1.1:80\n-A PREROUTING -i wan -p udp --dport 82 -j DNAT --to-destination 192.168.1.1:80\nCOMMIT\n",
        |run| {
            run.wan(&udp("192.0.2.2:3000", "192.0.2.254:81", 20));
            let out = run.wan(&udp("192.0.2.2:3000", "192.0.2.254:82", 20));
            let port = run.chosen(&out, Side::Lan, "another", ORDINARY);
            run.lan(&udp("192.168.1.1:80", &format!("192.0.2.2:{port}"), 10));
            run.lan(&udp("192.168.1.1:80", "192.0.2.2:3000", 10));
            run.flows();
        },
    ),
    scenario(
        "redirect to a closed port",
        "*nat\n-A PREROUTING -i lan -p tcp --dport 80 -j REDIRECT --to-ports 8080\n-A PREROUTING -i lan -p udp --dport 53 -j REDIRECT\nCOMMIT\n",
        |run| {
            run.lan(&tcp(C, S, SYN, 1, 0));
            run.lan(&udp(C, "192.0.2.2:53", 20));
            run.flows();
        },
    ),
    scenario(
        "netmap",
        "*nat\n-A POSTROUTING -o wan -s 192.168.1.0/24 -j NETMAP --to 198.51.100.0/24\n-A PREROUTING -i wan -d 198.51.100.0/24 -j NETMAP --to 192.168.1.0/24\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, S, 20));
            run.wan(&udp(S, "198.51.100.1:4000", 20));
            run.wan(&tcp("192.0.2.2:3000", "198.51.100.2:80", SYN, 1, 0));
            run.lan(&tcp("192.168.1.2:80", "192.0.2.2:3000", SYN | ACK, 1, 2));
            run.wan(&ping(W2, "198.51.100.3", 4, 1));
            run.lan(&pong("192.168.1.3", W2, 4, 1));
            run.flows();
        },
    ),
    scenario(
        "nat rules are for new flows only",
        "*nat\n-A POSTROUTING -o wan -p udp --dport 80 -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.wan(&udp(S, C, 20));
            run.lan(&udp(C, S, 20));
            run.flows();
        },
    ),
    scenario(
        "nat accept",
        "*nat\n-A POSTROUTING -o wan -d 192.0.2.3 -j ACCEPT\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, S, 20));
            run.lan(&udp("192.168.1.2:4000", "192.0.2.3:80", 20));
            run.flows();
        },
    ),
    scenario("a flow's endpoint clashes with one that is not translated", MASQUERADE, |run| {
        // The router's own address as a source is nobody's but its own; a flow from outside to it is a flow, too.
        run.wan(&udp(S, OUTSIDE, 20));
        let out = run.lan(&udp(C, S, 20));
        run.chosen(&out, Side::Wan, "another", ORDINARY);
        run.flows();
    }),
    scenario(
        "ports shifted",
        "*nat\n-A PREROUTING -i wan -p udp --dport 8000:8200 -j DNAT --to-destination 192.168.1.1:9000-9100/8000\nCOMMIT\n",
        |run| {
            for port in [8000, 8042, 8100, 8101] {
                run.wan(&udp(&format!("192.0.2.2:{port}"), &format!("192.0.2.254:{port}"), 5));
            }
            run.flows();
        },
    ),
    scenario(
        "a source's port alone",
        "*nat\n-A POSTROUTING -o wan -p udp -j SNAT --to-source :2000\nCOMMIT\n",
        |run| {
            run.lan(&udp("192.168.1.1:4000", "192.0.2.2:53", 5));
            run.wan(&udp("192.0.2.2:53", "192.168.1.1:2000", 5));
            run.flows();
        },
    ),
];
