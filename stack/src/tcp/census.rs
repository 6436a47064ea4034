//! How much there is of what, and all of it: connections, half-open ones and TIME-WAIT entries.

use super::engine::{Tables, Tcp};
use super::syn_queue::HalfOpen;
use super::table::TupleKey;
use super::{Census, ConnId, State, Tuple};

impl Tcp {
    /// How much of what there is.
    #[must_use]
    pub fn census(&self) -> Census {
        Census {
            listeners: self.listeners.slab.len(),
            syn_received: self.tables.syn_queue.entries.len(),
            connections: self.tables.connections.len(),
            time_wait: self.tables.time_waits.entries.len(),
            buffered_bytes: self.buffered_bytes,
            ended: self.ended,
        }
    }

    /// Whether no connection is under way and none that has ended holds something the application has not read: what a
    /// graceful shutdown waits for. O(1) while connections are under way, else O(ended ones whose handle is held).
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let Tables { connections, syn_queue, .. } = &self.tables;
        syn_queue.entries.len() == 0
            && connections.len() == self.ended
            && connections.iter().all(|(.., connection)| connection.receive.readable() == 0)
    }

    /// Whether something has this tuple: a connection, half-open or not, or a TIME-WAIT entry.
    #[must_use]
    pub fn knows(&self, tuple: &Tuple) -> bool {
        self.tables.find(&TupleKey::new(tuple.local, tuple.remote)).is_some()
    }

    /// Tuple and state of everything that segments are led to: half-open connections and TIME-WAIT entries too. O(all).
    pub fn ends(&self) -> impl Iterator<Item = (Tuple, State)> + '_ {
        let Tables { connections, syn_queue, time_waits, .. } = &self.tables;
        let attached = connections.iter().filter(|(.., connection)| connection.attached);
        let displaced = |entry: &HalfOpen| entry.displaced();
        let hidden: Vec<(u32, u32)> =
            syn_queue.entries.iter().filter_map(|(.., entry)| displaced(entry)).collect();
        let waits = time_waits.entries.iter().filter(move |(index, generation, _)| {
            hidden.is_empty() || !hidden.contains(&(*index, *generation))
        });
        attached
            .map(|(.., connection)| (connection.key.tuple(), connection.state))
            .chain(syn_queue.entries.iter().map(|(.., entry)| (entry.key.tuple(), State::SynReceived)))
            .chain(waits.map(|(.., entry)| (entry.key.tuple(), State::TimeWait)))
    }

    /// All connections with a handle or still under way: id, tuple, state. For `ss`-like listings and graceful shutdown;
    /// O(connections).
    pub fn connections(&self) -> impl Iterator<Item = (ConnId, Tuple, State)> + '_ {
        self.tables.connections.iter().map(|(index, generation, connection)| {
            (ConnId { index, generation }, connection.key.tuple(), self.state_of(connection))
        })
    }
}
