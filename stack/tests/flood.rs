//! A router under floods of flows with invented sources, whole shard in memory: its table of flows stays within its bound, memory
//! does not grow, and flows that were established go on, translated as before.
//!
//! ```text
//! hosts inside: 10.0.0.0/8 ── lan 10.255.255.254  router  wan 192.0.2.254 ── hosts outside, through 192.0.2.2
//! ```

use core::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bywash::config::{Cidr, FilterConfig, ForwardConfig, LinkConfig, Route, StackConfig};
use bywash::counters::DropReason;
use bywash::device::{Capabilities, Device};
use bywash::flow::conntrack::ConntrackConfig;
use bywash::flow::filter::RuleSet;
use bywash::packet::checksum::Sum;
use bywash::packet::{Packet, PacketBatch, PacketPool, PoolLayout};
use bywash::shard::Shard;
use bywash::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const LAN: usize = 0;
const WAN: usize = 1;
/// The Ethernet addresses of everybody on each link.
const PEERS: [EthernetAddress; 2] =
    [EthernetAddress([2, 0, 0, 0, 1, 1]), EthernetAddress([2, 0, 0, 0, 1, 2])];
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

const RULES: &str = "\
*nat
-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
*filter
:INPUT DROP
:FORWARD DROP
-A FORWARD -i lan -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT
COMMIT
";

/// Two links in memory.
struct Cards {
    capabilities: [Capabilities; 2],
    pool: PacketPool,
    rx: [PacketBatch; 2],
    tx: [PacketBatch; 2],
}

impl Device for Cards {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities[0]
    }

    fn pool(&self) -> &PacketPool {
        &self.pool
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        self.receive_on(0, batch, budget)
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        self.transmit_on(0, batch)
    }

    fn transmit_room(&mut self) -> usize {
        usize::MAX
    }

    fn links(&self) -> usize {
        2
    }

    fn capabilities_of(&self, link: usize) -> &Capabilities {
        &self.capabilities[link]
    }

    fn receive_on(&mut self, link: usize, batch: &mut PacketBatch, budget: usize) -> usize {
        let count = budget.min(self.rx[link].len());
        batch.extend(self.rx[link].drain(..count));
        count
    }

    fn transmit_on(&mut self, link: usize, batch: &mut PacketBatch) -> usize {
        let count = batch.len();
        self.tx[link].append(batch);
        count
    }

    fn transmit_room_on(&mut self, _link: usize) -> usize {
        usize::MAX
    }
}

/// A packet's addresses and ports, and of TCP its numbers and flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    protocol: u8,
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    seq: u32,
    ack: u32,
    flags: u8,
}

fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Segment {
    Segment { protocol: UDP, src, dst, seq: 0, ack: 0, flags: 0 }
}

fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), seq: u32, ack: u32, flags: u8) -> Segment {
    Segment { protocol: TCP, src, dst, seq, ack, flags }
}

impl Segment {
    /// As a frame, with one byte of payload unless it is a SYN.
    fn write(&self, frame: &mut Vec<u8>, to: EthernetAddress, from: EthernetAddress) {
        frame.clear();
        frame.extend_from_slice(&to.0);
        frame.extend_from_slice(&from.0);
        frame.extend_from_slice(&[8, 0]);
        let payload = usize::from(self.flags & SYN == 0);
        let header = if self.protocol == TCP { 20 } else { 8 };
        frame.extend_from_slice(&[0x45, 0]);
        frame.extend_from_slice(&((20 + header + payload) as u16).to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0x40, 0, 64, self.protocol, 0, 0]);
        frame.extend_from_slice(&self.src.0.octets());
        frame.extend_from_slice(&self.dst.0.octets());
        let mut sum = Sum::ZERO;
        sum.add(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
        frame.extend_from_slice(&self.src.1.to_be_bytes());
        frame.extend_from_slice(&self.dst.1.to_be_bytes());
        let field = if self.protocol == TCP {
            frame.extend_from_slice(&self.seq.to_be_bytes());
            frame.extend_from_slice(&self.ack.to_be_bytes());
            frame.extend_from_slice(&[0x50, self.flags, 0x40, 0, 0, 0, 0, 0]);
            50
        } else {
            frame.extend_from_slice(&((8 + payload) as u16).to_be_bytes());
            frame.extend_from_slice(&[0, 0]);
            40
        };
        frame.resize(frame.len() + payload, b'x');
        let checksum = match self.sum(&frame[34..]).checksum() {
            0 => 0xffff, // the other zero; of UDP, 0 would say that there is none
            checksum => checksum,
        };
        frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    fn sum(&self, transport: &[u8]) -> Sum {
        let (src, dst) = (IpAddr::V4(self.src.0), IpAddr::V4(self.dst.0));
        let mut sum = Sum::pseudo_header(src, dst, self.protocol, transport.len() as u32);
        sum.add(transport);
        sum
    }

    /// From a frame; `None`: it is neither TCP nor UDP. A wrong checksum fails the test.
    fn read(frame: &[u8]) -> Option<Self> {
        if frame[12..14] != [8, 0] || ![TCP, UDP].contains(&frame[23]) {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let double = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
        let end = 14 + usize::from(word(16));
        let protocol = frame[23];
        let (seq, ack, flags) = if protocol == TCP { (double(38), double(42), frame[47]) } else { (0, 0, 0) };
        let read = Self {
            protocol,
            src: (double(26).into(), word(34)),
            dst: (double(30).into(), word(36)),
            seq,
            ack,
            flags,
        };
        assert!(read.sum(&frame[34..end]).is_valid(), "{read:?} has a wrong checksum");
        assert!(protocol == TCP || word(40) != 0, "{read:?} has lost its checksum");
        Some(read)
    }
}

struct Net {
    router: Shard,
    cards: Cards,
    now: Instant,
    frame: Vec<u8>,
    /// Packets that the router sent on each link.
    sent: [u64; 2],
    /// The last of them.
    last: [Option<Segment>; 2],
}

impl Net {
    fn new(entries_max: usize) -> Self {
        let cidr = |text: &str| text.parse::<Cidr>().expect("a network");
        let mut config = StackConfig::new(vec![cidr("10.255.255.254/8")], [7; 32]);
        config.further_links = vec![LinkConfig {
            name: "wan".into(),
            addresses: vec![cidr("192.0.2.254/24")],
            ..LinkConfig::default()
        }];
        config.routes =
            vec![Route { destination: cidr("0.0.0.0/0"), gateway: IpAddr::from([192, 0, 2, 2]), link: None }];
        config.forward = Some(ForwardConfig::default());
        let rules = RuleSet::parse(RULES, "rules").expect("rules");
        let mut filter = FilterConfig::new(Arc::new(rules), "lan".into());
        filter.gate.conntrack = ConntrackConfig { entries_max, ..ConntrackConfig::default() };
        config.filter = Some(filter);
        let capabilities = [1, 2].map(|last| Capabilities {
            mac: EthernetAddress([2, 0, 0, 0, 0, last]),
            mtu: 1500,
            partial_checksums: false,
            tx_frames_max: 1,
        });
        let cards = Cards {
            capabilities,
            pool: PacketPool::heap(PoolLayout { frames: 1024, frame_size: 2048, headroom: 128 }),
            rx: [PacketBatch::new(), PacketBatch::new()],
            tx: [PacketBatch::new(), PacketBatch::new()],
        };
        let router = Shard::new(&config, 0, 1, Shard::links(1).remove(0), &cards, Instant::ZERO);
        Self {
            router: router.expect("the configuration is right"),
            cards,
            now: Instant::from_millis(1000),
            frame: Vec::with_capacity(2048),
            sent: [0; 2],
            last: [None; 2],
        }
    }

    /// Puts a packet on a link's receive queue.
    fn push(&mut self, link: usize, segment: Segment) {
        segment.write(&mut self.frame, self.cards.capabilities[link].mac, PEERS[link]);
        self.cards.rx[link]
            .push_back(Packet::copy_from(&self.cards.pool, &self.frame).expect("frames enough"));
    }

    /// Lets the router work until it has nothing to do. Who is asked for by ARP answers.
    fn settle(&mut self) {
        loop {
            let busy = self.router.poll(self.now, &mut self.cards);
            for link in [LAN, WAN] {
                while let Some(packet) = self.cards.tx[link].pop_front() {
                    packet.copy_to(&mut self.frame);
                    drop(packet);
                    if self.frame[12..14] == [8, 6]
                        && self.frame[21] == 1
                        && self.frame[28..32] != self.frame[38..42]
                    {
                        self.answer_arp(link);
                    } else if let Some(segment) = Segment::read(&self.frame) {
                        self.sent[link] += 1;
                        self.last[link] = Some(segment);
                    }
                }
            }
            if !busy && self.cards.rx.iter().all(PacketBatch::is_empty) {
                return;
            }
        }
    }

    fn answer_arp(&mut self, link: usize) {
        let request = self.frame[..42].to_vec();
        let mut reply = [&request[6..12], &PEERS[link].0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat();
        reply.extend_from_slice(&PEERS[link].0);
        reply.extend_from_slice(&request[38..42]);
        reply.extend_from_slice(&request[22..32]);
        self.cards.rx[link].push_back(Packet::copy_from(&self.cards.pool, &reply).expect("frames enough"));
    }

    /// Sends one packet through the router, and returns what comes out on the other link.
    fn pass(&mut self, link: usize, segment: Segment) -> Option<Segment> {
        self.last[1 - link] = None;
        self.push(link, segment);
        self.settle();
        self.last[1 - link]
    }

    fn flows(&self) -> usize {
        self.router.flow_census().expect("flows are tracked").0
    }
}

/// A TCP connection and a UDP stream from inside, and a TCP connection to the forwarded port, all established and assured.
struct Established {
    /// The ports that the router gave them.
    tcp: u16,
    udp: u16,
    seq: u32,
}

impl Established {
    const CLIENT: (Ipv4Addr, u16) = (INSIDE, 1234);
    const VISITOR: (Ipv4Addr, u16) = (OUTSIDE, 4321);

    fn new(net: &mut Net) -> Self {
        let server = (OUTSIDE, 443);
        let out = net.pass(LAN, tcp(Self::CLIENT, server, 99, 0, SYN)).expect("a SYN goes out");
        assert_eq!((out.src.0, out.dst), (ROUTER, server));
        let port = out.src.1;
        let back =
            net.pass(WAN, tcp(server, (ROUTER, port), 499, 100, SYN | ACK)).expect("a SYN-ACK comes in");
        assert_eq!(back.dst, Self::CLIENT);
        let out = net.pass(LAN, udp(Self::CLIENT, (OUTSIDE, 53))).expect("a datagram goes out");
        let udp_port = out.src.1;
        let visited = net.pass(WAN, tcp(Self::VISITOR, (ROUTER, 8080), 99, 0, SYN)).expect("a SYN comes in");
        assert_eq!(visited.dst, (SERVER, 80));
        net.pass(LAN, tcp((SERVER, 80), Self::VISITOR, 499, 100, SYN | ACK)).expect("a SYN-ACK goes out");
        let mut this = Self { tcp: port, udp: udp_port, seq: 0 };
        this.exchange(net);
        // An answered UDP flow is a stream two seconds later.
        net.now += Duration::from_secs(3);
        this.exchange(net);
        this
    }

    /// A byte each way on each, translated as at first.
    fn exchange(&mut self, net: &mut Net) {
        let (seq, ack) = (100 + self.seq, 500 + self.seq);
        self.seq += 1;
        let server = (OUTSIDE, 443);
        let out = net.pass(LAN, tcp(Self::CLIENT, server, seq, ack, ACK));
        assert_eq!(out, Some(tcp((ROUTER, self.tcp), server, seq, ack, ACK)));
        let back = net.pass(WAN, tcp(server, (ROUTER, self.tcp), ack, seq + 1, ACK));
        assert_eq!(back, Some(tcp(server, Self::CLIENT, ack, seq + 1, ACK)));
        let server = (OUTSIDE, 53);
        assert_eq!(net.pass(LAN, udp(Self::CLIENT, server)), Some(udp((ROUTER, self.udp), server)));
        assert_eq!(net.pass(WAN, udp(server, (ROUTER, self.udp))), Some(udp(server, Self::CLIENT)));
        let (inside, outside) = ((SERVER, 80), (ROUTER, 8080));
        let visit = net.pass(WAN, tcp(Self::VISITOR, outside, seq, ack, ACK));
        assert_eq!(visit, Some(tcp(Self::VISITOR, inside, seq, ack, ACK)));
        let reply = net.pass(LAN, tcp(inside, Self::VISITOR, ack, seq + 1, ACK));
        assert_eq!(reply, Some(tcp(outside, Self::VISITOR, ack, seq + 1, ACK)));
    }
}

/// Flow `number` of the flood: every other one a SYN from anywhere outside to the forwarded port, the rest datagrams from anybody
/// inside to somewhere outside, masqueraded. No two have the same addresses and ports.
fn flood(number: u32) -> (usize, Segment) {
    // A bijection: sources in no order.
    let mixed = (number >> 1).wrapping_mul(0x9e37_79b1);
    let port = 1024 + (mixed >> 20) as u16;
    if number.is_multiple_of(2) {
        let src = Ipv4Addr::from(0x2000_0000 | mixed & 0x0fff_ffff);
        (WAN, tcp((src, port), (ROUTER, 8080), number, 0, SYN))
    } else {
        let src = Ipv4Addr::from(0x0a10_0000 | mixed & 0x000f_ffff);
        (LAN, udp((src, port), (Ipv4Addr::new(203, 0, 113, (mixed >> 24) as u8), 53)))
    }
}

#[test]
fn two_million_flows_from_invented_sources_leave_the_established_ones_and_the_memory_as_they_were() {
    const FLOWS: u32 = 2_000_000;
    const ENTRIES_MAX: usize = 20_000;
    /// What the books may grow by once the table was full for a while.
    const GROWTH_BYTES: i64 = 64 << 10;
    let mut net = Net::new(ENTRIES_MAX);
    let mut established = Established::new(&mut net);
    let mut run = |net: &mut Net, numbers: core::ops::Range<u32>| {
        for number in numbers {
            let (link, segment) = flood(number);
            net.push(link, segment);
            if number % 64 == 63 {
                net.now += Duration::from_micros(64);
                net.settle();
            }
            if number % 50_000 == 0 {
                established.exchange(net);
                assert!(net.flows() <= ENTRIES_MAX);
            }
        }
    };
    // Until table, mappings and queues have the size that they stay at.
    const WARM: u32 = 400_000;
    run(&mut net, 0..WARM);
    let counted = allocation_counter::measure(|| run(&mut net, WARM..FLOWS));
    assert!(counted.bytes_max <= GROWTH_BYTES as u64, "memory grew by {} bytes", counted.bytes_max);
    assert!(counted.bytes_current <= GROWTH_BYTES, "memory has grown by {} bytes", counted.bytes_current);
    established.exchange(&mut net);

    assert_eq!(net.flows(), ENTRIES_MAX);
    let flows = net.router.flow_counters().expect("flows are tracked");
    assert_eq!(flows.confirmed, u64::from(FLOWS) + 3, "each began a flow");
    assert_eq!(flows.early_drops, flows.confirmed - ENTRIES_MAX as u64, "the oldest made room");
    let drops: Vec<_> = net.router.counters().drops().filter(|(_, count)| *count > 0).collect();
    assert_eq!(drops, [], "nothing was dropped");
    assert!(net.sent[LAN] >= u64::from(FLOWS / 2) && net.sent[WAN] >= u64::from(FLOWS / 2));

    // When it is over, what nobody answered goes, and the rest stays.
    for _ in 0..20 {
        net.now += Duration::from_secs(10);
        established.exchange(&mut net);
    }
    assert_eq!(net.flows(), 3);
    let usage = net.cards.pool.usage();
    assert_eq!((usage.free, usage.held), (usage.total, 0), "every frame is back");
}

#[test]
fn where_all_flows_are_established_new_ones_are_refused_and_counted() {
    let mut net = Net::new(3);
    let mut established = Established::new(&mut net);
    for number in 0..1000 {
        let (link, segment) = flood(number);
        assert_eq!(net.pass(link, segment), None);
    }
    established.exchange(&mut net);
    assert_eq!(net.router.counters().dropped(DropReason::ConntrackTableFull), 1000);
    assert_eq!(net.router.flow_counters().expect("flows are tracked").table_full, 1000);
    assert_eq!(net.flows(), 3);
}
