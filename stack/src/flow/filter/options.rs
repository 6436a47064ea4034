//! The words of one rule: conditions, matches loaded with `-m`, and the target with its own options.

use core::ops::RangeInclusive;

use super::parse::{Problem, problem};
use super::rule::{Condition, Family, InterfaceName, Match, Ports, Rule, Target};
use super::words::Word;
use super::{StateSet, matches, targets};
use crate::config::Cidr;
use crate::parse::protocol;
use crate::tcp::header::Flags;

/// The words of a line, one after the other.
pub(super) struct Words<'a> {
    words: &'a [Word],
    at: usize,
}

impl<'a> Words<'a> {
    pub(super) fn new(words: &'a [Word]) -> Self {
        Self { words, at: 0 }
    }

    pub(super) fn peek(&self) -> Option<&'a Word> {
        self.words.get(self.at)
    }

    pub(super) fn next(&mut self) -> Option<&'a Word> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    /// The value behind `option`.
    pub(super) fn value(&mut self, option: &Word, what: &str) -> Result<&'a Word, Problem> {
        self.next().ok_or_else(|| problem(self.end(), format!("`{}` needs {what}", option.text)))
    }

    /// The column behind the last word.
    pub(super) fn end(&self) -> u32 {
        self.words.last().map_or(1, |word| word.column + word.text.chars().count() as u32)
    }

    /// That nothing follows.
    pub(super) fn end_here(&self) -> Result<(), Problem> {
        self.peek()
            .map_or(Ok(()), |word| Err(problem(word.column, format!("`{}` is too much here", word.text))))
    }
}

/// What the words of a rule have said so far.
pub(super) struct Draft {
    pub(super) family: Family,
    pub(super) conditions: Vec<Condition>,
    pub(super) target: Option<Target>,
    target_column: u32,
    pub(super) comment: Option<String>,
    /// Matches loaded with `-m`, and the protocol's own.
    pub(super) loaded: Vec<String>,
    /// Protocol of `-p`, not inverted.
    pub(super) protocol: Option<u8>,
}

impl Draft {
    pub(super) fn add(&mut self, inverted: bool, test: Match) {
        self.conditions.push(Condition { inverted, test });
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.loaded.iter().any(|known| known == name)
    }

    /// The rule is for the version of this network; both in one rule are refused.
    pub(super) fn see_network(&mut self, network: &Cidr, column: u32) -> Result<(), Problem> {
        let family = if network.addr.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        match self.family {
            Family::Any => self.family = family,
            known if known == family => {}
            _ => {
                return Err(problem(
                    column,
                    format!("{} is of another IP version than the rest of the rule", network.addr),
                ));
            }
        }
        Ok(())
    }
}

/// Reads a rule's words, to the last.
pub(super) fn rule(mut words: Words<'_>, family: Family, line: u32) -> Result<Rule, Problem> {
    let mut draft = Draft {
        family,
        conditions: Vec::new(),
        target: None,
        target_column: 0,
        comment: None,
        loaded: Vec::new(),
        protocol: None,
    };
    let mut inverted = None;
    while let Some(word) = words.next() {
        if word.text == "!" {
            if let Some(column) = inverted.replace(word.column) {
                return Err(problem(column, "one ! is enough"));
            }
            continue;
        }
        let invert = inverted.take();
        let takes_not = option(&mut draft, word, invert.is_some(), &mut words)?;
        if let Some(column) = invert.filter(|_| !takes_not) {
            return Err(problem(column, format!("! cannot stand before `{}`", word.text)));
        }
    }
    if let Some(column) = inverted {
        return Err(problem(column, "nothing follows this !"));
    }
    let target = draft.target.unwrap_or(Target::Nothing);
    targets::check(&target, draft.protocol, words.end())?;
    // As in iptables: what every packet has is looked at first, then the matches in the order in which they were loaded.
    draft.conditions.sort_by_key(|condition| rank(&condition.test));
    let Draft { family, conditions, comment, target_column, .. } = draft;
    Ok(Rule { family, conditions, target, comment, line, target_column })
}

fn rank(test: &Match) -> u8 {
    match test {
        Match::Source(_) => 0,
        Match::Destination(_) => 1,
        Match::InInterface(_) => 2,
        Match::OutInterface(_) => 3,
        Match::Protocol(_) => 4,
        _ => 5,
    }
}

/// One option with its values; whether it may be inverted.
fn option(draft: &mut Draft, word: &Word, inverted: bool, words: &mut Words<'_>) -> Result<bool, Problem> {
    match word.text.as_str() {
        "-s" | "--source" | "--src" => {
            let networks = networks(draft, words.value(word, "an address or network")?)?;
            draft.add(inverted, Match::Source(networks));
        }
        "-d" | "--destination" | "--dst" => {
            let networks = networks(draft, words.value(word, "an address or network")?)?;
            draft.add(inverted, Match::Destination(networks));
        }
        "-p" | "--protocol" => {
            let value = words.value(word, "a protocol, such as tcp")?;
            if let Some(number) = protocol_number(draft, value)? {
                draft.protocol = (!inverted).then_some(number);
                draft.add(inverted, Match::Protocol(number));
            } else if inverted {
                return Err(problem(value.column, "no packet is of no protocol at all"));
            }
        }
        "-i" | "--in-interface" => {
            let name = interface(words.value(word, "an interface's name")?)?;
            draft.add(inverted, Match::InInterface(name));
        }
        "-o" | "--out-interface" => {
            let name = interface(words.value(word, "an interface's name")?)?;
            draft.add(inverted, Match::OutInterface(name));
        }
        "-j" | "--jump" | "-g" | "--goto" => {
            let name = words.value(word, "a target or chain")?;
            if draft.target.is_some() {
                return Err(problem(word.column, "a rule has one target"));
            }
            let go = matches!(word.text.as_str(), "-g" | "--goto");
            draft.target = Some(targets::target(name, go, words)?);
            draft.target_column = name.column;
            return Ok(false);
        }
        "-m" | "--match" => {
            let name = words.value(word, "a match, such as conntrack")?;
            matches::load(draft, name, words)?;
            return Ok(false);
        }
        "-4" | "--ipv4" => {
            draft.family = Family::Ipv4;
            return Ok(false);
        }
        "-6" | "--ipv6" => {
            draft.family = Family::Ipv6;
            return Ok(false);
        }
        "--sport" | "--source-port" | "--dport" | "--destination-port" => {
            needs_ports(draft, word)?;
            let ranges = vec![port_range(words.value(word, "a port or first:last")?, ':')?];
            let ports = Ports { ranges, multiport: false };
            let source = matches!(word.text.as_str(), "--sport" | "--source-port");
            draft.add(
                inverted,
                if source { Match::SourcePorts(ports) } else { Match::DestinationPorts(ports) },
            );
        }
        "--syn" => {
            needs_tcp(draft, word)?;
            let mask = Flags::FIN | Flags::SYN | Flags::RST | Flags::ACK;
            draft.add(inverted, Match::TcpFlags { mask, set: Flags::SYN });
        }
        "--tcp-flags" => {
            needs_tcp(draft, word)?;
            let mask = tcp_flags(words.value(word, "the flags looked at, such as SYN,ACK")?)?;
            let set = tcp_flags(words.value(word, "and those that are set, such as SYN or NONE")?)?;
            draft.add(inverted, Match::TcpFlags { mask, set });
        }
        _ => return matches::option(draft, word, inverted, words),
    }
    Ok(true)
}

/// Whether `name` is a target's, so that no chain may be called so.
pub(super) fn is_target_name(name: &str) -> bool {
    targets::NAMES.contains(&name)
}

fn needs_tcp(draft: &Draft, word: &Word) -> Result<(), Problem> {
    if draft.protocol == Some(protocol::TCP) {
        return Ok(());
    }
    Err(problem(word.column, format!("`{}` needs `-p tcp` before it", word.text)))
}

pub(super) fn has_ports(number: Option<u8>) -> bool {
    matches!(number, Some(protocol::TCP | protocol::UDP | 33 | 132 | 136))
}

fn needs_ports(draft: &Draft, word: &Word) -> Result<(), Problem> {
    if has_ports(draft.protocol) {
        return Ok(());
    }
    Err(problem(
        word.column,
        format!("`{}` needs a protocol with ports before it: `-p tcp` or `-p udp`", word.text),
    ))
}

/// `ADDRESS[/PREFIX|/MASK][,...]`.
fn networks(draft: &mut Draft, word: &Word) -> Result<Vec<Cidr>, Problem> {
    let mut found = Vec::new();
    let mut column = word.column;
    for text in word.text.split(',') {
        let part = Word { text: text.to_owned(), column };
        let cidr = network(&part)?;
        draft.see_network(&cidr, column)?;
        found.push(cidr);
        column += text.chars().count() as u32 + 1;
    }
    Ok(found)
}

/// An address, with a prefix length or, for IPv4, a mask.
pub(super) fn network(word: &Word) -> Result<Cidr, Problem> {
    let bad = || {
        let reason = format!(
            "`{}` is no address or network, such as 192.0.2.0/24 (names are not looked up)",
            word.text
        );
        problem(word.column, reason)
    };
    let cidr = match word.text.split_once('/') {
        Some((addr, mask)) if mask.contains('.') => {
            let mask: core::net::Ipv4Addr = mask.parse().map_err(|_| bad())?;
            let bits = u32::from(mask);
            if bits.leading_ones() + bits.trailing_zeros() < 32 {
                return Err(problem(word.column, format!("the ones of mask {mask} must come first")));
            }
            let addr: core::net::Ipv4Addr = addr.parse().map_err(|_| bad())?;
            Cidr { addr: addr.into(), prefix_len: bits.leading_ones() as u8 }
        }
        _ => word.text.parse::<Cidr>().map_err(|_| bad())?,
    };
    Ok(Cidr { addr: super::set::masked(cidr.addr, cidr.prefix_len), ..cidr })
}

/// `None`: `all`.
fn protocol_number(draft: &mut Draft, word: &Word) -> Result<Option<u8>, Problem> {
    let name = word.text.to_ascii_lowercase();
    let known = NAMED_PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let number = match (name.as_str(), known) {
        ("all" | "0", _) => return Ok(None),
        (_, Some(number)) => number,
        (text, None) => text.parse().map_err(|_| {
            problem(
                word.column,
                format!("`{}` is no protocol: tcp, udp, icmp, icmpv6, all, or a number", word.text),
            )
        })?,
    };
    draft.loaded.extend(
        NAMED_PROTOCOLS.iter().filter(|(_, known)| *known == number).map(|(name, _)| (*name).to_owned()),
    );
    match number {
        protocol::ICMPV4 if draft.family == Family::Any => draft.family = Family::Ipv4,
        protocol::ICMPV6 if draft.family == Family::Any => draft.family = Family::Ipv6,
        _ => {}
    }
    Ok(Some(number))
}

/// Protocols by name; the first name of a number is printed.
pub(super) const NAMED_PROTOCOLS: [(&str, u8); 13] = [
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("icmp", protocol::ICMPV4),
    ("ipv6-icmp", protocol::ICMPV6),
    ("icmpv6", protocol::ICMPV6),
    ("icmp6", protocol::ICMPV6),
    ("dccp", 33),
    ("sctp", 132),
    ("udplite", 136),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("igmp", protocol::IGMP),
];

fn interface(word: &Word) -> Result<InterfaceName, Problem> {
    let (name, prefix) = word.text.strip_suffix('+').map_or((word.text.as_str(), false), |name| (name, true));
    // IFNAMSIZ is 16 with the NUL.
    if name.len() > 15 || name.contains(['/', ' ']) || (name.is_empty() && !prefix) {
        return Err(problem(word.column, format!("`{}` is no interface's name", word.text)));
    }
    Ok(InterfaceName { name: name.to_owned(), prefix })
}

/// `PORT` or `FIRST<separator>LAST`; either end may be left out.
pub(super) fn port_range(word: &Word, separator: char) -> Result<RangeInclusive<u16>, Problem> {
    let port = |text: &str, otherwise: u16| {
        if text.is_empty() {
            return Ok(otherwise);
        }
        text.parse::<u16>().or_else(|_| service(text).ok_or(())).map_err(|()| {
            problem(word.column, format!("`{text}` is no port: 0 to 65535, or a service's name"))
        })
    };
    let range = match word.text.split_once(separator) {
        Some((first, last)) => port(first, 0)?..=port(last, u16::MAX)?,
        None if word.text.is_empty() => return Err(problem(word.column, "a port is missing")),
        None => {
            let port = port(&word.text, 0)?;
            port..=port
        }
    };
    if range.is_empty() {
        return Err(problem(word.column, format!("{} is after {}", range.start(), range.end())));
    }
    Ok(range)
}

/// Names that users write in rules; the machine's own list is not read, so that a text means the same everywhere.
fn service(name: &str) -> Option<u16> {
    Some(match name {
        "ftp" => 21,
        "ssh" => 22,
        "telnet" => 23,
        "smtp" => 25,
        "domain" => 53,
        "bootps" => 67,
        "bootpc" => 68,
        "http" => 80,
        "pop3" => 110,
        "ntp" => 123,
        "imap" | "imap2" => 143,
        "snmp" => 161,
        "https" => 443,
        "submission" => 587,
        "imaps" => 993,
        "http-alt" => 8080,
        _ => return None,
    })
}

/// Flags of TCP's header that rules name.
pub(super) const TCP_FLAGS: [(&str, Flags); 6] = [
    ("FIN", Flags::FIN),
    ("SYN", Flags::SYN),
    ("RST", Flags::RST),
    ("PSH", Flags::PSH),
    ("ACK", Flags::ACK),
    ("URG", Flags::URG),
];

fn tcp_flags(word: &Word) -> Result<Flags, Problem> {
    let mut flags = Flags::NONE;
    for name in word.text.split(',') {
        match (name, TCP_FLAGS.iter().find(|(known, _)| *known == name)) {
            ("ALL", _) => flags |= TCP_FLAGS.iter().fold(Flags::NONE, |all, (_, flag)| all | *flag),
            ("NONE", _) => {}
            (_, Some((_, flag))) => flags |= *flag,
            (other, None) => {
                return Err(problem(
                    word.column,
                    format!("`{other}` is no flag: FIN, SYN, RST, PSH, ACK, URG, ALL, NONE"),
                ));
            }
        }
    }
    Ok(flags)
}

/// `--ctstate` and `--state`.
pub(super) fn states(word: &Word) -> Result<StateSet, Problem> {
    let mut set = StateSet::default();
    for name in word.text.split(',') {
        if !set.add(name) {
            let reason = format!("`{name}` is no state: {}", StateSet::NAMES.join(", "));
            return Err(problem(word.column, reason));
        }
    }
    Ok(set)
}

/// A number in decimal or, with 0x, hexadecimal.
pub(super) fn number(word: &Word) -> Result<u32, Problem> {
    number_in(&word.text)
        .ok_or_else(|| problem(word.column, format!("`{}` is no number below 2^32", word.text)))
}

fn number_in(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `VALUE[/MASK]`.
pub(super) fn masked_number(word: &Word) -> Result<(u32, u32), Problem> {
    let (value, mask) =
        word.text.split_once('/').map_or((word.text.as_str(), None), |(value, mask)| (value, Some(mask)));
    let mask = mask.map_or(Some(u32::MAX), number_in);
    number_in(value)
        .zip(mask)
        .ok_or_else(|| problem(word.column, format!("`{}` is no mark, such as 1 or 0x10/0xf0", word.text)))
}
