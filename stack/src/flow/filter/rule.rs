//! The parts of a rule, as values: what it matches and what it does. [`super::parse`] reads them from iptables' words,
//! [`super::print`] writes them back, [`super::walk`] asks them.

use core::net::IpAddr;
use core::ops::RangeInclusive;

use crate::config::Cidr;
use crate::flow::conntrack::CtState;
use crate::tcp::header::Flags;

/// A table: what its chains are for, and what their rules may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Table {
    /// Before connection tracking: NOTRACK.
    Raw,
    /// Every packet, where the others see only a flow's first: marks, the MSS of SYNs.
    Mangle,
    /// Only the first packet of a flow: SNAT, DNAT and their kin.
    Nat,
    /// Accept, drop, reject.
    Filter,
}

/// Where in a packet's way a built-in chain is walked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// Received, before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// About to be sent.
    Postrouting,
}

impl Table {
    /// All tables, in the order in which iptables-save prints them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    /// The table of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Its built-in chains.
    #[must_use]
    pub fn hooks(self) -> &'static [Hook] {
        match self {
            Self::Raw => &[Hook::Prerouting, Hook::Output],
            Self::Mangle => &Hook::ALL,
            Self::Nat => &[Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting],
            Self::Filter => &[Hook::Input, Hook::Forward, Hook::Output],
        }
    }
}

impl Hook {
    /// All, in the order of a packet's way.
    pub const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    /// The chain's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }

    /// The hook of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }
}

/// A condition, or its opposite (`!`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// `!` stands before it.
    pub inverted: bool,
    /// The condition.
    pub test: Match,
    /// The `-m` that it is an option of; `None`: the rule's own.
    pub module: Option<Module>,
}

/// A match that `-m`, or a protocol, has loaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Module {
    /// Which one of the rule's, from 0 on.
    pub number: u8,
    /// Its name, as iptables-save prints it.
    pub name: &'static str,
}

/// What a packet is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    /// `-s`: the source is in this network.
    Source(Cidr),
    /// `-d`.
    Destination(Cidr),
    /// `-p`: the protocol number.
    Protocol(u8),
    /// `-i`: the interface it came in by.
    InInterface(InterfaceName),
    /// `-o`: the interface it leaves by.
    OutInterface(InterfaceName),
    /// `--sport`, or `-m multiport --sports`.
    SourcePorts(Ports),
    /// `--dport`, or `-m multiport --dports`.
    DestinationPorts(Ports),
    /// `-m multiport --ports`: either port.
    EitherPorts(Ports),
    /// `--tcp-flags MASK SET`; `--syn` is `FIN,SYN,RST,ACK SYN`.
    TcpFlags {
        /// The flags looked at.
        mask: Flags,
        /// Those of them that are set.
        set: Flags,
    },
    /// `--icmp-type`, `--icmpv6-type`.
    IcmpType {
        /// ICMP type; `None`: any.
        kind: Option<u8>,
        /// ICMP code; `None`: any.
        code: Option<u8>,
        /// Of ICMPv6.
        ipv6: bool,
    },
    /// `-m conntrack --ctstate`, `-m state --state`.
    CtState(StateSet),
    /// `-m conntrack --ctproto`: the flow's protocol number.
    CtProtocol(u8),
    /// `-m conntrack --ctorigsrc` and its kin.
    CtAddress(CtEnd, Cidr),
    /// `-m conntrack --ctorigsrcport` and its kin.
    CtPort(CtEnd, RangeInclusive<u16>),
    /// `-m iprange --src-range`: both ends included.
    SourceRange(IpAddr, IpAddr),
    /// `-m iprange --dst-range`.
    DestinationRange(IpAddr, IpAddr),
    /// `-m addrtype --src-type`.
    SourceType(TypeSet),
    /// `-m addrtype --dst-type`.
    DestinationType(TypeSet),
    /// `-m comment`: always holds.
    Comment(String),
    /// The name of a protocol's match alone (`-m tcp`): always holds.
    Loaded,
    /// `-m mark`: the packet's mark.
    Mark {
        /// Compared under the mask.
        value: u32,
        /// Bits that count.
        mask: u32,
    },
    /// `-m connmark`: the flow's mark.
    ConnMark {
        /// Compared under the mask.
        value: u32,
        /// Bits that count.
        mask: u32,
    },
    /// `-m limit`; holds while the rate is not exceeded.
    Limit(Rate),
    /// `-m hashlimit`: a limit for each address, port or network.
    HashLimit(HashLimit),
    /// `-m connlimit`: flows that exist from or to one network.
    ConnLimit(ConnLimit),
    /// `-m set --match-set`.
    Set {
        /// The set's name.
        name: String,
        /// The destination is looked up, not the source.
        destination: bool,
    },
}

impl Match {
    /// Whether it asks for the packet's flow.
    pub(super) fn is_about_flows(&self) -> bool {
        matches!(
            self,
            Self::CtState(_)
                | Self::CtProtocol(_)
                | Self::CtAddress(..)
                | Self::CtPort(..)
                | Self::ConnMark { .. }
                | Self::ConnLimit(_)
        )
    }
}

/// An interface's name, or the beginning of it (`eth+`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceName {
    /// Name, without the plus sign.
    pub name: String,
    /// Any name that begins so.
    pub prefix: bool,
}

impl InterfaceName {
    /// Whether every interface matches.
    pub(super) fn is_any(&self) -> bool {
        self.prefix && self.name.is_empty()
    }

    /// Whether an interface of this name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(&self.name) } else { name == self.name }
    }
}

/// Ports and port ranges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ports {
    /// At most 15 with `-m multiport`, else one.
    pub ranges: Vec<RangeInclusive<u16>>,
    /// Written with `-m multiport`.
    pub multiport: bool,
}

impl Ports {
    /// Whether `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&port))
    }
}

/// An end of a flow in one of its two directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CtEnd {
    OriginalSource,
    OriginalDestination,
    ReplySource,
    ReplyDestination,
}

impl CtEnd {
    /// All, in the order in which iptables prints their options.
    pub const ALL: [Self; 4] =
        [Self::OriginalSource, Self::OriginalDestination, Self::ReplySource, Self::ReplyDestination];

    /// The option for its address; that for its port has `port` behind it.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::OriginalSource => "--ctorigsrc",
            Self::OriginalDestination => "--ctorigdst",
            Self::ReplySource => "--ctreplsrc",
            Self::ReplyDestination => "--ctrepldst",
        }
    }
}

/// Types of addresses, of `-m addrtype`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TypeSet {
    /// One bit a type, in the order of [`TypeSet::NAMES`].
    bits: u8,
}

impl TypeSet {
    /// Names, in the order in which iptables prints them.
    pub const NAMES: [&'static str; 4] = ["UNICAST", "LOCAL", "BROADCAST", "MULTICAST"];

    /// Adds the type of that name; `false`: there is none.
    pub fn add(&mut self, name: &str) -> bool {
        let place = Self::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name));
        self.bits |= place.map_or(0, |place| 1 << place);
        place.is_some()
    }

    /// The names in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let is_in = move |(place, _): &(usize, &str)| self.bits & 1 << place != 0;
        Self::NAMES.into_iter().enumerate().filter(is_in).map(|(_, name)| name)
    }

    /// Whether it has the type of `addr`, on a host with these addresses: its own and loopback's are LOCAL; 255.255.255.255,
    /// 0.0.0.0/8 and the last address of an IPv4 network of its own are BROADCAST.
    #[must_use]
    pub fn contains(self, addr: IpAddr, own: &[Cidr]) -> bool {
        let place = if addr.is_multicast() {
            3
        } else if addr.is_loopback() || own.iter().any(|own| own.addr == addr) {
            1
        } else if is_broadcast(addr, own) {
            2
        } else {
            0
        };
        self.bits & 1 << place != 0
    }
}

fn is_broadcast(addr: IpAddr, own: &[Cidr]) -> bool {
    let IpAddr::V4(addr) = addr else { return false };
    let is_last = |own: &Cidr| {
        let host_bits = u32::MAX.checked_shr(own.prefix_len.into()).unwrap_or(0);
        // Networks of one or two hosts have none (RFC 3021).
        own.prefix_len < 31 && own.contains(addr.into()) && u32::from(addr) & host_bits == host_bits
    };
    addr.is_broadcast() || addr.octets()[0] == 0 || own.iter().any(is_last)
}

/// States of `--ctstate`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StateSet {
    /// One bit a state, in the order of [`StateSet::NAMES`].
    bits: u8,
}

impl StateSet {
    /// Names, in the order in which iptables prints them; the last two tell what translates the flow.
    pub const NAMES: [&'static str; 7] =
        ["INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT"];

    /// Adds the state of that name; `false`: there is none.
    pub fn add(&mut self, name: &str) -> bool {
        let place = Self::NAMES.iter().position(|known| *known == name);
        self.bits |= place.map_or(0, |place| 1 << place);
        place.is_some()
    }

    /// The names in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .enumerate()
            .filter(move |(place, _)| self.bits & 1 << place != 0)
            .map(|(_, name)| name)
    }

    /// Whether a packet in `state`, of a flow whose source or destination is translated or not, matches.
    #[must_use]
    pub fn matches(self, state: CtState, snat: bool, dnat: bool) -> bool {
        let place = match state {
            CtState::Invalid => 0,
            CtState::New => 1,
            CtState::Related => 2,
            CtState::Established => 3,
            CtState::Untracked => 4,
        };
        let wanted = 1 << place | u8::from(snat) << 5 | u8::from(dnat) << 6;
        self.bits & wanted != 0
    }
}

/// So many in a time, with a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Events in one `unit`, at least 1.
    pub events: u32,
    /// The time.
    pub unit: RateUnit,
    /// At most so many at once, at least 1.
    pub burst: u32,
}

/// The time in a [`Rate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum RateUnit {
    Second,
    Minute,
    Hour,
    Day,
}

impl RateUnit {
    /// All, the shortest first.
    pub const ALL: [Self; 4] = [Self::Second, Self::Minute, Self::Hour, Self::Day];

    /// Seconds in it.
    #[must_use]
    pub fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }

    /// The word iptables uses in rules (`3/second`); when it prints, `sec`, `min`, `hour`, `day`.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Second => ("second", "sec"),
            Self::Minute => ("minute", "min"),
            Self::Hour => ("hour", "hour"),
            Self::Day => ("day", "day"),
        }
    }
}

/// `-m hashlimit`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashLimit {
    /// Rules with the same name in one rule set share their buckets.
    pub name: String,
    /// The rate of each bucket.
    pub rate: Rate,
    /// `--hashlimit-above`: holds when the rate is exceeded.
    pub above: bool,
    /// What has a bucket of its own.
    pub key: HashKey,
    /// `--hashlimit-htable-size`, to be printed: tables grow as they must.
    pub size: Option<u32>,
    /// Most buckets (`--hashlimit-htable-max`), else [`HashLimit::ENTRIES`]; packets beyond match as if over the rate.
    pub entries_max: Option<u32>,
    /// `--hashlimit-htable-gcinterval`, to be printed: buckets are forgotten as others are used.
    pub collect_ms: u32,
    /// A bucket not used for so long is forgotten (`--hashlimit-htable-expire`); unless given, as long as the rate's unit.
    pub expire_ms: u32,
}

impl HashLimit {
    /// Most buckets unless a rule says otherwise. (Linux: by the machine's memory.)
    pub const ENTRIES: u32 = 65_536;
    /// Default of `collect_ms`.
    pub const COLLECT_MS: u32 = 1000;
}

/// The parts of a packet that choose a bucket of `hashlimit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HashKey {
    /// Prefix of the source address that counts; `None`: it does not.
    pub source: Option<u8>,
    /// Prefix of the destination address that counts; `None`: it does not.
    pub destination: Option<u8>,
    /// The source port counts.
    pub source_port: bool,
    /// The destination port counts.
    pub destination_port: bool,
}

/// `-m connlimit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnLimit {
    /// The number.
    pub flows: u32,
    /// Holds with more flows than that, else with at most as many.
    pub above: bool,
    /// Prefix of the address that counts; `None`: the whole address.
    pub prefix: Option<u8>,
    /// By destination, not source.
    pub destination: bool,
}

/// What a rule does with a packet that matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Nothing: it only counts.
    Nothing,
    /// The packet may pass this table.
    Accept,
    /// It is dropped.
    Drop,
    /// Back to the chain that jumped here; in a built-in chain, its policy.
    Return,
    /// It is dropped, and its sender told.
    Reject(RejectWith),
    /// A line in the log.
    Log {
        /// What the line begins with.
        prefix: String,
        /// syslog's level, 0 to 7.
        level: u8,
        /// Words such as `--log-uid`, kept to be printed: what is logged is all that is known of the packet anyway.
        details: Vec<&'static str>,
    },
    /// Changes the packet's mark: `mark = (mark & !mask) ^ value`.
    Mark {
        /// Bits to set or turn round.
        value: u32,
        /// Bits to clear first.
        mask: u32,
    },
    /// Changes the flow's mark.
    ConnMark(ConnMark),
    /// The packet is not tracked.
    NoTrack {
        /// Written as `CT --notrack`.
        ct: bool,
    },
    /// Changes where the flow comes from.
    Snat(NatTarget),
    /// The same, to an address of the interface it leaves by.
    Masquerade {
        /// Ports to choose from; `None`: the sender's, or one of its kind.
        ports: Option<RangeInclusive<u16>>,
        /// Choose ports at random from the start.
        random: Option<Random>,
    },
    /// Changes where the flow goes to.
    Dnat(Vec<NatTarget>),
    /// The same, to this host.
    Redirect {
        /// Ports to choose from; `None`: the packet's.
        ports: Option<RangeInclusive<u16>>,
        /// Choose ports at random from the start.
        random: bool,
    },
    /// One network for another, host for host.
    Netmap(Cidr),
    /// Lowers the MSS option of SYNs.
    TcpMss(TcpMss),
    /// Walk a chain, then go on behind this rule.
    Jump(String),
    /// Walk a chain in place of the rest of this one.
    Goto(String),
}

/// How the sender of a rejected packet is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectWith {
    /// ICMP destination unreachable with this code (RFC 792), over IPv6 the code nearest to it.
    Icmp(u8),
    /// ICMPv6 destination unreachable with this code (RFC 4443), over IPv4 the code nearest to it.
    Icmpv6(u8),
    /// A RST; TCP only.
    TcpReset,
}

/// What `CONNMARK` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnMark {
    /// As [`Target::Mark`], to the flow's mark.
    Set {
        /// Bits to set or turn round.
        value: u32,
        /// Bits to clear first.
        mask: u32,
    },
    /// The packet's mark to the flow: `flow = (flow & !flow_mask) ^ (packet & packet_mask)`.
    Save {
        /// `--nfmask`.
        packet_mask: u32,
        /// `--ctmask`.
        flow_mask: u32,
    },
    /// The flow's mark to the packet: `packet = (packet & !packet_mask) ^ (flow & flow_mask)`.
    Restore {
        /// `--nfmask`.
        packet_mask: u32,
        /// `--ctmask`.
        flow_mask: u32,
    },
}

/// Addresses and ports to choose from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatTarget {
    /// Addresses, both ends included; `None` with ports alone.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Ports; `None`: kept where that is possible.
    pub ports: Option<RangeInclusive<u16>>,
    /// DNAT: the port that the first of `ports` is for, the next one for the next.
    pub base: Option<u16>,
    /// Choose ports at random from the start.
    pub random: Option<Random>,
    /// A client gets the same address for all of its flows.
    pub persistent: bool,
}

/// How ports are chosen at random: here alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Random {
    /// `--random`.
    Ports,
    /// `--random-fully`.
    Fully,
}

/// What `TCPMSS` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpMss {
    /// Not more than what the path's MTU carries.
    ClampToPmtu,
    /// Not more than this.
    Set(u16),
}

/// IP versions that a rule is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// Both.
    #[default]
    Any,
    /// `-4`, or it names IPv4 addresses.
    Ipv4,
    /// `-6`, or it names IPv6 addresses.
    Ipv6,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Which packets it is for at all.
    pub family: Family,
    /// All must hold, in this order.
    pub conditions: Vec<Condition>,
    /// What happens then.
    pub target: Target,
    /// Line of the text it was read from, from 1 on.
    pub line: u32,
    /// Column of its target's name there; 0: it has none.
    pub target_column: u32,
}
