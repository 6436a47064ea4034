//! Timers of one shard: a hierarchical wheel with ticks of one millisecond. Setting, moving and cancelling a timer is
//! O(1); a timer is touched once for each level it falls through, at most 8 times, before it fires, and one call
//! moves no more than [`TIMER_CASCADE`] timers to finer levels.
//!
//! Level `l` has 64 slots of 64^l ticks. A timer lies on the level of the highest 6-bit digit in which its tick differs
//! from the wheel's, in the slot of that digit: all earlier slots of the level are then empty, and the first occupied
//! slot of the lowest occupied level holds the timer that is due next. Entries live in a slab and are linked in both
//! directions: 32 bytes for a timer with a key of 4, and 4 KiB for the slots.

use crate::limits::TIMER_CASCADE;
use crate::packet::prefetch;
use crate::time::Instant;

/// Nanoseconds in a tick.
const TICK_NANOS: u64 = 1_000_000;
/// Bits of a digit, that is log2 of the slots of a level.
const DIGIT_BITS: u32 = 6;
/// Slots of a level.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Enough digits for every tick that an [`Instant`] can name (2^64 ns are less than 2^45 ms).
const LEVELS: usize = 8;
/// End of a list.
const NIL: u32 = u32::MAX;
/// The slot number that marks an entry as free.
const FREE: u16 = u16::MAX;

/// A timer that was set. Stays distinct from later timers in the same place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

/// The wheel. `K` says whose timer it is.
#[derive(Debug)]
pub struct TimerWheel<K> {
    entries: Vec<Entry<K>>,
    /// First free entry.
    free: u32,
    /// How many timers are set.
    len: usize,
    /// Ticks before this one have been dealt with; no timer lies before it.
    tick: u64,
    /// Before this tick there is nothing to do, neither to fire nor to move nor to give back.
    idle_until: u64,
    generation: u32,
    /// The slot whose timers are being moved to finer levels; it may be empty.
    cascading: Option<u16>,
    /// One bit for each slot that is not empty, a word for each level.
    occupied: [u64; LEVELS],
    slots: Box<[List; SLOTS * LEVELS]>,
    /// Timers of the tick that is firing, kept for its allocation.
    firing: Vec<(Instant, K)>,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry<K> {
    at: Instant,
    prev: u32,
    next: u32,
    generation: u32,
    /// Level * [`SLOTS`] + slot, or [`FREE`].
    slot: u16,
    key: K,
}

impl<K: Copy> TimerWheel<K> {
    /// An empty wheel at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            entries: Vec::new(),
            free: NIL,
            len: 0,
            tick: now.as_nanos() / TICK_NANOS,
            idle_until: u64::MAX,
            generation: 0,
            cascading: None,
            occupied: [0; LEVELS],
            slots: Box::new([List { head: NIL, tail: NIL }; SLOTS * LEVELS]),
            firing: Vec::new(),
        }
    }

    /// Sets a timer that fires at the first `advance` at or after `at`, rounded up to a whole millisecond; a time that
    /// is past fires at the next `advance`. At most 2^32 - 1 timers fit.
    pub fn schedule(&mut self, at: Instant, key: K) -> TimerId {
        self.generation = self.generation.wrapping_add(1);
        let entry = Entry { at, prev: NIL, next: NIL, generation: self.generation, slot: FREE, key };
        let index = self.allocate(entry);
        self.len += 1;
        self.link(index);
        TimerId { index, generation: self.generation }
    }

    /// Takes a timer out and returns its key; `None` when it fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> Option<K> {
        let key = self.get(id)?.key;
        self.unlink(id.index);
        self.release(id.index);
        Some(key)
    }

    /// Moves a timer, earlier or later; it keeps its id. `false` when it fired or was cancelled before.
    pub fn reschedule(&mut self, id: TimerId, at: Instant) -> bool {
        if self.get(id).is_none() {
            return false;
        }
        self.unlink(id.index);
        self.entries[id.index as usize].at = at;
        self.link(id.index);
        true
    }

    /// Begins to load a timer that will be taken out soon into the cache.
    pub(crate) fn prefetch(&self, id: TimerId) {
        if let Some(entry) = self.entries.get(id.index as usize) {
            prefetch(entry);
        }
    }

    /// When a timer that is set fires; `None` when it fired or was cancelled before.
    #[must_use]
    pub fn deadline(&self, id: TimerId) -> Option<Instant> {
        self.get(id).map(|entry| entry.at)
    }

    /// Appends the keys of all timers due at `now` to `fired`, by the millisecond they were rounded up to, then by their
    /// exact time, then in an order that depends only on the calls made. A `now` before an earlier one fires nothing new.
    /// When more than [`TIMER_CASCADE`] timers are met at once, some that are due may be left for the next call, and
    /// [`TimerWheel::next_deadline`] is not after `now`.
    #[inline]
    pub fn advance(&mut self, now: Instant, fired: &mut Vec<K>) {
        let now = now.as_nanos() / TICK_NANOS;
        if now < self.idle_until {
            self.tick = self.tick.max(now);
        } else {
            self.advance_to(now, fired);
        }
    }

    fn advance_to(&mut self, now: u64, fired: &mut Vec<K>) {
        let mut budget = TIMER_CASCADE;
        while self.cascade(&mut budget) {
            let Some((level, slot, tick)) = self.next_slot().filter(|(.., tick)| *tick <= now) else {
                self.tick = self.tick.max(now);
                break;
            };
            debug_assert!(tick >= self.tick, "no timer lies before the wheel");
            self.tick = tick;
            if level == 0 {
                self.fire(slot, fired);
            } else {
                self.cascading = Some((level * SLOTS + slot) as u16);
            }
        }
        let done = self.shrink() && self.cascading.is_none();
        self.idle_until = if done { self.next_slot().map_or(u64::MAX, |(.., tick)| tick) } else { 0 };
    }

    /// A time not later than the earliest timer, and later than the last `advance` unless one is due: call `advance`
    /// then. It is exact for timers less than 64 ms away; before later ones there are at most 7 stops.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let cascading = self.cascading.is_some_and(|slot| self.slots[usize::from(slot)].head != NIL);
        if cascading {
            return Some(Instant::from_millis(self.tick));
        }
        self.next_slot().map(|(_, _, tick)| Instant::from_millis(tick))
    }

    /// How many timers are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<K>>()
            + self.firing.capacity() * size_of::<(Instant, K)>()
            + size_of_val(&*self.slots)
    }

    fn get(&self, id: TimerId) -> Option<&Entry<K>> {
        self.entries
            .get(id.index as usize)
            .filter(|entry| entry.slot != FREE && entry.generation == id.generation)
    }

    /// The slot with the earliest timers: level, slot and its first tick.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|bits| *bits != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = DIGIT_BITS * level as u32;
        // The digits above are the wheel's own, the ones below zero.
        let above = (self.tick >> shift >> DIGIT_BITS) << DIGIT_BITS;
        Some((level, slot as usize, (above | u64::from(slot)) << shift))
    }

    /// Fires the timers of one tick in the order of their exact times; the sort is stable.
    fn fire(&mut self, slot: usize, fired: &mut Vec<K>) {
        debug_assert!(self.firing.is_empty());
        self.occupied[0] &= !(1 << slot);
        let list = core::mem::replace(&mut self.slots[slot], List { head: NIL, tail: NIL });
        let mut index = list.head;
        while index != NIL {
            let entry = self.entries[index as usize];
            self.firing.push((entry.at, entry.key));
            self.release(index);
            index = entry.next;
        }
        self.firing.sort_by_key(|(at, _)| *at);
        fired.extend(self.firing.drain(..).map(|(_, key)| key));
    }

    /// Spreads the timers of the slot that the wheel has reached over the levels below. Whether all of them.
    fn cascade(&mut self, budget: &mut usize) -> bool {
        let Some(slot) = self.cascading else { return true };
        while self.slots[usize::from(slot)].head != NIL {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            let index = self.slots[usize::from(slot)].head;
            self.unlink(index);
            self.link(index);
        }
        self.cascading = None;
        true
    }

    /// Appends an entry to the slot that its time belongs in.
    fn link(&mut self, index: u32) {
        let at = self.entries[index as usize].at.as_nanos().div_ceil(TICK_NANOS).max(self.tick);
        let differing = (at ^ self.tick) | (SLOTS as u64 - 1);
        let level = ((u64::BITS - 1 - differing.leading_zeros()) / DIGIT_BITS) as usize;
        let slot = (at >> (DIGIT_BITS * level as u32)) as usize % SLOTS;
        let tail = core::mem::replace(&mut self.slots[level * SLOTS + slot].tail, index);
        match self.entries.get_mut(tail as usize) {
            Some(last) => last.next = index,
            None => self.slots[level * SLOTS + slot].head = index,
        }
        self.occupied[level] |= 1 << slot;
        let shift = DIGIT_BITS * level as u32;
        self.idle_until = self.idle_until.min(at >> shift << shift);
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next, entry.slot) = (tail, NIL, (level * SLOTS + slot) as u16);
    }

    /// Takes an entry out of its slot.
    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, slot, .. } = self.entries[index as usize];
        let list = &mut self.slots[usize::from(slot)];
        match self.entries.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => list.head = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(after) => after.prev = prev,
            None => list.tail = prev,
        }
        if list.head == NIL {
            self.occupied[usize::from(slot) / SLOTS] &= !(1 << (usize::from(slot) % SLOTS));
        }
    }

    fn allocate(&mut self, entry: Entry<K>) -> u32 {
        if self.free == NIL {
            assert!(self.entries.len() < NIL as usize, "at most 2^32 - 1 timers");
            self.entries.push(entry);
            return (self.entries.len() - 1) as u32;
        }
        let index = self.free;
        self.unlink_free(index);
        self.entries[index as usize] = entry;
        index
    }

    /// Puts an entry that is in no slot on the free list.
    fn release(&mut self, index: u32) {
        self.len -= 1;
        // The slab may shrink.
        self.idle_until = 0;
        if let Some(first) = self.entries.get_mut(self.free as usize) {
            first.prev = index;
        }
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next, entry.slot) = (NIL, self.free, FREE);
        self.free = index;
    }

    fn unlink_free(&mut self, index: u32) {
        let Entry { prev, next, .. } = self.entries[index as usize];
        match self.entries.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.free = next,
        }
        if let Some(after) = self.entries.get_mut(next as usize) {
            after.prev = prev;
        }
    }

    /// Gives memory back after a peak, a portion a call: free entries at the slab's end go, and the slab shrinks when it
    /// is three quarters empty. Entries in use do not move, so one timer at the end keeps the slab long. Whether it was the last
    /// portion.
    fn shrink(&mut self) -> bool {
        for _ in 0..TIMER_CASCADE {
            if self.entries.last().is_none_or(|entry| entry.slot != FREE) {
                break;
            }
            self.unlink_free(self.entries.len() as u32 - 1);
            self.entries.pop();
        }
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        if self.firing.capacity() > 64 {
            self.firing = Vec::new();
        }
        self.entries.last().is_none_or(|entry| entry.slot != FREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn fired(wheel: &mut TimerWheel<u32>, now: Instant) -> Vec<u32> {
        let mut keys = Vec::new();
        wheel.advance(now, &mut keys);
        keys
    }

    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Entry<u32>>() <= 32);
    }

    #[test]
    fn a_timer_fires_at_its_millisecond_and_not_before() {
        let mut wheel = TimerWheel::new(at(1000));
        wheel.schedule(at(1005), 1);
        assert_eq!(wheel.next_deadline(), Some(at(1005)));
        assert!(fired(&mut wheel, at(1005) - Duration::from_nanos(1)).is_empty());
        assert_eq!(fired(&mut wheel, at(1005)), [1]);
        assert!(wheel.is_empty() && wheel.next_deadline().is_none());
    }

    #[test]
    fn a_fraction_of_a_millisecond_is_rounded_up() {
        let mut wheel = TimerWheel::new(at(0));
        wheel.schedule(Instant::from_micros(2500), 1);
        assert!(fired(&mut wheel, Instant::from_micros(2999)).is_empty());
        assert_eq!(fired(&mut wheel, at(3)), [1]);
    }

    #[test]
    fn what_is_due_already_fires_at_once() {
        let mut wheel = TimerWheel::new(at(1000));
        assert!(fired(&mut wheel, at(2000)).is_empty());
        wheel.schedule(at(10), 1);
        wheel.schedule(at(2000), 2);
        assert_eq!(wheel.next_deadline(), Some(at(2000)));
        assert_eq!(fired(&mut wheel, at(2000)), [1, 2]);
    }

    #[test]
    fn within_a_millisecond_the_exact_times_give_the_order_then_the_calls() {
        let mut wheel = TimerWheel::new(at(0));
        for (us, key) in [(900, 1), (300, 2), (900, 3), (100, 4)] {
            wheel.schedule(Instant::from_micros(us), key);
        }
        assert_eq!(fired(&mut wheel, at(1)), [4, 2, 1, 3]);
    }

    #[test]
    fn hours_and_weeks_and_the_end_of_time_are_kept() {
        let mut wheel = TimerWheel::new(at(77));
        let (two_hours, month) = (2 * 3_600_000, 30 * 24 * 3_600_000);
        wheel.schedule(at(month), 2);
        wheel.schedule(at(two_hours), 1);
        wheel.schedule(Instant::FAR_FUTURE, 3);
        assert!(fired(&mut wheel, at(two_hours - 1)).is_empty());
        assert_eq!(fired(&mut wheel, at(two_hours)), [1]);
        assert!(fired(&mut wheel, at(month - 1)).is_empty());
        assert_eq!(fired(&mut wheel, at(month)), [2]);
        assert!(wheel.next_deadline().unwrap() > at(month));
        assert!(wheel.cancel(TimerId { index: 2, generation: 3 }).is_some());
    }

    #[test]
    fn sleeping_until_each_deadline_wakes_a_few_times_for_a_long_timer() {
        let mut wheel = TimerWheel::new(at(123_456_789));
        let due = at(123_456_789 + 7_200_000);
        wheel.schedule(due, 1);
        let mut wakes = 0;
        loop {
            let next = wheel.next_deadline().unwrap();
            assert!(next <= due);
            wakes += 1;
            if fired(&mut wheel, next) == [1] {
                assert_eq!(next, due);
                break;
            }
        }
        assert!(wakes <= LEVELS, "{wakes} wake-ups");
    }

    #[test]
    fn a_crowd_that_falls_a_level_at_once_is_moved_in_portions() {
        let mut wheel = TimerWheel::new(at(0));
        let crowd = 3 * TIMER_CASCADE as u32;
        let ids: Vec<_> = (0..crowd).map(|key| wheel.schedule(at(4096 + u64::from(key % 50)), key)).collect();
        let last_two = [ids[crowd as usize - 1], ids[crowd as usize - 2]];
        assert!(fired(&mut wheel, at(4096)).is_empty(), "two thirds still to be moved");
        assert_eq!(wheel.next_deadline(), Some(at(4096)));
        assert_eq!(wheel.cancel(last_two[0]), Some(crowd - 1));
        assert!(wheel.reschedule(last_two[1], at(4100)));
        let (mut calls, mut all) = (0, Vec::new());
        while wheel.next_deadline().is_some_and(|next| next <= at(4200)) {
            wheel.advance(at(4200), &mut all);
            calls += 1;
        }
        assert_eq!((calls, all.len()), (2, crowd as usize - 1));
        assert!(all.is_sorted_by_key(|key| if *key == crowd - 2 { 4 } else { key % 50 }));
    }

    #[test]
    fn an_old_id_touches_nobody_else_s_timer() {
        let mut wheel = TimerWheel::new(at(0));
        let old = wheel.schedule(at(1), 1);
        assert_eq!(fired(&mut wheel, at(1)), [1]);
        let new = wheel.schedule(at(5), 2);
        assert_eq!(wheel.cancel(old), None);
        assert!(!wheel.reschedule(old, at(9)));
        assert_eq!(wheel.deadline(old), None);
        assert_eq!(wheel.deadline(new), Some(at(5)));
        assert_eq!(wheel.cancel(new), Some(2));
        assert_eq!(wheel.cancel(new), None);
    }

    #[test]
    fn memory_is_given_back_after_a_peak() {
        let mut wheel = TimerWheel::new(at(0));
        let empty = wheel.memory();
        let ids: Vec<_> = (0..10_000u32).map(|key| wheel.schedule(at(u64::from(key)), key)).collect();
        assert!(wheel.memory() > empty + 10_000 * 24);
        for id in &ids[100..] {
            wheel.cancel(*id);
        }
        assert_eq!(fired(&mut wheel, at(200)).len(), 100);
        (0..3).for_each(|_| assert!(fired(&mut wheel, at(200)).is_empty()));
        assert!(wheel.memory() < empty + 64 * 32 * 4, "{} bytes", wheel.memory());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u64),
        Cancel(prop::sample::Index),
        Reschedule(prop::sample::Index, u64),
        Advance(u64),
        Sleep,
    }

    /// Nanoseconds from now: mostly short, some far.
    fn span() -> impl Strategy<Value = u64> {
        prop_oneof![
            0u64..3_000_000,
            0u64..300_000_000,
            0u64..100_000_000_000,
            0u64..40 * 86_400_000_000_000,
            Just(u64::MAX)
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => span().prop_map(Step::Schedule),
            1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            2 => (any::<prop::sample::Index>(), span()).prop_map(|(which, span)| Step::Reschedule(which, span)),
            2 => (0u64..40_000_000_000_000).prop_map(|span| Step::Advance(span / 1000)),
            1 => span().prop_map(|span| Step::Advance(span / 7)),
            4 => Just(Step::Sleep),
        ]
    }

    proptest! {
        /// Against a sorted map: the same timers fire at the same calls in the order of their milliseconds and times,
        /// and the wheel never sleeps past the earliest.
        #[test]
        fn fires_what_a_sorted_map_would(start in 0u64..1 << 60, steps in prop::collection::vec(step(), 1..150)) {
            let mut now = Instant::from_nanos(start);
            let mut wheel = TimerWheel::new(now);
            let mut ids: Vec<TimerId> = Vec::new();
            // Key (index in `ids`) to the tick it fires at and its exact time.
            let mut model: BTreeMap<u32, (u64, Instant)> = BTreeMap::new();
            let mut floor = now.as_nanos() / TICK_NANOS;
            let due = |at: Instant, floor: u64| (at.as_nanos().div_ceil(TICK_NANOS).max(floor), at);
            for step in steps {
                let mut target = None;
                match step {
                    Step::Schedule(span) => {
                        let at = now + Duration::from_nanos(span);
                        let key = ids.len() as u32;
                        ids.push(wheel.schedule(at, key));
                        model.insert(key, due(at, floor));
                    }
                    Step::Cancel(which) if !ids.is_empty() => {
                        let key = which.index(ids.len());
                        let expected = model.remove(&(key as u32)).map(|_| key as u32);
                        prop_assert_eq!(wheel.cancel(ids[key]), expected);
                    }
                    Step::Reschedule(which, span) if !ids.is_empty() => {
                        let key = which.index(ids.len());
                        let at = now + Duration::from_nanos(span);
                        let known = model.contains_key(&(key as u32));
                        prop_assert_eq!(wheel.reschedule(ids[key], at), known);
                        if known {
                            model.insert(key as u32, due(at, floor));
                        }
                    }
                    Step::Advance(span) => target = Some(now + Duration::from_nanos(span)),
                    Step::Sleep => target = wheel.next_deadline().map(|next| next.max(now)),
                    Step::Cancel(_) | Step::Reschedule(..) => {}
                }
                if let Some(target) = target {
                    now = target;
                    floor = now.as_nanos() / TICK_NANOS;
                    let mut expected: Vec<_> = model.iter()
                        .filter(|(_, (tick, _))| *tick <= floor).map(|(key, due)| (*due, *key)).collect();
                    expected.sort_unstable();
                    let mut keys = Vec::new();
                    wheel.advance(now, &mut keys);
                    let got: Vec<_> = keys.iter().map(|key| model.remove(key).unwrap()).collect();
                    prop_assert_eq!(got, expected.iter().map(|(due, _)| *due).collect::<Vec<_>>());
                }
                prop_assert_eq!(wheel.len(), model.len());
                prop_assert_eq!(wheel.entries.iter().filter(|entry| entry.slot != FREE).count(), model.len());
                let earliest = model.values().map(|(tick, _)| Instant::from_millis(*tick)).min();
                prop_assert_eq!(wheel.next_deadline().is_some(), earliest.is_some());
                prop_assert!(wheel.next_deadline() <= earliest);
            }
        }
    }
}
