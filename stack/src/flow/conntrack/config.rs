//! What of conntrack can be set: bounds and timeouts, by Linux's names (`net.netfilter.nf_conntrack_*`) and with its defaults.

use super::tcp::TcpState;
use crate::limits;
use crate::time::Duration;

/// The settings of one shard's [`Conntrack`](super::Conntrack).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConntrackConfig {
    /// Most entries, at least 1, at most [`limits::CONNTRACK_ENTRIES_MAX`]. A new flow beyond it takes the place of the
    /// oldest that is not assured or is being closed; if there is none, it is refused.
    pub entries_max: usize,
    /// Connections are taken up in their midst, as after a restart of the gateway.
    pub tcp_loose: bool,
    /// Segments outside the window are not invalid, only RSTs are.
    pub tcp_be_liberal: bool,
    /// How long an entry lives without a packet.
    pub timeouts: Timeouts,
}

impl Default for ConntrackConfig {
    fn default() -> Self {
        Self {
            entries_max: limits::CONNTRACK_ENTRIES,
            tcp_loose: true,
            tcp_be_liberal: false,
            timeouts: Timeouts::default(),
        }
    }
}

/// Lifetimes of entries after their last packet, by protocol and state. The defaults are Linux's, which users of connection tracking
/// know and size its table by; NATs are asked for longer ones in part: [`Timeouts::rfc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A SYN without an answer.
    pub tcp_syn_sent: Duration,
    /// SYN and SYN,ACK.
    pub tcp_syn_recv: Duration,
    /// An open connection (RFC 5382 REQ-5 asks for at least 2 h 4 min).
    pub tcp_established: Duration,
    /// One FIN.
    pub tcp_fin_wait: Duration,
    /// One FIN and its acknowledgment.
    pub tcp_close_wait: Duration,
    /// Both FINs.
    pub tcp_last_ack: Duration,
    /// Both FINs acknowledged.
    pub tcp_time_wait: Duration,
    /// After a RST.
    pub tcp_close: Duration,
    /// At most this while one segment is sent again and again.
    pub tcp_max_retrans: Duration,
    /// At most this while data waits for its acknowledgment.
    pub tcp_unacknowledged: Duration,
    /// UDP without an answer.
    pub udp: Duration,
    /// UDP with answers (RFC 4787 REQ-5 asks for at least 2 minutes).
    pub udp_stream: Duration,
    /// ICMP queries (RFC 5508 REQ-2 asks for at least 60 s; Linux's is 30 s).
    pub icmp: Duration,
    /// ICMPv6 queries.
    pub icmpv6: Duration,
    /// Other protocols.
    pub generic: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            tcp_syn_sent: seconds(120),
            tcp_syn_recv: seconds(60),
            tcp_established: seconds(5 * 24 * 3600),
            tcp_fin_wait: seconds(120),
            tcp_close_wait: seconds(60),
            tcp_last_ack: seconds(30),
            tcp_time_wait: seconds(120),
            tcp_close: seconds(10),
            tcp_max_retrans: seconds(300),
            tcp_unacknowledged: seconds(300),
            udp: seconds(30),
            udp_stream: seconds(120),
            icmp: seconds(30),
            icmpv6: seconds(30),
            generic: seconds(600),
        }
    }
}

impl Timeouts {
    /// What the standards ask of a NAT, where Linux's defaults are shorter or longer: 5 minutes for UDP (RFC 4787 REQ-5c), 2 hours 4
    /// minutes for an open connection whatever is under way in it, 4 minutes for one that opens, closes or was reset (RFC 5382
    /// REQ-5, RFC 7857 sections 2.1 and 2.2), a minute for queries (RFC 5508 REQ-2).
    #[must_use]
    pub fn rfc() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            tcp_syn_sent: minutes(4),
            tcp_syn_recv: minutes(4),
            tcp_established: minutes(124),
            tcp_fin_wait: minutes(4),
            tcp_close_wait: minutes(4),
            tcp_last_ack: minutes(4),
            tcp_time_wait: minutes(4),
            tcp_close: minutes(4),
            tcp_max_retrans: minutes(124),
            tcp_unacknowledged: minutes(124),
            udp: minutes(5),
            udp_stream: minutes(5),
            icmp: minutes(1),
            icmpv6: minutes(1),
            ..Self::default()
        }
    }

    /// The timeout of a TCP state.
    #[must_use]
    pub fn tcp(&self, state: TcpState) -> Duration {
        match state {
            TcpState::SynSent | TcpState::SynSent2 => self.tcp_syn_sent,
            TcpState::SynRecv => self.tcp_syn_recv,
            TcpState::Established => self.tcp_established,
            TcpState::FinWait => self.tcp_fin_wait,
            TcpState::CloseWait => self.tcp_close_wait,
            TcpState::LastAck => self.tcp_last_ack,
            TcpState::TimeWait => self.tcp_time_wait,
            TcpState::Close => self.tcp_close,
        }
    }
}
