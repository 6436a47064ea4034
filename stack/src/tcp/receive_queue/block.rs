//! Heap blocks of received bytes: shared by count, written only by a run that has one alone, and returned to the thread's
//! spare blocks by the last who has it.

use core::fmt;
use core::ops::Deref;
use std::rc::Rc;

use crate::spares::Shelf;

thread_local! {
    static SPARES: Shelf<Rc<[u8]>> = const { Shelf::new() };
}

/// A share of a block; derefs to all of its bytes.
#[derive(Clone)]
pub struct Block(Option<Rc<[u8]>>);

impl fmt::Debug for Block {
    /// Its length: what of the bytes means anything only its owner knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.len())
    }
}

impl Block {
    /// A block of `size` bytes, at least as many as there are in `bytes`, that begins with them. The rest may hold anything.
    pub(super) fn new(bytes: &[u8], size: usize) -> Self {
        let mut block = Self(Some(SPARES.with(|spares| spares.take_exact(size))));
        block.own()[..bytes.len()].copy_from_slice(bytes);
        block
    }

    /// The bytes, to write. Only whoever has the block alone may ask.
    pub(super) fn own(&mut self) -> &mut [u8] {
        self.0.as_mut().and_then(Rc::get_mut).expect("a block in a run has one owner")
    }
}

impl From<Rc<[u8]>> for Block {
    fn from(bytes: Rc<[u8]>) -> Self {
        Self(Some(bytes))
    }
}

impl Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        if let Some(block) = self.0.take().filter(|block| Rc::strong_count(block) == 1) {
            let _ = SPARES.try_with(|spares| spares.give(block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_share_gives_a_block_back() {
        let block = Block::new(b"first", 64);
        let place = block.as_ptr();
        let other = block.clone();
        drop(block);
        let next = Block::new(b"second", 64);
        assert_ne!(next.as_ptr(), place);
        assert_eq!(&other[..5], b"first");
        drop(other);
        assert_eq!(Block::new(b"third", 64).as_ptr(), place);
    }

    #[test]
    fn a_block_has_exactly_the_size_asked_for() {
        for size in [64, 100, 1448, 4096, 5000] {
            assert_eq!(Block::new(b"x", size).len(), size);
        }
    }
}
