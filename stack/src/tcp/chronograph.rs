//! What limited a connection while it had something to send: Linux's chronographs (`tcpi_busy_time` and its two parts).
//! A connection is looked at after everything that happens to it; the time since the last look goes to what limited it
//! then.

use super::connection::Connection;
use crate::time::{Duration, Instant};

/// Bits of a time in [`Chronograph::since_ms`].
const SINCE_BITS: u32 = 30;

/// What limits a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Limit {
    /// It has nothing to send and nothing outstanding.
    Idle,
    /// The path, or the congestion window.
    Path,
    /// The peer's window.
    ReceiveWindow,
    /// The send buffer: the application would write more than fits.
    SendBuffer,
}

/// A connection's times, in milliseconds of the clock (as Linux's ticks): what is shorter counts now and then, so that the
/// sums are right. They wrap after 49 days of being busy, and one limit that lasts 12 days is seen modulo that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chronograph {
    /// When the present limit began, modulo 2^30 (12 days), and in the two upper bits the limit.
    since_ms: u32,
    path_ms: u32,
    receive_window_ms: u32,
    send_buffer_ms: u32,
}

/// The times so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Times {
    pub(super) busy: Duration,
    pub(super) receive_window: Duration,
    pub(super) send_buffer: Duration,
}

impl Chronograph {
    /// From now on, `limit` is what limits.
    pub(super) fn turn(&mut self, now: Instant, limit: Limit) {
        if limit == self.limit() {
            return;
        }
        let mask = (1 << SINCE_BITS) - 1;
        let now_ms = now.as_millis() as u32 & mask;
        let elapsed = now_ms.wrapping_sub(self.since_ms) & mask;
        if let Some(sum) = self.sum() {
            *sum = sum.wrapping_add(elapsed);
        }
        self.since_ms = now_ms | (limit as u32) << SINCE_BITS;
    }

    pub(super) fn times(&self, now: Instant) -> Times {
        let mut current = *self;
        // Adds what has passed since the last look.
        current.turn(now, if self.limit() == Limit::Idle { Limit::Path } else { Limit::Idle });
        let [path, receive_window, send_buffer] =
            [current.path_ms, current.receive_window_ms, current.send_buffer_ms]
                .map(|ms| Duration::from_millis(ms.into()));
        Times { busy: path + receive_window + send_buffer, receive_window, send_buffer }
    }

    fn limit(&self) -> Limit {
        match self.since_ms >> SINCE_BITS {
            0 => Limit::Idle,
            1 => Limit::Path,
            2 => Limit::ReceiveWindow,
            _ => Limit::SendBuffer,
        }
    }

    fn sum(&mut self) -> Option<&mut u32> {
        match self.limit() {
            Limit::Idle => None,
            Limit::Path => Some(&mut self.path_ms),
            Limit::ReceiveWindow => Some(&mut self.receive_window_ms),
            Limit::SendBuffer => Some(&mut self.send_buffer_ms),
        }
    }
}

impl Connection {
    /// What limits it now.
    pub(super) fn limit(&self) -> Limit {
        let unsent = self.unsent();
        if self.state.is_over() || !self.syn_acked() || (unsent == 0 && self.outstanding() == 0) {
            return Limit::Idle;
        }
        let wanted = unsent.min(u32::from(self.mss));
        if unsent > 0 && self.window_room() < wanted && self.congestion_allows(wanted) {
            return Limit::ReceiveWindow;
        }
        if unsent == 0 && self.send_waker.is_some() && self.in_flight() < self.cwnd() {
            return Limit::SendBuffer;
        }
        Limit::Path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_gets_its_time_and_the_present_one_counts_until_now() {
        let at = Instant::from_millis;
        let ms = Duration::from_millis;
        let mut chronograph = Chronograph::default();
        for (time, limit) in [
            (1000, Limit::Path),
            (1010, Limit::ReceiveWindow),
            (1110, Limit::ReceiveWindow),
            (1210, Limit::SendBuffer),
            (1213, Limit::Idle),
            (5000, Limit::Path),
        ] {
            chronograph.turn(at(time), limit);
        }
        let times = Times { busy: ms(220), receive_window: ms(200), send_buffer: ms(3) };
        assert_eq!(chronograph.times(at(5007)), times);
        assert_eq!(chronograph.times(at(5007)), times, "looking changes nothing");
        chronograph.turn(at(5007), Limit::Idle);
        assert_eq!(chronograph.times(at(9000)), times);
    }
}
