//! Buffers that grow with the path: the receive buffer by what the application reads in a round trip (dynamic right-sizing, as
//! in Linux), so that the announced window lets a peer's congestion window double; the send buffer with the congestion window.
//! Windows never shrink by it, and a reader that is slow keeps the buffer small.

use super::connection::Connection;
use super::receive_queue::ReceiveQueue;
use crate::time::{Duration, Instant};

/// Round trip before one was measured.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
/// Least time over which reading is measured: timestamps count milliseconds.
const ROUND_MIN: Duration = Duration::from_millis(1);

/// How fast the application reads.
#[derive(Debug)]
pub(super) struct Tuning {
    /// Bound of the receive buffer now, bytes.
    pub(super) receive_cap: usize,
    /// The round trip that is being measured began.
    round_at: Instant,
    /// Bytes read in it.
    read: usize,
    /// The most bytes read in one.
    most: usize,
}

impl Connection {
    /// The application read `len` bytes.
    pub(super) fn tune_receive_buffer(&mut self, len: usize, now: Instant, pressure: bool) {
        let limit = self.options.receive_buffer_limit();
        let cap = self.receive_cap();
        if cap >= limit || pressure {
            return;
        }
        // Nothing to measure before the first bytes that could not have been sent in one window.
        let is_tuned = self.cold().is_some_and(|cold| cold.tuning.is_some());
        if !is_tuned && self.statistics.bytes_received < (cap / 4) as u64 {
            return;
        }
        let mss = usize::from(self.rcv_mss);
        let rtt = self.rtt.srtt().unwrap_or(UNKNOWN_RTT).max(ROUND_MIN);
        let tuning = self.cold_mut().tuning.get_or_insert_with(|| Tuning {
            receive_cap: cap,
            round_at: now,
            read: 0,
            most: ReceiveQueue::window_max(cap) / 4,
        });
        tuning.read += len;
        if now - tuning.round_at < rtt {
            return;
        }
        if tuning.read > tuning.most {
            // Twice what was read, and as much more as the rate grew: the peer may be in slow start.
            let window = 2 * tuning.read + 16 * mss;
            let growth = window as u64 * (tuning.read - tuning.most) as u64 / tuning.most.max(1) as u64;
            let window =
                window.saturating_add(usize::try_from(growth).unwrap_or(usize::MAX).saturating_mul(2));
            tuning.receive_cap = (window.saturating_add(window / 3)).clamp(tuning.receive_cap, limit);
            tuning.most = tuning.read;
        }
        (tuning.read, tuning.round_at) = (0, now);
    }

    /// Bound of the send buffer, bytes.
    pub(super) fn send_cap(&self) -> usize {
        self.options.send_buffer_for(self.cwnd())
    }
}
