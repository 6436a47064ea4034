//! System calls of scripts: from their text to the interface and back to what was expected.

use std::collections::HashMap;
use std::net::SocketAddr;

use libc::{c_int, c_void, epoll_event, iovec, msghdr, pollfd, sockaddr, socklen_t};

use crate::interface::Interface;
use crate::script::{Arg, Call};

/// What calls need to know of the run.
#[derive(Clone)]
pub struct Scene {
    /// Descriptors of the script to those of the stack.
    pub fds: HashMap<i64, c_int>,
    pub bind_to: SocketAddr,
    pub connect_to: SocketAddr,
    /// IP version of sockets: `socket(...)` asks for it.
    pub domain: c_int,
    /// The script's time 0 on the stack's clock, and how far times may be off; microseconds.
    pub start: i64,
    pub tolerance: i64,
}

/// What a call gave, and what of it differs from the script.
#[derive(Debug, Default)]
pub struct Outcome {
    pub result: i64,
    /// Further descriptors made: script's number and the stack's.
    pub opened: Vec<(i64, c_int)>,
    pub problem: Option<String>,
}

pub fn perform(interface: &Interface, scene: &Scene, call: &Call) -> Outcome {
    let mut performer = Performer { interface, scene, call, outcome: Outcome::default() };
    // errno is only meaningful after a failure.
    match performer.perform() {
        Ok(result) => {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
            performer.outcome.result = result;
            performer.check(result, errno);
        }
        Err(problem) => performer.outcome.problem = Some(problem),
    }
    performer.outcome
}

struct Performer<'a> {
    interface: &'a Interface,
    scene: &'a Scene,
    call: &'a Call,
    outcome: Outcome,
}

impl Performer<'_> {
    fn check(&mut self, result: i64, errno: i32) {
        let told = if result < 0 { format!("{result} ({})", errno_name(errno)) } else { result.to_string() };
        let expected = match (&self.call.result, &self.call.errno) {
            (Arg::Any, _) => return,
            (Arg::Int(-1), Some(name)) if result == -1 && errno_name(errno) == name => return,
            (Arg::Int(expected), Some(name)) => format!("{expected} ({name})"),
            // A new descriptor may have any number; the script's stands for it.
            (Arg::Int(expected), None) if *expected >= 0 && result >= 0 && is_opening(&self.call.name) => {
                self.outcome.opened.push((*expected, result as c_int));
                return;
            }
            (Arg::Int(expected), None) if *expected == result => return,
            (Arg::Int(expected), None) => expected.to_string(),
            (expected, _) => format!("{expected:?}"),
        };
        self.problem(format!("{} gave {told}, expected {expected}", self.call.name));
    }

    fn problem(&mut self, text: String) {
        self.outcome.problem.get_or_insert(text);
    }

    fn arg(&self, at: usize) -> &Arg {
        self.call.args.get(at).unwrap_or(&Arg::Any)
    }

    fn int(&self, at: usize) -> Result<i64, String> {
        match self.arg(at) {
            Arg::Int(value) => Ok(*value),
            Arg::List(items) if let [Arg::Int(value)] = items[..] => Ok(value),
            other => Err(format!("argument {at} of {} should be a number: {other:?}", self.call.name)),
        }
    }

    fn fd(&self, at: usize) -> Result<c_int, String> {
        let fd = self.int(at)?;
        self.scene.fds.get(&fd).copied().ok_or_else(|| format!("descriptor {fd} is not open"))
    }

    fn perform(&mut self) -> Result<i64, String> {
        let calls = &self.interface.calls;
        let ud = calls.userdata;
        // SAFETY: all pointers below are to memory of our own that outlives the call, except those that a script passes on
        // purpose, which the object must refuse.
        unsafe {
            Ok(match self.call.name.as_str() {
                "socket" => {
                    let domain =
                        if *self.arg(0) == Arg::Any { self.scene.domain } else { self.int(0)? as c_int };
                    (calls.socket)(ud, domain, self.int(1)? as c_int, self.int(2)? as c_int).into()
                }
                "bind" => {
                    let (addr, len) = c_address(self.scene.bind_to);
                    (calls.bind)(ud, self.fd(0)?, (&raw const addr).cast(), len).into()
                }
                "listen" => (calls.listen)(ud, self.fd(0)?, self.int(1)? as c_int).into(),
                "accept" => {
                    let (mut addr, mut len) = ([0u8; 28], 28);
                    let addr = addr.as_mut_ptr().cast::<sockaddr>();
                    (calls.accept)(ud, self.fd(0)?, addr, &raw mut len).into()
                }
                "connect" => {
                    let (mut addr, len) = c_address(self.scene.connect_to);
                    if *self.arg(1) == Arg::Int(libc::AF_UNSPEC.into()) {
                        addr = [0; 28];
                    }
                    (calls.connect)(ud, self.fd(0)?, (&raw const addr).cast(), len).into()
                }
                "close" => (calls.close)(ud, self.fd(0)?).into(),
                "shutdown" => (calls.shutdown)(ud, self.fd(0)?, self.int(1)? as c_int).into(),
                "read" | "recv" | "recvfrom" | "write" | "send" | "sendto" => self.transfer()?,
                "readv" | "writev" => {
                    let mut memory = Memory::default();
                    let buffers = memory.buffers(self.arg(1))?;
                    let count = buffers.len() as c_int;
                    if self.call.name == "readv" {
                        (calls.readv)(ud, self.fd(0)?, buffers.as_ptr(), count) as i64
                    } else {
                        (calls.writev)(ud, self.fd(0)?, buffers.as_ptr(), count) as i64
                    }
                }
                "recvmsg" | "sendmsg" => self.message()?,
                "fcntl" => {
                    let arg = if self.call.args.len() > 2 { self.int(2)? } else { 0 };
                    (calls.fcntl)(ud, self.fd(0)?, self.int(1)? as c_int, arg as *mut c_void).into()
                }
                "ioctl" => {
                    let mut value: c_int = 0;
                    let place = (&raw mut value).cast::<c_void>();
                    let result = (calls.ioctl)(ud, self.fd(0)?, self.int(1)? as u64, place);
                    if result == 0 {
                        self.expect("value", self.int(2)?, value.into());
                    }
                    result.into()
                }
                "setsockopt" => self.setsockopt()?,
                "getsockopt" => self.getsockopt()?,
                "poll" => self.poll()?,
                "epoll_create" => (calls.epoll_create)(ud, self.int(0)? as c_int).into(),
                "epoll_ctl" => {
                    let mut event = epoll_event { events: 0, u64: 0 };
                    if let Arg::Struct(fields) = self.arg(3) {
                        event = self.epoll_event(fields)?;
                    }
                    let op = self.int(1)? as c_int;
                    (calls.epoll_ctl)(ud, self.fd(0)?, op, self.fd(2)?, &raw mut event).into()
                }
                "epoll_wait" => self.epoll_wait()?,
                "pipe" => {
                    let mut fds = [0; 2];
                    let result = (calls.pipe)(ud, fds.as_mut_ptr());
                    if let Arg::List(numbers) = self.arg(0).clone() {
                        for (number, fd) in numbers.into_iter().zip(fds) {
                            let Arg::Int(number) = number else { return Err("pipe wants numbers".into()) };
                            self.outcome.opened.push((number, fd));
                        }
                    }
                    result.into()
                }
                // Past the interface, which has no place for these two.
                "open" => {
                    let Arg::Text(path) = self.arg(0) else { return Err("open wants a path".into()) };
                    let path = std::ffi::CString::new(path.clone()).map_err(|error| error.to_string())?;
                    libc::open(path.as_ptr(), self.int(1)? as c_int).into()
                }
                "sendfile" => {
                    let mut offset = self.int(2)?;
                    let count = self.int(3)? as usize;
                    (self.interface.sendfile)(self.fd(0)?, self.fd(1)?, &raw mut offset, count) as i64
                }
                "splice" => {
                    let null = core::ptr::null_mut();
                    let (len, flags) = (self.int(4)? as usize, self.int(5)? as u32);
                    (calls.splice)(ud, self.fd(0)?, null, self.fd(2)?, null, len, flags).into()
                }
                other => return Err(format!("the interface has no call {other}")),
            })
        }
    }

    fn transfer(&mut self) -> Result<i64, String> {
        let calls = &self.interface.calls;
        let (ud, fd, len) = (calls.userdata, self.fd(0)?, self.int(2)? as usize);
        let mut memory = vec![0u8; len.max(1)];
        let buffer: *mut c_void = match self.arg(1) {
            Arg::Any | Arg::Text(_) => memory.as_mut_ptr().cast(),
            _ => self.int(1)? as *mut c_void,
        };
        let flags = if self.call.args.len() > 3 { self.int(3)? as c_int } else { 0 };
        let (addr, addr_len) = c_address(self.scene.connect_to);
        let to = if matches!(self.arg(4), Arg::Any) { (&raw const addr).cast() } else { core::ptr::null() };
        let null: *mut c_void = core::ptr::null_mut();
        // SAFETY: as in `perform`.
        let result = unsafe {
            match self.call.name.as_str() {
                "read" => (calls.read)(ud, fd, buffer, len),
                "recv" => (calls.recv)(ud, fd, buffer, len, flags),
                "recvfrom" => (calls.recvfrom)(ud, fd, buffer, len, flags, null.cast(), null.cast()),
                "write" => (calls.write)(ud, fd, buffer, len),
                "send" => (calls.send)(ud, fd, buffer, len, flags),
                _ => (calls.sendto)(ud, fd, buffer, len, flags, to, addr_len),
            }
        };
        Ok(result as i64)
    }

    fn message(&mut self) -> Result<i64, String> {
        let calls = &self.interface.calls;
        let Arg::Struct(fields) = self.arg(1).clone() else { return Err("a message is a struct".into()) };
        let field = |name: &str| fields.iter().find(|field| field.0 == name).map(|field| &field.1);
        let mut memory = Memory::default();
        let mut buffers = memory.buffers(field("msg_iov").unwrap_or(&Arg::List(Vec::new())))?;
        let mut control = [0u64; 64];
        let (addr, addr_len) = c_address(self.scene.connect_to);
        // SAFETY: a `msghdr` of zeros is valid.
        let mut message: msghdr = unsafe { core::mem::zeroed() };
        message.msg_iov = buffers.as_mut_ptr();
        message.msg_iovlen = buffers.len();
        let flags = self.int(2)? as c_int;
        let (ud, fd) = (calls.userdata, self.fd(0)?);
        // SAFETY: as in `perform`.
        unsafe {
            if self.call.name == "sendmsg" {
                if flags & libc::MSG_FASTOPEN != 0 {
                    message.msg_name = (&raw const addr).cast_mut().cast();
                    message.msg_namelen = addr_len;
                }
                return Ok((calls.sendmsg)(ud, fd, &raw const message, flags) as i64);
            }
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            let result = (calls.recvmsg)(ud, fd, &raw mut message, flags);
            if result >= 0 {
                if let Some(Arg::Int(expected)) = field("msg_flags") {
                    self.expect("msg_flags", *expected, message.msg_flags.into());
                }
                if let Some(Arg::List(expected)) = field("msg_control") {
                    self.check_control(expected, &message);
                }
            }
            Ok(result as i64)
        }
    }

    /// Control messages: an int, a timestamp since the script's start, or what the kernel's `sock_extended_err` says.
    ///
    /// # Safety
    /// `message` was filled in by `recvmsg`.
    unsafe fn check_control(&mut self, expected: &[Arg], message: &msghdr) {
        let mut found = Vec::new();
        // SAFETY: the caller's promise; the macros stay within the control buffer.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(message);
            while !header.is_null() {
                let len = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = core::slice::from_raw_parts(libc::CMSG_DATA(header), len).to_vec();
                found.push(((*header).cmsg_level, (*header).cmsg_type, data));
                header = libc::CMSG_NXTHDR(message, header);
            }
        }
        let as_wanted = found.len() == expected.len()
            && expected.iter().zip(&found).all(|(wanted, found)| self.is_control(wanted, found));
        if !as_wanted {
            self.problem(format!("control messages are {found:?}, expected {expected:?}"));
        }
    }

    fn is_control(&self, wanted: &Arg, (level, kind, data): &(c_int, c_int, Vec<u8>)) -> bool {
        let Arg::Struct(fields) = wanted else { return false };
        let field = |fields: &[(String, Arg)], name: &str| {
            fields.iter().find(|field| field.0 == name).map(|field| field.1.clone())
        };
        let number = |fields: &[(String, Arg)], name: &str| match field(fields, name) {
            Some(Arg::Int(value)) => value,
            _ => -1,
        };
        if (number(fields, "cmsg_level"), number(fields, "cmsg_type")) != ((*level).into(), (*kind).into()) {
            return false;
        }
        let i32_at = |at: usize| data.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes).map(i64::from);
        let i64_at = |at: usize| data.get(at..at + 8)?.try_into().ok().map(i64::from_ne_bytes);
        match field(fields, "cmsg_data") {
            Some(Arg::Int(value)) => i32_at(0) == Some(value),
            Some(Arg::Struct(said)) if field(&said, "scm_sec").is_some() => {
                let wanted = number(&said, "scm_sec") * 1_000_000 + number(&said, "scm_nsec") / 1000;
                let (Some(seconds), Some(nanos)) = (i64_at(0), i64_at(8)) else { return false };
                let at = seconds * 1_000_000 + nanos / 1000 - self.scene.start;
                (at - wanted).abs() <= self.scene.tolerance
            }
            Some(Arg::Struct(said)) => {
                let bytes = [4, 5, 6].map(|at| data.get(at).map(|byte| i64::from(*byte)));
                [i32_at(0), bytes[0], bytes[1], bytes[2], i32_at(8), i32_at(12)]
                    == ["ee_errno", "ee_origin", "ee_type", "ee_code", "ee_info", "ee_data"]
                        .map(|name| Some(number(&said, name)))
            }
            _ => false,
        }
    }

    fn setsockopt(&mut self) -> Result<i64, String> {
        let (level, name) = (self.int(1)? as c_int, self.int(2)? as c_int);
        let len = if self.call.args.len() > 4 { self.int(4)? as usize } else { 4 };
        let mut value = match self.arg(3) {
            Arg::Text(text) => [&text[..], &[0]].concat(),
            Arg::Struct(fields) => ints(fields),
            _ => (self.int(3)? as c_int).to_ne_bytes().to_vec(),
        };
        if let (Arg::Struct(_), libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) = (self.arg(3), name) {
            value = value.chunks(4).flat_map(|c| [c, &[0; 4]].concat()).collect();
        }
        value.resize(value.len().max(len), 0);
        let len = if matches!(self.arg(3), Arg::Struct(_)) { value.len() } else { len };
        let calls = &self.interface.calls;
        // SAFETY: the value has at least `len` bytes.
        let result = unsafe {
            (calls.setsockopt)(
                calls.userdata,
                self.fd(0)?,
                level,
                name,
                value.as_ptr().cast(),
                len as socklen_t,
            )
        };
        Ok(result.into())
    }

    fn getsockopt(&mut self) -> Result<i64, String> {
        let (level, name) = (self.int(1)? as c_int, self.int(2)? as c_int);
        let mut value = [0u8; 256];
        let mut len: socklen_t = value.len() as socklen_t;
        let calls = &self.interface.calls;
        // SAFETY: the value has as many bytes.
        let result = unsafe {
            (calls.getsockopt)(
                calls.userdata,
                self.fd(0)?,
                level,
                name,
                value.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            match self.arg(3).clone() {
                Arg::Any => {}
                Arg::Text(text) => {
                    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
                    if value[..end] != text[..] {
                        let got = String::from_utf8_lossy(&value[..end]).into_owned();
                        self.problem(format!("the option is `{got}`"));
                    }
                }
                Arg::Struct(fields) => {
                    let wanted = ints(&fields);
                    if value[..wanted.len()] != wanted[..] {
                        self.problem(format!("the option is {:?}", &value[..wanted.len()]));
                    }
                }
                _ => {
                    let got = c_int::from_ne_bytes([value[0], value[1], value[2], value[3]]);
                    self.expect("the option", self.int(3)?, got.into());
                }
            }
        }
        Ok(result.into())
    }

    fn poll(&mut self) -> Result<i64, String> {
        let Arg::List(entries) = self.arg(0).clone() else { return Err("poll wants a list".into()) };
        let mut fds = Vec::new();
        let mut wanted = Vec::new();
        for entry in &entries {
            let Arg::Struct(fields) = entry else { return Err("poll wants structs".into()) };
            let number = |name: &str| match fields.iter().find(|field| field.0 == name) {
                Some((_, Arg::Int(value))) => *value,
                _ => 0,
            };
            let fd = self.scene.fds.get(&number("fd")).copied().unwrap_or(-1);
            fds.push(pollfd { fd, events: number("events") as i16, revents: 0 });
            wanted.push(number("revents") as i16);
        }
        let calls = &self.interface.calls;
        let (count, timeout) = (fds.len() as u64, self.int(2)? as c_int);
        // SAFETY: the list has as many entries.
        let result = unsafe { (calls.poll)(calls.userdata, fds.as_mut_ptr(), count, timeout) };
        for (entry, wanted) in fds.iter().zip(wanted) {
            self.expect("revents", wanted.into(), entry.revents.into());
        }
        Ok(result.into())
    }

    fn epoll_event(&self, fields: &[(String, Arg)]) -> Result<epoll_event, String> {
        let mut event = epoll_event { events: 0, u64: 0 };
        for (name, value) in fields {
            let Arg::Int(value) = value else { return Err("an event has numbers".into()) };
            match name.as_str() {
                "events" => event.events = *value as u32,
                "fd" => event.u64 = self.scene.fds.get(value).map_or(0, |fd| *fd as u64),
                _ => event.u64 = *value as u64,
            }
        }
        Ok(event)
    }

    fn epoll_wait(&mut self) -> Result<i64, String> {
        let mut events = vec![epoll_event { events: 0, u64: 0 }; 16];
        let (max, timeout) = (self.int(2)? as c_int, self.int(3)? as c_int);
        let calls = &self.interface.calls;
        let fd = self.fd(0)?;
        // SAFETY: there is room for 16.
        let result =
            unsafe { (calls.epoll_wait)(calls.userdata, fd, events.as_mut_ptr(), max.min(16), timeout) };
        if let (1, Arg::Struct(fields)) = (result, self.arg(1).clone()) {
            let wanted = self.epoll_event(&fields)?;
            let (wanted, got) = ((wanted.events, wanted.u64), (events[0].events, events[0].u64));
            if wanted != got {
                self.problem(format!("the event is {got:#x?}, expected {wanted:#x?}"));
            }
        }
        Ok(result.into())
    }

    fn expect(&mut self, what: &str, wanted: i64, got: i64) {
        if wanted != got {
            self.problem(format!("{what} of {} is {got}, expected {wanted}", self.call.name));
        }
    }
}

fn is_opening(name: &str) -> bool {
    matches!(name, "socket" | "accept" | "epoll_create" | "open")
}

/// The ints of a struct, in order.
fn ints(fields: &[(String, Arg)]) -> Vec<u8> {
    let number = |field: &(String, Arg)| if let Arg::Int(value) = field.1 { value as c_int } else { 0 };
    fields.iter().flat_map(|field| number(field).to_ne_bytes()).collect()
}

/// Memory behind the buffers of one call.
#[derive(Default)]
struct Memory(Vec<Vec<u8>>);

impl Memory {
    fn buffers(&mut self, list: &Arg) -> Result<Vec<iovec>, String> {
        let Arg::List(items) = list else { return Err("buffers are a list".into()) };
        items
            .iter()
            .map(|item| match item {
                Arg::Struct(fields) if let [(_, base), (_, Arg::Int(len))] = &fields[..] => {
                    let mut block = vec![0u8; (*len as usize).max(1)];
                    let iov_base = if let Arg::Int(address) = base {
                        *address as *mut c_void
                    } else {
                        block.as_mut_ptr().cast()
                    };
                    self.0.push(block);
                    Ok(iovec { iov_base, iov_len: *len as usize })
                }
                other => Err(format!("a buffer is an address and a length: {other:?}")),
            })
            .collect()
    }
}

/// `sockaddr_in` or `sockaddr_in6`.
fn c_address(address: SocketAddr) -> ([u8; 28], socklen_t) {
    let mut bytes = [0; 28];
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&address.ip().octets());
            (bytes, 16)
        }
        SocketAddr::V6(address) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[8..24].copy_from_slice(&address.ip().octets());
            (bytes, 28)
        }
    }
}

fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EAGAIN => "EAGAIN",
        libc::EINPROGRESS => "EINPROGRESS",
        libc::EALREADY => "EALREADY",
        libc::EISCONN => "EISCONN",
        libc::ENOTCONN => "ENOTCONN",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ECONNRESET => "ECONNRESET",
        libc::ECONNABORTED => "ECONNABORTED",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPIPE => "EPIPE",
        libc::EINVAL => "EINVAL",
        libc::EFAULT => "EFAULT",
        libc::EBADF => "EBADF",
        libc::ENOENT => "ENOENT",
        libc::EEXIST => "EEXIST",
        libc::ENOTSOCK => "ENOTSOCK",
        libc::ENOPROTOOPT => "ENOPROTOOPT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EDEADLK => "EDEADLK",
        libc::ENOBUFS => "ENOBUFS",
        libc::EMSGSIZE => "EMSGSIZE",
        libc::EIO => "EIO",
        _ => "another errno",
    }
}
