//! Sets of addresses and networks (`ipset`'s hash:ip and hash:net): looked up by longest prefix in one probe a prefix length
//! that the set uses.

use core::net::IpAddr;
use std::collections::{BTreeMap, HashSet};

use crate::config::Cidr;

/// A set of networks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressSet {
    /// By (IPv6, prefix length): the networks' addresses without host bits.
    networks: BTreeMap<(bool, u8), HashSet<IpAddr>>,
    /// `hash:ip`: only whole addresses.
    pub(super) hosts_only: bool,
}

impl AddressSet {
    /// An empty set; `hosts_only`: of ipset's type hash:ip, which whoever fills it must keep to.
    pub(super) fn new(hosts_only: bool) -> Self {
        Self { networks: BTreeMap::new(), hosts_only }
    }

    /// Adds a network; host bits are ignored.
    pub fn insert(&mut self, network: Cidr) {
        let key = (network.addr.is_ipv6(), network.prefix_len);
        self.networks.entry(key).or_default().insert(masked(network.addr, network.prefix_len));
    }

    /// Whether `addr` lies in one of the networks.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.networks
            .range((addr.is_ipv6(), 0)..=(addr.is_ipv6(), 128))
            .any(|(&(_, prefix_len), networks)| networks.contains(&masked(addr, prefix_len)))
    }

    /// Networks, in order.
    pub fn iter(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.networks.iter().flat_map(|(&(_, prefix_len), networks)| {
            let mut sorted: Vec<IpAddr> = networks.iter().copied().collect();
            sorted.sort_unstable();
            sorted.into_iter().map(move |addr| Cidr { addr, prefix_len })
        })
    }

    /// Number of networks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.networks.values().map(HashSet::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `addr` with all but its first `prefix_len` bits cleared; a longer prefix than the address has is all of it.
pub(super) fn masked(addr: IpAddr, prefix_len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(addr) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(u32::from(prefix_len))).unwrap_or(0);
            IpAddr::from((u32::from(addr) & mask).to_be_bytes())
        }
        IpAddr::V6(addr) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(u32::from(prefix_len))).unwrap_or(0);
            IpAddr::from((u128::from(addr) & mask).to_be_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_networks_of_several_lengths_and_both_versions() {
        let mut set = AddressSet::default();
        for network in ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/0"].into_iter().take(3) {
            set.insert(network.parse().unwrap());
        }
        for (addr, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(set.contains(addr.parse().unwrap()), inside, "{addr}");
        }
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn a_prefix_of_nothing_takes_all_of_its_version() {
        let mut set = AddressSet::default();
        set.insert("0.0.0.0/0".parse().unwrap());
        assert!(set.contains("255.0.0.1".parse().unwrap()));
        assert!(!set.contains("::1".parse().unwrap()));
    }
}
