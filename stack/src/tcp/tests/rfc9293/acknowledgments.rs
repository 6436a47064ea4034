//! RFC 9293 section 3.10.7.4, fifth step: the ACK field, with the check of RFC 5961 section 5.2.

use core::task::Waker;

use super::*;

impl Scene {
    fn flushed(&mut self) -> bool {
        let id = self.id();
        self.t.tcp.poll_flushed(id, Waker::noop()).is_ready()
    }
}

/// Without ACK a segment is dropped.
fn without_ack_it_is_dropped(s: &mut Scene) {
    s.is_dropped(s.seg().flags(Flags::NONE));
    s.is_dropped(s.seg().flags(Flags::NONE).data("abc"));
    s.is_dropped(s.seg().flags(Flags::FIN));
}
in_each!(without_ack_it_is_dropped:
    syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack time_wait);

/// What acknowledges something not yet sent draws an ACK and is dropped.
fn an_ack_of_the_future_draws_an_ack(s: &mut Scene) {
    for ack in [s.snd_nxt + 1, s.snd_nxt + BEYOND] {
        s.only_draws_an_ack(s.seg().ack(ack));
        s.only_draws_an_ack(s.seg().ack(ack).data("abc"));
        s.only_draws_an_ack(s.seg().ack(ack).with(Flags::FIN));
    }
}
in_each!(an_ack_of_the_future_draws_an_ack: established fin_wait_1 fin_wait_2 close_wait closing last_ack);

/// RFC 5961 section 5.2 (MAY-12): an ACK older than the largest window the peer ever had is dropped and answered.
fn an_ack_of_the_far_past_draws_an_ack(s: &mut Scene) {
    let past = s.snd_una.wrapping_sub(65_536);
    s.only_draws_an_ack(s.seg().ack(past));
    s.only_draws_an_ack(s.seg().ack(past).data("abc"));
}
in_each!(an_ack_of_the_far_past_draws_an_ack: established fin_wait_1 fin_wait_2 close_wait closing last_ack);

/// RFC 5961 section 5.2: an ACK within that window is a duplicate, the rest of the segment counts.
fn a_duplicate_ack_is_ignored_and_its_text_is_not(s: &mut Scene) {
    let id = s.id();
    s.t.inject(s.seg().ack(s.snd_una.wrapping_sub(65_535)).data("abc"));
    assert_eq!(s.t.recv(id), b"abc");
}
in_each!(a_duplicate_ack_is_ignored_and_its_text_is_not: established fin_wait_1 fin_wait_2);

fn a_duplicate_ack_alone_changes_nothing(s: &mut Scene) {
    s.is_dropped(s.seg());
    s.is_dropped(s.seg().ack(s.snd_una.wrapping_sub(1)));
}
in_each!(a_duplicate_ack_alone_changes_nothing:
    established fin_wait_1 fin_wait_2 close_wait closing last_ack);

// ---- SYN-RECEIVED

fn an_acceptable_ack_establishes(s: &mut Scene) {
    s.t.inject(s.acking());
    s.t.expect_nothing();
    assert_eq!(s.state(), State::Established);
}
in_each!(an_acceptable_ack_establishes: syn_received syn_received_active);

fn an_unacceptable_ack_is_reset(s: &mut Scene) {
    for ack in [0, 2, 5000] {
        s.t.inject(s.seg().ack(ack));
        s.expect_reset(ack);
        assert_eq!(s.state(), State::SynReceived);
    }
    an_acceptable_ack_establishes(s);
}
in_each!(an_unacceptable_ack_is_reset: syn_received syn_received_active);

#[test]
fn the_window_of_the_establishing_segment_is_the_send_window() {
    let mut s = Scene::syn_received_active();
    s.t.inject(s.acking().window(100));
    s.t.set(s.id(), |options| options.nodelay = true);
    s.t.send(s.id(), pattern(1, 100));
    s.t.expect(seg().stream(100));
    s.t.send(s.id(), "more than the window takes");
    s.t.expect_nothing();
}

// ---- ESTABLISHED and CLOSE-WAIT, and where we still wait for the ACK of text

/// SND.UNA moves, segments acknowledged in part stay, what is acknowledged whole is not sent again.
fn an_ack_removes_what_it_covers(s: &mut Scene) {
    let id = s.id();
    s.t.send(id, "abcdef");
    s.t.expect(s.acking().seq(1).ack(s.rcv_nxt).data("abcdef"));
    s.t.inject(s.seg().ack(4));
    assert!(!s.flushed());
    s.t.advance(SECOND);
    let again = s.t.wire.sent.pop_front().unwrap();
    assert_eq!((again.seq, &again.payload[..]), (4, &b"def"[..]));
    s.t.wire.sent.clear();
    s.t.inject(s.seg().ack(7));
    assert!(s.flushed());
    s.t.expect_silence(10 * SECOND);
}
in_each!(an_ack_removes_what_it_covers: established close_wait);

/// The window is taken from a segment that is newer by SEG.SEQ, then by SEG.ACK, and not from an older one.
fn only_newer_segments_update_the_window(s: &mut Scene) {
    let id = s.id();
    s.t.set(id, |options| options.nodelay = true);
    s.t.send(id, pattern(1, 1000));
    s.t.send(id, pattern(1001, 1000));
    s.t.wire.sent.clear();
    s.t.inject(s.seg().ack(2001).window(500));
    // Overtaken: the same sequence number, an older acknowledgment, a larger window.
    s.t.inject(s.seg().ack(1001).window(5000));
    s.t.send(id, pattern(2001, 1000));
    let sent: usize = s.t.wire.sent.drain(..).map(|sent| sent.payload.len()).sum();
    assert!(sent <= 500, "{sent}");
    // The same numbers again are new enough.
    s.t.inject(s.seg().ack(2001).window(5000));
    let more: usize = s.t.wire.sent.drain(..).map(|sent| sent.payload.len()).sum();
    assert_eq!(sent + more, 1000);
}
in_each!(only_newer_segments_update_the_window: established close_wait);

// ---- the states behind our FIN

#[test]
fn fin_wait_1_becomes_fin_wait_2_when_the_fin_is_acknowledged() {
    let mut s = Scene::fin_wait_1();
    s.t.inject(s.acking());
    s.t.expect_nothing();
    assert_eq!(s.state(), State::FinWait2);
}

#[test]
fn fin_wait_1_goes_on_in_fin_wait_2_with_the_same_segment() {
    let mut s = Scene::fin_wait_1();
    s.t.inject(s.acking().data("abc"));
    assert_eq!((s.state(), s.t.recv(s.id())), (State::FinWait2, b"abc".to_vec()));
}

#[test]
fn fin_wait_1_stays_while_only_text_is_acknowledged() {
    let mut s = Scene::established();
    s.t.send(s.id(), "abc");
    s.shut();
    s.t.inject(s.seg().ack(4));
    assert_eq!((s.state(), s.flushed()), (State::FinWait1, false));
    s.t.inject(s.seg().ack(5));
    assert_eq!((s.state(), s.flushed()), (State::FinWait2, true));
}

#[test]
fn fin_wait_2_tells_the_user_that_the_close_arrived_and_stays() {
    let mut s = Scene::fin_wait_2();
    assert!(s.flushed());
    s.is_dropped(s.acking());
    assert_eq!(s.state(), State::FinWait2);
}

#[test]
fn closing_becomes_time_wait_when_the_fin_is_acknowledged() {
    let mut s = Scene::closing();
    s.is_dropped(s.seg());
    s.t.inject(s.acking());
    s.t.expect_nothing();
    assert_eq!(s.state(), State::TimeWait);
}

#[test]
fn last_ack_becomes_closed_when_the_fin_is_acknowledged() {
    let mut s = Scene::last_ack();
    s.is_dropped(s.seg());
    s.t.inject(s.acking());
    s.t.expect_silence(100 * SECOND);
    assert_eq!(s.state(), State::Closed);
    assert_eq!(s.t.tcp.census().time_wait, 0);
}

#[test]
fn time_wait_answers_the_peers_fin_and_waits_anew() {
    let mut s = Scene::time_wait();
    s.t.advance(50 * SECOND);
    s.only_draws_an_ack(fin().seq(1).ack(2));
    s.t.expect_silence(50 * SECOND);
    assert_eq!(s.state(), State::TimeWait);
    s.t.expect_silence(11 * SECOND);
    assert_eq!(s.state(), State::Closed);
}

#[test]
fn time_wait_ignores_an_ack() {
    // Nothing is left to acknowledge, and two ends in TIME-WAIT must not answer each other.
    let mut s = Scene::time_wait();
    s.is_dropped(s.acking());
}

#[test]
fn a_window_beyond_the_sign_bit_is_large() {
    // MUST-1: unsigned; REC-1: and scaled ones are kept in 32 bits.
    let mut s = Scene::syn_received_active();
    s.t.inject(s.acking().window(0x8000));
    s.t.send(s.id(), pattern(1, 1000));
    s.t.expect(seg().stream(1000));
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1000).wscale(14));
    t.inject(seg().window(0xffff));
    assert_eq!(t.tcp.info(t.now, id).unwrap().snd_wnd, 0xffff << 14);
}
