//! The filter: what is rejected how, limits, marks, what is not tracked, the MSS.

use super::super::packets::{ACK, Packet, RST, SYN, icmp, ping, tcp, udp};
use super::super::router::Setup;
use super::super::script::{Run, Scenario};
use super::{L1, L6, R_WAN, W2, W6, scenario, scenario6, with};

const C: &str = "192.168.1.1:4000";
const S: &str = "192.0.2.2:80";
const C6: &str = "[2001:db8:1::1]:4000";
const S6: &str = "[2001:db8:2::2]:80";

/// Everything that a rule may have to reject.
fn one_of_each(run: &mut Run<'_>) {
    run.lan(&udp(C, S, 20).tos(0x2d));
    run.lan(&tcp(C, S, SYN, 1, 0).tos(0x2d));
    run.lan(&tcp(C, S, ACK, 77, 88).data(10));
    run.lan(&tcp(C, S, RST, 77, 0));
    run.lan(&ping(L1, W2, 7, 1));
    run.lan(&udp(C, S, 1200));
    run.lan(&icmp(L1, W2, 3, 3, 0, &udp(S, C, 20).bytes()));
}

fn one_of_each_6(run: &mut Run<'_>) {
    run.lan(&udp(C6, S6, 20).tos(0x2d));
    run.lan(&tcp(C6, S6, SYN, 1, 0).tos(0x2d));
    run.lan(&tcp(C6, S6, ACK, 77, 88).data(10));
    run.lan(&ping(L6, W6, 7, 1));
    run.lan(&udp(C6, S6, 1400));
}

fn syn(mss: u16) -> Packet {
    let [high, low] = mss.to_be_bytes();
    tcp(C, S, SYN, 1, 0).tcp_options(&[2, 4, high, low, 1, 3, 3, 7])
}

fn handshake(run: &mut Run<'_>) {
    run.lan(&syn(1460));
    run.wan(&tcp(S, C, SYN | ACK, 1, 2).tcp_options(&[2, 4, 5, 0xb4]));
    run.lan(&tcp(C, S, ACK, 2, 2));
}

macro_rules! reject {
    ($name:literal, $with:literal) => {
        scenario(
            $name,
            concat!("*filter\n-A FORWARD -j REJECT --reject-with ", $with, "\nCOMMIT\n"),
            one_of_each,
        )
    };
}

macro_rules! reject6 {
    ($name:literal, $with:literal) => {
        scenario6(
            $name,
            concat!("*filter\n-A FORWARD -j REJECT --reject-with ", $with, "\nCOMMIT\n"),
            one_of_each_6,
        )
    };
}

const SMALL: Setup = Setup { mtus: [1500, 1280], ..Setup::new("") };

pub const SCENARIOS: &[Scenario] = &[
    reject!("reject port-unreachable", "icmp-port-unreachable"),
    reject!("reject net-unreachable", "icmp-net-unreachable"),
    reject!("reject host-unreachable", "icmp-host-unreachable"),
    reject!("reject proto-unreachable", "icmp-proto-unreachable"),
    reject!("reject net-prohibited", "icmp-net-prohibited"),
    reject!("reject host-prohibited", "icmp-host-prohibited"),
    reject!("reject admin-prohibited", "icmp-admin-prohibited"),
    reject6!("ipv6 reject port-unreachable", "icmp6-port-unreachable"),
    reject6!("ipv6 reject no-route", "icmp6-no-route"),
    reject6!("ipv6 reject adm-prohibited", "icmp6-adm-prohibited"),
    reject6!("ipv6 reject addr-unreachable", "icmp6-addr-unreachable"),
    scenario(
        "reject with a rst",
        "*filter\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        |run| {
            run.lan(&tcp(C, S, SYN, 1, 0).tos(0x2d));
            run.lan(&tcp(C, S, SYN, 1, 0).data(10));
            run.lan(&tcp(C, S, ACK, 77, 88).data(10));
            run.lan(&tcp(C, S, SYN | ACK, 77, 88));
            run.lan(&tcp(C, S, 1, 77, 88).data(3));
            run.lan(&tcp(C, S, RST, 77, 0));
            run.lan(&tcp(C, S, ACK, 77, 88).data(10).checksum(0x1111));
        },
    ),
    scenario6(
        "ipv6 reject with a rst",
        "*filter\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        |run| {
            run.lan(&tcp(C6, S6, SYN, 1, 0));
            run.lan(&tcp(C6, S6, ACK, 77, 88).data(10));
            run.lan(&tcp(C6, S6, RST, 77, 0));
        },
    ),
    scenario(
        "reject what comes to the router",
        "*filter\n-A INPUT -p udp --dport 53 -j REJECT\n-A INPUT -p tcp --dport 22 -j REJECT --reject-with tcp-reset\n-A INPUT -p icmp --icmp-type echo-request -j DROP\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, "192.168.1.254:53", 20));
            run.lan(&tcp(C, "192.168.1.254:22", SYN, 1, 0));
            run.lan(&tcp(C, "192.0.2.254:22", SYN, 1, 0));
            run.lan(&ping(L1, "192.168.1.254", 7, 1));
            run.lan(&udp(C, "192.168.1.254:54", 20));
        },
    ),
    scenario(
        "reject a forwarded port",
        "*nat\n-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\n-A PREROUTING -i wan -p udp --dport 8053 -j DNAT --to-destination 192.168.1.1:53\nCOMMIT\n*filter\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\n-A FORWARD -p udp -j REJECT\nCOMMIT\n",
        |run| {
            run.wan(&udp("192.0.2.2:3000", "192.0.2.254:8053", 20));
            run.wan(&tcp("192.0.2.2:3000", "192.0.2.254:8080", SYN, 1, 0));
            run.flows();
        },
    ),
    scenario(
        "reject of what would be masqueraded",
        "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n*filter\n-A FORWARD -p udp -j REJECT --reject-with icmp-admin-prohibited\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, S, 20));
            run.lan(&tcp(C, S, SYN, 1, 0));
            run.flows();
        },
    ),
    scenario("reject of what is broken", "*filter\n-A FORWARD -p udp -j REJECT\nCOMMIT\n", |run| {
        run.lan(&udp(C, S, 10).checksum(0x1111));
        run.lan(&udp(C, S, 10).checksum(0));
    }),
    scenario(
        "limit",
        "*filter\n-A FORWARD -p udp -m limit --limit 1/minute --limit-burst 3 -j ACCEPT\n-A FORWARD -p udp -j DROP\nCOMMIT\n",
        |run| {
            for len in 0..5 {
                run.lan(&udp(C, S, len));
            }
        },
    ),
    scenario(
        "hashlimit",
        "*filter\n-A FORWARD -p udp -m hashlimit --hashlimit-upto 1/minute --hashlimit-burst 2 --hashlimit-mode srcip,dstport --hashlimit-name a -j ACCEPT\n-A FORWARD -p udp -j DROP\nCOMMIT\n",
        |run| {
            for (from, to) in
                [(1, 53), (1, 53), (1, 53), (2, 53), (1, 54), (1, 54), (1, 54), (2, 53), (2, 53)]
            {
                run.lan(&udp(&format!("192.168.1.{from}:4000"), &format!("192.0.2.2:{to}"), 5));
            }
        },
    ),
    scenario(
        "connlimit",
        "*filter\n-A FORWARD -p tcp --syn -m connlimit --connlimit-above 2 -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        |run| {
            for port in 4000..4004 {
                run.lan(&tcp(&format!("192.168.1.1:{port}"), S, SYN, 1, 0));
            }
            run.lan(&tcp("192.168.1.2:4000", S, SYN, 1, 0));
            run.flows();
        },
    ),
    scenario(
        "multiport",
        "*filter\n-A FORWARD -p udp -m multiport --dports 53,100:200 -j DROP\n-A FORWARD -p tcp -m multiport --sports 4000,4001 -j DROP\n-A FORWARD -p tcp -m multiport ! --ports 80,81 -j DROP\nCOMMIT\n",
        |run| {
            for port in [52, 53, 54, 99, 100, 150, 200, 201] {
                run.lan(&udp(C, &format!("192.0.2.2:{port}"), 5));
            }
            for (from, to) in [(4000, 80), (4001, 80), (4002, 80), (4002, 82), (81, 82)] {
                run.lan(&tcp(&format!("192.168.1.1:{from}"), &format!("192.0.2.2:{to}"), SYN, 1, 0));
            }
        },
    ),
    scenario(
        "addresses, protocols and interfaces",
        "*filter\n-A FORWARD -s 192.168.1.2/32 -j DROP\n-A FORWARD ! -d 192.0.2.0/24 -j DROP\n-A FORWARD -i wan -p icmp -j DROP\n-A FORWARD -o w+ -p udp --sport 5000:5010 -j DROP\n-A FORWARD -p tcp --tcp-flags SYN,ACK,FIN SYN -m tcp ! --dport 80 -j DROP\nCOMMIT\n",
        |run| {
            run.lan(&udp("192.168.1.2:4000", S, 5));
            run.lan(&udp("192.168.1.3:4000", S, 5));
            run.lan(&udp(C, "198.51.100.1:53", 5));
            run.wan(&ping(W2, L1, 1, 1));
            run.lan(&ping(L1, W2, 1, 1));
            run.lan(&udp("192.168.1.1:5000", S, 5));
            run.lan(&udp("192.168.1.1:5011", S, 5));
            run.lan(&tcp(C, S, SYN, 1, 0));
            run.lan(&tcp(C, "192.0.2.2:81", SYN, 1, 0));
            run.lan(&tcp(C, "192.0.2.2:81", ACK, 1, 1));
        },
    ),
    scenario(
        "chains of one's own",
        "*filter\n:ours - [0:0]\n:more - [0:0]\n-A FORWARD -j ours\n-A FORWARD -p udp --dport 54 -j DROP\n-A ours -p udp --dport 53 -j RETURN\n-A ours -p tcp -g more\n-A ours -p udp --dport 55 -j ACCEPT\n-A more -p tcp --dport 22 -j DROP\nCOMMIT\n",
        |run| {
            for port in [53, 54, 55] {
                run.lan(&udp(C, &format!("192.0.2.2:{port}"), 5));
            }
            for port in [22, 23] {
                run.lan(&tcp(C, &format!("192.0.2.2:{port}"), SYN, 1, 0));
            }
        },
    ),
    scenario(
        "ranges and types of addresses",
        "*filter\n-A FORWARD -m iprange --src-range 192.168.1.2-192.168.1.3 -p udp --dport 53 -j DROP\n-A FORWARD -m iprange ! --dst-range 192.0.2.1-192.0.2.2 -j DROP\n-A INPUT -m addrtype --dst-type BROADCAST,MULTICAST -j DROP\n-A INPUT -m addrtype ! --dst-type LOCAL -j DROP\n-A FORWARD -m addrtype --dst-type LOCAL -j DROP\n-A FORWARD -s 192.168.1.1,192.168.1.2 -d 192.0.2.1,192.0.2.2 -p udp --dport 54 -j DROP\nCOMMIT\n",
        |run| {
            for from in 1..=3 {
                for to in ["192.0.2.2:53", "192.0.2.2:54", "192.0.2.2:55", "192.0.2.3:53"] {
                    run.lan(&udp(&format!("192.168.1.{from}:4000"), to, 5));
                }
            }
            run.lan(&ping(L1, "192.168.1.254", 1, 1));
            run.lan(&ping(L1, R_WAN, 2, 1));
        },
    ),
    scenario(
        "types of addresses forwarded",
        "*nat\n-A PREROUTING -p udp -m addrtype --dst-type LOCAL -m udp --dport 53 -j DNAT --to-destination 192.168.1.2\n-A PREROUTING -p udp -m addrtype --dst-type UNICAST -m udp --dport 54 -j DNAT --to-destination 192.168.1.2:55\nCOMMIT\n",
        |run| {
            run.wan(&udp("192.0.2.2:4000", "192.0.2.254:53", 5));
            run.wan(&udp("192.0.2.2:4002", "192.168.1.254:53", 5));
            run.wan(&udp("192.0.2.2:4000", "192.168.1.1:53", 5));
            run.wan(&udp("192.0.2.2:4001", "192.168.1.1:54", 5));
            run.flows();
        },
    ),
    scenario(
        "where a flow was going",
        "*nat\n-A PREROUTING -i wan -p udp --dport 8000:8009 -j DNAT --to-destination 192.168.1.1:53\nCOMMIT\n*filter\n-A FORWARD -m conntrack --ctorigdst 192.0.2.254 --ctorigdstport 8001 -j DROP\n-A FORWARD -m conntrack --ctreplsrc 192.168.1.1 --ctorigdstport 8002 --ctproto udp -j DROP\n-A FORWARD -m conntrack ! --ctorigsrc 192.0.2.0/24 --ctrepldstport 3003:3005 -j DROP\n-A FORWARD -m conntrack --ctorigsrcport 3004 --ctrepldst 192.0.2.2 -j DROP\nCOMMIT\n",
        |run| {
            for port in 0..6 {
                run.wan(&udp(
                    &format!("192.0.2.2:{}", 3000 + port),
                    &format!("192.0.2.254:{}", 8000 + port),
                    5,
                ));
            }
            run.lan(&udp("192.168.1.1:3005", S, 5));
            run.flows();
        },
    ),
    scenario(
        "icmp types",
        "*filter\n-A FORWARD -p icmp --icmp-type echo-request -j DROP\n-A FORWARD -p icmp --icmp-type 3/1 -j DROP\nCOMMIT\n",
        |run| {
            run.lan(&ping(L1, W2, 1, 1));
            run.lan(&super::super::packets::pong(L1, W2, 1, 1));
            let quote = udp(S, C, 20).bytes();
            run.lan(&icmp(L1, W2, 3, 1, 0, &quote));
            run.lan(&icmp(L1, W2, 3, 3, 0, &quote));
        },
    ),
    scenario(
        "policies",
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, S, 5));
            run.lan(&tcp(C, S, SYN, 1, 0));
            run.lan(&ping(L1, "192.168.1.254", 1, 1));
        },
    ),
    scenario(
        "connmark",
        "*filter\n-A FORWARD -i lan -m conntrack --ctstate NEW -p udp --dport 53 -j CONNMARK --set-mark 7\n-A FORWARD -i lan -m conntrack --ctstate NEW -p udp --dport 54 -j CONNMARK --set-xmark 0x10/0xf0\n-A FORWARD -m connmark --mark 7 -j ACCEPT\n-A FORWARD -p udp --dport 55 -j DROP\nCOMMIT\n",
        |run| {
            for port in [53, 54, 55] {
                run.lan(&udp(C, &format!("192.0.2.2:{port}"), 5));
            }
            run.flows();
        },
    ),
    scenario(
        "connmark with other bits than the mark's",
        "*filter\n-A FORWARD -m conntrack --ctstate NEW -j MARK --set-mark 0x12\n-A FORWARD -m conntrack --ctstate NEW -j CONNMARK --set-mark 0x340\n-A FORWARD -p udp --dport 53 -j CONNMARK --save-mark --nfmask 0xf --ctmask 0xf0\n-A FORWARD -p udp --dport 54 -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf00\n-A FORWARD -p udp --dport 54 -j CONNMARK --save-mark\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, "192.0.2.2:53", 5));
            run.lan(&udp(C, "192.0.2.2:54", 5));
            run.flows();
        },
    ),
    scenario(
        "mark",
        "*filter\n-A FORWARD -p udp --dport 53 -j MARK --set-mark 1\n-A FORWARD -p udp -j MARK --or-mark 0x100\n-A FORWARD -m mark --mark 0x101 -j DROP\n-A FORWARD -m mark --mark 0x100/0x100 -j CONNMARK --save-mark\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, "192.0.2.2:53", 5));
            run.lan(&udp(C, "192.0.2.2:54", 5));
            run.flows();
        },
    ),
    scenario(
        "what is not tracked",
        "*raw\n-A PREROUTING -p udp --dport 53 -j NOTRACK\n-A PREROUTING -p udp --sport 53 -j CT --notrack\nCOMMIT\n*filter\n-A FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT\n-A FORWARD -i wan -m conntrack --ctstate NEW -j DROP\nCOMMIT\n*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, "192.0.2.2:53", 5));
            run.wan(&udp("192.0.2.2:53", C, 5));
            run.wan(&udp("192.0.2.2:54", C, 5));
            run.lan(&udp(C, "192.0.2.2:54", 5));
            run.flows();
        },
    ),
    scenario("raw drop", "*raw\n-A PREROUTING -p udp --dport 53 -j DROP\nCOMMIT\n", |run| {
        run.lan(&udp(C, "192.0.2.2:53", 5));
        run.lan(&udp(C, "192.0.2.2:54", 5));
    }),
    scenario(
        "states of translation",
        "*nat\n-A PREROUTING -i wan -p udp --dport 8053 -j DNAT --to-destination 192.168.1.1:53\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\n-A FORWARD -o wan -j ACCEPT\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\nCOMMIT\n",
        |run| {
            run.wan(&udp("192.0.2.2:3000", "192.0.2.254:8053", 5));
            run.lan(&udp("192.168.1.1:53", "192.0.2.2:3000", 5));
            run.lan(&udp(C, S, 5));
            run.wan(&udp(S, "192.0.2.254:4000", 5));
            run.wan(&udp("192.0.2.3:80", C, 5));
            run.flows();
        },
    ),
    with(
        scenario(
            "mss clamped to the path",
            "*mangle\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\nCOMMIT\n",
            handshake,
        ),
        SMALL,
    ),
    scenario(
        "mss clamped to the path where it fits",
        "*mangle\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\nCOMMIT\n",
        |run| {
            run.lan(&syn(1460));
            run.lan(&syn(9000));
            run.lan(&syn(500));
        },
    ),
    scenario(
        "mss set",
        "*mangle\n-A POSTROUTING -o wan -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1200\nCOMMIT\n",
        |run| {
            handshake(run);
            run.lan(&syn(1100));
            run.lan(&tcp(C, S, SYN, 1, 0));
        },
    ),
    scenario(
        "mss of a syn without one",
        "*mangle\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\nCOMMIT\n",
        |run| {
            run.lan(&tcp(C, S, SYN, 1, 0));
            run.wan(&tcp(S, C, SYN | ACK, 1, 2));
            // Other options, an end of them, as many as there may be with one more and without.
            let from = |port: u16| format!("192.168.1.1:{port}");
            run.lan(&tcp(&from(4001), S, SYN, 1, 0).tcp_options(&[1, 3, 3, 7, 4, 2, 1, 1]));
            run.lan(&tcp(&from(4002), S, SYN, 1, 0).tcp_options(&[1, 1, 4, 2, 0, 0, 0, 0]));
            run.lan(&tcp(&from(4003), S, SYN, 1, 0).tcp_options(&[1; 36]));
            run.lan(&tcp(&from(4004), S, SYN, 1, 0).tcp_options(&[1; 40]));
            run.lan(&tcp(&from(4005), S, SYN, 1, 0).data(5));
            run.lan(&tcp(&from(4006), S, SYN, 1, 0).tcp_options(&[3, 0, 0, 0]));
            run.lan(&tcp(C, S, ACK, 2, 2));
            run.flows();
        },
    ),
    scenario(
        "mss of a syn without one, less than the default",
        "*mangle\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 500\nCOMMIT\n*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.lan(&tcp(C, S, SYN, 1, 0).tcp_options(&[4, 2, 1, 1]));
            run.wan(&tcp(S, "192.0.2.254:4000", SYN | ACK, 1, 2));
        },
    ),
    scenario6(
        "ipv6 mss of a syn without one",
        "*mangle\n-A FORWARD -i lan -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\n-A FORWARD -i wan -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000\nCOMMIT\n",
        |run| {
            run.lan(&tcp(C6, S6, SYN, 1, 0).tcp_options(&[1, 3, 3, 7]));
            run.wan(&tcp(S6, C6, SYN | ACK, 1, 2));
            run.lan(&tcp("[2001:db8:1::1]:4001", S6, SYN, 1, 0).data(1));
        },
    ),
    with(
        scenario(
            "mss clamped in the filter table",
            "*filter\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\nCOMMIT\n",
            handshake,
        ),
        SMALL,
    ),
    scenario(
        "mss clamped and masqueraded",
        "*mangle\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000\nCOMMIT\n*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n",
        |run| {
            run.lan(&syn(1460));
            run.wan(&tcp(S, "192.0.2.254:4000", SYN | ACK, 1, 2).tcp_options(&[2, 4, 5, 0xb4]));
            run.flows();
        },
    ),
    scenario(
        "mangle marks every packet",
        "*mangle\n-A PREROUTING -i lan -p udp -j MARK --set-mark 3\n-A PREROUTING -i lan -p udp --dport 80 -j CONNMARK --save-mark\nCOMMIT\n*filter\n-A FORWARD -p udp -m mark ! --mark 3 -j DROP\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, S, 5));
            run.wan(&udp("192.0.2.3:80", C, 5));
            run.flows();
        },
    ),
    scenario("mangle drops", "*mangle\n-A FORWARD -p udp --dport 53 -j DROP\nCOMMIT\n", |run| {
        run.lan(&udp(C, "192.0.2.2:53", 5));
        run.lan(&udp(C, "192.0.2.2:54", 5));
    }),
    scenario(
        "output rules for the router's own words",
        "*filter\n-A OUTPUT -p icmp --icmp-type time-exceeded -j DROP\nCOMMIT\n",
        |run| {
            run.lan(&udp(C, S, 20).ttl(1));
            run.lan(&udp(C, "192.168.1.254:9", 20));
            run.lan(&ping(L1, R_WAN, 1, 1));
        },
    ),
];
