//! The C interface: the structure of function pointers that a packetdrill-style runner fills in and calls, and `getsockopt`
//! itself, for the assertions of scripts that ask the C library by its name (the object is preloaded for them).
//!
//! Every call comes in on any thread, takes nothing but plain C values, sets `errno`, and never unwinds into its caller.

use std::ffi::{CStr, c_char, c_longlong};

use bywash::time::Duration;
use libc::{
    c_int, c_uint, c_ulong, c_void, epoll_event, iovec, loff_t, msghdr, nfds_t, pollfd, size_t, sockaddr,
    socklen_t, ssize_t, timeval, useconds_t,
};

use crate::errno::{Errno, guarded, last};
use crate::notices::Notice;
use crate::{address, epoll, io, monitor, poll, sockets, sockopt, statistics};

/// How far the clock goes on each time it is read: runners spin on it.
const TICK: Duration = Duration::from_micros(2);
/// How long `netdev_receive` lets time pass before it says that nothing comes: longer than the default keepalive time.
const RECEIVE_PATIENCE: Duration = Duration::from_secs(3 * 3600);
/// The time of day at which virtual time is zero: any will do, as long as it is always the same.
const EPOCH_SECONDS: i64 = 1_600_000_000;
/// `TCP_CM_INQ`, the control message of `TCP_INQ`.
const TCP_CM_INQ: c_int = sockopt::TCP_INQ;

type Userdata = *mut c_void;

/// The runner's structure. The order of the fields is the interface.
#[repr(C)]
#[allow(missing_docs)]
pub struct PacketdrillInterface {
    pub userdata: Userdata,
    pub free: extern "C" fn(Userdata),
    pub socket: extern "C" fn(Userdata, c_int, c_int, c_int) -> c_int,
    pub bind: unsafe extern "C" fn(Userdata, c_int, *const sockaddr, socklen_t) -> c_int,
    pub listen: extern "C" fn(Userdata, c_int, c_int) -> c_int,
    pub accept: unsafe extern "C" fn(Userdata, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    pub connect: unsafe extern "C" fn(Userdata, c_int, *const sockaddr, socklen_t) -> c_int,
    pub read: unsafe extern "C" fn(Userdata, c_int, *mut c_void, size_t) -> ssize_t,
    pub readv: unsafe extern "C" fn(Userdata, c_int, *const iovec, c_int) -> ssize_t,
    pub recv: unsafe extern "C" fn(Userdata, c_int, *mut c_void, size_t, c_int) -> ssize_t,
    pub recvfrom: unsafe extern "C" fn(
        Userdata,
        c_int,
        *mut c_void,
        size_t,
        c_int,
        *mut sockaddr,
        *mut socklen_t,
    ) -> ssize_t,
    pub recvmsg: unsafe extern "C" fn(Userdata, c_int, *mut msghdr, c_int) -> ssize_t,
    pub write: unsafe extern "C" fn(Userdata, c_int, *const c_void, size_t) -> ssize_t,
    pub writev: unsafe extern "C" fn(Userdata, c_int, *const iovec, c_int) -> ssize_t,
    pub send: unsafe extern "C" fn(Userdata, c_int, *const c_void, size_t, c_int) -> ssize_t,
    pub sendto: unsafe extern "C" fn(
        Userdata,
        c_int,
        *const c_void,
        size_t,
        c_int,
        *const sockaddr,
        socklen_t,
    ) -> ssize_t,
    pub sendmsg: unsafe extern "C" fn(Userdata, c_int, *const msghdr, c_int) -> ssize_t,
    /// Variadic in C; its one argument is passed like a pointer on x86-64 and AArch64.
    pub fcntl: unsafe extern "C" fn(Userdata, c_int, c_int, *mut c_void) -> c_int,
    /// As `fcntl`.
    pub ioctl: unsafe extern "C" fn(Userdata, c_int, c_ulong, *mut c_void) -> c_int,
    pub close: extern "C" fn(Userdata, c_int) -> c_int,
    pub shutdown: extern "C" fn(Userdata, c_int, c_int) -> c_int,
    pub getsockopt: unsafe extern "C" fn(Userdata, c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
    pub setsockopt: unsafe extern "C" fn(Userdata, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    pub poll: unsafe extern "C" fn(Userdata, *mut pollfd, nfds_t, c_int) -> c_int,
    pub netdev_send: unsafe extern "C" fn(Userdata, *const c_void, size_t) -> c_int,
    pub netdev_receive: unsafe extern "C" fn(Userdata, *mut c_void, *mut size_t, *mut c_longlong) -> c_int,
    pub usleep: extern "C" fn(Userdata, useconds_t) -> c_int,
    pub gettimeofday: unsafe extern "C" fn(Userdata, *mut timeval, *mut c_void) -> c_int,
    pub epoll_create: extern "C" fn(Userdata, c_int) -> c_int,
    pub epoll_ctl: unsafe extern "C" fn(Userdata, c_int, c_int, c_int, *mut epoll_event) -> c_int,
    pub epoll_wait: unsafe extern "C" fn(Userdata, c_int, *mut epoll_event, c_int, c_int) -> c_int,
    pub pipe: unsafe extern "C" fn(Userdata, *mut c_int) -> c_int,
    pub splice:
        unsafe extern "C" fn(Userdata, c_int, *mut loff_t, c_int, *mut loff_t, size_t, c_uint) -> c_int,
}

/// Begins anew with `flags` (see the crate's `flags`; may be null) and fills in the runner's structure.
///
/// # Safety
/// `flags` is null or a C string; `interface` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(
    flags: *const c_char,
    interface: *mut PacketdrillInterface,
) {
    guarded((), || {
        if interface.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        // SAFETY: a C string if it is not null.
        let flags = if flags.is_null() { c"" } else { unsafe { CStr::from_ptr(flags) } };
        monitor::reset(&flags.to_string_lossy());
        // SAFETY: the runner loads this object before it starts threads.
        unsafe { statistics::announce() };
        // SAFETY: writable, by the caller's promise.
        unsafe { interface.write_unaligned(INTERFACE) };
        Ok(())
    });
}

/// The C library's `getsockopt(2)`: ours for our descriptors, the kernel's for all others.
///
/// # Safety
/// As for `getsockopt(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    guarded(-1, || {
        if monitor::call(|world| world.has(fd)) {
            // SAFETY: the caller's promise.
            return unsafe { sockopt::get(fd, level, name, value, len) };
        }
        // SAFETY: the caller's own call, past the C library's symbol, which is this one.
        let result = unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value, len) };
        if result < 0 { Err(last()) } else { Ok(result as c_int) }
    })
}

/// The C library's `sendfile(2)`: for runners that have scripts call it although the interface has no place for it.
///
/// # Safety
/// As for `sendfile(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(
    out: c_int,
    from: c_int,
    offset: *mut libc::off_t,
    count: size_t,
) -> ssize_t {
    guarded(-1, || {
        if monitor::call(|world| world.has(out)) {
            // SAFETY: the caller's promise.
            return Ok(unsafe { io::sendfile(out, from, offset, count)? } as ssize_t);
        }
        // SAFETY: the caller's own call, past the C library's symbol, which is this one.
        passed_on(unsafe { libc::syscall(libc::SYS_sendfile, out, from, offset, count) } as ssize_t)
    })
}

const INTERFACE: PacketdrillInterface = PacketdrillInterface {
    userdata: core::ptr::null_mut(),
    free: call_free,
    socket: call_socket,
    bind: call_bind,
    listen: call_listen,
    accept: call_accept,
    connect: call_connect,
    read: call_read,
    readv: call_readv,
    recv: call_recv,
    recvfrom: call_recvfrom,
    recvmsg: call_recvmsg,
    write: call_write,
    writev: call_writev,
    send: call_send,
    sendto: call_sendto,
    sendmsg: call_sendmsg,
    fcntl: call_fcntl,
    ioctl: call_ioctl,
    close: call_close,
    shutdown: call_shutdown,
    getsockopt: call_getsockopt,
    setsockopt: call_setsockopt,
    poll: call_poll,
    netdev_send: call_netdev_send,
    netdev_receive: call_netdev_receive,
    usleep: call_usleep,
    gettimeofday: call_gettimeofday,
    epoll_create: call_epoll_create,
    epoll_ctl: call_epoll_ctl,
    epoll_wait: call_epoll_wait,
    pipe: call_pipe,
    splice: call_splice,
};

// ---- making and ending

extern "C" fn call_free(_: Userdata) {
    guarded((), || {
        monitor::reset("");
        Ok(())
    });
}

extern "C" fn call_socket(_: Userdata, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    guarded(-1, || sockets::socket(domain, kind, protocol))
}

unsafe extern "C" fn call_bind(_: Userdata, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the runner passes libc's arguments.
    guarded(-1, || sockets::bind(fd, unsafe { address::read(addr, len)? }))
}

extern "C" fn call_listen(_: Userdata, fd: c_int, backlog: c_int) -> c_int {
    guarded(-1, || sockets::listen(fd, backlog))
}

unsafe extern "C" fn call_accept(_: Userdata, fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    guarded(-1, || {
        let (new, peer, v6) = sockets::accept(fd, 0)?;
        // SAFETY: the runner passes libc's arguments.
        unsafe { address::write(peer, v6, addr, len) };
        Ok(new)
    })
}

unsafe extern "C" fn call_connect(_: Userdata, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the runner passes libc's arguments.
    guarded(-1, || sockets::connect(fd, unsafe { address::read(addr, len)? }))
}

extern "C" fn call_close(_: Userdata, fd: c_int) -> c_int {
    guarded(-1, || sockets::close(fd))
}

extern "C" fn call_shutdown(_: Userdata, fd: c_int, how: c_int) -> c_int {
    guarded(-1, || sockets::shutdown(fd, how))
}

// ---- reading

unsafe extern "C" fn call_read(_: Userdata, fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t {
    guarded(-1, || {
        if !monitor::call(|world| world.has(fd)) {
            // SAFETY: the caller's own call, passed on.
            return passed_on(unsafe { libc::read(fd, buffer, len) });
        }
        // SAFETY: the runner passes libc's arguments.
        unsafe { read_one(fd, buffer, len, 0) }
    })
}

unsafe extern "C" fn call_readv(_: Userdata, fd: c_int, buffers: *const iovec, count: c_int) -> ssize_t {
    guarded(-1, || {
        // SAFETY: the runner passes libc's arguments.
        unsafe {
            let buffers = list(buffers, count as usize)?;
            Ok(io::receive(fd, buffers, 0)?.bytes as ssize_t)
        }
    })
}

unsafe extern "C" fn call_recv(
    _: Userdata,
    fd: c_int,
    buffer: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the runner passes libc's arguments.
    guarded(-1, || unsafe { read_one(fd, buffer, len, flags) })
}

unsafe extern "C" fn call_recvfrom(
    _: Userdata,
    fd: c_int,
    buffer: *mut c_void,
    len: size_t,
    flags: c_int,
    _addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    guarded(-1, || {
        // SAFETY: the runner passes libc's arguments.
        let count = unsafe { read_one(fd, buffer, len, flags)? };
        if !addr_len.is_null() {
            // SAFETY: as above. A connection's peer is not told, as in Linux.
            unsafe { addr_len.write_unaligned(0) };
        }
        Ok(count)
    })
}

unsafe extern "C" fn call_recvmsg(_: Userdata, fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    guarded(-1, || {
        if message.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        // SAFETY: the runner passes libc's arguments.
        unsafe {
            let buffers = list((*message).msg_iov, (*message).msg_iovlen)?;
            let received = io::receive(fd, buffers, flags)?;
            (*message).msg_namelen = 0;
            (*message).msg_flags = flags & libc::MSG_OOB;
            match received.notice {
                Some((notice, v6)) => {
                    (*message).msg_flags =
                        libc::MSG_ERRQUEUE | if notice.truncated { libc::MSG_TRUNC } else { 0 };
                    put_notice(message, notice, v6);
                }
                None => put_inq(message, received.inq),
            }
            Ok(received.bytes as ssize_t)
        }
    })
}

/// Writes the control message of `TCP_INQ`, or none.
///
/// # Safety
/// `message` is a valid `msghdr`.
unsafe fn put_inq(message: *mut msghdr, inq: Option<c_int>) {
    // SAFETY: the caller's promise; CMSG_FIRSTHDR is null when a header does not fit, and CMSG_SPACE is compared for the rest.
    unsafe {
        let space = libc::CMSG_SPACE(size_of::<c_int>() as c_uint) as usize;
        let header = libc::CMSG_FIRSTHDR(message);
        let room = (*message).msg_controllen;
        (*message).msg_controllen = 0;
        let Some(inq) = inq.filter(|_| !header.is_null() && room >= space) else { return };
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as c_uint) as _;
        (*header).cmsg_level = libc::IPPROTO_TCP;
        (*header).cmsg_type = TCP_CM_INQ;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(inq);
        (*message).msg_controllen = space;
    }
}

/// Writes the control messages of a notice: its time, if it has one, and what it says.
///
/// # Safety
/// `message` is a valid `msghdr`.
unsafe fn put_notice(message: *mut msghdr, notice: Notice, v6: bool) {
    let mut parts = Vec::new();
    if let Some(at) = notice.at {
        let micros = at.as_micros();
        // Three times, of which the first is software's.
        let times =
            [EPOCH_SECONDS + (micros / 1_000_000) as i64, (micros % 1_000_000) as i64 * 1000, 0, 0, 0, 0];
        parts.push((libc::SOL_SOCKET, sockopt::SO_TIMESTAMPING, times.map(i64::to_ne_bytes).concat()));
    }
    let (level, kind) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let mut said = notice.errno.to_ne_bytes().to_vec();
    said.extend_from_slice(&[notice.origin, 0, notice.code, 0]);
    said.extend_from_slice(&notice.info.to_ne_bytes());
    said.extend_from_slice(&notice.data.to_ne_bytes());
    // The offender's address: nobody's.
    said.resize(said.len() + if v6 { 28 } else { 16 }, 0);
    parts.push((level, kind, said));
    // SAFETY: the caller's promise; each part is written only where the space that is left has room for it.
    unsafe {
        let room = (*message).msg_controllen;
        let mut used = 0;
        let base = (*message).msg_control.cast::<u8>();
        for (level, kind, data) in parts {
            let space = libc::CMSG_SPACE(data.len() as c_uint) as usize;
            if base.is_null() || used + space > room {
                (*message).msg_flags |= libc::MSG_CTRUNC;
                break;
            }
            let header = base.add(used).cast::<libc::cmsghdr>();
            (*header).cmsg_len = libc::CMSG_LEN(data.len() as c_uint) as _;
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            core::ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(header), data.len());
            used += space;
        }
        (*message).msg_controllen = used;
    }
}

/// # Safety
/// `buffer` is writable for `len` bytes, if it is an address at all.
unsafe fn read_one(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int) -> Result<ssize_t, Errno> {
    // SAFETY: the caller's promise.
    let received = unsafe { io::receive(fd, &[iovec { iov_base: buffer, iov_len: len }], flags)? };
    Ok(received.bytes as ssize_t)
}

// ---- writing

unsafe extern "C" fn call_write(_: Userdata, fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t {
    guarded(-1, || {
        if !monitor::call(|world| world.has(fd)) {
            // SAFETY: the caller's own call, passed on.
            return passed_on(unsafe { libc::write(fd, buffer, len) });
        }
        // SAFETY: the runner passes libc's arguments.
        unsafe { write_one(fd, buffer, len, 0, None) }
    })
}

unsafe extern "C" fn call_writev(_: Userdata, fd: c_int, buffers: *const iovec, count: c_int) -> ssize_t {
    guarded(-1, || {
        // SAFETY: the runner passes libc's arguments.
        unsafe { Ok(io::send(fd, list(buffers, count as usize)?, 0, None)? as ssize_t) }
    })
}

unsafe extern "C" fn call_send(
    _: Userdata,
    fd: c_int,
    buffer: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the runner passes libc's arguments.
    guarded(-1, || unsafe { write_one(fd, buffer, len, flags, None) })
}

unsafe extern "C" fn call_sendto(
    _: Userdata,
    fd: c_int,
    buffer: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    guarded(-1, || {
        // SAFETY: the runner passes libc's arguments.
        unsafe {
            let to = if addr.is_null() { None } else { address::read(addr, addr_len)? };
            write_one(fd, buffer, len, flags, to)
        }
    })
}

unsafe extern "C" fn call_sendmsg(_: Userdata, fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    guarded(-1, || {
        if message.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        // SAFETY: the runner passes libc's arguments.
        unsafe {
            let name = (*message).msg_name.cast::<sockaddr>();
            let to = if name.is_null() { None } else { address::read(name, (*message).msg_namelen)? };
            let buffers = list((*message).msg_iov, (*message).msg_iovlen)?;
            Ok(io::send(fd, buffers, flags, to)? as ssize_t)
        }
    })
}

/// # Safety
/// `buffer` is readable for `len` bytes, if it is an address at all.
unsafe fn write_one(
    fd: c_int,
    buffer: *const c_void,
    len: size_t,
    flags: c_int,
    to: Option<std::net::SocketAddr>,
) -> Result<ssize_t, Errno> {
    let buffer = iovec { iov_base: buffer.cast_mut(), iov_len: len };
    // SAFETY: the caller's promise.
    Ok(unsafe { io::send(fd, &[buffer], flags, to)? } as ssize_t)
}

/// # Safety
/// `buffers` is null or has `count` entries.
unsafe fn list<'a>(buffers: *const iovec, count: usize) -> Result<&'a [iovec], Errno> {
    match count {
        0 => Ok(&[]),
        _ if buffers.is_null() => Err(Errno(libc::EFAULT)),
        1..=1024 => {
            // SAFETY: the caller's promise.
            Ok(unsafe { core::slice::from_raw_parts(buffers, count) })
        }
        _ => Err(Errno(libc::EINVAL)),
    }
}

fn passed_on(result: ssize_t) -> Result<ssize_t, Errno> {
    if result < 0 { Err(last()) } else { Ok(result) }
}

// ---- options and descriptors

unsafe extern "C" fn call_fcntl(_: Userdata, fd: c_int, command: c_int, arg: *mut c_void) -> c_int {
    guarded(-1, || io::fcntl(fd, command, arg))
}

unsafe extern "C" fn call_ioctl(_: Userdata, fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    // SAFETY: the runner passes libc's arguments.
    guarded(-1, || unsafe { io::ioctl(fd, request, arg) })
}

unsafe extern "C" fn call_getsockopt(
    _: Userdata,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: the runner passes libc's arguments.
    guarded(-1, || unsafe { sockopt::get(fd, level, name, value, len) })
}

unsafe extern "C" fn call_setsockopt(
    _: Userdata,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: the runner passes libc's arguments.
    guarded(-1, || unsafe { sockopt::set(fd, level, name, value, len) })
}

unsafe extern "C" fn call_poll(_: Userdata, fds: *mut pollfd, count: nfds_t, timeout_ms: c_int) -> c_int {
    // SAFETY: the runner passes libc's arguments.
    guarded(-1, || unsafe { poll::poll(fds, count as usize, timeout_ms) })
}

extern "C" fn call_epoll_create(_: Userdata, size: c_int) -> c_int {
    guarded(-1, || epoll::create(size))
}

unsafe extern "C" fn call_epoll_ctl(
    _: Userdata,
    epfd: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    guarded(-1, || {
        // SAFETY: the runner passes libc's arguments.
        let event = (!event.is_null()).then(|| unsafe { event.read_unaligned() });
        epoll::control(epfd, op, fd, event.map(|event| (event.events, event.u64)))
    })
}

unsafe extern "C" fn call_epoll_wait(
    _: Userdata,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout_ms: c_int,
) -> c_int {
    guarded(-1, || {
        if events.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        let told = epoll::wait(epfd, max, timeout_ms)?;
        for (i, event) in told.iter().enumerate() {
            // SAFETY: there is room for `max`, and no more are told.
            unsafe { events.add(i).write_unaligned(*event) };
        }
        Ok(told.len() as c_int)
    })
}

unsafe extern "C" fn call_pipe(_: Userdata, fds: *mut c_int) -> c_int {
    guarded(-1, || {
        // SAFETY: the caller's own call, passed on.
        if unsafe { libc::pipe(fds) } < 0 { Err(last()) } else { Ok(0) }
    })
}

unsafe extern "C" fn call_splice(
    _: Userdata,
    from: c_int,
    from_at: *mut loff_t,
    to: c_int,
    to_at: *mut loff_t,
    len: size_t,
    flags: c_uint,
) -> c_int {
    guarded(-1, || {
        if monitor::call(|world| world.has(from) || world.has(to)) {
            return io::splice(from, to, len, flags);
        }
        // SAFETY: the caller's own call, passed on.
        let moved = unsafe { libc::splice(from, from_at, to, to_at, len, flags) };
        if moved < 0 { Err(last()) } else { Ok(moved as c_int) }
    })
}

// ---- the wire and the clock

unsafe extern "C" fn call_netdev_send(_: Userdata, packet: *const c_void, len: size_t) -> c_int {
    guarded(-1, || {
        if packet.is_null() || len > usize::from(u16::MAX) {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: the runner's packet has `len` bytes.
        monitor::inject(unsafe { core::slice::from_raw_parts(packet.cast(), len) });
        Ok(0)
    })
}

unsafe extern "C" fn call_netdev_receive(
    _: Userdata,
    buffer: *mut c_void,
    len: *mut size_t,
    time_us: *mut c_longlong,
) -> c_int {
    guarded(-1, || {
        if buffer.is_null() || len.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        let (at, packet) = monitor::next_sent(RECEIVE_PATIENCE).unwrap_or_default();
        // SAFETY: the runner's buffer has `*len` bytes.
        unsafe {
            let count = packet.len().min(len.read_unaligned());
            core::ptr::copy_nonoverlapping(packet.as_ptr(), buffer.cast(), count);
            len.write_unaligned(count);
            if !time_us.is_null() {
                time_us.write_unaligned(EPOCH_SECONDS * 1_000_000 + at.as_micros() as c_longlong);
            }
        }
        Ok(0)
    })
}

extern "C" fn call_usleep(_: Userdata, micros: useconds_t) -> c_int {
    guarded(-1, || {
        monitor::sleep(Duration::from_micros(u64::from(micros)));
        Ok(0)
    })
}

unsafe extern "C" fn call_gettimeofday(_: Userdata, time: *mut timeval, _zone: *mut c_void) -> c_int {
    guarded(-1, || {
        if time.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        let now = monitor::time_us(TICK);
        let value =
            timeval { tv_sec: EPOCH_SECONDS + (now / 1_000_000) as i64, tv_usec: (now % 1_000_000) as i64 };
        // SAFETY: the runner passes a `timeval`.
        unsafe { time.write_unaligned(value) };
        Ok(0)
    })
}
