//! Sockets behind file descriptors: which descriptor is what, and the calls that make, name and end connections. The
//! descriptors are real ones of `/dev/null`, so that the runner may close them by itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Poll, Waker};

use bywash::tcp::{ConnId, FastOpenKeys, ListenerId, Shutdown, SocketOptions, State, TcpError};
use bywash::time::{Duration, Instant};
use libc::c_int;

use crate::device;
use crate::epoll::Epoll;
use crate::errno::{Errno, last};
use crate::flags::Flags;
use crate::monitor;
use crate::notices::Notices;
use crate::sockopt;
use crate::stack::Stack;
use crate::statistics::Statistics;
use crate::sysctl::{FastOpenUse, Sysctls};

/// Where the virtual clock starts; not at zero, so that there is a time before everything.
const START: Instant = Instant::from_millis(1_000_000);

/// Everything behind the interface.
pub(crate) struct World {
    pub(crate) flags: Flags,
    pub(crate) stack: Stack,
    pub(crate) objects: HashMap<c_int, Object>,
    /// Segments that go as one at least (`tcp_min_tso_segs`).
    pub(crate) burst_min: usize,
    /// The device's MTU when it was looked at last.
    device_mtu: Option<usize>,
    statistics: Statistics,
}

/// What a descriptor is.
pub(crate) enum Object {
    Socket(Box<Socket>),
    Epoll(Epoll),
}

/// A TCP socket.
pub(crate) struct Socket {
    /// `AF_INET6`; it may speak IPv4, too.
    pub(crate) v6: bool,
    pub(crate) v6_only: bool,
    pub(crate) nonblocking: bool,
    pub(crate) bound: Option<SocketAddr>,
    pub(crate) phase: Phase,
    pub(crate) options: SocketOptions,
    /// Values of options that are kept and given back, by level and name.
    pub(crate) kept: HashMap<(c_int, c_int), c_int>,
    pub(crate) receive_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    /// `MSG_MORE` held the last write back: cork until the next write without it.
    pub(crate) more: bool,
    /// Read or written side shut by the application.
    pub(crate) read_shut: bool,
    /// `TCP_FASTOPEN_KEY`.
    pub(crate) fastopen_keys: Option<FastOpenKeys>,
    /// Where the urgent byte was that `MSG_OOB` took last.
    pub(crate) urgent_taken: Option<u64>,
    pub(crate) notices: Notices,
}

/// Where a socket's life is.
pub(crate) enum Phase {
    Fresh,
    /// `connect` with `TCP_FASTOPEN_CONNECT` waits for data to send with the SYN.
    Deferred(SocketAddr),
    /// One listener for each address family.
    Listening(Vec<ListenerId>),
    /// `connect` was called and has not yet told how it ended.
    Connecting(ConnId),
    Connected(ConnId),
}

impl World {
    pub(crate) fn new(flags: &str) -> Self {
        let flags = Flags::parse(flags);
        let config = Sysctls::new(&flags).config();
        let stack = Stack::new(config, START, &flags);
        let burst_min = Sysctls::new(&flags).burst_min();
        Self {
            flags,
            stack,
            objects: HashMap::new(),
            burst_min,
            device_mtu: device::mtu(),
            statistics: Statistics::default(),
        }
    }

    /// Takes over what sysctls and the device say now. Options of sockets stay as they were when these were made.
    pub(crate) fn refresh(&mut self) {
        let sysctls = Sysctls::new(&self.flags);
        let (config, burst_min) = (sysctls.config(), sysctls.burst_min());
        self.burst_min = burst_min;
        if self.stack.configure(config, &self.flags) {
            let connections = self.objects.values().filter_map(|object| match object {
                Object::Socket(socket) => socket.connection(),
                Object::Epoll(_) => None,
            });
            connections.for_each(|id| self.stack.renew_accurate_ecn(id));
        }
        let mtu = device::mtu();
        if mtu != self.device_mtu
            && let Some(mtu) = mtu
        {
            self.stack.set_mtu(mtu);
        }
        self.device_mtu = mtu;
    }

    /// Lets everything follow that has to: sends, takes note of what was sent, and tells the counters.
    pub(crate) fn settle(&mut self) {
        self.pump();
        self.note_progress();
        self.statistics.tell(&self.stack.counters);
    }

    /// Whether the descriptor is one of ours; the kernel answers for the others.
    pub(crate) fn has(&self, fd: c_int) -> bool {
        self.objects.contains_key(&fd)
    }

    pub(crate) fn socket(&mut self, fd: c_int) -> Result<&mut Socket, Errno> {
        match self.objects.get_mut(&fd) {
            Some(Object::Socket(socket)) => Ok(socket),
            Some(Object::Epoll(_)) => Err(Errno(libc::ENOTSOCK)),
            None => Err(Errno(libc::EBADF)),
        }
    }

    /// The connection behind a descriptor.
    pub(crate) fn connection(&mut self, fd: c_int) -> Result<ConnId, Errno> {
        self.socket(fd)?.connection().ok_or(Errno(libc::ENOTCONN))
    }

    /// Puts an object behind a new descriptor.
    pub(crate) fn open(&mut self, object: Object) -> Result<c_int, Errno> {
        // SAFETY: the path is a C string; the descriptor is ours to keep.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(last());
        }
        self.objects.insert(fd, object);
        Ok(fd)
    }
}

impl Socket {
    fn new(v6: bool, options: SocketOptions) -> Self {
        Self {
            v6,
            v6_only: false,
            nonblocking: false,
            bound: None,
            phase: Phase::Fresh,
            options,
            kept: HashMap::new(),
            receive_timeout: None,
            send_timeout: None,
            more: false,
            read_shut: false,
            fastopen_keys: None,
            urgent_taken: None,
            notices: Notices::default(),
        }
    }

    pub(crate) fn connection(&self) -> Option<ConnId> {
        match self.phase {
            Phase::Connecting(id) | Phase::Connected(id) => Some(id),
            Phase::Fresh | Phase::Deferred(_) | Phase::Listening(_) => None,
        }
    }

    /// Whether an option that is only kept is set to something but 0.
    pub(crate) fn is_on(&self, level: c_int, name: c_int) -> bool {
        self.kept.get(&(level, name)).is_some_and(|value| *value != 0)
    }

    /// Bytes that make the socket readable (`SO_RCVLOWAT`).
    pub(crate) fn receive_lowat(&self) -> usize {
        let lowat = self.kept.get(&(libc::SOL_SOCKET, libc::SO_RCVLOWAT)).copied();
        // 0 is 1; a negative one is as much as there can be, as in Linux.
        lowat.map_or(1, |lowat| usize::try_from(lowat).unwrap_or(usize::MAX).max(1))
    }

    /// How long a call may block: not at all, for the socket's timeout, or for ever.
    pub(crate) fn patience(&self, nonblocking: bool, timeout: Option<Duration>) -> Option<Duration> {
        if nonblocking || self.nonblocking { Some(Duration::ZERO) } else { timeout }
    }

    fn accepts_family(&self, address: SocketAddr) -> bool {
        address.is_ipv4() || self.v6
    }
}

// ---- calls

/// `socket(2)`: TCP over either IP version.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<c_int, Errno> {
    let v6 = match domain {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return Err(Errno(libc::EAFNOSUPPORT)),
    };
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    if kind & !flags != libc::SOCK_STREAM || !matches!(protocol, 0 | libc::IPPROTO_TCP) {
        return Err(Errno(libc::EPROTONOSUPPORT));
    }
    monitor::call(|world| {
        world.refresh();
        let options = Sysctls::new(&world.flags).config().options;
        let mut socket = Socket::new(v6, options);
        socket.nonblocking = kind & libc::SOCK_NONBLOCK != 0;
        world.open(Object::Socket(Box::new(socket)))
    })
}

/// `bind(2)`. Conflicts with other sockets show when it listens or connects.
pub(crate) fn bind(fd: c_int, address: Option<SocketAddr>) -> Result<c_int, Errno> {
    monitor::call(|world| {
        let socket = world.socket(fd)?;
        let address = address.ok_or(Errno(libc::EAFNOSUPPORT))?;
        if !socket.accepts_family(address) {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        if socket.bound.is_some() || !matches!(socket.phase, Phase::Fresh) {
            return Err(Errno(libc::EINVAL));
        }
        socket.bound = Some(address);
        Ok(0)
    })
}

/// `listen(2)`. Linux accepts one more than `backlog`.
pub(crate) fn listen(fd: c_int, backlog: c_int) -> Result<c_int, Errno> {
    monitor::refresh();
    monitor::call(|world| {
        let sysctls = Sysctls::new(&world.flags);
        let (somaxconn, fastopen) = (sysctls.somaxconn(), sysctls.fastopen());
        let backlog = if backlog < 0 { somaxconn } else { (backlog as usize).min(somaxconn) } + 1;
        let socket = world.socket(fd)?;
        match socket.phase {
            Phase::Fresh => {}
            Phase::Listening(_) => return Ok(0),
            _ => return Err(Errno(libc::EINVAL)),
        }
        let any: IpAddr = if socket.v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let address = socket.bound.unwrap_or_else(|| (any, 0).into());
        let both = address.is_ipv6() && address.ip().is_unspecified() && !socket.v6_only;
        let mut options = socket.options.clone();
        match fastopen {
            FastOpenUse { servers: false, .. } => options.fastopen_qlen = 0,
            FastOpenUse { all_listeners: true, .. } if options.fastopen_qlen == 0 => {
                options.fastopen_qlen = backlog;
            }
            _ => {}
        }
        let first = world.stack.tcp.listen(address, backlog, options.clone())?;
        let address = world.stack.tcp.listener_addr(first)?;
        let mut listeners = vec![first];
        if both {
            let mapped = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            match world.stack.tcp.listen(mapped, backlog, options) {
                Ok(second) => listeners.push(second),
                Err(error) => {
                    world.stack.tcp.close_listener(world.stack.now, first)?;
                    return Err(error.into());
                }
            }
        }
        if let Some(keys) = world.socket(fd)?.fastopen_keys.clone() {
            for listener in &listeners {
                world.stack.tcp.set_listener_fastopen_keys(*listener, &keys)?;
            }
        }
        let socket = world.socket(fd)?;
        socket.bound = Some(address);
        socket.phase = Phase::Listening(listeners);
        Ok(0)
    })
}

/// `accept4(2)`: the new descriptor and the peer's address.
pub(crate) fn accept(fd: c_int, flags: c_int) -> Result<(c_int, SocketAddr, bool), Errno> {
    let limit = monitor::call(|world| {
        let socket = world.socket(fd)?;
        Ok::<_, Errno>(socket.patience(false, socket.receive_timeout))
    })?;
    monitor::block(limit, Errno(libc::EAGAIN), |world| {
        let Phase::Listening(listeners) = &world.socket(fd)?.phase else {
            return Poll::Ready(Err(Errno(libc::EINVAL)));
        };
        for listener in listeners.clone() {
            match world.stack.tcp.poll_accept(listener, Waker::noop()) {
                Poll::Ready(Ok((id, peer))) => {
                    return Poll::Ready(world.accepted(fd, id, flags).map(|(new, v6)| (new, peer, v6)));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
}

impl World {
    fn accepted(&mut self, listener: c_int, id: ConnId, flags: c_int) -> Result<(c_int, bool), Errno> {
        let parent = self.socket(listener)?;
        let mut socket = Socket::new(parent.v6, parent.options.clone());
        socket.nonblocking = flags & libc::SOCK_NONBLOCK != 0;
        socket.kept.clone_from(&parent.kept);
        let parent_notices = parent.notices.inherited();
        socket.receive_timeout = parent.receive_timeout;
        socket.send_timeout = parent.send_timeout;
        socket.options = self.stack.tcp.options(id)?;
        socket.notices = parent_notices;
        socket.phase = Phase::Connected(id);
        let v6 = socket.v6;
        match self.open(Object::Socket(Box::new(socket))) {
            Ok(fd) => Ok((fd, v6)),
            Err(errno) => {
                self.stack.tcp.abort(self.stack.now, id);
                Err(errno)
            }
        }
    }

    /// Where a connection to `remote` comes from: the bound address, or the one that the flags name.
    fn local_for(&mut self, fd: c_int, remote: SocketAddr) -> Result<SocketAddr, Errno> {
        let (local_ipv4, local_ipv6) = (self.flags.local_ipv4, self.flags.local_ipv6);
        let socket = self.socket(fd)?;
        if !socket.accepts_family(remote) {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        let port = socket.bound.map_or(0, |bound| bound.port());
        let named = socket.bound.filter(|bound| !bound.ip().is_unspecified());
        let source: IpAddr = if remote.is_ipv4() { local_ipv4.into() } else { local_ipv6.into() };
        Ok(named.unwrap_or_else(|| (source, port).into()))
    }

    /// Whether data written now would go with the SYN.
    pub(crate) fn may_connect_with_data(&mut self, fd: c_int, remote: SocketAddr) -> Result<bool, Errno> {
        let local = self.local_for(fd, remote)?;
        Ok(self.stack.tcp.may_connect_with_data(self.stack.now, local.ip(), remote.ip()))
    }

    /// Starts a connection to `remote`; `fastopen`: with data in the SYN or a request for a cookie.
    pub(crate) fn start_connect(
        &mut self,
        fd: c_int,
        remote: SocketAddr,
        fastopen: bool,
    ) -> Result<ConnId, Errno> {
        let local = self.local_for(fd, remote)?;
        let options = self.socket(fd)?.options.clone();
        let (tcp, now) = (&mut self.stack.tcp, self.stack.now);
        let id = if fastopen {
            // The data is written before the SYN goes out.
            tcp.connect_with_data(now, local, remote, options, &[])?.0
        } else {
            tcp.connect(now, local, remote, options)?
        };
        let local = tcp.tuple(id)?.local;
        let socket = self.socket(fd)?;
        socket.bound = Some(local);
        socket.phase = Phase::Connecting(id);
        Ok(id)
    }

    /// How the attempt to connect stands. It is told once; after a failure the socket is as good as new.
    pub(crate) fn connect_outcome(&mut self, fd: c_int) -> Poll<Result<(), Errno>> {
        let id = self.connection(fd)?;
        match self.stack.tcp.poll_connected(id, Waker::noop()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                self.socket(fd)?.phase = Phase::Connected(id);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                let told = self.stack.tcp.take_error(id);
                self.stack.tcp.close(self.stack.now, id);
                let socket = self.socket(fd)?;
                socket.phase = Phase::Fresh;
                socket.bound = None;
                // Taken by SO_ERROR before.
                let error = if error == TcpError::NotConnected { TcpError::ConnectionAborted } else { error };
                Poll::Ready(Err(told.unwrap_or(error).into()))
            }
        }
    }

    /// `connect` to `AF_UNSPEC`: the connection ends, the socket is as good as new.
    fn disconnect(&mut self, fd: c_int) -> Result<(), Errno> {
        match std::mem::replace(&mut self.socket(fd)?.phase, Phase::Fresh) {
            Phase::Fresh | Phase::Deferred(_) => {}
            Phase::Listening(listeners) => self.close_listeners(&listeners),
            Phase::Connecting(id) | Phase::Connected(id) => self.stack.tcp.abort(self.stack.now, id),
        }
        let socket = self.socket(fd)?;
        (socket.bound, socket.read_shut, socket.more) = (None, false, false);
        Ok(())
    }

    fn close_listeners(&mut self, listeners: &[ListenerId]) {
        for listener in listeners {
            // Stale only if the engine closed it, which comes to the same.
            let _ = self.stack.tcp.close_listener(self.stack.now, *listener);
        }
    }
}

/// `connect(2)`.
pub(crate) fn connect(fd: c_int, remote: Option<SocketAddr>) -> Result<c_int, Errno> {
    monitor::refresh();
    let limit = monitor::call(|world| {
        let Some(remote) = remote else {
            world.disconnect(fd)?;
            return Ok(None);
        };
        let socket = world.socket(fd)?;
        let limit = socket.patience(false, socket.send_timeout);
        match socket.phase {
            Phase::Fresh => {
                let fastopen = socket.is_on(libc::IPPROTO_TCP, sockopt::TCP_FASTOPEN_CONNECT);
                if fastopen && world.may_connect_with_data(fd, remote)? {
                    world.socket(fd)?.phase = Phase::Deferred(remote);
                    return Ok(None);
                }
                world.start_connect(fd, remote, fastopen)?;
                Ok(Some((limit, libc::EINPROGRESS)))
            }
            Phase::Deferred(_) => Err(Errno(libc::EALREADY)),
            Phase::Connecting(_) => Ok(Some((limit, libc::EALREADY))),
            Phase::Connected(_) | Phase::Listening(_) => Err(Errno(libc::EISCONN)),
        }
    })?;
    match limit {
        None => Ok(0),
        Some((limit, late)) => {
            monitor::block(limit, Errno(late), |world| world.connect_outcome(fd).map_ok(|()| 0))
        }
    }
}

/// `shutdown(2)`.
pub(crate) fn shutdown(fd: c_int, how: c_int) -> Result<c_int, Errno> {
    let how = match how {
        libc::SHUT_RD => Shutdown::Read,
        libc::SHUT_WR => Shutdown::Write,
        libc::SHUT_RDWR => Shutdown::Both,
        _ => return Err(Errno(libc::EINVAL)),
    };
    monitor::call(|world| {
        if let Phase::Listening(listeners) = &world.socket(fd)?.phase {
            let listeners = listeners.clone();
            if how != Shutdown::Write {
                world.close_listeners(&listeners);
                world.socket(fd)?.phase = Phase::Fresh;
            }
            return Ok(0);
        }
        let id = world.connection(fd)?;
        let is_over = matches!(world.stack.tcp.state(id), None | Some(State::Closed | State::TimeWait));
        world.stack.tcp.shutdown(world.stack.now, id, how)?;
        world.socket(fd)?.read_shut |= how != Shutdown::Write;
        // It has its effect all the same.
        if is_over { Err(Errno(libc::ENOTCONN)) } else { Ok(0) }
    })
}

/// `close(2)`. With a linger time it blocks until everything is acknowledged or the time is over.
pub(crate) fn close(fd: c_int) -> Result<c_int, Errno> {
    let lingers = monitor::call(|world| {
        let socket = world.socket(fd).ok()?;
        let linger = socket.options.linger.filter(|linger| !linger.is_zero() && !socket.nonblocking)?;
        let id = socket.connection()?;
        // What was not read makes closing a reset, which waits for nothing.
        let unread = world.stack.tcp.readiness(id).ok()?.readable_bytes > 0;
        (!unread).then(|| world.stack.tcp.shutdown(world.stack.now, id, Shutdown::Write).ok())??;
        Some((id, linger))
    });
    if let Some((id, linger)) = lingers {
        // However it ends, the descriptor is closed below.
        let _ = monitor::block(Some(linger), Errno(libc::EAGAIN), |world| {
            world.stack.tcp.poll_flushed(id, Waker::noop()).map_err(Errno::from)
        });
    }
    monitor::call(|world| {
        match world.objects.remove(&fd) {
            Some(Object::Socket(socket)) => match socket.phase {
                Phase::Fresh | Phase::Deferred(_) => {}
                Phase::Listening(listeners) => world.close_listeners(&listeners),
                Phase::Connecting(id) | Phase::Connected(id) => world.stack.tcp.close(world.stack.now, id),
            },
            Some(Object::Epoll(_)) | None => {}
        }
        for object in world.objects.values_mut() {
            if let Object::Epoll(epoll) = object {
                epoll.forget(fd);
            }
        }
    });
    // SAFETY: closing a descriptor touches no memory; if it was none of ours, that is what the caller asked for.
    if unsafe { libc::close(fd) } == 0 { Ok(0) } else { Err(last()) }
}

impl World {
    /// A state that a socket without connection has.
    pub(crate) fn state(&mut self, fd: c_int) -> Result<State, Errno> {
        let socket = self.socket(fd)?;
        Ok(match socket.phase {
            Phase::Fresh => State::Closed,
            Phase::Deferred(_) => State::SynSent,
            Phase::Listening(_) => State::Listen,
            Phase::Connecting(id) | Phase::Connected(id) => self.stack.tcp.state(id).unwrap_or(State::Closed),
        })
    }
}
