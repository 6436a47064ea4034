//! From the hashes of tuples to places, for the connection table: a hash table that is read in one cache line. Eight entries
//! share a line, each a hash and a number; those that find no room in their own are in the next that has some. Whose tuple a
//! place has, the caller tells.

use crate::packet::{advise_huge_pages, prefetch};

/// Entries of a line.
const WIDTH: usize = 8;
/// Entries of a line on average, at most: beyond, the table doubles. Of lines filled by chance to that extent a quarter is full.
const WIDTH_FILLED: usize = 7;
/// No entry: none behind it in its line, and what belongs to this line is in no other.
const EMPTY: u32 = u32::MAX;
/// No entry any more, in a line that was full.
const GRAVE: u32 = u32::MAX - 1;

#[derive(Clone)]
#[repr(align(64))]
struct Line {
    hashes: [u32; WIDTH],
    numbers: [u32; WIDTH],
}

impl Line {
    const EMPTY: Self = Self { hashes: [0; WIDTH], numbers: [EMPTY; WIDTH] };

    /// The entries, by bits, that have this hash; graves may, too.
    #[inline]
    fn matches(&self, hash: u32) -> u32 {
        // In a way that becomes two comparisons of four numbers each.
        let mut bits = [0; WIDTH / 2];
        let (front, back) = self.hashes.split_at(WIDTH / 2);
        for (place, bits) in bits.iter_mut().enumerate() {
            let one = if front[place] == hash { 1 } else { 0 };
            let other = if back[place] == hash { 1 << (WIDTH / 2) } else { 0 };
            *bits = (one | other) << place;
        }
        bits.into_iter().fold(0, |all, bits| all | bits)
    }

    fn is_full(&self) -> bool {
        self.numbers[WIDTH - 1] != EMPTY
    }
}

/// The table. Numbers are below [`TupleIndex::NUMBERS`].
pub(super) struct TupleIndex {
    /// A power of two, or none.
    lines: Vec<Line>,
    len: usize,
    /// Those that are not [`EMPTY`].
    used: usize,
}

impl TupleIndex {
    /// Numbers that entries can have.
    pub(super) const NUMBERS: u32 = GRAVE;

    pub(super) const fn new() -> Self {
        Self { lines: Vec::new(), len: 0, used: 0 }
    }

    /// Begins to load where an entry with this hash would be.
    #[inline]
    pub(super) fn prefetch(&self, hash: u32) {
        self.lines.get(self.line_of(hash)).into_iter().for_each(prefetch);
    }

    #[inline]
    fn line_of(&self, hash: u32) -> usize {
        hash as usize & self.lines.len().wrapping_sub(1)
    }

    /// The number of an entry with this hash that `is_it` takes for the one.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.line_of(hash);
        loop {
            let line = self.lines.get(at)?;
            let mut bits = line.matches(hash);
            while bits != 0 {
                let number = line.numbers[bits.trailing_zeros() as usize % WIDTH];
                if number < Self::NUMBERS && is_it(number) {
                    return Some(number);
                }
                bits &= bits - 1;
            }
            if !line.is_full() {
                return None;
            }
            at = self.following(at);
        }
    }

    /// Never all lines are full.
    fn following(&self, line: usize) -> usize {
        (line + 1) & (self.lines.len() - 1)
    }

    /// Where the entry is that has this hash and number.
    fn locate(&self, hash: u32, number: u32) -> Option<(usize, usize)> {
        let mut at = self.line_of(hash);
        loop {
            let line = self.lines.get(at)?;
            let place =
                (0..WIDTH).find(|place| line.numbers[*place] == number && line.hashes[*place] == hash);
            if let Some(place) = place {
                return Some((at, place));
            }
            if !line.is_full() {
                return None;
            }
            at = self.following(at);
        }
    }

    /// Adds an entry. There may be others with this hash, but none with this number. O(1), and all when the table grows.
    pub(super) fn insert(&mut self, hash: u32, number: u32) {
        debug_assert!(number < Self::NUMBERS);
        if self.used >= self.lines.len() * WIDTH_FILLED {
            self.rebuild();
        }
        self.put(hash, number);
        self.len += 1;
    }

    fn put(&mut self, hash: u32, number: u32) {
        let mut at = self.line_of(hash);
        loop {
            let line = &mut self.lines[at];
            if let Some(place) = line.numbers.iter().position(|number| *number >= Self::NUMBERS) {
                self.used += usize::from(line.numbers[place] == EMPTY);
                (line.hashes[place], line.numbers[place]) = (hash, number);
                return;
            }
            at = self.following(at);
        }
    }

    /// Gives the entry with this hash and the number `from` another; whether there is one.
    pub(super) fn renumber(&mut self, hash: u32, from: u32, to: u32) -> bool {
        debug_assert!(to < Self::NUMBERS);
        let Some((line, place)) = self.locate(hash, from) else { return false };
        self.lines[line].numbers[place] = to;
        true
    }

    /// Takes out the entry with this hash and number; whether there was one.
    pub(super) fn remove(&mut self, hash: u32, number: u32) -> bool {
        let Some((at, place)) = self.locate(hash, number) else { return false };
        self.len -= 1;
        let line = &mut self.lines[at];
        if line.is_full() {
            // What belongs here may be in the next line.
            line.numbers[place] = GRAVE;
            return true;
        }
        let last = line.numbers.iter().rposition(|number| *number != EMPTY).unwrap_or(place);
        (line.hashes[place], line.numbers[place]) = (line.hashes[last], line.numbers[last]);
        line.numbers[last] = EMPTY;
        self.used -= 1;
        true
    }

    /// Makes a table without graves, of twice the size unless graves were half of what filled it.
    fn rebuild(&mut self) {
        let grows = self.len >= self.lines.len() * WIDTH_FILLED / 2;
        let count = if grows { (self.lines.len() * 2).max(1) } else { self.lines.len() };
        let mut lines = Vec::with_capacity(count);
        advise_huge_pages(lines.spare_capacity_mut());
        lines.resize(count, Line::EMPTY);
        self.used = 0;
        for line in core::mem::replace(&mut self.lines, lines) {
            for (hash, number) in line.hashes.into_iter().zip(line.numbers) {
                if number < Self::NUMBERS {
                    self.put(hash, number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_a_cache_line() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
    }

    #[test]
    fn equal_hashes_are_told_apart_by_the_caller() {
        let mut index = TupleIndex::new();
        assert_eq!(index.find(7, |_| true), None);
        assert!(!index.remove(7, 0) && !index.renumber(7, 0, 1));
        (0..100).for_each(|number| index.insert(7, number));
        for number in 0..100 {
            assert_eq!(index.find(7, |it| it == number), Some(number));
        }
        assert_eq!(index.find(7, |_| false), None);
        assert_eq!(index.find(8, |_| true), None);
    }

    #[test]
    fn it_is_never_filled_beyond_its_bound_and_graves_make_room() {
        let mut index = TupleIndex::new();
        let hash = |number: u32| number.wrapping_mul(0x9e37_79b1);
        (0..10_000).for_each(|number| index.insert(hash(number), number));
        let lines = index.lines.len();
        assert_eq!(lines, 2048);
        // Comings and goings need no more room.
        for number in 10_000..200_000 {
            assert!(index.remove(hash(number - 10_000), number - 10_000));
            index.insert(hash(number), number);
            assert!(index.used <= index.lines.len() * WIDTH_FILLED);
        }
        assert_eq!((index.lines.len(), index.len), (lines, 10_000));
        for number in 0..200_000 {
            let found = (number >= 190_000).then_some(number);
            assert_eq!(index.find(hash(number), |it| it == number), found);
        }
    }

    proptest! {
        /// Any comings and goings, with hashes that crowd in few lines, leave what a plain list would have.
        #[test]
        fn it_has_what_was_put_in(
            steps in prop::collection::vec((0u8..6, 0u32..40, any::<prop::sample::Index>()), 0..400)
        ) {
            let (mut index, mut model, mut next) = (TupleIndex::new(), Vec::<(u32, u32)>::new(), 0);
            for (step, hash, pick) in steps {
                match step {
                    0..=2 => {
                        index.insert(hash, next);
                        model.push((hash, next));
                        next += 1;
                    }
                    3..=4 if !model.is_empty() => {
                        let (hash, number) = model.swap_remove(pick.index(model.len()));
                        prop_assert!(index.remove(hash, number));
                        prop_assert!(!index.remove(hash, number));
                    }
                    5 if !model.is_empty() => {
                        let picked = pick.index(model.len());
                        let entry = &mut model[picked];
                        prop_assert!(index.renumber(entry.0, entry.1, next));
                        entry.1 = next;
                        next += 1;
                    }
                    _ => {}
                }
                prop_assert_eq!(index.len, model.len());
                let used = index.lines.iter().flat_map(|line| line.numbers).filter(|number| *number != EMPTY).count();
                prop_assert_eq!(index.used, used);
                for (hash, number) in &model {
                    prop_assert_eq!(index.find(*hash, |it| it == *number), Some(*number));
                }
                for hash in 0..40 {
                    let mut seen = Vec::new();
                    prop_assert_eq!(index.find(hash, |number| { seen.push(number); false }), None);
                    seen.sort_unstable();
                    let mut all: Vec<u32> =
                        model.iter().filter(|(other, _)| *other == hash).map(|(_, number)| *number).collect();
                    all.sort_unstable();
                    prop_assert_eq!(seen, all);
                }
            }
        }
    }
}
