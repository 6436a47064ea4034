//! One link's way out: its Ethernet address, MTU and neighbours, the packets that wait for its device, and what is still to
//! be said of our addresses on it.

use smoltcp::wire::EthernetAddress;

use super::announce::Announcer;
use super::neighbor::Neighbors;
use crate::limits;
use crate::packet::PacketBatch;

/// A link as [`super::egress::Output`] sees it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) mac: EthernetAddress,
    /// The largest IP packet in bytes.
    pub(crate) mtu: usize,
    pub(crate) neighbors: Neighbors,
    pub(crate) announcer: Announcer,
    /// What waits for the device.
    pub(crate) backlog: PacketBatch,
}

impl Link {
    /// `mtu`: at most what [`super::egress::mtu_in_frames`] allows.
    pub(crate) fn new(mac: EthernetAddress, mtu: usize, neighbors: Neighbors) -> Self {
        Self { mac, mtu, neighbors, announcer: Announcer::default(), backlog: PacketBatch::new() }
    }

    /// Whether a whole packet may be added to the backlog. One packet's fragments may then exceed the bound.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog.len() < limits::TX_BACKLOG_PACKETS
    }
}
