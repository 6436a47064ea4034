//! Sockets as the control socket tells them. Fields that another version does not have count as zero: what is shown then
//! is less, not an error.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;
use serde_json::Value;

/// One line of the answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// The shard whose socket it is.
    pub shard: usize,
    /// The socket.
    pub socket: Socket,
}

/// A socket.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Socket {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// In RFC 9293's names.
    pub state: String,
    /// Its place in the shard's table.
    pub place: u32,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: Option<SocketAddr>,
    /// Bytes to be read, or connections to be accepted.
    pub recv_q: u64,
    /// Bytes not acknowledged, or the bound of the accept queue.
    pub send_q: u64,
    /// Half-open connections of a listener.
    pub half_open: u32,
    /// The application let go.
    pub orphan: bool,
    /// The timer that runs.
    pub timer: Option<Timer>,
    /// Memory of the buffers.
    pub memory: Option<Memory>,
    /// TCP's figures, as named in `TcpInfo`.
    pub info: Option<Value>,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            protocol: "tcp".into(),
            state: String::new(),
            place: 0,
            local: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
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

/// A timer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Timer {
    /// `on`, `persist`, `keepalive`, `timewait`.
    pub kind: String,
    /// Microseconds until it fires.
    pub remaining: u64,
    /// How often it has.
    pub retries: u8,
}

/// Memory in bytes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Of what was received.
    pub receive: u64,
    /// Its bound.
    pub receive_max: u64,
    /// Of what is to be sent.
    pub send: u64,
    /// Its bound.
    pub send_max: u64,
}

/// States as ss(8) knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Data flows.
    Established,
    /// Our SYN is out.
    SynSent,
    /// Half-open.
    SynReceived,
    /// We closed.
    FinWait1,
    /// We closed and the peer knows.
    FinWait2,
    /// Waits for what may still be under way.
    TimeWait,
    /// No connection; UDP without a peer.
    Closed,
    /// The peer closed.
    CloseWait,
    /// Both closed, the peer first.
    LastAck,
    /// A listener.
    Listen,
    /// Both closed at once.
    Closing,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynReceived,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Closed,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];
    /// What a filter can name.
    pub const NAMES: &'static str = "a state (established, syn-sent, syn-recv, fin-wait-1, fin-wait-2, time-wait, closed, \
         close-wait, last-ack, listening, closing, all, connected, synchronized, bucket, big)";

    /// As ss(8) shows it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Closed => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

    /// The states that a filter's word means.
    #[must_use]
    pub fn named(word: &str) -> Option<Vec<Self>> {
        let but = |not: &[Self]| Self::ALL.into_iter().filter(|state| !not.contains(state)).collect();
        Some(match word {
            "all" => Self::ALL.to_vec(),
            "connected" => but(&[Self::Listen, Self::Closed]),
            "synchronized" => but(&[Self::Listen, Self::Closed, Self::SynSent]),
            "bucket" => vec![Self::TimeWait, Self::SynReceived],
            "big" => but(&[Self::TimeWait, Self::SynReceived]),
            "established" => vec![Self::Established],
            "syn-sent" => vec![Self::SynSent],
            "syn-recv" | "syn-received" => vec![Self::SynReceived],
            "fin-wait-1" => vec![Self::FinWait1],
            "fin-wait-2" => vec![Self::FinWait2],
            "time-wait" => vec![Self::TimeWait],
            "closed" | "unconnected" => vec![Self::Closed],
            "close-wait" => vec![Self::CloseWait],
            "last-ack" => vec![Self::LastAck],
            "listening" | "listen" => vec![Self::Listen],
            "closing" => vec![Self::Closing],
            _ => return None,
        })
    }
}

impl Socket {
    /// Its state in ss(8)'s sense: a UDP socket with a peer is established.
    #[must_use]
    pub fn state(&self) -> State {
        if self.protocol == "udp" {
            return if self.remote.is_some() { State::Established } else { State::Closed };
        }
        match self.state.as_str() {
            "ESTABLISHED" => State::Established,
            "SYN-SENT" => State::SynSent,
            "SYN-RECEIVED" => State::SynReceived,
            "FIN-WAIT-1" => State::FinWait1,
            "FIN-WAIT-2" => State::FinWait2,
            "TIME-WAIT" => State::TimeWait,
            "CLOSE-WAIT" => State::CloseWait,
            "LAST-ACK" => State::LastAck,
            "LISTEN" => State::Listen,
            "CLOSING" => State::Closing,
            _ => State::Closed,
        }
    }

    /// A figure of `TcpInfo`; 0 when there is none.
    #[must_use]
    pub fn figure(&self, name: &str) -> u64 {
        self.info.as_ref().and_then(|info| info.get(name)).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A flag of `TcpInfo`.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.info.as_ref().and_then(|info| info.get(name)).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A name in `TcpInfo`.
    #[must_use]
    pub fn word(&self, name: &str) -> &str {
        self.info.as_ref().and_then(|info| info.get(name)).and_then(Value::as_str).unwrap_or("")
    }
}
