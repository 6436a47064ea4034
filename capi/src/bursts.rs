//! How Linux hands segments to its device: several as one, to be cut there, and the last of them pushed wherever a write ended. How
//! many, its `tcp_tso_autosize` decides by the rate; scripts expect PSH there, or, with a device that cuts by itself, the whole.

use std::collections::HashMap;
use std::net::SocketAddr;

use bywash::tcp::TcpInfo;

use crate::sockets::{Object, World};

/// Most bytes of one.
const BYTES_MAX: u64 = 65_536;
/// Each so many microseconds of the shortest round trip halve what is added for a short one.
const RTT_HALVES_US: u64 = 512;

/// Segments that go as one, by our address and the peer's.
pub(crate) type Bursts = HashMap<(SocketAddr, SocketAddr), usize>;

impl World {
    /// Sends what there is to send, in bursts as Linux makes them.
    pub(crate) fn pump(&mut self) {
        let tcp = &self.stack.tcp;
        let mut bursts = Bursts::new();
        for object in self.objects.values() {
            let Object::Socket(socket) = object else { continue };
            let Some(id) = socket.connection() else { continue };
            if let (Ok(tuple), Ok(info)) = (tcp.tuple(id), tcp.info(self.stack.now, id)) {
                bursts.insert((tuple.local, tuple.remote), Flow::from(&info).burst(self.burst_min));
            }
        }
        self.stack.pump(&bursts);
    }
}

/// What of a connection decides.
#[derive(Clone, Copy, Debug)]
struct Flow {
    mss: u64,
    /// Segments.
    cwnd: u64,
    ssthresh: u64,
    unacked: u64,
    rtt_us: u64,
    min_rtt_us: u64,
}

impl From<&TcpInfo> for Flow {
    fn from(info: &TcpInfo) -> Self {
        Self {
            mss: info.snd_mss.max(1).into(),
            cwnd: info.snd_cwnd.into(),
            ssthresh: info.snd_ssthresh.into(),
            unacked: info.unacked.into(),
            rtt_us: info.rtt.as_micros() as u64,
            min_rtt_us: info.min_rtt.as_micros() as u64,
        }
    }
}

impl Flow {
    /// Segments of a burst: a millisecond at the pacing rate, more where the round trip is short, half the window at most.
    fn burst(self, least: usize) -> usize {
        let Self { mss, cwnd, ssthresh, unacked, rtt_us, min_rtt_us } = self;
        let half = (cwnd / 2).max(1) as usize;
        if rtt_us == 0 {
            return half;
        }
        let percent = if cwnd < ssthresh / 2 { 200 } else { 120 };
        let rate = cwnd.max(unacked) * mss * percent / 100 * 1_000_000 / rtt_us;
        let halvings = min_rtt_us / RTT_HALVES_US;
        let bytes = (rate >> 10) + if halvings < 32 { BYTES_MAX >> halvings } else { 0 };
        ((bytes.min(BYTES_MAX) / mss) as usize).max(least).min(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_follow_the_rate_and_the_round_trip() {
        let flow = |rtt_us, cwnd| Flow {
            mss: 1000,
            cwnd,
            ssthresh: u64::from(u32::MAX),
            unacked: 0,
            rtt_us,
            min_rtt_us: rtt_us,
        };
        // 200 kB/s: less than a segment in a millisecond.
        assert_eq!(flow(100_000, 10).burst(2), 2);
        assert_eq!(flow(100_000, 10).burst(10), 5);
        // 20 MB/s.
        assert_eq!(flow(100_000, 1000).burst(2), 19);
        assert_eq!(flow(0, 10).burst(2), 5);
    }
}
