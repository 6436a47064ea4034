//! What the application wrote and the peer has not acknowledged: bytes copied once into blocks, from which segments of
//! any length at any offset are gathered, for the first time and again.
//!
//! Small writes share a block. A block is as large as what is queued when it is begun, between 1 and 64 KiB: a connection
//! with one request outstanding keeps 1 KiB, a bulk sender 64 KiB blocks, and any 64 KiB of the queue lie in at most ten
//! blocks. Nothing is allocated while the queue is empty.

use std::collections::VecDeque;

/// Smallest block: room for a request or a few small writes.
const BLOCK_MIN: usize = 1 << 10;
/// Largest block: the longest super-segment that is sent at a time.
const BLOCK_MAX: usize = 64 << 10;
/// Blocks that a range of [`BLOCK_MAX`] bytes can touch. A block behind the first of the range has at least the size of
/// what the range held before it, as that was still queued: 1 (the first, from its last byte on), 1 KiB, 1, 2, ... 64 KiB.
const PIECES: usize = 10;

/// The send buffer of one connection.
#[derive(Debug, Default)]
pub struct SendQueue {
    /// In stream order; all but the last are full.
    blocks: VecDeque<Block>,
    /// Bytes acknowledged since the queue was last empty: the offset of the queue's first byte.
    start: u64,
    /// `start` + bytes queued.
    end: u64,
    /// Sum of the blocks' capacities.
    capacity: usize,
}

#[derive(Debug)]
struct Block {
    /// Offset of the first byte, counted as `SendQueue::start` is.
    start: u64,
    /// Never grows beyond the capacity it was made with.
    bytes: Vec<u8>,
}

impl SendQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the front of `bytes` and returns how many: all that fit while the queue holds at most `cap_bytes`.
    pub fn push(&mut self, bytes: &[u8], cap_bytes: usize) -> usize {
        let accepted = bytes.len().min(cap_bytes.saturating_sub(self.len()));
        let mut rest = &bytes[..accepted];
        while !rest.is_empty() {
            let block = match self.blocks.back_mut().filter(|block| block.room() > 0) {
                Some(block) => block,
                None => self.begin_block(rest.len()),
            };
            let (now, later) = rest.split_at(block.room().min(rest.len()));
            block.bytes.extend_from_slice(now);
            self.end += now.len() as u64;
            rest = later;
        }
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

    /// Gives `f` the queue's bytes from `offset` on, `len` of them or as many as there are, as runs in order. At most
    /// 10 runs for 64 KiB, one for most segments. O(log n) to find the first.
    pub fn pieces<R>(&self, offset: usize, len: usize, f: impl FnOnce(&[&[u8]]) -> R) -> R {
        let from = self.start.saturating_add(offset as u64).min(self.end);
        let until = from.saturating_add(len as u64).min(self.end);
        let first = self.blocks.partition_point(|block| block.end() <= from);
        let mut runs =
            self.blocks.range(first..).take_while(|block| from < until && block.start < until).map(|block| {
                let skip = from.saturating_sub(block.start) as usize;
                let end = (until - block.start).min(block.bytes.len() as u64) as usize;
                &block.bytes[skip..end]
            });
        let mut pieces: [&[u8]; PIECES] = [&[]; PIECES];
        let mut count = 0;
        for (place, run) in pieces.iter_mut().zip(&mut runs) {
            *place = run;
            count += 1;
        }
        match runs.next() {
            None => f(&pieces[..count]),
            Some(next) => f(&pieces.into_iter().chain([next]).chain(runs).collect::<Vec<_>>()),
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
    pub fn acknowledge(&mut self, len: usize) {
        self.start = self.start.saturating_add(len as u64).min(self.end);
        if self.is_empty() {
            self.clear();
            return;
        }
        while let Some(block) = self.blocks.front().filter(|block| block.end() <= self.start) {
            self.capacity -= block.bytes.capacity();
            self.blocks.pop_front();
        }
        if self.blocks.len() < self.blocks.capacity() / 4 {
            self.blocks.shrink_to(self.blocks.len() * 2);
        }
    }

    /// Drops everything and frees the memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes on the heap: up to 64 KiB of acknowledged bytes in the first block and as much unused room in the last
    /// one come on top of what is queued.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.capacity + self.blocks.capacity() * size_of::<Block>()
    }

    /// Adds an empty block for at least one of `wanted` bytes.
    fn begin_block(&mut self, wanted: usize) -> &mut Block {
        let size = self.len().max(wanted).clamp(BLOCK_MIN, BLOCK_MAX).next_power_of_two();
        let bytes = Vec::with_capacity(size);
        self.capacity += bytes.capacity();
        self.blocks.push_back(Block { start: self.end, bytes });
        self.blocks.back_mut().expect("just pushed")
    }
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(queue: &SendQueue, offset: usize, len: usize) -> Vec<u8> {
        queue.pieces(offset, len, |pieces| pieces.concat())
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
        assert_eq!(queue.blocks.len(), 1);
        assert!(queue.memory() < 1500, "{}", queue.memory());
        assert_eq!(queue.pieces(3, 500, |pieces| pieces.len()), 1);
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

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Acknowledge(usize),
        Gather(usize, usize),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = || prop_oneof![4 => 0usize..40, 4 => 0usize..3000, 1 => 0usize..200_000];
        prop_oneof![
            40 => len().prop_map(Step::Push),
            20 => len().prop_map(Step::Acknowledge),
            20 => (len(), len()).prop_map(|(offset, len)| Step::Gather(offset, len)),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        /// Against a plain vector: the same bytes at every offset, in few pieces, in memory near to what is queued.
        #[test]
        fn behaves_as_a_vector(cap in 1usize..500_000, steps in prop::collection::vec(step(), 0..120)) {
            let (mut queue, mut model, mut written) = (SendQueue::new(), Vec::<u8>::new(), 0u32);
            for step in steps {
                match step {
                    Step::Push(len) => {
                        let more: Vec<u8> = (0..len as u32).map(|i| (((written + i) * 31) >> 3) as u8).collect();
                        let taken = queue.push(&more, cap);
                        prop_assert_eq!(taken, len.min(cap - model.len()));
                        model.extend_from_slice(&more[..taken]);
                        written += taken as u32;
                    }
                    Step::Acknowledge(len) => {
                        queue.acknowledge(len);
                        model.drain(..len.min(model.len()));
                    }
                    Step::Gather(offset, len) => {
                        let expected = &model[offset.min(model.len())..offset.saturating_add(len).min(model.len())];
                        let (got, pieces) = queue.pieces(offset, len, |pieces| {
                            assert!(pieces.iter().all(|piece| !piece.is_empty()));
                            (pieces.concat(), pieces.len())
                        });
                        prop_assert_eq!(&got[..], expected);
                        prop_assert!(len > BLOCK_MAX || pieces <= PIECES);
                        let mut copy = vec![0; len];
                        prop_assert_eq!(queue.copy_to(offset, &mut copy), expected.len());
                        prop_assert_eq!(&copy[..expected.len()], expected);
                    }
                    Step::Clear => {
                        queue.clear();
                        model.clear();
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(queue.capacity, queue.blocks.iter().map(|block| block.bytes.capacity()).sum::<usize>());
                prop_assert!(queue.memory() <= model.len() + 2 * BLOCK_MAX + 4 * BLOCK_MIN);
                prop_assert!(!model.is_empty() || queue.memory() == 0);
            }
        }

        /// The bound on pieces holds for any history of small and large writes and acknowledgments.
        #[test]
        fn sixty_four_kib_are_few_pieces(
            steps in prop::collection::vec((1usize..4000, 0usize..4000), 1..300)
        ) {
            let mut queue = SendQueue::new();
            for (write, acknowledge) in steps {
                queue.push(&vec![1; write], usize::MAX);
                queue.acknowledge(acknowledge);
                for offset in [0, 1, queue.len() / 3, queue.len() / 2] {
                    prop_assert!(queue.pieces(offset, BLOCK_MAX, |pieces| pieces.len()) <= PIECES);
                }
            }
        }
    }
}
