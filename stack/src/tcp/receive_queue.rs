//! What the peer sent: bytes in order that wait for the application, and runs that arrived ahead of a gap.
//!
//! Segments come from the engine as slices of the frames they arrived in and leave by [`ReceiveQueue::read`] or, without
//! a copy, [`ReceiveQueue::read_chunk`]. A frame is kept while that is cheap; short payload and, when the queue is half
//! full, all payload is copied into heap blocks that segments share. `cap_bytes` bounds the memory behind the queue, not
//! its payload: whole frames, blocks, tables, so that a peer who sends single bytes and holes gains nothing by it.
//! Reassembly: RFC 9293 section 3.10.7.4; reports: RFC 2018 section 4 and RFC 2883.

mod block;
mod pieces;
mod run;

use std::collections::BTreeMap;

pub use self::block::Block;
use self::run::{Data, Run};
use super::Chunk;
use super::options::SackBlocks;
use super::seq::SeqNumber;
use crate::limits::{TCP_RECEIVE_BUFFER_MAX as CAP_MAX, TCP_RECEIVE_BUFFER_MIN as CAP_MIN};
use crate::packet::PacketSlice;

/// What a run costs in the table of runs: 56 bytes in a node of 11 that is at least 5/11 full, and the nodes above.
const RUN_OVERHEAD: usize = 144;

/// The receive buffer of one connection.
#[derive(Debug)]
pub struct ReceiveQueue {
    /// In order, not yet read.
    ready: Run,
    /// What lies ahead of a gap, if anything does.
    ahead: Option<Box<Ahead>>,
    /// Stream offset behind the last byte in order. The low 32 bits are RCV.NXT.
    next: u64,
    /// There may be frames in the queue: worth a look when memory is short.
    has_frames: bool,
}

/// What waits for gaps to be filled.
#[derive(Debug, Default)]
struct Ahead {
    /// By stream offset; no two overlap or touch, and all begin behind `next`.
    runs: BTreeMap<u64, Run>,
    /// Bytes in `runs`.
    bytes: u32,
    /// Memory behind `runs`.
    memory: u32,
    /// Where the latest arrivals lay, latest first.
    recent: [SeqNumber; ReceiveQueue::RECENT],
    recent_len: u8,
}

/// What became of a segment's payload. All bytes are counted once, but for those before RCV.NXT or received before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Inserted {
    /// By how much RCV.NXT moved: the segment's own bytes and those that it joined to the stream.
    pub advanced: u32,
    /// Bytes that now wait behind a gap.
    pub new_out_of_order: u32,
    /// The first range of the segment that had been received before, for a D-SACK block (RFC 2883 section 4).
    pub duplicate: Option<(SeqNumber, SeqNumber)>,
    /// Bytes for which there was no room: behind [`ReceiveQueue::space`], or far ahead of a gap with the memory used up.
    pub dropped: u32,
}

impl ReceiveQueue {
    /// Shorter payload than this, or than a quarter of its frame, does not keep the frame.
    pub(super) const FRAME_PAYLOAD_MIN: usize = 512;
    const RECENT: usize = 4;

    /// An empty queue whose next byte is `rcv_nxt`.
    #[must_use]
    pub fn new(rcv_nxt: SeqNumber) -> Self {
        Self {
            ready: Run::default(),
            ahead: None,
            // Room below for offsets of old segments.
            next: 1 << 32 | u64::from(rcv_nxt.0),
            has_frames: false,
        }
    }

    /// Takes a segment's payload, slice by slice from `seq` on. What was received before is kept and the new copy of it
    /// dropped. `cap_bytes` bounds [`ReceiveQueue::memory`] (4 KiB to 1 GiB; others count as the nearest); bytes inside
    /// [`ReceiveQueue::space`] that are in order always find room, if need be in place of the farthest of those that are
    /// not. `copy`: frames are scarce, keep none. O(log n) a slice, and a copy of at most its length and two blocks.
    pub fn insert(
        &mut self,
        seq: SeqNumber,
        payload: impl IntoIterator<Item = PacketSlice>,
        cap_bytes: usize,
        copy: bool,
    ) -> Inserted {
        let mut insert = Insert::new(cap_bytes, copy);
        let mut at = self.offset(seq);
        let mut payload = payload.into_iter();
        while let Some(slice) = self.insert_frames(&mut at, &mut payload, &mut insert) {
            let len = slice.len() as u64;
            self.insert_data(at, Data::Frame(slice), &mut insert);
            at += len;
        }
        self.ready.trim();
        insert.inserted
    }

    /// As [`ReceiveQueue::insert`], for bytes that are in no frame.
    pub fn insert_bytes(&mut self, seq: SeqNumber, bytes: &[u8], cap_bytes: usize) -> Inserted {
        let mut insert = Insert::new(cap_bytes, true);
        let fits = self.memory() + insert.need(bytes.len()) <= insert.bound();
        let is_next = self.ahead.is_none() && seq == self.rcv_nxt();
        if is_next && fits && bytes.len() <= self.space(insert.cap) {
            // As the general way does it.
            self.next += bytes.len() as u64;
            self.ready.push_bytes(bytes, insert.block_max);
            insert.inserted.advanced = bytes.len() as u32;
            return insert.inserted;
        }
        self.insert_data(self.offset(seq), Data::Bytes(bytes), &mut insert);
        insert.inserted
    }

    /// Next sequence number expected.
    #[must_use]
    pub fn rcv_nxt(&self) -> SeqNumber {
        SeqNumber(self.next as u32)
    }

    /// Bytes that can be read.
    #[must_use]
    pub fn readable(&self) -> usize {
        self.ready.len()
    }

    /// Bytes that wait behind a gap.
    #[must_use]
    pub fn out_of_order_bytes(&self) -> usize {
        self.ahead.as_ref().map_or(0, |ahead| ahead.bytes as usize)
    }

    /// Whether bytes wait behind a gap.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        self.ahead.is_some()
    }

    /// Heap and frames behind the queue, in bytes: a frame counts whole, a block with its unused end.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.ready.memory() + self.ahead.as_ref().map_or(0, |ahead| ahead.memory as usize)
    }

    /// Bytes from RCV.NXT on that are sure to find room: the window to announce. It is what [`ReceiveQueue::window_max`]
    /// leaves beside the readable bytes, so taking in bytes lowers it by just as many, reading raises it, and the
    /// window's right edge never moves back while `cap_bytes` stays (RFC 9293 section 3.8.6, SHLD-14).
    #[must_use]
    pub fn space(&self, cap_bytes: usize) -> usize {
        Self::window_max(cap_bytes).saturating_sub(self.readable())
    }

    /// The window of an empty queue with this bound: three quarters of it, half below 64 KiB. The rest pays for what
    /// payload costs besides its bytes.
    #[must_use]
    pub const fn window_max(cap_bytes: usize) -> usize {
        if cap_bytes > CAP_MAX {
            CAP_MAX / 4 * 3
        } else if cap_bytes >= 64 << 10 {
            cap_bytes - cap_bytes / 4
        } else if cap_bytes > CAP_MIN {
            cap_bytes / 2
        } else {
            CAP_MIN / 2
        }
    }

    /// Copies bytes in order to `out` and drops them; returns how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        self.read_with(out.len(), |run| {
            out[copied..][..run.len()].copy_from_slice(run);
            copied += run.len();
        })
    }

    /// Gives up to `max` bytes in order to `take`, run by run, and drops them; returns how many.
    pub fn read_with(&mut self, max: usize, take: impl FnMut(&[u8])) -> usize {
        self.ready.read_with(max, take)
    }

    /// Copies bytes in order to `out` and keeps them; returns how many.
    pub fn peek(&self, out: &mut [u8]) -> usize {
        self.ready.peek(out)
    }

    /// Takes out the next bytes in order without a copy: as many as lie together, `None` when there are none. They no
    /// longer count as the queue's memory, though a frame is not back in the pool before the chunk is dropped.
    pub fn read_chunk(&mut self) -> Option<Chunk> {
        self.ready.pop_front()
    }

    /// The runs ahead of a gap, the one that changed last first, then the others that changed lately, then those next
    /// to RCV.NXT (RFC 2018 section 4). O(log n).
    #[must_use]
    pub fn sack_blocks(&self) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        let Some(ahead) = &self.ahead else { return blocks };
        let recent = ahead.recent[..usize::from(ahead.recent_len)].iter().filter_map(|seq| self.run_at(*seq));
        let first = ahead.runs.iter().take(Self::RECENT).map(|(start, run)| Self::block(*start, run));
        for block in recent.chain(first) {
            if !blocks.contains(&block) && !blocks.push(block) {
                break;
            }
        }
        blocks
    }

    /// Counts the peer's FIN, which comes next in order. Nothing can follow it: what lies behind a gap is dropped.
    pub fn accept_fin(&mut self) {
        self.drop_out_of_order();
        self.next += 1;
    }

    /// Copies everything that is in frames to the heap, so that the frames go back to their pool. O(n).
    pub fn release_frames(&mut self) {
        if !core::mem::take(&mut self.has_frames) {
            return;
        }
        self.ready.release_frames();
        let Some(ahead) = &mut self.ahead else { return };
        ahead.memory = 0;
        for run in ahead.runs.values_mut() {
            run.release_frames();
            ahead.memory += (run.memory() + RUN_OVERHEAD) as u32;
        }
    }

    /// Drops everything, read or not, and frees the memory. RCV.NXT stays.
    pub fn clear(&mut self) {
        self.ready = Run::default();
        self.drop_out_of_order();
        self.has_frames = false;
    }

    /// Stream offset of a sequence number less than 2^31 from RCV.NXT.
    fn offset(&self, seq: SeqNumber) -> u64 {
        self.next.wrapping_add_signed(i64::from(seq.since(self.rcv_nxt()) as i32))
    }

    /// Takes one slice: what was in order before is cut off at its front, what has no room at its end.
    fn insert_data(&mut self, at: u64, mut data: Data<'_>, insert: &mut Insert) {
        let end = at + data.len() as u64;
        if at < self.next {
            insert.duplicate(at, end.min(self.next));
        }
        let from = at.max(self.next);
        let until = end.min(self.next + self.space(insert.cap) as u64);
        insert.inserted.dropped += end.saturating_sub(from.max(until)) as u32;
        if from >= until {
            return;
        }
        data.cut((from - at) as usize..(until - at) as usize);
        if from == self.next {
            self.insert_in_order(data, insert);
        } else {
            self.insert_out_of_order(from, &data, insert);
        }
    }

    /// Takes what nearly every slice of a bulk transfer is: in order, with nothing ahead, within the window, and worth its frame,
    /// for which memory below half of the bound has room. The first that is not is given back.
    fn insert_frames(
        &mut self,
        at: &mut u64,
        slices: &mut impl Iterator<Item = PacketSlice>,
        insert: &mut Insert,
    ) -> Option<PacketSlice> {
        if *at != self.next || self.ahead.is_some() {
            return slices.next();
        }
        let before = self.ready.len();
        let mut room = self.space(insert.cap);
        let rest = self.ready.push_frames(slices, |slice, memory| {
            let keeps = slice.len() <= room && insert.keeps_frame(slice, memory);
            room -= if keeps { slice.len() } else { 0 };
            keeps
        });
        let taken = self.ready.len() - before;
        self.next += taken as u64;
        *at = self.next;
        insert.inserted.advanced += taken as u32;
        self.has_frames |= taken > 0;
        rest
    }

    fn insert_in_order(&mut self, data: Data<'_>, insert: &mut Insert) {
        // Whether or not it succeeds: the window promised room, and the sixteenth left over is enough for it.
        self.make_room(insert.need(data.len()), insert, 0);
        let before = self.next;
        if self.ahead.is_none() {
            self.next += data.len() as u64;
            insert.inserted.advanced += data.len() as u32;
            let memory = self.memory();
            self.has_frames |= insert.push(&mut self.ready, data, memory);
            return;
        }
        let mut ready = core::mem::take(&mut self.ready);
        self.next = self.extend(&mut ready, before, before, &data, insert);
        self.ready = ready;
        if self.ahead.as_ref().is_some_and(|ahead| ahead.runs.is_empty()) {
            self.ahead = None;
        }
        insert.inserted.advanced += (self.next - before) as u32;
    }

    fn insert_out_of_order(&mut self, at: u64, data: &Data<'_>, insert: &mut Insert) {
        let until = at + data.len() as u64;
        if !self.make_room(insert.need(data.len()) + RUN_OVERHEAD, insert, until) {
            insert.inserted.dropped += data.len() as u32;
            return;
        }
        let ahead = self.ahead.get_or_insert_default();
        let touched =
            ahead.runs.range(..=at).next_back().map(|(start, run)| (*start, start + run.len() as u64));
        let (start, end) = touched.filter(|(_, end)| *end >= at).unwrap_or((at, at));
        insert.duplicate(at, end.min(until));
        let before = ahead.bytes;
        let mut run = self.take_run(start).unwrap_or_default();
        let end = self.extend(&mut run, end, at, data, insert);
        self.put_run(start, run);
        insert.inserted.new_out_of_order += self.out_of_order_bytes() as u32 - before;
        self.note_recent(start, end);
    }

    /// Appends to `run`, which ends at `run_end >= at`, what is new of `data` at `at` and every run that it reaches.
    /// Returns where the run then ends.
    fn extend(&mut self, run: &mut Run, run_end: u64, at: u64, data: &Data<'_>, insert: &mut Insert) -> u64 {
        let until = at + data.len() as u64;
        let mut end = run_end;
        while end < until {
            let next_run =
                self.ahead.as_ref().and_then(|ahead| ahead.runs.range(end..).next()).map(|(start, _)| *start);
            let gap_end = next_run.unwrap_or(until).min(until);
            if gap_end > end {
                let mut part = data.clone();
                part.cut((end - at) as usize..(gap_end - at) as usize);
                let memory = self.memory() + run.memory();
                self.has_frames |= insert.push(run, part, memory);
                end = gap_end;
            }
            if let Some(other) = next_run.filter(|start| *start == end).and_then(|start| self.take_run(start))
            {
                let other_end = end + other.len() as u64;
                insert.duplicate(end, other_end.min(until));
                run.append(other, insert.block_max);
                end = other_end;
            }
        }
        end
    }

    /// Makes room for `need` bytes of memory: by copying out of frames and half-used blocks, then by dropping
    /// out-of-order data from `evict_from` on, farthest first (RFC 2018 section 8 allows that). Whether it succeeded.
    ///
    /// It costs O(1) a byte received, taken over time: frames are kept below half of the bound and copied at all of it, an
    /// eighth of the bound must be wasted before blocks are, and what is dropped was taken in once. A sixteenth of the
    /// bound is left for the growth of the books when runs meet.
    fn make_room(&mut self, need: usize, insert: &Insert, evict_from: u64) -> bool {
        let bound = insert.bound();
        if self.memory() + need <= bound {
            return true;
        }
        self.release_frames();
        if self.memory() + need > bound && self.ready.waste(insert.block_max) > insert.cap / 8 {
            self.ready.compact(insert.block_max);
        }
        while self.memory() + need > bound {
            if !self.evict_last(evict_from) {
                return false;
            }
        }
        true
    }

    /// Drops the last piece of the last run, if that run begins at `from` or later.
    fn evict_last(&mut self, from: u64) -> bool {
        let Some(ahead) = self.ahead.as_deref_mut() else { return false };
        let Some(mut last) = ahead.runs.last_entry().filter(|last| *last.key() >= from) else { return false };
        let run = last.get_mut();
        let before = run.memory();
        ahead.bytes -= run.pop_back() as u32;
        ahead.memory -= (before - run.memory()) as u32;
        if run.is_empty() {
            ahead.memory -= (run.memory() + RUN_OVERHEAD) as u32;
            last.remove();
        }
        if ahead.runs.is_empty() {
            self.ahead = None;
        }
        true
    }

    /// Takes out the run that begins at `start` and books it out.
    fn take_run(&mut self, start: u64) -> Option<Run> {
        let ahead = self.ahead.as_deref_mut()?;
        let run = ahead.runs.remove(&start)?;
        ahead.bytes -= run.len() as u32;
        ahead.memory -= (run.memory() + RUN_OVERHEAD) as u32;
        Some(run)
    }

    fn put_run(&mut self, start: u64, run: Run) {
        let ahead = self.ahead.get_or_insert_default();
        ahead.bytes += run.len() as u32;
        ahead.memory += (run.memory() + RUN_OVERHEAD) as u32;
        ahead.runs.insert(start, run);
    }

    fn drop_out_of_order(&mut self) {
        self.ahead = None;
    }

    /// Puts the run from `start` to `end` at the front of those that changed lately.
    fn note_recent(&mut self, start: u64, end: u64) {
        let mut recent = [SeqNumber(start as u32); Self::RECENT];
        let mut len = 1;
        let Some(mut ahead) = self.ahead.take() else { return };
        for seq in &ahead.recent[..usize::from(ahead.recent_len)] {
            let offset = self.offset(*seq);
            if len < Self::RECENT && offset > self.next && !(start..end).contains(&offset) {
                recent[len] = *seq;
                len += 1;
            }
        }
        (ahead.recent, ahead.recent_len) = (recent, len as u8);
        self.ahead = Some(ahead);
    }

    /// The block of the run that holds `seq`.
    fn run_at(&self, seq: SeqNumber) -> Option<(SeqNumber, SeqNumber)> {
        let offset = self.offset(seq);
        let (start, run) = self.ahead.as_ref()?.runs.range(..=offset).next_back()?;
        (offset < start + run.len() as u64).then(|| Self::block(*start, run))
    }

    fn block(start: u64, run: &Run) -> (SeqNumber, SeqNumber) {
        let start = SeqNumber(start as u32);
        (start, start + run.len() as u32)
    }
}

/// One segment on its way in.
struct Insert {
    cap: usize,
    block_max: usize,
    copy: bool,
    inserted: Inserted,
}

impl Insert {
    fn new(cap_bytes: usize, copy: bool) -> Self {
        let cap = cap_bytes.clamp(CAP_MIN, CAP_MAX);
        Self { cap, block_max: (cap / 32).clamp(256, 4096), copy, inserted: Inserted::default() }
    }

    /// What the queue's memory may come to, but for a sixteenth: room for the growth of the books when runs meet.
    fn bound(&self) -> usize {
        self.cap - self.cap / 16
    }

    /// The most memory that `len` bytes take when they are copied.
    #[inline]
    fn need(&self, len: usize) -> usize {
        // Most payload is shorter than a block, and a division costs as much as the rest.
        let full_blocks = if len < self.block_max { 0 } else { len / self.block_max };
        len + (full_blocks + 1) * 128 + self.block_max + 128
    }

    /// Appends one part of a segment to `run`, in its frame if that is worth it: then `true`. `memory`: what is behind the
    /// queue now.
    fn push(&self, run: &mut Run, data: Data<'_>, memory: usize) -> bool {
        match data {
            Data::Frame(slice) if self.keeps_frame(&slice, memory) => {
                run.push_frame(slice);
                true
            }
            data => {
                run.push_bytes(data.bytes(), self.block_max);
                false
            }
        }
    }

    /// Whether a slice stays in its frame: it makes use of the frame, would fit into a block if it had to be copied
    /// after all, and memory is not short.
    fn keeps_frame(&self, slice: &PacketSlice, memory: usize) -> bool {
        !self.copy
            && (ReceiveQueue::FRAME_PAYLOAD_MIN.max(slice.frame_bytes() / 4)..=self.block_max)
                .contains(&slice.len())
            && memory + slice.frame_bytes() <= self.cap / 2
    }

    /// Notes that `start..end` had been received before; the first such range of a segment counts.
    fn duplicate(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (start, end) = (SeqNumber(start as u32), SeqNumber(end as u32));
        match &mut self.inserted.duplicate {
            None => self.inserted.duplicate = Some((start, end)),
            Some((_, last)) if *last == start => *last = end,
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
