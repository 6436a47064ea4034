//! Which link and neighbour a packet goes to and which address of ours it comes from: networks by longest prefix, directly or
//! through a gateway, and source address selection (RFC 1122 section 3.3.1, RFC 1812 section 5.2.4.3, RFC 6724 section 5 in
//! short).
//!
//! Networks are bounded by `limits::INTERFACE_ROUTES` and sorted within their prefix length: a look-up is a binary search for
//! each length there is. Our addresses are few and looked through in order.

use core::cell::Cell;
use core::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::EthernetAddress;

use crate::config::{Cidr, Route};

/// Where a packet goes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NextHop {
    /// To this neighbour, whose Ethernet address the neighbour table knows or finds out.
    Neighbor(IpAddr),
    /// To an Ethernet group: IP broadcast or multicast.
    Group(EthernetAddress),
}

/// The next hop and the link that leads there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    pub(crate) link: usize,
    pub(crate) next: NextHop,
}

/// Addresses and networks of all links.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    /// Our addresses; each one's prefix is on a link.
    links: Vec<(Cidr, usize)>,
    /// Longest prefix first.
    tables: Vec<Networks>,
    /// What was asked for lately, at the place that an address's low bits say.
    recent: [Cell<Option<(IpAddr, Hop)>>; RECENT],
}

/// Addresses whose next hop is kept: a router asks for the source and the destination of each packet.
const RECENT: usize = 32;

/// The networks of one IP version and prefix length.
#[derive(Clone, Debug)]
struct Networks {
    ipv6: bool,
    prefix_len: u8,
    /// By network, ascending.
    sorted: Vec<(u128, Way)>,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    link: usize,
    /// `None`: the destination itself is the neighbour.
    gateway: Option<IpAddr>,
}

impl Networks {
    fn find(&self, dst: IpAddr) -> Option<Way> {
        let network = network(dst, self.prefix_len);
        let at = self.sorted.binary_search_by_key(&network, |(network, _)| *network).ok()?;
        Some(self.sorted[at].1)
    }
}

/// The network's bits of an address, the lowest bit of each at the same place.
fn network(addr: IpAddr, prefix_len: u8) -> u128 {
    let (bits, width) = match addr {
        IpAddr::V4(addr) => (u128::from(u32::from(addr)), 32),
        IpAddr::V6(addr) => (addr.into(), 128),
    };
    bits.checked_shr(width - u32::from(prefix_len)).unwrap_or(0)
}

impl Routes {
    /// `links`: our addresses with the link of each.
    pub(crate) fn new(links: Vec<(Cidr, usize)>, gateways: Vec<Route>) -> Self {
        let mut routes = Self { links, ..Self::default() };
        // Of two ways to the same network the first wins, and a link wins over a gateway.
        for (cidr, link) in routes.links.clone() {
            routes.add(cidr, Way { link, gateway: None });
        }
        for Route { destination, gateway, link } in gateways {
            // A gateway off every link (its address expired) leads nowhere.
            let on = link.filter(|link| routes.is_on(*link, gateway)).or_else(|| match link {
                Some(_) => None,
                None => routes.link_of(gateway),
            });
            if let Some(link) = on {
                routes.add(destination, Way { link, gateway: Some(gateway) });
            }
        }
        for table in &mut routes.tables {
            // Stable: the first of equals stays the first.
            table.sorted.sort_by_key(|(network, _)| *network);
            table.sorted.dedup_by_key(|(network, _)| *network);
        }
        routes.tables.sort_by_key(|table| core::cmp::Reverse(table.prefix_len));
        routes
    }

    fn add(&mut self, destination: Cidr, way: Way) {
        let (ipv6, prefix_len) = (destination.addr.is_ipv6(), destination.prefix_len);
        let fits = |table: &Networks| (table.ipv6, table.prefix_len) == (ipv6, prefix_len);
        let at = self.tables.iter().position(fits).unwrap_or_else(|| {
            self.tables.push(Networks { ipv6, prefix_len, sorted: Vec::new() });
            self.tables.len() - 1
        });
        self.tables[at].sorted.push((network(destination.addr, prefix_len), way));
    }

    /// The next hop to `dst`; `None`: no route. There is none to our own addresses: nothing loops back. Groups and link-local
    /// addresses are on every link: for them see [`Routes::next_hop_from`].
    pub(crate) fn next_hop(&self, dst: IpAddr) -> Option<Hop> {
        let low = match dst {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(addr) => addr.octets()[15],
        };
        let place = &self.recent[usize::from(low) % RECENT];
        if let Some((_, hop)) = place.get().filter(|(addr, _)| *addr == dst) {
            return Some(hop);
        }
        let hop = self.next_hop_from(None, dst)?;
        place.set(Some((dst, hop)));
        Some(hop)
    }

    /// As [`Routes::next_hop`] for a packet with the source `src`, which says by which link groups and link-local addresses
    /// are meant: its own, or the first.
    pub(crate) fn next_hop_from(&self, src: Option<IpAddr>, dst: IpAddr) -> Option<Hop> {
        if self.links.iter().any(|(link, _)| link.addr == dst) {
            return None;
        }
        if let Some(group) = self.group(dst) {
            let of_source = || Some(self.links.iter().find(|(link, _)| Some(link.addr) == src)?.1);
            let link = self.broadcast_link(dst).or_else(of_source).unwrap_or(0);
            return Some(Hop { link, next: NextHop::Group(group) });
        }
        if is_link_local(dst) {
            let six = || self.links.iter().filter(|(link, _)| link.addr.is_ipv6());
            let of_source = six().find(|(link, _)| Some(link.addr) == src);
            let link = of_source.or_else(|| six().next())?.1;
            return Some(Hop { link, next: NextHop::Neighbor(dst) });
        }
        let Way { link, gateway } = self
            .tables
            .iter()
            .filter(|table| table.ipv6 == dst.is_ipv6())
            .find_map(|table| table.find(dst))?;
        Some(Hop { link, next: NextHop::Neighbor(gateway.unwrap_or(dst)) })
    }

    /// The link that leads to what no other network has; `None`: no route does.
    pub(crate) fn default_link(&self, ipv6: bool) -> Option<usize> {
        let everywhere = self.tables.iter().find(|table| (table.ipv6, table.prefix_len) == (ipv6, 0))?;
        Some(everywhere.sorted.first()?.1.link)
    }

    /// Whether `addr` is reached on this link without a gateway.
    pub(crate) fn is_on(&self, link: usize, addr: IpAddr) -> bool {
        let near = |cidr: &Cidr| cidr.contains(addr) || is_link_local(addr) && cidr.addr.is_ipv6();
        self.links.iter().any(|(cidr, on)| *on == link && near(cidr))
    }

    /// The link on which `addr` is reached without a gateway; link-local addresses: the first with IPv6.
    fn link_of(&self, addr: IpAddr) -> Option<usize> {
        let near = |cidr: &Cidr| cidr.contains(addr) || is_link_local(addr) && cidr.addr.is_ipv6();
        self.links.iter().find(|(cidr, _)| near(cidr)).map(|(_, link)| *link)
    }

    /// The link that has an address of ours.
    pub(crate) fn link_with(&self, addr: IpAddr) -> Option<usize> {
        self.links.iter().find(|(cidr, _)| cidr.addr == addr).map(|(_, link)| *link)
    }

    /// Our addresses on a link.
    pub(crate) fn addresses_on(&self, link: usize) -> Vec<Cidr> {
        self.links.iter().filter(|(_, on)| *on == link).map(|(cidr, _)| *cidr).collect()
    }

    /// The first address of a link, of IPv6 one that is not link-local.
    pub(crate) fn address_of(&self, link: usize, ipv6: bool) -> Option<IpAddr> {
        let mut ours = self.links.iter().filter(|(cidr, on)| *on == link && cidr.addr.is_ipv6() == ipv6);
        ours.find(|(cidr, _)| !is_link_local(cidr.addr)).map(|(cidr, _)| cidr.addr)
    }

    /// The source address for packets to `dst` of which the sender named none; `None`: no address of that family, or no
    /// route.
    /// RFC 9293 section 3.9.1.1, MUST-44.
    pub(crate) fn source(&self, dst: IpAddr) -> Option<IpAddr> {
        let hop = self.next_hop(dst)?;
        self.source_on(Some(hop.link), hop.next, dst)
    }

    /// The source address for what goes to the neighbour `dst` on `link`.
    pub(crate) fn source_for_neighbor(&self, link: usize, dst: IpAddr) -> Option<IpAddr> {
        self.source_on(Some(link), NextHop::Neighbor(dst), dst)
    }

    fn source_on(&self, link: Option<usize>, next: NextHop, dst: IpAddr) -> Option<IpAddr> {
        let hop = match next {
            NextHop::Neighbor(hop) => hop,
            NextHop::Group(_) => dst,
        };
        let here = |on: usize| link.is_none_or(|link| link == on);
        match dst {
            IpAddr::V4(_) => {
                let ours = || self.links.iter().filter(|(cidr, on)| here(*on) && cidr.addr.is_ipv4());
                let near =
                    ours().filter(|(cidr, _)| cidr.contains(hop)).max_by_key(|(cidr, _)| cidr.prefix_len);
                near.or_else(|| ours().next()).map(|(cidr, _)| cidr.addr)
            }
            IpAddr::V6(dst) => {
                let ours = self.links.iter().filter_map(|(cidr, on)| match cidr.addr {
                    IpAddr::V6(addr) if here(*on) => Some((addr, u32::from(cidr.prefix_len))),
                    _ => None,
                });
                // `max_by_key` takes the last of equals; the first configured should win.
                let mut best = None;
                for (addr, prefix_len) in ours {
                    let rank = rank(addr, prefix_len, dst);
                    if best.is_none_or(|(_, best)| rank > best) {
                        best = Some((addr, rank));
                    }
                }
                best.map(|(addr, _)| addr.into())
            }
        }
    }

    /// The Ethernet group of an IP broadcast or multicast address (RFC 1112 section 6.4, RFC 2464 section 7).
    fn group(&self, dst: IpAddr) -> Option<EthernetAddress> {
        match dst {
            IpAddr::V4(dst) if dst.is_multicast() => {
                let [_, b, c, d] = dst.octets();
                Some(EthernetAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
            }
            IpAddr::V6(dst) if dst.is_multicast() => Some(ipv6_group(dst)),
            IpAddr::V4(dst) if dst.is_broadcast() || self.broadcast_link(dst.into()).is_some() => {
                Some(EthernetAddress::BROADCAST)
            }
            _ => None,
        }
    }

    /// The link whose network has `dst` as its broadcast address.
    fn broadcast_link(&self, dst: IpAddr) -> Option<usize> {
        let IpAddr::V4(dst) = dst else { return None };
        let is_last = |cidr: &Cidr| {
            let all_ones = u32::MAX.checked_shr(u32::from(cidr.prefix_len)).unwrap_or(0);
            cidr.prefix_len < 31 && cidr.contains(dst.into()) && u32::from(dst) & all_ones == all_ones
        };
        self.links.iter().find(|(cidr, _)| is_last(cidr)).map(|(_, link)| *link)
    }
}

pub(crate) fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

/// The Ethernet group of an IPv6 multicast address (RFC 2464 section 7).
pub(crate) fn ipv6_group(dst: Ipv6Addr) -> EthernetAddress {
    let [.., a, b, c, d] = dst.octets();
    EthernetAddress([0x33, 0x33, a, b, c, d])
}

/// The link-local address made from an Ethernet address (RFC 4291 appendix A).
pub(crate) fn link_local(mac: EthernetAddress) -> Cidr {
    let EthernetAddress([a, b, c, d, e, f]) = mac;
    let addr = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Cidr { addr: Ipv6Addr::from(addr).into(), prefix_len: 64 }
}

/// A router's: not what the kernel makes of the same Ethernet address, which may be on the link beside it, and whose advertisements
/// say that it is no router (RFC 4861 section 7.2.5: hosts would believe it). Identifiers have no structure (RFC 7136).
pub(crate) fn router_link_local(mac: EthernetAddress) -> Cidr {
    let EthernetAddress([a, b, c, d, e, f]) = mac;
    let addr = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfd, d, e, f];
    Cidr { addr: Ipv6Addr::from(addr).into(), prefix_len: 64 }
}

/// How good a source `addr` is for `dst`: RFC 6724 section 5, rules 1 (same), 2 (scope) and 8 (longest matching prefix).
fn rank(addr: Ipv6Addr, prefix_len: u32, dst: Ipv6Addr) -> (bool, i32, u32) {
    let (source, target) = (scope(addr), scope(dst));
    // Rule 2: the smallest scope that reaches; failing that, the largest there is.
    let fit = if source >= target { 256 - source } else { source - 256 };
    let common = (u128::from(addr) ^ u128::from(dst)).leading_zeros().min(prefix_len);
    (addr == dst, fit, common)
}

/// RFC 6724 section 3.1: scopes as multicast's numbers.
fn scope(addr: Ipv6Addr) -> i32 {
    match addr {
        _ if addr.is_multicast() => i32::from(addr.octets()[1] & 0xf),
        _ if addr.is_unicast_link_local() => 2,
        _ => 14,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn routes(links: &[&str], gateways: &[(&str, &str)]) -> Routes {
        let gateways = gateways.iter().map(|(destination, gateway)| Route {
            destination: destination.parse().unwrap(),
            gateway: addr(gateway),
            link: None,
        });
        Routes::new(links.iter().map(|text| (text.parse().unwrap(), 0)).collect(), gateways.collect())
    }

    fn via(text: &str) -> Option<Hop> {
        Some(Hop { link: 0, next: NextHop::Neighbor(addr(text)) })
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let routes = routes(
            &["192.0.2.10/24"],
            &[
                ("0.0.0.0/0", "192.0.2.1"),
                ("198.51.100.128/25", "192.0.2.3"),
                ("198.51.100.0/24", "192.0.2.2"),
            ],
        );
        assert_eq!(routes.next_hop(addr("192.0.2.77")), via("192.0.2.77"));
        assert_eq!(routes.next_hop(addr("203.0.113.1")), via("192.0.2.1"));
        assert_eq!(routes.next_hop(addr("198.51.100.1")), via("192.0.2.2"));
        assert_eq!(routes.next_hop(addr("198.51.100.129")), via("192.0.2.3"));
        assert_eq!(routes.next_hop(addr("2001:db8::1")), None);
    }

    #[test]
    fn each_network_is_reached_by_its_link() {
        let links = [("192.0.2.1/24", 0), ("198.51.100.1/24", 1), ("2001:db8:1::1/64", 0), ("fe80::2/64", 1)];
        let links = links.map(|(text, link)| (text.parse().unwrap(), link)).to_vec();
        let route = |destination: &str, gateway: &str, link| Route {
            destination: destination.parse().unwrap(),
            gateway: addr(gateway),
            link,
        };
        let gateways = vec![
            route("0.0.0.0/0", "198.51.100.254", None),
            route("192.0.2.64/26", "198.51.100.253", None),
            route("::/0", "fe80::9", Some(1)),
            route("2001:db8:2::/48", "192.0.2.9", Some(1)),
        ];
        let routes = Routes::new(links, gateways);
        let hop = |text: &str| {
            let hop = routes.next_hop(addr(text))?;
            Some((hop.link, hop.next))
        };
        let via = |link, text: &str| Some((link, NextHop::Neighbor(addr(text))));
        assert_eq!(hop("192.0.2.7"), via(0, "192.0.2.7"));
        assert_eq!(hop("192.0.2.70"), via(1, "198.51.100.253"), "longer than the link's own prefix");
        assert_eq!(hop("203.0.113.1"), via(1, "198.51.100.254"));
        assert_eq!(hop("198.51.100.255").unwrap().0, 1, "a link's broadcast");
        assert_eq!(hop("2001:db8:9::1"), via(1, "fe80::9"));
        assert_eq!(routes.source(addr("203.0.113.1")), Some(addr("198.51.100.1")));
        assert_eq!(routes.next_hop_from(Some(addr("fe80::2")), addr("fe80::7")).unwrap().link, 1);
        assert_eq!(routes.address_of(1, true), None, "link-local addresses do not count");
    }

    proptest::proptest! {
        #[test]
        fn a_look_up_finds_what_looking_through_all_finds(networks in proptest::collection::vec((0u32..64, 0u8..=32), 0..40), dst in 0u32..64) {
            // Addresses of few distinct bits, so that prefixes overlap.
            let spread = |bits: u32| Ipv4Addr::from(0x0100_0a00 | (bits & 7) << 28 | (bits >> 3) << 12);
            let list: Vec<Cidr> = networks.iter().map(|(bits, len)| Cidr { addr: spread(*bits).into(), prefix_len: *len }).collect();
            let gateway = |at: usize| IpAddr::from([192, 0, 2, at as u8 + 2]);
            let gateways = list.iter().enumerate().map(|(at, cidr)| Route { destination: *cidr, gateway: gateway(at), link: None });
            let routes = Routes::new(vec![("192.0.2.1/24".parse().unwrap(), 0)], gateways.collect());
            let dst = IpAddr::from(spread(dst));
            let mut best: Option<(u8, usize)> = None;
            for (at, cidr) in list.iter().enumerate().filter(|(_, cidr)| cidr.contains(dst)) {
                if best.is_none_or(|(len, _)| cidr.prefix_len > len) {
                    best = Some((cidr.prefix_len, at));
                }
            }
            let expected = best.map(|(_, at)| Hop { link: 0, next: NextHop::Neighbor(gateway(at)) });
            let link: Cidr = "192.0.2.0/24".parse().unwrap();
            if !link.contains(dst) {
                proptest::prop_assert_eq!(routes.next_hop(dst), expected);
            }
        }
    }

    #[test]
    fn groups_need_no_neighbor() {
        let routes = routes(&["192.0.2.10/24", "2001:db8::10/64"], &[]);
        let group = |text: &str| match routes.next_hop(addr(text)) {
            Some(Hop { next: NextHop::Group(mac), .. }) => mac.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(group("255.255.255.255"), "ff-ff-ff-ff-ff-ff");
        assert_eq!(group("192.0.2.255"), "ff-ff-ff-ff-ff-ff");
        assert_eq!(group("239.129.2.3"), "01-00-5e-01-02-03");
        assert_eq!(group("ff02::1:ff00:10"), "33-33-ff-00-00-10");
    }

    #[test]
    fn a_link_without_addresses_has_no_route() {
        assert_eq!(routes(&[], &[("0.0.0.0/0", "192.0.2.1")]).next_hop(addr("198.51.100.1")), None);
        assert_eq!(routes(&["192.0.2.10/24"], &[]).next_hop(addr("fe80::1")), None);
    }

    #[test]
    fn the_source_is_the_address_on_the_next_hops_link() {
        // RFC 9293 section 3.9.1.1, MUST-44.
        let routes = routes(
            &["192.0.2.10/24", "198.51.100.10/24"],
            &[("0.0.0.0/0", "198.51.100.1"), ("203.0.113.0/24", "192.0.2.1")],
        );
        assert_eq!(routes.source(addr("192.0.2.20")), Some(addr("192.0.2.10")));
        assert_eq!(routes.source(addr("198.51.100.20")), Some(addr("198.51.100.10")));
        assert_eq!(routes.source(addr("8.8.8.8")), Some(addr("198.51.100.10")));
        assert_eq!(routes.source(addr("203.0.113.9")), Some(addr("192.0.2.10")));
        assert_eq!(routes.source(addr("2001:db8::1")), None);
    }

    #[test]
    fn the_ipv6_source_has_the_destinations_scope_and_the_longest_common_prefix() {
        let routes =
            routes(&["fe80::10/64", "2001:db8:1::10/64", "2001:db8:2::10/64"], &[("::/0", "fe80::1")]);
        assert_eq!(routes.source(addr("fe80::99")), Some(addr("fe80::10")));
        assert_eq!(routes.source(addr("ff02::1")), Some(addr("fe80::10")));
        assert_eq!(routes.source(addr("ff0e::1")), Some(addr("2001:db8:1::10")));
        assert_eq!(routes.source(addr("2001:db8:2::99")), Some(addr("2001:db8:2::10")));
        assert_eq!(routes.source(addr("2001:db8:1::99")), Some(addr("2001:db8:1::10")));
    }

    #[test]
    fn the_link_local_address_comes_from_the_ethernet_address() {
        let mac = EthernetAddress([0x02, 0, 0x5e, 0x10, 0x20, 0x30]);
        assert_eq!(link_local(mac).to_string(), "fe80::5eff:fe10:2030/64");
    }
}
