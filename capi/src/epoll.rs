//! `epoll(7)` over our sockets: level- and edge-triggered, with one shot. Edges are changes of what a descriptor is ready for,
//! or of what it has received and had acknowledged.

use std::collections::BTreeMap;
use std::task::Poll;

use libc::{c_int, c_short, epoll_event};

use crate::errno::Errno;
use crate::monitor;
use crate::poll::{Ready, patience};
use crate::sockets::{Object, World};

/// An epoll object.
#[derive(Default)]
pub(crate) struct Epoll {
    /// By descriptor.
    interests: BTreeMap<c_int, Interest>,
}

struct Interest {
    events: u32,
    data: u64,
    /// What was last told of, for edges.
    told: Option<Ready>,
    /// Its one shot is spent.
    spent: bool,
}

impl Epoll {
    /// The descriptor was closed.
    pub(crate) fn forget(&mut self, fd: c_int) {
        self.interests.remove(&fd);
    }
}

/// `epoll_create(2)`.
pub(crate) fn create(size: c_int) -> Result<c_int, Errno> {
    if size <= 0 {
        return Err(Errno(libc::EINVAL));
    }
    monitor::call(|world| world.open(Object::Epoll(Epoll::default())))
}

/// `epoll_ctl(2)`; `event` is events and data.
pub(crate) fn control(epfd: c_int, op: c_int, fd: c_int, event: Option<(u32, u64)>) -> Result<c_int, Errno> {
    monitor::call(|world| {
        if !world.has(fd) && world.ready(fd).mask & libc::POLLNVAL != 0 {
            return Err(Errno(libc::EBADF));
        }
        let epoll = world.epoll(epfd)?;
        let interest = |(events, data)| Interest { events, data, told: None, spent: false };
        let known = epoll.interests.contains_key(&fd);
        match op {
            libc::EPOLL_CTL_ADD if known => Err(Errno(libc::EEXIST)),
            libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL if !known => Err(Errno(libc::ENOENT)),
            libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD => {
                epoll.interests.insert(fd, interest(event.ok_or(Errno(libc::EFAULT))?));
                Ok(0)
            }
            libc::EPOLL_CTL_DEL => {
                epoll.interests.remove(&fd);
                Ok(0)
            }
            _ => Err(Errno(libc::EINVAL)),
        }
    })
}

/// `epoll_wait(2)`.
pub(crate) fn wait(epfd: c_int, max: c_int, timeout_ms: c_int) -> Result<Vec<epoll_event>, Errno> {
    let max = usize::try_from(max).ok().filter(|max| *max > 0).ok_or(Errno(libc::EINVAL))?;
    let outcome = monitor::block(patience(timeout_ms), Errno(libc::EAGAIN), |world| {
        let fds: Vec<c_int> = world.epoll(epfd)?.interests.keys().copied().collect();
        let mut events = Vec::new();
        for fd in fds {
            if events.len() == max {
                break;
            }
            let ready = world.ready(fd);
            let interest = world.epoll(epfd)?.interests.get_mut(&fd);
            events.extend(interest.and_then(|interest| interest.tell(ready)));
        }
        if events.is_empty() { Poll::Pending } else { Poll::Ready(Ok(events)) }
    });
    match outcome {
        Err(Errno(libc::EAGAIN)) => Ok(Vec::new()),
        other => other,
    }
}

impl Interest {
    fn tell(&mut self, ready: Ready) -> Option<epoll_event> {
        // The numbers of poll's and epoll's events are the same.
        let events = ready.events_for(self.events as u16 as c_short);
        if events == 0 || self.spent {
            if events == 0 {
                self.told = None;
            }
            return None;
        }
        if self.events & libc::EPOLLET as u32 != 0 {
            let edge = Ready { mask: events, ..ready };
            if self.told == Some(edge) {
                return None;
            }
            self.told = Some(edge);
        }
        self.spent = self.events & libc::EPOLLONESHOT as u32 != 0;
        Some(epoll_event { events: u32::from(events as u16), u64: self.data })
    }
}

impl World {
    fn epoll(&mut self, fd: c_int) -> Result<&mut Epoll, Errno> {
        match self.objects.get_mut(&fd) {
            Some(Object::Epoll(epoll)) => Ok(epoll),
            Some(Object::Socket(_)) => Err(Errno(libc::EINVAL)),
            None => Err(Errno(libc::EBADF)),
        }
    }
}
