//! Paths that carry less than the link and say nothing (RFC 4821): falling back, searching, losses of probes; and those of
//! which the egress knows, or ICMP told (RFC 1191, RFC 8201).

use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

/// A transfer over a path with a round trip of 40 ms that silently drops IP packets longer than `carries`.
struct Path {
    t: Harness,
    id: ConnId,
    carries: usize,
    /// In order at the peer, relative.
    next: u32,
    ahead: std::collections::BTreeMap<u32, u32>,
    /// Largest IP packet that arrived.
    largest: usize,
}

impl Path {
    fn new(config: TcpConfig, carries: usize) -> Self {
        let mut t = Harness::with(config);
        let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
        t.inject(syn().mss(1460).sack_ok());
        t.expect(syn_ack());
        t.advance(40 * MS);
        t.inject(seg());
        let id = t.accept(listener).unwrap().0;
        Self { t, id, carries, next: 1, ahead: Default::default(), largest: 0 }
    }

    /// Takes what is on the wire, and answers a round trip later.
    fn round(&mut self) {
        let arrived: Vec<Sent> = self.t.wire.sent.drain(..).collect();
        self.t.advance(40 * MS);
        for sent in arrived {
            let ip_len = 40 + sent.payload.len();
            if ip_len > self.carries || sent.payload.is_empty() {
                continue;
            }
            self.largest = self.largest.max(ip_len);
            assert!(sent.payload == pattern(sent.seq, sent.payload.len()), "the stream");
            self.ahead.insert(sent.seq, sent.seq + sent.payload.len() as u32);
            while let Some((&from, &to)) =
                self.ahead.first_key_value().filter(|(from, _)| **from <= self.next)
            {
                self.ahead.remove(&from);
                self.next = self.next.max(to);
            }
            let mut blocks: Vec<(u32, u32)> = Vec::new();
            for (&from, &to) in &self.ahead {
                match blocks.last_mut().filter(|(_, end)| *end >= from) {
                    Some((_, end)) => *end = (*end).max(to),
                    None => blocks.push((from, to)),
                }
            }
            blocks.truncate(3);
            self.t.inject(seg().ack(self.next).sack(&blocks));
        }
    }

    /// Sends until the peer has `len` bytes; the time it took.
    fn transfer(&mut self, len: u32, within: Duration) -> Duration {
        let (start, first) = (self.t.now, self.next);
        let mut written = first;
        while self.next < first + len {
            assert!(self.t.now < start + within, "{} of {len} bytes after {within:?}", self.next - first);
            let wanted = (first + len - written).min(200_000);
            let bytes = pattern(written, wanted as usize);
            if let core::task::Poll::Ready(taken) =
                self.t.tcp.poll_send(self.t.now, self.id, &bytes, core::task::Waker::noop())
            {
                written += taken.unwrap() as u32;
            }
            self.t.transmit();
            self.round();
        }
        self.t.now - start
    }

    fn pmtu(&self) -> u32 {
        self.t.tcp.info(self.t.now, self.id).unwrap().pmtu
    }
}

#[test]
fn a_path_that_swallows_full_segments_costs_seconds_and_not_the_connection() {
    // RFC 7323 section 5.7.
    let mut path = Path::new(TcpConfig::default(), 1280);
    let took = path.transfer(100_000, Duration::from_secs(10));
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(path.t.counters.tcp_mtu_black_holes, 1);
    // The search finds what fits, to 8 bytes, without a timeout or a lasting reduction.
    let timeouts = path.t.counters.tcp_timeouts;
    path.transfer(60_000_000, Duration::from_secs(600));
    assert!((1272..=1280).contains(&path.pmtu()), "{}", path.pmtu());
    assert!(path.largest <= 1280 && path.t.counters.tcp_mtu_probes >= 3);
    assert_eq!(path.t.counters.tcp_timeouts, timeouts);
}

#[test]
fn a_path_that_carried_full_segments_is_not_doubted_for_a_short_outage() {
    let mut path = Path::new(TcpConfig::default(), 1500);
    path.transfer(100_000, Duration::from_secs(10));
    path.t.send(path.id, pattern(path.next, 50_000));
    path.t.wire.sent.clear();
    path.t.advance(Duration::from_millis(2500));
    let timeouts = path.t.counters.tcp_timeouts;
    assert!(timeouts >= 3, "{timeouts}");
    assert_eq!((path.pmtu(), path.t.counters.tcp_mtu_black_holes), (1500, 0));
    // One that lasts looks like another path.
    path.t.advance(Duration::from_secs(10));
    assert_eq!((path.pmtu(), path.t.counters.tcp_mtu_black_holes), (1064, 1));
}

#[test]
fn a_search_from_the_start_ends_at_the_link_s_mtu() {
    let config = TcpConfig { mtu_probing: MtuProbing::Always, ..TcpConfig::default() };
    let mut path = Path::new(config, 1500);
    assert_eq!(path.pmtu(), 1064);
    path.transfer(3_000_000, Duration::from_secs(60));
    assert!(path.pmtu() > 1492 && path.pmtu() <= 1500, "{}", path.pmtu());
    assert_eq!((path.t.counters.tcp_retransmits, path.t.counters.tcp_timeouts), (0, 0));
}

#[test]
fn without_probing_nothing_larger_gets_through() {
    let config = TcpConfig { mtu_probing: MtuProbing::Off, ..TcpConfig::default() };
    let mut path = Path::new(config, 1280);
    path.t.send(path.id, pattern(1, 5000));
    (0..500).for_each(|_| path.round());
    assert_eq!((path.next, path.pmtu()), (1, 1500));
}

#[test]
fn small_segments_that_vanish_are_no_sign_of_a_small_path() {
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1460).sack_ok());
    t.send(id, pattern(1, 900));
    t.advance(Duration::from_secs(30));
    assert_eq!((t.tcp.info(t.now, id).unwrap().pmtu, t.counters.tcp_mtu_black_holes), (1500, 0));
}

#[test]
fn a_path_smaller_still_is_halved_down_to_the_least() {
    let mut path = Path::new(TcpConfig::default(), 600);
    path.transfer(50_000, Duration::from_secs(120));
    assert_eq!(path.pmtu(), 552);
}

#[test]
fn what_the_path_is_known_to_carry_limits_segments_and_not_the_mss_option() {
    // RFC 9293 section 3.7.1, MUST-67.
    let mut t = Harness::new();
    t.wire.path_mtu = Some(1300);
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    t.inject(syn().mss(1460));
    assert_eq!(t.expect(syn_ack()).options.mss, Some(1460));
    t.inject(seg());
    let (id, _) = t.accept(listener).unwrap();
    t.send(id, pattern(1, 2000));
    t.expect(seg().stream(1260));
    t.wire.sent.clear();
    let mut t = Harness::new();
    t.wire.path_mtu = Some(1300);
    let id = t.connect_with(SocketOptions::default());
    assert_eq!(t.expect(syn()).options.mss, Some(1460));
    t.inject(syn_ack().mss(1460));
    t.expect(seg());
    t.send(id, pattern(1, 2000));
    t.expect(seg().stream(1260));
}

#[test]
fn what_icmp_told_is_believed_for_ten_minutes() {
    // RFC 1191 section 6.3, RFC 8201 section 4.
    let mut t = Harness::new();
    let id = t.accept_with(SocketOptions::default(), syn().mss(1460));
    t.send(id, pattern(1, 1460));
    t.expect(seg().stream(1460));
    let seq = t.isn(t.remote.port()) + 1;
    let error = |mtu| IcmpError {
        tuple: Tuple { local: t.local, remote: t.remote },
        seq,
        kind: IcmpErrorKind::PacketTooBig { mtu },
    };
    let (told, forged) = (error(1300), IcmpError { seq: seq + 1460, ..error(600) });
    assert_eq!(t.tcp.icmp_error(t.now, &forged, &mut t.counters), IcmpVerdict::Taken);
    assert_eq!(t.tcp.icmp_error(t.now, &told, &mut t.counters), IcmpVerdict::PathMtu(1300));
    t.transmit();
    t.expect(seg().stream(1260));
    t.expect(seg().seq(1261).stream(200));
    t.inject(seg().ack(1461));
    t.advance(limits::PATH_MTU_LIFETIME - Duration::from_secs(1));
    t.send(id, pattern(1461, 1460));
    t.expect(seg().seq(1461).stream(1260));
    t.expect(seg().seq(2721).stream(200));
    t.inject(seg().ack(2921));
    t.advance(Duration::from_secs(1));
    t.send(id, pattern(2921, 1460));
    t.expect(seg().seq(2921).stream(1460));
}
