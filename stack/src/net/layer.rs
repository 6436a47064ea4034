//! The network layer of one shard: takes received packets after [`crate::parse`] to whom they are for, and drives
//! everything that has timers or something to send. TCP's segments are only passed through; the shard owns the engine.

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};
use std::collections::BTreeMap;

use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};
use smoltcp::wire::{EthernetAddress, EthernetFrame};

use super::dhcp::{Dhcp, Lease};
use super::egress::{ETHERNET_HEADER, Output, mtu_in_frames};
use super::fragment::FragmentIds;
use super::icmp::{self, Complaint};
use super::iface::Iface;
use super::neighbor::{Claim, Neighbors};
use super::ping::Pings;
use super::reassembly::{Outcome, Reassembly};
use super::route::{Routes, link_local};
use super::{Heard, arp, ndp};
use crate::config::{AddressUse, Cidr, ConfigError, PartialChecksums, Route, StackConfig};
use crate::counters::DropReason;
use crate::device::{Device, Protocol};
use crate::packet::Packet;
use crate::parse::{Kind, Parsed, Policy, Refusal, parse, protocol};
use crate::shard::{DnsQueryId, EchoReply, NetError, PingId, SteeringChange, UdpId};
use crate::tcp;
use crate::time::Instant;

/// Ports chosen for UDP sockets that name none (RFC 6335 section 6).
const EPHEMERAL: core::ops::RangeInclusive<u16> = 49_152..=65_535;
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
/// Multicast listener query (RFC 3810 section 5.1).
const MLD_QUERY: u8 = 130;
const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];

/// What became of a received packet.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is done with, or dropped and counted.
    Done,
    /// A segment for the TCP engine.
    Tcp(Packet),
    /// An ICMP error for the TCP engine.
    TcpError(tcp::IcmpError),
    /// Nobody of this shard waits for it: another one may, `owner` first.
    Elsewhere { packet: Packet, owner: u16 },
}

/// What other shards should know.
#[derive(Clone, Debug)]
pub(crate) enum News {
    Heard(Heard),
    Lease(Option<Lease>),
}

/// How a packet came to this shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    /// From this shard's queue, rather than from another shard.
    pub(crate) queue: bool,
    /// No other shard is left to ask.
    pub(crate) last: bool,
}

pub(crate) struct Net {
    pub(crate) output: Output,
    policy: Policy,
    iface: Iface,
    pings: Pings,
    dhcp: Option<Dhcp>,
    lease: Option<Lease>,
    reassembly: Reassembly,
    settings: Settings,
    rng: ChaCha12Rng,
    shard: u16,
    shards: u16,
    /// When it was last polled: what user calls without a time of their own take as the present.
    now: Instant,
    /// A user call left something in the backlog.
    urgent: bool,
    steering: Vec<SteeringChange>,
    /// How often each port is open.
    ports: BTreeMap<(bool, u16), u32>,
    /// Ports open for answers of name servers.
    dns_ports: Vec<u16>,
    news: Vec<News>,
    failed: Vec<Packet>,
}

/// The part of the configuration that is needed again when a lease comes or goes.
struct Settings {
    addresses: Vec<Cidr>,
    routes: Vec<Route>,
    dns_servers: Vec<IpAddr>,
    own: bool,
    dhcp: bool,
}

impl Net {
    pub(crate) fn new(
        config: &StackConfig,
        shard: u16,
        shards: u16,
        device: &dyn Device,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let capabilities = device.capabilities();
        let pool = device.pool().clone();
        let device_mtu = capabilities.mtu.min(mtu_in_frames(pool.layout(), capabilities.tx_frames_max));
        config.validate(device_mtu)?;
        let mtu = config.mtu.unwrap_or(device_mtu).min(usize::from(u16::MAX));

        // The first numbers are the same on all shards, the rest each shard's own.
        let mut rng = ChaCha12Rng::from_seed(config.seed);
        let hash_keys = (rng.next_u64(), rng.next_u64());
        let id_keys = (rng.next_u64(), rng.next_u64());
        rng.set_stream(u64::from(shard) + 1);
        let neighbors = Neighbors::new((rng.next_u64(), rng.next_u64()));
        let ids = FragmentIds::new(&mut rng, id_keys, shard, shards);
        let mut output = Output::new(capabilities.mac, mtu, pool, neighbors, ids, now);

        let own = config.address_use == AddressUse::Own;
        let partial_checksums = match config.partial_checksums {
            PartialChecksums::Auto => capabilities.partial_checksums,
            PartialChecksums::Accept => true,
            PartialChecksums::Refuse => false,
        };
        let policy = Policy {
            mac: capabilities.mac,
            addresses: Vec::new(),
            groups: Vec::new(),
            partial_checksums,
            dhcp: config.dhcp,
            hash_keys,
        };
        let iface = Iface::new(rng.next_u64(), now, &mut output);
        let dhcp = (config.dhcp && shard == 0).then(|| Dhcp::new(rng.next_u64(), now, &mut output));
        let mut net = Self {
            output,
            policy,
            iface,
            pings: Pings::new(rng.next_u32() as u16),
            dhcp,
            lease: None,
            reassembly: Reassembly::default(),
            settings: Settings {
                addresses: static_addresses(config, capabilities.mac),
                routes: config.routes.clone(),
                dns_servers: config.dns_servers.clone(),
                own,
                dhcp: config.dhcp,
            },
            rng,
            shard,
            shards: shards.max(1),
            now,
            urgent: false,
            steering: Vec::new(),
            ports: BTreeMap::new(),
            dns_ports: Vec::new(),
            news: Vec::new(),
            failed: Vec::new(),
        };
        if net.dhcp.is_some() {
            // Answers come before there is an address, to the broadcast address or the one offered.
            net.steering.push(SteeringChange::OpenPort(Protocol::Udp, DHCP_CLIENT));
        }
        net.configure(None);
        Ok(net)
    }

    // ---- the packet's path

    /// Takes in a packet.
    pub(crate) fn receive(&mut self, now: Instant, mut packet: Packet, origin: Origin) -> Taken {
        match parse(&packet, &self.policy) {
            Ok(parsed) => packet.parsed = parsed,
            Err(refusal) => {
                self.refuse(now, &packet, refusal);
                return Taken::Done;
            }
        }
        self.output.counters.rx_partial_checksums += u64::from(packet.parsed.partial_checksum);
        match packet.parsed.kind {
            Kind::Fragment => self.fragment(now, &packet, origin),
            _ => self.dispatch(now, packet, origin, false),
        }
    }

    fn dispatch(&mut self, now: Instant, packet: Packet, origin: Origin, reassembled: bool) -> Taken {
        match packet.parsed.kind {
            Kind::Tcp => Taken::Tcp(packet),
            Kind::Udp => self.udp(now, packet, origin),
            Kind::Icmpv4 | Kind::Icmpv6 => self.icmp(now, packet, origin, reassembled),
            Kind::Arp => {
                let end = packet.parsed.end as usize;
                let bytes = &packet.head()[ETHERNET_HEADER..end];
                let heard = arp::receive(now, bytes, &self.policy, self.settings.own, &mut self.output);
                self.tell(heard, origin);
                Taken::Done
            }
            Kind::Other => {
                self.other(now, &packet);
                Taken::Done
            }
            Kind::Fragment | Kind::Unparsed => {
                self.output.counters.drop(DropReason::BadFragment);
                Taken::Done
            }
        }
    }

    fn refuse(&mut self, now: Instant, packet: &Packet, refusal: Refusal) {
        self.output.counters.drop(refusal.reason);
        if let Some(problem) = refusal.answer.filter(|_| self.settings.own) {
            let complaint = Complaint::Parameter(problem);
            icmp::complain_about(now, complaint, packet, &self.policy, &mut self.output);
        }
    }

    fn fragment(&mut self, now: Instant, packet: &Packet, origin: Origin) -> Taken {
        self.output.counters.fragments_rx += 1;
        let counters = &mut self.output.counters;
        let frame = match self.reassembly.receive(now, packet, &mut |reason| counters.drop(reason)) {
            Outcome::Waiting => return Taken::Done,
            Outcome::Refused(refusal) => {
                self.refuse(now, packet, refusal);
                return Taken::Done;
            }
            Outcome::Whole(frame) => frame,
        };
        self.output.counters.reassembled += 1;
        let Some(mut whole) = self.output.copy_packet(&frame) else { return Taken::Done };
        match parse(&whole, &self.policy) {
            Ok(parsed) => whole.parsed = parsed,
            Err(refusal) => {
                self.refuse(now, &whole, refusal);
                return Taken::Done;
            }
        }
        self.dispatch(now, whole, origin, true)
    }

    fn udp(&mut self, now: Instant, packet: Packet, origin: Origin) -> Taken {
        let flow = packet.parsed.flow;
        if self.settings.dhcp && (flow.src_port, flow.dst_port) == (DHCP_SERVER, DHCP_CLIENT) {
            let Some(dhcp) = &mut self.dhcp else { return Taken::Elsewhere { packet, owner: 0 } };
            self.output.counters.udp_rx += 1;
            dhcp.receive(now, &bytes_of(&packet, 0), &mut self.output);
            return Taken::Done;
        }
        let unicast = self.policy.is_ours(flow.dst);
        if self.iface.udp_takes(flow.dst, flow.dst_port, unicast) {
            self.learn_from_data(now, &packet, origin);
            let ip = bytes_of(&packet, usize::from(packet.parsed.l3));
            self.iface.udp_receive(now, &packet.parsed, unicast, &ip, &mut self.output);
            return Taken::Done;
        }
        if unicast && !origin.last {
            return Taken::Elsewhere { packet, owner: flow.dst_port % self.shards };
        }
        self.output.counters.drop(DropReason::UdpNoSocket);
        if unicast && self.settings.own {
            icmp::complain_about(now, Complaint::PortUnreachable, &packet, &self.policy, &mut self.output);
        }
        Taken::Done
    }

    fn icmp(&mut self, now: Instant, packet: Packet, origin: Origin, reassembled: bool) -> Taken {
        let Parsed { l4, flow, hop_limit, .. } = packet.parsed;
        let ipv6 = packet.parsed.kind == Kind::Icmpv6;
        let message = bytes_of(&packet, usize::from(l4));
        let Some(&kind) = message.first() else { return Taken::Done };
        self.output.counters.icmp_rx += 1;
        if ipv6 && ndp::is_ndp(kind) {
            self.ndp(now, &packet, &message, origin, reassembled);
        } else if icmp::is_error(ipv6, kind) {
            self.output.counters.icmp_errors_rx += 1;
            match icmp::read_error(ipv6, &message, &self.policy) {
                icmp::Received::Tcp(tuple, seq, kind) => {
                    return Taken::TcpError(tcp::IcmpError { tuple, seq, kind });
                }
                icmp::Received::Ignored => self.output.counters.drop(DropReason::IcmpIgnored),
                icmp::Received::Malformed => self.output.counters.drop(DropReason::BadIcmp),
            }
        } else if kind == ECHO_REPLY[usize::from(ipv6)] {
            if !self.pings.receive(flow.src, hop_limit, &message, &mut self.output.counters) {
                let owner = u16::from_be_bytes([message[4], message[5]]) % self.shards;
                if origin.queue && owner != self.shard {
                    return Taken::Elsewhere { packet, owner };
                }
                self.output.counters.drop(DropReason::IcmpIgnored);
            }
        } else if kind == ECHO_REQUEST[usize::from(ipv6)] {
            // RFC 1122 section 3.2.2.6: requests to a group may be ignored, and are, for what they are abused for.
            if !self.settings.own || !self.policy.is_ours(flow.dst) {
                self.output.counters.drop(DropReason::IcmpIgnored);
            } else if self.output.may_send_icmp(now) {
                self.learn_from_data(now, &packet, origin);
                self.iface.receive(now, &bytes_of(&packet, usize::from(packet.parsed.l3)), &mut self.output);
            }
        } else if ipv6 && kind == MLD_QUERY && self.settings.own {
            self.iface.receive(now, &bytes_of(&packet, usize::from(packet.parsed.l3)), &mut self.output);
        } else {
            self.output.counters.drop(DropReason::IcmpIgnored);
        }
        Taken::Done
    }

    fn ndp(&mut self, now: Instant, packet: &Packet, message: &[u8], origin: Origin, reassembled: bool) {
        let flow = &packet.parsed.flow;
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (flow.src, flow.dst) else { return };
        // RFC 6980 section 5: neighbour discovery is never fragmented.
        if reassembled {
            return self.output.counters.drop(DropReason::BadNeighborDiscovery);
        }
        let message = ndp::Message {
            src,
            dst,
            hop_limit: packet.parsed.hop_limit,
            from: source_mac(packet),
            bytes: message,
        };
        let heard = ndp::receive(now, message, &self.policy, self.settings.own, &mut self.output);
        self.tell(heard, origin);
    }

    fn other(&mut self, now: Instant, packet: &Packet) {
        let parsed = &packet.parsed;
        match parsed.flow.protocol {
            protocol::IGMP if parsed.flow.dst.is_ipv4() && self.settings.own => {
                self.iface.receive(now, &bytes_of(packet, usize::from(parsed.l3)), &mut self.output);
            }
            protocol::IGMP | protocol::NO_NEXT_HEADER => {
                self.output.counters.drop(DropReason::UnknownProtocol);
            }
            _ => {
                self.output.counters.drop(DropReason::UnknownProtocol);
                if self.settings.own && self.policy.is_ours(parsed.flow.dst) {
                    let complaint = Complaint::ProtocolUnreachable(next_header_field(packet));
                    icmp::complain_about(now, complaint, packet, &self.policy, &mut self.output);
                }
            }
        }
    }

    /// Lets the table know that a neighbour is there; for what is answered at once, so that the answer need not wait.
    fn learn_from_data(&mut self, now: Instant, packet: &Packet, origin: Origin) {
        let (addr, mac) = (packet.parsed.flow.src, source_mac(packet));
        if origin.queue && self.output.routes.is_on_link(addr) && mac != self.output.mac {
            self.output.heard(now, Heard { addr, mac, claim: Claim::Data });
        }
    }

    fn tell(&mut self, heard: Option<Heard>, origin: Origin) {
        if let Some(heard) = heard.filter(|_| origin.queue && self.shards > 1) {
            self.news.push(News::Heard(heard));
        }
    }

    // ---- what other shards say

    pub(crate) fn learn(&mut self, now: Instant, news: News) {
        match news {
            News::Heard(heard) => self.output.heard(now, heard),
            News::Lease(lease) => self.configure(lease),
        }
    }

    pub(crate) fn take_news(&mut self) -> Vec<News> {
        core::mem::take(&mut self.news)
    }

    // ---- time

    /// Sends what is due below TCP. Neighbours that did not answer make errors for the engine.
    pub(crate) fn poll(&mut self, now: Instant, errors: &mut Vec<tcp::IcmpError>) {
        self.now = now;
        self.urgent = false;
        while let Some(first) = self.reassembly.expire(now) {
            self.output.counters.drop(DropReason::FragmentTimeout);
            if let Some(first) = first.filter(|_| self.settings.own) {
                let complaint = Complaint::ReassemblyTimeout;
                icmp::complain(now, complaint, &first, &self.policy, &mut self.output);
            }
        }
        if let Some(dhcp) = &mut self.dhcp
            && dhcp.poll(now, &mut self.output)
        {
            let lease = dhcp.lease().cloned();
            self.news.push(News::Lease(lease.clone()));
            self.configure(lease);
        }
        self.iface.poll(now, &mut self.output);
        self.steer_queries();
        self.poll_neighbors(now, errors);
    }

    /// Asks for neighbours; the part of [`Net::poll`] that is due again after TCP has sent.
    pub(crate) fn poll_neighbors(&mut self, now: Instant, errors: &mut Vec<tcp::IcmpError>) {
        self.output.poll_neighbors(now, &mut self.failed);
        for packet in self.failed.drain(..) {
            let quoted = packet.head().get(ETHERNET_HEADER..).and_then(icmp::tcp_of);
            let kind = tcp::IcmpErrorKind::Unreachable;
            errors.extend(quoted.map(|(tuple, seq)| tcp::IcmpError { tuple, seq, kind }));
        }
    }

    /// When [`Net::poll`] is next needed.
    pub(crate) fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.urgent {
            return Some(now);
        }
        let dhcp = self.dhcp.as_mut().and_then(|dhcp| dhcp.next_deadline(now));
        let deadlines = [
            dhcp,
            self.iface.next_deadline(now),
            self.reassembly.next_deadline(),
            self.output.neighbors.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    // ---- addresses and steering

    /// Takes over a lease, or its end.
    fn configure(&mut self, lease: Option<Lease>) {
        let mut addresses = self.settings.addresses.clone();
        let mut routes = self.settings.routes.clone();
        let mut servers = self.settings.dns_servers.clone();
        if let Some(lease) = &lease {
            addresses.retain(|cidr| cidr.addr != lease.address.addr);
            addresses.push(lease.address);
            let default = Cidr { addr: core::net::Ipv4Addr::UNSPECIFIED.into(), prefix_len: 0 };
            routes.extend(lease.router.map(|router| Route { destination: default, gateway: router.into() }));
            let room = crate::limits::DNS_SERVERS.saturating_sub(servers.len());
            servers.extend(lease.dns_servers.iter().take(room));
        }
        if self.settings.own {
            let had = |cidr: &&Cidr| self.policy.addresses.iter().all(|old| old.addr != cidr.addr);
            let new = addresses.iter().filter(had).map(|cidr| SteeringChange::OwnAddress(cidr.addr));
            self.steering.extend(new);
            let lost = |old: &&Cidr| addresses.iter().all(|cidr| cidr.addr != old.addr);
            let lost = self.policy.addresses.iter().filter(lost);
            self.steering.extend(lost.map(|old| SteeringChange::DisownAddress(old.addr)));
        }
        self.iface.set_addresses(&addresses, self.settings.own && self.shard == 0);
        self.iface.set_dns_servers(&servers);
        self.output.set_routes(Routes::new(addresses.clone(), routes));
        self.policy.addresses = addresses;
        self.lease = lease;
        self.urgent = true;
    }

    pub(crate) fn addresses(&self) -> &[Cidr] {
        &self.policy.addresses
    }

    pub(crate) fn is_ours(&self, addr: IpAddr) -> bool {
        self.policy.is_ours(addr)
    }

    pub(crate) fn is_shared(&self) -> bool {
        !self.settings.own
    }

    pub(crate) fn dhcp_configured(&self) -> Option<bool> {
        self.settings.dhcp.then_some(self.lease.is_some())
    }

    pub(crate) fn take_steering_changes(&mut self) -> Vec<SteeringChange> {
        core::mem::take(&mut self.steering)
    }

    /// One more use of a port. Addresses that are ours alone need no ports opened.
    pub(crate) fn open_port(&mut self, protocol: Protocol, port: u16) {
        let uses = self.ports.entry((protocol == Protocol::Udp, port)).or_default();
        *uses += 1;
        if *uses == 1 && !self.settings.own {
            self.steering.push(SteeringChange::OpenPort(protocol, port));
        }
    }

    /// One use of a port less.
    pub(crate) fn close_port(&mut self, protocol: Protocol, port: u16) {
        let key = (protocol == Protocol::Udp, port);
        let Some(uses) = self.ports.get_mut(&key) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.ports.remove(&key);
            if !self.settings.own {
                self.steering.push(SteeringChange::ClosePort(protocol, port));
            }
        }
    }

    /// Opens the ports that name servers answer to, and closes those they need no more.
    fn steer_queries(&mut self) {
        let ports = self.iface.dns_ports().to_vec();
        let old = core::mem::replace(&mut self.dns_ports, ports.clone());
        for port in ports.iter().filter(|port| !old.contains(port)) {
            self.open_port(Protocol::Udp, *port);
        }
        for port in old.into_iter().filter(|port| !ports.contains(port)) {
            self.close_port(Protocol::Udp, port);
        }
    }

    // ---- user calls

    pub(crate) fn udp_bind(&mut self, local: SocketAddr) -> Result<UdpId, NetError> {
        if !local.ip().is_unspecified() && !self.policy.is_ours(local.ip()) {
            return Err(NetError::AddrNotAvailable);
        }
        let (shard, shards) = (u32::from(self.shard), u32::from(self.shards));
        let first = u32::from(*EPHEMERAL.start()).div_ceil(shards) * shards + shard;
        let count = (u32::from(*EPHEMERAL.end()) + 1 - first).div_ceil(shards);
        let start = self.rng.next_u32() % count;
        let ports = (0..count).map(|step| (first + (start + step) % count * shards) as u16);
        let id = self.iface.udp_bind(local, ports)?;
        let port = self.iface.udp_local_addr(id)?.port();
        self.open_port(Protocol::Udp, port);
        Ok(id)
    }

    pub(crate) fn udp_local_addr(&self, id: UdpId) -> Result<SocketAddr, NetError> {
        self.iface.udp_local_addr(id)
    }

    pub(crate) fn udp_poll_send_to(
        &mut self,
        id: UdpId,
        bytes: &[u8],
        remote: SocketAddr,
        waker: &Waker,
    ) -> Poll<Result<usize, NetError>> {
        self.iface.udp_poll_send_to(id, bytes, remote, &self.output, waker)
    }

    pub(crate) fn udp_poll_recv_from(
        &mut self,
        id: UdpId,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<(usize, SocketAddr), NetError>> {
        self.iface.udp_poll_recv_from(id, bytes, waker)
    }

    pub(crate) fn udp_close(&mut self, id: UdpId) {
        if let Some(port) = self.iface.udp_close(id) {
            self.close_port(Protocol::Udp, port);
        }
    }

    pub(crate) fn ping_open(&mut self, remote: IpAddr) -> Result<PingId, NetError> {
        self.pings.open(remote, self.shard, self.shards)
    }

    pub(crate) fn ping_send(
        &mut self,
        id: PingId,
        seq: u16,
        payload: &[u8],
        hop_limit: Option<u8>,
    ) -> Result<(), NetError> {
        let request = self.pings.request(id, seq, payload, hop_limit, &self.output)?;
        request.send(self.now, &mut self.output);
        self.urgent = true;
        Ok(())
    }

    pub(crate) fn ping_poll_recv(&mut self, id: PingId, waker: &Waker) -> Poll<Result<EchoReply, NetError>> {
        self.pings.poll_recv(id, waker)
    }

    pub(crate) fn ping_close(&mut self, id: PingId) {
        self.pings.close(id);
    }

    pub(crate) fn dns_query(&mut self, name: &str, ipv6: bool) -> Result<DnsQueryId, NetError> {
        let leased = self.lease.iter().flat_map(|lease| &lease.dns_servers);
        let servers: Vec<IpAddr> = self.settings.dns_servers.iter().chain(leased).copied().collect();
        self.iface.dns_query(name, ipv6, &servers)
    }

    pub(crate) fn dns_poll(&mut self, id: DnsQueryId, waker: &Waker) -> Poll<Result<Vec<IpAddr>, NetError>> {
        self.iface.dns_poll(id, waker)
    }

    pub(crate) fn dns_cancel(&mut self, id: DnsQueryId) {
        self.iface.dns_cancel(id);
    }
}

/// The configured addresses, with a link-local one where IPv6 needs it (RFC 4291 section 2.8). The kernel's addresses get
/// none: it has its own, and answers for it.
fn static_addresses(config: &StackConfig, mac: EthernetAddress) -> Vec<Cidr> {
    let mut addresses = config.addresses.clone();
    let ipv6 = addresses.iter().any(|cidr| cidr.addr.is_ipv6());
    let local = |cidr: &Cidr| matches!(cidr.addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    if ipv6 && config.address_use == AddressUse::Own && !addresses.iter().any(local) {
        addresses.push(link_local(mac));
    }
    addresses
}

/// The packet from `start` to the end of its IP packet, in one piece.
fn bytes_of(packet: &Packet, start: usize) -> Vec<u8> {
    let end = packet.parsed.end as usize;
    let mut bytes = Vec::with_capacity(end.saturating_sub(start));
    packet.pieces(start..end).for_each(|piece| bytes.extend_from_slice(piece));
    bytes
}

fn source_mac(packet: &Packet) -> EthernetAddress {
    EthernetFrame::new_unchecked(packet.head()).src_addr()
}

/// Offset, from the IPv6 header, of the field that names the transport protocol (RFC 4443 section 3.4); 0 for IPv4.
fn next_header_field(packet: &Packet) -> u32 {
    if packet.parsed.flow.dst.is_ipv4() {
        return 0;
    }
    let ip = &packet.head()[usize::from(packet.parsed.l3)..];
    let transport = usize::from(packet.parsed.l4 - packet.parsed.l3);
    let (mut at, mut field, mut kind) = (super::egress::IPV6_HEADER, 6, ip[6]);
    while at < transport {
        let len = if kind == protocol::FRAGMENT { 8 } else { (usize::from(ip[at + 1]) + 1) * 8 };
        (kind, field) = (ip[at], at);
        at += len;
    }
    field as u32
}
