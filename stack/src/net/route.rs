//! Which neighbour a packet goes to and which address of ours it comes from: links, gateways by longest prefix, and source
//! address selection (RFC 1122 section 3.3.1, RFC 6724 section 5 in short).
//!
//! Routes are few (bounded by `limits::INTERFACE_ROUTES`), kept longest prefix first, and looked through in order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// Links and gateways of one interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    /// Our addresses; each one's prefix is a link.
    links: Vec<Cidr>,
    /// Longest prefix first.
    gateways: Vec<Route>,
}

impl Routes {
    pub(crate) fn new(links: Vec<Cidr>, gateways: Vec<Route>) -> Self {
        let mut routes = Self { links, gateways };
        routes.gateways.sort_by_key(|route| core::cmp::Reverse(route.destination.prefix_len));
        routes
    }

    /// The next hop to `dst`; `None`: no route. There is none to our own addresses: nothing loops back.
    pub(crate) fn next_hop(&self, dst: IpAddr) -> Option<NextHop> {
        if self.links.iter().any(|link| link.addr == dst) {
            return None;
        }
        if let Some(group) = self.group(dst) {
            return Some(NextHop::Group(group));
        }
        if self.is_on_link(dst) {
            return Some(NextHop::Neighbor(dst));
        }
        let route = self.gateways.iter().find(|route| route.destination.contains(dst))?;
        // A gateway off every link (its address expired) leads nowhere.
        self.is_on_link(route.gateway).then_some(NextHop::Neighbor(route.gateway))
    }

    /// Whether `addr` is reached without a gateway.
    pub(crate) fn is_on_link(&self, addr: IpAddr) -> bool {
        let link_local = matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
        self.links.iter().any(|link| link.contains(addr) || link_local && link.addr.is_ipv6())
    }

    /// The source address for packets to `dst` of which the sender named none; `None`: no address of that family, or no
    /// route.
    /// RFC 9293 section 3.9.1.1, MUST-44.
    pub(crate) fn source(&self, dst: IpAddr) -> Option<IpAddr> {
        let hop = match self.next_hop(dst)? {
            NextHop::Neighbor(hop) => hop,
            NextHop::Group(_) => dst,
        };
        match dst {
            IpAddr::V4(_) => {
                let ours = || self.links.iter().filter(|link| link.addr.is_ipv4());
                let near = ours().filter(|link| link.contains(hop)).max_by_key(|link| link.prefix_len);
                near.or_else(|| ours().next()).map(|link| link.addr)
            }
            IpAddr::V6(dst) => {
                let ours = self.links.iter().filter_map(|link| match link.addr {
                    IpAddr::V6(addr) => Some((addr, u32::from(link.prefix_len))),
                    IpAddr::V4(_) => None,
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
            IpAddr::V4(dst) if dst.is_broadcast() || self.is_link_broadcast(dst) => {
                Some(EthernetAddress::BROADCAST)
            }
            _ => None,
        }
    }

    fn is_link_broadcast(&self, dst: Ipv4Addr) -> bool {
        self.links.iter().any(|link| {
            let all_ones = u32::MAX.checked_shr(u32::from(link.prefix_len)).unwrap_or(0);
            link.prefix_len < 31 && link.contains(dst.into()) && u32::from(dst) & all_ones == all_ones
        })
    }
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

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn routes(links: &[&str], gateways: &[(&str, &str)]) -> Routes {
        let gateways = gateways.iter().map(|(destination, gateway)| Route {
            destination: destination.parse().unwrap(),
            gateway: addr(gateway),
        });
        Routes::new(links.iter().map(|text| text.parse().unwrap()).collect(), gateways.collect())
    }

    fn via(text: &str) -> Option<NextHop> {
        Some(NextHop::Neighbor(addr(text)))
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
    fn groups_need_no_neighbor() {
        let routes = routes(&["192.0.2.10/24", "2001:db8::10/64"], &[]);
        let group = |text: &str| match routes.next_hop(addr(text)) {
            Some(NextHop::Group(mac)) => mac.to_string(),
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
