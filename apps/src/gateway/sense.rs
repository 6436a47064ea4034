//! What the parts of the gateway's configuration must fulfil together, beyond what each is read as.

use std::net::IpAddr;

use bywash::config::Cidr;
use bywash::flow::filter::{Match, RuleSet, Table};
use bywash::limits;

use super::config::{File, LinkTable, name};

/// Longest name that rules may call a link by (Linux's bound for interfaces).
const NAME_MAX: usize = 15;

/// What is wrong, if anything.
///
/// # Errors
/// The first such thing.
pub(super) fn check(file: &File) -> Result<(), String> {
    links(&file.link)?;
    networks(&file.link)?;
    routes(file)?;
    if let (Some(admin), Some(echo)) = (&file.admin, &file.echo)
        && admin.port == echo.port
    {
        return Err(format!("[admin] and [echo] both want port {}", admin.port));
    }
    match file.conntrack.max {
        Some(max) if max == 0 || max > limits::CONNTRACK_ENTRIES_MAX => {
            Err(format!("[conntrack] max = {max}: 1 to {} flows are possible", limits::CONNTRACK_ENTRIES_MAX))
        }
        _ => Ok(()),
    }
}

fn links(links: &[LinkTable]) -> Result<(), String> {
    if links.is_empty() {
        return Err("no link: a gateway needs a [[link]] table with `interface` for each NIC".to_owned());
    }
    for (at, link) in links.iter().enumerate() {
        let same = |other: &&LinkTable| other.interface == link.interface || name(other) == name(link);
        let name = name(link);
        if links[..at].iter().find(same).is_some() {
            return Err(format!("[[link]] {name} is there twice"));
        }
        if link.interface == "lo" {
            return Err("[[link]] lo is no NIC: there is nothing to route to".to_owned());
        }
        if name.is_empty() || name.len() > NAME_MAX || name.contains([' ', '/', '+', '!']) {
            return Err(format!(
                "[[link]] `{name}`: rules call a link by 1 to {NAME_MAX} characters, without blanks, /, + and !"
            ));
        }
        if link.address.is_empty() && !link.dhcp {
            return Err(format!("[[link]] {name} has neither `address` nor `dhcp = true`"));
        }
    }
    Ok(())
}

/// Each network is on one link: of two, only one would be reached.
fn networks(links: &[LinkTable]) -> Result<(), String> {
    let all: Vec<(&LinkTable, &Cidr)> =
        links.iter().flat_map(|link| link.address.iter().map(move |address| (link, address))).collect();
    for (at, (link, address)) in all.iter().enumerate() {
        for (other, before) in &all[..at] {
            if address.addr == before.addr {
                return Err(format!("address {} is there twice", address.addr));
            }
            let meet = address.contains(before.addr) || before.contains(address.addr);
            if meet && !std::ptr::eq(*link, *other) {
                return Err(format!(
                    "links {} and {} are in one network ({before} and {address}): give each its own",
                    name(other),
                    name(link)
                ));
            }
        }
    }
    Ok(())
}

fn routes(file: &File) -> Result<(), String> {
    let own = |addr: IpAddr| file.link.iter().flat_map(|link| &link.address).any(|cidr| cidr.addr == addr);
    for (at, route) in file.route.iter().enumerate() {
        if own(route.via) {
            return Err(format!(
                "[[route]] via {} is the gateway's own address: say the next router's",
                route.via
            ));
        }
        let to = network(route.destination());
        if file.route[..at].iter().any(|before| network(before.destination()) == to) {
            return Err(format!("there are two routes to {to}: one would never be taken"));
        }
    }
    Ok(())
}

/// A network without the bits of a host.
fn network(Cidr { addr, prefix_len }: Cidr) -> Cidr {
    let addr = match addr {
        IpAddr::V4(addr) => {
            let hosts = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
            IpAddr::from((u32::from(addr) & !hosts).to_be_bytes())
        }
        IpAddr::V6(addr) => {
            let hosts = u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
            IpAddr::from((u128::from(addr) & !hosts).to_be_bytes())
        }
    };
    Cidr { addr, prefix_len }
}

/// Interfaces that rules name, and that are no link: such rules may be meant for another machine, or have a slip of the pen.
#[must_use]
pub fn strangers(rules: &RuleSet, links: &[String]) -> Vec<String> {
    let mut strangers = Vec::new();
    let rules = Table::ALL.into_iter().flat_map(|table| rules.chains(table)).flat_map(|chain| &chain.rules);
    for condition in rules.flat_map(|rule| &rule.conditions) {
        let (Match::InInterface(wanted) | Match::OutInterface(wanted)) = &condition.test else { continue };
        let known = links.iter().any(|link| wanted.matches(link));
        // Of the host's own, which no router has.
        if !known && wanted.name != "lo" && !strangers.contains(&wanted.name) {
            strangers.push(wanted.name.clone());
        }
    }
    strangers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_links_that_are_not_there_are_found() {
        let rules = RuleSet::parse(
            "-A FORWARD -i lan -o wam -j ACCEPT\n-A FORWARD -i w+ ! -o ppp+ -j ACCEPT\n-A INPUT -i lo -j ACCEPT\n-t nat -A POSTROUTING -o wam -j MASQUERADE",
            "rules",
        );
        let links = ["lan", "wan"].map(str::to_owned);
        let mut found = strangers(&rules.unwrap(), &links);
        found.sort();
        assert_eq!(found, ["ppp", "wam"]);
    }
}
