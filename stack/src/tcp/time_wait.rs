//! TIME-WAIT in compact entries (RFC 9293 section 3.6.1 and 3.10.7.4): they answer what is left of a connection, are not
//! moved by RSTs (RFC 1337), and give way to a new SYN that is provably newer (RFC 6191, RFC 9293 MAY-2). All of them
//! last equally long, so the list they are in is sorted by when they end.

use super::IpFields;
use super::connection::{Connection, Context, timestamp_before};
use super::header::Flags;
use super::input::Segment;
use super::options::Timestamps;
use super::reply::Reply;
use super::seq::SeqNumber;
use super::table::{CompactInstant, List, Slab, TupleKey};
use crate::counters::DropReason;
use crate::time::{Duration, Instant};

/// Least age at which an active open of ours may take the place of an entry (Linux's `tcp_tw_reuse`): TSval must have
/// grown.
const REUSE_AGE: Duration = Duration::from_secs(1);
/// How far the sequence numbers of a reopened connection begin behind the old one's: a full unscaled window (Linux's).
pub(super) const REOPEN_GAP: u32 = 65_535 + 2;

/// A connection in TIME-WAIT.
pub(super) struct TimeWait {
    pub(super) key: TupleKey,
    pub(super) snd_nxt: SeqNumber,
    /// Behind the peer's FIN.
    rcv_nxt: SeqNumber,
    ts_recent: u32,
    ts_enabled: bool,
    window: u16,
    /// What accurate ECN says in every ACK.
    ace: Flags,
    ip: IpFields,
    expires: CompactInstant,
}

/// What a segment for a TIME-WAIT entry asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Nothing.
    Ignore,
    /// An ACK, and 2 MSL anew: the peer did not get our last ACK.
    Restart,
    /// An ACK, if the limit on challenge ACKs allows.
    Challenge,
    /// To open the connection anew, if somebody listens.
    Reopen,
}

impl TimeWait {
    pub(super) fn new(connection: &Connection, expires: Instant) -> Self {
        Self {
            key: connection.key,
            snd_nxt: connection.snd_nxt,
            rcv_nxt: connection.rcv_nxt(),
            ts_recent: connection.ts_recent,
            ts_enabled: connection.ts_enabled,
            window: connection.select_window(false),
            ace: connection.ecn.flags(false, false),
            ip: connection.options.ip,
            expires: expires.into(),
        }
    }

    /// When it ends.
    pub(super) fn expires(&self) -> Instant {
        self.expires.into()
    }

    /// An ACK that says where the connection stands.
    pub(super) fn ack(&self, ts_now: u32) -> Reply {
        Reply {
            key: self.key,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK | self.ace,
            window: self.window,
            timestamps: self.ts_enabled.then_some(Timestamps { val: ts_now, ecr: self.ts_recent }),
            syn_ack: None,
            ip: self.ip,
        }
    }

    /// Whether an active open of ours may take the entry's place: the peer tells old from new by the timestamps.
    pub(super) fn may_be_reused(&self, now: Instant, duration: Duration) -> bool {
        self.ts_enabled && now + duration >= Instant::from(self.expires) + REUSE_AGE
    }

    /// Whether the SYN belongs to a later connection (RFC 6191 section 2).
    /// RFC 9293 section 3.6.1, SHLD-4.
    fn is_newer(&self, segment: &Segment, ts_configured: bool) -> bool {
        let later_seq = self.rcv_nxt.le(segment.seq);
        let theirs = segment.options.timestamps.filter(|_| ts_configured);
        match (self.ts_enabled, theirs) {
            (true, Some(theirs)) if theirs.val == self.ts_recent => later_seq,
            (true, Some(theirs)) => !timestamp_before(theirs.val, self.ts_recent),
            (false, Some(_)) => true,
            (_, None) => later_seq,
        }
    }

    /// RFC 9293 section 3.10.7.4 for TIME-WAIT.
    pub(super) fn segment_arrives(&self, segment: &Segment, cx: &mut Context<'_>) -> Outcome {
        if segment.has(Flags::RST) {
            // RFC 1337 section 3, fix (F1).
            cx.counters.drop(DropReason::TcpBadReset);
            return Outcome::Ignore;
        }
        if segment.has(Flags::SYN) && !segment.has(Flags::ACK) {
            if self.is_newer(segment, cx.config.timestamps) {
                return Outcome::Reopen;
            }
            cx.counters.drop(DropReason::TcpBadSyn);
            return Outcome::Challenge;
        }
        let theirs = segment.options.timestamps.filter(|_| self.ts_enabled);
        if theirs.is_some_and(|theirs| timestamp_before(theirs.val, self.ts_recent)) {
            cx.counters.drop(DropReason::TcpPaws);
            return Outcome::Challenge;
        }
        if !segment.has(Flags::ACK) && segment.is_acceptable(self.rcv_nxt, u32::from(u16::MAX)) {
            cx.counters.drop(DropReason::TcpBadAck);
            return Outcome::Ignore;
        }
        if segment.has(Flags::FIN) && segment.seq + segment.len() == self.rcv_nxt {
            cx.counters.tcp_duplicate_rx += 1;
            return Outcome::Restart;
        }
        if segment.len() == 0 && segment.is_acceptable(self.rcv_nxt, u32::from(u16::MAX)) {
            // An ACK of what is all acknowledged.
            return Outcome::Ignore;
        }
        cx.counters.drop(DropReason::TcpOutOfWindow);
        Outcome::Challenge
    }
}

/// All TIME-WAIT entries, in the order in which they end.
pub(super) struct TimeWaits {
    pub(super) entries: Slab<TimeWait>,
    order: List,
}

impl TimeWaits {
    pub(super) fn new() -> Self {
        Self { entries: Slab::new(), order: List::EMPTY }
    }

    pub(super) fn insert(&mut self, entry: TimeWait) -> u32 {
        let index = self.entries.insert(entry);
        self.entries.push_back(&mut self.order, index);
        index
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<TimeWait> {
        self.entries.get(index)?;
        self.entries.unlink(&mut self.order, index);
        self.entries.remove(index)
    }

    /// Lets the entry last until `expires`, later than any other.
    pub(super) fn restart(&mut self, index: u32, expires: Instant) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.expires = expires.into();
            self.entries.unlink(&mut self.order, index);
            self.entries.push_back(&mut self.order, index);
        }
    }

    /// The entry that ends first.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.order.front()
    }

    /// When that is.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.oldest().and_then(|index| self.entries.get(index)).map(|entry| entry.expires.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_costs_at_most_96_bytes() {
        assert!(Slab::<TimeWait>::slot_size() <= 96, "{}", Slab::<TimeWait>::slot_size());
    }
}
