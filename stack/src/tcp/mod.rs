//! TCP (RFC 9293 and the standards around it), without a clock, a socket or a packet format of its own: segments come in
//! by [`Tcp::receive`], time by [`Tcp::poll_timers`], segments go out through an [`Egress`], applications make the calls
//! of RFC 9293 section 3.9. One [`Tcp`] belongs to one shard.
//!
//! The path of a segment: `engine` finds whose it is (`table`); a listener's SYN goes to `handshake` and becomes a compact
//! entry of `syn_queue`; a connection's segment, unless it is the one expected next (`fast_path`), walks `input` step by step as RFC 9293 section 3.10.7 does, its
//! acknowledgment through `acknowledge`, which reads it, and `recovery`, which decides what is lost, with the segments sent in
//! `scoreboard`, RACK in `rack`, the probe of a tail in `tail_probe`, proportional rate reduction in `prr` and congestion control
//! in `congestion`, congestion that is marked instead in `ecn`; what is closed leaves a compact entry in `time_wait`. `output` decides what a connection sends and `transmit`
//! gives every connection its turn. `timers` and `keepalive` act on deadlines, `calls` are the applications' calls.
//!
//! Two SYNs go other ways: one that shows a Fast Open cookie becomes a connection at once (`fastopen`), and while the SYN queue
//! is full the answer is a SYN cookie, of which only the client's ACK makes a connection (`syn_cookie`).

mod acknowledge;
mod calls;
mod census;
mod chronograph;
mod config;
pub mod congestion;
mod connection;
mod connections;
mod deadlines;
pub mod delivery_rate;
mod ecn;
mod engine;
mod fast_path;
mod fastopen;
mod handshake;
pub mod header;
mod info;
mod input;
pub mod isn;
mod keepalive;
mod listed;
mod listener;
mod look_ahead;
mod open;
pub mod options;
mod output;
mod path_mtu;
pub mod ports;
mod prr;
mod rack;
pub mod rate_limit;
mod readiness;
pub mod receive_queue;
mod receive_rate;
mod recovery;
mod reply;
pub mod rtt;
mod scoreboard;
mod segment_size;
pub mod send_queue;
pub mod seq;
mod short_send;
mod state;
mod syn_cookie;
mod syn_queue;
pub(crate) mod table;
mod tail_probe;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod time_wait;
mod timers;
mod transmit;
mod tuning;
mod tuple_index;

use core::net::{IpAddr, SocketAddr};

pub use config::{FastOpenConfig, FastOpenKeys, SocketOptions, TcpConfig, TcpConfigError};
pub use ecn::{AccurateEcnConfig, AccurateEcnOption, EcnConfig, EcnMode, UnknownEcnConfig};
pub use engine::Tcp;
pub use fastopen::FastOpenNews;
pub use info::{FastOpenFailure, TcpInfo};
pub use path_mtu::MtuProbing;
pub use readiness::Readiness;
pub use state::State;

use crate::limits;
use crate::offload::gso;
use crate::packet::{Packet, PacketSlice};
use crate::time::Instant;
use seq::SeqNumber;

/// Local and remote end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
}

/// A connection of this shard. Stale handles are detected (generation) and give [`TcpError::NotConnected`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    /// Place in the shard's table.
    pub index: u32,
    /// Which of the place's tenants.
    pub generation: u32,
}

/// A listener of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId {
    /// Place in the shard's table.
    pub index: u32,
    /// Which of the place's tenants.
    pub generation: u32,
}

/// Why a call failed, or what ended a connection. The messages are those of `strerror(3)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TcpError {
    /// Nothing can be done now; the polling calls give `Pending` instead.
    #[error("operation would block")]
    WouldBlock,
    /// The handle is stale, or the connection is over.
    #[error("not connected")]
    NotConnected,
    /// A RST or a hard ICMP error answered our SYN.
    #[error("connection refused")]
    ConnectionRefused,
    /// A RST ended an open connection.
    #[error("connection reset by peer")]
    ConnectionReset,
    /// Ended from this side.
    #[error("connection aborted")]
    ConnectionAborted,
    /// Retransmissions, keepalive probes or the user timeout had no success (RFC 9293 section 3.8.3).
    #[error("connection timed out")]
    TimedOut,
    /// The first hop did not answer ARP or neighbour discovery when a connection was opened; or as `TimedOut`, and ICMP said
    /// why (RFC 9293 section 3.9.2.2).
    #[error("host unreachable")]
    HostUnreachable,
    /// No route to the peer.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// The address or the pair of addresses is taken.
    #[error("address already in use")]
    AddrInUse,
    /// Not an address of ours, or no port is free.
    #[error("address not available: not ours, or every local port towards the peer is in use")]
    AddrNotAvailable,
    /// Sending after the write side was shut down.
    #[error("the write side is shut down")]
    Shutdown,
    /// As many connections or listeners as [`TcpConfig`] allows.
    #[error("connection table full")]
    TableFull,
    /// An address or option outside its bounds.
    #[error("invalid argument")]
    InvalidInput,
}

impl From<TcpError> for std::io::Error {
    /// The error with the [`std::io::ErrorKind`] that std's sockets give for it.
    fn from(error: TcpError) -> Self {
        use std::io::ErrorKind as Kind;
        let kind = match error {
            TcpError::WouldBlock => Kind::WouldBlock,
            TcpError::NotConnected => Kind::NotConnected,
            TcpError::ConnectionRefused => Kind::ConnectionRefused,
            TcpError::ConnectionReset => Kind::ConnectionReset,
            TcpError::ConnectionAborted => Kind::ConnectionAborted,
            TcpError::TimedOut => Kind::TimedOut,
            TcpError::HostUnreachable => Kind::HostUnreachable,
            TcpError::NetworkUnreachable => Kind::NetworkUnreachable,
            TcpError::AddrInUse => Kind::AddrInUse,
            TcpError::AddrNotAvailable => Kind::AddrNotAvailable,
            TcpError::Shutdown => Kind::BrokenPipe,
            TcpError::TableFull => Kind::QuotaExceeded,
            TcpError::InvalidInput => Kind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// Which direction to shut down, as in `shutdown(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shutdown {
    /// Nothing more will be read: what is queued and what still comes is acknowledged and dropped.
    Read,
    /// Nothing more will be written: a FIN follows what was written.
    Write,
    /// Both.
    Both,
}

/// What became of a segment.
#[derive(Debug)]
pub enum Received {
    /// Processed (or dropped and counted).
    Done,
    /// No connection, listener or TIME-WAIT entry of this shard takes it: the shard asks the other shards, the last one
    /// calls [`Tcp::reject`].
    NoConnection(Packet),
    /// Several segments merged into one packet that must be taken one by one ([`Packet::into_packets`]).
    Merged(Packet),
}

/// A segment to send, or a super-segment: one whose payload is longer than `mss` and is cut on its way out. The egress builds
/// IP and Ethernet around it and computes the checksum while copying.
#[derive(Clone, Copy, Debug)]
pub struct SegmentOut<'a> {
    /// Our address and port.
    pub src: SocketAddr,
    /// The peer's address and port.
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgment number; 0 without [`header::Flags::ACK`].
    pub ack: SeqNumber,
    /// Control bits as on the wire, see [`header::Flags`]. Of several segments only the last has FIN and PSH.
    pub flags: u16,
    /// Those of `flags` that only the first of several segments has: CWR, where it is a signal (RFC 3168 section 6.1.2) and
    /// not part of a counter (RFC 9768 section 3.1.5).
    pub first_flags: u16,
    /// Window field, scaled already.
    pub window: u16,
    /// Urgent pointer; 0 without [`header::Flags::URG`]. A super-segment has none.
    pub urgent: u16,
    /// Options, padded to a multiple of 4, at most 40 bytes.
    pub options: &'a [u8],
    /// Payload, piece by piece; at most [`Egress::super_segment_max`] bytes or one segment's.
    pub payload: &'a [&'a [u8]],
    /// Payload of each segment on the wire, in bytes, more than 0; the last may have less.
    pub mss: usize,
    /// The two ECN bits of the IP header (RFC 3168 section 5); 0 (not ECN-capable) unless ECN is negotiated and this is new
    /// data.
    pub ecn: u8,
    /// What the socket chooses of the IP header.
    pub ip: IpFields,
}

/// What a socket chooses of the IP header of all it sends; or what a datagram came with.
/// RFC 9293 section 3.9.1.9, MUST-48; RFC 9293 section 3.9.2, MUST-49.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpFields {
    /// `IP_TOS`, `IPV6_TCLASS`: the Diffserv field (RFC 2474 section 3) in the upper six bits, the ECN field (RFC 3168) in
    /// the lower two. TCP sets the ECN field itself and does not look at what is here; UDP sends it as it is.
    pub tos: u8,
    /// `IP_TTL`, `IPV6_UNICAST_HOPS`: time to live or hop limit; 64, at least 1.
    pub hop_limit: u8,
}

impl Default for IpFields {
    fn default() -> Self {
        Self { tos: 0, hop_limit: limits::HOP_LIMIT }
    }
}

impl IpFields {
    /// The whole octet of the IP header, with the ECN bits `ecn`.
    pub(crate) fn traffic_class(self, ecn: u8) -> u8 {
        self.tos & 0xfc | ecn & 3
    }
}

impl SegmentOut<'_> {
    /// Bytes of payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload.iter().map(|piece| piece.len()).sum()
    }

    /// Whether it has no payload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives `send` what is to go on the wire segment by segment: for an egress that keeps packets and has no cutter. Returns
    /// the bytes of payload that were sent before the first that was not.
    ///
    /// # Errors
    /// The first segment's.
    pub fn each(
        &self,
        mut send: impl FnMut(&SegmentOut<'_>) -> Result<(), EgressError>,
    ) -> Result<usize, EgressError> {
        let payload = self.payload.concat();
        let count = gso::segments(payload.len(), self.mss);
        for index in 0..count {
            let start = index * self.mss;
            let part = &payload[start..payload.len().min(start + self.mss)];
            let (flags, first_only) = (header::Flags(self.flags), header::Flags(self.first_flags));
            let flags = flags.of_part(first_only, index == 0, index + 1 == count);
            let pieces = [part];
            let payload = if part.is_empty() { &[] } else { &pieces[..] };
            match send(&SegmentOut { seq: self.seq + start as u32, flags: flags.0, payload, ..*self }) {
                Ok(()) => {}
                Err(error) if index == 0 => return Err(error),
                Err(_) => return Ok(start),
            }
        }
        Ok(payload.len())
    }
}

/// Why a segment was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EgressError {
    /// No frame or no room in the transmit queue now: stop, keep state, try again at the next [`Tcp::transmit`].
    Full,
    /// No route to the destination.
    NoRoute,
    /// Longer than the path's MTU (the value).
    TooBig {
        /// Largest IP packet, bytes.
        mtu: usize,
    },
}

/// Where segments go: implemented by the network layer of the shard.
pub trait Egress {
    /// Largest IP packet that the path to `dst` is known to carry, bytes.
    fn path_mtu(&self, dst: IpAddr) -> usize;
    /// Largest IP packet that the link towards `dst` carries, bytes: what the MSS option goes by (RFC 9293 section 3.7.1).
    fn link_mtu(&self, dst: IpAddr) -> usize {
        self.path_mtu(dst)
    }
    /// What goes to `dst` is not answered (RFC 9293 section 3.8.3, R1): what is remembered of the way there may be wrong.
    fn doubt(&mut self, _now: Instant, _dst: IpAddr) {}
    /// Most payload that [`Egress::send`] takes at a time to cut it into several segments, bytes; 0: it gets them one by one.
    fn super_segment_max(&self) -> usize;
    /// Sends a segment, or of a super-segment as many segments from its front as there is room for now. Returns the bytes of
    /// payload that were sent: all, or as many whole segments as made it, at least one.
    ///
    /// # Errors
    /// See [`EgressError`]; nothing was sent then.
    fn send(&mut self, now: Instant, segment: &SegmentOut<'_>) -> Result<usize, EgressError>;
}

/// An ICMP error about a TCP segment of ours, already parsed, or what this host itself found out about the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// The connection, from our side.
    pub tuple: Tuple,
    /// Sequence number of the segment it quotes.
    pub seq: SeqNumber,
    /// What happened to that segment.
    pub kind: IcmpErrorKind,
}

/// What an ICMP error came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpVerdict {
    /// It quotes no connection of this shard.
    NotOurs,
    /// It was taken note of, or dropped and counted because it quotes nothing outstanding.
    Taken,
    /// It is believed that the path carries no larger IP packet than this, bytes.
    PathMtu(u16),
}

/// Kinds of ICMP errors, as RFC 9293 section 3.9.2.2 sorts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpErrorKind {
    /// A hard error: protocol or port unreachable.
    Refused,
    /// A soft error: network or host unreachable, time exceeded.
    Unreachable,
    /// Not ICMP's: the first hop did not answer ARP or neighbour discovery. Nobody on the path can forge it, so it ends an
    /// attempt to open, as in Linux; on an open connection it is a soft error.
    NeighborFailed,
    /// The segment does not fit the path (RFC 1191, RFC 8201).
    PacketTooBig {
        /// The next hop's MTU, bytes; 0 when an old router does not say.
        mtu: u32,
    },
}

/// A received run of payload without copy; derefs to its bytes. Keeps a frame of the pool, or a heap block, until dropped.
///
/// Frames belong to the shard's thread, so that they are counted without atomics. A [`bytes::Bytes`] may go to any thread:
/// a chunk only becomes one by a copy (`Bytes::copy_from_slice`). To send a chunk on as it is, there is
/// [`Tcp::poll_send_chunk`].
#[derive(Clone, Debug)]
pub enum Chunk {
    /// In the frame it arrived in.
    Frame(PacketSlice),
    /// In a heap block shared with other chunks.
    Heap(receive_queue::Block, core::ops::Range<usize>),
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

impl Chunk {
    /// Drops the first `len` bytes from view (all of them when there are fewer).
    pub fn advance(&mut self, len: usize) {
        match self {
            Self::Frame(slice) => slice.advance(len),
            Self::Heap(_, range) => range.start += len.min(range.len()),
        }
    }

    /// Bytes of memory it keeps from others, however short it is: a whole frame or block.
    #[must_use]
    pub fn backing_bytes(&self) -> usize {
        match self {
            Self::Frame(slice) => slice.frame_bytes(),
            Self::Heap(block, _) => block.len(),
        }
    }

    /// Whether it is in a frame of a pool of which readers hold too much (see
    /// [`limits::SHARED_FRAMES_FRACTION`](crate::limits::SHARED_FRAMES_FRACTION)).
    pub(crate) fn is_scarce(&self) -> bool {
        match self {
            Self::Frame(slice) => slice.is_pool_short(),
            Self::Heap(..) => false,
        }
    }
}

/// How much of what the engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Open listeners.
    pub listeners: usize,
    /// Half-open connections of listeners.
    pub syn_received: usize,
    /// Connections: all other states but TIME-WAIT, and ended ones whose handle is still held.
    pub connections: usize,
    /// Of these, the ended ones.
    pub ended: usize,
    /// Connections in TIME-WAIT.
    pub time_wait: usize,
    /// Memory behind send and receive buffers, bytes.
    pub buffered_bytes: usize,
}
