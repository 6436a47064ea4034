//! TCP Fast Open, the client: RFC 7413 sections 4.1.3 and 4.2 branch by branch, and what black holes and resets teach it
//! (sections 4.2.1 and 7.1).

use core::task::{Poll, Waker};

use super::*;

fn connect(t: &mut Harness, bytes: impl AsRef<[u8]>) -> ConnId {
    let bytes = bytes.as_ref();
    let options = SocketOptions::default();
    let (id, taken) = t.tcp.connect_with_data(t.now, t.local, t.remote, options, bytes).unwrap();
    assert_eq!(taken, bytes.len());
    t.transmit();
    id
}

/// An engine that has a cookie of the peer, which stated this MSS.
fn client_with(config: TcpConfig, mss: Option<u16>) -> (Harness, FastOpenOption) {
    let mut t = Harness::with(config);
    let cookie = theirs(0xc0);
    let id = connect(&mut t, "");
    t.expect(syn());
    let mut answer = syn_ack().fastopen(cookie);
    answer.options.mss = mss;
    t.inject(answer);
    t.expect(seg());
    t.tcp.abort(t.now, id);
    t.transmit();
    t.wire.sent.clear();
    (t, cookie)
}

fn client() -> (Harness, FastOpenOption) {
    client_with(TcpConfig::default(), Some(1000))
}

/// Ends a connection at once.
fn abort(t: &mut Harness, id: ConnId) {
    t.tcp.abort(t.now, id);
    t.transmit();
    t.wire.sent.clear();
}

fn failure(t: &Harness, id: ConnId) -> Option<FastOpenFailure> {
    t.tcp.info(t.now, id).unwrap().fastopen_client_fail
}

#[test]
fn the_first_connection_asks_for_a_cookie_and_its_data_follows_the_handshake() {
    // RFC 7413 section 4.2.1.
    // Section 4.2.1.
    let mut t = Harness::new();
    let id = connect(&mut t, "request");
    assert_eq!(t.expect(syn()).options.fastopen, Some(request()));
    assert_eq!(t.state(id), State::SynSent);
    t.inject(syn_ack().mss(1000).fastopen(theirs(1)));
    t.expect(seg().data("request"));
    t.inject(seg().ack(8));
    let info = t.tcp.info(t.now, id).unwrap();
    assert!(info.fastopen_cookie_req && !info.fastopen_syn_data);
    assert_eq!(info.fastopen_client_fail, Some(FastOpenFailure::CookieUnavailable));
    abort(&mut t, id);
    connect(&mut t, "request");
    assert_eq!(t.expect(syn().data("request")).options.fastopen, Some(theirs(1)));
}

#[test]
fn the_second_connection_has_its_answer_in_one_round_trip() {
    // RFC 7413 section 4.2.2.
    // Section 4.2.2, both client parts; section 3, figure.
    let (mut t, cookie) = client();
    let (wakes, waker) = Wakes::new();
    let id = connect(&mut t, "request");
    let first = t.expect(syn().data("request"));
    assert_eq!(first.options.fastopen, Some(cookie));
    assert!(t.tcp.poll_flushed(id, &waker).is_pending());
    t.inject(syn_ack().ack(8).mss(1000).data("answer"));
    t.expect(seg().seq(8).ack(7));
    assert_eq!(wakes.count(), 1, "all is acknowledged");
    assert_eq!(t.recv(id), b"answer");
    assert_eq!((t.state(id), failure(&t, id)), (State::Established, None));
    let info = t.tcp.info(t.now, id).unwrap();
    assert!(info.fastopen_syn_data && !info.fastopen_cookie_req);
    assert_eq!((info.bytes_acked, info.data_segs_out, info.total_retrans), (7, 1, 0));
    assert_eq!((t.counters.tcp_fastopen_active, t.counters.tcp_bytes_tx), (1, 7));
    t.send(id, "more");
    t.expect(seg().seq(8).ack(7).data("more"));
}

#[test]
fn the_syn_carries_what_the_cached_mss_allows_and_the_rest_follows() {
    // Section 4.1.3; room for all options is kept, as in Linux.
    for (mss, mtu, expected) in
        [(Some(1000), 1500, 960), (None, 1500, 496), (Some(9000), 1500, 1420), (Some(30), 1500, 0)]
    {
        let (mut t, _) = client_with(TcpConfig::default(), mss);
        t.wire.mtu = mtu;
        let id = connect(&mut t, pattern(1, 3000));
        t.expect(Seg { payload: pattern(1, expected), ..syn() });
        t.inject(syn_ack().ack(1 + expected as u32).mss(1460));
        let sent: Vec<u8> = t.wire.sent.drain(..).flat_map(|sent| sent.payload).collect();
        assert_eq!(sent, pattern(1 + expected as u32, 3000 - expected), "mss {mss:?}");
        assert_eq!(t.tcp.info(t.now, id).unwrap().fastopen_syn_data, expected > 0);
    }
}

#[test]
fn the_cookie_and_the_mss_are_those_of_the_last_answer() {
    // RFC 7413 section 4.1.3.
    // Section 4.2.2, "Client: Receiving SYN-ACK", step 1.
    let (mut t, _) = client();
    let id = connect(&mut t, "x");
    t.expect(syn().data("x"));
    t.inject(syn_ack().ack(2).mss(700).fastopen(theirs(2)));
    t.expect(seg().seq(2));
    abort(&mut t, id);
    connect(&mut t, pattern(1, 2000));
    let sent = t.expect(Seg { payload: pattern(1, 660), ..syn() });
    assert_eq!(sent.options.fastopen, Some(theirs(2)));
}

#[test]
fn data_that_was_not_acknowledged_goes_with_the_first_ack() {
    // RFC 7413 section 4.2.2.
    // Section 4.2.2, "Client: Receiving SYN-ACK", and section 3, step 4.
    let (mut t, _) = client();
    let id = connect(&mut t, "request");
    t.expect(syn().data("request"));
    t.inject(syn_ack().mss(1000).fastopen(theirs(2)));
    t.expect(seg().data("request"));
    t.expect_nothing();
    t.inject(seg().ack(8));
    assert_eq!(failure(&t, id), Some(FastOpenFailure::DataNotAcked));
    assert_eq!(t.tcp.info(t.now, id).unwrap().bytes_acked, 7);
    assert_eq!((t.counters.tcp_fastopen_active, t.counters.tcp_fastopen_active_fails), (0, 1));
    t.expect_silence(10 * SECOND);
}

#[test]
fn data_that_was_acknowledged_in_part_goes_on_from_there() {
    let (mut t, _) = client();
    let id = connect(&mut t, "request");
    t.expect(syn().data("request"));
    t.inject(syn_ack().ack(4).mss(1000));
    t.expect(seg().seq(4).data("uest"));
    assert_eq!(failure(&t, id), Some(FastOpenFailure::DataNotAcked));
    t.inject(seg().ack(8));
    t.expect_silence(10 * SECOND);
    assert_eq!(t.tcp.info(t.now, id).unwrap().bytes_acked, 7);
}

#[test]
fn an_acknowledgment_beyond_the_syns_data_is_refused() {
    let (mut t, _) = client();
    let id = connect(&mut t, "request");
    t.expect(syn().data("request"));
    t.inject(syn_ack().ack(9));
    t.expect(Seg { flags: Flags::RST, seq: 9, ack: 0, ..seg() });
    assert_eq!(t.state(id), State::SynSent);
}

#[test]
fn a_lost_syn_is_sent_again_plain_and_its_data_after_the_handshake() {
    // RFC 7413 section 4.2.2.
    // Section 4.2.2: "when the SYN timer fires".
    let (mut t, _) = client();
    let id = connect(&mut t, "request");
    t.expect(syn().data("request"));
    for wait in [1, 2] {
        assert_eq!(t.expect_after(wait * SECOND, syn()).options.fastopen, None);
    }
    t.inject(syn_ack().mss(1000));
    t.expect(seg().data("request"));
    assert_eq!(failure(&t, id), Some(FastOpenFailure::SynRetransmitted));
}

#[test]
fn a_late_answer_to_the_first_syn_still_acknowledges_its_data() {
    let (mut t, _) = client();
    let id = connect(&mut t, "request");
    t.expect(syn().data("request"));
    t.expect_after(SECOND, syn());
    t.inject(syn_ack().ack(8).mss(1000));
    t.expect(seg().seq(8));
    t.expect_silence(10 * SECOND);
    assert!(t.tcp.info(t.now, id).unwrap().fastopen_syn_data);
}

#[test]
fn a_path_that_loses_fast_open_again_and_again_is_left_alone_for_an_hour() {
    // RFC 7413 section 4.1.3.1.
    // Sections 4.2.2 (the heuristic) and 7.1.
    let (mut t, cookie) = client();
    for _ in 0..2 {
        let id = connect(&mut t, "x");
        assert_eq!(t.expect(syn().data("x")).options.fastopen, Some(cookie));
        t.expect_after(SECOND, syn());
        t.inject(syn_ack());
        t.expect(seg().data("x"));
        abort(&mut t, id);
    }
    let id = connect(&mut t, "x");
    assert_eq!(t.expect(syn()).options.fastopen, None);
    assert_eq!(failure(&t, id), Some(FastOpenFailure::CookieUnavailable));
    t.inject(syn_ack());
    t.expect(seg().data("x"));
    abort(&mut t, id);
    t.advance(HOUR);
    connect(&mut t, "x");
    t.expect(syn().data("x"));
}

#[test]
fn a_request_that_is_lost_twice_is_not_repeated_either() {
    // Section 4.2.1, the last paragraph.
    let mut t = Harness::new();
    for _ in 0..2 {
        let id = connect(&mut t, "x");
        assert!(t.expect(syn()).options.fastopen.is_some());
        t.expect_after(SECOND, syn());
        t.inject(syn_ack());
        t.expect(seg().data("x"));
        abort(&mut t, id);
    }
    connect(&mut t, "x");
    assert_eq!(t.expect(syn()).options.fastopen, None);
}

#[test]
fn attempts_that_are_never_answered_count_as_losses() {
    let (mut t, _) = client();
    for _ in 0..2 {
        let id = connect(&mut t, "x");
        t.expect(syn().data("x"));
        t.advance(200 * SECOND);
        t.wire.sent.clear();
        assert_eq!(t.end(id), Some(Err(TcpError::TimedOut)));
        t.close(id);
    }
    connect(&mut t, "x");
    assert_eq!(t.expect(syn()).options.fastopen, None);
}

#[test]
fn a_reset_ends_the_attempt_and_the_next_one_is_plain() {
    let (mut t, _) = client();
    let id = connect(&mut t, "x");
    t.expect(syn().data("x"));
    t.inject(rst().with(Flags::ACK).seq(0).ack(2));
    assert_eq!(t.tcp.poll_connected(id, Waker::noop()), Poll::Ready(Err(TcpError::ConnectionRefused)));
    t.close(id);
    let id = connect(&mut t, "x");
    assert_eq!(t.expect(syn()).options.fastopen, None);
    abort(&mut t, id);
    t.advance(61 * SECOND);
    connect(&mut t, "x");
    t.expect(syn().data("x"));
}

#[test]
fn a_server_that_ignores_the_request_is_asked_by_the_experimental_option() {
    let mut t = Harness::new();
    let id = connect(&mut t, "x");
    t.expect(syn());
    t.inject(syn_ack());
    t.expect(seg().data("x"));
    abort(&mut t, id);
    let id = connect(&mut t, "x");
    assert_eq!(t.expect(syn()).options.fastopen, Some(request().in_experimental(true)));
    t.inject(syn_ack().fastopen(theirs(5).in_experimental(true)));
    t.expect(seg().data("x"));
    abort(&mut t, id);
    connect(&mut t, "x");
    assert_eq!(t.expect(syn().data("x")).options.fastopen, Some(theirs(5).in_experimental(true)));
}

#[test]
fn a_connection_that_did_not_ask_ignores_a_cookie() {
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions::default());
    assert_eq!(t.expect(syn()).options.fastopen, None);
    t.inject(syn_ack().fastopen(theirs(1)));
    t.expect(seg());
    abort(&mut t, id);
    connect(&mut t, "x");
    assert_eq!(t.expect(syn()).options.fastopen, Some(request()));
}

#[test]
fn a_cookie_outside_a_syn_is_ignored() {
    // RFC 7413 section 4.1.1.
    // Section 4.1.1. Options of other segments are not even written by the script's `emit`: raw bytes.
    let bytes = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    assert!(options::TcpOptions::parse(&bytes).fastopen.is_some());
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().fastopen(theirs(1)).data("x"));
    assert_eq!(t.recv(id), b"x");
}

#[test]
fn a_client_may_do_without_cookies() {
    // Linux's bit 0x4.
    let mut config = TcpConfig::default();
    config.fastopen.client_without_cookie = true;
    let mut t = Harness::with(config);
    connect(&mut t, "request");
    assert_eq!(t.expect(syn().data("request")).options.fastopen, None);
    t.inject(syn_ack());
    t.expect(seg().data("request"));
}

#[test]
fn both_ends_open_at_once_with_data() {
    // Section 4.2.2, "A special case is simultaneous open".
    let (mut t, _) = client();
    let id = connect(&mut t, "request");
    t.expect(syn().data("request"));
    t.inject(syn().mss(1000).data("theirs"));
    assert_eq!(t.expect(syn_ack()).options.fastopen, None);
    t.inject(syn_ack().mss(1000));
    t.expect(seg().data("request"));
    t.inject(seg().ack(8).data("theirs"));
    assert_eq!((t.recv(id), t.state(id)), (b"theirs".to_vec(), State::Established));
}

#[test]
fn the_longest_cookie_fits_beside_all_other_options() {
    // Section 4.2.2, step 1 a: there is always room.
    for experimental in [false, true] {
        let mut t = Harness::new();
        let cookie = FastOpenOption::with_cookie(&[7; 16]).unwrap().in_experimental(experimental);
        let id = connect(&mut t, "");
        t.expect(syn());
        t.inject(syn_ack().fastopen(cookie));
        abort(&mut t, id);
        connect(&mut t, "x");
        let options = t.expect(syn().data("x")).options;
        assert_eq!(options.fastopen, Some(cookie));
        assert!(options.mss.is_some() && options.timestamps.is_some() && options.window_scale.is_some());
    }
}

#[test]
fn data_that_does_not_fit_the_path_shrinks_with_it() {
    let (mut t, _) = client_with(TcpConfig::default(), Some(1460));
    t.wire.too_big = Some(1000);
    connect(&mut t, pattern(1, 3000));
    let sent = t.wire.sent.pop_front().unwrap();
    assert_eq!(sent.payload, pattern(1, 1000 - 40 - 40));
}

#[test]
fn what_is_written_before_the_syn_leaves_rides_on_it() {
    let (mut t, _) = client();
    let options = SocketOptions::default();
    let (id, _) = t.tcp.connect_with_data(t.now, t.local, t.remote, options, b"req").unwrap();
    t.send(id, "uest");
    t.expect(syn().data("request"));
    t.send(id, " and more");
    t.expect_nothing();
    t.inject(syn_ack().ack(8).mss(1000));
    t.expect(seg().seq(8).data(" and more"));
}
