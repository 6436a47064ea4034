use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

use super::*;
use crate::net::fragment::{FragmentIds, Fragments, write_header};
use crate::packet::{PacketPool, PoolLayout};
use crate::parse::{Kind, Parsed, Policy, parse, protocol};
use crate::time::Duration;

fn policy() -> Policy {
    Policy {
        mac: smoltcp::wire::EthernetAddress([2, 0, 0, 0, 0, 1]),
        addresses: ["192.0.2.1/24", "2001:db8::1/64"].map(|text| text.parse().unwrap()).to_vec(),
        groups: Vec::new(),
        partial_checksums: false,
        dhcp: false,
        forwarding: false,
        hash_keys: (0, 0),
    }
}

fn pool() -> PacketPool {
    PacketPool::heap(PoolLayout { frames: 64, frame_size: 4096, headroom: 0 })
}

const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// A whole packet of protocol 200 in an Ethernet frame; IPv6 with a destination options header.
fn whole(six: bool, len: usize) -> Vec<u8> {
    let (src, dst) = if six { ("2001:db8::2", "2001:db8::1") } else { ("192.0.2.2", "192.0.2.1") };
    let mut ip = vec![0; 40 + len];
    let start = write_header(&mut ip, src.parse().unwrap(), dst.parse().unwrap(), 200, len, 0, 64);
    ip.truncate(start + len);
    (0..len).for_each(|at| ip[start + at] = (at * 31) as u8);
    [&ETHERNET[..], if six { &[0x86, 0xdd] } else { &[8, 0] }, &ip].concat()
}

/// The packet in fragments for links of `mtu` bytes, as `Fragments` cuts it.
fn cut(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut ids = FragmentIds::new(&mut ChaCha12Rng::from_seed([0; 32]), 0, 1);
    let mut ip = frame[14..].to_vec();
    let mut fragments = Fragments::new(&mut ip, mtu, &mut ids);
    let mut all = Vec::new();
    while let Some((header, payload)) = fragments.next() {
        all.push([&frame[..14], header, &ip[payload]].concat());
    }
    all
}

struct Bench {
    table: Reassembly,
    pool: PacketPool,
    now: Instant,
    drops: Vec<DropReason>,
}

impl Bench {
    fn new() -> Self {
        Self { table: Reassembly::default(), pool: pool(), now: Instant::ZERO, drops: Vec::new() }
    }

    fn receive(&mut self, frame: &[u8]) -> Outcome {
        let mut packet = Packet::copy_from(&self.pool, frame).unwrap();
        packet.parsed = parse(&packet, &policy()).unwrap();
        assert_eq!(packet.parsed.kind, Kind::Fragment);
        let drops = &mut self.drops;
        self.table.receive(self.now, &packet, &mut |reason| drops.push(reason))
    }
}

/// What a receiver must see: the packet, except for what fragmenting changes in an IPv4 header.
fn same(result: &[u8], original: &[u8]) -> bool {
    let packet = |bytes: &[u8]| {
        Packet::copy_from(&PacketPool::heap(PoolLayout { frames: 64, frame_size: 4096, headroom: 0 }), bytes)
    };
    let parsed: [Parsed; 2] =
        [result, original].map(|bytes| parse(&packet(bytes).unwrap(), &policy()).unwrap());
    parsed[0] == parsed[1] && result[usize::from(parsed[0].l4)..] == original[usize::from(parsed[1].l4)..]
}

proptest! {
    #[test]
    fn any_order_with_duplicates_gives_the_packet(
        six in any::<bool>(),
        len in 3000usize..20_000,
        mtu in 1280usize..1600,
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let frame = whole(six, len);
        let fragments = cut(&frame, mtu);
        let mut sequence: Vec<usize> = order.iter().map(|pick| pick.index(fragments.len())).collect();
        sequence.extend(0..fragments.len());
        let mut bench = Bench::new();
        let mut got = None;
        for at in sequence {
            match bench.receive(&fragments[at]) {
                Outcome::Waiting => {}
                Outcome::Whole { frame, .. } => { got = Some(frame); break; }
                Outcome::Refused(refusal) => panic!("{refusal:?}"),
            }
        }
        prop_assert!(same(&got.expect("whole"), &frame));
        prop_assert_eq!(bench.table.bytes, 0);
        prop_assert!(bench.table.next_deadline().is_none());
    }

    /// Fragments of random ranges of several packets: no panic, bounds hold, books agree, and what comes out whole is right.
    #[test]
    fn random_fragments_keep_the_bounds(
        pieces in prop::collection::vec((0u16..40, 0u16..64, 1usize..30, any::<bool>(), 0u64..4000), 1..200),
    ) {
        let mut bench = Bench::new();
        for (id, offset, len, more, millis) in pieces {
            let mut ip = whole(false, len * 8)[14..].to_vec();
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            let field = offset | u16::from(more) << 13;
            prop_assume!(field != 0);
            ip[6..8].copy_from_slice(&field.to_be_bytes());
            fill_ipv4_checksum(&mut ip);
            let frame = [&ETHERNET[..], &[8, 0], &ip].concat();
            if let Outcome::Whole { frame, .. } = bench.receive(&frame) {
                let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
                prop_assert_eq!(total, frame.len() - 14);
            }
            bench.now += Duration::from_millis(millis);
            while bench.table.expire(bench.now).is_some() {}
            prop_assert!(bench.table.partials.len() <= limits::REASSEMBLY_PACKETS);
            prop_assert_eq!(bench.table.bytes, bench.table.partials.iter().map(Partial::cost).sum::<usize>());
            prop_assert!(bench.table.bytes <= limits::REASSEMBLY_BYTES);
        }
    }
}

#[test]
fn an_ipv6_packet_keeps_its_extension_headers() {
    let options = [200, 0, 1, 4, 0, 0, 0, 0];
    let mut frame = whole(true, 2000);
    frame[20] = protocol::DESTINATION_OPTIONS;
    frame.splice(54..54, options);
    let payload_len = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&payload_len.to_be_bytes());
    // Fragments with the options in the part that is not fragmented.
    let fragment = |range: core::ops::Range<usize>, more: bool| {
        let field = (range.start as u16) | u16::from(more);
        let [high, low] = field.to_be_bytes();
        let mut bytes = frame[..62].to_vec();
        bytes[54] = protocol::FRAGMENT;
        bytes.extend_from_slice(&[200, 0, high, low, 0, 0, 0, 5]);
        bytes.extend_from_slice(&frame[62..][range]);
        let len = (bytes.len() - 54) as u16;
        bytes[18..20].copy_from_slice(&len.to_be_bytes());
        bytes
    };
    let mut bench = Bench::new();
    assert_eq!(bench.receive(&fragment(1000..2000, false)), Outcome::Waiting);
    assert_eq!(
        bench.receive(&fragment(0..1000, true)),
        Outcome::Whole { frame: frame.clone(), longest: 1056 }
    );
}

/// Two fragments of one IPv4 packet with the given payload ranges (in units of 8 bytes) and "more" bits.
fn ranges(pieces: &[(u16, usize, bool, u8)]) -> Vec<Vec<u8>> {
    let piece = |(offset, len, more, fill): &(u16, usize, bool, u8)| {
        let mut frame = whole(false, len * 8);
        frame[34..].fill(*fill);
        frame[20..22].copy_from_slice(&(offset | u16::from(*more) << 13).to_be_bytes());
        fill_ipv4_checksum(&mut frame[14..]);
        frame
    };
    pieces.iter().map(piece).collect()
}

#[test]
fn an_overlap_spoils_the_packet_for_good() {
    let bad = Outcome::Refused(DropReason::BadFragment.into());
    for second in [(1, 2, true, 1), (0, 1, true, 1), (0, 2, true, 2), (0, 3, true, 1)] {
        let mut bench = Bench::new();
        let pieces = ranges(&[(0, 2, true, 1), second, (2, 1, false, 1), (0, 2, true, 1)]);
        let outcomes: Vec<Outcome> = pieces.iter().map(|frame| bench.receive(frame)).collect();
        assert_eq!(outcomes[0], Outcome::Waiting);
        assert!(outcomes[1..].iter().all(|outcome| *outcome == bad), "{second:?}: {outcomes:?}");
    }
}

#[test]
fn an_end_that_moves_spoils_the_packet() {
    for pieces in [
        [(2, 1, false, 0), (3, 1, false, 0)],
        [(2, 1, false, 0), (3, 1, true, 0)],
        [(4, 1, true, 0), (2, 1, false, 0)],
    ] {
        let mut bench = Bench::new();
        let pieces = ranges(&pieces);
        assert_eq!(bench.receive(&pieces[0]), Outcome::Waiting);
        assert_eq!(bench.receive(&pieces[1]), Outcome::Refused(DropReason::BadFragment.into()));
    }
}

#[test]
fn lengths_and_offsets_that_cannot_be_are_refused() {
    let mut bench = Bench::new();
    let mut odd = whole(false, 17);
    odd[20] = 0x20;
    fill_ipv4_checksum(&mut odd[14..]);
    assert_eq!(bench.receive(&odd), Outcome::Refused(DropReason::BadFragment.into()));
    let beyond = &ranges(&[(8191, 1, false, 0)])[0];
    assert_eq!(bench.receive(beyond), Outcome::Refused(DropReason::BadFragment.into()));
    let mut six = cut(&whole(true, 2000), 1280).remove(0);
    six.pop();
    let len = (six.len() - 54) as u16;
    six[18..20].copy_from_slice(&len.to_be_bytes());
    let Outcome::Refused(refusal) = bench.receive(&six) else { panic!("accepted") };
    assert_eq!(refusal.answer.map(|answer| (answer.code, answer.pointer)), Some((0, 4)));
    assert!(bench.table.partials.is_empty());
}

#[test]
fn the_oldest_packet_makes_room_in_number_and_bytes() {
    let mut bench = Bench::new();
    for id in 0..=limits::REASSEMBLY_PACKETS as u16 {
        let mut frame = ranges(&[(0, 1, true, 0)]).remove(0);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        fill_ipv4_checksum(&mut frame[14..]);
        bench.receive(&frame);
    }
    assert_eq!(bench.drops, [DropReason::FragmentOverflow]);
    let mut bench = Bench::new();
    let mut sent = 0;
    for id in 0..31u16 {
        for at in 0..44u16 {
            let mut frame = ranges(&[(at * 180, 180, true, 0)]).remove(0);
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            fill_ipv4_checksum(&mut frame[14..]);
            bench.receive(&frame);
            sent += 1440;
            assert!(bench.table.bytes <= limits::REASSEMBLY_BYTES);
        }
    }
    assert!(sent > limits::REASSEMBLY_BYTES && bench.drops.len() > 5);
}

#[test]
fn time_ends_a_packet_and_gives_its_first_fragment() {
    let frame = whole(false, 3000);
    let fragments = cut(&frame, 1500);
    for (piece, first) in [(0, true), (1, false)] {
        let mut bench = Bench::new();
        bench.receive(&fragments[piece]);
        assert_eq!(bench.table.expire(bench.now), None);
        assert_eq!(bench.table.next_deadline(), Some(bench.now + limits::REASSEMBLY_TIMEOUT));
        bench.now += limits::REASSEMBLY_TIMEOUT;
        assert_eq!(bench.table.expire(bench.now), Some(first.then(|| fragments[0].clone())));
        assert_eq!((bench.table.expire(bench.now), bench.table.bytes), (None, 0));
    }
}

#[test]
fn congestion_met_by_a_fragment_is_met_by_the_packet() {
    for six in [false, true] {
        let with = |marks: [u8; 3]| {
            let mut bench = Bench::new();
            let mut fragments = cut(&whole(six, 3000), 1280);
            for (frame, mark) in fragments.iter_mut().zip(marks) {
                frame[15] |= if six { mark << 4 } else { mark };
                if !six {
                    fill_ipv4_checksum(&mut frame[14..]);
                }
            }
            let mut outcomes: Vec<Outcome> = fragments.iter().map(|frame| bench.receive(frame)).collect();
            outcomes.pop().unwrap()
        };
        let ecn = |outcome: Outcome| match outcome {
            Outcome::Whole { frame, .. } if six => Ok(frame[15] >> 4 & 3),
            Outcome::Whole { frame, .. } => Ok(frame[15] & 3),
            other => Err(other),
        };
        assert_eq!(ecn(with([2, 3, 2])), Ok(3));
        assert_eq!(ecn(with([2, 2, 2])), Ok(2));
        assert_eq!(ecn(with([0, 3, 0])), Err(Outcome::Refused(DropReason::BadFragment.into())));
    }
}
