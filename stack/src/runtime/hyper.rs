//! hyper's runtime traits (feature `hyper`): its I/O traits for the streams, [`ShardTimer`] and [`ShardExecutor`].

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::time::Instant as StdInstant;

use hyper::rt::{Executor, Read, ReadBufCursor, Timer, Write};

use super::net::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, TcpStream, WriteHalf};
use super::time::{self, Sleep};
use crate::time::{Duration, Instant};

/// Runs hyper's background futures on this thread's shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardExecutor;

impl<F> Executor<F> for ShardExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        super::spawn(future).detach();
    }
}

/// hyper's clock and timers, from this thread's shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardTimer;

impl Timer for ShardTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(time::sleep(duration))
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(time::sleep_until(instant(deadline)))
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn hyper::rt::Sleep>>, deadline: StdInstant) {
        match sleep.as_mut().downcast_mut_pin::<Sleep>() {
            Some(sleep) => sleep.get_mut().reset(instant(deadline)),
            None => *sleep = self.sleep_until(deadline),
        }
    }
}

impl hyper::rt::Sleep for Sleep {}

/// Both count `CLOCK_MONOTONIC`, but std does not tell from where.
fn instant(deadline: StdInstant) -> Instant {
    time::now() + deadline.saturating_duration_since(StdInstant::now())
}

macro_rules! read {
    ($($stream:ty),*) => {$(
        impl Read for $stream {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                mut buf: ReadBufCursor<'_>,
            ) -> Poll<io::Result<()>> {
                let max = buf.remaining();
                self.inner.poll_read_with(cx, max, |run| buf.put_slice(run)).map_ok(drop)
            }
        }
    )*};
}

macro_rules! write {
    ($($stream:ty),*) => {$(
        impl Write for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.inner.poll_write(cx, bytes)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.inner.shutdown_write())
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.inner.poll_write_vectored(cx, slices)
            }
        }
    )*};
}

read!(TcpStream, ReadHalf<'_>, OwnedReadHalf);
write!(TcpStream, WriteHalf<'_>, OwnedWriteHalf);
