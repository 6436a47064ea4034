//! Initial sequence numbers (RFC 9293 section 3.4.1, RFC 6528) and timestamp offsets (RFC 7323 section 5.4): keyed
//! hashes that nobody off the path can guess, the same on every shard of the stack.

use core::cell::Cell;
use core::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

use super::Tuple;
use super::seq::SeqNumber;
use super::table::TupleKey;
use crate::time::Instant;

/// Bytes in the form of an endpoint that is hashed: family, address, port.
const ENDPOINT_LEN: usize = 1 + 16 + 2;

/// The secret behind sequence numbers and timestamps; one for the whole stack, made at its start.
#[derive(Clone)]
pub struct IsnSecret {
    isn: SipHasher24,
    timestamp: SipHasher24,
    /// What this shard adds to sequence numbers.
    shard_offset: u32,
    /// The addresses that were asked about last, and their timestamps' offset: a peer seldom opens one connection only.
    last_offset: Cell<Option<([u8; 32], u32)>>,
}

impl core::fmt::Debug for IsnSecret {
    /// Tells nothing.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("IsnSecret")
    }
}

impl IsnSecret {
    /// Secrets derived from `seed`, which must be unpredictable on a real network.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        let (isn, timestamp) = (derive(&seed, b"isn"), derive(&seed, b"timestamp"));
        Self { isn, timestamp, shard_offset: 0, last_offset: Cell::new(None) }
    }

    /// For shard `shard` of `shards`, whose numbers for one connection lie apart by an equal part of all numbers. When a SYN
    /// and its duplicate come to two shards, both answer; the peer's ACKs must fit only the one it believes, for as long
    /// as the other waits.
    #[must_use]
    pub fn for_shard(self, shard: u16, shards: u16) -> Self {
        let part = u32::MAX / u32::from(shards.max(1));
        Self { shard_offset: part.wrapping_mul(shard.into()), ..self }
    }

    /// The initial sequence number for a connection opened at `now`: a clock that counts 4 microseconds plus a keyed
    /// hash of the tuple, so that a later connection of the same tuple (on the same shard) starts further on.
    /// RFC 9293 section 3.4.1, MUST-8, SHLD-1, MUST-9.
    #[must_use]
    pub fn isn(&self, now: Instant, tuple: &Tuple) -> SeqNumber {
        self.isn_of(now, &TupleKey::new(tuple.local, tuple.remote))
    }

    /// As [`IsnSecret::isn`].
    pub(super) fn isn_of(&self, now: Instant, key: &TupleKey) -> SeqNumber {
        let clock = (now.as_micros() / 4) as u32;
        SeqNumber(self.isn.hash(&pair(key.local(), key.remote())) as u32) + self.shard_offset + clock
    }

    /// What to add to the millisecond clock in timestamps of this connection. It depends on the two addresses only, as
    /// in Linux, so that a host's connections show one rising clock to each peer: TIME-WAIT reuse (RFC 6191) and
    /// peers that compare a host's timestamps across connections rely on that.
    /// RFC 7323 section 7.1.
    #[must_use]
    pub fn timestamp_offset(&self, tuple: &Tuple) -> u32 {
        self.timestamp_offset_of(&TupleKey::new(tuple.local, tuple.remote))
    }

    /// As [`IsnSecret::timestamp_offset`].
    pub(super) fn timestamp_offset_of(&self, key: &TupleKey) -> u32 {
        let addresses = key.addresses();
        match self.last_offset.get() {
            Some((last, offset)) if last == addresses => offset,
            _ => {
                let address = |addr: SocketAddr| SocketAddr::new(addr.ip(), 0);
                let both = pair(address(key.local()), address(key.remote()));
                let offset = self.timestamp.hash(&both) as u32;
                self.last_offset.set(Some((addresses, offset)));
                offset
            }
        }
    }
}

/// A hash keyed by `seed` for one purpose: purposes must not see each other's values.
pub(super) fn derive(seed: &[u8; 32], purpose: &[u8]) -> SipHasher24 {
    let (key, salt) = seed.split_at(16);
    let root = SipHasher24::new_with_keys(word(key), word(&key[8..]));
    let half = |which: u8| root.hash(&[salt, &[which], purpose].concat());
    SipHasher24::new_with_keys(half(0), half(1))
}

/// Two endpoints as bytes to hash.
pub(super) fn pair(local: SocketAddr, remote: SocketAddr) -> [u8; 2 * ENDPOINT_LEN] {
    let mut bytes = [0; 2 * ENDPOINT_LEN];
    bytes[..ENDPOINT_LEN].copy_from_slice(&endpoint(local));
    bytes[ENDPOINT_LEN..].copy_from_slice(&endpoint(remote));
    bytes
}

fn endpoint(addr: SocketAddr) -> [u8; ENDPOINT_LEN] {
    let mut bytes = [0; ENDPOINT_LEN];
    match addr.ip() {
        IpAddr::V4(ip) => {
            bytes[0] = 4;
            bytes[1..5].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[0] = 6;
            bytes[1..17].copy_from_slice(&ip.octets());
        }
    }
    bytes[17..].copy_from_slice(&addr.port().to_be_bytes());
    bytes
}

/// The first eight of `bytes`, which has at least as many.
fn word(bytes: &[u8]) -> u64 {
    bytes[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use proptest::prelude::*;

    fn tuple(local: &str, remote: &str) -> Tuple {
        Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    #[test]
    fn two_shards_choose_numbers_far_apart_for_a_connection() {
        let tuple =
            Tuple { local: "192.0.2.1:80".parse().unwrap(), remote: "192.0.2.2:5000".parse().unwrap() };
        let at = |shard, micros| {
            IsnSecret::new([7; 32]).for_shard(shard, 3).isn(Instant::from_micros(micros), &tuple)
        };
        for (one, other) in [(0, 1), (1, 2), (0, 2)] {
            let (one, other) = (at(one, 50), at(other, 60_000_000));
            assert!(one.since(other).min(other.since(one)) > 1 << 30, "{one:?} {other:?}");
        }
        assert!(at(1, 50).lt(at(1, 100)), "a later connection still starts further on");
    }

    #[test]
    fn the_clock_counts_four_microseconds() {
        // RFC 9293 section 3.4.1, MUST-8.
        let secret = IsnSecret::new([7; 32]);
        let tuple = tuple("192.0.2.1:80", "198.51.100.2:4000");
        let start = secret.isn(Instant::from_micros(100), &tuple);
        assert_eq!(secret.isn(Instant::from_micros(103), &tuple), start);
        assert_eq!(secret.isn(Instant::from_micros(104), &tuple), start + 1);
        let wrapped = Instant::from_micros(100) + Duration::from_micros(4 << 32);
        assert_eq!(secret.isn(wrapped, &tuple), start, "wraps every 4.77 hours");
    }

    #[test]
    fn every_part_of_the_tuple_and_of_the_seed_counts() {
        // RFC 9293 section 3.4.1, MUST-9, SHLD-1.
        let base = tuple("192.0.2.1:80", "198.51.100.2:4000");
        let mut all = vec![IsnSecret::new([7; 32]).isn(Instant::ZERO, &base)];
        for other in [
            tuple("192.0.2.2:80", "198.51.100.2:4000"),
            tuple("192.0.2.1:81", "198.51.100.2:4000"),
            tuple("192.0.2.1:80", "198.51.100.3:4000"),
            tuple("192.0.2.1:80", "198.51.100.2:4001"),
            tuple("198.51.100.2:4000", "192.0.2.1:80"),
            tuple("[::c000:201]:80", "198.51.100.2:4000"),
        ] {
            all.push(IsnSecret::new([7; 32]).isn(Instant::ZERO, &other));
        }
        for byte in [0, 8, 15, 16, 31] {
            let mut seed = [7; 32];
            seed[byte] ^= 1;
            all.push(IsnSecret::new(seed).isn(Instant::ZERO, &base));
        }
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn timestamps_share_a_clock_between_two_addresses_only() {
        // RFC 7323 section 7.1.
        let secret = IsnSecret::new([1; 32]);
        let offset = secret.timestamp_offset(&tuple("192.0.2.1:80", "198.51.100.2:4000"));
        assert_eq!(secret.timestamp_offset(&tuple("192.0.2.1:81", "198.51.100.2:4001")), offset);
        let elsewhere = IsnSecret::new([1; 32]);
        assert_ne!(elsewhere.timestamp_offset(&tuple("192.0.2.1:80", "198.51.100.3:4000")), offset);
        assert_eq!(elsewhere.timestamp_offset(&tuple("192.0.2.1:81", "198.51.100.2:4001")), offset);
        assert_ne!(secret.timestamp_offset(&tuple("192.0.2.1:80", "198.51.100.3:4000")), offset);
    }

    #[test]
    fn purposes_do_not_see_each_other() {
        let seed = [3; 32];
        assert_ne!(derive(&seed, b"isn").hash(b"x"), derive(&seed, b"timestamp").hash(b"x"));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", IsnSecret::new([9; 32])), "IsnSecret");
    }

    proptest! {
        /// A tuple used again within the wrap starts after its last start, by the time between.
        #[test]
        fn the_same_tuple_moves_on_with_time(seed: [u8; 32], at_us in 0u64..1 << 50, later_us in 0u64..1 << 33) {
            let secret = IsnSecret::new(seed);
            let tuple = tuple("192.0.2.1:80", "[2001:db8::1]:4000");
            let first = secret.isn(Instant::from_micros(at_us), &tuple);
            let second = secret.isn(Instant::from_micros(at_us + later_us), &tuple);
            prop_assert!(u64::from(second.since(first)).abs_diff(later_us / 4) <= 1);
        }
    }
}
