//! What segments must pass in the synchronised states: RFC 9293 section 3.10.7.4 steps 1 to 6, RFC 5961, RFC 7323 section 5.

use core::task::Waker;

use super::super::header::Flags;
use super::super::testing::*;
use super::super::*;
use crate::counters::DropReason;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An established connection with timestamps; the peer's TS.Recent is 1000. Returns our TSval in the SYN-ACK.
fn stamped(t: &mut Harness) -> (ConnId, u32) {
    t.tcp.listen(t.local, 4, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1000).ts(1000, 0));
    let ours = t.expect(syn_ack()).options.timestamps.unwrap().val;
    t.inject(seg().ts(1000, ours));
    t.expect_nothing();
    let (id, ..) = t.tcp.connections().next().unwrap();
    (id, ours)
}

// ---- first: the sequence number

#[test]
fn segments_outside_the_window_draw_an_ack_and_change_nothing() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("0123456789"));
    t.expect(seg().ack(11));
    for outside in [
        seg().seq(1).data("0123456789"),
        seg().seq(0).ack(1),
        seg().seq(11 + 65_535).data("x"),
        seg().seq(11 + 65_535),
        seg().seq(0x8000_0000).data("x"),
        fin().seq(10),
    ] {
        t.inject(outside);
        t.expect(seg().ack(11));
        t.expect_nothing();
    }
    assert_eq!(t.dropped(DropReason::TcpOutOfWindow), 6);
    assert_eq!((t.state(id), t.recv(id)), (State::Established, b"0123456789".to_vec()));
}

#[test]
fn of_a_segment_across_an_edge_the_part_inside_is_taken() {
    let mut t = Harness::new();
    let options = SocketOptions { receive_buffer_bytes: 8192, ..SocketOptions::default() };
    let id = t.accept_with(options, syn().mss(1000));
    t.inject(seg().stream(1000));
    t.expect(seg().ack(1001).window(3096));
    t.inject(Seg { payload: pattern(501, 1000), ..seg().seq(501) });
    t.expect(seg().ack(1501).window(2596));
    // The window ends at 4097.
    t.inject(seg().seq(1501).stream(3000));
    t.expect(seg().ack(4097).window(0));
    assert_eq!(t.recv(id), pattern(1, 4096));
}

#[test]
fn a_keepalive_of_the_peer_is_answered() {
    let mut t = Harness::new();
    t.established();
    t.inject(seg().seq(0));
    t.expect(seg());
    t.inject(seg().seq(0).data([0]));
    t.expect(seg());
}

#[test]
fn answers_to_segments_without_data_are_limited() {
    // RFC 5961 section 7.
    // RFC 5961 section 7: 10 in 5 seconds.
    let mut t = Harness::new();
    t.established();
    for _ in 0..15 {
        t.inject(seg().seq(0));
    }
    assert_eq!((t.wire.sent.len(), t.counters.tcp_challenge_acks_limited), (10, 5));
    t.wire.sent.clear();
    // Data that comes again is always answered: it is a peer in need of an ACK.
    for _ in 0..15 {
        t.inject(seg().seq(0).data([0]));
        t.expect(seg());
    }
    t.advance(5 * SECOND);
    t.inject(seg().seq(0));
    t.expect(seg());
}

#[test]
fn with_a_gap_an_ack_from_the_windows_edge_counts() {
    let mut t = Harness::new();
    let options = SocketOptions { receive_buffer_bytes: 8192, ..SocketOptions::default() };
    let id = t.accept_with(options, syn().mss(1000));
    t.send(id, "abc");
    t.expect(seg().data("abc"));
    t.inject(seg().seq(1001).stream(3096));
    t.expect(seg().seq(4));
    t.inject(seg().seq(4097).ack(4));
    t.expect_silence(SECOND);
    assert_eq!(t.tcp.info(t.now, id).unwrap().unacked, 0);
}

// ---- second: RST

#[test]
fn a_reset_counts_only_at_rcv_nxt() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(rst().seq(2));
    t.expect(seg());
    t.inject(rst().seq(65_535));
    t.expect(seg());
    t.inject(rst().seq(0));
    t.inject(rst().seq(65_536));
    t.inject(rst().with(Flags::ACK).seq(0x9000_0000));
    t.expect_nothing();
    assert_eq!((t.counters.tcp_challenge_acks, t.state(id)), (2, State::Established));
    t.inject(rst());
    assert_eq!(t.state(id), State::Closed);
}

#[test]
fn a_reset_at_a_closed_window_counts() {
    // RFC 9293 section 3.4, MUST-66.
    let mut t = Harness::new();
    let options = SocketOptions { receive_buffer_bytes: 4096, ..SocketOptions::default() };
    let id = t.accept_with(options, syn());
    t.inject(seg().stream(2048));
    t.expect(seg().ack(2049).window(0));
    t.inject(rst().seq(2050));
    t.expect_nothing();
    t.inject(rst().seq(2049));
    assert_eq!(t.state(id), State::Closed);
}

// ---- fourth: SYN

#[test]
fn a_syn_is_challenged_wherever_it_is() {
    let mut t = Harness::new();
    let id = t.established();
    for seq in [0, 1, 2, 70_000, 0x8000_0000] {
        t.inject(syn().seq(seq));
        t.expect(seg());
        t.inject(syn_ack().seq(seq));
        t.expect(seg());
    }
    assert_eq!(t.state(id), State::Established);
    // A peer that was started anew answers the challenge with a RST.
    t.inject(rst());
    assert_eq!(t.state(id), State::Closed);
}

// ---- fifth: ACK

#[test]
fn a_segment_without_ack_is_dropped() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().flags(Flags::NONE).data("x"));
    t.inject(seg().flags(Flags::FIN));
    t.inject(seg().flags(Flags::PSH | Flags::URG).data("x"));
    t.expect_nothing();
    assert_eq!((t.state(id), t.recv(id)), (State::Established, vec![]));
    assert_eq!(t.dropped(DropReason::TcpBadAck), 3);
}

#[test]
fn an_ack_of_what_was_never_sent_is_refused_with_its_data() {
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abc");
    t.expect(seg().data("abc"));
    t.inject(seg().ack(5).data("forged"));
    t.expect(seg().seq(4));
    assert_eq!(t.recv(id), b"");
    t.inject(seg().ack(4).data("real"));
    t.expect(seg().seq(4).ack(5));
}

#[test]
fn an_ack_older_than_the_largest_window_is_refused_with_its_data() {
    // RFC 9293 section 3.10.7.4, MAY-12.
    // RFC 5961 section 5.2: SND.UNA - MAX.SND.WND <= SEG.ACK.
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1000).window(2000));
    for n in 0..3 {
        t.send(id, pattern(1 + 1000 * n, 1000));
        t.inject(seg().ack(1001 + 1000 * n).window(2000));
    }
    t.wire.sent.clear();
    // SND.UNA is 3001; the SYN's ACK, injected with a window of 65,535 by the harness, set MAX.SND.WND.
    t.inject(seg().ack(3001u32.wrapping_sub(65_535)).data("a").window(2000));
    t.expect(seg().seq(3001).ack(2));
    t.inject(seg().seq(2).ack(3001u32.wrapping_sub(65_536)).data("b").window(2000));
    t.expect(seg().seq(3001).ack(2));
    assert_eq!(t.recv(id), b"a");
}

#[test]
fn an_old_ack_brings_its_data_but_no_window() {
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "abcdef");
    t.inject(seg().ack(7).window(5000));
    t.wire.sent.clear();
    t.inject(seg().ack(3).window(1).data("x"));
    t.expect(seg().seq(7).ack(2));
    assert_eq!(t.tcp.info(t.now, id).unwrap().snd_wnd, 5000);
}

#[test]
fn an_older_segment_does_not_change_the_window() {
    // SND.WL1 and SND.WL2.
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("abc").window(5000));
    t.inject(seg().window(77));
    assert_eq!(t.tcp.info(t.now, id).unwrap().snd_wnd, 5000);
    t.inject(seg().seq(4).window(6000));
    assert_eq!(t.tcp.info(t.now, id).unwrap().snd_wnd, 6000);
}

// ---- sixth: URG

#[test]
fn urgent_data_is_delivered_in_line_and_announced() {
    // RFC 9293 section 3.8.5, MUST-30, MUST-32, MUST-33.
    let mut t = Harness::new();
    let id = t.established();
    let (wakes, waker) = Wakes::new();
    assert!(t.tcp.poll_recv(t.now, id, &mut [0], &waker).is_pending());
    // The pointer is ahead of the data (RFC 9293 section 3.8.5, MUST-31).
    t.inject(Seg { urgent: Some(9), ..seg().with(Flags::URG) });
    assert_eq!((wakes.count(), t.tcp.urgent_ahead(id)), (1, Ok(Some(9))));
    t.inject(Seg { urgent: Some(9), ..seg().with(Flags::URG).data("urgent") });
    assert_eq!(t.recv_up_to(id, 4), b"urge");
    assert_eq!(t.tcp.urgent_ahead(id), Ok(Some(5)));
    t.inject(seg().seq(7).data("now and on"));
    assert_eq!(t.recv(id), b"ntnow and on");
    assert_eq!(t.tcp.urgent_ahead(id), Ok(None));
    // An old pointer is no news, a new one is.
    t.inject(Seg { urgent: Some(0), ..seg().seq(17).with(Flags::URG) });
    assert_eq!(t.tcp.urgent_ahead(id), Ok(None));
    t.inject(Seg { urgent: Some(1), ..seg().seq(17).with(Flags::URG).data("!") });
    assert_eq!(t.tcp.urgent_ahead(id), Ok(Some(1)));
}

#[test]
fn segments_say_how_far_urgent_data_reaches_until_it_is_acknowledged() {
    // RFC 9293 section 3.8.5, MUST-30, MUST-31, MUST-62.
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1000).window(60_000));
    let write = |t: &mut Harness, seq, len| {
        assert!(t.tcp.poll_send(t.now, id, &pattern(seq, len), Waker::noop()).is_ready());
    };
    write(&mut t, 1, 1500);
    t.tcp.mark_urgent(t.now, id).unwrap();
    t.transmit();
    // Nagle's rule would hold the rest back.
    write(&mut t, 1501, 100);
    t.transmit();
    let pointers: Vec<_> = t.wire.sent.drain(..).map(|sent| (sent.seq, sent.urgent)).collect();
    assert_eq!(pointers, [(1, Some(1500)), (1001, Some(500)), (1501, None)]);
    // Also when it is sent again.
    t.advance(Duration::from_millis(1500));
    assert_eq!(t.wire.sent.pop_front().map(|sent| (sent.seq, sent.urgent)), Some((1, Some(1500))));
    t.wire.sent.clear();
    t.inject(seg().ack(1601));
    write(&mut t, 1601, 100);
    t.transmit();
    assert_eq!(t.wire.sent.pop_back().map(|sent| (sent.seq, sent.urgent)), Some((1601, None)));
}

#[test]
fn an_urgent_pointer_that_does_not_reach_is_the_largest_there_is() {
    // RFC 9293 section 3.8.5, MUST-31.
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1000).window(60_000));
    assert!(t.tcp.poll_send(t.now, id, &pattern(1, 70_000), Waker::noop()).is_ready());
    t.tcp.mark_urgent(t.now, id).unwrap();
    t.transmit();
    let pointers: Vec<_> = t.wire.sent.iter().map(|sent| sent.urgent).collect();
    assert_eq!((pointers[0], pointers[4], pointers[5]), (Some(65_535), Some(65_535), Some(65_000)));
}

// ---- PAWS and timestamps

#[test]
fn an_old_timestamp_is_refused_and_answered() {
    // RFC 7323 section 5.3.
    let mut t = Harness::new();
    let (id, ours) = stamped(&mut t);
    t.inject(seg().data("old").ts(999, ours));
    let answer = t.expect(seg());
    assert_eq!(answer.options.timestamps.unwrap().ecr, 1000);
    t.inject(seg().data("new").ts(1001, ours));
    t.expect(seg().ack(4));
    assert_eq!((t.recv(id), t.dropped(DropReason::TcpPaws)), (b"new".to_vec(), 1));
}

#[test]
fn timestamps_wrap() {
    // RFC 7323 sections 5.2 and 5.4.
    let mut t = Harness::new();
    t.accept_with(SocketOptions::default(), syn().ts(u32::MAX - 1, 0));
    t.inject(seg().data("a").ts(3, 0));
    assert_eq!(t.expect(seg().ack(2)).options.timestamps.unwrap().ecr, 3);
}

#[test]
fn a_reset_is_not_subject_to_paws() {
    // RFC 7323 section 5.2.
    let mut t = Harness::new();
    let (id, _) = stamped(&mut t);
    t.inject(rst().ts(1, 0));
    assert_eq!(t.state(id), State::Closed);
}

#[test]
fn a_segment_without_the_agreed_timestamp_is_dropped() {
    // RFC 7323 section 3.2.
    // RFC 7323 section 3.2.
    let mut t = Harness::new();
    let (id, _) = stamped(&mut t);
    t.inject(seg().data("x"));
    t.expect_nothing();
    assert_eq!((t.recv(id), t.dropped(DropReason::TcpPaws)), (vec![], 1));
    t.inject(rst());
    assert_eq!(t.state(id), State::Closed);
}

#[test]
fn after_24_days_of_silence_an_old_timestamp_says_nothing() {
    // RFC 7323 section 5.5.
    let mut t = Harness::new();
    let (id, ours) = stamped(&mut t);
    t.advance(24 * DAY - SECOND);
    t.inject(seg().data("x").ts(5, ours));
    t.expect(seg());
    assert_eq!(t.recv(id), b"");
    t.advance(5 * SECOND);
    t.inject(seg().data("x").ts(5, ours));
    assert_eq!(t.expect(seg().ack(2)).options.timestamps.unwrap().ecr, 5);
}

#[test]
fn the_echo_is_of_the_segment_that_advanced_the_window() {
    // RFC 7323 section 4.3: the example of segments out of order, and of delayed ACKs.
    let mut t = Harness::new();
    let (_, ours) = stamped(&mut t);
    let ecr = |sent: Sent| sent.options.timestamps.unwrap().ecr;
    t.inject(seg().data("A").ts(1001, ours));
    assert_eq!(ecr(t.expect(seg().ack(2))), 1001);
    t.inject(seg().seq(3).data("C").ts(1003, ours));
    assert_eq!(ecr(t.expect(seg().ack(2))), 1001);
    t.inject(seg().seq(2).data("B").ts(1002, ours));
    assert_eq!(ecr(t.expect(seg().ack(4))), 1002);
    t.inject(seg().seq(5).data("E").ts(1005, ours));
    assert_eq!(ecr(t.expect(seg().ack(4))), 1002);
    t.inject(seg().seq(4).data("D").ts(1004, ours));
    assert_eq!(ecr(t.expect(seg().ack(6))), 1004);
    // The earliest of those acknowledged together.
    t.inject_burst([seg().seq(6).data("F").ts(1006, ours), seg().seq(7).data("G").ts(1007, ours)]);
    assert_eq!(ecr(t.expect(seg().ack(8))), 1006);
}

#[test]
fn a_peer_without_timestamps_gets_none() {
    // RFC 7323 section 3.2.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "x");
    assert_eq!(t.expect(seg().data("x")).options.timestamps, None);
    // And one that sends some all the same is not held to them.
    t.inject(seg().ack(2).data("a").ts(100, 0));
    t.inject(seg().seq(2).ack(2).data("b").ts(1, 0));
    assert_eq!(t.recv(id), b"ab");
}

#[test]
fn our_clock_ticks_in_milliseconds_from_a_secret_offset() {
    // RFC 7323 sections 4.1 and 5.4 and 7.1.
    let mut t = Harness::new();
    let (id, ours) = stamped(&mut t);
    t.advance(1234 * MS);
    t.send(id, "x");
    let later = t.expect(seg().data("x")).options.timestamps.unwrap().val;
    assert_eq!(later.wrapping_sub(ours), 1234);
    assert_ne!(ours, t.now.as_millis() as u32);
}
