//! A hint to the kernel: memory that is used all over, place by place without an order, had better be in huge pages. Each of
//! them is found by one entry of the processor's table of addresses, which has room for some thousand.

use core::mem::MaybeUninit;

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Asks for huge pages for what of `memory`, which nothing was written to yet, is whole ones. Where the system has none for the
/// asking it is as before; memory is taken up as it is written to, but then 2 MiB at a time.
pub(crate) fn advise_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let range = memory.as_mut_ptr_range();
    let start = range.start.map_addr(|addr| addr.next_multiple_of(HUGE_PAGE));
    let end = range.end.addr() / HUGE_PAGE * HUGE_PAGE;
    if start.addr() < end {
        // SAFETY: the pages are all `memory`'s, and the advice changes nothing but the size of pages that they get.
        unsafe { libc::madvise(start.cast(), end - start.addr(), libc::MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_any_size_can_be_asked_for() {
        for len in [0, 1, HUGE_PAGE - 1, 5 * HUGE_PAGE + 7] {
            let mut memory: Vec<u8> = Vec::with_capacity(len);
            advise_huge_pages(memory.spare_capacity_mut());
            memory.resize(len, 7);
            assert!(memory.iter().all(|byte| *byte == 7));
        }
        let mut nothing: Vec<()> = Vec::new();
        advise_huge_pages(nothing.spare_capacity_mut());
    }
}
