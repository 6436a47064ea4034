//! Operations of the timer wheel among 100,000 timers that are set, as connections set theirs: between 200 ms and two
//! hours away. smoltcp and lwIP have nothing to compare: both look at every connection to find what is due.

use bywash::time::{Duration, Instant};
use bywash::timer_wheel::{TimerId, TimerWheel};

/// Timers that are set.
pub const TIMERS: u32 = 100_000;

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A timer is set and taken out again; half of it is one operation.
    ArmAndCancel,
    /// A timer is moved to a later time.
    Rearm,
    /// A timer is set and fires, which includes its way down through the levels.
    ArmAndExpire,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ArmAndCancel, Self::Rearm, Self::ArmAndExpire];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ArmAndCancel => "timer-arm-and-cancel",
            Self::Rearm => "timer-rearm",
            Self::ArmAndExpire => "timer-arm-and-expire",
        }
    }
}

/// A wheel with timers.
pub struct Timers {
    wheel: TimerWheel<u32>,
    ids: Vec<TimerId>,
    now: Instant,
    next: usize,
    fired: Vec<u32>,
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Timers {
    /// The wheel.
    #[must_use]
    pub fn new() -> Self {
        let mut wheel = TimerWheel::new(Instant::ZERO);
        let far = |key: u32| Instant::from_millis(u64::from(key % 7_200_000) + 3_600_000);
        let ids = (0..TIMERS).map(|key| wheel.schedule(far(key), key)).collect();
        Self { wheel, ids, now: Instant::ZERO, next: 0, fired: Vec::new() }
    }

    /// Performs an operation `times` times; returns how many timers fired.
    #[inline(never)]
    pub fn run(&mut self, operation: Operation, times: u64) -> u64 {
        let mut fired = 0;
        for _ in 0..times {
            self.next = (self.next + 7919) % self.ids.len();
            let later = self.now + Duration::from_millis(200 + self.next as u64 % 128);
            match operation {
                Operation::ArmAndCancel => {
                    let id = self.wheel.schedule(later, 0);
                    self.wheel.cancel(id);
                }
                Operation::Rearm => {
                    let far = self.now + Duration::from_millis(3_600_000 + self.next as u64);
                    self.wheel.reschedule(self.ids[self.next], far);
                }
                Operation::ArmAndExpire => {
                    self.wheel.schedule(later, u32::MAX);
                    // One a millisecond: about 250 are under way.
                    self.now += Duration::from_millis(1);
                    self.wheel.advance(self.now, &mut self.fired);
                    fired += self.fired.drain(..).filter(|key| *key == u32::MAX).count() as u64;
                }
            }
        }
        fired
    }
}
