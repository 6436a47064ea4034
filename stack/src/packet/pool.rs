//! The packet pool: one region of equal frames and the book of who owns each.
//!
//! For AF_XDP the region is the UMEM; for tests and the simulator a plain allocation. Every frame is in exactly one
//! place: on the free list, in a [`Frame`] (one owner, may write), behind [`FrameRef`]s (counted, read only), or lent
//! to the driver's rings. The book is one byte and one count a frame, checked at every hand-over, so that safe code can
//! neither lose a frame nor have it twice, even when a ring hands back an address it was never given.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::rc::Rc;

use super::chain::Chain;
use crate::limits;

/// Memory that frames are cut from.
///
/// # Safety
/// `base()` must point to `len()` bytes that stay valid, unmoved, readable and writable for as long as the value
/// lives, and that nothing but the pool built on it (and the kernel, for frames lent to it) touches.
pub unsafe trait Region {
    /// First byte of the region.
    fn base(&self) -> NonNull<u8>;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Whether the region has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a frame is. One byte a frame in the pool's book.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Free,
    /// In a [`Frame`] or behind [`FrameRef`]s.
    Held,
    /// In a ring of the driver.
    Lent(Ring),
}

/// The ring a frame is lent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ring {
    /// Waiting in the fill ring, or in the kernel's hands to receive into.
    Fill,
    /// Waiting in the TX ring, or not yet completed.
    Tx,
}

/// The shape of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolLayout {
    /// Number of frames, at least 1.
    pub frames: u32,
    /// Bytes in a frame: 2048 or 4096 for AF_XDP; at least 256, at most 65,535.
    pub frame_size: u32,
    /// Where a packet begins in a fresh frame: room to prepend headers.
    pub headroom: u32,
}

/// A region of equal frames with their free list. Cheap to clone: every clone is the same pool.
#[derive(Clone)]
pub struct PacketPool {
    inner: Rc<PoolInner>,
}

struct PoolInner {
    base: NonNull<u8>,
    layout: PoolLayout,
    free: RefCell<Vec<u32>>,
    place: Box<[Cell<Place>]>,
    /// How many `FrameRef`s look at a held frame; 0 while it is in a `Frame`.
    refs: Box<[Cell<u32>]>,
    lent_fill: Cell<u32>,
    lent_tx: Cell<u32>,
    shared: Cell<u32>,
    alloc_failures: Cell<u64>,
    bogus_returns: Cell<u64>,
    /// Empty lists for packets of several frames.
    #[expect(clippy::vec_box, reason = "packets take the boxes as they are")]
    chains: RefCell<Vec<Box<Chain>>>,
    _region: Box<dyn Region>,
}

/// How many frames are where: they always add up to the pool's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolUse {
    /// All frames of the pool.
    pub total: u32,
    /// On the free list.
    pub free: u32,
    /// Lent to the fill ring.
    pub fill: u32,
    /// Lent to the TX ring.
    pub tx: u32,
    /// Held in packets or slices.
    pub held: u32,
    /// Of those held, the ones behind read-only slices (receive queues, the application).
    pub shared: u32,
}

impl PacketPool {
    /// A pool on the heap.
    ///
    /// # Panics
    /// When `layout` is outside the bounds its fields name.
    #[must_use]
    pub fn heap(layout: PoolLayout) -> Self {
        let region = HeapRegion::new(layout.frames as usize * layout.frame_size as usize);
        // SAFETY: `HeapRegion` owns its allocation alone.
        unsafe { Self::from_region(Box::new(region), layout) }
    }

    /// A pool over memory of the caller's.
    ///
    /// # Safety
    /// The region must not be used by anything else while the pool or any frame of it lives, except by the kernel for
    /// frames that were lent with [`Frame::lend`] and not yet reclaimed.
    ///
    /// # Panics
    /// When `layout` is outside the bounds its fields name or larger than the region.
    #[must_use]
    pub unsafe fn from_region(region: Box<dyn Region>, layout: PoolLayout) -> Self {
        assert!(layout.frames > 0, "a packet pool needs at least one frame");
        assert!(
            (256..=65_535).contains(&layout.frame_size),
            "frame size {} not in 256..=65535",
            layout.frame_size
        );
        assert!(layout.headroom < layout.frame_size, "headroom does not fit the frame");
        assert!(layout.frames as usize * layout.frame_size as usize <= region.len(), "region too small");
        let frames = layout.frames as usize;
        Self {
            inner: Rc::new(PoolInner {
                base: region.base(),
                layout,
                free: RefCell::new((0..layout.frames).rev().collect()),
                place: vec![Cell::new(Place::Free); frames].into_boxed_slice(),
                refs: vec![Cell::new(0); frames].into_boxed_slice(),
                lent_fill: Cell::new(0),
                lent_tx: Cell::new(0),
                shared: Cell::new(0),
                alloc_failures: Cell::new(0),
                bogus_returns: Cell::new(0),
                chains: RefCell::default(),
                _region: region,
            }),
        }
    }

    /// Takes a free frame, or `None` when the pool is empty (counted in [`PacketPool::alloc_failures`]).
    #[must_use]
    pub fn alloc(&self) -> Option<Frame> {
        let Some(index) = self.inner.free.borrow_mut().pop() else {
            self.inner.alloc_failures.set(self.inner.alloc_failures.get() + 1);
            return None;
        };
        debug_assert_eq!(self.inner.place[index as usize].get(), Place::Free);
        self.inner.place[index as usize].set(Place::Held);
        Some(Frame { pool: self.inner.clone(), index })
    }

    /// Takes back the frame that `ring` returned by its index. `None` when that frame was not lent to that ring: the
    /// return is ignored and counted in [`PacketPool::bogus_returns`].
    #[must_use]
    pub fn reclaim(&self, index: u32, ring: Ring) -> Option<Frame> {
        let known =
            self.inner.place.get(index as usize).is_some_and(|place| place.get() == Place::Lent(ring));
        if !known {
            self.inner.bogus_returns.set(self.inner.bogus_returns.get() + 1);
            return None;
        }
        self.inner.place[index as usize].set(Place::Held);
        let lent = self.inner.lent(ring);
        lent.set(lent.get() - 1);
        Some(Frame { pool: self.inner.clone(), index })
    }

    /// Lends up to `out.len()` free frames to `ring` and writes their indices: as [`PacketPool::alloc`] and [`Frame::lend`] for
    /// each, but the book is opened once. Returns how many there were.
    #[must_use = "the indices must go into the ring, or the frames are out of use for ever"]
    pub fn lend_free(&self, ring: Ring, out: &mut [u32]) -> usize {
        let mut free = self.inner.free.borrow_mut();
        let count = out.len().min(free.len());
        let rest = free.len() - count;
        for (out, index) in out.iter_mut().zip(free.drain(rest..).rev()) {
            debug_assert_eq!(self.inner.place[index as usize].get(), Place::Free);
            self.inner.place[index as usize].set(Place::Lent(ring));
            *out = index;
        }
        let lent = self.inner.lent(ring);
        lent.set(lent.get() + count as u32);
        count
    }

    /// Takes back onto the free list the frames that `ring` returned by their indices: as [`PacketPool::reclaim`] for each, and
    /// dropping what it gives. Returns how many there were; the others were not lent to that ring and are counted.
    pub fn free_lent(&self, ring: Ring, indices: impl Iterator<Item = u32>) -> usize {
        let mut free = self.inner.free.borrow_mut();
        let (before, mut bogus) = (free.len(), 0);
        for index in indices {
            match self.inner.place.get(index as usize) {
                Some(place) if place.get() == Place::Lent(ring) => {
                    place.set(Place::Free);
                    free.push(index);
                }
                _ => bogus += 1,
            }
        }
        let count = free.len() - before;
        let lent = self.inner.lent(ring);
        lent.set(lent.get() - count as u32);
        self.inner.bogus_returns.set(self.inner.bogus_returns.get() + bogus);
        count
    }

    /// Where the frames are now.
    #[must_use]
    pub fn usage(&self) -> PoolUse {
        let total = self.inner.layout.frames;
        let free = self.free_frames();
        let (fill, tx) = (self.inner.lent_fill.get(), self.inner.lent_tx.get());
        PoolUse { total, free, fill, tx, held: total - free - fill - tx, shared: self.inner.shared.get() }
    }

    /// Frames on the free list.
    #[must_use]
    pub fn free_frames(&self) -> u32 {
        self.inner.free.borrow().len() as u32
    }

    /// Frames behind read-only slices, that is in receive queues or with the application.
    #[must_use]
    pub fn shared_frames(&self) -> u32 {
        self.inner.shared.get()
    }

    /// Whether so many frames are held by readers that payload should be copied out of frames, or the NIC would find none:
    /// more than 1/[`SHARED_FRAMES_FRACTION`] of them.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.inner.is_short()
    }

    /// The pool's shape.
    #[must_use]
    pub fn layout(&self) -> PoolLayout {
        self.inner.layout
    }

    /// How often [`PacketPool::alloc`] found no free frame.
    #[must_use]
    pub fn alloc_failures(&self) -> u64 {
        self.inner.alloc_failures.get()
    }

    /// How often a ring returned a frame that it did not have.
    #[must_use]
    pub fn bogus_returns(&self) -> u64 {
        self.inner.bogus_returns.get()
    }

    /// Empty lists kept for packets of several frames.
    #[cfg(test)]
    pub(crate) fn chains_kept(&self) -> usize {
        self.inner.chains.borrow().len()
    }

    /// Whether both are the same pool.
    #[must_use]
    pub fn same_pool(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }
}

impl fmt::Debug for PacketPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketPool").field("layout", &self.inner.layout).field("use", &self.usage()).finish()
    }
}

impl PoolInner {
    fn is_short(&self) -> bool {
        self.shared.get() > self.layout.frames / limits::SHARED_FRAMES_FRACTION
    }

    fn lent(&self, ring: Ring) -> &Cell<u32> {
        match ring {
            Ring::Fill => &self.lent_fill,
            Ring::Tx => &self.lent_tx,
        }
    }

    /// First byte of frame `index`.
    fn frame_ptr(&self, index: u32) -> NonNull<u8> {
        // SAFETY: every index in a `Frame` or `FrameRef` is below `frames`, and the region holds
        // `frames * frame_size` bytes, so the offset stays inside it.
        unsafe { self.base.add(index as usize * self.layout.frame_size as usize) }
    }

    fn take_chain(&self) -> Box<Chain> {
        self.chains.borrow_mut().pop().unwrap_or_default()
    }

    fn return_chain(&self, chain: Box<Chain>) {
        let mut chains = self.chains.borrow_mut();
        if chains.len() < limits::POOL_CHAINS {
            chains.push(chain);
        }
    }

    #[inline]
    fn release(&self, index: u32) {
        self.place[index as usize].set(Place::Free);
        self.free.borrow_mut().push(index);
    }
}

/// One frame with one owner, who may write it. Dropping it returns the frame to its pool.
pub struct Frame {
    pool: Rc<PoolInner>,
    index: u32,
}

impl Frame {
    /// The frame's number in its pool: its address in the region is `index * frame_size`.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The pool the frame belongs to.
    #[must_use]
    pub fn pool(&self) -> PacketPool {
        PacketPool { inner: self.pool.clone() }
    }

    /// Whether the frame belongs to `pool`.
    #[must_use]
    pub fn is_of(&self, pool: &PacketPool) -> bool {
        Rc::ptr_eq(&self.pool, &pool.inner)
    }

    /// An empty list for the frames of a packet.
    #[inline]
    pub(super) fn take_chain(&self) -> Box<Chain> {
        self.pool.take_chain()
    }

    /// Keeps an empty list for the next packet, unless enough are kept.
    #[inline]
    pub(super) fn return_chain(&self, chain: Box<Chain>) {
        self.pool.return_chain(chain);
    }

    /// Shape of the pool the frame belongs to.
    #[must_use]
    pub fn layout(&self) -> PoolLayout {
        self.pool.layout
    }

    /// All bytes of the frame.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the frame is held here and nowhere else, its bytes are inside the region and initialised.
        unsafe {
            core::slice::from_raw_parts(
                self.pool.frame_ptr(self.index).as_ptr(),
                self.pool.layout.frame_size as usize,
            )
        }
    }

    /// All bytes of the frame, to write.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes it the only view.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.pool.frame_ptr(self.index).as_ptr(),
                self.pool.layout.frame_size as usize,
            )
        }
    }

    /// Hands the frame to a ring of the driver and returns its index; [`PacketPool::reclaim`] takes it back.
    #[must_use = "the index must go into the ring, or the frame is out of use for ever"]
    pub fn lend(self, ring: Ring) -> u32 {
        self.pool.place[self.index as usize].set(Place::Lent(ring));
        let lent = self.pool.lent(ring);
        lent.set(lent.get() + 1);
        let this = core::mem::ManuallyDrop::new(self);
        let index = this.index;
        // SAFETY: `this` is never used again nor dropped, so the `Rc` is read out exactly once.
        drop(unsafe { core::ptr::read(&raw const this.pool) });
        index
    }

    /// Gives up writing for counted, read-only views.
    #[inline]
    #[must_use]
    pub fn share(self) -> FrameRef {
        self.share_run(0, 0)
    }

    /// As [`Frame::share`], with a note of which bytes are meant.
    #[inline]
    pub(super) fn share_run(self, start: u16, len: u16) -> FrameRef {
        self.pool.refs[self.index as usize].set(1);
        self.pool.shared.set(self.pool.shared.get() + 1);
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never used again nor dropped, so the `Rc` is read out exactly once.
        let pool = unsafe { core::ptr::read(&raw const this.pool) };
        FrameRef { pool, run: Run::new(this.index, start, len) }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.pool.release(self.index);
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame#{}", self.index)
    }
}

/// A counted, read-only view of a frame; the last one returns the frame to its pool.
pub struct FrameRef {
    pool: Rc<PoolInner>,
    run: Run,
}

/// The number of a frame and a run of its bytes in one word: with the pool, a pair that stays in registers from queue to queue,
/// where a structure of narrow fields would be written part by part and then wait in memory to be read as a whole.
#[derive(Clone, Copy)]
struct Run(u64);

impl Run {
    fn new(index: u32, start: u16, len: u16) -> Self {
        Self(u64::from(index) << 32 | u64::from(start) << 16 | u64::from(len))
    }

    fn index(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn start(self) -> u16 {
        (self.0 >> 16) as u16
    }

    fn len(self) -> u16 {
        self.0 as u16
    }
}

impl FrameRef {
    /// Length of the run that is meant.
    #[inline]
    pub(super) fn run_len(&self) -> usize {
        self.run.len().into()
    }

    /// The bytes that are meant.
    #[inline]
    pub(super) fn run(&self) -> &[u8] {
        &self.bytes()[self.run.start().into()..][..self.run_len()]
    }

    /// Means `len` bytes from the `skip`th of the run on, or as many as there are.
    pub(super) fn cut_run(&mut self, skip: usize, len: usize) {
        let skip = skip.min(self.run_len());
        let len = len.min(self.run_len() - skip);
        self.run = Run::new(self.run.index(), self.run.start() + skip as u16, len as u16);
    }

    /// As [`PacketPool::is_short`], for the pool of this frame.
    #[must_use]
    pub fn is_pool_short(&self) -> bool {
        self.pool.is_short()
    }

    /// Shape of the pool the frame belongs to.
    #[must_use]
    pub fn layout(&self) -> PoolLayout {
        self.pool.layout
    }

    /// All bytes of the frame.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: while a `FrameRef` exists the frame is held and no `Frame` for it exists, so nobody writes it.
        unsafe {
            core::slice::from_raw_parts(
                self.pool.frame_ptr(self.run.index()).as_ptr(),
                self.pool.layout.frame_size as usize,
            )
        }
    }
}

impl Clone for FrameRef {
    fn clone(&self) -> Self {
        let refs = &self.pool.refs[self.run.index() as usize];
        refs.set(refs.get().checked_add(1).expect("fewer than 2^32 views of one frame"));
        Self { pool: self.pool.clone(), run: self.run }
    }
}

impl Drop for FrameRef {
    fn drop(&mut self) {
        let refs = &self.pool.refs[self.run.index() as usize];
        refs.set(refs.get() - 1);
        if refs.get() == 0 {
            self.pool.shared.set(self.pool.shared.get() - 1);
            self.pool.release(self.run.index());
        }
    }
}

impl fmt::Debug for FrameRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameRef#{}", self.run.index())
    }
}

/// Zeroed memory from the global allocator, page-aligned.
struct HeapRegion {
    base: NonNull<u8>,
    layout: Layout,
}

impl HeapRegion {
    fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), 4096).expect("pool size fits the address space");
        // SAFETY: `layout` has a size above zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Self { base, layout }
    }
}

impl Drop for HeapRegion {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

// SAFETY: the allocation lives as long as the value, does not move, and is reachable only through `base`.
unsafe impl Region for HeapRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> usize {
        self.layout.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(frames: u32) -> PacketPool {
        PacketPool::heap(PoolLayout { frames, frame_size: 256, headroom: 64 })
    }

    #[test]
    fn an_empty_pool_says_so_and_counts_it() {
        let pool = pool(1);
        let frame = pool.alloc().unwrap();
        assert!(pool.alloc().is_none());
        assert_eq!(pool.alloc_failures(), 1);
        drop(frame);
        assert!(pool.alloc().is_some());
    }

    #[test]
    fn a_ring_cannot_return_a_frame_it_does_not_have() {
        let pool = pool(2);
        let index = pool.alloc().unwrap().lend(Ring::Tx);
        assert!(pool.reclaim(index, Ring::Fill).is_none(), "wrong ring");
        assert!(pool.reclaim(1 - index, Ring::Tx).is_none(), "not lent");
        assert!(pool.reclaim(99, Ring::Tx).is_none(), "no such frame");
        let frame = pool.reclaim(index, Ring::Tx).unwrap();
        assert!(pool.reclaim(index, Ring::Tx).is_none(), "returned twice");
        assert_eq!(pool.bogus_returns(), 4);
        drop(frame);
        assert_eq!(pool.free_frames(), 2);
    }

    #[test]
    fn frames_are_lent_and_come_back_many_at_a_time() {
        let pool = pool(4);
        let held = pool.alloc().unwrap();
        let mut out = [u32::MAX; 5];
        assert_eq!(pool.lend_free(Ring::Fill, &mut out), 3, "all that are free");
        assert!(!out[..3].contains(&held.index()) && out[3] == u32::MAX);
        assert_eq!(pool.lend_free(Ring::Fill, &mut out[3..]), 0);
        let returned = [out[0], held.index(), 99, out[0], out[1]];
        assert_eq!(pool.free_lent(Ring::Tx, returned.into_iter()), 0, "wrong ring");
        assert_eq!(pool.free_lent(Ring::Fill, returned.into_iter()), 2);
        assert_eq!(pool.bogus_returns(), 5 + 3);
        assert_eq!(pool.usage(), PoolUse { total: 4, free: 2, fill: 1, held: 1, ..PoolUse::default() });
    }

    #[test]
    fn the_last_view_frees_the_frame() {
        let pool = pool(1);
        let mut frame = pool.alloc().unwrap();
        frame.bytes_mut()[7] = 42;
        let view = frame.share();
        let other = view.clone();
        drop(view);
        assert_eq!(pool.usage().shared, 1);
        assert_eq!(other.bytes()[7], 42);
        drop(other);
        assert_eq!(pool.usage(), PoolUse { total: 1, free: 1, ..PoolUse::default() });
    }

    proptest! {
        /// Any order of taking, lending, sharing, returning and dropping keeps every frame in exactly one place.
        #[test]
        fn every_frame_is_in_exactly_one_place(steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 0..300)) {
            let pool = pool(8);
            let (mut held, mut views, mut fill, mut tx) = (Vec::new(), Vec::<FrameRef>::new(), Vec::new(), Vec::new());
            for (step, pick) in steps {
                match step {
                    0 | 1 => held.extend(pool.alloc()),
                    2 if !held.is_empty() => fill.push(held.swap_remove(pick.index(held.len())).lend(Ring::Fill)),
                    3 if !held.is_empty() => tx.push(held.swap_remove(pick.index(held.len())).lend(Ring::Tx)),
                    4 if !fill.is_empty() => held.extend(pool.reclaim(fill.swap_remove(pick.index(fill.len())), Ring::Fill)),
                    5 if !tx.is_empty() => drop(pool.reclaim(tx.swap_remove(pick.index(tx.len())), Ring::Tx)),
                    6 if !held.is_empty() => views.push(held.swap_remove(pick.index(held.len())).share()),
                    7 if !views.is_empty() => drop(views.swap_remove(pick.index(views.len()))),
                    8 => {
                        let mut out = vec![0; pick.index(4)];
                        let count = pool.lend_free(Ring::Fill, &mut out);
                        fill.extend(&out[..count]);
                    }
                    9 => {
                        let back: Vec<_> = tx.drain(pick.index(tx.len() + 1)..).collect();
                        prop_assert_eq!(pool.free_lent(Ring::Tx, back.iter().copied()), back.len());
                    }
                    _ => {}
                }
                let usage = pool.usage();
                prop_assert_eq!(usage.held as usize, held.len() + views.len());
                prop_assert_eq!((usage.fill as usize, usage.tx as usize), (fill.len(), tx.len()));
                prop_assert_eq!(usage.total, usage.free + usage.fill + usage.tx + usage.held);
            }
            prop_assert_eq!(pool.bogus_returns(), 0);
        }
    }
}
