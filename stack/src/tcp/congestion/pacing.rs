//! Pacing: spreads what the window allows over the round trip. The engine asks before each segment whether it may go and
//! arms a timer if not; small bursts keep timers and wake-ups few.

use crate::time::{Duration, Instant};

/// Segments of a connection that are never paced: the initial window, as in Linux.
const FREE_SEGMENTS: u8 = 10;
/// Below this rate, 1.2 Mbit/s, bursts are single segments (draft-ietf-ccwg-bbr-02, BBRSetSendQuantum).
const SLOW_RATE: u64 = 150_000;
/// Largest burst, bytes.
const QUANTUM_MAX: u64 = 64 << 10;
/// How late a timer may be without the rate suffering.
const TIMER_GRANULARITY: Duration = Duration::from_millis(1);

/// Largest burst at `rate` bytes a second: a millisecond's worth, but two segments of `mss` bytes at least, or one where
/// two would be long.
#[must_use]
pub fn quantum(rate: u64, mss: u32) -> u32 {
    let floor = if rate < SLOW_RATE { mss } else { mss.saturating_mul(2) };
    ((rate / 1000).min(QUANTUM_MAX) as u32).max(floor)
}

/// Bytes a second at which an algorithm with a window only is paced, as Linux does it: twice the window a round trip in
/// slow start as long as that is far from its end, else 1.2 times. `in_flight` counts where it is more than `cwnd`.
#[must_use]
pub fn window_rate(cwnd: u32, ssthresh: u32, in_flight: u32, srtt: Duration) -> u64 {
    let percent = if cwnd < ssthresh / 2 { 200 } else { 120 };
    let micros = u64::try_from(srtt.as_micros()).unwrap_or(u64::MAX).max(1);
    u64::from(cwnd.max(in_flight)) * percent * 10_000 / micros
}

/// When the next segment of a connection may go.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// When what was sent is paid for by the rate.
    paid_at: Instant,
    /// What may still go in the burst that began before then, bytes.
    burst_left: u32,
    free_segments: u8,
}

impl Default for Pacer {
    fn default() -> Self {
        Self::new()
    }
}

impl Pacer {
    /// Nothing sent yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { paid_at: Instant::ZERO, burst_left: 0, free_segments: FREE_SEGMENTS }
    }

    /// When the next segment may go; `None`: now.
    #[must_use]
    pub fn earliest(&self, now: Instant) -> Option<Instant> {
        let may_go = self.free_segments > 0 || self.burst_left > 0 || self.paid_at <= now;
        (!may_go).then_some(self.paid_at)
    }

    /// A segment of `bytes` went out while the rate was `rate` bytes a second. A burst that begins late, because the
    /// timer was, gets that time credited: up to its own length, or to what a timer may be late.
    pub fn on_send(&mut self, now: Instant, bytes: u32, rate: u64) {
        if self.free_segments > 0 {
            self.free_segments -= 1;
            self.paid_at = now;
            return;
        }
        let time = |bytes: u32| Duration::from_nanos(u64::from(bytes) * 1_000_000_000 / rate.max(1));
        if self.burst_left == 0 || self.paid_at <= now {
            self.burst_left = quantum(rate, bytes);
            self.paid_at = self.paid_at.max(now - time(self.burst_left).max(TIMER_GRANULARITY));
        }
        self.burst_left = self.burst_left.saturating_sub(bytes);
        self.paid_at += time(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MSS: u32 = 1000;

    /// Sends whatever may go until `end`, waking up when told or up to `late` after; returns the bytes.
    fn drive(pacer: &mut Pacer, rate: u64, from: Instant, end: Instant, late: Duration) -> u64 {
        let (mut now, mut sent) = (from, 0);
        while now < end {
            match pacer.earliest(now) {
                None => {
                    pacer.on_send(now, MSS, rate);
                    sent += u64::from(MSS);
                }
                Some(next) => {
                    assert!(next > now);
                    now = next + late;
                }
            }
        }
        sent
    }

    #[test]
    fn it_takes_little_room() {
        assert!(size_of::<Pacer>() <= 16, "{}", size_of::<Pacer>());
    }

    #[test]
    fn the_first_ten_segments_go_at_once() {
        let mut pacer = Pacer::new();
        let now = Instant::from_millis(5);
        assert_eq!(drive(&mut pacer, 1000, now, now + Duration::from_nanos(1), Duration::ZERO), 11_000);
        assert_eq!(pacer.earliest(now), Some(now + Duration::from_secs(1)), "the eleventh is paced");
    }

    #[test]
    fn the_rate_is_kept_even_by_timers_that_are_late() {
        for rate in [20_000, 1_000_000, 12_500_000, 125_000_000] {
            for late in [Duration::ZERO, Duration::from_micros(900)] {
                let mut pacer = Pacer::new();
                let from = Instant::from_millis(1);
                let sent = drive(&mut pacer, rate, from, from + Duration::from_secs(10), late);
                let expected = 10 * rate;
                // The first ten segments and the last burst or two are on top.
                let slack = 11_000 + 3 * u64::from(quantum(rate, MSS));
                assert!(sent.abs_diff(expected) <= slack, "{rate} {late:?}: {sent}");
            }
        }
    }

    #[test]
    fn a_burst_is_a_millisecond_s_worth_or_two_segments() {
        assert_eq!(quantum(12_500_000, 1460), 12_500);
        assert_eq!(quantum(1_000_000, 1460), 2920);
        assert_eq!(quantum(100_000, 1460), 1460);
        assert_eq!(quantum(u64::MAX, 1460), 65_536);
    }

    #[test]
    fn silence_earns_no_more_than_two_bursts() {
        let mut pacer = Pacer::new();
        let rate = 12_500_000;
        let from = Instant::from_millis(1);
        drive(&mut pacer, rate, from, from + Duration::from_secs(1), Duration::ZERO);
        let later = from + Duration::from_secs(60);
        let burst = drive(&mut pacer, rate, later, later + Duration::from_nanos(1), Duration::ZERO);
        assert!(burst <= 2 * u64::from(quantum(rate, MSS)) + u64::from(2 * MSS), "{burst}");
    }

    #[test]
    fn windows_are_paced_above_their_rate() {
        let srtt = Duration::from_millis(100);
        assert_eq!(window_rate(10_000, u32::MAX, 0, srtt), 200_000);
        assert_eq!(window_rate(10_000, 15_000, 0, srtt), 120_000);
        assert_eq!(window_rate(10_000, 10_000, 20_000, srtt), 240_000);
        assert_eq!(window_rate(u32::MAX, u32::MAX, 0, Duration::ZERO), u64::from(u32::MAX) * 1_200_000);
    }

    proptest! {
        /// Any rate, size and time: no overflow, and what is not allowed now is allowed at the time it says.
        #[test]
        fn the_time_it_tells_is_right(steps in prop::collection::vec((0u64..1 << 40, any::<u32>(), any::<u64>()), 0..100)) {
            let (mut pacer, mut now) = (Pacer::new(), Instant::ZERO);
            for (time, bytes, rate) in steps {
                now += Duration::from_nanos(time);
                if let Some(next) = pacer.earliest(now) {
                    prop_assert!(next > now);
                    prop_assert_eq!(pacer.earliest(next), None);
                }
                pacer.on_send(now, bytes, rate);
            }
        }
    }
}
