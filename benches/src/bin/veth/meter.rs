//! Counts of a thread at work, and readings of them over a stretch of time: rates, and what the thread's core spent.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Result;

/// What a thread counts while it works.
#[derive(Default)]
pub struct Meter {
    /// Frames, requests, connections: what is measured.
    count: AtomicU64,
    stop: AtomicBool,
    /// The thread whose CPU time is read, once it has said.
    tid: AtomicI32,
}

impl Meter {
    /// The calling thread is the one whose CPU time counts.
    pub fn this_thread(&self) {
        self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
    }

    /// Adds to the count; returns whether to go on.
    pub fn add(&self, count: u64) -> bool {
        // One thread writes: no read-modify-write on the way of a frame.
        self.count.store(self.count.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        self.goes_on()
    }

    /// Whether to go on.
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Tells the thread to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// CPU time of the thread.
    fn cpu(&self) -> Result<Duration> {
        let tid = self.tid.load(Ordering::Acquire);
        let text = fs::read_to_string(format!("/proc/self/task/{tid}/schedstat"))?;
        let nanos = text.split_whitespace().next().ok_or("no CPU time in schedstat")?;
        Ok(Duration::from_nanos(nanos.parse()?))
    }
}

/// Holds a raw sender back while more than [`Credit::IN_FLIGHT`] of its packets have not arrived, as a window does: what the
/// receiver's ring has no room for would be dropped, and cost less than what arrives.
pub struct Credit<'a> {
    arrivals: &'a Meter,
    sent: u64,
    /// Given up, or arrived before.
    written_off: i64,
    /// The last arrival that was seen, and when.
    heard: (u64, Instant),
}

impl<'a> Credit<'a> {
    /// Packets under way at most: fewer than the 256 that veth itself holds for a receiver.
    const IN_FLIGHT: i64 = 192;
    /// Fewer are not worth a system call.
    const BURST: i64 = 64;
    /// Silence after which what has not arrived is lost.
    const LOST_AFTER: Duration = Duration::from_millis(5);

    /// With nothing under way; `arrivals` counts what arrives.
    pub fn new(arrivals: &'a Meter) -> Self {
        let count = arrivals.count();
        Self { arrivals, sent: 0, written_off: -(count as i64), heard: (count, Instant::now()) }
    }

    /// Notes that `count` packets were sent. Returns how many more may be now; `None`: no more ever.
    pub fn take(&mut self, count: u64) -> Option<usize> {
        self.sent += count;
        let arrived = self.arrivals.count();
        if arrived != self.heard.0 {
            self.heard = (arrived, Instant::now());
        }
        let mut room = Self::IN_FLIGHT - self.under_way(arrived);
        if room < Self::BURST && self.heard.1.elapsed() > Self::LOST_AFTER {
            self.written_off += self.under_way(arrived);
            room = Self::IN_FLIGHT;
        }
        self.arrivals.goes_on().then_some(if room < Self::BURST { 0 } else { room as usize })
    }

    fn under_way(&self, arrived: u64) -> i64 {
        self.sent as i64 - arrived as i64 - self.written_off
    }
}

/// A stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Counted in a second.
    pub rate: f64,
    /// CPU time of the watched thread for each that was counted, in nanoseconds.
    pub cpu_nanos: f64,
}

/// Lets things run for `warm_up`, then measures for `seconds`. `counted` counts, `worker` is the thread whose time is read.
pub fn read(counted: &Meter, worker: &Meter, warm_up: Duration, seconds: Duration) -> Result<Reading> {
    thread::sleep(warm_up);
    let begin = (Instant::now(), counted.count(), worker.cpu()?);
    thread::sleep(seconds);
    let end = (Instant::now(), counted.count(), worker.cpu()?);
    let count = (end.1 - begin.1) as f64;
    if count == 0.0 {
        return Err("nothing happened".into());
    }
    let cpu_nanos = (end.2 - begin.2).as_nanos() as f64 / count;
    Ok(Reading { rate: count / (end.0 - begin.0).as_secs_f64(), cpu_nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_holds_the_sender_back() {
        let arrivals = Meter::default();
        arrivals.add(100);
        let mut credit = Credit::new(&arrivals);
        assert_eq!(credit.take(100), Some(92));
        assert_eq!(credit.take(92), Some(0));
        arrivals.add(192);
        assert_eq!(credit.take(0), Some(192));
    }

    #[test]
    fn a_sender_is_told_to_stop() {
        let arrivals = Meter::default();
        arrivals.stop();
        assert_eq!(Credit::new(&arrivals).take(1), None);
    }
}
