//! One connection: the transmission control block of RFC 9293 section 3.3.1 with its queues, estimators and deadlines.
//!
//! Segments change it in `input.rs`, user calls in `calls.rs`, time in `timers.rs`; `output.rs` decides what it sends.
//! Everything an idle connection needs is in this structure; the queues allocate while they hold bytes.

use core::task::Waker;

use super::TcpError;
use super::config::{SocketOptions, TcpConfig};
use super::congestion::{Congestion, CongestionControl};
use super::options::Timestamps;
use super::receive_queue::ReceiveQueue;
use super::rtt::RttEstimator;
use super::send_queue::SendQueue;
use super::seq::SeqNumber;
use super::state::State;
use super::table::Key;
use crate::time::{Duration, Instant};
use crate::timer_wheel::TimerId;

/// No deadline.
pub const NEVER: Instant = Instant::FAR_FUTURE;
/// Segments acknowledged at once when a connection begins, so that the peer's window opens fast (Linux's quick ACKs).
pub const QUICK_ACKS: u8 = 16;
/// How long a corked partial segment is held back (tcp(7), TCP_CORK).
pub const CORK_MAX: Duration = Duration::from_millis(200);

/// Yes-or-no state. A set of bits, as thousands of connections have it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// In the engine's queue of connections that may have something to send.
    pub queued: bool,
    /// The application let go of the handle: the engine ends the connection by itself.
    pub orphan: bool,
    /// Waiting in a listener's accept queue.
    pub unaccepted: bool,
    /// The application will read no more: payload is acknowledged and dropped.
    pub read_shut: bool,
    /// The application will write no more: a FIN follows what is queued.
    pub write_shut: bool,
    /// Our FIN was sent at least once.
    pub fin_sent: bool,
    /// An ACK must be sent even if there is nothing else to send.
    pub ack_now: bool,
    /// A SYN (or SYN-ACK of a simultaneous open) must be sent.
    pub syn_now: bool,
    /// The segment at SND.UNA must be sent again (fast retransmit).
    pub retransmit_now: bool,
    /// A probe of a closed or silly window must be sent.
    pub probe_now: bool,
    /// A keepalive probe must be sent.
    pub keepalive_now: bool,
    /// Both sides sent the timestamps option.
    pub timestamps: bool,
    /// Fast recovery is on (RFC 6582).
    pub in_recovery: bool,
    /// The congestion window, not the application or the peer, stopped the last output.
    pub cwnd_limited: bool,
    /// The application answers what it reads: ACKs wait for its data (delayed ACK's pingpong mode).
    pub interactive: bool,
    /// Held-back data may go now although it does not fill a segment (cork's or SWS's time is over).
    pub push_partial: bool,
    /// A cork was pulled or Nagle switched off, or the peer's FIN is in order: reported once.
    pub eof: bool,
    /// Our SYN offers window scaling (or the peer's did).
    pub scaling: bool,
    /// The connection is in the table of ends (until TIME-WAIT's entry or nothing takes its place).
    pub in_table: bool,
}

/// A connection that is more than a half-open entry.
#[derive(Debug)]
pub struct Connection {
    pub key: Key,
    pub state: State,
    pub marks: Marks,
    pub generation: u32,

    // Send sequence space. snd_una <= snd_nxt <= snd_max, all modulo 2^32.
    /// Oldest byte not acknowledged.
    pub snd_una: SeqNumber,
    /// Next byte to send; goes back to `snd_una` on a timeout.
    pub snd_nxt: SeqNumber,
    /// Behind the highest byte ever sent.
    pub snd_max: SeqNumber,
    /// The peer's window, scaled, from `snd_una`.
    pub snd_wnd: u32,
    /// Largest window the peer ever offered.
    pub snd_wnd_max: u32,
    pub snd_wl1: SeqNumber,
    pub snd_wl2: SeqNumber,
    pub iss: SeqNumber,
    /// Last byte of the write that ends a segment with PSH.
    pub push_seq: SeqNumber,
    /// RFC 6582's `recover`: SND.MAX when the last loss was found.
    pub recover: SeqNumber,
    /// What duplicate ACKs add to the window (RFC 5681 section 3.2), in bytes.
    pub inflation: u32,
    pub duplicate_acks: u32,

    // Receive sequence space.
    pub irs: SeqNumber,
    /// Right edge of the window announced: never moves back.
    pub rcv_edge: SeqNumber,
    /// RCV.NXT in the last segment sent (Last.ACK.sent of RFC 7323 section 4.3).
    pub last_ack_sent: SeqNumber,
    /// The peer's FIN, received ahead of a gap.
    pub fin_ahead: Option<SeqNumber>,
    /// RCV.UP, while urgent data is ahead (RFC 9293 section 3.8.5); read in line (RFC 6093 section 6).
    pub urgent: Option<SeqNumber>,
    /// Payload segments since the last ACK was sent.
    pub unacked_segments: u8,
    pub quick_acks: u8,
    /// Largest segment received lately.
    pub rcv_mss: u16,

    // What the SYNs agreed on.
    pub peer_mss: u16,
    /// The MSS we announced; 0 before our SYN was sent.
    pub our_mss: u16,
    /// Largest IP packet to the peer that ICMP lets us send; `u16::MAX`: as the egress says.
    pub pmtu: u16,
    /// Payload bytes in a full segment at present, options allowed for.
    pub mss: u16,
    pub snd_scale: u8,
    pub rcv_scale: u8,
    pub ts_recent: u32,
    pub ts_recent_at: Instant,
    pub ts_offset: u32,

    // Clocks and estimators.
    pub rtt: RttEstimator,
    /// The segment whose ACK gives the next RTT sample (Karn: never one sent twice), and when it was sent.
    pub timed: Option<(SeqNumber, Instant)>,
    pub congestion: Congestion,
    /// Timeouts in a row without progress.
    pub retries: u8,
    pub keepalive_probes: u8,
    /// When the peer was last heard.
    pub received_at: Instant,
    /// When payload was last sent.
    pub sent_at: Instant,
    /// When SND.UNA last moved, or data was first queued after silence: the user timeout counts from it.
    pub progress_at: Instant,

    // Deadlines; `NEVER` when off.
    /// Retransmission (SYN, data, FIN), or the persist timer when `persisting`.
    pub retransmit_at: Instant,
    pub persisting: bool,
    pub delayed_ack_at: Instant,
    pub keepalive_at: Instant,
    /// Cork's or silly-window avoidance's patience.
    pub hold_at: Instant,
    /// FIN-WAIT-2 of an orphan, or linger.
    pub linger_at: Instant,
    /// The wheel's entry, at or before the earliest deadline.
    pub timer: Option<(TimerId, Instant)>,

    pub received: ReceiveQueue,
    pub unsent: SendQueue,
    pub options: Box<SocketOptions>,
    /// Why the connection ended; told to the application.
    pub error: Option<TcpError>,
    /// What ICMP said, for when the connection is given up.
    pub soft_error: Option<TcpError>,
    pub recv_waker: Option<Waker>,
    pub send_waker: Option<Waker>,

    /// Counts for `TcpInfo`.
    pub totals: Totals,
}

/// What one connection counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub bytes_sent: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segments_out: u32,
    pub segments_in: u32,
    pub data_segments_out: u32,
    pub data_segments_in: u32,
    pub retransmits: u32,
}

impl Connection {
    /// A connection in SYN-SENT whose SYN waits to be sent.
    pub fn new(now: Instant, key: Key, iss: SeqNumber, options: SocketOptions, config: &TcpConfig) -> Self {
        Self {
            key,
            state: State::SynSent,
            marks: Marks {
                timestamps: config.timestamps,
                scaling: config.window_scaling,
                ..Marks::default()
            },
            generation: 0,
            snd_una: iss,
            snd_nxt: iss,
            snd_max: iss,
            snd_wnd: 0,
            snd_wnd_max: 0,
            snd_wl1: SeqNumber(0),
            snd_wl2: iss,
            iss,
            push_seq: iss,
            recover: iss,
            inflation: 0,
            duplicate_acks: 0,
            irs: SeqNumber(0),
            rcv_edge: SeqNumber(0),
            last_ack_sent: SeqNumber(0),
            fin_ahead: None,
            urgent: None,
            unacked_segments: 0,
            quick_acks: QUICK_ACKS,
            rcv_mss: 536,
            peer_mss: 536,
            our_mss: 0,
            pmtu: u16::MAX,
            mss: 536,
            snd_scale: 0,
            rcv_scale: 0,
            ts_recent: 0,
            ts_recent_at: now,
            ts_offset: 0,
            rtt: RttEstimator::new(config.rto_initial, config.rto_min, config.rto_max),
            timed: None,
            congestion: Congestion::new(options.congestion),
            retries: 0,
            keepalive_probes: 0,
            received_at: now,
            sent_at: now,
            progress_at: now,
            retransmit_at: NEVER,
            persisting: false,
            delayed_ack_at: NEVER,
            keepalive_at: NEVER,
            hold_at: NEVER,
            linger_at: NEVER,
            timer: None,
            received: ReceiveQueue::new(SeqNumber(0)),
            unsent: SendQueue::new(),
            options: Box::new(options),
            error: None,
            soft_error: None,
            recv_waker: None,
            send_waker: None,
            totals: Totals::default(),
        }
    }

    /// RCV.NXT.
    pub fn rcv_nxt(&self) -> SeqNumber {
        self.received.rcv_nxt()
    }

    /// RCV.WND: what is left of the window announced.
    pub fn rcv_wnd(&self) -> u32 {
        let left = self.rcv_edge.since(self.rcv_nxt());
        if left > 1 << 31 { 0 } else { left }
    }

    /// Bytes sent and not acknowledged, FIN and SYN included.
    pub fn in_flight(&self) -> u32 {
        self.snd_nxt.since(self.snd_una)
    }

    /// Sequence number of our FIN, once the application has closed its side.
    pub fn fin_seq(&self) -> Option<SeqNumber> {
        self.marks.write_shut.then(|| self.data_start() + self.unsent.len() as u32)
    }

    /// Sequence number of the send queue's first byte: SND.UNA once the SYN was acknowledged.
    pub fn data_start(&self) -> SeqNumber {
        if matches!(self.state, State::SynSent | State::SynReceived) { self.iss + 1 } else { self.snd_una }
    }

    /// Whether the FIN was sent and acknowledged.
    pub fn fin_acked(&self) -> bool {
        matches!(self.state, State::FinWait2 | State::TimeWait)
            || self.marks.fin_sent && self.unsent.is_empty() && self.snd_una == self.snd_max
    }

    /// Bytes that may be in flight: the congestion window with what duplicate ACKs add to it.
    pub fn congestion_window(&self) -> u32 {
        self.congestion.cwnd().saturating_add(self.inflation)
    }

    /// Our clock in timestamps.
    pub fn timestamp(&self, now: Instant) -> u32 {
        super::listener::clock_ms(now).wrapping_add(self.ts_offset)
    }

    /// The timestamps option of the next segment.
    pub fn timestamps(&self, now: Instant) -> Option<Timestamps> {
        let ecr = if self.state == State::SynSent { 0 } else { self.ts_recent };
        self.marks.timestamps.then(|| Timestamps { val: self.timestamp(now), ecr })
    }

    /// The earliest deadline.
    pub fn deadline(&self) -> Instant {
        self.retransmit_at
            .min(self.delayed_ack_at)
            .min(self.keepalive_at)
            .min(self.hold_at)
            .min(self.linger_at)
    }

    /// Bytes of memory behind the queues.
    pub fn buffered(&self) -> usize {
        self.received.memory() + self.unsent.memory()
    }

    /// Ends the connection with `error`: nothing is sent or taken any more, what was received in order can be read.
    pub fn fail(&mut self, error: TcpError) {
        self.state = State::Closed;
        self.error.get_or_insert(error);
        self.end();
    }

    /// Stops all deadlines and output and wakes the application.
    pub fn end(&mut self) {
        self.unsent.clear();
        for deadline in [
            &mut self.retransmit_at,
            &mut self.delayed_ack_at,
            &mut self.keepalive_at,
            &mut self.hold_at,
            &mut self.linger_at,
        ] {
            *deadline = NEVER;
        }
        self.wake_both();
    }

    /// Wakes whoever waits for something to read.
    pub fn wake_reader(&mut self) {
        if let Some(waker) = self.recv_waker.take() {
            waker.wake();
        }
    }

    /// Wakes whoever waits for room to write, for the handshake, or for the last ACK.
    pub fn wake_writer(&mut self) {
        if let Some(waker) = self.send_waker.take() {
            waker.wake();
        }
    }

    /// Wakes both.
    pub fn wake_both(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }

    /// Sets the keepalive deadline after something was heard or the option changed (RFC 9293 section 3.8.4).
    pub fn restart_keepalive(&mut self) {
        self.keepalive_probes = 0;
        let on = self.options.keepalive && self.state.is_synchronized() && self.state != State::TimeWait;
        self.keepalive_at = if on { self.received_at + self.options.keepalive_idle } else { NEVER };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_at_most_1_kib() {
        let all = size_of::<Connection>() + size_of::<SocketOptions>() + 64;
        assert!(all <= 1024, "{all}");
    }
}
