//! Sending: segmentation, Nagle, cork, PSH, delayed ACKs, retransmission (RFC 6298), fast retransmit and NewReno (RFC 5681,
//! RFC 6582), keepalive, ICMP, and the turns that connections take.

use core::task::{Poll, Waker};

use super::super::congestion::Algorithm;
use super::super::header::Flags;
use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Brings the connection's window to `segments` of 1000 bytes and acknowledges all that was sent. Returns the next
/// relative sequence number.
fn grown(t: &mut Harness, id: ConnId, segments: u32) -> u32 {
    let mut next = 1;
    while t.tcp.info(t.now, id).unwrap().snd_cwnd < segments {
        // At most half of the target, so that it is not far exceeded.
        let len = 1000 * t.tcp.info(t.now, id).unwrap().snd_cwnd.min(segments / 2);
        t.send(id, pattern(next, len as usize));
        next += len;
        t.wire.sent.clear();
        t.inject(seg().ack(next));
    }
    t.wire.sent.clear();
    next
}

// ---- when segments go

#[test]
fn the_first_flight_is_ten_segments() {
    // RFC 9293 section 3.9.1.2, SHLD-28.
    // RFC 6928.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, pattern(1, 20_000));
    (0..10).for_each(|n| drop(t.expect(seg().seq(1 + 1000 * n).stream(1000))));
    t.expect_nothing();
    t.inject(seg().ack(2001));
    // Slow start: two more for each one.
    (10..14).for_each(|n| drop(t.expect(seg().seq(1 + 1000 * n).stream(1000))));
    t.expect_nothing();
}

#[test]
fn one_small_segment_at_a_time() {
    // RFC 9293 section 3.7.4, SHLD-7.
    // Nagle in Minshall's form (RFC 9293 appendix A.3).
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "a");
    t.expect(seg().data("a"));
    t.send(id, "b");
    t.send(id, "c");
    t.expect_nothing();
    t.inject(seg().ack(2));
    t.expect(seg().seq(2).data("bc"));
    // A full segment outstanding holds no small one back.
    t.inject(seg().ack(4));
    t.send(id, [7; 1500]);
    t.expect(seg().seq(4).data([7; 1000]));
    t.expect(seg().seq(1004).data([7; 500]));
    t.send(id, "x");
    t.expect_nothing();
}

#[test]
fn nodelay_sends_every_write() {
    // RFC 9293 section 3.7.4, MUST-17.
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.nodelay = true);
    for (n, byte) in ["a", "b", "c"].iter().enumerate() {
        t.send(id, byte);
        t.expect(seg().seq(1 + n as u32).data(byte));
    }
}

#[test]
fn turning_nagle_off_lets_go_of_what_it_held() {
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "a");
    t.send(id, "b");
    t.expect(seg().data("a"));
    t.set(id, |options| options.nodelay = true);
    t.expect(seg().seq(2).data("b"));
}

#[test]
fn cork_holds_partial_segments_for_200_ms() {
    // RFC 9293 section 3.9.1.2, MAY-16, MUST-60.
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| {
        options.cork = true;
        options.nodelay = true;
    });
    t.send(id, [1; 1500]);
    t.expect(seg().data([1; 1000]));
    t.expect_silence(100 * MS);
    t.inject(seg().ack(1001));
    t.expect_after(100 * MS, seg().seq(1001).data([1; 500]));
    t.inject(seg().ack(1501));
    t.send(id, [2; 10]);
    t.expect_nothing();
    t.set(id, |options| options.cork = false);
    t.expect(seg().seq(1501).data([2; 10]));
}

#[test]
fn a_fin_pushes_what_cork_or_nagle_hold() {
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.cork = true);
    t.send(id, "abc");
    t.shutdown(id, Shutdown::Write);
    t.expect(fin().data("abc"));
}

#[test]
fn push_marks_the_end_of_what_was_written() {
    // RFC 9293 section 3.9.1.2, MUST-61.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, [1; 2500]);
    let pushed: Vec<bool> = t.wire.sent.drain(..).map(|sent| sent.flags.contains(Flags::PSH)).collect();
    assert_eq!(pushed, [false, false, true]);
}

#[test]
fn after_an_idle_rto_the_window_starts_over() {
    // RFC 5681 section 4.1.
    let mut t = Harness::new();
    let id = t.established();
    let next = grown(&mut t, id, 30);
    t.send(id, pattern(next, 30_000));
    assert_eq!(t.wire.sent.len(), 30);
    t.wire.sent.clear();
    t.inject(seg().ack(next + 30_000));
    t.advance(SECOND);
    t.send(id, pattern(next + 30_000, 30_000));
    assert_eq!(t.wire.sent.len(), 10);
}

#[test]
fn an_application_that_sends_little_earns_no_window() {
    let mut t = Harness::new();
    let id = t.established();
    for n in 0..50 {
        t.send(id, [0; 100]);
        t.inject(seg().ack(101 + 100 * n));
    }
    assert_eq!(t.tcp.info(t.now, id).unwrap().snd_cwnd, 10);
}

#[test]
fn sequence_numbers_may_come_round_to_the_first() {
    // After 4 GiB: SND.UNA is ISS once more.
    let mut t = Harness::new();
    let id = t.established();
    let connection = t.tcp.tables.connections.get_mut(id.index).unwrap();
    connection.iss = connection.snd_una + 3;
    t.send(id, "abc");
    t.expect(seg().data("abc"));
    t.inject(seg().ack(4));
    t.send(id, "def");
    t.expect(seg().seq(4).data("def"));
    t.expect_after(200 * MS, seg().seq(4).data("def"));
}

// ---- acknowledging

#[test]
fn acks_are_quick_at_first_and_then_every_second_segment_or_40_ms() {
    // RFC 9293 section 3.8.6.3, SHLD-18, SHLD-19, MUST-40.
    let mut t = Harness::new();
    t.established();
    let mut next = 1;
    for _ in 0..16 {
        t.inject(seg().seq(next).stream(1000));
        next += 1000;
        t.expect(seg().ack(next));
    }
    t.inject(seg().seq(next).stream(1000));
    t.expect_nothing();
    t.inject(seg().seq(next + 1000).stream(1000));
    t.expect(seg().ack(next + 2000));
    t.inject(seg().seq(next + 2000).stream(1000));
    t.expect_after(40 * MS, seg().ack(next + 3000));
}

#[test]
fn quickack_acknowledges_each() {
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.quickack = true);
    for n in 0..100 {
        t.inject(seg().seq(1 + n).stream(1));
        t.expect(seg().ack(2 + n));
    }
}

#[test]
fn an_answer_carries_the_ack() {
    let mut t = Harness::new();
    let id = t.established();
    let request = |t: &mut Harness, n: u32| {
        t.inject(seg().seq(1 + n).ack(1 + n).stream(1));
    };
    request(&mut t, 0);
    t.expect(seg().ack(2));
    t.send(id, "a");
    t.expect(seg().ack(2).data("a"));
    // From now on ACKs wait for answers.
    for n in 1..10 {
        request(&mut t, n);
        t.expect_nothing();
        t.send(id, "a");
        t.expect(seg().seq(1 + n).ack(2 + n).data("a"));
    }
    t.expect_nothing();
}

#[test]
fn each_segment_ahead_of_a_gap_draws_an_ack_and_so_does_filling_it() {
    // RFC 9293 section 3.10.7.4, MAY-13.
    // RFC 5681 section 4.2: also within a burst, as the peer counts them.
    let mut t = Harness::new();
    t.established();
    t.inject_burst((1..=5).map(|n| seg().seq(1 + 100 * n).stream(100)));
    (0..5).for_each(|_| drop(t.expect(seg())));
    t.expect_nothing();
    // A gap filled in the same burst must not be acknowledged as duplicates of the new number.
    t.inject_burst([seg().seq(701).stream(100), seg().stream(100)]);
    t.expect(seg().ack(601));
    t.expect_nothing();
    t.inject(seg().seq(601).stream(100));
    t.expect(seg().ack(801));
}

#[test]
fn a_burst_in_order_draws_one_ack() {
    // RFC 9293 section 3.10.7.4, MUST-58 and MUST-59.
    let mut t = Harness::new();
    t.established();
    t.inject_burst((0..10).map(|n| seg().seq(1 + 1000 * n).stream(1000)));
    t.expect(seg().ack(10_001));
    t.expect_nothing();
}

// ---- losing

#[test]
fn the_retransmission_timer_follows_the_round_trips_and_backs_off() {
    // RFC 9293 section 3.8.1, MUST-18, MUST-19.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    t.expect(seg().data("abc"));
    t.advance(100 * MS);
    t.inject(seg().ack(4));
    let info = t.tcp.info(t.now, id).unwrap();
    // The handshake took no time, this 100 ms: SRTT is 12.5 ms.
    assert_eq!(info.rtt, Duration::from_micros(12_500));
    let rto = info.rto;
    t.send(id, "def");
    t.expect(seg().seq(4).data("def"));
    for round in 0..5 {
        t.expect_after(rto * (1 << round), seg().seq(4).data("def"));
    }
    let info = t.tcp.info(t.now, id).unwrap();
    assert_eq!((info.retransmits, info.backoff, info.total_retrans, info.ca_state), (5, 5, 5, "loss"));
    // Karn: the ACK may be of any of them; the RTO stays backed off.
    t.inject(seg().ack(7));
    let info = t.tcp.info(t.now, id).unwrap();
    assert_eq!((info.retransmits, info.backoff, info.ca_state), (0, 5, "open"));
    assert_eq!(info.rtt, Duration::from_micros(12_500));
}

#[test]
fn after_a_timeout_all_is_sent_again_in_slow_start() {
    // RFC 9293 section 3.8.1, MUST-19.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, pattern(1, 5000));
    t.wire.sent.clear();
    t.expect_after(200 * MS, seg().stream(1000));
    t.inject(seg().ack(1001));
    t.expect(seg().seq(1001).stream(1000));
    t.expect(seg().seq(2001).stream(1000));
    t.expect_nothing();
    // The rest had arrived.
    t.inject(seg().ack(5001));
    t.expect_silence(10 * SECOND);
    assert_eq!(t.tcp.info(t.now, id).unwrap().ca_state, "open");
}

#[test]
fn after_15_minutes_without_progress_the_connection_is_given_up() {
    // RFC 9293 section 3.8.3, MUST-20, SHLD-11.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    t.advance(924 * SECOND);
    assert_eq!((t.wire.sent.len(), t.state(id)), (16, State::Established));
    t.advance(SECOND);
    assert_eq!((t.state(id), t.end(id)), (State::Closed, Some(Err(TcpError::TimedOut))));
    assert_eq!(t.counters.tcp_timeout_drops, 1);
    assert!(t.wire.sent.iter().all(|sent| !sent.flags.contains(Flags::RST)));
}

#[test]
fn the_user_timeout_is_met_to_the_millisecond() {
    // RFC 9293 section 3.8.3, MUST-21.
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.user_timeout = Some(5 * SECOND));
    // Idle time does not count.
    t.advance(60 * SECOND);
    t.send(id, "abc");
    t.advance(5 * SECOND - MS);
    assert_eq!(t.state(id), State::Established);
    t.advance(2 * MS);
    assert_eq!(t.end(id), Some(Err(TcpError::TimedOut)));
}

#[test]
fn progress_begins_the_user_timeout_anew() {
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.user_timeout = Some(5 * SECOND));
    t.send(id, pattern(1, 10));
    for n in 0..10 {
        t.advance(4 * SECOND);
        t.inject(seg().ack(2 + n));
    }
    assert_eq!(t.state(id), State::Established);
}

#[test]
fn three_duplicate_acks_bring_the_segment_back() {
    let mut t = Harness::new();
    let options = SocketOptions { congestion: Algorithm::NewReno, ..SocketOptions::default() };
    let id = t.accept_with(options, syn().mss(1000));
    let base = grown(&mut t, id, 20);
    let at = |n: u32| base + 1000 * n;
    t.send(id, pattern(base, 40_000));
    assert_eq!(t.wire.sent.len(), 20);
    t.wire.sent.clear();
    // Limited transmit: a new segment for each of the first two (RFC 3042).
    t.inject(seg().ack(base));
    t.expect(seg().seq(at(20)).stream(1000));
    t.inject(seg().ack(base));
    t.expect(seg().seq(at(21)).stream(1000));
    t.inject(seg().ack(base));
    t.expect(seg().seq(base).stream(1000));
    t.expect_nothing();
    let info = t.tcp.info(t.now, id).unwrap();
    assert_eq!((info.snd_ssthresh, info.ca_state), (10, "recovery"));
    assert_eq!(t.counters.tcp_fast_retransmits, 1);
    // The window shrinks to half: one segment for every two that arrive (RFC 9937).
    for _ in 0..10 {
        t.inject(seg().ack(base));
    }
    assert_eq!(t.wire.sent.len(), 4);
    assert_eq!((t.wire.sent[0].seq, t.wire.sent[3].seq), (at(22), at(25)));
    t.wire.sent.clear();
    // All of what was outstanding is acknowledged: recovery ends at ssthresh.
    t.inject(seg().ack(at(22)));
    let info = t.tcp.info(t.now, id).unwrap();
    assert_eq!((info.ca_state, info.snd_cwnd), ("open", 10));
    assert_eq!((t.wire.sent.len(), t.counters.tcp_timeouts), (6, 0));
}

#[test]
fn a_partial_ack_brings_the_next_lost_segment_back() {
    // RFC 6582 section 3.2, step 3.
    let mut t = Harness::new();
    let id = t.established();
    let base = grown(&mut t, id, 10);
    let at = |n: u32| base + 1000 * n;
    t.send(id, pattern(base, 10_000));
    t.wire.sent.clear();
    (0..3).for_each(|_| t.inject(seg().ack(base)));
    t.expect(seg().seq(base).stream(1000));
    t.inject(seg().ack(at(3)));
    t.expect(seg().seq(at(3)).stream(1000));
    t.inject(seg().ack(at(7)));
    t.expect(seg().seq(at(7)).stream(1000));
    assert_eq!(t.tcp.info(t.now, id).unwrap().ca_state, "recovery");
    t.inject(seg().ack(at(10)));
    t.expect_nothing();
    let info = t.tcp.info(t.now, id).unwrap();
    assert_eq!((info.ca_state, info.total_retrans), ("open", 3));
}

#[test]
fn what_is_no_duplicate_ack_is_not_counted() {
    // RFC 5681 section 2.
    let mut t = Harness::new();
    let id = t.established();
    let base = grown(&mut t, id, 10);
    t.send(id, pattern(base, 10_000));
    t.wire.sent.clear();
    for n in 0..5 {
        t.inject(seg().seq(1).ack(base).window(60_000 + n));
        t.inject(seg().seq(1 + u32::from(n)).ack(base).window(60_000 + n).data("x"));
    }
    assert!(t.wire.sent.iter().all(|sent| sent.payload.is_empty()));
    // And with nothing outstanding there are none.
    t.inject(seg().seq(6).ack(base + 10_000));
    t.wire.sent.clear();
    (0..5).for_each(|_| t.inject(seg().seq(6).ack(base + 10_000)));
    t.expect_nothing();
}

#[test]
fn duplicates_after_a_timeout_start_no_fast_retransmit() {
    // RFC 6582 section 4: they answer what was sent again without need.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, pattern(1, 10_000));
    t.wire.sent.clear();
    t.expect_after(200 * MS, seg().stream(1000));
    (0..5).for_each(|_| t.inject(seg()));
    t.expect_nothing();
    t.inject(seg().ack(10_001));
    t.send(id, pattern(10_001, 5000));
    t.wire.sent.clear();
    (0..5).for_each(|_| t.inject(seg().ack(10_001)));
    assert!(t.wire.sent.iter().all(|sent| sent.seq > 10_001), "new data only: {:?}", t.wire.sent);
    assert_eq!(t.counters.tcp_fast_retransmits, 0);
}

// ---- keepalive

fn with_keepalive(t: &mut Harness) -> ConnId {
    let id = t.established();
    t.set(id, |options| {
        options.keepalive = true;
        options.keepalive_idle = 10 * SECOND;
        options.keepalive_interval = 3 * SECOND;
        options.keepalive_count = 4;
    });
    id
}

#[test]
fn keepalive_is_off_unless_asked_for() {
    // RFC 9293 section 3.8.4, MUST-24, MUST-25, MAY-5.
    let mut t = Harness::new();
    t.established();
    t.expect_silence(Duration::from_secs(100_000));
}

#[test]
fn an_idle_peer_is_probed_and_its_answer_is_enough() {
    // RFC 9293 section 3.8.4, MUST-27, SHLD-12.
    let mut t = Harness::new();
    let id = with_keepalive(&mut t);
    for _ in 0..20 {
        t.expect_after(10 * SECOND, seg().seq(0));
        t.inject(seg());
    }
    assert_eq!((t.state(id), t.counters.tcp_keepalive_probes), (State::Established, 20));
}

#[test]
fn any_segment_puts_the_probe_off() {
    // RFC 9293 section 3.8.4, MUST-26.
    let mut t = Harness::new();
    with_keepalive(&mut t);
    t.expect_silence(9 * SECOND);
    t.inject(seg().data("x"));
    t.expect(seg().ack(2));
    t.expect_after(10 * SECOND, seg().seq(0).ack(2));
}

#[test]
fn a_dead_peer_is_found_after_idle_and_all_intervals() {
    // RFC 9293 section 3.8.4, MUST-29.
    let mut t = Harness::new();
    let id = with_keepalive(&mut t);
    t.expect_after(10 * SECOND, seg().seq(0));
    (0..3).for_each(|_| drop(t.expect_after(3 * SECOND, seg().seq(0))));
    assert_eq!(t.state(id), State::Established);
    t.expect_after(3 * SECOND, Seg { flags: Flags::RST | Flags::ACK, ..seg() });
    assert_eq!((t.end(id), t.counters.tcp_keepalive_drops), (Some(Err(TcpError::TimedOut)), 1));
}

#[test]
fn no_probe_goes_while_data_is_outstanding() {
    // RFC 9293 section 3.8.4, MUST-26.
    let mut t = Harness::new();
    let id = with_keepalive(&mut t);
    t.send(id, "abc");
    t.advance(60 * SECOND);
    assert!(t.wire.sent.iter().all(|sent| sent.payload == b"abc"));
    assert_eq!(t.counters.tcp_keepalive_probes, 0);
}

// ---- ICMP, MTU, routes

fn icmp(t: &mut Harness, seq: u32, kind: IcmpErrorKind) -> bool {
    let seq = t.isn(t.remote.port()) + seq;
    let error = IcmpError { tuple: Tuple { local: t.local, remote: t.remote }, seq, kind };
    let known = t.tcp.icmp_error(t.now, &error, &mut t.counters);
    t.transmit();
    known != IcmpVerdict::NotOurs
}

#[test]
fn port_unreachable_ends_an_attempt_and_nothing_else() {
    // RFC 9293 section 3.9.2.2, SHLD-26, MUST-54.
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions::default());
    assert!(icmp(&mut t, 1, IcmpErrorKind::Refused));
    assert_eq!(t.state(id), State::SynSent);
    assert!(icmp(&mut t, 0, IcmpErrorKind::Refused));
    let refused = Poll::Ready(Err(TcpError::ConnectionRefused));
    assert_eq!(t.tcp.poll_connected(id, Waker::noop()), refused);
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    assert!(icmp(&mut t, 1, IcmpErrorKind::Refused));
    assert_eq!(t.state(id), State::Established);
    let verdict = t.tcp.icmp_error(
        t.now,
        &IcmpError {
            tuple: Tuple { local: t.remote, remote: t.local },
            seq: SeqNumber(0),
            kind: IcmpErrorKind::Refused,
        },
        &mut t.counters,
    );
    assert_eq!(verdict, IcmpVerdict::NotOurs);
}

#[test]
fn unreachable_is_the_reason_when_it_times_out() {
    // RFC 9293 section 3.9.2.2, MUST-56.
    // RFC 1122 section 4.2.3.9: soft errors abort nothing.
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions::default());
    assert!(icmp(&mut t, 0, IcmpErrorKind::Unreachable));
    t.advance(100 * SECOND);
    assert_eq!(t.state(id), State::SynSent);
    t.advance(100 * SECOND);
    let unreachable = Poll::Ready(Err(TcpError::HostUnreachable));
    assert_eq!(t.tcp.poll_connected(id, Waker::noop()), unreachable);
}

#[test]
fn a_silent_neighbor_ends_an_attempt_but_no_open_connection() {
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions::default());
    assert!(icmp(&mut t, 0, IcmpErrorKind::NeighborFailed));
    let unreachable = Poll::Ready(Err(TcpError::HostUnreachable));
    assert_eq!(t.tcp.poll_connected(id, Waker::noop()), unreachable);
    assert_eq!((t.counters.tcp_attempt_fails, t.counters.icmp_errors_rx), (1, 0));
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    assert!(icmp(&mut t, 1, IcmpErrorKind::NeighborFailed));
    assert_eq!((t.state(id), t.tcp.take_error(id)), (State::Established, Some(TcpError::HostUnreachable)));
}

#[test]
fn a_soft_error_can_be_asked_for_meanwhile() {
    // RFC 9293 section 3.9.1.8, MUST-47, SHLD-20; RFC 9293 section 3.9.2.2, SHLD-25.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    icmp(&mut t, 1, IcmpErrorKind::Unreachable);
    assert_eq!(t.tcp.take_error(id), Some(TcpError::HostUnreachable));
    assert_eq!((t.tcp.take_error(id), t.state(id)), (None, State::Established));
}

#[test]
fn packet_too_big_cuts_segments_and_sends_them_again() {
    // RFC 9293 section 3.7.1, SHLD-6.
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1460));
    t.send(id, pattern(1, 2920));
    t.expect(seg().stream(1460));
    t.expect(seg().seq(1461).stream(1460));
    // About something not outstanding: forged or late.
    icmp(&mut t, 2921, IcmpErrorKind::PacketTooBig { mtu: 1040 });
    t.expect_nothing();
    let cwnd = t.tcp.info(t.now, id).unwrap().snd_cwnd * 1460;
    icmp(&mut t, 1, IcmpErrorKind::PacketTooBig { mtu: 1040 });
    t.expect(seg().stream(1000));
    t.expect(seg().seq(1001).stream(460));
    t.expect(seg().seq(1461).stream(1000));
    t.expect(seg().seq(2461).stream(460));
    let info = t.tcp.info(t.now, id).unwrap();
    assert_eq!((info.snd_mss, info.pmtu), (1000, 1040));
    assert!(info.snd_cwnd * 1000 >= cwnd - 1000, "no congestion");
    // It is not raised, nor lowered below what every path carries.
    icmp(&mut t, 1, IcmpErrorKind::PacketTooBig { mtu: 1400 });
    icmp(&mut t, 1, IcmpErrorKind::PacketTooBig { mtu: 0 });
    assert_eq!(t.tcp.info(t.now, id).unwrap().pmtu, 552);
}

#[test]
fn an_egress_with_a_smaller_mtu_is_obeyed() {
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1460));
    t.wire.too_big = Some(1240);
    t.send(id, pattern(1, 1500));
    t.expect(seg().stream(1200));
    t.expect(seg().seq(1201).stream(300));
}

#[test]
fn without_a_route_an_attempt_fails_and_a_connection_waits() {
    let mut t = Harness::new();
    t.wire.no_route = true;
    let id = t.connect_with(SocketOptions::default());
    let unreachable = Poll::Ready(Err(TcpError::NetworkUnreachable));
    assert_eq!(t.tcp.poll_connected(id, Waker::noop()), unreachable);
    let mut t = Harness::new();
    let id = t.established();
    t.wire.no_route = true;
    t.send(id, "abc");
    t.advance(10 * SECOND);
    t.wire.no_route = false;
    t.advance(10 * SECOND);
    t.expect(seg().data("abc"));
    assert_eq!(t.state(id), State::Established);
}

// ---- turns

#[test]
fn a_full_egress_loses_nothing_and_nobodys_turn() {
    let mut t = Harness::new();
    let id = t.established();
    t.wire.room = 3;
    t.send(id, pattern(1, 10_000));
    assert_eq!((t.wire.sent.len(), t.tcp.next_deadline()), (3, Some(Instant::ZERO)));
    t.wire.room = usize::MAX;
    t.transmit();
    (0..10).for_each(|n| drop(t.expect(seg().seq(1 + 1000 * n).stream(1000))));
    t.expect_nothing();
    assert!(t.tcp.next_deadline() > Some(t.now));
}

#[test]
fn connections_take_turns() {
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    let mut ids = Vec::new();
    for port in [1, 2, 3] {
        t.inject(syn().mss(100).port(port));
        t.inject(seg().port(port));
        ids.push(t.accept(listener).unwrap().0);
    }
    // Windows for more than one turn.
    for (id, port) in ids.iter().zip([1, 2, 3]) {
        t.send(*id, [0; 1000]);
        t.inject(seg().ack(1001).port(port));
        t.send(*id, [0; 2000]);
        t.inject(seg().ack(3001).port(port));
        t.send(*id, [0; 4000]);
        t.inject(seg().ack(7001).port(port));
    }
    t.wire.sent.clear();
    t.wire.room = 0;
    ids.iter().for_each(|id| t.send(*id, [0; 6000]));
    t.wire.room = usize::MAX;
    t.transmit();
    let turns: Vec<u16> = t.wire.sent.iter().map(|sent| sent.dst.port()).collect();
    let turn = limits::TCP_SEGMENTS_PER_TURN;
    let round =
        |segments: usize| [1, 2, 3].into_iter().flat_map(move |port| core::iter::repeat_n(port, segments));
    let expected: Vec<u16> = round(turn).chain(round(60 - turn)).collect();
    assert_eq!(turns, expected);
}

#[test]
fn resets_wait_in_bounded_number() {
    let mut t = Harness::new();
    t.wire.room = 0;
    for port in 1..=2000 {
        t.inject(syn().port(port));
    }
    t.wire.room = usize::MAX;
    t.transmit();
    assert_eq!(t.wire.sent.len(), limits::TCP_REPLIES);
    assert_eq!(t.dropped(crate::counters::DropReason::TxQueueFull), 2000 - 1024);
}

#[test]
fn malformed_headers_are_counted() {
    let mut t = Harness::new();
    t.established();
    t.inject(seg().port(0));
    t.expect_nothing();
    assert_eq!(t.dropped(crate::counters::DropReason::BadTcpHeader), 1);
}

#[test]
fn changing_the_congestion_control_is_refused_and_bad_options_too() {
    let mut t = Harness::new();
    let id = t.established();
    let bad = SocketOptions { send_buffer_bytes: usize::MAX, ..SocketOptions::default() };
    assert_eq!(t.tcp.set_options(t.now, id, bad), Err(TcpError::InvalidInput));
    let stale = ConnId { generation: id.generation + 1, ..id };
    assert_eq!(t.tcp.options(stale), Err(TcpError::NotConnected));
    assert_eq!(t.tcp.tuple(stale), Err(TcpError::NotConnected));
    assert_eq!(t.tcp.state(stale), None);
}

#[test]
fn from_the_third_retransmission_on_ip_is_told_with_each() {
    // RFC 9293 section 3.8.3, MUST-20, SHLD-10.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    t.advance(60 * SECOND);
    let sent: Vec<Instant> = t.wire.sent.iter().map(|sent| sent.at).collect();
    assert!(sent.len() > 5);
    assert_eq!(t.wire.doubted_at, sent[3..], "the first is no retransmission");
    // So for SYNs.
    let mut t = Harness::new();
    t.connect_with(SocketOptions::default());
    t.advance(60 * SECOND);
    let sent: Vec<Instant> = t.wire.sent.iter().map(|sent| sent.at).collect();
    assert_eq!(t.wire.doubted_at, sent[3..]);
}
