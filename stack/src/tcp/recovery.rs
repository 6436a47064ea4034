//! Loss recovery: what is lost (RFC 8985; without SACK RFC 5681 and RFC 6582), how much may be sent meanwhile (RFC
//! 9937), what a retransmission timeout does (RFC 6298 section 5), and whether a timeout or a recovery was a mistake
//! (RFC 5682, RFC 3522's Eifel detection, D-SACK). The states are those of Linux's `ca_state`.

use core::num::NonZeroU64;

use super::acknowledge::Feedback;
use super::congestion::{CongestionControl, LossKind, LostSegment};
use super::connection::{Connection, Context, timestamp, timestamp_before};
use super::prr::Prr;
use super::rack::Patience;
use super::scoreboard::{Scoreboard, Sent};
use crate::time::{Duration, Instant};

/// Where the sender is with losses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Recovery {
    /// Nothing is amiss.
    #[default]
    Open,
    /// Something arrived ahead of a gap: reordered or lost.
    Disorder,
    /// The window is being reduced for a mark (RFC 3168 section 6.1.2), and what was sent before that is outstanding:
    /// Linux's CWR.
    Reducing,
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
    pub(super) recover: u64,
    pub(super) episode: Option<Box<Episode>>,
    /// What was in flight at the timeout comes on top of the window that starts again from one segment.
    inflation: u32,
    /// The first lost segment is sent again whatever the window.
    pub(super) resend_now: bool,
    /// The tail is to be probed.
    pub(super) probe_tail: bool,
}

/// A recovery that goes on, or one that is over and may still turn out a mistake.
#[derive(Debug, Default)]
pub(super) struct Episode {
    pub(super) prr: Prr,
    /// How the reduction could turn out a mistake.
    pub(super) undo: Option<Undo>,
    /// A mark told of congestion: reductions stay.
    marked: bool,
    /// [`Recovery::Reducing`] is over when more than this is acknowledged: then the peer has heard of it.
    reduced_at: u64,
    /// When the first segment was sent again.
    resent_at: Option<Instant>,
    /// SND.NXT when it was over: with this acknowledged, all that could be heard of it was.
    forget_at: Option<NonZeroU64>,
}

/// What is needed to take back a reduction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    /// SND.UNA when it happened.
    pub(super) marker: u64,
    /// Segments sent again for which no D-SACK came; `None` before any.
    pub(super) unproven: Option<u32>,
}

impl Connection {
    // ---- the states

    /// Whether nothing was lost, reordered, marked or probed of what is outstanding, nor is the past still in doubt.
    pub(super) fn is_undisturbed(&self) -> bool {
        let LossRecovery { state, frto, episode, probe_tail, .. } = &self.loss;
        (*state, *frto, *probe_tail) == (Recovery::Open, Frto::Off, false)
            && episode.is_none()
            && self.sent.sacked().segments == 0
            && self.rack.may_probe()
    }

    /// What an ACK means for recovery.
    pub(super) fn react(&mut self, feedback: &mut Feedback, cx: &mut Context<'_>) {
        self.forbid_undo(feedback);
        self.react_by_state(feedback, cx);
        self.forbid_undo(feedback);
    }

    /// Marks show that there is congestion, whatever became of the losses that were suspected.
    fn forbid_undo(&mut self, feedback: &Feedback) {
        if let Some(episode) = self.loss.episode.as_deref_mut().filter(|_| feedback.marked) {
            episode.marked = true;
        }
    }

    fn react_by_state(&mut self, feedback: &mut Feedback, cx: &mut Context<'_>) {
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
            Recovery::Open | Recovery::Disorder | Recovery::Reducing => {
                if !self.sack_enabled {
                    self.count_duplicates(feedback);
                }
                if self.may_undo_by_dsack() {
                    self.undo_reduction(false, cx);
                }
                self.find_losses(feedback, cx.now);
                if self.has_lost_only_the_probe() {
                    self.probe_failed(1);
                } else if self.sent.lost().segments > 0 {
                    self.enter_fast(feedback.delivered, cx);
                } else {
                    self.react_to_marks(feedback, cx);
                    self.settle_state();
                }
            }
        }
    }

    /// Begins the reduction that marks ask for, one a window of data (RFC 3168 section 6.1.2), or ends it.
    fn react_to_marks(&mut self, feedback: &Feedback, cx: &mut Context<'_>) {
        if self.loss.state == Recovery::Reducing {
            if self.una_offset <= self.loss.episode.as_ref().map_or(0, |episode| episode.reduced_at) {
                return;
            }
            if !self.congestion.controls_recovery() {
                self.congestion.on_recovery_exit(cx.now);
            }
            self.loss.state = Recovery::Open;
        }
        // What was sent before the last reduction asks for no other.
        if !feedback.marked || self.una_offset <= self.loss.recover {
            return;
        }
        self.reduce_for_marks(feedback.acked, feedback.delivered, cx);
    }

    /// Reduces the window for marks; `acked` and `delivered`: bytes that the ACK that told of them brought. A window of
    /// one segment stays, and is not held back for a retransmission timeout as RFC 3168 section 6.1.2 asks: Linux does
    /// not either.
    pub(super) fn reduce_for_marks(&mut self, acked: u32, delivered: u32, cx: &mut Context<'_>) {
        cx.counters.tcp_ecn_reductions += 1;
        let in_flight = (self.outstanding() + acked).min(self.congestion.cwnd());
        self.congestion.on_loss_event(cx.now, in_flight, LossKind::Ecn);
        self.ecn.note_reduced();
        let flight = (self.outstanding() + delivered).saturating_sub(self.sent.sacked().bytes);
        let (ssthresh, nxt) = (self.congestion.ssthresh(), self.nxt_offset());
        self.loss.state = Recovery::Reducing;
        let prr = Prr::begin(ssthresh, flight);
        *self.episode() = Episode { prr, marked: true, reduced_at: nxt, ..Episode::default() };
    }

    /// Whether proportional rate reduction sets the window.
    pub(super) fn is_reducing(&self) -> bool {
        matches!(self.loss.state, Recovery::Fast | Recovery::Reducing)
    }

    /// Open or Disorder, whichever it is.
    fn settle_state(&mut self) {
        if matches!(self.loss.state, Recovery::Open | Recovery::Disorder) {
            let amiss = self.sent.sacked().segments + self.sent.lost().segments > 0 || self.sent.has_resent();
            self.loss.state = if amiss { Recovery::Disorder } else { Recovery::Open };
            if !amiss {
                self.end_episode();
            }
        }
    }

    /// Nothing is amiss any more: D-SACKs may still come until what is outstanding now is acknowledged.
    fn end_episode(&mut self) {
        let (una, nxt) = (self.una_offset, self.nxt_offset());
        let Some(episode) = &mut self.loss.episode else { return };
        episode.resent_at = None;
        match episode.forget_at {
            None => episode.forget_at = NonZeroU64::new(nxt + 1),
            Some(at) if una >= at.get() => self.loss.episode = None,
            Some(_) => {}
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
    /// RFC 8985 section 9.2.
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
            feedback.lost += self.lose(now, |sent, each| sent.mark_first_lost(each));
        }
    }

    /// RACK (RFC 8985 section 6.2 step 5): bytes now lost, and whether a retransmission is among them.
    fn detect_by_time(&mut self, now: Instant) -> (u32, bool) {
        if self.sent.first().is_none() {
            self.timers.reorder = None;
            return (0, false);
        }
        let newest = self.rack.newest();
        let patience = self.rack_patience();
        let detected = self.lose(now, |sent, each| sent.detect(now, newest, &patience, each));
        self.timers.reorder = detected.wait.map(|wait| now + wait);
        (detected.bytes, detected.again)
    }

    /// Lets `find` mark segments as lost; rate estimation and congestion control hear of each.
    fn lose<R>(&mut self, now: Instant, find: impl FnOnce(&mut Scoreboard, &mut dyn FnMut(&Sent)) -> R) -> R {
        let Self { sent, rate, congestion, .. } = self;
        find(sent, &mut |lost| {
            rate.on_lost(lost.len);
            congestion.on_segment_lost(&LostSegment {
                now,
                bytes: lost.len,
                lost_since_sent: rate.lost_since(&lost.snapshot),
                delivered_total: rate.delivered(),
                snapshot: lost.snapshot,
            });
        })
    }

    fn rack_patience(&self) -> Patience {
        let recovering = matches!(self.loss.state, Recovery::Fast | Recovery::Loss);
        let sacked = self.sent.sacked().segments;
        self.rack.patience(recovering, sacked, self.rtt.min_rtt(), self.rtt.srtt(), self.progress_at)
    }

    /// The reordering timer (RFC 8985 section 6.2 step 5).
    pub(super) fn reordering_is_due(&mut self, cx: &mut Context<'_>) {
        let (lost, again) = self.detect_by_time(cx.now);
        if lost == 0 {
            return;
        }
        if self.has_lost_only_the_probe() {
            return self.probe_failed(1);
        }
        let mss = u32::from(self.mss);
        let recovering = matches!(self.loss.state, Recovery::Fast | Recovery::Loss);
        if !recovering || (again && self.loss.state == Recovery::Loss) {
            self.enter_fast(mss, cx);
        }
        if self.loss.state == Recovery::Fast {
            let in_flight = self.in_flight();
            // Room for it must not depend on an ACK that may not come.
            self.episode().prr.on_ack(mss, in_flight, false, mss);
        }
    }

    /// Fast recovery begins: a loss was found for which the window is to be reduced. `delivered`: what the ACK brought
    /// that showed it.
    fn enter_fast(&mut self, delivered: u32, cx: &mut Context<'_>) {
        cx.counters.tcp_fast_retransmits += 1;
        // The window is reduced or being reduced already; an algorithm with a model takes marks and losses apart.
        let marked = self.loss.state == Recovery::Reducing && !self.congestion.controls_recovery();
        let reduced = self.loss.state == Recovery::Fast || marked;
        self.begin_undo();
        self.loss.state = Recovery::Fast;
        self.loss.recover = self.nxt_offset();
        (self.loss.frto, self.loss.inflation) = (Frto::Off, 0);
        self.rack.forget_probe();
        self.forget_mtu_probe();
        self.timers.probe = None;
        self.loss.probe_tail = false;
        if reduced {
            return;
        }
        self.ecn.note_reduced();
        // What limited transmit sent does not count as in flight.
        let in_flight = self.outstanding().min(self.congestion.cwnd());
        self.congestion.on_loss_event(cx.now, in_flight, LossKind::FastRetransmit);
        let flight = (self.outstanding() + delivered).saturating_sub(self.sent.sacked().bytes);
        self.episode().prr = Prr::begin(self.congestion.ssthresh(), flight);
    }

    fn begin_undo(&mut self) {
        let resent = self.sent.resent().segments;
        let marker = self.una_offset;
        let state = self.loss.state;
        let episode = self.episode();
        episode.marked = state == Recovery::Reducing || (state == Recovery::Fast && episode.marked);
        episode.undo = Some(Undo { marker, unproven: (resent > 0).then_some(resent) });
        episode.forget_at = None;
    }

    pub(super) fn episode(&mut self) -> &mut Episode {
        self.loss.episode.get_or_insert_default()
    }

    fn undo(&self) -> Option<Undo> {
        self.loss.episode.as_ref()?.undo
    }

    /// Fast recovery, and SND.UNA has not come to its end.
    fn go_on_recovering(&mut self, feedback: &mut Feedback, cx: &mut Context<'_>) {
        if !self.sack_enabled {
            if feedback.acked > 0 {
                self.sent.take_duplicates(feedback.acked, self.mss.into());
            } else {
                self.count_duplicates(feedback);
                // RFC 9937 section 6.2: no more than can have been sent.
                let prr = &self.episode().prr;
                let rest = u64::from(prr.flight()).saturating_sub(prr.delivered());
                feedback.delivered = feedback.delivered.min(u32::try_from(rest).unwrap_or(u32::MAX));
            }
        }
        // A partial ACK that answers an original: what was sent again was only late.
        let late = feedback.acked > 0 && self.undo().is_some() && self.answers_original(feedback);
        if late {
            self.rack.original_was_late();
        }
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
            if self.loss.state == Recovery::Fast && self.answers_original(feedback) {
                self.rack.original_was_late();
            }
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

    /// The retransmission timer expired (RFC 6298 section 5.4 to 5.6): what was sent long ago is lost (RFC 8985 section
    /// 6.3; without SACK all), the first segment is sent again at once and the others as the congestion window allows.
    pub(super) fn enter_loss(&mut self, cx: &mut Context<'_>) {
        cx.counters.tcp_timeouts += 1;
        self.note_timeout(cx.now);
        self.timed_out_ms = timestamp(cx.now, 0);
        let first_timeout = self.loss.state != Recovery::Loss && self.loss.state != Recovery::Fast;
        let reneged = self.sent.first().is_some_and(|first| first.sacked);
        if reneged {
            cx.counters.tcp_sack_reneging += 1;
            self.sent.forget_sacks();
        }
        let in_flight = self.outstanding();
        if self.sack_enabled && !reneged {
            let patience = self.rack_patience().since_sent;
            let first_end = self.sent.first().map(|first| first.end());
            let now = cx.now;
            self.lose(now, |board, each| {
                let late = |sent: &Sent| Some(sent.end()) == first_end || sent.sent_at + patience <= now;
                board.mark_lost_where(late, each)
            });
        } else {
            self.sent.forget_duplicates();
            self.lose(cx.now, |board, each| board.mark_lost_where(|_| true, each));
        }
        self.sent.join_first(u32::from(self.mss).min(self.record_rest(self.una_offset)));
        if first_timeout || self.una_offset >= self.loss.recover || self.retransmits == 0 {
            self.begin_undo();
        }
        self.congestion.on_timeout(cx.now, in_flight);
        self.ecn.note_reduced();
        self.ecn.note_timeout(self.una_offset == 1);
        self.update_mss();
        self.loss.state = Recovery::Loss;
        self.loss.recover = self.nxt_offset();
        self.loss.frto = if first_timeout || self.retransmits > 0 { Frto::Resent } else { Frto::Off };
        self.loss.inflation = self.sent.in_flight();
        self.loss.resend_now = true;
        self.loss.probe_tail = false;
        self.rack.forget_probe();
        self.retransmits = self.retransmits.saturating_add(1);
        self.note_unanswered();
        self.rtt.back_off();
        (self.timers.retransmit, self.timers.probe, self.timers.reorder) = (None, None, None);
        self.restart_retransmit_timer(cx.now);
        self.suspect_black_hole(cx);
    }

    /// An ACK after a timeout: was it a mistake (RFC 5682 section 2.1, RFC 3522), is all repaired, what next?
    fn go_on_after_timeout(&mut self, feedback: &mut Feedback, cx: &mut Context<'_>) {
        let complete = self.una_offset >= self.loss.recover;
        if feedback.acked > 0 {
            self.sent.join_first(u32::from(self.mss).min(self.record_rest(self.una_offset)));
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
    pub(super) fn guard_against_reneging(&mut self, now: Instant) {
        if self.sent.first().is_some_and(|first| first.sacked) {
            let delay = (self.rtt.srtt().unwrap_or_default() / 2).max(Duration::from_millis(10));
            self.timers.retransmit = Some(now + delay);
        }
    }

    // ---- taking back

    /// Whether the ACK echoes a timestamp from before anything was sent again (RFC 3522's Eifel detection).
    fn answers_original(&self, feedback: &Feedback) -> bool {
        match (self.loss.episode.as_ref().and_then(|episode| episode.resent_at), feedback.echo) {
            (Some(at), Some(echo)) => timestamp_before(echo, timestamp(at, self.ts_offset)),
            _ => false,
        }
    }

    fn may_undo(&self, feedback: &Feedback) -> bool {
        self.may_undo_by_dsack() || (self.undo().is_some() && self.answers_original(feedback))
    }

    /// Whether everything that was sent again had arrived before.
    fn may_undo_by_dsack(&self) -> bool {
        self.undo().is_some_and(|undo| undo.unproven == Some(0))
    }

    /// Takes a reduction back; `all`: nothing is lost after all.
    fn undo_reduction(&mut self, all: bool, cx: &mut Context<'_>) {
        cx.counters.tcp_undos += 1;
        if all {
            self.sent.unmark_lost();
        }
        self.episode().undo = None;
        // Marks are no mistake.
        if !self.episode().marked {
            self.congestion.undo(cx.now);
            self.ecn.withdraw_reduced();
        }
    }

    /// A segment was sent again.
    pub(super) fn note_resent(&mut self, now: Instant) {
        self.loss.resend_now = false;
        let episode = self.episode();
        episode.resent_at.get_or_insert(now);
        if let Some(undo) = &mut episode.undo {
            undo.unproven = Some(undo.unproven.unwrap_or(0) + 1);
        }
    }

    // ---- the window

    /// The congestion window in force.
    /// RFC 8985 section 9.3.
    pub(super) fn cwnd(&self) -> u32 {
        if self.congestion.controls_recovery() {
            return self.congestion.cwnd();
        }
        match self.loss.state {
            Recovery::Fast | Recovery::Reducing => {
                self.loss.episode.as_ref().map_or(self.congestion.cwnd(), |episode| episode.prr.cwnd())
            }
            Recovery::Loss => self.congestion.cwnd().saturating_add(self.loss.inflation),
            Recovery::Open | Recovery::Disorder => self.congestion.cwnd(),
        }
    }

    /// `bytes` were sent.
    pub(super) fn note_flight(&mut self, bytes: u32) {
        if self.is_reducing() {
            self.episode().prr.on_send(bytes);
        }
    }

    /// Cuts what did not fit the path; it is sent again without being taken for congestion (RFC 1191 section 6.4).
    pub(super) fn resend_smaller(&mut self) {
        if !self.syn_acked() || self.sent.len() == 0 {
            return;
        }
        self.sent.cut(self.mss.into());
        if self.sent.lost().segments > 0 && !matches!(self.loss.state, Recovery::Fast | Recovery::Loss) {
            self.loss.state = Recovery::Loss;
            self.loss.recover = self.nxt_offset();
            (self.loss.episode, self.loss.frto, self.loss.inflation) = (None, Frto::Off, 0);
            self.loss.resend_now = true;
        }
    }
}
