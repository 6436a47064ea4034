//! Several tasks that wait for the same thing. The engine keeps one waker per listener or socket; `Waiters` is that
//! waker and wakes every task that waits, so that `accept` and `recv_from` may be called by any number of tasks.

use core::task::{Context, Poll, Waker};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

/// The tasks that wait. As many entries as there are futures waiting: each removes its own when it is dropped.
#[derive(Default)]
pub(in crate::runtime) struct Waiters(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    waiting: Vec<(u64, Waker)>,
}

impl Waiters {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all; they stay registered until their futures are done.
    pub(in crate::runtime) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.state().waiting.iter().map(|(_, waker)| waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(in crate::runtime) fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Waits until `poll` is ready. `poll` is called with the waker that stands for all tasks that wait here.
    pub(in crate::runtime) async fn wait<T>(self: &Arc<Self>, mut poll: impl FnMut(&Waker) -> Poll<T>) -> T {
        let mut place = Place { waiters: self, id: None };
        let all = Waker::from(Arc::clone(self));
        core::future::poll_fn(move |cx| {
            place.register(cx);
            let polled = poll(&all);
            if polled.is_ready() {
                place.remove();
            }
            polled
        })
        .await
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

/// One future's entry.
struct Place<'a> {
    waiters: &'a Waiters,
    id: Option<u64>,
}

impl Place<'_> {
    fn register(&mut self, cx: &Context<'_>) {
        let mut state = self.waiters.state();
        let place = self.id.and_then(|id| state.waiting.iter_mut().find(|(waiting, _)| *waiting == id));
        if let Some((_, waker)) = place {
            waker.clone_from(cx.waker());
            return;
        }
        let id = state.next;
        state.next += 1;
        state.waiting.push((id, cx.waker().clone()));
        self.id = Some(id);
    }

    fn remove(&mut self) {
        if let Some(id) = self.id.take() {
            let mut state = self.waiters.state();
            let index = state.waiting.iter().position(|&(waiting, _)| waiting == id);
            let waker = index.map(|index| state.waiting.swap_remove(index));
            drop(state);
            drop(waker);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use core::future::Future;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_event_wakes_every_future_that_waits_and_none_that_was_dropped() {
        let waiters = Arc::<Waiters>::default();
        let engine: RefCell<Option<Waker>> = RefCell::default();
        let ready = core::cell::Cell::new(false);
        let wait = || {
            waiters.wait(|waker| {
                *engine.borrow_mut() = Some(waker.clone());
                if ready.get() { Poll::Ready(()) } else { Poll::Pending }
            })
        };
        let counts: [Arc<Count>; 3] = Default::default();
        let [mut one, mut two] = [Box::pin(wait()), Box::pin(wait())];
        let wakers = counts.clone().map(Waker::from);
        assert!(one.as_mut().poll(&mut Context::from_waker(&wakers[0])).is_pending());
        assert!(two.as_mut().poll(&mut Context::from_waker(&wakers[1])).is_pending());
        let mut dropped = Box::pin(wait());
        assert!(dropped.as_mut().poll(&mut Context::from_waker(&wakers[2])).is_pending());
        drop(dropped);
        assert_eq!(waiters.state().waiting.len(), 2);
        engine.borrow_mut().take().unwrap().wake();
        assert_eq!(counts.map(|count| count.0.load(Ordering::Relaxed)), [1, 1, 0]);
        ready.set(true);
        assert!(one.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(two.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(waiters.is_empty());
    }
}
