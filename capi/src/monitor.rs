//! The one lock, and who may move the virtual clock.
//!
//! The runner has a thread that drives the clock (it asks for the time, sleeps and waits for packets) and one that blocks in
//! socket calls. Nothing of the outside world's timing may show, so whenever something has happened, the driving thread
//! waits until every blocked call has looked at it; and when a call returns, the clock stands still until that thread has
//! asked for the time, so that it reads the instant at which the call became ready.
//!
//! A call that blocks in the driving thread itself moves the clock on to the next thing that happens.

use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::{self, ThreadId};

use bywash::time::{Duration, Instant};

use crate::errno::Errno;
use crate::sockets::World;

/// Real time for which the clock waits for a thread that has returned to ask for the time, should it never do so.
const RETURN_PATIENCE: Duration = Duration::from_millis(200);

static MONITOR: LazyLock<Monitor> = LazyLock::new(|| Monitor {
    shared: Mutex::new(Shared { world: World::new(""), threads: Threads::default() }),
    wake: Condvar::new(),
    settled: Condvar::new(),
});

struct Monitor {
    shared: Mutex<Shared>,
    /// Something happened: blocked calls look again.
    wake: Condvar,
    /// A blocked call has looked, or a returned thread has asked for the time.
    settled: Condvar,
}

struct Shared {
    world: World,
    threads: Threads,
}

// SAFETY: the engine's reference counts are not atomic, so it may not be used by two threads at once. All of it lies behind
// `MONITOR`'s mutex, no reference count or handle leaves it (calls give plain numbers and copied bytes), and nothing in it is
// tied to the thread that made it.
unsafe impl Send for Shared {}

#[derive(Default)]
struct Threads {
    /// The thread that drives the clock.
    driver: Option<ThreadId>,
    /// Counts what has happened.
    generation: u64,
    waiting: Vec<Waiting>,
    /// Woken threads that have not yet asked for the time.
    returning: Vec<ThreadId>,
}

struct Waiting {
    thread: ThreadId,
    /// The generation it has looked at.
    seen: u64,
    deadline: Option<Instant>,
}

type Guard = MutexGuard<'static, Shared>;

/// Begins anew; the calling thread drives the clock until another one does.
pub(crate) fn reset(flags: &str) {
    let mut shared = lock();
    shared.world = World::new(flags);
    shared.threads.driver = Some(thread::current().id());
    shared.threads.returning.clear();
    drop(happened(shared));
}

/// A call that does not block.
pub(crate) fn call<R>(act: impl FnOnce(&mut World) -> R) -> R {
    let mut shared = lock();
    let result = act(&mut shared.world);
    drop(happened(shared));
    result
}

/// A call that tries until it is ready, or for `limit` of virtual time: `late` is its error then. A zero limit does not
/// block at all.
pub(crate) fn block<T>(
    limit: Option<Duration>,
    late: Errno,
    mut attempt: impl FnMut(&mut World) -> Poll<Result<T, Errno>>,
) -> Result<T, Errno> {
    let mut shared = lock();
    let first = attempt(&mut shared.world);
    let deadline = limit.map(|limit| shared.world.stack.now + limit);
    shared = happened(shared);
    if let Poll::Ready(result) = first {
        return result;
    }
    if limit == Some(Duration::ZERO) {
        return Err(late);
    }
    let me = thread::current().id();
    if shared.threads.driver == Some(me) {
        return drive(shared, deadline, late, attempt);
    }
    let seen = shared.threads.generation;
    shared.threads.waiting.push(Waiting { thread: me, seen, deadline });
    loop {
        shared = MONITOR.wake.wait(shared).unwrap_or_else(PoisonError::into_inner);
        let generation = shared.threads.generation;
        if shared.threads.waiting(me).is_none_or(|waiting| waiting.seen == generation) {
            continue;
        }
        let result = attempt_now(&mut shared, deadline, late, &mut attempt);
        match result {
            Poll::Pending => {
                if let Some(waiting) = shared.threads.waiting(me) {
                    waiting.seen = generation;
                }
                MONITOR.settled.notify_all();
            }
            Poll::Ready(result) => {
                shared.threads.waiting.retain(|waiting| waiting.thread != me);
                shared.threads.returning.push(me);
                // Others may wait for what this call did; whoever is waiting for all to have looked waits for them, too.
                shared.threads.generation += 1;
                MONITOR.wake.notify_all();
                MONITOR.settled.notify_all();
                return result;
            }
        }
    }
}

/// The clock, in microseconds since its origin, `tick` later than before. A thread that has just returned from a blocked
/// call gets the time at which it was woken.
pub(crate) fn time_us(tick: Duration) -> u64 {
    let mut shared = lock();
    let me = thread::current().id();
    if shared.threads.returning.contains(&me) {
        shared.threads.returning.retain(|thread| *thread != me);
        MONITOR.settled.notify_all();
        return shared.world.stack.now.as_micros();
    }
    let target = shared.world.stack.now + tick;
    advance(shared, target).world.stack.now.as_micros()
}

/// A call begins: sysctls that were changed, and the device's MTU, have their effect on it.
pub(crate) fn refresh() {
    enter().world.refresh();
}

/// Lets `duration` pass.
pub(crate) fn sleep(duration: Duration) {
    let mut shared = enter();
    shared.threads.driver = Some(thread::current().id());
    let target = shared.world.stack.now + duration;
    drop(advance(shared, target));
}

/// A packet of the peer arrives.
pub(crate) fn inject(ip: &[u8]) {
    let mut shared = hold(enter());
    shared.threads.driver = Some(thread::current().id());
    shared.world.refresh();
    shared.world.stack.inject(ip);
    drop(happened(shared));
}

/// The next packet that was sent, letting time pass until there is one, but at most for `patience`.
pub(crate) fn next_sent(patience: Duration) -> Option<(Instant, Vec<u8>)> {
    let mut shared = enter();
    shared.threads.driver = Some(thread::current().id());
    let end = shared.world.stack.now + patience;
    loop {
        shared = hold(shared);
        if let Some(sent) = shared.world.stack.take_sent() {
            return Some(sent);
        }
        let next = shared.next_event().filter(|next| *next <= end)?;
        shared = advance(shared, next);
    }
}

fn lock() -> Guard {
    MONITOR.shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lock where a call begins: a thread that makes another one has returned from its last. Within a call that blocked, the
/// clock stands still until the thread has asked for the time.
fn enter() -> Guard {
    let mut shared = lock();
    let me = thread::current().id();
    shared.threads.returning.retain(|thread| *thread != me);
    shared
}

/// Lets everybody see what has happened: sends what is to be sent and waits until all blocked calls have looked.
fn happened(mut shared: Guard) -> Guard {
    shared.world.settle();
    shared.threads.generation += 1;
    if shared.threads.waiting.is_empty() {
        return shared;
    }
    MONITOR.wake.notify_all();
    let behind = |shared: &mut Shared| {
        let generation = shared.threads.generation;
        shared.threads.waiting.iter().any(|waiting| waiting.seen != generation)
    };
    MONITOR.settled.wait_while(shared, behind).unwrap_or_else(PoisonError::into_inner)
}

/// Waits until threads that were woken have read the clock.
fn hold(shared: Guard) -> Guard {
    let me = thread::current().id();
    let returning = |shared: &mut Shared| shared.threads.returning.iter().any(|thread| *thread != me);
    let waited = MONITOR.settled.wait_timeout_while(shared, RETURN_PATIENCE, returning);
    let (mut shared, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
    if timeout.timed_out() {
        shared.threads.returning.clear();
    }
    shared
}

/// Moves the clock to `target`, stopping wherever something happens.
fn advance(mut shared: Guard, target: Instant) -> Guard {
    loop {
        shared = hold(shared);
        match shared.next_event().filter(|next| *next <= target) {
            Some(next) => {
                shared.world.stack.now = next.max(shared.world.stack.now);
                shared = happened(shared);
            }
            None => {
                shared.world.stack.now = target.max(shared.world.stack.now);
                return shared;
            }
        }
    }
}

/// A blocked call in the thread that should drive the clock: time goes on until it is ready. When nothing will ever happen,
/// it is a deadlock.
fn drive<T>(
    mut shared: Guard,
    deadline: Option<Instant>,
    late: Errno,
    mut attempt: impl FnMut(&mut World) -> Poll<Result<T, Errno>>,
) -> Result<T, Errno> {
    loop {
        let next = shared.next_event().into_iter().chain(deadline).min();
        let Some(next) = next else { return Err(Errno(libc::EDEADLK)) };
        shared = advance(shared, next);
        if let Poll::Ready(result) = attempt_now(&mut shared, deadline, late, &mut attempt) {
            return result;
        }
    }
}

fn attempt_now<T>(
    shared: &mut Shared,
    deadline: Option<Instant>,
    late: Errno,
    attempt: &mut impl FnMut(&mut World) -> Poll<Result<T, Errno>>,
) -> Poll<Result<T, Errno>> {
    let result = attempt(&mut shared.world);
    shared.world.settle();
    match result {
        Poll::Pending if deadline.is_some_and(|deadline| deadline <= shared.world.stack.now) => {
            Poll::Ready(Err(late))
        }
        result => result,
    }
}

impl Shared {
    /// When something happens next: in the engine, or the end of a blocked call's patience.
    fn next_event(&self) -> Option<Instant> {
        let now = self.world.stack.now;
        let deadlines = self.threads.waiting.iter().filter_map(|waiting| waiting.deadline);
        self.world.stack.next_deadline().into_iter().chain(deadlines).map(|at| at.max(now)).min()
    }
}

impl Threads {
    fn waiting(&mut self, thread: ThreadId) -> Option<&mut Waiting> {
        self.waiting.iter_mut().find(|waiting| waiting.thread == thread)
    }
}
