//! Closing: RFC 9293 sections 3.6, 3.10.4, 3.10.5, TIME-WAIT (RFC 1337, RFC 6191), linger, and what nobody waits for.

use core::task::{Poll, Waker};

use super::super::header::Flags;
use super::super::testing::*;
use super::super::*;
use crate::counters::DropReason;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A connection in TIME-WAIT: both sent one FIN, numbers go on at 2.
fn in_time_wait(t: &mut Harness, syn: Seg) -> ConnId {
    let ts = syn.options.timestamps.map(|ts| ts.val);
    let id = t.accept_with(SocketOptions::default(), syn);
    t.shutdown(id, Shutdown::Write);
    let ours = t.expect(fin());
    let mut last = fin().ack(2);
    if let Some(val) = ts {
        last = last.ts(val, ours.options.timestamps.unwrap().val);
    }
    t.inject(last);
    t.expect(seg().seq(2).ack(2));
    assert_eq!(t.state(id), State::TimeWait);
    id
}

fn reset(seq: u32, ack: u32) -> Seg {
    Seg { flags: Flags::RST | Flags::ACK, seq, ack, ..seg() }
}

// ---- orderly

#[test]
fn a_half_closed_connection_goes_on_receiving_as_long_as_it_takes() {
    let mut t = Harness::new();
    let id = t.established();
    t.shutdown(id, Shutdown::Write);
    t.expect(fin());
    t.inject(seg().ack(2));
    for round in 0..100 {
        t.advance(Duration::from_secs(3600));
        t.inject(seg().seq(1 + 10 * round).ack(2).stream(10));
        assert_eq!(t.recv(id), pattern(1 + 10 * round, 10));
        t.advance(SECOND);
        let ack = t.wire.sent.pop_front().unwrap();
        assert_eq!((ack.seq, ack.ack), (2, 11 + 10 * round));
    }
    assert_eq!(t.tcp.poll_send(t.now, id, b"x", Waker::noop()), Poll::Ready(Err(TcpError::Shutdown)));
    assert_eq!(t.state(id), State::FinWait2);
}

#[test]
fn a_half_closed_connection_goes_on_sending() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(fin());
    t.expect(seg().ack(2));
    t.advance(Duration::from_secs(3600));
    t.send(id, "late answer");
    t.expect(seg().ack(2).data("late answer"));
    t.inject(seg().seq(2).ack(12));
    t.close(id);
    t.expect(fin().seq(12).ack(2));
    t.inject(seg().seq(2).ack(13));
    t.expect_clean();
}

#[test]
fn the_fin_waits_for_the_data_before_it() {
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(100));
    t.send(id, pattern(1, 1100));
    t.shutdown(id, Shutdown::Write);
    assert_eq!(t.state(id), State::FinWait1);
    (0..10).for_each(|n| drop(t.expect(seg().seq(1 + 100 * n).stream(100))));
    t.expect_nothing();
    t.inject(seg().ack(201));
    t.expect(fin().seq(1001).stream(100));
}

#[test]
fn a_lost_fin_is_sent_again_with_the_data_it_ends() {
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "bye");
    t.expect(seg().data("bye"));
    t.shutdown(id, Shutdown::Write);
    t.expect(fin().seq(4));
    t.expect_after(200 * MS, fin().data("bye"));
    t.inject(seg().ack(5));
    assert_eq!(t.state(id), State::FinWait2);
    t.expect_silence(10 * SECOND);
}

#[test]
fn a_fin_ahead_of_a_gap_counts_once_the_gap_is_filled() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(fin().seq(4).data("def"));
    t.expect(seg());
    assert_eq!((t.state(id), t.end(id)), (State::Established, None));
    t.inject(seg().data("abc"));
    t.expect(seg().ack(8));
    assert_eq!((t.state(id), t.recv(id)), (State::CloseWait, b"abcdef".to_vec()));
}

#[test]
fn a_bare_fin_ahead_of_a_gap_draws_a_duplicate_ack() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(fin().seq(4));
    t.expect(seg());
    t.inject(seg().data("abc"));
    t.expect(seg().ack(5));
    assert_eq!(t.state(id), State::CloseWait);
}

#[test]
fn a_fin_that_comes_again_is_acknowledged_again() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(fin().data("x"));
    t.expect(seg().ack(3));
    t.inject(fin().data("x"));
    t.expect(seg().ack(3));
    assert_eq!((t.recv(id), t.end(id)), (b"x".to_vec(), Some(Ok(0))));
}

#[test]
fn data_and_urgent_data_behind_a_fin_are_ignored() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(fin());
    t.expect(seg().ack(2));
    t.inject(Seg { urgent: Some(3), ..seg().seq(2).with(Flags::URG).data("more") });
    assert_eq!((t.end(id), t.tcp.urgent_ahead(id)), (Some(Ok(0)), Ok(None)));
}

#[test]
fn in_last_ack_only_the_ack_of_the_fin_ends_it() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(fin());
    t.expect(seg().ack(2));
    t.send(id, "abc");
    t.expect(seg().ack(2).data("abc"));
    t.shutdown(id, Shutdown::Write);
    t.expect(fin().seq(4).ack(2));
    assert_eq!(t.state(id), State::LastAck);
    t.inject(seg().seq(2).ack(4));
    assert_eq!(t.state(id), State::LastAck);
    t.inject(seg().seq(2).ack(5));
    assert_eq!((t.state(id), t.end(id)), (State::Closed, Some(Ok(0))));
    assert_eq!(t.tcp.poll_flushed(id, Waker::noop()), Poll::Ready(Ok(())));
    t.close(id);
    t.expect_clean();
}

#[test]
fn both_fins_lost_at_once_are_repaired() {
    let mut t = Harness::new();
    let id = t.established();
    t.shutdown(id, Shutdown::Write);
    t.expect(fin());
    t.inject(fin());
    t.expect(seg().seq(2).ack(2));
    // Our ACK and the peer's are lost: the peer's FIN comes again, with an ACK of ours that the sequence check
    // does not let through; our ACK of it makes the peer's come in the window.
    t.inject(fin());
    t.expect(seg().seq(2).ack(2));
    t.expect_after(200 * MS, fin().ack(2));
    t.inject(seg().seq(2).ack(2));
    assert_eq!(t.state(id), State::TimeWait);
}

#[test]
fn closing_twice_changes_nothing() {
    let mut t = Harness::new();
    let id = t.established();
    t.shutdown(id, Shutdown::Write);
    t.shutdown(id, Shutdown::Both);
    t.expect(fin());
    t.expect_nothing();
    t.close(id);
    t.close(id);
    assert_eq!(t.tcp.shutdown(t.now, id, Shutdown::Write), Err(TcpError::NotConnected));
}

#[test]
fn flushing_waits_for_data_and_fin() {
    let mut t = Harness::new();
    let id = t.established();
    let (wakes, waker) = Wakes::new();
    assert_eq!(t.tcp.poll_flushed(id, &waker), Poll::Ready(Ok(())));
    t.send(id, "abc");
    t.shutdown(id, Shutdown::Write);
    assert!(t.tcp.poll_flushed(id, &waker).is_pending());
    t.inject(seg().ack(4));
    assert_eq!(wakes.count(), 0);
    assert!(t.tcp.poll_flushed(id, &waker).is_pending());
    t.inject(seg().ack(5));
    assert_eq!((wakes.count(), t.tcp.poll_flushed(id, &waker)), (1, Poll::Ready(Ok(()))));
}

// ---- disorderly

#[test]
fn closing_with_unread_data_resets() {
    // RFC 9293 section 3.6.1, SHLD-3, MAY-1.
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("unread"));
    t.expect(seg().ack(7));
    t.close(id);
    t.expect(reset(1, 7));
    t.expect_clean();
    assert_eq!(t.tcp.census().time_wait, 0);
}

#[test]
fn data_that_arrives_after_close_is_reset() {
    // RFC 9293 section 3.6.1, MAY-1.
    // RFC 9293 section 3.6.1, RFC 1122 section 4.2.2.13.
    let mut t = Harness::new();
    let id = t.established();
    t.close(id);
    t.expect(fin());
    t.inject(seg().ack(2).data("too late"));
    t.expect(rst().seq(2));
    t.expect_clean();
    // The peer hears the same about whatever it sends afterwards.
    t.inject(seg().seq(9).ack(2).data("more"));
    t.expect(Seg { flags: Flags::RST, seq: 2, ack: 0, ..seg() });
}

#[test]
fn shutting_down_reading_discards_and_acknowledges() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("abc"));
    t.expect(seg().ack(4));
    t.shutdown(id, Shutdown::Read);
    assert_eq!(t.end(id), Some(Ok(0)));
    t.inject(seg().seq(4).data("defg"));
    t.expect(seg().ack(8));
    assert_eq!((t.end(id), t.tcp.census().buffered_bytes), (Some(Ok(0)), 0));
    t.close(id);
    t.expect(fin().ack(8));
}

#[test]
fn zero_linger_resets() {
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.linger = Some(Duration::ZERO));
    t.send(id, "abc");
    t.expect(seg().data("abc"));
    t.close(id);
    t.expect(reset(4, 1));
    t.expect_clean();
}

#[test]
fn linger_limits_what_is_left_to_deliver() {
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.linger = Some(3 * SECOND));
    t.send(id, "abc");
    t.close(id);
    t.wire.sent.clear();
    t.advance(3 * SECOND - MS);
    assert!(t.wire.sent.iter().all(|sent| !sent.flags.contains(Flags::RST)));
    assert_eq!(t.tcp.census().connections, 1);
    t.wire.sent.clear();
    t.advance(3 * MS);
    t.expect(reset(5, 1));
    t.expect_clean();
}

#[test]
fn linger_does_not_disturb_what_was_delivered() {
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.linger = Some(3 * SECOND));
    t.close(id);
    t.expect(fin());
    t.inject(seg().ack(2));
    t.expect_silence(10 * SECOND);
    t.inject(fin().ack(2));
    t.expect(seg().seq(2).ack(2));
    assert_eq!(t.tcp.census().time_wait, 1);
}

#[test]
fn an_abort_resets_where_the_rfc_says() {
    // RFC 9293 section 3.10.5.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    t.expect(seg().data("abc"));
    let (wakes, waker) = Wakes::new();
    assert!(t.tcp.poll_recv(t.now, id, &mut [0], &waker).is_pending());
    t.tcp.abort(t.now, id);
    t.transmit();
    t.expect(reset(4, 1));
    assert_eq!((wakes.count(), t.tcp.state(id)), (1, None));
    t.expect_clean();

    let mut t = Harness::new();
    let id = in_time_wait(&mut t, syn());
    t.tcp.abort(t.now, id);
    t.transmit();
    t.expect_nothing();

    let mut t = Harness::new();
    let id = t.established();
    t.shutdown(id, Shutdown::Write);
    t.inject(fin());
    t.wire.sent.clear();
    assert_eq!(t.state(id), State::Closing);
    t.tcp.abort(t.now, id);
    t.transmit();
    t.expect_nothing();
    t.expect_clean();
}

#[test]
fn a_reset_ends_the_connection_but_not_what_was_received() {
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "unanswered");
    t.inject(seg().data("abc"));
    t.wire.sent.clear();
    let (wakes, waker) = Wakes::new();
    t.inject(rst().seq(4));
    t.expect_nothing();
    assert_eq!((t.state(id), t.counters.tcp_established_resets), (State::Closed, 1));
    assert!(!t.tcp.is_quiet(), "something is left to be read");
    assert_eq!(t.recv(id), b"abc");
    assert!(t.tcp.is_quiet(), "that a handle is held keeps nobody waiting");
    assert_eq!((t.tcp.census().connections, t.tcp.census().ended), (1, 1));
    assert_eq!(t.end(id), Some(Err(TcpError::ConnectionReset)));
    let send = t.tcp.poll_send(t.now, id, b"x", &waker);
    assert_eq!(send, Poll::Ready(Err(TcpError::ConnectionReset)));
    assert_eq!(t.tcp.poll_flushed(id, &waker), Poll::Ready(Err(TcpError::ConnectionReset)));
    assert_eq!((t.tcp.take_error(id), wakes.count()), (Some(TcpError::ConnectionReset), 0));
    t.close(id);
    t.expect_clean();
}

#[test]
fn a_reset_wakes_everyone_who_waits() {
    // RFC 9293 section 3.6, MUST-12.
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.send_buffer_bytes = 10);
    t.send(id, [0; 10]);
    let (wakes, waker) = Wakes::new();
    assert!(t.tcp.poll_recv(t.now, id, &mut [0], &waker).is_pending());
    assert!(t.tcp.poll_send(t.now, id, b"x", &waker).is_pending());
    assert!(t.tcp.poll_flushed(id, &waker).is_pending());
    t.inject(rst());
    assert_eq!(wakes.count(), 3);
}

#[test]
fn a_reset_in_closing_or_last_ack_is_no_error() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(fin());
    t.shutdown(id, Shutdown::Write);
    t.inject(rst().seq(2));
    assert_eq!((t.state(id), t.tcp.take_error(id)), (State::Closed, None));
    let mut t = Harness::new();
    let id = t.established();
    t.shutdown(id, Shutdown::Write);
    t.inject(fin());
    t.inject(rst().seq(2));
    assert_eq!((t.state(id), t.tcp.take_error(id), t.tcp.census().time_wait), (State::Closed, None, 0));
}

// ---- nobody waits

#[test]
fn a_peer_that_never_closes_is_forgotten_in_fin_wait_2() {
    let mut t = Harness::new();
    let id = t.established();
    t.close(id);
    t.expect(fin());
    t.inject(seg().ack(2));
    t.expect_silence(59 * SECOND);
    assert_eq!(t.tcp.census().connections, 1);
    t.expect_silence(2 * SECOND);
    t.expect_clean();
}

#[test]
fn closing_in_fin_wait_2_starts_the_same_time() {
    let mut t = Harness::new();
    let id = t.established();
    t.shutdown(id, Shutdown::Write);
    t.inject(seg().ack(2));
    t.wire.sent.clear();
    t.expect_silence(Duration::from_secs(1000));
    t.close(id);
    t.expect_silence(59 * SECOND);
    assert_eq!(t.tcp.census().connections, 1);
    t.expect_silence(2 * SECOND);
    t.expect_clean();
}

#[test]
fn an_orphan_whose_peer_is_gone_is_given_up() {
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    t.close(id);
    t.advance(102 * SECOND);
    assert_eq!(t.tcp.census().connections, 1);
    t.advance(110 * SECOND);
    t.expect_clean();
}

#[test]
fn an_orphan_at_a_closed_window_is_given_up_in_the_end() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(0));
    t.send(id, "abc");
    t.close(id);
    let mut held = Duration::ZERO;
    while t.tcp.census().connections > 0 {
        t.advance(SECOND);
        held += SECOND;
        while t.wire.sent.pop_front().is_some() {
            t.inject(seg().window(0));
        }
        assert!(held < 1100 * SECOND);
    }
    assert!(held > 900 * SECOND, "{held:?}");
    t.expect_clean();
}

// ---- TIME-WAIT

#[test]
fn time_wait_answers_a_fin_and_begins_anew() {
    // RFC 9293 section 3.6.1, MUST-13.
    let mut t = Harness::new();
    let id = in_time_wait(&mut t, syn());
    t.expect_silence(50 * SECOND);
    t.inject(fin().ack(2));
    t.expect(seg().seq(2).ack(2));
    t.expect_silence(59 * SECOND);
    assert_eq!(t.state(id), State::TimeWait);
    t.expect_silence(2 * SECOND);
    assert_eq!(t.state(id), State::Closed);
}

#[test]
fn time_wait_is_not_moved_by_resets() {
    // RFC 1337.
    let mut t = Harness::new();
    let id = in_time_wait(&mut t, syn());
    for seq in [1, 2, 3] {
        t.inject(rst().seq(seq));
    }
    t.expect_nothing();
    assert_eq!((t.state(id), t.dropped(DropReason::TcpBadReset)), (State::TimeWait, 3));
}

#[test]
fn time_wait_answers_what_is_out_of_place_and_ignores_acks() {
    let mut t = Harness::new();
    in_time_wait(&mut t, syn());
    t.inject(seg().seq(2).ack(2));
    t.expect_nothing();
    t.inject(seg().seq(1).ack(2));
    t.expect(seg().seq(2).ack(2));
    t.inject(seg().seq(2).ack(2).data("old"));
    t.expect(seg().seq(2).ack(2));
    t.inject(syn_ack());
    t.expect(seg().seq(2).ack(2));
}

#[test]
fn a_later_syn_opens_a_connection_in_time_wait_anew() {
    let mut t = Harness::new();
    let listener = t.tcp.listen("0.0.0.0:80".parse().unwrap(), 4, SocketOptions::default()).unwrap();
    t.inject(syn());
    t.inject(seg());
    let (id, _) = t.accept(listener).unwrap();
    t.close(id);
    t.inject(fin().ack(2));
    t.wire.sent.clear();
    assert_eq!(t.tcp.census().time_wait, 1);
    let old = t.isn(t.remote.port());
    // Not later than the FIN: challenged.
    t.inject(syn().seq(1));
    t.expect(seg().seq(2).ack(2));
    t.inject(syn().seq(2));
    let answer = t.expect(syn_ack().ack(3));
    // RFC 9293 section 3.6.1, MAY-2 (1).
    assert!(answer.raw_seq.gt(old + 2));
    assert_eq!(t.tcp.census().syn_received, 1);
    t.inject(seg().seq(3));
    assert!(t.accept(listener).is_some());
    assert_eq!((t.tcp.census().time_wait, t.counters.tcp_time_wait_recycled), (0, 1));
}

#[test]
fn a_syn_that_proves_old_gives_time_wait_back() {
    // RFC 9293 section 3.6.1, MAY-2 (2).
    let mut t = Harness::new();
    let id = in_time_wait(&mut t, syn());
    t.inject(syn().seq(100));
    t.expect(syn_ack().ack(101));
    t.inject(rst().seq(101));
    assert_eq!((t.tcp.census().syn_received, t.tcp.census().time_wait), (0, 1));
    t.keep_untaken = true;
    t.inject(rst().seq(2));
    assert_eq!((t.untaken, t.state(id)), (0, State::TimeWait));
    t.advance(61 * SECOND);
    assert_eq!(t.tcp.census().time_wait, 0);
}

#[test]
fn timestamps_tell_a_later_syn_from_an_old_one() {
    // RFC 9293 section 3.6.1, SHLD-4.
    // RFC 6191 section 2.
    let mut t = Harness::new();
    in_time_wait(&mut t, syn().ts(1000, 0));
    t.inject(syn().seq(50).ts(999, 0));
    t.expect(seg().seq(2).ack(2));
    t.inject(syn().seq(1).ts(1000, 0));
    t.expect(seg().seq(2).ack(2));
    // Lower sequence number, later timestamp.
    t.inject(syn().seq(0x8000_0000).ts(1001, 0));
    assert_eq!(t.wire.sent.pop_front().unwrap().flags, Flags::SYN | Flags::ACK);
}

#[test]
fn without_timestamps_before_a_syn_with_some_is_later() {
    let mut t = Harness::new();
    in_time_wait(&mut t, syn());
    t.inject(syn().seq(0x8000_0000).ts(1, 0));
    assert_eq!(t.wire.sent.pop_front().unwrap().flags, Flags::SYN | Flags::ACK);
}

#[test]
fn a_syn_nobody_listens_for_leaves_time_wait_alone() {
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions::default());
    t.inject(syn_ack());
    t.shutdown(id, Shutdown::Write);
    t.inject(fin().ack(2));
    t.wire.sent.clear();
    t.inject(syn().seq(100));
    t.expect(seg().seq(2).ack(2));
    assert_eq!(t.state(id), State::TimeWait);
}

#[test]
fn the_oldest_time_wait_makes_room() {
    let mut t = Harness::with(TcpConfig { time_wait_max: 2, ..TcpConfig::default() });
    let listener = t.tcp.listen(t.local, 4, SocketOptions::default()).unwrap();
    for port in [1, 2, 3] {
        t.inject(syn().port(port));
        t.inject(seg().port(port));
        let (id, _) = t.accept(listener).unwrap();
        t.close(id);
        t.inject(fin().ack(2).port(port));
    }
    assert_eq!((t.tcp.census().time_wait, t.counters.tcp_time_wait_recycled), (2, 1));
    t.wire.sent.clear();
    t.inject(fin().ack(2).port(1));
    t.expect(Seg { flags: Flags::RST, seq: 2, ack: 0, ..seg() }.port(1));
    t.inject(fin().ack(2).port(2));
    t.expect(seg().seq(2).ack(2).port(2));
}

#[test]
fn when_ports_run_out_one_in_time_wait_with_timestamps_serves_again() {
    let config = TcpConfig { ephemeral_ports: 40_000..=40_000, ..TcpConfig::default() };
    for timestamps in [true, false] {
        let mut t = Harness::with(TcpConfig { timestamps, ..config.clone() });
        t.local.set_port(0);
        let id = t.connect_with(SocketOptions::default());
        t.local = t.tcp.tuple(id).unwrap().local;
        let opening = t.expect(syn());
        let val = opening.options.timestamps.map(|ts| ts.val);
        let stamped = |segment: Seg| val.map_or(segment.clone(), |val| segment.ts(7, val));
        t.inject(stamped(syn_ack()));
        t.shutdown(id, Shutdown::Write);
        t.inject(stamped(fin().ack(2)));
        t.wire.sent.clear();
        let any = SocketAddr::new(t.local.ip(), 0);
        let soon = t.tcp.connect(t.now, any, t.remote, SocketOptions::default());
        assert_eq!(soon, Err(TcpError::AddrNotAvailable));
        t.advance(2 * SECOND);
        let later = t.tcp.connect(t.now, any, t.remote, SocketOptions::default());
        assert_eq!(later.is_ok(), timestamps);
        t.transmit();
        if timestamps {
            let again = t.expect(syn());
            assert!(again.raw_seq.gt(opening.raw_seq + 2));
            assert!(again.options.timestamps.unwrap().val > val.unwrap());
        }
    }
}

// ---- the peer's FIN

/// A connection whose peer has sent a request, which was acknowledged and read, and then its FIN.
fn closed_by_the_peer(t: &mut Harness) -> ConnId {
    let id = t.established();
    t.inject(seg().data("request"));
    t.expect(seg().ack(8));
    t.recv(id);
    t.inject(fin().seq(8));
    id
}

#[test]
fn the_ack_of_a_fin_rides_on_our_own() {
    // RFC 9293 section 3.8.6.3.
    let mut t = Harness::new();
    let id = closed_by_the_peer(&mut t);
    t.expect_nothing();
    t.close(id);
    t.expect(fin().ack(9));
    t.expect_nothing();
}

#[test]
fn the_ack_of_a_fin_does_not_wait_long() {
    // RFC 9293 section 3.8.6.3, MUST-40.
    let mut t = Harness::new();
    let id = closed_by_the_peer(&mut t);
    assert_eq!((t.state(id), t.end(id)), (State::CloseWait, Some(Ok(0))));
    t.expect_after(40 * MS, seg().ack(9));
}

#[test]
fn a_fin_without_anything_before_it_is_acked_at_once() {
    let mut t = Harness::new();
    t.established();
    t.inject(fin());
    t.expect(seg().ack(2));
}

#[test]
fn a_fin_counts_in_a_closed_window() {
    let mut t = Harness::new();
    let options = SocketOptions { receive_buffer_bytes: 8 << 10, ..SocketOptions::default() };
    let id = t.accept_with(options, syn().mss(1000));
    let window = 4096;
    t.inject(seg().stream(window));
    t.advance(50 * MS);
    assert_eq!(t.wire.sent.pop_back().map(|sent| sent.window), Some(0));
    t.wire.sent.clear();
    let next = window as u32 + 1;
    t.inject(fin().seq(next));
    t.advance(50 * MS);
    t.expect(seg().ack(next + 1).window(0));
    assert_eq!(t.state(id), State::CloseWait);
    assert_eq!(t.recv(id).len(), window);
    assert_eq!(t.end(id), Some(Ok(0)));
}
