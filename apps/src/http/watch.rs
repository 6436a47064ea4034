//! When a connection has waited long enough: one deadline a connection, from what moved on it last. Time is passed in.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::{io, pin::Pin};

use bywash::time::{Duration, Instant};
use hyper::rt::{Read, ReadBufCursor, Write};

/// How long each kind of wait may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Between requests.
    pub idle: Duration,
    /// From a request's first byte to the end of its header.
    pub header: Duration,
    /// Within a request, without a byte moving either way.
    pub stall: Duration,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The next request.
    Idle,
    /// The rest of a header.
    Header,
    /// Bodies, or the file system.
    Busy,
}

/// One connection's state.
#[derive(Debug)]
pub struct Watch {
    timeouts: Timeouts,
    phase: Cell<Phase>,
    /// When the phase began.
    since: Cell<Instant>,
    /// When a byte moved last.
    moved: Cell<Instant>,
}

impl Watch {
    /// A connection that opened at `now`.
    #[must_use]
    pub fn new(timeouts: Timeouts, now: Instant) -> Self {
        Self { timeouts, phase: Cell::new(Phase::Idle), since: Cell::new(now), moved: Cell::new(now) }
    }

    /// Bytes arrived.
    pub fn received(&self, now: Instant) {
        self.moved.set(now);
        if self.phase.get() == Phase::Idle {
            self.enter(Phase::Header, now);
        }
    }

    /// The stack took bytes.
    pub fn sent(&self, now: Instant) {
        self.moved.set(now);
    }

    /// A request's header is complete.
    pub fn request(&self, now: Instant) {
        self.enter(Phase::Busy, now);
    }

    /// The answer's body was handed over (or given up).
    pub fn answered(&self, now: Instant) {
        self.enter(Phase::Idle, now);
    }

    /// What is waited for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// When the wait has been too long, if nothing moves before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let moved = self.moved.get();
        match self.phase.get() {
            // The last answer may still be on its way out of the buffers.
            Phase::Idle => self.since.get().max(moved) + self.timeouts.idle,
            // From the first byte: a byte now and then does not prolong it.
            Phase::Header => self.since.get() + self.timeouts.header,
            Phase::Busy => self.since.get().max(moved) + self.timeouts.stall,
        }
    }

    fn enter(&self, phase: Phase, now: Instant) {
        self.phase.set(phase);
        self.since.set(now);
    }
}

/// A stream that tells a [`Watch`] what moves.
pub struct Watched<S> {
    stream: S,
    watch: Rc<Watch>,
    now: fn() -> Instant,
}

impl<S> Watched<S> {
    /// Watches `stream`.
    pub fn new(stream: S, watch: Rc<Watch>, now: fn() -> Instant) -> Self {
        Self { stream, watch, now }
    }
}

impl<S: Read + Unpin> Read for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, bytes);
        if let Poll::Ready(Ok(())) = polled {
            self.watch.received((self.now)());
        }
        polled
    }
}

impl<S: Write + Unpin> Write for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(_)) = polled {
            self.watch.sent((self.now)());
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(_)) = polled {
            self.watch.sent((self.now)());
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        idle: Duration::from_secs(60),
        header: Duration::from_secs(30),
        stall: Duration::from_secs(120),
    };

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn a_header_must_end_in_time_however_it_trickles() {
        let watch = Watch::new(TIMEOUTS, at(0));
        assert_eq!((watch.phase(), watch.deadline()), (Phase::Idle, at(60)));
        watch.received(at(10));
        watch.received(at(35));
        assert_eq!((watch.phase(), watch.deadline()), (Phase::Header, at(40)));
    }

    #[test]
    fn a_busy_request_lives_as_long_as_bytes_move() {
        let watch = Watch::new(TIMEOUTS, at(0));
        watch.received(at(1));
        watch.request(at(2));
        assert_eq!(watch.deadline(), at(122));
        watch.received(at(50));
        assert_eq!((watch.phase(), watch.deadline()), (Phase::Busy, at(170)));
        watch.sent(at(60));
        assert_eq!(watch.deadline(), at(180));
    }

    #[test]
    fn idleness_counts_from_the_last_byte_of_the_answer() {
        let watch = Watch::new(TIMEOUTS, at(0));
        watch.request(at(1));
        watch.answered(at(5));
        watch.sent(at(8));
        assert_eq!((watch.phase(), watch.deadline()), (Phase::Idle, at(68)));
    }
}
