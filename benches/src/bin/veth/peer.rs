//! A peer without a TCP stack, on our own driver: it opens connections by hand and then does the least that keeps the
//! stack under test at work. It acknowledges everything, once a burst ([`Peer::take`]); sends segments in order as far as
//! the window goes ([`Peer::give`]); asks and awaits answers ([`Peer::ask`]). No timestamps, no SACK, no congestion
//! control; after a loss it goes back to what was acknowledged last. For the raw rivals it drops, generates and keeps
//! frames in flight without looking into them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bywash::device::{Device, WaitDevice};
use bywash::limits::BURST_PACKETS;
use bywash::packet::{Packet, PacketBatch};
use bywash_afxdp::{AttachOptions, Nic, Queue, QueueOptions};

use super::Result;
use super::bed::{Bed, PEER, STACK};
use super::meter::Meter;
use super::segment::{self, ACK, Header, PSH, SYN, Segment};

/// Local port of the first connection.
const FIRST_PORT: u16 = 10_000;
/// Segments under way at most: fewer than the 256 that veth itself holds for a receiver, so that nothing is lost.
const IN_FLIGHT: u32 = 192;
/// The shift of our window.
const WINDOW_SHIFT: u8 = 7;
/// Silence after which something must have been lost.
const LOST_AFTER: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// The peer.
pub struct Peer {
    queue: Queue,
    wake: OwnedFd,
    mac: [u8; 6],
    stack_mac: [u8; 6],
    received: PacketBatch,
    outgoing: PacketBatch,
    connections: Vec<Connection>,
}

struct Connection {
    port: u16,
    snd_nxt: u32,
    snd_una: u32,
    rcv_nxt: u32,
    /// The stack's window, in bytes, and its shift.
    window: u32,
    shift: u8,
    /// Bytes of the answer that are still to come.
    awaited: usize,
}

impl Connection {
    fn new(port: u16) -> Self {
        Self { port, snd_nxt: 1000, snd_una: 1000, rcv_nxt: 0, window: 0, shift: 0, awaited: 0 }
    }
}

/// A queue of the interface `name` of the calling thread's namespace that gets everything that STACK and PEER are named in.
pub fn open(name: &str) -> Result<Queue> {
    let steer = Nic::open(name)?.attach(&AttachOptions::default())?;
    let mut queue = steer.queue(0, &QueueOptions::default())?.open()?;
    for address in [STACK, PEER] {
        queue.steering().own_address(IpAddr::V4(address))?;
    }
    Ok(queue)
}

impl Peer {
    /// Opens the client's interface; to be called on the client's side.
    pub fn open(bed: &Bed) -> Result<Self> {
        let stack_mac = bed.pair.stack.run(|| Nic::open(&bed.pair.stack_interface))?.mac.0;
        let queue = open(&bed.pair.peer_interface)?;
        Ok(Self {
            mac: queue.capabilities().mac.0,
            queue,
            wake: rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?,
            stack_mac,
            received: PacketBatch::new(),
            outgoing: PacketBatch::new(),
            connections: Vec::new(),
        })
    }

    /// A frame of `len` bytes to the stack's address, for the raw rivals.
    pub fn frame(&self, len: usize) -> Vec<u8> {
        let header = self.header(&Connection::new(FIRST_PORT), 9, ACK);
        let mut frame = header.bytes(&[], len - segment::HEADERS).to_vec();
        frame.resize(len, 0);
        frame
    }

    /// Opens `count` connections to `port`, stating `mss`.
    pub fn connect(&mut self, port: u16, count: usize, mss: usize) -> Result<()> {
        self.connections = (0..count).map(|i| Connection::new(FIRST_PORT + i as u16)).collect();
        let options = [2, 4, (mss >> 8) as u8, mss as u8, 1, 3, 3, WINDOW_SHIFT];
        let started = Instant::now();
        let mut asked: Option<Instant> = None;
        let mut open = 0;
        while open < count {
            if asked.is_none_or(|at| at.elapsed() > Duration::from_millis(300)) {
                asked = Some(Instant::now());
                for i in 0..count {
                    if self.connections[i].rcv_nxt != 0 {
                        continue;
                    }
                    let mut header = self.header(&self.connections[i], port, SYN);
                    header.window = u16::MAX;
                    self.put(&header, &options, 0)?;
                }
            }
            self.wait(Duration::from_millis(10))?;
            for (i, segment) in self.receive() {
                let connection = &mut self.connections[i];
                if segment.flags & SYN != 0 && connection.rcv_nxt == 0 {
                    connection.rcv_nxt = segment.seq.wrapping_add(1);
                    connection.snd_nxt = segment.ack;
                    connection.snd_una = segment.ack;
                    connection.shift = segment.window_shift;
                    connection.window = u32::from(segment.window);
                    open += 1;
                    self.acknowledge(i, port, mss)?;
                }
            }
            self.flush()?;
            if started.elapsed() > PATIENCE {
                return Err(format!("{open} of {count} connections opened").into());
            }
        }
        Ok(())
    }

    /// Takes what the stack sends on the first connection, and counts segments with data.
    pub fn take(&mut self, port: u16, mss: usize, meter: &Meter) -> Result<()> {
        let mut lost = 0;
        loop {
            let (mut segments, mut heard) = (0, false);
            for (i, segment) in self.receive() {
                let connection = &mut self.connections[i];
                if segment.seq == connection.rcv_nxt && segment.len > 0 {
                    connection.rcv_nxt = segment.seq.wrapping_add(segment.len as u32);
                    segments += 1;
                } else {
                    lost += u64::from(segment.len > 0);
                }
                heard |= segment.len > 0;
            }
            if heard {
                self.acknowledge(0, port, mss)?;
                self.flush()?;
            } else {
                self.wait(Duration::from_millis(1))?;
            }
            if !meter.add(segments) {
                return tell_of("segments out of order", lost);
            }
        }
    }

    /// Sends segments of `len` bytes on the first connection, and counts what was acknowledged, in segments.
    pub fn give(&mut self, port: u16, len: usize, meter: &Meter) -> Result<()> {
        let (mut heard, mut lost, mut rest) = (Instant::now(), 0, 0);
        loop {
            let una = self.connections[0].snd_una;
            for (i, segment) in self.receive() {
                self.connections[i].acknowledged(&segment);
            }
            let connection = &mut self.connections[0];
            let acknowledged = connection.snd_una.wrapping_sub(una);
            if acknowledged > 0 || connection.snd_nxt == connection.snd_una {
                heard = Instant::now();
            } else if heard.elapsed() > LOST_AFTER {
                connection.snd_nxt = connection.snd_una;
                heard = Instant::now();
                lost += 1;
            }
            let window = connection.window.min(IN_FLIGHT * len as u32);
            let room = window.saturating_sub(connection.snd_nxt.wrapping_sub(connection.snd_una));
            let burst = (room as usize / len).min(BURST_PACKETS);
            for _ in 0..burst {
                let header = self.header(&self.connections[0], port, ACK | PSH);
                self.put(&header, &[], len)?;
                let connection = &mut self.connections[0];
                connection.snd_nxt = connection.snd_nxt.wrapping_add(len as u32);
            }
            if burst > 0 {
                self.flush()?;
            } else if acknowledged == 0 {
                self.wait(Duration::from_millis(1))?;
            }
            rest += acknowledged as usize;
            if !meter.add((rest / len) as u64) {
                return tell_of("times gone back", lost);
            }
            rest %= len;
        }
    }

    /// Sends a request of `len` bytes on every connection and the next when `len` bytes have come back; counts answers.
    pub fn ask(&mut self, port: u16, len: usize, meter: &Meter) -> Result<()> {
        for i in 0..self.connections.len() {
            self.request(i, port, len)?;
        }
        self.flush()?;
        let (mut heard, mut lost) = (Instant::now(), 0);
        loop {
            let mut answers = 0;
            for (i, segment) in self.receive() {
                let connection = &mut self.connections[i];
                connection.acknowledged(&segment);
                if segment.len == 0 || segment.seq != connection.rcv_nxt {
                    continue;
                }
                connection.rcv_nxt = segment.seq.wrapping_add(segment.len as u32);
                connection.awaited = connection.awaited.saturating_sub(segment.len);
                if connection.awaited == 0 {
                    answers += 1;
                    self.request(i, port, len)?;
                }
            }
            if answers > 0 {
                heard = Instant::now();
                self.flush()?;
            } else {
                self.wait(Duration::from_millis(1))?;
            }
            if heard.elapsed() > LOST_AFTER {
                heard = Instant::now();
                lost += 1;
                for i in 0..self.connections.len() {
                    let connection = &mut self.connections[i];
                    connection.snd_nxt = connection.snd_nxt.wrapping_sub(len as u32);
                    self.request(i, port, len)?;
                }
                self.flush()?;
            }
            if !meter.add(answers) {
                return tell_of("times asked again", lost);
            }
        }
    }

    fn request(&mut self, i: usize, port: u16, len: usize) -> Result<()> {
        let header = self.header(&self.connections[i], port, ACK | PSH);
        self.put(&header, &[], len)?;
        let connection = &mut self.connections[i];
        connection.snd_nxt = connection.snd_nxt.wrapping_add(len as u32);
        connection.awaited = len;
        Ok(())
    }

    fn acknowledge(&mut self, i: usize, port: u16, mss: usize) -> Result<()> {
        let mut header = self.header(&self.connections[i], port, ACK);
        header.window = ((IN_FLIGHT as usize * mss) >> WINDOW_SHIFT) as u16;
        self.put(&header, &[], 0)
    }

    fn header(&self, connection: &Connection, port: u16, flags: u8) -> Header {
        Header {
            macs: [self.stack_mac, self.mac],
            addresses: [PEER, STACK],
            ports: [connection.port, port],
            seq: connection.snd_nxt,
            ack: connection.rcv_nxt,
            flags,
            window: u16::MAX,
        }
    }

    /// Puts a segment with `len` bytes of zeros into the outgoing burst.
    fn put(&mut self, header: &Header, options: &[u8], len: usize) -> Result<()> {
        if self.outgoing.len() == BURST_PACKETS {
            self.flush()?;
        }
        let packet = loop {
            if let Some(packet) = header.packet(self.queue.pool(), options, len) {
                break packet;
            }
            self.queue.transmit(&mut self.outgoing);
            self.wait(Duration::from_millis(1))?;
        };
        self.outgoing.push_back(packet);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            if self.queue.transmit(&mut self.outgoing) == 0 {
                self.wait(Duration::from_millis(1))?;
            }
        }
        Ok(())
    }

    /// A burst of the connections' segments, each with its connection's place. ARP requests are answered.
    fn receive(&mut self) -> Vec<(usize, Segment)> {
        self.queue.receive(&mut self.received, BURST_PACKETS);
        let mut segments = Vec::with_capacity(self.received.len());
        for packet in self.received.drain(..) {
            if let Some(reply) = segment::arp_reply(packet.head(), PEER, self.mac) {
                self.outgoing.extend(Packet::copy_from(self.queue.pool(), &reply));
            } else if let Some(segment) = segment::parse(packet.head()) {
                let i = usize::from(segment.dst_port.wrapping_sub(FIRST_PORT));
                if i < self.connections.len() {
                    segments.push((i, segment));
                }
            }
        }
        self.queue.transmit(&mut self.outgoing);
        segments
    }

    fn wait(&mut self, most: Duration) -> io::Result<()> {
        self.queue.wait(self.wake.as_raw_fd(), Some(most))
    }

    /// Receives and drops, for a raw sender.
    pub fn drop_all(&mut self, meter: &Meter) -> Result<()> {
        drop_all(&mut self.queue, meter)
    }

    /// Sends frames of `len` bytes without end, for a raw receiver, as many as `more` says.
    pub fn generate(&mut self, len: usize, more: impl FnMut(u64) -> Option<usize>) -> Result<()> {
        let frame = self.frame(len);
        transmit(&mut self.queue, &frame, more)
    }

    /// Keeps `in_flight` frames of `len` bytes under way between here and a reflector; counts what comes back.
    pub fn bounce(&mut self, len: usize, in_flight: usize, meter: &Meter) -> Result<()> {
        let frame = self.frame(len);
        let mut heard = Instant::now();
        let mut owed = in_flight;
        loop {
            for _ in 0..owed {
                self.outgoing.extend(Packet::copy_from(self.queue.pool(), &frame));
            }
            self.flush()?;
            owed = self.queue.receive(&mut self.received, BURST_PACKETS);
            self.received.clear();
            if owed > 0 {
                heard = Instant::now();
            } else {
                self.wait(Duration::from_millis(1))?;
            }
            if !meter.add(owed as u64) {
                return Ok(());
            }
            if heard.elapsed() > LOST_AFTER {
                heard = Instant::now();
                owed = in_flight;
            }
        }
    }
}

impl Connection {
    fn acknowledged(&mut self, segment: &Segment) {
        let advance = segment.ack.wrapping_sub(self.snd_una);
        if advance <= u32::MAX / 2 {
            self.snd_una = segment.ack;
            // What was sent before going back may be acknowledged after it.
            if self.snd_nxt.wrapping_sub(self.snd_una) > u32::MAX / 2 {
                self.snd_nxt = self.snd_una;
            }
        }
        self.window = u32::from(segment.window) << self.shift;
    }
}

fn tell_of(what: &str, count: u64) -> Result<()> {
    if count > 0 {
        eprintln!("  ({count} {what})");
    }
    Ok(())
}

/// Raw transmission on our driver: the frames' bytes are written once and sent over and over. `more` gets the packets that
/// the driver took and says how many it may be given next; `None`: no more.
pub fn transmit(queue: &mut Queue, frame: &[u8], mut more: impl FnMut(u64) -> Option<usize>) -> Result<()> {
    // Every frame gets the packet's head, whatever place it will take: nobody reads what follows.
    let room = Packet::alloc(queue.pool()).map_or(0, |packet| packet.tailroom());
    let head = &frame[..frame.len().min(room)];
    let all: Vec<_> = core::iter::from_fn(|| Packet::copy_from(queue.pool(), head)).collect();
    drop(all);
    let mut batch = PacketBatch::new();
    let mut taken = 0;
    while let Some(may) = more(taken) {
        while batch.len() < may.min(BURST_PACKETS) {
            let Some(packet) = segment::stale(queue.pool(), frame.len()) else { break };
            batch.push_back(packet);
        }
        // Also with nothing new: what the kernel would not send at once it is asked to send again.
        taken = queue.transmit(&mut batch) as u64;
    }
    Ok(())
}

/// Raw reception on our driver: receives and drops; counts packets.
pub fn drop_all(queue: &mut Queue, meter: &Meter) -> Result<()> {
    let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
    let mut batch = PacketBatch::new();
    loop {
        let received = queue.receive(&mut batch, BURST_PACKETS);
        batch.clear();
        if received == 0 {
            queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(10)))?;
        }
        if !meter.add(received as u64) {
            return Ok(());
        }
    }
}

/// Raw reflection on our driver: swaps the Ethernet addresses and sends back; counts packets.
pub fn reflect(queue: &mut Queue, meter: &Meter) -> Result<()> {
    let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
    let mut batch = PacketBatch::new();
    loop {
        let received = queue.receive(&mut batch, BURST_PACKETS);
        for packet in &mut batch {
            let (dst, src) = packet.head_mut()[..12].split_at_mut(6);
            dst.swap_with_slice(src);
        }
        queue.transmit(&mut batch);
        if received == 0 {
            queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(10)))?;
        }
        if !meter.add(received as u64) {
            return Ok(());
        }
    }
}
