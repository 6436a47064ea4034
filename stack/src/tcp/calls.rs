//! The applications' calls about a connection (RFC 9293 section 3.9.1): SEND and RECEIVE are polled with a waker, CLOSE is
//! `shutdown` and `close`, then ABORT and STATUS; OPEN is in [`super::open`]. What a state makes of a call is in section 3.10.

use core::task::{Poll, Waker};
use std::rc::Rc;

use bytes::Bytes;

use super::config::SocketOptions;
use super::connection::{Connection, Context, pressure_cap};
use super::engine::{Tables, Tcp, account};
use super::header::Flags;
use super::reply::Reply;
use super::send_queue::SendQueue;
use super::seq::SeqNumber;
use super::{Chunk, ConnId, Shutdown, State, TcpError, TcpInfo, Tuple};
use crate::counters::Counters;
use crate::limits;
use crate::time::Instant;

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
        let connection = self.tables.connections.get_exact(id.index, id.generation);
        connection.filter(|connection| !connection.orphan).ok_or(TcpError::NotConnected)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Result<&mut Connection, TcpError> {
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

    pub(super) fn with_calls_counters(&mut self, act: impl FnOnce(&mut Self, &mut Counters)) {
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
    #[inline]
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
pub(super) fn park(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(old) if old.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}
