//! TCP (RFC 9293): one engine for each shard, without clock, threads or syscalls.
//!
//! A segment enters at [`Tcp::receive`] (`engine.rs`), which finds its connection in `table.rs` and has `input.rs` handle it
//! in the steps of RFC 9293 section 3.10.7; a SYN for a `listener.rs` begins a compact half-open entry. Payload waits in
//! `receive_queue.rs` for the calls of `calls.rs`; what they write waits in `send_queue.rs` until `output.rs` sends it through
//! the [`Egress`]. `timers.rs` acts when time has passed, `recovery.rs` and `congestion/` when segments were lost, and
//! `time_wait.rs` remembers what has ended.

use core::net::{IpAddr, SocketAddr};
use std::io;

use crate::packet::{Packet, PacketSlice};
use crate::time::Instant;

mod calls;
mod config;
pub mod congestion;
mod connection;
mod engine;
pub mod header;
mod info;
mod input;
mod isn;
mod listener;
pub mod options;
mod output;
mod ports;
pub mod rate_limit;
pub mod receive_queue;
mod recovery;
mod replies;
pub mod rtt;
pub mod send_queue;
pub mod seq;
mod state;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod time_wait;
mod timers;

pub use config::{SocketOptions, TcpConfig};
pub use engine::Tcp;
pub use info::TcpInfo;
use seq::SeqNumber;
pub use state::State;

/// Both ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
}

/// A connection of this shard. A handle that was closed stays invalid: generations differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    /// Place in the engine's slab.
    pub index: u32,
    /// Which of the connections that had this place.
    pub generation: u32,
}

/// A listener of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId {
    /// Place in the engine's slab.
    pub index: u32,
    /// Which of the listeners that had this place.
    pub generation: u32,
}

/// Why a call failed or a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TcpError {
    /// Nothing to do now; the blocking and async faces wait instead.
    #[error("operation would block")]
    WouldBlock,
    /// No such connection or listener, or it ended in order.
    #[error("not connected")]
    NotConnected,
    /// The peer answered the SYN with a RST, or ICMP said that nobody listens.
    #[error("connection refused")]
    ConnectionRefused,
    /// The peer sent a RST.
    #[error("connection reset by peer")]
    ConnectionReset,
    /// We reset the connection.
    #[error("connection aborted")]
    ConnectionAborted,
    /// The peer did not answer: retransmissions, keepalive or the user timeout are used up.
    #[error("connection timed out")]
    TimedOut,
    /// ICMP, or neighbour discovery, said that the host cannot be reached.
    #[error("host unreachable")]
    HostUnreachable,
    /// No route to the destination.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// The address and port are taken.
    #[error("address already in use")]
    AddrInUse,
    /// No free port, or not an address of ours.
    #[error("address not available")]
    AddrNotAvailable,
    /// The write side was shut down.
    #[error("the write side is shut down")]
    Shutdown,
    /// The engine holds as many connections as it may (`TcpConfig::connections_max`).
    #[error("connection table full")]
    TableFull,
    /// An argument that makes no sense.
    #[error("invalid argument")]
    InvalidInput,
}

impl From<TcpError> for io::Error {
    fn from(error: TcpError) -> Self {
        let kind = match error {
            TcpError::WouldBlock => io::ErrorKind::WouldBlock,
            TcpError::NotConnected => io::ErrorKind::NotConnected,
            TcpError::ConnectionRefused => io::ErrorKind::ConnectionRefused,
            TcpError::ConnectionReset => io::ErrorKind::ConnectionReset,
            TcpError::ConnectionAborted => io::ErrorKind::ConnectionAborted,
            TcpError::TimedOut => io::ErrorKind::TimedOut,
            TcpError::HostUnreachable => io::ErrorKind::HostUnreachable,
            TcpError::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            TcpError::AddrInUse => io::ErrorKind::AddrInUse,
            TcpError::AddrNotAvailable => io::ErrorKind::AddrNotAvailable,
            TcpError::Shutdown => io::ErrorKind::BrokenPipe,
            TcpError::TableFull => io::ErrorKind::OutOfMemory,
            TcpError::InvalidInput => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// Which directions to shut, as shutdown(2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shutdown {
    /// Receiving.
    Read,
    /// Sending.
    Write,
    /// Both.
    Both,
}

/// What became of a segment.
#[derive(Debug)]
pub enum Received {
    /// Processed, or dropped and counted.
    Done,
    /// Nothing of this shard takes it: the shard asks the others, and the last calls [`Tcp::reject`].
    NoConnection(Packet),
}

/// A segment to send; the egress builds IP and Ethernet around it and computes the checksum while it copies.
#[derive(Clone, Copy, Debug)]
pub struct SegmentOut<'a> {
    /// Our end.
    pub src: SocketAddr,
    /// The peer's end.
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgment number; 0 without the ACK bit.
    pub ack: SeqNumber,
    /// Control bits as on the wire: see [`header::Flags`].
    pub flags: u16,
    /// Window field, scaled already.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options, a multiple of 4 bytes, at most 40.
    pub options: &'a [u8],
    /// Payload, piece by piece.
    pub payload: &'a [&'a [u8]],
    /// The two ECN bits of the IP header.
    pub ecn: u8,
}

/// Why the egress did not take a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EgressError {
    /// No frame or no room now: stop, keep everything as it is, try again at the next `transmit`.
    Full,
    /// No route to the destination.
    NoRoute,
    /// The packet would be longer than the path takes, in bytes of IP.
    TooBig {
        /// What the path takes.
        mtu: usize,
    },
}

/// Where segments go.
pub trait Egress {
    /// Largest IP packet towards `dst`, in bytes.
    fn path_mtu(&self, dst: IpAddr) -> usize;

    /// Takes one segment.
    ///
    /// # Errors
    /// See [`EgressError`]; the segment was not taken then.
    fn send(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<(), EgressError>;
}

/// An ICMP error about a segment of ours, read by `net`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// The quoted segment's ends, as we see them.
    pub tuple: Tuple,
    /// Its sequence number.
    pub seq: SeqNumber,
    /// What happened to it.
    pub kind: IcmpErrorKind,
}

/// What an ICMP error says (RFC 9293 section 3.9.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpErrorKind {
    /// Protocol or port unreachable: nobody listens.
    Refused,
    /// Network or host unreachable, time exceeded: it may pass.
    Unreachable,
    /// Too big for a link on the way.
    PacketTooBig {
        /// That link's MTU in bytes; 0 from old routers.
        mtu: u32,
    },
}

/// A run of received bytes, taken without a copy.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// In the frame they arrived in.
    Frame(PacketSlice),
    /// In a block on the heap.
    Heap(std::rc::Rc<[u8]>, core::ops::Range<usize>),
}

impl core::ops::Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Frame(slice) => slice,
            Self::Heap(block, range) => &block[range.clone()],
        }
    }
}

/// How many of what a shard's TCP holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Listeners.
    pub listeners: usize,
    /// Half-open connections of listeners.
    pub syn_received: usize,
    /// Connections, those the application has not let go of after their end included.
    pub connections: usize,
    /// TIME-WAIT entries.
    pub time_wait: usize,
    /// Bytes behind all queues.
    pub buffered_bytes: usize,
}
