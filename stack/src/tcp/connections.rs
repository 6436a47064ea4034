//! The places of connections, laid out for a shard that has many: what a segment without news needs of its connection lies
//! in two cache lines, the place's own links included, and nothing leads there but the place's number.
//!
//! Whoever is given a connection to change it takes away what is known of the segment that it expects ([`Prediction`]); only
//! the short way of that segment itself ([`Connections::get_predicting`]) does not.

use core::ops::Deref;

use super::connection::Connection;
use super::fast_path::Prediction;
use super::table::{List, Slab};

/// What places are aligned to: a cache line.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Line;

/// All connections of a shard. Looking at them is a [`Slab`]'s.
pub(super) struct Connections(Slab<Connection, Line>);

impl Deref for Connections {
    type Target = Slab<Connection, Line>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Connections {
    /// Bytes of a place that a segment without news reads and writes: two lines.
    const HOT: usize = 128;

    pub(super) fn new() -> Self {
        Self(Slab::new())
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.0.get_mut(index).map(forget_prediction)
    }

    #[inline]
    pub(super) fn get_exact_mut(&mut self, index: u32, generation: u32) -> Option<&mut Connection> {
        self.0.get_exact_mut(index, generation).map(forget_prediction)
    }

    /// As `get_mut`, for who sees to [`Connection::prediction`] himself.
    #[inline]
    pub(super) fn get_predicting(&mut self, index: u32) -> Option<&mut Connection> {
        self.0.get_mut(index)
    }

    /// Bytes that one more connection costs here.
    #[cfg(test)]
    pub(super) const fn place_bytes() -> usize {
        Slab::<Connection, Line>::slot_size()
    }

    pub(super) fn insert(&mut self, connection: Connection) -> u32 {
        self.0.insert(connection)
    }

    /// Drops a connection, which must be in no list; whether there was one.
    pub(super) fn vacate(&mut self, index: u32) -> bool {
        self.0.vacate(index)
    }

    #[inline]
    pub(super) fn push_back(&mut self, list: &mut List, index: u32) {
        self.0.push_back(list, index);
    }

    pub(super) fn append(&mut self, list: &mut List, other: List) {
        self.0.append(list, other);
    }

    #[inline]
    pub(super) fn unlink(&mut self, list: &mut List, index: u32) {
        self.0.unlink(list, index);
    }

    /// Begins to load what a segment without news needs of a connection.
    #[inline]
    pub(super) fn prefetch_hot(&self, index: u32) {
        self.0.prefetch::<0, { Self::HOT }>(index);
    }

    /// Begins to load all else that lies in a connection's place.
    #[inline]
    pub(super) fn prefetch_rest(&self, index: u32) {
        self.0.prefetch::<{ Self::HOT }, { usize::MAX }>(index);
    }
}

#[inline]
fn forget_prediction(connection: &mut Connection) -> &mut Connection {
    connection.prediction = None::<Prediction>;
    connection
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::super::info::Statistics;
    use super::*;

    /// A place's own links, padded.
    const LINKS: usize = 16;

    #[test]
    fn a_segment_without_news_needs_two_lines() {
        let ends = [
            offset_of!(Connection, key) + 36,
            offset_of!(Connection, snd_nxt) + 4,
            offset_of!(Connection, snd_una) + 4,
            offset_of!(Connection, snd_wl1) + 4,
            offset_of!(Connection, snd_wl2) + 4,
            offset_of!(Connection, snd_wnd) + 4,
            offset_of!(Connection, snd_wnd_max) + 4,
            offset_of!(Connection, last_ack_sent) + 4,
            offset_of!(Connection, ts_recent) + 4,
            offset_of!(Connection, ts_recent_at_s) + 4,
            offset_of!(Connection, last_heard) + 8,
            offset_of!(Connection, prediction) + size_of::<Option<Prediction>>(),
            offset_of!(Connection, state) + 1,
            offset_of!(Connection, ts_enabled) + 1,
            offset_of!(Connection, snd_wscale) + 1,
            offset_of!(Connection, keepalive_probes) + 1,
            offset_of!(Connection, statistics) + offset_of!(Statistics, segments_in) + 4,
        ];
        assert_eq!(ends.into_iter().max().map(|end| LINKS + end <= Connections::HOT), Some(true), "{ends:?}");
        // Whether a place has a tenant is told by a value that one of the connection's fields never takes, and no byte is added for
        // it. The compiler takes the field with the most of them, which is the prediction, by its tag.
        assert_eq!(size_of::<Option<Connection>>(), size_of::<Connection>());
        assert_eq!(size_of::<Option<Prediction>>(), 16);
    }

    #[test]
    fn a_place_is_fifteen_lines() {
        assert_eq!((Connections::place_bytes(), align_of::<Line>()), (15 * 64, 64));
    }
}
