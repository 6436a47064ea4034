//! TCP's settings: what a socket can choose ([`SocketOptions`], named as in `setsockopt(2)`) and what holds for the whole
//! engine ([`TcpConfig`]: timers and bounds). Defaults are Linux's unless a comment says otherwise.

use core::ops::RangeInclusive;

use super::congestion::Algorithm;
use super::ecn::{AccurateEcnConfig, EcnConfig};
use super::{IpFields, MtuProbing};
use crate::limits;
use crate::time::Duration;

/// `setsockopt(2)`'s names. Defaults come from [`TcpConfig::options`]; a listener's options are inherited by what it accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// `TCP_NODELAY`: send small segments at once instead of by Nagle's rule (RFC 9293 section 3.7.4).
    pub nodelay: bool,
    /// `TCP_CORK`: hold back the last, partial segment for up to a retransmission timeout (200 ms to 1 s).
    pub cork: bool,
    /// `TCP_QUICKACK`: acknowledge every segment at once. Unlike Linux's it stays on until it is turned off.
    pub quickack: bool,
    /// `SO_KEEPALIVE`: probe an idle peer (RFC 9293 section 3.8.4); off by default, as MUST-25 asks.
    /// RFC 9293 section 3.8.4, MUST-24, MAY-5.
    pub keepalive: bool,
    /// `TCP_KEEPIDLE`: silence before the first probe; 7200 s. At least 1 ms.
    /// RFC 9293 section 3.8.4, MUST-27, MUST-28.
    pub keepalive_idle: Duration,
    /// `TCP_KEEPINTVL`: time between probes; 75 s. At least 1 ms.
    pub keepalive_interval: Duration,
    /// `TCP_KEEPCNT`: unanswered probes before the connection is given up; 9. At least 1.
    /// RFC 9293 section 3.8.4, MUST-29.
    pub keepalive_count: u8,
    /// `TCP_USER_TIMEOUT`: how long data (or a SYN) may go without acknowledgment or progress before the connection is
    /// given up (RFC 9293 section 3.8.3's R2, RFC 5482); `None`: [`TcpConfig::give_up_after`]. A closed window counts,
    /// even if the peer answers the probes of it.
    /// RFC 9293 section 3.8.3, MUST-21.
    pub user_timeout: Option<Duration>,
    /// `SO_LINGER`: zero resets the connection on close. Otherwise close sends all data and the FIN, and what the peer has
    /// not acknowledged after this time is given up with a reset; `None`: no such limit.
    pub linger: Option<Duration>,
    /// `SO_RCVBUF`: bound on the memory behind the receive queue, bytes. Three quarters of it are the largest window that
    /// is announced. 4 KiB to 1 GiB, others count as the nearest; 0, the default: begins with 256 KiB and grows to 6 MiB
    /// with what the application reads in a round trip, so that the window does not limit the peer.
    pub receive_buffer_bytes: usize,
    /// `SO_SNDBUF`: bound on bytes written and not acknowledged, at most 1 GiB; 0, the default: twice the congestion
    /// window, between 256 KiB and 4 MiB.
    pub send_buffer_bytes: usize,
    /// `TCP_CONGESTION`: set before the connection is opened; later changes are refused.
    pub congestion: Algorithm,
    /// `TCP_FASTOPEN` of a listener: connections that SYNs with data opened (RFC 7413) and whose handshake is not over, at
    /// most; 0, the default as its section 2 asks: none. While as many wait, further SYNs are answered without Fast Open. At
    /// most [`limits::TCP_FASTOPEN_QLEN`], more counts as that.
    /// RFC 7413 sections 2 and 4.2.
    pub fastopen_qlen: usize,
    /// `TCP_MAXSEG`: bound on the MSS that is announced and on what a segment carries, bytes; 88 to 32,767. `None`, the
    /// default: what the path takes. Set before the connection is opened; a later change bounds only what is sent.
    /// RFC 9293 section 3.7.1.
    pub maxseg: Option<u16>,
    /// `TCP_SYNCNT`: SYNs sent again before an active open fails, 1 to 127; `None`: [`TcpConfig::syn_retries`].
    pub syn_count: Option<u8>,
    /// `TCP_DEFER_ACCEPT` of a listener: accept a connection only when its first data has arrived. The handshake's ACK by
    /// itself is not taken; when the time is over the SYN-ACK is sent again, and an ACK of that one is. A SYN cookie's ACK is
    /// taken at once. `None`, the default: accept at once.
    pub defer_accept: Option<Duration>,
    /// `TCP_WINDOW_CLAMP`: bound on the receive window that is announced, bytes, at least 1152; `None`: what the receive buffer
    /// allows. What was announced before is not taken back.
    pub window_clamp: Option<u32>,
    /// `IP_TOS` and `IP_TTL`, or `IPV6_TCLASS` and `IPV6_UNICAST_HOPS`; a listener's are in its SYN-ACKs, too.
    /// RFC 9293 section 3.9.1.9, SHLD-21.
    pub ip: IpFields,
}

impl Default for SocketOptions {
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
            receive_buffer_bytes: 0,
            send_buffer_bytes: 0,
            congestion: Algorithm::default(),
            fastopen_qlen: 0,
            maxseg: None,
            syn_count: None,
            defer_accept: None,
            window_clamp: None,
            ip: IpFields::default(),
        }
    }
}

impl SocketOptions {
    /// Bound of the receive buffer when a connection begins, bytes.
    #[must_use]
    pub const fn receive_buffer_start(&self) -> usize {
        if self.receive_buffer_bytes == 0 { limits::TCP_BUFFER_START } else { self.receive_buffer_bytes }
    }

    /// The most that it grows to, bytes.
    #[must_use]
    pub const fn receive_buffer_limit(&self) -> usize {
        if self.receive_buffer_bytes == 0 {
            limits::TCP_RECEIVE_BUFFER_GROWTH
        } else {
            self.receive_buffer_bytes
        }
    }

    /// Bound of the send buffer while the congestion window is `cwnd`, both in bytes.
    #[must_use]
    pub fn send_buffer_for(&self, cwnd: u32) -> usize {
        if self.send_buffer_bytes > 0 {
            return self.send_buffer_bytes;
        }
        (cwnd as usize * 2).clamp(limits::TCP_BUFFER_START, limits::TCP_SEND_BUFFER_GROWTH)
    }

    /// Whether every field is within the bounds it names.
    pub(super) fn is_valid(&self) -> bool {
        let tick = Duration::from_millis(1);
        self.keepalive_idle >= tick
            && self.keepalive_interval >= tick
            && self.keepalive_count >= 1
            && self.ip.hop_limit >= 1
            && self.send_buffer_bytes <= limits::TCP_SEND_BUFFER_MAX
            && self.user_timeout.is_none_or(|timeout| timeout >= tick)
            && self.maxseg.is_none_or(|maxseg| limits::TCP_MAXSEG.contains(&maxseg))
            && self.syn_count.is_none_or(|count| (1..=limits::TCP_SYN_COUNT_MAX).contains(&count))
            && self.window_clamp.is_none_or(|clamp| clamp >= limits::TCP_WINDOW_CLAMP_MIN)
    }

    /// `window` within `window_clamp`.
    pub(super) fn clamped(&self, window: usize) -> usize {
        self.window_clamp.map_or(window, |clamp| window.min(clamp as usize))
    }
}

/// Defaults for new connections and the engine's bounds, each for one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpConfig {
    /// Options of a socket that does not choose.
    pub options: SocketOptions,
    /// Offer and accept timestamps (RFC 7323 section 3).
    pub timestamps: bool,
    /// Take segments that lack the timestamps agreed on, as Linux does; off: drop them (RFC 7323 section 3.2).
    pub timestamps_optional: bool,
    /// Offer and accept window scaling (RFC 7323 section 2).
    pub window_scaling: bool,
    /// Offer and accept SACK (RFC 2018); with it losses are found by RACK-TLP (RFC 8985), without it by duplicate ACKs
    /// (RFC 6582).
    pub sack: bool,
    /// Pace what a window-based congestion control allows, at Linux's rates: 2 windows a round trip in slow start, 1.2 after
    /// it. Off, as in Linux without a pacing queue discipline; BBR paces always.
    pub pacing: bool,
    /// Whether the path's MTU is probed where ICMP does not tell it (RFC 4821).
    pub mtu_probing: MtuProbing,
    /// Ports for [`super::Tcp::connect`] with port 0; 32768 to 60999. The shard uses those that are its own.
    pub ephemeral_ports: RangeInclusive<u16>,
    /// Begin anew with the initial window when nothing was sent for a retransmission timeout (RFC 5681 section 4.1, Linux's
    /// `tcp_slow_start_after_idle`). On.
    pub slow_start_after_idle: bool,
    /// Retransmission timeout before the round-trip time is known; 1 s (RFC 6298 section 2.1).
    pub initial_rto: Duration,
    /// Least retransmission timeout; 200 ms (RFC 6298 section 2.4 asks for 1 s, everyone uses less).
    pub min_rto: Duration,
    /// Largest retransmission timeout; 120 s (RFC 6298 section 2.5 asks for at least 60 s).
    pub max_rto: Duration,
    /// SYNs that time out before the timeout begins to double: Linux's `tcp_syn_linear_timeouts`, 4 there. 0, as RFC 6298 section
    /// 5.5 asks.
    pub syn_linear_timeouts: u8,
    /// SYNs sent again before an active open fails; 7. With Linux's 6 the last one would go out after 63 s and the end come
    /// after 127 s, less than the 3 minutes of RFC 9293 section 3.8.3 (MUST-23).
    pub syn_retries: u8,
    /// When an active open whose last SYN is not answered fails, counted from the first SYN; 180 s, what that section asks
    /// for. Earlier if the retransmission timeout ends earlier, later if the last SYN was sent later.
    pub syn_give_up_after: Duration,
    /// SYN-ACKs sent again before a half-open connection is forgotten; 5, that is after 63 s. At most 7.
    pub syn_ack_retries: u8,
    /// How long data goes unacknowledged, or probes unanswered, before a connection is given up (RFC 9293 section 3.8.3's
    /// R2, at least 100 s); 924.6 s, what Linux's `tcp_retries2` of 15 amounts to.
    /// RFC 9293 section 3.8.3, SHLD-11.
    pub give_up_after: Duration,
    /// The same for a connection that the application has closed; 102.2 s, Linux's 8 orphan retries.
    pub orphan_give_up_after: Duration,
    /// How long a closed connection waits for the peer's FIN (Linux's `tcp_fin_timeout`); 60 s.
    pub fin_wait2_timeout: Duration,
    /// 2 MSL; 60 s.
    pub time_wait: Duration,
    /// When every port towards a peer is in use, take one in TIME-WAIT for at least a second whose connection had
    /// timestamps (RFC 6191 section 2 makes the peer accept it; Linux's `tcp_tw_reuse`). On.
    pub time_wait_reuse: bool,
    /// Challenge ACKs a second for half-open and TIME-WAIT entries together, which have no room for a count of their
    /// own; 1000.
    pub challenge_acks_per_second: u32,
    /// Challenge ACKs of one connection in `challenge_interval`; 10 (RFC 5961 section 7). Linux's `tcp_invalid_ratelimit` is the
    /// interval for one.
    pub challenge_acks: u8,
    /// See `challenge_acks`; 5 s.
    pub challenge_interval: Duration,
    /// Most connections, ended ones with a held handle included; 262,144, about 256 MiB when all are idle. Beyond it SYNs
    /// are dropped and counted and [`super::Tcp::connect`] fails.
    pub connections_max: usize,
    /// Most listeners; 4096. Beyond it [`super::Tcp::listen`] fails.
    pub listeners_max: usize,
    /// Most half-open connections; 16,384 in 1.5 MiB. One listener takes at most the larger of its backlog and 1/4 of it.
    /// Beyond it SYN cookies are sent, or without `syn_cookies` SYNs are dropped and counted; the peers send them again.
    pub syn_queue_max: usize,
    /// Most TIME-WAIT entries; 131,072 in 12 MiB. Beyond it the oldest ends early, and is counted.
    pub time_wait_max: usize,
    /// Memory behind all send and receive buffers, bytes; 512 MiB. Beyond it a connection takes in and may write no more
    /// than [`limits::TCP_PRESSURE_BUFFER_BYTES`] in each direction, and windows stop growing.
    pub buffered_bytes_max: usize,
    /// Answer SYNs for which the SYN queue has no room with SYN cookies (RFC 4987 section 3.6, Linux's `tcp_syncookies`), which
    /// take no memory. The connection's MSS is then one of eight values, and it has window scaling and SACK only if the
    /// client uses timestamps; a SYN-ACK that is lost is not sent again unless the client repeats its SYN. On.
    pub syn_cookies: bool,
    /// Fast Open (RFC 7413). Listeners and connections still have to ask for it.
    pub fastopen: FastOpenConfig,
    /// Copy payload out of the frames it arrived in at once, as is done anyway while few frames are free
    /// ([`limits::SHARED_FRAMES_FRACTION`]): slower, but what applications do not read keeps no frame from the device. Off.
    pub copy_received: bool,
    /// Explicit congestion notification (RFC 3168), Linux's `tcp_ecn`; agreed to, not asked for.
    pub ecn: EcnConfig,
    /// What accurate ECN does where it is agreed on.
    pub accurate_ecn: AccurateEcnConfig,
}

/// Fast Open's settings (RFC 7413), Linux's sysctls of the same subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FastOpenConfig {
    /// Servers take a SYN's data without a cookie (section 7.3; bit 0x200 of `tcp_fastopen`). Off: with it anyone can have
    /// requests served for spoofed addresses.
    pub server_without_cookie: bool,
    /// Clients send data in the SYN without a cookie (bit 0x4 of `tcp_fastopen`). Off.
    pub client_without_cookie: bool,
    /// Keys for cookies (`tcp_fastopen_key`), the same on all servers behind one address (section 6.3.4); `None`: derived
    /// from the stack's seed, a new one every `key_lifetime`, of which the last two are valid.
    pub keys: Option<FastOpenKeys>,
    /// How long cookies are made with one derived key; 12 h, so a cookie is good for 12 to 24 h. At least 1 s.
    pub key_lifetime: Duration,
    /// Pairs of addresses for which a shard remembers cookies; 1024 in 128 KiB. Beyond it the one not used for longest is
    /// forgotten, and the next connection there asks for a cookie again. 0: every connection does.
    pub cache_entries: usize,
    /// How long a client leaves Fast Open alone towards a server after two SYNs with it were lost in a row; 1 h, doubling with
    /// each further one up to 64 h (section 7.1; `tcp_fastopen_blackhole_timeout_sec`, which Linux applies to all servers).
    pub blackhole_pause: Duration,
}

/// Two keys for Fast Open cookies: new cookies are made with the first, those of the second are still good.
#[derive(Clone, PartialEq, Eq)]
pub struct FastOpenKeys {
    /// Makes and checks cookies.
    pub primary: [u8; 16],
    /// Checks those of the key used before.
    pub backup: Option<[u8; 16]>,
}

impl core::fmt::Debug for FastOpenKeys {
    /// Tells nothing.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FastOpenKeys")
    }
}

impl Default for FastOpenConfig {
    fn default() -> Self {
        Self {
            server_without_cookie: false,
            client_without_cookie: false,
            keys: None,
            key_lifetime: Duration::from_secs(12 * 3600),
            cache_entries: 1024,
            blackhole_pause: Duration::from_secs(3600),
        }
    }
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            options: SocketOptions::default(),
            timestamps: true,
            timestamps_optional: false,
            window_scaling: true,
            sack: true,
            mtu_probing: MtuProbing::default(),
            pacing: false,
            ephemeral_ports: 32768..=60999,
            slow_start_after_idle: true,
            initial_rto: Duration::from_secs(1),
            min_rto: Duration::from_millis(200),
            max_rto: Duration::from_secs(120),
            syn_linear_timeouts: 0,
            syn_retries: 7,
            syn_give_up_after: Duration::from_secs(180),
            syn_ack_retries: 5,
            give_up_after: Duration::from_millis(924_600),
            orphan_give_up_after: Duration::from_millis(102_200),
            fin_wait2_timeout: Duration::from_secs(60),
            time_wait: Duration::from_secs(60),
            time_wait_reuse: true,
            challenge_acks_per_second: 1000,
            challenge_acks: limits::TCP_CHALLENGE_ACKS,
            challenge_interval: limits::TCP_CHALLENGE_INTERVAL,
            connections_max: 262_144,
            listeners_max: 4096,
            syn_queue_max: 16_384,
            time_wait_max: 131_072,
            buffered_bytes_max: 512 << 20,
            syn_cookies: true,
            fastopen: FastOpenConfig::default(),
            copy_received: false,
            ecn: EcnConfig::default(),
            accurate_ecn: AccurateEcnConfig::default(),
        }
    }
}

/// What is wrong with a [`TcpConfig`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TcpConfigError {
    /// A table without room, or with more than indices reach.
    #[error("{name} is {value}, but must be 1 to {max}", max = limits::TCP_TABLE_MAX)]
    BadTableSize {
        /// Field of [`TcpConfig`].
        name: &'static str,
        /// Its value.
        value: usize,
    },
    /// Retransmission timeouts out of order.
    #[error(
        "retransmission timeouts must satisfy 1 ms <= min_rto ({0:?}) <= initial_rto ({1:?}) <= max_rto ({2:?}) <= 240 s"
    )]
    BadRto(Duration, Duration, Duration),
    /// SYN-ACKs back off in as many lists as retries.
    #[error("syn_ack_retries is {0}, but must be at most {max}", max = super::syn_queue::RETRIES_MAX)]
    BadSynAckRetries(u8),
    /// No port to choose from.
    #[error("ephemeral_ports {0:?} holds no port")]
    NoEphemeralPorts(RangeInclusive<u16>),
    /// A key that expires as soon as it is made, or a cache beyond what indices reach.
    #[error("fastopen.key_lifetime is {0:?} and fastopen.cache_entries {1}, but must be at least 1 s and at most {max}",
        max = limits::TCP_TABLE_MAX)]
    BadFastOpen(Duration, usize),
    /// Default options outside their bounds.
    #[error("an option of the defaults is outside its bounds: {0:?}")]
    BadOptions(Box<SocketOptions>),
}

impl TcpConfig {
    /// Checks every bound that a field names.
    ///
    /// # Errors
    /// The first field that is outside its bounds.
    pub fn validate(&self) -> Result<(), TcpConfigError> {
        for (name, value) in [
            ("connections_max", self.connections_max),
            ("listeners_max", self.listeners_max),
            ("syn_queue_max", self.syn_queue_max),
            ("time_wait_max", self.time_wait_max),
        ] {
            if !(1..=limits::TCP_TABLE_MAX).contains(&value) {
                return Err(TcpConfigError::BadTableSize { name, value });
            }
        }
        let rto = [
            Duration::from_millis(1),
            self.min_rto,
            self.initial_rto,
            self.max_rto,
            Duration::from_secs(240),
        ];
        if !rto.is_sorted() {
            return Err(TcpConfigError::BadRto(self.min_rto, self.initial_rto, self.max_rto));
        }
        if self.syn_ack_retries > super::syn_queue::RETRIES_MAX {
            return Err(TcpConfigError::BadSynAckRetries(self.syn_ack_retries));
        }
        if self.ephemeral_ports.is_empty() || *self.ephemeral_ports.end() == 0 {
            return Err(TcpConfigError::NoEphemeralPorts(self.ephemeral_ports.clone()));
        }
        let FastOpenConfig { key_lifetime, cache_entries, .. } = self.fastopen;
        if key_lifetime < Duration::from_secs(1) || cache_entries > limits::TCP_TABLE_MAX {
            return Err(TcpConfigError::BadFastOpen(key_lifetime, cache_entries));
        }
        if !self.options.is_valid() {
            return Err(TcpConfigError::BadOptions(Box::new(self.options.clone())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(TcpConfig::default().validate(), Ok(()));
    }

    #[test]
    fn each_bound_is_checked() {
        let with = |change: fn(&mut TcpConfig)| {
            let mut config = TcpConfig::default();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert!(matches!(
            with(|c| c.time_wait_max = 0),
            TcpConfigError::BadTableSize { name: "time_wait_max", value: 0 }
        ));
        assert!(matches!(with(|c| c.connections_max = 1 << 31), TcpConfigError::BadTableSize { .. }));
        assert!(matches!(with(|c| c.min_rto = c.max_rto * 2), TcpConfigError::BadRto(..)));
        assert_eq!(with(|c| c.syn_ack_retries = 8), TcpConfigError::BadSynAckRetries(8));
        assert!(matches!(with(|c| c.ephemeral_ports = 0..=0), TcpConfigError::NoEphemeralPorts(_)));
        assert!(matches!(with(|c| c.options.keepalive_count = 0), TcpConfigError::BadOptions(_)));
        assert!(matches!(with(|c| c.options.maxseg = Some(87)), TcpConfigError::BadOptions(_)));
        assert!(matches!(with(|c| c.options.syn_count = Some(128)), TcpConfigError::BadOptions(_)));
        assert!(matches!(with(|c| c.options.window_clamp = Some(1)), TcpConfigError::BadOptions(_)));
        let short = Duration::from_millis(999);
        assert_eq!(
            with(|c| c.fastopen.key_lifetime = Duration::from_millis(999)),
            TcpConfigError::BadFastOpen(short, 1024)
        );
        assert!(matches!(with(|c| c.fastopen.cache_entries = 1 << 31), TcpConfigError::BadFastOpen(..)));
    }

    #[test]
    fn keys_are_not_printed() {
        let keys = FastOpenKeys { primary: [1; 16], backup: None };
        assert_eq!(format!("{keys:?}"), "FastOpenKeys");
    }
}
