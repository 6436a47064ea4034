//! The seed corpora: one frame of each kind for the parser, and lives of connections for the shard.

use core::net::IpAddr;

use crate::frames::{self, Segment};
use crate::shard::{Offset, Options, SegmentSpec, Step, Transport};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

/// Names and inputs for `parse`: how the frame is cut, then the frame.
#[must_use]
pub fn parse_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (family, src, dst) in [("v4", "10.0.0.2", "10.0.0.1"), ("v6", "fd00::2", "fd00::1")] {
        let (src, dst): (IpAddr, IpAddr) = (address(src), address(dst));
        let mut add = |name: &str, frame: Vec<u8>| {
            seeds.push((format!("{family}-{name}"), [vec![130], frame].concat()))
        };
        let segment = Segment { ports: (1000, 80), seq: 1, flags: SYN, window: 65_535, ..Segment::default() };
        let options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        add("tcp-syn", frames::tcp(src, dst, &Segment { options, ..segment.clone() }));
        let data = Segment { flags: PSH | ACK, payload: vec![0x41; 300], ..segment };
        let frame = frames::tcp(src, dst, &data);
        add("tcp-padded", [frame.clone(), vec![0; 10]].concat());
        add("tcp-truncated", frame[..frame.len() - 20].to_vec());
        let mut urgent = frame.clone();
        urgent[if src.is_ipv4() { 47 } else { 67 }] |= URG;
        add("tcp-urgent", urgent);
        let udp = vec![0x04, 0xd2, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
        add("udp", frames::transport(src, dst, 17, udp, 6));
        add("unknown-protocol", frames::ip(src, dst, 99, &[1; 40]));
        let tagged = [&frame[..12], &[0x81, 0x00, 0, 5], &frame[12..]].concat();
        add("vlan", tagged);
        if src.is_ipv4() {
            add("ping", frames::transport(src, dst, 1, vec![8, 0, 0, 0, 0, 1, 0, 1, 9, 9], 2));
            let unreachable = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &frame[14..42]].concat();
            add("icmp-error", frames::transport(src, dst, 1, unreachable, 2));
            let mut fragment = frame.clone();
            fragment[20] = 0x20;
            add("fragment-bad-header-checksum", fragment);
            add("arp", frames::arp_reply([10, 0, 0, 2], [10, 0, 0, 1]));
        } else {
            add("ping", frames::transport(src, dst, 58, vec![128, 0, 0, 0, 0, 1, 0, 1, 9, 9], 2));
            add("na", frames::neighbor_advertisement(src, dst));
            let hop_by_hop = [&[6, 0, 1, 4, 0, 0, 0, 0][..], &frame[54..]].concat();
            add("hop-by-hop", frames::ip(src, dst, 0, &hop_by_hop));
            let fragment = [&[6, 0, 0, 1, 0, 0, 0, 9][..], &frame[54..94]].concat();
            add("fragment", frames::ip(src, dst, 44, &fragment));
            let routing = [&[6, 0, 0, 0, 0, 0, 0, 0][..], &frame[54..]].concat();
            add("routing", frames::ip(src, dst, 43, &routing));
        }
    }
    seeds
}

/// Names and inputs for `shard`.
#[must_use]
pub fn shard_seeds() -> Vec<(String, Vec<u8>)> {
    lives()
        .into_iter()
        .map(|(name, two_shards, steps)| (name.to_owned(), encode(two_shards, &steps)))
        .collect()
}

/// Steps with the shard each is for.
pub type Steps = Vec<(u8, Step)>;

/// Names, whether there are two shards, and steps.
#[must_use]
pub fn lives() -> Vec<(&'static str, bool, Steps)> {
    let one = |steps: Vec<Step>| steps.into_iter().map(|step| (0, step)).collect::<Steps>();
    let send = Step::Send { connection: 0, len: 3000 };
    let receive = Step::Receive { connection: 0, len: 500 };
    let shut = Step::Shutdown { connection: 0, how: 1 };
    let open = |v6| [segment(v6, SYN, 0), segment(v6, ACK, 0), Step::Accept(0)];
    let mut lives = Vec::new();
    for (name, v6) in [("transfer-v4", false), ("transfer-v6", true)] {
        let mut steps = open(v6).to_vec();
        let accept = if v6 { Step::Accept(1) } else { Step::Accept(0) };
        steps.extend([accept, segment(v6, PSH | ACK, 700), receive.clone(), send.clone(), Step::Wait(50)]);
        steps.extend([
            segment(v6, ACK, 0),
            Step::ReceiveChunk(0),
            segment(v6, FIN | ACK, 10),
            Step::Close(0),
        ]);
        steps.extend([segment(v6, ACK, 0), Step::WaitLong(61)]);
        lives.push((name, false, one(steps)));
    }
    let spec = |change: &dyn Fn(&mut SegmentSpec)| {
        let mut spec = spec(false, ACK, 100);
        change(&mut spec);
        Step::Segment(spec)
    };
    let opened = |steps: &[Step]| one([&open(false)[..], steps].concat());
    lives.push((
        "out-of-order",
        false,
        opened(&[
            spec(&|spec| spec.seq = Offset::Near(100)),
            spec(&|spec| spec.seq = Offset::Far(400)),
            spec(&|spec| spec.seq = Offset::Far(250)),
            spec(&|spec| spec.seq = Offset::Near(-50)),
            segment(false, ACK, 600),
            receive.clone(),
        ]),
    ));
    lives.push((
        "blind-attacks",
        false,
        opened(&[
            spec(&|spec| (spec.flags, spec.seq) = (RST, Offset::Far(300))),
            spec(&|spec| (spec.flags, spec.seq) = (SYN, Offset::Near(5))),
            spec(&|spec| spec.ack = Offset::Far(30_000)),
            spec(&|spec| spec.seq = Offset::Anywhere(0x8000_0000)),
            segment(false, RST, 0),
        ]),
    ));
    lives.push((
        "zero-window",
        false,
        opened(&[
            spec(&|spec| (spec.window, spec.len) = (0, 0)),
            send.clone(),
            Step::WaitForDeadline,
            Step::WaitForDeadline,
            Step::Wait(3000),
            spec(&|spec| spec.len = 0),
            Step::WaitForDeadline,
        ]),
    ));
    lives.push((
        "retransmission",
        false,
        opened(&[
            send.clone(),
            Step::WaitForDeadline,
            Step::WaitForDeadline,
            spec(&|spec| (spec.ack, spec.len) = (Offset::Far(-1000), 0)),
            spec(&|spec| (spec.ack, spec.len) = (Offset::Far(-1000), 0)),
            spec(&|spec| (spec.ack, spec.len) = (Offset::Far(-1000), 0)),
            spec(&|spec| (spec.ack, spec.len) = (Offset::Far(-1000), 0)),
            segment(false, ACK, 0),
        ]),
    ));
    lives.push((
        "half-close",
        false,
        opened(&[
            shut.clone(),
            segment(false, ACK, 0),
            segment(false, ACK, 900),
            receive.clone(),
            segment(false, FIN | ACK, 0),
            receive,
            Step::Wait(1000),
            segment(false, FIN | ACK, 0),
            Step::Close(0),
        ]),
    ));
    lives.push((
        "urgent-and-options",
        false,
        opened(&[
            spec(&|spec| (spec.flags, spec.urgent) = (ACK | URG, 50)),
            spec(&|spec| {
                spec.options =
                    Options::Bytes(vec![8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2])
            }),
            spec(&|spec| spec.options = Options::Timestamps(-100)),
            Step::SetOptions { connection: 0, bits: 0x38, seconds: 10 },
            Step::WaitLong(30),
            Step::WaitLong(30),
            Step::Abort(0),
        ]),
    ));
    lives.push((
        "abandoned",
        false,
        opened(&[send.clone(), Step::Close(0), Step::WaitLong(600), Step::WaitLong(600)]),
    ));
    lives.push((
        "connect",
        false,
        one(vec![
            Step::Connect { v6: false, port: 1 },
            segment(false, SYN | ACK, 0),
            send.clone(),
            segment(false, ACK, 200),
            shut,
            segment(false, FIN | ACK, 0),
            Step::Close(0),
        ]),
    ));
    lives.push((
        "simultaneous-open",
        false,
        one(vec![
            Step::Connect { v6: true, port: 2 },
            segment(true, SYN, 0),
            segment(true, SYN | ACK, 0),
            send.clone(),
            segment(true, FIN | ACK, 0),
            Step::Close(0),
        ]),
    ));
    lives.push((
        "unanswered",
        false,
        one(vec![
            Step::Connect { v6: false, port: 0 },
            Step::WaitForDeadline,
            Step::WaitLong(1),
            segment(false, RST | ACK, 0),
            Step::Connect { v6: true, port: 0 },
            Step::WaitLong(200),
        ]),
    ));
    let flood = (0..8).map(|flow| {
        let mut spec = self::spec(false, SYN, 0);
        (spec.flow, spec.seq) = (200 + flow, Offset::Anywhere(u32::from(flow) << 20));
        Step::Segment(spec)
    });
    lives.push(("syn-flood", false, one(flood.chain([Step::WaitLong(5), Step::CloseListener(0)]).collect())));
    lives.push((
        "two-shards",
        true,
        vec![
            (0, segment(false, SYN, 0)),
            (0, segment(false, ACK, 0)),
            (0, Step::Accept(0)),
            (1, segment(false, ACK, 300)),
            (1, segment(false, ACK, 300)),
            (0, send),
            (1, segment(false, FIN | ACK, 0)),
            (0, Step::Close(0)),
            (1, Step::Connect { v6: false, port: 3 }),
            (0, segment(false, SYN | ACK, 0)),
        ],
    ));
    lives.push((
        "not-tcp",
        false,
        one(vec![
            Step::Ip {
                v6: false,
                peer: 0,
                protocol: Transport::Icmp,
                bytes: vec![8, 0, 0, 0, 0, 1, 0, 1, 7, 7],
            },
            Step::Ip {
                v6: true,
                peer: 0,
                protocol: Transport::Icmp,
                bytes: vec![128, 0, 0, 0, 0, 1, 0, 1, 7, 7],
            },
            Step::Ip {
                v6: false,
                peer: 1,
                protocol: Transport::Udp,
                bytes: vec![4, 0, 0, 53, 0, 9, 0, 0, 1],
            },
            Step::Ip {
                v6: true,
                peer: 1,
                protocol: Transport::Any(44),
                bytes: vec![6, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9],
            },
            Step::Ip {
                v6: false,
                peer: 1,
                protocol: Transport::Any(2),
                bytes: vec![0x11, 0, 0, 0, 0, 0, 0, 0],
            },
            Step::Ethernet {
                ether_type: 0x0806,
                bytes: vec![
                    0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1,
                ],
            },
            Step::Ethernet { ether_type: 0x8100, bytes: vec![0, 5, 8, 0] },
            Step::Raw(vec![1, 2, 3]),
        ]),
    ));
    lives
}

fn spec(v6: bool, flags: u8, len: u16) -> SegmentSpec {
    let options =
        if flags & SYN != 0 { Options::Syn { mss: 1460, scale: 7 } } else { Options::Timestamps(0) };
    SegmentSpec {
        flow: 0,
        v6,
        flags,
        seq: Offset::Exact,
        ack: Offset::Exact,
        window: 8000,
        urgent: 0,
        options,
        len,
    }
}

fn segment(v6: bool, flags: u8, len: u16) -> Step {
    Step::Segment(spec(v6, flags, len))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The input from which `arbitrary` reads these steps again.
#[must_use]
pub fn encode(two_shards: bool, steps: &[(u8, Step)]) -> Vec<u8> {
    let mut encoder = Encoder(vec![two_shards.into()]);
    for (shard, step) in steps {
        encoder.0.push(*shard);
        encoder.step(step);
    }
    encoder.0
}

/// Writes values as `arbitrary`'s derived implementations read them.
struct Encoder(Vec<u8>);

impl Encoder {
    /// Variant `index` of an enum of `count`: read as `(u32 * count) >> 32`.
    fn variant(&mut self, index: u64, count: u64) {
        let word = ((index << 32).div_ceil(count)) as u32;
        self.0.extend(word.to_le_bytes());
    }

    fn half(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    /// Before each byte whether one more comes.
    fn bytes(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0.extend([1, byte]));
        self.0.push(0);
    }

    fn step(&mut self, step: &Step) {
        const COUNT: u64 = 19;
        let mut variant = |index| self.variant(index, COUNT);
        match step {
            Step::Raw(bytes) => {
                variant(0);
                self.bytes(bytes);
            }
            Step::Ethernet { ether_type, bytes } => {
                variant(1);
                self.half(*ether_type);
                self.bytes(bytes);
            }
            Step::Ip { v6, peer, protocol, bytes } => {
                variant(2);
                self.0.extend([u8::from(*v6), *peer]);
                self.transport(*protocol);
                self.bytes(bytes);
            }
            Step::Segment(spec) => {
                variant(3);
                self.segment(spec);
            }
            Step::Wait(millis) => {
                variant(4);
                self.half(*millis);
            }
            Step::WaitLong(seconds) => {
                variant(5);
                self.half(*seconds);
            }
            Step::WaitForDeadline => variant(6),
            Step::Listen { v6, port, backlog } => {
                variant(7);
                self.0.extend([u8::from(*v6), *port, *backlog]);
            }
            Step::CloseListener(which) => {
                variant(8);
                self.0.push(*which);
            }
            Step::Accept(which) => {
                variant(9);
                self.0.push(*which);
            }
            Step::Connect { v6, port } => {
                variant(10);
                self.0.extend([u8::from(*v6), *port]);
            }
            Step::Send { connection, len } => {
                variant(11);
                self.0.push(*connection);
                self.half(*len);
            }
            Step::Receive { connection, len } => {
                variant(12);
                self.0.push(*connection);
                self.half(*len);
            }
            Step::ReceiveChunk(connection) => {
                variant(13);
                self.0.push(*connection);
            }
            Step::DropChunks => variant(14),
            Step::Shutdown { connection, how } => {
                variant(15);
                self.0.extend([*connection, *how]);
            }
            Step::Close(connection) => {
                variant(16);
                self.0.push(*connection);
            }
            Step::Abort(connection) => {
                variant(17);
                self.0.push(*connection);
            }
            Step::SetOptions { connection, bits, seconds } => {
                variant(18);
                self.0.extend([*connection, *bits, *seconds]);
            }
        }
    }

    fn transport(&mut self, protocol: Transport) {
        match protocol {
            Transport::Tcp => self.variant(0, 4),
            Transport::Udp => self.variant(1, 4),
            Transport::Icmp => self.variant(2, 4),
            Transport::Any(number) => {
                self.variant(3, 4);
                self.0.push(number);
            }
        }
    }

    fn segment(&mut self, spec: &SegmentSpec) {
        self.0.extend([spec.flow, u8::from(spec.v6), spec.flags]);
        self.offset(spec.seq);
        self.offset(spec.ack);
        self.half(spec.window);
        self.half(spec.urgent);
        match &spec.options {
            Options::None => self.variant(0, 4),
            Options::Syn { mss, scale } => {
                self.variant(1, 4);
                self.half(*mss);
                self.0.push(*scale);
            }
            Options::Timestamps(offset) => {
                self.variant(2, 4);
                self.0.extend(offset.to_le_bytes());
            }
            Options::Bytes(bytes) => {
                self.variant(3, 4);
                self.bytes(bytes);
            }
        }
        self.half(spec.len);
    }

    fn offset(&mut self, offset: Offset) {
        match offset {
            Offset::Exact => self.variant(0, 4),
            Offset::Near(value) => {
                self.variant(1, 4);
                self.0.extend(value.to_le_bytes());
            }
            Offset::Far(value) => {
                self.variant(2, 4);
                self.0.extend(value.to_le_bytes());
            }
            Offset::Anywhere(value) => {
                self.variant(3, 4);
                self.0.extend(value.to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arbitrary::{Arbitrary, Unstructured};

    use super::*;

    #[test]
    fn what_is_encoded_is_read_again() {
        for (name, two_shards, steps) in lives() {
            let bytes = encode(two_shards, &steps);
            let mut input = Unstructured::new(&bytes);
            assert_eq!(bool::arbitrary(&mut input).unwrap(), two_shards);
            for expected in &steps {
                let read = <(u8, Step)>::arbitrary(&mut input).unwrap();
                assert_eq!(format!("{read:?}"), format!("{expected:?}"), "{name}");
            }
            assert!(input.is_empty(), "{name}");
        }
    }

    #[test]
    fn the_lives_open_connections() {
        for (name, two_shards, steps) in lives() {
            let census = crate::shard::run_steps(two_shards, &steps[..steps.len().min(3)]);
            if name.starts_with("transfer") || name == "out-of-order" {
                assert_eq!(census.connections, 1, "{name}: {census:?}");
            }
        }
    }
}
