//! The key of one direction of a flow: addresses, protocol, and ports or what a protocol has in their place.
//!
//! An ICMP query has its identifier where the asking side's port would be, so that translating a query's identifier is
//! translating a source port. Its type is part of the key: a request and the reply to another request with the same
//! identifier are different flows.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use siphasher::sip::SipHasher13;

use crate::parse::{FlowKey, flow_hash, protocol};

/// One direction of a flow, from the sender's side: 38 bytes, IPv4 addresses as IPv4-mapped IPv6 ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowTuple {
    src: [u8; 16],
    dst: [u8; 16],
    /// Source port; the identifier in an ICMP request.
    pub src_port: u16,
    /// Destination port; the identifier in an ICMP reply.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// For an ICMP query its place in [`QUERIES`] plus 1, with [`REPLY`] for the reply; else 0.
    query: u8,
}

/// ICMP queries: protocol, type of the request, type of its reply (RFC 792, RFC 950, RFC 4443 section 4).
const QUERIES: [(u8, u8, u8); 5] = [
    (protocol::ICMPV4, 8, 0),
    (protocol::ICMPV4, 13, 14),
    (protocol::ICMPV4, 15, 16),
    (protocol::ICMPV4, 17, 18),
    (protocol::ICMPV6, 128, 129),
];
/// What IPv4-mapped addresses begin with (RFC 4291 section 2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
/// Marks the reply in [`FlowTuple`]'s `query`.
const REPLY: u8 = 0x80;

impl FlowTuple {
    /// A flow of a protocol with ports.
    #[must_use]
    pub fn new(src: SocketAddr, dst: SocketAddr, protocol: u8) -> Self {
        Self {
            src: pack(src.ip()),
            dst: pack(dst.ip()),
            src_port: src.port(),
            dst_port: dst.port(),
            protocol,
            query: 0,
        }
    }

    /// That of a packet of a protocol with ports, as it was parsed.
    pub(crate) fn of(flow: &FlowKey) -> Self {
        Self {
            src: pack(flow.src),
            dst: pack(flow.dst),
            src_port: flow.src_port,
            dst_port: flow.dst_port,
            protocol: flow.protocol,
            query: 0,
        }
    }

    /// A flow of a protocol without ports.
    #[must_use]
    pub fn portless(src: IpAddr, dst: IpAddr, protocol: u8) -> Self {
        Self::new(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), protocol)
    }

    /// An ICMP query or reply (RFC 5508 REQ-1) with `identifier`; `None` when `kind` is neither.
    #[must_use]
    pub fn query(src: IpAddr, dst: IpAddr, protocol: u8, kind: u8, identifier: u16) -> Option<Self> {
        let matches = |(number, request, reply): &(u8, u8, u8)| {
            *number == protocol && (*request == kind || *reply == kind)
        };
        let place = QUERIES.iter().position(matches)?;
        let mut tuple = Self::portless(src, dst, protocol);
        tuple.query = place as u8 + 1;
        if kind == QUERIES[place].1 {
            tuple.src_port = identifier;
        } else {
            tuple.query |= REPLY;
            tuple.dst_port = identifier;
        }
        Some(tuple)
    }

    /// Source address.
    #[must_use]
    pub fn src(&self) -> IpAddr {
        unpack(self.src)
    }

    /// Destination address.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        unpack(self.dst)
    }

    /// Source and destination address as in an IP header.
    pub(crate) fn octets(&self) -> (&[u8], &[u8]) {
        let at = if self.src[..12] == MAPPED && self.dst[..12] == MAPPED { 12 } else { 0 };
        (&self.src[at..], &self.dst[at..])
    }

    /// Source and destination address of IPv4 as in its header.
    #[inline]
    pub(crate) fn ipv4_octets(&self) -> [u8; 8] {
        let [.., a, b, c, d] = self.src;
        let [.., e, f, g, h] = self.dst;
        [a, b, c, d, e, f, g, h]
    }

    /// Source and destination address of IPv6 as in its header.
    #[inline]
    pub(crate) fn ipv6_octets(&self) -> [u8; 32] {
        let mut octets = [0; 32];
        octets[..16].copy_from_slice(&self.src);
        octets[16..].copy_from_slice(&self.dst);
        octets
    }

    /// The ports as in a transport header.
    pub(crate) fn port_octets(&self) -> [u8; 4] {
        (u32::from(self.src_port) << 16 | u32::from(self.dst_port)).to_be_bytes()
    }

    /// Source address and port.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.src(), self.src_port)
    }

    /// Destination address and port.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.dst(), self.dst_port)
    }

    /// The same flow from another source.
    #[must_use]
    pub fn with_source(mut self, addr: IpAddr, port: u16) -> Self {
        (self.src, self.src_port) = (pack(addr), port);
        self
    }

    /// The same flow to another destination.
    #[must_use]
    pub fn with_destination(mut self, addr: IpAddr, port: u16) -> Self {
        (self.dst, self.dst_port) = (pack(addr), port);
        self
    }

    /// The opposite direction: what an answer's tuple is when nothing translates it.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
            query: if self.query == 0 { 0 } else { self.query ^ REPLY },
        }
    }

    /// ICMP type of the query or reply, and the identifier; `None` for other protocols.
    #[must_use]
    pub fn icmp_query(&self) -> Option<(u8, u16)> {
        let (_, request, reply) = *QUERIES.get(usize::from(self.query & !REPLY).checked_sub(1)?)?;
        Some(if self.query & REPLY == 0 { (request, self.src_port) } else { (reply, self.dst_port) })
    }

    /// Whether packets of it may begin a flow: an ICMP reply does not.
    #[must_use]
    pub fn may_begin(&self) -> bool {
        self.query & REPLY == 0
    }

    /// Whether its source is the destination of `other`.
    pub(crate) fn comes_from_destination_of(&self, other: &Self) -> bool {
        self.src == other.dst && self.src_port == other.dst_port
    }

    /// Whether the addresses are IPv4's.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.src().is_ipv4()
    }

    /// A keyed hash for tables: of TCP and UDP that of the parser with the same keys.
    pub(crate) fn keyed_hash(&self, keys: (u64, u64)) -> u32 {
        if !matches!(self.protocol, protocol::TCP | protocol::UDP) {
            let mut hasher = SipHasher13::new_with_keys(keys.0, keys.1);
            self.hash_words(&mut hasher);
            return hasher.finish() as u32;
        }
        let flow = FlowKey {
            src: self.src(),
            dst: self.dst(),
            src_port: self.src_port,
            dst_port: self.dst_port,
            protocol: self.protocol,
        };
        flow_hash(&flow, keys)
    }

    /// Feeds all of it to a hash, in whole words: an IPv4 flow's are two.
    fn hash_words(&self, hasher: &mut impl Hasher) {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        let half = |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().expect("4 bytes")));
        let ends = u64::from(self.src_port) << 48
            | u64::from(self.dst_port) << 32
            | u64::from(self.protocol) << 8
            | u64::from(self.query);
        if self.src[..12] == MAPPED && self.dst[..12] == MAPPED {
            hasher.write_u64(half(&self.src[12..]) << 32 | half(&self.dst[12..]));
            // No IPv6 flow's last word has this bit, nor as few words.
            return hasher.write_u64(ends | 1 << 16);
        }
        for bytes in [&self.src[..8], &self.src[8..], &self.dst[..8], &self.dst[8..]] {
            hasher.write_u64(word(bytes));
        }
        hasher.write_u64(ends);
    }
}

impl Hash for FlowTuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash_words(state);
    }
}

impl fmt::Debug for FlowTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source(), self.destination())?;
        match self.icmp_query() {
            Some((kind, identifier)) => write!(f, " type {kind} id {identifier}"),
            None => Ok(()),
        }
    }
}

fn pack(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

fn unpack(octets: [u8; 16]) -> IpAddr {
    let addr = Ipv6Addr::from(octets);
    addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), |addr: Ipv4Addr| IpAddr::V4(addr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<(u32, u32)>().prop_map(|(a, b)| (Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into())),
            any::<(u64, u64)>().prop_map(|(a, b)| {
                let global = |low: u64| IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low)));
                (global(a), global(b))
            }),
        ]
    }

    proptest! {
        #[test]
        fn turning_round_twice_changes_nothing((src, dst) in addr(), ports in any::<(u16, u16)>(), protocol in any::<u8>()) {
            let tuple = FlowTuple::new(SocketAddr::new(src, ports.0), SocketAddr::new(dst, ports.1), protocol);
            prop_assert_eq!(tuple.reversed().reversed(), tuple);
            prop_assert_eq!((tuple.src(), tuple.dst()), (src, dst));
            prop_assert_eq!(tuple.reversed().source(), tuple.destination());
        }

        /// The reply to a query is the query turned round, and never the same as a query with that identifier.
        #[test]
        fn a_reply_answers_its_request_only((src, dst) in addr(), identifier in any::<u16>()) {
            let (protocol, request, reply) = if src.is_ipv4() { QUERIES[0] } else { QUERIES[4] };
            let asked = FlowTuple::query(src, dst, protocol, request, identifier).unwrap();
            let answered = FlowTuple::query(dst, src, protocol, reply, identifier).unwrap();
            let asked_back = FlowTuple::query(dst, src, protocol, request, identifier).unwrap();
            prop_assert_eq!(asked.reversed(), answered);
            prop_assert_ne!(answered, asked_back);
            prop_assert_eq!(answered.icmp_query(), Some((reply, identifier)));
            prop_assert!(asked.may_begin() && !answered.may_begin());
        }
    }

    #[test]
    fn errors_and_unknown_types_are_no_queries() {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for kind in [3, 4, 5, 11, 12, 9, 10, 30, 128] {
            assert_eq!(FlowTuple::query(any, any, protocol::ICMPV4, kind, 1), None);
        }
        assert_eq!(size_of::<FlowTuple>(), 38);
    }
}
