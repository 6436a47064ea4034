//! The listener's side of the handshake: what becomes of a SYN (RFC 9293 section 3.10.7.2), of what follows for the half-open
//! connection that it left in `syn_queue`, and the connections that come of both and wait in the listener's accept queue. Two
//! kinds of SYN leave no half-open connection: those with a Fast Open cookie (`fastopen`), and those for which the queue has
//! no room (`syn_cookie`).

use std::rc::Rc;

use super::ListenerId;
use super::config::SocketOptions;
use super::connection::{Connection, Context, Handshake, syn_window, timestamp};
use super::engine::{Kind, Tcp};
use super::fastopen::Verdict;
use super::header::Flags;
use super::input::Segment;
use super::options::FastOpenOption;
use super::syn_queue::{self, HalfOpen};
use super::time_wait::REOPEN_GAP;
use crate::counters::{Counters, DropReason};
use crate::time::Instant;

impl Tcp {
    /// RFC 9293 section 3.10.7.2. `displaced`: the TIME-WAIT entry that gives way.
    pub(super) fn listener_receives(
        &mut self,
        now: Instant,
        segment: Segment,
        displaced: Option<u32>,
        counters: &mut Counters,
    ) -> Option<Segment> {
        // First RST and second ACK: both are the business of whoever rejects what nobody takes, but an ACK may bring a
        // SYN cookie. Third, SYN.
        if !segment.has(Flags::SYN) || segment.has(Flags::ACK) || segment.has(Flags::RST) {
            return self.cookie_receives(now, segment, None, counters);
        }
        let key = segment.key();
        let Some(id) = self.listeners.find(key.local()) else { return Some(segment) };
        let (room, connections) =
            (self.config.syn_queue_max, self.tables.connections.len() >= self.config.connections_max);
        let half_open_total = self.tables.syn_queue.entries.len();
        let Some(listener) = self.listeners.get_mut(id) else { return Some(segment) };
        let own_room = listener.backlog.max(room / 4).max(1);
        let full = if listener.is_full() {
            counters.tcp_accept_overflows += 1;
            Some(DropReason::TcpAcceptQueueFull)
        } else if connections {
            Some(DropReason::TcpConnectionTableFull)
        } else {
            None
        };
        if let Some(reason) = full {
            counters.drop(reason);
            return None;
        }
        let queue_full = half_open_total >= room || listener.half_open >= own_room;
        // In the place of a TIME-WAIT entry only the handshake proves that the SYN is no old duplicate.
        let verdict = match displaced {
            None => self.fastopen_verdict(now, id, &segment, counters),
            Some(_) => Verdict::Regular(None),
        };
        let cookie_wanted = match verdict {
            Verdict::Open(answer) => {
                self.open_with_data(now, id, answer, segment, counters);
                return None;
            }
            Verdict::Regular(cookie_wanted) => cookie_wanted,
        };
        if queue_full {
            if displaced.is_some() || !self.config.syn_cookies {
                // No cookie in the place of a TIME-WAIT entry, which would get the ACK.
                counters.drop(DropReason::TcpSynQueueFull);
            } else {
                self.send_syn_cookie(now, id, &segment, counters);
            }
            return None;
        }
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.half_open += 1;
        }
        let mut iss = self.isn.isn_of(now, &key);
        let displaced = displaced.map(|index| (index, self.tables.time_waits.entries.generation(index)));
        if let Some(old) = displaced.and_then(|(index, _)| self.tables.time_waits.entries.get(index)) {
            // RFC 9293 section 3.6.1, MAY-2 (1).
            iss = iss.max(old.snd_nxt + REOPEN_GAP);
        }
        let mut entry =
            HalfOpen::new(key, id.index, iss, &segment, &self.config).wanting_cookie(cookie_wanted);
        if let Some((index, generation)) = displaced {
            self.tables.detach(Kind::TimeWait(index));
            entry = entry.displacing(index, generation);
        }
        let index = self.tables.syn_queue.insert(entry);
        self.tables.attach(Kind::HalfOpen(index));
        None
    }

    pub(super) fn half_open_receives(
        &mut self,
        now: Instant,
        index: u32,
        segment: Segment,
        counters: &mut Counters,
    ) -> Option<Segment> {
        let pressure = self.is_under_pressure();
        let Some(entry) = self.tables.syn_queue.entries.get_mut(index) else { return Some(segment) };
        let listener = self.listeners.slab.get(entry.listener);
        let options =
            listener.map_or_else(|| self.default_options.clone(), |listener| listener.options.clone());
        let window = syn_window(options.receive_buffer_start(), &options);
        let mut cx = Context { now, config: &self.config, counters, replies: &mut self.replies, pressure };
        match entry.segment_arrives(segment, window, &mut cx) {
            syn_queue::Outcome::Done => {}
            // Or the ACK of a cookie that was sent before the SYN came again and found room.
            syn_queue::Outcome::NotOurs(segment) => {
                return self.cookie_receives(now, segment, Some(index), counters);
            }
            syn_queue::Outcome::SynAck => self.tables.syn_queue.send_again(index),
            syn_queue::Outcome::Forget => {
                counters.tcp_attempt_fails += 1;
                self.forget_half_open(index, true);
            }
            syn_queue::Outcome::Challenge => {
                let ts_now = timestamp(now, self.isn.timestamp_offset_of(&entry.key));
                let ack = entry.ack(&options, ts_now);
                self.challenge(now, ack, counters);
            }
            syn_queue::Outcome::Establish(segment)
                if segment.len() == 0 && entry.defers(options.defer_accept, &self.config) => {}
            syn_queue::Outcome::Establish(segment) => {
                self.establish(now, index, options, segment, counters);
            }
        }
        None
    }

    /// The ACK of our SYN-ACK arrived: makes a connection of the entry, if there is room. If not, nothing was acknowledged;
    /// the SYN-ACK is sent again in time and the peer's answer to that tries again, as in Linux.
    fn establish(
        &mut self,
        now: Instant,
        index: u32,
        options: Rc<SocketOptions>,
        segment: Segment,
        counters: &mut Counters,
    ) {
        let Some(entry) = self.tables.syn_queue.entries.get(index) else { return };
        let Some(listener) = self.listeners.slab.get_mut(entry.listener) else { return };
        if listener.is_full() {
            counters.tcp_accept_overflows += 1;
            counters.drop(DropReason::TcpAcceptQueueFull);
            return;
        }
        if self.tables.connections.len() >= self.config.connections_max {
            counters.drop(DropReason::TcpConnectionTableFull);
            return;
        }
        let offset = self.isn.timestamp_offset_of(&entry.key);
        let handshake = entry.handshake(self.config.initial_rto, offset);
        let listener_place = entry.listener;
        let place = self.admit(now, &handshake, options, (listener_place, Some(index)), counters);
        self.remove_half_open(index, false);
        self.connection_receives(now, place, segment, counters);
    }

    /// A new connection in SYN-RECEIVED and in its listener's accept queue; it may have been a half-open one.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        handshake: &Handshake,
        options: Rc<SocketOptions>,
        (listener, half_open): (u32, Option<u32>),
        counters: &mut Counters,
    ) -> u32 {
        let mut connection = Connection::accepted(now, handshake, options, &self.config);
        connection.listener = core::num::NonZeroU32::MIN.checked_add(listener);
        let place = self.insert_connection(connection, half_open);
        counters.tcp_passive_opens += 1;
        if let Some(listener) = self.listeners.slab.get_mut(listener) {
            listener.accept.push_back(place);
            if let Some(waker) = listener.waker.take() {
                waker.wake();
            }
        }
        place
    }

    /// A SYN whose data may be delivered before the handshake is over (RFC 7413 section 4.2.2).
    fn open_with_data(
        &mut self,
        now: Instant,
        id: ListenerId,
        answer: Option<FastOpenOption>,
        syn: Segment,
        counters: &mut Counters,
    ) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        listener.fastopen.begin();
        let options = listener.options.clone();
        let key = syn.key();
        let (iss, offset) = (self.isn.isn_of(now, &key), self.isn.timestamp_offset_of(&key));
        let entry = HalfOpen::new(key, id.index, iss, &syn, &self.config);
        let handshake = entry.handshake(self.config.initial_rto, offset);
        let place = self.admit(now, &handshake, options, (id.index, None), counters);
        counters.tcp_fastopen_passive += 1;
        self.with_connection(now, place, counters, |connection, cx| {
            connection.open_with_data(id, answer, syn, cx);
        });
    }

    /// Removes a half-open connection. The TIME-WAIT entry that it displaced comes back, or goes for good.
    pub(super) fn forget_half_open(&mut self, index: u32, restore: bool) {
        self.tables.detach(Kind::HalfOpen(index));
        self.remove_half_open(index, restore);
    }

    /// As [`Tcp::forget_half_open`], for one that its tuple does not lead to any more.
    fn remove_half_open(&mut self, index: u32, restore: bool) {
        let Some(entry) = self.tables.syn_queue.remove(index) else { return };
        if let Some(listener) = self.listeners.slab.get_mut(entry.listener) {
            listener.half_open = listener.half_open.saturating_sub(1);
        }
        let displaced = entry.displaced().filter(|(place, generation)| {
            self.tables.time_waits.entries.get_exact(*place, *generation).is_some()
        });
        if let Some((place, _)) = displaced {
            if restore {
                self.tables.attach(Kind::TimeWait(place));
            } else {
                self.tables.time_waits.remove(place);
            }
        }
    }
}
