//! Time passes: the engine's deadlines, those of connections in the wheel, half-open connections and TIME-WAIT.

use super::connection::{Connection, Listed};
use super::engine::Tcp;
use crate::counters::Counters;
use crate::time::Instant;

impl Tcp {
    /// Lets time pass: fires what is due at `now`.
    #[inline]
    pub fn poll_timers(&mut self, now: Instant, counters: &mut Counters) {
        self.hand_over_counters(counters);
        self.wheel.advance(now, &mut self.fired);
        if !self.fired.is_empty() {
            self.fire(now, counters);
        }
        if self.tables.syn_queue.entries.len() > 0 {
            self.expire_half_open(now, counters);
        }
        while let Some(index) = self.tables.time_waits.oldest() {
            if self.tables.time_waits.next_expiry().is_none_or(|expires| expires > now) {
                break;
            }
            self.end_time_wait(index);
        }
    }

    /// Acts on the connections whose timer fired.
    fn fire(&mut self, now: Instant, counters: &mut Counters) {
        let mut fired = core::mem::take(&mut self.fired);
        for index in fired.drain(..) {
            if let Some(connection) = self.tables.connections.get_mut(index) {
                connection.timers.armed = None;
                if connection.listed == Listed::Touched {
                    // What arrived just now may have stopped them.
                    connection.refresh_timers(now, false);
                }
                self.with_connection(now, index, counters, Connection::fire_timers);
            }
        }
        self.fired = fired;
    }

    fn expire_half_open(&mut self, now: Instant, counters: &mut Counters) {
        while let Some(expired) = self.tables.syn_queue.pop_expired(now, &self.config) {
            counters.tcp_timeouts += 1;
            if let Err(index) = expired {
                counters.tcp_attempt_fails += 1;
                self.forget_half_open(index, true);
            }
        }
    }

    /// When [`Tcp::poll_timers`] is next needed; `None`: never. A time that is past, when segments wait for
    /// [`Tcp::transmit`]: should the egress be full, the shard waits for room there instead.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.replies.is_empty()
            || !self.ready.is_empty()
            || !self.touched.is_empty()
            || self.tables.syn_queue.next_pending().is_some()
        {
            return Some(Instant::ZERO);
        }
        let deadlines = [
            self.wheel.next_deadline(),
            self.tables.syn_queue.next_expiry(),
            self.tables.time_waits.next_expiry(),
        ];
        deadlines.into_iter().flatten().min()
    }
}
