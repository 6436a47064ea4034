//! TCP Fast Open, the server: RFC 7413 sections 4.1 and 4.2 branch by branch, and section 5.1's bound. `client` has the
//! other side.

mod client;

use super::super::header::Flags;
use super::super::options::FastOpenOption;
use super::super::testing::*;
use super::super::*;
use crate::counters::DropReason;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const QLEN: usize = 2;

impl Seg {
    fn fastopen(mut self, option: FastOpenOption) -> Self {
        self.options.fastopen = Some(option);
        self
    }
}

fn request() -> FastOpenOption {
    FastOpenOption::request()
}

/// A cookie that some server might give.
fn theirs(byte: u8) -> FastOpenOption {
    FastOpenOption::with_cookie(&[byte; 8]).unwrap()
}

// ---- the server

fn server_with(config: TcpConfig) -> (Harness, ListenerId) {
    let mut t = Harness::with(config);
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.tcp.set_fastopen(listener, QLEN).unwrap();
    (t, listener)
}

fn server() -> (Harness, ListenerId) {
    server_with(TcpConfig::default())
}

/// Gets a cookie as a client would, on another port; its connection is reset.
fn cookie(t: &mut Harness) -> FastOpenOption {
    t.inject(syn().port(9).fastopen(request()));
    let cookie = t.expect(syn_ack().port(9)).options.fastopen.unwrap();
    t.inject(rst().port(9));
    t.expect_nothing();
    cookie
}

#[test]
fn a_request_is_answered_with_a_cookie_and_its_data_waits() {
    // Sections 4.1.2 and 4.2.1, step 2.
    let (mut t, listener) = server();
    t.inject(syn().fastopen(request()).data("early"));
    let answer = t.expect(syn_ack());
    let cookie = answer.options.fastopen.unwrap();
    assert_eq!((cookie.cookie().len(), cookie.experimental), (8, false));
    assert_eq!(t.accept(listener), None);
    t.inject(seg().data("early"));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"early");
    assert_eq!(t.counters.tcp_fastopen_cookie_requests, 1);
    assert!(!t.tcp.info(t.now, id).unwrap().fastopen_syn_data);
}

#[test]
fn the_experimental_option_is_answered_in_kind() {
    // RFC 7413 section 9.
    // Section 9 and RFC 6994.
    let (mut t, listener) = server();
    t.inject(syn().port(9).fastopen(request().in_experimental(true)));
    let cookie = t.expect(syn_ack().port(9)).options.fastopen.unwrap();
    assert!(cookie.experimental);
    t.inject(syn().fastopen(cookie).data("early"));
    t.expect(syn_ack().ack(6));
    assert!(t.accept(listener).is_some());
    let wrong = theirs(1).in_experimental(true);
    t.inject(syn().port(10).fastopen(wrong).data("early"));
    assert_eq!(t.expect(syn_ack().port(10)).options.fastopen, Some(cookie));
}

#[test]
fn data_with_a_good_cookie_is_read_and_answered_before_the_handshake_is_over() {
    // Section 4.2.2, "Server: Receiving SYN", steps 4 to 6, and "Receiving ACK".
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    let (wakes, waker) = Wakes::new();
    assert!(t.tcp.poll_accept(listener, &waker).is_pending());
    t.inject(syn().mss(1000).wscale(2).ts(77, 0).fastopen(cookie).data("request"));
    assert_eq!(wakes.count(), 1);
    let answer = t.expect(syn_ack().ack(8));
    assert_eq!(answer.options.fastopen, None, "the client's cookie is still the newest");
    assert_eq!(answer.options.timestamps.unwrap().ecr, 77);
    t.expect_nothing();
    let (id, from) = t.accept(listener).unwrap();
    assert_eq!((from, t.state(id)), (t.remote, State::SynReceived));
    assert_eq!(t.recv(id), b"request");
    t.send(id, "answer");
    t.expect(seg().ack(8).data("answer"));
    let ecr = answer.options.timestamps.unwrap().val;
    t.inject(seg().seq(8).ack(7).ts(78, ecr));
    assert_eq!(t.state(id), State::Established);
    t.inject(seg().seq(8).ack(7).ts(79, ecr).data("more"));
    assert_eq!(t.recv(id), b"more");
    let info = t.tcp.info(t.now, id).unwrap();
    assert!(info.fastopen_syn_data && info.wscale && info.timestamps);
    assert_eq!((info.bytes_received, info.bytes_acked), (11, 6));
    assert_eq!((t.counters.tcp_fastopen_passive, t.counters.tcp_passive_opens), (1, 1));
}

#[test]
fn an_answer_before_the_handshake_keeps_to_the_initial_window_and_the_peers() {
    // RFC 7413 section 4.2.2.
    // Section 4.2.2, step 6: RFC 5681's initial window. The window of a SYN is not scaled.
    for (window, expected) in [(65_535, 10), (2_001, 2)] {
        let (mut t, listener) = server();
        let cookie = cookie(&mut t);
        t.inject(syn().mss(1000).wscale(7).window(window).fastopen(cookie).data("request"));
        t.expect(syn_ack().ack(8));
        let (id, _) = t.accept(listener).unwrap();
        t.send(id, pattern(1, 30_000));
        assert_eq!(t.wire.sent.len(), expected, "window {window}");
        assert!(t.wire.sent.iter().all(|sent| sent.payload.len() == 1000));
    }
}

#[test]
fn a_wrong_cookie_gets_a_good_one_and_the_data_is_left_to_the_client() {
    // Section 4.2.2, step 3 to 5.
    let (mut t, listener) = server();
    let good = cookie(&mut t);
    t.inject(syn().fastopen(theirs(9)).data("request"));
    assert_eq!(t.expect(syn_ack()).options.fastopen, Some(good));
    assert_eq!(t.accept(listener), None);
    t.inject(seg().data("request"));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"request");
    assert_eq!(t.counters.tcp_fastopen_passive_fails, 1);
}

#[test]
fn cookies_of_other_lengths_are_wrong_not_fatal() {
    let (mut t, listener) = server();
    for (port, len) in [(1, 4), (2, 6), (3, 16)] {
        t.inject(syn().port(port).fastopen(FastOpenOption::with_cookie(&vec![1; len]).unwrap()).data("x"));
        assert_eq!(t.expect(syn_ack().port(port)).options.fastopen.unwrap().cookie().len(), 8);
    }
    assert_eq!(t.accept(listener), None);
}

#[test]
fn a_cookie_of_the_key_before_is_good_and_replaced_then_it_expires() {
    // RFC 7413 section 4.1.2.
    // Section 4.1.2, property 5.
    let (mut t, listener) = server();
    let old = cookie(&mut t);
    t.advance(12 * HOUR);
    t.inject(syn().fastopen(old).data("request"));
    let new = t.expect(syn_ack().ack(8)).options.fastopen.expect("a new cookie");
    assert_ne!(new, old);
    assert!(t.accept(listener).is_some());
    assert_eq!(t.counters.tcp_fastopen_passive_old_key, 1);
    t.inject(seg().seq(8));
    t.advance(12 * HOUR);
    t.inject(syn().port(3).fastopen(old).data("request"));
    t.expect(syn_ack().port(3));
    t.inject(syn().port(4).fastopen(new).data("request"));
    t.expect(syn_ack().port(4).ack(8));
}

#[test]
fn the_operators_keys_take_effect_at_once() {
    let (mut t, _listener) = server();
    let old = cookie(&mut t);
    t.tcp.set_fastopen_keys(&FastOpenKeys { primary: [1; 16], backup: None });
    t.inject(syn().port(3).fastopen(old).data("request"));
    let new = t.expect(syn_ack().port(3)).options.fastopen.unwrap();
    assert_ne!(new, old);
    t.tcp.set_fastopen_keys(&FastOpenKeys { primary: [2; 16], backup: Some([1; 16]) });
    t.inject(syn().port(4).fastopen(new).data("request"));
    t.expect(syn_ack().port(4).ack(8));
}

#[test]
fn a_listener_that_was_not_asked_ignores_the_option() {
    // RFC 7413 sections 2 and 4.2.
    // Section 4.2: FastOpenEnabled is off by default.
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    t.tcp.set_fastopen(listener, 0).unwrap();
    t.inject(syn().port(1).fastopen(cookie).data("x"));
    assert_eq!(t.expect(syn_ack().port(1)).options.fastopen, None);
    t.inject(syn().port(2).fastopen(request()));
    assert_eq!(t.expect(syn_ack().port(2)).options.fastopen, None);
    assert_eq!(t.accept(listener), None);
    t.tcp.close_listener(t.now, listener).unwrap();
    assert_eq!(t.tcp.set_fastopen(listener, 1), Err(TcpError::NotConnected));
}

#[test]
fn a_listeners_options_turn_it_on() {
    let mut t = Harness::new();
    let options = SocketOptions { fastopen_qlen: 1, ..SocketOptions::default() };
    t.tcp.listen(t.local, 16, options).unwrap();
    t.inject(syn().fastopen(request()));
    assert!(t.expect(syn_ack()).options.fastopen.is_some());
}

#[test]
fn data_without_the_option_waits_for_the_handshake() {
    let (mut t, listener) = server();
    t.inject(syn().data("early"));
    t.expect(syn_ack());
    assert_eq!(t.accept(listener), None);
}

#[test]
fn a_cookie_without_data_opens_the_connection_too() {
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    t.inject(syn().fastopen(cookie));
    t.expect(syn_ack());
    let (id, _) = t.accept(listener).unwrap();
    t.send(id, "hello");
    t.expect(seg().data("hello"));
    assert!(!t.tcp.info(t.now, id).unwrap().fastopen_syn_data);
}

#[test]
fn as_many_as_allowed_are_pending_and_the_next_takes_the_long_way() {
    // RFC 7413 section 4.2.
    // Section 4.2, PendingFastOpenRequests, and 4.2.2, step 2.
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    for port in [1, 2] {
        t.inject(syn().port(port).fastopen(cookie).data("x"));
        t.expect(syn_ack().port(port).ack(2));
    }
    t.inject(syn().port(3).fastopen(cookie).data("x"));
    assert_eq!(t.expect(syn_ack().port(3)).options.fastopen, None);
    assert_eq!(t.counters.tcp_fastopen_listen_overflows, 1);
    t.inject(seg().port(1).seq(2));
    t.inject(syn().port(4).fastopen(cookie).data("x"));
    t.expect(syn_ack().port(4).ack(2));
    assert_eq!(core::iter::from_fn(|| t.accept(listener)).count(), 3);
}

#[test]
fn a_reset_one_counts_as_pending_for_a_minute() {
    // Section 5.1.
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    for port in [1, 2] {
        t.inject(syn().port(port).fastopen(cookie).data("x"));
        t.expect(syn_ack().port(port).ack(2));
        t.inject(rst().port(port).seq(2));
    }
    t.inject(syn().port(3).fastopen(cookie).data("x"));
    t.expect(syn_ack().port(3));
    t.inject(rst().port(3));
    t.expect_silence(59 * SECOND);
    t.inject(syn().port(4).fastopen(cookie).data("x"));
    t.expect(syn_ack().port(4));
    t.inject(rst().port(4));
    t.expect_silence(2 * SECOND);
    t.inject(syn().port(5).fastopen(cookie).data("x"));
    t.expect(syn_ack().port(5).ack(2));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"x", "what was received is not lost");
    assert_eq!(t.end(id), Some(Err(TcpError::ConnectionReset)));
}

#[test]
fn a_handshake_that_never_ends_is_given_up_and_not_counted_any_more() {
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    for port in [1, 2] {
        t.inject(syn().port(port).fastopen(cookie).data("x"));
    }
    t.advance(64 * SECOND);
    t.wire.sent.clear();
    let (id, _) = t.accept(listener).unwrap();
    t.recv(id);
    assert_eq!(t.end(id), Some(Err(TcpError::TimedOut)));
    t.inject(syn().port(3).fastopen(cookie).data("x"));
    t.expect(syn_ack().port(3).ack(2));
}

#[test]
fn a_syn_ack_is_sent_again_without_data_and_option() {
    // RFC 7413 section 4.2.2.
    // Section 4.2.2: "If the SYN-ACK timer fires".
    let (mut t, listener) = server();
    let old = cookie(&mut t);
    t.advance(12 * HOUR);
    t.inject(syn().mss(1000).fastopen(old).data("request"));
    assert!(t.expect(syn_ack().ack(8)).options.fastopen.is_some());
    let (id, _) = t.accept(listener).unwrap();
    t.send(id, "answer");
    t.expect(seg().ack(8).data("answer"));
    let again = t.expect_after(SECOND, syn_ack().ack(8));
    assert_eq!(again.options.fastopen, None);
    t.inject(seg().seq(8).ack(1));
    assert_eq!(t.state(id), State::Established);
    t.advance(5 * SECOND);
    t.expect(seg().ack(8).data("answer"));
    t.inject(seg().seq(8).ack(7));
    // A plain listener's cookie is not repeated either.
    t.wire.sent.clear();
    t.inject(syn().port(5).fastopen(request()));
    assert!(t.expect(syn_ack().port(5)).options.fastopen.is_some());
    assert_eq!(t.expect_after(SECOND, syn_ack().port(5)).options.fastopen, None);
}

#[test]
fn a_repeated_syn_is_answered_and_its_data_not_delivered_again() {
    // RFC 7413 section 6.1.
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    t.inject(syn().fastopen(cookie).data("request"));
    t.expect(syn_ack().ack(8));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"request");
    // The same again, a plain one, and one that closed early on our side.
    t.inject(syn().fastopen(cookie).data("request"));
    t.expect(syn_ack().ack(8));
    t.inject(syn());
    t.expect(syn_ack().ack(8));
    t.shutdown(id, Shutdown::Write);
    t.expect(fin().ack(8));
    t.inject(syn());
    t.expect(syn_ack().ack(8));
    assert_eq!(t.end(id), None);
    assert_eq!(t.accept(listener), None);
    // After the handshake it is an attack or an old duplicate (RFC 5961 section 4.2).
    t.inject(seg().seq(8));
    t.inject(syn().fastopen(cookie).data("request"));
    t.expect(seg().seq(2).ack(8));
    assert_eq!(t.end(id), None);
}

#[test]
fn the_answer_and_our_end_may_precede_the_handshakes_ack() {
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    t.inject(syn().fastopen(cookie).data("request"));
    t.expect(syn_ack().ack(8));
    let (id, _) = t.accept(listener).unwrap();
    t.recv(id);
    t.send(id, "answer");
    t.expect(seg().ack(8).data("answer"));
    t.close(id);
    t.expect(fin().seq(7).ack(8));
    t.inject(fin().seq(8).ack(8));
    t.expect(seg().seq(8).ack(9));
    t.advance(61 * SECOND);
    t.expect_clean();
    t.inject(syn().fastopen(cookie).data("x"));
    t.inject(syn().port(1).fastopen(cookie).data("x"));
    t.expect(syn_ack().ack(2));
    t.expect(syn_ack().port(1).ack(2));
}

#[test]
fn a_fin_in_the_syn_is_left_to_be_sent_again() {
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    t.inject(syn().with(Flags::FIN).fastopen(cookie).data("request"));
    t.expect(syn_ack().ack(8));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"request");
    t.inject(fin().seq(8));
    t.expect(seg().ack(9));
    assert_eq!(t.end(id), Some(Ok(0)));
}

#[test]
fn data_beyond_the_window_is_cut_off() {
    let mut t = Harness::new();
    let options = SocketOptions { receive_buffer_bytes: 4096, fastopen_qlen: 1, ..SocketOptions::default() };
    let listener = t.tcp.listen(t.local, 16, options).unwrap();
    t.pool = crate::packet::PacketPool::heap(crate::packet::PoolLayout {
        frames: 64,
        frame_size: 8192,
        headroom: 128,
    });
    let cookie = cookie(&mut t);
    t.inject(syn().fastopen(cookie).data(pattern(1, 6000)));
    let answer = t.wire.sent.pop_front().unwrap();
    let (id, _) = t.accept(listener).unwrap();
    let read = t.recv(id);
    assert_eq!(answer.ack, 1 + read.len() as u32);
    assert!((2000..6000).contains(&read.len()) && pattern(1, 6000).starts_with(&read), "{}", read.len());
}

#[test]
fn a_server_may_do_without_cookies() {
    // Section 7.3; Linux's bit 0x200.
    let mut config = TcpConfig::default();
    config.fastopen.server_without_cookie = true;
    let (mut t, listener) = server_with(config);
    t.inject(syn().port(1).data("x"));
    t.expect(syn_ack().port(1).ack(2));
    t.inject(syn().port(2).fastopen(theirs(3)).data("x"));
    t.expect(syn_ack().port(2).ack(2));
    assert_eq!(core::iter::from_fn(|| t.accept(listener)).count(), 2);
    t.inject(syn().port(3).data("x"));
    t.expect(syn_ack().port(3));
    t.inject(syn().port(4));
    t.expect(syn_ack().port(4));
    assert_eq!(t.accept(listener), None);
}

#[test]
fn in_the_place_of_a_time_wait_entry_data_waits_for_the_handshake() {
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    t.inject(syn().ts(100, 0).fastopen(cookie).data("x"));
    let ecr = t.expect(syn_ack().ack(2)).options.timestamps.unwrap().val;
    let (id, _) = t.accept(listener).unwrap();
    t.recv(id);
    t.close(id);
    t.expect(fin().ack(2));
    t.inject(fin().seq(2).ack(2).ts(101, ecr));
    t.expect(seg().seq(2).ack(3));
    assert_eq!(t.tcp.census().time_wait, 1);
    t.inject(syn().seq(10).ts(200, 0).fastopen(cookie).data("x"));
    t.expect(syn_ack().ack(11));
    assert_eq!(t.accept(listener), None);
    // An old duplicate of the first SYN does not even get that far.
    t.inject(rst().seq(11));
    t.inject(syn().ts(100, 0).fastopen(cookie).data("x"));
    assert_eq!(t.accept(listener), None);
    assert_eq!(t.dropped(DropReason::TcpBadSyn), 1);
}

#[test]
fn a_full_accept_queue_takes_no_fast_open_either() {
    let mut t = Harness::new();
    let options = SocketOptions { fastopen_qlen: 8, ..SocketOptions::default() };
    let listener = t.tcp.listen(t.local, 1, options).unwrap();
    let cookie = cookie(&mut t);
    t.inject(syn().port(1).fastopen(cookie).data("x"));
    t.expect(syn_ack().port(1).ack(2));
    t.inject(syn().port(2).fastopen(cookie).data("x"));
    t.expect_nothing();
    assert_eq!(t.dropped(DropReason::TcpAcceptQueueFull), 1);
    t.tcp.close_listener(t.now, listener).unwrap();
    t.transmit();
    t.expect(Seg { flags: Flags::RST | Flags::ACK, ..seg().port(1).ack(2) });
    t.expect_clean();
}

#[test]
fn a_full_egress_delays_the_syn_ack_and_what_follows_it() {
    let (mut t, listener) = server();
    let cookie = cookie(&mut t);
    t.wire.room = 0;
    t.inject(syn().fastopen(cookie).data("request"));
    let (id, _) = t.accept(listener).unwrap();
    t.send(id, "answer");
    t.expect_nothing();
    t.wire.room = usize::MAX;
    t.transmit();
    t.expect(syn_ack().ack(8));
    t.expect(seg().ack(8).data("answer"));
}

#[test]
fn what_icmp_says_before_the_handshake_is_over_does_not_undo_what_was_delivered() {
    // RFC 7413 section 2.1: the SYN that is sent again must find the connection.
    for kind in [IcmpErrorKind::Refused, IcmpErrorKind::NeighborFailed] {
        let (mut t, listener) = server();
        let cookie = cookie(&mut t);
        t.inject(syn().fastopen(cookie).data("request"));
        let (id, _) = t.accept(listener).unwrap();
        let error = IcmpError {
            tuple: Tuple { local: t.local, remote: t.remote },
            seq: t.isn(t.remote.port()),
            kind,
        };
        assert_eq!(t.tcp.icmp_error(t.now, &error, &mut t.counters), IcmpVerdict::Taken);
        assert_eq!(t.state(id), State::SynReceived);
    }
}
