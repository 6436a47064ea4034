//! Whole shards back to back over in-memory devices in virtual time.

use core::net::IpAddr;
use core::task::{Poll, Waker};
use std::collections::VecDeque;

use smoltcp::wire::EthernetAddress;

use super::*;
use crate::config::StackConfig;
use crate::device::Capabilities;
use crate::packet::{Packet, PacketBatch, PacketPool, PoolLayout};
use crate::time::Duration;

mod advertise;
mod announce;
mod flows;
mod forward;
mod forward_fuzz;
mod forward_shards;
mod frames;
mod fuzz;
mod gro;
mod names;
mod nat;
mod neighbors;
mod ping;
mod queues;
mod rules;
mod tcp;
mod udp;
mod ways;

const SEED: [u8; 32] = [7; 32];
const MTU: usize = 1500;

/// A device of plain queues of frames.
pub(super) struct TestDevice {
    capabilities: Capabilities,
    pool: PacketPool,
    pub(super) rx: VecDeque<Vec<u8>>,
    pub(super) tx: VecDeque<Vec<u8>>,
    /// Everything that was sent, to look at.
    pub(super) sent: Vec<Vec<u8>>,
    /// Packets that the ring takes before it is full.
    pub(super) room: usize,
}

impl TestDevice {
    fn new(host: u8, mtu: usize) -> Self {
        let layout = PoolLayout { frames: 1024, frame_size: 2048, headroom: 128 };
        Self {
            capabilities: Capabilities {
                mac: EthernetAddress([2, 0, 0, 0, 0, host]),
                mtu,
                partial_checksums: false,
                tx_frames_max: 8,
            },
            pool: PacketPool::heap(layout),
            rx: VecDeque::new(),
            tx: VecDeque::new(),
            sent: Vec::new(),
            room: usize::MAX,
        }
    }
}

impl Device for TestDevice {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &PacketPool {
        &self.pool
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        let taken = budget.min(self.rx.len());
        batch.extend(self.rx.drain(..taken).map(|frame| Packet::copy_from(&self.pool, &frame).unwrap()));
        taken
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        let taken = self.room.min(batch.len());
        for packet in batch.drain(..taken) {
            assert!(packet.frames() <= self.capabilities.tx_frames_max);
            assert!(packet.len() <= 14 + self.capabilities.mtu);
            let mut frame = Vec::new();
            packet.copy_to(&mut frame);
            self.sent.push(frame.clone());
            self.tx.push_back(frame);
        }
        taken
    }

    fn transmit_room(&mut self) -> usize {
        self.room
    }
}

/// Devices that share a pool, as one with several links.
pub(super) struct TestLinks(pub(super) Vec<TestDevice>);

impl TestLinks {
    /// Link i has the Ethernet address of host `first + i`, and its MTU.
    fn new(first: u8, mtus: &[usize]) -> Self {
        let mut devices: Vec<TestDevice> =
            mtus.iter().zip(first..).map(|(mtu, number)| TestDevice::new(number, *mtu)).collect();
        let pool = devices[0].pool.clone();
        devices.iter_mut().for_each(|device| device.pool = pool.clone());
        Self(devices)
    }
}

impl Device for TestLinks {
    fn capabilities(&self) -> &Capabilities {
        self.0[0].capabilities()
    }
    fn pool(&self) -> &PacketPool {
        self.0[0].pool()
    }
    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        self.0[0].receive(batch, budget)
    }
    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        self.0[0].transmit(batch)
    }
    fn transmit_room(&mut self) -> usize {
        self.0[0].transmit_room()
    }
    fn links(&self) -> usize {
        self.0.len()
    }
    fn capabilities_of(&self, link: usize) -> &Capabilities {
        self.0[link].capabilities()
    }
    fn receive_on(&mut self, link: usize, batch: &mut PacketBatch, budget: usize) -> usize {
        self.0[link].receive(batch, budget)
    }
    fn transmit_on(&mut self, link: usize, batch: &mut PacketBatch) -> usize {
        self.0[link].transmit(batch)
    }
    fn transmit_room_on(&mut self, link: usize) -> usize {
        self.0[link].transmit_room()
    }
}

/// One shard with its device.
pub(super) struct Host {
    pub(super) shard: Shard,
    pub(super) device: TestDevice,
}

impl Host {
    pub(super) fn with(number: u8, config: &StackConfig, index: u16, links: ShardLinks, mtu: usize) -> Self {
        let device = TestDevice::new(number, mtu);
        let count = links.count();
        let shard = Shard::new(config, index, count, links, &device, Instant::ZERO).unwrap();
        Self { shard, device }
    }

    pub(super) fn new(number: u8, config: &StackConfig) -> Self {
        Self::with(number, config, 0, Shard::links(1).remove(0), MTU)
    }

    fn poll(&mut self, now: Instant) -> bool {
        self.shard.poll(now, &mut self.device)
    }
}

/// The configuration of host `number`: 192.0.2.`number` and 2001:db8::`number`.
pub(super) fn config(number: u8) -> StackConfig {
    let addresses = [format!("192.0.2.{number}/24"), format!("2001:db8::{number}/64")];
    StackConfig::new(addresses.iter().map(|text| text.parse().unwrap()).collect(), SEED)
}

/// Two hosts on one link.
pub(super) struct Pair {
    pub(super) a: Host,
    pub(super) b: Host,
    pub(super) now: Instant,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::of(Host::new(1, &config(1)), Host::new(2, &config(2)))
    }

    pub(super) fn of(a: Host, b: Host) -> Self {
        Self { a, b, now: Instant::from_millis(1) }
    }

    /// Runs until nothing is left to do at this instant.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = self.a.poll(self.now) | self.b.poll(self.now);
            busy |= !self.a.device.tx.is_empty() || !self.b.device.tx.is_empty();
            self.b.device.rx.append(&mut self.a.device.tx);
            self.a.device.rx.append(&mut self.b.device.tx);
            if !busy {
                return;
            }
        }
        panic!("the hosts do not come to rest");
    }

    /// Runs for `span`, jumping from one deadline to the next.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle();
        for _ in 0..100_000 {
            let next = [self.a.shard.next_deadline(self.now), self.b.shard.next_deadline(self.now)];
            match next.into_iter().flatten().min() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    return self.settle();
                }
            }
            self.settle();
        }
        panic!("the hosts never sleep");
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn ready<T>(poll: Poll<T>) -> T {
    match poll {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("not ready"),
    }
}

pub(super) fn no_waker() -> &'static Waker {
    Waker::noop()
}

/// Bytes that tell their place.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

/// What a host dropped. Reports to multicast routers are for neither host and not looked at.
pub(super) fn drops(host: &Host) -> Vec<(crate::counters::DropReason, u64)> {
    let routers_only = crate::counters::DropReason::NotForUs;
    let drops = host.shard.counters().drops();
    drops.filter(|(reason, count)| *count > 0 && *reason != routers_only).collect()
}
