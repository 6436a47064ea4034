//! One flow: its tuples, what its protocol says of it, and what was counted.

use super::config::{ConntrackConfig, Timeouts};
use super::tcp::{Misfit, TcpTrack, TcpVerdict};
use crate::flow::FlowTuple;
use crate::flow::filter::TcpMss;
use crate::flow::view::{PacketView, Transport};
use crate::parse::protocol;
use crate::time::{Duration, Instant};
use crate::timer_wheel::TimerId;

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
#[derive(Clone, Copy, Debug)]
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
    /// It is not dropped to make room for others, unless it is being closed.
    pub assured: bool,
    /// It was begun by what an ICMP error or another flow announced.
    pub related: bool,
    /// Its source's outside endpoint is one that [`crate::flow::nat`] keeps for it.
    pub owns_mapping: bool,
    /// Its destination was the outside endpoint of somebody's mapping, which lasts at least as long.
    pub let_in: bool,
    /// By [`Direction`]: the destination of that tuple is a port that [`crate::flow::nat`] has down as in use.
    pub(crate) taken: [bool; 2],
    /// When its first packet came.
    pub begun: Instant,
    /// When it ends unless a packet comes.
    pub expires: Instant,
    /// Of its tuples, by [`Direction`], once it is in the table.
    pub(super) hashes: [u32; 2],
    /// Its timer, and when that fires: never after `expires`, and before where packets came since it was set.
    pub(super) timer: Option<(TimerId, Instant)>,
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
            Transport::Error { .. } | Transport::Icmp { .. } | Transport::Broken | Transport::Other => {
                ProtocolState::Other
            }
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
            let_in: false,
            taken: [false; 2],
            begun: now,
            expires: now,
            hashes: [0; 2],
            timer: None,
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
                        self.seen_reply |= direction == Direction::Reply;
                        return Update::Taken { changed: before.0 != self.seen_reply };
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
        self.count(direction, view);
        // RFC 4787 REQ-6, REQ-6a: packets of both directions refresh it.
        self.expires = now + self.timeout(&config.timeouts);
        self.seen_reply |= direction == Direction::Reply;
        if ends {
            return Update::Ends;
        }
        Update::Taken { changed: before != (self.seen_reply, self.assured, self.tcp_state()) }
    }

    /// As [`Entry::update`] for a datagram of a UDP flow that shows nothing new of it: then the end is put off by the same time
    /// as before, so that the timer stands. `false`: it may, and nothing was changed. `len`: of the IP packet.
    #[inline]
    pub(super) fn take_datagram(
        &mut self,
        now: Instant,
        direction: Direction,
        len: u32,
        timeouts: &Timeouts,
    ) -> bool {
        let as_before = matches!(self.protocol, ProtocolState::Udp)
            && now < self.expires
            && (self.seen_reply || direction == Direction::Original)
            && (self.assured || !self.seen_reply || now < self.begun + STREAM_AGE);
        if as_before {
            let count = &mut self.counts[direction as usize];
            count.packets += 1;
            count.bytes += u64::from(len);
            self.expires = now + if self.assured { timeouts.udp_stream } else { timeouts.udp };
        }
        as_before
    }

    /// The TCP state, for listings; `None` for other protocols.
    #[must_use]
    pub fn tcp_state(&self) -> Option<super::tcp::TcpState> {
        match &self.protocol {
            ProtocolState::Tcp(track) => Some(track.state),
            _ => None,
        }
    }

    /// Whether it may be dropped to make room: it is not assured, or is being closed (the states of Linux'
    /// `tcp_can_early_drop`).
    pub(super) fn is_droppable(&self) -> bool {
        use super::tcp::TcpState::{Close, CloseWait, FinWait, LastAck, TimeWait};
        let closing = || matches!(self.tcp_state(), Some(FinWait | CloseWait | LastAck | TimeWait | Close));
        !self.assured || closing()
    }

    /// Something translates it.
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.reply != self.original.reversed()
    }

    /// Its packets leave with another source.
    #[must_use]
    pub fn is_src_nat(&self) -> bool {
        !self.original.comes_from_destination_of(&self.reply)
    }

    /// Its packets leave for another destination.
    #[must_use]
    pub fn is_dst_nat(&self) -> bool {
        !self.reply.comes_from_destination_of(&self.original)
    }

    /// The tuple of packets in `direction`, before translation.
    #[must_use]
    pub fn tuple(&self, direction: Direction) -> &FlowTuple {
        match direction {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    /// Its tuples that are down as `taken`.
    pub(crate) fn taken_tuples(&self) -> impl Iterator<Item = &FlowTuple> {
        let both = [(&self.original, self.taken[0]), (&self.reply, self.taken[1])];
        both.into_iter().filter_map(|(tuple, taken)| taken.then_some(tuple))
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
                // Taken up in its midst, and nobody has answered: it may be anything.
                let picked_up = track.state == super::tcp::TcpState::Established && !self.seen_reply;
                if track.is_unacknowledged() || picked_up {
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
