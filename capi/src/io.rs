//! Reading and writing: the ten calls of `read(2)`'s and `write(2)`'s families come down to [`receive`] and [`send`] over a
//! list of buffers; besides `splice`, `ioctl` and `fcntl`.

use std::net::SocketAddr;
use std::task::{Poll, Waker};

use bywash::tcp::{ConnId, Readiness, State, TcpError};
use bywash::time::Duration;
use libc::{c_int, c_ulong, c_void, iovec};

use crate::errno::{Errno, last};
use crate::monitor;
use crate::notices::Notice;
use crate::sockets::{Phase, World};
use crate::sysctl::Sysctls;
use crate::urgent::{self, Urgent};

/// Most that one call moves, as in Linux.
const CALL_BYTES_MAX: usize = 0x7fff_f000;
/// Most buffers of one call, Linux's `UIO_MAXIOV`.
const BUFFERS_MAX: usize = 1024;
/// Read at a time when the caller offers more.
const READ_STEP: usize = 1 << 20;
/// Addresses below this are never mapped.
const LOWEST_ADDRESS: usize = 4096;

const SIOCOUTQNSD: c_ulong = 0x894b;
const SIOCATMARK: c_ulong = 0x8905;
const MSG_ZEROCOPY: c_int = 0x400_0000;

/// A message's data and what came with it.
pub(crate) struct Message {
    pub(crate) bytes: usize,
    /// Bytes left to read, when the socket has `TCP_INQ` on.
    pub(crate) inq: Option<c_int>,
    /// Of the error queue, and whether the socket is of `AF_INET6`.
    pub(crate) notice: Option<(Notice, bool)>,
}

/// How a call writes.
#[derive(Clone, Copy)]
struct Writing {
    /// `MSG_MORE`.
    more: bool,
    /// `MSG_EOR`.
    ends_record: bool,
    /// `MSG_ZEROCOPY`.
    zerocopy: bool,
    /// `MSG_OOB`.
    urgent: bool,
}

/// Reads into the buffers.
///
/// # Safety
/// Each buffer is null, or wholly writable.
pub(crate) unsafe fn receive(fd: c_int, buffers: &[iovec], flags: c_int) -> Result<Message, Errno> {
    if flags & libc::MSG_ERRQUEUE != 0 {
        let notice = monitor::call(|world| {
            let socket = world.socket(fd)?;
            Ok::<_, Errno>(socket.notices.take().map(|notice| (notice, socket.v6)))
        })?;
        let notice = notice.ok_or(Errno(libc::EAGAIN))?;
        return Ok(Message { bytes: 0, inq: None, notice: Some(notice) });
    }
    monitor::refresh();
    if flags & libc::MSG_OOB != 0 {
        check_addresses(buffers)?;
        // SAFETY: the caller's promise.
        let bytes = unsafe { urgent::receive(fd, buffers, flags)? };
        return Ok(Message { bytes, inq: None, notice: None });
    }
    let wanted = total(buffers)?;
    if flags & libc::MSG_TRUNC == 0 {
        check_addresses(buffers)?;
    }
    let limit = monitor::call(|world| {
        let socket = world.socket(fd)?;
        Ok::<_, Errno>(socket.patience(flags & libc::MSG_DONTWAIT != 0, socket.receive_timeout))
    })?;
    let peek = flags & libc::MSG_PEEK != 0;
    // So much ends a wait.
    let enough = match flags & libc::MSG_WAITALL {
        0 => monitor::call(|world| world.socket(fd).map(|socket| socket.receive_lowat()))?.min(wanted),
        _ => wanted,
    };
    let mut got = Vec::new();
    let outcome = monitor::block(limit, Errno(libc::EAGAIN), |world| {
        if peek {
            return world.peek(fd, wanted).map_ok(|bytes| got = bytes);
        }
        loop {
            let step = (wanted - got.len()).min(READ_STEP);
            let before = got.len();
            got.resize(before + step, 0);
            let read = world.read(fd, &mut got[before..]);
            got.truncate(before + if let Poll::Ready(Ok(taken)) = read { taken } else { 0 });
            if !got.is_empty() && world.is_at_mark(fd) {
                return Poll::Ready(Ok(()));
            }
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) if got.len() == wanted => return Poll::Ready(Ok(())),
                // Less than asked for is all there is; an error behind it is for the next call.
                Poll::Ready(Ok(taken)) if taken < step && (got.len() >= enough || world.has_failed(fd)) => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(errno)) => return Poll::Ready(Err(errno)),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    match outcome {
        Ok(()) => {}
        // What was read before the error or the end of patience counts.
        Err(_) if !got.is_empty() => {}
        Err(errno) => return Err(errno),
    }
    if flags & libc::MSG_TRUNC == 0 {
        // SAFETY: the buffers are writable and were checked to be plausible.
        unsafe { scatter(&got, buffers) };
    }
    let inq = monitor::call(|world| world.inq(fd));
    Ok(Message { bytes: got.len(), inq, notice: None })
}

/// Writes the buffers; with `to` and `MSG_FASTOPEN`, connects first.
///
/// # Safety
/// Each buffer is null, or wholly readable.
pub(crate) unsafe fn send(
    fd: c_int,
    buffers: &[iovec],
    flags: c_int,
    to: Option<SocketAddr>,
) -> Result<usize, Errno> {
    let len = total(buffers)?;
    check_addresses(buffers)?;
    let mut bytes = Vec::with_capacity(len);
    for buffer in buffers.iter().filter(|buffer| buffer.iov_len > 0) {
        // SAFETY: the caller's promise; addresses that cannot be are refused above.
        bytes.extend_from_slice(unsafe {
            core::slice::from_raw_parts(buffer.iov_base.cast::<u8>(), buffer.iov_len)
        });
    }
    let how = Writing {
        more: flags & libc::MSG_MORE != 0,
        ends_record: flags & libc::MSG_EOR != 0,
        zerocopy: flags & MSG_ZEROCOPY != 0,
        urgent: flags & libc::MSG_OOB != 0,
    };
    monitor::refresh();
    let sent = send_all(fd, &bytes, flags, to, how)?;
    monitor::call(|world| {
        if let Ok(socket) = world.socket(fd) {
            socket.notices.note_written(sent, how.zerocopy);
        }
    });
    Ok(sent)
}

/// As [`send`], for bytes that were gathered.
fn send_all(
    fd: c_int,
    bytes: &[u8],
    flags: c_int,
    to: Option<SocketAddr>,
    how: Writing,
) -> Result<usize, Errno> {
    let mut sent = 0;
    let limit = monitor::call(|world| {
        let socket = world.socket(fd)?;
        let limit = socket.patience(flags & libc::MSG_DONTWAIT != 0, socket.send_timeout);
        let early = world.open_with_data(fd, flags, to)?;
        if early == Some(false) && limit == Some(Duration::ZERO) {
            return Err(Errno(libc::EINPROGRESS));
        }
        if early == Some(true) {
            // Before the SYN leaves.
            if let Poll::Ready(taken) = world.write(fd, bytes, how) {
                sent = taken?;
            }
        }
        Ok(limit)
    })?;
    if sent > 0 && sent == bytes.len() {
        return Ok(sent);
    }
    let mut blocked = false;
    let outcome = monitor::block(limit, Errno(libc::EAGAIN), |world| {
        if let Phase::Connecting(_) = world.socket(fd)?.phase {
            match world.connect_outcome(fd) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
        // A writer that once blocked goes on when the buffer has a third free, as in Linux.
        if blocked && world.ready(fd).mask & (libc::POLLOUT | libc::POLLERR | libc::POLLHUP) == 0 {
            return Poll::Pending;
        }
        loop {
            match world.write(fd, &bytes[sent..], how) {
                Poll::Ready(Ok(taken)) => sent += taken,
                Poll::Ready(Err(errno)) => return Poll::Ready(Err(errno)),
                Poll::Pending => {
                    blocked = true;
                    return Poll::Pending;
                }
            }
            if sent == bytes.len() {
                return Poll::Ready(Ok(()));
            }
        }
    });
    match outcome {
        Ok(()) => Ok(sent),
        Err(_) if sent > 0 => Ok(sent),
        Err(errno) => Err(errno),
    }
}

impl World {
    /// Starts the connection that a write with `MSG_FASTOPEN`, or after a deferred `connect`, opens; whether its data goes
    /// with the SYN. `None`: this write opens none.
    fn open_with_data(
        &mut self,
        fd: c_int,
        flags: c_int,
        to: Option<SocketAddr>,
    ) -> Result<Option<bool>, Errno> {
        let clients = Sysctls::new(&self.flags).fastopen().clients;
        let remote = match (&self.socket(fd)?.phase, to) {
            (Phase::Deferred(remote), _) => *remote,
            (Phase::Fresh, to) if flags & libc::MSG_FASTOPEN != 0 => {
                if !clients {
                    return Err(Errno(libc::EOPNOTSUPP));
                }
                to.ok_or(Errno(libc::EINVAL))?
            }
            _ => return Ok(None),
        };
        let with_data = self.may_connect_with_data(fd, remote)?;
        self.start_connect(fd, remote, true)?;
        Ok(Some(with_data))
    }

    /// Reads up to the urgent byte, and leaves that out where it is hidden.
    fn read(&mut self, fd: c_int, into: &mut [u8]) -> Poll<Result<usize, Errno>> {
        let id = self.reading(fd)?;
        let is_hidden = self.hidden_urgent(fd).is_some();
        let mut len = into.len();
        match self.urgent(id) {
            Some(Urgent { offset: 0, arrived: true, .. }) if is_hidden && len > 0 => {
                // The byte is there, so that this is ready.
                let _ = self.stack.tcp.poll_recv(self.stack.now, id, &mut [0], Waker::noop());
            }
            Some(Urgent { offset, .. }) if offset > 0 => len = len.min(offset),
            _ => {}
        }
        let read = self.stack.tcp.poll_recv(self.stack.now, id, &mut into[..len], Waker::noop());
        self.ended(id, read)
    }

    /// Whether the next byte is the urgent one.
    fn is_at_mark(&mut self, fd: c_int) -> bool {
        let id = self.connection(fd).ok();
        id.and_then(|id| self.urgent(id)).is_some_and(|urgent| urgent.offset == 0)
    }

    /// Whether an error waits to be told.
    fn has_failed(&mut self, fd: c_int) -> bool {
        let readiness = self.connection(fd).ok().and_then(|id| self.stack.tcp.readiness(id).ok());
        readiness.is_some_and(|readiness| readiness.error.is_some())
    }

    fn peek(&mut self, fd: c_int, wanted: usize) -> Poll<Result<Vec<u8>, Errno>> {
        let id = self.reading(fd)?;
        let readable = self.stack.tcp.readiness(id)?.readable_bytes;
        let hidden = self.hidden_urgent(fd);
        let skip = usize::from(hidden.is_some_and(|urgent| urgent.offset == 0 && urgent.arrived));
        let limit = self.urgent(id).map_or(usize::MAX, |urgent| urgent.offset);
        let wanted = if limit > 0 { wanted.min(limit) } else { wanted.saturating_add(skip) };
        let mut bytes = vec![0; readable.min(wanted)];
        if readable == skip {
            if skip > 0 {
                return Poll::Pending;
            }
            // Nothing to take, so this only tells why.
            let end = self.stack.tcp.poll_recv(self.stack.now, id, &mut [0], Waker::noop());
            return self.ended(id, end).map_ok(|_| bytes);
        }
        let peeked = self.stack.tcp.peek(id, &mut bytes)?;
        bytes.truncate(peeked);
        bytes.drain(..skip);
        Poll::Ready(Ok(bytes))
    }

    /// The connection to read from; while it is being opened, readers wait.
    fn reading(&mut self, fd: c_int) -> Result<ConnId, Errno> {
        match self.socket(fd)?.phase {
            Phase::Connecting(id) | Phase::Connected(id) => Ok(id),
            Phase::Fresh | Phase::Deferred(_) | Phase::Listening(_) => Err(Errno(libc::ENOTCONN)),
        }
    }

    /// An error is told once, as in Linux; after it comes the end of the stream.
    fn ended(&mut self, id: ConnId, read: Poll<Result<usize, TcpError>>) -> Poll<Result<usize, Errno>> {
        match read {
            Poll::Ready(Err(TcpError::NotConnected)) => Poll::Ready(Ok(0)),
            Poll::Ready(Err(error)) => {
                self.stack.tcp.take_error(id);
                Poll::Ready(Err(error.into()))
            }
            other => other.map_err(Errno::from),
        }
    }

    fn write(&mut self, fd: c_int, bytes: &[u8], how: Writing) -> Poll<Result<usize, Errno>> {
        let Writing { more, ends_record, urgent, .. } = how;
        let socket = self.socket(fd)?;
        let Some(id) = socket.connection() else { return Poll::Ready(Err(Errno(libc::EPIPE))) };
        if more || socket.more {
            socket.more = more;
            self.stack.tcp.set_more(self.stack.now, id, more)?;
        }
        match self.stack.tcp.poll_send(self.stack.now, id, bytes, Waker::noop()) {
            Poll::Ready(Err(TcpError::NotConnected)) => Poll::Ready(Err(Errno(libc::EPIPE))),
            Poll::Ready(Err(error)) => {
                let errno = self.errno_of(id, error);
                self.stack.tcp.take_error(id);
                Poll::Ready(Err(errno))
            }
            Poll::Ready(Ok(taken)) => {
                if urgent {
                    self.stack.tcp.mark_urgent(self.stack.now, id)?;
                }
                if ends_record && taken == bytes.len() {
                    self.stack.tcp.end_record(self.stack.now, id)?;
                }
                Poll::Ready(Ok(taken))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// What an error is for a program: a reset of what only we still wrote to is a broken pipe, as in Linux.
    pub(crate) fn errno_of(&self, id: ConnId, error: TcpError) -> Errno {
        let half_closed = |readiness: Readiness| readiness.fin_received && !readiness.fin_queued;
        match self.stack.tcp.readiness(id) {
            Ok(readiness) if error == TcpError::ConnectionReset && half_closed(readiness) => {
                Errno(libc::EPIPE)
            }
            _ => error.into(),
        }
    }

    /// Gives the engine the socket's options.
    pub(crate) fn apply_options(&mut self, fd: c_int) -> Result<(), Errno> {
        let socket = self.socket(fd)?;
        let options = socket.options.clone();
        match &socket.phase {
            Phase::Fresh | Phase::Deferred(_) => {}
            Phase::Listening(listeners) => {
                for listener in listeners.clone() {
                    self.stack.tcp.set_listener_options(listener, options.clone())?;
                }
            }
            Phase::Connecting(id) | Phase::Connected(id) => {
                let id = *id;
                match self.stack.tcp.set_options(self.stack.now, id, options) {
                    // Set for nothing on a connection that is over.
                    Ok(()) | Err(TcpError::NotConnected) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// `SIOCINQ`: bytes to read; one more for a FIN, as `TCP_INQ` has it, only where `TCP_INQ` asks.
    fn inq(&mut self, fd: c_int) -> Option<c_int> {
        let socket = self.socket(fd).ok()?;
        let on =
            socket.kept.get(&(libc::IPPROTO_TCP, crate::sockopt::TCP_INQ)).is_some_and(|value| *value != 0);
        let id = socket.connection().filter(|_| on)?;
        let readiness = self.stack.tcp.readiness(id).ok()?;
        let end = readiness.readable_bytes == 0 && readiness.fin_received;
        Some(readiness.readable_bytes as c_int + c_int::from(end))
    }
}

/// `splice(2)`: between one of our sockets and a pipe.
pub(crate) fn splice(from: c_int, to: c_int, len: usize, flags: u32) -> Result<c_int, Errno> {
    let (ours_in, ours_out) = monitor::call(|world| (world.has(from), world.has(to)));
    let mut bytes = vec![0; len.min(64 << 10)];
    let nonblocking = if flags & libc::SPLICE_F_NONBLOCK != 0 { libc::MSG_DONTWAIT } else { 0 };
    let count = match (ours_in, ours_out) {
        (true, false) => {
            // Nothing is taken past the urgent byte, nor left out.
            let len = monitor::call(|world| {
                let id = world.connection(from).ok();
                id.and_then(|id| world.urgent(id))
                    .map_or(bytes.len(), |urgent| urgent.offset.min(bytes.len()))
            });
            if len == 0 {
                return Ok(0);
            }
            bytes.truncate(len);
            let buffer = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            // SAFETY: the buffer is the vector.
            let read = unsafe { receive(from, &[buffer], nonblocking)? }.bytes;
            // SAFETY: the first `read` bytes are the vector's.
            if unsafe { libc::write(to, bytes.as_ptr().cast(), read) } < read as isize {
                return Err(last());
            }
            read
        }
        (false, true) => {
            // SAFETY: the vector has as many bytes.
            let read = unsafe { libc::read(from, bytes.as_mut_ptr().cast(), bytes.len()) };
            let read = usize::try_from(read).map_err(|_| last())?;
            let buffer = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: read };
            // SAFETY: the buffer is the vector's front.
            unsafe { send(to, &[buffer], nonblocking, None)? }
        }
        _ => return Err(Errno(libc::EINVAL)),
    };
    Ok(count as c_int)
}

/// `sendfile(2)` to one of our sockets.
///
/// # Safety
/// `offset` is null or points to an offset.
pub(crate) unsafe fn sendfile(
    to: c_int,
    from: c_int,
    offset: *mut libc::off_t,
    count: usize,
) -> Result<usize, Errno> {
    let mut bytes = vec![0u8; count.min(READ_STEP)];
    let read = if offset.is_null() {
        // SAFETY: the vector has as many bytes.
        unsafe { libc::read(from, bytes.as_mut_ptr().cast(), bytes.len()) }
    } else {
        // SAFETY: as above; the offset is the caller's.
        unsafe { libc::pread(from, bytes.as_mut_ptr().cast(), bytes.len(), offset.read_unaligned()) }
    };
    let read = usize::try_from(read).map_err(|_| last())?;
    let buffer = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: read };
    // SAFETY: the buffer is the vector's front.
    let sent = unsafe { send(to, &[buffer], 0, None)? };
    if offset.is_null() {
        // What was not sent is there for the next call.
        // SAFETY: a call without pointers.
        unsafe { libc::lseek(from, sent as libc::off_t - read as libc::off_t, libc::SEEK_CUR) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { offset.write_unaligned(offset.read_unaligned() + sent as libc::off_t) };
    }
    Ok(sent)
}

/// `ioctl(2)`.
///
/// # Safety
/// `arg` is what the request asks for.
pub(crate) unsafe fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> Result<c_int, Errno> {
    if !monitor::call(|world| world.has(fd)) {
        // SAFETY: the caller's own call, passed on.
        let result = unsafe { libc::ioctl(fd, request, arg) };
        return if result < 0 { Err(last()) } else { Ok(result) };
    }
    if (arg as usize) < LOWEST_ADDRESS {
        return Err(Errno(libc::EFAULT));
    }
    let place = arg.cast::<c_int>();
    if request == libc::FIONBIO {
        // SAFETY: FIONBIO's argument is an int.
        let on = unsafe { place.read_unaligned() } != 0;
        return monitor::call(|world| world.socket(fd).map(|socket| socket.nonblocking = on)).map(|()| 0);
    }
    let value = monitor::call(|world| {
        let socket = world.socket(fd)?;
        if matches!(socket.phase, Phase::Listening(_)) {
            return Err(Errno(libc::EINVAL));
        }
        let Some(id) = socket.connection() else { return Ok(0) };
        let readiness = world.stack.tcp.readiness(id)?;
        let opening = matches!(readiness.state, State::SynSent | State::SynReceived);
        // The FIN has a sequence number, too.
        let fin = matches!(readiness.state, State::FinWait1 | State::Closing | State::LastAck);
        let mark = world.urgent(id);
        let hidden = world.hidden_urgent(fd).filter(|urgent| urgent.arrived);
        Ok(match request {
            libc::FIONREAD => hidden.map_or(readiness.readable_bytes, |urgent| urgent.offset) as c_int,
            libc::TIOCOUTQ | SIOCOUTQNSD if opening => 0,
            libc::TIOCOUTQ => readiness.queued_bytes as c_int + c_int::from(fin),
            SIOCOUTQNSD => readiness.unsent_bytes as c_int,
            SIOCATMARK => c_int::from(mark.is_some_and(|urgent| urgent.offset == 0)),
            _ => return Err(Errno(libc::ENOTTY)),
        })
    })?;
    // SAFETY: the argument of all of these is an int to write to.
    unsafe { place.write_unaligned(value) };
    Ok(0)
}

/// `fcntl(2)`: the flags of the descriptor are ours, all else the kernel's.
pub(crate) fn fcntl(fd: c_int, command: c_int, arg: *mut c_void) -> Result<c_int, Errno> {
    let ours = monitor::call(|world| match (world.socket(fd), command) {
        (Ok(socket), libc::F_GETFL) => {
            Some(libc::O_RDWR | if socket.nonblocking { libc::O_NONBLOCK } else { 0 })
        }
        (Ok(socket), libc::F_SETFL) => {
            socket.nonblocking = arg as c_int & libc::O_NONBLOCK != 0;
            Some(0)
        }
        _ => None,
    });
    match ours {
        Some(result) => Ok(result),
        None => {
            // SAFETY: the caller's own call, passed on.
            let result = unsafe { libc::fcntl(fd, command, arg) };
            if result < 0 { Err(last()) } else { Ok(result) }
        }
    }
}

/// Bytes in all buffers.
fn total(buffers: &[iovec]) -> Result<usize, Errno> {
    if buffers.len() > BUFFERS_MAX {
        return Err(Errno(libc::EINVAL));
    }
    let sum = buffers.iter().try_fold(0usize, |sum, buffer| sum.checked_add(buffer.iov_len));
    let sum = sum.filter(|sum| isize::try_from(*sum).is_ok()).ok_or(Errno(libc::EINVAL))?;
    Ok(sum.min(CALL_BYTES_MAX))
}

/// Refuses addresses that cannot be the caller's: scripts pass such on purpose.
fn check_addresses(buffers: &[iovec]) -> Result<(), Errno> {
    let bad = |buffer: &iovec| {
        let start = buffer.iov_base as usize;
        buffer.iov_len > 0
            && (start < LOWEST_ADDRESS
                || start.checked_add(buffer.iov_len).is_none_or(|end| isize::try_from(end).is_err()))
    };
    if buffers.iter().any(bad) { Err(Errno(libc::EFAULT)) } else { Ok(()) }
}

/// Spreads `bytes` over the buffers.
///
/// # Safety
/// The buffers are writable and hold at least as much.
unsafe fn scatter(mut bytes: &[u8], buffers: &[iovec]) {
    for buffer in buffers {
        let len = bytes.len().min(buffer.iov_len);
        if len == 0 {
            continue;
        }
        // SAFETY: the caller's promise; `bytes` is memory of our own.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.iov_base.cast::<u8>(), len) };
        bytes = &bytes[len..];
    }
}
