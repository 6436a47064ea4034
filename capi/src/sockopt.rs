//! `setsockopt(2)` and `getsockopt(2)`: Linux's numbers to the engine's options. What has no effect on what TCP does here is
//! kept and given back; what would have one but does not exist is refused with `ENOPROTOOPT`.

use bywash::limits;
use bywash::tcp::{FastOpenKeys, IpFields, SocketOptions, State};
use bywash::time::Duration;
use libc::{c_int, c_void, socklen_t};

use crate::errno::Errno;
use crate::monitor;
use crate::sockets::{Phase, World};
use crate::sysctl::Sysctls;
use crate::tcp_info::LinuxTcpInfo;

pub(crate) const TCP_NOTSENT_LOWAT: c_int = 25;
pub(crate) const TCP_INQ: c_int = 36;
const TCP_FASTOPEN: c_int = 23;
pub(crate) const TCP_FASTOPEN_CONNECT: c_int = 30;
const TCP_FASTOPEN_KEY: c_int = 33;
const TCP_CC_INFO: c_int = 26;
const SO_MEMINFO: c_int = 55;
const SO_ZEROCOPY: c_int = 60;
pub(crate) const SO_TIMESTAMPING: c_int = 37;
/// What of `IP_TOS` is the socket's: the other two bits are ECN's, and Linux keeps them for itself, too.
const TOS_MASK: u8 = 0xfc;
/// Least `SO_RCVBUF` and `SO_SNDBUF`, Linux's `SOCK_MIN_RCVBUF` and `SOCK_MIN_SNDBUF`.
const RECEIVE_BUFFER_MIN: usize = 2304;
const SEND_BUFFER_MIN: usize = 4608;
/// Longest option value that is read: a congestion control's name has 16 bytes.
const VALUE_BYTES_MAX: usize = 256;
/// Longest time between keepalive probes, and most of them (Linux's `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPCNT`).
const KEEPALIVE_SECONDS_MAX: c_int = 32_767;
const KEEPALIVE_COUNT_MAX: c_int = 127;

/// `setsockopt(2)`.
///
/// # Safety
/// `value` is null or points to `len` bytes.
pub(crate) unsafe fn set(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Result<c_int, Errno> {
    if value.is_null() && len > 0 {
        return Err(Errno(libc::EFAULT));
    }
    monitor::refresh();
    let len = (len as usize).min(VALUE_BYTES_MAX);
    let mut bytes = vec![0; len];
    if len > 0 {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::copy_nonoverlapping(value.cast(), bytes.as_mut_ptr(), len) };
    }
    monitor::call(|world| world.set_option(fd, level, name, &bytes)).map(|()| 0)
}

/// `getsockopt(2)` for one of our descriptors.
///
/// # Safety
/// `len` is null or points to a length; `value` is null or has as many bytes.
pub(crate) unsafe fn get(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> Result<c_int, Errno> {
    if value.is_null() || len.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    let bytes = monitor::call(|world| world.option(fd, level, name))?;
    // SAFETY: the caller's promise.
    let room = unsafe { len.read_unaligned() } as usize;
    let count = bytes.len().min(room);
    // SAFETY: `value` has `room` bytes, `count` of them are written.
    unsafe {
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), count);
        len.write_unaligned(count as socklen_t);
    }
    Ok(0)
}

impl World {
    fn set_option(&mut self, fd: c_int, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
        match level {
            libc::SOL_SOCKET => self.set_socket_option(fd, name, value)?,
            libc::IPPROTO_TCP => self.set_tcp_option(fd, name, value)?,
            libc::IPPROTO_IP | libc::IPPROTO_IPV6 => self.set_ip_option(fd, level, name, value)?,
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        self.apply_options(fd)
    }

    fn set_socket_option(&mut self, fd: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
        let sysctls = Sysctls::new(&self.flags);
        let (rmem_max, wmem_max) = (sysctls.buffer_max(true), sysctls.buffer_max(false));
        let socket = self.socket(fd)?;
        match name {
            libc::SO_KEEPALIVE => socket.options.keepalive = int(value)? != 0,
            libc::SO_LINGER => {
                let (on, seconds) = (int(value)?, int(value.get(4..).unwrap_or(&[]))?);
                socket.options.linger =
                    (on != 0).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
            }
            libc::SO_RCVBUF | libc::SO_RCVBUFFORCE => {
                let most = if name == libc::SO_RCVBUF { rmem_max } else { usize::MAX };
                let doubled = buffer(value, most, RECEIVE_BUFFER_MIN)?;
                socket.kept.insert((libc::SOL_SOCKET, libc::SO_RCVBUF), doubled as c_int);
                // Half of it is the window.
                socket.options.receive_buffer_bytes = buffer_for_window(doubled / 2);
            }
            libc::SO_SNDBUF | libc::SO_SNDBUFFORCE => {
                let most = if name == libc::SO_SNDBUF { wmem_max } else { usize::MAX };
                socket.options.send_buffer_bytes = buffer(value, most, SEND_BUFFER_MIN)?;
            }
            SO_ZEROCOPY => match int(value)? {
                on @ 0..=1 => socket.notices.zerocopy = on != 0,
                _ => return Err(Errno(libc::EINVAL)),
            },
            SO_TIMESTAMPING => {
                if !socket.notices.set_timestamping(int(value)?) {
                    return Err(Errno(libc::EINVAL));
                }
            }
            libc::SO_RCVTIMEO => socket.receive_timeout = timeval(value)?,
            libc::SO_SNDTIMEO => socket.send_timeout = timeval(value)?,
            libc::SO_REUSEADDR
            | libc::SO_REUSEPORT
            | libc::SO_PRIORITY
            | libc::SO_MARK
            | libc::SO_RCVLOWAT
            | libc::SO_DONTROUTE
            | libc::SO_OOBINLINE
            | libc::SO_BUSY_POLL
            | libc::SO_INCOMING_CPU => {
                socket.kept.insert((libc::SOL_SOCKET, name), int(value)?);
            }
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        Ok(())
    }

    fn set_tcp_option(&mut self, fd: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
        let socket = self.socket(fd)?;
        let options = &mut socket.options;
        match name {
            libc::TCP_CONGESTION => {
                let name = String::from_utf8_lossy(value);
                let name = name.trim_end_matches('\0');
                options.congestion = name.parse().map_err(|_| Errno(libc::ENOENT))?;
                return Ok(());
            }
            libc::TCP_NODELAY => {
                options.nodelay = int(value)? != 0;
                if let (true, Some(id)) = (options.nodelay, socket.connection()) {
                    // Stale when the connection is over, and then there is nothing to send.
                    let _ = self.stack.tcp.push(self.stack.now, id);
                }
            }
            libc::TCP_CORK => options.cork = int(value)? != 0,
            libc::TCP_QUICKACK => options.quickack = int(value)? != 0,
            libc::TCP_KEEPIDLE => options.keepalive_idle = seconds(value)?,
            libc::TCP_KEEPINTVL => options.keepalive_interval = seconds(value)?,
            libc::TCP_KEEPCNT => match int(value)? {
                count @ 1..=KEEPALIVE_COUNT_MAX => options.keepalive_count = count as u8,
                _ => return Err(Errno(libc::EINVAL)),
            },
            libc::TCP_MAXSEG => {
                // 0 is the path's again.
                let maxseg = u16::try_from(int(value)?).map_err(|_| Errno(libc::EINVAL))?;
                if maxseg != 0 && !limits::TCP_MAXSEG.contains(&maxseg) {
                    return Err(Errno(libc::EINVAL));
                }
                options.maxseg = (maxseg > 0).then_some(maxseg);
            }
            libc::TCP_SYNCNT => {
                let count = u8::try_from(int(value)?).unwrap_or(0);
                if !(1..=limits::TCP_SYN_COUNT_MAX).contains(&count) {
                    return Err(Errno(libc::EINVAL));
                }
                options.syn_count = Some(count);
            }
            libc::TCP_DEFER_ACCEPT => {
                let seconds = u64::try_from(int(value)?).unwrap_or(0);
                options.defer_accept = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            libc::TCP_WINDOW_CLAMP => {
                // 0 ends it, which only a closed socket may.
                let clamp = u32::try_from(int(value)?).map_err(|_| Errno(libc::EINVAL))?;
                if clamp == 0 && !matches!(socket.phase, Phase::Fresh) {
                    return Err(Errno(libc::EINVAL));
                }
                options.window_clamp = (clamp > 0).then_some(clamp.max(limits::TCP_WINDOW_CLAMP_MIN));
            }
            libc::TCP_USER_TIMEOUT => {
                let ms = u64::try_from(int(value)?).map_err(|_| Errno(libc::EINVAL))?;
                options.user_timeout = (ms > 0).then(|| Duration::from_millis(ms));
            }
            TCP_FASTOPEN => {
                let qlen = usize::try_from(int(value)?).map_err(|_| Errno(libc::EINVAL))?;
                return self.set_fastopen(fd, qlen);
            }
            TCP_FASTOPEN_KEY => {
                let key = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(|_| Errno(libc::EINVAL));
                let (primary, backup) = match value.len() {
                    32 => (key(&value[..16])?, Some(key(&value[16..])?)),
                    _ => (key(value)?, None),
                };
                let keys = FastOpenKeys { primary, backup };
                if let Phase::Listening(listeners) = &socket.phase {
                    for listener in listeners.clone() {
                        self.stack.tcp.set_listener_fastopen_keys(listener, &keys)?;
                    }
                }
                self.socket(fd)?.fastopen_keys = Some(keys);
            }
            TCP_FASTOPEN_CONNECT => {
                let on = int(value)?;
                if !(0..=1).contains(&on) || !matches!(socket.phase, Phase::Fresh) {
                    return Err(Errno(libc::EINVAL));
                }
                if !Sysctls::new(&self.flags).fastopen().clients {
                    return Err(Errno(libc::EOPNOTSUPP));
                }
                self.socket(fd)?.kept.insert((libc::IPPROTO_TCP, name), on);
            }
            TCP_NOTSENT_LOWAT | TCP_INQ => {
                let value = int(value)?;
                if name == TCP_INQ && !(0..=1).contains(&value) {
                    return Err(Errno(libc::EINVAL));
                }
                socket.kept.insert((libc::IPPROTO_TCP, name), value);
            }
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        Ok(())
    }

    fn set_fastopen(&mut self, fd: c_int, qlen: usize) -> Result<(), Errno> {
        let servers = Sysctls::new(&self.flags).fastopen().servers;
        let socket = self.socket(fd)?;
        socket.kept.insert((libc::IPPROTO_TCP, TCP_FASTOPEN), qlen as c_int);
        match &socket.phase {
            Phase::Fresh => socket.options.fastopen_qlen = qlen,
            Phase::Listening(listeners) => {
                for listener in listeners.clone() {
                    self.stack.tcp.set_fastopen(listener, if servers { qlen } else { 0 })?;
                }
            }
            _ => return Err(Errno(libc::EINVAL)),
        }
        Ok(())
    }

    fn set_ip_option(&mut self, fd: c_int, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
        let socket = self.socket(fd)?;
        // These take a single byte, too.
        let value = &match value {
            [byte] => one((*byte).into()),
            _ => value.to_vec(),
        };
        match (level, name) {
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => {
                if !socket.v6 || socket.bound.is_some() {
                    return Err(Errno(libc::EINVAL));
                }
                socket.v6_only = int(value)? != 0;
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => socket.options.ip.tos = int(value)? as u8 & TOS_MASK,
            // -1 is the default.
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => match int(value)? {
                class @ -1..=255 => socket.options.ip.tos = class.max(0) as u8 & TOS_MASK,
                _ => return Err(Errno(libc::EINVAL)),
            },
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => {
                match int(value)? {
                    -1 => socket.options.ip.hop_limit = IpFields::default().hop_limit,
                    // Linux takes an IPv6 hop limit of 0, with which nothing could leave the host.
                    hops @ 1..=255 => socket.options.ip.hop_limit = hops as u8,
                    _ => return Err(Errno(libc::EINVAL)),
                }
            }
            (libc::IPPROTO_IP, libc::IP_RECVERR | libc::IP_MTU_DISCOVER | libc::IP_FREEBIND)
            | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR | libc::IPV6_MTU_DISCOVER) => {
                socket.kept.insert((level, name), int(value)?);
            }
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        Ok(())
    }

    fn option(&mut self, fd: c_int, level: c_int, name: c_int) -> Result<Vec<u8>, Errno> {
        self.socket(fd)?;
        match level {
            libc::SOL_SOCKET => self.socket_option(fd, name),
            libc::IPPROTO_TCP => self.tcp_option(fd, name),
            libc::IPPROTO_IPV6 if name == libc::IPV6_V6ONLY => {
                self.socket(fd).map(|socket| one(c_int::from(socket.v6_only)))
            }
            libc::IPPROTO_IP | libc::IPPROTO_IPV6 => self.ip_option(fd, level, name),
            _ => Err(Errno(libc::ENOPROTOOPT)),
        }
    }

    fn ip_option(&mut self, fd: c_int, level: c_int, name: c_int) -> Result<Vec<u8>, Errno> {
        let ip = self.socket(fd)?.options.ip;
        match (level, name) {
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                Ok(one(ip.tos.into()))
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => {
                Ok(one(ip.hop_limit.into()))
            }
            _ => self.kept(fd, level, name),
        }
    }

    /// An option that is only kept: 0 before it was set.
    fn kept(&mut self, fd: c_int, level: c_int, name: c_int) -> Result<Vec<u8>, Errno> {
        self.socket(fd).map(|socket| one(socket.kept.get(&(level, name)).copied().unwrap_or(0)))
    }

    fn socket_option(&mut self, fd: c_int, name: c_int) -> Result<Vec<u8>, Errno> {
        let listening = self.state(fd)? == State::Listen;
        let socket = self.socket(fd)?;
        let options = &socket.options;
        Ok(match name {
            libc::SO_ERROR => one(self.take_error(fd)?),
            libc::SO_TYPE => one(libc::SOCK_STREAM),
            libc::SO_PROTOCOL => one(libc::IPPROTO_TCP),
            libc::SO_DOMAIN => one(if socket.v6 { libc::AF_INET6 } else { libc::AF_INET }),
            libc::SO_ACCEPTCONN => one(c_int::from(listening)),
            libc::SO_KEEPALIVE => one(c_int::from(options.keepalive)),
            libc::SO_LINGER => {
                let seconds = options.linger.map_or(0, |linger| linger.as_secs() as c_int);
                [one(c_int::from(options.linger.is_some())), one(seconds)].concat()
            }
            libc::SO_RCVBUF => match socket.kept.get(&(libc::SOL_SOCKET, libc::SO_RCVBUF)) {
                Some(doubled) => one(*doubled),
                None => one(Sysctls::new(&self.flags).buffers("tcp_rmem")[1] as c_int),
            },
            SO_ZEROCOPY => one(c_int::from(socket.notices.zerocopy)),
            SO_TIMESTAMPING => one(socket.notices.timestamping),
            libc::SO_SNDBUF => one(options.send_buffer_bytes as c_int),
            libc::SO_RCVTIMEO => timeval_bytes(socket.receive_timeout),
            libc::SO_SNDTIMEO => timeval_bytes(socket.send_timeout),
            SO_MEMINFO => self.memory_info(fd)?,
            libc::SO_RCVLOWAT => one(c_int::try_from(socket.receive_lowat()).unwrap_or(c_int::MAX)),
            libc::SO_REUSEADDR
            | libc::SO_REUSEPORT
            | libc::SO_PRIORITY
            | libc::SO_MARK
            | libc::SO_DONTROUTE
            | libc::SO_OOBINLINE
            | libc::SO_BUSY_POLL
            | libc::SO_INCOMING_CPU => self.kept(fd, libc::SOL_SOCKET, name)?,
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        })
    }

    fn tcp_option(&mut self, fd: c_int, name: c_int) -> Result<Vec<u8>, Errno> {
        let state = self.state(fd)?;
        let socket = self.socket(fd)?;
        let connection = socket.connection();
        let options: &SocketOptions = &socket.options;
        Ok(match name {
            libc::TCP_INFO => match connection {
                None => LinuxTcpInfo::without_connection(state).as_bytes().to_vec(),
                Some(id) => {
                    let info = self.stack.tcp.info(self.stack.now, id)?;
                    LinuxTcpInfo::from(&info).as_bytes().to_vec()
                }
            },
            // Neither of our algorithms has more to say than `tcp_info` does.
            TCP_CC_INFO => Vec::new(),
            libc::TCP_CONGESTION => {
                let mut name = linux_name(options.congestion.name()).as_bytes().to_vec();
                name.resize(16, 0);
                name
            }
            libc::TCP_NODELAY => one(c_int::from(options.nodelay)),
            libc::TCP_CORK => one(c_int::from(options.cork)),
            libc::TCP_QUICKACK => one(c_int::from(options.quickack)),
            libc::TCP_KEEPIDLE => one(options.keepalive_idle.as_secs() as c_int),
            libc::TCP_KEEPINTVL => one(options.keepalive_interval.as_secs() as c_int),
            libc::TCP_KEEPCNT => one(c_int::from(options.keepalive_count)),
            libc::TCP_USER_TIMEOUT => {
                one(options.user_timeout.map_or(0, |timeout| timeout.as_millis() as c_int))
            }
            libc::TCP_SYNCNT => {
                one(options.syn_count.map_or_else(|| Sysctls::new(&self.flags).syn_retries(), c_int::from))
            }
            libc::TCP_DEFER_ACCEPT => one(options.defer_accept.map_or(0, |defer| defer.as_secs() as c_int)),
            libc::TCP_WINDOW_CLAMP => one(options.window_clamp.unwrap_or(0) as c_int),
            libc::TCP_MAXSEG => match connection {
                None => one(options.maxseg.map_or(536, c_int::from)),
                Some(id) => one(self.stack.tcp.info(self.stack.now, id)?.snd_mss as c_int),
            },
            TCP_NOTSENT_LOWAT | TCP_INQ | TCP_FASTOPEN | TCP_FASTOPEN_CONNECT => {
                self.kept(fd, libc::IPPROTO_TCP, name)?
            }
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        })
    }

    /// `SO_ERROR`: told once.
    fn take_error(&mut self, fd: c_int) -> Result<c_int, Errno> {
        let socket = self.socket(fd)?;
        let Some(id) = socket.connection() else { return Ok(0) };
        if let Phase::Connecting(id) = socket.phase
            && let Ok(State::Established) = self.stack.tcp.readiness(id).map(|readiness| readiness.state)
        {
            self.socket(fd)?.phase = Phase::Connected(id);
        }
        let told = |error| self.errno_of(id, error).0;
        let readiness = self.stack.tcp.readiness(id).ok().and_then(|readiness| readiness.error);
        let ended = readiness.map(told);
        let taken = self.stack.tcp.take_error(id);
        Ok(taken.map_or(0, |error| ended.unwrap_or(Errno::from(error).0)))
    }

    /// `SO_MEMINFO`: nine counts, of which the buffers' are known.
    fn memory_info(&mut self, fd: c_int) -> Result<Vec<u8>, Errno> {
        let send = self.socket(fd)?.options.send_buffer_bytes as c_int;
        let receive = int(&self.socket_option(fd, libc::SO_RCVBUF)?)?;
        let (mut received, mut queued) = (0, 0);
        if let Ok(id) = self.connection(fd) {
            let readiness = self.stack.tcp.readiness(id)?;
            (received, queued) = (readiness.readable_bytes as c_int, readiness.queued_bytes as c_int);
        }
        Ok([received, receive, queued, send, 0, queued, 0, 0, 0].into_iter().flat_map(one).collect())
    }
}

/// The engine's buffer whose largest window is `window` bytes: it announces three quarters, of small ones half.
pub(crate) fn buffer_for_window(window: usize) -> usize {
    if window < 32 << 10 { window * 2 } else { (window.div_ceil(3) * 4).max(64 << 10) }
}

/// Linux's name for what is `newreno` here.
fn linux_name(name: &str) -> &str {
    if name == "newreno" { "reno" } else { name }
}

fn one(value: c_int) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// The int in front of an option's value.
fn int(value: &[u8]) -> Result<c_int, Errno> {
    let bytes = value.first_chunk().ok_or(Errno(libc::EINVAL))?;
    Ok(c_int::from_ne_bytes(*bytes))
}

fn seconds(value: &[u8]) -> Result<Duration, Errno> {
    match int(value)? {
        seconds @ 1..=KEEPALIVE_SECONDS_MAX => Ok(Duration::from_secs(seconds as u64)),
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// A buffer's size, doubled as Linux does for its own overhead.
fn buffer(value: &[u8], most: usize, least: usize) -> Result<usize, Errno> {
    let asked = usize::try_from(int(value)?).unwrap_or(usize::MAX).min(most);
    Ok(asked.saturating_mul(2).clamp(least, 1 << 30))
}

/// A `timeval`; zero is no limit.
fn timeval(value: &[u8]) -> Result<Option<Duration>, Errno> {
    let number = |at: usize| value.get(at..at + 8)?.try_into().ok().map(i64::from_ne_bytes);
    let (Some(seconds), Some(micros)) = (number(0), number(8)) else { return Err(Errno(libc::EINVAL)) };
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno(libc::EDOM));
    }
    let time =
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) + Duration::from_micros(micros as u64);
    Ok((!time.is_zero()).then_some(time))
}

fn timeval_bytes(time: Option<Duration>) -> Vec<u8> {
    let time = time.unwrap_or_default();
    let parts = [time.as_secs() as i64, i64::from(time.subsec_micros())];
    parts.into_iter().flat_map(i64::to_ne_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_doubled_within_their_bounds() {
        let size = |asked: c_int| buffer(&asked.to_ne_bytes(), 200_000, 4608).unwrap();
        assert_eq!((size(20_000), size(1), size(1 << 20), size(-1)), (40_000, 4608, 400_000, 400_000));
        assert_eq!(buffer(&[1], 100, 1), Err(Errno(libc::EINVAL)));
    }

    #[test]
    fn a_timeout_of_zero_is_none() {
        assert_eq!(timeval(&timeval_bytes(None)), Ok(None));
        let time = Some(Duration::from_micros(2_500_000));
        assert_eq!(timeval(&timeval_bytes(time)), Ok(time));
        assert_eq!(timeval(&[0; 15]), Err(Errno(libc::EINVAL)));
    }
}
