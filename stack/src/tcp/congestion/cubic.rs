//! CUBIC (RFC 9438): after a reduction the window grows as a cubic function of time towards where it was and beyond, and
//! at least as Reno's would; slow start is HyStart++'s (`hystart`). Fast convergence is always on, as in Linux. ECN
//! reduces as loss does: the milder factor of RFC 8511 is an experiment that RFC 9438 did not take over.

use super::hystart::HyStart;
use super::{Ack, CWND_MAX, CongestionControl, LossKind, initial_window};
use crate::time::{Duration, Instant};

/// C, segments per second cubed (section 5.1).
const C: f64 = 0.4;
/// The multiplicative decrease factor (section 4.6).
const BETA: f64 = 0.7;
/// Segments a round trip that a window reduced by [`BETA`] must grow by to keep up with Reno's (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// CUBIC's state. Windows in bytes.
#[derive(Clone, Debug)]
pub struct Cubic {
    cwnd: u32,
    ssthresh: u32,
    mss: u32,
    /// What `cwnd` grew by beyond whole bytes, 0 <= `fraction` <= 1.
    fraction: f32,
    curve: Curve,
    hystart: HyStart,
    /// When the last ACK came: time until the next is not counted in the epoch if that one is application-limited.
    last_ack_at: Instant,
    saved: Option<Box<Saved>>,
    /// The last ACK found the window not made use of.
    is_app_limited: bool,
    is_paced: bool,
    handshake_loss: bool,
    /// A timeout happened and nothing was acknowledged since: further ones keep `ssthresh` (RFC 5681 section 3.1).
    timed_out: bool,
    /// Slow start goes back to where a timeout struck: ACKs may cover data that left the network long before, so
    /// each counts as one segment at most (RFC 3465 section 2.3).
    after_timeout: bool,
}

/// The growth function between two congestion events (section 4.1.2). 0 in `w_max`: it is `cwnd` at the beginning of
/// the next stage, as after a timeout or a slow start without loss (sections 4.8 and 4.10).
#[derive(Clone, Copy, Debug, Default)]
struct Curve {
    /// When the present congestion avoidance stage began, pushed back by the time in which the application limited the
    /// window; not meaningful unless `has_begun`.
    epoch: Instant,
    /// W_est.
    w_est: f64,
    w_max: u32,
    cwnd_prior: u32,
    /// K, seconds.
    k: f32,
    /// The stage began.
    has_begun: bool,
}

/// What a congestion event changes, for `undo` (section 4.9.2).
#[derive(Clone, Copy, Debug)]
struct Saved {
    curve: Curve,
    cwnd: u32,
    ssthresh: u32,
}

impl Curve {
    /// Begins a congestion avoidance stage with a window of `cwnd` (section 4.2, Figure 2).
    fn begin(&mut self, now: Instant, cwnd: u32, mss: u32) {
        if self.w_max == 0 {
            self.cwnd_prior = self.cwnd_prior.max(cwnd);
        }
        if self.w_max <= cwnd {
            self.w_max = cwnd;
        }
        self.k = (f64::from(self.w_max - cwnd) / f64::from(mss) / C).cbrt() as f32;
        self.epoch = now;
        self.w_est = f64::from(cwnd);
        self.has_begun = true;
    }

    /// W_cubic, `t` after the stage began (section 4.2, Figure 1).
    fn w_cubic(&self, t: Duration, mss: u32) -> f64 {
        let from_k = t.as_secs_f64() - f64::from(self.k);
        f64::from(mss) * C * from_k * from_k * from_k + f64::from(self.w_max)
    }

    /// Grows W_est by an ACK of `acked` bytes (section 4.3, Figure 4).
    fn grow_w_est(&mut self, acked: u32, cwnd: u32, mss: u32) {
        let alpha = if self.w_est >= f64::from(self.cwnd_prior) { 1.0 } else { ALPHA };
        let windows = f64::from(acked) / f64::from(cwnd);
        self.w_est = (self.w_est + alpha * windows * f64::from(mss)).min(f64::from(CWND_MAX));
    }

    /// Fast convergence (section 4.7) for a reduction from `window`.
    fn reduce_w_max(&mut self, window: u32) {
        let give_up = window < self.w_max;
        self.w_max =
            if give_up { (f64::from(window) * (1.0 + BETA) / 2.0).round() as u32 } else { window }.max(1);
        self.has_begun = false;
    }
}

impl Cubic {
    /// State of a connection not yet established, as if its segments had 536 bytes (RFC 9293 section 3.7.1).
    #[must_use]
    pub fn new() -> Self {
        Self {
            cwnd: initial_window(536),
            ssthresh: u32::MAX,
            mss: 536,
            fraction: 0.0,
            curve: Curve::default(),
            hystart: HyStart::new(),
            last_ack_at: Instant::ZERO,
            saved: None,
            is_app_limited: false,
            is_paced: false,
            handshake_loss: false,
            timed_out: false,
            after_timeout: false,
        }
    }

    /// Bursts are spread out by pacing, so that ACKs of any size count in full in slow start (RFC 9406 section 4.3's L).
    pub fn set_paced(&mut self, is_paced: bool) {
        self.is_paced = is_paced;
    }

    /// Returns what of the ACK is left over when `ssthresh` is reached.
    fn slow_start(&mut self, ack: &Ack) -> u32 {
        let is_initial = self.ssthresh == u32::MAX;
        let growth = if is_initial {
            self.hystart.growth(ack.acked_bytes, self.mss.saturating_mul(ack.acks.max(1)), self.is_paced)
        } else if self.after_timeout {
            ack.acked_bytes.min(self.mss.saturating_mul(ack.acks.max(1)))
        } else {
            ack.acked_bytes
        };
        let grown = self.cwnd.saturating_add(growth).min(self.ssthresh).min(CWND_MAX);
        let rest = growth - (grown - self.cwnd);
        self.cwnd = grown;
        if is_initial { 0 } else { rest }
    }

    /// Ends the initial slow start once round trips got longer (RFC 9406), loss or no loss.
    fn watch_delay(&mut self, ack: &Ack) {
        if self.hystart.on_ack(ack.acked_to, ack.sent_to, ack.rtt, ack.acks) {
            self.ssthresh = self.cwnd;
            self.curve = Curve { cwnd_prior: self.cwnd, ..Curve::default() };
        }
    }

    /// Sections 4.2 to 4.5.
    fn congestion_avoidance(&mut self, ack: &Ack, acked: u32) {
        if !self.curve.has_begun {
            self.curve.begin(ack.now, self.cwnd, self.mss);
        }
        let acked = acked.min(self.cwnd);
        self.curve.grow_w_est(acked, self.cwnd, self.mss);
        let t = ack.now.saturating_since(self.curve.epoch);
        let cwnd = f64::from(self.cwnd);
        if self.curve.w_cubic(t, self.mss) < self.curve.w_est {
            self.grow(self.curve.w_est - cwnd - f64::from(self.fraction));
        } else {
            let target =
                self.curve.w_cubic(t + ack.srtt.unwrap_or_default(), self.mss).clamp(cwnd, 1.5 * cwnd);
            self.grow((target - cwnd) * f64::from(acked) / cwnd);
        }
    }

    /// Grows `cwnd` by `bytes`, if they are more than 0, and keeps the fraction.
    fn grow(&mut self, bytes: f64) {
        let grown = bytes.max(0.0) + f64::from(self.fraction);
        self.cwnd = self.cwnd.saturating_add(grown as u32).min(CWND_MAX);
        self.fraction = grown.fract() as f32;
    }

    /// The window in use: section 4.6 reduces the flight size because `cwnd` may not be filled. When it is, `cwnd` is
    /// the better measure: the flight size varies with how ACKs are merged and with the recovery just past.
    fn used_window(&self, in_flight: u32) -> u32 {
        if self.is_app_limited { in_flight.min(self.cwnd) } else { self.cwnd }
    }

    /// Section 4.6, Figure 5, with 4.7; leaves `cwnd` to the caller. Returns `ssthresh` before its lower bound.
    fn reduce(&mut self, in_flight: u32) -> u32 {
        self.saved = Some(Box::new(Saved { curve: self.curve, cwnd: self.cwnd, ssthresh: self.ssthresh }));
        let used = self.used_window(in_flight);
        self.curve.cwnd_prior = self.cwnd;
        self.curve.reduce_w_max(used);
        let reduced = (f64::from(used) * BETA).round() as u32;
        self.ssthresh = reduced.max(2 * self.mss);
        self.fraction = 0.0;
        reduced
    }
}

impl Default for Cubic {
    fn default() -> Self {
        Self::new()
    }
}

impl CongestionControl for Cubic {
    fn name(&self) -> &'static str {
        "cubic"
    }

    fn on_established(&mut self, now: Instant, mss: u32) {
        self.mss = mss.max(1);
        self.cwnd = if self.handshake_loss { self.mss } else { initial_window(self.mss) };
        self.last_ack_at = now;
    }

    fn on_handshake_loss(&mut self) {
        self.handshake_loss = true;
    }

    fn on_ack(&mut self, ack: &Ack) {
        self.mss = ack.mss.max(1);
        self.cwnd = self.cwnd.max(self.mss);
        let since_last = ack.now.saturating_since(core::mem::replace(&mut self.last_ack_at, ack.now));
        self.is_app_limited = ack.is_app_limited;
        if ack.is_app_limited {
            // Section 5.8.
            self.curve.epoch += since_last;
        }
        if ack.acked_bytes == 0 {
            return;
        }
        self.timed_out = false;
        let grows = !ack.in_recovery && !ack.is_app_limited;
        let rest = match (grows, self.in_slow_start()) {
            (true, true) => self.slow_start(ack),
            (true, false) => ack.acked_bytes,
            (false, _) => 0,
        };
        if self.ssthresh == u32::MAX && !ack.in_recovery {
            self.watch_delay(ack);
        }
        if !self.in_slow_start() {
            self.after_timeout = false;
            if rest > 0 {
                self.congestion_avoidance(ack, rest);
            }
        }
    }

    fn on_loss_event(&mut self, _now: Instant, in_flight: u32, kind: LossKind) {
        let reduced = self.reduce(in_flight);
        let least = match kind {
            LossKind::FastRetransmit => 2 * self.mss,
            LossKind::Ecn => self.mss,
        };
        self.cwnd = reduced.max(least);
        self.after_timeout = false;
    }

    fn on_recovery_exit(&mut self, _now: Instant) {
        // A timeout in between has left a smaller window.
        self.cwnd = self.cwnd.min(self.ssthresh);
    }

    fn on_timeout(&mut self, _now: Instant, in_flight: u32) {
        if !self.timed_out {
            self.reduce(in_flight);
        }
        // Section 4.8: the next stage starts from its own window.
        (self.curve.w_max, self.curve.has_begun) = (0, false);
        self.cwnd = self.mss;
        self.fraction = 0.0;
        (self.timed_out, self.after_timeout) = (true, true);
    }

    fn on_idle_restart(&mut self, now: Instant) {
        // RFC 5681 section 4.1. Slow start then goes up to three quarters of the window as it was, like Linux's.
        let restart = initial_window(self.mss);
        if self.cwnd > restart {
            if self.ssthresh != u32::MAX {
                self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
            }
            (self.cwnd, self.fraction) = (restart, 0.0);
            self.curve.has_begun = false;
        } else {
            self.curve.epoch += now.saturating_since(self.last_ack_at);
        }
        self.last_ack_at = now;
    }

    fn undo(&mut self, _now: Instant) {
        let Some(saved) = self.saved.take() else { return };
        (self.timed_out, self.after_timeout) = (false, false);
        if self.cwnd < saved.cwnd {
            (self.cwnd, self.fraction) = (saved.cwnd, 0.0);
            self.ssthresh = saved.ssthresh;
            self.curve = saved.curve;
            self.hystart = HyStart::new();
        }
    }

    fn cwnd(&self) -> u32 {
        self.cwnd
    }

    fn ssthresh(&self) -> u32 {
        self.ssthresh
    }

    fn pacing_rate(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests;
