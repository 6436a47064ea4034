//! Options of `setsockopt(2)` that shape segments, windows and handshakes, and the ends of records.

use core::task::Waker;

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn lens(t: &mut Harness) -> Vec<usize> {
    t.wire.sent.drain(..).map(|sent| sent.payload.len()).collect()
}

#[test]
fn maxseg_bounds_what_is_announced_and_what_is_sent() {
    let options = SocketOptions { maxseg: Some(600), ..SocketOptions::default() };
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 16, options.clone()).unwrap();
    t.inject(syn().mss(1000));
    assert_eq!(t.expect(syn_ack()).options.mss, Some(600));
    t.inject(seg());
    let id = t.accept(listener).unwrap().0;
    t.send(id, pattern(1, 1300));
    assert_eq!(lens(&mut t), [600, 600, 100]);
    // Without the bound what is next is as long as the peer takes.
    t.set(id, |options| options.maxseg = None);
    t.inject(seg().ack(1301));
    t.send(id, pattern(1301, 1900));
    assert_eq!(lens(&mut t), [1000, 900]);
    let mut t = Harness::new();
    t.connect_with(options);
    assert_eq!(t.expect(syn()).options.mss, Some(600));
}

#[test]
fn a_syn_cookie_announces_no_more_than_maxseg() {
    let mut t = Harness::with(TcpConfig { syn_queue_max: 1, ..TcpConfig::default() });
    let options = SocketOptions { maxseg: Some(600), ..SocketOptions::default() };
    t.tcp.listen(t.local, 1, options).unwrap();
    t.inject(syn().port(1));
    t.expect(syn_ack().port(1));
    t.inject(syn().mss(1000));
    assert_eq!(t.expect(syn_ack()).options.mss, Some(600));
    assert_eq!(t.counters.tcp_syn_cookies_tx, 1);
}

#[test]
fn syn_count_stands_above_the_configuration() {
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions { syn_count: Some(1), ..SocketOptions::default() });
    t.expect(syn());
    t.expect_after(SECOND, syn());
    t.advance(SECOND * 200);
    t.expect_nothing();
    assert_eq!(t.state(id), State::Closed);
}

#[test]
fn a_deferred_connection_is_accepted_with_its_first_data() {
    let mut t = Harness::new();
    let options = SocketOptions { defer_accept: Some(SECOND * 3), ..SocketOptions::default() };
    let listener = t.tcp.listen(t.local, 16, options).unwrap();
    t.inject(syn().mss(1000));
    t.expect(syn_ack());
    t.inject(seg());
    t.expect_silence(SECOND * 2);
    assert!(t.accept(listener).is_none());
    t.inject(seg().data("request"));
    let id = t.accept(listener).unwrap().0;
    assert_eq!(t.recv(id), b"request");
}

#[test]
fn a_deferred_connection_without_data_is_asked_again_in_the_end_and_then_accepted() {
    let mut t = Harness::new();
    let options = SocketOptions { defer_accept: Some(SECOND * 3), ..SocketOptions::default() };
    let listener = t.tcp.listen(t.local, 16, options).unwrap();
    t.inject(syn().mss(1000));
    t.expect(syn_ack());
    t.inject(seg());
    t.expect_after(SECOND * 3, syn_ack());
    t.inject(seg());
    assert!(t.accept(listener).is_some());
}

#[test]
fn a_window_clamp_bounds_the_window_and_takes_none_back() {
    let mut t = Harness::new();
    let options = SocketOptions { window_clamp: Some(5000), ..SocketOptions::default() };
    let listener = t.tcp.listen(t.local, 16, options).unwrap();
    t.inject(syn().mss(1000).wscale(7));
    let answer = t.expect(syn_ack().window(5000));
    assert_eq!(answer.options.window_scale, Some(0));
    t.inject(seg());
    let id = t.accept(listener).unwrap().0;
    t.inject(seg().stream(1000));
    t.recv(id);
    assert_eq!(t.wire.sent.pop_back().unwrap().window, 5000);
    t.wire.sent.clear();
    t.set(id, |options| options.window_clamp = Some(2000));
    t.inject(seg().seq(1001).stream(1000));
    assert_eq!(t.wire.sent.pop_back().unwrap().window, 4000);
}

#[test]
fn what_follows_a_record_begins_a_segment_also_when_it_is_sent_again() {
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1000).window(1000));
    t.inject(seg().window(1000));
    t.send(id, pattern(1, 1000));
    t.wire.sent.clear();
    for (seq, len) in [(1001, 300), (1301, 500)] {
        let _ = t.tcp.poll_send(t.now, id, &pattern(seq, len), Waker::noop());
        t.tcp.end_record(t.now, id).unwrap();
        t.transmit();
    }
    t.send(id, pattern(1801, 700));
    t.inject(seg().ack(1001).window(8000));
    let sent: Vec<_> = t.wire.sent.drain(..).collect();
    let shape: Vec<_> =
        sent.iter().map(|sent| (sent.payload.len(), sent.flags.contains(header::Flags::PSH))).collect();
    assert_eq!(shape[..2], [(300, true), (500, true)]);
    t.advance(SECOND * 2);
    assert_eq!(t.wire.sent.pop_front().map(|sent| sent.payload.len()), Some(300));
}

#[test]
fn an_idle_connection_keeps_its_window_where_slow_start_after_idle_is_off() {
    for (slow_start_after_idle, cwnd) in [(true, 10), (false, 20)] {
        let mut t = Harness::with(TcpConfig { slow_start_after_idle, ..TcpConfig::default() });
        let id = t.established();
        t.inject(seg().window(60_000));
        t.send(id, pattern(1, 10_000));
        t.inject(seg().ack(10_001).window(60_000));
        t.advance(SECOND * 10);
        t.send(id, "x");
        assert_eq!(t.tcp.info(t.now, id).unwrap().snd_cwnd, cwnd);
    }
}

#[test]
fn settings_that_change_hold_for_what_begins_later() {
    let mut t = Harness::new();
    let first = t.accept_with(SocketOptions::default(), syn().mss(1000).ts(1, 0));
    let mut config = TcpConfig { timestamps: false, ..TcpConfig::default() };
    t.tcp.set_config(config.clone()).unwrap();
    assert!(t.tcp.info(t.now, first).unwrap().timestamps);
    t.inject(syn().port(2).mss(1000).ts(1, 0));
    assert_eq!(t.expect(syn_ack().port(2)).options.timestamps, None);
    config.syn_ack_retries = 8;
    assert!(t.tcp.set_config(config).is_err());
}
