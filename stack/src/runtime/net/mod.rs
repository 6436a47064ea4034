//! The async sockets. Their faces follow `std::net` and `tokio::net`; their options carry the names of `setsockopt(2)`.
//!
//! Every future may be dropped at any time: bytes are taken from or given to the engine in the same step in which the
//! future completes, so that nothing is lost in between. All of it belongs to the thread's shard: on other threads it
//! returns an error of kind `Unsupported`, and after the runtime's end one of kind `NotConnected`.

mod handover;
mod listener;
mod lookup;
mod ping;
mod tcp;
mod udp;
pub(super) mod waiters;

pub use handover::Handover;
pub use listener::TcpListener;
pub use lookup::lookup;
pub use ping::{Echo, Pinger};
pub(super) use tcp::set_keepalive;
pub use tcp::{Keepalive, OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, TcpStream, WriteHalf};
pub use udp::UdpSocket;

pub use crate::tcp::{Chunk, FastOpenFailure, IpFields, Shutdown, SocketOptions, TcpInfo};

use std::io;

use crate::shard::NetError;

/// The [`io::Error`] that a std socket would give.
pub(super) fn net_error(error: NetError) -> io::Error {
    let kind = match error {
        NetError::TooManySockets => io::ErrorKind::QuotaExceeded,
        NetError::AddrInUse => io::ErrorKind::AddrInUse,
        NetError::AddrNotAvailable => io::ErrorKind::AddrNotAvailable,
        NetError::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
        NetError::HostUnreachable => io::ErrorKind::HostUnreachable,
        NetError::ConnectionRefused => io::ErrorKind::ConnectionRefused,
        NetError::MessageTooLong | NetError::InvalidInput => io::ErrorKind::InvalidInput,
        NetError::NotFound => io::ErrorKind::NotConnected,
        NetError::NameNotFound | NetError::NoAddress => io::ErrorKind::NotFound,
        NetError::NameServerFailed(_) => io::ErrorKind::Other,
        NetError::NoNameServer => io::ErrorKind::Unsupported,
        NetError::TimedOut | NetError::NameServerSilent => io::ErrorKind::TimedOut,
    };
    io::Error::new(kind, error)
}
