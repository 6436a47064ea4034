//! One link's way out: its Ethernet address, MTU and neighbours, the packets that wait for its device, and what is still to
//! be said of our addresses on it.

use core::net::IpAddr;

use smoltcp::wire::EthernetAddress;

use super::announce::Announcer;
use super::neighbor::Neighbors;
use super::router_advert::Advertiser;
use crate::limits;
use crate::packet::PacketBatch;
use crate::time::Instant;

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
    /// Tells hosts of this router; `None`: nobody does.
    pub(crate) advertiser: Option<Advertiser>,
    /// What waits for the device.
    pub(crate) backlog: PacketBatch,
    pub(crate) traffic: LinkTraffic,
    pub(crate) last_neighbor: Option<LastNeighbor>,
}

/// The last neighbour that a packet, not TCP's, went to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastNeighbor {
    pub(crate) addr: IpAddr,
    pub(crate) mac: EthernetAddress,
    /// [`Neighbors::generation`].
    pub(crate) generation: u64,
    pub(crate) until: Instant,
}

impl Link {
    /// `mtu`: at most what [`super::egress::mtu_in_frames`] allows.
    pub(crate) fn new(mac: EthernetAddress, mtu: usize, neighbors: Neighbors) -> Self {
        Self {
            mac,
            mtu,
            neighbors,
            announcer: Announcer::default(),
            advertiser: None,
            backlog: PacketBatch::new(),
            traffic: LinkTraffic::default(),
            last_neighbor: None,
        }
    }

    /// Whether a neighbour is to be asked for or given up, or an address or this router to be spoken of.
    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_deadline().is_some_and(|at| at <= now)
    }

    /// When [`Link::is_due`] next says so.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let advertiser = self.advertiser.as_ref().and_then(Advertiser::next_deadline);
        [self.neighbors.next_deadline(), self.announcer.next_deadline(), advertiser]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a whole packet may be added to the backlog. One packet's fragments may then exceed the bound.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog.len() < limits::TX_BACKLOG_PACKETS
    }
}
