//! The other end of the wire: many connections' peers, as little of TCP as it takes to keep a stack under test busy. It
//! loses nothing, keeps the order, and panics when the stack does not answer as it must.

use core::time::Duration;
use std::time::Instant;

use crate::frames::{self, Answer, PORTS_PER_PEER, Segment, flags};
use crate::stack::{App, Stack, Turn, measured_work};

/// Shift of the peers' windows, where the stack scales windows.
pub const WINDOW_SCALE: u8 = 7;
/// Bytes that a peer lets the stack have in flight.
pub const WINDOW_BYTES: u32 = 65_535;
/// Sequence number of the peers' SYNs.
const ISS: u32 = 1000;
/// Virtual time of one turn, in microseconds.
pub(crate) const TURN_MICROS: u64 = 20;
/// Largest number of turns, each of 10 ms, that a stack may keep an answer back.
const STALL_TURNS: u32 = 100;

/// One connection, seen from the peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conn {
    /// Next sequence number to send.
    pub snd_nxt: u32,
    /// Highest sequence number that the stack's window allows.
    pub snd_edge: u32,
    /// Oldest sequence number not acknowledged.
    pub snd_una: u32,
    /// Next sequence number expected.
    pub rcv_nxt: u32,
    ts_recent: u32,
    timestamps: bool,
    scaled: bool,
    /// Shift of the stack's windows.
    shift: u8,
    /// The stack has closed.
    pub closed: bool,
}

/// A stack under test and its peers.
pub struct Bench<S> {
    stack: S,
    conns: Vec<Conn>,
    micros: u64,
    frame: Vec<u8>,
    answers: Vec<Answer>,
    /// The connections that segments were sent to since the last turn.
    addressed: Vec<u32>,
    /// The warm-up is over.
    measuring: bool,
    /// Time that the stack has worked.
    worked: Duration,
    clock_cost: Duration,
}

impl<S: Stack> Bench<S> {
    /// A stack and `connections` peers that are not connected yet.
    #[must_use]
    pub fn new(app: App, connections: u32) -> Self {
        let mut bench = Self {
            stack: S::new(app, connections),
            conns: vec![Conn::default(); connections as usize],
            micros: 1_000_000,
            frame: Vec::new(),
            answers: Vec::new(),
            addressed: Vec::new(),
            measuring: false,
            worked: Duration::ZERO,
            clock_cost: clock_cost(),
        };
        for number in (0..connections).step_by(PORTS_PER_PEER as usize) {
            bench.stack.arrive(&frames::arp_request(number));
            bench.turn(false);
        }
        bench
    }

    /// A stack and peers that are all connected.
    #[must_use]
    pub fn connected(app: App, connections: u32) -> Self {
        let mut bench = Self::new(app, connections);
        let numbers: Vec<u32> = (0..connections).collect();
        for some in numbers.chunks(crate::BURST) {
            bench.connect(some);
        }
        bench
    }

    /// The state of a connection.
    #[must_use]
    pub fn conn(&self, number: u32) -> Conn {
        self.conns[number as usize % self.conns.len()]
    }

    fn conn_mut(&mut self, number: u32) -> &mut Conn {
        let place = number as usize % self.conns.len();
        &mut self.conns[place]
    }

    /// Bytes that the server has read.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.stack.bytes_read()
    }

    /// Begins to measure.
    pub fn measure(&mut self) {
        self.measuring = true;
    }

    /// The time that the stack has worked since the last call, less what reading the clock took.
    pub fn take_worked(&mut self) -> Duration {
        core::mem::take(&mut self.worked)
    }

    /// Payload of a full segment to the stack.
    #[must_use]
    pub fn mss(&self, number: u32) -> u32 {
        if self.conn(number).timestamps { 1448 } else { 1460 }
    }

    /// Gives the stack a turn and takes in what it has sent.
    pub fn turn(&mut self, accept: bool) {
        self.micros += TURN_MICROS;
        let addressed = core::mem::take(&mut self.addressed);
        let turn = Turn { micros: self.micros, accept, addressed: &addressed };
        if self.measuring {
            let start = Instant::now();
            measured_work(&mut self.stack, &turn);
            self.worked += start.elapsed().saturating_sub(self.clock_cost);
        } else {
            self.stack.work(&turn);
        }
        self.addressed = addressed;
        self.addressed.clear();
        let mut answers = core::mem::take(&mut self.answers);
        answers.clear();
        self.stack.sent(&mut |frame| answers.extend(frames::read(frame)));
        for answer in &answers {
            self.take(answer);
        }
        self.answers = answers;
    }

    /// Segments sent by the stack in the last turn.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// The stack keeps something back: lets 10 ms pass, at most `STALL_TURNS` times in a row.
    ///
    /// # Panics
    /// When the stack does not go on.
    pub fn wait(&mut self, stalled: &mut u32) {
        *stalled += 1;
        assert!(*stalled < STALL_TURNS, "{} does not go on", S::NAME);
        self.micros += 10_000;
        self.turn(false);
    }

    fn take(&mut self, answer: &Answer) {
        assert_eq!(answer.flags & flags::RST, 0, "{} resets: {answer:?}", S::NAME);
        let conn = self.conn_mut(answer.number);
        if answer.flags & flags::SYN != 0 {
            *conn = Conn {
                snd_nxt: ISS + 1,
                snd_edge: ISS + 1 + u32::from(answer.window),
                snd_una: ISS + 1,
                rcv_nxt: answer.seq.wrapping_add(1),
                ts_recent: answer.timestamp.unwrap_or(0),
                timestamps: answer.timestamp.is_some(),
                scaled: answer.window_scale.is_some(),
                shift: answer.window_scale.unwrap_or(0),
                closed: false,
            };
            return;
        }
        conn.ts_recent = answer.timestamp.unwrap_or(0);
        let edge = answer.ack.wrapping_add(u32::from(answer.window) << conn.shift);
        if answer.ack.wrapping_sub(conn.snd_una) <= conn.snd_nxt.wrapping_sub(conn.snd_una) {
            conn.snd_una = answer.ack;
            conn.snd_edge = edge;
        }
        if answer.len > 0 || answer.flags & flags::FIN != 0 {
            assert_eq!(answer.seq, conn.rcv_nxt, "the wire loses nothing");
            let fin = answer.flags & flags::FIN != 0;
            conn.rcv_nxt = conn.rcv_nxt.wrapping_add(answer.len + u32::from(fin));
            conn.closed |= fin;
        }
    }

    /// The peer of `number` sends a segment with `len` bytes and acknowledges up to `ack`.
    pub fn send(&mut self, number: u32, flags: u8, len: u32, ack: u32) {
        let val = (self.micros / 1000) as u32;
        let conn = self.conn_mut(number);
        let window = if conn.scaled { WINDOW_BYTES.div_ceil(1 << WINDOW_SCALE) } else { WINDOW_BYTES };
        let segment = Segment {
            number,
            seq: conn.snd_nxt,
            ack,
            flags: flags | flags::ACK,
            window: window as u16,
            timestamps: conn.timestamps.then_some((val, conn.ts_recent)),
            len: len as usize,
        };
        conn.snd_nxt = conn.snd_nxt.wrapping_add(len + u32::from(flags & flags::FIN != 0));
        self.arrive(&segment);
    }

    /// The peer of `number` acknowledges everything.
    pub fn acknowledge(&mut self, number: u32) {
        self.send(number, 0, 0, self.conn(number).rcv_nxt);
    }

    fn arrive(&mut self, segment: &Segment) {
        frames::write(segment, &mut self.frame);
        self.stack.arrive(&self.frame);
        self.addressed.push(segment.number);
    }

    /// The peers of `numbers` open their connections.
    ///
    /// # Panics
    /// When the stack does not answer.
    pub fn connect(&mut self, numbers: &[u32]) {
        let val = (self.micros / 1000) as u32;
        for &number in numbers {
            let (flags, window) = (flags::SYN, WINDOW_BYTES as u16);
            let timestamps = Some((val, 0));
            *self.conn_mut(number) = Conn::default();
            self.arrive(&Segment { number, seq: ISS, flags, window, timestamps, ..Segment::default() });
        }
        self.turn(false);
        for &number in numbers {
            assert_eq!(self.conn(number).snd_nxt, ISS + 1, "{} does not answer SYN {number}", S::NAME);
            self.acknowledge(number);
        }
        self.turn(true);
    }
}

/// What it takes to read the clock twice.
fn clock_cost() -> Duration {
    let mut costs: Vec<Duration> = (0..1000).map(|_| Instant::now().elapsed()).collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}
