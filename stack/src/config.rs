//! The stack's configuration: addresses, routes, TCP's defaults, pool and limits; checked once at the start.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::flow::filter::{RuleSet, Table};
use crate::flow::gate::GateConfig;
use crate::limits;
pub use crate::net::router_advert::{Advertise, AdvertiseError, AdvertisedPrefix};
use crate::tcp::{TcpConfig, TcpConfigError};

/// An address with the prefix of its link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cidr {
    /// The address.
    pub addr: IpAddr,
    /// Bits of the network part: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub prefix_len: u8,
}

/// A route through a gateway; routes to the addresses' own links need no entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// Destination network (host bits are ignored).
    pub destination: Cidr,
    /// Next hop, which must be on one of the links.
    pub gateway: IpAddr,
    /// The link that the gateway is on, where its address does not tell (a link-local one on a stack with several links);
    /// `None`: the one whose network has it.
    pub link: Option<usize>,
}

/// How the stack uses its addresses together with the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AddressUse {
    /// The addresses are the stack's alone: it answers ARP, ND and ping for them.
    #[default]
    Own,
    /// The kernel has the same addresses: only the ports opened here are ours, the kernel answers ARP, ND and ping.
    Shared,
}

/// What to make of TCP and UDP packets whose checksum their sender left to a device (Linux's `CHECKSUM_PARTIAL`): only the
/// pseudo-header's sum is in the field. A neighbour on the same machine that offloads checksums sends nothing else over veth
/// and virtio; off a real wire a NIC has completed them. Complete checksums are verified in every mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PartialChecksums {
    /// As the device says: trust on veth and virtio, verify on others.
    #[default]
    Auto,
    /// Every packet must bring a complete, correct checksum; partial ones are dropped as
    /// [`DropReason::PartialChecksum`](crate::counters::DropReason), which says what to do.
    Verify,
    /// Partial ones are accepted without a check: nothing in the packet says whether its payload is intact, so the way from
    /// the neighbour must not damage it.
    Trust,
}

impl PartialChecksums {
    /// Whether they are accepted from a device that says `partial` of itself.
    #[must_use]
    pub fn accepts(self, partial: bool) -> bool {
        match self {
            Self::Auto => partial,
            Self::Verify => false,
            Self::Trust => true,
        }
    }
}

/// A link of a stack that joins several NICs, beyond the first.
#[derive(Clone, Debug, Default)]
pub struct LinkConfig {
    /// The interface's name, as rules match it.
    pub name: String,
    /// Static addresses; together with those of the other links at most [`limits::INTERFACE_ADDRESSES`].
    pub addresses: Vec<Cidr>,
    /// Ask for an IPv4 address, gateway and name servers by DHCP. Only one link of a stack does.
    pub dhcp: bool,
    /// Upper bound on the IP packet size, in bytes; `None`: the device's.
    pub mtu: Option<usize>,
}

/// Which sources are believed of packets to be forwarded (RFC 3704).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReversePath {
    /// All.
    Off,
    /// Those to which there is a route (RFC 3704 section 2.4 without default routes' exemption).
    Loose,
    /// Those to which the route is the link that they came by (RFC 3704 section 2.2).
    #[default]
    Strict,
}

/// How a stack with several links forwards packets that are not for itself (RFC 1812).
#[derive(Clone, Debug, Default)]
pub struct ForwardConfig {
    /// Whose packets are forwarded.
    pub reverse_path: ReversePath,
    /// What the hosts of links are told of this router, by the links' numbers (the first's is 0). On the other links no
    /// router is advertised.
    pub advertise: BTreeMap<usize, Advertise>,
    /// What becomes of a SYN from outside that nobody expects.
    pub unsolicited_syn: UnsolicitedSyn,
}

/// How a NAT answers a SYN that comes by a link beyond which it hides the inside, and that is neither let in nor for who listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnsolicitedSyn {
    /// After six seconds by an ICMP error, unless the connection is opened from inside meanwhile, too (RFC 5382 REQ-4): so hosts
    /// behind two NATs can open one at once.
    #[default]
    Wait,
    /// At once with a RST, as Linux does.
    Reset,
}

/// Everything a shard must know; the same for all shards of an interface.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Static addresses, at most [`limits::INTERFACE_ADDRESSES`]. An IPv6 link-local address is added when there is
    /// any IPv6 address and none of them is link-local.
    pub addresses: Vec<Cidr>,
    /// Routes through gateways, at most [`limits::INTERFACE_ROUTES`].
    pub routes: Vec<Route>,
    /// Own or shared with the kernel.
    pub address_use: AddressUse,
    /// Ask for an IPv4 address, gateway and name servers by DHCP (first shard only; the others are told).
    pub dhcp: bool,
    /// Name servers, at most 4.
    pub dns_servers: Vec<IpAddr>,
    /// What to make of checksums that were left to a device.
    pub partial_checksums: PartialChecksums,
    /// Merge the TCP segments of a burst that follow each other, before they are looked up ([`crate::offload::gro`]).
    pub gro: bool,
    /// Upper bound on the IP packet size, in bytes; `None`: the device's.
    pub mtu: Option<usize>,
    /// Software segmentation: TCP sends super-segments, which are cut into packets where frames are filled. The packets are
    /// the same without it.
    pub gso: bool,
    /// Rules for what this host receives and sends; `None`: all may pass, and nothing is asked.
    pub filter: Option<FilterConfig>,
    /// Further links, each a link of the device ([`crate::device::Device::links`]) in order; the first is what `addresses`,
    /// `dhcp` and `mtu` above and the rules' interface say.
    pub further_links: Vec<LinkConfig>,
    /// Forward between the links; `None`: what is not for this host is dropped.
    pub forward: Option<ForwardConfig>,
    /// TCP's defaults and bounds.
    pub tcp: TcpConfig,
    /// Secret from which each shard's random numbers, ISNs and hash keys come. Must be unpredictable on a real network;
    /// a constant makes a simulation repeatable. ISN and cookie secrets are the same on all shards.
    pub seed: [u8; 32],
}

impl StackConfig {
    /// A configuration with these addresses, no routes and defaults for the rest.
    #[must_use]
    pub fn new(addresses: Vec<Cidr>, seed: [u8; 32]) -> Self {
        Self {
            addresses,
            routes: Vec::new(),
            address_use: AddressUse::Own,
            dhcp: false,
            dns_servers: Vec::new(),
            partial_checksums: PartialChecksums::Auto,
            gro: true,
            mtu: None,
            gso: true,
            filter: None,
            further_links: Vec::new(),
            forward: None,
            tcp: TcpConfig::default(),
            seed,
        }
    }

    /// Checks the configuration against itself and against a device whose first link has packets of at most `device_mtu`
    /// bytes.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self, device_mtu: usize) -> Result<(), ConfigError> {
        let further = self.further_links.iter().map(|link| (&link.addresses, link.dhcp));
        let links: Vec<_> = [(&self.addresses, self.dhcp)].into_iter().chain(further).collect();
        if links.iter().any(|(addresses, dhcp)| addresses.is_empty() && !dhcp) {
            return Err(ConfigError::NoAddress);
        }
        if links.iter().filter(|(_, dhcp)| *dhcp).count() > 1 {
            return Err(ConfigError::SeveralDhcpLinks);
        }
        // The link-local address and DHCP's take a place each.
        let ipv6 = |cidr: &Cidr| matches!(cidr.addr, IpAddr::V6(_));
        let link_local = |cidr: &Cidr| matches!(cidr.addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
        let places = |(addresses, dhcp): &(&Vec<Cidr>, bool)| {
            let generated = addresses.iter().any(ipv6) && !addresses.iter().any(link_local);
            addresses.len() + usize::from(generated) + usize::from(*dhcp)
        };
        let addresses = links.iter().map(places).sum();
        if addresses > limits::INTERFACE_ADDRESSES {
            return Err(ConfigError::TooManyAddresses(addresses));
        }
        if let Some(bad) = links.iter().flat_map(|link| link.0).find(|cidr| !cidr.is_host()) {
            return Err(ConfigError::BadAddress(bad.addr));
        }
        self.validate_routes()?;
        for (at, advertise) in self.forward.iter().flat_map(|forward| &forward.advertise) {
            let here = links.get(*at).ok_or(ConfigError::NoSuchLink(*at))?;
            advertise.validate(here.0)?;
        }
        if self.dns_servers.len() > limits::DNS_SERVERS {
            return Err(ConfigError::TooManyDnsServers(self.dns_servers.len()));
        }
        self.tcp.validate()?;
        if let Some(filter) = self.filter.as_ref().filter(|_| self.forward.is_none()) {
            filter.validate()?;
        }
        check_mtu(self.mtu, &self.addresses, device_mtu)
    }

    /// The static addresses of all links, each with its link's number.
    pub fn all_addresses(&self) -> impl Iterator<Item = (Cidr, usize)> {
        let first = self.addresses.iter().map(|cidr| (*cidr, 0));
        let further = self.further_links.iter().zip(1..);
        first.chain(further.flat_map(|(link, at)| link.addresses.iter().map(move |cidr| (*cidr, at))))
    }

    /// The names of all links, as rules match them; the first's is empty without rules.
    #[must_use]
    pub fn link_names(&self) -> Vec<String> {
        let first = self.filter.as_ref().map(|filter| filter.interface.clone()).unwrap_or_default();
        [first].into_iter().chain(self.further_links.iter().map(|link| link.name.clone())).collect()
    }

    /// The link that gets its address by DHCP.
    #[must_use]
    pub fn dhcp_link(&self) -> Option<usize> {
        if self.dhcp { Some(0) } else { Some(self.further_links.iter().position(|link| link.dhcp)? + 1) }
    }

    fn validate_routes(&self) -> Result<(), ConfigError> {
        let routes = self.routes.len() + usize::from(self.dhcp_link().is_some());
        if routes > limits::INTERFACE_ROUTES {
            return Err(ConfigError::TooManyRoutes(routes));
        }
        for route in &self.routes {
            if route.destination.addr.is_ipv4() != route.gateway.is_ipv4() {
                return Err(ConfigError::GatewayOfOtherFamily(route.gateway, route.destination));
            }
            let link_local = matches!(route.gateway, IpAddr::V6(addr) if addr.is_unicast_link_local());
            let all = || self.all_addresses().filter(|(_, link)| route.link.is_none_or(|on| on == *link));
            let ipv6 = all().any(|(cidr, _)| cidr.addr.is_ipv6());
            let on_link = all().any(|(cidr, _)| cidr.contains(route.gateway));
            let ours = self.all_addresses().any(|(cidr, _)| cidr.addr == route.gateway);
            if !(on_link || link_local && ipv6) || ours {
                return Err(ConfigError::GatewayNotOnLink(route.gateway));
            }
        }
        Ok(())
    }
}

/// Rules for a host's own packets.
#[derive(Clone, Debug)]
pub struct FilterConfig {
    /// The rules. A host, which forwards nothing, walks the chains INPUT and OUTPUT of the filter table, PREROUTING and OUTPUT
    /// of the raw table, and must have none in the nat and mangle tables.
    pub rules: Arc<RuleSet>,
    /// The interface's name (of several links: the first's), as `-i` and `-o` match it.
    pub interface: String,
    /// Connection tracking, for rules that ask for it.
    pub gate: GateConfig,
}

impl FilterConfig {
    /// Rules for an interface, and defaults for the rest.
    #[must_use]
    pub fn new(rules: Arc<RuleSet>, interface: String) -> Self {
        Self { rules, interface, gate: GateConfig::default() }
    }

    /// Checks that the rules can be meant for a host.
    ///
    /// # Errors
    /// [`ConfigError::NatForHost`], [`ConfigError::MangleForHost`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let used = |table| self.rules.chains(table).iter().find(|chain| !chain.rules.is_empty());
        if let Some(chain) = used(Table::Nat) {
            return Err(ConfigError::NatForHost(chain.name.clone()));
        }
        used(Table::Mangle).map_or(Ok(()), |chain| Err(ConfigError::MangleForHost(chain.name.clone())))
    }
}

/// What is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Text that is not an address with a prefix.
    #[error("`{0}` is not an address with a prefix length, such as 192.0.2.10/24 or 2001:db8::10/64")]
    BadCidr(String),
    /// More addresses than an interface holds.
    #[error("{0} addresses, but an interface holds at most {max}", max = limits::INTERFACE_ADDRESSES)]
    TooManyAddresses(usize),
    /// More routes than an interface holds.
    #[error("{0} routes, but an interface holds at most {max}", max = limits::INTERFACE_ROUTES)]
    TooManyRoutes(usize),
    /// An address that no host may have.
    #[error(
        "{0} cannot be an interface's address: it is unspecified, multicast, loopback, or its network's first or last"
    )]
    BadAddress(IpAddr),
    /// A gateway that is on none of the links.
    #[error("gateway {0} is in the network of none of the addresses; check their prefix lengths")]
    GatewayNotOnLink(IpAddr),
    /// An IPv4 route with an IPv6 gateway or the reverse.
    #[error("gateway {0} is of another IP version than its destination {1}")]
    GatewayOfOtherFamily(IpAddr, Cidr),
    /// Neither an address nor DHCP.
    #[error("no address: give at least one, or ask for DHCP")]
    NoAddress,
    /// Several links with DHCP.
    #[error("DHCP on several links: one can have it, the others need static addresses")]
    SeveralDhcpLinks,
    /// Router advertisements for a link that is not there.
    #[error("router advertisements on link {0}, but there is none of this number")]
    NoSuchLink(usize),
    /// Router advertisements' part.
    #[error(transparent)]
    Advertise(#[from] AdvertiseError),
    /// Links that the device has not, or more than are configured.
    #[error("{config} links configured, but the device has {device}")]
    LinkCount {
        /// In the configuration.
        config: usize,
        /// Of the device.
        device: usize,
    },
    /// More name servers than the resolver takes.
    #[error("{0} name servers, but the resolver takes at most 4")]
    TooManyDnsServers(usize),
    /// Rules that translate, for a host that does not forward.
    #[error("the nat table's {0} has rules: a server's own packets are filtered, not translated")]
    NatForHost(String),
    /// A rule would see every packet, where a host's established connections pass by the rules.
    #[error(
        "the mangle table's {0} has rules: only a router shows every packet to them; use the filter table"
    )]
    MangleForHost(String),
    /// TCP's part.
    #[error(transparent)]
    Tcp(#[from] TcpConfigError),
    /// An MTU outside what the device and IP allow.
    #[error("MTU {0} is not possible: IP and the device allow {min} to {max}", min = .1, max = .2)]
    BadMtu(usize, usize, usize),
}

impl core::str::FromStr for Cidr {
    type Err = ConfigError;

    /// `192.0.2.10/24`, `2001:db8::10/64`; without a prefix the address alone (/32, /128).
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::BadCidr(text.to_owned());
        let (addr, prefix) = text.split_once('/').map_or((text, None), |(addr, prefix)| (addr, Some(prefix)));
        let addr: IpAddr = addr.parse().map_err(|_| bad())?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(|_| bad()))?;
        if prefix_len > bits { Err(bad()) } else { Ok(Self { addr, prefix_len }) }
    }
}

impl core::fmt::Display for Cidr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Cidr {
    /// Whether the address is one that a host can have on its link (RFC 1122 section 3.2.1.3): neither unspecified,
    /// loopback, multicast, reserved nor the link's network or broadcast address.
    #[must_use]
    pub fn is_host(&self) -> bool {
        match self.addr {
            IpAddr::V4(addr) => {
                let host_bits = u32::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0);
                let host = u32::from(addr) & host_bits;
                // RFC 3021: a /31 has no network and no broadcast address.
                let edge = self.prefix_len < 31 && (host == 0 || host == host_bits);
                !(addr.octets()[0] == 0 || addr.octets()[0] >= 224 || addr.is_loopback() || edge)
            }
            IpAddr::V6(addr) => {
                !(addr.is_unspecified()
                    || addr.is_loopback()
                    || addr.is_multicast()
                    || addr.to_ipv4_mapped().is_some())
            }
        }
    }

    /// Whether `addr` is in this network.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(net), IpAddr::V4(addr)) => {
                let shift = 32u32.saturating_sub(u32::from(self.prefix_len));
                shift == 32 || (u32::from(net) ^ u32::from(addr)) >> shift == 0
            }
            (IpAddr::V6(net), IpAddr::V6(addr)) => {
                let shift = 128u32.saturating_sub(u32::from(self.prefix_len));
                shift == 128 || (u128::from(net) ^ u128::from(addr)) >> shift == 0
            }
            _ => false,
        }
    }
}

impl LinkConfig {
    /// Checks the MTU against a device with packets of at most `device_mtu` bytes on this link.
    ///
    /// # Errors
    /// [`ConfigError::BadMtu`].
    pub fn validate_mtu(&self, device_mtu: usize) -> Result<(), ConfigError> {
        check_mtu(self.mtu, &self.addresses, device_mtu)
    }
}

/// RFC 8200 section 5 and RFC 791 section 3.2: what every link must carry.
fn check_mtu(wish: Option<usize>, addresses: &[Cidr], device_mtu: usize) -> Result<(), ConfigError> {
    let least = if addresses.iter().any(|cidr| cidr.addr.is_ipv6()) { 1280 } else { 576 };
    match wish {
        Some(mtu) if !(least..=device_mtu).contains(&mtu) => Err(ConfigError::BadMtu(mtu, least, device_mtu)),
        None if device_mtu < least => Err(ConfigError::BadMtu(device_mtu, least, usize::from(u16::MAX))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_parse_and_print() {
        for text in ["192.0.2.10/24", "2001:db8::10/64", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1".parse::<Cidr>().unwrap().prefix_len, 32);
        for text in ["", "192.0.2.1/33", "::1/129", "x/8", "192.0.2.1/", "192.0.2.1/-1"] {
            assert_eq!(text.parse::<Cidr>(), Err(ConfigError::BadCidr(text.to_owned())));
        }
    }

    #[test]
    fn a_network_contains_its_hosts_only() {
        let net: Cidr = "192.0.2.0/25".parse().unwrap();
        assert!(net.contains("192.0.2.127".parse().unwrap()));
        assert!(!net.contains("192.0.2.128".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("198.51.100.1".parse().unwrap()));
    }

    fn config(addresses: &[&str]) -> StackConfig {
        StackConfig::new(addresses.iter().map(|text| text.parse().unwrap()).collect(), [0; 32])
    }

    #[test]
    fn addresses_that_no_host_may_have_are_refused() {
        for bad in [
            "0.0.0.0/24",
            "127.0.0.1/8",
            "224.0.0.1/24",
            "240.0.0.1/8",
            "192.0.2.0/24",
            "192.0.2.255/24",
            "::/64",
            "::1/128",
            "ff02::1/64",
            "::ffff:192.0.2.1/96",
        ] {
            let addr = bad.parse::<Cidr>().unwrap().addr;
            assert_eq!(config(&[bad]).validate(1500), Err(ConfigError::BadAddress(addr)), "{bad}");
        }
        for good in ["192.0.2.0/31", "192.0.2.255/32", "192.0.2.1/24", "fe80::1/64", "2001:db8::1/128"] {
            assert_eq!(config(&[good]).validate(1500), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_gateway_must_be_reachable_without_a_gateway() {
        let mut config = config(&["192.0.2.10/24", "2001:db8::10/64"]);
        let mut gateway = |destination: &str, gateway: &str| {
            let gateway = gateway.parse().unwrap();
            config.routes = vec![Route { destination: destination.parse().unwrap(), gateway, link: None }];
            config.validate(1500)
        };
        assert_eq!(gateway("0.0.0.0/0", "192.0.2.1"), Ok(()));
        assert_eq!(gateway("::/0", "fe80::1"), Ok(()));
        let not_on_link = |text: &str| Err(ConfigError::GatewayNotOnLink(text.parse().unwrap()));
        assert_eq!(gateway("0.0.0.0/0", "198.51.100.1"), not_on_link("198.51.100.1"));
        assert_eq!(gateway("0.0.0.0/0", "192.0.2.10"), not_on_link("192.0.2.10"));
        assert!(matches!(gateway("0.0.0.0/0", "fe80::1"), Err(ConfigError::GatewayOfOtherFamily(..))));
    }

    #[test]
    fn counts_and_mtus_beyond_the_bounds_are_refused() {
        assert_eq!(config(&[]).validate(1500), Err(ConfigError::NoAddress));
        // Eight IPv6 addresses leave no place for the link-local one.
        let eight: Vec<String> = (1..=8).map(|host| format!("2001:db8::{host}/64")).collect();
        let eight: Vec<&str> = eight.iter().map(String::as_str).collect();
        assert_eq!(config(&eight).validate(1500), Err(ConfigError::TooManyAddresses(9)));
        assert_eq!(config(&eight[..7]).validate(1500), Ok(()));
        let mut small = config(&["2001:db8::1/64"]);
        small.mtu = Some(1279);
        assert_eq!(small.validate(1500), Err(ConfigError::BadMtu(1279, 1280, 1500)));
        small.mtu = Some(1501);
        assert_eq!(small.validate(1500), Err(ConfigError::BadMtu(1501, 1280, 1500)));
        small.mtu = None;
        small.dns_servers = vec!["192.0.2.53".parse().unwrap(); 5];
        assert_eq!(small.validate(1500), Err(ConfigError::TooManyDnsServers(5)));
    }
}
