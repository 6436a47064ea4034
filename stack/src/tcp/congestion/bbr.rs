//! BBR version 3 (draft-ietf-ccwg-bbr-02): a model of the path, its bandwidth and its shortest round trip, learnt from
//! rate samples, sets a pacing rate and a window; loss bounds the model instead of halving a window.
//!
//! This file has the life of a connection: which state it is in and what ends each. `bbr/model.rs` has the filters and
//! bounds behind it, `bbr/control.rs` what follows for pacing rate and window. Functions are named as in the draft.
//! Differences from it: a loss event of Startup is an ACK that reports loss (as in Linux), a mark of classic ECN counts as
//! a loss rate too high (RFC 3168 section 6.1.2 asks for the response to loss), and ProbeRTT marks its samples
//! application-limited here instead of on the connection.

mod control;
mod max_filter;
mod model;
#[cfg(test)]
mod tests;

use super::{Ack, CongestionControl, LossKind, LostSegment, initial_window};
use crate::tcp::delivery_rate::RateSample;
use crate::time::{Duration, Instant};
use max_filter::MaxFilter;

/// No bound.
const INFINITY: u32 = u32::MAX;
/// ProbeRTTInterval: how often the shortest round trip is looked for.
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(5);
/// ProbeRTTDuration: how long the queue is then kept empty.
const PROBE_RTT_DURATION: Duration = Duration::from_millis(200);
/// MinRTTFilterLen.
const MIN_RTT_FILTER_LEN: Duration = Duration::from_secs(10);
/// Rounds without a quarter more bandwidth that tell that the pipe is full.
const FULL_BW_COUNT: u8 = 3;
/// StartupFullLossCnt: loss events in a round that may end Startup.
const STARTUP_FULL_LOSS_COUNT: u8 = 6;
/// Most rounds between two probes for bandwidth.
const RENO_ROUNDS_MAX: u32 = 63;

/// What the connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Grows exponentially until the pipe is full.
    Startup,
    /// Drains the queue that Startup built.
    Drain,
    /// Leaves room in the pipe and lets the queue drain.
    Down,
    /// Sends at the bandwidth.
    Cruise,
    /// Fills the pipe for a round before probing.
    Refill,
    /// Probes for more bandwidth.
    Up,
    /// Empties the queue to see the shortest round trip.
    ProbeRtt,
}

/// What the ACKs that arrive now are feedback to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AckPhase {
    Init,
    Refilling,
    ProbeStarting,
    ProbeFeedback,
    ProbeStopping,
}

/// What a loss changes and a spurious one gives back.
#[derive(Clone, Copy, Debug)]
struct Undo {
    state: State,
    bw_shortterm: u64,
    inflight_shortterm: u32,
    inflight_longterm: u32,
}

/// BBR's state. Bandwidths are in bytes per second, windows and volumes in bytes.
#[derive(Clone, Debug)]
pub struct Bbr {
    state: State,
    ack_phase: AckPhase,
    mss: u32,
    cwnd: u32,
    /// What the window was before recovery or ProbeRTT.
    prior_cwnd: u32,
    pacing_rate: u64,
    handshake_loss: bool,
    /// The pacing rate rests on a round-trip time.
    has_seen_rtt: bool,
    in_recovery: bool,
    /// After a timeout: recovery is over when this offset is acknowledged; 0: no timeout to recover from.
    timeout_recovers_at: u64,
    /// SND.NXT at the last ACK.
    sent_to: u64,
    /// State of the generator of the waits between probes.
    random: u32,

    // Round counting.
    /// Bytes delivered ever.
    delivered: u64,
    next_round_delivered: u64,
    round_count: u32,
    round_start: bool,

    // The model: bandwidth.
    bw: u64,
    /// Largest sample of this cycle of probing and of the one before, this one last.
    max_bw: [u64; 2],
    bw_shortterm: u64,
    bw_latest: u64,
    full_bw: u64,
    full_bw_count: u8,
    full_bw_now: bool,
    full_bw_reached: bool,

    // The model: volume.
    inflight_longterm: u32,
    inflight_shortterm: u32,
    inflight_latest: u32,
    loss_round_delivered: u64,
    loss_round_start: bool,
    loss_in_round: bool,
    loss_events_in_round: u8,
    /// Losses of now are those of a probe for bandwidth.
    bw_probe_samples: bool,
    /// What was before the last loss, unless that was taken back.
    undo: Option<Undo>,
    /// That loss is still being repaired: further ones belong to it.
    has_losses: bool,

    // The model: round-trip time.
    min_rtt: Option<Duration>,
    min_rtt_stamp: Instant,
    probe_rtt_min_delay: Option<Duration>,
    probe_rtt_min_stamp: Instant,
    probe_rtt_expired: bool,
    probe_rtt_done_stamp: Option<Instant>,
    probe_rtt_round_done: bool,
    idle_restart: bool,
    /// Samples of segments sent while between these counts were delivered were limited by ProbeRTT.
    limited: (u64, u64),

    // The model: ACK aggregation.
    extra_acked_interval_start: Instant,
    extra_acked_delivered: u64,
    extra_acked: MaxFilter,

    // ProbeBW.
    cycle_stamp: Instant,
    bw_probe_wait: Duration,
    rounds_since_bw_probe: u32,
    bw_probe_up_rounds: u8,
    /// Bytes acknowledged for each that `inflight_longterm` grows by; [`INFINITY`]: it does not grow.
    probe_up_count: u32,
    bw_probe_up_acks: u32,
}

impl Bbr {
    /// State of a connection not yet established (BBROnInit). `seed`: any number that differs between connections, so that
    /// they do not probe in step.
    #[must_use]
    pub fn new(seed: u32) -> Self {
        let mut bbr = Self {
            state: State::Startup,
            ack_phase: AckPhase::Init,
            mss: 536,
            cwnd: initial_window(536),
            prior_cwnd: 0,
            pacing_rate: 0,
            handshake_loss: false,
            has_seen_rtt: false,
            in_recovery: false,
            timeout_recovers_at: 0,
            sent_to: 0,
            random: seed | 1,
            delivered: 0,
            next_round_delivered: 0,
            round_count: 0,
            round_start: false,
            bw: 0,
            max_bw: [0; 2],
            bw_shortterm: u64::MAX,
            bw_latest: 0,
            full_bw: 0,
            full_bw_count: 0,
            full_bw_now: false,
            full_bw_reached: false,
            inflight_longterm: INFINITY,
            inflight_shortterm: INFINITY,
            inflight_latest: 0,
            loss_round_delivered: 0,
            loss_round_start: false,
            loss_in_round: false,
            loss_events_in_round: 0,
            bw_probe_samples: false,
            undo: None,
            has_losses: false,
            min_rtt: None,
            min_rtt_stamp: Instant::ZERO,
            probe_rtt_min_delay: None,
            probe_rtt_min_stamp: Instant::ZERO,
            probe_rtt_expired: false,
            probe_rtt_done_stamp: None,
            probe_rtt_round_done: false,
            idle_restart: false,
            limited: (1, 0),
            extra_acked_interval_start: Instant::ZERO,
            extra_acked_delivered: 0,
            extra_acked: MaxFilter::default(),
            cycle_stamp: Instant::ZERO,
            bw_probe_wait: Duration::ZERO,
            rounds_since_bw_probe: 0,
            bw_probe_up_rounds: 0,
            probe_up_count: INFINITY,
            bw_probe_up_acks: 0,
        };
        bbr.init_pacing_rate(None);
        bbr
    }

    /// BBRUpdateModelAndState.
    fn update_model_and_state(&mut self, ack: &Ack, sample: Option<&RateSample>) {
        (self.round_start, self.loss_round_start) = (false, false);
        if let Some(sample) = sample {
            self.update_latest_delivery_signals(sample);
            self.update_congestion_signals(sample);
        }
        self.update_ack_aggregation(ack);
        if let Some(sample) = sample {
            self.check_full_bw_reached(sample);
        }
        self.check_startup_done(ack, sample);
        self.check_drain(ack);
        if let Some(sample) = sample {
            self.update_probe_bw_cycle_phase(ack, sample);
        }
        self.update_min_rtt(ack);
        self.check_probe_rtt(ack);
        if let Some(sample) = sample {
            self.advance_latest_delivery_signals(sample);
        }
        self.bound_bw_for_model();
    }

    // ---- Startup and Drain

    /// BBRCheckFullBWReached: three rounds without a quarter more.
    fn check_full_bw_reached(&mut self, sample: &RateSample) {
        if self.full_bw_now || !self.round_start || sample.is_app_limited {
            return;
        }
        let rate = sample.bytes_per_second();
        if rate >= self.full_bw.saturating_mul(5) / 4 {
            self.reset_full_bw(rate);
            return;
        }
        self.full_bw_count += 1;
        self.full_bw_now = self.full_bw_count >= FULL_BW_COUNT;
        self.full_bw_reached |= self.full_bw_now;
    }

    /// BBRResetFullBW, with `bw` as the new baseline.
    fn reset_full_bw(&mut self, bw: u64) {
        self.full_bw = bw;
        self.full_bw_count = 0;
        self.full_bw_now = false;
    }

    /// BBRCheckStartupDone.
    fn check_startup_done(&mut self, ack: &Ack, sample: Option<&RateSample>) {
        self.check_startup_high_loss(ack, sample);
        if self.state == State::Startup && self.full_bw_reached {
            self.state = State::Drain;
        }
    }

    /// BBRCheckStartupHighLoss: recovery goes on for a round in which the loss rate is too high.
    fn check_startup_high_loss(&mut self, ack: &Ack, sample: Option<&RateSample>) {
        if self.full_bw_reached {
            return;
        }
        if ack.lost_bytes > 0 {
            self.loss_events_in_round = self.loss_events_in_round.saturating_add(1);
        }
        if !self.loss_round_start {
            return;
        }
        let is_high = self.in_recovery && sample.is_some_and(|sample| self.is_inflight_too_high(sample));
        if is_high && self.loss_events_in_round >= STARTUP_FULL_LOSS_COUNT {
            self.full_bw_reached = true;
            self.inflight_longterm = self.bdp_multiple(self.max_bw(), 100).max(self.inflight_latest);
        }
        self.loss_events_in_round = 0;
    }

    /// BBRCheckDrain.
    fn check_drain(&mut self, ack: &Ack) {
        if self.state == State::Drain && ack.in_flight_after <= self.inflight(self.bw, 100) {
            self.start_probe_bw_down(ack.now);
        }
    }

    // ---- ProbeBW

    fn is_in_probe_bw(&self) -> bool {
        matches!(self.state, State::Down | State::Cruise | State::Refill | State::Up)
    }

    /// BBRUpdateProbeBWCyclePhase.
    fn update_probe_bw_cycle_phase(&mut self, ack: &Ack, sample: &RateSample) {
        if !self.full_bw_reached {
            return;
        }
        self.adapt_longterm_model(ack, sample);
        match self.state {
            State::Down => {
                if !self.check_time_to_probe_bw(ack.now) && self.is_time_to_cruise(ack) {
                    self.state = State::Cruise;
                }
            }
            State::Cruise => {
                self.check_time_to_probe_bw(ack.now);
            }
            State::Refill if self.round_start => {
                self.bw_probe_samples = true;
                self.start_probe_bw_up(sample.bytes_per_second());
            }
            State::Up => {
                if self.is_time_to_go_down(ack, sample) {
                    self.start_probe_bw_down(ack.now);
                }
            }
            State::Refill | State::Startup | State::Drain | State::ProbeRtt => {}
        }
    }

    /// BBRStartProbeBW_DOWN.
    fn start_probe_bw_down(&mut self, now: Instant) {
        self.reset_congestion_signals();
        self.probe_up_count = INFINITY;
        self.pick_probe_wait();
        self.cycle_stamp = now;
        self.ack_phase = AckPhase::ProbeStopping;
        self.start_round();
        self.state = State::Down;
    }

    /// BBRStartProbeBW_REFILL.
    fn start_probe_bw_refill(&mut self) {
        self.reset_shortterm_model();
        self.bw_probe_up_rounds = 0;
        self.bw_probe_up_acks = 0;
        self.ack_phase = AckPhase::Refilling;
        self.start_round();
        self.state = State::Refill;
    }

    /// BBRStartProbeBW_UP.
    fn start_probe_bw_up(&mut self, rate: u64) {
        self.ack_phase = AckPhase::ProbeStarting;
        self.start_round();
        self.reset_full_bw(rate);
        self.state = State::Up;
        self.raise_inflight_longterm_slope();
    }

    /// BBRIsTimeToProbeBW: 2 to 3 seconds, or as many rounds as Reno would need to grow by what is in flight.
    fn check_time_to_probe_bw(&mut self, now: Instant) -> bool {
        let reno_rounds = (self.target_inflight() / self.mss).min(RENO_ROUNDS_MAX);
        let is_time =
            now > self.cycle_stamp + self.bw_probe_wait || self.rounds_since_bw_probe >= reno_rounds;
        if is_time {
            self.start_probe_bw_refill();
        }
        is_time
    }

    /// BBRPickProbeWait.
    fn pick_probe_wait(&mut self) {
        self.rounds_since_bw_probe = self.next_random() & 1;
        self.bw_probe_wait =
            Duration::from_secs(2) + Duration::from_millis(u64::from(self.next_random() % 1000));
    }

    /// Marsaglia's xorshift; never 0.
    fn next_random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random >> 8
    }

    /// BBRIsTimeToCruise: there is headroom, and no queue.
    fn is_time_to_cruise(&self, ack: &Ack) -> bool {
        ack.in_flight_after <= self.inflight_with_headroom()
            && ack.in_flight_after <= self.inflight(self.max_bw(), 100)
    }

    /// BBRIsTimeToGoDown: the bandwidth found is used in full.
    fn is_time_to_go_down(&mut self, ack: &Ack, sample: &RateSample) -> bool {
        if self.is_limited_by_longterm(ack) {
            self.reset_full_bw(sample.bytes_per_second());
            return false;
        }
        self.full_bw_now
    }

    // ---- ProbeRTT

    /// BBRUpdateMinRTT.
    fn update_min_rtt(&mut self, ack: &Ack) {
        self.probe_rtt_expired = ack.now > self.probe_rtt_min_stamp + PROBE_RTT_INTERVAL;
        let is_news = |rtt: &Duration| {
            self.probe_rtt_expired || self.probe_rtt_min_delay.is_none_or(|least| *rtt < least)
        };
        if let Some(rtt) = ack.rtt.filter(is_news) {
            self.probe_rtt_min_delay = Some(rtt);
            self.probe_rtt_min_stamp = ack.now;
        }
        let Some(least) = self.probe_rtt_min_delay else { return };
        let has_expired = ack.now > self.min_rtt_stamp + MIN_RTT_FILTER_LEN;
        if has_expired || self.min_rtt.is_none_or(|min_rtt| least < min_rtt) {
            self.min_rtt = Some(least);
            self.min_rtt_stamp = self.probe_rtt_min_stamp;
        }
    }

    /// BBRCheckProbeRTT.
    fn check_probe_rtt(&mut self, ack: &Ack) {
        if self.state != State::ProbeRtt && self.probe_rtt_expired && !self.idle_restart {
            self.save_cwnd();
            self.state = State::ProbeRtt;
            self.probe_rtt_done_stamp = None;
            self.ack_phase = AckPhase::ProbeStopping;
            self.start_round();
            self.limited.0 = self.delivered;
        }
        if self.state == State::ProbeRtt {
            self.handle_probe_rtt(ack);
        }
        if ack.delivered_bytes > 0 {
            self.idle_restart = false;
        }
    }

    /// BBRHandleProbeRTT.
    fn handle_probe_rtt(&mut self, ack: &Ack) {
        self.limited.1 = self.delivered + u64::from(ack.in_flight_after);
        if self.probe_rtt_done_stamp.is_none() {
            if ack.in_flight_after <= self.probe_rtt_cwnd() {
                self.probe_rtt_done_stamp = Some(ack.now + PROBE_RTT_DURATION);
                self.probe_rtt_round_done = false;
                self.start_round();
            }
        } else {
            self.probe_rtt_round_done |= self.round_start;
            if self.probe_rtt_round_done {
                self.check_probe_rtt_done(ack.now);
            }
        }
    }

    /// BBRCheckProbeRTTDone.
    fn check_probe_rtt_done(&mut self, now: Instant) {
        if self.probe_rtt_done_stamp.is_none_or(|done| now <= done) {
            return;
        }
        self.probe_rtt_min_stamp = now;
        self.restore_cwnd();
        self.reset_shortterm_model();
        if self.full_bw_reached {
            self.start_probe_bw_down(now);
            self.state = State::Cruise;
        } else {
            self.state = State::Startup;
        }
    }

    // ---- recovery

    /// What was before the first loss of an episode.
    fn save_undo(&mut self) {
        if !core::mem::replace(&mut self.has_losses, true) {
            self.undo = Some(Undo {
                state: self.state,
                bw_shortterm: self.bw_shortterm,
                inflight_shortterm: self.inflight_shortterm,
                inflight_longterm: self.inflight_longterm,
            });
        }
    }

    /// Losses are repaired, or were none.
    fn leave_recovery(&mut self) {
        if core::mem::take(&mut self.in_recovery) {
            self.restore_cwnd();
        }
        self.timeout_recovers_at = 0;
    }
}

impl CongestionControl for Bbr {
    fn name(&self) -> &'static str {
        "bbr"
    }

    fn on_established(&mut self, now: Instant, mss: u32) {
        self.mss = mss.max(1);
        self.cwnd = if self.handshake_loss { self.mss } else { initial_window(self.mss) };
        self.min_rtt_stamp = now;
        self.probe_rtt_min_stamp = now;
        self.extra_acked_interval_start = now;
        self.cycle_stamp = now;
        self.init_pacing_rate(None);
    }

    fn on_handshake_loss(&mut self) {
        self.handshake_loss = true;
    }

    fn on_handshake_rtt(&mut self, rtt: Duration) {
        self.init_pacing_rate(Some(rtt));
    }

    fn on_ack(&mut self, ack: &Ack) {
        self.mss = ack.mss.max(1);
        self.delivered = ack.delivered_total;
        self.sent_to = ack.sent_to;
        if self.timeout_recovers_at != 0 && ack.acked_to >= self.timeout_recovers_at {
            self.leave_recovery();
        }
        self.has_losses &= ack.in_recovery || self.in_recovery || ack.lost_bytes > 0;
        let sample = ack.rate.map(|mut sample| {
            let by_probe_rtt = (self.limited.0..=self.limited.1).contains(&sample.prior_delivered);
            sample.is_app_limited |= by_probe_rtt;
            sample
        });
        self.update_model_and_state(ack, sample.as_ref());
        self.update_control_parameters(ack);
    }

    fn on_segment_lost(&mut self, lost: &LostSegment) {
        self.save_undo();
        self.delivered = lost.delivered_total;
        self.handle_lost_segment(lost);
    }

    fn on_loss_event(&mut self, now: Instant, in_flight: u32, kind: LossKind) {
        self.save_undo();
        self.note_loss();
        match kind {
            LossKind::FastRetransmit => {
                self.save_cwnd();
                self.in_recovery = true;
                self.cwnd = self.cwnd.min(in_flight.saturating_add(self.mss)).max(self.mss);
            }
            LossKind::Ecn => {
                if self.bw_probe_samples {
                    self.handle_inflight_too_high(now, in_flight, false);
                }
            }
        }
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        self.leave_recovery();
    }

    fn on_timeout(&mut self, _now: Instant, _in_flight: u32) {
        self.save_undo();
        self.note_loss();
        if self.timeout_recovers_at == 0 {
            self.save_cwnd();
        }
        self.in_recovery = true;
        self.timeout_recovers_at = self.sent_to.max(1);
        self.cwnd = self.mss;
    }

    fn on_idle_restart(&mut self, now: Instant) {
        // BBRHandleRestartFromIdle: the window says what the path takes, and pacing keeps it from being a burst.
        self.idle_restart = true;
        self.extra_acked_interval_start = now;
        if self.is_in_probe_bw() {
            self.set_pacing_rate_with_gain(100);
        } else if self.state == State::ProbeRtt {
            self.check_probe_rtt_done(now);
        }
    }

    fn undo(&mut self, now: Instant) {
        let Some(undo) = self.undo.take() else { return };
        self.leave_recovery();
        self.loss_in_round = false;
        self.reset_full_bw(0);
        self.bw_shortterm = self.bw_shortterm.max(undo.bw_shortterm);
        self.inflight_shortterm = self.inflight_shortterm.max(undo.inflight_shortterm);
        self.inflight_longterm = self.inflight_longterm.max(undo.inflight_longterm);
        if self.state != State::ProbeRtt && self.state != undo.state {
            match undo.state {
                State::Startup => {
                    self.state = State::Startup;
                    self.full_bw_reached = false;
                }
                State::Up => {
                    self.cycle_stamp = now;
                    self.start_probe_bw_up(self.bw_latest);
                }
                _ => {}
            }
        }
    }

    fn cwnd(&self) -> u32 {
        self.cwnd
    }

    fn ssthresh(&self) -> u32 {
        u32::MAX
    }

    fn pacing_rate(&self) -> Option<u64> {
        Some(self.pacing_rate)
    }

    fn controls_recovery(&self) -> bool {
        true
    }

    fn in_slow_start(&self) -> bool {
        self.state == State::Startup
    }
}
