//! The Internet checksum (RFC 1071): sums over split buffers, copy and sum in one pass, the TCP/UDP pseudo-header, and
//! incremental update (RFC 1624).
//!
//! A [`Sum`] is a one's-complement sum under way; bytes are taken in native order, which RFC 1071 section 2 (B) allows,
//! and swapped once at the end.

use core::net::IpAddr;

/// A one's-complement sum under way over bytes added piece by piece, whatever the pieces' lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    total: u64,
    /// Whether an odd number of bytes was added so far.
    odd: bool,
}

impl Sum {
    /// The sum of no bytes.
    pub const ZERO: Self = Self { total: 0, odd: false };

    /// The sum of the pseudo-header of TCP or UDP (RFC 9293 section 3.1, RFC 8200 section 8.1) for `len` bytes of
    /// header and payload.
    #[must_use]
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> Self {
        let mut sum = Self::ZERO;
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                sum.total += u64::from(u32::from_ne_bytes(src.octets()));
                sum.total += u64::from(u32::from_ne_bytes(dst.octets()));
            }
            (src, dst) => {
                for addr in [src, dst] {
                    match addr {
                        IpAddr::V4(addr) => sum.add(&addr.to_ipv6_mapped().octets()),
                        IpAddr::V6(addr) => sum.add(&addr.octets()),
                    }
                }
            }
        }
        sum.total += u64::from(len.to_be()) + u64::from(u16::from(protocol).to_be());
        sum
    }

    /// Adds bytes behind those added before.
    pub fn add(&mut self, bytes: &[u8]) {
        self.join(sum_bytes(bytes), bytes.len());
    }

    /// Copies `src` to `dst` (same length) and adds its bytes, touching each once.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy_and_add(&mut self, dst: &mut [u8], src: &[u8]) {
        assert_eq!(dst.len(), src.len(), "copy and sum needs equal lengths");
        let whole = src.len() - src.len() % BLOCK;
        let mut total = if whole == 0 { 0 } else { copy_blocks(&mut dst[..whole], &src[..whole]) };
        dst[whole..].copy_from_slice(&src[whole..]);
        total += sum_bytes(&src[whole..]);
        self.join(total, src.len());
    }

    fn join(&mut self, part: u64, len: usize) {
        let mut part = u64::from(fold(part));
        if self.odd {
            part = u64::from((part as u16).swap_bytes());
        }
        self.total += part;
        self.odd ^= len % 2 == 1;
    }

    /// The sum folded to 16 bits, in host order, not complemented.
    #[must_use]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.total))
    }

    /// The checksum field for these bytes (with the field itself as zero): the complement, in host order.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// Whether bytes that include their checksum field are intact.
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

/// RFC 1624 section 3, equation 3: the checksum after a 16-bit word changed from `old` to `new` (all in host order).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Sum of native-order words: one's-complement addition does not care how many of its 16-bit words are added at a time.
fn sum_bytes(bytes: &[u8]) -> u64 {
    let blocks = bytes.chunks_exact(BLOCK);
    let tail = blocks.remainder();
    let mut total = if bytes.len() < BLOCK { 0 } else { sum_blocks(&bytes[..bytes.len() - tail.len()]) };
    let words = tail.chunks_exact(4);
    let rest = words.remainder();
    for word in words {
        total += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    total
        + match *rest {
            [a, b, c] => u64::from(u16::from_ne_bytes([a, b])) + u64::from(u16::from_ne_bytes([c, 0])),
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            [a] => u64::from(u16::from_ne_bytes([a, 0])),
            _ => 0,
        }
}

/// Bytes that the loops over long runs take at a time.
const BLOCK: usize = 64;

/// Sum of whole blocks' 32-bit words: no carries are lost in 64 bits.
fn sum_blocks(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { sum_blocks_avx2(bytes) };
    }
    sum_blocks_portable(bytes)
}

/// The same instructions for every CPU; where it may use AVX2, the compiler makes two of a word's of it.
#[inline(always)]
fn sum_blocks_portable(bytes: &[u8]) -> u64 {
    let mut sums = [0; BLOCK / 4];
    for block in bytes.chunks_exact(BLOCK) {
        for (sum, word) in sums.iter_mut().zip(block.chunks_exact(4)) {
            *sum += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    sums.iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_blocks_avx2(bytes: &[u8]) -> u64 {
    sum_blocks_portable(bytes)
}

/// Copies whole blocks and sums their 32-bit words.
fn copy_blocks(dst: &mut [u8], src: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { copy_blocks_avx2(dst, src) };
    }
    copy_blocks_portable(dst, src)
}

#[inline(always)]
fn copy_blocks_portable(dst: &mut [u8], src: &[u8]) -> u64 {
    let mut sums = [0; BLOCK / 4];
    for (to, from) in dst.chunks_exact_mut(BLOCK).zip(src.chunks_exact(BLOCK)) {
        to.copy_from_slice(from);
        for (sum, word) in sums.iter_mut().zip(from.chunks_exact(4)) {
            *sum += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    sums.iter().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn copy_blocks_avx2(dst: &mut [u8], src: &[u8]) -> u64 {
    copy_blocks_portable(dst, src)
}

/// Folds a sum to 16 bits with end-around carry.
fn fold(mut sum: u64) -> u16 {
    // From 64 bits to 33, 18, 17 and 16.
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word.
    fn direct(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn equals_the_direct_sum_however_split(bytes in prop::collection::vec(any::<u8>(), 0..2000), at in any::<prop::sample::Index>()) {
            let at = at.index(bytes.len() + 1);
            let mut sum = Sum::ZERO;
            sum.add(&bytes[..at]);
            let mut copy = vec![0; bytes.len() - at];
            sum.copy_and_add(&mut copy, &bytes[at..]);
            prop_assert_eq!(sum.folded(), direct(&bytes));
            prop_assert_eq!(&copy, &bytes[at..]);
        }

        #[test]
        fn incremental_update_equals_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 4..200), word in any::<prop::sample::Index>(), new in any::<u16>()) {
            bytes.truncate(bytes.len() & !1);
            bytes[0] |= 1; // an all-zero sum has two representations
            let mut sum = Sum::ZERO;
            sum.add(&bytes);
            let at = 2 + 2 * word.index((bytes.len() - 2) / 2);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let mut after = Sum::ZERO;
            after.add(&bytes);
            prop_assert_eq!(update(sum.checksum(), old, new), after.checksum());
        }
    }

    proptest! {
        #[test]
        fn what_runs_without_simd_sums_and_copies_alike(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
            let whole = &bytes[..bytes.len() - bytes.len() % BLOCK];
            prop_assert_eq!(fold(sum_blocks_portable(whole)), fold(sum_blocks(whole)));
            let mut copy = vec![0; whole.len()];
            prop_assert_eq!(copy_blocks_portable(&mut copy, whole), copy_blocks(&mut vec![0; whole.len()], whole));
            prop_assert_eq!(&copy, whole);
        }
    }

    #[test]
    fn the_largest_sums_lose_no_carry() {
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0x1_0000_0000_0000), 1);
        assert_eq!(fold(0xffff_ffff_0000_0001), 1);
    }

    #[test]
    fn a_packet_with_its_checksum_sums_to_all_ones() {
        let mut bytes =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        let mut sum = Sum::ZERO;
        sum.add(&bytes);
        assert_eq!(sum.checksum(), 0xb861);
        bytes[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
        let mut sum = Sum::ZERO;
        sum.add(&bytes);
        assert!(sum.is_valid());
    }
}
