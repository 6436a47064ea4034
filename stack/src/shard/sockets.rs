//! The shard's calls for UDP, ping and name server queries: handles, errors, and the steering of their ports.

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};

use rand_core::RngCore;

use super::Shard;
use crate::counters::DropReason;
use crate::device::Protocol;
use crate::limits;
use crate::tcp::IpFields;

/// A UDP socket of this shard: its place and which use of that place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UdpId(pub u32, pub u32);
/// A ping socket of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PingId(pub u32, pub u32);
/// A name server query of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DnsQueryId(pub u32, pub u32);

/// Why a call about UDP, ping or names failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetError {
    /// As many sockets as [`limits`] allows are open on this shard.
    #[error("too many sockets on this shard; close some")]
    TooManySockets,
    /// Another socket has the address and port, or no port is free.
    #[error("address already in use")]
    AddrInUse,
    /// The address is not one of the interface's.
    #[error("address not available: it is not one of this interface's")]
    AddrNotAvailable,
    /// No route, or no address of that IP version.
    #[error("network unreachable: no route, or no address of that IP version")]
    NetworkUnreachable,
    /// The first hop to a connected socket's peer did not answer ARP or neighbour discovery.
    #[error("host unreachable: it, or the gateway to it, does not answer ARP or neighbour discovery")]
    HostUnreachable,
    /// A connected socket's peer has no socket at the port (an ICMP port unreachable came back).
    #[error("connection refused: nobody has the port there")]
    ConnectionRefused,
    /// Longer than an IP packet can be.
    #[error("message too long for an IP packet")]
    MessageTooLong,
    /// The socket or query is closed.
    #[error("no such socket or query")]
    NotFound,
    /// A name server said that there is no such name (RFC 1035 section 4.1.1, RCODE 3).
    #[error("no such name (NXDOMAIN)")]
    NameNotFound,
    /// The name exists and has no address of the kind asked for.
    #[error("the name has no address")]
    NoAddress,
    /// A name server answered that it could not or would not find out, with this RCODE (RFC 1035 section 4.1.1).
    #[error("the name server failed ({}); try another one", rcode_name(*.0))]
    NameServerFailed(u8),
    /// No name server answered in time.
    #[error("no name server answered")]
    NameServerSilent,
    /// Neither configuration nor DHCP named a server.
    #[error("no name server configured")]
    NoNameServer,
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
    /// An argument that makes no sense, such as a destination of the other IP version.
    #[error("invalid argument")]
    InvalidInput,
}

fn rcode_name(rcode: u8) -> String {
    match rcode {
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        other => format!("RCODE {other}"),
    }
}

/// An echo reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EchoReply {
    /// Who answered.
    pub from: IpAddr,
    /// The identifier, the socket's.
    pub ident: u16,
    /// The sequence number of the request.
    pub seq: u16,
    /// The request's payload, as it came back.
    pub payload: Vec<u8>,
    /// The reply's hop limit (time to live) on arrival.
    pub hop_limit: Option<u8>,
}

/// Where ephemeral ports begin (RFC 6335 section 6).
const EPHEMERAL_FIRST: u16 = 49_152;

impl Shard {
    /// Binds a UDP socket and steers its port to the stack. An unspecified address: all of ours of that family; port 0: a
    /// free one, which is this shard's number modulo the number of shards.
    ///
    /// # Errors
    /// `AddrNotAvailable`, `AddrInUse`, `TooManySockets`.
    pub fn udp_bind(&mut self, local: SocketAddr) -> Result<UdpId, NetError> {
        if !local.ip().is_unspecified() && !self.policies[0].is_ours(local.ip()) {
            return Err(NetError::AddrNotAvailable);
        }
        let ephemeral = self.ephemeral_ports();
        let id = self.iface.udp_bind(local, ephemeral)?;
        self.steering.open(Protocol::Udp, self.iface.udp_local_addr(id)?.port());
        Ok(id)
    }

    /// The address a socket is bound to.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn udp_local_addr(&self, id: UdpId) -> Result<SocketAddr, NetError> {
        self.iface.udp_local_addr(id)
    }

    /// Names the peer whose errors the socket is told, each once by the next call: `HostUnreachable` when nobody answered ARP
    /// or neighbour discovery for a datagram to it, `ConnectionRefused` when ICMP said that its port is closed (RFC 1122
    /// section 4.1.3.3).
    ///
    /// # Errors
    /// `NotFound`.
    pub fn udp_connect(&mut self, id: UdpId, peer: SocketAddr) -> Result<(), NetError> {
        self.iface.udp_connect(id, peer)
    }

    /// Sends a datagram; `Pending` while the socket's buffer has no room for it.
    ///
    /// # Errors
    /// `NotFound`, `InvalidInput`, `MessageTooLong`, `NetworkUnreachable`; what [`Shard::udp_connect`] names.
    pub fn udp_poll_send_to(
        &mut self,
        id: UdpId,
        bytes: &[u8],
        remote: SocketAddr,
        waker: &Waker,
    ) -> Poll<Result<usize, NetError>> {
        self.iface.udp_poll_send_to(id, bytes, remote, &self.output, waker)
    }

    /// Sets what a socket's datagrams have in their IP header, multicast ones included. Its ECN bits are sent as they are.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for a hop limit of 0.
    pub fn udp_set_ip_fields(&mut self, id: UdpId, ip: IpFields) -> Result<(), NetError> {
        self.iface.udp_set_ip_fields(id, ip)
    }

    /// Receives a datagram, cut to the length of `bytes` as recvfrom(2) does: bytes copied, the sender, and what the
    /// datagram had in its IP header (`IP_RECVTOS`, `IP_RECVTTL`; of fragments: the first).
    ///
    /// # Errors
    /// `NotFound`; what [`Shard::udp_connect`] names.
    pub fn udp_poll_recv_from(
        &mut self,
        id: UdpId,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<(usize, SocketAddr, IpFields), NetError>> {
        self.iface.udp_poll_recv_from(id, bytes, waker)
    }

    /// Closes a socket. Datagrams it holds go to the backlog at once; what finds no room there is lost.
    pub fn udp_close(&mut self, id: UdpId) {
        self.iface.poll(self.polled_at, &mut self.output);
        if let Some(port) = self.iface.udp_close(id) {
            self.steering.close(Protocol::Udp, port);
        }
    }

    /// Opens a ping socket to `remote` and steers replies to the stack. Its identifier is this shard's number modulo the
    /// number of shards.
    ///
    /// # Errors
    /// `NetworkUnreachable`, `TooManySockets`, `InvalidInput`.
    pub fn ping_open(&mut self, remote: IpAddr) -> Result<PingId, NetError> {
        self.output.routes.source(remote).ok_or(NetError::NetworkUnreachable)?;
        let (id, ident) = self.pings.open(remote, self.index, self.count)?;
        self.steering.open(Protocol::Echo, ident);
        Ok(id)
    }

    /// Sends an echo request at the next poll.
    ///
    /// # Errors
    /// `NotFound`, `MessageTooLong`, `NetworkUnreachable`, `InvalidInput` (hop limit 0).
    pub fn ping_send(
        &mut self,
        id: PingId,
        seq: u16,
        payload: &[u8],
        hop_limit: Option<u8>,
    ) -> Result<(), NetError> {
        let request = self.pings.request(id, seq, payload, hop_limit, &self.output)?;
        if self.echo_requests.len() < limits::BURST_PACKETS {
            self.echo_requests.push_back(request);
        } else {
            self.counters.drop(DropReason::TxQueueFull);
        }
        Ok(())
    }

    /// The next echo reply.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn ping_poll_recv(&mut self, id: PingId, waker: &Waker) -> Poll<Result<EchoReply, NetError>> {
        self.pings.poll_recv(id, waker)
    }

    /// Closes a ping socket.
    pub fn ping_close(&mut self, id: PingId) {
        if let Some(ident) = self.pings.close(id) {
            self.steering.close(Protocol::Echo, ident);
        }
    }

    /// Asks the name servers for `name`'s addresses: IPv6 ones, or IPv4 ones.
    ///
    /// # Errors
    /// `NoNameServer`, `InvalidInput` (no name), `TooManySockets`.
    pub fn dns_query(&mut self, name: &str, ipv6: bool) -> Result<DnsQueryId, NetError> {
        let servers = self.dns_servers();
        self.iface.dns_query(name, ipv6, &servers)
    }

    /// The addresses, once there is an answer; the query is over then.
    ///
    /// # Errors
    /// `NotFound`, `NameNotFound`, `NoAddress`, `NameServerFailed`, `NameServerSilent`.
    pub fn dns_poll(&mut self, id: DnsQueryId, waker: &Waker) -> Poll<Result<Vec<IpAddr>, NetError>> {
        self.iface.dns_poll(id, waker)
    }

    /// Gives a query up.
    pub fn dns_cancel(&mut self, id: DnsQueryId) {
        self.iface.dns_cancel(id);
    }

    /// All ephemeral ports of this shard, beginning anywhere (RFC 6056 section 3.3.1).
    fn ephemeral_ports(&mut self) -> impl Iterator<Item = u16> + use<> {
        let (index, count) = (self.index, self.count);
        let range = u32::from(u16::MAX - EPHEMERAL_FIRST) + 1;
        let start = self.rng.next_u32() % range;
        (0..range)
            .map(move |step| EPHEMERAL_FIRST + ((start + step) % range) as u16)
            .filter(move |port| port % count == index)
    }
}
