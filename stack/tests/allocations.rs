//! Whole shards in memory do not allocate for packets of one frame: each scenario is warmed up, so that queues, tables and
//! books have the size that it needs, then runs for thousands of packets under a counting allocator (`allocation_counter`,
//! which counts what the test's own thread allocates). Everything that a shard does with a packet is in the count, on both
//! ends, and so is the wire, which copies frames from pool to pool without allocating.

use core::net::SocketAddr;
use core::task::{Poll, Waker};

use bytes::Bytes;
use bywash::config::{Cidr, StackConfig};
use bywash::device::{Capabilities, Device};
use bywash::packet::{Packet, PacketBatch, PacketPool, PoolLayout};
use bywash::shard::{Shard, ShardLinks, UdpId};
use bywash::tcp::{ConnId, ListenerId, SocketOptions};
use bywash::time::{Duration, Instant};
use smoltcp::wire::EthernetAddress;

/// What all of a scenario may allocate after its warm-up: a queue that grows once more than it did before, by coincidence
/// of timing. It does not depend on the number of packets.
const GROWTH: u64 = 8;
/// Time between polls.
const ROUND: Duration = Duration::from_micros(20);
/// Bytes an application writes or reads in one call.
const CALL_BYTES: usize = 16 << 10;
/// Connections of the request-response scenario.
const CLIENTS: usize = 64;
static BYTES: [u8; CALL_BYTES] = [7; CALL_BYTES];

/// A network card in memory.
struct Card {
    capabilities: Capabilities,
    pool: PacketPool,
    rx: PacketBatch,
    tx: PacketBatch,
}

impl Card {
    fn new(last: u8) -> Self {
        let mac = EthernetAddress([2, 0, 0, 0, 0, last]);
        let capabilities = Capabilities { mac, mtu: 1500, partial_checksums: false, tx_frames_max: 1 };
        let pool = PacketPool::heap(PoolLayout { frames: 4096, frame_size: 2048, headroom: 128 });
        Self { capabilities, pool, rx: PacketBatch::new(), tx: PacketBatch::new() }
    }
}

impl Device for Card {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &PacketPool {
        &self.pool
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        let count = budget.min(self.rx.len());
        batch.extend(self.rx.drain(..count));
        count
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        let count = batch.len();
        self.tx.append(batch);
        count
    }

    fn transmit_room(&mut self) -> usize {
        usize::MAX
    }
}

/// A host of one or two shards.
struct Host {
    queues: Vec<(Shard, Card)>,
    /// The queue that all frames arrive at.
    rx_queue: usize,
}

impl Host {
    fn new(last: u8, shards: u16) -> Self {
        let addr = core::net::Ipv4Addr::new(10, 0, 0, last).into();
        let config = StackConfig::new(vec![Cidr { addr, prefix_len: 24 }], [last; 32]);
        let queue = |(index, links): (u16, ShardLinks)| {
            let card = Card::new(last);
            let shard = Shard::new(&config, index, shards, links, &card, Instant::ZERO);
            (shard.expect("the configuration is right"), card)
        };
        let queues = (0..shards).zip(Shard::links(shards)).map(queue).collect();
        Self { queues, rx_queue: 0 }
    }

    fn shard(&mut self) -> &mut Shard {
        &mut self.queues[0].0
    }
}

/// Two hosts on a wire; applications are on each one's first shard.
struct Pair {
    now: Instant,
    hosts: [Host; 2],
    frame: Vec<u8>,
    /// Frames carried.
    frames: u64,
}

fn server() -> SocketAddr {
    "10.0.0.2:80".parse().expect("an address")
}

fn options() -> SocketOptions {
    SocketOptions { nodelay: true, ..SocketOptions::default() }
}

impl Pair {
    fn new(server_shards: u16) -> Self {
        let hosts = [Host::new(1, 1), Host::new(2, server_shards)];
        Self { now: Instant::from_millis(1), hosts, frame: Vec::with_capacity(65_536), frames: 0 }
    }

    /// Polls every shard once and carries their frames over.
    fn round(&mut self) {
        self.now += ROUND;
        for from in 0..2 {
            for queue in 0..self.hosts[from].queues.len() {
                let (shard, card) = &mut self.hosts[from].queues[queue];
                shard.poll(self.now, card);
                while let Some(packet) = self.hosts[from].queues[queue].1.tx.pop_front() {
                    packet.copy_to(&mut self.frame);
                    drop(packet);
                    let to = &mut self.hosts[1 - from];
                    let (_, card) = &mut to.queues[to.rx_queue];
                    card.rx.push_back(Packet::copy_from(&card.pool, &self.frame).expect("frames enough"));
                    self.frames += 1;
                }
            }
        }
    }

    fn listen(&mut self) -> ListenerId {
        self.hosts[1].shard().tcp_listen(server(), 1024, options()).expect("the port is free")
    }

    /// Opens a connection and returns both ends.
    fn open(&mut self, listener: ListenerId) -> [ConnId; 2] {
        let now = self.now;
        let client = self.hosts[0].shard().tcp_connect(now, None, server(), options()).expect("a route");
        for _ in 0..1000 {
            self.round();
            let accepted = self.hosts[1].shard().tcp().poll_accept(listener, Waker::noop());
            if let Poll::Ready(accepted) = accepted {
                return [client, accepted.expect("a connection").0];
            }
        }
        panic!("the connection does not open");
    }

    fn write(&mut self, end: usize, id: ConnId, bytes: &[u8]) -> usize {
        taken(self.hosts[end].queues[0].0.tcp().poll_send(self.now, id, bytes, Waker::noop()))
    }

    fn read(&mut self, end: usize, id: ConnId, bytes: &mut [u8]) -> usize {
        taken(self.hosts[end].queues[0].0.tcp().poll_recv(self.now, id, bytes, Waker::noop()))
    }

    /// Sends `total` bytes from one end to the other by `write`, and takes them there by `read`.
    fn bulk(
        &mut self,
        from: usize,
        ids: [ConnId; 2],
        total: usize,
        mut write: impl FnMut(&mut Self, ConnId, usize) -> usize,
        mut read: impl FnMut(&mut Self, ConnId) -> usize,
    ) {
        let (mut sent, mut received, mut rounds) = (0, 0, 0);
        while received < total {
            while sent < total {
                let taken = write(self, ids[from], CALL_BYTES.min(total - sent));
                if taken == 0 {
                    break;
                }
                sent += taken;
            }
            self.round();
            loop {
                let got = read(self, ids[1 - from]);
                if got == 0 {
                    break;
                }
                received += got;
            }
            rounds += 1;
            assert!(rounds < 1_000_000, "{received} of {total} bytes arrived");
        }
    }
}

fn taken<E: core::fmt::Debug>(polled: Poll<Result<usize, E>>) -> usize {
    match polled {
        Poll::Ready(result) => result.expect("the connection is open"),
        Poll::Pending => 0,
    }
}

/// Warms a scenario up, then counts what it allocates for at least `packets` packets.
fn steady(pair: &mut Pair, packets: u64, mut scenario: impl FnMut(&mut Pair)) {
    for _ in 0..4 {
        scenario(pair);
    }
    let before = pair.frames;
    let counted = allocation_counter::measure(|| scenario(pair));
    let carried = pair.frames - before;
    assert!(carried >= packets, "only {carried} packets went");
    let count = counted.count_total;
    assert!(count <= GROWTH, "{count} allocations ({} bytes) for {carried} packets", counted.bytes_total);
}

#[test]
fn bulk_that_is_copied_allocates_nothing_per_packet() {
    let mut pair = Pair::new(1);
    let listener = pair.listen();
    let ids = pair.open(listener);
    let mut into = vec![0; CALL_BYTES];
    steady(&mut pair, 20_000, |pair| {
        pair.bulk(
            0,
            ids,
            32 << 20,
            |pair, id, len| pair.write(0, id, &BYTES[..len]),
            |pair, id| pair.read(1, id, &mut into),
        );
    });
}

#[test]
fn bulk_without_copies_allocates_nothing_per_packet() {
    let mut pair = Pair::new(1);
    let listener = pair.listen();
    let ids = pair.open(listener);
    steady(&mut pair, 20_000, |pair| {
        pair.bulk(
            0,
            ids,
            32 << 20,
            |pair, id, len| {
                let mut bytes = Bytes::from_static(&BYTES[..len]);
                let shard = pair.hosts[0].shard();
                let now = pair.now;
                taken(shard.tcp().poll_send_bytes(now, id, &mut bytes, Waker::noop()))
            },
            |pair, id| {
                let now = pair.now;
                match pair.hosts[1].shard().tcp().poll_recv_chunk(now, id, Waker::noop()) {
                    Poll::Ready(chunk) => chunk.expect("the connection is open").expect("no end").len(),
                    Poll::Pending => 0,
                }
            },
        );
    });
}

#[test]
fn chunks_sent_back_allocate_nothing_per_packet() {
    let mut pair = Pair::new(1);
    let listener = pair.listen();
    let ids = pair.open(listener);
    let mut held = None;
    let mut into = vec![0; CALL_BYTES];
    steady(&mut pair, 20_000, |pair| {
        let (mut sent, mut returned, total) = (0, 0, 16 << 20);
        while returned < total {
            if sent < total {
                sent += pair.write(0, ids[0], &BYTES[..CALL_BYTES.min(total - sent)]);
            }
            pair.round();
            let now = pair.now;
            let tcp = pair.hosts[1].shard().tcp();
            loop {
                if held.is_none() {
                    let Poll::Ready(chunk) = tcp.poll_recv_chunk(now, ids[1], Waker::noop()) else { break };
                    held = chunk.expect("the connection is open");
                }
                let Some(chunk) = &mut held else { break };
                if taken(tcp.poll_send_chunk(now, ids[1], chunk, Waker::noop())) == 0 {
                    break;
                }
                held = held.take_if(|chunk| !chunk.is_empty());
            }
            pair.round();
            loop {
                let got = pair.read(0, ids[0], &mut into);
                returned += got;
                if got == 0 {
                    break;
                }
            }
        }
    });
}

#[test]
fn requests_and_answers_allocate_nothing_per_packet() {
    let mut pair = Pair::new(1);
    let listener = pair.listen();
    let connections: Vec<[ConnId; 2]> = (0..CLIENTS).map(|_| pair.open(listener)).collect();
    for bytes in [64, 600] {
        let mut into = vec![0; bytes];
        steady(&mut pair, 10_000, |pair| {
            for _ in 0..100 {
                for (from, to) in [(0, 1), (1, 0)] {
                    for ids in &connections {
                        assert_eq!(pair.write(from, ids[from], &BYTES[..bytes]), bytes);
                    }
                    let mut left = bytes * CLIENTS;
                    for _ in 0..1000 {
                        pair.round();
                        left -=
                            connections.iter().map(|ids| pair.read(to, ids[to], &mut into)).sum::<usize>();
                        if left == 0 {
                            break;
                        }
                    }
                    assert_eq!(left, 0, "bytes did not arrive");
                }
            }
        });
    }
}

#[test]
fn udp_echo_allocates_nothing_per_packet() {
    let mut pair = Pair::new(1);
    let bind = |pair: &mut Pair, end: usize, addr: &str| -> UdpId {
        pair.hosts[end].shard().udp_bind(addr.parse().expect("an address")).expect("the port is free")
    };
    let ids = [bind(&mut pair, 0, "10.0.0.1:9000"), bind(&mut pair, 1, "10.0.0.2:7")];
    let mut into = [0; 2048];
    steady(&mut pair, 10_000, |pair| {
        let mut returned = 0;
        for _ in 0..1000 {
            for _ in 0..10 {
                let to = "10.0.0.2:7".parse().expect("an address");
                taken(pair.hosts[0].shard().udp_poll_send_to(ids[0], &BYTES[..512], to, Waker::noop()));
            }
            for _ in 0..4 {
                pair.round();
                while let Poll::Ready(got) =
                    pair.hosts[1].shard().udp_poll_recv_from(ids[1], &mut into, Waker::noop())
                {
                    let (len, from, _) = got.expect("the socket is open");
                    taken(pair.hosts[1].shard().udp_poll_send_to(ids[1], &into[..len], from, Waker::noop()));
                }
                while let Poll::Ready(got) =
                    pair.hosts[0].shard().udp_poll_recv_from(ids[0], &mut into, Waker::noop())
                {
                    assert_eq!(got.expect("the socket is open").0, 512);
                    returned += 1;
                }
            }
        }
        assert!(returned >= 9_000, "{returned} datagrams came back");
    });
}

#[test]
fn segments_handed_to_another_shard_allocate_nothing_per_packet() {
    let mut pair = Pair::new(2);
    let listener = pair.listen();
    let ids = pair.open(listener);
    // From now on all of the flow comes to the queue of the shard that does not have the connection: the acknowledgments of
    // what the server sends, then what the client sends.
    pair.hosts[1].rx_queue = 1;
    let mut into = vec![0; CALL_BYTES];
    for from in [1, 0] {
        steady(&mut pair, 4_000, |pair| {
            pair.bulk(
                from,
                ids,
                8 << 20,
                |pair, id, len| pair.write(from, id, &BYTES[..len]),
                |pair, id| pair.read(1 - from, id, &mut into),
            );
        });
    }
    let handed = pair.hosts[1].queues[1].0.counters().rx_handed_over;
    assert!(handed > 10_000, "{handed} segments were handed over");
}
