//! Round-trip time and retransmission timeout (RFC 6298), and the smallest round trip of late (RFC 8985 section 6.2).
//! The engine gives it samples that Karn's algorithm allows (RFC 6298 section 3, or timestamps) and asks for the RTO.

use crate::time::{Duration, Instant};

/// Clock granularity G: timestamps count milliseconds (RFC 6298 section 2).
const GRANULARITY_US: u32 = 1_000;
/// Longest sample that is believed; longer ones count as this. The scaled sums below then fit 32 bits.
const SAMPLE_US_MAX: u32 = 256_000_000;
/// Half of the time for which a minimum is remembered; Linux's `tcp_min_rtt_wlen` is 300 s.
const MIN_RTT_HALF_WINDOW: Duration = Duration::from_secs(150);
/// The RTO that data starts with when the SYN had to be sent again (RFC 6298 section 5.7).
const RTO_AFTER_LOST_SYN_US: u32 = 3_000_000;
/// No sample yet.
const NONE: u32 = u32::MAX;

/// Smoothed RTT, its variation, and the RTO with its back-off. All times in microseconds.
#[derive(Clone, Debug)]
pub struct RttEstimator {
    /// SRTT * 8, or [`NONE`].
    srtt_8: u32,
    /// RTTVAR * 4.
    rttvar_4: u32,
    /// RTO before back-off, between `min_rto` and `max_rto`.
    rto: u32,
    min_rto: u32,
    max_rto: u32,
    /// Smallest sample since the half window before the present one began.
    min_rtt: u32,
    /// Smallest sample since the present half window began.
    min_rtt_next: u32,
    /// Whole seconds at which the present half window began.
    half_window_s: u32,
    /// How often the RTO is doubled.
    back_off: u8,
}

impl RttEstimator {
    /// No sample yet: the RTO is `initial_rto` (RFC 6298 section 2.1). `min_rto` bounds it from below, `max_rto` from
    /// above, back-off included; 0 < `min_rto` <= `max_rto`.
    #[must_use]
    pub fn new(initial_rto: Duration, min_rto: Duration, max_rto: Duration) -> Self {
        let min_rto = micros(min_rto).max(GRANULARITY_US);
        let max_rto = micros(max_rto).max(min_rto);
        Self {
            srtt_8: NONE,
            rttvar_4: 0,
            rto: micros(initial_rto).clamp(min_rto, max_rto),
            min_rto,
            max_rto,
            min_rtt: NONE,
            min_rtt_next: NONE,
            half_window_s: 0,
            back_off: 0,
        }
    }

    /// Takes a round-trip time (RFC 6298 sections 2.2 and 2.3) and ends the back-off.
    ///
    /// RTO is SRTT + max(4 * RTTVAR, `min_rto`), as in Linux, and not max(SRTT + 4 * RTTVAR, `min_rto`): it is never below
    /// what section 2 asks for, and a peer that delays an ACK by up to `min_rto` does not cause a timeout once the
    /// variation has died down on a steady path.
    /// RFC 7323 section 4.2.
    pub fn sample(&mut self, rtt: Duration) {
        self.sample_us(u64::from(micros(rtt)));
    }

    /// As [`RttEstimator::sample`], in microseconds.
    pub(super) fn sample_us(&mut self, rtt_us: u64) {
        let rtt = rtt_us.clamp(1, SAMPLE_US_MAX.into()) as u32;
        if self.srtt_8 == NONE {
            self.srtt_8 = rtt * 8;
            self.rttvar_4 = rtt * 2;
        } else {
            // RTTVAR += (|SRTT - R'| - RTTVAR) / 4 and SRTT += (R' - SRTT) / 8, with the fractions kept in the scale.
            let deviation = (self.srtt_8 / 8).abs_diff(rtt);
            self.rttvar_4 = self.rttvar_4 - self.rttvar_4 / 4 + deviation;
            self.srtt_8 = self.srtt_8 - self.srtt_8 / 8 + rtt;
        }
        let variance = self.rttvar_4.max(GRANULARITY_US).max(self.min_rto);
        self.rto = (self.srtt_8 / 8).saturating_add(variance).min(self.max_rto);
        self.back_off = 0;
        self.min_rtt = self.min_rtt.min(rtt);
        self.min_rtt_next = self.min_rtt_next.min(rtt);
    }

    /// Takes a round-trip time for the minimum only.
    pub fn note_min(&mut self, rtt: Duration) {
        self.note_min_us(u64::from(micros(rtt)));
    }

    /// As [`RttEstimator::note_min`], in microseconds.
    pub(super) fn note_min_us(&mut self, rtt_us: u64) {
        let rtt = rtt_us.clamp(1, SAMPLE_US_MAX.into()) as u32;
        self.min_rtt = self.min_rtt.min(rtt);
        self.min_rtt_next = self.min_rtt_next.min(rtt);
    }

    /// Lets an old minimum go: call it with any `now` now and then, before a sample for one. The minimum then covers
    /// between 150 and 300 seconds.
    pub fn age_min_rtt(&mut self, now: Instant) {
        if Self::goes_on(self.half_window_s, now) {
            return;
        }
        self.half_window_s = now.as_secs() as u32;
        if self.min_rtt_next != NONE {
            self.min_rtt = self.min_rtt_next;
            self.min_rtt_next = NONE;
        }
    }

    /// When the present half of the minimum's window began, in seconds that wrap.
    pub(super) fn half_window_s(&self) -> u32 {
        self.half_window_s
    }

    /// Whether a half of the minimum's window that began then goes on: [`RttEstimator::age_min_rtt`] changes nothing.
    #[inline]
    pub(super) fn goes_on(half_window_s: u32, now: Instant) -> bool {
        u64::from((now.as_secs() as u32).wrapping_sub(half_window_s)) < MIN_RTT_HALF_WINDOW.as_secs()
    }

    /// The retransmission timeout now, back-off included.
    #[must_use]
    pub fn rto(&self) -> Duration {
        Duration::from_micros(self.rto_us())
    }

    /// The retransmission timeout now, in microseconds.
    #[must_use]
    pub(super) fn rto_us(&self) -> u64 {
        (u64::from(self.rto) << self.back_off.min(31)).min(u64::from(self.max_rto))
    }

    /// The retransmission timeout without back-off.
    #[must_use]
    pub fn base_rto(&self) -> Duration {
        Duration::from_micros(u64::from(self.rto))
    }

    /// The bound on the RTO, back-off included.
    #[must_use]
    pub fn max_rto(&self) -> Duration {
        Duration::from_micros(u64::from(self.max_rto))
    }

    /// Doubles the RTO up to its bound (RFC 6298 section 5.5).
    /// RFC 9293 section 3.8.1, MUST-19.
    pub fn back_off(&mut self) {
        self.back_off = self.back_off.saturating_add(1);
    }

    /// How often the RTO is doubled now.
    #[must_use]
    pub fn backed_off(&self) -> u8 {
        self.back_off
    }

    /// Ends the back-off: an ACK made progress without giving a sample.
    pub fn reset_back_off(&mut self) {
        self.back_off = 0;
    }

    /// The SYN timed out: unless a sample came meanwhile, data starts with 3 seconds (RFC 6298 section 5.7).
    pub fn syn_was_lost(&mut self) {
        self.back_off = 0;
        if self.srtt_8 == NONE {
            self.rto = RTO_AFTER_LOST_SYN_US.clamp(self.min_rto, self.max_rto);
        }
    }

    /// Smoothed round-trip time; `None` before the first sample.
    #[must_use]
    pub fn srtt(&self) -> Option<Duration> {
        (self.srtt_8 != NONE).then(|| Duration::from_micros(u64::from(self.srtt_8 / 8)))
    }

    /// Smoothed round-trip time in microseconds.
    pub(super) fn srtt_us(&self) -> Option<u64> {
        (self.srtt_8 != NONE).then_some(u64::from(self.srtt_8 / 8))
    }

    /// Variation of the round-trip time; zero before the first sample.
    #[must_use]
    pub fn rttvar(&self) -> Duration {
        Duration::from_micros(u64::from(self.rttvar_4 / 4))
    }

    /// Smallest round-trip time of late (see [`RttEstimator::age_min_rtt`]); `None` before the first sample.
    #[must_use]
    pub fn min_rtt(&self) -> Option<Duration> {
        (self.min_rtt != NONE).then(|| Duration::from_micros(u64::from(self.min_rtt)))
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(NONE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn linux() -> RttEstimator {
        RttEstimator::new(MS(1000), MS(200), Duration::from_secs(120))
    }

    #[test]
    fn it_stays_small() {
        assert!(size_of::<RttEstimator>() <= 40);
    }

    #[test]
    fn before_a_sample_the_rto_is_the_initial_one() {
        let rtt = linux();
        assert_eq!((rtt.rto(), rtt.srtt(), rtt.min_rtt()), (MS(1000), None, None));
    }

    #[test]
    fn the_first_sample_sets_both_estimates() {
        let mut rtt = linux();
        rtt.sample(MS(100));
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(MS(100)), MS(50), MS(300)));
    }

    #[test]
    fn on_a_steady_path_the_rto_keeps_min_rto_above_the_rtt() {
        let mut rtt = linux();
        (0..200).for_each(|_| rtt.sample(MS(40)));
        assert_eq!(rtt.rto(), MS(240));
    }

    #[test]
    fn back_off_doubles_to_the_bound_and_a_sample_ends_it() {
        let mut rtt = linux();
        rtt.sample(MS(100));
        let doubled: Vec<u64> = (0..4)
            .map(|_| {
                rtt.back_off();
                rtt.rto().as_millis() as u64
            })
            .collect();
        assert_eq!(doubled, [600, 1200, 2400, 4800]);
        (0..1000).for_each(|_| rtt.back_off());
        assert_eq!(rtt.rto(), Duration::from_secs(120));
        rtt.sample(MS(100));
        assert!(rtt.rto() < MS(400));
        rtt.back_off();
        rtt.reset_back_off();
        assert_eq!(rtt.rto(), rtt.base_rto());
    }

    #[test]
    fn a_lost_syn_makes_data_start_with_three_seconds() {
        let mut rtt = linux();
        rtt.back_off();
        rtt.syn_was_lost();
        assert_eq!(rtt.rto(), MS(3000));
        rtt.sample(MS(10));
        rtt.syn_was_lost();
        assert_eq!(rtt.rto(), MS(210));
    }

    #[test]
    fn an_old_minimum_is_forgotten() {
        // RFC 8985 section 6.2.
        let mut rtt = linux();
        let mut now = Instant::from_millis(1_000_000);
        rtt.age_min_rtt(now);
        rtt.sample(MS(5));
        for _ in 0..2 {
            assert_eq!(rtt.min_rtt(), Some(MS(5)));
            now += Duration::from_secs(150);
            rtt.age_min_rtt(now);
            rtt.sample(MS(50));
        }
        assert_eq!(rtt.min_rtt(), Some(MS(50)));
    }

    #[test]
    fn a_pause_without_samples_keeps_the_minimum() {
        let mut rtt = linux();
        rtt.sample(MS(5));
        (1..10).for_each(|i| rtt.age_min_rtt(Instant::from_millis(i * 1_000_000)));
        assert_eq!(rtt.min_rtt(), Some(MS(5)));
    }

    proptest! {
        /// RFC 6298 sections 2.2 to 2.4 in floating point.
        #[test]
        fn follows_the_formulas(samples_us in prop::collection::vec(1u32..20_000_000, 1..200)) {
            let mut rtt = RttEstimator::new(MS(1000), MS(1), Duration::from_secs(3600));
            let (mut srtt, mut rttvar) = (0.0f64, 0.0f64);
            for (i, sample) in samples_us.iter().enumerate() {
                rtt.sample(Duration::from_micros(u64::from(*sample)));
                let r = f64::from(*sample);
                if i == 0 {
                    (srtt, rttvar) = (r, r / 2.0);
                } else {
                    rttvar = 0.75 * rttvar + 0.25 * (srtt - r).abs();
                    srtt = 0.875 * srtt + 0.125 * r;
                }
                let near = |duration: Duration, micros: f64, error: f64| (duration.as_micros() as f64 - micros).abs() <= error;
                prop_assert!(near(rtt.srtt().unwrap(), srtt, 2.0));
                prop_assert!(near(rtt.rttvar(), rttvar, 4.0));
                prop_assert!(near(rtt.rto(), srtt + (4.0 * rttvar).max(1000.0), 20.0));
            }
            let min = samples_us.iter().min().copied().map(|us| Duration::from_micros(u64::from(us)));
            prop_assert_eq!(rtt.min_rtt(), min);
        }

        /// The RTO stays inside its bounds whatever is fed in.
        #[test]
        fn the_rto_keeps_its_bounds(
            steps in prop::collection::vec(prop_oneof![Just(None), any::<u64>().prop_map(Some)], 0..100)
        ) {
            let mut rtt = linux();
            for step in steps {
                match step {
                    Some(us) => rtt.sample(Duration::from_micros(us)),
                    None => rtt.back_off(),
                }
                prop_assert!((MS(200)..=Duration::from_secs(120)).contains(&rtt.rto()));
            }
        }
    }
}
