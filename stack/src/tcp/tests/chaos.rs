//! Segments, calls and time in any order: nothing panics, what must hold of a connection holds, and in the end nothing is
//! left.

use core::task::{Poll, Waker};

use proptest::prelude::*;

use super::super::connection::Listed;
use super::super::header::Flags;
use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Segment(Seg),
    Advance(u64),
    Write(usize),
    Read(usize),
    Shutdown(bool, bool),
    Close,
    Abort,
    Options(u8),
    Connect,
    Room(usize),
    Icmp(u32, IcmpErrorKind),
}

/// Numbers near those that mean something.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => 0u32..5,
        3 => 0u32..3000,
        1 => 65_000u32..70_000,
        1 => any::<u32>(),
        1 => (0u32..5).prop_map(|n| 0u32.wrapping_sub(n)),
    ]
}

fn segment() -> impl Strategy<Value = Seg> {
    let flags = prop_oneof![
        8 => Just(Flags::ACK),
        2 => Just(Flags::SYN),
        2 => Just(Flags::SYN | Flags::ACK),
        3 => Just(Flags::FIN | Flags::ACK),
        1 => Just(Flags::RST),
        1 => Just(Flags::RST | Flags::ACK),
        1 => Just(Flags::ACK | Flags::URG),
        1 => (0u16..512).prop_map(Flags),
    ];
    let payload = prop_oneof![3 => Just(0usize), 2 => 1usize..10, 1 => 1usize..1400];
    let timestamps = prop_oneof![2 => Just(None), 1 => (0u32..3000, any::<u32>()).prop_map(Some)];
    let window = prop_oneof![1 => Just(0u16), 1 => 0u16..2000, 3 => Just(u16::MAX)];
    (flags, number(), number(), window, payload, timestamps, 1u16..4, any::<u16>()).prop_map(
        |(flags, seq, ack, window, payload, timestamps, port, urgent)| {
            let mut segment = seg().flags(flags).seq(seq).ack(ack).window(window).port(port);
            segment.payload = vec![port as u8; payload];
            segment.urgent = Some(urgent);
            if let Some((val, ecr)) = timestamps {
                segment = segment.ts(val, ecr);
            }
            if flags.contains(Flags::SYN) {
                segment = segment.mss(urgent).wscale((urgent % 20) as u8);
            }
            segment
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        Just(IcmpErrorKind::Refused),
        Just(IcmpErrorKind::Unreachable),
        Just(IcmpErrorKind::NeighborFailed),
        (0u32..2000).prop_map(|mtu| IcmpErrorKind::PacketTooBig { mtu }),
    ];
    prop_oneof![
        30 => segment().prop_map(Step::Segment),
        4 => prop_oneof![0u64..50, 0u64..2000, 0u64..200_000].prop_map(Step::Advance),
        4 => (0usize..3000).prop_map(Step::Write),
        4 => (1usize..3000).prop_map(Step::Read),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(read, write)| Step::Shutdown(read, write)),
        1 => Just(Step::Close),
        1 => Just(Step::Abort),
        2 => any::<u8>().prop_map(Step::Options),
        2 => Just(Step::Connect),
        2 => prop_oneof![Just(0usize), 0usize..3, Just(usize::MAX)].prop_map(Step::Room),
        1 => (0u32..3000, kind).prop_map(|(seq, kind)| Step::Icmp(seq, kind)),
    ]
}

fn options(bits: u8) -> SocketOptions {
    SocketOptions {
        nodelay: bits & 1 != 0,
        cork: bits & 2 != 0,
        quickack: bits & 4 != 0,
        keepalive: bits & 8 != 0,
        keepalive_idle: Duration::from_secs(20),
        user_timeout: (bits & 16 != 0).then_some(Duration::from_secs(30)),
        linger: (bits & 32 != 0).then_some(Duration::from_secs(u64::from(bits & 64))),
        receive_buffer_bytes: if bits & 128 != 0 { 4096 } else { 256 << 10 },
        ..SocketOptions::default()
    }
}

fn check(t: &Harness) {
    for (id, ..) in t.tcp.connections() {
        let connection = t.tcp.tables.connections.get(id.index).unwrap();
        assert!(connection.snd_una.le(connection.snd_nxt));
        if connection.state != State::SynSent && connection.state != State::Closed {
            assert!(connection.rcv_wnd() <= 1 << 30);
        }
        if connection.attached && connection.syn_acked() {
            connection.sent.check(connection.una_offset, connection.nxt_offset(), connection.sack_enabled);
        }
        if connection.attached {
            let data = connection.outstanding() > 0 || !connection.syn_acked();
            assert!(!data || connection.timers.retransmit.is_some(), "{:?} has no timer", connection.state);
            let earliest = connection.timers.earliest();
            let armed = connection.timers.armed.map(|(_, at)| at);
            assert!(earliest.is_none() || armed.is_some_and(|at| Some(at) <= earliest));
            assert!(
                connection.listed == Listed::Ready || connection.plan().is_none(),
                "{:?}",
                connection.plan()
            );
            assert_ne!(connection.listed, Listed::Touched, "its timers are up to date");
        } else {
            assert!(connection.state.is_over() && connection.listed == Listed::Nowhere);
        }
    }
}

fn perform(t: &mut Harness, ids: &mut Vec<ConnId>, listener: ListenerId, step: Step) {
    if let Some((id, _)) = t.accept(listener) {
        ids.push(id);
    }
    let id = ids.last().copied().unwrap_or(ConnId { index: 0, generation: 99 });
    match step {
        Step::Segment(segment) => t.inject(segment),
        Step::Advance(ms) => t.advance(Duration::from_millis(ms)),
        Step::Write(len) => drop(t.tcp.poll_send(t.now, id, &vec![1; len], Waker::noop())),
        Step::Read(len) => {
            if let Poll::Ready(Ok(read)) = t.tcp.poll_recv(t.now, id, &mut vec![0; len], Waker::noop()) {
                assert!(read <= len);
            }
        }
        Step::Shutdown(read, write) => {
            let how = match (read, write) {
                (true, true) => Shutdown::Both,
                (true, false) => Shutdown::Read,
                _ => Shutdown::Write,
            };
            let _ = t.tcp.shutdown(t.now, id, how);
        }
        Step::Close => {
            t.tcp.close(t.now, id);
            ids.pop();
        }
        Step::Abort => {
            t.tcp.abort(t.now, id);
            ids.pop();
        }
        Step::Options(bits) => {
            let _ = t.tcp.set_options(t.now, id, options(bits));
        }
        Step::Connect => {
            let port = 1 + (t.now.as_millis() % 3) as u16;
            let remote = SocketAddr::new(t.remote.ip(), port);
            ids.extend(t.tcp.connect(t.now, t.local, remote, options(port as u8)));
        }
        Step::Room(room) => t.wire.room = room,
        Step::Icmp(seq, kind) => {
            let tuple = Tuple { local: t.local, remote: SocketAddr::new(t.remote.ip(), 1) };
            let error = IcmpError { tuple, seq: t.isn(1) + seq, kind };
            t.tcp.icmp_error(t.now, &error, &mut t.counters);
        }
    }
    t.transmit();
    t.wire.sent.clear();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn anything_may_happen_at_any_time(bits in any::<u8>(), steps in prop::collection::vec(step(), 0..120)) {
        let mut t = Harness::with(TcpConfig { buffered_bytes_max: 100_000, ..TcpConfig::default() });
        let listener = t.tcp.listen(t.local, 2, options(bits)).unwrap();
        let mut ids = Vec::new();
        for step in steps {
            perform(&mut t, &mut ids, listener, step);
            check(&t);
        }
        t.wire.room = usize::MAX;
        t.tcp.close_listener(t.now, listener).unwrap();
        ids.into_iter().for_each(|id| t.tcp.close(t.now, id));
        t.advance(Duration::from_secs(3000));
        t.expect_clean();
        prop_assert_eq!(t.tcp.census(), Census::default());
        prop_assert_eq!(t.tcp.next_deadline(), None);
    }
}
