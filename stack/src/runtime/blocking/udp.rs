//! Blocking UDP.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Receiver;

use super::{FromShard, ToShard, ToThread, may_block, own_waker, to_shard, to_thread};
use crate::limits;
use crate::runtime::control::{ControlError, Handle};
use crate::runtime::{local, net};
use crate::tcp::IpFields;
use crate::time::Duration;

/// Rounds of a socket's task before it lets other tasks run.
const ROUNDS: usize = 64;

/// A datagram and whom it is from or to.
type Datagram = (Vec<u8>, SocketAddr);

/// A UDP socket: on all shards when it is bound to a port, on the first alone when its port is chosen (the stack brings
/// replies to it there).
pub struct UdpSocket {
    addr: SocketAddr,
    /// One task a shard.
    tasks: Vec<Tasked>,
    read_timeout: Mutex<Option<Duration>>,
}

/// The ends of one shard's task.
struct Tasked {
    received: FromShard<Datagram>,
    sending: ToShard<Datagram>,
    link: Arc<Link>,
}

#[derive(Default)]
struct Link {
    /// Written by the socket when it is dropped.
    closed: AtomicBool,
    /// Written by the task: what a datagram could not be sent for; taken by the next `send_to`, as by `SO_ERROR`.
    error: Mutex<Option<io::Error>>,
    /// Written by the socket: what datagrams have in their IP header from the next on; taken by the task.
    ip: Mutex<Option<IpFields>>,
}

impl UdpSocket {
    /// Binds `addr` on every shard, or, when its port is 0, a port of the stack's choice on the first.
    ///
    /// # Errors
    /// As [`net::UdpSocket::bind`]; when the runtime has ended; `Unsupported` on a shard's thread.
    pub fn bind(handle: &Handle, addr: SocketAddr) -> io::Result<Self> {
        may_block()?;
        let shards = if addr.port() == 0 { 1 } else { handle.shards() };
        let mut socket = Self { addr, tasks: Vec::with_capacity(shards), read_timeout: Mutex::default() };
        for shard in 0..shards {
            let (answer, bound) = crossbeam_channel::bounded(1);
            handle.spawn_on(shard, move || async move {
                let bound = net::UdpSocket::bind(addr).and_then(|own| Ok((own.local_addr()?, own)));
                match bound {
                    Ok((addr, socket)) => {
                        let (task, pump) = Pump::new(socket).await;
                        if answer.send(Ok((addr, task))).is_ok() {
                            pump.run().await;
                        }
                    }
                    Err(error) => drop(answer.send(Err(error))),
                }
            })?;
            let (addr, task) = bound.recv().map_err(|_| ControlError::Ended)??;
            socket.addr = addr;
            socket.tasks.push(task);
        }
        Ok(socket)
    }

    /// The address bound, with the port chosen.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// How long one receive waits before it fails with `TimedOut`; `None`: for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        *self.read_timeout.lock().unwrap_or_else(PoisonError::into_inner) = timeout;
    }

    /// `IP_TOS` and `IP_TTL`, or `IPV6_TCLASS` and `IPV6_UNICAST_HOPS`, of all datagrams sent after this; the two ECN bits are
    /// sent as they are here.
    ///
    /// # Errors
    /// `InvalidInput` for a hop limit of 0.
    pub fn set_ip_fields(&self, ip: IpFields) -> io::Result<()> {
        if ip.hop_limit == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a hop limit of 0; at least 1"));
        }
        for task in &self.tasks {
            *task.link.ip.lock().unwrap_or_else(PoisonError::into_inner) = Some(ip);
        }
        Ok(())
    }

    /// Sends one datagram; waits while [`limits::BLOCKING_DATAGRAMS`] are on their way to the shard.
    ///
    /// # Errors
    /// When the datagram is longer than [`limits::UDP_PAYLOAD_BYTES`], the runtime has ended, or an earlier datagram
    /// could not be sent.
    pub fn send_to(&self, bytes: &[u8], peer: SocketAddr) -> io::Result<usize> {
        may_block()?;
        if bytes.len() > limits::UDP_PAYLOAD_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a datagram of {} bytes; UDP carries {}", bytes.len(), limits::UDP_PAYLOAD_BYTES),
            ));
        }
        let task = self.tasks.first().ok_or_else(local::gone)?;
        if let Some(error) = task.link.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        task.sending.send((bytes.to_vec(), peer), None).map_err(|_| local::gone())?;
        Ok(bytes.len())
    }

    /// Receives one datagram from any shard: the bytes copied and its sender. What does not fit `bytes` is cut off.
    ///
    /// # Errors
    /// `TimedOut`; when the runtime has ended.
    pub fn recv_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        may_block()?;
        let timeout = *self.read_timeout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut select = crossbeam_channel::Select::new();
        for task in &self.tasks {
            select.recv(&task.received.receiver);
        }
        let ready = match timeout {
            None => select.select(),
            Some(timeout) => {
                select.select_timeout(timeout).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
        };
        let task = &self.tasks[ready.index()];
        let received = ready.recv(&task.received.receiver);
        task.received.made_room();
        let (datagram, sender) = received.map_err(|_| local::gone())?;
        let len = datagram.len().min(bytes.len());
        bytes[..len].copy_from_slice(&datagram[..len]);
        Ok((len, sender))
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.link.closed.store(true, Ordering::Release);
            task.sending.waker.wake_by_ref();
        }
    }
}

impl core::fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("UdpSocket").field("local", &self.addr).finish_non_exhaustive()
    }
}

/// A socket's task on one shard. It ends when the socket was dropped and what that sent is on its way.
struct Pump {
    socket: net::UdpSocket,
    received: ToThread<Datagram>,
    outgoing: Receiver<Datagram>,
    /// The datagram for which the socket's buffer has no room yet.
    sending: Option<Datagram>,
    link: Arc<Link>,
    buffer: Box<[u8]>,
}

impl Pump {
    async fn new(socket: net::UdpSocket) -> (Tasked, Self) {
        let waker = own_waker().await;
        let (received, from_shard) = to_thread(limits::BLOCKING_DATAGRAMS, waker.clone());
        let (sending, outgoing) = to_shard(limits::BLOCKING_DATAGRAMS, waker);
        let link = Arc::<Link>::default();
        let tasked = Tasked { received: from_shard, sending, link: Arc::clone(&link) };
        let buffer = vec![0; limits::UDP_PAYLOAD_BYTES].into();
        (tasked, Self { socket, received, outgoing, sending: None, link, buffer })
    }

    async fn run(mut self) {
        core::future::poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            // Looked at first: the last datagrams were sent before it.
            let closed = self.link.closed.load(Ordering::Acquire);
            let received = !closed && self.receive(cx);
            let sent = self.send(cx);
            if closed && !sent && self.sending.is_none() {
                return Poll::Ready(());
            }
            if !received && !sent {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes one datagram off the socket, if there is room for it; returns whether it did.
    fn receive(&mut self, cx: &Context<'_>) -> bool {
        if !self.received.has_room() {
            return false;
        }
        match self.socket.poll_recv_from(cx.waker(), &mut self.buffer) {
            Poll::Ready(Ok((len, sender, _))) => {
                self.received.send((self.buffer[..len].to_vec(), sender));
                true
            }
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }

    /// Sends one datagram, if there is one and room for it; returns whether it did.
    fn send(&mut self, cx: &Context<'_>) -> bool {
        let Some((bytes, peer)) = self.sending.take().or_else(|| self.outgoing.try_recv().ok()) else {
            return false;
        };
        if let Some(ip) = self.link.ip.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The bound was checked by the socket; a runtime that has ended says so when sending.
            let _ = self.socket.set_ip_fields(ip);
        }
        match self.socket.poll_send_to(cx.waker(), &bytes, peer) {
            Poll::Pending => self.sending = Some((bytes, peer)),
            Poll::Ready(Ok(_)) => return true,
            Poll::Ready(Err(error)) => {
                *self.link.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return true;
            }
        }
        false
    }
}
