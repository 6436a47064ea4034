//! What a link does to frames besides carrying them: loss (also in bursts), duplication, reordering, corruption,
//! partitions.

use super::dice::Dice;
use crate::time::{Duration, Instant};

/// Ethernet header's length: corruption begins behind it.
const ETHERNET_HEADER: usize = 14;

/// The faults of one direction of a link. The default has none.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Probability that a loss begins with a frame.
    pub loss: f64,
    /// Frames a loss takes, 1 to this many in a row (at least 1).
    pub loss_burst_packets: u64,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
    /// Probability that a frame is held back, so that later ones overtake it.
    pub reorder: f64,
    /// Longest time a frame is held back.
    pub reorder_delay: Duration,
    /// Shortest time a frame is held back; as long as the longest, all are overtaken by as many packets of a full link.
    pub reorder_delay_min: Duration,
    /// Probability that an IP packet is damaged: one bit flipped, or the end cut off. The Ethernet header and ARP are
    /// spared, for nothing but the frame check sequence protects those and a real NIC drops what fails it; one flipped
    /// bit is what the Internet checksum always finds.
    pub corrupt: f64,
    /// Times (from, until) during which nothing passes.
    pub partitions: Vec<(Instant, Instant)>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 0.0,
            loss_burst_packets: 1,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(10),
            reorder_delay_min: Duration::ZERO,
            corrupt: 0.0,
            partitions: Vec::new(),
        }
    }
}

/// What happens to one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Fate {
    pub lost: bool,
    pub duplicate: bool,
    pub held_back: Duration,
}

/// Draws fates; holds the state of a burst.
#[derive(Clone, Debug, Default)]
pub(super) struct FaultState {
    burst_left: u64,
}

impl FaultState {
    /// The fate of a frame sent at `now`.
    pub fn draw(&mut self, faults: &Faults, now: Instant, dice: &mut Dice) -> Fate {
        let lost = if self.burst_left > 0 {
            self.burst_left -= 1;
            true
        } else if dice.chance(faults.loss) {
            self.burst_left = dice.range(1..=faults.loss_burst_packets.max(1)) - 1;
            true
        } else {
            false
        };
        let partitioned = faults.partitions.iter().any(|&(from, until)| from <= now && now < until);
        let duplicate = dice.chance(faults.duplicate);
        let held_back = if dice.chance(faults.reorder) {
            faults.reorder_delay_min
                + dice.duration(faults.reorder_delay.saturating_sub(faults.reorder_delay_min))
        } else {
            Duration::ZERO
        };
        Fate { lost: lost || partitioned, duplicate, held_back }
    }
}

/// Damages `frame` with the probability of `faults`; returns whether it did.
pub(super) fn corrupt(faults: &Faults, frame: &mut Vec<u8>, dice: &mut Dice) -> bool {
    let ip = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd])) && frame.len() > ETHERNET_HEADER;
    if !ip || !dice.chance(faults.corrupt) {
        return false;
    }
    if dice.chance(0.1) {
        frame.truncate(dice.range(ETHERNET_HEADER as u64..=frame.len() as u64 - 1) as usize);
    } else {
        let bit = dice.range(ETHERNET_HEADER as u64 * 8..=frame.len() as u64 * 8 - 1) as usize;
        frame[bit / 8] ^= 1 << (bit % 8);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_takes_frames_in_a_row() {
        let faults = Faults { loss: 0.05, loss_burst_packets: 8, ..Faults::default() };
        let mut state = FaultState::default();
        let mut dice = Dice::new(1, 1);
        let lost: Vec<bool> =
            (0..10_000).map(|_| state.draw(&faults, Instant::ZERO, &mut dice).lost).collect();
        let longest = lost.split(|&lost| !lost).map(<[bool]>::len).max().unwrap();
        assert!(longest >= 6, "{longest}");
        assert!(lost.iter().filter(|&&lost| lost).count() < 4000);
    }

    #[test]
    fn nothing_passes_a_partition() {
        let window = (Instant::from_millis(10), Instant::from_millis(20));
        let faults = Faults { partitions: vec![window], ..Faults::default() };
        let mut state = FaultState::default();
        let mut lost = |ms| state.draw(&faults, Instant::from_millis(ms), &mut Dice::new(1, 1)).lost;
        assert_eq!([lost(9), lost(10), lost(19), lost(20)], [false, true, true, false]);
    }

    #[test]
    fn corruption_spares_arp_and_the_ethernet_header() {
        let faults = Faults { corrupt: 1.0, ..Faults::default() };
        let mut dice = Dice::new(1, 1);
        let mut arp = vec![0; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert!(!corrupt(&faults, &mut arp, &mut dice));
        for _ in 0..1000 {
            let mut frame = vec![0; 60];
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            let before = frame.clone();
            assert!(corrupt(&faults, &mut frame, &mut dice));
            assert_eq!(frame[..14], before[..14]);
            assert_ne!(frame, before);
        }
    }
}
