//! What paths carry that is less than what the link does (RFC 1191, RFC 8201): remembered for each destination, so that a new
//! connection or datagram does not have to lose a packet to learn it again. Whoever teaches it has checked that the ICMP
//! message quotes what was sent; `Shard` tells the other shards.
//!
//! A memory holds for ten minutes from when it was last taught, then the link's MTU is tried again: the path may be another.

use core::net::IpAddr;
use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::keyed::KeyedState;
use crate::limits;
use crate::time::Instant;

/// Whose word it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Witness {
    /// A connection's, whose outstanding sequence number the message quoted: used for everything.
    Connection,
    /// A UDP socket's. Anyone who knows a port can send such a message, so it is used for datagrams alone.
    Datagram,
}

/// What was learned of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PathMtu {
    pub(crate) dst: IpAddr,
    /// Largest IP packet, bytes.
    pub(crate) mtu: u16,
    pub(crate) witness: Witness,
}

/// The memory of one shard for one kind of witness.
#[derive(Debug)]
pub(crate) struct PathMtus {
    entries: HashMap<IpAddr, Entry, KeyedState>,
    /// Who was learned when, to forget in that order.
    by_age: BTreeSet<(Instant, IpAddr)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mtu: u16,
    /// Kept in `by_age`.
    learned: Instant,
}

impl PathMtus {
    pub(crate) fn new(hasher: KeyedState) -> Self {
        Self { entries: HashMap::with_hasher(hasher), by_age: BTreeSet::new() }
    }

    /// The largest IP packet that is known to reach `dst`; `None`: what the link carries.
    pub(crate) fn get(&self, dst: IpAddr) -> Option<u16> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.get(&dst).map(|entry| entry.mtu)
    }

    /// Takes in that the path carries no more than `mtu`; whether that is news. A larger value than is known already is none:
    /// only time raises it (RFC 8201 section 4). The destination learned longest ago makes room.
    pub(crate) fn learn(&mut self, now: Instant, dst: IpAddr, mtu: u16) -> bool {
        match self.entries.get(&dst) {
            Some(entry) if entry.mtu < mtu => return false,
            Some(_) => self.forget(dst),
            None if self.entries.len() >= limits::PATH_MTU_ENTRIES => {
                if let Some(&(_, oldest)) = self.by_age.first() {
                    self.forget(oldest);
                }
            }
            None => {}
        }
        self.entries.insert(dst, Entry { mtu, learned: now });
        self.by_age.insert((now, dst));
        true
    }

    /// Forgets what was learned of `dst`.
    pub(crate) fn forget(&mut self, dst: IpAddr) {
        if let Some(entry) = self.entries.remove(&dst) {
            self.by_age.remove(&(entry.learned, dst));
        }
    }

    /// Forgets everything: the routes are others.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.by_age.clear();
    }

    /// Forgets what is too old (RFC 1191 section 6.3, RFC 8201 section 5.3).
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(learned, dst)) = self.by_age.first()
            && now.saturating_since(learned) >= limits::PATH_MTU_LIFETIME
        {
            self.forget(dst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn ip(host: u32) -> IpAddr {
        IpAddr::V4((0xc633_6400 + host).into())
    }

    #[test]
    fn a_smaller_value_is_news_and_a_larger_one_is_not() {
        let (mut mtus, now) = (PathMtus::new(KeyedState((1, 2))), Instant::from_millis(1));
        assert_eq!(mtus.get(ip(1)), None);
        assert!(mtus.learn(now, ip(1), 1400));
        assert!(!mtus.learn(now, ip(1), 1450));
        assert!(mtus.learn(now, ip(1), 1300));
        assert_eq!((mtus.get(ip(1)), mtus.get(ip(2))), (Some(1300), None));
    }

    #[test]
    fn it_is_forgotten_ten_minutes_after_it_was_last_taught() {
        // RFC 1191 section 6.3.
        let (mut mtus, start) = (PathMtus::new(KeyedState((1, 2))), Instant::from_millis(1));
        mtus.learn(start, ip(1), 1400);
        let again = start + Duration::from_secs(300);
        mtus.learn(again, ip(1), 1400);
        mtus.expire(start + limits::PATH_MTU_LIFETIME);
        assert_eq!(mtus.get(ip(1)), Some(1400));
        mtus.expire(again + limits::PATH_MTU_LIFETIME);
        assert_eq!(mtus.get(ip(1)), None);
    }

    #[test]
    fn the_destination_learned_longest_ago_makes_room() {
        let mut mtus = PathMtus::new(KeyedState((1, 2)));
        let at = |host: u32| Instant::from_millis(u64::from(host));
        (0..=limits::PATH_MTU_ENTRIES as u32).for_each(|host| assert!(mtus.learn(at(host), ip(host), 1400)));
        assert_eq!((mtus.get(ip(0)), mtus.get(ip(1))), (None, Some(1400)));
        assert_eq!(
            (mtus.entries.len(), mtus.by_age.len()),
            (limits::PATH_MTU_ENTRIES, limits::PATH_MTU_ENTRIES)
        );
    }
}
