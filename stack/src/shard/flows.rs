//! The flows of a shard for who asks from outside (`bywash ct`): listed, deleted and counted in portions, so that a table of
//! millions holds no packet up, and followed.

use super::Shard;
use crate::flow::FlowFilter;
use crate::flow::conntrack::{Conntrack, Direction, Entry, EntryId, Event};
use crate::flow::listed::{FlowCounts, FlowKinds, ListedFlow};
use crate::net::host_gate::HostGate;
use crate::time::Instant;

/// Why there are no flows to speak of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTracked {
    /// There are no rules that could ask for them.
    #[error("flows are not tracked: there are no rules")]
    NoRules,
    /// No rule asks for them.
    #[error("flows are not tracked: no rule asks for them")]
    NotAsked,
}

impl Shard {
    /// Lists the flows that `filter` means among those at the next `places` places from `cursor` on (0: the first). Also
    /// returns the cursor of the next portion; `None`: that was all. A flow is shown as it is when its portion is taken, and one
    /// that begins between two portions may be missing. O(places), and O(1) where the filter names one flow.
    ///
    /// # Errors
    /// See [`NotTracked`].
    pub fn list_flows(
        &mut self,
        now: Instant,
        filter: &FlowFilter,
        cursor: u32,
        places: u32,
    ) -> Result<(Vec<ListedFlow>, Option<u32>), NotTracked> {
        let mut listed = Vec::new();
        let next = portion(tracked(self.gate()?)?, filter, cursor, places, |id, entry| {
            listed.push(ListedFlow::new(now, id, entry));
        });
        Ok((listed, next))
    }

    /// As [`Shard::list_flows`], and ends those flows; the ports that their translation held are free then.
    ///
    /// # Errors
    /// See [`NotTracked`].
    pub fn delete_flows(
        &mut self,
        now: Instant,
        filter: &FlowFilter,
        cursor: u32,
        places: u32,
    ) -> Result<(Vec<ListedFlow>, Option<u32>), NotTracked> {
        let (mut ids, mut listed) = (Vec::new(), Vec::new());
        let gate = self.gate()?;
        let next = portion(tracked(gate)?, filter, cursor, places, |id, entry| {
            ids.push(id);
            listed.push(ListedFlow::new(now, id, entry));
        });
        for id in ids {
            gate.delete(id);
        }
        Ok((listed, next))
    }

    /// How many flows there are and may be. O(1).
    ///
    /// # Errors
    /// See [`NotTracked`].
    pub fn count_flows(&mut self) -> Result<FlowCounts, NotTracked> {
        let flows = tracked(self.gate()?)?;
        Ok(FlowCounts { entries: flows.len() as u64, maximum: flows.entries_max() as u64 })
    }

    /// What the flows are that are at the next `places` places from `cursor` on. Also returns the cursor of the next portion;
    /// `None`: that was all. O(places).
    ///
    /// # Errors
    /// See [`NotTracked`].
    pub fn flow_kinds(&mut self, cursor: u32, places: u32) -> Result<(FlowKinds, Option<u32>), NotTracked> {
        let mut kinds = FlowKinds::default();
        let next = tracked(self.gate()?)?.list(cursor, places, |_, entry| kinds.add(entry));
        Ok((kinds, next))
    }

    /// Whether events are kept for [`Shard::take_flow_events`] from now on.
    ///
    /// # Errors
    /// See [`NotTracked`].
    pub fn follow_flows(&mut self, on: bool) -> Result<(), NotTracked> {
        tracked(self.gate()?)?.follow(on);
        Ok(())
    }

    /// Shows `each` what has happened to flows since the last call. Returns how many events were lost, for want of room.
    pub fn take_flow_events(&mut self, each: impl FnMut(&Event)) -> u64 {
        self.flows().map_or(0, |flows| flows.take_events(each))
    }

    fn gate(&mut self) -> Result<&mut HostGate, NotTracked> {
        self.output.gate.as_deref_mut().ok_or(NotTracked::NoRules)
    }
}

fn tracked(gate: &mut HostGate) -> Result<&mut Conntrack, NotTracked> {
    gate.flows().ok_or(NotTracked::NotAsked)
}

fn portion(
    flows: &Conntrack,
    filter: &FlowFilter,
    cursor: u32,
    places: u32,
    mut each: impl FnMut(EntryId, &Entry),
) -> Option<u32> {
    let mut fitting = |id, entry: &Entry| {
        if filter.fits(entry) {
            each(id, entry);
        }
    };
    let Some(tuple) = filter.tuple() else { return flows.list(cursor, places, fitting) };
    if let Some((id, Direction::Original)) = flows.find(&tuple)
        && let Some(entry) = flows.get(id)
    {
        fitting(id, entry);
    }
    None
}
