//! The ports that are open, over all queues which one process serves on an interface.
//!
//! A flow's packets come to the queue its hash names, and its port may be open for a shard of another queue: were it
//! closed here, the kernel would answer with a RST. So a port is open on all of the process's queues from its first
//! opening on any of them until the last has closed it. Ports open and close with sockets, not with packets: a lock does.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bywash::device::Protocol;

/// A port (or the identifier of echo requests).
type Port = (Protocol, u16);

/// The queues' bitmaps of open ports.
pub(crate) trait Bits {
    fn set(&self, queue: u32, protocol: Protocol, port: u16, open: bool);
}

/// The book of one attachment of the steering program.
#[derive(Debug, Default)]
pub(crate) struct OpenPorts(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    queues: BTreeSet<u32>,
    /// What each queue opened.
    opened: HashSet<(u32, Port)>,
    /// Queues that have a port open: at least one.
    users: HashMap<Port, u32>,
}

impl OpenPorts {
    /// A queue is served from now on: what is open already is open there too.
    pub fn join(&self, queue: u32, bits: &impl Bits) {
        let mut book = self.book();
        book.queues.insert(queue);
        book.users.keys().for_each(|&(protocol, port)| bits.set(queue, protocol, port, true));
    }

    /// A queue is served no more: its bits are the caller's to clear, its uses end here.
    pub fn leave(&self, queue: u32, bits: &impl Bits) {
        let mut book = self.book();
        book.queues.remove(&queue);
        let uses: Vec<Port> =
            book.opened.iter().filter(|(of, _)| *of == queue).map(|(_, port)| *port).collect();
        uses.into_iter().for_each(|port| book.close(queue, port, bits));
    }

    /// `queue` needs the port. Opening it twice is opening it once.
    pub fn open(&self, queue: u32, protocol: Protocol, port: u16, bits: &impl Bits) {
        let mut book = self.book();
        if !book.opened.insert((queue, (protocol, port))) {
            return;
        }
        let users = book.users.entry((protocol, port)).or_default();
        *users += 1;
        if *users == 1 {
            book.queues.iter().for_each(|&queue| bits.set(queue, protocol, port, true));
        }
    }

    /// `queue` no longer needs the port.
    pub fn close(&self, queue: u32, protocol: Protocol, port: u16, bits: &impl Bits) {
        self.book().close(queue, (protocol, port), bits);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn close(&mut self, queue: u32, port: Port, bits: &impl Bits) {
        if !self.opened.remove(&(queue, port)) {
            return;
        }
        let Some(users) = self.users.get_mut(&port) else { return };
        *users -= 1;
        if *users == 0 {
            self.users.remove(&port);
            self.queues.iter().for_each(|&queue| bits.set(queue, port.0, port.1, false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Bitmap(Mutex<BTreeSet<(u32, u16)>>);

    impl Bits for Bitmap {
        fn set(&self, queue: u32, _: Protocol, port: u16, open: bool) {
            let mut bits = self.0.lock().unwrap();
            if open {
                bits.insert((queue, port));
            } else {
                bits.remove(&(queue, port));
            }
        }
    }

    proptest! {
        /// On every served queue exactly those ports are open that some served queue needs.
        #[test]
        fn a_port_is_open_everywhere_until_its_last_user_is_gone(
            steps in prop::collection::vec((0u8..6, 0u32..4, 0u16..3), 0..60)
        ) {
            let (ports, bits) = (OpenPorts::default(), Bitmap::default());
            let (mut served, mut needs) = (BTreeSet::new(), BTreeSet::new());
            for (step, queue, port) in steps {
                match step {
                    0 if served.insert(queue) => ports.join(queue, &bits),
                    1 if served.remove(&queue) => {
                        ports.leave(queue, &bits);
                        needs.retain(|&(of, _)| of != queue);
                        bits.0.lock().unwrap().retain(|&(of, _)| of != queue);
                    }
                    2 | 3 if served.contains(&queue) => {
                        ports.open(queue, Protocol::Tcp, port, &bits);
                        needs.insert((queue, port));
                    }
                    4 | 5 => {
                        ports.close(queue, Protocol::Tcp, port, &bits);
                        needs.remove(&(queue, port));
                    }
                    _ => {}
                }
                let wanted: BTreeSet<u16> = needs.iter().map(|&(_, port)| port).collect();
                let expected: BTreeSet<(u32, u16)> =
                    served.iter().flat_map(|&queue| wanted.iter().map(move |&port| (queue, port))).collect();
                prop_assert_eq!(&*bits.0.lock().unwrap(), &expected);
            }
        }
    }
}
