//! The largest value of the last so many rounds, in constant space: the best three samples of the window are kept, each
//! newer than the one before, as in Kathleen Nichols' windowed filter that the draft refers to.

/// A maximum over a sliding window. Times are counts that do not go back, modulo 2^32.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MaxFilter {
    /// Time and value, best first, each of the others the best since it.
    best: [(u32, u32); 3],
}

impl MaxFilter {
    /// The maximum at the last update.
    pub(super) const fn get(&self) -> u32 {
        self.best[0].1
    }

    /// Takes `value` in at `now` and forgets what is older than `window`.
    pub(super) fn update(&mut self, window: u32, now: u32, value: u32) {
        let sample = (now, value);
        if value >= self.best[0].1 || now.wrapping_sub(self.best[2].0) > window {
            self.best = [sample; 3];
            return;
        }
        if value >= self.best[1].1 {
            (self.best[1], self.best[2]) = (sample, sample);
        } else if value >= self.best[2].1 {
            self.best[2] = sample;
        }
        self.age(window, sample);
    }

    /// Lets the best go when it is too old, and renews the others when too much of the window passed without a better
    /// one, so that there is a successor.
    fn age(&mut self, window: u32, sample: (u32, u32)) {
        let age = sample.0.wrapping_sub(self.best[0].0);
        if age > window {
            self.best = [self.best[1], self.best[2], sample];
            if sample.0.wrapping_sub(self.best[0].0) > window {
                self.best = [self.best[1], self.best[2], sample];
            }
        } else if self.best[1].0 == self.best[0].0 && age > window / 4 {
            (self.best[1], self.best[2]) = (sample, sample);
        } else if self.best[2].0 == self.best[1].0 && age > window / 2 {
            self.best[2] = sample;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_maximum_is_remembered_for_the_window_and_then_a_later_one_takes_over() {
        let mut filter = MaxFilter::default();
        filter.update(10, 1, 100);
        filter.update(10, 5, 70);
        filter.update(10, 11, 50);
        assert_eq!(filter.get(), 100);
        filter.update(10, 12, 50);
        assert_eq!(filter.get(), 70);
        filter.update(10, 40, 3);
        assert_eq!(filter.get(), 3);
    }

    proptest! {
        /// Never below the newest value, nor above the true maximum of the window; at a constant value it is that.
        #[test]
        fn it_is_between_the_newest_value_and_the_true_maximum(
            samples in prop::collection::vec((0u32..4, 0u32..1000), 1..100),
        ) {
            let (mut filter, mut now, mut seen) = (MaxFilter::default(), 0, Vec::new());
            for (step, value) in samples {
                now += step;
                seen.push((now, value));
                filter.update(10, now, value);
                let most = seen.iter().filter(|(at, _)| now - at <= 10).map(|(_, value)| *value).max().unwrap();
                prop_assert!((value..=most).contains(&filter.get()), "{value} {} {most}", filter.get());
            }
        }
    }
}
