//! Waking a shard's thread: a token that other threads set after they have left work for it, and an eventfd that they
//! write only when the thread sleeps or is about to.
//!
//! ```text
//!             rearm()                    prepare_sleep()
//! NOTIFIED ------------> AWAKE ------------------------------> SLEEPING
//!    ^                     |                                      |
//!    |      notify()       |                notify() + eventfd    |
//!    +---------------------+--------------------------------------+
//! ```
//!
//! No wake-up is lost: the producer publishes its work and then swaps the state to NOTIFIED; the shard swaps the state
//! back to AWAKE and then looks for work. All swaps of one atomic are in one order. If the producer's swap is before
//! the shard's, the shard's (acquire) sees what the producer's (release) published; if it is after, the state is
//! NOTIFIED and `prepare_sleep` fails, so that the shard looks again.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::task::Wake;

use super::sys::EventFd;

const AWAKE: u8 = 0;
const SLEEPING: u8 = 1;
const NOTIFIED: u8 = 2;

/// One shard's alarm clock. Written by any thread through [`Alarm::notify`], by the shard's own thread otherwise.
#[derive(Debug)]
pub(super) struct Alarm {
    state: AtomicU8,
    event: EventFd,
    /// Signals that were or will be given and are not yet cleared. The shard's thread alone has to do with it.
    owed: AtomicU64,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { state: AtomicU8::new(AWAKE), event: EventFd::new()?, owed: AtomicU64::new(0) })
    }

    /// Call after leaving work for the shard: it will look at it without delay.
    pub(super) fn notify(&self) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING {
            self.event.signal();
        }
    }

    /// Call before looking for work. The plain load may miss a notification that is being made; then `prepare_sleep`
    /// fails.
    pub(super) fn rearm(&self) {
        if self.state.load(Ordering::Relaxed) != AWAKE {
            self.state.swap(AWAKE, Ordering::AcqRel);
        }
    }

    /// Call after no work was found. Whether the thread may sleep on [`Alarm::fd`] now.
    #[must_use]
    pub(super) fn prepare_sleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Call after sleeping; returns whether [`Alarm::notify`] ended the sleep. A producer that has swapped the state
    /// but not yet written the eventfd makes the next sleep end early, which is harmless. After a sleep that a packet ended
    /// nobody has written the eventfd, and the syscall to read it is spared.
    pub(super) fn woke_up(&self) -> bool {
        let notified = self.state.swap(AWAKE, Ordering::AcqRel) == NOTIFIED;
        // Each swap from SLEEPING to NOTIFIED is followed by exactly one signal.
        let mut owed = self.owed.load(Ordering::Relaxed) + u64::from(notified);
        if owed > 0 {
            owed -= self.event.clear();
            self.owed.store(owed, Ordering::Relaxed);
        }
        notified
    }

    pub(super) fn fd(&self) -> RawFd {
        self.event.raw()
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::runtime::sys;
    use crate::time::Duration;

    /// The consumer sleeps whenever it finds nothing: after a lost wake-up nobody would end that sleep, as the
    /// producers fill the channel and wait, or are done.
    #[test]
    fn no_notification_is_lost_under_stress() {
        const PRODUCERS: u64 = 3;
        const ITEMS: u64 = 20_000;
        let alarm = Arc::new(Alarm::new().unwrap());
        let taken = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = crossbeam_channel::bounded::<u64>(PRODUCERS as usize);
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let (alarm, sender) = (Arc::clone(&alarm), sender.clone());
                std::thread::spawn(move || {
                    for item in 0..ITEMS {
                        sender.send(item).unwrap();
                        alarm.notify();
                        // Vary the distance between items so that the consumer is met in every state.
                        (0..(item * (producer + 1)) % 257).for_each(|_| core::hint::spin_loop());
                    }
                })
            })
            .collect();
        while taken.load(Ordering::Relaxed) < PRODUCERS * ITEMS {
            alarm.rearm();
            let found = receiver.try_iter().count() as u64;
            if found > 0 {
                taken.fetch_add(found, Ordering::Relaxed);
            } else if alarm.prepare_sleep() {
                sys::poll_readable(&[alarm.fd()], Some(Duration::from_secs(20))).unwrap();
                assert!(alarm.woke_up() || receiver.is_empty(), "a wake-up was lost");
            }
        }
        producers.into_iter().for_each(|producer| producer.join().unwrap());
    }

    /// As when the producer was held up between its swap and its write.
    #[test]
    fn a_signal_that_comes_late_ends_one_sleep_and_no_more() {
        let alarm = Alarm::new().unwrap();
        assert!(alarm.prepare_sleep());
        assert_eq!(alarm.state.swap(NOTIFIED, Ordering::AcqRel), SLEEPING);
        assert!(alarm.woke_up(), "a packet ended the sleep, and the swap is seen");
        alarm.event.signal();
        assert!(alarm.prepare_sleep());
        assert!(!alarm.woke_up(), "the signal ended the sleep");
        assert_eq!(alarm.event.clear(), 0, "and was cleared");
        assert_eq!(alarm.owed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_notification_before_sleep_forbids_sleep_once() {
        let alarm = Alarm::new().unwrap();
        alarm.notify();
        assert!(!alarm.prepare_sleep());
        alarm.rearm();
        assert!(alarm.prepare_sleep());
        alarm.notify();
        assert!(alarm.woke_up());
    }
}
