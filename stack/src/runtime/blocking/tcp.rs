//! Blocking TCP: a listener that accepts from all shards, and streams.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{FromShard, ToShard, ToThread, ask, may_block, own_waker, to_shard, to_thread};
use crate::limits;
use crate::runtime::control::{ControlError, Handle};
use crate::runtime::net::{self, Keepalive};
use crate::runtime::{local, spawn, time};
use crate::tcp::{ConnId, ListenerId, Shutdown, SocketOptions, TcpInfo};
use crate::time::Duration;

/// Rounds of a stream's task before it lets other tasks run.
const ROUNDS: usize = 16;

/// A listener on all shards.
pub struct TcpListener {
    accepted: Receiver<Accepted>,
    addr: SocketAddr,
    handle: Handle,
    queues: Vec<Arc<AcceptQueue>>,
}

/// A connection on its way to `accept`.
struct Accepted {
    stream: TcpStream,
    queue: Arc<AcceptQueue>,
}

/// One shard's part of a listener.
struct AcceptQueue {
    listener: ListenerId,
    /// Connections accepted by the shard that `accept` has not returned.
    waiting: AtomicUsize,
    /// Written when the listener is dropped.
    closed: AtomicBool,
    waker: Waker,
}

impl TcpListener {
    /// Listens on `addr` on every shard of the runtime; port 0 is chosen by the first.
    ///
    /// # Errors
    /// As [`net::TcpListener::bind`]; when the runtime has ended; `Unsupported` on a shard's thread.
    pub fn bind(handle: &Handle, addr: SocketAddr) -> io::Result<Self> {
        may_block()?;
        // The senders' shares add up to the capacity: sending never fails for want of room.
        let (sender, accepted) = crossbeam_channel::bounded(limits::BLOCKING_ACCEPTED * handle.shards());
        let mut listener = Self { accepted, addr, handle: handle.clone(), queues: Vec::new() };
        for shard in 0..handle.shards() {
            let (sender, runtime, addr) = (sender.clone(), handle.clone(), listener.addr);
            let (answer, bound) = crossbeam_channel::bounded(1);
            handle.spawn_on(shard, move || async move {
                let listener = match net::TcpListener::bind(addr).and_then(|own| Ok((own.local_addr()?, own)))
                {
                    Ok(listener) => listener,
                    Err(error) => return drop(answer.send(Err(error))),
                };
                let (addr, listener) = listener;
                let waker = own_waker().await;
                let queue = Arc::new(AcceptQueue {
                    listener: listener.id(),
                    waiting: AtomicUsize::new(0),
                    closed: AtomicBool::new(false),
                    waker,
                });
                if answer.send(Ok((addr, Arc::clone(&queue)))).is_ok() {
                    accept_all(&listener, &queue, &sender, &runtime, shard).await;
                }
            })?;
            let (addr, queue) = bound.recv().map_err(|_| ControlError::Ended)??;
            listener.addr = addr;
            listener.queues.push(queue);
        }
        Ok(listener)
    }

    /// The address listened on, with the port chosen.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets SYNs bring data, see [`net::TcpListener::set_fastopen`]; `qlen` counts for each shard.
    ///
    /// # Errors
    /// When the runtime has ended; `Unsupported` on a shard's thread.
    pub fn set_fastopen(&self, qlen: usize) -> io::Result<()> {
        for (shard, queue) in self.queues.iter().enumerate() {
            let id = queue.listener;
            ask(&self.handle, shard, move |local| {
                local.with(|shard, _| Ok(shard.tcp().set_fastopen(id, qlen)?))?
            })?;
        }
        Ok(())
    }

    /// Waits for a connection to any shard and returns it with the peer's address.
    ///
    /// # Errors
    /// `ConnectionAborted` once the runtime shuts down; `Unsupported` on a shard's thread.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept_within(None)
    }

    /// As [`TcpListener::accept`], for at most `timeout`.
    ///
    /// # Errors
    /// As [`TcpListener::accept`]; `TimedOut`.
    pub fn accept_timeout(&self, timeout: Duration) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept_within(Some(timeout))
    }

    fn accept_within(&self, timeout: Option<Duration>) -> io::Result<(TcpStream, SocketAddr)> {
        may_block()?;
        let accepted = match timeout {
            None => self.accepted.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(timeout) => self.accepted.recv_timeout(timeout),
        };
        let Accepted { stream, queue } = accepted.map_err(|error| match error {
            RecvTimeoutError::Timeout => io::Error::from(io::ErrorKind::TimedOut),
            RecvTimeoutError::Disconnected => {
                io::Error::new(io::ErrorKind::ConnectionAborted, "the runtime is shutting down")
            }
        })?;
        if queue.waiting.fetch_sub(1, Ordering::AcqRel) == limits::BLOCKING_ACCEPTED {
            queue.waker.wake_by_ref();
        }
        let peer = stream.peer_addr();
        Ok((stream, peer))
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.closed.store(true, Ordering::Release);
            queue.waker.wake_by_ref();
        }
    }
}

/// One shard's task of a listener: it ends with the listener or the runtime.
async fn accept_all(
    listener: &net::TcpListener,
    queue: &Arc<AcceptQueue>,
    sender: &Sender<Accepted>,
    runtime: &Handle,
    shard: usize,
) {
    core::future::poll_fn(|cx| {
        loop {
            if queue.closed.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            if queue.waiting.load(Ordering::Acquire) >= limits::BLOCKING_ACCEPTED {
                return Poll::Pending;
            }
            let Poll::Ready(accepted) = listener.poll_accept(cx.waker()) else { return Poll::Pending };
            let Ok((stream, peer)) = accepted else { return Poll::Ready(()) };
            queue.waiting.fetch_add(1, Ordering::AcqRel);
            let (queue, sender, runtime) = (Arc::clone(queue), sender.clone(), runtime.clone());
            let deliver = move |stream| drop(sender.try_send(Accepted { stream, queue }));
            spawn(Pump::run(stream, peer, runtime, shard, deliver)).detach();
        }
    })
    .await;
}

/// A connection, usable from any thread but a shard's. Clones are the same connection; it is closed gracefully when the
/// last has gone, after everything written was sent. `Read` and `Write` are implemented for references too, as for
/// std's.
#[derive(Clone)]
pub struct TcpStream(Arc<Inner>);

struct Inner {
    handle: Handle,
    shard: usize,
    id: ConnId,
    local_addr: SocketAddr,
    peer_addr: SocketAddr,
    /// The piece that `read` has begun, and how much of it was read. Reading threads take turns.
    reading: Mutex<(Vec<u8>, usize)>,
    received: FromShard<Vec<u8>>,
    sending: ToShard<Command>,
    link: Arc<Link>,
    read_timeout: Mutex<Option<Duration>>,
    write_timeout: Mutex<Option<Duration>>,
}

/// What a stream and its task share besides the channels.
#[derive(Default)]
struct Link {
    /// Written by the stream: all clones have gone.
    closed: AtomicBool,
    /// Written by the stream before `closed`: received bytes were not read.
    unread: AtomicBool,
    /// Written by the stream: no more is read.
    read_shut: AtomicBool,
    /// Written by the stream: no more is written.
    write_shut: AtomicBool,
    /// Written by the task: how reading ended; `None` is the peer's FIN.
    read_end: OnceLock<Option<io::ErrorKind>>,
    /// Written by the task: why writing is over.
    write_error: OnceLock<io::ErrorKind>,
}

/// What a stream's thread tells its task, in order.
enum Command {
    Write(Bytes),
    Shutdown,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TcpStream {
    /// Opens a connection to `remote`, from the next shard in turn.
    ///
    /// # Errors
    /// As [`net::TcpStream::connect`]; when the runtime has ended; `Unsupported` on a shard's thread.
    pub fn connect(handle: &Handle, remote: SocketAddr) -> io::Result<Self> {
        Self::connect_within(handle, remote, None, None)
    }

    /// As [`TcpStream::connect`], for at most `timeout`.
    ///
    /// # Errors
    /// As [`TcpStream::connect`]; `TimedOut`.
    pub fn connect_timeout(handle: &Handle, remote: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Self::connect_within(handle, remote, None, Some(timeout))
    }

    /// Opens a connection from the first shard and writes `bytes` to it, in the SYN where Fast Open allows: see
    /// [`net::TcpStream::connect_with_data`]. One shard opens all of these, as each shard has cookies of its own.
    ///
    /// # Errors
    /// As [`net::TcpStream::connect_with_data`]; when the runtime has ended; `Unsupported` on a shard's thread.
    pub fn connect_with_data(handle: &Handle, remote: SocketAddr, bytes: &[u8]) -> io::Result<Self> {
        Self::connect_within(handle, remote, Some(bytes.to_vec()), None)
    }

    fn connect_within(
        handle: &Handle,
        remote: SocketAddr,
        data: Option<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> io::Result<Self> {
        may_block()?;
        let shard = if data.is_some() { 0 } else { handle.next_shard() };
        let runtime = handle.clone();
        let (sender, connected) = crossbeam_channel::bounded(1);
        handle.spawn_on(shard, move || async move {
            let connect = async {
                match &data {
                    None => net::TcpStream::connect(remote).await,
                    Some(data) => net::TcpStream::connect_with_data(remote, data).await,
                }
            };
            let stream = match timeout {
                None => connect.await,
                Some(timeout) => time::timeout(timeout, connect).await.map_err(io::Error::from).flatten(),
            };
            match stream {
                Ok(stream) => {
                    let deliver = move |stream| drop(sender.send(Ok(stream)));
                    Pump::run(stream, remote, runtime, shard, deliver).await;
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        })?;
        connected.recv().map_err(|_| ControlError::Ended)?
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.peer_addr
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// Another handle of the same connection. It cannot fail; the `Result` is std's.
    ///
    /// # Errors
    /// None.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    /// How long one read waits before it fails with `TimedOut`, losing nothing; `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        *lock(&self.0.read_timeout) = timeout;
    }

    /// How long one write waits for room before it fails with `TimedOut`, having written nothing; `None`: for ever.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        *lock(&self.0.write_timeout) = timeout;
    }

    /// Shuts down one or both directions; what was written before is still sent, a thread that waits in `read` gets 0.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        may_block()?;
        let link = &self.0.link;
        if how != Shutdown::Write {
            link.read_shut.store(true, Ordering::Release);
            self.0.sending.waker.wake_by_ref();
        }
        if how != Shutdown::Read && !link.write_shut.swap(true, Ordering::AcqRel) {
            self.0.send(Command::Shutdown)?;
        }
        Ok(())
    }

    /// Writes all of `bytes` (a `Vec<u8>` becomes one as it is) without copying runs of 4 KiB or more: they are kept until
    /// the peer has acknowledged them. With a time limit, each 16 KiB of them may wait for that long, and when one fails,
    /// those before it were written.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_bytes(&self, bytes: impl Into<Bytes>) -> io::Result<()> {
        let mut bytes = bytes.into();
        self.0.may_write()?;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(limits::BLOCKING_PIECE_BYTES));
            self.0.send(Command::Write(piece))?;
        }
        Ok(())
    }

    /// `TCP_NODELAY`.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.edit_options(move |options| options.nodelay = nodelay)
    }

    /// `SO_KEEPALIVE` with its times, or off.
    ///
    /// # Errors
    /// When the connection has ended, or a value is out of its bounds.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        self.edit_options(move |options| net::set_keepalive(options, keepalive))
    }

    /// Edits the connection's options.
    ///
    /// # Errors
    /// When the connection has ended, or a value is out of its bounds.
    pub fn edit_options(&self, edit: impl FnOnce(&mut SocketOptions) + Send + 'static) -> io::Result<()> {
        let id = self.0.id;
        ask(&self.0.handle, self.0.shard, move |local| {
            local.with(|shard, now| {
                let mut options = shard.tcp_ref().options(id)?;
                edit(&mut options);
                Ok(shard.tcp().set_options(now, id, options)?)
            })?
        })
    }

    /// What `getsockopt(TCP_INFO)` tells.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn info(&self) -> io::Result<TcpInfo> {
        let id = self.0.id;
        ask(&self.0.handle, self.0.shard, move |local| {
            local.with(|shard, now| Ok(shard.tcp_ref().info(now, id)?))?
        })
    }
}

impl Inner {
    fn may_write(&self) -> io::Result<()> {
        may_block()?;
        if self.link.write_shut.load(Ordering::Acquire) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match self.link.write_error.get() {
            Some(&kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn send(&self, command: Command) -> io::Result<()> {
        let sent = self.sending.send(command, *lock(&self.write_timeout));
        sent.map_err(|error| match self.link.write_error.get() {
            Some(&kind) => kind.into(),
            None if error.kind() == io::ErrorKind::BrokenPipe => local::gone(),
            None => error,
        })
    }

    /// A closed channel means the peer's FIN, the connection's error, or else that the runtime has ended.
    fn read_end(&self) -> io::Result<usize> {
        match self.link.read_end.get() {
            Some(None) => Ok(0),
            Some(&Some(kind)) => Err(kind.into()),
            None => Err(local::gone()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (piece, read) = &*lock(&self.reading);
        let unread = *read < piece.len() || !self.received.receiver.is_empty();
        self.link.unread.store(unread, Ordering::Release);
        self.link.closed.store(true, Ordering::Release);
        self.sending.waker.wake_by_ref();
    }
}

impl Read for &TcpStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        may_block()?;
        let inner = &self.0;
        if bytes.is_empty() || inner.link.read_shut.load(Ordering::Acquire) {
            return Ok(0);
        }
        let timeout = *lock(&inner.read_timeout);
        let (piece, read) = &mut *lock(&inner.reading);
        if *read == piece.len() {
            match inner.received.recv(timeout) {
                Ok(next) => (*piece, *read) = (next, 0),
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Err(RecvTimeoutError::Disconnected) => return inner.read_end(),
            }
        }
        let len = bytes.len().min(piece.len() - *read);
        bytes[..len].copy_from_slice(&piece[*read..][..len]);
        *read += len;
        Ok(len)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.may_write()?;
        let piece = &bytes[..bytes.len().min(limits::BLOCKING_PIECE_BYTES)];
        if !piece.is_empty() {
            self.0.send(Command::Write(Bytes::copy_from_slice(piece)))?;
        }
        Ok(piece.len())
    }

    /// Nothing to do: bytes written are on their way.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self).read(bytes)
    }
}

impl Write for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl core::fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TcpStream")
            .field("local", &self.local_addr())
            .field("peer", &self.peer_addr())
            .finish()
    }
}

impl core::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TcpListener").field("local", &self.addr).finish_non_exhaustive()
    }
}

/// A stream's task: moves bytes between the connection and the channels until all clones of the stream have gone and
/// what they wrote was sent.
struct Pump {
    stream: net::TcpStream,
    link: Arc<Link>,
    commands: Receiver<Command>,
    /// What is left of the piece being written.
    writing: Bytes,
    /// `None` once reading has ended.
    received: Option<ToThread<Vec<u8>>>,
}

impl Pump {
    /// Hands the stream's thread side to `deliver`, then runs the task.
    async fn run(
        stream: net::TcpStream,
        peer_addr: SocketAddr,
        handle: Handle,
        shard: usize,
        deliver: impl FnOnce(TcpStream),
    ) {
        let waker = own_waker().await;
        // A connection that has ended already is delivered all the same: reading tells how it ended.
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let (received, from_shard) = to_thread(limits::BLOCKING_PIECES, waker.clone());
        let (sending, commands) = to_shard(limits::BLOCKING_PIECES, waker);
        let link = Arc::<Link>::default();
        deliver(TcpStream(Arc::new(Inner {
            handle,
            shard,
            id: stream.inner.id(),
            local_addr: stream.local_addr().unwrap_or(unspecified),
            peer_addr,
            reading: Mutex::default(),
            received: from_shard,
            sending,
            link: Arc::clone(&link),
            read_timeout: Mutex::default(),
            write_timeout: Mutex::default(),
        })));
        let mut pump = Self { stream, link, commands, writing: Bytes::new(), received: Some(received) };
        core::future::poll_fn(|cx| pump.poll(cx)).await;
        if pump.link.unread.load(Ordering::Acquire) {
            // Received data will never be read: tell the peer by RST (RFC 1122 section 4.2.2.13), but not before what
            // was written has arrived.
            let _ = pump.stream.flushed().await;
            pump.stream.abort();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            // Looked at first: the last commands were sent before it.
            let closed = self.link.closed.load(Ordering::Acquire);
            let read = !closed && self.read(cx);
            let wrote = self.write(cx);
            if closed && !wrote && (self.is_written() || self.link.write_error.get().is_some()) {
                return Poll::Ready(());
            }
            if !read && !wrote {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_written(&self) -> bool {
        self.writing.is_empty() && self.commands.is_empty()
    }

    /// Takes one piece off the connection, if there is room for it; returns whether it did.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(received) = &self.received else { return false };
        if self.link.read_shut.load(Ordering::Acquire) {
            let _ = self.stream.shutdown(Shutdown::Read);
            self.end_reading(None);
            return false;
        }
        if !received.has_room() {
            return false;
        }
        let polled = self.stream.inner.poll_read_vec(cx, limits::BLOCKING_PIECE_BYTES);
        let Poll::Ready(piece) = polled else { return false };
        match piece {
            Ok(piece) if piece.is_empty() => self.end_reading(None),
            Ok(piece) => received.send(piece),
            Err(error) => self.end_reading(Some(error.kind())),
        }
        true
    }

    fn end_reading(&mut self, error: Option<io::ErrorKind>) {
        let _ = self.link.read_end.set(error);
        self.received = None;
    }

    /// Carries out one command, or a part of it; returns whether it did.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.writing.is_empty() {
            match self.commands.try_recv() {
                Ok(Command::Write(next)) => self.writing = next,
                Ok(Command::Shutdown) => {
                    let _ = self.stream.shutdown(Shutdown::Write);
                    return true;
                }
                Err(_) => return false,
            }
        }
        match self.stream.inner.poll_write_bytes(cx, &mut self.writing) {
            Poll::Pending => return false,
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => {
                // Nothing more can be sent: forget what is left, so that no writer waits for room in vain.
                let _ = self.link.write_error.set(error.kind());
                self.writing.clear();
            }
        }
        true
    }
}
