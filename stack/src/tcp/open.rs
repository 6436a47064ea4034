//! The applications' calls that open (RFC 9293 section 3.9.1.1): `listen`, accepting, `connect`, Fast Open's keys.

use core::net::{IpAddr, SocketAddr};
use core::task::{Poll, Waker};
use std::collections::VecDeque;
use std::rc::Rc;

use super::calls::park;
use super::config::{FastOpenKeys, SocketOptions, TcpConfig, TcpConfigError};
use super::connection::{Connection, pressure_cap};
use super::engine::{Kind, Tcp, is_unicast};
use super::fastopen::{Advice, CookieMaker, PendingFastOpens};
use super::listener::Listener;
use super::table::TupleKey;
use super::time_wait::REOPEN_GAP;
use super::{ConnId, ListenerId, State, TcpError};
use crate::time::Instant;
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
