//! Where the routers differ and are meant to, each with its reason. The test fails on a difference that is not here, and on
//! one that is here and does not show.

/// Differences of one scenario that have one reason.
pub struct Known {
    /// Its name; with `*` at the end, all whose names begin so.
    pub scenario: &'static str,
    /// The steps in which they are, from 1; none: any.
    pub steps: &'static [usize],
    /// What their place begins with.
    pub place: &'static str,
    pub reason: &'static str,
}

impl Known {
    /// Whether it is about this scenario.
    pub fn is_of(&self, scenario: &str) -> bool {
        match self.scenario.strip_suffix('*') {
            Some(beginning) => scenario.starts_with(beginning),
            None => self.scenario == scenario,
        }
    }
}

const fn known(
    scenario: &'static str,
    steps: &'static [usize],
    place: &'static str,
    reason: &'static str,
) -> Known {
    Known { scenario, steps, place, reason }
}

const RECEIVED: &str = "RFC 1812 section 4.3.2.3: an error quotes the packet as it was received, but a decremented TTL need not be undone; Linux's is";
const PORT_0: &str =
    "no host sends from or to port 0 (RFC 6335 section 6): the packet goes on, but fits no flow";
const PROHIBITED: &str =
    "RFC 5508 REQ-8: who gets no session for want of a port is told so; Linux drops in silence";
const OWNED: &str = "RFC 4787 REQ-1: what the filtering keeps from the owner of an outside endpoint begins no flow, which would take the endpoint from it";
const FRAGMENTS: &str = "Linux sends the fragments on as they were, ours are cut anew to the length of the longest: RFC 791 section 3.2 leaves it open";
const REVERSE_PATH: &str = "Linux has no reverse path check for IPv6 (RFC 3704 asks for one)";

pub const KNOWN: &[Known] = &[
    known("reject *", &[], "lan 1 quoted ttl", RECEIVED),
    known("ipv6 reject *", &[], "lan 1 quoted hop limit", RECEIVED),
    known("reject a forwarded port", &[1], "wan 1 quoted ttl", RECEIVED),
    known(
        "reject with a rst",
        &[1],
        "lan 1 tos",
        "a RST has the DSCP of the segment that it answers; RFC 9293 says nothing of it",
    ),
    known(
        "tcp fin repeated",
        &[6, 9, 12],
        "flow",
        "the same FIN again is no FIN of the other side: Linux calls it LAST_ACK, and forgets the connection sooner",
    ),
    known("tcp port 0", &[1, 2], "wan 1", PORT_0),
    known("tcp port 0", &[3], "flow", PORT_0),
    known("udp port 0", &[2], "wan 1", PORT_0),
    known("udp port 0", &[3], "flow", PORT_0),
    known(
        "fragments of odd length",
        &[2, 3],
        "",
        "RFC 791 section 3.1: a fragment but the last has a multiple of 8 bytes; Linux cuts it off to one",
    ),
    known("fragments with small pieces", &[4], "wan", FRAGMENTS),
    known(
        "a fragment that says do not fragment",
        &[2],
        "wan",
        "as with small pieces; and a DF bit that the sender set stays",
    ),
    known(
        "icmp errors about a flow",
        &[15],
        "lan 1",
        "a redirect from beyond the link means nothing (RFC 1122 section 3.2.2.2): it is no packet of the flow",
    ),
    known(
        "icmp error with too short a quote masqueraded",
        &[3, 4],
        "lan 1",
        "RFC 792 asks for 64 bits of the datagram; where the ports are there, the host is told all the same",
    ),
    known("another protocol masqueraded", &[4], "lan 1", PROHIBITED),
    known("snat to a port", &[4], "lan 1", PROHIBITED),
    known("masquerade udp", &[5], "flow", OWNED),
    known("dnat of what is in transit", &[4], "flow", OWNED),
    known(
        "dnat of what is in transit",
        &[2],
        "lan 1 id",
        "RFC 6864 section 5.3.1: a packet that may be cut and gets another source gets an identification of that source's",
    ),
    known(
        "link-local addresses",
        &[2],
        "wan 1",
        "RFC 3927 section 2.7: a router does not forward to a link-local address",
    ),
    known(
        "destinations that are no host's",
        &[2, 4],
        "wan 1",
        "RFC 1812 section 5.3.7: network 0 and class E are no destinations to forward to",
    ),
    known(
        "ipv6 atomic fragment",
        &[1],
        "wan 1",
        "RFC 6946: a fragment that is the whole packet is one; Linux's reassembly loses it",
    ),
    known(
        "ipv6 addresses that are no host's",
        &[4],
        "lan 1",
        "RFC 4443 section 3.1: beyond the scope of the source; the sender of a link-local address is not told, as RFC 4291 section 2.5.6 only asks not to forward",
    ),
    known(
        "ipv6 addresses that are no host's",
        &[5, 12],
        "wan 1",
        "IPv4-mapped addresses are an API's, not the wire's (RFC 4291 section 2.5.5.2, RFC 6890)",
    ),
    known("ipv6 addresses that are no host's", &[6, 7], "wan 1", REVERSE_PATH),
    known(
        "ipv6 addresses that are no host's",
        &[9],
        "lan 1",
        "Linux forwards to a link-local address of the link that the packet came by; hosts reach each other without a router there",
    ),
];
