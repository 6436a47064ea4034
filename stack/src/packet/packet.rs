//! A packet: one owned frame and where its bytes lie in it, plus further frames for packets longer than one (MTU 9000
//! over AF_XDP arrives as several). Packets come from the driver or from [`Packet::alloc`]; they end in the driver's TX
//! ring, in a receive queue as [`PacketSlice`]s, or back in the pool when dropped.
//!
//! Several TCP segments of one flow may be merged into one packet ([`Packet::merge`], by `offload::gro`): its bytes are the
//! first one's headers and then the payload of all, as one long segment has them. The headers of the others stay where
//! they were, in front of their payload, and [`Packet::into_packets`] gives the packets back as they came.

use core::ops::Range;

use super::chain::{Rest, Segment};
use super::pool::{Frame, FrameRef, PacketPool};
use crate::parse::Parsed;

/// A packet in frames of a pool.
#[derive(Debug)]
pub struct Packet {
    head: Segment,
    rest: Rest,
    /// What [`crate::parse`] found; default until then. Of a merged packet: the first one's, with `end` behind all payload.
    pub parsed: Parsed,
}

impl Packet {
    /// An empty packet in a fresh frame, starting at the pool's headroom; `None` when the pool is empty.
    #[must_use]
    pub fn alloc(pool: &PacketPool) -> Option<Self> {
        let frame = pool.alloc()?;
        let start = frame.layout().headroom as usize;
        Self::from_frame(frame, start, 0)
    }

    /// The packet a driver received into `frame` at `start..start + len`. `None` when that is not inside the frame.
    #[must_use]
    pub fn from_frame(frame: Frame, start: usize, len: usize) -> Option<Self> {
        Some(Self::from_head(Segment::new(frame, start, len)?))
    }

    fn from_head(head: Segment) -> Self {
        Self { head, rest: Rest::default(), parsed: Parsed::default() }
    }

    /// Copies `bytes` into as many frames as they need, each from the pool's headroom on, as drivers send them; `None` when
    /// the pool has too few.
    #[must_use]
    pub fn copy_from(pool: &PacketPool, bytes: &[u8]) -> Option<Self> {
        let mut packet = Self::alloc(pool)?;
        let room = packet.tailroom().min(bytes.len());
        packet.append(room)?.copy_from_slice(&bytes[..room]);
        let mut rest = &bytes[room..];
        while !rest.is_empty() {
            let mut frame = pool.alloc()?;
            let start = frame.layout().headroom as usize;
            let room = &mut frame.bytes_mut()[start..];
            let len = rest.len().min(room.len());
            if len == 0 {
                return None;
            }
            room[..len].copy_from_slice(&rest[..len]);
            packet.push_frame(frame, start, len)?;
            rest = &rest[len..];
        }
        Some(packet)
    }

    /// Adds a frame to the end (multi-buffer). `None`, and the frame is freed, when `start..start + len` is not inside it.
    pub fn push_frame(&mut self, frame: Frame, start: usize, len: usize) -> Option<()> {
        self.rest.push_back(Segment::new(frame, start, len)?);
        Some(())
    }

    /// The pool the packet's frames belong to.
    #[must_use]
    pub fn pool(&self) -> PacketPool {
        self.head.frame.pool()
    }

    /// Length of the whole packet in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        let head = usize::from(self.head.len);
        if self.rest.is_empty() {
            return head;
        }
        head + self.rest.iter().map(|segment| usize::from(segment.len)).sum::<usize>()
    }

    /// Whether the packet has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all of the packet's frames are of `pool`, so that a driver of that pool can take them as they are.
    #[must_use]
    pub fn is_in(&self, pool: &PacketPool) -> bool {
        self.all_segments().all(|segment| segment.frame.is_of(pool))
    }

    /// Whether every frame has bytes of the packet and they begin at `start` there.
    #[must_use]
    pub fn starts_at(&self, start: usize) -> bool {
        self.all_segments().all(|segment| usize::from(segment.start) == start && segment.len > 0)
    }

    /// Number of frames, at least 1.
    #[must_use]
    pub fn frames(&self) -> usize {
        1 + self.rest.len()
    }

    fn all_segments(&self) -> impl Iterator<Item = &Segment> {
        core::iter::once(&self.head).chain(self.rest.iter())
    }

    /// The bytes in the first frame: all of them unless the packet has several frames. Headers are always here.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.head.bytes()
    }

    /// The bytes in the first frame, to write.
    #[must_use]
    pub fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head.frame.bytes_mut()[usize::from(self.head.start)..][..usize::from(self.head.len)]
    }

    /// The packet's bytes frame by frame.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        self.all_segments().map(Segment::bytes)
    }

    /// The pieces of `range` (offsets from the packet's first byte), frame by frame; clipped to the packet.
    pub fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let mut offset = 0;
        self.segments().filter_map(move |bytes| {
            let clip = clip(&range, offset, bytes.len());
            offset += bytes.len();
            (!clip.is_empty()).then(|| &bytes[clip])
        })
    }

    /// The whole packet as one run of bytes in `scratch`.
    pub fn copy_to(&self, scratch: &mut Vec<u8>) {
        scratch.clear();
        self.segments().for_each(|bytes| scratch.extend_from_slice(bytes));
    }

    /// Bytes free before the packet in its first frame.
    #[must_use]
    pub fn headroom(&self) -> usize {
        usize::from(self.head.start)
    }

    /// Bytes free behind the packet in its first frame; 0 when it has several frames.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        if self.rest.is_empty() {
            self.head.frame.bytes().len() - usize::from(self.head.start) - usize::from(self.head.len)
        } else {
            0
        }
    }

    /// Grows the packet by `len` bytes at its front and returns them; `None` when the headroom is smaller.
    pub fn prepend(&mut self, len: usize) -> Option<&mut [u8]> {
        let start = usize::from(self.head.start).checked_sub(len)?;
        self.head.start = start as u16;
        self.head.len += len as u16;
        Some(&mut self.head_mut()[..len])
    }

    /// Grows the packet by `len` bytes at its end and returns them (not zeroed); `None` when the tailroom is smaller.
    pub fn append(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > self.tailroom() {
            return None;
        }
        let old = usize::from(self.head.len);
        self.head.len += len as u16;
        Some(&mut self.head_mut()[old..])
    }

    /// Cuts the packet to at most `len` bytes (drops Ethernet padding, for one) and frees frames no longer needed.
    pub fn truncate(&mut self, len: usize) {
        let mut left = len;
        self.head.truncate(&mut left);
        self.rest.truncate(left);
    }

    /// The frames with start and length of their bytes, to hand to a ring. A merged packet must be taken apart before: the
    /// headers behind the first would be missing.
    pub fn into_frames(self) -> impl Iterator<Item = (Frame, usize, usize)> {
        debug_assert!(!self.is_merged(), "merged packets are cut before they are sent");
        self.into_segments().map(|segment| (segment.frame, segment.start.into(), segment.len.into()))
    }

    /// Gives up the packet for read-only slices of its bytes in `range`, one a frame; frames outside it are freed. The
    /// iterator's upper bound is the number of frames.
    pub fn into_slices(self, range: Range<usize>) -> impl Iterator<Item = PacketSlice> {
        let Self { head, rest, .. } = self;
        Slices { head: Some(head), rest, skip: range.start, left: range.len() }
    }

    fn into_segments(self) -> impl Iterator<Item = Segment> {
        let Self { head, rest, .. } = self;
        core::iter::once(head).chain(rest)
    }
}

/// The slices of a packet.
struct Slices {
    head: Option<Segment>,
    rest: Rest,
    /// Bytes to pass over before the first slice.
    skip: usize,
    /// Bytes to give.
    left: usize,
}

impl Iterator for Slices {
    type Item = PacketSlice;

    // In the caller's loop, a slice stays in registers between the packet's list and the caller's.
    #[inline(always)]
    fn next(&mut self) -> Option<PacketSlice> {
        loop {
            let Segment { frame, start, len, .. } = match self.head.take() {
                Some(head) => head,
                None => self.rest.pop_front()?,
            };
            let len = usize::from(len);
            let front = self.skip.min(len);
            self.skip -= front;
            let len = self.left.min(len - front);
            self.left -= len;
            if len > 0 {
                return Some(PacketSlice(frame.share_run(start + front as u16, len as u16)));
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.rest.len() + usize::from(self.head.is_some())))
    }
}

/// Merged packets.
impl Packet {
    /// Appends the payload of `next`, which follows this packet's in the stream: no byte is copied, and `next`'s headers stay
    /// in front of its payload. Both are parsed TCP segments whose headers are of one length and lie in the first frame.
    /// What is behind the packets' ends (Ethernet padding) is cut off.
    pub fn merge(&mut self, next: Self) {
        debug_assert_eq!(next.parsed.payload, self.parsed.payload, "headers of one length");
        let end = next.parsed.end;
        self.merge_until(next, end);
    }

    /// As [`Packet::merge`], for a packet whose [`Packet::parsed`] is not filled in: it ends at `end`, and its headers are as long
    /// as this one's.
    pub(crate) fn merge_until(&mut self, next: Self, end: u32) {
        let headers = self.parsed.payload;
        debug_assert!(!next.is_merged() && next.head.len >= headers && end >= u32::from(headers));
        if !self.is_merged() {
            self.truncate(self.parsed.end as usize);
        }
        self.parsed.end += end - u32::from(headers);
        let Self { head: Segment { frame, start, len, .. }, mut rest, .. } = next;
        let here = u32::from(len).min(end);
        rest.truncate((end - here) as usize);
        // Put together anew: a part that was changed just now would hold up the copy of the whole.
        let (start, len) = (start + headers, here as u16 - headers);
        self.rest.push_packet(Segment { frame, start, len, headers });
        while let Some(segment) = rest.pop_front() {
            self.rest.push_back(segment);
        }
    }

    /// How many packets were merged into this one, itself included: at least 1.
    #[must_use]
    pub fn packets(&self) -> u16 {
        1 + self.rest.packets()
    }

    /// Whether it is merged from several.
    #[must_use]
    pub fn is_merged(&self) -> bool {
        self.rest.packets() > 0
    }

    /// Payload bytes of the first packet merged into this one. Of a merged packet every other has as many, but for the last,
    /// which may have fewer (what Linux calls `gso_size`).
    #[must_use]
    pub fn segment_payload(&self) -> u32 {
        let others = self.rest.iter().take_while(|segment| segment.headers == 0);
        let first =
            usize::from(self.head.len) + others.map(|segment| usize::from(segment.len)).sum::<usize>();
        (first as u32).min(self.parsed.end) - u32::from(self.parsed.payload)
    }

    /// The first frame of the last packet merged into this one, headers and payload; [`Packet::head`] when it is not merged.
    #[must_use]
    pub fn last_head(&self) -> &[u8] {
        self.rest.iter().rev().find(|segment| segment.headers > 0).map_or(self.head(), Segment::whole)
    }

    /// The packets merged into this one, as they were: the inverse of [`Packet::merge`].
    pub fn into_packets(self) -> impl Iterator<Item = Self> {
        let Self { head, mut rest, parsed } = self;
        let mut head = Some(head);
        core::iter::from_fn(move || {
            let mut packet = Self::from_head(head.take()?);
            while let Some(segment) = rest.pop_front() {
                if segment.headers > 0 {
                    head = Some(segment.revealed());
                    break;
                }
                packet.rest.push_back(segment);
            }
            packet.parsed = parsed;
            packet.parsed.end = parsed.end.min(packet.len() as u32);
            Some(packet)
        })
    }

    /// The last of the packets merged into this one; the others are freed.
    #[must_use]
    pub fn into_last(self) -> Self {
        let Self { head, mut rest, parsed } = self;
        let mut last = Self::from_head(head);
        while let Some(segment) = rest.pop_front() {
            if segment.headers > 0 {
                last = Self::from_head(segment.revealed());
            } else {
                last.rest.push_back(segment);
            }
        }
        last.parsed = parsed;
        last.parsed.end = parsed.end.min(last.len() as u32);
        last
    }
}

/// The part of `range` that falls into the `len` bytes at `offset`, counted from `offset`.
fn clip(range: &Range<usize>, offset: usize, len: usize) -> Range<usize> {
    let start = range.start.saturating_sub(offset).min(len);
    let end = range.end.saturating_sub(offset).min(len);
    start..end.max(start)
}

/// A read-only run of bytes in a frame, counted: the frame returns to its pool with the last slice of it.
#[derive(Clone, Debug)]
pub struct PacketSlice(FrameRef);

impl PacketSlice {
    /// Length of the run in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.run_len()
    }

    /// Whether the run has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the first `len` bytes from view (all of them when there are fewer).
    pub fn advance(&mut self, len: usize) {
        self.0.cut_run(len, self.len());
    }

    /// Cuts the view to its first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.0.cut_run(0, len);
    }

    /// Bytes of the whole frame, which the slice keeps from the pool however short it is.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.0.layout().frame_size as usize
    }

    /// Whether so many of the pool's frames are held by readers that payload should be copied out instead.
    #[must_use]
    pub fn is_pool_short(&self) -> bool {
        self.0.is_pool_short()
    }
}

impl core::ops::Deref for PacketSlice {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::PoolLayout;

    fn pool() -> PacketPool {
        PacketPool::heap(PoolLayout { frames: 4, frame_size: 256, headroom: 64 })
    }

    #[test]
    fn a_long_packet_spans_frames_and_reads_back() {
        let pool = pool();
        let bytes: Vec<u8> = (0..600u32).map(|i| i as u8).collect();
        let packet = Packet::copy_from(&pool, &bytes).unwrap();
        assert_eq!((packet.len(), packet.frames()), (600, 4));
        assert!(packet.starts_at(64) && !packet.starts_at(0));
        let mut copy = Vec::new();
        packet.copy_to(&mut copy);
        assert_eq!(copy, bytes);
        let middle: Vec<u8> = packet.pieces(190..450).flatten().copied().collect();
        assert_eq!(middle, &bytes[190..450]);
    }

    #[test]
    fn too_long_for_the_pool_is_none_and_leaks_nothing() {
        let pool = pool();
        assert!(Packet::copy_from(&pool, &[0; 2000]).is_none());
        assert_eq!(pool.free_frames(), 4);
    }

    #[test]
    fn slices_keep_only_the_frames_they_need() {
        let pool = pool();
        let bytes: Vec<u8> = (0..600u32).map(|i| i as u8).collect();
        let slices: Vec<_> = Packet::copy_from(&pool, &bytes).unwrap().into_slices(400..500).collect();
        assert_eq!(pool.free_frames(), 3);
        assert_eq!(&slices[0][..], &bytes[400..500]);
        drop(slices);
        assert_eq!(pool.free_frames(), 4);
    }

    #[test]
    fn truncating_frees_the_frames_behind() {
        let pool = pool();
        let mut packet = Packet::copy_from(&pool, &[7; 600]).unwrap();
        packet.truncate(100);
        assert_eq!((packet.len(), packet.frames(), pool.free_frames()), (100, 1, 3));
    }

    #[test]
    fn a_received_range_outside_its_frame_is_refused() {
        let pool = pool();
        assert!(Packet::from_frame(pool.alloc().unwrap(), 200, 57).is_none());
        assert!(Packet::from_frame(pool.alloc().unwrap(), usize::MAX, 2).is_none());
        assert_eq!(pool.free_frames(), 4);
    }

    #[test]
    fn a_packet_knows_whether_a_pool_has_all_of_its_frames() {
        let (one, other) = (pool(), pool());
        let mut packet = Packet::alloc(&one).unwrap();
        assert!(packet.is_in(&one) && !packet.is_in(&other));
        packet.push_frame(other.alloc().unwrap(), 0, 10).unwrap();
        assert!(!packet.is_in(&one) && !packet.is_in(&other));
    }

    #[test]
    fn headroom_and_tailroom_bound_growth() {
        let pool = pool();
        let mut packet = Packet::alloc(&pool).unwrap();
        assert!(packet.append(193).is_none());
        packet.append(192).unwrap().fill(1);
        assert!(packet.prepend(65).is_none());
        packet.prepend(64).unwrap().fill(2);
        assert_eq!(packet.len(), 256);
    }

    /// Takes `bytes` for a parsed segment whose first `headers` bytes are headers and whose last `padding` are padding.
    fn parsed(pool: &PacketPool, bytes: &[u8], headers: u16, padding: usize) -> Packet {
        let mut packet = Packet::copy_from(pool, bytes).unwrap();
        packet.parsed.payload = headers;
        packet.parsed.end = (bytes.len() - padding) as u32;
        packet
    }

    fn bytes_of(packet: &Packet) -> Vec<u8> {
        let mut bytes = Vec::new();
        packet.copy_to(&mut bytes);
        bytes
    }

    #[test]
    fn a_merged_packet_reads_as_one_and_comes_apart_as_it_was() {
        let pool = PacketPool::heap(PoolLayout { frames: 16, frame_size: 256, headroom: 64 });
        let parts: [&[u8]; 3] = [b"HEADaaaa..", b"headbbbb", b"HeAdcc"];
        let mut merged = parsed(&pool, parts[0], 4, 2);
        merged.merge(parsed(&pool, parts[1], 4, 0));
        merged.merge(parsed(&pool, parts[2], 4, 0));
        assert_eq!((merged.packets(), merged.segment_payload(), merged.parsed.end), (3, 4, 14));
        assert_eq!(bytes_of(&merged), b"HEADaaaabbbbcc");
        assert_eq!(merged.last_head(), b"HeAdcc");
        let apart: Vec<Packet> = merged.into_packets().collect();
        let bytes: Vec<Vec<u8>> = apart.iter().map(bytes_of).collect();
        assert_eq!(bytes, [&b"HEADaaaa"[..], b"headbbbb", b"HeAdcc"]);
        assert!(apart.iter().all(|packet| packet.parsed.end as usize == packet.len() && !packet.is_merged()));
        drop(apart);
        assert_eq!(pool.free_frames(), 16);
    }

    #[test]
    fn packets_of_several_frames_merge_and_come_apart() {
        let pool = PacketPool::heap(PoolLayout { frames: 16, frame_size: 256, headroom: 64 });
        let long = |seed: u8| (0..500u32).map(|at| seed ^ at as u8).collect::<Vec<u8>>();
        let mut merged = parsed(&pool, &long(1), 40, 0);
        merged.merge(parsed(&pool, &long(2), 40, 0));
        assert_eq!((merged.frames(), merged.packets(), merged.segment_payload()), (6, 2, 460));
        assert_eq!(bytes_of(&merged), [&long(1)[..], &long(2)[40..]].concat());
        let apart: Vec<Vec<u8>> = merged.into_packets().map(|packet| bytes_of(&packet)).collect();
        assert_eq!(apart, [long(1), long(2)]);
        assert_eq!(pool.free_frames(), 16);
    }

    #[test]
    fn slices_of_a_merged_packet_are_its_payload_without_the_headers_between() {
        let pool = PacketPool::heap(PoolLayout { frames: 16, frame_size: 256, headroom: 64 });
        let mut merged = parsed(&pool, b"HEADaaaa", 4, 0);
        merged.merge(parsed(&pool, b"HEADbbbb", 4, 0));
        let slices: Vec<u8> = merged.into_slices(6..11).flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(slices, b"aabbb");
        assert_eq!(pool.free_frames(), 16);
    }

    #[test]
    fn the_last_of_several_is_left_alone() {
        let pool = PacketPool::heap(PoolLayout { frames: 16, frame_size: 256, headroom: 64 });
        let mut merged = parsed(&pool, b"one", 3, 0);
        merged.merge(parsed(&pool, b"two", 3, 0));
        assert_eq!((merged.packets(), merged.len(), merged.segment_payload()), (2, 3, 0));
        let last = merged.into_last();
        assert_eq!((&bytes_of(&last)[..], last.parsed.end), (&b"two"[..], 3));
        assert_eq!(pool.free_frames(), 15);
    }
}
