//! Network address translation on top of connection tracking: decides, when a flow begins, what its packets look like on the
//! other side ([`Nat::set_up`]), and remembers which outside endpoint belongs to whom ([`ports`]). Each packet is then
//! changed by [`rewrite`] to what its flow's entry says.
//!
//! The behaviour is that of RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP), with the updates of RFC 7857.

mod port_set;
mod ports;
pub mod rewrite;

pub use ports::{Choice, Chosen, Endpoint, Mappings};

use core::hash::{BuildHasher, Hash, Hasher};
use core::net::IpAddr;

use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};

use super::FlowTuple;
use super::conntrack::{Begin, Conntrack, Entry};
use super::filter::{Hook, NatTarget, Target};
use crate::config::Cidr;
use crate::net::keyed::KeyedState;

/// Who may send to an inside endpoint's mapping (RFC 4787 REQ-8, REQ-8a; RFC 5382 REQ-3, REQ-3a), of the mapping's own protocol (RFC
/// 7857 section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Filtering {
    /// Anybody.
    EndpointIndependent,
    /// Addresses that it has sent to, from any port.
    AddressDependent,
    /// Endpoints that it has sent to (as Linux does).
    #[default]
    AddressAndPortDependent,
}

/// Why a flow cannot be translated as its rule says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NatError {
    /// Every port that the rule allows is in use towards this destination.
    #[error("no port is free for this destination")]
    NoFreePort,
    /// The interface has no address of the packet's IP version, or the rule's addresses are of the other version.
    #[error("there is no address of the packet's IP version to translate to")]
    NoAddress,
}

/// One shard's translations.
#[derive(Debug)]
pub struct Nat {
    mappings: Mappings,
    filtering: Filtering,
    rng: ChaCha12Rng,
    /// Chooses servers: the same on all shards, so that a client finds the same one from each.
    servers: KeyedState,
}

impl Nat {
    /// For one of `shards` shards. `seed` must be unpredictable on a real network and the same on all shards.
    #[must_use]
    pub fn new(filtering: Filtering, seed: [u8; 32], shard: u16, shards: u16) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut key = || (rng.next_u64(), rng.next_u64());
        let (mapping_keys, server_keys) = (key(), key());
        rng.set_stream(u64::from(shard) + 1);
        Self {
            mappings: Mappings::new(mapping_keys, shard, shards, filtering == Filtering::AddressDependent),
            filtering,
            rng,
            servers: KeyedState(server_keys),
        }
    }

    /// Changes a flow that begins as `target` says, at `hook`. `here`: the address of the interface that MASQUERADE (the
    /// one the packet leaves by) or REDIRECT (the one it came in by) means.
    ///
    /// # Errors
    /// See [`NatError`]; the flow should be dropped then.
    pub fn set_up(
        &mut self,
        table: &mut Conntrack,
        begin: &mut Begin,
        target: &Target,
        hook: Hook,
        here: Option<IpAddr>,
    ) -> Result<(), NatError> {
        let entry = &mut begin.entry;
        let source_hook = matches!(hook, Hook::Postrouting | Hook::Input);
        match target {
            Target::Snat(to) => {
                let src = entry.original.src();
                let addresses = of_version(to.addresses.or(Some((src, src))), entry)?;
                self.map_source(
                    table,
                    entry,
                    &Choice { addresses, ports: to.ports.clone(), random: to.random.is_some() },
                )
            }
            Target::Masquerade { ports, random } => {
                let addresses = of_version(here.map(|addr| (addr, addr)), entry)?;
                let choice = Choice { addresses, ports: ports.clone(), random: random.is_some() };
                self.map_source(table, entry, &choice)
            }
            Target::Dnat(to) => {
                let to = self.server(&entry.original, to);
                let forward = entry.reply.reversed();
                let addresses = match to.addresses {
                    None => (forward.dst(), forward.dst()),
                    some => of_version(some, entry)?,
                };
                let addr = self.pick(&entry.original, addresses, to.persistent);
                let begin = match to.base {
                    Some(base) => Begins::At(forward.dst_port.wrapping_sub(base)),
                    None if to.random.is_some() => Begins::Anywhere,
                    None => Begins::Kept,
                };
                self.map_destination(table, entry, addr, to.ports.as_ref(), begin);
                Ok(())
            }
            Target::Redirect { ports, random } => {
                let (addr, _) = of_version(here.map(|addr| (addr, addr)), entry)?;
                let begin = if *random { Begins::Anywhere } else { Begins::Kept };
                self.map_destination(table, entry, addr, ports.as_ref(), begin);
                Ok(())
            }
            // RFC 7857 section 12: each address outside is a host's, whatever comes to it.
            Target::Netmap(network) => {
                let forward = entry.reply.reversed();
                if network.addr.is_ipv4() != forward.is_ipv4() {
                    return Err(NatError::NoAddress);
                }
                let forward = if source_hook {
                    forward.with_source(mapped(forward.src(), network), forward.src_port)
                } else {
                    forward.with_destination(mapped(forward.dst(), network), forward.dst_port)
                };
                entry.reply = forward.reversed();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A new flow from outside to an outside endpoint of somebody's: where it goes, if the filtering lets it in.
    #[must_use]
    pub fn inbound(&self, tuple: &FlowTuple) -> Option<Endpoint> {
        if self.mappings.is_empty() || self.filtering == Filtering::AddressAndPortDependent {
            return None;
        }
        let inside = self.mappings.owner(&Endpoint::destination_of(tuple))?;
        let allowed = match self.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.mappings.talks_to(&inside, tuple.src()),
            Filtering::AddressAndPortDependent => false,
        };
        allowed.then_some(inside)
    }

    /// Sends a flow that begins to an inside endpoint that [`Nat::inbound`] named.
    pub fn let_in(&self, begin: &mut Begin, inside: Endpoint) {
        let forward = begin.entry.reply.reversed().with_destination(inside.addr, inside.port);
        begin.entry.reply = forward.reversed();
        begin.entry.let_in = true;
    }

    /// Gives a flow whose answers would be taken for those of another one a source port of its own, whatever the rules say
    /// (two forwarded ports that lead to one server, for one).
    ///
    /// # Errors
    /// [`NatError::NoFreePort`].
    pub fn make_unique(&mut self, table: &mut Conntrack, begin: &mut Begin) -> Result<(), NatError> {
        if table.clashes(begin) {
            let src = begin.entry.reply.dst();
            let choice = Choice { addresses: (src, src), ports: None, random: false };
            self.map_source(table, &mut begin.entry, &choice)?;
        }
        let entry = &mut begin.entry;
        entry.taken = [entry.has_ports() && entry.is_dst_nat(), entry.has_ports() && entry.is_src_nat()];
        Ok(())
    }

    /// A flow that has ended gives back what it used (RFC 7857 section 11: with the last one the mapping).
    pub fn release(&mut self, entry: &Entry) {
        entry.taken_tuples().for_each(|tuple| self.mappings.vacate(tuple));
        if entry.owns_mapping {
            let outside = Endpoint {
                addr: entry.reply.dst(),
                port: entry.reply.dst_port,
                protocol: entry.reply.protocol,
            };
            self.mappings.remove(Endpoint::source_of(&entry.original), outside, Some(entry.reply.src()));
        }
        if entry.let_in {
            let outside = Endpoint::destination_of(&entry.original);
            self.mappings.remove(Endpoint::source_of(&entry.reply), outside, None);
        }
    }

    /// A flow was confirmed: what it uses is in use now.
    pub fn keep(&mut self, entry: &Entry) {
        entry.taken_tuples().for_each(|tuple| self.mappings.take(tuple));
        if entry.owns_mapping {
            let outside = Endpoint {
                addr: entry.reply.dst(),
                port: entry.reply.dst_port,
                protocol: entry.reply.protocol,
            };
            let chosen = Chosen { outside, owned: true };
            self.mappings.add(Endpoint::source_of(&entry.original), chosen, Some(entry.reply.src()));
        }
        // RFC 4787 REQ-1: the inside endpoint shows the same outside one while anybody talks to it there.
        if entry.let_in {
            let chosen = Chosen { outside: Endpoint::destination_of(&entry.original), owned: true };
            self.mappings.add(Endpoint::source_of(&entry.reply), chosen, None);
        }
    }

    /// Inside endpoints that have a mapping.
    #[must_use]
    pub fn mappings(&self) -> &Mappings {
        &self.mappings
    }

    fn map_source(
        &mut self,
        table: &mut Conntrack,
        entry: &mut Entry,
        choice: &Choice,
    ) -> Result<(), NatError> {
        let forward = entry.reply.reversed();
        let inside = Endpoint::source_of(&entry.original);
        let answer = |outside: &Endpoint| forward.with_source(outside.addr, outside.port).reversed();
        if !entry.has_ports() {
            let (first, _) = choice.addresses;
            let outside = Endpoint { addr: first, port: forward.src_port, protocol: forward.protocol };
            if table.find(&answer(&outside)).is_some() {
                return Err(NatError::NoFreePort);
            }
            entry.reply = answer(&outside);
            return Ok(());
        }
        let mut met = Vec::new();
        let mut free = |tuple: &FlowTuple| match table.find(tuple) {
            None => true,
            Some((id, direction)) => {
                met.push((*tuple, id, direction));
                false
            }
        };
        let chosen = self.mappings.choose(inside, choice, &mut self.rng, &answer, &mut free);
        // They are not met again.
        for (tuple, id, direction) in met {
            table.mark_taken(id, direction);
            self.mappings.take(&tuple);
        }
        let chosen = chosen.ok_or(NatError::NoFreePort)?;
        entry.reply = answer(&chosen.outside);
        entry.owns_mapping = chosen.owned;
        Ok(())
    }

    fn map_destination(
        &mut self,
        table: &Conntrack,
        entry: &mut Entry,
        addr: IpAddr,
        ports: Option<&core::ops::RangeInclusive<u16>>,
        begins: Begins,
    ) {
        let forward = entry.reply.reversed();
        let to = |port| forward.with_destination(addr, port).reversed();
        let port = match ports {
            Some(ports) if begins != Begins::Kept || !ports.contains(&forward.dst_port) => {
                let count = u32::from(ports.end() - ports.start()) + 1;
                let offset = match begins {
                    Begins::Kept => 0,
                    Begins::Anywhere => self.rng.next_u32(),
                    Begins::At(offset) => offset.into(),
                };
                let start = ports.start() + (offset % count) as u16;
                // One of the range that is free, if any; else that one, and the source makes it unique.
                let mut all = (start..=*ports.end()).chain(*ports.start()..start);
                all.find(|port| table.find(&to(*port)).is_none()).unwrap_or(start)
            }
            _ => forward.dst_port,
        };
        entry.reply = to(port);
    }

    /// The server of a client, by rendezvous hashing: the same for all of its flows, and when a server is added or taken
    /// away, only the flows of its own share go elsewhere.
    fn server<'a>(&self, tuple: &FlowTuple, servers: &'a [NatTarget]) -> &'a NatTarget {
        let weight = |server: &NatTarget| {
            let mut hasher = self.servers.build_hasher();
            tuple.src().hash(&mut hasher);
            server.addresses.hash(&mut hasher);
            server.ports.hash(&mut hasher);
            hasher.finish()
        };
        servers.iter().max_by_key(|server| weight(server)).expect("a rule names at least one server")
    }

    /// An address of the range: by the client's alone when `persistent`, else by the destination's, too (as Linux does).
    fn pick(&self, tuple: &FlowTuple, (first, last): (IpAddr, IpAddr), persistent: bool) -> IpAddr {
        let mut hasher = self.servers.build_hasher();
        tuple.src().hash(&mut hasher);
        if !persistent {
            tuple.dst().hash(&mut hasher);
        }
        let hash = hasher.finish();
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let count = u64::from(u32::from(last).saturating_sub(u32::from(first))) + 1;
                IpAddr::from((u32::from(first) + (hash % count) as u32).to_be_bytes())
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let span = u128::from(last).saturating_sub(u128::from(first)).min(u128::from(u64::MAX) - 1);
                IpAddr::from((u128::from(first) + u128::from(hash % (span as u64 + 1))).to_be_bytes())
            }
            (first, _) => first,
        }
    }
}

/// Which port of a rule's is tried first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Begins {
    /// The packet's own if it is one of them, else the first.
    Kept,
    /// Any.
    Anywhere,
    /// So far from the first; beyond the last, from the first again.
    At(u16),
}

/// What packets of a flow in a direction become; `None`: nothing changes.
#[must_use]
pub fn translated(entry: &Entry, direction: super::conntrack::Direction) -> Option<FlowTuple> {
    entry.is_translated().then(|| entry.tuple(direction.other()).reversed())
}

/// Addresses of the packet's IP version.
fn of_version(addresses: Option<(IpAddr, IpAddr)>, entry: &Entry) -> Result<(IpAddr, IpAddr), NatError> {
    addresses.filter(|(first, _)| first.is_ipv4() == entry.original.is_ipv4()).ok_or(NatError::NoAddress)
}

/// The host of `addr` in another network.
fn mapped(addr: IpAddr, network: &Cidr) -> IpAddr {
    match (addr, network.addr) {
        (IpAddr::V4(addr), IpAddr::V4(network_addr)) => {
            let hosts = u32::MAX.checked_shr(u32::from(network.prefix_len)).unwrap_or(0);
            IpAddr::from((u32::from(network_addr) & !hosts | u32::from(addr) & hosts).to_be_bytes())
        }
        (IpAddr::V6(addr), IpAddr::V6(network_addr)) => {
            let hosts = u128::MAX.checked_shr(u32::from(network.prefix_len)).unwrap_or(0);
            IpAddr::from((u128::from(network_addr) & !hosts | u128::from(addr) & hosts).to_be_bytes())
        }
        (addr, _) => addr,
    }
}

#[cfg(test)]
mod tests;
