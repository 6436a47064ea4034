//! The engine's behaviour on a wire and against scripts, state by state of RFC 9293 section 3.10.

use core::task::{Poll, Waker};

use super::wire::{A, B, Pair, Script, Seg, addr};
use crate::counters::DropReason;
use crate::tcp::header::Flags;
use crate::tcp::options::{TcpOptions, Timestamps};
use crate::tcp::seq::SeqNumber;
use crate::tcp::*;
use crate::time::Duration;

const ACK: Flags = Flags::ACK;
const FIN_ACK: Flags = Flags(0x11);
const SYN_ACK: Flags = Flags(0x12);
const RST: Flags = Flags::RST;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_handshake_opens_both_ends_with_linux_s_options() {
    let (pair, a, b) = Pair::open();
    assert_eq!((pair.a.state(a), pair.b.state(b)), (Some(State::Established), Some(State::Established)));
    let syn = &pair.log[0].2;
    assert!(syn.is(Flags::SYN) && pair.log[1].2.is(SYN_ACK) && pair.log[2].2.is(ACK));
    assert_eq!(syn.options.mss, Some(1460));
    assert!(syn.options.window_scale.is_some() && syn.options.timestamps.is_some());
    assert_eq!(pair.log.len(), 3);
}

#[test]
fn data_flows_both_ways_and_arrives_whole() {
    let (mut pair, a, b) = Pair::open();
    pair.transfer(a, b, 3_000_000, secs(60));
    assert_eq!(pair.a.counters.tcp_retransmits, 0);
    pair.run(ms(50));
    assert_eq!(pair.a.write(a, b"ping"), 4);
    pair.run(ms(20));
    assert_eq!(pair.b.read(b).unwrap(), b"ping");
    assert_eq!(pair.b.write(b, b"pong"), 4);
    pair.run(ms(20));
    assert_eq!(pair.a.read(a).unwrap(), b"pong");
}

#[test]
fn a_four_way_close_ends_in_one_time_wait_of_60_seconds() {
    let (mut pair, a, b) = Pair::open();
    pair.a.tcp.shutdown(pair.now(), a, Shutdown::Write).unwrap();
    pair.run(ms(20));
    assert_eq!((pair.a.state(a), pair.b.state(b)), (Some(State::FinWait2), Some(State::CloseWait)));
    assert_eq!(pair.b.read(b), None);
    pair.b.tcp.close(pair.now(), b);
    pair.run(ms(20));
    assert_eq!(pair.a.state(a), Some(State::TimeWait));
    pair.a.tcp.close(pair.now(), a);
    assert_eq!(pair.a.tcp.census(), Census { time_wait: 1, ..Census::default() });
    assert_eq!(pair.b.tcp.census(), Census { listeners: 1, ..Census::default() });
    pair.run(secs(59));
    assert_eq!(pair.a.tcp.census().time_wait, 1);
    pair.run(secs(2));
    assert_eq!(pair.a.tcp.census(), Census::default());
}

#[test]
fn a_simultaneous_close_leaves_both_in_time_wait() {
    let (mut pair, a, b) = Pair::open();
    pair.a.tcp.close(pair.now(), a);
    pair.b.tcp.close(pair.now(), b);
    pair.run(ms(50));
    assert_eq!((pair.a.tcp.census().time_wait, pair.b.tcp.census().time_wait), (1, 1));
    assert_eq!(pair.a.counters.tcp_retransmits + pair.b.counters.tcp_retransmits, 0);
}

#[test]
fn a_simultaneous_open_makes_one_connection() {
    let mut pair = Pair::new();
    let a = pair.a.tcp.connect(pair.now(), addr(A), addr(B), SocketOptions::default()).unwrap();
    let b = pair.b.tcp.connect(pair.now(), addr(B), addr(A), SocketOptions::default()).unwrap();
    pair.run(ms(100));
    assert_eq!((pair.a.state(a), pair.b.state(b)), (Some(State::Established), Some(State::Established)));
    pair.transfer(a, b, 100_000, secs(20));
}

#[test]
fn a_half_close_lasts_while_the_other_way_carries_data() {
    let (mut pair, a, b) = Pair::open();
    pair.b.tcp.shutdown(pair.now(), b, Shutdown::Write).unwrap();
    pair.run(secs(600));
    pair.transfer(a, b, 1_000_000, secs(60));
    assert_eq!(pair.a.state(a), Some(State::CloseWait));
}

#[test]
fn losses_are_repaired_whatever_is_lost() {
    for every in [3, 7, 20] {
        let (mut pair, a, b) = Pair::open();
        pair.lose = Box::new(move |count, _| count % every == 0);
        pair.transfer(a, b, 200_000, secs(3000));
        pair.a.tcp.close(pair.now(), a);
        pair.b.tcp.close(pair.now(), b);
        pair.run(secs(200));
        assert_eq!(pair.a.tcp.census().connections + pair.b.tcp.census().connections, 0);
    }
}

#[test]
fn one_lost_segment_is_repaired_without_a_timeout() {
    let (mut pair, a, b) = Pair::open();
    let mut lost = false;
    pair.lose = Box::new(move |count, seg| {
        let hit = count > 60 && !lost && seg.payload.len() > 1000;
        lost |= hit;
        hit
    });
    pair.transfer(a, b, 500_000, secs(60));
    assert_eq!(pair.a.counters.tcp_fast_retransmits, 1);
    assert_eq!((pair.a.counters.tcp_timeouts, pair.a.counters.tcp_retransmits), (0, 1));
}

#[test]
fn a_silent_peer_is_given_up_after_the_retries() {
    let (mut pair, a, _) = Pair::open();
    pair.lose = Box::new(|_, _| true);
    pair.a.write(a, b"anyone there?");
    pair.run(secs(20 * 60));
    assert_eq!(pair.a.tcp.take_error(a), Some(TcpError::TimedOut));
    assert_eq!(pair.a.counters.tcp_timeouts, 15);
}

#[test]
fn a_closed_port_refuses() {
    let mut pair = Pair::new();
    let a = pair.connect(SocketOptions::default());
    pair.run(ms(20));
    assert_eq!(pair.a.tcp.poll_connected(a, Waker::noop()), Poll::Ready(Err(TcpError::ConnectionRefused)));
}

#[test]
fn a_zero_window_is_probed_until_it_opens_and_nothing_is_lost() {
    let (mut pair, a, b) = Pair::open();
    let mut written = 0;
    while written < 2_000_000 {
        let n = pair.a.write(a, &[7; 10_000]);
        written += n;
        pair.run(ms(20));
        if n == 0 {
            break;
        }
    }
    pair.run(secs(3600));
    assert!(pair.a.counters.tcp_zero_window_probes > 20);
    assert_eq!(pair.a.state(a), Some(State::Established));
    let mut read = 0;
    for _ in 0..1000 {
        read += pair.b.read(b).unwrap().len();
        pair.run(ms(200));
    }
    assert_eq!(read, written);
}

#[test]
fn keepalive_finds_a_dead_peer_after_idle_and_count_intervals() {
    let (mut pair, a, _) = Pair::open();
    let options = SocketOptions {
        keepalive: true,
        keepalive_idle: secs(10),
        keepalive_interval: secs(2),
        keepalive_count: 3,
        ..SocketOptions::default()
    };
    pair.a.tcp.set_options(pair.now(), a, options).unwrap();
    pair.run(secs(100));
    assert_eq!(pair.a.state(a), Some(State::Established), "a live peer answers");
    assert!(pair.a.counters.tcp_keepalive_probes >= 8);
    pair.lose = Box::new(|_, _| true);
    pair.run(secs(10 + 3 * 2 + 11));
    assert_eq!(pair.a.tcp.take_error(a), Some(TcpError::TimedOut));
    assert_eq!(pair.a.counters.tcp_keepalive_drops, 1);
}

#[test]
fn the_user_timeout_ends_a_connection_without_progress() {
    let (mut pair, a, _) = Pair::open();
    let options = SocketOptions { user_timeout: Some(secs(5)), ..SocketOptions::default() };
    pair.a.tcp.set_options(pair.now(), a, options).unwrap();
    pair.lose = Box::new(|_, _| true);
    pair.a.write(a, b"x");
    pair.run(secs(4));
    assert_eq!(pair.a.state(a), Some(State::Established));
    pair.run(secs(5));
    assert_eq!(pair.a.tcp.take_error(a), Some(TcpError::TimedOut));
}

#[test]
fn closing_with_unread_data_resets() {
    let (mut script, id) = Script::established();
    script.inject(ACK, b"unread");
    script.expect();
    script.host.tcp.close(script.host.now, id);
    assert!(script.expect().flags.contains(RST));
    assert_eq!(script.host.tcp.census().connections, 0);
}

#[test]
fn data_for_an_application_that_has_closed_resets() {
    let (mut script, id) = Script::established();
    script.host.tcp.close(script.host.now, id);
    assert!(script.expect().is(FIN_ACK));
    script.inject(ACK, b"late");
    assert!(script.expect().flags.contains(RST));
}

#[test]
fn linger_zero_resets_and_drops_what_is_queued() {
    let (mut script, id) = Script::established();
    let options = SocketOptions { linger: Some(Duration::ZERO), ..SocketOptions::default() };
    script.host.tcp.set_options(script.host.now, id, options).unwrap();
    script.host.tcp.close(script.host.now, id);
    assert!(script.expect().flags.contains(RST));
    script.expect_nothing();
}

#[test]
fn a_reset_counts_only_at_the_exact_number() {
    let (mut script, id) = Script::established();
    let mut seg = script.seg(RST, b"");
    seg.seq += 10;
    script.host.receive(&seg);
    assert!(script.expect().is(ACK), "a challenge");
    seg.seq = script.seq.wrapping_sub(5);
    script.host.receive(&seg);
    script.expect_nothing();
    assert_eq!(script.host.state(id), Some(State::Established));
    seg.seq = script.seq;
    script.host.receive(&seg);
    assert_eq!(script.host.tcp.take_error(id), Some(TcpError::ConnectionReset));
}

#[test]
fn a_syn_on_an_open_connection_is_challenged() {
    let (mut script, id) = Script::established();
    script.host.receive(&Seg { seq: script.seq, ..script.seg(Flags::SYN, b"") });
    assert!(script.expect().is(ACK));
    assert_eq!(script.host.state(id), Some(State::Established));
    assert_eq!(script.host.counters.tcp_challenge_acks, 1);
}

#[test]
fn challenge_acks_of_one_connection_are_limited() {
    let mut script = Script::listening(TcpConfig::default());
    script.handshake();
    for _ in 0..25 {
        let seg = Seg { seq: script.seq + 1, ..script.seg(RST, b"") };
        script.host.receive(&seg);
    }
    let sent = u64::from(limits::TCP_CHALLENGE_ACKS);
    assert_eq!((script.host.counters.tcp_challenge_acks, script.host.wire.out.len() as u64), (sent, sent));
    assert_eq!(script.host.counters.tcp_challenge_acks_limited, 25 - sent);
}

#[test]
fn an_ack_of_what_was_never_sent_is_challenged_and_its_text_dropped() {
    let (mut script, id) = Script::established();
    script.ack += 1000;
    let seg = script.seg(ACK, b"forged");
    script.host.receive(&seg);
    assert!(script.expect().is(ACK));
    assert_eq!(script.host.read(id), Some(vec![]));
}

#[test]
fn an_old_timestamp_is_dropped_and_answered() {
    let mut script = Script::listening(TcpConfig::default());
    script.options.timestamps = Some(Timestamps { val: 500, ecr: 0 });
    let syn =
        Seg { options: TcpOptions { mss: Some(1000), ..script.options }, ..script.seg(Flags::SYN, b"") };
    script.host.receive(&syn);
    script.seq += 1;
    script.expect();
    script.inject(ACK, b"");
    let id = script.host.accept(script.listener).unwrap();
    script.options.timestamps = Some(Timestamps { val: 400, ecr: 0 });
    let seg = script.seg(ACK, b"old");
    script.host.receive(&seg);
    assert!(script.expect().is(ACK));
    assert_eq!(script.host.counters.dropped(DropReason::TcpPaws), 1);
    script.options.timestamps = Some(Timestamps { val: 501, ecr: 0 });
    script.inject(ACK, b"new");
    assert_eq!(script.host.read(id).unwrap(), b"new");
}

#[test]
fn segments_out_of_order_are_acknowledged_at_once_and_put_in_order() {
    let (mut script, id) = Script::established();
    let first = script.seg(ACK, b"hello ");
    let second = Seg { seq: script.seq + 6, ..script.seg(ACK, b"world") };
    script.host.receive(&second);
    let ack = script.expect();
    assert_eq!((ack.is(ACK), ack.ack), (true, script.seq));
    script.host.receive(&first);
    assert_eq!(script.expect().ack, script.seq + 11);
    assert_eq!(script.host.read(id).unwrap(), b"hello world");
}

#[test]
fn a_fin_ahead_of_a_gap_waits_for_the_gap() {
    let (mut script, id) = Script::established();
    let text = script.seg(ACK, b"last words");
    let fin = Seg { seq: script.seq + 10, ..script.seg(FIN_ACK, b"") };
    script.host.receive(&fin);
    assert_eq!(script.host.state(id), Some(State::Established));
    script.host.receive(&text);
    assert_eq!(script.host.state(id), Some(State::CloseWait));
    assert_eq!(script.host.read(id).unwrap(), b"last words");
    assert_eq!(script.host.read(id), None);
}

#[test]
fn fin_is_acked_before_the_application_reads() {
    let (mut script, id) = Script::established();
    script.inject(FIN_ACK, b"bye");
    let ack = script.expect();
    assert_eq!(ack.ack, script.seq);
    assert_eq!(script.host.read(id).unwrap(), b"bye");
}

#[test]
fn nagle_holds_the_second_small_segment_until_the_first_is_acknowledged() {
    let (mut script, id) = Script::established();
    script.host.write(id, b"a");
    assert_eq!(script.expect().payload, b"a");
    script.host.write(id, b"b");
    script.host.write(id, b"c");
    script.expect_nothing();
    script.inject(ACK, b"");
    assert_eq!(script.expect().payload, b"bc");
}

#[test]
fn nodelay_sends_each_write() {
    let (mut script, id) = Script::established();
    let options = SocketOptions { nodelay: true, ..SocketOptions::default() };
    script.host.tcp.set_options(script.host.now, id, options).unwrap();
    script.host.write(id, b"a");
    script.expect();
    script.host.write(id, b"b");
    assert_eq!(script.expect().payload, b"b");
}

#[test]
fn a_cork_holds_for_200_ms_or_until_it_is_pulled() {
    let (mut script, id) = Script::established();
    let corked = SocketOptions { cork: true, ..SocketOptions::default() };
    script.host.tcp.set_options(script.host.now, id, corked).unwrap();
    script.host.write(id, b"held");
    script.expect_nothing();
    script.advance(ms(250));
    assert_eq!(script.expect().payload, b"held");
    script.inject(ACK, b"");
    script.host.write(id, b"again");
    script.expect_nothing();
    script.host.tcp.set_options(script.host.now, id, SocketOptions::default()).unwrap();
    assert_eq!(script.expect().payload, b"again");
}

#[test]
fn every_second_full_segment_is_acknowledged_and_a_single_one_within_40_ms() {
    let (mut script, id) = Script::established();
    for _ in 0..40 {
        script.inject(ACK, &[0; 1000]);
        script.host.read(id);
    }
    script.host.wire.out.clear();
    script.advance(ms(100));
    script.host.wire.out.clear();
    script.inject(ACK, &[0; 1000]);
    script.expect_nothing();
    script.inject(ACK, &[0; 1000]);
    assert_eq!(script.expect().ack, script.seq);
    script.inject(ACK, &[0; 1000]);
    script.expect_nothing();
    script.advance(ms(41));
    assert_eq!(script.expect().ack, script.seq);
}

#[test]
fn a_full_accept_queue_drops_the_ack_and_takes_it_later() {
    let mut script = Script::listening(TcpConfig::default());
    script.host.tcp.close_listener(script.host.now, script.listener).unwrap();
    script.listener = script.host.tcp.listen(addr(B), 1, SocketOptions::default()).unwrap();
    let syn = |port: u16, script: &Script| {
        let mut seg = script.seg(Flags::SYN, b"");
        seg.src.set_port(port);
        seg
    };
    let mut finals = Vec::new();
    for port in [1, 2] {
        script.host.receive(&syn(port, &script));
        let reply = script.host.wire.out.pop_front().unwrap();
        let mut ack = Seg { seq: script.seq + 1, ..script.seg(ACK, b"data") };
        ack.ack = reply.seq.wrapping_add(1);
        ack.src.set_port(port);
        finals.push(ack);
    }
    finals.iter().for_each(|seg| script.host.receive(seg));
    assert_eq!(script.host.counters.tcp_accept_overflows, 1);
    assert!(script.host.accept(script.listener).is_some() && script.host.accept(script.listener).is_none());
    script.host.receive(&finals[1]);
    let id = script.host.accept(script.listener).unwrap();
    assert_eq!(script.host.read(id).unwrap(), b"data");
}

#[test]
fn a_full_egress_loses_nothing() {
    let (mut pair, a, b) = Pair::open();
    pair.a.wire.room = 0;
    assert_eq!(pair.a.write(a, &[9; 50_000]), 50_000);
    pair.a.send();
    assert!(pair.a.wire.out.is_empty());
    pair.a.wire.room = 7;
    pair.a.send();
    assert_eq!(pair.a.wire.out.len(), 7);
    pair.a.wire.room = usize::MAX;
    pair.run(secs(1));
    assert_eq!(pair.b.read(b).unwrap().len(), 50_000);
    assert_eq!(pair.a.counters.tcp_retransmits, 0);
}

#[test]
fn segments_for_nobody_are_reset_and_resets_are_not() {
    let mut script = Script::listening(TcpConfig::default());
    let mut seg = script.seg(ACK, b"stray");
    seg.ack = 777;
    script.host.receive(&seg);
    let reset = script.expect();
    assert_eq!((reset.flags, reset.seq), (RST, 777));
    seg.dst.set_port(81);
    seg.flags = Flags::SYN;
    script.host.receive(&seg);
    let reset = script.expect();
    assert_eq!((reset.flags, reset.seq, reset.ack), (RST | ACK, 0, seg.seq + seg.len()));
    seg.flags = RST;
    script.host.receive(&seg);
    script.expect_nothing();
}

#[test]
fn an_icmp_error_counts_only_for_what_is_in_flight() {
    let mut pair = Pair::new();
    pair.lose = Box::new(|_, _| true);
    let a = pair.connect(SocketOptions::default());
    pair.run(ms(1));
    let iss = SeqNumber(pair.log[0].2.seq);
    let error = |seq| IcmpError {
        tuple: Tuple { local: addr(A), remote: addr(B) },
        seq,
        kind: IcmpErrorKind::Refused,
    };
    let now = pair.now();
    assert_eq!(pair.a.tcp.icmp_error(now, &error(iss + 1), &mut pair.a.counters), IcmpVerdict::Taken);
    assert!(pair.a.tcp.poll_connected(a, Waker::noop()).is_pending());
    assert_eq!(pair.a.tcp.icmp_error(now, &error(iss), &mut pair.a.counters), IcmpVerdict::Taken);
    assert_eq!(pair.a.tcp.poll_connected(a, Waker::noop()), Poll::Ready(Err(TcpError::ConnectionRefused)));
}

#[test]
fn a_smaller_path_mtu_cuts_smaller_segments_and_loses_nothing() {
    let (mut pair, a, b) = Pair::open();
    pair.lose = Box::new(|_, seg| seg.payload.len() > 960);
    pair.a.write(a, &[5; 20_000]);
    pair.run(ms(10));
    let seq = SeqNumber(pair.log.iter().find(|(_, _, seg)| seg.payload.len() > 960).unwrap().2.seq);
    let error = IcmpError {
        tuple: Tuple { local: addr(A), remote: addr(B) },
        seq,
        kind: IcmpErrorKind::PacketTooBig { mtu: 1000 },
    };
    let now = pair.now();
    pair.a.tcp.icmp_error(now, &error, &mut pair.a.counters);
    pair.run(secs(2));
    assert_eq!(pair.b.read(b).unwrap().len(), 20_000);
}

#[test]
fn small_windows_and_small_buffers_still_carry_everything() {
    for buffer in [1, 4096, 9000] {
        let mut pair = Pair::new();
        let options = SocketOptions { receive_buffer_bytes: buffer, ..SocketOptions::default() };
        let listener = pair.b.tcp.listen(addr(B), 4, options).unwrap();
        let a = pair.connect(SocketOptions::default());
        pair.run(ms(50));
        let b = pair.b.accept(listener).unwrap();
        pair.transfer(a, b, 60_000, secs(600));
    }
}

#[test]
fn stale_handles_are_refused() {
    let (mut pair, a, _) = Pair::open();
    pair.a.tcp.abort(pair.now(), a);
    assert_eq!(
        pair.a.tcp.poll_send(pair.now(), a, b"x", Waker::noop()),
        Poll::Ready(Err(TcpError::NotConnected))
    );
    pair.a.tcp.close(pair.now(), a);
    assert_eq!(pair.a.tcp.census(), Census::default());
}
