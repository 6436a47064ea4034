//! RFC 9293 section 3.10.7.4, eighth step: FIN.

use super::*;

/// A FIN is acknowledged and the user learns that the peer is done, after the text before it.
fn a_fin_ends_what_the_user_receives(s: &mut Scene) {
    let id = s.id();
    let (wakes, waker) = Wakes::new();
    assert!(s.t.tcp.poll_recv(s.t.now, id, &mut [0], &waker).is_pending());
    s.t.inject(s.seg().with(Flags::FIN).data("abc"));
    s.rcv_nxt += 4;
    s.expect_ack();
    assert_eq!((wakes.count(), s.t.recv(id), s.t.end(id)), (1, b"abc".to_vec(), Some(Ok(0))));
}
in_each!(a_fin_ends_what_the_user_receives: established fin_wait_1 fin_wait_2);

fn enters_close_wait(s: &mut Scene) {
    s.t.inject(s.acking().with(Flags::FIN));
    s.rcv_nxt += 1;
    s.expect_ack();
    assert_eq!(s.state(), State::CloseWait);
}
in_each!(enters_close_wait: syn_received syn_received_active established);

#[test]
fn fin_wait_1_becomes_closing() {
    let mut s = Scene::fin_wait_1();
    s.t.inject(s.seg().with(Flags::FIN));
    s.rcv_nxt += 1;
    s.expect_ack();
    assert_eq!(s.state(), State::Closing);
}

/// TIME-WAIT begins and the other timers end.
fn enters_time_wait(s: &mut Scene) {
    s.t.inject(s.acking().with(Flags::FIN));
    s.rcv_nxt += 1;
    s.expect_ack();
    assert_eq!(s.state(), State::TimeWait);
    s.t.expect_silence(59 * SECOND);
    assert_eq!(s.state(), State::TimeWait);
    s.t.expect_silence(2 * SECOND);
    assert_eq!(s.state(), State::Closed);
}
in_each!(enters_time_wait: fin_wait_1 fin_wait_2);

/// The peer's FIN again, which is old, is acknowledged and changes no state.
fn the_fin_again_is_acknowledged(s: &mut Scene) {
    s.only_draws_an_ack(s.seg().seq(s.rcv_nxt - 1).with(Flags::FIN));
}
in_each!(the_fin_again_is_acknowledged: close_wait closing last_ack time_wait);

/// A second FIN at RCV.NXT changes no state either.
fn another_fin_changes_nothing(s: &mut Scene) {
    let state = s.state();
    s.t.inject(s.seg().with(Flags::FIN));
    assert_eq!(s.state(), state);
}
in_each!(another_fin_changes_nothing: close_wait closing last_ack time_wait);
