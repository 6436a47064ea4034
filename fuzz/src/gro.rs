//! Bursts of TCP segments, nearly all of which follow each other in a few flows, through GRO: what is merged is what a model
//! that reads fields says, in the order of arrival, and taken apart it is what came, byte by byte.

use core::net::IpAddr;

use bywash::config::Cidr;
use bywash::counters::Counters;
use bywash::limits;
use bywash::offload::gro::Gro;
use bywash::packet::{Packet, PacketPool, PoolLayout};
use bywash::parse::{Kind, Policy, parse};
use smoltcp::wire::{EthernetAddress, Ipv4Packet, Ipv6Packet, TcpPacket};

use crate::frames::{self, Segment};

/// Segments of one burst, as many as a shard takes from its device at a time.
const BURST_MAX: usize = 64;
/// Segments of one input.
const STEPS_MAX: usize = 512;
/// Flows of each family; together fewer than GRO holds side by side.
const FLOWS: u8 = 3;
const POOL_FRAMES: u32 = 256;

/// One segment of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Which flow, even over IPv4, odd over IPv6.
    pub flow: u8,
    /// Payload bytes, times 8.
    pub len: u8,
    pub change: Change,
}

/// What is different about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing: it follows the one before.
    Nothing,
    /// The burst ends before it.
    Burst,
    Flags(u8),
    Gap(i8),
    /// It acknowledges as many bytes more.
    Ack(u8),
    /// The same without payload.
    PureAck(u8),
    Window(u8),
    /// As many words of the same byte.
    Options(u8, u8),
    Timestamps(u8),
    TypeOfService(u8),
    HopLimit(u8),
    Identification(u8),
    MayFragment,
    AccurateEcn,
    /// Bits flipped in the frame; the checksums are put right where the headers still make sense.
    Damage(u8, u8),
}

/// Bytes of a step in an input.
const STEP_BYTES: usize = 5;

impl Step {
    /// A step from its bytes: every five bytes are one.
    #[must_use]
    pub fn read([flow, len, kind, a, b]: [u8; STEP_BYTES]) -> Self {
        let change = match kind {
            1 => Change::Burst,
            2 => Change::Flags(a),
            3 => Change::Gap(a as i8),
            4 => Change::Ack(a),
            5 => Change::PureAck(a),
            6 => Change::Window(a),
            7 => Change::Options(a % 11, b),
            8 => Change::Timestamps(a),
            9 => Change::TypeOfService(a),
            10 => Change::HopLimit(a),
            11 => Change::Identification(a),
            12 => Change::MayFragment,
            13 => Change::AccurateEcn,
            14 => Change::Damage(a, b),
            _ => Change::Nothing,
        };
        Self { flow: flow % (2 * FLOWS), len, change }
    }

    /// The bytes that give the step.
    #[must_use]
    pub fn write(self) -> [u8; STEP_BYTES] {
        let (kind, a, b) = match self.change {
            Change::Nothing => (0, 0, 0),
            Change::Burst => (1, 0, 0),
            Change::Flags(flags) => (2, flags, 0),
            Change::Gap(gap) => (3, gap as u8, 0),
            Change::Ack(more) => (4, more, 0),
            Change::PureAck(more) => (5, more, 0),
            Change::Window(window) => (6, window, 0),
            Change::Options(words, byte) => (7, words, byte),
            Change::Timestamps(clock) => (8, clock, 0),
            Change::TypeOfService(tos) => (9, tos, 0),
            Change::HopLimit(limit) => (10, limit, 0),
            Change::Identification(id) => (11, id, 0),
            Change::MayFragment => (12, 0, 0),
            Change::AccurateEcn => (13, 0, 0),
            Change::Damage(at, bits) => (14, at, bits),
        };
        [self.flow, self.len, kind, a, b]
    }
}

/// Runs one input: its first byte chooses the size of the frames, so that packets span several; then come the steps.
///
/// # Panics
/// When GRO breaks a promise.
pub fn run(data: &[u8]) {
    let Some((&small, steps)) = data.split_first() else { return };
    let steps: Vec<Step> = steps
        .chunks_exact(STEP_BYTES)
        .take(STEPS_MAX)
        .map(|step| Step::read(step.try_into().expect("as many bytes")))
        .collect();
    run_steps(small & 1 != 0, &steps);
}

/// Runs the steps as they are; returns how many segments were merged with others.
///
/// # Panics
/// When GRO breaks a promise.
pub fn run_steps(small: bool, steps: &[Step]) -> u64 {
    let mut peer = Peer::new();
    let mut bench = Bench::new(if small { 256 } else { 4096 });
    let mut burst = Vec::new();
    for step in steps {
        if burst.len() == BURST_MAX || matches!(step.change, Change::Burst) {
            bench.burst(&core::mem::take(&mut burst));
        }
        burst.push(peer.frame(step));
    }
    bench.burst(&burst);
    bench.counters.gro_merged
}

/// Where each flow is: its next identification (or flow label) and segment.
struct Peer {
    flows: Vec<(u16, Segment)>,
}

impl Peer {
    fn new() -> Self {
        let flow = |number: u8| {
            let segment = Segment {
                ports: (1000 + u16::from(number), 80),
                // One flow's numbers of each family wrap soon.
                seq: if number < 2 { 0xffff_f000 } else { 1 },
                ack: 7,
                flags: 0x10,
                window: 500,
                options: if number < 4 { vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 9] } else { Vec::new() },
                ..Segment::default()
            };
            (100 * u16::from(number), segment)
        };
        Self { flows: (0..2 * FLOWS).map(flow).collect() }
    }

    fn frame(&mut self, step: &Step) -> Vec<u8> {
        let (ident, flow) = &mut self.flows[usize::from(step.flow)];
        let mut segment = flow.clone();
        segment.payload = vec![step.flow; usize::from(step.len) * 8];
        match step.change {
            Change::Flags(flags) => segment.flags = flags,
            Change::Gap(gap) => segment.seq = segment.seq.wrapping_add_signed(gap.into()),
            Change::Ack(more) => segment.ack = segment.ack.wrapping_add(more.into()),
            Change::PureAck(more) => {
                segment.ack = segment.ack.wrapping_add(more.into());
                segment.payload.clear();
            }
            Change::Window(window) => segment.window = window.into(),
            Change::Options(words, byte) => segment.options = vec![byte; 4 * usize::from(words)],
            Change::Timestamps(clock) if segment.options.len() == 12 => segment.options[7] = clock,
            _ => {}
        }
        flow.seq = segment.seq.wrapping_add(segment.payload.len() as u32);
        (flow.ack, flow.options) = (segment.ack, segment.options.clone());
        let v6 = step.flow % 2 == 1;
        let ends = if v6 { ["fd00::2", "fd00::1"] } else { ["10.0.0.2", "10.0.0.1"] };
        let [src, dst] = ends.map(|text| text.parse::<IpAddr>().expect("an address"));
        let mut frame = frames::tcp(src, dst, &segment);
        match (step.change, v6) {
            (Change::TypeOfService(tos), false) => frame[15] = tos,
            (Change::TypeOfService(tos), true) => (frame[14], frame[15]) = (0x60 | tos >> 4, tos << 4),
            (Change::HopLimit(limit), _) => frame[if v6 { 21 } else { 22 }] = limit,
            (Change::Identification(id), _) => *ident = id.into(),
            (Change::MayFragment, false) => frame[20] = 0,
            (Change::AccurateEcn, _) => frame[if v6 { 66 } else { 46 }] |= 1,
            _ => {}
        }
        if v6 {
            frame[16..18].copy_from_slice(&ident.to_be_bytes());
        } else {
            *ident = ident.wrapping_add(1);
            frame[18..20].copy_from_slice(&ident.to_be_bytes());
        }
        if let Change::Damage(at, bits) = step.change {
            let at = 12 + usize::from(at) % (frame.len() - 12);
            frame[at] ^= bits;
        }
        frames::repair_checksums(&mut frame);
        frame
    }
}

struct Bench {
    pool: PacketPool,
    gro: Gro,
    policy: Policy,
    counters: Counters,
}

impl Bench {
    fn new(frame_size: u32) -> Self {
        let cidr = |text: &str| text.parse::<Cidr>().expect("an address");
        // The longest burst in small frames, and the copies that comparing takes.
        let frames = if frame_size < 1024 { 4096 } else { POOL_FRAMES };
        Self {
            pool: PacketPool::heap(PoolLayout { frames, frame_size, headroom: 0 }),
            gro: Gro::default(),
            policy: Policy {
                mac: EthernetAddress(frames::OUR_MAC),
                addresses: vec![cidr("10.0.0.1/24"), cidr("fd00::1/64")],
                groups: Vec::new(),
                partial_checksums: false,
                dhcp: false,
                forwarding: false,
                hash_keys: (1, 2),
            },
            counters: Counters::default(),
        }
    }

    fn burst(&mut self, burst: &[Vec<u8>]) {
        let mut accepted = Vec::new();
        for frame in burst {
            let mut packet = Packet::copy_from(&self.pool, frame).expect("the pool has room for a burst");
            let Ok(parsed) = parse(&packet, &self.policy) else { continue };
            if parsed.kind != Kind::Tcp {
                continue;
            }
            packet.parsed = parsed;
            accepted.push((frame[..parsed.end as usize].to_vec(), usize::from(parsed.l4)));
            self.gro.push(packet, true, &mut self.counters);
        }
        let merged: Vec<Packet> = core::iter::from_fn(|| self.gro.pop()).collect();
        let expected = model(&accepted);
        assert_eq!(merged.len(), expected.len(), "{:?}", sizes(&merged));
        for (packet, group) in merged.into_iter().zip(expected) {
            check(packet, &group);
        }
        assert_eq!(self.pool.free_frames(), self.pool.layout().frames);
    }
}

fn sizes(packets: &[Packet]) -> Vec<u16> {
    packets.iter().map(Packet::packets).collect()
}

fn bytes(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.copy_to(&mut bytes);
    bytes.truncate(packet.parsed.end as usize);
    bytes
}

/// A packet is what the frames of `group` are, whole and taken apart.
fn check(packet: Packet, group: &[Vec<u8>]) {
    assert_eq!(usize::from(packet.packets()), group.len());
    let headers = usize::from(packet.parsed.payload);
    let payload: Vec<u8> = group.iter().flat_map(|frame| &frame[headers..]).copied().collect();
    assert_eq!(bytes(&packet), [&group[0][..headers], &payload].concat());
    assert_eq!(packet.segment_payload() as usize, group[0].len() - headers);
    let apart: Vec<Vec<u8>> = packet.into_packets().map(|packet| bytes(&packet)).collect();
    assert_eq!(apart, group);
}

/// What the rules look at, read by smoltcp.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fields {
    /// Everything in front of the TCP header that must be the same.
    network: (Vec<u8>, Vec<u8>, u8, u8, bool, u32),
    ident: u16,
    ports: (u16, u16),
    seq: u32,
    ack: u32,
    /// FIN, SYN, RST, PSH, ACK, URG.
    flags: [bool; 6],
    /// ECE, CWR, and the bits that smoltcp does not know.
    ecn: (bool, bool, u8),
    window: u16,
    options: Vec<u8>,
    payload: usize,
    /// The IP header has options or extensions.
    extended: bool,
}

/// The fields of a frame whose TCP header begins at `l4`.
fn fields(frame: &[u8], l4: usize) -> Fields {
    let ip = &frame[14..];
    let link = frame[..14].to_vec();
    let (network, ident, plain) = if ip[0] >> 4 == 4 {
        let header = Ipv4Packet::new_checked(ip).expect("the parser took it");
        let addresses = [header.src_addr().octets(), header.dst_addr().octets()].concat();
        // The reserved bit must be the same, as DF.
        let bits = u32::from(ip[6]);
        ((link, addresses, ip[1], header.hop_limit(), header.dont_frag(), bits), header.ident(), 34)
    } else {
        let header = Ipv6Packet::new_checked(ip).expect("the parser took it");
        let addresses = [header.src_addr().octets(), header.dst_addr().octets()].concat();
        ((link, addresses, header.traffic_class(), header.hop_limit(), false, header.flow_label()), 0, 54)
    };
    let bytes = &frame[l4..];
    let tcp = TcpPacket::new_checked(bytes).expect("the parser took it");
    Fields {
        network,
        ident,
        ports: (tcp.src_port(), tcp.dst_port()),
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack_number().0 as u32,
        flags: [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg()],
        ecn: (tcp.ece(), tcp.cwr(), bytes[12] & 15),
        window: tcp.window_len(),
        options: bytes[20..usize::from(tcp.header_len())].to_vec(),
        payload: tcp.payload().len(),
        extended: l4 != plain,
    }
}

impl Fields {
    fn never(&self) -> bool {
        let [_, syn, rst, _, ack, urg] = self.flags;
        self.extended || syn || rst || urg || !ack
    }

    fn ends(&self) -> bool {
        let [fin, _, _, psh, ..] = self.flags;
        fin || psh
    }

    /// An acknowledgment and nothing else.
    fn is_pure_ack(&self) -> bool {
        let stamped = self.options.len() == 12 && self.options[..4] == [1, 1, 8, 10];
        let plain = self.ecn.2 & 1 == 0 && !self.ecn.0 && !self.ecn.1 && !self.ends();
        self.payload == 0 && plain && (self.options.is_empty() || stamped)
    }

    fn clock(&self) -> Option<u32> {
        self.options.get(4..8).map(|val| u32::from_be_bytes(val.try_into().expect("four bytes")))
    }
}

/// Whether `next` may be merged with `group`, of one flow.
fn merges(group: &[Fields], next: &Fields, headers: usize) -> bool {
    let (first, last) = (&group[0], &group[group.len() - 1]);
    if first.never() || next.never() || first.network != next.network || first.ecn != next.ecn {
        return false;
    }
    if first.options.len() != next.options.len() || group.len() == 64 {
        return false;
    }
    let may_be_fixed = first.network.4;
    let is_fixed = may_be_fixed && group.get(1).unwrap_or(next).ident == first.ident;
    let distance = if is_fixed || first.network.1.len() == 32 { 0 } else { group.len() as u16 };
    if next.ident != first.ident.wrapping_add(distance) {
        return false;
    }
    if first.payload == 0 {
        let newer =
            next.clock().zip(last.clock()).is_none_or(|(next, last)| next.wrapping_sub(last) as i32 >= 0);
        let advance = next.ack.wrapping_sub(last.ack) as i32;
        return first.is_pure_ack()
            && next.is_pure_ack()
            && newer
            && advance > 0
            && next.seq == first.seq
            && next.window > 0;
    }
    let total: usize = group.iter().map(|one| one.payload).sum();
    !last.ends()
        && last.payload == first.payload
        && (1..=first.payload).contains(&next.payload)
        && next.seq == last.seq.wrapping_add(last.payload as u32)
        && (next.ack, next.window, &next.options) == (first.ack, first.window, &first.options)
        && headers - 14 + total + next.payload <= 65_535
}

/// The groups that a burst becomes: a flow's next segment goes to the flow's last group, if that may grow, or begins one. Of more
/// flows than are held, the one whose group began first is given up.
fn model(burst: &[(Vec<u8>, usize)]) -> Vec<Vec<Vec<u8>>> {
    let mut groups: Vec<(Vec<Vec<u8>>, Vec<Fields>)> = Vec::new();
    let mut growing: Vec<usize> = Vec::new();
    for (frame, l4) in burst {
        let next = fields(frame, *l4);
        let headers = frame.len() - next.payload;
        let known = growing.iter().position(|place| {
            let first = &groups[*place].1[0];
            (&first.network.1, first.ports) == (&next.network.1, next.ports)
        });
        let place = known.map(|known| growing.remove(known));
        if let Some(place) = place
            && merges(&groups[place].1, &next, headers)
        {
            let is_last = next.ends() || next.payload < groups[place].1[0].payload;
            groups[place].0.push(frame.clone());
            groups[place].1.push(next);
            if !is_last {
                // Where it was: age counts from a group's beginning.
                growing.insert(growing.partition_point(|other| *other < place), place);
            }
            continue;
        }
        if !next.never() && !next.ends() && (next.payload > 0 || next.is_pure_ack()) {
            if growing.len() == limits::GRO_FLOWS {
                growing.remove(0);
            }
            growing.push(groups.len());
        }
        groups.push((vec![frame.clone()], vec![next]));
    }
    groups.into_iter().map(|(frames, _)| frames).collect()
}

/// Names and inputs: what a search should begin with.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let step = |flow, len, change| Step { flow, len, change };
    let bulk = |flow, len| vec![step(flow, len, Change::Nothing); 60];
    let side_by_side = (0..60).map(|number| step(number % 6, 20, Change::Nothing)).collect();
    let odd = |changes: &[Change]| {
        let pairs = changes.iter().flat_map(|change| [step(0, 9, Change::Nothing), step(0, 9, *change)]);
        pairs.chain(changes.iter().map(|change| step(1, 9, *change))).collect::<Vec<_>>()
    };
    let acks = |flow| (1..40).map(|more| step(flow, 0, Change::PureAck(more % 5))).collect::<Vec<_>>();
    let named: Vec<(&str, Vec<Step>)> = vec![
        ("bulk-v4", bulk(0, 181)),
        ("bulk-v6", bulk(5, 178)),
        ("jumbo", bulk(2, 255)),
        ("side-by-side", side_by_side),
        ("acks-stamped", acks(0)),
        ("acks-plain", acks(4)),
        ("flags", odd(&[0x18, 0x11, 0x19, 0x50, 0x90, 0x12, 0x14, 0x30, 0].map(Change::Flags))),
        ("order", odd(&[1, -1, -72, 72, 100].map(Change::Gap))),
        ("ecn", odd(&[Change::TypeOfService(3), Change::AccurateEcn, Change::Flags(0xd0)])),
        ("options", odd(&[Change::Options(3, 1), Change::Options(10, 8), Change::Timestamps(10)])),
        ("network", odd(&[Change::HopLimit(1), Change::Identification(7), Change::MayFragment])),
        ("bursts", odd(&[Change::Burst, Change::Window(0), Change::Ack(100), Change::Burst])),
        ("damage", odd(&[Change::Damage(2, 0x40), Change::Damage(8, 1), Change::Damage(30, 0x10)])),
    ];
    let encode = |steps: Vec<Step>| steps.into_iter().flat_map(Step::write).collect::<Vec<u8>>();
    named.into_iter().map(|(name, steps)| (name, [vec![name.len() as u8], encode(steps)].concat())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for (name, bytes) in seeds() {
            for step in bytes[1..].chunks_exact(STEP_BYTES) {
                assert_eq!(Step::read(step.try_into().unwrap()).write(), step, "{name}");
            }
        }
    }

    #[test]
    fn segments_that_follow_each_other_are_merged() {
        let steps = vec![Step { flow: 0, len: 20, change: Change::Nothing }; 20];
        for small in [false, true] {
            assert_eq!(run_steps(small, &steps), 19);
        }
    }
}
