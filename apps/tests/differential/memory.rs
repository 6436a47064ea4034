//! Our router as one shard in memory, in virtual time: what it sends is there when the call returns.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use bywash::config::{FilterConfig, ForwardConfig, LinkConfig, Route, StackConfig};
use bywash::device::{Capabilities, Device};
use bywash::flow::conntrack::{Direction, Entry};
use bywash::flow::filter::RuleSet;
use bywash::packet::{Packet, PacketBatch, PacketPool, PoolLayout};
use bywash::shard::Shard;
use bywash::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use super::link::{GATEWAY4, GATEWAY6, ROUTER_MACS, Side, answer, frame, ip_packet};
use super::router::{Flow, Output, Router, Setup};

/// Both links, sharing a pool.
struct Links {
    capabilities: [Capabilities; 2],
    pool: PacketPool,
    rx: [VecDeque<Vec<u8>>; 2],
    tx: [VecDeque<Vec<u8>>; 2],
}

impl Device for Links {
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
        let taken = budget.min(self.rx[link].len());
        let packet = |frame: Vec<u8>| Packet::copy_from(&self.pool, &frame).expect("the pool has frames");
        batch.extend(self.rx[link].drain(..taken).map(packet));
        taken
    }

    fn transmit_on(&mut self, link: usize, batch: &mut PacketBatch) -> usize {
        let taken = batch.len();
        for packet in batch.drain(..) {
            let mut frame = Vec::new();
            packet.copy_to(&mut frame);
            self.tx[link].push_back(frame);
        }
        taken
    }
}

/// The router.
pub struct Memory {
    shard: Shard,
    links: Links,
    now: Instant,
}

impl Memory {
    pub fn new(setup: &Setup) -> Self {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect();
        let mut config = StackConfig::new(parse(&super::link::ROUTER_LAN), [7; 32]);
        config.further_links = vec![LinkConfig {
            name: "wan".into(),
            addresses: parse(&super::link::ROUTER_WAN),
            ..LinkConfig::default()
        }];
        config.routes = [("0.0.0.0/0", GATEWAY4), ("::/0", GATEWAY6)]
            .map(|(everywhere, gateway)| Route {
                destination: everywhere.parse().expect("a network"),
                gateway: gateway.parse().expect("an address"),
                link: None,
            })
            .to_vec();
        config.forward = Some(ForwardConfig::default());
        let rules = RuleSet::parse(setup.rules, "rules").unwrap_or_else(|error| panic!("{error}"));
        let mut filter = FilterConfig::new(Arc::new(rules), "lan".into());
        (filter.gate.conntrack.tcp_loose, filter.gate.conntrack.tcp_be_liberal) =
            (setup.loose, setup.liberal);
        for (name, seconds) in setup.timeouts {
            let timeouts = &mut filter.gate.conntrack.timeouts;
            let place = match *name {
                "udp" => &mut timeouts.udp,
                "tcp_syn_sent" => &mut timeouts.tcp_syn_sent,
                "icmp" => &mut timeouts.icmp,
                other => panic!("no timeout {other} in this test"),
            };
            *place = Duration::from_secs(*seconds);
        }
        config.filter = Some(filter);
        let capabilities = [0, 1].map(|link| Capabilities {
            mac: EthernetAddress(ROUTER_MACS[link]),
            mtu: setup.mtus[link],
            partial_checksums: false,
            tx_frames_max: 8,
        });
        let layout = PoolLayout { frames: 256, frame_size: 2048, headroom: 128 };
        let pool = PacketPool::heap(layout);
        let links = Links { capabilities, pool, rx: Default::default(), tx: Default::default() };
        let shard = Shard::new(&config, 0, 1, Shard::links(1).remove(0), &links, Instant::ZERO);
        let shard = shard.unwrap_or_else(|error| panic!("{error}"));
        let mut this = Self { shard, links, now: Instant::from_millis(1) };
        // Its first words about itself are not looked at.
        this.settle();
        this
    }

    fn settle(&mut self) -> Output {
        let mut output = Output::default();
        for _ in 0..1000 {
            let mut busy = self.shard.poll(self.now, &mut self.links);
            for side in Side::BOTH {
                while let Some(frame) = self.links.tx[side as usize].pop_front() {
                    busy = true;
                    if let Some(reply) = answer(side, &frame) {
                        self.links.rx[side as usize].push_back(reply);
                    } else if let Some(packet) = ip_packet(&frame) {
                        output.of(side).push(packet);
                    }
                }
            }
            if !busy {
                return output;
            }
        }
        panic!("the router does not come to rest");
    }
}

impl Router for Memory {
    fn name(&self) -> &'static str {
        "bywash"
    }

    fn exchange(&mut self, side: Side, packet: &[u8]) -> Output {
        self.now += Duration::from_millis(2);
        self.links.rx[side as usize].push_back(frame(side, packet));
        self.settle()
    }

    fn wait(&mut self, seconds: u64) -> Output {
        let end = self.now + Duration::from_secs(seconds);
        let mut output = Output::default();
        loop {
            let mut more = self.settle();
            for side in Side::BOTH {
                output.of(side).append(more.of(side));
            }
            match self.shard.next_deadline(self.now) {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = end;
        output
    }

    fn flows(&mut self) -> Option<Vec<Flow>> {
        let now = self.now;
        let mut found = Vec::new();
        if let Some(flows) = self.shard.flows() {
            flows.list(0, u32::MAX, |_, entry| found.push(flow(now, entry)));
        }
        Some(found)
    }
}

/// As `conntrack -L` has it.
fn flow(now: Instant, entry: &Entry) -> Flow {
    let tuple = |direction| {
        let tuple = entry.tuple(direction);
        let ports = match tuple.icmp_query() {
            Some((kind, id)) => format!("type={kind} id={id}"),
            None if entry.has_ports() => format!("sport={} dport={}", tuple.src_port, tuple.dst_port),
            None => String::new(),
        };
        let show = |addr: IpAddr| addr.to_string();
        format!("src={} dst={} {ports}", show(tuple.src()), show(tuple.dst())).trim_end().to_owned()
    };
    let state = entry.tcp_state().map_or("", bywash::flow::conntrack::TcpState::name);
    Flow {
        protocol: entry.original.protocol,
        state: state.to_owned(),
        tuples: [tuple(Direction::Original), tuple(Direction::Reply)],
        unreplied: !entry.seen_reply,
        assured: entry.assured,
        mark: entry.mark,
        timeout: entry.expires.saturating_since(now).as_secs(),
    }
}
