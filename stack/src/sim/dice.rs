//! The simulator's random numbers: ChaCha8 from a 64-bit seed, one stream for each user, so that a draw more in one place
//! does not change another.

use core::ops::RangeInclusive;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::time::Duration;

/// A repeatable source of random numbers.
#[derive(Clone, Debug)]
pub struct Dice {
    rng: ChaCha8Rng,
}

impl Dice {
    /// The numbers of `stream` under `seed`: equal arguments give equal numbers.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { rng }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A secret for a stack's configuration.
    pub fn secret(&mut self) -> [u8; 32] {
        let mut secret = [0; 32];
        self.rng.fill_bytes(&mut secret);
        secret
    }

    /// True with `probability` (0.0 to 1.0; never at 0, always at 1).
    pub fn chance(&mut self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        f64::from(self.rng.next_u32()) < probability * 4_294_967_296.0
    }

    /// A number in `range`, both ends included; an empty range gives its start.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        match high.checked_sub(low) {
            None | Some(0) => low,
            Some(u64::MAX) => self.rng.next_u64(),
            Some(span) => low + self.rng.next_u64() % (span + 1),
        }
    }

    /// As [`Dice::range`], but small values as likely as large ones (uniform in the logarithm).
    pub fn scale(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        let bits = |x: u64| u64::from(64 - x.leading_zeros());
        let width = self.range(bits(low)..=bits(high));
        let (from, to) = if width == 0 {
            (0, 0)
        } else {
            (1 << (width - 1), (1u64 << (width - 1)) - 1 + (1 << (width - 1)))
        };
        self.range(from.max(low)..=to.min(high))
    }

    /// A time from zero to `most`.
    pub fn duration(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.range(0..=u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.range(0..=choices.len() as u64 - 1) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_and_streams_give_equal_numbers() {
        let draw = |seed, stream| Dice::new(seed, stream).bits();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn ranges_include_both_ends_and_nothing_else() {
        let mut dice = Dice::new(5, 0);
        let drawn: std::collections::BTreeSet<u64> = (0..500).map(|_| dice.range(3..=6)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert!((0..500).all(|_| (3..=6000).contains(&dice.scale(3..=6000))));
        assert_eq!(dice.scale(9..=9), 9);
    }

    #[test]
    fn chances_of_zero_and_one_are_certain() {
        let mut dice = Dice::new(5, 0);
        assert!((0..1000).all(|_| !dice.chance(0.0) && dice.chance(1.0)));
        let heads = (0..10_000).filter(|_| dice.chance(0.25)).count();
        assert!((2200..2800).contains(&heads), "{heads}");
    }
}
