//! A connection's deadlines and what happens at each. All of them share one entry of the engine's wheel, set for the
//! earliest; it is moved only to become earlier, and when it fires the connection looks at its real deadlines.

use super::State;
use super::connection::{Connection, Context, timestamp};
use crate::limits;
use crate::time::{Duration, Instant};
use crate::timer_wheel::TimerId;

/// How long a segment held back for silly windows (RFC 9293 section 3.8.6.2.1 (4): 0.1 to 1 s) or by cork waits: the
/// retransmission timeout, as in Linux, between these.
const OVERRIDE_MIN: Duration = Duration::from_millis(200);
const OVERRIDE_MAX: Duration = Duration::from_secs(1);

/// Probes of a closed window in a row that must be without answer before the peer can count as gone.
const UNANSWERED_PROBES: u8 = 3;

/// When what is due; `None`: not set.
#[derive(Default)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct Timers {
    /// Retransmission, or the probe of a closed window: never both.
    pub(super) retransmit: Option<Instant>,
    /// The tail is probed (RFC 8985 section 7.2).
    pub(super) probe: Option<Instant>,
    /// A segment that others overtook counts as lost (RFC 8985 section 6.2 step 5).
    pub(super) reorder: Option<Instant>,
    /// The next segment may go: what is sent is paced.
    pub(super) pace: Option<Instant>,
    /// A partial segment that was held back goes.
    pub(super) hold: Option<Instant>,
    pub(super) delayed_ack: Option<Instant>,
    pub(super) keepalive: Option<Instant>,
    /// End of linger, or of waiting for the FIN of a peer when nobody here does.
    pub(super) death: Option<Instant>,
    /// The entry in the wheel and when it fires.
    pub(super) armed: Option<(TimerId, Instant)>,
}

impl Timers {
    pub(super) fn earliest(&self) -> Option<Instant> {
        let Self { retransmit, probe, reorder, pace, hold, delayed_ack, keepalive, death, .. } = *self;
        // Without branches: this runs after everything that happens to a connection.
        let deadlines = [retransmit, probe, reorder, pace, hold, delayed_ack, keepalive, death];
        let nanos = deadlines.map(|deadline| deadline.map_or(u64::MAX, Instant::as_nanos));
        let earliest = nanos.into_iter().fold(u64::MAX, u64::min);
        (earliest < u64::MAX).then(|| Instant::from_nanos(earliest))
    }
}

impl Connection {
    /// Acts on all deadlines that have passed.
    pub(super) fn fire_timers(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.timers.death) {
            return self.die(cx);
        }
        if due(self.timers.delayed_ack) {
            self.timers.delayed_ack = None;
            self.delayed_ack_is_due();
        }
        if due(self.timers.hold) {
            self.timers.hold = None;
            self.override_due = true;
            // Nothing more came in time.
            self.more = false;
        }
        if due(self.timers.keepalive) {
            self.timers.keepalive = None;
            self.keepalive_is_due(cx);
        }
        if due(self.timers.pace) {
            self.timers.pace = None;
        }
        if due(self.timers.reorder) {
            self.timers.reorder = None;
            self.reordering_is_due(cx);
        }
        if due(self.timers.probe) {
            self.timers.probe = None;
            self.probe_is_due(now);
        } else if due(self.timers.retransmit) {
            self.timers.retransmit = None;
            self.retransmit_is_due(cx);
        }
    }

    /// Sets the timers that the state asks for and stops those it does not. Called after everything that may change it.
    /// `sends`: data is known to go next, so that nothing is held back.
    /// RFC 8985 section 8.
    #[inline]
    pub(super) fn refresh_timers(&mut self, now: Instant, sends: bool) {
        if self.state.is_over() {
            return;
        }
        if !self.syn_acked() || self.outstanding() > 0 || self.is_window_closed() {
            if self.timers.retransmit.is_none() {
                if self.outstanding() == 0 && self.syn_acked() {
                    self.progress_at = now;
                }
                self.restart_retransmit_timer(now);
            }
        } else {
            self.timers.retransmit = None;
        }
        if self.outstanding() == 0 {
            self.timers.reorder = None;
        }
        self.refresh_probe_timer(now);
        if sends || !self.is_holding_back() {
            self.timers.hold = None;
        } else if self.timers.hold.is_none() {
            self.timers.hold = Some(now + self.rtt.base_rto().clamp(OVERRIDE_MIN, OVERRIDE_MAX));
        }
        self.refresh_keepalive(now);
    }

    /// Starts the retransmission timer afresh if something is outstanding (RFC 6298 sections 5.1 to 5.3), the timer for
    /// probes if the window is closed (RFC 9293 section 3.8.6.1), or stops it.
    pub(super) fn restart_retransmit_timer(&mut self, now: Instant) {
        let deadline = if self.is_window_closed() {
            now + self.probe_interval()
        } else if self.outstanding() > 0 || !self.syn_acked() {
            self.retransmission_deadline(now)
        } else {
            self.timers.retransmit = None;
            return;
        };
        self.set_retransmit_timer(now, deadline);
    }

    /// Sets the timer to `deadline`, or to the end of the user timeout: that is met to the millisecond.
    #[inline]
    pub(super) fn set_retransmit_timer(&mut self, now: Instant, deadline: Instant) {
        let limit = self.options.user_timeout.map(|limit| (self.progress_at + limit).max(now));
        self.timers.retransmit = Some(limit.map_or(deadline, |limit| deadline.min(limit)));
    }

    /// The first probe after the retransmission timeout, the others at ever longer intervals (RFC 9293 section 3.8.6.1).
    /// RFC 9293 section 3.8.6.1, MUST-35, MUST-36, SHLD-29, SHLD-30.
    fn probe_interval(&self) -> Duration {
        let interval = self.rtt.base_rto() * (1 << self.probes.min(20));
        interval.min(self.rtt.max_rto())
    }

    fn retransmit_is_due(&mut self, cx: &mut Context<'_>) {
        let stalled = cx.now - self.progress_at;
        if !self.syn_acked() {
            return self.syn_is_due(stalled, cx);
        }
        if self.is_window_closed() {
            return self.window_probe_is_due(stalled, cx);
        }
        if self.outstanding() == 0 {
            return;
        }
        if self.snd_wnd == 0 && !self.is_peer_gone(stalled, cx) {
            // The peer took back its window: what it dropped is what probes it.
            return self.enter_loss(cx);
        }
        // An RTO beyond the limit still gets its one retransmission, as in Linux; the user's limit is met exactly.
        let tried = self.retransmits > 0 || self.options.user_timeout.is_some();
        if tried && stalled >= self.patience(cx.config) {
            return self.time_out(cx);
        }
        self.enter_loss(cx);
    }

    /// RFC 9293 section 3.8.3 for SYNs.
    /// RFC 9293 section 3.8.3, MUST-22.
    fn syn_is_due(&mut self, stalled: Duration, cx: &mut Context<'_>) {
        let retries = match self.state {
            State::SynSent => self.options.syn_count.unwrap_or(cx.config.syn_retries),
            _ => cx.config.syn_ack_retries,
        };
        if self.retransmits >= retries || self.options.user_timeout.is_some_and(|limit| stalled >= limit) {
            return self.time_out(cx);
        }
        cx.counters.tcp_timeouts += 1;
        self.note_timeout(cx.now);
        self.timed_out_ms = timestamp(cx.now, 0);
        self.retransmits += 1;
        self.note_unanswered();
        self.ecn.note_syn_lost(self.retransmits);
        if self.state != State::SynSent || self.retransmits > cx.config.syn_linear_timeouts {
            self.rtt.back_off();
        }
        self.syn_sent_at = None;
        self.syn_due = true;
        self.restart_retransmit_timer(cx.now);
        if self.state == State::SynSent && self.retransmits == retries {
            // The wait after the last one need not be twice the one before.
            let end = (self.progress_at + cx.config.syn_give_up_after).max(cx.now + self.rtt.base_rto());
            self.timers.retransmit = self.timers.retransmit.map(|deadline| deadline.min(end));
        }
    }

    /// The window is closed. The connection stays open as long as the peer answers the probes (RFC 9293 section 3.8.6.1,
    /// MUST-37); but the user may limit that, and when nobody is left to care it ends (RFC 9293's note on resources there).
    /// RFC 9293 section 3.8.6, SHLD-17.
    fn window_probe_is_due(&mut self, stalled: Duration, cx: &mut Context<'_>) {
        if self.is_peer_gone(stalled, cx) {
            return self.time_out(cx);
        }
        self.retransmits = self.retransmits.saturating_add(1);
        self.note_unanswered();
        self.probes = self.probes.saturating_add(1);
        self.probe_due = true;
        self.restart_retransmit_timer(cx.now);
    }

    /// With R1 retransmissions in vain, and each further one, IP is to be told (RFC 9293 section 3.8.3 (b)): with the next segment.
    /// RFC 9293 section 3.8.3, MUST-20, SHLD-10.
    pub(super) fn note_unanswered(&mut self) {
        if self.retransmits >= limits::TCP_R1 {
            self.cold_mut().advises_ip = true;
        }
    }

    /// Whether IP is to be told now.
    pub(super) fn take_advice(&mut self) -> bool {
        self.cold().is_some_and(|cold| cold.advises_ip) && core::mem::take(&mut self.cold_mut().advises_ip)
    }

    /// Whether the peer with its closed window is to be given up.
    fn is_peer_gone(&self, stalled: Duration, cx: &Context<'_>) -> bool {
        let silent = cx.now - self.last_heard.max(self.progress_at);
        let limit = self.options.user_timeout.or(self.orphan.then_some(cx.config.give_up_after));
        // The interval between probes may be longer than the patience: one lost probe or answer proves nothing.
        let unanswered = self.retransmits >= UNANSWERED_PROBES && silent >= self.patience(cx.config);
        unanswered || limit.is_some_and(|limit| stalled >= limit)
    }

    /// An orphan's time is over. Whoever waits for a FIN that does not come is forgotten, as in Linux; what was not
    /// delivered in the time of linger is reset.
    fn die(&mut self, cx: &mut Context<'_>) {
        if self.state != State::FinWait2 {
            let reset = self.reset(cx.now);
            cx.replies.push(reset, cx.counters);
        }
        self.finish(Some(super::TcpError::ConnectionAborted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_is_found_wherever_it_is() {
        assert_eq!(Timers::default().earliest(), None);
        let (soon, later) = (Some(Instant::from_millis(1)), Some(Instant::from_millis(2)));
        let all = || Timers {
            retransmit: later,
            probe: later,
            reorder: later,
            pace: later,
            hold: later,
            delayed_ack: later,
            keepalive: later,
            death: later,
            armed: None,
        };
        for timers in [
            Timers { retransmit: soon, ..all() },
            Timers { probe: soon, ..all() },
            Timers { reorder: soon, ..all() },
            Timers { pace: soon, ..all() },
            Timers { hold: soon, ..all() },
            Timers { delayed_ack: soon, ..all() },
            Timers { keepalive: soon, ..all() },
            Timers { death: soon, ..all() },
        ] {
            assert_eq!(timers.earliest(), soon);
        }
    }
}
