//! Targets, and their options.

use core::ops::RangeInclusive;

use super::advice;
use super::matches::address_range;
use super::options::{Words, has_ports, masked_number, network, number, port_range};
use super::parse::{Problem, problem};
use super::rule::{ConnMark, NatTarget, Random, RejectWith, Target, TcpMss};
use super::words::Word;
use crate::parse::protocol;

/// Names that no chain may have.
pub(super) const NAMES: [&str; 15] = [
    "ACCEPT",
    "DROP",
    "RETURN",
    "REJECT",
    "LOG",
    "MARK",
    "CONNMARK",
    "NOTRACK",
    "CT",
    "SNAT",
    "MASQUERADE",
    "DNAT",
    "REDIRECT",
    "NETMAP",
    "TCPMSS",
];
/// Longest `--log-prefix` (iptables: 29 characters).
const LOG_PREFIX_MAX: usize = 29;
/// Least MSS that `--set-mss` takes: 576 bytes less headers (RFC 9293 section 3.7.1).
const MSS_MIN: u32 = 88;

/// `-j NAME` with its options.
pub(super) fn target(name: &Word, go: bool, words: &mut Words<'_>) -> Result<Target, Problem> {
    if go {
        return Ok(Target::Goto(name.text.clone()));
    }
    match name.text.as_str() {
        "ACCEPT" => Ok(Target::Accept),
        "DROP" => Ok(Target::Drop),
        "RETURN" => Ok(Target::Return),
        "NOTRACK" => Ok(Target::NoTrack { ct: false }),
        "REJECT" => reject(words),
        "LOG" => log(words),
        "MARK" => mark(name, words),
        "CONNMARK" => connmark(name, words),
        "CT" => match words.next() {
            Some(word) if word.text == "--notrack" => Ok(Target::NoTrack { ct: true }),
            Some(word) if word.text == "--helper" => Err(problem(
                word.column,
                "no helper follows what a protocol negotiates: accept its ports by rules of their own",
            )),
            _ => Err(problem(name.column, "CT knows --notrack here")),
        },
        "SNAT" => snat(name, words),
        "DNAT" => dnat(name, words),
        "MASQUERADE" => masquerade(words),
        "REDIRECT" => redirect(words),
        "NETMAP" => match words.next() {
            Some(word) if word.text == "--to" => {
                Ok(Target::Netmap(network(words.value(word, "a network")?)?))
            }
            _ => Err(problem(name.column, "NETMAP needs --to and a network")),
        },
        "TCPMSS" => tcp_mss(name, words),
        other if advice::of_target(other).is_some() => {
            let advice = advice::of_target(other).unwrap_or_default();
            Err(problem(name.column, format!("`-j {other}` is not known here: {advice}")))
        }
        chain => Ok(Target::Jump(chain.to_owned())),
    }
}

/// What a target asks of its rule's protocol.
pub(super) fn check(target: &Target, number: Option<u8>, column: u32) -> Result<(), Problem> {
    let tcp = number == Some(protocol::TCP);
    let ports = match target {
        Target::Reject(RejectWith::TcpReset) if !tcp => {
            return Err(problem(column, "`--reject-with tcp-reset` needs `-p tcp`"));
        }
        Target::TcpMss(_) if !tcp => return Err(problem(column, "TCPMSS needs `-p tcp`")),
        Target::Snat(to) => to.ports.is_some(),
        Target::Dnat(to) => to.iter().any(|to| to.ports.is_some()),
        Target::Masquerade { ports, .. } | Target::Redirect { ports, .. } => ports.is_some(),
        _ => false,
    };
    if ports && !has_ports(number) {
        return Err(problem(
            column,
            "a port to translate to needs a protocol with ports: `-p tcp` or `-p udp`",
        ));
    }
    Ok(())
}

/// Names for `--reject-with`, their short ones, in iptables' order; beginnings of the long ones are taken, too.
pub(super) const REJECTS: [(&str, &str, RejectWith); 14] = [
    ("icmp-port-unreachable", "port-unreach", RejectWith::Icmp(3)),
    ("icmp-net-unreachable", "net-unreach", RejectWith::Icmp(0)),
    ("icmp-host-unreachable", "host-unreach", RejectWith::Icmp(1)),
    ("icmp-proto-unreachable", "proto-unreach", RejectWith::Icmp(2)),
    ("icmp-net-prohibited", "net-prohib", RejectWith::Icmp(9)),
    ("icmp-host-prohibited", "host-prohib", RejectWith::Icmp(10)),
    ("icmp-admin-prohibited", "admin-prohib", RejectWith::Icmp(13)),
    ("tcp-reset", "tcp-rst", RejectWith::TcpReset),
    ("icmp6-no-route", "no-route", RejectWith::Icmpv6(0)),
    ("icmp6-adm-prohibited", "adm-prohibited", RejectWith::Icmpv6(1)),
    ("icmp6-addr-unreachable", "addr-unreach", RejectWith::Icmpv6(3)),
    ("icmp6-port-unreachable", "port-unreach", RejectWith::Icmpv6(4)),
    ("icmp6-policy-fail", "policy-fail", RejectWith::Icmpv6(5)),
    ("icmp6-reject-route", "reject-route", RejectWith::Icmpv6(6)),
];

fn reject(words: &mut Words<'_>) -> Result<Target, Problem> {
    let Some(word) = words.peek().filter(|word| word.text == "--reject-with") else {
        return Ok(Target::Reject(RejectWith::Icmp(3)));
    };
    words.next();
    let value = words.value(word, "an answer, such as icmp-port-unreachable or tcp-reset")?;
    let text = value.text.to_ascii_lowercase();
    let is = |(name, short, _): &&(&str, &str, _)| *name == text || *short == text;
    let begins = |(name, ..): &&(&str, &str, _)| !text.is_empty() && name.starts_with(&text);
    match REJECTS.iter().find(is).or_else(|| REJECTS.iter().find(begins)) {
        Some((.., with)) => Ok(Target::Reject(*with)),
        None => {
            let names: Vec<_> = REJECTS.iter().map(|(name, ..)| *name).collect();
            let reason = format!("`{}` is no answer known here: {}", value.text, names.join(", "));
            Err(problem(value.column, reason))
        }
    }
}

/// syslog's levels.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// Further words of LOG, in the order in which iptables-save prints them.
const LOG_DETAILS: [&str; 5] =
    ["--log-tcp-sequence", "--log-tcp-options", "--log-ip-options", "--log-uid", "--log-macdecode"];

fn log(words: &mut Words<'_>) -> Result<Target, Problem> {
    let (mut prefix, mut level, mut given) = (String::new(), 4, [false; LOG_DETAILS.len()]);
    while let Some(word) = words.peek() {
        match word.text.as_str() {
            "--log-prefix" => {
                words.next();
                let value = words.value(word, "a text")?;
                if value.text.chars().count() > LOG_PREFIX_MAX {
                    return Err(problem(value.column, format!("at most {LOG_PREFIX_MAX} characters")));
                }
                prefix.clone_from(&value.text);
            }
            "--log-level" => {
                words.next();
                let value = words.value(word, "a level, such as info")?;
                let named = match value.text.as_str() {
                    "panic" => Some(0),
                    "error" => Some(3),
                    "warn" => Some(4),
                    text => LEVELS.iter().position(|name| *name == text),
                };
                let known = named.or_else(|| value.text.parse().ok()).filter(|level| *level < LEVELS.len());
                level = known.ok_or_else(|| {
                    problem(
                        value.column,
                        format!("`{}` is no level: 0 to 7, or {}", value.text, LEVELS.join(", ")),
                    )
                })? as u8;
            }
            text => match LOG_DETAILS.iter().position(|detail| *detail == text) {
                Some(place) => {
                    words.next();
                    given[place] = true;
                }
                None => break,
            },
        }
    }
    let details = LOG_DETAILS.into_iter().zip(given).filter(|(_, given)| *given);
    Ok(Target::Log { prefix, level, details: details.map(|(detail, _)| detail).collect() })
}

fn mark(name: &Word, words: &mut Words<'_>) -> Result<Target, Problem> {
    let Some(word) = words.next() else {
        return Err(problem(
            name.column,
            "MARK needs --set-mark, --set-xmark, --and-mark, --or-mark or --xor-mark",
        ));
    };
    let value = words.value(word, "a mark")?;
    let (value, mask) = changed_bits(word, value, "mark")?;
    Ok(Target::Mark { value, mask })
}

/// The value and mask of `--set-mark` and its kin, so that `mark = (mark & !mask) ^ value`.
fn changed_bits(option: &Word, value: &Word, noun: &str) -> Result<(u32, u32), Problem> {
    let stem = option.text.strip_prefix("--").and_then(|text| text.strip_suffix(noun));
    Ok(match stem {
        // Bits of the value are set whatever the mask says.
        Some("set-") => {
            let (value, mask) = masked_number(value)?;
            (value, mask | value)
        }
        Some("set-x") => masked_number(value)?,
        Some("and-") => (0, !number(value)?),
        Some("or-") => {
            let bits = number(value)?;
            (bits, bits)
        }
        Some("xor-") => (number(value)?, 0),
        _ => return Err(problem(option.column, format!("`{}` is no option known here", option.text))),
    })
}

fn connmark(name: &Word, words: &mut Words<'_>) -> Result<Target, Problem> {
    let Some(word) = words.next() else {
        return Err(problem(name.column, "CONNMARK needs --set-mark, --save-mark or --restore-mark"));
    };
    let (mut packet_mask, mut flow_mask) = (u32::MAX, u32::MAX);
    if matches!(word.text.as_str(), "--save-mark" | "--restore-mark") {
        while let Some(option) =
            words.peek().filter(|next| matches!(next.text.as_str(), "--mask" | "--nfmask" | "--ctmask"))
        {
            words.next();
            let mask = number(words.value(option, "a mask")?)?;
            if option.text != "--ctmask" {
                packet_mask = mask;
            }
            if option.text != "--nfmask" {
                flow_mask = mask;
            }
        }
    }
    Ok(Target::ConnMark(match word.text.as_str() {
        "--save-mark" => ConnMark::Save { packet_mask, flow_mask },
        "--restore-mark" => ConnMark::Restore { packet_mask, flow_mask },
        _ => {
            let value = words.value(word, "a mark")?;
            let (value, mask) = changed_bits(word, value, "mark")?;
            ConnMark::Set { value, mask }
        }
    }))
}

/// `--to-ports PORT[-PORT]`, `--random` and `--random-fully`, in any order.
fn ports_and_random(words: &mut Words<'_>) -> Result<(Option<RangeInclusive<u16>>, Option<Random>), Problem> {
    let (mut ports, mut random) = (None, None);
    while let Some(word) = words.peek() {
        match word.text.as_str() {
            "--to-ports" | "--to-port" => {
                words.next();
                ports = Some(nat_ports(words.value(word, "a port or first-last")?)?);
            }
            _ => match random_option(word) {
                Some(option) => {
                    words.next();
                    random = Some(option);
                }
                None => break,
            },
        }
    }
    Ok((ports, random))
}

fn random_option(word: &Word) -> Option<Random> {
    match word.text.as_str() {
        "--random" => Some(Random::Ports),
        "--random-fully" => Some(Random::Fully),
        _ => None,
    }
}

fn masquerade(words: &mut Words<'_>) -> Result<Target, Problem> {
    ports_and_random(words).map(|(ports, random)| Target::Masquerade { ports, random })
}

fn redirect(words: &mut Words<'_>) -> Result<Target, Problem> {
    let (ports, random) = ports_and_random(words)?;
    Ok(Target::Redirect { ports, random: random.is_some() })
}

/// Addresses behind `--to-source` or `--to-destination` (`long`), which may be shortened, and how to choose among them.
fn nat_targets(long: &str, words: &mut Words<'_>) -> Result<Vec<NatTarget>, Problem> {
    let mut to = Vec::new();
    let (mut random, mut persistent) = (None, false);
    while let Some(word) = words.peek() {
        let text = word.text.as_str();
        if text.len() >= "--to".len() && long.starts_with(text) {
            words.next();
            to.push(nat_target(words.value(word, "an address")?)?);
        } else if text == "--persistent" {
            words.next();
            persistent = true;
        } else if let Some(option) = random_option(word) {
            words.next();
            random = Some(option);
        } else {
            break;
        }
    }
    for to in &mut to {
        (to.random, to.persistent) = (random, persistent);
    }
    Ok(to)
}

fn snat(name: &Word, words: &mut Words<'_>) -> Result<Target, Problem> {
    let mut to = nat_targets("--to-source", words)?;
    if to.len() > 1 {
        let reason = "one --to-source: write a range of addresses as first-last";
        return Err(problem(name.column, reason));
    }
    match to.pop() {
        None => Err(problem(name.column, "SNAT needs --to-source and an address")),
        Some(to) if to.base.is_some() => Err(problem(name.column, "only DNAT shifts ports (PORT-PORT/PORT)")),
        Some(to) => Ok(Target::Snat(to)),
    }
}

/// Several servers share the flows.
fn dnat(name: &Word, words: &mut Words<'_>) -> Result<Target, Problem> {
    let to = nat_targets("--to-destination", words)?;
    if to.is_empty() {
        return Err(problem(name.column, "DNAT needs --to-destination and an address"));
    }
    let versions =
        |ipv4: bool| to.iter().any(|to| to.addresses.is_some_and(|(addr, _)| addr.is_ipv4() == ipv4));
    if versions(true) && versions(false) {
        return Err(problem(name.column, "all servers of one rule are of one IP version"));
    }
    Ok(Target::Dnat(to))
}

/// `ADDRESS[-ADDRESS][:PORT[-PORT]]`, IPv6 addresses in brackets when ports follow.
fn nat_target(word: &Word) -> Result<NatTarget, Problem> {
    let bad = || {
        let reason = format!(
            "`{}` is no address to translate to, such as 192.0.2.1, 192.0.2.1-192.0.2.9 or 192.0.2.1:80",
            word.text
        );
        problem(word.column, reason)
    };
    let text = word.text.as_str();
    let (addresses, ports) = match text.strip_prefix('[') {
        Some(rest) => {
            let (addresses, behind) = rest.split_once(']').ok_or_else(bad)?;
            let ports = match behind {
                "" => None,
                behind => Some(behind.strip_prefix(':').ok_or_else(bad)?),
            };
            (addresses, ports)
        }
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(addresses, ports)| (addresses, Some(ports))),
    };
    let addresses = match addresses {
        "" if ports.is_some() => None,
        addresses => Some(address_range(addresses).ok_or_else(bad)?),
    };
    // Where the first port of the range stands for another one, and so on.
    let (ports, base) = match ports.and_then(|ports| ports.split_once('/')) {
        Some((ports, base)) => {
            let base = port_range(&Word { text: base.to_owned(), column: word.column }, '-')?;
            (Some(ports), Some(*base.start()))
        }
        None => (ports, None),
    };
    let ports = match ports {
        Some(ports) => Some(nat_ports(&Word { text: ports.to_owned(), column: word.column })?),
        None => None,
    };
    Ok(NatTarget { addresses, ports, base, random: None, persistent: false })
}

fn nat_ports(word: &Word) -> Result<RangeInclusive<u16>, Problem> {
    let range = port_range(word, '-')?;
    if *range.start() == 0 {
        return Err(problem(word.column, "port 0 cannot be translated to"));
    }
    Ok(range)
}

fn tcp_mss(name: &Word, words: &mut Words<'_>) -> Result<Target, Problem> {
    match words.next() {
        Some(word) if word.text == "--clamp-mss-to-pmtu" => Ok(Target::TcpMss(TcpMss::ClampToPmtu)),
        Some(word) if word.text == "--set-mss" => {
            let value = words.value(word, "a number")?;
            match number(value)? {
                mss @ MSS_MIN..=65_495 => Ok(Target::TcpMss(TcpMss::Set(mss as u16))),
                _ => Err(problem(value.column, format!("an MSS is {MSS_MIN} to 65495"))),
            }
        }
        _ => Err(problem(name.column, "TCPMSS needs --clamp-mss-to-pmtu or --set-mss")),
    }
}
