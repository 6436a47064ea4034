//! Rules in iptables-save's words. What is printed can be read again, and means the same.

use core::fmt;
use core::ops::RangeInclusive;

use super::matches::{ICMP_TYPES, ICMPV6_TYPES};
use super::options::{NAMED_PROTOCOLS, TCP_FLAGS};
use super::rule::{
    Condition, ConnMark, Family, HashKey, HashLimit, Match, NatTarget, Ports, Rate, Rule, StateSet, Table,
    Target, TcpMss,
};
use super::targets::REJECTS;
use super::words::quoted;
use super::{Policy, RuleSet};
use crate::config::Cidr;
use crate::parse::protocol;
use crate::tcp::header::Flags;

impl fmt::Display for RuleSet {
    /// Sets in ipset's words, then one section a table, without counters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, set) in &self.sets {
            writeln!(f, "create {} {}", quoted(name), if set.hosts_only { "hash:ip" } else { "hash:net" })?;
            for network in set.iter() {
                writeln!(f, "add {} {}", quoted(name), Network(&network))?;
            }
        }
        for table in Table::ALL {
            let chains = self.chains(table);
            if chains.is_empty() {
                continue;
            }
            writeln!(f, "*{}", table.name())?;
            for chain in chains {
                let policy = match chain.policy {
                    Some(Policy::Accept) => "ACCEPT",
                    Some(Policy::Drop) => "DROP",
                    None => "-",
                };
                writeln!(f, ":{} {policy} [0:0]", chain.name)?;
            }
            for chain in chains {
                for rule in &chain.rules {
                    writeln!(f, "-A {}{rule}", chain.name)?;
                }
            }
            writeln!(f, "COMMIT")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    /// Each word with a blank before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names_version = self.conditions.iter().any(|condition| match condition.test {
            Match::Source(_) | Match::Destination(_) => true,
            Match::Protocol(protocol::ICMPV4 | protocol::ICMPV6) => !condition.inverted,
            _ => false,
        });
        match self.family {
            Family::Ipv4 if !names_version => f.write_str(" -4")?,
            Family::Ipv6 if !names_version => f.write_str(" -6")?,
            _ => {}
        }
        let number = self.conditions.iter().find_map(|condition| match condition {
            Condition { inverted: false, test: Match::Protocol(number) } => Some(*number),
            _ => None,
        });
        self.conditions.iter().try_for_each(|condition| write_condition(f, condition, number))?;
        if let Some(comment) = &self.comment {
            write!(f, " -m comment --comment {}", quoted(comment))?;
        }
        write_target(f, &self.target)
    }
}

/// Whole addresses with their prefix, as iptables-save prints them.
struct Network<'a>(&'a Cidr);

impl fmt::Display for Network<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.addr, self.0.prefix_len)
    }
}

fn write_condition(f: &mut fmt::Formatter<'_>, condition: &Condition, number: Option<u8>) -> fmt::Result {
    let not = if condition.inverted { " !" } else { "" };
    let networks = |networks: &[Cidr]| {
        networks.iter().map(|network| Network(network).to_string()).collect::<Vec<_>>().join(",")
    };
    match &condition.test {
        Match::Source(list) => write!(f, "{not} -s {}", networks(list)),
        Match::Destination(list) => write!(f, "{not} -d {}", networks(list)),
        Match::InInterface(name) => write!(f, "{not} -i {}{}", name.name, if name.prefix { "+" } else { "" }),
        Match::OutInterface(name) => {
            write!(f, "{not} -o {}{}", name.name, if name.prefix { "+" } else { "" })
        }
        Match::Protocol(number) => write!(f, "{not} -p {}", protocol_name(*number)),
        Match::SourcePorts(ports) => write_ports(f, not, number, ports, "--sport", "--sports"),
        Match::DestinationPorts(ports) => write_ports(f, not, number, ports, "--dport", "--dports"),
        Match::EitherPorts(ports) => write_ports(f, not, number, ports, "--ports", "--ports"),
        Match::TcpFlags { mask, set } => {
            write!(f, " -m tcp{not} --tcp-flags {} {}", flags(*mask), flags(*set))
        }
        Match::IcmpType { kind, code, ipv6 } => write_icmp(f, not, *kind, *code, *ipv6),
        Match::CtState(states) => write!(f, " -m conntrack{not} --ctstate {}", names(*states)),
        Match::Mark { value, mask } => write!(f, " -m mark{not} --mark {}", Masked(*value, *mask)),
        Match::ConnMark { value, mask } => write!(f, " -m connmark{not} --mark {}", Masked(*value, *mask)),
        Match::Limit(rate) => {
            write!(f, " -m limit --limit {}", RateText(rate))?;
            write!(f, " --limit-burst {}", rate.burst)
        }
        Match::HashLimit(limit) => write_hashlimit(f, limit),
        Match::ConnLimit(limit) => {
            write!(
                f,
                " -m connlimit --connlimit-{} {}",
                if limit.above { "above" } else { "upto" },
                limit.flows
            )?;
            if let Some(prefix) = limit.prefix {
                write!(f, " --connlimit-mask {prefix}")?;
            }
            f.write_str(if limit.destination { " --connlimit-daddr" } else { " --connlimit-saddr" })
        }
        Match::Set { name, destination } => {
            write!(
                f,
                " -m set{not} --match-set {} {}",
                quoted(name),
                if *destination { "dst" } else { "src" }
            )
        }
    }
}

fn protocol_name(number: u8) -> String {
    let named = NAMED_PROTOCOLS.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

fn write_ports(
    f: &mut fmt::Formatter<'_>,
    not: &str,
    number: Option<u8>,
    ports: &Ports,
    one: &str,
    several: &str,
) -> fmt::Result {
    let list = ports.ranges.iter().map(|range| range_text(range, ':')).collect::<Vec<_>>().join(",");
    if ports.multiport {
        write!(f, " -m multiport{not} {several} {list}")
    } else {
        write!(f, " -m {}{not} {one} {list}", number.map_or_else(|| "tcp".to_owned(), protocol_name))
    }
}

fn range_text(range: &RangeInclusive<u16>, separator: char) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}{separator}{}", range.start(), range.end())
    }
}

fn flags(flags: Flags) -> String {
    let named: Vec<_> =
        TCP_FLAGS.iter().filter(|(_, flag)| flags.contains(*flag)).map(|(name, _)| *name).collect();
    if named.is_empty() { "NONE".to_owned() } else { named.join(",") }
}

fn write_icmp(
    f: &mut fmt::Formatter<'_>,
    not: &str,
    kind: Option<u8>,
    code: Option<u8>,
    ipv6: bool,
) -> fmt::Result {
    let (load, option) = if ipv6 { ("icmp6", "--icmpv6-type") } else { ("icmp", "--icmp-type") };
    write!(f, " -m {load}{not} {option} ")?;
    let names: &[(&str, u8, Option<u8>)] = if ipv6 { &ICMPV6_TYPES } else { &ICMP_TYPES };
    match (kind, code) {
        (None, _) => f.write_str("any"),
        (Some(kind), code) => match (names.iter().find(|known| known.1 == kind && known.2 == code), code) {
            (Some((name, ..)), _) => f.write_str(name),
            (None, Some(code)) => write!(f, "{kind}/{code}"),
            (None, None) => write!(f, "{kind}"),
        },
    }
}

fn names(states: StateSet) -> String {
    states.names().collect::<Vec<_>>().join(",")
}

/// A mark, with its mask unless that is all bits.
struct Masked(u32, u32);

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1 == u32::MAX { write!(f, "{:#x}", self.0) } else { write!(f, "{:#x}/{:#x}", self.0, self.1) }
    }
}

struct RateText<'a>(&'a Rate);

impl fmt::Display for RateText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.events, self.0.unit.names().1)
    }
}

fn write_hashlimit(f: &mut fmt::Formatter<'_>, limit: &HashLimit) -> fmt::Result {
    let HashKey { source, destination, source_port, destination_port } = limit.key;
    write!(
        f,
        " -m hashlimit --hashlimit-{} {}",
        if limit.above { "above" } else { "upto" },
        RateText(&limit.rate)
    )?;
    write!(f, " --hashlimit-burst {}", limit.rate.burst)?;
    let parts = [
        (source.is_some(), "srcip"),
        (source_port, "srcport"),
        (destination.is_some(), "dstip"),
        (destination_port, "dstport"),
    ];
    let parts: Vec<_> = parts.iter().filter(|(used, _)| *used).map(|(_, name)| *name).collect();
    if !parts.is_empty() {
        write!(f, " --hashlimit-mode {}", parts.join(","))?;
    }
    write!(f, " --hashlimit-name {}", quoted(&limit.name))?;
    if let Some(prefix) = source.filter(|prefix| *prefix != 128) {
        write!(f, " --hashlimit-srcmask {prefix}")?;
    }
    if let Some(prefix) = destination.filter(|prefix| *prefix != 128) {
        write!(f, " --hashlimit-dstmask {prefix}")?;
    }
    write!(f, " --hashlimit-htable-max {} --hashlimit-htable-expire {}", limit.entries_max, limit.expire_ms)
}

fn write_target(f: &mut fmt::Formatter<'_>, target: &Target) -> fmt::Result {
    match target {
        Target::Nothing => Ok(()),
        Target::Accept => f.write_str(" -j ACCEPT"),
        Target::Drop => f.write_str(" -j DROP"),
        Target::Return => f.write_str(" -j RETURN"),
        Target::NoTrack => f.write_str(" -j CT --notrack"),
        Target::Jump(chain) => write!(f, " -j {chain}"),
        Target::Goto(chain) => write!(f, " -g {chain}"),
        Target::Reject(with) => {
            let name = REJECTS.iter().find(|(_, known)| known == with).map(|(name, _)| *name);
            match name {
                Some(name) => write!(f, " -j REJECT --reject-with {name}"),
                None => f.write_str(" -j REJECT"),
            }
        }
        Target::Log { prefix, level } => {
            f.write_str(" -j LOG")?;
            if !prefix.is_empty() {
                write!(f, " --log-prefix {}", quoted(prefix))?;
            }
            if *level == 4 { Ok(()) } else { write!(f, " --log-level {level}") }
        }
        Target::Mark { value, mask } => write!(f, " -j MARK --set-xmark {value:#x}/{mask:#x}"),
        Target::ConnMark(ConnMark::Set { value, mask }) => {
            write!(f, " -j CONNMARK --set-xmark {value:#x}/{mask:#x}")
        }
        Target::ConnMark(ConnMark::Save { mask }) => write!(f, " -j CONNMARK --save-mark --mask {mask:#x}"),
        Target::ConnMark(ConnMark::Restore { mask }) => {
            write!(f, " -j CONNMARK --restore-mark --mask {mask:#x}")
        }
        Target::Snat(to) => {
            write!(f, " -j SNAT --to-source {}", NatText(to))?;
            write_nat_flags(f, to)
        }
        Target::Dnat(to) => {
            f.write_str(" -j DNAT")?;
            to.iter().try_for_each(|to| write!(f, " --to-destination {}", NatText(to)))?;
            to.first().map_or(Ok(()), |to| write_nat_flags(f, to))
        }
        Target::Masquerade { ports, random } => {
            f.write_str(" -j MASQUERADE")?;
            if let Some(ports) = ports {
                write!(f, " --to-ports {}", range_text(ports, '-'))?;
            }
            if *random { f.write_str(" --random") } else { Ok(()) }
        }
        Target::Redirect { ports } => {
            f.write_str(" -j REDIRECT")?;
            ports.as_ref().map_or(Ok(()), |ports| write!(f, " --to-ports {}", range_text(ports, '-')))
        }
        Target::Netmap(network) => write!(f, " -j NETMAP --to {}", Network(network)),
        Target::TcpMss(TcpMss::ClampToPmtu) => f.write_str(" -j TCPMSS --clamp-mss-to-pmtu"),
        Target::TcpMss(TcpMss::Set(mss)) => write!(f, " -j TCPMSS --set-mss {mss}"),
    }
}

fn write_nat_flags(f: &mut fmt::Formatter<'_>, to: &NatTarget) -> fmt::Result {
    if to.random {
        f.write_str(" --random")?;
    }
    if to.persistent { f.write_str(" --persistent") } else { Ok(()) }
}

struct NatText<'a>(&'a NatTarget);

impl fmt::Display for NatText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.0.ports.as_ref().map(|ports| range_text(ports, '-'));
        if let Some((first, last)) = self.0.addresses {
            let addresses = if first == last { first.to_string() } else { format!("{first}-{last}") };
            if first.is_ipv6() && ports.is_some() {
                write!(f, "[{addresses}]")?;
            } else {
                f.write_str(&addresses)?;
            }
        }
        ports.map_or(Ok(()), |ports| write!(f, ":{ports}"))
    }
}
