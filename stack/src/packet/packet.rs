//! A packet: one owned frame and where its bytes lie in it, plus further frames for packets longer than one (MTU 9000
//! over AF_XDP arrives as several). Packets come from the driver or from [`Packet::alloc`]; they end in the driver's TX
//! ring, in a receive queue as [`PacketSlice`]s, or back in the pool when dropped.

use core::ops::Range;

use super::pool::{Frame, FrameRef, PacketPool};
use crate::parse::Parsed;

/// The bytes of one frame that belong to a packet.
#[derive(Debug)]
struct Segment {
    frame: Frame,
    start: u32,
    len: u32,
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        &self.frame.bytes()[self.start as usize..][..self.len as usize]
    }
}

/// A packet in frames of a pool.
#[derive(Debug)]
pub struct Packet {
    head: Segment,
    more: Vec<Segment>,
    /// What [`crate::parse`] found; default until then.
    pub parsed: Parsed,
}

impl Packet {
    /// An empty packet in a fresh frame, starting at the pool's headroom; `None` when the pool is empty.
    #[must_use]
    pub fn alloc(pool: &PacketPool) -> Option<Self> {
        let frame = pool.alloc()?;
        let start = frame.layout().headroom;
        Some(Self { head: Segment { frame, start, len: 0 }, more: Vec::new(), parsed: Parsed::default() })
    }

    /// The packet a driver received into `frame` at `start..start + len`. `None` when that is not inside the frame.
    #[must_use]
    pub fn from_frame(frame: Frame, start: usize, len: usize) -> Option<Self> {
        let head = segment(frame, start, len)?;
        Some(Self { head, more: Vec::new(), parsed: Parsed::default() })
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
        self.more.push(segment(frame, start, len)?);
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
        self.head.len as usize + self.more.iter().map(|segment| segment.len as usize).sum::<usize>()
    }

    /// Whether the packet has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all of the packet's frames are of `pool`, so that a driver of that pool can take them as they are.
    #[must_use]
    pub fn is_in(&self, pool: &PacketPool) -> bool {
        let mut frames = core::iter::once(&self.head).chain(&self.more);
        frames.all(|segment| segment.frame.pool().same_pool(pool))
    }

    /// Whether every frame has bytes of the packet and they begin at `start` there.
    #[must_use]
    pub fn starts_at(&self, start: usize) -> bool {
        let mut frames = core::iter::once(&self.head).chain(&self.more);
        frames.all(|segment| segment.start as usize == start && segment.len > 0)
    }

    /// Number of frames, at least 1.
    #[must_use]
    pub fn frames(&self) -> usize {
        1 + self.more.len()
    }

    /// The bytes in the first frame: all of them unless the packet has several frames. Headers are always here.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.head.bytes()
    }

    /// The bytes in the first frame, to write.
    #[must_use]
    pub fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head.frame.bytes_mut()[self.head.start as usize..][..self.head.len as usize]
    }

    /// The packet's bytes frame by frame.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        core::iter::once(self.head.bytes()).chain(self.more.iter().map(Segment::bytes))
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
        self.head.start as usize
    }

    /// Bytes free behind the packet in its first frame; 0 when it has several frames.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        if self.more.is_empty() {
            self.head.frame.bytes().len() - (self.head.start + self.head.len) as usize
        } else {
            0
        }
    }

    /// Grows the packet by `len` bytes at its front and returns them; `None` when the headroom is smaller.
    pub fn prepend(&mut self, len: usize) -> Option<&mut [u8]> {
        let start = (self.head.start as usize).checked_sub(len)?;
        self.head.start = start as u32;
        self.head.len += len as u32;
        Some(&mut self.head_mut()[..len])
    }

    /// Grows the packet by `len` bytes at its end and returns them (not zeroed); `None` when the tailroom is smaller.
    pub fn append(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > self.tailroom() {
            return None;
        }
        let old = self.head.len as usize;
        self.head.len += len as u32;
        Some(&mut self.head_mut()[old..])
    }

    /// Cuts the packet to at most `len` bytes (drops Ethernet padding, for one) and frees frames no longer needed.
    pub fn truncate(&mut self, len: usize) {
        let mut left = len;
        self.head.len = self.head.len.min(left as u32);
        left -= self.head.len as usize;
        self.more.retain_mut(|segment| {
            segment.len = segment.len.min(left as u32);
            left -= segment.len as usize;
            segment.len > 0
        });
    }

    /// The frames with start and length of their bytes, to hand to a ring.
    pub fn into_frames(self) -> impl Iterator<Item = (Frame, usize, usize)> {
        core::iter::once(self.head)
            .chain(self.more)
            .map(|segment| (segment.frame, segment.start as usize, segment.len as usize))
    }

    /// Gives up the packet for read-only slices of its bytes in `range`, one a frame; frames outside it are freed.
    pub fn into_slices(self, range: Range<usize>) -> impl Iterator<Item = PacketSlice> {
        let mut offset = 0;
        core::iter::once(self.head).chain(self.more).filter_map(move |segment| {
            let clip = clip(&range, offset, segment.len as usize);
            offset += segment.len as usize;
            if clip.is_empty() {
                return None;
            }
            let start = segment.start + clip.start as u32;
            Some(PacketSlice { frame: segment.frame.share(), start, len: clip.len() as u32 })
        })
    }
}

fn segment(frame: Frame, start: usize, len: usize) -> Option<Segment> {
    let inside = start.checked_add(len).is_some_and(|end| end <= frame.bytes().len());
    inside.then(|| Segment { frame, start: start as u32, len: len as u32 })
}

/// The part of `range` that falls into the `len` bytes at `offset`, counted from `offset`.
fn clip(range: &Range<usize>, offset: usize, len: usize) -> Range<usize> {
    let start = range.start.saturating_sub(offset).min(len);
    let end = range.end.saturating_sub(offset).min(len);
    start..end.max(start)
}

/// A read-only run of bytes in a frame, counted: the frame returns to its pool with the last slice of it.
#[derive(Clone, Debug)]
pub struct PacketSlice {
    frame: FrameRef,
    start: u32,
    len: u32,
}

impl PacketSlice {
    /// Drops the first `len` bytes from view (all of them when there are fewer).
    pub fn advance(&mut self, len: usize) {
        let len = len.min(self.len as usize) as u32;
        self.start += len;
        self.len -= len;
    }

    /// Cuts the view to its first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len.try_into().unwrap_or(u32::MAX));
    }

    /// Bytes of the whole frame, which the slice keeps from the pool however short it is.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.frame.bytes().len()
    }

    /// Whether so many of the pool's frames are held by readers that payload should be copied out instead.
    #[must_use]
    pub fn is_pool_short(&self) -> bool {
        self.frame.is_pool_short()
    }
}

impl core::ops::Deref for PacketSlice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.frame.bytes()[self.start as usize..][..self.len as usize]
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
}
