//! The runtime's system calls: the monotonic clock, a thread's CPU time, CPU affinity, eventfds. All of the runtime's
//! `unsafe` that calls libc is in this file.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use crate::time::{Duration, Instant};

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the kernel to write; the call has no other effect.
    let failed = unsafe { libc::clock_gettime(id, &raw mut time) } != 0;
    debug_assert!(!failed, "clock {id} exists on every Linux");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// `CLOCK_MONOTONIC`: the origin of the runtime's [`Instant`]s is the machine's start.
pub(super) fn monotonic() -> Instant {
    Instant::ZERO + clock(libc::CLOCK_MONOTONIC)
}

/// CPU time the calling thread has used.
pub(super) fn thread_cpu() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The CPUs the calling thread may run on, in ascending order.
pub(super) fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is plain bits, for which all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes at most the size given into `set`.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `cpu` is below the number of bits in the set.
    Ok((0..8 * size_of_val(&set)).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Binds the calling thread to one CPU.
pub(super) fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: a `cpu_set_t` is plain bits, for which all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    if cpu >= 8 * size_of_val(&set) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu` is below the number of bits in the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads the size given from `set`.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A non-blocking eventfd: a counter that makes `poll(2)` return while it is not zero.
#[derive(Debug)]
pub(super) struct EventFd(File);

impl EventFd {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes the descriptor readable. The only failure is a full counter (2^64 - 2), and then it is readable.
    pub(super) fn signal(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable; returns how many signals that took away. It fails only when it already is.
    pub(super) fn clear(&self) -> u64 {
        let mut count = [0; 8];
        match (&self.0).read_exact(&mut count) {
            Ok(()) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sleeps in `poll(2)` until one of `fds` is readable or `timeout` is over.
#[cfg(any(test, feature = "sim"))]
pub(super) fn poll_readable(fds: &[RawFd], timeout: Option<Duration>) -> io::Result<()> {
    let mut fds: Vec<_> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: `fds` is a live array of the length given, `timeout` is null or points to a timespec that outlives the
    // call, and a null signal mask is allowed.
    let ready =
        unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout, core::ptr::null()) };
    match ready {
        ready if ready >= 0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back_and_cpu_time_grows_with_work() {
        let (start, cpu) = (monotonic(), thread_cpu());
        let mut sum = 0u64;
        while thread_cpu() == cpu {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        assert!(monotonic() > start, "{sum}");
    }

    #[test]
    fn a_thread_can_be_pinned_to_a_cpu_it_may_use() {
        std::thread::spawn(|| {
            let cpu = *allowed_cpus().unwrap().last().unwrap();
            pin_to(cpu).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [cpu]);
            assert!(pin_to(1 << 20).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_eventfd_is_readable_from_signal_to_clear() {
        let event = EventFd::new().unwrap();
        event.signal();
        event.signal();
        poll_readable(&[event.raw()], None).unwrap();
        assert_eq!(event.clear(), 2);
        let start = monotonic();
        poll_readable(&[event.raw()], Some(Duration::from_millis(2))).unwrap();
        assert!(monotonic() - start >= Duration::from_millis(2));
    }
}
