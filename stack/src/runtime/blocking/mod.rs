//! Sockets with `std::net`'s blocking face, for threads that are not shards.
//!
//! Each socket is a task on its shard with a bounded channel each way. A full channel makes the side that fills it
//! wait: the thread in its call, the shard's task by not taking more from the connection, so that the peer's window
//! closes. All calls wait, so none may be made on a shard's thread: there they return an error of kind `Unsupported`.

use core::sync::atomic::{AtomicBool, Ordering, fence};
use core::task::Waker;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

use super::control::{ControlError, Handle};
use super::local::{self, Local};
use crate::time::Duration;

mod tcp;
mod udp;

pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;

/// A channel from a thread to a task of a shard, which every item wakes.
struct ToShard<T> {
    sender: Sender<T>,
    waker: Waker,
}

impl<T> ToShard<T> {
    /// Waits for room, at most `timeout`; the item is lost when there was none.
    fn send(&self, item: T, timeout: Option<Duration>) -> io::Result<()> {
        let sent = match timeout {
            None => self.sender.send(item).map_err(|_| io::ErrorKind::BrokenPipe),
            Some(timeout) => self.sender.send_timeout(item, timeout).map_err(|error| match error {
                SendTimeoutError::Timeout(_) => io::ErrorKind::TimedOut,
                SendTimeoutError::Disconnected(_) => io::ErrorKind::BrokenPipe,
            }),
        };
        sent.map_err(io::Error::from)?;
        self.waker.wake_by_ref();
        Ok(())
    }
}

/// A channel from a task of a shard to a thread. The task looks for room before it takes anything off the network.
struct ToThread<T> {
    sender: Sender<T>,
    stalled: Arc<AtomicBool>,
}

impl<T> ToThread<T> {
    /// Whether an item can be sent without waiting. If not, the receiving thread wakes the task when it has made room.
    fn has_room(&self) -> bool {
        if !self.sender.is_full() {
            return true;
        }
        // Either this look at the channel sees the room that the thread has made, or the thread's look at the flag sees
        // it set: the two fences are in one order.
        self.stalled.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.sender.is_full()
    }

    /// Sends without waiting; the item is lost when the receiver has gone, or there is no room.
    fn send(&self, item: T) {
        let _ = self.sender.try_send(item);
    }
}

/// The receiving end of [`ToThread`].
struct FromShard<T> {
    receiver: Receiver<T>,
    stalled: Arc<AtomicBool>,
    waker: Waker,
}

impl<T> FromShard<T> {
    /// Waits for an item, at most `timeout`.
    fn recv(&self, timeout: Option<Duration>) -> Result<T, RecvTimeoutError> {
        let item = match timeout {
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(timeout) => self.receiver.recv_timeout(timeout),
        };
        self.made_room();
        item
    }

    /// Call after taking an item.
    fn made_room(&self) {
        fence(Ordering::SeqCst);
        if self.stalled.swap(false, Ordering::Relaxed) {
            self.waker.wake_by_ref();
        }
    }
}

/// Both ends of a channel of `capacity` items to a thread; `waker` is the sending task's.
fn to_thread<T>(capacity: usize, waker: Waker) -> (ToThread<T>, FromShard<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let stalled = Arc::new(AtomicBool::new(false));
    (ToThread { sender, stalled: Arc::clone(&stalled) }, FromShard { receiver, stalled, waker })
}

/// Both ends of a channel of `capacity` items to a task.
fn to_shard<T>(capacity: usize, waker: Waker) -> (ToShard<T>, Receiver<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    (ToShard { sender, waker }, receiver)
}

/// The calling task's waker, which stays the same for the task's life: the sockets' tasks are not part of other
/// futures.
async fn own_waker() -> Waker {
    core::future::poll_fn(|cx| core::task::Poll::Ready(cx.waker().clone())).await
}

/// Refuses threads that must not wait.
fn may_block() -> Result<(), ControlError> {
    if local::current().is_some() { Err(ControlError::OnShard) } else { Ok(()) }
}

/// Runs `call` on a shard's thread and waits for its result.
fn ask<T: Send + 'static>(
    handle: &Handle,
    shard: usize,
    call: impl FnOnce(&Rc<Local>) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    may_block()?;
    let (sender, answer) = crossbeam_channel::bounded(1);
    handle.send(shard, Box::new(move |local| drop(sender.send(call(local)))))?;
    answer.recv().map_err(|_| ControlError::Ended)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::task::Wake;

    use super::*;

    struct Unpark(std::thread::Thread, AtomicU64);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.unpark();
        }
    }

    /// The sender parks whenever there is no room: were a wake-up lost, nobody would unpark it, and the receiver would
    /// wait in vain.
    #[test]
    fn a_stalled_sender_is_always_woken() {
        const ITEMS: u32 = 50_000;
        let wakes = Arc::new(Unpark(std::thread::current(), AtomicU64::new(0)));
        let (to_thread, from_shard) = to_thread::<u32>(2, Waker::from(Arc::clone(&wakes)));
        let receiver = std::thread::spawn(move || {
            for expected in 0..ITEMS {
                assert_eq!(from_shard.recv(Some(Duration::from_secs(20))), Ok(expected));
            }
        });
        for item in 0..ITEMS {
            while !to_thread.has_room() {
                std::thread::park_timeout(Duration::from_secs(20));
            }
            to_thread.send(item);
        }
        receiver.join().unwrap();
        assert!(wakes.1.load(Ordering::Relaxed) > 0);
    }
}
