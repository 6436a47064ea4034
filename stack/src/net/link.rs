//! One link's way out: its Ethernet address, MTU and neighbours, the packets that wait for its device, and what is still to
//! be said of our addresses on it.

use smoltcp::wire::EthernetAddress;

use super::announce::Announcer;
use super::neighbor::Neighbors;
use crate::limits;
use crate::packet::PacketBatch;

/// What went over a link, Ethernet headers included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkTraffic {
    /// Packets received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

impl LinkTraffic {
    /// Adds what went over another queue of the link.
    pub fn add(&mut self, other: &Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
    }
}

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
    pub(crate) traffic: LinkTraffic,
}

impl Link {
    /// `mtu`: at most what [`super::egress::mtu_in_frames`] allows.
    pub(crate) fn new(mac: EthernetAddress, mtu: usize, neighbors: Neighbors) -> Self {
        Self {
            mac,
            mtu,
            neighbors,
            announcer: Announcer::default(),
            backlog: PacketBatch::new(),
            traffic: LinkTraffic::default(),
        }
    }

    /// Whether a whole packet may be added to the backlog. One packet's fragments may then exceed the bound.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog.len() < limits::TX_BACKLOG_PACKETS
    }
}
