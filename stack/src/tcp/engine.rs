//! One shard's TCP: finds what a segment belongs to, lends it what it needs, and afterwards files it anew: in the queue of
//! connections with something to send, in the timer wheel, in TIME-WAIT, or nowhere.

use core::net::SocketAddr;
use std::collections::VecDeque;

use hashbrown::HashMap;
use slab::Slab;

use super::config::TcpConfig;
use super::connection::{Connection, NEVER};
use super::header::{Flags, TcpHeader};
use super::input::{Env, Segment};
use super::isn::{IsnSecret, derive};
use super::listener::{Listener, PeerSyn, SynFlags, SynReceived, clock_ms, window_scale_for};
use super::options::{OPTIONS_LEN_MAX, TcpOptions, Timestamps};
use super::output::Turn;
use super::ports::EphemeralPorts;
use super::rate_limit::TokenBucket;
use super::receive_queue::ReceiveQueue;
use super::replies::{Replies, Reply};
use super::seq::SeqNumber;
use super::state::State;
use super::table::{Key, Place, Table};
use super::time_wait::{TimeWait, TimeWaits, Verdict};
use super::{Egress, EgressError, IcmpError, IcmpErrorKind, Received, SegmentOut, TcpError, Tuple};
use crate::counters::{Counters, DropReason};
use crate::limits::SHARED_FRAMES_FRACTION;
use crate::packet::Packet;
use crate::time::Instant;
use crate::timer_wheel::{TimerId, TimerWheel};

/// Whose timer it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerKey {
    Connection(u32),
    SynReceived(u32),
    /// The first TIME-WAIT entry ends.
    TimeWait,
}

/// One shard's TCP. See the module's page for the path a segment takes.
#[derive(Debug)]
pub struct Tcp {
    pub(super) config: TcpConfig,
    pub(super) connections: Slab<Connection>,
    pub(super) listeners: Slab<Listener>,
    /// Listeners by their address; one with an unspecified address takes what no other takes.
    pub(super) listening: HashMap<SocketAddr, u32>,
    syn_received: Slab<SynReceived>,
    time_waits: TimeWaits,
    pub(super) table: Table,
    pub(super) replies: Replies,
    /// Connections that may have something to send, in turn.
    ready: VecDeque<u32>,
    wheel: TimerWheel<TimerKey>,
    fired: Vec<TimerKey>,
    time_wait_timer: Option<(TimerId, Instant)>,
    secret: IsnSecret,
    pub(super) ports: EphemeralPorts,
    challenges: TokenBucket,
    resets: TokenBucket,
    /// Bytes behind all queues.
    pub(super) buffered: usize,
    pub(super) generation: u32,
    /// What user calls counted since the last `transmit`, if anything.
    pub(super) counted: Option<Box<Counters>>,
}

impl Tcp {
    /// An engine without connections. `shard` of `shards`: ports that it chooses satisfy `port % shards == shard`.
    /// `seed` must be unpredictable on a real network; sequence numbers and timestamps depend on it alone, so that all
    /// shards agree on them.
    #[must_use]
    pub fn new(config: TcpConfig, seed: [u8; 32], shard: u16, shards: u16) -> Self {
        let secret = derive(&seed, b"connection table").hash(&shard.to_be_bytes());
        let mut table_key = [0; 16];
        table_key[..8].copy_from_slice(&secret.to_be_bytes());
        table_key[8..]
            .copy_from_slice(&derive(&seed, b"connection table 2").hash(&shard.to_be_bytes()).to_be_bytes());
        Self {
            connections: Slab::new(),
            listeners: Slab::new(),
            listening: HashMap::new(),
            syn_received: Slab::new(),
            time_waits: TimeWaits::new(config.time_wait),
            table: Table::new(table_key),
            replies: Replies::new(config.pending_replies_max),
            ready: VecDeque::new(),
            wheel: TimerWheel::new(Instant::ZERO),
            fired: Vec::new(),
            time_wait_timer: None,
            secret: IsnSecret::new(seed),
            ports: EphemeralPorts::new(seed, config.ephemeral_ports.clone(), shard, shards),
            challenges: TokenBucket::new(config.challenge_acks_per_second, config.challenge_acks_per_second),
            resets: TokenBucket::new(config.resets_per_second, config.resets_per_second),
            buffered: 0,
            generation: 0,
            counted: None,
            config,
        }
    }

    // ---- a segment arrives

    /// Takes a segment whose header and checksum [`crate::parse`] found good (`parsed.kind` is `Tcp`).
    pub fn receive(&mut self, now: Instant, packet: Packet, counters: &mut Counters) -> Received {
        let Some(segment) = read(&packet) else {
            counters.drop(DropReason::BadTcpHeader);
            return Received::Done;
        };
        let key = key_of(&packet);
        match self.place(&key) {
            Some(Place::Connection(index)) => {
                counters.tcp_segments_rx += 1;
                self.with(now, index, copy_payload(&packet), counters, |connection, env| {
                    connection.segment(&segment, packet, env);
                });
                Received::Done
            }
            Some(Place::SynReceived(index)) => self.at_syn_received(now, index, &segment, packet, counters),
            Some(Place::TimeWait(index)) => {
                counters.tcp_segments_rx += 1;
                self.at_time_wait(now, index, &key, &segment, counters);
                Received::Done
            }
            None => self.at_listener(now, &key, &segment, packet, counters),
        }
    }

    /// Answers a segment that no shard has a use for with the RST of RFC 9293 section 3.10.7.1; none for a RST. Limited
    /// in rate and counted.
    pub fn reject(&mut self, now: Instant, packet: &Packet, counters: &mut Counters) {
        counters.tcp_segments_rx += 1;
        counters.drop(DropReason::TcpNoConnection);
        let Some(segment) = read(packet) else { return };
        if !segment.header.flags.contains(Flags::RST) && self.resets.take(now) {
            self.replies.reset_stray(&key_of(packet), &segment.header, segment.len(), counters);
        }
    }

    /// An ICMP error that quotes a segment of ours. Whether it quoted a connection of this shard: then it was acted on,
    /// or, when its sequence number is not one in flight, ignored (RFC 5927 section 4.1).
    pub fn icmp_error(&mut self, now: Instant, error: &IcmpError, counters: &mut Counters) -> bool {
        let Some(Place::Connection(index)) = self.place(&error.tuple.into()) else {
            return self.place(&error.tuple.into()).is_some();
        };
        self.with(now, index, false, counters, |connection, env| connection.icmp_error(error, env));
        true
    }

    /// RFC 9293 section 3.10.7.2: LISTEN.
    fn at_listener(
        &mut self,
        now: Instant,
        key: &Key,
        segment: &Segment,
        packet: Packet,
        counters: &mut Counters,
    ) -> Received {
        let flags = segment.header.flags;
        let listener = self.listener_for(key.local());
        let only_syn = flags.contains(Flags::SYN) && !flags.intersects(Flags::ACK | Flags::RST | Flags::FIN);
        match listener {
            Some(listener) if only_syn => {
                counters.tcp_segments_rx += 1;
                self.syn_arrives(now, listener, key, segment, None, counters);
                Received::Done
            }
            // A SYN that is also a FIN asks for nothing sensible: dropped without an answer, as Linux does.
            Some(_) if flags.contains(Flags::SYN | Flags::FIN) => {
                counters.drop(DropReason::BadTcpHeader);
                Received::Done
            }
            _ => Received::NoConnection(packet),
        }
    }

    fn listener_for(&self, local: SocketAddr) -> Option<u32> {
        let any: core::net::IpAddr = match local {
            SocketAddr::V4(_) => core::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => core::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let exact = self.listening.get(&local);
        exact.or_else(|| self.listening.get(&SocketAddr::new(any, local.port()))).copied()
    }

    /// A SYN for a listener: a half-open connection begins. Payload of the SYN is not taken, and so not acknowledged: the
    /// peer sends it again (RFC 9293 section 3.10.7.2 lets it be queued, and needs nothing of the kind).
    fn syn_arrives(
        &mut self,
        now: Instant,
        listener_index: u32,
        key: &Key,
        segment: &Segment,
        isn_floor: Option<SeqNumber>,
        counters: &mut Counters,
    ) {
        let listener = &mut self.listeners[listener_index as usize];
        if listener.is_full() {
            counters.drop(DropReason::TcpAcceptQueueFull);
            counters.tcp_accept_overflows += 1;
            return;
        }
        if listener.syn_count >= self.config.syn_queue_max {
            counters.drop(DropReason::TcpSynQueueFull);
            return;
        }
        listener.syn_count += 1;
        let window = ReceiveQueue::window_max(listener.options.receive_buffer_bytes);
        let syn =
            PeerSyn::new(segment.header.seq, segment.header.window, &segment.options, key.remote().is_ipv6());
        let isn = self.secret.isn(now, &key.tuple());
        let index = self.syn_received.vacant_key() as u32;
        let timer = self.wheel.schedule(now + self.config.rto_initial, TimerKey::SynReceived(index));
        let scaling = self.config.window_scaling && syn.scale.is_some();
        self.syn_received.insert(SynReceived {
            key: *key,
            iss: isn_floor.map_or(isn, |floor| isn.max(floor)),
            irs: syn.seq,
            listener: listener_index,
            timer,
            ts_recent: syn.timestamp.unwrap_or(0),
            sent_ms: clock_ms(now),
            peer_mss: syn.mss,
            our_mss: 0,
            window: window.min(usize::from(u16::MAX)) as u16,
            peer_window: syn.window,
            peer_scale: syn.scale.unwrap_or(0),
            our_scale: if scaling { window_scale_for(window) } else { 0 },
            retries: 0,
            flags: SynFlags {
                timestamps: self.config.timestamps && syn.timestamp.is_some(),
                scaling,
                queued: false,
                sent: false,
            },
        });
        self.put(key, Place::SynReceived(index));
        self.queue_syn_ack(index, counters);
    }

    fn queue_syn_ack(&mut self, index: u32, counters: &mut Counters) {
        let entry = &mut self.syn_received[index as usize];
        if !entry.flags.queued {
            entry.flags.queued = self.replies.push(Reply::SynAck(index), counters);
        }
    }

    /// A segment for a half-open connection of a listener (RFC 9293 section 3.10.7.4 for SYN-RECEIVED).
    fn at_syn_received(
        &mut self,
        now: Instant,
        index: u32,
        segment: &Segment,
        packet: Packet,
        counters: &mut Counters,
    ) -> Received {
        let entry = &self.syn_received[index as usize];
        let header = &segment.header;
        let (rcv_nxt, window) = (entry.irs + 1, u32::from(entry.window).max(1));
        let has = |flag| header.flags.contains(flag);
        // The peer's SYN once more: our SYN-ACK was lost.
        if has(Flags::SYN) && !has(Flags::ACK) && !has(Flags::RST) && header.seq == entry.irs {
            counters.tcp_segments_rx += 1;
            self.queue_syn_ack(index, counters);
            return Received::Done;
        }
        let acceptable = header.seq.in_window(rcv_nxt, window)
            || segment.len() > 0 && (header.seq + (segment.len() - 1)).in_window(rcv_nxt, window);
        if has(Flags::RST) {
            counters.tcp_segments_rx += 1;
            if header.seq == rcv_nxt {
                counters.tcp_resets_rx += 1;
                counters.tcp_attempt_fails += 1;
                self.remove_syn_received(index);
            } else {
                counters.drop(DropReason::TcpBadReset);
                if acceptable {
                    self.challenge_syn_received(now, index, counters);
                }
            }
            return Received::Done;
        }
        let paws = match (entry.flags.timestamps, segment.options.timestamps) {
            (true, Some(timestamps)) => (timestamps.val.wrapping_sub(entry.ts_recent) as i32) < 0,
            _ => false,
        };
        if !acceptable || paws {
            counters.tcp_segments_rx += 1;
            counters.drop(if paws { DropReason::TcpPaws } else { DropReason::TcpOutOfWindow });
            self.challenge_syn_received(now, index, counters);
            return Received::Done;
        }
        if has(Flags::SYN) {
            // Fourth step: an in-window SYN sends a passive open back to LISTEN.
            counters.tcp_segments_rx += 1;
            counters.drop(DropReason::TcpBadSyn);
            counters.tcp_attempt_fails += 1;
            self.remove_syn_received(index);
            return Received::Done;
        }
        if !has(Flags::ACK) {
            counters.tcp_segments_rx += 1;
            counters.drop(DropReason::TcpBadAck);
            return Received::Done;
        }
        if header.ack != entry.iss + 1 || !entry.flags.sent {
            // Another shard may have the connection; the last asked answers with the RST of the fifth step.
            return Received::NoConnection(packet);
        }
        counters.tcp_segments_rx += 1;
        self.finish_handshake(now, index, segment, packet, counters);
        Received::Done
    }

    /// A challenge ACK in SYN-RECEIVED (RFC 5961): the ACK that our SYN-ACK is.
    fn challenge_syn_received(&mut self, now: Instant, index: u32, counters: &mut Counters) {
        if !self.challenges.take(now) {
            counters.tcp_challenge_acks_limited += 1;
            return;
        }
        counters.tcp_challenge_acks += 1;
        let entry = &self.syn_received[index as usize];
        let timestamps = entry.flags.timestamps.then(|| Timestamps {
            val: clock_ms(now).wrapping_add(self.secret.timestamp_offset(&entry.key.tuple())),
            ecr: entry.ts_recent,
        });
        let reply = Reply::Segment {
            key: entry.key,
            seq: entry.iss + 1,
            ack: entry.irs + 1,
            flags: Flags::ACK,
            window: entry.window >> entry.our_scale,
            timestamps,
        };
        self.replies.push(reply, counters);
    }

    /// The handshake's ACK: the connection goes to the accept queue, and the segment is handled as in ESTABLISHED. Where
    /// there is no room the ACK is as if lost: nothing of the segment is acknowledged, the peer sends it again.
    fn finish_handshake(
        &mut self,
        now: Instant,
        index: u32,
        segment: &Segment,
        packet: Packet,
        counters: &mut Counters,
    ) {
        let listener_index = self.syn_received[index as usize].listener;
        let listener = &self.listeners[listener_index as usize];
        if listener.is_full() {
            counters.drop(DropReason::TcpAcceptQueueFull);
            counters.tcp_accept_overflows += 1;
            return;
        }
        if self.connections.len() >= self.config.connections_max {
            counters.drop(DropReason::TcpConnectionTableFull);
            return;
        }
        let options = listener.options.clone();
        let entry = self.take_syn_received(index);
        let mut connection = Connection::new(now, entry.key, entry.iss, options, &self.config);
        connection.ts_offset = self.secret.timestamp_offset(&entry.key.tuple());
        connection.our_mss = entry.our_mss;
        let index = self.file(connection, entry.key);
        let copy = copy_payload(&packet);
        self.with(now, index, copy, counters, |connection, env| {
            connection.open_passively(&entry, env);
            connection.segment(segment, packet, env);
        });
        counters.tcp_passive_opens += 1;
        let listener = &mut self.listeners[listener_index as usize];
        listener.accepted.push_back(index);
        if let Some(waker) = listener.waker.take() {
            waker.wake();
        }
    }

    fn at_time_wait(
        &mut self,
        now: Instant,
        index: u32,
        key: &Key,
        segment: &Segment,
        counters: &mut Counters,
    ) {
        match self.time_waits.judge(index, &segment.header, segment.options.timestamps, segment.len()) {
            Verdict::Drop => {
                if segment.header.flags.contains(Flags::RST) {
                    counters.drop(DropReason::TcpBadReset);
                }
            }
            Verdict::Acknowledge { restart } => {
                if restart {
                    self.time_waits.restart(now, index);
                }
                if self.challenges.take(now) {
                    self.acknowledge_time_wait(now, index, counters);
                } else {
                    counters.tcp_challenge_acks_limited += 1;
                }
            }
            Verdict::Reopen { isn_floor } => {
                let Some(listener) = self.listener_for(key.local()) else {
                    self.acknowledge_time_wait(now, index, counters);
                    return;
                };
                self.end_time_wait(index);
                counters.tcp_time_wait_recycled += 1;
                self.syn_arrives(now, listener, key, segment, Some(isn_floor), counters);
            }
        }
    }

    fn acknowledge_time_wait(&mut self, now: Instant, index: u32, counters: &mut Counters) {
        let state = self.time_waits.get(index);
        let timestamps =
            state.ts_recent.map(|ecr| Timestamps { val: clock_ms(now).wrapping_add(state.ts_offset), ecr });
        let reply = Reply::Segment {
            key: state.key,
            seq: state.snd_nxt,
            ack: state.rcv_nxt,
            flags: Flags::ACK,
            window: state.window,
            timestamps,
        };
        self.replies.push(reply, counters);
    }

    // ---- time

    /// Acts on all deadlines that are over.
    pub fn poll_timers(&mut self, now: Instant, counters: &mut Counters) {
        let mut fired = core::mem::take(&mut self.fired);
        self.wheel.advance(now, &mut fired);
        for key in fired.drain(..) {
            match key {
                TimerKey::Connection(index) => {
                    if let Some(connection) = self.connections.get_mut(index as usize) {
                        connection.timer = None;
                        self.with(now, index, false, counters, Connection::on_time);
                    }
                }
                TimerKey::SynReceived(index) => self.syn_ack_timed_out(now, index, counters),
                TimerKey::TimeWait => {
                    self.time_wait_timer = None;
                    while let Some((index, _)) = self.time_waits.first().filter(|(_, at)| *at <= now) {
                        self.end_time_wait(index);
                    }
                    self.arm_time_wait();
                }
            }
        }
        self.fired = fired;
    }

    /// When [`Tcp::poll_timers`] or [`Tcp::transmit`] is needed next: [`Instant::ZERO`] while something waits to be sent.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.ready.is_empty() || !self.replies.is_empty() || self.counted.is_some() {
            return Some(Instant::ZERO);
        }
        self.wheel.next_deadline()
    }

    fn syn_ack_timed_out(&mut self, now: Instant, index: u32, counters: &mut Counters) {
        let entry = &mut self.syn_received[index as usize];
        if entry.retries >= self.config.syn_ack_retries {
            counters.tcp_timeout_drops += 1;
            counters.tcp_attempt_fails += 1;
            self.remove_syn_received(index);
            return;
        }
        entry.retries += 1;
        let wait = self.config.rto_initial * (1 << entry.retries.min(16));
        entry.timer = self.wheel.schedule(now + wait.min(self.config.rto_max), TimerKey::SynReceived(index));
        counters.tcp_timeouts += 1;
        self.queue_syn_ack(index, counters);
    }

    // ---- output

    /// Sends what waits: first the segments without a connection, then each connection's turn, round and round, until
    /// nothing is left or the egress is full; then the next call goes on where this one stopped.
    pub fn transmit(&mut self, now: Instant, egress: &mut dyn Egress, counters: &mut Counters) {
        if let Some(counted) = self.counted.take() {
            counters.add(&counted);
        }
        while let Some(reply) = self.replies.front() {
            if self.transmit_reply(now, reply, egress, counters) == Err(EgressError::Full) {
                return;
            }
            self.replies.pop();
        }
        while let Some(index) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(index as usize) else { continue };
            connection.marks.queued = false;
            let turn = connection.transmit(now, &self.config, egress, counters);
            self.settle(now, index, counters);
            match turn {
                Turn::Done => {}
                Turn::More => self.make_ready(index),
                Turn::Full => {
                    self.make_ready_first(index);
                    return;
                }
            }
        }
        if self.ready.capacity() > 4096 {
            self.ready = VecDeque::new();
        }
    }

    fn transmit_reply(
        &mut self,
        now: Instant,
        reply: Reply,
        egress: &mut dyn Egress,
        counters: &mut Counters,
    ) -> Result<(), EgressError> {
        let (key, seq, ack, flags, window, options) = match reply {
            Reply::Segment { key, seq, ack, flags, window, timestamps } => {
                (key, seq, ack, flags, window, TcpOptions { timestamps, ..TcpOptions::default() })
            }
            Reply::SynAck(index) => {
                let Some(entry) =
                    self.syn_received.get_mut(index as usize).filter(|entry| entry.flags.queued)
                else {
                    return Ok(());
                };
                let headers = if entry.key.remote().is_ipv6() { 60 } else { 40 };
                let mtu = egress.path_mtu(entry.key.remote().ip());
                entry.our_mss = mtu.saturating_sub(headers).clamp(1, usize::from(u16::MAX)) as u16;
                let offset = self.secret.timestamp_offset(&entry.key.tuple());
                let options = TcpOptions {
                    mss: Some(entry.our_mss),
                    window_scale: entry.flags.scaling.then_some(entry.our_scale),
                    timestamps: entry.flags.timestamps.then(|| Timestamps {
                        val: clock_ms(now).wrapping_add(offset),
                        ecr: entry.ts_recent,
                    }),
                    ..TcpOptions::default()
                };
                (entry.key, entry.iss, entry.irs + 1, Flags::SYN | Flags::ACK, entry.window, options)
            }
        };
        let mut buf = [0; OPTIONS_LEN_MAX];
        let len = options.emit(flags.contains(Flags::SYN), &mut buf);
        egress.send(
            now,
            &SegmentOut {
                src: key.local(),
                dst: key.remote(),
                seq,
                ack,
                flags: flags.0,
                window,
                urgent: 0,
                options: &buf[..len],
                payload: &[],
                ecn: 0,
            },
        )?;
        counters.tcp_segments_tx += 1;
        counters.tcp_resets_tx += u64::from(flags.contains(Flags::RST));
        if let Reply::SynAck(index) = reply {
            let entry = &mut self.syn_received[index as usize];
            counters.tcp_retransmits += u64::from(entry.flags.sent);
            if !entry.flags.sent {
                entry.sent_ms = clock_ms(now);
            }
            (entry.flags.queued, entry.flags.sent) = (false, true);
        }
        Ok(())
    }

    // ---- filing

    /// What stands at `key`.
    pub(super) fn place(&self, key: &Key) -> Option<Place> {
        self.table.get(key, |place| self.key_at(place))
    }

    /// Whether something stands at these ends: a connection, half-open or not, or TIME-WAIT.
    #[must_use]
    pub fn knows(&self, tuple: &Tuple) -> bool {
        self.place(&Key::from(*tuple)).is_some()
    }

    fn key_at(&self, place: Place) -> Key {
        key_at(&self.connections, &self.syn_received, &self.time_waits, place)
    }

    /// Puts `place` at `key`.
    fn put(&mut self, key: &Key, place: Place) {
        let Self { table, connections, syn_received, time_waits, .. } = self;
        table.insert(key, place, |place| key_at(connections, syn_received, time_waits, place));
    }

    /// Gives a new connection its place.
    pub(super) fn file(&mut self, mut connection: Connection, key: Key) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        connection.generation = self.generation;
        connection.marks.in_table = true;
        let index = self.connections.insert(connection) as u32;
        self.put(&key, Place::Connection(index));
        index
    }

    /// Sets up an active open's connection; the caller has checked that the ends are free.
    pub(super) fn begin(&mut self, now: Instant, tuple: Tuple, options: super::SocketOptions) -> u32 {
        let iss = self.secret.isn(now, &tuple);
        let mut connection = Connection::new(now, tuple.into(), iss, options, &self.config);
        connection.ts_offset = self.secret.timestamp_offset(&tuple);
        connection.marks.syn_now = true;
        self.file(connection, tuple.into())
    }

    /// A port for which nothing stands at the ends, not even TIME-WAIT (RFC 6056).
    pub(super) fn choose_port(&mut self, local: SocketAddr, remote: SocketAddr) -> Result<u16, TcpError> {
        let Self { ports, table, connections, syn_received, time_waits, .. } = self;
        let is_free = |port| {
            let tuple = Tuple { local: SocketAddr::new(local.ip(), port), remote };
            table.get(&tuple.into(), |place| key_at(connections, syn_received, time_waits, place)).is_none()
        };
        ports.pick(local.ip(), remote, is_free).ok_or(TcpError::AddrNotAvailable)
    }

    /// Ends the TIME-WAIT entry at `key`, if there is one.
    pub(super) fn end_time_wait_at(&mut self, key: &Key) {
        if let Some(Place::TimeWait(index)) = self.place(key) {
            self.end_time_wait(index);
        }
    }

    /// Lets `act` change a connection and files it anew.
    pub(super) fn with<R>(
        &mut self,
        now: Instant,
        index: u32,
        copy_payload: bool,
        counters: &mut Counters,
        act: impl FnOnce(&mut Connection, &mut Env<'_>) -> R,
    ) -> R {
        let connection = &mut self.connections[index as usize];
        let before = connection.buffered();
        let result = act(
            connection,
            &mut Env {
                now,
                config: &self.config,
                counters,
                replies: &mut self.replies,
                challenges: &mut self.challenges,
                copy_payload,
                pressure: self.buffered >= self.config.buffered_bytes_max,
            },
        );
        let after = connection.buffered();
        self.buffered = self.buffered + after - before;
        self.make_ready(index);
        self.settle(now, index, counters);
        result
    }

    fn make_ready(&mut self, index: u32) {
        if let Some(connection) = self.connections.get_mut(index as usize) {
            if !core::mem::replace(&mut connection.marks.queued, true) {
                self.ready.push_back(index);
            }
        }
    }

    fn make_ready_first(&mut self, index: u32) {
        if let Some(connection) = self.connections.get_mut(index as usize) {
            if !core::mem::replace(&mut connection.marks.queued, true) {
                self.ready.push_front(index);
            }
        }
    }

    /// Files a connection by what it has become: TIME-WAIT, ended, or waiting for its next deadline.
    fn settle(&mut self, now: Instant, index: u32, counters: &mut Counters) {
        let connection = &mut self.connections[index as usize];
        match connection.state {
            State::TimeWait if connection.marks.in_table => self.move_to_time_wait(now, index, counters),
            State::Closed if connection.marks.in_table => {
                connection.marks.in_table = false;
                let key = connection.key;
                self.table.remove(&key, Place::Connection(index));
                counters.tcp_closed += 1;
            }
            _ => {}
        }
        let connection = &mut self.connections[index as usize];
        if !connection.marks.in_table && connection.marks.orphan {
            self.free(index);
            return;
        }
        let at = connection.deadline();
        if at == NEVER {
            return;
        }
        match connection.timer {
            Some((_, armed)) if armed <= at => {}
            Some((timer, _)) => {
                self.wheel.reschedule(timer, at);
                connection.timer = Some((timer, at));
            }
            None => connection.timer = Some((self.wheel.schedule(at, TimerKey::Connection(index)), at)),
        }
    }

    fn move_to_time_wait(&mut self, now: Instant, index: u32, counters: &mut Counters) {
        if self.time_waits.len() >= self.config.time_wait_max {
            if let Some((oldest, _)) = self.time_waits.first() {
                self.end_time_wait(oldest);
                counters.tcp_time_wait_recycled += 1;
            }
        }
        let connection = &mut self.connections[index as usize];
        connection.marks.in_table = false;
        let acknowledge = core::mem::take(&mut connection.marks.ack_now);
        let key = connection.key;
        let state = TimeWait {
            key,
            snd_nxt: connection.snd_max,
            rcv_nxt: connection.rcv_nxt(),
            ts_recent: connection.marks.timestamps.then_some(connection.ts_recent),
            ts_offset: connection.ts_offset,
            window: (connection.rcv_wnd() >> connection.rcv_scale).min(u32::from(u16::MAX)) as u16,
        };
        let entry = self.time_waits.insert(now, state);
        self.put(&key, Place::TimeWait(entry));
        self.arm_time_wait();
        counters.tcp_time_wait += 1;
        counters.tcp_closed += 1;
        if acknowledge {
            self.acknowledge_time_wait(now, entry, counters);
        }
    }

    fn end_time_wait(&mut self, index: u32) {
        let state = self.time_waits.remove(index);
        self.table.remove(&state.key, Place::TimeWait(index));
    }

    fn arm_time_wait(&mut self) {
        if let (None, Some((_, at))) = (self.time_wait_timer, self.time_waits.first()) {
            self.time_wait_timer = Some((self.wheel.schedule(at, TimerKey::TimeWait), at));
        }
    }

    fn take_syn_received(&mut self, index: u32) -> SynReceived {
        let entry = self.syn_received.remove(index as usize);
        self.wheel.cancel(entry.timer);
        self.table.remove(&entry.key, Place::SynReceived(index));
        if let Some(listener) = self.listeners.get_mut(entry.listener as usize) {
            listener.syn_count -= 1;
        }
        if self.syn_received.is_empty() {
            self.syn_received = Slab::new();
        }
        entry
    }

    fn remove_syn_received(&mut self, index: u32) {
        drop(self.take_syn_received(index));
    }

    /// Ends all half-open connections of a listener. Linear in the half-open connections of the shard: a user's call.
    pub(super) fn remove_half_open(&mut self, listener: u32) {
        let of_it =
            |(index, entry): (usize, &SynReceived)| (entry.listener == listener).then_some(index as u32);
        let places: Vec<u32> = self.syn_received.iter().filter_map(of_it).collect();
        places.into_iter().for_each(|index| self.remove_syn_received(index));
    }

    /// Forgets a connection.
    pub(super) fn free(&mut self, index: u32) {
        let connection = self.connections.remove(index as usize);
        self.buffered -= connection.buffered();
        if let Some((timer, _)) = connection.timer {
            self.wheel.cancel(timer);
        }
        if self.connections.is_empty() {
            self.connections = Slab::new();
        }
    }

    /// How many of what there are.
    #[must_use]
    pub fn census(&self) -> super::Census {
        super::Census {
            listeners: self.listeners.len(),
            syn_received: self.syn_received.len(),
            connections: self.connections.len(),
            time_wait: self.time_waits.len(),
            buffered_bytes: self.buffered,
        }
    }

    /// Every connection's ends and state, half-open ones and those in TIME-WAIT included.
    pub fn ends(&self) -> impl Iterator<Item = (Tuple, State)> + '_ {
        let connections = self.connections.iter().filter(|(_, connection)| connection.marks.in_table);
        connections
            .map(|(_, connection)| (connection.key.tuple(), connection.state))
            .chain(self.syn_received.iter().map(|(_, entry)| (entry.key.tuple(), State::SynReceived)))
            .chain(self.time_waits.iter().map(|state| (state.key.tuple(), State::TimeWait)))
    }
}

fn key_at(
    connections: &Slab<Connection>,
    syn_received: &Slab<SynReceived>,
    time_waits: &TimeWaits,
    place: Place,
) -> Key {
    match place {
        Place::Connection(index) => connections[index as usize].key,
        Place::SynReceived(index) => syn_received[index as usize].key,
        Place::TimeWait(index) => time_waits.get(index).key,
    }
}

/// The ends a received packet's flow has here.
fn key_of(packet: &Packet) -> Key {
    let flow = &packet.parsed.flow;
    Tuple {
        local: SocketAddr::new(flow.dst, flow.dst_port),
        remote: SocketAddr::new(flow.src, flow.src_port),
    }
    .into()
}

/// The segment's header and options.
fn read(packet: &Packet) -> Option<Segment> {
    let (l4, payload) = (usize::from(packet.parsed.l4), usize::from(packet.parsed.payload));
    let bytes = packet.head().get(l4..payload)?;
    let header = TcpHeader::parse(bytes)?;
    let options = TcpOptions::parse(bytes.get(super::header::HEADER_LEN..header.header_len)?);
    let payload = (packet.parsed.end as usize).checked_sub(payload)?;
    Some(Segment { header, options, payload: payload as u32 })
}

/// Whether so many frames are in receive queues that payload must be copied out of its frame.
fn copy_payload(packet: &Packet) -> bool {
    let pool = packet.pool();
    pool.shared_frames() > pool.layout().frames / SHARED_FRAMES_FRACTION
}

impl Connection {
    /// Becomes what a half-open entry says; the ACK that completes it is handled next, as in ESTABLISHED.
    fn open_passively(&mut self, entry: &SynReceived, env: &Env<'_>) {
        let syn = PeerSyn {
            seq: entry.irs,
            window: entry.peer_window,
            mss: entry.peer_mss,
            scale: entry.flags.scaling.then_some(entry.peer_scale),
            timestamp: entry.flags.timestamps.then_some(entry.ts_recent),
        };
        self.take_syn(&syn, env);
        self.snd_una = entry.iss + 1;
        (self.snd_nxt, self.snd_max) = (self.snd_una, self.snd_una);
        self.snd_wnd = u32::from(entry.peer_window);
        self.snd_wnd_max = self.snd_wnd;
        self.snd_wl1 = entry.irs;
        self.snd_wl2 = entry.iss;
        self.push_seq = self.snd_una;
        self.retries = entry.retries;
        if entry.retries == 0 {
            let elapsed = clock_ms(env.now).wrapping_sub(entry.sent_ms);
            self.rtt.sample(core::time::Duration::from_millis(u64::from(elapsed)));
        }
        self.establish(env);
    }

    /// RFC 9293 section 3.9.2.2 with the checks of RFC 5927: an error about a segment that is in flight.
    fn icmp_error(&mut self, error: &IcmpError, env: &mut Env<'_>) {
        let in_flight = error.seq.ge(self.snd_una) && error.seq.lt(self.snd_max);
        if !in_flight {
            env.counters.drop(DropReason::BadIcmp);
            return;
        }
        match error.kind {
            IcmpErrorKind::PacketTooBig { mtu } => self.path_mtu_shrank(mtu, env),
            // A hard error ends an open that is not complete; later it is as soft as the rest (RFC 5927 section 5.2).
            IcmpErrorKind::Refused if matches!(self.state, State::SynSent | State::SynReceived) => {
                env.counters.tcp_attempt_fails += 1;
                self.fail(TcpError::ConnectionRefused);
            }
            IcmpErrorKind::Refused => self.soft_error = Some(TcpError::ConnectionRefused),
            IcmpErrorKind::Unreachable => self.soft_error = Some(TcpError::HostUnreachable),
        }
    }

    /// RFC 1191 section 6, RFC 8201 section 5.3: smaller segments from now on, and what was too big once more. The floor
    /// is that of IPv6, or Linux's for IPv4, so that a forged error cannot make segments tiny.
    fn path_mtu_shrank(&mut self, mtu: u32, env: &mut Env<'_>) {
        let floor = if self.key.remote().is_ipv6() { 1280 } else { 552 };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(floor);
        if mtu >= self.pmtu {
            return;
        }
        self.pmtu = mtu;
        self.set_mss();
        if self.state.is_synchronized() {
            self.marks.retransmit_now = true;
            self.snd_nxt = self.snd_una;
            self.timed = None;
            self.restart_retransmission(env.now);
        }
    }
}
