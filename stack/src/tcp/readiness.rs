//! What a connection or listener is ready for, without waiting: the questions that `poll(2)`, `SIOCINQ`, `SIOCOUTQ` and
//! `MSG_PEEK` ask.

use super::{ConnId, ListenerId, State, Tcp, TcpError};
use crate::time::Instant;

/// What could be done with a connection now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// Its state.
    pub state: State,
    /// Bytes to read.
    pub readable_bytes: usize,
    /// Bytes written and not acknowledged (`SIOCOUTQ` counts the FIN besides).
    pub queued_bytes: usize,
    /// Of these, bytes never sent (`SIOCOUTQNSD`).
    pub unsent_bytes: usize,
    /// The peer's FIN is next, behind what can be read.
    pub fin_received: bool,
    /// The FIN was queued: nothing more can be written.
    pub fin_queued: bool,
    /// What ended the connection.
    pub error: Option<TcpError>,
}

impl Tcp {
    /// What could be done with the connection now.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn readiness(&self, id: ConnId) -> Result<Readiness, TcpError> {
        let connection = self.get(id)?;
        Ok(Readiness {
            state: self.state_of(connection),
            readable_bytes: connection.receive.readable(),
            queued_bytes: connection.send.len(),
            unsent_bytes: connection.unsent() as usize,
            fin_received: connection.fin_received,
            fin_queued: connection.fin_queued,
            error: connection.error,
        })
    }

    /// Copies received bytes to `bytes` and leaves them in the queue (`MSG_PEEK`); returns how many.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn peek(&self, id: ConnId, bytes: &mut [u8]) -> Result<usize, TcpError> {
        Ok(self.get(id)?.receive.peek(bytes))
    }

    /// Sends what Nagle's rule or cork hold back, once, as setting `TCP_NODELAY` does in Linux even on a corked socket.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn push(&mut self, now: Instant, id: ConnId) -> Result<(), TcpError> {
        self.get(id)?;
        self.call(now, id.index, |connection, _| connection.override_due |= connection.unsent() > 0);
        Ok(())
    }

    /// Whether more follows what is written next (`MSG_MORE`): its last, partial segment waits as with cork, and is not
    /// pushed when it goes.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn set_more(&mut self, now: Instant, id: ConnId, more: bool) -> Result<(), TcpError> {
        self.get(id)?;
        self.call(now, id.index, |connection, _| {
            connection.more = more;
            connection.more_acked &= !more;
        });
        Ok(())
    }

    /// What was written so far ends a record (`MSG_EOR`): the segment that has its last byte is pushed, and what is written
    /// next begins another one. Call it after the write, before [`Tcp::transmit`].
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn end_record(&mut self, now: Instant, id: ConnId) -> Result<(), TcpError> {
        self.get(id)?;
        self.call(now, id.index, |connection, _| {
            if !connection.send.is_empty() {
                connection.end_record();
            }
        });
        Ok(())
    }

    /// What was written so far is urgent (`MSG_OOB`): segments say so until it is acknowledged, and Nagle's rule or cork do not
    /// hold it back. Only for peers that ask for it: RFC 6093 section 5 advises new applications against urgent data. Call it
    /// after the write, before [`Tcp::transmit`].
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn mark_urgent(&mut self, now: Instant, id: ConnId) -> Result<(), TcpError> {
        self.get(id)?;
        self.call(now, id.index, |connection, _| {
            if !connection.send.is_empty() {
                connection.cold_mut().urgent_out = Some(connection.data_end());
            }
        });
        Ok(())
    }

    /// Whether and when accurate ECN's option is sent on a connection from now on ([`super::AccurateEcnConfig::option`]).
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn set_accurate_ecn_option(
        &mut self,
        now: Instant,
        id: ConnId,
        option: super::AccurateEcnOption,
    ) -> Result<(), TcpError> {
        self.get(id)?;
        self.call(now, id.index, |connection, _| {
            connection.ecn.set_option(option);
            connection.update_mss();
        });
        Ok(())
    }

    /// Connections that wait to be accepted.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle.
    pub fn acceptable(&self, id: ListenerId) -> Result<usize, TcpError> {
        self.listeners.get(id).map(|listener| listener.accept.len()).ok_or(TcpError::NotConnected)
    }

    /// Options that what the listener accepts from now on will have.
    ///
    /// # Errors
    /// `NotConnected` for a stale handle, `InvalidInput` for options out of bounds.
    pub fn set_listener_options(
        &mut self,
        id: ListenerId,
        options: super::SocketOptions,
    ) -> Result<(), TcpError> {
        let options = self.accept_options(options)?;
        self.listeners.get_mut(id).ok_or(TcpError::NotConnected)?.options = options;
        Ok(())
    }
}
