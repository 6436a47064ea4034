//! Targets, and their options.

use core::net::IpAddr;
use core::ops::RangeInclusive;

use super::options::{Words, has_ports, masked_number, network, number, port_range};
use super::parse::{Problem, problem};
use super::rule::{ConnMark, NatTarget, RejectWith, Target, TcpMss};
use super::words::Word;
use crate::parse::protocol;

/// Names that no chain may have.
pub(super) const NAMES: [&str; 16] = [
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
    "QUEUE",
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
        "NOTRACK" => Ok(Target::NoTrack),
        "REJECT" => reject(words),
        "LOG" => log(words),
        "MARK" => mark(name, words),
        "CONNMARK" => connmark(name, words),
        "CT" => match words.next() {
            Some(word) if word.text == "--notrack" => Ok(Target::NoTrack),
            _ => Err(problem(name.column, "CT knows --notrack here")),
        },
        "SNAT" => snat(name, words),
        "DNAT" => dnat(name, words),
        "MASQUERADE" => {
            let (mut ports, mut random) = (None, false);
            while let Some(word) = words.peek() {
                match word.text.as_str() {
                    "--to-ports" => {
                        words.next();
                        ports = Some(nat_ports(words.value(word, "a port or first-last")?)?);
                    }
                    "--random" | "--random-fully" => {
                        words.next();
                        random = true;
                    }
                    _ => break,
                }
            }
            Ok(Target::Masquerade { ports, random })
        }
        "REDIRECT" => {
            let mut ports = None;
            if let Some(word) =
                words.peek().filter(|word| word.text == "--to-ports" || word.text == "--to-port")
            {
                words.next();
                ports = Some(nat_ports(words.value(word, "a port or first-last")?)?);
            }
            Ok(Target::Redirect { ports })
        }
        "NETMAP" => match words.next() {
            Some(word) if word.text == "--to" => {
                Ok(Target::Netmap(network(words.value(word, "a network")?)?))
            }
            _ => Err(problem(name.column, "NETMAP needs --to and a network")),
        },
        "TCPMSS" => tcp_mss(name, words),
        "QUEUE" | "NFQUEUE" => {
            Err(problem(name.column, format!("{} has no program to hand packets to here", name.text)))
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
        Target::Masquerade { ports, .. } | Target::Redirect { ports } => ports.is_some(),
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

/// Names for `--reject-with`, the one that is printed first.
pub(super) const REJECTS: [(&str, RejectWith); 17] = [
    ("icmp-port-unreachable", RejectWith::Icmp(3)),
    ("icmp-net-unreachable", RejectWith::Icmp(0)),
    ("icmp-host-unreachable", RejectWith::Icmp(1)),
    ("icmp-proto-unreachable", RejectWith::Icmp(2)),
    ("icmp-net-prohibited", RejectWith::Icmp(9)),
    ("icmp-host-prohibited", RejectWith::Icmp(10)),
    ("icmp-admin-prohibited", RejectWith::Icmp(13)),
    ("tcp-reset", RejectWith::TcpReset),
    ("icmp6-port-unreachable", RejectWith::Icmpv6(4)),
    ("icmp6-no-route", RejectWith::Icmpv6(0)),
    ("icmp6-adm-prohibited", RejectWith::Icmpv6(1)),
    ("icmp6-addr-unreachable", RejectWith::Icmpv6(3)),
    ("port-unreach", RejectWith::Icmp(3)),
    ("net-unreach", RejectWith::Icmp(0)),
    ("host-unreach", RejectWith::Icmp(1)),
    ("tcp-rst", RejectWith::TcpReset),
    ("no-route", RejectWith::Icmpv6(0)),
];

fn reject(words: &mut Words<'_>) -> Result<Target, Problem> {
    let Some(word) = words.peek().filter(|word| word.text == "--reject-with") else {
        return Ok(Target::Reject(RejectWith::Icmp(3)));
    };
    words.next();
    let value = words.value(word, "an answer, such as icmp-port-unreachable or tcp-reset")?;
    match REJECTS.iter().find(|(name, _)| *name == value.text) {
        Some((_, with)) => Ok(Target::Reject(*with)),
        None => {
            let names: Vec<_> = REJECTS[..12].iter().map(|(name, _)| *name).collect();
            Err(problem(
                value.column,
                format!("`{}` is no answer known here: {}", value.text, names.join(", ")),
            ))
        }
    }
}

/// syslog's levels.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

fn log(words: &mut Words<'_>) -> Result<Target, Problem> {
    let (mut prefix, mut level) = (String::new(), 4);
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
                let given = named.or_else(|| value.text.parse().ok()).filter(|level| *level < LEVELS.len());
                level = given.ok_or_else(|| {
                    problem(
                        value.column,
                        format!("`{}` is no level: 0 to 7, or {}", value.text, LEVELS.join(", ")),
                    )
                })? as u8;
            }
            // What is logged is everything that is known of the packet already.
            "--log-tcp-sequence" | "--log-tcp-options" | "--log-ip-options" | "--log-uid" => {
                words.next();
            }
            _ => break,
        }
    }
    Ok(Target::Log { prefix, level })
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
    let mut masked = |default: u32| match words.peek().filter(|next| next.text == "--mask") {
        Some(option) => {
            words.next();
            number(words.value(option, "a mask")?)
        }
        None => Ok(default),
    };
    Ok(Target::ConnMark(match word.text.as_str() {
        "--save-mark" => ConnMark::Save { mask: masked(u32::MAX)? },
        "--restore-mark" => ConnMark::Restore { mask: masked(u32::MAX)? },
        _ => {
            let value = words.value(word, "a mark")?;
            let (value, mask) = changed_bits(word, value, "mark")?;
            ConnMark::Set { value, mask }
        }
    }))
}

fn snat(name: &Word, words: &mut Words<'_>) -> Result<Target, Problem> {
    let mut to = None;
    let (mut random, mut persistent) = (false, false);
    while let Some(word) = words.peek() {
        match word.text.as_str() {
            "--to-source" => {
                words.next();
                if to.is_some() {
                    return Err(problem(
                        word.column,
                        "one --to-source: write a range of addresses as first-last",
                    ));
                }
                to = Some(nat_target(words.value(word, "an address")?)?);
            }
            "--random" | "--random-fully" => {
                words.next();
                random = true;
            }
            "--persistent" => {
                words.next();
                persistent = true;
            }
            _ => break,
        }
    }
    let Some(to) = to else { return Err(problem(name.column, "SNAT needs --to-source and an address")) };
    if to.addresses.is_none() {
        return Err(problem(name.column, "SNAT needs an address; MASQUERADE takes the interface's"));
    }
    Ok(Target::Snat(NatTarget { random, persistent, ..to }))
}

fn dnat(name: &Word, words: &mut Words<'_>) -> Result<Target, Problem> {
    let mut to = Vec::new();
    let (mut random, mut persistent) = (false, false);
    while let Some(word) = words.peek() {
        match word.text.as_str() {
            // Several servers share the flows.
            "--to-destination" => {
                words.next();
                to.push(nat_target(words.value(word, "an address")?)?);
            }
            "--random" => {
                words.next();
                random = true;
            }
            "--persistent" => {
                words.next();
                persistent = true;
            }
            _ => break,
        }
    }
    if to.is_empty() {
        return Err(problem(name.column, "DNAT needs --to-destination and an address"));
    }
    let versions =
        |ipv4: bool| to.iter().any(|to| to.addresses.is_some_and(|(addr, _)| addr.is_ipv4() == ipv4));
    if versions(true) && versions(false) {
        return Err(problem(name.column, "all servers of one rule are of one IP version"));
    }
    for to in &mut to {
        (to.random, to.persistent) = (random, persistent);
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
    let ports = match ports {
        Some(ports) => Some(nat_ports(&Word { text: ports.to_owned(), column: word.column })?),
        None => None,
    };
    Ok(NatTarget { addresses, ports, random: false, persistent: false })
}

fn address_range(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last))
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
