//! A packet that came out, field by field, as names and texts to compare: addresses, ports, hop limit, DSCP and ECN,
//! identification, TCP's fields, ICMP's with the packet that it quotes, and whether checksums are right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use super::packets::{ICMP, ICMPV6, TCP, UDP, checksum, pseudo_header};

/// The fields of one packet, in the order of the headers.
pub type Fields = Vec<(String, String)>;

/// What is not compared by its value.
#[derive(Clone, Default)]
pub struct Names {
    /// Identifications that the script's own packets have; any other is a router's own.
    pub ids: BTreeSet<u16>,
    /// Sources that they have: what has another one got it from a router.
    pub sources: BTreeSet<IpAddr>,
    /// Ports (and ICMP identifiers) that a router chose at random, by the name that the script gave them.
    pub ports: BTreeMap<u16, String>,
    /// Addresses that a router chose from a range, likewise.
    pub addresses: BTreeMap<IpAddr, String>,
}

impl Names {
    fn port(&self, port: u16) -> String {
        self.ports.get(&port).cloned().unwrap_or_else(|| port.to_string())
    }

    fn address(&self, addr: IpAddr) -> String {
        self.addresses.get(&addr).cloned().unwrap_or_else(|| addr.to_string())
    }

    fn id(&self, id: u16) -> String {
        if self.ids.contains(&id) { format!("{id:#06x}") } else { "its own".to_owned() }
    }
}

/// The fields of an IP packet.
pub fn fields(packet: &[u8], names: &Names) -> Fields {
    let mut fields = Fields::new();
    ip(packet, "", names, &mut fields);
    fields
}

/// In one line.
pub fn line(packet: &[u8], names: &Names) -> String {
    fields(packet, names).iter().fold(String::new(), |mut line, (name, value)| {
        let _ = write!(line, " {name}={value}");
        line
    })
}

#[expect(clippy::needless_pass_by_value, reason = "values and texts of all kinds, made for it")]
fn put(fields: &mut Fields, prefix: &str, name: &str, value: impl ToString) {
    fields.push((format!("{prefix}{name}"), value.to_string()));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A payload's length, and its bytes by their sum.
fn content(bytes: &[u8]) -> String {
    format!("{} bytes, sum {:04x}", bytes.len(), checksum(bytes))
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn double(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

fn ip(packet: &[u8], prefix: &str, names: &Names, fields: &mut Fields) {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => ipv4(packet, prefix, names, fields),
        Some(6) if packet.len() >= 40 => ipv6(packet, prefix, names, fields),
        _ => put(fields, prefix, "bytes", hex(packet)),
    }
}

fn ipv4(packet: &[u8], prefix: &str, names: &Names, fields: &mut Fields) {
    let header_len = usize::from(packet[0] & 0xf) * 4;
    let addr = |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let (src, dst) = (addr(12), addr(16));
    put(fields, prefix, "src", names.address(src));
    put(fields, prefix, "dst", names.address(dst));
    put(fields, prefix, "ttl", packet[8]);
    put(fields, prefix, "tos", format!("{:#04x}", packet[1]));
    // RFC 6864 section 5.3.1: a router that gives a packet another source may, and should, give it another identification, where
    // that means anything. Linux does not.
    let renumbered = prefix.is_empty() && word(packet, 6) & 0x4000 == 0 && !names.sources.contains(&src);
    let id = if renumbered { "its own".to_owned() } else { names.id(word(packet, 4)) };
    put(fields, prefix, "id", id);
    // Whoever makes a packet that is never cut may set DF and choose the identification (RFC 6864 section 4.1).
    let own = prefix.is_empty() && !names.ids.contains(&word(packet, 4));
    let mask = if own { 0x3fff } else { 0xffff };
    put(fields, prefix, "flags and offset", format!("{:#06x}", word(packet, 6) & mask));
    put(fields, prefix, "length", word(packet, 2));
    let Some((header, rest)) = packet.split_at_checked(header_len) else {
        return put(fields, prefix, "rest", hex(&packet[20..]));
    };
    put(fields, prefix, "options", hex(&header[20..]));
    put(fields, prefix, "header checksum", if checksum(header) == 0 { "right" } else { "wrong" });
    if word(packet, 6) & 0x1fff != 0 {
        return put(fields, prefix, "fragment", content(rest));
    }
    let whole = word(packet, 6) & 0x2000 == 0 && usize::from(word(packet, 2)) == packet.len();
    transport(src, dst, packet[9], rest, whole, prefix, names, fields);
}

fn ipv6(packet: &[u8], prefix: &str, names: &Names, fields: &mut Fields) {
    let addr = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("16 bytes"));
    let (src, dst) = (addr(8), addr(24));
    put(fields, prefix, "src", names.address(src));
    put(fields, prefix, "dst", names.address(dst));
    put(fields, prefix, "hop limit", packet[7]);
    put(fields, prefix, "class", format!("{:#04x}", (word(packet, 0) >> 4) as u8));
    put(
        fields,
        prefix,
        "flow label",
        if double(packet, 0) & 0xf_ffff == 0x1a2b { "kept" } else { "another" },
    );
    put(fields, prefix, "length", word(packet, 4));
    let (mut next, mut rest, mut whole) =
        (packet[6], &packet[40..], 40 + usize::from(word(packet, 4)) == packet.len());
    while matches!(next, 0 | 43 | 44 | 60) {
        let len = if next == 44 { 8 } else { rest.get(1).map_or(8, |len| (usize::from(*len) + 1) * 8) };
        let Some((header, behind)) = rest.split_at_checked(len) else { break };
        if next == 44 {
            put(fields, prefix, "fragment field", format!("{:#06x}", word(header, 2)));
            if word(header, 2) & 0xfff8 != 0 {
                return put(fields, prefix, "fragment", content(behind));
            }
            whole &= word(header, 2) & 1 == 0;
        } else {
            put(fields, prefix, &format!("extension {next}"), hex(header));
        }
        (next, rest) = (header[0], behind);
    }
    transport(src, dst, next, rest, whole, prefix, names, fields);
}

#[expect(clippy::too_many_arguments, reason = "what an IP header says, and where it goes")]
fn transport(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    bytes: &[u8],
    whole: bool,
    prefix: &str,
    names: &Names,
    fields: &mut Fields,
) {
    put(fields, prefix, "protocol", protocol);
    // A quoted packet's checksum cannot be verified: its bytes are compared.
    let sum = |at: usize, bytes: &[u8]| {
        if !whole {
            return bytes.get(at..at + 2).map_or_else(|| "cut off".to_owned(), hex);
        }
        let pseudo =
            if protocol == ICMP { Vec::new() } else { pseudo_header(src, dst, protocol, bytes.len()) };
        let all = [&pseudo[..], bytes].concat();
        match (checksum(&all), word(bytes, at)) {
            (_, 0) if protocol == UDP => "none".to_owned(),
            (0, _) => "right".to_owned(),
            (_, value) => format!("wrong: {value:04x}"),
        }
    };
    match protocol {
        UDP if bytes.len() >= 8 => {
            put(fields, prefix, "source port", names.port(word(bytes, 0)));
            put(fields, prefix, "destination port", names.port(word(bytes, 2)));
            put(fields, prefix, "udp length", word(bytes, 4));
            put(fields, prefix, "checksum", sum(6, bytes));
            put(fields, prefix, "payload", content(&bytes[8..]));
        }
        TCP if bytes.len() >= 8 => {
            put(fields, prefix, "source port", names.port(word(bytes, 0)));
            put(fields, prefix, "destination port", names.port(word(bytes, 2)));
            put(fields, prefix, "seq", double(bytes, 4));
            let Some(header) = bytes.get(..20) else {
                return put(fields, prefix, "rest", hex(&bytes[8..]));
            };
            put(fields, prefix, "ack", double(header, 8));
            put(fields, prefix, "tcp flags", format!("{:#05x}", word(header, 12) & 0xfff));
            put(fields, prefix, "window", word(header, 14));
            put(fields, prefix, "checksum", sum(16, bytes));
            put(fields, prefix, "urgent", word(header, 18));
            let len = (usize::from(header[12] >> 4) * 4).clamp(20, bytes.len());
            put(fields, prefix, "tcp options", hex(&bytes[20..len]));
            put(fields, prefix, "payload", content(&bytes[len..]));
        }
        ICMP | ICMPV6 if bytes.len() >= 8 => {
            put(fields, prefix, "type", bytes[0]);
            put(fields, prefix, "code", bytes[1]);
            put(fields, prefix, "checksum", sum(2, bytes));
            let error =
                if protocol == ICMP { matches!(bytes[0], 3 | 4 | 5 | 11 | 12) } else { bytes[0] < 128 };
            if error {
                put(fields, prefix, "word", format!("{:#010x}", double(bytes, 4)));
                put(fields, prefix, "quote", format!("{} bytes", bytes.len() - 8));
                ip(&bytes[8..], &format!("{prefix}quoted "), names, fields);
            } else {
                put(fields, prefix, "identifier", names.port(word(bytes, 4)));
                put(fields, prefix, "sequence", word(bytes, 6));
                put(fields, prefix, "payload", content(&bytes[8..]));
            }
        }
        _ => put(fields, prefix, "payload", content(bytes)),
    }
}
