//! One direction of a simulated cable: delay, jitter, rate with a tail-drop queue, MTU, faults. A frame goes in at a time
//! and comes out as zero, one or two arrivals at later times, which the [`super::World`] then delivers.

use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet};

use super::dice::Dice;
use super::fault::{self, FaultState, Faults};
use crate::time::{Duration, Instant};

/// Bytes of an Ethernet header, which the MTU does not count.
const ETHERNET_HEADER: usize = 14;

/// How a link carries frames. The default is ideal: no delay, no limit, no fault.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Time from the last bit sent to the last bit received.
    pub delay: Duration,
    /// Further delay, drawn per frame from zero to this; it never reorders (see [`Faults::reorder`]).
    pub jitter: Duration,
    /// Bits per second; `None`: no serialisation time and no queue.
    pub rate_bits_per_second: Option<u64>,
    /// Bytes that may wait to be sent at the rate; a frame that does not fit is dropped.
    pub queue_bytes: usize,
    /// Bytes waiting beyond which an ECN-capable frame is marked (RFC 3168 section 5); `None`: never.
    pub mark_above_bytes: Option<usize>,
    /// Largest IP packet, in bytes; longer ones are dropped, as a switch does.
    pub mtu: usize,
    /// What goes wrong.
    pub faults: Faults,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate_bits_per_second: None,
            queue_bytes: 256 << 10,
            mark_above_bytes: None,
            mtu: 65_535,
            faults: Faults::default(),
        }
    }
}

/// What a link did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkStats {
    /// Frames offered.
    pub offered: u64,
    /// Arrivals scheduled, duplicates included.
    pub delivered: u64,
    /// Frames lost to faults and partitions.
    pub lost: u64,
    /// Frames that the queue had no room for.
    pub queue_full: u64,
    /// Frames marked because more than [`LinkConfig::mark_above_bytes`] waited.
    pub marked: u64,
    /// Frames longer than the MTU.
    pub too_long: u64,
    /// Arrivals that were damaged.
    pub corrupted: u64,
    /// Frames dropped by the filter.
    pub filtered: u64,
}

/// A hook that sees each frame before anything else happens to it, may change it, and says whether it goes on.
pub type Filter = Box<dyn FnMut(Instant, &mut Vec<u8>) -> bool>;

/// One direction of a cable.
pub struct Link {
    /// How it carries frames; may be changed between steps.
    pub config: LinkConfig,
    /// What it did so far.
    pub stats: LinkStats,
    filter: Option<Filter>,
    dice: Dice,
    state: FaultState,
    /// When the last queued bit has left.
    busy_until: Instant,
    /// The latest arrival that was not held back: later frames do not overtake it.
    last_arrival: Instant,
}

impl Link {
    /// A link whose random numbers are `dice`.
    #[must_use]
    pub fn new(config: LinkConfig, dice: Dice) -> Self {
        Self {
            config,
            stats: LinkStats::default(),
            filter: None,
            dice,
            state: FaultState::default(),
            busy_until: Instant::ZERO,
            last_arrival: Instant::ZERO,
        }
    }

    /// Sets (or removes) a hook for scripted faults: drop the third SYN, edit an option, watch a field.
    pub fn set_filter(&mut self, filter: Option<Filter>) {
        self.filter = filter;
    }

    /// Carries `frame`, sent at `now`: calls `arrive` for each time it arrives.
    pub fn carry(&mut self, now: Instant, mut frame: Vec<u8>, mut arrive: impl FnMut(Instant, Vec<u8>)) {
        self.stats.offered += 1;
        if let Some(filter) = &mut self.filter
            && !filter(now, &mut frame)
        {
            self.stats.filtered += 1;
            return;
        }
        if frame.len() > self.config.mtu + ETHERNET_HEADER {
            self.stats.too_long += 1;
            return;
        }
        let queued_bytes = self.queued_bytes(now);
        let Some(sent) = self.serialise(now, frame.len()) else {
            self.stats.queue_full += 1;
            return;
        };
        if self.config.mark_above_bytes.is_some_and(|limit| queued_bytes > limit) && mark(&mut frame) {
            self.stats.marked += 1;
        }
        let fate = self.state.draw(&self.config.faults, now, &mut self.dice);
        if fate.lost {
            self.stats.lost += 1;
            return;
        }
        let in_order =
            (sent + self.config.delay + self.dice.duration(self.config.jitter)).max(self.last_arrival);
        if fate.held_back.is_zero() {
            self.last_arrival = in_order;
        }
        if fate.duplicate {
            let copy_at = in_order + self.dice.duration(self.config.faults.reorder_delay);
            self.arrive(copy_at, frame.clone(), &mut arrive);
        }
        self.arrive(in_order + fate.held_back, frame, &mut arrive);
    }

    /// Bytes that wait to be sent at `now`, the frame being sent included.
    #[must_use]
    pub fn queued_bytes(&self, now: Instant) -> usize {
        let Some(rate) = self.config.rate_bits_per_second else { return 0 };
        let backlog = self.busy_until.saturating_since(now);
        (backlog.as_nanos() * u128::from(rate) / 8 / 1_000_000_000) as usize
    }

    fn arrive(&mut self, at: Instant, mut frame: Vec<u8>, arrive: &mut impl FnMut(Instant, Vec<u8>)) {
        if fault::corrupt(&self.config.faults, &mut frame, &mut self.dice) {
            self.stats.corrupted += 1;
        }
        self.stats.delivered += 1;
        arrive(at, frame);
    }

    /// When the last bit of a frame of `len` bytes leaves, or `None` when the queue is full.
    fn serialise(&mut self, now: Instant, len: usize) -> Option<Instant> {
        let Some(rate) = self.config.rate_bits_per_second else { return Some(now) };
        let queued_bytes = self.queued_bytes(now);
        // A frame that finds the line idle always goes, however small the queue.
        if self.busy_until > now && queued_bytes + len > self.config.queue_bytes {
            return None;
        }
        let nanos = len as u64 * 8 * 1_000_000_000 / rate.max(1);
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanos);
        Some(self.busy_until)
    }
}

/// Marks the IP packet in a frame as having met congestion, if it is ECN-capable; whether it is.
fn mark(frame: &mut [u8]) -> bool {
    const CE: u8 = 3;
    let is_capable = |ecn: u8| ecn == 1 || ecn == 2;
    let Ok(mut ethernet) = EthernetFrame::new_checked(frame) else { return false };
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let Ok(mut ip) = Ipv4Packet::new_checked(ethernet.payload_mut()) else { return false };
            let capable = is_capable(ip.ecn());
            if capable {
                ip.set_ecn(CE);
                ip.fill_checksum();
            }
            capable
        }
        EthernetProtocol::Ipv6 => {
            let Ok(mut ip) = Ipv6Packet::new_checked(ethernet.payload_mut()) else { return false };
            let capable = is_capable(ip.traffic_class() & CE);
            if capable {
                ip.set_traffic_class(ip.traffic_class() | CE);
            }
            capable
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(link: &mut Link, now: Instant, len: usize) -> Vec<Instant> {
        let mut times = Vec::new();
        link.carry(now, vec![0; len], |at, _| times.push(at));
        times
    }

    #[test]
    fn rate_and_delay_add_up_and_the_queue_is_bounded() {
        let config = LinkConfig {
            delay: Duration::from_millis(5),
            rate_bits_per_second: Some(8_000_000),
            queue_bytes: 2500,
            ..LinkConfig::default()
        };
        let mut link = Link::new(config, Dice::new(1, 1));
        // 1000 bytes at one byte a microsecond.
        assert_eq!(arrivals(&mut link, Instant::ZERO, 1000), [Instant::from_millis(6)]);
        assert_eq!(arrivals(&mut link, Instant::ZERO, 1000), [Instant::from_millis(7)]);
        assert_eq!(arrivals(&mut link, Instant::ZERO, 1000), []);
        assert_eq!(link.stats.queue_full, 1);
        assert_eq!(arrivals(&mut link, Instant::from_millis(100), 1000), [Instant::from_millis(106)]);
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let mut config = LinkConfig { jitter: Duration::from_millis(50), ..LinkConfig::default() };
        let in_order = |config: LinkConfig| {
            let mut link = Link::new(config, Dice::new(9, 1));
            let times: Vec<_> =
                (0..200).flat_map(|i| arrivals(&mut link, Instant::from_millis(i), 60)).collect();
            times.is_sorted()
        };
        assert!(in_order(config.clone()));
        config.faults.reorder = 0.2;
        config.faults.reorder_delay = Duration::from_millis(20);
        assert!(!in_order(config));
    }

    #[test]
    fn too_long_and_filtered_frames_do_not_arrive() {
        let mut link = Link::new(LinkConfig { mtu: 100, ..LinkConfig::default() }, Dice::new(1, 1));
        assert_eq!(arrivals(&mut link, Instant::ZERO, 115), []);
        assert_eq!(arrivals(&mut link, Instant::ZERO, 114).len(), 1);
        link.set_filter(Some(Box::new(|_, frame| frame.len() < 50)));
        assert_eq!(arrivals(&mut link, Instant::ZERO, 60), []);
        assert_eq!((link.stats.too_long, link.stats.filtered), (1, 1));
    }
}
