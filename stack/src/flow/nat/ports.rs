//! Which outside address and port an inside endpoint gets: the same for all of its flows (endpoint-independent mapping, RFC
//! 4787 REQ-1, RFC 5382 REQ-1), its own port where that is free (REQ-3 of RFC 4787 allows it), else one of the same kind at
//! random. When every port has an owner, one is shared by flows to different destinations: an allocation fails only when
//! no port is free for its destination.
//!
//! Ports satisfy `port % shards == shard`, so that any shard knows the owner of a reply.

use core::net::IpAddr;
use core::ops::RangeInclusive;
use std::collections::HashMap;

use rand_chacha::ChaCha12Rng;
use rand_core::RngCore;

use crate::flow::FlowTuple;
use crate::net::keyed::KeyedState;

/// An address with a port (or ICMP identifier) of one protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Port, or identifier of an ICMP query.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
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
    /// Flows that use it: their outside destinations, and how many to each address.
    flows: u32,
    remotes: Vec<(IpAddr, u32)>,
}

/// All mappings of one shard.
#[derive(Debug)]
pub struct Mappings {
    by_inside: HashMap<Endpoint, Mapping, KeyedState>,
    /// Who owns an outside endpoint.
    by_outside: HashMap<Endpoint, Endpoint, KeyedState>,
    /// The same, a bit for each port, so that one without an owner is found without asking for each: 512 ports a block, by
    /// address, protocol and block. Blocks without any are not kept.
    owned: HashMap<(IpAddr, u8, u8), [u64; BLOCK_WORDS], KeyedState>,
    shard: u16,
    shards: u16,
}

const BLOCK_WORDS: usize = 8;
const BLOCK_PORTS: u32 = 64 * BLOCK_WORDS as u32;

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
    /// None yet. `hash_keys` must be unpredictable on a real network.
    #[must_use]
    pub fn new(hash_keys: (u64, u64), shard: u16, shards: u16) -> Self {
        let shards = shards.max(1);
        Self {
            by_inside: HashMap::with_hasher(KeyedState(hash_keys)),
            by_outside: HashMap::with_hasher(KeyedState((hash_keys.1, hash_keys.0))),
            owned: HashMap::with_hasher(KeyedState((hash_keys.0, !hash_keys.1))),
            shard: shard % shards,
            shards,
        }
    }

    /// An outside endpoint for a flow of `inside`. `free` tells whether the flow's answers, were they sent to that endpoint,
    /// would belong to no other flow. `None`: no port is free for this destination. Ports with an owner are passed over 64 at a
    /// time; only when all have one is each looked at.
    pub fn choose(
        &self,
        inside: Endpoint,
        choice: &Choice,
        rng: &mut ChaCha12Rng,
        free: &mut dyn FnMut(&Endpoint) -> bool,
    ) -> Option<Chosen> {
        if let Some(mapping) = self.by_inside.get(&inside) {
            let outside = mapping.outside;
            let (first, last) = choice.addresses;
            let wanted = choice.ports.as_ref().is_none_or(|ports| ports.contains(&outside.port));
            if wanted && (first..=last).contains(&outside.addr) && free(&outside) {
                return Some(Chosen { outside, owned: true });
            }
        }
        let addr = self.address(inside, choice.addresses);
        let at = |port| Endpoint { addr, port, ..inside };
        let range = choice.ports.clone().unwrap_or_else(|| kind_of(inside));
        let keep = !choice.random && range.contains(&inside.port) && self.is_ours(inside.port);
        if keep && !self.by_outside.contains_key(&at(inside.port)) && free(&at(inside.port)) {
            return Some(Chosen { outside: at(inside.port), owned: true });
        }
        let mut candidates = self.candidates(&range, rng);
        let begin = u32::from(candidates.clone().next()?);
        let (start, end) = (u32::from(*range.start()), u32::from(*range.end()));
        for (from, to) in [(begin, end), (start, begin.saturating_sub(1))] {
            let mut next = from;
            while let Some(port) = self.next_unowned(addr, inside.protocol, next, to) {
                if self.is_ours(port) && free(&at(port)) {
                    return Some(Chosen { outside: at(port), owned: true });
                }
                next = u32::from(port) + 1;
            }
        }
        // Every port has an owner: share one whose owner's flows go elsewhere.
        let shared = candidates.find(|port| free(&at(*port)))?;
        Some(Chosen { outside: at(shared), owned: false })
    }

    /// A flow of `inside` to `remote` uses what was chosen.
    pub fn add(&mut self, inside: Endpoint, chosen: Chosen, remote: IpAddr) {
        if !chosen.owned {
            return;
        }
        let mapping = self.by_inside.entry(inside).or_insert_with(|| Mapping {
            outside: chosen.outside,
            flows: 0,
            remotes: Vec::new(),
        });
        if mapping.outside != chosen.outside {
            // The rules send this flow elsewhere than the endpoint's others.
            return;
        }
        self.by_outside.insert(chosen.outside, inside);
        let (key, word, bit) = place_of(&chosen.outside);
        self.owned.entry(key).or_default()[word] |= bit;
        mapping.flows += 1;
        match mapping.remotes.iter_mut().find(|(addr, _)| *addr == remote) {
            Some((_, flows)) => *flows += 1,
            None => mapping.remotes.push((remote, 1)),
        }
    }

    /// A flow that was added has ended.
    pub fn remove(&mut self, inside: Endpoint, outside: Endpoint, remote: IpAddr) {
        let Some(mapping) = self.by_inside.get_mut(&inside).filter(|mapping| mapping.outside == outside)
        else {
            return;
        };
        let Some(place) = mapping.remotes.iter().position(|(addr, _)| *addr == remote) else { return };
        mapping.remotes[place].1 -= 1;
        if mapping.remotes[place].1 == 0 {
            mapping.remotes.swap_remove(place);
        }
        mapping.flows -= 1;
        if mapping.flows == 0 {
            self.by_inside.remove(&inside);
            self.by_outside.remove(&outside);
            let (key, word, bit) = place_of(&outside);
            if let Some(block) = self.owned.get_mut(&key) {
                block[word] &= !bit;
                if *block == [0; BLOCK_WORDS] {
                    self.owned.remove(&key);
                }
            }
        }
    }

    /// Whose outside endpoint it is.
    #[must_use]
    pub fn owner(&self, outside: &Endpoint) -> Option<Endpoint> {
        self.by_outside.get(outside).copied()
    }

    /// Whether the inside endpoint has a flow to `remote`.
    #[must_use]
    pub fn talks_to(&self, inside: &Endpoint, remote: IpAddr) -> bool {
        self.by_inside
            .get(inside)
            .is_some_and(|mapping| mapping.remotes.iter().any(|(addr, _)| *addr == remote))
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

    /// The first port from `from` to `to` that has no owner.
    fn next_unowned(&self, addr: IpAddr, protocol: u8, from: u32, to: u32) -> Option<u16> {
        let mut port = from;
        while port <= to {
            let block = self.owned.get(&(addr, protocol, (port / BLOCK_PORTS) as u8));
            let Some(block) = block else { return Some(port as u16) };
            loop {
                let free = !block[(port % BLOCK_PORTS / 64) as usize] >> (port % 64);
                if free != 0 {
                    port += free.trailing_zeros();
                    return (port <= to).then_some(port as u16);
                }
                port = (port / 64 + 1) * 64;
                if port.is_multiple_of(BLOCK_PORTS) {
                    break;
                }
            }
        }
        None
    }

    fn is_ours(&self, port: u16) -> bool {
        port % self.shards == self.shard
    }

    /// The address for all flows of an inside host (RFC 4787 REQ-2: paired pooling).
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

    /// This shard's ports of `range`, each once, from a random one on.
    fn candidates(
        &self,
        range: &RangeInclusive<u16>,
        rng: &mut ChaCha12Rng,
    ) -> impl Iterator<Item = u16> + Clone + use<> {
        let (shard, shards) = (u32::from(self.shard), u32::from(self.shards));
        let (start, end) = (u32::from(*range.start()), u32::from(*range.end()));
        let first = start + (shard + shards - start % shards) % shards;
        let count = if first > end { 0 } else { (end - first) / shards + 1 };
        let skip = if count == 0 { 0 } else { rng.next_u32() % count };
        (0..count).map(move |step| (first + (step + skip) % count * shards) as u16)
    }
}

/// Where an outside endpoint has its bit: block, word, and the bit.
fn place_of(outside: &Endpoint) -> ((IpAddr, u8, u8), usize, u64) {
    let port = u32::from(outside.port);
    let key = (outside.addr, outside.protocol, (port / BLOCK_PORTS) as u8);
    (key, (port % BLOCK_PORTS / 64) as usize, 1 << (port % 64))
}

/// Ports of the same kind: well-known ports stay below 1024 (RFC 4787 REQ-3 b), others stay above; an identifier may be any.
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
    use proptest::prelude::*;
    use rand_core::SeedableRng;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn the_next_port_without_an_owner_is_the_next_one(
            gaps in prop::collection::vec((0u16..2000, 1u16..300), 0..12),
            from in 0u16..2200,
            span in 0u16..1500,
        ) {
            let mut mappings = Mappings::new((1, 2), 0, 1);
            let mut owned = HashSet::new();
            for (start, len) in gaps {
                for port in start..start + len {
                    if owned.insert(port) {
                        let outside = Endpoint { addr: IpAddr::from([192, 0, 2, 1]), port, protocol: 17 };
                        mappings.add(inside(1, port), Chosen { outside, owned: true }, IpAddr::from([198, 51, 100, 1]));
                    }
                }
            }
            let to = from + span;
            let expected = (from..=to).find(|port| !owned.contains(port));
            let addr = IpAddr::from([192, 0, 2, 1]);
            prop_assert_eq!(mappings.next_unowned(addr, 17, from.into(), to.into()), expected);
            for port in owned {
                let outside = Endpoint { addr, port, protocol: 17 };
                mappings.remove(inside(1, port), outside, IpAddr::from([198, 51, 100, 1]));
            }
            prop_assert!(mappings.owned.is_empty());
        }
    }

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

    const REMOTE: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(198, 51, 100, 1));

    #[test]
    fn an_endpoint_keeps_its_port_and_its_mapping() {
        let (mut mappings, mut rng) = (Mappings::new((1, 2), 0, 1), rng());
        let one = mappings.choose(inside(1, 5000), &choice(None), &mut rng, &mut |_| true).unwrap();
        assert_eq!(
            one,
            Chosen {
                outside: Endpoint { addr: IpAddr::from([192, 0, 2, 1]), ..inside(1, 5000) },
                owned: true
            }
        );
        mappings.add(inside(1, 5000), one, REMOTE);
        // Another host with the same port gets another, and both keep theirs for every destination.
        let two = mappings.choose(inside(2, 5000), &choice(None), &mut rng, &mut |_| true).unwrap();
        assert_ne!(two.outside.port, 5000);
        assert!(two.outside.port >= 1024);
        mappings.add(inside(2, 5000), two, REMOTE);
        for (host, chosen) in [(1, one), (2, two)] {
            assert_eq!(
                mappings.choose(inside(host, 5000), &choice(None), &mut rng, &mut |_| true),
                Some(chosen)
            );
            assert_eq!(mappings.owner(&chosen.outside), Some(inside(host, 5000)));
        }
        assert!(mappings.talks_to(&inside(1, 5000), REMOTE));
        assert!(!mappings.talks_to(&inside(1, 5000), IpAddr::from([198, 51, 100, 2])));
        mappings.remove(inside(1, 5000), one.outside, REMOTE);
        mappings.remove(inside(2, 5000), two.outside, REMOTE);
        assert!(mappings.is_empty() && mappings.owner(&one.outside).is_none());
    }

    #[test]
    fn the_last_free_port_is_found_and_then_ports_are_shared_by_destination() {
        let (mut mappings, mut rng) = (Mappings::new((1, 2), 0, 1), rng());
        let mut taken = HashSet::new();
        for host in 0..10 {
            let chosen = mappings
                .choose(inside(host, 9), &choice(Some(2000..=2009)), &mut rng, &mut |end| {
                    !taken.contains(end)
                })
                .unwrap();
            assert!(chosen.owned && taken.insert(chosen.outside));
            mappings.add(inside(host, 9), chosen, REMOTE);
        }
        assert_eq!(
            mappings
                .choose(inside(99, 9), &choice(Some(2000..=2009)), &mut rng, &mut |end| !taken.contains(end)),
            None
        );
        // To another destination all are free.
        let shared =
            mappings.choose(inside(99, 9), &choice(Some(2000..=2009)), &mut rng, &mut |_| true).unwrap();
        assert!(!shared.owned);
        mappings.add(inside(99, 9), shared, REMOTE);
        assert_ne!(mappings.owner(&shared.outside), Some(inside(99, 9)), "the port stays its owner's");
    }

    #[test]
    fn well_known_ports_stay_well_known() {
        let (mut mappings, mut rng) = (Mappings::new((1, 2), 0, 1), rng());
        let one = mappings.choose(inside(1, 500), &choice(None), &mut rng, &mut |_| true).unwrap();
        mappings.add(inside(1, 500), one, REMOTE);
        let two = mappings.choose(inside(2, 500), &choice(None), &mut rng, &mut |_| true).unwrap();
        assert!((1..1024).contains(&two.outside.port) && two.outside.port != 500);
    }

    proptest! {
        /// A shard's ports are its own, whatever the range; every one of them is found.
        #[test]
        fn shards_choose_their_own_ports(shards in 1u16..9, start in 1u16..3000, len in 0u16..60, seed in any::<u8>()) {
            let range = start..=start + len;
            let mut found = HashSet::new();
            for shard in 0..shards {
                let mappings = Mappings::new((1, 2), shard, shards);
                let mut rng = ChaCha12Rng::from_seed([seed; 32]);
                for port in mappings.candidates(&range, &mut rng) {
                    prop_assert_eq!(port % shards, shard);
                    prop_assert!(range.contains(&port) && found.insert(port));
                }
            }
            prop_assert_eq!(found.len(), usize::from(len) + 1);
        }

        /// No two endpoints own one outside endpoint, however flows come and go; the books end empty.
        #[test]
        fn owners_are_one_to_one(steps in prop::collection::vec((0u8..6, 0u16..4, any::<bool>()), 1..150)) {
            let (mut mappings, mut rng) = (Mappings::new((1, 2), 0, 1), rng());
            let mut flows: Vec<(Endpoint, Chosen)> = Vec::new();
            for (host, port, open) in steps {
                let from = inside(host, 3000 + port);
                if open {
                    let Some(chosen) = mappings.choose(from, &choice(Some(3000..=3007)), &mut rng, &mut |_| true) else { continue };
                    mappings.add(from, chosen, REMOTE);
                    flows.push((from, chosen));
                } else if let Some(place) = flows.iter().position(|(known, _)| *known == from) {
                    let (from, chosen) = flows.swap_remove(place);
                    if chosen.owned {
                        mappings.remove(from, chosen.outside, REMOTE);
                    }
                }
                let owned: HashSet<_> = flows.iter().filter(|(_, chosen)| chosen.owned).map(|(from, chosen)| (*from, chosen.outside)).collect();
                let outside: HashSet<_> = owned.iter().map(|(_, outside)| outside).collect();
                prop_assert_eq!(owned.len(), outside.len());
                prop_assert_eq!(mappings.len(), outside.len());
            }
            for (from, chosen) in flows {
                if chosen.owned {
                    mappings.remove(from, chosen.outside, REMOTE);
                }
            }
            prop_assert!(mappings.is_empty());
            prop_assert!(mappings.by_outside.is_empty());
        }
    }
}
