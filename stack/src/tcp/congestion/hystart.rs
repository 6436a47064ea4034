//! HyStart++ (RFC 9406): slow start that ends when round trips get longer, before the queue overflows, by way of five
//! rounds of conservative slow start (CSS) in which a shorter round trip takes the decision back.

use crate::time::Duration;

/// MIN_RTT_THRESH, microseconds (section 4.3).
const MIN_RTT_THRESH_US: u32 = 4_000;
/// MAX_RTT_THRESH, microseconds.
const MAX_RTT_THRESH_US: u32 = 16_000;
/// MIN_RTT_DIVISOR.
const MIN_RTT_DIVISOR: u32 = 8;
/// N_RTT_SAMPLE.
const N_RTT_SAMPLE: u8 = 8;
/// CSS_GROWTH_DIVISOR.
const CSS_GROWTH_DIVISOR: u32 = 4;
/// CSS_ROUNDS.
const CSS_ROUNDS: u8 = 5;
/// L for a sender that does not pace, segments: 64 KiB, which is what receivers merge before TCP sees it and acknowledge
/// at once. With the RFC's 8 slow start would add a fifth of a window a round trip towards them.
const L: u32 = 45;
/// No round-trip time yet.
const INFINITY: u32 = u32::MAX;

/// State of the initial slow start (section 4.2). Times in microseconds.
#[derive(Clone, Debug)]
pub(super) struct HyStart {
    /// windowEnd, as a count of bytes since the connection began.
    window_end: u64,
    /// lastRoundMinRTT.
    last_round_min_rtt: u32,
    /// currentRoundMinRTT.
    current_round_min_rtt: u32,
    /// cssBaselineMinRtt; [`INFINITY`] in standard slow start.
    css_baseline_min_rtt: u32,
    /// rttSampleCount, up to [`N_RTT_SAMPLE`].
    rtt_samples: u8,
    /// Rounds of CSS that ended.
    css_rounds: u8,
}

impl HyStart {
    pub(super) const fn new() -> Self {
        Self {
            window_end: 0,
            last_round_min_rtt: INFINITY,
            current_round_min_rtt: INFINITY,
            css_baseline_min_rtt: INFINITY,
            rtt_samples: 0,
            css_rounds: 0,
        }
    }

    /// What `acked` bytes add to the window: no more than L segments of them count unless pacing breaks up the burst, and
    /// a quarter of that in CSS.
    pub(super) fn growth(&self, acked: u32, mss: u32, is_paced: bool) -> u32 {
        let counted = if is_paced { acked } else { acked.min(mss.saturating_mul(L)) };
        if self.in_css() { counted / CSS_GROWTH_DIVISOR } else { counted }
    }

    /// Takes in an ACK in slow start after the window grew by it, or one that stands for `acks`, of which `rtt` is the shortest.
    /// `acked_to` and `sent_to` are SND.UNA and SND.NXT as counts of bytes. True when slow start is over: congestion avoidance
    /// follows.
    pub(super) fn on_ack(&mut self, acked_to: u64, sent_to: u64, rtt: Option<Duration>, acks: u32) -> bool {
        if acked_to >= self.window_end {
            self.window_end = sent_to;
            if self.start_round() {
                return true;
            }
        }
        if let Some(rtt) = rtt {
            let rtt = u32::try_from(rtt.as_micros()).unwrap_or(INFINITY - 1);
            self.current_round_min_rtt = self.current_round_min_rtt.min(rtt);
            let samples = u32::from(self.rtt_samples) + acks.max(1);
            self.rtt_samples = samples.min(u32::from(N_RTT_SAMPLE)) as u8;
        }
        if self.rtt_samples >= N_RTT_SAMPLE {
            self.judge_delay();
        }
        false
    }

    fn in_css(&self) -> bool {
        self.css_baseline_min_rtt != INFINITY
    }

    /// True when the last round of CSS is over.
    fn start_round(&mut self) -> bool {
        self.last_round_min_rtt = self.current_round_min_rtt;
        self.current_round_min_rtt = INFINITY;
        self.rtt_samples = 0;
        if self.in_css() {
            self.css_rounds += 1;
        }
        self.css_rounds >= CSS_ROUNDS
    }

    /// Enters CSS when this round's shortest round trip is longer than the last round's by the threshold, leaves it when
    /// it is shorter than the one that led there.
    fn judge_delay(&mut self) {
        if self.in_css() {
            if self.current_round_min_rtt < self.css_baseline_min_rtt {
                self.css_baseline_min_rtt = INFINITY;
                self.css_rounds = 0;
            }
        } else if self.last_round_min_rtt != INFINITY {
            let threshold =
                (self.last_round_min_rtt / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH_US, MAX_RTT_THRESH_US);
            if self.current_round_min_rtt >= self.last_round_min_rtt.saturating_add(threshold) {
                self.css_baseline_min_rtt = self.current_round_min_rtt;
                self.css_rounds = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    /// Rounds of ten segments, each acknowledged on its own.
    struct Script {
        hystart: HyStart,
        acked: u64,
    }

    impl Script {
        fn new() -> Self {
            Self { hystart: HyStart::new(), acked: 0 }
        }

        /// A round whose ACKs all measure `rtt_ms`; true when slow start ended with one of them.
        fn round(&mut self, rtt_ms: u64) -> bool {
            self.acks(10, rtt_ms)
        }

        fn acks(&mut self, count: u32, rtt_ms: u64) -> bool {
            (0..count).any(|_| {
                self.acked += u64::from(MSS);
                self.hystart.on_ack(
                    self.acked,
                    self.acked + 10 * u64::from(MSS),
                    Some(Duration::from_millis(rtt_ms)),
                    1,
                )
            })
        }
    }

    #[test]
    fn steady_round_trips_never_end_slow_start() {
        let mut script = Script::new();
        assert!((0..50).all(|_| !script.round(40)));
        assert!(!script.hystart.in_css());
    }

    #[test]
    fn an_increase_by_an_eighth_between_4_and_16_ms_enters_conservative_slow_start() {
        for (before, below, enough) in [(8, 11, 12), (40, 44, 45), (400, 415, 416)] {
            let mut script = Script::new();
            script.round(before);
            script.round(below);
            assert!(!script.hystart.in_css(), "{before} -> {below}");
            let mut script = Script::new();
            script.round(before);
            script.round(enough);
            assert!(script.hystart.in_css(), "{before} -> {enough}");
        }
    }

    #[test]
    fn eight_samples_are_needed() {
        let mut script = Script::new();
        script.round(40);
        script.acks(7, 60);
        assert!(!script.hystart.in_css());
        script.acks(1, 60);
        assert!(script.hystart.in_css());
    }

    #[test]
    fn one_short_round_trip_among_long_ones_keeps_slow_start() {
        let mut script = Script::new();
        script.round(40);
        script.acks(1, 40);
        script.acks(9, 100);
        assert!(!script.hystart.in_css());
    }

    #[test]
    fn five_rounds_the_partial_first_included_end_slow_start() {
        let mut script = Script::new();
        script.round(40);
        script.round(60);
        assert!(script.hystart.in_css());
        for round in 2..=5 {
            assert!(!script.round(60), "round {round}");
        }
        assert!(script.acks(1, 60), "the first ACK after the fifth round");
    }

    #[test]
    fn a_shorter_round_trip_in_css_resumes_slow_start() {
        let mut script = Script::new();
        script.round(40);
        script.round(60);
        script.round(60);
        script.acks(8, 41);
        assert!(!script.hystart.in_css());
        assert!((0..20).all(|_| !script.round(41)), "and what was counted of CSS is forgotten");
    }

    #[test]
    fn growth_is_bounded_unless_paced_and_a_quarter_in_css() {
        let mut script = Script::new();
        assert_eq!(script.hystart.growth(3 * MSS, MSS, false), 3 * MSS);
        assert_eq!(script.hystart.growth(100 * MSS, MSS, false), 45 * MSS);
        assert_eq!(script.hystart.growth(100 * MSS, MSS, true), 100 * MSS);
        script.round(40);
        script.round(60);
        assert_eq!(script.hystart.growth(100 * MSS, MSS, false), 45 * MSS / 4);
        assert_eq!(script.hystart.growth(100 * MSS, MSS, true), 25 * MSS);
    }

    #[test]
    fn acks_without_a_round_trip_time_decide_nothing() {
        let mut hystart = HyStart::new();
        for ack in 1..100 {
            assert!(!hystart.on_ack(ack * 1000, ack * 1000 + 9000, None, 1));
        }
        assert!(!hystart.in_css());
    }
}
