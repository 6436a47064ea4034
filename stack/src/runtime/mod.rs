//! Runs the stack on real devices: one pinned thread per NIC queue, each with its [`Shard`](crate::shard::Shard), its
//! tasks and its timers; sockets with `async` ([`net`]), blocking ([`blocking`]), tokio's and hyper's faces.
//!
//! ```no_run
//! use bywash::config::StackConfig;
//! use bywash::device::WaitDevice;
//! use bywash::runtime::{BoxError, Runtime, net::TcpListener, spawn};
//!
//! /// Echoes on port 7 of two queues until a shutdown is asked for.
//! fn serve<D: WaitDevice + 'static>(open: fn(queue: u32) -> std::io::Result<D>) -> Result<(), BoxError> {
//!     let config = StackConfig::new(vec!["192.0.2.10/24".parse()?], [7; 32]);
//!     let runtime = Runtime::builder(config)
//!         .queue(move || open(0))
//!         .queue(move || open(1))
//!         .start(|context| async move {
//!             // Once per shard: the two listeners share the port.
//!             let listener = TcpListener::bind("0.0.0.0:7".parse()?)?;
//!             while let Ok((mut stream, _)) = listener.accept().await {
//!                 spawn(async move {
//!                     let mut bytes = [0; 2048];
//!                     while let Ok(len @ 1..) = stream.read(&mut bytes).await {
//!                         if stream.write_all(&bytes[..len]).await.is_err() {
//!                             break;
//!                         }
//!                     }
//!                 })
//!                 .detach();
//!             }
//!             println!("shard {} shuts down", context.shard());
//!             Ok(())
//!         })?;
//!     println!("{}", runtime.wait()?);
//!     Ok(())
//! }
//! ```
//!
//! Nothing here is shared between shards on a packet's path: a task and its sockets live and die on one thread. Other
//! threads reach a shard through its bounded control channel ([`Handle`]) only.

use core::fmt;
use core::future::Future;
use core::net::IpAddr;
use core::pin::Pin;
use core::task::{Context as TaskContext, Poll};
use std::rc::{Rc, Weak};

pub mod blocking;
mod builder;
mod capture;
mod control;
pub mod control_socket;
mod followers;
#[cfg(feature = "hyper")]
pub mod hyper;
mod idle;
mod local;
mod metrics;
pub mod net;
mod rules;
mod sys;
#[cfg(any(test, feature = "sim"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod thread;
pub mod time;
#[cfg(feature = "tokio")]
mod tokio;
mod wake;

pub use builder::{BoxError, Builder, DRAIN_TIMEOUT, Pinning, RunError, Runtime, StartError};
pub use control::{ControlError, Handle};
pub use idle::Spin;
pub use local::{OffShard, SteeringError};
pub use metrics::{Metrics, RuntimeCounters, ShardMetrics, Summary};

use local::Local;

/// Starts a task on this thread's shard. Dropping the [`Task`] cancels it; [`Task::detach`] lets it run by itself.
///
/// A panic in a task ends that task only: it is counted, and passed on to who awaits the task.
///
/// On a thread without a shard (and on a shard that is being taken down) nothing can run the future: it is dropped,
/// which is logged as an error, and the task is never finished. [`try_spawn`] returns that as an error.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    try_spawn(future).unwrap_or_else(|error| {
        tracing::error!(%error, "a task was not started");
        Task(None)
    })
}

/// As [`spawn`].
///
/// # Errors
/// [`OffShard`] on a thread without a shard.
pub fn try_spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Result<Task<T>, OffShard> {
    let local = local::current().ok_or(OffShard(()))?;
    let executor = local.executor().ok_or(OffShard(()))?;
    Ok(Task(Some(executor.spawn(Counted { future: thread::CatchPanics { future } }))))
}

pin_project_lite::pin_project! {
    /// A spawned future whose panic is counted on its way to the executor, which keeps it for the task's owner.
    struct Counted<F> {
        #[pin]
        future: thread::CatchPanics<F>,
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx).map(|result| {
            result.unwrap_or_else(|panic| {
                if let Some(local) = local::current() {
                    local.counters.borrow_mut().task_panics += 1;
                    let message = thread::message(&*panic);
                    tracing::error!(shard = local.index, message, "a task panicked");
                }
                std::panic::resume_unwind(panic)
            })
        })
    }
}

/// A spawned task; awaiting it gives its output. Dropping it cancels the task.
///
/// # Panics
/// Awaiting a task that panicked passes the panic on.
#[must_use = "dropping a task cancels it: call `detach` to let it run"]
#[derive(Debug)]
pub struct Task<T>(Option<async_executor::Task<T>>);

impl<T> Task<T> {
    /// Lets the task run by itself.
    pub fn detach(self) {
        if let Some(task) = self.0 {
            task.detach();
        }
    }

    /// Cancels the task and waits until its future was dropped; returns its output if it had finished.
    pub async fn cancel(self) -> Option<T> {
        match self.0 {
            Some(task) => task.cancel().await,
            None => None,
        }
    }

    /// Whether the task has finished (or was cancelled).
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(async_executor::Task::is_finished)
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<T> {
        match &mut self.0 {
            Some(task) => Pin::new(task).poll(cx),
            None => Poll::Pending,
        }
    }
}

/// The shard an application runs on, handed to the closure of [`Builder::start`].
#[derive(Clone)]
pub struct Context {
    local: Weak<Local>,
    shard: usize,
    handle: Handle,
}

impl Context {
    fn of(local: &Rc<Local>) -> Self {
        let handle = Handle(std::sync::Arc::clone(&local.shared));
        Self { local: Rc::downgrade(local), shard: local.index, handle }
    }

    /// The shard's number, counted from 0: the queue's place among the calls of [`Builder::queue`].
    #[must_use]
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.handle.shards()
    }

    /// The runtime, for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until a shutdown is asked for (or the runtime has ended): time to finish requests and close connections.
    pub async fn shutdown(&self) {
        if let Some(local) = self.local.upgrade() {
            let (waiters, local) = (local.shutdown_waiters.clone(), self.local.clone());
            let draining = move || local.upgrade().is_none_or(|local| local.is_draining());
            waiters.wait(|_| if draining() { Poll::Ready(()) } else { Poll::Pending }).await;
        }
    }

    /// Waits until the stack has addresses: at once, unless the configuration asks for DHCP.
    pub async fn configured(&self) {
        if let Some(local) = self.local.upgrade() {
            let (waiters, local) = (local.address_waiters.clone(), self.local.clone());
            let configured = move || local.upgrade().is_none_or(|local| local.is_configured());
            waiters.wait(|_| if configured() { Poll::Ready(()) } else { Poll::Pending }).await;
        }
    }

    /// The stack's addresses and prefix lengths at present, DHCP's included.
    #[must_use]
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        self.local.upgrade().map(|local| local.addresses()).unwrap_or_default()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("shard", &self.shard).finish_non_exhaustive()
    }
}
