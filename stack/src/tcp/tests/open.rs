//! Opening: RFC 9293 sections 3.5, 3.10.1, 3.10.7.1 to 3.10.7.3 and SYN-RECEIVED of 3.10.7.4.

use core::task::{Poll, Waker};

use super::super::header::Flags;
use super::super::testing::*;
use super::super::*;
use crate::counters::DropReason;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn listening(backlog: usize) -> (Harness, ListenerId) {
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, backlog, SocketOptions::default()).unwrap();
    (t, listener)
}

fn connecting() -> (Harness, ConnId) {
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions::default());
    t.expect(syn());
    (t, id)
}

fn failure(t: &mut Harness, id: ConnId) -> Option<TcpError> {
    match t.tcp.poll_connected(id, Waker::noop()) {
        Poll::Ready(result) => result.err(),
        Poll::Pending => None,
    }
}

// ---- active open

#[test]
fn the_first_timeouts_of_a_syn_are_equal_on_request() {
    // Linux's `tcp_syn_linear_timeouts`; by default RFC 6298 section 5.5 holds from the first.
    let mut t = Harness::with(TcpConfig { syn_linear_timeouts: 2, ..TcpConfig::default() });
    t.connect_with(SocketOptions::default());
    t.expect(syn());
    for seconds in [1, 1, 1, 2, 4] {
        t.expect_after(SECOND * seconds, syn());
    }
}

#[test]
fn a_syn_is_sent_again_for_three_minutes() {
    // RFC 9293 section 3.8.3, MUST-22, MUST-23.
    let (mut t, id) = connecting();
    for wait in [1, 2, 4, 8, 16, 32, 64] {
        t.expect_after(wait * SECOND, syn());
    }
    t.expect_silence(52 * SECOND);
    assert_eq!(failure(&mut t, id), None);
    t.expect_silence(2 * SECOND);
    assert_eq!((t.state(id), failure(&mut t, id)), (State::Closed, Some(TcpError::TimedOut)));
    assert_eq!((t.counters.tcp_attempt_fails, t.counters.tcp_active_opens), (1, 1));
    t.close(id);
    t.expect_clean();
}

#[test]
fn the_user_timeout_ends_an_attempt_in_time() {
    let mut t = Harness::new();
    let options = SocketOptions { user_timeout: Some(5 * SECOND), ..SocketOptions::default() };
    let id = t.connect_with(options);
    t.advance(5 * SECOND - MS);
    assert_eq!(failure(&mut t, id), None);
    t.advance(2 * MS);
    assert_eq!(failure(&mut t, id), Some(TcpError::TimedOut));
}

#[test]
fn an_ack_of_something_else_is_reset_and_the_attempt_goes_on() {
    // RFC 9293 figure 9: the peer still has an old connection.
    let (mut t, id) = connecting();
    t.inject(seg().seq(300).ack(5000));
    t.expect(Seg { flags: Flags::RST, seq: 5000, ack: 0, ..seg() });
    t.inject(seg().seq(300).ack(0));
    t.expect(Seg { flags: Flags::RST, seq: 0, ack: 0, ..seg() });
    t.inject(syn_ack().ack(2));
    t.expect(Seg { flags: Flags::RST, seq: 2, ack: 0, ..seg() });
    assert_eq!((t.state(id), t.dropped(DropReason::TcpBadAck)), (State::SynSent, 3));
    t.inject(syn_ack());
    t.expect(seg());
    assert_eq!(t.state(id), State::Established);
}

#[test]
fn a_reset_is_believed_only_with_an_ack_of_the_syn() {
    let (mut t, id) = connecting();
    t.inject(rst().seq(0));
    t.inject(rst().with(Flags::ACK).seq(0).ack(0));
    t.inject(rst().with(Flags::ACK).seq(0).ack(2));
    t.expect_nothing();
    assert_eq!(t.state(id), State::SynSent);
    t.inject(rst().with(Flags::ACK).seq(0).ack(1));
    assert_eq!((t.state(id), failure(&mut t, id)), (State::Closed, Some(TcpError::ConnectionRefused)));
    assert_eq!(t.tcp.take_error(id), Some(TcpError::ConnectionRefused));
    assert_eq!(t.tcp.take_error(id), None);
}

#[test]
fn an_ack_or_a_fin_without_syn_is_dropped() {
    let (mut t, id) = connecting();
    t.inject(seg());
    t.inject(fin());
    t.inject(seg().flags(Flags::NONE));
    t.expect_nothing();
    assert_eq!(t.state(id), State::SynSent);
}

#[test]
fn both_ends_open_at_once() {
    // RFC 9293 section 3.5, MUST-10.
    // RFC 9293 figure 8.
    let (mut t, id) = connecting();
    t.inject(syn().mss(1000));
    t.expect(syn_ack());
    assert_eq!(t.state(id), State::SynReceived);
    t.inject(syn_ack().mss(1000));
    assert_eq!(t.state(id), State::Established);
    t.expect(seg());
    t.send(id, "x");
    t.expect(seg().data("x"));
    assert_eq!(t.counters.tcp_passive_opens, 0);
}

#[test]
fn a_simultaneous_open_completes_by_a_plain_ack_too_and_by_one_with_data() {
    let (mut t, id) = connecting();
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(seg().data("early"));
    assert_eq!(t.state(id), State::Established);
    t.expect(seg().ack(6));
    assert_eq!(t.recv(id), b"early");
}

#[test]
fn in_a_simultaneous_open_the_syn_ack_is_sent_again() {
    let (mut t, id) = connecting();
    t.inject(syn());
    t.expect(syn_ack());
    t.expect_after(SECOND, syn_ack());
    t.inject(seg());
    assert_eq!(t.state(id), State::Established);
    t.expect_silence(10 * SECOND);
}

#[test]
fn a_reset_refuses_a_simultaneous_open_and_a_bad_ack_draws_one() {
    // RFC 9293 section 3.5, MUST-11.
    let (mut t, id) = connecting();
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(seg().ack(2));
    t.expect(Seg { flags: Flags::RST, seq: 2, ack: 0, ..seg() });
    assert_eq!(t.state(id), State::SynReceived);
    t.inject(rst());
    assert_eq!((t.state(id), failure(&mut t, id)), (State::Closed, Some(TcpError::ConnectionRefused)));
}

#[test]
fn data_written_before_the_handshake_is_over_follows_it() {
    let (mut t, id) = connecting();
    t.send(id, "first words");
    t.expect_nothing();
    t.inject(syn_ack());
    t.expect(seg().data("first words"));
    t.expect_nothing();
}

#[test]
fn a_syn_ack_may_bring_data_and_a_fin() {
    let (mut t, id) = connecting();
    t.inject(syn_ack().with(Flags::FIN).data("all"));
    t.expect(seg().ack(5));
    assert_eq!(t.state(id), State::CloseWait);
    assert_eq!(t.recv(id), b"all");
    assert_eq!(t.end(id), Some(Ok(0)));
}

#[test]
fn what_an_application_does_at_once_takes_the_place_of_the_handshake_s_ack() {
    let (mut t, id) = connecting();
    t.receive(&syn_ack());
    t.send(id, "now");
    t.expect(seg().data("now"));
    t.expect_nothing();

    // The peer has not got the ACK before the RST that ends the connection: it would forget that there was one.
    let (mut t, id) = connecting();
    t.receive(&syn_ack());
    t.tcp.abort(t.now, id);
    t.transmit();
    t.expect(seg());
    t.expect(rst().with(Flags::ACK).seq(1).ack(1));
    t.expect_nothing();
    t.expect_clean();
}

#[test]
fn closing_or_aborting_an_attempt_sends_nothing() {
    let (mut t, id) = connecting();
    t.close(id);
    t.expect_silence(300 * SECOND);
    t.expect_clean();
    let (mut t, id) = connecting();
    t.tcp.abort(t.now, id);
    t.expect_silence(300 * SECOND);
    t.expect_clean();
    let (mut t, id) = connecting();
    t.shutdown(id, Shutdown::Write);
    t.expect_silence(300 * SECOND);
    assert_eq!(failure(&mut t, id), Some(TcpError::ConnectionAborted));
}

#[test]
fn closing_a_simultaneous_open_sends_the_fin_after_the_handshake() {
    let (mut t, id) = connecting();
    t.inject(syn());
    t.expect(syn_ack());
    t.shutdown(id, Shutdown::Write);
    assert_eq!(t.state(id), State::FinWait1);
    t.expect_after(SECOND, syn_ack());
    t.inject(seg());
    t.expect(fin());
    t.inject(seg().ack(2));
    assert_eq!(t.state(id), State::FinWait2);
}

#[test]
fn addresses_that_cannot_be_are_refused() {
    let mut t = Harness::new();
    let mut connect = |local: &str, remote: &str| {
        let options = SocketOptions::default();
        t.tcp.connect(t.now, local.parse().unwrap(), remote.parse().unwrap(), options).err()
    };
    // RFC 9293 section 3.9.1.1, MUST-46.
    for remote in ["224.0.0.1:80", "255.255.255.255:80", "0.0.0.0:80", "198.51.100.7:0", "[2001:db8::1]:80"] {
        assert_eq!(connect("192.0.2.1:0", remote), Some(TcpError::InvalidInput), "{remote}");
    }
    assert_eq!(connect("192.0.2.1:80", "192.0.2.1:80"), Some(TcpError::InvalidInput));
    assert_eq!(connect("0.0.0.0:0", "198.51.100.7:80"), Some(TcpError::AddrNotAvailable));
    assert_eq!(connect("192.0.2.1:80", "198.51.100.7:80"), None);
    assert_eq!(connect("192.0.2.1:80", "198.51.100.7:80"), Some(TcpError::AddrInUse));
}

#[test]
fn chosen_ports_differ_and_run_out() {
    let mut t = Harness::with(TcpConfig { ephemeral_ports: 40_000..=40_009, ..TcpConfig::default() });
    let local = SocketAddr::new(t.local.ip(), 0);
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let id = t.tcp.connect(t.now, local, t.remote, SocketOptions::default()).unwrap();
        ports.insert(t.tcp.tuple(id).unwrap().local.port());
    }
    assert_eq!(ports, (40_000..=40_009).collect());
    let full = t.tcp.connect(t.now, local, t.remote, SocketOptions::default());
    assert_eq!(full, Err(TcpError::AddrNotAvailable));
    let other = "198.51.100.8:50000".parse().unwrap();
    assert!(t.tcp.connect(t.now, local, other, SocketOptions::default()).is_ok());
}

// ---- passive open

#[test]
fn a_listener_answers_what_is_not_a_syn_as_if_it_were_closed() {
    let (mut t, _) = listening(4);
    t.inject(seg().ack(77));
    t.expect(Seg { flags: Flags::RST, seq: 77, ack: 0, ..seg() });
    t.inject(syn_ack().ack(78));
    t.expect(Seg { flags: Flags::RST, seq: 78, ack: 0, ..seg() });
    t.inject(rst());
    t.inject(syn().with(Flags::RST));
    t.expect_nothing();
    t.inject(seg().flags(Flags::NONE).data("xyz"));
    t.expect(Seg { flags: Flags::RST | Flags::ACK, seq: 0, ack: 4, ..seg() });
}

#[test]
fn a_port_nobody_listens_on_is_reset() {
    let mut t = Harness::new();
    t.inject(syn().data("ab"));
    t.expect(Seg { flags: Flags::RST | Flags::ACK, seq: 0, ack: 3, ..seg() });
    t.inject(seg().ack(9).ts(5, 6));
    let reset = t.expect(Seg { flags: Flags::RST, seq: 9, ack: 0, ..seg() });
    // RFC 7323 section 5.2.
    assert_eq!(reset.options.timestamps, Some(options::Timestamps { val: 0, ecr: 5 }));
    assert_eq!((t.dropped(DropReason::TcpNoConnection), t.counters.tcp_resets_tx), (2, 2));
}

#[test]
fn what_no_shard_takes_is_given_back() {
    let (mut t, _) = listening(4);
    t.keep_untaken = true;
    t.inject(seg());
    t.inject(rst());
    assert_eq!(t.untaken, 2);
    t.inject(syn());
    t.expect(syn_ack());
    // Of a connection that another shard has: its numbers are not judged by ours.
    t.inject(seg().seq(70_000_000).ack(4711));
    t.inject(rst().seq(70_000_000));
    assert_eq!(t.untaken, 4);
    t.expect_nothing();
}

#[test]
fn a_syn_ack_is_sent_again_and_then_forgotten() {
    let (mut t, _) = listening(4);
    t.inject(syn());
    t.expect(syn_ack());
    for wait in [1, 2, 4, 8, 16] {
        t.expect_after(wait * SECOND, syn_ack());
    }
    assert_eq!(t.tcp.census().syn_received, 1);
    t.expect_silence(33 * SECOND);
    assert_eq!((t.tcp.census().syn_received, t.counters.tcp_attempt_fails), (0, 1));
}

#[test]
fn a_repeated_syn_draws_the_same_syn_ack() {
    let (mut t, _) = listening(4);
    t.inject(syn().ts(10, 0));
    let first = t.expect(syn_ack());
    t.inject(syn().ts(20, 0));
    let second = t.expect(syn_ack());
    assert_eq!(first.raw_seq, second.raw_seq);
    assert_eq!(second.options.timestamps.unwrap().ecr, 20);
    assert_eq!(t.tcp.census().syn_received, 1);
}

#[test]
fn a_reset_returns_to_listen() {
    // RFC 9293 section 3.5, MUST-11.
    let (mut t, _) = listening(4);
    t.inject(syn());
    t.expect(syn_ack());
    // In the window but not exact: challenged (RFC 5961 section 3.2).
    t.inject(rst().seq(2));
    t.expect(seg());
    assert_eq!(t.tcp.census().syn_received, 1);
    t.inject(rst());
    assert_eq!(t.tcp.census().syn_received, 0);
    t.inject(syn());
    t.expect(syn_ack());
}

#[test]
fn a_wrong_ack_of_the_syn_ack_is_reset_and_the_right_one_still_counts() {
    let (mut t, listener) = listening(4);
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(seg().ack(5));
    t.expect(Seg { flags: Flags::RST, seq: 5, ack: 0, ..seg() });
    t.inject(seg());
    assert!(t.accept(listener).is_some());
}

#[test]
fn a_second_syn_in_the_window_ends_the_attempt_and_one_outside_is_answered() {
    let (mut t, _) = listening(4);
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(syn().seq(1_000_000));
    t.expect(seg());
    assert_eq!(t.tcp.census().syn_received, 1);
    t.inject(syn().seq(100));
    t.expect_nothing();
    assert_eq!(t.tcp.census().syn_received, 0);
}

#[test]
fn an_out_of_window_ack_of_the_syn_ack_is_answered_and_opens_nothing() {
    let (mut t, _) = listening(4);
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(seg().seq(70_000_000));
    t.expect(seg());
    assert_eq!((t.tcp.census().syn_received, t.tcp.census().connections), (1, 0));
}

#[test]
fn data_with_the_last_ack_is_taken() {
    let (mut t, listener) = listening(4);
    t.inject(syn().data("not yet"));
    t.expect(syn_ack());
    t.inject(seg().data("now"));
    t.expect(seg().ack(4));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"now");
}

#[test]
fn a_fin_with_the_last_ack_is_taken() {
    let (mut t, listener) = listening(4);
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(fin().data("all"));
    t.expect(seg().ack(5));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!((t.state(id), t.recv(id)), (State::CloseWait, b"all".to_vec()));
}

#[test]
fn a_full_accept_queue_holds_the_handshake_open_and_loses_nothing() {
    let (mut t, listener) = listening(1);
    for port in [1001, 1002] {
        t.inject(syn().port(port));
        t.expect(syn_ack().port(port));
    }
    t.inject(seg().port(1001));
    t.inject(seg().port(1002).data("data"));
    t.expect_nothing();
    assert_eq!((t.counters.tcp_accept_overflows, t.dropped(DropReason::TcpAcceptQueueFull)), (1, 1));
    // A SYN finds no room either.
    t.inject(syn().port(1003));
    t.expect_nothing();
    assert_eq!(t.counters.tcp_accept_overflows, 2);
    assert!(t.accept(listener).is_some());
    assert!(t.accept(listener).is_none());
    t.advance(SECOND + MS);
    t.expect(syn_ack().port(1002));
    t.inject(seg().port(1002).data("data"));
    t.expect(seg().port(1002).ack(5));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"data");
}

#[test]
fn half_open_connections_are_bounded_and_others_wait() {
    let mut t = Harness::with(TcpConfig { syn_queue_max: 8, syn_cookies: false, ..TcpConfig::default() });
    t.tcp.listen(t.local, 100, SocketOptions::default()).unwrap();
    for port in 1..=9 {
        t.inject(syn().port(port));
    }
    assert_eq!((t.wire.sent.len(), t.tcp.census().syn_received), (8, 8));
    assert_eq!(t.dropped(DropReason::TcpSynQueueFull), 1);
    t.inject(rst().port(1));
    t.inject(syn().port(9));
    assert_eq!(t.wire.sent.pop_back().unwrap().dst.port(), 9);
}

#[test]
fn one_listener_under_a_flood_leaves_room_for_others() {
    let mut t = Harness::with(TcpConfig { syn_queue_max: 8, syn_cookies: false, ..TcpConfig::default() });
    t.tcp.listen(t.local, 1, SocketOptions::default()).unwrap();
    (1..=8).for_each(|port| t.inject(syn().port(port)));
    assert_eq!(t.tcp.census().syn_received, 2);
}

#[test]
fn a_full_connection_table_refuses_on_both_sides() {
    let mut t = Harness::with(TcpConfig { connections_max: 1, ..TcpConfig::default() });
    let listener = t.tcp.listen(t.local, 4, SocketOptions::default()).unwrap();
    for port in [1, 2] {
        t.inject(syn().port(port));
        t.expect(syn_ack().port(port));
    }
    t.inject(seg().port(1));
    t.inject(seg().port(2));
    t.inject(syn().port(3));
    assert_eq!(t.dropped(DropReason::TcpConnectionTableFull), 2);
    let full = t.tcp.connect(t.now, t.local, t.remote, SocketOptions::default());
    assert_eq!(full, Err(TcpError::TableFull));
    // Room again: the handshake that waited is completed by the next SYN-ACK's answer.
    let (id, _) = t.accept(listener).unwrap();
    t.tcp.abort(t.now, id);
    t.inject(seg().port(2));
    assert!(t.accept(listener).is_some());
}

#[test]
fn closing_a_listener_resets_what_was_not_accepted() {
    let (mut t, listener) = listening(4);
    for port in [1, 2] {
        t.inject(syn().port(port));
        t.expect(syn_ack().port(port));
    }
    t.inject(seg().port(1));
    t.tcp.close_listener(t.now, listener).unwrap();
    t.transmit();
    t.expect(Seg { flags: Flags::RST | Flags::ACK, ..seg() }.port(1));
    t.expect_nothing();
    t.expect_clean();
    assert_eq!(t.tcp.close_listener(t.now, listener), Err(TcpError::NotConnected));
    // The handshake that was under way is refused.
    t.inject(seg().port(2));
    t.expect(Seg { flags: Flags::RST, ack: 0, ..seg() }.port(2));
    assert!(matches!(t.tcp.poll_accept(listener, Waker::noop()), Poll::Ready(Err(TcpError::NotConnected))));
}

#[test]
fn a_reset_before_accept_still_hands_over_what_was_sent() {
    let (mut t, listener) = listening(4);
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(seg().data("last"));
    t.expect(seg().ack(5));
    t.inject(rst().seq(5));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"last");
    assert_eq!(t.end(id), Some(Err(TcpError::ConnectionReset)));
    t.close(id);
    t.expect_clean();
}

#[test]
fn accepting_wakes_the_task_that_waits() {
    let (mut t, listener) = listening(4);
    let (wakes, waker) = Wakes::new();
    assert!(t.tcp.poll_accept(listener, &waker).is_pending());
    t.inject(syn());
    assert_eq!(wakes.count(), 0);
    t.inject(seg());
    assert_eq!(wakes.count(), 1);
}

#[test]
fn a_connection_inherits_the_listeners_options() {
    // RFC 9293 section 3.9.1.1, MUST-42.
    let mut t = Harness::new();
    let options = SocketOptions { nodelay: true, receive_buffer_bytes: 8192, ..SocketOptions::default() };
    let id = t.accept_with(options.clone(), syn());
    assert_eq!(t.tcp.options(id).unwrap(), options);
}

#[test]
fn a_listener_at_port_0_gets_a_port() {
    // RFC 9293 section 3.9.1.1, MUST-43.
    let mut t = Harness::new();
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let one = t.tcp.listen(any, 1, SocketOptions::default()).unwrap();
    let two = t.tcp.listen(any, 1, SocketOptions::default()).unwrap();
    let (one, two) = (t.tcp.listener_addr(one).unwrap(), t.tcp.listener_addr(two).unwrap());
    assert!(one.port() != 0 && two.port() != 0 && one != two);
}

#[test]
fn options_out_of_bounds_are_refused() {
    let mut t = Harness::new();
    let options = SocketOptions { keepalive_count: 0, ..SocketOptions::default() };
    assert_eq!(t.tcp.listen(t.local, 1, options), Err(TcpError::InvalidInput));
    let multicast = "224.0.0.1:80".parse().unwrap();
    assert_eq!(t.tcp.listen(multicast, 1, SocketOptions::default()), Err(TcpError::InvalidInput));
}

// ---- what the SYNs settle

#[test]
fn without_an_mss_option_the_default_holds() {
    // RFC 9293 section 3.7.1, MUST-15.
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn());
    t.send(id, pattern(1, 537));
    t.expect(seg().stream(536));
}

#[test]
fn the_smaller_of_the_peers_mss_and_the_path_counts() {
    // RFC 9293 section 3.7.1, MUST-16, SHLD-6, MUST-14.
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(9000));
    t.send(id, pattern(1, 3000));
    t.expect(seg().stream(1460));
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1000).ts(1, 0));
    t.send(id, pattern(1, 3000));
    // Options come off the segment (RFC 6691).
    t.expect(seg().stream(988));
}

#[test]
fn windows_are_scaled_only_if_both_ends_say_so() {
    // RFC 7323 sections 2.2 and 2.3.
    let mut t = Harness::new();
    t.tcp.listen(t.local, 4, SocketOptions::default()).unwrap();
    t.inject(syn().wscale(3));
    let answer = t.expect(syn_ack());
    assert_eq!((answer.options.window_scale, answer.window), (Some(7), 65_535));
    t.inject(seg().window(100).data("x"));
    let ack = t.expect(seg().ack(2));
    // 192 KiB less the byte, in units of 128.
    assert_eq!(ack.window, (((192 << 10) - 1) >> 7) as u16);
    let (id, ..) = t.tcp.connections().next().unwrap();
    assert_eq!(t.tcp.info(t.now, id).unwrap().snd_wnd, 800);
}

#[test]
fn a_syns_own_window_is_not_scaled() {
    // RFC 7323 section 2.2.
    let (mut t, id) = connecting();
    t.inject(syn_ack().wscale(7).window(1000));
    t.expect(seg());
    assert_eq!(t.tcp.info(t.now, id).unwrap().snd_wnd, 1000);
}

#[test]
fn after_a_lost_syn_data_starts_with_one_segment() {
    // RFC 5681 section 3.1.
    let (mut t, id) = connecting();
    t.expect_after(SECOND, syn());
    t.inject(syn_ack().mss(1000));
    t.expect(seg());
    t.send(id, pattern(1, 3000));
    t.expect(seg().stream(1000));
    t.expect_nothing();
    // And with an RTO of 3 s (RFC 6298 section 5.7).
    t.expect_after(3 * SECOND, seg().stream(1000));
}

#[test]
fn initial_sequence_numbers_follow_the_clock_and_the_tuple() {
    // RFC 9293 section 3.4.1, MUST-8, SHLD-1.
    let isn_after = |wait: Duration, port: u16| {
        let (mut t, _) = listening(4);
        t.advance(wait);
        t.inject(syn().port(port));
        t.wire.sent.pop_front().unwrap().raw_seq
    };
    // RFC 9293 section 3.4.1: 250,000 a second.
    assert_eq!(isn_after(SECOND, 9).since(isn_after(Duration::ZERO, 9)), 250_000);
    assert!(isn_after(Duration::ZERO, 9).since(isn_after(Duration::ZERO, 10)) > 1000);
}

#[test]
fn two_shards_answer_the_same_syn_with_numbers_far_apart() {
    // A SYN and its repetition may come to two shards; the peer's ACKs must fit only one of the answers.
    let answers = [0, 1].map(|shard| {
        let mut t = Harness::new();
        t.tcp = Tcp::new(TcpConfig::default(), [7; 32], shard, 2);
        t.tcp.poll_timers(t.now, &mut t.counters);
        t.tcp.listen(t.local, 4, SocketOptions::default()).unwrap();
        t.inject(syn());
        t.expect(syn_ack()).raw_seq
    });
    let apart = answers[0].since(answers[1]).min(answers[1].since(answers[0]));
    assert!(apart >= 1 << 30, "{apart}");
}
