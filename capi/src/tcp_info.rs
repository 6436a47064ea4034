//! Linux's `struct tcp_info`, field for field (`include/uapi/linux/tcp.h`). Fields that the engine has no figure for are 0, as
//! in kernels that do not know them.

use std::mem::offset_of;

use bywash::tcp::{EcnMode, FastOpenFailure, State, TcpInfo};
use bywash::time::Duration;

const OPTION_TIMESTAMPS: u8 = 1;
const OPTION_SACK: u8 = 2;
const OPTION_WSCALE: u8 = 4;
const OPTION_ECN: u8 = 8;
const OPTION_ECN_SEEN: u8 = 16;
const OPTION_SYN_DATA: u8 = 32;
/// `snd_ssthresh` before the first loss: the kernel's `TCP_INFINITE_SSTHRESH`.
const INFINITE_SSTHRESH: u32 = 0x7fff_ffff;

/// The kernel's structure up to `tcpi_options2`; times in microseconds where nothing else is said.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinuxTcpInfo {
    pub(crate) state: u8,
    pub(crate) ca_state: u8,
    pub(crate) retransmits: u8,
    pub(crate) probes: u8,
    pub(crate) backoff: u8,
    pub(crate) options: u8,
    /// Send shift in the lower four bits, receive shift in the upper ones.
    pub(crate) wscales: u8,
    /// `delivery_rate_app_limited` in the lowest bit, `fastopen_client_fail` in the next two.
    pub(crate) rate_and_fastopen: u8,
    pub(crate) rto: u32,
    pub(crate) ato: u32,
    pub(crate) snd_mss: u32,
    pub(crate) rcv_mss: u32,
    pub(crate) unacked: u32,
    pub(crate) sacked: u32,
    pub(crate) lost: u32,
    pub(crate) retrans: u32,
    pub(crate) fackets: u32,
    /// These four in milliseconds.
    pub(crate) last_data_sent: u32,
    pub(crate) last_ack_sent: u32,
    pub(crate) last_data_recv: u32,
    pub(crate) last_ack_recv: u32,
    pub(crate) pmtu: u32,
    pub(crate) rcv_ssthresh: u32,
    pub(crate) rtt: u32,
    pub(crate) rttvar: u32,
    pub(crate) snd_ssthresh: u32,
    pub(crate) snd_cwnd: u32,
    pub(crate) advmss: u32,
    pub(crate) reordering: u32,
    pub(crate) rcv_rtt: u32,
    pub(crate) rcv_space: u32,
    pub(crate) total_retrans: u32,
    pub(crate) pacing_rate: u64,
    pub(crate) max_pacing_rate: u64,
    pub(crate) bytes_acked: u64,
    pub(crate) bytes_received: u64,
    pub(crate) segs_out: u32,
    pub(crate) segs_in: u32,
    pub(crate) notsent_bytes: u32,
    pub(crate) min_rtt: u32,
    pub(crate) data_segs_in: u32,
    pub(crate) data_segs_out: u32,
    pub(crate) delivery_rate: u64,
    pub(crate) busy_time: u64,
    pub(crate) rwnd_limited: u64,
    pub(crate) sndbuf_limited: u64,
    pub(crate) delivered: u32,
    pub(crate) delivered_ce: u32,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_retrans: u64,
    pub(crate) dsack_dups: u32,
    pub(crate) reord_seen: u32,
    pub(crate) rcv_ooopack: u32,
    pub(crate) snd_wnd: u32,
    pub(crate) rcv_wnd: u32,
    pub(crate) rehash: u32,
    pub(crate) total_rto: u16,
    pub(crate) total_rto_recoveries: u16,
    pub(crate) total_rto_time: u32,
    /// Accurate ECN's counters; those of bytes without what they begin with.
    pub(crate) received_ce: u32,
    pub(crate) delivered_e1_bytes: u32,
    pub(crate) delivered_e0_bytes: u32,
    pub(crate) delivered_ce_bytes: u32,
    pub(crate) received_e1_bytes: u32,
    pub(crate) received_e0_bytes: u32,
    pub(crate) received_ce_bytes: u32,
    /// `ecn_mode` in the lowest two bits.
    pub(crate) ecn_and_options2: u32,
}

// The kernel's offsets: one in each group of equal fields.
const _: () = {
    assert!(offset_of!(LinuxTcpInfo, rto) == 8);
    assert!(offset_of!(LinuxTcpInfo, unacked) == 24);
    assert!(offset_of!(LinuxTcpInfo, last_data_sent) == 44);
    assert!(offset_of!(LinuxTcpInfo, pmtu) == 60);
    assert!(offset_of!(LinuxTcpInfo, snd_cwnd) == 80);
    assert!(offset_of!(LinuxTcpInfo, total_retrans) == 100);
    assert!(offset_of!(LinuxTcpInfo, pacing_rate) == 104);
    assert!(offset_of!(LinuxTcpInfo, segs_out) == 136);
    assert!(offset_of!(LinuxTcpInfo, min_rtt) == 148);
    assert!(offset_of!(LinuxTcpInfo, delivery_rate) == 160);
    assert!(offset_of!(LinuxTcpInfo, delivered) == 192);
    assert!(offset_of!(LinuxTcpInfo, bytes_sent) == 200);
    assert!(offset_of!(LinuxTcpInfo, reord_seen) == 220);
    assert!(offset_of!(LinuxTcpInfo, total_rto) == 240);
    assert!(offset_of!(LinuxTcpInfo, received_ce) == 248);
    assert!(size_of::<LinuxTcpInfo>() == 280);
};

impl LinuxTcpInfo {
    /// What a socket without connection gives: its state alone.
    pub(crate) fn without_connection(state: State) -> Self {
        Self { state: state_number(state), ..Self::default() }
    }

    /// The structure's bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: the fields leave no padding (the sizes above add up), so all bytes are initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

impl From<&TcpInfo> for LinuxTcpInfo {
    fn from(info: &TcpInfo) -> Self {
        Self {
            state: state_number(info.state),
            ca_state: ca_state_number(info.ca_state),
            retransmits: info.retransmits,
            probes: info.probes,
            backoff: info.backoff,
            options: if info.timestamps { OPTION_TIMESTAMPS } else { 0 }
                | if info.sack { OPTION_SACK } else { 0 }
                | if info.wscale { OPTION_WSCALE } else { 0 }
                | if info.ecn == EcnMode::Off { 0 } else { OPTION_ECN }
                | if info.ecn_seen { OPTION_ECN_SEEN } else { 0 }
                | if info.fastopen_syn_data { OPTION_SYN_DATA } else { 0 },
            rate_and_fastopen: u8::from(info.delivery_rate_app_limited)
                | fastopen_failure_number(info.fastopen_client_fail) << 1,
            wscales: (info.snd_wscale & 15) | info.rcv_wscale << 4,
            rto: us(info.rto),
            ato: us(info.ato),
            snd_mss: info.snd_mss,
            rcv_mss: info.rcv_mss,
            unacked: info.unacked,
            sacked: info.sacked,
            lost: info.lost,
            retrans: info.retrans,
            last_data_sent: ms(info.last_data_sent),
            last_data_recv: ms(info.last_data_recv),
            last_ack_recv: ms(info.last_ack_recv),
            pmtu: info.pmtu,
            rcv_ssthresh: info.rcv_ssthresh,
            rtt: us(info.rtt),
            rttvar: us(info.rttvar),
            snd_ssthresh: info.snd_ssthresh.min(INFINITE_SSTHRESH),
            snd_cwnd: info.snd_cwnd,
            advmss: info.advmss,
            reordering: info.reordering,
            rcv_space: info.rcv_space,
            total_retrans: info.total_retrans,
            pacing_rate: info.pacing_rate.unwrap_or(u64::MAX),
            max_pacing_rate: info.max_pacing_rate,
            rcv_rtt: us(info.rcv_rtt),
            delivery_rate: info.delivery_rate,
            delivered_ce: info.delivered_ce,
            bytes_sent: info.bytes_sent,
            total_rto: info.total_rto,
            total_rto_recoveries: info.total_rto_recoveries,
            total_rto_time: ms(info.total_rto_time),
            received_ce: info.received_ce,
            delivered_e1_bytes: info.delivered_e1_bytes,
            delivered_e0_bytes: info.delivered_e0_bytes,
            delivered_ce_bytes: info.delivered_ce_bytes,
            received_e1_bytes: info.received_e1_bytes,
            received_e0_bytes: info.received_e0_bytes,
            received_ce_bytes: info.received_ce_bytes,
            ecn_and_options2: ecn_mode_number(info.ecn),
            bytes_acked: info.bytes_acked,
            bytes_received: info.bytes_received,
            segs_out: info.segs_out,
            segs_in: info.segs_in,
            notsent_bytes: info.notsent_bytes,
            min_rtt: if info.min_rtt.is_zero() { u32::MAX } else { us(info.min_rtt) },
            data_segs_in: info.data_segs_in,
            data_segs_out: info.data_segs_out,
            busy_time: info.busy_time.as_micros() as u64,
            rwnd_limited: info.rwnd_limited.as_micros() as u64,
            sndbuf_limited: info.sndbuf_limited.as_micros() as u64,
            delivered: info.delivered,
            bytes_retrans: info.bytes_retrans,
            dsack_dups: info.dsack_dups,
            reord_seen: info.reord_seen,
            rcv_ooopack: info.rcv_ooopack,
            snd_wnd: info.snd_wnd,
            rcv_wnd: info.rcv_wnd,
            ..Self::default()
        }
    }
}

/// The numbers of `include/net/tcp_states.h`.
pub(crate) fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Listen => 10,
        State::Closing => 11,
    }
}

/// The numbers of `enum tcp_ca_state`.
fn ca_state_number(name: &str) -> u8 {
    match name {
        "disorder" => 1,
        "cwr" => 2,
        "recovery" => 3,
        "loss" => 4,
        _ => 0,
    }
}

/// The numbers of `tcpi_ecn_mode`.
fn ecn_mode_number(mode: EcnMode) -> u32 {
    match mode {
        EcnMode::Off => 0,
        EcnMode::Classic => 1,
        EcnMode::Accurate => 2,
    }
}

/// The numbers of `enum tcp_fastopen_client_fail`.
fn fastopen_failure_number(failure: Option<FastOpenFailure>) -> u8 {
    match failure {
        None => 0,
        Some(FastOpenFailure::CookieUnavailable) => 1,
        Some(FastOpenFailure::DataNotAcked) => 2,
        Some(FastOpenFailure::SynRetransmitted) => 3,
    }
}

fn us(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
