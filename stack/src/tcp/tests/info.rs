//! `TcpInfo`'s times and rates, with Linux's meanings, in virtual time.

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

fn info(t: &Harness, id: ConnId) -> TcpInfo {
    t.tcp.info(t.now, id).unwrap()
}

#[test]
fn time_with_something_outstanding_is_busy_and_time_without_is_not() {
    let mut t = Harness::new();
    let id = t.established();
    t.advance(500 * MS);
    assert_eq!(info(&t, id).busy_time, Duration::ZERO);
    t.send(id, pattern(1, 3000));
    t.advance(100 * MS);
    assert_eq!(info(&t, id).busy_time, 100 * MS, "counts while it goes on");
    t.inject(seg().ack(3001));
    t.advance(500 * MS);
    let now = info(&t, id);
    assert_eq!(
        (now.busy_time, now.rwnd_limited, now.sndbuf_limited),
        (100 * MS, Duration::ZERO, Duration::ZERO)
    );
    assert_eq!((now.bytes_sent, now.bytes_acked, now.delivered), (3000, 3000, 4));
}

#[test]
fn time_in_which_the_peers_window_holds_data_back_is_told() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(2000));
    t.send(id, pattern(1, 5000));
    assert_eq!(t.wire.sent.len(), 2);
    t.advance(100 * MS);
    t.inject(seg().ack(2001).window(60_000));
    t.advance(50 * MS);
    t.inject(seg().ack(5001).window(60_000));
    t.advance(500 * MS);
    let now = info(&t, id);
    assert_eq!((now.busy_time, now.rwnd_limited, now.sndbuf_limited), (150 * MS, 100 * MS, Duration::ZERO));
}

#[test]
fn a_closed_window_counts_as_the_peers_limit() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(0));
    t.send(id, "held back");
    t.advance(150 * MS);
    assert_eq!((info(&t, id).rwnd_limited, info(&t, id).busy_time), (150 * MS, 150 * MS));
}

#[test]
fn time_in_which_the_send_buffer_is_too_small_is_told() {
    let mut t = Harness::new();
    let options = SocketOptions { send_buffer_bytes: 5000, ..SocketOptions::default() };
    let id = t.accept_with(options, syn().mss(1000));
    t.send(id, pattern(1, 5000));
    t.advance(30 * MS);
    let (_, waker) = Wakes::new();
    assert!(t.tcp.poll_send(t.now, id, b"more", &waker).is_pending());
    t.advance(70 * MS);
    t.inject(seg().ack(5001));
    t.advance(500 * MS);
    let now = info(&t, id);
    assert_eq!((now.busy_time, now.sndbuf_limited, now.rwnd_limited), (100 * MS, 70 * MS, Duration::ZERO));
}

#[test]
fn timeouts_their_runs_and_their_time_are_counted() {
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "lost");
    t.expect(seg().data("lost"));
    t.expect_after(200 * MS, seg().data("lost"));
    t.expect_after(400 * MS, seg().data("lost"));
    let now = info(&t, id);
    assert_eq!((now.total_rto, now.total_rto_recoveries), (2, 1));
    assert!(now.total_rto_time >= 400 * MS, "{:?}", now.total_rto_time);
    t.advance(100 * MS);
    t.inject(seg().ack(5));
    t.advance(Duration::from_secs(5));
    let now = info(&t, id);
    assert!((500 * MS..510 * MS).contains(&now.total_rto_time), "{:?}", now.total_rto_time);
    assert_eq!((now.total_retrans, now.bytes_retrans, now.bytes_sent), (2, 8, 12));
    t.send(id, "lost");
    t.advance(Duration::from_secs(2));
    assert_eq!(info(&t, id).total_rto_recoveries, 2);
}

#[test]
fn the_delivery_rate_is_the_last_samples_and_says_when_the_application_limited_it() {
    let mut t = Harness::new();
    let id = t.established();
    assert_eq!((info(&t, id).delivery_rate, info(&t, id).delivery_rate_app_limited), (0, false));
    // More than the initial window of ten segments.
    t.send(id, pattern(1, 30_000));
    t.advance(100 * MS);
    t.inject(seg().ack(10_001));
    assert_eq!((info(&t, id).delivery_rate, info(&t, id).delivery_rate_app_limited), (100_000, false));
    t.advance(100 * MS);
    t.inject(seg().ack(30_001));
    // Nothing waits behind the first: the second is the application's to be late with.
    t.send(id, pattern(30_001, 1000));
    t.send(id, pattern(31_001, 1000));
    t.advance(100 * MS);
    let before = info(&t, id).delivery_rate;
    assert_eq!(before, 200_000);
    t.inject(seg().ack(32_001));
    // Slower, and no fault of the path: the faster one stays.
    assert_eq!((info(&t, id).delivery_rate, info(&t, id).delivery_rate_app_limited), (before, false));
}

#[test]
fn the_receiver_measures_round_trips_and_what_is_read_in_one() {
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1000).ts(1, 0));
    assert_eq!((info(&t, id).rcv_rtt, info(&t, id).rcv_space), (Duration::ZERO, 14_600));
    let ours = |t: &mut Harness| t.wire.sent.pop_back().unwrap().options.timestamps.unwrap().val;
    t.inject(seg().stream(1000).ts(2, 0));
    let echo = ours(&mut t);
    t.recv(id);
    t.wire.sent.clear();
    t.advance(50 * MS);
    // What the ACK let it send comes a round trip later.
    for n in 0..30 {
        t.inject(seg().seq(1001 + 1000 * n).stream(1000).ts(3, echo));
    }
    assert_eq!(info(&t, id).rcv_rtt, 50 * MS);
    t.recv(id);
    t.advance(60 * MS);
    t.inject(seg().seq(31_001).data("x").ts(4, echo));
    assert!((30_000..=31_000).contains(&info(&t, id).rcv_space), "{}", info(&t, id).rcv_space);
}

#[test]
fn a_connection_that_got_small_segments_only_keeps_no_receive_estimates() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("ping"));
    assert_eq!((info(&t, id).rcv_rtt, info(&t, id).bytes_received), (Duration::ZERO, 4));
}

#[test]
fn a_listing_shows_every_kind_of_socket_with_its_timer_a_few_places_at_a_time() {
    use crate::listing::{Cursor, Listed};
    let mut t = Harness::new();
    let closing = t.established();
    t.shutdown(closing, Shutdown::Write);
    t.inject(seg().ack(2));
    t.inject(fin().ack(2));
    t.inject(syn().mss(1000).port(50_001));
    t.remote.set_port(50_002);
    t.connect_with(SocketOptions::default());
    let list = |t: &Harness, places: u32| -> Vec<Listed> {
        let (mut cursor, mut all) = (Cursor::default(), Vec::new());
        while cursor.table < Cursor::UDP {
            t.tcp.list(t.now, &mut cursor, places, &mut all);
        }
        all
    };
    let all = list(&t, 1);
    assert_eq!(all, list(&t, 1000), "portions make no difference");
    let kinds: Vec<_> =
        all.iter().map(|listed| (listed.state, listed.timer.map(|timer| timer.kind))).collect();
    assert_eq!(
        kinds,
        [
            (State::Listen, None),
            (State::SynReceived, Some("on")),
            (State::SynSent, Some("on")),
            (State::TimeWait, Some("timewait")),
        ]
    );
    assert_eq!((all[0].recv_q, all[0].send_q, all[0].half_open), (0, 16, 1));
    assert_eq!(all[3].timer.unwrap().remaining, Duration::from_secs(60));
}

#[test]
fn a_listed_connection_shows_what_was_not_read_and_not_acknowledged() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("unread"));
    t.send(id, "not acknowledged");
    t.shutdown(id, Shutdown::Write);
    let mut all = Vec::new();
    t.tcp.list(t.now, &mut crate::listing::Cursor::default(), 1000, &mut all);
    // The FIN counts, as in Linux.
    assert_eq!((all[1].recv_q, all[1].send_q), (6, 17));
    assert_eq!(all[1].info.as_ref().unwrap().unacked, 2);
}
