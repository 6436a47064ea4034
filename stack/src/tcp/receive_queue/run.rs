//! A run of consecutive received bytes: frames as they came, and heap blocks that gather what was copied. Every byte of
//! memory behind a run is counted, so that the queue can keep a peer within its bound.

use core::num::NonZeroU32;
use core::ops::Range;

use super::super::Chunk;
use super::block::Block;
use super::pieces::Pieces;
use crate::limits;
use crate::packet::PacketSlice;
use crate::spares::rounded;

/// Smallest heap block: what a lone byte costs.
const BLOCK_MIN: usize = 64;
/// What a heap block costs besides its bytes: the two counts of an `Rc` and the allocator's own share.
const BLOCK_OVERHEAD: usize = 32;

/// Payload on its way into a run.
#[derive(Clone)]
pub(super) enum Data<'a> {
    Frame(PacketSlice),
    Bytes(&'a [u8]),
}

impl Data<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(slice) => slice,
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Frame(slice) => slice.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Leaves only the bytes of `range`, which lies inside.
    pub(super) fn cut(&mut self, range: Range<usize>) {
        match self {
            Self::Frame(slice) => {
                slice.truncate(range.end);
                slice.advance(range.start);
            }
            Self::Bytes(bytes) => *bytes = &bytes[range],
        }
    }
}

/// One frame's or block's share of a run; never empty.
#[derive(Debug)]
pub(super) enum Piece {
    Frame(PacketSlice),
    Heap(Heap),
}

/// The bytes `start..end` of a block. The block has no other owner while it is in a run.
#[derive(Debug)]
pub(super) struct Heap {
    block: Block,
    start: u32,
    /// One more than the end: so a piece takes no more room than this.
    end_after: NonZeroU32,
}

impl Heap {
    /// A block of `size` bytes, at least as many as there are in `bytes`, that begins with them.
    fn new(bytes: &[u8], size: usize) -> Self {
        let end_after = NonZeroU32::MIN.saturating_add(bytes.len() as u32);
        Self { block: Block::new(bytes, size), start: 0, end_after }
    }

    #[inline]
    fn end(&self) -> u32 {
        self.end_after.get() - 1
    }

    fn bytes(&self) -> &[u8] {
        &self.block[self.start as usize..self.end() as usize]
    }

    /// Unused bytes behind the used ones.
    fn room(&self) -> usize {
        self.block.len() - self.end() as usize
    }

    /// Appends as much of `bytes` as there is room for and returns the rest.
    fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (now, later) = bytes.split_at(self.room().min(bytes.len()));
        let end = self.end() as usize;
        self.block.own()[end..][..now.len()].copy_from_slice(now);
        self.end_after = self.end_after.saturating_add(now.len() as u32);
        later
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(slice) => slice,
            Self::Heap(heap) => heap.bytes(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Frame(slice) => slice.len(),
            Self::Heap(heap) => (heap.end() - heap.start) as usize,
        }
    }

    /// Bytes of memory it keeps, the deque's place for it not counted.
    fn cost(&self) -> usize {
        match self {
            Self::Frame(slice) => slice.frame_bytes(),
            Self::Heap(heap) => heap.block.len() + BLOCK_OVERHEAD,
        }
    }

    fn advance(&mut self, len: usize) {
        match self {
            Self::Frame(slice) => slice.advance(len),
            Self::Heap(heap) => heap.start += len as u32,
        }
    }
}

/// How many places for frames that are expected are made at a time, at most.
const PLACES_AT_A_TIME: usize = limits::BURST_PACKETS;

/// Consecutive bytes in pieces. Of two heap pieces side by side, the first has at most an eighth of its block unused,
/// or both together are longer than a block.
#[derive(Debug, Default)]
pub(super) struct Run {
    pieces: Pieces,
    /// Bytes in all pieces.
    len: u32,
    /// Sum of the pieces' costs.
    cost: u32,
}

impl Run {
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All memory behind the run, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.cost as usize + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Appends data by holding on to its frame.
    pub(super) fn push_frame(&mut self, slice: PacketSlice) {
        self.seal_tail();
        self.push(Piece::Frame(slice));
    }

    /// As [`Run::push_frame`], slice after slice, as long as `keeps` agrees, which sees the memory behind the run; returns the
    /// first slice for which it does not. Places for a burst are made at a time: see [`Run::trim`].
    pub(super) fn push_frames(
        &mut self,
        slices: &mut impl Iterator<Item = PacketSlice>,
        mut keeps: impl FnMut(&PacketSlice, usize) -> bool,
    ) -> Option<PacketSlice> {
        let mut is_sealed = false;
        while let Some(slice) = slices.next() {
            if !keeps(&slice, self.memory()) {
                return Some(slice);
            }
            if !is_sealed {
                self.seal_tail();
                is_sealed = true;
            }
            // True of one piece, too.
            if self.pieces.len() >= self.pieces.capacity() {
                let more = slices.size_hint().1.unwrap_or(0);
                self.pieces.with_places(1 + more.min(PLACES_AT_A_TIME));
            }
            let Pieces::Many(pieces) = &mut self.pieces else { return Some(slice) };
            // Never; but where it is known that there is room, the piece is written where it belongs and not moved there.
            if pieces.len() == pieces.capacity() {
                return Some(slice);
            }
            self.len += slice.len() as u32;
            self.cost += slice.frame_bytes() as u32;
            pieces.push_back(Piece::Frame(slice));
        }
        None
    }

    /// Gives back places that are not needed.
    #[inline]
    pub(super) fn trim(&mut self) {
        self.pieces.trim();
    }

    /// Appends data by copying it, first into what is free of the last block, then into blocks of at most `block_max`
    /// bytes, each twice as large as the one before.
    pub(super) fn push_bytes(&mut self, bytes: &[u8], block_max: usize) {
        let mut rest = bytes;
        let mut last_size = 0;
        if let Some(Piece::Heap(heap)) = self.pieces.back_mut() {
            rest = heap.fill(bytes);
            last_size = heap.block.len();
            self.len += (bytes.len() - rest.len()) as u32;
        }
        while !rest.is_empty() {
            let size = rest.len().next_power_of_two().max(2 * last_size).clamp(BLOCK_MIN, block_max);
            let (now, later) = rest.split_at(rest.len().min(size));
            self.push(Piece::Heap(Heap::new(now, size)));
            (rest, last_size) = (later, size);
        }
    }

    /// Appends another run, moving the pieces of whichever has fewer.
    pub(super) fn append(&mut self, mut other: Self, block_max: usize) {
        self.join(&mut other, block_max);
        let (len, cost) = (self.len + other.len, self.cost + other.cost);
        self.pieces.append(other.pieces);
        (self.len, self.cost) = (len, cost);
    }

    /// Takes out the first piece.
    pub(super) fn pop_front(&mut self) -> Option<Chunk> {
        let piece = self.pieces.pop_front()?;
        self.forget(&piece);
        Some(match piece {
            Piece::Frame(slice) => Chunk::Frame(slice),
            Piece::Heap(heap) => {
                let range = heap.start as usize..heap.end() as usize;
                Chunk::Heap(heap.block, range)
            }
        })
    }

    /// Drops the last piece and returns how many bytes it had.
    pub(super) fn pop_back(&mut self) -> usize {
        let Some(piece) = self.pieces.pop_back() else { return 0 };
        self.forget(&piece);
        piece.len()
    }

    /// Gives up to `max` bytes at the front to `take`, piece by piece, and drops them; returns how many there were.
    pub(super) fn read_with(&mut self, max: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        while taken < max && self.len > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let len = piece.len().min(max - taken);
            take(&piece.bytes()[..len]);
            taken += len;
            if len < piece.len() {
                piece.advance(len);
                self.len -= len as u32;
            } else if let Some(piece) = self.pieces.pop_front() {
                self.book_out(&piece);
            }
        }
        if taken > 0 {
            self.trim();
        }
        taken
    }

    /// Copies the front into `out` and keeps it; returns how many bytes there were.
    pub(super) fn peek(&self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces.iter() {
            let len = piece.len().min(out.len() - copied);
            out[copied..][..len].copy_from_slice(&piece.bytes()[..len]);
            copied += len;
            if copied == out.len() {
                break;
            }
        }
        copied
    }

    /// Copies what is in frames to blocks of its own length, and so frees the frames.
    pub(super) fn release_frames(&mut self) {
        for piece in self.pieces.iter_mut() {
            if let Piece::Frame(slice) = piece {
                self.cost -= slice.frame_bytes() as u32;
                *piece = Piece::Heap(Heap::new(slice, slice.len()));
                self.cost += piece.cost() as u32;
            }
        }
    }

    /// What [`Run::compact`] would save, in bytes, roughly.
    pub(super) fn waste(&self, block_max: usize) -> usize {
        let blocks = self.len() / block_max + 1;
        self.memory().saturating_sub(self.len() + blocks * (BLOCK_OVERHEAD + size_of::<Piece>()))
    }

    /// Copies everything into full blocks. O(n).
    pub(super) fn compact(&mut self, block_max: usize) {
        let mut old = core::mem::take(self);
        let mut left = old.len();
        while let Some(piece) = old.pieces.pop_front() {
            let mut rest = piece.bytes();
            while !rest.is_empty() {
                let now = match self.pieces.back_mut() {
                    Some(Piece::Heap(heap)) if heap.room() > 0 => {
                        let later = heap.fill(rest);
                        self.len += (rest.len() - later.len()) as u32;
                        later
                    }
                    _ => {
                        let (now, later) = rest.split_at(rest.len().min(block_max));
                        self.push(Piece::Heap(Heap::new(now, left.min(block_max))));
                        later
                    }
                };
                left -= rest.len() - now.len();
                rest = now;
            }
        }
    }

    fn push(&mut self, piece: Piece) {
        self.len += piece.len() as u32;
        self.cost += piece.cost() as u32;
        self.pieces.push_back(piece);
    }

    /// Books out a piece that was taken from the deque, and gives back the deque's memory as it empties.
    fn forget(&mut self, piece: &Piece) {
        self.book_out(piece);
        self.trim();
    }

    fn book_out(&mut self, piece: &Piece) {
        self.len -= piece.len() as u32;
        self.cost -= piece.cost() as u32;
    }

    /// Where this run's last and `other`'s first block meet: makes one of two that fit into one.
    fn join(&mut self, other: &mut Self, block_max: usize) {
        let (Some(Piece::Heap(tail)), Some(Piece::Heap(head))) = (self.pieces.back(), other.pieces.front())
        else {
            return self.seal_tail();
        };
        if tail.bytes().len() + head.bytes().len() > block_max {
            return self.seal_tail();
        }
        if let Some(head) = other.pieces.pop_front() {
            other.forget(&head);
            self.push_joined(head.bytes(), block_max);
        }
    }

    /// Appends `bytes` to the last block, in place or by moving both to one that is large enough.
    fn push_joined(&mut self, bytes: &[u8], block_max: usize) {
        match self.pieces.pop_back() {
            Some(Piece::Heap(tail)) if tail.room() < bytes.len() => {
                self.len -= tail.bytes().len() as u32;
                self.cost -= (tail.block.len() + BLOCK_OVERHEAD) as u32;
                let len = tail.bytes().len() + bytes.len();
                let mut heap = Heap::new(tail.bytes(), len.next_power_of_two().clamp(BLOCK_MIN, block_max));
                heap.fill(bytes);
                self.push(Piece::Heap(heap));
            }
            Some(tail) => {
                self.pieces.push_back(tail);
                self.push_bytes(bytes, block_max);
            }
            None => self.push_bytes(bytes, block_max),
        }
    }

    /// The last block gets no more bytes: cuts off its unused end when that is worth the copy.
    fn seal_tail(&mut self) {
        let Some(Piece::Heap(tail)) = self.pieces.back_mut() else { return };
        let room = tail.room();
        if tail.block.len() > BLOCK_MIN && room > tail.block.len() / 8 {
            let before = tail.block.len();
            *tail = Heap::new(tail.bytes(), rounded(tail.bytes().len()).min(before));
            self.cost -= (before - tail.block.len()) as u32;
        }
    }
}

#[cfg(test)]
impl Run {
    /// Number of pieces.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Whether any piece is in a frame.
    pub(super) fn has_frames(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Frame(_)))
    }

    /// Panics unless the books are right.
    pub(super) fn check(&self) {
        assert_eq!(self.len(), self.pieces.iter().map(Piece::len).sum::<usize>());
        assert_eq!(self.cost as usize, self.pieces.iter().map(Piece::cost).sum::<usize>());
        assert!(self.pieces.iter().all(|piece| piece.len() > 0));
        assert!(self.pieces.len() >= self.pieces.capacity() / 4, "places for nothing");
        let books = self.pieces.capacity() * size_of::<Piece>();
        assert_eq!(self.memory(), books + self.pieces.iter().map(Piece::cost).sum::<usize>());
        assert!(!self.pieces.is_empty() || self.memory() == 0);
    }
}
