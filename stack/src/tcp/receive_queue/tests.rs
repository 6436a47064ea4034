//! The queue against a map of bytes, and against peers who mean it ill.

use super::*;
use crate::packet::{Packet, PacketPool, PoolLayout};
use proptest::prelude::*;

const NO_BOUND: usize = CAP_MAX;
const MSS: usize = 1448;

fn pool(frames: u32) -> PacketPool {
    PacketPool::heap(PoolLayout { frames, frame_size: 2048, headroom: 128 })
}

fn slices(pool: &PacketPool, bytes: &[u8]) -> Vec<PacketSlice> {
    Packet::copy_from(pool, bytes).expect("frames enough").into_slices(0..bytes.len()).collect()
}

/// The stream's byte at an offset, for tests where every copy of a byte is the same.
fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn stream(start: u64, len: usize) -> Vec<u8> {
    (start..start + len as u64).map(byte).collect()
}

fn read_all(queue: &mut ReceiveQueue) -> Vec<u8> {
    let mut all = vec![0; queue.readable()];
    assert_eq!(queue.read(&mut all), all.len());
    all
}

fn chunk_bytes(chunk: &Chunk) -> &[u8] {
    match chunk {
        Chunk::Frame(slice) => slice,
        Chunk::Heap(block, range) => &block[range.clone()],
    }
}

/// Panics unless the queue's books and its order are right.
fn check(queue: &ReceiveQueue) {
    queue.ready.check();
    let (mut bytes, mut memory, mut last_end) = (0, 0, queue.next);
    let none = Ahead::default();
    let ahead = queue.ahead.as_deref().unwrap_or(&none);
    assert_eq!(queue.has_gap(), !ahead.runs.is_empty());
    for (start, run) in &ahead.runs {
        run.check();
        assert!(!run.is_empty() && *start > last_end, "runs neither overlap nor touch");
        last_end = start + run.len() as u64;
        bytes += run.len();
        memory += run.memory() + RUN_OVERHEAD;
    }
    assert_eq!((queue.out_of_order_bytes(), ahead.memory as usize), (bytes, memory));
    assert_eq!(queue.memory(), queue.ready.memory() + memory);
    let frames = queue.ready.has_frames() || ahead.runs.values().any(Run::has_frames);
    assert!(!frames || queue.has_frames);
}

#[test]
fn it_stays_small_and_costs_nothing_while_empty() {
    assert!(size_of::<ReceiveQueue>() <= 120, "{}", size_of::<ReceiveQueue>());
    let mut queue = ReceiveQueue::new(SeqNumber(1));
    assert_eq!(queue.memory(), 0);
    queue.insert_bytes(SeqNumber(1), &[1; 5000], NO_BOUND);
    queue.insert_bytes(SeqNumber(9000), &[1; 5000], NO_BOUND);
    assert!(queue.memory() > 10_000);
    read_all(&mut queue);
    queue.clear();
    assert_eq!((queue.memory(), queue.has_gap(), queue.rcv_nxt()), (0, false, SeqNumber(5001)));
}

#[test]
fn a_gap_is_filled_across_the_wrap() {
    let start = SeqNumber(u32::MAX - 4);
    let mut queue = ReceiveQueue::new(start);
    let second = queue.insert_bytes(start + 5, b"world", NO_BOUND);
    assert_eq!(second, Inserted { new_out_of_order: 5, ..Inserted::default() });
    assert_eq!(queue.sack_blocks()[..], [(SeqNumber(0), SeqNumber(5))]);
    let first = queue.insert_bytes(start, b"hello", NO_BOUND);
    assert_eq!(first, Inserted { advanced: 10, ..Inserted::default() });
    assert_eq!((queue.rcv_nxt(), queue.has_gap()), (SeqNumber(5), false));
    assert_eq!(read_all(&mut queue), b"helloworld");
}

#[test]
fn frames_are_kept_and_leave_without_a_copy() {
    let pool = pool(4);
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    queue.insert(SeqNumber(0), slices(&pool, &stream(0, MSS)), NO_BOUND, false);
    assert_eq!((pool.shared_frames(), queue.memory() >= 2048), (1, true));
    let chunk = queue.read_chunk().unwrap();
    assert!(matches!(chunk, Chunk::Frame(_)));
    assert_eq!(chunk_bytes(&chunk), stream(0, MSS));
    assert_eq!((pool.shared_frames(), queue.memory()), (1, 0));
    drop(chunk);
    assert_eq!(pool.shared_frames(), 0);
    assert!(queue.read_chunk().is_none());
}

#[test]
fn scarce_frames_are_not_kept() {
    let pool = pool(4);
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    queue.insert(SeqNumber(0), slices(&pool, &stream(0, MSS)), NO_BOUND, true);
    assert_eq!(pool.shared_frames(), 0);
    queue.insert(SeqNumber(MSS as u32), slices(&pool, &stream(MSS as u64, MSS)), NO_BOUND, false);
    queue.insert(SeqNumber(9000), slices(&pool, &stream(9000, MSS)), NO_BOUND, false);
    assert_eq!(pool.shared_frames(), 2);
    queue.release_frames();
    check(&queue);
    assert_eq!(pool.shared_frames(), 0);
    assert_eq!(read_all(&mut queue), stream(0, 2 * MSS));
    assert_eq!(queue.out_of_order_bytes(), MSS);
}

#[test]
fn frames_take_at_most_half_of_the_bound() {
    let pool = pool(100);
    let cap = 128 << 10;
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    for i in 0..60 {
        queue.insert(SeqNumber(i * MSS as u32), slices(&pool, &[1; MSS]), cap, false);
    }
    assert_eq!((queue.readable(), pool.shared_frames()), (60 * MSS, cap as u32 / 2 / 2048 - 1));
}

#[test]
fn a_packet_in_several_frames_is_one_segment() {
    let pool = pool(8);
    let mut queue = ReceiveQueue::new(SeqNumber(7));
    let inserted = queue.insert(SeqNumber(7), slices(&pool, &stream(0, 8948)), NO_BOUND, false);
    assert_eq!(inserted, Inserted { advanced: 8948, ..Inserted::default() });
    assert_eq!(read_all(&mut queue), stream(0, 8948));
}

#[test]
fn a_segment_over_several_runs_fills_every_gap_and_keeps_what_was_there() {
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    for start in [10, 20, 30] {
        queue.insert_bytes(SeqNumber(start), &[1; 5], NO_BOUND);
    }
    let inserted = queue.insert_bytes(SeqNumber(8), &[2; 30], NO_BOUND);
    assert_eq!(inserted.new_out_of_order, 15);
    assert_eq!(inserted.duplicate, Some((SeqNumber(10), SeqNumber(15))));
    assert_eq!(queue.sack_blocks()[..], [(SeqNumber(8), SeqNumber(38))]);
    queue.insert_bytes(SeqNumber(0), &[3; 8], NO_BOUND);
    let mut expected = vec![3; 8];
    for (len, value) in [(2, 2), (5, 1), (5, 2), (5, 1), (5, 2), (5, 1), (3, 2)] {
        expected.resize(expected.len() + len, value);
    }
    assert_eq!(read_all(&mut queue), expected);
    check(&queue);
}

#[test]
fn an_old_segment_is_all_duplicate() {
    let mut queue = ReceiveQueue::new(SeqNumber(100));
    queue.insert_bytes(SeqNumber(100), &[1; 50], NO_BOUND);
    let old = queue.insert_bytes(SeqNumber(90), &[2; 20], NO_BOUND);
    assert_eq!(old, Inserted { duplicate: Some((SeqNumber(90), SeqNumber(110))), ..Inserted::default() });
    let overlapping = queue.insert_bytes(SeqNumber(140), &[2; 20], NO_BOUND);
    let expected =
        Inserted { advanced: 10, duplicate: Some((SeqNumber(140), SeqNumber(150))), ..Inserted::default() };
    assert_eq!(overlapping, expected);
}

#[test]
fn the_latest_run_is_reported_first_and_then_the_ones_before_it() {
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    let blocks =
        |queue: &ReceiveQueue| queue.sack_blocks().iter().map(|(start, _)| start.0).collect::<Vec<_>>();
    for start in [10, 50, 30, 90, 70] {
        queue.insert_bytes(SeqNumber(start), &[1; 5], NO_BOUND);
    }
    assert_eq!(blocks(&queue), [70, 90, 30, 50]);
    queue.insert_bytes(SeqNumber(52), &[1; 5], NO_BOUND);
    assert_eq!(blocks(&queue), [50, 70, 90, 30]);
    queue.insert_bytes(SeqNumber(0), &[1; 40], NO_BOUND);
    assert_eq!(blocks(&queue), [50, 70, 90]);
    queue.insert_bytes(SeqNumber(40), &[1; 100], NO_BOUND);
    assert!(blocks(&queue).is_empty());
}

#[test]
fn a_run_that_grows_downwards_does_not_push_others_from_the_report() {
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    for start in [10, 90, 50, 49, 48, 47, 46] {
        queue.insert_bytes(SeqNumber(start), &[1], NO_BOUND);
    }
    assert_eq!(queue.sack_blocks().iter().map(|(start, _)| start.0).collect::<Vec<_>>(), [46, 90, 10]);
}

#[test]
fn runs_not_heard_of_lately_fill_the_rest_of_the_report() {
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    for start in [10, 20, 30, 40, 50, 60] {
        queue.insert_bytes(SeqNumber(start), &[1; 5], NO_BOUND);
    }
    queue.insert_bytes(SeqNumber(35), &[1; 25], NO_BOUND);
    let expected = [(30, 65), (10, 15), (20, 25)].map(|(start, end)| (SeqNumber(start), SeqNumber(end)));
    assert_eq!(queue.sack_blocks()[..], expected);
}

#[test]
fn a_fin_takes_a_number_and_nothing_follows_it() {
    let mut queue = ReceiveQueue::new(SeqNumber(5));
    queue.insert_bytes(SeqNumber(5), b"ab", NO_BOUND);
    queue.insert_bytes(SeqNumber(50), b"beyond", NO_BOUND);
    queue.accept_fin();
    assert_eq!((queue.rcv_nxt(), queue.readable(), queue.has_gap()), (SeqNumber(8), 2, false));
    check(&queue);
}

#[test]
fn peeking_takes_nothing() {
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    queue.insert_bytes(SeqNumber(0), &stream(0, 300), NO_BOUND);
    let mut some = [0; 200];
    queue.read(&mut some[..50]);
    assert_eq!((queue.peek(&mut some), queue.peek(&mut [])), (200, 0));
    assert_eq!(some[..], stream(50, 200));
    assert_eq!(read_all(&mut queue), stream(50, 250));
}

#[test]
fn single_bytes_in_order_share_blocks() {
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    for i in 0..100_000u64 {
        queue.insert_bytes(SeqNumber(i as u32), &[byte(i)], NO_BOUND);
    }
    assert!(queue.ready.pieces() < 40, "{}", queue.ready.pieces());
    assert!(queue.memory() < 110_000, "{}", queue.memory());
    assert_eq!(read_all(&mut queue), stream(0, 100_000));
}

#[test]
fn single_bytes_from_the_back_share_blocks() {
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    for i in (1..20_000u64).rev() {
        queue.insert_bytes(SeqNumber(i as u32), &[byte(i)], NO_BOUND);
    }
    assert!(queue.memory() < 25_000, "{}", queue.memory());
    queue.insert_bytes(SeqNumber(0), &[byte(0)], NO_BOUND);
    assert_eq!(read_all(&mut queue), stream(0, 20_000));
}

#[test]
fn every_other_byte_and_then_the_rest_share_blocks() {
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    for i in (1..10_000u64).step_by(2).chain((2..10_000).step_by(2)).chain([0]) {
        queue.insert_bytes(SeqNumber(i as u32), &[byte(i)], NO_BOUND);
    }
    assert!(queue.memory() < 25_000, "{}", queue.memory());
    assert_eq!(read_all(&mut queue), stream(0, 10_000));
}

#[test]
fn holes_between_single_bytes_do_not_pass_the_bound() {
    for cap in [4096, 100_000, 1 << 20] {
        let mut queue = ReceiveQueue::new(SeqNumber(0));
        let mut dropped = 0;
        for i in 1..50_000u32 {
            dropped += queue.insert_bytes(SeqNumber(2 * i), &[1], cap).dropped;
            assert!(queue.memory() <= cap);
        }
        assert!(dropped > 0 && queue.has_gap());
        assert_eq!(queue.insert_bytes(SeqNumber(0), &[1; 2], cap).advanced, 3, "in order finds room");
        check(&queue);
    }
}

#[test]
fn small_payload_in_large_frames_does_not_pass_the_bound() {
    let pool = PacketPool::heap(PoolLayout { frames: 64, frame_size: 4096, headroom: 128 });
    let cap = 128 << 10;
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    let mut at = 0;
    while queue.space(cap) > 0 {
        let len = queue.space(cap).min(100);
        let inserted = queue.insert(SeqNumber(at), slices(&pool, &vec![1; len]), cap, false);
        assert_eq!(inserted.advanced, len as u32);
        assert!(queue.memory() <= cap);
        at += len as u32;
    }
    assert_eq!(queue.readable(), cap / 4 * 3);
}

/// A whole window arrives but for its first segment: what was announced must have room, or the peer sends it twice.
#[test]
fn a_window_behind_one_gap_fits() {
    for cap in [128 << 10, 512 << 10, 6 << 20] {
        for frame_size in [2048, 4096] {
            let pool = PacketPool::heap(PoolLayout { frames: 6000, frame_size, headroom: 128 });
            let mut queue = ReceiveQueue::new(SeqNumber(0));
            let window = queue.space(cap);
            for at in (MSS..window).step_by(MSS) {
                let len = MSS.min(window - at);
                let payload = slices(&pool, &stream(at as u64, len));
                let inserted = queue.insert(SeqNumber(at as u32), payload, cap, false);
                assert_eq!(inserted.dropped, 0, "cap {cap}: {at} of {window}");
            }
            assert_eq!(queue.out_of_order_bytes(), window - MSS, "nothing was evicted");
            assert!(queue.memory() <= cap);
            queue.insert(SeqNumber(0), slices(&pool, &stream(0, MSS)), cap, false);
            check(&queue);
            assert_eq!(read_all(&mut queue), stream(0, window));
        }
    }
}

#[test]
fn in_order_data_takes_the_place_of_the_farthest_out_of_order_data() {
    let cap = 64 << 10;
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    for i in 0..160u32 {
        queue.insert_bytes(SeqNumber(20_000 + 100 * i), &[1], cap);
    }
    let before = queue.out_of_order_bytes();
    let mut at = 0;
    while queue.space(cap) > 0 && at < 19_000 {
        assert_eq!(queue.insert_bytes(SeqNumber(at), &[1; 1000], cap).advanced, 1000);
        at += 1000;
    }
    assert!(queue.out_of_order_bytes() < before && queue.has_gap());
    assert!(queue.memory() <= cap);
    assert_eq!(
        queue.ahead.unwrap().runs.keys().next().map(|start| *start as u32),
        Some(20_000),
        "the nearest stayed"
    );
}

#[test]
fn bytes_behind_the_window_are_dropped_and_said_so() {
    let cap = 64 << 10;
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    let window = queue.space(cap) as u32;
    let inserted = queue.insert_bytes(SeqNumber(window - 10), &[1; 100], cap);
    assert_eq!(inserted, Inserted { new_out_of_order: 10, dropped: 90, ..Inserted::default() });
    let beyond = queue.insert_bytes(SeqNumber(window + 500), &[1; 100], cap);
    assert_eq!(beyond, Inserted { dropped: 100, ..Inserted::default() });
}

#[test]
fn the_windows_right_edge_never_moves_back() {
    let cap = 100_000;
    let mut queue = ReceiveQueue::new(SeqNumber(0));
    let mut edge = queue.rcv_nxt() + queue.space(cap) as u32;
    for i in 0..5000u32 {
        queue.insert_bytes(queue.rcv_nxt(), &vec![1; (i as usize * 37) % 900], cap);
        if i % 3 == 0 {
            queue.read(&mut [0; 1100]);
        }
        let next = queue.rcv_nxt() + queue.space(cap) as u32;
        assert!(next.ge(edge));
        edge = next;
    }
}

#[derive(Clone, Copy, Debug)]
enum How {
    Frames,
    Copied,
    Bytes,
}

#[derive(Clone, Debug)]
enum Step {
    /// Distance from RCV.NXT, length.
    Insert(i32, usize, How),
    Read(usize),
    Chunk,
    ReleaseFrames,
    Peek(usize),
}

fn step(reach: i32) -> impl Strategy<Value = Step> {
    let distance = prop_oneof![3 => Just(0), 4 => -40..80i32, 3 => -2000..reach, 1 => 0..reach / 8];
    let len = prop_oneof![3 => 0usize..3, 3 => 1usize..50, 3 => 400usize..1500, 1 => 0usize..6000];
    let how = prop_oneof![3 => Just(How::Frames), 1 => Just(How::Copied), 2 => Just(How::Bytes)];
    prop_oneof![
        20 => (distance, len, how).prop_map(|(distance, len, how)| Step::Insert(distance, len, how)),
        3 => (0usize..5000).prop_map(Step::Read),
        2 => Just(Step::Chunk),
        1 => Just(Step::ReleaseFrames),
        1 => (0usize..5000).prop_map(Step::Peek),
    ]
}

fn insert(
    queue: &mut ReceiveQueue,
    pool: &PacketPool,
    (distance, how): (i32, How),
    bytes: &[u8],
    cap: usize,
) -> Inserted {
    let seq = SeqNumber(queue.rcv_nxt().0.wrapping_add_signed(distance));
    match how {
        How::Frames => queue.insert(seq, slices(pool, bytes), cap, false),
        How::Copied => queue.insert(seq, slices(pool, bytes), cap, true),
        How::Bytes => queue.insert_bytes(seq, bytes, cap),
    }
}

/// What the queue should be: the bytes received, by distance from the stream's start, the first copy of each.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<i64, u8>,
    next: i64,
    read: i64,
}

impl Model {
    fn insert(&mut self, at: i64, bytes: &[u8]) -> Inserted {
        let (next, ahead) = (self.next, self.ahead());
        let mut duplicate: Option<(i64, i64)> = None;
        for (offset, value) in (at..).zip(bytes) {
            let known = offset < self.next || self.bytes.contains_key(&offset);
            match &mut duplicate {
                None if known => duplicate = Some((offset, offset + 1)),
                Some((_, end)) if known && *end == offset => *end += 1,
                _ => {}
            }
            if !known {
                self.bytes.insert(offset, *value);
            }
        }
        while self.bytes.contains_key(&self.next) {
            self.next += 1;
        }
        let seq = |offset: i64| SeqNumber(offset as u32);
        Inserted {
            advanced: (self.next - next) as u32,
            new_out_of_order: self.ahead().saturating_sub(ahead) as u32,
            duplicate: duplicate.map(|(start, end)| (seq(start), seq(end))),
            dropped: 0,
        }
    }

    /// Bytes ahead of a gap.
    fn ahead(&self) -> usize {
        self.bytes.range(self.next..).count()
    }

    fn runs(&self) -> Vec<(i64, i64)> {
        let mut runs: Vec<(i64, i64)> = Vec::new();
        for offset in self.bytes.range(self.next..).map(|(offset, _)| *offset) {
            match runs.last_mut() {
                Some((_, end)) if *end == offset => *end += 1,
                _ => runs.push((offset, offset + 1)),
            }
        }
        runs
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let end = self.next.min(self.read + len as i64);
        let taken = (self.read..end).map(|offset| self.bytes.remove(&offset).unwrap()).collect();
        self.read = end;
        taken
    }
}

proptest! {
    /// Against a map of bytes: the first copy of each byte arrives, once, in order; every figure agrees; the report names
    /// whole runs, the latest first; every frame goes back.
    #[test]
    fn behaves_as_a_map_of_bytes(start: u32, steps in prop::collection::vec(step(12_000), 1..120)) {
        let pool = pool(1200);
        let mut queue = ReceiveQueue::new(SeqNumber(start));
        let mut model = Model { next: i64::from(start), read: i64::from(start), ..Model::default() };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert(distance, len, how) => {
                    let bytes = vec![number as u8; len];
                    let at = model.next + i64::from(distance);
                    let next = model.next;
                    let expected = model.insert(at, &bytes);
                    let inserted = insert(&mut queue, &pool, (distance, how), &bytes, NO_BOUND);
                    prop_assert_eq!(inserted, expected);
                    if at > next && len > 0 && at >= model.next {
                        let (first, end) = queue.sack_blocks()[0];
                        prop_assert!(SeqNumber(at as u32).in_window(first, end.since(first)));
                    }
                }
                Step::Read(len) => {
                    let mut out = vec![0; len];
                    let read = queue.read(&mut out);
                    prop_assert_eq!(&out[..read], &model.take(len)[..]);
                }
                Step::Chunk => {
                    let chunk = queue.read_chunk();
                    let bytes = chunk.as_ref().map_or(&[][..], chunk_bytes);
                    prop_assert_eq!(chunk.is_some(), model.next > model.read);
                    prop_assert_eq!(bytes, &model.take(bytes.len())[..]);
                }
                Step::ReleaseFrames => {
                    queue.release_frames();
                    prop_assert_eq!(pool.shared_frames(), 0);
                }
                Step::Peek(len) => {
                    let mut out = vec![0; len];
                    let peeked = queue.peek(&mut out);
                    prop_assert_eq!(peeked as i64, (model.next - model.read).min(len as i64));
                    let same = (model.read..).zip(&out[..peeked]).all(|(offset, value)| model.bytes[&offset] == *value);
                    prop_assert!(same);
                }
            }
            check(&queue);
            prop_assert_eq!(queue.rcv_nxt(), SeqNumber(model.next as u32));
            prop_assert_eq!(queue.readable() as i64, model.next - model.read);
            prop_assert_eq!(queue.out_of_order_bytes(), model.ahead());
            let runs: Vec<_> = model.runs().iter().map(|(start, end)| (SeqNumber(*start as u32), SeqNumber(*end as u32))).collect();
            let blocks = queue.sack_blocks();
            prop_assert!(blocks.iter().all(|block| runs.contains(block)));
            prop_assert_eq!(blocks.len(), runs.len().min(4));
            prop_assert!((1..blocks.len()).all(|i| !blocks[..i].contains(&blocks[i])));
        }
        drop(queue);
        prop_assert_eq!(pool.free_frames(), 1200);
    }

    /// With a tight bound: the memory stays within it, what the window promised is taken, and the stream is right.
    #[test]
    fn keeps_its_bound_and_its_promise(
        start: u32,
        cap in prop_oneof![4096usize..20_000, 20_000usize..300_000],
        frame_size in prop_oneof![Just(2048u32), Just(4096)],
        steps in prop::collection::vec(step(60_000), 1..400),
    ) {
        let pool = PacketPool::heap(PoolLayout { frames: 1200, frame_size, headroom: 128 });
        let mut queue = ReceiveQueue::new(SeqNumber(start));
        let (mut next, mut read) = (1u64 << 32, 1u64 << 32);
        for step in steps {
            match step {
                Step::Insert(distance, len, how) => {
                    let at = next.wrapping_add_signed(i64::from(distance));
                    let (space, gap, ahead) = (queue.space(cap), queue.has_gap(), queue.out_of_order_bytes());
                    let inserted = insert(&mut queue, &pool, (distance, how), &stream(at, len), cap);
                    prop_assert!(queue.memory() <= cap, "{} of {cap}", queue.memory());
                    let new = (at + len as u64).saturating_sub(next.max(at));
                    if at <= next {
                        let taken = new.min(space as u64);
                        prop_assert!(u64::from(inserted.advanced) >= taken);
                        prop_assert!(gap || u64::from(inserted.advanced) == taken);
                        prop_assert_eq!(u64::from(inserted.dropped), new - taken);
                    } else {
                        prop_assert_eq!(inserted.advanced, 0);
                        prop_assert!(u64::from(inserted.new_out_of_order + inserted.dropped) <= new);
                        prop_assert!(queue.out_of_order_bytes() <= ahead + inserted.new_out_of_order as usize);
                    }
                    next += u64::from(inserted.advanced);
                }
                Step::Read(len) | Step::Peek(len) => {
                    let mut out = vec![0; len];
                    let got = queue.read(&mut out);
                    prop_assert_eq!(&out[..got], &stream(read, got)[..]);
                    read += got as u64;
                }
                Step::Chunk => {
                    if let Some(chunk) = queue.read_chunk() {
                        let bytes = chunk_bytes(&chunk);
                        prop_assert_eq!(bytes, &stream(read, bytes.len())[..]);
                        read += bytes.len() as u64;
                    }
                }
                Step::ReleaseFrames => queue.release_frames(),
            }
            check(&queue);
            prop_assert_eq!(queue.readable() as u64, next - read);
        }
        queue.clear();
        prop_assert_eq!((queue.memory(), pool.free_frames()), (0, 1200));
    }

    /// Long assaults, each a pattern made to waste memory: holes, single bytes, payload just long enough to keep its
    /// frame, blocks that meet half full. The bound and the promise hold through all of them.
    #[test]
    fn patterns_made_to_waste_memory_do_not_pass_the_bound(
        cap in prop_oneof![4096usize..70_000, 70_000usize..1 << 19],
        frame_size in prop_oneof![Just(2048u32), Just(4096)],
        phases in prop::collection::vec(assault(), 1..12),
    ) {
        let pool = PacketPool::heap(PoolLayout { frames: 300, frame_size, headroom: 128 });
        let mut queue = ReceiveQueue::new(SeqNumber(0));
        for Assault { count, distance, stride, lens, read } in phases {
            for i in 0..count {
                let len = lens[i % lens.len()];
                let distance = (distance + i * stride) % (ReceiveQueue::window_max(cap) + 2000);
                let copy = pool.free_frames() < 8;
                let payload = slices(&pool, &vec![1; len]);
                let space = queue.space(cap);
                let inserted = queue.insert(queue.rcv_nxt() + distance as u32, payload, cap, copy);
                prop_assert!(queue.memory() <= cap, "{} of {cap}", queue.memory());
                prop_assert!(distance > 0 || inserted.advanced as usize >= len.min(space));
                queue.read(&mut vec![0; read]);
            }
            check(&queue);
        }
    }
}

/// The same kind of segment over and over.
#[derive(Clone, Debug)]
struct Assault {
    count: usize,
    /// From RCV.NXT.
    distance: usize,
    stride: usize,
    /// Lengths in turn.
    lens: Vec<usize>,
    /// Bytes read after each.
    read: usize,
}

fn assault() -> impl Strategy<Value = Assault> {
    let len = prop_oneof![
        Just(1usize),
        1usize..20,
        Just(512),
        500usize..520,
        Just(1024),
        1000usize..1460,
        200usize..300
    ];
    let distance = prop_oneof![2 => Just(0usize), 1 => 1usize..3000, 1 => 0usize..1 << 18];
    let stride = prop_oneof![3 => Just(0usize), 2 => 1usize..20, 1 => 500usize..3000];
    let read = prop_oneof![4 => Just(0usize), 1 => 0usize..1500];
    (1usize..800, distance, stride, prop::collection::vec(len, 1..4), read)
        .prop_map(|(count, distance, stride, lens, read)| Assault { count, distance, stride, lens, read })
}
