//! `bywash gateway`'s rules and routes as kernels on both sides meet them: ports that lead inside, servers that share them,
//! networks mapped to others, refusals, and the way that packets take.

mod common;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bywash_afxdp::require_root;
use bywash_afxdp::testing::{Namespace, VethOptions};
use common::gateway::{
    GatewayBed, Greeted, HOME, INSIDE4, INSIDE4_MORE, INSIDE6, LAN4, OUTSIDE4, OUTSIDE6, WAN4, ask, serve,
    udp, who,
};
use common::wait_until;

/// Linux's numbers for what ICMP errors say.
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// Connects within this time, and says with what error not.
fn connect_within(limit: Duration, from: &Namespace, to: &str, port: u16) -> Result<(), std::io::Error> {
    let to = SocketAddr::new(to.parse().expect("an address"), port);
    from.run(|| TcpStream::connect_timeout(&to, limit)).map(drop)
}

/// As [`connect_within`] a second and a half, the time for one SYN to be sent again.
fn connect(from: &Namespace, to: &str, port: u16) -> Result<(), std::io::Error> {
    connect_within(Duration::from_millis(1500), from, to, port)
}

/// The system's number for what went wrong.
fn number<T>(result: Result<T, std::io::Error>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn forwarded_ports_lead_to_the_servers_inside_and_back_inside_by_hairpin() {
    require_root!();
    let bed = GatewayBed::new();
    serve(bed.inside(), 8000, "inside");
    let nat = "\
*nat
-A PREROUTING -d 192.0.2.254 -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:8000
-A PREROUTING -d 192.0.2.254 -p udp --dport 8080 -j DNAT --to-destination 192.168.1.1:8000
-A POSTROUTING -s 192.168.1.0/24 -d 192.168.1.0/24 -j MASQUERADE
COMMIT
";
    let gateway = bed.start(&format!("{nat}{HOME}"));
    let mut greeted = Greeted::connect(bed.outside(), WAN4, 8080).expect("the port leads inside");
    assert_eq!((greeted.name.as_str(), greeted.client.ip().to_string().as_str()), ("inside", OUTSIDE4));
    greeted.exchange("through the forwarded port\n");
    // By the outer address from inside: both ends are in the LAN, and see the gateway.
    let mut greeted = Greeted::connect(bed.inside(), WAN4, 8080).expect("hairpin");
    assert_eq!((greeted.name.as_str(), greeted.client.ip().to_string().as_str()), ("inside", LAN4));
    greeted.exchange("there and back inside\n");
    let socket = udp(bed.inside(), "0.0.0.0:0", (WAN4, 8080));
    assert_eq!(who(&socket).1.ip().to_string(), LAN4);
    assert_eq!(who(&udp(bed.outside(), "0.0.0.0:0", (WAN4, 8080))).1.ip().to_string(), OUTSIDE4);
    // What no rule forwards stays outside.
    assert_eq!(connect(bed.outside(), WAN4, 8081).map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
    assert_eq!(connect(bed.outside(), INSIDE4, 8000).map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
    gateway.stop();
}

/// Which of the servers inside answer at a port of the gateway's, for clients at many ports and several addresses.
fn servers_of(bed: &GatewayBed, port: u16, clients: &[String]) -> Vec<BTreeSet<String>> {
    let asked = |client: &String| {
        let sockets = (0..4).map(|_| udp(bed.outside(), &format!("{client}:0"), (WAN4, port)));
        sockets.map(|socket| who(&socket).0).collect()
    };
    clients.iter().map(asked).collect()
}

#[test]
fn several_servers_share_a_port_and_a_client_keeps_its_own_when_rules_say_so() {
    require_root!();
    let bed = GatewayBed::new();
    // A server at each of three addresses, told apart by their ports.
    for (addr, name) in [(INSIDE4, "first"), (INSIDE4_MORE[0], "second"), (INSIDE4_MORE[1], "third")] {
        let udp = bed.inside().run(|| std::net::UdpSocket::bind((addr, 8000)).expect("bind"));
        std::thread::spawn(move || {
            let mut bytes = [0; 100];
            while let Ok((_, peer)) = udp.recv_from(&mut bytes) {
                let _ = udp.send_to(format!("{name} {peer}\n").as_bytes(), peer);
            }
        });
    }
    let nat = "\
*nat
-A PREROUTING -i wan -p udp --dport 8080 -j DNAT --to-destination 192.168.1.1-192.168.1.3:8000
-A PREROUTING -i wan -p udp --dport 8081 -j DNAT --to-destination 192.168.1.1-192.168.1.3:8000 --persistent
COMMIT
";
    let gateway = bed.start(&format!("{nat}{HOME}"));
    let clients: Vec<String> = (100..140).map(|host| format!("192.0.2.{host}")).collect();
    clients.iter().for_each(|client| bed.wan.peer_address(&format!("{client}/24")));
    let all = |sets: &[BTreeSet<String>]| sets.iter().flatten().collect::<BTreeSet<_>>().len();
    let spread = servers_of(&bed, 8080, &clients);
    assert_eq!(all(&spread), 3, "all servers have a share: {spread:?}");
    let kept = servers_of(&bed, 8081, &clients);
    assert!(kept.iter().all(|servers| servers.len() == 1), "each client has one server: {kept:?}");
    assert_eq!(all(&kept), 3, "the clients are spread: {kept:?}");
    assert_eq!(servers_of(&bed, 8081, &clients), kept, "and stay where they are");
    gateway.stop();
}

#[test]
fn redirect_ends_at_the_gateways_own_echo_and_netmap_maps_a_network() {
    require_root!();
    let bed = GatewayBed::new();
    serve(bed.inside(), 8000, "inside");
    serve(bed.outside(), 8000, "outside");
    bed.outside().ip(&format!("route add 203.0.113.0/24 via {WAN4}"));
    let nat = "\
*nat
-A PREROUTING -i lan -p tcp --dport 7777 -j REDIRECT --to-ports 7
-A PREROUTING -i lan -p udp --dport 7777 -j REDIRECT --to-ports 7
-A PREROUTING -i wan -d 203.0.113.0/24 -j NETMAP --to 192.168.1.0/24
-A POSTROUTING -o wan -s 192.168.1.2/31 -j NETMAP --to 203.0.113.0/24
COMMIT
";
    let gateway = bed.start(&format!("{nat}{HOME}"));
    // To an address that does not exist anywhere.
    let addr = SocketAddr::new("198.51.100.99".parse().expect("an address"), 7777);
    let stream = bed.inside().run(|| TcpStream::connect_timeout(&addr, Duration::from_secs(2)));
    let mut stream = stream.expect("redirected to the gateway");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
    stream.write_all(b"to the gateway itself").expect("send");
    let mut back = [0; 21];
    stream.read_exact(&mut back).expect("the echo");
    assert_eq!(&back, b"to the gateway itself");
    let socket = udp(bed.inside(), "0.0.0.0:0", ("198.51.100.99", 7777));
    assert_eq!(ask(&socket, b"and by UDP").expect("the echo"), b"and by UDP");

    // Inwards every host has its own outer address; outwards those of a network do.
    for host in ["1", "2", "3"] {
        let greeted = Greeted::connect(bed.outside(), &format!("203.0.113.{host}"), 8000).expect("mapped");
        assert_eq!(greeted.name, "inside");
    }
    for (from, seen) in [("192.168.1.2", "203.0.113.2"), ("192.168.1.3", "203.0.113.3"), (INSIDE4, WAN4)] {
        let (_, client) = who(&udp(bed.inside(), &format!("{from}:0"), (OUTSIDE4, 8000)));
        assert_eq!(client.ip().to_string(), seen);
    }
    gateway.stop();
}

#[test]
fn rejected_clients_hear_the_reason_that_the_rule_gives() {
    require_root!();
    let bed = GatewayBed::new();
    serve(bed.outside(), 8000, "outside");
    let rules = "\
*nat
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
-A FORWARD -p tcp --dport 81 -j REJECT --reject-with tcp-reset
-A FORWARD -p tcp --dport 82 -j REJECT --reject-with icmp-net-unreachable
-A FORWARD -p tcp --dport 83 -j REJECT --reject-with icmp-admin-prohibited
-A FORWARD -p tcp --dport 84 -j DROP
-A FORWARD -p tcp --dport 85 -j REJECT --reject-with icmp6-adm-prohibited
-A FORWARD -p udp --dport 81 -j REJECT
-A INPUT -p tcp --dport 7 -j REJECT --reject-with tcp-reset
-A INPUT -p udp --dport 7 -j REJECT
COMMIT
";
    let gateway = bed.start(rules);
    for (from, to) in [(bed.inside(), OUTSIDE4), (bed.inside(), OUTSIDE6), (bed.outside(), INSIDE6)] {
        assert_eq!(number(connect(from, to, 81)), Some(ECONNREFUSED), "a reset from {to}");
        assert_eq!(connect(from, to, 84).map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
        let from_any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        assert_eq!(number(ask(&udp(from, from_any, (to, 81)), b"x")), Some(ECONNREFUSED), "UDP to {to}");
    }
    assert_eq!(number(connect(bed.inside(), OUTSIDE4, 82)), Some(ENETUNREACH));
    assert_eq!(number(connect(bed.inside(), OUTSIDE4, 83)), Some(EHOSTUNREACH));
    // Linux's word for administratively prohibited by IPv6: EACCES.
    assert_eq!(number(connect(bed.inside(), OUTSIDE6, 85)), Some(13));
    assert_eq!(number(connect(bed.inside(), LAN4, 7)), Some(ECONNREFUSED));
    assert_eq!(number(ask(&udp(bed.inside(), "0.0.0.0:0", (LAN4, 7)), b"x")), Some(ECONNREFUSED));
    assert_eq!(Greeted::connect(bed.inside(), OUTSIDE4, 8000).expect("not rejected").name, "outside");
    gateway.stop();
}

#[test]
fn a_source_that_lives_on_the_other_side_is_not_believed() {
    require_root!();
    let bed = GatewayBed::new();
    serve(bed.inside(), 8000, "inside");
    // The outside host claims an address of the LAN. With rules that let everything pass.
    bed.outside().ip("address add 192.168.1.77/32 dev lo");
    let gateway = bed.start("*filter\n:FORWARD ACCEPT\nCOMMIT\n");
    let honest = udp(bed.outside(), &format!("{OUTSIDE4}:0"), (INSIDE4, 8000));
    assert_eq!(who(&honest).0, "inside");
    let before = bed.dropped("reverse_path");
    let liar = udp(bed.outside(), "192.168.1.77:0", (INSIDE4, 8000));
    assert_eq!(ask(&liar, b"who").map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    assert_eq!(bed.dropped("reverse_path"), before + 1);
    gateway.stop();

    let config = format!("reverse-path = 'off'\n{}", bed.config());
    let gateway = bed.start_with(&config, "*filter\n:FORWARD ACCEPT\nCOMMIT\n", &[]);
    liar.send(b"who").expect("send");
    wait_until(Duration::from_secs(5), "it is forwarded when nobody checks", || {
        bed.metrics().total("forwarded_packets_total") > 0
    });
    assert_eq!(bed.dropped("reverse_path"), 0);
    gateway.stop();
}

#[test]
fn the_longest_prefix_says_where_packets_go_and_senders_hear_of_dead_ends() {
    require_root!();
    let bed = GatewayBed::new();
    // A third link. The hosts of the other two are routers to the same network, and know who they are.
    let dmz = bed.lan.beside(VethOptions::default());
    dmz.peer_address("192.168.3.1/24");
    dmz.peer.ip("route add default via 192.168.3.254");
    for (router, name) in [(bed.inside(), "inside"), (bed.outside(), "outside")] {
        for addr in ["203.0.113.7", "203.0.113.200", "203.0.113.201"] {
            router.ip(&format!("address add {addr}/32 dev lo"));
        }
        serve(router, 8000, name);
    }
    let link = format!(
        "[[link]]\ninterface = '{}'\nname = 'dmz'\naddress = ['192.168.3.254/24']\n",
        dmz.stack_interface
    );
    let routes = "\
[[route]]
to = '203.0.113.0/24'
via = '192.0.2.2'
[[route]]
to = '203.0.113.128/25'
via = '192.168.1.1'
[[route]]
to = '203.0.113.201/32'
via = '192.0.2.2'
";
    let config = format!("{}{link}{routes}", bed.links());
    let gateway = bed.start_with(&config, "", &[]);
    for (addr, router) in
        [("203.0.113.7", "outside"), ("203.0.113.200", "inside"), ("203.0.113.201", "outside")]
    {
        let greeted = Greeted::connect(&dmz.peer, addr, 8000).expect("a server");
        let client = greeted.client.ip().to_string();
        assert_eq!((greeted.name.as_str(), client.as_str()), (router, "192.168.3.1"), "{addr}");
    }
    // Nobody has the one address; no route leads to the other.
    let limit = Duration::from_secs(15);
    assert_eq!(number(connect_within(limit, &dmz.peer, "192.0.2.77", 80)), Some(EHOSTUNREACH));
    assert_eq!(number(connect_within(limit, &dmz.peer, "198.51.100.7", 80)), Some(ENETUNREACH));
    gateway.stop();
}
