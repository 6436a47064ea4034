//! The states of a connection (RFC 9293 section 3.3.2) and what each allows.

/// State of a connection.
///
/// ```text
///                    connect /                listen
///                    send SYN
///          +--------------------- CLOSED ---------------------+
///          v                        ^                         v
///      SYN-SENT                     | RST, abort, timeout   LISTEN   (a listener; stays)
///       |    | recv SYN             | (from every state)      | recv SYN / send SYN,ACK
///       |    | send SYN,ACK         |                         v
///       |    +-------------------> SYN-RECEIVED <-------------+
///       | recv SYN,ACK               | recv ACK of our SYN
///       | send ACK                   |
///       +------> ESTABLISHED <-------+
///                 |        |
///   close, shutdown        recv FIN
///       send FIN  |        |  send ACK
///                 v        v
///        FIN-WAIT-1       CLOSE-WAIT
///         |       |           | close, shutdown
///  recv ACK    recv FIN       | send FIN
///  of our FIN  send ACK       v
///         v       v        LAST-ACK
/// FIN-WAIT-2   CLOSING        | recv ACK of our FIN
///         |       | recv ACK  v
///  recv FIN       | of FIN  CLOSED
///  send ACK       v
///         +--> TIME-WAIT --- 2 MSL ---> CLOSED
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// No connection.
    Closed,
    /// Waiting for SYNs; only listeners are in this state.
    Listen,
    /// Our SYN is out.
    SynSent,
    /// Both SYNs are out, ours is not acknowledged.
    SynReceived,
    /// Data flows.
    Established,
    /// We closed; our FIN is not acknowledged (it may still wait behind data).
    FinWait1,
    /// We closed and the peer knows; it may go on sending.
    FinWait2,
    /// The peer closed; we may go on sending.
    CloseWait,
    /// Both closed at once; our FIN is not acknowledged.
    Closing,
    /// Both closed, the peer first; our FIN is not acknowledged.
    LastAck,
    /// Both closed and acknowledged, we first: waits for what may still be on its way.
    TimeWait,
}

impl State {
    /// The name in RFC 9293.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
        }
    }

    /// Whether the peer may still send data (RFC 9293 section 3.10.7.4, seventh step).
    pub(super) const fn may_receive(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }

    /// Whether there is nothing to process segments with any more.
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::TimeWait)
    }
}

impl serde::Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
