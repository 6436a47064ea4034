//! RFC 9293 sections 3.10.7.1 (a segment arrives in CLOSED) and 3.10.7.2 (in LISTEN).

use super::*;

// ---- 3.10.7.1 CLOSED

#[test]
fn closed_ignores_a_reset() {
    let mut s = Scene::closed();
    s.is_dropped(s.reset());
    s.is_dropped(s.reset().with(Flags::ACK).data("x"));
}

#[test]
fn closed_resets_a_segment_without_ack_from_sequence_number_zero() {
    let mut s = Scene::closed();
    s.t.inject(syn().data("abc"));
    s.expect_reset_ack(4);
    s.t.inject(syn().with(Flags::FIN));
    // SEG.LEN counts SYN and FIN.
    s.expect_reset_ack(2);
    s.t.inject(seg().flags(Flags::FIN).data("abc"));
    s.expect_reset_ack(5);
}

#[test]
fn closed_resets_a_segment_with_ack_from_what_it_acknowledges() {
    let mut s = Scene::closed();
    for segment in [seg(), syn_ack(), fin(), seg().data("abc")] {
        s.t.inject(segment.ack(4711));
        s.expect_reset(4711);
    }
}

// ---- 3.10.7.2 LISTEN

#[test]
fn listen_first_ignores_a_reset() {
    let mut s = Scene::listen();
    for flags in [Flags::NONE, Flags::ACK, Flags::SYN, Flags::SYN | Flags::ACK] {
        s.is_dropped(rst().with(flags));
    }
}

#[test]
fn listen_second_resets_an_ack() {
    let mut s = Scene::listen();
    for segment in [seg(), syn_ack(), fin(), seg().data("abc")] {
        s.t.inject(segment.ack(4711));
        s.expect_reset(4711);
        assert_eq!(s.state(), State::Listen);
    }
}

#[test]
fn listen_third_answers_a_syn_and_enters_syn_received() {
    let mut s = Scene::listen();
    s.t.inject(syn());
    s.t.expect(syn_ack());
    assert_eq!(s.state(), State::SynReceived);
    // The remote socket is filled in.
    assert!(s.t.tcp.knows(&Tuple { local: s.t.local, remote: s.t.remote }));
}

#[test]
fn listen_third_text_of_a_syn_is_processed_later() {
    // The text may be queued; here the peer sends it again (RFC 7413 apart, only acknowledged text is kept).
    let mut s = Scene::listen();
    s.t.inject(syn().data("abc"));
    s.t.expect(syn_ack());
    s.t.inject(seg().data("abc"));
    let id = s.t.accept(s.listener.unwrap()).unwrap().0;
    assert_eq!(s.t.recv(id), b"abc");
}

#[test]
fn listen_fourth_drops_anything_else() {
    // Deviation: without SYN, ACK and RST it is answered as in CLOSED, as nobody can tell a listener from none.
    let mut s = Scene::listen();
    s.t.inject(seg().flags(Flags::FIN).data("abc"));
    s.expect_reset_ack(5);
    assert_eq!(s.state(), State::Listen);
}

#[test]
fn listen_a_fin_with_a_syn_is_left_to_be_sent_again() {
    // Eighth step: SEG.SEQ cannot be validated in LISTEN.
    let mut s = Scene::listen();
    s.t.inject(syn().with(Flags::FIN));
    s.t.expect(syn_ack());
    assert_eq!(s.state(), State::SynReceived);
    s.t.inject(seg());
    assert_eq!(s.state(), State::Established);
}

#[test]
fn listen_disturbs_no_other_connection() {
    // MUST-41, MUST-42: the port of an open connection listens again.
    let mut s = Scene::established();
    s.t.tcp.listen(s.t.local, 16, SocketOptions::default()).unwrap();
    assert_eq!(s.state(), State::Established);
    s.t.inject(s.seg().data("abc"));
    assert_eq!(s.t.recv(s.id()), b"abc");
    s.t.wire.sent.clear();
    s.t.inject(syn().port(50_001));
    s.t.expect(syn_ack().port(50_001));
}

#[test]
fn listen_ignores_a_syn_from_an_address_that_is_no_hosts() {
    // MUST-57, MUST-63.
    for remote in ["224.0.0.1:50000", "255.255.255.255:50000", "0.0.0.0:50000"] {
        let mut s = Scene::listen();
        s.t.remote = remote.parse().unwrap();
        s.is_dropped(syn());
        s.is_dropped(seg());
    }
}
