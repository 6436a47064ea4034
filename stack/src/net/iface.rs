//! smoltcp's interface: answers echo requests and multicast listener queries, and carries UDP and DNS sockets.
//!
//! It works on IP packets (`Medium::Ip`): parsed and whole ones come in from the shard, whole ones go out through
//! [`super::egress`], which knows links, neighbours and fragments. smoltcp takes the first socket whose port fits, so
//! IPv4 and IPv6 sockets live in two sets, or 0.0.0.0 and :: could not both have a port.

use core::net::{IpAddr, SocketAddr};

use slab::Slab;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::socket::dns;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Packet, Ipv6Packet};

use super::dns::{Asked, Query};
use super::egress::Output;
use super::fragment::set_fields;
use super::ndp;
use super::udp::UdpEntry;
use crate::config::Cidr;
use crate::limits;
use crate::parse::protocol;
use crate::tcp::IpFields;
use crate::time::Instant;

/// The largest packet smoltcp may hand over: an IPv6 header and the longest payload. Fragmenting it is our work.
const IP_PACKET_MAX: usize = 40 + 65_535;
pub(super) const DNS_PORT: u16 = 53;
const UDP_HEADER: usize = 8;

/// One shard's interface and sockets.
pub(crate) struct Iface {
    interface: Interface,
    pub(super) ipv4: Family,
    pub(super) ipv6: Family,
    pub(super) udp: Slab<UdpEntry>,
    pub(super) queries: Slab<Query>,
    /// Tells handles of a slab's place apart over time.
    pub(super) generation: u32,
    /// A socket may have something to send.
    pub(super) dirty: bool,
    /// When smoltcp next wants to send something, as of the last [`Iface::poll`].
    deadline: Option<Instant>,
    scratch: Vec<u8>,
    /// Source ports of name server queries on their way, for steering and for the shards' demultiplexing.
    pub(super) dns_ports: Vec<u16>,
    /// What was asked from these ports.
    pub(super) dns_asked: Vec<Asked>,
}

/// The sockets of one IP version.
pub(super) struct Family {
    pub(super) sockets: SocketSet<'static>,
    pub(super) dns: SocketHandle,
}

impl Family {
    fn new() -> Self {
        let mut sockets = SocketSet::new(Vec::new());
        let dns = sockets.add(dns::Socket::new(&[], Vec::new()));
        Self { sockets, dns }
    }
}

impl Iface {
    pub(crate) fn new(seed: u64, now: Instant, output: &mut Output) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut scratch = Vec::new();
        let mut sent = Vec::new();
        let mut bridge =
            Bridge { received: None, output, scratch: &mut scratch, dns_sent: &mut sent, now, chosen: &[] };
        let interface = Interface::new(config, &mut bridge, now.into());
        Self {
            interface,
            ipv4: Family::new(),
            ipv6: Family::new(),
            udp: Slab::new(),
            queries: Slab::new(),
            generation: 0,
            dirty: false,
            deadline: None,
            scratch,
            dns_ports: Vec::new(),
            dns_asked: Vec::new(),
        }
    }

    /// Takes over the interface's addresses. `groups`: report the solicited-node groups of IPv6 addresses to multicast
    /// routers and switches (where the addresses are ours alone).
    pub(crate) fn set_addresses(&mut self, addresses: &[Cidr], groups: bool) {
        let wanted = |addr: IpAddr| addresses.iter().any(|cidr| cidr.addr == addr);
        let old: Vec<IpAddress> = self.interface.ip_addrs().iter().map(IpCidr::address).collect();
        for addr in old {
            if let IpAddress::Ipv6(addr) = addr
                && !wanted(addr.into())
            {
                // A group that was never joined cannot be left: nothing to do then.
                let _ = self.interface.leave_multicast_group(ndp::solicited_node(addr));
            }
        }
        self.interface.update_ip_addrs(|list| {
            list.clear();
            for cidr in addresses.iter().take(limits::INTERFACE_ADDRESSES) {
                // The capacity is the limit that `StackConfig::validate` enforces.
                let _ = list.push(IpCidr::new(cidr.addr.into(), cidr.prefix_len));
            }
        });
        if groups {
            for cidr in addresses {
                if let IpAddr::V6(addr) = cidr.addr {
                    // At most one group an address: the table (64) cannot be full.
                    let _ = self.interface.join_multicast_group(ndp::solicited_node(addr));
                }
            }
        }
        self.dirty = true;
    }

    /// Hands a whole, checked IP packet to smoltcp.
    pub(crate) fn receive(&mut self, now: Instant, packet: &[u8], output: &mut Output) {
        let Self { interface, ipv4, ipv6, scratch, .. } = self;
        let family = if packet[0] >> 4 == 4 { ipv4 } else { ipv6 };
        // Receiving sends no queries.
        let dns_sent = &mut Vec::new();
        let mut bridge = Bridge { received: Some(packet), output, scratch, dns_sent, now, chosen: &[] };
        interface.poll_ingress_single(now.into(), &mut bridge, &mut family.sockets);
        // What arrived may call for something (a report, the next query).
        self.dirty = true;
    }

    /// Sends what sockets hold, as far as the backlog has room.
    #[inline]
    pub(crate) fn poll(&mut self, now: Instant, output: &mut Output) {
        let due = self.dirty || self.deadline.is_some_and(|at| at <= now);
        if due {
            self.poll_sockets(now, output);
        }
    }

    fn poll_sockets(&mut self, now: Instant, output: &mut Output) {
        self.dirty = false;
        let mut dns_sent = Vec::new();
        let chosen: Vec<_> = self.udp.iter().filter_map(|(_, entry)| entry.chosen()).collect();
        let Self { interface, ipv4, ipv6, scratch, .. } = self;
        interface.poll_maintenance(now.into());
        for family in [ipv4, ipv6] {
            // A pass sends at most one packet a socket; a socket's queue bounds how many passes find something.
            for _ in 0..limits::UDP_SOCKET_DATAGRAMS {
                let mut bridge =
                    Bridge { received: None, output, scratch, dns_sent: &mut dns_sent, now, chosen: &chosen };
                let result = interface.poll_egress(now.into(), &mut bridge, &mut family.sockets);
                if result == smoltcp::iface::PollResult::None {
                    break;
                }
            }
        }
        self.note_queries(dns_sent);
        self.deadline = interface_deadline(&mut self.interface, now, [&self.ipv4, &self.ipv6]);
        self.forget_dns_ports();
    }

    /// When [`Iface::poll`] is next needed.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if self.dirty { Some(now) } else { self.deadline }
    }

    pub(super) fn family(&mut self, ipv6: bool) -> &mut Family {
        if ipv6 { &mut self.ipv6 } else { &mut self.ipv4 }
    }

    pub(super) fn start_query(
        &mut self,
        name: &str,
        ipv6: bool,
        kind: smoltcp::wire::DnsQueryType,
    ) -> Result<dns::QueryHandle, dns::StartQueryError> {
        let Self { interface, ipv4, ipv6: six, .. } = self;
        let family = if ipv6 { six } else { ipv4 };
        family.sockets.get_mut::<dns::Socket<'_>>(family.dns).start_query(interface.context(), name, kind)
    }
}

fn interface_deadline(interface: &mut Interface, now: Instant, families: [&Family; 2]) -> Option<Instant> {
    families
        .into_iter()
        .filter_map(|family| interface.poll_at(now.into(), &family.sockets))
        .min()
        .map(Instant::from)
}

/// smoltcp's view of the device for the length of one call.
struct Bridge<'a> {
    received: Option<&'a [u8]>,
    output: &'a mut Output,
    scratch: &'a mut Vec<u8>,
    /// Queries that went out in this call.
    dns_sent: &'a mut Vec<Asked>,
    now: Instant,
    chosen: &'a Chosen,
}

impl Device for Bridge<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received<'_>, Outgoing<'_>)> {
        let packet = self.received.take()?;
        let Self { output, scratch, dns_sent, now, chosen, .. } = self;
        let reply_tos = (packet[0] >> 4 == 4).then(|| packet[1] & !3);
        Some((Received(packet), Outgoing { output, scratch, dns_sent, now: *now, chosen, reply_tos }))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        let Self { output, scratch, dns_sent, now, chosen, .. } = self;
        output.has_room().then_some(Outgoing {
            output,
            scratch,
            dns_sent,
            now: *now,
            chosen,
            reply_tos: None,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = IP_PACKET_MAX;
        // `parse` verified them, partial ones included.
        capabilities.checksum = transmit_only();
        capabilities
    }
}

fn transmit_only() -> ChecksumCapabilities {
    let mut checksum = ChecksumCapabilities::default();
    let tx = || smoltcp::phy::Checksum::Tx;
    (checksum.ipv4, checksum.udp, checksum.tcp) = (tx(), tx(), tx());
    (checksum.icmpv4, checksum.icmpv6) = (tx(), tx());
    checksum
}

/// How fields of the IP header go through smoltcp beside a received datagram.
fn meta_of(ip: IpFields) -> PacketMeta {
    let mut meta = PacketMeta::default();
    meta.id = u32::from(ip.tos) << 8 | u32::from(ip.hop_limit);
    meta
}

/// Ends that.
pub(super) fn fields_of(meta: PacketMeta) -> IpFields {
    let [.., tos, hop_limit] = meta.id.to_be_bytes();
    IpFields { tos, hop_limit }
}

/// What sockets choose of the header of their datagrams: those that do not leave it at the default. (Beside a datagram
/// that is sent, smoltcp carries it over IPv4 only.)
type Chosen = [(SocketAddr, IpFields)];

struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn meta(&self) -> PacketMeta {
        meta_of(match self.0[0] >> 4 {
            4 => IpFields { tos: self.0[1], hop_limit: self.0[8] },
            _ => IpFields { tos: self.0[0] << 4 | self.0[1] >> 4, hop_limit: self.0[7] },
        })
    }

    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct Outgoing<'a> {
    output: &'a mut Output,
    scratch: &'a mut Vec<u8>,
    /// Queries that went out in this call.
    dns_sent: &'a mut Vec<Asked>,
    now: Instant,
    chosen: &'a Chosen,
    /// The type of service of the IPv4 packet that is answered, but for the ECN bits.
    reply_tos: Option<u8>,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.scratch.resize(len, 0);
        let result = f(self.scratch);
        let (number, header) = match self.scratch[0] >> 4 {
            4 => (self.scratch[9], 20),
            _ => (self.scratch[6], 40),
        };
        if number == protocol::UDP {
            self.output.counters.udp_tx += 1;
            let port = |at: usize| u16::from_be_bytes([self.scratch[at], self.scratch[at + 1]]);
            let (src, dst) = (port(header), port(header + 2));
            if let Some(ip) = chosen_for(self.chosen, src, self.scratch) {
                set_fields(self.scratch, ip);
            }
            if dst == DNS_PORT {
                self.dns_sent.extend(Asked::read(src, &self.scratch[header + UDP_HEADER..]));
            }
        } else {
            self.output.counters.icmp_tx += 1;
            // RFC 1812 section 4.3.2.5, RFC 1122 section 3.2.1.6: as that of the request.
            if let Some(tos) = self.reply_tos.filter(|_| number == protocol::ICMPV4) {
                let hop_limit = self.scratch[8];
                set_fields(self.scratch, IpFields { tos, hop_limit });
            }
        }
        self.output.send_ip(self.now, self.scratch);
        result
    }
}

/// What the socket of a datagram from `port` chose.
fn chosen_for(chosen: &Chosen, port: u16, packet: &[u8]) -> Option<IpFields> {
    if chosen.is_empty() {
        return None;
    }
    let src: IpAddr = match packet[0] >> 4 {
        4 => Ipv4Packet::new_unchecked(packet).src_addr().into(),
        _ => Ipv6Packet::new_unchecked(packet).src_addr().into(),
    };
    let is_its = |local: &SocketAddr| {
        local.port() == port
            && local.is_ipv4() == src.is_ipv4()
            && (local.ip().is_unspecified() || local.ip() == src)
    };
    chosen.iter().find(|(local, _)| is_its(local)).map(|(_, ip)| *ip)
}
