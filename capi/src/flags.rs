//! The runner's `--so_flags`: `name=value` pairs between commas. Names of sysctls (`tcp_timestamps=0`) stand above what
//! `/proc/sys/net` says; `local_ipv4`, `local_ipv6`, `mtu_ipv4`, `mtu_ipv6` and `tso` describe the network.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What the runner asked for.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    /// The source of connections from a socket that is not bound.
    pub(crate) local_ipv4: Ipv4Addr,
    pub(crate) local_ipv6: Ipv6Addr,
    /// MTU of the wire; 1500 for IPv4 and 1520 for IPv6, so that both have an MSS of 1460 as scripts expect.
    pub(crate) mtu_ipv4: usize,
    pub(crate) mtu_ipv6: usize,
    /// Join segments that leave together into one packet; off.
    pub(crate) join: bool,
    /// Sysctls by the last part of their names.
    pub(crate) sysctls: HashMap<String, String>,
    /// The congestion control that the machine preferred when the runner began: not a script's wish.
    pub(crate) inherited_congestion: String,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            local_ipv4: Ipv4Addr::new(192, 168, 0, 1),
            local_ipv6: Ipv6Addr::new(0xfd3d, 0x0a0b, 0x17d6, 0, 0, 0, 0, 1),
            mtu_ipv4: 1500,
            mtu_ipv6: 1520,
            join: false,
            sysctls: HashMap::new(),
            inherited_congestion: std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
                .map(|name| name.trim().to_owned())
                .unwrap_or_default(),
        }
    }
}

impl Flags {
    /// Reads flags. What is neither a known name nor a pair is kept as a sysctl that nothing asks for.
    pub(crate) fn parse(text: &str) -> Self {
        let mut flags = Self::default();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "1"));
            let mtu = |old: usize| value.parse().unwrap_or(old).clamp(1280, 65_535);
            match name {
                "local_ipv4" => flags.local_ipv4 = value.parse().unwrap_or(flags.local_ipv4),
                "local_ipv6" => flags.local_ipv6 = value.parse().unwrap_or(flags.local_ipv6),
                "mtu_ipv4" => flags.mtu_ipv4 = mtu(flags.mtu_ipv4),
                "mtu_ipv6" => flags.mtu_ipv6 = mtu(flags.mtu_ipv6),
                "tso" => flags.join = value != "0",
                _ => {
                    let name = name.rsplit('.').next().unwrap_or(name);
                    flags.sysctls.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_the_rest_has_defaults() {
        let flags = Flags::parse("local_ipv4=10.0.0.1, mtu_ipv4=9000,net.ipv4.tcp_sack=0,junk,mtu_ipv6=x");
        assert_eq!(flags.local_ipv4, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!((flags.mtu_ipv4, flags.mtu_ipv6), (9000, 1520));
        assert_eq!(flags.sysctls["tcp_sack"], "0");
        assert_eq!(flags.sysctls["junk"], "1");
    }
}
