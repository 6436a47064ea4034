//! The segments that are outstanding: a deque, and where a segment went out on an idle connection and nothing is known of it since,
//! as of an answer until its acknowledgment, just what of it cannot be told from the scoreboard's figures.

use core::ops::{Deref, DerefMut};
use std::collections::VecDeque;

use super::Sent;
use crate::packet::prefetch;
use crate::spares::Shelf;
use crate::tcp::delivery_rate::Snapshot;
use crate::time::Instant;

thread_local! {
    static BOOKS: Shelf<VecDeque<Sent>> = const { Shelf::new() };
}

/// As large as a deque alone. Whoever takes it for a deque must have called [`Segments::spread`].
#[derive(Debug, Default)]
pub(super) enum Segments {
    #[default]
    None,
    Lone(Lone),
    Many(VecDeque<Sent>),
}

/// A segment that was sent once, alone: the time of its sending is that at which its flight began, and nothing was in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lone {
    sent_at: Instant,
    delivered: u64,
    lost: u32,
    len: u32,
}

impl Lone {
    #[inline]
    fn new(len: u32, sent_at: Instant, snapshot: &Snapshot) -> Option<Self> {
        let (delivered, lost) = snapshot.of_flight_begun(sent_at)?;
        Some(Self { sent_at, delivered, lost, len })
    }

    fn at(self, start: u64) -> Sent {
        let Self { sent_at, delivered, lost, len } = self;
        let snapshot = Snapshot::at_flight_begin(sent_at, delivered, lost);
        Sent { start, sent_at, snapshot, len, sacked: false, lost: false, resent: false, ever_resent: false }
    }
}

impl Segments {
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Lone(_) => 1,
            Self::Many(segments) => segments.len(),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on the heap.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::None | Self::Lone(_) => 0,
            Self::Many(segments) => segments.capacity() * size_of::<Sent>(),
        }
    }

    /// Begins to load the first segment into the cache.
    pub(super) fn prefetch(&self) {
        if let Self::Many(segments) = self {
            segments.front().into_iter().for_each(prefetch);
        }
    }

    /// The only segment, which begins at `start`, if it is kept so.
    #[inline]
    pub(super) fn lone(&self, start: u64) -> Option<Sent> {
        match self {
            Self::Lone(lone) => Some(lone.at(start)),
            Self::None | Self::Many(_) => None,
        }
    }

    /// `sent` is the first.
    #[inline]
    pub(super) fn begin(&mut self, sent: Sent) {
        if !self.begin_alone(sent.len, sent.sent_at, &sent.snapshot) {
            self.make_room(sent.start, 1);
            self.push_back(sent);
        }
    }

    /// Takes in a segment alone; `false`: there are others, or it is none of those that can be kept so.
    #[inline]
    pub(super) fn begin_alone(&mut self, len: u32, sent_at: Instant, snapshot: &Snapshot) -> bool {
        match Lone::new(len, sent_at, snapshot) {
            Some(lone) if matches!(self, Self::None) => {
                *self = Self::Lone(lone);
                true
            }
            _ => false,
        }
    }

    /// Makes it a deque, if it is not one or nothing. `start`: of a lone segment.
    #[inline]
    pub(super) fn spread(&mut self, start: u64) {
        if matches!(self, Self::Lone(_)) {
            self.make_room(start, 0);
        }
    }

    /// As `spread`, with room for `more`.
    pub(super) fn make_room(&mut self, start: u64, more: usize) {
        let lone = self.lone(start);
        if !matches!(self, Self::Many(_)) {
            *self = Self::Many(VecDeque::new());
        }
        if let Self::Many(segments) = self {
            BOOKS.with(|books| books.make_room(segments, more + usize::from(lone.is_some())));
            segments.extend(lone);
        }
    }

    /// Drops all.
    #[inline]
    pub(super) fn clear(&mut self) {
        if let Self::Many(mut segments) = core::mem::take(self) {
            segments.clear();
            let _ = BOOKS.try_with(|books| books.give(segments));
        }
    }

    /// Gives back memory that is not needed.
    pub(super) fn trim(&mut self) {
        if let Self::Many(segments) = self {
            let _ = BOOKS.try_with(|books| books.trim(segments));
        }
    }
}

impl Deref for Segments {
    type Target = VecDeque<Sent>;
    fn deref(&self) -> &VecDeque<Sent> {
        const NONE: &VecDeque<Sent> = &VecDeque::new();
        debug_assert!(!matches!(self, Self::Lone(_)), "a lone segment is in no deque");
        match self {
            Self::Many(segments) => segments,
            Self::None | Self::Lone(_) => NONE,
        }
    }
}

impl DerefMut for Segments {
    fn deref_mut(&mut self) -> &mut VecDeque<Sent> {
        debug_assert!(!matches!(self, Self::Lone(_)), "a lone segment is in no deque");
        if !matches!(self, Self::Many(_)) {
            *self = Self::Many(VecDeque::new());
        }
        match self {
            Self::Many(segments) => segments,
            Self::None | Self::Lone(_) => unreachable!("it is a deque since a line ago"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_no_more_room_than_a_deque() {
        assert_eq!(size_of::<Segments>(), size_of::<VecDeque<Sent>>());
    }
}
