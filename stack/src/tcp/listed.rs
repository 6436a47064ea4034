//! TCP's part of a listing: listeners, half-open connections, connections, TIME-WAIT entries, place by place.

use super::State;
use super::connection::Connection;
use super::engine::Tcp;
use crate::listing::{Cursor, Listed, ListedMemory, ListedTimer};
use crate::time::Instant;

impl Tcp {
    /// Lists what is at the next `places` places from `cursor` on, and moves it; past the last one it is at the table of
    /// UDP sockets. O(places).
    pub(crate) fn list(&self, now: Instant, cursor: &mut Cursor, places: u32, out: &mut Vec<Listed>) {
        let mut left = places;
        while left > 0 && cursor.table < Cursor::UDP {
            let end = match cursor.table {
                0 => self.listeners.slab.places(),
                1 => self.tables.syn_queue.entries.places(),
                2 => self.tables.connections.places(),
                _ => self.tables.time_waits.entries.places(),
            };
            if cursor.place >= end {
                *cursor = Cursor { table: cursor.table + 1, place: 0 };
                continue;
            }
            out.extend(match cursor.table {
                0 => self.listed_listener(cursor.place),
                1 => self.listed_half_open(now, cursor.place),
                2 => self.listed_connection(now, cursor.place),
                _ => self.listed_time_wait(now, cursor.place),
            });
            cursor.place += 1;
            left -= 1;
        }
    }

    fn listed_listener(&self, place: u32) -> Option<Listed> {
        let listener = self.listeners.slab.get(place)?;
        Some(Listed {
            recv_q: listener.accept.len() as u64,
            send_q: listener.backlog as u64,
            half_open: listener.half_open as u32,
            ..Listed::new("tcp", State::Listen, place, listener.addr)
        })
    }

    fn listed_half_open(&self, now: Instant, place: u32) -> Option<Listed> {
        let entry = self.tables.syn_queue.entries.get(place)?;
        let tuple = entry.key.tuple();
        let (expires, retries) = entry.patience();
        Some(Listed {
            remote: Some(tuple.remote),
            timer: Some(ListedTimer { kind: "on", remaining: expires - now, retries }),
            ..Listed::new("tcp", State::SynReceived, place, tuple.local)
        })
    }

    fn listed_connection(&self, now: Instant, place: u32) -> Option<Listed> {
        let connection = self.tables.connections.get(place).filter(|connection| connection.attached)?;
        let tuple = connection.key.tuple();
        let fin = connection.fin_queued && !connection.fin_acked();
        Some(Listed {
            remote: Some(tuple.remote),
            recv_q: connection.receive.readable() as u64,
            send_q: connection.send.len() as u64 + u64::from(fin),
            orphan: connection.orphan,
            timer: connection.listed_timer(now),
            memory: Some(connection.listed_memory()),
            info: Some(Box::new(connection.info(now))),
            ..Listed::new("tcp", connection.state, place, tuple.local)
        })
    }

    fn listed_time_wait(&self, now: Instant, place: u32) -> Option<Listed> {
        let entry = self.tables.time_waits.entries.get(place)?;
        let tuple = entry.key.tuple();
        Some(Listed {
            remote: Some(tuple.remote),
            timer: Some(ListedTimer { kind: "timewait", remaining: entry.expires() - now, retries: 0 }),
            ..Listed::new("tcp", State::TimeWait, place, tuple.local)
        })
    }
}

impl Connection {
    /// The timer that `ss -o` shows: the one that acts on what was sent, else keepalive.
    fn listed_timer(&self, now: Instant) -> Option<ListedTimer> {
        let timers = &self.timers;
        let sent = [timers.retransmit, timers.probe, timers.reorder].into_iter().flatten().min();
        let (kind, at, retries) = match (sent, timers.keepalive) {
            (Some(at), _) if self.is_window_closed() => ("persist", at, self.probes),
            (Some(at), _) => ("on", at, self.retransmits),
            (None, Some(at)) => ("keepalive", at, self.keepalive_probes),
            (None, None) => return None,
        };
        Some(ListedTimer { kind, remaining: at - now, retries })
    }

    fn listed_memory(&self) -> ListedMemory {
        ListedMemory {
            receive: self.receive.memory() as u64,
            receive_max: self.receive_cap() as u64,
            send: (self.send.memory() + self.sent.memory()) as u64,
            send_max: self.options.send_buffer_bytes as u64,
        }
    }
}
