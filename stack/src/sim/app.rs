//! Applications of the simulator: state machines on the shard's poll-style calls, run when their waker is woken or their
//! time has come. A wake-up that the stack forgets therefore shows as an application that is stuck.

use core::task::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::dice::Dice;
use crate::shard::Shard;
use crate::time::Instant;

/// What an application wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// To be run when its waker is woken.
    Wait,
    /// To be run at this time, or when its waker is woken, whichever comes first.
    Sleep(Instant),
    /// Nothing: it is finished and is dropped.
    Done,
}

/// An application on one shard of a host.
pub trait App {
    /// Goes as far as it can at this time.
    fn run(&mut self, cx: &mut Context<'_>) -> Next;

    /// One line for the report of a stuck run: who it is and what it waits for.
    fn describe(&self) -> String;
}

/// What an application has at hand while it runs.
pub struct Context<'a> {
    /// Virtual time.
    pub now: Instant,
    /// The shard it lives on.
    pub shard: &'a mut Shard,
    /// To hand to poll-style calls.
    pub waker: &'a Waker,
    /// Random numbers of the host's applications.
    pub dice: &'a mut Dice,
    /// Applications to start on the same shard.
    pub spawned: &'a mut Vec<Box<dyn App>>,
}

/// Notes that an application was woken.
#[derive(Debug)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    /// A raised flag: a new application runs once by itself.
    pub fn raised() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Lowers the flag; returns whether it was raised.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
