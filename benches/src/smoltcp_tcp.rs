//! smoltcp's TCP under test: an interface on a queue in memory. The device lends the buffers that frames are built in and read
//! from, so that nothing is copied or allocated for them, which is the best that smoltcp can have.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};

use crate::frames::{PREFIX_LEN, STACK_ADDR, STACK_MAC, STACK_PORT};
use crate::stack::{App, Stack, Turn};
use crate::{CALL_BYTES, REQUEST_BYTES, RIVAL_BUFFER_BYTES};

/// Bytes of each buffer of sockets that carry requests only: what lets 10,000 of them fit the memory.
const SMALL_BUFFER_BYTES: usize = 256;
/// Longest Ethernet frame.
const FRAME_BYTES: usize = 1514;

/// Queues of frames, and buffers that are free.
#[derive(Default)]
struct Queues {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
    /// Read frames.
    spent: Vec<Vec<u8>>,
    free: Vec<Vec<u8>>,
}

struct RxToken<'a> {
    frame: Vec<u8>,
    spent: &'a mut Vec<Vec<u8>>,
}

struct TxToken<'a> {
    tx: &'a mut Vec<Vec<u8>>,
    free: &'a mut Vec<Vec<u8>>,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.frame);
        self.spent.push(self.frame);
        result
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = self.free.pop().unwrap_or_else(|| vec![0; FRAME_BYTES]);
        frame.resize(len, 0);
        let result = f(&mut frame);
        self.tx.push(frame);
        result
    }
}

impl phy::Device for Queues {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;
    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let frame = self.rx.pop_front()?;
        let Self { tx, spent, free, .. } = self;
        Some((RxToken { frame, spent }, TxToken { tx, free }))
    }
    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        let Self { tx, free, .. } = self;
        Some(TxToken { tx, free })
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES;
        capabilities
    }
}

/// An interface, its card and the server: one socket for each place, as smoltcp's listening sockets become connections.
pub struct Smoltcp {
    iface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    handles: Vec<SocketHandle>,
    app: App,
    buffer: Vec<u8>,
    bytes_read: u64,
}

impl Stack for Smoltcp {
    const NAME: &'static str = "smoltcp";

    fn new(app: App, connections: u32) -> Self {
        let mut queues = Queues::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(STACK_MAC)));
        let mut iface = Interface::new(config, &mut queues, Instant::ZERO);
        let addr = IpCidr::new(Ipv4Address::from(STACK_ADDR).into(), PREFIX_LEN);
        iface.update_ip_addrs(|list| list.push(addr).expect("the table has room"));
        let mut sockets = SocketSet::new(Vec::new());
        let bytes = if connections == 1 { RIVAL_BUFFER_BYTES } else { SMALL_BUFFER_BYTES };
        let handles = (0..connections).map(|_| {
            let buffer = || SocketBuffer::new(vec![0; bytes]);
            let mut socket = Socket::new(buffer(), buffer());
            socket.set_nagle_enabled(false);
            socket.listen(STACK_PORT).expect("the socket is new");
            sockets.add(socket)
        });
        let handles = handles.collect();
        Self { iface, queues, sockets, handles, app, buffer: vec![7; CALL_BYTES], bytes_read: 0 }
    }

    fn arrive(&mut self, frame: &[u8]) {
        let mut buffer = self.queues.spent.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        self.queues.rx.push_back(buffer);
    }

    fn work(&mut self, turn: &Turn<'_>) {
        let now = Instant::from_micros(turn.micros as i64);
        // In two halves, as our stack: what the server answers carries the acknowledgments.
        self.iface.poll_maintenance(now);
        while !matches!(
            self.iface.poll_ingress_single(now, &mut self.queues, &mut self.sockets),
            PollIngressSingleResult::None
        ) {}
        for &number in turn.addressed {
            self.serve(number);
        }
        if self.app == App::Source && turn.addressed.is_empty() {
            self.serve(0);
        }
        while matches!(
            self.iface.poll_egress(now, &mut self.queues, &mut self.sockets),
            PollResult::SocketStateChanged
        ) {}
    }

    fn sent(&mut self, each: &mut dyn FnMut(&[u8])) {
        let Queues { tx, free, .. } = &mut self.queues;
        for frame in tx.drain(..) {
            each(&frame);
            free.push(frame);
        }
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

impl Smoltcp {
    fn serve(&mut self, number: u32) {
        let handle = self.handles[number as usize % self.handles.len()];
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        match self.app {
            App::Idle => {}
            App::Source => {
                while socket.can_send() && socket.send_slice(&self.buffer).is_ok_and(|len| len > 0) {}
            }
            App::Sink => {
                while let Ok(len @ 1..) = socket.recv_slice(&mut self.buffer) {
                    self.bytes_read += len as u64;
                }
            }
            App::Echo => {
                while let Ok(len @ 1..) = socket.recv_slice(&mut self.buffer) {
                    self.bytes_read += len as u64;
                    let answer = &self.buffer[..len / REQUEST_BYTES * REQUEST_BYTES];
                    assert_eq!(socket.send_slice(answer), Ok(answer.len()), "answers fit");
                }
            }
            App::Close => match socket.state() {
                State::CloseWait => socket.close(),
                State::Closed => socket.listen(STACK_PORT).expect("the socket is closed"),
                _ => {}
            },
        }
    }
}
