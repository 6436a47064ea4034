//! smoltcp's interface and sockets: UDP, name queries, echo replies and multicast membership.
//!
//! It is given whole IP packets after [`crate::parse`] (never TCP, fragments or what [`super::arp`], [`super::ndp`] and
//! [`super::icmp`] take) and gives back IP packets, which [`Output`] fragments and routes: to smoltcp the link is plain IP
//! with packets of any size, so that it needs neither neighbours nor routes of its own.

use smoltcp::iface::{Config, Context, Interface, PollResult, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::egress::{IPV4_HEADER, IPV6_HEADER, Output};
use crate::config::Cidr;
use crate::parse::protocol;
use crate::time::Instant;

/// smoltcp's interface with its sockets.
pub(crate) struct Iface {
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    /// Where outgoing packets are built.
    scratch: Vec<u8>,
    /// Sockets may have something to send.
    dirty: bool,
    /// When a socket's timer next ends, as of the last poll.
    deadline: Option<Instant>,
    /// Source ports of outgoing datagrams to port 53 since the last [`Iface::take_query_ports`].
    query_ports: Vec<u16>,
}

const DNS_PORT: u16 = 53;

impl Iface {
    /// `seed`: for smoltcp's own random numbers.
    pub(crate) fn new(seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        Self {
            interface: Interface::new(config, &mut NoPhy, now.into()),
            sockets: SocketSet::new(Vec::new()),
            scratch: Vec::new(),
            dirty: true,
            deadline: None,
            query_ports: Vec::new(),
        }
    }

    /// Replaces the interface's addresses: hosts' addresses, at most `limits::INTERFACE_ADDRESSES`.
    pub(crate) fn set_addresses(&mut self, addresses: &[Cidr]) {
        self.interface.update_ip_addrs(|ours| {
            ours.clear();
            for cidr in addresses {
                // Full only beyond the bound that the configuration was checked against.
                let _ = ours.push(IpCidr::new(cidr.addr.into(), cidr.prefix_len));
            }
        });
        self.dirty = true;
    }

    /// What sockets need for some calls.
    pub(crate) fn with_context<T>(
        &mut self,
        call: impl FnOnce(&mut SocketSet<'static>, &mut Context) -> T,
    ) -> T {
        self.dirty = true;
        call(&mut self.sockets, self.interface.context())
    }

    /// A socket has something to send.
    pub(crate) fn touch(&mut self) {
        self.dirty = true;
    }

    /// Takes in a whole IP packet; an answer goes out at once.
    pub(crate) fn receive(&mut self, now: Instant, ip: &[u8], output: &mut Output) {
        self.dirty = true;
        let mut phy = Phy {
            now,
            received: Some(ip),
            output,
            scratch: &mut self.scratch,
            query_ports: &mut self.query_ports,
        };
        self.interface.poll_ingress_single(now.into(), &mut phy, &mut self.sockets);
    }

    /// Sends what sockets have, as long as the backlog takes it. Returns whether anything was sent.
    pub(crate) fn poll(&mut self, now: Instant, output: &mut Output) -> bool {
        if !self.dirty && self.deadline.is_none_or(|deadline| now < deadline) {
            return false;
        }
        self.interface.poll_maintenance(now.into());
        let mut sent = false;
        let mut phy =
            Phy { now, received: None, output, scratch: &mut self.scratch, query_ports: &mut self.query_ports };
        // Each turn sends at most one packet a socket, and the backlog ends the turns.
        while self.interface.poll_egress(now.into(), &mut phy, &mut self.sockets) == PollResult::SocketStateChanged
        {
            sent = true;
        }
        // With a full backlog the sockets keep their packets: the next poll goes on.
        self.dirty = !output.has_room();
        self.deadline = self.interface.poll_at(now.into(), &self.sockets).map(Instant::from);
        sent
    }

    /// When [`Iface::poll`] is next needed.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if self.dirty { Some(now) } else { self.deadline }
    }

    /// The ports from which names were asked for since the last call.
    pub(crate) fn take_query_ports(&mut self) -> impl Iterator<Item = u16> + '_ {
        self.query_ports.drain(..)
    }
}

/// The link as smoltcp sees it for one call.
struct Phy<'a> {
    now: Instant,
    received: Option<&'a [u8]>,
    output: &'a mut Output,
    scratch: &'a mut Vec<u8>,
    query_ports: &'a mut Vec<u16>,
}

impl<'p> Device for Phy<'p> {
    type RxToken<'a>
        = Received<'p>
    where
        Self: 'a;
    type TxToken<'a>
        = Transmit<'a, 'p>
    where
        Self: 'a;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received<'p>, Transmit<'_, 'p>)> {
        let received = self.received.take()?;
        Some((Received(received), Transmit(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Transmit<'_, 'p>> {
        self.output.has_room().then_some(Transmit(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities()
    }
}

fn capabilities() -> DeviceCapabilities {
    // What is received has been checked by `parse`.
    let mut checksum = ChecksumCapabilities::default();
    checksum.ipv4 = Checksum::Tx;
    checksum.udp = Checksum::Tx;
    checksum.icmpv4 = Checksum::Tx;
    checksum.icmpv6 = Checksum::Tx;
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = usize::from(u16::MAX);
    capabilities.checksum = checksum;
    capabilities
}

struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

struct Transmit<'a, 'p>(&'a mut Phy<'p>);

impl TxToken for Transmit<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let Phy { now, output, scratch, query_ports, .. } = self.0;
        scratch.clear();
        scratch.resize(len, 0);
        let result = fill(scratch);
        if may_send(*now, scratch, output, query_ports) {
            output.send_ip(*now, scratch);
        }
        result
    }
}

/// Counts an outgoing packet and applies the rate limit to ICMP.
fn may_send(now: Instant, ip: &[u8], output: &mut Output, query_ports: &mut Vec<u16>) -> bool {
    let (number, transport) = match ip.first().map(|first| first >> 4) {
        Some(4) => (ip[9], &ip[IPV4_HEADER..]),
        _ => (ip[6], &ip[IPV6_HEADER..]),
    };
    match number {
        protocol::ICMPV4 | protocol::ICMPV6 => output.may_send_icmp(now),
        protocol::UDP => {
            output.counters.udp_tx += 1;
            if transport[2..4] == DNS_PORT.to_be_bytes() {
                query_ports.push(u16::from_be_bytes([transport[0], transport[1]]));
            }
            true
        }
        _ => true,
    }
}

/// The link while the interface is made.
struct NoPhy;

impl Device for NoPhy {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Discard;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received<'_>, Discard)> {
        None
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Discard> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities()
    }
}

struct Discard;

impl TxToken for Discard {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        fill(&mut vec![0; len])
    }
}
