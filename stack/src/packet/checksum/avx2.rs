//! The sum of 32-bit words with AVX2, in three instructions for 32 bytes: half of what compilers make of the portable loop.
//! Each 64-bit lane is added as it is, modulo 2^64, and its upper half by itself; what the lower halves come to, which needs
//! no more than 64 bits, follows from both.

use core::arch::x86_64::{
    __m256i, _mm_add_epi64, _mm_cvtsi128_si64, _mm_extract_epi64, _mm256_add_epi64, _mm256_and_si256,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_setzero_si256,
    _mm256_slli_epi64, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_sub_epi64,
};

/// Bytes of a register.
const LEN: usize = 32;
/// The least that [`sum`] and [`copy_and_sum`] take: a register and a byte, as the last of an odd number stands alone.
pub(super) const MIN: usize = LEN + 1;

/// The native-order sum of `bytes`, of which there are at least [`MIN`], as 32-bit words and what is left of them.
#[target_feature(enable = "avx2")]
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = Lanes::new();
    let (pairs, rest) = bytes.as_chunks::<{ 2 * LEN }>();
    for pair in pairs {
        let [first, second] = load_pair(pair);
        lanes.add(first);
        lanes.add(second);
    }
    if let Some(one) = rest.first_chunk() {
        lanes.add(load(one));
    }
    lanes.add_last(bytes);
    lanes.total() + last_odd(bytes)
}

/// Copies `src`, of which there are at least [`MIN`] bytes, to `dst`, which has the same length, and returns its sum as [`sum`]
/// does.
#[target_feature(enable = "avx2")]
pub(super) fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
    let mut lanes = Lanes::new();
    let ((to, to_rest), (from, from_rest)) =
        (dst.as_chunks_mut::<{ 2 * LEN }>(), src.as_chunks::<{ 2 * LEN }>());
    for (to, from) in to.iter_mut().zip(from) {
        let [first, second] = load_pair(from);
        store_pair(to, [first, second]);
        lanes.add(first);
        lanes.add(second);
    }
    if let (Some(to), Some(from)) = (to_rest.first_chunk_mut(), from_rest.first_chunk()) {
        let one = load(from);
        store(to, one);
        lanes.add(one);
    }
    // The last register's length once more: what is in front of the rest is written as it is there already.
    if let (Some(to), Some(from)) = (dst.last_chunk_mut(), src.last_chunk()) {
        store(to, load(from));
    }
    lanes.add_last(src);
    lanes.total() + last_odd(src)
}

/// The last byte of an odd number of them, with a zero behind it.
fn last_odd(bytes: &[u8]) -> u64 {
    match bytes {
        [.., last] if bytes.len() % 2 == 1 => u64::from(u16::from_ne_bytes([*last, 0])),
        _ => 0,
    }
}

/// Sums of 64-bit lanes: modulo 2^64, and of their upper halves, of which 2^32 fit into each.
struct Lanes {
    all: __m256i,
    upper: __m256i,
}

impl Lanes {
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        Self { all: _mm256_setzero_si256(), upper: _mm256_setzero_si256() }
    }

    #[target_feature(enable = "avx2")]
    fn add(&mut self, lanes: __m256i) {
        self.all = _mm256_add_epi64(self.all, lanes);
        self.upper = _mm256_add_epi64(self.upper, _mm256_srli_epi64::<32>(lanes));
    }

    /// Adds what is behind the last whole register's length of `bytes`, but for the last byte of an odd number: that is what a
    /// register holds that ends there, but for its front.
    #[target_feature(enable = "avx2")]
    fn add_last(&mut self, bytes: &[u8]) {
        const FRONT_AND_BACK: [u8; 2 * LEN] = {
            let mut mask = [0; 2 * LEN];
            let mut at = LEN;
            while at < mask.len() {
                mask[at] = u8::MAX;
                at += 1;
            }
            mask
        };
        let even = &bytes[..bytes.len() & !1];
        let (Some(last), Some(mask)) = (even.last_chunk(), FRONT_AND_BACK[even.len() % LEN..].first_chunk())
        else {
            return;
        };
        self.add(_mm256_and_si256(load(last), load(mask)));
    }

    #[target_feature(enable = "avx2")]
    fn total(self) -> u64 {
        let lower = _mm256_sub_epi64(self.all, _mm256_slli_epi64::<32>(self.upper));
        let four = _mm256_add_epi64(lower, self.upper);
        let two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four));
        (_mm_cvtsi128_si64(two) as u64) + (_mm_extract_epi64::<1>(two) as u64)
    }
}

#[target_feature(enable = "avx2")]
fn load(from: &[u8; LEN]) -> __m256i {
    // SAFETY: the load lies within the array's bytes and wants no alignment.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn load_pair(from: &[u8; 2 * LEN]) -> [__m256i; 2] {
    let at = from.as_ptr().cast::<__m256i>();
    // SAFETY: both loads lie within the array's bytes and want no alignment.
    unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
}

#[target_feature(enable = "avx2")]
fn store(to: &mut [u8; LEN], lanes: __m256i) {
    // SAFETY: the store lies within the array's bytes and wants no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), lanes) };
}

#[target_feature(enable = "avx2")]
fn store_pair(to: &mut [u8; 2 * LEN], [first, second]: [__m256i; 2]) {
    let at = to.as_mut_ptr().cast::<__m256i>();
    // SAFETY: both stores lie within the array's bytes and want no alignment.
    unsafe {
        _mm256_storeu_si256(at, first);
        _mm256_storeu_si256(at.add(1), second);
    }
}
