//! The loads: each drives one stack through the same frames, and counts operations. What the peers do, and the copies of
//! frames that stand for DMA, happen outside what is measured.

use core::time::Duration;

use crate::frames::flags;
use crate::peer::{Bench, TURN_MICROS};
use crate::stack::{App, Stack};
use crate::{BURST, REQUEST_BYTES};

/// A load, and how many connections are open under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// A peer sends as fast as the windows allow, in bursts of at most [`BURST`] full segments. An operation: a segment.
    BulkReceive,
    /// The server sends as fast as the windows allow; every second segment is acknowledged. An operation: a segment.
    BulkSend,
    /// Requests and responses of [`REQUEST_BYTES`] on one connection, one after the other. An operation: both.
    RequestResponse,
    /// Bursts of [`BURST`] requests, each on another of this many connections. An operation: a request and its response.
    Requests(u32),
    /// Bursts of [`BURST`] connections that are opened, accepted, closed by the peer and by the server. An operation: one of
    /// them, with three segments in (SYN, ACK, FIN and the last ACK: four) and three out.
    ConnectAcceptClose,
    /// Bursts of [`BURST`] segments without payload or news, each for another of this many connections. An operation: a
    /// segment.
    Demux(u32),
}

impl Load {
    /// The loads that all stacks bear.
    pub const COMPARED: [Self; 7] = [
        Self::BulkReceive,
        Self::BulkSend,
        Self::RequestResponse,
        Self::ConnectAcceptClose,
        Self::Requests(1_000),
        Self::Demux(1),
        Self::Demux(1_000),
    ];
    /// Those for stacks that find a connection without looking at all others.
    pub const LARGE: [Self; 4] =
        [Self::Demux(100_000), Self::Demux(1_000_000), Self::Requests(100_000), Self::Requests(1_000_000)];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::BulkReceive => "bulk-receive".into(),
            Self::BulkSend => "bulk-send".into(),
            Self::RequestResponse => "request-response".into(),
            Self::Requests(connections) => format!("requests-{}", short(connections)),
            Self::ConnectAcceptClose => "connect-accept-close".into(),
            Self::Demux(connections) => format!("demux-{}", short(connections)),
        }
    }

    /// How many operations one stack may be asked for. A peer acknowledges an answer with its next request: where that comes
    /// later than a tail loss probe (RFC 8985 section 7.2), the stack would rightly send the answer again.
    #[must_use]
    pub fn operations_max(self) -> u64 {
        const PATIENCE_MICROS: u64 = 180_000;
        let turns = PATIENCE_MICROS / TURN_MICROS;
        match self {
            Self::Requests(connections) if u64::from(connections) > turns * BURST as u64 => {
                turns * BURST as u64
            }
            _ => u64::MAX,
        }
    }
}

fn short(count: u32) -> String {
    match count {
        1_000_000.. => format!("{}M", count / 1_000_000),
        1_000.. => format!("{}k", count / 1_000),
        _ => count.to_string(),
    }
}

/// A load on a stack, warm.
pub struct Running<S> {
    load: Load,
    bench: Bench<S>,
    /// The next connection to use.
    next: u32,
}

impl<S: Stack> Running<S> {
    /// Builds the stack, opens the connections, warms up.
    #[must_use]
    pub fn new(load: Load) -> Self {
        let bench = match load {
            Load::BulkReceive => Bench::connected(App::Sink, 1),
            Load::BulkSend => Bench::connected(App::Source, 1),
            Load::RequestResponse => Bench::connected(App::Echo, 1),
            Load::Requests(connections) => Bench::connected(App::Echo, connections),
            Load::ConnectAcceptClose => Bench::new(App::Close, BURST as u32),
            Load::Demux(connections) => Bench::connected(App::Idle, connections),
        };
        let mut running = Self { load, bench, next: 0 };
        running.run(match load {
            Load::BulkReceive | Load::BulkSend => 4_000,
            _ => 500,
        });
        running.bench.measure();
        running
    }

    /// The load.
    #[must_use]
    pub fn load(&self) -> Load {
        self.load
    }

    /// Payload of a full segment, in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u32 {
        self.bench.mss(0)
    }

    /// Runs at least `operations` operations; returns how many and the time that the stack took for them.
    pub fn run(&mut self, operations: u64) -> (u64, Duration) {
        self.bench.take_worked();
        let mut done = 0;
        while done < operations {
            done += match self.load {
                Load::BulkReceive => self.bulk_receive(),
                Load::BulkSend => self.bulk_send(),
                Load::RequestResponse => self.requests(1),
                Load::Requests(_) => self.requests(BURST),
                Load::ConnectAcceptClose => self.connect_accept_close(),
                Load::Demux(_) => self.demux(),
            };
        }
        (done, self.bench.take_worked())
    }

    fn bulk_receive(&mut self) -> u64 {
        let mss = self.bench.mss(0);
        let mut stalled = 0;
        loop {
            let conn = self.bench.conn(0);
            let room = conn.snd_edge.wrapping_sub(conn.snd_nxt) / mss;
            let count = room.min(BURST as u32);
            if count == 0 {
                self.bench.wait(&mut stalled);
                continue;
            }
            for left in (0..count).rev() {
                let push = if left == 0 { flags::PSH } else { 0 };
                self.bench.send(0, push, mss, conn.rcv_nxt);
            }
            let before = self.bench.bytes_read();
            self.bench.turn(false);
            let read = self.bench.bytes_read() - before;
            assert_eq!(read, u64::from(count * mss), "{} must deliver what has arrived", S::NAME);
            return u64::from(count);
        }
    }

    fn bulk_send(&mut self) -> u64 {
        let mut stalled = 0;
        loop {
            let data: Vec<u32> = self
                .bench
                .answers()
                .iter()
                .filter(|answer| answer.len > 0)
                .map(|answer| answer.seq.wrapping_add(answer.len))
                .collect();
            for pair in data.chunks(2) {
                self.bench.send(0, 0, 0, pair[pair.len() - 1]);
            }
            if data.is_empty() {
                self.bench.wait(&mut stalled);
            } else {
                self.bench.turn(false);
            }
            let sent = self.bench.answers().iter().filter(|answer| answer.len > 0).count();
            if sent > 0 {
                return sent as u64;
            }
        }
    }

    /// The connection to use next: in an order without locality.
    fn next(&mut self, connections: u32) -> u32 {
        self.next = (self.next + 7919) % connections;
        self.next
    }

    fn requests(&mut self, burst: usize) -> u64 {
        let connections = match self.load {
            Load::Requests(connections) => connections,
            _ => 1,
        };
        let request = REQUEST_BYTES as u32;
        let mut numbers = [0; BURST];
        for number in &mut numbers[..burst] {
            *number = self.next(connections);
            let rcv_nxt = self.bench.conn(*number).rcv_nxt;
            self.bench.send(*number, flags::PSH, request, rcv_nxt);
        }
        self.bench.turn(false);
        let answered: u32 = self.bench.answers().iter().map(|answer| answer.len).sum();
        assert_eq!(answered, request * burst as u32, "{} must answer at once", S::NAME);
        burst as u64
    }

    fn connect_accept_close(&mut self) -> u64 {
        let first = self.next;
        self.next =
            (self.next + BURST as u32) % (crate::frames::PORTS_PER_PEER / BURST as u32 * BURST as u32);
        let numbers: [u32; BURST] = core::array::from_fn(|place| first + place as u32);
        self.bench.connect(&numbers);
        for number in numbers {
            let rcv_nxt = self.bench.conn(number).rcv_nxt;
            self.bench.send(number, flags::FIN, 0, rcv_nxt);
        }
        self.bench.turn(false);
        for number in numbers {
            assert!(self.bench.conn(number).closed, "{} must close connection {number}", S::NAME);
            self.bench.acknowledge(number);
        }
        self.bench.turn(false);
        BURST as u64
    }

    fn demux(&mut self) -> u64 {
        let Load::Demux(connections) = self.load else { return 0 };
        for _ in 0..BURST {
            let number = self.next(connections);
            self.bench.acknowledge(number);
        }
        self.bench.turn(false);
        assert!(self.bench.answers().is_empty(), "{} has nothing to say", S::NAME);
        BURST as u64
    }
}
