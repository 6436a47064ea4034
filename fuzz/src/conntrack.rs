//! Sequences of packets through a router's gate: the table stays within its bound, no two flows share a tuple, an answer to
//! what was let through finds its way back, and what is changed there and back is what it was.

use arbitrary::Arbitrary;
use bywash::flow::FlowTuple;
use bywash::flow::conntrack::{ConntrackConfig, Direction};
use bywash::flow::filter::RuleSet;
use bywash::flow::gate::{Change, Gate, GateConfig, Interface};
use bywash::flow::nat::translated;
use bywash::flow::view::PacketView;
use bywash::time::{Duration, Instant};

/// Flows that the table holds.
const ENTRIES_MAX: usize = 12;

const RULES: &str = "\
-t nat -A POSTROUTING -o wan -p tcp -j MASQUERADE --to-ports 2000-2007
-t nat -A POSTROUTING -o wan -j MASQUERADE
-t nat -A PREROUTING -i wan -p tcp --dport 80 -j DNAT --to-destination 10.0.0.9:8080
-t nat -A PREROUTING -i wan -p udp --dport 53 -j DNAT --to-destination 10.0.0.8 --to-destination 10.0.0.9
-A FORWARD -m conntrack --ctstate INVALID -j DROP
";

/// One packet, or time.
#[derive(Arbitrary, Debug)]
pub struct Step {
    from_wan: bool,
    /// Answers the packet that was let through last, instead of a new one.
    answer: bool,
    protocol: u8,
    hosts: u8,
    ports: u8,
    flags: u8,
    seq: u16,
    ack: u16,
    len: u8,
    seconds: u8,
}

/// Runs one input.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let Ok(steps) = Vec::<Step>::arbitrary_take_rest(arbitrary::Unstructured::new(data)) else { return };
    let rules = RuleSet::parse(RULES, "rules").expect("the rules are right");
    let conntrack = ConntrackConfig { entries_max: ENTRIES_MAX, ..ConntrackConfig::default() };
    let config = GateConfig { conntrack, ..GateConfig::default() };
    let mut gate = Gate::new(&rules, config, [9; 32], (1, 2), 0, 1, Instant::ZERO);
    let lan = Interface { name: "lan", address: Some([10, 0, 0, 1].into()) };
    let wan = Interface { name: "wan", address: Some([192, 0, 2, 1].into()) };
    let (mut now, mut last) = (Instant::ZERO, None::<(FlowTuple, bool)>);
    for step in steps.iter().take(500) {
        now += Duration::from_secs(u64::from(step.seconds));
        gate.advance(now);
        let (bytes, from_wan) = match (&last, step.answer) {
            (Some((tuple, from_wan)), true) => (packet(&tuple.reversed(), step), !from_wan),
            _ => (packet(&tuple_of(step), step), step.from_wan),
        };
        let Some(view) = PacketView::of_ip(&bytes) else { continue };
        let (from, to) = if from_wan { (wan, lan) } else { (lan, wan) };
        let Ok(mut passage) = gate.arrive(now, view, from) else { continue };
        let Ok(change) = gate.forward(now, &mut passage, from, to) else { continue };
        let sent = match change {
            Some(Change::Packet(tuple)) => tuple,
            Some(Change::Error { .. }) => continue,
            None => view.tuple,
        };
        last = Some((sent, from_wan));
        check(&mut gate);
    }
    gate.advance(now + Duration::from_secs(10 * 86_400));
    assert!(gate.flows().is_none_or(|flows| flows.is_empty()));
    assert!(gate.nat().mappings().is_empty(), "a mapping outlives its flows");
}

fn check(gate: &mut Gate) {
    let Some(flows) = gate.flows() else { return };
    assert!(flows.len() <= ENTRIES_MAX);
    let mut entries = Vec::new();
    flows.list(0, u32::MAX, |id, entry| entries.push((id, *entry)));
    for (id, entry) in &entries {
        for direction in [Direction::Original, Direction::Reply] {
            assert_eq!(flows.find(entry.tuple(direction)), Some((*id, direction)), "{entry:?}");
        }
        let forward = translated(entry, Direction::Original).unwrap_or(entry.original);
        assert_eq!(forward.reversed(), entry.reply);
    }
}

fn tuple_of(step: &Step) -> FlowTuple {
    let host = |low: u8| std::net::IpAddr::from([10, 0, 0, 2 + low % 3]);
    let out = |low: u8| std::net::IpAddr::from([198, 51, 100, 1 + low % 2]);
    let (src, dst) = if step.from_wan {
        (out(step.hosts), [192, 0, 2, 1].into())
    } else {
        (host(step.hosts), out(step.hosts >> 4))
    };
    let ports = (2000 + u16::from(step.ports & 7), [80, 53, 2001, 9][usize::from(step.ports >> 3) % 4]);
    if step.protocol % 4 == 2 {
        return FlowTuple::query(src, dst, 1, 8, ports.0).expect("echo is a query");
    }
    let number = [6, 17, 1, 47][usize::from(step.protocol) % 4];
    FlowTuple::new((src, ports.0).into(), (dst, ports.1).into(), number)
}

/// An IPv4 packet's headers; checksums are not looked at here.
fn packet(tuple: &FlowTuple, step: &Step) -> Vec<u8> {
    let octets = |addr| match addr {
        std::net::IpAddr::V4(addr) => addr.octets(),
        std::net::IpAddr::V6(_) => unreachable!("only IPv4 is used"),
    };
    let payload = usize::from(step.len);
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, tuple.protocol, 0, 0];
    bytes.extend(octets(tuple.src()));
    bytes.extend(octets(tuple.dst()));
    if let Some((kind, identifier)) = tuple.icmp_query() {
        bytes.extend([kind, 0, 0, 0]);
        bytes.extend(identifier.to_be_bytes());
        bytes.extend([0, 1]);
    } else {
        bytes.extend(tuple.src_port.to_be_bytes());
        bytes.extend(tuple.dst_port.to_be_bytes());
        if tuple.protocol == 6 {
            bytes.extend(u32::from(step.seq).to_be_bytes());
            bytes.extend(u32::from(step.ack).to_be_bytes());
            bytes.extend([0x50, step.flags & 0x3f, 1, 0, 0, 0, 0, 0]);
        } else {
            bytes.extend([0, 8, 0, 0]);
        }
    }
    let total = (bytes.len() + payload) as u16;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes.resize(usize::from(total), 0x41);
    bytes
}

/// Names and inputs for `conntrack`: steps of 11 bytes, in the order in which `arbitrary` reads them.
#[must_use]
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let step = |from_wan: u8,
                answer: u8,
                protocol: u8,
                hosts: u8,
                ports: u8,
                flags: u8,
                numbers: [u8; 4],
                len: u8,
                seconds: u8| {
        let [a, b, c, d] = numbers;
        vec![from_wan, answer, protocol, hosts, ports, flags, a, b, c, d, len, seconds]
    };
    // `Vec` of `arbitrary` reads a flag before each element.
    let steps =
        |list: &[Vec<u8>]| list.iter().flat_map(|step| [&[1][..], step].concat()).collect::<Vec<u8>>();
    let handshake = [
        step(0, 0, 0, 0, 1, 0x02, [0, 1, 0, 0], 0, 0),
        step(0, 1, 0, 0, 1, 0x12, [0, 9, 2, 0], 0, 0),
        step(0, 1, 0, 0, 1, 0x10, [2, 0, 10, 0], 0, 0),
    ];
    let mut seeds = vec![
        ("handshake".to_owned(), steps(&handshake)),
        (
            "data".to_owned(),
            steps(&[&handshake[..], &[step(0, 1, 0, 0, 1, 0x18, [10, 0, 2, 0], 100, 1)]].concat()),
        ),
        (
            "reset".to_owned(),
            steps(&[&handshake[..], &[step(0, 1, 0, 0, 1, 0x04, [10, 0, 0, 0], 0, 1)]].concat()),
        ),
        (
            "fin".to_owned(),
            steps(&[&handshake[..], &[step(0, 1, 0, 0, 1, 0x11, [10, 0, 2, 0], 0, 1)]].concat()),
        ),
        ("loose".to_owned(), steps(&[step(0, 0, 0, 0, 1, 0x10, [1, 1, 1, 1], 9, 0)])),
    ];
    for (name, protocol, from_wan) in
        [("udp", 1, 0), ("ping", 2, 0), ("gre", 3, 0), ("dnat", 0, 1), ("dnat-udp", 1, 1)]
    {
        let list = [
            step(from_wan, 0, protocol, 0x10, 8, 0x02, [0, 1, 0, 0], 4, 0),
            step(0, 1, protocol, 0, 0, 0x12, [0, 1, 2, 0], 4, 3),
            step(from_wan, 0, protocol, 0x11, 9, 0x02, [0, 1, 0, 0], 4, 60),
        ];
        seeds.push((name.to_owned(), steps(&list)));
    }
    let crowd: Vec<Vec<u8>> = (0..40u8)
        .map(|i| step(i & 1, 0, i, i.wrapping_mul(7), i.wrapping_mul(3), 0x02, [i, i, i, i], i, 1))
        .collect();
    seeds.push(("crowd".to_owned(), steps(&crowd)));
    seeds
}
