//! A view of a segment's fixed header (RFC 9293 section 3.1), read once when the segment enters the engine.

use core::fmt;
use core::ops::{BitAnd, BitOr, BitOrAssign, Not};

use super::seq::SeqNumber;

/// The control bits, as they lie in the header's bytes 12 and 13 without the data offset.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Flags(pub u16);

impl Flags {
    /// No bit set.
    pub const NONE: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x001);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x002);
    /// Reset the connection.
    pub const RST: Self = Self(0x004);
    /// Push.
    pub const PSH: Self = Self(0x008);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(0x010);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x020);
    /// ECN echo (RFC 3168 section 6.1).
    pub const ECE: Self = Self(0x040);
    /// Congestion window reduced (RFC 3168 section 6.1).
    pub const CWR: Self = Self(0x080);
    /// Accurate ECN (RFC 9768 section 3.1), once the nonce sum.
    pub const AE: Self = Self(0x100);
    /// The former name of [`Flags::AE`].
    pub const NS: Self = Self::AE;

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What of a super-segment's bits one of the segments cut from it has: those in `first_only` if it is the first, FIN
    /// and PSH if it is the last, all others always.
    #[must_use]
    pub fn of_part(self, first_only: Self, is_first: bool, is_last: bool) -> Self {
        let not_here = if is_first { Self::NONE } else { first_only };
        let not_yet = if is_last { Self::NONE } else { Self::FIN | Self::PSH };
        Self(self.0 & !(not_here | not_yet).0)
    }

    /// Both sets of bits, for constants.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Flags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Flags {
    type Output = Self;
    /// The other eight control bits.
    fn not(self) -> Self {
        Self(!self.0 & 0x1ff)
    }
}

impl fmt::Debug for Flags {
    /// One letter a bit as tcpdump prints them: `S.` is SYN and ACK; `none` without any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LETTERS: [(Flags, &str); 9] = [
            (Flags::FIN, "F"),
            (Flags::SYN, "S"),
            (Flags::RST, "R"),
            (Flags::PSH, "P"),
            (Flags::ACK, "."),
            (Flags::URG, "U"),
            (Flags::ECE, "E"),
            (Flags::CWR, "W"),
            (Flags::AE, "e"),
        ];
        if *self == Self::NONE {
            return f.write_str("none");
        }
        LETTERS
            .iter()
            .filter(|(flag, _)| self.contains(*flag))
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// The fixed header's fields. The options follow at byte 20 and end at `header_len`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte, or of the SYN.
    pub seq: SeqNumber,
    /// Next sequence number the sender expects; means something with [`Flags::ACK`] only.
    pub ack: SeqNumber,
    /// Header with options, in bytes: 20 to 60, and inside the segment.
    pub header_len: usize,
    /// Control bits.
    pub flags: Flags,
    /// Window, not yet scaled.
    pub window: u16,
    /// Checksum field as it stands.
    pub checksum: u16,
    /// Urgent pointer as it stands.
    pub urgent: u16,
}

/// Bytes in a header without options.
pub const HEADER_LEN: usize = 20;

impl TcpHeader {
    /// Reads the header at the front of `segment`; `None` when the data offset is below 5 words or past the end.
    #[must_use]
    pub fn parse(segment: &[u8]) -> Option<Self> {
        let fixed: &[u8; HEADER_LEN] = segment.first_chunk()?;
        let be16 = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let be32 = |at: usize| {
            SeqNumber(u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]))
        };
        let header_len = usize::from(fixed[12] >> 4) * 4;
        (HEADER_LEN..=segment.len()).contains(&header_len).then(|| Self {
            src_port: be16(0),
            dst_port: be16(2),
            seq: be32(4),
            ack: be32(8),
            header_len,
            flags: Flags(be16(12) & 0x1ff),
            window: be16(14),
            checksum: be16(16),
            urgent: be16(18),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYN_ACK: [u8; 24] = [
        0x12, 0x34, 0x00, 0x50, 0xff, 0xff, 0xff, 0xfe, 0x80, 0, 0, 1, 0x60, 0x12, 0xfa, 0xf0, 0xab, 0xcd, 0,
        7, 2, 4, 5, 0xb4,
    ];

    #[test]
    fn every_field_is_read_from_its_place() {
        assert_eq!(
            TcpHeader::parse(&SYN_ACK),
            Some(TcpHeader {
                src_port: 0x1234,
                dst_port: 80,
                seq: SeqNumber(0xffff_fffe),
                ack: SeqNumber(0x8000_0001),
                header_len: 24,
                flags: Flags::SYN | Flags::ACK,
                window: 0xfaf0,
                checksum: 0xabcd,
                urgent: 7,
            })
        );
    }

    #[test]
    fn all_nine_control_bits_are_seen_and_the_reserved_ones_are_not() {
        let mut segment = SYN_ACK;
        (segment[12], segment[13]) = (0x6f, 0xff);
        let flags = TcpHeader::parse(&segment).unwrap().flags;
        assert_eq!(flags, Flags(0x1ff));
        assert_eq!(format!("{flags:?}"), "FSRP.UEWe");
        assert_eq!(format!("{:?}", !flags), "none");
    }

    #[test]
    fn the_parts_of_a_super_segment_have_the_bits_that_are_theirs() {
        let whole = Flags::ACK | Flags::PSH | Flags::FIN | Flags::CWR | Flags::ECE;
        let part = |first, last| whole.of_part(Flags::CWR, first, last);
        assert_eq!(part(true, true), whole);
        assert_eq!(part(true, false), Flags::ACK | Flags::CWR | Flags::ECE);
        assert_eq!(part(false, false), Flags::ACK | Flags::ECE);
        assert_eq!(part(false, true), Flags::ACK | Flags::PSH | Flags::FIN | Flags::ECE);
        assert_eq!(whole.of_part(Flags::NONE, false, false), Flags::ACK | Flags::CWR | Flags::ECE);
    }

    #[test]
    fn a_header_that_does_not_fit_is_none() {
        assert_eq!(TcpHeader::parse(&SYN_ACK[..23]), None);
        assert_eq!(TcpHeader::parse(&SYN_ACK[..19]), None);
        let mut short = SYN_ACK;
        short[12] = 0x40;
        assert_eq!(TcpHeader::parse(&short), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_the_header_is_inside(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(header) = TcpHeader::parse(&bytes) {
                prop_assert!((HEADER_LEN..=bytes.len()).contains(&header.header_len));
            }
        }
    }
}
