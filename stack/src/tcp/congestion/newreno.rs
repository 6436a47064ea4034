//! NewReno: slow start and congestion avoidance of RFC 5681 with bytes counted as in RFC 3465, fast recovery's window
//! of RFC 6582, the initial window of RFC 6928.

use super::{Ack, CWND_MAX, CongestionControl, LossKind, initial_window};
use crate::time::Instant;

/// NewReno's state.
#[derive(Clone, Debug)]
pub struct NewReno {
    cwnd: u32,
    ssthresh: u32,
    mss: u32,
    /// Bytes acknowledged since the window last grew in congestion avoidance (RFC 3465 section 2.1).
    bytes_acked: u32,
    /// `cwnd` before the last reduction, for `undo`; 0 when there is nothing to undo.
    prior_cwnd: u32,
    prior_ssthresh: u32,
    handshake_loss: bool,
    /// A timeout happened and nothing was acknowledged since: further ones keep `ssthresh` (RFC 5681 section 3.1).
    timed_out: bool,
    /// Slow start goes back to where a timeout struck: ACKs may cover data that left the network long before, so
    /// each counts as one segment at most (RFC 3465 section 2.3).
    after_timeout: bool,
}

impl NewReno {
    /// State of a connection not yet established, as if its segments had 536 bytes (RFC 9293 section 3.7.1).
    #[must_use]
    pub fn new() -> Self {
        Self {
            cwnd: initial_window(536),
            ssthresh: u32::MAX,
            mss: 536,
            bytes_acked: 0,
            prior_cwnd: 0,
            prior_ssthresh: 0,
            handshake_loss: false,
            timed_out: false,
            after_timeout: false,
        }
    }

    /// RFC 5681 section 3.1, equation (4).
    fn reduced(&self, in_flight: u32) -> u32 {
        (in_flight / 2).max(2 * self.mss)
    }

    fn remember(&mut self) {
        (self.prior_cwnd, self.prior_ssthresh) = (self.cwnd, self.ssthresh);
    }

    /// Slow start takes every acknowledged byte, as Linux does, and not the 1 to 2 segments an ACK of RFC 3465 section
    /// 2.2: receivers that merge segments before TCP sees them acknowledge 64 KiB at a time. Returns what is left over
    /// when `ssthresh` is reached.
    fn slow_start(&mut self, acked: u32, acks: u32) -> u32 {
        let counted =
            if self.after_timeout { acked.min(self.mss.saturating_mul(acks.max(1))) } else { acked };
        let grown = self.cwnd.saturating_add(counted).min(self.ssthresh).min(CWND_MAX);
        let rest = counted - (grown - self.cwnd);
        self.cwnd = grown;
        if grown >= self.ssthresh {
            self.after_timeout = false;
        }
        rest
    }

    /// One segment for each window acknowledged (RFC 3465 section 2.1).
    fn congestion_avoidance(&mut self, acked: u32) {
        self.bytes_acked = self.bytes_acked.saturating_add(acked);
        if self.bytes_acked >= self.cwnd {
            self.bytes_acked -= self.cwnd;
            self.cwnd = self.cwnd.saturating_add(self.mss).min(CWND_MAX);
        }
    }
}

impl Default for NewReno {
    fn default() -> Self {
        Self::new()
    }
}

impl CongestionControl for NewReno {
    fn name(&self) -> &'static str {
        "newreno"
    }

    fn on_established(&mut self, _now: Instant, mss: u32) {
        self.mss = mss.max(1);
        self.cwnd = if self.handshake_loss { self.mss } else { initial_window(self.mss) };
    }

    fn on_handshake_loss(&mut self) {
        self.handshake_loss = true;
    }

    fn on_ack(&mut self, ack: &Ack) {
        self.mss = ack.mss.max(1);
        if ack.acked_bytes > 0 {
            self.timed_out = false;
        }
        if ack.in_recovery || ack.is_app_limited || ack.acked_bytes == 0 {
            return;
        }
        let acked = ack.acked_bytes;
        let rest = if self.in_slow_start() { self.slow_start(acked, ack.acks) } else { acked };
        if rest > 0 && !self.in_slow_start() {
            self.congestion_avoidance(rest);
        }
    }

    fn on_loss_event(&mut self, _now: Instant, in_flight: u32, _kind: LossKind) {
        self.remember();
        self.ssthresh = self.reduced(in_flight);
        self.cwnd = self.ssthresh;
        self.bytes_acked = 0;
        self.after_timeout = false;
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        // RFC 6582 section 3.2 step 3 for a full acknowledgment: the inflated window goes back to ssthresh. A timeout in
        // between has left a smaller one.
        self.cwnd = self.cwnd.min(self.ssthresh);
        self.bytes_acked = 0;
    }

    fn on_timeout(&mut self, _now: Instant, in_flight: u32) {
        if !self.timed_out {
            self.remember();
            self.ssthresh = self.reduced(in_flight);
        }
        self.cwnd = self.mss;
        self.bytes_acked = 0;
        self.timed_out = true;
        self.after_timeout = true;
    }

    fn on_idle_restart(&mut self, _now: Instant) {
        // RFC 5681 section 4.1.
        self.cwnd = self.cwnd.min(initial_window(self.mss));
        self.bytes_acked = 0;
    }

    fn undo(&mut self, _now: Instant) {
        if self.prior_cwnd == 0 {
            return;
        }
        self.cwnd = self.cwnd.max(self.prior_cwnd);
        self.ssthresh = self.prior_ssthresh;
        self.prior_cwnd = 0;
        self.timed_out = false;
        self.after_timeout = false;
    }

    fn cwnd(&self) -> u32 {
        self.cwnd
    }

    fn ssthresh(&self) -> u32 {
        self.ssthresh
    }

    fn pacing_rate(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MSS: u32 = 1000;
    const NOW: Instant = Instant::ZERO;

    fn established() -> NewReno {
        let mut cc = NewReno::new();
        cc.on_established(NOW, MSS);
        cc
    }

    fn ack(bytes: u32) -> Ack {
        Ack {
            now: NOW,
            acked_bytes: bytes,
            delivered_bytes: bytes,
            in_flight_before: 100 * MSS,
            mss: MSS,
            ..Ack::default()
        }
    }

    /// In congestion avoidance with a window of `segments`.
    fn avoiding(segments: u32) -> NewReno {
        let mut cc = established();
        cc.on_loss_event(NOW, 2 * segments * MSS, LossKind::FastRetransmit);
        cc.on_recovery_exit(NOW);
        assert_eq!((cc.cwnd(), cc.in_slow_start()), (segments * MSS, false));
        cc
    }

    #[test]
    fn slow_start_doubles_a_round_trip_however_the_acks_are_grouped() {
        for group in [1, 2, 5, 10] {
            let mut cc = established();
            (0..10 / group).for_each(|_| cc.on_ack(&ack(group * MSS)));
            assert_eq!(cc.cwnd(), 20 * MSS, "ACKs of {group} segments");
        }
    }

    #[test]
    fn congestion_avoidance_adds_one_segment_a_window() {
        let mut cc = avoiding(20);
        (0..19).for_each(|_| cc.on_ack(&ack(MSS)));
        assert_eq!(cc.cwnd(), 20 * MSS);
        cc.on_ack(&ack(MSS));
        assert_eq!(cc.cwnd(), 21 * MSS);
        (0..21).for_each(|_| cc.on_ack(&ack(MSS)));
        assert_eq!(cc.cwnd(), 22 * MSS);
    }

    #[test]
    fn acknowledged_bytes_beyond_a_window_count_for_the_next() {
        let mut cc = avoiding(20);
        cc.on_ack(&ack(30 * MSS));
        assert_eq!(cc.cwnd(), 21 * MSS);
        cc.on_ack(&ack(11 * MSS));
        assert_eq!(cc.cwnd(), 22 * MSS);
    }

    #[test]
    fn a_timeout_forgets_what_was_counted_for_growth() {
        let mut cc = avoiding(20);
        cc.on_ack(&ack(19 * MSS));
        cc.on_timeout(NOW, 4 * MSS);
        cc.on_ack(&ack(MSS));
        cc.on_ack(&ack(MSS));
        assert_eq!(cc.cwnd(), 2 * MSS);
    }

    #[test]
    fn one_ack_may_end_slow_start_and_grow_in_avoidance() {
        let mut cc = avoiding(12);
        cc.on_idle_restart(NOW);
        cc.on_ack(&ack(14 * MSS));
        assert_eq!(cc.cwnd(), 13 * MSS);
    }

    #[test]
    fn slow_start_stops_at_ssthresh_and_the_rest_counts_for_avoidance() {
        let mut cc = established();
        cc.on_timeout(NOW, 4 * MSS);
        cc.on_ack(&ack(MSS));
        assert_eq!((cc.cwnd(), cc.in_slow_start()), (2 * MSS, false));
        cc.on_ack(&ack(2 * MSS));
        assert_eq!(cc.cwnd(), 3 * MSS);
    }

    #[test]
    fn a_loss_halves_what_was_in_flight() {
        let mut cc = established();
        (0..30).for_each(|_| cc.on_ack(&ack(MSS)));
        cc.on_loss_event(NOW, 36 * MSS, LossKind::FastRetransmit);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (18 * MSS, 18 * MSS));
        cc.on_ack(&Ack { in_recovery: true, ..ack(40 * MSS) });
        assert_eq!(cc.cwnd(), 18 * MSS, "no growth in recovery");
        cc.on_recovery_exit(NOW);
        assert_eq!(cc.cwnd(), 18 * MSS);
    }

    #[test]
    fn the_threshold_never_falls_below_two_segments() {
        let mut cc = established();
        cc.on_loss_event(NOW, MSS, LossKind::Ecn);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (2 * MSS, 2 * MSS));
    }

    #[test]
    fn a_timeout_starts_over_with_one_segment() {
        let mut cc = avoiding(20);
        cc.on_timeout(NOW, 20 * MSS);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (MSS, 10 * MSS));
        cc.on_ack(&ack(15 * MSS));
        assert_eq!(cc.cwnd(), 2 * MSS, "one segment an ACK after a timeout");
    }

    #[test]
    fn the_second_timeout_in_a_row_keeps_the_threshold() {
        let mut cc = avoiding(20);
        cc.on_timeout(NOW, 20 * MSS);
        cc.on_timeout(NOW, MSS);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (MSS, 10 * MSS));
        cc.on_ack(&ack(MSS));
        cc.on_timeout(NOW, 2 * MSS);
        assert_eq!(cc.ssthresh(), 2 * MSS, "after progress it is a new loss");
    }

    #[test]
    fn a_spurious_timeout_or_loss_is_taken_back() {
        for spurious in [NewReno::on_timeout, |cc: &mut NewReno, now, bytes| {
            cc.on_loss_event(now, bytes, LossKind::FastRetransmit);
        }] {
            let mut cc = avoiding(20);
            spurious(&mut cc, NOW, 12 * MSS);
            assert!(cc.cwnd() < 20 * MSS);
            cc.undo(NOW);
            assert_eq!((cc.cwnd(), cc.ssthresh()), (20 * MSS, 20 * MSS));
            cc.on_timeout(NOW, 20 * MSS);
            cc.on_timeout(NOW, MSS);
            cc.undo(NOW);
            assert_eq!(cc.cwnd(), 20 * MSS, "timeouts in a row are one event");
            cc.undo(NOW);
            assert_eq!(cc.cwnd(), 20 * MSS, "nothing left to take back");
        }
    }

    #[test]
    fn an_application_that_sends_little_earns_no_window() {
        let mut cc = established();
        cc.on_ack(&Ack { is_app_limited: true, ..ack(5 * MSS) });
        assert_eq!(cc.cwnd(), 10 * MSS);
    }

    #[test]
    fn after_idling_the_window_is_at_most_the_initial_one() {
        let mut cc = avoiding(50);
        cc.on_idle_restart(NOW);
        assert_eq!((cc.cwnd(), cc.ssthresh()), (10 * MSS, 50 * MSS));
        let mut small = avoiding(4);
        small.on_idle_restart(NOW);
        assert_eq!(small.cwnd(), 4 * MSS);
    }

    #[test]
    fn a_lost_syn_means_one_segment() {
        let mut cc = NewReno::new();
        cc.on_handshake_loss();
        cc.on_established(NOW, MSS);
        assert_eq!(cc.cwnd(), MSS);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Ack { bytes: u32, in_recovery: bool },
        Loss(u32),
        Exit,
        Timeout(u32),
        Idle,
        Undo,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (any::<u32>(), any::<bool>()).prop_map(|(bytes, in_recovery)| Event::Ack { bytes, in_recovery }),
            1 => any::<u32>().prop_map(Event::Loss),
            1 => Just(Event::Exit),
            1 => any::<u32>().prop_map(Event::Timeout),
            1 => Just(Event::Idle),
            1 => Just(Event::Undo),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: at least one segment, at most the largest window, no overflow.
        #[test]
        fn the_window_keeps_its_bounds(events in prop::collection::vec(event(), 0..200), mss in 1u32..65_536) {
            let mut cc = NewReno::new();
            cc.on_established(NOW, mss);
            for event in events {
                let before = cc.cwnd();
                match event {
                    Event::Ack { bytes, in_recovery } => {
                        cc.on_ack(&Ack { in_recovery, mss, ..ack(bytes) });
                        prop_assert!(cc.cwnd() >= before);
                        prop_assert!(u64::from(cc.cwnd()) <= u64::from(before) + u64::from(bytes.max(mss)));
                    }
                    Event::Loss(in_flight) => cc.on_loss_event(NOW, in_flight.min(cc.cwnd()), LossKind::FastRetransmit),
                    Event::Exit => cc.on_recovery_exit(NOW),
                    Event::Timeout(in_flight) => cc.on_timeout(NOW, in_flight.min(cc.cwnd())),
                    Event::Idle => cc.on_idle_restart(NOW),
                    Event::Undo => cc.undo(NOW),
                }
                prop_assert!((mss..=CWND_MAX).contains(&cc.cwnd()));
                prop_assert!(cc.ssthresh() >= 2 * mss);
            }
        }
    }
}
