//! RFC 9293 section 3.10.7.4, first step: the sequence number.

use super::*;

/// An old duplicate is answered and dropped.
fn data_before_the_window_draws_an_ack(s: &mut Scene) {
    let old = s.acking().seq(s.rcv_nxt.wrapping_sub(1)).data("x");
    s.only_draws_an_ack(old);
}
in_each!(data_before_the_window_draws_an_ack:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack time_wait);

fn data_beyond_the_window_draws_an_ack(s: &mut Scene) {
    let beyond = s.acking().seq(s.rcv_nxt + BEYOND).data("x");
    s.only_draws_an_ack(beyond);
}
in_each!(data_beyond_the_window_draws_an_ack:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack time_wait);

/// Table 6, second row: segments without text.
fn an_ack_before_the_window_draws_an_ack(s: &mut Scene) {
    let old = s.acking().seq(s.rcv_nxt.wrapping_sub(1));
    s.only_draws_an_ack(old);
}
in_each!(an_ack_before_the_window_draws_an_ack:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack time_wait);

fn an_ack_beyond_the_window_draws_an_ack(s: &mut Scene) {
    let beyond = s.acking().seq(s.rcv_nxt + BEYOND);
    s.only_draws_an_ack(beyond);
}
in_each!(an_ack_beyond_the_window_draws_an_ack:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack time_wait);

/// Controls outside the window are dropped with the segment.
fn a_fin_beyond_the_window_draws_an_ack(s: &mut Scene) {
    let beyond = s.acking().seq(s.rcv_nxt + BEYOND).with(Flags::FIN);
    s.only_draws_an_ack(beyond);
}
in_each!(a_fin_beyond_the_window_draws_an_ack:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack time_wait);

/// Answers to segments out of the window are limited (RFC 5961 section 7), so that two ends that disagree do not
/// answer each other for ever.
fn answers_are_limited(s: &mut Scene) {
    let old = s.acking().seq(s.rcv_nxt.wrapping_sub(1));
    for _ in 0..2000 {
        s.t.inject(old.clone());
    }
    assert!((1..2000).contains(&s.t.wire.sent.len()), "{}", s.t.wire.sent.len());
}
in_each!(answers_are_limited:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack time_wait);

/// Of a segment that straddles the window's left edge only the new part is processed.
fn the_old_part_of_a_segment_is_cut_off(s: &mut Scene) {
    let id = s.id();
    s.t.inject(s.seg().seq(s.rcv_nxt - 1).data("?abc"));
    assert_eq!(s.t.recv(id), b"abc");
}
in_each!(the_old_part_of_a_segment_is_cut_off: established fin_wait_1 fin_wait_2);

/// SHLD-31: segments ahead of a gap are held; MAY-13: and answered at once.
fn segments_ahead_of_a_gap_are_held(s: &mut Scene) {
    let id = s.id();
    s.only_draws_an_ack(s.seg().seq(s.rcv_nxt + 3).data("def"));
    s.t.inject(s.seg().data("abc"));
    s.rcv_nxt += 6;
    s.expect_ack();
    assert_eq!(s.t.recv(id), b"abcdef");
}
in_each!(segments_ahead_of_a_gap_are_held: established fin_wait_1 fin_wait_2);

/// MUST-58, MUST-59: segments that arrived together are all processed before one ACK.
fn a_burst_is_answered_once(s: &mut Scene) {
    let burst: Vec<_> = (0..8).map(|n| s.seg().seq(s.rcv_nxt + 1000 * n).stream(1000)).collect();
    s.t.inject_burst(burst);
    s.rcv_nxt += 8000;
    s.expect_ack();
}
in_each!(a_burst_is_answered_once: established fin_wait_1 fin_wait_2);

/// A connection whose reader does not read until its window is closed.
fn with_a_closed_window() -> Scene {
    let mut s =
        Scene::established_with(SocketOptions { receive_buffer_bytes: 4096, ..SocketOptions::default() });
    loop {
        s.t.inject(s.seg().stream(1000));
        s.t.advance(SECOND);
        let sent = s.t.wire.sent.pop_back().unwrap();
        s.t.wire.sent.clear();
        s.rcv_nxt = sent.ack;
        if sent.window == 0 {
            return s;
        }
    }
}

#[test]
fn at_a_closed_window_text_is_not_acceptable() {
    let mut s = with_a_closed_window();
    s.only_draws_an_ack(s.seg().data("x"));
    s.only_draws_an_ack(s.seg().seq(s.rcv_nxt + 1));
}

#[test]
fn at_a_closed_window_acks_are_taken() {
    let mut s = with_a_closed_window();
    s.t.send(s.id(), "abc");
    s.t.expect(s.seg().seq(1).ack(s.rcv_nxt).data("abc"));
    s.t.inject(s.seg().ack(4));
    s.t.expect_silence(10 * SECOND);
    assert!(s.t.tcp.poll_flushed(s.id(), core::task::Waker::noop()).is_ready());
}

#[test]
fn at_a_closed_window_the_ack_of_a_probe_is_taken() {
    // The peer's probe carries text that is refused, and an ACK that counts.
    let mut s = with_a_closed_window();
    s.t.send(s.id(), "abc");
    s.t.expect(seg().ack(s.rcv_nxt).data("abc"));
    s.t.inject(s.seg().ack(4).data("p"));
    s.snd_nxt = 4;
    s.expect_ack();
    assert!(s.t.tcp.poll_flushed(s.id(), core::task::Waker::noop()).is_ready());
}

#[test]
fn at_a_closed_window_resets_are_taken() {
    // MUST-66.
    let mut s = with_a_closed_window();
    s.t.inject(s.reset());
    assert_eq!((s.state(), s.error()), (State::Closed, Some(TcpError::ConnectionReset)));
}

#[test]
fn at_a_closed_window_urgent_pointers_are_taken() {
    // MUST-66.
    let mut s = with_a_closed_window();
    let unread = s.rcv_nxt - 1;
    s.t.inject(Seg { urgent: Some(10), ..s.seg().with(Flags::URG) });
    assert_eq!(s.t.tcp.urgent_ahead(s.id()), Ok(Some(unread + 10)));
}

#[test]
fn the_part_beyond_the_window_is_cut_off() {
    let mut s =
        Scene::established_with(SocketOptions { receive_buffer_bytes: 4096, ..SocketOptions::default() });
    s.t.inject(s.seg().stream(1400));
    s.t.advance(SECOND);
    let edge = s.t.wire.sent.pop_front().map(|sent| sent.ack + u32::from(sent.window)).unwrap();
    s.t.inject(s.seg().seq(edge - 10).stream(20));
    s.t.wire.sent.clear();
    for seq in (1401..edge).step_by(100) {
        s.t.inject(s.seg().seq(seq).stream(100.min((edge - seq) as usize)));
    }
    s.t.advance(SECOND);
    assert_eq!(s.t.wire.sent.pop_back().unwrap().ack, edge);
    assert_eq!(s.t.recv(s.id()), pattern(1, (edge - 1) as usize));
}
