//! What shards of one interface tell each other: packets whose connection or flow another shard may have, neighbours, ICMP
//! errors, what paths carry, how servers take Fast Open, and the DHCP lease. Bounded channels, copied bytes; what does not fit is dropped and counted (the lease: sent again).

use crossbeam_channel::{Receiver, Sender, bounded};

use super::homes::{FlowNews, Handed};
use crate::limits;
use crate::net::Heard;
use crate::net::dhcp::Lease;
use crate::net::path_mtu::PathMtu;
use crate::net::udp::UdpFault;
use crate::parse::Parsed;
use crate::tcp::{FastOpenNews, IcmpError};

/// One shard's ends of the channels between all shards of an interface; made in one place and sent to the shards' threads.
pub struct ShardLinks {
    index: u16,
    senders: Vec<Sender<Message>>,
    receiver: Receiver<Message>,
    /// Buffers of packets that were handed over, for any shard's next: those come from the shard that needs none.
    spares: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
}

/// The ends in use by their shard.
pub(super) struct Channels {
    ends: ShardLinks,
    pub(super) notify: Option<Box<dyn Fn(u16)>>,
    /// Shards that have not been told of the present lease.
    owed: Vec<u16>,
}

/// What one shard tells another.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A parsed packet, from its Ethernet header on, that came by this link and that the sender has no use for.
    Packet { visit: Visit, link: usize, bytes: Vec<u8>, parsed: Parsed },
    /// A router's packet whose flow the other has, or should have.
    Handed(Handed),
    /// A SYN from outside that no shard expects.
    Unsolicited { link: usize, bytes: Vec<u8>, parsed: Parsed },
    /// Whose a flow's replies are.
    Flow(FlowNews),
    /// A neighbour's address.
    Neighbor(Heard),
    /// An ICMP error about a connection that the sender does not have.
    IcmpError(Visit, IcmpError),
    /// What ICMP said of a datagram that the sender has no socket for.
    UdpFault(Visit, UdpFault),
    /// A host without an address asks for the routers of a link: the first shard speaks to all.
    RouterAsked(usize),
    /// The lease that all use from now on.
    Lease(Option<Lease>),
    /// What a path carries.
    PathMtu(PathMtu),
    /// How a server takes Fast Open.
    FastOpen(FastOpenNews),
}

/// The round of something that looks for its shard: first to the owner (the shard of the local port), then to the others in
/// a ring, each once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Visit {
    origin: u16,
    tried: u16,
}

impl Visit {
    /// Nobody but shard `origin`, which had it from its queue, has been asked.
    pub(super) fn start(origin: u16) -> Self {
        Self { origin, tried: 1 }
    }

    /// Whether it came from this shard's own queue.
    pub(super) fn is_first(self) -> bool {
        self.tried == 1
    }

    /// Whom to ask after shard `index` of `count`; `None`: all were asked.
    pub(super) fn next(self, index: u16, owner: u16, count: u16) -> Option<(u16, Self)> {
        if self.tried >= count {
            return None;
        }
        let after = |shard: u16| if shard + 1 == count { 0 } else { shard + 1 };
        let next = match index {
            _ if self.is_first() && owner != self.origin => owner,
            _ if after(index) == self.origin => after(self.origin),
            _ => after(index),
        };
        Some((next, Self { tried: self.tried + 1, ..self }))
    }
}

pub(super) fn mesh(count: u16) -> Vec<ShardLinks> {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..count).map(|_| bounded(limits::SHARD_CHANNEL_MESSAGES)).unzip();
    let spares = bounded(limits::SHARD_SPARE_BUFFERS);
    let link =
        |(index, receiver)| ShardLinks { index, senders: senders.clone(), receiver, spares: spares.clone() };
    (0..count).zip(receivers).map(link).collect()
}

impl ShardLinks {
    /// How many shards there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.senders.len() as u16
    }
}

impl Channels {
    pub(super) fn new(ends: ShardLinks) -> Self {
        Self { ends, notify: None, owed: Vec::new() }
    }

    /// Whether there is no other shard: nobody sends, and looking costs as much as a short packet's checksum.
    #[inline]
    pub(super) fn is_alone(&self) -> bool {
        self.ends.senders.len() == 1
    }

    /// The next message for this shard.
    pub(super) fn next(&mut self) -> Option<Message> {
        if self.is_alone() { None } else { self.ends.receiver.try_recv().ok() }
    }

    /// How many messages wait for this shard.
    pub(super) fn waiting(&self) -> usize {
        self.ends.receiver.len()
    }

    /// An empty buffer for a packet of `len` bytes.
    pub(super) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.ends.spares.1.try_recv().unwrap_or_default();
        buffer.reserve(len);
        buffer
    }

    /// Gives back the buffer of a packet that was taken over.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if buffer.capacity() <= limits::SHARD_SPARE_BUFFER_BYTES {
            let _ = self.ends.spares.0.try_send(buffer);
        }
    }

    /// Sends to one shard; `false`: its channel is full (or it is gone).
    #[must_use]
    pub(super) fn send(&self, to: u16, message: Message) -> bool {
        let sent =
            self.ends.senders.get(usize::from(to)).is_some_and(|sender| sender.try_send(message).is_ok());
        if sent && let Some(notify) = &self.notify {
            notify(to);
        }
        sent
    }

    /// Sends to every other shard; returns to how many it could not.
    #[must_use]
    pub(super) fn send_all(&self, message: &Message) -> usize {
        self.others().filter(|to| !self.send(*to, message.clone())).count()
    }

    /// All others must be told of a new lease.
    pub(super) fn owe_lease(&mut self) {
        self.owed = self.others().collect();
    }

    /// Whether some shard has not been told of the present lease.
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Tells of the lease those that were not told.
    pub(super) fn settle(&mut self, lease: Option<&Lease>) {
        if self.owed.is_empty() {
            return;
        }
        let owed = core::mem::take(&mut self.owed);
        self.owed = owed.into_iter().filter(|to| !self.send(*to, Message::Lease(lease.cloned()))).collect();
    }

    fn others(&self) -> impl Iterator<Item = u16> + use<> {
        let index = self.ends.index;
        (0..self.ends.count()).filter(move |other| *other != index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_round_visits_every_shard_once_and_the_owner_first(count in 1u16..20, origin in 0u16..20, owner in 0u16..20) {
            let (origin, owner) = (origin % count, owner % count);
            let (mut visit, mut at, mut seen) = (Visit::start(origin), origin, vec![origin]);
            while let Some((next, later)) = visit.next(at, owner, count) {
                (at, visit) = (next, later);
                seen.push(at);
            }
            if owner != origin {
                prop_assert_eq!(seen[1], owner);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }

    fn channels() -> Vec<Channels> {
        mesh(2).into_iter().map(Channels::new).collect()
    }

    #[test]
    fn links_can_be_sent_to_their_threads() {
        fn sendable<T: Send>(_: &T) {}
        mesh(2).iter().for_each(sendable);
    }

    #[test]
    fn a_buffer_given_back_by_one_shard_is_the_next_of_the_other() {
        let links = channels();
        let buffer = links[0].buffer(1500);
        let place = buffer.as_ptr();
        links[1].give_back(buffer);
        let next = links[0].buffer(1000);
        assert_eq!(next.as_ptr(), place);
        links[1].give_back(Vec::with_capacity(limits::SHARD_SPARE_BUFFER_BYTES + 1));
        assert_eq!(links[0].buffer(0).capacity(), 0, "a large one is not kept");
    }

    #[test]
    fn a_full_channel_refuses() {
        let mut links = channels();
        let message = Message::Lease(None);
        for _ in 0..limits::SHARD_CHANNEL_MESSAGES {
            assert!(links[0].send(1, message.clone()));
        }
        assert!(!links[0].send(1, message.clone()));
        assert_eq!(links[0].send_all(&message), 1);
        assert!(links[1].next().is_some());
        assert!(links[0].send(1, message));
    }

    #[test]
    fn a_lease_that_could_not_be_told_is_told_later() {
        let mut links = channels();
        while links[0].send(1, Message::Lease(None)) {}
        links[0].owe_lease();
        links[0].settle(None);
        assert!(links[0].owes());
        while links[1].next().is_some() {}
        links[0].settle(None);
        assert!(!links[0].owes() && links[1].next().is_some());
    }
}
