//! Accurate ECN (RFC 9768) on the whole engine: the negotiation of table 2 on both sides, what handshake packets tell
//! of each other, counters and options of a transfer, paths that mangle.

use super::super::options::AccurateEcn;
use super::super::testing::*;
use super::super::*;
use crate::time::Duration;
use header::Flags;

const CLASSIC: Flags = Flags::CWR.union(Flags::ECE);
const ASK: Flags = CLASSIC.union(Flags::AE);
const ECT0: u8 = 2;
const CE: u8 = 3;

/// The three flags as a number.
fn ace(value: u16) -> Flags {
    Flags(value << 6)
}

fn accurate() -> Harness {
    Harness::with(TcpConfig { ecn: EcnConfig::ACCURATE, ..TcpConfig::default() })
}

fn info(t: &Harness, id: ConnId) -> TcpInfo {
    t.tcp.info(t.now, id).unwrap()
}

fn option(counters: &[u32]) -> Option<AccurateEcn> {
    Some(AccurateEcn::new(false, counters))
}

/// The option with all counters, as we send it.
fn whole(e0b: u32, ceb: u32, e1b: u32) -> Option<AccurateEcn> {
    Some(AccurateEcn::new(true, &[e1b, ceb, e0b]))
}

fn told(segment: Seg, counters: &[u32]) -> Seg {
    let mut segment = segment;
    segment.options.accurate_ecn = option(counters);
    segment
}

/// A listener's connection whose handshake had nothing odd.
fn accepted() -> (Harness, ConnId) {
    let mut t = accurate();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1000).sack_ok().with(ASK));
    let answer = t.expect(syn_ack().with(ace(0b010)));
    assert_eq!(answer.options.accurate_ecn, whole(1, 0, 1));
    t.inject(told(seg().with(ace(0b010)), &[1, 0, 1]));
    let id = t.accept(listener).unwrap().0;
    assert_eq!(info(&t, id).ecn, EcnMode::Accurate);
    (t, id)
}

/// Our own connection, the same.
fn connected() -> (Harness, ConnId) {
    let mut t = accurate();
    let id = t.connect_with(SocketOptions::default());
    t.expect(syn().with(ASK));
    t.inject(told(syn_ack().mss(1000).with(ace(0b010)), &[1, 0, 1]));
    let ack = t.expect(seg().with(ace(0b010)));
    assert_eq!((ack.options.accurate_ecn, ack.ecn), (whole(1, 0, 1), 0));
    (t, id)
}

// ---- section 3.1

#[test]
fn every_answer_to_our_syn_leads_to_the_mode_of_table_2() {
    for (answer, mode, may_send) in [
        (0b010, EcnMode::Accurate, true),
        // The SYN was not ECN-capable when it left: section 3.2.2.3.
        (0b011, EcnMode::Accurate, false),
        (0b100, EcnMode::Accurate, false),
        (0b110, EcnMode::Accurate, false),
        (0b101, EcnMode::Accurate, true),
        (0b001, EcnMode::Classic, true),
        (0b000, EcnMode::Off, false),
        (0b111, EcnMode::Off, false),
    ] {
        let mut t = accurate();
        let id = t.connect_with(SocketOptions::default());
        t.expect(syn().with(ASK));
        t.inject(syn_ack().with(ace(answer)));
        t.wire.sent.clear();
        t.send(id, "x");
        let sent = t.wire.sent.pop_front().unwrap();
        let expected = if may_send { ECT0 } else { 0 };
        assert_eq!((info(&t, id).ecn, sent.ecn), (mode, expected), "{answer:03b}");
        // A mark of the SYN asks for less at once (section 3.2.2.2).
        assert_eq!(t.counters.tcp_ecn_reductions, u64::from(answer == 0b110));
    }
}

#[test]
fn every_syn_is_answered_as_table_2_has_it_and_tells_how_it_arrived() {
    for (asked, ecn, answer, mode) in [
        (0b111, 0, 0b010, EcnMode::Accurate),
        (0b111, 1, 0b011, EcnMode::Accurate),
        (0b111, 2, 0b100, EcnMode::Accurate),
        (0b111, 3, 0b110, EcnMode::Accurate),
        // Section 3.1.3.
        (0b100, 0, 0b010, EcnMode::Accurate),
        (0b011, 0, 0b001, EcnMode::Classic),
        (0b000, 0, 0b000, EcnMode::Off),
    ] {
        let mut t = accurate();
        let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
        t.inject(syn().with(ace(asked)).ecn(ecn));
        assert_eq!(t.expect(syn_ack().with(ace(answer))).ecn, 0);
        t.inject(seg().with(ace(if mode == EcnMode::Accurate { 0b010 } else { 0 })));
        let id = t.accept(listener).unwrap().0;
        assert_eq!(info(&t, id).ecn, mode, "{asked:03b}");
    }
}

#[test]
fn a_server_that_does_not_know_it_is_offered_classic_ecn_only() {
    let mut t = Harness::new();
    t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().with(ASK));
    t.expect(syn_ack().with(Flags::ECE));
}

#[test]
fn accurate_ecn_is_asked_for_twice_and_then_not_any_more() {
    // Section 3.1.4.1.
    let mut t = accurate();
    let id = t.connect_with(SocketOptions::default());
    t.expect(syn().with(ASK));
    t.expect_after(Duration::from_secs(1), syn().with(ASK));
    t.expect_after(Duration::from_secs(2), syn());
    // A client may send ECN-capable packets even if it sent a plain SYN.
    t.inject(syn_ack().with(ace(0b010)));
    t.expect(seg().with(ace(0b010)));
    t.send(id, "x");
    assert_eq!(t.expect(seg().data("x").with(ace(5))).ecn, ECT0);
}

#[test]
fn a_syn_ack_that_is_lost_is_sent_without_option_and_then_plain() {
    // Sections 3.2.3.2.2 and 3.1.5.
    let mut t = accurate();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().with(ASK));
    assert!(t.expect(syn_ack().with(ace(0b010))).options.accurate_ecn.is_some());
    t.advance(Duration::from_millis(1100));
    assert!(t.expect(syn_ack().with(ace(0b010))).options.accurate_ecn.is_none());
    t.advance(Duration::from_millis(2100));
    assert!(t.expect(syn_ack()).options.accurate_ecn.is_none());
    t.inject(seg().with(ace(0b010)));
    let id = t.accept(listener).unwrap().0;
    t.inject(seg().data("marked").ecn(CE).with(ace(5)));
    t.expect(seg().ack(7).with(ace(6)));
    t.send(id, "x");
    assert_eq!((t.expect(seg().ack(7).data("x").with(ace(6))).ecn, info(&t, id).ecn), (0, EcnMode::Accurate));
}

#[test]
fn a_plain_syn_after_one_that_asked_keeps_the_mode_but_forbids_ecn_capable_packets() {
    // Section 3.1.5.
    let mut t = accurate();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().with(ASK));
    t.expect(syn_ack().with(ace(0b010)));
    t.inject(syn().ecn(CE));
    assert!(t.expect(syn_ack().with(ace(0b110))).options.accurate_ecn.is_none());
    t.inject(seg().with(ace(0b010)));
    let id = t.accept(listener).unwrap().0;
    t.send(id, "x");
    assert_eq!((t.expect(seg().data("x").with(ace(5))).ecn, info(&t, id).ecn), (0, EcnMode::Accurate));
}

#[test]
fn both_kinds_of_request_in_one_handshake_end_it() {
    // Section 3.1.5.
    for (first, second) in [(ASK, CLASSIC), (CLASSIC, ASK)] {
        let mut t = accurate();
        t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
        t.inject(syn().with(first));
        t.wire.sent.clear();
        t.inject(syn().with(second));
        assert!(t.wire.sent.pop_front().unwrap().flags.contains(Flags::RST));
        t.expect_clean();
    }
}

#[test]
fn a_simultaneous_open_has_the_mode_of_both_syns() {
    let mut t = accurate();
    let id = t.connect_with(SocketOptions::default());
    t.expect(syn().with(ASK));
    t.inject(syn().with(ASK));
    t.expect(syn_ack().with(ace(0b010)));
    t.inject(syn_ack().with(ace(0b010)));
    t.wire.sent.clear();
    t.send(id, "x");
    assert_eq!(t.expect(seg().data("x").with(ace(5))).ecn, ECT0);
}

#[test]
fn a_syn_cookie_needs_no_memory_of_it() {
    // Section 3.2.2.1, note 3.
    for (answer, mode) in [(0b010, EcnMode::Accurate), (0b000, EcnMode::Off)] {
        let ecn = EcnConfig::ACCURATE;
        let mut t = Harness::with(TcpConfig { ecn, syn_queue_max: 1, ..TcpConfig::default() });
        let listener = t.tcp.listen(t.local, 1, SocketOptions::default()).unwrap();
        t.inject(syn().port(1));
        t.expect(syn_ack().port(1));
        t.inject(syn().with(ASK).ecn(CE));
        t.expect(syn_ack().with(ace(0b110)));
        t.inject(seg().with(ace(answer)));
        let id = t.accept(listener).unwrap().0;
        assert_eq!(info(&t, id).ecn, mode);
    }
}

// ---- section 3.2.2.1: the ACK of the SYN-ACK

#[test]
fn the_ack_of_a_syn_ack_tells_how_that_arrived_even_if_data_waits() {
    for (ecn, answer, counter) in [(0, 0b010, 5), (1, 0b011, 5), (2, 0b100, 5), (3, 0b110, 6)] {
        let mut t = accurate();
        let id = t.connect_with(SocketOptions::default());
        t.send(id, "request");
        t.expect(syn().with(ASK));
        t.inject(syn_ack().with(ace(0b010)).ecn(ecn));
        t.expect(seg().with(ace(answer)));
        t.expect(seg().data("request").with(ace(counter)));
        // The server did not get it and asks again.
        t.inject(syn_ack().with(ace(0b010)).ecn(CE));
        t.expect(seg().seq(8).with(ace(0b110)));
        // Marked SYN-ACKs count once however many there are.
        t.inject(seg().ack(8).data("answer").with(ace(5)));
        t.expect(seg().seq(8).ack(7).with(ace(6)));
    }
}

#[test]
fn what_the_ack_of_our_syn_ack_tells_follows_table_4() {
    for (answer, may_send, reductions) in [
        (0b000, false, 0),
        (0b001, true, 0),
        (0b010, true, 0),
        (0b011, false, 0),
        (0b100, false, 0),
        (0b101, true, 0),
        (0b110, false, 1),
        (0b111, true, 0),
    ] {
        let mut t = accurate();
        let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
        t.inject(syn().mss(1000).with(ASK));
        t.wire.sent.clear();
        t.inject(seg().with(ace(answer)));
        let id = t.accept(listener).unwrap().0;
        t.send(id, pattern(1, 1000));
        let sent = t.wire.sent.pop_front().unwrap();
        assert_eq!(sent.ecn, if may_send { ECT0 } else { 0 }, "{answer:03b}");
        assert_eq!(t.counters.tcp_ecn_reductions, reductions, "{answer:03b}");
        // What comes later is a counter again; from a peer that does not take part it says nothing (note 1).
        let counter = if answer == 0b110 { 7 } else { 6 };
        t.inject(seg().ack(1001).with(ace(counter)));
        // The marked SYN-ACK counts, too.
        let delivered = u32::from(answer != 0) + u32::from(answer == 0b110);
        assert_eq!(info(&t, id).delivered_ce, delivered, "{answer:03b}");
    }
}

// ---- sections 3.2.2 and 3.2.3: a transfer

#[test]
fn the_receiver_tells_marked_packets_and_bytes_at_once() {
    let (mut t, id) = accepted();
    for n in 0..20 {
        t.inject(seg().seq(1 + 1000 * n).stream(1000).ecn(ECT0).with(ace(5)));
    }
    let last = t.wire.sent.pop_back().unwrap();
    assert_eq!((last.flags & ASK, last.options.accurate_ecn), (ace(5), option(&[20_001])));
    t.wire.sent.clear();
    t.advance(Duration::from_secs(1));
    t.wire.sent.clear();
    t.inject(seg().seq(20_001).stream(1000).ecn(CE).with(ace(5)));
    let ack = t.expect(seg().ack(21_001).with(ace(6)));
    assert_eq!(ack.options.accurate_ecn, option(&[20_001, 1000]));
    assert_eq!((info(&t, id).received_ce, info(&t, id).ecn_seen), (1, true));
    // No CWR ends it: the counter stands (section 3.1.5).
    t.inject(seg().seq(21_001).stream(1000).ecn(ECT0).with(ace(5)));
    t.advance(Duration::from_secs(1));
    assert_eq!(t.expect(seg().ack(22_001).with(ace(6))).options.accurate_ecn, option(&[21_001, 1000]));
}

#[test]
fn two_sack_blocks_go_before_the_option() {
    // Section 3.2.3.3: with timestamps there is room for two blocks and two counters.
    let mut t = accurate();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1000).sack_ok().ts(1, 0).with(ASK));
    let val = t.expect(syn_ack().with(ace(0b010))).options.timestamps.unwrap().val;
    t.inject(seg().ts(1, val).with(ace(0b010)));
    t.accept(listener).unwrap();
    for n in [1, 3, 5] {
        t.inject(
            seg().ts(2, val).seq(1 + 1000 * n).stream(1000).ecn(if n == 3 { CE } else { ECT0 }).with(ace(5)),
        );
    }
    let acks: Vec<_> = t.wire.sent.drain(..).collect();
    assert_eq!(acks.len(), 3);
    assert_eq!(acks[1].options.accurate_ecn, option(&[1001, 1000]));
    assert_eq!(acks[1].blocks(), [(3001, 4001), (1001, 2001)]);
    assert_eq!(acks[2].options.accurate_ecn, option(&[2001, 1000]));
    assert_eq!(acks[2].blocks(), [(5001, 6001), (3001, 4001)]);
}

#[test]
fn marks_reduce_the_window_once_a_window_of_data_and_nothing_says_so() {
    let (mut t, id) = connected();
    t.inject(told(seg().with(ace(5)), &[1, 0, 1]));
    t.send(id, pattern(1, 60_000));
    assert!(t.wire.sent.iter().all(|sent| sent.ecn == ECT0 && sent.flags & ASK == ace(5)));
    t.wire.sent.clear();
    t.advance(Duration::from_millis(100));
    t.wire.sent.clear();
    for n in 1..=10u32 {
        let counter = 5 + n as u16;
        t.inject(told(seg().ack(1 + 1000 * n).with(ace(counter & 7)), &[1, 1000 * n]));
    }
    let after = info(&t, id);
    assert_eq!((after.ca_state, t.counters.tcp_ecn_reductions), ("cwr", 1));
    assert_eq!((after.delivered_ce, after.delivered_ce_bytes, after.snd_cwnd), (10, 10_000, 7));
    assert!(t.wire.sent.iter().all(|sent| sent.flags & ASK == ace(5)), "no CWR");
    assert_eq!(after.total_retrans, 0);
}

#[test]
fn an_ack_that_a_later_one_superseded_winds_no_counter_back() {
    let (mut t, id) = connected();
    t.send(id, pattern(1, 4000));
    t.wire.sent.clear();
    t.inject(seg().ack(4001).with(ace(7)));
    assert_eq!(info(&t, id).delivered_ce, 2);
    t.inject(seg().ack(2001).with(ace(6)));
    assert_eq!(info(&t, id).delivered_ce, 2);
}

#[test]
fn options_whose_first_counters_are_zero_are_not_read() {
    // Section 3.2.3.2.4.
    let mut t = accurate();
    let id = t.connect_with(SocketOptions::default());
    t.inject(told(syn_ack().mss(1000).with(ace(0b010)), &[0, 0, 0]));
    t.send(id, pattern(1, 1000));
    t.inject(told(seg().ack(1001).with(ace(5)), &[1, 1000]));
    assert_eq!((info(&t, id).delivered_ce_bytes, info(&t, id).ca_state), (0, "open"));
}

#[test]
fn marked_bytes_without_a_marked_packet_end_ecn_capable_packets() {
    // Section 3.2.3.2.5.
    let (mut t, id) = connected();
    t.send(id, "first");
    assert_eq!(t.expect(seg().data("first").with(ace(5))).ecn, ECT0);
    t.inject(told(seg().ack(6).with(ace(5)), &[1, 5]));
    t.send(id, "second");
    assert_eq!(t.expect(seg().seq(6).data("second").with(ace(5))).ecn, 0);
}

#[test]
fn the_first_data_carries_an_option_and_what_follows_its_loss_does_not() {
    // Sections 3.2.3.2.1 and 3.2.3.2.2.
    let (mut t, id) = connected();
    t.send(id, "first");
    assert!(t.expect(seg().data("first").with(ace(5))).options.accurate_ecn.is_some());
    t.advance(Duration::from_millis(3500));
    assert!(t.expect(seg().data("first").with(ace(5))).options.accurate_ecn.is_none());
    t.wire.sent.clear();
    t.inject(seg().ack(6).data("marked").ecn(CE).with(ace(5)));
    assert!(t.expect(seg().seq(6).ack(7).with(ace(6))).options.accurate_ecn.is_none());
}

// ---- settings

/// A listener's connection that follows Linux in what RFC 9768 leaves open; the peer's last ACK has `first` as its option.
fn like_linux(first: Option<AccurateEcn>) -> (Harness, ConnId) {
    let accurate_ecn = AccurateEcnConfig {
        option: AccurateEcnOption::Always,
        control_packets: true,
        ..AccurateEcnConfig::default()
    };
    let ecn = EcnConfig::ACCURATE;
    let mut t = Harness::with(TcpConfig { ecn, accurate_ecn, ..TcpConfig::default() });
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1000).sack_ok().with(ASK));
    t.expect(syn_ack().with(ace(0b010)));
    let mut ack = seg().with(ace(0b010));
    ack.options.accurate_ecn = first;
    t.inject(ack);
    let id = t.accept(listener).unwrap().0;
    (t, id)
}

#[test]
fn an_option_on_every_segment_makes_full_ones_shorter() {
    let (mut t, id) = like_linux(option(&[1, 0, 1]));
    t.send(id, pattern(1, 2000));
    let sent: Vec<_> = t.wire.sent.drain(..).collect();
    let lens: Vec<_> = sent.iter().map(|segment| segment.payload.len()).collect();
    assert_eq!(lens, [988, 988, 24]);
    assert!(sent.iter().all(|segment| segment.options.accurate_ecn == whole(1, 0, 1) && segment.ecn == ECT0));
}

#[test]
fn a_peer_that_sends_no_option_gets_none_until_it_does() {
    let (mut t, id) = like_linux(None);
    t.send(id, pattern(1, 1000));
    let sent = t.wire.sent.pop_front().unwrap();
    assert_eq!((sent.payload.len(), sent.options.accurate_ecn), (1000, None));
    t.inject(told(seg().ack(1001).with(ace(5)), &[1001, 0, 1]));
    t.send(id, pattern(1001, 988));
    let sent = t.wire.sent.pop_front().unwrap();
    assert_eq!((sent.payload.len(), sent.options.accurate_ecn), (988, whole(1, 0, 1)));
}

#[test]
fn acks_and_what_is_sent_again_are_ecn_capable_on_request() {
    let (mut t, id) = like_linux(option(&[1, 0, 1]));
    t.inject(seg().stream(500).ecn(ECT0).with(ace(5)));
    assert_eq!(t.wire.sent.pop_front().unwrap().ecn, ECT0);
    t.send(id, "x");
    t.wire.sent.clear();
    t.advance(Duration::from_secs(3));
    assert!(t.wire.sent.iter().any(|segment| segment.payload == b"x"));
    assert!(t.wire.sent.iter().all(|segment| segment.ecn == ECT0));
}

#[test]
fn a_segment_that_comes_a_third_time_ends_the_option() {
    // Section 3.2.3.2.2: ACKs with it seem to get lost.
    let (mut t, _) = like_linux(option(&[1, 0, 1]));
    for carries in [true, true, false] {
        t.inject(seg().stream(500).ecn(ECT0).with(ace(5)));
        assert_eq!(t.wire.sent.pop_front().unwrap().options.accurate_ecn.is_some(), carries);
    }
}

#[test]
fn no_option_at_all_is_sent_where_it_is_turned_off() {
    let accurate_ecn = AccurateEcnConfig { option: AccurateEcnOption::Never, ..AccurateEcnConfig::default() };
    let ecn = EcnConfig::ACCURATE;
    let mut t = Harness::with(TcpConfig { ecn, accurate_ecn, ..TcpConfig::default() });
    t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1000).with(ASK));
    assert_eq!(t.expect(syn_ack().with(ace(0b010))).options.accurate_ecn, None);
    t.inject(told(seg().with(ace(0b010)), &[1, 0, 1]));
    t.inject(seg().stream(500).ecn(CE).with(ace(5)));
    assert_eq!(t.expect(seg().ack(501).with(ace(6))).options.accurate_ecn, None);
}
