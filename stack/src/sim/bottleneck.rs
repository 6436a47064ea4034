//! A laboratory for congestion control: senders, each a host of its own, share one slow link to a receiver. The hosts are
//! whole stacks; what is measured is read from them and from the link between steps. Used by the plots of `benches/` and
//! by the tests of what recovery and congestion control come to on a link.

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::task::Poll;
use std::io::{self, Write};
use std::rc::Rc;

use super::app::{App, Context, Next};
use super::dice::Dice;
use super::fault::Faults;
use super::host::{Host, HostConfig};
use super::link::{Link, LinkConfig};
use super::world::{PortId, World};
use crate::config::{Cidr, StackConfig};
use crate::counters::Counters;
use crate::packet::PoolLayout;
use crate::tcp::{ConnId, ListenerId, Shutdown, SocketOptions, TcpConfig, TcpInfo};
use crate::time::{Duration, Instant};

const PORT: u16 = 5001;
/// Rate of the senders' own links: a gigabit, so that a burst reaches the bottleneck as it would on a real network.
const ACCESS_BITS_PER_SECOND: u64 = 1_000_000_000;
/// What scheduling adds to a packet's way at most: about a packet's time on a link of 100 Mbit/s. Without it flows fall
/// into step with a full queue, and always the same ones lose (phase effects).
const ACCESS_JITTER: Duration = Duration::from_micros(120);
/// Bytes offered in one call.
const WRITE_BYTES: usize = 64 << 10;

/// One sender.
#[derive(Clone, Debug)]
pub struct Flow {
    /// When it connects.
    pub begins_at: Duration,
    /// Bytes it sends before it closes; `None`: without end.
    pub bytes: Option<u64>,
    /// Its socket's options: congestion control, buffers.
    pub options: SocketOptions,
    /// Its stack's settings: SACK, timestamps, timeouts.
    pub tcp: TcpConfig,
}

/// The link that the flows share, in their direction; the way back has its delay and nothing else.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    /// Bits per second.
    pub bits_per_second: u64,
    /// Round-trip time without queues.
    pub rtt: Duration,
    /// Bytes that may wait for the link.
    pub queue_bytes: usize,
    /// What else it does to packets.
    pub faults: Faults,
    /// The senders, at most 200.
    pub flows: Vec<Flow>,
    /// Seed of hosts and links.
    pub seed: u64,
}

/// The network under way.
pub struct Lab {
    /// Virtual time, links, captures.
    pub world: World,
    senders: Vec<Sender>,
    receiver: Rc<RefCell<Host>>,
    port: PortId,
}

struct Sender {
    host: Rc<RefCell<Host>>,
    port: PortId,
    connection: Rc<Cell<Option<ConnId>>>,
    received: Rc<Cell<Received>>,
}

/// What came of a flow at the receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// Payload bytes read in order.
    pub bytes: u64,
    /// When the end of the stream was read.
    pub finished_at: Option<Instant>,
}

/// What a sender sent again, told apart by what it could know of the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Resent {
    /// Segments, before it could know of reordering: before a D-SACK, a segment delivered out of order that was sent once only
    /// (RFC 8985 section 6.2 step 3), or a timestamp that shows the original of a retransmission to have arrived late.
    pub before_lesson: u64,
    /// Segments, from the event on that taught it.
    pub after_lesson: u64,
    /// From the first of all these to the last.
    pub span: Duration,
}

impl Bottleneck {
    /// Bytes that fill the link for a round trip.
    #[must_use]
    pub fn bandwidth_delay_product(&self) -> usize {
        (u128::from(self.bits_per_second) * self.rtt.as_micros() / 8_000_000) as usize
    }

    /// Sets the network up at time zero.
    ///
    /// # Panics
    /// When there are more than 200 flows.
    #[must_use]
    pub fn start(&self) -> Lab {
        assert!(self.flows.len() <= 200, "{} flows do not fit a /24", self.flows.len());
        let mut world = World::new(self.seed);
        let address = Ipv4Addr::new(10, 0, 0, 1);
        let receiver = host("receiver", 1, address, TcpConfig::default(), self.seed);
        let delay = self.rtt / 2;
        let down = LinkConfig {
            delay,
            rate_bits_per_second: Some(self.bits_per_second),
            queue_bytes: self.queue_bytes,
            faults: self.faults.clone(),
            ..LinkConfig::default()
        };
        let up = LinkConfig { delay, ..LinkConfig::default() };
        let port = world.attach(receiver.clone(), up, down);
        let senders: Vec<_> =
            self.flows.iter().enumerate().map(|(index, flow)| self.sender(&mut world, index, flow)).collect();
        let sinks = senders.iter().zip(&self.flows).enumerate();
        let sinks = sinks.map(|(index, (sender, _))| (sender_address(index), sender.received.clone()));
        let options = self.flows.first().map_or_else(SocketOptions::default, |flow| flow.options.clone());
        let listen = Listen { options, id: None, sinks: sinks.collect() };
        receiver.borrow_mut().start(0, Box::new(listen));
        Lab { world, senders, receiver, port }
    }

    fn sender(&self, world: &mut World, index: usize, flow: &Flow) -> Sender {
        let number = 2 + index as u8;
        let host = host("sender", number, sender_address(index), flow.tcp.clone(), self.seed);
        let up = LinkConfig {
            rate_bits_per_second: Some(ACCESS_BITS_PER_SECOND),
            queue_bytes: 64 << 20,
            jitter: ACCESS_JITTER,
            ..LinkConfig::default()
        };
        let port = world.attach(host.clone(), up, LinkConfig::default());
        let connection = Rc::new(Cell::new(None));
        let send = Send {
            begins_at: Instant::ZERO + flow.begins_at,
            left: flow.bytes.unwrap_or(u64::MAX),
            options: flow.options.clone(),
            connection: connection.clone(),
        };
        host.borrow_mut().start(0, Box::new(send));
        Sender { host, port, connection, received: Rc::default() }
    }
}

fn sender_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 10 + index as u8)
}

/// A host whose pool and rings are no limit here: what is to be seen is the link.
fn host(name: &str, number: u8, addr: Ipv4Addr, tcp: TcpConfig, seed: u64) -> Rc<RefCell<Host>> {
    let secret = Dice::new(seed, 0x1ab0 + u64::from(number)).secret();
    let mut stack = StackConfig::new(vec![Cidr { addr: IpAddr::V4(addr), prefix_len: 24 }], secret);
    stack.tcp = tcp;
    let config = HostConfig {
        pool: PoolLayout { frames: 16 << 10, frame_size: 2048, headroom: 128 },
        rx_ring_packets: 4096,
        tx_ring_packets: 4096,
        ..HostConfig::new(name, number, stack, seed + u64::from(number))
    };
    Rc::new(RefCell::new(Host::new(&config, Instant::ZERO).expect("the configuration is right")))
}

impl Lab {
    /// A flow's figures at its sender; `None` before it connects and after it closed.
    #[must_use]
    pub fn info(&self, flow: usize) -> Option<TcpInfo> {
        let sender = &self.senders[flow];
        let host = sender.host.borrow();
        host.shard_ref(0).tcp_ref().info(self.world.now(), sender.connection.get()?).ok()
    }

    /// Counters of a flow's sender.
    #[must_use]
    pub fn counters(&self, flow: usize) -> Counters {
        self.senders[flow].host.borrow().shard_ref(0).counters().clone()
    }

    /// Counters of the receiver.
    #[must_use]
    pub fn receiver_counters(&self) -> Counters {
        self.receiver.borrow().shard_ref(0).counters().clone()
    }

    /// What a flow has brought so far.
    #[must_use]
    pub fn received(&self, flow: usize) -> Received {
        self.senders[flow].received.get()
    }

    /// Runs event by event until a flow ends, and watches what its sender sends again.
    ///
    /// # Panics
    /// When the flow does not end before `deadline`.
    pub fn watch_to_end(&mut self, flow: usize, deadline: Instant) -> Resent {
        let mut resent = Resent::default();
        let (mut seen, mut first, mut knows) = (0, None, false);
        while self.received(flow).finished_at.is_none() {
            assert!(self.world.step(deadline), "the flow does not end: {:?}", self.info(flow));
            let counters = self.counters(flow);
            let reord_seen = self.info(flow).map_or(0, |info| info.reord_seen);
            // What the event taught counts for what it sent.
            knows |= counters.tcp_dsacks_rx + counters.tcp_undos + u64::from(reord_seen) > 0;
            let new = counters.tcp_retransmits - seen;
            if new > 0 {
                seen = counters.tcp_retransmits;
                *(if knows { &mut resent.after_lesson } else { &mut resent.before_lesson }) += new;
                resent.span = self.world.now() - *first.get_or_insert(self.world.now());
            }
        }
        resent
    }

    /// The bottleneck.
    pub fn link(&mut self) -> &mut Link {
        self.world.down(self.port)
    }

    /// Bytes that wait for the bottleneck now.
    #[must_use]
    pub fn queue_bytes(&mut self) -> usize {
        let now = self.world.now();
        self.link().queued_bytes(now)
    }

    /// Writes what the sender of a flow sends and receives to `out` as a capture file; [`World::finish_captures`] ends it.
    ///
    /// # Errors
    /// When the file's header cannot be written.
    pub fn capture(&mut self, flow: usize, out: Box<dyn Write>) -> io::Result<()> {
        self.world.capture(self.senders[flow].port, out)
    }
}

/// Connects, sends zeros, closes.
struct Send {
    begins_at: Instant,
    left: u64,
    options: SocketOptions,
    connection: Rc<Cell<Option<ConnId>>>,
}

impl App for Send {
    fn run(&mut self, cx: &mut Context<'_>) -> Next {
        if cx.now < self.begins_at {
            return Next::Sleep(self.begins_at);
        }
        let remote = SocketAddr::from(([10, 0, 0, 1], PORT));
        let id = match self.connection.get() {
            Some(id) => id,
            None => match cx.shard.tcp_connect(cx.now, None, remote, self.options.clone()) {
                Ok(id) => id,
                Err(error) => panic!("{remote} cannot be dialled: {error}"),
            },
        };
        self.connection.set(Some(id));
        match cx.shard.tcp().poll_connected(id, cx.waker) {
            Poll::Pending => return Next::Wait,
            Poll::Ready(result) => result.expect("the network lets every connection open"),
        }
        let zeros = [0; WRITE_BYTES];
        while self.left > 0 {
            let offered = WRITE_BYTES.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            match cx.shard.tcp().poll_send(cx.now, id, &zeros[..offered], cx.waker) {
                Poll::Pending => return Next::Wait,
                Poll::Ready(taken) => self.left -= taken.expect("the connection is open") as u64,
            }
        }
        cx.shard.tcp().shutdown(cx.now, id, Shutdown::Write).expect("the connection is open");
        Next::Done
    }

    fn describe(&self) -> String {
        format!("sends: {} bytes left", self.left)
    }
}

/// Accepts the flows and reads them.
struct Listen {
    options: SocketOptions,
    id: Option<ListenerId>,
    sinks: Vec<(Ipv4Addr, Rc<Cell<Received>>)>,
}

impl App for Listen {
    fn run(&mut self, cx: &mut Context<'_>) -> Next {
        let addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let id = *self.id.get_or_insert_with(|| {
            cx.shard.tcp_listen(addr, 256, self.options.clone()).expect("the port is free")
        });
        while let Poll::Ready(accepted) = cx.shard.tcp().poll_accept(id, cx.waker) {
            let (connection, remote) = accepted.expect("the listener is open");
            let of = |sink: &&(Ipv4Addr, _)| IpAddr::V4(sink.0) == remote.ip().to_canonical();
            let received = self.sinks.iter().find(of).expect("a sender of ours").1.clone();
            cx.spawned.push(Box::new(Read { connection, received }));
        }
        Next::Wait
    }

    fn describe(&self) -> String {
        "listens".to_owned()
    }
}

/// Reads a flow as fast as it comes.
struct Read {
    connection: ConnId,
    received: Rc<Cell<Received>>,
}

impl App for Read {
    fn run(&mut self, cx: &mut Context<'_>) -> Next {
        loop {
            match cx.shard.tcp().poll_recv_chunk(cx.now, self.connection, cx.waker) {
                Poll::Pending => return Next::Wait,
                Poll::Ready(chunk) => {
                    let chunk = chunk.expect("the connection is open");
                    let mut received = self.received.get();
                    match &chunk {
                        Some(chunk) => received.bytes += chunk.len() as u64,
                        None => received.finished_at = Some(cx.now),
                    }
                    self.received.set(received);
                    if chunk.is_none() {
                        cx.shard.tcp().close(cx.now, self.connection);
                        return Next::Done;
                    }
                }
            }
        }
    }

    fn describe(&self) -> String {
        format!("reads: {:?}", self.received.get())
    }
}
