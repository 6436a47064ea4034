//! Our stack in memory: a pair of shards joined by a wire, and one shard with many open connections.
//!
//! Each frame is copied twice on its way from pool to pool (out of the sender's, into the receiver's), which stands for
//! the two DMA transfers of a NIC; smoltcp's side has one copy less because it builds into the buffer that is handed over.

use core::net::SocketAddr;
use core::task::{Poll, Waker};

use bywash::config::{Cidr, StackConfig};
use bywash::device::Capabilities;
use bywash::packet::checksum::Sum;
use bywash::packet::{PacketPool, PoolLayout};
use bywash::shard::Shard;
use bywash::sim::host::SimDevice;
use bywash::tcp::{ConnId, ListenerId, SocketOptions};
use bywash::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use crate::{BUFFER_BYTES, CALL_BYTES, REQUEST_BYTES, ROUND_MICROS};

/// A shard on a queue in memory.
pub struct End {
    /// The stack.
    pub shard: Shard,
    /// Its card.
    pub device: SimDevice,
}

fn mac(last: u8) -> EthernetAddress {
    EthernetAddress([2, 0, 0, 0, 0, last])
}

impl End {
    fn new(last: u8, prefix_len: u8, frames: u32) -> Self {
        let addr = core::net::Ipv4Addr::new(10, 0, 0, last).into();
        let config = StackConfig::new(vec![Cidr { addr, prefix_len }], [last; 32]);
        let layout = PoolLayout { frames, frame_size: 2048, headroom: 128 };
        let capabilities =
            Capabilities { mac: mac(last), mtu: 1500, partial_checksums: false, tx_frames_max: 1 };
        let device = SimDevice::new(capabilities, PacketPool::heap(layout), 4096, 4096);
        let links = Shard::links(1).pop().expect("one shard has one set of links");
        let shard =
            Shard::new(&config, 0, 1, links, &device, Instant::ZERO).expect("the configuration is right");
        Self { shard, device }
    }
}

fn options() -> SocketOptions {
    SocketOptions {
        receive_buffer_bytes: BUFFER_BYTES,
        send_buffer_bytes: BUFFER_BYTES,
        nodelay: true,
        ..SocketOptions::default()
    }
}

/// Two shards with one open connection.
pub struct Pair {
    now: Instant,
    ends: [End; 2],
    connections: [ConnId; 2],
    wire: Vec<Vec<u8>>,
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// Builds the pair and opens the connection.
    ///
    /// # Panics
    /// When it does not open.
    #[must_use]
    pub fn new() -> Self {
        let mut ends = [End::new(1, 24, 4096), End::new(2, 24, 4096)];
        let addr: SocketAddr = "10.0.0.2:80".parse().expect("an address");
        let now = Instant::ZERO;
        let listener = ends[1].shard.tcp_listen(addr, 8, options()).expect("the port is free");
        let client = ends[0].shard.tcp_connect(now, None, addr, options()).expect("there is a route");
        let mut pair = Self { now, ends, connections: [client, client], wire: Vec::new() };
        for _ in 0..10_000 {
            pair.round();
            let accepted = pair.ends[1].shard.tcp().poll_accept(listener, Waker::noop());
            if let Poll::Ready(Ok((server, _))) = accepted {
                pair.connections[1] = server;
                return pair;
            }
        }
        panic!("the connection does not open");
    }

    /// Polls both ends once and carries their frames over.
    pub fn round(&mut self) {
        self.now += Duration::from_micros(ROUND_MICROS);
        for from in 0..2 {
            let End { shard, device } = &mut self.ends[from];
            shard.poll(self.now, device);
            device.complete(&mut self.wire);
            for frame in self.wire.drain(..) {
                self.ends[1 - from].device.arrive(&frame);
            }
        }
    }

    fn send(&mut self, end: usize, bytes: &[u8]) -> usize {
        let tcp = self.ends[end].shard.tcp();
        match tcp.poll_send(self.now, self.connections[end], bytes, Waker::noop()) {
            Poll::Ready(result) => result.expect("the connection is open"),
            Poll::Pending => 0,
        }
    }

    fn receive(&mut self, end: usize, bytes: &mut [u8]) -> usize {
        let tcp = self.ends[end].shard.tcp();
        match tcp.poll_recv(self.now, self.connections[end], bytes, Waker::noop()) {
            Poll::Ready(result) => result.expect("the connection is open"),
            Poll::Pending => 0,
        }
    }

    /// Sends `total` bytes from the first to the second end.
    pub fn bulk(&mut self, total: usize) {
        let (out, mut into) = (vec![7; CALL_BYTES], vec![0; CALL_BYTES]);
        let (mut sent, mut received) = (0, 0);
        while received < total {
            while sent < total {
                let taken = self.send(0, &out[..CALL_BYTES.min(total - sent)]);
                if taken == 0 {
                    break;
                }
                sent += taken;
            }
            self.round();
            loop {
                let got = self.receive(1, &mut into);
                if got == 0 {
                    break;
                }
                received += got;
            }
        }
    }

    /// One request and its response.
    pub fn request(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let mut bytes = [7; REQUEST_BYTES];
            let mut left = bytes.len() - self.send(from, &bytes);
            assert_eq!(left, 0, "a request fits an empty send buffer");
            left = bytes.len();
            while left > 0 {
                self.round();
                left -= self.receive(to, &mut bytes[..left]);
            }
        }
    }
}

/// A shard with many open connections to peers that exist only as frames.
pub struct Crowd {
    now: Instant,
    end: End,
    listener: ListenerId,
    sent: Vec<Vec<u8>>,
    /// For each connection a segment that acknowledges nothing new: the shortest way through the engine.
    segments: Vec<Vec<u8>>,
}

/// Connections a synthetic peer address opens.
const PORTS_PER_PEER: u32 = 50_000;

impl Crowd {
    /// Opens `connections`.
    ///
    /// # Panics
    /// When one does not open.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        let mut end = End::new(1, 8, 4096);
        let addr: SocketAddr = "10.0.0.1:80".parse().expect("an address");
        let listener = end.shard.tcp_listen(addr, 1024, options()).expect("the port is free");
        let mut crowd =
            Self { now: Instant::from_millis(1), end, listener, sent: Vec::new(), segments: Vec::new() };
        for number in 0..connections {
            crowd.open(number);
        }
        assert_eq!(crowd.end.shard.tcp_ref().census().connections, connections as usize);
        crowd
    }

    fn open(&mut self, number: u32) {
        if number.is_multiple_of(PORTS_PER_PEER) {
            self.end.device.arrive(&arp_request(peer(number)));
            self.poll();
            self.sent.clear();
        }
        self.end.device.arrive(&segment(number, 1000, 0, 0x02));
        self.poll();
        let answer = self.sent.pop().expect("a SYN-ACK");
        let isn = u32::from_be_bytes(answer[38..42].try_into().expect("four bytes"));
        let ack = segment(number, 1001, isn.wrapping_add(1), 0x10);
        self.end.device.arrive(&ack);
        self.poll();
        let accepted = self.end.shard.tcp().poll_accept(self.listener, Waker::noop());
        assert!(matches!(accepted, Poll::Ready(Ok(_))), "connection {number} does not open");
        self.segments.push(ack);
    }

    fn poll(&mut self) {
        self.now += Duration::from_micros(1);
        while self.end.shard.poll(self.now, &mut self.end.device) {}
        self.end.device.complete(&mut self.sent);
    }

    /// Takes 32 segments, each for another connection, through one poll.
    pub fn burst(&mut self, from: &mut usize) {
        for _ in 0..32 {
            *from = (*from + 7919) % self.segments.len();
            self.end.device.arrive(&self.segments[*from]);
        }
        self.poll();
        self.sent.clear();
    }
}

fn peer(number: u32) -> [u8; 4] {
    [10, 1, 0, 1 + (number / PORTS_PER_PEER) as u8]
}

/// A frame with a bare segment of connection `number`'s peer.
#[must_use]
pub fn segment(number: u32, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let (src, dst) = (peer(number), [10, 0, 0, 1]);
    let port = 1024 + (number % PORTS_PER_PEER) as u16;
    let mut tcp =
        [&port.to_be_bytes()[..], &80u16.to_be_bytes(), &seq.to_be_bytes(), &ack.to_be_bytes()].concat();
    tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let mut sum = Sum::pseudo_header(src.into(), dst.into(), 6, tcp.len() as u32);
    sum.add(&tcp);
    tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut ip = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[12..16].copy_from_slice(&src);
    ip[16..20].copy_from_slice(&dst);
    let mut sum = Sum::ZERO;
    sum.add(&ip);
    ip[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut frame = [&mac(1).0[..], &mac(9).0, &[8, 0], &ip, &tcp].concat();
    frame.resize(60, 0);
    frame
}

/// `who` asks for the stack's address, and so tells where it is itself.
#[must_use]
pub fn arp_request(who: [u8; 4]) -> Vec<u8> {
    let head = [&mac(1).0[..], &mac(9).0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(9).0, &who].concat();
    let mut frame = [&head[..], &mac(1).0, &[10, 0, 0, 1]].concat();
    frame.resize(60, 0);
    frame
}
