//! Linux's `net.ipv4.tcp_*` as the engine's configuration: read when a socket is made, because scripts set them after the
//! runner has loaded this object. Flags stand above `/proc`; what neither says keeps Linux's default.

use std::ops::RangeInclusive;
use std::path::Path;

use bywash::tcp::{
    AccurateEcnConfig, AccurateEcnOption, EcnConfig, FastOpenConfig, FastOpenKeys, MtuProbing, SocketOptions,
    TcpConfig,
};
use bywash::time::Duration;

use crate::flags::Flags;
use crate::sockopt::buffer_for_window;

/// Bits of `tcp_fastopen`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FastOpenUse {
    pub(crate) clients: bool,
    pub(crate) servers: bool,
    /// Listeners need not ask for it.
    pub(crate) all_listeners: bool,
}

/// Where sysctls are looked up.
pub(crate) struct Sysctls<'a> {
    flags: &'a Flags,
    root: &'a Path,
}

impl<'a> Sysctls<'a> {
    /// The flags', then the namespace's.
    pub(crate) fn new(flags: &'a Flags) -> Self {
        Self { flags, root: Path::new("/proc/sys/net") }
    }

    fn text(&self, directory: &str, name: &str) -> Option<String> {
        if let Some(value) = self.flags.sysctls.get(name) {
            // Commas end a flag, so lists have colons there.
            return Some(value.replace(':', " "));
        }
        let text = std::fs::read_to_string(self.root.join(directory).join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    fn numbers(&self, directory: &str, name: &str) -> Vec<u64> {
        let text = self.text(directory, name).unwrap_or_default();
        let number = |word: &str| match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        };
        text.split_whitespace().map_while(number).collect()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.numbers("ipv4", name).first().copied()
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.number(name).map_or(default, |value| value != 0)
    }

    fn ports(&self, default: RangeInclusive<u16>) -> RangeInclusive<u16> {
        match self.numbers("ipv4", "ip_local_port_range")[..] {
            [low, high] if (1..=high).contains(&low) && high <= 65_535 => low as u16..=high as u16,
            _ => default,
        }
    }

    /// Largest value of `SO_RCVBUF` and `SO_SNDBUF` that is taken.
    pub(crate) fn buffer_max(&self, receive: bool) -> usize {
        let name = if receive { "rmem_max" } else { "wmem_max" };
        self.numbers("core", name).first().map_or(212_992, |value| *value as usize)
    }

    /// `tcp_syn_retries`.
    pub(crate) fn syn_retries(&self) -> i32 {
        self.number("tcp_syn_retries").map_or(6, |count| count.min(127) as i32)
    }

    /// Longest accept queue.
    pub(crate) fn somaxconn(&self) -> usize {
        self.numbers("core", "somaxconn").first().map_or(4096, |value| *value as usize)
    }

    /// `tcp_rmem` or `tcp_wmem`: least, first and largest buffer, bytes.
    pub(crate) fn buffers(&self, name: &str) -> [usize; 3] {
        match self.numbers("ipv4", name)[..] {
            [least, first, most] => [least as usize, first as usize, most as usize],
            _ if name == "tcp_rmem" => [4096, 131_072, 6_291_456],
            _ => [4096, 16_384, 4_194_304],
        }
    }

    /// `tcp_min_tso_segs`.
    pub(crate) fn burst_min(&self) -> usize {
        self.number("tcp_min_tso_segs").map_or(2, |segments| segments.clamp(1, 65_535) as usize)
    }

    /// Who may use Fast Open: `tcp_fastopen`, clients by default.
    pub(crate) fn fastopen(&self) -> FastOpenUse {
        let bits = self.number("tcp_fastopen").unwrap_or(1);
        FastOpenUse { clients: bits & 1 != 0, servers: bits & 2 != 0, all_listeners: bits & 0x400 != 0 }
    }

    /// `tcp_fastopen_key`: four words of hexadecimal digits each, two keys with a comma between.
    fn fastopen_keys(&self) -> Option<FastOpenKeys> {
        let text = self.text("ipv4", "tcp_fastopen_key")?;
        let key = |text: &str| -> Option<[u8; 16]> {
            let mut key = [0; 16];
            let mut words = text.trim().split('-');
            for place in key.chunks_exact_mut(4) {
                place.copy_from_slice(&u32::from_str_radix(words.next()?, 16).ok()?.to_le_bytes());
            }
            Some(key)
        };
        let mut keys = text.split([',', ' ']).map(key);
        Some(FastOpenKeys { primary: keys.next()??, backup: keys.next().flatten() })
    }

    fn fastopen_config(&self) -> FastOpenConfig {
        let bits = self.number("tcp_fastopen").unwrap_or(1);
        FastOpenConfig {
            server_without_cookie: bits & 0x200 != 0,
            client_without_cookie: bits & 4 != 0,
            keys: self.fastopen_keys(),
            ..FastOpenConfig::default()
        }
    }

    /// The whole configuration.
    pub(crate) fn config(&self) -> TcpConfig {
        let default = TcpConfig::default();
        let seconds = |name: &str, default: Duration| {
            self.number(name).filter(|value| *value > 0).map_or(default, Duration::from_secs)
        };
        let count = |name: &str, default: u8| self.number(name).map_or(default, |value| value.min(255) as u8);
        let min_rto = self.number("tcp_rto_min_us").map_or(default.min_rto, Duration::from_micros);
        let min_rto = min_rto.clamp(Duration::from_millis(1), default.initial_rto);
        let give_up = |name: &str, floor: u32| {
            self.number(name)
                .map(|retries| retries_time(min_rto, default.max_rto, (retries as u32).max(floor)))
        };
        let options = SocketOptions {
            keepalive_idle: seconds("tcp_keepalive_time", default.options.keepalive_idle),
            keepalive_interval: seconds("tcp_keepalive_intvl", default.options.keepalive_interval),
            keepalive_count: count("tcp_keepalive_probes", default.options.keepalive_count).max(1),
            receive_buffer_bytes: buffer_for_window(self.buffers("tcp_rmem")[2].clamp(4096, 1 << 29)),
            send_buffer_bytes: self.buffers("tcp_wmem")[2].clamp(4096, 1 << 30),
            congestion: self
                .text("ipv4", "tcp_congestion_control")
                // What a machine prefers is not what scripts expect: CUBIC, unless they set another.
                .filter(|name| *name != self.flags.inherited_congestion)
                .and_then(|name| name.parse().ok())
                .unwrap_or(default.options.congestion),
            ..default.options
        };
        let config = TcpConfig {
            options,
            timestamps: self.flag("tcp_timestamps", true),
            timestamps_optional: true,
            sack: self.flag("tcp_sack", true),
            challenge_acks: 1,
            challenge_interval: Duration::from_millis(self.number("tcp_invalid_ratelimit").unwrap_or(500)),
            mtu_probing: match self.number("tcp_mtu_probing") {
                Some(2) => MtuProbing::Always,
                Some(1) => MtuProbing::OnBlackHole,
                _ => MtuProbing::Off,
            },
            window_scaling: self.flag("tcp_window_scaling", true),
            ephemeral_ports: self.ports(default.ephemeral_ports.clone()),
            min_rto,
            syn_retries: count("tcp_syn_retries", 6).max(1),
            syn_give_up_after: Duration::from_secs(127),
            syn_ack_retries: count("tcp_synack_retries", default.syn_ack_retries).min(7),
            give_up_after: give_up("tcp_retries2", 0).unwrap_or(default.give_up_after),
            // An orphan's 0 stands for 8, as in Linux.
            orphan_give_up_after: match self.number("tcp_orphan_retries") {
                None | Some(0) => default.orphan_give_up_after,
                Some(retries) => retries_time(min_rto, default.max_rto, retries as u32),
            },
            fin_wait2_timeout: seconds("tcp_fin_timeout", default.fin_wait2_timeout),
            time_wait_reuse: self.flag("tcp_tw_reuse", true),
            syn_cookies: self.flag("tcp_syncookies", true),
            ecn: self
                .number("tcp_ecn")
                .and_then(|number| EcnConfig::from_sysctl(u8::try_from(number).ok()?))
                .unwrap_or(default.ecn),
            accurate_ecn: AccurateEcnConfig {
                option: match self.number("tcp_ecn_option") {
                    Some(0) => AccurateEcnOption::Never,
                    Some(1) => AccurateEcnOption::OnChange,
                    _ => AccurateEcnOption::Always,
                },
                control_packets: true,
                check_path: self.flag("tcp_ecn_fallback", true),
            },
            slow_start_after_idle: self.flag("tcp_slow_start_after_idle", true),
            max_rto: self
                .number("tcp_rto_max_ms")
                .map_or(default.max_rto, Duration::from_millis)
                .clamp(default.initial_rto, Duration::from_secs(120)),
            syn_linear_timeouts: count("tcp_syn_linear_timeouts", 4),
            fastopen: self.fastopen_config(),
            ..default
        };
        match config.validate() {
            Ok(()) => config,
            Err(_) => TcpConfig::default(),
        }
    }
}

/// How long `retries` retransmissions take from `min_rto` on, doubled up to `max_rto` (Linux's `tcp_retries2`).
fn retries_time(min_rto: Duration, max_rto: Duration, retries: u32) -> Duration {
    (0..=retries.min(255)).map(|i| min_rto.saturating_mul(1 << i.min(20)).min(max_rto)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_above_proc_and_lists_have_colons() {
        let flags = Flags::parse("tcp_timestamps=0,tcp_rmem=4096:8192:16384,ip_local_port_range=100:200");
        let config = Sysctls { flags: &flags, root: Path::new("/nonexistent") }.config();
        assert!(!config.timestamps);
        assert_eq!(config.options.receive_buffer_bytes, buffer_for_window(16_384));
        assert_eq!(config.ephemeral_ports, 100..=200);
        assert_eq!(config.options.keepalive_count, 9);
    }

    #[test]
    fn fifteen_retries_are_linuxs_924_seconds() {
        let time = retries_time(Duration::from_millis(200), Duration::from_secs(120), 15);
        assert_eq!(time, Duration::from_millis(924_600));
    }
}
