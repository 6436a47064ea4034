//! RFC 9293 section 3.10.8: user timeout, retransmission timeout, TIME-WAIT timeout.

use super::*;

/// The segment at the front comes three times more, so the timer is started again each time. It backs off, but not beyond
/// 10 s by then.
#[track_caller]
fn comes_again(s: &mut Scene, expected: Seg) {
    s.t.expect_silence(MS);
    for _ in 0..3 {
        let before = s.t.now;
        while s.t.wire.sent.is_empty() && s.t.now < before + 10 * SECOND {
            s.t.advance(10 * MS);
        }
        s.t.expect(expected.clone());
    }
}

#[test]
fn retransmission_syn_sent() {
    comes_again(&mut Scene::syn_sent(), syn());
}

fn retransmission_of_the_syn_ack(s: &mut Scene) {
    comes_again(s, syn_ack());
}
in_each!(retransmission_of_the_syn_ack: syn_received syn_received_active);

/// MUST-19's exponential backoff is tested with the timer; here: the segment at the front comes again.
fn retransmission_of_text(s: &mut Scene) {
    let id = s.id();
    s.t.send(id, "abc");
    let text = seg().ack(s.rcv_nxt).data("abc");
    s.t.expect(text.clone());
    comes_again(s, text);
}
in_each!(retransmission_of_text: established close_wait);

fn retransmission_of_the_fin(s: &mut Scene) {
    let again = fin().ack(s.rcv_nxt);
    comes_again(s, again);
}
in_each!(retransmission_of_the_fin: fin_wait_1 closing last_ack);

/// Nothing is on the retransmission queue.
fn no_retransmission_where_all_is_acknowledged(s: &mut Scene) {
    s.t.expect_silence(50 * SECOND);
}
in_each!(no_retransmission_where_all_is_acknowledged:
    closed listen established fin_wait_2 close_wait time_wait);

/// The user timeout flushes all queues, tells the user and all outstanding calls, and deletes the connection.
fn user_timeout_ends_it(s: &mut Scene) {
    let id = s.id();
    s.t.set(id, |options| options.user_timeout = Some(5 * SECOND));
    if matches!(s.state(), State::Established | State::CloseWait) {
        s.t.send(id, "abc");
    }
    s.t.advance(4 * SECOND);
    assert_ne!(s.state(), State::Closed);
    let (wakes, waker) = Wakes::new();
    assert!(s.t.tcp.poll_flushed(id, &waker).is_pending());
    s.t.advance(2 * SECOND);
    assert_eq!((s.state(), wakes.count()), (State::Closed, 1));
    assert_eq!(s.t.tcp.poll_flushed(id, &waker), core::task::Poll::Ready(Err(TcpError::TimedOut)));
    s.t.wire.sent.clear();
    s.t.expect_silence(200 * SECOND);
    s.t.close(id);
    s.t.expect_clean();
}
in_each!(user_timeout_ends_it:
    syn_sent syn_received_active established fin_wait_1 close_wait closing last_ack);

#[test]
fn user_timeout_of_a_passive_open_forgets_it() {
    // There is no user yet: the attempt ends with its retransmissions, and nobody is told.
    let mut s = Scene::syn_received();
    s.t.advance(70 * SECOND);
    assert_eq!(s.state(), State::Listen);
    assert!(s.t.accept(s.listener.unwrap()).is_none());
}

#[test]
fn user_timeout_does_not_count_where_nothing_is_outstanding() {
    // Deviation: RFC 5482 section 2 defines it for data that was sent; FIN-WAIT-2 has a limit of its own.
    for mut s in [Scene::established(), Scene::fin_wait_2()] {
        let state = s.state();
        s.t.set(s.id(), |options| options.user_timeout = Some(5 * SECOND));
        s.t.expect_silence(50 * SECOND);
        assert_eq!(s.state(), state);
    }
}

#[test]
fn time_wait_timeout_deletes_the_connection() {
    // MUST-13: 2 MSL.
    let mut s = Scene::time_wait();
    s.t.expect_silence(59 * SECOND);
    assert_eq!(s.state(), State::TimeWait);
    s.t.expect_silence(2 * SECOND);
    assert_eq!((s.state(), s.t.tcp.census().time_wait), (State::Closed, 0));
}

#[test]
fn keepalive_waits_for_two_hours_by_default() {
    // MUST-28.
    let mut s = Scene::established_with(SocketOptions { keepalive: true, ..SocketOptions::default() });
    s.t.expect_silence(7199 * SECOND);
    s.t.advance(2 * SECOND);
    assert_eq!(s.t.wire.sent.len(), 1);
}
