//! Which flows a listing, a deletion or a follower means: conntrack(8)'s filters. All that is given must hold.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::FlowTuple;
use super::conntrack::{Entry, TcpState};
use crate::config::Cidr;
use crate::parse::protocol;

/// Which flows; by default all. An unknown field is an error: who does not know a condition must not delete without it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// Of this IP version.
    pub family: Option<Family>,
    /// Of this IP protocol.
    pub protocol: Option<u8>,
    /// As the first packet came.
    pub original: TupleFilter,
    /// As answers come.
    pub reply: TupleFilter,
    /// ICMP queries of this type.
    pub icmp_type: Option<u8>,
    /// ICMP queries with this identifier.
    pub icmp_id: Option<u16>,
    /// TCP connections in this state.
    pub state: Option<TcpState>,
    /// With this mark.
    pub mark: Option<MarkFilter>,
    /// Answered, or not.
    pub seen_reply: Option<bool>,
    /// Not to be dropped to make room for others, or to be.
    pub assured: Option<bool>,
    /// Their source is translated.
    pub src_nat: Option<Translation>,
    /// Their destination is translated.
    pub dst_nat: Option<Translation>,
    /// One of the two is.
    pub any_nat: Option<Translation>,
}

/// An IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One direction of a flow, before translation.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TupleFilter {
    /// The network of its source.
    pub src: Option<Cidr>,
    /// The network of its destination.
    pub dst: Option<Cidr>,
    /// Its source port, of a protocol with ports.
    pub sport: Option<u16>,
    /// Its destination port, of a protocol with ports.
    pub dport: Option<u16>,
}

/// A mark of which some bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkFilter {
    /// What they are.
    pub value: u32,
    /// Which bits.
    pub mask: u32,
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Translation {
    /// To whatever address.
    Any,
    /// To this address.
    To(IpAddr),
}

impl FlowFilter {
    /// Whether a flow is meant.
    #[must_use]
    pub fn fits(&self, entry: &Entry) -> bool {
        let family = if entry.original.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let query = entry.original.icmp_query();
        let has_ports = entry.has_ports() && query.is_none();
        equal(self.family, family)
            && equal(self.protocol, entry.original.protocol)
            && self.original.fits(&entry.original, has_ports)
            && self.reply.fits(&entry.reply, has_ports)
            && self.icmp_type.is_none_or(|wanted| query.is_some_and(|(kind, _)| kind == wanted))
            && self.icmp_id.is_none_or(|wanted| query.is_some_and(|(_, identifier)| identifier == wanted))
            && self.state.is_none_or(|wanted| entry.tcp_state() == Some(wanted))
            && self.mark.is_none_or(|mark| entry.mark & mark.mask == mark.value & mark.mask)
            && equal(self.seen_reply, entry.seen_reply)
            && equal(self.assured, entry.assured)
            && self.fits_translation(entry)
    }

    /// The original direction's tuple of the only flow that can be meant, when the filter names all of it: that flow is found
    /// without looking at the others.
    #[must_use]
    pub fn tuple(&self) -> Option<FlowTuple> {
        let host = |network: Option<Cidr>| {
            let Cidr { addr, prefix_len } = network?;
            (prefix_len == if addr.is_ipv4() { 32 } else { 128 }).then_some(addr)
        };
        let TupleFilter { src, dst, sport, dport } = self.original;
        let (src, dst) = (host(src)?, host(dst)?);
        let number = self.protocol.or(self.state.map(|_| protocol::TCP))?;
        match number {
            protocol::ICMPV4 | protocol::ICMPV6 => {
                FlowTuple::query(src, dst, number, self.icmp_type?, self.icmp_id?)
            }
            _ => Some(FlowTuple::new((src, sport?).into(), (dst, dport?).into(), number)),
        }
    }

    fn fits_translation(&self, entry: &Entry) -> bool {
        let src = |wanted: Translation| entry.is_src_nat() && wanted.fits(entry.reply.dst());
        let dst = |wanted: Translation| entry.is_dst_nat() && wanted.fits(entry.reply.src());
        self.src_nat.is_none_or(src)
            && self.dst_nat.is_none_or(dst)
            && self.any_nat.is_none_or(|wanted| src(wanted) || dst(wanted))
    }
}

impl TupleFilter {
    fn fits(&self, tuple: &FlowTuple, has_ports: bool) -> bool {
        let port = |wanted: Option<u16>, port| wanted.is_none_or(|wanted| has_ports && port == wanted);
        self.src.is_none_or(|network| network.contains(tuple.src()))
            && self.dst.is_none_or(|network| network.contains(tuple.dst()))
            && port(self.sport, tuple.src_port)
            && port(self.dport, tuple.dst_port)
    }
}

impl Translation {
    fn fits(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::To(wanted) => wanted == address,
        }
    }
}

fn equal<T: Copy + PartialEq>(wanted: Option<T>, is: T) -> bool {
    wanted.is_none_or(|wanted| wanted == is)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::conntrack::{Conntrack, ConntrackConfig, Tracked};
    use crate::flow::testing::segment;
    use crate::flow::view::{PacketView, Transport};
    use crate::tcp::header::Flags;
    use crate::time::Instant;

    fn entry(tuple: FlowTuple, change: impl FnOnce(&mut Entry)) -> Entry {
        let transport = match (tuple.protocol, tuple.icmp_query()) {
            (_, Some((kind, _))) => Transport::Query { kind, code: 0 },
            (protocol::TCP, _) => Transport::Tcp(segment(Flags::SYN, 1, 0)),
            (protocol::UDP, _) => Transport::Ports,
            _ => Transport::Other,
        };
        let view = PacketView { tuple, len: 60, packets: 1, hash: 0, transport };
        let mut table = Conntrack::new(ConntrackConfig::default(), (1, 2), Instant::ZERO);
        let Tracked::Begin(mut begin) = table.track(Instant::ZERO, &view) else { panic!("begins nothing") };
        change(&mut begin.entry);
        begin.entry
    }

    fn tuple(number: u8) -> FlowTuple {
        FlowTuple::new("10.0.0.2:5000".parse().unwrap(), "198.51.100.1:80".parse().unwrap(), number)
    }

    fn filter(json: &str) -> FlowFilter {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn each_condition_lets_through_what_has_it() {
        let plain = entry(tuple(protocol::TCP), |_| {});
        let translated = entry(tuple(protocol::UDP), |entry| {
            entry.reply = entry.reply.with_destination("203.0.113.9".parse().unwrap(), 5000);
            (entry.mark, entry.seen_reply, entry.assured) = (0x12, true, true);
        });
        for (json, expected) in [
            ("{}", [true, true]),
            (r#"{"family":"ipv4"}"#, [true, true]),
            (r#"{"family":"ipv6"}"#, [false, false]),
            (r#"{"protocol":6}"#, [true, false]),
            (r#"{"original":{"src":"10.0.0.0/8"}}"#, [true, true]),
            (r#"{"original":{"src":"10.0.0.3"}}"#, [false, false]),
            (r#"{"original":{"dst":"198.51.100.1","sport":5000,"dport":80}}"#, [true, true]),
            (r#"{"original":{"dport":81}}"#, [false, false]),
            (r#"{"reply":{"dst":"10.0.0.2"}}"#, [true, false]),
            (r#"{"reply":{"src":"198.51.100.1","sport":80,"dport":5000}}"#, [true, true]),
            (r#"{"state":"SYN_SENT"}"#, [true, false]),
            (r#"{"state":"ESTABLISHED"}"#, [false, false]),
            (r#"{"mark":{"value":2,"mask":15}}"#, [false, true]),
            (r#"{"mark":{"value":0,"mask":4294967295}}"#, [true, false]),
            (r#"{"seen_reply":false}"#, [true, false]),
            (r#"{"assured":true}"#, [false, true]),
            (r#"{"src_nat":"any"}"#, [false, true]),
            (r#"{"src_nat":{"to":"203.0.113.9"}}"#, [false, true]),
            (r#"{"src_nat":{"to":"203.0.113.8"}}"#, [false, false]),
            (r#"{"dst_nat":"any"}"#, [false, false]),
            (r#"{"any_nat":"any"}"#, [false, true]),
            (r#"{"icmp_type":8}"#, [false, false]),
        ] {
            let filter = filter(json);
            assert_eq!([&plain, &translated].map(|entry| filter.fits(entry)), expected, "{json}");
            assert_eq!(self::filter(&serde_json::to_string(&filter).unwrap()), filter);
        }
    }

    #[test]
    fn identifiers_of_queries_are_no_ports() {
        let (src, dst) = ("10.0.0.2".parse().unwrap(), "198.51.100.1".parse().unwrap());
        let ping = entry(FlowTuple::query(src, dst, protocol::ICMPV4, 8, 77).unwrap(), |_| {});
        assert!(filter(r#"{"icmp_type":8,"icmp_id":77}"#).fits(&ping));
        assert!(!filter(r#"{"icmp_id":78}"#).fits(&ping));
        assert!(!filter(r#"{"original":{"sport":77}}"#).fits(&ping));
        let portless = entry(FlowTuple::portless(src, dst, 47), |_| {});
        assert!(!filter(r#"{"original":{"sport":0}}"#).fits(&portless));
    }

    #[test]
    fn a_condition_that_is_not_known_is_refused() {
        for json in [r#"{"zone":1}"#, r#"{"original":{"vtag":1}}"#, r#"{"state":"OPEN"}"#] {
            assert!(serde_json::from_str::<FlowFilter>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn only_a_filter_that_names_a_whole_tuple_has_one() {
        let whole =
            r#"{"protocol":6,"original":{"src":"10.0.0.2","dst":"198.51.100.1","sport":5000,"dport":80}}"#;
        assert_eq!(filter(whole).tuple(), Some(tuple(protocol::TCP)));
        for part in [
            "{}",
            r#"{"original":{"src":"10.0.0.2","dst":"198.51.100.1","sport":5000,"dport":80}}"#,
            r#"{"protocol":6,"original":{"src":"10.0.0.0/24","dst":"198.51.100.1","sport":5000,"dport":80}}"#,
            r#"{"protocol":6,"original":{"src":"10.0.0.2","dst":"198.51.100.1","dport":80}}"#,
            r#"{"protocol":1,"original":{"src":"10.0.0.2","dst":"198.51.100.1"},"icmp_type":8}"#,
        ] {
            assert_eq!(filter(part).tuple(), None, "{part}");
        }
    }
}
