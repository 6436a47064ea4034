//! Timers of a shard's tasks: [`sleep`], [`sleep_until`], [`timeout`].
//!
//! A [`Sleep`] holds a deadline and the number of an entry in its thread's timers, nothing that belongs to a thread,
//! because hyper wants its timers `Send + Sync`. Moving a deadline back is lazy: the entry stays armed for the earlier
//! time and moves when that comes, so that a timer restarted for every request costs no tree operation.

use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};
use std::collections::BTreeSet;
use std::io;

use slab::Slab;

use super::{local, sys};
pub use crate::time::{Duration, Instant};

/// The present, as the runtime counts it: `CLOCK_MONOTONIC`.
#[must_use]
pub fn now() -> Instant {
    sys::monotonic()
}

/// Completes `duration` from now.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Completes at `deadline`, or at once when that is past.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, key: None }
}

/// Runs `future` for at most `duration` from now; dropping it (that is what happens at the deadline) cancels it. The
/// futures of this crate's sockets lose neither bytes nor connections when dropped.
pub fn timeout<F: Future>(duration: Duration, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    let mut sleep = sleep(duration);
    async move {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed(()))),
        })
        .await
    }
}

/// The time given to [`timeout`] was over first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the time limit was reached before the operation completed")]
pub struct Elapsed(());

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> Self {
        Self::new(io::ErrorKind::TimedOut, elapsed)
    }
}

/// Future of [`sleep`] and [`sleep_until`].
///
/// Polled on a thread that is not a shard's there is no timer to register with: it blocks that thread until the
/// deadline.
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    deadline: Instant,
    key: Option<Key>,
}

impl Sleep {
    /// When the sleep ends.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the end; a sleep that has ended begins anew.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(local) = local::current() else {
            std::thread::sleep(self.deadline.saturating_since(now()));
            return Poll::Ready(());
        };
        if self.deadline <= local.now() {
            self.cancel();
            return Poll::Ready(());
        }
        let key = local.timers.borrow_mut().set(self.key, self.deadline, cx.waker());
        self.key = Some(key);
        Poll::Pending
    }
}

impl Sleep {
    fn cancel(&mut self) {
        if let (Some(key), Some(local)) = (self.key.take(), local::current()) {
            // Inside a waker that `Timers` itself drops the entry is left to fire, which wakes nobody.
            let waker = local.timers.try_borrow_mut().ok().and_then(|mut timers| timers.cancel(key));
            drop(waker);
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Which entry of which thread's timers; stale keys are recognised by the generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    owner: u64,
    generation: u64,
    index: usize,
}

struct Entry {
    generation: u64,
    /// When the entry stands in the queue: at or before its deadline.
    armed: Instant,
    deadline: Instant,
    waker: Waker,
}

/// One thread's timers: as many as its tasks' sleeps, O(log n) each.
pub(super) struct Timers {
    owner: u64,
    generation: u64,
    entries: Slab<Entry>,
    queue: BTreeSet<(Instant, usize)>,
}

impl Timers {
    pub(super) fn new() -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        let owner = OWNERS.fetch_add(1, Ordering::Relaxed);
        Self { owner, generation: 0, entries: Slab::new(), queue: BTreeSet::new() }
    }

    /// Sets `key`'s timer, or a new one when there is no such timer (any more).
    pub(super) fn set(&mut self, key: Option<Key>, deadline: Instant, waker: &Waker) -> Key {
        let Some(key) = key.filter(|key| self.is_live(key)) else { return self.insert(deadline, waker) };
        let entry = &mut self.entries[key.index];
        entry.deadline = deadline;
        entry.waker.clone_from(waker);
        if deadline < entry.armed {
            self.queue.remove(&(entry.armed, key.index));
            entry.armed = deadline;
            self.queue.insert((deadline, key.index));
        }
        key
    }

    fn is_live(&self, key: &Key) -> bool {
        key.owner == self.owner
            && self.entries.get(key.index).is_some_and(|entry| entry.generation == key.generation)
    }

    fn insert(&mut self, deadline: Instant, waker: &Waker) -> Key {
        self.generation += 1;
        let generation = self.generation;
        let entry = Entry { generation, armed: deadline, deadline, waker: waker.clone() };
        let index = self.entries.insert(entry);
        self.queue.insert((deadline, index));
        Key { owner: self.owner, generation, index }
    }

    /// Removes `key`'s timer. Its waker is returned so that it is dropped outside any borrow.
    pub(super) fn cancel(&mut self, key: Key) -> Option<Waker> {
        self.is_live(&key).then(|| {
            let entry = self.entries.remove(key.index);
            self.queue.remove(&(entry.armed, key.index));
            if self.entries.is_empty() {
                self.entries.shrink_to_fit();
            }
            entry.waker
        })
    }

    /// Removes one timer whose deadline has come and returns its waker.
    pub(super) fn fire(&mut self, now: Instant) -> Option<Waker> {
        while let Some(&(armed, index)) = self.queue.first().filter(|&&(armed, _)| armed <= now) {
            self.queue.remove(&(armed, index));
            let entry = &mut self.entries[index];
            if entry.deadline <= now {
                return Some(self.entries.remove(index).waker);
            }
            entry.armed = entry.deadline;
            self.queue.insert((entry.armed, index));
        }
        None
    }

    /// When [`Timers::fire`] is next needed; may be early after a deadline was moved back.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queue.first().map(|&(armed, _)| armed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn timers_fire_in_order_and_not_before_their_deadline() {
        let mut timers = Timers::new();
        timers.set(None, at(20), Waker::noop());
        timers.set(None, at(10), Waker::noop());
        assert_eq!(timers.next_deadline(), Some(at(10)));
        assert!(timers.fire(at(9)).is_none());
        assert!(timers.fire(at(10)).is_some() && timers.fire(at(10)).is_none());
        assert_eq!(timers.next_deadline(), Some(at(20)));
    }

    #[test]
    fn a_deadline_moved_back_fires_at_the_later_time_only() {
        let mut timers = Timers::new();
        let key = timers.set(None, at(10), Waker::noop());
        assert_eq!(timers.set(Some(key), at(30), Waker::noop()), key);
        assert!(timers.fire(at(10)).is_none());
        assert_eq!(timers.next_deadline(), Some(at(30)));
        assert!(timers.fire(at(30)).is_some());
    }

    #[test]
    fn a_deadline_moved_forward_fires_at_the_earlier_time() {
        let mut timers = Timers::new();
        let key = timers.set(None, at(30), Waker::noop());
        timers.set(Some(key), at(10), Waker::noop());
        assert!(timers.fire(at(10)).is_some());
        assert!(timers.next_deadline().is_none());
    }

    #[test]
    fn keys_of_other_threads_and_of_fired_timers_touch_nothing() {
        let (mut timers, mut other) = (Timers::new(), Timers::new());
        let foreign = other.set(None, at(5), Waker::noop());
        let old = timers.set(None, at(5), Waker::noop());
        assert!(timers.cancel(foreign).is_none());
        timers.fire(at(5)).unwrap();
        let new = timers.set(None, at(7), Waker::noop());
        assert_eq!(new.index, old.index);
        assert!(timers.cancel(old).is_none());
        assert!(timers.cancel(new).is_some());
    }

    proptest! {
        /// Against a plain list of deadlines: what fires by a time is what was set and not cancelled by then.
        #[test]
        fn timers_agree_with_a_list(ops in proptest::collection::vec((0u8..3, 0usize..8, 0u64..50), 0..200)) {
            let mut timers = Timers::new();
            let mut keys: Vec<Option<Key>> = vec![None; 8];
            let mut model: Vec<Option<u64>> = vec![None; 8];
            let mut now = 0;
            for (op, slot, value) in ops {
                match op {
                    0 => {
                        let deadline = now + 1 + value;
                        let key = keys[slot].filter(|_| model[slot].is_some());
                        keys[slot] = Some(timers.set(key, at(deadline), Waker::noop()));
                        model[slot] = Some(deadline);
                    }
                    1 => {
                        let cancelled = keys[slot].is_some_and(|key| timers.cancel(key).is_some());
                        prop_assert_eq!(cancelled, model[slot].take().is_some());
                    }
                    _ => {
                        now += value / 5;
                        let fired = core::iter::from_fn(|| timers.fire(at(now))).count();
                        let due = model.iter_mut().filter(|deadline| deadline.is_some_and(|at| at <= now));
                        prop_assert_eq!(fired, due.map(Option::take).count());
                    }
                }
                let earliest = model.iter().flatten().min().copied();
                prop_assert_eq!(timers.next_deadline().is_some(), earliest.is_some());
                prop_assert!(timers.next_deadline().is_none_or(|next| next <= at(earliest.unwrap())));
            }
            prop_assert_eq!(timers.entries.len(), timers.queue.len());
        }
    }
}
