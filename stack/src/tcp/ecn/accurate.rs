//! Accurate ECN (RFC 9768): the counters of both directions, how they go into the three flags (the ACE field) and into
//! the option, and how they are read from there although the flags wrap after eight marks.

use super::super::header::Flags;
use super::super::options::AccurateEcn;
use super::super::seq::SeqNumber;
use super::{CE, ECT0, NOT_ECT};

/// What the packet counters begin with (RFC 9768 section 3.2.1).
const CEP_INITIAL: u32 = 5;
/// What the byte counters of ECT(0) and ECT(1) begin with.
const BYTES_INITIAL: u32 = 1;
/// The bits of a byte counter that the option carries.
const OPTION_MASK: u32 = (1 << 24) - 1;
/// Marks for which an ACK is due, with data that waits for one and without (RFC 9768 section 3.2.2.5.1).
const MARKS_WITH_DATA: u8 = 2;
const MARKS_WITHOUT_DATA: u8 = 3;
/// Most segments an ACK may stand for on average if one that stands for more is to be a sign of lost ACKs (appendix
/// A.2.1: well below 8), times [`EWMA`].
const THINNED_ABOVE: u32 = 4 * EWMA;
/// Weight of the past in that average.
const EWMA: u32 = 8;

/// Counters as RFC 9768 section 3.2 names them, of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tcp) struct Counts {
    /// Packets marked.
    pub(in crate::tcp) cep: u32,
    /// Payload bytes in marked packets.
    pub(in crate::tcp) ceb: u32,
    /// Payload bytes in packets with ECT(0).
    pub(in crate::tcp) e0b: u32,
    /// Payload bytes in packets with ECT(1).
    pub(in crate::tcp) e1b: u32,
}

impl Counts {
    /// What was counted, without what the counters begin with.
    pub(super) fn since_initial(self) -> Self {
        let Self { cep, ceb, e0b, e1b } = self;
        let initial = Self::default();
        Self {
            cep: cep.wrapping_sub(initial.cep),
            ceb: ceb.wrapping_sub(initial.ceb),
            e0b: e0b.wrapping_sub(initial.e0b),
            e1b: e1b.wrapping_sub(initial.e1b),
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self { cep: CEP_INITIAL, ceb: 0, e0b: BYTES_INITIAL, e1b: BYTES_INITIAL }
    }
}

/// What is known of the option from the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Incoming {
    /// None came yet.
    #[default]
    Missing,
    /// It comes.
    Available,
    /// Its first values were zero, which they cannot have been (RFC 9768 section 3.2.3.2.4): it is not read.
    Mangled,
}

/// State of a connection with accurate ECN.
#[derive(Clone, Debug, Default)]
pub(super) struct Accurate {
    /// What arrived here: r.cep and so on.
    pub(super) received: Counts,
    /// What arrived there as far as we heard: s.cep and so on.
    pub(super) delivered: Counts,
    /// The next pure ACK tells the ECN field of the SYN-ACK (section 3.2.2.1).
    pub(super) handshake_ack: Option<u8>,
    /// A SYN-ACK arrived marked.
    syn_ack_marked: bool,
    /// The last packet was marked.
    last_marked: bool,
    /// Marks since the last ACK.
    marks: u8,
    /// Byte counters have changed since the last option, or none was sent yet.
    pub(super) news: bool,
    /// How many of the counters of ECT(1), CE and ECT(0) the next option must have to tell all that has changed since the last.
    needed: u8,
    /// The last ACK told that a segment that began here came twice.
    pub(super) told_duplicate: Option<SeqNumber>,
    /// The first data carries an option too (section 3.2.3.2.1).
    pub(super) greets: bool,
    /// Options seem to get lost (section 3.2.3.2.2): none is sent.
    pub(super) mute: bool,
    incoming: Incoming,
    /// Feedback says nothing: the peer does not take part (section 3.2.2.1, note 1).
    pub(super) deaf: bool,
    /// The flags of the ACK that is processed now are the handshake's, no counter.
    pub(super) skip: bool,
    /// Segments that ACKs stand for on average, times [`EWMA`].
    thinning: u32,
}

/// What an ACK told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Told {
    /// Packets newly marked.
    pub(super) packets: u32,
    /// Payload bytes newly marked; 0 without option.
    pub(super) bytes: u32,
    /// The option tells of marks and the counter does not (section 3.2.3.2.5).
    pub(super) contradicts: bool,
}

/// The three flags for a number of three bits.
pub(super) fn ace_flags(value: u32) -> Flags {
    Flags((value as u16 & 7) << 6)
}

/// The number in the three flags.
pub(super) fn ace(flags: Flags) -> u32 {
    u32::from(flags.0 >> 6 & 7)
}

/// How an ECN field is told during the handshake (RFC 9768 tables 2 and 3).
pub(super) fn handshake_encoding(ecn: u8) -> u32 {
    match ecn {
        NOT_ECT => 0b010,
        ECT0 => 0b100,
        CE => 0b110,
        _ => 0b011,
    }
}

impl Accurate {
    // ---- the receiver

    /// Counts `packets` acceptable packets, merged into one if there are several, with `len` bytes of payload, of which
    /// `waiting` are not acknowledged or more are; whether an ACK is due at once (RFC 9768 sections 3.2 and 3.2.2.5.1).
    pub(super) fn arrived(&mut self, ecn: u8, packets: u16, len: u32, waiting: bool) -> bool {
        let marked = ecn == CE;
        let changed = marked && len > 0 && !self.last_marked;
        self.last_marked = marked;
        let counter = match ecn {
            NOT_ECT => return false,
            CE => &mut self.received.ceb,
            ECT0 => &mut self.received.e0b,
            _ => &mut self.received.e1b,
        };
        *counter = counter.wrapping_add(len);
        self.news |= len > 0;
        if len > 0 {
            let place = match ecn {
                CE => 2,
                ECT0 => 3,
                _ => 1,
            };
            self.needed = self.needed.max(place);
        }
        if marked {
            self.received.cep = self.received.cep.wrapping_add(u32::from(packets));
            self.marks = u16::from(self.marks).saturating_add(packets).min(u16::from(u8::MAX)) as u8;
        }
        changed || self.marks >= if waiting { MARKS_WITH_DATA } else { MARKS_WITHOUT_DATA }
    }

    /// A SYN-ACK arrived with this ECN field. It counts once however many of them are marked (RFC 9768 section
    /// 3.2.2.2).
    pub(super) fn syn_ack_arrived(&mut self, ecn: u8) {
        self.handshake_ack = Some(ecn);
        if ecn == CE && !core::mem::replace(&mut self.syn_ack_marked, true) {
            self.received.cep = self.received.cep.wrapping_add(1);
        }
    }

    /// The flags of a segment without SYN; `pure`: an ACK by itself.
    pub(super) fn flags(&self, pure: bool) -> Flags {
        match self.handshake_ack.filter(|_| pure) {
            Some(ecn) => ace_flags(handshake_encoding(ecn)),
            None => ace_flags(self.received.cep),
        }
    }

    /// The option that tells all byte counters: on a SYN-ACK.
    pub(super) fn whole_option(&self) -> AccurateEcn {
        self.first_fields(3)
    }

    /// The option with the first `count` counters of ECT(1), CE and ECT(0), in that order.
    pub(super) fn first_fields(&self, count: usize) -> AccurateEcn {
        let Counts { ceb, e0b, e1b, .. } = self.received;
        AccurateEcn::new(true, &[e1b, ceb, e0b][..count.min(3)])
    }

    /// How many of those counters go into `room` bytes of options beside `blocks` SACK blocks: all, or as few as tell what
    /// changed. All but two blocks give way to that (RFC 9768 section 3.2.3.3). 0: no option.
    pub(super) fn fitting_fields(&self, room: usize, blocks: usize) -> usize {
        let needed = usize::from(self.needed.max(1));
        let most_blocks = blocks.min(room.saturating_sub(4) / 8);
        for blocks in (most_blocks.min(2)..=most_blocks).rev() {
            let taken = if blocks == 0 { 0 } else { 4 + 8 * blocks };
            let fits = |count: &usize| taken + (2 + 3 * count).next_multiple_of(4) <= room;
            if let Some(count) = (needed..=3).rev().find(fits) {
                return count;
            }
        }
        0
    }

    /// The peer has sent the option.
    pub(super) fn is_heard(&self) -> bool {
        self.incoming != Incoming::Missing
    }

    /// The option for an ACK: every counter that has changed ever, in the order that needs fewer fields (RFC 9768
    /// section 3.2.3.3); `None` when there is nothing to tell. `first_data`: of ours.
    pub(super) fn option(&self, first_data: bool) -> Option<AccurateEcn> {
        if self.mute || !(self.news || (self.greets && first_data)) {
            return None;
        }
        let Counts { ceb, e0b, e1b, .. } = self.received;
        let changed = (e0b != BYTES_INITIAL, ceb != 0, e1b != BYTES_INITIAL);
        Some(match changed {
            (false, false, false) | (true, _, true) => self.whole_option(),
            (true, false, false) => AccurateEcn::new(false, &[e0b]),
            (_, true, false) => AccurateEcn::new(false, &[e0b, ceb]),
            (false, false, true) => AccurateEcn::new(true, &[e1b]),
            (false, true, true) => AccurateEcn::new(true, &[e1b, ceb]),
        })
    }

    /// A segment with ACK went out.
    pub(super) fn sent(&mut self, pure: bool, with_option: bool) {
        self.marks = 0;
        self.news &= !with_option;
        if with_option {
            self.needed = 0;
        }
        if pure {
            self.handshake_ack = None;
        }
    }

    // ---- the sender

    /// The option of the first segment that acknowledges our SYN (RFC 9768 sections 3.2.3.2.3 and 3.2.3.2.4).
    pub(super) fn take_first_option(&mut self, option: Option<AccurateEcn>) {
        let Some(option) = option else { return };
        let is_zero = [option.e0b(), option.e1b()].contains(&Some(0));
        self.incoming = if is_zero { Incoming::Mangled } else { Incoming::Available };
        self.take_option(Some(option));
    }

    /// Moves the byte counters on; the marked bytes that are new.
    fn take_option(&mut self, option: Option<AccurateEcn>) -> Option<u32> {
        let option = option.filter(|_| self.incoming != Incoming::Mangled)?;
        self.incoming = Incoming::Available;
        let advance = |counter: &mut u32, field: Option<u32>| {
            let delta = field.map_or(0, |field| field.wrapping_sub(*counter) & OPTION_MASK);
            *counter = counter.wrapping_add(delta);
            delta
        };
        advance(&mut self.delivered.e0b, option.e0b());
        advance(&mut self.delivered.e1b, option.e1b());
        Some(advance(&mut self.delivered.ceb, option.ceb()))
    }

    /// Reads the feedback of an ACK that no later one has superseded, by which `segments` of at most `mss` bytes
    /// arrived (appendices A.1 and A.2).
    pub(super) fn take(
        &mut self,
        flags: Flags,
        option: Option<AccurateEcn>,
        segments: u32,
        mss: u32,
    ) -> Told {
        let bytes = self.take_option(option);
        let segments_scaled = segments.min(0xffff) * EWMA;
        self.thinning = match self.thinning {
            0 => segments_scaled,
            old if segments > 0 => old - old / EWMA + segments_scaled / EWMA,
            old => old,
        };
        let least = ace(flags).wrapping_sub(self.delivered.cep) & 7;
        let packets = self.resolve(least, bytes, segments, mss);
        self.delivered.cep = self.delivered.cep.wrapping_add(packets);
        let contradicts = packets == 0 && segments < 8 && bytes.is_some_and(|bytes| bytes > 0);
        Told { packets, bytes: bytes.unwrap_or(0), contradicts }
    }

    /// How many marks it was if the flags tell `least` at least: they may have wrapped.
    fn resolve(&self, least: u32, bytes: Option<u32>, segments: u32, mss: u32) -> u32 {
        if segments <= least {
            return least;
        }
        let safest = segments - (segments - least) % 8;
        if safest == least {
            return least;
        }
        let is_enough = match bytes {
            // Marks were so small that there cannot have been so many: the average would be below half a segment.
            Some(bytes) => u64::from(bytes) <= u64::from(mss) * u64::from(least) && bytes / safest < mss / 2,
            // ACKs are few on this path anyway.
            None => self.thinning > THINNED_ABOVE,
        };
        if is_enough { least } else { safest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MSS: u32 = 1460;

    fn after(cep: u32) -> Accurate {
        Accurate { delivered: Counts { cep, ..Counts::default() }, ..Accurate::default() }
    }

    #[test]
    fn the_flags_count_marks_modulo_eight() {
        let mut receiver = Accurate::default();
        for mark in 0..20 {
            assert_eq!(ace(receiver.flags(true)), (5 + mark) % 8);
            receiver.arrived(CE, 1, 0, false);
        }
    }

    #[test]
    fn the_safest_likely_number_of_marks_is_taken_without_options() {
        // Appendix A.2.1's examples.
        let often = || {
            let mut sender = after(5);
            sender.take(ace_flags(5), None, 1, MSS);
            sender
        };
        assert_eq!(often().take(ace_flags(7), None, 9, MSS).packets, 2);
        assert_eq!(often().take(ace_flags(7), None, 10, MSS).packets, 10);
        // One ACK for all that was sent is no sign of lost ACKs by itself.
        assert_eq!(after(5).take(ace_flags(7), None, 10, MSS).packets, 2);
        // More marks than segments: the counter is believed (section 3.2.2.5.2).
        assert_eq!(after(5).take(ace_flags(7), None, 1, MSS).packets, 2);
        // Where ACKs always stand for many segments, a jump is no sign of lost ACKs.
        let mut thinned = after(5);
        for _ in 0..30 {
            let flags = ace_flags(thinned.delivered.cep);
            thinned.take(flags, None, 7, MSS);
        }
        let flags = ace_flags(thinned.delivered.cep + 2);
        assert_eq!(thinned.take(flags, None, 10, MSS).packets, 2);
    }

    #[test]
    fn marked_bytes_tell_whether_the_counter_wrapped() {
        // Appendix A.2.2's examples: d.cep, dSafer.cep, d.ceb and what comes of them.
        for (least, segments, bytes, expected) in [(0, 8, 1460, 8), (2, 10, 1460, 2), (7, 15, 10_200, 7)] {
            let option = AccurateEcn::new(false, &[1, bytes]);
            let mut sender = after(5);
            assert_eq!(sender.take(ace_flags(5 + least), Some(option), segments, MSS).packets, expected);
            assert_eq!(sender.delivered.ceb, bytes);
        }
    }

    #[test]
    fn byte_counters_wrap_after_24_bits() {
        // Appendix A.1's example.
        let mut sender = after(5);
        sender.delivered.ceb = 33_554_433;
        let told = sender.take(ace_flags(6), Some(AccurateEcn::new(false, &[1, 1461])), 1, MSS);
        assert_eq!((told.bytes, sender.delivered.ceb), (1460, 33_555_893));
    }

    #[test]
    fn options_with_zeroed_counters_are_not_read() {
        // Section 3.2.3.2.4.
        let mut sender = Accurate::default();
        sender.take_first_option(Some(AccurateEcn::new(false, &[0, 0, 0])));
        assert_eq!(
            sender.take(ace_flags(5), Some(AccurateEcn::new(false, &[1, 500])), 1, MSS),
            Told::default()
        );
    }

    #[test]
    fn marked_bytes_without_a_marked_packet_contradict() {
        let mut sender = Accurate::default();
        assert!(sender.take(ace_flags(5), Some(AccurateEcn::new(false, &[1, 500])), 1, MSS).contradicts);
    }

    #[test]
    fn the_option_tells_what_ever_changed_in_the_shorter_order() {
        let arrived = |codepoints: &[u8]| {
            let mut receiver = Accurate::default();
            codepoints.iter().for_each(|ecn| {
                receiver.arrived(*ecn, 1, 100, true);
            });
            receiver.option(false)
        };
        assert_eq!(arrived(&[]), None);
        assert_eq!(arrived(&[NOT_ECT]), None);
        assert_eq!(arrived(&[ECT0]), Some(AccurateEcn::new(false, &[101])));
        assert_eq!(arrived(&[CE]), Some(AccurateEcn::new(false, &[1, 100])));
        assert_eq!(arrived(&[1]), Some(AccurateEcn::new(true, &[101])));
        assert_eq!(arrived(&[1, CE]), Some(AccurateEcn::new(true, &[101, 100])));
        assert_eq!(arrived(&[1, CE, ECT0]), Some(AccurateEcn::new(true, &[101, 100, 101])));
    }

    #[test]
    fn counters_at_the_end_give_way_to_sack_blocks_unless_they_have_changed() {
        let mut receiver = Accurate::default();
        // Room beside timestamps, and without.
        assert_eq!((receiver.fitting_fields(28, 1), receiver.fitting_fields(28, 2)), (3, 2));
        assert_eq!(receiver.fitting_fields(40, 4), 3);
        receiver.arrived(1, 1, 100, true);
        assert_eq!((receiver.fitting_fields(28, 3), receiver.first_fields(2).e1b()), (2, Some(101)));
        receiver.arrived(ECT0, 1, 100, true);
        // The last counter has changed: one block of three goes, but none of two.
        assert_eq!((receiver.fitting_fields(40, 4), receiver.fitting_fields(28, 2)), (3, 0));
        receiver.sent(true, true);
        assert_eq!(receiver.fitting_fields(28, 2), 2);
    }

    #[test]
    fn acks_are_due_when_marks_begin_and_for_every_few_of_them() {
        // Section 3.2.2.5.1.
        let mut receiver = Accurate::default();
        assert!(!receiver.arrived(ECT0, 1, 100, true));
        assert!(receiver.arrived(CE, 1, 100, true), "marks begin");
        receiver.sent(true, true);
        assert!(!receiver.arrived(CE, 1, 100, true));
        assert!(receiver.arrived(CE, 1, 100, true), "two marks");
        receiver.sent(true, true);
        assert!(!receiver.arrived(CE, 1, 0, false));
        assert!(!receiver.arrived(CE, 1, 0, false));
        assert!(receiver.arrived(CE, 1, 0, false), "three marks without data");
    }

    proptest! {
        #[test]
        fn the_sender_follows_the_receiver_whatever_is_marked(
            packets in prop::collection::vec((0u8..=3, 1u32..=MSS), 1..200), every in 1usize..=7,
        ) {
            let (mut receiver, mut sender) = (Accurate::default(), Accurate::default());
            for burst in packets.chunks(every) {
                for (ecn, len) in burst {
                    receiver.arrived(*ecn, 1, *len, true);
                }
                sender.take(receiver.flags(true), receiver.option(false), burst.len() as u32, MSS);
                receiver.sent(true, true);
                prop_assert_eq!(sender.delivered, receiver.received);
            }
        }
    }
}
