//! What can be asked about a connection: `TcpInfo`, with the names of Linux's `struct tcp_info`.

use super::congestion::CongestionControl;
use super::connection::{Connection, NEVER};
use super::state::State;
use crate::time::{Duration, Instant};

/// A connection's figures. Names and meanings as in Linux's `struct tcp_info`; times as durations, windows in bytes
/// unless the name of the field is Linux's for segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpInfo {
    /// State.
    pub state: State,
    /// Name of the congestion control.
    pub congestion: &'static str,
    /// Timeouts in a row.
    pub retransmits: u8,
    /// Keepalive or zero-window probes without an answer.
    pub probes: u8,
    /// How often the RTO is doubled.
    pub backoff: u8,
    /// Both sides use timestamps.
    pub timestamps: bool,
    /// Our and the peer's window scale, where both sides scale.
    pub window_scale: Option<(u8, u8)>,
    /// Retransmission timeout, back-off included.
    pub rto: Duration,
    /// Delay of ACKs.
    pub ato: Duration,
    /// Payload bytes in a full segment of ours.
    pub snd_mss: u32,
    /// Largest payload received in a segment.
    pub rcv_mss: u32,
    /// The MSS we announced.
    pub advmss: u32,
    /// Largest IP packet to the peer; 65,535 while nothing limits it.
    pub pmtu: u32,
    /// Segments in flight (Linux counts packets; here bytes in flight over `snd_mss`, rounded up).
    pub unacked: u32,
    /// Since payload was last sent.
    pub last_data_sent: Duration,
    /// Since anything was last received.
    pub last_ack_recv: Duration,
    /// Smoothed round-trip time, once there is a sample.
    pub rtt: Option<Duration>,
    /// Its variation.
    pub rttvar: Duration,
    /// Smallest round-trip time of late.
    pub min_rtt: Option<Duration>,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Slow start threshold in segments; `None` before the first loss.
    pub snd_ssthresh: Option<u32>,
    /// The peer's window in bytes.
    pub snd_wnd: u32,
    /// Our window in bytes.
    pub rcv_wnd: u32,
    /// Bytes received and not read.
    pub recv_queue: usize,
    /// Bytes written and not acknowledged.
    pub send_queue: usize,
    /// Of those, bytes never sent.
    pub notsent_bytes: usize,
    /// Payload bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Segments sent and received.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments with payload sent.
    pub data_segs_out: u32,
    /// Segments with payload received.
    pub data_segs_in: u32,
    /// Segments sent again, all told.
    pub total_retrans: u32,
    /// Fast recovery is on.
    pub in_recovery: bool,
    /// Bytes wait ahead of a gap.
    pub rcv_ooo_bytes: usize,
    /// Urgent data is ahead in the stream: how many bytes until its end.
    pub urgent_ahead: Option<u32>,
    /// The retransmission timer's (or the persist timer's) remaining time.
    pub timer: Option<Duration>,
}

impl Connection {
    /// The connection's figures at `now`.
    pub fn info(&self, now: Instant, ato: Duration) -> TcpInfo {
        let mss = u32::from(self.mss).max(1);
        let ssthresh = self.congestion.ssthresh();
        let in_flight = self.snd_max.since(self.snd_una);
        TcpInfo {
            state: self.state,
            congestion: self.congestion.name(),
            retransmits: if self.persisting { 0 } else { self.retries },
            probes: if self.persisting { self.retries } else { self.keepalive_probes },
            backoff: self.rtt.backed_off(),
            timestamps: self.marks.timestamps,
            window_scale: self.marks.scaling.then_some((self.rcv_scale, self.snd_scale)),
            rto: self.rtt.rto(),
            ato,
            snd_mss: mss,
            rcv_mss: u32::from(self.rcv_mss),
            advmss: u32::from(self.our_mss),
            pmtu: u32::from(self.pmtu),
            unacked: in_flight.div_ceil(mss),
            last_data_sent: now - self.sent_at,
            last_ack_recv: now - self.received_at,
            rtt: self.rtt.srtt(),
            rttvar: self.rtt.rttvar(),
            min_rtt: self.rtt.min_rtt(),
            snd_cwnd: self.congestion.cwnd() / mss,
            snd_ssthresh: (ssthresh != u32::MAX).then(|| ssthresh / mss),
            snd_wnd: self.snd_wnd,
            rcv_wnd: self.rcv_wnd(),
            recv_queue: self.received.readable(),
            send_queue: self.unsent.len(),
            notsent_bytes: self.unsent.len().saturating_sub(in_flight as usize),
            bytes_acked: self.totals.bytes_acked,
            bytes_received: self.totals.bytes_received,
            bytes_sent: self.totals.bytes_sent,
            segs_out: self.totals.segments_out,
            segs_in: self.totals.segments_in,
            data_segs_out: self.totals.data_segments_out,
            data_segs_in: self.totals.data_segments_in,
            total_retrans: self.totals.retransmits,
            in_recovery: self.marks.in_recovery,
            rcv_ooo_bytes: self.received.out_of_order_bytes(),
            urgent_ahead: self.urgent.map(|urgent| urgent.since(self.rcv_nxt())),
            timer: (self.retransmit_at != NEVER).then(|| self.retransmit_at - now),
        }
    }
}
