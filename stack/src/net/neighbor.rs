//! The neighbour table: which Ethernet address an on-link IP address has, what to ask when that is not known, and the
//! packets that wait for the answer.
//!
//! It knows no frame formats: `arp` and `ndp` tell it what was heard, [`super::egress`] sends what it wants asked. States
//! and timers follow RFC 4861 section 7.3, for ARP too; what a claim may change follows RFC 826 and RFC 4861 section 7.2.5.
//!
//! ```text
//!   hold() --> Incomplete --answer--> Reachable --lifetime--> Stale --use--> Delay --5 s--> Probe
//!                  |                      ^                     ^               |             |
//!                  3 requests             +---- answer, data ---+---------------+-------------+
//!                  v                                                                   3 requests
//!                gone, its packets failed                                                 v  gone
//! ```

use core::net::IpAddr;
use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;
use smoltcp::wire::EthernetAddress;

use super::keyed::KeyedState;
use crate::counters::{Counters, DropReason};
use crate::limits;
use crate::packet::Packet;
use crate::time::Instant;

/// How an Ethernet address came to be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// The neighbour asked for an address of ours (ARP request, neighbour solicitation): it is about to talk to us.
    Asked,
    /// An ARP reply or announcement, or a neighbour advertisement. Changes only what is in the table.
    Told {
        /// It answers a question (ours or another's): the neighbour is there.
        solicited: bool,
        /// It may replace an address already known.
        replace: bool,
    },
    /// The Ethernet source of an IP packet: believed only where nothing else is known, and checked when used.
    Data,
}

/// What [`Neighbors::due`] wants done.
#[derive(Debug)]
pub(crate) enum Due {
    /// Ask for `addr`: its own Ethernet address if given, else everybody.
    Solicit { addr: IpAddr, to: Option<EthernetAddress> },
    /// Nobody answered for `addr`; these packets cannot be sent.
    Failed { addr: IpAddr, packets: VecDeque<Packet> },
}

/// The table of one shard.
#[derive(Debug)]
pub(crate) struct Neighbors {
    entries: HashMap<IpAddr, Entry, KeyedState>,
    /// Who was confirmed when, to forget the longest silent first.
    by_age: BTreeSet<(Instant, IpAddr)>,
    timers: BTreeSet<(Instant, IpAddr)>,
    pending: usize,
    /// Raised whenever a known address changes or goes, so that callers may keep what they were told until then.
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    mac: Option<EthernetAddress>,
    state: State,
    /// Last proof that the neighbour is there (or the entry's creation). Kept in `by_age`.
    confirmed: Instant,
    /// Kept in `timers`.
    timer: Option<Instant>,
    requests: u8,
    pending: VecDeque<Packet>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Asked for, not known yet.
    Incomplete,
    /// Known and lately confirmed; stale once the confirmation is older than `limits::NEIGHBOR_LIFETIME`.
    Reachable,
    /// Known, to be checked when used.
    Stale,
    /// Used though stale; asked soon unless something confirms it.
    Delay,
    /// Asked directly, still used meanwhile.
    Probe,
}

impl Neighbors {
    pub(crate) fn new(keys: (u64, u64)) -> Self {
        Self {
            entries: HashMap::with_hasher(KeyedState(keys)),
            by_age: BTreeSet::new(),
            timers: BTreeSet::new(),
            pending: 0,
            generation: 0,
        }
    }

    /// The keyed hasher, for other tables of this shard.
    pub(crate) fn hasher(&self) -> KeyedState {
        *self.entries.hasher()
    }

    /// The Ethernet address to send to `addr` now, if known.
    pub(crate) fn resolve(&mut self, now: Instant, addr: IpAddr) -> Option<EthernetAddress> {
        let entry = self.entries.get_mut(&addr)?;
        let expired = now.saturating_since(entry.confirmed) >= limits::NEIGHBOR_LIFETIME;
        if entry.state == State::Stale || entry.state == State::Reachable && expired {
            entry.state = State::Delay;
            set_timer(&mut self.timers, addr, entry, Some(now + limits::NEIGHBOR_DELAY));
        }
        entry.mac
    }

    /// Whether `addr` is in the table.
    pub(crate) fn knows(&self, addr: IpAddr) -> bool {
        self.entries.contains_key(&addr)
    }

    /// What [`Neighbors::resolve`] answered stays true while this number stays the same.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Keeps `packet` until the address of `addr` is known, and starts asking. The oldest packet for the same neighbour
    /// makes room; beyond the total bound the packet is dropped. Only for neighbours that [`Neighbors::resolve`] did not
    /// know.
    pub(crate) fn hold(&mut self, now: Instant, addr: IpAddr, packet: Packet, counters: &mut Counters) {
        if !self.entries.contains_key(&addr) {
            self.insert(now, addr, None, State::Incomplete, counters);
        }
        let Some(entry) = self.entries.get_mut(&addr) else { return };
        debug_assert!(entry.mac.is_none(), "a packet for a known neighbour need not wait");
        if entry.pending.len() == limits::NEIGHBOR_PENDING_PACKETS {
            entry.pending.pop_front();
            self.pending -= 1;
            counters.drop(DropReason::NeighborPendingFull);
        }
        if self.pending == limits::NEIGHBOR_PENDING_PACKETS_TOTAL {
            counters.drop(DropReason::NeighborPendingFull);
            return;
        }
        entry.pending.push_back(packet);
        self.pending += 1;
    }

    /// Takes in that `addr` claims to be at `mac`. Returns the packets that waited for it. The caller has checked that
    /// `addr` is a host on the link and not ours, and that `mac` is no group's.
    pub(crate) fn heard(
        &mut self,
        now: Instant,
        addr: IpAddr,
        mac: EthernetAddress,
        claim: Claim,
        counters: &mut Counters,
    ) -> VecDeque<Packet> {
        let Some(entry) = self.entries.get_mut(&addr) else {
            let state = match claim {
                Claim::Asked => State::Reachable,
                Claim::Data => State::Stale,
                Claim::Told { .. } => return VecDeque::new(),
            };
            counters.neighbor_learned += 1;
            self.insert(now, addr, Some(mac), state, counters);
            return VecDeque::new();
        };
        let differs = entry.mac != Some(mac);
        let confirms = match claim {
            Claim::Asked => true,
            Claim::Told { solicited, replace } => {
                // RFC 4861 section 7.2.5: without the override flag a known address is only doubted.
                if differs && !replace && entry.mac.is_some() {
                    if entry.state == State::Reachable {
                        entry.state = State::Stale;
                    }
                    return VecDeque::new();
                }
                solicited
            }
            // Data from a known neighbour confirms it; other data is not worth more than what is known.
            Claim::Data if differs => return VecDeque::new(),
            Claim::Data => entry.state != State::Incomplete,
        };
        if differs {
            entry.mac = Some(mac);
            entry.state = State::Stale;
            self.generation += 1;
        }
        if confirms {
            entry.state = State::Reachable;
            self.by_age.remove(&(entry.confirmed, addr));
            entry.confirmed = now;
            self.by_age.insert((now, addr));
        }
        if differs || confirms {
            counters.neighbor_learned += 1;
            entry.requests = 0;
            set_timer(&mut self.timers, addr, entry, None);
        }
        self.pending -= entry.pending.len();
        core::mem::take(&mut entry.pending)
    }

    /// What goes by way of `addr` is not answered: it is asked whether it is there and still has that Ethernet address, unless
    /// it was confirmed lately. Without an answer it is forgotten.
    pub(crate) fn doubt(&mut self, now: Instant, addr: IpAddr) {
        let Some(entry) = self.entries.get_mut(&addr) else { return };
        let asked = matches!(entry.state, State::Incomplete | State::Probe);
        if asked || now.saturating_since(entry.confirmed) < limits::NEIGHBOR_DELAY {
            return;
        }
        entry.state = State::Delay;
        set_timer(&mut self.timers, addr, entry, Some(now));
    }

    /// The next thing whose time has come; to be called until it returns `None`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Due> {
        let &(at, addr) = self.timers.first()?;
        if at > now {
            return None;
        }
        let entry = self.entries.get_mut(&addr)?;
        if entry.state == State::Delay {
            entry.state = State::Probe;
            entry.requests = 0;
        }
        if entry.requests < limits::NEIGHBOR_REQUESTS {
            entry.requests += 1;
            set_timer(&mut self.timers, addr, entry, Some(now + limits::NEIGHBOR_REQUEST_INTERVAL));
            return Some(Due::Solicit { addr, to: entry.mac });
        }
        // A neighbour that does not answer when asked directly is forgotten; the next packet for it asks everybody.
        let packets = self.remove(addr).unwrap_or_default();
        Some(Due::Failed { addr, packets })
    }

    /// When [`Neighbors::due`] next has something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Forgets everything (the interface's addresses changed); packets that waited are dropped and counted.
    pub(crate) fn clear(&mut self, counters: &mut Counters) {
        (0..self.pending).for_each(|_| counters.drop(DropReason::NeighborUnreachable));
        self.entries.clear();
        self.by_age.clear();
        self.timers.clear();
        self.pending = 0;
        self.generation += 1;
    }

    fn insert(
        &mut self,
        now: Instant,
        addr: IpAddr,
        mac: Option<EthernetAddress>,
        state: State,
        counters: &mut Counters,
    ) {
        if self.entries.len() >= limits::NEIGHBOR_ENTRIES
            && let Some(&(_, oldest)) = self.by_age.first()
        {
            counters.neighbor_evicted += 1;
            for _ in self.remove(oldest).unwrap_or_default() {
                counters.drop(DropReason::NeighborPendingFull);
            }
        }
        let mut entry =
            Entry { mac, state, confirmed: now, timer: None, requests: 0, pending: VecDeque::new() };
        if mac.is_none() {
            set_timer(&mut self.timers, addr, &mut entry, Some(now));
        }
        self.entries.insert(addr, entry);
        self.by_age.insert((now, addr));
    }

    fn remove(&mut self, addr: IpAddr) -> Option<VecDeque<Packet>> {
        let mut entry = self.entries.remove(&addr)?;
        set_timer(&mut self.timers, addr, &mut entry, None);
        self.by_age.remove(&(entry.confirmed, addr));
        self.pending -= entry.pending.len();
        self.generation += 1;
        Some(entry.pending)
    }
}

fn set_timer(timers: &mut BTreeSet<(Instant, IpAddr)>, addr: IpAddr, entry: &mut Entry, at: Option<Instant>) {
    if let Some(old) = entry.timer {
        timers.remove(&(old, addr));
    }
    entry.timer = at;
    timers.extend(at.map(|at| (at, addr)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{PacketPool, PoolLayout};
    use proptest::prelude::*;

    const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 7]);
    const OTHER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 8]);
    const REPLY: Claim = Claim::Told { solicited: true, replace: true };

    struct Bench {
        table: Neighbors,
        counters: Counters,
        pool: PacketPool,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let pool = PacketPool::heap(PoolLayout { frames: 1024, frame_size: 256, headroom: 0 });
            Self {
                table: Neighbors::new((1, 2)),
                counters: Counters::default(),
                pool,
                now: Instant::from_millis(1),
            }
        }

        fn hold(&mut self, addr: IpAddr) {
            let packet = Packet::alloc(&self.pool).unwrap();
            self.table.hold(self.now, addr, packet, &mut self.counters);
        }

        fn heard(&mut self, addr: IpAddr, mac: EthernetAddress, claim: Claim) -> usize {
            self.table.heard(self.now, addr, mac, claim, &mut self.counters).len()
        }

        fn resolve(&mut self, addr: IpAddr) -> Option<EthernetAddress> {
            self.table.resolve(self.now, addr)
        }

        /// Jumps to the next deadline and says what is due there.
        fn next(&mut self) -> Option<Due> {
            self.now = self.now.max(self.table.next_deadline()?);
            self.table.due(self.now)
        }
    }

    fn addr(host: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + host).into())
    }

    #[test]
    fn a_doubted_neighbour_is_asked_at_once_unless_it_was_confirmed_lately() {
        // RFC 9293 section 3.8.3, MUST-20.
        let mut bench = Bench::new();
        bench.heard(addr(1), MAC, Claim::Asked);
        bench.table.doubt(bench.now, addr(1));
        assert!(bench.table.next_deadline().is_none());
        bench.now += limits::NEIGHBOR_DELAY;
        for _ in 0..2 {
            bench.table.doubt(bench.now, addr(1));
        }
        assert_eq!(bench.resolve(addr(1)), Some(MAC), "used meanwhile");
        for _ in 0..limits::NEIGHBOR_REQUESTS {
            assert!(matches!(bench.next(), Some(Due::Solicit { to: Some(MAC), .. })));
        }
        assert!(matches!(bench.next(), Some(Due::Failed { .. })));
        assert_eq!(bench.resolve(addr(1)), None);
    }

    #[test]
    fn packets_wait_for_the_answer_and_leave_in_order() {
        let mut bench = Bench::new();
        assert_eq!(bench.resolve(addr(1)), None);
        bench.hold(addr(1));
        bench.hold(addr(1));
        assert!(matches!(bench.next(), Some(Due::Solicit { addr: asked, to: None }) if asked == addr(1)));
        assert!(bench.table.due(bench.now).is_none(), "one request an interval");
        assert_eq!(bench.heard(addr(1), MAC, REPLY), 2);
        assert_eq!(bench.resolve(addr(1)), Some(MAC));
        assert_eq!(bench.table.next_deadline(), None);
    }

    #[test]
    fn a_silent_neighbor_fails_after_three_requests_a_second_apart() {
        let mut bench = Bench::new();
        bench.hold(addr(1));
        let start = bench.now;
        for _ in 0..3 {
            assert!(matches!(bench.next(), Some(Due::Solicit { .. })));
        }
        let Some(Due::Failed { addr: failed, packets }) = bench.next() else { panic!("not failed") };
        assert_eq!((failed, packets.len()), (addr(1), 1));
        assert_eq!(bench.now - start, limits::NEIGHBOR_REQUEST_INTERVAL * 3);
        assert_eq!(bench.resolve(addr(1)), None);
    }

    #[test]
    fn a_stale_neighbor_is_used_and_asked_directly() {
        let mut bench = Bench::new();
        bench.heard(addr(1), MAC, Claim::Asked);
        bench.now += limits::NEIGHBOR_LIFETIME;
        assert_eq!(bench.resolve(addr(1)), Some(MAC));
        assert!(matches!(bench.next(), Some(Due::Solicit { to: Some(MAC), .. })));
        assert_eq!(bench.resolve(addr(1)), Some(MAC), "still used while being asked");
        bench.heard(addr(1), MAC, REPLY);
        assert_eq!(bench.table.next_deadline(), None);
    }

    #[test]
    fn an_unanswered_probe_ends_in_asking_everybody() {
        let mut bench = Bench::new();
        bench.heard(addr(1), MAC, Claim::Data);
        bench.resolve(addr(1));
        for _ in 0..3 {
            assert!(matches!(bench.next(), Some(Due::Solicit { to: Some(MAC), .. })));
        }
        assert!(matches!(bench.next(), Some(Due::Failed { .. })));
        bench.hold(addr(1));
        assert!(matches!(bench.next(), Some(Due::Solicit { to: None, .. })));
    }

    #[test]
    fn data_from_the_neighbor_spares_the_probe() {
        let mut bench = Bench::new();
        bench.heard(addr(1), MAC, Claim::Asked);
        bench.now += limits::NEIGHBOR_LIFETIME;
        bench.resolve(addr(1));
        bench.heard(addr(1), MAC, Claim::Data);
        assert_eq!(bench.table.next_deadline(), None);
    }

    #[test]
    fn unasked_replies_create_nothing_but_update_what_is_there() {
        let mut bench = Bench::new();
        bench.heard(addr(1), MAC, REPLY);
        assert_eq!(bench.resolve(addr(1)), None);
        bench.heard(addr(1), MAC, Claim::Asked);
        let before = bench.table.generation();
        bench.heard(addr(1), OTHER, Claim::Told { solicited: false, replace: true });
        assert_eq!(bench.resolve(addr(1)), Some(OTHER));
        assert!(bench.table.generation() > before);
    }

    #[test]
    fn an_advertisement_without_override_only_casts_doubt() {
        let mut bench = Bench::new();
        bench.heard(addr(1), MAC, Claim::Asked);
        bench.heard(addr(1), OTHER, Claim::Told { solicited: true, replace: false });
        assert_eq!(bench.resolve(addr(1)), Some(MAC));
        assert!(matches!(bench.next(), Some(Due::Solicit { to: Some(MAC), .. })), "checked after use");
    }

    #[test]
    fn data_does_not_replace_what_arp_said() {
        let mut bench = Bench::new();
        bench.heard(addr(1), MAC, Claim::Asked);
        bench.heard(addr(1), OTHER, Claim::Data);
        assert_eq!(bench.resolve(addr(1)), Some(MAC));
    }

    #[test]
    fn the_oldest_waiting_packet_makes_room() {
        let mut bench = Bench::new();
        (0..=limits::NEIGHBOR_PENDING_PACKETS).for_each(|_| bench.hold(addr(1)));
        assert_eq!(bench.counters.dropped(DropReason::NeighborPendingFull), 1);
        assert_eq!(bench.heard(addr(1), MAC, REPLY), limits::NEIGHBOR_PENDING_PACKETS);
        assert_eq!(bench.pool.free_frames(), 1024);
    }

    #[test]
    fn all_neighbors_together_hold_a_bounded_number_of_packets() {
        let mut bench = Bench::new();
        (0..400).for_each(|host| bench.hold(addr(host)));
        assert_eq!(bench.table.pending, limits::NEIGHBOR_PENDING_PACKETS_TOTAL);
        assert_eq!(1024 - bench.pool.free_frames() as usize, limits::NEIGHBOR_PENDING_PACKETS_TOTAL);
    }

    #[test]
    fn a_flood_of_strangers_evicts_the_longest_silent() {
        let mut bench = Bench::new();
        for host in 0..=limits::NEIGHBOR_ENTRIES as u32 {
            bench.now += core::time::Duration::from_millis(1);
            bench.heard(addr(host), MAC, Claim::Asked);
            bench.heard(addr(1), MAC, Claim::Data);
        }
        assert_eq!(bench.table.entries.len(), limits::NEIGHBOR_ENTRIES);
        assert_eq!((bench.resolve(addr(0)), bench.resolve(addr(1))), (None, Some(MAC)));
        assert_eq!(bench.counters.neighbor_evicted, 1);
    }

    proptest! {
        /// Whatever happens, the three indices agree, bounds hold and no frame is lost.
        #[test]
        fn the_books_agree(steps in prop::collection::vec((0u8..8, 0u32..40, 0u64..3000), 1..300)) {
            let mut bench = Bench::new();
            for (step, host, millis) in steps {
                match step {
                    0 | 1 if bench.resolve(addr(host)).is_none() => bench.hold(addr(host)),
                    0..=2 => drop(bench.heard(addr(host), MAC, Claim::Asked)),
                    3 => drop(bench.heard(addr(host), OTHER, REPLY)),
                    4 => drop(bench.heard(addr(host), OTHER, Claim::Told { solicited: false, replace: host % 2 == 0 })),
                    5 => drop(bench.heard(addr(host), MAC, Claim::Data)),
                    6 => drop(bench.resolve(addr(host))),
                    _ => {
                        bench.now += core::time::Duration::from_millis(millis);
                        while bench.table.due(bench.now).is_some() {}
                    }
                }
                let table = &bench.table;
                let pending: usize = table.entries.values().map(|entry| entry.pending.len()).sum();
                prop_assert_eq!(pending, table.pending);
                prop_assert_eq!(pending, 1024 - bench.pool.free_frames() as usize);
                prop_assert_eq!(table.by_age.len(), table.entries.len());
                prop_assert!(table.by_age.iter().all(|(at, addr)| table.entries[addr].confirmed == *at));
                let timers = table.entries.values().filter(|entry| entry.timer.is_some()).count();
                prop_assert_eq!(timers, table.timers.len());
                prop_assert!(table.timers.iter().all(|(at, addr)| table.entries[addr].timer == Some(*at)));
                prop_assert!(table.entries.values().all(|entry| entry.pending.is_empty() || entry.mac.is_none()));
                prop_assert!(table.entries.values().all(|entry| entry.mac.is_some() || entry.timer.is_some()));
            }
        }
    }
}
