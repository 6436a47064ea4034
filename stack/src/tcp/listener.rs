//! Listeners: who waits for SYNs to which address, and the connections that wait to be accepted. The LISTEN state of RFC
//! 9293 section 3.10.7.2 is here; what a SYN leaves behind is in `syn_queue`.

use core::net::SocketAddr;
use core::task::Waker;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::config::SocketOptions;
use super::fastopen::{CookieMaker, PendingFastOpens};
use super::table::Slab;
use super::{ListenerId, TcpError};
use crate::time::Instant;

/// A listener.
pub(super) struct Listener {
    pub(super) addr: SocketAddr,
    /// Most connections that wait to be accepted.
    pub(super) backlog: usize,
    pub(super) options: Rc<SocketOptions>,
    /// Places of connections that wait to be accepted, oldest first.
    pub(super) accept: VecDeque<u32>,
    /// Its half-open connections.
    pub(super) half_open: usize,
    pub(super) fastopen: PendingFastOpens,
    /// Fast Open keys of its own.
    pub(super) cookies: Option<Box<CookieMaker>>,
    /// Until then ACKs may bring SYN cookies.
    pub(super) cookies_until: Instant,
    pub(super) waker: Option<Waker>,
}

impl Listener {
    pub(super) fn is_full(&self) -> bool {
        self.accept.len() >= self.backlog
    }
}

/// All listeners, by port.
pub(super) struct Listeners {
    pub(super) slab: Slab<Listener>,
    /// Few share a port: one for each address of ours and family.
    by_port: BTreeMap<u16, Vec<u32>>,
}

impl Listeners {
    pub(super) fn new() -> Self {
        Self { slab: Slab::new(), by_port: BTreeMap::new() }
    }

    pub(super) fn is_port_used(&self, port: u16) -> bool {
        self.by_port.contains_key(&port)
    }

    /// Adds a listener.
    pub(super) fn insert(&mut self, listener: Listener) -> Result<ListenerId, TcpError> {
        let addr = listener.addr;
        let taken = self.by_port.get(&addr.port()).into_iter().flatten().any(|index| {
            self.slab.get(*index).is_some_and(|other| {
                let (a, b) = (other.addr.ip(), addr.ip());
                a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
            })
        });
        if taken {
            return Err(TcpError::AddrInUse);
        }
        let index = self.slab.insert(listener);
        self.by_port.entry(addr.port()).or_default().push(index);
        Ok(ListenerId { index, generation: self.slab.generation(index) })
    }

    pub(super) fn remove(&mut self, id: ListenerId) -> Option<Listener> {
        self.slab.get_exact(id.index, id.generation)?;
        let listener = self.slab.remove(id.index)?;
        if let Some(same_port) = self.by_port.get_mut(&listener.addr.port()) {
            same_port.retain(|index| *index != id.index);
            if same_port.is_empty() {
                self.by_port.remove(&listener.addr.port());
            }
        }
        Some(listener)
    }

    /// The listener for segments to `addr`.
    pub(super) fn find(&self, addr: SocketAddr) -> Option<ListenerId> {
        self.by_port.get(&addr.port())?.iter().find_map(|&index| {
            let ip = self.slab.get(index)?.addr.ip();
            let matches = ip == addr.ip() || (ip.is_unspecified() && ip.is_ipv4() == addr.is_ipv4());
            matches.then(|| ListenerId { index, generation: self.slab.generation(index) })
        })
    }

    pub(super) fn get(&self, id: ListenerId) -> Option<&Listener> {
        self.slab.get_exact(id.index, id.generation)
    }

    pub(super) fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.slab.get_exact_mut(id.index, id.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(addr: &str) -> Listener {
        Listener {
            addr: addr.parse().unwrap(),
            backlog: 1,
            options: Rc::default(),
            accept: VecDeque::new(),
            half_open: 0,
            fastopen: PendingFastOpens::default(),
            cookies: None,
            cookies_until: Instant::ZERO,
            waker: None,
        }
    }

    #[test]
    fn an_address_of_its_own_does_not_conflict_with_another() {
        let mut listeners = Listeners::new();
        let one = listeners.insert(listener("192.0.2.1:80")).unwrap();
        let two = listeners.insert(listener("192.0.2.2:80")).unwrap();
        assert_eq!(listeners.find("192.0.2.1:80".parse().unwrap()), Some(one));
        assert_eq!(listeners.find("192.0.2.2:80".parse().unwrap()), Some(two));
        assert_eq!(listeners.find("192.0.2.3:80".parse().unwrap()), None);
        assert_eq!(listeners.insert(listener("0.0.0.0:80")), Err(TcpError::AddrInUse));
    }

    #[test]
    fn the_unspecified_address_takes_its_family_only() {
        let mut listeners = Listeners::new();
        let v6 = listeners.insert(listener("[::]:80")).unwrap();
        assert_eq!(listeners.find("[2001:db8::1]:80".parse().unwrap()), Some(v6));
        assert_eq!(listeners.find("192.0.2.1:80".parse().unwrap()), None);
        assert!(listeners.insert(listener("0.0.0.0:80")).is_ok());
        assert_eq!(listeners.insert(listener("[2001:db8::1]:80")), Err(TcpError::AddrInUse));
    }

    #[test]
    fn a_removed_listener_frees_its_port_and_its_handle_is_stale() {
        let mut listeners = Listeners::new();
        let id = listeners.insert(listener("192.0.2.1:80")).unwrap();
        assert!(listeners.remove(id).is_some());
        assert!(listeners.remove(id).is_none());
        assert!(!listeners.is_port_used(80));
        let again = listeners.insert(listener("192.0.2.1:80")).unwrap();
        assert_ne!(id, again);
    }
}
