//! Micro-benchmarks of the pieces: `cargo bench -p bywash-benches --bench micro`.

use std::hint::black_box;
use std::time::Duration;

use bywash::packet::checksum::Sum;
use bywash::packet::{Packet, PacketPool, PoolLayout};
use bywash::parse::{Policy, parse};
use bywash_benches::frames::{self, Segment, flags};
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
    let segment = Segment { seq: 1, ack: 2, flags: flags::ACK, window: 512, ..Segment::default() };
    let mut frame = Vec::new();
    frames::write(&segment, &mut frame);
    let packet = Packet::copy_from(&pool, &frame).expect("the pool has frames");
    let policy = Policy {
        mac: EthernetAddress([2, 0, 0, 0, 0, 1]),
        addresses: vec!["10.0.0.1/8".parse().expect("an address")],
        groups: Vec::new(),
        partial_checksums: false,
        dhcp: false,
        forwarding: false,
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

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    checksum(&mut criterion);
    parsing(&mut criterion);
    pool(&mut criterion);
    criterion.final_summary();
}
