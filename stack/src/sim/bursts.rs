//! Bursts of TCP segments that are merged by GRO, forwarded (with addresses, ports and hop limit changed) and cut again by
//! GSO: for each flow the very packets that came, changed one by one, must come out. For property tests and the fuzz target
//! `gro_gso`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashMap;

use crate::counters::Counters;
use crate::limits::BURST_PACKETS;
use crate::offload::gro::Gro;
use crate::offload::gso::{Template, cut_merged};
use crate::packet::checksum::{Sum, update};
use crate::packet::{Packet, PacketPool, PoolLayout};
use crate::parse::{FlowKey, Kind, Parsed};
use crate::tcp::header::Flags;

/// Frames of the pool: those of a burst at 9000 bytes, twice.
const FRAMES: u32 = 1024;

/// A segment, told by how it differs from the one that would follow the last of its flow. The default is that one.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Its flow. Bit 0: IPv6; bit 1: a VLAN tag; bit 2: DF is not set.
    pub flow: u8,
    /// How far from the next sequence number it begins: lost, reordered or repeated segments.
    pub seq: i16,
    /// Bytes of payload, modulo 3000.
    pub len: u16,
    /// Flags besides ACK, the three of ECN included.
    pub flags: u16,
    /// By how much the acknowledgment number moves on.
    pub ack: u16,
    /// What the window is larger by.
    pub window: u8,
    /// Options: none, timestamps (by how much they move on), or SACK blocks.
    pub options: Options,
    /// How far the identification is from the next one.
    pub ident: u8,
    /// DSCP and ECN bits.
    pub tos: u8,
    /// By how much the hop limit is lower.
    pub hops: u8,
    /// Bytes of Ethernet padding behind it, modulo 16.
    pub padding: u8,
    /// Its checksum was left to the device.
    pub partial_checksum: bool,
}

/// Options of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub enum Options {
    /// None.
    #[default]
    None,
    /// Timestamps, the value by so much later than the last.
    Timestamps(u8),
    /// So many SACK blocks, modulo 4.
    Sack(u8),
}

/// What forwarding changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Last byte of both Ethernet addresses.
    pub mac: u8,
    /// Source address's last word.
    pub address: u16,
    /// Source port.
    pub port: u16,
    /// DSCP and ECN bits.
    pub tos: u8,
}

/// Where a flow is.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    next: u32,
    ack: u32,
    ident: u16,
    timestamp: u32,
}

/// What has become of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Packets that went in.
    pub packets: usize,
    /// Packets between GRO and GSO.
    pub merged: usize,
}

/// Sends `specs` through GRO, `rewrite` and GSO in bursts and compares what comes out with what went in.
///
/// # Panics
/// When it is not the same, or a frame is lost.
pub fn check(specs: &[Spec], rewrite: Option<Rewrite>, frame_size: u32) -> Outcome {
    let pool = PacketPool::heap(PoolLayout { frames: FRAMES, frame_size, headroom: 64 });
    let mut flows = [Flow::default(); 8];
    let (mut gro, mut counters, mut outcome) = (Gro::default(), Counters::default(), Outcome::default());
    for burst in specs.chunks(BURST_PACKETS) {
        let (mut came, mut left) = (HashMap::<u8, Vec<Vec<u8>>>::new(), HashMap::<u8, Vec<Vec<u8>>>::new());
        for spec in burst {
            let (number, flow) = (spec.flow % 8, &mut flows[usize::from(spec.flow % 8)]);
            let before = *flow;
            let packet = build(&pool, spec, flow, None, spec.partial_checksum);
            let expected =
                build(&pool, &Spec { padding: 0, ..spec.clone() }, &mut before.clone(), rewrite, false);
            came.entry(number).or_default().push(bytes(&expected));
            gro.push(packet, true, &mut counters);
            outcome.packets += 1;
        }
        while let Some(mut packet) = gro.pop() {
            outcome.merged += 1;
            let number = packet.parsed.flow.src_port as u8;
            if let Some(rewrite) = rewrite {
                forward(&mut packet, rewrite);
            }
            cut_merged(packet, |packet| {
                assert_eq!(packet.parsed.end as usize, packet.len());
                left.entry(number).or_default().push(bytes(&packet));
            });
        }
        for (number, came) in &came {
            let left = &left[number];
            assert_eq!(left.len(), came.len(), "packets of flow {number}");
            for (place, (left, came)) in left.iter().zip(came).enumerate() {
                assert!(left == came, "packet {place} of flow {number}: {left:02x?} instead of {came:02x?}");
            }
        }
    }
    assert_eq!(pool.free_frames(), FRAMES, "frames");
    outcome
}

/// The packet that `spec` describes, `flow` moved on, with what forwarding would make of its headers.
fn build(
    pool: &PacketPool,
    spec: &Spec,
    flow: &mut Flow,
    rewrite: Option<Rewrite>,
    partial_checksum: bool,
) -> Packet {
    let is_ipv6 = spec.flow & 1 != 0;
    let mut headers = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if spec.flow & 2 != 0 {
        headers.extend([0x81, 0, 0, 7]);
    }
    headers.extend(if is_ipv6 { [0x86, 0xdd] } else { [8, 0] });
    let l3 = headers.len();
    let hop_limit = 64 - spec.hops % 32;
    flow.ident = flow.ident.wrapping_add(1).wrapping_add(u16::from(spec.ident));
    if is_ipv6 {
        headers.extend([0x60 | spec.tos >> 4, spec.tos << 4, 0, 1, 0, 0, 6, hop_limit]);
        headers.extend([[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0xfd; 16]].concat());
    } else {
        let [high, low] = flow.ident.to_be_bytes();
        let fragment = if spec.flow & 4 == 0 { 0x40 } else { 0 };
        headers.extend([
            0x45, spec.tos, 0, 0, high, low, fragment, 0, hop_limit, 6, 0, 0, 10, 0, 0, 1, 10, 9, 8, 7,
        ]);
    }
    let l4 = headers.len();
    let options = match spec.options {
        Options::None => Vec::new(),
        Options::Timestamps(later) => {
            flow.timestamp += u32::from(later);
            [[1, 1, 8, 10], flow.timestamp.to_be_bytes(), [0; 4]].concat()
        }
        Options::Sack(blocks) => {
            let blocks = usize::from(blocks % 4);
            [&[1, 1, 5, 2 + 8 * blocks as u8][..], &vec![7; 8 * blocks]].concat()
        }
    };
    let len = usize::from(spec.len) % 3000;
    let seq = flow.next.wrapping_add_signed(spec.seq.into());
    flow.next = seq.wrapping_add(len as u32);
    flow.ack = flow.ack.wrapping_add(spec.ack.into());
    let offset_and_flags = ((20 + options.len()) as u16 / 4) << 12 | spec.flags & 0x1ff | Flags::ACK.0;
    headers.extend([0x10, spec.flow % 8, 0, 80]);
    headers.extend([seq, flow.ack].iter().flat_map(|number| number.to_be_bytes()));
    headers.extend(offset_and_flags.to_be_bytes());
    headers.extend([4, spec.window, 0, 0, 0, 0]);
    headers.extend(options);
    if let Some(rewrite) = rewrite {
        change(&mut headers, l3, l4, rewrite, |_, _| ());
    }
    let payload: Vec<u8> =
        (0..len as u32).map(|at| (seq.wrapping_add(at).wrapping_mul(31) >> 3) as u8).collect();
    let template = Template::new(&headers, l3, l4, Flags::NONE).expect("headers that fit");
    let mut built = None;
    template.cut(pool, &[&payload], usize::MAX, 1, |packet| built = Some(packet));
    let mut packet = built.expect("the pool has frames");
    if partial_checksum {
        packet.head_mut()[l4 + 16..l4 + 18].copy_from_slice(&[0xab, 0xcd]);
    }
    // Only the family matters here.
    let addr: IpAddr = if is_ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let end = packet.len();
    if let Some(padding) = packet.append(usize::from(spec.padding % 16)) {
        padding.fill(0xee);
    }
    packet.parsed = Parsed {
        kind: Kind::Tcp,
        l3: l3 as u16,
        l4: l4 as u16,
        payload: headers.len() as u16,
        end: end as u32,
        partial_checksum,
        flow: FlowKey {
            src: addr,
            dst: addr,
            src_port: 0x1000 | u16::from(spec.flow % 8),
            dst_port: 80,
            protocol: 6,
        },
        // Some flows share theirs.
        hash: u32::from(spec.flow % 8 / 2),
        ..Parsed::default()
    };
    packet
}

/// Changes the headers of a packet as a router with address translation does.
fn forward(packet: &mut Packet, rewrite: Rewrite) {
    let (l3, l4) = (usize::from(packet.parsed.l3), usize::from(packet.parsed.l4));
    let head = packet.head_mut();
    let word = |head: &[u8], at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let mut checksum = word(head, l4 + 16);
    change(head, l3, l4, rewrite, |old, new| checksum = update(checksum, old, new));
    head[l4 + 16..l4 + 18].copy_from_slice(&checksum.to_be_bytes());
    if head[l3] >> 4 == 4 {
        head[l3 + 10..l3 + 12].fill(0);
        let mut sum = Sum::ZERO;
        sum.add(&head[l3..l4]);
        head[l3 + 10..l3 + 12].copy_from_slice(&sum.checksum().to_be_bytes());
    }
}

/// Changes what forwarding changes; `changed` is told of each word that the TCP checksum covers.
fn change(head: &mut [u8], l3: usize, l4: usize, rewrite: Rewrite, mut changed: impl FnMut(u16, u16)) {
    (head[5], head[11]) = (rewrite.mac, rewrite.mac);
    let source = if head[l3] >> 4 == 4 {
        head[l3 + 1] = rewrite.tos;
        head[l3 + 8] -= 1;
        l3 + 14
    } else {
        head[l3] = 0x60 | rewrite.tos >> 4;
        head[l3 + 1] = head[l3 + 1] & 0x0f | rewrite.tos << 4;
        head[l3 + 7] -= 1;
        l3 + 22
    };
    for (at, new) in [(source, rewrite.address), (l4, rewrite.port)] {
        changed(u16::from_be_bytes([head[at], head[at + 1]]), new);
        head[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }
}

fn bytes(packet: &Packet) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}
