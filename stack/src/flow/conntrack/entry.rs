//! One flow: its tuples, what its protocol says of it, and what was counted.

use super::config::{ConntrackConfig, Timeouts};
use super::tcp::{Misfit, TcpTrack, TcpVerdict};
use crate::flow::FlowTuple;
use crate::flow::filter::TcpMss;
use crate::flow::view::{PacketView, Transport};
use crate::parse::protocol;
use crate::time::{Duration, Instant};

/// Which way a packet goes, seen from the flow's first one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// As the first packet.
    Original = 0,
    /// Against it.
    Reply = 1,
}

impl Direction {
    /// The opposite one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// A tracked flow.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As the first packet came, before any translation.
    pub original: FlowTuple,
    /// As answers come, before they are translated back: `original` turned round unless something translates.
    pub reply: FlowTuple,
    /// What its protocol says of it.
    pub protocol: ProtocolState,
    /// Packets and bytes (of IP packets), by [`Direction`].
    pub counts: [Count; 2],
    /// The mark that rules gave it.
    pub mark: u32,
    /// The largest MSS that its SYNs may offer, both ways, as a rule said of the first.
    pub mss: Option<TcpMss>,
    /// A packet came the other way.
    pub seen_reply: bool,
    /// It is not dropped to make room for others.
    pub assured: bool,
    /// It was begun by what an ICMP error or another flow announced.
    pub related: bool,
    /// Its source's outside endpoint is one that [`crate::flow::nat`] keeps for it.
    pub owns_mapping: bool,
    /// When its first packet came.
    pub begun: Instant,
    /// When it ends unless a packet comes.
    pub expires: Instant,
}

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
}

/// State of a flow's protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolState {
    /// TCP.
    Tcp(TcpTrack),
    /// UDP and others with ports.
    Udp,
    /// ICMP queries.
    Query,
    /// Others.
    Other,
}

/// A UDP flow that is this old and answered is a stream, with a longer timeout (Linux).
const STREAM_AGE: Duration = Duration::from_secs(2);

/// What a later packet did to its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Update {
    /// It belongs to it; `changed`: something that listings show is different now.
    Taken {
        changed: bool,
    },
    /// It belongs to it, which is over now.
    Ends,
    /// It begins a new one in its place.
    Reopens,
    Invalid(Misfit),
}

impl Entry {
    /// The flow that `view` begins.
    ///
    /// # Errors
    /// It is a TCP segment that begins none.
    pub(super) fn begin(now: Instant, view: &PacketView, config: &ConntrackConfig) -> Result<Self, Misfit> {
        let state = match &view.transport {
            Transport::Tcp(segment) => ProtocolState::Tcp(TcpTrack::begin(segment, config.tcp_loose)?),
            Transport::Ports => ProtocolState::Udp,
            Transport::Query { .. } => ProtocolState::Query,
            Transport::Error { .. } | Transport::Icmp { .. } | Transport::Other => ProtocolState::Other,
        };
        let mut entry = Self {
            original: view.tuple,
            reply: view.tuple.reversed(),
            protocol: state,
            counts: [Count::default(); 2],
            mark: 0,
            mss: None,
            seen_reply: false,
            assured: false,
            related: false,
            owns_mapping: false,
            begun: now,
            expires: now,
        };
        entry.count(Direction::Original, view);
        entry.expires = now + entry.timeout(&config.timeouts);
        Ok(entry)
    }

    /// Takes in a later packet.
    pub(super) fn update(
        &mut self,
        now: Instant,
        direction: Direction,
        view: &PacketView,
        config: &ConntrackConfig,
    ) -> Update {
        let before = (self.seen_reply, self.assured, self.tcp_state());
        let mut ends = false;
        match (&mut self.protocol, &view.transport) {
            (ProtocolState::Tcp(track), Transport::Tcp(segment)) => {
                let old = track.state;
                match track.update(direction, segment, config.tcp_be_liberal) {
                    TcpVerdict::Accept => {}
                    TcpVerdict::Ignore => {
                        self.count(direction, view);
                        return Update::Taken { changed: false };
                    }
                    TcpVerdict::Reopen => return Update::Reopens,
                    TcpVerdict::Invalid(misfit) => return Update::Invalid(misfit),
                }
                use super::tcp::TcpState::{Close, Established, SynRecv};
                let new = track.state;
                self.assured |= self.seen_reply && matches!(old, SynRecv | Established) && new == Established;
                // Refused at once: nothing to remember.
                ends = new == Close && !self.seen_reply && direction == Direction::Reply;
            }
            (ProtocolState::Udp, _) => {
                self.assured |= self.seen_reply && now >= self.begun + STREAM_AGE;
            }
            _ => {}
        }
        self.seen_reply |= direction == Direction::Reply;
        self.count(direction, view);
        self.expires = now + self.timeout(&config.timeouts);
        if ends {
            return Update::Ends;
        }
        Update::Taken { changed: before != (self.seen_reply, self.assured, self.tcp_state()) }
    }

    /// The TCP state, for listings; `None` for other protocols.
    #[must_use]
    pub fn tcp_state(&self) -> Option<super::tcp::TcpState> {
        match &self.protocol {
            ProtocolState::Tcp(track) => Some(track.state),
            _ => None,
        }
    }

    /// Something translates it.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.reply != self.original.reversed()
    }

    /// Its packets leave with another source.
    #[must_use]
    pub fn is_src_nat(&self) -> bool {
        self.reply.destination() != self.original.source()
    }

    /// Its packets leave for another destination.
    #[must_use]
    pub fn is_dst_nat(&self) -> bool {
        self.reply.source() != self.original.destination()
    }

    /// The tuple of packets in `direction`, before translation.
    #[must_use]
    pub fn tuple(&self, direction: Direction) -> &FlowTuple {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// Whether its protocol has ports, or identifiers in their place.
    #[must_use]
    pub fn has_ports(&self) -> bool {
        !matches!(self.protocol, ProtocolState::Other)
    }

    fn count(&mut self, direction: Direction, view: &PacketView) {
        let count = &mut self.counts[direction as usize];
        count.packets += u64::from(view.packets);
        count.bytes += u64::from(view.len);
    }

    fn timeout(&self, timeouts: &Timeouts) -> Duration {
        match &self.protocol {
            ProtocolState::Tcp(track) => {
                let mut timeout = timeouts.tcp(track.state);
                if track.is_retransmitting() {
                    timeout = timeout.min(timeouts.tcp_max_retrans);
                }
                if track.is_unacknowledged() {
                    timeout = timeout.min(timeouts.tcp_unacknowledged);
                }
                timeout
            }
            ProtocolState::Udp if self.assured => timeouts.udp_stream,
            ProtocolState::Udp => timeouts.udp,
            ProtocolState::Query if self.original.protocol == protocol::ICMPV6 => timeouts.icmpv6,
            ProtocolState::Query => timeouts.icmp,
            ProtocolState::Other => timeouts.generic,
        }
    }
}
