//! The probe of a tail (RFC 8985 section 7): when nothing was heard of what was sent last for two round trips, one segment more,
//! or the last again, finds out, long before the retransmission timeout. And when that timeout is.

use super::acknowledge::Feedback;
use super::congestion::{CongestionControl, LossKind};
use super::connection::{Connection, Context};
use super::recovery::Recovery;
use crate::time::{Duration, Instant};

/// Outstanding segments below which the retransmission timer counts from the first one's sending (RFC 7765 section 3).
const RESTART_THRESHOLD: usize = 4;
/// Least delay of the probe of a tail: Linux's two ticks, so that a peer on the same host is not probed for its scheduler.
const PROBE_DELAY_MIN: Duration = Duration::from_millis(2);
/// The peer may delay the ACK of a single segment so long (RFC 8985 section 7.2, TLP.max_ack_delay; Linux's).
const ACK_DELAY_MAX: Duration = Duration::from_millis(200);
/// A probe of the tail without any round-trip time (RFC 8985 section 7.2).
const PROBE_DELAY_UNKNOWN: Duration = Duration::from_secs(1);

impl Connection {
    /// Sets the timer for the probe of a tail (RFC 8985 section 7.2), or stops it.
    pub(super) fn refresh_probe_timer(&mut self, now: Instant) {
        if !self.may_probe_tail() || self.loss.probe_tail {
            self.timers.probe = None;
        } else if self.timers.probe.is_none() {
            let most = if self.sent.len() == 1 { ACK_DELAY_MAX } else { PROBE_DELAY_MIN };
            let at = match self.rtt.srtt_us() {
                Some(srtt_us) => now.plus_micros(srtt_us * 2) + most,
                None => now + PROBE_DELAY_UNKNOWN,
            };
            self.timers.probe = Some(at.min(self.timers.retransmit.unwrap_or(Instant::FAR_FUTURE)));
        }
    }

    fn may_probe_tail(&self) -> bool {
        self.sack_enabled
            && self.syn_acked()
            && matches!(self.loss.state, Recovery::Open | Recovery::Reducing)
            && self.sent.len() > 0
            && self.sent.sacked().segments == 0
            && self.rack.may_probe()
    }

    /// The probe of the tail is due: `output` sends it.
    pub(super) fn probe_is_due(&mut self, now: Instant) {
        self.loss.probe_tail = true;
        self.timers.retransmit = None;
        self.restart_retransmit_timer(now);
    }

    /// Looks whether the ACK tells what became of the probe (RFC 8985 section 7.4.2).
    pub(super) fn check_probe(&mut self, feedback: &Feedback, cx: &mut Context<'_>) {
        let ack = self.una_offset;
        let plain = feedback.duplicate && feedback.sacked == 0 && feedback.dsack.is_none();
        if feedback.acked == 0 && !plain && feedback.dsack.is_none() {
            return;
        }
        let dsack = feedback.dsack.is_some();
        if self.rack.probe_acknowledged(ack, dsack, plain) && !self.is_reducing() {
            // The probe repaired a loss: congestion control is to hear of it.
            let in_flight = self.outstanding().min(self.congestion.cwnd()).max(feedback.acked);
            self.congestion.on_loss_event(cx.now, in_flight, LossKind::FastRetransmit);
            self.congestion.on_recovery_exit(cx.now);
            self.ecn.note_reduced();
        }
    }

    /// When the retransmission timeout of what is outstanding is over, if it begins now. With few segments outstanding and
    /// nothing to follow, no duplicate ACKs will come: the time since the first was sent counts (RFC 7765 section 3),
    /// unless the tail is probed first.
    pub(super) fn retransmission_deadline(&self, now: Instant) -> Instant {
        let rto_us = self.rtt.rto_us();
        let deadline = now.plus_micros(rto_us);
        match self.sent.first() {
            Some(first)
                if self.sent.len() < RESTART_THRESHOLD
                    && self.unsent() == 0
                    && self.rtt.backed_off() == 0
                    && !self.may_probe_tail() =>
            {
                let early = first.sent_at.plus_micros(rto_us);
                if early > now { early } else { deadline }
            }
            _ => deadline,
        }
    }
}
