//! The ways out that known flows took through this router: link, Ethernet address and translation, so that the next packet of
//! such a flow asks neither routes nor neighbours nor rules. A way is taken only while all that it came from is as it was:
//! rules, routes and addresses ([`super::egress::Output::stamp`]), the neighbours of its link, and the flow's entry. After a
//! tenth of a second the packet goes the long way again, as the neighbour table must hear of use to know when to ask.

use smoltcp::wire::EthernetAddress;

use crate::flow::conntrack::Place;
use crate::flow::nat::rewrite::Translation;
use crate::time::Instant;

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
