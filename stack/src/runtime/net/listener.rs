//! Listening TCP sockets of a shard: [`TcpListener`].

use core::fmt;
use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::tcp::TcpStream;
use super::waiters::Waiters;
use crate::limits;
use crate::runtime::local::{self, Local};
use crate::tcp::{ListenerId, SocketOptions};

/// A listening socket of one shard. Listeners on the same port of different shards share it, as with `SO_REUSEPORT`:
/// each accepts the connections that arrive at its queue.
pub struct TcpListener {
    local: Weak<Local>,
    id: ListenerId,
    waiters: Arc<Waiters>,
}

impl TcpListener {
    /// Listens on `addr` with [`limits::LISTEN_BACKLOG`] and the configuration's options. Port 0 is chosen; an
    /// unspecified address listens on all of ours of that family.
    ///
    /// # Errors
    /// When the address is taken or not ours, the NIC's steering refuses the port, or the runtime is shutting down.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let options = local::required()?.socket_options();
        Self::bind_with(addr, limits::LISTEN_BACKLOG, options)
    }

    /// As [`TcpListener::bind`], with up to `backlog` connections waiting for `accept` and with `options` for every
    /// connection accepted.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub fn bind_with(addr: SocketAddr, backlog: usize, options: SocketOptions) -> io::Result<Self> {
        let local = local::required()?;
        if local.is_draining() {
            return Err(shutting_down());
        }
        local.settle_steering();
        let id = local.with(|shard, _| shard.tcp_listen(addr, backlog, options))??;
        let listener = Self { local: Rc::downgrade(&local), id, waiters: Arc::default() };
        local.add_listener(id, Arc::clone(&listener.waiters));
        local.apply_steering()?;
        Ok(listener)
    }

    /// The address listened on, with the port chosen.
    ///
    /// # Errors
    /// When the listener was closed by a shutdown.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let local = self.local.upgrade().ok_or_else(local::gone)?;
        Ok(local.with(|shard, _| shard.tcp_ref().listener_addr(self.id))??)
    }

    /// Lets SYNs bring data (RFC 7413, `TCP_FASTOPEN`): up to `qlen` such connections may wait for the end of their handshake
    /// on this shard, 0 turns it off. [`SocketOptions::fastopen_qlen`] does so from the start. The application must bear
    /// getting a SYN's data twice, in two connections (RFC 7413 section 6.1).
    ///
    /// # Errors
    /// When the listener was closed by a shutdown.
    pub fn set_fastopen(&self, qlen: usize) -> io::Result<()> {
        let local = self.local.upgrade().ok_or_else(local::gone)?;
        Ok(local.with(|shard, _| shard.tcp().set_fastopen(self.id, qlen))??)
    }

    pub(in crate::runtime) fn id(&self) -> ListenerId {
        self.id
    }

    /// Waits for a connection and returns it with the peer's address. Several tasks may wait at a time. Cancel safe: a
    /// connection is taken in the step that completes.
    ///
    /// # Errors
    /// `ConnectionAborted` once the runtime shuts down, and for ever after: leave the loop.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.waiters.wait(|waker| self.poll_accept(waker)).await
    }

    pub(in crate::runtime) fn poll_accept(&self, waker: &Waker) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let Some(local) = self.local.upgrade() else { return Poll::Ready(Err(local::gone())) };
        let accepted = match local.with(|shard, _| shard.tcp().poll_accept(self.id, waker)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(accepted)) => accepted.map_err(io::Error::from),
            Err(error) => Err(error),
        };
        Poll::Ready(match accepted {
            Ok((id, peer)) => Ok((TcpStream::of(&local, id), peer)),
            Err(_) if local.is_draining() => Err(shutting_down()),
            Err(error) => Err(error),
        })
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if let Some(local) = self.local.upgrade() {
            local.remove_listener(self.id);
            let id = self.id;
            local.release(move |shard, now| {
                let _ = shard.tcp_close_listener(now, id);
            });
        }
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("local_addr", &self.local_addr().ok()).finish_non_exhaustive()
    }
}

fn shutting_down() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the runtime is shutting down")
}
