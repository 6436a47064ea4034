//! TCP's configuration: the options a socket has, with the names of setsockopt(2), and the engine's bounds.

use core::ops::RangeInclusive;

use super::congestion::Algorithm;
use crate::time::Duration;

/// Options of a socket. A listener's are inherited by the connections it accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// TCP_NODELAY: do not hold small segments back (RFC 9293 section 3.7.4, Nagle).
    pub nodelay: bool,
    /// TCP_CORK: hold segments that are not full back, for 200 ms at most.
    pub cork: bool,
    /// TCP_QUICKACK: acknowledge every segment at once.
    pub quickack: bool,
    /// SO_KEEPALIVE: probe a silent peer (RFC 9293 section 3.8.4).
    pub keepalive: bool,
    /// TCP_KEEPIDLE: silence before the first probe.
    pub keepalive_idle: Duration,
    /// TCP_KEEPINTVL: time between probes.
    pub keepalive_interval: Duration,
    /// TCP_KEEPCNT: unanswered probes after which the connection is given up; at least 1.
    pub keepalive_count: u8,
    /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged (RFC 5482); `None`: until the retries are used up.
    pub user_timeout: Option<Duration>,
    /// SO_LINGER: `None`, close goes on in the background; zero, close resets; otherwise the background close is given
    /// up with a reset after this time.
    pub linger: Option<Duration>,
    /// SO_RCVBUF: bytes of memory received data may take, in order or not; at least 4 KiB.
    pub receive_buffer_bytes: usize,
    /// SO_SNDBUF: bytes sent and not yet acknowledged, or not yet sent; at least 1.
    pub send_buffer_bytes: usize,
    /// TCP_CONGESTION.
    pub congestion: Algorithm,
}

impl Default for SocketOptions {
    /// Linux's defaults, with buffers of 1 MiB: there is no auto-tuning that would let them grow.
    fn default() -> Self {
        Self {
            nodelay: false,
            cork: false,
            quickack: false,
            keepalive: false,
            keepalive_idle: Duration::from_secs(7200),
            keepalive_interval: Duration::from_secs(75),
            keepalive_count: 9,
            user_timeout: None,
            linger: None,
            receive_buffer_bytes: 1 << 20,
            send_buffer_bytes: 1 << 20,
            congestion: Algorithm::default(),
        }
    }
}

/// Bounds and times of the engine; one for each shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpConfig {
    /// Options of sockets for which none are given.
    pub options: SocketOptions,
    /// Connections of one shard, without those in SYN-RECEIVED (passive) and TIME-WAIT. Beyond it opens fail: a SYN's
    /// final ACK is dropped and counted, `connect` answers [`super::TcpError::TableFull`].
    pub connections_max: usize,
    /// Half-open connections of one listener; further SYNs are dropped and counted (RFC 4987 section 3).
    pub syn_queue_max: usize,
    /// TIME-WAIT entries of one shard; the oldest is recycled beyond it, and counted.
    pub time_wait_max: usize,
    /// Bytes behind all receive and send queues of one shard. Beyond it each queue may only keep 4 KiB.
    pub buffered_bytes_max: usize,
    /// RSTs, SYN-ACKs and ACKs without a connection that wait to be sent; further ones are dropped and counted.
    pub pending_replies_max: usize,
    /// Ports of active opens (RFC 6056 section 3.2; Linux's range).
    pub ephemeral_ports: RangeInclusive<u16>,
    /// How often a SYN is sent again (Linux: 6, about 127 s).
    pub syn_retries: u8,
    /// How often a SYN-ACK is sent again (Linux: 5, about 63 s).
    pub syn_ack_retries: u8,
    /// Timeouts in a row after which an established connection is given up (Linux's tcp_retries2: 15).
    pub retries: u8,
    /// The same for a connection that its application has closed (Linux's tcp_orphan_retries: 8).
    pub orphan_retries: u8,
    /// RTO before the first sample (RFC 6298 section 2.1).
    pub rto_initial: Duration,
    /// Smallest RTO beyond the round trip (Linux: 200 ms).
    pub rto_min: Duration,
    /// Largest RTO, back-off included (RFC 6298 section 2.5: at least 60 s; Linux: 120 s).
    pub rto_max: Duration,
    /// How long an ACK may wait for company (RFC 9293 section 3.8.6.3: below 500 ms).
    pub delayed_ack: Duration,
    /// TIME-WAIT: twice the maximum segment lifetime of 30 s (RFC 9293 section 3.4.2 has 2 min; Linux as here).
    pub time_wait: Duration,
    /// How long a closed connection waits in FIN-WAIT-2 for the peer's FIN (Linux's tcp_fin_timeout).
    pub fin_wait_2: Duration,
    /// Offer and accept window scaling (RFC 7323 section 2).
    pub window_scaling: bool,
    /// Offer and accept timestamps (RFC 7323 section 3).
    pub timestamps: bool,
    /// Challenge ACKs a second (RFC 5961 section 7; Linux: 1000).
    pub challenge_acks_per_second: u32,
    /// RSTs a second to segments that belong to no connection.
    pub resets_per_second: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            options: SocketOptions::default(),
            connections_max: 262_144,
            syn_queue_max: 4096,
            time_wait_max: 262_144,
            buffered_bytes_max: 1 << 30,
            pending_replies_max: 4096,
            ephemeral_ports: 32_768..=60_999,
            syn_retries: 6,
            syn_ack_retries: 5,
            retries: 15,
            orphan_retries: 8,
            rto_initial: Duration::from_secs(1),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            delayed_ack: Duration::from_millis(40),
            time_wait: Duration::from_secs(60),
            fin_wait_2: Duration::from_secs(60),
            window_scaling: true,
            timestamps: true,
            challenge_acks_per_second: 1000,
            resets_per_second: 10_000,
        }
    }
}
