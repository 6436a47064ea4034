//! The walk: a packet goes through the rules of one chain of one table until one decides.
//!
//! A [`Walker`] is made from a checked [`RuleSet`]: chains and sets are found by number, limits have their state. It belongs to
//! one shard; rates are those of the whole process divided by its shards.

use core::net::SocketAddr;
use std::collections::HashMap;

use super::head::{Head, Key};
use super::limit::{Bucket, Buckets, FlowCounts};
use super::rule::{
    Condition, ConnLimit, ConnMark, CtEnd, Family, HashLimit, Hook, Match, Rate, RejectWith, Rule, Table,
    Target, TcpMss,
};
use super::set::masked;
use super::{AddressSet, Policy, RuleSet, link};
use crate::config::Cidr;
use crate::flow::FlowTuple;
use crate::flow::conntrack::{Count, CtState};
use crate::flow::view::{PacketView, Transport};
use crate::limits;
use crate::parse::protocol;
use crate::time::Instant;

/// How many [`Table`]s and [`Hook`]s there are.
const TABLES: usize = Table::ALL.len();
const HOOKS: usize = Hook::ALL.len();

/// What rules may ask about a packet, and what they may change.
pub struct Facts<'a> {
    /// Its headers.
    pub view: &'a PacketView,
    /// The interface it came in by; `None`: it is of this host.
    pub in_interface: Option<&'a str>,
    /// The interface it leaves by; `None`: not known yet, or it is for this host.
    pub out_interface: Option<&'a str>,
    /// What connection tracking says of it.
    pub state: CtState,
    /// Its flow's source is translated.
    pub snat: bool,
    /// Its flow's destination is translated.
    pub dnat: bool,
    /// Its mark.
    pub mark: u32,
    /// Its flow's mark.
    pub conn_mark: u32,
    /// A rule said not to track it.
    pub untracked: bool,
    /// A rule lowers the MSS that it offers.
    pub mss: Option<TcpMss>,
    /// Its flow's tuples, original and reply, as translated by now.
    pub flow: Option<(&'a FlowTuple, &'a FlowTuple)>,
    /// This host's addresses, with their networks.
    pub own: &'a [Cidr],
    /// Whether a flow still exists, by its original tuple.
    pub alive: &'a mut dyn FnMut(&FlowTuple) -> bool,
}

/// What the rules of one chain decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The packet may pass.
    Accept,
    /// It is dropped.
    Drop,
    /// It is dropped, and its sender told.
    Reject(RejectWith),
    /// Its flow is translated: SNAT, MASQUERADE, DNAT, REDIRECT or NETMAP.
    Translate(Target),
}

/// One shard's use of a rule set.
#[derive(Debug)]
pub struct Walker {
    rules: Vec<Step>,
    /// What each rule asks first.
    heads: Vec<Head>,
    chains: Vec<Span>,
    /// By table and hook: the chain's number.
    entries: [[Option<u32>; HOOKS]; TABLES],
    sets: Vec<AddressSet>,
    buckets: Vec<Option<Bucket>>,
    hash_buckets: Vec<Buckets>,
    flow_counts: Vec<FlowCounts>,
    counts: Vec<Count>,
    /// What built-in chains' policies decided about, by chain.
    policy_counts: Vec<Count>,
}

/// A chain: its rules' numbers.
#[derive(Debug)]
struct Span {
    start: u32,
    end: u32,
    policy: Option<Policy>,
}

/// A rule ready to be asked.
#[derive(Debug)]
struct Step {
    family: Family,
    conditions: Vec<(bool, Test)>,
    target: Target,
    /// The chain it leads to.
    chain: Option<u32>,
}

#[derive(Debug)]
enum Test {
    /// Needs nothing but the packet.
    Plain(Match),
    Limit(usize, Rate),
    HashLimit(usize, HashLimit),
    ConnLimit(usize, ConnLimit),
    Set(usize, bool),
}

/// Where a walk goes on when a chain ends.
#[derive(Clone, Copy)]
struct Frame {
    chain: u32,
    next: u32,
}

impl Walker {
    /// For one of `shards` shards.
    #[must_use]
    pub fn new(set: &RuleSet, shards: u16) -> Self {
        let mut walker = Self {
            rules: Vec::new(),
            heads: Vec::new(),
            chains: Vec::new(),
            entries: [[None; HOOKS]; TABLES],
            sets: set.sets.values().cloned().collect(),
            buckets: Vec::new(),
            hash_buckets: Vec::new(),
            flow_counts: Vec::new(),
            counts: Vec::new(),
            policy_counts: Vec::new(),
        };
        let mut named = HashMap::new();
        for (&table, chains) in &set.tables {
            let first = walker.chains.len() as u32;
            for chain in chains {
                let number = walker.chains.len() as u32;
                if let Some(hook) = Hook::named(&chain.name).filter(|_| chain.policy.is_some()) {
                    walker.entries[table as usize][hook as usize] = Some(number);
                }
                let start = walker.rules.len() as u32;
                for rule in &chain.rules {
                    let target = link::chain_of(&rule.target)
                        .and_then(|name| chains.iter().position(|chain| chain.name == name))
                        .map(|place| first + place as u32);
                    let step = walker.step(set, rule, target, shards, &mut named);
                    walker.rules.push(step);
                    walker.heads.push(Head::of(rule));
                }
                walker.chains.push(Span { start, end: walker.rules.len() as u32, policy: chain.policy });
            }
        }
        walker.counts = vec![Count::default(); walker.rules.len()];
        walker.policy_counts = vec![Count::default(); walker.chains.len()];
        walker
    }

    /// Walks the chain of `hook` in `table`.
    pub fn walk(&mut self, now: Instant, table: Table, hook: Hook, facts: &mut Facts<'_>) -> Verdict {
        let Some(entry) = self.entries[table as usize][hook as usize] else { return Verdict::Accept };
        let key = Key::of(facts.view);
        let mut stack = [Frame { chain: 0, next: 0 }; limits::FILTER_CHAIN_DEPTH];
        let mut depth = 0;
        let mut at = Frame { chain: entry, next: self.chains[entry as usize].start };
        loop {
            let end = self.chains[at.chain as usize].end;
            // Most rules are not for the packet.
            let ahead = &self.heads[at.next as usize..end as usize];
            at.next += ahead.iter().position(|head| head.may_match(&key)).unwrap_or(ahead.len()) as u32;
            if at.next >= end {
                match self.leave(at.chain, &mut depth, &stack, facts) {
                    Ok(back) => {
                        at = back;
                        continue;
                    }
                    Err(verdict) => return verdict,
                }
            }
            let rule = at.next as usize;
            at.next += 1;
            if !self.matches(now, rule, facts) {
                continue;
            }
            count(&mut self.counts[rule], facts.view.len);
            let step = &self.rules[rule];
            match &step.target {
                Target::Nothing => {}
                Target::Accept => return Verdict::Accept,
                Target::Drop => return Verdict::Drop,
                Target::Reject(with) => return Verdict::Reject(*with),
                Target::Return => at.next = self.chains[at.chain as usize].end,
                Target::Log { prefix, level, .. } => log(prefix, *level, hook, facts),
                Target::Mark { value, mask } => facts.mark = (facts.mark & !mask) ^ value,
                Target::ConnMark(change) => change_marks(*change, facts),
                Target::NoTrack { .. } => facts.untracked = true,
                Target::TcpMss(mss) => facts.mss = Some(*mss),
                Target::Jump(_) | Target::Goto(_) => {
                    let Some(chain) = step.chain else { continue };
                    if matches!(step.target, Target::Jump(_)) && depth < stack.len() {
                        stack[depth] = at;
                        depth += 1;
                    }
                    at = Frame { chain, next: self.chains[chain as usize].start };
                }
                target => return Verdict::Translate(target.clone()),
            }
        }
    }

    /// Whether there is a chain of `hook` in `table`.
    #[must_use]
    pub fn has_chain(&self, table: Table, hook: Hook) -> bool {
        self.entries[table as usize][hook as usize].is_some()
    }

    /// Whether the chain of `hook` in `table` does anything.
    #[must_use]
    pub fn judges(&self, table: Table, hook: Hook) -> bool {
        self.entries[table as usize][hook as usize].is_some_and(|chain| {
            let Span { start, end, policy } = &self.chains[chain as usize];
            start != end || *policy == Some(Policy::Drop)
        })
    }

    /// Packets and bytes that a rule matched, in the order in which the set has the rules.
    #[must_use]
    pub fn counts(&self) -> &[Count] {
        &self.counts
    }

    /// At the end of a chain: where it was called from, or what the policy says.
    fn leave(
        &mut self,
        chain: u32,
        depth: &mut usize,
        stack: &[Frame],
        facts: &Facts<'_>,
    ) -> Result<Frame, Verdict> {
        if *depth > 0 {
            *depth -= 1;
            return Ok(stack[*depth]);
        }
        // A chain reached by goto from a built-in one ends as that one does.
        count(&mut self.policy_counts[chain as usize], facts.view.len);
        Err(match self.chains[chain as usize].policy {
            Some(Policy::Drop) => Verdict::Drop,
            Some(Policy::Accept) | None => Verdict::Accept,
        })
    }

    fn step(
        &mut self,
        set: &RuleSet,
        rule: &Rule,
        chain: Option<u32>,
        shards: u16,
        named: &mut HashMap<String, usize>,
    ) -> Step {
        // What always holds need not be asked.
        let asks = |condition: &&Condition| !matches!(condition.test, Match::Comment(_) | Match::Loaded);
        let conditions = rule.conditions.iter().filter(asks).map(|condition| {
            let Condition { inverted, test, .. } = condition;
            let test = match test {
                Match::Limit(rate) => {
                    self.buckets.push(None);
                    Test::Limit(self.buckets.len() - 1, share(*rate, shards))
                }
                Match::HashLimit(limit) => {
                    let buckets = &mut self.hash_buckets;
                    let place = *named.entry(limit.name.clone()).or_insert_with(|| {
                        buckets.push(Buckets::default());
                        buckets.len() - 1
                    });
                    Test::HashLimit(place, HashLimit { rate: share(limit.rate, shards), ..limit.clone() })
                }
                Match::ConnLimit(limit) => {
                    self.flow_counts.push(FlowCounts::default());
                    let flows = limit.flows.div_ceil(u32::from(shards.max(1)));
                    Test::ConnLimit(self.flow_counts.len() - 1, ConnLimit { flows, ..*limit })
                }
                Match::Set { name, destination } => {
                    let place = set.sets.keys().position(|known| known == name).unwrap_or(usize::MAX);
                    Test::Set(place, *destination)
                }
                plain => Test::Plain(plain.clone()),
            };
            (*inverted, test)
        });
        let conditions = conditions.collect();
        Step { family: rule.family, conditions, target: rule.target.clone(), chain }
    }

    fn matches(&mut self, now: Instant, rule: usize, facts: &mut Facts<'_>) -> bool {
        let Self { rules, sets, buckets, hash_buckets, flow_counts, .. } = self;
        let step = &rules[rule];
        let tuple = facts.view.tuple;
        match step.family {
            Family::Ipv4 if !tuple.is_ipv4() => return false,
            Family::Ipv6 if tuple.is_ipv4() => return false,
            _ => {}
        }
        step.conditions.iter().all(|(inverted, test)| {
            let holds = match test {
                // What has no flow is not another flow.
                Test::Plain(Match::CtProtocol(_) | Match::CtAddress(..) | Match::CtPort(..))
                    if facts.flow.is_none() =>
                {
                    return false;
                }
                Test::Plain(test) => plain(test, facts),
                Test::Limit(place, rate) => {
                    buckets[*place].get_or_insert_with(|| Bucket::full(now, rate)).take(now, rate)
                }
                Test::HashLimit(place, limit) => hash_buckets[*place].take(now, &tuple, limit) != limit.above,
                Test::ConnLimit(place, limit) => {
                    let addr = if limit.destination { tuple.dst() } else { tuple.src() };
                    let network = limit.prefix.map_or(addr, |prefix| masked(addr, prefix));
                    let count = flow_counts[*place].count(network, &tuple, limit.flows, facts.alive);
                    (count > limit.flows) == limit.above
                }
                Test::Set(place, destination) => {
                    let addr = if *destination { tuple.dst() } else { tuple.src() };
                    sets.get(*place).is_some_and(|set| set.contains(addr))
                }
            };
            holds != *inverted
        })
    }
}

/// One shard's share of a rate: flows are spread over the shards by their hash.
fn share(rate: Rate, shards: u16) -> Rate {
    let shards = u32::from(shards.max(1));
    if shards == 1 {
        return rate;
    }
    // In the longest unit no rate is rounded to nothing.
    let day = super::RateUnit::Day.seconds();
    let a_day = u64::from(rate.events) * u64::from(day / rate.unit.seconds()) / u64::from(shards);
    let (events, unit) = if a_day / u64::from(day) >= 1000 {
        ((a_day / u64::from(day)) as u32, super::RateUnit::Second)
    } else {
        (a_day.clamp(1, u64::from(u32::MAX)) as u32, super::RateUnit::Day)
    };
    Rate { events, unit, burst: rate.burst.div_ceil(shards) }
}

fn count(count: &mut Count, bytes: u32) {
    count.packets += 1;
    count.bytes += u64::from(bytes);
}

fn plain(test: &Match, facts: &Facts<'_>) -> bool {
    let tuple = &facts.view.tuple;
    match test {
        Match::Source(network) => network.contains(tuple.src()),
        Match::Destination(network) => network.contains(tuple.dst()),
        Match::Protocol(number) => tuple.protocol == *number,
        Match::InInterface(name) => facts.in_interface.is_some_and(|known| name.matches(known)),
        Match::OutInterface(name) => facts.out_interface.is_some_and(|known| name.matches(known)),
        Match::SourcePorts(ports) => has_ports(facts) && ports.contains(tuple.src_port),
        Match::DestinationPorts(ports) => has_ports(facts) && ports.contains(tuple.dst_port),
        Match::EitherPorts(ports) => {
            has_ports(facts) && (ports.contains(tuple.src_port) || ports.contains(tuple.dst_port))
        }
        Match::TcpFlags { mask, set } => match &facts.view.transport {
            Transport::Tcp(tcp) => tcp.flags & *mask == *set,
            _ => false,
        },
        Match::IcmpType { kind, code, ipv6 } => icmp(facts, *ipv6).is_some_and(|found| {
            kind.is_none_or(|kind| kind == found.0) && code.is_none_or(|code| code == found.1)
        }),
        Match::CtState(states) => states.matches(facts.state, facts.snat, facts.dnat),
        Match::CtProtocol(number) => facts.flow.is_some_and(|(original, _)| original.protocol == *number),
        Match::CtAddress(end, network) => ct_end(facts, *end).is_some_and(|end| network.contains(end.ip())),
        Match::CtPort(end, ports) => ct_end(facts, *end).is_some_and(|end| ports.contains(&end.port())),
        // No address of one IP version is between two of the other.
        Match::SourceRange(first, last) => (*first..=*last).contains(&tuple.src()),
        Match::DestinationRange(first, last) => (*first..=*last).contains(&tuple.dst()),
        Match::SourceType(types) => types.contains(tuple.src(), facts.own),
        Match::DestinationType(types) => types.contains(tuple.dst(), facts.own),
        Match::Comment(_) | Match::Loaded => true,
        Match::Mark { value, mask } => facts.mark & mask == *value,
        Match::ConnMark { value, mask } => facts.conn_mark & mask == *value,
        Match::Limit(_) | Match::HashLimit(_) | Match::ConnLimit(_) | Match::Set { .. } => false,
    }
}

/// Address and port of a flow's end; `None`: the packet has no flow.
fn ct_end(facts: &Facts<'_>, end: CtEnd) -> Option<SocketAddr> {
    let (original, reply) = facts.flow?;
    Some(match end {
        CtEnd::OriginalSource => original.source(),
        CtEnd::OriginalDestination => original.destination(),
        CtEnd::ReplySource => reply.source(),
        CtEnd::ReplyDestination => reply.destination(),
    })
}

fn has_ports(facts: &Facts<'_>) -> bool {
    matches!(facts.view.transport, Transport::Tcp(_) | Transport::Ports)
}

fn icmp(facts: &Facts<'_>, ipv6: bool) -> Option<(u8, u8)> {
    let wanted = if ipv6 { protocol::ICMPV6 } else { protocol::ICMPV4 };
    if facts.view.tuple.protocol != wanted {
        return None;
    }
    match facts.view.transport {
        Transport::Query { kind, code }
        | Transport::Error { kind, code, .. }
        | Transport::Icmp { kind, code } => Some((kind, code)),
        _ => None,
    }
}

fn change_marks(change: ConnMark, facts: &mut Facts<'_>) {
    match change {
        ConnMark::Set { value, mask } => facts.conn_mark = (facts.conn_mark & !mask) ^ value,
        ConnMark::Save { packet_mask, flow_mask } => {
            facts.conn_mark = (facts.conn_mark & !flow_mask) ^ (facts.mark & packet_mask);
        }
        ConnMark::Restore { packet_mask, flow_mask } => {
            facts.mark = (facts.mark & !packet_mask) ^ (facts.conn_mark & flow_mask);
        }
    }
}

fn log(prefix: &str, level: u8, hook: Hook, facts: &Facts<'_>) {
    let (tuple, len) = (&facts.view.tuple, facts.view.len);
    let (input, output) = (facts.in_interface.unwrap_or(""), facts.out_interface.unwrap_or(""));
    let hook = hook.name();
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(target: "bywash::filter", hook, r#in = input, out = output, len, "{prefix}{tuple:?}")
        };
    }
    match level {
        0..=3 => line!(error),
        4 => line!(warn),
        5 | 6 => line!(info),
        _ => line!(debug),
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    fn words(options: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
        prop::sample::select(options)
    }

    proptest! {
        /// No rule is passed over that would match.
        #[test]
        fn a_head_holds_where_its_rule_does(
            rules in prop::collection::vec((
                words(&["", "-4", "-6"]),
                words(&["", "-s 10.0.0.0/8", "-s 10.1.2.3", "! -s 10.1.2.3", "-s 0.0.0.0/0", "-s 2001:db8::/32", "-s 10.0.0.1,10.1.2.3"]),
                words(&["", "-d 192.0.2.0/24", "-d 192.0.2.1/31", "! -d 192.0.2.0/25", "-d ::/0"]),
                words(&["", "-p tcp", "-p udp --dport 53", "! -p tcp", "-p tcp --dport 80:90", "-p tcp ! --dport 80", "-p udp -m multiport --dports 53,80", "-p icmp", "-p udp --dport 0:60", "-p tcp -m limit --limit 1/s --dport 22"]),
            ), 1..20),
            src in words(&["10.1.2.3", "10.0.0.1", "203.0.113.1", "2001:db8::1"]),
            dst in words(&["192.0.2.1", "192.0.2.200", "198.51.100.1", "2001:db9::1"]),
            protocol in prop::sample::select(&[6u8, 17, 1, 47][..]),
            port in prop::sample::select(&[0u16, 22, 53, 80, 85, 91][..]),
        ) {
            let texts = rules.iter().map(|(family, src, dst, rest)| format!("-A FORWARD {family} {src} {dst} {rest} -j ACCEPT"));
            // Rules that contradict themselves are refused one by one.
            let good: Vec<String> = texts.filter(|text| RuleSet::parse(text, "rules").is_ok()).collect();
            let mut walker = Walker::new(&RuleSet::parse(&good.join("\n"), "rules").unwrap(), 1);
            let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            prop_assume!(src.is_ipv4() == dst.is_ipv4());
            let tuple = FlowTuple::new((src, 4000).into(), (dst, port).into(), protocol);
            let transport = if matches!(protocol, 6 | 17) { Transport::Ports } else { Transport::Other };
            let view = PacketView { tuple, len: 60, packets: 1, hash: 0, transport };
            let key = Key::of(&view);
            let mut facts = Facts {
                view: &view,
                in_interface: None,
                out_interface: None,
                state: CtState::New,
                snat: false,
                dnat: false,
                mark: 0,
                conn_mark: 0,
                untracked: false,
                mss: None,
                flow: None,
                own: &[],
                alive: &mut |_| false,
            };
            for (rule, text) in good.iter().enumerate() {
                let head = walker.heads[rule];
                prop_assert!(!walker.matches(Instant::ZERO, rule, &mut facts) || head.may_match(&key), "{text}");
            }
        }
    }
}
