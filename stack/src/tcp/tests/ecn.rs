//! Explicit congestion notification as RFC 3168 section 6.1 has it: who asks and who agrees, which packets may be
//! marked, what the receiver echoes, what the sender does about it.

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;
use header::Flags;

const RTT: Duration = Duration::from_millis(100);
const ASK: Flags = Flags::CWR.union(Flags::ECE);
const ECT0: u8 = 2;
const CE: u8 = 3;

fn on() -> TcpConfig {
    TcpConfig { ecn: EcnConfig::ON, ..TcpConfig::default() }
}

fn info(t: &Harness, id: ConnId) -> TcpInfo {
    t.tcp.info(t.now, id).unwrap()
}

/// A connection that agreed on ECN when the peer asked, with an RTT of 100 ms.
fn agreed_with(syn: Seg) -> (Harness, ConnId) {
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn.with(ASK));
    t.expect(syn_ack().with(Flags::ECE));
    t.advance(RTT);
    t.inject(seg());
    let id = t.accept(listener).unwrap().0;
    (t, id)
}

fn agreed() -> (Harness, ConnId) {
    agreed_with(syn().mss(1000).sack_ok())
}

/// Its first ten segments, which fill the window, are out.
fn with_flight() -> (Harness, ConnId) {
    let (mut t, id) = agreed();
    t.send(id, pattern(1, 40_000));
    assert_eq!(t.wire.sent.len(), 10);
    t.wire.sent.clear();
    t.advance(RTT);
    t.wire.sent.clear();
    (t, id)
}

/// Relative sequence number of the n-th segment.
fn at(n: u32) -> u32 {
    1 + 1000 * n
}

// ---- section 6.1.1: the handshake

#[test]
fn a_peer_that_asks_is_agreed_with_unless_ecn_is_off() {
    // RFC 9293 section 3.8.2, SHLD-8.
    let (t, id) = agreed();
    assert_eq!(info(&t, id).ecn, EcnMode::Classic);

    let mut t = Harness::with(TcpConfig { ecn: EcnConfig::OFF, ..TcpConfig::default() });
    t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().with(ASK));
    t.expect(syn_ack());

    for flags in [Flags::NONE, Flags::ECE, Flags::CWR] {
        let mut t = Harness::new();
        t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
        t.inject(syn().with(flags));
        t.expect(syn_ack());
    }
}

#[test]
fn our_syn_asks_only_if_configured_and_an_ecn_setup_syn_ack_settles_it() {
    let mut t = Harness::new();
    t.connect_with(SocketOptions::default());
    t.expect(syn());

    let mut t = Harness::with(on());
    let id = t.connect_with(SocketOptions::default());
    assert_eq!(t.expect(syn().with(ASK)).ecn, 0);
    t.inject(syn_ack().with(Flags::ECE));
    assert_eq!(t.expect(seg()).ecn, 0);
    assert_eq!(info(&t, id).ecn, EcnMode::Classic);
    t.send(id, "x");
    assert_eq!(t.expect(seg().data("x")).ecn, ECT0);

    // Sections 6.1.1 and 6.1.1.2: no agreement, and our own flags sent back.
    for answer in [syn_ack(), syn_ack().with(ASK)] {
        let mut t = Harness::with(on());
        let id = t.connect_with(SocketOptions::default());
        t.wire.sent.clear();
        t.inject(answer);
        t.expect(seg());
        assert_eq!(info(&t, id).ecn, EcnMode::Off);
        t.send(id, "x");
        assert_eq!(t.expect(seg().data("x")).ecn, 0);
    }
}

#[test]
fn a_lost_syn_that_asked_is_followed_by_plain_ones_and_then_nothing_is_sent_ecn_capable() {
    // Section 6.1.1.1; the late agreement is one to the first SYN.
    let mut t = Harness::with(on());
    let id = t.connect_with(SocketOptions::default());
    t.expect(syn().with(ASK));
    t.advance(Duration::from_millis(3500));
    t.expect(syn());
    t.expect(syn());
    t.inject(syn_ack().with(Flags::ECE));
    t.expect(seg());
    t.send(id, "x");
    assert_eq!(t.expect(seg().data("x")).ecn, 0);
    // The peer may send ECN-capable packets all the same.
    t.inject(seg().ack(2).data("y").ecn(CE));
    t.expect(seg().seq(2).ack(2).with(Flags::ECE));
}

#[test]
fn a_reset_that_answers_a_syn_that_asked_is_followed_by_one_plain_syn() {
    // Section 6.1.1.1.
    let refusal = || rst().seq(0).ack(1).with(Flags::ACK);
    let mut t = Harness::with(on());
    let id = t.connect_with(SocketOptions::default());
    t.expect(syn().with(ASK));
    t.inject(refusal());
    t.expect(syn());
    t.inject(syn_ack());
    t.expect(seg());
    assert_eq!((t.state(id), info(&t, id).ecn), (State::Established, EcnMode::Off));

    let mut t = Harness::with(on());
    let id = t.connect_with(SocketOptions::default());
    t.expect(syn().with(ASK));
    t.inject(refusal());
    t.expect(syn());
    t.inject(refusal());
    t.expect_nothing();
    assert_eq!((t.state(id), t.end(id)), (State::Closed, Some(Err(TcpError::ConnectionRefused))));
}

#[test]
fn a_client_that_asks_no_more_is_answered_plainly() {
    // Section 6.1.1.1's example.
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().with(ASK));
    t.expect(syn_ack().with(Flags::ECE));
    t.inject(syn());
    t.expect(syn_ack());
    t.inject(seg());
    let id = t.accept(listener).unwrap().0;
    assert_eq!(info(&t, id).ecn, EcnMode::Off);
    t.send(id, "x");
    assert_eq!(t.expect(seg().data("x")).ecn, 0);
}

#[test]
fn both_ends_of_a_simultaneous_open_may_agree() {
    let mut t = Harness::with(on());
    let id = t.connect_with(SocketOptions::default());
    t.expect(syn().with(ASK));
    t.inject(syn().with(ASK));
    t.expect(syn_ack().with(Flags::ECE));
    t.inject(syn_ack().with(Flags::ECE));
    t.wire.sent.clear();
    t.send(id, "x");
    assert_eq!(t.expect(seg().data("x")).ecn, ECT0);
}

#[test]
fn a_syn_cookie_remembers_the_agreement_in_the_timestamp() {
    let mut t = Harness::with(TcpConfig { syn_queue_max: 1, ..TcpConfig::default() });
    let listener = t.tcp.listen(t.local, 1, SocketOptions::default()).unwrap();
    t.inject(syn().port(1));
    t.expect(syn_ack().port(1));
    t.inject(syn().with(ASK));
    t.expect(syn_ack());
    t.inject(syn().with(ASK).ts(500, 0));
    let ours = t.expect(syn_ack().with(Flags::ECE)).options.timestamps.unwrap();
    t.inject(seg().ts(501, ours.val));
    let id = t.accept(listener).unwrap().0;
    assert_eq!(info(&t, id).ecn, EcnMode::Classic);
}

// ---- sections 6.1.1, 6.1.4 to 6.1.6: which packets may be marked

#[test]
fn only_data_that_is_sent_for_the_first_time_is_ecn_capable() {
    let (mut t, id) = agreed();
    t.send(id, "data");
    assert_eq!(t.expect(seg().data("data")).ecn, ECT0);
    t.inject(seg().ack(5).data("pure ACK"));
    assert_eq!(t.expect(seg().seq(5).ack(9)).ecn, 0);
    t.send(id, "lost");
    assert_eq!(t.expect(seg().seq(5).ack(9).data("lost")).ecn, ECT0);
    t.advance(Duration::from_secs(1));
    let again = t.expect(seg().seq(5).ack(9).data("lost"));
    assert_eq!((again.ecn, again.flags.contains(Flags::CWR)), (0, false));
    t.wire.sent.clear();
    t.inject(seg().seq(9).ack(9).window(0));
    t.send(id, "held back");
    t.advance(Duration::from_secs(1));
    assert_eq!(t.expect(seg().seq(8).ack(9)).ecn, 0, "a probe");
    t.recv(id);
    t.close(id);
    t.inject(seg().seq(9).ack(9));
    let last = t.expect(fin().seq(9).ack(9).data("held back").with(Flags::CWR));
    assert_eq!(last.ecn, ECT0, "data with a FIN, and CWR for the timeout's reduction");
}

// ---- section 6.1.3: the receiver

#[test]
fn a_mark_is_echoed_at_once_and_on_every_ack_until_the_peer_reduced_its_window() {
    let (mut t, id) = agreed();
    t.tcp.set_options(t.now, id, SocketOptions::default()).unwrap();
    // Past the ACKs that are not delayed anyway.
    for n in 0..20 {
        t.inject(seg().seq(at(n)).stream(1000).ecn(ECT0));
    }
    assert!(t.wire.sent.iter().all(|sent| !sent.flags.contains(Flags::ECE)));
    t.advance(RTT);
    t.wire.sent.clear();
    assert!(info(&t, id).ecn_seen);
    t.inject(seg().seq(at(20)).stream(1000).ecn(CE));
    t.expect(seg().ack(at(21)).with(Flags::ECE));
    t.inject_burst((21..23).map(|n| seg().seq(at(n)).stream(1000).ecn(ECT0)));
    t.expect(seg().ack(at(23)).with(Flags::ECE));
    t.send(id, "data");
    t.expect(seg().ack(at(23)).data("data").with(Flags::ECE));
    t.inject(seg().seq(at(23)).ack(5).stream(1000).ecn(ECT0).with(Flags::CWR));
    t.expect(seg().seq(5).ack(at(24)));
    t.inject(seg().seq(at(24)).ack(5).stream(1000).ecn(CE).with(Flags::CWR));
    t.expect(seg().seq(5).ack(at(25)).with(Flags::ECE));
}

#[test]
fn marks_on_pure_acks_and_outside_the_window_are_ignored() {
    // Sections 6.1.4 and 6.1.5.
    let (mut t, id) = agreed();
    t.inject(seg().ecn(CE));
    t.inject(seg().data("data").ecn(ECT0));
    t.expect(seg().ack(5));
    t.inject(seg().data("data").ecn(CE));
    t.expect(seg().ack(5));
    t.send(id, "x");
    t.expect(seg().ack(5).data("x"));
}

#[test]
fn without_agreement_marks_say_nothing() {
    let mut t = Harness::new();
    let id = t.established();
    t.inject(seg().data("data").ecn(CE));
    t.expect(seg().ack(5));
    t.send(id, "x");
    assert_eq!(t.expect(seg().ack(5).data("x")).ecn, 0);
    t.inject(seg().seq(5).ack(2).with(Flags::ECE));
    assert_eq!((info(&t, id).ca_state, info(&t, id).snd_cwnd, info(&t, id).ecn_seen), ("open", 10, false));
}

// ---- section 6.1.2: the sender

#[test]
fn an_echo_reduces_the_window_once_a_window_of_data_and_the_next_new_data_says_so() {
    let (mut t, id) = agreed();
    t.send(id, pattern(1, 60_000));
    t.wire.sent.clear();
    t.advance(RTT);
    assert_eq!(info(&t, id).snd_cwnd, 10);
    for n in 1..=10 {
        t.inject(seg().ack(at(n)).with(Flags::ECE));
        assert_eq!(info(&t, id).ca_state, "cwr", "ACK {n}");
    }
    // Proportional rate reduction lets out seven for ten; only the first says that the window is reduced.
    let sent: Vec<_> = t.wire.sent.drain(..).collect();
    assert_eq!(sent.len(), 7);
    assert!(sent.iter().all(|sent| sent.ecn == ECT0));
    let told: Vec<_> = sent.iter().map(|sent| sent.flags.contains(Flags::CWR)).collect();
    assert_eq!(told, [true, false, false, false, false, false, false]);
    assert_eq!((info(&t, id).snd_cwnd, info(&t, id).snd_ssthresh), (7, 7));
    assert_eq!((t.counters.tcp_ecn_reductions, t.counters.tcp_ecn_echoes), (1, 10));
    assert_eq!(info(&t, id).delivered_ce, 10);

    t.advance(RTT);
    t.wire.sent.clear();
    // The echo ended: so does the reduction. Another one asks for another.
    t.inject(seg().ack(at(11)));
    assert_eq!((info(&t, id).ca_state, t.counters.tcp_ecn_reductions), ("open", 1));
    t.inject(seg().ack(at(12)).with(Flags::ECE));
    assert_eq!((info(&t, id).ca_state, t.counters.tcp_ecn_reductions), ("cwr", 2));
    assert_eq!(info(&t, id).total_retrans, 0);
}

#[test]
fn a_loss_in_the_same_window_is_repaired_without_another_reduction() {
    let (mut t, id) = agreed();
    t.send(id, pattern(1, 60_000));
    t.advance(RTT);
    t.inject(seg().ack(at(1)).with(Flags::ECE));
    let ssthresh = info(&t, id).snd_ssthresh;
    t.wire.sent.clear();
    for n in 3..=6 {
        t.inject(seg().ack(at(1)).sack(&[(at(2), at(n))]).with(Flags::ECE));
    }
    assert_eq!((info(&t, id).ca_state, info(&t, id).snd_ssthresh), ("recovery", ssthresh));
    let again = t.wire.sent.iter().find(|sent| sent.seq == at(1)).expect("sent again");
    assert_eq!((again.ecn, again.flags.contains(Flags::CWR)), (0, false));
}

#[test]
fn an_echo_during_recovery_asks_for_no_further_reduction() {
    let (mut t, id) = agreed();
    t.send(id, pattern(1, 60_000));
    t.advance(RTT);
    for n in 2..=5 {
        t.inject(seg().ack(at(0)).sack(&[(at(1), at(n))]));
    }
    assert_eq!(info(&t, id).ca_state, "recovery");
    let ssthresh = info(&t, id).snd_ssthresh;
    // Fast recovery's reduction is told to the peer as well (section 6.1.2).
    let told = t.wire.sent.iter().filter(|sent| sent.flags.contains(Flags::CWR)).count();
    assert!(told <= 1);
    for n in 6..=10 {
        t.inject(seg().ack(at(0)).sack(&[(at(1), at(n))]).with(Flags::ECE));
    }
    t.inject(seg().ack(at(10)).with(Flags::ECE));
    let told = t.wire.sent.iter().filter(|sent| sent.flags.contains(Flags::CWR)).count();
    assert_eq!((told, info(&t, id).snd_ssthresh, t.counters.tcp_ecn_reductions), (1, ssthresh, 0));
}

#[test]
fn marks_keep_a_timeout_that_was_a_mistake_from_being_taken_back() {
    for (flags, cwnd) in [(Flags::NONE, 10), (Flags::ECE, 7)] {
        let (mut t, id) = with_flight();
        t.advance(Duration::from_secs(1));
        assert_eq!(info(&t, id).ca_state, "loss");
        // RFC 5682 section 2.1: the originals arrive after all.
        for n in 1..=3 {
            t.inject(seg().ack(at(n)).with(flags));
        }
        let after = info(&t, id);
        assert_eq!(after.ca_state != "loss", true, "{flags:?}");
        assert_eq!(after.snd_cwnd >= cwnd, flags == Flags::NONE, "{flags:?}: {after:?}");
    }
}

#[test]
fn a_timeout_is_told_with_the_next_new_data() {
    let (mut t, id) = with_flight();
    t.advance(Duration::from_secs(1));
    t.wire.sent.clear();
    t.inject(seg().ack(at(1)));
    let sent: Vec<_> = t.wire.sent.drain(..).map(|sent| sent.flags.contains(Flags::CWR)).collect();
    assert!(sent[0] && sent[1..].iter().all(|told| !told), "{sent:?}");
    assert_eq!(info(&t, id).ecn, EcnMode::Classic);
}
