//! Loss recovery by duplicate ACKs: fast retransmit and NewReno's fast recovery (RFC 5681 section 3.2, RFC 6582),
//! limited transmit (RFC 3042).

use super::congestion::{Ack, CongestionControl, LossKind};
use super::connection::{Connection, NEVER};
use super::header::Flags;
use super::input::{Env, Segment};
use super::seq::SeqNumber;
use super::state::State;

/// Duplicate ACKs that mean a loss (RFC 5681 section 3.2, step 2).
const DUPLICATE_ACKS: u32 = 3;

impl Connection {
    /// An ACK moved SND.UNA to `ack`, by `acked` bytes.
    pub fn on_new_ack(&mut self, ack: SeqNumber, acked: u32, in_flight_before: u32, env: &mut Env<'_>) {
        let mss = u32::from(self.mss);
        let was_in_recovery = self.marks.in_recovery;
        if was_in_recovery {
            if ack.ge(self.recover) {
                // A full acknowledgement (RFC 6582 section 3.2, step 3).
                self.leave_recovery(env);
            } else {
                // A partial one: the next hole is known; deflate by what was acknowledged, and one segment may go.
                self.marks.retransmit_now = true;
                self.inflation = self.inflation.saturating_sub(acked);
                if acked >= mss {
                    self.inflation = self.inflation.saturating_add(mss);
                }
            }
        } else {
            self.inflation = 0;
        }
        self.duplicate_acks = 0;
        self.congestion.on_ack(&Ack {
            now: env.now,
            acked_bytes: acked,
            delivered_bytes: acked,
            rtt: None,
            srtt: self.rtt.srtt(),
            in_flight_before,
            is_app_limited: !self.marks.cwnd_limited,
            in_recovery: was_in_recovery,
            mss,
        });
    }

    fn leave_recovery(&mut self, env: &Env<'_>) {
        self.marks.in_recovery = false;
        self.inflation = 0;
        self.congestion.on_recovery_exit(env.now);
    }

    /// An ACK that acknowledges nothing new: is it a duplicate (RFC 5681 section 2's definition)?
    pub fn same_ack(&mut self, segment: &Segment, window_changed: bool, env: &mut Env<'_>) {
        let bare = segment.payload == 0 && !segment.header.flags.intersects(Flags::SYN | Flags::FIN);
        let outstanding = self.snd_max != self.snd_una;
        if !bare || window_changed || !outstanding || self.persisting {
            if self.persisting && self.state.is_synchronized() {
                // The peer lives and keeps its window closed: it may do so for ever (RFC 9293 section 3.8.6.1, MUST-37).
                self.retries = 0;
            }
            return;
        }
        self.duplicate_acks = self.duplicate_acks.saturating_add(1);
        let mss = u32::from(self.mss);
        if self.marks.in_recovery {
            self.inflation = self.inflation.saturating_add(mss);
            return;
        }
        if self.duplicate_acks < DUPLICATE_ACKS {
            // Limited transmit: each of the first two lets one new segment out.
            self.inflation = self.duplicate_acks * mss;
            return;
        }
        // RFC 6582 section 3.2, step 1: not again for losses of a window that was dealt with, nor for what a timeout sent.
        if self.duplicate_acks == DUPLICATE_ACKS && self.snd_una.gt(self.recover) {
            self.enter_recovery(mss, env);
        }
    }

    fn enter_recovery(&mut self, mss: u32, env: &mut Env<'_>) {
        let in_flight = self.snd_max.since(self.snd_una);
        self.recover = self.snd_max;
        self.marks.in_recovery = true;
        self.marks.retransmit_now = true;
        self.timed = None;
        self.congestion.on_loss_event(env.now, in_flight, LossKind::FastRetransmit);
        self.inflation = DUPLICATE_ACKS * mss;
        env.counters.tcp_fast_retransmits += 1;
    }

    /// The retransmission timer expired with something in flight: back to SND.UNA, one segment (RFC 5681 section 3.1, RFC
    /// 6298 section 5.4 to 5.6).
    pub fn on_retransmission_timeout(&mut self, env: &mut Env<'_>) {
        env.counters.tcp_timeouts += 1;
        let in_flight = self.snd_max.since(self.snd_una);
        if self.state.is_synchronized() {
            self.congestion.on_timeout(env.now, in_flight);
        }
        self.recover = self.snd_max;
        self.marks.in_recovery = false;
        self.inflation = 0;
        self.duplicate_acks = 0;
        self.timed = None;
        self.rtt.back_off();
        self.snd_nxt = self.snd_una;
        self.retransmit_at = NEVER;
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.marks.syn_now = true;
        } else {
            self.marks.retransmit_now = true;
        }
    }
}
