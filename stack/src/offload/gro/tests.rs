//! What is merged and what is not, one rule at a time, and any sequence of segments against a model that works on fields
//! instead of bytes.

use proptest::prelude::*;
use smoltcp::wire::EthernetAddress;

use super::*;
use crate::offload::testing::{Spec, US, timestamps};
use crate::packet::{PacketPool, PoolLayout};
use crate::parse::{Policy, parse};

struct Bench {
    pool: PacketPool,
    gro: Gro,
    counters: Counters,
}

impl Bench {
    fn new(frame_size: u32) -> Self {
        let pool = PacketPool::heap(PoolLayout { frames: 4096, frame_size, headroom: 0 });
        Self { pool, gro: Gro::default(), counters: Counters::default() }
    }

    fn packet(&self, frame: &[u8]) -> Packet {
        let policy = Policy {
            mac: EthernetAddress(US),
            addresses: vec!["192.0.2.1/24".parse().unwrap(), "2001:db8::1/64".parse().unwrap()],
            groups: Vec::new(),
            partial_checksums: false,
            dhcp: false,
            forwarding: false,
            hash_keys: (1, 2),
        };
        let mut packet = Packet::copy_from(&self.pool, frame).unwrap();
        packet.parsed = parse(&packet, &policy).unwrap();
        packet
    }

    /// The burst as it leaves.
    fn burst(&mut self, specs: &[Spec]) -> Vec<Packet> {
        for spec in specs {
            let packet = self.packet(&spec.frame());
            self.gro.push(packet, true, &mut self.counters);
        }
        core::iter::from_fn(|| self.gro.pop()).collect()
    }
}

/// How many segments are in each packet that leaves.
fn sizes(specs: &[Spec]) -> Vec<u16> {
    Bench::new(2048).burst(specs).iter().map(Packet::packets).collect()
}

/// Whether `change` keeps the second of two segments from being merged with the first.
fn separates(change: impl FnOnce(&mut Spec)) -> bool {
    let first = Spec::default();
    let mut second = first.next();
    change(&mut second);
    sizes(&[first, second]) == [1, 1]
}

#[test]
fn segments_in_order_become_one_packet_with_all_payload() {
    for v6 in [false, true] {
        let mut bench = Bench::new(2048);
        let first = Spec { v6, options: timestamps(5, 6), ..Spec::default() };
        let specs = [first.clone(), first.next(), first.next().next()];
        let packets = bench.burst(&specs);
        assert_eq!(packets.len(), 1);
        let packet = &packets[0];
        let payload: Vec<u8> = packet
            .pieces(packet.parsed.payload.into()..packet.parsed.end as usize)
            .flatten()
            .copied()
            .collect();
        assert_eq!(payload, specs.map(|spec| spec.payload).concat());
        assert_eq!((packet.packets(), packet.segment_payload()), (3, 100));
        assert_eq!((bench.counters.gro_packets, bench.counters.gro_merged), (1, 2));
    }
}

#[test]
fn a_push_is_merged_and_ends_the_packet() {
    let first = Spec::default();
    let pushed = Spec { flags: 0x18, ..first.next() };
    assert_eq!(sizes(&[first.clone(), pushed.clone(), pushed.next()]), [2, 1]);
    assert_eq!(sizes(&[pushed.clone(), Spec { flags: 0x10, ..pushed.next() }]), [1, 1]);
}

#[test]
fn a_fin_is_merged_and_ends_the_packet() {
    let first = Spec::default();
    let last = Spec { flags: 0x11, ..first.next() };
    assert_eq!(sizes(&[first, last.clone(), Spec { seq: last.end() + 1, ..last.next() }]), [2, 1]);
}

#[test]
fn a_shorter_segment_ends_the_packet_and_a_longer_one_begins_another() {
    let first = Spec::default();
    let short = Spec { payload: vec![1; 99], ..first.next() };
    assert_eq!(sizes(&[first.clone(), short.clone(), short.next()]), [2, 1]);
    let long = Spec { payload: vec![1; 101], ..first.next() };
    assert_eq!(sizes(&[first, long.clone(), long.next()]), [1, 2]);
}

#[test]
fn syn_rst_and_urg_are_never_merged() {
    for flag in [0x02, 0x04, 0x20] {
        assert!(separates(|second| second.flags |= flag), "{flag:#x}");
        let first = Spec { flags: 0x10 | flag, ..Spec::default() };
        assert_eq!(sizes(&[first.clone(), first.next()]), [1, 1], "{flag:#x}");
    }
    assert!(separates(|second| second.flags = 0));
}

#[test]
fn the_three_flags_of_ecn_must_be_the_same() {
    for flag in [0x40, 0x80, 0x100] {
        assert!(separates(|second| second.flags |= flag), "{flag:#x}");
        let first = Spec { flags: 0x10 | flag, ..Spec::default() };
        assert_eq!(sizes(&[first.clone(), first.next()]), [2], "{flag:#x}");
        assert_eq!(sizes(&[first.clone(), Spec { flags: 0x10, ..first.next() }]), [1, 1], "{flag:#x}");
    }
}

#[test]
fn what_differs_in_the_tcp_header_separates() {
    assert!(separates(|second| second.ack += 1));
    assert!(separates(|second| second.window += 1));
    assert!(separates(|second| second.seq += 1));
    assert!(separates(|second| second.seq -= 1));
    assert!(separates(|second| second.options = timestamps(1, 1)));
    let first = Spec { options: timestamps(5, 6), ..Spec::default() };
    assert_eq!(sizes(&[first.clone(), Spec { options: timestamps(6, 6), ..first.next() }]), [1, 1]);
}

#[test]
fn what_differs_in_the_network_header_separates() {
    assert!(separates(|second| second.mac = 3));
    assert!(separates(|second| second.ttl = 63));
    assert!(separates(|second| second.tos = 4));
    // Not ECN-capable, then a mark (RFC 3168 section 5.3 lets no mark get lost).
    assert!(separates(|second| second.tos = 3));
    assert!(separates(|second| second.df = false));
    let first = Spec { v6: true, ..Spec::default() };
    for second in [
        Spec { flow_label: 1, ..first.next() },
        Spec { ttl: 1, ..first.next() },
        Spec { tos: 3, ..first.next() },
    ] {
        assert_eq!(sizes(&[first.clone(), second]), [1, 1]);
    }
}

#[test]
fn identification_counts_up_or_stays_where_fragments_are_forbidden() {
    let ids = |df, ids: [u16; 3]| {
        let first = Spec { df, ..Spec::default() };
        let mut specs = [first.clone(), first.next(), first.next().next()];
        specs.iter_mut().zip(ids).for_each(|(spec, id)| spec.ident = id);
        sizes(&specs)
    };
    assert_eq!(ids(true, [9, 9, 9]), [3]);
    assert_eq!(ids(true, [0xffff, 0, 1]), [3]);
    assert_eq!(ids(false, [7, 8, 9]), [3]);
    assert_eq!(ids(false, [9, 9, 9]), [1, 1, 1]);
    assert_eq!(ids(true, [9, 9, 10]), [2, 1]);
    assert_eq!(ids(true, [9, 10, 10]), [2, 1]);
    assert_eq!(ids(false, [9, 11, 12]), [1, 2]);
}

#[test]
fn ip_options_and_reassembled_packets_are_not_merged() {
    let first = Spec { ip_option: true, ..Spec::default() };
    assert_eq!(sizes(&[first.clone(), first.next()]), [1, 1]);
    let mut bench = Bench::new(2048);
    let first = Spec::default();
    for (spec, whole) in [(first.clone(), true), (first.next(), false), (first.next().next(), true)] {
        let packet = bench.packet(&spec.frame());
        bench.gro.push(packet, whole, &mut bench.counters);
    }
    let left: Vec<u16> = core::iter::from_fn(|| bench.gro.pop()).map(|packet| packet.packets()).collect();
    assert_eq!(left, [1, 1, 1]);
}

/// No stack has VLAN interfaces yet; the comparison covers the whole link header, so that a tag will count.
#[test]
fn a_vlan_tag_separates() {
    let bench = Bench::new(2048);
    let tagged = |vlan: u8, spec: &Spec| {
        let untagged = bench.packet(&spec.frame());
        let mut frame = spec.frame();
        frame.splice(12..12, [0x81, 0, 0, vlan]);
        let mut packet = Packet::copy_from(&bench.pool, &frame).unwrap();
        packet.parsed = untagged.parsed;
        packet.parsed.l3 += 4;
        packet.parsed.l4 += 4;
        packet.parsed.payload += 4;
        packet.parsed.end += 4;
        packet
    };
    let first = Spec::default();
    for (vlan, expected) in [(1, vec![2]), (2, vec![1, 1])] {
        let (mut gro, mut counters) = (Gro::default(), Counters::default());
        gro.push(tagged(1, &first), true, &mut counters);
        gro.push(tagged(vlan, &first.next()), true, &mut counters);
        let left: Vec<u16> = core::iter::from_fn(|| gro.pop()).map(|packet| packet.packets()).collect();
        assert_eq!(left, expected);
    }
}

#[test]
fn a_packet_ends_at_64_kib() {
    let mut specs = vec![Spec { payload: vec![7; 1460], ..Spec::default() }];
    for _ in 0..49 {
        specs.push(specs[specs.len() - 1].next());
    }
    // 44 times 1460 bytes and 40 of headers are the most.
    assert_eq!(sizes(&specs), [44, 6]);
}

#[test]
fn a_packet_has_as_many_segments_as_a_burst_at_most() {
    let mut specs = vec![Spec { payload: vec![7], ..Spec::default() }];
    for _ in 0..limits::GRO_SEGMENTS {
        specs.push(specs[specs.len() - 1].next());
    }
    assert_eq!(sizes(&specs), [limits::GRO_SEGMENTS, 1]);
}

#[test]
fn flows_are_merged_side_by_side_and_the_oldest_gives_way() {
    let flow = |port: usize| Spec { port: port as u16 + 1, ..Spec::default() };
    let firsts: Vec<Spec> = (0..=limits::GRO_FLOWS).map(flow).collect();
    let specs: Vec<Spec> = firsts.iter().cloned().chain(firsts.iter().map(Spec::next)).collect();
    let mut bench = Bench::new(2048);
    let left: Vec<u16> = bench.burst(&specs).iter().map(Packet::packets).collect();
    // The first flow was forgotten when the last came; its second segment makes the next oldest give way, and so on.
    assert_eq!(left, [1; 2 * (limits::GRO_FLOWS + 1)]);
    assert!(bench.counters.gro_flow_limit > 0);
    let fit = &firsts[1..];
    let specs: Vec<Spec> = fit.iter().cloned().chain(fit.iter().map(Spec::next)).collect();
    assert_eq!(sizes(&specs), [2; limits::GRO_FLOWS]);
}

#[test]
fn packets_of_several_frames_are_merged_too() {
    let mut bench = Bench::new(256);
    let first = Spec { payload: (0..1000u32).map(|at| at as u8).collect(), ..Spec::default() };
    let specs = [first.clone(), first.next()];
    let packets = bench.burst(&specs);
    assert_eq!((packets.len(), packets[0].packets()), (1, 2));
    let apart: Vec<Vec<u8>> =
        packets.into_iter().flat_map(Packet::into_packets).map(|packet| bytes(&packet)).collect();
    assert_eq!(apart, specs.map(|spec| spec.frame()));
}

#[test]
fn acknowledgments_that_advance_are_chained() {
    assert_eq!(sizes(&[10, 20, 30].map(Spec::ack)), [3]);
    let near_wrap = [u32::MAX - 1, 5].map(Spec::ack);
    assert_eq!(sizes(&near_wrap), [2]);
    let stamped = |ack, val| Spec { options: timestamps(val, 1), ..Spec::ack(ack) };
    assert_eq!(sizes(&[stamped(10, 1), stamped(20, 2), stamped(30, 2)]), [3]);
    assert_eq!(sizes(&[stamped(10, 2), stamped(20, 1)]), [1, 1]);
}

#[test]
fn acknowledgments_that_say_more_are_not_chained() {
    assert_eq!(sizes(&[10, 10].map(Spec::ack)), [1, 1], "duplicate");
    assert_eq!(sizes(&[10, 9].map(Spec::ack)), [1, 1], "old");
    let separates = |second: Spec| assert_eq!(sizes(&[Spec::ack(10), second.clone()]), [1, 1], "{second:?}");
    separates(Spec { window: 0, ..Spec::ack(20) });
    separates(Spec { seq: 2, ..Spec::ack(20) });
    separates(Spec { tos: 3, ..Spec::ack(20) });
    for flag in [0x01, 0x08, 0x40, 0x80, 0x100] {
        separates(Spec { flags: 0x10 | flag, ..Spec::ack(20) });
    }
    separates(Spec { payload: vec![1], ..Spec::ack(20) });
    let sack = |ack| Spec { options: vec![1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9], ..Spec::ack(ack) };
    assert_eq!(sizes(&[sack(10), sack(20)]), [1, 1]);
    let echo = |ack| Spec { flags: 0x50, ..Spec::ack(ack) };
    assert_eq!(sizes(&[echo(10), echo(20)]), [1, 1]);
    // Data, then what only acknowledges more.
    let data = Spec::default();
    assert_eq!(sizes(&[data.clone(), Spec { payload: Vec::new(), ack: 8, ..data.next() }]), [1, 1]);
}

#[test]
fn in_steady_state_nothing_is_allocated_for_merged_packets() {
    let mut bench = Bench::new(2048);
    let first = Spec::default();
    let specs = [first.clone(), first.next()];
    drop(bench.burst(&specs));
    let kept = bench.pool.chains_kept();
    for _ in 0..3 {
        let slices = bench.burst(&specs).into_iter().flat_map(|packet| packet.into_slices(0..200)).count();
        let packets = bench.burst(&specs).into_iter().flat_map(Packet::into_packets).count();
        assert_eq!((slices, packets), (2, 2));
    }
    assert_eq!((kept, bench.pool.chains_kept()), (1, 1));
}

fn bytes(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.copy_to(&mut bytes);
    bytes.truncate(packet.parsed.end as usize);
    bytes
}

// ---- any sequence

/// Whether `segment` may be merged with `group`, whose packets follow each other in one flow: the rules by fields.
fn model_merges(group: &[Spec], segment: &Spec) -> bool {
    let (first, last) = (&group[0], &group[group.len() - 1]);
    let same =
        |a: &Spec| (a.v6, a.mac, a.port, a.tos, a.ttl, a.df && !a.v6, a.ip_option && !a.v6, a.flow_label);
    let never = |spec: &Spec| spec.flags & 0x26 != 0 || spec.flags & 0x10 == 0 || spec.ip_option && !spec.v6;
    if same(first) != same(segment) || never(first) || never(segment) || group.len() >= 64 {
        return false;
    }
    if !first.v6 {
        let fixed = first.df
            && (group.len() == 1 && segment.ident == first.ident
                || group.len() > 1 && group[1].ident == first.ident);
        let count = if fixed { 0 } else { group.len() as u16 };
        if segment.ident != first.ident.wrapping_add(count) {
            return false;
        }
    }
    let pure = |spec: &Spec| spec.payload.is_empty() && spec.flags == 0x10 && spec.options.len() != 8;
    if first.payload.is_empty() {
        let clock =
            |spec: &Spec| spec.options.get(4..8).map(|val| u32::from_be_bytes(val.try_into().unwrap()));
        return pure(first)
            && pure(segment)
            && first.options.len() == segment.options.len()
            && clock(segment).zip(clock(last)).is_none_or(|(next, last)| next.wrapping_sub(last) < 1 << 31)
            && (segment.seq == first.seq && segment.window > 0)
            && (1..1 << 31).contains(&segment.ack.wrapping_sub(last.ack));
    }
    let ends = |spec: &Spec| spec.flags & 0x09 != 0 || spec.payload.len() < first.payload.len();
    let total: usize = group.iter().chain([segment]).map(|spec| spec.payload.len()).sum();
    let headers = if first.v6 { 60 } else { 40 } + first.options.len();
    !ends(last)
        && (1..=first.payload.len()).contains(&segment.payload.len())
        && segment.seq == last.end()
        && (segment.ack, segment.window) == (first.ack, first.window)
        && (segment.flags ^ first.flags) & !0x09 == 0
        && segment.options == first.options
        && total + headers <= 65_535
}

/// The groups that a burst of a few flows becomes.
fn model(specs: &[Spec]) -> Vec<Vec<Spec>> {
    let mut groups: Vec<Vec<Spec>> = Vec::new();
    for spec in specs {
        let same_flow = |group: &&mut Vec<Spec>| (group[0].v6, group[0].port) == (spec.v6, spec.port);
        match groups.iter_mut().rev().find(same_flow) {
            Some(group) if model_merges(group, spec) => group.push(spec.clone()),
            _ => groups.push(vec![spec.clone()]),
        }
    }
    groups
}

/// A segment that mostly follows the one before in its flow.
fn step() -> impl Strategy<Value = (u8, bool, u8, u8, usize)> {
    (0u8..3, any::<bool>(), 0u8..60, 0u8..4, 0usize..3)
}

fn specs(steps: &[(u8, bool, u8, u8, usize)]) -> Vec<Spec> {
    let mut flows: Vec<Spec> = (0..6)
        .map(|flow: u16| Spec {
            v6: flow % 2 == 1,
            port: 1000 + flow / 2,
            options: if flow < 4 { timestamps(9, 9) } else { Vec::new() },
            ident: flow * 1000,
            df: flow != 2,
            ..Spec::default()
        })
        .collect();
    let mut specs = Vec::new();
    for &(flow, v6, kind, value, len) in steps {
        let flow = &mut flows[usize::from(flow) * 2 + usize::from(v6)];
        let mut spec = flow.clone();
        spec.payload = vec![value; [100, 99, 0][len]];
        match kind {
            0 => spec.seq = spec.seq.wrapping_add(u32::from(value)).wrapping_sub(1),
            1 => spec.ack += u32::from(value),
            2 => spec.flags ^= 1 << value,
            3 => spec.flags ^= 0x10 << value,
            4 => spec.flags ^= 0x100,
            5 => spec.window = u16::from(value),
            6 => spec.tos = value,
            7 => spec.ttl = value,
            8 => spec.ident = spec.ident.wrapping_add(u16::from(value)),
            9 => spec.mac = value & !1,
            10 => spec.flow_label = if spec.v6 { value.into() } else { 0 },
            11 if !spec.options.is_empty() => spec.options = timestamps(7 + u32::from(value), 9),
            12 => spec.ip_option = true,
            13 => spec.payload = vec![value; 101],
            14 => spec.df ^= true,
            15 => spec.options = vec![254, 8, 1, 2, 3, 4, 5, value],
            16..40 => spec.payload = vec![value; 100],
            40..50 => (spec.payload, spec.ack) = (Vec::new(), spec.ack + u32::from(value)),
            _ => {}
        }
        flow.seq = spec.end();
        flow.ack = flow.ack.max(spec.ack);
        flow.ident = flow.ident.wrapping_add(u16::from(value > 1));
        specs.push(spec);
    }
    specs
}

proptest! {
    /// Packets become the groups that the rules by fields say, in the place of their first; taken apart they are the frames
    /// that came, and no frame is lost.
    #[test]
    fn any_burst_is_merged_as_the_model_says_and_comes_apart_as_it_was(steps in prop::collection::vec(step(), 0..64), small in any::<bool>()) {
        let specs = specs(&steps);
        let mut bench = Bench::new(if small { 256 } else { 2048 });
        let left: Vec<Vec<Vec<u8>>> = bench
            .burst(&specs)
            .into_iter()
            .map(|packet| packet.into_packets().map(|packet| bytes(&packet)).collect())
            .collect();
        let unpadded = |spec: &Spec| {
            let mut frame = spec.frame();
            let headers = if spec.v6 { 74 } else { 54 + 4 * usize::from(spec.ip_option) };
            frame.truncate(headers + spec.options.len() + spec.payload.len());
            frame
        };
        let expected: Vec<Vec<Vec<u8>>> =
            model(&specs).iter().map(|group| group.iter().map(unpadded).collect()).collect();
        prop_assert_eq!(left, expected);
        prop_assert_eq!(bench.pool.free_frames(), 4096);
        let merged: u64 = model(&specs).iter().map(|group| group.len() as u64 - 1).sum();
        prop_assert_eq!(bench.counters.gro_merged, merged);
    }
}
