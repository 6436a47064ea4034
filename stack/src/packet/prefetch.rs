//! A hint to the processor: what is read soon had better be on its way from memory meanwhile.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Begins to load all of `value` into the cache, and waits for nothing. Where the processor has no such hint, or Rust none for
/// it, it does nothing.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    prefetch_part::<T, 0, { usize::MAX }>(value);
}

/// As [`prefetch`], for the bytes of `value` from `START` on and before `END`.
#[inline]
pub(crate) fn prefetch_part<T, const START: usize, const END: usize>(value: &T) {
    let end = size_of::<T>().min(END);
    // A number that is known when this is compiled, so that it becomes that many hints. Where a line begins is not known of
    // what is not aligned to one: its last byte may be in one more.
    (START..end).step_by(LINE).for_each(|at| hint(value, at));
    if align_of::<T>() < LINE && START < end {
        hint(value, end - 1);
    }
}

/// As [`prefetch`], for at most `most` of the first of `bytes`.
#[inline]
pub(crate) fn prefetch_front(bytes: &[u8], most: usize) {
    let front = &bytes[..bytes.len().min(most)];
    front.iter().step_by(LINE).chain(front.last()).for_each(|byte| hint(byte, 0));
}

#[inline]
fn hint<T>(value: &T, at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program could see and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast::<i8>().wrapping_add(at)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_can_be_asked_for() {
        prefetch(&());
        prefetch(&7u8);
        prefetch(&[0u64; 1000]);
        prefetch(&[1u8; 130]);
        prefetch_part::<_, 128, 8000>(&[0u64; 1000]);
        prefetch_part::<_, 64, 200>(&[1u8; 130]);
        prefetch_part::<_, 200, 300>(&[1u8; 130]);
        prefetch_front(&[1u8; 130], 66);
        prefetch_front(&[1u8; 60], 66);
        prefetch_front(&[], 66);
    }
}
