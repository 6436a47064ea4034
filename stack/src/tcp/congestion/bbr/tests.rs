//! BBR step by step, and in any order of events. What it does to a link is in `link_model`.

use super::*;
use crate::tcp::congestion::CWND_MAX;
use crate::tcp::delivery_rate::{DeliveryRate, Snapshot};
use proptest::prelude::*;

const MSS: u32 = 1000;
const RTT: Duration = Duration::from_millis(40);

/// Rounds of a path with a constant rate, one ACK for each.
struct Path {
    bbr: Bbr,
    now: Instant,
    delivered: u64,
}

impl Path {
    fn new() -> Self {
        let mut bbr = Bbr::new(1);
        bbr.on_established(Instant::ZERO, MSS);
        bbr.on_handshake_rtt(RTT);
        Self { bbr, now: Instant::ZERO, delivered: 0 }
    }

    fn ack(&self, delivered: u32, rate: u64) -> Ack {
        let sample = RateSample {
            delivered_bytes: (rate * RTT.as_millis() as u64 / 1000) as u32,
            interval: RTT,
            prior_delivered: self.delivered,
            is_app_limited: false,
            lost_bytes: 0,
            in_flight_at_send: self.bbr.cwnd().saturating_sub(MSS),
        };
        Ack {
            now: self.now + RTT,
            acked_bytes: delivered,
            delivered_bytes: delivered,
            rtt: Some(RTT),
            srtt: Some(RTT),
            mss: MSS,
            rate: Some(sample),
            in_flight_after: self.bbr.cwnd(),
            delivered_total: self.delivered + u64::from(delivered),
            ..Ack::default()
        }
    }

    fn give(&mut self, ack: &Ack) {
        self.now = ack.now;
        self.delivered = ack.delivered_total;
        self.bbr.on_ack(ack);
    }

    /// A round at `rate` bytes a second.
    fn round(&mut self, rate: u64) {
        let ack = self.ack((rate * RTT.as_millis() as u64 / 1000) as u32, rate);
        self.give(&ack);
    }

    /// In Cruise on a path of a million bytes a second: 40 segments a round trip.
    fn cruising() -> Self {
        let mut path = Self::new();
        (0..8).for_each(|_| path.round(1_000_000));
        while path.bbr.state != State::Cruise {
            let ack = Ack { in_flight_after: 4 * MSS, ..path.ack(10 * MSS, 1_000_000) };
            path.give(&ack);
        }
        path
    }
}

#[test]
fn startup_ends_after_three_rounds_without_a_quarter_more() {
    let mut path = Path::new();
    for rate in [100_000, 200_000, 400_000, 500_000] {
        path.round(rate);
        assert_eq!((path.bbr.state, path.bbr.full_bw_count), (State::Startup, 0), "{rate}");
    }
    path.round(620_000);
    path.round(620_000);
    assert_eq!(path.bbr.state, State::Startup);
    path.round(620_000);
    assert_eq!((path.bbr.state, path.bbr.full_bw_reached), (State::Drain, true));
    assert_eq!(path.bbr.pacing_rate(), Some(620_000 / 2 * 99 / 100));
}

#[test]
fn app_limited_rounds_do_not_end_startup_but_may_raise_the_bandwidth() {
    let mut path = Path::new();
    path.round(400_000);
    for rate in [100_000, 100_000, 100_000, 100_000, 500_000] {
        let mut ack = path.ack(4 * MSS, rate);
        ack.rate.as_mut().unwrap().is_app_limited = true;
        path.give(&ack);
    }
    assert_eq!((path.bbr.state, path.bbr.max_bw()), (State::Startup, 500_000));
}

#[test]
fn startup_paces_at_2_77_times_the_bandwidth_and_allows_two_products() {
    let mut path = Path::new();
    assert_eq!(
        path.bbr.pacing_rate(),
        Some(10_000 * 25 * 277 / 100),
        "the initial window over the handshake's time"
    );
    (0..3).for_each(|n| path.round(500_000 << n));
    assert_eq!(path.bbr.pacing_rate(), Some(2_000_000 * 277 * 99 / 10_000));
    (0..2).for_each(|_| path.round(2_000_000));
    let bdp = 80_000;
    assert!((2 * bdp..=4 * bdp).contains(&path.bbr.cwnd()), "{}", path.bbr.cwnd());
}

#[test]
fn startup_ends_by_loss_when_a_round_of_recovery_loses_too_much() {
    let mut path = Path::new();
    path.round(400_000);
    path.bbr.on_loss_event(path.now, path.bbr.cwnd(), LossKind::FastRetransmit);
    for loss_events in 0..7 {
        assert_eq!(path.bbr.state, State::Startup, "{loss_events}");
        let mut ack = path.ack(MSS, 400_000);
        ack.delivered_total = path.delivered + 1000;
        ack.lost_bytes = MSS;
        let sample = ack.rate.as_mut().unwrap();
        sample.lost_bytes = sample.in_flight_at_send / 10;
        // All of one round, the last one begins the next.
        sample.prior_delivered = if loss_events < 6 { 0 } else { path.delivered };
        path.give(&ack);
    }
    assert_eq!(path.bbr.state, State::Drain);
    assert!(path.bbr.inflight_longterm < INFINITY);
}

#[test]
fn drain_ends_when_a_product_is_in_flight() {
    let mut path = Path::new();
    (0..4).for_each(|_| path.round(1_000_000));
    assert_eq!(path.bbr.state, State::Drain);
    path.give(&Ack { in_flight_after: 41 * MSS, ..path.ack(MSS, 1_000_000) });
    assert_eq!(path.bbr.state, State::Drain);
    path.give(&Ack { in_flight_after: 40 * MSS, ..path.ack(MSS, 1_000_000) });
    assert!(path.bbr.is_in_probe_bw());
}

#[test]
fn probes_go_through_refill_and_up_and_down_to_cruise() {
    let mut path = Path::cruising();
    assert_eq!(path.bbr.pacing_rate(), Some(990_000));
    let before = path.now;
    let mut states = vec![State::Cruise];
    for _ in 0..200 {
        path.round(1_000_000);
        if path.bbr.state == State::Up {
            assert_eq!(path.bbr.pacing_rate(), Some(1_237_500));
        }
        // Up is left once it found no more for three rounds, then the queue drains.
        if path.bbr.state == State::Down {
            let ack = Ack { in_flight_after: 4 * MSS, ..path.ack(MSS, 1_000_000) };
            path.give(&ack);
        }
        if states.last() != Some(&path.bbr.state) {
            states.push(path.bbr.state);
        }
        if states.len() == 4 {
            break;
        }
    }
    assert_eq!(states, [State::Cruise, State::Refill, State::Up, State::Cruise]);
    // 40 segments in flight: Reno's 40 rounds come before 2 seconds.
    assert!((30..=60).contains(&((path.now - before).as_millis() / RTT.as_millis())));
}

#[test]
fn waits_between_probes_differ_with_the_seed() {
    let waits: std::collections::HashSet<Duration> = (0..50)
        .map(|seed| {
            let mut bbr = Bbr::new(seed * 2 + 1);
            bbr.start_probe_bw_down(Instant::ZERO);
            assert!((2..3).contains(&bbr.bw_probe_wait.as_secs()));
            bbr.bw_probe_wait
        })
        .collect();
    assert!(waits.len() > 25, "{}", waits.len());
}

#[test]
fn a_round_with_loss_bounds_the_bandwidth_until_the_next_probe() {
    let mut path = Path::cruising();
    path.bbr.on_loss_event(path.now, 40 * MSS, LossKind::FastRetransmit);
    path.round(500_000);
    // The latest rate, or 0.7 of before, whichever is more: the first round with loss began at the old rate.
    assert_eq!(path.bbr.bw, 1_000_000);
    path.bbr.note_loss();
    path.round(500_000);
    assert_eq!(path.bbr.bw, 700_000);
    assert!(path.bbr.bw_shortterm < u64::MAX && path.bbr.inflight_shortterm < INFINITY);
    path.bbr.start_probe_bw_refill();
    path.round(500_000);
    assert_eq!(path.bbr.bw, 1_000_000);
}

#[test]
fn too_much_loss_in_a_probe_sets_the_long_term_bound_where_it_began() {
    let mut path = Path::cruising();
    path.bbr.start_probe_bw_refill();
    path.round(1_000_000);
    assert_eq!(path.bbr.state, State::Up);
    let mut rate = DeliveryRate::default();
    let snapshot = rate.on_send(path.now, 99 * MSS);
    let lose = |path: &mut Path, lost| {
        path.bbr.on_segment_lost(&LostSegment {
            now: path.now,
            bytes: MSS,
            lost_since_sent: lost,
            delivered_total: path.delivered,
            snapshot,
        });
    };
    lose(&mut path, 2 * MSS);
    assert_eq!(
        (path.bbr.state, path.bbr.inflight_longterm),
        (State::Up, INFINITY),
        "two of a hundred may be lost"
    );
    lose(&mut path, 3 * MSS);
    // 2 % of (99 + x) segments are two when x is 1.
    assert_eq!((path.bbr.state, path.bbr.inflight_longterm), (State::Down, 99 * MSS));
    lose(&mut path, 50 * MSS);
    assert_eq!(path.bbr.inflight_longterm, 99 * MSS, "once a probe");
}

#[test]
fn loss_outside_of_a_probe_leaves_the_long_term_bound() {
    let mut path = Path::cruising();
    let snapshot = Snapshot::default();
    let lost = LostSegment { bytes: MSS, lost_since_sent: 50 * MSS, snapshot, ..LostSegment::default() };
    path.bbr.on_segment_lost(&LostSegment { now: path.now, delivered_total: path.delivered, ..lost });
    assert_eq!(path.bbr.inflight_longterm, INFINITY);
}

#[test]
fn headroom_is_left_while_cruising() {
    let mut path = Path::cruising();
    path.bbr.inflight_longterm = 60 * MSS;
    let mut ack = Ack { in_flight_after: 4 * MSS, ..path.ack(60 * MSS, 1_000_000) };
    ack.rate.as_mut().unwrap().in_flight_at_send = 10 * MSS;
    path.give(&ack);
    assert_eq!((path.bbr.state, path.bbr.cwnd()), (State::Cruise, 51 * MSS));
}

#[test]
fn the_long_term_bound_grows_by_one_two_four_segments_a_round() {
    let mut path = Path::cruising();
    path.bbr.start_probe_bw_refill();
    path.round(1_000_000);
    assert_eq!(path.bbr.state, State::Up);
    (path.bbr.inflight_longterm, path.bbr.cwnd, path.bbr.bw_probe_up_rounds) = (60 * MSS, 60 * MSS, 0);
    path.bbr.raise_inflight_longterm_slope();
    let mut bounds = vec![path.bbr.inflight_longterm / MSS];
    for _ in 0..3 {
        let mut ack = path.ack(path.bbr.cwnd(), 1_000_000);
        ack.rate.as_mut().unwrap().in_flight_at_send = 10 * MSS;
        path.give(&ack);
        bounds.push(path.bbr.inflight_longterm / MSS);
    }
    assert_eq!(bounds, [60, 61, 63, 67]);
}

#[test]
fn probe_rtt_halves_the_window_for_200_ms_and_a_round_every_five_seconds() {
    let mut path = Path::cruising();
    // Longer round trips than the first ones: the minimum is not renewed.
    let longer =
        |path: &Path| Ack { rtt: Some(RTT * 2), in_flight_after: 20 * MSS, ..path.ack(10 * MSS, 1_000_000) };
    while path.bbr.state != State::ProbeRtt {
        let ack = longer(&path);
        path.give(&ack);
        assert!(path.now < Instant::from_millis(6_000));
    }
    let entered = path.now;
    assert!(entered > Instant::from_millis(5_000));
    while path.bbr.state == State::ProbeRtt {
        assert!(path.bbr.cwnd() <= 20 * MSS);
        let ack = longer(&path);
        path.give(&ack);
    }
    assert!((200..=400).contains(&(path.now - entered).as_millis()));
    assert_eq!((path.bbr.state, path.bbr.min_rtt), (State::Cruise, Some(RTT)));
    assert!(path.bbr.cwnd() > 20 * MSS, "the window is restored");
}

#[test]
fn the_minimum_round_trip_is_forgotten_after_ten_seconds() {
    let mut path = Path::cruising();
    while path.now < Instant::from_millis(11_000) {
        let ack = Ack { rtt: Some(RTT * 2), in_flight_after: 4 * MSS, ..path.ack(10 * MSS, 1_000_000) };
        path.give(&ack);
    }
    assert_eq!(path.bbr.min_rtt, Some(RTT * 2));
}

#[test]
fn recovery_starts_from_what_is_in_flight_and_gives_the_window_back() {
    let mut path = Path::cruising();
    let before = path.bbr.cwnd();
    path.bbr.on_loss_event(path.now, 12 * MSS, LossKind::FastRetransmit);
    assert_eq!(path.bbr.cwnd(), 13 * MSS);
    path.bbr.on_recovery_exit(path.now);
    assert_eq!(path.bbr.cwnd(), before);
}

#[test]
fn a_timeout_starts_from_one_segment_and_ends_with_what_was_sent_before() {
    let mut path = Path::cruising();
    let ack = Ack { sent_to: 500_000, acked_to: 400_000, ..path.ack(10 * MSS, 1_000_000) };
    path.give(&ack);
    let before = path.bbr.cwnd();
    path.bbr.on_timeout(path.now, 40 * MSS);
    assert_eq!(path.bbr.cwnd(), MSS);
    path.bbr.on_timeout(path.now, MSS);
    let ack = Ack { sent_to: 500_000, acked_to: 401_000, ..path.ack(MSS, 1_000_000) };
    path.give(&ack);
    assert!(path.bbr.cwnd() < before);
    let ack = Ack { sent_to: 500_000, acked_to: 500_000, ..path.ack(MSS, 1_000_000) };
    path.give(&ack);
    assert!(!path.bbr.in_recovery);
    assert!(path.bbr.cwnd() + 30 * MSS >= before, "{} {before}", path.bbr.cwnd());
}

#[test]
fn a_spurious_loss_is_taken_back() {
    let mut path = Path::cruising();
    let (cwnd, bw) = (path.bbr.cwnd(), path.bbr.bw);
    path.bbr.on_loss_event(path.now, 12 * MSS, LossKind::FastRetransmit);
    path.round(500_000);
    path.bbr.note_loss();
    path.round(500_000);
    assert!(path.bbr.bw < bw);
    path.bbr.undo(path.now);
    assert_eq!((path.bbr.bw_shortterm, path.bbr.inflight_shortterm), (u64::MAX, INFINITY));
    assert!(path.bbr.cwnd() >= cwnd);
    path.round(1_000_000);
    assert_eq!(path.bbr.bw, bw);
}

#[test]
fn idling_costs_no_window_and_restarts_at_the_bandwidth() {
    let mut path = Path::cruising();
    path.bbr.start_probe_bw_down(path.now);
    let cwnd = path.bbr.cwnd();
    path.bbr.on_idle_restart(path.now + Duration::from_secs(60));
    assert_eq!((path.bbr.cwnd(), path.bbr.pacing_rate()), (cwnd, Some(990_000)));
}

#[test]
fn bundled_acks_widen_the_window() {
    let mut path = Path::cruising();
    let steady = path.bbr.cwnd();
    // Four round trips' worth in one ACK, again and again.
    for _ in 0..8 {
        let mut ack = path.ack(160 * MSS, 1_000_000);
        ack.now = path.now + RTT * 4;
        ack.in_flight_after = 4 * MSS;
        path.give(&ack);
    }
    assert!(path.bbr.cwnd() >= steady + 40 * MSS, "{} {steady}", path.bbr.cwnd());
}

proptest! {
    /// Whatever happens in whatever order: at least one segment, at most the largest window, a rate above zero, no
    /// overflow.
    #[test]
    fn window_and_rate_keep_their_bounds(
        steps in prop::collection::vec((0u8..16, any::<u32>(), any::<u32>(), any::<bool>(), 0u64..1 << 36), 0..300),
        mss in 1u32..65_536,
        seed: u32,
    ) {
        let mut bbr = Bbr::new(seed);
        let mut now = Instant::ZERO;
        let mut rate = DeliveryRate::default();
        let mut sent = Vec::new();
        bbr.on_established(now, mss);
        for (kind, value, other, flag, time) in steps {
            now += Duration::from_nanos(time);
            let loss = if flag { LossKind::Ecn } else { LossKind::FastRetransmit };
            match kind {
                0 => bbr.on_loss_event(now, value, loss),
                1 => bbr.on_recovery_exit(now),
                2 => bbr.on_timeout(now, value),
                3 => bbr.on_idle_restart(now),
                4 => bbr.undo(now),
                5 => bbr.on_handshake_rtt(Duration::from_nanos(time)),
                6..9 => {
                    let snapshot = sent.pop().map_or_else(Snapshot::default, |(_, snapshot)| snapshot);
                    rate.on_lost(other);
                    bbr.on_segment_lost(&LostSegment {
                        now, bytes: value, lost_since_sent: other, delivered_total: rate.delivered(), snapshot
                    });
                }
                _ => {
                    sent.push((now, rate.on_send(now, other >> 4)));
                    let (sent_at, snapshot) = sent[value as usize % sent.len()];
                    let bytes = if flag { value } else { value >> 16 };
                    rate.on_delivered(now, bytes, sent_at, &snapshot);
                    let rtt = Some(Duration::from_nanos(time));
                    bbr.on_ack(&Ack {
                        now, acked_bytes: bytes, delivered_bytes: bytes, rtt, srtt: rtt, mss, in_flight_before: other,
                        rate: rate.sample(now, None), in_flight_after: other, lost_bytes: if kind == 9 { other } else { 0 },
                        delivered_total: rate.delivered(), is_app_limited: flag, in_recovery: kind == 10,
                        ..Ack::default()
                    });
                }
            }
            prop_assert!((mss..=CWND_MAX).contains(&bbr.cwnd()), "{}", bbr.cwnd());
            prop_assert!(bbr.pacing_rate() > Some(0));
        }
    }
}
