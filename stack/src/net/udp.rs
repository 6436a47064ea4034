//! UDP sockets: smoltcp's, with the addressing rules of bind(2) and the demultiplexing that several shards need.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::task::{Poll, Waker};

use smoltcp::iface::SocketHandle;
use smoltcp::phy::PacketMeta;
use smoltcp::socket::udp;
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

use super::egress::Output;
use super::iface::{DNS_PORT, Iface, fields_of};
use crate::counters::DropReason;
use crate::limits;
use crate::listing::Listed;
use crate::parse::Parsed;
use crate::shard::{NetError, UdpId};
use crate::tcp::{IpFields, State};
use crate::time::Instant;

/// A UDP payload that an IPv4 packet can carry (IPv6 20 bytes more).
const PAYLOAD_MAX: usize = 65_535 - 20 - 8;

/// One bound socket.
#[derive(Debug)]
pub(super) struct UdpEntry {
    generation: u32,
    handle: SocketHandle,
    local: SocketAddr,
    /// Whose errors the socket hears of.
    peer: Option<SocketAddr>,
    ip: IpFields,
    /// What the next call is told, once.
    fault: Option<NetError>,
    /// Whom a fault wakes; smoltcp's socket keeps its own for datagrams.
    reader: Option<Waker>,
}

/// What became of a datagram of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UdpFault {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) what: UdpTrouble,
}

/// What is the matter with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum UdpTrouble {
    /// The connected socket that sent it is to be told.
    Error(NetError),
    /// It does not fit the path: those that follow are cut to size, and nobody is told, as in Linux without `IP_RECVERR`.
    TooBig {
        /// The next hop's MTU, bytes.
        mtu: u16,
    },
}

impl UdpEntry {
    fn is_ipv6(&self) -> bool {
        self.local.is_ipv6()
    }

    /// What it sends and how, where that is not the default.
    pub(super) fn chosen(&self) -> Option<(SocketAddr, IpFields)> {
        (self.ip != IpFields::default()).then_some((self.local, self.ip))
    }

    fn takes(&self, dst: IpAddr, port: u16, unicast: bool) -> bool {
        let any = self.local.ip().is_unspecified() || self.local.ip() == dst || !unicast;
        self.local.port() == port && self.local.is_ipv4() == dst.is_ipv4() && any
    }
}

impl Iface {
    /// Binds a socket; port 0 takes the first free one of `ephemeral`.
    pub(crate) fn udp_bind(
        &mut self,
        local: SocketAddr,
        mut ephemeral: impl Iterator<Item = u16>,
    ) -> Result<UdpId, NetError> {
        if self.udp.len() >= limits::UDP_SOCKETS {
            return Err(NetError::TooManySockets);
        }
        let taken =
            |port| self.udp.iter().any(|(_, entry)| entry.conflicts(SocketAddr::new(local.ip(), port)));
        let port = match local.port() {
            0 => ephemeral.find(|port| !taken(*port)).ok_or(NetError::AddrInUse)?,
            port if taken(port) => return Err(NetError::AddrInUse),
            port => port,
        };
        let buffer = || {
            let packets = vec![udp::PacketMetadata::EMPTY; limits::UDP_SOCKET_DATAGRAMS];
            udp::PacketBuffer::new(packets, vec![0; limits::UDP_SOCKET_BYTES])
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        let addr = (!local.ip().is_unspecified()).then(|| local.ip().into());
        socket.bind(IpListenEndpoint { addr, port }).map_err(|_| NetError::InvalidInput)?;
        let handle = self.family(local.is_ipv6()).sockets.add(socket);
        self.generation = self.generation.wrapping_add(1);
        let (generation, local) = (self.generation, SocketAddr::new(local.ip(), port));
        let entry = UdpEntry {
            generation,
            handle,
            local,
            peer: None,
            ip: IpFields::default(),
            fault: None,
            reader: None,
        };
        Ok(UdpId(self.udp.insert(entry) as u32, self.generation))
    }

    /// Names the peer whose errors the socket is told.
    pub(crate) fn udp_connect(&mut self, id: UdpId, peer: SocketAddr) -> Result<(), NetError> {
        let entry = self.udp_entry_mut(id).ok_or(NetError::NotFound)?;
        (entry.peer, entry.fault) = (Some(peer), None);
        Ok(())
    }

    /// Sets what all datagrams have in their IP header from now on.
    pub(crate) fn udp_set_ip_fields(&mut self, id: UdpId, ip: IpFields) -> Result<(), NetError> {
        let entry = self.udp_entry_mut(id).ok_or(NetError::NotFound)?;
        if ip.hop_limit == 0 {
            return Err(NetError::InvalidInput);
        }
        // Datagrams that wait in the socket have it, too.
        entry.ip = ip;
        Ok(())
    }

    /// Tells the socket that is connected so; `false`: no socket of this shard can have sent the datagram.
    pub(crate) fn udp_fault(&mut self, fault: &UdpFault) -> bool {
        let UdpTrouble::Error(error) = fault.what else {
            return self.udp_socket(fault.local.ip(), fault.local.port(), true).is_some();
        };
        let sent_it = |entry: &UdpEntry| {
            entry.peer == Some(fault.remote) && entry.takes(fault.local.ip(), fault.local.port(), true)
        };
        let Some((_, entry)) = self.udp.iter_mut().find(|(_, entry)| sent_it(entry)) else { return false };
        entry.fault = Some(error);
        if let Some(reader) = entry.reader.take() {
            reader.wake();
        }
        true
    }

    pub(crate) fn udp_local_addr(&self, id: UdpId) -> Result<SocketAddr, NetError> {
        self.udp_entry(id).map(|entry| entry.local).ok_or(NetError::NotFound)
    }

    /// Queues a datagram; `Pending` while the socket's buffer has no room for it.
    pub(crate) fn udp_poll_send_to(
        &mut self,
        id: UdpId,
        bytes: &[u8],
        remote: SocketAddr,
        output: &Output,
        waker: &Waker,
    ) -> Poll<Result<usize, NetError>> {
        let Some(entry) = self.udp_entry_mut(id) else { return Poll::Ready(Err(NetError::NotFound)) };
        if let Some(fault) = entry.fault.take() {
            return Poll::Ready(Err(fault));
        }
        let (local, handle) = (entry.local, entry.handle);
        if remote.is_ipv4() != local.is_ipv4() || remote.port() == 0 || remote.ip().is_unspecified() {
            return Poll::Ready(Err(NetError::InvalidInput));
        }
        if bytes.len() > PAYLOAD_MAX {
            return Poll::Ready(Err(NetError::MessageTooLong));
        }
        if output.routes.next_hop(remote.ip()).is_none() {
            return Poll::Ready(Err(NetError::NetworkUnreachable));
        }
        let source = match local.ip() {
            any if any.is_unspecified() => output.routes.source(remote.ip()),
            addr => Some(addr),
        };
        let Some(source) = source else { return Poll::Ready(Err(NetError::NetworkUnreachable)) };
        let socket = self.family(local.is_ipv6()).sockets.get_mut::<udp::Socket<'_>>(handle);
        let metadata = udp::UdpMetadata {
            endpoint: IpEndpoint::from(remote),
            local_address: Some(source.into()),
            meta: PacketMeta::default(),
        };
        match socket.send_slice(bytes, metadata) {
            Ok(()) => {
                self.dirty = true;
                Poll::Ready(Ok(bytes.len()))
            }
            Err(udp::SendError::BufferFull) => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            Err(udp::SendError::Unaddressable) => Poll::Ready(Err(NetError::InvalidInput)),
        }
    }

    /// Takes a datagram, cut to `bytes`: length copied, sender, what it had in its IP header.
    pub(crate) fn udp_poll_recv_from(
        &mut self,
        id: UdpId,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<(usize, SocketAddr, IpFields), NetError>> {
        let Some(entry) = self.udp_entry_mut(id) else { return Poll::Ready(Err(NetError::NotFound)) };
        if let Some(fault) = entry.fault.take() {
            return Poll::Ready(Err(fault));
        }
        let (ipv6, handle) = (entry.is_ipv6(), entry.handle);
        let socket = self.family(ipv6).sockets.get_mut::<udp::Socket<'_>>(handle);
        match socket.recv() {
            Ok((payload, metadata)) => {
                let len = payload.len().min(bytes.len());
                bytes[..len].copy_from_slice(&payload[..len]);
                let from = SocketAddr::new(metadata.endpoint.addr.into(), metadata.endpoint.port);
                Poll::Ready(Ok((len, from, fields_of(metadata.meta))))
            }
            Err(_) => {
                socket.register_recv_waker(waker);
                if let Some(entry) = self.udp_entry_mut(id).filter(|entry| entry.peer.is_some()) {
                    entry.reader = Some(waker.clone());
                }
                Poll::Pending
            }
        }
    }

    /// Closes a socket; returns its port, for the steering. Datagrams that [`Iface::poll`] has not taken are lost.
    pub(crate) fn udp_close(&mut self, id: UdpId) -> Option<u16> {
        self.udp_entry(id)?;
        let entry = self.udp.remove(id.0 as usize);
        self.family(entry.is_ipv6()).sockets.remove(entry.handle);
        Some(entry.local.port())
    }

    /// Whether a socket of this shard (or a name server query) takes a datagram.
    pub(crate) fn udp_takes(&self, dst: IpAddr, port: u16, unicast: bool) -> bool {
        self.udp_socket(dst, port, unicast).is_some() || self.dns_ports.contains(&port)
    }

    /// Hands a datagram to the socket that [`Iface::udp_takes`] found; smoltcp does not say when its buffer was full, so
    /// the difference is counted here.
    pub(crate) fn udp_receive(
        &mut self,
        now: Instant,
        parsed: &Parsed,
        unicast: bool,
        packet: &[u8],
        output: &mut Output,
    ) {
        let flow = &parsed.flow;
        let socket = self.udp_socket(flow.dst, flow.dst_port, unicast);
        let queued = |this: &mut Self| {
            let (ipv6, handle) = socket?;
            Some(this.family(ipv6).sockets.get::<udp::Socket<'_>>(handle).recv_queue())
        };
        if socket.is_none() && flow.src_port == DNS_PORT {
            let payload = parsed.end as usize - usize::from(parsed.payload);
            self.hear_answer(flow.dst_port, &packet[packet.len() - payload..]);
        }
        let before = queued(self);
        self.receive(now, packet, output);
        let empty = packet.len() + usize::from(parsed.l3) == usize::from(parsed.payload);
        if before.is_some() && before == queued(self) && !empty {
            output.counters.drop(DropReason::UdpReceiveBufferFull);
        } else {
            output.counters.udp_rx += 1;
        }
    }

    /// All UDP sockets, at most [`limits::UDP_SOCKETS`].
    pub(crate) fn udp_list(&self, out: &mut Vec<Listed>) {
        for (place, entry) in &self.udp {
            let sockets = if entry.is_ipv6() { &self.ipv6.sockets } else { &self.ipv4.sockets };
            let socket = sockets.get::<udp::Socket<'_>>(entry.handle);
            out.push(Listed {
                remote: entry.peer,
                recv_q: socket.recv_queue() as u64,
                send_q: socket.send_queue() as u64,
                ..Listed::new("udp", State::Closed, place as u32, entry.local)
            });
        }
    }

    fn udp_socket(&self, dst: IpAddr, port: u16, unicast: bool) -> Option<(bool, SocketHandle)> {
        let mut entries = self.udp.iter().map(|(_, entry)| entry);
        entries.find(|entry| entry.takes(dst, port, unicast)).map(|entry| (entry.is_ipv6(), entry.handle))
    }

    fn udp_entry(&self, id: UdpId) -> Option<&UdpEntry> {
        self.udp.get(id.0 as usize).filter(|entry| entry.generation == id.1)
    }

    fn udp_entry_mut(&mut self, id: UdpId) -> Option<&mut UdpEntry> {
        self.udp.get_mut(id.0 as usize).filter(|entry| entry.generation == id.1)
    }
}

impl UdpEntry {
    fn conflicts(&self, other: SocketAddr) -> bool {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        self.local.port() == other.port()
            && self.local.is_ipv4() == other.is_ipv4()
            && (self.local.ip() == other.ip() || any.contains(&self.local.ip()) || any.contains(&other.ip()))
    }
}
