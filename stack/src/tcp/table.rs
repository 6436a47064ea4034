//! Where connections, half-open connections and TIME-WAIT entries live: compact tuples, places with generations, and lists
//! threaded through the places so that the oldest entry is found, moved and removed in O(1).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use siphasher::sip::SipHasher13;

use super::Tuple;
use crate::packet::{advise_huge_pages, prefetch_part};
use crate::parse::protocol;
use crate::time::Instant;

/// No place.
pub(super) const NIL: u32 = u32::MAX;

/// A [`Tuple`] in 36 bytes: IPv4 addresses are kept as IPv4-mapped IPv6 ones, which never appear on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TupleKey {
    local: [u8; 16],
    remote: [u8; 16],
    local_port: u16,
    remote_port: u16,
}

impl TupleKey {
    pub(super) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self::of((local.ip(), local.port()), (remote.ip(), remote.port()))
    }

    /// Of addresses and ports.
    #[inline]
    pub(super) fn of((local, local_port): (IpAddr, u16), (remote, remote_port): (IpAddr, u16)) -> Self {
        Self { local: pack(local), remote: pack(remote), local_port, remote_port }
    }

    pub(super) fn local(&self) -> SocketAddr {
        SocketAddr::new(unpack(self.local), self.local_port)
    }

    pub(super) fn remote(&self) -> SocketAddr {
        SocketAddr::new(unpack(self.remote), self.remote_port)
    }

    pub(super) fn tuple(&self) -> Tuple {
        Tuple { local: self.local(), remote: self.remote() }
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.local[..12] == MAPPED
    }

    /// A keyed hash of all of it, for tables: the flow hash ([`crate::parse`]) of the packets that the peer sends.
    pub(super) fn hash(&self, hasher: &SipHasher13) -> u32 {
        let ports = |bytes: &mut [u8]| {
            bytes[..2].copy_from_slice(&self.remote_port.to_be_bytes());
            bytes[2..4].copy_from_slice(&self.local_port.to_be_bytes());
            bytes[4] = protocol::TCP;
        };
        if self.is_ipv4() {
            // What all IPv4-mapped addresses begin with tells nothing.
            let mut bytes = [0; 13];
            bytes[..4].copy_from_slice(&self.remote[12..]);
            bytes[4..8].copy_from_slice(&self.local[12..]);
            ports(&mut bytes[8..]);
            return hasher.hash(&bytes) as u32;
        }
        let mut bytes = [0; 37];
        bytes[..16].copy_from_slice(&self.remote);
        bytes[16..32].copy_from_slice(&self.local);
        ports(&mut bytes[32..]);
        hasher.hash(&bytes) as u32
    }

    /// Both addresses, the local one first.
    pub(super) fn addresses(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.local);
        bytes[16..].copy_from_slice(&self.remote);
        bytes
    }

    /// All of it.
    pub(super) fn bytes(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&self.local);
        bytes[16..32].copy_from_slice(&self.remote);
        bytes[32..34].copy_from_slice(&self.local_port.to_be_bytes());
        bytes[34..].copy_from_slice(&self.remote_port.to_be_bytes());
        bytes
    }
}

/// What IPv4-mapped addresses begin with (RFC 4291 section 2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

#[inline]
fn pack(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut mapped = [0; 16];
            mapped[..12].copy_from_slice(&MAPPED);
            mapped[12..].copy_from_slice(&ip.octets());
            mapped
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[inline]
fn unpack(octets: [u8; 16]) -> IpAddr {
    // As a number: a pattern would be compared byte by byte.
    let number = u128::from_be_bytes(octets);
    if number >> 32 == 0xffff {
        return IpAddr::V4(Ipv4Addr::from_bits(number as u32));
    }
    IpAddr::V6(Ipv6Addr::from_bits(number))
}

/// An [`Instant`] that needs no alignment to 8 bytes, which would cost compact entries 4 to 8 bytes more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CompactInstant([u32; 2]);

impl From<Instant> for CompactInstant {
    fn from(instant: Instant) -> Self {
        let nanos = instant.as_nanos();
        Self([(nanos >> 32) as u32, nanos as u32])
    }
}

impl From<CompactInstant> for Instant {
    fn from(CompactInstant([high, low]): CompactInstant) -> Self {
        Self::from_nanos(u64::from(high) << 32 | u64::from(low))
    }
}

/// Places for `T`, each with a generation that tells its tenants apart, and two links for one [`List`].
///
/// They lie in chunks, so that they never move and none is there before it is needed: the first has 64, each next one twice as
/// many as the one before. A place that was vacated stays for the next tenant. `A` is a type whose alignment places have.
#[derive(Debug)]
pub(crate) struct Slab<T, A = ()> {
    chunks: [Vec<Slot<T, A>>; CHUNKS],
    places: u32,
    /// First vacant place; they are threaded through `next`.
    free: u32,
    len: usize,
}

/// Places of the first chunk.
const CHUNK_MIN: u32 = 1 << 6;
/// Chunks at most: a power of two, the last of which is never used.
const CHUNKS: usize = 32;

#[derive(Debug)]
#[repr(C)]
struct Slot<T, A> {
    align: [A; 0],
    generation: u32,
    prev: u32,
    next: u32,
    value: Option<T>,
}

/// The chunk that a place is in, and which of it. [`NIL`] is in one that is always empty.
#[inline]
const fn chunk_of(index: u32) -> (usize, usize) {
    // Counted from CHUNK_MIN on, a chunk is what has the same highest bit.
    let counted = index.wrapping_add(CHUNK_MIN);
    let highest = (counted | 1).ilog2();
    let chunk = highest.wrapping_sub(CHUNK_MIN.ilog2()) as usize % CHUNKS;
    (chunk, (counted ^ 1 << highest) as usize)
}

/// The places of a chunk.
const fn chunk_len(chunk: usize) -> usize {
    (CHUNK_MIN as usize) << chunk
}

/// A list of places of one [`Slab`]; a place is in at most one list at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(crate) const EMPTY: Self = Self { head: NIL, tail: NIL };

    pub(crate) fn front(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NIL
    }
}

impl<T, A> Slab<T, A> {
    pub(crate) fn new() -> Self {
        Self { chunks: [const { Vec::new() }; CHUNKS], places: 0, free: NIL, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Places that there are, vacant ones too.
    pub(crate) fn places(&self) -> u32 {
        self.places
    }

    /// Bytes that one more entry costs.
    #[cfg(test)]
    pub(crate) const fn slot_size() -> usize {
        size_of::<Slot<T, A>>()
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&Slot<T, A>> {
        let (chunk, place) = chunk_of(index);
        self.chunks[chunk].get(place)
    }

    #[inline]
    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T, A>> {
        let (chunk, place) = chunk_of(index);
        self.chunks[chunk].get_mut(place)
    }

    /// A place that there is.
    #[inline]
    fn known(&mut self, index: u32) -> &mut Slot<T, A> {
        let (chunk, place) = chunk_of(index);
        &mut self.chunks[chunk][place]
    }

    /// Places `value`, in no list. There are never 2^32 - 1: every kind has a lower bound in the configuration.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free == NIL {
            let index = self.places;
            let (chunk, place) = chunk_of(index);
            let places = &mut self.chunks[chunk];
            if place == 0 {
                places.reserve_exact(chunk_len(chunk));
                advise_huge_pages(places.spare_capacity_mut());
            }
            places.push(Slot { align: [], generation: 0, prev: NIL, next: NIL, value: Some(value) });
            self.places += 1;
            return index;
        }
        let index = self.free;
        let slot = self.known(index);
        let next = slot.next;
        (slot.prev, slot.next, slot.value) = (NIL, NIL, Some(value));
        self.free = next;
        index
    }

    /// Vacates a place, which must be in no list; handles to it become stale.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(index)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = free;
        self.free = index;
        self.len -= 1;
        Some(value)
    }

    /// As [`Slab::remove`], where nobody wants the value; whether there was one.
    pub(crate) fn vacate(&mut self, index: u32) -> bool {
        let free = self.free;
        let Some(slot) = self.slot_mut(index).filter(|slot| slot.value.is_some()) else { return false };
        slot.value = None;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next = free;
        self.free = index;
        self.len -= 1;
        true
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.slot(index)?.value.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slot_mut(index)?.value.as_mut()
    }

    /// The place behind `index` in its list.
    pub(crate) fn next(&self, index: u32) -> Option<u32> {
        self.slot(index).map(|slot| slot.next).filter(|next| *next != NIL)
    }

    /// Begins to load a place into the cache: all of it, or its first `END` bytes less the first `START`.
    #[inline]
    pub(crate) fn prefetch<const START: usize, const END: usize>(&self, index: u32) {
        if let Some(slot) = self.slot(index) {
            prefetch_part::<_, START, END>(slot);
        }
    }

    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.slot(index).map_or(0, |slot| slot.generation)
    }

    /// The value at `index` if it is still the tenant that `generation` means.
    pub(crate) fn get_exact(&self, index: u32, generation: u32) -> Option<&T> {
        let slot = self.slot(index)?;
        if slot.generation == generation { slot.value.as_ref() } else { None }
    }

    pub(crate) fn get_exact_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let slot = self.slot_mut(index)?;
        if slot.generation == generation { slot.value.as_mut() } else { None }
    }

    /// All entries: place, generation, value. O(places): for user calls only.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        self.chunks
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, slot)| Some((index as u32, slot.generation, slot.value.as_ref()?)))
    }

    #[inline]
    pub(crate) fn push_back(&mut self, list: &mut List, index: u32) {
        let slot = self.known(index);
        (slot.prev, slot.next) = (list.tail, NIL);
        match list.tail {
            NIL => list.head = index,
            tail => self.known(tail).next = index,
        }
        list.tail = index;
    }

    /// Puts all of `other` behind `list`.
    pub(crate) fn append(&mut self, list: &mut List, other: List) {
        if other.is_empty() {
            return;
        }
        match list.tail {
            NIL => list.head = other.head,
            tail => self.known(tail).next = other.head,
        }
        self.known(other.head).prev = list.tail;
        list.tail = other.tail;
    }

    /// Takes `index` out of `list`, in which it must be.
    #[inline]
    pub(crate) fn unlink(&mut self, list: &mut List, index: u32) {
        let slot = self.known(index);
        let (prev, next) = (core::mem::replace(&mut slot.prev, NIL), core::mem::replace(&mut slot.next, NIL));
        match prev {
            NIL => list.head = next,
            prev => self.known(prev).next = next,
        }
        match next {
            NIL => list.tail = prev,
            next => self.known(next).prev = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn every_part_of_a_tuple_counts_in_its_hash() {
        let hasher = SipHasher13::new_with_keys(1, 2);
        let hash = |local: &str, remote: &str| {
            TupleKey::new(local.parse().unwrap(), remote.parse().unwrap()).hash(&hasher)
        };
        let four = ("10.0.0.1:80", "10.0.0.2:1024");
        let six = ("[2001:db8::1]:80", "[2001:db8::2]:1024");
        assert_eq!(hash(four.0, four.1), hash(four.0, four.1));
        for (local, remote) in [
            ("10.0.0.3:80", four.1),
            ("10.0.0.1:81", four.1),
            (four.0, "10.0.0.3:1024"),
            (four.0, "10.0.0.2:1025"),
            (four.1, four.0),
        ] {
            assert_ne!(hash(local, remote), hash(four.0, four.1), "{local} {remote}");
        }
        for (local, remote) in [
            ("[2001:db8::3]:80", six.1),
            ("[2001:db8::1]:81", six.1),
            (six.0, "[2001:db8::3]:1024"),
            (six.0, "[2001:db8::2]:1025"),
            (six.1, six.0),
        ] {
            assert_ne!(hash(local, remote), hash(six.0, six.1), "{local} {remote}");
        }
    }

    #[test]
    fn the_hash_of_a_tuple_is_that_of_the_packets_that_the_peer_sends() {
        use crate::parse::{FlowKey, flow_hash};
        for (local, remote) in [("192.0.2.1:80", "198.51.100.7:40000"), ("[2001:db8::1]:443", "[fe80::2]:1")]
        {
            let (local, remote): (SocketAddr, SocketAddr) = (local.parse().unwrap(), remote.parse().unwrap());
            let flow = FlowKey {
                src: remote.ip(),
                dst: local.ip(),
                src_port: remote.port(),
                dst_port: local.port(),
                protocol: protocol::TCP,
            };
            let hash = TupleKey::new(local, remote).hash(&SipHasher13::new_with_keys(3, 4));
            assert_eq!(hash, flow_hash(&flow, (3, 4)));
        }
    }

    #[test]
    fn tuples_survive_packing() {
        for (local, remote) in [("192.0.2.1:80", "198.51.100.7:40000"), ("[2001:db8::1]:443", "[fe80::2]:1")]
        {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            let key = TupleKey::new(local, remote);
            assert_eq!(key.tuple(), Tuple { local, remote });
            assert_eq!(key.is_ipv4(), local.is_ipv4());
            assert_ne!(key, TupleKey::new(remote, local));
        }
        assert_eq!(size_of::<TupleKey>(), 36);
    }

    #[test]
    fn places_fill_chunk_after_chunk() {
        let (mut chunk, mut place) = (0, 0);
        for index in 0..20_000 {
            assert_eq!(chunk_of(index), (chunk, place), "{index}");
            place += 1;
            if place == chunk_len(chunk) {
                (chunk, place) = (chunk + 1, 0);
            }
        }
        assert_eq!((chunk, chunk_len(0), chunk_len(1)), (8, 64, 128));
        assert_eq!((chunk_of(NIL), chunk_of(NIL - 64).0), ((CHUNKS - 1, 31), 25));
    }

    #[test]
    fn places_never_move_and_are_found_in_every_chunk() {
        let mut slab: Slab<u32> = Slab::new();
        assert_eq!(slab.insert(0), 0);
        let first = core::ptr::from_ref(slab.get(0).unwrap());
        (1..20_000).for_each(|index| assert_eq!(slab.insert(index), index));
        assert_eq!(slab.places(), 20_000);
        assert_eq!(core::ptr::from_ref(slab.get(0).unwrap()), first);
        (0..20_000).for_each(|index| assert_eq!(slab.get(index), Some(&index)));
        assert_eq!((slab.get(20_000), slab.get(NIL)), (None, None));
        let all: Vec<u32> = slab.iter().map(|(index, ..)| index).collect();
        assert_eq!(all, (0..20_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_vacated_place_is_used_again_and_its_old_handle_is_stale() {
        let mut slab: Slab<char> = Slab::new();
        let index = slab.insert('a');
        let generation = slab.generation(index);
        assert_eq!(slab.get_exact(index, generation), Some(&'a'));
        assert_eq!(slab.remove(index), Some('a'));
        assert_eq!((slab.remove(index), slab.get(index)), (None, None));
        assert_eq!(slab.insert('b'), index);
        assert_eq!(slab.get_exact(index, generation), None);
        assert_eq!(slab.get_exact_mut(index, slab.generation(index)), Some(&mut 'b'));
    }

    proptest! {
        /// Any order of appending, one or several, and taking out leaves the list as a queue would be.
        #[test]
        fn a_list_is_a_queue(steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>()), 0..200)) {
            let (mut slab, mut list, mut model) = (Slab::<usize>::new(), List::EMPTY, VecDeque::new());
            for (step, pick) in steps {
                if step == 0 {
                    let mut other = List::EMPTY;
                    for _ in 0..pick.index(4) {
                        let index = slab.insert(model.len());
                        slab.push_back(&mut other, index);
                        model.push_back(index);
                    }
                    slab.append(&mut list, other);
                } else if step < 3 || model.is_empty() {
                    let index = slab.insert(model.len());
                    slab.push_back(&mut list, index);
                    model.push_back(index);
                } else {
                    let index = model.remove(pick.index(model.len())).unwrap();
                    slab.unlink(&mut list, index);
                    slab.remove(index).unwrap();
                }
                prop_assert_eq!(list.front(), model.front().copied());
                prop_assert_eq!(list.is_empty(), model.is_empty());
                prop_assert_eq!(slab.len(), model.len());
                let mut forward = Vec::new();
                let mut at = list.head;
                while at != NIL {
                    forward.push(at);
                    at = slab.slot(at).unwrap().next;
                }
                prop_assert_eq!(&forward, &model.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
