//! The words of one rule: conditions, matches loaded with `-m`, and the target with its own options.

use core::mem::discriminant;
use core::net::IpAddr;
use core::ops::RangeInclusive;

use super::parse::{Problem, problem};
use super::rates::Pending;
use super::rule::{Condition, Family, InterfaceName, Match, Module, Ports, Rule, Target};
use super::words::Word;
use super::{advice, matches, names, targets};
use crate::config::Cidr;
use crate::parse::protocol;
use crate::tcp::header::Flags;

/// Rules that one line may come to.
const RULES_OF_LINE_MAX: usize = 4096;

/// Matches that one rule may load.
const MODULES_MAX: usize = 64;

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
    conditions: Vec<Condition>,
    /// The networks of `-s` and `-d`: a rule for each.
    networks: [Vec<Cidr>; 2],
    target: Option<Target>,
    target_column: u32,
    /// Which of the options of the rule's own were there: see [`Draft::see_once`].
    seen: [bool; 5],
    /// Matches loaded with `-m`, and the protocol's own, in order.
    loaded: Vec<Loaded>,
    /// Protocol of `-p`, not inverted.
    pub(super) protocol: Option<u8>,
}

/// A match that was loaded.
struct Loaded {
    module: Module,
    /// Of the word that loaded it.
    column: u32,
    /// An option of it was read.
    used: bool,
    /// Options that make one condition together.
    pending: Option<Pending>,
}

impl Draft {
    /// A condition of the rule's own.
    fn add(&mut self, inverted: bool, test: Match) {
        self.conditions.push(Condition { inverted, test, module: None });
    }

    /// An option of a loaded match.
    pub(super) fn add_to(&mut self, module: Module, inverted: bool, test: Match) {
        self.conditions.push(Condition { inverted, test, module: Some(module) });
    }

    pub(super) fn load(&mut self, name: &'static str, column: u32) -> Module {
        // Further ones than that are refused as soon as the rule is read.
        let module = Module { number: self.loaded.len().min(MODULES_MAX) as u8, name };
        self.loaded.push(Loaded { module, column, used: false, pending: Pending::new(name) });
        module
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.loaded.iter().any(|loaded| loaded.module.name == name)
    }

    /// The match of one of these names that was loaded last, for its option `word`.
    pub(super) fn module_of(&mut self, word: &Word, names: &[&str]) -> Result<Module, Problem> {
        let found = self.loaded.iter_mut().rev().find(|loaded| names.contains(&loaded.module.name));
        let loaded = found.ok_or_else(|| needs_match(word, names[0]))?;
        loaded.used = true;
        Ok(loaded.module)
    }

    /// The same for one whose options make one condition together.
    pub(super) fn pending_of(&mut self, word: &Word, name: &str) -> Result<&mut Pending, Problem> {
        let found = self.loaded.iter_mut().rev().find(|loaded| loaded.module.name == name);
        let loaded = found.ok_or_else(|| needs_match(word, name))?;
        loaded.used = true;
        loaded.pending.as_mut().ok_or_else(|| matches::unknown(word))
    }

    /// A protocol's match, loaded now unless it was.
    pub(super) fn module_or_load(&mut self, name: &'static str, column: u32) -> Module {
        let known = self.loaded.iter_mut().rev().find(|loaded| loaded.module.name == name);
        if let Some(loaded) = known {
            loaded.used = true;
            return loaded.module;
        }
        let module = self.load(name, column);
        self.loaded.last_mut().expect("just loaded").used = true;
        module
    }

    /// The rule is for the version of this network; both in one rule are refused.
    pub(super) fn see_network(&mut self, network: &Cidr, column: u32) -> Result<(), Problem> {
        self.see_family(network.addr, column)
    }

    /// The same for an address.
    pub(super) fn see_family(&mut self, addr: IpAddr, column: u32) -> Result<(), Problem> {
        let family = matches::family_of(addr);
        match self.family {
            Family::Any => self.family = family,
            known if known == family => {}
            _ => {
                let reason = format!("{addr} is of another IP version than the rest of the rule");
                return Err(problem(column, reason));
            }
        }
        Ok(())
    }

    /// Of the options of the rule's own each may be there once.
    fn see_once(&mut self, word: &Word) -> Result<(), Problem> {
        const OWN: [&[&str]; 5] = [
            &["-s", "--source", "--src"],
            &["-d", "--destination", "--dst"],
            &["-p", "--protocol"],
            &["-i", "--in-interface"],
            &["-o", "--out-interface"],
        ];
        let Some(at) = OWN.iter().position(|names| names.contains(&word.text.as_str())) else {
            return Ok(());
        };
        if core::mem::replace(&mut self.seen[at], true) {
            return Err(problem(word.column, format!("`{}` is there twice", OWN[at][0])));
        }
        Ok(())
    }

    /// The conditions in iptables' order: what every packet has is looked at first, then the matches as they were loaded.
    fn finish(&mut self) -> Result<(), Problem> {
        let columns: Vec<u32> = self.loaded.iter().map(|loaded| loaded.column).collect();
        if let Some(column) = columns.get(MODULES_MAX) {
            return Err(problem(*column, format!("more than {MODULES_MAX} matches in one rule")));
        }
        for Loaded { module, column, used, pending } in core::mem::take(&mut self.loaded) {
            if let Some(pending) = pending {
                let test = pending.finish(column, self.family)?;
                self.add_to(module, false, test);
            } else if !used && matches::stands_alone(module.name) {
                self.add_to(module, false, Match::Loaded);
            } else if !used {
                let reason = format!("`-m {}` needs an option behind it", module.name);
                return Err(problem(column, reason));
            }
        }
        self.conditions.sort_by_key(|condition| match condition.module {
            None => (0, rank(&condition.test), 0),
            Some(module) => (1, module.number, place(&condition.test)),
        });
        let kind =
            |condition: &Condition| (condition.module, place(&condition.test), discriminant(&condition.test));
        let twice = self
            .conditions
            .windows(2)
            .find(|pair| pair[0].module.is_some() && kind(&pair[0]) == kind(&pair[1]));
        match twice.and_then(|pair| pair[0].module) {
            Some(module) => Err(problem(
                columns[usize::from(module.number)],
                format!("an option of `-m {}` is there twice", module.name),
            )),
            None => Ok(()),
        }
    }
}

fn needs_match(word: &Word, name: &str) -> Problem {
    problem(word.column, format!("`{}` needs `-m {name}` before it", word.text))
}

/// Reads a rule's words, to the last: a rule for each pair of a source and a destination that it lists, as in iptables.
pub(super) fn rules(mut words: Words<'_>, family: Family, line: u32) -> Result<Vec<Rule>, Problem> {
    let mut draft = Draft {
        family,
        conditions: Vec::new(),
        networks: [Vec::new(), Vec::new()],
        target: None,
        target_column: 0,
        seen: [false; 5],
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
    let target = draft.target.take().unwrap_or(Target::Nothing);
    targets::check(&target, draft.protocol, words.end())?;
    draft.finish()?;
    let Draft { family, conditions, networks: [sources, destinations], target_column, .. } = draft;
    let each = |networks: &[Cidr]| match networks {
        [] => vec![None],
        some => some.iter().copied().map(Some).collect::<Vec<_>>(),
    };
    let mut rules = Vec::new();
    for source in each(&sources) {
        for destination in each(&destinations) {
            if rules.len() == RULES_OF_LINE_MAX {
                let reason = format!("more than {RULES_OF_LINE_MAX} pairs of addresses: use `-m set`");
                return Err(problem(words.end(), reason));
            }
            // All addresses there are need not be asked for.
            let narrow = |network: Option<Cidr>| network.filter(|network| network.prefix_len > 0);
            let own = [narrow(source).map(Match::Source), narrow(destination).map(Match::Destination)];
            let own = own.into_iter().flatten().map(|test| Condition { inverted: false, test, module: None });
            let mut all: Vec<Condition> = own.chain(conditions.iter().cloned()).collect();
            all.sort_by_key(|condition| condition.module.map_or(rank(&condition.test), |_| u8::MAX));
            rules.push(Rule { family, conditions: all, target: target.clone(), line, target_column });
        }
    }
    Ok(rules)
}

fn rank(test: &Match) -> u8 {
    match test {
        Match::Source(_) => 0,
        Match::Destination(_) => 1,
        Match::InInterface(_) => 2,
        Match::OutInterface(_) => 3,
        _ => 4,
    }
}

/// The place of an option among those of its match, as iptables-save prints them.
fn place(test: &Match) -> u8 {
    match test {
        Match::SourcePorts(_) | Match::SourceRange(..) | Match::SourceType(_) | Match::CtState(_) => 0,
        Match::DestinationPorts(_)
        | Match::DestinationRange(..)
        | Match::DestinationType(_)
        | Match::CtProtocol(_) => 1,
        Match::CtAddress(end, _) => 2 + *end as u8,
        Match::CtPort(end, _) => 6 + *end as u8,
        _ => 2,
    }
}

/// One option with its values; whether it may be inverted.
fn option(draft: &mut Draft, word: &Word, inverted: bool, words: &mut Words<'_>) -> Result<bool, Problem> {
    draft.see_once(word)?;
    match word.text.as_str() {
        "-s" | "--source" | "--src" | "-d" | "--destination" | "--dst" => {
            let value = words.value(word, "an address or network")?;
            let networks = networks(draft, value)?;
            let is_source = matches!(word.text.as_str(), "-s" | "--source" | "--src");
            match networks.as_slice() {
                [network] if inverted => {
                    let network = *network;
                    draft.add(
                        true,
                        if is_source { Match::Source(network) } else { Match::Destination(network) },
                    );
                }
                _ if inverted => {
                    let reason = "! stands before one network only: put several into a set for `-m set`";
                    return Err(problem(value.column, reason));
                }
                _ => draft.networks[usize::from(!is_source)] = networks,
            }
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
            if inverted || !name.is_any() {
                draft.add(inverted, Match::InInterface(name));
            }
        }
        "-o" | "--out-interface" => {
            let name = interface(words.value(word, "an interface's name")?)?;
            if inverted || !name.is_any() {
                draft.add(inverted, Match::OutInterface(name));
            }
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
            matches::load(draft, name)?;
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
        // As a beginning of multiport's --dports, where nothing has loaded a protocol's match.
        "--sport" | "--source-port" | "--dport" | "--destination-port"
            if draft.has("multiport")
                && !draft.protocol.and_then(matches::of_protocol).is_some_and(|name| draft.has(name)) =>
        {
            matches::multiport(draft, word, inverted, words)?;
        }
        "--sport" | "--source-port" | "--dport" | "--destination-port" => {
            let module = needs_ports(draft, word)?;
            let ranges = vec![port_range(words.value(word, "a port or first:last")?, ':')?];
            let ports = Ports { ranges, multiport: false };
            let source = matches!(word.text.as_str(), "--sport" | "--source-port");
            let test = if source { Match::SourcePorts(ports) } else { Match::DestinationPorts(ports) };
            draft.add_to(module, inverted, test);
        }
        "--syn" => {
            let module = needs_tcp(draft, word)?;
            let mask = Flags::FIN | Flags::SYN | Flags::RST | Flags::ACK;
            draft.add_to(module, inverted, Match::TcpFlags { mask, set: Flags::SYN });
        }
        "--tcp-flags" => {
            let module = needs_tcp(draft, word)?;
            let mask = tcp_flags(words.value(word, "the flags looked at, such as SYN,ACK")?)?;
            let set = tcp_flags(words.value(word, "and those that are set, such as SYN or NONE")?)?;
            draft.add_to(module, inverted, Match::TcpFlags { mask, set });
        }
        // Counters, which are not kept.
        "-c" | "--set-counters" => {
            for what in ["packets", "bytes"] {
                let value = words.value(word, what)?;
                if value.text.parse::<u64>().is_err() {
                    return Err(problem(value.column, format!("`{}` is no number of {what}", value.text)));
                }
            }
            return Ok(false);
        }
        _ => return matches::option(draft, word, inverted, words),
    }
    Ok(true)
}

/// Whether `name` is a target's, so that no chain may be called so.
pub(super) fn is_target_name(name: &str) -> bool {
    targets::NAMES.contains(&name) || advice::of_target(name).is_some()
}

fn needs_tcp(draft: &mut Draft, word: &Word) -> Result<Module, Problem> {
    if draft.protocol == Some(protocol::TCP) {
        return Ok(draft.module_or_load("tcp", word.column));
    }
    Err(problem(word.column, format!("`{}` needs `-p tcp` before it", word.text)))
}

pub(super) fn has_ports(number: Option<u8>) -> bool {
    matches!(number, Some(protocol::TCP | protocol::UDP | 33 | 132 | 136))
}

fn needs_ports(draft: &mut Draft, word: &Word) -> Result<Module, Problem> {
    match draft.protocol.filter(|number| has_ports(Some(*number))).and_then(matches::of_protocol) {
        Some(name) => Ok(draft.module_or_load(name, word.column)),
        None => Err(problem(
            word.column,
            format!("`{}` needs a protocol with ports before it: `-p tcp` or `-p udp`", word.text),
        )),
    }
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
            let addr: core::net::Ipv4Addr = with_all_octets(addr).parse().map_err(|_| bad())?;
            Cidr { addr: addr.into(), prefix_len: bits.leading_ones() as u8 }
        }
        Some((addr, mask)) if mask.contains(':') => {
            let mask: core::net::Ipv6Addr = mask.parse().map_err(|_| bad())?;
            let bits = u128::from(mask);
            if bits.leading_ones() + bits.trailing_zeros() < 128 {
                return Err(problem(word.column, format!("the ones of mask {mask} must come first")));
            }
            let addr: core::net::Ipv6Addr = addr.parse().map_err(|_| bad())?;
            Cidr { addr: addr.into(), prefix_len: bits.leading_ones() as u8 }
        }
        Some((addr, prefix)) => {
            format!("{}/{prefix}", with_all_octets(addr)).parse::<Cidr>().map_err(|_| bad())?
        }
        None => word.text.parse::<Cidr>().map_err(|_| bad())?,
    };
    Ok(Cidr { addr: super::set::masked(cidr.addr, cidr.prefix_len), ..cidr })
}

/// `10/8` means `10.0.0.0/8`.
fn with_all_octets(addr: &str) -> String {
    let octets = addr.split('.').count();
    let is_short = octets < 4 && addr.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_short { format!("{addr}{}", ".0".repeat(4 - octets)) } else { addr.to_owned() }
}

/// `None`: `all`.
fn protocol_number(draft: &mut Draft, word: &Word) -> Result<Option<u8>, Problem> {
    let number = match word.text.to_ascii_lowercase().as_str() {
        "all" | "ip" => return Ok(None),
        name => names::protocol_number(name).or_else(|| name.parse().ok()).ok_or_else(|| {
            let reason = format!("`{}` is no protocol: tcp, udp, icmp, icmpv6, all, or a number", word.text);
            problem(word.column, reason)
        })?,
    };
    match number {
        // However it is written.
        0 => return Ok(None),
        protocol::ICMPV4 if draft.family == Family::Any => draft.family = Family::Ipv4,
        protocol::ICMPV6 if draft.family == Family::Any => draft.family = Family::Ipv6,
        _ => {}
    }
    Ok(Some(number))
}

fn interface(word: &Word) -> Result<InterfaceName, Problem> {
    let (name, prefix) = word.text.strip_suffix('+').map_or((word.text.as_str(), false), |name| (name, true));
    // IFNAMSIZ is 16 with the NUL.
    let is_odd = |char: char| char == '/' || char.is_whitespace() || char.is_control();
    if name.len() > 15 || name.contains(is_odd) || (name.is_empty() && !prefix) {
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
        text.parse::<u16>().or_else(|_| names::service(text).ok_or(())).map_err(|()| {
            problem(word.column, format!("`{text}` is no port: 0 to 65535, or a service's name"))
        })
    };
    let range = match word.text.split_once(separator) {
        // A service's name may have a dash in it.
        _ if names::service(&word.text).is_some() => {
            let port = port(&word.text, 0)?;
            port..=port
        }
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
        let name = name.to_ascii_uppercase();
        match (name.as_str(), TCP_FLAGS.iter().find(|(known, _)| *known == name)) {
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

/// A number in decimal, or as in C: hexadecimal with 0x, octal with 0.
pub(super) fn number(word: &Word) -> Result<u32, Problem> {
    number_in(&word.text)
        .ok_or_else(|| problem(word.column, format!("`{}` is no number below 2^32", word.text)))
}

fn number_in(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
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
