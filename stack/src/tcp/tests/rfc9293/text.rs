//! RFC 9293 section 3.10.7.4, sixth step (URG) and seventh step (segment text).

use super::*;

/// MUST-30, MUST-32: the user is signalled; MUST-33: and may ask how much there is. MUST-62: the pointer is that of
/// the octet behind it.
fn urgent_data_is_signalled(s: &mut Scene) {
    let id = s.id();
    let (wakes, waker) = Wakes::new();
    assert!(s.t.tcp.poll_recv(s.t.now, id, &mut [0], &waker).is_pending());
    s.t.inject(Seg { urgent: Some(3), ..s.seg().with(Flags::URG) });
    assert_eq!((wakes.count(), s.t.tcp.urgent_ahead(id)), (1, Ok(Some(3))));
    s.t.inject(s.seg().data("abcd"));
    assert_eq!(s.t.recv_up_to(id, 3), b"abc");
    assert_eq!(s.t.tcp.urgent_ahead(id), Ok(None));
}
in_each!(urgent_data_is_signalled: established fin_wait_1 fin_wait_2);

/// RCV.UP is the largest pointer seen.
fn an_earlier_urgent_pointer_does_not_move_it_back(s: &mut Scene) {
    s.t.inject(Seg { urgent: Some(30), ..s.seg().with(Flags::URG) });
    s.t.inject(Seg { urgent: Some(3), ..s.seg().with(Flags::URG) });
    assert_eq!(s.t.tcp.urgent_ahead(s.id()), Ok(Some(30)));
}
in_each!(an_earlier_urgent_pointer_does_not_move_it_back: established fin_wait_1 fin_wait_2);

/// After the peer's FIN, URG is ignored.
fn urgent_data_behind_a_fin_is_ignored(s: &mut Scene) {
    s.t.inject(Seg { urgent: Some(3), ..s.seg().with(Flags::URG) });
    assert!(!matches!(s.t.tcp.urgent_ahead(s.id()), Ok(Some(_))));
}
in_each!(urgent_data_behind_a_fin_is_ignored: close_wait closing last_ack time_wait);

/// Text is delivered and acknowledged.
fn text_is_delivered_and_acknowledged(s: &mut Scene) {
    let id = s.id();
    s.t.inject(s.seg().data("abc"));
    s.t.advance(100 * MS);
    s.rcv_nxt += 3;
    s.expect_ack();
    assert_eq!(s.t.recv(id), b"abc");
}
in_each!(text_is_delivered_and_acknowledged: established fin_wait_1 fin_wait_2);

/// RCV.NXT + RCV.WND is not reduced (SHLD-14).
fn the_windows_right_edge_stays(s: &mut Scene) {
    let mut edge = 0;
    for n in 0..20 {
        s.t.inject(s.seg().seq(s.rcv_nxt + 1000 * n).stream(1000));
        for sent in s.t.wire.sent.drain(..) {
            let new = sent.ack + u32::from(sent.window);
            assert!(new >= edge, "{new} < {edge}");
            edge = new;
        }
    }
    assert!(edge > 0);
}
in_each!(the_windows_right_edge_stays: established fin_wait_1 fin_wait_2);

/// Text behind the peer's FIN is ignored.
fn text_behind_a_fin_is_ignored(s: &mut Scene) {
    let (state, id) = (s.state(), s.id());
    s.t.inject(s.seg().data("abc"));
    assert_eq!((s.state(), s.t.end(id)), (state, Some(Ok(0))));
}
in_each!(text_behind_a_fin_is_ignored: close_wait closing last_ack time_wait);

#[test]
fn text_with_the_last_ack_of_the_handshake_is_delivered() {
    // SYN-RECEIVED: the fifth step goes on to the following ones in ESTABLISHED.
    let mut s = Scene::syn_received();
    s.t.inject(s.acking().data("abc"));
    let id = s.t.accept(s.listener.unwrap()).unwrap().0;
    assert_eq!((s.state(), s.t.recv(id)), (State::Established, b"abc".to_vec()));
    let mut s = Scene::syn_received_active();
    s.t.inject(s.acking().data("abc"));
    assert_eq!((s.state(), s.t.recv(s.id())), (State::Established, b"abc".to_vec()));
}

#[test]
fn the_acknowledgment_rides_on_text_that_is_sent_anyway() {
    let mut s = Scene::established();
    s.t.inject(s.seg().data("abc"));
    s.t.wire.sent.clear();
    s.t.inject(s.seg().seq(4).data("def"));
    s.t.send(s.id(), "answer");
    let acks: Vec<_> = s.t.wire.sent.iter().map(|sent| sent.ack).collect();
    assert_eq!(acks.last(), Some(&7));
    s.t.wire.sent.clear();
    s.t.inject(s.seg().seq(7).ack(7));
    s.t.expect_silence(SECOND);
}

#[test]
fn options_are_taken_in_any_segment() {
    // MUST-5; RFC 7323 section 3.2: timestamps that were not agreed on are ignored. MUST-65: no MSS but in a SYN.
    let mut s = Scene::established();
    s.t.inject(s.seg().ts(1, 2).data("abc"));
    s.t.advance(100 * MS);
    assert_eq!(s.t.recv(s.id()), b"abc");
    s.t.send(s.id(), pattern(1, 1000));
    assert!(s.t.wire.sent.iter().all(|sent| sent.options.mss.is_none()));
    assert!(!s.t.wire.sent.is_empty());
}

#[test]
fn writes_that_wait_together_are_pushed_once() {
    // SHLD-27.
    let mut s = Scene::established();
    s.t.send(s.id(), "first");
    s.t.expect(seg().data("first"));
    for word in ["one", "two", "three"] {
        s.t.send(s.id(), word);
    }
    s.t.expect_nothing();
    s.t.inject(s.seg().ack(6));
    let sent = s.t.expect(seg().seq(6).data("onetwothree"));
    assert!(sent.flags.contains(Flags::PSH));
}
