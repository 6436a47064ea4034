//! SKELETON: one queue's whole stack: `poll(now)` runs the packet's journey once.
#![allow(missing_docs, unused_variables, clippy::todo, clippy::needless_pass_by_value, dead_code)]

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};

use crate::config::{ConfigError, StackConfig};
use crate::counters::Counters;
use crate::device::{Device, Protocol};
use crate::tcp::{ConnId, SocketOptions, Tcp, TcpError};
use crate::time::Instant;

pub struct Shard {
    _p: (),
}

/// The bounded channels between the shards of one interface; made by `links(n)`, one for each shard.
pub struct ShardLinks {
    _p: (),
}

/// A change of what the steering must let through; drained by the runtime after each poll / user call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SteeringChange {
    OpenPort(Protocol, u16),
    ClosePort(Protocol, u16),
    OwnAddress(IpAddr),
    DisownAddress(IpAddr),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UdpId(pub u32, pub u32);
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PingId(pub u32, pub u32);
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DnsQueryId(pub u32, pub u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetError {
    #[error("too many sockets")]
    TooManySockets,
    #[error("address already in use")]
    AddrInUse,
    #[error("address not available")]
    AddrNotAvailable,
    #[error("network unreachable")]
    NetworkUnreachable,
    #[error("message too long")]
    MessageTooLong,
    #[error("no such socket")]
    NotFound,
    #[error("name not found")]
    NameNotFound,
    #[error("no name server configured")]
    NoNameServer,
    #[error("timed out")]
    TimedOut,
    #[error("invalid argument")]
    InvalidInput,
}

#[derive(Debug)]
pub struct EchoReply {
    pub from: IpAddr,
    pub ident: u16,
    pub seq: u16,
    pub payload: Vec<u8>,
    pub hop_limit: Option<u8>,
}

impl Shard {
    /// `index`/`count`: which shard of how many of this interface; `links` from `links(count)`.
    pub fn new(
        config: &StackConfig,
        index: u16,
        count: u16,
        links: ShardLinks,
        device: &dyn Device,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        todo!()
    }
    pub fn links(count: u16) -> Vec<ShardLinks> {
        todo!()
    }
    /// Runs the journey once: a burst in, timers, a burst out. Returns whether anything was done (poll again at once).
    pub fn poll(&mut self, now: Instant, device: &mut dyn Device) -> bool {
        todo!()
    }
    /// When `poll` is next needed if no packet arrives and no user call is made. `Some(t <= now)`: at once.
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        todo!()
    }
    /// Called from another shard's thread context by the runtime to wake this one: the runtime passes a callback that is run after a message was sent to shard `index`.
    pub fn set_notify(&mut self, notify: Box<dyn Fn(u16)>) {
        todo!()
    }
    pub fn take_steering_changes(&mut self) -> Vec<SteeringChange> {
        todo!()
    }
    pub fn counters(&self) -> &Counters {
        todo!()
    }
    pub fn tcp(&mut self) -> &mut Tcp {
        todo!()
    }
    pub fn tcp_ref(&self) -> &Tcp {
        todo!()
    }
    /// Our addresses at present (DHCP's included).
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        todo!()
    }
    /// Lease state: None = DHCP off, Some(false) = still asking, Some(true) = configured.
    pub fn dhcp_configured(&self) -> Option<bool> {
        todo!()
    }

    // TCP calls that also need routes or steering
    pub fn tcp_listen(
        &mut self,
        addr: SocketAddr,
        backlog: usize,
        options: SocketOptions,
    ) -> Result<crate::tcp::ListenerId, TcpError> {
        todo!()
    }
    pub fn tcp_close_listener(&mut self, now: Instant, id: crate::tcp::ListenerId) -> Result<(), TcpError> {
        todo!()
    }
    /// Chooses the source address by route (RFC 6724 in short) when `local` is None, and opens the ephemeral port in the steering until the connection is gone.
    pub fn tcp_connect(
        &mut self,
        now: Instant,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        options: SocketOptions,
    ) -> Result<ConnId, TcpError> {
        todo!()
    }

    // UDP (smoltcp's sockets)
    pub fn udp_bind(&mut self, local: SocketAddr) -> Result<UdpId, NetError> {
        todo!()
    }
    pub fn udp_local_addr(&self, id: UdpId) -> Result<SocketAddr, NetError> {
        todo!()
    }
    pub fn udp_poll_send_to(
        &mut self,
        id: UdpId,
        bytes: &[u8],
        remote: SocketAddr,
        waker: &Waker,
    ) -> Poll<Result<usize, NetError>> {
        todo!()
    }
    /// Truncates to `bytes` as recvfrom(2) does; returns (copied, sender).
    pub fn udp_poll_recv_from(
        &mut self,
        id: UdpId,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<(usize, SocketAddr), NetError>> {
        todo!()
    }
    pub fn udp_close(&mut self, id: UdpId) {
        todo!()
    }

    // ping (smoltcp's ICMP sockets). Idents satisfy ident % count == index so that replies find their shard.
    pub fn ping_open(&mut self, remote: IpAddr) -> Result<PingId, NetError> {
        todo!()
    }
    pub fn ping_send(
        &mut self,
        id: PingId,
        seq: u16,
        payload: &[u8],
        hop_limit: Option<u8>,
    ) -> Result<(), NetError> {
        todo!()
    }
    pub fn ping_poll_recv(&mut self, id: PingId, waker: &Waker) -> Poll<Result<EchoReply, NetError>> {
        todo!()
    }
    pub fn ping_close(&mut self, id: PingId) {
        todo!()
    }

    // DNS (smoltcp's resolver)
    pub fn dns_query(&mut self, name: &str, ipv6: bool) -> Result<DnsQueryId, NetError> {
        todo!()
    }
    pub fn dns_poll(&mut self, id: DnsQueryId, waker: &Waker) -> Poll<Result<Vec<IpAddr>, NetError>> {
        todo!()
    }
    pub fn dns_cancel(&mut self, id: DnsQueryId) {
        todo!()
    }
}
