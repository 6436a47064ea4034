//! Which outside address and port an inside endpoint gets: the same for all of its flows (endpoint-independent mapping, RFC
//! 4787 REQ-1, RFC 5382 REQ-1), its own port where that is free (RFC 4787 section 4.2.1 allows it), else one of the same kind and
//! parity from a random one on (RFC 6056 section 3.3.1, RFC 7857 section 9). When every port has an owner, one is shared by flows to different destinations: an
//! allocation fails only when no port is free for its destination.
//!
//! Two books say which ports are out of the question, 64 at a time: those with an owner, and those that flows use towards a
//! destination. The latter has translated flows from their beginning; any other flow in the way gets into it when it is first
//! met. So a port is found in a bounded number of steps, and in one more for each flow that is met, once in its life.
//!
//! Ports satisfy `port % shards == shard`, so that any shard knows the owner of a reply.

use core::cell::Cell;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use core::ops::RangeInclusive;
use std::collections::HashMap;

use rand_chacha::ChaCha12Rng;
use rand_core::RngCore;

use super::port_set::{Parity, PortSet, first_missing};
use crate::flow::FlowTuple;
use crate::net::keyed::KeyedState;

/// An address with a port (or ICMP identifier) of one protocol: so are mappings (RFC 7857 section 5), and queries have theirs (RFC
/// 5508 REQ-1a).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Port, or identifier of an ICMP query.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// In whole words: an IPv4 endpoint is one.
impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let end = u64::from(self.port) << 8 | u64::from(self.protocol);
        match self.addr {
            IpAddr::V4(addr) => state.write_u64(u64::from(u32::from(addr)) << 32 | end),
            IpAddr::V6(addr) => {
                let [high, low] = [u128::from(addr) >> 64, u128::from(addr)].map(|half| half as u64);
                state.write_u64(high);
                state.write_u64(low);
                state.write_u64(end);
            }
        }
    }
}

impl Endpoint {
    /// Where a flow comes from.
    #[must_use]
    pub fn source_of(tuple: &FlowTuple) -> Self {
        Self { addr: tuple.src(), port: tuple.src_port, protocol: tuple.protocol }
    }

    /// Where a flow goes to.
    #[must_use]
    pub fn destination_of(tuple: &FlowTuple) -> Self {
        Self { addr: tuple.dst(), port: tuple.dst_port, protocol: tuple.protocol }
    }
}

/// The mapping of one inside endpoint.
#[derive(Debug)]
struct Mapping {
    outside: Endpoint,
    /// Flows that use it.
    flows: u32,
}

/// All mappings of one shard.
#[derive(Debug)]
pub struct Mappings {
    by_inside: HashMap<Endpoint, Mapping, KeyedState>,
    /// Who owns an outside endpoint.
    by_outside: HashMap<Endpoint, Endpoint, KeyedState>,
    /// The ports of the same, by address and protocol, as [`Mappings::number`]s.
    owned: HashMap<(IpAddr, u8), PortSet, KeyedState>,
    /// Ports whose answers are some flow's, by the answer's tuple without its port, as [`Mappings::number`]s.
    taken: HashMap<FlowTuple, PortSet, KeyedState>,
    /// How many flows an inside endpoint has to an address; `None`: nobody will ask.
    talks: Option<HashMap<(Endpoint, IpAddr), u32, KeyedState>>,
    shard: u16,
    shards: u16,
    /// What the last search took, to be bounded by tests.
    steps: Cell<u32>,
}

/// What to choose from.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Addresses, both ends included.
    pub addresses: (IpAddr, IpAddr),
    /// Ports; `None`: the inside port, else one of its kind.
    pub ports: Option<RangeInclusive<u16>>,
    /// Do not try the inside port first.
    pub random: bool,
}

/// An outside endpoint that was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The endpoint.
    pub outside: Endpoint,
    /// It is the inside endpoint's own mapping, not shared with that of another.
    pub owned: bool,
}

impl Mappings {
    /// None yet. `hash_keys` must be unpredictable on a real network. `talks`: [`Mappings::talks_to`] will be asked.
    #[must_use]
    pub fn new(hash_keys: (u64, u64), shard: u16, shards: u16, talks: bool) -> Self {
        let shards = shards.max(1);
        Self {
            by_inside: HashMap::with_hasher(KeyedState(hash_keys)),
            by_outside: HashMap::with_hasher(KeyedState((hash_keys.1, hash_keys.0))),
            owned: HashMap::with_hasher(KeyedState((hash_keys.0, !hash_keys.1))),
            taken: HashMap::with_hasher(KeyedState((!hash_keys.0, hash_keys.1))),
            talks: talks.then(|| HashMap::with_hasher(KeyedState((!hash_keys.0, !hash_keys.1)))),
            shard: shard % shards,
            shards,
            steps: Cell::new(0),
        }
    }

    /// An outside endpoint for a flow of `inside`. `answer` is the tuple of the flow's answers when they are sent to an endpoint,
    /// and `free` tells whether one belongs to no other flow; the caller should [`Mappings::take`] those that do. `None`: no
    /// port is free for this destination.
    ///
    /// RFC 4787 REQ-11: whether the inside port is kept or not makes no other difference.
    pub fn choose(
        &self,
        inside: Endpoint,
        choice: &Choice,
        rng: &mut ChaCha12Rng,
        answer: &dyn Fn(&Endpoint) -> FlowTuple,
        free: &mut dyn FnMut(&FlowTuple) -> bool,
    ) -> Option<Chosen> {
        self.steps.set(0);
        if let Some(mapping) = self.by_inside.get(&inside) {
            let outside = mapping.outside;
            let (first, last) = choice.addresses;
            let wanted = choice.ports.as_ref().is_none_or(|ports| ports.contains(&outside.port));
            if wanted && (first..=last).contains(&outside.addr) && free(&answer(&outside)) {
                return Some(Chosen { outside, owned: true });
            }
        }
        let addr = self.address(inside, choice.addresses);
        let at = |port| Endpoint { addr, port, ..inside };
        let range = choice.ports.clone().unwrap_or_else(|| kind_of(inside));
        let keep = !choice.random && range.contains(&inside.port) && self.number(inside.port).is_some();
        if keep && !self.by_outside.contains_key(&at(inside.port)) && free(&answer(&at(inside.port))) {
            return Some(Chosen { outside: at(inside.port), owned: true });
        }
        let (first, last) = self.numbers(&range)?;
        let begin = first + (rng.next_u32() % (u32::from(last - first) + 1)) as u16;
        let none = PortSet::default();
        let owned = self.owned.get(&(addr, inside.protocol)).unwrap_or(&none);
        let taken = self.taken.get(&answer(&at(0))).unwrap_or(&none);
        let mut search = |sets: &[&PortSet], from, to, parity| {
            first_missing(sets, from, to, parity, &self.steps, |number| free(&answer(&at(self.port(number)))))
        };
        // RFC 4787 REQ-3, RFC 5382 REQ-7: no two share a port; but when every port has an owner, one is shared whose owner's flows
        // go elsewhere (RFC 7857 section 3).
        let parity = self.parity(inside);
        for (sets, parity, is_owned) in [
            (&[owned, taken][..], parity, true),
            (&[owned, taken], Parity::ANY, true),
            (&[taken], Parity::ANY, false),
        ] {
            let found = search(sets, begin, last, parity)
                .or_else(|| (begin > first).then(|| search(sets, first, begin - 1, parity)).flatten());
            if let Some(number) = found {
                return Some(Chosen { outside: at(self.port(number)), owned: is_owned });
            }
        }
        None
    }

    /// Answers with this tuple are some flow's.
    pub fn take(&mut self, answer: &FlowTuple) {
        if let Some(number) = self.number(answer.dst_port) {
            self.taken.entry(answer.with_destination(answer.dst(), 0)).or_default().insert(number);
        }
    }

    /// Answers with this tuple are no flow's any more.
    pub fn vacate(&mut self, answer: &FlowTuple) {
        let key = answer.with_destination(answer.dst(), 0);
        let (Some(number), Some(ports)) = (self.number(answer.dst_port), self.taken.get_mut(&key)) else {
            return;
        };
        ports.remove(number);
        if ports.is_empty() {
            self.taken.remove(&key);
        }
    }

    /// A flow of `inside` uses what was chosen. `remote`: whom the inside endpoint has begun to talk to by it.
    pub fn add(&mut self, inside: Endpoint, chosen: Chosen, remote: Option<IpAddr>) {
        if !chosen.owned {
            return;
        }
        let mapping =
            self.by_inside.entry(inside).or_insert_with(|| Mapping { outside: chosen.outside, flows: 0 });
        if mapping.outside != chosen.outside {
            // The rules send this flow elsewhere than the endpoint's others.
            return;
        }
        mapping.flows += 1;
        if let (Some(talks), Some(remote)) = (&mut self.talks, remote) {
            *talks.entry((inside, remote)).or_default() += 1;
        }
        if mapping.flows == 1 {
            let Endpoint { addr, port, protocol } = chosen.outside;
            self.by_outside.insert(chosen.outside, inside);
            if let Some(number) = self.number(port) {
                self.owned.entry((addr, protocol)).or_default().insert(number);
            }
        }
    }

    /// A flow that was added has ended.
    pub fn remove(&mut self, inside: Endpoint, outside: Endpoint, remote: Option<IpAddr>) {
        let Some(mapping) = self.by_inside.get_mut(&inside).filter(|mapping| mapping.outside == outside)
        else {
            return;
        };
        mapping.flows -= 1;
        let is_last = mapping.flows == 0;
        if let (Some(talks), Some(remote)) = (&mut self.talks, remote)
            && let Some(flows) = talks.get_mut(&(inside, remote))
        {
            *flows -= 1;
            if *flows == 0 {
                talks.remove(&(inside, remote));
            }
        }
        if is_last {
            self.by_inside.remove(&inside);
            self.by_outside.remove(&outside);
            let key = (outside.addr, outside.protocol);
            if let (Some(number), Some(ports)) = (self.number(outside.port), self.owned.get_mut(&key)) {
                ports.remove(number);
                if ports.is_empty() {
                    self.owned.remove(&key);
                }
            }
        }
    }

    /// What the last [`Mappings::choose`] looked at: words of 64 ports, and ports that turned out to be in use.
    #[cfg(test)]
    pub(super) fn steps(&self) -> u32 {
        self.steps.get()
    }

    /// Whose outside endpoint it is.
    #[must_use]
    pub fn owner(&self, outside: &Endpoint) -> Option<Endpoint> {
        self.by_outside.get(outside).copied()
    }

    /// Whether the inside endpoint has a flow to `remote`.
    #[must_use]
    pub fn talks_to(&self, inside: &Endpoint, remote: IpAddr) -> bool {
        self.talks.as_ref().is_some_and(|talks| talks.contains_key(&(*inside, remote)))
    }

    /// Mappings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_inside.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_inside.is_empty()
    }

    /// Which of this shard's ports it is, counted from 0; `None`: it is another shard's.
    fn number(&self, port: u16) -> Option<u16> {
        (port % self.shards == self.shard).then_some(port / self.shards)
    }

    /// The port that is this shard's `number`-th.
    fn port(&self, number: u16) -> u16 {
        number * self.shards + self.shard
    }

    /// The numbers whose ports are even or odd as the inside one (RFC 4787 REQ-4). Of an even number of shards each has ports of one
    /// kind only (RFC 7857 section 8).
    fn parity(&self, inside: Endpoint) -> Parity {
        use crate::parse::protocol::{ICMPV4, ICMPV6};
        if self.shards & 1 == 0 || [ICMPV4, ICMPV6].contains(&inside.protocol) {
            return Parity::ANY;
        }
        if (inside.port ^ self.shard) & 1 == 0 { Parity::EVEN } else { Parity::ODD }
    }

    /// The first and the last number of this shard's ports of a range; `None`: it has none of them.
    fn numbers(&self, range: &RangeInclusive<u16>) -> Option<(u16, u16)> {
        let first = range.start().saturating_sub(self.shard).div_ceil(self.shards);
        let last = range.end().checked_sub(self.shard)? / self.shards;
        (first <= last).then_some((first, last))
    }

    /// The address for all flows of an inside host, whatever their protocol, with or without ports left (RFC 4787 REQ-2: paired
    /// pooling; RFC 7857 section 4).
    fn address(&self, inside: Endpoint, (first, last): (IpAddr, IpAddr)) -> IpAddr {
        use core::hash::BuildHasher as _;
        let hash = self.by_inside.hasher().hash_one(inside.addr);
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let count = u64::from(u32::from(last) - u32::from(first)) + 1;
                IpAddr::from((u32::from(first) + (hash % count) as u32).to_be_bytes())
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let span = u128::from(last) - u128::from(first);
                let offset = if span >= u128::from(u64::MAX) {
                    u128::from(hash)
                } else {
                    u128::from(hash % (span as u64 + 1))
                };
                IpAddr::from((u128::from(first) + offset).to_be_bytes())
            }
            (first, _) => first,
        }
    }
}

/// Ports of the same kind: well-known ports stay below 1024 (RFC 4787 REQ-3a), others stay above; an identifier may be any.
fn kind_of(inside: Endpoint) -> RangeInclusive<u16> {
    use crate::parse::protocol;
    match (inside.protocol, inside.port) {
        (protocol::ICMPV4 | protocol::ICMPV6, _) => 0..=u16::MAX,
        (_, 0..=1023) => 1..=1023,
        _ => 1024..=u16::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;
    use proptest::prelude::*;
    use rand_core::SeedableRng;
    use std::collections::HashSet;

    fn inside(host: u8, port: u16) -> Endpoint {
        Endpoint { addr: IpAddr::from([10, 0, 0, host]), port, protocol: 17 }
    }

    fn choice(ports: Option<RangeInclusive<u16>>) -> Choice {
        let addr = IpAddr::from([192, 0, 2, 1]);
        Choice { addresses: (addr, addr), ports, random: false }
    }

    fn rng() -> ChaCha12Rng {
        ChaCha12Rng::from_seed([7; 32])
    }

    /// The answers of [`REMOTE`].
    fn answer(outside: &Endpoint) -> FlowTuple {
        let source = SocketAddr::new(REMOTE, 53);
        FlowTuple::new(source, SocketAddr::new(outside.addr, outside.port), outside.protocol)
    }

    const REMOTE: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(198, 51, 100, 1));

    #[test]
    fn an_endpoint_keeps_its_port_and_its_mapping() {
        let (mut mappings, mut rng) = (Mappings::new((1, 2), 0, 1, true), rng());
        let one = mappings.choose(inside(1, 5000), &choice(None), &mut rng, &answer, &mut |_| true).unwrap();
        assert_eq!(
            one,
            Chosen {
                outside: Endpoint { addr: IpAddr::from([192, 0, 2, 1]), ..inside(1, 5000) },
                owned: true
            }
        );
        mappings.add(inside(1, 5000), one, Some(REMOTE));
        // Another host with the same port gets another, and both keep theirs for every destination.
        let two = mappings.choose(inside(2, 5000), &choice(None), &mut rng, &answer, &mut |_| true).unwrap();
        assert_ne!(two.outside.port, 5000);
        assert!(two.outside.port >= 1024);
        mappings.add(inside(2, 5000), two, Some(REMOTE));
        for (host, chosen) in [(1, one), (2, two)] {
            assert_eq!(
                mappings.choose(inside(host, 5000), &choice(None), &mut rng, &answer, &mut |_| true),
                Some(chosen)
            );
            assert_eq!(mappings.owner(&chosen.outside), Some(inside(host, 5000)));
        }
        assert!(mappings.talks_to(&inside(1, 5000), REMOTE));
        assert!(!mappings.talks_to(&inside(1, 5000), IpAddr::from([198, 51, 100, 2])));
        mappings.remove(inside(1, 5000), one.outside, Some(REMOTE));
        mappings.remove(inside(2, 5000), two.outside, Some(REMOTE));
        assert!(mappings.is_empty() && mappings.owner(&one.outside).is_none());
    }

    #[test]
    fn the_last_free_port_is_found_and_then_ports_are_shared_by_destination() {
        let (mut mappings, mut rng) = (Mappings::new((1, 2), 0, 1, true), rng());
        let mut taken = HashSet::new();
        for host in 0..10 {
            let chosen = mappings
                .choose(inside(host, 9), &choice(Some(2000..=2009)), &mut rng, &answer, &mut |end| {
                    !taken.contains(end)
                })
                .unwrap();
            assert!(chosen.owned && taken.insert(answer(&chosen.outside)));
            mappings.take(&answer(&chosen.outside));
            mappings.add(inside(host, 9), chosen, Some(REMOTE));
        }
        assert_eq!(
            mappings.choose(inside(99, 9), &choice(Some(2000..=2009)), &mut rng, &answer, &mut |end| !taken
                .contains(end)),
            None
        );
        // To another destination all are free.
        let elsewhere = |outside: &Endpoint| answer(outside).with_source(IpAddr::from([198, 51, 100, 2]), 53);
        let shared = mappings
            .choose(inside(99, 9), &choice(Some(2000..=2009)), &mut rng, &elsewhere, &mut |_| true)
            .unwrap();
        assert!(!shared.owned);
        mappings.add(inside(99, 9), shared, Some(REMOTE));
        assert_ne!(mappings.owner(&shared.outside), Some(inside(99, 9)), "the port stays its owner's");
    }

    #[test]
    fn well_known_ports_stay_well_known() {
        let (mut mappings, mut rng) = (Mappings::new((1, 2), 0, 1, true), rng());
        let one = mappings.choose(inside(1, 500), &choice(None), &mut rng, &answer, &mut |_| true).unwrap();
        mappings.add(inside(1, 500), one, Some(REMOTE));
        let two = mappings.choose(inside(2, 500), &choice(None), &mut rng, &answer, &mut |_| true).unwrap();
        assert!((1..1024).contains(&two.outside.port) && two.outside.port != 500);
    }

    proptest! {
        /// A shard's ports are its own, whatever the range; every one of them is found.
        #[test]
        fn shards_choose_their_own_ports(shards in 1u16..9, start in 1u16..3000, len in 0u16..60, seed in any::<u8>()) {
            let range = start..=start + len;
            let mut found = HashSet::new();
            for shard in 0..shards {
                let mut mappings = Mappings::new((1, 2), shard, shards, false);
                let mut rng = ChaCha12Rng::from_seed([seed; 32]);
                // Another port than any of the range, so that none is kept.
                while let Some(chosen) = mappings.choose(inside(1, 9999), &choice(Some(range.clone())), &mut rng, &answer, &mut |_| true) {
                    let port = chosen.outside.port;
                    prop_assert_eq!(port % shards, shard);
                    prop_assert!(range.contains(&port) && found.insert(port));
                    mappings.take(&answer(&chosen.outside));
                }
                for port in range.clone() {
                    mappings.vacate(&answer(&Endpoint { addr: IpAddr::from([192, 0, 2, 1]), port, protocol: 17 }));
                }
                prop_assert!(mappings.taken.is_empty());
            }
            prop_assert_eq!(found.len(), usize::from(len) + 1);
        }

        /// No two endpoints own one outside endpoint, however flows come and go; the books end empty.
        #[test]
        fn owners_are_one_to_one(steps in prop::collection::vec((0u8..6, 0u16..4, any::<bool>()), 1..150)) {
            let (mut mappings, mut rng) = (Mappings::new((1, 2), 0, 1, true), rng());
            let mut flows: Vec<(Endpoint, Chosen)> = Vec::new();
            for (host, port, open) in steps {
                let from = inside(host, 3000 + port);
                if open {
                    let Some(chosen) = mappings.choose(from, &choice(Some(3000..=3007)), &mut rng, &answer, &mut |_| true) else { continue };
                    mappings.add(from, chosen, Some(REMOTE));
                    flows.push((from, chosen));
                } else if let Some(place) = flows.iter().position(|(known, _)| *known == from) {
                    let (from, chosen) = flows.swap_remove(place);
                    if chosen.owned {
                        mappings.remove(from, chosen.outside, Some(REMOTE));
                    }
                }
                let owned: HashSet<_> = flows.iter().filter(|(_, chosen)| chosen.owned).map(|(from, chosen)| (*from, chosen.outside)).collect();
                let outside: HashSet<_> = owned.iter().map(|(_, outside)| outside).collect();
                prop_assert_eq!(owned.len(), outside.len());
                prop_assert_eq!(mappings.len(), outside.len());
            }
            for (from, chosen) in flows {
                if chosen.owned {
                    mappings.remove(from, chosen.outside, Some(REMOTE));
                }
            }
            prop_assert!(mappings.is_empty());
            prop_assert!(mappings.by_outside.is_empty());
        }
    }
}
