//! Virtual time and the network: every node hangs with its cable on one switch; the loop delivers the next frame or runs
//! the next node whose time has come, and time jumps from event to event.

use core::cell::RefCell;
use core::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::rc::Rc;

use smoltcp::wire::EthernetAddress;

use super::dice::Dice;
use super::link::{Link, LinkConfig};
use crate::pcap;
use crate::time::{Duration, Instant};

/// Steps at one and the same virtual time beyond which the world stops: something answers itself without end.
const STEPS_PER_INSTANT: u64 = 200_000;

/// Anything with a network card: a [`super::Host`], another TCP/IP stack, a scripted peer.
pub trait Node {
    /// The address the switch delivers to. Constant.
    fn mac(&self) -> EthernetAddress;
    /// A frame arrives. The node acts on it in [`Node::run`], which follows when all frames of this time have arrived.
    fn receive(&mut self, now: Instant, frame: &[u8]);
    /// Does everything that is to be done at `now`; frames it sends are added to `sent` in their order.
    fn run(&mut self, now: Instant, sent: &mut Vec<Vec<u8>>);
    /// When [`Node::run`] is next needed if nothing arrives; `None`: not without a frame.
    fn next_deadline(&mut self, now: Instant) -> Option<Instant>;
}

/// A place on the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortId(pub usize);

struct Port {
    node: Rc<RefCell<dyn Node>>,
    mac: EthernetAddress,
    up: Link,
    down: Link,
    capture: Option<pcap::Writer<Box<dyn Write>>>,
    /// Frames arrived that the node has not acted on.
    arrived: bool,
}

enum Place {
    /// The frame reached the switch from this port.
    Switch(usize),
    /// The frame reaches the node at this port.
    Node(usize),
}

struct Event {
    at: Instant,
    /// Order of events at one time: that of their making.
    number: u64,
    place: Place,
    frame: Vec<u8>,
}

/// All nodes, cables and frames under way.
pub struct World {
    now: Instant,
    seed: u64,
    ports: Vec<Port>,
    events: BinaryHeap<Reverse<Event>>,
    event_number: u64,
    digest: u64,
    steps_at_now: u64,
    capture_error: Option<io::Error>,
    sent: Vec<Vec<u8>>,
}

impl World {
    /// An empty world at time zero whose links draw from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::ZERO,
            seed,
            ports: Vec::new(),
            events: BinaryHeap::new(),
            event_number: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            steps_at_now: 0,
            capture_error: None,
            sent: Vec::new(),
        }
    }

    /// Plugs `node` into the switch: what it sends takes `up`, what it receives `down`. The caller keeps its own `Rc`
    /// to look at the node between steps.
    pub fn attach(&mut self, node: Rc<RefCell<dyn Node>>, up: LinkConfig, down: LinkConfig) -> PortId {
        let port = self.ports.len();
        let dice = |direction| Dice::new(self.seed, 1 + port as u64 * 2 + direction);
        let (up, down) = (Link::new(up, dice(0)), Link::new(down, dice(1)));
        let mac = node.borrow().mac();
        self.ports.push(Port { node, mac, up, down, capture: None, arrived: false });
        PortId(port)
    }

    /// The cable from the node to the switch.
    ///
    /// # Panics
    /// When `port` is not of this world.
    pub fn up(&mut self, port: PortId) -> &mut Link {
        &mut self.ports[port.0].up
    }

    /// The cable from the switch to the node.
    ///
    /// # Panics
    /// When `port` is not of this world.
    pub fn down(&mut self, port: PortId) -> &mut Link {
        &mut self.ports[port.0].down
    }

    /// Writes what passes this port in both directions to `out` as a capture file, times counted from the epoch.
    ///
    /// # Errors
    /// When the file's header cannot be written.
    ///
    /// # Panics
    /// When `port` is not of this world.
    pub fn capture(&mut self, port: PortId, out: Box<dyn Write>) -> io::Result<()> {
        self.ports[port.0].capture = Some(pcap::Writer::new(out)?);
        Ok(())
    }

    /// Ends all captures.
    ///
    /// # Errors
    /// The first error met while writing any of them.
    pub fn finish_captures(&mut self) -> io::Result<()> {
        for capture in self.ports.iter_mut().filter_map(|port| port.capture.take()) {
            capture.finish()?;
        }
        self.capture_error.take().map_or(Ok(()), Err)
    }

    /// Virtual time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// A digest of every frame sent so far, with its time and sender: equal for equal runs.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Puts a frame on the switch as if it had arrived there from `port` just now: forged packets, replayed ones.
    pub fn inject(&mut self, port: PortId, frame: Vec<u8>) {
        self.push(self.now, Place::Switch(port.0), frame);
    }

    /// Goes on to the next time at which something happens, at most to `deadline`, and lets it happen. False when
    /// nothing happens until then (time is `deadline` afterwards).
    ///
    /// # Panics
    /// When the nodes keep each other busy at one time without end.
    pub fn step(&mut self, deadline: Instant) -> bool {
        let next = self.next_event();
        if next.is_none_or(|next| next > deadline) {
            self.advance(deadline);
            return false;
        }
        self.advance(next.unwrap_or(deadline));
        while let Some(event) = self.events.pop_if_due(self.now) {
            match event.place {
                Place::Switch(from) => self.switch(from, &event.frame),
                Place::Node(port) => self.deliver(port, &event.frame),
            }
        }
        for port in 0..self.ports.len() {
            let due = self.ports[port].node.borrow_mut().next_deadline(self.now);
            if core::mem::take(&mut self.ports[port].arrived) || due.is_some_and(|due| due <= self.now) {
                self.run(port);
            }
        }
        true
    }

    /// Steps until `until` says so, or nothing happens any more before `deadline`. Returns what `until` said last.
    pub fn run_until(&mut self, deadline: Instant, mut until: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if until(self) {
                return true;
            }
            if !self.step(deadline) {
                return until(self);
            }
        }
    }

    /// Steps through the next `time`.
    pub fn run_for(&mut self, time: Duration) {
        let deadline = self.now + time;
        while self.step(deadline) {}
    }

    fn advance(&mut self, to: Instant) {
        if to > self.now {
            self.now = to;
            self.steps_at_now = 0;
        }
        self.steps_at_now += 1;
        assert!(
            self.steps_at_now < STEPS_PER_INSTANT,
            "the world does not get past {:?}: some node is never done",
            self.now
        );
    }

    fn next_event(&self) -> Option<Instant> {
        let frame = self.events.peek().map(|Reverse(event)| event.at);
        let node = self.ports.iter().filter_map(|port| port.node.borrow_mut().next_deadline(self.now)).min();
        frame.into_iter().chain(node).min()
    }

    /// Forwards a frame: to the port of its destination, or to all others when that is a group or unknown.
    fn switch(&mut self, from: usize, frame: &[u8]) {
        let Some(destination) = frame.get(..6).map(EthernetAddress::from_bytes) else { return };
        let known = self.ports.iter().position(|port| port.mac == destination);
        let targets = known.map_or(0..self.ports.len(), |port| port..port + 1);
        for port in targets.filter(|&port| port != from) {
            let (mut arrivals, now) = (Vec::new(), self.now);
            self.ports[port].down.carry(now, frame.to_vec(), |at, frame| arrivals.push((at, frame)));
            for (at, frame) in arrivals {
                self.push(at, Place::Node(port), frame);
            }
        }
    }

    fn deliver(&mut self, port: usize, frame: &[u8]) {
        self.note(port, frame);
        self.ports[port].node.borrow_mut().receive(self.now, frame);
        self.ports[port].arrived = true;
    }

    fn run(&mut self, port: usize) {
        let mut sent = core::mem::take(&mut self.sent);
        self.ports[port].node.borrow_mut().run(self.now, &mut sent);
        for frame in sent.drain(..) {
            self.note(port, &frame);
            self.add_to_digest(port, &frame);
            let (mut arrivals, now) = (Vec::new(), self.now);
            self.ports[port].up.carry(now, frame, |at, frame| arrivals.push((at, frame)));
            for (at, frame) in arrivals {
                self.push(at, Place::Switch(port), frame);
            }
        }
        self.sent = sent;
    }

    fn push(&mut self, at: Instant, place: Place, frame: Vec<u8>) {
        self.event_number += 1;
        self.events.push(Reverse(Event { at, number: self.event_number, place, frame }));
    }

    fn note(&mut self, port: usize, frame: &[u8]) {
        if let Some(capture) = &mut self.ports[port].capture {
            let since_epoch = self.now.saturating_since(Instant::ZERO);
            if let Err(error) = capture.write_bytes(since_epoch, frame) {
                self.capture_error.get_or_insert(error);
            }
        }
    }

    /// FNV-1a over the time, the port and the bytes.
    fn add_to_digest(&mut self, port: usize, frame: &[u8]) {
        let head = self.now.as_nanos().to_le_bytes().into_iter().chain((port as u64).to_le_bytes());
        for byte in head.chain(frame.iter().copied()) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Takes the next event of a queue if its time has come.
trait PopIfDue {
    fn pop_if_due(&mut self, now: Instant) -> Option<Event>;
}

impl PopIfDue for BinaryHeap<Reverse<Event>> {
    fn pop_if_due(&mut self, now: Instant) -> Option<Event> {
        self.peek()
            .is_some_and(|Reverse(event)| event.at <= now)
            .then(|| self.pop())
            .flatten()
            .map(|event| event.0)
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends back what it receives, with a count, up to a number of times.
    struct Bouncer {
        mac: u8,
        peer: u8,
        left: usize,
        pending: Vec<Vec<u8>>,
        start: bool,
        seen: Vec<Instant>,
    }

    impl Node for Bouncer {
        fn mac(&self) -> EthernetAddress {
            EthernetAddress([2, 0, 0, 0, 0, self.mac])
        }
        fn receive(&mut self, now: Instant, frame: &[u8]) {
            self.seen.push(now);
            self.pending.push(frame.to_vec());
        }
        fn run(&mut self, _now: Instant, sent: &mut Vec<Vec<u8>>) {
            let started = usize::from(core::mem::take(&mut self.start));
            for _ in 0..core::mem::take(&mut self.pending).len() + started {
                if self.left > 0 {
                    self.left -= 1;
                    sent.push([&[2, 0, 0, 0, 0, self.peer][..], &self.mac().0, &[8, 0], &[0; 46]].concat());
                }
            }
        }
        fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
            self.start.then_some(now)
        }
    }

    fn pair(seed: u64, jitter: Duration) -> (World, Rc<RefCell<Bouncer>>, Rc<RefCell<Bouncer>>) {
        let node = |mac, peer, start| {
            Rc::new(RefCell::new(Bouncer {
                mac,
                peer,
                left: 3,
                pending: Vec::new(),
                start,
                seen: Vec::new(),
            }))
        };
        let (a, b) = (node(1, 2, true), node(2, 1, false));
        let mut world = World::new(seed);
        let cable = LinkConfig { delay: Duration::from_millis(10), jitter, ..LinkConfig::default() };
        world.attach(a.clone(), cable.clone(), LinkConfig::default());
        world.attach(b.clone(), cable, LinkConfig::default());
        (world, a, b)
    }

    #[test]
    fn time_jumps_from_frame_to_frame() {
        let (mut world, a, b) = pair(1, Duration::ZERO);
        world.run_for(Duration::from_secs(1));
        let ms =
            |node: &RefCell<Bouncer>| node.borrow().seen.iter().map(|at| at.as_millis()).collect::<Vec<_>>();
        assert_eq!(ms(&b), [10, 30, 50]);
        assert_eq!(ms(&a), [20, 40, 60]);
        assert_eq!(world.now(), Instant::from_millis(1000));
    }

    #[test]
    fn the_digest_tells_runs_apart_and_equal_runs_not() {
        let digest = |seed| {
            let (mut world, ..) = pair(seed, Duration::from_millis(5));
            world.run_for(Duration::from_secs(1));
            world.digest()
        };
        assert_eq!(digest(1), digest(1));
        assert_ne!(digest(1), digest(2));
    }

    #[test]
    fn a_group_address_reaches_all_others() {
        let (mut world, a, b) = pair(1, Duration::ZERO);
        a.borrow_mut().start = false;
        let mut frame = vec![0xff; 6];
        frame.resize(60, 0);
        world.inject(PortId(0), frame);
        world.run_for(Duration::from_millis(1));
        assert_eq!((a.borrow().seen.len(), b.borrow().seen.len()), (0, 1));
    }
}
