//! Watching an interface go down, come up or disappear (rtnetlink(7), `RTMGRP_LINK`): an AF_XDP socket's `poll` says
//! nothing of it.

use core::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Room for one notification; larger ones are cut, but their header is what counts.
const MESSAGE_BYTES: usize = 8192;
/// Bytes of `struct nlmsghdr` and `struct ifinfomsg`.
const NLMSG_HEADER: usize = 16;
const IFINFO: usize = 16;

/// What became of the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkState {
    /// Up, with a carrier.
    Up,
    /// Set down, or without carrier: packets wait or are lost, and all goes on when it is up again.
    Down,
    /// The interface was removed.
    Gone,
}

/// A subscription to the changes of one interface.
pub(crate) struct LinkWatch {
    socket: OwnedFd,
    ifindex: u32,
}

impl LinkWatch {
    pub fn new(ifindex: u32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all-zero is a value of this structure of integers.
        let mut address: libc::sockaddr_nl = unsafe { core::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address is `len` bytes long.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { socket, ifindex })
    }

    /// Readable when there is news of some interface.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The interface's latest state among the news, if there are any of it. Reads all of them.
    pub fn news(&self) -> Option<LinkState> {
        let mut latest = None;
        let mut buffer = [0u8; MESSAGE_BYTES];
        loop {
            // SAFETY: the buffer has the length that is passed.
            let len = unsafe {
                libc::recv(self.fd(), buffer.as_mut_ptr().cast::<c_void>(), MESSAGE_BYTES, libc::MSG_DONTWAIT)
            };
            match usize::try_from(len) {
                Ok(len) if len > 0 => latest = self.parse(&buffer[..len]).or(latest),
                // The queue of news overflowed; the next one is readable again.
                _ if io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) => {}
                _ => return latest,
            }
        }
    }

    /// The last word on this interface in one datagram of messages.
    fn parse(&self, mut datagram: &[u8]) -> Option<LinkState> {
        let mut latest = None;
        while datagram.len() >= NLMSG_HEADER + IFINFO {
            let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| datagram[at + i]));
            let (len, kind) = (word(0) as usize, u16::from_ne_bytes([datagram[4], datagram[5]]));
            if len < NLMSG_HEADER + IFINFO {
                break;
            }
            // `struct ifinfomsg`: family, type, then the index and the flags.
            let (index, flags) = (word(NLMSG_HEADER + 4), word(NLMSG_HEADER + 8));
            // A message of the bridge's family is about its port, not about the interface.
            let is_interface = i32::from(datagram[NLMSG_HEADER]) == libc::AF_UNSPEC;
            if index == self.ifindex && is_interface {
                let running = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
                latest = match kind {
                    libc::RTM_DELLINK => Some(LinkState::Gone),
                    libc::RTM_NEWLINK if flags & running == running => Some(LinkState::Up),
                    libc::RTM_NEWLINK => Some(LinkState::Down),
                    _ => latest,
                };
            }
            datagram = &datagram[len.next_multiple_of(4).min(datagram.len())..];
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_datagram_panics_or_hangs(mut bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0u32..80) {
            // A first length that is often plausible, so that the walk gets further.
            if let Some(first) = bytes.first_chunk_mut::<4>() {
                *first = len.to_ne_bytes();
            }
            LinkWatch::new(7).unwrap().parse(&bytes);
        }
    }

    fn message(kind: u16, index: u32, flags: i32) -> Vec<u8> {
        let mut bytes = vec![0; NLMSG_HEADER + IFINFO];
        bytes[..4].copy_from_slice(&((NLMSG_HEADER + IFINFO) as u32).to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[20..24].copy_from_slice(&index.to_ne_bytes());
        bytes[24..28].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_last_word_on_the_interface_counts() {
        let watch = LinkWatch::new(7).unwrap();
        let (up, down) = (libc::IFF_UP | libc::IFF_RUNNING, libc::IFF_UP);
        assert_eq!(watch.parse(&message(libc::RTM_NEWLINK, 7, up)), Some(LinkState::Up));
        assert_eq!(watch.parse(&message(libc::RTM_NEWLINK, 8, up)), None, "another interface");
        let two = [message(libc::RTM_NEWLINK, 7, down), message(libc::RTM_DELLINK, 7, 0)].concat();
        assert_eq!(watch.parse(&two), Some(LinkState::Gone));
        assert_eq!(watch.parse(&two[..two.len() - 1]), Some(LinkState::Down), "cut short");
        assert_eq!(watch.parse(&[0; 64]), None, "no length");
        let mut bridge = message(libc::RTM_DELLINK, 7, 0);
        bridge[16] = libc::AF_BRIDGE as u8;
        assert_eq!(watch.parse(&bridge), None, "left a bridge");
    }
}
