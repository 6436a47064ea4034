//! A hasher with a secret for tables whose keys strangers choose: SipHash, keyed from the configuration's seed, so that
//! nobody outside can aim for one bucket and a simulation still repeats to the byte.

use core::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// Makes hashers with the two halves of the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyedState(pub(crate) (u64, u64));

impl BuildHasher for KeyedState {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0.0, self.0.1)
    }
}
