//! The control plane: what all threads of a runtime share, the bounded channel of commands to each shard, and
//! [`Handle`], through which any thread spawns tasks, reads metrics and asks for shutdown.

use core::future::Future;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::builder::RunError;
use super::capture::CaptureFigures;
use super::idle::Spin;
use super::local::{self, Local};
use super::metrics::{Metrics, ShardMetrics};
use super::wake::Alarm;
use super::{spawn, sys};
use crate::limits;
use crate::time::{Duration, Instant};

/// A command to a shard: run on its thread between two bursts.
pub(super) type Message = Box<dyn FnOnce(&Rc<Local>) + Send>;

/// How far a runtime is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    Running,
    /// Shutdown was asked for: connections may finish.
    Draining,
    /// Shutdown at once: connections are aborted.
    Aborting,
}

/// The ends of one shard that other threads hold.
pub(super) struct Port {
    pub(super) alarm: Arc<Alarm>,
    control: Sender<Message>,
    /// Written by the shard: it has nothing left to do but to help the others finish.
    pub(super) drained: AtomicBool,
    /// Written by the shard after work, at most every [`limits::METRICS_INTERVAL`], and at its end.
    published: Mutex<ShardMetrics>,
}

/// What all threads of a runtime share.
pub(super) struct Shared {
    pub(super) ports: Vec<Port>,
    phase: AtomicU8,
    /// Application futures that have not ended.
    pub(super) apps_running: AtomicUsize,
    /// Where the next blocking connection goes.
    next_shard: AtomicUsize,
    pub(super) drain_timeout: Duration,
    /// The shards forward: rules may translate.
    pub(super) forwards: bool,
    pub(super) spin: Spin,
    pub(super) started: Instant,
    /// The first thing that went wrong.
    failure: Mutex<Option<RunError>>,
    pub(super) capture: Option<Arc<CaptureFigures>>,
}

impl Shared {
    pub(super) fn new(
        shards: usize,
        spin: Spin,
        drain_timeout: Duration,
        forwards: bool,
        capture: Option<Arc<CaptureFigures>>,
    ) -> io::Result<(Self, Vec<Receiver<Message>>)> {
        let mut receivers = Vec::with_capacity(shards);
        let mut ports = Vec::with_capacity(shards);
        for shard in 0..shards {
            let (control, receiver) = crossbeam_channel::bounded(limits::CONTROL_MESSAGES);
            receivers.push(receiver);
            ports.push(Port {
                alarm: Arc::new(Alarm::new()?),
                control,
                drained: AtomicBool::new(false),
                published: Mutex::new(ShardMetrics { shard, ..ShardMetrics::default() }),
            });
        }
        let shared = Self {
            ports,
            phase: AtomicU8::new(Phase::Running as u8),
            apps_running: AtomicUsize::new(shards),
            next_shard: AtomicUsize::new(0),
            drain_timeout,
            forwards,
            spin,
            started: sys::monotonic(),
            failure: Mutex::new(None),
            capture,
        };
        Ok((shared, receivers))
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Aborting,
        }
    }

    /// Moves on to `phase`; never back.
    pub(super) fn advance(&self, phase: Phase) {
        if self.phase.fetch_max(phase as u8, Ordering::AcqRel) < phase as u8 {
            self.notify_all();
        }
    }

    pub(super) fn notify_all(&self) {
        self.ports.iter().for_each(|port| port.alarm.notify());
    }

    /// Records what went wrong, unless something did before, and starts the shutdown.
    pub(super) fn fail(&self, error: RunError) {
        tracing::error!(%error, "the runtime shuts down");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.advance(Phase::Draining);
    }

    pub(super) fn take_failure(&self) -> Option<RunError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes these the shard's latest figures, unless later ones are there already.
    pub(super) fn publish(&self, metrics: ShardMetrics) {
        let mut published =
            self.ports[metrics.shard].published.lock().unwrap_or_else(PoisonError::into_inner);
        if published.uptime <= metrics.uptime {
            *published = metrics;
        }
    }

    fn published(&self, shard: usize) -> ShardMetrics {
        self.ports[shard].published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The metrics as the shards last published them.
    pub(super) fn published_metrics(&self) -> Metrics {
        self.metrics((0..self.ports.len()).map(|shard| self.published(shard)).collect())
    }

    fn metrics(&self, shards: Vec<ShardMetrics>) -> Metrics {
        let capture_lost = self.capture.as_ref().map(|figures| figures.lost());
        Metrics { shards, elapsed: sys::monotonic() - self.started, capture_lost }
    }
}

/// Why a command did not reach its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlError {
    /// No such shard.
    #[error("shard {shard} does not exist: the runtime has {shards}, counted from 0")]
    NoSuchShard {
        /// The shard asked for.
        shard: usize,
        /// How many there are.
        shards: usize,
    },
    /// The runtime has ended, or ended before the answer.
    #[error("the runtime has ended")]
    Ended,
    /// The shard's channel is full and the caller, a shard itself, must not wait.
    #[error("shard {0} has {max} commands waiting; try again later", max = limits::CONTROL_MESSAGES)]
    Full(usize),
    /// The call waits for a shard and would stall the one that called.
    #[error(
        "this call blocks and must not be made on a shard's thread: use the async sockets or spawn_on there"
    )]
    OnShard,
}

impl From<ControlError> for io::Error {
    fn from(error: ControlError) -> Self {
        let kind = match error {
            ControlError::NoSuchShard { .. } => io::ErrorKind::InvalidInput,
            ControlError::Ended => io::ErrorKind::NotConnected,
            ControlError::Full(_) => io::ErrorKind::WouldBlock,
            ControlError::OnShard => io::ErrorKind::Unsupported,
        };
        Self::new(kind, error)
    }
}

/// A runtime as other threads see it: cheap to clone, usable from any thread, also after the runtime has ended.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Shared>);

impl Handle {
    /// How many shards the runtime has.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.0.ports.len()
    }

    /// Asks for a graceful shutdown: listeners close, [`super::Context::shutdown`] resolves, connections may finish
    /// for the builder's `drain_timeout`, then they are aborted. Returns at once; further calls do nothing.
    pub fn shutdown(&self) {
        self.0.advance(Phase::Draining);
    }

    /// Ends the runtime without waiting for its connections: they are aborted. For a second Ctrl-C.
    pub fn shutdown_now(&self) {
        self.0.advance(Phase::Aborting);
    }

    /// Whether shutdown was asked for.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.0.phase() > Phase::Running
    }

    /// Starts a task on `shard`: `make` runs there and what it returns is spawned on the shard's executor, detached.
    ///
    /// # Errors
    /// When there is no such shard, the runtime has ended, or (only on a shard's thread) the shard's channel of
    /// [`limits::CONTROL_MESSAGES`] is full; other threads wait for room.
    pub fn spawn_on<F, Fut>(&self, shard: usize, make: F) -> Result<(), ControlError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
    {
        self.send(shard, Box::new(move |_| spawn(async move { drop(make().await) }).detach()))
    }

    /// Runs a task on `shard`, as [`Handle::spawn_on`], and waits for its output.
    ///
    /// # Errors
    /// As [`Handle::spawn_on`]; when the runtime ends or the task panics before there is an output; always on a shard's
    /// thread, which must not wait.
    pub fn run_on<T, F, Fut>(&self, shard: usize, make: F) -> Result<T, ControlError>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        if local::current().is_some() {
            return Err(ControlError::OnShard);
        }
        let (sender, answer) = crossbeam_channel::bounded(1);
        self.spawn_on(shard, move || {
            let output = make();
            async move { drop(sender.send(output.await)) }
        })?;
        answer.recv().map_err(|_| ControlError::Ended)
    }

    /// A snapshot of all shards' figures. On a shard's thread nothing is waited for: its own figures are exact, the
    /// other shards' are those they published last, at most [`limits::METRICS_INTERVAL`] old. On other threads every
    /// shard is asked, and what one published last is used when it does not answer within [`limits::METRICS_PATIENCE`].
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        if let Some(local) = local::current() {
            if let Some(own) = local.snapshot().filter(|_| Arc::ptr_eq(&local.shared, &self.0)) {
                self.0.publish(own);
            }
            return self.0.published_metrics();
        }
        // Every shard drops its sender when it has published its figures.
        let (sender, answers) = crossbeam_channel::bounded::<()>(0);
        for shard in 0..self.shards() {
            let sender = sender.clone();
            let ask = move |local: &Rc<Local>| {
                if let Some(own) = local.snapshot() {
                    local.shared.publish(own);
                }
                drop(sender);
            };
            let _ = self.try_send(shard, Box::new(ask));
        }
        drop(sender);
        let _ = answers.recv_timeout(limits::METRICS_PATIENCE);
        self.0.published_metrics()
    }

    /// The shards in turn.
    pub(super) fn next_shard(&self) -> usize {
        self.0.next_shard.fetch_add(1, Ordering::Relaxed) % self.shards()
    }

    fn port(&self, shard: usize) -> Result<&Port, ControlError> {
        self.0.ports.get(shard).ok_or(ControlError::NoSuchShard { shard, shards: self.shards() })
    }

    pub(super) fn try_send(&self, shard: usize, message: Message) -> Result<(), ControlError> {
        let port = self.port(shard)?;
        port.control.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => ControlError::Full(shard),
            TrySendError::Disconnected(_) => ControlError::Ended,
        })?;
        port.alarm.notify();
        Ok(())
    }

    /// Sends a command; a thread that is not a shard's waits for room.
    pub(super) fn send(&self, shard: usize, message: Message) -> Result<(), ControlError> {
        if local::current().is_some() {
            return self.try_send(shard, message);
        }
        let port = self.port(shard)?;
        port.control.send(message).map_err(|_| ControlError::Ended)?;
        port.alarm.notify();
        Ok(())
    }
}

impl core::fmt::Debug for Handle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Handle")
            .field("shards", &self.shards())
            .field("phase", &self.0.phase())
            .finish_non_exhaustive()
    }
}
