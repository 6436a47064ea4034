//! Connection tracking, as netfilter's users know it: which flow a packet belongs to, whether it is new, established, related
//! or invalid, and how long the flow is remembered.
//!
//! [`Conntrack::track`] is asked once for each packet. A packet that begins a flow gets a [`Begin`], which is no entry yet: the
//! rules may still drop the packet. [`Conntrack::confirm`] makes it one. One [`Conntrack`] belongs to one shard; both
//! directions of a flow must come to the same. It reads no clock: time comes with each call.

mod config;
mod entry;
mod events;
mod tcp;
#[cfg(test)]
mod tests;

use hashbrown::HashTable;

pub use config::{ConntrackConfig, Timeouts};
pub use entry::{Count, Direction, Entry, ProtocolState};
pub use events::{Event, EventKind};
pub use tcp::{Misfit, TcpState, TcpTrack};

use self::entry::Update;
use self::events::Events;
use super::FlowTuple;
use super::view::{PacketView, Transport};
use crate::limits;
use crate::tcp::table::{List, Slab};
use crate::time::Instant;
use crate::timer_wheel::TimerWheel;

/// A flow of this shard. Stale handles find nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EntryId {
    index: u32,
    generation: u32,
}

impl EntryId {
    /// Its place, of those packets of it that go in `direction`.
    pub(crate) fn place(self, direction: Direction) -> Place {
        Place::new(self.index, direction)
    }

    /// It as one number: no other flow of the table has or had it, short of 2^32 in the same place.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// A packet's state, as rules match it (`--ctstate`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CtState {
    /// It begins a flow, or the flow was not answered yet.
    New,
    /// The flow has packets in both directions.
    Established,
    /// It begins a flow that another one announced, or is an ICMP error about a flow.
    Related,
    /// It fits no flow and begins none.
    Invalid,
    /// A rule said not to track it, or it is of a kind that is not tracked.
    Untracked,
}

/// What [`Conntrack::track`] found.
#[derive(Debug)]
pub enum Tracked {
    /// The packet of a known flow.
    Known(Hit),
    /// The first packet of a flow, which exists once it is confirmed.
    Begin(Box<Begin>),
    /// It fits no flow.
    Invalid(Invalid),
    /// It is of a kind that is not tracked: neighbour discovery, redirects, group membership.
    Untracked,
}

/// What became of a packet in its flow's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// It belongs to the flow.
    Known(Hit),
    /// It does not fit it.
    Invalid(Misfit),
    /// It begins another flow in its place; only a SYN does.
    Reopens,
}

/// The packet of a known flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The flow.
    pub id: EntryId,
    /// Which way the packet goes. For an ICMP error: the way that the flow's packets go which come from where it came from.
    pub direction: Direction,
    /// New, established or related.
    pub state: CtState,
}

/// A flow that has no entry yet. Who translates it changes `entry.reply` before it is confirmed.
#[derive(Clone, Debug)]
pub struct Begin {
    /// What the entry will be.
    pub entry: Entry,
    /// Of its original tuple.
    hash: u32,
    /// Of the reply tuple that [`Conntrack::clashes`] was asked about.
    reply: Option<(FlowTuple, u32)>,
}

/// Why a packet fits no flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// A TCP segment.
    Tcp(Misfit),
    /// A reply to an ICMP query that nobody asked.
    UnaskedReply,
    /// An ICMP error that quotes no flow known here.
    UnknownQuote,
    /// An ICMP message that is neither a query, nor an error, nor for hosts of one link.
    IcmpType,
    /// Its transport header or checksum is wrong.
    Broken,
}

/// Why a flow was not confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfirmError {
    /// Every entry is assured, and none is being closed.
    #[error("the connection tracking table is full")]
    TableFull,
    /// Another flow has one of its tuples by now.
    #[error("another flow has the same tuple")]
    Clash,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ConntrackCounters {
    /// Flows confirmed.
    pub confirmed: u64,
    /// Packets that fit no flow.
    pub invalid: u64,
    /// Entries that ended before their time to make room.
    pub early_drops: u64,
    /// Flows refused because all entries were assured.
    pub table_full: u64,
    /// Flows refused because another had the same tuple.
    pub clashes: u64,
    /// Entries that ran out.
    pub expired: u64,
    /// Events that nobody took in time.
    pub events_lost: u64,
}

/// One shard's table of flows.
pub struct Conntrack {
    config: ConntrackConfig,
    by_tuple: HashTable<Led>,
    hash_keys: (u64, u64),
    entries: Slab<Entry>,
    /// Entries that may be dropped to make room: not assured or being closed, in the order in which they became so.
    droppable: List,
    /// One timer for each entry, which says its place. It is moved when the entry is to end earlier; when later, only once
    /// it has fired.
    wheel: TimerWheel<u32>,
    fired: Vec<u32>,
    /// `None`: nobody follows.
    events: Option<Events>,
    /// Entries that ended and whose mapping is to be given back, or all that did.
    ended: Vec<Entry>,
    /// For the next flow that begins, so that none is allocated.
    spare: Option<Box<Begin>>,
    notes_all_ended: bool,
    counters: ConntrackCounters,
}

/// An entry of the hash table. It keeps its hash, so that the table grows, and a search passes others by, without a look at
/// what they lead to.
#[derive(Clone, Copy)]
struct Led {
    hash: u32,
    place: Place,
}

/// A hash as the table wants it: it takes a bucket from the low bits and a tag from the high ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// What a tuple leads to: an entry's place and, in the lowest bit, the direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u32);

impl Place {
    pub(crate) fn new(index: u32, direction: Direction) -> Self {
        Self(index << 1 | direction as u32)
    }

    /// Of the entry.
    pub(crate) fn index(self) -> u32 {
        self.0 >> 1
    }

    /// Different for each direction of each entry, and less than twice the table's places.
    pub(crate) fn number(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Original } else { Direction::Reply }
    }
}

impl Conntrack {
    /// An empty table. `hash_keys` must be unpredictable on a real network, and those of the parser where views have its hash.
    #[must_use]
    pub fn new(config: ConntrackConfig, hash_keys: (u64, u64), now: Instant) -> Self {
        let mut config = config;
        config.entries_max = config.entries_max.clamp(1, limits::CONNTRACK_ENTRIES_MAX);
        Self {
            config,
            by_tuple: HashTable::new(),
            hash_keys,
            entries: Slab::new(),
            droppable: List::EMPTY,
            wheel: TimerWheel::new(now),
            fired: Vec::new(),
            events: None,
            ended: Vec::new(),
            spare: None,
            notes_all_ended: false,
            counters: ConntrackCounters::default(),
        }
    }

    // ---- the packet path

    /// Says which flow a packet belongs to, and takes it into account there.
    pub fn track(&mut self, now: Instant, view: &PacketView) -> Tracked {
        match &view.transport {
            Transport::Error { quoted, .. } => return self.track_error(view, quoted.as_ref()),
            Transport::Icmp { kind, .. } if is_icmp_for_links(view.tuple.is_ipv4(), *kind) => {
                return Tracked::Untracked;
            }
            Transport::Icmp { .. } => return self.refuse(Invalid::IcmpType),
            Transport::Broken => return self.refuse(Invalid::Broken),
            _ => {}
        }
        let hash = self.hash_of(view);
        let Some(place) = self.find_hashed(hash, &view.tuple) else { return self.begin(now, view, hash) };
        if self.is_over(now, place) {
            // Its timer is late.
            self.counters.expired += 1;
            self.remove(place.index());
            return self.begin(now, view, hash);
        }
        match self.take(now, place, view) {
            Taken::Known(hit) => Tracked::Known(hit),
            Taken::Invalid(misfit) => Tracked::Invalid(Invalid::Tcp(misfit)),
            Taken::Reopens => {
                self.remove(place.index());
                self.begin(now, view, hash)
            }
        }
    }

    /// The entry of a packet's flow, and which way the packet goes.
    pub(crate) fn place_of(&self, view: &PacketView) -> Option<Place> {
        self.find_hashed(self.hash_of(view), &view.tuple)
    }

    /// Whether the entry's time is over, though its timer has not fired yet.
    pub(crate) fn is_over(&self, now: Instant, place: Place) -> bool {
        self.entries.get(place.index()).is_none_or(|entry| entry.expires <= now)
    }

    /// Which of the tenants of its place an entry is.
    pub(crate) fn generation(&self, place: Place) -> u32 {
        self.entries.generation(place.index())
    }

    /// The entry at a place that was just found.
    pub(crate) fn at(&self, place: Place) -> Option<&Entry> {
        self.entries.get(place.index())
    }

    /// Takes a packet into account in its flow's entry, whose time is not over.
    pub(crate) fn take(&mut self, now: Instant, place: Place, view: &PacketView) -> Taken {
        let (index, direction) = (place.index(), place.direction());
        let Some(entry) = self.entries.get_mut(index) else { return Taken::Reopens };
        let was_droppable = entry.is_droppable();
        let update = entry.update(now, direction, view, &self.config);
        let (seen_reply, related, droppable) = (entry.seen_reply, entry.related, entry.is_droppable());
        let (expires, fires) = (entry.expires, entry.timer.map(|(_, at)| at));
        let id = EntryId { index, generation: self.entries.generation(index) };
        match (was_droppable, droppable) {
            (true, false) => self.entries.unlink(&mut self.droppable, index),
            (false, true) => self.entries.push_back(&mut self.droppable, index),
            _ => {}
        }
        if fires.is_some_and(|fires| expires < fires) {
            self.set_timer(index, expires);
        }
        match update {
            Update::Taken { changed } => {
                if changed {
                    self.tell(EventKind::Update, index);
                }
            }
            // The packet itself still belongs to it: it goes with the timer, which is due at once.
            Update::Ends => self.expire_at(now, index),
            Update::Reopens => return Taken::Reopens,
            Update::Invalid(misfit) => {
                self.counters.invalid += 1;
                return Taken::Invalid(misfit);
            }
        }
        let state = match (seen_reply, related) {
            (true, _) => CtState::Established,
            (false, true) => CtState::Related,
            (false, false) => CtState::New,
        };
        Taken::Known(Hit { id, direction, state })
    }

    /// As [`Conntrack::take`] for a datagram that changes nothing but its flow's counts and end; `false`: it may, or its flow
    /// is not that of `generation`, and nothing happened.
    #[inline]
    pub(crate) fn take_datagram(&mut self, now: Instant, place: Place, generation: u32, len: u32) -> bool {
        let Some(entry) = self.entries.get_exact_mut(place.index(), generation) else { return false };
        entry.take_datagram(now, place.direction(), len, &self.config.timeouts)
    }

    /// Makes an entry of a flow whose first packet may pass.
    ///
    /// # Errors
    /// See [`ConfirmError`]; the packet should be dropped then.
    pub fn confirm(&mut self, now: Instant, mut begin: Box<Begin>) -> Result<EntryId, ConfirmError> {
        let clash = self.clashes(&mut begin) || self.find_hashed(begin.hash, &begin.entry.original).is_some();
        let hashes = [begin.hash, begin.reply.map_or(0, |(_, hash)| hash)];
        begin.entry.hashes = hashes;
        let confirmed = self.insert(now, clash, &begin.entry);
        self.give_back(begin);
        confirmed
    }

    /// Whether the answers to a flow that begins would be another one's.
    pub(crate) fn clashes(&self, begin: &mut Begin) -> bool {
        let reply = &begin.entry.reply;
        let hash = match begin.reply {
            Some((tuple, hash)) if tuple == *reply => hash,
            _ => self.hash(reply),
        };
        begin.reply = Some((*reply, hash));
        self.find_hashed(hash, reply).is_some()
    }

    /// A flow does not begin.
    pub(crate) fn give_back(&mut self, begin: Box<Begin>) {
        self.spare = Some(begin);
    }

    fn insert(&mut self, now: Instant, clash: bool, entry: &Entry) -> Result<EntryId, ConfirmError> {
        if clash || entry.original == entry.reply {
            self.counters.clashes += 1;
            return Err(ConfirmError::Clash);
        }
        if self.entries.len() >= self.config.entries_max && !self.drop_early() {
            self.counters.table_full += 1;
            return Err(ConfirmError::TableFull);
        }
        let (expires, hashes) = (entry.expires.max(now), entry.hashes);
        let index = self.entries.insert(*entry);
        let generation = self.entries.generation(index);
        self.entries.push_back(&mut self.droppable, index);
        self.attach(hashes[0], index, Direction::Original);
        self.attach(hashes[1], index, Direction::Reply);
        self.set_timer(index, expires);
        self.counters.confirmed += 1;
        self.tell(EventKind::New, index);
        Ok(EntryId { index, generation })
    }

    /// Ends what has run out.
    pub fn advance(&mut self, now: Instant) {
        let mut fired = core::mem::take(&mut self.fired);
        self.wheel.advance(now, &mut fired);
        for index in fired.drain(..) {
            let Some(entry) = self.entries.get(index) else { continue };
            let expires = entry.expires;
            if expires > now {
                self.set_timer(index, expires);
            } else {
                self.counters.expired += 1;
                self.remove(index);
            }
        }
        self.fired = fired;
    }

    /// When [`Conntrack::advance`] is next needed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// `hash`: of the packet's tuple.
    fn begin(&mut self, now: Instant, view: &PacketView, hash: u32) -> Tracked {
        if !view.tuple.may_begin() {
            return self.refuse(Invalid::UnaskedReply);
        }
        match Entry::begin(now, view, &self.config) {
            Ok(entry) => {
                let begin = Begin { entry, hash, reply: None };
                Tracked::Begin(match self.spare.take() {
                    Some(mut spare) => {
                        *spare = begin;
                        spare
                    }
                    None => Box::new(begin),
                })
            }
            Err(misfit) => self.refuse(Invalid::Tcp(misfit)),
        }
    }

    fn refuse(&mut self, invalid: Invalid) -> Tracked {
        self.counters.invalid += 1;
        Tracked::Invalid(invalid)
    }

    /// An ICMP error is related to the flow whose packet it quotes, and must go to who sent that; whoever it comes from, it neither
    /// refreshes nor ends it (RFC 4787 REQ-12, REQ-12a; RFC 5382 REQ-10; RFC 5508 REQ-4, REQ-6; RFC 7857 section 7.1).
    fn track_error(&mut self, view: &PacketView, quoted: Option<&FlowTuple>) -> Tracked {
        let place = quoted
            .filter(|quoted| quoted.src() == view.tuple.dst())
            .and_then(|quoted| self.find_place(&quoted.reversed()));
        let Some(place) = place else {
            self.counters.invalid += 1;
            return Tracked::Invalid(Invalid::UnknownQuote);
        };
        let id = EntryId { index: place.index(), generation: self.entries.generation(place.index()) };
        Tracked::Known(Hit { id, direction: place.direction(), state: CtState::Related })
    }

    // ---- calls

    /// The entry, if it still exists.
    #[must_use]
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get_exact(id.index, id.generation)
    }

    /// The flow of which `tuple` is one direction's, before translation.
    #[must_use]
    pub fn find(&self, tuple: &FlowTuple) -> Option<(EntryId, Direction)> {
        let place = self.find_place(tuple)?;
        let index = place.index();
        Some((EntryId { index, generation: self.entries.generation(index) }, place.direction()))
    }

    /// Gives an entry a mark.
    pub fn set_mark(&mut self, id: EntryId, mark: u32) {
        if let Some(entry) = self.entries.get_exact_mut(id.index, id.generation)
            && entry.mark != mark
        {
            entry.mark = mark;
            self.tell(EventKind::Update, id.index);
        }
    }

    /// Translation has the destination of an entry's tuple down as a port in use: it wants to hear of the entry's end.
    pub(crate) fn mark_taken(&mut self, id: EntryId, direction: Direction) {
        if let Some(entry) = self.entries.get_exact_mut(id.index, id.generation) {
            entry.taken[direction as usize] = true;
        }
    }

    /// Ends a flow; `false`: it had ended.
    pub fn delete(&mut self, id: EntryId) -> bool {
        let exists = self.get(id).is_some();
        if exists {
            self.remove(id.index);
        }
        exists
    }

    /// Shows `each` the entries at the `places` places from `cursor` on. Returns the cursor of the next portion; `None`: that
    /// was all. O(places).
    pub fn list(&self, cursor: u32, places: u32, mut each: impl FnMut(EntryId, &Entry)) -> Option<u32> {
        let end = cursor.saturating_add(places).min(self.entries.places());
        for index in cursor..end {
            if let Some(entry) = self.entries.get(index) {
                each(EntryId { index, generation: self.entries.generation(index) }, entry);
            }
        }
        (end < self.entries.places()).then_some(end)
    }

    /// Flows known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many there may be.
    #[must_use]
    pub fn entries_max(&self) -> usize {
        self.config.entries_max
    }

    /// Whether no flow is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> ConntrackCounters {
        self.counters
    }

    /// Whether events are kept for [`Conntrack::take_events`], at most [`limits::CONNTRACK_EVENTS`]; those kept before stay.
    pub fn follow(&mut self, on: bool) {
        if on {
            self.events.get_or_insert_default();
        } else {
            self.events = None;
        }
    }

    /// Shows `each` the events since the last call. Returns how many further ones were lost, for want of room.
    pub fn take_events(&mut self, each: impl FnMut(&Event)) -> u64 {
        self.events.as_mut().map_or(0, |events| events.take(each))
    }

    /// From now on [`Conntrack::take_ended`] has every entry, not only those with a mapping.
    pub fn note_all_ended(&mut self) {
        self.notes_all_ended = true;
    }

    /// The entries with a mapping or a port of translation's that ended since the last call. It must be asked after each call that may
    /// end some.
    pub fn take_ended(&mut self) -> impl Iterator<Item = Entry> + '_ {
        self.ended.drain(..)
    }

    // ---- tables

    fn hash(&self, tuple: &FlowTuple) -> u32 {
        tuple.keyed_hash(self.hash_keys)
    }

    fn hash_of(&self, view: &PacketView) -> u32 {
        let hash = if view.hash == 0 { self.hash(&view.tuple) } else { view.hash };
        debug_assert_eq!(hash, self.hash(&view.tuple), "the parser has other keys");
        hash
    }

    fn find_place(&self, tuple: &FlowTuple) -> Option<Place> {
        self.find_hashed(self.hash(tuple), tuple)
    }

    fn find_hashed(&self, hash: u32, tuple: &FlowTuple) -> Option<Place> {
        let has_tuple = |place: Place| {
            self.entries.get(place.index()).is_some_and(|entry| entry.tuple(place.direction()) == tuple)
        };
        let led = self.by_tuple.find(spread(hash), |led| led.hash == hash && has_tuple(led.place))?;
        Some(led.place)
    }

    /// `hash`: of the entry's tuple in that direction.
    fn attach(&mut self, hash: u32, index: u32, direction: Direction) {
        let led = Led { hash, place: Place::new(index, direction) };
        self.by_tuple.insert_unique(spread(hash), led, |other| spread(other.hash));
    }

    fn remove(&mut self, index: u32) {
        let Some(entry) = self.entries.get(index) else { return };
        for direction in [Direction::Original, Direction::Reply] {
            let (hash, place) = (entry.hashes[direction as usize], Place::new(index, direction));
            if let Ok(found) = self.by_tuple.find_entry(spread(hash), |other| other.place == place) {
                found.remove();
            }
        }
        if let Some((timer, _)) = entry.timer {
            self.wheel.cancel(timer);
        }
        if entry.is_droppable() {
            self.entries.unlink(&mut self.droppable, index);
        }
        self.tell(EventKind::Destroy, index);
        let noted = |entry: &Entry| {
            self.notes_all_ended || entry.owns_mapping || entry.let_in || entry.taken != [false; 2]
        };
        self.ended.extend(self.entries.remove(index).filter(noted));
    }

    /// Ends the oldest flow that may be dropped; `false`: there is none.
    fn drop_early(&mut self) -> bool {
        let Some(index) = self.droppable.front() else { return false };
        self.counters.early_drops += 1;
        self.remove(index);
        // The next ones lie wherever memory was free when they began: their places are on their way to the cache meanwhile.
        if let Some(next) = self.droppable.front()
            && let Some(entry) = self.entries.get(next)
        {
            if let Some((timer, _)) = entry.timer {
                self.wheel.prefetch(timer);
            }
            if let Some(after) = self.entries.next(next) {
                self.entries.prefetch::<0, { usize::MAX }>(after);
            }
        }
        true
    }

    fn expire_at(&mut self, now: Instant, index: u32) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.expires = now;
            self.set_timer(index, now);
        }
    }

    /// Sets an entry's timer, or moves it.
    fn set_timer(&mut self, index: u32, at: Instant) {
        let Some(entry) = self.entries.get_mut(index) else { return };
        let moved = entry.timer.filter(|(timer, _)| self.wheel.reschedule(*timer, at));
        let timer = moved.map_or_else(|| self.wheel.schedule(at, index), |(timer, _)| timer);
        entry.timer = Some((timer, at));
    }

    fn tell(&mut self, kind: EventKind, index: u32) {
        let Some(events) = &mut self.events else { return };
        let Some(entry) = self.entries.get(index) else { return };
        let id = EntryId { index, generation: self.entries.generation(index) };
        if !events.push(kind, id, entry) {
            self.counters.events_lost += 1;
        }
    }
}

/// What is not tracked: errors that were left out on purpose, redirects, neighbour and router discovery, group membership.
fn is_icmp_for_links(ipv4: bool, kind: u8) -> bool {
    if ipv4 { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { matches!(kind, 0..=127 | 130..=137 | 143) }
}
