use core::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::flow::testing::segment;
use crate::parse::protocol;
use crate::tcp::header::Flags;
use crate::time::Duration;

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn table(entries_max: usize) -> Conntrack {
    Conntrack::new(ConntrackConfig { entries_max, ..ConntrackConfig::default() }, (1, 2), Instant::ZERO)
}

fn udp(src: &str, dst: &str) -> PacketView {
    let tuple = FlowTuple::new(src.parse().unwrap(), dst.parse().unwrap(), protocol::UDP);
    PacketView { tuple, len: 100, packets: 1, hash: 0, transport: Transport::Ports }
}

fn udp_from(port: u16) -> PacketView {
    let src = SocketAddr::from(([10, 0, (port >> 8) as u8, port as u8], port));
    let tuple = FlowTuple::new(src, "198.51.100.1:53".parse().unwrap(), protocol::UDP);
    PacketView { tuple, len: 100, packets: 1, hash: 0, transport: Transport::Ports }
}

fn back(view: &PacketView) -> PacketView {
    PacketView { tuple: view.tuple.reversed(), ..*view }
}

fn tcp(view: &PacketView, flags: Flags, seq: u32, ack: u32) -> PacketView {
    let tuple = FlowTuple::new(view.tuple.source(), view.tuple.destination(), protocol::TCP);
    PacketView { tuple, len: 40, packets: 1, hash: 0, transport: Transport::Tcp(segment(flags, seq, ack)) }
}

fn begin(table: &mut Conntrack, now: Instant, view: &PacketView) -> EntryId {
    match table.track(now, view) {
        Tracked::Begin(begin) => table.confirm(now, begin).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn hit(table: &mut Conntrack, now: Instant, view: &PacketView) -> Hit {
    match table.track(now, view) {
        Tracked::Known(hit) => hit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flow_is_new_until_it_is_answered() {
    let mut table = table(10);
    let asked = udp("10.0.0.2:5000", "198.51.100.1:53");
    let id = begin(&mut table, at(0), &asked);
    assert_eq!(
        hit(&mut table, at(1), &asked),
        Hit { id, direction: Direction::Original, state: CtState::New }
    );
    let answer = hit(&mut table, at(1), &back(&asked));
    assert_eq!(answer, Hit { id, direction: Direction::Reply, state: CtState::Established });
    assert_eq!(hit(&mut table, at(1), &asked).state, CtState::Established);
    let counts = table.get(id).unwrap().counts;
    assert_eq!(counts, [Count { packets: 3, bytes: 300 }, Count { packets: 1, bytes: 100 }]);
}

#[test]
fn a_flow_that_was_not_confirmed_does_not_exist() {
    let mut table = table(10);
    let asked = udp("10.0.0.2:5000", "198.51.100.1:53");
    assert!(matches!(table.track(at(0), &asked), Tracked::Begin(_)));
    assert!(matches!(table.track(at(0), &asked), Tracked::Begin(_)));
    assert!(table.is_empty());
}

#[test]
fn entries_end_when_their_time_is_over_and_not_before() {
    let mut table = table(10);
    let asked = udp("10.0.0.2:5000", "198.51.100.1:53");
    begin(&mut table, at(0), &asked);
    table.advance(at(29));
    assert_eq!(table.len(), 1);
    hit(&mut table, at(29), &asked);
    table.advance(at(31));
    assert_eq!(table.len(), 1, "a packet came");
    table.advance(at(60));
    assert!(table.is_empty());
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn an_answered_udp_flow_that_goes_on_is_a_stream() {
    let mut table = table(10);
    let asked = udp("10.0.0.2:5000", "198.51.100.1:53");
    let id = begin(&mut table, at(0), &asked);
    hit(&mut table, at(0), &back(&asked));
    assert!(!table.get(id).unwrap().assured);
    hit(&mut table, at(3), &asked);
    assert!(table.get(id).unwrap().assured);
    table.advance(at(3 + 119));
    assert_eq!(table.len(), 1);
    table.advance(at(3 + 121));
    assert!(table.is_empty());
}

proptest! {
    /// A datagram that may go the short way does what it does on the long one, and one that would change more does not go it.
    #[test]
    fn a_datagram_that_shows_nothing_new_goes_a_short_way(
        (udp_timeout, stream) in (10u64..4000, 10u64..4000),
        // Milliseconds since the last one; the other way; of the table's flow, or of the one that was there before.
        packets in prop::collection::vec((0u64..900, any::<bool>(), prop::bool::weighted(0.9)), 1..40),
    ) {
        let mut config = ConntrackConfig::default();
        (config.timeouts.udp, config.timeouts.udp_stream) =
            (Duration::from_millis(udp_timeout), Duration::from_millis(stream));
        let view = udp("10.0.0.2:5000", "198.51.100.1:53");
        let mut tables = [(); 2].map(|()| Conntrack::new(config.clone(), (1, 2), Instant::ZERO));
        for table in &mut tables {
            let former = begin(table, at(0), &udp_from(1));
            table.delete(former);
            begin(table, at(0), &view);
        }
        let [quick, slow] = &mut tables;
        let mut now = at(0);
        for (millis, other_way, current) in packets {
            now += Duration::from_millis(millis);
            let view = if other_way { back(&view) } else { view };
            let place = slow.place_of(&view).unwrap();
            let generation = if current { slow.generation(place) } else { slow.generation(place) - 1 };
            let before = format!("{:?}", quick.at(place));
            if !quick.take_datagram(now, place, generation, view.len) {
                prop_assert_eq!(before, format!("{:?}", quick.at(place)));
                if !quick.is_over(now, place) {
                    quick.take(now, place, &view);
                }
            } else {
                prop_assert!(current);
            }
            if !slow.is_over(now, place) {
                slow.take(now, place, &view);
            }
            prop_assert_eq!(format!("{:?}", quick.at(place)), format!("{:?}", slow.at(place)));
            prop_assert_eq!(quick.next_deadline(), slow.next_deadline());
        }
    }
}

#[test]
fn a_full_table_drops_the_oldest_that_is_not_assured() {
    let mut table = table(2);
    let (kept, oldest) = (udp_from(1), udp_from(2));
    begin(&mut table, at(0), &kept);
    hit(&mut table, at(0), &back(&kept));
    hit(&mut table, at(3), &kept);
    begin(&mut table, at(4), &oldest);
    begin(&mut table, at(5), &udp_from(3));
    assert!(table.find(&kept.tuple).is_some() && table.find(&oldest.tuple).is_none());
    assert_eq!((table.len(), table.counters().early_drops), (2, 1));
}

#[test]
fn a_full_table_drops_a_connection_that_is_being_closed_though_it_was_assured() {
    let mut table = table(2);
    let (kept, closed) = (udp("10.0.0.2:5000", "198.51.100.1:80"), udp("10.0.0.2:5001", "198.51.100.1:80"));
    for base in [&closed, &kept] {
        begin(&mut table, at(0), &tcp(base, Flags::SYN, 1, 0));
        hit(&mut table, at(0), &tcp(&back(base), Flags::SYN | Flags::ACK, 100, 2));
        hit(&mut table, at(0), &tcp(base, Flags::ACK, 2, 101));
        hit(&mut table, at(0), &tcp(base, Flags::ACK, 2, 101));
    }
    let Tracked::Begin(new) = table.track(at(1), &udp_from(3)) else { panic!() };
    assert_eq!(table.confirm(at(1), new), Err(ConfirmError::TableFull), "both are assured");
    hit(&mut table, at(2), &tcp(&closed, Flags::FIN | Flags::ACK, 2, 101));
    let id = begin(&mut table, at(3), &udp_from(3));
    assert_eq!((table.len(), table.counters().early_drops), (2, 1));
    assert!(table.get(id).is_some());
}

#[test]
fn a_table_full_of_assured_flows_refuses_new_ones() {
    let mut table = table(1);
    let kept = udp_from(1);
    begin(&mut table, at(0), &kept);
    hit(&mut table, at(0), &back(&kept));
    hit(&mut table, at(3), &kept);
    let Tracked::Begin(new) = table.track(at(4), &udp_from(2)) else { panic!() };
    assert_eq!(table.confirm(at(4), new), Err(ConfirmError::TableFull));
    assert_eq!(table.counters().table_full, 1);
}

#[test]
fn two_flows_cannot_share_a_tuple() {
    let mut table = table(10);
    let view = udp_from(1);
    let Tracked::Begin(one) = table.track(at(0), &view) else { panic!() };
    let Tracked::Begin(two) = table.track(at(0), &view) else { panic!() };
    table.confirm(at(0), one).unwrap();
    assert_eq!(table.confirm(at(0), two), Err(ConfirmError::Clash));
}

#[test]
fn an_icmp_error_is_related_to_the_flow_it_quotes() {
    let mut table = table(10);
    let asked = udp("10.0.0.2:5000", "198.51.100.1:53");
    let id = begin(&mut table, at(0), &asked);
    let error = |to: &str, quoted| PacketView {
        tuple: FlowTuple::portless("192.0.2.254".parse().unwrap(), to.parse().unwrap(), protocol::ICMPV4),
        len: 56,
        packets: 1,
        hash: 0,
        transport: Transport::Error { kind: 3, code: 1, quoted },
    };
    let about = hit(&mut table, at(0), &error("10.0.0.2", Some(asked.tuple)));
    assert_eq!(about, Hit { id, direction: Direction::Reply, state: CtState::Related });
    assert!(!table.get(id).unwrap().seen_reply, "an error is no answer");
    for view in [
        error("10.0.0.3", Some(asked.tuple)),
        error("10.0.0.2", None),
        error("198.51.100.1", Some(asked.tuple.reversed())),
    ]
    .into_iter()
    .take(2)
    {
        assert!(matches!(table.track(at(0), &view), Tracked::Invalid(Invalid::UnknownQuote)));
    }
}

#[test]
fn a_ping_is_answered_once_it_was_asked() {
    let mut table = table(10);
    let ping = |src: &str, dst: &str, kind| {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let tuple = FlowTuple::query(src, dst, protocol::ICMPV4, kind, 7).unwrap();
        PacketView { tuple, len: 84, packets: 1, hash: 0, transport: Transport::Query { kind, code: 0 } }
    };
    let reply = ping("198.51.100.1", "10.0.0.2", 0);
    assert!(matches!(table.track(at(0), &reply), Tracked::Invalid(Invalid::UnaskedReply)));
    begin(&mut table, at(0), &ping("10.0.0.2", "198.51.100.1", 8));
    assert_eq!(hit(&mut table, at(0), &reply).state, CtState::Established);
}

#[test]
fn a_refused_connection_is_forgotten_at_once() {
    let mut table = table(10);
    let base = udp("10.0.0.2:5000", "198.51.100.1:80");
    begin(&mut table, at(0), &tcp(&base, Flags::SYN, 1, 0));
    hit(&mut table, at(0), &tcp(&back(&base), Flags::RST | Flags::ACK, 0, 2));
    table.advance(at(1));
    assert!(table.is_empty());
}

#[test]
fn a_new_syn_takes_the_place_of_a_closed_connection() {
    let mut table = table(10);
    let base = udp("10.0.0.2:5000", "198.51.100.1:80");
    let id = begin(&mut table, at(0), &tcp(&base, Flags::SYN, 1, 0));
    hit(&mut table, at(0), &tcp(&back(&base), Flags::SYN | Flags::ACK, 100, 2));
    hit(&mut table, at(0), &tcp(&base, Flags::ACK, 2, 101));
    assert!(table.get(id).unwrap().assured);
    hit(&mut table, at(0), &tcp(&base, Flags::RST, 2, 0));
    let again = begin(&mut table, at(1), &tcp(&base, Flags::SYN, 9000, 0));
    assert!(table.get(id).is_none() && table.get(again).is_some());
    assert_eq!(table.len(), 1);
}

#[test]
fn a_connection_that_was_long_open_ends_soon_after_it_is_closed() {
    let base = udp("10.0.0.2:5000", "198.51.100.1:80");
    let fin = Flags::FIN | Flags::ACK;
    let closed = [
        &[tcp(&base, fin, 2, 101), tcp(&back(&base), fin, 101, 3), tcp(&base, Flags::ACK, 3, 102)][..],
        &[tcp(&base, Flags::RST | Flags::ACK, 2, 101)],
    ];
    for segments in closed {
        let mut table = table(10);
        begin(&mut table, at(0), &tcp(&base, Flags::SYN, 1, 0));
        hit(&mut table, at(0), &tcp(&back(&base), Flags::SYN | Flags::ACK, 100, 2));
        hit(&mut table, at(0), &tcp(&base, Flags::ACK, 2, 101));
        // Its timer has fired, and waits for the end of an idle connection, days away.
        (0..400).for_each(|second| table.advance(at(second)));
        for segment in segments {
            hit(&mut table, at(400), segment);
        }
        assert_eq!(table.len(), 1);
        (400..525).for_each(|second| table.advance(at(second)));
        assert!(table.is_empty(), "{segments:?}");
        assert_eq!(table.next_deadline(), None);
    }
}

#[test]
fn entries_that_are_gone_leave_no_timer_behind() {
    let mut table = table(10);
    for port in 0..1000 {
        begin(&mut table, at(0), &udp_from(port));
        assert_eq!(table.wheel.len(), table.len());
    }
    let ids: Vec<EntryId> =
        (0..1000).filter_map(|port| table.find(&udp_from(port).tuple)).map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 10);
    for id in ids {
        assert!(table.delete(id));
    }
    assert_eq!((table.wheel.len(), table.next_deadline()), (0, None));
}

#[test]
fn established_connections_live_for_days_and_half_open_ones_do_not() {
    let mut table = table(10);
    let base = udp("10.0.0.2:5000", "198.51.100.1:80");
    begin(&mut table, at(0), &tcp(&base, Flags::SYN, 1, 0));
    table.advance(at(121));
    assert!(table.is_empty());
    begin(&mut table, at(200), &tcp(&base, Flags::SYN, 1, 0));
    hit(&mut table, at(200), &tcp(&back(&base), Flags::SYN | Flags::ACK, 100, 2));
    hit(&mut table, at(200), &tcp(&base, Flags::ACK, 2, 101));
    table.advance(at(4 * 86_400));
    assert_eq!(table.len(), 1);
}

#[test]
fn events_tell_of_beginning_change_and_end() {
    let mut table = table(10);
    table.follow(true);
    let asked = udp_from(1);
    let id = begin(&mut table, at(0), &asked);
    hit(&mut table, at(0), &back(&asked));
    hit(&mut table, at(0), &back(&asked));
    table.set_mark(id, 5);
    assert!(table.delete(id) && !table.delete(id));
    let mut kinds = Vec::new();
    assert_eq!(table.take_events(|event| kinds.push((event.kind, event.id))), 0);
    use EventKind::{Destroy, New, Update};
    assert_eq!(kinds, [New, Update, Update, Destroy].map(|kind| (kind, id)));
}

#[test]
fn events_are_kept_only_while_somebody_follows() {
    let mut table = table(10);
    begin(&mut table, at(0), &udp_from(1));
    table.follow(true);
    begin(&mut table, at(0), &udp_from(2));
    table.follow(true);
    let mut told = 0;
    table.take_events(|_| told += 1);
    assert_eq!(told, 1, "another follower takes nothing away");
    begin(&mut table, at(0), &udp_from(3));
    table.follow(false);
    table.follow(true);
    assert_eq!(table.take_events(|_| panic!("nobody followed")), 0);
}

#[test]
fn events_beyond_the_bound_are_lost_and_counted() {
    let mut table = table(limits::CONNTRACK_EVENTS + 10);
    table.follow(true);
    for port in 0..limits::CONNTRACK_EVENTS as u16 + 5 {
        begin(&mut table, at(0), &udp_from(port));
    }
    let mut told = 0;
    assert_eq!(table.take_events(|_| told += 1), 5);
    assert_eq!((told, table.counters().events_lost), (limits::CONNTRACK_EVENTS, 5));
    begin(&mut table, at(0), &udp_from(9999));
    assert_eq!(table.take_events(|_| told += 1), 0, "told once");
    assert_eq!(told, limits::CONNTRACK_EVENTS + 1);
}

#[test]
fn portions_show_every_entry_once() {
    let mut table = table(100);
    let ids: Vec<_> = (1..=50).map(|port| begin(&mut table, at(0), &udp_from(port))).collect();
    ids.iter().step_by(3).for_each(|id| assert!(table.delete(*id)));
    let (mut shown, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor {
        let before = shown.len();
        cursor = table.list(from, 7, |id, _| shown.push(id));
        assert!(shown.len() - before <= 7);
    }
    let left: Vec<_> = ids.iter().copied().filter(|id| table.get(*id).is_some()).collect();
    assert_eq!(shown, left);
    assert_eq!(table.list(1000, 7, |_, _| panic!("nothing is there")), None);
}

proptest! {
    /// Whatever is begun, answered, deleted and left to run out: both tuples of each entry find it, no other does, and the
    /// bound holds.
    #[test]
    fn the_table_and_its_entries_agree(steps in prop::collection::vec((0u8..6, 1u16..12, 0u64..50), 1..200)) {
        let mut table = table(6);
        let mut now = 0;
        for (what, port, passed) in steps {
            now += passed;
            let view = udp_from(port);
            match what {
                0 | 1 => {
                    if let Tracked::Begin(begin) = table.track(at(now), &view) {
                        let _ = table.confirm(at(now), begin);
                    }
                }
                2 => {
                    if table.find(&view.tuple).is_some() {
                        let _ = table.track(at(now), &back(&view));
                    }
                }
                3 => {
                    if let Some((id, _)) = table.find(&view.tuple) {
                        table.delete(id);
                    }
                }
                _ => table.advance(at(now)),
            }
            prop_assert!(table.len() <= 6);
            let mut found = Vec::new();
            prop_assert_eq!(table.list(0, u32::MAX, |id, entry| found.push((id, *entry))), None);
            prop_assert_eq!(found.len(), table.len());
            for (id, entry) in &found {
                prop_assert_eq!(table.find(&entry.original), Some((*id, Direction::Original)));
                prop_assert_eq!(table.find(&entry.reply), Some((*id, Direction::Reply)));
            }
            prop_assert_eq!(table.by_tuple.len(), 2 * table.len());
        }
        table.advance(at(now + 1_000_000));
        prop_assert!(table.is_empty() && table.droppable.is_empty());
        prop_assert_eq!(table.next_deadline(), None);
    }
}
