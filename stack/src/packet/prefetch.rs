//! A hint to the processor: what is read soon had better be on its way from memory meanwhile.

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Begins to load all of `value` into the cache, and waits for nothing. Where the processor has no such hint, or Rust none for
/// it, it does nothing.
pub(crate) fn prefetch<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = core::ptr::from_ref(value).cast::<i8>();
        let end = first.addr() + size_of_val(value);
        let lines = (end - first.addr() / LINE * LINE).div_ceil(LINE);
        for line in 0..lines {
            // SAFETY: a prefetch reads nothing that the program could see and never faults, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(line * LINE)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_can_be_asked_for() {
        prefetch(&());
        prefetch(&7u8);
        prefetch(&[0u64; 1000]);
        prefetch(&[1u8; 130][63..]);
        prefetch::<[u8]>(&[]);
    }
}
