//! CUBIC against the formulas of RFC 9438, section by section, and against itself in any order of events.

use super::*;
use proptest::prelude::*;

const MSS: u32 = 1000;
const RTT: Duration = Duration::from_millis(100);

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn established() -> Cubic {
    let mut cc = Cubic::new(false);
    cc.on_established(Instant::ZERO, MSS);
    cc
}

fn ack(now: Instant, bytes: u32) -> Ack {
    Ack { now, acked_bytes: bytes, delivered_bytes: bytes, srtt: Some(RTT), mss: MSS, ..Ack::default() }
}

fn segments(cc: &Cubic) -> f64 {
    f64::from(cc.cwnd) / f64::from(MSS)
}

/// Acknowledges the window of every round trip, ACK by ACK of one segment, from `from` to `to`.
fn run(cc: &mut Cubic, from: Instant, to: Instant) {
    let mut round = from;
    while round < to {
        let acks = cc.cwnd() / MSS;
        for i in 0..acks {
            let now = round + RTT * i / acks;
            if now >= to {
                return;
            }
            cc.on_ack(&ack(now, MSS));
        }
        round += RTT;
    }
}

/// In congestion avoidance after a loss with a window of `before` segments, at time zero.
fn after_loss(before: u32) -> Cubic {
    let mut cc = established();
    cc.cwnd = before * MSS;
    cc.on_loss_event(Instant::ZERO, before * MSS, LossKind::FastRetransmit);
    cc.on_recovery_exit(Instant::ZERO);
    cc
}

/// Section 4.2, Figures 1 and 2, in segments.
fn w_cubic(t: f64, w_max: f64, cwnd_epoch: f64) -> f64 {
    let k = ((w_max - cwnd_epoch) / 0.4).cbrt();
    0.4 * (t - k).powi(3) + w_max
}

#[test]
fn growth_follows_the_curve_of_section_4_2() {
    // Large enough for Reno's growth never to matter: K = (0.3 * 2000 / 0.4)^(1/3) = 11.4 s.
    let mut cc = after_loss(2000);
    assert_eq!(segments(&cc), 1400.0);
    for second in 0..20 {
        run(&mut cc, at(second * 1000), at(second * 1000 + 1000));
        let expected = w_cubic((second + 1) as f64, 2000.0, 1400.0);
        // The window lags behind its target, that of the next round trip, by what it grows in about one.
        let slack = w_cubic((second + 1) as f64 + 0.1, 2000.0, 1400.0) - expected;
        assert!(
            (segments(&cc) - expected).abs() <= slack.abs() + 2.0,
            "{second} s: {} {expected}",
            segments(&cc)
        );
    }
}

#[test]
fn growth_is_concave_before_w_max_and_convex_after_it() {
    let mut cc = after_loss(2000);
    let per_second: Vec<f64> = (0..22)
        .map(|second| {
            let before = segments(&cc);
            run(&mut cc, at(second * 1000), at(second * 1000 + 1000));
            segments(&cc) - before
        })
        .collect();
    assert!(per_second[..11].windows(2).all(|pair| pair[1] < pair[0]), "{per_second:?}");
    assert!(per_second[12..].windows(2).all(|pair| pair[1] > pair[0]), "{per_second:?}");
}

#[test]
fn a_target_is_at_most_half_a_window_away() {
    let mut cc = after_loss(100);
    cc.on_ack(&ack(at(0), MSS));
    let before = segments(&cc);
    // After a minute the curve is far above; one window of ACKs brings half a window (exactly: (1 + 0.5/w)^w).
    (0..70).for_each(|_| cc.on_ack(&ack(at(60_000), MSS)));
    assert!(segments(&cc) > 1.4 * before && segments(&cc) < 1.7 * before, "{}", segments(&cc));
}

#[test]
fn small_windows_grow_as_reno_would() {
    // 10 segments after a loss at 14.3: the curve needs (0.3 * 14.3 / 0.4)^(1/3) = 2.2 s back, so Reno rules.
    let mut cc = after_loss(10);
    let rtt = Duration::from_millis(10);
    let mut w_est = 7.0;
    assert_eq!(segments(&cc), w_est);
    for i in 0..200u64 {
        let now = Instant::ZERO + rtt * (i as u32) / 10;
        let alpha = if w_est >= 10.0 { 1.0 } else { 3.0 * 0.3 / 1.7 };
        w_est += alpha / segments(&cc);
        cc.on_ack(&Ack { srtt: Some(rtt), ..ack(now, MSS) });
        assert!((segments(&cc) - w_est).abs() < 0.01, "{i}: {} {w_est}", segments(&cc));
    }
    assert!(w_est > 15.0, "both values of alpha were seen: {w_est}");
}

#[test]
fn fast_convergence_lowers_w_max_when_losses_come_earlier() {
    let mut cc = after_loss(1000);
    assert_eq!(cc.curve.w_max, 1000 * MSS);
    cc.on_loss_event(at(100), 700 * MSS, LossKind::FastRetransmit);
    assert_eq!(cc.curve.w_max, 595 * MSS, "700 * (1 + 0.7) / 2");
    assert_eq!(segments(&cc), 490.0);
    cc.cwnd = 800 * MSS;
    cc.on_loss_event(at(200), 800 * MSS, LossKind::FastRetransmit);
    assert_eq!(cc.curve.w_max, 800 * MSS, "it was reached: the saturation point rises");
}

#[test]
fn a_loss_reduces_to_seven_tenths_and_to_no_less_than_two_segments() {
    let mut cc = established();
    cc.on_loss_event(at(0), 10 * MSS, LossKind::FastRetransmit);
    assert_eq!((cc.cwnd(), cc.ssthresh()), (7 * MSS, 7 * MSS));
    for _ in 0..10 {
        cc.on_loss_event(at(0), cc.cwnd(), LossKind::FastRetransmit);
    }
    assert_eq!((cc.cwnd(), cc.ssthresh()), (2 * MSS, 2 * MSS));
}

#[test]
fn ecn_reduces_down_to_one_segment() {
    let mut cc = established();
    for _ in 0..10 {
        cc.on_loss_event(at(0), cc.cwnd(), LossKind::Ecn);
    }
    assert_eq!((cc.cwnd(), cc.ssthresh()), (MSS, 2 * MSS));
}

#[test]
fn a_window_that_was_not_in_use_does_not_count() {
    let mut cc = established();
    cc.cwnd = 100 * MSS;
    cc.on_ack(&Ack { is_app_limited: true, ..ack(at(0), MSS) });
    cc.on_loss_event(at(1), 20 * MSS, LossKind::FastRetransmit);
    assert_eq!(cc.cwnd(), 14 * MSS);
}

#[test]
fn a_timeout_starts_over_and_the_next_stage_from_its_own_window() {
    let mut cc = after_loss(100);
    run(&mut cc, at(0), at(1000));
    let before = cc.cwnd();
    cc.on_timeout(at(1000), before);
    assert_eq!((cc.cwnd(), cc.ssthresh()), (MSS, (f64::from(before) * 0.7).round() as u32));
    cc.on_timeout(at(2000), MSS);
    assert_eq!(cc.ssthresh(), (f64::from(before) * 0.7).round() as u32, "timeouts in a row are one event");
    cc.on_ack(&ack(at(2100), 15 * MSS));
    assert_eq!(cc.cwnd(), 2 * MSS, "one segment an ACK after a timeout");
    while cc.in_slow_start() {
        cc.on_ack(&ack(at(2200), MSS));
    }
    cc.on_ack(&ack(at(2300), MSS));
    assert_eq!((cc.curve.k, cc.curve.w_max), (0.0, cc.ssthresh()));
}

#[test]
fn a_spurious_loss_or_timeout_is_taken_back_whole() {
    for spurious in [Cubic::on_timeout, |cc: &mut Cubic, now, bytes| {
        cc.on_loss_event(now, bytes, LossKind::FastRetransmit);
    }] {
        let mut cc = after_loss(1000);
        run(&mut cc, at(0), at(3000));
        let mut undisturbed = cc.clone();
        spurious(&mut cc, at(3000), 800 * MSS);
        assert!(cc.cwnd() < undisturbed.cwnd());
        cc.undo(at(3100));
        run(&mut cc, at(3100), at(6000));
        run(&mut undisturbed, at(3100), at(6000));
        assert_eq!((cc.cwnd(), cc.ssthresh()), (undisturbed.cwnd(), undisturbed.ssthresh()));
    }
}

#[test]
fn a_window_that_has_outgrown_a_spurious_reduction_stays() {
    let mut cc = after_loss(100);
    cc.on_loss_event(at(0), 70 * MSS, LossKind::FastRetransmit);
    run(&mut cc, at(0), at(30_000));
    let grown = cc.cwnd();
    assert!(grown > 70 * MSS);
    cc.undo(at(30_000));
    assert_eq!(cc.cwnd(), grown);
}

#[test]
fn time_that_the_application_limits_is_not_part_of_the_curve() {
    let mut cc = after_loss(1000);
    run(&mut cc, at(0), at(2000));
    let mut waited = cc.clone();
    for ms in (2000..60_000).step_by(100) {
        waited.on_ack(&Ack { is_app_limited: true, ..ack(at(ms), MSS) });
    }
    assert_eq!(waited.cwnd(), cc.cwnd());
    run(&mut cc, at(2000), at(5000));
    run(&mut waited, at(60_000), at(63_000));
    assert!((segments(&waited) - segments(&cc)).abs() < 3.0, "{} {}", segments(&waited), segments(&cc));
}

#[test]
fn after_idling_the_window_is_at_most_the_initial_one_and_slow_start_goes_near_the_old_one() {
    let mut cc = after_loss(200);
    run(&mut cc, at(0), at(20_000));
    let before = cc.cwnd();
    assert!(before > 200 * MSS);
    cc.on_idle_restart(at(50_000));
    assert_eq!((cc.cwnd(), cc.ssthresh()), (10 * MSS, before / 4 * 3));
    let mut small = after_loss(6);
    small.on_ack(&ack(at(0), 1));
    let before = small.cwnd();
    small.on_idle_restart(at(5_000));
    assert_eq!(small.cwnd(), before);
    small.on_ack(&ack(at(5_000), 1));
    assert!(small.cwnd() - before < 10, "the pause is not part of the curve");
}

#[test]
fn slow_start_doubles_a_round_trip_however_the_acks_are_grouped_up_to_64_kib() {
    let mut cc = established();
    (0..5).for_each(|_| cc.on_ack(&ack(at(0), 2 * MSS)));
    assert_eq!(cc.cwnd(), 20 * MSS);
    cc.on_ack(&ack(at(0), 20 * MSS));
    cc.on_ack(&ack(at(0), 40 * MSS));
    assert_eq!(cc.cwnd(), 80 * MSS);
    cc.on_ack(&ack(at(0), 80 * MSS));
    assert_eq!(cc.cwnd(), 125 * MSS);
    let mut paced = Cubic::new(true);
    paced.on_established(Instant::ZERO, MSS);
    paced.on_ack(&ack(at(0), 80 * MSS));
    assert_eq!(paced.cwnd(), 90 * MSS);
}

#[test]
fn longer_round_trips_end_the_first_slow_start_without_loss() {
    let mut cc = established();
    let (mut acked, mut now) = (0u64, Instant::ZERO);
    for rtt_ms in [40, 40, 60, 60, 60, 60, 60, 60, 60] {
        let sent = acked + u64::from(cc.cwnd());
        now += Duration::from_millis(rtt_ms);
        while acked < sent {
            acked += u64::from(MSS);
            let rtt = Some(Duration::from_millis(rtt_ms));
            let sent_to = acked + u64::from(cc.cwnd());
            cc.on_ack(&Ack { rtt, acked_to: acked, sent_to, ..ack(now, MSS) });
        }
    }
    assert!(!cc.in_slow_start());
    // 10, 20 and 40 doubled, then five rounds by a quarter each, the first of which began as the third round's end.
    assert!((80 * MSS..300 * MSS).contains(&cc.ssthresh()), "{}", cc.ssthresh());
    assert_eq!(cc.curve.k, 0.0, "the curve starts from where slow start ended (section 4.10)");
}

#[test]
fn a_lost_syn_means_one_segment() {
    let mut cc = Cubic::new(false);
    cc.on_handshake_loss();
    cc.on_established(Instant::ZERO, MSS);
    assert_eq!(cc.cwnd(), MSS);
}

#[test]
fn recovery_and_applications_that_send_little_earn_no_window() {
    let mut cc = after_loss(100);
    cc.on_ack(&Ack { in_recovery: true, ..ack(at(5000), 50 * MSS) });
    cc.on_ack(&Ack { is_app_limited: true, ..ack(at(9000), 5 * MSS) });
    assert_eq!(cc.cwnd(), 70 * MSS);
}

proptest! {
    /// Whatever happens in whatever order, over any time: at least one segment, at most the largest window, growth by no
    /// more than what was acknowledged and half a window, no overflow.
    #[test]
    fn the_window_keeps_its_bounds(
        steps in prop::collection::vec((0u8..12, any::<u32>(), any::<bool>(), 0u64..1 << 44), 0..200),
        mss in 1u32..65_536,
        is_paced: bool,
    ) {
        let mut cc = Cubic::new(is_paced);
        let mut now = Instant::ZERO;
        cc.on_established(now, mss);
        let mut acked_to = 0u64;
        for (kind, value, flag, time) in steps {
            now += Duration::from_nanos(time);
            let before = cc.cwnd();
            match kind {
                0 => cc.on_loss_event(now, value.min(before), if flag { LossKind::Ecn } else { LossKind::FastRetransmit }),
                1 => cc.on_recovery_exit(now),
                2 => cc.on_timeout(now, value.min(before)),
                3 => cc.on_idle_restart(now),
                4 => cc.undo(now),
                _ => {
                    acked_to += u64::from(value);
                    let rtt = Some(Duration::from_nanos(time));
                    cc.on_ack(&Ack {
                        rtt, srtt: rtt, in_recovery: flag && kind == 5, is_app_limited: flag && kind == 6, mss,
                        acked_to, sent_to: acked_to + u64::from(before), ..ack(now, value)
                    });
                    prop_assert!(cc.cwnd() >= before);
                    let most = u64::from(before) + u64::from(value.max(before)) + u64::from(mss);
                    prop_assert!(u64::from(cc.cwnd()) <= most, "{before} + {value} -> {}", cc.cwnd());
                }
            }
            prop_assert!((mss..=CWND_MAX.max(before)).contains(&cc.cwnd()));
            prop_assert!(cc.ssthresh() >= 2 * mss || cc.ssthresh() == cc.cwnd());
        }
    }
}
