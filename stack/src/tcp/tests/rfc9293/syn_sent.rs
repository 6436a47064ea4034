//! RFC 9293 section 3.10.7.3: a segment arrives in SYN-SENT.

use super::*;

#[test]
fn first_an_ack_of_what_was_not_sent_is_reset() {
    let mut s = Scene::syn_sent();
    for ack in [0, 2, 5000, 0u32.wrapping_sub(1)] {
        for segment in [seg(), syn_ack(), fin(), seg().data("abc")] {
            s.t.inject(segment.ack(ack));
            s.expect_reset(ack);
            assert_eq!(s.state(), State::SynSent);
        }
        s.is_dropped(rst().with(Flags::ACK).ack(ack));
    }
}

#[test]
fn second_a_reset_with_an_acceptable_ack_refuses() {
    // RFC 5961 section 3.2: in SYN-SENT the ACK decides.
    let mut s = Scene::syn_sent();
    s.t.inject(rst().with(Flags::ACK).seq(0).ack(1));
    s.t.expect_nothing();
    assert_eq!((s.state(), s.error()), (State::Closed, Some(TcpError::ConnectionRefused)));
}

#[test]
fn second_a_reset_without_ack_is_dropped() {
    let mut s = Scene::syn_sent();
    s.is_dropped(rst());
    s.is_dropped(rst().with(Flags::SYN));
}

#[test]
fn fourth_a_syn_with_an_ack_of_ours_establishes() {
    let mut s = Scene::syn_sent();
    s.t.inject(syn_ack());
    s.rcv_nxt = 1;
    s.expect_ack();
    assert_eq!(s.state(), State::Established);
    // Our SYN left the retransmission queue.
    s.t.expect_silence(10 * SECOND);
}

#[test]
fn fourth_what_was_queued_may_go_with_the_ack() {
    let mut s = Scene::syn_sent();
    s.t.send(s.id(), "queued");
    s.t.expect_nothing();
    s.t.inject(syn_ack());
    s.t.expect(seg().data("queued"));
}

#[test]
fn fourth_text_and_controls_of_the_syn_ack_are_processed() {
    // The pointer counts from SEG.SEQ, the SYN's number.
    let mut s = Scene::syn_sent();
    s.t.inject(Seg { urgent: Some(3), ..syn_ack().with(Flags::FIN | Flags::URG).data("abc") });
    assert_eq!((s.state(), s.t.tcp.urgent_ahead(s.id())), (State::CloseWait, Ok(Some(2))));
    s.rcv_nxt = 5;
    s.expect_ack();
    assert_eq!(s.t.recv(s.id()), b"abc");
}

#[test]
fn fourth_a_syn_alone_is_answered_with_syn_ack() {
    // MUST-10: both open at once.
    let mut s = Scene::syn_sent();
    s.t.inject(syn());
    s.t.expect(syn_ack());
    s.t.expect_nothing();
    assert_eq!(s.state(), State::SynReceived);
}

#[test]
fn fourth_text_with_the_syn_alone_waits_for_established() {
    // Here it waits at the peer, which sends it again.
    let mut s = Scene::syn_sent();
    s.t.inject(syn().data("abc"));
    s.t.expect(syn_ack());
    s.t.inject(seg().data("abc"));
    assert_eq!((s.state(), s.t.recv(s.id())), (State::Established, b"abc".to_vec()));
}

#[test]
fn fifth_without_syn_and_rst_it_is_dropped() {
    let mut s = Scene::syn_sent();
    // The eighth step too: no FIN is processed in SYN-SENT.
    for segment in [seg(), fin(), seg().data("abc"), seg().flags(Flags::NONE), seg().flags(Flags::FIN)] {
        s.is_dropped(segment);
    }
}
