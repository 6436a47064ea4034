//! What a connection sends next and when: new data by the windows, Nagle's rule, cork and silly window avoidance (RFC
//! 9293 sections 3.7.4 and 3.8.6.2.1), data again, FIN, probes, ACKs. `plan` decides without changing anything,
//! `send_next` builds and sends what it decided and takes note of it only when the egress took it: new data as a
//! super-segment of all segments that could go one after the other (`super_segment`).

use super::congestion::CongestionControl;
use super::congestion::pacing::window_rate;
use super::connection::{Connection, syn_window};
use super::header::Flags;
use super::options::{OPTIONS_LEN_MAX, TcpOptions, Timestamps};
use super::recovery::Frto;
use super::scoreboard::Sent;
use super::seq::SeqNumber;
use super::{Egress, EgressError, SegmentOut, State, TcpError};
use crate::counters::Counters;
use crate::offload::gso;
use crate::time::Instant;

/// What is to be sent next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    /// Our SYN, or SYN,ACK.
    Syn,
    /// Payload, FIN or both.
    Data(Data),
    /// A probe of the peer's closed window: an old sequence number, as for keepalive, which the peer answers. The octet
    /// of RFC 9293 section 3.8.6.1 is not needed for that, and would have to be sent again with its segment (Linux's
    /// way).
    Probe,
    /// An ACK by itself.
    Ack,
    /// An old sequence number that the peer answers (RFC 9293 section 3.8.4).
    Keepalive,
}

/// A segment that takes sequence space, or several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Data {
    seq: SeqNumber,
    /// Payload of all.
    len: u32,
    /// Payload of each on the wire, at least 1; the last may have less.
    mss: u32,
    fin: bool,
    push: bool,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// It is next.
    Next,
    /// It was lost.
    Again,
    /// It probes the tail (RFC 8985 section 7.3), new or sent before.
    Tail,
}

/// What the send path works with besides the connection.
pub(super) struct Output<'a> {
    pub(super) now: Instant,
    pub(super) egress: &'a mut dyn Egress,
    pub(super) counters: &'a mut Counters,
    /// All buffers together are over their bound: windows do not grow.
    pub(super) pressure: bool,
    /// [`super::TcpConfig::slow_start_after_idle`].
    pub(super) slow_start_after_idle: bool,
    /// What the connection may still send in this turn, besides what it is about to send.
    pub(super) segments_left: usize,
    pub(super) bytes_left: usize,
}

impl Connection {
    /// What to send next, if anything.
    pub(super) fn plan(&self) -> Option<Plan> {
        if self.is_silent() || self.state.is_over() {
            return None;
        }
        if self.syn_due {
            return Some(Plan::Syn);
        }
        if self.duplicate_acks_owed > 0 || (self.ack_now && self.ecn.owes_handshake_ack()) {
            // The peer counts only segments without payload (RFC 5681 section 2).
            return Some(Plan::Ack);
        }
        self.plan_data()
            .map(Plan::Data)
            .or_else(|| self.probe_due.then_some(Plan::Probe))
            .or_else(|| self.ack_now.then_some(Plan::Ack))
            .or_else(|| self.keepalive_due.then_some(Plan::Keepalive))
    }

    /// Whether there is nothing to say, as far as that is quickly seen: what each turn ends with.
    #[inline]
    fn is_silent(&self) -> bool {
        let owes = self.syn_due | self.ack_now | self.probe_due | self.keepalive_due | self.loss.probe_tail;
        let ends = self.fin_queued & !self.fin_sent;
        self.unsent() == 0
            && !owes
            && !ends
            && self.duplicate_acks_owed == 0
            && self.sent.next_lost().is_none()
    }

    /// RFC 9293 section 3.9.1.2, SHLD-28, MAY-16.
    fn plan_data(&self) -> Option<Data> {
        if !self.syn_acked() && !self.may_send_early() {
            return None;
        }
        if self.loss.probe_tail {
            return self.plan_tail();
        }
        if self.timers.pace.is_some() && !self.loss.resend_now {
            return None;
        }
        if let Some(again) = self.plan_again() {
            return Some(again);
        }
        let (unsent, room) = (self.unsent(), self.window_room());
        if unsent == 0 {
            return self.plan_fin();
        }
        let probe = self.mtu_probe_len().filter(|len| room >= *len && self.congestion_allows(*len));
        if let Some(len) = probe {
            return Some(self.data(self.snd_nxt, len, false, Why::Next));
        }
        let wanted = unsent.min(u32::from(self.mss)).min(self.record_rest(self.nxt_offset()));
        if !self.congestion_allows(wanted) {
            return None;
        }
        if room >= wanted {
            let fin = wanted == unsent && self.fin_queued && room > wanted;
            if wanted < u32::from(self.mss) && wanted == unsent && !self.may_send_small() {
                return None;
            }
            return Some(self.data(self.snd_nxt, wanted, fin, Why::Next));
        }
        // Less than wanted fits the window: silly, unless it is much of what the peer ever offered.
        let worthwhile = self.override_due || room >= self.snd_wnd_max.div_ceil(2);
        (room > 0 && worthwhile).then(|| self.data(self.snd_nxt, room, false, Why::Next))
    }

    /// The first lost segment. It must lie in the peer's window, unless it is the very first: that one is what the peer
    /// waits for.
    /// RFC 9293 section 3.8.6, SHLD-16, MAY-7.
    fn plan_again(&self) -> Option<Data> {
        if self.loss.frto == Frto::Probing {
            return None;
        }
        let lost = self.sent.next_lost()?;
        let is_first = lost.start == self.una_offset;
        let fits = lost.end() <= self.una_offset + u64::from(self.snd_wnd);
        if !(is_first || fits) || !(self.loss.resend_now || self.congestion_allows(lost.len)) {
            return None;
        }
        Some(self.sent_again(&lost, Why::Again))
    }

    /// A new segment that the congestion window does not allow, else the last one again (RFC 8985 section 7.3).
    fn plan_tail(&self) -> Option<Data> {
        let (unsent, room) = (self.unsent(), self.window_room());
        let len = unsent.min(u32::from(self.mss)).min(room);
        if len > 0 {
            let fin = len == unsent && self.fin_queued && room > len;
            return Some(self.data(self.snd_nxt, len, fin, Why::Tail));
        }
        self.sent.last().map(|last| self.sent_again(&last, Why::Tail))
    }

    /// What goes out when `sent` is sent again.
    fn sent_again(&self, sent: &Sent, why: Why) -> Data {
        let seq = self.snd_una + (sent.start - self.una_offset) as u32;
        let fin = self.fin_sent && sent.end() == self.nxt_offset();
        self.data(seq, sent.len - u32::from(fin), fin, why)
    }

    fn data(&self, seq: SeqNumber, len: u32, fin: bool, why: Why) -> Data {
        // The last byte there is, or of a record: the peer should not wait for more (RFC 9293 section 3.9.1.2, MUST-61).
        let end = seq + len;
        let push = len > 0 && ((end == self.data_end() && !self.more) || self.is_record_end(end));
        Data { seq, len, mss: len.max(1), fin, push, why }
    }

    /// `first` with all the segments that could follow it one by one now, to go as one: full ones, and the last there is if
    /// it may go. The windows, Nagle's rule, pacing and FIN decide as they would for each, so that the same packets are sent;
    /// what has nothing to do with bulk (probes, data again, what is silly) has no company.
    fn super_segment(&self, first: Data, out: &Output<'_>) -> Data {
        let mss = u32::from(self.mss);
        if first.why != Why::Next || first.len != mss || first.fin {
            return first;
        }
        let limit = out.egress.super_segment_max().min(out.bytes_left) as u32;
        if limit < 2 * mss {
            return first;
        }
        if self.urgent_end().is_some() {
            // Each segment has an urgent pointer of its own.
            return first;
        }
        let (unsent, room) = (self.unsent(), self.window_room());
        let congestion_room = self.cwnd().saturating_sub(self.in_flight());
        let may = unsent.min(room).min(congestion_room).min(limit).min(self.record_rest(self.nxt_offset()));
        let most = (out.segments_left as u32 + 1).min(may.div_ceil(mss));
        let count = if most > 1 { self.paced_segments(most, out.now) } else { most };
        let mut len = (may - may % mss).min(count * mss);
        let rest = may - len;
        if rest > 0
            && count * mss > len
            && rest == unsent - len
            && !self.owes_feedback()
            && self.nagle_allows()
        {
            len += rest;
        }
        if len <= mss {
            return first;
        }
        let fin = len == unsent && self.fin_queued && room > len;
        Data { mss, ..self.data(first.seq, len, fin, Why::Next) }
    }

    /// How many of `most` full segments pacing lets go now, at least one.
    fn paced_segments(&self, most: u32, now: Instant) -> u32 {
        let Some(rate) = self.rate_of_pacing() else { return most };
        let mut pacer = self.pacer.clone();
        let is_last = |_: &u32| {
            pacer.on_send(now, self.mss.into(), rate);
            pacer.earliest(now).is_some()
        };
        (1..most).find(is_last).unwrap_or(most)
    }

    /// The FIN by itself, once everything before it is sent and if the window has room for it.
    fn plan_fin(&self) -> Option<Data> {
        let due = self.fin_queued && !self.fin_sent;
        (due && self.window_room() > 0).then(|| self.data(self.snd_nxt, 0, true, Why::Next))
    }

    /// The application's record ends with what it has written; what it writes next begins a segment.
    pub(super) fn end_record(&mut self) {
        let end = self.una_offset + u64::from(self.data_end().since(self.snd_una));
        let (una, ends) = (self.una_offset, &mut self.cold_mut().record_ends);
        while ends.front().is_some_and(|end| *end <= una) {
            ends.pop_front();
        }
        if ends.len() < crate::limits::TCP_RECORD_ENDS && ends.back() != Some(&end) {
            ends.push_back(end);
        }
    }

    /// Bytes from an offset to the end of the record there.
    pub(super) fn record_rest(&self, from: u64) -> u32 {
        let Some(ends) = self.cold().map(|cold| &cold.record_ends).filter(|ends| !ends.is_empty()) else {
            return u32::MAX;
        };
        let next = ends.partition_point(|end| *end <= from);
        ends.get(next).map_or(u32::MAX, |end| (end - from) as u32)
    }

    fn is_record_end(&self, seq: SeqNumber) -> bool {
        let offset = self.una_offset + u64::from(seq.since(self.snd_una));
        self.cold().is_some_and(|cold| cold.record_ends.binary_search(&offset).is_ok())
    }

    /// SND.UP, while urgent data waits to be acknowledged.
    fn urgent_end(&self) -> Option<SeqNumber> {
        self.cold().and_then(|cold| cold.urgent_out).filter(|end| end.gt(self.snd_una))
    }

    /// The urgent pointer of a segment that begins at `seq`, relative to that; one that does not reach is the largest there is.
    /// RFC 9293 section 3.8.5, MUST-30, MUST-31, MUST-62.
    fn urgent_pointer(&mut self, seq: SeqNumber) -> Option<u16> {
        let end = self.cold()?.urgent_out?;
        if end.le(self.snd_una) {
            self.cold_mut().urgent_out = None;
            return None;
        }
        end.gt(seq).then(|| end.since(seq).min(u32::from(u16::MAX)) as u16)
    }

    /// Bytes queued and never sent.
    pub(super) fn unsent(&self) -> u32 {
        let end = self.data_end();
        if self.snd_nxt.lt(end) { end.since(self.snd_nxt) } else { 0 }
    }

    /// Sequence space that the peer's window leaves; none when the peer shrank it.
    /// RFC 9293 section 3.8.6, SHLD-15; RFC 7323 section 2.4.
    pub(super) fn window_room(&self) -> u32 {
        self.snd_wnd.saturating_sub(self.outstanding())
    }

    /// Whether the congestion window leaves room for `len` bytes; always for the first segment in flight.
    pub(super) fn congestion_allows(&self, len: u32) -> bool {
        let in_flight = self.in_flight();
        in_flight == 0 || in_flight + len <= self.cwnd()
    }

    /// Whether the last, partial segment may go: Nagle's rule in Minshall's form, that only one such segment may be
    /// outstanding (RFC 9293 appendix A.3; Linux's), unless turned off; nothing while corked.
    /// RFC 9293 section 3.7.4, MUST-17, SHLD-7; RFC 9293 section 3.8.6.2.1, MUST-38; RFC 9293 section 3.9.1.2,
    /// MUST-60.
    fn may_send_small(&self) -> bool {
        self.override_due || self.nagle_allows()
    }

    /// As `may_send_small`, behind other segments: the override timeout is over with the first.
    fn nagle_allows(&self) -> bool {
        self.fin_queued
            || self.urgent_end().is_some()
            || (!self.options.cork
                && (!self.more || self.more_acked)
                && (self.options.nodelay || self.snd_sml.le(self.snd_una)))
    }

    /// Whether something is held back that no ACK will set free: by cork, or because less than a segment fits the
    /// window and nothing is outstanding.
    pub(super) fn is_holding_back(&self) -> bool {
        let unsent = self.unsent();
        unsent > 0
            && self.syn_acked()
            && self.snd_wnd > 0
            && !self.override_due
            && self.timers.pace.is_none()
            && (self.options.cork || self.more || self.outstanding() == 0)
            && self.congestion_allows(unsent.min(u32::from(self.mss)))
            && self.plan_data().is_none()
    }

    /// Notes, when a turn ends, whether the congestion window is used: its growth is earned then. In slow start half of
    /// it is enough, as in Linux.
    pub(super) fn note_limit(&mut self) {
        let all_sent = self.unsent() == 0 && self.sent.next_lost().is_none();
        self.note_limit_of(self.in_flight(), all_sent);
    }

    /// As [`Connection::note_limit`], with so many bytes in flight. `all_sent`: nothing waits to be sent, or sent again.
    #[inline]
    pub(super) fn note_limit_of(&mut self, in_flight: u32, all_sent: bool) {
        let (mss, cwnd) = (u32::from(self.mss), self.cwnd());
        if in_flight > self.flight_most || self.flight_most_until.le(self.snd_una) {
            (self.flight_most, self.flight_most_until) = (in_flight, self.snd_nxt);
        }
        if self.timers.pace.is_some() {
            return;
        }
        if all_sent && in_flight < cwnd {
            self.rate.mark_app_limited(in_flight);
        }
        let used =
            if self.congestion.in_slow_start() { in_flight.saturating_mul(2) } else { in_flight + mss };
        if used > cwnd {
            self.cwnd_limited = self.snd_nxt;
        }
    }

    /// Sends what `plan` says.
    pub(super) fn send_next(&mut self, plan: Plan, out: &mut Output<'_>) -> Result<(), EgressError> {
        match plan {
            Plan::Syn => self.send_syn(out),
            Plan::Data(data) => self.send_data(data, out),
            Plan::Probe => self.send_probe(out),
            Plan::Ack => self.send_ack(out),
            Plan::Keepalive => self.send_keepalive(out),
        }
    }

    /// RFC 9293 section 3.7.1, SHLD-5, MAY-3; RFC 7323 section 2.2.
    fn send_syn(&mut self, out: &mut Output<'_>) -> Result<(), EgressError> {
        let remote = self.key.remote();
        self.learn_mtu(|| out.egress.path_mtu(remote.ip()));
        self.set_our_mss(out.egress.link_mtu(remote.ip()));
        let (fastopen, len) = self.fastopen_syn();
        let ack = self.state != State::SynSent;
        let again = self.snd_nxt.gt(self.iss);
        let (ecn, accurate_ecn) =
            if ack { self.ecn.syn_ack(self.retransmits, again) } else { (self.ecn.syn_flags(), None) };
        // A SYN,ACK repeats an option only if the peer's SYN had it (RFC 7323 sections 2.2 and 3.2).
        let options = TcpOptions {
            mss: Some(self.our_mss()),
            window_scale: self.wscale_enabled.then_some(self.rcv_wscale),
            sack_permitted: self.sack_enabled,
            timestamps: self.timestamps(out.now),
            fastopen,
            accurate_ecn,
            ..TcpOptions::default()
        };
        let space = self.receive.space(self.receive_cap()).min(65_535) as u16;
        let segment = Header {
            seq: self.iss,
            flags: if ack { Flags::SYN | Flags::ACK } else { Flags::SYN } | ecn,
            window: syn_window(self.receive_cap(), &self.options).min(space),
            options: &Written::new(&options, true),
        };
        let window = segment.window;
        self.emit(&segment, 0, len as usize, len.max(1) as usize, out)?;
        self.syn_due = false;
        if ack {
            self.note_syn_ack_sent(window);
        }
        if !self.snd_nxt.gt(self.iss) {
            self.note_syn_data_sent(len, out.counters);
            self.snd_nxt = self.iss + 1 + len;
            self.syn_sent_at = Some(out.now);
            self.progress_at = out.now;
            self.restart_retransmit_timer(out.now);
        } else {
            out.counters.tcp_retransmits += u64::from(self.retransmits > 0);
            if self.retransmits > 0 {
                self.cold_mut().troubles.retransmitted += 1;
            }
        }
        Ok(())
    }

    /// RFC 9293 section 3.9.1.2, SHLD-27.
    fn send_data(&mut self, data: Data, out: &mut Output<'_>) -> Result<(), EgressError> {
        let idle = self.outstanding() == 0 && out.now > self.last_sent_at.plus_micros(self.rtt.rto_us());
        if idle && out.slow_start_after_idle {
            // RFC 5681 section 4.1.
            self.congestion.on_idle_restart(out.now);
        }
        let options = self.options_for(data.seq, data.len.min(data.mss), out.now);
        // All segments of a super-segment have the same options, and feedback belongs on one of them. It seldom fits a full
        // one, so that a segment with feedback goes alone, and so does the short last one while some is owed.
        let data = if options.is_plain { self.super_segment(data, out) } else { data };
        let mut flags = Flags::ACK;
        if data.fin {
            flags |= Flags::FIN;
        }
        if data.push {
            flags |= Flags::PSH;
        }
        let window = self.select_window(out.pressure);
        let segment = Header { seq: data.seq, flags, window, options: &options };
        let offset = data.seq.since(self.data_start()) as usize;
        let sent = self.emit(&segment, offset, data.len as usize, data.mss as usize, out)? as u32;
        self.note_acknowledged(window, &options, out.counters);
        if sent < data.len {
            self.note_sent(Data { len: sent, fin: false, push: false, ..data }, out);
            return Err(EgressError::Full);
        }
        self.note_sent(data, out);
        Ok(())
    }

    /// The options of a segment without SYN: timestamps and what [`Connection::add_feedback`] adds for `len` bytes from `seq` on.
    fn options_for(&self, seq: SeqNumber, len: u32, now: Instant) -> Written {
        let mut options = TcpOptions { timestamps: self.timestamps(now), ..TcpOptions::default() };
        let nothing = !self.receive.has_gap()
            && self.ecn.is_absent()
            && self.cold().is_none_or(|cold| cold.duplicate_block.is_none());
        if nothing {
            return Written::plain(options.timestamps);
        }
        let plain = options;
        self.add_feedback(&mut options, seq, len);
        Written { is_plain: options == plain, ..Written::new(&options, false) }
    }

    /// Whether there is something that `add_feedback` would tell, were there room.
    fn owes_feedback(&self) -> bool {
        let duplicate = self.cold().is_some_and(|cold| cold.duplicate_block.is_some());
        self.ecn.owes_option() || (self.sack_enabled && (duplicate || self.receive.has_gap()))
    }

    /// Adds what the peer should know of marks and of what arrived out of order or twice (RFC 2018 section 4, RFC 2883
    /// section 4), as far as it fits a segment with `len` bytes of payload.
    fn add_feedback(&self, options: &mut TcpOptions, seq: SeqNumber, len: u32) {
        let duplicate = self.cold().and_then(|cold| cold.duplicate_block);
        let blocks = if self.sack_enabled { self.receive.sack_blocks().len() } else { 0 };
        let new = seq == self.snd_nxt;
        self.add_accurate_option(options, len, new, blocks + usize::from(duplicate.is_some()));
        if !self.sack_enabled || (duplicate.is_none() && !self.receive.has_gap()) {
            return;
        }
        let room = self.mtu().saturating_sub(self.fixed_headers()).into();
        // A FIN takes a sequence number too: without it a sender would not know its last segment delivered.
        let with_fin = |(start, end): (SeqNumber, SeqNumber)| {
            if self.peer_fin == Some(end) { (start, end + 1) } else { (start, end) }
        };
        let held = self.receive.sack_blocks();
        for block in duplicate.into_iter().chain(held.iter().copied().map(with_fin)) {
            let before = options.sack;
            if !options.sack.push(block) || options.emitted_len(false) + len as usize > room {
                options.sack = before;
                break;
            }
        }
    }

    /// Accounts for the segments with payload or FIN that were sent.
    fn note_sent(&mut self, data: Data, out: &mut Output<'_>) {
        let len = data.len + u32::from(data.fin);
        let segments = gso::segments(data.len as usize, data.mss as usize) as u32;
        let last_len = data.len - (segments - 1) * data.mss;
        self.statistics.data_segments_out += if data.len > 0 { segments } else { 0 };
        out.counters.tcp_bytes_tx += u64::from(data.len);
        let in_flight = self.in_flight();
        let snapshot = self.rate.on_send(out.now, in_flight);
        let start = self.una_offset + u64::from(data.seq.since(self.snd_una));
        let is_new = data.seq == self.snd_nxt;
        if is_new {
            if self.outstanding() == 0 {
                self.progress_at = out.now;
            }
            self.sent.push_run(start, len, data.mss, segments, out.now, snapshot);
            if data.mss > u32::from(self.mss) {
                self.mtu_probe_sent(data.len, start + u64::from(len));
            }
            self.snd_nxt += len;
            self.fin_sent |= data.fin;
            self.override_due = false;
            self.timers.probe = None;
            if last_len < u32::from(self.mss) && data.len > 0 {
                self.snd_sml = self.snd_nxt;
            }
        } else {
            self.sent.note_resent(start + u64::from(len), out.now, snapshot);
            self.note_resent(out.now);
            if start == self.una_offset {
                // What the peer waits for is on its way again: it has a whole timeout to arrive (as in Linux).
                self.restart_retransmit_timer(out.now);
            }
            out.counters.tcp_retransmits += 1;
            let troubles = &mut self.cold_mut().troubles;
            troubles.retransmitted += 1;
            troubles.bytes_retransmitted += u64::from(data.len);
        }
        if data.why == Why::Tail {
            self.loss.probe_tail = false;
            out.counters.tcp_tail_probes += 1;
            self.rack.probed(self.nxt_offset(), !is_new);
        }
        self.note_flight(len);
        self.pace(out.now, len, data.mss, segments);
        self.last_sent_at = out.now;
        if data.len > 0 {
            self.note_answer(out.now);
        }
        if self.timers.retransmit.is_none() {
            self.restart_retransmit_timer(out.now);
        }
    }

    /// Data goes out. As an answer to what came just now: the next ACKs can ride on answers, too.
    #[inline]
    pub(super) fn note_answer(&mut self, now: Instant) {
        if now.micros_since(self.last_data_at) < u64::from(self.ato_ms) * 1000 {
            self.pingpong = true;
        }
    }

    /// Sets the time before which nothing more goes, if what is sent is paced: `segments` were, `len` bytes in all and each
    /// but the last `mss`.
    fn pace(&mut self, now: Instant, len: u32, mss: u32, segments: u32) {
        let Some(rate) = self.rate_of_pacing() else { return };
        (1..segments).for_each(|_| self.pacer.on_send(now, mss, rate));
        self.pacer.on_send(now, len - (segments - 1) * mss, rate);
        self.timers.pace = self.pacer.earliest(now);
    }

    /// Bytes a second at which what is sent is paced, if it is.
    fn rate_of_pacing(&self) -> Option<u64> {
        self.congestion.pacing_rate().or_else(|| {
            let srtt = self.rtt.srtt().filter(|_| self.paces_windows)?;
            Some(window_rate(self.cwnd(), self.congestion.ssthresh(), self.in_flight(), srtt))
        })
    }

    fn send_ack(&mut self, out: &mut Output<'_>) -> Result<(), EgressError> {
        let first = self.ack_now;
        self.send_bare(self.ack_seq(), out)?;
        if !first {
            self.duplicate_acks_owed = self.duplicate_acks_owed.saturating_sub(1);
        }
        Ok(())
    }

    fn send_probe(&mut self, out: &mut Output<'_>) -> Result<(), EgressError> {
        if self.urgent_end().is_some() {
            // Urgent data is told of while the window is closed, too, by a segment of its own: the probe's number is old.
            self.send_bare(self.snd_una, out)?;
        }
        self.send_bare(self.snd_una - 1, out)?;
        self.probe_due = false;
        out.counters.tcp_zero_window_probes += 1;
        Ok(())
    }

    /// RFC 9293 section 3.8.4, SHLD-12.
    fn send_keepalive(&mut self, out: &mut Output<'_>) -> Result<(), EgressError> {
        self.send_bare(self.snd_una - 1, out)?;
        self.keepalive_due = false;
        out.counters.tcp_keepalive_probes += 1;
        Ok(())
    }

    /// A segment without payload.
    fn send_bare(&mut self, seq: SeqNumber, out: &mut Output<'_>) -> Result<(), EgressError> {
        let options = self.options_for(seq, 0, out.now);
        let window = self.select_window(out.pressure);
        self.emit(&Header { seq, flags: Flags::ACK, window, options: &options }, 0, 0, 1, out)?;
        self.note_acknowledged(window, &options, out.counters);
        Ok(())
    }

    /// A SYN,ACK with RCV.NXT and this window, which is not scaled, went out.
    fn note_syn_ack_sent(&mut self, window: u16) {
        let rcv_nxt = self.rcv_nxt();
        self.rcv_edge = self.rcv_edge.max(rcv_nxt + u32::from(window));
        self.last_ack_sent = rcv_nxt;
        self.ack_now = false;
        self.timers.delayed_ack = None;
    }

    /// A segment with RCV.NXT and this window went out.
    fn note_acknowledged(&mut self, window: u16, options: &Written, counters: &mut Counters) {
        self.note_duplicate_told(options, counters);
        self.note_ack_sent(window);
    }

    fn note_duplicate_told(&mut self, options: &Written, counters: &mut Counters) {
        let duplicate = self.cold().and_then(|cold| cold.duplicate_block);
        if duplicate.is_some() && options.first_block == duplicate {
            self.cold_mut().duplicate_block = None;
            counters.tcp_dsacks_tx += 1;
            if let Some((start, _)) = duplicate.filter(|_| options.accurate_ecn) {
                self.ecn.note_duplicate_told(start);
            }
        }
    }

    /// RCV.NXT and this window were sent.
    #[inline]
    pub(super) fn note_ack_sent(&mut self, window: u16) {
        let rcv_nxt = self.rcv_nxt();
        self.rcv_edge = self.rcv_edge.max(rcv_nxt + (u32::from(window) << self.rcv_wscale));
        if self.last_ack_sent != rcv_nxt {
            self.quick_acks = self.quick_acks.saturating_sub(1);
        }
        self.last_ack_sent = rcv_nxt;
        self.ack_now = false;
        self.timers.delayed_ack = None;
    }

    /// Sends `len` bytes of payload from `offset` of the send queue on, in segments of `mss` bytes. Returns how many bytes
    /// count as sent: some whole segments or all.
    /// RFC 9293 section 3.9.1.1, MUST-45.
    fn emit(
        &mut self,
        header: &Header<'_>,
        offset: usize,
        len: usize,
        mss: usize,
        out: &mut Output<'_>,
    ) -> Result<usize, EgressError> {
        let syn = header.flags.contains(Flags::SYN);
        let new = len > 0 && !syn && header.seq == self.snd_nxt;
        let mut flags = if syn { header.flags } else { header.flags | self.ecn.flags(new, len == 0) };
        let urgent = if syn { None } else { self.urgent_pointer(header.seq) };
        if urgent.is_some() {
            flags |= Flags::URG;
        }
        let ecn = self.ecn.codepoint(new);
        let ack = if header.flags.contains(Flags::ACK) { self.rcv_nxt() } else { SeqNumber(0) };
        let (src, dst) = (self.key.local(), self.key.remote());
        let egress = &mut *out.egress;
        let sent = self.send.pieces(offset, len, |payload| {
            egress.send(
                out.now,
                &SegmentOut {
                    src,
                    dst,
                    seq: header.seq,
                    ack,
                    flags: flags.0,
                    first_flags: self.ecn.first_flags().0,
                    window: header.window,
                    urgent: urgent.unwrap_or(0),
                    options: header.options.bytes(),
                    payload,
                    mss,
                    ecn,
                    ip: self.options.ip,
                },
            )
        });
        match sent {
            Ok(sent) => {
                let segments = gso::segments(sent, mss);
                out.counters.tcp_segments_tx += segments as u64;
                out.segments_left = out.segments_left.saturating_sub(segments - 1);
                out.bytes_left = out.bytes_left.saturating_sub(sent);
                self.statistics.segments_out += segments as u32;
                if !syn {
                    self.ecn.note_sent(new, len == 0, header.options.accurate_ecn);
                }
                Ok(sent)
            }
            Err(error) => self.take_refusal(error, len),
        }
    }

    /// The egress did not take a segment of `len` bytes: how many count as sent all the same.
    pub(super) fn take_refusal(&mut self, error: EgressError, len: usize) -> Result<usize, EgressError> {
        match error {
            // As if the network had lost it: the timers go on, and the reason is remembered.
            EgressError::NoRoute => {
                self.cold_mut().soft_error = Some(TcpError::NetworkUnreachable);
                Ok(len)
            }
            EgressError::TooBig { mtu } if !self.lower_mtu(mtu) => Ok(len),
            error => Err(error),
        }
    }
}

/// What differs between the headers a connection sends.
struct Header<'a> {
    seq: SeqNumber,
    flags: Flags,
    window: u16,
    options: &'a Written,
}

/// A segment's options as they go out.
struct Written {
    bytes: [u8; OPTIONS_LEN_MAX],
    len: u8,
    /// Timestamps and nothing else, if those are agreed on.
    is_plain: bool,
    /// The first block of SACK.
    first_block: Option<(SeqNumber, SeqNumber)>,
    /// Accurate ECN's option is there.
    accurate_ecn: bool,
}

impl Written {
    fn new(options: &TcpOptions, syn: bool) -> Self {
        let mut bytes = [0; OPTIONS_LEN_MAX];
        let len = options.emit(syn, &mut bytes) as u8;
        let (first_block, accurate_ecn) = (options.sack.first().copied(), options.accurate_ecn.is_some());
        Self { bytes, len, is_plain: false, first_block, accurate_ecn }
    }

    /// No other options than timestamps.
    fn plain(timestamps: Option<Timestamps>) -> Self {
        let mut bytes = [0; OPTIONS_LEN_MAX];
        let written = timestamps.and_then(|timestamps| Some(timestamps.emit_alone(bytes.first_chunk_mut()?)));
        let len = written.unwrap_or(0) as u8;
        Self { bytes, len, is_plain: true, first_block: None, accurate_ecn: false }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}
