//! Half-open connections of listeners (SYN-RECEIVED after a passive open) in compact entries, RFC 9293 section 3.10.7.4 for
//! that state, and their SYN-ACKs with back-off. An entry is in one list at a time: those whose SYN-ACK is to be sent, or
//! one for each number of timeouts, which is sorted by deadline because all its entries wait equally long.
//!
//! What a SYN carries besides itself (payload, FIN) is not kept and not acknowledged: the peer sends it again.

use super::connection::{Context, Handshake, syn_window, timestamp_before};
use super::ecn;
use super::header::Flags;
use super::input::Segment;
use super::options::{FastOpenOption, TcpOptions, Timestamps};
use super::reply::Reply;
use super::seq::SeqNumber;
use super::table::{CompactInstant, List, NIL, Slab, TupleKey};
use super::{SocketOptions, TcpConfig};
use crate::counters::DropReason;
use crate::time::{Duration, Instant};

/// Most SYN-ACK retransmissions that can be configured: there is a list for each.
pub(super) const RETRIES_MAX: u8 = 7;

/// No window scaling.
const NO_SCALE: u8 = u8::MAX;

/// A half-open connection.
pub(super) struct HalfOpen {
    pub(super) key: TupleKey,
    /// Place of the listener; closing it removes its entries.
    pub(super) listener: u32,
    /// The TIME-WAIT entry whose place it took, and its generation: it comes back if the SYN was an old duplicate
    /// (RFC 9293 section 3.6.1, MAY-2 (2)).
    displaced: (u32, u32),
    iss: SeqNumber,
    irs: SeqNumber,
    ts_recent: u32,
    /// When the SYN-ACK counts as lost.
    expires: CompactInstant,
    peer_mss: u16,
    our_mss: u16,
    mtu: u16,
    /// Shift of the peer's windows, or [`NO_SCALE`].
    wscale: u8,
    ts_enabled: bool,
    /// The first SYN-ACK carries a Fast Open cookie, in the experimental option or not.
    cookie_wanted: Option<bool>,
    sack: bool,
    ecn: ecn::Agreed,
    /// SYN-ACKs that timed out.
    timeouts: u8,
    syn_ack: SynAck,
    /// The handshake's ACK came and is not taken, nor the SYN-ACK sent again, before as many timeouts: the listener waits for
    /// data.
    deferred_until: u8,
}

/// Where an entry's SYN-ACK is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SynAck {
    /// To be sent.
    Due,
    /// It was sent once.
    Sent,
    /// To be sent once more: no round-trip time can be measured from now on.
    DueAgain,
    /// It was sent more than once.
    SentAgain,
}

impl SynAck {
    fn is_due(self) -> bool {
        matches!(self, Self::Due | Self::DueAgain)
    }

    fn is_again(self) -> bool {
        matches!(self, Self::DueAgain | Self::SentAgain)
    }
}

/// What becomes of a segment for a half-open connection.
pub(super) enum Outcome {
    /// Processed.
    Done,
    /// The SYN-ACK is wanted again.
    SynAck,
    /// Back to LISTEN.
    Forget,
    /// An ACK that says where we are, if the limit allows.
    Challenge,
    /// Of another connection with the same addresses, on another shard perhaps.
    NotOurs(Segment),
    /// The handshake is over: the connection processes the segment.
    Establish(Segment),
}

impl HalfOpen {
    pub(super) fn new(
        key: TupleKey,
        listener: u32,
        iss: SeqNumber,
        syn: &Segment,
        config: &TcpConfig,
    ) -> Self {
        let timestamps = syn.options.timestamps.filter(|_| config.timestamps);
        let default_mss = if key.is_ipv4() { 536 } else { 1220 };
        Self {
            key,
            listener,
            displaced: (NIL, 0),
            iss,
            irs: syn.seq,
            ts_recent: timestamps.map_or(0, |timestamps| timestamps.val),
            expires: Instant::FAR_FUTURE.into(),
            peer_mss: syn.options.mss.unwrap_or(default_mss),
            our_mss: 0,
            mtu: 0,
            wscale: syn.options.window_scale.filter(|_| config.window_scaling).unwrap_or(NO_SCALE),
            ts_enabled: timestamps.is_some(),
            cookie_wanted: None,
            sack: config.sack && syn.options.sack_permitted,
            ecn: ecn::Agreed::from_syn(syn.flags, syn.ecn, config.ecn.accept),
            timeouts: 0,
            syn_ack: SynAck::Due,
            deferred_until: 0,
        }
    }

    /// An ACK without data came for a listener that waits `defer` for data: whether it is not to be taken yet.
    pub(super) fn defers(&mut self, defer: Option<Duration>, config: &TcpConfig) -> bool {
        let Some(defer) = defer else { return false };
        self.deferred_until = deferring_timeouts(defer, config);
        self.timeouts < self.deferred_until
    }

    pub(super) fn displacing(self, place: u32, generation: u32) -> Self {
        Self { displaced: (place, generation), ..self }
    }

    pub(super) fn wanting_cookie(self, cookie_wanted: Option<bool>) -> Self {
        Self { cookie_wanted, ..self }
    }

    /// Whether the SYN-ACK that goes out now carries a Fast Open cookie, in the experimental option or not. Those sent again
    /// do not (RFC 7413 section 4.2.2).
    pub(super) fn cookie_wanted(&self) -> Option<bool> {
        self.cookie_wanted.filter(|_| !self.syn_ack.is_again())
    }

    pub(super) fn displaced(&self) -> Option<(u32, u32)> {
        (self.displaced.0 != NIL).then_some(self.displaced)
    }

    /// When the SYN-ACK counts as lost, and how often it did.
    pub(super) fn patience(&self) -> (Instant, u8) {
        (self.expires.into(), self.timeouts)
    }

    fn rcv_nxt(&self) -> SeqNumber {
        self.irs + 1
    }

    /// RFC 9293 section 3.10.7.4 for SYN-RECEIVED after a passive open. The ACK is looked at before the sequence number: a
    /// wrong one shows that the segment belongs elsewhere, so no judgement on its sequence number may be passed here.
    pub(super) fn segment_arrives(&mut self, segment: Segment, window: u16, cx: &mut Context<'_>) -> Outcome {
        let window = u32::from(window);
        if segment.has(Flags::RST) {
            return self.check_reset(segment, window, cx);
        }
        if segment.has(Flags::ACK) && segment.ack != self.iss + 1 {
            return Outcome::NotOurs(segment);
        }
        if segment.has(Flags::SYN) && !segment.has(Flags::ACK) && segment.seq == self.irs {
            cx.counters.tcp_duplicate_rx += 1;
            self.note_timestamp(&segment);
            if self.ecn.note_syn_again(segment.flags, segment.ecn, cx.config.ecn.accept) {
                return Outcome::SynAck;
            }
            cx.counters.drop(DropReason::TcpBadSyn);
            if let Some(reset) = segment.reset(self.key) {
                cx.replies.push(reset, cx.counters);
            }
            return Outcome::Forget;
        }
        if self.ts_enabled && !segment.has(Flags::SYN) {
            match segment.options.timestamps {
                None if cx.config.timestamps_optional => {}
                None => {
                    cx.counters.drop(DropReason::TcpPaws);
                    return Outcome::Done;
                }
                Some(theirs) if timestamp_before(theirs.val, self.ts_recent) => {
                    cx.counters.drop(DropReason::TcpPaws);
                    return Outcome::Challenge;
                }
                Some(_) => {}
            }
        }
        if !segment.is_acceptable(self.rcv_nxt(), window) {
            cx.counters.drop(DropReason::TcpOutOfWindow);
            return Outcome::Challenge;
        }
        if segment.has(Flags::SYN) {
            // Fourth: a SYN in the window ends the attempt.
            cx.counters.drop(DropReason::TcpBadSyn);
            return Outcome::Forget;
        }
        if !segment.has(Flags::ACK) {
            cx.counters.drop(DropReason::TcpBadAck);
            return Outcome::Done;
        }
        Outcome::Establish(segment)
    }

    /// RFC 5961 section 3.2.
    /// RFC 9293 section 3.5, MUST-11.
    fn check_reset(&self, segment: Segment, window: u32, cx: &mut Context<'_>) -> Outcome {
        if segment.seq == self.rcv_nxt() {
            cx.counters.tcp_resets_rx += 1;
            Outcome::Forget
        } else if segment.seq.in_window(self.rcv_nxt(), window) {
            cx.counters.drop(DropReason::TcpBadReset);
            Outcome::Challenge
        } else {
            Outcome::NotOurs(segment)
        }
    }

    fn note_timestamp(&mut self, segment: &Segment) {
        let theirs = segment.options.timestamps.filter(|_| self.ts_enabled);
        if let Some(newer) = theirs.filter(|theirs| !timestamp_before(theirs.val, self.ts_recent)) {
            self.ts_recent = newer.val;
        }
    }

    fn timestamps(&self, ts_now: u32) -> Option<Timestamps> {
        self.ts_enabled.then_some(Timestamps { val: ts_now, ecr: self.ts_recent })
    }

    /// <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>.
    pub(super) fn ack(&self, options: &SocketOptions, ts_now: u32) -> Reply {
        Reply {
            key: self.key,
            seq: self.iss + 1,
            ack: self.rcv_nxt(),
            flags: Flags::ACK | self.ecn.ack_flags(),
            window: syn_window(options.receive_buffer_start(), options),
            timestamps: self.timestamps(ts_now),
            syn_ack: None,
            ip: options.ip,
        }
    }

    /// The SYN-ACK: sequence number, acknowledgment, flags, options. `our_mss` goes into it; it and the path's `mtu` are kept
    /// for the connection.
    pub(super) fn syn_ack(
        &mut self,
        (our_mss, mtu): (u16, u16),
        our_shift: u8,
        ts_now: u32,
        fastopen: Option<FastOpenOption>,
    ) -> (SeqNumber, SeqNumber, Flags, TcpOptions) {
        (self.our_mss, self.mtu) = (our_mss, mtu);
        let options = TcpOptions {
            mss: Some(our_mss),
            window_scale: (self.wscale != NO_SCALE).then_some(our_shift),
            sack_permitted: self.sack,
            timestamps: self.timestamps(ts_now),
            fastopen,
            accurate_ecn: self.ecn.syn_ack_option().filter(|_| !self.syn_ack.is_again()),
            ..TcpOptions::default()
        };
        let flags = Flags::SYN | Flags::ACK | self.ecn.syn_ack_flags(self.timeouts);
        (self.iss, self.rcv_nxt(), flags, options)
    }

    pub(super) fn was_sent_before(&self) -> bool {
        self.syn_ack.is_again()
    }

    /// What the connection needs to know.
    pub(super) fn handshake(&self, initial_rto: Duration, ts_offset: u32) -> Handshake {
        Handshake {
            key: self.key,
            iss: self.iss,
            irs: self.irs,
            ts_offset,
            ts_recent: self.ts_enabled.then_some(self.ts_recent),
            wscale: (self.wscale != NO_SCALE).then_some(self.wscale),
            sack: self.sack,
            ecn: self.ecn,
            peer_mss: self.peer_mss,
            our_mss: self.our_mss,
            mtu: self.mtu,
            syn_ack_sent_at: (self.syn_ack == SynAck::Sent)
                .then(|| Instant::from(self.expires) - initial_rto),
            timed_out: self.timeouts > 0,
        }
    }
}

/// SYN-ACK timeouts that pass while a listener waits `defer` for data: at least as long, if there are as many.
fn deferring_timeouts(defer: Duration, config: &TcpConfig) -> u8 {
    let mut passed = Duration::ZERO;
    (0..config.syn_ack_retries)
        .take_while(|timeouts| {
            let waits = passed < defer;
            passed += (config.initial_rto * (1 << timeouts)).min(config.max_rto);
            waits
        })
        .count() as u8
}

/// All half-open connections.
pub(super) struct SynQueue {
    pub(super) entries: Slab<HalfOpen>,
    pending: List,
    /// By number of timeouts.
    waiting: [List; RETRIES_MAX as usize + 1],
}

impl SynQueue {
    pub(super) fn new() -> Self {
        Self { entries: Slab::new(), pending: List::EMPTY, waiting: [List::EMPTY; RETRIES_MAX as usize + 1] }
    }

    /// Takes in an entry; its SYN-ACK is to be sent.
    pub(super) fn insert(&mut self, entry: HalfOpen) -> u32 {
        let index = self.entries.insert(entry);
        self.entries.push_back(&mut self.pending, index);
        index
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<HalfOpen> {
        self.unlink(index)?;
        self.entries.remove(index)
    }

    fn unlink(&mut self, index: u32) -> Option<()> {
        let entry = self.entries.get(index)?;
        let list = match entry.syn_ack.is_due() {
            true => &mut self.pending,
            false => &mut self.waiting[usize::from(entry.timeouts)],
        };
        self.entries.unlink(list, index);
        Some(())
    }

    /// The SYN-ACK is to be sent again, for a SYN that came again.
    pub(super) fn send_again(&mut self, index: u32) {
        if self.entries.get(index).is_none_or(|entry| entry.syn_ack.is_due()) {
            return;
        }
        self.unlink(index);
        self.make_pending(index);
    }

    fn make_pending(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.syn_ack = SynAck::DueAgain;
            self.entries.push_back(&mut self.pending, index);
        }
    }

    /// The next entry whose SYN-ACK is to be sent.
    pub(super) fn next_pending(&self) -> Option<u32> {
        self.pending.front()
    }

    /// The SYN-ACK went out.
    pub(super) fn note_sent(&mut self, index: u32, now: Instant, config: &TcpConfig) {
        self.unlink(index);
        if let Some(entry) = self.entries.get_mut(index) {
            entry.syn_ack = if entry.syn_ack.is_again() { SynAck::SentAgain } else { SynAck::Sent };
        }
        self.wait(index, now, config);
    }

    /// The entry waits for the next timeout.
    fn wait(&mut self, index: u32, now: Instant, config: &TcpConfig) {
        if let Some(entry) = self.entries.get_mut(index) {
            let wait = config.initial_rto * (1 << entry.timeouts);
            entry.expires = (now + wait.min(config.max_rto)).into();
            let list = &mut self.waiting[usize::from(entry.timeouts)];
            self.entries.push_back(list, index);
        }
    }

    /// The next entry whose SYN-ACK counts as lost at `now`: `Err` when it is to be forgotten, `Ok` when its SYN-ACK is to
    /// be sent again, which is arranged.
    pub(super) fn pop_expired(&mut self, now: Instant, config: &TcpConfig) -> Option<Result<(), u32>> {
        let index = self.waiting.iter().filter_map(List::front).find(|index| {
            self.entries.get(*index).is_some_and(|entry| Instant::from(entry.expires) <= now)
        })?;
        if self.entries.get(index).is_some_and(|entry| entry.timeouts >= config.syn_ack_retries) {
            return Some(Err(index));
        }
        self.unlink(index);
        let mut is_deferred = false;
        if let Some(entry) = self.entries.get_mut(index) {
            entry.timeouts += 1;
            is_deferred = entry.timeouts < entry.deferred_until;
        }
        if is_deferred {
            self.wait(index, now, config);
        } else {
            self.make_pending(index);
        }
        Some(Ok(()))
    }

    /// When the next SYN-ACK counts as lost.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let fronts = self.waiting.iter().filter_map(List::front);
        fronts.filter_map(|index| self.entries.get(index)).map(|entry| entry.expires.into()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_costs_at_most_96_bytes() {
        assert!(Slab::<HalfOpen>::slot_size() <= 96, "{}", Slab::<HalfOpen>::slot_size());
    }
}
