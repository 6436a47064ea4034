//! Rules in iptables-save's words. What is printed can be read again, and means the same.

use core::fmt;
use core::ops::RangeInclusive;

use super::names::protocol_name;
use super::options::TCP_FLAGS;
use super::rates::BURST;
use super::rule::{
    Condition, ConnLimit, ConnMark, Family, HashKey, HashLimit, InterfaceName, Match, Module, NatTarget,
    Ports, Random, Rate, RejectWith, Rule, Table, Target, TcpMss,
};
use super::targets::REJECTS;
use super::words::quoted;
use super::{Chain, Policy, RuleSet};
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
            let mut chains: Vec<&Chain> = self.chains(table).iter().collect();
            if chains.is_empty() {
                continue;
            }
            // The built-in ones in their order, the others by name.
            chains.sort_by_key(|chain| chain.policy.is_none().then_some(&chain.name));
            writeln!(f, "*{}", table.name())?;
            for chain in &chains {
                let policy = match chain.policy {
                    Some(Policy::Accept) => "ACCEPT",
                    Some(Policy::Drop) => "DROP",
                    None => "-",
                };
                writeln!(f, ":{} {policy} [0:0]", chain.name)?;
            }
            for chain in &chains {
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
            Match::Source(_)
            | Match::Destination(_)
            | Match::CtAddress(..)
            | Match::SourceRange(..)
            | Match::DestinationRange(..) => true,
            Match::Protocol(protocol::ICMPV4 | protocol::ICMPV6) => !condition.inverted,
            _ => false,
        });
        match self.family {
            Family::Ipv4 if !names_version => f.write_str(" -4")?,
            Family::Ipv6 if !names_version => f.write_str(" -6")?,
            _ => {}
        }
        let mut loaded = None;
        for condition in &self.conditions {
            if condition.module != loaded
                && let Some(Module { name, .. }) = condition.module
            {
                write!(f, " -m {name}")?;
                loaded = condition.module;
            }
            write_condition(f, condition, self.family)?;
        }
        write_target(f, &self.target, self.family)
    }
}

/// Whole addresses with their prefix, as iptables-save prints them.
struct Network<'a>(&'a Cidr);

impl Network<'_> {
    /// Whole addresses without, as it prints them behind `-m conntrack`.
    fn short(&self) -> String {
        let Cidr { addr, prefix_len } = self.0;
        let is_whole = *prefix_len == if addr.is_ipv4() { 32 } else { 128 };
        if is_whole { addr.to_string() } else { self.to_string() }
    }
}

impl fmt::Display for Network<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.addr, self.0.prefix_len)
    }
}

fn write_condition(f: &mut fmt::Formatter<'_>, condition: &Condition, family: Family) -> fmt::Result {
    let not = if condition.inverted { " !" } else { "" };
    let plus = |name: &InterfaceName| if name.prefix { "+" } else { "" };
    match &condition.test {
        Match::Source(network) => write!(f, "{not} -s {}", Network(network)),
        Match::Destination(network) => write!(f, "{not} -d {}", Network(network)),
        Match::InInterface(name) => write!(f, "{not} -i {}{}", name.name, plus(name)),
        Match::OutInterface(name) => write!(f, "{not} -o {}{}", name.name, plus(name)),
        Match::Protocol(number) => write!(f, "{not} -p {}", protocol_name(*number)),
        Match::SourcePorts(ports) => write_ports(f, not, ports, "--sport", "--sports"),
        Match::DestinationPorts(ports) => write_ports(f, not, ports, "--dport", "--dports"),
        Match::EitherPorts(ports) => write_ports(f, not, ports, "--ports", "--ports"),
        Match::TcpFlags { mask, set } => write!(f, "{not} --tcp-flags {} {}", flags(*mask), flags(*set)),
        Match::IcmpType { kind, code, ipv6 } => write_icmp(f, not, *kind, *code, *ipv6),
        Match::CtState(states) => {
            let is_state = condition.module.is_some_and(|module| module.name == "state");
            let states = states.names().collect::<Vec<_>>().join(",");
            write!(f, "{not} {} {states}", if is_state { "--state" } else { "--ctstate" })
        }
        Match::CtProtocol(number) => write!(f, "{not} --ctproto {number}"),
        Match::CtAddress(end, network) => write!(f, "{not} {} {}", end.option(), Network(network).short()),
        Match::CtPort(end, ports) => write!(f, "{not} {}port {}", end.option(), range_text(ports, ':')),
        Match::SourceRange(first, last) => write!(f, "{not} --src-range {first}-{last}"),
        Match::DestinationRange(first, last) => write!(f, "{not} --dst-range {first}-{last}"),
        Match::SourceType(types) => {
            write!(f, "{not} --src-type {}", types.names().collect::<Vec<_>>().join(","))
        }
        Match::DestinationType(types) => {
            write!(f, "{not} --dst-type {}", types.names().collect::<Vec<_>>().join(","))
        }
        Match::Comment(text) => write!(f, " --comment {}", quoted(text)),
        Match::Loaded => Ok(()),
        Match::Mark { value, mask } | Match::ConnMark { value, mask } => {
            write!(f, "{not} --mark {}", Masked(*value, *mask))
        }
        Match::Limit(rate) => {
            write!(f, " --limit {}", RateText(rate))?;
            if rate.burst == BURST { Ok(()) } else { write!(f, " --limit-burst {}", rate.burst) }
        }
        Match::HashLimit(limit) => write_hashlimit(f, limit),
        Match::ConnLimit(limit) => write_connlimit(f, limit, family),
        Match::Set { name, destination } => {
            write!(f, "{not} --match-set {} {}", quoted(name), if *destination { "dst" } else { "src" })
        }
    }
}

fn write_connlimit(f: &mut fmt::Formatter<'_>, limit: &ConnLimit, family: Family) -> fmt::Result {
    write!(f, " --connlimit-{} {}", if limit.above { "above" } else { "upto" }, limit.flows)?;
    let whole = match family {
        Family::Any => None,
        Family::Ipv4 => Some(32),
        Family::Ipv6 => Some(128),
    };
    if let Some(prefix) = limit.prefix.or(whole) {
        write!(f, " --connlimit-mask {prefix}")?;
    }
    f.write_str(if limit.destination { " --connlimit-daddr" } else { " --connlimit-saddr" })
}

fn write_ports(
    f: &mut fmt::Formatter<'_>,
    not: &str,
    ports: &Ports,
    one: &str,
    several: &str,
) -> fmt::Result {
    let list = ports.ranges.iter().map(|range| range_text(range, ':')).collect::<Vec<_>>().join(",");
    write!(f, "{not} {} {list}", if ports.multiport { several } else { one })
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
    write!(f, "{not} {} ", if ipv6 { "--icmpv6-type" } else { "--icmp-type" })?;
    match (kind, code) {
        (None, _) => f.write_str("any"),
        (Some(kind), Some(code)) => write!(f, "{kind}/{code}"),
        (Some(kind), None) => write!(f, "{kind}"),
    }
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
    write!(f, " --hashlimit-{} {}", if limit.above { "above" } else { "upto" }, RateText(&limit.rate))?;
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
    let unless = |value: u32, default: u32| (value != default).then_some(value);
    for (option, value) in [
        ("htable-size", limit.size),
        ("htable-max", limit.entries_max),
        ("htable-gcinterval", unless(limit.collect_ms, HashLimit::COLLECT_MS)),
        ("htable-expire", unless(limit.expire_ms, limit.rate.unit.seconds() * 1000)),
        ("srcmask", source.filter(|prefix| *prefix != 128).map(u32::from)),
        ("dstmask", destination.filter(|prefix| *prefix != 128).map(u32::from)),
    ] {
        if let Some(value) = value {
            write!(f, " --hashlimit-{option} {value}")?;
        }
    }
    Ok(())
}

fn write_target(f: &mut fmt::Formatter<'_>, target: &Target, family: Family) -> fmt::Result {
    match target {
        Target::Nothing => Ok(()),
        Target::Accept => f.write_str(" -j ACCEPT"),
        Target::Drop => f.write_str(" -j DROP"),
        Target::Return => f.write_str(" -j RETURN"),
        Target::NoTrack { ct } => f.write_str(if *ct { " -j CT --notrack" } else { " -j NOTRACK" }),
        Target::Jump(chain) => write!(f, " -j {chain}"),
        Target::Goto(chain) => write!(f, " -g {chain}"),
        Target::Reject(with) => {
            // What each version calls a closed port.
            let with = if family == Family::Ipv6 && *with == RejectWith::Icmp(3) {
                &RejectWith::Icmpv6(4)
            } else {
                with
            };
            let name = REJECTS.iter().find(|(_, _, known)| known == with).map(|(name, ..)| *name);
            match name {
                Some(name) => write!(f, " -j REJECT --reject-with {name}"),
                None => f.write_str(" -j REJECT"),
            }
        }
        Target::Log { prefix, level, details } => {
            f.write_str(" -j LOG")?;
            if !prefix.is_empty() {
                write!(f, " --log-prefix {}", quoted(prefix))?;
            }
            if *level != 4 {
                write!(f, " --log-level {level}")?;
            }
            details.iter().try_for_each(|detail| write!(f, " {detail}"))
        }
        Target::Mark { value, mask } => write!(f, " -j MARK --set-xmark {value:#x}/{mask:#x}"),
        Target::ConnMark(ConnMark::Set { value, mask }) => {
            write!(f, " -j CONNMARK --set-xmark {value:#x}/{mask:#x}")
        }
        Target::ConnMark(ConnMark::Save { packet_mask, flow_mask }) => {
            write!(f, " -j CONNMARK --save-mark --nfmask {packet_mask:#x} --ctmask {flow_mask:#x}")
        }
        Target::ConnMark(ConnMark::Restore { packet_mask, flow_mask }) => {
            write!(f, " -j CONNMARK --restore-mark --nfmask {packet_mask:#x} --ctmask {flow_mask:#x}")
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
            write_random(f, *random)
        }
        Target::Redirect { ports, random } => {
            f.write_str(" -j REDIRECT")?;
            if let Some(ports) = ports {
                write!(f, " --to-ports {}", range_text(ports, '-'))?;
            }
            if *random { f.write_str(" --random") } else { Ok(()) }
        }
        Target::Netmap(network) => write!(f, " -j NETMAP --to {}", Network(network)),
        Target::TcpMss(TcpMss::ClampToPmtu) => f.write_str(" -j TCPMSS --clamp-mss-to-pmtu"),
        Target::TcpMss(TcpMss::Set(mss)) => write!(f, " -j TCPMSS --set-mss {mss}"),
    }
}

fn write_nat_flags(f: &mut fmt::Formatter<'_>, to: &NatTarget) -> fmt::Result {
    write_random(f, to.random)?;
    if to.persistent { f.write_str(" --persistent") } else { Ok(()) }
}

fn write_random(f: &mut fmt::Formatter<'_>, random: Option<Random>) -> fmt::Result {
    match random {
        Some(Random::Ports) => f.write_str(" --random"),
        Some(Random::Fully) => f.write_str(" --random-fully"),
        None => Ok(()),
    }
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
        if let Some(ports) = ports {
            write!(f, ":{ports}")?;
        }
        self.0.base.map_or(Ok(()), |base| write!(f, "/{base}"))
    }
}
