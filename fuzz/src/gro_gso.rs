//! Trains of TCP segments, of several flows and each with something about it that may keep it from being merged, through GRO,
//! forwarding and GSO: for each flow the same packets must come out. The checks are the simulator's
//! (`bywash::sim::bursts`), which the property tests use as well.

use bywash::sim::bursts::{Options, Rewrite, Spec, check};

/// Bytes before the segments: how they are forwarded, in frames of what size, the first flow.
const HEAD: usize = 8;
/// Bytes for each segment: its flow, what is special about it, and a value for that.
const EACH: usize = 4;
/// Segments of one input at most: several bursts.
const SEGMENTS_MAX: usize = 400;
/// Kinds of what is special.
const KINDS: u8 = 16;

/// Runs one input.
///
/// # Panics
/// When other packets come out than went in.
pub fn run(data: &[u8]) {
    let Some((head, segments)) = data.split_first_chunk::<HEAD>() else { return };
    let specs: Vec<Spec> =
        segments.chunks_exact(EACH).take(SEGMENTS_MAX).map(|bytes| spec(bytes, head[7])).collect();
    let rewrite = Rewrite {
        mac: head[1],
        address: u16::from_be_bytes([head[2], head[3]]),
        port: u16::from_be_bytes([head[4], head[5]]),
        tos: head[6],
    };
    let frame_size = if head[0] & 2 == 0 { 4096 } else { 512 };
    let outcome = check(&specs, (head[0] & 1 != 0).then_some(rewrite), frame_size);
    assert_eq!(outcome.packets, specs.len());
}

/// A segment that follows the last of its flow, but for one thing.
fn spec(bytes: &[u8], flow: u8) -> Spec {
    let value = u16::from_be_bytes([bytes[2], bytes[3]]);
    let usual = Spec {
        flow: flow.wrapping_add(bytes[0]),
        len: 1000,
        options: Options::Timestamps(0),
        ..Spec::default()
    };
    match bytes[1] % KINDS {
        1 => Spec { seq: value as i16, ..usual },
        2 => Spec { len: value, ..usual },
        3 => Spec { flags: value, ..usual },
        4 => Spec { ack: value, ..usual },
        5 => Spec { window: value as u8, ..usual },
        6 => Spec { options: Options::None, ..usual },
        7 => Spec { options: Options::Timestamps(value as u8), ..usual },
        8 => Spec { options: Options::Sack(value as u8), ..usual },
        9 => Spec { ident: value as u8, ..usual },
        10 => Spec { tos: value as u8, ..usual },
        11 => Spec { hops: value as u8, ..usual },
        12 => Spec { padding: value as u8, ..usual },
        13 => Spec { partial_checksum: true, ..usual },
        // An acknowledgment by itself.
        14 => Spec { len: 0, ack: value, ..usual },
        _ => usual,
    }
}

/// Names and inputs: a train of each kind of flow, and trains with one or more segments of each special kind.
#[must_use]
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let head = |flow: u8| [1, 9, 0x12, 0x34, 0xfe, 0xdc, 3, flow];
    let plain = [0, 0, 0, 0];
    let mut seeds = Vec::new();
    for flow in 0..8 {
        let train = [&head(flow)[..], &plain.repeat(20), &[0, 2, 1, 0], &[0, 3, 0, 8]].concat();
        seeds.push((format!("train-{flow}"), train));
    }
    for kind in 1..KINDS {
        let special = [0, kind, 0, 3];
        let train =
            [&head(kind)[..], &plain.repeat(5), &special, &plain.repeat(5), &special.repeat(4)].concat();
        seeds.push((format!("special-{kind}"), train));
    }
    let two_flows = [[0, 0, 0, 0], [1, 0, 0, 0], [4, 14, 0, 200]].concat();
    seeds.push(("interleaved".to_owned(), [&head(0)[..], &two_flows.repeat(60)].concat()));
    let mut small_frames = [&head(2)[..], &plain.repeat(30)].concat();
    small_frames[0] = 3;
    seeds.push(("several-frames-each".to_owned(), small_frames));
    let loss_and_reordering = [[0, 1, 0x03, 0xe8], [0, 1, 0xf8, 0x30], [0, 1, 0x03, 0xe8]].concat();
    seeds.push((
        "reordered".to_owned(),
        [&head(0)[..], &plain, &loss_and_reordering, &plain.repeat(9)].concat(),
    ));
    seeds
}
