//! Handles that notice when what they named is gone: a slab whose entries carry a generation.

use slab::Slab;

/// Index and generation.
pub(crate) type Handle = (u32, u32);

/// At most `max` values.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slab: Slab<(u32, T)>,
    generation: u32,
    max: usize,
}

impl<T> Slots<T> {
    pub(crate) fn new(max: usize) -> Self {
        Self { slab: Slab::new(), generation: 0, max }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slab.len() >= self.max
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// `None`: full.
    pub(crate) fn insert(&mut self, value: T) -> Option<Handle> {
        if self.is_full() {
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        Some((self.slab.insert((self.generation, value)) as u32, self.generation))
    }

    pub(crate) fn get(&self, (index, generation): Handle) -> Option<&T> {
        self.slab.get(index as usize).filter(|slot| slot.0 == generation).map(|slot| &slot.1)
    }

    pub(crate) fn get_mut(&mut self, (index, generation): Handle) -> Option<&mut T> {
        self.slab.get_mut(index as usize).filter(|slot| slot.0 == generation).map(|slot| &mut slot.1)
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<T> {
        self.get(handle)?;
        Some(self.slab.remove(handle.0 as usize).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_names_nothing() {
        let mut slots = Slots::new(2);
        let old = slots.insert('a').unwrap();
        assert_eq!(slots.remove(old), Some('a'));
        let new = slots.insert('b').unwrap();
        assert_eq!(old.0, new.0, "the place is used again");
        assert_eq!((slots.get(old), slots.get_mut(old), slots.remove(old)), (None, None, None));
        assert_eq!(slots.get(new), Some(&'b'));
    }

    #[test]
    fn there_are_no_more_than_the_bound() {
        let mut slots = Slots::new(1);
        assert!(slots.is_empty() && !slots.is_full());
        assert!(slots.insert(1).is_some());
        assert!(slots.is_full() && slots.insert(2).is_none());
    }
}
