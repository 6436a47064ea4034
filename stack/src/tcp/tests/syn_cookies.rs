//! SYN cookies (RFC 4987 section 3.6): only under pressure, without state, for a limited time, with what the client's
//! options allow; and a flood of a million SYNs.

use super::super::header::Flags;
use super::super::testing::*;
use super::super::*;
use crate::counters::DropReason;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A listener whose SYN queue, of 2 places, is full.
fn under_pressure(config: TcpConfig) -> (Harness, ListenerId) {
    let mut t = Harness::with(TcpConfig { syn_queue_max: 2, ..config });
    let listener = t.tcp.listen(t.local, 2, SocketOptions::default()).unwrap();
    t.inject_burst([syn().port(1), syn().port(2)]);
    t.expect(syn_ack().port(1));
    t.expect(syn_ack().port(2));
    (t, listener)
}

fn full() -> (Harness, ListenerId) {
    under_pressure(TcpConfig::default())
}

/// What is settled for a connection that a cookie opened.
fn settled(t: &mut Harness, listener: ListenerId) -> TcpInfo {
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.state(id), State::Established);
    t.tcp.info(t.now, id).unwrap()
}

#[test]
fn a_cookie_takes_no_memory_and_the_ack_brings_connection_options_and_data() {
    let (mut t, listener) = full();
    let mut offer = syn().mss(1380).wscale(7).ts(500, 0);
    offer.options.sack_permitted = true;
    t.inject(offer);
    let answer = t.expect(syn_ack());
    assert_eq!((answer.options.mss, answer.options.sack_permitted), (Some(1460), true));
    assert!(answer.options.window_scale.is_some());
    assert_eq!((t.tcp.census().syn_received, t.tcp.census().connections), (2, 0));
    let ours = answer.options.timestamps.unwrap();
    assert_eq!(ours.ecr, 500);
    t.inject(seg().ts(501, ours.val).data("request"));
    t.expect(seg().ack(8));
    let (id, from) = t.accept(listener).unwrap();
    assert_eq!((from, t.recv(id)), (t.remote, b"request".to_vec()));
    let info = t.tcp.info(t.now, id).unwrap();
    assert_eq!((info.state, info.snd_wscale, info.snd_mss), (State::Established, 7, 1300 - 12));
    assert!(info.wscale && info.timestamps && info.rtt.is_zero());
    assert_eq!((t.counters.tcp_syn_cookies_tx, t.counters.tcp_syn_cookies_rx), (1, 1));
    assert_eq!(t.dropped(DropReason::TcpSynQueueFull), 0);
}

#[test]
fn without_timestamps_only_the_mss_is_agreed_on() {
    let (mut t, listener) = full();
    let mut offer = syn().mss(1460).wscale(7);
    offer.options.sack_permitted = true;
    t.inject(offer);
    let answer = t.expect(syn_ack());
    assert_eq!((answer.options.window_scale, answer.options.sack_permitted), (None, false));
    t.inject(seg());
    let info = settled(&mut t, listener);
    assert_eq!((info.wscale, info.timestamps, info.snd_mss), (false, false, 1460));
}

#[test]
fn options_that_are_turned_off_are_not_offered_in_cookies() {
    let config = TcpConfig { timestamps: false, window_scaling: false, sack: false, ..TcpConfig::default() };
    let (mut t, listener) = under_pressure(config);
    let mut offer = syn().mss(1460).wscale(7).ts(1, 0);
    offer.options.sack_permitted = true;
    t.inject(offer);
    let answer = t.expect(syn_ack()).options;
    assert_eq!((answer.window_scale, answer.sack_permitted, answer.timestamps), (None, false, None));
    t.inject(seg().ts(2, 63));
    let info = settled(&mut t, listener);
    assert_eq!((info.wscale, info.timestamps), (false, false));
}

#[test]
fn a_client_with_large_segments_is_sent_what_the_path_carries() {
    let (mut t, listener) = full();
    t.inject(syn().mss(9000));
    t.expect(syn_ack());
    t.inject(seg());
    let (id, _) = t.accept(listener).unwrap();
    t.send(id, pattern(1, 5000));
    t.expect(seg().stream(1460));
}

#[test]
fn with_room_in_the_queue_no_cookie_is_sent_and_none_is_looked_for() {
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 2, SocketOptions::default()).unwrap();
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(seg().port(7).seq(1).ack(1));
    t.expect(Seg { flags: Flags::RST, seq: 1, ack: 0, ..seg().port(7) });
    assert_eq!((t.counters.tcp_syn_cookies_tx, t.counters.tcp_syn_cookies_failed), (0, 0));
    assert_eq!(t.accept(listener), None);
}

#[test]
fn cookies_can_be_turned_off() {
    let (mut t, _) = under_pressure(TcpConfig { syn_cookies: false, ..TcpConfig::default() });
    t.inject(syn());
    t.expect_nothing();
    assert_eq!(t.dropped(DropReason::TcpSynQueueFull), 1);
}

#[test]
fn a_cookie_expires() {
    let (mut t, listener) = full();
    t.inject(syn());
    t.expect(syn_ack());
    t.advance(120 * SECOND);
    t.wire.sent.clear();
    t.inject(seg().data("x"));
    t.expect(Seg { flags: Flags::RST, seq: 1, ack: 0, ..seg() });
    assert_eq!((t.accept(listener), t.counters.tcp_syn_cookies_failed), (None, 0));
}

#[test]
fn a_guess_is_reset_and_counted() {
    let (mut t, listener) = full();
    t.inject(syn());
    t.expect(syn_ack());
    for (seq, ack) in [(1, 2000), (2000, 1)] {
        t.inject(seg().seq(seq).ack(ack));
        t.expect(Seg { flags: Flags::RST, seq: ack, ack: 0, ..seg() });
    }
    assert_eq!((t.accept(listener), t.counters.tcp_syn_cookies_failed), (None, 2));
    // Nor do other segments bring a cookie.
    t.inject(fin().flags(Flags::FIN));
    t.inject(rst());
    t.inject(syn_ack());
    t.wire.sent.clear();
    assert_eq!((t.accept(listener), t.counters.tcp_syn_cookies_failed), (None, 2));
}

#[test]
fn the_ack_of_a_cookie_counts_although_the_syn_came_again_and_found_room() {
    let (mut t, listener) = full();
    t.inject(syn());
    let cookie = t.expect(syn_ack()).raw_seq;
    t.inject(rst().port(1));
    t.inject(syn());
    let second = t.expect(syn_ack()).raw_seq;
    assert_eq!(t.tcp.census().syn_received, 2);
    t.inject(seg().ack(1u32.wrapping_add(cookie.since(second))).data("x"));
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"x");
    assert_eq!(t.tcp.census().syn_received, 1);
}

#[test]
fn an_ack_that_finds_the_accept_queue_full_is_tried_again() {
    let (mut t, listener) = full();
    for port in [5, 6, 7] {
        t.inject(syn().port(port));
        t.expect(syn_ack().port(port));
    }
    for port in [5, 6, 7] {
        t.inject(seg().port(port));
    }
    t.expect_nothing();
    assert_eq!(t.dropped(DropReason::TcpAcceptQueueFull), 1);
    assert!(t.accept(listener).is_some());
    t.inject(seg().port(7).data("again"));
    t.expect(seg().port(7).ack(6));
    assert!(t.accept(listener).is_some());
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.recv(id), b"again");
}

#[test]
fn a_fast_open_cookie_is_worth_more_than_a_full_queue() {
    let (mut t, listener) = full();
    t.tcp.set_fastopen(listener, 4).unwrap();
    let mut ask = syn().port(9);
    ask.options.fastopen = Some(options::FastOpenOption::request());
    t.inject(rst().port(1));
    t.inject(ask);
    let cookie = t.expect(syn_ack().port(9)).options.fastopen;
    assert!(cookie.is_some());
    let mut fast = syn().data("x");
    fast.options.fastopen = cookie;
    t.inject(fast);
    t.expect(syn_ack().ack(2));
    assert!(t.accept(listener).is_some());
}

/// RFC 4987 section 2: what a flood aims at. A thousandth of the clients are honest.
#[test]
fn a_flood_of_a_million_syns_stops_neither_old_connections_nor_new_clients_and_takes_no_memory() {
    const SYNS: u32 = 1_000_000;
    const PER_STEP: u32 = 500;
    let mut t = Harness::with(TcpConfig { syn_queue_max: 1024, ..TcpConfig::default() });
    let listener = t.tcp.listen(t.local, 1024, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1000));
    t.expect(syn_ack());
    t.inject(seg());
    let (old, honest) = (t.accept(listener).unwrap().0, t.remote);
    let (mut served, mut echoed, mut peak) = (0, 0u32, 0);
    for step in 0..SYNS / PER_STEP {
        for n in 0..PER_STEP {
            // Spoofed: from all over, never to be heard of again. Their ports are not those of honest clients, by which the
            // script knows our sequence numbers.
            let n = step * PER_STEP + n;
            t.remote = SocketAddr::new(
                [10, (n >> 16) as u8, (n >> 8) as u8, n as u8].into(),
                51_000 + (n % 14_000) as u16,
            );
            t.inject(syn().mss(1460));
            t.wire.sent.clear();
        }
        t.remote = honest;
        // The old connection carries data both ways.
        t.inject(seg().seq(1 + echoed).ack(1 + echoed).data("ping"));
        assert_eq!(t.recv(old), b"ping");
        t.send(old, "pong");
        echoed += 4;
        t.inject(seg().seq(1 + echoed).ack(1 + echoed));
        t.wire.sent.clear();
        // And a new client gets through with its first try.
        let port = 1000 + (step % 30_000) as u16;
        t.inject(syn().port(port).mss(1460));
        t.expect(syn_ack().port(port));
        t.inject(seg().port(port).data("hello"));
        let (id, from) = t.accept(listener).unwrap();
        assert_eq!((from.port(), t.recv(id)), (port, b"hello".to_vec()));
        t.tcp.abort(t.now, id);
        t.transmit();
        t.wire.sent.clear();
        served += 1;
        t.advance(Duration::from_millis(5));
        t.wire.sent.clear();
        let census = t.tcp.census();
        peak = peak.max(census.syn_received);
        assert_eq!((census.connections, census.buffered_bytes), (1, 0), "{census:?}");
    }
    assert_eq!(served, SYNS / PER_STEP);
    assert!(peak <= 1024, "{peak}");
    assert!(t.counters.tcp_syn_cookies_tx > u64::from(SYNS) * 9 / 10);
    assert_eq!(t.pool.free_frames(), t.pool.layout().frames);
}
