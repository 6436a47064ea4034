//! The applications' calls (RFC 9293 section 3.9.1): OPEN is `listen` and `connect`, SEND and RECEIVE are polled with a
//! waker, CLOSE is `shutdown` and `close`, then ABORT and STATUS. What a state makes of a call is in section 3.10.

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use super::config::{FastOpenKeys, SocketOptions, TcpConfig, TcpConfigError};
use super::connection::{Connection, Context, pressure_cap};
use super::engine::{Kind, Tables, Tcp, account, is_unicast};
use super::fastopen::{Advice, CookieMaker, PendingFastOpens};
use super::header::Flags;
use super::listener::Listener;
use super::reply::Reply;
use super::send_queue::SendQueue;
use super::seq::SeqNumber;
use super::table::TupleKey;
use super::time_wait::REOPEN_GAP;
use super::{Chunk, ConnId, ListenerId, Shutdown, State, TcpError, TcpInfo, Tuple};
use crate::counters::Counters;
use crate::limits;
use crate::time::Instant;

// ---- OPEN

impl Tcp {
    /// Listens on `addr`; an unspecified address means any of ours of that family, port 0 a port of the engine's choice.
    /// `backlog` is how many connections may wait to be accepted, at least 1; while as many wait, SYNs and the last ACK of
    /// handshakes are dropped and counted, and the peer sends them again.
    /// RFC 9293 section 3.9.1.1, MUST-41, MUST-42.
    ///
    /// # Errors
    /// `AddrInUse` when another listener has the address and port, `AddrNotAvailable` when no port is free, `TableFull`
    /// when there are [`super::TcpConfig::listeners_max`], `InvalidInput` for a multicast address or options out of bounds.
    pub fn listen(
        &mut self,
        addr: SocketAddr,
        backlog: usize,
        options: SocketOptions,
    ) -> Result<ListenerId, TcpError> {
        let options = self.accept_options(options)?;
        if !(addr.ip().is_unspecified() || is_unicast(addr.ip())) {
            return Err(TcpError::InvalidInput);
        }
        if self.listeners.slab.len() >= self.config.listeners_max {
            return Err(TcpError::TableFull);
        }
        let port = match addr.port() {
            0 => {
                let listeners = &self.listeners;
                let any = SocketAddr::new(addr.ip(), 0);
                self.ports.pick(addr.ip(), any, |port| !listeners.is_port_used(port))
            }
            port => Some(port),
        };
        self.listeners.insert(Listener {
            addr: SocketAddr::new(addr.ip(), port.ok_or(TcpError::AddrNotAvailable)?),
            backlog: backlog.max(1),
            fastopen: PendingFastOpens::new(options.fastopen_qlen),
            cookies: None,
            cookies_until: Instant::ZERO,
            options,
            accept: VecDeque::new(),
            half_open: 0,
            waker: None,
        })
    }

    /// The address a listener has, its port chosen if it was 0.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn listener_addr(&self, id: ListenerId) -> Result<SocketAddr, TcpError> {
        self.listeners.get(id).map(|listener| listener.addr).ok_or(TcpError::NotConnected)
    }

    /// Lets SYNs bring data (RFC 7413) to a listener: at most `qlen` such connections may wait for the handshake's ACK, while
    /// as many do, and with 0, SYNs are answered as without Fast Open. At most [`limits::TCP_FASTOPEN_QLEN`], more counts as
    /// that. The application must bear getting a SYN's data again in another connection (section 6.1).
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn set_fastopen(&mut self, id: ListenerId, qlen: usize) -> Result<(), TcpError> {
        let listener = self.listeners.get_mut(id).ok_or(TcpError::NotConnected)?;
        listener.fastopen.set_qlen(qlen);
        Ok(())
    }

    /// Lets a listener make and check Fast Open cookies with keys of its own (`TCP_FASTOPEN_KEY`): those of
    /// [`Tcp::set_fastopen_keys`] are not its any more.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn set_listener_fastopen_keys(
        &mut self,
        id: ListenerId,
        keys: &FastOpenKeys,
    ) -> Result<(), TcpError> {
        let cookies = CookieMaker::new(&[0; 32], self.config.fastopen.key_lifetime, Some(keys));
        self.listeners.get_mut(id).ok_or(TcpError::NotConnected)?.cookies = Some(Box::new(cookies));
        Ok(())
    }

    /// Makes Fast Open cookies with other keys from now on: `primary` for those given out, both for those shown. It must be
    /// done on every shard.
    pub fn set_fastopen_keys(&mut self, keys: &FastOpenKeys) {
        // The operator's keys take the place of all that is derived from the seed.
        self.fastopen_cookies = CookieMaker::new(&[0; 32], self.config.fastopen.key_lifetime, Some(keys));
    }

    /// Takes other settings for what begins from now on. Connections and listeners keep their options; ports, sizes of tables
    /// that are bounded once, and what was derived from the seed stay as they are.
    ///
    /// # Errors
    /// What is out of its bounds; nothing has changed then.
    pub fn set_config(&mut self, config: TcpConfig) -> Result<(), TcpConfigError> {
        config.validate()?;
        if let Some(keys) =
            config.fastopen.keys.as_ref().filter(|keys| self.config.fastopen.keys.as_ref() != Some(*keys))
        {
            self.set_fastopen_keys(keys);
        }
        self.default_options = Rc::new(config.options.clone());
        self.config = config;
        Ok(())
    }

    /// The next connection whose handshake is over, or that brought data with its SYN, and the peer's address. It may have ended already: receiving then gives
    /// what it brought and the error. One task may wait for a listener.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn poll_accept(
        &mut self,
        id: ListenerId,
        waker: &Waker,
    ) -> Poll<Result<(ConnId, SocketAddr), TcpError>> {
        loop {
            let Some(listener) = self.listeners.get_mut(id) else {
                return Poll::Ready(Err(TcpError::NotConnected));
            };
            let Some(index) = listener.accept.pop_front() else {
                park(&mut listener.waker, waker);
                return Poll::Pending;
            };
            let generation = self.tables.connections.generation(index);
            let Some(connection) = self.tables.connections.get_mut(index) else { continue };
            connection.listener = None;
            if connection.orphan {
                // Ended by the id that `connections` told before anybody accepted it.
                self.release_if_gone(index);
                continue;
            }
            return Poll::Ready(Ok((ConnId { index, generation }, connection.key.remote())));
        }
    }

    /// Stops listening. Half-open connections are forgotten, those not yet accepted are reset.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn close_listener(&mut self, now: Instant, id: ListenerId) -> Result<(), TcpError> {
        let listener = self.listeners.remove(id).ok_or(TcpError::NotConnected)?;
        if let Some(waker) = listener.waker {
            waker.wake();
        }
        let half_open: Vec<u32> = self
            .tables
            .syn_queue
            .entries
            .iter()
            .filter(|(.., entry)| entry.listener == id.index)
            .map(|(index, ..)| index)
            .collect();
        half_open.into_iter().for_each(|index| self.forget_half_open(index, true));
        for index in listener.accept {
            self.call(now, index, |connection, cx| {
                connection.listener = None;
                connection.abort(cx);
            });
        }
        Ok(())
    }

    /// Starts an active open from `local` (its address one of ours; port 0 is chosen by RFC 6056) to `remote`. The SYN goes
    /// out with the next [`Tcp::transmit`]; [`Tcp::poll_connected`] tells how it ended.
    /// RFC 9293 section 3.9.1.1, MUST-43.
    ///
    /// # Errors
    /// `InvalidInput` when `remote` cannot be a peer's address (RFC 9293 section 3.9.1.1, MUST-46), the families differ, both
    /// ends are the same, or options are out of bounds; `AddrNotAvailable` when `local` is unspecified or no port is free;
    /// `AddrInUse` when the pair of addresses is; `TableFull` when there are [`super::TcpConfig::connections_max`].
    pub fn connect(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        options: SocketOptions,
    ) -> Result<ConnId, TcpError> {
        let options = self.accept_options(options)?;
        if !is_unicast(remote.ip())
            || remote.port() == 0
            || local.is_ipv4() != remote.is_ipv4()
            || local == remote
        {
            return Err(TcpError::InvalidInput);
        }
        if !is_unicast(local.ip()) {
            return Err(TcpError::AddrNotAvailable);
        }
        if self.tables.connections.len() >= self.config.connections_max {
            return Err(TcpError::TableFull);
        }
        let local = match local.port() {
            0 => self.pick_local(now, local, remote).ok_or(TcpError::AddrNotAvailable)?,
            _ => local,
        };
        let key = TupleKey::new(local, remote);
        if !self.is_free(now, &key, true) {
            return Err(TcpError::AddrInUse);
        }
        let mut iss = self.isn.isn_of(now, &key);
        if let Some(Kind::TimeWait(index)) = self.tables.find(&key) {
            if let Some(old) = self.tables.time_waits.entries.get(index) {
                iss = iss.max(old.snd_nxt + REOPEN_GAP);
            }
            self.end_time_wait(index);
            self.with_calls_counters(|_, counters| counters.tcp_time_wait_recycled += 1);
        }
        let offset = self.isn.timestamp_offset_of(&key);
        let connection = Connection::connecting(now, key, iss, offset, options, &self.config);
        let index = self.insert_connection(connection, None);
        self.call(now, index, |_, cx| cx.counters.tcp_active_opens += 1);
        Ok(ConnId { index, generation: self.tables.connections.generation(index) })
    }

    /// As [`Tcp::connect`], with `bytes` in the SYN if the server gave a cookie earlier and is known to take it (RFC 7413);
    /// otherwise a cookie is asked for and they follow the handshake. Returns how many bytes were taken: what the send buffer
    /// holds. The SYN carries what fits the MSS that the server stated last; the rest follows. What the SYN brought in vain is
    /// sent again, so nothing is lost; but a duplicate of the SYN may reach the server's application in a connection of
    /// its own (section 6.1). [`TcpInfo::fastopen_syn_data`] tells what happened.
    ///
    /// # Errors
    /// As for [`Tcp::connect`].
    pub fn connect_with_data(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        options: SocketOptions,
        bytes: &[u8],
    ) -> Result<(ConnId, usize), TcpError> {
        let id = self.connect(now, local, remote, options)?;
        let advice = self.fastopen_cache.advice(now, local.ip(), remote.ip());
        let (without_cookie, pressure) =
            (self.config.fastopen.client_without_cookie, self.is_under_pressure());
        let mut taken = 0;
        self.call(now, id.index, |connection, _| {
            connection.plan_fastopen(advice, without_cookie);
            let cap = connection.send_cap();
            taken = connection.send.push(bytes, if pressure { pressure_cap(cap) } else { cap });
        });
        Ok((id, taken))
    }

    /// Whether a connection opened with data now would send it in the SYN.
    pub fn may_connect_with_data(&mut self, now: Instant, local: IpAddr, remote: IpAddr) -> bool {
        match self.fastopen_cache.advice(now, local, remote) {
            Advice::Cookie { .. } => true,
            Advice::Request(_) => self.config.fastopen.client_without_cookie,
            Advice::Avoid => false,
        }
    }

    fn pick_local(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) -> Option<SocketAddr> {
        let at = |port| SocketAddr::new(local.ip(), port);
        // Taken out so that the closure may look at the tables.
        let ports = &mut self.ports;
        let (tables, listeners, config) = (&self.tables, &self.listeners, &self.config);
        let mut pick = |reuse: bool| {
            ports.pick(local.ip(), remote, |port| {
                !listeners.is_port_used(port)
                    && tables.is_free(now, &TupleKey::new(at(port), remote), reuse, config)
            })
        };
        pick(false).or_else(|| pick(true)).map(at)
    }

    fn is_free(&self, now: Instant, key: &TupleKey, reuse: bool) -> bool {
        self.tables.is_free(now, key, reuse, &self.config)
    }

    /// Ready when the handshake is over.
    ///
    /// # Errors
    /// What ended it; `NotConnected` for a stale handle.
    pub fn poll_connected(&mut self, id: ConnId, waker: &Waker) -> Poll<Result<(), TcpError>> {
        let connection = match self.get_mut(id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        match connection.state {
            State::SynSent | State::SynReceived => {
                park(&mut connection.send_waker, waker);
                Poll::Pending
            }
            State::Closed if !connection.fin_received => {
                Poll::Ready(Err(connection.error.unwrap_or(TcpError::NotConnected)))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

// ---- SEND, RECEIVE

impl Tcp {
    /// Queues the front of `bytes`; returns how many were taken, at least 1 unless `bytes` is empty. `Pending` when the send
    /// buffer is full. Before the handshake is over, data is queued for after it. One task may wait to send.
    ///
    /// # Errors
    /// `Shutdown` after a shutdown of the write side, what ended the connection, `NotConnected` for a stale handle.
    pub fn poll_send(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        waker: &Waker,
    ) -> Poll<Result<usize, TcpError>> {
        self.poll_push(now, id, bytes.is_empty(), waker, |send, cap| send.push(bytes, cap))
    }

    /// As [`Tcp::poll_send`], but takes what it queues out of `bytes`, and does not copy 4 KiB or more: it keeps them until
    /// they are acknowledged.
    ///
    /// # Errors
    /// As for [`Tcp::poll_send`].
    pub fn poll_send_bytes(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &mut Bytes,
        waker: &Waker,
    ) -> Poll<Result<usize, TcpError>> {
        self.poll_push(now, id, bytes.is_empty(), waker, |send, cap| send.push_bytes(bytes, cap))
    }

    /// As [`Tcp::poll_send`], but takes what it queues out of `chunk`, and does not copy 1 KiB or more that make use of their
    /// frame, unless frames are scarce or chunks take half of the send buffer: it keeps the frame until they are acknowledged.
    ///
    /// # Errors
    /// As for [`Tcp::poll_send`].
    pub fn poll_send_chunk(
        &mut self,
        now: Instant,
        id: ConnId,
        chunk: &mut Chunk,
        waker: &Waker,
    ) -> Poll<Result<usize, TcpError>> {
        self.poll_push(now, id, chunk.is_empty(), waker, |send, cap| send.push_chunk(chunk, cap))
    }

    /// Lets `push` queue what it can in a send buffer with the bound it is given.
    fn poll_push(
        &mut self,
        now: Instant,
        id: ConnId,
        is_empty: bool,
        waker: &Waker,
        push: impl FnOnce(&mut SendQueue, usize) -> usize,
    ) -> Poll<Result<usize, TcpError>> {
        let pressure = self.is_under_pressure();
        let connection = match self.get_mut(id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Some(error) = connection.error {
            return Poll::Ready(Err(error));
        }
        if connection.fin_queued {
            return Poll::Ready(Err(TcpError::Shutdown));
        }
        if connection.state.is_over() {
            return Poll::Ready(Err(TcpError::NotConnected));
        }
        let cap = connection.send_cap();
        let taken = push(&mut connection.send, if pressure { pressure_cap(cap) } else { cap });
        if taken == 0 && !is_empty {
            park(&mut connection.send_waker, waker);
            connection.chronograph.turn(now, connection.limit());
            return Poll::Pending;
        }
        self.touch(now, id.index);
        Poll::Ready(Ok(taken))
    }

    /// Copies received bytes to `bytes` and returns how many; 0 when the peer's FIN was reached, the read side is shut down,
    /// or `bytes` is empty. `Pending` when nothing has arrived. Bytes that were received before the connection failed are
    /// given before the error. One task may wait to receive.
    ///
    /// # Errors
    /// What ended the connection, `NotConnected` for a stale handle.
    pub fn poll_recv(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<usize, TcpError>> {
        let mut copied = 0;
        self.poll_recv_with(now, id, bytes.len(), waker, |run| {
            bytes[copied..][..run.len()].copy_from_slice(run);
            copied += run.len();
        })
    }

    /// As [`Tcp::poll_recv`], but gives up to `max` bytes to `take`, run by run, to be copied where they are to be once.
    ///
    /// # Errors
    /// As for [`Tcp::poll_recv`].
    pub fn poll_recv_with(
        &mut self,
        now: Instant,
        id: ConnId,
        max: usize,
        waker: &Waker,
        take: impl FnMut(&[u8]),
    ) -> Poll<Result<usize, TcpError>> {
        let pressure = self.is_under_pressure();
        let connection = match held(&mut self.tables, id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if max == 0 {
            return Poll::Ready(Ok(0));
        }
        let taken = connection.receive.read_with(max, take);
        if taken == 0 {
            return connection.poll_end(waker).map_ok(|()| 0);
        }
        if connection.after_read(taken, now, pressure) {
            self.call(now, id.index, |_, _| ());
        } else {
            account(connection, &mut self.buffered_bytes);
        }
        Poll::Ready(Ok(taken))
    }

    /// As [`Tcp::poll_recv`], but gives the next bytes that lie together without copying them; `None` where that gives 0.
    ///
    /// # Errors
    /// As for [`Tcp::poll_recv`].
    pub fn poll_recv_chunk(
        &mut self,
        now: Instant,
        id: ConnId,
        waker: &Waker,
    ) -> Poll<Result<Option<Chunk>, TcpError>> {
        let pressure = self.is_under_pressure();
        let connection = match held(&mut self.tables, id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let Some(chunk) = connection.receive.read_chunk() else {
            return connection.poll_end(waker).map_ok(|()| None);
        };
        if connection.after_read(chunk.len(), now, pressure) {
            self.call(now, id.index, |_, _| ());
        } else {
            account(connection, &mut self.buffered_bytes);
        }
        Poll::Ready(Ok(Some(chunk)))
    }

    /// Bytes that can be read at once.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn readable(&self, id: ConnId) -> Result<usize, TcpError> {
        self.get(id).map(|connection| connection.receive.readable())
    }

    /// How far urgent data reaches beyond what was read, in bytes; `None` when there is none. It comes in line with the
    /// rest (RFC 6093 section 6); its arrival wakes the task that waits to receive (RFC 9293 section 3.8.5, MUST-32, MUST-33).
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn urgent_ahead(&self, id: ConnId) -> Result<Option<u32>, TcpError> {
        let connection = self.get(id)?;
        let read = connection.read_up_to();
        let end = connection.cold().and_then(|cold| cold.urgent);
        Ok(end.filter(|end| end.gt(read)).map(|end| end.since(read)))
    }

    /// Ready when everything that was written, and the FIN after a shutdown, is acknowledged. One task may wait for it.
    ///
    /// # Errors
    /// What ended the connection, `NotConnected` for a stale handle.
    pub fn poll_flushed(&mut self, id: ConnId, waker: &Waker) -> Poll<Result<(), TcpError>> {
        let connection = match self.get_mut(id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Some(error) = connection.error {
            return Poll::Ready(Err(error));
        }
        if connection.state.is_over() || !connection.has_unfinished_output() {
            return Poll::Ready(Ok(()));
        }
        park(&mut connection.cold_mut().flush_waker, waker);
        Poll::Pending
    }
}

// ---- CLOSE, ABORT

impl Tcp {
    /// Shuts down one direction or both (RFC 9293 section 3.10.4 for the write side): a FIN follows what was written. The
    /// handle stays. In SYN-SENT, shutting down the write side ends the attempt. Doing it again changes nothing.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle or a connection that is over.
    pub fn shutdown(&mut self, now: Instant, id: ConnId, how: Shutdown) -> Result<(), TcpError> {
        if self.get(id)?.state == State::Closed {
            return Err(TcpError::NotConnected);
        }
        self.call(now, id.index, |connection, cx| {
            if matches!(how, Shutdown::Read | Shutdown::Both) {
                connection.shut_read();
            }
            if matches!(how, Shutdown::Write | Shutdown::Both) {
                connection.shut_write(cx);
            }
        });
        Ok(())
    }

    /// The application lets go: the handle is invalid from now on. What was written is still sent, and the FIN; but data
    /// that was not read, or arrives from now on, is answered with a RST (RFC 9293 section 3.6.1), and zero linger sends
    /// one at once. The engine ends the connection by itself: it is bounded by the timeouts of [`super::TcpConfig`].
    /// RFC 9293 section 3.6.1, SHLD-3, MAY-1.
    pub fn close(&mut self, now: Instant, id: ConnId) {
        if self.get(id).is_ok() {
            self.call(now, id.index, Connection::close);
        }
    }

    /// Ends the connection at once, with a RST where RFC 9293 section 3.10.5 wants one. The handle is invalid from now on;
    /// tasks that wait are woken. An id from [`Tcp::connections`] whose connection was closed before, but is still under
    /// way, does too.
    pub fn abort(&mut self, now: Instant, id: ConnId) {
        if self.tables.connections.get_exact(id.index, id.generation).is_some() {
            self.call(now, id.index, Connection::abort);
        }
    }
}

// ---- STATUS

impl Tcp {
    /// Both ends.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn tuple(&self, id: ConnId) -> Result<Tuple, TcpError> {
        self.get(id).map(|connection| connection.key.tuple())
    }

    /// The state; `None` for a stale handle.
    #[must_use]
    pub fn state(&self, id: ConnId) -> Option<State> {
        self.get(id).ok().map(|connection| self.state_of(connection))
    }

    /// The connection's figures.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn info(&self, now: Instant, id: ConnId) -> Result<TcpInfo, TcpError> {
        let connection = self.get(id)?;
        Ok(TcpInfo { state: self.state_of(connection), ..connection.info(now) })
    }

    /// The options in force.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn options(&self, id: ConnId) -> Result<SocketOptions, TcpError> {
        self.get(id).map(|connection| (*connection.options).clone())
    }

    /// Changes options. A smaller receive buffer takes no window back; a larger one is used as far as the window scale that
    /// the handshake settled reaches.
    ///
    /// # Errors
    /// `InvalidInput` for options out of bounds or another congestion control, `NotConnected` for a stale handle.
    pub fn set_options(&mut self, now: Instant, id: ConnId, options: SocketOptions) -> Result<(), TcpError> {
        let old = self.get(id)?.options.clone();
        if options.congestion != old.congestion {
            return Err(TcpError::InvalidInput);
        }
        let options = self.accept_options(options)?;
        let receive_buffer_changed = options.receive_buffer_bytes != old.receive_buffer_bytes;
        self.call(now, id.index, |connection, cx| {
            if options.receive_buffer_bytes != old.receive_buffer_bytes {
                connection.cold_mut().tuning = None;
            }
            connection.options = options;
            connection.update_mss();
            // Set again from the new intervals.
            connection.timers.keepalive = None;
            if connection.timers.retransmit.is_some() && old.user_timeout != connection.options.user_timeout {
                connection.restart_retransmit_timer(cx.now);
            }
            // Other options are no occasion to tell the peer of the window.
            connection.ack_now |= receive_buffer_changed && connection.owes_window_update();
        });
        Ok(())
    }

    /// The error that ended the connection, or what ICMP said about it meanwhile; taken once, as `SO_ERROR`.
    /// RFC 9293 section 3.9.1.8, MUST-47, SHLD-20; RFC 9293 section 3.9.2.2, SHLD-25.
    pub fn take_error(&mut self, id: ConnId) -> Option<TcpError> {
        let connection = self.get_mut(id).ok()?;
        connection.error.take().or_else(|| match connection.cold() {
            Some(_) => connection.cold_mut().soft_error.take(),
            None => None,
        })
    }
}

// ---- helpers

impl Tcp {
    pub(super) fn get(&self, id: ConnId) -> Result<&Connection, TcpError> {
        let connection = self.tables.connections.get_exact(id.index, id.generation).map(|boxed| &**boxed);
        connection.filter(|connection| !connection.orphan).ok_or(TcpError::NotConnected)
    }

    fn get_mut(&mut self, id: ConnId) -> Result<&mut Connection, TcpError> {
        held(&mut self.tables, id)
    }

    /// Lets a call work on a connection; what it counts is handed over by the next `poll_timers` or `transmit`.
    pub(super) fn call(
        &mut self,
        now: Instant,
        index: u32,
        act: impl FnOnce(&mut Connection, &mut Context<'_>),
    ) {
        self.with_calls_counters(|tcp, counters| {
            tcp.with_connection(now, index, counters, act);
        });
    }

    fn with_calls_counters(&mut self, act: impl FnOnce(&mut Self, &mut Counters)) {
        let mut counters = self.calls_counters.take().unwrap_or_default();
        act(self, &mut counters);
        self.calls_counters = Some(counters);
    }

    /// Checks options and shares the defaults.
    pub(super) fn accept_options(&self, mut options: SocketOptions) -> Result<Rc<SocketOptions>, TcpError> {
        if !options.is_valid() {
            return Err(TcpError::InvalidInput);
        }
        if options.receive_buffer_bytes > 0 {
            options.receive_buffer_bytes = options
                .receive_buffer_bytes
                .clamp(limits::TCP_RECEIVE_BUFFER_MIN, limits::TCP_RECEIVE_BUFFER_MAX);
        }
        let is_default = options == *self.default_options;
        Ok(if is_default { self.default_options.clone() } else { Rc::new(options) })
    }
}

impl Connection {
    /// The number of the next byte to be read; the peer's FIN is none.
    fn read_up_to(&self) -> SeqNumber {
        self.rcv_nxt() - self.receive.readable() as u32 - u32::from(self.fin_received)
    }

    /// The application has read `len` bytes; whether the peer is to hear of it now. Nothing else follows but that they are gone.
    fn after_read(&mut self, len: usize, now: Instant, pressure: bool) -> bool {
        self.tune_receive_buffer(len, now, pressure);
        if self.cold().is_some() {
            self.forget_urgent();
            self.measure_reading(now);
        }
        let owes = self.owes_window_update_for(len);
        self.ack_now |= owes;
        owes
    }

    /// Urgent data that was read is no longer urgent; the pointer must not come round again after 2 GiB.
    fn forget_urgent(&mut self) {
        let read = self.read_up_to();
        if self.cold().and_then(|cold| cold.urgent).is_some_and(|end| end.le(read)) {
            self.cold_mut().urgent = None;
        }
    }

    /// What a reader gets who finds nothing to read: the error, the end of the stream, or to wait.
    fn poll_end(&mut self, waker: &Waker) -> Poll<Result<(), TcpError>> {
        if self.fin_received || self.read_shut {
            return Poll::Ready(Ok(()));
        }
        if self.state.is_over() {
            return Poll::Ready(Err(self.error.unwrap_or(TcpError::NotConnected)));
        }
        park(&mut self.recv_waker, waker);
        Poll::Pending
    }

    fn shut_read(&mut self) {
        self.read_shut = true;
        while self.receive.read_chunk().is_some() {}
        self.ack_now |= self.owes_window_update();
        self.wake_readers();
    }

    /// RFC 9293 section 3.10.4.
    fn shut_write(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::SynSent => {
                self.count_failure(cx.counters);
                self.finish(Some(TcpError::ConnectionAborted));
                return;
            }
            // In SYN-RECEIVED the FIN waits until our SYN is acknowledged.
            State::SynReceived | State::Established => self.state = State::FinWait1,
            State::CloseWait => self.state = State::LastAck,
            _ => return,
        }
        self.fin_queued = true;
        self.wake_senders();
    }

    fn close(&mut self, cx: &mut Context<'_>) {
        let unread = self.receive.readable() > 0;
        if self.options.linger.is_some_and(|linger| linger.is_zero()) || (unread && !self.state.is_over()) {
            return self.abort(cx);
        }
        self.let_go();
        self.shut_write(cx);
        self.timers.death = match self.state {
            State::FinWait2 => Some(cx.now + cx.config.fin_wait2_timeout),
            state if state.is_over() => None,
            _ => self.options.linger.map(|linger| cx.now + linger),
        };
        if self.peer_fin.is_none() && self.receive.has_gap() {
            // Data that nobody will read is on its way: the rest of it draws the RST.
            self.receive.clear();
        }
    }

    /// RFC 9293 section 3.10.5.
    pub(super) fn abort(&mut self, cx: &mut Context<'_>) {
        self.wake_all();
        self.let_go();
        match self.state {
            State::Closed | State::TimeWait => return,
            State::SynSent => self.count_failure(cx.counters),
            State::Closing | State::LastAck if self.send.is_empty() => {}
            _ => {
                let reset = self.reset(cx.now);
                if self.owes_handshake_end() {
                    // Who gets only the RST forgets a connection that this side had opened.
                    let flags = Flags::ACK | self.ecn.flags(false, true);
                    cx.replies.push(Reply { flags, ..reset }, cx.counters);
                }
                cx.replies.push(reset, cx.counters);
            }
        }
        self.finish(Some(TcpError::ConnectionAborted));
    }

    /// Whether the ACK of the peer's SYN,ACK has still to go out: the application was told of the handshake's end before.
    fn owes_handshake_end(&self) -> bool {
        self.ack_now
            && self.syn_acked()
            && self.snd_nxt == self.iss + 1
            && self.rcv_nxt() == self.irs + 1
            && self.state != State::SynReceived
    }

    fn let_go(&mut self) {
        self.orphan = true;
        (self.recv_waker, self.send_waker) = (None, None);
        if self.state.is_over() {
            self.receive.clear();
        }
    }
}

/// The connection that a handle leads to.
#[inline]
fn held(tables: &mut Tables, id: ConnId) -> Result<&mut Connection, TcpError> {
    match tables.connections.get_exact_mut(id.index, id.generation) {
        Some(connection) if !connection.orphan => Ok(connection),
        _ => Err(TcpError::NotConnected),
    }
}

/// Remembers whom to wake. Another task's waker is replaced; that task is not woken.
fn park(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(old) if old.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}
