//! Matches that `-m` loads, and their options. Those of [`super::rates`] and [`super::conntrack`] are there.

use core::net::IpAddr;

use super::advice;
use super::icmp::icmp_type;
use super::options::{Draft, Words, has_ports, masked_number, port_range};
use super::parse::{Problem, problem};
use super::rates::Pending;
use super::rule::{Family, Match, Ports, TypeSet};
use super::words::Word;
use super::{conntrack, names};
use crate::parse::protocol;

/// Ranges of one `-m multiport` (iptables counts 15 ports, a range as two).
const MULTIPORT_MAX: usize = 15;

/// Matches, as they are loaded and as iptables-save prints them. The ones behind `comment` are of protocols, and come with
/// `-p`, too.
const KNOWN: [(&str, &str); 21] = [
    ("conntrack", "conntrack"),
    ("state", "state"),
    ("multiport", "multiport"),
    ("mark", "mark"),
    ("connmark", "connmark"),
    ("limit", "limit"),
    ("hashlimit", "hashlimit"),
    ("connlimit", "connlimit"),
    ("set", "set"),
    ("iprange", "iprange"),
    ("addrtype", "addrtype"),
    ("comment", "comment"),
    ("tcp", "tcp"),
    ("udp", "udp"),
    ("icmp", "icmp"),
    ("icmp6", "icmp6"),
    ("icmpv6", "icmp6"),
    ("ipv6-icmp", "icmp6"),
    ("sctp", "sctp"),
    ("dccp", "dccp"),
    ("udplite", "udplite"),
];
/// How many of them are no protocol's.
const GENERAL: usize = 12;

/// `-m NAME`.
pub(super) fn load(draft: &mut Draft, name: &Word) -> Result<(), Problem> {
    let Some((_, printed)) = KNOWN.iter().find(|(known, _)| *known == name.text) else {
        let reason = match advice::of_match(&name.text) {
            Some(advice) => format!("`-m {}` is not known here: {advice}", name.text),
            None => {
                let known: Vec<_> = KNOWN[..GENERAL].iter().map(|(known, _)| *known).collect();
                format!("`{}` is no match known here: {}", name.text, known.join(", "))
            }
        };
        return Err(problem(name.column, reason));
    };
    draft.load(printed, name.column);
    Ok(())
}

/// Whether the match may stand there without any option.
pub(super) fn stands_alone(name: &str) -> bool {
    matches!(name, "tcp" | "udp" | "sctp" | "dccp" | "udplite" | "limit")
}

/// An option that nothing here has.
pub(super) fn unknown(word: &Word) -> Problem {
    let reason = match advice::of_option(&word.text) {
        Some(advice) => format!("`{}` is not known here: {advice}", word.text),
        None => format!("`{}` is no option known here", word.text),
    };
    problem(word.column, reason)
}

/// An option of a loaded match; whether it may be inverted.
pub(super) fn option(
    draft: &mut Draft,
    word: &Word,
    inverted: bool,
    words: &mut Words<'_>,
) -> Result<bool, Problem> {
    if advice::of_option(&word.text).is_some() {
        return Err(unknown(word));
    }
    if let Some(name) = Pending::module(&word.text) {
        return draft.pending_of(word, name)?.option(word, inverted, words);
    }
    if conntrack::option(draft, word, inverted, words)? {
        return Ok(true);
    }
    match word.text.as_str() {
        "--sports" | "--source-ports" | "--dports" | "--destination-ports" | "--ports" => {
            multiport(draft, word, inverted, words)?;
        }
        // The beginning of --ports, which no other match has.
        "--port" if draft.has("multiport") => multiport(draft, word, inverted, words)?,
        "--mark" => {
            let module = draft.module_of(word, &["mark", "connmark"])?;
            let (value, mask) = masked_number(words.value(word, "a mark")?)?;
            let of_flow = module.name == "connmark";
            let test = if of_flow { Match::ConnMark { value, mask } } else { Match::Mark { value, mask } };
            draft.add_to(module, inverted, test);
        }
        "--icmp-type" | "--icmpv6-type" => {
            let ipv6 = word.text == "--icmpv6-type";
            let wanted = if ipv6 { protocol::ICMPV6 } else { protocol::ICMPV4 };
            if draft.protocol != Some(wanted) {
                let name = if ipv6 { "icmpv6" } else { "icmp" };
                return Err(problem(word.column, format!("`{}` needs `-p {name}` before it", word.text)));
            }
            let (kind, code) = icmp_type(words.value(word, "a type, such as echo-request")?, ipv6)?;
            let module = draft.module_or_load(if ipv6 { "icmp6" } else { "icmp" }, word.column);
            draft.add_to(module, inverted, Match::IcmpType { kind, code, ipv6 });
        }
        "--match-set" => {
            let module = draft.module_of(word, &["set"])?;
            let name = words.value(word, "a set's name")?.text.clone();
            let side = words.value(word, "src or dst")?;
            let destination = match side.text.as_str() {
                "src" => false,
                "dst" => true,
                text if text.contains(',') => {
                    let reason = "sets here are of addresses alone: one of src and dst";
                    return Err(problem(side.column, reason));
                }
                other => return Err(problem(side.column, format!("`{other}` is not src or dst"))),
            };
            draft.add_to(module, inverted, Match::Set { name, destination });
        }
        "--src-range" | "--dst-range" => {
            let module = draft.module_of(word, &["iprange"])?;
            let value = words.value(word, "addresses, such as 192.0.2.1-192.0.2.9")?;
            let Some((first, last)) = address_range(&value.text) else {
                let reason =
                    format!("`{}` is no range of addresses, such as 192.0.2.1-192.0.2.9", value.text);
                return Err(problem(value.column, reason));
            };
            draft.see_family(first, value.column)?;
            let source = word.text == "--src-range";
            let test =
                if source { Match::SourceRange(first, last) } else { Match::DestinationRange(first, last) };
            draft.add_to(module, inverted, test);
        }
        "--src-type" | "--dst-type" => {
            let module = draft.module_of(word, &["addrtype"])?;
            let types = address_types(words.value(word, "types, such as LOCAL")?)?;
            let source = word.text == "--src-type";
            let test = if source { Match::SourceType(types) } else { Match::DestinationType(types) };
            draft.add_to(module, inverted, test);
        }
        "--comment" => {
            let module = draft.module_of(word, &["comment"])?;
            let text = words.value(word, "a text")?.text.clone();
            draft.add_to(module, false, Match::Comment(text));
            return Ok(false);
        }
        _ => return Err(unknown(word)),
    }
    Ok(true)
}

/// `FIRST-LAST`, or one address.
pub(super) fn address_range(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last))
}

fn address_types(word: &Word) -> Result<TypeSet, Problem> {
    let mut types = TypeSet::default();
    for name in word.text.split(',') {
        if !types.add(name) {
            let reason = format!("`{name}` is no type known here: {}", TypeSet::NAMES.join(", "));
            return Err(problem(word.column, reason));
        }
    }
    Ok(types)
}

/// An option of `-m multiport`; `--dport` and its kin are the beginnings of its options.
pub(super) fn multiport(
    draft: &mut Draft,
    word: &Word,
    inverted: bool,
    words: &mut Words<'_>,
) -> Result<(), Problem> {
    let module = draft.module_of(word, &["multiport"])?;
    if !has_ports(draft.protocol) {
        let reason = "multiport needs a protocol with ports before it: `-p tcp` or `-p udp`";
        return Err(problem(word.column, reason));
    }
    let ports = port_list(words.value(word, "ports, such as 80,443 or 1024:65535")?)?;
    let test = match word.text.as_str() {
        "--sport" | "--source-port" | "--sports" | "--source-ports" => Match::SourcePorts(ports),
        "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
            Match::DestinationPorts(ports)
        }
        _ => Match::EitherPorts(ports),
    };
    draft.add_to(module, inverted, test);
    Ok(())
}

fn port_list(word: &Word) -> Result<Ports, Problem> {
    let mut ranges = Vec::new();
    let (mut column, mut places) = (word.column, 0);
    for text in word.text.split(',') {
        places += if text.contains(':') { 2 } else { 1 };
        ranges.push(port_range(&Word { text: text.to_owned(), column }, ':')?);
        column += text.chars().count() as u32 + 1;
    }
    if places > MULTIPORT_MAX {
        return Err(problem(word.column, format!("at most {MULTIPORT_MAX} ports, a range counts as two")));
    }
    Ok(Ports { ranges, multiport: true })
}

/// The match of a protocol that its options load, where `-m` did not.
pub(super) fn of_protocol(number: u8) -> Option<&'static str> {
    let name = names::protocol_name(number);
    KNOWN[GENERAL..].iter().find(|(known, _)| *known == name).map(|(_, printed)| *printed)
}

/// The IP version of an address.
pub(super) fn family_of(addr: IpAddr) -> Family {
    if addr.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}
