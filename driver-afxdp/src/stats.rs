//! What a queue counts, and the kernel's `XDP_STATISTICS` of its socket.

use core::ffi::c_void;
use std::io;
use std::os::fd::RawFd;

/// `struct xdp_statistics` of linux/if_xdp.h: what the kernel counts of a socket since it was opened.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct XdpStatistics {
    /// Received packets dropped for other reasons, such as being too long for one frame.
    pub rx_dropped: u64,
    /// Fill ring entries that were no valid address.
    pub rx_invalid_descs: u64,
    /// TX ring entries that were no valid descriptor.
    pub tx_invalid_descs: u64,
    /// Received packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the fill ring had no frame to receive into.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the TX ring was found empty; no fault.
    pub tx_ring_empty_descs: u64,
}

impl XdpStatistics {
    /// Of the socket `fd`.
    pub(crate) fn read(fd: RawFd) -> io::Result<Self> {
        let mut statistics = Self::default();
        let mut len = size_of::<Self>() as libc::socklen_t;
        let place = (&raw mut statistics).cast::<c_void>();
        // SAFETY: `place` has room for `len` bytes, and all of its fields are integers.
        let result =
            unsafe { libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_STATISTICS, place, &raw mut len) };
        if result == 0 { Ok(statistics) } else { Err(io::Error::last_os_error()) }
    }

    /// Name, help and value of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        [
            ("socket_rx_dropped", "Packets the kernel dropped before the socket's RX ring.", self.rx_dropped),
            ("socket_rx_invalid_descs", "Invalid addresses in the fill ring.", self.rx_invalid_descs),
            ("socket_tx_invalid_descs", "Invalid descriptors in the TX ring.", self.tx_invalid_descs),
            ("socket_rx_ring_full", "Packets dropped because the RX ring was full.", self.rx_ring_full),
            (
                "socket_rx_fill_ring_empty",
                "Times the fill ring had no frame to receive into.",
                self.rx_fill_ring_empty_descs,
            ),
            ("socket_tx_ring_empty", "Times the TX ring was found empty.", self.tx_ring_empty_descs),
        ]
        .into_iter()
    }
}

macro_rules! counters {
    ($($name:ident $help:literal,)*) => {
        /// What the driver itself counts of a queue.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub struct QueueCounters {
            $(#[doc = $help] pub $name: u64,)*
        }

        impl QueueCounters {
            /// Name, help and value of each.
            pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((concat!("driver_", stringify!($name)), $help, self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    rx_packets "Packets taken from the RX ring.",
    rx_copies "Copies of packets that the kernel got as well.",
    rx_copies_no_frame "Such copies dropped because the packet pool was empty.",
    rx_bad_descriptors "RX ring entries that named no frame lent to the kernel, or no bytes inside it.",
    rx_too_many_frames "Received packets dropped because they spanned too many frames.",
    rx_starved "Times the fill ring could not be kept full because the packet pool was empty.",
    rx_wakeups "Syscalls to wake the driver's receiving side.",
    tx_packets "Packets put into the TX ring.",
    tx_frames "Frames put into the TX ring.",
    tx_ring_full "Times packets were left over because the TX ring, or its share of the pool, was full.",
    tx_wakeups "Syscalls to wake the driver's transmitting side.",
    tx_retries "Times the kernel asked to try again later (EAGAIN, EBUSY, ENOBUFS).",
    tx_link_down "Times the kernel would not transmit because the link was down.",
    tx_errors "Other failures of transmission.",
    tx_realigned "Packets copied because they did not begin at their frames' headroom, or were of another pool.",
    tx_too_long "Packets dropped because they were empty, longer than the MTU, or spanned too many frames.",
    tx_no_frame "Packets dropped because realigning them took frames and the pool was empty.",
    completions "Transmitted frames that came back.",
    bad_completions "Completions that named no frame lent to the TX ring.",
    link_changes "Times the link went up or down.",
}
