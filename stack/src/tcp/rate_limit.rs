//! A token bucket: so many events a second with so large a burst. It limits challenge ACKs (RFC 5961 section 7) and
//! ICMP messages (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)). Integers only, so that it never drifts.

use crate::time::Instant;

/// Nano-tokens in a token: one nanosecond at one token a second is worth one.
const TOKEN: u64 = 1_000_000_000;

/// A token bucket. It starts full.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// What is in the bucket, in nano-tokens: `0 <= credit <= burst * TOKEN`.
    credit: u64,
    filled_at: Instant,
}

impl TokenBucket {
    /// `per_second` events a second in the long run (0: only the first burst), at most `burst` at once.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, credit: u64::from(burst) * TOKEN, filled_at: Instant::ZERO }
    }

    /// Takes a token if there is one; `false` means that the event must not happen. A `now` before an earlier one
    /// fills nothing.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        if self.credit < TOKEN {
            return false;
        }
        self.credit -= TOKEN;
        true
    }

    /// Whole tokens in the bucket at `now`.
    pub fn available(&mut self, now: Instant) -> u32 {
        self.fill(now);
        (self.credit / TOKEN) as u32
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.as_nanos().saturating_sub(self.filled_at.as_nanos());
        let earned = elapsed.saturating_mul(u64::from(self.per_second));
        self.credit = self.credit.saturating_add(earned).min(u64::from(self.burst) * TOKEN);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use proptest::prelude::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let mut bucket = TokenBucket::new(10, 3);
        let mut now = Instant::from_millis(5);
        assert_eq!((0..5).filter(|_| bucket.take(now)).count(), 3);
        now += Duration::from_millis(99);
        assert!(!bucket.take(now));
        now += Duration::from_millis(1);
        assert!(bucket.take(now) && !bucket.take(now));
    }

    #[test]
    fn a_long_pause_saves_no_more_than_the_burst() {
        let mut bucket = TokenBucket::new(u32::MAX, 2);
        assert!(bucket.take(Instant::ZERO));
        assert_eq!(bucket.available(Instant::FAR_FUTURE), 2);
    }

    #[test]
    fn time_that_goes_back_earns_nothing() {
        let mut bucket = TokenBucket::new(1, 1);
        assert!(bucket.take(Instant::from_millis(5000)));
        assert!(!bucket.take(Instant::ZERO));
        assert!(!bucket.take(Instant::from_millis(5999)));
        assert!(bucket.take(Instant::from_millis(6000)));
    }

    proptest! {
        /// However the calls fall, no more than burst + rate * time pass, and no less when always asked.
        #[test]
        fn never_more_than_rate_and_burst(
            per_second in 1u32..5000, burst in 1u32..100, steps in prop::collection::vec(0u64..50_000_000, 1..300)
        ) {
            let mut bucket = TokenBucket::new(per_second, burst);
            let (mut now, mut passed) = (Instant::ZERO, 0u128);
            for step in steps {
                now += Duration::from_nanos(step);
                while bucket.take(now) {
                    passed += 1;
                }
                let earned = u128::from(now.as_nanos()) * u128::from(per_second) / u128::from(TOKEN);
                prop_assert!(passed <= u128::from(burst) + earned);
            }
        }

        /// The rate is exact: fractions of a token are kept between calls.
        #[test]
        fn a_rate_below_the_burst_loses_no_fraction(per_second in 1u32..1000, step_us in 1u64..900) {
            let mut bucket = TokenBucket::new(per_second, 10);
            let (mut now, mut passed) = (Instant::ZERO, 0u64);
            for _ in 0..2000 {
                now += Duration::from_micros(step_us);
                passed += u64::from(bucket.take(now));
            }
            let earned = 2000 * step_us * u64::from(per_second) / 1_000_000;
            prop_assert!(passed >= earned && passed <= earned + 10);
        }
    }
}
