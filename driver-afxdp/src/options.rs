//! How a queue is to be opened, with the bounds of every number.

use core::net::IpAddr;

use crate::error::Error;
use crate::maps::ADDRESSES_PER_QUEUE;

/// Bytes the kernel keeps free before a received packet (`XDP_PACKET_HEADROOM`).
pub(crate) const XDP_HEADROOM: u32 = 256;
/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_HEADER: usize = 14;

/// Least and largest size of an RX or TX ring. The kernel takes more; 32,768 descriptors are 128 MiB of frames.
pub const RING_SIZE: core::ops::RangeInclusive<u32> = 64..=32_768;
/// Least and largest number of frames of a queue.
pub const FRAMES: core::ops::RangeInclusive<u32> = 8..=1 << 20;

/// How packets get between the NIC and the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Zero-copy, else copy; native XDP, else generic.
    #[default]
    Auto,
    /// The NIC reads and writes the frames itself, or an error.
    ZeroCopy,
    /// The kernel copies, with native XDP.
    Copy,
    /// The kernel copies, with generic XDP: for any driver, and for comparison.
    Generic,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "any mode",
            Self::ZeroCopy => "zero-copy mode",
            Self::Copy => "copy mode with native XDP",
            Self::Generic => "generic mode",
        }
    }
}

/// Whether the frames are in huge pages, which spare the NIC's and CPU's address translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HugePages {
    /// If there are enough free ones and the frames fill them exactly.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Or an error.
    Require,
}

/// At which addresses open ports are the stack's when it shares them with the kernel
/// ([`bywash::config::AddressUse::Shared`]); own addresses need no ports.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum PortAddresses {
    /// At those the interface has when the queue is opened.
    #[default]
    Interface,
    /// At these, at most [`ADDRESSES_PER_QUEUE`]; further ones are an error.
    Listed(Vec<IpAddr>),
    /// At every unicast destination. On a machine that forwards packets, those of others too.
    Any,
}

/// Whose packets stay with the kernel on a link that is the stack's as a whole
/// ([`LinkOptions`](crate::LinkOptions)).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum KernelAddresses {
    /// The addresses that the interface has when the link is opened, so that ssh to them goes on.
    #[default]
    Interface,
    /// These, at most [`ADDRESSES_PER_QUEUE`]; further ones are an error.
    Listed(Vec<IpAddr>),
    /// None: the kernel hears nothing but frames with a VLAN tag and those cut short.
    None,
}

/// Busy polling: the socket's thread drives the NIC's queue instead of interrupts (`SO_PREFER_BUSY_POLL`,
/// `SO_BUSY_POLL`, `SO_BUSY_POLL_BUDGET`). Takes `napi_defer_hard_irqs` and `gro_flush_timeout` of the interface to be
/// set as well; without effect on veth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusyPoll {
    /// How long a poll without packets lasts, in microseconds.
    pub micros: u32,
    /// Packets taken from the NIC in one poll; above 64 takes CAP_NET_ADMIN.
    pub budget: u32,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self { micros: 20, budget: 64 }
    }
}

/// How to open a queue.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// How packets get between the NIC and the frames. Of [`Mode::Generic`] and the native ones that can be had which
    /// the program was attached for.
    pub mode: Mode,
    /// Frames of the pool, within [`FRAMES`]: memory for packets being received, transmitted and held.
    pub frames: u32,
    /// Bytes of a frame: 2048 or 4096. 256 of them are headroom.
    pub frame_size: u32,
    /// Size of the socket's RX ring, a power of two within [`RING_SIZE`]; the fill ring has it too.
    pub rx_ring: u32,
    /// Size of the socket's TX ring, a power of two within [`RING_SIZE`]; the completion ring has it too.
    pub tx_ring: u32,
    /// Let the driver say when it must be woken, which spares syscalls and lets it sleep.
    pub need_wakeup: bool,
    /// Busy polling; `None`: interrupts.
    pub busy_poll: Option<BusyPoll>,
    /// Huge pages for the frames.
    pub huge_pages: HugePages,
    /// Largest IP packet in bytes, if smaller than the interface's MTU.
    pub mtu: Option<usize>,
    /// Where open ports count. Of no meaning to [`Links`](crate::Links), whose links are the stack's as a whole.
    pub port_addresses: PortAddresses,
}

impl Default for QueueOptions {
    /// 4096 frames of 4096 bytes (16 MiB, and whole huge pages), rings of 2048: at most half of the frames wait to be
    /// received into, and the other half can be held or under way.
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            frames: 4096,
            frame_size: 4096,
            rx_ring: 2048,
            tx_ring: 2048,
            need_wakeup: true,
            busy_poll: None,
            huge_pages: HugePages::Auto,
            mtu: None,
            port_addresses: PortAddresses::Interface,
        }
    }
}

impl QueueOptions {
    /// Checks every number against its bounds.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (what, value) in [("the RX ring's size", self.rx_ring), ("the TX ring's size", self.tx_ring)] {
            power_of_two(what, value, *RING_SIZE.start(), *RING_SIZE.end())?;
        }
        power_of_two("the frame size", self.frame_size, 2048, 4096)?;
        if !FRAMES.contains(&self.frames) {
            return Err(Error::BadFrameCount {
                frames: self.frames,
                min: *FRAMES.start(),
                max: *FRAMES.end(),
            });
        }
        Ok(())
    }

    /// Largest IP packet that fits one frame with its Ethernet header.
    pub(crate) fn one_frame_mtu(&self) -> usize {
        (self.frame_size - XDP_HEADROOM) as usize - ETHERNET_HEADER
    }

    /// Size of the packet memory.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.frames) * u64::from(self.frame_size)
    }

    /// Frames that wait in the fill ring: as many as the RX ring takes, but half of the pool at most, so that some are
    /// left to transmit and to hold.
    pub(crate) fn fill_target(&self) -> u32 {
        self.rx_ring.min(self.frames / 2).max(1)
    }

    /// Whether the steering program has room for these addresses, which are listed for `what`.
    pub(crate) fn check_addresses(what: &'static str, addresses: &[IpAddr]) -> Result<(), Error> {
        if addresses.len() <= ADDRESSES_PER_QUEUE as usize {
            return Ok(());
        }
        Err(Error::TooManyAddresses { what, addresses: addresses.len(), max: ADDRESSES_PER_QUEUE })
    }
}

fn power_of_two(what: &'static str, value: u32, min: u32, max: u32) -> Result<(), Error> {
    if value.is_power_of_two() && (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(Error::NotPowerOfTwo { what, value, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_own_bounds() {
        let options = QueueOptions::default();
        options.check().unwrap();
        assert_eq!(options.one_frame_mtu(), 3826);
        assert_eq!(options.fill_target(), 2048);
    }

    #[test]
    fn sizes_that_are_no_powers_of_two_are_refused_by_name() {
        for (options, what) in [
            (QueueOptions { rx_ring: 1000, ..QueueOptions::default() }, "RX ring"),
            (QueueOptions { tx_ring: 32, ..QueueOptions::default() }, "TX ring"),
            (QueueOptions { rx_ring: 1 << 16, ..QueueOptions::default() }, "RX ring"),
            (QueueOptions { frame_size: 8192, ..QueueOptions::default() }, "frame size"),
            (QueueOptions { frame_size: 3000, ..QueueOptions::default() }, "frame size"),
        ] {
            let error = options.check().unwrap_err();
            assert!(
                matches!(error, Error::NotPowerOfTwo { .. }) && error.to_string().contains(what),
                "{error}"
            );
        }
    }

    #[test]
    fn too_few_frames_are_refused() {
        let error = QueueOptions { frames: 4, ..QueueOptions::default() }.check().unwrap_err();
        assert!(matches!(error, Error::BadFrameCount { frames: 4, min: 8, .. }));
    }
}
