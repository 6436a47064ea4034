//! What the application asks for (RFC 9293 section 3.9.1): listen, accept, connect, send, receive, shut down, close, abort,
//! options and figures. Calls that must wait keep the caller's waker and answer `Pending`.

use core::net::SocketAddr;
use core::task::{Poll, Waker};
use std::collections::VecDeque;

use super::config::SocketOptions;
use super::connection::{Connection, NEVER};
use super::engine::Tcp;
use super::info::TcpInfo;
use super::input::Env;
use super::listener::Listener;
use super::state::State;
use super::table::Place;
use super::{Chunk, ConnId, ListenerId, Shutdown, TcpError, Tuple};
use crate::counters::Counters;
use crate::time::{Duration, Instant};

impl Tcp {
    // ---- listeners

    /// Listens on `addr`; with an unspecified address on all of that family that no other listener has, with port 0 on a
    /// port of the ephemeral range. `backlog`: connections that may wait to be accepted, at least 1.
    ///
    /// # Errors
    /// [`TcpError::AddrInUse`] when there is such a listener or no free port.
    pub fn listen(
        &mut self,
        addr: SocketAddr,
        backlog: usize,
        options: SocketOptions,
    ) -> Result<ListenerId, TcpError> {
        let mut addr = addr;
        if addr.port() == 0 {
            let listening = &self.listening;
            let free = |port| !listening.contains_key(&SocketAddr::new(addr.ip(), port));
            addr.set_port(self.ports.pick(addr.ip(), addr, free).ok_or(TcpError::AddrInUse)?);
        }
        if self.listening.contains_key(&addr) {
            return Err(TcpError::AddrInUse);
        }
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.listeners.insert(Listener {
            addr,
            options,
            backlog: backlog.max(1),
            accepted: VecDeque::new(),
            syn_count: 0,
            waker: None,
            generation,
        }) as u32;
        self.listening.insert(addr, index);
        Ok(ListenerId { index, generation })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`TcpError::NotConnected`] when the listener was closed.
    pub fn listener_addr(&self, id: ListenerId) -> Result<SocketAddr, TcpError> {
        let listener = self.listeners.get(id.index as usize).filter(|it| it.generation == id.generation);
        listener.map(|listener| listener.addr).ok_or(TcpError::NotConnected)
    }

    /// The next connection of the accept queue and its peer. It may have been reset meanwhile: its first use tells.
    ///
    /// # Errors
    /// [`TcpError::NotConnected`] when the listener was closed.
    pub fn poll_accept(
        &mut self,
        id: ListenerId,
        waker: &Waker,
    ) -> Poll<Result<(ConnId, SocketAddr), TcpError>> {
        let listener = self.listeners.get_mut(id.index as usize).filter(|it| it.generation == id.generation);
        let Some(listener) = listener else { return Poll::Ready(Err(TcpError::NotConnected)) };
        let Some(index) = listener.accepted.pop_front() else {
            keep(&mut listener.waker, waker);
            return Poll::Pending;
        };
        let connection = &mut self.connections[index as usize];
        connection.marks.unaccepted = false;
        let id = ConnId { index, generation: connection.generation };
        Poll::Ready(Ok((id, connection.key.remote())))
    }

    /// Stops listening: half-open connections are forgotten, those not yet accepted reset.
    ///
    /// # Errors
    /// [`TcpError::NotConnected`] when the listener was closed before.
    pub fn close_listener(&mut self, now: Instant, id: ListenerId) -> Result<(), TcpError> {
        let addr = self.listener_addr(id)?;
        self.listening.remove(&addr);
        self.remove_half_open(id.index);
        let listener = self.listeners.remove(id.index as usize);
        for index in listener.accepted {
            let generation = self.connections[index as usize].generation;
            self.abort(now, ConnId { index, generation });
        }
        if let Some(waker) = listener.waker {
            waker.wake();
        }
        Ok(())
    }

    // ---- opening

    /// Begins an active open (RFC 9293 section 3.9.1.1). Port 0 in `local`: one is chosen (RFC 6056).
    ///
    /// # Errors
    /// [`TcpError::AddrInUse`] when that very connection exists, [`TcpError::AddrNotAvailable`] when no port is free,
    /// [`TcpError::TableFull`] at the bound, [`TcpError::InvalidInput`] for addresses that cannot be connected.
    pub fn connect(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        options: SocketOptions,
    ) -> Result<ConnId, TcpError> {
        // RFC 9293 section 3.9.1.1: neither multicast nor broadcast.
        let unfit = |ip: core::net::IpAddr| ip.is_unspecified() || ip.is_multicast();
        if remote.port() == 0
            || unfit(remote.ip())
            || unfit(local.ip())
            || local.is_ipv4() != remote.is_ipv4()
            || matches!(remote.ip(), core::net::IpAddr::V4(ip) if ip.is_broadcast())
        {
            return Err(TcpError::InvalidInput);
        }
        if self.connections.len() >= self.config.connections_max {
            return Err(TcpError::TableFull);
        }
        let mut local = local;
        if local.port() == 0 {
            local.set_port(self.choose_port(local, remote)?);
        }
        let tuple = Tuple { local, remote };
        match self.place(&tuple.into()) {
            // Its ISN is beyond the old connection's: the clock of RFC 6528 sees to that.
            Some(Place::TimeWait(_)) => self.end_time_wait_at(&tuple.into()),
            Some(_) => return Err(TcpError::AddrInUse),
            None => {}
        }
        let index = self.begin(now, tuple, options);
        let id = ConnId { index, generation: self.generation };
        self.call(now, id, |_, _| ())?;
        Ok(id)
    }

    /// Ready when the handshake is over.
    ///
    /// # Errors
    /// Why it failed.
    pub fn poll_connected(&mut self, id: ConnId, waker: &Waker) -> Poll<Result<(), TcpError>> {
        let connection = match self.connection(id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        match (connection.state, connection.error) {
            (_, Some(error)) => Poll::Ready(Err(error)),
            (State::SynSent | State::SynReceived, None) => {
                keep(&mut connection.send_waker, waker);
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    // ---- data

    /// Queues the front of `bytes` and returns how many, at least one; `Pending` while the send buffer is full or the
    /// handshake goes on. An empty `bytes` is 0 at once.
    ///
    /// # Errors
    /// [`TcpError::Shutdown`] after the write side was shut down; why the connection ended.
    pub fn poll_send(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &[u8],
        waker: &Waker,
    ) -> Poll<Result<usize, TcpError>> {
        let pressure = self.buffered >= self.config.buffered_bytes_max;
        let connection = match self.connection(id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Some(error) = connection.error {
            return Poll::Ready(Err(error));
        }
        if connection.marks.write_shut || matches!(connection.state, State::Closed | State::TimeWait) {
            return Poll::Ready(Err(TcpError::Shutdown));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let handshake = matches!(connection.state, State::SynSent | State::SynReceived);
        let cap = connection.options.send_buffer_bytes.max(1).min(if pressure { 4096 } else { usize::MAX });
        if handshake || connection.unsent.len() >= cap {
            keep(&mut connection.send_waker, waker);
            return Poll::Pending;
        }
        Poll::Ready(self.call(now, id, |connection, env| {
            if connection.unsent.is_empty() {
                connection.progress_at = env.now;
            }
            let taken = connection.unsent.push(bytes, cap);
            connection.push_seq = connection.data_start() + connection.unsent.len() as u32;
            taken
        }))
    }

    /// Copies received bytes in order to `bytes`; 0 when the peer's FIN was reached (or `bytes` is empty).
    ///
    /// # Errors
    /// Why the connection ended, after everything received was read.
    pub fn poll_recv(
        &mut self,
        now: Instant,
        id: ConnId,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<Result<usize, TcpError>> {
        match self.poll_readable(id, waker) {
            Poll::Ready(Ok(true)) => Poll::Ready(self.call(now, id, |connection, _| {
                let len = connection.received.read(bytes);
                connection.marks.ack_now |= connection.window_update_is_due();
                len
            })),
            Poll::Ready(Ok(false)) => Poll::Ready(Ok(0)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if bytes.is_empty() => Poll::Ready(Ok(0)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Takes the next run of received bytes without a copy; `None` when the peer's FIN was reached.
    ///
    /// # Errors
    /// Why the connection ended, after everything received was read.
    pub fn poll_recv_chunk(
        &mut self,
        now: Instant,
        id: ConnId,
        waker: &Waker,
    ) -> Poll<Result<Option<Chunk>, TcpError>> {
        match self.poll_readable(id, waker) {
            Poll::Ready(Ok(true)) => Poll::Ready(self.call(now, id, |connection, _| {
                let chunk = connection.received.read_chunk();
                connection.marks.ack_now |= connection.window_update_is_due();
                chunk
            })),
            Poll::Ready(Ok(false)) => Poll::Ready(Ok(None)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// `true`: there are bytes; `false`: there will be none.
    fn poll_readable(&mut self, id: ConnId, waker: &Waker) -> Poll<Result<bool, TcpError>> {
        let connection = match self.connection(id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if connection.marks.read_shut {
            return Poll::Ready(Ok(false));
        }
        if connection.received.readable() > 0 {
            return Poll::Ready(Ok(true));
        }
        if connection.marks.eof {
            return Poll::Ready(Ok(false));
        }
        match (connection.error, connection.state) {
            (Some(error), _) => Poll::Ready(Err(error)),
            (None, State::Closed | State::TimeWait) => Poll::Ready(Ok(false)),
            _ => {
                keep(&mut connection.recv_waker, waker);
                Poll::Pending
            }
        }
    }

    /// Ready when everything written (and the FIN, when the write side was shut down) was acknowledged.
    ///
    /// # Errors
    /// Why the connection ended before that.
    pub fn poll_flushed(&mut self, id: ConnId, waker: &Waker) -> Poll<Result<(), TcpError>> {
        let connection = match self.connection(id) {
            Ok(connection) => connection,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Some(error) = connection.error {
            return Poll::Ready(Err(error));
        }
        let done = match connection.state {
            State::SynSent | State::SynReceived => false,
            State::Closed | State::TimeWait => true,
            _ => connection.unsent.is_empty() && (!connection.marks.write_shut || connection.fin_acked()),
        };
        if done {
            return Poll::Ready(Ok(()));
        }
        keep(&mut connection.send_waker, waker);
        Poll::Pending
    }

    // ---- closing

    /// Shuts one direction or both. The write side: a FIN follows what is queued (RFC 9293 section 3.6). The read side:
    /// what was received and what comes is dropped, and acknowledged.
    ///
    /// # Errors
    /// [`TcpError::NotConnected`] when there is no such connection, or it ended.
    pub fn shutdown(&mut self, now: Instant, id: ConnId, how: Shutdown) -> Result<(), TcpError> {
        if matches!(self.connection(id)?.state, State::Closed | State::TimeWait) {
            return Err(TcpError::NotConnected);
        }
        self.call(now, id, |connection, _| {
            if matches!(how, Shutdown::Read | Shutdown::Both) {
                connection.marks.read_shut = true;
                while connection.received.read_chunk().is_some() {}
                connection.wake_reader();
            }
            if matches!(how, Shutdown::Write | Shutdown::Both) {
                connection.shut_write();
            }
        })
    }

    /// The application lets go; `id` is invalid from now on. What is queued is still delivered, then a FIN; but a RST at
    /// once when received bytes are unread (RFC 9293 section 3.6.1) or linger is zero. An unknown `id` is ignored.
    pub fn close(&mut self, now: Instant, id: ConnId) {
        let _ = self.call(now, id, |connection, env| {
            let unread = connection.received.readable() > 0 && !connection.marks.read_shut;
            let reset = unread || connection.options.linger == Some(Duration::ZERO);
            connection.let_go();
            match connection.state {
                State::Closed | State::TimeWait => {}
                State::SynSent => connection.fail(TcpError::ConnectionAborted),
                _ if reset => connection.reset(env),
                _ => connection.close_gracefully(env),
            }
        });
    }

    /// Ends the connection with a RST (RFC 9293 section 3.9.1.5); `id` is invalid from now on. An unknown one is ignored.
    pub fn abort(&mut self, now: Instant, id: ConnId) {
        let _ = self.call(now, id, |connection, env| {
            connection.let_go();
            match connection.state {
                State::Closed | State::TimeWait => {}
                State::SynSent => connection.fail(TcpError::ConnectionAborted),
                _ => connection.reset(env),
            }
        });
    }

    // ---- options and figures

    /// The connection's ends.
    ///
    /// # Errors
    /// [`TcpError::NotConnected`] when there is no such connection.
    pub fn tuple(&self, id: ConnId) -> Result<Tuple, TcpError> {
        Ok(self.connection_ref(id)?.key.tuple())
    }

    /// The connection's state; `None` when there is no such connection.
    #[must_use]
    pub fn state(&self, id: ConnId) -> Option<State> {
        Some(self.connection_ref(id).ok()?.state)
    }

    /// The connection's figures.
    ///
    /// # Errors
    /// [`TcpError::NotConnected`] when there is no such connection.
    pub fn info(&self, now: Instant, id: ConnId) -> Result<TcpInfo, TcpError> {
        Ok(self.connection_ref(id)?.info(now, self.config.delayed_ack))
    }

    /// The connection's options.
    ///
    /// # Errors
    /// [`TcpError::NotConnected`] when there is no such connection.
    pub fn options(&self, id: ConnId) -> Result<SocketOptions, TcpError> {
        Ok((*self.connection_ref(id)?.options).clone())
    }

    /// Changes options; they act at once. The congestion control of a connection that is open stays.
    ///
    /// # Errors
    /// [`TcpError::NotConnected`] when there is no such connection, [`TcpError::InvalidInput`] for a keepalive count of 0 or
    /// keepalive times of zero.
    pub fn set_options(&mut self, now: Instant, id: ConnId, options: SocketOptions) -> Result<(), TcpError> {
        if options.keepalive_count == 0
            || options.keepalive_idle.is_zero()
            || options.keepalive_interval.is_zero()
        {
            return Err(TcpError::InvalidInput);
        }
        self.call(now, id, |connection, _| {
            if connection.options.cork && !options.cork {
                connection.marks.push_partial = true;
                connection.hold_at = NEVER;
            }
            *connection.options = options;
            connection.restart_keepalive();
        })
    }

    /// Why the connection ended, or what ICMP said of it last: told once, as SO_ERROR.
    pub fn take_error(&mut self, id: ConnId) -> Option<TcpError> {
        let connection = self.connection(id).ok()?;
        connection.error.or_else(|| connection.soft_error.take())
    }

    /// Connections that have not ended, half-open ones left out.
    pub fn connections(&self) -> impl Iterator<Item = (ConnId, Tuple, State)> + '_ {
        self.connections.iter().filter(|(_, connection)| connection.marks.in_table).map(
            |(index, connection)| {
                let id = ConnId { index: index as u32, generation: connection.generation };
                (id, connection.key.tuple(), connection.state)
            },
        )
    }

    // ---- helpers

    fn connection(&mut self, id: ConnId) -> Result<&mut Connection, TcpError> {
        let connection = self.connections.get_mut(id.index as usize);
        connection
            .filter(|it| it.generation == id.generation && !it.marks.orphan)
            .ok_or(TcpError::NotConnected)
    }

    fn connection_ref(&self, id: ConnId) -> Result<&Connection, TcpError> {
        let connection = self.connections.get(id.index as usize);
        connection
            .filter(|it| it.generation == id.generation && !it.marks.orphan)
            .ok_or(TcpError::NotConnected)
    }

    /// Lets a call change a connection; what it counts is kept until the shard's counters are at hand.
    fn call<R>(
        &mut self,
        now: Instant,
        id: ConnId,
        act: impl FnOnce(&mut Connection, &mut Env<'_>) -> R,
    ) -> Result<R, TcpError> {
        self.connection(id)?;
        let mut counters = self.counted.take().unwrap_or_default();
        let result = self.with(now, id.index, false, &mut counters, act);
        if *counters != Counters::default() {
            self.counted = Some(counters);
        }
        Ok(result)
    }
}

impl Connection {
    /// Closes the write side (RFC 9293 section 3.10.4): the FIN follows what is queued.
    fn shut_write(&mut self) {
        self.marks.write_shut = true;
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => other,
        };
        self.wake_writer();
    }

    fn let_go(&mut self) {
        self.marks.orphan = true;
        self.recv_waker = None;
        self.send_waker = None;
    }

    fn reset(&mut self, env: &mut Env<'_>) {
        env.counters.tcp_established_resets += u64::from(self.state.is_synchronized());
        env.replies.reset(&self.key, self.snd_nxt, self.rcv_nxt(), env.counters);
        self.fail(TcpError::ConnectionAborted);
    }

    fn close_gracefully(&mut self, env: &Env<'_>) {
        self.received.clear();
        if !self.marks.write_shut {
            self.shut_write();
        }
        self.linger_at = match (self.state, self.options.linger) {
            (State::FinWait2, _) => env.now + env.config.fin_wait_2,
            (_, Some(linger)) => env.now + linger,
            (_, None) => NEVER,
        };
    }
}

/// Keeps the waker of whoever asked last.
fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(old) if old.will_wake(waker) => {}
        _ => *place = Some(waker.clone()),
    }
}
