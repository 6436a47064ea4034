//! What the application wrote and the peer has not acknowledged, as blocks, from which segments of any length at any offset
//! are gathered, for the first time and again.
//!
//! Borrowed bytes are copied once, into blocks that small writes share: as large as what is queued in a row when it is
//! begun, between 1 and 64 KiB; only the first is smaller where a short message begins the queue. So a connection with one
//! request of 64 bytes outstanding keeps 128, a bulk sender 64 KiB blocks.
//! [`Bytes`] and received [`Chunk`]s that are handed over are kept as they are, unless they are short: they are read once, by
//! the copy into the frame that is sent. Any 64 KiB of the queue lie in at most [`PIECES_MAX`] blocks. Nothing is allocated
//! while the queue is empty.
//!
//! The bound given to each call counts what is queued, and of a chunk the whole frame or block that it keeps from others.
//! What a [`Bytes`] keeps alive beyond its own bytes it does not tell: that is the application's, who allocated it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Chunk;
use crate::limits::{TCP_BYTES_KEPT_MIN as BYTES_KEPT_MIN, TCP_CHUNK_KEPT_MIN as CHUNK_KEPT_MIN};
use crate::packet::prefetch;
use crate::spares::Shelf;

thread_local! {
    static BLOCKS: Shelf<Vec<u8>> = const { Shelf::new() };
    static BOOKS: Shelf<VecDeque<Block>> = const { Shelf::new() };
}

/// Smallest block: room for a request or a few small writes.
const BLOCK_MIN: usize = 1 << 10;
/// Shortest write that counts as a message, after which mostly an answer is waited for: shorter ones come in numbers.
const MESSAGE_MIN: usize = 32;
/// Largest block: the longest super-segment that is sent at a time.
const BLOCK_MAX: usize = 64 << 10;
/// Blocks that most segments touch.
const PIECES: usize = 10;
/// Blocks that a range of [`BLOCK_MAX`] bytes can touch: of two side by side one is kept and has 1 KiB, or the second was
/// begun when the first was full; but the queue's first may be shorter.
const PIECES_MAX: usize = 2 * BLOCK_MAX / CHUNK_KEPT_MIN + 5;

/// The send buffer of one connection.
#[derive(Debug, Default)]
pub struct SendQueue {
    blocks: Blocks,
    /// Bytes acknowledged since the queue was last empty: the offset of the queue's first byte.
    start: u64,
    /// `start` + bytes queued.
    end: u64,
    /// Sum of what the blocks keep.
    kept: usize,
    /// What chunks keep beyond their own bytes.
    excess: u32,
    /// Bytes copied since the last block that was not.
    copied: u32,
}

/// What the queue's bytes lie in. A message that waits for its acknowledgment needs no book of blocks.
#[derive(Debug)]
enum Blocks {
    /// A copy, which ends where the queue does, or without any capacity none.
    One(Vec<u8>),
    /// In stream order; of those that are copies, only one in front of a kept one or at the end has room.
    Many(VecDeque<Block>),
}

impl Default for Blocks {
    fn default() -> Self {
        Self::One(Vec::new())
    }
}

#[derive(Debug)]
struct Block {
    /// Offset of the first byte, counted as `SendQueue::start` is.
    start: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// Never grows beyond the capacity it was made with.
    Copy(Vec<u8>),
    Bytes(Bytes),
    Chunk(Chunk),
}

impl SendQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a copy of the front of `bytes` and returns how many: all that fit while the queue holds at most `cap_bytes`.
    pub fn push(&mut self, bytes: &[u8], cap_bytes: usize) -> usize {
        let accepted = bytes.len().min(self.room(cap_bytes));
        let mut rest = &bytes[..accepted];
        while !rest.is_empty() {
            let last = match &mut self.blocks {
                Blocks::One(copy) if copy.capacity() == 0 => None,
                Blocks::One(copy) => Some(copy),
                Blocks::Many(blocks) => blocks.back_mut().and_then(|block| block.data.copy_mut()),
            };
            let Some(copied) = last.and_then(|copy| append(copy, rest)) else {
                self.begin_block(rest.len());
                continue;
            };
            self.end += copied as u64;
            self.copied = self.copied.saturating_add(copied as u32);
            rest = &rest[copied..];
        }
        accepted
    }

    /// As [`SendQueue::push`], but takes what it accepts out of `bytes`, and keeps it without a copy if it is 4 KiB or more.
    pub fn push_bytes(&mut self, bytes: &mut Bytes, cap_bytes: usize) -> usize {
        let accepted = bytes.len().min(self.room(cap_bytes));
        let front = bytes.split_to(accepted);
        if accepted < BYTES_KEPT_MIN {
            return self.push(&front, cap_bytes);
        }
        self.keep(Data::Bytes(front));
        accepted
    }

    /// As [`SendQueue::push`], but takes what it accepts out of `chunk`, and keeps it without a copy if it is 1 KiB or more
    /// and a quarter of its frame, all chunks keep at most half of `cap_bytes`, and the frame's pool has enough others.
    pub fn push_chunk(&mut self, chunk: &mut Chunk, cap_bytes: usize) -> usize {
        let backing = chunk.backing_bytes();
        let is_worth_it = chunk.len() >= CHUNK_KEPT_MIN.max(backing / 4)
            && self.kept + backing <= cap_bytes / 2
            && chunk.len() <= self.room(cap_bytes)
            && !chunk.is_scarce();
        if !is_worth_it {
            let accepted = self.push(chunk, cap_bytes);
            chunk.advance(accepted);
            return accepted;
        }
        let accepted = chunk.len();
        let all = chunk.clone();
        chunk.advance(accepted);
        self.excess += (backing - accepted) as u32;
        self.keep(Data::Chunk(all));
        accepted
    }

    /// Bytes queued.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Gives `f` the queue's bytes from `offset` on, `len` of them or as many as there are, as runs in order: one for most
    /// segments, at most 133 for 64 KiB. O(log n) to find the first.
    pub fn pieces<R>(&self, offset: usize, len: usize, f: impl FnOnce(&[&[u8]]) -> R) -> R {
        let from = self.start.saturating_add(offset as u64).min(self.end);
        let until = from.saturating_add(len as u64).min(self.end);
        let blocks = match &self.blocks {
            Blocks::One(copy) => {
                let before_end = |offset: u64| copy.len() - (self.end - offset) as usize;
                let bytes = &copy[before_end(from)..before_end(until)];
                return if bytes.is_empty() { f(&[]) } else { f(&[bytes]) };
            }
            Blocks::Many(blocks) => blocks,
        };
        let is_in_front = blocks.front().is_some_and(|block| from < block.end());
        let first = if is_in_front { 0 } else { blocks.partition_point(|block| block.end() <= from) };
        if let Some(block) = blocks.get(first)
            && from < until
            && until <= block.end()
        {
            let (start, end) = ((from - block.start) as usize, (until - block.start) as usize);
            return f(&[&block.data.bytes()[start..end]]);
        }
        let blocks = blocks.range(first..).take_while(|block| from < until && block.start < until);
        let runs = blocks.map(|block| {
            let skip = from.saturating_sub(block.start) as usize;
            let end = (until.min(block.end()) - block.start) as usize;
            &block.data.bytes()[skip..end]
        });
        let mut few: [&[u8]; PIECES] = [&[]; PIECES];
        if let Some(count) = gather(runs.clone(), &mut few) {
            return f(&few[..count]);
        }
        let mut many: [&[u8]; PIECES_MAX] = [&[]; PIECES_MAX];
        match gather(runs.clone(), &mut many) {
            Some(count) => f(&many[..count]),
            None => f(&runs.collect::<Vec<_>>()),
        }
    }

    /// Copies the queue's bytes from `offset` on to `out` and returns how many there were.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> usize {
        self.pieces(offset, out.len(), |pieces| {
            pieces.iter().fold(0, |copied, piece| {
                out[copied..][..piece.len()].copy_from_slice(piece);
                copied + piece.len()
            })
        })
    }

    /// Drops the first `len` bytes (all when there are fewer) and frees the blocks that held nothing else. O(1) for
    /// each block freed.
    #[inline]
    pub fn acknowledge(&mut self, len: usize) {
        self.start = self.start.saturating_add(len as u64).min(self.end);
        if self.is_empty() {
            self.clear();
            return;
        }
        if let Blocks::Many(_) = self.blocks {
            self.free_acknowledged();
        }
    }

    fn free_acknowledged(&mut self) {
        let Blocks::Many(blocks) = &mut self.blocks else { return };
        while let Some(block) = blocks.front().filter(|block| block.end() <= self.start) {
            self.kept -= block.data.kept();
            self.excess -= block.data.excess() as u32;
            if let Some(block) = blocks.pop_front() {
                block.data.give_back();
            }
        }
        let _ = BOOKS.try_with(|books| books.trim(blocks));
    }

    /// Drops everything and frees the memory.
    #[inline]
    pub fn clear(&mut self) {
        match &mut self.blocks {
            Blocks::One(copy) => give_back(core::mem::take(copy)),
            Blocks::Many(_) => self.clear_many(),
        }
        (self.start, self.end, self.kept, self.excess, self.copied) = (0, 0, 0, 0, 0);
    }

    fn clear_many(&mut self) {
        if let Blocks::Many(mut blocks) = core::mem::take(&mut self.blocks) {
            blocks.drain(..).for_each(|block| block.data.give_back());
            let _ = BOOKS.try_with(|books| books.give(blocks));
        }
    }

    /// Memory that the queue keeps, in bytes: up to a block of acknowledged bytes at its front, and the unused room of
    /// copies, come on top of what is queued; a chunk's frame or block counts whole.
    #[must_use]
    pub fn memory(&self) -> usize {
        match &self.blocks {
            Blocks::One(_) => self.kept,
            Blocks::Many(blocks) => self.kept + blocks.capacity() * size_of::<Block>(),
        }
    }

    /// Begins to load the first block, or its entry, into the cache.
    pub(super) fn prefetch(&self) {
        match &self.blocks {
            Blocks::One(copy) => copy.first().into_iter().for_each(prefetch),
            Blocks::Many(blocks) => blocks.front().into_iter().for_each(prefetch),
        }
    }

    /// Bytes that may still be queued.
    fn room(&self, cap_bytes: usize) -> usize {
        cap_bytes.saturating_sub(self.len() + self.excess as usize)
    }

    /// Adds an empty block for copies, of which there are at least `wanted` bytes.
    fn begin_block(&mut self, wanted: usize) {
        let in_a_row = self.len().min(self.copied as usize);
        let is_message = self.is_empty() && wanted >= MESSAGE_MIN;
        let least = if is_message { BLOCK_MIN.min(2 * wanted) } else { BLOCK_MIN };
        let size = in_a_row.max(wanted).clamp(least, BLOCK_MAX).next_power_of_two();
        let copy = BLOCKS.with(|blocks| blocks.take(size));
        match &mut self.blocks {
            Blocks::One(none) if none.capacity() == 0 => {
                self.kept = copy.capacity();
                *none = copy;
            }
            _ => self.add(Data::Copy(copy)),
        }
    }

    /// Adds a block that is not a copy.
    fn keep(&mut self, data: Data) {
        let len = data.bytes().len() as u64;
        self.add(data);
        self.end += len;
        self.copied = 0;
    }

    fn add(&mut self, data: Data) {
        self.kept += data.kept();
        if let Blocks::One(copy) = &mut self.blocks {
            let copy = core::mem::take(copy);
            let mut blocks = VecDeque::new();
            if copy.capacity() > 0 {
                BOOKS.with(|books| books.make_room(&mut blocks, 2));
                blocks.push_back(Block { start: self.end - copy.len() as u64, data: Data::Copy(copy) });
            }
            self.blocks = Blocks::Many(blocks);
        }
        if let Blocks::Many(blocks) = &mut self.blocks {
            BOOKS.with(|books| books.make_room(blocks, 1));
            blocks.push_back(Block { start: self.end, data });
        }
    }
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.data.bytes().len() as u64
    }
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Copy(bytes) => bytes,
            Self::Bytes(bytes) => bytes,
            Self::Chunk(chunk) => chunk,
        }
    }

    /// Bytes of memory it keeps.
    fn kept(&self) -> usize {
        match self {
            Self::Copy(bytes) => bytes.capacity(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Chunk(chunk) => chunk.backing_bytes(),
        }
    }

    /// What a chunk keeps besides its bytes.
    fn excess(&self) -> usize {
        match self {
            Self::Chunk(chunk) => chunk.backing_bytes() - chunk.len(),
            Self::Copy(_) | Self::Bytes(_) => 0,
        }
    }

    fn give_back(self) {
        if let Self::Copy(bytes) = self {
            give_back(bytes);
        }
    }

    /// A copy, to append to.
    fn copy_mut(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Self::Copy(copy) => Some(copy),
            Self::Bytes(_) | Self::Chunk(_) => None,
        }
    }
}

#[inline]
fn give_back(mut copy: Vec<u8>) {
    if copy.capacity() == 0 {
        return;
    }
    copy.clear();
    let _ = BLOCKS.try_with(|blocks| blocks.give(copy));
}

/// Copies the front of `bytes` to the room behind a copy; `None` when there is none.
#[inline]
fn append(copy: &mut Vec<u8>, bytes: &[u8]) -> Option<usize> {
    let len = (copy.capacity() - copy.len()).min(bytes.len());
    copy.extend_from_slice(&bytes[..len]);
    (len > 0).then_some(len)
}

/// Writes the runs to `pieces` and returns how many there are; `None`: more than fit.
fn gather<'a>(mut runs: impl Iterator<Item = &'a [u8]>, pieces: &mut [&'a [u8]]) -> Option<usize> {
    let mut count = 0;
    for (place, run) in pieces.iter_mut().zip(&mut runs) {
        *place = run;
        count += 1;
    }
    runs.next().is_none().then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, PacketPool, PoolLayout};
    use proptest::prelude::*;

    fn bytes(queue: &SendQueue, offset: usize, len: usize) -> Vec<u8> {
        queue.pieces(offset, len, |pieces| pieces.concat())
    }

    /// Of each block: what kind it is, its bytes, what it keeps and what of that beyond them, and its first byte's offset.
    fn blocks(queue: &SendQueue) -> Vec<(&'static str, usize, usize, usize, u64)> {
        let of = |block: &Block| {
            let kind = match block.data {
                Data::Copy(_) => "copy",
                Data::Bytes(_) => "bytes",
                Data::Chunk(Chunk::Frame(_)) => "frame",
                Data::Chunk(Chunk::Heap(..)) => "heap",
            };
            (kind, block.data.bytes().len(), block.data.kept(), block.data.excess(), block.start)
        };
        match &queue.blocks {
            Blocks::One(copy) if copy.capacity() == 0 => Vec::new(),
            Blocks::One(copy) => {
                vec![("copy", copy.len(), copy.capacity(), 0, queue.end - copy.len() as u64)]
            }
            Blocks::Many(blocks) => blocks.iter().map(of).collect(),
        }
    }

    fn pool() -> PacketPool {
        PacketPool::heap(PoolLayout { frames: 256, frame_size: 2048, headroom: 64 })
    }

    /// A chunk of these bytes in a frame, at most 1984 of them.
    fn frame_chunk(pool: &PacketPool, bytes: &[u8]) -> Chunk {
        let packet = Packet::copy_from(pool, bytes).expect("a frame is free");
        Chunk::Frame(packet.into_slices(0..bytes.len()).next().expect("there are bytes"))
    }

    #[test]
    fn it_stays_small_and_costs_nothing_while_empty() {
        assert!(size_of::<SendQueue>() <= 64);
        let mut queue = SendQueue::new();
        assert_eq!(queue.memory(), 0);
        queue.push(&[1; 100_000], usize::MAX);
        queue.acknowledge(100_000);
        assert_eq!((queue.memory(), queue.len()), (0, 0));
    }

    #[test]
    fn the_cap_cuts_a_write() {
        let mut queue = SendQueue::new();
        assert_eq!(queue.push(&[1; 10], 4), 4);
        assert_eq!(queue.push(&[1; 10], 4), 0);
        assert_eq!(queue.push(&[1; 10], 2), 0, "a cap lowered below what is queued");
        queue.acknowledge(3);
        assert_eq!(queue.push(&[1; 10], 4), 3);
    }

    #[test]
    fn small_writes_share_a_block() {
        let mut queue = SendQueue::new();
        (0..1000u32).for_each(|i| assert_eq!(queue.push(&[i as u8], 4096), 1));
        assert_eq!(blocks(&queue).len(), 1);
        assert!(queue.memory() < 1500, "{}", queue.memory());
        assert_eq!(queue.pieces(3, 500, |pieces| pieces.len()), 1);
    }

    #[test]
    fn a_short_message_keeps_little_and_what_follows_it_as_usual() {
        let mut queue = SendQueue::new();
        queue.push(&[7; 64], 4096);
        assert!(queue.memory() <= 128 + 2 * size_of::<Block>(), "{}", queue.memory());
        queue.push(&[7; 65], 4096);
        assert!(queue.memory() >= BLOCK_MIN, "{}", queue.memory());
    }

    #[test]
    fn single_bytes_for_ever_stay_in_few_blocks() {
        let mut queue = SendQueue::new();
        (0..1 << 20).for_each(|_| assert_eq!(queue.push(&[7], 1 << 20), 1));
        assert!(queue.memory() <= (1 << 20) + BLOCK_MAX + 4096, "{}", queue.memory());
    }

    #[test]
    fn what_is_behind_the_end_is_nothing() {
        let mut queue = SendQueue::new();
        assert!(bytes(&queue, 0, 10).is_empty());
        queue.push(b"abc", 100);
        assert_eq!(bytes(&queue, 1, 10), b"bc");
        assert!(bytes(&queue, 3, 10).is_empty());
        assert!(bytes(&queue, usize::MAX, usize::MAX).is_empty());
        queue.acknowledge(usize::MAX);
        assert!(queue.is_empty());
    }

    #[test]
    fn many_blocks_are_gathered_too() {
        let mut queue = SendQueue::new();
        let written: Vec<u8> = (0..2_000_000u32).map(|i| (i / 7) as u8).collect();
        written.chunks(500).for_each(|chunk| assert_eq!(queue.push(chunk, usize::MAX), chunk.len()));
        assert_eq!(bytes(&queue, 0, usize::MAX), written);
    }

    #[test]
    fn bytes_handed_over_are_kept_where_they_are_until_acknowledged() {
        let mut queue = SendQueue::new();
        let mut handed = Bytes::from(vec![7; 10_000]);
        let (place, witness) = (handed.as_ptr(), handed.clone());
        assert_eq!(queue.push_bytes(&mut handed, usize::MAX), 10_000);
        assert!(handed.is_empty());
        drop(handed);
        queue.pieces(0, 10_000, |pieces| assert_eq!(pieces[0].as_ptr(), place));
        assert!((10_000..11_000).contains(&queue.memory()), "{}", queue.memory());
        queue.acknowledge(9_999);
        assert!(!witness.is_unique(), "a byte is still to be acknowledged");
        queue.acknowledge(1);
        assert!(witness.is_unique());
    }

    #[test]
    fn short_bytes_are_copied_and_let_go() {
        let mut queue = SendQueue::new();
        let large = Bytes::from(vec![7; 1 << 20]);
        let mut handed = large.slice(100..100 + BYTES_KEPT_MIN - 1);
        assert_eq!(queue.push_bytes(&mut handed, usize::MAX), BYTES_KEPT_MIN - 1);
        drop(handed);
        assert!(large.is_unique(), "a megabyte is not kept for 4 KiB of it");
    }

    #[test]
    fn the_cap_cuts_bytes_handed_over_and_leaves_the_rest_with_the_caller() {
        let mut queue = SendQueue::new();
        let mut handed = Bytes::from((0..20_000u32).map(|i| i as u8).collect::<Vec<_>>());
        let whole = handed.clone();
        assert_eq!(queue.push_bytes(&mut handed, 15_000), 15_000);
        assert_eq!(handed, whole[15_000..]);
        assert_eq!(queue.push_bytes(&mut handed, 15_000), 0);
        assert_eq!(bytes(&queue, 0, usize::MAX), whole[..15_000]);
    }

    #[test]
    fn a_chunk_is_kept_in_its_frame_which_counts_whole() {
        let pool = pool();
        let mut queue = SendQueue::new();
        let mut chunk = frame_chunk(&pool, &[7; 1448]);
        let place = chunk.as_ptr();
        assert_eq!(queue.push_chunk(&mut chunk, 8192), 1448);
        assert!(chunk.is_empty());
        drop(chunk);
        queue.pieces(0, 1448, |pieces| assert_eq!(pieces[0].as_ptr(), place));
        assert_eq!(pool.shared_frames(), 1);
        assert_eq!(queue.push(&[0; 8192], 8192), 8192 - 2048, "the frame takes 2048 of the bound");
        queue.acknowledge(1448);
        assert_eq!(pool.shared_frames(), 0);
        assert_eq!(queue.push(&[0; 8192], 8192), 2048);
    }

    #[test]
    fn chunks_that_use_little_of_their_frame_are_copied() {
        let pool = pool();
        let mut queue = SendQueue::new();
        for len in [100, CHUNK_KEPT_MIN - 1] {
            let mut chunk = frame_chunk(&pool, &vec![7; len]);
            assert_eq!(queue.push_chunk(&mut chunk, usize::MAX), len);
            drop(chunk);
            assert_eq!(pool.shared_frames(), 0, "{len}");
        }
        let block: std::rc::Rc<[u8]> = vec![7; 8192].into();
        let mut chunk = Chunk::Heap(block.clone().into(), 0..2000);
        assert_eq!(queue.push_chunk(&mut chunk, usize::MAX), 2000);
        drop(chunk);
        assert_eq!(std::rc::Rc::strong_count(&block), 1);
    }

    #[test]
    fn chunks_are_copied_while_readers_hold_too_much_of_the_pool() {
        let pool = pool();
        let mut queue = SendQueue::new();
        let most = pool.layout().frames / crate::limits::SHARED_FRAMES_FRACTION;
        for _ in 0..2 * most {
            let mut chunk = frame_chunk(&pool, &[7; 1448]);
            assert_eq!(queue.push_chunk(&mut chunk, usize::MAX), 1448);
        }
        assert_eq!(pool.shared_frames(), most);
        assert_eq!(bytes(&queue, 0, usize::MAX), vec![7; 2 * most as usize * 1448]);
    }

    #[test]
    fn chunks_keep_half_of_the_bound_at_most() {
        let pool = pool();
        let mut queue = SendQueue::new();
        for _ in 0..20 {
            let mut chunk = frame_chunk(&pool, &[7; 1024]);
            assert_eq!(queue.push_chunk(&mut chunk, 40 << 10), 1024);
        }
        assert_eq!(pool.shared_frames(), 10);
    }

    #[test]
    fn small_writes_between_kept_blocks_begin_small_blocks() {
        let mut queue = SendQueue::new();
        for _ in 0..100 {
            queue.push(b"header", usize::MAX);
            queue.push_bytes(&mut Bytes::from(vec![7; 8192]), usize::MAX);
        }
        assert!(queue.memory() < 100 * (8192 + BLOCK_MIN) + 200 * 64, "{}", queue.memory());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        PushBytes(usize),
        PushFrame(usize),
        PushHeap(usize, usize),
        Acknowledge(usize),
        Gather(usize, usize),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = || prop_oneof![4 => 0usize..40, 4 => 0usize..3000, 1 => 0usize..200_000];
        prop_oneof![
            30 => len().prop_map(Step::Push),
            10 => len().prop_map(Step::PushBytes),
            10 => (1usize..1985).prop_map(Step::PushFrame),
            10 => (1usize..4000, 0usize..4000).prop_map(|(len, unused)| Step::PushHeap(len, unused)),
            20 => len().prop_map(Step::Acknowledge),
            20 => (len(), len()).prop_map(|(offset, len)| Step::Gather(offset, len)),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        /// Against a plain vector: the same bytes at every offset, in few pieces, in memory near to what is queued; whatever
        /// of it was copied and whatever kept.
        #[test]
        fn behaves_as_a_vector(cap in 1usize..500_000, steps in prop::collection::vec(step(), 0..120)) {
            let (pool, mut queue, mut model, mut written) = (pool(), SendQueue::new(), Vec::<u8>::new(), 0u32);
            for step in steps {
                let more = |len: usize| -> Vec<u8> {
                    (0..len as u32).map(|i| ((written.wrapping_add(i)).wrapping_mul(31) >> 3) as u8).collect()
                };
                let room = cap.saturating_sub(model.len() + queue.excess as usize);
                let offered = match step {
                    Step::Push(len) => {
                        let bytes = more(len);
                        Some((queue.push(&bytes, cap), bytes))
                    }
                    Step::PushBytes(len) => {
                        let (bytes, mut handed) = (more(len), Bytes::from(more(len)));
                        let taken = queue.push_bytes(&mut handed, cap);
                        prop_assert_eq!(&handed[..], &bytes[taken..]);
                        Some((taken, bytes))
                    }
                    Step::PushFrame(len) => {
                        let bytes = more(len);
                        let mut chunk = frame_chunk(&pool, &bytes);
                        let taken = queue.push_chunk(&mut chunk, cap);
                        prop_assert_eq!(&chunk[..], &bytes[taken..]);
                        Some((taken, bytes))
                    }
                    Step::PushHeap(len, unused) => {
                        let bytes = more(len);
                        let block: std::rc::Rc<[u8]> = [&vec![0; unused][..], &bytes].concat().into();
                        let mut chunk = Chunk::Heap(block.into(), unused..unused + len);
                        let taken = queue.push_chunk(&mut chunk, cap);
                        prop_assert_eq!(&chunk[..], &bytes[taken..]);
                        Some((taken, bytes))
                    }
                    Step::Acknowledge(len) => {
                        queue.acknowledge(len);
                        model.drain(..len.min(model.len()));
                        None
                    }
                    Step::Gather(offset, len) => {
                        let expected = &model[offset.min(model.len())..offset.saturating_add(len).min(model.len())];
                        let (got, pieces) = queue.pieces(offset, len, |pieces| {
                            assert!(pieces.iter().all(|piece| !piece.is_empty()));
                            (pieces.concat(), pieces.len())
                        });
                        prop_assert_eq!(&got[..], expected);
                        prop_assert!(len > BLOCK_MAX || pieces <= PIECES_MAX);
                        let mut copy = vec![0; len];
                        prop_assert_eq!(queue.copy_to(offset, &mut copy), expected.len());
                        prop_assert_eq!(&copy[..expected.len()], expected);
                        None
                    }
                    Step::Clear => {
                        queue.clear();
                        model.clear();
                        None
                    }
                };
                if let Some((taken, bytes)) = offered {
                    prop_assert_eq!(taken, bytes.len().min(room));
                    model.extend_from_slice(&bytes[..taken]);
                    written = written.wrapping_add(taken as u32);
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
                let blocks = blocks(&queue);
                prop_assert_eq!(queue.kept, blocks.iter().map(|block| block.2).sum::<usize>());
                prop_assert_eq!(queue.excess as usize, blocks.iter().map(|block| block.3).sum::<usize>());
                let copied: usize = blocks.iter().filter(|block| block.0 == "copy").map(|block| block.1).sum();
                let kept_blocks = blocks.iter().filter(|block| block.0 != "copy").count();
                let is_chunk = |kind: &str| kind == "frame" || kind == "heap";
                let chunked: usize = blocks.iter().filter(|block| is_chunk(block.0)).map(|block| block.2).sum();
                prop_assert!(chunked <= cap / 2);
                // A copy's unused room is at most what was copied in a row before it, or the smallest block; and of the first
                // block what was acknowledged is still there.
                let behind = blocks.first().map_or(0, |first| (queue.start - first.4) as usize);
                let bound = model.len() + behind + queue.excess as usize + copied + 2 * BLOCK_MAX + (kept_blocks + 4) * 2 * BLOCK_MIN;
                prop_assert!(queue.memory() <= bound, "{} > {bound}", queue.memory());
                prop_assert!(!model.is_empty() || queue.memory() == 0);
                let frames = blocks.iter().filter(|block| block.0 == "frame").count();
                prop_assert_eq!(pool.shared_frames() as usize, frames);
            }
        }

        /// The bound on pieces holds for any history of writes, copied or kept, and acknowledgments; most of it without
        /// what is kept.
        #[test]
        fn sixty_four_kib_are_few_pieces(
            steps in prop::collection::vec((1usize..4000, 0usize..4000, 0u8..3), 1..300),
            copy_all in any::<bool>(),
        ) {
            let (mut queue, bound) = (SendQueue::new(), if copy_all { PIECES } else { PIECES_MAX });
            for (write, acknowledge, kind) in steps {
                match kind {
                    0 if !copy_all => {
                        let block: std::rc::Rc<[u8]> = vec![1; write.max(CHUNK_KEPT_MIN)].into();
                        let len = block.len();
                        queue.push_chunk(&mut Chunk::Heap(block.into(), 0..len), usize::MAX);
                    }
                    1 if !copy_all => drop(queue.push(&[1], usize::MAX)),
                    _ => drop(queue.push(&vec![1; write], usize::MAX)),
                }
                queue.acknowledge(acknowledge);
                for offset in [0, 1, queue.len() / 3, queue.len() / 2] {
                    prop_assert!(queue.pieces(offset, BLOCK_MAX, |pieces| pieces.len()) <= bound);
                }
            }
        }
    }
}
