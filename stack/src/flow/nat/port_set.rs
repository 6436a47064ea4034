//! A set of port numbers in which one that is missing is found without asking for each: a word for 64 of them, and a bit for each
//! word that is full. Few words are a sorted list, so that a destination with a handful of flows costs little.

use core::cell::Cell;

/// Words of all 65,536 ports.
const WORDS: usize = 1024;
/// A list of more words becomes an array of 8.3 KiB.
const WORDS_LISTED: usize = 64;
/// An array of fewer ports becomes a list again, so that what few flows leave behind is not large: 260 bytes a flow at most.
const PORTS_LISTED: u32 = 32;

/// Some of the numbers from 0 to 65,535.
#[derive(Debug)]
pub(super) enum PortSet {
    /// Words that are not 0, by number.
    Few(Vec<(u16, u64)>),
    Many(Box<Words>),
}

#[derive(Debug)]
pub(super) struct Words {
    words: [u64; WORDS],
    /// A bit for each word that has all of its own.
    full: [u64; WORDS / 64],
    ports: u32,
}

impl Default for PortSet {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl PortSet {
    pub(super) fn insert(&mut self, port: u16) {
        let (word, bit) = (port / 64, 1 << (port % 64));
        if let Self::Few(list) = self {
            match list.binary_search_by_key(&word, |(number, _)| *number) {
                Ok(at) => return list[at].1 |= bit,
                Err(at) if list.len() < WORDS_LISTED => return list.insert(at, (word, bit)),
                Err(_) => *self = Self::Many(Box::new(Words::of(list))),
            }
        }
        if let Self::Many(all) = self {
            all.set(word, all.words[usize::from(word)] | bit);
        }
    }

    pub(super) fn remove(&mut self, port: u16) {
        let (word, bit) = (port / 64, 1 << (port % 64));
        match self {
            Self::Few(list) => {
                let Ok(at) = list.binary_search_by_key(&word, |(number, _)| *number) else { return };
                list[at].1 &= !bit;
                if list[at].1 == 0 {
                    list.remove(at);
                }
            }
            Self::Many(all) => {
                all.set(word, all.words[usize::from(word)] & !bit);
                if all.ports < PORTS_LISTED {
                    *self = Self::Few(all.list());
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(all) => all.ports == 0,
        }
    }

    fn word(&self, word: u16) -> u64 {
        match self {
            Self::Few(list) => {
                list.binary_search_by_key(&word, |(number, _)| *number).map_or(0, |at| list[at].1)
            }
            Self::Many(all) => all.words[usize::from(word)],
        }
    }

    /// The first word from `word` on that is not full, or a later number than all have.
    fn next_open(&self, word: u16) -> u16 {
        let Self::Many(all) = self else {
            return if self.word(word) == u64::MAX { word + 1 } else { word };
        };
        let mut at = word;
        while let Some(full) = all.full.get(usize::from(at / 64)) {
            let open = !full >> (at % 64);
            if open != 0 {
                return at + open.trailing_zeros() as u16;
            }
            at = (at / 64 + 1) * 64;
        }
        WORDS as u16
    }
}

impl Words {
    fn of(list: &[(u16, u64)]) -> Self {
        let mut all = Self { words: [0; WORDS], full: [0; WORDS / 64], ports: 0 };
        list.iter().for_each(|(word, bits)| all.set(*word, *bits));
        all
    }

    fn list(&self) -> Vec<(u16, u64)> {
        (0..).zip(self.words).filter(|(_, bits)| *bits != 0).collect()
    }

    fn set(&mut self, word: u16, bits: u64) {
        let old = core::mem::replace(&mut self.words[usize::from(word)], bits);
        self.ports = self.ports + bits.count_ones() - old.count_ones();
        let (full, bit) = (&mut self.full[usize::from(word / 64)], 1 << (word % 64));
        if bits == u64::MAX {
            *full |= bit;
        } else {
            *full &= !bit;
        }
    }
}

/// Which numbers [`first_missing`] looks at, as the bits of a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parity(u64);

impl Parity {
    pub(super) const ANY: Self = Self(u64::MAX);
    pub(super) const EVEN: Self = Self(0x5555_5555_5555_5555);
    pub(super) const ODD: Self = Self(!Self::EVEN.0);
}

/// The first number of this parity from `from` to `to` that none of the sets has and `accept` takes. At most a step for each word, and one for
/// each number that `accept` refuses; `steps` counts them.
pub(super) fn first_missing(
    sets: &[&PortSet],
    from: u16,
    to: u16,
    parity: Parity,
    steps: &Cell<u32>,
    mut accept: impl FnMut(u16) -> bool,
) -> Option<u16> {
    let (first, last) = (from / 64, to / 64);
    let mut word = first;
    while word <= last {
        steps.set(steps.get() + 1);
        let open = sets.iter().map(|set| set.next_open(word)).fold(word, u16::max);
        if open > word {
            word = open;
            continue;
        }
        let mut missing = !sets.iter().fold(0, |all, set| all | set.word(word)) & parity.0;
        if word == first {
            missing &= u64::MAX << (from % 64);
        }
        if word == last {
            missing &= u64::MAX >> (63 - to % 64);
        }
        while missing != 0 {
            let port = word * 64 + missing.trailing_zeros() as u16;
            if accept(port) {
                return Some(port);
            }
            steps.set(steps.get() + 1);
            missing &= missing - 1;
        }
        word += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ports() -> impl Strategy<Value = (u16, u16, bool)> {
        (any::<u16>(), 1u16..3000, prop::bool::weighted(0.8))
    }

    proptest! {
        /// As a set of numbers looked through one by one.
        #[test]
        fn the_first_missing_is_the_first_that_is_missing(
            first in prop::collection::vec(ports(), 0..12),
            second in prop::collection::vec(ports(), 0..12),
            bounds in any::<(u16, u16)>(),
            refused in any::<u16>(),
            parity in prop::sample::select(vec![Parity::ANY, Parity::EVEN, Parity::ODD]),
        ) {
            let mut models = [BTreeSet::new(), BTreeSet::new()];
            let mut sets = [PortSet::default(), PortSet::default()];
            for (at, runs) in [first, second].iter().enumerate() {
                for (start, len, add) in runs {
                    for port in *start..start.saturating_add(*len) {
                        if *add {
                            models[at].insert(port);
                            sets[at].insert(port);
                        } else {
                            models[at].remove(&port);
                            sets[at].remove(port);
                        }
                    }
                }
                prop_assert_eq!(sets[at].is_empty(), models[at].is_empty());
            }
            let (from, to) = (bounds.0.min(bounds.1), bounds.0.max(bounds.1));
            let accepts = |port: u16| port % 7 != refused % 7;
            let steps = Cell::new(0);
            let found = first_missing(&[&sets[0], &sets[1]], from, to, parity, &steps, accepts);
            let expected = (from..=to)
                .filter(|port| parity.0 >> (port % 64) & 1 != 0)
                .find(|port| !models.iter().any(|model| model.contains(port)) && accepts(*port));
            prop_assert_eq!(found, expected);
            for (model, set) in models.iter().zip(&mut sets) {
                model.iter().for_each(|port| set.remove(*port));
                prop_assert!(matches!(set, PortSet::Few(list) if list.is_empty()));
            }
        }
    }
}
