//! What an idle shard does: look again and again (spin), or sleep until the kernel wakes it. A wake-up takes tens of
//! microseconds from a packet's arrival, a look a fraction of one, but spinning takes the whole CPU.
//!
//! [`Spin::Adaptive`] decides as Linux's haltpoll governor does (drivers/cpuidle/governors/haltpoll.c): the time to spin
//! grows when work came soon after the thread had fallen asleep, so that spinning a little longer would have met it, and
//! shrinks when work stayed away longer than the bound. A busy request-response load is spun for; an idle server is not.
//! Nor is it spun for a while on a CPU that another thread wants: who has spun is put off for longer than who has slept.

use crate::limits;
use crate::time::{Duration, Instant};

/// What an idle shard does before it sleeps: the dial between latency and CPU time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Spin {
    /// Sleep at once: least CPU time.
    #[default]
    Off,
    /// Spin first, for as long as the pauses between bursts of work have lately made worthwhile: up to this long, and not
    /// at all while the pauses are longer, or for a second after another thread had to take the CPU from this one.
    Adaptive(Duration),
    /// Never sleep: least latency, and the whole CPU.
    Always,
}

/// One thread's decisions. All times are those at which its turns began; it reads no clock.
#[derive(Debug)]
pub(super) struct Idle {
    spin: Spin,
    /// How long to spin at present.
    budget: Duration,
    /// When the present pause began, with the first turn that found nothing; `None` while there is work.
    since: Option<Instant>,
    /// When the thread last fell asleep in this pause; `None` before.
    asleep: Option<Instant>,
    /// When the thread, spinning, last looked; `None` otherwise.
    looked: Option<Instant>,
    /// Until then there is no spinning, as the CPU is wanted by others.
    held: Instant,
}

/// What a part of a pause was spent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Spent {
    pub(super) spun: Duration,
    pub(super) slept: Duration,
    /// Another thread took the CPU from this one while it was spinning.
    pub(super) preempted: bool,
}

impl Idle {
    pub(super) fn new(spin: Spin) -> Self {
        Self { spin, budget: Duration::ZERO, since: None, asleep: None, looked: None, held: Instant::ZERO }
    }

    /// The turn that began `now` did something. Returns what is not yet counted of the pause before it.
    pub(super) fn worked(&mut self, now: Instant) -> Spent {
        let Some(since) = self.since else { return Spent::default() };
        let spent = self.spent(now);
        if spent.preempted {
            self.hold(now);
        } else if self.asleep.is_some()
            && let Spin::Adaptive(most) = self.spin
        {
            self.learn(now, now - since, most);
        }
        (self.since, self.asleep, self.looked) = (None, None, None);
        spent
    }

    /// The thread slept in a pause: to spin for longer would have paid, or to spin at all did not.
    fn learn(&mut self, now: Instant, pause: Duration, most: Duration) {
        if pause <= most {
            if now < self.held {
                return;
            }
            self.budget = (self.budget * 2).max(limits::SPIN_MIN).min(most);
        } else {
            self.budget /= 2;
            if self.budget < limits::SPIN_MIN {
                self.budget = Duration::ZERO;
            }
        }
    }

    /// The turn that began `now` found nothing: whether to look again at once.
    pub(super) fn spins(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let spins = match self.spin {
            Spin::Off => false,
            Spin::Adaptive(_) => now - since < self.budget && !self.preempted(now),
            Spin::Always => true,
        };
        if spins {
            self.looked = Some(now);
        }
        spins
    }

    /// Whether more time has passed since the last look than looks take.
    fn preempted(&self, now: Instant) -> bool {
        self.looked.is_some_and(|looked| now - looked > limits::SPIN_LOOK_MAX)
    }

    /// Sleeps rather than spins for some time.
    fn hold(&mut self, now: Instant) {
        self.budget = Duration::ZERO;
        self.held = now + limits::SPIN_HOLD;
    }

    /// The thread falls asleep after the turn that began `now`. Returns what is not yet counted of the pause.
    pub(super) fn sleeps(&mut self, now: Instant) -> Spent {
        self.since.get_or_insert(now);
        let spent = self.spent(now);
        if spent.preempted {
            self.hold(now);
        }
        (self.asleep, self.looked) = (Some(now), None);
        spent
    }

    /// What the thread did since the pause began or it last fell asleep.
    fn spent(&self, now: Instant) -> Spent {
        let preempted = self.preempted(now);
        let (spun, slept) = match (self.asleep, self.since) {
            (Some(asleep), _) => (Duration::ZERO, now - asleep),
            (None, Some(since)) => (now - since, Duration::ZERO),
            (None, None) => (Duration::ZERO, Duration::ZERO),
        };
        Spent { spun, slept, preempted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);

    /// A thread, and what its pauses cost.
    struct Thread {
        idle: Idle,
        now: Instant,
        spun: Duration,
        slept: Duration,
    }

    impl Thread {
        fn new(spin: Spin) -> Self {
            let now = Instant::from_micros(1000);
            Self { idle: Idle::new(spin), now, spun: Duration::ZERO, slept: Duration::ZERO }
        }

        fn spend(&mut self, spent: Spent) {
            self.spun += spent.spun;
            self.slept += spent.slept;
        }

        /// Nothing for `pause` after work, looking every microsecond while spinning; whether the thread slept.
        fn pause(&mut self, pause: Duration) -> bool {
            let (start, end) = (self.now, self.now + pause);
            let mut slept = false;
            while self.now < end {
                if self.idle.spins(self.now) {
                    self.now = (self.now + Duration::from_micros(1)).min(end);
                } else {
                    let spent = self.idle.sleeps(self.now);
                    self.spend(spent);
                    (slept, self.now) = (true, end);
                }
            }
            let spent = self.idle.worked(end);
            self.spend(spent);
            assert_eq!(self.now - start, pause);
            slept
        }
    }

    #[test]
    fn short_pauses_are_spun_through_after_a_few() {
        let mut thread = Thread::new(Spin::Adaptive(MOST));
        let slept = (0..20).filter(|_| thread.pause(Duration::from_micros(30))).count();
        assert!((1..=4).contains(&slept), "grows by doubling: slept {slept} times");
        assert!(!thread.pause(Duration::from_micros(30)));
    }

    #[test]
    fn long_pauses_are_slept_through_after_a_few() {
        let mut thread = Thread::new(Spin::Adaptive(MOST));
        (0..20).for_each(|_| _ = thread.pause(Duration::from_micros(45)));
        let spun = thread.spun;
        (0..100).for_each(|_| assert!(thread.pause(Duration::from_millis(5))));
        assert!(
            thread.spun - spun <= 2 * MOST,
            "100, 50, 25, ... percent of the bound: {:?}",
            thread.spun - spun
        );
    }

    #[test]
    fn a_pause_is_never_spun_for_longer_than_the_bound() {
        let mut thread = Thread::new(Spin::Adaptive(MOST));
        for micros in [49, 49, 49, 49, 49, 49, 49] {
            thread.pause(Duration::from_micros(micros));
        }
        let spun = thread.spun;
        assert!(thread.pause(Duration::from_secs(1)));
        assert_eq!(thread.spun - spun, MOST);
    }

    #[test]
    fn off_always_sleeps_and_always_never_does() {
        let mut off = Thread::new(Spin::Off);
        assert!((0..10).all(|_| off.pause(Duration::from_micros(3))));
        assert_eq!((off.spun, off.slept), (Duration::ZERO, Duration::from_micros(30)));
        let mut always = Thread::new(Spin::Always);
        assert!((0..10).all(|_| !always.pause(Duration::from_millis(1))));
        assert_eq!((always.spun, always.slept), (Duration::from_millis(10), Duration::ZERO));
    }

    #[test]
    fn every_moment_of_a_pause_is_counted_once() {
        let mut thread = Thread::new(Spin::Adaptive(MOST));
        let mut total = Duration::ZERO;
        for micros in [30, 30, 30, 80, 3, 500, 45, 45, 45, 45, 60] {
            thread.pause(Duration::from_micros(micros));
            total += Duration::from_micros(micros);
        }
        assert_eq!(thread.spun + thread.slept, total);
    }

    #[test]
    fn waking_for_nothing_does_not_end_the_pause() {
        let mut idle = Idle::new(Spin::Adaptive(MOST));
        idle.budget = MOST;
        assert!(idle.spins(Instant::ZERO));
        assert_eq!(idle.sleeps(Instant::from_micros(50)).spun, MOST);
        assert!(!idle.spins(Instant::from_micros(70)), "the pause is older than the budget");
        idle.sleeps(Instant::from_micros(70));
        let spent = idle.worked(Instant::from_micros(100));
        assert_eq!(spent.slept, Duration::from_micros(30));
        assert_eq!(idle.budget, MOST / 2, "100 microseconds, though in two sleeps");
    }

    #[test]
    fn a_cpu_that_others_want_is_not_spun_on_for_a_while() {
        let mut thread = Thread::new(Spin::Adaptive(MOST));
        (0..10).for_each(|_| _ = thread.pause(Duration::from_micros(30)));
        assert!(!thread.pause(Duration::from_micros(30)), "spinning");
        // A look, and the next one comes when the other thread's time is over.
        assert!(thread.idle.spins(thread.now));
        thread.now += Duration::from_millis(4);
        assert!(thread.idle.worked(thread.now).preempted);
        let until = thread.now + limits::SPIN_HOLD;
        while thread.now < until {
            assert!(thread.pause(Duration::from_micros(30)), "asleep, however short the pauses");
        }
        let slept = (0..20).filter(|_| thread.pause(Duration::from_micros(30))).count();
        assert!(slept < 5, "spinning again: slept {slept} times");
    }
}
