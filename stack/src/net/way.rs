//! The ways out that known flows took through this router: link, Ethernet address and translation, so that the next packet of
//! such a flow asks neither routes nor neighbours nor rules. A way is taken only while all that it came from is as it was:
//! rules, routes and addresses ([`super::egress::Output::stamp`]), the neighbours of its link, and the flow's entry. After a
//! tenth of a second the packet goes the long way again, as the neighbour table must hear of use to know when to ask.
//!
//! A router with rules has them by the places of its table of flows ([`Ways`]). Besides, a few are kept by hash ([`RecentWays`]):
//! without rules there are no others, and with rules datagrams of a flow that was met just now need not be looked up.

use smoltcp::wire::EthernetAddress;

use super::egress::{IPV4_HEADER, IPV6_HEADER};
use super::link::Link;
use crate::flow::FlowTuple;
use crate::flow::conntrack::Place;
use crate::flow::nat::rewrite::Translation;
use crate::parse::{FlowKey, Kind, Parsed};
use crate::time::Instant;

/// Whether a packet may take a way: nothing is written into its headers but what a way knows of, and it is not the last hop.
pub(crate) fn takes_way(parsed: &Parsed) -> bool {
    let fixed = if parsed.flow.dst.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
    matches!(parsed.kind, Kind::Tcp | Kind::Udp)
        && parsed.hop_limit > 1
        && usize::from(parsed.l4 - parsed.l3) == fixed
}

/// Where a flow's packets of one direction go, and what they become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The link that they come by.
    pub(crate) from: u16,
    pub(crate) to: u16,
    /// Of the next hop.
    pub(crate) mac: EthernetAddress,
    pub(crate) translation: Option<Translation>,
    /// [`super::neighbor::Neighbors::generation`] of the link `to`.
    pub(crate) neighbors: u64,
    pub(crate) until: Instant,
    pub(crate) stamp: u32,
}

impl Way {
    /// Whether a packet that came by `from`, of IP packets of `len` bytes at most, may take it: all is as it was. `stamp`:
    /// [`super::egress::Output::stamp`].
    pub(crate) fn holds(&self, now: Instant, from: usize, len: usize, links: &[Link], stamp: u32) -> bool {
        let link = &links[usize::from(self.to)];
        self.stamp == stamp
            && usize::from(self.from) == from
            && self.neighbors == link.neighbors.generation()
            && now < self.until
            && len <= link.mtu
    }
}

/// Whose packets go a way, where flows are tracked, and what they become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracked {
    pub(crate) place: Place,
    /// Of the entry's place.
    pub(crate) generation: u32,
    /// `None`: nothing is translated.
    pub(crate) to: Option<FlowTuple>,
}

/// How many flows are remembered by hash: one for each value of its last bits.
const RECENT_WAYS: usize = 64;

/// Those of the flows that a router saw of late.
#[derive(Debug)]
pub(crate) struct RecentWays {
    by_hash: Box<[Option<RecentWay>; RECENT_WAYS]>,
    /// Hashes of the last flows that were offered a place.
    offered: [u32; RECENT_WAYS],
    /// Every packet goes the long way, to compare.
    #[cfg(test)]
    pub(crate) off: bool,
    #[cfg(test)]
    pub(crate) taken: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RecentWay {
    flow: FlowKey,
    /// Whose Ethernet address need not be told to the neighbour table again before the way ends.
    sender: EthernetAddress,
    pub(crate) way: Way,
    pub(crate) tracked: Option<Tracked>,
}

impl Default for RecentWays {
    fn default() -> Self {
        Self {
            by_hash: Box::new([None; RECENT_WAYS]),
            offered: [0; RECENT_WAYS],
            #[cfg(test)]
            off: false,
            #[cfg(test)]
            taken: 0,
        }
    }
}

impl RecentWays {
    /// The way of the flow of `parsed`, from `sender`.
    #[inline]
    pub(crate) fn get(&self, parsed: &Parsed, sender: EthernetAddress) -> Option<&RecentWay> {
        #[cfg(test)]
        if self.off {
            return None;
        }
        let recent = self.by_hash[parsed.hash as usize % RECENT_WAYS].as_ref()?;
        (recent.flow == parsed.flow && recent.sender == sender).then_some(recent)
    }

    pub(crate) fn set(
        &mut self,
        parsed: &Parsed,
        sender: EthernetAddress,
        way: Way,
        tracked: Option<Tracked>,
    ) {
        let recent = RecentWay { flow: parsed.flow, sender, way, tracked };
        self.by_hash[parsed.hash as usize % RECENT_WAYS] = Some(recent);
    }

    /// As [`RecentWays::set`], if the flow was the last one that was offered its place, too: where there are many, each of which
    /// has a way in a table, writing them down in turn would be for nothing.
    pub(crate) fn offer(&mut self, parsed: &Parsed, sender: EthernetAddress, way: Way, tracked: Tracked) {
        let last = &mut self.offered[parsed.hash as usize % RECENT_WAYS];
        if core::mem::replace(last, parsed.hash) == parsed.hash {
            self.set(parsed, sender, way, Some(tracked));
        }
    }
}

/// Those of all flows of a table, by place; as many as the table has places at most.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    /// With the generation of the flow's entry.
    by_place: Vec<Option<(u32, Way)>>,
}

impl Ways {
    /// The way of the flow that has `place` in the `generation` of its tenants.
    pub(crate) fn get(&self, place: Place, generation: u32) -> Option<&Way> {
        let (of, way) = self.by_place.get(place.number())?.as_ref()?;
        (*of == generation).then_some(way)
    }

    pub(crate) fn set(&mut self, place: Place, generation: u32, way: Way) {
        let at = place.number();
        if at >= self.by_place.len() {
            self.by_place.resize(at + 1, None);
        }
        self.by_place[at] = Some((generation, way));
    }
}
