//! How fast the peer's data comes and is read: the receiver's own estimate of the round-trip time and the most that the
//! application took within one (Linux's `tcpi_rcv_rtt` and `tcpi_rcv_space`).

use super::connection::Connection;
use super::seq::SeqNumber;
use crate::time::{Duration, Instant};

/// Oldest echo that counts as a round trip, milliseconds: older ones come from a peer that had nothing to send.
const ECHO_AGE_MAX_MS: u32 = 60_000;

/// A connection's estimates, from the first full segment on. Times are the low 32 bits of microseconds: enough for
/// differences within an hour.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReceiveRate {
    /// Smoothed round-trip time, microseconds; 0 before the first sample.
    rtt_us: u32,
    /// The window that is awaited ends here, since.
    window_end: SeqNumber,
    window_since_us: u32,
    /// The last echo that was taken: each counts once.
    echo: u32,
    /// Most bytes that the application read in one round trip.
    space: u32,
    /// Bytes were read up to here when the present round trip began, at.
    read_to: SeqNumber,
    read_since_us: u32,
}

impl ReceiveRate {
    /// Adds a sample: by an eighth; by windows (`is_bound`) only downwards, as a window may take several round trips.
    fn sample(&mut self, rtt_us: u32, is_bound: bool) {
        let rtt_us = rtt_us.max(1);
        self.rtt_us = match self.rtt_us {
            0 => rtt_us,
            old if is_bound => old.min(rtt_us),
            old => (old - old / 8 + rtt_us / 8).max(1),
        };
    }
}

impl Connection {
    /// The round-trip time as the receiver sees it; zero before the first sample.
    pub(super) fn receive_rtt(&self) -> Duration {
        Duration::from_micros(self.receive_rate().map_or(0, |rate| rate.rtt_us).into())
    }

    /// Most bytes read in one round trip; at first what the peer's initial window may bring, as in Linux.
    pub(super) fn receive_space(&self) -> u32 {
        let initial = || self.rcv_wnd().min(10 * u32::from(self.our_mss()));
        self.receive_rate().map_or_else(initial, |rate| rate.space)
    }

    fn read_to(&self) -> SeqNumber {
        self.rcv_nxt() - self.receive.readable() as u32
    }

    /// Data of `len` bytes arrived, in order or not. With timestamps, a full segment's echo is that of an ACK of ours that let
    /// it be sent: one round trip ago. Without, a window takes at least one round trip to be filled.
    pub(super) fn measure_receive_rtt(&mut self, now: Instant, echo: Option<u32>, len: u32) {
        let is_full = len >= u32::from(self.rcv_mss);
        if self.receive_rate().is_none() && !is_full {
            return;
        }
        let now_us = (now.as_micros() as u32).max(1);
        let ts_now = self.ts_now(now);
        let (rcv_nxt, rcv_edge) = (self.rcv_nxt(), self.rcv_edge);
        let (space, read_to) = (self.receive_space(), self.read_to());
        let rate = self.cold_mut().receive_rate.get_or_insert_with(|| {
            Box::new(ReceiveRate { space, read_to, read_since_us: now_us, ..ReceiveRate::default() })
        });
        if let Some(echo) = echo {
            let age_ms = ts_now.wrapping_sub(echo);
            if is_full && echo != rate.echo && age_ms <= ECHO_AGE_MAX_MS {
                rate.echo = echo;
                rate.sample(age_ms.max(1) * 1000, false);
            }
        } else if rate.window_since_us == 0 || rcv_nxt.ge(rate.window_end) {
            if rate.window_since_us != 0 {
                rate.sample(now_us.wrapping_sub(rate.window_since_us), true);
            }
            (rate.window_end, rate.window_since_us) = (rcv_edge, now_us);
        }
    }

    /// Notes what the application has read, once a round trip.
    pub(super) fn measure_reading(&mut self, now: Instant) {
        let Some(rate) = self.receive_rate() else { return };
        let now_us = now.as_micros() as u32;
        if rate.rtt_us == 0 || now_us.wrapping_sub(rate.read_since_us) < rate.rtt_us {
            return;
        }
        let read_to = self.read_to();
        let read = if read_to.gt(rate.read_to) { read_to.since(rate.read_to) } else { 0 };
        if let Some(rate) = self.receive_rate_mut() {
            rate.space = rate.space.max(read);
            (rate.read_to, rate.read_since_us) = (read_to, now_us);
        }
    }
}
