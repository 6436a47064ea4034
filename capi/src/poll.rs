//! `poll(2)`: what a descriptor is ready for, as Linux's `tcp_poll` answers it.

use std::task::Poll;

use bywash::tcp::State;
use bywash::time::Duration;
use libc::{c_int, c_short, pollfd};

use crate::errno::Errno;
use crate::monitor;
use crate::sockets::{Phase, World};

/// `poll(2)`.
///
/// # Safety
/// `fds` points to `count` entries.
pub(crate) unsafe fn poll(fds: *mut pollfd, count: usize, timeout_ms: c_int) -> Result<c_int, Errno> {
    if fds.is_null() && count > 0 {
        return Err(Errno(libc::EFAULT));
    }
    let mut entries = Vec::with_capacity(count);
    for i in 0..count {
        // SAFETY: `i` is below `count`.
        entries.push(unsafe { fds.add(i).read_unaligned() });
    }
    monitor::refresh();
    let outcome = monitor::block(patience(timeout_ms), Errno(libc::EAGAIN), |world| {
        let mut ready = 0;
        for entry in &mut entries {
            entry.revents = if entry.fd < 0 { 0 } else { world.ready(entry.fd).events_for(entry.events) };
            ready += c_int::from(entry.revents != 0);
        }
        if ready > 0 { Poll::Ready(Ok(ready)) } else { Poll::Pending }
    });
    for (i, entry) in entries.iter().enumerate() {
        // SAFETY: there are as many.
        unsafe { fds.add(i).write_unaligned(*entry) };
    }
    match outcome {
        Err(Errno(libc::EAGAIN)) => Ok(0),
        other => other,
    }
}

/// A timeout in milliseconds; a negative one is none.
pub(crate) fn patience(timeout_ms: c_int) -> Option<Duration> {
    u64::try_from(timeout_ms).ok().map(Duration::from_millis)
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ready {
    pub(crate) mask: c_short,
    /// Changes with everything that would wake an edge-triggered waiter.
    pub(crate) activity: u64,
}

impl Ready {
    /// The part asked for; errors and hang-ups are always told.
    pub(crate) fn events_for(self, asked: c_short) -> c_short {
        self.mask & (asked | libc::POLLERR | libc::POLLHUP | libc::POLLNVAL)
    }
}

const READ: c_short = libc::POLLIN | libc::POLLRDNORM;
const WRITE: c_short = libc::POLLOUT | libc::POLLWRNORM;

impl World {
    /// What the descriptor is ready for.
    pub(crate) fn ready(&mut self, fd: c_int) -> Ready {
        let Ok(socket) = self.socket(fd) else { return foreign(fd) };
        let (read_shut, has_notices) = (socket.read_shut, !socket.notices.is_empty());
        let lowat = socket.kept.get(&(libc::IPPROTO_TCP, crate::sockopt::TCP_NOTSENT_LOWAT)).copied();
        let (cap, receive_lowat) = (socket.options.send_buffer_bytes, socket.receive_lowat());
        let id = match &socket.phase {
            Phase::Fresh => return Ready { mask: libc::POLLHUP | WRITE, activity: 0 },
            Phase::Deferred(_) => return Ready { mask: WRITE, activity: 0 },
            Phase::Listening(listeners) => {
                let listeners = listeners.clone();
                let tcp = &self.stack.tcp;
                let waiting: usize = listeners.iter().filter_map(|id| tcp.acceptable(*id).ok()).sum();
                return Ready { mask: if waiting > 0 { READ } else { 0 }, activity: waiting as u64 };
            }
            Phase::Connecting(id) | Phase::Connected(id) => *id,
        };
        let Ok(readiness) = self.stack.tcp.readiness(id) else {
            return Ready { mask: libc::POLLHUP | WRITE, activity: 0 };
        };
        let over = readiness.state == State::Closed;
        let end = readiness.fin_received || read_shut || over;
        let mut mask = 0;
        if over || end && readiness.fin_queued {
            mask |= libc::POLLHUP;
        }
        if end {
            mask |= READ | libc::POLLRDHUP;
        }
        if readiness.state != State::SynSent {
            let hidden = self.hidden_urgent(fd).is_some_and(|urgent| urgent.offset == 0 && urgent.arrived);
            if readiness.readable_bytes >= receive_lowat.saturating_add(usize::from(hidden)) {
                mask |= READ;
            }
            // As in Linux: a third of the buffer is free, and little enough is unsent.
            let room = readiness.queued_bytes.saturating_mul(3) < cap.saturating_mul(2);
            let few = lowat.is_none_or(|lowat| lowat <= 0 || readiness.unsent_bytes < lowat as usize);
            if over || readiness.fin_queued || room && few {
                mask |= WRITE;
            }
            if self.has_urgent(fd) {
                mask |= libc::POLLPRI;
            }
        }
        if readiness.error.is_some() || has_notices {
            mask |= libc::POLLERR;
        }
        let info = self.stack.tcp.info(self.stack.now, id);
        let activity = info.map_or(0, |info| info.bytes_received.wrapping_add(info.bytes_acked << 20));
        Ready { mask, activity }
    }
}

/// A descriptor of the kernel's.
fn foreign(fd: c_int) -> Ready {
    let mut entry = pollfd { fd, events: READ | WRITE | libc::POLLPRI, revents: 0 };
    // SAFETY: one entry, and no waiting.
    unsafe { libc::poll(&raw mut entry, 1, 0) };
    Ready { mask: entry.revents, activity: 0 }
}
