//! Starting and ending a runtime: [`Builder`] opens every queue on its own thread and lets the application begin only
//! when all are open; [`Runtime::wait`] joins the threads and sums up.

use core::future::Future;
use core::sync::atomic::Ordering;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::capture::Capture;
use super::control::{Handle, Shared};
use super::control_socket::ControlSocket;
use super::idle::Spin;
use super::local::SteeringError;
use super::metrics::{Metrics, ShardMetrics, Summary};
use super::thread::{self, Setup};
use super::{Context, sys};
use crate::config::{ConfigError, StackConfig};
use crate::device::WaitDevice;
use crate::shard::Shard;
use crate::time::Duration;

/// Any error of an application or a device.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Opens one queue's device, on that queue's thread.
pub(super) type Open = Box<dyn FnOnce() -> Result<Box<dyn WaitDevice>, BoxError> + Send>;

/// How long connections may finish after a shutdown was asked for, unless the builder says otherwise.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Which CPUs the shards' threads run on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Pinning {
    /// Shard i on the i-th CPU the process may use; they are shared in turn when there are fewer.
    #[default]
    Auto,
    /// Shard i on the i-th CPU of this list, which must have one for every shard.
    Cpus(Vec<usize>),
    /// Wherever the scheduler likes.
    None,
}

/// How a runtime will be. Made by [`Runtime::builder`].
#[must_use = "a builder does nothing until `start`"]
pub struct Builder {
    config: StackConfig,
    queues: Vec<Open>,
    spin: Spin,
    pinning: Pinning,
    drain_timeout: Duration,
    pcap: Option<PathBuf>,
    control: Option<PathBuf>,
}

impl Builder {
    pub(super) fn new(config: StackConfig) -> Self {
        Self {
            config,
            queues: Vec::new(),
            spin: Spin::Off,
            pinning: Pinning::Auto,
            drain_timeout: DRAIN_TIMEOUT,
            pcap: None,
            control: None,
        }
    }

    /// Adds a queue, and with it a shard: `open` is run on the shard's thread, after that was pinned.
    pub fn queue<D, E>(mut self, open: impl FnOnce() -> Result<D, E> + Send + 'static) -> Self
    where
        D: WaitDevice + 'static,
        E: Into<BoxError>,
    {
        self.queues.push(Box::new(move || match open() {
            Ok(device) => Ok(Box::new(device)),
            Err(error) => Err(error.into()),
        }));
        self
    }

    /// What an idle shard does before it sleeps in `poll(2)`; [`Spin::Off`] unless set.
    pub fn spin(mut self, spin: Spin) -> Self {
        self.spin = spin;
        self
    }

    /// Which CPUs the shards' threads run on; [`Pinning::Auto`] unless set.
    pub fn pin(mut self, pinning: Pinning) -> Self {
        self.pinning = pinning;
        self
    }

    /// How long connections may finish after a shutdown was asked for, before they are aborted; [`DRAIN_TIMEOUT`]
    /// unless set.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Writes every packet received and sent by any shard to this file, in the format of tcpdump. Packets that come
    /// faster than the file can be written are missing from it, and counted ([`Metrics::capture_lost`]).
    pub fn pcap(mut self, path: impl Into<PathBuf>) -> Self {
        self.pcap = Some(path.into());
        self
    }

    /// Lets other processes of this user look into the runtime through a Unix socket at this path, as `bywash ss` does; see
    /// [`super::control_socket`], whose [`super::control_socket::default_path`] is where `bywash ss` looks. It is there once
    /// the runtime has started, and removed at the runtime's end. No socket unless set.
    pub fn control(mut self, path: impl Into<PathBuf>) -> Self {
        self.control = Some(path.into());
        self
    }

    /// Starts the threads, opens the devices and then calls `app` once on every shard. Returns when all devices are
    /// open and all shards run.
    ///
    /// The runtime runs until every future that `app` returned has ended, or [`Handle::shutdown`] was called; then
    /// connections may finish. A future that ends with an error or panics shuts all shards down. Its
    /// sockets belong to the shard: listeners on the same port share it, each gets the connections of its queue.
    ///
    /// # Errors
    /// The first thing that failed; everything is taken down again.
    pub fn start<F, Fut>(self, app: F) -> Result<Runtime, StartError>
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + 'static,
    {
        let shards =
            u16::try_from(self.queues.len()).map_err(|_| StartError::TooManyQueues(self.queues.len()))?;
        if shards == 0 {
            return Err(StartError::NoQueues);
        }
        let cpus = cpus(&self.pinning, usize::from(shards))?;
        let capture = self.pcap.map(|path| {
            Capture::create(&path).map_err(|source| StartError::Capture { path: path.clone(), source })
        });
        let capture = capture.transpose()?;
        let figures = capture.as_ref().map(Capture::figures);
        let (shared, controls) = Shared::new(
            usize::from(shards),
            self.spin,
            self.drain_timeout,
            self.config.forward.is_some(),
            figures,
        )
        .map_err(StartError::Thread)?;
        let shared = Arc::new(shared);
        let app = Arc::new(app);
        // Dropped last on failure: it joins the threads, which wait at the gate until `go` is dropped.
        let handle = Handle(Arc::clone(&shared));
        let mut runtime = Runtime { handle, threads: Vec::new(), capture, control: None };
        let (ready, opened) = crossbeam_channel::bounded(usize::from(shards));
        let (go, gate) = crossbeam_channel::bounded::<()>(0);
        let links = Shard::links(shards);
        let queues = self.queues.into_iter().zip(links).zip(controls).zip(cpus).enumerate();
        for (index, (((open, links), control), cpu)) in queues {
            let setup = Setup {
                index,
                config: self.config.clone(),
                open,
                links,
                control,
                cpu,
                recorder: runtime.capture.as_ref().map(Capture::recorder),
                shared: Arc::clone(&shared),
            };
            let (app, ready, gate) = (Arc::clone(&app), ready.clone(), gate.clone());
            let thread = std::thread::Builder::new()
                .name(format!("bywash-{index}"))
                .spawn(move || thread::run(setup, app.as_ref(), &ready, &gate));
            runtime.threads.push(thread.map_err(StartError::Thread)?);
        }
        drop((ready, gate));
        for _ in 0..shards {
            opened.recv().unwrap_or(Err(StartError::Panicked))?;
        }
        // A send a shard: none begins before all are open, and each has begun once its send is taken.
        for _ in 0..shards {
            go.send(()).map_err(|_| StartError::Panicked)?;
        }
        if let Some(path) = self.control {
            let opened = ControlSocket::open(&path, runtime.handle());
            runtime.control = Some(opened.map_err(|source| StartError::Control { path, source })?);
        }
        Ok(runtime)
    }
}

/// One CPU for each shard, or none for any.
fn cpus(pinning: &Pinning, shards: usize) -> Result<Vec<Option<usize>>, StartError> {
    let list = match pinning {
        Pinning::None => return Ok(vec![None; shards]),
        Pinning::Auto => sys::allowed_cpus().map_err(StartError::Thread)?,
        Pinning::Cpus(list) if list.len() < shards => {
            return Err(StartError::TooFewCpus { cpus: list.len(), shards });
        }
        Pinning::Cpus(list) => list.clone(),
    };
    Ok((0..shards).map(|shard| list.get(shard % list.len().max(1)).copied()).collect())
}

/// Why a runtime did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// [`Builder::queue`] was never called.
    #[error("the runtime has no queue: call Builder::queue once for every queue of the NIC")]
    NoQueues,
    /// More queues than shards can be numbered.
    #[error("{0} queues, but a runtime has at most 65535")]
    TooManyQueues(usize),
    /// A list of CPUs that is shorter than the list of queues.
    #[error("{cpus} CPUs for {shards} queues: Pinning::Cpus needs one for each")]
    TooFewCpus {
        /// CPUs in the list.
        cpus: usize,
        /// Queues.
        shards: usize,
    },
    /// A thread could not be bound to its CPU.
    #[error("shard {shard} cannot run on CPU {cpu}: {source}; choose one that `taskset -p $$` allows")]
    Pin {
        /// The shard.
        shard: usize,
        /// The CPU.
        cpu: usize,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A device did not open.
    #[error("shard {shard}: {source}")]
    Device {
        /// The queue and its shard.
        shard: usize,
        /// What the device's opener answered.
        source: BoxError,
    },
    /// The configuration is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The device's steering does not take the stack's addresses.
    #[error("shard {shard}: {source}")]
    Steering {
        /// The queue and its shard.
        shard: usize,
        /// What was refused and why.
        source: SteeringError,
    },
    /// The capture file could not be made.
    #[error("cannot write the capture file {path}: {source}")]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The control socket could not be made.
    #[error("cannot make the control socket {path}: {source}")]
    Control {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread, an eventfd or the list of CPUs could not be had.
    #[error("a thread of the runtime could not be made: {0}")]
    Thread(io::Error),
    /// A device's opener panicked; the panic's message was printed by the panic hook.
    #[error("the code that opens a queue panicked")]
    Panicked,
}

/// What ended a runtime that did not end by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The application's future on a shard returned an error.
    #[error("the application on shard {shard} failed: {source}")]
    App {
        /// The shard.
        shard: usize,
        /// The application's error.
        source: BoxError,
    },
    /// The application's future panicked, or the stack itself did.
    #[error("{what} on shard {shard} panicked: {message}")]
    Panicked {
        /// The shard.
        shard: usize,
        /// `the application` or `the stack`.
        what: &'static str,
        /// The panic's message.
        message: String,
    },
    /// The device can no longer be waited for.
    #[error("the device of shard {shard} failed: {source}")]
    Device {
        /// The shard.
        shard: usize,
        /// What the device answered.
        source: io::Error,
    },
}

/// A running stack: one thread a queue. Dropping it shuts it down and waits for its threads.
#[must_use = "dropping a runtime shuts it down"]
pub struct Runtime {
    handle: Handle,
    threads: Vec<JoinHandle<ShardMetrics>>,
    capture: Option<Capture>,
    control: Option<ControlSocket>,
}

impl Runtime {
    /// Begins the description of a runtime whose shards all have this configuration.
    pub fn builder(config: StackConfig) -> Builder {
        Builder::new(config)
    }

    /// What other threads use to talk to the runtime.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until every application future has ended or a shutdown was asked for, and the connections have finished;
    /// joins the threads.
    ///
    /// # Errors
    /// The first failure of an application, a device or the stack.
    pub fn wait(mut self) -> Result<Summary, RunError> {
        let (shards, capture_error) = self.join();
        let shared = &self.handle.0;
        if let Some(error) = shared.take_failure() {
            return Err(error);
        }
        let elapsed = sys::monotonic() - shared.started;
        let capture_lost = shared.capture.as_ref().map(|figures| figures.lost());
        Ok(Summary { metrics: Metrics { shards, elapsed, capture_lost }, elapsed, capture_error })
    }

    fn join(&mut self) -> (Vec<ShardMetrics>, Option<String>) {
        let shared = &self.handle.0;
        let end = |thread: JoinHandle<ShardMetrics>| thread.join().ok();
        let shards = self.threads.drain(..).filter_map(end).collect();
        drop(self.control.take());
        // Threads that never began (a failed start) leave their applications counted.
        shared.apps_running.store(0, Ordering::Release);
        let capture = self.capture.take().map(Capture::finish);
        let capture_error = capture.and_then(Result::err).map(|error| error.to_string());
        if let Some(error) = &capture_error {
            tracing::error!(%error, "the capture file is incomplete");
        }
        (shards, capture_error)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.handle.shutdown();
        self.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_gets_a_cpu_and_few_cpus_are_shared_in_turn() {
        assert_eq!(cpus(&Pinning::None, 2).unwrap(), [None, None]);
        assert_eq!(cpus(&Pinning::Cpus(vec![3, 1]), 2).unwrap(), [Some(3), Some(1)]);
        let allowed = sys::allowed_cpus().unwrap();
        let auto = cpus(&Pinning::Auto, allowed.len() + 1).unwrap();
        assert_eq!(auto.last(), Some(&Some(allowed[0])));
        assert!(matches!(
            cpus(&Pinning::Cpus(vec![0]), 2),
            Err(StartError::TooFewCpus { cpus: 1, shards: 2 })
        ));
    }
}
