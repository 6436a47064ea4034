//! Remembered ways change nothing but the cost: two routers, one of which remembers none, get the same frames, times, rules, routes
//! and deletions, and must send the same frames and have the same flows, counters and deadlines after every step.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::forward::Net;
use super::forward_fuzz::repair;
use super::*;
use crate::flow::FlowFilter;
use crate::flow::filter::RuleSet;
use crate::packet::checksum::Sum;
use crate::parse::protocol::{TCP, UDP};

const MASQUERADE: &str = "*nat\n-A POSTROUTING -o wan -j MASQUERADE\n\
    -A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:80\nCOMMIT\n";
/// A router without any.
const NO_RULES: usize = 6;
const RULES: [Option<&str>; 7] = [
    Some(MASQUERADE),
    Some(
        "*filter\n:FORWARD DROP\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
     -A FORWARD -m conntrack --ctstate INVALID -j DROP\n-A FORWARD -i lan -j ACCEPT\nCOMMIT\n",
    ),
    Some(
        "*filter\n-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\n\
     -A FORWARD -m conntrack --ctstate INVALID -j REJECT\nCOMMIT\n",
    ),
    Some(
        "*mangle\n-A FORWARD -m limit --limit 3/second --limit-burst 4 -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n\
     *filter\n-A FORWARD -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n",
    ),
    Some(
        "*raw\n-A PREROUTING -p udp --dport 4001 -j NOTRACK\nCOMMIT\n\
     *filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n",
    ),
    Some(
        "*nat\n-A POSTROUTING -o wan -p udp -j SNAT --to-source 192.0.2.254:2000-2003\n\
     -A POSTROUTING -o wan -p tcp -j SNAT --to-source 192.0.2.254:2000-2003\nCOMMIT\n\
     *raw\n:PREROUTING ACCEPT\nCOMMIT\n",
    ),
    None,
];

/// TCP's control bits, mostly those of data.
const FLAGS: [u8; 10] = [0x02, 0x12, 0x10, 0x10, 0x18, 0x10, 0x11, 0x14, 0x04, 0x29];

#[derive(Clone, Debug)]
struct Spec {
    from_lan: bool,
    tcp: bool,
    port: u16,
    far: bool,
    flags: usize,
    /// Hundreds of bytes from where the stream begins.
    at: u32,
    ack: u32,
    payload: usize,
    hops: u8,
    /// 1: without DF, 2: an option, 3: a wrong transport checksum, 4: none (UDP), 5: left to the device, 6: cut short.
    damage: u8,
}

#[derive(Clone, Debug)]
enum Step {
    /// Packets of one burst.
    Burst(Vec<Spec>),
    /// What a router sent on a link comes back, turned round.
    Answer(prop::sample::Index, bool, u8),
    Wait(u64),
    Rules(usize),
    Delete(u8),
    /// The addresses are taken anew, the outer one with this last number.
    Addresses(u8),
    /// A neighbour says that it has another Ethernet address.
    Moved(bool, u8),
    /// A host sends from another Ethernet address (0: from its own again), and says nothing of it.
    Forged(bool, u8),
    /// Whether neighbours answer from now on.
    Silence(bool),
    /// What the ring of the outer link takes.
    Room(usize),
}

fn spec() -> impl Strategy<Value = Spec> {
    let hops = prop_oneof![8 => Just(64u8), 1 => Just(1u8), 1 => Just(2u8)];
    let damage = prop_oneof![8 => Just(0u8), 4 => 0u8..7];
    let sizes = prop::sample::select(vec![0usize, 10, 10, 100, 100, 700, 1300]);
    (any::<(bool, bool, bool)>(), 0u16..3, 0..FLAGS.len(), (0u32..6, 0u32..3), sizes, hops, damage).prop_map(
        |((from_lan, tcp, far), port, flags, (at, ack), payload, hops, damage)| Spec {
            from_lan,
            tcp,
            port,
            far,
            flags,
            at,
            ack,
            payload,
            hops,
            damage,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let waits = vec![0u64, 1, 40, 99, 100, 101, 250, 3000, 6000, 31_000, 125_000, 500_000];
    prop_oneof![
        12 => prop::collection::vec(spec(), 1..5).prop_map(Step::Burst),
        // Again and again the same: what ways are for.
        8 => (spec(), 2usize..9).prop_map(|(spec, count)| Step::Burst(vec![spec; count])),
        12 => (any::<prop::sample::Index>(), any::<bool>(), 0u8..4).prop_map(|(which, link, flags)| Step::Answer(which, link, flags)),
        6 => prop::sample::select(waits).prop_map(Step::Wait),
        1 => (0..RULES.len()).prop_map(Step::Rules),
        1 => (0u8..2).prop_map(Step::Delete),
        1 => (253u8..255).prop_map(Step::Addresses),
        1 => (any::<bool>(), 0u8..3).prop_map(|(wan, mac)| Step::Moved(wan, mac)),
        1 => (any::<bool>(), 0u8..3).prop_map(|(wan, mac)| Step::Forged(wan, mac)),
        1 => prop::bool::weighted(0.3).prop_map(Step::Silence),
        1 => prop::sample::select(vec![0usize, 1, usize::MAX, usize::MAX]).prop_map(Step::Room),
    ]
}

/// From the IP header on.
fn packet(spec: &Spec, v6: bool) -> Vec<u8> {
    let number = if spec.tcp { TCP } else { UDP };
    let (inside, outside) = ([192, 168, 1, 1], if spec.far { [203, 0, 113, 9] } else { [192, 0, 2, 2] });
    let (mut ports, mut addresses) = ([5000 + spec.port, 4000 + spec.port % 2], [inside, outside]);
    if !spec.from_lan {
        // To the router's outer address, to a forwarded port of it, or straight inside.
        ports = [ports[1], if spec.port == 2 { 8080 } else { ports[0] }];
        addresses = [outside, if spec.port == 0 { inside } else { [192, 0, 2, 254] }];
    }
    let mut transport = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
    if spec.tcp {
        // A SYN has the number before the stream's first.
        let syn = FLAGS[spec.flags] & 2 != 0;
        let (seq, ack) = (if syn { 999 } else { 1000 + spec.at * 100 }, 1000 + spec.ack * 100);
        transport.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
        transport.extend([0x50, FLAGS[spec.flags], 0x20, 0, 0, 0, 0, 0]);
    } else {
        transport.extend(((8 + spec.payload) as u16).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend(pattern(spec.payload));
    let mut ip = if v6 {
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend((transport.len() as u16).to_be_bytes());
        ip.extend([number, spec.hops]);
        for [_, b, c, d] in addresses {
            let net = if b == 168 {
                1
            } else if b == 0 && c == 2 {
                2
            } else {
                9
            };
            let host = if d == 254 { 0xfe } else { u16::from(d) };
            ip.extend(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host).octets());
        }
        ip
    } else {
        let options: &[u8] = if spec.damage == 2 { &[7, 7, 4, 0, 0, 0, 0, 0] } else { &[] };
        let mut ip = vec![0x45 + (options.len() / 4) as u8, 0];
        ip.extend(((20 + options.len() + transport.len()) as u16).to_be_bytes());
        ip.extend([0, 7, if spec.damage == 1 { 0 } else { 0x40 }, 0, spec.hops, number, 0, 0]);
        ip.extend(addresses.concat());
        ip.extend(options);
        ip
    };
    let at = ip.len() + if spec.tcp { 16 } else { 6 };
    let len = transport.len() as u32;
    ip.extend(transport);
    let mut frame = [vec![0; 14], ip].concat();
    repair(&mut frame);
    let mut ip = frame.split_off(14);
    match spec.damage {
        3 => ip[at] ^= 0x55,
        4 if !spec.tcp => ip[at..at + 2].fill(0),
        5 => {
            let addr = |at: usize| -> IpAddr {
                if v6 {
                    Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap()).into()
                } else {
                    Ipv4Addr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap()).into()
                }
            };
            let (src, dst) = if v6 { (addr(8), addr(24)) } else { (addr(12), addr(16)) };
            let sum = Sum::pseudo_header(src, dst, number, len).folded();
            ip[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        6 => ip.truncate(at),
        _ => {}
    }
    ip
}

/// The answer to a packet that a router sent, if it has ports.
fn answer(frame: &[u8], flags: u8) -> Option<Vec<u8>> {
    let mut ip = frame.get(14..)?.to_vec();
    let (l4, number, at, len) = match ip.first()? >> 4 {
        4 if ip.len() >= 28 => (usize::from(ip[0] & 15) * 4, ip[9], 12, 4),
        6 if ip.len() >= 48 => (40, ip[6], 8, 16),
        _ => return None,
    };
    for (at, len) in [(at, len), (l4, 2)] {
        let (first, second) = ip.get_mut(at..at + 2 * len)?.split_at_mut(len);
        first.swap_with_slice(second);
    }
    let hops = if ip[0] >> 4 == 4 { 8 } else { 7 };
    ip[hops] = 64;
    if number == TCP {
        let tcp = ip.get_mut(l4..)?;
        let control = *tcp.get(13)?;
        let (seq, ack): (Vec<u8>, Vec<u8>) = (tcp[4..8].to_vec(), tcp[8..12].to_vec());
        let next = u32::from_be_bytes(seq.try_into().ok()?) + u32::from(control & 3 != 0);
        let ack = if control & 0x10 == 0 { 5000u32.to_be_bytes().to_vec() } else { ack };
        tcp[4..8].copy_from_slice(&ack);
        tcp[8..12].copy_from_slice(&next.to_be_bytes());
        tcp[13] = match (control & 2 != 0, flags) {
            (true, _) if control & 0x10 == 0 => 0x12,
            (_, 0 | 1) => 0x10,
            (_, 2) => 0x11,
            _ => 0x14,
        };
    } else if number != UDP {
        return None;
    }
    let mut frame = [vec![0; 14], ip].concat();
    repair(&mut frame);
    Some(frame.split_off(14))
}

struct Router {
    net: Net,
    silent: bool,
    macs: [u8; 2],
    partial: bool,
}

impl Router {
    fn new(v6: bool, rules: usize, partial: bool, remembers: bool) -> Self {
        let mut links = TestLinks::new(8, &[1500, 1280]);
        links.0.iter_mut().for_each(|device| device.capabilities.partial_checksums = partial);
        let mut net = Net::on(links, RULES[rules], |config| {
            let everywhere = if v6 { "::/0" } else { "0.0.0.0/0" };
            let gateway = if v6 { ip("2001:db8:2::2") } else { ip("192.0.2.2") };
            config.routes = vec![Route { destination: everywhere.parse().unwrap(), gateway, link: None }];
        });
        net.router.recent_ways.off = !remembers;
        if let Some(gate) = &mut net.router.output.gate {
            gate.no_ways = !remembers;
        }
        let to =
            if v6 { ["[2001:db8:2::2]:9", "[2001:db8:1::1]:9"] } else { ["192.0.2.2:9", "192.168.1.1:9"] };
        let options = SocketOptions::default();
        net.lan.shard.tcp_connect(net.now, None, to[0].parse().unwrap(), options.clone()).unwrap();
        net.wan.shard.tcp_connect(net.now, None, to[1].parse().unwrap(), options).unwrap();
        net.run(Duration::from_millis(50));
        net.links.0.iter_mut().for_each(|device| device.sent.clear());
        Self { net, silent: false, macs: [1, 2], partial }
    }

    fn arrive(&mut self, link: usize, ip: &[u8]) {
        let ethertype = if ip[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let own = self.net.links.0[link].capabilities.mac.0;
        let frame = [&own[..], &[2, 0, 0, 0, 0, self.macs[link]], &ethertype, ip].concat();
        self.net.links.0[link].rx.push_back(frame);
    }

    /// Polls the router; its neighbours hear questions about addresses and nothing else.
    fn poll(&mut self) {
        for _ in 0..8 {
            self.net.router.poll(self.net.now, &mut self.net.links);
            for link in 0..2 {
                let host = if link == 0 { &mut self.net.lan } else { &mut self.net.wan };
                for frame in core::mem::take(&mut self.net.links.0[link].tx) {
                    let asks =
                        frame[12..14] == [8, 6] || frame.len() > 54 && frame[20] == 58 && frame[54] == 135;
                    if asks && !self.silent {
                        host.device.rx.push_back(frame);
                    }
                }
                host.poll(self.net.now);
                for frame in core::mem::take(&mut host.device.tx) {
                    let tells =
                        frame[12..14] == [8, 6] || frame.len() > 54 && frame[20] == 58 && frame[54] == 136;
                    if tells {
                        self.net.links.0[link].rx.push_back(frame);
                    }
                }
            }
        }
    }

    fn run(&mut self, step: &Step, v6: bool) {
        match step {
            Step::Burst(specs) => {
                for spec in specs {
                    let spec = Spec {
                        damage: if spec.damage == 5 && !self.partial { 0 } else { spec.damage },
                        ..spec.clone()
                    };
                    self.arrive(usize::from(!spec.from_lan), &packet(&spec, v6));
                }
            }
            Step::Answer(which, link, flags) => {
                let link = usize::from(*link);
                let sent = &self.net.links.0[link].sent;
                let ip = if sent.is_empty() { None } else { answer(&sent[which.index(sent.len())], *flags) };
                if let Some(ip) = ip {
                    (0..2).for_each(|_| self.arrive(link, &ip));
                }
            }
            Step::Wait(millis) => {
                let end = self.net.now + Duration::from_millis(*millis);
                for _ in 0..200 {
                    let next = self.net.router.next_deadline(self.net.now);
                    let Some(at) = next.filter(|at| *at < end) else { break };
                    self.net.now = self.net.now.max(at);
                    self.poll();
                }
                self.net.now = end;
            }
            Step::Rules(which) => {
                let rules = RuleSet::parse(RULES[*which].unwrap_or_default(), "rules").unwrap();
                self.net.router.set_rules(self.net.now, Arc::new(rules)).unwrap();
            }
            Step::Delete(every) => {
                let filter = FlowFilter::default();
                let count = if *every == 0 { u32::MAX } else { 1 };
                let _ = self.net.router.delete_flows(self.net.now, &filter, 0, count);
            }
            Step::Addresses(last) => {
                for (cidr, link) in &mut self.net.router.config.addresses {
                    if *link == 1 && cidr.addr.is_ipv4() {
                        cidr.addr = IpAddr::from([192, 0, 2, *last]);
                    }
                }
                self.net.router.use_addresses();
            }
            Step::Moved(wan, mac) => {
                let link = usize::from(*wan);
                self.macs[link] = 0x20 + mac;
                let host = if *wan { [192, 0, 2, 2] } else { [192, 168, 1, 1] };
                let from = [2, 0, 0, 0, 0, self.macs[link]];
                let mut arp = [[0xff; 6], from].concat();
                arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
                arp.extend(from);
                arp.extend(host);
                arp.extend(self.net.links.0[link].capabilities.mac.0);
                arp.extend(if *wan { [192, 0, 2, 254] } else { [192, 168, 1, 254] });
                self.net.links.0[link].rx.push_back(arp);
            }
            Step::Forged(wan, mac) => {
                let link = usize::from(*wan);
                self.macs[link] = if *mac == 0 { 1 + link as u8 } else { 0x20 + mac };
            }
            Step::Silence(silent) => self.silent = *silent,
            Step::Room(room) => self.net.links.0[1].room = *room,
        }
        self.poll();
    }

    fn ways_taken(&self) -> u64 {
        let with_rules = self.net.router.output.gate.as_ref().map_or(0, |gate| gate.ways_taken);
        with_rules + self.net.router.recent_ways.taken
    }
}

/// The same steps through both routers; how many packets took a remembered way.
fn compare(v6: bool, rules: usize, partial: bool, steps: &[Step]) -> Result<u64, TestCaseError> {
    let [mut quick, mut slow] = [true, false].map(|remembers| Router::new(v6, rules, partial, remembers));
    for step in steps {
        quick.run(step, v6);
        slow.run(step, v6);
        for link in 0..2 {
            prop_assert_eq!(&quick.net.links.0[link].sent, &slow.net.links.0[link].sent, "{:?}", step);
        }
        let now = quick.net.now;
        let [first, second] = [&mut quick.net.router, &mut slow.net.router].map(|router| {
            let flows = router.list_flows(now, &FlowFilter::default(), 0, u32::MAX).ok();
            (flows, router.flow_counters(), router.counters().clone(), router.next_deadline(now))
        });
        prop_assert_eq!(first, second, "{:?}", step);
        let [first, second] = [&quick, &slow].map(|router| {
            let nat = router.net.router.output.gate.as_ref().map(|gate| gate.mappings());
            (nat, router.net.links.pool().usage())
        });
        prop_assert_eq!(first, second);
    }
    prop_assert_eq!(slow.ways_taken(), 0);
    Ok(quick.ways_taken())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_remembered_way_changes_nothing(
        v6 in any::<bool>(),
        rules in 0..RULES.len(),
        partial in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        compare(v6, rules, partial, &steps)?;
    }
}

fn data(from_lan: bool, tcp: bool, flags: usize, at: u32, payload: usize) -> Spec {
    Spec { from_lan, tcp, port: 0, far: true, flags, at, ack: 0, payload, hops: 64, damage: 0 }
}

#[test]
fn all_but_the_first_packets_of_a_flow_take_a_remembered_way() {
    for v6 in [false, true] {
        for rules in [0, 1, 2, 5] {
            // Datagrams: the first begins the flow, the second finds the way.
            let steps = vec![Step::Burst(vec![data(true, false, 0, 0, 10)]); 20];
            assert_eq!(compare(v6, rules, false, &steps).unwrap(), if v6 && rules == 5 { 0 } else { 18 });
        }
        // Without rules the first finds it.
        let steps = vec![Step::Burst(vec![data(true, false, 0, 0, 10)]); 20];
        assert_eq!(compare(v6, NO_RULES, false, &steps).unwrap(), 19);
        let steps = vec![Step::Burst(vec![data(true, true, 3, 0, 100); 4]); 5];
        assert_eq!(compare(v6, NO_RULES, false, &steps).unwrap(), 19);
        // A handshake through a filter, then segments.
        let handshake = [data(true, true, 0, 0, 0), data(false, true, 1, 0, 0)];
        let mut steps: Vec<Step> = handshake.into_iter().map(|spec| Step::Burst(vec![spec])).collect();
        steps.extend((0..10).map(|_| Step::Burst(vec![data(true, true, 3, 0, 0)])));
        assert_eq!(compare(v6, 2, false, &steps).unwrap(), 9);
    }
}

/// The place of a flow that was deleted is the next one's: its packets are not counted there.
#[test]
fn a_way_ends_with_its_flow() {
    let (one, other) = (data(true, false, 0, 0, 10), Spec { port: 1, ..data(true, false, 0, 0, 10) });
    let burst = |spec: &Spec, count| Step::Burst(vec![spec.clone(); count]);
    for rules in [0, 2] {
        let steps = [burst(&one, 6), Step::Delete(0), burst(&other, 1), burst(&one, 2), burst(&other, 2)];
        compare(false, rules, false, &steps).unwrap();
    }
}

/// What a device left to be summed is translated by other means.
#[test]
fn a_partial_checksum_does_not_take_the_way_of_whole_ones() {
    let (whole, partial) = (data(true, false, 0, 0, 10), Spec { damage: 5, ..data(true, false, 0, 0, 10) });
    let steps =
        [Step::Burst(vec![whole.clone(); 6]), Step::Burst(vec![partial; 2]), Step::Burst(vec![whole])];
    for v6 in [false, true] {
        compare(v6, 0, true, &steps).unwrap();
    }
}

/// A flow is looked up for its first packets only.
#[test]
fn datagrams_in_succession_are_not_looked_up() {
    let taken = |steps: &[Step]| {
        let mut router = Router::new(false, 0, false, true);
        steps.iter().for_each(|step| router.run(step, false));
        let gate = router.net.router.output.gate.as_ref().unwrap();
        (router.net.router.recent_ways.taken, gate.ways_taken)
    };
    let one = data(true, false, 0, 0, 10);
    // The first begins, the second finds the way, the third is offered a place and the fourth has it.
    assert_eq!(taken(&vec![Step::Burst(vec![one.clone()]); 20]), (16, 2));
    assert_eq!(taken(&vec![Step::Burst(vec![one.clone(); 4]); 5]), (16, 2));
    // Segments have more to tell: each is looked at.
    let handshake = [data(true, true, 0, 0, 0), data(false, true, 1, 0, 0)];
    let mut steps: Vec<Step> = handshake.into_iter().map(|spec| Step::Burst(vec![spec])).collect();
    steps.extend((0..10).map(|_| Step::Burst(vec![data(true, true, 3, 0, 0)])));
    assert_eq!(taken(&steps).0, 0);
}

/// The neighbour table hears of senders and of use at the same times, counted and seen by when it asks again.
#[test]
fn a_remembered_way_hides_nothing_from_the_neighbor_table() {
    for rules in [NO_RULES, 2] {
        // Longer than a neighbour is believed without a word of it, in steps that no other time is a multiple of.
        let steady = [Step::Burst(vec![data(true, false, 0, 0, 10)]), Step::Wait(97)];
        let steps: Vec<Step> = steady.into_iter().cycle().take(2400).collect();
        assert!(compare(false, rules, false, &steps).unwrap() > 500);
    }
    // Often enough for the flow not to be looked up.
    let steady = [Step::Burst(vec![data(true, false, 0, 0, 10); 2]), Step::Wait(7)];
    let steps: Vec<Step> = steady.into_iter().cycle().take(1500).collect();
    assert!(compare(false, 2, false, &steps).unwrap() > 500);
    let burst = || Step::Burst(vec![data(true, false, 0, 0, 10); 2]);
    let steps: Vec<Step> = (0..20).flat_map(|turn| [burst(), Step::Forged(false, turn % 2)]).collect();
    compare(false, NO_RULES, false, &steps).unwrap();
}

#[test]
fn rules_for_every_packet_leave_no_way_to_remember() {
    for rules in [3, 4] {
        let steps = vec![Step::Burst(vec![data(true, false, 0, 0, 10)]); 20];
        assert_eq!(compare(false, rules, false, &steps).unwrap(), 0);
    }
}
