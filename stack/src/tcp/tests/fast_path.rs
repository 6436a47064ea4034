//! The short ways in and out against the general ones: two engines get the same segments, calls and time, one of them walks the
//! steps of RFC 9293 for every segment, and looks at all that could hold a segment back before it sends one. Whatever can be seen of them must be the same, every field of the connection included.

use core::task::Waker;

use proptest::prelude::*;

use super::super::connection::Connection;
use super::super::header::Flags;
use super::super::options::Timestamps;
use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

/// Something happens, the same to both.
#[derive(Clone, Debug)]
enum Step {
    Segment(Peer),
    /// Microseconds pass.
    Advance(u64),
    /// The same, but what is due then has not been sent yet.
    Wait(u64),
    Write(usize),
    Read(usize),
    Transmit,
    /// The application corks the connection, or lets go.
    Cork(bool),
    /// More follows what is written next, or not.
    More(bool),
    /// What was written is urgent.
    Urgent,
    /// What was written ends a record.
    EndRecord,
    /// Nothing more is written.
    Shutdown,
}

/// What the peer sends, in terms of what it should.
#[derive(Clone, Debug)]
struct Peer {
    /// By how much the sequence number is off.
    seq_off: i32,
    len: usize,
    /// How many bytes of what it has got are not acknowledged; negative: more than it has got.
    ack_off: i32,
    window: u16,
    flags: Flags,
    timestamps: Stamp,
    /// Where a block begins, from what is acknowledged on, and its length; before that it is a D-SACK.
    sack: Option<(i32, u32)>,
    /// The IP header's ECN field.
    ecn: u8,
    /// Several in one burst, before anything is sent.
    copies: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stamp {
    Good,
    Old,
    Absent,
}

fn peer() -> impl Strategy<Value = Peer> {
    let seq_off =
        prop_oneof![40 => Just(0), 1 => -2000..2000i32, 1 => Just(-1), 1 => Just(1), 2 => Just(100)];
    let len = prop_oneof![4 => Just(0usize), 6 => 1..200usize, 2 => 400..700usize, 1 => 700..1400usize, 3 => Just(100usize)];
    let ack_off = prop_oneof![30 => Just(0), 2 => 0..2000i32, 1 => -3..0i32];
    let window = prop_oneof![20 => Just(u16::MAX), 2 => 1..2000u16, 1 => Just(0)];
    let flags = prop_oneof![
        20 => Just(Flags::ACK),
        10 => Just(Flags::ACK | Flags::PSH),
        1 => Just(Flags::ACK | Flags::URG),
        1 => Just(Flags::ACK | Flags::ECE),
        1 => (0u16..512).prop_map(|bits| Flags(bits) | Flags::ACK),
    ];
    let timestamps = prop_oneof![40 => Just(Stamp::Good), 1 => Just(Stamp::Old), 1 => Just(Stamp::Absent)];
    let sack = prop_oneof![30 => Just(None), 1 => (-1500..3000i32, 1..1500u32).prop_map(Some), 1 => (1..1500i32).prop_map(|len| Some((-len, len as u32)))];
    let ecn = prop_oneof![12 => Just(0), 1 => Just(2), 1 => Just(3)];
    let copies = prop_oneof![30 => Just(1), 1 => Just(2)];
    (seq_off, len, ack_off, window, flags, timestamps, sack, ecn, copies).prop_map(
        |(seq_off, len, ack_off, window, flags, timestamps, sack, ecn, copies)| Peer {
            seq_off,
            len,
            ack_off,
            window,
            flags,
            timestamps,
            sack,
            ecn,
            copies,
        },
    )
}

/// Microseconds without a segment: often long enough for the smallest round trip to be forgotten.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![2 => 0..100_000u64, 1 => 0..400_000_000u64]
}

fn window() -> impl Strategy<Value = u16> {
    prop_oneof![4 => Just(u16::MAX), 2 => 1..2000u16, 1 => Just(0)]
}

/// The IP header's ECN field.
fn mark() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0), 1 => Just(3)]
}

fn step() -> impl Strategy<Value = Step> {
    let time = || prop_oneof![8 => 0..3_000u64, 4 => 0..60_000u64, 1 => 0..3_000_000u64];
    prop_oneof![
        12 => peer().prop_map(Step::Segment),
        4 => time().prop_map(Step::Advance),
        2 => time().prop_map(Step::Wait),
        5 => prop_oneof![6 => 1..300usize, 1 => 300..9000usize].prop_map(Step::Write),
        5 => prop_oneof![6 => Just(20_000usize), 1 => 1..300usize].prop_map(Step::Read),
        4 => Just(Step::Transmit),
        1 => any::<bool>().prop_map(Step::Cork),
        1 => any::<bool>().prop_map(Step::More),
        1 => prop_oneof![10 => Just(Step::Urgent), 10 => Just(Step::EndRecord), 1 => Just(Step::Shutdown)],
    ]
}

/// An engine with one connection and a peer that keeps count.
struct Side {
    t: Harness,
    id: ConnId,
    timestamps: bool,
    /// The peer's next sequence number, relative.
    snd_nxt: u32,
    /// What the peer has got in order, relative.
    rcv_nxt: u32,
    clock: u32,
    echo: u32,
}

/// Opens a connection, as the harness does, with what the SYN asks for.
fn open(t: &mut Harness, options: SocketOptions, syn: Seg) -> ConnId {
    let listener = t.tcp.listen(t.local, 16, options).unwrap();
    let (timestamps, flags) = (syn.options.timestamps, syn.flags);
    t.inject(syn);
    let answer = t.wire.sent.pop_front().unwrap();
    assert!(answer.flags.contains(Flags::SYN | Flags::ACK));
    // With accurate ECN the last ACK tells how the SYN-ACK came (RFC 9768 section 3.2.2.1): not ECN-capable.
    let mut ack = if flags.contains(Flags::AE) { seg().with(Flags::CWR) } else { seg() };
    ack.options.timestamps =
        timestamps.map(|ts| Timestamps { val: ts.val, ecr: answer.options.timestamps.unwrap().val });
    t.inject(ack);
    t.wire.sent.clear();
    t.accept(listener).unwrap().0
}

/// The flags of a SYN that asks for no ECN, for classic, for accurate.
fn ecn_flags(choice: u8) -> Flags {
    match choice % 4 {
        0 => Flags::CWR | Flags::ECE,
        1 => Flags::AE | Flags::CWR | Flags::ECE,
        _ => Flags(0),
    }
}

impl Side {
    fn new(general_only: bool, syn: Seg, options: SocketOptions, config: TcpConfig) -> Self {
        let mut t = Harness::with(config);
        t.tcp.general_only = general_only;
        let timestamps = syn.options.timestamps.is_some();
        let id = open(&mut t, options, syn);
        Self { t, id, timestamps, snd_nxt: 1, rcv_nxt: 1, clock: 1000, echo: 0 }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Segment(peer) => (0..peer.copies).for_each(|copy| self.segment(peer, copy)),
            Step::Advance(micros) => {
                self.clock += (micros / 1000) as u32;
                self.t.advance(Duration::from_micros(*micros));
            }
            Step::Wait(micros) => {
                self.clock += (micros / 1000) as u32;
                self.t.now += Duration::from_micros(*micros);
                self.t.tcp.poll_timers(self.t.now, &mut self.t.counters);
            }
            Step::Write(len) => {
                let _ = self.t.tcp.poll_send(self.t.now, self.id, &vec![7; *len], Waker::noop());
            }
            Step::Read(len) => {
                let mut bytes = vec![0; *len];
                let _ = self.t.tcp.poll_recv(self.t.now, self.id, &mut bytes, Waker::noop());
            }
            Step::Transmit => self.t.transmit(),
            Step::More(more) => {
                let _ = self.t.tcp.set_more(self.t.now, self.id, *more);
            }
            Step::Urgent => {
                let _ = self.t.tcp.mark_urgent(self.t.now, self.id);
            }
            Step::EndRecord => {
                let _ = self.t.tcp.end_record(self.t.now, self.id);
            }
            Step::Shutdown => {
                let _ = self.t.tcp.shutdown(self.t.now, self.id, Shutdown::Write);
            }
            Step::Cork(cork) => {
                if let Ok(mut options) = self.t.tcp.options(self.id) {
                    options.cork = *cork;
                    let _ = self.t.tcp.set_options(self.t.now, self.id, options);
                }
            }
        }
    }

    fn segment(&mut self, peer: &Peer, copy: u8) {
        let seq = self.snd_nxt.wrapping_add_signed(peer.seq_off);
        let ack = self.rcv_nxt.wrapping_add_signed(-peer.ack_off);
        // What the connection expects is what keeps both in step.
        let fits = peer.seq_off == 0 && !peer.flags.intersects(Flags::SYN | Flags::RST);
        let mut segment = seg().flags(peer.flags).seq(seq).ack(ack).window(peer.window).ecn(peer.ecn);
        segment.payload = (0..peer.len as u32).map(|at| seq.wrapping_add(at) as u8).collect();
        if self.timestamps && peer.timestamps != Stamp::Absent {
            let val = if peer.timestamps == Stamp::Old { self.clock.wrapping_sub(500) } else { self.clock };
            segment.options.timestamps = Some(Timestamps { val, ecr: self.echo });
        }
        if let Some((from, len)) = peer.sack {
            let from = ack.wrapping_add_signed(from);
            segment = segment.sack(&[(from, from.wrapping_add(len))]);
        }
        self.t.receive(&segment);
        let end = seq.wrapping_add(peer.len as u32);
        if fits && copy == 0 && peer.timestamps == Stamp::Good && self.rcv_nxt_of_connection() == Some(end) {
            self.snd_nxt = end;
        }
    }

    /// RCV.NXT, relative.
    fn rcv_nxt_of_connection(&self) -> Option<u32> {
        let connection = self.t.tcp.tables.connections.get(self.id.index)?;
        Some(connection.rcv_nxt().0.wrapping_sub(PEER_ISN))
    }

    /// The peer takes in what was sent.
    fn follow(&mut self) {
        for sent in &self.t.wire.sent {
            if sent.seq == self.rcv_nxt {
                self.rcv_nxt = self.rcv_nxt.wrapping_add(sent.payload.len() as u32);
            }
            if let Some(timestamps) = sent.options.timestamps {
                self.echo = timestamps.val;
            }
        }
        self.t.wire.sent.clear();
    }

    /// Everything but what lies in the receive queue, and that. A prediction is no state: one may be known on one side and not on
    /// the other, but it must be true.
    fn seen(&mut self) -> (String, Vec<u8>) {
        let connection = self.t.tcp.tables.connections.get_predicting(self.id.index);
        let prediction = connection.and_then(|connection| connection.prediction.take());
        let connection = self.t.tcp.tables.connections.get(self.id.index);
        if prediction.is_some() {
            assert_eq!(connection.and_then(Connection::foresee), prediction);
        }
        let readable = connection.map_or(0, |connection| connection.receive.readable());
        let mut bytes = vec![0; readable];
        connection
            .into_iter()
            .for_each(|connection| assert_eq!(connection.receive.peek(&mut bytes), readable));
        let next = self.t.tcp.next_deadline();
        let (census, frames) = (self.t.tcp.census(), self.t.pool.free_frames());
        let text = format!("{connection:?} {:?} {next:?} {census:?} {frames}", self.t.counters);
        if let Some(connection) = self.t.tcp.tables.connections.get_predicting(self.id.index) {
            connection.prediction = prediction;
        }
        (text, bytes)
    }
}

/// How many segments went the fast way in, how many of them were predicted, and how many went the short way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Went {
    fast: u64,
    predicted: u64,
    sent: u64,
}

fn both(
    steps: &[Step],
    syn: &Seg,
    options: &SocketOptions,
    config: &TcpConfig,
) -> Result<Went, TestCaseError> {
    let side = |general| Side::new(general, syn.clone(), options.clone(), config.clone());
    let (mut fast, mut general) = (side(false), side(true));
    for (at, step) in steps.iter().enumerate() {
        fast.apply(step);
        general.apply(step);
        // What is left of a touch is only comparable when its turn is over.
        if matches!(step, Step::Transmit | Step::Advance(_)) {
            let (one, other) = (fast.seen(), general.seen());
            if one != other {
                let differs = one.0.split(", ").zip(other.0.split(", ")).find(|(one, other)| one != other);
                return Err(TestCaseError::fail(format!("after step {at}: {differs:?}")));
            }
        }
        prop_assert_eq!(
            format!("{:?}", fast.t.wire.sent),
            format!("{:?}", general.t.wire.sent),
            "step {}",
            at
        );
        fast.follow();
        general.follow();
    }
    prop_assert_eq!(general.t.tcp.expected_segments, 0);
    prop_assert_eq!(general.t.tcp.short_segments, 0);
    let Tcp { expected_segments, predicted_segments, short_segments, .. } = &fast.t.tcp;
    Ok(Went { fast: *expected_segments, predicted: *predicted_segments, sent: *short_segments })
}

fn config(bits: u8) -> TcpConfig {
    let default = TcpConfig::default();
    TcpConfig {
        pacing: bits & 1 != 0,
        timestamps_optional: bits & 2 != 0,
        ecn: EcnConfig::ACCEPT_ACCURATE,
        // All buffers together are over their bound at times.
        buffered_bytes_max: if bits & 4 != 0 { 4096 } else { default.buffered_bytes_max },
        ..default
    }
}

fn options(bits: u8) -> SocketOptions {
    SocketOptions {
        nodelay: bits & 1 != 0,
        quickack: bits & 2 != 0,
        keepalive: bits & 4 != 0,
        receive_buffer_bytes: if bits & 8 != 0 { 4096 } else { 256 << 10 },
        // Shorter than a retransmission timeout may be.
        user_timeout: (bits & 16 != 0).then_some(Duration::from_millis(250)),
        congestion: match bits >> 5 & 3 {
            0 => congestion::Algorithm::NewReno,
            1 => congestion::Algorithm::Bbr,
            _ => congestion::Algorithm::Cubic,
        },
        ..SocketOptions::default()
    }
}

proptest! {
    /// On any segments in any state, the fast path leaves what the general one does.
    #[test]
    fn both_paths_come_to_the_same(
        steps in prop::collection::vec(step(), 1..120),
        shape in any::<(bool, bool, bool, u8)>(),
        bits in any::<(u8, u8)>(),
    ) {
        let mut syn = syn().mss(1400).with(ecn_flags(shape.3));
        if shape.0 {
            syn = syn.ts(1000, 0);
        }
        if shape.1 {
            syn = syn.sack_ok();
        }
        if shape.2 {
            syn = syn.wscale(3);
        }
        both(&steps, &syn, &options(bits.0), &config(bits.1))?;
    }

    /// The same for a server of requests, whose segments are nearly all expected, long after its slow start.
    #[test]
    fn both_paths_come_to_the_same_for_requests(
        requests in prop::collection::vec((1..500usize, 1..1200usize, 0..50_000u64, prop::option::weighted(0.1, step())), 1..60),
        timestamps: bool,
        bits in any::<(u8, u8)>(),
    ) {
        let steps: Vec<Step> = requests.into_iter().flat_map(|(len, answer, micros, other)| {
            let request = Peer {
                seq_off: 0,
                len,
                ack_off: 0,
                window: u16::MAX,
                flags: Flags::ACK | Flags::PSH,
                timestamps: Stamp::Good,
                sack: None,
                ecn: 0,
                copies: 1,
            };
            let acknowledgment = Peer { len: 0, ..request.clone() };
            let plain = [
                Step::Segment(request),
                Step::Read(20_000),
                Step::Write(answer),
                Step::Transmit,
                Step::Advance(micros),
                Step::Segment(acknowledgment),
                Step::Transmit,
            ];
            plain.into_iter().chain(other)
        }).collect();
        let syn = syn().mss(1400).sack_ok().wscale(7);
        let syn = if timestamps { syn.ts(1000, 0) } else { syn };
        let (options, config) = (options(bits.0 | 1), config(bits.1));
        let paced = config.pacing || options.congestion == congestion::Algorithm::Bbr;
        let went = both(&steps, &syn, &options, &config)?;
        prop_assert!(went.fast > 0, "the fast path was never taken");
        prop_assert!(paced || went.sent > 0, "the short way out was never taken");
    }

    /// The same for a connection that is mostly idle: what comes brings nothing and was predicted, until something else happens.
    #[test]
    fn both_paths_come_to_the_same_for_segments_without_news(
        pauses in prop::collection::vec((pause(), 1..4usize, window(), mark(), prop::option::weighted(0.3, step())), 1..40),
        timestamps: bool,
        ecn: u8,
        bits in any::<(u8, u8)>(),
    ) {
        let nothing = Peer {
            seq_off: 0,
            len: 0,
            ack_off: 0,
            window: u16::MAX,
            flags: Flags::ACK,
            timestamps: Stamp::Good,
            sack: None,
            ecn: 0,
            copies: 1,
        };
        // After the first one the second is known.
        let mut steps = vec![Step::Segment(nothing.clone()), Step::Segment(nothing.clone()), Step::Transmit];
        for (micros, segments, window, ecn, other) in pauses {
            steps.extend((0..segments).map(|at| {
                let window = if at + 1 == segments { window } else { u16::MAX - at as u16 };
                Step::Segment(Peer { window, ecn, ..nothing.clone() })
            }));
            steps.push(Step::Advance(micros));
            steps.extend(other);
        }
        let syn = syn().mss(1400).sack_ok().wscale(7);
        let syn = if timestamps { syn.ts(1000, 0) } else { syn };
        let syn = syn.with(ecn_flags(ecn));
        let went = both(&steps, &syn, &options(bits.0), &config(bits.1))?;
        prop_assert!(went.predicted > 0 || ecn_flags(ecn) != Flags(0), "nothing was predicted");
    }
}
