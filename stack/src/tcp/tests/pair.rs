//! Two engines over a link that loses, delays, reorders and repeats segments: every byte arrives once and in order, every
//! connection ends, nothing is left. Seeds replay: the failing one is in the panic message.

use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::collections::BTreeMap;

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::super::testing::pattern;
use super::super::*;
use crate::counters::Counters;
use crate::packet::{PacketPool, PoolLayout};
use crate::parse::{FlowKey, Kind, Parsed};
use crate::time::Duration;

/// What the link does, in percent and milliseconds.
#[derive(Clone, Copy, Debug)]
struct Link {
    loss: u32,
    duplicate: u32,
    delay_ms: u64,
    jitter_ms: u64,
    /// Segments that an egress takes at a time.
    room: usize,
}

/// What an application does.
#[derive(Clone, Copy, Debug)]
struct Application {
    send: usize,
    write_size: usize,
    read_size: usize,
    read_pause_ms: u64,
}

struct Host {
    tcp: Tcp,
    pool: PacketPool,
    counters: Counters,
    id: Option<ConnId>,
    application: Application,
    written: usize,
    received: Vec<u8>,
    next_read: Instant,
    at_end: bool,
    shut: bool,
    error: Option<TcpError>,
}

/// A segment on its way: to which host, and its bytes.
struct Flight {
    to: usize,
    src: SocketAddr,
    dst: SocketAddr,
    header: Vec<u8>,
    payload: Vec<u8>,
}

struct Wire<'a> {
    link: Link,
    room: usize,
    from: usize,
    rng: &'a mut ChaCha8Rng,
    flights: &'a mut BTreeMap<(u64, u64), Flight>,
    count: &'a mut u64,
}

impl Wire<'_> {
    fn percent(&mut self, percent: u32) -> bool {
        self.rng.next_u32() % 100 < percent
    }
}

impl Egress for Wire<'_> {
    fn path_mtu(&self, _dst: IpAddr) -> usize {
        1500
    }

    fn super_segment_max(&self) -> usize {
        limits::TCP_BYTES_PER_TURN
    }

    fn send(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<usize, EgressError> {
        segment.each(|segment| self.send_one(now, segment))
    }
}

impl Wire<'_> {
    fn send_one(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<(), EgressError> {
        self.room = self.room.checked_sub(1).ok_or(EgressError::Full)?;
        let header_len = 20 + segment.options.len();
        let mut header = Vec::new();
        header.extend(segment.src.port().to_be_bytes());
        header.extend(segment.dst.port().to_be_bytes());
        header.extend(segment.seq.0.to_be_bytes());
        header.extend(segment.ack.0.to_be_bytes());
        header.extend(((header_len as u16 / 4) << 12 | segment.flags).to_be_bytes());
        header.extend(segment.window.to_be_bytes());
        header.extend([0; 4]);
        header.extend(segment.options);
        let payload = segment.payload.concat();
        assert!(header.len() + payload.len() + 20 <= 1500);
        for _ in 0..=u32::from(self.percent(self.link.duplicate)) {
            let jitter = if self.link.jitter_ms == 0 { 0 } else { self.rng.next_u64() % self.link.jitter_ms };
            if self.percent(self.link.loss) {
                continue;
            }
            *self.count += 1;
            let at = now.as_millis() + self.link.delay_ms + jitter;
            let flight = Flight {
                to: 1 - self.from,
                src: segment.src,
                dst: segment.dst,
                header: header.clone(),
                payload: payload.clone(),
            };
            self.flights.insert((at, *self.count), flight);
        }
        Ok(())
    }
}

impl Host {
    fn new(config: &TcpConfig, seed: u8, application: Application) -> Self {
        Self {
            tcp: Tcp::new(config.clone(), [seed; 32], 0, 1),
            pool: PacketPool::heap(PoolLayout { frames: 512, frame_size: 2048, headroom: 0 }),
            counters: Counters::default(),
            id: None,
            application,
            written: 0,
            received: Vec::new(),
            next_read: Instant::ZERO,
            at_end: false,
            shut: false,
            error: None,
        }
    }

    fn receive(&mut self, now: Instant, flight: &Flight) {
        let mut bytes = vec![0; 34];
        bytes.extend(&flight.header);
        bytes.extend(&flight.payload);
        let Some(mut packet) = Packet::copy_from(&self.pool, &bytes) else { return };
        packet.parsed = Parsed {
            kind: Kind::Tcp,
            l3: 14,
            l4: 34,
            payload: (34 + flight.header.len()) as u16,
            end: bytes.len() as u32,
            flow: FlowKey {
                src: flight.src.ip(),
                dst: flight.dst.ip(),
                src_port: flight.src.port(),
                dst_port: flight.dst.port(),
                protocol: 6,
            },
            ..Parsed::default()
        };
        if let Received::NoConnection(packet) = self.tcp.receive(now, packet, &mut self.counters) {
            self.tcp.reject(now, &packet, &mut self.counters);
        }
    }

    /// What the application does now; whether it did something.
    fn run(&mut self, now: Instant) -> bool {
        let Some(id) = self.id.filter(|_| self.error.is_none()) else { return false };
        let mut active = false;
        let waker = Waker::noop();
        while self.written < self.application.send {
            let len = self.application.write_size.min(self.application.send - self.written);
            let bytes = pattern(self.written as u32, len);
            match self.tcp.poll_send(now, id, &bytes, waker) {
                Poll::Ready(Ok(len)) => self.written += len,
                Poll::Ready(Err(error)) => {
                    self.error = Some(error);
                    return true;
                }
                Poll::Pending => break,
            }
            active = true;
        }
        let connected = self.tcp.poll_connected(id, waker).is_ready();
        if self.written == self.application.send && !self.shut && connected {
            self.shut = true;
            self.tcp.shutdown(now, id, Shutdown::Write).unwrap();
            active = true;
        }
        while now >= self.next_read && !self.at_end {
            let mut buffer = vec![0; self.application.read_size];
            match self.tcp.poll_recv(now, id, &mut buffer, waker) {
                Poll::Ready(Ok(0)) => self.at_end = true,
                Poll::Ready(Ok(len)) => self.received.extend(&buffer[..len]),
                Poll::Ready(Err(error)) => {
                    self.error = Some(error);
                    return true;
                }
                Poll::Pending => break,
            }
            active = true;
            self.next_read = now + Duration::from_millis(self.application.read_pause_ms);
        }
        active
    }
}

/// Runs a connection from open to both ends' close. Panics when a byte is wrong or an end is not reached.
fn run(link: Link, config: &TcpConfig, applications: [Application; 2], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut flights, mut count) = (BTreeMap::new(), 0);
    let mut hosts = [Host::new(config, 1, applications[0]), Host::new(config, 2, applications[1])];
    let addr = |n: usize| -> SocketAddr { format!("192.0.2.{}:{}", n + 1, 1000 + n).parse().unwrap() };
    let mut now = Instant::from_millis(1_000_000);
    let options = config.options.clone();
    let listener = hosts[1].tcp.listen(addr(1), 4, options.clone()).unwrap();
    hosts[0].id = Some(if config.fastopen.client_without_cookie {
        let first = pattern(0, applications[0].write_size.min(applications[0].send));
        let (id, taken) = hosts[0].tcp.connect_with_data(now, addr(0), addr(1), options, &first).unwrap();
        hosts[0].written = taken;
        id
    } else {
        hosts[0].tcp.connect(now, addr(0), addr(1), options).unwrap()
    });
    let end = now + Duration::from_secs(20_000);
    loop {
        loop {
            let mut active = false;
            if let Poll::Ready(Ok((id, _))) = hosts[1].tcp.poll_accept(listener, Waker::noop()) {
                // A SYN's data may come once more in a connection of its own, but only when the first is over
                // (RFC 7413 section 2.1).
                match hosts[1].id {
                    None => hosts[1].id = Some(id),
                    Some(first) => {
                        assert!(config.fastopen.server_without_cookie, "one connection only");
                        assert!(hosts[1].tcp.state(first).is_none_or(State::is_over));
                        hosts[1].tcp.abort(now, id);
                    }
                }
                active = true;
            }
            for (from, host) in hosts.iter_mut().enumerate() {
                host.tcp.poll_timers(now, &mut host.counters);
                active |= host.run(now);
                let room = link.room;
                let mut wire =
                    Wire { link, room, from, rng: &mut rng, flights: &mut flights, count: &mut count };
                host.tcp.transmit(now, &mut wire, &mut host.counters);
                active |= wire.room == 0;
            }
            while let Some(entry) = flights.first_entry().filter(|entry| entry.key().0 <= now.as_millis()) {
                let flight = entry.remove();
                hosts[flight.to].receive(now, &flight);
                active = true;
            }
            if !active {
                break;
            }
        }
        if hosts.iter().all(|host| host.at_end && host.shut) {
            break;
        }
        let wakes = hosts.iter().flat_map(|host| {
            let reads = (!host.at_end && host.next_read > now).then_some(host.next_read);
            [host.tcp.next_deadline(), reads]
        });
        let arrival = flights.keys().next().map(|(at, _)| Instant::from_millis(*at));
        let next = wakes.chain([arrival]).flatten().min().expect("somebody waits for something");
        now = next.max(now + Duration::from_micros(1));
        let states: Vec<_> = hosts.iter().map(|host| host.id.and_then(|id| host.tcp.state(id))).collect();
        let errors: Vec<_> = hosts.iter().map(|host| host.error).collect();
        assert!(now < end, "stuck: seed {seed}, {states:?} {errors:?}");
        assert!(errors.iter().all(Option::is_none), "failed: seed {seed}, {states:?} {errors:?}");
    }
    for (host, other) in [(0, 1), (1, 0)] {
        let expected = pattern(0, applications[other].send);
        assert!(hosts[host].received == expected, "host {host} got other bytes: seed {seed}");
    }
    for host in &mut hosts {
        host.tcp.close(now, host.id.unwrap());
    }
    // Long enough for the last FIN to be given up and TIME-WAIT to pass.
    for _ in 0..100_000 {
        while let Poll::Ready(Ok((id, _))) = hosts[1].tcp.poll_accept(listener, Waker::noop()) {
            hosts[1].tcp.abort(now, id);
        }
        let next = hosts.iter().filter_map(|host| host.tcp.next_deadline()).min();
        let arrival = flights.keys().next().map(|(at, _)| Instant::from_millis(*at));
        let Some(next) = next.into_iter().chain(arrival).min() else { break };
        now = next.max(now + Duration::from_micros(1));
        while let Some(entry) = flights.first_entry().filter(|entry| entry.key().0 <= now.as_millis()) {
            let flight = entry.remove();
            hosts[flight.to].receive(now, &flight);
        }
        for (from, host) in hosts.iter_mut().enumerate() {
            host.tcp.poll_timers(now, &mut host.counters);
            let mut wire = Wire {
                link,
                room: usize::MAX,
                from,
                rng: &mut rng,
                flights: &mut flights,
                count: &mut count,
            };
            host.tcp.transmit(now, &mut wire, &mut host.counters);
        }
    }
    for host in &hosts {
        let census = host.tcp.census();
        assert_eq!(
            (census.connections, census.time_wait, census.buffered_bytes),
            (0, 0, 0),
            "seed {seed}: {census:?}"
        );
        assert_eq!(host.pool.free_frames(), 512, "seed {seed}");
    }
}

const BULK: Application =
    Application { send: 300_000, write_size: 20_000, read_size: 16_384, read_pause_ms: 0 };
const IDLE: Application = Application { send: 0, ..BULK };

#[test]
fn bulk_data_crosses_a_good_link_fast() {
    let link = Link { loss: 0, duplicate: 0, delay_ms: 10, jitter_ms: 0, room: usize::MAX };
    run(link, &TcpConfig::default(), [BULK, IDLE], 1);
    run(link, &TcpConfig::default(), [BULK, BULK], 2);
}

fn application() -> impl Strategy<Value = Application> {
    let size = prop_oneof![1 => 0usize..10, 4 => 0usize..100_000];
    let piece = prop_oneof![1usize..20, 1usize..3000, 1usize..40_000];
    (size, piece.clone(), piece, prop_oneof![3 => Just(0u64), 1 => 0u64..300]).prop_map(
        |(send, write_size, read_size, read_pause_ms)| Application {
            send,
            // Keeps the number of steps bounded.
            write_size: write_size.max(send / 2000 + 1),
            read_size: read_size.max(200),
            read_pause_ms,
        },
    )
}

fn link() -> impl Strategy<Value = Link> {
    (
        0u32..=20,
        0u32..=10,
        0u64..=250,
        prop_oneof![Just(0u64), 1u64..50],
        prop_oneof![Just(usize::MAX), 1usize..8],
    )
        .prop_map(|(loss, duplicate, delay_ms, jitter_ms, room)| Link {
            loss,
            duplicate,
            delay_ms,
            jitter_ms,
            room,
        })
}

fn config() -> impl Strategy<Value = TcpConfig> {
    let buffer = prop_oneof![1 => Just(4096usize), 1 => 4096usize..20_000, 2 => Just(256usize << 10)];
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), buffer.clone(), buffer).prop_map(
        |(timestamps, window_scaling, nodelay, fastopen, receive, send)| {
            let options = SocketOptions {
                nodelay,
                receive_buffer_bytes: receive,
                send_buffer_bytes: send,
                fastopen_qlen: usize::from(fastopen),
                ..SocketOptions::default()
            };
            // Nobody gives up: 20 % loss in both directions takes long now and then.
            TcpConfig {
                timestamps,
                window_scaling,
                options,
                syn_retries: 30,
                give_up_after: Duration::from_secs(10_000),
                fastopen: FastOpenConfig {
                    server_without_cookie: fastopen,
                    client_without_cookie: fastopen,
                    ..FastOpenConfig::default()
                },
                ..TcpConfig::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_byte_arrives_once_and_in_order(
        link in link(),
        config in config(),
        one in application(),
        two in application(),
        seed in any::<u64>(),
    ) {
        run(link, &config, [one, two], seed);
    }
}
