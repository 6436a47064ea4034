use super::*;
use crate::flow::testing::{segment, syn, udp};
use crate::parse::protocol;
use crate::tcp::header::Flags;
use crate::time::Duration;

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn rules(text: &str) -> RuleSet {
    RuleSet::parse(text, "rules").unwrap_or_else(|error| panic!("{error}"))
}

fn gate(text: &str) -> Gate {
    Gate::new(&rules(text), GateConfig::default(), [5; 32], (1, 2), 0, 1, Instant::ZERO)
}

const LAN: Interface<'_> =
    Interface { name: "lan", address: Some(IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1))) };
const WAN: Interface<'_> =
    Interface { name: "wan", address: Some(IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1))) };

fn unreachable(from: &str, to: &str, quoted: FlowTuple) -> PacketView {
    let tuple = FlowTuple::portless(from.parse().unwrap(), to.parse().unwrap(), protocol::ICMPV4);
    PacketView {
        tuple,
        len: 56,
        packets: 1,
        hash: 0,
        transport: Transport::Error { kind: 3, code: 3, quoted: Some(quoted) },
    }
}

/// Through the gate to another interface: what the packet is then.
fn through(
    gate: &mut Gate,
    view: PacketView,
    from: Interface<'_>,
    to: Interface<'_>,
) -> Result<FlowTuple, Refused> {
    let mut passage = gate.arrive(at(0), view, from)?;
    match gate.forward(at(0), &mut passage, from, to)? {
        None => Ok(view.tuple),
        Some(Change::Packet(tuple)) => Ok(tuple),
        Some(Change::Error { .. }) => panic!("no error"),
    }
}

fn local(gate: &mut Gate, view: PacketView, from: Interface<'_>) -> Result<Option<Change>, Refused> {
    let mut passage = gate.arrive(at(0), view, from)?;
    gate.deliver(at(0), &mut passage, from)
}

#[test]
fn flows_translated_to_an_address_end_with_it() {
    let mut gate = gate(ROUTER);
    for port in 1000..1010 {
        through(&mut gate, udp(&format!("10.0.0.5:{port}"), "198.51.100.1:53"), LAN, WAN).unwrap();
    }
    local(&mut gate, udp("10.0.0.5:2000", "10.0.0.1:53"), LAN).unwrap();
    gate.forget_address("192.0.2.9".parse().unwrap());
    assert_eq!(gate.flows().unwrap().len(), 11);
    gate.forget_address("192.0.2.1".parse().unwrap());
    assert_eq!(gate.flows().unwrap().len(), 1, "the flow that was not translated");
    // The ports are free again.
    let tuple = through(&mut gate, udp("10.0.0.6:1000", "198.51.100.1:53"), LAN, WAN).unwrap();
    assert_eq!(tuple.source(), "192.0.2.1:1000".parse().unwrap());
}

const ROUTER: &str = "\
*nat
:POSTROUTING ACCEPT
-A POSTROUTING -o wan -j MASQUERADE
-A PREROUTING -i wan -p udp --dport 80 -j DNAT --to-destination 10.0.0.100:8080
COMMIT
*filter
:FORWARD DROP
-A FORWARD -m conntrack --ctstate RELATED -j ACCEPT
-A FORWARD -i lan -j ACCEPT
-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
COMMIT
";

#[test]
fn a_lan_host_talks_through_the_masquerade_and_strangers_do_not_get_in() {
    let mut gate = gate(ROUTER);
    let asked = udp("10.0.0.2:5000", "198.51.100.1:53");
    let outside = through(&mut gate, asked, LAN, WAN).unwrap();
    assert_eq!(outside.source(), "192.0.2.1:5000".parse().unwrap());
    let answer = PacketView { tuple: outside.reversed(), ..asked };
    assert_eq!(through(&mut gate, answer, WAN, LAN), Ok(asked.tuple.reversed()));
    assert_eq!(through(&mut gate, asked, LAN, WAN), Ok(outside), "the same again");
    let stranger = udp("203.0.113.7:9", "10.0.0.2:5000");
    assert_eq!(through(&mut gate, stranger, WAN, LAN), Err(Refused::Drop(DropReason::Filtered)));
    assert_eq!(gate.flows().unwrap().len(), 1, "a dropped packet begins no flow");
}

#[test]
fn a_forwarded_port_is_reached_from_outside() {
    let mut gate = gate(ROUTER);
    let asked = udp("203.0.113.7:4000", "192.0.2.1:80");
    let inside = through(&mut gate, asked, WAN, LAN).unwrap();
    assert_eq!(inside.destination(), "10.0.0.100:8080".parse().unwrap());
    let answer = PacketView { tuple: inside.reversed(), ..asked };
    assert_eq!(through(&mut gate, answer, LAN, WAN), Ok(asked.tuple.reversed()));
}

#[test]
fn an_error_of_a_router_inside_comes_from_the_address_outside() {
    // RFC 5508 REQ-5c: neither the server nor a router before it shows its own address.
    let mut gate = gate(ROUTER);
    let asked = udp("203.0.113.7:4000", "192.0.2.1:80");
    let inside = through(&mut gate, asked, WAN, LAN).unwrap();
    for from in ["10.0.0.100", "10.0.0.77"] {
        let mut passage = gate.arrive(at(0), unreachable(from, "203.0.113.7", inside), LAN).unwrap();
        let change = gate.forward(at(0), &mut passage, LAN, WAN).unwrap();
        let addresses = ("192.0.2.1".parse().unwrap(), "203.0.113.7".parse().unwrap());
        assert_eq!(change, Some(Change::Error { addresses, quoted: asked.tuple }), "{from}");
    }
}

#[test]
fn the_mangle_table_sees_every_packet_on_its_way_to_its_destination() {
    let rules = "*mangle\n-A FORWARD -d 10.0.0.100 -p udp --dport 8080 -j DROP\nCOMMIT\n";
    let mut gate = gate(ROUTER);
    let asked = udp("203.0.113.7:4000", "192.0.2.1:80");
    through(&mut gate, asked, WAN, LAN).unwrap();
    gate.reload(at(0), &self::rules(&format!("{ROUTER}{rules}")));
    assert_eq!(through(&mut gate, asked, WAN, LAN), Err(Refused::Drop(DropReason::Filtered)));
}

#[test]
fn what_the_mangle_table_says_of_the_mss_is_for_one_packet() {
    let rules = "*mangle\n-A FORWARD -o wan -p tcp --syn -j TCPMSS --set-mss 1200\nCOMMIT\n";
    let mut gate = gate(&format!("{ROUTER}{rules}"));
    let mut passage = gate.arrive(at(0), syn("10.0.0.2:5000", "198.51.100.1:80"), LAN).unwrap();
    gate.forward(at(0), &mut passage, LAN, WAN).unwrap();
    assert_eq!(gate.mss(&passage), Some(TcpMss::Set(1200)));
    let id = passage.flow().unwrap();
    assert_eq!(gate.table().unwrap().get(id).unwrap().mss, None);
}

#[test]
fn an_answer_that_changes_nothing_is_an_answer() {
    // RFC 9293 section 3.5.1: an old connection of the server's answers the SYN; the firewall must not take it for a new one.
    let mut gate = gate(ROUTER);
    let asked = syn("10.0.0.2:5000", "198.51.100.1:80");
    let outside = through(&mut gate, asked, LAN, WAN).unwrap();
    let ack = Transport::Tcp(segment(Flags::ACK, 900, 77));
    let challenge = PacketView { tuple: outside.reversed(), transport: ack, ..asked };
    let passage = gate.arrive(at(0), challenge, WAN).unwrap();
    assert_eq!(passage.state(), CtState::Established);
}

#[test]
fn what_is_broken_or_of_no_known_kind_is_invalid() {
    let mut gate = gate(ROUTER);
    let broken = PacketView { transport: Transport::Broken, ..udp("10.0.0.2:0", "198.51.100.1:0") };
    assert_eq!(gate.arrive(at(0), broken, LAN).unwrap().state(), CtState::Invalid);
    let addresses = ["10.0.0.2", "198.51.100.1"].map(|addr| addr.parse().unwrap());
    let tuple = FlowTuple::portless(addresses[0], addresses[1], protocol::ICMPV4);
    for (kind, state) in [(9, CtState::Invalid), (30, CtState::Invalid), (5, CtState::Untracked)] {
        let view =
            PacketView { tuple, len: 40, packets: 1, hash: 0, transport: Transport::Icmp { kind, code: 0 } };
        assert_eq!(gate.arrive(at(0), view, LAN).unwrap().state(), state, "{kind}");
    }
}

#[test]
fn after_prerouting_the_packet_shows_where_it_goes() {
    let mut gate = gate(ROUTER);
    let asked = udp("203.0.113.7:4000", "192.0.2.1:80");
    let passage = gate.arrive(at(0), asked, WAN).unwrap();
    let Some(Change::Packet(tuple)) = gate.change(&passage) else { panic!("{passage:?}") };
    assert_eq!(tuple.destination(), "10.0.0.100:8080".parse().unwrap());
    assert_eq!(tuple.source(), asked.tuple.source());
}

#[test]
fn an_error_about_a_translated_flow_reaches_the_host_that_began_it() {
    let mut gate = gate(ROUTER);
    let asked = udp("10.0.0.2:5000", "198.51.100.1:53");
    let outside = through(&mut gate, asked, LAN, WAN).unwrap();
    for from in ["203.0.113.254", "198.51.100.1"] {
        let error = unreachable(from, "192.0.2.1", outside);
        let mut passage = gate.arrive(at(0), error, WAN).unwrap();
        assert_eq!(passage.state(), CtState::Related);
        let change = gate.forward(at(0), &mut passage, WAN, LAN).unwrap();
        let addresses = (from.parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!(change, Some(Change::Error { addresses, quoted: asked.tuple }));
    }
}

#[test]
fn an_error_of_a_server_behind_a_forwarded_port_comes_from_the_outside_address() {
    let mut gate = gate(ROUTER);
    let asked = udp("203.0.113.7:4000", "192.0.2.1:80");
    let inside = through(&mut gate, asked, WAN, LAN).unwrap();
    let error = unreachable("10.0.0.100", "203.0.113.7", inside);
    let mut passage = gate.arrive(at(0), error, LAN).unwrap();
    let change = gate.forward(at(0), &mut passage, LAN, WAN).unwrap();
    let addresses = ("192.0.2.1".parse().unwrap(), "203.0.113.7".parse().unwrap());
    assert_eq!(change, Some(Change::Error { addresses, quoted: asked.tuple }));
}

#[test]
fn hairpin_works_with_the_rules_that_people_write() {
    let text = ROUTER.replace("-A PREROUTING -i wan -p", "-A PREROUTING -d 192.0.2.1 -p").replace(
        "-A POSTROUTING -o wan -j MASQUERADE",
        "-A POSTROUTING -o wan -j MASQUERADE\n-A POSTROUTING -s 10.0.0.0/24 -d 10.0.0.0/24 -j MASQUERADE",
    );
    let mut gate = gate(&text);
    let asked = udp("10.0.0.2:5000", "192.0.2.1:80");
    let inside = through(&mut gate, asked, LAN, LAN).unwrap();
    assert_eq!(inside.source(), "10.0.0.1:5000".parse().unwrap());
    assert_eq!(inside.destination(), "10.0.0.100:8080".parse().unwrap());
    let answer = PacketView { tuple: inside.reversed(), ..asked };
    assert_eq!(through(&mut gate, answer, LAN, LAN), Ok(asked.tuple.reversed()));
}

#[test]
fn only_the_first_packet_of_a_flow_walks_the_rules() {
    let mut gate = gate(
        "-A INPUT -m conntrack --ctstate INVALID -j DROP\n-A INPUT -p udp --dport 53 -j ACCEPT\n-P INPUT DROP",
    );
    let asked = udp("10.0.0.2:5000", "10.0.0.1:53");
    for _ in 0..5 {
        assert_eq!(local(&mut gate, asked, LAN), Ok(None));
    }
    assert_eq!(gate.walker().counts()[1].packets, 1);
    assert_eq!(
        local(&mut gate, udp("10.0.0.2:5000", "10.0.0.1:54"), LAN),
        Err(Refused::Drop(DropReason::Filtered))
    );
}

#[test]
fn rejects_say_how() {
    let mut gate = gate("-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n-A INPUT -j REJECT");
    assert_eq!(
        local(&mut gate, syn("10.0.0.2:1", "10.0.0.1:2"), LAN),
        Err(Refused::Reject(RejectWith::TcpReset))
    );
    assert_eq!(
        local(&mut gate, udp("10.0.0.2:1", "10.0.0.1:2"), LAN),
        Err(Refused::Reject(RejectWith::Icmp(3)))
    );
    assert!(!gate.tracks(), "no rule asks for flows");
}

#[test]
fn what_is_not_tracked_is_not_remembered() {
    let mut gate = gate(
        "-t raw -A PREROUTING -p udp -j NOTRACK\n-A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT\n-P INPUT DROP",
    );
    assert_eq!(local(&mut gate, udp("10.0.0.2:1", "10.0.0.1:2"), LAN), Ok(None));
    assert_eq!(
        local(&mut gate, syn("10.0.0.2:1", "10.0.0.1:2"), LAN),
        Err(Refused::Drop(DropReason::Filtered))
    );
    assert!(gate.flows().unwrap().is_empty());
}

#[test]
fn our_own_packets_pass_output_and_their_answers_come_back() {
    let mut gate = gate(
        "-A OUTPUT -p udp -j ACCEPT\n-P OUTPUT DROP\n-P INPUT DROP\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    );
    let asked = udp("192.0.2.1:5000", "198.51.100.1:53");
    let (passage, change) = gate.send(at(0), asked, WAN).unwrap();
    assert_eq!((passage.state(), change), (CtState::New, None));
    let answer = PacketView { tuple: asked.tuple.reversed(), ..asked };
    assert_eq!(local(&mut gate, answer, WAN), Ok(None));
    assert_eq!(
        gate.send(at(0), syn("192.0.2.1:1", "198.51.100.1:2"), WAN).unwrap_err(),
        Refused::Drop(DropReason::Filtered)
    );
}

#[test]
fn other_rules_keep_the_flows_that_were_let_through() {
    let mut gate = gate("-A INPUT -m conntrack --ctstate NEW -p udp -j ACCEPT\n-P INPUT DROP");
    let asked = udp("10.0.0.2:5000", "10.0.0.1:53");
    assert_eq!(local(&mut gate, asked, LAN), Ok(None));
    gate.reload(at(1), &rules("-P INPUT DROP"));
    assert_eq!(local(&mut gate, asked, LAN), Ok(None));
    assert!(local(&mut gate, udp("10.0.0.3:5000", "10.0.0.1:53"), LAN).is_err());
}

#[test]
fn a_flows_mark_is_there_for_its_later_packets() {
    let mut gate = gate(
        "-A INPUT -m conntrack --ctstate NEW -j CONNMARK --set-mark 7\n-A INPUT -m connmark --mark 7 -j ACCEPT\n-P INPUT DROP",
    );
    let asked = udp("10.0.0.2:5000", "10.0.0.1:53");
    let mut passage = gate.arrive(at(0), asked, LAN).unwrap();
    gate.deliver(at(0), &mut passage, LAN).unwrap();
    let id = passage.flow().unwrap();
    assert_eq!(gate.flows().unwrap().get(id).unwrap().mark, 7);
}

#[test]
fn ended_flows_give_their_ports_back() {
    let mut gate = gate("-t nat -A POSTROUTING -o wan -p udp -j MASQUERADE --to-ports 4000-4000");
    through(&mut gate, udp("10.0.0.2:5000", "198.51.100.1:53"), LAN, WAN).unwrap();
    let other = udp("10.0.0.3:5000", "198.51.100.1:53");
    assert_eq!(through(&mut gate, other, LAN, WAN), Err(Refused::Drop(DropReason::NatNoFreePort)));
    gate.advance(at(31));
    assert!(gate.nat().mappings().is_empty());
    through(&mut gate, other, LAN, WAN).unwrap();
}

/// A stranger that was let in keeps the mapping as long as it talks, and not longer (RFC 4787 REQ-1, RFC 7857 section 11).
#[test]
fn a_mapping_ends_with_the_last_stranger_that_was_let_in() {
    let config = GateConfig { filtering: Filtering::EndpointIndependent, ..GateConfig::default() };
    let text = "-t nat -A POSTROUTING -o wan -j MASQUERADE";
    // Of a host inside, and of this one, whose endpoint is the same outside.
    for own in [false, true] {
        let mut gate = Gate::new(&rules(text), config.clone(), [5; 32], (1, 2), 0, 1, Instant::ZERO);
        let outside = if own {
            let (_, change) = gate.send(at(0), udp("192.0.2.1:7000", "198.51.100.1:53"), WAN).unwrap();
            assert_eq!(change, None);
            "192.0.2.1:7000".to_owned()
        } else {
            let sent = through(&mut gate, udp("10.0.0.2:5000", "198.51.100.1:53"), LAN, WAN).unwrap();
            sent.source().to_string()
        };
        assert_eq!(gate.nat().mappings().len(), 1);
        for stranger in ["203.0.113.1:9", "203.0.113.2:9"] {
            let mut passage = gate.arrive(at(20), udp(stranger, &outside), WAN).unwrap();
            let change = if own {
                gate.deliver(at(20), &mut passage, WAN).unwrap()
            } else {
                gate.forward(at(20), &mut passage, WAN, LAN).unwrap()
            };
            assert_eq!(change.is_none(), own);
        }
        gate.advance(at(31));
        let left = (gate.flows().unwrap().len(), gate.nat().mappings().len());
        // The first flow is over; who writes to this host's own endpoint begins none.
        assert_eq!(left, if own { (0, 0) } else { (2, 1) });
        gate.advance(at(51));
        assert!(gate.flows().unwrap().is_empty());
        assert!(gate.nat().mappings().is_empty());
    }
}

#[test]
fn a_flood_of_new_flows_leaves_established_ones_alone() {
    let config = GateConfig {
        conntrack: ConntrackConfig { entries_max: 1000, ..ConntrackConfig::default() },
        ..GateConfig::default()
    };
    let mut gate = Gate::new(&rules(ROUTER), config, [5; 32], (1, 2), 0, 1, Instant::ZERO);
    let kept = udp("10.0.0.2:5000", "198.51.100.1:53");
    let outside = through(&mut gate, kept, LAN, WAN).unwrap();
    let answer = PacketView { tuple: outside.reversed(), ..kept };
    through(&mut gate, answer, WAN, LAN).unwrap();
    let mut passage = gate.arrive(at(3), kept, LAN).unwrap();
    gate.forward(at(3), &mut passage, LAN, WAN).unwrap();
    for i in 0..50_000u32 {
        let [_, b, c, d] = i.to_be_bytes();
        let spoofed = udp(&format!("10.{b}.{c}.{d}:{}", 1000 + i % 60_000), "198.51.100.1:53");
        let _ = through(&mut gate, spoofed, LAN, WAN);
        assert!(gate.flows().unwrap().len() <= 1000);
    }
    assert_eq!(through(&mut gate, answer, WAN, LAN), Ok(kept.tuple.reversed()));
    assert!(gate.nat().mappings().len() <= 1000);
}
