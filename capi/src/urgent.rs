//! Urgent data as Linux's sockets have it: one byte, the last before the urgent pointer, which `recv` with `MSG_OOB` takes and other
//! reads leave out, unless `SO_OOBINLINE` leaves it in line (RFC 6093 sections 2 and 6). Reads end in front of it either way. The engine
//! keeps it in line and tells how far it is.

use bywash::tcp::{ConnId, State};
use libc::{c_int, iovec};

use crate::errno::Errno;
use crate::sockets::World;

/// The urgent byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Urgent {
    /// Bytes to be read in front of it.
    pub(crate) offset: usize,
    /// Bytes of the connection in front of it.
    position: u64,
    /// It can be read.
    pub(crate) arrived: bool,
}

impl World {
    /// Where the urgent byte is, until it is read past.
    pub(crate) fn urgent(&self, id: ConnId) -> Option<Urgent> {
        let tcp = &self.stack.tcp;
        let offset = tcp.urgent_ahead(id).ok()?? as usize - 1;
        let readable = tcp.readiness(id).ok()?.readable_bytes;
        let received = tcp.info(self.stack.now, id).ok()?.bytes_received;
        let position = received - readable as u64 + offset as u64;
        Some(Urgent { offset, position, arrived: offset < readable })
    }

    /// The urgent byte, if reads leave it out.
    pub(crate) fn hidden_urgent(&mut self, fd: c_int) -> Option<Urgent> {
        let socket = self.socket(fd).ok()?;
        let id = socket.connection().filter(|_| !socket.is_on(libc::SOL_SOCKET, libc::SO_OOBINLINE))?;
        self.urgent(id)
    }

    /// Whether the urgent byte is there to be taken (`POLLPRI`).
    pub(crate) fn has_urgent(&mut self, fd: c_int) -> bool {
        let Ok(socket) = self.socket(fd) else { return false };
        let (taken, id) = (socket.urgent_taken, socket.connection());
        let urgent = id.and_then(|id| self.urgent(id));
        urgent.is_some_and(|urgent| urgent.arrived && taken != Some(urgent.position))
    }

    /// `recv(2)` with `MSG_OOB`: the byte; `None` where there will be none.
    fn take_urgent(&mut self, fd: c_int, peek: bool) -> Result<Option<u8>, Errno> {
        let id = self.connection(fd)?;
        let taken = self.socket(fd)?.urgent_taken;
        let urgent = self.hidden_urgent(fd).filter(|urgent| taken != Some(urgent.position));
        let urgent = urgent.ok_or(Errno(libc::EINVAL))?;
        if !urgent.arrived {
            let readiness = self.stack.tcp.readiness(id)?;
            let ended = readiness.state == State::Closed || readiness.fin_received;
            return if ended { Ok(None) } else { Err(Errno(libc::EAGAIN)) };
        }
        let mut bytes = vec![0; urgent.offset + 1];
        self.stack.tcp.peek(id, &mut bytes)?;
        if !peek {
            self.socket(fd)?.urgent_taken = Some(urgent.position);
        }
        Ok(bytes.last().copied())
    }
}

/// Takes the urgent byte to the front of the buffers; how many bytes that were.
///
/// # Safety
/// Each buffer is null, or wholly writable.
pub(crate) unsafe fn receive(fd: c_int, buffers: &[iovec], flags: c_int) -> Result<usize, Errno> {
    let byte = crate::monitor::call(|world| world.take_urgent(fd, flags & libc::MSG_PEEK != 0))?;
    let place = buffers.iter().find(|buffer| buffer.iov_len > 0);
    let (Some(byte), Some(place)) = (byte, place) else { return Ok(0) };
    if flags & libc::MSG_TRUNC == 0 {
        // SAFETY: the caller's promise, for a buffer of a byte at least.
        unsafe { place.iov_base.cast::<u8>().write(byte) };
    }
    Ok(1)
}
