//! A shard's thread: opens its device, then turns the loop until the runtime ends.
//!
//! One turn: commands, timers, one burst in, ready tasks (all bounded), the steering, one burst out. The tasks that a burst
//! wakes run before anything is sent, so that what they answer carries the acknowledgments. A turn that found nothing to do is
//! followed by spinning, where that pays (`idle.rs`), and then by sleep in `poll(2)` until a packet, another thread or the next
//! deadline ends it.

use core::future::Future;
use core::pin::{Pin, pin};
use core::sync::atomic::Ordering;
use core::task::{Context as TaskContext, Poll, Waker};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use async_executor::LocalExecutor;
use crossbeam_channel::{Receiver, Sender};

use super::builder::{BoxError, Open, RunError, StartError};
use super::capture::Recorder;
use super::control::{Message, Phase, Shared};
use super::idle::{Idle, Spent};
use super::local::{Entered, Local};
use super::metrics::ShardMetrics;
use super::{Context, sys};
use crate::config::StackConfig;
use crate::limits;
use crate::shard::{Shard, ShardLinks};
use crate::time::Instant;

/// What a shard's thread begins with.
pub(super) struct Setup {
    pub(super) index: usize,
    pub(super) config: StackConfig,
    pub(super) open: Open,
    pub(super) links: ShardLinks,
    pub(super) control: Receiver<Message>,
    pub(super) cpu: Option<usize>,
    pub(super) recorder: Option<Recorder>,
    pub(super) shared: Arc<Shared>,
}

/// The thread's life. Returns the final figures.
pub(super) fn run<Fut>(
    setup: Setup,
    app: &(impl Fn(Context) -> Fut + ?Sized),
    ready: &Sender<Result<(), StartError>>,
    gate: &Receiver<()>,
) -> ShardMetrics
where
    Fut: Future<Output = Result<(), BoxError>> + 'static,
{
    let (index, shared) = (setup.index, Arc::clone(&setup.shared));
    let mut figures = ShardMetrics { shard: index, ..ShardMetrics::default() };
    let opened = catch_unwind(AssertUnwindSafe(|| Driver::open(setup)));
    let mut driver = match opened.unwrap_or(Err(StartError::Panicked)) {
        Ok(driver) => driver,
        Err(error) => {
            let _ = ready.send(Err(error));
            return figures;
        }
    };
    let _ = ready.send(Ok(()));
    // The gate never opens when another shard failed to start.
    if gate.recv().is_ok() {
        driver.start(app);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| driver.run())) {
            shared.fail(RunError::Panicked { shard: index, what: "the stack", message: message(&*panic) });
        }
    }
    match catch_unwind(AssertUnwindSafe(|| driver.finish())) {
        Ok(last) => figures = last,
        Err(panic) => {
            shared.fail(RunError::Panicked { shard: index, what: "the stack", message: message(&*panic) });
        }
    }
    shared.ports[index].drained.store(true, Ordering::Release);
    shared.notify_all();
    shared.publish(figures.clone());
    figures
}

/// A panic's message.
pub(super) fn message(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no message)".to_owned())
}

/// A thread's loop and its state.
struct Driver {
    local: Rc<Local>,
    entered: Entered,
    executor: Rc<LocalExecutor<'static>>,
    control: Receiver<Message>,
    idle: Idle,
    /// Whether something was done since the figures were published.
    unpublished: bool,
    last_published: Instant,
    /// When the connections' time is over, once draining.
    drain_deadline: Option<Instant>,
    /// Tasks that the last turn ran.
    tasks_ran: usize,
    /// Nothing but tasks was left at the last look.
    was_quiet: bool,
    /// Another turn must show whether tasks are left too.
    look_again: bool,
}

impl Driver {
    fn open(setup: Setup) -> Result<Self, StartError> {
        let Setup { index: shard, shared, .. } = setup;
        if let Some(cpu) = setup.cpu {
            sys::pin_to(cpu).map_err(|source| StartError::Pin { shard, cpu, source })?;
        }
        let mut device = (setup.open)().map_err(|source| StartError::Device { shard, source })?;
        if let Some(recorder) = setup.recorder {
            device = Box::new(recorder.tap(device));
        }
        let now = sys::monotonic();
        let idle = Idle::new(shared.spin);
        let count = shared.ports.len() as u16;
        let mut stack = Shard::new(&setup.config, shard as u16, count, setup.links, &*device, now)?;
        let notified = Arc::clone(&shared);
        stack.set_notify(Box::new(move |shard| {
            if let Some(port) = notified.ports.get(usize::from(shard)) {
                port.alarm.notify();
            }
        }));
        let local = Rc::new(Local::new(shard, shared, stack, device, setup.config.tcp.options, now));
        local.apply_steering().map_err(|source| StartError::Steering { shard, source })?;
        tracing::debug!(shard, cpu = setup.cpu, addresses = ?local.addresses(), "the shard is open");
        let entered = local.enter();
        let executor = local.executor().unwrap_or_default();
        Ok(Self {
            local,
            entered,
            executor,
            control: setup.control,
            idle,
            unpublished: true,
            last_published: now,
            drain_deadline: None,
            tasks_ran: 0,
            was_quiet: false,
            look_again: false,
        })
    }

    /// Spawns the application.
    fn start<Fut>(&self, app: &(impl Fn(Context) -> Fut + ?Sized))
    where
        Fut: Future<Output = Result<(), BoxError>> + 'static,
    {
        let local = Rc::clone(&self.local);
        let made = catch_unwind(AssertUnwindSafe(|| app(Context::of(&local))));
        self.executor
            .spawn(async move {
                let result = match made {
                    Ok(future) => CatchPanics { future }.await,
                    Err(panic) => Err(panic),
                };
                let shard = local.index;
                match result {
                    Ok(Ok(())) => {}
                    Ok(Err(source)) => local.shared.fail(RunError::App { shard, source }),
                    Err(panic) => local.shared.fail(RunError::Panicked {
                        shard,
                        what: "the application",
                        message: message(&*panic),
                    }),
                }
                local.app_ended.set(true);
                if local.shared.apps_running.fetch_sub(1, Ordering::AcqRel) == 1 {
                    local.shared.advance(Phase::Draining);
                }
            })
            .detach();
    }

    fn run(&mut self) {
        let executor = Rc::clone(&self.executor);
        let waker = Waker::from(Arc::clone(&self.local.shared.ports[self.local.index].alarm));
        let mut cx = TaskContext::from_waker(&waker);
        // Polled only when no task is ready: it registers the alarm with the executor and then waits for a ready task.
        let mut tick: Pin<&mut _> = pin!(executor.tick());
        loop {
            let worked = self.turn();
            if worked {
                let spent = self.idle.worked(self.local.now());
                self.count(spent);
                self.unpublished = true;
            }
            self.publish();
            if self.is_over() {
                return;
            }
            if worked || self.look_again {
                continue;
            }
            if self.idle.spins(self.local.now()) {
                core::hint::spin_loop();
            } else if tick.as_mut().poll(&mut cx).is_ready() {
                tick.set(executor.tick());
                self.local.counters.borrow_mut().tasks += 1;
            } else if let Err(source) = self.sleep() {
                self.local.shared.fail(RunError::Device { shard: self.local.index, source });
                return;
            }
        }
    }

    /// One turn of the loop; returns whether anything was done.
    fn turn(&mut self) -> bool {
        let local = &self.local;
        local.shared.ports[local.index].alarm.rearm();
        local.set_now(sys::monotonic());
        let mut worked = false;
        for message in self.control.try_iter().take(limits::CONTROL_MESSAGES_PER_TURN) {
            if catch_unwind(AssertUnwindSafe(|| message(local))).is_err() {
                local.counters.borrow_mut().task_panics += 1;
            }
            worked = true;
        }
        while let Some(waker) = local.fire_timer() {
            waker.wake();
            worked = true;
        }
        worked |= local.poll_receive();
        let tasks = (0..limits::TASKS_PER_TURN).take_while(|_| self.executor.try_tick()).count();
        // Ports open before the packets leave that peers will answer to them.
        local.settle_steering();
        worked |= local.poll_transmit();
        worked |= local.run_deferred();
        local.tell_followers();
        local.settle_steering();
        local.check_addresses();
        let mut counters = local.counters.borrow_mut();
        counters.turns += 1;
        counters.tasks += tasks as u64;
        self.tasks_ran = tasks;
        worked || tasks > 0
    }

    /// Sleeps until there may be work again. Called only after a turn that found none and with the alarm registered
    /// with the executor.
    fn sleep(&mut self) -> std::io::Result<()> {
        let local = &self.local;
        let alarm = &local.shared.ports[local.index].alarm;
        let publish = self.unpublished.then(|| self.last_published + limits::METRICS_INTERVAL);
        let deadlines = [local.next_deadline(), publish, self.drain_deadline];
        let timeout = deadlines.into_iter().flatten().min().map(|at| match at <= local.now() {
            // Due, and yet the last turn found nothing to do: the device has no room. It ends the wait when it has.
            true => limits::STALLED_WAIT,
            false => at - sys::monotonic(),
        });
        if timeout.is_some_and(|timeout| timeout.is_zero()) || !alarm.prepare_sleep() {
            return Ok(());
        }
        let spent = self.idle.sleeps(local.now());
        let slept = local.device_wait(timeout);
        let mut counters = local.counters.borrow_mut();
        counters.sleeps += 1;
        counters.wakeups += u64::from(alarm.woke_up());
        drop(counters);
        self.count(spent);
        slept
    }

    /// Counts what a pause consisted of.
    fn count(&self, spent: Spent) {
        let mut counters = self.local.counters.borrow_mut();
        counters.slept_nanoseconds += spent.slept.as_nanos() as u64;
        counters.spun_nanoseconds += spent.spun.as_nanos() as u64;
        counters.spins_preempted += u64::from(spent.preempted);
    }

    /// Publishes the figures if there are new ones and the last are old enough.
    fn publish(&mut self) {
        let now = self.local.now();
        if self.unpublished && now - self.last_published >= limits::METRICS_INTERVAL {
            self.last_published = now;
            self.unpublished = false;
            if let Some(figures) = self.local.snapshot() {
                self.local.shared.publish(figures);
            }
        }
    }

    /// Whether the thread's work is done: the shutdown has begun, and either all shards have drained or time is over. A
    /// shard that has drained goes on while others have not, as their packets may arrive here. Drained is a
    /// shard only after a turn without a task: those that the last packets woke still have to see how their connections ended.
    fn is_over(&mut self) -> bool {
        let local = &self.local;
        let shared = &local.shared;
        let phase = shared.phase();
        if phase == Phase::Running {
            return false;
        }
        if self.drain_deadline.is_none() {
            self.drain_deadline = Some(local.now() + shared.drain_timeout);
            tracing::info!(shard = local.index, connections = local.connections(), "shutting down");
            local.begin_drain();
        }
        let quiet = local.is_drained();
        let drained = quiet && self.was_quiet && self.tasks_ran == 0;
        (self.was_quiet, self.look_again) = (quiet, quiet && !drained);
        let own = &shared.ports[local.index].drained;
        if own.swap(drained, Ordering::AcqRel) != drained {
            shared.notify_all();
        }
        let all = shared.ports.iter().all(|port| port.drained.load(Ordering::Acquire));
        all || phase == Phase::Aborting || self.drain_deadline.is_some_and(|deadline| deadline <= local.now())
    }

    /// Takes the shard down: drops the tasks, aborts what is left, sends the last packets, closes the device.
    fn finish(self) -> ShardMetrics {
        let Self { local, entered, executor, control, .. } = self;
        drop(control);
        local.set_now(sys::monotonic());
        // Before the tasks, whose streams would close gracefully: there is no time left for that.
        let aborted = local.abort_connections();
        {
            let mut counters = local.counters.borrow_mut();
            counters.connections_aborted += aborted as u64;
            counters.apps_cut_off += u64::from(!local.app_ended.get());
        }
        drop(local.take_executor());
        drop(executor);
        for _ in 0..limits::FINAL_TURNS {
            if !(local.poll_receive() | local.poll_transmit()) {
                break;
            }
        }
        local.run_deferred();
        local.settle_steering();
        let mut figures = local.snapshot().unwrap_or_default();
        drop(entered);
        if let Ok(local) = Rc::try_unwrap(local) {
            let device = local.into_device();
            figures.pool = device.pool().usage();
        }
        figures
    }
}

pin_project_lite::pin_project! {
    /// The output of a future, or its panic.
    pub(super) struct CatchPanics<F> {
        #[pin]
        pub(super) future: F,
    }
}

impl<F: Future> Future for CatchPanics<F> {
    type Output = std::thread::Result<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.project().future.poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}
