use core::net::SocketAddr;

use proptest::prelude::*;
use std::collections::HashSet;

use super::*;
use crate::flow::conntrack::{ConntrackConfig, Direction, Tracked};
use crate::flow::filter::{RuleSet, Table};
use crate::flow::testing::udp;
use crate::flow::view::{PacketView, Transport};
use crate::parse::protocol;
use crate::time::{Duration, Instant};

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn target(rule: &str) -> (Hook, Target) {
    let set = RuleSet::parse(&format!("-t nat {rule}"), "rules").unwrap_or_else(|error| panic!("{error}"));
    let chain = set.chains(Table::Nat).iter().find(|chain| !chain.rules.is_empty()).unwrap();
    (Hook::named(&chain.name).unwrap(), chain.rules[0].target.clone())
}

struct Bed {
    table: Conntrack,
    nat: Nat,
}

impl Bed {
    fn new(filtering: Filtering) -> Self {
        let table = Conntrack::new(ConntrackConfig::default(), (1, 2), Instant::ZERO);
        Self { table, nat: Nat::new(filtering, [3; 32], 0, 1) }
    }

    /// Begins a flow and lets rules translate it.
    fn open(&mut self, view: &PacketView, rules: &[&str]) -> Result<Entry, NatError> {
        let Tracked::Begin(mut begin) = self.table.track(at(0), view) else { panic!("not new") };
        let here = Some(if view.tuple.is_ipv4() { "192.0.2.1" } else { "2001:db8:1::1" }.parse().unwrap());
        for rule in rules {
            let (hook, target) = target(rule);
            self.nat.set_up(&mut self.table, &mut begin, &target, hook, here)?;
        }
        self.nat.make_unique(&mut self.table, &mut begin)?;
        let id = self.table.confirm(at(0), begin).unwrap();
        let entry = *self.table.get(id).unwrap();
        self.nat.keep(&entry);
        Ok(entry)
    }

    fn end(&mut self, entry: &Entry) {
        let (id, _) = self.table.find(&entry.original).unwrap();
        self.table.delete(id);
        for entry in self.table.take_ended() {
            self.nat.release(&entry);
        }
    }
}

const MASQUERADE: &str = "-A POSTROUTING -j MASQUERADE";

fn forward(entry: &Entry) -> FlowTuple {
    translated(entry, Direction::Original).unwrap_or(entry.original)
}

#[test]
fn masquerade_keeps_the_port_and_takes_the_interfaces_address() {
    let mut bed = Bed::new(Filtering::default());
    let entry = bed.open(&udp("10.0.0.2:5000", "198.51.100.1:53"), &[MASQUERADE]).unwrap();
    assert_eq!(forward(&entry).source(), "192.0.2.1:5000".parse().unwrap());
    assert_eq!(translated(&entry, Direction::Reply), Some(entry.original.reversed()));
    let other = bed.open(&udp("10.0.0.3:5000", "198.51.100.1:53"), &[MASQUERADE]).unwrap();
    assert_ne!(forward(&other).src_port, 5000);
}

#[test]
fn one_endpoint_has_one_mapping_whatever_it_talks_to() {
    let mut bed = Bed::new(Filtering::default());
    bed.open(&udp("10.0.0.9:5000", "198.51.100.9:53"), &[MASQUERADE]).unwrap();
    let first = bed.open(&udp("10.0.0.2:5000", "198.51.100.1:53"), &[MASQUERADE]).unwrap();
    let second = bed.open(&udp("10.0.0.2:5000", "198.51.100.2:99"), &[MASQUERADE]).unwrap();
    assert_eq!(forward(&first).source(), forward(&second).source());
}

#[test]
fn filtering_decides_who_may_send_to_a_mapping() {
    for (filtering, stranger, other_port) in [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, false, true),
        (Filtering::AddressAndPortDependent, false, false),
    ] {
        let mut bed = Bed::new(filtering);
        bed.open(&udp("10.0.0.2:5000", "198.51.100.1:53"), &[MASQUERADE]).unwrap();
        let let_in = |src: &str| bed.nat.inbound(&udp(src, "192.0.2.1:5000").tuple).is_some();
        assert_eq!(
            (let_in("203.0.113.5:9"), let_in("198.51.100.1:99")),
            (stranger, other_port),
            "{filtering:?}"
        );
        assert!(bed.nat.inbound(&udp("198.51.100.1:53", "192.0.2.1:5001").tuple).is_none());
    }
}

#[test]
fn a_forwarded_port_leads_to_the_server_and_its_answers_come_from_the_outside_address() {
    let mut bed = Bed::new(Filtering::default());
    let rule = "-A PREROUTING -p udp --dport 80 -j DNAT --to-destination 192.168.1.100:8080";
    let entry = bed.open(&udp("203.0.113.5:4000", "192.0.2.1:80"), &[rule]).unwrap();
    assert_eq!(forward(&entry).destination(), "192.168.1.100:8080".parse().unwrap());
    let answer = translated(&entry, Direction::Reply).unwrap();
    assert_eq!(
        (answer.source(), answer.destination()),
        ("192.0.2.1:80".parse().unwrap(), "203.0.113.5:4000".parse().unwrap())
    );
}

#[test]
fn hairpin_goes_in_and_out_translated() {
    let mut bed = Bed::new(Filtering::default());
    let rules = ["-A PREROUTING -p udp --dport 80 -j DNAT --to-destination 10.0.0.100", MASQUERADE];
    let entry = bed.open(&udp("10.0.0.2:5000", "192.0.2.1:80"), &rules).unwrap();
    assert_eq!(forward(&entry).source(), "192.0.2.1:5000".parse().unwrap());
    assert_eq!(forward(&entry).destination(), "10.0.0.100:80".parse().unwrap());
}

#[test]
fn two_ways_to_one_server_stay_apart() {
    let mut bed = Bed::new(Filtering::default());
    let first = bed
        .open(
            &udp("203.0.113.5:4000", "192.0.2.1:80"),
            &["-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.100:80"],
        )
        .unwrap();
    let second = bed
        .open(
            &udp("203.0.113.5:4000", "192.0.2.1:81"),
            &["-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.100:80"],
        )
        .unwrap();
    assert_ne!(first.reply, second.reply);
    assert_eq!(forward(&second).src(), "203.0.113.5".parse::<IpAddr>().unwrap());
}

#[test]
fn servers_share_clients_and_each_client_keeps_its_server() {
    let bed = Bed::new(Filtering::default());
    let servers = |rule: &str| match target(rule).1 {
        Target::Dnat(to) => to,
        other => panic!("{other:?}"),
    };
    let three = servers(
        "-A PREROUTING -j DNAT --to-destination 10.0.0.1 --to-destination 10.0.0.2 --to-destination 10.0.0.3",
    );
    let two = servers("-A PREROUTING -j DNAT --to-destination 10.0.0.1 --to-destination 10.0.0.3");
    let mut shares = [0; 3];
    for client in 0..3000u32 {
        let from = |port| {
            let src = SocketAddr::new(IpAddr::from((0xcb00_7100 + client).to_be_bytes()), port);
            FlowTuple::new(src, "192.0.2.1:80".parse().unwrap(), protocol::TCP)
        };
        let chosen = bed.nat.server(&from(1), &three);
        assert_eq!(chosen, bed.nat.server(&from(2), &three));
        let place = three.iter().position(|server| server == chosen).unwrap();
        shares[place] += 1;
        // Without the second server, only its own clients go elsewhere.
        let fewer = bed.nat.server(&from(1), &two);
        assert!(place == 1 || fewer == chosen);
    }
    assert!(shares.iter().all(|share| (800..1200).contains(share)), "{shares:?}");
}

#[test]
fn redirect_and_netmap_change_addresses_as_they_say() {
    let mut bed = Bed::new(Filtering::default());
    let rule = "-A PREROUTING -p udp -j REDIRECT --to-ports 3128";
    let entry = bed.open(&udp("10.0.0.2:5000", "198.51.100.1:80"), &[rule]).unwrap();
    assert_eq!(forward(&entry).destination(), "192.0.2.1:3128".parse().unwrap());
    let entry = bed
        .open(&udp("10.0.0.2:5001", "198.51.100.77:80"), &["-A PREROUTING -j NETMAP --to 172.16.5.0/24"])
        .unwrap();
    assert_eq!(forward(&entry).destination(), "172.16.5.77:80".parse().unwrap());
    let entry = bed
        .open(&udp("10.0.0.2:5002", "198.51.100.77:80"), &["-A POSTROUTING -j NETMAP --to 172.16.0.0/16"])
        .unwrap();
    assert_eq!(forward(&entry).source(), "172.16.0.2:5002".parse().unwrap());
}

#[test]
fn ports_are_shifted_one_for_one() {
    let mut bed = Bed::new(Filtering::default());
    let rule = "-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.100:9000-9100/8000";
    for (from, to) in [(8000, 9000), (8042, 9042), (8100, 9100), (8101, 9000), (9050, 9040), (7999, 9087)] {
        let view = udp("203.0.113.5:4000", &format!("192.0.2.1:{from}"));
        let entry = bed.open(&view, &[rule]).unwrap();
        assert_eq!(forward(&entry).dst_port, to, "{from}");
        bed.end(&entry);
    }
}

#[test]
fn a_random_port_is_any_of_the_range() {
    let mut bed = Bed::new(Filtering::default());
    for rule in [
        "-A PREROUTING -p udp -j REDIRECT --to-ports 3000-3099 --random",
        "-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.1:3000-3099 --random",
    ] {
        let mut seen = HashSet::new();
        for client in 0..200 {
            // Its own port is in the range, and would be kept.
            let entry =
                bed.open(&udp(&format!("10.0.1.{client}:5000"), "198.51.100.1:3050"), &[rule]).unwrap();
            seen.insert(forward(&entry).dst_port);
            bed.end(&entry);
        }
        assert!(seen.len() > 50 && seen.iter().all(|port| (3000..3100).contains(port)), "{seen:?}");
    }
}

#[test]
fn a_source_may_have_another_port_alone() {
    let mut bed = Bed::new(Filtering::default());
    let rule = "-A POSTROUTING -p udp -j SNAT --to-source :2000-2001";
    for port in [2000, 2001] {
        let entry = bed.open(&udp(&format!("10.0.0.2:{}", port + 3000), "198.51.100.1:53"), &[rule]).unwrap();
        assert_eq!(forward(&entry).src(), "10.0.0.2".parse::<IpAddr>().unwrap());
        assert!((2000..2002).contains(&forward(&entry).src_port));
    }
}

#[test]
fn the_last_free_port_is_found_and_then_the_flow_is_refused() {
    let mut bed = Bed::new(Filtering::default());
    let rule = "-A POSTROUTING -p udp -j MASQUERADE --to-ports 2000-2099";
    let mut ports = HashSet::new();
    for host in 0..100 {
        let entry = bed.open(&udp(&format!("10.0.0.{host}:5000"), "198.51.100.1:53"), &[rule]).unwrap();
        assert!(ports.insert(forward(&entry).src_port));
    }
    let refused = bed.open(&udp("10.0.0.200:5000", "198.51.100.1:53"), &[rule]);
    assert_eq!(refused.unwrap_err(), NatError::NoFreePort);
    bed.open(&udp("10.0.0.200:5000", "198.51.100.2:53"), &[rule])
        .expect("another destination has free ports");
}

#[test]
fn ipv6_flows_are_translated_to_ipv6_addresses_only() {
    let mut bed = Bed::new(Filtering::default());
    let entry = bed.open(&udp("[fd00::2]:5000", "[2001:db8::1]:53"), &[MASQUERADE]).unwrap();
    assert_eq!(forward(&entry).source(), "[2001:db8:1::1]:5000".parse().unwrap());
    let refused = bed
        .open(&udp("[fd00::3]:5000", "[2001:db8::1]:53"), &["-A POSTROUTING -j SNAT --to-source 192.0.2.1"]);
    assert_eq!(refused.unwrap_err(), NatError::NoAddress);
}

proptest! {
    /// NAT is a bijection on live flows: no two share a tuple in either direction, each answer finds its own flow, and when
    /// all have ended nothing is left.
    #[test]
    fn translation_is_a_bijection(steps in prop::collection::vec((1u8..6, 0u16..6, 1u8..4, any::<bool>()), 1..120)) {
        let mut bed = Bed::new(Filtering::default());
        let rule = "-A POSTROUTING -p udp -j MASQUERADE --to-ports 4000-4015";
        let mut live: Vec<Entry> = Vec::new();
        for (host, port, remote, open) in steps {
            let packet = udp(&format!("10.0.0.{host}:{}", 4000 + port), &format!("198.51.100.{remote}:53"));
            let known = live.iter().position(|entry| entry.original == packet.tuple);
            match (known, open) {
                (None, true) => {
                    if let Ok(entry) = bed.open(&packet, &[rule]) {
                        live.push(entry);
                    }
                }
                (Some(place), false) => {
                    let entry = live.swap_remove(place);
                    bed.end(&entry);
                }
                _ => {}
            }
            let outside: HashSet<_> = live.iter().map(forward).collect();
            prop_assert_eq!(outside.len(), live.len());
            for entry in &live {
                let answer = forward(entry).reversed();
                let (id, direction) = bed.table.find(&answer).unwrap();
                prop_assert_eq!(direction, Direction::Reply);
                let found = bed.table.get(id).unwrap();
                prop_assert_eq!(translated(found, Direction::Reply).unwrap_or(answer), entry.original.reversed());
            }
        }
        for entry in live {
            bed.end(&entry);
        }
        prop_assert!(bed.nat.mappings().is_empty());
    }
}

/// Opens a flow from the `index`-th of many inside endpoints to `server`, masqueraded.
fn open_many(bed: &mut Bed, target: &Target, index: u32, server: &str) -> Result<Entry, NatError> {
    let [_, a, b, c] = index.to_be_bytes();
    let src = SocketAddr::from(([10, a, b, c], 7000));
    let tuple = FlowTuple::new(src, server.parse().unwrap(), protocol::UDP);
    let view = PacketView { tuple, len: 60, packets: 1, hash: 0, transport: Transport::Ports };
    let Tracked::Begin(mut begin) = bed.table.track(at(0), &view) else { panic!("not new") };
    let here = Some("192.0.2.1".parse().unwrap());
    bed.nat.set_up(&mut bed.table, &mut begin, target, Hook::Postrouting, here)?;
    bed.nat.make_unique(&mut bed.table, &mut begin)?;
    let id = bed.table.confirm(at(0), begin).unwrap();
    let entry = *bed.table.get(id).unwrap();
    bed.nat.keep(&entry);
    Ok(entry)
}

/// A word of 64 ports each, thrice: without an owner and of the same parity, without an owner, without flows; and what was met.
const STEPS_MAX: u32 = 3 * 1024 + 64;
const PORTS: u32 = 65_536 - 1024;

#[test]
fn the_last_free_port_takes_a_bounded_number_of_steps() {
    let (mut bed, (_, target)) = (Bed::new(Filtering::default()), target(MASQUERADE));
    let mut seen = HashSet::new();
    let mut most = 0;
    // Every port gets an owner; then each is shared, towards another destination.
    for (server, first) in [("198.51.100.1:53", 0), ("198.51.100.2:53", 1 << 20)] {
        seen.clear();
        for index in 0..PORTS {
            let entry = open_many(&mut bed, &target, first + index, server).unwrap();
            assert!(seen.insert(entry.reply.dst_port));
            assert_eq!(entry.owns_mapping, first == 0);
            most = most.max(bed.nat.mappings().steps());
        }
        assert_eq!(open_many(&mut bed, &target, first + PORTS, server).unwrap_err(), NatError::NoFreePort);
        most = most.max(bed.nat.mappings().steps());
    }
    assert!(most <= STEPS_MAX, "{most} steps");
}

#[test]
fn flows_in_the_way_are_met_once() {
    // Flows that are the outside address's own, which no translation has down.
    let (mut bed, (_, target)) = (Bed::new(Filtering::default()), target(MASQUERADE));
    let mut own = Vec::new();
    for port in 1024..=u16::MAX {
        if port != 40_000 {
            let src = SocketAddr::from(([192, 0, 2, 1], port));
            let tuple = FlowTuple::new(src, "198.51.100.1:53".parse().unwrap(), protocol::UDP);
            let view = PacketView { tuple, len: 60, packets: 1, hash: 0, transport: Transport::Ports };
            let Tracked::Begin(begin) = bed.table.track(at(0), &view) else { panic!("not new") };
            own.push(bed.table.confirm(at(0), begin).unwrap());
        }
    }
    let mut met = 0;
    for index in 0..10 {
        let entry = open_many(&mut bed, &target, index, "198.51.100.1:53").unwrap();
        assert_eq!(entry.reply.dst_port, 40_000);
        met += bed.nat.mappings().steps();
        bed.end(&entry);
    }
    assert!(met <= PORTS + 11 * STEPS_MAX, "{met} steps");
    // When they end, their ports are free again.
    own.iter().for_each(|id| assert!(bed.table.delete(*id)));
    for entry in bed.table.take_ended() {
        bed.nat.release(&entry);
    }
    let ports: HashSet<u16> = (0..100)
        .map(|index| open_many(&mut bed, &target, index, "198.51.100.1:53").unwrap().reply.dst_port)
        .collect();
    assert_eq!(ports.len(), 100);
}

#[test]
fn a_range_of_servers_is_shared_out_by_addresses_alone() {
    let ends = |rule: &str, from: fn(u16) -> (String, String)| {
        let mut bed = Bed::new(Filtering::default());
        let open = |index| {
            let (src, dst) = from(index);
            bed.open(&udp(&src, &dst), &[rule]).unwrap().reply.src()
        };
        (0..40u16).map(open).collect::<HashSet<IpAddr>>().len()
    };
    let plain = "-A PREROUTING -j DNAT --to-destination 10.0.0.1-10.0.0.4";
    let persistent = "-A PREROUTING -j DNAT --to-destination 10.0.0.1-10.0.0.4 --persistent";
    let by_port = |index| (format!("203.0.113.5:{}", 4000 + index), format!("192.0.2.1:{}", 80 + index));
    let by_destination =
        |index| (format!("203.0.113.5:{}", 4000 + index), format!("192.0.2.{}:80", 1 + index));
    let by_client = |index| (format!("203.0.113.{}:4000", 1 + index), "192.0.2.1:80".to_owned());
    assert_eq!((ends(plain, by_port), ends(persistent, by_port)), (1, 1));
    assert_eq!((ends(plain, by_destination), ends(persistent, by_destination)), (4, 1));
    assert_eq!((ends(plain, by_client), ends(persistent, by_client)), (4, 4));
}
