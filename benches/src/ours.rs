//! Our stack under test: a whole shard on a queue in memory, its sockets used as a task of the runtime would use them.

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};

use bywash::config::{Cidr, StackConfig};
use bywash::device::Capabilities;
use bywash::packet::{PacketPool, PoolLayout};
use bywash::shard::Shard;
use bywash::sim::host::SimDevice;
use bywash::tcp::{ConnId, ListenerId, SocketOptions};
use bywash::time::Instant;
use smoltcp::wire::EthernetAddress;

use crate::frames::{PREFIX_LEN, STACK_ADDR, STACK_MAC, STACK_PORT, number_of};
use crate::stack::{App, Stack, Turn};
use crate::{BURST, CALL_BYTES, REQUEST_BYTES};

/// A shard, its card and the server.
pub struct Bywash {
    shard: Shard,
    device: SimDevice,
    listener: ListenerId,
    app: App,
    conns: Vec<Option<ConnId>>,
    buffer: Vec<u8>,
    bytes_read: u64,
    wire: Vec<Vec<u8>>,
}

impl Stack for Bywash {
    const NAME: &'static str = "bywash";

    fn new(app: App, connections: u32) -> Self {
        let mut config =
            StackConfig::new(vec![Cidr { addr: STACK_ADDR.into(), prefix_len: PREFIX_LEN }], [1; 32]);
        config.tcp.connections_max = config.tcp.connections_max.max(connections as usize);
        let layout = PoolLayout { frames: 4096, frame_size: 2048, headroom: 128 };
        let capabilities = Capabilities {
            mac: EthernetAddress(STACK_MAC),
            mtu: 1500,
            partial_checksums: false,
            tx_frames_max: 1,
        };
        let device = SimDevice::new(capabilities, PacketPool::heap(layout), 4096, 4096);
        let links = Shard::links(1).pop().expect("one shard has one set of links");
        let mut shard =
            Shard::new(&config, 0, 1, links, &device, Instant::ZERO).expect("the configuration is right");
        let options = SocketOptions { nodelay: true, ..SocketOptions::default() };
        let addr = SocketAddr::new(IpAddr::from(STACK_ADDR), STACK_PORT);
        let listener = shard.tcp_listen(addr, 4 * BURST, options).expect("the port is free");
        Self {
            shard,
            device,
            listener,
            app,
            conns: vec![None; connections as usize],
            buffer: vec![7; CALL_BYTES],
            bytes_read: 0,
            wire: Vec::new(),
        }
    }

    fn arrive(&mut self, frame: &[u8]) {
        self.device.arrive(frame);
    }

    fn work(&mut self, turn: &Turn<'_>) {
        let now = Instant::from_micros(turn.micros);
        self.shard.poll_receive(now, &mut self.device);
        if turn.accept {
            self.accept();
        }
        for &number in turn.addressed {
            self.serve(now, number);
        }
        if self.app == App::Source && turn.addressed.is_empty() {
            self.serve(now, 0);
        }
        self.shard.poll_transmit(now, &mut self.device);
    }

    fn sent(&mut self, each: &mut dyn FnMut(&[u8])) {
        self.device.complete(&mut self.wire);
        self.wire.drain(..).for_each(|frame| each(&frame));
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

impl Bywash {
    fn accept(&mut self) {
        while let Poll::Ready(Ok((id, peer))) = self.shard.tcp().poll_accept(self.listener, Waker::noop()) {
            let IpAddr::V4(addr) = peer.ip() else { continue };
            let place = number_of(addr, peer.port()) as usize % self.conns.len();
            self.conns[place] = Some(id);
        }
    }

    fn serve(&mut self, now: Instant, number: u32) {
        let place = number as usize % self.conns.len();
        let Some(id) = self.conns[place] else { return };
        let tcp = self.shard.tcp();
        match self.app {
            App::Idle => {}
            App::Source => {
                while let Poll::Ready(Ok(1..)) = tcp.poll_send(now, id, &self.buffer, Waker::noop()) {}
            }
            App::Sink => {
                while let Poll::Ready(Ok(len @ 1..)) = tcp.poll_recv(now, id, &mut self.buffer, Waker::noop())
                {
                    self.bytes_read += len as u64;
                }
            }
            App::Echo => {
                while let Poll::Ready(Ok(len @ 1..)) = tcp.poll_recv(now, id, &mut self.buffer, Waker::noop())
                {
                    self.bytes_read += len as u64;
                    let answer = &self.buffer[..len / REQUEST_BYTES * REQUEST_BYTES];
                    let sent = tcp.poll_send(now, id, answer, Waker::noop());
                    assert!(matches!(sent, Poll::Ready(Ok(sent)) if sent == answer.len()), "answers fit");
                }
            }
            App::Close => {
                if let Poll::Ready(Ok(0)) = tcp.poll_recv(now, id, &mut self.buffer, Waker::noop()) {
                    tcp.close(now, id);
                    self.conns[place] = None;
                }
            }
        }
    }
}
