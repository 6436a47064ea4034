//! What BBR's model means for sending: the pacing rate, the quantum of a burst and the window.

use super::{Bbr, INFINITY, State};
use crate::tcp::congestion::{Ack, CWND_MAX, initial_window, pacing};
use crate::time::Duration;

/// PacingMarginPercent: pacing stays this far below the estimate, so that queues drain.
const PACING_MARGIN_PERCENT: u64 = 1;
/// StartupPacingGain, percent.
const STARTUP_PACING_GAIN: u64 = 277;
/// DefaultCwndGain, percent.
const DEFAULT_CWND_GAIN: u64 = 200;
/// ProbeRTTCwndGain, percent.
const PROBE_RTT_CWND_GAIN: u64 = 50;
/// Round-trip time that is assumed to pace the first window by.
const NOMINAL_RTT: Duration = Duration::from_millis(1);

impl State {
    /// Percent of the bandwidth to pace at.
    fn pacing_gain(self) -> u64 {
        match self {
            Self::Startup => STARTUP_PACING_GAIN,
            Self::Drain => 50,
            Self::Down => 90,
            Self::Cruise | Self::Refill | Self::ProbeRtt => 100,
            Self::Up => 125,
        }
    }

    /// Percent of the bandwidth-delay product to allow in flight.
    fn cwnd_gain(self) -> u64 {
        match self {
            Self::Up => 225,
            Self::ProbeRtt => PROBE_RTT_CWND_GAIN,
            _ => DEFAULT_CWND_GAIN,
        }
    }
}

impl Bbr {
    /// BBRUpdateControlParameters.
    pub(super) fn update_control_parameters(&mut self, ack: &Ack) {
        if !self.has_seen_rtt && ack.srtt.is_some() {
            self.init_pacing_rate(ack.srtt);
        }
        self.set_pacing_rate_with_gain(self.state.pacing_gain());
        self.set_cwnd(ack);
    }

    /// BBRInitPacingRate. Neither this rate nor a later one is below a segment a second, which a timeout would beat.
    pub(super) fn init_pacing_rate(&mut self, srtt: Option<Duration>) {
        self.has_seen_rtt |= srtt.is_some();
        let micros = srtt.unwrap_or(NOMINAL_RTT).as_micros().max(1);
        let nominal = u128::from(self.cwnd) * 1_000_000 / micros;
        self.pacing_rate =
            ((nominal * u128::from(STARTUP_PACING_GAIN) / 100) as u64).max(u64::from(self.mss));
    }

    /// BBRSetPacingRateWithGain.
    pub(super) fn set_pacing_rate_with_gain(&mut self, gain: u64) {
        let rate = u128::from(self.bw) * u128::from(gain) * u128::from(100 - PACING_MARGIN_PERCENT) / 10_000;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX).max(u64::from(self.mss));
        if self.full_bw_reached || rate > self.pacing_rate {
            self.pacing_rate = rate;
        }
    }

    /// BBRSetSendQuantum.
    fn send_quantum(&self) -> u32 {
        pacing::quantum(self.pacing_rate, self.mss)
    }

    /// MinPipeCwnd: enough to keep ACKs coming.
    pub(super) fn min_pipe_cwnd(&self) -> u32 {
        self.mss.saturating_mul(4)
    }

    /// BBRBDPMultiple of `bw`: `gain` percent of the bandwidth-delay product.
    pub(super) fn bdp_multiple(&self, bw: u64, gain: u64) -> u32 {
        let Some(min_rtt) = self.min_rtt else { return initial_window(self.mss) };
        let bdp = u128::from(bw).saturating_mul(min_rtt.as_nanos()) / 1_000_000_000;
        let bytes = bdp.saturating_mul(u128::from(gain)) / 100;
        u32::try_from(bytes).unwrap_or(CWND_MAX).min(CWND_MAX)
    }

    /// BBRQuantizationBudget: room for bursts of sending and receiving hosts.
    fn quantization_budget(&self, inflight_cap: u32) -> u32 {
        let cap = inflight_cap.max(self.send_quantum().saturating_mul(3)).max(self.min_pipe_cwnd());
        if self.state == State::Up { cap.saturating_add(2 * self.mss) } else { cap }
    }

    /// BBRInflight.
    pub(super) fn inflight(&self, bw: u64, gain: u64) -> u32 {
        self.quantization_budget(self.bdp_multiple(bw, gain))
    }

    /// BBRTargetInflight.
    pub(super) fn target_inflight(&self) -> u32 {
        self.bdp_multiple(self.bw, 100).min(self.cwnd)
    }

    /// BBRProbeRTTCwnd.
    pub(super) fn probe_rtt_cwnd(&self) -> u32 {
        self.bdp_multiple(self.bw, PROBE_RTT_CWND_GAIN).max(self.min_pipe_cwnd())
    }

    /// BBRSetCwnd, with BBRUpdateMaxInflight and BBRModulateCwndForRecovery.
    fn set_cwnd(&mut self, ack: &Ack) {
        let cap = self.bdp_multiple(self.bw, self.state.cwnd_gain()).saturating_add(self.extra_acked.get());
        let max_inflight = self.quantization_budget(cap);
        if ack.lost_bytes > 0 {
            self.cwnd = self.cwnd.saturating_sub(ack.lost_bytes).max(self.mss);
        }
        let grown = self.cwnd.saturating_add(ack.delivered_bytes);
        if self.full_bw_reached {
            self.cwnd = grown.min(max_inflight);
        } else if self.cwnd < max_inflight || self.delivered < u64::from(initial_window(self.mss)) {
            self.cwnd = grown;
        }
        self.cwnd = self.cwnd.max(self.min_pipe_cwnd()).min(CWND_MAX);
        if self.state == State::ProbeRtt {
            self.cwnd = self.cwnd.min(self.probe_rtt_cwnd());
        }
        self.bound_cwnd_for_model();
    }

    /// BBRBoundCwndForModel.
    fn bound_cwnd_for_model(&mut self) {
        let cap = match self.state {
            State::Down | State::Refill | State::Up => self.inflight_longterm,
            State::ProbeRtt | State::Cruise => self.inflight_with_headroom(),
            State::Startup | State::Drain => INFINITY,
        };
        self.cwnd = self.cwnd.min(cap.min(self.inflight_shortterm).max(self.min_pipe_cwnd()));
    }

    /// BBRSaveCwnd.
    pub(super) fn save_cwnd(&mut self) {
        let keeps = self.in_recovery || self.state == State::ProbeRtt;
        self.prior_cwnd = if keeps { self.prior_cwnd.max(self.cwnd) } else { self.cwnd };
    }

    /// BBRRestoreCwnd.
    pub(super) fn restore_cwnd(&mut self) {
        self.cwnd = self.cwnd.max(self.prior_cwnd);
    }
}
