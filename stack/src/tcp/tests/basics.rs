//! The journey of an ordinary connection: handshake from both sides, data both ways, close from both sides.

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

#[test]
fn a_listener_accepts_a_connection() {
    // RFC 9293 section 3.7.1, SHLD-5, MAY-3, MUST-67; RFC 9293 section 3.9.1.1, MUST-41.
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 4, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1460));
    let answer = t.expect(syn_ack());
    assert_eq!(answer.options.mss, Some(1460));
    assert_eq!((answer.options.window_scale, answer.options.timestamps), (None, None));
    assert!(!answer.options.sack_permitted);
    assert!(t.accept(listener).is_none());
    t.inject(seg());
    t.expect_nothing();
    let (id, from) = t.accept(listener).unwrap();
    assert_eq!((from, t.state(id)), (t.remote, State::Established));
    assert_eq!(t.tcp.tuple(id).unwrap(), Tuple { local: t.local, remote: t.remote });
    assert_eq!(t.counters.tcp_passive_opens, 1);
}

#[test]
fn an_active_open_completes() {
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions::default());
    let opening = t.expect(syn());
    assert_eq!((opening.options.mss, opening.options.window_scale), (Some(1460), Some(7)));
    assert!(opening.options.timestamps.is_some());
    assert_eq!(t.state(id), State::SynSent);
    let (wakes, waker) = Wakes::new();
    assert!(t.tcp.poll_connected(id, &waker).is_pending());
    t.inject(syn_ack());
    t.expect(seg());
    assert_eq!(wakes.count(), 1);
    assert_eq!(t.tcp.poll_connected(id, &waker), core::task::Poll::Ready(Ok(())));
    assert_eq!(t.state(id), State::Established);
}

#[test]
fn data_flows_both_ways() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("hello"));
    t.expect(seg().ack(6));
    assert_eq!(t.recv(id), b"hello");
    t.send(id, "world");
    let sent = t.expect(seg().ack(6).data("world"));
    assert!(sent.flags.contains(header::Flags::PSH));
    t.inject(seg().seq(6).ack(6));
    t.expect_silence(Duration::from_secs(10));
}

#[test]
fn we_close_first() {
    let mut t = Harness::new();
    let id = t.established();
    t.shutdown(id, Shutdown::Write);
    t.expect(fin());
    assert_eq!(t.state(id), State::FinWait1);
    t.inject(seg().ack(2));
    assert_eq!(t.state(id), State::FinWait2);
    t.expect_nothing();
    t.inject(fin().ack(2));
    t.expect(seg().seq(2).ack(2));
    assert_eq!(t.state(id), State::TimeWait);
    assert_eq!(t.end(id), Some(Ok(0)));
    assert_eq!(t.tcp.census().time_wait, 1);
    t.expect_silence(Duration::from_secs(61));
    assert_eq!((t.state(id), t.tcp.census().time_wait), (State::Closed, 0));
    t.close(id);
    t.expect_nothing();
    t.expect_clean();
}

#[test]
fn the_peer_closes_first() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(fin());
    t.expect(seg().ack(2));
    assert_eq!((t.state(id), t.end(id)), (State::CloseWait, Some(Ok(0))));
    t.close(id);
    t.expect(fin().ack(2));
    assert_eq!(t.tcp.state(id), None);
    t.inject(seg().seq(2).ack(2));
    t.expect_silence(Duration::from_secs(100));
    assert_eq!(t.tcp.census().time_wait, 0);
    t.expect_clean();
}

#[test]
fn both_close_at_once() {
    let mut t = Harness::new();
    let id = t.established();
    t.shutdown(id, Shutdown::Write);
    t.expect(fin());
    t.inject(fin());
    t.expect(seg().seq(2).ack(2));
    assert_eq!(t.state(id), State::Closing);
    t.inject(seg().seq(2).ack(2));
    t.expect_nothing();
    assert_eq!(t.state(id), State::TimeWait);
}

#[test]
fn a_lost_segment_is_sent_again() {
    // RFC 9293 section 3.8.1, MUST-19.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "lost");
    t.expect(seg().data("lost"));
    t.expect_after(200 * MS, seg().data("lost"));
    t.expect_after(400 * MS, seg().data("lost"));
    t.inject(seg().ack(5));
    t.expect_silence(Duration::from_secs(10));
    assert_eq!((t.counters.tcp_retransmits, t.counters.tcp_timeouts), (2, 2));
}
