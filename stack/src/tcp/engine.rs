//! The engine: finds whose a segment is, keeps tables, timers and lists in step with what connections have become, and
//! lets time pass. Nothing here that happens for a packet or a tick looks at more than the connections concerned.

use core::cell::Cell;
use core::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use siphasher::sip::SipHasher13;

use super::chronograph::Limit;
use super::config::{SocketOptions, TcpConfig};
use super::connection::{Connection, Context, Listed, timestamp};
use super::connections::Connections;
use super::fastopen::{ClientCache, CookieMaker, FastOpenNews};
use super::input::Segment;
use super::isn::IsnSecret;
use super::listener::Listeners;
use super::look_ahead::LookAhead;
use super::output::Plan;
use super::ports::EphemeralPorts;
use super::rate_limit::TokenBucket;
use super::reply::{Replies, Reply};
use super::syn_cookie::SynCookies;
use super::syn_queue::SynQueue;
use super::table::{List, NIL, TupleKey};
use super::time_wait::{self, TimeWait, TimeWaits};
use super::tuple_index::TupleIndex;
use super::{IcmpError, IcmpErrorKind, IcmpVerdict, Received, State, TcpError};
use crate::counters::{Counters, DropReason, Fresh};
use crate::limits;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::time::Instant;
use crate::timer_wheel::TimerWheel;

/// One shard's TCP.
pub struct Tcp {
    pub(super) config: TcpConfig,
    pub(super) default_options: Rc<SocketOptions>,
    pub(super) isn: IsnSecret,
    pub(super) ports: EphemeralPorts,
    pub(super) tables: Tables,
    pub(super) listeners: Listeners,
    pub(super) replies: Replies,
    pub(super) syn_cookies: SynCookies,
    pub(super) fastopen_cookies: CookieMaker,
    pub(super) fastopen_cache: ClientCache,
    /// What it learned and the other shards do not know yet.
    pub(super) fastopen_news: Vec<FastOpenNews>,
    pub(super) fastopen_news_max: usize,
    /// Connections with something to send, for which there was no room, in turn.
    pub(super) ready: List,
    /// Those to which something happened since `transmit` last saw them.
    pub(super) touched: List,
    pub(super) wheel: TimerWheel<u32>,
    pub(super) fired: Vec<u32>,
    pub(super) ahead: LookAhead,
    challenges: TokenBucket,
    pub(super) buffered_bytes: usize,
    /// Connections that are over and whose handle is still held.
    pub(super) ended: usize,
    /// Every segment goes the general way, in and out: what the short ones are compared with.
    #[cfg(test)]
    pub(super) general_only: bool,
    /// Segments that went the fast way.
    #[cfg(test)]
    pub(super) expected_segments: u64,
    /// Segments that went the short way out.
    #[cfg(test)]
    pub(super) short_segments: u64,
    /// Those of them that were predicted.
    #[cfg(test)]
    pub(super) predicted_segments: u64,
    /// What user calls counted, until the next call with the shard's counters.
    pub(super) calls_counters: Option<Box<Fresh>>,
}

/// What a tuple leads to: a kind in the two upper bits, a place below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(pub(super) u32);

/// The kinds of places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Connection(u32),
    HalfOpen(u32),
    TimeWait(u32),
}

impl From<Kind> for Place {
    fn from(kind: Kind) -> Self {
        Self(match kind {
            Kind::Connection(index) => index,
            Kind::HalfOpen(index) => index | 1 << 30,
            Kind::TimeWait(index) => index | 2 << 30,
        })
    }
}

impl From<Place> for Kind {
    fn from(Place(place): Place) -> Self {
        let index = place & ((1 << 30) - 1);
        match place >> 30 {
            0 => Self::Connection(index),
            1 => Self::HalfOpen(index),
            _ => Self::TimeWait(index),
        }
    }
}

/// All that has a tuple, and the hash table from tuples to it, keyed with a secret so that nobody can aim for collisions.
pub(super) struct Tables {
    pub(super) by_tuple: TupleIndex,
    hash_keys: (u64, u64),
    hasher: SipHasher13,
    /// The tuple of the packet received last, and its hash: what becomes of the packet moves its tuple from table to table.
    last: Cell<(TupleKey, u32)>,
    /// Whose the packet received next is likely to be, or [`NIL`].
    pub(super) likely: u32,
    pub(super) connections: Connections,
    pub(super) syn_queue: SynQueue,
    pub(super) time_waits: TimeWaits,
}

impl Tables {
    fn key_of(&self, place: Place) -> Option<TupleKey> {
        match place.into() {
            Kind::Connection(index) => self.connections.get(index).map(|connection| connection.key),
            Kind::HalfOpen(index) => self.syn_queue.entries.get(index).map(|entry| entry.key),
            Kind::TimeWait(index) => self.time_waits.entries.get(index).map(|entry| entry.key),
        }
    }

    fn hash(&self, key: &TupleKey) -> u32 {
        let (last, hash) = self.last.get();
        if last == *key { hash } else { key.hash(&self.hasher) }
    }

    pub(super) fn find(&self, key: &TupleKey) -> Option<Kind> {
        self.find_hashed(key, self.hash(key))
    }

    /// As `find`, for a packet's, which was hashed when it was parsed.
    fn find_parsed(&self, key: &TupleKey, parsed: &Parsed) -> Option<Kind> {
        let hash = if parsed.hash == 0 { self.hash(key) } else { parsed.hash };
        debug_assert_eq!(hash, key.hash(&self.hasher), "the parser has other keys");
        self.last.set((*key, hash));
        if self.likely != NIL
            && let Some(connection) = self.connections.get(self.likely)
            && connection.key == *key
            && connection.attached
        {
            debug_assert_eq!(self.find_hashed(key, hash), Some(Kind::Connection(self.likely)));
            return Some(Kind::Connection(self.likely));
        }
        self.find_hashed(key, hash)
    }

    fn find_hashed(&self, key: &TupleKey, hash: u32) -> Option<Kind> {
        let is_it = |place: u32| match Place(place).into() {
            Kind::Connection(index) => {
                self.connections.get(index).is_some_and(|connection| connection.key == *key)
            }
            _ => self.key_of(Place(place)).as_ref() == Some(key),
        };
        self.by_tuple.find(hash, is_it).map(|place| Place(place).into())
    }

    /// Leads the tuple of `kind` to it. Nothing else may have that tuple.
    pub(super) fn attach(&mut self, kind: Kind) {
        let place = Place::from(kind);
        let Some(key) = self.key_of(place) else { return };
        let hash = self.hash(&key);
        self.by_tuple.insert(hash, place.0);
    }

    /// Leads the tuple of `from` to `to`, which has the same, instead.
    pub(super) fn lead_on(&mut self, from: Kind, to: Kind) {
        let (from, to) = (Place::from(from), Place::from(to));
        let Some(key) = self.key_of(from) else { return };
        debug_assert_eq!(Some(key), self.key_of(to));
        let hash = self.hash(&key);
        self.by_tuple.renumber(hash, from.0, to.0);
    }

    /// Whether a connection may be opened with this tuple; `reuse`: also in place of a TIME-WAIT entry that allows it.
    pub(super) fn is_free(&self, now: Instant, key: &TupleKey, reuse: bool, config: &TcpConfig) -> bool {
        match self.find(key) {
            None => true,
            Some(Kind::TimeWait(index)) if reuse && config.time_wait_reuse => self
                .time_waits
                .entries
                .get(index)
                .is_some_and(|entry| config.timestamps && entry.may_be_reused(now, config.time_wait)),
            Some(_) => false,
        }
    }

    /// Ends that. Does nothing if the tuple leads elsewhere. Call it while the entry still exists.
    pub(super) fn detach(&mut self, kind: Kind) {
        let place = Place::from(kind);
        let Some(key) = self.key_of(place) else { return };
        let hash = self.hash(&key);
        self.by_tuple.remove(hash, place.0);
    }
}

// ---- the packet path

impl Tcp {
    /// An engine for one of `shards` shards. Ephemeral ports chosen here satisfy `port % shards == shard`. `seed` must be
    /// unpredictable on a real network and the same on all shards. `config` should pass [`TcpConfig::validate`].
    #[must_use]
    pub fn new(config: TcpConfig, seed: [u8; 32], shard: u16, shards: u16) -> Self {
        let secret = super::isn::derive(&seed, b"connection table");
        let hash_keys = (secret.hash(b"0"), secret.hash(b"1"));
        let hasher = SipHasher13::new_with_keys(hash_keys.0, hash_keys.1);
        let nobody = SocketAddr::new(IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED), 0);
        let nobody = TupleKey::new(nobody, nobody);
        Self {
            default_options: Rc::new(config.options.clone()),
            isn: IsnSecret::new(seed).for_shard(shard, shards),
            ports: EphemeralPorts::new(seed, config.ephemeral_ports.clone(), shard, shards),
            tables: Tables {
                by_tuple: TupleIndex::new(),
                hash_keys,
                hasher,
                last: Cell::new((nobody, nobody.hash(&hasher))),
                likely: NIL,
                connections: Connections::new(),
                syn_queue: SynQueue::new(),
                time_waits: TimeWaits::new(),
            },
            listeners: Listeners::new(),
            replies: Replies::default(),
            syn_cookies: SynCookies::new(&seed, shard),
            fastopen_cookies: CookieMaker::new(
                &seed,
                config.fastopen.key_lifetime,
                config.fastopen.keys.as_ref(),
            ),
            fastopen_news: Vec::new(),
            fastopen_news_max: if shards > 1 { limits::TCP_FASTOPEN_NEWS } else { 0 },
            fastopen_cache: ClientCache::new(
                SipHasher13::new_with_keys(secret.hash(b"2"), secret.hash(b"3")),
                config.fastopen.cache_entries,
                config.fastopen.blackhole_pause,
            ),
            ready: List::EMPTY,
            touched: List::EMPTY,
            wheel: TimerWheel::new(Instant::ZERO),
            fired: Vec::new(),
            ahead: LookAhead::default(),
            challenges: TokenBucket::new(config.challenge_acks_per_second, config.challenge_acks_per_second),
            buffered_bytes: 0,
            ended: 0,
            #[cfg(test)]
            general_only: false,
            #[cfg(test)]
            expected_segments: 0,
            #[cfg(test)]
            short_segments: 0,
            #[cfg(test)]
            predicted_segments: 0,
            calls_counters: None,
            config,
        }
    }

    /// The secret of the connection table's hash, the same on all shards: the parser's, too.
    #[must_use]
    pub fn hash_keys(&self) -> (u64, u64) {
        self.tables.hash_keys
    }

    /// Takes a received segment. `packet.parsed.kind` is TCP: header and checksum were checked, and the addresses are
    /// neither multicast nor broadcast; `packet.parsed.hash` is of [`Tcp::hash_keys`], or 0.
    ///
    /// Of a packet that several were merged into ([`crate::offload::gro`]), each counts as a segment; payload is acknowledged
    /// once for all of it. It is given back as [`Received::Merged`] where the segments must be seen one by one.
    pub fn receive(&mut self, now: Instant, packet: Packet, counters: &mut Counters) -> Received {
        let key = super::input::key_of(&packet);
        let found = self.tables.find_parsed(&key, &packet.parsed);
        if packet.is_merged() {
            if !self.takes_merged(found, &packet) {
                return Received::Merged(packet);
            }
        } else if let Some(Kind::Connection(index)) = found
            && self.receive_expected(now, index, &packet, counters)
        {
            return Received::Done;
        }
        let segment = match Segment::parse(packet) {
            Ok(segment) => segment,
            Err(_malformed) => {
                counters.tcp_segments_rx += 1;
                counters.drop(DropReason::BadTcpHeader);
                return Received::Done;
            }
        };
        let (merged, acks) = (segment.merged, segment.acks());
        // A connection was not opened with anything else.
        let is_connection = matches!(found, Some(Kind::Connection(_)));
        if !is_connection && (!is_unicast(key.remote().ip()) || !is_unicast(key.local().ip())) {
            // RFC 9293 section 3.9.2.3, MUST-57 and MUST-63: not even a RST.
            counters.tcp_segments_rx += 1;
            counters.drop(DropReason::Martian);
            return Received::Done;
        }
        let left = match found {
            Some(Kind::Connection(index)) => self.connection_receives(now, index, segment, counters),
            Some(Kind::HalfOpen(index)) => self.half_open_receives(now, index, segment, counters),
            Some(Kind::TimeWait(index)) => self.time_wait_receives(now, index, segment, counters),
            None => self.listener_receives(now, segment, None, counters),
        };
        match left {
            None => {
                counters.tcp_segments_rx += u64::from(merged);
                counters.gro_acks_thinned += u64::from(acks - 1);
                Received::Done
            }
            Some(segment) => Received::NoConnection(segment.into_packet()),
        }
    }

    /// Whether a connection of this shard takes a merged packet whole. What may concern others or no connection yet, a
    /// handshake's end for one, is better seen segment by segment.
    fn takes_merged(&self, found: Option<Kind>, packet: &Packet) -> bool {
        let Some(Kind::Connection(index)) = found else { return false };
        self.tables.connections.get(index).is_some_and(|connection| connection.takes_merged(packet))
    }

    /// Whether a connection of this shard, half-open or in TIME-WAIT too, has the packet's addresses and ports.
    #[must_use]
    pub fn knows_packet(&self, packet: &Packet) -> bool {
        self.tables.find_parsed(&super::input::key_of(packet), &packet.parsed).is_some()
    }

    /// Whether this shard has a use for the packet: its connection, or a listener.
    #[must_use]
    pub fn takes(&self, packet: &Packet) -> bool {
        self.knows_packet(packet) || self.listeners.find(super::input::key_of(packet).local()).is_some()
    }

    /// Answers a segment that a rule rejects with a RST (none for a RST).
    pub fn reset(&mut self, packet: &Packet, counters: &mut Counters) {
        if let Some(reset) = super::input::reset_for_packet(packet) {
            self.replies.push(reset, counters);
        }
    }

    /// Answers a segment that no shard takes with the RST that RFC 9293 section 3.10.7.1 wants (none for a RST). It is
    /// sent by the next [`Tcp::transmit`].
    pub fn reject(&mut self, now: Instant, packet: &Packet, counters: &mut Counters) {
        let _ = now;
        counters.tcp_segments_rx += 1;
        counters.drop(DropReason::TcpNoConnection);
        if let Some(reset) = super::input::reset_for_packet(packet) {
            self.replies.push(reset, counters);
        }
    }

    pub(super) fn connection_receives(
        &mut self,
        now: Instant,
        index: u32,
        segment: Segment,
        counters: &mut Counters,
    ) -> Option<Segment> {
        self.with_connection(now, index, counters, |connection, cx| connection.segment_arrives(segment, cx));
        None
    }

    fn time_wait_receives(
        &mut self,
        now: Instant,
        index: u32,
        segment: Segment,
        counters: &mut Counters,
    ) -> Option<Segment> {
        let pressure = self.is_under_pressure();
        let Some(entry) = self.tables.time_waits.entries.get(index) else { return Some(segment) };
        let ts_now = timestamp(now, self.isn.timestamp_offset_of(&entry.key));
        let ack = entry.ack(ts_now);
        let mut cx = Context { now, config: &self.config, counters, replies: &mut self.replies, pressure };
        match entry.segment_arrives(&segment, &mut cx) {
            time_wait::Outcome::Ignore => {}
            time_wait::Outcome::Restart => {
                self.replies.push(ack, counters);
                self.tables.time_waits.restart(index, now + self.config.time_wait);
            }
            time_wait::Outcome::Challenge => self.challenge(now, ack, counters),
            time_wait::Outcome::Reopen => {
                if self.listener_receives(now, segment, Some(index), counters).is_some() {
                    // Nobody listens here. The SYN stays with the entry that knows the connection, not with other shards.
                    counters.drop(DropReason::TcpBadSyn);
                    self.challenge(now, ack, counters);
                } else if self.tables.find(&self.time_wait_key(index)) != Some(Kind::TimeWait(index)) {
                    counters.tcp_time_wait_recycled += 1;
                }
            }
        }
        None
    }

    fn time_wait_key(&self, index: u32) -> TupleKey {
        let unspecified = SocketAddr::new(IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED), 0);
        let entry = self.tables.time_waits.entries.get(index);
        entry.map_or_else(|| TupleKey::new(unspecified, unspecified), |entry| entry.key)
    }

    /// Sends an ACK that an attacker may have provoked, if the limit allows.
    /// RFC 5961 section 7.
    pub(super) fn challenge(&mut self, now: Instant, ack: Reply, counters: &mut Counters) {
        if self.challenges.take(now) {
            counters.tcp_challenge_acks += 1;
            self.replies.push(ack, counters);
        } else {
            counters.tcp_challenge_acks_limited += 1;
        }
    }

    /// Takes an ICMP error about a segment of ours (RFC 9293 section 3.9.2.2).
    ///
    /// Only errors about segments that are outstanding count (RFC 5927 section 4.1). Hard errors end a connection that is
    /// not established; on others they say no more than soft ones, because anyone on the path of an ICMP message could end
    /// connections otherwise (RFC 9293 allows that by way of RFC 5461). Soft errors never end one (MUST-56): they are the
    /// reason given if it times out.
    /// RFC 9293 section 3.9.2.2, MUST-54, SHLD-26.
    pub fn icmp_error(&mut self, now: Instant, error: &IcmpError, counters: &mut Counters) -> IcmpVerdict {
        let key = TupleKey::new(error.tuple.local, error.tuple.remote);
        let mut path_mtu = None;
        match self.tables.find(&key) {
            None => return IcmpVerdict::NotOurs,
            Some(Kind::Connection(index)) => {
                self.with_connection(now, index, counters, |connection, cx| {
                    path_mtu = connection.icmp_error(error, cx);
                });
            }
            // A SYN flood's backscatter must not end handshakes; a lost SYN-ACK is sent again anyway.
            Some(Kind::HalfOpen(_) | Kind::TimeWait(_)) => {}
        }
        counters.icmp_errors_rx += u64::from(error.kind != IcmpErrorKind::NeighborFailed);
        path_mtu.map_or(IcmpVerdict::Taken, IcmpVerdict::PathMtu)
    }

    /// What user calls counted.
    pub(super) fn hand_over_counters(&mut self, counters: &mut Counters) {
        if let Some(counted) = self.calls_counters.as_deref_mut() {
            counters.take_over(counted);
        }
    }

    pub(super) fn end_time_wait(&mut self, index: u32) {
        self.tables.detach(Kind::TimeWait(index));
        self.tables.time_waits.remove(index);
    }
}

// ---- keeping tables, timers and lists in step with connections

impl Tcp {
    /// Whether all buffers together use what they may.
    pub(super) fn is_under_pressure(&self) -> bool {
        self.buffered_bytes >= self.config.buffered_bytes_max
    }

    /// Lets `act` work on a connection and then does what follows from its new state.
    pub(super) fn with_connection<R>(
        &mut self,
        now: Instant,
        index: u32,
        counters: &mut Counters,
        act: impl FnOnce(&mut Connection, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let pressure = self.is_under_pressure();
        let connection = self.tables.connections.get_mut(index)?;
        let mut cx = Context { now, config: &self.config, counters, replies: &mut self.replies, pressure };
        let result = act(connection, &mut cx);
        self.follow_up(now, index, counters);
        Some(result)
    }

    /// Follows up what happened to a connection. Its end has its consequences at once; timers and sending have them in
    /// `transmit`, once for all that happens until then.
    pub(super) fn follow_up(&mut self, now: Instant, index: u32, counters: &mut Counters) {
        let Some(connection) = self.tables.connections.get_mut(index) else { return };
        let is_over = connection.state.is_over();
        if is_over {
            connection.chronograph.turn(now, Limit::Idle);
        }
        if connection.fastopen().is_some() {
            self.follow_fastopen(now, index);
        }
        if is_over {
            self.account(index);
            self.retire(now, index, counters);
        } else {
            self.touch(now, index);
        }
    }

    /// Something happened to a connection that is not over.
    #[inline]
    pub(super) fn touch(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.tables.connections.get_mut(index) else { return };
        account(connection, &mut self.buffered_bytes);
        match connection.listed {
            Listed::Nowhere => {
                connection.listed = Listed::Touched;
                self.tables.connections.push_back(&mut self.touched, index);
            }
            Listed::Touched => {}
            // Its turn may be long in coming.
            Listed::Ready => self.settle(now, index, false),
        }
    }

    /// Sets the timers of what was touched and tells which of it has something to send: when there is no room to give each
    /// its turn at once.
    pub(super) fn settle_touched(&mut self, now: Instant) {
        while let Some(index) = self.touched.front() {
            self.tables.connections.unlink(&mut self.touched, index);
            let Some(connection) = self.tables.connections.get_mut(index) else { continue };
            let plan = connection.plan();
            connection.listed = if plan.is_some() { Listed::Ready } else { Listed::Nowhere };
            if plan.is_some() {
                self.tables.connections.push_back(&mut self.ready, index);
            }
            self.settle(now, index, matches!(plan, Some(Plan::Data(_))));
        }
    }

    /// Brings a connection's timers in step with what it has become. `sends`: data is known to go next.
    pub(super) fn settle(&mut self, now: Instant, index: u32, sends: bool) {
        let Some(connection) = self.tables.connections.get_mut(index) else { return };
        account(connection, &mut self.buffered_bytes);
        connection.chronograph.turn(now, connection.limit());
        connection.measure_reading(now);
        connection.refresh_timers(now, sends);
        if let Some(at) = connection.timers.earliest() {
            match connection.timers.armed {
                None => connection.timers.armed = Some((self.wheel.schedule(at, index), at)),
                Some((id, armed_at)) if at < armed_at => {
                    self.wheel.reschedule(id, at);
                    connection.timers.armed = Some((id, at));
                }
                Some(_) => {}
            }
        }
        connection.predict();
    }

    /// Counts what a connection's buffers take now.
    pub(super) fn account(&mut self, index: u32) {
        if let Some(connection) = self.tables.connections.get_mut(index) {
            account(connection, &mut self.buffered_bytes);
        }
    }

    /// A connection is CLOSED or in TIME-WAIT: takes it out of the tables; the memory goes when no handle is left.
    fn retire(&mut self, now: Instant, index: u32, counters: &mut Counters) {
        let Some(connection) = self.tables.connections.get_mut(index) else { return };
        if connection.attached {
            connection.attached = false;
            self.ended += 1;
            if let Some((id, _)) = connection.timers.armed.take() {
                self.wheel.cancel(id);
            }
            let time_wait = (connection.state == State::TimeWait)
                .then(|| TimeWait::new(connection, now + self.config.time_wait));
            let owes_ack = core::mem::take(&mut connection.ack_now);
            match core::mem::take(&mut connection.listed) {
                Listed::Nowhere => {}
                Listed::Touched => self.tables.connections.unlink(&mut self.touched, index),
                Listed::Ready => self.tables.connections.unlink(&mut self.ready, index),
            }
            self.tables.detach(Kind::Connection(index));
            match time_wait {
                None => counters.tcp_closed += 1,
                Some(entry) => self.begin_time_wait(now, index, entry, owes_ack, counters),
            }
        }
        self.release_if_gone(index);
    }

    /// Frees a connection that is over and that no handle and no accept queue leads to.
    pub(super) fn release_if_gone(&mut self, index: u32) {
        let gone = |connection: &Connection| {
            connection.state.is_over() && connection.orphan && connection.listener.is_none()
        };
        if self.tables.connections.get(index).is_some_and(gone) {
            self.release(index);
        }
    }

    /// RFC 9293 section 3.6.1, MUST-13.
    fn begin_time_wait(
        &mut self,
        now: Instant,
        index: u32,
        entry: TimeWait,
        owes_ack: bool,
        counters: &mut Counters,
    ) {
        counters.tcp_time_wait += 1;
        if owes_ack {
            let ts_now = timestamp(now, self.isn.timestamp_offset_of(&entry.key));
            self.replies.push(entry.ack(ts_now), counters);
        }
        let full = self.tables.time_waits.entries.len() >= self.config.time_wait_max;
        if let Some(oldest) = self.tables.time_waits.oldest().filter(|_| full) {
            counters.tcp_time_wait_recycled += 1;
            self.end_time_wait(oldest);
        }
        let place = self.tables.time_waits.insert(entry);
        let generation = self.tables.time_waits.entries.generation(place);
        self.tables.attach(Kind::TimeWait(place));
        if let Some(connection) = self.tables.connections.get_mut(index) {
            connection.cold_mut().time_wait = Some((place, generation));
        }
    }

    /// Frees a retired connection's memory.
    fn release(&mut self, index: u32) {
        if let Some(connection) = self.tables.connections.get(index) {
            debug_assert!(!connection.attached && connection.timers.armed.is_none());
            debug_assert_eq!(connection.listed, Listed::Nowhere);
            self.buffered_bytes -= connection.buffered;
            self.ended -= 1;
            self.tables.connections.vacate(index);
        }
    }

    /// Takes in a connection. `half_open`: the entry that it was, which its tuple leads to until now.
    pub(super) fn insert_connection(&mut self, connection: Connection, half_open: Option<u32>) -> u32 {
        let index = self.tables.connections.insert(connection);
        match half_open {
            Some(entry) => self.tables.lead_on(Kind::HalfOpen(entry), Kind::Connection(index)),
            None => self.tables.attach(Kind::Connection(index)),
        }
        index
    }

    /// The state as the application sees it: TIME-WAIT ends for a handle when the entry that went on without it ends.
    pub(super) fn state_of(&self, connection: &Connection) -> State {
        match connection.cold().and_then(|cold| cold.time_wait) {
            Some((place, generation))
                if self.tables.time_waits.entries.get_exact(place, generation).is_none() =>
            {
                State::Closed
            }
            _ => connection.state,
        }
    }
}

impl Connection {
    /// Takes in an ICMP error; the path's MTU, if that is what it told and it is believed.
    fn icmp_error(&mut self, error: &IcmpError, cx: &mut Context<'_>) -> Option<u16> {
        let outstanding = self.outstanding();
        if outstanding == 0 || !error.seq.in_window(self.snd_una, outstanding) {
            cx.counters.drop(DropReason::BadIcmp);
            return None;
        }
        // What a SYN's data opened has delivered it: as good as established, and as in Linux not to be undone, or the SYN sent
        // again would deliver it again.
        let opening = !self.syn_acked() && !self.was_opened_with_data();
        match error.kind {
            IcmpErrorKind::Refused if opening => {
                self.count_failure(cx.counters);
                self.finish(Some(TcpError::ConnectionRefused));
            }
            IcmpErrorKind::NeighborFailed if opening => {
                self.count_failure(cx.counters);
                self.finish(Some(TcpError::HostUnreachable));
            }
            IcmpErrorKind::Refused => self.cold_mut().soft_error = Some(TcpError::ConnectionRefused),
            IcmpErrorKind::Unreachable | IcmpErrorKind::NeighborFailed => {
                self.cold_mut().soft_error = Some(TcpError::HostUnreachable);
            }
            IcmpErrorKind::PacketTooBig { mtu } => {
                return Some(self.believe_mtu(cx.now, mtu));
            }
        }
        None
    }
}

/// Counts in the sum what a connection's buffers take now.
#[inline]
pub(super) fn account(connection: &mut Connection, buffered_bytes: &mut usize) {
    let memory = connection.memory();
    *buffered_bytes = *buffered_bytes - connection.buffered + memory;
    connection.buffered = memory;
}

/// Whether a peer can have the address (RFC 9293 section 3.9.2.3).
pub(super) fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && ip.to_ipv4_mapped().is_none(),
    }
}
