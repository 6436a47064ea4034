//! Losses with SACK: what is reported (RFC 2018, RFC 2883), how losses are found (RFC 8985), what is sent meanwhile (RFC 9937),
//! tails (RFC 8985 section 7), and mistakes taken back (RFC 5682, RFC 3522, D-SACK).

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

const RTT: Duration = Duration::from_millis(100);

/// A connection with SACK and an RTT of 100 ms, whose `segments` segments of 1000 bytes are out; its window is ten.
fn with_flight(segments: u32) -> (Harness, ConnId) {
    flight_with(syn().mss(1000).sack_ok(), segments)
}

fn flight_with(syn: Seg, segments: u32) -> (Harness, ConnId) {
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    let ts = syn.options.timestamps;
    t.inject(syn);
    let answer = t.expect(syn_ack());
    t.advance(RTT);
    let mut ack = seg();
    ack.options.timestamps =
        ts.map(|ts| options::Timestamps { val: ts.val + 100, ecr: answer.options.timestamps.unwrap().val });
    t.inject(ack);
    let id = t.accept(listener).unwrap().0;
    t.send(id, pattern(1, segments as usize * 1000));
    assert_eq!(t.wire.sent.len(), segments as usize);
    t.wire.sent.clear();
    (t, id)
}

/// Relative sequence number of the n-th segment.
fn at(n: u32) -> u32 {
    1 + 1000 * n
}

fn sacked(blocks: &[(u32, u32)]) -> Seg {
    seg().sack(&blocks.iter().map(|(from, to)| (at(*from), at(*to))).collect::<Vec<_>>())
}

fn info(t: &Harness, id: ConnId) -> TcpInfo {
    t.tcp.info(t.now, id).unwrap()
}

// ---- telling

#[test]
fn sack_is_offered_and_used_only_if_both_ends_say_so() {
    // RFC 8985 section 4.
    let mut t = Harness::new();
    let id = t.connect_with(SocketOptions::default());
    assert!(t.expect(syn()).options.sack_permitted);
    t.inject(syn_ack());
    t.expect(seg());
    assert!(!info(&t, id).sack);
    t.inject(seg().seq(11).stream(10));
    assert!(t.expect(seg()).options.sack.is_empty());

    let mut t = Harness::new();
    t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().port(1));
    assert!(!t.expect(syn_ack().port(1)).options.sack_permitted);
    t.inject(syn().port(2).sack_ok());
    assert!(t.expect(syn_ack().port(2)).options.sack_permitted);

    let mut t = Harness::with(TcpConfig { sack: false, ..TcpConfig::default() });
    t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().sack_ok());
    assert!(!t.expect(syn_ack()).options.sack_permitted);
}

#[test]
fn blocks_tell_what_arrived_ahead_of_gaps_the_latest_first() {
    // RFC 2018 section 4.
    let mut t = Harness::new();
    t.accept_with(SocketOptions::default(), syn().mss(1000).sack_ok());
    let blocks = |t: &mut Harness, ack: u32| t.expect(seg().ack(ack)).blocks();
    t.inject(seg().seq(101).stream(100));
    assert_eq!(blocks(&mut t, 1), [(101, 201)]);
    t.inject(seg().seq(301).stream(100));
    assert_eq!(blocks(&mut t, 1), [(301, 401), (101, 201)]);
    t.inject(seg().seq(201).stream(50));
    assert_eq!(blocks(&mut t, 1), [(101, 251), (301, 401)]);
    t.inject(seg().seq(1).stream(100));
    assert_eq!(blocks(&mut t, 251), [(301, 401)]);
    t.inject(seg().seq(251).stream(50));
    assert_eq!(blocks(&mut t, 401), []);
}

#[test]
fn a_fin_ahead_of_a_gap_is_told_with_the_text_before_it() {
    // RFC 2018 section 3: blocks are of sequence space, and the FIN takes of it (RFC 9293 section 3.4).
    let mut t = Harness::new();
    t.accept_with(SocketOptions::default(), syn().mss(1000).sack_ok());
    t.inject(fin().seq(101).stream(100));
    assert_eq!(t.expect(seg().ack(1)).blocks(), [(101, 202)]);
    t.inject(seg().stream(100));
    assert_eq!(t.expect(seg().ack(202)).blocks(), []);
}

#[test]
fn what_arrives_twice_is_told_once() {
    // RFC 2883 sections 4.1 to 4.3.
    let mut t = Harness::new();
    t.accept_with(SocketOptions::default(), syn().mss(1000).sack_ok());
    t.inject(seg().stream(100));
    assert_eq!(t.expect(seg().ack(101)).blocks(), []);
    t.inject(seg().stream(100));
    assert_eq!(t.expect(seg().ack(101)).blocks(), [(1, 101)]);
    t.inject(seg().seq(201).stream(100));
    assert_eq!(t.expect(seg().ack(101)).blocks(), [(201, 301)]);
    // Above the cumulative ACK: the block that holds it follows.
    t.inject(seg().seq(201).stream(50));
    assert_eq!(t.expect(seg().ack(101)).blocks(), [(201, 251), (201, 301)]);
    // Half old, half new.
    t.inject(seg().seq(51).stream(100));
    assert_eq!(t.expect(seg().ack(151)).blocks(), [(51, 101), (201, 301)]);
    assert_eq!(t.counters.tcp_dsacks_tx, 3);
}

#[test]
fn blocks_ride_on_data_only_where_there_is_room() {
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1460).sack_ok());
    t.inject(seg().seq(101).stream(100));
    t.expect(seg());
    t.send(id, pattern(1, 1500));
    assert_eq!(t.expect(seg().stream(1460)).blocks(), []);
    assert_eq!(t.expect(seg().seq(1461).stream(40)).blocks(), [(101, 201)]);
}

// ---- finding losses

#[test]
fn three_segments_beyond_show_that_all_before_are_lost() {
    // RFC 8985 section 3.3.2.
    // RFC 8985 section 6.2 step 4: no reordering was seen.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(sacked(&[(2, 3)]));
    t.inject(sacked(&[(2, 3), (5, 6)]));
    t.expect_nothing();
    assert_eq!((info(&t, id).ca_state, info(&t, id).sacked), ("disorder", 2));
    t.inject(sacked(&[(2, 3), (5, 7)]));
    t.expect(seg().stream(1000));
    let now = info(&t, id);
    assert_eq!((now.ca_state, now.lost, now.retrans, now.sacked), ("recovery", 4, 1, 3));
    // PRR: what arrives lets the others go.
    t.inject(sacked(&[(2, 3), (5, 10)]));
    t.expect(seg().seq(at(1)).stream(1000));
    t.expect(seg().seq(at(3)).stream(1000));
    t.inject(sacked(&[(2, 3), (5, 10)]).ack(at(1)));
    t.expect(seg().seq(at(4)).stream(1000));
    t.inject(seg().ack(at(10)));
    let now = info(&t, id);
    assert_eq!((now.ca_state, now.unacked, now.total_retrans), ("open", 0, 4));
    assert_eq!(t.counters.tcp_timeouts, 0);
}

#[test]
fn one_segment_beyond_is_enough_after_the_reordering_window() {
    // RFC 8985 section 6.2.
    // RFC 8985 section 6.2 step 5: a quarter of the smallest RTT.
    let (mut t, _) = with_flight(2);
    t.advance(RTT);
    t.inject(sacked(&[(1, 2)]));
    t.expect_after(25 * MS, seg().stream(1000));
    assert_eq!(t.counters.tcp_timeouts, 0);
}

#[test]
fn a_retransmission_is_not_lost_because_what_went_just_before_it_arrives() {
    // RFC 8985 section 6.2 step 5, where the clock does not tell which of the two went first.
    let (mut t, id) = with_flight(8);
    t.send(id, pattern(at(8), 8000));
    t.wire.sent.clear();
    t.advance(RTT);
    // Limited transmit sends two more, and then the first goes again, all at one instant.
    for to in 2..=4 {
        t.inject(sacked(&[(1, to)]));
    }
    assert_eq!((t.wire.sent.len(), info(&t, id).total_retrans), (3, 1));
    t.advance(RTT);
    t.inject(sacked(&[(1, 12)]));
    t.inject(seg().ack(at(12)));
    assert_eq!((info(&t, id).total_retrans, t.counters.tcp_timeouts), (1, 0));
}

#[test]
fn a_lost_retransmission_is_found_without_a_timeout() {
    // RFC 8985 section 9.3.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(sacked(&[(1, 4)]));
    t.expect(seg().stream(1000));
    t.inject(sacked(&[(1, 10)]));
    t.send(id, pattern(at(10), 10_000));
    let new = t.wire.sent.drain(..).count() as u32;
    assert!(new >= 1);
    // What was sent after the retransmission arrives, and that does not.
    t.advance(RTT);
    t.inject(sacked(&[(1, 10 + new)]));
    t.expect(seg().stream(1000));
    assert_eq!((t.counters.tcp_timeouts, info(&t, id).ca_state), (0, "recovery"));
}

#[test]
fn reordering_is_not_taken_for_loss() {
    // RFC 8985 section 9.2.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(sacked(&[(1, 2)]));
    t.advance(10 * MS);
    t.inject(seg().ack(at(2)));
    t.expect_silence(30 * MS);
    let now = info(&t, id);
    assert_eq!((now.reord_seen, now.ca_state, now.lost), (1, "open", 0));
    // From now on three segments beyond are no proof: time is.
    t.inject(sacked(&[(3, 4)]).ack(at(2)));
    t.inject(sacked(&[(3, 8)]).ack(at(2)));
    t.expect_nothing();
    t.advance(40 * MS);
    t.expect(seg().seq(at(2)).stream(1000));
}

#[test]
fn what_one_ack_tells_of_is_no_reordering() {
    // RFC 8985 section 6.2 step 3: in ascending order. The first segment was not acknowledged before a gap opened, and of the
    // blocks the latest is first.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(sacked(&[(5, 6), (3, 4)]).ack(at(1)));
    assert_eq!((info(&t, id).reord_seen, info(&t, id).reordering), (0, 3));
    t.inject(sacked(&[(2, 4), (5, 6)]).ack(at(1)));
    assert_eq!((info(&t, id).reord_seen, info(&t, id).reordering), (1, 4));
}

/// A connection that knows of reordering and has sent segments 4, 5 and 6 and, 60 ms later, 7. Another 100 ms have passed: a
/// queue of 60 ms has emptied, 4 to 6 take 160 ms and 7 the usual 100.
fn behind_an_emptied_queue() -> (Harness, ConnId) {
    let (mut t, id) = with_flight(4);
    t.advance(RTT);
    t.inject(sacked(&[(1, 2)]));
    t.inject(seg().ack(at(4)));
    assert_eq!((info(&t, id).reord_seen, info(&t, id).ca_state), (1, "open"));
    t.send(id, pattern(at(4), 3000));
    t.advance(60 * MS);
    t.send(id, pattern(at(7), 1000));
    t.advance(RTT);
    t.wire.sent.clear();
    (t, id)
}

#[test]
fn settling_time_counts_from_the_arrival_of_what_was_sent_before() {
    // RFC 8985 section 6.2 step 5 by itself would have segment 5 overdue by 35 ms when its predecessor arrives.
    let (mut t, _) = behind_an_emptied_queue();
    t.inject(seg().ack(at(5)));
    t.advance(MS);
    t.inject(sacked(&[(6, 8)]).ack(at(5)));
    t.expect_nothing();
    t.expect_after(24 * MS, seg().seq(at(5)).stream(1000));
}

#[test]
fn the_arrival_of_what_was_sent_before_may_be_known_by_sack() {
    let (mut t, _) = behind_an_emptied_queue();
    t.inject(sacked(&[(5, 6)]).ack(at(4)));
    t.advance(MS);
    t.inject(sacked(&[(5, 6), (7, 8)]).ack(at(4)));
    // What was sent before segment 4 had arrived before that was sent.
    t.expect(seg().seq(at(4)).stream(1000));
    t.expect_nothing();
    t.expect_after(24 * MS, seg().seq(at(6)).stream(1000));
}

#[test]
fn slow_start_goes_on_where_the_path_is_known_to_reorder() {
    // RFC 5681 section 3.1 counts what ACKs cover; Linux counts SACKs then, and what they told of only once.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(sacked(&[(5, 6)]));
    t.inject(sacked(&[(5, 6)]).ack(at(1)));
    t.inject(seg().ack(at(6)));
    let before = info(&t, id);
    assert_eq!((before.reordering, before.snd_cwnd), (6, 15));
    t.inject(sacked(&[(7, 10)]).ack(at(6)));
    assert_eq!(info(&t, id).snd_cwnd, 18);
    t.inject(seg().ack(at(10)));
    assert_eq!(info(&t, id).snd_cwnd, 19);
}

#[test]
fn retransmissions_that_were_not_needed_widen_the_reordering_window() {
    // RFC 8985 section 3.3.2.
    // RFC 8985 section 6.2 step 4: D-SACK.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(sacked(&[(1, 4)]));
    t.expect(seg().stream(1000));
    t.advance(10 * MS);
    t.inject(seg().ack(at(4)));
    assert_eq!(info(&t, id).ca_state, "recovery");
    t.advance(90 * MS);
    t.inject(seg().ack(at(10)).sack(&[(1, 1001)]));
    let now = info(&t, id);
    assert_eq!((now.dsack_dups, now.ca_state, now.snd_cwnd), (1, "open", 10));
    assert_eq!(t.counters.tcp_undos, 1);
    // Three segments beyond are not enough any more: twice a quarter of min_rtt passes first.
    t.send(id, pattern(at(10), 10_000));
    t.wire.sent.clear();
    t.advance(RTT);
    t.inject(sacked(&[(11, 14)]).ack(at(10)));
    t.expect_nothing();
    t.expect_after(50 * MS, seg().seq(at(10)).stream(1000));
}

#[test]
fn blocks_outside_what_was_sent_are_ignored() {
    let (mut t, id) = with_flight(10);
    for (from, to) in [(at(10), at(12)), (at(9), at(11)), (5000, 4000), (u32::MAX - 5000, u32::MAX - 100)] {
        t.inject(seg().sack(&[(from, to)]));
    }
    assert_eq!((info(&t, id).sacked, info(&t, id).dsack_dups), (0, 0));
    t.expect_nothing();
}

// ---- tails

#[test]
fn a_lost_tail_is_probed_after_two_round_trips_and_repaired() {
    // RFC 8985 section 7: no timeout.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(seg().ack(at(7)));
    t.expect_after(202 * MS, seg().seq(at(9)).stream(1000));
    assert_eq!(t.counters.tcp_tail_probes, 1);
    t.advance(RTT);
    t.inject(sacked(&[(9, 10)]).ack(at(7)));
    t.expect(seg().seq(at(7)).stream(1000));
    t.inject(sacked(&[(9, 10)]).ack(at(8)));
    t.expect(seg().seq(at(8)).stream(1000));
    t.inject(seg().ack(at(10)));
    assert_eq!((t.counters.tcp_timeouts, info(&t, id).ca_state), (0, "open"));
}

#[test]
fn a_probe_that_is_sacked_shows_losses_although_the_echo_is_older() {
    // RFC 8985 section 6.2 step 2; the receiver echoes what came in order last (RFC 7323 section 4.3).
    let (mut t, id) = flight_with(syn().mss(1012).sack_ok().ts(1000, 0), 10);
    let sent_ts = t.tcp.tables.connections.get(id.index).unwrap().ts_now(t.now);
    t.advance(RTT);
    t.inject(seg().ack(at(7)).ts(1200, sent_ts));
    t.expect_after(202 * MS, seg().seq(at(9)).stream(1000));
    t.advance(RTT);
    t.inject(sacked(&[(9, 10)]).ack(at(7)).ts(1502, sent_ts));
    t.expect(seg().seq(at(7)).stream(1000));
    assert_eq!((t.counters.tcp_timeouts, info(&t, id).ca_state), (0, "recovery"));
}

#[test]
fn a_single_segment_waits_for_a_delayed_ack_before_it_is_probed() {
    // RFC 8985 section 7.2.
    let (mut t, _) = with_flight(1);
    // SRTT + 200 ms is the RTO, 2 SRTT + 200 ms the probe's: the probe goes at the RTO (section 7.2).
    t.expect_after(300 * MS, seg().stream(1000));
    assert_eq!((t.counters.tcp_tail_probes, t.counters.tcp_timeouts), (1, 0));
    // Then the timeout remains, counted from the probe.
    t.expect_after(300 * MS, seg().stream(1000));
    assert_eq!((t.counters.tcp_tail_probes, t.counters.tcp_timeouts), (1, 1));
}

#[test]
fn new_data_is_the_probe_where_there_is_some() {
    // RFC 8985 section 7.3.
    let (mut t, id) = with_flight(10);
    // The window is full.
    t.send(id, pattern(at(10), 3000));
    t.expect_nothing();
    t.expect_after(202 * MS, seg().seq(at(10)).stream(1000));
    t.expect_nothing();
}

#[test]
fn a_probe_that_repaired_the_loss_counts_as_congestion() {
    // RFC 8985 section 7.4.2.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(seg().ack(at(9)));
    t.expect_after(300 * MS, seg().seq(at(9)).stream(1000));
    t.inject(seg().ack(at(10)));
    let before = info(&t, id).snd_cwnd;
    t.send(id, pattern(at(10), 1000));
    t.wire.sent.clear();
    t.inject(seg().ack(at(11)));
    assert!(info(&t, id).snd_cwnd < before && info(&t, id).ca_state == "open");

    // Not if the peer had got it: D-SACK says so.
    let (mut t, id) = with_flight(10);
    t.advance(RTT);
    t.inject(seg().ack(at(9)));
    t.expect_after(300 * MS, seg().seq(at(9)).stream(1000));
    t.inject(seg().ack(at(10)));
    t.inject(seg().ack(at(10)).sack(&[(at(9), at(10))]));
    let before = info(&t, id).snd_cwnd;
    t.send(id, pattern(at(10), 1000));
    t.inject(seg().ack(at(11)));
    assert_eq!(info(&t, id).snd_cwnd, before);
}

// ---- mistakes

#[test]
fn a_recovery_by_mistake_is_taken_back_by_timestamps() {
    // RFC 3522: the ACK echoes what was sent before the retransmission.
    let (mut t, id) = flight_with(syn().mss(1012).sack_ok().ts(1000, 0), 10);
    let sent_ts = t.tcp.tables.connections.get(id.index).unwrap().ts_now(t.now);
    t.advance(RTT);
    t.inject(sacked(&[(1, 4)]).ts(1200, sent_ts));
    assert!(t.expect(seg().stream(1000)).options.timestamps.unwrap().val > sent_ts);
    assert_eq!(info(&t, id).ca_state, "recovery");
    t.advance(5 * MS);
    t.inject(seg().ack(at(10)).ts(1205, sent_ts));
    let now = info(&t, id);
    assert_eq!((now.ca_state, now.snd_cwnd, t.counters.tcp_undos), ("open", 10, 1));
    assert_eq!(now.snd_ssthresh, u32::MAX);
}

#[test]
fn a_timeout_by_mistake_is_found_by_what_arrives_after_it() {
    // RFC 5682 section 3.
    let (mut t, id) = with_flight(10);
    t.advance(202 * MS);
    t.wire.sent.clear();
    t.advance(400 * MS);
    t.expect(seg().stream(1000));
    assert_eq!((info(&t, id).ca_state, t.counters.tcp_timeouts), ("loss", 1));
    // The delayed ACKs of the first transmissions come in.
    t.inject(seg().ack(at(2)));
    // The probed tail is still out.
    assert_eq!((info(&t, id).ca_state, t.counters.tcp_undos), ("disorder", 1));
    assert!(info(&t, id).snd_cwnd >= 10 && info(&t, id).lost == 0);
}

#[test]
fn after_a_real_timeout_new_data_tries_the_path_and_the_rest_follows() {
    let (mut t, id) = with_flight(10);
    t.send(id, pattern(at(10), 10_000));
    // The probe of the tail, a new segment, is lost too.
    t.advance(202 * MS);
    t.expect(seg().seq(at(10)).stream(1000));
    t.advance(400 * MS);
    t.expect(seg().stream(1000));
    t.inject(seg().ack(at(1)));
    // Step 2b: new data.
    t.expect(seg().seq(at(11)).stream(1000));
    t.expect(seg().seq(at(12)).stream(1000));
    t.expect_nothing();
    // Step 3a: it arrives, nothing before it did.
    t.advance(RTT);
    t.inject(sacked(&[(11, 12)]).ack(at(1)));
    t.expect(seg().seq(at(1)).stream(1000));
    assert_eq!(info(&t, id).ca_state, "loss");
}

#[test]
fn a_peer_that_drops_what_it_reported_gets_it_again() {
    // RFC 2018 section 8.
    let (mut t, id) = with_flight(4);
    t.advance(RTT);
    t.inject(sacked(&[(1, 3)]));
    t.inject(sacked(&[(1, 3)]).ack(at(1)));
    // The segment behind the ACK was reported.
    t.advance(60 * MS);
    assert_eq!(t.counters.tcp_sack_reneging, 1);
    assert_eq!(info(&t, id).sacked, 0);
    t.inject(seg().ack(at(2)));
    t.inject(seg().ack(at(3)));
    t.inject(seg().ack(at(4)));
    assert_eq!((info(&t, id).ca_state, info(&t, id).unacked), ("open", 0));
}

// ---- how much meanwhile

#[test]
fn many_small_segments_are_sent_again_as_few() {
    let mut t = Harness::new();
    let id =
        t.accept_with(SocketOptions { nodelay: true, ..SocketOptions::default() }, syn().mss(1000).sack_ok());
    for n in 0..5 {
        t.send(id, pattern(1 + 100 * n, 100));
    }
    t.wire.sent.clear();
    t.advance(100 * MS);
    t.wire.sent.clear();
    t.advance(250 * MS);
    t.expect(seg().stream(500));
}

#[test]
fn an_original_that_a_timestamp_shows_to_be_late_is_a_lesson_about_reordering() {
    // RFC 8985 section 6.2 step 4: with reordering seen, three SACKed segments are no proof of a loss any more.
    let (mut t, id) = flight_with(syn().mss(1012).sack_ok().ts(500, 0), 6);
    let echo = t.tcp.tables.connections.get(id.index).unwrap().ts_now(t.now);
    t.advance(RTT);
    t.inject(sacked(&[(1, 4)]).ts(700, echo));
    t.expect(seg().stream(1000));
    t.wire.sent.clear();
    // The original arrives: the ACK echoes its timestamp.
    t.advance(10 * MS);
    t.inject(seg().ack(at(4)).ts(710, echo));
    assert_eq!(t.counters.tcp_undos, 1);
    t.send(id, pattern(at(6), 6000));
    t.wire.sent.clear();
    t.advance(RTT);
    t.inject(seg().ack(at(6)).sack(&[(at(7), at(10))]).ts(820, echo));
    t.expect_nothing();
}
