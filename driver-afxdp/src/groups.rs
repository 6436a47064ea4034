//! The multicast groups of addresses that the kernel does not know of: a NIC's own filter lets only the kernel's groups in, and a
//! neighbour's question about an address of the stack's, or a host's for routers, is sent to others (RFC 4291 section 2.7.1).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// While it lives, the NIC lets in what is sent to any multicast group. The kernel counts who wants that, and undoes it when the
/// process ends, however it ends.
pub(crate) struct AllGroups {
    _socket: OwnedFd,
}

impl AllGroups {
    /// On the interface with this index, of this thread's network namespace. Takes `CAP_NET_RAW`.
    pub fn join(ifindex: u32) -> io::Result<Self> {
        // SAFETY: no pointers are passed. A packet socket of no protocol gets no packets.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let request = libc::packet_mreq {
            mr_ifindex: ifindex as i32,
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: the option's value is the structure, whole, of its size.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                size_of_val(&request) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { _socket: socket })
    }
}
