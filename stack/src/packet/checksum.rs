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
                sum.add(&src.octets());
                sum.add(&dst.octets());
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
        sum.add(&len.to_be_bytes());
        sum.add(&[0, protocol]);
        sum
    }

    /// Adds bytes behind those added before.
    pub fn add(&mut self, bytes: &[u8]) {
        self.join(sum_bytes(bytes), bytes.len());
    }

    /// Adds a 16-bit word in host order, behind an even number of bytes.
    pub fn add_word(&mut self, word: u16) {
        debug_assert!(!self.odd, "a word begins at an even offset");
        self.total += u64::from(word.to_be());
    }

    /// Copies `src` to `dst` (same length) and adds its bytes, touching each once.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy_and_add(&mut self, dst: &mut [u8], src: &[u8]) {
        assert_eq!(dst.len(), src.len(), "copy and sum needs equal lengths");
        let mut total = 0u64;
        let (mut to, mut from) = (dst.chunks_exact_mut(64), src.chunks_exact(64));
        for (to, from) in (&mut to).zip(&mut from) {
            to.copy_from_slice(from);
            total += sum_block(from);
        }
        to.into_remainder().copy_from_slice(from.remainder());
        total += sum_bytes(from.remainder());
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

/// Sum of the native-order 32-bit words of a 64-byte block: no carries are lost in 64 bits, and compilers make it SIMD.
fn sum_block(block: &[u8]) -> u64 {
    block
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .sum()
}

fn sum_bytes(bytes: &[u8]) -> u64 {
    let blocks = bytes.chunks_exact(64);
    let tail = blocks.remainder();
    let mut total: u64 = blocks.map(sum_block).sum();
    let words = tail.chunks_exact(2);
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total += words.map(|word| u64::from(u16::from_ne_bytes([word[0], word[1]]))).sum::<u64>();
    total
}

/// Folds a sum to 16 bits with end-around carry.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
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
