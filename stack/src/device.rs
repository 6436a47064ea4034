//! What the shard needs of a driver: bursts of packets in and out, and what the device can do.
//!
//! `bywash-afxdp` implements this over AF_XDP sockets, the simulator over links in virtual time, tests over plain
//! queues. A device moves frames between its rings and the pool; it never copies.

use core::net::IpAddr;
use std::io;
use std::os::fd::RawFd;

use smoltcp::wire::EthernetAddress;

use crate::packet::{PacketBatch, PacketPool};
use crate::time::Duration;

/// What a device is and can do.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The device's Ethernet address.
    pub mac: EthernetAddress,
    /// Largest IP packet, in bytes (the Ethernet header is not counted): 1280 to 65,535.
    pub mtu: usize,
    /// Whether neighbours may hand us packets whose TCP/UDP checksum is only the pseudo-header's sum
    /// (`CHECKSUM_PARTIAL`), as veth and virtio do when the sender offloads checksums.
    pub partial_checksums: bool,
    /// Frames one transmitted packet may span, at least 1.
    pub tx_frames_max: usize,
}

/// A queue of a network device, driven by one shard.
pub trait Device {
    /// What the device can do. Constant for the device's life.
    fn capabilities(&self) -> &Capabilities;

    /// The pool that received packets come from and transmitted ones return to.
    fn pool(&self) -> &PacketPool;

    /// Appends up to `budget` received packets to `batch`; returns how many.
    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize;

    /// Takes packets from the front of `batch` for transmission, in order, until the batch is empty or the ring full;
    /// returns how many. What does not fit stays in `batch`. One wake-up a call at most.
    fn transmit(&mut self, batch: &mut PacketBatch) -> usize;

    /// How many packets of one frame [`Device::transmit`] would take now.
    fn transmit_room(&mut self) -> usize;
}

/// A device whose thread can sleep until something happens.
pub trait WaitDevice: Device {
    /// Sleeps until packets arrive, a transmission that did not fit may go on, `wake` (an eventfd) becomes readable, or
    /// `timeout` (`None`: no limit) is over. May return early.
    ///
    /// # Errors
    /// What `poll(2)` answered, other than `EINTR`.
    fn wait(&mut self, wake: RawFd, timeout: Option<Duration>) -> io::Result<()>;

    /// Figures of the driver's own for metrics and summaries: name (snake case, a Prometheus counter name without
    /// prefix), help text, value.
    fn statistics(&mut self) -> Vec<(&'static str, &'static str, u64)>;

    /// The steering of this queue, to open and close ports and addresses.
    fn steering(&mut self) -> &mut dyn Steering;
}

/// A transport protocol that has ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
}

/// What of a queue's traffic comes to the stack; all else stays with the kernel. Devices that the kernel does not share
/// accept everything and do nothing here.
pub trait Steering {
    /// Packets of `protocol` to `port`, whatever the address, come to the stack from now on.
    ///
    /// # Errors
    /// When the kernel refuses the map update.
    fn open_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()>;

    /// Packets of `protocol` to `port` go to the kernel again.
    ///
    /// # Errors
    /// When the kernel refuses the map update.
    fn close_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()>;

    /// Everything to `addr` (and ARP or neighbour discovery about it) comes to the stack: it is the stack's alone.
    ///
    /// # Errors
    /// When the kernel refuses the map update.
    fn own_address(&mut self, addr: IpAddr) -> io::Result<()>;

    /// `addr` is the kernel's (again).
    ///
    /// # Errors
    /// When the kernel refuses the map update.
    fn disown_address(&mut self, addr: IpAddr) -> io::Result<()>;
}
