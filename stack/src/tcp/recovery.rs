//! What acknowledgments mean for sending (RFC 9293 section 3.10.7.4, fifth step): what was delivered (SACK, RFC 2018; D-SACK,
//! RFC 2883), round-trip times (RFC 6298, RFC 7323 section 4), what is lost (RFC 8985; without SACK RFC 5681 and RFC 6582),
//! how much may be sent meanwhile (RFC 9937), whether a timeout or a recovery was a mistake (RFC 5682, Eifel by timestamps,
//! D-SACK), and what congestion control hears of all that. The states are those of Linux's `ca_state`.

use super::congestion::{Ack, CongestionControl, LossKind};
use super::connection::{Connection, Context, timestamp, timestamp_before};
use super::header::Flags;
use super::input::Segment;
use super::prr::Prr;
use super::scoreboard::Sent;
use super::seq::SeqNumber;
use crate::time::{Duration, Instant};

/// Older timestamps echoed give no round-trip time: twice the largest RTO.
const ECHO_AGE_MAX_MS: u32 = 240_000;
/// Outstanding segments below which the retransmission timer counts from the first one's sending (RFC 7765 section 3).
const RESTART_THRESHOLD: usize = 4;
/// Least delay of the probe of a tail: Linux's two ticks, so that a peer on the same host is not probed for its scheduler.
const PROBE_DELAY_MIN: Duration = Duration::from_millis(2);
/// The peer may delay the ACK of a single segment so long (RFC 8985 section 7.2, TLP.max_ack_delay; Linux's).
const ACK_DELAY_MAX: Duration = Duration::from_millis(200);
/// A probe of the tail without any round-trip time (RFC 8985 section 7.2).
const PROBE_DELAY_UNKNOWN: Duration = Duration::from_secs(1);

/// Where the sender is with losses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Recovery {
    /// Nothing is amiss.
    #[default]
    Open,
    /// Something arrived ahead of a gap: reordered or lost.
    Disorder,
    /// Fast recovery.
    Fast,
    /// After a retransmission timeout.
    Loss,
}

/// Forward RTO-recovery (RFC 5682).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Frto {
    /// Nothing to find out.
    #[default]
    Off,
    /// The first segment was sent again (section 2.1 step 1).
    Resent,
    /// New data is sent to see what becomes of it (step 2b).
    Probing,
}

/// A connection's loss recovery. Offsets count as in the scoreboard.
#[derive(Debug, Default)]
pub(super) struct LossRecovery {
    pub(super) state: Recovery,
    pub(super) frto: Frto,
    /// The recovery is over when this is acknowledged.
    recover: u64,
    prr: Prr,
    /// How a reduction could turn out a mistake.
    undo: Option<Undo>,
    /// When the first segment of the recovery was sent again.
    resent_at: Option<Instant>,
    /// What was in flight at the timeout comes on top of the window that starts again from one segment.
    inflation: u32,
    /// The first lost segment is sent again whatever the window.
    pub(super) resend_now: bool,
    /// The tail is to be probed.
    pub(super) probe_tail: bool,
}

/// What is needed to take back a reduction.
#[derive(Clone, Copy, Debug)]
struct Undo {
    /// SND.UNA when it happened.
    marker: u64,
    /// Segments sent again for which no D-SACK came; `None` before any.
    unproven: Option<u32>,
}

/// What one ACK brought.
#[derive(Default)]
struct Feedback {
    /// Bytes cumulatively acknowledged.
    acked: u32,
    /// Bytes SACKed now.
    sacked: u32,
    /// Bytes that arrived: acknowledged or SACKed now.
    delivered: u32,
    /// It tells of something that arrived twice: to where.
    dsack: Option<u64>,
    /// Duplicate as RFC 5681 section 2 defines it.
    duplicate: bool,
    /// Something arrived that was outstanding when recovery began and was sent once only.
    original: bool,
    /// Something that was sent again is acknowledged.
    resent: bool,
    /// When the first segment was sent that is acknowledged and was sent once only.
    acked_sent_at: Option<Instant>,
    /// The same for what is SACKed.
    sacked_sent_at: Option<Instant>,
    /// Timestamp echoed.
    echo: Option<u32>,
    /// Bytes taken for lost.
    lost: u32,
    /// A retransmission was lost.
    lost_again: bool,
}

impl Connection {
    /// Takes in the ACK of a segment that passed all checks: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
    pub(super) fn process_ack(&mut self, segment: &Segment, cx: &mut Context<'_>) {
        let window_before = self.snd_wnd;
        let in_flight_before = self.in_flight();
        let is_app_limited = self.cwnd_limited.le(self.snd_una);
        self.update_send_window(segment);
        let mut feedback = Feedback {
            echo: segment.options.timestamps.filter(|_| self.ts_enabled).map(|timestamps| timestamps.ecr),
            ..Feedback::default()
        };
        self.take_sack(segment, &mut feedback, cx);
        if segment.ack.gt(self.snd_una) {
            self.advance_snd_una(segment, &mut feedback, cx);
        } else {
            feedback.duplicate = self.snd_wnd == window_before && self.is_duplicate_ack(segment);
        }
        let rtt = self.take_round_trip(&feedback, cx);
        self.rack.adapt_window(self.una_offset, self.nxt_offset(), feedback.dsack.is_some());
        self.check_probe(&feedback, cx);
        let was_fast = self.loss.state == Recovery::Fast;
        let news =
            feedback.acked > 0 || feedback.sacked > 0 || feedback.dsack.is_some() || feedback.duplicate;
        if news {
            self.react(&mut feedback, cx);
        }
        self.inform_congestion(&feedback, rtt, in_flight_before, is_app_limited, was_fast, cx);
        if feedback.acked > 0 {
            self.restart_retransmit_timer(cx.now);
            self.timers.probe = None;
            self.guard_against_reneging(cx.now);
        }
        self.follow_window(window_before, cx.now);
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
        // The window of a SYN is not scaled (RFC 7323 section 2.2).
        let shift = if segment.has(Flags::SYN) { 0 } else { self.snd_wscale };
        self.snd_wnd = u32::from(segment.window) << shift;
        self.snd_wnd_max = self.snd_wnd_max.max(self.snd_wnd);
        (self.snd_wl1, self.snd_wl2) = (segment.seq, segment.ack);
    }

    /// Updates the send window unless the segment is older than the last that did. One that acknowledges something new is
    /// not, even if it is a retransmission with a lower sequence number (RFC 9293 section 3.8.6's refinement).
    fn update_send_window(&mut self, segment: &Segment) {
        if segment.ack.lt(self.snd_una) {
            return;
        }
        let newer = segment.ack.gt(self.snd_una)
            || self.snd_wl1.lt(segment.seq)
            || (self.snd_wl1 == segment.seq && self.snd_wl2.le(segment.ack));
        if newer {
            self.set_send_window(segment);
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
        let (ts_offset, echo) = (self.ts_offset, feedback.echo);
        let Self { sent, rack, rate, .. } = self;
        for (start, end) in rest.iter().filter(|(start, end)| start.lt(*end) && end.gt(una) && end.le(nxt)) {
            let from = start.max(una).since(una);
            let to = end.since(una);
            sent.sack(una_offset + u64::from(from), una_offset + u64::from(to), |sent| {
                feedback.sacked += sent.len;
                feedback.delivered += sent.len;
                rate.on_delivered(cx.now, sent.len, sent.sent_at, &sent.snapshot);
                rack.delivered(cx.now, sent, mss, min_rtt, echoes_earlier(echo, sent, ts_offset));
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
        let oldest = self.snd_una - self.snd_wnd_max.max(1 << 16);
        if start.ge(end) || end.gt(self.snd_nxt) || start.lt(oldest) || length > self.snd_wnd_max {
            return;
        }
        cx.counters.tcp_dsacks_rx += 1;
        self.statistics.dsacks += 1;
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
        if let Some(undo) = self.loss.undo.as_mut().filter(|undo| was_resent && end > undo.marker) {
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
                rack.delivered(cx.now, sent, mss, min_rtt, echoes_earlier(echo, sent, ts_offset));
            }
            if !sent.ever_resent {
                original |= sent.end() <= recover;
                feedback.acked_sent_at.get_or_insert(sent.sent_at);
            }
        });
        // Without SACK what was sent again may have completed what had arrived: that proves nothing.
        feedback.original |= original && (self.sack_enabled || !feedback.resent);
        feedback.acked = acked;
        feedback.delivered = feedback.delivered.saturating_sub(counted);
        self.statistics.delivered += segments;
        let fin = self.fin_sent && segment.ack == self.snd_nxt;
        let bytes = acked - u32::from(fin);
        self.send.acknowledge(bytes as usize);
        self.statistics.bytes_acked += u64::from(bytes);
        (self.snd_una, self.una_offset) = (segment.ack, una);
        self.snd_sml = self.snd_sml.max(self.snd_una);
        self.cwnd_limited = self.cwnd_limited.max(self.snd_una);
        self.progress_at = cx.now;
        (self.retransmits, self.probes) = (0, 0);
        if self.send.len() <= self.options.send_buffer_bytes / 3 * 2 {
            self.wake_senders();
        }
        if !self.has_unfinished_output() {
            self.wake_flusher();
        }
    }

    // ---- round-trip times

    /// A round-trip time: of what was sent once only (Karn's rule, RFC 6298 section 3), else by the timestamp echoed (RFC 7323
    /// section 4), which is coarser. SRTT takes one a round trip, as RFC 6298's factors want.
    fn take_round_trip(&mut self, feedback: &Feedback, cx: &Context<'_>) -> Option<Duration> {
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
        } else {
            self.rtt.note_min(rtt);
        }
        Some(rtt)
    }

    fn round_trip_by_echo(&self, echo: u32, now: Instant) -> Option<Duration> {
        let elapsed_ms = self.ts_now(now).wrapping_sub(echo);
        // An echo of the future (which looks like the far past), or a very late one, is not believed. Nor is one
        // from before the last timeout: the answer to a retransmission that brought nothing new echoes what
        // came in order before it (RFC 7323 section 4.3), which may be minutes old, and as Karn's rule has it,
        // an answer to the first transmission cannot be told from that.
        let since_timeout = (now - self.timed_out_at).as_millis();
        let believable = elapsed_ms <= ECHO_AGE_MAX_MS && u128::from(elapsed_ms) <= since_timeout + 1;
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

    // ---- the states

    /// What an ACK means for recovery.
    fn react(&mut self, feedback: &mut Feedback, cx: &mut Context<'_>) {
        if self.loss.state == Recovery::Fast && self.una_offset >= self.loss.recover {
            self.complete_recovery(feedback, cx);
        }
        match self.loss.state {
            Recovery::Fast => self.go_on_recovering(feedback, cx),
            Recovery::Loss => {
                self.go_on_after_timeout(feedback, cx);
                if self.loss.state != Recovery::Loss {
                    return self.settle_state();
                }
                self.find_losses(feedback, cx.now);
                if feedback.lost_again {
                    // What was sent again after the timeout is lost too: that is congestion once more.
                    self.enter_fast(feedback.delivered, cx);
                }
            }
            Recovery::Open | Recovery::Disorder => {
                if !self.sack_enabled {
                    self.count_duplicates(feedback);
                }
                if self.may_undo_by_dsack() {
                    self.undo_reduction(false, cx);
                }
                self.find_losses(feedback, cx.now);
                if self.sent.lost().segments > 0 {
                    self.enter_fast(feedback.delivered, cx);
                } else {
                    self.settle_state();
                }
            }
        }
    }

    /// Open or Disorder, whichever it is.
    fn settle_state(&mut self) {
        if matches!(self.loss.state, Recovery::Open | Recovery::Disorder) {
            let amiss = self.sent.sacked().segments + self.sent.lost().segments > 0 || self.sent.has_resent();
            self.loss.state = if amiss { Recovery::Disorder } else { Recovery::Open };
            if !amiss {
                self.loss.resent_at = None;
            }
        }
    }

    /// Without SACK: an ACK that is a duplicate, or ends a series of them.
    fn count_duplicates(&mut self, feedback: &mut Feedback) {
        if feedback.acked > 0 {
            self.sent.forget_duplicates();
        }
        if feedback.duplicate {
            let before = self.sent.sacked().bytes;
            self.sent.add_duplicate(self.mss.into());
            feedback.delivered += self.sent.sacked().bytes - before;
        }
    }

    /// Looks for losses: by time (RFC 8985), or by duplicate ACKs without SACK (RFC 5681 section 3.2 step 2, RFC 6582
    /// section 3.2 steps 2 and 3).
    fn find_losses(&mut self, feedback: &mut Feedback, now: Instant) {
        if self.sack_enabled {
            let detected = self.detect_by_time(now);
            feedback.lost += detected.0;
            feedback.lost_again |= detected.1;
            return;
        }
        let fast = self.loss.state == Recovery::Fast;
        let first = !fast
            && self.loss.state != Recovery::Loss
            && self.sent.sacked().segments >= 3
            && self.una_offset > self.loss.recover;
        if first || (fast && feedback.acked > 0) {
            feedback.lost += self.sent.mark_first_lost();
        }
    }

    /// RACK (RFC 8985 section 6.2 step 5): bytes now lost, and whether a retransmission is among them.
    fn detect_by_time(&mut self, now: Instant) -> (u32, bool) {
        let (at, end) = self.rack.newest();
        let patience = self.rack_patience();
        let detected = self.sent.detect(now, at, end, patience);
        self.timers.reorder = detected.wait.map(|wait| now + wait);
        (detected.bytes, detected.again)
    }

    fn rack_patience(&self) -> Duration {
        let recovering = matches!(self.loss.state, Recovery::Fast | Recovery::Loss);
        let sacked = self.sent.sacked().segments;
        self.rack.patience(recovering, sacked, self.rtt.min_rtt(), self.rtt.srtt())
    }

    /// The reordering timer (RFC 8985 section 6.2 step 5).
    pub(super) fn reordering_is_due(&mut self, cx: &mut Context<'_>) {
        let (lost, again) = self.detect_by_time(cx.now);
        if lost == 0 {
            return;
        }
        self.rate.on_lost(lost);
        let mss = u32::from(self.mss);
        let recovering = matches!(self.loss.state, Recovery::Fast | Recovery::Loss);
        if !recovering || (again && self.loss.state == Recovery::Loss) {
            self.enter_fast(mss, cx);
        }
        if self.loss.state == Recovery::Fast {
            // Room for it must not depend on an ACK that may not come.
            self.loss.prr.on_ack(mss, self.sent.in_flight(), false, mss);
        }
    }

    /// Fast recovery begins: a loss was found for which the window is to be reduced. `delivered`: what the ACK brought
    /// that showed it.
    fn enter_fast(&mut self, delivered: u32, cx: &mut Context<'_>) {
        cx.counters.tcp_fast_retransmits += 1;
        let recovering = self.loss.state == Recovery::Fast;
        self.begin_undo();
        self.loss.state = Recovery::Fast;
        self.loss.recover = self.nxt_offset();
        (self.loss.frto, self.loss.inflation) = (Frto::Off, 0);
        self.rack.forget_probe();
        self.timers.probe = None;
        self.loss.probe_tail = false;
        if recovering {
            return;
        }
        // What limited transmit sent does not count as in flight.
        let in_flight = self.outstanding().min(self.congestion.cwnd());
        self.congestion.on_loss_event(cx.now, in_flight, LossKind::FastRetransmit);
        let flight = (self.outstanding() + delivered).saturating_sub(self.sent.sacked().bytes);
        self.loss.prr = Prr::begin(self.congestion.ssthresh(), flight);
    }

    fn begin_undo(&mut self) {
        let resent = self.sent.resent().segments;
        self.loss.undo = Some(Undo { marker: self.una_offset, unproven: (resent > 0).then_some(resent) });
    }

    /// Fast recovery, and SND.UNA has not come to its end.
    fn go_on_recovering(&mut self, feedback: &mut Feedback, cx: &mut Context<'_>) {
        if !self.sack_enabled {
            if feedback.acked > 0 {
                self.sent.take_duplicates(feedback.acked, self.mss.into());
            } else {
                self.count_duplicates(feedback);
                // RFC 9937 section 6.2: no more than can have been sent.
                let rest = u64::from(self.loss.prr.flight()).saturating_sub(self.loss.prr.delivered());
                feedback.delivered = feedback.delivered.min(u32::try_from(rest).unwrap_or(u32::MAX));
            }
        }
        // A partial ACK that answers an original: what was sent again was only late.
        let late = feedback.acked > 0 && self.loss.undo.is_some() && self.answers_original(feedback);
        if late && self.sent.resent().segments == 0 {
            self.undo_reduction(true, cx);
            self.leave_recovery();
        } else if self.may_undo_by_dsack() {
            self.undo_reduction(false, cx);
            self.leave_recovery();
        }
        if !late {
            self.find_losses(feedback, cx.now);
        }
        if self.loss.state != Recovery::Fast {
            if self.sent.lost().segments > 0 {
                self.enter_fast(feedback.delivered, cx);
            } else {
                self.settle_state();
            }
        }
    }

    /// All that was outstanding when fast recovery or the timeout came is acknowledged.
    fn complete_recovery(&mut self, feedback: &Feedback, cx: &mut Context<'_>) {
        if !self.sack_enabled {
            self.sent.forget_duplicates();
        }
        if self.may_undo(feedback) {
            self.undo_reduction(false, cx);
        } else {
            self.rack.recovery_ended();
            if self.loss.state == Recovery::Fast {
                self.congestion.on_recovery_exit(cx.now);
            }
        }
        self.leave_recovery();
    }

    fn leave_recovery(&mut self) {
        self.loss.state = Recovery::Open;
        (self.loss.frto, self.loss.inflation, self.loss.resend_now) = (Frto::Off, 0, false);
        self.settle_state();
    }

    // ---- after a timeout

    /// The retransmission timer expired (RFC 6298 section 5.4 to 5.6): what was sent long ago is lost (RFC 8985 section 6.3;
    /// without SACK all), the first segment is sent again at once and the others as the congestion window allows.
    pub(super) fn enter_loss(&mut self, cx: &mut Context<'_>) {
        cx.counters.tcp_timeouts += 1;
        self.timed_out_at = cx.now;
        let first_timeout = self.loss.state != Recovery::Loss && self.loss.state != Recovery::Fast;
        let reneged = self.sent.first().is_some_and(|first| first.sacked);
        if reneged {
            cx.counters.tcp_sack_reneging += 1;
            self.sent.forget_sacks();
        }
        let in_flight = self.outstanding();
        if self.sack_enabled && !reneged {
            let patience = self.rack_patience();
            let first_end = self.sent.first().map(Sent::end);
            self.sent
                .mark_lost_where(|sent| Some(sent.end()) == first_end || sent.sent_at + patience <= cx.now);
        } else {
            self.sent.forget_duplicates();
            self.sent.mark_lost_where(|_| true);
        }
        self.sent.join_first(self.mss.into());
        if first_timeout || self.una_offset >= self.loss.recover || self.retransmits == 0 {
            self.begin_undo();
        }
        self.congestion.on_timeout(cx.now, in_flight);
        self.loss.state = Recovery::Loss;
        self.loss.recover = self.nxt_offset();
        self.loss.frto = if first_timeout || self.retransmits > 0 { Frto::Resent } else { Frto::Off };
        self.loss.inflation = self.sent.in_flight();
        self.loss.resend_now = true;
        self.loss.probe_tail = false;
        self.rack.forget_probe();
        self.retransmits = self.retransmits.saturating_add(1);
        self.rtt.back_off();
        (self.timers.retransmit, self.timers.probe, self.timers.reorder) = (None, None, None);
        self.restart_retransmit_timer(cx.now);
    }

    /// An ACK after a timeout: was it a mistake (RFC 5682 section 2.1, RFC 3522), is all repaired, what next?
    fn go_on_after_timeout(&mut self, feedback: &mut Feedback, cx: &mut Context<'_>) {
        let complete = self.una_offset >= self.loss.recover;
        if feedback.acked > 0 {
            self.sent.join_first(self.mss.into());
            if self.may_undo(feedback) {
                return self.undo_timeout(cx);
            }
        }
        if self.loss.frto != Frto::Off {
            if feedback.original {
                // Step 3b: what was sent before the timeout still arrives.
                return self.undo_timeout(cx);
            }
            if self.nxt_offset() > self.loss.recover {
                if feedback.sacked > 0 || feedback.duplicate {
                    // Step 3a.
                    self.loss.frto = Frto::Off;
                }
            } else if feedback.acked > 0 && !complete {
                // Step 2b.
                self.loss.recover = self.nxt_offset();
                if self.unsent() > 0 && self.snd_wnd > self.outstanding() {
                    self.loss.frto = Frto::Probing;
                    return;
                }
                self.loss.frto = Frto::Off;
            }
        }
        if complete {
            return self.complete_recovery(feedback, cx);
        }
        if !self.sack_enabled {
            if self.nxt_offset() > self.loss.recover && feedback.duplicate {
                self.sent.add_duplicate(self.mss.into());
            } else if feedback.acked > 0 {
                self.sent.forget_duplicates();
            }
        }
    }

    fn undo_timeout(&mut self, cx: &mut Context<'_>) {
        self.undo_reduction(true, cx);
        self.retransmits = 0;
        self.leave_recovery();
    }

    /// The peer acknowledged up to a segment that it had SACKed, and not that: it may have dropped it. A timer shorter
    /// than the RTO finds out (as in Linux; RFC 2018 section 8 asks that the timeout does).
    fn guard_against_reneging(&mut self, now: Instant) {
        if self.sent.first().is_some_and(|first| first.sacked) {
            let delay = (self.rtt.srtt().unwrap_or_default() / 2).max(Duration::from_millis(10));
            self.timers.retransmit = Some(now + delay);
        }
    }

    // ---- taking back

    /// Whether the ACK echoes a timestamp from before anything was sent again (RFC 3522's Eifel detection).
    fn answers_original(&self, feedback: &Feedback) -> bool {
        match (self.loss.resent_at, feedback.echo) {
            (Some(at), Some(echo)) => timestamp_before(echo, timestamp(at, self.ts_offset)),
            _ => false,
        }
    }

    fn may_undo(&self, feedback: &Feedback) -> bool {
        self.may_undo_by_dsack() || (self.loss.undo.is_some() && self.answers_original(feedback))
    }

    /// Whether everything that was sent again had arrived before.
    fn may_undo_by_dsack(&self) -> bool {
        self.loss.undo.is_some_and(|undo| undo.unproven == Some(0))
    }

    /// Takes a reduction back; `all`: nothing is lost after all.
    fn undo_reduction(&mut self, all: bool, cx: &mut Context<'_>) {
        cx.counters.tcp_undos += 1;
        if all {
            self.sent.unmark_lost();
        }
        self.congestion.undo(cx.now);
        self.loss.undo = None;
    }

    /// A segment was sent again.
    pub(super) fn note_resent(&mut self, now: Instant) {
        self.loss.resend_now = false;
        self.loss.resent_at.get_or_insert(now);
        if let Some(undo) = &mut self.loss.undo {
            undo.unproven = Some(undo.unproven.unwrap_or(0) + 1);
        }
    }

    // ---- the tail

    /// Sets the timer for the probe of a tail (RFC 8985 section 7.2), or stops it.
    pub(super) fn refresh_probe_timer(&mut self, now: Instant) {
        let wanted = self.sack_enabled
            && self.syn_acked()
            && self.loss.state == Recovery::Open
            && self.sent.len() > 0
            && self.sent.sacked().segments == 0
            && self.rack.may_probe()
            && !self.loss.probe_tail;
        if !wanted {
            self.timers.probe = None;
        } else if self.timers.probe.is_none() {
            let delay = match self.rtt.srtt() {
                Some(srtt) if self.sent.len() == 1 => srtt * 2 + ACK_DELAY_MAX,
                Some(srtt) => srtt * 2 + PROBE_DELAY_MIN,
                None => PROBE_DELAY_UNKNOWN,
            };
            let limit = self.timers.retransmit.unwrap_or(Instant::FAR_FUTURE);
            self.timers.probe = Some((now + delay).min(limit));
        }
    }

    /// The probe of the tail is due: `output` sends it.
    pub(super) fn probe_is_due(&mut self, now: Instant) {
        self.loss.probe_tail = true;
        self.timers.retransmit = None;
        self.restart_retransmit_timer(now);
    }

    /// Looks whether the ACK tells what became of the probe (RFC 8985 section 7.4.2).
    fn check_probe(&mut self, feedback: &Feedback, cx: &mut Context<'_>) {
        let ack = self.una_offset;
        let plain = feedback.duplicate && feedback.sacked == 0 && feedback.dsack.is_none();
        if feedback.acked == 0 && !plain && feedback.dsack.is_none() {
            return;
        }
        let dsack = feedback.dsack.is_some();
        if self.rack.probe_acknowledged(ack, dsack, plain) && self.loss.state != Recovery::Fast {
            // The probe repaired a loss: congestion control is to hear of it.
            let in_flight = self.outstanding().min(self.congestion.cwnd()).max(feedback.acked);
            self.congestion.on_loss_event(cx.now, in_flight, LossKind::FastRetransmit);
            self.congestion.on_recovery_exit(cx.now);
        }
    }

    // ---- congestion control

    /// The congestion window in force.
    pub(super) fn cwnd(&self) -> u32 {
        match self.loss.state {
            Recovery::Fast => self.loss.prr.cwnd(),
            Recovery::Loss => self.congestion.cwnd().saturating_add(self.loss.inflation),
            Recovery::Open | Recovery::Disorder => self.congestion.cwnd(),
        }
    }

    /// `bytes` were sent.
    pub(super) fn note_flight(&mut self, bytes: u32) {
        if self.loss.state == Recovery::Fast {
            self.loss.prr.on_send(bytes);
        }
    }

    fn inform_congestion(
        &mut self,
        feedback: &Feedback,
        rtt: Option<Duration>,
        in_flight_before: u32,
        is_app_limited: bool,
        was_fast: bool,
        cx: &Context<'_>,
    ) {
        if feedback.lost > 0 {
            self.rate.on_lost(feedback.lost);
        }
        let in_flight = self.in_flight();
        let mss = u32::from(self.mss);
        if self.loss.state == Recovery::Fast {
            let safe = feedback.acked > 0 && feedback.lost == 0;
            self.loss.prr.on_ack(feedback.delivered, in_flight, safe, mss);
        }
        let rate = self.rate.sample(cx.now, self.rtt.min_rtt());
        if feedback.acked == 0 && feedback.delivered == 0 {
            return;
        }
        self.congestion.on_ack(&Ack {
            now: cx.now,
            acked_bytes: feedback.acked,
            delivered_bytes: feedback.delivered,
            rtt,
            srtt: self.rtt.srtt(),
            in_flight_before,
            is_app_limited,
            in_recovery: was_fast || self.loss.state == Recovery::Fast,
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

    // ---- path MTU and timers

    /// Cuts what did not fit the path; it is sent again without being taken for congestion (RFC 1191 section 6.4).
    pub(super) fn resend_smaller(&mut self) {
        if !self.syn_acked() || self.sent.len() == 0 {
            return;
        }
        self.sent.cut(self.mss.into());
        if self.sent.lost().segments > 0 && !matches!(self.loss.state, Recovery::Fast | Recovery::Loss) {
            self.loss.state = Recovery::Loss;
            self.loss.recover = self.nxt_offset();
            (self.loss.undo, self.loss.frto, self.loss.inflation) = (None, Frto::Off, 0);
            self.loss.resend_now = true;
        }
    }

    /// When the retransmission timeout of what is outstanding is over, if it begins now. With few segments outstanding and
    /// nothing to follow, no duplicate ACKs will come: the time since the first was sent counts (RFC 7765 section 3).
    pub(super) fn retransmission_deadline(&self, now: Instant) -> Instant {
        let deadline = now + self.rtt.rto();
        match self.sent.first() {
            Some(first)
                if self.sent.len() < RESTART_THRESHOLD
                    && self.unsent() == 0
                    && self.rtt.backed_off() == 0 =>
            {
                let early = first.sent_at + self.rtt.rto();
                if early > now { early } else { deadline }
            }
            _ => deadline,
        }
    }
}

/// Whether the echo is of a transmission before the segment's last (RFC 8985 section 6.2 step 2).
fn echoes_earlier(echo: Option<u32>, sent: &Sent, ts_offset: u32) -> bool {
    echo.is_some_and(|echo| timestamp_before(echo, timestamp(sent.sent_at, ts_offset)))
}
