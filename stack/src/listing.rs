//! Listings of a shard's sockets (`bywash ss`), taken in portions: a shard with many connections looks at a bounded number
//! of places between two bursts. Each socket is shown as it is when its portion is taken; one that moves on meanwhile
//! (half-open, open, TIME-WAIT) may be shown twice rather than not at all.

use core::net::SocketAddr;

use serde::{Serialize, Serializer};

use crate::tcp::{State, TcpInfo};
use crate::time::Duration;

/// Where a listing goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// Which table: listeners, half-open connections, connections, TIME-WAIT entries, UDP sockets, the end.
    pub(crate) table: u8,
    /// The next place in it.
    pub(crate) place: u32,
}

impl Cursor {
    /// The number of tables: a cursor there is at the end.
    pub(crate) const TABLES: u8 = 5;
    /// The table of UDP sockets; those before are TCP's.
    pub(crate) const UDP: u8 = 4;

    /// Whether all was listed.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.table >= Self::TABLES
    }
}

/// One socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Listed {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// TCP's state; `Closed` for UDP.
    pub state: State,
    /// Its place in the shard's table of that kind: with kind and shard it names the socket.
    pub place: u32,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end, if there is one.
    pub remote: Option<SocketAddr>,
    /// Bytes received and not read (UDP: waiting); of a listener, connections that wait to be accepted.
    pub recv_q: u64,
    /// Bytes written (and the FIN) and not acknowledged (UDP: not sent); of a listener, the bound of the accept queue.
    pub send_q: u64,
    /// Half-open connections of a listener.
    pub half_open: u32,
    /// No handle of the application is left.
    pub orphan: bool,
    /// What happens next if nothing else does.
    pub timer: Option<ListedTimer>,
    /// Memory behind the buffers.
    pub memory: Option<ListedMemory>,
    /// A connection's figures. Durations are in microseconds.
    pub info: Option<Box<TcpInfo>>,
}

impl Listed {
    pub(crate) fn new(protocol: &'static str, state: State, place: u32, local: SocketAddr) -> Self {
        Self {
            protocol,
            state,
            place,
            local,
            remote: None,
            recv_q: 0,
            send_q: 0,
            half_open: 0,
            orphan: false,
            timer: None,
            memory: None,
            info: None,
        }
    }
}

/// A timer that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ListedTimer {
    /// In the words of `ss -o`: `on` (retransmission, tail probe or reordering), `persist`, `keepalive`, `timewait`.
    pub kind: &'static str,
    /// Until it fires; zero when it is due.
    #[serde(serialize_with = "micros")]
    pub remaining: Duration,
    /// How often it has fired without an answer.
    pub retries: u8,
}

/// Memory in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ListedMemory {
    /// Held by what was received; frames count whole.
    pub receive: u64,
    /// Bound of that.
    pub receive_max: u64,
    /// Held by what was written and not acknowledged, with the records of segments sent.
    pub send: u64,
    /// Bound of the bytes written and not acknowledged.
    pub send_max: u64,
}

/// A duration as whole microseconds.
pub(crate) fn micros<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
