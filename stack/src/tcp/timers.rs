//! What time does to a connection: retransmission (RFC 6298 section 5), zero-window probes (RFC 9293 section 3.8.6.1),
//! delayed ACKs, keepalive (RFC 9293 section 3.8.4), the user timeout (RFC 5482), and the ends of waits.

use super::TcpError;
use super::connection::{Connection, NEVER};
use super::input::Env;
use super::state::State;

impl Connection {
    /// Acts on every deadline that is over.
    pub fn on_time(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        if self.delayed_ack_at <= now {
            self.delayed_ack_at = NEVER;
            self.marks.ack_now = true;
        }
        if self.hold_at <= now {
            self.hold_at = NEVER;
            self.marks.push_partial = true;
        }
        if self.retransmit_at <= now {
            if self.persisting {
                self.on_persist_time(env);
            } else {
                self.on_retransmission_time(env);
            }
        }
        if self.keepalive_at <= now {
            self.on_keepalive_time(env);
        }
        if self.linger_at <= now {
            self.on_linger_time(env);
        }
    }

    fn on_retransmission_time(&mut self, env: &mut Env<'_>) {
        let tries = match self.state {
            State::SynSent | State::SynReceived => env.config.syn_retries,
            _ if self.marks.orphan => env.config.orphan_retries,
            _ => env.config.retries,
        };
        // A peer that shrank its window to nothing but answers is alive (RFC 9293 section 3.8.6.1).
        let probing = self.snd_wnd == 0 && self.state.is_synchronized() && self.received_at > self.sent_at;
        if self.retries >= tries && !probing || self.is_user_timeout_over(env) {
            self.give_up(env);
            return;
        }
        self.retries = self.retries.saturating_add(1);
        self.on_retransmission_timeout(env);
    }

    fn on_persist_time(&mut self, env: &mut Env<'_>) {
        // Answers set `retries` to 0, so that only a peer who is silent altogether is given up.
        let tries = if self.marks.orphan { env.config.orphan_retries } else { env.config.retries };
        if self.retries >= tries || self.is_user_timeout_over(env) {
            self.give_up(env);
            return;
        }
        self.retries = self.retries.saturating_add(1);
        self.rtt.back_off();
        self.marks.probe_now = true;
        self.retransmit_at = env.now + self.rtt.rto();
    }

    /// RFC 5482, RFC 9293 section 3.9.1.1's timeout: data has been without progress for too long.
    fn is_user_timeout_over(&self, env: &Env<'_>) -> bool {
        self.options.user_timeout.is_some_and(|limit| env.now - self.progress_at >= limit)
    }

    fn give_up(&mut self, env: &mut Env<'_>) {
        env.counters.tcp_timeout_drops += 1;
        if self.state.is_synchronized() {
            env.replies.reset(&self.key, self.snd_nxt, self.rcv_nxt(), env.counters);
        } else {
            env.counters.tcp_attempt_fails += 1;
        }
        // What ICMP said meanwhile tells more than that time ran out (RFC 9293 section 3.9.2.2).
        let error = self.soft_error.unwrap_or(TcpError::TimedOut);
        self.fail(error);
    }

    fn on_keepalive_time(&mut self, env: &mut Env<'_>) {
        let idle_until = self.received_at + self.options.keepalive_idle;
        let busy = self.snd_una != self.snd_max || !self.unsent.is_empty();
        if busy || self.keepalive_probes == 0 && idle_until > env.now {
            // Data in flight has a timer of its own.
            self.keepalive_at = idle_until.max(env.now + self.options.keepalive_interval);
            return;
        }
        if self.keepalive_probes >= self.options.keepalive_count {
            env.counters.tcp_keepalive_drops += 1;
            env.replies.reset(&self.key, self.snd_nxt, self.rcv_nxt(), env.counters);
            let error = self.soft_error.unwrap_or(TcpError::TimedOut);
            self.fail(error);
            return;
        }
        self.keepalive_probes += 1;
        self.marks.keepalive_now = true;
        self.keepalive_at = env.now + self.options.keepalive_interval;
    }

    /// An orphan's FIN-WAIT-2 ends, or the time it had to deliver what was left.
    fn on_linger_time(&mut self, env: &mut Env<'_>) {
        if self.state != State::FinWait2 {
            env.replies.reset(&self.key, self.snd_nxt, self.rcv_nxt(), env.counters);
        }
        self.fail(TcpError::TimedOut);
    }
}
