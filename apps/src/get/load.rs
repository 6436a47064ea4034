//! Many fetches of one URL: a simple load, with rates and latencies. Workers are spread over the shards, each with a
//! connection of its own that it keeps as long as the server does.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bywash::runtime::{BoxError, Context, spawn};
use http_body_util::BodyExt;
use hyper::Uri;

use super::{Connection, GetError};
use crate::cli::GetArgs;
use crate::error::AppError;
use crate::stack;
use crate::units::bytes_for_people;

/// Most workers: each has a connection, and one address pair has no more ports than that.
const CONCURRENCY_MAX: u32 = 10_000;

/// What all workers share.
struct Job {
    url: Uri,
    connect_timeout: Duration,
    stall_timeout: Duration,
    workers: u32,
    /// Requests that no worker has taken yet.
    left: AtomicU64,
    results: Mutex<Results>,
}

/// Fetches `url` `requests` times.
///
/// # Errors
/// [`AppError::Unsuccessful`] when a request failed; otherwise as [`AppError`] says.
pub fn run(args: &GetArgs, url: &Uri, requests: u64) -> Result<(), AppError> {
    if args.concurrency == 0 || args.concurrency > CONCURRENCY_MAX {
        return Err(AppError::Usage(format!("--concurrency must be from 1 to {CONCURRENCY_MAX}")));
    }
    let job = Arc::new(Job {
        url: url.clone(),
        connect_timeout: args.connect_timeout,
        stall_timeout: args.stall_timeout,
        workers: args.concurrency,
        left: AtomicU64::new(requests),
        results: Mutex::default(),
    });
    let prepared = stack::prepare(&args.stack)?;
    let what = format!("get {url}, {requests} requests, {} at a time", args.concurrency);
    let shared = job.clone();
    let running = prepared.start(&what, move |context| shard(shared.clone(), context))?;
    let start = Instant::now();
    running.wait()?;
    let elapsed = start.elapsed();
    let results = job.results.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{}", results.report(elapsed));
    let done = results.latencies.count;
    match &results.error {
        Some(error) => {
            Err(AppError::Unsuccessful(format!("{} requests failed; the first: {error}", results.failed)))
        }
        None if done < requests => {
            Err(AppError::Unsuccessful(format!("{} requests were not made", requests - done)))
        }
        None => Ok(()),
    }
}

/// One shard's part of the workers.
async fn shard(job: Arc<Job>, context: Context) -> Result<(), BoxError> {
    stack::address_within(&context, job.connect_timeout).await?;
    let (shard, shards) = (context.shard() as u32, context.shards() as u32);
    let own = (0..job.workers).filter(|worker| worker % shards == shard);
    let workers: Vec<_> = own.map(|_| spawn(worker(job.clone(), context.clone()))).collect();
    for worker in workers {
        worker.await;
    }
    Ok(())
}

async fn worker(job: Arc<Job>, context: Context) {
    let mut results = Results::default();
    let mut connection = None;
    while !context.handle().is_shutting_down() && job.take() {
        let start = Instant::now();
        match exchange(&job, &mut connection).await {
            Ok(bytes) => {
                results.latencies.record(start.elapsed());
                results.bytes += bytes;
            }
            Err(error) => {
                connection = None;
                results.failed += 1;
                results.error.get_or_insert_with(|| error.to_string());
            }
        }
    }
    job.results.lock().unwrap_or_else(PoisonError::into_inner).add(&results);
}

impl Job {
    /// Takes one request, if any is left.
    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// One request on the worker's connection, or on a new one where the server closed it.
async fn exchange(job: &Job, connection: &mut Option<Connection>) -> Result<u64, GetError> {
    if connection.as_ref().is_none_or(|connection| connection.sender.is_closed()) {
        *connection = Some(Connection::open(&job.url, job.connect_timeout, job.stall_timeout).await?);
    }
    let Some(open) = connection else { unreachable!("opened above") };
    let response = open.get(&job.url).await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    if status.is_success() { Ok(bytes) } else { Err(GetError::Status(job.url.clone(), status)) }
}

/// What workers found.
#[derive(Default)]
struct Results {
    latencies: Histogram,
    bytes: u64,
    failed: u64,
    error: Option<String>,
}

impl Results {
    fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies);
        self.bytes += other.bytes;
        self.failed += other.failed;
        if self.error.is_none() {
            self.error.clone_from(&other.error);
        }
    }

    fn report(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64().max(1e-6);
        let rate = self.latencies.count as f64 / seconds;
        format!(
            "{} requests in {seconds:.2} s, {rate:.0} requests/s, {}/s, {} failed\nlatency {}",
            self.latencies.count,
            bytes_for_people((self.bytes as f64 / seconds) as u64),
            self.failed,
            self.latencies,
        )
    }
}

/// Bits of precision of a latency: 32 steps from each power of two to the next, an error below 3 %.
const STEP_BITS: u32 = 5;

/// Latencies in microseconds, in steps that grow with them.
struct Histogram {
    steps: Vec<u64>,
    count: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { steps: vec![0; step(u64::MAX) + 1], count: 0, max_us: 0 }
    }
}

/// The step that `us` belongs to.
fn step(us: u64) -> usize {
    let shift = (u64::BITS - us.leading_zeros()).saturating_sub(STEP_BITS + 1);
    ((u64::from(shift) << STEP_BITS) + (us >> shift)) as usize
}

/// The least value of a step.
fn step_start(step: usize) -> u64 {
    let step = step as u64;
    let shift = (step >> STEP_BITS).saturating_sub(1);
    (step - (shift << STEP_BITS)) << shift
}

impl Histogram {
    fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.steps[step(us)] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    fn add(&mut self, other: &Self) {
        for (sum, other) in self.steps.iter_mut().zip(&other.steps) {
            *sum += other;
        }
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// The latency in microseconds that this share of the requests did not exceed, rounded down to its step.
    fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (step, count) in self.steps.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return step_start(step);
            }
        }
        self.max_us
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1e3;
        write!(
            f,
            "50 % {:.3} ms, 90 % {:.3} ms, 99 % {:.3} ms, longest {:.3} ms",
            ms(self.quantile(0.5)),
            ms(self.quantile(0.9)),
            ms(self.quantile(0.99)),
            ms(self.max_us)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_within_three_percent() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        for (share, want) in [(0.5, 500_000.0), (0.9, 900_000.0), (0.99, 990_000.0)] {
            let got = histogram.quantile(share) as f64;
            assert!((got - want).abs() / want < 0.035, "{share}: {got}");
        }
        assert_eq!((histogram.count, histogram.max_us), (1000, 1_000_000));
    }

    #[test]
    fn an_empty_histogram_has_a_report() {
        assert!(Results::default().report(Duration::ZERO).contains("0 requests"));
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_step(us in prop_oneof![0u64..5000, any::<u64>()]) {
            let step = step(us);
            prop_assert!(step_start(step) <= us);
            prop_assert!(step == super::step(u64::MAX) || us < step_start(step + 1));
        }
    }
}
