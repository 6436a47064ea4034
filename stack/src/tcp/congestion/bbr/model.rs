//! BBR's model of the path: rounds, the bandwidth's maximum, the bounds that losses teach for a while (short term) or until
//! probed again (long term), and how much ACKs are bundled.

use super::{AckPhase, Bbr, INFINITY, State};
use crate::tcp::congestion::{Ack, CWND_MAX, LostSegment};
use crate::tcp::delivery_rate::RateSample;
use crate::time::Instant;

/// LossThresh: share of what was in flight that may be lost, percent.
const LOSS_THRESH_PERCENT: u64 = 2;
/// Beta, percent: what of a bound remains after a round with loss.
const BETA_PERCENT: u64 = 70;
/// Headroom, percent: what is left free of the long-term bound for other flows.
const HEADROOM_PERCENT: u64 = 15;
/// ExtraAckedFilterLen, rounds.
const EXTRA_ACKED_FILTER_LEN: u32 = 10;

/// `percent` of `bytes`, within a window.
pub(super) fn share(bytes: u32, percent: u64) -> u32 {
    u32::try_from(u64::from(bytes) * percent / 100).unwrap_or(u32::MAX)
}

impl Bbr {
    // ---- rounds and bandwidth

    /// BBRUpdateLatestDeliverySignals.
    pub(super) fn update_latest_delivery_signals(&mut self, sample: &RateSample) {
        self.bw_latest = self.bw_latest.max(sample.bytes_per_second());
        self.inflight_latest = self.inflight_latest.max(sample.delivered_bytes);
        if sample.prior_delivered >= self.loss_round_delivered {
            self.loss_round_delivered = self.delivered;
            self.loss_round_start = true;
        }
    }

    /// BBRAdvanceLatestDeliverySignals.
    pub(super) fn advance_latest_delivery_signals(&mut self, sample: &RateSample) {
        if self.loss_round_start {
            self.bw_latest = sample.bytes_per_second();
            self.inflight_latest = sample.delivered_bytes;
        }
    }

    /// BBRUpdateCongestionSignals.
    pub(super) fn update_congestion_signals(&mut self, sample: &RateSample) {
        self.update_max_bw(sample);
        if self.loss_round_start {
            self.adapt_lower_bounds_from_congestion();
            self.loss_in_round = false;
        }
    }

    /// BBRResetCongestionSignals.
    pub(super) fn reset_congestion_signals(&mut self) {
        self.loss_in_round = false;
        self.bw_latest = 0;
        self.inflight_latest = 0;
    }

    /// BBRUpdateMaxBw and BBRUpdateRound.
    fn update_max_bw(&mut self, sample: &RateSample) {
        if sample.prior_delivered >= self.next_round_delivered {
            self.start_round();
            self.round_count = self.round_count.wrapping_add(1);
            self.rounds_since_bw_probe = self.rounds_since_bw_probe.saturating_add(1);
            self.round_start = true;
        }
        let rate = sample.bytes_per_second();
        if rate >= self.max_bw() || !sample.is_app_limited {
            self.max_bw[1] = self.max_bw[1].max(rate);
        }
    }

    /// BBRStartRound.
    pub(super) fn start_round(&mut self) {
        self.next_round_delivered = self.delivered;
    }

    /// The largest rate of this cycle of probing and the one before (MaxBwFilterLen).
    pub(super) fn max_bw(&self) -> u64 {
        self.max_bw[0].max(self.max_bw[1])
    }

    /// BBRAdvanceMaxBwFilter. A cycle without a sample does not make the others older.
    fn advance_max_bw_filter(&mut self) {
        if self.max_bw[1] != 0 {
            self.max_bw = [self.max_bw[1], 0];
        }
    }

    /// BBRBoundBWForModel.
    pub(super) fn bound_bw_for_model(&mut self) {
        self.bw = self.max_bw().min(self.bw_shortterm);
    }

    // ---- ACK aggregation

    /// BBRUpdateACKAggregation: how much more was acknowledged than the bandwidth explains.
    pub(super) fn update_ack_aggregation(&mut self, ack: &Ack) {
        let interval = ack.now.saturating_since(self.extra_acked_interval_start).as_nanos();
        let expected = u128::from(self.bw) * interval / 1_000_000_000;
        let mut expected = u64::try_from(expected).unwrap_or(u64::MAX);
        if self.extra_acked_delivered <= expected {
            self.extra_acked_delivered = 0;
            self.extra_acked_interval_start = ack.now;
            expected = 0;
        }
        self.extra_acked_delivered += u64::from(ack.delivered_bytes);
        let extra = self.extra_acked_delivered.saturating_sub(expected);
        let extra = u32::try_from(extra).unwrap_or(u32::MAX).min(self.cwnd);
        let window = if self.full_bw_reached { EXTRA_ACKED_FILTER_LEN } else { 1 };
        self.extra_acked.update(window, self.round_count, extra);
    }

    // ---- short-term bounds

    /// BBRAdaptLowerBoundsFromCongestion: a round with loss, unless it was a probe that is expected to lose.
    fn adapt_lower_bounds_from_congestion(&mut self) {
        let is_probing = matches!(self.state, State::Startup | State::Refill | State::Up);
        if is_probing || !self.loss_in_round {
            return;
        }
        if self.bw_shortterm == u64::MAX {
            self.bw_shortterm = self.max_bw();
        }
        if self.inflight_shortterm == INFINITY {
            self.inflight_shortterm = self.cwnd.max(if self.in_recovery { self.prior_cwnd } else { 0 });
        }
        let (bw, inflight) = (self.bw_shortterm, self.inflight_shortterm);
        self.bw_shortterm = self.bw_latest.max((u128::from(bw) * u128::from(BETA_PERCENT) / 100) as u64);
        self.inflight_shortterm = self.inflight_latest.max(share(inflight, BETA_PERCENT));
    }

    /// BBRResetShortTermModel.
    pub(super) fn reset_shortterm_model(&mut self) {
        self.bw_shortterm = u64::MAX;
        self.inflight_shortterm = INFINITY;
    }

    // ---- long-term bound

    /// BBRAdaptLongTermModel: what the ACKs of a probe say about how much the path holds.
    pub(super) fn adapt_longterm_model(&mut self, ack: &Ack, sample: &RateSample) {
        if self.round_start {
            match self.ack_phase {
                AckPhase::ProbeStarting => self.ack_phase = AckPhase::ProbeFeedback,
                AckPhase::ProbeStopping => {
                    self.bw_probe_samples = false;
                    self.ack_phase = AckPhase::Init;
                    if self.is_in_probe_bw() && !sample.is_app_limited {
                        self.advance_max_bw_filter();
                    }
                }
                AckPhase::Init | AckPhase::Refilling | AckPhase::ProbeFeedback => {}
            }
        }
        let tx_in_flight = self.tx_in_flight(sample);
        if self.is_inflight_too_high(sample) {
            // Seldom reached: `handle_lost_segment` saw most of it.
            if self.bw_probe_samples {
                self.handle_inflight_too_high(ack.now, tx_in_flight, sample.is_app_limited);
            }
        } else if self.inflight_longterm != INFINITY {
            self.inflight_longterm = self.inflight_longterm.max(tx_in_flight);
            if self.state == State::Up {
                self.probe_inflight_longterm_upward(ack);
            }
        }
    }

    /// What was in flight when the sample's segment was sent, itself included.
    fn tx_in_flight(&self, sample: &RateSample) -> u32 {
        sample.in_flight_at_send.saturating_add(self.mss)
    }

    /// BBRIsInflightTooHigh.
    pub(super) fn is_inflight_too_high(&self, sample: &RateSample) -> bool {
        is_too_high(sample.lost_bytes, self.tx_in_flight(sample))
    }

    /// BBRHandleInflightTooHigh: once for each probe.
    pub(super) fn handle_inflight_too_high(&mut self, now: Instant, in_flight: u32, is_app_limited: bool) {
        self.bw_probe_samples = false;
        if !is_app_limited {
            self.inflight_longterm = in_flight.max(share(self.target_inflight(), BETA_PERCENT)).min(CWND_MAX);
        }
        if self.state == State::Up {
            self.start_probe_bw_down(now);
        }
    }

    /// BBRNoteLoss.
    pub(super) fn note_loss(&mut self) {
        if !self.loss_in_round {
            self.loss_round_delivered = self.delivered;
        }
        self.loss_in_round = true;
    }

    /// BBRHandleLostPacket.
    pub(super) fn handle_lost_segment(&mut self, lost: &LostSegment) {
        self.note_loss();
        if !self.bw_probe_samples {
            return;
        }
        let tx_in_flight = lost.snapshot.in_flight().saturating_add(lost.bytes);
        if is_too_high(lost.lost_since_sent, tx_in_flight) {
            let in_flight = inflight_at_loss(lost);
            self.handle_inflight_too_high(lost.now, in_flight, lost.snapshot.is_app_limited());
        }
    }

    /// Whether the long-term bound, and nothing else, keeps more from being sent.
    pub(super) fn is_limited_by_longterm(&self, ack: &Ack) -> bool {
        !ack.is_app_limited && self.cwnd >= self.inflight_longterm
    }

    /// BBRProbeInflightLongtermUpward.
    fn probe_inflight_longterm_upward(&mut self, ack: &Ack) {
        if !self.is_limited_by_longterm(ack) {
            return;
        }
        self.bw_probe_up_acks = self.bw_probe_up_acks.saturating_add(ack.delivered_bytes);
        let delta = self.bw_probe_up_acks / self.probe_up_count;
        self.bw_probe_up_acks -= delta * self.probe_up_count;
        self.inflight_longterm = self.inflight_longterm.saturating_add(delta).min(CWND_MAX);
        if self.round_start {
            self.raise_inflight_longterm_slope();
        }
    }

    /// BBRRaiseInflightLongtermSlope: one segment in the first round, twice as many in each that follows.
    pub(super) fn raise_inflight_longterm_slope(&mut self) {
        let growth_this_round = u64::from(self.mss) << self.bw_probe_up_rounds;
        self.bw_probe_up_rounds = (self.bw_probe_up_rounds + 1).min(30);
        self.probe_up_count =
            u32::try_from(u64::from(self.cwnd) / growth_this_round).unwrap_or(INFINITY).max(1);
    }

    /// BBRInflightWithHeadroom.
    pub(super) fn inflight_with_headroom(&self) -> u32 {
        if self.inflight_longterm == INFINITY {
            return INFINITY;
        }
        let headroom = share(self.inflight_longterm, HEADROOM_PERCENT).max(self.mss);
        self.inflight_longterm.saturating_sub(headroom).max(self.min_pipe_cwnd())
    }
}

fn is_too_high(lost: u32, tx_in_flight: u32) -> bool {
    u64::from(lost) * 100 > u64::from(tx_in_flight) * LOSS_THRESH_PERCENT
}

/// BBRInflightAtLoss: how much was in flight when the loss rate crossed LossThresh, somewhere within the lost segment.
fn inflight_at_loss(lost: &LostSegment) -> u32 {
    let inflight_before = u64::from(lost.snapshot.in_flight());
    let lost_before = u64::from(lost.lost_since_sent.saturating_sub(lost.bytes));
    let allowed = (LOSS_THRESH_PERCENT * inflight_before).saturating_sub(100 * lost_before);
    let prefix = allowed / (100 - LOSS_THRESH_PERCENT);
    u32::try_from(inflight_before + prefix).unwrap_or(u32::MAX)
}
