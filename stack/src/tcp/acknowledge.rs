//! What an acknowledgment says (RFC 9293 section 3.10.7.4, fifth step): the send window, what was delivered (SACK, RFC 2018;
//! D-SACK, RFC 2883), round-trip times (RFC 6298, RFC 7323 section 4). `recovery` decides what follows from it; congestion
//! control hears of both.

use super::congestion::{Ack, CongestionControl};
use super::connection::{Connection, Context, timestamp, timestamp_before};
use super::header::Flags;
use super::input::Segment;
use super::recovery::Recovery;
use super::scoreboard::Sent;
use super::seq::SeqNumber;
use crate::time::{Duration, Instant};

/// Older timestamps echoed give no round-trip time: twice the largest RTO.
const ECHO_AGE_MAX_MS: u32 = 240_000;

/// What one ACK brought.
#[derive(Default)]
pub(super) struct Feedback {
    /// Bytes cumulatively acknowledged.
    pub(super) acked: u32,
    /// Bytes SACKed now.
    pub(super) sacked: u32,
    /// Bytes that arrived: acknowledged or SACKed now.
    pub(super) delivered: u32,
    /// It tells of something that arrived twice: to where.
    pub(super) dsack: Option<u64>,
    /// Duplicate as RFC 5681 section 2 defines it.
    pub(super) duplicate: bool,
    /// Something arrived that was outstanding when recovery began and was sent once only.
    pub(super) original: bool,
    /// Something that was sent again is acknowledged.
    pub(super) resent: bool,
    /// When the first segment was sent that is acknowledged and was sent once only.
    pub(super) acked_sent_at: Option<Instant>,
    /// When the last of these was sent: unlike the first it did not wait for a delayed ACK.
    pub(super) acked_last_sent_at: Option<Instant>,
    /// When the first segment was sent that is SACKed and was sent once only.
    pub(super) sacked_sent_at: Option<Instant>,
    /// The highest offset acknowledged or SACKed before.
    pub(super) fack: u64,
    /// Timestamp echoed.
    pub(super) echo: Option<u32>,
    /// Bytes taken for lost.
    pub(super) lost: u32,
    /// A retransmission was lost.
    pub(super) lost_again: bool,
    /// It tells of marks (RFC 3168 section 6.1.2).
    pub(super) marked: bool,
}

/// How things stood before the ACK.
struct Before {
    in_flight: u32,
    is_app_limited: bool,
    was_reducing: bool,
}

impl Connection {
    /// Takes in the ACK of a segment that passed all checks: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
    pub(super) fn process_ack(&mut self, segment: &Segment, cx: &mut Context<'_>) {
        let window_before = self.snd_wnd;
        let in_flight_before = self.in_flight();
        let is_app_limited = self.is_app_limited();
        self.update_send_window(segment.seq, segment.ack, self.window_in(segment));
        let mut feedback = Feedback {
            echo: segment.options.timestamps.filter(|_| self.ts_enabled).map(|timestamps| timestamps.ecr),
            fack: self.rack.fack(),
            ..Feedback::default()
        };
        let delivered_before = self.statistics.delivered;
        self.take_sack(segment, &mut feedback, cx);
        if segment.ack.gt(self.snd_una) {
            self.advance_snd_una(segment, &mut feedback, cx);
        } else {
            feedback.duplicate = self.snd_wnd == window_before && self.is_duplicate_ack(segment);
        }
        let rtt = self.take_round_trip(&feedback, segment.acks(), cx);
        self.rack.adapt_window(self.una_offset, self.nxt_offset(), feedback.dsack.is_some());
        self.check_probe(&feedback, cx);
        let was_reducing = self.is_reducing();
        let news =
            feedback.acked > 0 || feedback.sacked > 0 || feedback.dsack.is_some() || feedback.duplicate;
        let delivered = self.statistics.delivered.wrapping_sub(delivered_before);
        // Marks are told by numbers that wrap: by one ACK fewer than by all that this one stands for.
        let delivered_by_each = delivered.div_ceil(u32::from(segment.acks()));
        feedback.marked = self.take_marks(segment, &feedback, delivered_by_each, cx);
        if news {
            self.react(&mut feedback, cx);
        }
        let before = Before { in_flight: in_flight_before, is_app_limited, was_reducing };
        self.inform_congestion(&feedback, segment.acks(), rtt, &before, cx);
        if feedback.acked > 0 {
            self.restart_retransmit_timer(cx.now);
            self.timers.probe = None;
            self.check_mtu_probe(cx.now, cx.counters);
            self.guard_against_reneging(cx.now);
        }
        self.follow_window(window_before, cx.now);
    }

    /// Whether the application, or the peer's window, limited what was sent and is acknowledged now. As in Linux, a window that
    /// was not used grows to twice of what was in flight.
    pub(super) fn is_app_limited(&self) -> bool {
        let is_ample = self.congestion.in_slow_start() && self.cwnd() / 2 >= self.flight_most;
        is_ample || self.cwnd_limited.le(self.snd_una)
    }

    /// The window closed or opened.
    fn follow_window(&mut self, window_before: u32, now: Instant) {
        if self.snd_wnd == 0 {
            // The peer answers probes.
            self.retransmits = 0;
        }
        if (window_before == 0) != (self.snd_wnd == 0) {
            (self.probes, self.probe_due) = (0, false);
            self.progress_at = now;
            if self.snd_wnd > 0 && self.outstanding() > 0 {
                // What it refused before it will take now, and need not wait for.
                self.rtt.reset_back_off();
            }
            self.restart_retransmit_timer(now);
        }
    }

    /// SND.WND <- SEG.WND, SND.WL1 <- SEG.SEQ, SND.WL2 <- SEG.ACK.
    pub(super) fn set_send_window(&mut self, segment: &Segment) {
        self.note_send_window(segment.seq, segment.ack, self.window_in(segment));
    }

    #[inline]
    fn note_send_window(&mut self, seq: SeqNumber, ack: SeqNumber, window: u32) {
        self.snd_wnd = window;
        self.snd_wnd_max = self.snd_wnd_max.max(window);
        (self.snd_wl1, self.snd_wl2) = (seq, ack);
    }

    /// A segment's window. That of a SYN is not scaled (RFC 7323 section 2.2).
    fn window_in(&self, segment: &Segment) -> u32 {
        let shift = if segment.has(Flags::SYN) { 0 } else { self.snd_wscale };
        u32::from(segment.window) << shift
    }

    /// Updates the send window unless the segment is older than the last that did. One that acknowledges something new is
    /// not, even if it is a retransmission with a lower sequence number (RFC 9293 section 3.8.6's refinement).
    /// RFC 9293 section 3.8.6, MUST-1, REC-1, MUST-34; RFC 7323 section 2.4.
    #[inline]
    pub(super) fn update_send_window(&mut self, seq: SeqNumber, ack: SeqNumber, window: u32) {
        if ack.lt(self.snd_una) {
            return;
        }
        let newer =
            ack.gt(self.snd_una) || self.snd_wl1.lt(seq) || (self.snd_wl1 == seq && self.snd_wl2.le(ack));
        if newer {
            self.note_send_window(seq, ack, window);
        }
    }

    /// Duplicate, as RFC 5681 section 2 defines it; the caller has checked that the window did not change. Answers to
    /// probes of a closed window are none.
    fn is_duplicate_ack(&self, segment: &Segment) -> bool {
        segment.ack == self.snd_una
            && self.outstanding() > 0
            && self.snd_wnd > 0
            && segment.len() == 0
            && !segment.was_stripped()
    }

    // ---- what arrived

    /// Reads the SACK option (RFC 2018 section 4; RFC 2883 section 4 for the first block).
    fn take_sack(&mut self, segment: &Segment, feedback: &mut Feedback, cx: &mut Context<'_>) {
        let blocks = &segment.options.sack;
        if !self.sack_enabled || blocks.is_empty() {
            return;
        }
        let mut rest = &blocks[..];
        let (start, end) = blocks[0];
        let is_inside = |outer: &(SeqNumber, SeqNumber)| start.ge(outer.0) && end.le(outer.1);
        if start.lt(segment.ack) || blocks.get(1).is_some_and(is_inside) {
            self.take_dsack(start, end, segment.ack, feedback, cx);
            rest = &blocks[1..];
        }
        let (una, nxt) = (self.snd_una, self.snd_nxt);
        let una_offset = self.una_offset;
        let (recover, mss, min_rtt) = (self.loss.recover, self.mss, self.rtt.min_rtt());
        let Self { sent, rack, rate, .. } = self;
        for (start, end) in rest.iter().filter(|(start, end)| start.lt(*end) && end.gt(una) && end.le(nxt)) {
            let from = start.max(una).since(una);
            let to = end.since(una);
            sent.sack(cx.now, una_offset + u64::from(from), una_offset + u64::from(to), |sent| {
                feedback.sacked += sent.len;
                feedback.delivered += sent.len;
                rate.on_delivered(cx.now, sent.len, sent.sent_at, &sent.snapshot);
                // The timestamp echoed is of what came in order last (RFC 7323 section 4.3): it says nothing here.
                rack.delivered(cx.now, sent, feedback.fack, mss, min_rtt, false);
                if !sent.ever_resent {
                    feedback.original |= sent.end() <= recover;
                    feedback.sacked_sent_at =
                        Some(feedback.sacked_sent_at.map_or(sent.sent_at, |at| at.min(sent.sent_at)));
                }
            });
        }
        self.statistics.delivered += feedback.sacked.div_ceil(u32::from(self.mss));
    }

    /// The peer says that it got something twice (RFC 2883). It is believed about what was sent since the recovery
    /// that sent it again began.
    fn take_dsack(
        &mut self,
        start: SeqNumber,
        end: SeqNumber,
        ack: SeqNumber,
        feedback: &mut Feedback,
        cx: &mut Context<'_>,
    ) {
        let length = end.since(start);
        // Within what was ever sent and acknowledged of late: anything else says nothing.
        let back = if start.lt(self.snd_una) { self.snd_una.since(start) } else { 0 };
        let was_sent = end.le(self.snd_nxt) && u64::from(back) < self.una_offset;
        let is_late = back > self.snd_wnd_max.max(1 << 16);
        if start.ge(end) || !was_sent || is_late || length > self.snd_wnd_max {
            return;
        }
        cx.counters.tcp_dsacks_rx += 1;
        self.cold_mut().troubles.dsacks += 1;
        let ahead = self.una_offset + u64::from(end.max(self.snd_una).since(self.snd_una));
        let end = if end.ge(self.snd_una) {
            ahead
        } else {
            self.una_offset.saturating_sub(u64::from(self.snd_una.since(end)))
        };
        feedback.dsack = Some(end);
        let segments = length.div_ceil(u32::from(self.mss)).max(1);
        let was_resent = end <= self.una_offset
            || ack.gt(self.snd_una)
            || self.sent.find(end).is_some_and(|sent| sent.ever_resent);
        let undo = self.loss.episode.as_mut().and_then(|episode| episode.undo.as_mut());
        if let Some(undo) = undo.filter(|undo| was_resent && end > undo.marker) {
            undo.unproven = undo.unproven.map(|unproven| unproven.saturating_sub(segments));
        }
    }

    /// SND.UNA < SEG.ACK: something arrived.
    fn advance_snd_una(&mut self, segment: &Segment, feedback: &mut Feedback, cx: &mut Context<'_>) {
        let acked = segment.ack.since(self.snd_una);
        let una = self.una_offset + u64::from(acked);
        let (recover, mss, min_rtt) = (self.loss.recover, self.mss, self.rtt.min_rtt());
        let (ts_offset, echo) = (self.ts_offset, feedback.echo);
        // Without SACK, duplicate ACKs have counted part of it.
        let counted = if self.sack_enabled { 0 } else { self.sent.sacked().bytes };
        let mut segments = 0;
        let mut original = false;
        let Self { sent, rack, rate, .. } = self;
        sent.acknowledge(una, |sent, whole| {
            feedback.resent |= sent.ever_resent;
            if sent.sacked {
                return;
            }
            segments += u32::from(whole);
            feedback.delivered += sent.len;
            rate.on_delivered(cx.now, sent.len, sent.sent_at, &sent.snapshot);
            if whole {
                let earlier = echoes_earlier(echo, sent, ts_offset);
                rack.delivered(cx.now, sent, feedback.fack, mss, min_rtt, earlier);
            }
            if !sent.ever_resent {
                original |= sent.end() <= recover;
                feedback.acked_sent_at.get_or_insert(sent.sent_at);
                feedback.acked_last_sent_at = feedback.acked_last_sent_at.max(Some(sent.sent_at));
            }
        });
        // Without SACK what was sent again may have completed what had arrived: that proves nothing.
        feedback.original |= original && (self.sack_enabled || !feedback.resent);
        feedback.acked = acked;
        feedback.delivered = feedback.delivered.saturating_sub(counted);
        self.statistics.delivered += segments;
        let fin = self.fin_sent && segment.ack == self.snd_nxt;
        self.note_progress(segment.ack, una, acked - u32::from(fin), cx.now);
    }

    /// SND.UNA moves to `ack`, whose offset is `una`: `bytes` of the send queue have arrived.
    pub(super) fn note_progress(&mut self, ack: SeqNumber, una: u64, bytes: u32, now: Instant) {
        self.send.acknowledge(bytes as usize);
        self.statistics.bytes_acked += u64::from(bytes);
        (self.snd_una, self.una_offset) = (ack, una);
        self.snd_sml = self.snd_sml.max(self.snd_una);
        self.cwnd_limited = self.cwnd_limited.max(self.snd_una);
        self.progress_at = now;
        self.more_acked = self.more;
        (self.retransmits, self.probes) = (0, 0);
        self.note_timeouts_over(now);
        if self.send_waker.is_some() && self.send.len() <= self.send_cap() / 3 * 2 {
            self.wake_senders();
        }
        if !self.has_unfinished_output() {
            self.wake_flusher();
        }
    }

    // ---- round-trip times

    /// A round-trip time: of what was sent once only (Karn's rule, RFC 6298 section 3), else by the timestamp echoed (RFC 7323
    /// section 4), which is coarser. SRTT takes one a round trip, as RFC 6298's factors want.
    /// RFC 9293 section 3.8.1, MUST-18.
    ///
    /// Returns what congestion control is told: of several ACKs that the last stands for, the shortest, as it would have found it
    /// among theirs.
    fn take_round_trip(&mut self, feedback: &Feedback, acks: u16, cx: &Context<'_>) -> Option<Duration> {
        self.rtt.age_min_rtt(cx.now);
        let sent_at = feedback.acked_sent_at.filter(|_| !feedback.resent).or(feedback.sacked_sent_at);
        let rtt = match sent_at {
            Some(sent_at) => cx.now - sent_at,
            None if feedback.acked > 0 => self.round_trip_by_echo(feedback.echo?, cx.now)?,
            None => return None,
        };
        self.rack.measured();
        if self.una_offset >= self.round_end || self.rtt.backed_off() > 0 {
            self.rtt.sample(rtt);
            self.round_end = self.nxt_offset();
        }
        let last = feedback.acked_last_sent_at.filter(|_| !feedback.resent).map_or(rtt, |at| cx.now - at);
        self.rtt.note_min(rtt.min(last));
        Some(if acks > 1 { rtt.min(last) } else { rtt })
    }

    fn round_trip_by_echo(&self, echo: u32, now: Instant) -> Option<Duration> {
        let elapsed_ms = self.ts_now(now).wrapping_sub(echo);
        // An echo of the future (which looks like the far past), or a very late one, is not believed. Nor is one
        // from before the last timeout: the answer to a retransmission that brought nothing new echoes what
        // came in order before it (RFC 7323 section 4.3), which may be minutes old, and as Karn's rule has it,
        // an answer to the first transmission cannot be told from that.
        let since_timeout = timestamp(now, 0).wrapping_sub(self.timed_out_ms);
        let believable = elapsed_ms <= ECHO_AGE_MAX_MS && elapsed_ms <= since_timeout.saturating_add(1);
        believable.then(|| Duration::from_millis(u64::from(elapsed_ms.max(1))))
    }

    /// The round-trip time of our SYN, if it was sent once only or timestamps tell.
    pub(super) fn measure_handshake(&mut self, segment: &Segment, cx: &Context<'_>) {
        self.rtt.age_min_rtt(cx.now);
        let echo = segment.options.timestamps.filter(|_| self.ts_enabled).map(|timestamps| timestamps.ecr);
        let rtt = match self.syn_sent_at.take() {
            Some(sent_at) => Some(cx.now - sent_at),
            None => echo.and_then(|echo| self.round_trip_by_echo(echo, cx.now)),
        };
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        }
    }

    // ---- congestion control

    fn inform_congestion(
        &mut self,
        feedback: &Feedback,
        acks: u16,
        rtt: Option<Duration>,
        before: &Before,
        cx: &Context<'_>,
    ) {
        let in_flight = self.in_flight();
        let mss = u32::from(self.mss);
        if self.is_reducing() {
            let safe = feedback.acked > 0 && feedback.lost == 0;
            self.episode().prr.on_ack(feedback.delivered, in_flight, safe, mss);
        }
        let rate = self.rate.sample(cx.now, self.rtt.min_rtt());
        if feedback.acked == 0 && feedback.delivered == 0 {
            return;
        }
        self.congestion.on_ack(&Ack {
            now: cx.now,
            acked_bytes: self.growth_bytes(feedback),
            acks: u32::from(acks),
            delivered_bytes: feedback.delivered,
            rtt,
            srtt: self.rtt.srtt(),
            in_flight_before: before.in_flight,
            is_app_limited: before.is_app_limited,
            in_recovery: before.was_reducing || self.is_reducing(),
            mss,
            rate,
            in_flight_after: in_flight,
            lost_bytes: feedback.lost,
            delivered_total: self.rate.delivered(),
            min_rtt: self.rtt.min_rtt(),
            acked_to: self.una_offset,
            sent_to: self.nxt_offset(),
        });
    }

    /// Bytes for which the congestion window may grow, as in Linux. What SACKs tell of counts once only: at once on a path known to
    /// reorder, where slow start would else stand still after each late segment; on others never, for the gap is likelier a
    /// loss there. After a timeout they may tell of what left the network long before.
    fn growth_bytes(&self, feedback: &Feedback) -> u32 {
        if self.rack.reorders_far() && self.loss.state != Recovery::Loss {
            feedback.delivered
        } else {
            feedback.acked.min(feedback.delivered)
        }
    }
}

/// Whether the echo is of a transmission before the segment's last (RFC 8985 section 6.2 step 2).
fn echoes_earlier(echo: Option<u32>, sent: &Sent, ts_offset: u32) -> bool {
    echo.is_some_and(|echo| timestamp_before(echo, timestamp(sent.sent_at, ts_offset)))
}
