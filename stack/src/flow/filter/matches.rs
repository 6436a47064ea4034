//! Matches that `-m` loads, and their options.

use super::options::{Draft, Words, has_ports, masked_number, number, port_range, states};
use super::parse::{Problem, problem};
use super::rule::{ConnLimit, HashKey, HashLimit, Match, Ports, Rate, RateUnit};
use super::words::Word;
use crate::parse::protocol;

/// Ranges of one `-m multiport` (iptables counts 15 ports, a range as two).
const MULTIPORT_MAX: usize = 15;
/// Default burst of `limit` and `hashlimit`.
const BURST: u32 = 5;
/// Default of `--hashlimit-htable-max`.
const HASH_ENTRIES: u32 = 65_536;
/// Default of `--hashlimit-htable-expire`.
const HASH_EXPIRE_MS: u32 = 10_000;

/// Matches with options of their own; those of protocols come with `-p`, too.
const KNOWN: [&str; 19] = [
    "conntrack",
    "state",
    "multiport",
    "mark",
    "connmark",
    "limit",
    "hashlimit",
    "connlimit",
    "set",
    "comment",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "icmpv6",
    "ipv6-icmp",
    "sctp",
    "dccp",
    "udplite",
];

/// `-m NAME`; matches that need all of their options at once read them here.
pub(super) fn load(draft: &mut Draft, name: &Word, words: &mut Words<'_>) -> Result<(), Problem> {
    if !KNOWN.contains(&name.text.as_str()) {
        let reason = format!("`{}` is no match known here: {}", name.text, KNOWN[..10].join(", "));
        return Err(problem(name.column, reason));
    }
    draft.loaded.push(name.text.clone());
    match name.text.as_str() {
        "limit" => limit(draft, words),
        "hashlimit" => hashlimit(draft, name, words),
        "connlimit" => connlimit(draft, name, words),
        _ => Ok(()),
    }
}

/// An option of a loaded match; whether it may be inverted.
pub(super) fn option(
    draft: &mut Draft,
    word: &Word,
    inverted: bool,
    words: &mut Words<'_>,
) -> Result<bool, Problem> {
    let loaded = |draft: &Draft, names: &[&str]| match names.iter().any(|name| draft.has(name)) {
        true => Ok(()),
        false => Err(problem(word.column, format!("`{}` needs `-m {}` before it", word.text, names[0]))),
    };
    match word.text.as_str() {
        "--ctstate" => {
            loaded(draft, &["conntrack"])?;
            let set = states(words.value(word, "states, such as NEW,ESTABLISHED")?)?;
            draft.add(inverted, Match::CtState(set));
        }
        "--state" => {
            loaded(draft, &["state"])?;
            let set = states(words.value(word, "states, such as NEW,ESTABLISHED")?)?;
            draft.add(inverted, Match::CtState(set));
        }
        "--sports" | "--source-ports" | "--dports" | "--destination-ports" | "--ports" => {
            loaded(draft, &["multiport"])?;
            if !has_ports(draft.protocol) {
                return Err(problem(
                    word.column,
                    "multiport needs a protocol with ports before it: `-p tcp` or `-p udp`",
                ));
            }
            let ports = multiport(words.value(word, "ports, such as 80,443 or 1024:65535")?)?;
            draft.add(
                inverted,
                match word.text.as_str() {
                    "--sports" | "--source-ports" => Match::SourcePorts(ports),
                    "--dports" | "--destination-ports" => Match::DestinationPorts(ports),
                    _ => Match::EitherPorts(ports),
                },
            );
        }
        "--mark" => {
            loaded(draft, &["mark", "connmark"])?;
            let (value, mask) = masked_number(words.value(word, "a mark")?)?;
            // The match loaded last is meant.
            let of_flow = draft
                .loaded
                .iter()
                .rev()
                .find(|name| name.ends_with("mark"))
                .is_some_and(|name| name == "connmark");
            draft.add(
                inverted,
                if of_flow { Match::ConnMark { value, mask } } else { Match::Mark { value, mask } },
            );
        }
        "--icmp-type" | "--icmpv6-type" => {
            let ipv6 = word.text == "--icmpv6-type";
            let wanted = if ipv6 { protocol::ICMPV6 } else { protocol::ICMPV4 };
            if draft.protocol != Some(wanted) {
                let name = if ipv6 { "icmpv6" } else { "icmp" };
                return Err(problem(word.column, format!("`{}` needs `-p {name}` before it", word.text)));
            }
            let value = words.value(word, "a type, such as echo-request")?;
            let (kind, code) = icmp_type(value, ipv6)?;
            draft.add(inverted, Match::IcmpType { kind, code, ipv6 });
        }
        "--match-set" => {
            loaded(draft, &["set"])?;
            let name = words.value(word, "a set's name")?.text.clone();
            let side = words.value(word, "src or dst")?;
            let destination = match side.text.as_str() {
                "src" => false,
                "dst" => true,
                other => return Err(problem(side.column, format!("`{other}` is not src or dst"))),
            };
            draft.add(inverted, Match::Set { name, destination });
        }
        "--comment" => {
            loaded(draft, &["comment"])?;
            draft.comment = Some(words.value(word, "a text")?.text.clone());
            return Ok(false);
        }
        other => return Err(problem(word.column, format!("`{other}` is no option known here"))),
    }
    Ok(true)
}

fn multiport(word: &Word) -> Result<Ports, Problem> {
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

/// `--limit RATE [--limit-burst N]`, in any order.
fn limit(draft: &mut Draft, words: &mut Words<'_>) -> Result<(), Problem> {
    let (mut events, mut burst) = (None, BURST);
    while let Some(word) = words.peek() {
        match word.text.as_str() {
            "--limit" => {
                words.next();
                events = Some(rate(words.value(word, "a rate, such as 3/second")?)?);
            }
            "--limit-burst" => {
                words.next();
                burst = burst_of(words.value(word, "a number")?)?;
            }
            _ => break,
        }
    }
    // iptables' default.
    let (events, unit) = events.unwrap_or((3, RateUnit::Hour));
    draft.add(false, Match::Limit(Rate { events, unit, burst }));
    Ok(())
}

fn burst_of(word: &Word) -> Result<u32, Problem> {
    match number(word)? {
        burst @ 1..=10_000 => Ok(burst),
        _ => Err(problem(word.column, format!("`{}` is no burst: 1 to 10000", word.text))),
    }
}

/// `N/second`, or a beginning of the unit; without a unit, a second.
fn rate(word: &Word) -> Result<(u32, RateUnit), Problem> {
    let bad = || {
        problem(
            word.column,
            format!("`{}` is no rate, such as 3/second, 10/minute, 5/hour or 1/day", word.text),
        )
    };
    let (events, unit) = word.text.split_once('/').unwrap_or((&word.text, "second"));
    let events: u32 = events.parse().map_err(|_| bad())?;
    let unit = RateUnit::ALL
        .into_iter()
        .find(|known| !unit.is_empty() && known.names().0.starts_with(&unit.to_ascii_lowercase()))
        .ok_or_else(bad)?;
    if events == 0 || events > 1_000_000 {
        return Err(problem(
            word.column,
            format!("{events} in a {} is no rate: 1 to 1000000", unit.names().0),
        ));
    }
    Ok((events, unit))
}

fn hashlimit(draft: &mut Draft, name: &Word, words: &mut Words<'_>) -> Result<(), Problem> {
    let (mut events, mut burst, mut key, mut label) = (None, BURST, HashKey::default(), None);
    let (mut source_mask, mut destination_mask) = (None, None);
    let (mut entries_max, mut expire_ms) = (HASH_ENTRIES, HASH_EXPIRE_MS);
    while let Some(word) = words.peek() {
        if !word.text.starts_with("--hashlimit") {
            break;
        }
        words.next();
        match word.text.as_str() {
            "--hashlimit-upto" | "--hashlimit" => {
                events = Some((rate(words.value(word, "a rate, such as 3/second")?)?, false));
            }
            "--hashlimit-above" => {
                events = Some((rate(words.value(word, "a rate, such as 3/second")?)?, true));
            }
            "--hashlimit-burst" => burst = burst_of(words.value(word, "a number")?)?,
            "--hashlimit-name" => label = Some(words.value(word, "a name")?.text.clone()),
            "--hashlimit-mode" => key = hash_mode(words.value(word, "srcip, dstip, srcport, dstport")?)?,
            "--hashlimit-srcmask" => source_mask = Some(prefix(words.value(word, "a prefix length")?)?),
            "--hashlimit-dstmask" => destination_mask = Some(prefix(words.value(word, "a prefix length")?)?),
            "--hashlimit-htable-max" => entries_max = number(words.value(word, "a number")?)?.max(1),
            "--hashlimit-htable-expire" => expire_ms = number(words.value(word, "milliseconds")?)?.max(1),
            // The table grows as it must.
            "--hashlimit-htable-size" | "--hashlimit-htable-gcinterval" => {
                number(words.value(word, "a number")?)?;
            }
            other => return Err(problem(word.column, format!("`{other}` is no option known here"))),
        }
    }
    let Some(((events, unit), above)) = events else {
        return Err(problem(name.column, "hashlimit needs --hashlimit-upto or --hashlimit-above"));
    };
    let Some(label) = label else { return Err(problem(name.column, "hashlimit needs --hashlimit-name")) };
    key.source = key.source.map(|all| source_mask.unwrap_or(all));
    key.destination = key.destination.map(|all| destination_mask.unwrap_or(all));
    let rate = Rate { events, unit, burst };
    draft.add(false, Match::HashLimit(HashLimit { name: label, rate, above, key, entries_max, expire_ms }));
    Ok(())
}

fn hash_mode(word: &Word) -> Result<HashKey, Problem> {
    let mut key = HashKey::default();
    for part in word.text.split(',') {
        match part {
            "srcip" => key.source = Some(128),
            "dstip" => key.destination = Some(128),
            "srcport" => key.source_port = true,
            "dstport" => key.destination_port = true,
            other => {
                return Err(problem(
                    word.column,
                    format!("`{other}` is not srcip, dstip, srcport or dstport"),
                ));
            }
        }
    }
    Ok(key)
}

fn prefix(word: &Word) -> Result<u8, Problem> {
    match number(word)? {
        prefix @ 0..=128 => Ok(prefix as u8),
        _ => Err(problem(
            word.column,
            format!("`{}` is no prefix length: 0 to 32, over IPv6 to 128", word.text),
        )),
    }
}

fn connlimit(draft: &mut Draft, name: &Word, words: &mut Words<'_>) -> Result<(), Problem> {
    let (mut flows, mut above, mut mask, mut destination) = (None, false, None, false);
    while let Some(word) = words.peek() {
        if !word.text.starts_with("--connlimit") {
            break;
        }
        words.next();
        match word.text.as_str() {
            "--connlimit-upto" => (flows, above) = (Some(number(words.value(word, "a number")?)?), false),
            "--connlimit-above" => (flows, above) = (Some(number(words.value(word, "a number")?)?), true),
            "--connlimit-mask" => mask = Some(prefix(words.value(word, "a prefix length")?)?),
            "--connlimit-saddr" => destination = false,
            "--connlimit-daddr" => destination = true,
            other => return Err(problem(word.column, format!("`{other}` is no option known here"))),
        }
    }
    let Some(flows) = flows else {
        return Err(problem(name.column, "connlimit needs --connlimit-upto or --connlimit-above"));
    };
    draft.add(false, Match::ConnLimit(ConnLimit { flows, above, prefix: mask, destination }));
    Ok(())
}

/// ICMP types that rules name: name, type, code.
pub(super) const ICMP_TYPES: [(&str, u8, Option<u8>); 24] = [
    ("echo-reply", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-route-failed", 3, Some(5)),
    ("network-prohibited", 3, Some(9)),
    ("host-prohibited", 3, Some(10)),
    ("communication-prohibited", 3, Some(13)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("echo-request", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-zero-during-transit", 11, Some(0)),
    ("ttl-zero-during-reassembly", 11, Some(1)),
    ("parameter-problem", 12, None),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
    ("address-mask-request", 17, None),
    ("address-mask-reply", 18, None),
];

/// The same for ICMPv6.
pub(super) const ICMPV6_TYPES: [(&str, u8, Option<u8>); 14] = [
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("parameter-problem", 4, None),
    ("echo-request", 128, None),
    ("echo-reply", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
];

fn icmp_type(word: &Word, ipv6: bool) -> Result<(Option<u8>, Option<u8>), Problem> {
    let names: &[(&str, u8, Option<u8>)] = if ipv6 { &ICMPV6_TYPES } else { &ICMP_TYPES };
    let text = word.text.as_str();
    let alias = match text {
        "any" => return Ok((None, None)),
        "ping" if !ipv6 => "echo-request",
        "pong" if !ipv6 => "echo-reply",
        "ttl-exceeded" => "time-exceeded",
        "neighbor-solicitation" => "neighbour-solicitation",
        "neighbor-advertisement" => "neighbour-advertisement",
        other => other,
    };
    if let Some((_, kind, code)) = names.iter().find(|(name, ..)| *name == alias) {
        return Ok((Some(*kind), *code));
    }
    let (kind, code) = text.split_once('/').map_or((text, None), |(kind, code)| (kind, Some(code)));
    let code = code.map(str::parse::<u8>).transpose();
    match (kind.parse::<u8>(), code) {
        (Ok(kind), Ok(code)) => Ok((Some(kind), code)),
        _ => Err(problem(
            word.column,
            format!("`{text}` is no ICMP type: a name such as echo-request, or TYPE[/CODE]"),
        )),
    }
}
