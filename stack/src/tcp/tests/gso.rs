//! Super-segments: the egress gets many segments at once, and the wire sees what it would see without.

use proptest::prelude::*;

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;
use header::Flags;

/// Counts what it is given, and takes a bounded number of segments.
#[derive(Debug, Default)]
struct Given {
    /// Payload and `mss` of each call that sent something.
    calls: Vec<(usize, usize)>,
    room: usize,
}

impl Egress for Given {
    fn path_mtu(&self, _: IpAddr) -> usize {
        1500
    }

    fn super_segment_max(&self) -> usize {
        limits::TCP_BYTES_PER_TURN
    }

    fn send(&mut self, _: Instant, segment: &SegmentOut<'_>) -> Result<usize, EgressError> {
        let taken = segment.each(|_| {
            self.room = self.room.checked_sub(1).ok_or(EgressError::Full)?;
            Ok(())
        })?;
        self.calls.push((taken, segment.mss));
        Ok(taken)
    }
}

/// An established connection whose congestion window has room for `segments` of `mss` bytes.
fn with_window(mss: u16, segments: u32) -> (Harness, ConnId) {
    let mut t = Harness::new();
    t.wire.mtu = 9000;
    let options = SocketOptions { send_buffer_bytes: 1 << 20, ..SocketOptions::default() };
    let id = t.accept_with(options, syn().mss(mss).wscale(10));
    let mut acked = 1;
    loop {
        let window = t.tcp.info(t.now, id).unwrap().snd_cwnd;
        if window >= segments {
            break;
        }
        let len = window * u32::from(mss);
        t.send(id, pattern(acked, len as usize));
        acked += len;
        t.advance(MS);
        t.inject(seg().ack(acked));
    }
    t.wire.sent.clear();
    (t, id)
}

/// Writes without sending, then gives the engine `egress`.
fn write_and_transmit(t: &mut Harness, id: ConnId, len: usize, egress: &mut Given) {
    let waker = core::task::Waker::noop();
    let bytes = vec![7; len];
    assert_eq!(t.tcp.poll_send(t.now, id, &bytes, waker), core::task::Poll::Ready(Ok(len)));
    t.tcp.transmit(t.now, egress, &mut t.counters);
}

#[test]
fn bulk_data_is_given_in_super_segments() {
    let (mut t, id) = with_window(1000, 110);
    let mut egress = Given { room: usize::MAX, ..Given::default() };
    write_and_transmit(&mut t, id, 100_500, &mut egress);
    // 48 segments a turn; the last half segment may go, as nothing short is outstanding.
    assert_eq!(egress.calls[..2], [(48_000, 1000), (48_000, 1000)]);
    assert_eq!(egress.calls[2..].iter().map(|call| call.0).sum::<usize>(), 4500);
    assert_eq!(t.tcp.info(t.now, id).unwrap().unacked, 101, "each segment is outstanding by itself");
}

#[test]
fn a_turn_ends_after_64_kib() {
    let (mut t, id) = with_window(8000, 20);
    let mut egress = Given { room: usize::MAX, ..Given::default() };
    write_and_transmit(&mut t, id, 80_000, &mut egress);
    assert_eq!(egress.calls, [(64_000, 8000), (16_000, 8000)]);
}

#[test]
fn what_was_not_taken_is_sent_later_and_nothing_twice() {
    let (mut t, id) = with_window(1000, 40);
    let before = t.counters.clone();
    let mut egress = Given { room: 7, ..Given::default() };
    write_and_transmit(&mut t, id, 30_000, &mut egress);
    assert_eq!(egress.calls, [(7000, 1000)]);
    assert_eq!(t.tcp.info(t.now, id).unwrap().unacked, 7);
    egress.room = 5;
    t.tcp.transmit(t.now, &mut egress, &mut t.counters);
    egress.room = usize::MAX;
    t.tcp.transmit(t.now, &mut egress, &mut t.counters);
    assert_eq!(egress.calls, [(7000, 1000), (5000, 1000), (18_000, 1000)]);
    assert_eq!(t.counters.tcp_segments_tx - before.tcp_segments_tx, 30);
    assert_eq!(t.counters.tcp_bytes_tx - before.tcp_bytes_tx, 30_000);
}

#[test]
fn a_rate_bounds_the_super_segment() {
    // Two segments at least, and a millisecond's worth (as Linux's TSO autosizing).
    let mut t = Harness::with(TcpConfig { pacing: true, ..TcpConfig::default() });
    let options = SocketOptions { send_buffer_bytes: 1 << 20, ..SocketOptions::default() };
    let listener = t.tcp.listen(t.local, 16, options).unwrap();
    t.inject(syn().mss(1000).wscale(10));
    t.expect(syn_ack());
    t.advance(100 * MS);
    t.inject(seg());
    let id = t.accept(listener).unwrap().0;
    let mut egress = Given { room: usize::MAX, ..Given::default() };
    write_and_transmit(&mut t, id, 200_000, &mut egress);
    // The initial window is free.
    assert_eq!(egress.calls, [(10_000, 1000)]);
    t.advance(100 * MS);
    t.wire.room = 0;
    t.inject(seg().ack(10_001));
    egress.calls.clear();
    t.tcp.transmit(t.now, &mut egress, &mut t.counters);
    // 20 segments in 100 ms, twice as fast in slow start: a burst is two segments, and the time for one that would have
    // begun before is credited.
    assert_eq!(egress.calls, [(4000, 1000)]);
}

#[test]
fn only_the_first_segment_tells_of_the_reduced_window() {
    // RFC 3168 section 6.1.2.
    let mut t = Harness::with(TcpConfig { ecn: EcnConfig::ON, ..TcpConfig::default() });
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1000).wscale(10).with(Flags::CWR | Flags::ECE));
    t.expect(syn_ack().with(Flags::ECE));
    t.inject(seg());
    let id = t.accept(listener).unwrap().0;
    t.send(id, pattern(1, 10_000));
    t.wire.sent.clear();
    t.inject(seg().ack(1001).with(Flags::ECE));
    t.inject(seg().ack(10_001));
    t.send(id, pattern(10_001, 5000));
    let flags: Vec<Flags> = t.wire.sent.iter().map(|sent| sent.flags).collect();
    let ack = Flags::ACK;
    assert_eq!(flags, [ack | Flags::CWR, ack, ack, ack, ack | Flags::PSH]);
}

/// What happens to a connection.
#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    /// The peer acknowledges this share of what is outstanding, in 256ths, with this window.
    Ack(u8, u16),
    /// It SACKs what lies behind the first of these many segments.
    Sack(u8),
    /// It sends data in order, marked or not, or ahead of a gap.
    Data(u8, u8),
    Pass(u16),
    /// The egress has room for so many segments.
    Room(u8),
    Cork(bool),
    Nodelay(bool),
    TooBig(u16),
    Shutdown,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..90_000).prop_map(Step::Write),
        2 => (1usize..3000).prop_map(Step::Write),
        8 => (any::<u8>(), 0u16..2000).prop_map(|(share, window)| Step::Ack(share, window)),
        4 => (1u8..20).prop_map(Step::Sack),
        3 => (0u8..3, 0u8..4).prop_map(|(gap, ecn)| Step::Data(gap, ecn)),
        4 => (0u16..400).prop_map(Step::Pass),
        3 => (0u8..40).prop_map(Step::Room),
        1 => any::<bool>().prop_map(Step::Cork),
        1 => any::<bool>().prop_map(Step::Nodelay),
        1 => (600u16..1500).prop_map(Step::TooBig),
        1 => Just(Step::Shutdown),
    ]
}

/// One of the two sides of the comparison.
struct Side {
    t: Harness,
    id: ConnId,
    written: u32,
    /// What the peer sent.
    seq: u32,
    /// End of what was sent to it.
    end: u32,
}

impl Side {
    fn new(super_segment_max: usize, config: &TcpConfig, syn: &Seg) -> Self {
        let mut t = Harness::with(config.clone());
        t.wire.super_segment_max = super_segment_max;
        let options = SocketOptions { send_buffer_bytes: 1 << 20, ..SocketOptions::default() };
        let listener = t.tcp.listen(t.local, 16, options).unwrap();
        t.inject(syn.clone());
        let answer = t.wire.sent.pop_front().expect("a SYN-ACK");
        let ts = answer.options.timestamps.map_or(0, |ts| ts.val);
        t.advance(20 * MS);
        t.inject(if syn.options.timestamps.is_some() { seg().ts(2, ts) } else { seg() });
        let id = t.accept(listener).expect("a connection").0;
        Self { t, id, written: 0, seq: 1, end: 1 }
    }

    fn run(&mut self, step: &Step) {
        let t = &mut self.t;
        let una = t.tcp.info(t.now, self.id).map_or(1, |info| info.bytes_acked as u32) + 1;
        let ts = t.tcp.info(t.now, self.id).is_ok_and(|info| info.timestamps);
        let stamp = |seg: Seg| if ts { seg.ts(3, 0) } else { seg };
        match *step {
            Step::Write(len) => {
                let bytes = pattern(self.written + 1, len);
                let waker = core::task::Waker::noop();
                if let core::task::Poll::Ready(Ok(len)) = t.tcp.poll_send(t.now, self.id, &bytes, waker) {
                    self.written += len as u32;
                }
                t.transmit();
            }
            Step::Ack(share, window) => {
                let ack = una + self.end.saturating_sub(una) * u32::from(share) / 255;
                t.inject(stamp(seg().seq(self.seq).ack(ack).window(window)));
            }
            Step::Sack(segments) => {
                let start = una + 1000 * u32::from(segments);
                if start + 1000 < self.end {
                    t.inject(stamp(seg().seq(self.seq).ack(una).window(1000).sack(&[(start, start + 1000)])));
                }
            }
            Step::Data(gap, ecn) => {
                let seq = self.seq + 500 * u32::from(gap);
                t.inject(stamp(seg().seq(seq).ack(una).window(1000).stream(500).seq(seq).ecn(ecn)));
                if gap == 0 {
                    self.seq += 500;
                }
            }
            Step::Pass(ms) => t.advance(Duration::from_millis(ms.into())),
            Step::Room(room) => {
                t.wire.room = room.into();
                t.transmit();
                t.wire.room = usize::MAX;
            }
            Step::Cork(cork) => t.set(self.id, |options| options.cork = cork),
            Step::Nodelay(nodelay) => t.set(self.id, |options| options.nodelay = nodelay),
            Step::TooBig(mtu) => {
                t.wire.too_big = Some(mtu.into());
                t.transmit();
            }
            Step::Shutdown => drop(t.tcp.shutdown(t.now, self.id, Shutdown::Write)),
        }
        self.t.transmit();
    }

    /// What was sent since the last call, and the figures now.
    fn seen(&mut self) -> (Vec<Sent>, String) {
        let Self { t, id, .. } = self;
        let sent: Vec<Sent> = t.wire.sent.drain(..).collect();
        self.end = sent.iter().fold(self.end, |end, sent| end.max(sent.seq + sent.payload.len() as u32));
        (sent, format!("{:?}\n{:?}", t.tcp.info(t.now, *id), t.counters))
    }
}

fn fields(sent: &Sent) -> impl PartialEq + core::fmt::Debug + '_ {
    (sent.at, sent.seq, sent.ack, sent.flags, sent.window, sent.options, sent.payload.len(), sent.ecn)
}

proptest! {
    /// Whatever happens: the same segments at the same times, the same figures, with super-segments and without.
    #[test]
    fn the_wire_sees_no_difference(
        (mss, timestamps, sack, ecn, pacing, bbr) in (prop_oneof![Just(1000u16), 300u16..1460], any::<bool>(), any::<bool>(), 0u8..3, any::<bool>(), any::<bool>()),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut syn = syn().mss(mss).wscale(10);
        if timestamps {
            syn = syn.ts(1, 0);
        }
        if sack {
            syn = syn.sack_ok();
        }
        let flags = match ecn {
            0 => Flags::NONE,
            1 => Flags::CWR | Flags::ECE,
            _ => Flags::AE | Flags::CWR | Flags::ECE,
        };
        let mut config = TcpConfig {
            ecn: EcnConfig::ACCURATE,
            pacing,
            ..TcpConfig::default()
        };
        if bbr {
            config.options.congestion = congestion::Algorithm::Bbr;
        }
        let syn = syn.with(flags);
        let mut sides = [0, limits::TCP_BYTES_PER_TURN].map(|max| Side::new(max, &config, &syn));
        for step in &steps {
            sides.iter_mut().for_each(|side| side.run(step));
            let [(without, figures), (with, with_figures)] = sides.each_mut().map(Side::seen);
            let [without_fields, with_fields] = [&without, &with].map(|sent| sent.iter().map(fields).collect::<Vec<_>>());
            prop_assert_eq!(with_fields, without_fields, "{:?}", step);
            prop_assert!(with.iter().zip(&without).all(|(with, without)| with.payload == without.payload));
            prop_assert_eq!(with_figures, figures, "{:?}", step);
        }
    }
}
