//! Buffers that were given back, for the next who needs one of their size: in steady state, queues that fill and empty with
//! every packet allocate nothing.
//!
//! A shelf belongs to a thread, as an allocator's cache does, and a thread runs one shard. What is on it decides only where
//! memory comes from, never what the stack does. Sizes are rounded up to one of eight in each power of two, so that a buffer is
//! at most an eighth larger than asked for.

use core::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::limits::SPARE_BYTES;

/// Largest power of two of elements that is kept.
const OCTAVE_MAX: u32 = 20;
/// Sizes up to 15, then eight in each octave.
const CLASSES: usize = 16 + 8 * (OCTAVE_MAX as usize - 3);

/// A buffer that can be used again.
pub(crate) trait Buffer: Sized {
    /// How many elements it holds.
    fn capacity(&self) -> usize;
    /// Bytes of an element.
    const ELEMENT_BYTES: usize;
    /// An empty one with exactly this capacity.
    fn with_capacity(capacity: usize) -> Self;
}

impl<T> Buffer for Vec<T> {
    const ELEMENT_BYTES: usize = size_of::<T>();

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn with_capacity(capacity: usize) -> Self {
        Self::with_capacity(capacity)
    }
}

impl<T> Buffer for VecDeque<T> {
    const ELEMENT_BYTES: usize = size_of::<T>();

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn with_capacity(capacity: usize) -> Self {
        Self::with_capacity(capacity)
    }
}

impl Buffer for Rc<[u8]> {
    const ELEMENT_BYTES: usize = 1;

    fn capacity(&self) -> usize {
        self.len()
    }

    fn with_capacity(capacity: usize) -> Self {
        core::iter::repeat_n(0, capacity).collect()
    }
}

/// A thread's spare buffers of one kind; at most [`SPARE_BYTES`], what is given back beyond it is freed.
pub(crate) struct Shelf<B> {
    classes: RefCell<[Vec<B>; CLASSES]>,
    bytes: Cell<usize>,
}

impl<B: Buffer> Shelf<B> {
    pub(crate) const fn new() -> Self {
        Self { classes: RefCell::new([const { Vec::new() }; CLASSES]), bytes: Cell::new(0) }
    }

    /// A buffer for at least `capacity` elements: a spare one or a new one. What it held before may still be in it.
    #[inline]
    pub(crate) fn take(&self, capacity: usize) -> B {
        let (class, size) = round_up(capacity);
        match self.classes.borrow_mut().get_mut(class).and_then(Vec::pop) {
            Some(buffer) => {
                self.bytes.set(self.bytes.get() - size * B::ELEMENT_BYTES);
                buffer
            }
            None => B::with_capacity(size),
        }
    }

    /// As [`Shelf::take`], with room for `capacity` elements and no more; only sizes that are not rounded up are spared.
    #[inline]
    pub(crate) fn take_exact(&self, capacity: usize) -> B {
        if capacity.is_power_of_two() || round_up(capacity).1 == capacity {
            self.take(capacity)
        } else {
            B::with_capacity(capacity)
        }
    }

    /// Gives back a buffer, which must be empty.
    #[inline]
    pub(crate) fn give(&self, buffer: B) {
        let capacity = buffer.capacity();
        let bytes = self.bytes.get() + capacity * B::ELEMENT_BYTES;
        let (class, size) = round_up(capacity);
        if capacity == 0 || size != capacity || bytes > SPARE_BYTES {
            return;
        }
        if let Some(class) = self.classes.borrow_mut().get_mut(class) {
            self.bytes.set(bytes);
            class.push(buffer);
        }
    }
}

impl<T> Shelf<VecDeque<T>> {
    /// Moves the elements of `deque` to another with room for `capacity` of them.
    #[inline]
    pub(crate) fn resize(&self, deque: &mut VecDeque<T>, capacity: usize) {
        // Nearly always there is nothing to move: a queue that was empty begins.
        if deque.capacity() == 0 {
            // Without memory there is nothing to drop.
            core::mem::forget(core::mem::replace(deque, self.take(capacity)));
        } else {
            self.exchange(deque, capacity);
        }
    }

    fn exchange(&self, deque: &mut VecDeque<T>, capacity: usize) {
        let mut other = self.take(capacity);
        other.append(deque);
        self.give(core::mem::replace(deque, other));
    }

    /// Makes room for `more` elements, at least doubling what there is.
    #[inline]
    pub(crate) fn make_room(&self, deque: &mut VecDeque<T>, more: usize) {
        let wanted = deque.len() + more;
        if wanted > deque.capacity() {
            self.resize(deque, wanted.max(2 * deque.len()));
        }
    }

    /// Halves what a deque has too much of; gives it back when it is empty.
    #[inline]
    pub(crate) fn trim(&self, deque: &mut VecDeque<T>) {
        if deque.is_empty() {
            self.give(core::mem::take(deque));
        } else if deque.len() < deque.capacity() / 4 {
            self.resize(deque, 2 * deque.len());
        }
    }
}

/// The size that a buffer for `capacity` elements has.
pub(crate) fn rounded(capacity: usize) -> usize {
    round_up(capacity).1
}

/// The class that buffers for `capacity` elements are in, and how many they hold.
#[inline]
fn round_up(capacity: usize) -> (usize, usize) {
    if capacity < 16 {
        return (capacity, capacity);
    }
    if capacity.is_power_of_two() {
        // As below.
        return (16 + 8 * (capacity.trailing_zeros() as usize - 4), capacity);
    }
    let step_bits = capacity.ilog2() - 3;
    let size = capacity.div_ceil(1 << step_bits) << step_bits;
    // A size rounded up to the next power of two is the first of its octave.
    let octave = size.ilog2();
    let class = 16 + 8 * (octave as usize - 4) + ((size >> (octave - 3)) & 7);
    (class, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_buffer_given_back_is_the_next_of_its_size() {
        let shelf = Shelf::<Vec<u8>>::new();
        let buffer = shelf.take(1000);
        assert_eq!(buffer.capacity(), 1024);
        let place = buffer.as_ptr();
        shelf.give(buffer);
        let (other, same) = (shelf.take(100), shelf.take(961));
        assert_eq!((other.as_ptr() == place, same.as_ptr() == place), (false, true));
        assert_eq!(shelf.bytes.get(), 0);
    }

    #[test]
    fn a_shelf_holds_no_more_than_its_bound() {
        let shelf = Shelf::<Vec<u64>>::new();
        let buffers: Vec<_> = (0..2 * SPARE_BYTES / 8192).map(|_| shelf.take(1024)).collect();
        buffers.into_iter().for_each(|buffer| shelf.give(buffer));
        assert_eq!(shelf.bytes.get(), SPARE_BYTES);
        shelf.give(shelf.take(1 << 30 >> 10));
        assert!(shelf.bytes.get() <= SPARE_BYTES);
    }

    #[test]
    fn a_deque_keeps_its_elements_as_it_grows_and_shrinks() {
        let shelf = Shelf::new();
        let mut deque = VecDeque::new();
        for value in 0..1000 {
            shelf.make_room(&mut deque, 1);
            let before = deque.capacity();
            deque.push_back(value);
            assert_eq!(deque.capacity(), before, "it never grows by itself");
        }
        for value in 0..1000 {
            assert_eq!(deque.pop_front(), Some(value));
            shelf.trim(&mut deque);
            assert!(
                deque.capacity() <= 4 * deque.len().max(1) + 3,
                "{} for {}",
                deque.capacity(),
                deque.len()
            );
        }
        assert_eq!(deque.capacity(), 0);
    }

    proptest! {
        #[test]
        fn a_size_is_at_most_an_eighth_larger_and_classes_do_not_mix(a in 1usize..1 << 21, b in 1usize..1 << 21) {
            let ((class_a, size_a), (class_b, size_b)) = (round_up(a), round_up(b));
            prop_assert!(size_a >= a && size_a <= a + a / 8 + 1);
            prop_assert_eq!(class_a == class_b, size_a == size_b);
            prop_assert_eq!(round_up(size_a), (class_a, size_a));
            prop_assert!(class_a < CLASSES || size_a > 1 << OCTAVE_MAX);
        }
    }
}
