//! What a sender waits for, by time: Linux's chronographs `busy_time`, `rwnd_limited` and `sndbuf_limited`. Told after
//! everything that may change it (`engine::settle`), read by `info`.

use super::connection::Connection;
use crate::time::{Duration, Instant};

/// What the sender is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Sending {
    /// Everything is acknowledged.
    #[default]
    Idle,
    /// Data is outstanding, or waits for the congestion window or the application.
    Busy,
    /// The peer's window holds data back.
    ReceiveWindow,
    /// All that the buffer holds is sent, and the application waits for room in it.
    SendBuffer,
}

/// Times in microseconds.
#[derive(Debug, Default)]
pub(super) struct SendingTimes {
    doing: Sending,
    since: Instant,
    busy: u64,
    receive_window: u64,
    send_buffer: u64,
}

impl SendingTimes {
    fn change(&mut self, now: Instant, doing: Sending) {
        if doing != self.doing {
            *self = self.until(now);
            self.doing = doing;
        }
    }

    /// The sums as of `now`.
    fn until(&self, now: Instant) -> Self {
        let passed = (now - self.since).as_micros() as u64;
        let mut times = Self { since: now, ..*self };
        match self.doing {
            Sending::Idle => {}
            Sending::Busy => times.busy += passed,
            Sending::ReceiveWindow => times.receive_window += passed,
            Sending::SendBuffer => times.send_buffer += passed,
        }
        times
    }

    /// Time busy at all, limited by the peer's window, and by the send buffer.
    pub(super) fn sums(&self, now: Instant) -> [Duration; 3] {
        let times = self.until(now);
        let busy = times.busy + times.receive_window + times.send_buffer;
        [busy, times.receive_window, times.send_buffer].map(Duration::from_micros)
    }
}

impl Connection {
    /// Notes what the sender waits for now.
    pub(super) fn note_sending(&mut self, now: Instant) {
        let unsent = self.unsent();
        let doing = if self.send.is_empty() {
            Sending::Idle
        } else if unsent > 0 && self.window_room() < unsent.min(u32::from(self.mss)) {
            Sending::ReceiveWindow
        } else if unsent == 0 && self.send_waker.is_some() {
            Sending::SendBuffer
        } else {
            Sending::Busy
        };
        if doing != Sending::Idle || self.cold().is_some() {
            self.cold_mut().sending_times.change(now, doing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_counts_once_and_busy_is_all_of_them() {
        let at = Instant::from_millis;
        let ms = Duration::from_millis;
        let mut times = SendingTimes::default();
        times.change(at(100), Sending::Busy);
        times.change(at(110), Sending::ReceiveWindow);
        times.change(at(115), Sending::ReceiveWindow);
        times.change(at(140), Sending::SendBuffer);
        assert_eq!(times.sums(at(145)), [ms(45), ms(30), ms(5)]);
        times.change(at(145), Sending::Idle);
        assert_eq!(times.sums(at(1000)), [ms(45), ms(30), ms(5)]);
    }
}
