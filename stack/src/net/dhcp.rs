//! DHCPv4 (RFC 2131): smoltcp's client on an Ethernet interface of its own, first shard only.
//!
//! That interface believes the whole Internet on its link, so that it can speak with the server before and after it has an
//! address; the ARP requests it makes for a renewal are answered here, and what it sends goes through [`super::egress`] like
//! all else.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpCidr,
};

use super::egress::{ETHERNET_HEADER, Output};
use crate::config::Cidr;
use crate::limits;
use crate::time::Instant;

/// The largest packet the client sends.
const MTU: usize = 1500;
/// Who the client thinks it talks to on the link; its frames get their real destination in `egress`.
const EVERYBODY: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

/// What a server lent us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub(crate) address: Cidr,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) dns_servers: Vec<IpAddr>,
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.address)?;
        match self.router {
            Some(router) => write!(f, "router {router}, ")?,
            None => f.write_str("no router, ")?,
        }
        if self.dns_servers.is_empty() {
            return f.write_str("no name servers");
        }
        f.write_str("name servers")?;
        self.dns_servers.iter().try_for_each(|server| write!(f, " {server}"))
    }
}

/// The client.
pub(crate) struct Dhcp {
    /// The link it is for.
    link: usize,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    lease: Option<Lease>,
}

impl Dhcp {
    pub(crate) fn new(link: usize, seed: u64, now: Instant, output: &mut Output) -> Self {
        let mut config = Config::new(output.links[link].mac.into());
        config.random_seed = seed;
        let mut bridge = Bridge { link, received: None, asked: None, output, now };
        let interface = Interface::new(config, &mut bridge, now.into());
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(dhcpv4::Socket::new());
        Self { link, interface, sockets, handle, lease: None }
    }

    /// The present lease.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Takes in a frame from port 67 to port 68.
    pub(crate) fn receive(&mut self, now: Instant, frame: &[u8], output: &mut Output) {
        let mut bridge = Bridge { link: self.link, received: Some(frame), asked: None, output, now };
        self.interface.poll_ingress_single(now.into(), &mut bridge, &mut self.sockets);
    }

    /// Sends what is due. Returns whether the lease has changed.
    pub(crate) fn poll(&mut self, now: Instant, output: &mut Output) -> bool {
        for _ in 0..2 {
            let mut bridge = Bridge { link: self.link, received: None, asked: None, output, now };
            self.interface.poll_egress(now.into(), &mut bridge, &mut self.sockets);
            let Some(answer) = bridge.asked.take() else { break };
            self.receive(now, &answer, output);
        }
        match self.sockets.get_mut::<dhcpv4::Socket<'_>>(self.handle).poll() {
            None => return false,
            Some(dhcpv4::Event::Deconfigured) if self.lease.is_none() => return false,
            Some(dhcpv4::Event::Deconfigured) => self.lease = None,
            Some(dhcpv4::Event::Configured(config)) => self.lease = lease(&config),
        }
        let address = self.lease.as_ref().map(|lease| lease.address.addr);
        self.interface.update_ip_addrs(|list| {
            list.clear();
            // One address fits.
            let _ = address.map(|addr| list.push(IpCidr::new(addr.into(), 0)));
        });
        true
    }

    /// When [`Dhcp::poll`] is next needed.
    pub(crate) fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now.into(), &self.sockets).map(Instant::from)
    }
}

/// A server's offer as far as it makes sense.
fn lease(config: &dhcpv4::Config<'_>) -> Option<Lease> {
    let address = Cidr { addr: config.address.address().into(), prefix_len: config.address.prefix_len() };
    if !address.is_host() {
        tracing::warn!(%address, "the DHCP server offers an address that no host can have; ignored");
        return None;
    }
    let router = config.router.filter(|router| address.contains((*router).into()));
    let dns_servers = config.dns_servers.iter().map(|server| IpAddr::V4(*server));
    let dns_servers =
        dns_servers.filter(|server| !server.is_unspecified()).take(limits::DNS_SERVERS).collect();
    Some(Lease { address, router, dns_servers })
}

struct Bridge<'a> {
    link: usize,
    received: Option<&'a [u8]>,
    /// The answer to an ARP request of the client's.
    asked: Option<Vec<u8>>,
    output: &'a mut Output,
    now: Instant,
}

impl Bridge<'_> {
    fn outgoing(&mut self) -> Outgoing<'_> {
        Outgoing { link: self.link, asked: &mut self.asked, output: self.output, now: self.now }
    }
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
        let frame = self.received.take()?;
        Some((Received(frame), self.outgoing()))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        Some(self.outgoing())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET_HEADER + MTU;
        // `parse` verified those of received packets.
        (capabilities.checksum.ipv4, capabilities.checksum.udp) = (Checksum::Tx, Checksum::Tx);
        capabilities
    }
}

struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct Outgoing<'a> {
    link: usize,
    asked: &'a mut Option<Vec<u8>>,
    output: &'a mut Output,
    now: Instant,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        match EthernetFrame::new_unchecked(&bytes[..]).ethertype() {
            EthernetProtocol::Arp => *self.asked = arp_answer(&bytes[ETHERNET_HEADER..]),
            EthernetProtocol::Ipv4 => {
                self.output.counters.udp_tx += 1;
                self.output.send_ip_on(self.now, Some(self.link), &mut bytes[ETHERNET_HEADER..]);
            }
            _ => {}
        }
        result
    }
}

/// The frame that answers the client's ARP request with [`EVERYBODY`].
fn arp_answer(request: &[u8]) -> Option<Vec<u8>> {
    let packet = ArpPacket::new_checked(request).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EVERYBODY,
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let ethernet = EthernetRepr {
        src_addr: EVERYBODY,
        dst_addr: source_hardware_addr,
        ethertype: EthernetProtocol::Arp,
    };
    let mut frame = vec![0; ETHERNET_HEADER + reply.buffer_len()];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    reply.emit(&mut ArpPacket::new_unchecked(&mut frame[ETHERNET_HEADER..]));
    Some(frame)
}
