//! A simulated host: one stack of one or several shards, each on a queue of a simulated network card, and the
//! applications on them. The card picks the queue by the flow's hash as RSS does, and may move flows to another queue in
//! mid-connection, as Linux senders on veth do.

use core::cell::{Cell, RefCell};
use core::hash::Hasher;
use core::task::Waker;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use siphasher::sip::SipHasher13;
use smoltcp::wire::EthernetAddress;

use super::app::{App, Context, Flag, Next};
use super::dice::Dice;
use super::world::Node;
use crate::config::{ConfigError, StackConfig};
use crate::device::{Capabilities, Device};
use crate::packet::{Packet, PacketBatch, PacketPool, PoolLayout, PoolUse};
use crate::shard::Shard;
use crate::time::Instant;

/// Rounds over shards and applications at one time beyond which the host stops: something is never done.
const ROUNDS_PER_RUN: usize = 100_000;

/// What a host is made of.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Its name in reports.
    pub name: String,
    /// The network card's address; hosts on one switch need different ones.
    pub mac: EthernetAddress,
    /// Addresses, routes, TCP's defaults, secret.
    pub stack: StackConfig,
    /// Shards, each with a queue and a pool of its own; at least 1.
    pub shards: u16,
    /// Frames of each shard's pool.
    pub pool: PoolLayout,
    /// The card's MTU in bytes, Ethernet header not counted.
    pub mtu: usize,
    /// Packets a queue's receive ring holds; further ones are dropped by the card.
    pub rx_ring_packets: usize,
    /// Packets a queue's transmit ring holds.
    pub tx_ring_packets: usize,
    /// Probability, for each packet received, that its flow moves to another queue.
    pub hop: f64,
    /// Seed of its applications' and its card's random numbers.
    pub seed: u64,
}

impl HostConfig {
    /// A host of one shard with 1024 frames of 2048 bytes, MTU 1500, rings of 256 packets, flows that stay.
    #[must_use]
    pub fn new(name: &str, mac_last: u8, stack: StackConfig, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            mac: EthernetAddress([2, 0, 0, 0, 0, mac_last]),
            stack,
            shards: 1,
            pool: PoolLayout { frames: 1024, frame_size: 2048, headroom: 128 },
            mtu: 1500,
            rx_ring_packets: 256,
            tx_ring_packets: 256,
            hop: 0.0,
            seed,
        }
    }
}

/// One queue of the simulated card.
pub struct SimDevice {
    capabilities: Capabilities,
    pool: PacketPool,
    rx: VecDeque<Packet>,
    tx: VecDeque<Packet>,
    rx_ring: usize,
    tx_ring: usize,
    /// Frames given to the stack.
    pub received: u64,
    /// Frames taken from the stack.
    pub transmitted: u64,
    /// Frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Frames dropped because the pool had no frame to receive into.
    pub rx_no_frame: u64,
    tx_blocked: bool,
}

impl SimDevice {
    /// A queue with rings of this many packets over `pool`.
    #[must_use]
    pub fn new(capabilities: Capabilities, pool: PacketPool, rx_ring: usize, tx_ring: usize) -> Self {
        Self {
            capabilities,
            pool,
            rx: VecDeque::new(),
            tx: VecDeque::new(),
            rx_ring,
            tx_ring,
            received: 0,
            transmitted: 0,
            rx_ring_full: 0,
            rx_no_frame: 0,
            tx_blocked: false,
        }
    }

    /// A frame arrives from the wire; dropped and counted when ring or pool have no room.
    pub fn arrive(&mut self, frame: &[u8]) {
        if self.rx.len() >= self.rx_ring {
            self.rx_ring_full += 1;
        } else if let Some(packet) = Packet::copy_from(&self.pool, frame) {
            self.rx.push_back(packet);
        } else {
            self.rx_no_frame += 1;
        }
    }

    /// Puts everything in the transmit ring on the wire: appends to `sent`. Returns whether the stack was held up by a
    /// full ring and may go on now.
    pub fn complete(&mut self, sent: &mut Vec<Vec<u8>>) -> bool {
        for packet in self.tx.drain(..) {
            let mut frame = Vec::with_capacity(packet.len());
            packet.copy_to(&mut frame);
            sent.push(frame);
        }
        core::mem::take(&mut self.tx_blocked)
    }

    /// Frames waiting in the two rings.
    #[must_use]
    pub fn in_rings(&self) -> (usize, usize) {
        (self.rx.len(), self.tx.len())
    }
}

impl Device for SimDevice {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &PacketPool {
        &self.pool
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        let count = budget.min(self.rx.len());
        if count == self.rx.len() {
            hand_over(&mut self.rx, batch);
        } else {
            batch.extend(self.rx.drain(..count));
        }
        self.received += count as u64;
        count
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        let count = self.transmit_room().min(batch.len());
        if count == batch.len() {
            hand_over(batch, &mut self.tx);
        } else {
            self.tx.extend(batch.drain(..count));
        }
        self.transmitted += count as u64;
        self.tx_blocked |= self.tx.len() >= self.tx_ring;
        count
    }

    fn transmit_room(&mut self) -> usize {
        self.tx_ring - self.tx.len().min(self.tx_ring)
    }
}

/// Moves all packets of `from` to the end of `to`: the whole deque if `to` is empty, as a ring's descriptors change hands.
fn hand_over(from: &mut PacketBatch, to: &mut PacketBatch) {
    if to.is_empty() {
        core::mem::swap(from, to);
    } else {
        to.append(from);
    }
}

/// One queue's stack and card.
struct Queue {
    shard: Shard,
    device: SimDevice,
    /// Polls are due: frames came, a user call was made, the last poll did something.
    dirty: bool,
    /// It has its turn in this round.
    polled: bool,
}

struct Running {
    app: Box<dyn App>,
    queue: usize,
    flag: Arc<Flag>,
    waker: Waker,
    sleep: Option<Instant>,
}

/// A host in the simulator.
pub struct Host {
    name: String,
    mac: EthernetAddress,
    queues: Vec<Queue>,
    /// Shards that another one sent a message to.
    notified: Rc<RefCell<Vec<bool>>>,
    apps: Vec<Option<Running>>,
    spawned: Vec<Box<dyn App>>,
    dice: Dice,
    card: Dice,
    hop: f64,
    hops: u64,
    flow_key: Cell<u64>,
}

impl Host {
    /// Builds the host at time `now`.
    ///
    /// # Errors
    /// When the stack's configuration is wrong.
    pub fn new(config: &HostConfig, now: Instant) -> Result<Self, ConfigError> {
        let notified = Rc::new(RefCell::new(vec![false; usize::from(config.shards)]));
        let mut queues = Vec::new();
        for (index, links) in Shard::links(config.shards).into_iter().enumerate() {
            let capabilities =
                Capabilities { mac: config.mac, mtu: config.mtu, partial_checksums: false, tx_frames_max: 1 };
            let pool = PacketPool::heap(config.pool);
            let device = SimDevice::new(capabilities, pool, config.rx_ring_packets, config.tx_ring_packets);
            let mut shard = Shard::new(&config.stack, index as u16, config.shards, links, &device, now)?;
            let flags = notified.clone();
            shard.set_notify(Box::new(move |other| {
                if let Some(flag) = flags.borrow_mut().get_mut(usize::from(other)) {
                    *flag = true;
                }
            }));
            queues.push(Queue { shard, device, dirty: true, polled: false });
        }
        Ok(Self {
            name: config.name.clone(),
            mac: config.mac,
            queues,
            notified,
            apps: Vec::new(),
            spawned: Vec::new(),
            dice: Dice::new(config.seed, 0),
            card: Dice::new(config.seed, 1),
            hop: config.hop,
            hops: 0,
            flow_key: Cell::new(config.seed),
        })
    }

    /// Starts an application on `shard`; it runs at the world's next step.
    ///
    /// # Panics
    /// When the host has no such shard.
    pub fn start(&mut self, shard: usize, app: Box<dyn App>) {
        assert!(shard < self.queues.len(), "{} has {} shards", self.name, self.queues.len());
        let flag = Flag::raised();
        let waker = Waker::from(flag.clone());
        self.apps.push(Some(Running { app, queue: shard, flag, waker, sleep: None }));
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.queues.len()
    }

    /// One shard, to make user calls or look at figures; a poll follows.
    ///
    /// # Panics
    /// When the host has no such shard.
    pub fn shard(&mut self, index: usize) -> &mut Shard {
        self.queues[index].dirty = true;
        &mut self.queues[index].shard
    }

    /// One shard, to look at figures only.
    ///
    /// # Panics
    /// When the host has no such shard.
    #[must_use]
    pub fn shard_ref(&self, index: usize) -> &Shard {
        &self.queues[index].shard
    }

    /// One queue of the card.
    ///
    /// # Panics
    /// When the host has no such shard.
    #[must_use]
    pub fn device(&self, index: usize) -> &SimDevice {
        &self.queues[index].device
    }

    /// Where the frames of one shard's pool are.
    ///
    /// # Panics
    /// When the host has no such shard.
    #[must_use]
    pub fn pool_use(&self, index: usize) -> PoolUse {
        self.queues[index].device.pool.usage()
    }

    /// Applications that are not finished.
    #[must_use]
    pub fn running_apps(&self) -> usize {
        self.apps.iter().flatten().count()
    }

    /// One line for each application that is not finished.
    #[must_use]
    pub fn describe_apps(&self) -> Vec<String> {
        let line = |running: &Running| {
            format!(
                "{}/{}: {} (woken: {})",
                self.name,
                running.queue,
                running.app.describe(),
                running.flag.is_raised()
            )
        };
        self.apps.iter().flatten().map(line).collect()
    }

    /// How often a flow changed its queue.
    #[must_use]
    pub const fn hops(&self) -> u64 {
        self.hops
    }

    /// Wakes every application, as if the stack had: one that then goes on was owed a wake-up.
    pub fn wake_all(&self) {
        self.apps.iter().flatten().for_each(|running| running.waker.wake_by_ref());
    }

    /// The queue of a frame: by the hash of addresses and ports for IP, else the first.
    fn queue_of(&self, frame: &[u8]) -> usize {
        let flow = match frame.get(12..14) {
            Some([0x08, 0x00]) => [frame.get(26..34), frame.get(34..38)],
            Some([0x86, 0xdd]) => [frame.get(22..54), frame.get(54..58)],
            _ => return 0,
        };
        let mut hasher = SipHasher13::new_with_keys(self.flow_key.get(), 0);
        flow.into_iter().flatten().for_each(|part| hasher.write(part));
        (hasher.finish() % self.queues.len() as u64) as usize
    }

    /// A burst in for every shard that has something to do; whether any has.
    fn poll_receive(&mut self, now: Instant) -> bool {
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let notified = core::mem::take(&mut self.notified.borrow_mut()[index]);
            let due = queue.shard.next_deadline(now).is_some_and(|at| at <= now);
            queue.polled = notified || due || queue.dirty;
            if queue.polled {
                queue.dirty = queue.shard.poll_receive(now, &mut queue.device);
            }
        }
        self.queues.iter().any(|queue| queue.polled)
    }

    /// A burst out for the same shards.
    fn poll_transmit(&mut self, now: Instant, sent: &mut Vec<Vec<u8>>) {
        for queue in self.queues.iter_mut().filter(|queue| queue.polled) {
            queue.dirty |= queue.shard.poll_transmit(now, &mut queue.device);
            queue.dirty |= queue.device.complete(sent);
            queue.shard.take_steering_changes();
        }
    }

    fn run_apps(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for slot in &mut self.apps {
            let Some(running) = slot else { continue };
            let due = running.sleep.is_some_and(|at| at <= now);
            if !running.flag.take() && !due {
                continue;
            }
            busy = true;
            let queue = &mut self.queues[running.queue];
            queue.dirty = true;
            let mut cx = Context {
                now,
                shard: &mut queue.shard,
                waker: &running.waker,
                dice: &mut self.dice,
                spawned: &mut self.spawned,
            };
            let next = running.app.run(&mut cx);
            let home = running.queue;
            running.sleep = match next {
                Next::Sleep(at) => Some(at),
                Next::Wait | Next::Done => None,
            };
            if next == Next::Done {
                *slot = None;
            }
            if !self.spawned.is_empty() {
                let spawned = core::mem::take(&mut self.spawned);
                spawned.into_iter().for_each(|app| self.start(home, app));
                // The slots moved: the new ones run in the next round.
                return true;
            }
        }
        if busy {
            self.apps.retain(Option::is_some);
        }
        busy
    }
}

impl Node for Host {
    fn mac(&self) -> EthernetAddress {
        self.mac
    }

    fn receive(&mut self, _now: Instant, frame: &[u8]) {
        if self.queues.len() > 1 && self.card.chance(self.hop) {
            self.flow_key.set(self.card.bits());
            self.hops += 1;
        }
        let queue = self.queue_of(frame);
        self.queues[queue].device.arrive(frame);
        self.queues[queue].dirty = true;
    }

    /// # Panics
    /// When shards and applications keep each other busy at one time without end.
    fn run(&mut self, now: Instant, sent: &mut Vec<Vec<u8>>) {
        for _ in 0..ROUNDS_PER_RUN {
            // In the order of a thread's turn in the runtime.
            let shards = self.poll_receive(now);
            let apps = self.run_apps(now);
            self.poll_transmit(now, sent);
            if !apps && !shards {
                return;
            }
        }
        panic!("{} is never done at {now:?}: {:?}", self.name, self.describe_apps());
    }

    fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let woken = self.apps.iter().flatten().any(|running| running.flag.is_raised());
        if woken || self.queues.iter().any(|queue| queue.dirty) || self.notified.borrow().contains(&true) {
            return Some(now);
        }
        let sleeps = self.apps.iter().flatten().filter_map(|running| running.sleep);
        let shards = self.queues.iter_mut().filter_map(|queue| queue.shard.next_deadline(now));
        sleeps.chain(shards).min()
    }
}
