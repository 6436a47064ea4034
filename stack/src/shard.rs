//! One queue's whole stack: [`Shard::poll`] runs the packet's journey once.
//!
//! A burst from the device is parsed and goes to [`crate::net`] or [`crate::tcp`]; timers run; sockets and connections send
//! into the backlog, which goes to the device. Shards share nothing: what one receives and another waits for is copied
//! into the bounded channel between them ([`ShardLinks`]), one shard after the other until one takes it.

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};
use std::collections::BTreeSet;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::config::{ConfigError, StackConfig};
use crate::counters::{Counters, DropReason};
use crate::device::{Device, Protocol};
use crate::limits;
use crate::net::layer::{Net, News, Origin, Taken};
use crate::packet::{Packet, PacketBatch};
use crate::tcp::{self, ConnId, ListenerId, Received, SocketOptions, Tcp, TcpError};
use crate::time::Instant;

/// One queue's stack: the network layer and the TCP engine with what they need of each other.
pub struct Shard {
    net: Net,
    tcp: Tcp,
    links: ShardLinks,
    index: u16,
    count: u16,
    counters: Counters,
    batch: PacketBatch,
    /// ICMP errors for the engine, from neighbours that did not answer.
    errors: Vec<tcp::IcmpError>,
    notify: Option<Box<dyn Fn(u16)>>,
    /// Shards that were sent a message in this poll.
    told: BTreeSet<u16>,
    /// Packets wait because the device took no more.
    stuck: bool,
    /// Ports of connections opened by us that the steering lets through, and when it is next time to look which are gone.
    connect_ports: BTreeSet<u16>,
    sweep_at: Instant,
}

/// The bounded channels between the shards of one interface; made by [`Shard::links`], one for each shard.
pub struct ShardLinks {
    inbox: Receiver<Message>,
    /// Everybody's, in the shards' order.
    outboxes: Vec<Sender<Message>>,
}

/// What one shard sends to another.
enum Message {
    Packet { frame: Vec<u8>, walk: Walk },
    TcpError(tcp::IcmpError),
    News(News),
}

/// The way of a packet that its first shard has no use for: to the shard that its port names, then to all others in turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Walk {
    origin: u16,
    owner: u16,
    /// Hand-overs so far, at least 1 once under way.
    steps: u16,
}

impl Walk {
    /// The next shard of `count` to ask.
    fn next(self, count: u16) -> Option<u16> {
        let Self { origin, owner, steps } = self;
        let others = (1..count).map(|step| (origin + step) % count).filter(|shard| *shard != owner);
        Some(owner).filter(|owner| *owner != origin).into_iter().chain(others).nth(usize::from(steps))
    }
}

/// A change of what the steering must let through; drained by the runtime after each poll or user call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SteeringChange {
    /// Packets to this port, whatever the address, are for the stack from now on.
    OpenPort(Protocol, u16),
    /// They are for the kernel again, as far as this shard is concerned.
    ClosePort(Protocol, u16),
    /// All packets to this address are for the stack.
    OwnAddress(IpAddr),
    /// They are not any more.
    DisownAddress(IpAddr),
}

/// A UDP socket of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UdpId(pub u32, pub u32);
/// A ping of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PingId(pub u32, pub u32);
/// A name query of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DnsQueryId(pub u32, pub u32);

/// Why a call on a UDP socket, a ping or a name query failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetError {
    /// A bound of [`crate::limits`] is reached.
    #[error("too many sockets")]
    TooManySockets,
    /// Another socket has the port.
    #[error("address already in use")]
    AddrInUse,
    /// The local address is not ours.
    #[error("address not available")]
    AddrNotAvailable,
    /// No route to the destination.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// Longer than an IP packet can be.
    #[error("message too long")]
    MessageTooLong,
    /// The handle names nothing (any more).
    #[error("no such socket")]
    NotFound,
    /// The name servers know no such address, or did not answer.
    #[error("name not found")]
    NameNotFound,
    /// Neither the configuration nor DHCP named one.
    #[error("no name server configured")]
    NoNameServer,
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
    /// An argument makes no sense: port or hop limit 0, an unspecified destination, the other IP version.
    #[error("invalid argument")]
    InvalidInput,
}

/// An answer to a ping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EchoReply {
    /// Who answered.
    pub from: IpAddr,
    /// The ping's identifier.
    pub ident: u16,
    /// The request's sequence number.
    pub seq: u16,
    /// The request's payload, as it came back.
    pub payload: Vec<u8>,
    /// Time to live or hop limit of the answer when it arrived.
    pub hop_limit: Option<u8>,
}

impl Shard {
    /// `index`/`count`: which shard of how many of this interface; `links` from [`Shard::links`] with the same count.
    ///
    /// # Errors
    /// What is wrong with `config` for this device.
    pub fn new(
        config: &StackConfig,
        index: u16,
        count: u16,
        links: ShardLinks,
        device: &dyn Device,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            net: Net::new(config, index, count, device, now)?,
            tcp: Tcp::new(config.tcp.clone(), config.seed, index, count),
            links,
            index,
            count,
            counters: Counters::default(),
            batch: PacketBatch::new(),
            errors: Vec::new(),
            notify: None,
            told: BTreeSet::new(),
            stuck: false,
            connect_ports: BTreeSet::new(),
            sweep_at: Instant::ZERO,
        })
    }

    /// The channels of `count` shards, to be given to them in order.
    #[must_use]
    pub fn links(count: u16) -> Vec<ShardLinks> {
        let (outboxes, inboxes): (Vec<_>, Vec<_>) =
            (0..count).map(|_| bounded(limits::SHARD_CHANNEL_MESSAGES)).unzip();
        inboxes.into_iter().map(|inbox| ShardLinks { inbox, outboxes: outboxes.clone() }).collect()
    }

    /// Runs the journey once: a burst in, timers, a burst out. Returns whether anything was done (poll again at once).
    pub fn poll(&mut self, now: Instant, device: &mut dyn Device) -> bool {
        let mut busy = self.take_messages(now);
        busy |= self.receive(now, device);
        self.tcp.poll_timers(now, &mut self.counters);
        // Neighbours and answers before TCP, which may fill the backlog; what TCP wants of the neighbours after it.
        self.net.poll(now, &mut self.errors);
        self.tcp.transmit(now, &mut self.net.output, &mut self.counters);
        self.net.poll_neighbors(now, &mut self.errors);
        for error in self.errors.drain(..) {
            self.tcp.icmp_error(now, &error, &mut self.counters);
        }
        busy |= self.net.output.flush(device);
        self.stuck = self.net.output.is_waiting() || device.pool().free_frames() == 0;
        self.sweep_ports(now);
        self.spread_news();
        self.counters.add(&core::mem::take(&mut self.net.output.counters));
        busy
    }

    fn receive(&mut self, now: Instant, device: &mut dyn Device) -> bool {
        let mut batch = core::mem::take(&mut self.batch);
        let received = device.receive(&mut batch, limits::BURST_PACKETS);
        for packet in batch.drain(..) {
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += packet.len() as u64;
            self.take_in(now, packet, None);
        }
        self.batch = batch;
        received > 0
    }

    fn take_messages(&mut self, now: Instant) -> bool {
        let mut messages = 0;
        while messages < limits::SHARD_MESSAGES_PER_POLL
            && let Ok(message) = self.links.inbox.try_recv()
        {
            messages += 1;
            match message {
                Message::Packet { frame, walk } => {
                    self.counters.rx_taken_over += 1;
                    if let Some(packet) = self.net.output.copy_packet(&frame) {
                        self.take_in(now, packet, Some(walk));
                    }
                }
                Message::TcpError(error) => {
                    self.tcp.icmp_error(now, &error, &mut self.counters);
                }
                Message::News(news) => self.net.learn(now, news),
            }
        }
        messages > 0
    }

    /// Takes in a packet: from the queue, or on its `walk` from shard to shard.
    fn take_in(&mut self, now: Instant, packet: Packet, walk: Option<Walk>) {
        let last = match walk {
            Some(walk) => walk.next(self.count).is_none(),
            None => self.count == 1,
        };
        match self.net.receive(now, packet, Origin { queue: walk.is_none(), last }) {
            Taken::Done => {}
            Taken::Tcp(packet) => match self.tcp.receive(now, packet, &mut self.counters) {
                Received::Done => {}
                Received::NoConnection(packet) if last => {
                    self.tcp.reject(now, &packet, &mut self.counters);
                }
                Received::NoConnection(packet) => {
                    let owner = packet.parsed.flow.dst_port % self.count;
                    self.hand_over(&packet, walk, owner);
                }
            },
            Taken::TcpError(error) => {
                if !self.tcp.icmp_error(now, &error, &mut self.counters) {
                    self.tell_others(|| Message::TcpError(error));
                }
            }
            Taken::Elsewhere { packet, owner } => self.hand_over(&packet, walk, owner),
        }
    }

    /// Sends a packet on to the next shard of its walk, which begins here if it has none.
    fn hand_over(&mut self, packet: &Packet, walk: Option<Walk>, owner: u16) {
        let walk = walk.unwrap_or(Walk { origin: self.index, owner, steps: 0 });
        let Some(shard) = walk.next(self.count) else { return };
        let mut frame = Vec::new();
        packet.copy_to(&mut frame);
        self.counters.rx_handed_over += 1;
        self.send(shard, Message::Packet { frame, walk: Walk { steps: walk.steps + 1, ..walk } });
    }

    fn send(&mut self, shard: u16, message: Message) {
        let Some(outbox) = self.links.outboxes.get(usize::from(shard)) else { return };
        match outbox.try_send(message) {
            Ok(()) => {
                self.told.insert(shard);
            }
            // A shard that has ended takes nothing more: as good as full.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counters.drop(DropReason::ShardChannelFull);
            }
        }
    }

    fn tell_others(&mut self, message: impl Fn() -> Message) {
        let own = self.index;
        for shard in (0..self.count).filter(|shard| *shard != own) {
            self.send(shard, message());
        }
    }

    fn spread_news(&mut self) {
        for news in self.net.take_news() {
            self.tell_others(|| Message::News(news.clone()));
        }
        for shard in core::mem::take(&mut self.told) {
            if let Some(notify) = &self.notify {
                notify(shard);
            }
        }
    }

    /// When `poll` is next needed if no packet arrives and no user call is made. `Some(t <= now)`: at once.
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        if !self.links.inbox.is_empty() {
            return Some(now);
        }
        let deadline = self.tcp.next_deadline().into_iter().chain(self.net.next_deadline(now)).min();
        if self.stuck {
            // Whoever waits to send waits for the device: trying at once would only spin.
            let retry = now + limits::TX_RETRY_INTERVAL;
            return Some(deadline.filter(|deadline| *deadline > now).map_or(retry, |later| later.min(retry)));
        }
        deadline
    }

    /// `notify` is called with a shard's index after messages were sent to it, on this shard's thread.
    pub fn set_notify(&mut self, notify: Box<dyn Fn(u16)>) {
        self.notify = Some(notify);
    }

    /// The changes since the last call, in order.
    pub fn take_steering_changes(&mut self) -> Vec<SteeringChange> {
        self.net.take_steering_changes()
    }

    /// Everything counted up to the last poll.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The TCP engine.
    pub fn tcp(&mut self) -> &mut Tcp {
        &mut self.tcp
    }

    /// The TCP engine, to look at.
    #[must_use]
    pub fn tcp_ref(&self) -> &Tcp {
        &self.tcp
    }

    /// Our addresses at present with their prefix lengths (DHCP's included).
    #[must_use]
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        self.net.addresses().iter().map(|cidr| (cidr.addr, cidr.prefix_len)).collect()
    }

    /// `None`: DHCP is off; `Some(false)`: still asking; `Some(true)`: an address is lent.
    #[must_use]
    pub fn dhcp_configured(&self) -> Option<bool> {
        self.net.dhcp_configured()
    }

    // ---- TCP calls that also need routes or steering

    /// [`Tcp::listen`], with the port opened in the steering.
    ///
    /// # Errors
    /// [`TcpError::AddrNotAvailable`] when the address is not ours, else the engine's.
    pub fn tcp_listen(
        &mut self,
        addr: SocketAddr,
        backlog: usize,
        options: SocketOptions,
    ) -> Result<ListenerId, TcpError> {
        self.check_local(addr.ip())?;
        let id = self.tcp.listen(addr, backlog, options)?;
        let port = self.tcp.listener_addr(id)?.port();
        self.net.open_port(Protocol::Tcp, port);
        Ok(id)
    }

    /// [`Tcp::close_listener`], with the port closed in the steering.
    ///
    /// # Errors
    /// The engine's.
    pub fn tcp_close_listener(&mut self, now: Instant, id: ListenerId) -> Result<(), TcpError> {
        let port = self.tcp.listener_addr(id)?.port();
        self.tcp.close_listener(now, id)?;
        self.net.close_port(Protocol::Tcp, port);
        Ok(())
    }

    /// [`Tcp::connect`]. Without a local address (or an unspecified one) the source is chosen by route (RFC 6724 section 5
    /// in short). The port is open in the steering until no connection has it any more.
    ///
    /// # Errors
    /// [`TcpError::NetworkUnreachable`] without a route, [`TcpError::AddrNotAvailable`] when the address is not ours,
    /// else the engine's.
    pub fn tcp_connect(
        &mut self,
        now: Instant,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        options: SocketOptions,
    ) -> Result<ConnId, TcpError> {
        let port = local.map_or(0, |local| local.port());
        let local = match local.map(|local| local.ip()).filter(|addr| !addr.is_unspecified()) {
            Some(addr) => {
                self.check_local(addr)?;
                addr
            }
            None => self.net.output.routes.source(remote.ip()).ok_or(TcpError::NetworkUnreachable)?,
        };
        if self.net.output.routes.next_hop(remote.ip()).is_none() {
            return Err(TcpError::NetworkUnreachable);
        }
        let id = self.tcp.connect(now, SocketAddr::new(local, port), remote, options)?;
        let port = self.tcp.tuple(id)?.local.port();
        if self.net.is_shared() && self.connect_ports.insert(port) {
            self.net.open_port(Protocol::Tcp, port);
        }
        Ok(id)
    }

    fn check_local(&self, addr: IpAddr) -> Result<(), TcpError> {
        let ours = addr.is_unspecified() || self.net.is_ours(addr);
        if ours { Ok(()) } else { Err(TcpError::AddrNotAvailable) }
    }

    /// Closes ports that were opened for connections which are gone, TIME-WAIT included. Only with addresses shared with
    /// the kernel, and rarely: it looks at every connection.
    fn sweep_ports(&mut self, now: Instant) {
        if self.connect_ports.is_empty() || now < self.sweep_at {
            return;
        }
        self.sweep_at = now + limits::STEERING_SWEEP_INTERVAL;
        let used: BTreeSet<u16> = self.tcp.connections().map(|(_, tuple, _)| tuple.local.port()).collect();
        let gone: Vec<u16> = self.connect_ports.difference(&used).copied().collect();
        for port in gone {
            self.connect_ports.remove(&port);
            self.net.close_port(Protocol::Tcp, port);
        }
    }

    // ---- UDP (smoltcp's sockets)

    /// Binds a socket; port 0 is chosen such that `port % count == index`.
    ///
    /// # Errors
    /// [`NetError::AddrNotAvailable`], [`NetError::AddrInUse`], [`NetError::TooManySockets`].
    pub fn udp_bind(&mut self, local: SocketAddr) -> Result<UdpId, NetError> {
        self.net.udp_bind(local)
    }

    /// The socket's address, with the port that was chosen.
    ///
    /// # Errors
    /// [`NetError::NotFound`].
    pub fn udp_local_addr(&self, id: UdpId) -> Result<SocketAddr, NetError> {
        self.net.udp_local_addr(id)
    }

    /// Queues a datagram; pending while the socket's buffer has no room for it.
    ///
    /// # Errors
    /// [`NetError::MessageTooLong`], [`NetError::NetworkUnreachable`], [`NetError::InvalidInput`],
    /// [`NetError::NotFound`].
    pub fn udp_poll_send_to(
        &mut self,
        id: UdpId,
        bytes: &[u8],
        remote: SocketAddr,
        waker: &Waker,
    ) -> Poll<Result<usize, NetError>> {
        self.net.udp_poll_send_to(id, bytes, remote, waker)
    }

    /// Takes a datagram, cut to `bytes` as recvfrom(2) does: length copied, sender.
    ///
    /// # Errors
    /// [`NetError::NotFound`].
    pub fn udp_poll_recv_from(
        &mut self,
        id: UdpId,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<(usize, SocketAddr), NetError>> {
        self.net.udp_poll_recv_from(id, bytes, waker)
    }

    /// Closes a socket; datagrams not yet sent are lost.
    pub fn udp_close(&mut self, id: UdpId) {
        self.net.udp_close(id);
    }

    // ---- ping

    /// A ping to `remote`, its identifier such that `ident % count == index`, so that replies find their shard. With
    /// addresses shared with the kernel the replies are the kernel's.
    ///
    /// # Errors
    /// [`NetError::TooManySockets`], [`NetError::InvalidInput`].
    pub fn ping_open(&mut self, remote: IpAddr) -> Result<PingId, NetError> {
        self.net.ping_open(remote)
    }

    /// Sends one echo request.
    ///
    /// # Errors
    /// [`NetError::MessageTooLong`], [`NetError::NetworkUnreachable`], [`NetError::InvalidInput`],
    /// [`NetError::NotFound`].
    pub fn ping_send(
        &mut self,
        id: PingId,
        seq: u16,
        payload: &[u8],
        hop_limit: Option<u8>,
    ) -> Result<(), NetError> {
        self.net.ping_send(id, seq, payload, hop_limit)
    }

    /// The next reply.
    ///
    /// # Errors
    /// [`NetError::NotFound`].
    pub fn ping_poll_recv(&mut self, id: PingId, waker: &Waker) -> Poll<Result<EchoReply, NetError>> {
        self.net.ping_poll_recv(id, waker)
    }

    /// Ends a ping; replies under way are ignored.
    pub fn ping_close(&mut self, id: PingId) {
        self.net.ping_close(id);
    }

    // ---- DNS (smoltcp's resolver)

    /// Starts to ask for the IPv6 or IPv4 addresses of `name`.
    ///
    /// # Errors
    /// [`NetError::NoNameServer`], [`NetError::TooManySockets`], [`NetError::InvalidInput`].
    pub fn dns_query(&mut self, name: &str, ipv6: bool) -> Result<DnsQueryId, NetError> {
        self.net.dns_query(name, ipv6)
    }

    /// The answer; the query is over once this is ready.
    ///
    /// # Errors
    /// [`NetError::NameNotFound`], [`NetError::NotFound`].
    pub fn dns_poll(&mut self, id: DnsQueryId, waker: &Waker) -> Poll<Result<Vec<IpAddr>, NetError>> {
        self.net.dns_poll(id, waker)
    }

    /// Gives a query up.
    pub fn dns_cancel(&mut self, id: DnsQueryId) {
        self.net.dns_cancel(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_walks_to_its_owner_and_then_to_every_other_shard_once() {
        for count in 1..5 {
            for origin in 0..count {
                for owner in 0..count {
                    let visited: Vec<u16> =
                        (0..).map_while(|steps| Walk { origin, owner, steps }.next(count)).collect();
                    let mut all = visited.clone();
                    all.push(origin);
                    all.sort_unstable();
                    assert_eq!(all, (0..count).collect::<Vec<_>>(), "from {origin} to {owner}");
                    assert!(owner == origin || visited[0] == owner);
                }
            }
        }
    }
}
