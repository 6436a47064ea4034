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

    /// How many links the device has: 1, or more where it joins several NICs to one pool, so that a packet received on one
    /// link goes out by another without a copy. Links are numbered from 0; the methods above are link 0's.
    fn links(&self) -> usize {
        1
    }

    /// [`Device::capabilities`] of a link.
    fn capabilities_of(&self, _link: usize) -> &Capabilities {
        self.capabilities()
    }

    /// [`Device::receive`] on a link.
    fn receive_on(&mut self, _link: usize, batch: &mut PacketBatch, budget: usize) -> usize {
        self.receive(batch, budget)
    }

    /// [`Device::transmit`] on a link.
    fn transmit_on(&mut self, _link: usize, batch: &mut PacketBatch) -> usize {
        self.transmit(batch)
    }

    /// [`Device::transmit_room`] of a link.
    fn transmit_room_on(&mut self, _link: usize) -> usize {
        self.transmit_room()
    }
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

/// A protocol that has ports, or something in their place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
    /// ICMP (1) and ICMPv6 (58) echo replies; the identifier of our requests is the port.
    Echo,
}

/// What of a queue's traffic comes to the stack; all else stays with the kernel. Devices that the kernel does not share
/// accept everything and do nothing here.
///
/// With addresses of the stack's own ([`AddressUse::Own`](crate::config::AddressUse)) the addresses decide: everything to
/// them comes to the stack, and ports change nothing, but for UDP port 68: DHCP's answers come, once that is open, also
/// by broadcast and to an address that is only offered. With shared addresses
/// ([`AddressUse::Shared`](crate::config::AddressUse)) ports decide, at the addresses that the device was given when it
/// was opened (`QueueOptions::port_addresses` of `bywash-afxdp`): unfragmented packets to an open port, ICMP errors about
/// packets from one, echo replies with an open identifier; the kernel gets none of these. ARP and neighbour discovery go
/// to the kernel, and copies to the stack; all else is the kernel's.
///
/// A packet comes to the queue that the NIC's hash chooses, whichever shard wants it. So a port is open on all queues that
/// one process serves through one attachment from the first `open_port` of any of them to the last one's `close_port`
/// (or end). Queues of other processes know nothing of it: processes that share a NIC and its addresses need the NIC's
/// own filters (`ethtool -N`) to keep their flows apart.
pub trait Steering {
    /// Packets of `protocol` to `port` come to the stack from now on, as described above. Opening a port twice on one queue
    /// is opening it once.
    ///
    /// # Errors
    /// When the kernel refuses the map update.
    fn open_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()>;

    /// This queue no longer needs packets of `protocol` to `port`: they go to the kernel again, unless another queue of
    /// this process has the port open. No error when it was not open.
    ///
    /// # Errors
    /// When the kernel refuses the map update.
    fn close_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()>;

    /// Everything to `addr` (and ARP or neighbour discovery about it) that arrives at this queue comes to the stack: it is
    /// the stack's alone. Each queue's shard owns its addresses itself.
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
