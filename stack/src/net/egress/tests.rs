use core::net::SocketAddr;

use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{TcpOption, TcpPacket, TcpRepr};

use super::*;
use crate::device::Capabilities;
use crate::net::neighbor::{Claim, Neighbors};
use crate::tcp::seq::SeqNumber;
use crate::tcp::{Egress, IpFields};

const US: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const THEM: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

struct Sink {
    capabilities: Capabilities,
    pool: PacketPool,
    sent: Vec<Packet>,
    room: usize,
}

impl Device for Sink {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn pool(&self) -> &PacketPool {
        &self.pool
    }
    fn receive(&mut self, _: &mut PacketBatch, _: usize) -> usize {
        0
    }
    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        let count = self.room.min(batch.len());
        self.sent.extend(batch.drain(..count));
        count
    }
    fn transmit_room(&mut self) -> usize {
        self.room
    }
}

/// An output with an address of each family, and one neighbour known.
fn bench(layout: PoolLayout, mtu: usize) -> (Output, Sink) {
    let pool = PacketPool::heap(layout);
    let ids = FragmentIds::new(&mut ChaCha12Rng::from_seed([0; 32]), 0, 1);
    let link = Link::new(US, mtu, Neighbors::new((0, 0)));
    let mut output = Output::new(vec![link], true, pool.clone(), ids, Instant::ZERO);
    let links = ["192.0.2.1/24", "2001:db8::1/64"].map(|text| (text.parse().unwrap(), 0)).to_vec();
    output.set_routes(Routes::new(links, Vec::new()));
    for addr in ["192.0.2.2", "2001:db8::2"] {
        output.heard(
            Instant::ZERO,
            Heard { link: 0, addr: addr.parse().unwrap(), mac: THEM, claim: Claim::Asked },
        );
    }
    let capabilities = Capabilities { mac: US, mtu, partial_checksums: false, tx_frames_max: 9 };
    (output, Sink { capabilities, pool, sent: Vec::new(), room: usize::MAX })
}

const LAYOUT: PoolLayout = PoolLayout { frames: 512, frame_size: 2048, headroom: 64 };

fn segment<'a>(six: bool, options: &'a [u8], payload: &'a [&'a [u8]]) -> SegmentOut<'a> {
    let addr = |four: &str, sixes: &str| -> SocketAddr { if six { sixes } else { four }.parse().unwrap() };
    SegmentOut {
        src: addr("192.0.2.1:4000", "[2001:db8::1]:4000"),
        dst: addr("192.0.2.2:80", "[2001:db8::2]:80"),
        seq: SeqNumber(0x0102_0304),
        ack: SeqNumber(0x0506_0708),
        flags: 0x018,
        first_flags: 0,
        window: 500,
        urgent: 0,
        options,
        payload,
        mss: usize::MAX,
        ecn: 2,
        ip: IpFields { tos: 0xb9, hop_limit: 7 },
    }
}

proptest! {
    /// Whatever the payload's pieces and the frames' size, smoltcp reads back what was sent.
    #[test]
    fn segments_are_right_to_the_byte(
        six in any::<bool>(),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..4),
        frame_size in 256u32..2048,
        options in any::<bool>(),
    ) {
        // RFC 9293 section 3.1, MUST-2.
        let layout = PoolLayout { frames: 512, frame_size, headroom: 64 };
        let (mut output, mut sink) = bench(layout, 12_000);
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let options: &[u8] = if options { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] };
        // The second time the hop is remembered.
        let (mut frame, mut again) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            output.send(Instant::ZERO, &segment(six, options, &slices)).unwrap();
        }
        output.flush(&mut sink);
        sink.sent[0].copy_to(&mut frame);
        sink.sent[1].copy_to(&mut again);
        prop_assert_eq!(&again, &frame);
        let ethernet = EthernetFrame::new_checked(&frame[..]).unwrap();
        prop_assert_eq!((ethernet.src_addr(), ethernet.dst_addr()), (US, THEM));
        let checksums = ChecksumCapabilities::default();
        let (src, dst, ip_payload) = if six {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).unwrap();
            prop_assert_eq!((ip.hop_limit(), ip.traffic_class(), ip.flow_label()), (7, 0xba, 0));
            (ip.src_addr().into(), ip.dst_addr().into(), ip.payload().to_vec())
        } else {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
            prop_assert!(ip.verify_checksum() && ip.dont_frag() && !ip.more_frags());
            prop_assert_eq!((ip.hop_limit(), ip.ecn(), ip.dscp()), (7, 2, 46));
            (ip.src_addr().into(), ip.dst_addr().into(), ip.payload().to_vec())
        };
        let tcp = TcpPacket::new_checked(&ip_payload[..]).unwrap();
        let repr = TcpRepr::parse(&tcp, &src, &dst, &checksums).unwrap();
        prop_assert_eq!((repr.src_port, repr.dst_port, repr.window_len), (4000, 80, 500));
        prop_assert_eq!((tcp.seq_number().0, tcp.ack_number().0), (0x0102_0304, 0x0506_0708));
        prop_assert!(tcp.psh() && tcp.ack() && !tcp.syn() && !tcp.fin() && !tcp.rst());
        prop_assert_eq!(repr.payload, &pieces.concat()[..]);
        if !options.is_empty() {
            let (_, timestamp) = TcpOption::parse(&tcp.options()[2..]).unwrap();
            prop_assert_eq!(timestamp, TcpOption::TimeStamp { tsval: 1, tsecr: 2 });
        }
        prop_assert_eq!((output.counters.tx_packets, output.counters.tx_bytes), (2, 2 * frame.len() as u64));
        sink.sent.clear();
        prop_assert_eq!(sink.pool.free_frames(), 512);
    }
}

#[test]
fn a_full_backlog_and_an_empty_pool_say_so() {
    let (mut output, mut sink) = bench(LAYOUT, 1500);
    let mut sent = 0;
    while output.send(Instant::ZERO, &segment(false, &[], &[])).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, limits::TX_BACKLOG_PACKETS);
    assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[])), Err(EgressError::Full));
    sink.room = 1;
    output.flush(&mut sink);
    assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[])), Ok(0));

    let small = PoolLayout { frames: 16, ..LAYOUT };
    let (mut output, _sink) = bench(small, 1500);
    let data: &[&[u8]] = &[b"data"];
    let bulk = core::iter::from_fn(|| output.send(Instant::ZERO, &segment(false, &[], data)).ok()).count();
    assert_eq!(bulk, 14, "an eighth of the pool is left for control packets");
    assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[])), Ok(0));
    assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[])), Ok(0));
    assert_eq!(output.send(Instant::ZERO, &segment(false, &[], &[])), Err(EgressError::Full));
}

/// The frames that `output` has for the device, as bytes.
fn flushed(output: &mut Output, sink: &mut Sink) -> Vec<Vec<u8>> {
    output.flush(sink);
    sink.sent.drain(..).map(|packet| packet.segments().flatten().copied().collect()).collect()
}

#[test]
fn a_super_segment_is_cut_into_the_frames_of_its_segments() {
    for six in [false, true] {
        let payload: Vec<u8> = (0..30_000u32).map(|at| (at / 7) as u8).collect();
        let options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let (mut output, mut sink) = bench(LAYOUT, 1500);
        let pieces: &[&[u8]] = &[&payload[..10_001], &payload[10_001..]];
        let whole =
            SegmentOut { mss: 1400, first_flags: 0x80, flags: 0x99, ..segment(six, &options, pieces) };
        assert_eq!(output.send(Instant::ZERO, &whole), Ok(30_000));
        assert_eq!((output.counters.gso_super_segments, output.counters.gso_segments), (1, 22));
        let cut = flushed(&mut output, &mut sink);
        let sent = whole.each(|segment| output.send(Instant::ZERO, segment).map(|_| ()));
        assert_eq!((sent, output.counters.gso_super_segments), (Ok(30_000), 1));
        assert_eq!(cut, flushed(&mut output, &mut sink), "one by one");
    }
}

#[test]
fn of_a_super_segment_goes_what_there_is_room_and_frames_for() {
    let (mut output, mut sink) = bench(LAYOUT, 1500);
    let payload: &[&[u8]] = &[&[0; 60_000]];
    let whole = SegmentOut { mss: 1000, ..segment(false, &[], payload) };
    for _ in 0..4 {
        assert_eq!(output.send(Instant::ZERO, &whole), Ok(60_000));
    }
    assert!(!output.refused);
    assert_eq!(output.send(Instant::ZERO, &whole), Ok(16_000), "the backlog takes 256 packets");
    assert!(output.is_blocked());
    assert_eq!(output.send(Instant::ZERO, &whole), Err(EgressError::Full));
    assert_eq!(flushed(&mut output, &mut sink).len(), limits::TX_BACKLOG_PACKETS);

    // An eighth of the pool is left for control packets; a packet of three frames goes whole or not at all.
    let small = PoolLayout { frames: 16, frame_size: 512, headroom: 64 };
    let (mut output, mut sink) = bench(small, 1500);
    assert_eq!(output.send(Instant::ZERO, &whole), Ok(4000));
    assert_eq!(output.pool.free_frames(), 4);
    assert_eq!(output.send(Instant::ZERO, &whole), Ok(1000));
    assert_eq!(output.send(Instant::ZERO, &whole), Err(EgressError::Full));
    assert_eq!(flushed(&mut output, &mut sink).len(), 5);
    assert_eq!(output.pool.free_frames(), 16);
}

#[test]
fn a_super_segment_waits_for_its_neighbour_as_segments_do() {
    let (mut output, mut sink) = bench(LAYOUT, 1500);
    let addr = "192.0.2.9:80".parse().unwrap();
    let whole = SegmentOut { mss: 1000, dst: addr, ..segment(false, &[], &[&[0; 5000]]) };
    assert_eq!(output.send(Instant::ZERO, &whole), Ok(5000));
    assert!(flushed(&mut output, &mut sink).is_empty());
    output.heard(Instant::ZERO, Heard { link: 0, addr: addr.ip(), mac: THEM, claim: Claim::Asked });
    let sent = flushed(&mut output, &mut sink);
    assert_eq!(sent.len(), 5);
    assert!(sent.iter().all(|frame| frame[..6] == THEM.0));
}

#[test]
fn too_long_and_unroutable_segments_are_refused() {
    let (mut output, _sink) = bench(LAYOUT, 1500);
    let payload = vec![0; 1461];
    let data: &[&[u8]] = &[&payload];
    let too_big = Err(EgressError::TooBig { mtu: 1500 });
    assert_eq!(output.send(Instant::ZERO, &segment(false, &[], data)), too_big);
    let fits: &[&[u8]] = &[&payload[1..]];
    assert_eq!(output.send(Instant::ZERO, &segment(false, &[], fits)), Ok(1460));
    assert_eq!(output.send(Instant::ZERO, &segment(true, &[], fits)), too_big);
    let mut away = segment(false, &[], &[]);
    away.dst = "198.51.100.1:80".parse().unwrap();
    assert_eq!(output.send(Instant::ZERO, &away), Err(EgressError::NoRoute));
    away.dst = "192.0.2.1:80".parse().unwrap();
    assert_eq!(output.send(Instant::ZERO, &away), Err(EgressError::NoRoute), "there is no loopback");
}

#[test]
fn a_segment_waits_for_its_neighbor_and_follows_it_when_it_moves() {
    let (mut output, mut sink) = bench(LAYOUT, 1500);
    let mut unknown = segment(false, &[], &[]);
    unknown.dst = "192.0.2.9:80".parse().unwrap();
    output.send(Instant::ZERO, &unknown).unwrap();
    output.flush(&mut sink);
    assert_eq!(sink.sent.len(), 0);
    let addr = unknown.dst.ip();
    for mac in [THEM, EthernetAddress([2, 0, 0, 0, 0, 3])] {
        let claim = Claim::Told { solicited: true, replace: true };
        output.heard(Instant::ZERO, Heard { link: 0, addr, mac, claim });
        output.send(Instant::ZERO, &unknown).unwrap();
        output.flush(&mut sink);
        assert_eq!(sink.sent.last().unwrap().head()[..6], mac.0);
    }
    assert_eq!(sink.sent.len(), 3);
}

#[test]
fn a_neighbor_in_use_is_asked_again_when_its_time_is_over() {
    let (mut output, mut sink) = bench(LAYOUT, 1500);
    let (mut now, mut asked) = (Instant::ZERO, 0);
    let end = now + limits::NEIGHBOR_LIFETIME + limits::NEIGHBOR_DELAY + Duration::from_secs(2);
    while now < end {
        output.send(now, &segment(false, &[], &[b"data"])).unwrap();
        output.poll_neighbors(now, &mut Vec::new());
        asked += flushed(&mut output, &mut sink).iter().filter(|frame| frame[12..14] == [8, 6]).count();
        now += Duration::from_millis(50);
    }
    assert!(asked > 0, "TCP's use of it must reach the neighbour table");
}

#[test]
fn beyond_a_router_what_no_socket_sends_keeps_to_the_minimum_mtu() {
    let (mut output, mut sink) = bench(LAYOUT, 1500);
    let links = vec![("2001:db8::1/64".parse().unwrap(), 0)];
    let destination = "::/0".parse().unwrap();
    let gateway: IpAddr = "2001:db8::2".parse().unwrap();
    output.set_routes(Routes::new(links, vec![crate::config::Route { destination, gateway, link: None }]));
    output.heard(Instant::ZERO, Heard { link: 0, addr: gateway, mac: THEM, claim: Claim::Asked });
    let (near, far): (IpAddr, IpAddr) = ("2001:db8::2".parse().unwrap(), "2001:db8:1::2".parse().unwrap());
    let mut longest = |output: &mut Output, dst: IpAddr, number: u8| {
        let mut packet = vec![0; 1500];
        write_header(&mut packet, "2001:db8::1".parse().unwrap(), dst, number, 1460, 0, 64);
        output.send_ip(Instant::ZERO, &mut packet);
        output.flush(&mut sink);
        sink.sent.drain(..).map(|packet| packet.len() - 14).max().unwrap()
    };
    // RFC 8200 section 5.
    assert_eq!(longest(&mut output, near, protocol::ICMPV6), 1500);
    assert_eq!(longest(&mut output, far, protocol::ICMPV6), 1280);
    assert_eq!(longest(&mut output, far, protocol::UDP), 1500);
    for (witness, mtu) in [(Witness::Datagram, 1400), (Witness::Connection, 1304)] {
        assert!(output.learn_path_mtu(Instant::ZERO, PathMtu { dst: far, mtu, witness }));
        let longest = longest(&mut output, far, protocol::UDP);
        assert!((usize::from(mtu) - 8..=mtu.into()).contains(&longest), "{longest}");
    }
    let too_low = PathMtu { dst: near, mtu: 1279, witness: Witness::Connection };
    assert!(!output.learn_path_mtu(Instant::ZERO, too_low));
}

#[test]
fn the_mtu_is_what_the_frames_hold() {
    let layout = |frame_size, headroom| PoolLayout { frames: 1, frame_size, headroom };
    assert_eq!(mtu_in_frames(layout(2048, 64), 1), 2048 - 64 - 14);
    assert_eq!(mtu_in_frames(layout(4096, 256), 3), 3 * (4096 - 256) - 14);
    assert_eq!(mtu_in_frames(layout(256, 200), 100), 0, "no room for headers");
}

#[test]
fn the_icmp_budget_fills_up_with_time() {
    let mut budget = IcmpBudget { tokens: 0, filled: Instant::ZERO };
    assert!(!budget.take(Instant::ZERO));
    let each = Duration::from_secs(1) / limits::ICMP_REPLIES_PER_SECOND;
    assert!(budget.take(Instant::ZERO + each));
    assert!(!budget.take(Instant::ZERO + each + each / 2));
    assert!(budget.take(Instant::ZERO + each * 2), "fractions are not lost");
    let later = Instant::ZERO + Duration::from_secs(100);
    let burst = (0..).take_while(|_| budget.take(later)).count();
    assert_eq!(burst as u32, limits::ICMP_REPLIES_PER_SECOND);
}
