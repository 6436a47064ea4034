//! What the kernel knows of a NIC and the stack may use as well: addresses with their prefix lengths, gateways, name
//! servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bywash::config::{Cidr, Route};

/// Linux's `RTF_UP | RTF_GATEWAY`, route(8)'s flags U and G.
const UP_AND_GATEWAY: u32 = 1 | 2;

/// The addresses of `interface`, those that reach beyond the link first.
///
/// # Errors
/// When the kernel does not list them.
pub fn addresses(interface: &str) -> io::Result<Vec<Cidr>> {
    let entries = nix::ifaddrs::getifaddrs().map_err(io::Error::from)?;
    let mut found: Vec<Cidr> = entries
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| {
            let (address, mask) = (entry.address?, entry.netmask?);
            if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                let prefix_len = u32::from(mask.ip()).count_ones() as u8;
                return Some(Cidr { addr: address.ip().into(), prefix_len });
            }
            let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
            let prefix_len = u128::from(mask.ip()).count_ones() as u8;
            Some(Cidr { addr: address.ip().into(), prefix_len })
        })
        .collect();
    found.sort_by_key(|cidr| is_link_local(cidr.addr));
    Ok(found)
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

/// The routes through a gateway that the kernel's main table has on `interface`.
#[must_use]
pub fn gateways(interface: &str) -> Vec<Route> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = ipv4_routes(&read("/proc/net/route"), interface);
    routes.extend(ipv6_routes(&read("/proc/net/ipv6_route"), interface));
    routes
}

/// `/proc/net/route`: interface, destination, gateway, flags, ..., mask; addresses as the CPU's 32-bit numbers.
fn ipv4_routes(table: &str, interface: &str) -> Vec<Route> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, gateway, flags, _, _, _, mask, ..] = fields.as_slice() else { return None };
        let addr = |hex: &str| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()));
        if *name != interface || u32::from_str_radix(flags, 16).ok()? & UP_AND_GATEWAY != UP_AND_GATEWAY {
            return None;
        }
        let prefix_len = u32::from(addr(mask)?).leading_ones() as u8;
        let destination = Cidr { addr: addr(destination)?.into(), prefix_len };
        Some(Route { destination, gateway: addr(gateway)?.into(), link: None })
    };
    table.lines().filter_map(parse).collect()
}

/// `/proc/net/ipv6_route`: destination, prefix length, source, its length, next hop, metric, two counts, flags, interface.
fn ipv6_routes(table: &str, interface: &str) -> Vec<Route> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, _, _, gateway, _, _, _, flags, name] = fields.as_slice() else {
            return None;
        };
        let addr = |hex: &str| Some(Ipv6Addr::from(u128::from_str_radix(hex, 16).ok()?));
        if *name != interface || u32::from_str_radix(flags, 16).ok()? & UP_AND_GATEWAY != UP_AND_GATEWAY {
            return None;
        }
        let prefix_len = u8::from_str_radix(length, 16).ok().filter(|&length| length <= 128)?;
        let destination = Cidr { addr: addr(destination)?.into(), prefix_len };
        Some(Route { destination, gateway: addr(gateway)?.into(), link: None })
    };
    table.lines().filter_map(parse).collect()
}

/// The name servers of `/etc/resolv.conf`, without those on this machine, which the stack cannot reach through a NIC.
#[must_use]
pub fn name_servers() -> Vec<IpAddr> {
    resolv_conf(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn resolv_conf(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next()?.parse().ok()).flatten()
        })
        .filter(|addr: &IpAddr| !addr.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_addresses_with_prefix_lengths() {
        let found = addresses("lo").unwrap();
        assert!(found.contains(&"127.0.0.1/8".parse().unwrap()), "{found:?}");
        assert!(addresses("nosuch0").unwrap().is_empty());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn ipv4_gateways_of_the_interface_are_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     eth1\t006433C6\t010200C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     eth0\t006433C6\tFE0200C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\ngarbage\n";
        let routes: Vec<_> = ipv4_routes(table, "eth0")
            .iter()
            .map(|r| (r.destination.to_string(), r.gateway.to_string()))
            .collect();
        assert_eq!(
            routes,
            [("0.0.0.0/0".into(), "192.0.2.1".into()), ("198.51.100.0/24".into(), "192.0.2.254".into())]
        );
    }

    #[test]
    fn ipv6_gateways_of_the_interface_are_read() {
        let zero = "00000000000000000000000000000000";
        let gateway = "fe800000000000000000000000000001";
        let table = format!(
            "{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth0\n\
             20010db8000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n\
             {zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth1\n"
        );
        let routes = ipv6_routes(&table, "eth0");
        assert_eq!(routes.len(), 1);
        assert_eq!(
            (routes[0].destination, routes[0].gateway),
            ("::/0".parse().unwrap(), "fe80::1".parse().unwrap())
        );
    }

    #[test]
    fn name_servers_on_this_machine_are_left_out() {
        let text = "# comment\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver\n\
                    nameserver 2001:db8::53 # trailing\nnameserver ::1\n";
        let want: Vec<IpAddr> = vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        assert_eq!(resolv_conf(text), want);
    }
}
