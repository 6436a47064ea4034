//! Ephemeral ports by double hashing (RFC 6056 section 3.3.4, algorithm 4), restricted to the ports that belong to this
//! shard: `port % shards == shard`, so that a reply that reaches another queue can be handed to the right one.

use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;

use siphasher::sip::SipHasher24;

use super::isn::{derive, pair};

/// Counters among which destinations are spread; more makes a destination's next port harder to learn from another's
/// (RFC 6056 section 3.3.4). 4 KiB a shard.
const TABLE_LEN: usize = 1024;

/// The port chooser of one shard.
pub struct EphemeralPorts {
    offset: SipHasher24,
    index: SipHasher24,
    /// Smallest port of this shard.
    first: u16,
    /// Distance between two ports of this shard.
    stride: u16,
    /// How many ports this shard has, at most 65,536.
    count: u32,
    table: Box<[u32; TABLE_LEN]>,
}

impl core::fmt::Debug for EphemeralPorts {
    /// Leaves out the secrets.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { first, stride, count, .. } = self;
        write!(f, "EphemeralPorts {{ first: {first}, stride: {stride}, count: {count} }}")
    }
}

impl EphemeralPorts {
    /// Ports of `range` with `port % shards == shard`; port 0 is never used. `seed` must be unpredictable on a real
    /// network. `shard < shards`.
    #[must_use]
    pub fn new(seed: [u8; 32], range: RangeInclusive<u16>, shard: u16, shards: u16) -> Self {
        let shards = shards.max(1);
        let (start, end) = (u32::from(*range.start()).max(1), u32::from(*range.end()));
        let stride = u32::from(shards);
        let first = start + (u32::from(shard % shards) + stride - start % stride) % stride;
        let count = if first > end { 0 } else { (end - first) / stride + 1 };
        let initial = derive(&seed, b"ephemeral port table");
        let mut table = Box::new([0; TABLE_LEN]);
        for (i, counter) in table.iter_mut().enumerate() {
            *counter = initial.hash(&(i as u64).to_be_bytes()) as u32;
        }
        Self {
            offset: derive(&seed, b"ephemeral port offset"),
            index: derive(&seed, b"ephemeral port index"),
            first: first.min(u32::from(u16::MAX)) as u16,
            stride: shards,
            count,
            table,
        }
    }

    /// How many ports this shard may choose from.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// A port for a connection from `local` to `remote` for which `is_free` holds. Looks at each port of the shard at
    /// most once; `None` when none is free.
    pub fn pick(
        &mut self,
        local: IpAddr,
        remote: SocketAddr,
        mut is_free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let key = pair(SocketAddr::new(local, 0), remote);
        let offset = self.offset.hash(&key) as u32;
        let counter = &mut self.table[self.index.hash(&key) as usize % TABLE_LEN];
        for _ in 0..self.count {
            let step = (u64::from(offset) + u64::from(*counter)) % u64::from(self.count);
            *counter = counter.wrapping_add(1);
            let port = self.first + (step as u16) * self.stride;
            if is_free(port) {
                return Some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn local() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::new("198.51.100.2".parse().unwrap(), port)
    }

    #[test]
    fn one_destination_sees_a_port_again_only_after_all_others() {
        let mut ports = EphemeralPorts::new([1; 32], 32768..=60999, 0, 1);
        let seen: HashSet<u16> =
            (0..ports.count()).filter_map(|_| ports.pick(local(), remote(80), |_| true)).collect();
        assert_eq!(seen.len(), 60999 - 32768 + 1);
    }

    #[test]
    fn destinations_start_at_ports_of_their_own() {
        let starts: HashSet<u16> = (1..=200)
            .filter_map(|port| {
                EphemeralPorts::new([1; 32], 1024..=65535, 0, 1).pick(local(), remote(port), |_| true)
            })
            .collect();
        assert!(starts.len() > 190, "{} of 200", starts.len());
    }

    #[test]
    fn the_only_free_port_is_found_and_none_is_none() {
        let mut ports = EphemeralPorts::new([2; 32], 40000..=49999, 1, 4);
        assert_eq!(ports.pick(local(), remote(80), |port| port == 44001), Some(44001));
        let mut asked = 0;
        let none = ports.pick(local(), remote(80), |_| {
            asked += 1;
            false
        });
        assert_eq!((none, asked), (None, ports.count()));
    }

    #[test]
    fn a_range_without_a_port_for_the_shard_gives_none() {
        let mut ports = EphemeralPorts::new([2; 32], 40000..=40002, 3, 8);
        assert_eq!((ports.count(), ports.pick(local(), remote(80), |_| true)), (0, None));
        #[allow(clippy::reversed_empty_ranges)]
        let mut empty = EphemeralPorts::new([2; 32], 50000..=40000, 0, 1);
        assert_eq!(empty.pick(local(), remote(80), |_| true), None);
    }

    proptest! {
        /// Whatever the range and shard: every port of the shard is offered exactly once, in range, never 0.
        #[test]
        fn the_whole_share_of_the_range_is_searched(
            seed: [u8; 32], ends: (u16, u16), shards in 1u16..64, pick: prop::sample::Index
        ) {
            let range = ends.0.min(ends.1)..=ends.0.max(ends.1);
            let shard = pick.index(usize::from(shards)) as u16;
            let expected: HashSet<u16> = range.clone().filter(|port| *port != 0 && port % shards == shard).collect();
            let mut ports = EphemeralPorts::new(seed, range, shard, shards);
            let mut offered = Vec::new();
            ports.pick(local(), remote(443), |port| { offered.push(port); false });
            prop_assert_eq!(offered.len(), expected.len());
            prop_assert_eq!(offered.into_iter().collect::<HashSet<_>>(), expected);
        }
    }
}
