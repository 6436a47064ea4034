//! One ring that the kernel shares, accessed here rather than through libxdp's calls: [`Producer`]s (fill, TX) put
//! entries in, [`Consumer`]s (RX, completion) take them out, whole bursts at a time.
//!
//! Layout and rules are those of linux/if_xdp.h: two positions that run freely over all of `u32`, a word of flags, and a
//! power of two of entries. Each position is written by one side only. A side publishes entries by storing its position
//! with release order, and learns of the other's by loading with acquire order. What the kernel writes is not believed: a
//! position that cannot be is taken for a full ring (of a producer's consumer: for an unchanged one), and entries are
//! checked by the pool's book.

use core::ffi::{c_int, c_void};
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use std::io;
use std::os::fd::RawFd;

/// `XDP_RING_NEED_WAKEUP`: the kernel wants a syscall before it looks at the ring.
const NEED_WAKEUP: u32 = 1;

/// `struct xdp_desc`: an entry of the RX and TX rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(crate) struct Desc {
    /// Where the bytes begin, counted from the first frame.
    pub addr: u64,
    /// How many they are.
    pub len: u32,
    /// `XDP_PKT_CONTD`, or 0.
    pub options: u32,
}

/// A ring into which this side puts entries.
pub(crate) struct Producer<T> {
    shared: Shared<T>,
    /// This side's position. The kernel sees it at [`Producer::publish`].
    produced: u32,
    /// The kernel's position as last seen.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    fn new(shared: Shared<T>) -> Self {
        let produced = shared.producer().load(Ordering::Relaxed);
        let consumed = shared.consumer().load(Ordering::Acquire);
        Self { shared, produced, consumed }
    }

    /// Entries there is room for, exactly.
    pub fn room(&mut self) -> u32 {
        let consumed = self.shared.consumer().load(Ordering::Acquire);
        // The kernel cannot have consumed what was not there.
        if self.produced.wrapping_sub(consumed) <= self.shared.size {
            self.consumed = consumed;
        }
        self.shared.size - self.produced.wrapping_sub(self.consumed)
    }

    /// Puts all of `entries` in, for which there must be room, and shows them to the kernel at once.
    ///
    /// # Panics
    /// When there is no room.
    pub fn produce(&mut self, entries: &[T]) {
        let count = entries.len() as u32;
        let room = self.shared.size - self.produced.wrapping_sub(self.consumed);
        assert!(room >= count || self.room() >= count, "the ring has room");
        for (i, entry) in entries.iter().enumerate() {
            self.shared.write(self.produced.wrapping_add(i as u32), *entry);
        }
        self.produced = self.produced.wrapping_add(count);
        self.shared.producer().store(self.produced, Ordering::Release);
    }

    /// Whether the kernel wants to be told of what was produced. If it does not, it looks at the ring after this call by
    /// itself.
    pub fn needs_wakeup(&self) -> bool {
        let flags = self.shared.flags();
        if flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0 {
            return true;
        }
        // A driver sets the flag and then looks at the ring a last time; here the order is the other way round, and
        // without the fence both could miss each other.
        fence(Ordering::SeqCst);
        flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// A ring out of which this side takes entries.
pub(crate) struct Consumer<T> {
    shared: Shared<T>,
    /// This side's position.
    consumed: u32,
    /// The kernel's position as last seen.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    fn new(shared: Shared<T>) -> Self {
        let consumed = shared.consumer().load(Ordering::Relaxed);
        Self { shared, consumed, produced: consumed }
    }

    /// Takes up to `out.len()` entries and gives their places back to the kernel; returns how many.
    pub fn consume(&mut self, out: &mut [T]) -> usize {
        let mut there = self.produced.wrapping_sub(self.consumed);
        if (there as usize) < out.len() {
            self.produced = self.shared.producer().load(Ordering::Acquire);
            there = self.produced.wrapping_sub(self.consumed);
            if there > self.shared.size {
                // No kernel has produced that many: what the ring has room for is all there can be.
                there = self.shared.size;
                self.produced = self.consumed.wrapping_add(there);
            }
        }
        let count = (there as usize).min(out.len());
        if count == 0 {
            return 0;
        }
        for (i, out) in out[..count].iter_mut().enumerate() {
            *out = self.shared.read(self.consumed.wrapping_add(i as u32));
        }
        self.consumed = self.consumed.wrapping_add(count as u32);
        self.shared.consumer().store(self.consumed, Ordering::Release);
        count
    }
}

/// The memory of a ring.
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// What the pointers point into.
    _memory: Memory,
    _entries: PhantomData<T>,
}

impl<T: Copy> Shared<T> {
    /// # Safety
    /// `memory` must have the three words and `size` entries at `offsets`, aligned, with nobody but the kernel (or who
    /// plays it) writing them besides this value. Any bytes must be a value of `T`.
    unsafe fn new(memory: Memory, offsets: &RingOffset, size: u32) -> Self {
        assert!(size.is_power_of_two(), "a ring has a power of two of entries");
        let base = memory.base();
        // SAFETY: all four are inside the memory, as the caller says.
        let at = |offset: u64| unsafe { base.add(offset as usize) };
        Self {
            producer: at(offsets.producer).cast(),
            consumer: at(offsets.consumer).cast(),
            flags: at(offsets.flags).cast(),
            entries: at(offsets.desc).cast(),
            size,
            _memory: memory,
            _entries: PhantomData,
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: inside the memory, which lives as long as `self`; the kernel writes it atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// The place of the entry at `position`.
    fn entry(&self, position: u32) -> *mut T {
        // SAFETY: masked, the position is below the number of entries.
        unsafe { self.entries.add((position & (self.size - 1)) as usize).as_ptr() }
    }

    /// The entry at `position`, which is this side's at present.
    fn read(&self, position: u32) -> T {
        // SAFETY: inside the memory and any bytes are a `T`. A kernel that keeps to its position does not write it now; one
        // that does not makes a wrong value, which `PacketPool::reclaim` finds out: hence volatile, read once.
        unsafe { self.entry(position).read_volatile() }
    }

    fn write(&self, position: u32, value: T) {
        // SAFETY: inside the memory, and not shown to the kernel yet.
        unsafe { self.entry(position).write(value) }
    }
}

/// The four rings of a bound socket in mappings of their own.
pub(crate) struct Mapped {
    pub rx: Consumer<Desc>,
    pub tx: Producer<Desc>,
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
}

impl Mapped {
    /// Maps the rings of the bound socket `fd`, whose RX and fill rings have `rx_size` entries and whose others have
    /// `tx_size`. Nobody else may access them any more.
    ///
    /// # Errors
    /// `EBUSY` from kernels before 6.4, which do not map the rings of a bound socket.
    pub fn of(fd: RawFd, rx_size: u32, tx_size: u32) -> io::Result<Self> {
        let offsets = MmapOffsets::of(fd)?;
        let (rx, tx, fill, completion) = (&offsets.rx, &offsets.tx, &offsets.fill, &offsets.completion);
        Ok(Self {
            rx: Consumer::new(map(fd, libc::XDP_PGOFF_RX_RING, rx, rx_size)?),
            tx: Producer::new(map(fd, libc::XDP_PGOFF_TX_RING, tx, tx_size)?),
            fill: Producer::new(map(fd, libc::XDP_UMEM_PGOFF_FILL_RING as i64, fill, rx_size)?),
            completion: Consumer::new(map(
                fd,
                libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64,
                completion,
                tx_size,
            )?),
        })
    }
}

/// The kernel's sides of the same rings, for measurements in which the kernel itself does nothing.
#[cfg(feature = "testing")]
pub(crate) struct KernelSides {
    pub rx: Producer<Desc>,
    pub tx: Consumer<Desc>,
    pub fill: Consumer<u64>,
    pub completion: Producer<u64>,
}

#[cfg(feature = "testing")]
impl Mapped {
    /// The other sides of all rings.
    pub fn into_kernel_sides(self) -> KernelSides {
        KernelSides {
            rx: Producer::new(self.rx.shared),
            tx: Consumer::new(self.tx.shared),
            fill: Consumer::new(self.fill.shared),
            completion: Producer::new(self.completion.shared),
        }
    }
}

#[cfg(feature = "testing")]
impl<T: Copy> Producer<T> {
    /// The entry that was produced last.
    pub fn last(&self) -> T {
        self.shared.read(self.produced.wrapping_sub(1))
    }
}

#[cfg(feature = "testing")]
impl<T: Copy> Consumer<T> {
    /// The entry that was consumed last.
    pub fn last(&self) -> T {
        self.shared.read(self.consumed.wrapping_sub(1))
    }
}

#[cfg(feature = "testing")]
impl KernelSides {
    /// The positions of the four rings, which are empty.
    pub fn positions(&self) -> [u32; 4] {
        let Self { rx, tx, fill, completion } = self;
        [rx.shared.position(), tx.shared.position(), fill.shared.position(), completion.shared.position()]
    }

    /// Asks for no wake-ups, so that the real kernel is left alone.
    pub fn ask_for_nothing(&self) {
        self.tx.shared.flags().store(0, Ordering::Relaxed);
        self.fill.shared.flags().store(0, Ordering::Relaxed);
    }

    /// Empties the rings at these positions.
    pub fn restore(self, [rx, tx, fill, completion]: [u32; 4]) {
        self.rx.shared.set_position(rx);
        self.tx.shared.set_position(tx);
        self.fill.shared.set_position(fill);
        self.completion.shared.set_position(completion);
    }
}

#[cfg(feature = "testing")]
impl<T: Copy> Shared<T> {
    fn position(&self) -> u32 {
        self.producer().load(Ordering::Relaxed)
    }

    fn set_position(&self, position: u32) {
        self.producer().store(position, Ordering::Relaxed);
        self.consumer().store(position, Ordering::Relaxed);
    }
}

/// Maps the ring at `page_offset` of the socket. `T` is the ring's entry: `Desc` or `u64`.
fn map<T: Copy>(fd: RawFd, page_offset: i64, offsets: &RingOffset, size: u32) -> io::Result<Shared<T>> {
    let len = offsets.desc as usize + size as usize * size_of::<T>();
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { libc::mmap(core::ptr::null_mut(), len, protection, flags, fd, page_offset) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(base.cast()).expect("a mapping is not at address 0");
    // SAFETY: the kernel says that the ring is so; a ring that is shorter than `len` is not mapped but refused. Entries
    // are integers.
    Ok(unsafe { Shared::new(Memory::Mapping { base, len }, offsets, size) })
}

/// `struct xdp_ring_offset`: where a ring's parts are in its mapping.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct RingOffset {
    producer: u64,
    consumer: u64,
    desc: u64,
    flags: u64,
}

/// `struct xdp_mmap_offsets`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct MmapOffsets {
    rx: RingOffset,
    tx: RingOffset,
    fill: RingOffset,
    completion: RingOffset,
}

impl MmapOffsets {
    fn of(fd: RawFd) -> io::Result<Self> {
        let mut offsets = Self::default();
        let mut len = size_of::<Self>() as libc::socklen_t;
        let place = (&raw mut offsets).cast::<c_void>();
        let option: c_int = libc::XDP_MMAP_OFFSETS;
        // SAFETY: `place` has room for `len` bytes, and all of its fields are integers.
        let result = unsafe { libc::getsockopt(fd, libc::SOL_XDP, option, place, &raw mut len) };
        if result == 0 { Ok(offsets) } else { Err(io::Error::last_os_error()) }
    }
}

/// What a ring's pointers point into.
enum Memory {
    Mapping {
        base: NonNull<u8>,
        len: usize,
    },
    #[cfg(test)]
    Heap(std::rc::Rc<tests::Heap>),
}

impl Memory {
    fn base(&self) -> NonNull<u8> {
        match self {
            Self::Mapping { base, .. } => *base,
            #[cfg(test)]
            Self::Heap(heap) => heap.base(),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self {
            // SAFETY: mapped in `map` and unmapped only here; the pointers into it go with it.
            Self::Mapping { base, len } => unsafe {
                libc::munmap(base.as_ptr().cast(), *len);
            },
            #[cfg(test)]
            Self::Heap(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;

    const SIZE: u32 = 8;
    /// As the kernel lays them out: the positions on cache lines of their own.
    const OFFSETS: RingOffset = RingOffset { producer: 0, consumer: 64, flags: 128, desc: 192 };

    /// A ring's memory on the heap, so that Miri sees every access.
    pub(super) struct Heap(Box<[UnsafeCell<u64>]>);

    impl Heap {
        pub(super) fn base(&self) -> NonNull<u8> {
            NonNull::from(&*self.0).cast()
        }
    }

    /// The kernel's side of a ring.
    struct Kernel<T> {
        shared: Shared<T>,
        memory: Rc<Heap>,
    }

    impl<T: Copy> Kernel<T> {
        /// With both positions at `start`.
        fn new(start: u32) -> Self {
            let words = (OFFSETS.desc as usize + SIZE as usize * size_of::<T>()) / 8;
            let memory = Rc::new(Heap((0..words).map(|_| UnsafeCell::new(0)).collect()));
            let shared = Self::share(&memory);
            shared.producer().store(start, Ordering::Relaxed);
            shared.consumer().store(start, Ordering::Relaxed);
            Self { shared, memory }
        }

        fn share(memory: &Rc<Heap>) -> Shared<T> {
            // SAFETY: the heap memory has all parts; the two sides of a test take turns on one thread.
            unsafe { Shared::new(Memory::Heap(Rc::clone(memory)), &OFFSETS, SIZE) }
        }

        fn producer(&self) -> Producer<T> {
            Producer::new(Self::share(&self.memory))
        }

        fn consumer(&self) -> Consumer<T> {
            Consumer::new(Self::share(&self.memory))
        }

        fn produce(&self, value: T) {
            let position = self.shared.producer().load(Ordering::Relaxed);
            self.shared.write(position, value);
            self.shared.producer().store(position.wrapping_add(1), Ordering::Release);
        }

        fn consume(&self) -> Option<T> {
            let position = self.shared.consumer().load(Ordering::Relaxed);
            if position == self.shared.producer().load(Ordering::Acquire) {
                return None;
            }
            let value = self.shared.read(position);
            self.shared.consumer().store(position.wrapping_add(1), Ordering::Release);
            Some(value)
        }
    }

    #[test]
    fn a_full_ring_has_no_room_until_the_kernel_consumes() {
        let kernel = Kernel::<u64>::new(0);
        let mut producer = kernel.producer();
        producer.produce(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(producer.room(), 0);
        assert_eq!(kernel.consume(), Some(1));
        assert_eq!(producer.room(), 1);
        producer.produce(&[9]);
        assert_eq!(std::iter::from_fn(|| kernel.consume()).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(producer.room(), SIZE);
    }

    #[test]
    #[should_panic(expected = "the ring has room")]
    fn more_than_fits_is_refused_before_anything_is_overwritten() {
        let kernel = Kernel::<u64>::new(0);
        kernel.producer().produce(&[0; SIZE as usize + 1]);
    }

    #[test]
    fn an_empty_ring_gives_nothing_and_a_full_one_everything_in_order() {
        let kernel = Kernel::<u64>::new(0);
        let mut consumer = kernel.consumer();
        let mut out = [0; 16];
        assert_eq!(consumer.consume(&mut out), 0);
        (0..8).for_each(|value| kernel.produce(value));
        assert_eq!(consumer.consume(&mut out), 8);
        assert_eq!(out[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(consumer.consume(&mut out), 0);
    }

    #[test]
    fn what_was_not_asked_for_stays_in_the_ring() {
        let kernel = Kernel::<u64>::new(0);
        let mut consumer = kernel.consumer();
        (0..5).for_each(|value| kernel.produce(value));
        let mut out = [0; 3];
        assert_eq!(consumer.consume(&mut out), 3);
        assert_eq!(
            kernel.shared.consumer().load(Ordering::Relaxed),
            3,
            "the kernel may reuse three places only"
        );
        assert_eq!(consumer.consume(&mut out), 2);
        assert_eq!(out[..2], [3, 4]);
    }

    #[test]
    fn positions_wrap_around_u32() {
        let start = u32::MAX - 3;
        let kernel = Kernel::<u64>::new(start);
        let mut producer = kernel.producer();
        producer.produce(&[10, 11, 12, 13, 14, 15, 16, 17]);
        assert_eq!(producer.room(), 0);
        assert_eq!(std::iter::from_fn(|| kernel.consume()).collect::<Vec<_>>(), (10..18).collect::<Vec<_>>());
        assert_eq!(producer.room(), SIZE);

        let kernel = Kernel::<u64>::new(start);
        let mut consumer = kernel.consumer();
        (20..28).for_each(|value| kernel.produce(value));
        let mut out = [0; 8];
        assert_eq!(consumer.consume(&mut out), 8);
        assert_eq!(out[..], (20..28).collect::<Vec<_>>());
        assert_eq!(kernel.shared.consumer().load(Ordering::Relaxed), 4);
    }

    #[test]
    fn the_kernels_wish_to_be_woken_is_read_anew() {
        let kernel = Kernel::<u64>::new(0);
        let producer = kernel.producer();
        assert!(!producer.needs_wakeup());
        kernel.shared.flags().store(NEED_WAKEUP, Ordering::Relaxed);
        assert!(producer.needs_wakeup());
        kernel.shared.flags().store(0, Ordering::Relaxed);
        assert!(!producer.needs_wakeup());
    }

    #[test]
    fn positions_that_cannot_be_give_no_more_than_the_ring_holds() {
        let kernel = Kernel::<Desc>::new(0);
        let mut consumer = kernel.consumer();
        kernel.shared.producer().store(1_000_000, Ordering::Relaxed);
        let mut out = [Desc::default(); 64];
        assert_eq!(consumer.consume(&mut out), SIZE as usize);

        let kernel = Kernel::<Desc>::new(100);
        let mut producer = kernel.producer();
        kernel.shared.consumer().store(101, Ordering::Relaxed);
        assert_eq!(producer.room(), SIZE, "nothing was produced that could have been consumed");
        kernel.shared.consumer().store(50, Ordering::Relaxed);
        assert_eq!(producer.room(), SIZE, "the kernel does not go back");
    }

    #[test]
    fn entries_come_out_as_the_kernel_wrote_them() {
        let kernel = Kernel::<Desc>::new(7);
        let desc = Desc { addr: u64::MAX - 5, len: u32::MAX, options: 0xdead_beef };
        kernel.produce(desc);
        let mut out = [Desc::default(); 2];
        assert_eq!(kernel.consumer().consume(&mut out), 1);
        assert_eq!(out[0], desc);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 256 }, ..ProptestConfig::default() })]

        /// Whatever the order of both sides' steps, every entry comes out once, in order.
        #[test]
        fn a_ring_is_a_bounded_queue(start: u32, steps in prop::collection::vec((any::<bool>(), 0usize..12), 0..100)) {
            let (down, up) = (Kernel::<u64>::new(start), Kernel::<u64>::new(start));
            let (mut producer, mut consumer) = (down.producer(), up.consumer());
            let (mut sent, mut arrived) = (VecDeque::new(), VecDeque::new());
            let mut next = 0;
            for (ours, count) in steps {
                if ours {
                    let count = count.min(producer.room() as usize);
                    let entries: Vec<_> = (next..next + count as u64).collect();
                    next += count as u64;
                    producer.produce(&entries);
                    sent.extend(entries);
                    let mut out = vec![0; count];
                    let taken = consumer.consume(&mut out);
                    prop_assert_eq!(taken, count.min(arrived.len()));
                    prop_assert_eq!(&out[..taken], arrived.drain(..taken).collect::<Vec<_>>());
                } else {
                    for _ in 0..count {
                        prop_assert_eq!(down.consume(), sent.pop_front());
                        if arrived.len() < SIZE as usize {
                            up.produce(next);
                            arrived.push_back(next);
                            next += 1;
                        }
                    }
                }
                prop_assert_eq!(producer.room() as usize, SIZE as usize - sent.len());
            }
        }
    }
}
