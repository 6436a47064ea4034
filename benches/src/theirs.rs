//! smoltcp's TCP in memory, set up as [`crate::ours`] is: a pair of interfaces joined by a wire, and one interface with
//! many open sockets.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint, Ipv4Address};

use crate::ours::{arp_request, segment};
use crate::{BUFFER_BYTES, CALL_BYTES, REQUEST_BYTES, ROUND_MICROS};

/// Queues of frames.
#[derive(Default)]
struct Queues {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
}

struct RxToken(Vec<u8>);
struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl phy::Device for Queues {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;
    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        self.rx.pop_front().map(|frame| (RxToken(frame), TxToken(&mut self.tx)))
    }
    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.tx))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct End {
    iface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
}

impl End {
    fn new(last: u8, prefix_len: u8) -> Self {
        let mac = EthernetAddress([2, 0, 0, 0, 0, last]);
        let mut queues = Queues::default();
        let config = Config::new(HardwareAddress::Ethernet(mac));
        let mut iface = Interface::new(config, &mut queues, Instant::ZERO);
        let addr = IpCidr::new(Ipv4Address::new(10, 0, 0, last).into(), prefix_len);
        iface.update_ip_addrs(|list| list.push(addr).expect("the table has room"));
        Self { iface, queues, sockets: SocketSet::new(Vec::new()) }
    }

    fn add(&mut self, buffer_bytes: usize) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; buffer_bytes]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    fn poll(&mut self, now: Instant) {
        self.iface.poll(now, &mut self.queues, &mut self.sockets);
    }
}

/// Two interfaces with one open connection.
pub struct Pair {
    micros: i64,
    ends: [End; 2],
    sockets: [SocketHandle; 2],
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
        let mut ends = [End::new(1, 24), End::new(2, 24)];
        let sockets = [ends[0].add(BUFFER_BYTES), ends[1].add(BUFFER_BYTES)];
        ends[1].sockets.get_mut::<Socket<'_>>(sockets[1]).listen(80).expect("the port is free");
        let remote = IpEndpoint::new(Ipv4Address::new(10, 0, 0, 2).into(), 80);
        let End { iface, sockets: set, .. } = &mut ends[0];
        let client = set.get_mut::<Socket<'_>>(sockets[0]);
        client.connect(iface.context(), remote, 50_000).expect("there is a route");
        let mut pair = Self { micros: 0, ends, sockets };
        for _ in 0..10_000 {
            pair.round();
            if pair.socket(1).state() == State::Established {
                return pair;
            }
        }
        panic!("the connection does not open");
    }

    /// Polls both ends once and carries their frames over.
    pub fn round(&mut self) {
        self.micros += ROUND_MICROS as i64;
        for from in 0..2 {
            self.ends[from].poll(Instant::from_micros(self.micros));
            let frames = core::mem::take(&mut self.ends[from].queues.tx);
            self.ends[1 - from].queues.rx.extend(frames);
        }
    }

    fn socket(&mut self, end: usize) -> &mut Socket<'static> {
        self.ends[end].sockets.get_mut(self.sockets[end])
    }

    /// Sends `total` bytes from the first to the second end.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn bulk(&mut self, total: usize) {
        let (out, mut into) = (vec![7; CALL_BYTES], vec![0; CALL_BYTES]);
        let (mut sent, mut received) = (0, 0);
        while received < total {
            while sent < total {
                let part = &out[..CALL_BYTES.min(total - sent)];
                let taken = self.socket(0).send_slice(part).expect("the connection is open");
                if taken == 0 {
                    break;
                }
                sent += taken;
            }
            self.round();
            loop {
                let got = self.socket(1).recv_slice(&mut into).expect("the connection is open");
                if got == 0 {
                    break;
                }
                received += got;
            }
        }
    }

    /// One request and its response.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn request(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let mut bytes = [7; REQUEST_BYTES];
            let taken = self.socket(from).send_slice(&bytes).expect("the connection is open");
            assert_eq!(taken, bytes.len(), "a request fits an empty send buffer");
            let mut left = bytes.len();
            while left > 0 {
                self.round();
                left -= self.socket(to).recv_slice(&mut bytes[..left]).expect("the connection is open");
            }
        }
    }
}

/// An interface with many open sockets to peers that exist only as frames.
pub struct Crowd {
    micros: i64,
    end: End,
    segments: Vec<Vec<u8>>,
}

impl Crowd {
    /// Opens `connections`, with buffers of 128 bytes each.
    ///
    /// # Panics
    /// When one does not open.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        let mut crowd = Self { micros: 1000, end: End::new(1, 8), segments: Vec::new() };
        crowd.end.queues.rx.push_back(arp_request([10, 1, 0, 1]));
        crowd.poll();
        for number in 0..connections {
            crowd.open(number);
        }
        crowd
    }

    fn open(&mut self, number: u32) {
        let handle = self.end.add(128);
        self.end.sockets.get_mut::<Socket<'_>>(handle).listen(80).expect("the socket is new");
        self.end.queues.tx.clear();
        self.end.queues.rx.push_back(segment(number, 1000, 0, 0x02));
        self.poll();
        let answer = self.end.queues.tx.pop().expect("a SYN-ACK");
        let isn = u32::from_be_bytes(answer[38..42].try_into().expect("four bytes"));
        let ack = segment(number, 1001, isn.wrapping_add(1), 0x10);
        self.end.queues.rx.push_back(ack.clone());
        self.poll();
        let state = self.end.sockets.get::<Socket<'_>>(handle).state();
        assert_eq!(state, State::Established, "connection {number} does not open");
        self.segments.push(ack);
    }

    fn poll(&mut self) {
        self.micros += 1;
        self.end.poll(Instant::from_micros(self.micros));
    }

    /// Takes 32 segments, each for another connection, through one poll.
    pub fn burst(&mut self, from: &mut usize) {
        for _ in 0..32 {
            *from = (*from + 7919) % self.segments.len();
            self.end.queues.rx.push_back(self.segments[*from].clone());
        }
        self.poll();
        self.end.queues.tx.clear();
    }
}
