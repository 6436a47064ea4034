//! A shard with a crowd of connections to peers that exist only as frames and of which nothing is kept: what memory there
//! is, is the shard's.

use core::net::SocketAddr;
use core::task::{Poll, Waker};

use bywash::config::{Cidr, StackConfig};
use bywash::device::Capabilities;
use bywash::packet::checksum::Sum;
use bywash::packet::{PacketPool, PoolLayout};
use bywash::shard::Shard;
use bywash::sim::host::SimDevice;
use bywash::tcp::{ConnId, ListenerId, SocketOptions, TcpConfig};
use bywash::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

use crate::REQUEST_BYTES;
use crate::frames::{PORTS_PER_PEER, peer_addr};

/// Sequence number of every peer's first byte.
const PEER_FIRST: u32 = 1001;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const US: [u8; 4] = [10, 0, 0, 1];
const OUR_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const PEER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);

/// The shard, and all handles of its connections.
pub struct Crowd {
    now: Instant,
    shard: Shard,
    device: SimDevice,
    listener: ListenerId,
    /// Handles, and what the peer acknowledges next: 12 bytes each, there from the start.
    connections: Vec<(ConnId, u32)>,
    sent: Vec<Vec<u8>>,
}

impl Crowd {
    /// A shard that may have this many connections, and has none.
    ///
    /// # Panics
    /// When the shard cannot be built.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        let mut config = StackConfig::new(vec![Cidr { addr: US.into(), prefix_len: 8 }], [1; 32]);
        config.tcp = TcpConfig { connections_max: connections as usize, ..TcpConfig::default() };
        let layout = PoolLayout { frames: 4096, frame_size: 2048, headroom: 128 };
        let capabilities =
            Capabilities { mac: OUR_MAC, mtu: 1500, partial_checksums: false, tx_frames_max: 1 };
        let device = SimDevice::new(capabilities, PacketPool::heap(layout), 4096, 4096);
        let links = Shard::links(1).pop().expect("one shard has one set of links");
        let mut shard =
            Shard::new(&config, 0, 1, links, &device, Instant::ZERO).expect("the configuration is right");
        let addr = SocketAddr::from((US, 80));
        let listener = shard.tcp_listen(addr, 1024, SocketOptions::default()).expect("the port is free");
        // Written to, so that it is resident before anything is measured.
        let mut handles = vec![(ConnId { index: 1, generation: 1 }, 1); connections as usize];
        handles.clear();
        Self { now: Instant::from_millis(1), shard, device, listener, connections: handles, sent: Vec::new() }
    }

    /// Opens the connection of this number; they come in order.
    ///
    /// # Panics
    /// When it does not open.
    pub fn open(&mut self, number: u32) {
        if number.is_multiple_of(PORTS_PER_PEER) {
            self.device.arrive(&crate::frames::arp_request(number));
            self.poll();
        }
        self.device.arrive(&segment(number, PEER_FIRST - 1, 0, SYN, &[]));
        self.poll();
        let answer = self.sent.first().expect("a SYN-ACK");
        let isn = u32::from_be_bytes(answer[38..42].try_into().expect("four bytes"));
        self.device.arrive(&segment(number, PEER_FIRST, isn.wrapping_add(1), ACK, &[]));
        self.poll();
        match self.shard.tcp().poll_accept(self.listener, Waker::noop()) {
            Poll::Ready(Ok((id, _))) => self.connections.push((id, isn.wrapping_add(1))),
            other => panic!("connection {number} does not open: {other:?}"),
        }
    }

    /// Carries a request to the shard, reads it, answers, and acknowledges the answer.
    ///
    /// # Panics
    /// When something of it is missing.
    pub fn exchange(&mut self, number: u32) {
        let (id, ack) = self.connections[number as usize];
        let mut bytes = [7; REQUEST_BYTES];
        self.device.arrive(&segment(number, PEER_FIRST, ack, ACK, &bytes));
        self.poll();
        let tcp = self.shard.tcp();
        let got = tcp.poll_recv(self.now, id, &mut bytes, Waker::noop());
        assert!(matches!(got, Poll::Ready(Ok(REQUEST_BYTES))), "request {number}: {got:?}");
        let sent = tcp.poll_send(self.now, id, &bytes, Waker::noop());
        assert!(matches!(sent, Poll::Ready(Ok(REQUEST_BYTES))), "answer {number}: {sent:?}");
        self.poll();
        let (seq, ack) = (PEER_FIRST + REQUEST_BYTES as u32, ack.wrapping_add(REQUEST_BYTES as u32));
        self.device.arrive(&segment(number, seq, ack, ACK, &[]));
        self.poll();
    }

    /// # Panics
    /// Unless all connections are open and their buffers empty.
    pub fn check(&self) {
        let census = self.shard.tcp_ref().census();
        assert_eq!((census.connections, census.ended), (self.connections.len(), 0));
        assert_eq!(census.buffered_bytes, 0, "buffers of idle connections");
    }

    fn poll(&mut self) {
        self.now += Duration::from_micros(1);
        while self.shard.poll(self.now, &mut self.device) {}
        self.sent.clear();
        self.device.complete(&mut self.sent);
    }
}

/// A frame of connection `number`'s peer; a SYN offers what today's clients offer.
fn segment(number: u32, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (src, port) = (peer_addr(number), 1024 + (number % PORTS_PER_PEER) as u16);
    // MSS 1460, SACK permitted, window scale 7; without timestamps, which would have to be kept up.
    let options: &[u8] = if flags == SYN { &[2, 4, 5, 180, 4, 2, 1, 3, 3, 7, 1, 1] } else { &[] };
    let mut tcp =
        [&port.to_be_bytes()[..], &80u16.to_be_bytes(), &seq.to_be_bytes(), &ack.to_be_bytes()].concat();
    tcp.extend([0x50 + ((options.len() as u8 / 4) << 4), flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(options);
    tcp.extend(payload);
    let mut sum = Sum::pseudo_header(src.into(), US.into(), 6, tcp.len() as u32);
    sum.add(&tcp);
    tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&(20 + tcp.len() as u16).to_be_bytes());
    ip[12..16].copy_from_slice(&src);
    ip[16..20].copy_from_slice(&US);
    let mut sum = Sum::ZERO;
    sum.add(&ip);
    ip[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut frame = [&OUR_MAC.0[..], &PEER_MAC.0, &[8, 0], &ip, &tcp].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}
