//! Finding a segment's connection: one hash table from the two ends to whatever stands there, in O(1), with a secret so
//! that nobody can choose colliding ports.

use core::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use siphasher::sip::SipHasher13;

use super::Tuple;

/// Both ends of a connection, in 36 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    local: IpAddr,
    remote: IpAddr,
    local_port: u16,
    remote_port: u16,
}

impl Key {
    /// Local end.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.local_port)
    }

    /// Remote end.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote, self.remote_port)
    }

    /// Both ends.
    pub fn tuple(&self) -> Tuple {
        Tuple { local: self.local(), remote: self.remote() }
    }

    fn bytes(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        let octets = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
            IpAddr::V6(addr) => addr.octets(),
        };
        bytes[..16].copy_from_slice(&octets(self.local));
        bytes[16..32].copy_from_slice(&octets(self.remote));
        bytes[32..34].copy_from_slice(&self.local_port.to_be_bytes());
        bytes[34..].copy_from_slice(&self.remote_port.to_be_bytes());
        bytes
    }
}

impl From<Tuple> for Key {
    fn from(tuple: Tuple) -> Self {
        Self {
            local: tuple.local.ip(),
            remote: tuple.remote.ip(),
            local_port: tuple.local.port(),
            remote_port: tuple.remote.port(),
        }
    }
}

/// What stands at a pair of ends; the number is its place in the slab of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A connection.
    Connection(u32),
    /// A half-open connection of a listener.
    SynReceived(u32),
    /// A connection in TIME-WAIT.
    TimeWait(u32),
}

/// The table. The ends themselves stay in the slabs: `key_of` finds them.
#[derive(Debug)]
pub struct Table {
    places: HashTable<Place>,
    hasher: SipHasher13,
}

impl Table {
    /// An empty table hashing with this secret.
    pub fn new(secret: [u8; 16]) -> Self {
        Self { places: HashTable::new(), hasher: SipHasher13::new_with_key(&secret) }
    }

    /// What stands at `key`.
    pub fn get(&self, key: &Key, key_of: impl Fn(Place) -> Key) -> Option<Place> {
        self.places.find(self.hasher.hash(&key.bytes()), |&place| key_of(place) == *key).copied()
    }

    /// Puts `place` at `key`, in the stead of what stood there.
    pub fn insert(&mut self, key: &Key, place: Place, key_of: impl Fn(Place) -> Key) {
        let hasher = self.hasher;
        let hash = hasher.hash(&key.bytes());
        match self.places.entry(hash, |&old| key_of(old) == *key, |&old| hasher.hash(&key_of(old).bytes())) {
            Entry::Occupied(mut entry) => *entry.get_mut() = place,
            Entry::Vacant(entry) => drop(entry.insert(place)),
        }
    }

    /// Takes `place` away from `key`, if it is that which stands there.
    pub fn remove(&mut self, key: &Key, place: Place) {
        if let Ok(entry) = self.places.find_entry(self.hasher.hash(&key.bytes()), |&old| old == place) {
            entry.remove();
        }
    }

    /// Bytes on the heap.
    pub fn memory(&self) -> usize {
        self.places.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_compact() {
        assert!(size_of::<Key>() <= 40, "{}", size_of::<Key>());
        assert!(size_of::<Place>() <= 8);
    }

    #[test]
    fn places_are_found_replaced_and_removed() {
        let key = |port| {
            Key::from(Tuple {
                local: "192.0.2.1:80".parse().unwrap(),
                remote: SocketAddr::new("192.0.2.2".parse().unwrap(), port),
            })
        };
        let keys: Vec<Key> = (1..1000).map(key).collect();
        let key_of = |place| match place {
            Place::Connection(i) | Place::SynReceived(i) | Place::TimeWait(i) => keys[i as usize],
        };
        let mut table = Table::new([7; 16]);
        for (i, key) in keys.iter().enumerate() {
            table.insert(key, Place::Connection(i as u32), key_of);
        }
        table.insert(&keys[5], Place::TimeWait(5), key_of);
        assert_eq!(table.get(&keys[5], key_of), Some(Place::TimeWait(5)));
        table.remove(&keys[5], Place::Connection(5));
        assert_eq!(table.get(&keys[5], key_of), Some(Place::TimeWait(5)), "only what stands there goes");
        table.remove(&keys[5], Place::TimeWait(5));
        assert_eq!(table.get(&keys[5], key_of), None);
        assert_eq!(table.get(&keys[6], key_of), Some(Place::Connection(6)));
    }
}
