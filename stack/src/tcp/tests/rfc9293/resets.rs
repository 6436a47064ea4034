//! RFC 9293 section 3.10.7.4, second step: RST, with the checks of RFC 5961 section 3.2.

use super::*;

/// RFC 5961 section 3.2, 1): outside the window a reset is dropped without a word.
fn outside_the_window_it_is_dropped(s: &mut Scene) {
    for seq in [s.rcv_nxt.wrapping_sub(1), s.rcv_nxt + BEYOND, s.rcv_nxt.wrapping_sub(BEYOND)] {
        s.is_dropped(s.reset().seq(seq));
        s.is_dropped(s.acking().flags(Flags::RST | Flags::ACK).seq(seq));
    }
}
in_each!(outside_the_window_it_is_dropped:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack time_wait);

/// RFC 5961 section 3.2, 3): in the window but not at its start it draws a challenge ACK.
fn inside_the_window_it_draws_a_challenge_ack(s: &mut Scene) {
    s.only_draws_an_ack(s.reset().seq(s.rcv_nxt + 1));
}
in_each!(inside_the_window_it_draws_a_challenge_ack:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack);

/// The RST of a peer that answers the challenge ACK is exact.
fn the_answer_to_the_challenge_ack_resets(s: &mut Scene) {
    s.t.inject(s.reset().seq(s.rcv_nxt + 1));
    let challenge = s.t.wire.sent.pop_front().unwrap();
    s.t.inject(rst().seq(challenge.ack));
    assert_eq!(s.state(), State::Closed);
}
in_each!(the_answer_to_the_challenge_ack_resets:
    syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack);

/// Users of an open connection learn of the reset, once by each outstanding call and once as a signal (MUST-12).
fn at_rcv_nxt_it_ends_the_connection_with_an_error(s: &mut Scene) {
    let (wakes, waker) = Wakes::new();
    let id = s.id();
    let flush_waits = s.t.tcp.poll_flushed(id, &waker).is_pending();
    let waits = s.t.tcp.poll_recv(s.t.now, id, &mut [0], &waker).is_pending() || flush_waits;
    s.t.inject(s.reset());
    s.t.expect_nothing();
    assert_eq!(s.state(), State::Closed);
    assert_eq!(wakes.count() > 0, waits);
    assert_eq!(s.t.tcp.poll_flushed(id, &waker), core::task::Poll::Ready(Err(TcpError::ConnectionReset)));
    assert_eq!(s.error(), Some(TcpError::ConnectionReset));
    s.t.close(id);
    s.t.expect_clean();
}
in_each!(at_rcv_nxt_it_ends_the_connection_with_an_error: established fin_wait_1 fin_wait_2 close_wait);

fn at_rcv_nxt_it_ends_a_closed_connection_quietly(s: &mut Scene) {
    s.t.inject(s.reset());
    s.t.expect_nothing();
    assert_eq!((s.state(), s.error()), (State::Closed, None));
}
in_each!(at_rcv_nxt_it_ends_a_closed_connection_quietly: closing last_ack);

#[test]
fn syn_received_returns_to_listen_after_a_passive_open() {
    // MUST-11: the state remembers where it came from.
    let mut s = Scene::syn_received();
    s.t.inject(s.reset());
    s.t.expect_silence(100 * SECOND);
    assert_eq!(s.state(), State::Listen);
    assert_eq!(s.t.tcp.census().syn_received, 0);
}

#[test]
fn syn_received_is_refused_after_an_active_open() {
    // MUST-11.
    let mut s = Scene::syn_received_active();
    s.t.inject(s.reset());
    s.t.expect_silence(100 * SECOND);
    assert_eq!((s.state(), s.error()), (State::Closed, Some(TcpError::ConnectionRefused)));
}

#[test]
fn time_wait_ignores_resets() {
    // Deviation: RFC 1337 section 3 (F1) against the clause, which would enter CLOSED.
    let mut s = Scene::time_wait();
    for seq in [s.rcv_nxt, s.rcv_nxt + 1] {
        s.is_dropped(s.reset().seq(seq));
    }
}

#[test]
fn a_reset_may_bring_data() {
    // SHLD-2.
    let mut s = Scene::established();
    s.t.inject(s.reset().data("why"));
    s.t.expect_nothing();
    assert_eq!((s.state(), s.error()), (State::Closed, Some(TcpError::ConnectionReset)));
}
