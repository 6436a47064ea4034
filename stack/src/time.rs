//! Time as the stack sees it: an [`Instant`] handed in by whoever drives the shard.
//!
//! The core reads no clock (rule 1 of the house), so an `Instant` is only a count of nanoseconds since an origin the
//! driver of the shard chose: the machine's monotonic clock in the runtime, zero in the simulator.

use core::fmt;
use core::num::NonZeroU64;
use core::ops::{Add, AddAssign, Sub};
pub use core::time::Duration;

/// A point in time, in nanoseconds since an arbitrary origin; 64 bits last for 584 years.
///
/// Kept as one more than that count, so that an `Option<Instant>` takes 8 bytes: connections have many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self(NonZeroU64::MIN);
    /// Later than any instant that occurs.
    pub const FAR_FUTURE: Self = Self(NonZeroU64::MAX);

    /// An instant `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// An instant `micros` microseconds after the origin.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self::from_nanos(micros.saturating_mul(1_000))
    }

    /// An instant `millis` milliseconds after the origin.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_nanos(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// Whole microseconds since the origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.as_nanos() / 1_000
    }

    /// Whole milliseconds since the origin.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.as_nanos() / 1_000_000
    }

    /// Whole microseconds from `earlier` to `self`, or zero when `earlier` is later.
    #[must_use]
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get()) / 1_000
    }

    /// Whole seconds since the origin.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.as_nanos() / 1_000_000_000
    }

    /// `micros` microseconds later, without the detour by a [`Duration`]; saturates as `+` does.
    #[must_use]
    pub const fn plus_micros(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros.saturating_mul(1_000)))
    }

    /// Time from `earlier` to `self`, or zero when `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

/// `Duration` in nanoseconds, clamped to 64 bits.
const fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos() as u64)
}

impl Add<Duration> for Instant {
    type Output = Self;
    /// Saturates at [`Instant::FAR_FUTURE`].
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    /// Saturates at [`Instant::ZERO`].
    fn sub(self, duration: Duration) -> Self {
        Self::from_nanos(self.as_nanos().saturating_sub(nanos(duration)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Saturates at zero.
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.as_nanos() / 1_000_000_000, self.as_nanos() % 1_000_000_000)
    }
}

impl From<Instant> for smoltcp::time::Instant {
    fn from(instant: Instant) -> Self {
        Self::from_micros(i64::try_from(instant.as_micros()).unwrap_or(i64::MAX))
    }
}

impl From<smoltcp::time::Instant> for Instant {
    fn from(instant: smoltcp::time::Instant) -> Self {
        Self::from_micros(u64::try_from(instant.total_micros()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_optional_instant_is_no_larger() {
        assert_eq!(size_of::<Option<Instant>>(), 8);
        assert_eq!(Instant::from_nanos(7).as_nanos(), 7);
        assert_eq!(Instant::default(), Instant::from_nanos(0));
    }

    #[test]
    fn what_avoids_durations_agrees_with_them() {
        let (early, late) = (Instant::from_nanos(1_999), Instant::from_nanos(3_000_004_998));
        assert_eq!(late.micros_since(early), (late - early).as_micros() as u64);
        assert_eq!(early.micros_since(late), 0);
        assert_eq!(early.plus_micros(7), early + Duration::from_micros(7));
        assert_eq!(Instant::FAR_FUTURE.plus_micros(1), Instant::FAR_FUTURE);
        assert_eq!((early.as_secs(), late.as_secs()), (0, 3));
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Instant::FAR_FUTURE + Duration::from_secs(1), Instant::FAR_FUTURE);
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::ZERO - Instant::from_millis(5), Duration::ZERO);
        assert_eq!(Instant::from_millis(5) - Instant::from_millis(2), Duration::from_millis(3));
    }
}
