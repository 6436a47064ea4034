//! Connected TCP sockets of a shard: [`TcpStream`] and its halves. Bytes go straight between the caller's
//! buffer and the engine's queues; there is no buffer in between in which they could be lost.

use core::cell::{OnceCell, RefCell};
use core::fmt;
use core::future::{Future as _, poll_fn};
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::rc::{Rc, Weak};

use bytes::Bytes;

use super::handover::Handover;
use crate::runtime::local::{self, Local};
use crate::runtime::time::{Sleep, sleep};
use crate::tcp::{Chunk, ConnId, IpFields, Shutdown, SocketOptions, Tcp, TcpError, TcpInfo};
use crate::time::{Duration, Instant};

/// Keepalive's times: `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection is dropped.
    pub count: u8,
}

impl Default for Keepalive {
    /// Linux's: 2 h, 75 s, 9.
    fn default() -> Self {
        Self { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), count: 9 }
    }
}

/// A connection. Dropping it closes it gracefully: what was written is still sent, then FIN; RST instead when received
/// data was never read (RFC 9293 section 3.10.4, RFC 1122 section 4.2.2.13), the option `linger` is zero, or the task
/// that owns it panics, so that half an answer never looks like a whole one.
pub struct TcpStream {
    pub(in crate::runtime) inner: Inner,
}

impl TcpStream {
    /// The stream of a connection of that shard.
    pub(super) fn of(local: &Rc<Local>, id: ConnId) -> Self {
        Self { inner: Inner::new(local, id) }
    }

    /// Opens a connection to `remote` from the address the route suggests and a port of our choice.
    ///
    /// # Errors
    /// `ConnectionRefused`, `TimedOut`, `HostUnreachable`, `NetworkUnreachable` and so on, as from `connect(2)`.
    pub async fn connect(remote: SocketAddr) -> io::Result<Self> {
        let options = local::required()?.socket_options();
        Self::connect_with(None, remote, options).await
    }

    /// As [`TcpStream::connect`], from `local` (its port 0: chosen) and with `options`. Dropped before it completes,
    /// the attempt is given up.
    ///
    /// # Errors
    /// As [`TcpStream::connect`]; `AddrInUse` and `AddrNotAvailable` for `local`.
    pub async fn connect_with(
        local_addr: Option<SocketAddr>,
        remote: SocketAddr,
        options: SocketOptions,
    ) -> io::Result<Self> {
        let local = local::required()?;
        local.settle_steering();
        let id = local.with(|shard, now| shard.tcp_connect(now, local_addr, remote, options))??;
        let inner = Inner::new(&local, id);
        local.apply_steering()?;
        drop(local);
        poll_fn(|cx| inner.poll_tcp(|tcp, _, id| tcp.poll_connected(id, cx.waker()))).await?;
        Ok(Self { inner })
    }

    /// Opens a connection and writes `bytes` to it: in the SYN, if this shard has a Fast Open cookie of the server (RFC
    /// 7413), so that the answer comes a round trip earlier; otherwise behind the handshake, which asks for a cookie then.
    /// Whatever the network and the server make of it, the server gets the bytes once in this connection;
    /// [`TcpInfo::fastopen_syn_data`] tells how. But a duplicate of the SYN may bring them again in a connection of its own:
    /// send only what may be done twice (RFC 7413 section 6.1).
    ///
    /// # Errors
    /// As [`TcpStream::connect`] and writing.
    pub async fn connect_with_data(remote: SocketAddr, bytes: &[u8]) -> io::Result<Self> {
        let options = local::required()?.socket_options();
        Self::connect_with_data_with(None, remote, options, bytes).await
    }

    /// As [`TcpStream::connect_with_data`], from `local` (its port 0: chosen) and with `options`.
    ///
    /// # Errors
    /// As [`TcpStream::connect_with`] and writing.
    pub async fn connect_with_data_with(
        local_addr: Option<SocketAddr>,
        remote: SocketAddr,
        options: SocketOptions,
        bytes: &[u8],
    ) -> io::Result<Self> {
        let local = local::required()?;
        local.settle_steering();
        let (id, taken) = local
            .with(|shard, now| shard.tcp_connect_with_data(now, local_addr, remote, options, bytes))??;
        let inner = Inner::new(&local, id);
        local.apply_steering()?;
        drop(local);
        poll_fn(|cx| inner.poll_tcp(|tcp, _, id| tcp.poll_connected(id, cx.waker()))).await?;
        let mut stream = Self { inner };
        stream.write_all(&bytes[taken..]).await?;
        Ok(stream)
    }

    /// Where a body notes the bytes that it gives to hyper, or to any other code between it and this stream that writes slices
    /// of them as they are: the send buffer then keeps runs of 4 KiB or more as they are, as with
    /// [`TcpStream::write_bytes`].
    pub fn handover(&self) -> Handover {
        self.inner.handover.get_or_init(Handover::default).clone()
    }

    /// Both directions at once, for as long as the stream is borrowed.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf { inner: &self.inner }, WriteHalf { inner: &self.inner })
    }

    /// Both directions, for different tasks. Dropping the write half shuts down writing; the connection is closed when
    /// both are gone.
    #[must_use]
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let inner = Rc::new(self.inner);
        (OwnedReadHalf { inner: Rc::clone(&inner) }, OwnedWriteHalf { inner, shutdown_on_drop: true })
    }

    /// Shuts down one or both directions, as `shutdown(2)`.
    ///
    /// # Errors
    /// `NotConnected` after the connection's end.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.inner.tcp(|tcp, now, id| tcp.shutdown(now, id, how))
    }

    /// Sends what is left and FIN, and waits until the peer has acknowledged all of it. Dropped before it completes,
    /// the connection goes on closing.
    ///
    /// # Errors
    /// What ended the connection before everything was acknowledged.
    pub async fn close(mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)?;
        self.flushed().await
    }

    /// Ends the connection with RST; what was not sent is lost.
    pub fn abort(self) {
        let _ = self.inner.tcp(|tcp, now, id| {
            tcp.abort(now, id);
            Ok(())
        });
    }

    /// Changes several options at once: those of [`TcpStream::options`], edited.
    ///
    /// # Errors
    /// `InvalidInput` for a value out of its bounds, `NotConnected` after the connection's end.
    pub fn set_options(&self, options: SocketOptions) -> io::Result<()> {
        self.inner.tcp(|tcp, now, id| tcp.set_options(now, id, options))
    }

    fn edit_options(&self, edit: impl FnOnce(&mut SocketOptions)) -> io::Result<()> {
        let mut options = self.options()?;
        edit(&mut options);
        self.set_options(options)
    }

    /// `TCP_NODELAY`: small segments are sent at once (no Nagle algorithm).
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.edit_options(|options| options.nodelay = nodelay)
    }

    /// `TCP_CORK`: only full segments are sent until it is cleared.
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_cork(&self, cork: bool) -> io::Result<()> {
        self.edit_options(|options| options.cork = cork)
    }

    /// `TCP_QUICKACK`: received data is acknowledged at once.
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        self.edit_options(|options| options.quickack = quickack)
    }

    /// `SO_KEEPALIVE` with its times, or off.
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        self.edit_options(|options| set_keepalive(options, keepalive))
    }

    /// `SO_LINGER`: how closing treats unsent data; zero closes with RST.
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.edit_options(|options| options.linger = linger)
    }

    /// `TCP_USER_TIMEOUT` (RFC 9293 section 3.9.1.8): how long data may stay unacknowledged before the connection is
    /// dropped.
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.edit_options(|options| options.user_timeout = timeout)
    }

    /// `TCP_MAXSEG`: bound on the payload of a segment that is sent from now on, bytes ([`SocketOptions::maxseg`]).
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_maxseg(&self, maxseg: Option<u16>) -> io::Result<()> {
        self.edit_options(|options| options.maxseg = maxseg)
    }

    /// `TCP_WINDOW_CLAMP`: bound on the receive window announced from now on, bytes ([`SocketOptions::window_clamp`]).
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_window_clamp(&self, clamp: Option<u32>) -> io::Result<()> {
        self.edit_options(|options| options.window_clamp = clamp)
    }

    /// `IP_TOS` and `IP_TTL`, or `IPV6_TCLASS` and `IPV6_UNICAST_HOPS`, from the next segment on.
    ///
    /// # Errors
    /// As [`TcpStream::set_options`].
    pub fn set_ip_fields(&self, ip: IpFields) -> io::Result<()> {
        self.edit_options(|options| options.ip = ip)
    }

    /// How long one read waits for data before it fails with `TimedOut`; the stream stays usable. `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.inner.set_timeout(Direction::Read, timeout);
    }

    /// How long one write waits for room before it fails with `TimedOut`; the stream stays usable. `None`: for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.inner.set_timeout(Direction::Write, timeout);
    }
}

pub(in crate::runtime) fn set_keepalive(options: &mut SocketOptions, keepalive: Option<Keepalive>) {
    options.keepalive = keepalive.is_some();
    if let Some(Keepalive { idle, interval, count }) = keepalive {
        options.keepalive_idle = idle;
        options.keepalive_interval = interval;
        options.keepalive_count = count;
    }
}

/// A direction of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::runtime) enum Direction {
    Read,
    Write,
}

/// One direction's time limit and, while something waits, its timer.
#[derive(Default)]
struct Limit {
    timeout: Option<Duration>,
    sleep: Option<Sleep>,
}

/// What a stream and its halves share: the connection, which is closed with it.
pub(in crate::runtime) struct Inner {
    local: Weak<Local>,
    id: ConnId,
    /// Time limits for reading and writing; allocated when one is set.
    limits: RefCell<Option<Box<[Limit; 2]>>>,
    /// What bodies noted, once there is one that does.
    handover: OnceCell<Handover>,
}

impl Inner {
    fn new(local: &Rc<Local>, id: ConnId) -> Self {
        Self { local: Rc::downgrade(local), id, limits: RefCell::new(None), handover: OnceCell::new() }
    }

    pub(in crate::runtime) fn id(&self) -> ConnId {
        self.id
    }

    /// Calls the engine.
    fn tcp<T>(&self, call: impl FnOnce(&mut Tcp, Instant, ConnId) -> Result<T, TcpError>) -> io::Result<T> {
        let local = self.local.upgrade().ok_or_else(local::gone)?;
        Ok(local.with(|shard, now| call(shard.tcp(), now, self.id))??)
    }

    /// Calls the engine for something that may have to wait.
    fn poll_tcp<T>(
        &self,
        call: impl FnOnce(&mut Tcp, Instant, ConnId) -> Poll<Result<T, TcpError>>,
    ) -> Poll<io::Result<T>> {
        let local = self.local.upgrade().ok_or_else(local::gone);
        match local.and_then(|local| local.with(|shard, now| call(shard.tcp(), now, self.id))) {
            Ok(polled) => polled.map_err(io::Error::from),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub(in crate::runtime) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.poll_tcp(|tcp, now, id| tcp.poll_recv(now, id, bytes, cx.waker()));
        self.limit(Direction::Read, cx, polled)
    }

    /// Gives at most `max` bytes to `take`, run by run, and returns how many. For readers whose own buffer is not
    /// initialised.
    pub(in crate::runtime) fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        max: usize,
        take: impl FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let polled = self.poll_tcp(|tcp, now, id| tcp.poll_recv_with(now, id, max, cx.waker(), take));
        self.limit(Direction::Read, cx, polled)
    }

    /// Reads what is there, at most `max` bytes.
    pub(in crate::runtime) fn poll_read_vec(
        &self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<Vec<u8>>> {
        let readable = self.tcp(|tcp, _, id| tcp.readable(id)).unwrap_or(0);
        let mut bytes = Vec::with_capacity(readable.min(max));
        self.poll_read_with(cx, max, |run| bytes.extend_from_slice(run)).map_ok(|_| bytes)
    }

    fn poll_read_chunk(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        let polled = self.poll_tcp(|tcp, now, id| tcp.poll_recv_chunk(now, id, cx.waker()));
        self.limit(Direction::Read, cx, polled)
    }

    pub(in crate::runtime) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Some(handover) = self.handover.get()
            && let Some(mut handed) = handover.find(bytes)
        {
            let polled = self.poll_write_bytes(cx, &mut handed);
            if handed.is_empty() {
                handover.written(bytes);
            }
            return polled;
        }
        let polled = self.poll_tcp(|tcp, now, id| tcp.poll_send(now, id, bytes, cx.waker()));
        self.limit(Direction::Write, cx, polled)
    }

    /// Writes as much of `bytes` as there is room for, and takes it out of them.
    pub(in crate::runtime) fn poll_write_bytes(
        &self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let polled = self.poll_tcp(|tcp, now, id| tcp.poll_send_bytes(now, id, bytes, cx.waker()));
        self.limit(Direction::Write, cx, polled)
    }

    fn poll_write_chunk(&self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<usize>> {
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let polled = self.poll_tcp(|tcp, now, id| tcp.poll_send_chunk(now, id, chunk, cx.waker()));
        self.limit(Direction::Write, cx, polled)
    }

    /// Writes as much of `slices`, in order, as there is room for.
    pub(in crate::runtime) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            match self.poll_write(cx, slice) {
                Poll::Ready(Ok(written)) => {
                    total += written;
                    if written < slice.len() {
                        break;
                    }
                }
                // What was written counts; the error or the wait comes back with the next call.
                _ if total > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(total))
    }

    fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_tcp(|tcp, _, id| tcp.poll_flushed(id, cx.waker()));
        self.limit(Direction::Write, cx, polled)
    }

    /// Shuts down writing; a stream whose connection has ended is shut down already.
    pub(in crate::runtime) fn shutdown_write(&self) -> io::Result<()> {
        match self.tcp(|tcp, now, id| tcp.shutdown(now, id, Shutdown::Write)) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    fn set_timeout(&self, direction: Direction, timeout: Option<Duration>) {
        let mut limits = self.limits.borrow_mut();
        if timeout.is_some() || limits.is_some() {
            limits.get_or_insert_default()[direction as usize] = Limit { timeout, sleep: None };
        }
    }

    /// Turns waiting beyond the direction's time limit into an error.
    fn limit<T>(
        &self,
        direction: Direction,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut limits = self.limits.borrow_mut();
        let Some(limit) = limits.as_mut().map(|limits| &mut limits[direction as usize]) else {
            return polled;
        };
        let Some(timeout) = limit.timeout else { return polled };
        if polled.is_pending() {
            let timer = limit.sleep.get_or_insert_with(|| sleep(timeout));
            if Pin::new(timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            limit.sleep = None;
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        limit.sleep = None;
        polled
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(local) = self.local.upgrade() {
            let (id, panicking) = (self.id, std::thread::panicking());
            local.release(move |shard, now| match panicking {
                true => shard.tcp().abort(now, id),
                false => shard.tcp().close(now, id),
            });
        }
    }
}

/// The reading direction of a borrowed stream, from [`TcpStream::split`].
pub struct ReadHalf<'a> {
    pub(in crate::runtime) inner: &'a Inner,
}

/// The writing direction of a borrowed stream, from [`TcpStream::split`].
pub struct WriteHalf<'a> {
    pub(in crate::runtime) inner: &'a Inner,
}

/// The reading direction of a stream, from [`TcpStream::into_split`].
pub struct OwnedReadHalf {
    pub(in crate::runtime) inner: Rc<Inner>,
}

impl OwnedReadHalf {
    /// Makes a stream of its halves again.
    ///
    /// # Errors
    /// Both halves, when they are not of one stream.
    pub fn reunite(self, mut write: OwnedWriteHalf) -> Result<TcpStream, ReuniteError> {
        if !Rc::ptr_eq(&self.inner, &write.inner) {
            return Err(ReuniteError(self, write));
        }
        write.shutdown_on_drop = false;
        drop(write);
        match Rc::try_unwrap(self.inner) {
            Ok(inner) => Ok(TcpStream { inner }),
            Err(_) => unreachable!("a stream has two halves"),
        }
    }
}

/// The writing direction of a stream, from [`TcpStream::into_split`]. Dropping it shuts down writing.
pub struct OwnedWriteHalf {
    pub(in crate::runtime) inner: Rc<Inner>,
    shutdown_on_drop: bool,
}

impl OwnedWriteHalf {
    /// Drops the half without shutting down writing: the connection stays open both ways until the read half is
    /// dropped.
    pub fn forget(mut self) {
        self.shutdown_on_drop = false;
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        if let Some(local) = self.inner.local.upgrade().filter(|_| self.shutdown_on_drop) {
            let id = self.inner.id;
            local.release(move |shard, now| {
                let _ = shard.tcp().shutdown(now, id, Shutdown::Write);
            });
        }
    }
}

/// Halves of different streams were given to [`OwnedReadHalf::reunite`]; here they are again.
#[derive(Debug, thiserror::Error)]
#[error("these are halves of two different streams")]
pub struct ReuniteError(pub OwnedReadHalf, pub OwnedWriteHalf);

/// What can be asked of a stream and of any half.
macro_rules! query_methods {
    ($($stream:ty),*) => {$(
        impl $stream {
            /// The peer's address.
            ///
            /// # Errors
            /// `NotConnected` after the runtime's end.
            pub fn peer_addr(&self) -> io::Result<SocketAddr> {
                self.inner.tcp(|tcp, _, id| tcp.tuple(id)).map(|tuple| tuple.remote)
            }

            /// Our address.
            ///
            /// # Errors
            /// `NotConnected` after the runtime's end.
            pub fn local_addr(&self) -> io::Result<SocketAddr> {
                self.inner.tcp(|tcp, _, id| tcp.tuple(id)).map(|tuple| tuple.local)
            }

            /// What `getsockopt(TCP_INFO)` tells.
            ///
            /// # Errors
            /// `NotConnected` after the connection's end.
            pub fn info(&self) -> io::Result<TcpInfo> {
                self.inner.tcp(|tcp, now, id| tcp.info(now, id))
            }

            /// All options.
            ///
            /// # Errors
            /// `NotConnected` after the connection's end.
            pub fn options(&self) -> io::Result<SocketOptions> {
                self.inner.tcp(|tcp, _, id| tcp.options(id))
            }
        }

        impl fmt::Debug for $stream {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let (local, peer) = (self.local_addr().ok(), self.peer_addr().ok());
                f.debug_struct(stringify!($stream)).field("local", &local).field("peer", &peer).finish()
            }
        }
    )*};
}

query_methods!(TcpStream, ReadHalf<'_>, WriteHalf<'_>, OwnedReadHalf, OwnedWriteHalf);

/// Reading.
macro_rules! read_methods {
    ($($stream:ty),*) => {$(
        impl $stream {
            /// Reads what is there, at least one byte; 0 at the peer's FIN. Cancel safe.
            ///
            /// # Errors
            /// `ConnectionReset` and the like; what arrived before is read first.
            pub async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                poll_fn(|cx| self.inner.poll_read(cx, bytes)).await
            }

            /// Reads the next run of bytes without copying it; `None` at the peer's FIN. A chunk holds a frame of
            /// the packet pool: let go of it soon. Cancel safe.
            ///
            /// # Errors
            /// As for `read`.
            pub async fn read_chunk(&mut self) -> io::Result<Option<Chunk>> {
                poll_fn(|cx| self.inner.poll_read_chunk(cx)).await
            }
        }

        impl futures_io::AsyncRead for $stream {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.inner.poll_read(cx, bytes)
            }
        }
    )*};
}

read_methods!(TcpStream, ReadHalf<'_>, OwnedReadHalf);

/// Writing.
macro_rules! write_methods {
    ($($stream:ty),*) => {$(
        impl $stream {
            /// Writes as many bytes as the send buffer has room for, at least one. Cancel safe: a write that did not
            /// complete wrote nothing.
            ///
            /// # Errors
            /// `ConnectionReset`, `BrokenPipe` after a shutdown, and the like.
            pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                poll_fn(|cx| self.inner.poll_write(cx, bytes)).await
            }

            /// Writes all bytes. Dropped before it completes, an unknown part of them was written.
            ///
            /// # Errors
            /// As for `write`.
            pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let written = self.write(rest).await?;
                    rest = &rest[written..];
                }
                Ok(())
            }

            /// Writes all of `bytes` (a `Vec<u8>` becomes one as it is). Runs of 4 KiB or more are not copied: the send
            /// buffer keeps them until they are acknowledged, and they are read once, into the frames that are sent. What
            /// else their allocation holds stays with them. Dropped before it completes, an unknown part of them was written.
            ///
            /// # Errors
            /// As for `write`.
            pub async fn write_bytes(&mut self, bytes: impl Into<Bytes>) -> io::Result<()> {
                let mut bytes = bytes.into();
                while !bytes.is_empty() {
                    poll_fn(|cx| self.inner.poll_write_bytes(cx, &mut bytes)).await?;
                }
                Ok(())
            }

            /// Writes all of a chunk that was received, on this stream or another of the shard. 1 KiB or more that make use
            /// of their frame are not copied on the way: the send buffer keeps the frame until they are acknowledged, unless
            /// frames are scarce. Dropped before it completes, an unknown part of it was written.
            ///
            /// # Errors
            /// As for `write`.
            pub async fn write_chunk(&mut self, chunk: Chunk) -> io::Result<()> {
                let mut chunk = chunk;
                while !chunk.is_empty() {
                    poll_fn(|cx| self.inner.poll_write_chunk(cx, &mut chunk)).await?;
                }
                Ok(())
            }

            /// Waits until the peer has acknowledged everything written, and FIN after a shutdown.
            ///
            /// # Errors
            /// What ended the connection before.
            pub async fn flushed(&mut self) -> io::Result<()> {
                poll_fn(|cx| self.inner.poll_flushed(cx)).await
            }
        }

        impl futures_io::AsyncWrite for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.inner.poll_write(cx, bytes)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.inner.poll_write_vectored(cx, slices)
            }

            /// Nothing to do: bytes written are on their way (but see `flushed`).
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            /// Shuts down writing.
            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.inner.shutdown_write())
            }
        }
    )*};
}

write_methods!(TcpStream, WriteHalf<'_>, OwnedWriteHalf);
