//! The states of a connection (RFC 9293 section 3.3.2) and what each allows.

/// State of a connection.
///
/// ```text
///                              LISTEN
///         connect |              | SYN / SYN,ACK
///             SYN v              v
///              SYN-SENT ---> SYN-RECEIVED
///    SYN,ACK / ACK |   SYN /     | ACK
///                  v  SYN,ACK    v
///                    ESTABLISHED ---------- FIN / ACK ----> CLOSE-WAIT
///                        | close / FIN                          | close / FIN
///                        v                                      v
///                    FIN-WAIT-1 --- FIN / ACK ---> CLOSING   LAST-ACK
///                        | ACK of FIN                 | ACK of FIN  | ACK of FIN
///                        v                            v             v
///                    FIN-WAIT-2 --- FIN / ACK --> TIME-WAIT ----> CLOSED
/// ```
///
/// LISTEN is a listener's, not a connection's; SYN-RECEIVED of a passive open is a compact entry of the SYN queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// No connection: never opened, ended, or reset.
    Closed,
    /// Waiting for a SYN.
    Listen,
    /// SYN sent.
    SynSent,
    /// SYN received and sent, waiting for its ACK.
    SynReceived,
    /// Open in both directions.
    Established,
    /// Our FIN sent, not acknowledged.
    FinWait1,
    /// Our FIN acknowledged, the peer's not received.
    FinWait2,
    /// The peer's FIN received, ours not sent.
    CloseWait,
    /// Both FINs under way, ours not acknowledged.
    Closing,
    /// The peer's FIN received, ours sent and not acknowledged.
    LastAck,
    /// Both FINs acknowledged; waiting for old segments to die.
    TimeWait,
}

impl State {
    /// All states, in the order of RFC 9293.
    pub const ALL: [Self; 11] = [
        Self::Listen,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::Closing,
        Self::LastAck,
        Self::TimeWait,
        Self::Closed,
    ];

    /// The name RFC 9293 gives it.
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

    /// Whether both sides know each other's sequence numbers (RFC 9293 section 3.5: ESTABLISHED and later).
    #[must_use]
    pub const fn is_synchronized(self) -> bool {
        !matches!(self, Self::Closed | Self::Listen | Self::SynSent | Self::SynReceived)
    }

    /// Whether the peer may still send payload.
    #[must_use]
    pub const fn receives_data(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }

    /// Whether payload or the FIN may (still) be sent or sent again.
    #[must_use]
    pub const fn sends_data(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait | Self::FinWait1 | Self::Closing | Self::LastAck)
    }
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
