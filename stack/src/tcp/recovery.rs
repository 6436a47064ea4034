//! What acknowledgments mean for sending: SND.UNA and the send window (RFC 9293 section 3.10.7.4, fifth step), round-trip
//! times (RFC 6298, RFC 7323 section 4), congestion control, duplicate ACKs with fast retransmit and NewReno's fast recovery
//! (RFC 5681 section 3.2, RFC 6582 section 3.2), and what a retransmission timeout does to them (RFC 6298 section 5).
//!
//! SACK-based recovery (RFC 6675, RFC 8985) will take the place of `duplicate_ack` and `partial_ack`.

use super::congestion::{Ack, CongestionControl, LossKind};
use super::connection::{Connection, Context, Recovery};
use super::header::Flags;
use super::input::Segment;
use crate::time::{Duration, Instant};

/// Duplicate ACKs that say a segment is lost (RFC 5681 section 3.2).
const DUPLICATE_ACKS: u8 = 3;

/// Older timestamps echoed give no round-trip time: twice the largest RTO.
const ECHO_AGE_MAX_MS: u32 = 240_000;

impl Connection {
    /// Takes in the ACK of a segment that passed all checks: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT.
    pub(super) fn process_ack(&mut self, segment: &Segment, cx: &mut Context<'_>) {
        let window_before = self.snd_wnd;
        self.update_send_window(segment);
        if segment.ack.gt(self.snd_una) {
            self.advance_snd_una(segment, cx);
        } else if self.snd_wnd == window_before && self.is_duplicate_ack(segment) {
            self.duplicate_ack(cx);
        }
        if self.snd_wnd == 0 {
            // The peer answers probes.
            self.retransmits = 0;
        }
        if (window_before == 0) != (self.snd_wnd == 0) {
            // The octet that probed goes again with its segment, unless it is acknowledged.
            (self.probes, self.probe_due) = (0, false);
            self.progress_at = cx.now;
            self.restart_retransmit_timer(cx.now);
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

    /// SND.UNA < SEG.ACK: something arrived.
    fn advance_snd_una(&mut self, segment: &Segment, cx: &mut Context<'_>) {
        let acked = segment.ack.since(self.snd_una);
        let in_flight_before = self.in_flight();
        let rtt = self.measure_round_trip(segment, cx);
        let is_app_limited = self.cwnd_limited.le(self.snd_una);
        let was_fast = self.recovery == Recovery::Fast;
        let fin = self.fin_sent && segment.ack == self.snd_nxt;
        let bytes = acked - u32::from(fin);
        self.send.acknowledge(bytes as usize);
        self.statistics.bytes_acked += u64::from(bytes);
        self.snd_una = segment.ack;
        self.snd_ptr = self.snd_ptr.max(self.snd_una);
        self.snd_sml = self.snd_sml.max(self.snd_una);
        self.cwnd_limited = self.cwnd_limited.max(self.snd_una);
        self.progress_at = cx.now;
        (self.retransmits, self.probes) = (0, 0);
        self.recover_by(acked, cx.now);
        self.congestion.on_ack(&Ack {
            now: cx.now,
            acked_bytes: acked,
            delivered_bytes: acked,
            rtt,
            srtt: self.rtt.srtt(),
            in_flight_before,
            is_app_limited,
            in_recovery: was_fast,
            mss: u32::from(self.mss),
            in_flight_after: self.in_flight(),
            ..Ack::default()
        });
        self.restart_retransmit_timer(cx.now);
        if self.send.len() <= self.options.send_buffer_bytes / 3 * 2 {
            self.wake_senders();
        }
        if !self.has_unfinished_output() {
            self.wake_flusher();
        }
    }

    /// A round-trip time: of the segment being timed, which was sent once only (Karn's rule, RFC 6298 section 3), else by
    /// the timestamp echoed (RFC 7323 section 4), which is coarser.
    pub(super) fn measure_round_trip(&mut self, segment: &Segment, cx: &Context<'_>) -> Option<Duration> {
        self.rtt.age_min_rtt(cx.now);
        let rtt = match self.timed {
            Some((end, sent_at)) if segment.ack.ge(end) => {
                self.timed = None;
                cx.now - sent_at
            }
            Some(_) => return None,
            None => {
                let echo = segment.options.timestamps.filter(|_| self.ts_enabled)?.ecr;
                let elapsed_ms = self.ts_now(cx.now).wrapping_sub(echo);
                // An echo of the future (which looks like the far past), or a very late one, is not believed. Nor is one
                // from before the last timeout: the answer to a retransmission that brought nothing new echoes what
                // came in order before it (RFC 7323 section 4.3), which may be minutes old, and as Karn's rule has it,
                // an answer to the first transmission cannot be told from that.
                let since_timeout = (cx.now - self.timed_out_at).as_millis();
                if elapsed_ms > ECHO_AGE_MAX_MS || u128::from(elapsed_ms) > since_timeout + 1 {
                    return None;
                }
                Duration::from_millis(u64::from(elapsed_ms.max(1)))
            }
        };
        self.rtt.sample(rtt);
        Some(rtt)
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

    /// RFC 5681 section 3.2, steps 1 to 4, with RFC 6582 section 3.2, step 2.
    fn duplicate_ack(&mut self, cx: &mut Context<'_>) {
        self.duplicate_acks = self.duplicate_acks.saturating_add(1);
        let mss = u32::from(self.mss);
        match self.recovery {
            // Limited transmit (RFC 3042).
            Recovery::Open if self.duplicate_acks < DUPLICATE_ACKS => self.inflation += mss,
            Recovery::Open if self.duplicate_acks == DUPLICATE_ACKS && self.snd_una.gt(self.recover) => {
                // What limited transmit sent does not count as in flight.
                let in_flight = self.outstanding().min(self.congestion.cwnd());
                self.congestion.on_loss_event(cx.now, in_flight, LossKind::FastRetransmit);
                self.recovery = Recovery::Fast;
                self.recover = self.snd_nxt;
                self.inflation = u32::from(DUPLICATE_ACKS) * mss;
                self.retransmit_head = true;
                cx.counters.tcp_fast_retransmits += 1;
            }
            // A segment left the network; no more can have than were in it.
            Recovery::Fast => self.inflation = (self.inflation + mss).min(self.outstanding()),
            Recovery::Open | Recovery::Loss => {}
        }
    }

    /// What an ACK of `acked` new bytes means for a recovery that goes on.
    fn recover_by(&mut self, acked: u32, now: Instant) {
        self.duplicate_acks = 0;
        self.retransmit_head = false;
        let complete = self.snd_una.ge(self.recover);
        match self.recovery {
            Recovery::Fast if !complete => return self.partial_ack(acked),
            Recovery::Fast => {
                self.congestion.on_recovery_exit(now);
                self.recovery = Recovery::Open;
            }
            Recovery::Loss if complete => self.recovery = Recovery::Open,
            Recovery::Loss => return,
            Recovery::Open => {
                if self.recover.lt(self.snd_una) {
                    // Keeps up, so that the comparison stays right after 2^31 bytes.
                    self.recover = self.snd_una - 1;
                }
            }
        }
        self.inflation = 0;
    }

    /// RFC 6582 section 3.2, step 3: the next segment is lost too.
    fn partial_ack(&mut self, acked: u32) {
        let mss = u32::from(self.mss);
        self.retransmit_head = true;
        self.inflation = self.inflation.saturating_sub(acked);
        if acked >= mss {
            self.inflation += mss;
        }
    }

    /// The retransmission timer expired (RFC 6298 section 5.4 to 5.6): everything outstanding is taken as lost and sent
    /// again from SND.UNA on as the congestion window allows.
    pub(super) fn enter_loss(&mut self, cx: &mut Context<'_>) {
        cx.counters.tcp_timeouts += 1;
        self.timed_out_at = cx.now;
        self.congestion.on_timeout(cx.now, self.outstanding());
        self.recovery = Recovery::Loss;
        // RFC 6582 section 3.2, step 4: no fast retransmit for duplicates of what is sent again.
        self.recover = self.snd_nxt;
        self.snd_ptr = self.snd_una;
        (self.duplicate_acks, self.inflation, self.retransmit_head) = (0, 0, false);
        self.timed = None;
        self.retransmits = self.retransmits.saturating_add(1);
        self.rtt.back_off();
        self.timers.retransmit = None;
        self.restart_retransmit_timer(cx.now);
    }

    /// Sends again what did not fit the path, without taking it for congestion (RFC 1191 section 6.4).
    pub(super) fn resend_smaller(&mut self) {
        if self.syn_acked() {
            self.snd_ptr = self.snd_una;
            self.timed = None;
        }
    }
}
