//! Micro-benchmarks of the pieces, and of whole stacks in memory beside smoltcp's in the same run:
//! `cargo bench -p bywash-benches`. Medians and ratios are printed at the end.

use std::hint::black_box;
use std::time::SystemTime;

use bywash::packet::checksum::Sum;
use bywash::packet::{Packet, PacketPool, PoolLayout};
use bywash::parse::{Policy, parse};
use bywash::time::{Duration, Instant};
use bywash::timer_wheel::TimerWheel;
use bywash_benches::{BULK_BYTES, ours, report, theirs};
use criterion::{BenchmarkId, Criterion, Throughput};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetAddress, EthernetFrame, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, TcpRepr};

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [64usize, 1460, 9000] {
        let bytes = vec![0xa5; len];
        let mut copy = vec![0; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("sum", len), |b| {
            b.iter(|| {
                let mut sum = Sum::ZERO;
                sum.add(black_box(&bytes));
                sum.checksum()
            });
        });
        group.bench_function(BenchmarkId::new("copy-and-sum", len), |b| {
            b.iter(|| {
                let mut sum = Sum::ZERO;
                sum.copy_and_add(&mut copy, black_box(&bytes));
                sum.checksum()
            });
        });
        group.bench_function(BenchmarkId::new("two-bytes-at-a-time", len), |b| {
            b.iter(|| {
                black_box(&bytes)
                    .chunks(2)
                    .fold(0u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]))
            });
        });
    }
}

fn parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let pool = PacketPool::heap(PoolLayout { frames: 4, frame_size: 2048, headroom: 128 });
    let frame = ours::segment(0, 1, 2, 0x10);
    let packet = Packet::copy_from(&pool, &frame).expect("the pool has frames");
    let policy = Policy {
        mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
        addresses: vec!["10.0.0.1/8".parse().expect("an address")],
        groups: Vec::new(),
        partial_checksums: false,
        dhcp: false,
        hash_keys: (1, 2),
    };
    assert!(parse(&packet, &policy).is_ok());
    group
        .bench_function(BenchmarkId::new("bywash", "tcp"), |b| b.iter(|| parse(black_box(&packet), &policy)));
    group.bench_function(BenchmarkId::new("smoltcp", "tcp"), |b| {
        b.iter(|| {
            let checksums = ChecksumCapabilities::default();
            let ethernet = EthernetFrame::new_checked(black_box(&frame[..])).expect("a frame");
            let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("a packet");
            let repr = Ipv4Repr::parse(&ip, &checksums).expect("a packet");
            assert_eq!(repr.next_header, IpProtocol::Tcp);
            let tcp = TcpPacket::new_checked(ip.payload()).expect("a segment");
            let (src, dst) = (repr.src_addr.into(), repr.dst_addr.into());
            TcpRepr::parse(&tcp, &src, &dst, &checksums).expect("a segment").seq_number
        });
    });
}

fn pool(c: &mut Criterion) {
    let pool = PacketPool::heap(PoolLayout { frames: 4096, frame_size: 2048, headroom: 128 });
    c.bench_function("pool/take-and-return", |b| {
        b.iter(|| Packet::alloc(black_box(&pool)).map(|packet| packet.len()));
    });
}

fn timers(c: &mut Criterion) {
    let mut group = c.benchmark_group("timers");
    let mut wheel = TimerWheel::new(Instant::ZERO);
    for key in 0..100_000u32 {
        wheel.schedule(Instant::from_millis(u64::from(key % 7_000_000) + 1_000_000), key);
    }
    let mut at = 0;
    group.bench_function("schedule-and-cancel/100k", |b| {
        b.iter(|| {
            at = (at + 7919) % 100_000;
            let id = wheel.schedule(Instant::from_millis(200 + at), 0);
            wheel.cancel(black_box(id))
        });
    });
    let (mut now, mut fired) = (Instant::ZERO, Vec::new());
    group.bench_function("advance-1ms/100k", |b| {
        b.iter(|| {
            now += Duration::from_millis(1);
            wheel.advance(now, &mut fired);
            fired.drain(..).count()
        });
    });
}

fn demux(c: &mut Criterion) {
    let mut group = c.benchmark_group("demux-32-segments");
    group.throughput(Throughput::Elements(32)).sample_size(30);
    // What is measured is built when criterion comes to it, so that a filter skips it.
    for connections in [100, 1_000, 10_000, 100_000] {
        let (mut crowd, mut from) = (None, 0);
        group.bench_function(BenchmarkId::new("bywash", connections), |b| {
            let crowd = crowd.get_or_insert_with(|| ours::Crowd::new(connections));
            b.iter(|| crowd.burst(&mut from));
        });
    }
    // Opening costs smoltcp a scan of all sockets for each of them: 100,000 take minutes.
    for connections in [100, 1_000, 10_000] {
        let (mut crowd, mut from) = (None, 0);
        group.bench_function(BenchmarkId::new("smoltcp", connections), |b| {
            let crowd = crowd.get_or_insert_with(|| theirs::Crowd::new(connections));
            b.iter(|| crowd.burst(&mut from));
        });
    }
}

fn transfer(c: &mut Criterion) {
    let mut group = c.benchmark_group("bulk");
    group.throughput(Throughput::Bytes(BULK_BYTES as u64)).sample_size(20);
    let (mut our_pair, mut their_pair) = (None, None);
    group.bench_function(BenchmarkId::new("bywash", "4MiB"), |b| {
        let pair = our_pair.get_or_insert_with(ours::Pair::new);
        b.iter(|| pair.bulk(BULK_BYTES));
    });
    group.bench_function(BenchmarkId::new("smoltcp", "4MiB"), |b| {
        let pair = their_pair.get_or_insert_with(theirs::Pair::new);
        b.iter(|| pair.bulk(BULK_BYTES));
    });
    group.finish();
    let mut group = c.benchmark_group("request-response");
    group.bench_function(BenchmarkId::new("bywash", "64B"), |b| {
        let pair = our_pair.get_or_insert_with(ours::Pair::new);
        b.iter(|| pair.request());
    });
    group.bench_function(BenchmarkId::new("smoltcp", "64B"), |b| {
        let pair = their_pair.get_or_insert_with(theirs::Pair::new);
        b.iter(|| pair.request());
    });
}

fn main() {
    let start = SystemTime::now();
    let directory = report::directory();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .output_directory(&directory)
        .configure_from_args();
    checksum(&mut criterion);
    parsing(&mut criterion);
    pool(&mut criterion);
    timers(&mut criterion);
    demux(&mut criterion);
    transfer(&mut criterion);
    criterion.final_summary();
    match report::medians(&directory, start) {
        Ok(medians) => report::print(&medians),
        Err(error) => eprintln!("no results in {}: {error}", directory.display()),
    }
}
