//! SKELETON: the engine's face, to be filled in.
#![allow(missing_docs, unused_variables, clippy::todo, clippy::needless_pass_by_value, dead_code)]

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};

use crate::counters::Counters;
use crate::packet::{Packet, PacketSlice};
use crate::time::{Duration, Instant};

pub mod congestion;
pub mod header;
pub mod isn;
pub mod options;
pub mod ports;
pub mod rate_limit;
pub mod receive_queue;
pub mod rtt;
pub mod send_queue;
pub mod seq;
use seq::SeqNumber;

/// Local and remote end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// A connection of this shard. Stale handles are detected (generation) and give `TcpError::NotConnected`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    pub index: u32,
    pub generation: u32,
}
/// A listener of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId {
    pub index: u32,
    pub generation: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Closed,
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TcpError {
    #[error("operation would block")]
    WouldBlock,
    #[error("not connected")]
    NotConnected,
    #[error("connection refused")]
    ConnectionRefused,
    #[error("connection reset by peer")]
    ConnectionReset,
    #[error("connection aborted")]
    ConnectionAborted,
    #[error("connection timed out")]
    TimedOut,
    #[error("host unreachable")]
    HostUnreachable,
    #[error("network unreachable")]
    NetworkUnreachable,
    #[error("address already in use")]
    AddrInUse,
    #[error("address not available")]
    AddrNotAvailable,
    #[error("the write side is shut down")]
    Shutdown,
    #[error("connection table full")]
    TableFull,
    #[error("invalid argument")]
    InvalidInput,
}
// also: impl From<TcpError> for std::io::Error with the matching ErrorKind

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    Read,
    Write,
    Both,
}

/// Defaults for new connections and the engine's bounds; Linux's defaults. (Engine author: extend as needed, every field documented.)
#[derive(Clone, Debug, Default)]
pub struct TcpConfig {}

/// setsockopt(2)'s names. Defaults come from `TcpConfig`; a listener's options are inherited by what it accepts.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    pub nodelay: bool,
    pub cork: bool,
    pub quickack: bool,
    pub keepalive: bool,
    pub keepalive_idle: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_count: u8,
    pub user_timeout: Option<Duration>,
    pub linger: Option<Duration>,
    pub receive_buffer_bytes: usize,
    pub send_buffer_bytes: usize,
    // ...
}

#[derive(Clone, Debug)]
pub struct TcpInfo {
    pub state: Option<State>, /* tcp_info's names: rto, ato, snd_mss, rcv_mss, unacked, retransmits, rtt, rttvar, snd_cwnd, snd_ssthresh, ... */
}

/// What became of a segment.
pub enum Received {
    /// Processed (or dropped and counted).
    Done,
    /// No connection, listener or TIME-WAIT entry of this shard takes it: the shard asks the other shards, the last calls `reject`.
    NoConnection(Packet),
}

/// A segment to send; the egress builds IP and Ethernet around it and computes the checksum while copying.
pub struct SegmentOut<'a> {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub seq: SeqNumber,
    pub ack: SeqNumber,
    pub flags: u16, // wire bits, see `tcp::flags`
    pub window: u16,
    pub urgent: u16,
    pub options: &'a [u8], // padded to a multiple of 4, at most 40
    pub payload: &'a [&'a [u8]],
    pub ecn: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EgressError {
    /// No frame or no room in the transmit queue now: stop, keep state, try again at the next `transmit`.
    Full,
    /// No route to the destination.
    NoRoute,
    /// Longer than the path's MTU (the value).
    TooBig { mtu: usize },
}

pub trait Egress {
    /// Largest IP packet towards `dst`, bytes.
    fn path_mtu(&self, dst: IpAddr) -> usize;
    fn send(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<(), EgressError>;
}

/// An ICMP error about a TCP segment of ours, already parsed (net/icmp.rs).
#[derive(Clone, Copy, Debug)]
pub struct IcmpError {
    pub tuple: Tuple,
    pub seq: SeqNumber,
    pub kind: IcmpErrorKind,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpErrorKind {
    /// hard errors: protocol/port unreachable
    Refused,
    /// soft errors: net/host unreachable, time exceeded
    Unreachable,
    PacketTooBig {
        mtu: u32,
    },
}

/// A received run of payload without copy.
#[derive(Debug)]
pub enum Chunk {
    Frame(PacketSlice),
    Heap(std::rc::Rc<[u8]>, core::ops::Range<usize>),
}

/// One shard's TCP.
pub struct Tcp {
    _p: (),
}

impl Tcp {
    /// `shard`/`shards`: ephemeral ports chosen here satisfy `port % shards == shard`.
    pub fn new(config: TcpConfig, seed: [u8; 32], shard: u16, shards: u16) -> Self {
        todo!()
    }

    // ---- the packet path
    /// `packet.parsed.kind == Kind::Tcp` (header and checksum checked).
    pub fn receive(&mut self, now: Instant, packet: Packet, counters: &mut Counters) -> Received {
        todo!()
    }
    /// Queues the RST that RFC 9293 section 3.10.7.1 wants (none for a RST).
    pub fn reject(&mut self, now: Instant, packet: &Packet, counters: &mut Counters) {
        todo!()
    }
    /// Whether the error quoted a connection of this shard.
    pub fn icmp_error(&mut self, now: Instant, error: &IcmpError, counters: &mut Counters) -> bool {
        todo!()
    }
    pub fn poll_timers(&mut self, now: Instant, counters: &mut Counters) {
        todo!()
    }
    /// Sends what may be sent, connection by connection in turn, until done or `Full`.
    pub fn transmit(&mut self, now: Instant, egress: &mut dyn Egress, counters: &mut Counters) {
        todo!()
    }
    /// When `poll_timers` is next needed; `Some(now)` at once when segments wait for `transmit`.
    pub fn next_deadline(&self) -> Option<Instant> {
        todo!()
    }

    // ---- user calls (RFC 9293 section 3.9)
    /// `addr.ip()` unspecified = any address of ours of that family. Port 0 is chosen.
    pub fn listen(
        &mut self,
        addr: SocketAddr,
        backlog: usize,
        options: SocketOptions,
    ) -> Result<ListenerId, TcpError> {
        todo!()
    }
    pub fn listener_addr(&self, id: ListenerId) -> Result<SocketAddr, TcpError> {
        todo!()
    }
    pub fn poll_accept(
        &mut self,
        id: ListenerId,
        waker: &Waker,
    ) -> Poll<Result<(ConnId, SocketAddr), TcpError>> {
        todo!()
    }
    /// Connections not yet accepted are reset.
    pub fn close_listener(&mut self, now: Instant, id: ListenerId) -> Result<(), TcpError> {
        todo!()
    }
    /// Starts an active open. `local.port()` 0: chosen (RFC 6056).
    pub fn connect(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        options: SocketOptions,
    ) -> Result<ConnId, TcpError> {
        todo!()
    }
    pub fn poll_connected(&mut self, id: ConnId, waker: &Waker) -> Poll<Result<(), TcpError>> {
        todo!()
    }
    /// Bytes taken, at least 1; `Pending` when the send buffer is full.
    pub fn poll_send(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        waker: &Waker,
    ) -> Poll<Result<usize, TcpError>> {
        todo!()
    }
    /// `Ok(0)`: the peer's FIN was reached (or `bytes` is empty).
    pub fn poll_recv(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<usize, TcpError>> {
        todo!()
    }
    /// Without copy; `None` at the peer's FIN.
    pub fn poll_recv_chunk(
        &mut self,
        now: Instant,
        id: ConnId,
        waker: &Waker,
    ) -> Poll<Result<Option<Chunk>, TcpError>> {
        todo!()
    }
    /// Ready when everything sent was acknowledged (`Ok`), or the connection died.
    pub fn poll_flushed(&mut self, id: ConnId, waker: &Waker) -> Poll<Result<(), TcpError>> {
        todo!()
    }
    pub fn shutdown(&mut self, now: Instant, id: ConnId, how: Shutdown) -> Result<(), TcpError> {
        todo!()
    }
    /// The application lets go: the handle is invalid from now on; FIN, or RST when data is unread or linger is zero.
    pub fn close(&mut self, now: Instant, id: ConnId) {
        todo!()
    }
    pub fn abort(&mut self, now: Instant, id: ConnId) {
        todo!()
    }
    pub fn tuple(&self, id: ConnId) -> Result<Tuple, TcpError> {
        todo!()
    }
    pub fn state(&self, id: ConnId) -> Option<State> {
        todo!()
    }
    pub fn info(&self, now: Instant, id: ConnId) -> Result<TcpInfo, TcpError> {
        todo!()
    }
    pub fn options(&self, id: ConnId) -> Result<SocketOptions, TcpError> {
        todo!()
    }
    pub fn set_options(&mut self, now: Instant, id: ConnId, options: SocketOptions) -> Result<(), TcpError> {
        todo!()
    }
    /// The error that ended the connection, taken once, as SO_ERROR.
    pub fn take_error(&mut self, id: ConnId) -> Option<TcpError> {
        todo!()
    }

    // ---- figures
    /// Connections by state, TIME-WAIT and SYN-RECEIVED included.
    pub fn census(&self) -> Census {
        todo!()
    }
    /// All connections' ids and tuples, for `ss`-like listings and graceful shutdown.
    pub fn connections(&self) -> impl Iterator<Item = (ConnId, Tuple, State)> + '_ {
        core::iter::empty()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub listeners: usize,
    pub syn_received: usize,
    pub connections: usize,
    pub time_wait: usize,
    pub buffered_bytes: usize,
}
