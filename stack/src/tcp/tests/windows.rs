//! Flow control: RFC 9293 section 3.8.6, closed windows and their probes, silly windows on both sides, memory.

use core::task::{Poll, Waker};

use super::super::testing::*;
use super::super::*;
use crate::counters::DropReason;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn small_buffer(receive_buffer_bytes: usize) -> SocketOptions {
    SocketOptions { receive_buffer_bytes, ..SocketOptions::default() }
}

// ---- the peer's window

#[test]
fn reading_tells_of_a_wider_window_only_where_it_made_it_wider() {
    // RFC 9293 section 3.8.6.2.2.
    let mut t = Harness::new();
    let id = t.accept_with(
        SocketOptions { receive_buffer_bytes: 4 << 20, ..SocketOptions::default() },
        syn().mss(1000).wscale(7),
    );
    t.inject(seg().stream(100));
    t.advance(50 * MS);
    t.wire.sent.clear();
    // The window was as wide before: only the SYN,ACK could not say so.
    assert_eq!(t.recv(id).len(), 100);
    t.expect_nothing();
}

#[test]
fn no_more_is_sent_than_the_window_takes() {
    // RFC 7323 section 2.4.
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(2500));
    t.send(id, pattern(1, 5000));
    t.expect(seg().stream(1000));
    t.expect(seg().seq(1001).stream(1000));
    // 500 bytes would fit: silly (section 3.8.6.2.1), while an ACK may come.
    t.expect_nothing();
    t.inject(seg().ack(1001).window(2500));
    t.expect(seg().seq(2001).stream(1000));
    t.expect_nothing();
}

#[test]
fn a_window_below_a_segment_is_used_after_the_override_timeout() {
    // RFC 9293 section 3.8.6.2.1, MUST-38.
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(300));
    t.send(id, pattern(1, 5000));
    t.expect_nothing();
    t.expect_after(200 * MS, seg().stream(300));
    t.inject(seg().ack(301).window(300));
    t.expect_after(200 * MS, seg().seq(301).stream(300));
}

#[test]
fn half_of_the_largest_window_is_worth_a_segment() {
    // RFC 9293 section 3.8.6.2.1, MUST-38.
    let mut t = Harness::new();
    t.tcp.listen(t.local, 4, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1000).window(600));
    t.inject(seg().window(600));
    t.wire.sent.clear();
    let (id, ..) = t.tcp.connections().next().unwrap();
    t.send(id, pattern(1, 1000));
    t.expect(seg().stream(600));
}

#[test]
fn a_closed_window_is_probed_for_ever() {
    // RFC 9293 section 3.8.6.1, MUST-35, MUST-36, SHLD-29, SHLD-30.
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(0));
    t.send(id, pattern(1, 3000));
    t.expect_nothing();
    for wait in [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 102_400, 120_000, 120_000] {
        t.expect_after(wait * MS, seg().seq(0));
        t.inject(seg().window(0));
        t.expect_nothing();
    }
    // MUST-37: as long as the peer answers.
    for _ in 0..100 {
        t.expect_after(120 * SECOND, seg().seq(0));
        t.inject(seg().window(0));
    }
    assert_eq!((t.state(id), t.counters.tcp_zero_window_probes), (State::Established, 112));
    t.inject(seg().window(5000));
    t.expect(seg().stream(1000));
    t.expect(seg().seq(1001).stream(1000));
    t.expect(seg().seq(2001).stream(1000));
}

#[test]
fn a_window_that_opens_by_itself_takes_all_that_waits() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(0));
    t.send(id, pattern(1, 2000));
    t.expect_after(200 * MS, seg().seq(0));
    t.inject(seg().window(9000));
    t.expect(seg().stream(1000));
    t.expect(seg().seq(1001).stream(1000));
    t.inject(seg().ack(2001));
    // The next closed window is probed as soon as the first was.
    t.inject(seg().ack(2001).window(0));
    t.send(id, pattern(2001, 10));
    t.expect_after(200 * MS, seg().seq(2000));
}

#[test]
fn a_lone_fin_waits_for_the_window_and_probes_it() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(0));
    t.shutdown(id, Shutdown::Write);
    t.expect_nothing();
    t.expect_after(200 * MS, seg().seq(0));
    t.inject(seg().window(0));
    t.inject(seg().window(10));
    t.expect(fin());
    t.inject(seg().ack(2).window(10));
    assert_eq!(t.state(id), State::FinWait2);
}

#[test]
fn a_fin_does_not_go_beyond_the_window() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(3));
    t.send(id, "abc");
    t.expect(seg().data("abc"));
    t.shutdown(id, Shutdown::Write);
    t.expect_nothing();
    t.inject(seg().ack(4).window(1));
    t.expect(fin().seq(4));
}

#[test]
fn a_silent_peer_with_a_closed_window_is_given_up() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().window(0));
    t.send(id, "x");
    t.advance(920 * SECOND);
    assert_eq!(t.state(id), State::Established);
    t.advance(130 * SECOND);
    assert_eq!((t.state(id), t.end(id)), (State::Closed, Some(Err(TcpError::TimedOut))));
}

#[test]
fn the_user_timeout_holds_for_a_closed_window_too() {
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.user_timeout = Some(10 * SECOND));
    t.inject(seg().window(0));
    t.send(id, "x");
    for _ in 0..9 {
        t.advance(SECOND);
        t.inject(seg().window(0));
    }
    assert_eq!(t.state(id), State::Established);
    t.advance(2 * SECOND);
    assert_eq!(t.end(id), Some(Err(TcpError::TimedOut)));
}

#[test]
fn a_window_that_was_taken_back_stops_new_data_and_not_the_old() {
    // RFC 9293 section 3.8.6, SHLD-17.
    // RFC 9293 section 3.8.6: MUST-34, SHLD-15, SHLD-16.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, pattern(1, 3000));
    (0..3).for_each(|n| drop(t.expect(seg().seq(1 + 1000 * n).stream(1000))));
    t.inject(seg().seq(1).data("w").window(500));
    t.expect(seg().seq(501).ack(2));
    t.send(id, pattern(3001, 1000));
    t.expect_nothing();
    t.expect_after(200 * MS, seg().ack(2).stream(1000));
    // Part of it is taken, then the window closes: what is outstanding probes it (MAY-7).
    t.inject(seg().seq(2).ack(501).window(0));
    t.expect_after(400 * MS, seg().seq(501).ack(2).stream(500));
    // It opens again: the rest follows without waiting for a timer.
    t.inject(seg().seq(2).ack(1001).window(9000));
    t.expect(seg().seq(1001).ack(2).stream(1000));
    t.inject(seg().seq(2).ack(2001).window(9000));
    t.expect(seg().seq(2001).ack(2).stream(1000));
    assert_eq!(t.state(id), State::Established);
}

#[test]
fn acks_are_acceptable_to_a_peer_whose_window_is_closed() {
    // RFC 9293 appendix A.2: the window closed behind SND.NXT, and both windows are closed.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "x");
    t.expect(seg().data("x"));
    t.inject(seg().window(0));
    t.inject(seg().seq(0).window(0));
    t.expect(seg());
}

// ---- buffers that grow

/// The peer sends all that our window takes, a round trip of 50 ms at a time; we read `read` bytes in each.
fn windows_of_a_reader(options: SocketOptions, rounds: usize, read: usize) -> Vec<u32> {
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 16, options).unwrap();
    t.inject(syn().mss(1460).wscale(7));
    let shift = t.expect(syn_ack()).options.window_scale.unwrap();
    t.advance(50 * MS);
    t.inject(seg());
    let id = t.accept(listener).unwrap().0;
    let (mut next, mut edge, mut windows) = (1u32, 65_535u32, Vec::new());
    for _ in 0..rounds {
        // What it learned a round trip ago.
        let known = edge;
        while next + 1460 <= known {
            t.inject(seg().seq(next).stream(1460));
            next += 1460;
            t.recv_up_to(id, read.min(1460));
            for sent in t.wire.sent.drain(..) {
                let right = sent.ack + (u32::from(sent.window) << shift);
                assert!(right >= edge, "the window shrinks: {right} {edge}");
                edge = right;
            }
        }
        t.advance(50 * MS);
        windows.push(t.tcp.info(t.now, id).unwrap().rcv_ssthresh);
    }
    windows
}

#[test]
fn the_receive_buffer_follows_what_is_read_in_a_round_trip() {
    let windows = windows_of_a_reader(SocketOptions::default(), 12, usize::MAX);
    assert!(windows.is_sorted() && windows[0] < 200_000, "{windows:?}");
    // It is never what limits the peer twice, and ends at the bound: three quarters of 6 MiB.
    assert_eq!(*windows.last().unwrap(), 9 << 19, "{windows:?}");
}

#[test]
fn a_slow_reader_keeps_its_buffer_small() {
    let windows = windows_of_a_reader(SocketOptions::default(), 12, 10);
    assert_eq!(*windows.last().unwrap(), 192 << 10);
}

#[test]
fn a_buffer_that_was_chosen_stays() {
    let options = SocketOptions { receive_buffer_bytes: 128 << 10, ..SocketOptions::default() };
    assert_eq!(*windows_of_a_reader(options, 12, usize::MAX).last().unwrap(), 96 << 10);
}

#[test]
fn the_send_buffer_grows_with_the_congestion_window() {
    let automatic = SocketOptions::default();
    assert_eq!(automatic.send_buffer_for(14_600), 256 << 10);
    assert_eq!(automatic.send_buffer_for(1 << 20), 2 << 20);
    assert_eq!(automatic.send_buffer_for(1 << 30), 4 << 20);
    let chosen = SocketOptions { send_buffer_bytes: 9000, ..automatic };
    assert_eq!(chosen.send_buffer_for(1 << 30), 9000);
}

// ---- our window

#[test]
fn the_window_closes_with_the_buffer_and_never_shrinks() {
    // RFC 9293 section 3.8.6.2.2, MUST-39; RFC 9293 section 3.8.6, SHLD-14; RFC 9293 section 3.8.6.1, MAY-8.
    let mut t = Harness::new();
    let id = t.accept_with(small_buffer(8192), syn().mss(1000));
    let mut edge = 4097;
    for n in 0..4 {
        t.inject(seg().seq(1 + 1000 * n).stream(1000));
        let ack = t.wire.sent.pop_front().unwrap();
        assert!(ack.ack + u32::from(ack.window) >= edge);
        edge = ack.ack + u32::from(ack.window);
    }
    assert_eq!(edge, 4097);
    t.inject(seg().seq(4001).stream(1000));
    t.expect(seg().ack(4097).window(0));
    // The peer probes: nothing is taken, everything is answered.
    for _ in 0..20 {
        t.inject(seg().seq(4097).stream(1));
        t.expect(seg().ack(4097).window(0));
    }
    t.inject(seg().seq(4096));
    t.expect(seg().ack(4097).window(0));
    assert!(t.dropped(DropReason::TcpReceiveBufferFull) >= 20);
    // A little room is not worth telling (section 3.8.6.2.2), a segment is.
    assert_eq!(t.recv_up_to(id, 900).len(), 900);
    t.expect_silence(10 * SECOND);
    t.inject(seg().seq(4097).stream(1));
    t.expect(seg().ack(4097).window(0));
    assert_eq!(t.recv_up_to(id, 200).len(), 200);
    t.expect(seg().ack(4097).window(1100));
    t.inject(seg().seq(4097).stream(1100));
    t.expect(seg().ack(5197).window(0));
    assert_eq!(t.recv(id).len(), 2996 + 1100);
}

#[test]
fn a_closed_window_takes_acks_all_the_same() {
    let mut t = Harness::new();
    let id = t.accept_with(small_buffer(4096), syn().mss(1000));
    t.inject(seg().stream(2048));
    t.expect(seg().ack(2049).window(0));
    t.send(id, "abc");
    t.expect(seg().ack(2049).data("abc"));
    // With payload that finds no room: the ACK counts.
    t.inject(seg().seq(2049).ack(4).stream(100));
    t.expect(seg().seq(4).ack(2049).window(0));
    t.expect_silence(10 * SECOND);
    assert_eq!(t.tcp.info(t.now, id).unwrap().unacked, 0);
}

#[test]
fn reading_a_chunk_opens_the_window_as_well() {
    let mut t = Harness::new();
    let id = t.accept_with(small_buffer(4096), syn().mss(1000));
    t.inject(seg().stream(2048));
    t.expect(seg().ack(2049).window(0));
    let mut read = 0;
    while let Poll::Ready(Ok(Some(chunk))) = t.tcp.poll_recv_chunk(t.now, id, Waker::noop()) {
        assert_eq!(&chunk[..], pattern(1 + read, chunk.len()));
        read += chunk.len() as u32;
    }
    assert_eq!(read, 2048);
    t.transmit();
    let update = t.wire.sent.pop_back().unwrap();
    assert!(update.window >= 1000);
}

#[test]
fn scaled_windows_do_not_shrink_by_rounding() {
    // RFC 7323 section 2.3.
    // RFC 7323 section 2.4.
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions { receive_buffer_bytes: 16 << 20, ..SocketOptions::default() }, {
        syn().mss(1000).wscale(0)
    });
    let scale = t.tcp.info(t.now, id).unwrap().rcv_wscale;
    assert_eq!(scale, 8);
    let (mut seq, mut edge) = (1, 0);
    for n in 0..2000u32 {
        let len = 1 + n % 700;
        t.inject(seg().seq(seq).stream(len as usize));
        seq += len;
        while let Some(ack) = t.wire.sent.pop_front() {
            let new_edge = ack.ack + (u32::from(ack.window) << scale);
            assert!(new_edge >= edge, "{new_edge} after {edge}");
            edge = new_edge;
        }
        if n % 64 == 0 {
            t.recv(id);
        }
    }
}

#[test]
fn a_smaller_receive_buffer_takes_no_window_back() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("x"));
    let before = t.expect(seg().ack(2)).window;
    t.set(id, |options| options.receive_buffer_bytes = 4096);
    t.inject(seg().seq(2).data("y"));
    assert_eq!(t.expect(seg().ack(3)).window, before - 1);
}

// ---- memory

#[test]
fn out_of_order_data_is_kept_and_costs_frames_only_while_it_waits() {
    // RFC 9293 section 3.10.7.4, SHLD-31.
    let mut t = Harness::new();
    let id = t.established();
    for n in (1..40).rev() {
        t.inject(seg().seq(1 + 1000 * n).stream(1000));
    }
    assert_eq!(t.wire.sent.len(), 39);
    assert!(t.wire.sent.iter().all(|sent| sent.ack == 1));
    t.wire.sent.clear();
    t.inject(seg().stream(1000));
    t.expect(seg().ack(40_001));
    assert_eq!(t.recv(id), pattern(1, 40_000));
    assert_eq!((t.tcp.census().buffered_bytes, t.pool.free_frames()), (0, 1024));
}

#[test]
fn a_low_pool_gets_its_frames_back_at_once() {
    let mut t = Harness::new();
    let id = t.established();
    let hoard: Vec<_> =
        (0..300).flat_map(|_| Packet::copy_from(&t.pool, &[0; 100]).unwrap().into_slices(0..100)).collect();
    t.inject(seg().stream(1000));
    assert_eq!(t.pool.free_frames(), 1024 - 300);
    assert_eq!(t.recv(id), pattern(1, 1000));
    drop(hoard);
}

#[test]
fn under_pressure_everyone_still_makes_progress() {
    let mut t = Harness::with(TcpConfig { buffered_bytes_max: 1, ..TcpConfig::default() });
    let id = t.established();
    let mut sent = 0;
    let first = t.tcp.poll_send(t.now, id, &pattern(1, 100_000), Waker::noop());
    let Poll::Ready(Ok(len)) = first else { panic!("{first:?}") };
    sent += len;
    let second = t.tcp.poll_send(t.now, id, &[0; 100_000], Waker::noop());
    assert!(second.is_pending(), "{second:?}");
    assert!(sent <= 100_000);
    let mut seq = 1;
    for _ in 0..100 {
        t.inject(seg().seq(seq).stream(1000));
        seq = t.wire.sent.back().unwrap().ack;
    }
    // No more than the bound for hard times, and what was acknowledged is there.
    assert!(seq > 1000 && seq <= 16_385, "{seq}");
    assert_eq!(t.recv(id), pattern(1, seq as usize - 1));
}

#[test]
fn a_full_send_buffer_makes_the_writer_wait_until_a_third_is_free() {
    let mut t = Harness::new();
    let id = t.established();
    t.set(id, |options| options.send_buffer_bytes = 3000);
    let (wakes, waker) = Wakes::new();
    assert_eq!(t.tcp.poll_send(t.now, id, &pattern(1, 5000), &waker), Poll::Ready(Ok(3000)));
    t.transmit();
    assert!(t.tcp.poll_send(t.now, id, &[0], &waker).is_pending());
    t.inject(seg().ack(501));
    assert_eq!(wakes.count(), 0);
    t.inject(seg().ack(1001));
    assert_eq!(wakes.count(), 1);
    assert_eq!(t.tcp.poll_send(t.now, id, &pattern(3001, 5000), &waker), Poll::Ready(Ok(1000)));
}

#[test]
fn an_idle_connection_costs_less_than_a_kibibyte() {
    use super::super::connections::Connections;
    // Place and hash, in a table half of which may be free.
    let table = 2 * 2 * size_of::<u32>();
    let timer = 48;
    let total = Connections::place_bytes() + table + timer;
    assert!(total <= 1024, "{total}");
    // And nothing besides: no buffer is allocated while it is empty.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "ping");
    t.inject(seg().ack(5).data("pong"));
    t.recv(id);
    t.advance(SECOND);
    assert_eq!((t.tcp.census().buffered_bytes, t.pool.free_frames()), (0, 1024));
}
