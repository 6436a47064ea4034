//! The book of what this shard needs steered to it: its addresses, and ports by how many things need them. Changes wait for
//! the runtime, which applies them to the device.

use core::net::IpAddr;
use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::device::Protocol;
use crate::tcp::{Tcp, Tuple};

/// A change of what the steering must let through; drained by the runtime after each poll and user call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SteeringChange {
    /// Packets of the protocol to the port come to the stack.
    OpenPort(Protocol, u16),
    /// They are the kernel's again.
    ClosePort(Protocol, u16),
    /// Everything to the address comes to the stack.
    OwnAddress(IpAddr),
    /// The address is the kernel's (again).
    DisownAddress(IpAddr),
}

/// Tuples looked at in one call of [`SteeringBook::forget_closed`].
const LOOKS_PER_POLL: usize = 4;

#[derive(Debug, Default)]
pub(super) struct SteeringBook {
    users: HashMap<(Protocol, u16), u32>,
    changes: Vec<SteeringChange>,
    /// Connections whose local port is open for them, looked at in turn.
    connected: VecDeque<Tuple>,
    /// Ports open for name server queries.
    queries: Vec<u16>,
}

impl SteeringBook {
    pub(super) fn take(&mut self) -> Vec<SteeringChange> {
        core::mem::take(&mut self.changes)
    }

    /// One more user of a port.
    pub(super) fn open(&mut self, protocol: Protocol, port: u16) {
        let users = self.users.entry((protocol, port)).or_default();
        *users += 1;
        if *users == 1 {
            self.changes.push(SteeringChange::OpenPort(protocol, port));
        }
    }

    /// One user less.
    pub(super) fn close(&mut self, protocol: Protocol, port: u16) {
        if let Some(users) = self.users.get_mut(&(protocol, port)) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&(protocol, port));
                self.changes.push(SteeringChange::ClosePort(protocol, port));
            }
        }
    }

    /// Opens the local port of a connection until the engine no longer knows it.
    pub(super) fn open_while_connected(&mut self, tuple: Tuple) {
        self.open(Protocol::Tcp, tuple.local.port());
        self.connected.push_back(tuple);
    }

    /// A listener's use of its port ends; connections it accepted keep the port open.
    pub(super) fn close_listener(&mut self, port: u16, tcp: &Tcp) {
        let accepted =
            tcp.connections().map(|(_, tuple, _)| tuple).filter(|tuple| tuple.local.port() == port);
        for tuple in accepted {
            self.open_while_connected(tuple);
        }
        self.close(Protocol::Tcp, port);
    }

    /// Closes the ports of connections that are gone: looks at a few in each call, so that all have their turn.
    pub(super) fn forget_closed(&mut self, tcp: &Tcp) {
        for _ in 0..LOOKS_PER_POLL.min(self.connected.len()) {
            let Some(tuple) = self.connected.pop_front() else { return };
            if tcp.knows(&tuple) {
                self.connected.push_back(tuple);
            } else {
                self.close(Protocol::Tcp, tuple.local.port());
            }
        }
    }

    /// Opens and closes ports so that those of name server queries are open; returns whether one was opened.
    pub(super) fn follow(&mut self, ports: &[u16]) -> bool {
        let none = self.queries.is_empty() && ports.is_empty();
        if none || self.queries == ports {
            return false;
        }
        let old = core::mem::replace(&mut self.queries, ports.to_vec());
        let opened: Vec<u16> = ports.iter().copied().filter(|port| !old.contains(port)).collect();
        opened.iter().for_each(|port| self.open(Protocol::Udp, *port));
        let closed = old.into_iter().filter(|port| !ports.contains(port));
        closed.for_each(|port| self.close(Protocol::Udp, port));
        !opened.is_empty()
    }

    /// The stack's own addresses change from `old` to `new`.
    pub(super) fn own(&mut self, old: &[IpAddr], new: &[IpAddr]) {
        let gone = old.iter().filter(|addr| !new.contains(addr)).copied();
        self.changes.extend(gone.map(SteeringChange::DisownAddress));
        let come = new.iter().filter(|addr| !old.contains(addr)).copied();
        self.changes.extend(come.map(SteeringChange::OwnAddress));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_closes_with_its_last_user() {
        let mut book = SteeringBook::default();
        book.open(Protocol::Tcp, 80);
        book.open(Protocol::Tcp, 80);
        book.open(Protocol::Udp, 80);
        let opened = [Protocol::Tcp, Protocol::Udp].map(|protocol| SteeringChange::OpenPort(protocol, 80));
        assert_eq!(book.take(), opened);
        book.close(Protocol::Tcp, 80);
        assert_eq!(book.take(), []);
        book.close(Protocol::Tcp, 80);
        assert_eq!(book.take(), [SteeringChange::ClosePort(Protocol::Tcp, 80)]);
        book.close(Protocol::Tcp, 80);
        assert_eq!(book.take(), [], "closing what is closed changes nothing");
    }

    #[test]
    fn query_ports_are_open_while_the_queries_last() {
        let mut book = SteeringBook::default();
        assert!(book.follow(&[5000, 5001]));
        assert!(!book.follow(&[5001]));
        let expected = [
            SteeringChange::OpenPort(Protocol::Udp, 5000),
            SteeringChange::OpenPort(Protocol::Udp, 5001),
            SteeringChange::ClosePort(Protocol::Udp, 5000),
        ];
        assert_eq!(book.take(), expected);
    }

    #[test]
    fn only_changed_addresses_are_told() {
        let mut book = SteeringBook::default();
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        book.own(&[], &[a]);
        book.own(&[a], &[a, b]);
        book.own(&[a, b], &[b]);
        let expected =
            [SteeringChange::OwnAddress(a), SteeringChange::OwnAddress(b), SteeringChange::DisownAddress(a)];
        assert_eq!(book.take(), expected);
    }
}
