//! What belongs to one shard's thread: the shard, its device, executor and timers. Tasks reach it through a
//! thread-local, so that futures and sockets hold only ids and fail cleanly when the runtime has gone.

use core::cell::{Cell, RefCell};
use core::net::IpAddr;
use core::task::Waker;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use async_executor::LocalExecutor;

use super::control::Shared;
use super::followers::Followers;
use super::metrics::{RuntimeCounters, ShardMetrics};
use super::net::waiters::Waiters;
use super::sys;
use super::time::Timers;
use crate::device::{Steering, WaitDevice};
use crate::shard::{Shard, SteeringChange};
use crate::tcp::{ListenerId, SocketOptions, State};
use crate::time::Instant;

/// Work that could not be done because the shard was in use further up the stack.
type Deferred = Box<dyn FnOnce(&mut Shard, Instant)>;

/// One shard's thread.
pub(super) struct Local {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    shard: RefCell<Shard>,
    device: RefCell<Box<dyn WaitDevice>>,
    pub(super) timers: RefCell<Timers>,
    /// `None` once the thread ends.
    executor: RefCell<Option<Rc<LocalExecutor<'static>>>>,
    now: Cell<Instant>,
    deferred: RefCell<Vec<Deferred>>,
    listeners: RefCell<Vec<(ListenerId, Arc<Waiters>)>>,
    /// Whether shutdown was asked for: listeners are closed and no new ones made.
    draining: Cell<bool>,
    /// Tasks that wait for the shutdown to begin.
    pub(super) shutdown_waiters: Arc<Waiters>,
    /// Tasks that wait for addresses to be configured.
    pub(super) address_waiters: Arc<Waiters>,
    pub(super) app_ended: Cell<bool>,
    /// Who is told of what happens to flows.
    pub(super) followers: Followers,
    pub(super) counters: RefCell<RuntimeCounters>,
    options: SocketOptions,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// The shard of this thread, if it has one.
pub(super) fn current() -> Option<Rc<Local>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// The shard of this thread, or an error that says what to do.
pub(super) fn required() -> io::Result<Rc<Local>> {
    current().ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, OffShard(())))
}

/// An operation that needs a shard was called on a thread that has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "this thread runs no shard: call this from the future given to Runtime::start or a task spawned there, or use \
     bywash::runtime::blocking or Handle::spawn_on from other threads"
)]
pub struct OffShard(pub(super) ());

/// The runtime a socket belongs to has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the runtime this socket belongs to has ended")]
pub(super) struct RuntimeGone;

pub(super) fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, RuntimeGone)
}

impl Local {
    pub(super) fn new(
        index: usize,
        shared: Arc<Shared>,
        shard: Shard,
        device: Box<dyn WaitDevice>,
        options: SocketOptions,
        now: Instant,
    ) -> Self {
        Self {
            index,
            shared,
            shard: RefCell::new(shard),
            device: RefCell::new(device),
            timers: RefCell::new(Timers::new()),
            executor: RefCell::new(Some(Rc::new(LocalExecutor::new()))),
            now: Cell::new(now),
            deferred: RefCell::default(),
            listeners: RefCell::default(),
            draining: Cell::new(false),
            shutdown_waiters: Arc::default(),
            address_waiters: Arc::default(),
            app_ended: Cell::new(false),
            followers: Followers::default(),
            counters: RefCell::default(),
            options,
        }
    }

    /// Makes this the thread's shard until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Entered {
        CURRENT.with(|current| current.replace(Some(Rc::clone(self))));
        Entered(())
    }

    /// The present as this turn of the loop sees it.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(super) fn set_now(&self, now: Instant) {
        self.now.set(now);
    }

    /// Calls `f` with the shard.
    ///
    /// # Errors
    /// When the shard is in use further up the stack, which happens only in a waker that calls a socket instead of
    /// waking a task.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Shard, Instant) -> R) -> io::Result<R> {
        let mut shard = self.shard.try_borrow_mut().map_err(|_| {
            io::Error::new(io::ErrorKind::Deadlock, "a waker called a socket; wakers must only wake tasks")
        })?;
        Ok(f(&mut shard, self.now()))
    }

    /// Calls `f` with the shard, now or, when it is in use further up the stack, later in this turn. For destructors.
    pub(super) fn release(&self, f: impl FnOnce(&mut Shard, Instant) + 'static) {
        match self.shard.try_borrow_mut() {
            Ok(mut shard) => f(&mut shard, self.now()),
            Err(_) => self.release_later(f),
        }
    }

    /// Calls `f` with the shard after the next burst was sent.
    pub(super) fn release_later(&self, f: impl FnOnce(&mut Shard, Instant) + 'static) {
        self.deferred.borrow_mut().push(Box::new(f));
    }

    /// Runs what was put off; returns whether there was anything.
    pub(super) fn run_deferred(&self) -> bool {
        let deferred = self.deferred.take();
        let any = !deferred.is_empty();
        for release in deferred {
            release(&mut self.shard.borrow_mut(), self.now());
        }
        any
    }

    /// The packet's journey, its first half: a burst in.
    pub(super) fn poll_receive(&self) -> bool {
        self.shard.borrow_mut().poll_receive(self.now(), &mut **self.device.borrow_mut())
    }

    /// Its second half: a burst out.
    pub(super) fn poll_transmit(&self) -> bool {
        self.shard.borrow_mut().poll_transmit(self.now(), &mut **self.device.borrow_mut())
    }

    /// Tells those who follow the flows what happened to them in this turn.
    pub(super) fn tell_followers(&self) {
        if !self.followers.is_empty() {
            self.followers.tell(self.index, &mut self.shard.borrow_mut(), self.now());
        }
    }

    /// When the shard or a timer is next due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let shard = self.shard.borrow_mut().next_deadline(self.now());
        let timer = self.timers.borrow().next_deadline();
        shard.into_iter().chain(timer).min()
    }

    pub(super) fn device_wait(&self, timeout: Option<crate::time::Duration>) -> io::Result<()> {
        self.device.borrow_mut().wait(self.shared.ports[self.index].alarm.fd(), timeout)
    }

    /// Makes the changes of the steering that wait, so that a socket opened next hears of its own errors only. Those of
    /// others are logged and counted.
    pub(super) fn settle_steering(&self) {
        let _ = self.apply_steering();
    }

    /// Tells the device what the shard's sockets opened and closed.
    ///
    /// # Errors
    /// The first change that the device refused; the others are made all the same.
    pub(super) fn apply_steering(&self) -> Result<(), SteeringError> {
        let changes = match self.shard.try_borrow_mut() {
            Ok(mut shard) => shard.take_steering_changes(),
            Err(_) => return Ok(()),
        };
        let mut result = Ok(());
        for change in changes {
            let mut device = self.device.borrow_mut();
            if let Err(source) = steer(device.steering(), change) {
                tracing::error!(shard = self.index, ?change, %source, "the steering refused a change");
                self.counters.borrow_mut().steering_errors += 1;
                result = result.and(Err(SteeringError { change, source }));
            }
        }
        result
    }

    /// The executor, until the thread ends.
    pub(super) fn executor(&self) -> Option<Rc<LocalExecutor<'static>>> {
        self.executor.borrow().clone()
    }

    /// Lets go of the executor: from now on nothing is spawned any more.
    pub(super) fn take_executor(&self) -> Option<Rc<LocalExecutor<'static>>> {
        self.executor.take()
    }

    /// One timer that is due.
    pub(super) fn fire_timer(&self) -> Option<Waker> {
        self.timers.borrow_mut().fire(self.now())
    }

    /// The options of sockets that ask for none.
    pub(super) fn socket_options(&self) -> SocketOptions {
        self.options.clone()
    }

    pub(super) fn addresses(&self) -> Vec<(IpAddr, u8)> {
        self.shard.try_borrow().map(|shard| shard.addresses()).unwrap_or_default()
    }

    /// Tells the tasks that wait for addresses when there are some.
    pub(super) fn check_addresses(&self) {
        if !self.address_waiters.is_empty() && self.is_configured() {
            self.address_waiters.wake_all();
        }
    }

    /// Whether DHCP, if asked for, has given an address.
    pub(super) fn is_configured(&self) -> bool {
        self.shard.try_borrow().is_ok_and(|shard| shard.dhcp_configured() != Some(false))
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Remembers a listener so that shutdown can close it.
    pub(super) fn add_listener(&self, id: ListenerId, waiters: Arc<Waiters>) {
        self.listeners.borrow_mut().push((id, waiters));
    }

    pub(super) fn remove_listener(&self, id: ListenerId) {
        self.listeners.borrow_mut().retain(|&(listener, _)| listener != id);
    }

    /// The first step of a shutdown: closes the listeners, tells the tasks.
    pub(super) fn begin_drain(&self) {
        self.draining.set(true);
        let _ = self.with(|shard, _| shard.stop_advertising());
        for (id, waiters) in self.listeners.take() {
            let _ = self.with(|shard, now| shard.tcp_close_listener(now, id));
            waiters.wake_all();
        }
        self.shutdown_waiters.wake_all();
    }

    /// Connections that are neither over nor in TIME-WAIT.
    pub(super) fn connections(&self) -> usize {
        let census = self.shard.borrow().tcp_ref().census();
        census.connections - census.ended + census.syn_received
    }

    /// Whether the application has ended and no connection is left but TIME-WAITs and ended ones that were read to their
    /// end: a task that goes on holding a dead stream is not waited for.
    pub(super) fn is_drained(&self) -> bool {
        self.app_ended.get() && self.shard.borrow().tcp_ref().is_quiet()
    }

    /// Aborts all connections; returns how many.
    pub(super) fn abort_connections(&self) -> usize {
        let mut shard = self.shard.borrow_mut();
        let under_way = |state| !matches!(state, State::Closed | State::TimeWait);
        let connections = shard.tcp_ref().connections();
        let ids: Vec<_> = connections.filter(|&(.., state)| under_way(state)).map(|(id, ..)| id).collect();
        ids.iter().for_each(|&id| shard.tcp().abort(self.now(), id));
        ids.len()
    }

    /// A snapshot of everything counted on this thread.
    pub(super) fn snapshot(&self) -> Option<ShardMetrics> {
        let shard = self.shard.try_borrow().ok()?;
        let mut device = self.device.try_borrow_mut().ok()?;
        let pool = device.pool().clone();
        Some(ShardMetrics {
            shard: self.index,
            counters: shard.counters().clone(),
            tcp: shard.tcp_ref().census(),
            flows: shard.flow_census(),
            flow_counters: shard.flow_counters(),
            links: shard.links_state(),
            pool: pool.usage(),
            pool_alloc_failures: pool.alloc_failures(),
            pool_bogus_returns: pool.bogus_returns(),
            driver: device.statistics(),
            runtime: self.counters.borrow().clone(),
            cpu: sys::thread_cpu(),
            uptime: self.now() - self.shared.started,
        })
    }

    /// Ends the shard and gives back the device.
    pub(super) fn into_device(self) -> Box<dyn WaitDevice> {
        let Self { shard, device, .. } = self;
        drop(shard);
        device.into_inner()
    }
}

/// Leaves the thread without a shard when dropped.
pub(super) struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        let left = CURRENT.try_with(RefCell::take);
        drop(left);
    }
}

/// A change of the steering that the device refused.
#[derive(Debug, thiserror::Error)]
#[error("the NIC's steering refused {change:?}: {source}")]
pub struct SteeringError {
    /// The change.
    pub change: SteeringChange,
    /// The device's answer.
    pub source: io::Error,
}

impl From<SteeringError> for io::Error {
    fn from(error: SteeringError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

fn steer(steering: &mut dyn Steering, change: SteeringChange) -> io::Result<()> {
    match change {
        SteeringChange::OpenPort(protocol, port) => steering.open_port(protocol, port),
        SteeringChange::ClosePort(protocol, port) => steering.close_port(protocol, port),
        SteeringChange::OwnAddress(addr) => steering.own_address(addr),
        SteeringChange::DisownAddress(addr) => steering.disown_address(addr),
    }
}
