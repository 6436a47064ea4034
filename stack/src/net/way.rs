//! The ways out that known flows took through this router: link, Ethernet address and translation, so that the next packet of
//! such a flow asks neither routes nor neighbours nor rules. A way is taken only while all that it came from is as it was:
//! rules, routes and addresses ([`super::egress::Output::stamp`]), the neighbours of its link, and the flow's entry. After a
//! tenth of a second the packet goes the long way again, as the neighbour table must hear of use to know when to ask.
//!
//! A router with rules has them by the places of its table of flows ([`Ways`]); one without has a few by hash ([`RecentWays`]).

use smoltcp::wire::EthernetAddress;

use super::egress::{IPV4_HEADER, IPV6_HEADER};
use super::link::Link;
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

/// How many flows without a table are remembered: one for each value of the hash's last bits.
const RECENT_WAYS: usize = 64;

/// Those of the flows that a router without rules saw of late.
#[derive(Debug)]
pub(crate) struct RecentWays {
    by_hash: Box<[Option<RecentWay>; RECENT_WAYS]>,
    /// Every packet goes the long way, to compare.
    #[cfg(test)]
    pub(crate) off: bool,
    #[cfg(test)]
    pub(crate) taken: u64,
}

#[derive(Clone, Copy, Debug)]
struct RecentWay {
    flow: FlowKey,
    /// Whose Ethernet address need not be told to the neighbour table again before the way ends.
    sender: EthernetAddress,
    way: Way,
}

impl Default for RecentWays {
    fn default() -> Self {
        Self {
            by_hash: Box::new([None; RECENT_WAYS]),
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
    pub(crate) fn get(&self, parsed: &Parsed, sender: EthernetAddress) -> Option<&Way> {
        #[cfg(test)]
        if self.off {
            return None;
        }
        let recent = self.by_hash[parsed.hash as usize % RECENT_WAYS].as_ref()?;
        (recent.flow == parsed.flow && recent.sender == sender).then_some(&recent.way)
    }

    pub(crate) fn set(&mut self, parsed: &Parsed, sender: EthernetAddress, way: Way) {
        self.by_hash[parsed.hash as usize % RECENT_WAYS] = Some(RecentWay { flow: parsed.flow, sender, way });
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
