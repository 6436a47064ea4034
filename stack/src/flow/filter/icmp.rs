//! The names of ICMP types in rules: those of iptables, and any beginning of one that no other has.

use super::parse::{Problem, problem};
use super::words::Word;

/// Name, type, code.
type Name = (&'static str, u8, Option<u8>);

const ICMP: [Name; 42] = [
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-route-failed", 3, Some(5)),
    ("network-unknown", 3, Some(6)),
    ("host-unknown", 3, Some(7)),
    ("network-prohibited", 3, Some(9)),
    ("host-prohibited", 3, Some(10)),
    ("tos-network-unreachable", 3, Some(11)),
    ("tos-host-unreachable", 3, Some(12)),
    ("communication-prohibited", 3, Some(13)),
    ("host-precedence-violation", 3, Some(14)),
    ("precedence-cutoff", 3, Some(15)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("network-redirect", 5, Some(0)),
    ("host-redirect", 5, Some(1)),
    ("tos-network-redirect", 5, Some(2)),
    ("tos-host-redirect", 5, Some(3)),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-exceeded", 11, None),
    ("ttl-zero-during-transit", 11, Some(0)),
    ("ttl-zero-during-reassembly", 11, Some(1)),
    ("parameter-problem", 12, None),
    ("ip-header-bad", 12, Some(0)),
    ("required-option-missing", 12, Some(1)),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
    ("information-request", 15, None),
    ("information-reply", 16, None),
    ("address-mask-request", 17, None),
    ("address-mask-reply", 18, None),
    ("traceroute", 30, None),
];

const ICMPV6: [Name; 28] = [
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("beyond-scope", 1, Some(2)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("failed-policy", 1, Some(5)),
    ("reject-route", 1, Some(6)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("ttl-exceeded", 3, None),
    ("ttl-zero-during-transit", 3, Some(0)),
    ("ttl-zero-during-reassembly", 3, Some(1)),
    ("parameter-problem", 4, None),
    ("bad-header", 4, Some(0)),
    ("unknown-header-type", 4, Some(1)),
    ("unknown-option", 4, Some(2)),
    ("echo-request", 128, None),
    ("ping", 128, None),
    ("echo-reply", 129, None),
    ("pong", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
    ("neighbor-advertisement", 136, None),
    ("redirect", 137, None),
];

/// Type and code of `NAME` or `TYPE[/CODE]`; `None`: any.
pub(super) fn icmp_type(word: &Word, ipv6: bool) -> Result<(Option<u8>, Option<u8>), Problem> {
    let text = word.text.to_ascii_lowercase();
    // iptables writes any as 255.
    if text == "any" || !ipv6 && text == "255" {
        return Ok((None, None));
    }
    let names: &[Name] = if ipv6 { &ICMPV6 } else { &ICMP };
    let mut begun = names.iter().filter(|(name, ..)| !text.is_empty() && name.starts_with(&text));
    let exact = names.iter().find(|(name, ..)| *name == text);
    let found = exact.or_else(|| begun.next().filter(|_| begun.next().is_none()));
    if let Some((_, kind, code)) = found {
        return Ok((Some(*kind), *code));
    }
    let (kind, code) = text.split_once('/').map_or((text.as_str(), None), |(kind, code)| (kind, Some(code)));
    let code = code.map(str::parse::<u8>).transpose();
    match (kind.parse::<u8>(), code) {
        (Ok(kind), Ok(code)) => Ok((Some(kind), code)),
        _ => {
            let reason =
                format!("`{}` is no ICMP type: a name such as echo-request, or TYPE[/CODE]", word.text);
            Err(problem(word.column, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, ipv6: bool) -> Option<(Option<u8>, Option<u8>)> {
        icmp_type(&Word { text: text.to_owned(), column: 1 }, ipv6).ok()
    }

    #[test]
    fn names_and_their_beginnings_are_read() {
        for (text, ipv6, wanted) in [
            ("echo-request", false, Some((Some(8), None))),
            ("echo-req", false, Some((Some(8), None))),
            ("echo-re", false, None),
            ("TOS-host-redirect", false, Some((Some(5), Some(3)))),
            ("redirect", false, Some((Some(5), None))),
            ("redirect", true, Some((Some(137), None))),
            ("3/4", false, Some((Some(3), Some(4)))),
            ("255", false, Some((None, None))),
            ("255", true, Some((Some(255), None))),
            ("any", true, Some((None, None))),
            ("", false, None),
            ("256", false, None),
            ("3/", false, None),
        ] {
            assert_eq!(read(text, ipv6), wanted, "{text}");
        }
    }
}
