//! Sequence numbers: 32 bits that wrap, so that "before" and "after" only mean something within half the space
//! (RFC 9293 section 3.4). The type has no `Ord` on purpose: `<` on sequence numbers is a bug.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A sequence number, compared modulo 2^32 only. The comparisons are right for numbers less than 2^31 apart, which
/// windows of at most 2^30 bytes (RFC 7323 section 2.3) guarantee.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// Whether `self` comes before `other`.
    #[must_use]
    pub const fn lt(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether `self` comes before `other` or is the same.
    #[must_use]
    pub const fn le(self, other: Self) -> bool {
        self.0 == other.0 || self.lt(other)
    }

    /// Whether `self` comes after `other`.
    #[must_use]
    pub const fn gt(self, other: Self) -> bool {
        other.lt(self)
    }

    /// Whether `self` comes after `other` or is the same.
    #[must_use]
    pub const fn ge(self, other: Self) -> bool {
        other.le(self)
    }

    /// Bytes from `earlier` to `self`, going upwards and wrapping.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `self` is one of the `len` numbers from `start` on. Right for any `len`.
    #[must_use]
    pub const fn in_window(self, start: Self, len: u32) -> bool {
        self.since(start) < len
    }

    /// The later of the two.
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if self.lt(other) { other } else { self }
    }

    /// The earlier of the two.
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        if other.lt(self) { other } else { self }
    }
}

impl Add<u32> for SeqNumber {
    type Output = Self;
    fn add(self, len: u32) -> Self {
        Self(self.0.wrapping_add(len))
    }
}

impl AddAssign<u32> for SeqNumber {
    fn add_assign(&mut self, len: u32) {
        *self = *self + len;
    }
}

impl Sub<u32> for SeqNumber {
    type Output = Self;
    fn sub(self, len: u32) -> Self {
        Self(self.0.wrapping_sub(len))
    }
}

impl fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seq {}", self.0)
    }
}

impl fmt::Display for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_survives_the_wrap() {
        let (before, after) = (SeqNumber(u32::MAX), SeqNumber(3));
        assert!(before.lt(after) && after.gt(before) && !after.lt(before));
        assert_eq!(after.since(before), 4);
        assert_eq!((before.max(after), before.min(after)), (after, before));
        assert_eq!(before + 4, after);
        assert_eq!(after - 4, before);
    }

    #[test]
    fn a_window_over_the_wrap_holds_its_numbers_only() {
        let start = SeqNumber(u32::MAX - 1);
        assert!(start.in_window(start, 1) && SeqNumber(1).in_window(start, 4));
        assert!(!SeqNumber(2).in_window(start, 4) && !(start - 1).in_window(start, 4));
        assert!(!start.in_window(start, 0));
    }

    proptest! {
        /// Two numbers less than half the space apart compare as their distance says, wherever they lie.
        #[test]
        fn order_follows_distance(start: u32, distance in 1u32..1 << 31) {
            let (a, b) = (SeqNumber(start), SeqNumber(start) + distance);
            prop_assert!(a.lt(b) && a.le(b) && b.gt(a) && b.ge(a));
            prop_assert!(!b.lt(a) && !b.le(a) && !a.gt(b) && !a.ge(b));
            prop_assert_eq!((a.max(b), b.max(a), a.min(b), b.min(a)), (b, b, a, a));
            prop_assert_eq!(b.since(a), distance);
            prop_assert_eq!(b - distance, a);
        }

        /// A number is equal to itself in every comparison.
        #[test]
        fn equality_is_neither_before_nor_after(start: u32) {
            let a = SeqNumber(start);
            prop_assert!(a.le(a) && a.ge(a) && !a.lt(a) && !a.gt(a));
            prop_assert_eq!(a.since(a), 0);
        }

        /// A window's members are exactly the numbers `start + i` with `i < len`.
        #[test]
        fn window_membership_is_distance(start: u32, offset: u32, len: u32) {
            prop_assert_eq!((SeqNumber(start) + offset).in_window(SeqNumber(start), len), offset < len);
        }
    }
}
