//! What forwarding costs the stack alone: a router's whole shard between two links in memory, in bursts of 64. Prints nanoseconds
//! a frame; with valgrind the same program counts instructions:
//!
//! `valgrind --tool=callgrind --toggle-collect='*measured_poll*' target/release/forward_cost 20000 CASE`
//!
//! usage: `forward_cost [FRAMES [CASE]]`; the cases' names are printed.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration as Spent, Instant as Clock};

use bywash::config::{FilterConfig, ForwardConfig, LinkConfig, Route, StackConfig};
use bywash::device::{Capabilities, Device};
use bywash::flow::filter::RuleSet;
use bywash::limits::BURST_PACKETS;
use bywash::packet::checksum::Sum;
use bywash::packet::{Packet, PacketBatch, PacketPool, PoolLayout};
use bywash::shard::Shard;
use bywash::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

const FRAMES: usize = 1_000_000;
/// Microseconds between bursts.
const TURN_MICROS: u64 = 100;
const HEADERS: usize = 54;

const STATEFUL: &str = "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n";
const MASQUERADE: &str = "*nat\n-A POSTROUTING -o FAR -j MASQUERADE\nCOMMIT\n";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    /// One UDP flow that nobody answers.
    Datagrams,
    /// An established TCP connection's data, one way.
    Segments,
    /// Each frame begins a UDP flow.
    NewFlows,
}

struct Case {
    name: &'static str,
    rules: Option<(bool, usize)>,
    traffic: Traffic,
    frame: usize,
}

const CASES: [Case; 9] = [
    Case { name: "routed", rules: None, traffic: Traffic::Datagrams, frame: 60 },
    Case { name: "filter", rules: Some((false, 10)), traffic: Traffic::Datagrams, frame: 60 },
    Case { name: "masquerade", rules: Some((true, 10)), traffic: Traffic::Datagrams, frame: 60 },
    Case { name: "filter-tcp", rules: Some((false, 10)), traffic: Traffic::Segments, frame: 60 },
    Case { name: "masquerade-tcp", rules: Some((true, 10)), traffic: Traffic::Segments, frame: 60 },
    Case { name: "routed-1514", rules: None, traffic: Traffic::Datagrams, frame: 1514 },
    Case { name: "masquerade-1514", rules: Some((true, 10)), traffic: Traffic::Datagrams, frame: 1514 },
    Case { name: "new", rules: Some((false, 10)), traffic: Traffic::NewFlows, frame: 60 },
    Case { name: "new-masquerade", rules: Some((true, 10)), traffic: Traffic::NewFlows, frame: 60 },
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let frames: usize = arguments.next().map_or(Ok(FRAMES), |text| text.parse())?;
    let only = arguments.next();
    for case in CASES.iter().filter(|case| only.as_ref().is_none_or(|only| only == case.name)) {
        let mut bench = Bench::new(case)?;
        let nanos = bench.run(case, frames)?;
        println!("{:<18} {nanos:>8.1} ns a frame", case.name);
    }
    Ok(())
}

/// A router with its device and what arrives.
struct Bench {
    shard: Shard,
    device: Memory,
    now: Instant,
    frame: Vec<u8>,
    sent: u32,
    spent: Spent,
}

impl Bench {
    fn new(case: &Case) -> Result<Self, Box<dyn Error>> {
        let mut config = StackConfig::new(vec!["192.0.2.1/24".parse()?], [7; 32]);
        config.further_links = vec![LinkConfig {
            name: "FAR".into(),
            addresses: vec!["198.51.100.1/24".parse()?],
            ..LinkConfig::default()
        }];
        config.routes = vec![Route {
            destination: "203.0.113.0/24".parse()?,
            gateway: Ipv4Addr::new(198, 51, 100, 2).into(),
            link: None,
        }];
        config.forward = Some(ForwardConfig::default());
        if let Some((translates, count)) = case.rules {
            let mut text = if translates { MASQUERADE } else { "" }.to_owned() + "*filter\n" + STATEFUL;
            for number in 1..=count {
                text += &format!("-A FORWARD -s 10.0.0.{number}/32 -p udp -j DROP\n");
            }
            let rules = RuleSet::parse(&(text + "COMMIT\n"), "rules").map_err(|error| error.to_string())?;
            config.filter = Some(FilterConfig::new(Arc::new(rules), "NEAR".into()));
        }
        let device = Memory::new();
        let links = Shard::links(1).remove(0);
        let shard = Shard::new(&config, 0, 1, links, &device, Instant::ZERO)?;
        let mut bench = Self {
            shard,
            device,
            now: Instant::from_millis(1),
            frame: frame(case),
            sent: 0,
            spent: Spent::ZERO,
        };
        // Both neighbours ask, and are known.
        for (link, host, router) in
            [(0, [192, 0, 2, 2], [192, 0, 2, 1]), (1, [198, 51, 100, 2], [198, 51, 100, 1])]
        {
            let mut arp = [[0xff; 6], Memory::peer(link)].concat();
            arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            arp.extend(Memory::peer(link));
            arp.extend(host);
            arp.extend([0; 6]);
            arp.extend(router);
            bench.arrive(link, &arp)?;
            bench.turn();
        }
        if case.traffic == Traffic::Segments {
            bench.handshake(case)?;
        }
        Ok(bench)
    }

    fn handshake(&mut self, case: &Case) -> Result<(), Box<dyn Error>> {
        let translated = case.rules.is_some_and(|(translates, _)| translates);
        let outside = if translated { [198, 51, 100, 1] } else { [192, 0, 2, 2] };
        let mut syn = self.frame[..HEADERS].to_vec();
        syn[17] = 40;
        syn[38..42].copy_from_slice(&999u32.to_be_bytes());
        syn[42..46].fill(0);
        syn[47] = 2;
        seal(&mut syn);
        self.arrive(0, &syn)?;
        self.turn();
        let mut answer = syn.clone();
        answer[..6].copy_from_slice(&Memory::own(1));
        answer[6..12].copy_from_slice(&Memory::peer(1));
        answer[26..30].copy_from_slice(&syn[30..34]);
        answer[30..34].copy_from_slice(&outside);
        answer[34..36].copy_from_slice(&syn[36..38]);
        answer[36..38].copy_from_slice(&syn[34..36]);
        answer[38..42].copy_from_slice(&9u32.to_be_bytes());
        answer[42..46].copy_from_slice(&1000u32.to_be_bytes());
        answer[47] = 0x12;
        seal(&mut answer);
        self.arrive(1, &answer)?;
        self.turn();
        Ok(())
    }

    fn arrive(&mut self, link: usize, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let packet = Packet::copy_from(&self.device.pool, bytes).ok_or("no frame is free")?;
        self.device.links[link].rx.push_back(packet);
        Ok(())
    }

    fn turn(&mut self) {
        self.now += Duration::from_micros(TURN_MICROS);
        let started = Clock::now();
        measured_poll(&mut self.shard, self.now, &mut self.device);
        self.spent += started.elapsed();
        self.device.links.iter_mut().for_each(|link| link.tx.clear());
    }

    /// Nanoseconds a frame, after a warm-up; the table of flows is full then.
    fn run(&mut self, case: &Case, frames: usize) -> Result<f64, Box<dyn Error>> {
        let warm_up = if case.traffic == Traffic::NewFlows { 300_000.min(frames) } else { frames / 10 };
        for (count, measured) in [(warm_up, false), (frames, true)] {
            self.spent = Spent::ZERO;
            let before = self.shard.counters().forwarded_packets;
            for _ in 0..count.div_ceil(BURST_PACKETS) {
                for _ in 0..BURST_PACKETS {
                    self.next(case);
                    let frame = core::mem::take(&mut self.frame);
                    self.arrive(0, &frame)?;
                    self.frame = frame;
                }
                self.turn();
            }
            let forwarded = self.shard.counters().forwarded_packets - before;
            if forwarded != (count.div_ceil(BURST_PACKETS) * BURST_PACKETS) as u64 {
                return Err(format!("{}: {forwarded} frames of {count} forwarded", case.name).into());
            }
            if measured {
                return Ok(self.spent.as_nanos() as f64 / forwarded as f64);
            }
        }
        Err("nothing measured".into())
    }

    fn next(&mut self, case: &Case) {
        if case.traffic == Traffic::NewFlows {
            self.sent = self.sent.wrapping_add(1);
            let (port, rest) = (1024 + (self.sent % 60_000) as u16, self.sent / 60_000);
            self.frame[29] = 2 + (rest % 250) as u8;
            self.frame[34..36].copy_from_slice(&port.to_be_bytes());
            self.frame[36..38].copy_from_slice(&(7 + rest as u16).to_be_bytes());
            seal(&mut self.frame);
        }
    }
}

/// By this name callgrind knows what to count.
#[inline(never)]
fn measured_poll(shard: &mut Shard, now: Instant, device: &mut Memory) {
    shard.poll(now, device);
}

fn frame(case: &Case) -> Vec<u8> {
    let tcp = case.traffic == Traffic::Segments;
    let mut frame = [Memory::own(0), Memory::peer(0)].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((case.frame - 14) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, if tcp { 6 } else { 17 }, 0, 0, 192, 0, 2, 2, 203, 0, 113, 9]);
    frame.extend(5000u16.to_be_bytes());
    frame.extend(7u16.to_be_bytes());
    if tcp {
        frame.extend([1000u32.to_be_bytes(), 10u32.to_be_bytes()].concat());
        frame.extend([0x50, 0x10, 0x40, 0, 0, 0, 0, 0]);
    } else {
        frame.extend(((case.frame - 34) as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.resize(case.frame, 0);
    seal(&mut frame);
    frame
}

/// The checksums of IPv4 and TCP; datagrams have none.
fn seal(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let mut sum = Sum::ZERO;
    sum.add(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
    if frame[23] == 6 {
        let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        frame[50..52].fill(0);
        let addr = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
        let mut sum = Sum::pseudo_header(addr(26).into(), addr(30).into(), 6, (end - 34) as u32);
        sum.add(&frame[34..end]);
        let checksum = sum.checksum().to_be_bytes();
        frame[50..52].copy_from_slice(&checksum);
    }
}

/// Two links whose packets are in memory.
struct Memory {
    links: [Ends; 2],
    pool: PacketPool,
}

struct Ends {
    capabilities: Capabilities,
    rx: PacketBatch,
    tx: PacketBatch,
}

impl Memory {
    fn new() -> Self {
        let ends = |link| Ends {
            capabilities: Capabilities {
                mac: EthernetAddress(Self::own(link)),
                mtu: 1500,
                partial_checksums: true,
                tx_frames_max: 1,
            },
            rx: PacketBatch::new(),
            tx: PacketBatch::new(),
        };
        let layout = PoolLayout { frames: 1024, frame_size: 2048, headroom: 128 };
        Self { links: [ends(0), ends(1)], pool: PacketPool::heap(layout) }
    }

    fn own(link: usize) -> [u8; 6] {
        [2, 0, 0, 0, link as u8, 1]
    }

    fn peer(link: usize) -> [u8; 6] {
        [2, 0, 0, 0, link as u8, 2]
    }
}

impl Device for Memory {
    fn capabilities(&self) -> &Capabilities {
        self.capabilities_of(0)
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
        BURST_PACKETS
    }

    fn links(&self) -> usize {
        self.links.len()
    }

    fn capabilities_of(&self, link: usize) -> &Capabilities {
        &self.links[link].capabilities
    }

    fn receive_on(&mut self, link: usize, batch: &mut PacketBatch, budget: usize) -> usize {
        let rx = &mut self.links[link].rx;
        let count = budget.min(rx.len());
        batch.extend(rx.drain(..count));
        count
    }

    fn transmit_on(&mut self, link: usize, batch: &mut PacketBatch) -> usize {
        let count = batch.len();
        self.links[link].tx.append(batch);
        count
    }
}
