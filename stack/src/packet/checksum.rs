//! The Internet checksum (RFC 1071): sums over split buffers, copy and sum in one pass, the TCP/UDP pseudo-header, and
//! incremental update (RFC 1624).
//!
//! A [`Sum`] is a one's-complement sum under way; bytes are taken in native order, which RFC 1071 section 2 (B) allows,
//! and swapped once at the end. Long runs are summed with AVX2 where the CPU has it: std looks once and remembers.

#[cfg(target_arch = "x86_64")]
mod avx2;

use core::net::IpAddr;

/// Shorter runs than this are not worth the call into code for another CPU.
#[cfg(target_arch = "x86_64")]
const AVX2_MIN: usize = 128;
#[cfg(target_arch = "x86_64")]
const _: () = assert!(AVX2_MIN >= avx2::MIN);

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

    /// The sum of an even number of bytes, made elsewhere of their native-order words of 16 or 32 bits.
    #[inline]
    #[must_use]
    pub(crate) fn of_words(total: u64) -> Self {
        Self { total, odd: false }
    }

    /// The sum of the pseudo-header of TCP or UDP (RFC 9293 section 3.1, RFC 8200 section 8.1) for `len` bytes of
    /// header and payload.
    #[inline]
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
        let rest = u64::from(len.to_be()) + u64::from(u16::from(protocol).to_be());
        Self { total: add_around(sum.total, rest), ..sum }
    }

    /// Adds bytes behind those added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        self.join(sum_bytes(bytes), bytes.len());
    }

    /// Adds a 16-bit word in host order, behind an even number of bytes.
    #[inline]
    pub fn add_word(&mut self, word: u16) {
        debug_assert!(!self.odd, "a word begins at an even offset");
        self.total = add_around(self.total, u64::from(word.to_be()));
    }

    /// Adds a 32-bit word in host order, behind an even number of bytes.
    #[inline]
    pub fn add_long(&mut self, word: u32) {
        debug_assert!(!self.odd, "a word begins at an even offset");
        self.total += u64::from(word.to_be());
    }

    /// Copies `src` to `dst` (same length) and adds its bytes, touching each once.
    ///
    /// # Panics
    /// When the lengths differ.
    #[inline]
    pub fn copy_and_add(&mut self, dst: &mut [u8], src: &[u8]) {
        assert_eq!(dst.len(), src.len(), "copy and sum needs equal lengths");
        self.join(copy_and_sum_bytes(dst, src), src.len());
    }

    /// One's-complement sums of 64 bits are sums of 16 bits not yet folded: their carries go around as well, and to begin at
    /// an odd offset turns them by a byte.
    #[inline]
    fn join(&mut self, part: u64, len: usize) {
        let part = if self.odd { part.rotate_left(8) } else { part };
        self.total = add_around(self.total, part);
        self.odd ^= len % 2 == 1;
    }

    /// The sum folded to 16 bits, in host order, not complemented.
    #[inline]
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

/// Sum of the native-order 32-bit words of a 64-byte block: no carries are lost in 64 bits, and compilers make it SIMD.
fn sum_block(block: &[u8]) -> u64 {
    block
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .sum()
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn sum_bytes(bytes: &[u8]) -> u64 {
    if bytes.len() < AVX2_MIN || !is_x86_feature_detected!("avx2") {
        return portable_sum(bytes);
    }
    // SAFETY: the CPU has AVX2.
    unsafe { avx2::sum(bytes) }
}

#[cfg(not(target_arch = "x86_64"))]
fn sum_bytes(bytes: &[u8]) -> u64 {
    portable_sum(bytes)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn copy_and_sum_bytes(dst: &mut [u8], src: &[u8]) -> u64 {
    if src.len() < AVX2_MIN {
        return short_copy_and_sum(dst, src);
    }
    if !is_x86_feature_detected!("avx2") {
        return portable_copy_and_sum(dst, src);
    }
    // SAFETY: the CPU has AVX2.
    unsafe { avx2::copy_and_sum(dst, src) }
}

#[cfg(not(target_arch = "x86_64"))]
fn copy_and_sum_bytes(dst: &mut [u8], src: &[u8]) -> u64 {
    portable_copy_and_sum(dst, src)
}

/// For what is too short for wider registers to pay.
#[cfg(target_arch = "x86_64")]
fn short_copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
    let (to, to_rest) = dst.as_chunks_mut::<32>();
    let (from, rest) = src.as_chunks::<32>();
    let mut total = 0u128;
    for (to, from) in to.iter_mut().zip(from) {
        let (to, from) = (to.as_chunks_mut::<8>().0, from.as_chunks::<8>().0);
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
            total += u128::from(u64::from_ne_bytes(*from));
        }
    }
    let total = add_around(total as u64, (total >> 64) as u64);
    if rest.is_empty() {
        return total;
    }
    to_rest.copy_from_slice(rest);
    add_around(total, portable_sum(rest))
}

fn portable_copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
    let mut total = 0u64;
    let (mut to, mut from) = (dst.chunks_exact_mut(64), src.chunks_exact(64));
    for (to, from) in (&mut to).zip(&mut from) {
        to.copy_from_slice(from);
        total += sum_block(from);
    }
    to.into_remainder().copy_from_slice(from.remainder());
    add_around(total, portable_sum(from.remainder()))
}

fn portable_sum(bytes: &[u8]) -> u64 {
    let blocks = bytes.chunks_exact(64);
    let tail = blocks.remainder();
    let mut total: u64 = blocks.map(sum_block).sum();
    // One's-complement addition does not care how many of its 16-bit words are added at a time.
    let (words, rest) = tail.as_chunks::<8>();
    for word in words {
        total = add_around(total, u64::from_ne_bytes(*word));
    }
    let (half, rest) = match rest.split_first_chunk::<4>() {
        Some((half, rest)) => (u64::from(u32::from_ne_bytes(*half)), rest),
        None => (0, rest),
    };
    let last = match *rest {
        [a, b, c] => u64::from(u16::from_ne_bytes([a, b])) + u64::from(u16::from_ne_bytes([c, 0])),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a] => u64::from(u16::from_ne_bytes([a, 0])),
        _ => 0,
    };
    add_around(total, half + last)
}

/// One's-complement addition of 64 bits.
#[inline]
fn add_around(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    sum + u64::from(carry)
}

/// Folds a sum to 16 bits with end-around carry.
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    // At most 33 bits are left, then 18, then 17.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
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
        fn equals_the_direct_sum_however_split(bytes in prop::collection::vec(any::<u8>(), 0..9000), at in any::<prop::sample::Index>()) {
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

    /// Lengths around the blocks' and the two paths' ends, and one in 97 up to jumbo frames: few under Miri.
    fn lengths() -> impl Iterator<Item = usize> {
        let step = if cfg!(miri) { 2999 } else { 97 };
        (0..=if cfg!(miri) { 66 } else { 330 }).chain((331..=9000).step_by(step)).chain([9000])
    }

    #[test]
    fn every_length_and_alignment_is_summed_and_copied_rightly() {
        let source: Vec<u8> = (0..9064u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut copy = vec![0; 9100];
        for len in lengths() {
            for (from, to) in [(0, 0), (1, 0), (0, 3), (7, 31), (32, 33), (63, 17)] {
                let bytes = &source[from..from + len];
                let (mut sum, mut copied) = (Sum::ZERO, Sum::ZERO);
                sum.add(bytes);
                copy.fill(0);
                copied.copy_and_add(&mut copy[to..to + len], bytes);
                assert_eq!(
                    (sum.folded(), copied.folded()),
                    (direct(bytes), direct(bytes)),
                    "{len} from {from}"
                );
                assert_eq!(&copy[to..to + len], bytes, "{len} from {from} to {to}");
                assert!(copy[..to].iter().chain(&copy[to + len..]).all(|byte| *byte == 0), "{len} to {to}");
            }
        }
    }

    #[test]
    fn the_portable_sum_is_that_of_this_cpu() {
        let source: Vec<u8> = (0..9000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let (mut one, mut other) = (vec![0; 9000], vec![0; 9000]);
        for len in lengths() {
            let bytes = &source[..len];
            assert_eq!(fold(portable_sum(bytes)), fold(sum_bytes(bytes)), "{len}");
            let portable = portable_copy_and_sum(&mut one[..len], bytes);
            assert_eq!(fold(portable), fold(copy_and_sum_bytes(&mut other[..len], bytes)), "{len}");
            assert_eq!(one[..len], other[..len], "{len}");
        }
    }

    #[test]
    fn the_largest_sums_lose_no_carry() {
        let bytes = vec![0xff; 65_536];
        let mut sum = Sum::ZERO;
        for _ in 0..10 {
            sum.add(&bytes[..65_535]);
        }
        let direct = direct(&bytes);
        assert_eq!((sum.folded(), direct), (0xffff, 0xffff));
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
