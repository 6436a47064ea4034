//! What a burst of segments needs from memory is fetched ahead, in steps, each for all of the burst before the next: the lines of
//! the table, then what a segment without news needs of its connection; and the rest of the connection a few segments before
//! its own, where it is needed.

use super::engine::{Kind, Place, Tables, Tcp};
use super::table::NIL;
use crate::limits;

/// How many segments before its own a connection is prefetched: as many as take longer than memory does.
const PREFETCH_DISTANCE: usize = 4;

/// The segments to come.
#[derive(Default)]
pub(super) struct LookAhead {
    /// The connections of the burst's segments, or none ([`NIL`]), and whether a segment is longer than its header.
    coming: Vec<(u32, bool)>,
    /// How many of them have come.
    came: usize,
}

impl Tcp {
    /// Says whose the segments of a burst are, by the hashes of their flows in the order in which they will be received, and
    /// which of them are longer than a header, so that their connections are in the cache by then: one after the other, each would
    /// wait for memory several times. Where there are few connections, the cache has them anyway.
    pub fn look_ahead(&mut self, hashes: impl Iterator<Item = (u32, bool)>) {
        self.ahead.coming.clear();
        self.tables.likely = NIL;
        let Tables { by_tuple, connections, .. } = &self.tables;
        if connections.len() < limits::TCP_PREFETCH_CONNECTIONS {
            return;
        }
        // Each step for all before the next: so their loads overlap.
        self.ahead.coming.extend(hashes.inspect(|(hash, _)| by_tuple.prefetch(*hash)));
        for (coming, _) in &mut self.ahead.coming {
            let place = by_tuple.find(*coming, |_| true);
            *coming = match place.map(|place| Place(place).into()) {
                Some(Kind::Connection(index)) => index,
                _ => NIL,
            };
            connections.prefetch_hot(*coming);
        }
        (0..PREFETCH_DISTANCE.min(self.ahead.coming.len())).for_each(|ahead| self.prefetch(ahead));
        self.ahead.came = 0;
    }

    /// The next of the segments that [`Tcp::look_ahead`] was told of is about to be received.
    pub fn step_ahead(&mut self) {
        if let Some((index, _)) = self.ahead.coming.get(self.ahead.came) {
            self.tables.likely = *index;
            self.prefetch(self.ahead.came + PREFETCH_DISTANCE);
            self.ahead.came += 1;
        }
    }

    /// Begins to load what the `ahead`th segment needs besides what a segment without news does, if more than that is under way
    /// with its connection or may be, and what is behind one that was begun before.
    fn prefetch(&self, ahead: usize) {
        let Tables { connections, .. } = &self.tables;
        let busy = |ahead: usize| {
            let (index, long) = *self.ahead.coming.get(ahead)?;
            let connection = connections.get(index)?;
            (long || connection.prediction.is_none()).then_some((index, connection))
        };
        if let Some((index, _)) = busy(ahead) {
            connections.prefetch_rest(index);
        }
        if let Some((_, connection)) = ahead.checked_sub(PREFETCH_DISTANCE / 2).and_then(busy) {
            connection.sent.prefetch();
            connection.send.prefetch();
        }
    }
}
