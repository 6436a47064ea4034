//! The pieces of a run: a deque whose memory comes from the thread's spares, and for one piece alone, as a short request is until
//! it is read, none.

use std::collections::VecDeque;

use super::run::Piece;
use crate::spares::Shelf;

thread_local! {
    static BOOKS: Shelf<VecDeque<Piece>> = const { Shelf::new() };
}

/// Pieces in order. As large as a deque alone.
#[derive(Debug, Default)]
pub(super) enum Pieces {
    #[default]
    None,
    One(Piece),
    /// Any number; it stays when all but one are gone.
    Many(VecDeque<Piece>),
}

impl Pieces {
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(pieces) => pieces.len(),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many find room on the heap.
    #[inline]
    pub(super) fn capacity(&self) -> usize {
        match self {
            Self::None | Self::One(_) => 0,
            Self::Many(pieces) => pieces.capacity(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Piece> {
        let (front, back) = match self {
            Self::None => (&[][..], &[][..]),
            Self::One(piece) => (core::slice::from_ref(piece), &[][..]),
            Self::Many(pieces) => pieces.as_slices(),
        };
        front.iter().chain(back)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Piece> {
        let (front, back) = match self {
            Self::None => (&mut [][..], &mut [][..]),
            Self::One(piece) => (core::slice::from_mut(piece), &mut [][..]),
            Self::Many(pieces) => pieces.as_mut_slices(),
        };
        front.iter_mut().chain(back)
    }

    pub(super) fn front(&self) -> Option<&Piece> {
        match self {
            Self::None => None,
            Self::One(piece) => Some(piece),
            Self::Many(pieces) => pieces.front(),
        }
    }

    #[inline]
    pub(super) fn front_mut(&mut self) -> Option<&mut Piece> {
        match self {
            Self::None => None,
            Self::One(piece) => Some(piece),
            Self::Many(pieces) => pieces.front_mut(),
        }
    }

    pub(super) fn back(&self) -> Option<&Piece> {
        match self {
            Self::None => None,
            Self::One(piece) => Some(piece),
            Self::Many(pieces) => pieces.back(),
        }
    }

    #[inline]
    pub(super) fn back_mut(&mut self) -> Option<&mut Piece> {
        match self {
            Self::None => None,
            Self::One(piece) => Some(piece),
            Self::Many(pieces) => pieces.back_mut(),
        }
    }

    #[inline]
    pub(super) fn push_back(&mut self, piece: Piece) {
        if let Self::None = self {
            *self = Self::One(piece);
            return;
        }
        self.with_places(1).push_back(piece);
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<Piece> {
        match self {
            Self::Many(pieces) => pieces.pop_front(),
            _ => self.take_one(),
        }
    }

    #[inline]
    pub(super) fn pop_back(&mut self) -> Option<Piece> {
        match self {
            Self::Many(pieces) => pieces.pop_back(),
            _ => self.take_one(),
        }
    }

    #[inline]
    fn take_one(&mut self) -> Option<Piece> {
        match core::mem::take(self) {
            Self::One(piece) => Some(piece),
            Self::None | Self::Many(_) => None,
        }
    }

    /// All of them as a deque with room for `more`. It grows by less than a quarter instead of to the double, so that its growth
    /// cannot burst the queue's bound.
    #[inline]
    pub(super) fn with_places(&mut self, more: usize) -> &mut VecDeque<Piece> {
        if !matches!(self, Self::Many(_)) {
            let first = self.take_one();
            let mut pieces = VecDeque::new();
            make_places(&mut pieces, more + usize::from(first.is_some()));
            pieces.extend(first);
            *self = Self::Many(pieces);
        }
        match self {
            Self::Many(pieces) => {
                make_places(pieces, more);
                pieces
            }
            Self::None | Self::One(_) => unreachable!("it is a deque since a line ago"),
        }
    }

    /// Moves all of `other` behind these, or these in front of the others if they are fewer.
    pub(super) fn append(&mut self, mut other: Self) {
        if self.len() < other.len() {
            let pieces = other.with_places(self.len());
            while let Some(piece) = self.pop_back() {
                pieces.push_front(piece);
            }
            *self = other;
        } else if !other.is_empty() {
            let pieces = self.with_places(other.len());
            while let Some(piece) = other.pop_front() {
                pieces.push_back(piece);
            }
        }
    }

    /// Gives back places that are not needed.
    #[inline]
    pub(super) fn trim(&mut self) {
        if let Self::Many(_) = self {
            self.trim_many();
        }
    }

    fn trim_many(&mut self) {
        let Self::Many(pieces) = self else { return };
        let (len, capacity) = (pieces.len(), pieces.capacity());
        if len > 0 && len >= capacity / 4 || capacity == 0 {
            return;
        }
        let _ = BOOKS.try_with(|books| books.trim(pieces));
        if pieces.is_empty() {
            *self = Self::None;
        }
    }
}

fn make_places(pieces: &mut VecDeque<Piece>, more: usize) {
    let needed = pieces.len() + more;
    if needed > pieces.capacity() {
        BOOKS.with(|books| books.resize(pieces, needed + (needed / 16).max(3)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_takes_no_more_room_than_a_deque() {
        assert_eq!(size_of::<Pieces>(), size_of::<VecDeque<Piece>>());
    }
}
