//! Router advertisements (RFC 4861 sections 4.2 and 6.2): tell the hosts of a link that this router is there, of which prefixes
//! they may make addresses (RFC 4862), and which name servers they may ask (RFC 8106).
//!
//! [`Advertiser`] knows time and order for one link; [`super::ndp`] sends the messages. All shards answer the solicitations that
//! reach them, the first one speaks unasked.

use core::net::{IpAddr, Ipv6Addr};

use rand_core::RngCore;
use smoltcp::wire::EthernetAddress;

use crate::config::Cidr;
use crate::limits;
use crate::time::{Duration, Instant};

/// RFC 4861 section 4.2: ICMPv6 type, code, checksum, hop limit, flags, lifetime and two timers.
const FIXED: usize = 16;
const TYPE: u8 = 134;
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const SOURCE_LINK_ADDRESS: u8 = 1;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
/// RFC 8106 section 5.1.
const DNS_SERVERS: u8 = 25;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

/// What the routers of a link tell its hosts (RFC 4861 section 6.2.1, by its names in parentheses).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertise {
    /// The longest time between two advertisements (MaxRtrAdvInterval): [`limits::ADVERTISE_INTERVAL`]. The shortest is a third
    /// of it.
    pub interval: Duration,
    /// How long hosts use this router as their default router (AdvDefaultLifetime): zero, not at all, or from `interval` to
    /// [`limits::ADVERTISED_LIFETIME_MAX`].
    pub lifetime: Duration,
    /// Hosts get their addresses by DHCPv6 (AdvManagedFlag).
    pub managed: bool,
    /// Hosts get other settings by DHCPv6 (AdvOtherConfigFlag).
    pub other_config: bool,
    /// The prefixes, at most [`limits::ADVERTISED_PREFIXES`]; `None`: the networks of the link's static addresses, of
    /// which hosts make addresses where they are of 64 bits, with RFC 4861's lifetimes.
    pub prefixes: Option<Vec<AdvertisedPrefix>>,
    /// Name servers, at most [`limits::ADVERTISED_DNS_SERVERS`], each for three times `interval`.
    pub dns_servers: Vec<Ipv6Addr>,
}

impl Default for Advertise {
    /// RFC 4861's defaults.
    fn default() -> Self {
        let interval = Duration::from_secs(600);
        Self {
            interval,
            lifetime: interval * 3,
            managed: false,
            other_config: false,
            prefixes: None,
            dns_servers: Vec::new(),
        }
    }
}

/// A prefix as hosts are told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdvertisedPrefix {
    /// The prefix; bits behind its length do not count.
    pub prefix: Cidr,
    /// Its addresses are on the link (AdvOnLinkFlag).
    pub on_link: bool,
    /// Hosts make addresses of it (AdvAutonomousFlag); it must be of 64 bits for that.
    pub autonomous: bool,
    /// How long it, and addresses made of it, are valid (AdvValidLifetime); [`Duration::MAX`]: for ever.
    pub valid: Duration,
    /// How long such addresses are used for new connections (AdvPreferredLifetime), at most `valid`.
    pub preferred: Duration,
}

impl AdvertisedPrefix {
    /// A link's network, with RFC 4861's lifetimes; hosts make addresses of it if it is of 64 bits.
    #[must_use]
    pub fn of(prefix: Cidr) -> Self {
        Self {
            prefix,
            on_link: true,
            autonomous: prefix.prefix_len == 64,
            valid: Duration::from_secs(30 * 24 * 3600),
            preferred: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// What is wrong with an [`Advertise`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdvertiseError {
    /// The interval is too short or too long.
    #[error("router advertisements every {0:?}; RFC 4861 wants {min:?} to {max:?}",
        min = limits::ADVERTISE_INTERVAL.start(), max = limits::ADVERTISE_INTERVAL.end())]
    Interval(Duration),
    /// The router's lifetime is shorter than the interval, or too long.
    #[error("a default router for {0:?}; RFC 4861 wants 0, or at least the time between advertisements ({1:?}) and at most {max:?}",
        max = limits::ADVERTISED_LIFETIME_MAX)]
    Lifetime(Duration, Duration),
    /// The link has no IPv6 address.
    #[error("router advertisements on a link without an IPv6 address")]
    NoAddress,
    /// A prefix that hosts cannot use.
    #[error("{0} cannot be advertised: a prefix must be of IPv6, and neither link-local nor multicast")]
    BadPrefix(Cidr),
    /// Hosts' interface identifiers have 64 bits.
    #[error("{0} cannot be autonomous: hosts make addresses of prefixes of 64 bits only")]
    NotAutonomous(Cidr),
    /// It would be preferred for longer than it is valid.
    #[error("{0} would be preferred for {1:?}, which is longer than it is valid ({2:?})")]
    PreferredTooLong(Cidr, Duration, Duration),
    /// More than a message has room for.
    #[error("{0} prefixes to advertise, but a message has room for {max}", max = limits::ADVERTISED_PREFIXES)]
    TooManyPrefixes(usize),
    /// More than a message has room for.
    #[error("{0} name servers to advertise, but a message has room for {max}", max = limits::ADVERTISED_DNS_SERVERS)]
    TooManyDnsServers(usize),
}

impl Advertise {
    /// Checks it for a link with these addresses.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self, addresses: &[Cidr]) -> Result<(), AdvertiseError> {
        if !limits::ADVERTISE_INTERVAL.contains(&self.interval) {
            return Err(AdvertiseError::Interval(self.interval));
        }
        let lifetimes = self.interval..=limits::ADVERTISED_LIFETIME_MAX;
        if !self.lifetime.is_zero() && !lifetimes.contains(&self.lifetime) {
            return Err(AdvertiseError::Lifetime(self.lifetime, self.interval));
        }
        if !addresses.iter().any(|cidr| cidr.addr.is_ipv6()) {
            return Err(AdvertiseError::NoAddress);
        }
        let prefixes = self.prefixes_on(addresses);
        if prefixes.len() > limits::ADVERTISED_PREFIXES {
            return Err(AdvertiseError::TooManyPrefixes(prefixes.len()));
        }
        for AdvertisedPrefix { prefix, autonomous, valid, preferred, .. } in prefixes {
            let usable = matches!(prefix.addr, IpAddr::V6(addr)
                if !addr.is_multicast() && !addr.is_unicast_link_local());
            if !usable {
                return Err(AdvertiseError::BadPrefix(prefix));
            }
            if autonomous && prefix.prefix_len != 64 {
                return Err(AdvertiseError::NotAutonomous(prefix));
            }
            if preferred > valid {
                return Err(AdvertiseError::PreferredTooLong(prefix, preferred, valid));
            }
        }
        if self.dns_servers.len() > limits::ADVERTISED_DNS_SERVERS {
            return Err(AdvertiseError::TooManyDnsServers(self.dns_servers.len()));
        }
        Ok(())
    }

    /// What is advertised on a link with these addresses.
    fn prefixes_on(&self, addresses: &[Cidr]) -> Vec<AdvertisedPrefix> {
        if let Some(prefixes) = &self.prefixes {
            return prefixes.clone();
        }
        let mut found: Vec<AdvertisedPrefix> = Vec::new();
        for cidr in addresses {
            let IpAddr::V6(addr) = cidr.addr else { continue };
            // A network of one host is nobody else's.
            if addr.is_unicast_link_local() || cidr.prefix_len == 128 {
                continue;
            }
            if !found
                .iter()
                .any(|known| known.prefix.prefix_len == cidr.prefix_len && known.prefix.contains(cidr.addr))
            {
                found.push(AdvertisedPrefix::of(*cidr));
            }
        }
        found
    }

    /// The ICMPv6 message, its checksum zero.
    fn message(&self, addresses: &[Cidr], mac: EthernetAddress, mtu: usize) -> Vec<u8> {
        let flags = if self.managed { MANAGED } else { 0 } | if self.other_config { OTHER } else { 0 };
        let lifetime = (seconds(self.lifetime) as u16).to_be_bytes();
        let mut out = vec![TYPE, 0, 0, 0, limits::HOP_LIMIT, flags, lifetime[0], lifetime[1]];
        // Reachable time and retransmission timer: the hosts' own.
        out.resize(FIXED, 0);
        out.extend([SOURCE_LINK_ADDRESS, 1]);
        out.extend(mac.as_bytes());
        out.extend([MTU, 1, 0, 0]);
        out.extend((mtu as u32).to_be_bytes());
        for AdvertisedPrefix { prefix, on_link, autonomous, valid, preferred } in self.prefixes_on(addresses)
        {
            let IpAddr::V6(addr) = prefix.addr else { continue };
            let flags = if on_link { ON_LINK } else { 0 } | if autonomous { AUTONOMOUS } else { 0 };
            out.extend([PREFIX, 4, prefix.prefix_len, flags]);
            out.extend(seconds(valid).to_be_bytes());
            out.extend(seconds(preferred).to_be_bytes());
            out.extend([0; 4]);
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.prefix_len)).unwrap_or(0);
            out.extend((u128::from(addr) & mask).to_be_bytes());
        }
        if !self.dns_servers.is_empty() {
            out.extend([DNS_SERVERS, 1 + 2 * self.dns_servers.len() as u8, 0, 0]);
            out.extend(seconds(self.interval * 3).to_be_bytes());
            self.dns_servers.iter().for_each(|server| out.extend(server.octets()));
        }
        out
    }
}

/// As a message has them: all ones for ever.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Whom an advertisement is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    /// All hosts of the link: nobody asked, or a host that has no address yet.
    All,
    /// A host, by its address and the Ethernet address to answer to.
    Host(Ipv6Addr, EthernetAddress),
}

/// The advertisements of one link.
#[derive(Debug)]
pub(crate) struct Advertiser {
    /// Without its checksum.
    message: Vec<u8>,
    interval: Duration,
    /// When all hosts are told next, unasked; `None`: another shard does, or it is over.
    next: Option<Instant>,
    /// Of the first ones, which follow each other sooner.
    first_left: u8,
    last_to_all: Option<Instant>,
    /// Who asked, and when they are answered.
    asked: Vec<(Instant, Asker)>,
}

impl Advertiser {
    /// `addresses`: the link's. `speaks`: tells all hosts unasked, from `now` on.
    pub(crate) fn new(
        advertise: &Advertise,
        addresses: &[Cidr],
        mac: EthernetAddress,
        mtu: usize,
        speaks: bool,
        now: Instant,
    ) -> Self {
        Self {
            message: advertise.message(addresses, mac, mtu),
            interval: advertise.interval,
            next: speaks.then_some(now),
            first_left: limits::FIRST_ADVERTISEMENTS,
            last_to_all: None,
            asked: Vec::new(),
        }
    }

    /// A host asked, from an address of its own or from none yet (RFC 4861 section 6.2.6). It is answered within half a second; all
    /// that have no address together, and not sooner than three seconds after the last time.
    pub(crate) fn asked(&mut self, now: Instant, asker: Asker, rng: &mut impl RngCore) {
        let delay = random_below(limits::ADVERTISE_DELAY, rng);
        // Where too many ask, all are answered at once.
        let asker = if self.asked.len() < limits::ADVERTISE_ASKERS { asker } else { Asker::All };
        if self.asked.iter().any(|(_, waiting)| *waiting == asker) {
            return;
        }
        let at = now + delay;
        let at = match self.last_to_all {
            Some(last) if asker == Asker::All => at.max(last + limits::ADVERTISE_TO_ALL_INTERVAL + delay),
            _ => at,
        };
        self.asked.push((at, asker));
    }

    /// Whom to tell now, and with which message but for its checksum; to be called until it returns `None`.
    pub(crate) fn due(&mut self, now: Instant, rng: &mut impl RngCore) -> Option<(Asker, &[u8])> {
        let asker = if self.next.is_some_and(|next| next <= now) {
            Asker::All
        } else {
            let place = self.asked.iter().position(|(at, _)| *at <= now)?;
            self.asked.swap_remove(place).1
        };
        if asker == Asker::All {
            // It answers all who wait for such a one, and is one of those that are sent unasked.
            self.asked.retain(|(_, waiting)| *waiting != Asker::All);
            self.last_to_all = Some(now);
            if self.next.is_some() {
                self.next = Some(now + self.pause(rng));
            }
        }
        Some((asker, &self.message))
    }

    /// RFC 4861 section 6.2.4.
    fn pause(&mut self, rng: &mut impl RngCore) -> Duration {
        let least = (self.interval / 3).max(limits::ADVERTISE_TO_ALL_INTERVAL);
        let pause = least + random_below(self.interval - least, rng);
        self.first_left = self.first_left.saturating_sub(1);
        if self.first_left > 0 { pause.min(limits::FIRST_ADVERTISEMENT_INTERVAL) } else { pause }
    }

    /// The router goes: nothing is said any more but, if this shard spoke to all, the returned message, which tells them that
    /// it is no default router (RFC 4861 section 6.2.5).
    pub(crate) fn end(&mut self) -> Option<Vec<u8>> {
        self.asked.clear();
        self.next.take()?;
        let mut message = core::mem::take(&mut self.message);
        message[6..8].fill(0);
        Some(message)
    }

    /// When [`Advertiser::due`] next has something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.asked.iter().map(|(at, _)| *at).chain(self.next).min()
    }
}

fn random_below(most: Duration, rng: &mut impl RngCore) -> Duration {
    most / 1024 * (rng.next_u32() % 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn what_hosts_could_not_use_is_refused() {
        let addresses = [cidr("192.0.2.1/24"), cidr("2001:db8::1/64")];
        let good = Advertise::default();
        let seconds = Duration::from_secs;
        let check = |change: &dyn Fn(&mut Advertise)| {
            let mut advertise = good.clone();
            change(&mut advertise);
            advertise.validate(&addresses)
        };
        assert_eq!(check(&|_| {}), Ok(()));
        assert_eq!(check(&|it| it.lifetime = Duration::ZERO), Ok(()));
        for bad in [seconds(3), seconds(1801)] {
            assert_eq!(check(&|it| it.interval = bad), Err(AdvertiseError::Interval(bad)));
        }
        for bad in [seconds(599), seconds(9001)] {
            assert_eq!(check(&|it| it.lifetime = bad), Err(AdvertiseError::Lifetime(bad, seconds(600))));
        }
        assert_eq!(good.validate(&addresses[..1]), Err(AdvertiseError::NoAddress));
        for bad in ["10.0.0.0/8", "fe80::/64", "ff02::/64"] {
            let prefixes = vec![AdvertisedPrefix { autonomous: false, ..AdvertisedPrefix::of(cidr(bad)) }];
            let found = check(&|it| it.prefixes = Some(prefixes.clone()));
            assert_eq!(found, Err(AdvertiseError::BadPrefix(cidr(bad))));
        }
        let long = AdvertisedPrefix { autonomous: true, ..AdvertisedPrefix::of(cidr("2001:db8::/60")) };
        let found = check(&|it| it.prefixes = Some(vec![long]));
        assert_eq!(found, Err(AdvertiseError::NotAutonomous(long.prefix)));
        let brief = AdvertisedPrefix { valid: seconds(60), ..AdvertisedPrefix::of(addresses[1]) };
        let found = check(&|it| it.prefixes = Some(vec![brief]));
        assert_eq!(found, Err(AdvertiseError::PreferredTooLong(brief.prefix, brief.preferred, seconds(60))));
        let many = vec![AdvertisedPrefix::of(addresses[1]); 17];
        assert_eq!(check(&|it| it.prefixes = Some(many.clone())), Err(AdvertiseError::TooManyPrefixes(17)));
        let found = check(&|it| it.dns_servers = vec![Ipv6Addr::LOCALHOST; 9]);
        assert_eq!(found, Err(AdvertiseError::TooManyDnsServers(9)));
    }

    #[test]
    fn a_message_with_all_that_fits_is_within_the_least_mtu() {
        let prefixes = (0..16).map(|at| AdvertisedPrefix::of(cidr(&format!("2001:db8:{at}::/64")))).collect();
        let dns_servers = vec![Ipv6Addr::LOCALHOST; limits::ADVERTISED_DNS_SERVERS];
        let advertise = Advertise { prefixes: Some(prefixes), dns_servers, ..Advertise::default() };
        assert!(40 + advertise.message(&[], EthernetAddress([2; 6]), 1500).len() <= 1280);
    }

    #[test]
    fn each_network_of_the_link_is_advertised_once() {
        let addresses = [
            "fe80::1/64",
            "2001:db8::1/64",
            "2001:db8::2/64",
            "192.0.2.1/24",
            "2001:db8:1::1/128",
            "2001:db8:2::1/56",
        ];
        let found = Advertise::default().prefixes_on(&addresses.map(cidr));
        let found: Vec<_> =
            found.iter().map(|prefix| (prefix.prefix.to_string(), prefix.autonomous)).collect();
        assert_eq!(found, [("2001:db8::1/64".to_owned(), true), ("2001:db8:2::1/56".to_owned(), false)]);
    }
}
