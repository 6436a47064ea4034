//! What can be asked about a connection: `tcp_info`'s fields.

use super::State;
use super::congestion::CongestionControl;
use super::connection::Connection;
use super::ecn::EcnMode;
use super::recovery::Recovery;
use crate::time::{Duration, Instant};

/// Counts of one connection, the one of all segments that arrive first.
#[derive(Default)]
#[cfg_attr(test, derive(Debug))]
#[repr(C)]
pub(super) struct Statistics {
    pub(super) segments_in: u32,
    pub(super) segments_out: u32,
    pub(super) data_segments_in: u32,
    pub(super) data_segments_out: u32,
    /// Segments that arrived at the peer.
    pub(super) delivered: u32,
    pub(super) bytes_acked: u64,
    pub(super) bytes_received: u64,
}

/// Counts that stay zero on most connections.
#[derive(Default)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct Troubles {
    /// Segments that arrived ahead of a gap.
    pub(super) out_of_order_in: u32,
    pub(super) retransmitted: u32,
    pub(super) bytes_retransmitted: u64,
    /// D-SACKs received.
    pub(super) dsacks: u32,
    /// Retransmission timeouts.
    timeouts: u16,
    /// Recoveries from one or several in a row.
    recoveries: u16,
    /// Time spent in recoveries that are over.
    time: Duration,
    /// The present one began.
    since: Option<Instant>,
}

/// A connection's figures, named as in Linux's `tcp_info` (there counted in segments where bytes are not said; here
/// too). Counts wrap.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct TcpInfo {
    /// Its state.
    pub state: State,
    /// Where loss recovery is: `open`, `disorder`, `cwr`, `recovery` or `loss`, the names of Linux's `ca_state`.
    pub ca_state: &'static str,
    /// Retransmission timeouts since the last progress.
    pub retransmits: u8,
    /// Unanswered keepalive probes, or probes of a closed window.
    pub probes: u8,
    /// How often the RTO is doubled.
    pub backoff: u8,
    /// Timestamps are used.
    pub timestamps: bool,
    /// SACK is used.
    pub sack: bool,
    /// Which kind of ECN is used: `TCPI_OPT_ECN`.
    pub ecn: EcnMode,
    /// The peer sends ECN-capable packets: `TCPI_OPT_ECN_SEEN`.
    pub ecn_seen: bool,
    /// Window scaling is used.
    pub wscale: bool,
    /// Shift of the peer's windows.
    pub snd_wscale: u8,
    /// Shift of our windows.
    pub rcv_wscale: u8,
    /// Retransmission timeout now.
    #[serde(serialize_with = "crate::listing::micros")]
    pub rto: Duration,
    /// Delay of ACKs now.
    #[serde(serialize_with = "crate::listing::micros")]
    pub ato: Duration,
    /// Payload bytes in a full segment to the peer.
    pub snd_mss: u32,
    /// Largest segment received so far (at least 536).
    pub rcv_mss: u32,
    /// MSS that we announced.
    pub advmss: u32,
    /// Segments outstanding.
    pub unacked: u32,
    /// Of them, SACKed; without SACK, duplicate ACKs received.
    pub sacked: u32,
    /// Of them, taken for lost.
    pub lost: u32,
    /// Of the lost, sent again.
    pub retrans: u32,
    /// Segments by which the path reorders, at least 3.
    pub reordering: u32,
    /// How often reordering was seen.
    pub reord_seen: u32,
    /// Segments that arrived at the peer, as far as its acknowledgments and SACKs say, the SYN included.
    pub delivered: u32,
    /// Of them, those that arrived marked (RFC 9768), or whose acknowledgments told of marks (RFC 3168).
    pub delivered_ce: u32,
    /// Payload bytes that arrived at the peer marked (RFC 9768); low 32 bits.
    pub delivered_ce_bytes: u32,
    /// The same of bytes that arrived there with ECT(0) and with ECT(1).
    pub delivered_e0_bytes: u32,
    /// See `delivered_e0_bytes`.
    pub delivered_e1_bytes: u32,
    /// Packets that arrived here marked (RFC 9768).
    pub received_ce: u32,
    /// Payload bytes that arrived here marked, with ECT(0) and with ECT(1) (RFC 9768); low 32 bits.
    pub received_ce_bytes: u32,
    /// See `received_ce_bytes`.
    pub received_e0_bytes: u32,
    /// See `received_ce_bytes`.
    pub received_e1_bytes: u32,
    /// Payload bytes sent, those sent again included.
    pub bytes_sent: u64,
    /// Bytes a second at which segments may leave now; `None`: they are not paced.
    pub pacing_rate: Option<u64>,
    /// Bound of `pacing_rate` in bytes a second; `u64::MAX` as there is none.
    pub max_pacing_rate: u64,
    /// Bytes a second that the path delivered, by the last sample that tells (draft-cheng-iccrg-delivery-rate-estimation);
    /// 0 before the first.
    pub delivery_rate: u64,
    /// The application limited that sample: the path may be faster.
    pub delivery_rate_app_limited: bool,
    /// Time in which something was outstanding or waited to be sent; to the millisecond, as the two next.
    #[serde(serialize_with = "crate::listing::micros")]
    pub busy_time: Duration,
    /// Of it, time in which the peer's window held back what waited.
    #[serde(serialize_with = "crate::listing::micros")]
    pub rwnd_limited: Duration,
    /// Of it, time in which the send buffer was too small: all of it was sent, the congestion window had room, and the
    /// application waited to write more.
    #[serde(serialize_with = "crate::listing::micros")]
    pub sndbuf_limited: Duration,
    /// Retransmission timeouts, the handshake's included.
    pub total_rto: u16,
    /// Times that acknowledgment went on after one timeout or several in a row, and the one under way.
    pub total_rto_recoveries: u16,
    /// Time from the first timeout of each of these until acknowledgment went on.
    #[serde(serialize_with = "crate::listing::micros")]
    pub total_rto_time: Duration,
    /// Reports that something arrived twice at the peer (RFC 2883).
    pub dsack_dups: u32,
    /// Payload bytes sent again.
    pub bytes_retrans: u64,
    /// Time since data was last sent.
    #[serde(serialize_with = "crate::listing::micros")]
    pub last_data_sent: Duration,
    /// Time since data was last received.
    #[serde(serialize_with = "crate::listing::micros")]
    pub last_data_recv: Duration,
    /// Time since anything acceptable was last received.
    #[serde(serialize_with = "crate::listing::micros")]
    pub last_ack_recv: Duration,
    /// Path MTU as far as known, bytes.
    pub pmtu: u32,
    /// Smoothed round-trip time; zero before the first sample.
    #[serde(serialize_with = "crate::listing::micros")]
    pub rtt: Duration,
    /// Its variation.
    #[serde(serialize_with = "crate::listing::micros")]
    pub rttvar: Duration,
    /// Smallest round-trip time of late.
    #[serde(serialize_with = "crate::listing::micros")]
    pub min_rtt: Duration,
    /// Slow start threshold in segments; `u32::MAX` before the first loss.
    pub snd_ssthresh: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// The peer's window, bytes.
    pub snd_wnd: u32,
    /// Our window, bytes.
    pub rcv_wnd: u32,
    /// Round-trip time as the receiver of data sees it: from an ACK to what it let the peer send; zero before a sample. It
    /// includes the peer's pauses.
    #[serde(serialize_with = "crate::listing::micros")]
    pub rcv_rtt: Duration,
    /// Most bytes that the application read in one such round trip; at first the initial window.
    pub rcv_space: u32,
    /// Window below which slow start of the receiver, were there one, would stay: the most that our window can be, bytes.
    pub rcv_ssthresh: u32,
    /// Segments sent again.
    pub total_retrans: u32,
    /// Bytes that the peer acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments with payload sent.
    pub data_segs_out: u32,
    /// Segments with payload received.
    pub data_segs_in: u32,
    /// Segments that arrived ahead of a gap.
    pub rcv_ooopack: u32,
    /// Bytes written and not yet sent.
    pub notsent_bytes: u32,
    /// Bytes received in order and not yet read.
    pub unread_bytes: u32,
    /// The data in the SYN was acknowledged with it (RFC 7413): `TCPI_OPT_SYN_DATA`. On both sides.
    pub fastopen_syn_data: bool,
    /// Our SYN asked for a Fast Open cookie.
    pub fastopen_cookie_req: bool,
    /// Why our Fast Open brought no data with the SYN: `tcpi_fastopen_client_fail`.
    pub fastopen_client_fail: Option<FastOpenFailure>,
    /// Name of the congestion control.
    pub congestion: &'static str,
}

/// Why a Fast Open of ours was none, named as Linux's `tcp_fastopen_client_fail`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FastOpenFailure {
    /// There was no cookie for this server, or Fast Open is left alone after failures.
    CookieUnavailable,
    /// The SYN was answered, its data not acknowledged: the cookie is not good any more, or the server is busy.
    DataNotAcked,
    /// The SYN had to be sent again, without data.
    SynRetransmitted,
}

impl Troubles {
    fn time_until(&self, now: Instant) -> Duration {
        self.time + self.since.map_or(Duration::ZERO, |since| now - since)
    }
}

impl Connection {
    /// The retransmission timer expired.
    pub(super) fn note_timeout(&mut self, now: Instant) {
        let troubles = &mut self.cold_mut().troubles;
        troubles.timeouts = troubles.timeouts.saturating_add(1);
        if troubles.since.is_none() {
            troubles.recoveries = troubles.recoveries.saturating_add(1);
            troubles.since = Some(now);
        }
    }

    /// Acknowledgment went on.
    pub(super) fn note_timeouts_over(&mut self, now: Instant) {
        if self.cold().is_some_and(|cold| cold.troubles.since.is_some()) {
            let troubles = &mut self.cold_mut().troubles;
            troubles.time = troubles.time_until(now);
            troubles.since = None;
        }
    }

    fn troubles(&self) -> Option<&Troubles> {
        self.cold().map(|cold| &cold.troubles)
    }

    /// Payload bytes sent: the sequence space in use less SYN and FIN, and what was sent again.
    fn bytes_sent(&self) -> u64 {
        let once = self.nxt_offset().saturating_sub(1 + u64::from(self.fin_sent));
        once + self.troubles().map_or(0, |troubles| troubles.bytes_retransmitted)
    }

    pub(super) fn info(&self, now: Instant) -> TcpInfo {
        let mss = u32::from(self.mss);
        let ssthresh = self.congestion.ssthresh();
        let statistics = &self.statistics;
        let times = self.chronograph.times(now);
        let (delivery_rate, delivery_rate_app_limited) = self.rate.last_rate();
        let none = Troubles::default();
        let troubles = self.troubles().unwrap_or(&none);
        let (delivered_bytes, received) = self.ecn.counts();
        let probing = self.is_window_closed();
        TcpInfo {
            state: self.state,
            ca_state: match self.loss.state {
                Recovery::Open => "open",
                Recovery::Disorder => "disorder",
                Recovery::Reducing => "cwr",
                Recovery::Fast => "recovery",
                Recovery::Loss => "loss",
            },
            retransmits: if probing { 0 } else { self.retransmits },
            probes: self.keepalive_probes.max(if probing { self.retransmits } else { 0 }),
            backoff: self.rtt.backed_off().max(self.probes),
            timestamps: self.ts_enabled,
            sack: self.sack_enabled,
            ecn: self.ecn.mode(),
            ecn_seen: self.ecn.was_seen(),
            wscale: self.wscale_enabled,
            snd_wscale: self.snd_wscale,
            rcv_wscale: self.rcv_wscale,
            rto: self.rtt.rto(),
            ato: Duration::from_millis(u64::from(self.ato_ms)),
            snd_mss: mss,
            rcv_mss: u32::from(self.rcv_mss),
            advmss: u32::from(self.our_mss()),
            unacked: self.sent.len() as u32,
            sacked: self.sent.sacked().segments,
            lost: self.sent.lost().segments,
            retrans: self.sent.resent().segments,
            reordering: u32::from(self.rack.reordering),
            reord_seen: self.rack.reordering_seen,
            delivered: statistics.delivered + u32::from(self.syn_acked()),
            delivered_ce: self.ecn.delivered_ce(),
            delivered_ce_bytes: delivered_bytes.ceb,
            delivered_e0_bytes: delivered_bytes.e0b,
            delivered_e1_bytes: delivered_bytes.e1b,
            received_ce: received.cep,
            received_ce_bytes: received.ceb,
            received_e0_bytes: received.e0b,
            received_e1_bytes: received.e1b,
            bytes_sent: self.bytes_sent(),
            pacing_rate: self.congestion.pacing_rate(),
            max_pacing_rate: u64::MAX,
            delivery_rate,
            delivery_rate_app_limited,
            busy_time: times.busy,
            rwnd_limited: times.receive_window,
            sndbuf_limited: times.send_buffer,
            total_rto: troubles.timeouts,
            total_rto_recoveries: troubles.recoveries,
            total_rto_time: troubles.time_until(now),
            dsack_dups: troubles.dsacks,
            bytes_retrans: troubles.bytes_retransmitted,
            last_data_sent: now - self.last_sent_at,
            last_data_recv: now - self.last_data_at,
            last_ack_recv: now - self.last_heard,
            pmtu: u32::from(self.mtu()),
            rtt: self.rtt.srtt().unwrap_or_default(),
            rttvar: self.rtt.rttvar(),
            min_rtt: self.rtt.min_rtt().unwrap_or_default(),
            snd_ssthresh: if ssthresh == u32::MAX { ssthresh } else { ssthresh / mss },
            snd_cwnd: self.cwnd() / mss,
            snd_wnd: self.snd_wnd,
            rcv_wnd: self.rcv_wnd(),
            rcv_rtt: self.receive_rtt(),
            rcv_space: self.receive_space(),
            rcv_ssthresh: super::receive_queue::ReceiveQueue::window_max(self.receive_cap()) as u32,
            total_retrans: troubles.retransmitted,
            bytes_acked: statistics.bytes_acked,
            bytes_received: statistics.bytes_received,
            segs_out: statistics.segments_out,
            segs_in: statistics.segments_in,
            data_segs_out: statistics.data_segments_out,
            data_segs_in: statistics.data_segments_in,
            rcv_ooopack: troubles.out_of_order_in,
            notsent_bytes: self.unsent(),
            unread_bytes: self.receive.readable() as u32,
            fastopen_syn_data: self.fastopen().is_some_and(|open| open.syn_data),
            fastopen_cookie_req: self.fastopen().is_some_and(|open| open.cookie_requested),
            fastopen_client_fail: self.fastopen().and_then(|open| open.failure),
            congestion: self.congestion.name(),
        }
    }
}
