//! One queue's whole stack: [`Shard::poll`] runs the packet's journey once, from a burst in to a burst out.
//!
//! A shard shares nothing: it owns its TCP engine, its sockets, its neighbours and its backlog, and tells other shards of
//! the same interface what they must know over bounded channels ([`ShardLinks`]). It reads no clock and draws no randomness
//! but what the configuration's seed gives.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};
use smoltcp::wire::EthernetAddress;

mod advertise;
mod flows;
mod forward;
mod hairpin;
mod homes;
mod links;
mod receive;
mod rules;
mod sockets;
mod steering;
#[cfg(test)]
mod tests;
mod unsolicited;

pub use flows::NotTracked;
pub use links::ShardLinks;
pub use sockets::{DnsQueryId, EchoReply, NetError, PingId, UdpId};
pub use steering::SteeringChange;

use crate::config::{AddressUse, Cidr, ConfigError, ForwardConfig, Route, StackConfig};
use crate::counters::Counters;
use crate::device::{Device, Protocol};
use crate::limits;
use crate::listing::{Cursor, Listed};
use crate::net::dhcp::{Dhcp, Lease};
use crate::net::egress::{Output, mtu_in_frames};
use crate::net::fragment::FragmentIds;
use crate::net::host_gate::HostGate;
use crate::net::icmp;
use crate::net::iface::Iface;
use crate::net::link::Link;
pub use crate::net::link::LinkTraffic;
use crate::net::neighbor::Neighbors;
use crate::net::ping::{EchoRequest, Pings};
use crate::net::reassembly::Reassembly;
use crate::net::route::{Routes, link_local, router_link_local};
use crate::net::router_advert::Asker;
use crate::net::udp::{UdpFault, UdpTrouble};
use crate::net::way::RecentWays;
use crate::offload::gro::Gro;
use crate::packet::{PacketBatch, PacketPool, prefetch_front};
use crate::parse::{self, ALL_ROUTERS, Policy};
use crate::tcp::{ConnId, IcmpError, IcmpErrorKind, ListenerId, SocketOptions, Tcp, TcpError, Tuple};
use crate::time::Instant;
use homes::Homes;
use links::{Channels, Message};
use steering::SteeringBook;
use unsolicited::UnsolicitedSyns;

/// A link and what went over it.
#[derive(Clone, Debug)]
pub struct LinkState {
    /// Its name, as rules match it; empty where nobody gave it one.
    pub name: String,
    /// Its Ethernet address.
    pub mac: EthernetAddress,
    /// Its MTU in bytes.
    pub mtu: usize,
    /// Our addresses on it, with prefix lengths, DHCP's included.
    pub addresses: Vec<Cidr>,
    /// What went over it.
    pub traffic: LinkTraffic,
}

/// One queue's stack.
pub struct Shard {
    index: u16,
    count: u16,
    /// The addresses are ours alone: ARP, neighbour discovery, ping and closed ports are ours to answer.
    own: bool,
    config: Configured,
    /// What the parser must know, of each link. The addresses are the same in all: those of every link are ours.
    policies: Vec<Policy>,
    /// The link whose burst is being worked off.
    rx_link: usize,
    counters: Counters,
    tcp: Tcp,
    output: Output,
    iface: Iface,
    dhcp: Option<Dhcp>,
    /// The lease in use, this shard's or told by the first.
    lease: Option<Lease>,
    pings: Pings,
    echo_requests: VecDeque<EchoRequest>,
    /// When it was last polled: the time of calls that are given none.
    polled_at: Instant,
    reassembly: Reassembly,
    links: Channels,
    homes: Homes,
    unsolicited_syns: UnsolicitedSyns,
    steering: SteeringBook,
    pool: PacketPool,
    rx: PacketBatch,
    gro: Option<Gro>,
    scratch: Vec<u8>,
    /// Of the last good packet: those of one host and flow mostly come together, and what they share is looked at once.
    last_parsed: parse::Last,
    /// Who confirmed itself by data of late, by address, so that the neighbour table is seldom asked.
    last_data: [Option<receive::LastData>; receive::LAST_DATA],
    /// Of a router without rules.
    recent_ways: RecentWays,
    rng: ChaCha12Rng,
    /// Something could not be sent for want of room; how often to try again without being woken.
    blocked: bool,
}

/// What of the configuration is needed after the start.
struct Configured {
    /// With their links.
    addresses: Vec<(Cidr, usize)>,
    routes: Vec<Route>,
    dhcp_link: Option<usize>,
    /// As rules know them.
    link_names: Vec<String>,
    forward: Option<ForwardConfig>,
    dns_servers: Vec<IpAddr>,
}

impl Shard {
    /// Shard `index` of the `count` that serve one interface; `links` is one of [`Shard::links`]`(count)`. The addresses
    /// are in use at once; the device's pool gives the frames.
    ///
    /// # Errors
    /// What is wrong with the configuration, for this device.
    pub fn new(
        config: &StackConfig,
        index: u16,
        count: u16,
        links: ShardLinks,
        device: &dyn Device,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let (configured, links_there) = (config.further_links.len() + 1, device.links());
        if configured != links_there {
            return Err(ConfigError::LinkCount { config: configured, device: links_there });
        }
        let pool = device.pool().clone();
        let device_mtu = |link: usize| {
            let capabilities = device.capabilities_of(link);
            capabilities.mtu.min(mtu_in_frames(pool.layout(), capabilities.tx_frames_max))
        };
        config.validate(device_mtu(0))?;
        for (link, at) in config.further_links.iter().zip(1..) {
            link.validate_mtu(device_mtu(at))?;
        }
        let wishes = [config.mtu].into_iter().chain(config.further_links.iter().map(|link| link.mtu));
        let mtus: Vec<usize> =
            wishes.enumerate().map(|(link, wish)| wish.unwrap_or(usize::MAX).min(device_mtu(link))).collect();
        let mut shared = rng(config.seed, u64::MAX);
        let mut rng = rng(config.seed, u64::from(index));
        let out: Vec<Link> = mtus
            .into_iter()
            .enumerate()
            .map(|(link, mtu)| {
                Link::new(device.capabilities_of(link).mac, mtu, Neighbors::new(keys(&mut rng)))
            })
            .collect();
        // Of one source for all shards.
        let ids = FragmentIds::new(&mut self::rng(config.seed, u64::MAX - 1), index, count);
        let mut output = Output::new(out, config.gso, pool.clone(), ids, now);
        let tcp = Tcp::new(config.tcp.clone(), config.seed, index, count.max(1));
        output.is_router = config.forward.is_some();
        output.gate = config.filter.as_ref().map(|filter| {
            let mut gate_seed = [0; 32];
            shared.fill_bytes(&mut gate_seed);
            Box::new(HostGate::new(filter, config, gate_seed, tcp.hash_keys(), index, count.max(1), now))
        });
        let homes = Homes::new(keys(&mut shared));
        let iface = Iface::new(rng.next_u64(), now, &mut output);
        let dhcp_link = config.dhcp_link();
        let dhcp =
            dhcp_link.filter(|_| index == 0).map(|link| Dhcp::new(link, rng.next_u64(), now, &mut output));
        let policy = |link: usize| Policy {
            mac: device.capabilities_of(link).mac,
            addresses: Vec::new(),
            groups: if config.forward.is_some() { vec![ALL_ROUTERS.into()] } else { Vec::new() },
            partial_checksums: config
                .partial_checksums
                .accepts(device.capabilities_of(link).partial_checksums),
            forwarding: config.forward.is_some(),
            dhcp: dhcp_link == Some(link),
            hash_keys: tcp.hash_keys(),
        };
        let mut shard = Self {
            index,
            count: count.max(1),
            own: config.address_use == AddressUse::Own,
            config: Configured {
                addresses: with_link_local(config, device),
                routes: config.routes.clone(),
                dhcp_link,
                link_names: config.link_names(),
                forward: config.forward.clone(),
                dns_servers: config.dns_servers.clone(),
            },
            policies: (0..links_there).map(policy).collect(),
            rx_link: 0,
            counters: Counters::default(),
            tcp,
            output,
            iface,
            dhcp,
            lease: None,
            pings: Pings::new(rng.next_u32() as u16),
            echo_requests: VecDeque::new(),
            polled_at: now,
            reassembly: Reassembly::default(),
            links: Channels::new(links),
            homes,
            unsolicited_syns: UnsolicitedSyns::new(keys(&mut shared)),
            steering: SteeringBook::default(),
            pool,
            rx: PacketBatch::new(),
            gro: config.gro.then(Gro::default),
            scratch: Vec::new(),
            last_parsed: parse::Last::default(),
            last_data: [None; receive::LAST_DATA],
            recent_ways: RecentWays::default(),
            rng,
            blocked: false,
        };
        if dhcp_link.is_some() {
            shard.steering.open(Protocol::Udp, receive::DHCP_CLIENT_PORT);
        }
        shard.use_addresses();
        shard.begin_advertising(now);
        Ok(shard)
    }

    /// The bounded channels between `count` shards of one interface: one end for each shard, in order.
    #[must_use]
    pub fn links(count: u16) -> Vec<ShardLinks> {
        links::mesh(count)
    }

    /// Runs the journey once: a burst in, timers, a burst out. Returns whether anything was done (then poll again at once).
    pub fn poll(&mut self, now: Instant, device: &mut dyn Device) -> bool {
        let busy = self.poll_receive(now, device);
        self.poll_transmit(now, device) | busy
    }

    /// The journey's first half: a burst in, and timers. Returns whether anything was done.
    ///
    /// [`Shard::poll_transmit`] must follow at the same time. What runs in between, the tasks that the burst woke, answers
    /// before acknowledgments are sent, so that these ride on the answers.
    pub fn poll_receive(&mut self, now: Instant, device: &mut dyn Device) -> bool {
        self.polled_at = now;
        let mut busy = !self.links.is_alone() && self.take_messages(now, limits::SHARD_MESSAGES_PER_POLL);

        // A burst in. Each packet: parse -> tunnel -> steer -> GRO -> filter/conntrack/NAT -> local or forward. Tunnels,
        // steering by hash, filters and forwarding have their places in `receive`, in this order.
        for link in 0..self.policies.len() {
            self.rx_link = link;
            self.last_parsed.forget();
            if device.receive_on(link, &mut self.rx, limits::BURST_PACKETS) == 0 && self.rx.is_empty() {
                continue;
            }
            busy = true;
            let packets = self.rx.len() as u64;
            if packets > 1 {
                // The headers of all are on their way from memory while the first ones are read.
                for packet in &self.rx {
                    prefetch_front(packet.head(), limits::PREFETCHED_HEADERS);
                }
            }
            if packets > 0 && self.count > 1 && self.config.forward.is_some() {
                // Whose the flows are that these packets answer may have been told since the turn began.
                self.take_messages(now, self.links.waiting());
                self.rx_link = link;
            }
            // One packet alone has nothing to be merged with.
            let merging = self.gro.is_some() && packets > 1;
            let mut bytes = 0;
            while let Some(packet) = self.rx.pop_front() {
                bytes += packet.len() as u64;
                self.receive(now, packet, merging);
            }
            self.counters.rx_packets += packets;
            self.counters.rx_bytes += bytes;
            let traffic = &mut self.output.links[link].traffic;
            traffic.rx_packets += packets;
            traffic.rx_bytes += bytes;
            if !merging {
                // Nothing waits to be merged.
                continue;
            }
            if let Some(gro) = &mut self.gro {
                self.tcp.look_ahead(gro.hashes());
            }
            while let Some(packet) = self.gro.as_mut().and_then(Gro::pop) {
                self.tcp.step_ahead();
                self.dispatch_merged(now, packet);
            }
        }

        self.poll_timers(now);
        busy
    }

    /// The journey's second half: a burst out. Returns whether anything was done.
    pub fn poll_transmit(&mut self, now: Instant, device: &mut dyn Device) -> bool {
        self.polled_at = now;
        // What sockets, TCP and ARP have to say. What TCP sends goes filter -> route and neighbour -> tunnel -> qdisc -> GSO; of
        // these, `net::egress` has routes, neighbours and GSO.
        while let Some(request) = self.echo_requests.pop_front() {
            request.send(now, &mut self.output);
        }
        self.iface.poll(now, &mut self.output);
        self.tcp.transmit(now, &mut self.output, &mut self.counters);
        if self.count > 1 {
            for news in self.tcp.take_fastopen_news() {
                self.tell_others(&Message::FastOpen(news));
            }
        }
        if self.output.links.iter().any(|link| link.is_due(now)) {
            self.ask_neighbors(now);
            self.output.announce_addresses(now);
            self.output.advertise(now, &mut self.rng);
        }
        // A port that was opened just now must be steered before its first packet may be answered.
        let steered = self.follow_name_queries();
        self.tell_homes();
        let busy = steered || self.output.flush(device);
        self.blocked = self.output.is_blocked();

        self.steering.forget_closed(&self.tcp);
        self.counters.take_over(&mut self.output.counters);
        busy
    }

    /// When [`Shard::poll`] is next needed if no packet arrives and no other call is made; not later than `now`: at once.
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let net = [
            self.output.links.iter().filter_map(Link::next_deadline).min(),
            self.output.gate.as_ref().and_then(|gate| gate.next_deadline()),
            self.reassembly.next_deadline(),
            self.unsolicited_syns.next_deadline(),
            self.dhcp.as_mut().and_then(|dhcp| dhcp.next_deadline(now)),
            (self.links.owes() || self.homes.owes()).then_some(now + limits::TX_RETRY_INTERVAL),
            (!self.echo_requests.is_empty()).then_some(now),
            // Put there by a call since the last poll.
            (!self.blocked && self.output.is_waiting()).then_some(now),
        ];
        // These are due at once while something waits to be sent. When the device has no room, they wait with it.
        let retry = if self.blocked { now + limits::TX_RETRY_INTERVAL } else { Instant::ZERO };
        let senders = [self.tcp.next_deadline(), self.iface.next_deadline(now)];
        let senders = senders.into_iter().flatten().map(|at| at.max(retry));
        let waiting = self.blocked.then_some(retry);
        net.into_iter().flatten().chain(senders).chain(waiting).min()
    }

    /// `notify` is called with a shard's number after a message was sent to it, from this shard's thread.
    pub fn set_notify(&mut self, notify: Box<dyn Fn(u16)>) {
        self.links.notify = Some(notify);
    }

    /// What has changed since the last call in what the steering must let through, in order.
    pub fn take_steering_changes(&mut self) -> Vec<SteeringChange> {
        self.steering.take()
    }

    /// Everything counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The TCP engine, for calls that need neither routes nor steering.
    pub fn tcp(&mut self) -> &mut Tcp {
        &mut self.tcp
    }

    /// The TCP engine, to look at.
    #[must_use]
    pub fn tcp_ref(&self) -> &Tcp {
        &self.tcp
    }

    /// Lists the sockets at the next `places` places from `cursor` on; see [`crate::listing`]. O(places), and UDP sockets all
    /// at once, of which there are few.
    pub fn list_sockets(&self, now: Instant, cursor: &mut Cursor, places: u32) -> Vec<Listed> {
        let mut listed = Vec::new();
        self.tcp.list(now, cursor, places, &mut listed);
        if cursor.table == Cursor::UDP {
            self.iface.udp_list(&mut listed);
            cursor.table = Cursor::TABLES;
        }
        listed
    }

    /// Our addresses at present with their prefix lengths, DHCP's included.
    #[must_use]
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        self.policies[0].addresses.iter().map(|cidr| (cidr.addr, cidr.prefix_len)).collect()
    }

    /// The links with what went over them, the first first.
    #[must_use]
    pub fn links_state(&self) -> Vec<LinkState> {
        let state = |(at, link): (usize, &Link)| LinkState {
            name: self.config.link_names[at].clone(),
            mac: link.mac,
            mtu: link.mtu,
            addresses: self.output.routes.addresses_on(at),
            traffic: link.traffic,
        };
        self.output.links.iter().enumerate().map(state).collect()
    }

    /// `None`: DHCP is off; else whether there is a lease.
    #[must_use]
    pub fn dhcp_configured(&self) -> Option<bool> {
        self.config.dhcp_link.map(|_| self.lease.is_some())
    }

    /// Listens on `addr` (an unspecified address: all of ours of that family) and steers the port to the stack.
    ///
    /// # Errors
    /// `AddrNotAvailable` for an address that is not ours, else the engine's.
    pub fn tcp_listen(
        &mut self,
        addr: SocketAddr,
        backlog: usize,
        options: SocketOptions,
    ) -> Result<ListenerId, TcpError> {
        if !addr.ip().is_unspecified() && !self.policies[0].is_ours(addr.ip()) {
            return Err(TcpError::AddrNotAvailable);
        }
        let id = self.tcp.listen(addr, backlog, options)?;
        self.steering.open(Protocol::Tcp, self.tcp.listener_addr(id)?.port());
        Ok(id)
    }

    /// Stops listening; connections not yet accepted are reset.
    ///
    /// # Errors
    /// `NotConnected` for a listener that is gone.
    pub fn tcp_close_listener(&mut self, now: Instant, id: ListenerId) -> Result<(), TcpError> {
        let port = self.tcp.listener_addr(id)?.port();
        self.tcp.close_listener(now, id)?;
        // Connections accepted earlier still need the port: it stays open for them.
        self.steering.close_listener(port, &self.tcp);
        Ok(())
    }

    /// Opens a connection. Without `local` (or with an unspecified address) the source is chosen by route (RFC 6724 in
    /// short); the local port is steered to the stack until the connection is gone.
    ///
    /// # Errors
    /// `InvalidInput` for a remote address that is no host's, `AddrNotAvailable` for a local one that is not ours,
    /// `NetworkUnreachable` without a route, else the engine's.
    pub fn tcp_connect(
        &mut self,
        now: Instant,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        options: SocketOptions,
    ) -> Result<ConnId, TcpError> {
        self.tcp_open(local, remote, |tcp, local| tcp.connect(now, local, remote, options))
    }

    /// As [`Shard::tcp_connect`], with `bytes` in the SYN where Fast Open allows (see [`Tcp::connect_with_data`]); also
    /// returns how many bytes were taken.
    ///
    /// # Errors
    /// As [`Shard::tcp_connect`].
    pub fn tcp_connect_with_data(
        &mut self,
        now: Instant,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        options: SocketOptions,
        bytes: &[u8],
    ) -> Result<(ConnId, usize), TcpError> {
        let mut taken = 0;
        let id = self.tcp_open(local, remote, |tcp, local| {
            let (id, len) = tcp.connect_with_data(now, local, remote, options, bytes)?;
            taken = len;
            Ok(id)
        })?;
        Ok((id, taken))
    }

    fn tcp_open(
        &mut self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        open: impl FnOnce(&mut Tcp, SocketAddr) -> Result<ConnId, TcpError>,
    ) -> Result<ConnId, TcpError> {
        let group = match remote.ip() {
            IpAddr::V4(addr) => addr.is_multicast() || self.policies[0].is_broadcast(addr),
            IpAddr::V6(addr) => addr.is_multicast(),
        };
        if group || remote.ip().is_unspecified() || remote.port() == 0 {
            return Err(TcpError::InvalidInput);
        }
        let source = self.output.routes.source(remote.ip()).ok_or(TcpError::NetworkUnreachable)?;
        let local = match local {
            None => SocketAddr::new(source, 0),
            Some(local) if local.is_ipv4() != remote.is_ipv4() => return Err(TcpError::InvalidInput),
            Some(local) if local.ip().is_unspecified() => SocketAddr::new(source, local.port()),
            Some(local) if self.policies[0].is_ours(local.ip()) => local,
            Some(_) => return Err(TcpError::AddrNotAvailable),
        };
        let id = open(&mut self.tcp, local)?;
        // An address of our own is steered whole.
        if !self.own {
            self.steering.open_while_connected(self.tcp.tuple(id)?);
        }
        Ok(id)
    }

    #[inline]
    fn poll_timers(&mut self, now: Instant) {
        self.expire_fragments(now);
        self.poll_dhcp(now);
        self.output.expire_path_mtus(now);
        self.links.settle(self.lease.as_ref());
        self.tcp.poll_timers(now, &mut self.counters);
        if let Some(gate) = &mut self.output.gate {
            gate.advance(now);
        }
        self.answer_unsolicited(now);
    }

    /// Asks for the neighbours that packets wait for; tells TCP and UDP of those that do not answer.
    fn ask_neighbors(&mut self, now: Instant) {
        let mut failed = Vec::new();
        self.output.poll_neighbors(now, &mut failed);
        for packet in failed {
            let quote = &packet.head()[crate::net::egress::ETHERNET_HEADER..];
            match icmp::sender_of(quote) {
                Some(icmp::Sender::Tcp(tuple, seq)) if self.tcp.knows(&tuple) => {
                    let error = IcmpError { tuple, seq, kind: IcmpErrorKind::NeighborFailed };
                    self.tcp.icmp_error(now, &error, &mut self.counters);
                }
                Some(icmp::Sender::Udp(Tuple { local, remote })) => {
                    let what = UdpTrouble::Error(NetError::HostUnreachable);
                    if !self.iface.udp_fault(&UdpFault { local, remote, what }) {
                        self.tell_of_unreachable(now, &packet);
                    }
                }
                _ => self.tell_of_unreachable(now, &packet),
            }
        }
    }

    fn poll_dhcp(&mut self, now: Instant) {
        let Some(dhcp) = &mut self.dhcp else { return };
        if dhcp.poll(now, &mut self.output) {
            let lease = dhcp.lease().cloned();
            self.links.owe_lease();
            self.use_lease(lease);
        }
    }

    /// Takes over a lease, or gives it up.
    fn use_lease(&mut self, lease: Option<Lease>) {
        match &lease {
            _ if self.index != 0 => {} // told by the first shard
            Some(lease) => tracing::info!("DHCP lease: {lease}"),
            None => tracing::warn!("the DHCP lease is over: no address until a server answers"),
        }
        self.lease = lease;
        self.use_addresses();
    }

    /// Puts the configured and the leased addresses, routes and name servers to use.
    fn use_addresses(&mut self) {
        let lease = self.lease.as_ref();
        let dhcp_link = self.config.dhcp_link;
        let mut addresses = self.config.addresses.clone();
        addresses.extend(lease.map(|lease| (lease.address, dhcp_link.unwrap_or(0))));
        let mut routes = self.config.routes.clone();
        // RFC 4787 REQ-7: the configured addresses come first, and their networks stay theirs if the leased one has the same
        // numbers; the leased router is on its own link all the same.
        routes.extend(lease.and_then(|lease| lease.router).map(|router| Route {
            destination: Cidr { addr: IpAddr::from([0, 0, 0, 0]), prefix_len: 0 },
            gateway: router.into(),
            link: dhcp_link,
        }));
        let cidrs: Vec<Cidr> = addresses.iter().map(|(cidr, _)| *cidr).collect();
        if self.own {
            let old: Vec<IpAddr> = self.policies[0].addresses.iter().map(|cidr| cidr.addr).collect();
            let new: Vec<IpAddr> = cidrs.iter().map(|cidr| cidr.addr).collect();
            self.steering.own(&old, &new);
            // One voice for all queues: they have one Ethernet address.
            if self.index == 0 {
                let delay = limits::ADDRESS_PROBE_DELAY / 256 * (self.rng.next_u32() & 0xff);
                for (at, link) in self.output.links.iter_mut().enumerate() {
                    let here = addresses.iter().filter(|(_, on)| *on == at);
                    let here: Vec<IpAddr> = here.map(|(cidr, _)| cidr.addr).collect();
                    link.announcer.use_addresses(self.polled_at, &old, &here, delay);
                }
            }
        }
        if let Some(gate) = &mut self.output.gate {
            let gone =
                self.policies[0].addresses.iter().filter(|old| !cidrs.iter().any(|new| new.addr == old.addr));
            gone.for_each(|old| gate.forget_address(old.addr));
            gate.set_addresses(&cidrs);
        }
        self.iface.set_addresses(&cidrs, self.own);
        self.iface.set_dns_servers(&self.dns_servers());
        self.output.set_routes(Routes::new(addresses, routes));
        self.policies.iter_mut().for_each(|policy| policy.addresses.clone_from(&cidrs));
        self.last_parsed.forget();
    }

    /// The name servers in use: the configured ones, then the lease's, as many as fit.
    fn dns_servers(&self) -> Vec<IpAddr> {
        let leased = self.lease.iter().flat_map(|lease| &lease.dns_servers);
        self.config.dns_servers.iter().chain(leased).copied().take(limits::DNS_SERVERS).collect()
    }

    /// Steers the ports that name server queries have chosen; returns whether one was opened.
    fn follow_name_queries(&mut self) -> bool {
        self.steering.follow(self.iface.dns_ports())
    }

    fn take_messages(&mut self, now: Instant, most: usize) -> bool {
        let mut taken = 0;
        while taken < most
            && let Some(message) = self.links.next()
        {
            taken += 1;
            match message {
                Message::Packet { visit, link, bytes, parsed } => {
                    self.rx_link = link;
                    self.take_over(now, visit, &bytes, parsed);
                    self.links.give_back(bytes);
                }
                Message::Handed(handed) => self.take_handed(now, handed),
                Message::Unsolicited { link, bytes, parsed } => {
                    self.take_unsolicited(now, link, bytes, parsed);
                }
                Message::Flow(news) => self.homes.hear(news),
                Message::Neighbor(heard) => self.output.heard(now, heard),
                Message::IcmpError(visit, error) => self.icmp_error(now, visit, &error),
                Message::UdpFault(visit, fault) => self.udp_fault(visit, &fault),
                Message::RouterAsked(link) => self.router_asked(now, link, Asker::All),
                Message::Lease(lease) => self.use_lease(lease),
                Message::PathMtu(told) => {
                    self.output.learn_path_mtu(now, told);
                }
                Message::FastOpen(news) => self.tcp.hear_of_fastopen(now, &news),
            }
        }
        taken > 0
    }
}

/// A stream of random numbers of its own for each `stream`.
fn rng(seed: [u8; 32], stream: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::from_seed(seed);
    rng.set_stream(stream);
    rng
}

fn keys(rng: &mut ChaCha12Rng) -> (u64, u64) {
    (rng.next_u64(), rng.next_u64())
}

/// The configured addresses, and a link-local one when IPv6 needs it (RFC 4291 section 2.8).
fn with_link_local(config: &StackConfig, device: &dyn Device) -> Vec<(Cidr, usize)> {
    let is_link_local = |cidr: &Cidr| matches!(cidr.addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    let mut all = Vec::new();
    for link in 0..device.links() {
        let here: Vec<Cidr> =
            config.all_addresses().filter(|(_, on)| *on == link).map(|(cidr, _)| cidr).collect();
        let needed = here.iter().any(|cidr| cidr.addr.is_ipv6()) && !here.iter().any(is_link_local);
        let make = if config.forward.is_some() { router_link_local } else { link_local };
        let generated = needed.then(|| make(device.capabilities_of(link).mac));
        all.extend(here.into_iter().chain(generated).map(|cidr| (cidr, link)));
    }
    all
}
