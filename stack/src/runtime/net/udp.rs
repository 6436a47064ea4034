//! UDP sockets of a shard.

use core::cell::Cell;
use core::fmt;
use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::net_error;
use super::waiters::Waiters;
use crate::runtime::local::{self, Local};
use crate::shard::{NetError, Shard, UdpId};
use crate::tcp::IpFields;

/// A UDP socket. Sockets bound to the same port on different shards share it: each receives what its queue does.
pub struct UdpSocket {
    local: Weak<Local>,
    id: UdpId,
    peer: Cell<Option<SocketAddr>>,
    receivers: Arc<Waiters>,
    senders: Arc<Waiters>,
}

impl UdpSocket {
    /// Binds `addr`; port 0 is chosen, an unspecified address receives for all of ours of that family.
    ///
    /// # Errors
    /// When the port is taken on this shard, the address is not ours, there are too many sockets
    /// ([`crate::limits::UDP_SOCKETS`]), or the NIC's steering refuses the port.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let local = local::required()?;
        local.settle_steering();
        let mut bound = local.with(|shard, _| shard.udp_bind(addr))?;
        if bound == Err(NetError::AddrInUse) && local.run_deferred() {
            // The port may have been that of a socket dropped a moment ago.
            bound = local.with(|shard, _| shard.udp_bind(addr))?;
        }
        let id = bound.map_err(net_error)?;
        let socket = Self {
            local: Rc::downgrade(&local),
            id,
            peer: Cell::new(None),
            receivers: Arc::default(),
            senders: Arc::default(),
        };
        local.apply_steering()?;
        Ok(socket)
    }

    /// The address bound, with the port chosen.
    ///
    /// # Errors
    /// When the runtime has ended.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let local = self.local.upgrade().ok_or_else(local::gone)?;
        local.with(|shard, _| shard.udp_local_addr(self.id))?.map_err(net_error)
    }

    /// Makes `peer` the default of [`UdpSocket::send`] and the only sender whose datagrams are received. From now on the next
    /// call also tells, once, that a datagram did not arrive: `HostUnreachable` when nobody answered ARP or neighbour
    /// discovery (after about 3 s), `ConnectionRefused` when ICMP said that the port is closed.
    pub fn connect(&self, peer: SocketAddr) {
        self.peer.set(Some(peer));
        if let Some(local) = self.local.upgrade() {
            // A socket that is gone with its runtime says so at the next call.
            let _ = local.with(|shard, _| shard.udp_connect(self.id, peer));
        }
    }

    /// The address given to [`UdpSocket::connect`].
    ///
    /// # Errors
    /// `NotConnected` without one.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.peer.get().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends one datagram; waits while the socket's send buffer is full. Dropped before it completes, nothing is sent.
    ///
    /// # Errors
    /// When the datagram is too long or there is no route.
    pub async fn send_to(&self, bytes: &[u8], peer: SocketAddr) -> io::Result<usize> {
        self.senders.wait(|waker| self.poll_send_to(waker, bytes, peer)).await
    }

    pub(in crate::runtime) fn poll_send_to(
        &self,
        waker: &Waker,
        bytes: &[u8],
        peer: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.poll(|shard| shard.udp_poll_send_to(self.id, bytes, peer, waker))
    }

    /// Receives one datagram: the bytes copied and its sender. What does not fit `bytes` is cut off, as by
    /// `recvfrom(2)`. Cancel safe.
    ///
    /// # Errors
    /// When the runtime has ended.
    pub async fn recv_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.recv_from_with(bytes).await.map(|(len, sender, _)| (len, sender))
    }

    /// As [`UdpSocket::recv_from`]; also what the datagram had in its IP header (`IP_RECVTOS`, `IP_RECVTTL`).
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub async fn recv_from_with(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr, IpFields)> {
        self.receivers.wait(|waker| self.poll_recv_from(waker, bytes)).await
    }

    /// `IP_TOS` and `IP_TTL`, or `IPV6_TCLASS` and `IPV6_UNICAST_HOPS`: what datagrams have in their IP header from the next
    /// burst on, multicast ones included. The two ECN bits are sent as they are here.
    ///
    /// # Errors
    /// `InvalidInput` for a hop limit of 0; when the runtime has ended.
    pub fn set_ip_fields(&self, ip: IpFields) -> io::Result<()> {
        let local = self.local.upgrade().ok_or_else(local::gone)?;
        local.with(|shard, _| shard.udp_set_ip_fields(self.id, ip))?.map_err(net_error)
    }

    pub(in crate::runtime) fn poll_recv_from(
        &self,
        waker: &Waker,
        bytes: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr, IpFields)>> {
        loop {
            match self.poll(|shard| shard.udp_poll_recv_from(self.id, bytes, waker)) {
                Poll::Ready(Ok((_, sender, _))) if self.peer.get().is_some_and(|peer| peer != sender) => {}
                received => return received,
            }
        }
    }

    /// Sends one datagram to the address given to [`UdpSocket::connect`].
    ///
    /// # Errors
    /// As [`UdpSocket::send_to`]; `NotConnected` without such an address.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send_to(bytes, self.peer_addr()?).await
    }

    /// Receives one datagram from the address given to [`UdpSocket::connect`].
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`]; `NotConnected` without such an address.
    pub async fn recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.peer_addr()?;
        self.recv_from(bytes).await.map(|(len, _)| len)
    }

    fn poll<T>(&self, call: impl FnOnce(&mut Shard) -> Poll<Result<T, NetError>>) -> Poll<io::Result<T>> {
        let local = self.local.upgrade().ok_or_else(local::gone);
        match local.and_then(|local| local.with(|shard, _| call(shard))) {
            Ok(polled) => polled.map_err(net_error),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if let Some(local) = self.local.upgrade() {
            // Datagrams that were sent just before are still in the socket: they leave with the next burst.
            let id = self.id;
            local.release_later(move |shard, _| shard.udp_close(id));
        }
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").field("local_addr", &self.local_addr().ok()).finish_non_exhaustive()
    }
}
