//! The Diffserv field and the TTL of what is sent (RFC 9293 sections 3.9.1.9 and 3.9.2): in every kind of segment, whoever
//! sends it for whom.

use super::super::header::Flags;
use super::super::testing::*;
use super::super::*;

/// Expedited forwarding, and a TTL that no router lowered (RFC 5082).
const CHOSEN: IpFields = IpFields { tos: 0xb8, hop_limit: 255 };

fn chosen() -> SocketOptions {
    SocketOptions { ip: CHOSEN, ..SocketOptions::default() }
}

#[test]
fn an_active_open_has_them_from_the_syn_to_the_last_ack() {
    // RFC 9293 section 3.9.1.9, MUST-48; RFC 9293 section 3.9.2, MUST-49.
    let mut t = Harness::new();
    let id = t.connect_with(chosen());
    assert_eq!(t.expect(syn()).ip, CHOSEN);
    t.inject(syn_ack().mss(1000));
    assert_eq!(t.expect(seg()).ip, CHOSEN);
    t.send(id, "data");
    assert_eq!(t.expect(seg().data("data")).ip, CHOSEN);
    t.inject(seg().ack(5));
    t.close(id);
    assert_eq!(t.expect(fin().seq(5)).ip, CHOSEN);
    t.inject(fin().ack(6));
    assert_eq!(t.expect(seg().seq(6).ack(2)).ip, CHOSEN);
    // TIME-WAIT answers the FIN that comes again.
    t.inject(fin().ack(6));
    assert_eq!(t.expect(seg().seq(6).ack(2)).ip, CHOSEN);
}

#[test]
fn a_listeners_are_in_its_syn_acks_and_inherited() {
    // RFC 9293 section 3.9.1.9, MUST-48.
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 16, chosen()).unwrap();
    t.inject(syn());
    assert_eq!(t.expect(syn_ack()).ip, CHOSEN);
    // The half-open connection's answer to a segment outside its window.
    t.inject(seg().seq(200_000));
    assert_eq!(t.expect(seg()).ip, CHOSEN);
    t.inject(seg());
    let (id, _) = t.accept(listener).unwrap();
    assert_eq!(t.tcp.options(id).unwrap().ip, CHOSEN);
    t.tcp.abort(t.now, id);
    t.transmit();
    assert_eq!(t.expect(rst().with(Flags::ACK).ack(1)).ip, CHOSEN);
}

#[test]
fn a_syn_cookie_has_the_listeners() {
    let mut t = Harness::with(TcpConfig { syn_queue_max: 1, ..TcpConfig::default() });
    t.tcp.listen(t.local, 1, chosen()).unwrap();
    t.inject_burst([syn().port(1), syn().port(2)]);
    let sent = [t.wire.sent.pop_front().unwrap(), t.wire.sent.pop_front().unwrap()];
    assert_eq!((t.counters.tcp_syn_cookies_tx, sent.map(|sent| sent.ip)), (1, [CHOSEN; 2]));
}

#[test]
fn they_can_change_meanwhile() {
    // RFC 9293 section 3.9.1.9, SHLD-21.
    let mut t = Harness::new();
    let id = t.established();
    t.send(id, "one");
    assert_eq!(t.expect(seg().data("one")).ip, IpFields { tos: 0, hop_limit: 64 });
    t.inject(seg().ack(4));
    t.set(id, |options| options.ip = CHOSEN);
    t.send(id, "two");
    assert_eq!(t.expect(seg().seq(4).data("two")).ip, CHOSEN);
}

#[test]
fn a_reset_of_nobodys_segment_has_the_segments_diffserv_field() {
    // As Linux's: the RST goes the way of what it answers.
    let mut t = Harness::new();
    t.inject(seg().dscp(46).ecn(3));
    let ip = t.expect(rst().seq(1)).ip;
    assert_eq!((ip.traffic_class(0), ip.hop_limit), (0xb8, 64));
}

#[test]
fn a_hop_limit_of_0_is_refused() {
    let mut t = Harness::new();
    let options = SocketOptions { ip: IpFields { tos: 0, hop_limit: 0 }, ..SocketOptions::default() };
    assert_eq!(t.tcp.listen(t.local, 1, options.clone()), Err(TcpError::InvalidInput));
    assert_eq!(t.tcp.connect(t.now, t.local, t.remote, options), Err(TcpError::InvalidInput));
}

#[test]
fn the_ecn_bits_stay_the_stacks() {
    // RFC 9293 section 3.9.1.9, SHLD-22; RFC 3168 section 5.
    let ip = IpFields { tos: 0xff, hop_limit: 64 };
    assert_eq!((ip.traffic_class(0), ip.traffic_class(2)), (0xfc, 0xfe));
}
