//! `errno` values: the error type of everything behind the C interface.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bywash::tcp::TcpError;

/// A value of `errno(3)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub(crate) i32);

impl From<TcpError> for Errno {
    fn from(error: TcpError) -> Self {
        Self(match error {
            TcpError::WouldBlock => libc::EAGAIN,
            TcpError::NotConnected => libc::ENOTCONN,
            TcpError::ConnectionRefused => libc::ECONNREFUSED,
            TcpError::ConnectionReset => libc::ECONNRESET,
            TcpError::ConnectionAborted => libc::ECONNABORTED,
            TcpError::TimedOut => libc::ETIMEDOUT,
            TcpError::HostUnreachable => libc::EHOSTUNREACH,
            TcpError::NetworkUnreachable => libc::ENETUNREACH,
            TcpError::AddrInUse => libc::EADDRINUSE,
            TcpError::AddrNotAvailable => libc::EADDRNOTAVAIL,
            TcpError::Shutdown => libc::EPIPE,
            TcpError::TableFull => libc::ENOBUFS,
            TcpError::InvalidInput => libc::EINVAL,
        })
    }
}

/// The calling thread's last error, for calls that the kernel answered.
pub(crate) fn last() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Runs a call for C: its error goes to `errno` and gives `failed`; a panic does not cross to the caller, it is `EIO`.
pub(crate) fn guarded<R>(failed: R, call: impl FnOnce() -> Result<R, Errno>) -> R {
    let Errno(errno) = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return value,
        Ok(Err(errno)) => errno,
        Err(_panic) => Errno(libc::EIO),
    };
    // SAFETY: the pointer is the calling thread's own errno, valid as long as the thread is.
    unsafe { *libc::__errno_location() = errno };
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        assert_eq!(guarded(-1, || panic!("not for the caller")), -1);
        assert_eq!(last(), Errno(libc::EIO));
        assert_eq!(guarded(-1, || Err(Errno(libc::EAGAIN))), -1);
        assert_eq!(last(), Errno(libc::EAGAIN));
        assert_eq!(guarded(-1, || Ok(7)), 7);
    }
}
