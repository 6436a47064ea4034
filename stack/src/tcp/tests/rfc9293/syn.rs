//! RFC 9293 section 3.10.7.4, fourth step: SYN, with RFC 5961 section 4.2 and, in TIME-WAIT, RFC 6191.

use super::*;

/// RFC 5961 section 4.2: whatever its sequence number, a SYN draws a challenge ACK and is dropped with all it carries.
fn a_syn_draws_a_challenge_ack(s: &mut Scene) {
    for seq in [s.rcv_nxt, s.rcv_nxt + 5, s.rcv_nxt + BEYOND, s.rcv_nxt.wrapping_sub(BEYOND)] {
        s.only_draws_an_ack(syn().seq(seq));
        s.only_draws_an_ack(syn_ack().seq(seq).ack(s.snd_nxt).data("abc"));
    }
}
in_each!(a_syn_draws_a_challenge_ack: established fin_wait_1 fin_wait_2 close_wait closing last_ack);

#[test]
fn syn_received_returns_to_listen_after_a_passive_open() {
    let mut s = Scene::syn_received();
    s.t.inject(syn().seq(s.rcv_nxt));
    s.t.expect_nothing();
    assert_eq!(s.state(), State::Listen);
}

#[test]
fn syn_received_draws_a_challenge_ack_after_an_active_open() {
    let mut s = Scene::syn_received_active();
    s.only_draws_an_ack(syn().seq(s.rcv_nxt));
    s.only_draws_an_ack(syn().seq(s.rcv_nxt + 5));
}

#[test]
fn time_wait_answers_a_syn_that_may_be_old() {
    let mut s = Scene::time_wait();
    s.only_draws_an_ack(syn().seq(0u32.wrapping_sub(1000)));
    s.only_draws_an_ack(syn());
}

#[test]
fn time_wait_answers_a_syn_nobody_listens_for() {
    let mut s = Scene::time_wait();
    s.only_draws_an_ack(syn().seq(s.rcv_nxt + 1000));
}

#[test]
fn time_wait_gives_way_to_a_newer_syn() {
    // MAY-2 and RFC 6191.
    let mut s = Scene::time_wait();
    s.t.tcp.listen(s.t.local, 16, SocketOptions::default()).unwrap();
    s.t.inject(syn().seq(s.rcv_nxt + 1000));
    s.t.expect(syn_ack().ack(s.rcv_nxt + 1001));
    assert_eq!(s.state(), State::SynReceived);
}
