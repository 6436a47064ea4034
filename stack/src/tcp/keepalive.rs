//! Keepalive (RFC 9293 section 3.8.4): probes of an idle peer, and giving up when none of several is answered.

use super::connection::{Connection, Context};
use super::{State, TcpError};
use crate::time::Instant;

impl Connection {
    /// Sets or stops the timer as the option and the state ask. It is not moved by traffic: when it fires, the connection
    /// looks how long the peer was silent.
    pub(super) fn refresh_keepalive(&mut self, now: Instant) {
        let wanted = self.options.keepalive
            && !self.orphan
            && matches!(
                self.state,
                State::Established
                    | State::FinWait1
                    | State::FinWait2
                    | State::CloseWait
                    | State::Closing
                    | State::LastAck
            );
        if !wanted {
            self.timers.keepalive = None;
            self.keepalive_probes = 0;
        } else if self.timers.keepalive.is_none() {
            self.timers.keepalive = Some((self.last_heard + self.options.keepalive_idle).max(now));
        }
    }

    pub(super) fn keepalive_is_due(&mut self, cx: &mut Context<'_>) {
        let options = &self.options;
        let silent = cx.now - self.last_heard;
        if silent < options.keepalive_idle {
            self.timers.keepalive = Some(self.last_heard + options.keepalive_idle);
            return;
        }
        if self.has_unfinished_output() {
            // Retransmissions and window probes tell enough (MUST-26).
            self.timers.keepalive = Some(cx.now + options.keepalive_idle);
            return;
        }
        let given_up = match options.user_timeout {
            // As in Linux: the user timeout takes the place of the count.
            Some(limit) => silent >= limit && self.keepalive_probes > 0,
            None => self.keepalive_probes >= options.keepalive_count,
        };
        if given_up {
            cx.counters.tcp_keepalive_drops += 1;
            let reset = self.reset(cx.now);
            cx.replies.push(reset, cx.counters);
            let error = self.cold().and_then(|cold| cold.soft_error);
            return self.finish(Some(error.unwrap_or(TcpError::TimedOut)));
        }
        self.timers.keepalive = Some(cx.now + options.keepalive_interval);
        self.keepalive_probes += 1;
        self.keepalive_due = true;
    }
}
