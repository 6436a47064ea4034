//! Listeners: the SYN queue of half-open connections, compact until their handshake is over, and the accept queue of
//! established ones that wait for the application (RFC 9293 section 3.10.7.2, RFC 4987).

use core::net::SocketAddr;
use core::task::Waker;
use std::collections::VecDeque;

use super::config::SocketOptions;
use super::options::TcpOptions;
use super::seq::SeqNumber;
use super::table::Key;
use crate::time::Instant;
use crate::timer_wheel::TimerId;

/// A port that is listened on.
#[derive(Debug)]
pub struct Listener {
    pub addr: SocketAddr,
    pub options: SocketOptions,
    /// Most connections in `accepted`.
    pub backlog: usize,
    /// Established, not yet accepted: places of connections.
    pub accepted: VecDeque<u32>,
    /// Half-open connections of this listener.
    pub syn_count: usize,
    pub waker: Option<Waker>,
    pub generation: u32,
}

impl Listener {
    /// Whether the accept queue takes no more.
    pub fn is_full(&self) -> bool {
        self.accepted.len() >= self.backlog
    }
}

/// A half-open connection: our SYN-ACK is out, its ACK awaited.
#[derive(Debug)]
pub struct SynReceived {
    pub key: Key,
    pub iss: SeqNumber,
    pub irs: SeqNumber,
    pub listener: u32,
    pub timer: TimerId,
    /// The peer's timestamp, where both have the option.
    pub ts_recent: u32,
    /// When the SYN-ACK went out first, in milliseconds of the shard's clock, for the first RTT sample.
    pub sent_ms: u32,
    /// The peer's MSS.
    pub peer_mss: u16,
    /// The MSS we announced; 0 until the SYN-ACK was sent.
    pub our_mss: u16,
    /// The window we announce, not scaled (a SYN's never is).
    pub window: u16,
    /// The peer's window, from its SYN.
    pub peer_window: u16,
    pub peer_scale: u8,
    pub our_scale: u8,
    /// How often the SYN-ACK timed out.
    pub retries: u8,
    pub flags: SynFlags,
}

/// What both SYNs agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct SynFlags {
    pub timestamps: bool,
    pub scaling: bool,
    /// The SYN-ACK waits for `transmit`.
    pub queued: bool,
    /// The SYN-ACK was sent.
    pub sent: bool,
}

/// Largest window scale that is useful for a buffer whose window is `window` bytes (RFC 7323 section 2.3).
pub fn window_scale_for(window: usize) -> u8 {
    (0..=14u8).find(|shift| window >> shift <= usize::from(u16::MAX)).unwrap_or(14)
}

/// What a SYN says, with the defaults of RFC 9293 section 3.7.1 where it says nothing.
#[derive(Clone, Copy, Debug)]
pub struct PeerSyn {
    pub seq: SeqNumber,
    pub window: u16,
    pub mss: u16,
    pub scale: Option<u8>,
    pub timestamp: Option<u32>,
}

impl PeerSyn {
    pub fn new(seq: SeqNumber, window: u16, options: &TcpOptions, ipv6: bool) -> Self {
        // RFC 9293 section 3.7.1 (MUST-15): 536, or 1220 over IPv6.
        let default_mss = if ipv6 { 1220 } else { 536 };
        Self {
            seq,
            window,
            mss: options.mss.filter(|&mss| mss > 0).unwrap_or(default_mss).max(MSS_MIN),
            scale: options.window_scale,
            timestamp: options.timestamps.map(|timestamps| timestamps.val),
        }
    }
}

/// Smallest MSS we let a peer make us use: smaller ones only multiply our packets (Linux's TCP_MIN_SND_MSS is 48).
pub const MSS_MIN: u16 = 48;

/// The clock of timestamps and compact entries: milliseconds (RFC 7323 section 5.4), modulo 2^32.
pub fn clock_ms(now: Instant) -> u32 {
    now.as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_open_connection_costs_at_most_96_bytes() {
        assert!(size_of::<SynReceived>() + 8 <= 96, "{}", size_of::<SynReceived>());
    }

    #[test]
    fn the_scale_is_the_smallest_that_can_say_the_window() {
        assert_eq!(window_scale_for(65_535), 0);
        assert_eq!(window_scale_for(65_536), 1);
        assert_eq!(window_scale_for(768 << 10), 4);
        assert_eq!(window_scale_for(usize::MAX), 14);
    }

    #[test]
    fn a_silent_syn_means_the_standard_s_mss() {
        let syn = |ipv6| PeerSyn::new(SeqNumber(1), 100, &TcpOptions::default(), ipv6).mss;
        assert_eq!((syn(false), syn(true)), (536, 1220));
        let tiny = TcpOptions { mss: Some(1), ..TcpOptions::default() };
        assert_eq!(PeerSyn::new(SeqNumber(1), 100, &tiny, false).mss, MSS_MIN);
    }
}
